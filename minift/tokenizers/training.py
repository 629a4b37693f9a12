"""Train a vocabulary: byte-level BPE as GPT-2's, WordPiece as BERT's, both by merging the most frequent pair; or count
words.

The words of the texts are counted and each is cut into characters. Then, again and again, the two neighbouring tokens
that stand side by side most often become one new token, everywhere (Sennrich et al. 2016, arXiv:1508.07909, section
3.2). With newest 6 times, low 5, widest 3 and lower 2, the first merges are

    1. "e s", 9 times    newest  ->  n e w es t    widest  ->  w i d es t
    2. "es t", 9 times   newest  ->  n e w est     widest  ->  w i d est
    3. "l o", 7 times    low     ->  lo w          lower   ->  lo w e r

"s t" was as frequent as "e s": of equals the pair with the older left token is first, then that with the older right
one. Characters are the oldest, in the order of their code points; then comes what merges made, in theirs. Hugging
Face's `tokenizers` decides so, too.

    tokenizer = train_bpe(open("books.txt", encoding="utf-8"), 8192, "my-tokenizer")

Texts are any iterable of strings, here the lines of a file, and may be larger than memory: only the different words
and their counts are kept. Each text is cut into words on its own; a line <|endoftext|> in it parts two documents and
is not counted.
"""

import re
from collections import Counter, defaultdict
from functools import cache
from heapq import heapify, heappop, heappush
from itertools import pairwise
from operator import add
from pathlib import Path
from tempfile import TemporaryDirectory

import tiktoken

from ..errors import Error
from ..files import write_json, write_text
from . import FILES
from .bpe import BPE, CHARACTERS, SPACE
from .wordpiece import WordPiece
from .words import FILLER, Words
from .words import SPECIAL as SPECIAL_WORDS

END = "<|endoftext|>"
END_LINE = re.compile(r"^<\|endoftext\|>[ \t\r]*(?:\n|\Z)", re.MULTILINE)
GPT2 = (), (END,)  # the special tokens before all others, and behind them
BART = ("<s>", "<pad>", "</s>", "<unk>"), ("<mask>",)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_bpe(texts, size: int, folder, special=GPT2) -> BPE:
    """Train a vocabulary of `size` tokens on `texts`, write it to `folder` and load it from there.

    The ids are as GPT-2's: the 256 bytes in the order of the characters that stand for them, the merges, and last
    <|endoftext|>; or as BART's: <s>, <pad>, </s>, <unk>, the same, and last <mask>. There are fewer than `size` where
    the texts have no more pairs to merge.
    """
    path, (first, last) = _free(folder), special
    least = len(first) + len(CHARACTERS) + len(last)
    if size < least:
        others = ", ".join((*first, *last))
        raise Error(f"size={size} is too small: the 256 bytes and {others} are {least} tokens, and each merge adds one")
    words = _counted(texts, _pattern().findall)
    spelt = {tuple(CHARACTERS[byte] for byte in word.encode("utf-8", "surrogatepass")): n for word, n in words.items()}
    tokens, merges = _merged(spelt, sorted(CHARACTERS), size - len(first) - len(last), add)
    write_json(path / "vocab.json", {token: id for id, token in enumerate([*first, *tokens, *last])})
    write_text(path / "merges.txt", "\n".join(["#version: 0.2", *map(" ".join, merges), ""]))
    config = {"tokenizer_class": "GPT2Tokenizer", **dict.fromkeys(("bos_token", "eos_token", "unk_token"), END)}
    if special is BART:
        names = ("bos", "pad", "eos", "unk", "mask", "cls", "sep")
        tokens = (*first, *last, first[0], first[2])
        config = {"tokenizer_class": "BartTokenizer"} | {f"{n}_token": t for n, t in zip(names, tokens, strict=True)}
    write_json(path / "tokenizer_config.json", config)
    return BPE.load(path)


def train_wordpiece(texts, size: int, folder, lower: bool = True) -> WordPiece:
    """Train a vocabulary of `size` tokens on `texts`, write it to `folder` and load it from there; without `lower` it
    keeps capitals and accents.

    First come the special tokens, then every character of the texts, then ## and each that stands inside a word,
    then the merges; there are fewer than `size` where the texts have no more pairs to merge. How BERT's vocabulary
    was trained was never published. Wu et al. 2016 (section 4.1) take the merge that makes the texts most likely
    under a language model; this takes the most frequent one, as in BPE and as Hugging Face's trainer does.
    """
    path = _free(folder)
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower}
    with TemporaryDirectory() as temporary:  # a WordPiece without a vocabulary, which knows what a word is
        _write_wordpiece(SPECIAL, config, Path(temporary))
        cutter = WordPiece.load(temporary)
    words = _counted(texts, lambda text: cutter._normal(text).split())
    spelt = {(word[0], *(f"##{character}" for character in word[1:])): n for word, n in words.items()}
    alphabet = {piece for word in spelt for piece in word} | {character for word in words for character in word}
    tokens = [*SPECIAL, *sorted(alphabet, key=lambda piece: (len(piece), piece))]
    if size < len(tokens):
        raise Error(
            f"size={size} is too small: the special tokens and the characters of the texts are {len(tokens)} "
            "tokens, and each merge adds one; ask for more, or leave out texts in other scripts"
        )
    tokens, _ = _merged(spelt, tokens, size, lambda left, right: left + right.removeprefix("##"))
    _write_wordpiece(tokens, config, path)
    return WordPiece.load(path)


