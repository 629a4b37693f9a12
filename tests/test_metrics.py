"""The figures of scikit-learn and scipy. Run me: pytest tests/test_metrics.py"""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minift.metrics import classification, confusion, confusion_text, regression

sklearn_metrics = pytest.importorskip("sklearn.metrics")
stats = pytest.importorskip("scipy.stats")

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=150)
@given(PAIRS, st.integers(5, 7))
def test_classification_equals_scikit_learn_with_classes_absent(pairs, n):
    predicted, target = np.array(pairs).T
    ours = classification(predicted, target, [f"class {i}" for i in range(n)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {
            "accuracy": sklearn_metrics.accuracy_score(target, predicted),
            "macro_f1": sklearn_metrics.f1_score(target, predicted, average="macro"),
            "mcc": sklearn_metrics.matthews_corrcoef(target, predicted),
        }
        matrix = sklearn_metrics.confusion_matrix(target, predicted, labels=range(n))
    assert ours == pytest.approx(theirs, rel=0, abs=1e-12)
    assert confusion(predicted, target, n).tolist() == matrix.tolist()


def test_mcc_is_zero_where_truth_or_predictions_are_constant():
    assert classification([1, 1, 1], [0, 1, 1], ["a", "b"])["mcc"] == 0.0
    assert classification([0, 1, 1], [1, 1, 1], ["a", "b"])["mcc"] == 0.0
    assert classification([0, 0], [0, 0], ["a", "b"]) == {"accuracy": 1.0, "macro_f1": 1.0, "mcc": 0.0}


def test_a_confusion_row_is_the_truth():
    assert confusion(predicted=[1, 1, 0], target=[0, 0, 1], n=3).tolist() == [[0, 2, 0], [1, 0, 0], [0, 0, 0]]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(-5, 5), st.floats(-9, 9)), min_size=2, max_size=60))
def test_regression_equals_scipy_with_ties(pairs):
    predicted, target = np.array(pairs, float).T
    target = np.round(target, 2)  # more ties, and no differences near the rounding of a float
    ours = regression(predicted, target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {
            "spearman": stats.spearmanr(predicted, target).statistic,
            "pearson": stats.pearsonr(predicted, target).statistic,
            "mse": sklearn_metrics.mean_squared_error(target, predicted),
        }
    assert ours == pytest.approx({k: 0.0 if math.isnan(v) else v for k, v in theirs.items()}, rel=1e-12, abs=1e-12)


def test_a_correlation_with_a_constant_is_zero_even_where_its_mean_is_rounded():
    constant = [0.1] * 3
    assert np.mean(constant) != 0.1
    for pair in ((constant, [1, 2, 4]), ([1, 2, 4], constant)):
        found = regression(*pair)
        assert found["pearson"] == found["spearman"] == 0.0


def test_nan_among_the_predictions_is_not_hidden():
    assert all(map(math.isnan, regression([1, math.nan, 3], [1, 2, 3]).values()))


def test_as_many_predictions_as_targets_are_needed():
    for measure in (regression, lambda p, t: confusion(p, t, 2)):
        with pytest.raises(AssertionError, match="predictions for"):
            measure([1], [0, 1])


def test_figures_are_plain_numbers():
    for figures in (classification([0, 1], [0, 0], "ab"), regression([0, 1], [1, 3])):
        assert all(type(v) is float for v in figures.values())


def test_the_confusion_table_is_aligned():
    assert confusion_text([[10, 2], [3, 4]], ["neg", "positive"]).split("\n") == [
        "truth \\ predicted  neg  positive",
        "neg                 10         2",
        "positive             3         4",
    ]
