# %% [markdown]
# # Translate a domain
#
# A translator that has learned everyday sentences comes on board a sailing boat. There a *sheet* is a
# rope, *port* is a side, and a *jib* is nothing it has ever heard of. Here we give it some 1,200
# sentences from such a boat with their French, and look closely at what that does: what is learned
# and what is not, what is forgotten, and how to measure it without deceiving ourselves.
#
# Papers: Papineni et al. 2002 (BLEU), Popović 2015 (chrF), Koehn 2004 (how sure to be of a
# difference), Vaswani et al. 2017 (label smoothing). Tutorial 09 builds the model that is used here.
#
# Run it cell by cell, or whole: `python tutorials/10_translate_a_domain.py`, about a minute and a
# half, no network. A cell that takes longer than a second says so.

# %%
import copy
import math
import os
import re
import time
from collections import Counter

import torch
import torch.nn.functional as F

import minift
from minift import data, hub, metrics, settings, train
from minift.tasks.translate import Translate

MODEL = "bart-nano-en-fr"  # or the folder of a published translator
QUICK = bool(os.environ.get("MINIFT_QUICK"))  # the tests set it: fewer rows and steps, nothing else

torch.manual_seed(0)
general, tokenizer = minift.load(MODEL)
rows = {part: data.read(hub.DATA / "phrasebook" / f"{part}.tsv").rows for part in ("train", "validation", "test")}
if QUICK:
    rows = {part: some[:48] for part, some in rows.items()}

# %% [markdown]
# ## 1. The translator as it is
#
# It is small, 7.8 million parameters, and was trained on short sentences as people collect them for
# learning languages. The cell lets it translate five of these and five from the boat (written for
# this page), and prints the boat's true French beside them. About two seconds.

# %%
HOME = [
    "I am hungry.",
    "Where did you buy this coat?",
    "The train leaves in ten minutes.",
    "She has been ill since Monday.",
    "He is taller than his father.",
]
ABOARD = {
    "The anchor is dragging, wake the skipper!": "L'ancre chasse, réveille le skipper !",
    "Hoist the jib and ease the sheet.": "Hisse le foc et choque l'écoute.",
    "There is a buoy to starboard.": "Il y a une bouée à tribord.",
    "The mast is still up.": "Le mât tient toujours.",
    "Put the fenders out on the port side.": "Mets les pare-battages à bâbord.",
}


def translate(model, sources):
    return [found["prediction"] for found in minift.predict((model, tokenizer), sources)]


def show_aboard(model):
    for (source, right), said in zip(ABOARD.items(), translate(model, list(ABOARD)), strict=True):
        print(f"{source}\n   right  {right}\n   model  {said}")


print(f"{sum(p.numel() for p in general.parameters()):,} parameters")
for source, said in zip(HOME, translate(general, HOME), strict=True):
    print(f"{source}\n   model  {said}")
print()
show_aboard(general)

# %% [markdown]
# At home it is hard to fault. On board it is lost, in two ways. A word it knows by another meaning is
# translated by that one. A word it never met is *spelt*: the tokenizer cuts it into pieces, and from
# pieces the decoder makes something that sounds French. Nothing warns the reader: its nonsense is as
# fluent as its sense.
#
# ## 2. BLEU, step by step
#
# To measure is to compare with a translation by a person, the *reference*. No two people translate
# alike, so equal sentences are rare. BLEU (Papineni et al. 2002) asks something weaker: which *runs
# of words* of the translation are also in the reference?
#
# First, what is a word? The cell prints it for a sentence, by the rules of `metrics.words_13a`, which
# everybody uses so that figures compare. Then for a translation that has gone astray, for runs of one
# to four words: how many there are, and how many the reference has, too. *Clipped*: a run counts at
# most as often as it stands in the reference, so that *la cabine, la cabine* earns its cabin once.

# %%
REFERENCE = "Le chien dort dans le cockpit, le chat dans la cabine."
ASTRAY = "Le chien dort dans la cabine, la cabine."


