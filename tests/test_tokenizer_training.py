"""Trained vocabularies against those of tokenizers' trainers, and read by transformers."""

import csv
from collections import Counter
from operator import add
from pathlib import Path
from random import Random
from unicodedata import category

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from strings import varied
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, BertTokenizerFast, GPT2TokenizerFast

from minift.errors import Error
from minift.tokenizers import load
from minift.tokenizers.bpe import CHARACTERS
from minift.tokenizers.training import END, SPECIAL, _merged, _pattern, train_bpe, train_wordpiece

REVIEWS = Path(__file__).parent.parent / "data" / "reviews" / "train.tsv"
# As OpenAI published it, in encoder.py.
GPT2 = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


@pytest.fixture(scope="module")
def reviews():
    with REVIEWS.open(encoding="utf-8", newline="") as f:
        return [row["text"] for row in csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE)]


@pytest.fixture(scope="module", params=["reviews", "varied"])
def texts(request):
    if request.param == "reviews":
        return request.getfixturevalue("reviews")
    return [text for text in varied(3000, seed=20) if END not in text]  # which to the references is always text


def vocabulary(tokenizer):
    return tokenizer.tokens(range(tokenizer.vocab_size))


# Both merge the most frequent pair.


def test_the_example_of_the_module_holds():
    spelt = {tuple("newest"): 6, tuple("low"): 5, tuple("widest"): 3, tuple("lower"): 2}
    characters = sorted(set("newestlowidr"))
    tokens, merges = _merged(spelt, characters, len(characters) + 3, add)
    assert merges == [("e", "s"), ("es", "t"), ("l", "o")]
    assert tokens == [*characters, "es", "est", "lo"]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=9).map(tuple), st.integers(1, 5), min_size=1))
def test_counting_anew_at_every_merge_gives_the_same_merges(spelt):
    words, tokens, expected = dict(spelt), [*"abc"], []
    while len(tokens) < 30:
        counts = Counter()
        for word, times in words.items():
            for i in range(len(word) - 1):
                counts[word[i : i + 2]] += times
        if not counts:
            break
        left, right = min(counts, key=lambda pair: (-counts[pair], *map(tokens.index, pair)))
        expected.append((left, right))
        tokens.append(left + right)
        merged = {}
        for word, times in words.items():
            i, new = 0, []
            while i < len(word):
                step = 2 if word[i : i + 2] == (left, right) else 1
                new.append("".join(word[i : i + step]))
                i += step
            merged[tuple(new)] = times
        words = merged
    assert _merged(spelt, [*"abc"], 30, add) == (tokens, expected)


@pytest.mark.parametrize("train", [train_bpe, train_wordpiece])
def test_texts_may_be_a_stream_and_their_order_does_not_matter(reviews, tmp_path, train):
    mixed = Random(0).sample(reviews, len(reviews))
    a, b = train(reviews, 1000, tmp_path / "a"), train((text for text in mixed), 1000, tmp_path / "b")
    assert a.files == b.files


@pytest.mark.parametrize("train", [train_bpe, train_wordpiece])
def test_a_line_with_the_end_token_parts_documents_and_is_no_text(tmp_path, train):
    parts = ["one two two\n", "two three\r\n", "four <|endoftext|> four"]
    whole = f"{END}\n{parts[0]}{END}\n{parts[1]}{END} \r\n{parts[2]}\n{END}"
    lines = [parts[0], f"{END}\n", parts[1], parts[2] + "\n", END]
    files = [train(texts, 300, tmp_path / str(i)).files for i, texts in enumerate((parts, [whole], lines))]
    assert "endoftext" in str(files[0])  # inside a line it is text
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("train", [train_bpe, train_wordpiece])
def test_there_are_fewer_tokens_where_no_pair_is_left(tmp_path, train):
    tokens = vocabulary(train(["aab"], 1000, tmp_path))
    if train is train_bpe:
        assert tokens[256:] == ["aa", "aab", END]
    else:
        assert tokens == [*SPECIAL, "a", "b", "##a", "##b", "aa", "aab"]


