"""The figures of scikit-learn, scipy, sacrebleu and rouge-score. Run me: pytest tests/test_metrics.py"""

import json
import math
import warnings
from random import Random

import numpy as np
import pytest
import squad_goldens
from hypothesis import given, settings
from hypothesis import strategies as st
from strings import varied

from minift.metrics import (
    answer,
    answer_words,
    answers,
    bleu,
    chrf,
    classification,
    common_subsequence,
    confusion,
    confusion_text,
    regression,
    rouge,
    translation,
    words_13a,
)

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


# -- translations and summaries ---------------------------------------------------------------------------------------

LINES = """
the The cat sat on mat a naïve café l'été œuvre straße Größe mañana ¿qué? кошка сидит на ковре γάτα قطة חתול बिल्ली
猫が座った。 고양이 e\u0301te\u0301 o\u031b\u0301 İstanbul \u212a ﬁn ½ ² ٣٤ 12 7 1,234.56 3.14 .5 5. 5., x.,5 x,.5 1,2,3
1. 1990-2000 -5 5- a-b -- well-known don't 'tis (yes) [no] {x} a/b c:d; e! f? "g" $9 50% #1 @home a_b *x* ~ ^ | \\ `
+ = ... <b> & && &quot; &amp; &lt; &gt; &amp;lt; &amp;amp; &amp;quot; &nbsp; &apos; <skipped> < > 😀 👍🏽 👩‍👩‍👧‍👦 1️⃣
\u200b \ufeff
"""
GAPS = [" ", " ", " ", "", "  ", "\n", "-\n", "\t", "\xa0", "\u3000", "\u2028", "\x1c", "\x85", "\r\n"]
PIECES = st.sampled_from([*LINES.split(), *["the", "cat", "sat", "on", "the", "mat", ".", ",", "-", ""]])
PHRASES = st.lists(st.builds(str.__add__, PIECES, st.sampled_from(GAPS)), max_size=12).map("".join)
TEXTS = PHRASES | st.text(max_size=20) | st.text("ab1 .,-&;", max_size=20)


@st.composite
def text_pairs(draw):
    """(prediction, reference): the reference with a stretch of it replaced, or another text."""
    reference = draw(TEXTS)
    start = draw(st.integers(0, len(reference)))
    end = draw(st.integers(start, min(start + 8, len(reference))))
    edited = reference[:start] + draw(PHRASES | st.just("")) + reference[end:]
    return draw(st.sampled_from([edited, edited, reference]) | TEXTS), reference


CORPORA = st.lists(text_pairs(), min_size=1, max_size=6).map(lambda pairs: tuple(map(list, zip(*pairs, strict=True))))


def sacrebleu(predictions, references):
    module = pytest.importorskip("sacrebleu")
    return {
        "bleu": module.corpus_bleu(predictions, [references], force=True).score,
        "chrf": module.corpus_chrf(predictions, [references]).score,
    }


def rouge_score(predictions, references):
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(names, use_stemmer=False)
    rows = [scorer.score(reference, text) for text, reference in zip(predictions, references, strict=True)]
    return {name: sum(row[name].fmeasure for row in rows) / len(rows) for name in names}


def assert_equal_to_the_references(predictions, references):
    assert translation(predictions, references) == pytest.approx(sacrebleu(predictions, references), rel=0, abs=1e-9)
    assert rouge(predictions, references) == pytest.approx(rouge_score(predictions, references), rel=0, abs=1e-12)


def assert_words_equal_to_sacrebleu(text):
    module = pytest.importorskip("sacrebleu.tokenizers.tokenizer_13a")
    assert words_13a(text) == module.Tokenizer13a()(text.rstrip()).split()


@settings(deadline=None, max_examples=300)
@given(CORPORA)
def test_bleu_chrf_and_rouge_equal_the_reference_packages(corpus):
    assert_equal_to_the_references(*corpus)


@settings(deadline=None, max_examples=300)
@given(TEXTS)
def test_words_13a_equal_those_of_sacrebleu(text):
    assert_words_equal_to_sacrebleu(text)


def test_texts_that_break_tokenizers_score_as_in_the_reference_packages():
    texts = varied(600, seed=7)
    for text in texts:
        assert_words_equal_to_sacrebleu(text)
    shuffled = [" ".join(Random(i).sample(text.split(" "), text.count(" ") + 1)) for i, text in enumerate(texts)]
    assert_equal_to_the_references(shuffled, texts)
    for prediction, reference in zip(shuffled[:200], texts, strict=False):
        assert_equal_to_the_references([prediction], [reference])


