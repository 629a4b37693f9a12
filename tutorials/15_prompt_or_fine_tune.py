# %% [markdown]
# # Prompt, or fine-tune?
#
# A fine-tuned model has learned its task from labels. In 2020 the authors of GPT-3 asked whether that is
# needed at all: write some solved cases in front of a new one, and let a language model go on. No weight
# changes; the task is in the *prompt*. The paper: Brown et al. 2020, "Language Models are Few-Shot Learners".
#
# Here both ways get the same labelled reviews. We build a prompt token by token, read a label off the
# probabilities, see what spoils that, count what an answer costs, and fine-tune with the same rows. Our
# language model is some 25,000 times smaller than GPT-3, and we print what comes out. In the end we make
# one for which prompting works.
#
# Run it cell by cell, or whole: `python tutorials/15_prompt_or_fine_tune.py`, about three minutes,
# no network. A cell that takes longer than a second says so.

# %%
import os
import random
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import torch

import minift
from minift import baselines, data, hub, optim, settings, train
from minift.tasks.classify import Classify
from minift.tasks.lm import LM
from minift.tasks.prompt import TEMPLATE, Prompt

MODEL = "gpt2-nano"  # or the folder of a published GPT-2
QUICK = bool(os.environ.get("MINIFT_QUICK"))  # the tests set it: fewer rows, seeds and epochs, nothing else
LABELS = ["negative", "positive"]

torch.manual_seed(0)
scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # everything we write goes here

# %% [markdown]
# ## 1. A prompt
#
# We take reviews of at most 100 characters, so that eight of them make no long prompt: `rows` have labels
# that we may show or learn from, `unseen` is the test, and `asked` the first of these, for what is slow.
#
# A review is written as its text, a line end, `Label:`, a space and the label. A solved case in front of
# the new one is called a *shot*; a blank line parts them. The new case ends after `Label:`, without the
# space, which belongs to the word that follows (tutorial 02). The cell builds a prompt of two shots, the
# shortest review of each label, and prints it.


# %%
def short(part):
    return [row for row in data.read(hub.DATA / "reviews" / f"{part}.tsv").rows if len(row["text"]) <= 100]


rows, valid = short("train"), short("validation")
unseen = short("test")[: 16 if QUICK else 200]
asked = unseen[: 6 if QUICK else 48]


def filled(row):
    return f"{row['text']}\nLabel: {row['label']}"


def prompt(shots, text):
    return "\n\n".join([*map(filled, shots), f"{text}\nLabel:"])


shortest = {
    label: sorted((row for row in rows if row["label"] == label), key=lambda row: len(row["text"])) for label in LABELS
}
two = [shortest[label][0] for label in LABELS]
new = unseen[0]["text"]
print(f"{len(rows)} rows, {len(unseen)} unseen, of these {len(asked)} asked; at most 100 characters\n")
print(prompt(two, new))

# %% [markdown]
# That is all the model gets. The cell prints it as the model sees it, piece by piece (`_` is a space, `/` a
# line end), behind the `<end>` that every document begins with; then the five tokens that the model finds
# likeliest to come next.

# %%
model, tokenizer = minift.load(MODEL)
END = tokenizer.eos


def names(ids):
    return ["<end>" if id == END else tokenizer.tokens([id])[0].replace(" ", "_").replace("\n", "/") for id in ids]


def next_token(model, text):
    """(V,) the log-probability of each token to come next."""
    with torch.inference_mode():
        return model(torch.tensor([[END, *tokenizer.encode(text)]]))[0, -1].log_softmax(-1)


ids = [END, *tokenizer.encode(prompt(two, new))]
print(textwrap.fill(" ".join(names(ids)), 100))
likeliest = next_token(model, prompt(two, new)).topk(5)
print(f"\n{len(ids)} tokens; next:", end=" ")
print(*(f"{name} {p:.3f}" for name, p in zip(names(likeliest.indices.tolist()), likeliest.values.exp(), strict=True)))

# %% [markdown]
# ## 2. Which label is likelier?
#
# We could let it write, but it might write anything. We have a closed question, so we *try* each label: how
# likely is it, word for word, behind this prompt? A label of several tokens has the product of their
# probabilities; its logarithm is a sum. The score is the mean over the label's tokens.
#
# The cell prints for both labels what each token gets, by hand, and the score; then minift's, from
# `tasks/prompt.py`. (That draws new shots for every text. Ours shall stay the same, so we write them into
# its template and ask for 0 shots.)


