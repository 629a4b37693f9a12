# %% [markdown]
# # BERT to BERT
#
# BERT reads and cannot write. Take two of them: the first reads as it always did; the second loses
# sight of what follows, so that it can write, and gets in each layer an attention that looks at what
# the first has read. Nearly everything in this model has learned something before. Only what joins
# the two is new, and fine-tuning has to teach it.
#
# Our readers read English reviews and write a verdict in French: *Un bon repas.* or *Une mauvaise
# adresse.* The writer must find out what is reviewed and whether it was liked, and make the two agree.
# We build the model by hand from two BERTs, train it from a reader that knows English and from one
# that does not, choose rates for what is old and what is new, test whether it reads at all, and look at
# where it looks.
#
# Paper: Rothe et al. 2020, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks". It helps
# to have done tutorial 09, where cross-attention, teacher forcing and the shuffle test are explained.
#
# Run it cell by cell, or whole: `python tutorials/11_bert_to_bert.py`, two to three
# minutes, no network.
# A cell that takes longer than a second says so.

# %%

import math
import os
import random
import tempfile
from pathlib import Path

import torch

import minift
from minift import data, hub
from minift.models import bert
from minift.tasks.translate import Translate
from minift.tokenizers.training import train_wordpiece

QUICK = bool(os.environ.get("MINIFT_QUICK"))  # the tests set it: fewer rows and epochs, nothing else

torch.manual_seed(0)
scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # everything we write goes here
work = Path(scratch.name)

# %% [markdown]
# ## 1. Reviews, and what to say of them
#
# The reviews that come with minift have a label and a domain. Each gets a French sentence. Two of the
# five nouns are feminine, and article and adjective follow: *un bon*, *une bonne*. The cell prints a
# row of each noun.

# %%
NOUNS = {"meal": "repas", "service": "équipe", "product": "produit", "book": "livre", "place": "adresse"}
FEMININE = ("équipe", "adresse")
ADJECTIVES = {"positive": ("bon", "bonne"), "negative": ("mauvais", "mauvaise")}


def verdict(domain: str, label: str) -> str:
    noun = NOUNS[domain]
    she = noun in FEMININE
    return f"{'Une' if she else 'Un'} {ADJECTIVES[label][she]} {noun}."


def rows_of(part: str, count: int) -> list[dict]:
    rows = data.read(hub.DATA / "reviews" / f"{part}.tsv").rows[:count]
    return [{"src": row["text"], "tgt": verdict(row["domain"], row["label"])} for row in rows]


rows = {"train": rows_of("train", 64 if QUICK else 971), "valid": rows_of("validation", 16 if QUICK else 60)}
rows["test"] = rows_of("test", 16 if QUICK else 200)
for noun in NOUNS.values():
    row = next(row for row in rows["train"] if noun in row["tgt"])
    print(f"{row['tgt']:22} {row['src'][:75]}")

# %% [markdown]
# ## 2. Two BERTs
#
# The reader is `bert-nano`: two layers of 384 channels, which have read millions of English words. A
# French BERT of that kind does not come with minift, so the writer is one that we make here: a
# vocabulary trained on our ten sentences (cased, with accents), two layers of 128 channels, random
# weights. That it knows nothing yet is bad luck, but it has little to learn. In the experiment at the
# end of this tutorial the roles are the other way round, too.
#
# The cell makes the writer's folder and joins the two: `bert2bert:` and two names, anywhere that minift
# takes a model. It prints how many parameters come from where.

# %%
sentences = sorted({row["tgt"] for row in rows["train"]})
french = work / "french"
tokenizer = train_wordpiece(sentences * 2, 200, french, lower=False)
shape = bert.Config(tokenizer.vocab_size, 128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256)
minift.save(bert.BERT(shape, "mlm"), tokenizer, french)

