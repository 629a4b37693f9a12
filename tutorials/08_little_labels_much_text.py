# %% [markdown]
# # Few labels, much text
#
# Texts are cheap and labels are dear: somebody has to read each row and decide. So the usual case
# is not that of tutorial 05. You have some dozens of labels, a heap of texts of the same kind
# without any, and a score that jumps by points whenever anything changes.
#
# Here we hide the labels of our reviews, all but 64, and ask what can be done: what labels are
# worth, how to compare two ways when luck is larger than the difference, whether it helps to read
# the heap first, what else may, and by which doors the test set gets in. Not all of it helps; we
# print what comes out.
#
# Run it cell by cell, or whole: `python tutorials/08_little_labels_much_text.py`, about two
# minutes, no network. A cell that takes longer than a second says so.

# %%
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

import minift
from minift import adapters, baselines, data, hub, optim, settings, train
from minift.tasks.classify import Classify

MODEL = "bert-nano"  # or the folder of a published BERT
QUICK = bool(os.environ.get("MINIFT_QUICK"))  # the tests set it: fewer rows, seeds and epochs, nothing else
LABELS = ["negative", "positive"]
FEW = 64  # so many labels we have

scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # everything we write goes here

# %% [markdown]
# ## 1. What we have
#
# Three lists: `rows`, whose labels we could buy; `heap`, all texts we may read; `unseen`, the test.
# The heap has the texts of `train.tsv` and of `hard.tsv`. The latter is thereby spent: whoever lets
# a model read its texts should not report a score on it.
#
# The *test texts* stay out, even without labels. Learning from them has a name, *transductive*
# learning, and is right if just these texts are all you will ever ask about. But the score then no
# longer says how well you do on texts that come tomorrow, and a reader who is not told will think
# it does. So: leave them out, or say so next to the figure.
#
# The cell prints how many rows there are, then draws 64 at random, and prints how many of them are
# positive, for five seeds.

# %%
rows = data.read(hub.DATA / "reviews" / "train.tsv").rows
hard = data.read(hub.DATA / "reviews" / "hard.tsv").rows
unseen = data.read(hub.DATA / "reviews" / "test.tsv").rows[: 60 if QUICK else None]
heap = [row["text"] for row in (rows + hard)[: 100 if QUICK else None]]


def draw(n, seed):
    """n rows of the training file, which we then have the labels of."""
    return random.Random(seed).sample(rows, n)


print(f"{len(rows)} rows to draw from, {len(unseen)} to be asked about")
print(f"heap: {len(heap)} texts, {sum(map(len, heap)):,} characters")
print("positive of 64:", [sum(row["label"] == "positive" for row in draw(FEW, seed)) for seed in range(5)])

# %% [markdown]
# Not always 32, and of 16 rows it is worse. (Exercise 1 draws fairly.)
#
# ## 2. Training without validation rows
#
# `minift.finetune` keeps the epoch that does best on held-out rows. Of 64 labels a tenth is 6 rows,
# and a choice by 6 rows is a throw of dice. With 200 validation rows on top we would not have 64
# labels but 264, and had better learn from them.
#
# So we fix the epochs beforehand and take the last weights. (For 64 labels they were chosen once, by
# `validation.tsv`, while this was written, the others for a like number of steps. You would take them
# from a similar task.) `learn` is the middle of `minift.finetune` without a choice. What it needs is
# enough *steps*: in batches of 32, an epoch of 64 rows has 2. The cell prints how many it gets.

# %%
EPOCHS = {16: 12, FEW: 6, 256: 3, len(rows): 2} if not QUICK else {16: 1, FEW: 1}
tokenizer = minift.load_tokenizer(MODEL)
task = Classify(tokenizer, LABELS)


def batch_size(n):
    return 8 if n <= FEW else 16


def learn(chosen, seed, epochs, start=MODEL, tune="all"):
    """A classifier that has learned from these rows: so many epochs, the last weights."""
    torch.manual_seed(seed)  # the head's first weights, and the dropout
    model = minift.load_model(start, kind="classify", labels=LABELS)
    adapters.choose(model, tune)
    examples = task.examples(data.read(chosen))
    lengths = [len(example["ids"]) for example in examples]
    plan = [data.length_batches(lengths, batch_size(len(chosen)), seed=seed, epoch=e) for e in range(epochs)]
    rate = optim.usual_rate(model.config.hidden_size, len(model.blocks), tune)
    tensors = lambda numbers: task.batch([examples[i] for i in numbers])
    train.train(model, plan, tensors, task.loss, settings.Finetune(lr=rate))
    return model