def runs_of(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def counted(said, reference):
    """(9,) for runs of 1 to 4 words those in both, those in `said`; the number of words of the reference."""
    said, reference = metrics.words_13a(said), metrics.words_13a(reference)
    found = [(runs_of(said, n), runs_of(reference, n)) for n in (1, 2, 3, 4)]
    both = [sum(min(count, theirs[run]) for run, count in ours.items()) for ours, theirs in found]
    return torch.tensor([*both, *(sum(ours.values()) for ours, _ in found), len(reference)], dtype=torch.float64)


print("reference ", *metrics.words_13a(REFERENCE), sep=" | ")
print("astray    ", *metrics.words_13a(ASTRAY), sep=" | ")
count = counted(ASTRAY, REFERENCE)
for n in range(4):
    print(f"runs of {n + 1}: {count[n]:.0f} of {count[4 + n]:.0f} are in the reference")

# %% [markdown]
# So four *precisions*, from words to runs of four. Right words are easy to come by, right runs are
# not: that is how a measure without grammar sees grammar. BLEU takes the geometric mean, so all four
# must be good.
#
# Precision alone would reward saying little: *Le chien dort dans* has four perfect precisions. Hence
# a *brevity penalty*: a translation of c words where the reference has r > c is multiplied by
# exp(1 - r / c). Being too long costs nothing extra, the precisions see to it.
#
# $$\mathrm{BLEU} = 100 \cdot \min(1, e^{1 - r/c}) \cdot (p_1 p_2 p_3 p_4)^{1/4}$$
#
# The cell computes that, of the sentence and of its four good words, and compares with minift.


# %%
def bleu_of(counts):
    """(…, 9) sums of what `counted` gives -> (…,) BLEU; every run length must have a match."""
    both, ours, length = counts[..., :4], counts[..., 4:8], counts[..., 8]
    brevity = (1 - length / ours[..., 0]).clamp(max=0).exp()
    return 100 * brevity * (both / ours).log().mean(-1).exp()


for said in (ASTRAY, "Le chien dort dans"):
    count = counted(said, REFERENCE)
    precisions = "  ".join(f"{p:.2f}" for p in (count[:4] / count[4:8]).tolist())
    brevity = min(1.0, math.exp(1 - (count[8] / count[4]).item()))
    print(f"precisions {precisions}   brevity {brevity:.2f}   BLEU {bleu_of(count):.2f}   {said}")
    assert abs(bleu_of(count).item() - metrics.bleu([said], [REFERENCE])) < 1e-6

# %% [markdown]
# **A corpus is not a mean of sentences.** The counts of *all* sentences are added up first, then
# divided once. A short sentence may have no run of four right, which would make its BLEU 0 (or
# whatever one agrees to put there instead); in the sum it just adds nothing.
#
# The cell lets the translator translate our test rows, and prints BLEU by our counts, by minift, and
# the mean of the sentences' own. About 5 seconds.

# %%
sources, references = ([row[side] for row in rows["test"]] for side in ("src", "tgt"))


def counts_of(said, references=references):
    return torch.stack([counted(*pair) for pair in zip(said, references, strict=True)])  # (N, 9)


before = translate(general, sources)
counts_before = counts_of(before)
alone = [metrics.bleu([said], [right]) for said, right in zip(before, references, strict=True)]
print(f"{len(before)} rows: BLEU by hand {bleu_of(counts_before.sum(0)):.3f}, by minift {metrics.bleu(before, references):.3f}")
print(f"mean of the sentences' BLEU: {sum(alone) / len(alone):.3f}")
print(f"sentences without any right run of four words: {sum(counts_before[:, 3] == 0)}")

# %% [markdown]
# Most sentences have no run of four right, and yet the corpus has a sensible figure.
#
# **chrF** (Popović 2015) does the same with *characters*, in runs of one to six, spaces left out. It takes
# recall in, which counts double, and so needs no penalty. *bouées* for *bouée* is nearly right for it,
# and plainly wrong for BLEU. It needs no idea of what a word is. Where words have many endings, trust
# it more; minift reports both.
#
# **What neither sees.** The cell measures five translations of one order. *Choque* means let it out;
# *borde* is the opposite and may lay the boat flat. Look at which fault costs what.

# %%
ORDER = "Choque l'écoute avant que le bateau se couche."
for what, said in {
    "faultless": ORDER,
    "to a stranger (vous)": "Choquez l'écoute avant que le bateau se couche.",
    "the opposite": "Borde l'écoute avant que le bateau se couche.",
    "another's word": "Choque l'écoute avant que le voilier se couche.",
    "another order": "Avant que le bateau se couche, choque l'écoute.",
}.items():
    print(f"{what:21} BLEU {metrics.bleu([said], [ORDER]):5.1f}   chrF {metrics.chrf([said], [ORDER]):5.1f}   {said}")

# %% [markdown]
# For BLEU politeness costs as much as disaster, and good French in another order costs more than
# either. A metric like that says something about two hundred sentences, and next to nothing about one. So look at
# translations, always; and count by yourself what matters to you (section 5).
#
# **How wide is luck?** Other test sentences would have given another figure. We have no others, but can
# *draw* test sets from ours, N rows with replacement (some twice, some not at all), and see how far
# BLEU goes: the *bootstrap* (Koehn 2004). Sums of counts are all it takes. The cell draws a thousand
# test sets and prints the middle 95 % of their BLEU.


# %%
def resampled(counts, draws=1000, seed=0):
    """(draws,) BLEU of test sets that are drawn from the rows of counts (N, 9)."""
    chance = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(counts), (draws, len(counts)), generator=chance)
    return bleu_of(counts[picked].sum(1))


