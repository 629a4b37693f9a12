"""The unigram tokenizer of SentencePiece (Kudo 2018, arXiv:1804.10959), as T5 has it; Marian's, in marian.py, has two.

Byte-pair encoding follows its merges in order; a unigram model weighs whole segmentations. Each piece has a score,
the logarithm of its probability, and of all ways to write a text with pieces the one with the highest sum counts:

    ▁un  -4    able  -4    ▁   -3    un  -6    ab  -5    le  -5            (and each letter  -7)
    "unable"  ->  ▁un able  -8,  better than  ▁ un able  -13  or  ▁un ab le  -14  or  ▁ u n a b l e  -45

There are exponentially many, but the best way to write the first n characters ends in some piece, and before it
stands the best way to write what is left: so one walk through the text finds it (Viterbi 1967; `SentencePiece.cut`).

▁ is a space: words are not cut beforehand, and joining the pieces gives the text back. Not quite the text that was
given, though: first a table in the file replaces characters (full-width letters by ordinary ones, e and an accent by
é), then spaces in a row become one, and one is put before the text (`SentencePiece.normal`). A character that no
piece has is <unk>, several in a row are one <unk>; or its UTF-8 bytes, in models that have a piece for every byte.

All that stands in one file, spiece.model, which spm.py reads; the place of a piece there is its id. tokenizer.json
alone will do as well.
"""

import re
from array import array
from base64 import b64decode

from ..errors import Error
from . import Folder, checked, fit, write_files
from .spm import BYTE, BYTES, CONTROL, LONGEST, NORMAL, UNKNOWN, USER_DEFINED, Rules, checked_pieces, read_model

MARK = "▁"
FAR = -100_000  # a sum of scores that is so low starts again from 0, for the sake of precision
LARGEST = (2 - 2.0**-23) * 2.0**127  # of 32-bit floating-point numbers
WORD = re.compile(r"[^ \t\n\r]{1,50}(?![^ \t\n\r])")  # as are remembered: most of any text is a few thousand words
MOST_KNOWN = 100_000
SENTINEL = re.compile(f"{MARK}?<extra_id_([0-9]{{1,6}})>")


class Unigram:
    """T5's tokenizer: text </s>, or text </s> pair </s>. `sentinels` are the ids of <extra_id_0>, <extra_id_1>, …"""

    def __init__(self, folder: Folder):
        model, path = _read(folder)
        vocab = {piece: id for id, (piece, _, _) in enumerate(model["pieces"])}
        if not any(SENTINEL.fullmatch(token) for token in (*vocab, *(token for token, *_ in folder._added()))):
            count = _extra_ids(folder)
            vocab |= {f"<extra_id_{count - 1 - i}>": len(vocab) + i for i in range(count)}  # 0 has the highest id
        unk = next(piece for piece, _, kind in model["pieces"] if kind == UNKNOWN)
        usual = {"pad": "<pad>", "eos": "</s>", "unk": unk}
        self._tokens, self._special, named = folder.vocabulary(vocab, path, usual, tuple(usual))
        self.pad, self.eos, self.bos, self.unk, self.cls, self.sep, self.mask = named
        if self._tokens[self.unk] != unk:
            raise Error(f"{folder.path}: unk_token is {self._tokens[self.unk]!r}, but in {path.name} it is {unk!r}")
        self.vocab_size, self.max_length, self.files = len(self._tokens), folder.max_length, folder.files

        marks = {int(mark[1]): id for id, token in enumerate(self._tokens) if (mark := SENTINEL.fullmatch(token))}
        self.sentinels = [marks[number] for number in sorted(marks)]
        controls = (id for id, (_, _, kind) in enumerate(model["pieces"]) if kind == CONTROL)
        self._special = {*self._special, *self.sentinels, *controls}
        self._named = {self._tokens[id] for id in self._special}
        self._model = SentencePiece(model, self._named)

    @classmethod
    def load(cls, folder):
        return cls(Folder(folder))

    def encode(self, text: str, pair: str | None = None, max_length: int | None = None) -> list[int]:
        """The ids of `text` and </s>, then those of `pair` and </s>. "</s>" or "<extra_id_0>" in a text is plain text;
        for a sentinel put its id, from `sentinels`, between those of the texts around it."""
        if pair is None:
            a, _ = fit(self._encode(text), [], max_length, special=1)
            return [*a, self.eos]
        a, b = fit(self._encode(text), self._encode(pair), max_length, special=2)
        return [*a, self.eos, *b, self.eos]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids without </s>, and where each stands in `text`: (start, end) in characters, with the space before a
        word. Where several tokens are the bytes of one character, each of them has all of it."""
        pieces = self._model.encode(text)
        return [id for _, id, _, _ in pieces], [(start, end) for _, _, start, end in pieces]

    def decode(self, ids, skip_special: bool = False) -> str:
        """The normal form of the text, without the space before it."""
        ids = checked(ids, self.vocab_size)
        kept = (self._tokens[id] for id in ids if not (skip_special and id in self._special))
        return self._model.decode(kept, self._named)

    def tokens(self, ids) -> list[str]:
        """Every token as the vocabulary has it: '▁token', 'izing'."""
        return [self._tokens[id] for id in checked(ids, self.vocab_size)]

    def save(self, folder):
        """Write the tokenizer's files, byte for byte as they were read."""
        write_files(self.files, folder)

    def _encode(self, text):
        return [id for _, id, _, _ in self._model.encode(text)]