def test_a_cased_wordpiece_keeps_capitals_and_accents_and_transformers_reads_it_so(tmp_path):
    texts = ["Une Élève l'a été.", "une eleve, une eau"] * 5
    for lower, said in (True, "une eleve l ' a ete."), (False, "Une Élève l ' a été."):
        trained = train_wordpiece(texts, 200, tmp_path / str(lower), lower=lower)
        ids = trained.encode(texts[0])
        assert trained.decode(ids, skip_special=True) == said
        assert BertTokenizer.from_pretrained(tmp_path / str(lower))(texts[0]).input_ids == ids


@pytest.mark.parametrize("train", [train_bpe, train_wordpiece])
@pytest.mark.parametrize("texts", [[], [""], [f"{END}\n", ""]])
def test_texts_without_a_word_are_told(tmp_path, train, texts):
    with pytest.raises(Error, match="no words in the texts to train on"):
        train(texts, 300, tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("train", [train_bpe, train_wordpiece])
def test_one_string_is_not_taken_for_its_characters(tmp_path, train):
    with pytest.raises(Error, match=r"texts is one string; give an iterable of strings: \[text\]"):
        train("a text", 300, tmp_path)


@pytest.mark.parametrize("train", [train_bpe, train_wordpiece])
def test_a_folder_that_has_a_tokenizer_keeps_it(tmp_path, train):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Error, match=r"tokenizer\.json is there already; give a folder without a tokenizer"):
        train(["a text"], 300, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_a_size_that_is_too_small_is_told(tmp_path):
    with pytest.raises(Error, match=r"size=256 is too small: the 256 bytes and .* are 257 tokens"):
        train_bpe(["a text"], 256, tmp_path)
    with pytest.raises(Error, match=r"size=10 is too small: the special tokens and the characters .* are 11 tokens"):
        train_wordpiece(["abac"], 10, tmp_path)
    assert not [*tmp_path.iterdir()]


# BPE


def test_words_are_those_of_gpt2s_pattern_in_both_references():
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in varied(20_000, seed=21):
        words = _pattern().findall(text)
        assert words == [text[start:end] for _, (start, end) in splitter.pre_tokenize_str(text)]
        if not any(category(character) == "Cn" for character in text):  # `regex` knows younger ones than this Python
            assert words == GPT2.findall(text)


@settings(max_examples=2000, deadline=None)
@given(st.text(st.one_of(st.characters(exclude_categories=["Cn"]), st.sampled_from(" \n'sdmtlvre_1²\x1c\x85\u3000"))))
def test_words_of_any_text_are_those_of_gpt2s_pattern(text):
    assert _pattern().findall(text) == GPT2.findall(text)


def test_merges_are_those_of_the_reference_in_its_order(texts, tmp_path):
    reference = Tokenizer(models.BPE())
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2999, initial_alphabet=alphabet, show_progress=False)
    reference.train_from_iterator(texts, trainer)
    reference.model.save(str(tmp_path))
    ours = train_bpe(texts, 3000, tmp_path / "ours")
    assert ours.files["merges.txt"].decode().split("\n")[1:] == (tmp_path / "merges.txt").read_text().split("\n")[1:]
    assert load(tmp_path).encode(" a text") == ours.encode(" a text")
    assert ours.vocab_size == 3000
    assert (ours.eos, ours.bos, ours.unk, vocabulary(ours)[2999]) == (2999, 2999, 2999, END)


