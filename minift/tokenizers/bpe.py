"""Byte-pair encoding as GPT-2 has it (Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019, section 2.2).

A text is cut into words by a pattern, every word becomes its UTF-8 bytes, and neighbouring pieces are merged in
the order in which training found them: the most frequent pair first. Any text has an encoding, as each of the
256 bytes is a token. With the merges  1. "l o"  2. "lo w"  3. "e r" :

    " lower"  ->  ' ' l o w e r  ->  ' ' lo w e r  ->  ' ' low e r  ->  ' ' low er

A folder says this in vocab.json (token -> id) and merges.txt (a pair a line), or in tokenizer.json. There bytes
are written as printable characters, the space as Ġ: GPT-2's own alphabet, built below. The merging itself is done
by tiktoken, in Rust; this file checks what it is given (where it would panic, or quietly differ) and counts offsets.
"""

import re

import tiktoken

from ..errors import Error
from ..files import read_text
from . import Folder, checked, fit, write_files

# GPT-2's pattern: English contractions, then words, numbers and the rest, each with the space before it, then white
# space. This is tiktoken's own wording of it, which gives nothing back once matched ("++") and so takes linear time.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

# On `\s+(?!\S)` tiktoken's regex engine stacks a state a character, and panics (a BaseException) at about a million.
# So runs of white space that long are cut beforehand, where the pattern cuts too: before the last of the run, which
# belongs to the next word. Words may be long: a million times "a" take 0.3 s. White space as Unicode, not Python, has it.
SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
LONG_SPACE = re.compile(f"[{SPACE}]{{100000,}}(?=[^{SPACE}])")


def _alphabet() -> list[str]:
    """The character that stands for each byte: itself if it is printable, else the next free one from Ā on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(256 + others.index(byte)) if byte in others else chr(byte) for byte in range(256)]


CHARACTERS = _alphabet()
BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}

OPTIONS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")  # not ours


class BPE:
    """GPT-2's tokenizer. `eos` is <|endoftext|>; `pad` is None unless the folder names one. It adds no special token."""

    def __init__(self, folder: Folder):
        vocab, vocab_path, merges, place, prefix_space = _read(folder)
        usual = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
        tokens, self._special, named = folder.vocabulary(vocab, vocab_path, usual)
        self.pad, self.eos, self.bos, self.unk, self.cls, self.sep, self.mask = named
        ranks, ids = _ranked(vocab, vocab_path, merges, place)
        self._prefix_space = folder.config.get("add_prefix_space", prefix_space)
        self._ids = ids  # tiktoken knows a token by its rank, the model by its id; in GPT-2 they happen to be equal
        self._encoding = tiktoken.Encoding(
            str(folder.path), pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}
        )
        self._bytes = [_bytes(token) for token in tokens]
        self.vocab_size, self.max_length = len(tokens), folder.max_length
        self.files = folder.files

    @classmethod
    def load(cls, folder):
        return cls(Folder(folder))

    def encode(self, text: str, pair: str | None = None, max_length: int | None = None) -> list[int]:
        """The ids of `text`, and of `pair` right behind them; "<|endoftext|>" in a text is plain text."""
        a, b = fit(self._encode(text), [] if pair is None else self._encode(pair), max_length, special=0)
        return a + b

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids, and for each of them where it stands in `text`: (start, end) in characters.

        As in GPT-2's own tokenizer.json a word's offsets include the space before it. Tokens that share a character
        between them (an emoji is four bytes) all have the whole character.
        """
        ids = self._encode(text)
        owner = [i for i, character in enumerate(text) for _ in character.encode("utf-8", "surrogatepass")]
        if len(self._prefixed(text)) > len(text):
            owner.insert(0, 0)  # the space that was put before the text belongs to the first character
        offsets, at = [], 0
        for id in ids:
            start, at = at, at + len(self._bytes[id])
            offsets.append((owner[start], owner[at - 1] + 1))
        return ids, offsets

    def decode(self, ids, skip_special: bool = False) -> str:
        """The text; bytes that are no UTF-8 become U+FFFD."""
        ids = checked(ids, self.vocab_size)
        kept = (id for id in ids if not (skip_special and id in self._special))
        return b"".join(self._bytes[id] for id in kept).decode("utf-8", "replace")

    def tokens(self, ids) -> list[str]:
        """Every token as text, a part of a character as its bytes: ' caf', '\\xc3', '\\xa9'."""
        return [self._bytes[id].decode("utf-8", "backslashreplace") for id in checked(ids, self.vocab_size)]

    def save(self, folder):
        """Write the tokenizer's files, byte for byte as they were read."""
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


