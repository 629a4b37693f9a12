"""Classification: what becomes of a row, and transformers says the same. Run me: pytest tests/test_classify.py"""

import json
import math
import random

import pytest
import tiny
import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import minift
from minift import data
from minift.tasks.classify import Classify

torch.set_num_threads(1)

FAMILIES = {"bert": tiny.bert_folder, "gpt2": tiny.gpt2_folder}
FAMILIES |= {"gpt_neo": tiny.gpt_neo_folder, "opt": tiny.opt_folder}
each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in FAMILIES.items()}


@pytest.fixture(scope="module")
def loaded(folders):
    """{family: (model with a head for three labels, tokenizer)}"""
    torch.manual_seed(0)
    models = {name: minift.load_model(folder, "classify", ["x", "y", "z"]) for name, folder in folders.items()}
    for name, model in models.items():
        with torch.no_grad():
            model.new[-1].weight.normal_()  # a new head hardly says anything
        models[name] = model, minift.load_tokenizer(folders[name])
    return models


@pytest.fixture
def worker(loaded):
    def make(family="bert", labels=("x", "y", "z"), **more):
        return Classify(loaded[family][1], list(labels), **more)

    return make


def refused(call, *parts):
    """The message of the `Error` that `call` must raise; it holds all `parts`."""
    with pytest.raises(minift.Error) as caught:
        call()
    message = str(caught.value)
    assert caught.value.code == 2 and [part for part in parts if part not in message] == [], message
    return message


# -- row -> example ---------------------------------------------------------------------------------------------------


@each_family
def test_a_text_becomes_its_ids_and_its_label_a_class_number(worker, loaded, family):
    table = data.read([("The film", "y"), ("the meal was good.", "x")])
    tokenizer = loaded[family][1]
    assert worker(family).examples(table) == [
        {"ids": tokenizer.encode("The film"), "target": 1},
        {"ids": tokenizer.encode("the meal was good."), "target": 0},
    ]
    assert worker(family).examples(table, labelled=False)[0] == {"ids": tokenizer.encode("The film")}


@pytest.mark.parametrize("names", [("text_a", "text_b"), ("sentence1", "sentence2"), ("text", "text_b")])
def test_a_pair_for_bert_is_one_row_of_two_segments(worker, loaded, names):
    texts = [("the film", "good"), ("bad", "a meal was good")]
    rows = [{"id": 7, "label": "x", **dict(zip(names, pair, strict=True))} for pair in texts]
    task, tokenizer = worker(), loaded["bert"][1]
    batch = task.batch(task.examples(data.read(rows)))
    tokens = [[tokenizer.tokens([id])[0] for id in row] for row in batch["ids"].tolist()]
    assert tokens == [
        ["[CLS]", "the", "film", "[SEP]", "good", "[SEP]", "[PAD]", "[PAD]"],
        ["[CLS]", "bad", "[SEP]", "a", "meal", "was", "good", "[SEP]"],
    ]
    assert batch["segments"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1]]
    assert batch["mask"].sum(1).tolist() == [6, 8]


def test_the_segments_matter_to_bert(worker, loaded):
    model, task = loaded["bert"][0], worker()
    batch = task.batch(task.examples(data.read([{"text_a": "the film", "text_b": "good", "label": "x"}])))
    other = batch | {"segments": torch.zeros_like(batch["segments"])}
    assert not torch.allclose(task.logits(model, batch), task.logits(model, other), atol=1e-3)


def test_a_pair_for_gpt2_is_one_text_after_the_other(worker, loaded):
    task, tokenizer = worker("gpt2"), loaded["gpt2"][1]
    examples = task.examples(data.read([{"text_a": "the film", "text_b": " was bad", "label": "x"}]))
    assert examples[0]["ids"] == tokenizer.encode("the film") + tokenizer.encode(" was bad")
    assert "segments" not in task.batch(examples)


