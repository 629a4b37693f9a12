# %% [markdown]
# # From text to ids and back
#
# A model reads integers. This tutorial walks from a text to such integers and back, twice: the way
# of GPT-2 (byte-pair encoding) and the way of BERT (WordPiece). We do each by hand first, then let
# minift do it and compare.
#
# Run it cell by cell, or whole: `python tutorials/02_tokens.py`, about 10 seconds, no network. A
# cell that takes longer than a second says so.

# %%
import json
import re
import sys
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import torch

import minift
from minift import data, hub
from minift.tokenizers.bpe import CHARACTERS

MODEL = "bert-nano"  # or the folder of a published BERT
GPT2 = None  # or the folder of a published GPT-2; None: the small vocabulary that we learn below

if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(errors="replace")  # a terminal without emoji prints ? instead of failing

# %% [markdown]
# ## 1. A text is bytes
#
# Unicode numbers every character (its *code point*), UTF-8 writes that number as 1 to 4 bytes.
# ASCII takes one byte, most other alphabets two or three, emoji four. The cell prints both for a
# short text.

# %%
text = "naïve 😀"
for character in text:
    print(f"{character!r:6} code point {ord(character):6}  bytes {list(character.encode())}")
print(len(text), "characters,", len(text.encode()), "bytes")

# %% [markdown]
# So 256 tokens are enough for every text ever written: let the ids be the bytes. The cell prints
# the ids and the text again. Nothing is lost, nothing is unknown. But a page of 3000 letters
# becomes 3000 tokens, and the cost of attention grows with the square of that number. We want
# common strings to be single tokens.

# %%
ids = list(text.encode())
print(ids)
print(bytes(ids).decode())

# %% [markdown]
# ## 2. Byte-pair encoding, by hand
#
# Sennrich et al. 2016 (section 3.2, algorithm 1): begin with single symbols; again and again, join
# the pair of neighbours that occurs most often into one new symbol. Radford et al. 2019 (GPT-2,
# section 2.2) begin with bytes.
#
# No merge may cross from one word into the next, so the text is cut into words first. A word keeps
# the space *before* it: then words put side by side give back the text, and " low" inside a
# sentence is always the same word. (GPT-2's own pattern also knows contractions, and keeps digits
# from letters.) The cell prints the words and counts.

# %%
WORDS = re.compile(r" ?\w+| ?[^\w\s]+|\s+")

text = "a low tide, a lower tide, the lowest tide; a new low, a newer low, the newest low"
words = Counter(WORDS.findall(text))
print(dict(words))

# %% [markdown]
# Each word is spelt as a list of pieces, at first one a byte. The cell prints three spellings.

# %%
spelling = {word: [bytes([b]) for b in word.encode()] for word in words}
for word in (" low", " tide", " lower"):
    print(repr(word), spelling[word])

# %% [markdown]
# Now count the pairs of neighbours; a word that stands twice in the text counts twice. The cell
# prints the five most frequent pairs.


# %%
def count_pairs(spelling, words):
    """How often each pair of neighbouring pieces stands in the text: {(left, right): number}."""
    pairs = Counter()
    for word, pieces in spelling.items():
        for pair in pairwise(pieces):
            pairs[pair] += words[word]
    return pairs


for pair, number in count_pairs(spelling, words).most_common(5):
    print(number, pair)

# %% [markdown]
# Join the winner wherever it stands (among equals the first one found wins). The cell prints the
# same three words.


# %%
def join(pieces, pair):
    """The same pieces, but left and right of `pair` as one piece, wherever they are neighbours."""
    joined, i = [], 0
    while i < len(pieces):
        if tuple(pieces[i : i + 2]) == pair:
            joined.append(pieces[i] + pieces[i + 1])
            i += 2
        else:
            joined.append(pieces[i])
            i += 1
    return joined


