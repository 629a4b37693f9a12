"""A SentencePiece model file, read by hand: its pieces with their scores, its settings, its table of replacements.

The file is in the format of Protocol Buffers: a message is a row of fields, a field is a number that says which one it
is and how its value is written, then the value. That may be a message in turn:

    0a 0e               field 1 (8 * 1 + 2, "length and bytes") of the model: a piece, in 14 bytes
       0a 05 e2 96 81 61 6e     field 1 of the piece, its text, in 5 bytes: ▁an
       15 00 00 80 c0           field 2 of the piece (8 * 2 + 5, "four bytes"): its score, -4.0
       18 01                    field 3 of the piece (8 * 3 + 0, "a number"): its type, 1
"""

import math

import numpy as np

from ..errors import Error

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # the types of pieces
LONGEST = 256  # characters of a piece, bytes of a rule; T5's have 16 and 12 at most
MOST_KNOWN = 1_000_000  # steps through the table of replacements that are remembered

# The messages, as far as they matter here: number -> (name, what it is). What a file does not say is as in UNSAID.
PIECE = {1: ("piece", str), 2: ("score", float), 3: ("kind", int)}
TRAINER = {3: ("algorithm", int), 24: ("suffix", bool), 35: ("byte_fallback", bool)}
NORMALIZER = {2: ("charsmap", bytes), 3: ("dummy", bool), 4: ("tidy", bool), 5: ("escape", bool)}
MODEL = {1: ("piece", PIECE), 2: ("trainer", TRAINER), 3: ("normalizer", NORMALIZER), 5: ("denormalizer", NORMALIZER)}
UNSAID = {"algorithm": 1, "suffix": False, "byte_fallback": False}
UNSAID |= {"charsmap": (b"", 0), "dummy": True, "tidy": True, "escape": True}
ALGORITHMS = {1: "unigram", 2: "BPE", 3: "word", 4: "character"}


def read_model(raw: bytes, path) -> dict:
    """What a file says: `pieces`, as (piece, score, type) in the order of their ids, `rules`, and the settings: whether
    a space is put before the text (`dummy`) or behind it (`suffix`), too many are dropped (`tidy`), and shown as ▁."""
    if raw.startswith(b"version https://git-lfs"):
        raise Error(f"{path}: a pointer of Git LFS in place of the file itself; get that with `git lfs pull`")
    pieces, settings = [], dict(UNSAID)
    for part, said, at in _message(raw, 0, len(raw), MODEL, path):
        if part == "piece":
            piece = said.get("piece", ""), said.get("score", 0.0), said.get("kind", NORMAL)
            pieces.append((*piece, f"{path}, piece {len(pieces)} at offset {at}"))
        elif part != "denormalizer":
            settings |= said
        elif said.get("charsmap", (b"",))[0]:
            raise Error(f"{path}, offset {at}: a table that changes decoded texts; minift knows no such model")
    if settings["algorithm"] != 1:
        name = ALGORITHMS.get(settings["algorithm"], settings["algorithm"])
        raise Error(f"{path}: a {name} model of SentencePiece; minift reads its unigram models (T5, Marian)")
    charsmap, at = settings.pop("charsmap")
    settings["rules"] = Rules(charsmap, f"{path}, offset {at}") if charsmap else None
    return settings | {"pieces": checked_pieces(pieces, settings["byte_fallback"], path)}


def checked_pieces(pieces, byte_fallback: bool, path) -> list[tuple[str, float, int]]:
    """(piece, score, type) of (piece, score, type, place), if they make up a vocabulary."""
    seen, unknown, bytes_there = {}, [], set()
    for id, (piece, score, kind, place) in enumerate(pieces):
        if not piece or len(piece) > LONGEST:
            raise Error(f"{place}: has {len(piece)} characters; a piece has 1 to {LONGEST}")
        if seen.setdefault(piece, id) != id:
            raise Error(f"{place}: {piece!r} is piece {seen[piece]} already")
        if not math.isfinite(score):
            raise Error(f"{place}: {piece!r} has the score {score}; is the file damaged?")
        if not NORMAL <= kind <= BYTE:
            raise Error(f"{place}: {piece!r} is of type {kind}; SentencePiece has types 1 to 6")
        if kind == BYTE and (not byte_fallback or piece not in BYTES):
            what = "no byte, as <0x41> is" if byte_fallback else "for a byte, but byte_fallback is off"
            raise Error(f"{place}: {piece!r} is {what}")
        unknown += [piece] * (kind == UNKNOWN)
        bytes_there |= {piece} if kind == BYTE else set()
    if len(unknown) != 1:
        raise Error(f"{path}: {len(unknown)} of {len(pieces)} pieces stand for what is unknown; one must")
    if byte_fallback and len(bytes_there) < 256:
        lacking = next(piece for piece in BYTES if piece not in bytes_there)
        raise Error(f"{path}: byte_fallback is on, but there is no piece {lacking}; all 256 bytes are needed")
    return [piece[:3] for piece in pieces]


BYTES = {f"<0x{byte:02X}>": byte for byte in range(256)}


# -- the format -------------------------------------------------------------------------------------------------------


