# %% [markdown]
# # LoRA
#
# Fine-tuning changes every weight, and leaves a copy of the whole model for every task. But how much is
# there in the change? LoRA supposes: little. It leaves the matrices as they were published, puts two
# small ones beside some of them, and trains only these. What it learns fits into a file of some kilobytes,
# which can be put in, taken out and exchanged, while the model underneath keeps every bit.
#
# We look at what full fine-tuning does to a matrix, write LoRA by hand in ten lines, train with it beside
# the other ways, turn its knobs, merge it and take it out again, ask what it forgets, and keep two
# adapters for one model. Not everything that is said of LoRA comes out here; we print what does.
#
# Paper: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
#
# Run it cell by cell, or whole: `python tutorials/16_lora.py`, two to three minutes, no network. A cell
# that takes longer than a second says so.

# %%
import importlib.util
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import minift
from minift import adapters, data, hub, lora, optim, safetensors, train
from minift.models import gpt2
from minift.settings import Finetune
from minift.tasks.classify import Classify
from minift.tasks.lm import LM

MODEL = "bert-nano"  # or the folder of a published BERT
WRITER = "gpt2-nano"
QUICK = bool(os.environ.get("MINIFT_QUICK"))  # the tests set it: fewer rows and epochs, nothing else
LABELS = ["negative", "positive"]

torch.manual_seed(0)
scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # everything we write goes here
work = Path(scratch.name)

# %% [markdown]
# ## 1. How far does a weight move?
#
# We fine-tune bert-nano on 512 reviews, all of it, for three epochs. Then we take the matrices of the
# queries and values, W before and W' after, and look at the change W' - W: how long it is, as a share of
# the length of W (the length of a matrix: the root of the sum of its squared numbers), and how it is made.
#
# Any matrix is a sum of *directions*: each turns one pattern of its input into one of its output, and its
# *singular value* says how strongly. The squares of the singular values sum to the squared length. The
# *rank* is the number of those that are not 0. The cell prints the rank of each change, and the share of
# its squared length that its first direction and its first 8 have; then the same of W itself and of a
# matrix of random numbers. About 20 seconds.

# %%
rows = data.read(hub.DATA / "reviews" / "train.tsv").rows
known = random.Random(0).sample(rows, 48 if QUICK else 512)
check = data.read(hub.DATA / "reviews" / "validation.tsv").rows[: 24 if QUICK else None]
unseen = data.read(hub.DATA / "reviews" / "test.tsv").rows[: 60 if QUICK else None]


def finetune(name, **more):
    settings = {"train": known, "valid": check, "test": unseen, "epochs": 1 if QUICK else 3, "batch_size": 16} | more
    return minift.finetune("classify", model=MODEL, out=work / name, **settings)


def first(matrix, count):
    """The share of a matrix's squared length in its first `count` directions."""
    squares = torch.linalg.svdvals(matrix).square()
    return (squares[:count].sum() / squares.sum()).item()


runs = {"all": finetune("all", tune="all")}
tokenizer = runs["all"].tokenizer
before = dict(minift.load_model(MODEL, kind="classify", labels=LABELS).named_parameters())
after = {name: p.detach() for name, p in runs["all"].model.named_parameters()}
change = {name: p - before[name].detach() for name, p in after.items()}
print(f"{'':17} moved  rank  first  first 8")
for name in (name for name in change if name.endswith(("query.weight", "value.weight"))):
    block, part = name.split(".")[3], name.split(".")[-2]
    d, length = change[name], before[name].norm().item()
    figures = f"{d.norm() / length:.1%}  {torch.linalg.matrix_rank(d):4}   {first(d, 1):.2f}     {first(d, 8):.2f}"
    print(f"block {int(block) + 1}, {part:8}  {figures}")
noise = torch.randn(d.shape)
for what, matrix in {"the last, before": before[name].detach(), "random numbers": noise}.items():
    print(f"{what:17}    -  {torch.linalg.matrix_rank(matrix):4}   {first(matrix, 1):.2f}     {first(matrix, 8):.2f}")

# %% [markdown]
# Two answers. The rank of the change is full, or as good as that: no direction stayed quite as it was. But
# it is not spread evenly. Eight directions of 384 have a third to three quarters of it, where eight of
# random numbers have a thirteenth; and the first alone may have half.
#
# Is the rest of any use? The cell cuts the change of every matrix in the blocks down to its first
# directions, leaves all else as it was fine-tuned, and prints the accuracy on the test rows. About six
# seconds.


# %%
def accuracy(model):
    said = minift.predict((model, tokenizer), [row["text"] for row in unseen])
    return sum(p["prediction"] == row["label"] for p, row in zip(said, unseen, strict=True)) / len(unseen)