def middle(values):
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return f"{low:.1f} to {high:.1f}"


print(f"general translator: BLEU {bleu_of(counts_before.sum(0)):.1f}, of 95 % of the test sets {middle(resampled(counts_before))}")

# %% [markdown]
# Five points from end to end or so, with 220 sentences. Keep that in mind when somebody reports a
# gain of half a point.
#
# ## 3. What the decoder is fed
#
# A translator learns by *teacher forcing*: the decoder is fed the right French, shifted by one place
# behind a start token, and must say at each place the token that comes next. The cell prints that for
# a row to learn from, with the probability that the translator gives to each right token, and what it
# would have said instead. (`_` is a space.)

# %%
task = Translate(tokenizer, general.longest)
pair = next(row for row in rows["train"] if 4 <= len(row["tgt"].split()) <= 6)
batch = task.batch(task.examples(data.read([pair])))
target = batch["target"]  # (1, T)
fed = torch.cat((torch.full_like(target[:, :1], general.start), target[:, :-1]), 1)
with torch.no_grad():
    logits = general.eval()(batch["src"], fed, batch["src_mask"], batch["target_mask"])  # (1, T, V)
log_p = logits[0].log_softmax(-1)  # (T, V)


def name(id):
    return tokenizer.decode([id]).replace(" ", "_")


print(pair["src"], "/", pair["tgt"])
for place, (given, right) in enumerate(zip(fed[0].tolist(), target[0].tolist(), strict=True)):
    p, likeliest = log_p[place, right].exp(), int(log_p[place].argmax())
    print(f"fed {name(given):12} must say {name(right):12} probability {p:.4f}   likeliest {name(likeliest)}")
loss, count = task.loss(general, batch)
print(f"loss by hand {-log_p.gather(1, target.T).sum():.4f}, by minift {loss:.4f}, over {count} tokens")

# %% [markdown]
# Note where the probabilities are low: where a *new* word begins. Once its first piece is fed, the
# rest often follows. The loss is a mean over all of these, easy and hard.
#
# **Label smoothing.** Plain cross-entropy wants all of the probability on the one right token; but
# there are other ways to say it, and a model that is driven to certainty learns the training rows by
# heart. So the target is softened (Vaswani et al. 2017, section 5.4): 1 - ε for the right token, and ε
# shared evenly among all V.
#
# $$\mathrm{loss} = (1 - \varepsilon)(-\log p_{right}) + \varepsilon \cdot \frac1V \sum_v -\log p_v$$
#
# The cell prints both parts for our pair with ε = 0.1, the loss, PyTorch's, and the least that any
# model could reach.

