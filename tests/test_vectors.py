"""Files of word vectors are read as gensim reads them, and every fault names its place.
Run me: pytest tests/test_vectors.py"""

import gzip
import struct

import pytest
import torch
from gensim.models import KeyedVectors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minift
from minift import vectors

GLOVE = "the 0.25 -1.5 3\ncat 1e-3 2 -0.125\n. . . 0.5 0.5 0.5\nat name@domain.com 1 2 3\ndog 7 8 9\n"


@pytest.fixture
def written(tmp_path):
    def write(content, name="v.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def packed(words, width, header=None, end=b"\n"):
    """A binary word2vec file of {word: numbers}."""
    raw = b"%d %d\n" % (header or (len(words), width))
    return raw + b"".join(w + b" " + struct.pack(f"<{len(v)}f", *v) + end for w, v in words.items())


def refused(path, words, *parts):
    with pytest.raises(minift.Error) as caught:
        vectors.read(path, words)
    message = str(caught.value)
    assert [part for part in (str(path), *parts) if part not in message] == [] and caught.value.code == 2, message


def listed(found):
    return {word: vector.tolist() for word, vector in found.known.items()}


# -- the forms --------------------------------------------------------------------------------------------------------


def test_glove_text_has_no_header_and_words_with_spaces(written):
    path = written(GLOVE)
    found = vectors.read(path, ["dog", "the", ". . .", "name@domain.com", "cat", "mouse"])
    assert (found.count, found.width, found.notes) == (5, 3, [])
    right = {"the": [0.25, -1.5, 3.0], "cat": [0.001, 2.0, -0.125], ". . .": [0.5] * 3, "dog": [7.0, 8.0, 9.0]}
    assert {word: vector.tolist() for word, vector in found.known.items()} == {
        word: torch.tensor(numbers).tolist() for word, numbers in right.items()
    }


def test_a_word_of_several_parts_may_come_first(written):
    assert listed(vectors.read(written(". . . 0.5 0.25\nthe 1 2\n"), ["the"])) == {"the": [1.0, 2.0]}


def test_a_word_may_be_a_number_or_hold_any_other_white_space(written):
    path = written("7 1 2\n\u00a0 3 4\n1\u00a01/2 5 6\nx\x85y 7 8\n")
    assert listed(vectors.read(path, ["7", "\u00a0", "1\u00a01/2", "x\x85y"])) == {
        "7": [1.0, 2.0], "\u00a0": [3.0, 4.0], "1\u00a01/2": [5.0, 6.0], "x\x85y": [7.0, 8.0],
    }  # fmt: skip


def test_word2vec_text_has_a_header_and_may_end_lines_with_spaces_or_as_windows_does(written):
    for content in "2 2\nthe 1 2\ncat 3 4\n", "2 2 \nthe 1 2 \ncat 3 4 \n", "2 2\r\nthe 1 2\r\ncat 3 4\r\n":
        found = vectors.read(written(content), ["cat", "the"])
        assert listed(found) == {"the": [1.0, 2.0], "cat": [3.0, 4.0]} and found.count == 2


def test_a_compressed_file_is_read_too(written):
    path = written(gzip.compress(GLOVE.encode()), "v.txt.gz")
    assert listed(vectors.read(path, ["dog"])) == {"dog": [7.0, 8.0, 9.0]}
    path = written(gzip.compress(packed({b"a": [1, 2], b"b": [3, 4]}, 2)), "v.bin.gz")
    assert listed(vectors.read(path, ["b"])) == {"b": [3.0, 4.0]}


@pytest.mark.parametrize("end", [b"\n", b""])
def test_binary_records_are_found_wherever_the_pieces_end(written, monkeypatch, end):
    words = {f"w{i}é".encode(): [i, -i, i / 8] for i in range(40)}
    path = written(packed(words, 3, end=end), "v.bin")
    for piece in 1, 5, 13, 64:
        monkeypatch.setattr(vectors, "PIECE", piece)
        found = vectors.read(path, [word.decode() for word in words])
        assert listed(found) == {word.decode(): [float(n) for n in v] for word, v in words.items()}


WORD = st.text(st.characters(exclude_categories=["Zs", "Cc", "Zl", "Zp", "Cs"]), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORD, min_size=1, max_size=8, unique=True), st.integers(1, 4), st.integers(0, 2**31))
def test_what_gensim_writes_is_read_as_gensim_reads_it(tmp_path, words, width, seed):
    right = KeyedVectors(width)
    numbers = torch.randn(len(words), width, generator=torch.Generator().manual_seed(seed))
    right.add_vectors(words, numbers.numpy())
    for name, binary in ("v.txt", False), ("v.bin", True):
        right.save_word2vec_format(tmp_path / name, binary=binary)
        theirs = KeyedVectors.load_word2vec_format(tmp_path / name, binary=binary)
        ours = vectors.read(tmp_path / name, words)
        assert (ours.count, ours.width) == (len(words), width)
        for word in words:
            assert torch.equal(ours.known[word], torch.tensor(theirs[word]))
    lines = (tmp_path / "v.txt").read_bytes().split(b"\n", 1)[1]
    (tmp_path / "glove.txt").write_bytes(lines)
    theirs = KeyedVectors.load_word2vec_format(tmp_path / "glove.txt", no_header=True)
    ours = vectors.read(tmp_path / "glove.txt", words)
    assert all(torch.equal(ours.known[word], torch.tensor(theirs[word])) for word in words)


