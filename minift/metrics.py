"""How good the predictions are: the figures of scikit-learn and scipy, in numpy.

Where a figure is 0/0 it is 0.0, so that a run's results stay numbers: F1 of a class that is never right, mcc
when there is one class only in truth or predictions, a correlation with a constant.
"""

import math

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
