"""Text to numbers and back. One family a file, each read alone: `bpe.py` (GPT-2), `wordpiece.py` (BERT), `unigram.py`
(T5), `marian.py` (`spm.py` reads the files of these two), `words.py` (AWD-LSTM and Kim's CNN). `training.py` makes a
vocabulary for BPE, WordPiece or words.

    >>> tokenizer = load("path/to/bert-base-uncased")    # a WordPiece, by what the folder holds
    >>> tokenizer.encode("Hello world")
    [101, 7592, 2088, 102]

This page has what they share: a folder's files, the special tokens, the cutting of texts that are too long.
"""

from pathlib import Path

from ..errors import Error
from ..files import read_bytes, read_json, written

FILES = ("vocab.txt", "vocab.json", "merges.txt", "tokenizer.json", "spiece.model", "source.spm", "target.spm")
FILES += ("words.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
NAMES = ("pad", "eos", "bos", "unk", "cls", "sep", "mask")


def load(folder):
    """The tokenizer of a model's folder; where target/ in it holds another, one of both."""
    target = Path(folder) / "target"
    if target.is_dir() and not (target / "config.json").exists():  # else it is a model of its own
        return Pair(one(folder), one(target))
    return one(folder)


def one(folder):
    """A `BPE`, a `WordPiece`, a `Unigram`, a `Marian` or `Words`, by what the folder holds."""
    from .bpe import BPE  # here, so that a BERT never imports tiktoken
    from .marian import Marian
    from .unigram import Unigram
    from .wordpiece import WordPiece
    from .words import Words

    source = Folder(folder)
    if "words.json" in source.files:
        return Words.load(folder)
    model = source.part("tokenizer.json", "model")
    kind = model.get("type")
    if not {"source.spm", "target.spm"}.isdisjoint(source.files):
        return Marian(source)
    if kind == "Unigram" or (kind is None and ("spiece.model" in source.files or isinstance(model.get("vocab"), list))):
        return Unigram(source)
    if kind == "BPE" or (kind is None and ("merges" in model or "merges.txt" in source.files)):
        return BPE(source)
    if kind == "WordPiece" or (kind is None and ("vocab" in model or "vocab.txt" in source.files)):
        return WordPiece(source)
    if kind:
        raise Error(f"{source.path / 'tokenizer.json'}: a {kind} model; minift has BPE, WordPiece and Unigram")
    there = sorted(p.name for p in source.path.iterdir())
    raise Error(
        f"{source.path}: no tokenizer, which would be tokenizer.json, vocab.txt (WordPiece), merges.txt with "
        "vocab.json (BPE), spiece.model (Unigram), words.json (Words), or source.spm, "
        "target.spm and vocab.json (Marian); it holds "
        f"{', '.join(there[:10]) or 'nothing'}{' …' if there[10:] else ''}"
    )


def of_two(source, target):
    """The tokenizer of an encoder-decoder whose sides come with these."""
    return source if source.files == target.files else Pair(source, target)


class Pair:
    """A vocabulary for what is read, another for what is written. Its special tokens are those of the target, whose
    [SEP] ends what is written, but for `pad`, which fills up sources; no `mask` stands for something in both."""

    def __init__(self, source, target):
        self.source, self.target = source, target
        self.encode, self.encode_target = source.encode, target.encode
        self.decode, self.tokens, self.vocab_size = target.decode, target.tokens, target.vocab_size
        self.eos, self.bos, self.unk, self.cls, self.sep = (getattr(target, name) for name in NAMES[1:-1])
        self.pad, self.mask = source.pad, None

    def save(self, folder):
        """Write the source's files, and the target's into target/."""
        self.source.save(folder)
        self.target.save(Path(folder) / "target")


class Folder:
    """The tokenizer files of one model's folder, kept byte for byte, and what every family asks of them."""

    def __init__(self, path):
        self.path = Path(path)
        if not self.path.is_dir():
            raise Error(f"{path}: no such folder")
        self.files = {name: read_bytes(self.path / name) for name in FILES if (self.path / name).is_file()}
        self._json = {name: self._object(name) for name in self.files if name.endswith(".json")}
        self.config = dict(self.json("tokenizer_config.json"))
        if "added_tokens_decoder" not in self.config:  # then it is of the time when this file had the last word
            self.config |= self.json("special_tokens_map.json")
        length = self.config.get("model_max_length")  # 1e30 stands for "no limit known"
        self.max_length = length if type(length) is int and 0 < length < 10**9 else None

    def _object(self, name) -> dict:
        value = read_json(self.path / name)
        if not isinstance(value, dict):
            raise Error(f"{self.path / name}: holds a JSON {type(value).__name__}, not an object")
        return value

    def json(self, name) -> dict:
        return self._json.get(name, {})

    def part(self, name, key) -> dict:
        """An object inside a JSON file; {} if it, or the file, is not there."""
        value = self.json(name).get(key)
        return value if isinstance(value, dict) else {}

    def expect(self, **wanted):
        """Refuse a tokenizer.json whose parts (model, normalizer, …) are not of the `wanted` types."""
        for key, kind in wanted.items():
            found = self.part("tokenizer.json", key).get("type")
            if found != kind and not (key == "model" and found is None):  # older files leave that out
                path = self.path / "tokenizer.json"
                raise Error(f"{path}: {found or 'no'} {key} instead of {kind or 'none'}; minift has no such tokenizer")

    def vocabulary(self, vocab: dict[str, int], where, usual: dict[str, str], required=()):
        """(all tokens by id, the ids of the special ones, the ids of NAMES) of `vocab` and the added tokens.

        `usual` says how the family spells pad, unk and so on where the folder does not say it.
        """
        said = {name: self.config.get(f"{name}_token") for name in NAMES}
        said = {name: _content(token) for name, token in said.items() if token is not None}
        names = usual | said
        extra = [self.config.get(f"{key}_special_tokens") or () for key in ("additional", "extra")]
        special = {*names.values(), *(_content(token) for tokens in extra for token in tokens)}
        ids = dict(vocab)
        for token, id, is_special in self._added():
            if is_special:
                special.add(token)
            elif token not in special:  # transformers would look for it inside texts
                raise Error(
                    f"{self.path}: the added token {token!r} is not special; to minift a text is plain text, so "
                    'it would never be found there: say "special": true, or train without it'
                )
            if ids.setdefault(token, id) != id:
                raise Error(f"{self.path}: {token!r} is added with id {id}, but in {where} has id {ids[token]}")
        tokens = [None] * len(ids)
        for token, id in ids.items():
            if type(id) is not int or not 0 <= id < len(ids):
                raise Error(f"{where}: {token!r} has id {id!r}; {len(ids)} tokens have ids 0 to {len(ids) - 1}")
            if tokens[id] is not None:
                raise Error(f"{where}: {tokens[id]!r} and {token!r} have the same id {id}")
            tokens[id] = token
        for name, token in names.items():
            if token not in ids and (name in required or name in said):
                raise Error(f"{where}: no token {token!r}, which is the {name} token")
        return tokens, {ids[t] for t in special if t in ids}, [ids.get(names.get(name)) for name in NAMES]

    def _added(self):
        """(token, id, whether it is special) for each token that a file adds to the vocabulary."""
        try:
            for entry in self.json("tokenizer.json").get("added_tokens") or ():
                yield str(entry["content"]), entry["id"], bool(entry.get("special"))
            for id, entry in self.part("tokenizer_config.json", "added_tokens_decoder").items():
                yield str(entry["content"]), int(id), bool(entry.get("special"))
        except (TypeError, KeyError, ValueError, AttributeError):
            raise Error(f"{self.path}: an added token is not an object with content and id") from None
        for token, id in self.json("added_tokens.json").items():
            yield token, id, False


def _content(token):
    """A special token is written as "[PAD]" or as {"content": "[PAD]", …}."""
    return str(token.get("content") if isinstance(token, dict) else token)


def write_files(files: dict[str, bytes], folder):
    for name, raw in files.items():
        with written(Path(folder) / name) as f:
            f.write(raw)


def fit(a: list[int], b: list[int], max_length: int | None, special: int) -> tuple[list[int], list[int]]:
    """Cut `a` and `b` at the right until they and `special` more tokens fit into `max_length`.

    Always the longer loses a token, until both are equally long ("longest_first"); an odd one out goes to the
    text that was longer, or to `b`.
    """
    if max_length is None:
        return a, b
    room = max_length - special
    if room < 0:
        raise Error(f"max_length={max_length} has no room for the {special} special tokens")
    if len(a) + len(b) <= room:
        return a, b
    less = min(len(a), len(b), room // 2)
    return (a[:less], b[: room - less]) if len(a) <= len(b) else (a[: room - less], b[:less])


def checked(ids, size: int) -> list[int]:
    """`ids` as plain integers, every one of them in the vocabulary."""
    ids = [int(id) for id in ids]
    for position, id in enumerate(ids):
        if not 0 <= id < size:  # a label of -100 would count from the end
            raise Error(f"id {id} at position {position} is not in the vocabulary of {size} tokens")
    return ids