inner = [name for name, d in change.items() if ".layer." in name and d.ndim == 2]
for rank in (0, 1, 8):
    model = minift.load_model(runs["all"].folder)
    with torch.no_grad():
        for name in inner:
            U, S, Vh = torch.linalg.svd(change[name], full_matrices=False)
            model.get_parameter(name).copy_(before[name] + U[:, :rank] * S[:rank] @ Vh[:rank])
    print(f"{rank} directions of each change: {accuracy(model):.3f}")
print(f"all of them:                 {runs['all'].metrics['test']['accuracy']:.3f}")

# %% [markdown]
# (Of about 500 rows, two in a hundred are chance.) With 0 directions the matrices are those of before, between
# embeddings and a head that have learned with others. In our runs *one* direction of each change was as good as
# all of them: the rest is what training does to a matrix besides, for AdamW moves every number, needed or not.
# That is no proof that one can *learn* with few directions only. It is what makes it worth trying.
#
# ## 2. LoRA in ten lines
#
# Let W be a matrix (out, in). Beside it stand A (r, in) and B (out, r), with r, the *rank*, far smaller than
# out and in. The layer says
#
#     y = W x + b + (alpha / r) B A x
#
# BA has the shape of W, and at most r directions. W and b are frozen, A and B learn. A begins with random
# numbers, B with zeros: so BA is 0, and training starts at the model as it was, not merely near it.
#
# The cell puts this beside the queries of block 1 and prints whether the two say the same, bit for bit; how
# many numbers there are to learn; and how long the gradients of A and B are in the first step.


# %%
class ByHand(nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear, self.scale = linear.requires_grad_(False), alpha / rank
        self.A = nn.Parameter(torch.randn(rank, linear.in_features) / math.sqrt(linear.in_features))
        self.B = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x):
        return self.linear(x) + self.scale * (x @ self.A.T) @ self.B.T


model = minift.load_model(MODEL, kind="encoder")
query = model.blocks[0].attention.self.query
layer, x = ByHand(query, rank=8, alpha=16), torch.randn(4, 10, query.in_features)  # x (B, T, in)
print("the same bits:", torch.equal(layer(x), query(x)))
print(f"W and b {sum(p.numel() for p in query.parameters()):,}, A and B {layer.A.numel() + layer.B.numel():,}")
layer(x).square().mean().backward()
print(f"gradients: A {layer.A.grad.norm():.4f}, B {layer.B.grad.norm():.4f}, W {query.weight.grad}")

# %% [markdown]
# The gradient of A passes through B, which is 0: so in the first step only B learns. After it B is no longer
# 0, and A learns, too. (Were both 0, neither would ever. Were both random, the model would start with noise
# in every layer.) W has no gradient at all, so none is computed or stored.
#
# What can it learn, and what not? A small world: the layer shall learn to say Wx + Dx, with a D that we made
# of four directions, of strength 4, 3, 2 and 1. The error is then the squared length of BA - D, and theory
# knows the best that a rank can do: keep the strongest directions and lose the squares of the others (Eckart
# and Young 1936). The cell trains for each rank and prints what is left of the error, by training and by
# theory. About three seconds.

# %%
n, strengths = query.in_features, torch.tensor([4.0, 3.0, 2.0, 1.0])
left, right = (torch.linalg.qr(torch.randn(n, 4))[0] for _ in range(2))  # (in, 4), columns at right angles
D = left * strengths @ right.T
print("rank  numbers   left of it  theory")
for rank in (1, 2, 4, 8):
    layer = ByHand(query, rank, alpha=rank)  # so that the factor is 1
    optimizer = torch.optim.Adam([layer.A, layer.B], lr=0.02)
    for step in range(30 if QUICK else 300):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 300)
        x = torch.randn(256, n)
        loss = (layer(x) - query(x) - x @ D.T).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    error = (layer.scale * layer.B @ layer.A - D).square().sum() / D.square().sum()
    theory = strengths[rank:].square().sum() / strengths.square().sum()
    print(f"{rank:4} {layer.A.numel() + layer.B.numel():8,} {error.item():12.3f} {theory.item():7.3f}")

# %% [markdown]
# Gradient steps find the best directions by themselves. (Exercise 1 finds them without any step.) With rank 4
# nothing is left, and more is of no use. Nobody tells us the rank of what a real task needs; section 5 tries.
#
# ## 3. A model with LoRA
#
# `minift/lora.py` has the same layer, as a kind of `nn.Linear`. `adapters.choose(model, "lora")` freezes the
# model and puts it beside the queries and values of all blocks, as the paper does. The new head learns whole:
# it was drawn at random, and there is nothing to preserve. The cell prints the layers, then for each way to
# tune: how many numbers learn, and what memory that takes beside the model: a gradient for each, and two
# more for AdamW's means, 4 bytes each.