# %%
@torch.inference_mode()
def log_p_of(model, prompt, label):
    """(tokens of the label, (n,) the log-probability of each behind the prompt and those before it)"""
    ids, answer = [END, *tokenizer.encode(prompt)], tokenizer.encode(" " + label)
    logits = model(torch.tensor([ids + answer[:-1]]))[0]  # (T, V): at each place about the next token
    logits = logits[len(ids) - 1 :]  # (n, V): what stands at the prompt's last token is about the label's first
    return names(answer), logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]


def fixed(shots):
    """A template for minift in which these shots stand before each text."""
    return "\n\n".join([*map(filled, shots), TEMPLATE])


worker = Prompt(tokenizer, data.read(rows), shots=0, max_length=model.longest, template=fixed(two))
batch = worker.batch(worker.examples(data.read([new]), labelled=False))  # a row for each label
with torch.inference_mode():
    theirs = worker.outputs(model, batch)[0].tolist()
for label, score in zip(worker.labels, theirs, strict=True):
    tokens, log_p = log_p_of(model, prompt(two, new), label)
    pieces = ", ".join(f"{token} {x:.3f}" for token, x in zip(tokens, log_p.tolist(), strict=True))
    print(f"{label}: {pieces}; mean {log_p.mean():.5f}, by minift {score:.5f}")
print("the text is", unseen[0]["label"])

# %% [markdown]
# `minift.predict(model, texts, shots=K, examples=rows)` gives the softmax of these two numbers as `scores`.
#
# ## 3. Why the mean
#
# Both labels happen to have two tokens. If one is longer, the sum is unfair to it: each further token costs.
# Suppose that the labels were `good` and `thoroughly disappointing`. The cell prints what their tokens get
# behind one review, then how often either label wins over the reviews asked, by the sum and by the mean. A
# second or two.

# %%
pair = ("good", "thoroughly disappointing")
for label in pair:
    tokens, log_p = log_p_of(model, prompt([], new), label)
    print(", ".join(f"{token} {x:.2f}" for token, x in zip(tokens, log_p.tolist(), strict=True)))
tried = [[log_p_of(model, prompt([], row["text"]), label)[1] for label in pair] for row in asked]
for how, total in {"sum": torch.sum, "mean": torch.mean}.items():
    first = sum(bool(total(good) > total(bad)) for good, bad in tried)
    print(f"by the {how:4}: {pair[0]} {first}, {pair[1]} {len(tried) - first}")

# %% [markdown]
# By the sum the short label wins whatever the review says. The mean takes that away, but it is no perfect
# scale either: the rest of a long word is nearly free once its beginning stands there, so that the mean may
# lean the other way. Best choose labels of like length, and words that the model has often seen.
#
# ## 4. A label that is likely anyway
#
# Compare the scores of *one* label over texts, and you see what the model thinks of the texts. Compare two
# labels for one text, and you see as well which word it likes better, here, in any case. The text to find
# that out with is one that says nothing. Zhao et al. (2021, "Calibrate Before Use") named three sources:
# the word is common; the *last* shot had it (recency); *most* shots had it (majority). Their remedy is to
# subtract the score that each label gets for an empty text.
#
# `lean` is the score of `positive` minus that of `negative`. The cell prints for five sets of shots: the lean
# for an empty text; the mean and the standard deviation of the lean over the reviews asked; which share of
# these is called positive, and is right, as it is and with the empty text's lean subtracted. About ten
# seconds.


# %%
def lean(texts, shots, who=model):
    """(N,) how much better `positive` scores than `negative`, behind fixed shots."""
    said = minift.predict((who, tokenizer), texts, shots=0, examples=rows, template=fixed(shots))
    scores = torch.tensor([[p["scores"][label] for label in LABELS] for p in said])  # (N, 2)
    return scores[:, 1].log() - scores[:, 0].log()


truth = torch.tensor([row["label"] == "positive" for row in asked])
(bad, worse), (good, better) = (shortest[label][:2] for label in LABELS)
print(f"{'shots':22} empty   texts           as it is       calibrated")
for shots in [], [good, bad], [bad, good], [bad, worse], [good, better]:
    empty, found = lean([""], shots).item(), lean([row["text"] for row in asked], shots)
    name = ", ".join(row["label"] for row in shots) or "none"
    line = f"{name:22} {empty:+.2f}   {found.mean():+.2f} ± {found.std():.2f}"
    for said in (found > 0, found > empty):
        line += f"   {said.float().mean():4.0%}, {(said == truth).float().mean():4.0%}"
    print(line)

