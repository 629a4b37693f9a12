# %% [markdown]
# # Denoising: an encoder-decoder learns from text alone
#
# Translators learn from pairs, and pairs are dear. But any text makes a pair with itself: damage it,
# and ask for the text as it was. A model that reads one text and writes another can so learn from
# whatever has been written, without a single label. BART and T5 were made like that.
#
# Here we damage texts by hand in all the usual ways, count what each way asks of a model, and let a
# small translator learn to mend English for half a minute. Then we ask what it has learned. Two very
# different skills hide in one loss: to *copy* what is there, and to *guess* what is not. Last, we look
# at the price: what has become of its French?
#
# Papers: Lewis et al. 2020 ("BART", section 2.2), Raffel et al. 2020 ("T5", section 3.1.4). It helps
# to have read tutorial 09: encoder, decoder, cross-attention, teacher forcing.
#
# Run it cell by cell, or whole: `python tutorials/12_denoising.py`, about a minute and a half, no
# network. A cell that takes longer than a second says so.

# %%
import copy
import math
import os
import random
import re
import textwrap

import torch

import minift
from minift import data, hub, optim, runs
from minift.data import IGNORE
from minift.tasks.denoise import Denoise
from minift.tasks.translate import Translate

MODEL = "bart-nano-en-fr"
QUICK = bool(os.environ.get("MINIFT_QUICK"))  # the tests set it: fewer steps and rows, nothing else

torch.manual_seed(0)
torch.set_num_threads(1)  # the tensors are small, and one thread makes the figures the same everywhere

# %% [markdown]
# ## 1. Five ways to spoil a text
#
# We begin with words, since they can be read; to the functions it is all the same whether a list has
# words in it or ids. A *hole* is a pair (where it begins, how many words it swallows). The ways
# differ in what is put where the hole is:
#
# - **masking**: a mark for each word that is gone, as in BERT;
# - **deletion**: nothing. The reader must find out where something is missing;
# - **infilling**: one mark for a hole of any length. The reader must find out how *much* is missing. A
#   hole may even be empty: a mark where nothing is missing at all;
# - **permutation**: no holes, but the sentences change places;
# - **sentinels** (T5): each hole has a mark of its own, `<0>`, `<1>`, … The target is not the text, but
#   only what went, each piece behind its mark, and one more mark to say that this was all.
#
# The first four have the whole text as their target. BART does infilling and permutation together.
# The cell shows them side by side, with the same three holes, the second of them empty.


# %%
def replaced(words, holes, mark):
    """The words with mark(number of the hole, what it swallows), a list, in place of each hole."""
    found, at = [], 0
    for k, (start, length) in enumerate(holes):
        found += [*words[at:start], *mark(k, words[start : start + length])]
        at = start + length
    return found + words[at:]


def sentinels(words, holes):
    """T5's (source, target)."""
    pieces = [(f"<{k}>", *words[start : start + length]) for k, (start, length) in enumerate(holes)]
    source = replaced(words, holes, lambda k, span: [f"<{k}>"])
    return source, [word for piece in pieces for word in piece] + [f"<{len(holes)}>"]


SENTENCES = ["The fog came down at four .", "We rang the bell , and lay still .", "Nobody saw the red cask ."]
words = " ".join(SENTENCES).split()
holes = [(1, 3), (10, 0), (18, 2)]
ways = {
    "masking": (replaced(words, holes, lambda k, span: ["<mask>"] * len(span)), words),
    "deletion": (replaced(words, holes, lambda k, span: []), words),
    "infilling": (replaced(words, holes, lambda k, span: ["<mask>"]), words),
    "permutation": (" ".join(SENTENCES[i] for i in (2, 0, 1)).split(), words),
    "sentinels": sentinels(words, holes),
}
for way, (source, target) in ways.items():
    print(f"{way:12} source  {' '.join(source)}")
    print(f"{'':12} target  {' '.join(target)}")

# %% [markdown]
# **Drawing holes.** BART draws lengths from a Poisson distribution of mean 3 until 30 % of the text is
# gone. Where do they go? If each begins anywhere, two may overlap, less goes than was meant, and it is
# hard to say how much less. A better way is to look at the words that *stay*: each hole takes a gap
# between two of them (or the one before the first, or behind the last), no two the same gap. Then
# holes never overlap or touch, and any place is as likely as any other.
#
# The cell draws holes for 20 words twice, an `x` for each word that goes, and a `|` where an empty one
# stands. Then it prints how often each length comes in ten thousand.


# %%
def poisson(mean, chance):
    """How many random numbers can be multiplied before the product falls below e^-mean (Knuth's way)."""
    n, product = 0, chance.random()
    while product > math.exp(-mean):
        n, product = n + 1, product * chance.random()
    return n


