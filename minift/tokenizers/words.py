"""Words, as fastai cuts them for ULMFiT (Howard and Ruder 2018, arXiv:1801.06146) and as word vectors have them.

Case and repetition become tokens of their own, so that a small vocabulary holds every spelling of a word:

    "I'd LOVE it!!! So so so good."
    xxbos xxmaj i 'd xxup love it xxrep 3 ! xxmaj so so so good .

    xxmaj  the next word is capitalised       xxrep 3 !    the character comes three times
    xxup   the next word is in capitals       xxwrep 3 so  the word comes three times (the same letters: not So so so)
    xxbos  before every text                  xxfld 2      before the second text of a pair, where xxfld 1 begins

A line's end is a token. Words are cut by one regular expression, where fastai asks spaCy. They agree on punctuation,
hyphens, numbers and contractions (do n't, it 's, can not), and differ in what spaCy lists one by one: "dont", "10km",
":-)" and abbreviations. Letters of scripts whose vowels are marks (Devanagari, say) fall apart; accents must be one
with their letters (NFC). As there, only A to Z count as capitals, and only where a word begins with one: "Why, in
quotes, loses it.
"""

import html
import json
import re
from pathlib import Path

from ..errors import Error
from ..files import read_json
from . import checked, fit, write_files

MOST_KNOWN = 100_000  # words whose tokens are remembered
FILE = "words.json"  # {"markers": true, "lower": true, "itos": ["xxunk", …]}
SPECIAL = ["xxunk", "xxpad", "xxbos", "xxeos", "xxfld", "xxrep", "xxwrep", "xxup", "xxmaj"]  # in fastai's order
FILLER = "xxfake"  # with which fastai fills a vocabulary up to a multiple of 8
UNK, PAD, BOS, EOS, FLD, REP, WREP, UP, MAJ = SPECIAL
# Inside a text the markers are characters that Unicode promises never to use, so that a typed "xxmaj" is a word.
MARK = {name: chr(0xFDD0 + i) for i, name in enumerate(SPECIAL)}
NAME = {mark: name for name, mark in MARK.items()}
NO_TEXT = dict.fromkeys(range(0xFDD0, 0xFDF0), "\ufffd")

MESS = {"#39;": "'", "amp;": "&", "#146;": "'", "nbsp;": " ", "#36;": "$", "quot;": "'", "\\n": "\n", '\\"': '"'}
MESS |= {"<br />": "\n", "<unk>": MARK[UNK], " @.@ ": ".", " @-@ ": "-", " @,@ ": ",", "...": " …"}
IS_MESS = re.compile("|".join(map(re.escape, MESS)))
REPEATED = re.compile(r"(\S)(\1{2,})")
REPEATED_WORD = re.compile(r"(?:\s|^)(\w+)\s+((?:\1\s+)+)\1(\s|\W|$)")
ALL_CAPS = re.compile(r"(\s|^)([A-Z][^a-z\s]*)(?=\s|$)")
CAPITALISED = re.compile(r"(\s|^)([A-Z][^A-Z\s]*)(?=\s|$)")

LETTER, SHORT = r"[^\W_]", r"['’](?:s|m|re|ve|ll|d)\b"  # a letter or digit; it's, I'm, we're, I've, we'll, he'd
TOKEN = re.compile(
    rf"""[^\W\d_]\.(?![\w.]) | (?:[ap]\.m|e\.g|i\.e|vs)\.(?!\w)  # an initial, and the like
    | can(?=not\b) | gon(?=na\b) | got(?=ta\b)
    | {LETTER}+?(?=n['’]t\b) | n['’]t\b | {SHORT}  # do n't
    | (?:\d+[.,:](?=\d))* {LETTER}+ (?:(?!{SHORT})[.'’]{LETTER}+)*  # 1,000.5 or o'clock
    | -{{2,}} | \.{{2,}} | .""",
    re.VERBOSE,
)

BEFORE = {*".,!?;:)]}%…", "''", "n't", "n’t"}  # no space before, ...
BEFORE |= {mark + end for mark in "'’" for end in ("s", "m", "re", "ve", "ll", "d")}
AFTER = {*"([{$£#", "``"}  # ... behind, ...
BOTH = {"-", "--", "/", "—"}  # ... on either side


