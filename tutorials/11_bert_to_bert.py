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
# Run it cell by cell, or whole: `python tutorials/11_bert_to_bert.py`, about two minutes, no network.
# A cell that takes longer than a second says so.

# %%
import json
import math
import os
import random
import tempfile
from dataclasses import replace
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


rows = {"train": rows_of("train", 64 if QUICK else 971), "valid": rows_of("validation", 16 if QUICK else 100)}
rows["test"] = rows_of("test", 16 if QUICK else 250)
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
# noun agree. It takes about 30 seconds a run.

# %%
LR, LR_NEW = 3e-4, 2e-3


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


def trained(name: str, model: str, **more):
    """Fine-tune, judge by the test rows, print a line; returns the run."""
    settings = {"lr": LR, "lr_new": LR_NEW, "epochs": 1 if QUICK else 4, "batch_size": 16, "max_length": 64} | more
    run = minift.finetune("translate", model=model, out=work / name.replace(" ", "-"), **rows, **settings)
    found = [one["prediction"] for one in minift.predict((run.model, run.tokenizer), [row["src"] for row in rows["test"]])]
    shares = "   ".join(f"{what} {share:.2f}" for what, share in judged(found, rows["test"]).items())
    print(f"{name:16} {shares}   ({run.train['seconds']:.0f} s)")
    return run


warm = trained("warm", NAME)
cold = trained("cold", f"bert2bert:random:{READER},{french}")
