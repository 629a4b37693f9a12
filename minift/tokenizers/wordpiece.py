"""WordPiece as BERT has it (Wu et al. 2016, arXiv:1609.08144, section 4.1; Devlin et al. 2019, arXiv:1810.04805).

A text is cleaned, lower-cased and stripped of its accents (in the uncased models), cut into words at white space and
around every punctuation mark, and each word is spelt with the longest tokens of the vocabulary, left to right:

    "Déjà-vu, tokenizing!"  ->  deja - vu , tokenizing !  ->  deja - vu , token ##izing !

A word with a rest that no token fits is one [UNK]. A folder says all this in vocab.txt (a token a line, its id is
the line's number) and tokenizer_config.json, or in tokenizer.json alone.
"""

import re
from unicodedata import category, normalize

from ..errors import Error
from ..files import read_text
from . import Folder, checked, fit, write_files

# What is punctuation, an accent or a control character, the reference (Hugging Face's `tokenizers`) takes from
# Unicode 8. For texts to read the same there, here and under every Python, such characters that came later count as
# letters. LATER holds them all as of Unicode 18, and none of the older; four have changed class since Unicode 8.
# Lower-casing and NFD are this Python's own. They differ for at most 76 characters, all younger than Unicode 12 and
# [UNK] in BERT's vocabularies.
LATER = """5C8-5C9 61D 7FD 890-8E2 9FD-9FE A76 AFA-AFF B53-B55 C04-C3C C77 C84 D00 D3B-D3C D81 EBA ECE 180F-1886
1ABF-1AF0 1B4E-1B4F 1B7D-1B7F 1DF6-1DFB 2E43-2E63 A82C A8C5 A8FF A9BD 10D24-10F89 11070-11074 110C2-110CD 111CF
1123E-11241 1133B 113BB-1145E 11660-1166C 116B9 1182F-11FFF 12FF1-1612F 16D6D-16F4F 16FE2-16FE4 1CF00-1D128
1D25B-1D25C 1E000-1E6F5 1E944-1E95F"""
CHANGED = {"\u166d": "Po", "\u1734": "Mn", "\U000111c9": "Po", "\U0001171e": "Mn"}
# Ideographs, each of which is a word. In BERT's own list the range up to 2CEAF starts at 2B820.
CJK = "4E00-9FFF 3400-4DBF 20000-2A6DF 2A700-2B73F 2B740-2B81F 2B920-2CEAF F900-FAFF 2F800-2FA1F"


def _in(ranges: str):
    """A pattern for one character of `ranges`, which are written in hexadecimal as in the Unicode standard."""
    ends = [part.split("-") for part in ranges.split()]
    return re.compile("[" + "".join(f"{chr(int(e[0], 16))}-{chr(int(e[-1], 16))}" for e in ends) + "]")


IS_LATER, IS_CJK = _in(LATER), _in(CJK)

