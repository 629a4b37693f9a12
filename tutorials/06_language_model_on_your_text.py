# %% [markdown]
# # A language model on your text
#
# A language model needs no labels: the next word of a text is the answer to the words before it. So
# it can learn from any pile of text, your letters, a manual, the minutes of a club; and if it has
# read other things before, a little will do. Here a small GPT-2 that knows children's books reads 64
# short documents from a harbour town that does not exist. We measure what it makes of eight others
# before and after, what it forgets, and when it stops learning and begins to recite.
#
# Run it cell by cell, or whole: `python tutorials/06_language_model_on_your_text.py`, about a
# minute and a half on two cores, no network. A cell that takes longer than a second says so.

# %%
import math
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F

import minift
from minift import adapters, data, generation, hub, optim, use
from minift.data import IGNORE
from minift.tasks.lm import LM

MODEL = "gpt2-nano"  # or the folder of a published GPT-2
QUICK = bool(os.environ.get("MINIFT_QUICK"))  # the tests set it: fewer documents and epochs, nothing else

torch.manual_seed(0)
scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # everything we write goes here

# %% [markdown]
# ## 1. What the next token costs
#
# For every token of a text the model gives each of its V tokens a probability to come next. What
# came is then charged: minus the logarithm of its probability, in *nats* (natural logarithm) or
# *bits* (to base 2). A token that was certain costs nothing, one of two equally likely costs a bit.
# The loss of a text is the mean over its tokens.
#
# A text begins after the token `<|endoftext|>`, and ends with one: so its first word is predicted,
# too, and that it is over. The cell prints the pieces of a sentence, what each cost, and what the
# model thought likeliest instead; then the mean, and what minift says.

# %%
model, tokenizer = minift.load(MODEL)
END = tokenizer.eos


def costs(model, text):
    """(T,) the tokens of a text and its end, (T,) what each costs in nats, (T,) the likeliest instead."""
    ids = torch.tensor([[END, *tokenizer.encode(text), END]])[:, : model.longest + 1]  # (1, T + 1)
    with torch.inference_mode():
        log_p = model(ids[:, :-1])[0].log_softmax(-1)  # (T, V): logits at t are about token t + 1
    target = ids[0, 1:]
    return target, -log_p.gather(1, target[:, None])[:, 0], log_p.argmax(-1)


def name(id):
    """A token as it may be printed in a column: its space as _, its line end as \\n."""
    return "·" if id == IGNORE else "<end>" if id == END else repr(tokenizer.tokens([id])[0])[1:-1].replace(" ", "_")


sentence = "The boat came home before the tide turned."
target, loss, likeliest = costs(model, sentence)
for id, nats, guess in zip(target.tolist(), loss.tolist(), likeliest.tolist(), strict=True):
    print(f"{name(id):10} probability {math.exp(-nats):.4f}, {nats / math.log(2):5.1f} bits   likeliest: {name(guess)}")
theirs = minift.evaluate((model, tokenizer), [sentence])
print(f"mean {loss.mean():.5f} nats a token, by minift {theirs['loss']:.5f}")

# %% [markdown]
# ## 2. Perplexity, and bits per byte
#
# *Perplexity* is the exponential of the mean: as if the model had to choose among so many equally
# likely tokens each time. It is the usual figure, and has a catch: a mean over tokens depends on
# what a token is. The model gave the whole text one probability; how many pieces we share its
# logarithm among is a matter of book-keeping.
#
# The cell shares the cost of one held-out document among its tokens, its words and its bytes.


# %%
def documents(file):
    """The rows of one of the embedded files, without the line ends around a document."""
    return [row | {"text": row["text"].strip("\n")} for row in data.read(hub.DATA / "harbour" / file).rows]