def train_words(texts, size: int, folder, min_count: int = 2, markers: bool = True, lower: bool = True) -> Words:
    """The vocabulary of the most frequent words of `texts`, `size` with the special ones, each there at least
    `min_count` times; of equals the first in the alphabet. Write it to `folder` and load it from there."""
    path, special = _free(folder), SPECIAL_WORDS if markers else SPECIAL_WORDS[:2]
    if size <= len(special):
        raise Error(f"size={size} is too small: {', '.join(special)} are {len(special)}, and then come the words")
    words = _counted(texts, Words(SPECIAL_WORDS, markers, lower).cut)
    known = sorted((-n, word) for word, n in words.items() if n >= min_count and word not in (*SPECIAL_WORDS, FILLER))
    Words([*special, *(word for _, word in known[: size - len(special)])], markers, lower).save(path)
    return Words.load(path)


def _write_wordpiece(tokens, config, path):
    write_text(path / "vocab.txt", "".join(f"{token}\n" for token in tokens))
    write_json(path / "tokenizer_config.json", config)


def _merged(spelt: dict[tuple[str, ...], int], tokens: list[str], size: int, join) -> tuple[list[str], list]:
    """(`tokens` and those that merges add, up to `size` in all; the merges in their order).

    `spelt` has the words, each as its tokens, and how often it occurs; `join` gives what two tokens become. Pairs
    are counted once; after that, only the words with the pair that is merged are counted anew.
    """
    ids = {token: id for id, token in enumerate(tokens)}
    words, times = [[ids[token] for token in word] for word in spelt], [*spelt.values()]
    counts, places = Counter(), defaultdict(set)  # of each pair; places are words that have it or once had
    for place, word in enumerate(words):
        for pair in pairwise(word):
            counts[pair] += times[place]
            places[pair].add(place)
    queue = [(-count, pair) for pair, count in counts.items()]  # the most frequent pair first, of equals the oldest
    heapify(queue)
    tokens, merges = [*tokens], []
    while queue and len(tokens) < size:
        count, pair = heappop(queue)
        if -count != counts[pair]:  # other merges have taken some of its places since it was put there
            if counts[pair]:
                heappush(queue, (-counts[pair], pair))
            continue
        left, right = pair
        new = len(tokens)
        merges.append((tokens[left], tokens[right]))
        tokens.append(join(*merges[-1]))
        made = set()
        for place in places.pop(pair):
            for old in pairwise(words[place]):
                counts[old] -= times[place]
            words[place] = _replaced(words[place], left, right, new)
            for neighbours in pairwise(words[place]):
                counts[neighbours] += times[place]
                if new in neighbours:
                    places[neighbours].add(place)
                    made.add(neighbours)
        for neighbours in made:
            heappush(queue, (-counts[neighbours], neighbours))
    return tokens, merges


def _replaced(word, left, right, new):
    """`word` with `new` for each `left`, `right` in it; of "a a a" the first two are the pair."""
    replaced = []
    for token in word:
        if token == right and replaced and replaced[-1] == left:
            replaced[-1] = new
        else:
            replaced.append(token)
    return replaced


def _counted(texts, cut) -> Counter:
    """How often each word occurs that `cut` finds in `texts`."""
    if isinstance(texts, str):
        raise Error("texts is one string; give an iterable of strings: [text], or the open file for its lines")
    words = Counter()
    for text in texts:
        for document in END_LINE.split(text):
            words.update(cut(document))
    if not words:
        raise Error("no words in the texts to train on; give some that are not blank")
    return words


@cache
def _pattern() -> re.Pattern:
    r"""GPT-2's pattern for Python's `re`, which has no \p: of every character, tiktoken is asked what it is."""
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))  # all but the surrogates
    sets = []
    for kind in (r"\p{L}", r"\p{N}"):
        ranks = {bytes([byte]): byte for byte in range(256)}
        encoding = tiktoken.Encoding(kind, pat_str=kind, mergeable_ranks=ranks, special_tokens={})
        found = {*map(ord, bytes(encoding.encode_ordinary(every)).decode())}  # what does not match is left out
        firsts = sorted(code for code in found if code - 1 not in found)
        lasts = sorted(code for code in found if code + 1 not in found)
        sets.append("".join(f"{chr(first)}-{chr(last)}" for first, last in zip(firsts, lasts, strict=True)))
    letter, number = sets
    return re.compile(
        rf"'(?:[sdmt]|ll|ve|re)| ?[{letter}]+| ?[{number}]+| ?[^{SPACE}{letter}{number}]+"
        rf"|[{SPACE}]+(?![^{SPACE}])|[{SPACE}]"
    )


def _free(folder) -> Path:
    """The path of a folder where no tokenizer is that would be overwritten, or be read instead."""
    path = Path(folder)
    for name in FILES:
        if (path / name).exists():
            raise Error(f"{path / name} is there already; give a folder without a tokenizer")
    return path
