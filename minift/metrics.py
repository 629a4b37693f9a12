"""How good the predictions are: the figures of scikit-learn, scipy, sacrebleu, rouge-score and SQuAD, in numpy.

Where a figure is 0/0 it is 0.0, so that a run's results stay numbers: F1 of a class that is never right, mcc
when there is one class only in truth or predictions, a correlation with a constant, BLEU of empty texts.
"""

import math
import re
import string
from collections import Counter

import numpy as np


def confusion(predicted, target, n: int) -> np.ndarray:
    """(n, n) counts; row = the true class, column = the predicted one."""
    predicted, target = np.asarray(predicted, int), np.asarray(target, int)
    assert predicted.shape == target.shape, f"{predicted.shape} predictions for {target.shape} targets"
    return np.bincount(target * n + predicted, minlength=n * n).reshape(n, n)


def classification(predicted, target, labels) -> dict[str, float]:
    """`predicted` and `target` are indices into `labels`. As scikit-learn does it, macro_f1 averages over the
    classes that occur, in truth or in prediction: a label that is in neither does not count against it."""
    matrix = confusion(predicted, target, len(labels)).astype(float)
    right, true, guessed = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    occurs = true + guessed > 0
    n = matrix.sum()
    # Matthews' coefficient for many classes (Gorodkin 2004): the correlation of the two one-hot matrices.
    spread = (n**2 - true @ true) * (n**2 - guessed @ guessed)
    return {
        "accuracy": float(right.sum() / n),
        "macro_f1": float((2 * right[occurs] / (true + guessed)[occurs]).mean()),
        "mcc": float((n * right.sum() - true @ guessed) / np.sqrt(spread)) if spread else 0.0,
    }


def regression(predicted, target) -> dict[str, float]:
    predicted, target = np.asarray(predicted, float), np.asarray(target, float)
    assert predicted.shape == target.shape, f"{predicted.shape} predictions for {target.shape} targets"
    return {
        "spearman": correlation(ranks(predicted), ranks(target)),
        "pearson": correlation(predicted, target),
        "mse": float(np.mean((predicted - target) ** 2)),
    }


def language(loss: float, tokens: int, bytes: int) -> dict[str, float]:
    """`loss` is the mean over predicted tokens, in nats. Perplexity, its exponential, depends on how long the tokens
    are; bits per byte, the loss of `tokens` tokens shared among the `bytes` bytes of their text, does not."""
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": loss * tokens / max(bytes, 1) / math.log(2),
    }


def translation(predictions, references) -> dict[str, float]:
    """`predictions` and `references` are lists of texts, as in bleu, chrf and rouge: one reference a prediction."""
    return {"bleu": bleu(predictions, references), "chrf": chrf(predictions, references)}


def bleu(predictions, references) -> float:
    """Corpus BLEU, 0 to 100, as sacrebleu's default: the geometric mean of the precisions of 1- to 4-grams, times a
    penalty for brevity (Papineni et al. 2002). Texts are given as people read them: BLEU depends on how words are
    told apart, so that is a part of the metric and not of the user's preprocessing (Post 2018, section 2.2)."""
    counts = np.zeros((4, 3))
    # Summed over the corpus, and only then divided (section 2.1.1): it is no mean of the sentences' BLEU.
    for prediction, reference in paired(predictions, references):
        counts += overlaps(words_13a(prediction), words_13a(reference), 4)
    matched, guessed, true = counts.T
    if not matched.any() or not guessed.all():
        return 0.0
    # One order without a match would make all 0: the first such counts as 1/2 match, the second as 1/4, ... (the
    # smoothing of NIST's script mteval-v13a, method 3 of Chen and Cherry 2014).
    none = matched == 0
    matched[none] = 0.5 ** np.arange(1, none.sum() + 1)
    brevity = min(0.0, 1 - true[0] / guessed[0])  # the logarithm of the penalty, from the lengths in words (2.2.2)
    return 100 * math.exp(brevity + np.log(matched / guessed).mean())


def chrf(predictions, references) -> float:
    """Corpus chrF2, 0 to 100, as sacrebleu's default: precision and recall of 1- to 6-grams of characters, white space
    left out, each averaged over the orders, in one F (Popović 2015, section 2). Beta 2: recall counts double."""
    counts, beta = np.zeros((6, 3)), 2
    for prediction, reference in paired(predictions, references):
        row = overlaps(*("".join(text.split()) for text in (prediction, reference)), 6)
        # n-grams longer than the whole reference are no wrong guesses; those longer than the prediction are missed.
        counts += row * (row[:, 2:] > 0)
    matched, guessed, true = counts[(counts[:, 1:] > 0).all(1)].T
    if not matched.any():
        return 0.0
    precision, recall = (matched / guessed).mean(), (matched / true).mean()
    return float(100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall))


def rouge(predictions, references) -> dict[str, float]:
    """The mean over the rows of F1, 0 to 1, as Google's rouge-score without stemming (Lin 2004): of words (rouge1), of
    pairs of words (rouge2), of the longest common subsequence of words (rougeL, the text as one sentence: 3.1).

    Words are runs of a-z and 0-9, lower-cased, as that package has it, and that is for English: an accented letter
    separates, so "été" is the word "t", and a text in Cyrillic or Chinese has no words and scores 0."""
    scores = []
    for texts in paired(predictions, references):
        prediction, reference = (re.findall("[a-z0-9]+", text.lower()) for text in texts)
        counts = [*overlaps(prediction, reference, 2)]
        counts += [(common_subsequence(prediction, reference), len(prediction), len(reference))]
        scores.append([2 * matched / max(guessed + true, 1) for matched, guessed, true in counts])
    means = np.mean(scores or [[0.0] * 3], axis=0).tolist()
    return dict(zip(("rouge1", "rouge2", "rougeL"), means, strict=True))


