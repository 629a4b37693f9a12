"""Translation from rows to metrics: what the decoder is fed, the loss of transformers, whole runs.
Run me: pytest tests/test_translate.py
"""

import json
import random

import pytest
import tiny
import torch
from transformers import BartForConditionalGeneration

import minift
from minift import data, metrics, runs, use
from minift.data import IGNORE
from minift.tasks.translate import Translate

torch.set_num_threads(1)

PAIRS = [
    {"src": "the good bad", "tgt": "bad"},
    {"src": "a", "tgt": "the good the bad a"},
    {"src": "bad again and again", "tgt": "good"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.bart_folder(tmp_path_factory.mktemp("bart"))


@pytest.fixture(scope="module")
def loaded(folder):
    return minift.load(folder)


def worker(loaded, **more):
    return Translate(loaded[1], 24, **more)


def test_source_and_target_have_their_special_tokens_and_a_row_its_reference(loaded):
    (example, *_) = worker(loaded).examples(data.read(PAIRS))
    encode = loaded[1].encode
    assert example == {"ids": encode("the good bad"), "target": encode("bad"), "reference": "bad"}
    assert example["ids"][0] == 0 and example["ids"][-1] == example["target"][-1] == 2


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_transformers_which_shifts_the_labels(loaded, folder, smoothing):
    model, _ = loaded
    task = worker(loaded, smoothing=smoothing)
    batch = task.batch(task.examples(data.read(PAIRS)))
    theirs = BartForConditionalGeneration.from_pretrained(folder).eval()
    said = theirs(input_ids=batch["src"], attention_mask=batch["src_mask"].long(), labels=batch["target"])
    real = batch["target"] != IGNORE
    logs = said.logits.log_softmax(-1)[real]
    right = -logs.gather(1, batch["target"][real][:, None]).sum()
    uniform = -logs.mean(-1).sum()
    model.train()  # its dropout is 0
    loss, count = task.loss(model, batch)
    model.eval()
    assert count == int(real.sum())
    torch.testing.assert_close(loss, (1 - smoothing) * right + smoothing * uniform, rtol=1e-5, atol=1e-4)
    plain, _ = task.loss(model, batch)  # measured without smoothing
    torch.testing.assert_close(plain, said.loss * count, rtol=1e-5, atol=1e-4)


def test_what_stands_behind_a_row_does_not_matter_to_its_loss(loaded):
    model, _ = loaded
    task = worker(loaded)
    examples = task.examples(data.read(PAIRS))
    together, count = task.loss(model, task.batch(examples))
    alone = [task.loss(model, task.batch([example])) for example in examples]
    torch.testing.assert_close(together, sum(loss for loss, _ in alone), rtol=1e-5, atol=1e-4)
    assert count == sum(n for _, n in alone)


def test_the_prefix_goes_before_each_source(loaded):
    (example, *_) = worker(loaded, prefix="a the: ").examples(data.read(PAIRS))
    assert example["ids"] == loaded[1].encode("a the: the good bad")


def test_long_texts_are_cut_with_their_end_kept_and_counted(loaded):
    task = worker(loaded)
    (example,) = task.examples(data.read([{"src": "x" * 50, "tgt": "y" * 60}]))
    assert len(example["ids"]) == len(example["target"]) == 24 and task.truncated == 2
    assert example["ids"][-1] == example["target"][-1] == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"src": "a", "tgt": " "}], "<rows>, row 1: tgt is ' '; it must be a text"),
        ([{"src": "a", "tgt": "b"}, {"src": 3, "tgt": "b"}], "<rows>, row 2: src is 3; it must be a text"),
        ([{"source": "a", "tgt": "b"}], "<rows> has the columns source, tgt; 'src' or 'text' is needed"),
        ([{"src": "a", "tgr": "b"}], "<rows> has the columns src, tgr; 'tgt' is needed. Did you mean 'tgt'?"),
    ],
)
def test_a_row_without_a_text_is_named(loaded, rows, message):
    with pytest.raises(minift.Error) as caught:
        worker(loaded).examples(data.read(rows))
    assert str(caught.value).startswith(message.split(". Did")[0])