# -- what is odd, and read as published -------------------------------------------------------------------------------


def test_of_a_word_that_is_there_twice_the_first_counts_and_it_is_said(written):
    found = vectors.read(written("a 1 2\nb 3 4\na 5 6\na 7 8\n"), ["a", "b"])
    assert listed(found) == {"a": [1.0, 2.0], "b": [3.0, 4.0]} and found.count == 4
    assert len(found.notes) == 1 and "twice" in found.notes[0] and "2, such as 'a'" in found.notes[0]


@pytest.mark.parametrize("name", ["v.txt", "v.bin"])
def test_a_word_that_is_no_utf8_is_passed_over_and_it_is_said(written, name):
    words = {b"caf\xe9": [1, 2], "café".encode(): [3, 4]}
    text = b"".join(w + b" %d %d\n" % tuple(v) for w, v in words.items())
    found = vectors.read(written(packed(words, 2) if name == "v.bin" else text, name), ["café"])
    assert listed(found) == {"café": [3.0, 4.0]} and found.count == 2
    assert len(found.notes) == 1 and "UTF-8" in found.notes[0] and r"caf\\xe9" in found.notes[0]


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_line_with_too_few_or_too_many_numbers_is_named(written):
    refused(written("the 1 2 3\ncat 4 5\n"), ["the"], "line 2", "2 numbers", "'cat 4 5'", "line 1 has 3")
    refused(written("the 1 2 3\ncat 4 5 6 7\n"), ["the"], "line 2", "4 numbers", "line 1 has 3")
    refused(written("2 3\nthe 1 2 3\ncat 4 5\n"), ["the"], "line 3", "2 numbers", "the header on line 1 says 3")
    refused(written("2 2\nthe 1 2 3\ncat 4 5 6\n"), ["the"], "line 2", "3 numbers", "the header on line 1 says 2")
    refused(written("the 1 2\n\ncat 4 5\n"), ["the"], "line 2", "0 numbers")
    refused(written("the 1 2\ncat  4 5\n"), ["dog"], "holds none")  # the word "cat ", which no text has