READER = "bert-nano"
NAME = f"bert2bert:{READER},{french}"
model, both = minift.load(NAME)
origin = {"the reader": 0, "the writer": 0, "new": 0}
for name, p in model.named_parameters():
    where = "new" if name in model.report.new else "the reader" if name.startswith("encoder") else "the writer"
    origin[where] += p.numel()
print(", ".join(f"{where} {n:,}" for where, n in origin.items()))
print("new:", *sorted({name.split(".layer.")[-1].split(".", 1)[-1] for name in model.report.new}), sep="\n  ")

# %% [markdown]
# New are the cross-attentions, one a layer, and `enc_to_dec_proj`, a *bridge*: the reader thinks in 384
# channels, the writer in 128, and a matrix takes the one to the other. Everything else is as it was.
# Do not take our word for it: the cell compares the encoder with BERT itself on a review, and prints
# the largest difference.

# %%
reader, words = minift.load(READER, kind="encoder")
src = torch.tensor([words.encode(rows["train"][0]["src"])])  # (1, S)
with torch.no_grad():
    print("as BERT reads it:", (model.encoder.hidden(src) - reader.hidden(src)).abs().max().item())

# %% [markdown]
# The writer has changed in one thing. As a BERT each token saw all others. Now it sees itself and what
# came before. This is a matter of the mask alone: no weight changes, only what each may look at. The
# cell feeds it a sentence and then the same with another last word, and prints by how much the hidden
# vector of each place moves: in the decoder, and in the BERT that it was made from.

# %%
text = both.encode_target("Un bon repas.")  # [CLS] Un bon repas . [SEP]
tgt, other = torch.tensor([text]), torch.tensor([[*text[:-2], both.encode_target("livre")[1], text[-1]]])
as_bert = minift.load_model(french)
with torch.no_grad():
    memory = model.encode(src)
    for who, hidden in ("as a decoder", lambda ids: model.decode(ids, memory)), ("as a BERT", as_bert.hidden):
        moved = (hidden(tgt) - hidden(other)).abs().amax(-1)[0]  # (T,)
        print(f"{who:13}", "  ".join(f"{x:.3f}" for x in moved.tolist()))

# %% [markdown]
# As a decoder, what stands before the exchanged word does not move at all. As a BERT all of it does.
#
# ## 3. What it is fed, and what it must say
#
# The target is `[CLS] Un bon repas . [SEP]`. The decoder is fed `[CLS]` first of all
# (`decoder_start_token_id`), and then the target itself, so that `[CLS]` comes twice, once as a start
# and once as the first token to say. That costs a step of writing and nothing else; transformers does
# the same. The cell prints the two rows under each other, and the loss of the untrained model beside
# that of one who guesses evenly among all tokens.

# %%
task = Translate(both, max_length=64)
batch = task.batch(task.examples(data.read(rows["train"][:32])))
said = batch["target"][0][batch["target_mask"][0]].tolist()
print("fed ", *both.tokens([model.start, *said[:-1]]), sep="  ")
print("says", *both.tokens(said), sep="  ")
with torch.no_grad():
    summed, count = task.loss(model, batch)
print(f"loss {summed / count:.2f} a token; evenly among {both.vocab_size} tokens {math.log(both.vocab_size):.2f}")

# %% [markdown]
# ## 4. Warm against cold
#
# Now the question that the paper asks: what is it worth that the reader has read before? We train
# twice, from the same rows in the same order, for as many steps, at the same rates. *Warm* begins with
# bert-nano's weights; *cold* has its shape and its vocabulary, and random weights (`random:bert-nano`).
#
# Exact matches alone would hide what is learned when, so the cell prints besides how often the noun is
# right (what is reviewed?), the adjective's sense (was it liked?), and whether article, adjective and
# noun agree. About 40 seconds a run.

# %%
LR, LR_NEW = 3e-4, 1e-3