# -- what one model file does: normalise, cut, join -------------------------------------------------------------------


class SentencePiece:
    """A model file at work. Of its pieces, those in `hidden` (special tokens) are never found in a text."""

    def __init__(self, model: dict, hidden=()):
        self._dummy, self._tidy, self._suffix = (model[key] for key in ("dummy", "tidy", "suffix"))
        self._space = MARK if model["escape"] else " "
        self._rules, pieces = model["rules"], model["pieces"]
        scores = [score for _, score, kind in pieces if kind == NORMAL]
        self._missing = _float32(min([LARGEST, *scores]) - 10)  # the score of a character that is no piece
        self._unk = next(id for id, (_, _, kind) in enumerate(pieces) if kind == UNKNOWN)
        self._bytes = {BYTES[piece]: (piece, id) for id, (piece, _, kind) in enumerate(pieces) if kind == BYTE}
        self._tree, symbols = {}, []  # character -> [score and id of the piece that ends here or None, what may follow]
        for id, (piece, score, kind) in enumerate(pieces):
            if kind not in (NORMAL, USER_DEFINED) or piece in hidden:
                continue
            if kind == USER_DEFINED:  # has no probability, but shall win against ordinary pieces, the longer the better
                score = _float32(0.1 * len(piece.encode()) - 0.1)
                symbols.append(piece)
            branch = self._tree
            for character in piece:
                leaf = branch.setdefault(character, [None, {}])
                branch = leaf[1]
            leaf[0] = score, id
        symbols.sort(key=len, reverse=True)
        self._symbols = re.compile("|".join(map(re.escape, symbols))) if symbols else None
        # Whether nothing that is replaced or kept reaches over a space: then words can be remembered.
        self._apart = not (self._rules and self._rules.over_spaces) and not re.search(r"[ \t\n\r]", "".join(symbols))
        self._words = {}

    def encode(self, text: str) -> list[tuple[str, int, int, int]]:
        """(piece, id, where it starts in `text`, where it ends) for each piece."""
        normal, owner = self.normal(text)
        spans, pieces = [], []
        for start, end, id in self.cut(normal):
            if id == self._unk and spans and spans[-1][2] == id:  # one more unknown character
                start = spans.pop()[0]
            spans.append((start, end, id))
        for start, end, id in spans:
            if id == self._unk and self._bytes:
                for at in range(start, end):
                    pieces += [(*self._bytes[byte], owner[at], owner[at + 1]) for byte in normal[at].encode()]
            else:
                pieces.append((normal[start:end], id, owner[start], owner[end]))
        return pieces

    def normal(self, text: str) -> tuple[str, list[int]]:
        """The normal form, and which character of `text` each of its characters comes from; one more at the end."""
        text = re.sub("[\ud800-\udfff]", "\ufffd", text)  # what is no character
        at, size, tidy = 0, len(text), self._tidy
        while tidy and at < size:
            new, end = self._replaced(text, at)
            if new != " ":
                break
            at = end
        if at == size:
            return "", [at]
        parts, owner = [], []
        if self._dummy and not self._suffix:
            parts.append(self._space)
            owner.append(at)
        spaced = tidy  # whether another space would be one too many
        while at < size:
            word = WORD.match(text, at) if self._apart else None
            new, origins = self._word(word[0]) if word else ("", ())
            if new:
                end, spaced = word.end(), False
            else:
                new, end = self._replaced(text, at)
                new = new.lstrip(" ") if spaced else new
                origins = [0] * len(new)
                spaced = tidy and new[-1] == " " if new else spaced
            parts.append(new)
            owner += [at + origin for origin in origins]
            at = end
        normal = "".join(parts).replace(" ", self._space)
        if tidy and normal.endswith(self._space):
            normal = normal.rstrip(self._space)
            at = owner[len(normal)]
            del owner[len(normal) :]
        if self._dummy and self._suffix:
            normal += self._space
            owner.append(at)
        return normal, [*owner, at]

    def _word(self, word):
        """(the normal form of a word, where its characters come from), remembered; ("", []) if it has spaces."""
        if word not in self._words:
            at, new, origins = 0, "", []
            while at < len(word):
                part, end = self._replaced(word, at)
                new, origins, at = new + part, origins + [at] * len(part), end
            if len(self._words) >= MOST_KNOWN:
                self._words.clear()
            self._words[word] = ("", []) if " " in new else (new, origins)
        return self._words[word]

    def _replaced(self, text, at):
        """(what stands for the next characters of `text`, where they end)"""
        if self._symbols and (symbol := self._symbols.match(text, at)):
            return symbol[0], symbol.end()
        return self._rules.longest(text, at) if self._rules else (text[at], at + 1)

    def cut(self, text: str) -> list[tuple[int, int, int]]:
        """(start, end, id) of the pieces of a normal form: the way to write it that has the highest score."""
        tree, size = self._tree, len(text)
        # For every place the best way to get there: its score, where its last piece starts, and that piece's id. Of two
        # that score the same, the one with the longer last piece. Arrays round to 32 bits, as SentencePiece 0.2.3 does,
        # which decides between -- - and - --; and as there, behind a place below FAR the scores count from that place.
        best, begun, ids = array("f", bytes(4 * size + 4)), [-1] * (size + 1), [self._unk] * (size + 1)
        for start in range(size):
            here, single = best[start], False
            if here < FAR:
                for end in range(start + 1, min(start + LONGEST, size) + 1):
                    best[end] -= here if begun[end] >= 0 else 0.0
                here = 0.0
            branch, end = tree, start
            while branch and end < size and (found := branch.get(text[end])):
                piece, branch = found
                end += 1
                if piece:
                    score, before = here + piece[0], best[end]
                    if begun[end] < 0 or score > before:
                        best[end] = score
                        if begun[end] < 0 or best[end] > before:
                            begun[end], ids[end] = start, piece[1]
                    single = single or end == start + 1
            if not single:  # a character that is no piece
                score, before = here + self._missing, best[start + 1]
                if begun[start + 1] < 0 or _float32(score) > before:
                    best[start + 1], begun[start + 1], ids[start + 1] = score, start, self._unk
        way, end = [], size
        while end:
            way.append((begun[end], end, ids[end]))
            end = begun[end]
        return way[::-1]

    def decode(self, pieces, named=()) -> str:
        """The pieces as text, those `named` as they stand. Bytes that are not UTF-8 become U+FFFD, each one."""
        raw, first = bytearray(), self._dummy or self._tidy
        for piece in pieces:
            if piece in named:
                raw += piece.encode("utf-8", "surrogatepass")
            elif self._bytes and piece in BYTES:
                raw.append(BYTES[piece])
            else:
                if first and not raw and piece.startswith(MARK):
                    piece, first = piece[1:], self._tidy
                raw += piece.replace(MARK, " ").encode("utf-8", "surrogatepass")
        return re.sub("[\udc80-\udcff]", "\ufffd", raw.decode("utf-8", "surrogateescape"))