known, held = documents("train.txt"), documents("validation.txt")
text = held[0]["text"]
_, loss, _ = costs(model, text)
bits = loss.sum().item() / math.log(2)
print(f"{bits:,.0f} bits for the {len(text)} characters that begin {text[:40]!r}")
for unit, count in {"tokens": len(loss), "words": len(text.split()), "bytes": len(text.encode())}.items():
    print(f"{count:6} {unit:7} {bits / count:6.2f} bits each, perplexity {2 ** (bits / count):12,.1f}")

# %% [markdown]
# One model, one text, three perplexities: so figures of models with different vocabularies do not
# compare. Bytes are the same for everybody, and *bits per byte* do. They are also what a file could
# be packed to: with the model at hand, a byte (8 bits) of this text can be stored in so many bits.
#
# A rival, to see how perplexity misleads: count in the 64 documents which byte follows which, and
# predict bytes by these counts. The cell prints both figures for it, for the model, and the bits
# per byte of the packer `zlib`, which knows nothing beforehand. By perplexity the counter wins, by
# bits per byte the model.

# %%
stream = torch.tensor(list("\n".join(row["text"] for row in known).encode()))
counts = 1 + torch.bincount(stream[:-1] * 256 + stream[1:], minlength=256**2).view(256, 256)  # 1: nothing is impossible
log_p = (counts / counts.sum(1, keepdim=True)).log()  # (256, 256)
here = torch.tensor(list(("\n" + text).encode()))
by_counts = -log_p[here[:-1], here[1:]]  # (bytes,)
size = len(text.encode())
for who, nats in {"counting bytes": by_counts, MODEL: loss}.items():
    print(f"{who:16} perplexity {nats.mean().exp():7.1f}   bits per byte {nats.sum() / math.log(2) / size:.2f}")
print(f"{'zlib':16} {'':18}   bits per byte {8 * len(zlib.compress(text.encode(), 9)) / size:.2f}")

# %% [markdown]
# ## 3. From documents to rows
#
# A `.txt` file is one document, or several, parted by lines `<|endoftext|>`. Documents are shorter
# or longer than the model's T positions, and a batch wants rows of like length. Two devices:
#
# - a document that is too long is cut into *windows*. Every token must be predicted exactly once: a
#   window's targets stand one place further on than its ids, so the next window begins with the
#   token that was the last one's last target;
# - short ones share a row: *packing*.
#
# The cell prints the number of documents and of rows; then the windows of one sentence for T = 8,
# targets under ids. `<end>` is `<|endoftext|>`, `_` a space.


# %%
def show(row):
    for key in ("ids", "target"):
        print(f"{key:7}", *(f"{name(id):>9}" for id in row[key]))


task = LM(tokenizer, model.longest)
for part, rows in {"train": task.training(data.read(known)), "held out": task.examples(data.read(held))}.items():
    print(f"{part}: {task.describe(rows)}")
print()
hens = "Hens do not live there, and nobody has ever asked them to."
for row in LM(tokenizer, 8).training(data.read([hens])):
    show(row)

# %% [markdown]
# Now two short texts in one row. The `mask` says which text a place belongs to, 1 or 2, and equal
# numbers see each other (tutorial 03, section 7). Their positions begin anew, too. So the two must
# not notice each other. The cell prints the row; then it changes a token of text 1 and prints how
# far the logits of either text move, with the mask and without; and last how far those of text 2
# are from what they are if it stands alone.

# %%
(row,) = LM(tokenizer, 40).training(data.read(["Hens do not live there.", "No fish, no harm."]))
print("ids ", *map(name, row["ids"]))
print("mask", *row["mask"])
ids, mask = torch.tensor([row["ids"]]), torch.tensor([row["mask"]])  # (1, T)
changed = ids.clone()
changed[0, 2] = ids[0, 3]
for what, seen in {"with the mask": mask, "without": None}.items():
    with torch.inference_mode():
        moved = (model(changed, seen) - model(ids, seen)).abs().amax(-1)  # (1, T)
    print(f"{what:14} text 1 moves by {moved[mask == 1].max():6.3f}, text 2 by {moved[mask == 2].max():.3f}")