best = count_pairs(spelling, words).most_common(1)[0][0]
merges = [best]
spelling = {word: join(pieces, best) for word, pieces in spelling.items()}
for word in (" low", " tide", " lower"):
    print(repr(word), spelling[word])

# %% [markdown]
# That was one merge. Nine more: each line prints the merge, and how many tokens the whole text
# takes after it. Watch " low" and " tide" become tokens: what is frequent gets a name of its own.
# What is rare stays in pieces, and " lowest" shares its first piece with " low".

# %%
for number in range(2, 11):
    best = count_pairs(spelling, words).most_common(1)[0][0]
    merges.append(best)
    spelling = {word: join(pieces, best) for word, pieces in spelling.items()}
    length = sum(words[word] * len(pieces) for word, pieces in spelling.items())
    print(f"merge {number:2}: {best[0]!r} + {best[1]!r}".ljust(32), f"the text is {length} tokens")
print("at first it was", len(text.encode()))
print(spelling[" tide"], spelling[" lowest"], spelling[" newest"])

# %% [markdown]
# ## 3. A vocabulary of our own, saved as GPT-2 saves its
#
# The same two functions, 300 merges, on the first 300 reviews that come with minift. The cell
# prints the latest merges; about 2 seconds.

# %%
reviews = [row["text"] for row in data.read(hub.DATA / "reviews" / "train.tsv").rows[:300]]
words = Counter(word for review in reviews for word in WORDS.findall(review))
spelling = {word: [bytes([b]) for b in word.encode()] for word in words}
merges = []
for _ in range(300):
    merges.append(count_pairs(spelling, words).most_common(1)[0][0])
    spelling = {word: join(pieces, merges[-1]) for word, pieces in spelling.items()}
print(len(words), "different words; the last merges:", [left + right for left, right in merges[-8:]])

# %% [markdown]
# A folder keeps this in two text files: `vocab.json` (token -> id) and `merges.txt` (a pair a line,
# in the order learned). Some bytes cannot be printed, so each byte is written as one visible
# character: itself if it is visible, else one from Ā on. The space, byte 32, becomes Ġ. minift has
# that table as `CHARACTERS`; the cell prints a few of its entries and the first lines of our
# `merges.txt`.
#
# The last id is `<|endoftext|>`, GPT-2's only special token. It separates texts in training.


# %%
def written(piece):
    return "".join(CHARACTERS[b] for b in piece)


vocab = {CHARACTERS[b]: b for b in range(256)}
for left, right in merges:
    vocab[written(left + right)] = len(vocab)
vocab["<|endoftext|>"] = len(vocab)

