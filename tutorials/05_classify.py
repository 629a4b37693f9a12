# %% [markdown]
# # Classification in earnest
#
# Tutorial 01 showed the loop. Here is the rest of the craft: where a classifier reads from and what
# goes wrong there, why losses are summed, how much of a model should learn, what a rate that is too
# high looks like, and how to find out what a model cannot do. At the end it lies in a folder, which
# other libraries read too.
#
# Run it cell by cell, or whole: `python tutorials/05_classify.py`, about a minute, no network. A
# cell that takes longer than a second says so.

# %%
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

import minift
from minift import adapters, baselines, data, hub, metrics, optim
from minift.models import gpt2
from minift.tasks.classify import Classify

MODEL = "bert-nano"  # or the folder of a published BERT
QUICK = bool(os.environ.get("MINIFT_QUICK"))  # the tests set it: fewer rows and epochs, nothing else

torch.manual_seed(0)
scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # everything we write goes here

# %% [markdown]
# ## 1. From a row to a loss
#
# A task in minift is one file, and `tasks/classify.py` is read in ten minutes. A row becomes an
# *example* (ids and the number of its label), examples become a *batch*, a batch becomes logits,
# and logits and labels a loss. The cell prints each of these for two reviews.

# %%
rows = data.read(hub.DATA / "reviews" / "train.tsv")
labels = Classify.labels_of(rows, regression=False)  # the names in the column `label`, sorted
model, tokenizer = minift.load_model(MODEL, kind="classify", labels=labels), minift.load_tokenizer(MODEL)
task = Classify(tokenizer, labels)

examples = task.examples(rows.take([0, 1]))
batch = task.batch(examples)
print("labels", labels)
for example in examples:
    print("example", example)
print("batch", {name: tuple(tensor.shape) for name, tensor in batch.items()})
print("logits", task.logits(model, batch).tolist())
print("loss: sum and how many", task.loss(model, batch))

# %% [markdown]
# ## 2. Where a BERT is read
#
# A BERT gives a vector for every piece, a classifier needs one for the text. `[CLS]` is the first
# piece of every row, and every piece can see every other, so one place is as good as any; the
# *pooler*, a linear layer and tanh, was trained to read there. (Ours has learned to put the meaning
# of the whole text into it. BERT's own learned whether one sentence follows another.)
#
# The cell does it by hand and compares.

# %%
hidden = model.hidden(batch["ids"], batch["mask"])  # (B, T, C)
pooled = torch.tanh(hidden[:, 0] @ model.bert.pooler.dense.weight.T + model.bert.pooler.dense.bias)  # (B, C)
logits = pooled @ model.classifier.weight.T + model.classifier.bias  # (B, labels)
print("differs by", (logits - model(batch["ids"], batch["mask"])).abs().max().item())

# %% [markdown]
# ## 3. Where a GPT-2 is read
#
# A GPT-2's tokens see only what came before them. The first knows nothing of the text; only the
# *last real* one has seen it all. In a batch, what stands last in a short row is padding.
#
# We make a tiny GPT-2 with random weights that reads bytes: even an untrained classifier must give
# one text one answer. The cell takes one text, adds 0 to 4 pads, and prints the probability of
# label 1, read in three ways: at the last place without a mask; at the last place with a mask; and
# as minift does, at the last place where the mask is True.

# %%
config = gpt2.Config(vocab_size=256, n_positions=64, n_embd=32, n_layer=2, n_head=4)
writer = gpt2.GPT2(config, kind="classify").eval().requires_grad_(False)
for p in writer.parameters():
    p += 0.3 * torch.randn(p.shape)  # fresh weights are so small that all answers would be about a half


def three_ways(text, pads):
    ids = torch.tensor([list(text.encode()) + [0] * pads])  # (1, T); GPT-2 has no pad token: any id will do
    mask = torch.arange(ids.shape[1])[None] < len(text)  # (1, T)
    careless = writer.score(writer.hidden(ids)[:, -1])
    half = writer.score(writer.hidden(ids, mask)[:, -1])
    return [logits.softmax(-1)[0, 1].item() for logits in (careless, half, writer(ids, mask))]


print("text   pads   last, no mask   last, mask   last real one")
for text in ("a delight", "a bore"):
    for pads in range(5):
        careless, half, right = three_ways(text, pads)
        print(f"{text:9} {pads:2} {careless:13.3f} {half:14.3f} {right:13.3f}")

