"""Marian's tokenizer, as OPUS-MT's translators have it: SentencePiece once for each language, and one list of ids.

source.spm cuts what is read and target.spm what is written, as unigram.py tells; the pieces of both have their ids in
vocab.json, and what it lacks is <unk>. A model that knows several target languages is told which by a first word:

    ">>fra<< Good morning"  ->  >>fra<< ▁Good ▁morning </s>
"""

import re

from ..errors import Error
from . import Folder, checked, fit, write_files
from .spm import read_model
from .unigram import SentencePiece

LANGUAGE = re.compile(">>.*?<<", re.DOTALL)


class Marian:
    """text </s>, or text pair </s>. `encode` is for what is read, `encode_target` and `decode` for what is written."""

    def __init__(self, folder: Folder):
        models = ("source.spm", "target.spm")
        for name in (*models, "vocab.json"):
            if name not in folder.files:
                raise Error(f"{folder.path}: no {name}; Marian needs source.spm, target.spm and vocab.json")
        if folder.config.get("separate_vocabs") or (folder.path / "target_vocab.json").exists():
            raise Error(f"{folder.path}: a vocabulary for each side (separate_vocabs); minift knows only a shared one")
        usual = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
        vocab, path = folder.json("vocab.json"), folder.path / "vocab.json"
        self._tokens, self._special, named = folder.vocabulary(vocab, path, usual, tuple(usual))
        self.pad, self.eos, self.bos, self.unk, self.cls, self.sep, self.mask = named
        self.vocab_size, self.max_length, self.files = len(self._tokens), folder.max_length, folder.files
        self.sentinels = []
        self._ids = {token: id for id, token in enumerate(self._tokens) if id not in self._special}
        hidden = {self._tokens[id] for id in self._special}
        self._source, self._target = (
            SentencePiece(read_model(folder.files[name], folder.path / name), hidden) for name in models
        )

    @classmethod
    def load(cls, folder):
        return cls(Folder(folder))

    def encode(self, text: str, pair: str | None = None, max_length: int | None = None) -> list[int]:
        """The ids of a source, of `pair` if there is one, and </s>. "</s>" in a text is plain text."""
        return self._encode(self._source, text, pair, max_length)

    def encode_target(self, text: str, pair: str | None = None, max_length: int | None = None) -> list[int]:
        """The ids of a target, cut by its own model."""
        return self._encode(self._target, text, pair, max_length)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a source without </s>, and where each stands in it: (start, end) in characters, with the space
        before a word."""
        return self._pieces(self._source, text)

    def decode(self, ids, skip_special: bool = False) -> str:
        """The text of a target; a special token that is not skipped has a space behind it."""
        text, group = "", []
        for id in checked(ids, self.vocab_size):
            if id not in self._special:
                group.append(self._tokens[id])
            elif not skip_special:
                text += f"{self._target.decode(group)}{self._tokens[id]} "
                group = []
        return (text + self._target.decode(group)).strip()

    def tokens(self, ids) -> list[str]:
        """Every token as the vocabulary has it: '▁Good', 'ing'."""
        return [self._tokens[id] for id in checked(ids, self.vocab_size)]

    def save(self, folder):
        """Write the tokenizer's files, byte for byte as they were read."""
        write_files(self.files, folder)

    def _encode(self, model, text, pair, max_length):
        a, b = (self._pieces(model, part)[0] if part is not None else [] for part in (text, pair))
        if pair is None:
            a, _ = fit(a, [], max_length, special=1)
        else:
            a, b = fit(a, b, max_length, special=1)
        return [*a, *b, self.eos]

    def _pieces(self, model, text):
        """(ids, their places in `text`)"""
        language = LANGUAGE.match(text)
        at = language.end() if language else 0
        pieces = [(language[0], 0, at)] if language else []
        pieces += [(piece, at + start, at + end) for piece, _, start, end in model.encode(text[at:])]
        return [self._ids.get(piece, self.unk) for piece, *_ in pieces], [tuple(place) for _, *place in pieces]
