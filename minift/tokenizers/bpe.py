"""Byte-pair encoding as in GPT-2 (Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019, section 2.2), and with
the ids and the special tokens of RoBERTa and BART, or of OPT.

A text is cut into words by a pattern, each word becomes its UTF-8 bytes, and neighbouring pieces are merged in
the order in which training found them, the most frequent pair first. Every byte is a token, so every text has
an encoding. With the merges  1. "l o"  2. "lo w"  3. "e r":

    " lower"  ->  ' ' l o w e r  ->  ' ' lo w e r  ->  ' ' low e r  ->  ' ' low er

A folder holds vocab.json (token -> id) and merges.txt (a pair a line), or both in tokenizer.json; there a byte is
written as a printable character, the space as Ġ. The merging is done by tiktoken, in Rust; this file reads the
files, checks what tiktoken would panic at or quietly do otherwise, and counts the offsets.
"""

import re

import tiktoken

from ..errors import Error
from ..files import read_text
from . import Folder, _content, checked, fit, write_files

# GPT-2's pattern: English contractions, words, numbers, other signs, each with the space before it, then white space.
# It is tiktoken's own wording, which never gives back what it has matched ("++") and so takes linear time, but in
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
# `\s+(?!\S)`: there its engine keeps a state for every character, and panics (a BaseException) at about a million.
# Such runs are therefore cut beforehand where the pattern cuts too: before their last character, which belongs to
# the next word. Long words are harmless: a million times "a" take 0.3 s, a million random letters 1 s.
SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Python's \s has four more
LONG_SPACE = re.compile(f"(?<![{SPACE}])[{SPACE}]{{100000,}}+(?=.)", re.DOTALL)

# The special tokens before a text, between it and another, and behind. GPT-2 adds none; RoBERTa and BART write
# <s> text </s>, or <s> text </s></s> pair </s>; OPT writes </s> text, or </s> text </s> pair.
BARE, AROUND, BEFORE = ((), (), ()), (("cls",), ("sep", "sep"), ("sep",)), (("bos",), ("bos",), ())
# How they are spelt where the folder does not say it.
ROBERTA = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
GPT2 = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")

FOREIGN = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")


def _alphabet() -> list[str]:
    """The character that stands for each byte: itself if that is printable, else the next free one from Ā on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(256 + others.index(byte)) if byte in others else chr(byte) for byte in range(256)]


CHARACTERS = _alphabet()
BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}


class BPE:
    """GPT-2's tokenizer, which adds no special tokens (`eos` is <|endoftext|>, `pad` None unless the folder has one),
    or RoBERTa's and BART's, which put <s> and </s> around a text, or OPT's, which puts </s> before it."""

    def __init__(self, folder: Folder):
        vocab, vocab_path, merges, place, prefix_space, form = _read(folder)
        self._around = form == AROUND
        usual, required = (ROBERTA, ("cls", "sep")) if self._around else (GPT2, form[0])
        tokens, self._special, named = folder.vocabulary(vocab, vocab_path, usual, required)
        self.pad, self.eos, self.bos, self.unk, self.cls, self.sep, self.mask = named
        self._form = [[getattr(self, name) for name in names] for names in form]
        self.vocab_size, self.max_length, self.files = len(tokens), folder.max_length, folder.files
        self._prefix_space = folder.config.get("add_prefix_space", prefix_space)
        self._bytes = [_bytes(token) for token in tokens]
        # tiktoken merges by rank and gives ranks back. Ids follow the ranks in GPT-2 (but for single bytes),
        # though nothing makes them: a tokenizer trained elsewhere may have its special tokens first.
        ranks, self._ids = _ranked(vocab, vocab_path, merges, place)
        name = str(folder.path)
        self._encoding = tiktoken.Encoding(name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})

    @classmethod
    def load(cls, folder):
        return cls(Folder(folder))

    def encode(self, text: str, pair: str | None = None, max_length: int | None = None) -> list[int]:
        """The ids of `text`, then those of `pair`. "<|endoftext|>" or "</s>" in a text is plain text."""
        start, middle, end = self._form
        if pair is None:
            a, _ = fit(self._encode(text), [], max_length, special=len(start + end))
            return [*start, *a, *end]
        a, b = fit(self._encode(text), self._encode(pair), max_length, special=len(start + middle + end))
        return [*start, *a, *middle, *b, *end]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids without special tokens, and where each stands in `text`: (start, end) in characters, with the space
        before a word; RoBERTa's without it, as the reference has it.

        Where several tokens make up one character (an emoji is four bytes), each of them has all of it.
        """
        ids = self._encode(text)
        owner = [i for i, character in enumerate(text) for _ in character.encode("utf-8", "surrogatepass")]
        added = len(self._prefixed(text)) - len(text)
        if added:
            owner.insert(0, 0)  # the space put before the text belongs to its first character
        offsets, at = [], 0
        for id in ids:
            token = self._bytes[id]
            start, at = at, at + len(token)
            first, end = owner[start], owner[at - 1] + 1
            if self._around:
                first = min(first + _spaces(token) - (added if start == 0 else 0), end)
                end = max(end - _spaces(token[::-1]), first)
            offsets.append((first, end))
        return ids, offsets

    def decode(self, ids, skip_special: bool = False) -> str:
        """The text; bytes that are not UTF-8 become U+FFFD."""
        ids = checked(ids, self.vocab_size)
        kept = (id for id in ids if not (skip_special and id in self._special))
        return b"".join(self._bytes[id] for id in kept).decode("utf-8", "replace")

    def tokens(self, ids) -> list[str]:
        """Each token as text, parts of a character as bytes: [' caf', '\\xc3', '\\xa9']."""
        return [self._bytes[id].decode("utf-8", "backslashreplace") for id in checked(ids, self.vocab_size)]

    def save(self, folder):
        """Write the tokenizer's files as they were read, byte for byte."""
        write_files(self.files, folder)

    def _prefixed(self, text):
        return f" {text}" if self._prefix_space and text and not text.startswith(" ") else text

    def _encode(self, text):
        text, ranks, start = self._prefixed(text), [], 0
        for run in LONG_SPACE.finditer(text):
            ranks += self._encoding.encode_ordinary(text[start : run.end() - 1])
            start = run.end() - 1
        ranks += self._encoding.encode_ordinary(text[start:])
        return [self._ids[rank] for rank in ranks]