@each_family
def test_what_is_too_long_is_cut_and_counted(worker, loaded, family):
    task, tokenizer = worker(family, max_length=9), loaded[family][1]
    long, short = "never again " * 20, "a b"
    rows = [{"text_a": a, "text_b": b} for a, b in [(long, short), (short, short), (short, long), (long, long)]]
    examples = task.examples(data.read(rows), labelled=False)
    assert task.truncated == 3
    assert [len(example["ids"]) for example in examples][0::2] == [9, 9] and len(examples[1]["ids"]) <= 9
    assert examples[0]["ids"] == tokenizer.encode(long, short, max_length=9)
    assert examples[1]["ids"] == tokenizer.encode(short, short)
    task.examples(data.read([long]), labelled=False)
    assert task.truncated == 4


@each_family
def test_an_empty_text_has_a_prediction(worker, loaded, family):
    task, (model, tokenizer) = worker(family), loaded[family]
    examples = task.examples(data.read(["", "good"]), labelled=False)
    assert examples[0]["ids"] == (tokenizer.encode("") if family == "bert" else [tokenizer.eos])
    logits = task.logits(model, task.batch(examples))
    assert logits.isfinite().all() and logits.shape == (2, 3)
    alone = task.logits(model, task.batch(examples[:1]))
    torch.testing.assert_close(logits[:1], alone, rtol=0, atol=1e-5)


# -- batch -> loss, prediction, metrics -------------------------------------------------------------------------------


@each_family
def test_what_stands_in_the_padding_does_not_matter(worker, loaded, family, monkeypatch):
    task, (model, tokenizer) = worker(family), loaded[family]
    examples = task.examples(data.read(tiny.rows(6, ("x", "y", "z"))))
    logits = []
    for pad in 0, 5, 60:
        monkeypatch.setattr(tokenizer, "pad", pad)
        batch = task.batch(examples)
        assert (batch["ids"][~batch["mask"]] == pad).all() and not batch["mask"].all()
        logits.append(task.logits(model, batch))
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])


@each_family
def test_the_loss_is_the_sum_over_the_rows_with_their_count(worker, loaded, family):
    task, model = worker(family), loaded[family][0]
    examples = task.examples(data.read(tiny.rows(7, ("x", "y", "z"))))
    total, count = task.loss(model, task.batch(examples))
    each = [task.loss(model, task.batch([example])) for example in examples]
    assert count == 7 and [n for _, n in each] == [1] * 7
    torch.testing.assert_close(total, sum(loss for loss, _ in each))
    likelihoods = task.logits(model, task.batch(examples[:1])).softmax(-1)[0].tolist()
    assert math.isclose(each[0][0].item(), -math.log(likelihoods[examples[0]["target"]]), rel_tol=1e-5)


def test_the_loss_of_a_regression_is_the_sum_of_squares(worker, loaded):
    task, model = worker(labels=["LABEL_0"], regression=True), loaded["bert"][0]
    batch = task.batch(task.examples(data.read([("good", 2), ("bad", "-1.5"), ("very good", 3.25)])))
    found = model(batch["ids"], batch["mask"], batch["segments"])[:, 0]
    total, count = task.loss(model, batch)
    torch.testing.assert_close(total, ((found - torch.tensor([2, -1.5, 3.25])) ** 2).sum())
    assert count == 3 and task.goal({"spearman": 0.5, "mse": 2.0}) == 0.5


def test_a_prediction_is_the_likeliest_label_with_the_scores_of_all(worker):
    task, logits = worker(), torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    found = task.predictions(logits)
    assert [row["prediction"] for row in found] == ["y", "x"]
    assert [list(row["scores"]) for row in found] == [["x", "y", "z"]] * 2
    expected = dict(zip("xyz", F.softmax(logits[0], 0).tolist(), strict=True))
    assert found[0]["scores"] == expected and json.loads(json.dumps(found)) == found