# %% [markdown]
# Read the rows one by one. Without shots the model likes one of the words better, and gives it to every
# review. With one shot of each label the lean turns with their *order*: it likes the label that stood last.
# With two shots of one label it has hardly another word in mind. So the shots do work: our model has learned
# to repeat what stood in the same place before. What it has not learned is to look at the review: over the
# texts the lean moves by some tenths, with the shots by whole numbers.
#
# Calibration does what it promises, and no label is given to all any more. It cannot do what nobody promised:
# a bias is gone, and no knowledge has come in its place. (GPT-3 had some: Zhao et al. report gains of up to 30
# points.)
#
# ## 5. More shots
#
# GPT-3 was shown as many cases as fit its window, 10 to 100, drawn anew from the training rows for each
# question (section 2.4 of its paper). minift draws so, too. A prompt of ours holds 512 tokens, which is some
# fifteen reviews.
#
# Suppose that we have eight labels. The cell shows 0, 1, 4 or all 8 of them; a seed stands for eight other rows.
# It prints the share that is right, the share called positive, and what an answer costs: the tokens that the
# model must read for it, once for each label, and the time. Of 48 reviews, two standard errors are 14 points.
# About 35 seconds.

# %%
pools = [random.Random(seed).sample(rows, 128) for seed in range(3)]  # labels that we could have, three times


def cost(task, examples):
    """Tokens to be computed for one answer, on average."""
    if isinstance(task, Prompt):  # the prompt, once for each label, and the label without its last token
        return sum(len(e["ids"]) + len(answer) - 1 for e in examples for answer in e["answers"]) / len(examples)
    return sum(len(e["ids"]) for e in examples) / len(examples)


def share(said, texts):
    """The share of labels that are right."""
    return sum(label == row["label"] for label, row in zip(said, texts, strict=True)) / len(texts)


def prompted(shots, examples):
    """Of the reviews asked: (share right, share called positive, tokens an answer, seconds an answer)"""
    task = Prompt(tokenizer, data.read(examples), shots, model.longest)
    tokens = cost(task, task.examples(data.read(asked)))
    started = time.perf_counter()
    said = [p["prediction"] for p in minift.predict((model, tokenizer), asked, shots=shots, examples=examples)]
    seconds = (time.perf_counter() - started) / len(asked)
    return share(said, asked), said.count("positive") / len(said), tokens, seconds


print("shots   right, seed by seed    mean   called positive   tokens an answer   seconds an answer")
few_shot = {}
for shots, seeds in {0: 1, 1: 3, 4: 3, 8: 3}.items() if not QUICK else {0: 1, 8: 1}.items():
    few_shot[shots] = [prompted(shots, pools[seed][:8]) for seed in range(seeds)]
    right, positive, tokens, seconds = ([one[i] for one in few_shot[shots]] for i in range(4))
    each, mean = " ".join(f"{x:.2f}" for x in right), statistics.mean
    print(f"{shots:5}   {each:20} {mean(right):7.3f} {mean(positive):17.2f} {mean(tokens):18.0f} {mean(seconds):19.3f}")

# %% [markdown]
# In our runs all of it was within chance of one half. As in section 4, the shots move the lean for all reviews
# together, up to giving them one and the same label; what they are examples *of* is not understood. The cost is
# real, though: with eight shots an answer takes some ten times as many tokens as with none.
#
# For GPT-3 it worked. On SuperGLUE, a set of eight tasks, 32 shots gave 71.8 on average, where a BERT-Large
# fine-tuned on all training rows had 69.0 (table 3.8); fewer than eight shots were enough to pass it (section
# 3.7). The best fine-tuned model had 89.0: the prompt was no match for that, but had cost no training. And not
# every task gave way: whether a word means the same in two sentences (WiC), GPT-3 guessed, at 49.4.
#
# What does it have that ours has not? Size: 175 billion parameters, ours has 7 million; in the paper the gain
# from shots grows with the model (figure 1.2). And reading: 300 billion tokens of web, books and Wikipedia
# (section 2.2), where opinions with a verdict under them stand in a thousand forms. Ours has read 32 million
# tokens, all of them tales, and hardly ever a review.
#
# ## 6. The same labels, fine-tuned
#
# Now the other way. The first 8, 32 and 128 of the rows that were drawn teach a classifier: gpt2-nano, the very
# model that we have prompted, with a new head (tutorial 05, section 3), and bert-nano, of the same size, which
# has read other things. The epochs were fixed beforehand, since there are no labels to spare for choosing
# (tutorial 08, section 2). The bag of words counts words and has read nothing.
#
# The cell prints the share that is right, on the reviews that the prompts were asked and on more (it costs next
# to nothing now), and the seconds it took to learn; each is the mean of the first two draws of section 5. Beside
# 8 labels stands what the same rows did as shots; 32 would not fit a prompt. About 50 seconds.