def draw_holes(n, share, mean, chance):
    """[(start, length)] of holes among n words that swallow a share of them."""
    lengths, left = [], max(round(share * n), 1)
    while left > 0:
        lengths.append(min(poisson(mean, chance), left))
        left -= max(lengths[-1], 1)  # an empty one counts as one, or a text could get many of them
    stay = n - sum(lengths)
    gaps = sorted(chance.sample(range(stay + 1), min(len(lengths), stay + 1)))  # gap g lies before the g-th that stays
    found, gone = [], 0
    for gap, length in zip(gaps, lengths, strict=False):
        found.append((gap + gone, length))
        gone += length
    return found


chance = random.Random(12)
for _ in range(2):
    drawn = draw_holes(20, 0.3, 3.0, chance)
    print("".join(replaced(list("·" * 20), drawn, lambda k, span: ["x"] * len(span) or ["|"])), drawn)
lengths = [poisson(3.0, chance) for _ in range(10_000)]
for length in range(9):
    count = lengths.count(length)
    print(f"{length} words {count / len(lengths):6.1%} {'#' * (count // 60)}")

# %% [markdown]
# One hole in twenty is empty. They look silly, but without them "mask" would mean "something is
# missing here", and with them it means "look whether something is".
#
# ## 2. On ids, and what it asks of a model
#
# Now the same on the tokens of our model's vocabulary, in windows of whole sentences, from the papers
# of the harbour town Ossel (`data/harbour`). `minift.tasks.denoise` cuts windows and damages them.
# Our own function does the same, and remembers more: for each token of the target, where in the
# source it still stands, if it does. We shall need that in section 5.
#
# The cell shows a held-out window, damaged. Then it checks against minift's way, over all held-out
# windows: which share of the tokens goes, and how many marks there are for each 100 tokens.

# %%
model, tokenizer = minift.load(MODEL)
FIRST, LAST, MASK = tokenizer.cls, tokenizer.eos, tokenizer.mask
task = Denoise(tokenizer, 40)  # windows of up to 40 tokens: short ones, to be quick
learned = task.training(data.read(hub.DATA / "harbour" / "train.txt"))
held = task.training(data.read(hub.DATA / "harbour" / "validation.txt"))


def damaged(window, chance, share=0.3, mean=3.0, shuffle=True):
    """BART's noise: {"ids", "target", "where"}; `where` has for each target token its place in the ids, or None."""
    sentences, ends = window["sentences"], [0]
    for sentence in sentences:
        ends.append(ends[-1] + len(sentence))
    order = chance.sample(range(len(sentences)), len(sentences)) if shuffle else range(len(sentences))
    places = [place for i in order for place in range(ends[i], ends[i + 1])]  # of the shuffled tokens in the text
    holes = draw_holes(len(places), share, mean, chance)
    left = replaced(places, holes, lambda k, span: [None])  # the same with None for each mark
    text = window["ids"]
    found = {place: at + 1 for at, place in enumerate(left) if place is not None}  # + 1: <s> stands in front
    return {
        "ids": [FIRST, *(MASK if place is None else text[place] for place in left), LAST],
        "target": [FIRST, *text, LAST],
        "where": [0, *(found.get(place) for place in range(len(text))), len(left) + 1],
    }


def all_damaged(windows, seed=0, **noise):
    chance = random.Random(seed)
    return [damaged(window, chance, **noise) for window in windows]


def show(name, ids):
    text = tokenizer.decode(ids).replace("\n", " / ")
    print(textwrap.fill(f"{name:8}{text}", 100, subsequent_indent=" " * 8))


print(f"{len(learned)} windows to learn from, {len(held)} held out")
example = all_damaged(held)[4]
show("source", example["ids"])
show("target", example["target"])
for who, examples in {"ours": all_damaged(held), "minift's": task.fixed(held)}.items():
    tokens = sum(len(e["target"]) - 2 for e in examples)
    marks = sum(e["ids"].count(MASK) for e in examples)
    stay = sum(len(e["ids"]) - 2 for e in examples) - marks
    print(f"{who:9} {1 - stay / tokens:.1%} of the tokens gone, {100 * marks / tokens:.1f} marks for each 100 tokens")

# %% [markdown]
# A little less than 30 % is gone: an empty hole counts towards the share, though it swallows nothing.
#
# What does each way of learning ask for? Take 100 tokens of text. A language model (tutorial 06) reads
# 100 and says 100, all of them guesses. BERT (tutorial 07) reads 100, and guesses the 15 or so that
# are hidden. For BART and T5 the cell counts, in longer windows. T5 needs a tokenizer with sentinels;
# ours has none, so we lend it a hundred ids that it does not use.
#
# *says* are the tokens that the loss is about; *guesses* those of them that do not stand in the
# source. What stands there, a model that reads can copy.

