"""Published word vectors: the words of a vocabulary, out of a file that may hold millions.

    GloVe text         a line a word: the word, then its numbers, a space between any two
    word2vec text      the same (fastText's .vec, too) below a header line: how many words, how many numbers each
    word2vec binary    the header; then the word, a space, float32 numbers (little-endian), and perhaps a line end

A file whose name ends in .bin is binary; .gz behind the name: it is read compressed. It is read once, piece by piece;
only the numbers of words that are asked for are looked at, of all others only how many there are.
"""

import gzip
import math
import re
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .errors import Error

HEADER = re.compile(rb"(\d{1,18}) (\d{1,18}) *\r?\n")
PIECE, LONGEST = 2**20, 4096  # bytes: read at once; of a word
WIDEST = 100_000  # numbers of a word in a binary file: more is no header


@dataclass
class Vectors:
    width: int  # numbers of a word, C
    count: int  # words in the file
    known: dict[str, torch.Tensor]  # word -> (C,), of those asked for
    notes: list[str]  # what is odd about the file, and was read as published


def read(path, words) -> Vectors:
    """The vectors of `words` in a file. A word that is there twice has its first vector, as with gensim. Raises `Error`
    with the line, or in a binary file the offset in bytes, where the file is not what it should be."""
    path, found, odd = Path(path), Vectors(0, 0, {}, []), {}
    wanted = {word.encode("utf-8", "surrogatepass"): word for word in words}
    form = binary if path.name.lower().removesuffix(".gz").endswith(".bin") else text
    with opened(path) as f:
        for where, width, word, numbers in form(f, path):
            found.count, found.width = found.count + 1, width
            if word in wanted and wanted[word] not in found.known:
                found.known[wanted[word]] = finite(numbers(), where)
            elif word in wanted:
                note(odd, "are there twice: the first vector counts", wanted[word])
            elif not word.isascii() and not is_utf8(word):
                note(odd, "are not UTF-8, so that no text has them", word.decode("utf-8", "backslashreplace"))
    found.notes = [f"{path}: words that {what}: {n:,}, such as {one!r}" for what, (n, one) in odd.items()]
    if wanted and not found.known:
        some = ", ".join(repr(word) for word in list(wanted.values())[:5])
        what = f"holds none of the {len(wanted):,} words of the texts ({some}, …)"
        raise Error(f"{path}: {what}; is it of another language, or in upper case?")
    return found


def table(words: list[str], vectors: Vectors) -> torch.Tensor:
    """(V, C): a row for each of `words`. Those that the file lacks are drawn uniformly (from torch's generator), as far
    from 0 as gives them the variance of the known ones (Kim 2014, section 4.3)."""
    rows = [i for i, word in enumerate(words) if word in vectors.known]
    known = torch.stack([vectors.known[words[i]] for i in rows])
    limit = math.sqrt(3 * known.double().var(correction=0))  # the variance of what is uniform up to a is a² / 3
    result = torch.empty(len(words), vectors.width).uniform_(-limit, limit)
    result[rows] = known
    return result


# -- the two forms: each gives (where, width, word as bytes, what makes its numbers) ----------------------------------


def text(f, path):
    first = f.readline()
    header, number = HEADER.fullmatch(first), 0
    count, width = map(int, header.groups()) if header else (None, trailing(first))
    if not width:
        what = f"starts with {shown(first)}, which is neither a word with its numbers nor a header such as 400000 300"
        raise Error(f"{path}, line 1: {what}; a binary file needs a name that ends in .bin")
    source = f"the header on line 1 says {width}" if header else f"line 1 has {width}"
    for number, line in enumerate(f if header else chained(first, f), 1):
        where = f"{path}, line {number + bool(header)}"
        word, *numbers = line.rstrip(b" \r\n").rsplit(b" ", width)
        before = word.rpartition(b" ")[2]  # of ". . ." in GloVe's 840B, which is one word
        if len(numbers) < width or (before != word and is_number(before)):
            there = trailing(line)
            raise Error(f"{where}: {there} numbers behind {shown(line)}, but {source}; numbers are parted by one space")
        yield where, width, word, lambda where=where, numbers=numbers: parsed(numbers, where)
    if header and number != count:
        raise Error(f"{path}, line 1: the header says {count:,} words, but {number:,} follow; get the whole file")