def judged(found: list[str], rows: list[dict]) -> dict[str, float]:
    """Shares of the verdicts that are right as a whole, in the noun, in the adjective's sense; that agree in gender."""
    right = {"exact": 0, "noun": 0, "sense": 0, "agrees": 0}
    possible = {verdict(domain, label) for domain in NOUNS for label in ADJECTIVES}
    for text, row in zip(found, rows, strict=True):
        ours, theirs = (words.rstrip(".").split() for words in (text, row["tgt"]))
        right["exact"] += text == row["tgt"]
        right["noun"] += ours[-1:] == theirs[-1:]
        right["sense"] += len(ours) > 1 and ours[1][:3] == theirs[1][:3]  # bon and bonne begin alike
        right["agrees"] += text in possible
    return {name: n / len(rows) for name, n in right.items()}


def predicted(run) -> list[str]:
    sources = [row["src"] for row in rows["test"]]
    return [one["prediction"] for one in minift.predict((run.model, run.tokenizer), sources)]


def trained(name: str, model: str, **more):
    """Fine-tune, judge by the test rows, print a line; returns the run."""
    settings = {"lr": LR, "lr_new": LR_NEW, "epochs": 1 if QUICK else 6, "batch_size": 16, "max_length": 64} | more
    run = minift.finetune("translate", model=model, out=work / name.replace(" ", "-"), **rows, **settings)
    found = predicted(run)
    shares = "   ".join(f"{what} {share:.2f}" for what, share in judged(found, rows["test"]).items())
    print(f"{name:16} {shares}   ({run.train['seconds']:.0f} s)")
    return run


warm = trained("warm", NAME)
cold = trained("cold", f"bert2bert:random:{READER},{french}")

# %% [markdown]
# Chance would have 0.10, 0.20 and 0.50. Both learned to write: every verdict agrees. But cold has learned
# *only* to write. In a thousand reviews it has not found out what English words mean, and has fallen back
# on what can be had without reading: sentences that occur. Warm knows most of the nouns. Whether somebody
# was pleased is the harder question, as it was in tutorial 05, and there it is little better than chance:
# a classifier's head reads from the encoder at once, while our writer must first learn to look at it.
#
# ## 5. Two rates
#
# What is new has far to go, and what is old has something to lose. `lr` is the rate of what was loaded,
# `lr_new` of what was drawn at random (by default ten times `lr`). How do we know that one rate would
# not do? Train with the higher of the two for everything. About 40 seconds.

# %%
hasty = trained("one high rate", NAME, lr=LR_NEW, lr_new=LR_NEW)
first = minift.load_model(READER, kind="encoder")
for name, run in {"warm": warm, "one high rate": hasty}.items():
    far, size = 0.0, 0.0
    for p, q in zip(run.model.encoder.blocks.parameters(), first.blocks.parameters(), strict=True):
        far, size = far + (p - q).square().sum().item(), size + q.square().sum().item()
    print(f"{name:16} moved the reader's layers by {math.sqrt(far / size):.0%} of their length")

# %% [markdown]
# At the high rate the reader's layers move farther from what they were, and it reads hardly better than
# the cold one: the first steps, whose gradients come through cross-attentions that are still noise, have
# overwritten much of what it knew. (Warm-up helps against that, and there is some; two rates help more.)
#
# ## 6. Does it read at all?
#
# `minift.shuffle_test` gives each row the source of the row before. Of a model that reads, BLEU must
# fall. With ten possible sentences it cannot fall to 0: another's verdict is now and then one's own,
# and any two share words. So compare with the cold one, for which it should hardly matter whose
# source it gets. The cell takes a few seconds.

# %%
for name, run in {"warm": warm, "cold": cold}.items():
    found = minift.shuffle_test((run.model, run.tokenizer), rows["test"])
    print(f"{name}: BLEU", ", ".join(f"{source} source {figures['bleu']:.1f}" for source, figures in found.items()))

# %% [markdown]
# ## 7. Where it looks
#
# The cross-attention of the last layer says for every word that is written how much it takes from each
# word that was read. The cell computes these weights by hand: a hook catches what goes into the
# module, then queries, keys, a softmax (exercise 1 is this step with padding), and the mean of the heads. It prints a
# review, darker where the weights are higher, once for the noun and once for the adjective.