with torch.inference_mode():
    off = model(ids, mask)[mask == 2] - model(ids[mask == 2][None])[0]
print(f"text 2 alone: differs by {off.abs().max():.0e}")

# %% [markdown]
# (The published GPT-2 was trained without such a mask, on one long stream in which documents follow
# each other; `minift pretrain` does that, too. With little text of many kinds the mask is cleaner.)
#
# ## 4. Measuring with a stride
#
# To learn, windows may stand side by side. To measure, that is unfair: the first tokens of a window
# are guessed from next to nothing, though the document has more before them. The cell takes 17
# tokens at every 64th place of the held-out documents and prints what the last 16 cost: if the
# window begins there, and if it began 64 tokens earlier. About a second.

# %%
side_by_side, overlapping = [], []
for row in held[:2] if QUICK else held:
    ids = torch.tensor(tokenizer.encode(row["text"]))
    for start in range(64, len(ids) - 16, 64):
        target = ids[start + 1 : start + 17]
        for found, first in ((side_by_side, start), (overlapping, start - 64)):
            with torch.inference_mode():
                logits = model(ids[None, first : start + 16])[0, -16:]  # (16, V)
            found.append(F.cross_entropy(logits, target, reduction="none"))
near, far = torch.stack(side_by_side).mean(0), torch.stack(overlapping).mean(0)  # (16,)
for first, last in ((1, 4), (5, 8), (9, 16)):
    costly, fair = near[first - 1 : last].mean(), far[first - 1 : last].mean()
    print(f"{first:2} to {last:2} tokens seen: {costly:.2f} nats; with 64 more: {fair:.2f}")

# %% [markdown]
# The less it has seen, the more it pays. So minift measures with a *stride* of T/2: each window
# moves on by half, and only its new half has targets; the other half is there to be read. Every
# token is still predicted once, but (after the first window) from at least T/2 tokens. It costs
# twice the computing. The cell prints the first two windows of the sentence with T = 8 and stride 4,
# a dot where nothing is asked; then the bits per byte of the held-out documents for T = 64 with both
# strides, and for the model's own T. About three seconds.

# %%
for row in LM(tokenizer, 8).examples(data.read([hens]))[:2]:
    show(row)