def test_the_metrics_compare_with_the_targets(worker):
    logits = torch.eye(3)[[0, 1, 2, 2]]
    found = worker().metrics(logits, [{"target": i} for i in (0, 1, 2, 0)])
    assert found.keys() == {"accuracy", "macro_f1", "mcc"} and found["accuracy"] == 0.75
    task = worker(labels=["LABEL_0"], regression=True)
    assert task.predictions(torch.tensor([[1.5]])) == [{"prediction": 1.5}]
    found = task.metrics(torch.tensor([[1.0], [2.0], [4.0]]), [{"target": y} for y in (1.0, 2.0, 3.0)])
    assert found["mse"] == pytest.approx(1 / 3) and found["spearman"] == pytest.approx(1)


# -- labels -----------------------------------------------------------------------------------------------------------


def labels_of(labels, regression=False):
    return Classify.labels_of(data.read([(f"text {i}", label) for i, label in enumerate(labels)]), regression)


def test_labels_are_sorted_words_by_letter_and_numbers_by_size():
    assert labels_of(["pos", "neg", "pos"]) == ["neg", "pos"]
    assert labels_of([10, 9, -1, 2]) == ["-1", "2", "9", "10"]
    assert labels_of(["1.5", "10", "0.25", "b", "a"]) == ["0.25", "1.5", "10", "a", "b"]
    assert labels_of(["²", "--5", "nan", "2", "inf"]) == ["2", "--5", "inf", "nan", "²"]  # but one, these are words
    assert labels_of([True, False]) == ["False", "True"]
    assert labels_of([" a", "b ", "a"]) == ["a", "b"]
    assert labels_of(["anything", "at all"], regression=True) == ["LABEL_0"]


@pytest.mark.parametrize("order", range(3))
def test_the_order_of_the_rows_does_not_change_the_labels(order):
    labels = ["10", "9", "x", "2", "-3", "y"]
    random.Random(order).shuffle(labels)
    assert labels_of(labels) == ["-3", "2", "9", "10", "x", "y"]


def test_one_label_is_nothing_to_tell_apart():
    refused(lambda: labels_of(["x", "x "]), "<rows>", "'x'", "two labels or more")


@pytest.mark.parametrize("count", [11, 60, 300])
def test_a_label_for_every_row_is_a_wrong_column(count):
    refused(lambda: labels_of([f"t{i}" for i in range(count)]), f"{count} different labels", "'t0'", "--regression")


def test_many_labels_with_rows_enough_are_fine():
    assert len(labels_of([f"intent {i % 150}" for i in range(450)])) == 150
    assert len(labels_of([f"intent {i}" for i in range(10)])) == 10


@pytest.mark.parametrize("blank", ["", "  ", None])
def test_a_blank_label_is_named_by_its_row(blank, worker):
    refused(lambda: labels_of(["x", blank, "y"]), "<rows>, row 2", "blank")
    refused(lambda: worker().examples(data.read([("a", "x"), ("b", blank)])), "<rows>, row 2", "blank")


def test_an_unknown_label_is_named_by_file_and_line(worker, tmp_path):
    path = tiny.tsv(tmp_path / "valid.tsv", [{"text": "a", "label": "good"}, {"text": "b", "label": "goood"}])
    task = worker(labels=["bad", "good"])
    refused(lambda: task.examples(data.read(path)), f"{path}, line 3", "'goood'", "bad, good", "did you mean 'good'")


@pytest.mark.parametrize("label", ["warm", "nan", "inf", "1,5"])
def test_a_regression_wants_finite_numbers(worker, label):
    task = worker(labels=["LABEL_0"], regression=True)
    refused(lambda: task.examples(data.read([("a", 1), ("b", label)])), "<rows>, row 2", f"'{label}'", "--regression")


@pytest.mark.parametrize("text", [None, 5, float("nan"), ["a"]])
@pytest.mark.parametrize("column", ["text_a", "text_b"])
def test_a_text_that_is_none_is_named_by_its_row(worker, text, column):
    row = {"text_a": "good", "text_b": "bad", "label": "x"}
    refused(lambda: worker().examples(data.read([row, row | {column: text}])), "<rows>, row 2", repr(text))