def news(rows, seed):
    """(predictions, references) as of a translator that is often right: words left out, swapped, replaced, repeated."""
    random = Random(seed)
    who = [
        "The minister",
        "A spokeswoman for the city",
        "La présidente",
        "Dr. O'Neill",
        "Der Bürgermeister",
        "近藤さん",
    ]
    did = ["said on Tuesday that", "confirmed, after long talks, that", "a déclaré que", "denied reports that"]
    what = ["the well-known bridge", "1,250 new homes", "les élèves de l'école", "about 3.5% of all voters", "part 2-b"]
    will = [
        "will be closed in 2025-26.",
        "cost $4.2 million (up from 3.9)!",
        '"won\'t wait"; others might.',
        "R&amp;D…",
    ]
    references = [" ".join(map(random.choice, (who, did, what, will))) for _ in range(rows)]

    def translated(text):
        words = text.split()
        for _ in range(random.choice((0, 1, 1, 2, 4))):
            i, j = random.randrange(len(words)), random.randrange(len(words))
            change = random.randrange(4)
            if change == 0 and len(words) > 1:
                del words[i]
            elif change == 1:
                words[i], words[j] = words[j], words[i]
            elif change == 2:
                words[i] = random.choice(("the", "house", "gesagt", "2,000", "été"))
            else:
                words.insert(i, words[j])
        return "" if random.random() < 0.02 else " ".join(words)

    return [translated(text) for text in references], references


def test_a_corpus_of_news_scores_as_in_the_reference_packages():
    predictions, references = news(400, seed=0)
    assert_equal_to_the_references(predictions, references)
    found = translation(predictions, references) | rouge(predictions, references)
    assert 50 < found["bleu"] < 90 and 60 < found["chrf"] < 95 and 0.6 < found["rouge2"] < found["rouge1"] < 0.95


def test_long_texts_score_as_in_the_reference_packages():
    predictions, references = (" ".join(texts) for texts in news(40, seed=1))
    assert_equal_to_the_references([predictions, references[:99]], [references, predictions])


def test_bleu_is_the_mean_of_precisions_times_a_penalty():
    # 6 of 7 words, 5 of 6 pairs, 4 of 5 triples, 3 of 4 quadruples: their product is 3 / 7.
    assert bleu(["the cat sat on the mat today"], ["the cat sat on the mat"]) == pytest.approx(100 * (3 / 7) ** 0.25)
    # All right, but 4 words where 6 are due.
    assert bleu(["the cat sat on"], ["the cat sat on the mat"]) == pytest.approx(100 * math.exp(1 - 6 / 4))


def test_bleu_counts_a_repeated_word_as_often_as_the_reference_has_it_and_smooths_orders_without_a_match():
    # 2 of 7 words; no pair of 6, no triple of 5, no quadruple of 4: 1/2, 1/4 and 1/8 of a match.
    product = 2 / 7 * (1 / 2 / 6) * (1 / 4 / 5) * (1 / 8 / 4)
    assert bleu(["the " * 7], ["the cat is on the mat"]) == pytest.approx(100 * product**0.25)


def test_bleu_sums_over_the_corpus_before_it_divides():
    corpus = [["a b c d", "e f g h"], ["a b c d", "e x g y"]]
    # 6 of 8 words, 3 of 6 pairs, 2 of 4 triples, 1 of 2 quadruples
    assert bleu(*corpus) == pytest.approx(100 * (6 / 8 * 3 / 6 * 2 / 4 * 1 / 2) ** 0.25)


def test_chrf_averages_the_orders_that_both_texts_have():
    # Precision 1 and 1; recall 2 of 3 and 1 of 2, mean 7/12; no order above 2 in "ab".
    assert chrf(["a b"], ["ab c"]) == pytest.approx(100 * 5 * 7 / 12 / (4 + 7 / 12))
    # Here the prediction's two pairs and its triple stay out: the reference has none.
    assert chrf(["abc"], ["a"]) == pytest.approx(100 * 5 * 1 / 3 / (4 / 3 + 1))


def test_rouge_is_as_in_the_example_of_lin_2004():
    reference = "police killed the gunman"
    found = [rouge([text], [reference]) for text in ("police kill the gunman", "the gunman kill police")]
    assert found[0] == pytest.approx({"rouge1": 3 / 4, "rouge2": 1 / 3, "rougeL": 3 / 4})
    assert found[1] == pytest.approx({"rouge1": 3 / 4, "rouge2": 1 / 3, "rougeL": 2 / 4})


def test_rouge_is_f1_and_the_mean_over_rows():
    # rouge1: precision 2/2, recall 2/4; rouge2: 0 of 1 and of 3. The second row is right, but for the case.
    found = rouge(["a c", "The end."], ["a b c d", "the END"])
    assert found == pytest.approx({"rouge1": (2 / 3 + 1) / 2, "rouge2": 1 / 2, "rougeL": (2 / 3 + 1) / 2})


def test_rouge_drops_accents_and_all_but_latin_letters_as_its_package_does():
    assert rouge(["été"], ["ôtô"])["rouge1"] == 1.0
    assert set(rouge(["кошка сидит"], ["кошка сидит"]).values()) == {0.0}
    assert_equal_to_the_references(["été", "кошка"], ["ôtô", "кошка"])