# %% [markdown]
# Read down the columns. The first drifts with the number of pads, so the answer depends on which
# *other* texts are in the batch. In the second, once there is a pad, both texts get the same
# answer: padding sees only padding, and nothing of the text is read at all. Neither raises an
# error, and training hides it, since the model learns to live with the pads it sees there. minift's
# stays put. (Exercise 1: write it, for rows padded on either side.)
#
# ## 4. Sums, not means
#
# Memory often holds only part of a batch, so one step is made of several: their gradients add up,
# then comes the update. That must give what one large batch gives, and it does if the losses are
# *summed* and divided once, by the number of all their rows.
#
# The tempting way is the mean of the batches' means. If one batch has 5 rows and the next has 1,
# the lonely row then weighs as much as five. (In a language model the units are tokens, and batches
# never have equally many: well-known libraries had this wrong for years.)
#
# The cell computes the gradient of 6 rows in one batch, and in batches of 5 and 1 by either way,
# and prints how far the latter are off, as a share of its length.


# %%
def gradient(sizes, mean_of_means):
    """The gradient of the first rows, in batches of these sizes, as one long vector."""
    model.zero_grad()
    start = 0
    for size in sizes:
        part = task.batch(task.examples(rows.take(list(range(start, start + size)))))
        summed, count = task.loss(model, part)
        (summed / count / len(sizes) if mean_of_means else summed / sum(sizes)).backward()
        start += size
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


large = gradient([6], mean_of_means=False)
for way in (False, True):
    off = (gradient([5, 1], way) - large).norm() / large.norm()
    print("mean of means:          " if way else "sums, and one division: ", f"off by {off:.7f}")

# %% [markdown]
# `minift finetune --batch-size 8 --accumulate 4` does the first: four batches a step, one division.
#
# ## 5. How much should learn?
#
# Three usual answers: the new head alone (the model is then a fixed maker of features), the last
# block or blocks, everything. The cell prints for each how many numbers learn.

# %%
for tune in ("head", "last:1", "all"):
    learning, total = adapters.choose(model, tune)
    print(f"{tune:7} {learning:10,} of {total:,}")

# %% [markdown]
# Fewer learning numbers mean less memory (AdamW keeps two more for each), less to save, less that
# can be learned by heart; and all that learns stands at the top, so `backward` can stop there. But
# the features were made for something else, and a head cannot reach into them.
#
# We measure. `minift.finetune` is the whole of tutorial 01 in one call: it trains on the rows,
# takes the epoch that does best on the validation rows, and asks about the test rows before and
# after. First everything learns, and we let it report. About 20 seconds. The lines to look at:
# *before*, *after*, and the *baseline* of a bag of words, the one to beat.

# %%
chosen = list(range(len(rows.rows)))
random.Random(0).shuffle(chosen)
known = rows.take(chosen[: 48 if QUICK else 512]).rows
check = data.read(hub.DATA / "reviews" / "validation.tsv").rows[: 24 if QUICK else None]
unseen = data.read(hub.DATA / "reviews" / "test.tsv").rows[: 60 if QUICK else None]


def finetune(tune, say=lambda line: None, **more):
    settings = {"train": known, "valid": check, "test": unseen, "epochs": 1 if QUICK else 3, "batch_size": 16} | more
    out = Path(scratch.name, f"run-{len(list(Path(scratch.name).iterdir()))}")
    return minift.finetune("classify", say=say, model=MODEL, tune=tune, out=out, **settings)


runs = {"all": finetune("all", say=print)}

# %% [markdown]
# Then the head alone, and the last block, on the same rows. Each takes its usual rate: a head alone
# can be driven much faster, since it has no knowledge to lose. About 20 seconds.

# %%
runs |= {tune: finetune(tune) for tune in ("head", "last:1")}
bag = runs["all"].baselines["bag_of_words"]["accuracy"]
print(f"{'':12} learning   seconds  valid   test")
for tune in ("head", "last:1", "all"):
    run = runs[tune]
    valid, test = run.metrics["valid"]["accuracy"], run.metrics["test"]["accuracy"]
    print(f"{tune:10} {run.train['learning']:10,} {run.train['seconds']:9.1f}  {valid:.3f}  {test:.3f}")
print(f"{'bag of words':39} {bag:.3f}")