def test_a_missing_column_is_named_with_the_nearest(worker):
    task = worker()
    refused(lambda: task.examples(data.read([{"txt": "a", "label": "x"}])), "columns txt, label", "did you mean 'txt'")
    rows = [{"text_a": "a", "text_b": "b"}, {"text_a": "a"}]
    refused(lambda: task.examples(data.read(rows), labelled=False), "<rows>, row 2", "no 'text_b'")
    refused(lambda: labels_of([]), "no rows")


# -- what is saved, transformers reads: the same head, the same predictions -------------------------------------------

TEXTS = ["good", "The film was very bad, 3.", "Never again! A dull meal, and not a good film.", "the the a b"]
PAIRS = ["bad", "very fine", "", "a meal was good and the film bad"]


def finetuned(model, out, rows, **settings):
    settings = {"max_steps": 4, "lr": 0.01, "batch_size": 4, "device": "cpu", "valid": rows[:4]} | settings
    return minift.finetune("classify", model=str(model), train=rows, out=out, **settings).folder


def theirs(folder, *texts):
    """transformers' logits (N, labels) of one padded batch, and its label names by number."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or "<|endoftext|>"  # GPT-2 and GPT-Neo have none
    batch = tokenizer(*texts, padding=True, return_tensors="pt")
    assert len(set(batch["attention_mask"].sum(1).tolist())) > 1
    with torch.inference_mode():
        return model.eval()(**batch).logits, model.config.id2label


def same_scores(found, logits, names):
    assert [row["prediction"] for row in found] == [names[i] for i in logits.argmax(-1).tolist()]
    scores = torch.tensor([[row["scores"][name] for name in names.values()] for row in found])
    torch.testing.assert_close(scores, logits.softmax(-1), rtol=0, atol=2e-5)


def test_transformers_reads_a_fine_tuned_bert_nano_and_agrees(tmp_path):
    folder = finetuned("bert-nano", tmp_path / "run", tiny.rows(12), lr=1e-3)
    same_scores(minift.predict(folder, TEXTS), *theirs(folder, TEXTS))


@pytest.mark.parametrize("labels", [("bad", "good"), ("10", "9", "b", "a")])
@each_family
def test_transformers_reads_a_fine_tuned_tiny_model_and_agrees(folders, tmp_path, family, labels):
    folder = finetuned(folders[family], tmp_path / "run", tiny.rows(12, labels))
    logits, names = theirs(folder, TEXTS)
    assert [*names.values()] == (["bad", "good"] if labels[0] == "bad" else ["9", "10", "a", "b"])
    same_scores(minift.predict(folder, TEXTS), logits, names)


def test_transformers_agrees_on_pairs(folders, tmp_path):
    rows = [{"text_a": row["text"], "text_b": "good", "label": row["label"]} for row in tiny.rows(12)]
    folder = finetuned(folders["bert"], tmp_path / "run", rows)
    pairs = [{"sentence1": a, "sentence2": b} for a, b in zip(TEXTS, PAIRS, strict=True)]
    same_scores(minift.predict(folder, pairs), *theirs(folder, TEXTS, PAIRS))


@each_family
def test_transformers_agrees_on_a_regression(folders, tmp_path, family):
    rows = [{"text": row["text"], "label": i / 4} for i, row in enumerate(tiny.rows(12))]
    folder = finetuned(folders[family], tmp_path / "run", rows, regression=True)
    logits, names = theirs(folder, TEXTS)
    config = json.loads((folder / "config.json").read_text())
    assert len(names) == 1 and config["problem_type"] == "regression"
    found = torch.tensor([row["prediction"] for row in minift.predict(folder, TEXTS)])
    torch.testing.assert_close(found, logits[:, 0], rtol=0, atol=2e-5)
    assert minift.evaluate(folder, rows).keys() == {"spearman", "pearson", "mse"}