# %%
SHADES = " ░▒▓█"


@torch.no_grad()
def looks(model, source: str, target: str) -> tuple[list[str], list[str], torch.Tensor]:
    """The tokens said, the tokens read, and the weights (T, S) by which the former looked at the latter."""
    src = torch.tensor([both.encode(source, max_length=64)])
    said = both.encode_target(target)
    module, caught = model.decoder.blocks[-1].crossattention, []
    hook = module.register_forward_pre_hook(lambda _, inputs: caught.append(inputs))
    model.decode(torch.tensor([[model.start, *said[:-1]]]), model.encode(src))
    hook.remove()
    x, (keys, _), _ = caught[0]
    queries = module.heads(module.self.query(x))  # (1, nh, T, hs)
    weights = (queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5).softmax(-1)
    return both.tokens(said), both.source.tokens(src[0].tolist()), weights.mean((0, 1))  # of the heads


def picture(model, row: dict):
    said, read, weights = looks(model, row["src"], row["tgt"])
    print(f"\n{row['tgt']}")
    for word, line in zip(said, weights, strict=True):
        if word not in ("[CLS]", "[SEP]", ".", "Un", "Une"):
            shades = [SHADES[min(int(4.99 * weight / line.max()), 4)] for weight in line.tolist()]
            print(f"{word:>9}  " + " ".join(f"{shade}{token}" for shade, token in zip(shades, read, strict=True)))


right = [row for row, said in zip(rows["test"], predicted(warm), strict=True) if said == row["tgt"]]
short = [row for row in right if len(row["src"]) < 90]
for row in (short or rows["test"])[:3]:
    picture(warm.model, row)

# %% [markdown]
# A picture like this is easily believed. Do the words that it looked at matter? Hide the three that the noun
# looked at most behind `[MASK]`, and count how often another noun is said; then hide three words drawn at
# random. The cell takes a few seconds.

# %%
chance = random.Random(0)


def say(model, sources: list[list[int]]) -> list[list[int]]:
    ids, mask = data.pad(sources, both.pad)
    return minift.generate_ids(model, ids, mask)


def with_hidden(source: str, target: str, by_looks: bool) -> list[int]:
    """The ids of a source with three words behind [MASK]."""
    ids = both.encode(source, max_length=64)
    _, _, weights = looks(warm.model, source, target)
    inner = range(1, len(ids) - 1)  # not [CLS] and [SEP]
    line = weights[3:4].sum(0).tolist()  # [CLS] Un bon repas: that of the noun, if there is one
    chosen = sorted(inner, key=lambda place: -line[place])[:3] if by_looks else chance.sample(inner, 3)
    return [both.source.mask if place in chosen else id for place, id in enumerate(ids)]


some = rows["test"][: 8 if QUICK else 120]
before = say(warm.model, [both.encode(row["src"], max_length=64) for row in some])
for what, by_looks in ("most looked at", True), ("at random", False):
    verdicts = (both.decode(ids, skip_special=True) for ids in before)
    hidden = [with_hidden(row["src"], said, by_looks) for row, said in zip(some, verdicts, strict=True)]
    changed = sum(a[3:4] != b[3:4] for a, b in zip(before, say(warm.model, hidden), strict=True))
    print(f"three words hidden, {what:15}: {changed / len(some):.2f} of the nouns change")