# What decoding puts together again, as the reference does it.
TIDY = [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")]
TIDY += [(" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")]

MOST_KNOWN = 100_000  # words whose ids are remembered


def _class(character: str) -> str:
    """The general category of a character ("Lu", "Mn", …) in the reference; "Cn" for what it does not know."""
    return CHANGED.get(character) or ("Cn" if IS_LATER.match(character) else category(character))


class Lazy(dict):
    """A table for str.translate that asks `function` what a character becomes when it first meets it."""

    def __init__(self, function):
        self.function = function

    def __missing__(self, code):
        self[code] = self.function(chr(code))
        return self[code]


class WordPiece:
    """BERT's tokenizer: [CLS] text [SEP], or [CLS] text [SEP] pair [SEP]."""

    def __init__(self, folder: Folder):
        self._vocab, path = _read(folder)
        needed = ("pad", "unk", "cls", "sep")
        usual = {name: f"[{name.upper()}]" for name in (*needed, "mask")}
        self._tokens, self._special, named = folder.vocabulary(self._vocab, path, usual, needed)
        self.pad, self.eos, self.bos, self.unk, self.cls, self.sep, self.mask = named
        self.vocab_size, self.max_length, self.files = len(self._tokens), folder.max_length, folder.files

        config, model, normalizer = folder.config, *(folder.part("tokenizer.json", p) for p in ("model", "normalizer"))
        self._lower = config.get("do_lower_case", normalizer.get("lowercase", True))
        self._cjk = config.get("tokenize_chinese_chars", normalizer.get("handle_chinese_chars", True))
        accents = config.get("strip_accents", normalizer.get("strip_accents"))
        self._strip = self._lower if accents is None else accents
        self._tidied = config.get("clean_up_tokenization_spaces", False)
        self._longest = model.get("max_input_chars_per_word", 100)
        self._clean, self._finish = Lazy(self._cleaned), Lazy(self._finished)
        self._known = {}  # word -> ids: a few thousand words make up most of any text

    @classmethod
    def load(cls, folder):
        return cls(Folder(folder))

    def encode(self, text: str, pair: str | None = None, max_length: int | None = None) -> list[int]:
        """[CLS] text [SEP], and pair [SEP] behind it unless that is None; "[SEP]" in a text is plain text."""
        if pair is None:
            a, _ = fit(self._encode(text), [], max_length, special=2)
            return [self.cls, *a, self.sep]
        a, b = fit(self._encode(text), self._encode(pair), max_length, special=3)
        return [self.cls, *a, self.sep, *b, self.sep]

    def segments(self, ids) -> list[int]:
        """BERT's token types: 0 up to the first [SEP] and with it, then 1."""
        ids = list(ids)
        first = ids.index(self.sep) + 1 if self.sep in ids else len(ids)
        return [0] * first + [1] * (len(ids) - first)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids without [CLS] and [SEP], and where each stands in `text`: (start, end) in characters."""
        # Which character of `text` each character of the normal form comes from: none or several may come from one.
        # Where NFD sorts several marks on a letter, the reference swaps their places too; here each keeps its own.
        owner = [i for i, character in enumerate(text) for _ in self._normal(character)]
        ids, offsets = [], []
        for word in re.finditer("[^ ]+", self._normal(text)):
            at = word.start()
            for id in self._spelt(word[0]):
                start, at = at, word.end() if id == self.unk else at + len(self._tokens[id].removeprefix("##"))
                ids.append(id)
                offsets.append((owner[start], owner[at - 1] + 1))
        return ids, offsets

    def decode(self, ids, skip_special: bool = False) -> str:
        """The tokens as text, one space between words, but none before . ? ! and ,"""
        ids = checked(ids, self.vocab_size)
        kept = [self._tokens[id] for id in ids if not (skip_special and id in self._special)]
        joined = [token[2:] if token.startswith("##") else f" {token}" for token in kept[1:]]
        text = "".join(map(_tidy, kept[:1] + joined))
        return _tidy(text) if self._tidied else text

    def tokens(self, ids) -> list[str]:
        """Every token as the vocabulary has it: 'token', '##izing'."""
        return [self._tokens[id] for id in checked(ids, self.vocab_size)]

    def save(self, folder):
        """Write the tokenizer's files, byte for byte as they were read."""
        write_files(self.files, folder)

    def _encode(self, text):
        ids = []
        for word in self._normal(text).split():
            ids += self._spelt(word)
        return ids

    def _normal(self, text):
        """The text's words, with spaces between them."""
        text = text.translate(self._clean)
        if self._strip:
            text = normalize("NFD", text)  # é becomes e and a mark, and the next line drops the mark
        return text.translate(self._finish)

    def _cleaned(self, character):
        kind = _class(character)
        if character in "\t\n\r" or kind[0] == "Z":
            return " "
        if kind in ("Cc", "Cf", "Co", "Cs") or character == "\ufffd":
            return ""
        return f" {character} " if self._cjk and IS_CJK.match(character) else character

    def _finished(self, character):
        kind = _class(character)
        if self._strip and kind == "Mn":
            return ""
        if kind[0] == "P" or character in "$+<=>^`|~":  # to BERT, all ASCII signs are punctuation
            return f" {character} "
        return character.lower() if self._lower else character  # alone, so Σ is never final

    def _spelt(self, word):
        """The ids of one word: again and again the longest token that the rest of it starts with."""
        if len(word) > self._longest:
            return [self.unk]
        if (ids := self._known.get(word)) is not None:
            return ids
        ids, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                id = self._vocab.get("##" * (start > 0) + word[start:end])
                if id is not None:
                    break
            else:
                ids = [self.unk]
                break
            ids.append(id)
            start = end
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[word] = ids
        return ids


def _tidy(text):
    for spaced, mark in TIDY:
        text = text.replace(spaced, mark)
    return text


def _read(folder):
    """(token -> id, its file)."""
    path = folder.path / "tokenizer.json"
    if path.name in folder.files:
        folder.expect(model="WordPiece", normalizer="BertNormalizer", pre_tokenizer="BertPreTokenizer")
        if not folder.part(path.name, "normalizer").get("clean_text", True):
            raise Error(f"{path}: clean_text is false in its normalizer; BERT cleans every text")
        if folder.part(path.name, "model").get("continuing_subword_prefix", "##") != "##":
            raise Error(f"{path}: its continuing_subword_prefix is not ##, which is BERT's")
    vocab = folder.part(path.name, "model").get("vocab")
    if "vocab.txt" not in folder.files:
        if not isinstance(vocab, dict):
            raise Error(f"{folder.path}: neither vocab.txt nor a tokenizer.json with a vocabulary; WordPiece needs one")
        return vocab, path
    lines, text_path = {}, folder.path / "vocab.txt"
    for id, line in enumerate(read_text(text_path).removesuffix("\n").split("\n")):
        token = line.removesuffix("\r")
        if lines.setdefault(token, id) != id:
            raise Error(f"{text_path}, line {id + 1}: {token!r} stands in line {lines[token] + 1} already")
    if vocab not in (None, lines):
        raise Error(f"{text_path}: not the vocabulary of {path.name} beside it; remove the one that is wrong")
    return lines, text_path