# %% [markdown]
# Expect the time to grow with what learns. The accuracies are close enough together to be careful:
# of about 500 test rows, two in a hundred are chance. What one may say in general: the
# head alone is a good first answer, quick and hard to spoil; when there are some hundred labels or
# more, letting everything learn is usually best, and it is what minift does if you say nothing.
#
# ## 6. A rate that is too high
#
# The commonest failure of fine-tuning has an odd symptom: the model gives one and the same class
# for every text. A few steps that are too long carry the weights so far that nothing of the reading
# is left, and all texts get the same vector; from there the best guess is the commoner label. The
# cell does it on purpose, with 50 times the usual rate. About 4 seconds.

# %%
usual = optim.usual_rate(model.config.hidden_size, len(model.blocks), "all")
few = {"train": known[:128], "epochs": 1 if QUICK else 2, "valid": check[:48], "test": unseen[:100]}
spoilt = finetune("all", lr=50 * usual, **few)
print({name: round(value, 3) for name, value in spoilt.metrics["test"].items()})

# %% [markdown]
# The accuracy alone would not tell: half right is what bad luck looks like, too. Three other
# figures do, and the cell prints them for the spoilt run and for the good one on the same rows:
#
# - the *confusion matrix* (row: the true label, column: the predicted one) has an empty column;
# - `mcc`, the correlation of truth and prediction, is 0 where one label is always given;
# - the probabilities hardly differ from text to text.


# %%
def numbers(rows, predictions):
    """Labels and predictions as class numbers."""
    return [labels.index(p["prediction"]) for p in predictions], [labels.index(row["label"]) for row in rows]


for name, run in {"spoilt": spoilt, "good": runs["all"]}.items():
    predictions = minift.predict((run.model, run.tokenizer), unseen[:100])
    guess, truth = numbers(unseen[:100], predictions)
    positive = torch.tensor([p["scores"]["positive"] for p in predictions])
    print(f"\n{name}: mcc {metrics.classification(guess, truth, labels)['mcc']:.2f},", end=" ")
    print(f"probability of 'positive': {positive.min():.3f} to {positive.max():.3f}, deviation {positive.std():.3f}")
    print(metrics.confusion_text(metrics.confusion(guess, truth, len(labels)), labels))

# %% [markdown]
# What to do: lower the rate (by 10, then adjust), or warm up longer. You need not wait for the end
# of the run, either: a loss that stays at log 2 = 0.69 or above it (of L labels: log L) means that
# the texts might as well not be there.
#
# ## 7. What can it not do?
#
# One accuracy for all rows hides that some are harder. The reviews know how they were written:
# `plain`, by `negation`, `mixed` (praise and blame, one prevails), `implied` (facts only, no
# judging word), `irony`. The cell prints, for each style, how many rows there are and the share
# that the bag of words and the fine-tuned model get right. About two seconds.

# %%
run = runs["all"]
predictions = minift.predict((run.model, run.tokenizer), unseen)
guess, truth = numbers(unseen, predictions)
learned_from = [row["text"] for row in known], [labels.index(row["label"]) for row in known]
by_words = baselines.bag_of_words(*learned_from, [row["text"] for row in unseen], len(labels))


def share(guess, chosen):
    return sum(guess[i] == truth[i] for i in chosen) / len(chosen)


styles = {}
for i, row in enumerate(unseen):
    styles.setdefault(row["style"], []).append(i)
print("style      rows  bag of words  fine-tuned")
for style, chosen in sorted(styles.items(), key=lambda item: -share(guess, item[1])):
    print(f"{style:10} {len(chosen):4} {share(by_words, chosen):13.2f} {share(guess, chosen):11.2f}")

# %% [markdown]
# (Mind the number of rows: of 20, one row is five points. `data/reviews/hard.tsv` has 418 more rows
# without a plain one.) And now the rows themselves. For each style, the cell prints the mistake that
# the model was surest of. Read them as a detective would: which words led it astray? Once in a while
# the label is wrong, and you have found an error in the data.

# %%
for style, chosen in styles.items():
    wrong = [i for i in chosen if guess[i] != truth[i]]
    if wrong:
        worst = max(wrong, key=lambda i: max(predictions[i]["scores"].values()))
        said = predictions[worst]
        print(f"{style}: said {said['prediction']} {said['scores'][said['prediction']]:.2f}, is {labels[truth[worst]]}")
        print("   ", unseen[worst]["text"], "\n")

# %% [markdown]
# ## 8. Two texts
#
# Some questions are about a pair: does B follow from A, do they say the same, does B answer A? The
# columns are then `text_a` and `text_b` (or `sentence1`, `sentence2`), and nothing else changes.
# Both texts go into one row of ids, and *segments* tell the model which of them a piece belongs to.
# The cell prints a row's pieces over its segments.