# %%
EPOCHS = {8: 15, 32: 8, 128: 4} if not QUICK else {8: 1}


def learn(name, chosen, seed):
    """((a classifier that has learned from these rows, its tokenizer), the seconds it took)"""
    torch.manual_seed(seed)  # the head's first weights, and the dropout
    pupil, words = minift.load_model(name, kind="classify", labels=LABELS), minift.load_tokenizer(name)
    task = Classify(words, LABELS)
    examples = task.examples(data.read(chosen))
    lengths = [len(example["ids"]) for example in examples]
    plan = [data.length_batches(lengths, 8, seed=seed, epoch=e) for e in range(EPOCHS[len(chosen)])]
    rate = optim.usual_rate(next(pupil.parameters()).shape[1], len(pupil.blocks), "all")
    tensors = lambda numbers: task.batch([examples[i] for i in numbers])
    done = train.train(pupil, plan, tensors, task.loss, settings.Finetune(lr=rate))
    return (pupil, words), done.seconds


def classified(learned, texts):
    return share([p["prediction"] for p in minift.predict(learned, texts)], texts)


def by_words(chosen, texts):
    target = [LABELS.index(row["label"]) for row in chosen]
    said = baselines.bag_of_words([row["text"] for row in chosen], target, [row["text"] for row in texts], 2)
    return share([LABELS[i] for i in said], texts)


print(f"labels   {'way':20} right of {len(asked)} asked   of {len(unseen)}   seconds to learn")
spent = {}
for n in EPOCHS:
    draws = [pool[:n] for pool in pools[: 1 if QUICK else 2]]
    ways = {"bag of words": [(by_words(chosen, asked), by_words(chosen, unseen), 0.0) for chosen in draws]}
    for name in ("gpt2-nano", "bert-nano"):
        learned = [learn(name, chosen, seed) for seed, chosen in enumerate(draws)]
        ways[name] = [(classified(one, asked), classified(one, unseen), seconds) for one, seconds in learned]
        spent[name, n] = learned[0]
    if n == 8:
        print(f"{n:6}   {'8 shots':20} {statistics.mean(right for right, *_ in few_shot[8][: len(draws)]):14.3f}")
    for way, found in ways.items():
        few, more, seconds = map(statistics.mean, zip(*found, strict=True))
        print(f"{n:6}   {way:20} {few:14.3f} {more:10.3f} {seconds:18.1f}")

# %% [markdown]
# With 8 labels nobody knows much, whichever way they are used. A model learns them by heart, and a few points
# above a half are within the error (of 200 reviews, two standard errors are 7 points). 128 labels are a different
# matter: in our runs both models then stood clear of chance, bert-nano in front, at about two thirds. That is what
# labels buy by fine-tuning. As shots, some fifteen of them could be shown, and this model made nothing of them.
#
# Mind that it is the *same* gpt2-nano, prompted and fine-tuned. What it takes to tell praise from blame was in it,
# more or less; a prompt did not get it out.
#
# ## 7. What it costs
#
# A prompt costs nothing beforehand and more for every answer. With a fine-tuned model it is the other way round.
# In tokens it can be counted: to learn from a token takes about three times what it takes to read one, since
# `backward` costs twice as much as `forward`.
#
# The cell prints for each way the tokens that are paid before the first answer (those to learn from, times 3)
# and for each answer, the seconds for an answer here, and after how many answers fine-tuning has become the
# cheaper way than 8 shots. A few seconds.