def binary(f, path):
    first = f.readline(LONGEST)
    header = HEADER.fullmatch(first)
    if not header or not 0 < int(header[2]) <= WIDEST:
        raise Error(
            f"{path}, byte 0: {shown(first)} is no header such as b'3000000 300'; is it a binary word2vec file?"
        )
    count, width = map(int, header.groups())
    buffer, at, offset = b"", 0, len(first)  # `offset`: of the buffer in the file
    for n in range(1, count + 1):
        while (space := buffer.find(b" ", at)) < 0 or len(buffer) < space + 1 + 4 * width:
            if space < 0 and len(buffer) - at > LONGEST:
                said = f"the header says {count:,} words of {width} numbers"
                raise Error(f"{path}, byte {offset + at}: no word ends within {LONGEST} bytes; {said}: is that right?")
            more = f.read(max(PIECE, 4 * width))
            if not more:
                what = f"the file ends within word {n:,} of the {count:,} that its header says, of {width} numbers each"
                raise Error(f"{path}, byte {offset + len(buffer)}: {what}; get the whole file")
            buffer, at, offset = buffer[at:] + more, 0, offset + at
        where, word = f"{path}, byte {offset + space + 1}", buffer[at:space].lstrip(b"\n")
        yield where, width, word, lambda: np.frombuffer(buffer, "<f4", width, space + 1)  # noqa: B023 (used at once)
        at = space + 1 + 4 * width
    rest = buffer[at:] + f.read(LONGEST)
    if stray := rest.lstrip(b"\n"):
        at += len(rest) - len(stray)
        what = f"{shown(stray)} follows the {count:,} words of {width} numbers that its header says"
        raise Error(f"{path}, byte {offset + at}: {what}; the header or the file is wrong")


# -- their parts ------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path):
    """The file, to be read as bytes; what the system says against it becomes an `Error`."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as f:
            yield f
    except FileNotFoundError:
        raise Error(f"{path}: no such file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as e:
        raise Error(f"{path}: is no whole .gz file ({e}); get it again") from None
    except OSError as e:
        raise Error(f"{path}: cannot be read ({e.strerror})") from None


def chained(first: bytes, f):
    yield first
    yield from f


def trailing(line: bytes) -> int:
    """How many numbers end a line: all behind the first field, if that is so, and else behind the last that is none."""
    fields = line.rstrip(b" \r\n").split(b" ")[1:]
    return next((n for n, field in enumerate(reversed(fields)) if not is_number(field)), len(fields))


def is_number(field: bytes) -> bool:
    try:
        return math.isfinite(float(field))
    except ValueError:
        return False


def is_utf8(word: bytes) -> bool:
    try:
        return bool(word.decode("utf-8")) or True
    except UnicodeDecodeError:
        return False


def parsed(fields: list[bytes], where: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # what is too large for float32 becomes inf, which `finite` names
            return np.array([float(field) for field in fields], np.float32)
    except ValueError:
        wrong = next(field for field in fields if not is_number(field))
        raise Error(f"{where}: {shown(wrong)} is not a number; mend the line or leave it out") from None


def finite(numbers: np.ndarray, where: str) -> torch.Tensor:
    if not np.isfinite(numbers).all():
        value = numbers[~np.isfinite(numbers)][0]
        raise Error(f"{where}: {value} is not a finite number; mend it or leave the word out")
    return torch.tensor(numbers)


def note(odd: dict, what: str, word: str):
    """Count one more word of which something is to be said; the first is the example."""
    n, example = odd.get(what, (0, word))
    odd[what] = n + 1, example


def shown(raw: bytes) -> str:
    return repr(raw[:40].decode("utf-8", "backslashreplace").rstrip("\r\n")) + ("…" if len(raw) > 40 else "")
