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
rows["train"] = rows["train"][:1200]  # less than half of them, to save time
if QUICK:
    rows = {part: some[:32] for part, some in rows.items()}

# %% [markdown]
# ## 1. The translator as it is
#
# It is small, 7.8 million parameters, and was trained on short sentences as people collect them for
# learning languages. The cell lets it translate five such sentences and five from the boat (written
# for this page, and picked to show all kinds of faults), and prints the boat's true French with them.
# About two seconds.

# %%
HOME = [
    "I am hungry.",
    "Where did you buy this coat?",
    "The train leaves in ten minutes.",
    "She has been ill since Monday.",
    "He is taller than his father.",
]
ABOARD = {
    "Our dinghy has a hole.": "Notre annexe a un trou.",
    "I have lost the chart.": "J'ai perdu la carte.",
    "The anchor is heavy.": "L'ancre est lourde.",
    "There is a boat at the buoy.": "Il y a un bateau à la bouée.",
    "Hoist the jib and ease the sheet.": "Hisse le foc et choque l'écoute.",
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
# At home it is hard to fault. On board it is lost. A word it hardly knows is confused with another: an
# *auteur* writes books, a *seau* is a bucket, a *chiffre* is a figure. A word it never met is *spelt*:
# the tokenizer cuts it into pieces, and of pieces the decoder makes something that sounds French.
# Nothing warns the reader: its nonsense is as fluent as its sense.
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


def counts_of(said, references):
    return torch.stack([counted(*pair) for pair in zip(said, references, strict=True)])  # (N, 9)


before = translate(general, sources)
counts_before = counts_of(before, references)
alone = [metrics.bleu([said], [right]) for said, right in zip(before, references, strict=True)]
by_hand, by_minift = bleu_of(counts_before.sum(0)).item(), metrics.bleu(before, references)
print(f"{len(before)} rows: BLEU by hand {by_hand:.3f}, by minift {by_minift:.3f}")
print(f"mean of the sentences' BLEU: {sum(alone) / len(alone):.3f}")
print(f"sentences without any right run of four words: {sum(counts_before[:, 3] == 0)}")

# %% [markdown]
# Most sentences have no run of four right, and yet the corpus has a sensible figure.
#
# **chrF** (Popović 2015) does the same with *characters*, in runs of one to six, spaces left out. It
# takes recall in, which counts double, and so needs no penalty. *bouées* for *bouée* is nearly right
# for it, and plainly wrong for BLEU. It needs no idea of what a word is. Where words have many
# endings, trust it more; minift reports both.
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
# For BLEU politeness costs as much as disaster, and good French with another word for the boat, or in
# another order, costs more than either. A metric like that says something about two hundred
# sentences, and next to nothing about one. So look at translations, always; and count by yourself
# what matters to you (section 5).
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


print(f"BLEU {by_hand:.1f}, of 95 % of the test sets {middle(resampled(counts_before))}")

# %% [markdown]
# About five points from end to end, with two hundred sentences. Keep that in mind when somebody reports a
# gain of half a point.
#
# ## 3. What the decoder is fed
#
# A translator learns by *teacher forcing*: the decoder is fed the right French, shifted by one place
# behind a start token, and must say at each place the token that comes next. The cell prints that for
# one pair, written as our rows are, with the probability that the translator gives to each right
# token, and what it would have said instead. (`_` is a space, `(half)` a byte that is no character
# by itself.)

# %%
task = Translate(tokenizer, general.longest)
pair = {"src": "Where did you buy this chart?", "tgt": "Où as-tu acheté cette carte\u00a0?"}


@torch.no_grad()
def forced(model, row):
    """(T,) what the decoder is fed for a row, (T,) what it must say, (T, V) its logits."""
    src, target = (torch.tensor([tokenizer.encode(row[side])]) for side in ("src", "tgt"))
    fed = torch.cat((torch.tensor([[model.start]]), target[:, :-1]), 1)
    return fed[0], target[0], model.eval()(src, fed)[0]


def loss_of(model, rows):
    """The loss of rows, summed, and how many tokens it is of; by minift, without smoothing."""
    with torch.no_grad():
        summed, count = task.loss(model.eval(), task.batch(task.examples(data.read(rows))))
    return summed.item(), count


def name(id):
    """A token as it may be printed in a column."""
    return tokenizer.decode([id]).replace(" ", "_").replace("\ufffd", "(half)")


print(pair["src"], "/", pair["tgt"])
fed, target, logits = forced(general, pair)
log_p = logits.log_softmax(-1)  # (T, V)
for place, (given, right) in enumerate(zip(fed.tolist(), target.tolist(), strict=True)):
    p, likeliest = log_p[place, right].exp(), int(log_p[place].argmax())
    print(f"fed {name(given):12} must say {name(right):12} probability {p:.4f}   likeliest {name(likeliest)}")
by_hand, (by_minift, count) = -log_p.gather(1, target[:, None]).sum(), loss_of(general, [pair])
print(f"loss by hand {by_hand:.4f}, by minift {by_minift:.4f}, over {count} tokens")

# %% [markdown]
# Most of it is easy, once what stands before is fed. *carte* is not: the model does not know what a
# chart is. The loss is the sum over all of these, or their mean.
#
# **An invisible character.** Look at the question mark. Two tokens before it are half a character
# each: together they are the *no-break space*, U+00A0, which French printers put before `?`, `!`, `:`
# and `;`. Our rows have it. The translator puts a plain space there, which with the mark is one
# token, and it holds the other for all but impossible.
#
# No eye sees the difference, and neither does BLEU or chrF: for both, white space is white space. The
# loss does, and spends its gradients there. When this page was written we first trained with it, and
# after two epochs the translator ended its questions in a dozen broken halves before the mark,
# everyday questions too. So **print the tokens of your data**, and bring them to what the model knows.
#
# The cell counts the rows concerned, replaces the character, and prints the loss of our pair with it
# and without.

# %%
print({part: sum("\u00a0" in row["tgt"] for row in some) for part, some in rows.items()}, "rows have it")
rows = {part: [row | {"tgt": row["tgt"].replace("\u00a0", " ")} for row in some] for part, some in rows.items()}
references = [row["tgt"] for row in rows["test"]]
assert torch.equal(counts_of(before, references), counts_before)  # nothing changes for BLEU
plain = pair | {"tgt": pair["tgt"].replace("\u00a0", " ")}
for what, row in {"as it was": pair, "with a plain space": plain}.items():
    loss, count = loss_of(general, [row])
    print(f"{what:18} {count} tokens, loss {loss:.2f} in all, {loss / count:.2f} a token")

# %% [markdown]
# **Label smoothing.** Plain cross-entropy wants all of the probability on the one right token; but
# there are other ways to say it, and a model that is driven to certainty learns the training rows by
# heart. So the target is softened (Vaswani et al. 2017, section 5.4): 1 - ε for the right token, and
# ε shared evenly among all V.
#
# $$\mathrm{loss} = (1 - \varepsilon)(-\log p_{right}) + \varepsilon \cdot \frac1V \sum_v -\log p_v$$
#
# The cell prints both parts for our pair (with the plain space) with ε = 0.1, the loss, PyTorch's,
# and the least that any model could reach.

# %%
fed, target, logits = forced(general, plain)
log_p = logits.log_softmax(-1)  # (T, V)
epsilon, V = 0.1, log_p.shape[1]
right, even = -log_p.gather(1, target[:, None])[:, 0], -log_p.mean(1)  # (T,) each
smoothed = (1 - epsilon) * right.mean() + epsilon * even.mean()
theirs = F.cross_entropy(logits, target, label_smoothing=epsilon)
print(f"right token {right.mean():.3f}, evenly {even.mean():.3f}: smoothed {smoothed:.4f}, PyTorch's {theirs:.4f}")
most, each = 1 - epsilon + epsilon / V, epsilon / V
print(f"the least possible: {-most * math.log(most) - (V - 1) * each * math.log(each):.3f}")

# %% [markdown]
# So with smoothing a training loss cannot fall below 1.2, and 2 is not bad. Do not compare it with a
# loss without, nor take its exponential for a perplexity. minift smooths while training only, and
# measures without.
#
# ## 4. Fine-tuning
#
# As a command, with all rows and a choice of the best epoch by the validation rows, it is
#
#     minift finetune translate
#
# where model, data and settings are what it takes if you say nothing else: four epochs, smoothing 0.1.
#
# Here we take two epochs, in batches of 16, and the last weights: what `minift.finetune` does in its
# middle. (The rate was chosen by `validation.tsv`; two epochs, to save time.) The cell prints the mean
# of the smoothed losses as it goes. About a minute on one core.

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
# It falls slowly at first: a high rate shakes a trained model before it settles. And two epochs of
# some of the rows are little. Whoever has ten minutes runs the command: its figures stand in the
# README, and are much better.
#
# The cell measures the test rows again, with the interval, and shows our five sentences. About 5
# seconds.

# %%
after = translate(tuned, sources)
counts_after = counts_of(after, references)
for who, said, counts in ("before", before, counts_before), ("after", after, counts_after):
    found = metrics.translation(said, references)
    print(f"{who:7} BLEU {found['bleu']:.1f} ({middle(resampled(counts))})   chrF {found['chrf']:.1f}")
print()
show_aboard(tuned)

# %% [markdown]
# Expect several points. Where two such intervals overlap, a gain need not be luck: both systems
# translated the *same* rows, and a hard draw is hard for both. The right question is asked in pairs
# (exercise 3).
#
# Then read the five. What was confused may be right now (*annexe*, *carte*). A noun may be found and
# its gender not, or half of a noun; and the last may be as senseless as before. Better is not good: no
# sailor could use it yet.
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
TERMS = [term.split() for term in TERMS.split(",")]


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
        print(f"{what} {group:10} {len(cases):4} cases: before {shares[0]:.2f}, after {shares[1]:.2f}")


found = []
for term in TERMS:
    times = len(rows_with(term, "train"))
    group = " up to 9" if times < 10 else "10 to 14" if times < 15 else "15 or more"
    found += [(group, has(term[1], before[i]), has(term[1], after[i])) for i in rows_with(term, "test")]
table("term in training pairs,", found)

# %% [markdown]
# Before, it knew next to none. After, the more often met, the better learned; and still, after so few
# steps, many are wrong. If a term matters, write many sentences with it, and let it read them more
# often.
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
        group = "0 times" if not met[word] else "1 to 3" if met[word] < 4 else "4 to 15" if met[word] < 16 else "often"
        found.append((group, *(word in words(said) for said in both)))
table("French word met", found)

# %% [markdown]
# The line of those it never met is the one to look at: it did not rise. Fine-tuning teaches what is in
# its rows. For the rest it takes more rows, or a larger translator that has met the words elsewhere.
# (The commonest words rise little: it had them.)
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
# The crew's manner has been picked up. But the rows with *vous* are no better for it, rather worse:
# who is a stranger, one sentence rarely tells, and *tu* is the better bet on this boat. BLEU rose all
# the same. Would the harbour master have agreed?
#
# ## 6. Greedy, or beams
#
# So far the likeliest token was taken at each place. A beam search keeps several beginnings
# (tutorial 09, section 6) and finds likelier texts. What is it worth, and what does it cost? The cell
# translates the first 60 test rows with 1, 2 and 4 beams, and with 4 and two other length penalties
# (more is better for long texts). It prints BLEU, the number of words as a share of the references',
# how many translations are empty, and the seconds. About 15 seconds.

# %%
few = 8 if QUICK else 60
src, src_mask = data.pad([tokenizer.encode(source) for source in sources[:few]], tokenizer.pad)
right = references[:few]
for beams, penalty in (1, 1.0), (2, 1.0), (4, 1.0), (4, 0.0), (4, 2.0):
    started = time.perf_counter()
    ids = minift.generate_ids(tuned, src, src_mask, beams=beams, length_penalty=penalty)
    seconds = time.perf_counter() - started
    said = [tokenizer.decode(line, skip_special=True).strip() for line in ids]
    total = counts_of(said, right).sum(0)
    share = (total[4] / total[8]).item()
    figures = (
        f"BLEU {metrics.bleu(said, right):4.1f}, {share:.2f} of the words, {said.count('')} empty, {seconds:.1f} s"
    )
    print(f"{beams} beams, length_penalty {penalty}: {figures}")

# %% [markdown]
# Two beams bring some points for up to twice the time (how many, 60 rows cannot say); four hardly bring
# more, for twice that again. A model that is unsure, as ours is on board, gains most.
#
# And see what happens with penalty 0, where the likeliest text of all wins. Many are *empty*: to end
# at once has a small probability, but a dozen words that are each uncertain have, multiplied, a
# smaller one. Stahlberg and Byrne (2019) found that for large translators, too, the likeliest text is
# often the empty one. That greedy search misses it is luck for us. Leave the penalty at 1.
#
# ## 7. What was forgotten
#
# What the weights have learned about the boat, they have paid for with something else. Here are twenty
# everyday pairs, and eight more of a mean sort: their words are terms aboard and something plain
# ashore. (All written for this page. 28 rows are few: look for large changes only.)

# %%
EVERYDAY = """The soup is too hot. | La soupe est trop chaude.
Where did you buy this coat? | Où as-tu acheté ce manteau ?
My sister lives in Lyon. | Ma sœur habite à Lyon.
I forgot my umbrella at the office. | J'ai oublié mon parapluie au bureau.
Can you help me with my homework? | Peux-tu m'aider à faire mes devoirs ?
He is taller than his father. | Il est plus grand que son père.
We are going to the cinema tonight. | Nous allons au cinéma ce soir.
The train leaves in ten minutes. | Le train part dans dix minutes.
I don't understand this question. | Je ne comprends pas cette question.
She has been ill since Monday. | Elle est malade depuis lundi.
This book is very interesting. | Ce livre est très intéressant.
How much does this table cost? | Combien coûte cette table ?
They have bought a new house. | Ils ont acheté une nouvelle maison.
I want to learn Spanish. | Je veux apprendre l'espagnol.
Nobody knows where he lives. | Personne ne sait où il habite.
It was raining when I woke up. | Il pleuvait quand je me suis réveillé.
You should eat more fruit. | Tu devrais manger plus de fruits.
Her brother works in a bank. | Son frère travaille dans une banque.
My parents got married very young. | Mes parents se sont mariés très jeunes.
I have never seen such a big garden. | Je n'ai jamais vu un aussi grand jardin."""
ASHORE = """The sheets on my bed are clean. | Les draps de mon lit sont propres.
My watch is broken. | Ma montre est cassée.
The lock on the door is broken. | La serrure de la porte est cassée.
I cannot read the last line. | Je n'arrive pas à lire la dernière ligne.
The teacher gave me a good mark. | Le professeur m'a donné une bonne note.
The children are playing in the yard. | Les enfants jouent dans la cour.
She put the flowers in a pot. | Elle a mis les fleurs dans un pot.
My garden is beautiful in spring. | Mon jardin est beau au printemps."""
everyday, ashore = (
    [dict(zip(("src", "tgt"), line.split(" | "), strict=True)) for line in text.split("\n")]
    for text in (EVERYDAY, ASHORE)
)

# %% [markdown]
# The cell prints for both lists BLEU before and after, then the everyday translations that have
# changed and all of those ashore. About three seconds.

# %%
said_of = {}
for what, some in {"everyday": everyday, "ashore": ashore}.items():
    right = [row["tgt"] for row in some]
    said_of[what] = [translate(model, [row["src"] for row in some]) for model in (general, tuned)]
    scores = [metrics.bleu(said, right) for said in said_of[what]]
    print(f"{what:9} {len(some)} rows: BLEU {scores[0]:.1f} before, {scores[1]:.1f} after")
for what, some in {"everyday": everyday, "ashore": ashore}.items():
    print(f"\n{what}")
    for row, old, new in zip(some, *said_of[what], strict=True):
        if old != new or what == "ashore":
            print(f"{row['src']}\n   before {old}\n   after  {new}")

# %% [markdown]
# The everyday rows lose something. In our runs, with other rows or another order of them, it was between
# nothing and ten points; one of twenty rows is worth some of these, and not every change is a fault.
# The mean list shows best what goes on: the sheets of a bed are no longer *draps*, and what comes
# instead may be no word at all. Two lessons have met in one English word, and the newer one pulls.
#
# **A remedy without training: average the weights.** Both models have the same shape, and one came
# from the other, so any point on the line between them is a translator, too (Wortsman et al. 2022):
# (1 - α) · general + α · tuned. The usual hope is to keep most of what was learned and get back most
# of what was lost. The cell measures three points on the 28 rows (BLEU; and the loss a token, which is
# steadier) and on the first 80 *validation* rows of the boat: α is a choice, and the test is not to
# choose by. About 10 seconds.


# %%
def between(share):
    """The translator that has this share of the way from the general one to the tuned one behind it."""
    model = copy.deepcopy(general)
    with torch.no_grad():
        for p, q in zip(model.parameters(), tuned.parameters(), strict=True):
            p.lerp_(q, share)
    return model


boat = rows["validation"][: 8 if QUICK else 80]
for share in (0.0, 0.5, 1.0):
    model, line = between(share), f"α = {share:.1f}"
    for what, some in {"everyday": everyday + ashore, "boat": boat}.items():
        bleu = metrics.bleu(translate(model, [row["src"] for row in some]), [row["tgt"] for row in some])
        summed, count = loss_of(model, some)
        line += f"   {what} BLEU {bleu:.1f}, loss {summed / count:.2f}"
    print(line)

# %% [markdown]
# By the loss it is a fair bargain: half-way the everyday rows cost hardly more than at first, and more
# than half of the boat's gain is there. By BLEU on so few rows it depends on the run: once we saw
# most of the boat's points go for nothing won back ashore, once nearly all of them stay and the shore
# restored. So measure on as many rows as you have, and by the loss as well, before you cure.
#
# The other remedy is to *mix*: put general pairs among the new ones, say one to one, so that the
# old is rehearsed while the new is learned. It costs a longer training, and you need such pairs.
# (Who has none can let the general translator make some, from plain English sentences.) We have not
# run it here.
#
# ## 8. Does it read?
#
# A decoder that has read 1,200 sentences from a boat could write boat sentences without looking at the
# English. The *shuffle test* (tutorial 09, section 7) gives each row the source of the row before, and
# measures against the row's own reference. The cell does it for 60 test rows. About five seconds.

# %%
for source, found in minift.shuffle_test((tuned, tokenizer), rows["test"][:60]).items():
    print(f"{source + ' source':16}", "  ".join(f"{key} {value:5.1f}" for key, value in found.items()))

# %% [markdown]
# With another's source almost nothing is left, so it reads. (chrF does not fall to 0: French shares its
# letters with French. Know where your metric's zero is.)
#
# ## 9. How to deceive oneself
#
# **Near-duplicates.** Phrasebooks repeat themselves: *Hoist the jib!* and *Hoist the jib now!* If one
# is in the training file and the other in the test, memory is taken for skill. A measure of that is
# the dullest translator of all, the *memory*: find the training source with the most words in common,
# and say its French. It knows no French and no English. The cell prints its BLEU on our test; then with
# a tenth of the test rows leaked into the memory, each with a word put in front.


# %%
def memory(known, sources):
    """For each source the French of the known row whose English has the most words in common with it."""
    bags = [set(metrics.words_13a(row["src"].lower())) for row in known]
    found = []
    for source in sources:
        bag = set(metrics.words_13a(source.lower()))
        found.append(known[max(range(len(known)), key=lambda i: len(bag & bags[i]) / len(bag | bags[i]))]["tgt"])
    return found


leaked = [row | {"src": "Now " + row["src"], "tgt": "Bon, " + row["tgt"]} for row in rows["test"][::10]]
for what, known in {"honest": rows["train"], "leaked": rows["train"] + leaked}.items():
    print(f"memory, {what}: BLEU {metrics.bleu(memory(known, sources), references):.1f}")

# %% [markdown]
# A few copies lift it by ten points and more, and would lift a translator. Where the memory alone
# does well, the split is to blame: part near-copies before you split, so that all of a kind come to
# one side (tutorial 08, exercise 3, finds them).
#
# **Choosing by the test.** Epochs, rate, beams, length penalty, α: each is a choice, and with an
# interval as wide as ours the best of ten will look good by luck. Choose by `validation.tsv` and ask
# the test once. (In section 6 we looked at test rows to *see* what beams do. Had we then kept the best
# line, its figure would be spoilt.)
#
# **Comparing figures that do not compare.** BLEU with other rules for words, in lower case, or with
# *several references* a row is another measure: more references, more runs that are right, a higher
# figure (exercise 1). And a BLEU of 25 here says nothing against a 30 on another test set.
#
# **Not reading.** No figure above would have told you of the broken characters of section 3.
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
# **Exercise 1: several references.** Given a translation and a list of references, each a list of
# words, return the tensor of `counted`, (9,): four counts of runs in both, four of runs in the
# translation, and the length of the reference. With several references (Papineni et al., section 2)
# a run counts at most as often as it stands in *the one reference that has it most often*; and the
# length is that of the reference *closest in length* to the translation, the shorter of two equally
# close.
#
# Hint: `runs_of` is yours to use, and `Counter` has `a | b`, the larger count of each.


# %%
def several(said: list[str], references: list[list[str]]) -> torch.Tensor: ...


def check_several(answer):
    def ask(said, *references):
        got = answer(said.split(), [text.split() for text in references])
        assert isinstance(got, torch.Tensor) and got.shape == (9,), f"return a tensor (9,), not {got!r}"
        return got.tolist()

    for said, right in ("le chat dort dans le lit", "le chien dort dans le grand lit"), ("le le le", "le lit"):
        got, want = ask(said, right), counted(said, right).tolist()
        assert got == want, f"with one reference, it is `counted`: {said!r} and {right!r} give {want}, yours is {got}"
    got = ask("le le le lit", "le lit", "mon lit et le sien", "le soir")[0]
    assert got == 2, f"'le le le lit': no reference has 'le' twice, so it counts once, and 'lit' once: 2, not {got:g}"
    got = ask("le chat dort", "le chien dort", "un chat dort")[:2]
    assert got == [3, 1], f"each reference lends its words: 3 words and 1 run of two are right, not {got}"
    cases = ((3, 9), 3), ((9, 5), 5), ((3, 5), 3), ((8, 4, 2), 4)
    for lengths, want in cases:
        got = ask("a b c d", *(" ".join("x" * n) for n in lengths))[8]
        assert got == want, f"of {lengths} words, the length closest to 4 is {want} (the shorter of two), not {got:g}"


try_(1, check_several, several)

# %% [markdown]
# **Exercise 2: label smoothing.** Given logits (N, V), the right tokens (N,) and ε, return the mean
# smoothed loss (section 3), a tensor without dimensions. Write it with `logsumexp`, `mean` and
# indexing, without `cross_entropy`. The share ε goes to *all* V tokens, the right one among them.


# %%
def smoothed_loss(logits, target, epsilon): ...


def check_smoothed_loss(answer):
    generator = torch.Generator().manual_seed(0)
    for N, V in (3, 2), (4, 5), (2, 1000):
        logits = 4 * torch.randn(N, V, generator=generator)
        target = torch.randint(V, (N,), generator=generator)
        for epsilon in (0.0, 0.1, 0.5):
            got = answer(logits, target, epsilon)
            assert isinstance(got, torch.Tensor) and got.shape == (), f"return a tensor without dimensions, not {got!r}"
            want = F.cross_entropy(logits, target, label_smoothing=epsilon).item()
            assert abs(got.item() - want) < 1e-4, (
                f"N = {N}, V = {V}, ε = {epsilon}: the loss is {want:.4f}, yours {got.item():.4f}"
            )
    far = answer(torch.tensor([[200.0, 0.0]]), torch.tensor([0]), 0.1).item()
    assert abs(far - 10) < 1e-3, f"with logits 200 and 0 it is 0.1 · 200 / 2 = 10, yours is {far:.4f}"


try_(2, check_smoothed_loss, smoothed_loss)

# %% [markdown]
# **Exercise 3: is it luck?** Given the counts of two systems on the *same* rows, each (N, 9), return
# the share of `draws` resampled test sets on which the second is *not* better in BLEU than the first.
# Draw the rows *once* for both: that is what makes it a paired bootstrap (Koehn 2004). The same seed,
# the same share. The check prints it for the two translators of this page.
#
# Hint: begin with the lines of `resampled`.


# %%
def not_better(first, second, draws=1000, seed=0) -> float: ...


def check_not_better(answer):
    a = counts_before
    got = answer(a, a)
    assert isinstance(got, float | int), f"return a number, not {got!r}"
    assert got == 1, f"a system is never better than itself, on no test set: 1.0, yours is {got}"
    better = a.clone()
    better[:, :4] = torch.minimum(better[:, :4] + 0.1, better[:, 4:8])  # a trifle more is right, in every row
    got = answer(a, better)
    assert got < 0.01, f"one that is a trifle better in every row is better on every test set; yours says {got} not"
    got = answer(better, a)
    assert got > 0.99, f"and the other way about never; yours says that {got} of the test sets do not show it"
    mixed = a.clone()
    mixed[::2], mixed[1::2] = better[::2], (a[1::2] * torch.tensor([0.9] * 4 + [1.0] * 5)).double()
    assert answer(a, mixed, seed=1) == answer(a, mixed, seed=1), "the same seed should give the same share"
    print(f"   tuned not better than general on {answer(counts_before, counts_after):.3f} of the test sets")


try_(3, check_not_better, not_better)