class Words:
    """A vocabulary of words. `markers`: fastai's rules; else words alone, in lower case where `lower` is true, for
    vectors such as GloVe's. `itos` lists the words by id; xxunk and xxpad are among them."""

    cls = sep = mask = eos = max_length = None  # where a text ends, the next one's xxbos says

    def __init__(self, itos, markers: bool = True, lower: bool = True, where="itos"):
        self._itos, self._markers, self._lower = [*itos], markers, lower or markers
        if odd := [word for word in self._itos if not isinstance(word, str)]:
            raise Error(f"{where}: {odd[0]!r} is a {type(odd[0]).__name__}; a vocabulary is a list of words")
        ids = {}
        for id, word in enumerate(self._itos):
            if ids.setdefault(word, id) != id and word != FILLER:
                raise Error(f"{where}: {word!r} has the ids {ids[word]} and {id}; a word has one")
        for word in SPECIAL if markers else (UNK, PAD):
            if word not in ids:
                raise Error(f"{where}: no {word} among its {len(ids)} words; put it there, or take the file it lacks")
        self._special = {ids.pop(word): word for word in (*SPECIAL, FILLER) if word in ids}
        at = {word: id for id, word in self._special.items()}
        self.unk, self.pad, self.bos = at[UNK], at[PAD], at[BOS] if markers else None
        self._fields = [[at[FLD], ids.get(number, self.unk)] for number in "12"] if markers else [[], []]
        self._ids = ids | {mark: at[name] for mark, name in NAME.items() if name in at}
        self._known = {}  # what stands between two spaces -> its tokens
        self.vocab_size = len(self._itos)
        text = json.dumps({"markers": markers, "lower": self._lower, "itos": self._itos}, ensure_ascii=False, indent=0)
        self.files = {FILE: text.encode("utf-8", "surrogatepass")}

    @classmethod
    def load(cls, folder):
        """The words that `save` put into a folder."""
        path = Path(folder) / FILE
        said = read_json(path)
        if not isinstance(said, dict) or not isinstance(said.get("itos"), list):
            raise Error(f'{path}: must hold {{"markers": true, "lower": true, "itos": [words by id]}}')
        return cls(said["itos"], bool(said.get("markers", True)), bool(said.get("lower", True)), where=path)

    @property
    def itos(self) -> list[str]:
        """The words by id."""
        return [*self._itos]

    def encode(self, text: str, pair: str | None = None, max_length: int | None = None) -> list[int]:
        """xxbos text, or xxbos xxfld 1 text xxfld 2 pair; without markers only the words, one text after the other.
        What is typed as xxbos in a text is a word like any other."""
        begin = [] if self.bos is None else [self.bos]
        if pair is None:
            a, _ = fit(self._encode(text), [], max_length, special=len(begin))
            return begin + a
        first, second = self._fields
        a, b = fit(self._encode(text), self._encode(pair), max_length, special=len([*begin, *first, *second]))
        return [*begin, *first, *a, *second, *b]

    def decode(self, ids, skip_special: bool = False) -> str:
        """The text with its capitals and repetitions, and spaces as English has them, which is not always where they
        were. `skip_special` leaves out xxunk, xxpad, xxbos and xxfld, too."""
        text, glued, quoted, rule, times = "", True, False, None, 1
        ids = checked(ids, self.vocab_size)
        for id, word in zip(ids, self.tokens(ids), strict=True):
            special = self._special.get(id)
            if special in (MAJ, UP, REP, WREP):
                rule, times = special, None if special in (REP, WREP) else 1
                continue
            if times is None:  # the number behind xxrep
                times = min(int(word[:4]), 1000) if word.isdecimal() else 1
                continue
            if special and skip_special:
                continue
            if rule in (MAJ, UP) or word == "i":  # alone, a capital I has no mark
                word = word.upper() if rule == UP else word[:1].upper() + word[1:]
            word = (" " if rule == WREP else "").join([word] * times).replace("▁", " ")
            rule, times, quoted = None, 1, (quoted ^ (word == '"')) and "\n\n" not in word  # a paragraph ends it
            white, side = word.isspace() or word in BOTH, word == '"' and (-1 if quoted else 1)
            text += word if glued or white or side == 1 or {word[0], word.lower()} & BEFORE else f" {word}"
            glued = white or word in AFTER or side == -1
        return text

    def tokens(self, ids) -> list[str]:
        """Every token as the vocabulary has it: 'xxmaj', 'the'."""
        return [self._itos[id] for id in checked(ids, self.vocab_size)]

    def cut(self, text: str) -> list[str]:
        """The words and markers of a text, whatever the vocabulary; xxbos is not among them."""
        return [NAME.get(token, token) for token in self._cut(text)]

    def save(self, folder):
        """Write words.json."""
        write_files(self.files, folder)

    def _encode(self, text):
        ids, unk = self._ids, self.unk
        return [ids.get(token, unk) for token in self._cut(text)]

    def _cut(self, text):
        """The tokens; markers as the characters of MARK."""
        text = self._marked(text.translate(NO_TEXT)) if self._markers else text.translate(NO_TEXT)
        tokens, known = [], self._known
        for chunk in re.findall(r"\S+|\s+", text.lower() if self._lower else text):
            if (found := known.get(chunk)) is None:
                if len(known) >= MOST_KNOWN:
                    known.clear()
                found = known[chunk] = self._white(chunk) if chunk.isspace() else TOKEN.findall(chunk)
            tokens += found
        return tokens

    def _white(self, chunk):
        """A space behind a word is no token, what else is white is one: spaCy's way. Without markers none is."""
        kept = chunk.removeprefix(" ").replace(" ", "▁") if self._markers else ""
        return [kept] if kept else []

    def _marked(self, text):
        """The text by fastai's rules, with its markers, still with capitals where none stands for them."""
        text = IS_MESS.sub(lambda m: MESS[m[0]], html.unescape(text))
        text = REPEATED.sub(lambda m: f" {MARK[REP]} {len(m[2]) + 1} {m[1]} ", text)
        text = REPEATED_WORD.sub(lambda m: f" {MARK[WREP]} {len(m[2].split()) + 2} {m[1]} {m[3]}", text)
        text = re.sub(" {2,}", " ", re.sub(r"([/#\\])", r" \1 ", text))
        for case, mark in (ALL_CAPS, MARK[UP]), (CAPITALISED, MARK[MAJ]):
            text = case.sub(lambda m, mark=mark: m[1] + (f"{mark} " if len(m[2]) > 1 else "") + m[2].lower(), text)
        return text.strip()