def _message(raw, at, end, known, path):
    """Yield (name, value, offset) of the `known` fields of the message from `at` to `end`; others are passed over."""
    while at < end:
        start = at
        key, at = _number(raw, at, end, path)
        name, kind = known.get(key >> 3, (None, None))
        wire = key & 7
        if wire not in (0, 1, 2, 5) or key < 8:
            raise Error(f"{path}, offset {start}: {key} starts no field; is it a SentencePiece model, and undamaged?")
        if name and wire != (0 if kind in (int, bool) else 5 if kind is float else 2):
            raise Error(f"{path}, offset {start}: {name} (field {key >> 3}) is written in form {wire}; is it damaged?")
        value, size = None, {1: 8, 5: 4}.get(wire, 0)
        if wire in (0, 2):
            value, at = _number(raw, at, end, path)
            size = value if wire == 2 else 0
        if size > end - at:
            raise Error(f"{path}, offset {start}: speaks of {size} bytes, but {end - at} are left; is it cut off?")
        if kind is bool:
            value = bool(value)
        elif kind is float:
            value = float(np.frombuffer(raw, "<f4", 1, at)[0])
        elif kind is bytes:
            value = raw[at : at + size], at
        elif kind is str:
            try:
                value = raw[at : at + size].decode()
            except UnicodeDecodeError:
                raise Error(f"{path}, offset {at}: the {name} {raw[at : at + min(size, 40)]} is not UTF-8") from None
        elif isinstance(kind, dict):
            value = {name: value for name, value, _ in _message(raw, at, at + size, kind, path)}
        at += size
        if name:
            yield name, value, start


def _number(raw, at, end, path):
    """(a number, where it ends): seven bits a byte, the lowest first; all but its last byte have the eighth bit set."""
    value = 0
    for i in range(at, min(end, at + 10)):
        value |= (raw[i] & 127) << 7 * (i - at)
        if raw[i] < 128:
            return value, i + 1
    raise Error(f"{path}, offset {at}: a number that does not end; is the file cut off or damaged?")


# -- the table of replacements ----------------------------------------------------------------------------------------


class Rules:
    """What the normaliser replaces by what ("precompiled_charsmap"): the length of a trie in bytes, the trie, and the
    texts to put in, each with a zero byte behind it.

    The trie is a "double array", a row of 32-bit units. A rule's bytes lead through it, from unit 0 on: from unit u,
    byte b leads to unit u ^ offset(u) ^ b, if b is the label there (its lowest 8 bits). Where a rule ends, byte 0 would
    lead to the place of its text. Full-width ３ is EF BC 93 in UTF-8: three steps, then the place of "3".
    """

    def __init__(self, raw: bytes, place: str):
        size = int.from_bytes(raw[:4], "little")
        if size % 4 or not 0 < size < len(raw) - 4:
            raise Error(f"{place}: a table of replacements of {len(raw)} bytes, with a trie of {size}; is it damaged?")
        units, self._texts = np.frombuffer(raw, "<u4", size // 4, 4).astype(np.int64), raw[4 + size :]
        self.over_spaces = False  # whether a rule replaces more than a space, a tab or a line end, and one of them
        self._check(units, place)
        self._units, self._known = units.tolist(), {}

    def _check(self, units, place):
        """Let no way through the trie lead outside, or round in circles. A level is what n bytes can lead to."""
        index, inner = np.arange(len(units)), units < 2**31
        ahead, origin = index ^ _offset(units), index ^ (units & 255)
        level, depth = index == 0, 0
        while level.any():
            wrong = level & ((ahead | 255 >= len(units)) | ~inner)  # a byte can lead to each of 256
            if wrong.any():
                raise Error(f"{place}: unit {wrong.argmax()} of the trie leads outside its {len(units)} units")
            texts = units[ahead[level & (units >> 8 & 1 > 0)]] & (2**31 - 1)
            if (texts >= len(self._texts)).any():
                raise Error(f"{place}: the trie speaks of text at {texts.max()}, but that ends at {len(self._texts)}")
            reached = np.zeros(2 * len(units) + 256, bool)
            reached[ahead[level]] = True
            level, depth = reached[np.minimum(origin, len(units))] & inner, depth + 1
            self.over_spaces |= depth > 1 and bool((level & np.isin(units & 255, list(b" \t\n\r"))).any())
            if depth > LONGEST:
                raise Error(f"{place}: the trie runs in a circle, or has a rule for more than {LONGEST} bytes")

    def longest(self, text: str, at: int) -> tuple[str, int]:
        """What the longest rule that fits `text` at this place puts there, and where what it replaces ends."""
        known, unit, new, end = self._known, 0, text[at], at + 1
        for i in range(at, len(text)):
            unit, found = known.get((unit, text[i])) or self._step(unit, text[i])
            if found is not None:
                new, end = found, i + 1
            if not unit:
                break
        return new, end

    def _step(self, start, character):
        """(the unit a character leads to, 0 if none; the text of a rule that ends there, or None)"""
        unit, found = start, None
        for byte in character.encode():
            unit ^= _offset(self._units[unit]) ^ byte
            if self._units[unit] & 0x800000FF != byte:
                unit = 0
                break
        if unit and self._units[unit] >> 8 & 1:
            text = self._units[unit ^ _offset(self._units[unit])] & (2**31 - 1)
            found = self._texts[text:].partition(b"\0")[0].decode("utf-8", "replace")
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[start, character] = unit, found
        return unit, found


def _offset(unit):
    """21 bits of a unit of the trie, and one that says whether they count in 256s."""
    return unit >> 10 << ((unit & 512) >> 6)