# %%
model = minift.load_model(MODEL, kind="classify", labels=LABELS)
adapters.choose(model, "lora")
for name, layer in lora.adapted(model).items():
    shapes = " ".join(f"{part} {tuple(p.shape)}" for part, p in layer.pair.items())
    print(f"{name.removeprefix('bert.encoder.')}: W {tuple(layer.weight.shape)}  {shapes}")
print("whole:", ", ".join(lora.whole(model)), "\n")
print(f"{'':8}  learning                 gradients   AdamW's means")
for tune in ("head", "lora", "all"):
    learning, total = adapters.choose(minift.load_model(MODEL, kind="classify", labels=LABELS), tune)
    kB = 4 * learning / 1000
    print(f"{tune:8} {learning:9,} of {total:,} {kB:10,.0f} kB {2 * kB:12,.0f} kB")

# %% [markdown]
# By hand: 2 blocks, 2 matrices each, 8 × (384 + 384) numbers beside each, that is 24,576; and 770 of the head.
#
# ## 4. Trained
#
# Now the same 512 reviews with LoRA and with the head alone, each at its usual rate: that of LoRA is ten times
# that of `all` (the paper's was as high), that of a head higher still. The cell prints accuracy on the
# validation rows (the best epoch is chosen by these) and on the test rows, the time of the training alone,
# and how far the matrices moved that LoRA stands beside. About 25 seconds.

# %%
runs |= {tune: finetune(tune, tune=tune) for tune in ("head", "lora")}


def moved(model):
    """The length of the change in the queries' and values' matrices, as a share of their length."""
    names = [name for name in before if name.endswith(("query.weight", "value.weight"))]
    d = sum((model.get_parameter(name) - before[name]).square().sum().item() for name in names)
    return math.sqrt(d / sum(before[name].square().sum().item() for name in names))


print(f"{'':5} learning   valid   test  seconds  moved")
for tune in ("head", "lora", "all"):
    run = runs[tune]
    scores = f"{run.metrics['valid']['accuracy']:7.3f} {run.metrics['test']['accuracy']:7.3f}"
    print(f"{tune:5} {run.train['learning']:9,} {scores} {run.train['seconds']:7.1f} {moved(run.model):7.1%}")

# %% [markdown]
# Take it as it comes. Validation and test rows need not agree on the order of LoRA and `all`: of 200 rows,
# three or four in a hundred are chance. In our run LoRA was two points ahead on the former and five behind on the
# latter. When we trained on all 971 reviews, in batches of 32 (what `minift finetune classify` does), it had 72.1
# and 72.6 % right, and `all` 73.6 and 75.0. So with a three-hundredth of the numbers it comes near. Nothing here
# says that it is as good.
#
# Two columns surprise. *Seconds*: three hundred times fewer numbers save no more than a third of the time. The
# forward pass is the same, and `backward` must come down to the lowest A; what is saved are the gradients of the
# frozen matrices and the optimiser's step. (Under a head that learns alone, `backward` has nothing to do.)
# *Moved*: the matrices with LoRA went several times as far as those of the full fine-tuning. It has few places to
# change anything, and changes more there. Gentle it is not.
#
# So the gain is memory. Here AdamW's means take 59 MB or 0.2, which nobody minds; section 12 counts for larger
# models.
#
# ## 5. The rank
#
# How large must r be? The cell trains on 256 rows with rank 1, 2, 8 and 32, and alpha twice the rank, so that the
# factor alpha / r is always 2. (Section 6 is about alpha.) It prints the mean loss of the last epoch on the rows
# that are learned, the accuracy on the test rows, how far the matrices moved, and of each layer's BA the share of
# its squared length in its first direction. About 30 seconds.


# %%
task = Classify(tokenizer, LABELS)
examples = task.examples(data.read(known[:256]))
usual = optim.usual_rate(model.config.hidden_size, len(model.blocks), "lora")


def learn(count, **options):
    """A classifier trained on the first `count` rows with these settings, and the mean loss of its last epoch."""
    torch.manual_seed(0)  # A, the head, the dropout
    options, model = Finetune(**options), minift.load_model(MODEL, kind="classify", labels=LABELS)
    adapters.choose(model, options.tune, options)
    options.lr = options.lr or usual
    lengths = [len(example["ids"]) for example in examples[:count]]
    plan = [data.length_batches(lengths, 16, seed=0, epoch=epoch) for epoch in range(1 if QUICK else 3)]
    tensors = lambda chosen: task.batch([examples[i] for i in chosen])
    losses = train.train(model, plan, tensors, task.loss, options).losses
    return model, sum(losses[-len(plan[-1]) :]) / len(plan[-1])