def right(model):
    """(N,) True where the model is right about a test row."""
    said = minift.predict((model, tokenizer), [row["text"] for row in unseen])
    return torch.tensor([p["prediction"] == row["label"] for p, row in zip(said, unseen, strict=True)])


def share(right):
    return right.float().mean().item()


for n, epochs in EPOCHS.items():
    print(f"{n:4} labels, {epochs:2} epochs: {epochs * math.ceil(n / batch_size(n))} steps")

# %% [markdown]
# ## 3. The learning curve
#
# How much is a label worth? Learn from 16, 64, 256 and all rows, and see. *Which* rows you have
# matters much, so they are drawn several times; a seed means the same rows for both learners. The
# bag of words (words and pairs of words, logistic regression) is the one to beat.
#
# The cell prints the mean of the seeds, the least and the most, and a bar: from 45 to 80 %, a place
# a point, `-` from least to most, `#` the mean. About 40 seconds.


# %%
def words_alone(chosen):
    """(N,) True where a bag of words that has learned from these rows is right."""
    texts, target = [row["text"] for row in chosen], [LABELS.index(row["label"]) for row in chosen]
    said = baselines.bag_of_words(texts, target, [row["text"] for row in unseen], len(LABELS))
    return torch.tensor([LABELS[i] == row["label"] for i, row in zip(said, unseen, strict=True)])


def bar(values):
    places = [min(35, max(0, round(100 * value) - 45)) for value in (min(values), statistics.mean(values), max(values))]
    line = [" "] * 36
    line[places[0] : places[2] + 1] = "-" * (places[2] + 1 - places[0])
    line[places[1]] = "#"
    return "|" + "".join(line) + "|"


SEEDS = {16: 3, FEW: 4, 256: 2, len(rows): 1} if not QUICK else {16: 2, FEW: 2}
found = {}  # {(labels, way): [for each seed (N,), True where it was right]}
for n, seeds in SEEDS.items():
    samples = [draw(n, seed) for seed in range(seeds)]
    models = [learn(chosen, seed, EPOCHS[n]) for seed, chosen in enumerate(samples)]
    found[n, "bag of words"], found[n, MODEL] = list(map(words_alone, samples)), list(map(right, models))
    if n == FEW:
        few, first = samples, models  # we come back to these
    for way in ("bag of words", MODEL):
        values = [share(r) for r in found[n, way]]
        spread = f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
        print(f"{n:4} labels  {way:12} {spread} {bar(values)}")

# %% [markdown]
# Read the spread first, then the means. Guessing gets half. At 16 labels nobody knows much, and the
# two lines overlap: a single run of each would prove nothing. From 64 labels on, expect four times
# as many to bring five points or more, and the pre-trained model to stay as far above the words.
#
# ## 4. A lottery
#
# Four draws hardly show how wide the spread is. The bag of words is cheap: the cell gives it 40 draws
# of 64 labels, and prints how many of them got how much right. About three seconds.