# %% [markdown]
# If the first share is larger, the picture says something about this model; the smaller the difference,
# the less. It never says why a verdict was given: what a word's vector holds when it is looked at, two
# layers of reading have gathered from all words of the review.
#
# ## 8. Both ways round
#
# Here the reader was the pre-trained side. `tests/bench/bert2bert.py` trains on real translations,
# English to French with BERT reading, French to English with BERT writing, each beside the same
# model from random weights, and draws BLEU by epoch; its table stands in the README. A command of your
# own, once you have two BERTs:
#
#     minift finetune translate --model bert2bert:bert-base-uncased,path/to/another --train pairs.tsv
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
# **Exercise 1: weights with padding.** Given queries (B, nh, T, hs), keys (B, nh, S, hs) and the
# source's mask (B, S), True where there is a token: return the weights (B, nh, T, S). Each line sums to
# 1, and padding gets nothing.
#
# Hint: fill the scores with -inf *before* the softmax; `mask[:, None, None]` is (B, 1, 1, S).


# %%
def weigh(queries, keys, mask): ...


def check_weigh(answer):
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(2, 3, size, 4, generator=generator) for size in (5, 6))
    mask = torch.arange(6) < torch.tensor([[6], [2]])
    got = answer(queries, keys, mask)
    assert isinstance(got, torch.Tensor) and got.shape == (2, 3, 5, 6), f"return a tensor (2, 3, 5, 6), not {got!r}"
    lost = got[1, ..., 2:].abs().max().item()
    assert lost < 1e-6, f"the padding of the second row gets a weight of {lost:.2f}"
    sums = got.sum(-1)
    assert (sums - 1).abs().max() < 1e-4, f"weights sum to {sums.min():.2f} and more: what padding had is missing"
    alone = (queries[1] @ keys[1, :, :2].transpose(-1, -2) / 2).softmax(-1)
    assert torch.allclose(got[1, ..., :2], alone, atol=1e-5), "are the scores divided by the root of hs?"


try_(1, check_weigh, weigh)

# %% [markdown]
# **Exercise 2: strangers.** With ten verdicts, the row before has often the same one, and the shuffle
# test is too kind. Given the targets, return an order (a list with every index once) such that no row
# gets a source whose target is the same as its own. You may suppose that no target makes up more than
# half of the rows.
#
# Hint: sort the indices by target, so that equal ones stand together, and give each the one that is
# half the list further on.


# %%
def strangers(targets: list[str]) -> list[int]: ...


def check_strangers(answer):
    for targets in (["a", "b"], list("aabb"), list("abcabc"), list("aaabbc"), [row["tgt"] for row in rows["train"]]):
        got = answer(list(targets))
        assert isinstance(got, list) and sorted(got) == [*range(len(targets))], (
            f"for {targets[:6]} return each of 0 to {len(targets) - 1} once, not {str(got)[:60]}"
        )
        same = sum(targets[i] == targets[j] for i, j in enumerate(got))
        assert not same, f"of {len(targets)} rows ({targets[:6]} …), {same} get a source with their own target"


try_(2, check_strangers, strangers)

# %% [markdown]
# **Exercise 3: how a BERT learns to write.** Given a target's mask (B, T), True where there is a token,
# return which token may see which, (B, T, T): [b, i, j] is True where token i may look at token j. A
# real token sees itself and the real ones before it. A padding sees itself and nothing else, so that no
# line is empty.
#
# Hint: `torch.ones(T, T, dtype=torch.bool).tril()` is the past, `torch.eye(T, dtype=torch.bool)` oneself.


# %%
def may_see(mask): ...


def check_may_see(answer):
    mask = torch.tensor([[True, True, True], [True, True, False], [False, True, True]])
    got = answer(mask)
    assert isinstance(got, torch.Tensor) and got.shape == (3, 3, 3), f"return a tensor (3, 3, 3), not {got!r}"
    got = got.bool()
    assert not got.triu(1).any(), "a token sees what follows it: it would copy the answer"
    assert got.any(-1).all(), "a line is empty: the softmax over nothing is not a number"
    for b, row in enumerate(mask.tolist()):
        for i in range(3):
            want = [(row[i] and row[j] and j <= i) or i == j for j in range(3)]
            assert got[b, i].tolist() == want, f"mask {row}: token {i} may see {want}, yours {got[b, i].tolist()}"


try_(3, check_may_see, may_see)