def changes(model):
    """(alpha / r) BA of each layer with LoRA."""
    layers = lora.adapted(model).values()
    return [(layer.alpha / layer.rank * layer.lora_B.weight @ layer.lora_A.weight).detach() for layer in layers]


print("rank  learning   loss  test   moved  first, by layer")
for rank in (1, 2, 8, 32):
    model, loss = learn(256, tune="lora", lora_rank=rank, lora_alpha=2.0 * rank)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    firsts = "  ".join(f"{first(d, 1):.2f}" for d in changes(model))
    score = accuracy(model)
    lora.merge(model)
    print(f"{rank:4} {learning:9,}  {loss:.3f}  {score:.3f}  {moved(model):.1%}  {firsts}")

# %% [markdown]
# With more rank the rows it learns from are learned faster, and the matrices go farther. The test rows hardly care:
# differences of two points or less are chance here, and that is all there should be. And look at the last
# columns. Rank 32 may use 32 directions, and still in most layers the first has most of it. Hu et al. found the same
# (sections 7.1 and 7.2): on their tasks rank 1 did nearly as well as 64, and what A had learned at rank 8 and at
# rank 64 had little more than its first direction in common.
#
# That is so for few rows and a task for which the model knows nearly all it needs. Where there is much to learn,
# more numbers help: section 8.
#
# ## 6. Alpha, and the rate
#
# The change is BA times alpha / r. Why a factor, when B could grow by itself? Because of the optimiser. Adam
# steps are about as long as the rate says, however long the gradient: twice the factor means a BA that grows twice
# as fast, much like twice the rate. The paper sets alpha once and then tries rates. So alpha is a second name for
# the rate, with a trap: with alpha left at 16 (minift's default), rank 1 has the factor 16, and rank 32 has 1/2.
# Who compares ranks that way compares rates as well.
#
# The cell trains on 128 rows: at the rate that is usual for `all`, at LoRA's usual one, with alpha doubled, with
# the rate doubled, and with rank 1 at alpha 16. About 15 seconds.

# %%
print("rank  alpha   rate    factor  loss   moved")
for rank, alpha, times in ((8, 16, 0.1), (8, 16, 1), (8, 32, 1), (8, 16, 2), (1, 16, 1)):
    rate = times * usual
    model, loss = learn(128, tune="lora", lora_rank=rank, lora_alpha=float(alpha), lr=rate)
    lora.merge(model)
    print(f"{rank:4} {alpha:6} {rate:8.4f} {alpha / rank:6.0f}   {loss:.3f} {moved(model):7.1%}")

# %% [markdown]
# The first line is the commonest mistake with LoRA: the rate of full fine-tuning. The loss stays near log 2 =
# 0.69, and the model has learned nothing. Then see how alike a doubled alpha and a doubled rate are in how far
# the matrices move (not the same: the rate is also A's and the head's), and that at the same rate rank 1 with a
# factor of 16 goes about twice as far as rank 8 with 2.
#
# When you change the rank, then, keep alpha / r, or search a rate anew. (Kalajdzievski 2023, rsLoRA, argues for
# alpha divided by the root of r. minift has only the paper's.)
#
# ## 7. In and out
#
# W + (alpha / r) BA is a matrix like any other. *Merged*, the model is a plain one again: nothing is slower,
# nothing is needed to load it. `minift.finetune` saves it so, and keeps A and B beside it, in `adapter`.
#
# The cell takes the model of section 4, which is merged, takes LoRA out of the weights again, and compares:
# the logits before and after; the weights beneath with those that were published, bit for bit; and the time
# for a batch of 64 rows. Then by hand, W + BA - BA: is that W again? And W + BA in bfloat16, two bytes a number.

# %%
model = runs["lora"].model
batch = task.batch(examples[:64])