def paired(predictions, references):
    texts = [predictions, references]
    assert not any(isinstance(some, str) for some in texts), "a list of predictions and one of references, not a text"
    assert len(predictions) == len(references), f"{len(predictions)} predictions for {len(references)} references"
    return zip(predictions, references, strict=True)


def overlaps(prediction, reference, most: int) -> np.ndarray:
    """(most, 3) counts; row n - 1 = the n-grams in both, in the prediction, in the reference. An n-gram is in both as
    often as it is in the one with fewer of it, so repeating a right word earns nothing (Papineni et al., 2.1)."""

    def ngrams(text, n):
        return Counter(zip(*(text[i:] for i in range(n)), strict=False))

    pairs = [(ngrams(prediction, n), ngrams(reference, n)) for n in range(1, most + 1)]
    return np.array([((p & r).total(), p.total(), r.total()) for p, r in pairs])


def common_subsequence(a: list[str], b: list[str]) -> int:
    """The length of the longest sequence of words that is in `a` and in `b` in this order, perhaps with gaps."""
    a, b = sorted((a, b), key=len)  # the loop goes over the shorter
    number = {word: i for i, word in enumerate({*a, *b})}
    b = np.array([number[word] for word in b])
    # The textbook's table, a row at a time: longest[j] is the length for the words of `a` so far and b[:j]. A word
    # found at b[j] adds 1 to what came before it in both; what is reached at j is reached at all later places too.
    longest = np.zeros(len(b) + 1, int)
    for word in a:
        found = longest[:-1] + (b == number[word])
        longest[1:] = np.maximum.accumulate(np.maximum(longest[1:], found))
    return int(longest[-1])


def answers(predictions, references) -> dict[str, float]:
    """The means of exact match and F1, 0 to 1, as SQuAD's own scorers have them. The references of a row are all the
    texts that would be right; none of them: the question has no answer, and "" is right.

    Where there are such rows the rules are those of version 2.0 (Rajpurkar et al. 2018), else those of 1.1 (2016): they
    differ only for answers of which normalising leaves nothing, such as "the". `f1_answerable` and `f1_unanswerable`,
    where there are both, are of the rows with and without an answer: one who never answers has 0 and 1."""
    answerable = np.array([bool(texts) for texts in references])
    rows = paired(predictions, references)
    scores = np.array([answer(text, right, not answerable.all()) for text, right in rows]).reshape(-1, 2)
    found = {"exact_match": float(scores[:, 0].mean()), "f1": float(scores[:, 1].mean())}
    if answerable.any() and not answerable.all():
        found["f1_answerable"] = float(scores[answerable, 1].mean())
        found["f1_unanswerable"] = float(scores[~answerable, 1].mean())
    return found


def answer(prediction: str, references: list[str], version_2: bool) -> tuple[float, float]:
    """(exact match, F1) of one answer: how it does against the reference that it does best against."""
    said, right = answer_words(prediction), [answer_words(text) for text in references]
    if version_2:
        right = [words for words in right if words] or [[]]
    exact, f1 = max(said == words for words in right), []
    for words in right:
        if version_2 and not (said and words):
            f1.append(float(said == words))
        else:
            f1.append(2 * (Counter(said) & Counter(words)).total() / max(len(said) + len(words), 1))
    return float(exact), max(f1)


def answer_words(text: str) -> list[str]:
    """The words by which answers are compared: lower-cased, without ASCII punctuation and then without articles. Marks
    go without a trace, so that "U.S.-led" is the one word "usled"."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(?:a|an|the)\b", " ", text).split()


# ASCII punctuation but for four, which may be part of a word or number.
STANDS_ALONE = str.maketrans({mark: f" {mark} " for mark in string.punctuation if mark not in "',-."})


def words_13a(text: str) -> list[str]:
    """The words of `text` as mteval-v13a tells them apart: by white space and ASCII punctuation, case kept."""
    # Its input was marked up and broken into lines; &amp; comes before &lt;, so &amp;lt; is < in the end.
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "")
    for entity, mark in ("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"):
        text = text.replace(entity, mark)
    text = f" {text} ".translate(STANDS_ALONE)
    # Full stops and commas stay between digits, as in 1,234.5. A match takes in the character before, so in "x.,5" the
    # comma is not looked at after the full stop, and stays with its digit: the script's way, kept.
    text = re.sub(r"(?a)(\D)([.,])", r"\1 \2 ", text)
    text = re.sub(r"(?a)([.,])(?!\d)", r" \1 ", text)
    return re.sub(r"(?a)(?<=\d)-", " - ", text).split()  # 1990-2000 is three words, well-known one


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    # Compared, not computed: the mean of equal floats may be off by a rounding, and that would correlate.
    if (x == x[0]).all() or (y == y[0]).all():
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)))


def ranks(x: np.ndarray) -> np.ndarray:
    """1 for the smallest; equal values share the mean of their ranks; NaN stays NaN."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return np.where(np.isnan(x), x, (np.cumsum(counts) - (counts - 1) / 2)[inverse])


def confusion_text(matrix, names) -> str:
    """The matrix as a small table: a row for each true class, a column for each predicted one."""
    lines = [["truth \\ predicted", *map(str, names)]]
    lines += [[str(name), *map(str, row)] for name, row in zip(names, np.asarray(matrix), strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]) for cells in lines)