# %%
dear, dear_seconds = (statistics.mean(one[i] for one in few_shot[8]) for i in (2, 3))
print(f"{'way':28} tokens before   tokens an answer   seconds an answer   cheaper after")
print(f"{f'{MODEL}, 8 shots':28} {0:13} {dear:18.0f} {dear_seconds:19.4f}")
for (name, n), (learned, _) in spent.items():
    task = Classify(learned[1], LABELS)
    before = 3 * EPOCHS[n] * sum(len(e["ids"]) for e in task.examples(data.read(pools[0][:n])))
    tokens = cost(task, task.examples(data.read(asked)))
    started = time.perf_counter()
    minift.predict(learned, asked)
    seconds = (time.perf_counter() - started) / len(asked)
    line = f"{f'{name}, {n} labels':28} {before:13,} {tokens:18.0f} {seconds:19.4f}"
    print(f"{line} {before / (dear - tokens):10.0f} answers")

# %% [markdown]
# So computing alone speaks for fine-tuning as soon as somebody asks more than some dozens of questions. (A
# service that keeps the shots' keys and values pays for them once; they must then be the same for all texts, as
# in section 4.) What speaks for the prompt is what this table does not show: no training to set up, no choice
# of rate and epochs, a task that is changed by writing another line, and *one* model in memory for all tasks,
# where fine-tuning keeps one for each. (Or keeps little: tutorial 16, LoRA.)
#
# ## 8. A model for which prompting works
#
# Our model has never seen a review with a label under it. That can be had: write the label of each training row
# out, as in section 1, and let the model read that, as a *language model* (tutorial 06): text in, text predicted,
# no new head. Then ask with no shots. This is instruction tuning at its smallest. Wei et al. (2022, "Finetuned
# Language Models Are Zero-Shot Learners") did it with 137 billion parameters and over sixty data sets, each
# written out in several forms.
#
# The cell does it in two ways. First as it is: every token is predicted, those of the review, too. Then from there
# with the loss on the answers alone, which are 2 tokens of 30: `Prompt` makes batches whose targets are the
# label's tokens, and given only the true label, they are something to learn from. It prints the report of the
# first run. About a minute.

# %%
usual = optim.usual_rate(model.config.n_embd, len(model.blocks), "all")
known, held = (some[: 20 if QUICK else None] for some in (rows, valid))
written = {"train": [{"text": filled(row)} for row in known], "valid": [{"text": filled(row)} for row in held]}
once = {"epochs": 1, "batch_size": 1, "lr": 3 * usual}  # a second epoch made the held-out reviews no cheaper
run = minift.finetune("lm", model=MODEL, say=print, out=Path(scratch.name, "written"), **written, **once)


def practise(pupil, chosen, epochs, rate):
    """Fine-tune a language model, in place, on what it answers to prompts without shots."""
    torch.manual_seed(0)
    task = Prompt(tokenizer, data.read(chosen), 0, pupil.longest)
    examples = [e | {"answers": [e["answers"][e["target"]]]} for e in task.examples(data.read(chosen))]
    lengths = [len(example["ids"]) for example in examples]
    plan = [data.length_batches(lengths, 16, seed=0, epoch=e) for e in range(epochs)]
    tensors = lambda numbers: task.batch([examples[i] for i in numbers])
    train.train(pupil, plan, tensors, LM(tokenizer, pupil.longest).loss, settings.Finetune(lr=rate))


answering = minift.load_model(run.folder)
practise(answering, known, 1 if QUICK else 3, usual)

# %% [markdown]
# (*other* in the report are all of our test reviews, without labels. They are only measured.)
#
# Now prompt all three without shots. For each, the cell prints the three tokens likeliest to follow on one review;
# the *mass*, the probability that what follows is the beginning of one of the labels, on average over the reviews
# asked; the lean for an empty text, and its mean and deviation over the unseen reviews; the share of these that is
# called positive, and the share that is right, as it is and calibrated (section 4); and beside it what a bag of
# words makes of them that has learned the same rows. About ten seconds.

# %%
begins = [tokenizer.encode(" " + label)[0] for label in LABELS]
models = {"as it was": model, "reviews, with labels": run.model, "then answers alone": answering}
for name, who in models.items():
    first = next_token(who, prompt([], new)).topk(3)
    top = zip(names(first.indices.tolist()), first.values.exp(), strict=True)
    print(f"{name:21}", *(f"{token} {p:.2f}" for token, p in top))
