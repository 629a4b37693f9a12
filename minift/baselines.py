"""What words alone can tell: the score that a fine-tuned model has to beat.

Logistic regression on the tf-idf of words and word pairs. Features, objective and so predictions are those of

    TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10)   # Ridge(alpha=1 / C)

of scikit-learn. For tasks on pairs of texts, join the two.
"""

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional as F

C = 10.0  # the weight of the loss against half the squared norm of the weights


def bag_of_words(train_texts, train_labels, texts, classes: int | None) -> np.ndarray:
    """For each of `texts` its label, one of 0 … classes - 1, or without classes its number."""
    found = scores(train_texts, train_labels, texts, classes)
    return found if classes is None else found.argmax(1)


def scores(train_texts, train_labels, texts, classes: int | None) -> np.ndarray:
    """(N, classes) probabilities, 0 for a class that is not among the training labels; without classes the
    predicted numbers (N,)."""
    train, test = tf_idf(train_texts, texts)
    if classes is None:
        return fit(train, torch.tensor(train_labels, dtype=torch.float64), 0)(test)[:, 0].numpy()
    present, labels = np.unique(train_labels, return_inverse=True)
    result = np.zeros((len(texts), classes))
    result[:, present] = fit(train, torch.from_numpy(labels), len(present))(test).softmax(1).numpy()
    return result


def terms(text: str) -> Counter:
    """Words of two or more letters or digits, and pairs of neighbours."""
    words = re.findall(r"\b\w\w+\b", text.lower())
    return Counter(words + [f"{a} {b}" for a, b in pairwise(words)])


def tf_idf(train_texts, texts) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sparse matrices (texts, V) with rows of length 1; the V terms are those of the training texts."""
    train, test = [terms(t) for t in train_texts], [terms(t) for t in texts]
    frequency = Counter(term for document in train for term in document)  # in how many documents
    index = {term: i for i, term in enumerate(frequency)}
    count = torch.tensor(list(frequency.values()), dtype=torch.float64)
    idf = ((1 + len(train)) / (1 + count)).log() + 1

    def matrix(documents):
        cells = [(n, index[t], k) for n, d in enumerate(documents) for t, k in d.items() if t in index]
        row, column, times = torch.tensor(cells, dtype=torch.long).reshape(-1, 3).T
        value = (1 + times.double().log()) * idf[column]
        norm = torch.zeros(len(documents), dtype=torch.float64).index_add_(0, row, value**2).sqrt()
        where, shape = torch.stack([row, column]), (len(documents), len(index))
        return torch.sparse_coo_tensor(where, value / norm[row], shape, check_invariants=True).coalesce()

    return matrix(train), matrix(test)


def fit(x: torch.Tensor, target: torch.Tensor, classes: int):
    """The function from features to logits (N, classes), or numbers (N, 1) if `classes` is 0, that minimises
    C * the sum of the losses + half the squared norm of the weights; the bias is free."""
    n, v = x.shape
    # Two classes need one set of weights only, the logit of the first being 0.
    w = torch.zeros(v + 1, classes if classes > 2 else 1, dtype=torch.float64, requires_grad=True)

    def predict(x):
        z = torch.sparse.mm(x, w[:-1]) + w[-1]
        return F.pad(z, (1, 0)) if classes == 2 else z

    def objective():
        optimizer.zero_grad()
        z = predict(x)
        loss = F.cross_entropy(z, target) if classes else F.mse_loss(z[:, 0], target) / 2
        loss = loss + (w[:-1] ** 2).sum() / (2 * C * n)  # all divided by C * n: the tolerances hold for any n
        loss.backward()
        return loss

    optimizer = torch.optim.LBFGS(
        [w], max_iter=1000, tolerance_grad=1e-8, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the sums are short: on busy cores, two threads took thirty times as long
    try:
        optimizer.step(objective)
    finally:
        torch.set_num_threads(threads)
    return torch.no_grad()(predict)