@pytest.mark.parametrize("kind", [GPT2TokenizerFast, AutoTokenizer])
def test_transformers_reads_a_trained_bpe_with_the_same_ids(reviews, tmp_path, kind):
    ours = train_bpe(reviews, 3000, tmp_path)
    theirs = kind.from_pretrained(tmp_path)
    assert isinstance(theirs, GPT2TokenizerFast)
    assert (len(theirs), theirs.eos_token_id, theirs.bos_token_id) == (3000, 2999, 2999)
    for text in reviews[:300] + varied(300, seed=22):
        assert ours.encode(text) == theirs(text, split_special_tokens=True)["input_ids"]


def test_the_bytes_alone_are_a_bpe(tmp_path):
    ours = train_bpe(["a text"], 257, tmp_path)
    theirs = GPT2TokenizerFast.from_pretrained(tmp_path)
    assert ours.encode("été") == theirs("été")["input_ids"]
    assert ours.decode(ours.encode("été")) == "été"
    assert sorted(CHARACTERS)[ours.encode(" ")[0]] == "Ġ"


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(), min_size=1).filter(any), size=st.integers(257, 400))
def test_whatever_was_trained_loads_and_gives_texts_back(tmp_path_factory, texts, size):
    ours = train_bpe(texts, size, tmp_path_factory.mktemp("bpe"))
    assert ours.vocab_size <= size
    assert all(ours.decode(ours.encode(text)) == text for text in texts)


def test_a_lone_surrogate_does_not_stop_the_training(tmp_path):
    assert train_bpe(["a \ud800 b"], 300, tmp_path).encode("a") == [sorted(CHARACTERS).index("a")]


# WordPiece


def test_a_vocabulary_is_that_of_the_reference_in_its_order(texts, tmp_path):
    trained = train_wordpiece(texts, 12_000, tmp_path)
    ours = vocabulary(trained)
    reference = Tokenizer(models.WordPiece())
    reference.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # The reference gives the pieces of one character ids in no certain order, which then decides between equals:
    # what it takes for special tokens here gets its ids in ours.
    alphabet = [token for token in ours if token in SPECIAL or len(token.removeprefix("##")) == 1]
    trainer = trainers.WordPieceTrainer(
        vocab_size=12_000, min_frequency=0, special_tokens=alphabet, limit_alphabet=12_000, show_progress=False
    )
    reference.train_from_iterator(map(trained._normal, texts), trainer)
    theirs = reference.get_vocab()
    assert ours == sorted(theirs, key=theirs.get)


@pytest.mark.parametrize("kind", [BertTokenizerFast, AutoTokenizer])
def test_transformers_reads_a_trained_wordpiece_with_the_same_ids(reviews, tmp_path, kind):
    ours = train_wordpiece(reviews, 3000, tmp_path)
    theirs = kind.from_pretrained(tmp_path)
    assert isinstance(theirs, BertTokenizerFast)
    assert len(theirs) == ours.vocab_size == 3000
    assert (ours.pad, ours.unk, ours.cls, ours.sep, ours.mask) == (0, 1, 2, 3, 4)
    assert sorted(theirs.all_special_ids) == [0, 1, 2, 3, 4]
    for text in reviews[:300] + varied(300, seed=23):
        assert ours.encode(text) == theirs(text, split_special_tokens=True)["input_ids"]


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(max_size=30).filter(lambda text: END not in text)), size=st.integers(1000, 1200))
def test_what_was_trained_on_is_never_unknown(tmp_path_factory, texts, size):
    ours = train_wordpiece(["a word", *texts], size, tmp_path_factory.mktemp("wordpiece"))
    assert ours.vocab_size <= size
    assert all(ours.unk not in ours.encode(text) for text in texts)


def test_frequent_words_have_fewer_pieces(reviews, tmp_path):
    ours = train_wordpiece(reviews, 3000, tmp_path)
    words = [word for word, _ in Counter(" ".join(reviews).lower().split()).most_common() if word.isascii()]
    pieces = [sum(len(ours.encode(word)) - 2 for word in some) / 500 for some in (words[:500], words[-500:])]
    assert pieces[0] < 1.5 < pieces[1] - 1