print(f"\n{'':20}  mass   empty    texts          positive   right   calibrated")
truth = torch.tensor([row["label"] == "positive" for row in unseen])
for name, who in models.items():
    mass = torch.stack([next_token(who, prompt([], row["text"]))[begins].exp().sum() for row in asked]).mean()
    empty, found = lean([""], [], who).item(), lean([row["text"] for row in unseen], [], who)
    right, calibrated = (((found > least) == truth).float().mean() for least in (0, empty))
    line = f"{name:20} {mass:5.3f}   {empty:+.2f}   {found.mean():+.2f} ± {found.std():.2f}"
    print(f"{line} {(found > 0).float().mean():11.0%} {right:7.3f} {calibrated:12.3f}")
print(f"{'bag of words':57} {by_words(rows, unseen):7.3f}")

# %% [markdown]
# Now prompting works. The two runs did different things. The first taught the *form*: what follows `Label:` is
# one of the two labels, the mass is nearly 1. It did not teach to judge, since 2 tokens of 30 are about that: the
# lean is nearly the same for all reviews (see its deviation). The second run was about nothing else, and now the
# lean depends on the review. Expect some seven of ten to be right, as many as by the bag of words or more. Without
# the first run the second was slower in our trials: 49 and 53 % of the validation rows after one and two epochs,
# with it 66 and 59.
#
# And calibration, which helped against a bias, may now ruin everything. To the old model an empty text said nothing.
# To the new one it is a text like none that it has read, and it has a firm opinion of that, too. Subtract a bias only
# where you have measured that it helps.
#
# Has it learned to judge, or one line to fill in? The cell asks the last model about a hundred reviews with other
# words around them, and with other words for the labels. A few seconds.

# %%
renamed = [row | {"label": {"negative": "bad", "positive": "good"}[row["label"]]} for row in unseen[:100]]
for name, template, some in (
    ("as it was trained", TEMPLATE, unseen[:100]),
    ("Review: … Verdict:", "Review: {text}\nVerdict: {label}", unseen[:100]),
    ("Did they like it?", "{text} Did they like it? It was {label}", unseen[:100]),
    ("Label: good, bad", TEMPLATE, renamed),
):
    # without shots, the examples only say which labels there are
    found = minift.evaluate((answering, tokenizer), some, shots=0, examples=some, template=template)
    print(f"{name:20} right {found['accuracy']:.3f}, correlation with the truth {found['mcc']:+.2f}")

# %% [markdown]
# With other words around the review some of it is left, and less the more the words differ. With other labels it
# is gone: `good` and `bad` have never been answers. Ours has learned one form. Wei et al. wrote each data set in ten
# forms, and theirs then followed instructions for tasks that it had never been trained on. That, too, took size:
# models of 8 billion parameters or less got worse at such tasks (section 4.2).
#
# ## 9. In one command
#
# With a published model, prompting takes a download and no training. (These are not run here.) Without
# `--examples` the shots are reviews of ours; `--template` says how a text is written.
#
#     minift evaluate gpt2 --shots 4 --data test.tsv --examples train.tsv
#     minift predict EleutherAI/gpt-neo-1.3B "The soup was cold." --shots 8 --examples train.tsv
#     minift predict facebook/opt-1.3b --input new.csv --shots 8 --examples train.tsv --output said.jsonl
#     minift evaluate gpt2 --shots 0 --template "Review: {text}\nIt was {label}" --data test.tsv --examples train.tsv
#
# They have 124 million and 1.3 billion parameters and have read text from the web. Before you believe in one, ask
# it about an empty text, as in section 4, and ask a fine-tuned bert-nano the same rows.
#
# The cell saves the model of section 8 and asks it by a command. Some seconds, most of them for starting Python.

# %%
folder = Path(scratch.name, "answering")
minift.save(answering, tokenizer, folder)
command = [
    sys.executable,
    "-m",
    "minift",
    "predict",
    folder,
    "The soup was cold and the waiter was rude.",
    "--shots",
    "0",
]
print(subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout)

# %% [markdown]
# So: with no labels or a handful, a prompt is all there is, and it takes a model that is large and has read much.
# From a hundred labels on, try to fine-tune a small one first: it may be better, and every answer is cheaper.
# Between the two lies section 8: a language model, fine-tuned to answer prompts.
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
# **Exercise 1: the score of an answer.** `ids` (T,) are a prompt and an answer, one behind the other; the answer
# begins at place `start`. `logits` (T, V) are the model's for these ids. Return the mean log-probability of the
# answer's tokens, as a number.
#
# Hint: the logits at a place are about the *next* token. So what is said about the answer's first token stands
# at the last place of the prompt.