# %%
lottery = [100 * share(words_alone(draw(FEW, seed))) for seed in range(4 if QUICK else 40)]
for low in range(int(min(lottery)) // 2 * 2, int(max(lottery)) + 1, 2):
    print(f"{low} to {low + 2} %  {'#' * sum(low <= value < low + 2 for value in lottery)}")
print(f"mean {statistics.mean(lottery):.1f}, standard deviation {statistics.stdev(lottery):.1f} points")

# %% [markdown]
# Same learner, same test, same number of labels: all of this is which 64 rows somebody happened to
# label. Who compares one way on one draw with another way on another draw compares tickets.
#
# ## 5. Pairs
#
# The remedy costs nothing: give both ways the *same* ticket (same rows, same seed) and look at the
# *difference*. A lucky draw lifts both, and falls out of it. The mean of n differences then has the
# standard error s / √n, s being their standard deviation. Without pairs, the variances of both ways
# add up.
#
# How many seeds does it take to see a difference of two points? So many that two points are two
# standard errors: n = s², in points. (To see it nine times out of ten: two and a half times as many.)
#
# The cell prints the pairs at 64 labels, the mean with its standard error both ways, and the n.


# %%
def paired(a, b):
    """The mean of b - a in points, and its standard error; seed by seed, in the same order."""
    differences = [100 * (share(y) - share(x)) for x, y in zip(a, b, strict=True)]
    return statistics.mean(differences), statistics.stdev(differences) / math.sqrt(len(differences))


a, b = found[FEW, "bag of words"], found[FEW, MODEL]
for seed, (x, y) in enumerate(zip(a, b, strict=True)):
    print(f"seed {seed}: {100 * share(x):.1f} and {100 * share(y):.1f}, difference {100 * (share(y) - share(x)):+.1f}")
mean, error = paired(a, b)
alone = math.sqrt(sum(statistics.variance([100 * share(r) for r in way]) for way in (a, b)) / len(a))
for name, e in {"in pairs": error, "unpaired": alone}.items():
    needed = math.ceil(e**2 * len(a))
    print(f"{name}: {mean:+.1f}, standard error {e:.1f}; two points would take {max(2, needed)} seeds")

# %% [markdown]
# Pairs help as far as the two ways share their luck. With so few labels the head's random start and
# the order of the rows add some of their own, which no pairing takes away. And a standard error made
# of four differences is itself rough, by a third or more.
#
# A second kind of luck is the same for all seeds: *these* test rows. Of about 500, a share near 0.6
# has a standard error of two points (tutorial 01, section 7). It is not in the errors above, and more
# seeds do not help with it. Pairs do: both ways are asked the same rows.
#
# ## 6. Stage one: read the heap
#
# BERT learned by filling gaps. Why not let it fill gaps in *our* texts for a while, and learn the
# labels after that? Howard and Ruder (2018) did so with a recurrent model, which with 100 labels
# matched one trained from scratch with a hundred times as many. Gururangan et al. (2020, "Don't Stop
# Pretraining") did it with RoBERTa on eight tasks: text of the domain helped, most where it lay far
# from what the model had read, and so did the task's own texts alone.
#
# So theory says: expect some points, above all with few labels. The cell does it as a command, on
# the heap as a file (documents parted by lines `<|endoftext|>`), and prints the report. A tenth of
# the texts is held out, a seventh of their tokens hidden. Reviews are short, so rows of 128 tokens
# will do, which take less time than 512. About 25 seconds.

# %%
work = Path(scratch.name)
(work / "unlabelled.txt").write_text("\n<|endoftext|>\n".join(heap) + "\n", encoding="utf-8")
command = ["minift", "finetune", "mlm", "--train", "unlabelled.txt", "--out", "runs/domain"]
command += ["--max-length", "128", "--batch-size", "8", *(["--max-steps", "2"] if QUICK else ["--epochs", "2"])]
print("$", *command)
report = subprocess.run(
    [sys.executable, "-m", *command], cwd=work, stdout=subprocess.PIPE, encoding="utf-8", check=True
)
print(report.stdout)

# %% [markdown]
# Four things deserve a look.
#
# - *drawn at random: cls…*: bert-nano was distilled, it learned to imitate a larger model's vectors
#   (`data/models/README.md`), so it has no trained head for hidden words. Models that are published
#   as they were pre-trained, such as bert-base-uncased, have one.
# - *valid*, before and after: the perplexity is the number of words among which the model is as good
#   as lost. Before, that is more than the vocabulary has. Expect it to fall to about a thousand.
# - *hidden*: what it then puts into the gaps. If that is `the` and commas everywhere, it has learned
#   which words are common, which needs no reading at all.
# - *other*: what was forgotten of other text. By default these are our test reviews, which are no
#   other text here. They are only measured, nothing is learned or chosen by them.
#
# ## 7. Stage two: the labels
#
# Now the same labels and seeds as in section 3, from the folder of stage one: its head for words is
# dropped, one for labels is drawn. As commands, the two stages are
#
#     minift finetune mlm --train unlabelled.txt --out runs/domain
#     minift finetune classify --model runs/domain --train few.tsv
#
# where the second, if you say nothing else, takes three epochs of 2 steps and chooses among them by 6
# of your rows: give it `--epochs` and `--batch-size`. We use `learn`, for the reasons of section 2.
# The cell prints the means, and the paired difference with its standard error. About 15 seconds.


# %%
def compare(way, models):
    """Measure one model a seed, and print the difference from bert-nano on the same labels."""
    found[FEW, way] = [right(model) for model in models]
    values = [share(r) for r in found[FEW, way]]
    mean, error = paired(found[FEW, MODEL], found[FEW, way])
    print(f"{way:24} {statistics.mean(values):.3f} {bar(values)} {mean:+5.1f} ± {error:.1f}")


plain = [share(r) for r in found[FEW, MODEL]]
print(f"{'way':24} mean  {'':38} difference ± standard error")
print(f"{MODEL:24} {statistics.mean(plain):.3f} {bar(plain)}")
domain = work / "runs" / "domain"
compare("mlm, then classify", (learn(chosen, seed, EPOCHS[FEW], start=domain) for seed, chosen in enumerate(few)))

# %% [markdown]
# Take it as it is: what is less than two standard errors, in either direction, we have not seen. In
# our runs there was no gain. Why might theory and measurement differ?
#
# - *Little text.* Ours is a seventh of a megabyte, read twice. Theirs was gigabytes, or where it was
#   the task's own few texts, read a hundred times.
# - *No head.* They went on with the very job that the model had been doing. Ours starts a new one,
#   and while its head is random, what it sends down into the layers is noise.
# - *Nobody told the pooler.* The layer that reads a text's vector at `[CLS]` has no part in hidden
#   words: it still expects the layers below as they were.
# - *Near home.* The model has read plain English of many kinds, and reviews are plain English.
# - *Few seeds.* A true gain of a point would hide in our error.
#
# None of these is proved by our line; each can be tested. The first was, in part: the same two stages
# on two larger public data sets, with 64, 256 and 1,000 labels (`tests/bench/two_stages.py`). What
# came out stands in the README.
#
# ## 8. What stage one did to the model
#
# A second training starts where the first one ended, and may wreck what that had built: *catastrophic
# forgetting*, and no loss shows it. How far the weights went is a hint, and minift reports it: the
# length of the change as a share of the length.
#
# The usual remedy is to be gentle: let only the last block learn (`--tune last:1`), at a lower rate,
# for fewer steps. We do it in Python this time, the same command in other words. The cell prints for
# both how far each part moved, and the perplexity on the held-out texts. About six seconds.

# %%
gentle = work / "runs" / "gentle"
short = {"max_length": 128, "batch_size": 8, "max_steps": 2 if QUICK else 20}
minift.finetune("mlm", model=MODEL, train=heap, out=gentle, tune="last:1", lr=2e-4, **short)
for folder in (domain, gentle):
    result = json.loads((folder / "result.json").read_text("utf-8"))
    before, after = (result["metrics"][split]["perplexity"] for split in ("valid_before", "valid"))
    print(f"{folder.name}: perplexity {before:,.0f} before, {after:,.0f} after")
    for part, moved in result["train"]["moved"].items():
        print(f"   {part:12} {moved:7.2%} {'#' * round(400 * moved)}")

# %% [markdown]
# That is the trade. The gentle one leaves embeddings and first block bit for bit: it cannot spoil
# them, and cannot teach them either. The thorough one learned more about hidden words, at the price
# of a shift in every layer. Which is the better start, only labels can say: put `compare` into a cell
# of your own, with `start=gentle`. We saw next to no difference from bert-nano: who does little,
# changes little.
#
# ## 9. Cheaper things first
#
# Before two stages, try what costs nothing. `--tune head` trains a head alone on the features
# that are there: it spoils nothing, and is quick, since `backward` stops at once. And the epochs:
# "two or three" is good advice for thousands of rows; of 64 rows, 2 epochs are 16 steps. The cell
# prints what each gets. About 15 seconds.

# %%
times = {"head": 1 if QUICK else 12, "all": 1 if QUICK else 2}
for name, tune in {"head alone": "head", "2 epochs": "all"}.items():
    compare(name, (learn(chosen, seed, times[tune], tune=tune) for seed, chosen in enumerate(few)))

# %% [markdown]
# Too few steps cost more than any trick here gained. The head alone fell some points behind in our
# runs: how near it comes depends on the features. It is still the first thing to try.
#
# ## 10. Self-training
#
# Another use of the heap: let the classifier label it, keep what it is surest of (*pseudo-labels*),
# and learn once more from these and the 64 true ones. It is an old idea (Yarowsky 1995; Lee 2013),
# and `minift.predict` is all it takes. Its danger is plain: the model's errors become its textbook.
#
# The cell does it for each seed with the 200 surest, and prints how sure the least sure of them was,
# how many are of each class, and how many are right: of these, and of all. (Only we can know that,
# having hidden the labels ourselves.) Then the accuracy as above. About 20 seconds.

# %%
guesses = {}  # by seed: the rows without labels, and what the first classifier says of them


def second_round(chosen, seed):
    """A classifier that has learned from these rows and from what a first one was sure of."""
    rest = [row for row in rows[: 60 if QUICK else None] if row not in chosen]
    said = minift.predict((first[seed], tokenizer), [row["text"] for row in rest])
    guesses[seed] = rest, said
    order = sorted(range(len(rest)), key=lambda i: -max(said[i]["scores"].values()))
    sure, least = order[:200], max(said[order[:200][-1]]["scores"].values())
    pseudo = [{"text": rest[i]["text"], "label": said[i]["prediction"]} for i in sure]
    good = [sum(rest[i]["label"] == said[i]["prediction"] for i in some) / len(some) for some in (sure, order)]
    counts = dict(Counter(row["label"] for row in pseudo))
    print(f"seed {seed}: {least:.3f} or surer, {counts}, {good[0]:.2f} right, of all {good[1]:.2f}")
    return learn(chosen + pseudo, seed, 1 if QUICK else 2)


compare("self-training", (second_round(chosen, seed) for seed, chosen in enumerate(few)))

# %% [markdown]
# A classifier that has learned its 64 rows by heart is sure of nearly everything: 0.99 is no longer a
# probability of being right. Its surest guesses are better than the rest, but far from true, and with
# an unlucky draw far from fair to both classes (exercise 2). Expect a gain of a point at most, within
# its error.
#
# ## 11. Leaks
#
# With much text from everywhere, the test set gets in by doors that stay shut in a tidy benchmark.
#
# *Duplicates.* A crawled heap holds many texts twice, and test rows among them. In stage one, the
# model reads what it will be asked; if somebody then labels the heap, it reads the answers. A search
# for equal strings misses a copy with another comma. The cell plants ten test rows in the heap, in
# capitals and without the full stop, counts equal texts, then texts that are equal word by word, and
# shows what a hundred labelled copies would do for the bag of words.

# %%
planted = heap + [row["text"].upper().rstrip(".!") for row in unseen[:10]]


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


print("equal texts:", len({row["text"] for row in unseen} & set(planted)))
print("equal words:", len({tuple(words(row["text"])) for row in unseen} & {tuple(words(text)) for text in planted}))
copies = unseen[: 20 if QUICK else 100]
honest, leaked = share(words_alone(few[0])), share(words_alone(few[0] + copies))
print(f"bag of words, 64 labels: {honest:.3f}, with the copies {leaked:.3f}")

# %% [markdown]
# (Exercise 3 finds copies with words added in front or behind, too.)
#
# *Choosing by the test.* By now we have trained many classifiers with 64 labels. Suppose that we had
# asked the test about each and reported the best. How much of its score would be luck? Split the
# test rows in two at random, choose the best run by one half, and ask the other half, which had no
# part in the choice. The cell does this 500 times and prints the means.

# %%
runs = torch.stack([r for (n, _), several in found.items() if n == FEW for r in several]).float()  # (runs, N)
chance, gaps = torch.Generator().manual_seed(0), []
for _ in range(500):
    order = torch.randperm(runs.shape[1], generator=chance)
    one, other = runs[:, order[: len(order) // 2]].mean(1), runs[:, order[len(order) // 2 :]].mean(1)  # (runs,)
    gaps.append((one.max(), other[one.argmax()]))
chosen_by, asked = (100 * sum(float(x) for x in column) / len(gaps) for column in zip(*gaps, strict=True))
print(f"the best of {len(runs)} runs: {chosen_by:.1f} % on the half it was chosen by, {asked:.1f} % on the other")

# %% [markdown]
# The gap is the price of having looked, as large as the effects that we were hunting. Nothing was
# trained on a test row, and still the score is not true. Epochs, rate, the number of pseudo-labels,
# the way itself: what is chosen by the test is learned from the test. Choose by other rows (and count
# them among your labels), by cross-validation within the 64, or by what other tasks have taught; then
# ask the test once.
#
# So, with few labels: count words first, and know the spread. Take enough steps. Compare in pairs.
# Two stages, if there are megabytes of text and the model still has its head for words; keep them
# only if pairs say so. And label more: section 3 says what another 200 labels bring.
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
# **Exercise 1: a fair draw.** Given rows with a `label`, return a list of n of them, drawn at random
# but *stratified*: each label gets its share of n, rounded down, and what is then left goes, one
# each, to the labels whose shares lost most by that. No row twice; the same seed, the same rows;
# another seed, others; and the global generator (`random.seed`) stays as it was.
#
# Hint: `random.Random(seed)` is a generator of your own, and has `sample`. Sort the labels before
# you go through them, so that nothing depends on the order of a set.


# %%
def stratified(rows: list[dict], n: int, seed: int) -> list[dict]: ...


def check_stratified(answer):
    many = [{"text": str(i), "label": "aabaacaabb"[i % 10]} for i in range(200)]  # a 120, b 60, c 20
    for n, want in {10: (6, 3, 1), 13: (8, 4, 1), 18: (11, 5, 2), 200: (120, 60, 20)}.items():
        got = answer(many, n, 0)
        assert isinstance(got, list) and len(got) == n, f"return a list of {n} rows, not {got!r:.60}"
        assert len({row["text"] for row in got}) == n, "no row may be drawn twice"
        counts = tuple(sum(row["label"] == label for row in got) for label in "abc")
        assert counts == want, f"of 120 a, 60 b, 20 c, a draw of {n} should have {want}, yours has {counts}"
    state = random.getstate()
    first, again, other = answer(many, 10, 5), answer(many, 10, 5), answer(many, 10, 6)
    assert random.getstate() == state, "the global generator was used: make one of your own"
    assert first == again, "the same seed should draw the same rows"
    assert sorted(row["text"] for row in first) != sorted(row["text"] for row in other), "another seed, other rows"


try_(1, check_stratified, stratified)

# %% [markdown]
# **Exercise 2: pseudo-labels in equal numbers.** A classifier that leans to one side is surer on
# that side, and pseudo-labels then make it lean more. Given predictions (as from `minift.predict`:
# `prediction`, and `scores` with a probability for *every* label), return a list of (number of the
# prediction, label): for each label the `most` surest of those that were predicted so, or, if some
# label was predicted less often than that, as many of each as of that one.
#
# Hint: the labels are the keys of `scores`; one that is never predicted makes the list empty.


# %%
def confident(predictions: list[dict], most: int) -> list[tuple[int, str]]: ...


def check_confident(answer):
    def said(*positive):
        return [{"prediction": LABELS[p > 0.5], "scores": dict(zip(LABELS, (1 - p, p), strict=True))} for p in positive]

    cases = [
        ("more of one class", said(0.9, 0.99, 0.98, 0.2, 0.4, 0.97), 2, {(1, 1), (2, 1), (3, 0), (4, 0)}),
        ("only one of a class", said(0.9, 0.99, 0.3, 0.8), 3, {(1, 1), (2, 0)}),
        ("a class that is never predicted", said(0.9, 0.8), 1, set()),
    ]
    for name, predictions, most, want in cases:
        got = answer(predictions, most)
        assert isinstance(got, list), f"return a list of (number, label), not {got!r}"
        want = {(i, LABELS[k]) for i, k in want}
        assert set(got) == want and len(got) == len(want), f"{name}, most={most}: expected {sorted(want)}, got {got}"
    for seed, (rest, predictions) in guesses.items():
        found = answer(predictions, 50)
        good = sum(rest[i]["label"] == label for i, label in found) / max(1, len(found))
        print(f"   seed {seed}: {len(found)} of them in equal numbers, {good:.2f} right")


try_(2, check_confident, confident)

# %% [markdown]
# **Exercise 3: near copies.** Given two lists of texts, return the list of all pairs (i, j), sorted,
# where text i of the first and text j of the second have n words in a row in common. Words are what
# `words` above makes of a text. A text with less than n words counts as one run: all of it.
#
# Hint: comparing each with each takes long for a heap. Make a dictionary from runs (tuples of words)
# to the numbers of the texts in the first list, and look up the runs of the second.


# %%
def near_copies(first: list[str], second: list[str], n: int = 8) -> list[tuple[int, int]]: ...


def check_near_copies(answer):
    text = "We waited an hour for soup that was stone cold, and nobody said sorry."
    cases = {
        text.upper()[:-1]: True,
        "Honestly? " + text + " Never again.": True,
        "We waited an hour for soup that was lovely.": True,
        "We waited an hour for soup that never came.": False,
        "Sorry: nobody said cold stone was that soup for hour an.": False,
    }
    for other, alike in cases.items():
        got, want = answer(["Something else.", text], [other]), [(1, 0)] if alike else []
        assert isinstance(got, list), f"return a list of pairs (i, j), not {got!r}"
        assert got == want, f"{text!r} and {other!r}: expected {want}, yours is {got}"
    got = answer(["Not bad!", "Bad."], ["not bad", "Not bad at all"])
    assert got == [(0, 0)], f"'Not bad!' and 'not bad' are the same short text: expected [(0, 0)], yours is {got}"
    print("   between heap and test:", len(answer(heap, [row["text"] for row in unseen])), "pairs")


try_(3, check_near_copies, near_copies)