# %%
epsilon, V = 0.1, log_p.shape[1]
right, even = -log_p.gather(1, target.T)[:, 0], -log_p.mean(1)  # (T,) each
smoothed = (1 - epsilon) * right.mean() + epsilon * even.mean()
theirs = F.cross_entropy(logits[0], target[0], label_smoothing=epsilon)
print(f"right token {right.mean():.3f}, evenly {even.mean():.3f}: smoothed {smoothed:.4f}, PyTorch's {theirs:.4f}")
most, each = 1 - epsilon + epsilon / V, epsilon / V
print(f"the least possible: {-most * math.log(most) - (V - 1) * each * math.log(each):.3f}")

# %% [markdown]
# So with smoothing a training loss of 2 is not far from the floor. Do not compare it with a loss
# without, nor take its exponential for a perplexity. minift smooths while training only, and measures
# without.
#
# ## 4. Fine-tuning
#
# As a command, with a choice of the best epoch by the validation rows, it is
#
#     minift finetune translate --model bart-nano-en-fr --train train.tsv --valid validation.tsv
#         --test test.tsv --epochs 10 --lr 1e-3 --smoothing 0.1
#
# Here we take two epochs, in batches of 16, and the last weights: what `minift.finetune` does in its
# middle. (Epochs, rate and smoothing were fixed beforehand with `validation.tsv`.) The cell prints the
# mean of the smoothed losses as it goes. About 40 seconds.

# %%
EPOCHS, RATE = 1 if QUICK else 2, 1e-3
torch.manual_seed(0)
tuned = copy.deepcopy(general)
smooth = Translate(tokenizer, tuned.longest, smoothing=epsilon)
examples = smooth.examples(data.read(rows["train"]))
lengths = [len(example["ids"]) for example in examples]
plan = [data.length_batches(lengths, 16, seed=0, epoch=epoch) for epoch in range(EPOCHS)]
tensors = lambda numbers: smooth.batch([examples[i] for i in numbers])
history = train.train(tuned, plan, tensors, smooth.loss, settings.Finetune(lr=RATE))
for start in range(0, history.steps, 30):
    some = history.losses[start : start + 30]
    print(f"steps {start + 1:3} to {start + len(some):3}: loss {sum(some) / len(some):.3f}")

# %% [markdown]
# The first steps may look worse than the start: a high rate shakes a trained model before it settles.
#
# The cell measures the test rows again, with the interval, and shows our five orders. About 5 seconds.

# %%
after = translate(tuned, sources)
counts_after = counts_of(after)
for who, said, counts in ("before", before, counts_before), ("after", after, counts_after):
    found = metrics.translation(said, references)
    print(f"{who:7} BLEU {found['bleu']:.1f} ({middle(resampled(counts))})   chrF {found['chrf']:.1f}")
print()
show_aboard(tuned)

# %% [markdown]
# The intervals may well overlap. That does not mean that the gain is luck: both systems translated the
# *same* rows, and a hard draw is hard for both. The right question is asked in pairs (exercise 3).
#
# Read the five. Some words are right now, some sentences, and some are still nonsense: better is
# not good. A sailor could not use it yet.
#
# ## 5. What was learned
#
# BLEU has put everything in one figure. Let us take it apart by what we care about: the boat's *terms*.
# The list has English terms with their French, from the glossary in `data/phrasebook`. Where a test row
# has the term on both sides, does the translation have the French one? The cell prints this share,
# before and after, by how many training pairs have the term.

# %%
TERMS = """anchor ancre, bow étrave, boom bôme, buoy bouée, chart carte, deck pont, dinghy annexe, fender pare-battage,
fog brume, forecast météo, genoa génois, gust rafale, halyard drisse, hull coque, jib foc, keel quille, mainsail
grand-voile, mast mât, oilskin ciré, pontoon ponton, port bâbord, quay quai, rope bout, sheet écoute, shroud hauban,
spinnaker spi, starboard tribord, tiller barre, helm barre, watch quart, windlass guindeau, wave vague, harness harnais,
lighthouse phare, lifejacket gilet, squall grain, ebb jusant, flood flot, heads toilettes, galley cuisine, line amarre,
cleat taquet, berth place"""
TERMS = [term.split() for term in TERMS.split(", ")]


def has(term, text):
    return re.search(rf"\b{term}(s|es|x)?\b", text.lower()) is not None