# %%
def score_of(logits, ids, start) -> float: ...


def check_score_of(answer):
    generator = torch.Generator().manual_seed(0)
    logits, ids = torch.randn(6, 5, generator=generator), torch.tensor([4, 0, 3, 1, 2, 2])
    for start in (1, 4, 5):
        got = answer(logits, ids, start)
        assert isinstance(got, float), f"return a number (`.item()`), not {got!r}"
        want = sum(logits[t - 1].log_softmax(0)[ids[t]].item() for t in range(start, 6)) / (6 - start)
        assert abs(got - want) < 1e-5, f"6 ids, the answer from place {start} on: it is {want:.4f}, yours {got:.4f}"
    before = [END, *tokenizer.encode(prompt(two, new))]
    ids = torch.tensor(before + tokenizer.encode(" positive"))
    with torch.inference_mode():
        got = answer(model(ids[None])[0], ids, len(before))
    want = log_p_of(model, prompt(two, new), "positive")[1].mean().item()
    assert abs(got - want) < 1e-4, f"of section 2's prompt and 'positive' it is {want:.4f}, yours {got:.4f}"


try_(1, check_score_of, score_of)

# %% [markdown]
# **Exercise 2: calibrate.** `scores` (N, L) are the mean log-probabilities of L labels for N texts, `empty` (L,)
# those for an empty text. Return probabilities (N, L): the softmax of the scores, in which what a label gets
# for the empty text is taken off. A text's answer must depend on itself and the empty text alone, and the empty
# text must come out undecided.
#
# Hint: take off logarithms before the softmax; that is to divide probabilities by those for the empty text.


# %%
def calibrated(scores, empty): ...


def check_calibrated(answer):
    scores = torch.tensor([[-1.0, -2.0, -4.0], [-1.5, -1.4, -3.0], [-0.5, -3.0, -2.5]])
    empty = torch.tensor([-1.0, -2.0, -3.0])
    got = answer(scores, empty)
    assert isinstance(got, torch.Tensor) and got.shape == (3, 3), f"return a tensor (N, L), here (3, 3), not {got!r}"
    assert (got >= 0).all() and torch.allclose(got.sum(1), torch.ones(3)), (
        f"each row is to sum to 1, yours {got.sum(1)}"
    )
    alone = answer(empty[None], empty)
    assert torch.allclose(alone, torch.full((1, 3), 1 / 3), atol=1e-5), (
        f"the empty text is to have 1/3 each, not {alone}"
    )
    ratio = scores.exp() / empty.exp()
    for row, found, want in zip(scores.tolist(), got, ratio / ratio.sum(1, keepdim=True), strict=True):
        assert torch.allclose(found, want, atol=1e-4), (
            f"scores {row}, empty {empty.tolist()}: expected {[round(x, 3) for x in want.tolist()]}, "
            f"yours {[round(x, 3) for x in found.tolist()]}"
        )
    assert torch.allclose(answer(scores[:1], empty), got[:1]), "a text's answer changes with the other texts"


try_(2, check_calibrated, calibrated)

# %% [markdown]
# **Exercise 3: a prompt that fits.** `shots` is a list of lists of ids, each with its blank line behind it, and
# `question` the ids of the new text. Return the ids of a prompt of at most `room` ids: `end` first, then shots,
# then the question. If not all fit, leave out *whole* shots, from the front: those next to the question
# count most. The question fits always.
#
# Hint: cutting ids from the left is shorter, and leaves half a review without its beginning, and no `end`.


# %%
def fitting(shots, question, room, end) -> list[int]: ...


def check_fitting(answer):
    shots, question = [[1, 2, 3, 4], [5, 6], [7, 8, 9]], [20, 21]
    cases = {12: shots, 20: shots, 11: shots[1:], 8: shots[1:], 7: shots[2:], 6: shots[2:], 5: [], 3: []}
    for room, kept in cases.items():
        got, want = answer(shots, question, room, 0), [0, *(id for shot in kept for id in shot), *question]
        assert isinstance(got, list), f"return a list of ids, not {got!r}"
        assert got == want, f"shots {shots}, question {question}, room {room}, end 0: expected {want}, yours {got}"
    assert answer([], question, 9, 0) == [0, 20, 21], "without shots it is end and question"


try_(3, check_fitting, fitting)