def common_by_definition(a, b):
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + common_by_definition(a[1:], b[1:])
    return max(common_by_definition(a[1:], b), common_by_definition(a, b[1:]))


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_the_longest_common_subsequence_is_that_of_the_definition(a, b):
    assert common_subsequence(list(a), list(b)) == common_by_definition(a, b)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, world.", "Hello , world ."),
        ("It cost $1,234.50, not 7.", "It cost $ 1,234.50 , not 7 ."),
        ("well-known, 1990-2000, -5", "well-known , 1990 - 2000 , -5"),
        ("don't say 'no'", "don't say 'no'"),
        ("&quot;R&amp;D&quot; &amp;lt; &apos;", '" R & D " < & apos ;'),
        ("a\xa0b\u3000c", "a b c"),
        ("inter-\nnational <skipped>news\n", "international news"),
        ("wait... x.,5 5.,x", "wait . . . x . ,5 5 . , x"),
        ("猫。¿qué?", "猫。¿qué ?"),
        ("٣.5 5.٤ 5,٣ ٣-٤", "٣ . 5 5 . ٤ 5 , ٣ ٣-٤"),  # a digit is one of ASCII
        (" ", ""),
    ],
)
def test_words_13a_of_worked_examples(text, words):
    assert words_13a(text) == words.split()
    assert_words_equal_to_sacrebleu(text)


def test_equal_texts_score_full_marks_and_texts_with_nothing_in_common_none():
    texts = ["The cat sat on the mat.", "It was half past three, or later."]
    full = {"bleu": 100, "chrf": 100, "rouge1": 1, "rouge2": 1, "rougeL": 1}
    assert translation(texts, texts) | rouge(texts, texts) == pytest.approx(full)
    other = ["кошка", "猫"]
    assert set((translation(texts, other) | rouge(texts, other)).values()) == {0.0}


@pytest.mark.parametrize("texts", [[""], ["", " \n"], ["a"], ["a", ""], [".", "😀"], ["a b c"]])
def test_empty_texts_and_those_of_one_word_score_as_in_the_reference_packages(texts):
    for other in ("", "a", "a b c d e f g h"):
        assert_equal_to_the_references(texts, [other] * len(texts))
        assert_equal_to_the_references([other] * len(texts), texts)


def test_no_texts_at_all_score_zero():
    assert translation([], []) == {"bleu": 0.0, "chrf": 0.0}
    assert rouge([], []) == {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}


def test_the_figures_of_texts_are_plain_numbers():
    for texts in ([""], ["a b c d e"]):
        figures = translation(texts, ["a b c d f"]) | rouge(texts, ["a b c d f"])
        assert all(type(v) is float for v in figures.values())


@pytest.mark.parametrize("measure", [bleu, chrf, rouge, translation])
def test_a_reference_is_needed_for_each_prediction_and_lists_of_them(measure):
    with pytest.raises(AssertionError, match="1 predictions for 2 references"):
        measure(["a"], ["a", "b"])
    with pytest.raises(AssertionError, match="not a text"):
        measure("the cat", "the mat")


# Answers to questions


def test_answers_score_as_in_squads_own_scorers_of_both_versions():
    goldens, rows = json.loads(squad_goldens.GOLDENS.read_text(encoding="utf-8")), squad_goldens.scored()
    for version, some in ("1.1", [row for row in rows if row[1]]), ("2.0", rows):
        found = [answer(*row, version == "2.0") for row in some]
        assert np.allclose(found, goldens[f"version {version}"], rtol=0, atol=1e-12)
        means = answers(*zip(*some, strict=True))
        expected = np.mean(goldens[f"version {version}"], 0)
        assert [means["exact_match"], means["f1"]] == pytest.approx(expected, abs=1e-12)
    assert len({tuple(scores) for scores in goldens["version 2.0"]}) > 10


def test_the_two_versions_differ_only_where_normalising_leaves_nothing():
    assert answer("the", ["The."], version_2=False) == (1.0, 0.0)
    assert answer("the", ["The."], version_2=True) == (1.0, 1.0)
    assert answer("", ["the", "cat"], version_2=True) == (0.0, 0.0)  # what is nothing is then no answer
    assert answer("", ["the", "cat"], version_2=False) == (1.0, 0.0)


def test_an_answer_is_compared_by_its_words_alone():
    assert answer_words(" The U.S.-led  a.n \u00a0“Theatre”, an é! ") == ["usled", "“theatre”", "é"]
    assert answer("in the Year 1999", ["1999", "year of 1999"], version_2=False) == (0.0, 2 * 2 / 6)
    assert answer("cat cat", ["cat"], version_2=False) == (0.0, 2 / 3)  # a word counts as often as it is in both


def test_rows_with_and_without_an_answer_have_their_own_means_where_there_are_both():
    found = answers(["", "cat", ""], [[], ["cat"], ["dog"]])
    assert found == {"exact_match": 2 / 3, "f1": 2 / 3, "f1_answerable": 0.5, "f1_unanswerable": 1.0}
    assert answers(["cat"], [["cat", "dog"]]) == {"exact_match": 1.0, "f1": 1.0}
    assert answers(["", "x"], [[], []]) == {"exact_match": 0.5, "f1": 0.5}
    with pytest.raises(AssertionError, match="1 predictions for 2 references"):
        answers(["x"], [[], []])