@torch.inference_mode()
def timed(model):
    """The logits of the batch, and the milliseconds that they take: the least of five."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        logits = task.logits(model, batch)
        times.append(1000 * (time.perf_counter() - start))
    return logits, min(times)


merged, fast = timed(model)
lora.unmerge(model)
beside, slow = timed(model)
print(f"logits differ by {(merged - beside).abs().max():.0e}, the largest is {merged.abs().max():.1f}")
kept = [name for name, p in before.items() if not name.startswith("classifier")]
print("every bit of the base is back:", all(torch.equal(model.get_parameter(name), before[name]) for name in kept))
print(f"a batch: merged {fast:.0f} ms, beside {slow:.0f} ms")
layer = lora.adapted(model)["bert.encoder.layer.0.attention.self.query"]
W, BA = layer.weight.detach(), changes(model)[0]
print(f"W + BA - BA: {(W + BA - BA != W).float().mean():.0%} of the numbers are not those of W, by rounding")
rounded = (W.bfloat16() + BA.bfloat16()).float() - W.bfloat16().float()
print(f"merged in bfloat16, the change is off by {(rounded - BA).norm() / BA.norm():.1%} of its length")

# %% [markdown]
# `lora.merge` therefore keeps the layers that it replaces, and `unmerge` puts them back; it subtracts nothing.
#
# Merged is a little faster, as one matrix is faster than three.
#
# The last line is small here, because the change is large (section 4). But published models often lie in bfloat16,
# which has less than three digits, and a change that is merged there is rounded to the digits of W: one that is ten
# times smaller is off by ten times as much. Beside W nothing is lost.
#
# ## 8. What is forgotten
#
# LoRA leaves the model's weights alone. Does it therefore forget less? Biderman et al. 2024, "LoRA Learns Less
# and Forgets Less", trained a model of seven billion weights on code and on mathematics, and found what the title
# says. (They also looked at what full fine-tuning does to its matrices, as we did in section 1, and counted ten to
# a hundred times as many directions in the change as LoRA is usually given.)
#
# We let gpt2-nano read 12 documents from a harbour town that does not exist, one a step, once through, and
# measure three kinds of text in *bits per byte*: how many bits the model needs for a byte of it, so less is better.
# *harbour* are eight other documents from there: what it learns. *reviews* are text of another kind, and *tale* is
# what gpt2-nano knows best, for it was trained on children's books. LoRA stands beside the queries, keys and values
# (`c_attn`, one matrix in a GPT-2), or beside all linear layers (`.*`), at its usual rate; `all` learns at
# 0.3, 1 and 3 times its own. The cell prints the figures before, then the differences: below 0 is learned, above 0
# is forgotten. About 40 seconds.

# %%
TALE = """Long ago a miller had three sons and one grey cat. When he grew old he called them to his bed and said, "The
mill is for the eldest, the cart is for the second, and for the youngest there is only the cat." The youngest son sat
down under the apple tree and sighed. "What shall I do with a cat?" he said. "She cannot grind corn, and she cannot
carry it to town." "Do not be sad, master," said the cat. "Give me a red ribbon and a sack, and before the moon is full
you shall have a house with seven chimneys." The boy was much surprised to hear her speak, but he had a kind heart, so
he took the ribbon from his own hat and tied it round her neck. Then the cat made a low bow, threw the sack over her
shoulder, and went away through the long grass into the wood.""".replace("\n", " ")


def documents(file):
    return [row["text"].strip("\n") for row in data.read(hub.DATA / "harbour" / file).rows]


harbour = documents("train.txt")[: 2 if QUICK else 12]
other = [row["text"] for row in unseen[: 10 if QUICK else 40]]
asked = {"harbour": documents("validation.txt")[: 1 if QUICK else 8], "reviews": other, "tale": [TALE]}
base, writer_tokenizer = minift.load(WRITER)
writing = LM(writer_tokenizer, base.longest)
pages = writing.training(data.read(harbour))


def read_on(**options):
    """The language model after the harbour's documents, one a step, and how many numbers learned."""
    torch.manual_seed(0)
    options, model = Finetune(**options), minift.load_model(WRITER)
    learning, _ = adapters.choose(model, options.tune, options)
    plan = [data.length_batches([len(page["ids"]) for page in pages], 1, seed=0)]
    train.train(model, plan, lambda chosen: writing.batch([pages[i] for i in chosen]), writing.loss, options)
    return model, learning


def bits(model):
    """Bits per byte of each kind of text."""
    return {what: minift.evaluate((model, writer_tokenizer), texts)["bits_per_byte"] for what, texts in asked.items()}


first_bits = bits(base)
print(f"{'':12} {'rate':6} {'learning':>10} {''.join(f'{what:>9}' for what in asked)}")
print(f"{'before':30}{''.join(f'{value:9.3f}' for value in first_bits.values())}")
ways = [("lora", "c_attn", 1), ("lora", ".*", 1), ("all", "", 0.3), ("all", "", 1), ("all", "", 3)]
for tune, layers, factor in ways[1:3] if QUICK else ways:
    rate = factor * optim.usual_rate(base.config.n_embd, len(base.blocks), tune)
    model, learning = read_on(tune=tune, lr=rate, lora_layers=layers)
    differences = "".join(f"{value - first_bits[what]:+9.3f}" for what, value in bits(model).items())
    print(f"{tune:4} {layers:7} {rate:.5f} {learning:9,} {differences}")