# %%
rows_of_pairs = [
    {"text_a": "Is the soup hot?", "text_b": "It is stone cold.", "label": "no"},
    {"text_a": "Is it good?", "text_b": "Very.", "label": "yes"},
]
pairs = data.read(rows_of_pairs)
pair_task = Classify(tokenizer, Classify.labels_of(pairs, regression=False))
batch = pair_task.batch(pair_task.examples(pairs))
for token, segment in zip(tokenizer.tokens(batch["ids"][0].tolist()), batch["segments"][0].tolist(), strict=True):
    print(f"{segment}  {token}")

# %% [markdown]
# Does it matter? The cell prints the logits with the segments, without them, and with the two texts
# exchanged. (The head is untrained, so it is the differences that count.) Forgetting the segments
# raises no error: it is one more thing that a task should do once, for everybody.

# %%
judge = minift.load_model(MODEL, kind="classify", labels=pair_task.labels)
swapped = [{"text_a": row["text_b"], "text_b": row["text_a"]} for row in rows_of_pairs]
for name, given in {
    "segments": batch,
    "without": batch | {"segments": torch.zeros_like(batch["segments"])},
    "exchanged": pair_task.batch(pair_task.examples(data.read(swapped), labelled=False)),
}.items():
    print(f"{name:10} {[round(x, 4) for x in pair_task.logits(judge, given)[0].tolist()]}")

# %% [markdown]
# ## 9. The folder
#
# Each run has left a folder: the model with its head, the tokenizer, and what is needed to
# understand or repeat the run. `result.json` has all figures, `config.toml` all settings,
# `metrics.jsonl` a line every few steps, `curves.svg` a picture of the loss. The cell prints the
# files, and what the folder says of two texts, beside the model in memory.

# %%
for path in sorted(run.folder.iterdir()):
    print(f"{path.stat().st_size:12,} {path.name}")
mine = ["A delight from the first page to the last.", "The soup was cold and the waiter was rude."]
from_folder, in_memory = minift.predict(run.folder, mine), minift.predict((run.model, run.tokenizer), mine)
for text, a, b in zip(mine, from_folder, in_memory, strict=True):
    print(f"{a['prediction']} {a['scores']['positive']:.4f}, in memory {b['scores']['positive']:.4f}: {text}")

# %% [markdown]
# The folder has the form that Hugging Face's libraries read. The proof is to let them: if
# `transformers` is installed here, the cell loads the folder with it, model and tokenizer, and
# prints its probabilities and the largest difference. That import may take some seconds.

# %%
if importlib.util.find_spec("transformers"):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    theirs = AutoModelForSequenceClassification.from_pretrained(run.folder).eval()
    inputs = AutoTokenizer.from_pretrained(run.folder)(mine, padding=True, return_tensors="pt")
    with torch.inference_mode():
        scores = theirs(**inputs).logits.softmax(-1)
    ours = torch.tensor([list(p["scores"].values()) for p in from_folder])
    print("labels", theirs.config.id2label)
    print("probabilities", scores.tolist())
    print(f"differs from minift's by {(scores - ours).abs().max():.1e}")
else:
    print("transformers is not installed here; `pip install transformers`, and run this cell again")

# %% [markdown]
# ## 10. In one command
#
# All of this from the shell, on your own files:
#
#     minift finetune classify --train train.tsv --test test.tsv --out runs/mine
#     minift predict runs/mine "The soup was cold."
#     minift predict runs/mine --input new.csv --output predictions.jsonl
#     minift evaluate runs/mine --data test.tsv
#
# `minift finetune classify` without more takes bert-nano and these reviews; `--tune head`, `--lr`,
# `--accumulate` are what you saw above; `--regression` is for labels that are numbers;
# `--baselines` also trains the blank twin of tutorial 01. The cell runs the second of the commands
# above, on our folder. About 3 seconds, most of them for starting Python.

# %%
command = [sys.executable, "-m", "minift", "predict", run.folder, "The soup was cold."]
print(subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout)

# %% [markdown]
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
# **Exercise 1: the last real token.** Given `hidden` (B, T, C) and a bool `mask` (B, T), return (B,
# C): the vector at the last place of each row where the mask is True. Rows may be padded on the
# right or on the left; each has at least one real token.
#
# Hint: the number of real tokens tells you the place only if padding is on the right. `argmax` of a
# tensor of 0 and 1 gives the *first* 1; `flip(1)` turns rows around. Or: places times mask, and the
# largest.