def test_what_is_no_number_is_named(written):
    refused(written("the 1 2\ncat 4 x5\n"), ["the", "cat"], "line 2", "'x5'", "not a number")
    refused(written("the 1 2\ncat nan 5\n"), ["the", "cat"], "line 2", "nan", "not a finite number")
    refused(written("the 1 2\ncat 1e99 5\n"), ["the", "cat"], "line 2", "inf", "not a finite number")
    raw = packed({b"a": [1, 2], b"b": [float("inf"), 4]}, 2)
    refused(written(raw, "v.bin"), ["a", "b"], f"byte {raw.index(b'b ') + 2}", "inf", "not a finite number")


def test_a_header_that_lies_is_named(written):
    refused(written("3 2\nthe 1 2\ncat 3 4\n"), ["the"], "line 1", "says 3 words, but 2 follow")
    refused(written("1 2\nthe 1 2\ncat 3 4\n"), ["the"], "line 1", "says 1 words, but 2 follow")
    words = {b"a": [1, 2], b"b": [3, 4]}
    refused(written(packed(words, 2, header=(1, 2)), "v.bin"), ["a"], "byte 15", "'b ", "follows the 1 words")
    refused(written(packed(words, 2, header=(9, 2)), "v.bin"), ["a"], "byte 26", "ends within word 3 of the 9")
    refused(written(packed(words, 2, header=(2, 9)), "v.bin"), ["a"], "ends within word 1 of the 2", "9 numbers")
    refused(written(packed(words, 2, header=(2, 10**17)), "v.bin"), ["a"], "byte 0", "no header")
    long = {b"a": [1.0, 2.0] + [3.0] * 5000}
    refused(written(packed(long, 2, header=(2, 2)), "v.bin"), ["a"], "no word ends within 4096 bytes")


def test_a_binary_file_cut_off_anywhere_is_named(written):
    raw = packed({b"alpha": [1, 2], b"beta": [3, 4]}, 2)
    for length in range(4, len(raw) - 1):  # without its last line end it is whole
        refused(written(raw[:length], "v.bin"), ["alpha"], f"byte {length}", "ends within word")


def test_a_file_that_is_something_else_is_named(written, tmp_path):
    refused(written("text\tlabel\nfine\tgood\n"), ["fine"], "line 1", "'text\\tlabel'", "neither a word")
    refused(written(""), ["fine"], "line 1", "''")
    refused(written(packed({b"a": [1, 2]}, 2)), ["a"], "line 2")  # binary, under the name of a text
    refused(written(GLOVE, "v.bin"), ["a"], "byte 0", "'the 0.25 -1.5 3", "no header")
    refused(written(gzip.compress(GLOVE.encode())[:-9], "v.txt.gz"), ["dog"], "no whole .gz file")
    refused(written(GLOVE, "v.txt.gz"), ["dog"], "no whole .gz file")
    refused(tmp_path / "nowhere.txt", ["a"], "no such file")
    refused(tmp_path, ["a"], "cannot be read")
    refused(written(GLOVE), ["Maus", "Hund"], "none of the 2 words", "'Maus', 'Hund'")


# -- the words that a file lacks --------------------------------------------------------------------------------------


def test_unknown_words_are_drawn_with_the_variance_of_the_known_ones():
    torch.manual_seed(0)
    known = {f"w{i}": 0.7 * torch.randn(50) for i in range(40)}
    words = [f"w{i}" for i in range(39, -1, -1)] + [f"new{i}" for i in range(400)]
    table = vectors.table(words, vectors.Vectors(50, 40, known, []))
    assert table.shape == (440, 50)
    assert all(torch.equal(row, known[word]) for row, word in zip(table, words[:40], strict=False))
    drawn, variance = table[40:], table[:40].var(correction=0)
    assert drawn.var().item() == pytest.approx(variance.item(), rel=0.02)
    limit = (3 * variance).sqrt().item()  # uniform: as far as this, in its whole width alike
    assert limit > drawn.abs().max().item() > 0.999 * limit
    assert (drawn.abs() < limit / 2).float().mean().item() == pytest.approx(0.5, abs=0.02)
