"""Words with fastai's markers, and the vocabulary files of fastai. Run me: pytest tests/test_words.py"""

import os
import pickle
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minift
from minift import tokenizers
from minift.tokenizers import words
from minift.tokenizers.training import train_words
from minift.tokenizers.words import SPECIAL, Words

PLAIN = "the so good love it do n't 's i 'd ! . , - \" 3 4 1 2 cat well known said -- ( ) xxfake".split()  # noqa: SIM905
ITOS = [*SPECIAL, *PLAIN, "\n\n", "\n"]


def cut(text, **how):
    return " ".join(Words(ITOS, **how).cut(text))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("I'd LOVE it!!! So so so good.", "xxmaj i 'd xxup love it xxrep 3 ! xxmaj so so so good ."),
        ("so so so so so, good", "xxwrep 5 so , good"),
        (
            "Don't, won't, can't, it's, John’s, cannot, gonna",
            "xxmaj do n't , wo n't , ca n't , it 's , xxmaj john ’s ,",
        ),
        (
            "o'clock U.S.A. J. R. e.g. 1,250.50 10:30pm 3rd",
            "o'clock xxup u.s.a . xxup j. xxup r. e.g. 1,250.50 10:30pm",
        ),
        ("well-known -- he said--no", "well - known -- he said -- no"),
        ("one  two   three\n\nfour \n five", "one two three \n\n four \n▁ five"),
        ("a/b #tag &amp; x<br />y <unk>", "a / b # tag & x \n y xxunk"),
        ("A cat, I and EU; eBay NASA's", "a cat , i and xxup eu ; ebay nasa 's"),
        ("wow..... (yes)", "wow … .. ( yes )"),
    ],
)
def test_a_text_is_cut_by_fastais_rules(text, tokens):
    assert cut(text).startswith(tokens)


def holding(text):
    """Words that know every word of the text."""
    return Words([*SPECIAL, *(word for word in dict.fromkeys(Words(ITOS).cut(text)) if word not in SPECIAL)])


def test_without_markers_there_are_only_words():
    assert cut("I'd LOVE it!!!\n\nSo so so", markers=False) == "i 'd love it ! ! ! so so so"
    assert cut("I'd LOVE it", markers=False, lower=False) == "I 'd LOVE it"


def test_a_text_begins_with_xxbos_and_a_pair_has_its_fields():
    w = Words(ITOS)
    assert w.tokens(w.encode("The cat")) == ["xxbos", "xxmaj", "the", "cat"]
    assert w.tokens(w.encode("cat", "so good")) == ["xxbos", "xxfld", "1", "cat", "xxfld", "2", "so", "good"]
    assert w.tokens(w.encode("")) == ["xxbos"]
    assert w.tokens(w.encode("so good cat", max_length=3)) == ["xxbos", "so", "good"]
    assert w.tokens(w.encode("so good cat it", "the", max_length=8)) == [
        "xxbos",
        "xxfld",
        "1",
        "so",
        "good",
        "xxfld",
        "2",
        "the",
    ]
    plain = Words(ITOS, markers=False)
    assert plain.tokens(plain.encode("The cat", "so")) == ["the", "cat", "so"] and plain.bos is None
    with pytest.raises(minift.Error, match="no room"):
        w.encode("a", max_length=0)


@pytest.mark.parametrize("name", [*SPECIAL, "xxfake"])
def test_special_tokens_typed_in_a_text_are_words(name):
    w = Words(ITOS)
    assert w.encode(f"so {name} good") == [w.bos, *(ITOS.index("so"), w.unk, ITOS.index("good"))]


@given(st.text())
def test_any_text_is_encoded_and_decoded_and_its_markers_come_from_the_rules(text):
    w = Words(ITOS)
    ids = w.encode(text)
    assert all(0 <= id < w.vocab_size for id in ids) and ids[0] == w.bos and w.bos not in ids[1:]
    assert isinstance(w.decode(ids), str) and w.pad not in ids
    for character in range(0xFDD0, 0xFDF0):
        assert w.encode(chr(character)) == [w.bos, w.unk]


@given(st.text(alphabet="aA b\n'.t!"))
def test_what_is_between_spaces_is_cut_alone(text):
    """The rule that allows remembering it."""
    found = words.TOKEN.findall(text)
    parts = [t for part in re.findall(r"\S+|\s+", text) for t in (words.TOKEN.findall(part))]
    assert [t for t in found if not t.isspace()] == [t for t in parts if not t.isspace()]


@pytest.mark.parametrize(
    "text",
    [
        "I'd LOVE it!!! So good.",
        '"do it," said the cat. "so so so so!"',
        "The cat--no: the well-known cat, said (so) it's good.",
        "So good.\n\nSo good.",
        "the the the the cat",
    ],
)
def test_english_comes_back_as_it_was(text):
    w = holding(text)
    assert w.decode(w.encode(text), skip_special=True) == text


def test_what_decoding_cannot_know_it_writes_as_most_texts_do():
    text = 'A cat - "Why?" -- ( so )\n good'
    assert holding(text).decode(holding(text).encode(text)) == 'xxbos a cat-"why?"--(so)\n good'