def pairs(count: int, seed: int) -> list[dict]:
    """Four to six words, each to be said by another: a language that a tiny model learns in seconds."""
    chance, other = random.Random(seed), {"a": "bad", "the": "good", "good": "the", "bad": "a"}
    rows = []
    for _ in range(count):
        words = [chance.choice([*other]) for _ in range(chance.randint(4, 6))]
        rows.append({"src": " ".join(words), "tgt": " ".join(other[word] for word in words)})
    return rows


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    lines = []
    found = minift.finetune(
        "translate",
        model=str(folder),
        train=pairs(800, 0),
        valid=pairs(40, 1),
        test=pairs(60, 2),
        out=str(out),
        epochs=12,
        batch_size=16,
        lr=8e-3,
        precision="fp32",
        say=lines.append,
    )
    return found, "\n".join(lines)


def test_a_run_learns_the_language_and_says_so(run):
    found, said = run
    assert found.metrics["test_before"]["bleu"] < 20 and found.metrics["test"]["bleu"] > 80
    assert set(found.metrics["test"]) == {"bleu", "chrf"}
    result = json.loads((found.folder / "result.json").read_text())
    assert result["task"] == "translate" and result["metrics"]["test"] == found.metrics["test"]
    assert said.count("    right  ") == said.count("    model  ") == 10  # five rows before, five after
    assert f"minift predict {found.folder}" in said


def test_the_saved_translator_predicts_and_measures_the_same(run):
    found, _ = run
    rows = pairs(60, 2)
    predictions = minift.predict(found.folder, rows)
    texts = [prediction["prediction"] for prediction in predictions]
    assert metrics.translation(texts, [row["tgt"] for row in rows]) == pytest.approx(found.metrics["test"], abs=1e-6)
    assert minift.evaluate(found.folder, rows) == pytest.approx(found.metrics["test"], abs=1e-6)
    assert minift.predict(found.folder, [rows[0]["src"]]) == [predictions[0]]  # a bare text will do
    assert minift.predict((found.model, found.tokenizer), rows) == predictions


def test_transformers_says_what_the_saved_translator_says(run):
    found, _ = run
    theirs = BartForConditionalGeneration.from_pretrained(found.folder).eval()
    for row, mine in zip(pairs(20, 3), minift.predict(found.folder, pairs(20, 3)), strict=True):
        ids = torch.tensor([found.tokenizer.encode(row["src"])])
        said = theirs.generate(ids, do_sample=False, num_beams=1)[0].tolist()
        assert found.tokenizer.decode(said, skip_special=True).strip() == mine["prediction"]


def test_the_source_of_another_row_spoils_the_translation(run):
    found, _ = run
    both = minift.shuffle_test(found.folder, pairs(60, 2))
    assert both["own"] == pytest.approx(found.metrics["test"], abs=1e-6)
    assert both["another's"]["bleu"] < 0.5 * both["own"]["bleu"]
    with pytest.raises(minift.Error, match="shuffle_test is for translators; this model is for lm"):
        minift.shuffle_test("gpt2-nano", ["a"])


def test_beams_serve_the_measuring_and_rouge_the_summaries(run, tmp_path):
    found, _ = run
    settings = {"model": str(found.folder), "train": pairs(64, 4), "test": pairs(16, 5), "epochs": 1}
    second = minift.finetune(
        "translate", **settings, metric="rouge", beams=3, prefix="a ", max_length=20, out=str(tmp_path / "rouge")
    )
    assert set(second.metrics["test"]) == {"rouge1", "rouge2", "rougeL"}
    config = json.loads((tmp_path / "rouge" / "config.json").read_text())
    assert config["minift"] == {"task": "translate", "max_length": 20, "prefix": "a "}
    ready, _ = use.ready(tmp_path / "rouge")
    assert (ready.prefix, ready.max_length) == ("a ", 20)


def test_what_is_not_said_is_four_epochs_three_usual_rates_and_some_smoothing(folder, tmp_path):
    minift.finetune("translate", model=folder, train=PAIRS * 2, valid=PAIRS, out=tmp_path / "a")
    said = (tmp_path / "a" / "config.toml").read_text()
    usual = runs.optim.usual_rate(32, 4, "all")
    assert all(line in said for line in ("epochs = 4\n", f"lr = {3.0 * usual!r}\n", "smoothing = 0.1\n")), said