print()
some = data.read(held[:2] if QUICK else held)
for T, stride in ((64, 64), (64, 32), (model.longest, model.longest // 2)):
    worker = LM(tokenizer, T)
    examples = worker.rows(some, stride)
    found = worker.metrics(use.outputs_of(worker, model, examples, max(1, 2048 // T)), examples)
    print(f"T = {T:3}, stride {stride:3}: {len(examples):3} rows, {found['bits_per_byte']:.3f} bits per byte")

# %% [markdown]
# So figures compare only if text, T and stride are the same. A longer T is worth more than a small
# stride: each of our documents fits into the model's as a whole.
#
# ## 5. What it says before
#
# The cell lets the model go on from a beginning that could stand in a tale or in a ship's log, at four
# *temperatures*: the logits are divided by it before softmax, so that below 1 the likely becomes
# likelier and above 1 all becomes more alike; 0 stands for the likeliest token each time. Drawn is
# among the 50 likeliest (exercise 3). About two seconds.

# %%
PROMPT = "When the fog lifted we saw"


def speak(model, prompt=PROMPT):
    for seed, temperature in enumerate((0, 0.5, 0.8, 1.2)):
        settings = {"temperature": temperature, "top_k": 50, "seed": seed, "max_new_tokens": 10 if QUICK else 40}
        line = f"{temperature:3}  {prompt} |{minift.generate(model, tokenizer, prompt, **settings)}"
        print(textwrap.fill(line.replace("\n", " / "), 100, subsequent_indent="     "))


speak(model)

# %% [markdown]
# (The bar shows where the model begins, a slash a new line.) At 0 it is likely to go round in
# circles, at 1.2 to lose the thread; 0.7 to 1 is where people usually stay.
#
# ## 6. Fine-tuning
#
# The same loop as ever (`minift/train.py`), with the loss of section 1. `minift.finetune("lm")`
# without a file takes the harbour. It measures before and after on the held-out documents (*valid*)
# and on text of another kind (*other*: reviews), and continues a prompt both times. We take three
# times its usual rate, to see something. Three epochs, about 50 seconds.

# %%
usual = optim.usual_rate(model.config.n_embd, len(model.blocks), "all")
settings = {"model": MODEL, "lr": 3 * usual, "prompt": PROMPT, "out": Path(scratch.name, "run")}
if QUICK:
    settings |= {"train": known[:4], "valid": held[:2], "epochs": 1}
run = minift.finetune("lm", say=print, **settings)

# %% [markdown]
# Three lines deserve a look.
#
# *after valid*: the held-out documents should have become cheaper, by a fifth of a bit per byte or
# more. (The model has never seen them. But it knows by now how people in Ossel write.)
#
# *moved*: how far each part went, as a share of its own length. Expect hundredths, and more for the
# embeddings: the weights are still mostly those of before, and that is why so little text will do.
#
# *after other*: what was forgotten. Reviews should have become dearer, by a tenth of a bit or so:
# probabilities sum to 1, what the harbour's words gain others lose, and nothing told the model to
# keep anything. (At the usual rate expect about three quarters of the gain, and reviews nearly as they
# were. What is learned and what is forgotten go together.)
#
# It shows most on what the model knew best. The cell prints the bits per byte of a tale, as children's
# books tell them, beside the other two. (If forgetting matters, mix some of the old text into the
# new, or see section 8.)

# %%
TALE = """Once upon a time there was a poor old woman who lived with her two children in a little house at the
edge of a great forest. One morning she said to them, "My dears, there is no more bread in the cupboard. Go into the
forest and see what you can find." So the boy took a basket, and the girl took her brother by the hand, and away they
went. They had not gone far when they met a little old man with a long white beard, who was sitting upon a stone and
crying bitterly. "What is the matter?" asked the girl. "I have lost my golden key," said the little man, "and without
it I cannot get into my house again." "Do not cry," said the boy. "We will help you to look for it." And they looked
under every tree and behind every bush, until at last the girl saw something bright in the grass. "Here it is!" she
cried, and gave it to the little man, who was so happy that he danced round and round.""".replace("\n", " ")


def bits_per_byte(model, texts):
    return minift.evaluate((model, tokenizer), texts)["bits_per_byte"]


judged = {part: [run.metrics[key]["bits_per_byte"] for key in (f"{part}_before", part)] for part in ("valid", "other")}
judged["tale"] = [bits_per_byte(reader, [TALE]) for reader in (model, run.model)]
for what, (before, after) in judged.items():
    print(f"{what:5}  {before:.3f} bits per byte before, {after:.3f} after: {after - before:+.3f}")

# %% [markdown]
# And what was learned? Of the words that occur at least three times in the held-out documents, the
# cell prints the ten that have become cheaper by most. A word costs what its tokens cost. About two
# seconds.

# %%
words = {}  # word: (bits before, bits after) of each of its occurrences
for row in held:
    target, before, _ = costs(model, row["text"])
    _, after, _ = costs(run.model, row["text"])
    found = []  # [word, bits before, bits after]
    for piece, *both in zip(tokenizer.tokens(target.tolist()), before.tolist(), after.tolist(), strict=True):
        if found and piece[0].isalpha():  # it goes on with the word: a new one begins with its space
            piece, both = found[-1][0] + piece, [a + b for a, b in zip(found.pop()[1:], both, strict=True)]
        found.append([piece, *both])
    for word, *both in found:
        words.setdefault(word.strip(), []).append([nats / math.log(2) for nats in both])
means = {word: [sum(x) / len(x) for x in zip(*both, strict=True)] for word, both in words.items() if len(both) >= 3}
for word in sorted(means, key=lambda word: means[word][1] - means[word][0])[:10]:
    print(f"{word:12} {len(words[word]):2} times: {means[word][0]:4.1f} bits before, {means[word][1]:4.1f} after")

# %% [markdown]
# ## 7. What it says after
#
# The same beginning, the same temperatures, the same seeds; and a second one that begins as the logs
# of the harbour's boats do. About four seconds.

# %%
speak(run.model)
print()
speak(run.model, "Log of the Dipper: a bad week\n\nMonday.")

# %% [markdown]
# It is a small model, and it shows: it has taken up names, words and tone of the harbour, not its sense.
#
# ## 8. How fast, and how much of it?
#
# A small experiment to make on any new text: from the same start, a short training at several rates,
# and with only the last blocks learning. We write the loop ourselves, as short as it gets; it keeps
# the last weights, whereas `finetune` keeps the best epoch's.
#
# The cell trains on twelve documents, one row a step, and prints the bits per byte of the held-out
# documents and of the tale. The first line is the model as it was. About 15 seconds.


# %%
def learn(rows, epochs, rate, tune="all", after_epoch=lambda model, epoch, loss: None):
    """The model, trained on these rows by itself and by hand."""
    pupil = minift.load_model(MODEL)
    adapters.choose(pupil, tune)
    optimizer = optim.adamw(pupil, rate, weight_decay=0.01)
    examples = task.training(data.read(rows))
    steps, total = epochs * len(examples), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * optim.rate(step, steps, warmup=0.1, schedule="linear")
        summed, targets = task.loss(pupil.train(), task.batch([examples[step % len(examples)]]))
        optimizer.zero_grad()
        (summed / targets).backward()
        optimizer.step()
        total += summed.item() / targets / len(examples)
        if (step + 1) % len(examples) == 0:
            after_epoch(pupil.eval(), (step + 1) // len(examples), total)
            total = 0.0
    return pupil.eval()


asked = held[:2] if QUICK else held
print("rate      learns   held out      tale")
print(f"{'':17} {bits_per_byte(model, asked):9.3f} {bits_per_byte(model, [TALE]):9.3f}")
for factor, tune in ((0.1, "all"), (1, "all"), (3, "all"), (10, "all"), (3, "last:2")):
    rate = factor * usual
    pupil = learn(known[: 2 if QUICK else 12], 1, rate, tune)
    print(f"{rate:.0e}   {tune:8} {bits_per_byte(pupil, asked):9.3f} {bits_per_byte(pupil, [TALE]):9.3f}")

# %% [markdown]
# The slowest has learned little; up to a point, a faster one learns more and forgets more; beyond, it
# only forgets. With `last:2` the first blocks and the embeddings stay bit for bit as they were: a
# step takes less time and memory, and (in so short a training) it learns nearly as much as `all` at
# the same rate, and forgets much less.
#
# ## 9. Learning, or reciting?
#
# With enough epochs a model knows the training text by heart, and a falling training loss will tell
# you that all is well. The held-out text tells otherwise. The cell reads three documents over and
# over, at five times the usual rate, and prints both losses, a token. About 15 seconds.

# %%
print("epoch   training   held out")


def report(model, epoch, loss):
    if epoch in (1, 2, 4, 8, 12, 16):
        print(f"{epoch:5} {loss:10.2f} {minift.evaluate((model, tokenizer), asked)['loss']:10.2f}")


reciter = learn(known[:3], 2 if QUICK else 16, 5 * usual, after_epoch=report)

# %% [markdown]
# The training loss goes on falling; the other soon turns, and rises. From then on what is learned is
# these three documents, and no longer how people write in Ossel. That is why a part is always held
# out, and why `finetune` measures after each epoch and keeps the best.
#
# Does it copy? Count the *runs of eight words* in what it says that stand somewhere in the training
# text. People who write about the same things share some by chance: the cell prints the share for
# the held-out documents first. Then each model goes on (greedily) from the first words of three
# documents that the reciter knows, and of three that it does not. About four seconds.


# %%
def runs_of_words(text, n=8):
    words = re.findall(r"\w+", text.lower())
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


seen = {run for row in known for run in runs_of_words(row["text"])}


def copied(texts):
    """The share of the texts' runs of eight words that stand in the training text."""
    found = [run in seen for text in texts for run in runs_of_words(text)]
    return sum(found) / max(1, len(found))


def go_on(speaker, rows):
    settings = {"temperature": 0, "max_new_tokens": 15 if QUICK else 40}
    return [minift.generate(speaker, tokenizer, " ".join(row["text"].split(" ")[:20]), **settings) for row in rows]


print(f"the held-out documents themselves: {copied([row['text'] for row in held]):.1%} copied")
for who, speaker in {"before": model, "fine-tuned": run.model, "reciter": reciter}.items():
    ours, others = go_on(speaker, known[:3]), go_on(speaker, held[:3])
    print(f"{who:10} {copied(ours):6.1%} of known documents' continuations, {copied(others):6.1%} of the others'")
print(textwrap.fill(f"the reciter: … {' '.join(known[0]['text'].split(' ')[10:20])} |{ours[0]}", 100))

# %% [markdown]
# The reciter goes on as its three documents do, and may slip into them where others begin. So a model
# can give away what it has read: if the text is private, so is the model.
#
# ## 10. Your own file
#
# Everything above from the shell. Held out is the file that `--valid` names; without it, a tenth of
# the documents, or of fewer than ten (a book is one) the last tenth of each. Without `--prompt` the
# first words of what is held out are continued.
#
#     minift finetune lm --train book.txt --prompt "It was a dark"
#     minift finetune lm --train book.txt --model gpt2 --epochs 2 --tune last:4 --out runs/book
#     minift generate runs/book --prompt "It was a dark" --temperature 0.8 --seed 1
#     minift evaluate runs/book --data other.txt
#
# (`gpt2` is fetched from the Hugging Face Hub; a folder will do.) And if it is megabytes, of a
# language or a notation that no model has read, a vocabulary and a model from nothing:
#
#     minift pretrain lm --text corpus/*.txt --out runs/mine
#     minift finetune lm --model runs/mine --train book.txt
#
# The cell runs `minift generate` on our folder. Some seconds, most of them for starting Python.

# %%
command = [sys.executable, "-m", "minift", "generate", run.folder, "--prompt", PROMPT, "--temperature", "0.8"]
command += ["--top-k", "50", "--seed", "4", "--max-new-tokens", "30"]
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
# **Exercise 1: bits per byte of several texts.** `losses` is a list with a tensor for each text,
# what its tokens cost in nats; `texts` are the texts. Return the bits per byte of all of them
# together, as a number. A long text weighs more than a short one.
#
# Hint: sum, then divide once. A nat is 1 / log 2 bits; "é" is one character and two bytes.


# %%
def shared_among_bytes(losses: list, texts: list[str]) -> float: ...


def check_shared_among_bytes(answer):
    cases = {  # (what the texts' tokens cost, the texts, the bytes)
        "one plain text": ([[2.0, 1.0, 3.0]], ["a boat"], 6),
        "a text with é and –": ([[2.0, 5.0]], ["café – no"], 12),
        "a long text and a short one": ([[1.0] * 9, [4.0]], ["ab" * 40, "cd"], 82),
    }
    for what, (losses, texts, size) in cases.items():
        got, want = answer([torch.tensor(x) for x in losses], texts), sum(map(sum, losses)) / math.log(2) / size
        assert isinstance(got, float), f"return a number (`.item()`), not {got!r}"
        assert abs(got - want) < 1e-4, f"{what}: it is {want:.4f} bits per byte, yours is {got:.4f}"
    texts = [row["text"] for row in held[:2]]
    got, theirs = answer([costs(model, text)[1] for text in texts], texts), bits_per_byte(model, texts)
    assert abs(got - theirs) < 1e-4, f"of two held-out documents it is {theirs:.4f}, yours is {got:.4f}"


try_(1, check_shared_among_bytes, shared_among_bytes)

# %% [markdown]
# **Exercise 2: windows with targets.** Cut `ids` (a list) into windows of at most T inputs, the next
# one beginning `stride` tokens later. Return a list of pairs (inputs, targets), equally long. The
# target of an input is the token after it; `IGNORE` where an earlier window has asked for that token
# already. So each token but the first is asked for exactly once, and none is lost between windows.
#
# Hint: inputs `ids[start : start + T]`, targets `ids[start + 1 : start + T + 1]`; the last window's
# may be short. A window's first T - stride targets are old, except in the first window. Stop when
# the last token has been asked for.


# %%
def cut(ids: list[int], T: int, stride: int) -> list[tuple[list, list]]: ...


def check_cut(answer):
    for n, T, stride in ((5, 8, 8), (9, 8, 8), (10, 8, 8), (20, 8, 8), (20, 8, 4), (21, 6, 2), (33, 8, 3)):
        ids, case = list(range(100, 100 + n)), f"{n} tokens, T = {T}, stride {stride}"
        got = answer(ids, T, stride)
        assert isinstance(got, list) and got, f"{case}: return a list of windows, not {got!r}"
        asked = []
        for inputs, targets in got:
            assert len(inputs) == len(targets) <= T, f"{case}: {len(inputs)} inputs and {len(targets)} targets"
            for place, (id, target) in enumerate(zip(inputs, targets, strict=True)):
                assert target in (IGNORE, id + 1), f"{case}: the target of {id} is {id + 1}, or IGNORE; not {target}"
                if target != IGNORE:
                    asked.append(target)
                    enough = min(T - stride, target - 101)
                    assert place >= enough, f"{case}: {target} is guessed from {place + 1} tokens, not {enough + 1}"
        lost = sorted(set(ids[1:]) - set(asked))
        assert not lost, f"{case}: never asked for: {lost}"
        assert len(asked) == n - 1, f"{case}: {len(asked)} targets for {n - 1} tokens, so some are asked for twice"
        most = 1 + math.ceil(max(0, n - 1 - T) / stride)
        assert len(got) <= most, f"{case}: {len(got)} windows, but {most} are enough"


try_(2, check_cut, cut)

# %% [markdown]
# **Exercise 3: temperature and top-k.** Given `logits` (B, V), return the probabilities (B, V) to
# draw the next token from: only the k likeliest tokens *of each row* can be drawn (the others get
# 0), after the logits were divided by the temperature; each row sums to 1. Temperature 0 means that
# the likeliest token gets all. Do not change `logits`.
#
# Hint: `logits.topk(k).values[:, -1:]` is (B, 1); `masked_fill` with minus infinity before softmax;
# `F.one_hot`.


# %%
def chances(logits, temperature: float, k: int) -> torch.Tensor: ...


def check_chances(answer):
    logits = 3 * torch.randn(3, 40, generator=torch.Generator().manual_seed(0)) + torch.tensor([[0.0], [6.0], [-6.0]])
    kept = logits.clone()
    for temperature, k in ((1.0, 40), (1.0, 5), (0.5, 5), (2.0, 1), (0.0, 5)):
        case, got = f"temperature {temperature}, k = {k}", answer(logits, temperature, k)
        assert isinstance(got, torch.Tensor) and got.shape == (3, 40), f"{case}: return a tensor (3, 40), not {got!r}"
        assert torch.equal(logits, kept), f"{case}: the logits given have been changed"
        many, want = (got > 0).sum(1).tolist(), [1 if temperature == 0 else k] * 3
        assert many == want, f"{case}: of the rows' tokens {want} can be drawn, with yours {many}"
        if temperature:
            right = generation.probabilities(logits, temperature, top_k=k)
        else:
            right = F.one_hot(logits.argmax(-1), 40).float()
        off = (got - right).abs().max().item()
        assert off < 1e-5, f"{case}: the probabilities are off by up to {off:.3f}"


try_(3, check_chances, chances)