# %%
with_sentinels = copy.copy(tokenizer)
with_sentinels.sentinels = list(range(tokenizer.vocab_size, tokenizer.vocab_size + 100))
print(f"{'':8} reads   says   guesses, for each 100 tokens of text")
for who, reads, says, guesses in (("GPT-2", 100, 100, 100), ("BERT", 100, 15, 15)):
    print(f"{who:8} {reads:5.0f} {says:6.0f} {guesses:9.0f}")
for who, words_of in {"BART": tokenizer, "T5": with_sentinels}.items():
    worker = Denoise(words_of, 256)
    windows = worker.training(data.read(hub.DATA / "harbour" / "train.txt"))
    marks = {MASK, *with_sentinels.sentinels}
    reads = says = guesses = total = 0
    for window, e in zip(windows, worker.fixed(windows), strict=True):
        total += len(window["ids"])
        reads, says = reads + len(e["ids"]), says + len(e["target"])
        guesses += len(window["ids"]) - sum(id not in marks for id in e["ids"][1:-1])
    print(f"{who:8} {100 * reads / total:5.0f} {100 * says / total:6.0f} {100 * guesses / total:9.0f}")

# %% [markdown]
# BART writes the whole text to be asked about a third of it. T5 writes a fifth as much: its sequences
# are shorter, a step costs less, and nearly all that it says is a guess or a mark. That is why T5's
# authors chose sentinels: they found the ways about equally good, and this one cheaper. In return
# BART's decoder learns to write whole texts, which is what summaries and translations are.
#
# ## 3. Learning
#
# We start from `bart-nano-en-fr`, which translates English into French, and has never been asked to
# write English. What it brings along: an encoder that reads English, a decoder that looks into the
# source. What does that matter? For comparison, a second model of the same shape starts from random
# weights.
#
# The loop is that of tutorial 09, and the noise minift's, new for each batch. The rate is several
# times the usual one, to see something soon. The cell prints the loss of every 20th step, in nats a
# token; log V = 9.01 is what guessing evenly costs. About 45 seconds.

# %%
STEPS = {"translator": 4 if QUICK else 100, "random": 2 if QUICK else 40}


def learn(model, task, examples, steps, size, rate):
    """Train on batches of `size` examples; the losses, one a step."""
    torch.manual_seed(0)  # the dropout, and the noise
    lengths, plan, losses = [len(e["ids"]) for e in examples], [], []
    while len(plan) < steps:
        plan += data.length_batches(lengths, size, seed=len(plan))
    optimizer = optim.adamw(model, rate, weight_decay=0.01)
    for step, rows in enumerate(plan[:steps]):
        for group in optimizer.param_groups:
            group["lr"] = rate * optim.rate(step, steps, warmup=0.1, schedule="linear")
        summed, count = task.loss(model.train(), task.batch([examples[i] for i in rows]))
        loss = summed / count
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


mender, novice = copy.deepcopy(model), minift.load_model(f"random:{MODEL}")
for name, pupil in {"translator": mender, "random": novice}.items():
    losses = learn(pupil, task, learned, STEPS[name], 8, 2e-3)
    print(f"{name:10}", "  ".join(f"{loss:5.2f}" for loss in [*losses[::20], losses[-1]]))

# %% [markdown]
# The translator's loss should have fallen to 4 or below after 40 steps and go on; the random model's
# stands above 5 after as many. What are these two doing?
#
# ## 4. What they write
#
# A loss is measured with the right words fed. Now let them write by themselves, greedily. The cell
# gives three damaged sentences, two in the harbour's manner and one from elsewhere, to the translator
# as it was, to what has become of it, and to the one from random weights. About 2 seconds.

# %%
DAMAGED = [
    "The boat came <mask> before the tide turned.",
    "Rang the bell every minute and <mask> for the other bell.",
    "The old woman put three green apples on the <mask>.",
]


def with_masks(text):
    """Ids of a text in which <mask> stands for the mark. (In a text to encode it would be six plain characters.)"""
    first, *rest = text.split(" <mask>")
    pieces = [tokenizer.encode(piece)[1:-1] for piece in (first, *rest)]
    found = pieces[0]
    for piece in pieces[1:]:
        found = [*found, MASK, *piece]
    return [FIRST, *found, LAST]


for text in DAMAGED:
    ids = torch.tensor([with_masks(text)])
    print(f"{'damaged':11} {text}")
    for who, writer in {"translator": model, "mender": mender, "novice": novice}.items():
        (said,) = minift.generate_ids(writer, ids, max_new_tokens=24)
        print(f"{who:11} {tokenizer.decode(said, skip_special=True)}")
    print()