# %% [markdown]
# Look at the column *harbour* first: yes, LoRA learns less than `all` at its usual rate, and beside all layers it
# learns more than beside one kind. And it forgets less: at 3 times its rate `all` has paid for the harbour with the
# tale, LoRA has not. So far the title.
#
# But compare the lines that learned *equally much*. `all` at 0.3 of its rate has learned about what LoRA has
# beside `c_attn`, and forgotten no more. In this small experiment what is forgotten goes with what is learned,
# and with a rate that is too high; LoRA is one way to learn less, and a lower rate is another. (Biderman et al.
# drew learning against forgetting, too, in section 4.3: on the whole both ways lay on one curve, with cases, above
# all of code, where LoRA had the better trade.) The reviews have even become cheaper in most lines: they and the
# harbour are both modern English, and the children's books were not. There was little to forget.
#
# One kind of forgetting LoRA excludes: take it out, and the old model is back, every bit of it.
#
# ## 9. One model, two adapters
#
# A fully fine-tuned model is a whole one, on disk and in memory. Of adapters one can have many. We train a
# second one on the same reviews, for another question: what is reviewed? (Five answers, in the column
# `domain`.) The cell prints how much right it has of the test rows, and the files of both runs. About ten
# seconds.

# %%
named = {part: [row | {"label": row["domain"]} for row in some] for part, some in (("train", known), ("test", unseen))}
subject = finetune("subject", tune="lora", **named, valid=[row | {"label": row["domain"]} for row in check])
print(f"what is reviewed: {subject.metrics['test']['accuracy']:.3f} right\n")
for run in (runs["lora"], subject):
    for path in ("model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        print(f"{run.folder.name:8} {(run.folder / path).stat().st_size / 1000:10,.1f} kB  {path}")

# %% [markdown]
# The whole model, again, or a hundred kilobytes. To use an adapter one needs the base, the adapter's folder, and
# the names of the labels, in order: the form of the folder has no place for these (the run's own `config.json` has
# them). The cell asks the same base three texts, with one adapter and with the other.

# %%
texts = ["The soup was cold and the waiter looked offended when I said so.", "I read it in one night and cried twice."]
texts += ["Dead on arrival. The charger, to be fair, makes a fine paperweight."]
adapter = {run.folder / "adapter": run.model.config.labels for run in (runs["lora"], subject)}
for folder, labels in adapter.items():
    start = time.perf_counter()
    model = lora.load(minift.load_model(MODEL, kind="classify", labels=labels), folder)
    print(f"{folder.parent.name}: base and adapter loaded in {1000 * (time.perf_counter() - start):.0f} ms")
    for text, said in zip(texts, minift.predict((model, tokenizer), texts), strict=True):
        print(f"   {said['prediction']:9} {max(said['scores'].values()):.2f}  {text}")

# %% [markdown]
# (As sure as they sound, they need not be right; three texts prove nothing.) A server with a thousand customers
# keeps the base once, and a hundred kilobytes for each. They can even sit in one batch: exercise 3.
#
# ## 10. The adapter's folder
#
# The form of the folder is that of `peft`, Hugging Face's library, so that adapters can go from one to the
# other. The cell prints the tensors of one, and its config.

# %%
folder = runs["lora"].folder / "adapter"
for key, tensor in safetensors.load(folder / "adapter_model.safetensors").items():
    print(f"{tuple(tensor.shape)!s:10} {key}")
print((folder / "adapter_config.json").read_text("utf-8"))

# %% [markdown]
# A key is `base_model.model.`, the name of the layer in transformers, and `lora_A` or `lora_B`; what learned
# whole (`modules_to_save`) has its own name. `r` and `lora_alpha` must be known to merge it: from the tensors
# alone, nobody could tell the factor.
#
# The cell saves the base with a head for two labels, as `transformers` wants it, and lets `peft` put the adapter
# beside it, if both are installed here. It prints how far its logits are from minift's. That import may take
# some seconds.

# %%
torch.manual_seed(0)
minift.save(minift.load_model(MODEL, kind="classify", labels=LABELS), tokenizer, work / "base")
if importlib.util.find_spec("peft") and importlib.util.find_spec("transformers"):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    theirs = AutoModelForSequenceClassification.from_pretrained(work / "base")
    theirs = PeftModel.from_pretrained(theirs, folder).eval()
    inputs = {"input_ids": batch["ids"], "attention_mask": batch["mask"], "token_type_ids": batch["segments"]}
    with torch.inference_mode():
        print(f"peft's logits differ from minift's by {(theirs(**inputs).logits - beside).abs().max():.0e}")
else:
    print("peft is not installed here; `pip install peft transformers`, and run this cell again")

# %% [markdown]
# ## 11. In one command
#
# From the shell, on your own files:
#
#     minift finetune classify --tune lora --train train.tsv --test test.tsv --out runs/mine
#     minift predict runs/mine "The soup was cold."
#
# The flags for LoRA are `--lora-rank`, `--lora-alpha`, `--lora-dropout`, and `--lora-layers`, the ends of the
# names of the layers that get it: `query,value` is what you have seen, `".*"` all linear layers. The cell runs
# the two, with rank 4 and a few steps on the reviews that come with minift. About ten seconds.

# %%
lines = ["text\tlabel", *(f"{row['text']}\t{row['label']}" for row in known)]
(work / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
learning = "finetune classify --train train.tsv --tune lora --lora-rank 4 --lora-alpha 8 --batch-size 16 --out mine"
learning += f" --max-steps {2 if QUICK else 30}"
for words in (learning.split(), ["predict", "mine", texts[0]]):
    print("$ minift", *(f'"{word}"' if " " in word else word for word in words))
    command = [sys.executable, "-m", "minift", *words]
    print(subprocess.run(command, cwd=work, capture_output=True, encoding="utf-8", check=True).stdout)

# %% [markdown]
# ## 12. With a published model
#
# LoRA was made for models that just fit into memory. Each number that learns takes 16 bytes in float32: itself, its
# gradient, AdamW's two means. A frozen one takes 4. The cell counts for three published sizes of GPT-2, with LoRA
# of rank 8 beside `c_attn`, from their shapes alone; nothing is downloaded.

# %%
print(f"{'':12} {'parameters':>13} {'weights':>9}   {'all':>8}  {'lora':>8}  learning")
for name, size in {
    "gpt2": {},
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
}.items():
    with torch.device("meta"):  # shapes without numbers
        model = gpt2.GPT2(gpt2.Config(**size))
    needs = {}
    for tune in ("all", "lora"):
        learning, total = adapters.choose(model, tune)
        needs[tune] = (4 * total + 12 * learning) / 1e9
    base_size = sum(p.numel() for p in model.parameters()) - learning
    figures = "  ".join(f"{value:5.2f} GB" for value in needs.values())
    print(f"{name:12} {base_size:13,} {4 * base_size / 1e9:6.2f} GB   {figures}  {learning:,}")

# %% [markdown]
# So gpt2-xl can be fine-tuned in a quarter of the memory. What the layers must remember for the way down comes on
# top, and LoRA hardly lessens it: that depends on the batch and the length of the rows, and `--recompute` and
# smaller batches with `--accumulate` help there. On a machine with a GPU, and the text at hand, one would do this
# (not run here; `gpt2` is fetched from the Hugging Face Hub, 0.5 GB):
#
#     minift finetune lm --model gpt2 --train book.txt --tune lora --lora-layers ".*" --recompute --out runs/book
#     minift generate runs/book --prompt "It was a dark"
#
# `runs/book` has the merged model, for those who want one thing that works; `runs/book/adapter` is what you would
# give away. In Python others put it beside their own copy of the base:
#
#     minift.lora.load(minift.load_model("gpt2"), "runs/book/adapter")
#     PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("gpt2"), "runs/book/adapter")
#
# And which is to be taken? If the memory allows it, try `all` first, and `head` for comparison. LoRA is for models
# too large for that, and for many tasks with one model. Give it ten times the rate, all linear layers if it learns
# too little, and a little more rank before much more.
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
# **Exercise 1: the best A and B without a step.** Given a change D (out, in) and a rank r, return (B, A), of
# shapes (out, r) and (r, in), such that B @ A is as near to D as a matrix of that rank can be.
#
# Hint: `torch.linalg.svd(D, full_matrices=False)` gives U (out, k), S (k,) and V *transposed* (k, in), the
# strongest first, with D = U @ diag(S) @ Vh. Each strength must be counted once.


# %%
def nearest(D, rank): ...


def check_nearest(answer):
    generator = torch.Generator().manual_seed(0)
    for out, n, rank in ((6, 6, 2), (5, 9, 1), (9, 5, 3)):
        D = torch.randn(out, n, generator=generator)
        got = answer(D, rank)
        assert isinstance(got, tuple | list) and len(got) == 2, f"return (B, A), not {got!r}"
        B, A = got
        shapes = tuple(B.shape), tuple(A.shape)
        assert shapes == ((out, rank), (rank, n)), f"D {(out, n)}, rank {rank}: yours are {shapes[0]} and {shapes[1]}"
        off, best = (D - B @ A).norm().item(), torch.linalg.svdvals(D)[rank:].norm().item()
        assert off < best + 1e-4, f"D {(out, n)}, rank {rank}: B @ A is off by {off:.3f}; {best:.3f} is possible"
    d = change["bert.encoder.layer.1.attention.self.query.weight"]
    B, A = answer(d, 8)
    share = 1 - ((d - B @ A).norm() / d.norm()).square().item()
    print(f"   of the change in the last block's queries, rank 8 keeps {share:.0%} of the squared length")


try_(1, check_nearest, nearest)

# %% [markdown]
# **Exercise 2: merge a folder.** Given the tensors of a base, those of an adapter's file and its config (three
# dictionaries), return a new dictionary with the tensors of the merged model. To the weight of `LAYER`, in
# `LAYER.weight`, belong `base_model.model.LAYER.lora_A.weight` (r, in) and `….lora_B.weight` (out, r); any other
# tensor of the adapter replaces the base's of that name. Where `fan_in_fan_out` is true (GPT-2) the base keeps its
# matrices turned, (in, out). What was given stays as it was.
#
# Hint: the factor is `lora_alpha / r`. A square matrix does not tell you when you have forgotten to turn.


# %%
def merged_folder(base: dict, adapter: dict, config: dict) -> dict: ...


def check_merged_folder(answer):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    for out, n, turned in ((3, 4, False), (4, 4, False), (6, 4, True), (4, 4, True)):
        A, B, W = draw(2, n), draw(out, 2), draw(out, n)
        base = {"h.0.attn.weight": W.T.clone() if turned else W.clone(), "h.0.attn.bias": draw(out), "score.weight": W}
        adapter = {f"base_model.model.h.0.attn.lora_{name}.weight": p for name, p in {"A": A, "B": B}.items()}
        adapter["base_model.model.score.weight"] = draw(out, n)
        given = {key: tensor.clone() for key, tensor in base.items()}
        got = answer(base, adapter, {"r": 2, "lora_alpha": 6, "fan_in_fan_out": turned})
        assert isinstance(got, dict) and got.keys() == base.keys(), f"the keys should be those of the base, not {got!r}"
        assert all(torch.equal(base[key], given[key]) for key in base), "a tensor that was given has changed"
        want = W + 3 * B @ A
        what = f"W {(n, out) if turned else (out, n)}, fan_in_fan_out {turned}"
        assert got["h.0.attn.weight"].shape == given["h.0.attn.weight"].shape, f"{what}: the shape has changed"
        assert torch.allclose(got["h.0.attn.weight"], want.T if turned else want, atol=1e-5), (
            f"{what}: it is not W + (alpha / r) BA, the way that this file keeps it"
        )
        assert torch.equal(got["h.0.attn.bias"], given["h.0.attn.bias"]), "the bias has no LoRA and should stay"
        assert torch.equal(got["score.weight"], adapter["base_model.model.score.weight"]), "the head learned whole"
    files = work / "base" / "model.safetensors", folder / "adapter_model.safetensors"
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    got, theirs = answer(*map(safetensors.load, files), config), safetensors.load(folder.parent / "model.safetensors")
    off = max((got[key] - theirs[key]).abs().max().item() for key in theirs)
    assert off < 1e-5, f"of section 4's run, a number differs by {off:.4f} from the merged model that was saved"


try_(2, check_merged_folder, merged_folder)

# %% [markdown]
# **Exercise 3: each row its own adapter.** Many adapters can serve in one batch, if each row gets its own. Given x
# (N, T, in), W (out, in), the A (K, r, in) and B (K, out, r) of K adapters, a tensor `which` (N,) with the number
# of each row's adapter, and the factor `scale`, return (N, T, out). Do not make a BA, nor a copy of W, for any row.
#
# Hint: `A[which]` is (N, r, in), and `@` multiplies batch by batch; `.mT` turns the last two dimensions.


# %%
def for_each_row(x, W, A, B, which, scale): ...


def check_for_each_row(answer):
    generator = torch.Generator().manual_seed(0)
    x, W, A, B = (torch.randn(*s, generator=generator) for s in ((4, 3, 5), (6, 5), (3, 2, 5), (3, 6, 2)))
    for which in ([0, 0, 0, 0], [2, 0, 1, 2], [1, 2, 2, 0]):
        got = answer(x, W, A, B, torch.tensor(which), 0.5)
        assert isinstance(got, torch.Tensor) and got.shape == (4, 3, 6), f"return a tensor (4, 3, 6), not {got!r}"
        for row, k in enumerate(which):
            want = x[row] @ (W + 0.5 * B[k] @ A[k]).T
            assert torch.allclose(got[row], want, atol=1e-4), f"which = {which}: row {row} is not what adapter {k} says"


try_(3, check_for_each_row, for_each_row)