# %%
def last_real(hidden, mask): ...


def check_last_real(answer):
    hidden = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))
    places = [5, 2, 5, 3]  # no padding; on the right; on the left; on both sides
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0]]).bool()
    got = answer(hidden, mask)
    assert isinstance(got, torch.Tensor) and got.shape == (4, 3), f"return a tensor (B, C), here (4, 3), not {got!r}"
    for row, place in enumerate(places):
        assert torch.equal(got[row], hidden[row, place]), (
            f"for the mask {mask[row].int().tolist()} the last real token is at place {place}; yours is another"
        )


try_(1, check_last_real, last_real)

# %% [markdown]
# **Exercise 2: one step of several batches.** `loss(model, batch)` gives (sum of the losses, number
# of units). Leave in each parameter's `.grad` the gradient of the mean loss over *all units of all
# batches*, and return that mean as a number. Hold no more than one batch's computation in memory:
# call `backward` for each batch before the next. How many units there are you learn only on the
# way. The gradients may still hold those of the last step.
#
# Hint: gradients add up. What is known only at the end can be divided out at the end: `p.grad` can
# be changed in place.


# %%
def accumulate(model, batches, loss) -> float: ...


def check_accumulate(answer):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, generator=generator), torch.randn(7, 1, generator=generator)
    summed = lambda model, rows: (F.mse_loss(model(x[rows]), y[rows], reduction="sum"), len(rows))
    small = torch.nn.Linear(3, 1)
    want = F.mse_loss(small(x), y)
    gradients = torch.autograd.grad(want, small.parameters())
    for batches in ([[0, 1, 2, 3, 4, 5, 6]], [[0, 1, 2, 3], [4, 5], [6]]):  # the second finds the first's gradients
        sizes = [len(rows) for rows in batches]
        got = answer(small, batches, summed)
        assert isinstance(got, float), f"return the mean loss as a number, not {got!r}"
        assert abs(got - want.item()) < 1e-5, f"batches of {sizes} rows: the mean loss is {want:.4f}, yours {got:.4f}"
        for p, gradient in zip(small.parameters(), gradients, strict=True):
            assert p.grad is not None, "call backward: the parameters have no gradient"
            assert torch.allclose(p.grad, gradient, atol=1e-5), (
                f"batches of {sizes} rows: a gradient should be {gradient.tolist()}, yours is {p.grad.tolist()}"
            )


try_(2, check_accumulate, accumulate)

# %% [markdown]
# **Exercise 3: macro F1.** Accuracy flatters a model that ignores a rare class. F1 of a class is 2
# times right / (true + predicted): how often it was rightly given, against how often it is true and
# how often it was given. The macro F1 is the mean over the classes. Given a confusion matrix (n, n)
# as a tensor, row = truth, column = prediction, return it as a number. A class that occurs neither
# in truth nor in prediction does not count.
#
# Hint: `diagonal`, `sum(0)`, `sum(1)`. It is not the mean of the classes' recalls: that would not
# care how often a class is given *wrongly*.


# %%
def macro_f1(matrix: torch.Tensor) -> float: ...


def check_macro_f1(answer):
    cases = {
        "all right": ([[3, 0], [0, 5]], 1.0),
        "one class always predicted": ([[6, 0], [2, 0]], (12 / 14 + 0) / 2),
        "three classes": ([[4, 1, 0], [2, 6, 1], [0, 0, 2]], (8 / 11 + 12 / 16 + 4 / 5) / 3),
        "a class that does not occur": ([[4, 1, 0], [2, 6, 0], [0, 0, 0]], (8 / 11 + 12 / 15) / 2),
    }
    for name, (matrix, want) in cases.items():
        got = answer(torch.tensor(matrix))
        assert isinstance(got, float | int), f"return a number (`.item()`), not {got!r}"
        assert abs(got - want) < 1e-6, f"{name}, {matrix}: macro F1 is {want:.4f}, yours {got:.4f}"
    theirs = metrics.classification(guess, truth, labels)["macro_f1"]
    got = answer(torch.tensor(metrics.confusion(guess, truth, len(labels))))
    assert abs(got - theirs) < 1e-6, f"of the fine-tuned model it is {theirs:.4f}, yours {got:.4f}"


try_(3, check_macro_f1, macro_f1)
