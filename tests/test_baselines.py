"""The predictions of scikit-learn. Run me: pytest tests/test_baselines.py"""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from minift.baselines import bag_of_words, scores, terms
from minift.data import read

feature_extraction = pytest.importorskip("sklearn.feature_extraction.text")
threadpoolctl = pytest.importorskip("threadpoolctl")
linear_model = pytest.importorskip("sklearn.linear_model")

REVIEWS = Path("/work/shared/data/sentiment/rotten_tomatoes")


def features(train, test):
    vectorizer = feature_extraction.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return vectorizer.fit_transform(train), vectorizer.transform(test)


def probabilities(train, labels, test):
    """Of scikit-learn, run to the optimum: by default it stops earlier, at some 0.05 from it."""
    x, t = features(train, test)
    with threadpoolctl.threadpool_limits(1):  # on busy cores several threads are many times slower
        fitted = linear_model.LogisticRegression(C=10, tol=1e-9, max_iter=5000).fit(x, labels)
    return fitted.predict_proba(t)


def corpus(n, classes, seed):
    """Texts whose words lean towards their class, some of them capitalised, some with a single letter."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    words = np.array([f"{'Wé' if i % 7 else 'w'}{i}" if i % 11 else "a" for i in range(200)])
    weights = 1 / (1 + np.arange(200))
    texts = []
    for label in labels:
        lean = weights * np.where(np.arange(200) % classes == label, 2.0, 1.0)
        texts.append(", ".join(random.choice(words, random.integers(0, 30), p=lean / lean.sum())))
    return texts, labels


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_classification_equals_scikit_learn(classes):
    train, labels = corpus(300, classes, seed=1)
    test, truth = corpus(200, classes, seed=2)
    ours, theirs = scores(train, labels, test, classes), probabilities(train, labels, test)
    assert abs(ours - theirs).max() < 1e-4
    predicted = bag_of_words(train, labels, test, classes)
    assert (predicted == theirs.argmax(1)).mean() >= 0.995
    assert (predicted == truth).mean() > 1.3 / classes


def test_regression_equals_ridge():
    train, labels = corpus(200, 3, seed=3)
    test, _ = corpus(50, 3, seed=4)
    numbers = 2.5 + labels * 0.7
    x, t = features(train, test)
    theirs = linear_model.Ridge(alpha=0.1, solver="lsqr", tol=1e-12).fit(x, numbers).predict(t)
    ours = bag_of_words(train, list(numbers), test, None)
    assert ours.shape == (50,) and abs(ours - theirs).max() < 1e-4


def test_words_are_lower_case_and_of_two_characters_with_pairs_of_neighbours():
    assert terms("The film, a the FILM") == {"the": 2, "film": 2, "the film": 2, "film the": 1}


def test_a_class_without_training_rows_has_probability_zero():
    found = scores(["good film", "bad film"], [3, 1], ["good", "bad", "else"], 5)
    assert found[:, [0, 2, 4]].max() == 0 and np.allclose(found.sum(1), 1)
    assert found.argmax(1)[:2].tolist() == [3, 1]


def test_one_class_and_texts_without_words_are_answered():
    assert bag_of_words(["one", "two"], [1, 1], ["one", "x"], 2).tolist() == [1, 1]
    assert np.allclose(scores(["", "a", "b"], [0, 1, 1], ["", "word"], 2), [[1 / 3, 2 / 3]] * 2)


def test_two_fits_are_equal_bit_by_bit():
    train, labels = corpus(200, 3, seed=5)
    assert (scores(train, labels, train, 3) == scores(train, labels, train, 3)).all()


def test_random_state_threads_and_gradient_mode_of_the_caller_are_left_alone():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        inside = scores(["good", "bad"], [1, 0], ["good"], 2)
    assert torch.equal(state, torch.get_rng_state()) and torch.get_num_threads() == threads
    assert (inside == scores(["good", "bad"], [1, 0], ["good"], 2)).all() and inside[0, 1] > 0.6


@pytest.mark.skipif(not REVIEWS.exists(), reason="the reviews of Rotten Tomatoes are not on this machine")
@pytest.mark.parametrize(("rows", "accuracy"), [(1000, 0.6886), (8530, 0.7702)])
def test_reviews_are_judged_as_by_scikit_learn_and_fast(rows, accuracy):
    train, test = read(REVIEWS / "train.tsv"), read(REVIEWS / "test.tsv")
    train_texts, test_texts = ([row["text"] for row in t.rows] for t in (train, test))
    labels, truth = (np.array([row["label"] == "pos" for row in t.rows], int) for t in (train, test))
    start = time.process_time()
    ours = scores(train_texts[:rows], labels[:rows], test_texts, 2)
    assert time.process_time() - start < 15
    theirs = probabilities(train_texts[:rows], labels[:rows], test_texts)
    assert abs(ours - theirs).max() < 1e-3
    assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.995
    assert (ours.argmax(1) == truth).mean() == pytest.approx(accuracy, abs=0.002)