def rows_with(term, part):
    english, french = term
    return [i for i, row in enumerate(rows[part]) if has(english, row["src"]) and has(french, row["tgt"])]


def table(what, found):
    """found: (group, right before, right after) of each case."""
    for group in sorted({group for group, _, _ in found}):
        cases = [rest for which, *rest in found if which == group]
        shares = [sum(column) / len(cases) for column in zip(*cases, strict=True)]
        print(f"{what} {group:8} {len(cases):4} cases: before {shares[0]:.2f}, after {shares[1]:.2f}")


found = []
for term in TERMS:
    times = len(rows_with(term, "train"))
    group = " 0 to  5" if times < 6 else " 6 to 10" if times < 11 else "11 to 19"
    found += [(group, has(term[1], before[i]), has(term[1], after[i])) for i in rows_with(term, "test")]
table("term in training pairs,", found)

# %% [markdown]
# The more often met, the better learned. Nothing surprising, but now in figures: it takes about ten
# pairs for a term to be right most of the time, in *so few* steps. If a term matters, write ten
# sentences with it.
#
# And words that no training pair has? The cell asks the same of *all* French words of four letters or
# more in the references: how many of them stand in the translation, by how often the training rows
# have them.

# %%
words = lambda text: re.findall(r"[^\W\d_]{4,}", text.lower())
met = Counter(word for row in rows["train"] for word in words(row["tgt"]))
found = []
for right, *both in zip(references, before, after, strict=True):
    for word in sorted(set(words(right))):
        group = "never" if not met[word] else "1 to 3" if met[word] < 4 else "4 to 15" if met[word] < 16 else "often"
        found.append((group, *(word in words(said) for said in both)))
table("French word met", found)

# %% [markdown]
# What was never met did not get better (or hardly): fine-tuning teaches what is in its rows. For the
# rest, more rows are needed, or a larger translator that has met the words elsewhere.
#
# A third kind of thing is learned: the *manner of the house*. The crew say *tu* to each other. English
# does not tell, so the translator must guess. The cell takes the rows whose reference says *tu* (or
# *toi*, *ton*, …) and those with *vous*, and counts what the translations say.

# %%
ADDRESS = {
    "tu": re.compile(r"\b(tu|toi|te|ton|ta|tes)\b|\bt'", re.IGNORECASE),
    "vous": re.compile(r"\b(vous|votre|vos)\b", re.IGNORECASE),
}
for manner, is_right in ADDRESS.items():
    numbers = [i for i, right in enumerate(references) if is_right.search(right)]
    for who, texts in {"before": before, "after": after}.items():
        said = [sum(bool(pattern.search(texts[i])) for i in numbers) for pattern in ADDRESS.values()]
        print(f"{len(numbers)} rows with {manner:4} {who:6}: tu in {said[0]}, vous in {said[1]}")

# %% [markdown]
# ## 6. Greedy, or beams
#
# So far the likeliest token was taken at each place. A beam search keeps several beginnings
# (tutorial 09, section 6) and finds likelier texts. What is it worth, and what does it cost? The cell
# translates the first 80 test rows with 1, 2 and 4 beams, and with 4 and two other length penalties (more is
# better for long texts). It prints BLEU, the number of words as a share of the references', and the
# seconds. About 15 seconds.

# %%
few = 8 if QUICK else 80
some = sorted(range(len(sources)), key=lambda i: len(sources[i]))[:0] or list(range(min(few, len(sources))))
src, src_mask = data.pad([tokenizer.encode(sources[i]) for i in some], tokenizer.pad)
right = [references[i] for i in some]
for beams, penalty in (1, 1.0), (2, 1.0), (4, 1.0), (4, 0.0), (4, 2.0):
    started = time.perf_counter()
    ids = minift.generate_ids(tuned, src, src_mask, beams=beams, length_penalty=penalty)
    seconds = time.perf_counter() - started
    said = [tokenizer.decode(line, skip_special=True).strip() for line in ids]
    total = counts_of(said, right).sum(0)
    share = (total[4] / total[8]).item()
    print(f"{beams} beams, length_penalty {penalty}: BLEU {metrics.bleu(said, right):.1f}, {share:.2f} of the words, {seconds:.1f} s")

# %% [markdown]
# TODO