def _bytes(token):
    """A token's bytes; one that is not written in the alphabet was added as plain text."""
    try:
        return bytes([BYTES[character] for character in token])
    except KeyError:
        return token.encode("utf-8")


def _read(folder):
    """(token -> id, its file, [(number, merge)], the place to name in errors, whether a text gets a space before it)."""
    if "tokenizer.json" in folder.files:
        return _read_json(folder)
    for name in ("vocab.json", "merges.txt"):
        if name not in folder.files:
            raise Error(f"{folder.path}: no {name}; BPE needs vocab.json and merges.txt, or tokenizer.json")
    for option in ("add_bos_token", "add_eos_token"):
        if folder.config.get(option):
            raise Error(f"{folder.path / 'tokenizer_config.json'}: {option} is set, but GPT-2's BPE adds no tokens")
    path = folder.path / "merges.txt"
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(read_text(path).split("\n"), 1)]
    if lines[0][1].startswith("#version"):
        lines = lines[1:]
    while lines and not lines[-1][1]:
        lines.pop()
    return folder.json("vocab.json"), folder.path / "vocab.json", lines, f"{path}, line", False


def _read_json(folder):
    path = folder.path / "tokenizer.json"
    folder.expect(model="BPE", normalizer=None, pre_tokenizer="ByteLevel")
    model, splitter = folder.part("tokenizer.json", "model"), folder.part("tokenizer.json", "pre_tokenizer")
    after = folder.part("tokenizer.json", "post_processor")
    strange = [option for option in OPTIONS if model.get(option)]
    if splitter.get("use_regex") is False:
        strange.append("use_regex: false")
    for step in after.get("processors", [after]):
        if step.get("special_tokens") or step.get("type") in ("RobertaProcessing", "BertProcessing"):
            strange.append(f"special tokens added by {step['type']}")
    if strange:
        raise Error(f"{path}: {', '.join(strange)}: not GPT-2's BPE, and minift has no other")
    for key, kind in (("vocab", dict), ("merges", list)):
        if not isinstance(model.get(key), kind):
            raise Error(f"{path}: its model has no {key}")
    return model["vocab"], path, list(enumerate(model["merges"], 1)), f"{path}, merge", splitter.get("add_prefix_space")


def _ranked(vocab, vocab_path, merges, place):
    """tiktoken's table, bytes -> rank (first the 256 bytes, then what the merges make), and the id of each rank."""
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
                raise Error(f"{place} {number}: {part!r} of {merge!r} is neither a byte nor made by an earlier merge")
        token = "".join(pair)
        if token not in vocab:
            raise Error(f"{place} {number}: {merge!r} makes {token!r}, which is not in {vocab_path}")
        if token in ranks or _overtaken(*pair, len(ranks), ranks, parts):
            raise Error(f"{place} {number}: {merge!r} never applies, as earlier merges take its parts another way")
        ranks[token], parts[token] = len(ranks), pair
    return {_bytes(token): rank for token, rank in ranks.items()}, [vocab[token] for token in ranks]


def _overtaken(left, right, rank, ranks, parts) -> bool:
    """Whether, in the text left + right, an earlier merge joins an end of `left` to a start of `right`.

    The published rule merges a listed pair; tiktoken any pair whose joined bytes have a rank. They agree as long as
    every token is reached through its own pair, as in all trained merges. Undone here step by step, newest first.
    """
    while True:
        if ranks.get(left + right, rank) < rank:
            return True
        if left not in parts and right not in parts:
            return False
        if ranks[left] > ranks[right]:
            rank, left = ranks[left], parts[left][1]
        else:  # of equal merges the one further left comes first, and that would be the one in the middle
            rank, right = ranks[right] + 1, parts[right][0]