def _float32(number) -> float:
    return array("f", [number])[0]


# -- what a folder says -----------------------------------------------------------------------------------------------


def _read(folder):
    """(the model of T5's folder, its file)"""
    path, json_path = folder.path / "spiece.model", folder.path / "tokenizer.json"
    name = folder.config.get("tokenizer_class")
    if isinstance(name, str) and not re.match("M?T5Tokenizer|PreTrainedTokenizerFast|TokenizersBackend", name):
        raise Error(f"{folder.path}: its tokenizer is a {name}; of SentencePiece's, minift has those of T5 and Marian")
    given = _read_json(folder, json_path) if json_path.name in folder.files else None
    if path.name not in folder.files:
        if given is None:
            raise Error(f"{folder.path}: neither spiece.model nor tokenizer.json; T5's tokenizer needs one")
        return given, json_path
    model = read_model(folder.files[path.name], path)
    named = [piece for piece, _, _ in model["pieces"]]
    if given is None and not isinstance(name, str) and named[:3] != ["<pad>", "</s>", "<unk>"]:
        raise Error(f"{path}: begins with {named[:3]}, not as T5's; if it is, say so in tokenizer_config.json")
    if given and [piece for piece, _, _ in given["pieces"]][: len(named)] != named:
        raise Error(f"{path}: not the vocabulary of {json_path.name} beside it; remove the one that is wrong")
    return model, path