folder = tempfile.TemporaryDirectory()
Path(folder.name, "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
lines = ["#version: 0.2", *(f"{written(left)} {written(right)}" for left, right in merges)]
Path(folder.name, "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
print({bytes([b]): CHARACTERS[b] for b in (97, 32, 10, 195)})
print(lines[:6])

# %% [markdown]
# minift reads that folder as it reads a published GPT-2's: vocabulary of 50257, made of 256 bytes,
# 50000 merges and `<|endoftext|>`. The cell prints the size, the ids of a sentence, the tokens, and
# the text again.

# %%
learned = minift.load_tokenizer(folder.name)
bpe = learned if GPT2 is None else minift.load_tokenizer(GPT2)
ids = bpe.encode("A slow, unbelievable film.")
print("vocabulary:", bpe.vocab_size)
print(ids)
print(bpe.tokens(ids))
print(repr(bpe.decode(ids)))

# %% [markdown]
# How did it find these pieces in words it never saw? It replays the merges: of all pairs in the
# word, the one learned earliest is joined first. That is exercise 1.
#
# In the other direction there is one thing to know. A token is *bytes*, not text: a character
# outside ASCII may be split among several tokens, and none of them is text by itself. The cell
# decodes a text token by token (U+FFFD, the question mark in a diamond, means "no UTF-8"), and all
# at once.

# %%
ids = bpe.encode("ok 😀")
print([bpe.decode([id]) for id in ids])
print(repr(bpe.decode(ids)))

# %% [markdown]
# ## 4. WordPiece, by hand
#
# BERT's vocabulary (Devlin et al. 2019, section 3; Wu et al. 2016, section 4.1) holds words and
# parts of words. A part that continues a word begins with `##`. The cell prints how large it is and
# a few of its tokens.

# %%
tokenizer = minift.load_tokenizer(MODEL)
pieces = tokenizer.tokens(range(tokenizer.vocab_size))
known = set(pieces)
print(len(pieces), "tokens:", pieces[:5], pieces[2000:2006])

# %% [markdown]
# There are no merges to replay. A word is spelt greedily: take the *longest* token that it begins
# with, then the longest `##` token that the rest begins with, and so on. If a rest has no token at
# all, the whole word becomes `[UNK]`. The cell spells three words that way, prints each step, and
# what minift finds.


# %%
def spell(word):
    found, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):  # longest first
            piece = ("##" if start else "") + word[start:end]
            if piece in known:
                break
        else:  # no end gave a token
            return ["[UNK]"]
        found.append(piece)
        start = end
        print(f"   take {piece!r}, left is {word[start:]!r}")
    return found


for word in ("unbelievable", "retelling", "snow☃man"):
    ids, _ = tokenizer.encode_with_offsets(word)
    print(word, "->", spell(word), "minift:", tokenizer.tokens(ids))

# %% [markdown]
# Before that comes some cleaning. An uncased BERT lower-cases and strips accents: *é* is decomposed
# into *e* and a combining mark (Unicode's form NFD), and marks are dropped. Then it cuts at white
# space and around every punctuation mark. Spaces are *not* kept, so decoding gives back the words,
# not the bytes. The cell prints the tokens and what decoding makes of them.

# %%
text = "Déjà-vu?  An unbelievable retelling!"
ids = tokenizer.encode(text)
print(tokenizer.tokens(ids))
print(repr(tokenizer.decode(ids)))

# %% [markdown]
# ## 5. The special tokens
#
# BERT's tokenizer put two tokens around the text that were not in it:
#
# - `[CLS]`, first: its hidden state is what a classifier reads.
# - `[SEP]`, after each text: it ends one, and separates two.
# - `[PAD]` fills short rows of a batch, `[MASK]` hides a word in pre-training, `[UNK]` is a word
#   without spelling.
#
# The cell prints their ids.

# %%
for name in ("cls", "sep", "pad", "mask", "unk"):
    id = getattr(tokenizer, name)
    print(f"tokenizer.{name:4} = {id:4}  {tokenizer.tokens([id])[0]}")
print("GPT-2's tokenizer: eos =", bpe.eos, " pad =", bpe.pad)

# %% [markdown]
# Some tasks have two texts (does A answer B?). Both go into one row, and a second list of integers,
# the *segments*, says which text a token belongs to: 0 up to the first `[SEP]`, then 1. BERT adds a
# learned vector for each (figure 2 of the paper). The cell prints tokens over segments.

# %%
ids = tokenizer.encode("Is it good?", pair="Very good.")
for token, segment in zip(tokenizer.tokens(ids), tokenizer.segments(ids), strict=True):
    print(f"{token:8} {segment}")

# %% [markdown]
# A model has a longest text (512 tokens for BERT, 1024 for GPT-2). `max_length` cuts at the right,
# special tokens included in the count; of a pair, the longer text loses tokens first. The cell
# prints three cuts.

# %%
long, short = "one two three four five six seven eight", "nine ten"
print(tokenizer.tokens(tokenizer.encode(long, max_length=6)))
print(tokenizer.tokens(tokenizer.encode(long, pair=short, max_length=9)))
print(tokenizer.tokens(tokenizer.encode(long, pair=long, max_length=9)))

# %% [markdown]
# And what if your data *contains* "[SEP]", or "<|endoftext|>"? In minift a text is plain text:
# those are brackets and letters, so no row of data can end a sequence or forge a second segment.
# The cell prints the tokens, and whether the special id is among them.

# %%
ids = tokenizer.encode("he wrote [SEP] here")
print(tokenizer.tokens(ids), "| [SEP] occurs", ids.count(tokenizer.sep), "time, at the end")
ids = bpe.encode("he wrote <|endoftext|> here")
print(bpe.tokens(ids), "| special id inside:", bpe.eos in ids)

# %% [markdown]
# ## 6. A batch: padding and the mask
#
# A batch is one rectangle of integers (B, T), B rows and T tokens, so short rows are filled up with
# `[PAD]`. The *mask*, same shape, is True where there is a real token. We make it from the lengths.
# (Not from `ids != pad`: GPT-2 has no pad token, so whatever one puts there may also be a real
# one.) The cell prints both.

# %%
rows = [tokenizer.encode("a good film"), tokenizer.encode("it is a very slow film")]
T = max(len(row) for row in rows)
ids = torch.tensor([row + [tokenizer.pad] * (T - len(row)) for row in rows])  # (B, T)
mask = torch.tensor([[t < len(row) for t in range(T)] for row in rows])  # (B, T)
print(ids)
print(mask)

# %% [markdown]
# The mask is not decoration. We compare the hidden state of the first row's `[CLS]` alone, in the
# batch with the mask, and in the batch without it. The cell prints the largest differences: with
# the mask, rounding; without it, the model reads the padding as words. About a second.

# %%
model = minift.load_model(MODEL)
with torch.inference_mode():
    alone = model.hidden(torch.tensor([rows[0]]))[0, 0]  # (C,)
    masked = model.hidden(ids, mask)[0, 0]
    unmasked = model.hidden(ids)[0, 0]
print("hidden state of [CLS], typical size:", f"{alone.abs().mean():.3f}")
print("padded, with the mask:    differs by", f"{(masked - alone).abs().max():.1e}")
print("padded, without the mask: differs by", f"{(unmasked - alone).abs().max():.1e}")

# %% [markdown]
# ## 7. Where a token came from
#
# To mark an answer or a name *in the text*, one needs to know which characters each token covers.
# `encode_with_offsets` gives the ids of the text alone (no `[CLS]`, no `[SEP]`) and for each of
# them (start, end). The cell prints them: lower-casing and accents have changed the token, the
# offsets still point into the original.

# %%
text = "Crème brûlée: UNBELIEVABLE"
ids, offsets = tokenizer.encode_with_offsets(text)
for token, (start, end) in zip(tokenizer.tokens(ids), offsets, strict=True):
    print(f"{token:10} {start:3}:{end:<3} {text[start:end]!r}")

# %% [markdown]
# ## 8. Not every language costs the same
#
# A vocabulary is fitted to the text it was learned from. Elsewhere BPE falls back to bytes (longer,
# but lossless), WordPiece to single letters or to `[UNK]` (short, but lost). One sentence, article
# 1 of the Universal Declaration of Human Rights, and some emoji; the cell prints the counts. An
# emoji family is several code points glued together.

# %%
SAME = {
    "English": "All human beings are born free and equal in dignity and rights.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "French": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "Chinese": "人人生而自由，在尊严和权利上一律平等。",
    "emoji": "👩‍👩‍👧 👍🏽 🇫🇷 ❤️",
}
print("          characters  bytes  BPE  WordPiece  of them [UNK]")
for language, sentence in SAME.items():
    ids, _ = tokenizer.encode_with_offsets(sentence)
    print(
        f"{language:10}{len(sentence):10}{len(sentence.encode()):7}{len(bpe.encode(sentence)):5}"
        f"{len(ids):11}{ids.count(tokenizer.unk):15}"
    )

# %% [markdown]
# A row with many `[UNK]` is a row that the model cannot read: count them before you fine-tune.
#
# ## Exercises
#
# Each is a stub; below it stands a check that says at once what is wrong. Fill in, run again.


# %%
def try_(number, check, answer):
    """Run a check and print its verdict."""
    try:
        check(answer)
        print(f"exercise {number}: right")
    except AssertionError as why:
        print(f"exercise {number}: not yet – {why}")


# %% [markdown]
# **Exercise 1: encode a word with BPE.** `word` is bytes, `merges` the list of pairs in the order
# learned. Begin with single bytes. As long as some pair of neighbours is in `merges`, join the one
# that was learned *earliest*. Return the pieces, a list of bytes.
#
# Hint: our `join(pieces, pair)` returns the pieces with that pair joined wherever it stands; a dict
# {pair: its place in `merges`} makes looking up quick.


# %%
def encode_word(word: bytes, merges: list[tuple[bytes, bytes]]) -> list[bytes]: ...


def check_encode_word(answer):
    abc = answer(b"abc", [(b"b", b"c"), (b"a", b"b")])
    assert abc == [b"a", b"bc"], f"'abc' with the merges b+c, then a+b is 'a', 'bc', not {abc}"
    assert answer(b"q", []) == [b"q"], "a word of one byte is one piece"
    for word in [word for word in words if word.isascii() and word.strip().isalpha()]:
        want, got = learned.tokens(learned.encode(word)), answer(word.encode(), merges)
        assert [piece.decode() for piece in got] == want, f"{word!r} is {want} in minift, yours is {got}"


try_(1, check_encode_word, encode_word)

# %% [markdown]
# **Exercise 2: decode while tokens arrive.** A chat shows text while the model still writes. Given
# the tokens as a list of bytes, return a list of strings of the same length: what can be shown
# after each token. A character whose bytes have not all arrived must wait (its string is then
# shorter, perhaps empty); together the strings are the text.
#
# Hint: keep the bytes that were not shown yet; or see `codecs.getincrementaldecoder`.


# %%
def stream(pieces: list[bytes]) -> list[str]: ...


def check_stream(answer):
    easy = answer([b"a", b" good", b" film"])
    assert easy == ["a", " good", " film"], f"plain letters are shown at once; yours are {easy}"
    pieces = [b"ok ", b"\xf0\x9f", b"\x98", b"\x80!", b" caf\xc3", b"\xa9"]
    shown = answer(pieces)
    assert "\ufffd" not in "".join(shown), f"half a character was shown: {shown}"
    want = ["ok ", "", "", "😀!", " caf", "é"]
    assert shown == want, f"{pieces} should give {want}, not {shown}"


try_(2, check_stream, stream)

# %% [markdown]
# **Exercise 3: find an answer's tokens.** Characters `start` to `end` of `text` are an answer.
# Return (first, last), such that `tokenizer.encode(text)[first:last]` are the tokens that cover it:
# what a question-answering model has to point at.
#
# Hint: `tokenizer.encode_with_offsets(text)`, a token covers part of the answer if it starts before
# `end` and ends after `start`; and look closely at what `encode` has that `encode_with_offsets` has
# not.


# %%
def answer_span(text: str, start: int, end: int) -> tuple[int, int]: ...


def check_answer_span(answer):
    text = "“Déjà vu!” said the unbelievably old man, and gave her forty two oranges."
    for part in ("said", "unbelievably old", "forty two", "oranges."):
        start = text.index(part)
        span = answer(text, start, start + len(part))
        assert isinstance(span, tuple) and len(span) == 2, f"return a pair (first, last), not {span!r}"
        found = tokenizer.decode(tokenizer.encode(text)[slice(*span)])
        assert found == part, f"the tokens {span[0]} to {span[1]} say {found!r}, the answer is {part!r}"


try_(3, check_answer_span, answer_span)