def _spaces(token: bytes) -> int:
    """How many spaces it begins with."""
    return len(token) - len(token.lstrip(b" "))


def _bytes(token):
    """A token's bytes; one that is not written in the alphabet of bytes was added, as plain text."""
    try:
        return bytes([BYTES[character] for character in token])
    except KeyError:
        return token.encode("utf-8")


def _read(folder):
    """(token -> id, its file, [(number, merge)], their place in words, whether a text gets a space before it, which
    special tokens)."""
    if "tokenizer.json" in folder.files:  # which goes first in transformers, too
        return _read_json(folder)
    for name in ("vocab.json", "merges.txt"):
        if name not in folder.files:
            raise Error(f"{folder.path}: no {name}; BPE needs vocab.json and merges.txt, or tokenizer.json")
    if folder.config.get("add_eos_token"):
        raise Error(f"{folder.path / 'tokenizer_config.json'}: add_eos_token is set, but minift adds none")
    path = folder.path / "merges.txt"
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(read_text(path).split("\n"), 1)]
    if lines[0][1].startswith("#version"):
        del lines[0]
    while lines and not lines[-1][1]:
        lines.pop()
    vocab, name = folder.json("vocab.json"), folder.config.get("tokenizer_class")
    if folder.config.get("add_bos_token"):
        form = BEFORE
    elif isinstance(name, str):
        form = AROUND if name.startswith(("Bart", "Roberta")) else BARE
    else:  # bart-base says nothing; its ids do
        form = AROUND if (vocab.get("<s>"), vocab.get("</s>")) == (0, 2) else BARE
    return vocab, folder.path / "vocab.json", lines, f"{path}, line", False, form


def _read_json(folder):
    path = folder.path / "tokenizer.json"
    folder.expect(model="BPE", normalizer=None, pre_tokenizer="ByteLevel")
    model, splitter, after = (folder.part(path.name, key) for key in ("model", "pre_tokenizer", "post_processor"))
    strange = [option for option in FOREIGN if model.get(option)]
    if splitter.get("use_regex") is False:
        strange.append("use_regex=false")
    form = AROUND if after.get("type") == "RobertaProcessing" else _template(after, folder.config.get("bos_token"))
    for step in after.get("processors", [after]) if form == BARE else ():
        if step.get("special_tokens") or step.get("type") == "BertProcessing":
            strange.append(f"special tokens added by {step['type']}")
    if strange:
        raise Error(f"{path}: {', '.join(strange)}: that is not GPT-2's BPE, and minift has no other")
    for key, kind in (("vocab", dict), ("merges", list)):
        if not isinstance(model.get(key), kind):
            raise Error(f"{path}: its model has no {key}")
    merges = list(enumerate(model["merges"], 1))
    return model["vocab"], path, merges, f"{path}, merge", splitter.get("add_prefix_space", False), form


def _template(after, bos):
    """OPT's form, where a tokenizer.json has it; earlier ones have no token between a text and its pair."""
    steps = [part["id"] for key in ("single", "pair") for step in after.get(key) or () for part in step.values()]
    bos = _content(bos)
    if steps == [bos, "A", bos, "A", bos, "B"]:
        return BEFORE
    return (("bos",), (), ()) if steps == [bos, "A", bos, "A", "B"] else BARE


def _ranked(vocab, vocab_path, merges, place):
    """What tiktoken wants, bytes -> rank: the 256 bytes, then what each merge makes; and the id of every rank."""
    for byte, character in enumerate(CHARACTERS):
        if character not in vocab:
            raise Error(f"{vocab_path}: no token {character!r} for the byte 0x{byte:02x}; all 256 are needed")
    ranks, parts = dict(BYTES), {}
    for number, merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise Error(f"{place} {number}: {merge!r} is not a pair of tokens")
        for part in pair:
            if part not in ranks:
                raise Error(f"{place} {number}: {part!r} of {merge!r} is no byte, and no earlier merge makes it")
        token = "".join(pair)
        if token not in vocab:
            raise Error(f"{place} {number}: {merge!r} makes {token!r}, which is not in {vocab_path}")
        if token in ranks or _overtaken(*pair, len(ranks), ranks, parts):
            raise Error(f"{place} {number}: {merge!r} never applies, earlier merges take its parts another way")
        ranks[token], parts[token] = len(ranks), pair
    return {_bytes(token): rank for token, rank in ranks.items()}, [vocab[token] for token in ranks]


def _overtaken(left, right, rank, ranks, parts) -> bool:
    """Whether in the text left + right an earlier merge joins an end of `left` with a start of `right`.

    The published rule joins the pairs listed, tiktoken any two pieces that together have a rank. The two agree if
    each token is reached by its own merge, as it is after training. This looks by undoing merges, the last first.
    """
    while True:
        if ranks.get(left + right, rank) < rank:
            return True
        if left not in parts and right not in parts:
            return False
        if ranks[left] > ranks[right]:
            rank, left = ranks[left], parts[left][1]
        else:  # of two places for one merge the left comes first: here that is where the two texts meet
            rank, right = ranks[right] + 1, parts[right][0]