def test_decoding_grows_at_its_end_alone():
    """generate cuts the prompt off by its length."""
    text = '"So," he said-- "no!!! (it\'s)"\n\nWell, I do. The the the the end.'
    w, ids = holding(text), holding(text).encode(text)
    whole = w.decode(ids)
    for n in range(len(ids)):
        assert whole.startswith(w.decode(ids[:n]))


def test_a_vocabulary_is_saved_whole_and_found_again(tmp_path):
    for how in {}, {"markers": False}, {"markers": False, "lower": False}:
        w = Words(ITOS, **how)
        folder = tmp_path / str(how)[:20].replace(":", "")
        w.save(folder)
        again = tokenizers.load(folder)
        text = "The cat, SO good!!!\n\nxxbos"
        assert type(again) is Words and again.encode(text) == w.encode(text) and again.itos == ITOS
        again.save(folder / "again")
        assert (folder / "again" / "words.json").read_bytes() == (folder / "words.json").read_bytes()


@pytest.mark.parametrize(
    ("itos", "message"),
    [
        (["xxunk", "the"], "no xxpad among its 2 words"),
        ([*SPECIAL, "the", "the"], "'the' has the ids 9 and 10"),
        ([*SPECIAL, 7], "7 is a int; a vocabulary is a list of words"),
        ([*SPECIAL, None], "None is a NoneType"),
    ],
)
def test_a_vocabulary_that_is_none_is_told_of(itos, message):
    with pytest.raises(minift.Error, match=re.escape(message)):
        Words(itos)
    assert Words([*SPECIAL, "xxfake", "xxfake"]).vocab_size == 11


@pytest.mark.parametrize("text", ["[]", '{"itos": 3}', "{", '{"itos": ["a"]}'])
def test_a_file_that_holds_no_words_is_told_of_by_name(text, tmp_path):
    (tmp_path / "words.json").write_text(text)
    with pytest.raises(minift.Error, match=r"words\.json"):
        tokenizers.load(tmp_path)


def test_training_takes_the_most_frequent_words_and_of_equals_the_first_in_the_alphabet(tmp_path):
    texts = ["The cat, the dog. the end xxbos xxbos xxbos", "a b a b c zebra\n<|endoftext|>\nzebra"]
    w = train_words(texts, 14, tmp_path)
    assert w.itos == [*SPECIAL, "the", "a", "b", "zebra"]  # "," and "." come once
    assert train_words(texts, 12, tmp_path / "small", min_count=1).itos == [*SPECIAL, "the", "a", "b"]
    assert train_words(texts, 5, tmp_path / "plain", markers=False).itos == ["xxunk", "xxpad", "the", "a", "b"]
    with pytest.raises(minift.Error, match="is there already"):
        train_words(texts, 14, tmp_path)
    with pytest.raises(minift.Error, match="size=9 is too small"):
        train_words(texts, 9, tmp_path / "none")


# -- fastai's pickles -------------------------------------------------------------------------------------------------


class Evil:
    """What a pickle can do."""

    def __reduce__(self):
        return os.system, ("touch /tmp/minift-was-here",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("form", ["words", "words and labels", "tuple"])
def test_a_pickled_vocabulary_is_read(form, protocol, tmp_path):
    itos = [*ITOS, *(f"word{i}" for i in range(2000)), "é…\u2028"]
    value = {"words": itos, "words and labels": [itos, ["neg", "pos"]], "tuple": (itos, ["neg", "pos"])}[form]
    (tmp_path / "itos_wt103.pkl").write_bytes(pickle.dumps(value, protocol))
    w = tokenizers.load(tmp_path)
    assert w.itos == itos and words.labels(tmp_path) == (None if form == "words" else ["neg", "pos"])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [Evil(), [Evil()], [*ITOS, Evil()], [ITOS, Evil()], Counter(ITOS), {"a": 1}, {*ITOS}, [b"the"], [1.5], None],
    ids=lambda value: type(value).__name__,
)
def test_a_pickle_that_does_more_is_refused_and_not_run(value, protocol, tmp_path):
    (tmp_path / "itos.pkl").write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(minift.Error, match=r"itos\.pkl"):
        tokenizers.load(tmp_path)
    assert not os.path.exists("/tmp/minift-was-here")


def test_damaged_pickles_give_the_one_error(tmp_path):
    path, whole = tmp_path / "itos.pkl", pickle.dumps(ITOS)
    for end in range(0, len(whole), 3):
        path.write_bytes(whole[:end])
        with pytest.raises(minift.Error, match=r"itos\.pkl"):
            tokenizers.load(tmp_path)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            tokenizers.load(tmp_path)
        except minift.Error:
            continue
    path.write_bytes(b"\x80\x04]r\xff\xff\xff\xff.")  # a memo as large as it can be told
    with pytest.raises(minift.Error, match="no xxunk"):
        tokenizers.load(tmp_path)
    path.write_bytes(whole)
    (tmp_path / "other.pkl").write_bytes(whole)
    with pytest.raises(minift.Error, match=r"itos\.pkl, other\.pkl"):
        tokenizers.load(tmp_path)