def _extra_ids(folder) -> int:
    """How many sentinels a folder adds to the pieces, where it gives no ids for them: T5's has 100."""
    number = folder.config.get("extra_ids")
    if number is None:
        tokens = folder.config.get("additional_special_tokens") or ()
        number = sum(bool(SENTINEL.search(str(token))) for token in tokens) or 100
    if type(number) is not int or not 0 <= number <= 10_000:
        raise Error(f"{folder.path / 'tokenizer_config.json'}: extra_ids is {number!r}; give a number from 0 to 10000")
    return number


# What transformers puts around a text, and its two ways to say: one ▁ for all spaces, and one before the text.
END = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
WAYS = ([], ["WhitespaceSplit", "Metaspace"]), (["Strip", "Replace"], ["Metaspace"])


def _read_json(folder, path) -> dict:
    """The model in a tokenizer.json, if it is one of T5's."""
    folder.expect(model="Unigram")
    if folder.part(path.name, "post_processor").get("single") != END:
        raise Error(f"{path}: its post_processor is not T5's, which puts </s> behind a text; minift has no other")
    changes, cuts = (_steps(folder.part(path.name, key)) for key in ("normalizer", "pre_tokenizer"))
    table = changes.pop("Precompiled", {}).get("precompiled_charsmap")
    spaces, mark = changes.get("Replace", {}).get("pattern"), cuts.get("Metaspace", {})
    before = mark.get("prepend_scheme", "always" if mark.get("add_prefix_space", True) else "never")
    known = (list(changes), list(cuts)) in WAYS and spaces in (None, {"Regex": " {2,}"})
    if not known or mark.get("replacement") != MARK or before == "never":
        raise Error(f"{path}: its normalizer and pre_tokenizer are not T5's; minift has no such tokenizer")
    try:
        table = b64decode(table or "", validate=True)
    except (TypeError, ValueError):
        raise Error(f"{path}: its precompiled_charsmap is not in base64; is the file damaged?") from None
    model, pieces = folder.part(path.name, "model"), []
    special = {token for token, _, is_special in folder._added() if is_special}
    byte_fallback, vocab = bool(model.get("byte_fallback")), model.get("vocab")
    for id, entry in enumerate(vocab if isinstance(vocab, list) else ()):
        place = f"{path}, piece {id}"
        if not (isinstance(entry, list) and [type(part) for part in entry] in ([str, float], [str, int])):
            raise Error(f"{place}: {str(entry)[:60]} is not a piece and its score")
        kind = BYTE if byte_fallback and entry[0] in BYTES else CONTROL if entry[0] in special else NORMAL
        score = max(-LARGEST * 2, min(entry[1], LARGEST * 2))  # JSON has numbers without end
        pieces.append((entry[0], _float32(score), UNKNOWN if id == model.get("unk_id") else kind, place))
    return {
        "pieces": checked_pieces(pieces, byte_fallback, path),
        "rules": Rules(table, f"{path}, precompiled_charsmap") if table else None,
        **{"dummy": True, "tidy": True, "escape": True, "suffix": False},
    }


def _steps(part) -> dict:
    """type -> step, in order, of a normalizer or pre-tokenizer, which may be a sequence of them."""
    several = part.get("normalizers") or part.get("pretokenizers")
    several = several if isinstance(several, list) else [part]
    return {str(step.get("type")): step for step in several if isinstance(step, dict) and step}
