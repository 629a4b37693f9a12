"""A vocabulary and a model from nothing, and a training that goes on as if it had never stopped.
Run me: pytest tests/test_pretraining.py"""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

import minift
from minift import checkpoint, files, pretraining, safetensors, train
from minift.cli import main
from minift.settings import Finetune

torch.set_num_threads(1)

WORDS = ["the", "boat", "came", "in", "with", "tide", "and", "went", "out", "again", "wind", "turned", "grey", "water"]
QUICK = {"vocab": 300, "layers": 1, "width": 16, "heads": 2, "context": 16, "batch_size": 4, "device": "cpu"}
QUICK |= {"tokens": 1280, "save_every": 5, "lr": 1e-2}


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    chance = np.random.default_rng(0)
    documents = [" ".join(chance.choice(WORDS, 60)) + ".\n\n" + " ".join(chance.choice(WORDS, 60)) for _ in range(40)]
    path = tmp_path_factory.mktemp("books") / "book.txt"
    path.write_text("\n<|endoftext|>\n".join(documents) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    chance = np.random.default_rng(0)
    rows = [chance.choice(WORDS, 4) for _ in range(300)]
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("src\ttgt\n" + "".join(f"{' '.join(r)}\t{' '.join(r[::-1])}\n" for r in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def texts(book, pairs):
    """What each task learns from."""
    return {"lm": book, "mlm": book, "denoise": book, "translate": pairs}


def tensors(folder):
    return safetensors.load(folder / "model.safetensors")


each_task = pytest.mark.parametrize("task", ["lm", "mlm", "denoise", "translate"])


@each_task
def test_a_model_made_from_nothing_has_learned_something_and_loads(texts, task, tmp_path):
    lines = []
    folder = pretraining.pretrain(task, say=lines.append, text=[texts[task]], out=str(tmp_path / "run"), **QUICK)
    model, tokenizer = minift.load(folder)
    assert (
        model.kind == (task if "lm" in task else "seq2seq") and tokenizer.vocab_size == model.config.vocab_size <= 300
    )
    first = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [entry["valid"]["loss"] for entry in first if "valid" in entry]
    assert losses[-1] < losses[0] - 0.1 and losses[-1] < np.log(tokenizer.vocab_size) - 0.3
    result = json.loads((folder / "result.json").read_text())
    assert result["task"] == task and result["metrics"]["held"]["loss"] == min(losses)
    if "lm" in task:  # whose rows are all of the same length
        assert result["train"]["steps"] == 20
    if task != "mlm":
        ids = torch.tensor([tokenizer.encode("the boat")])
        assert 3 <= len(minift.generate_ids(model, ids, min_new_tokens=3, max_new_tokens=5)[0]) <= 5


@each_task
def test_an_interrupted_training_goes_on_to_the_same_weights(texts, task, tmp_path, monkeypatch):
    whole = pretraining.pretrain(task, text=[texts[task]], out=str(tmp_path / "whole"), **QUICK)
    out, save, saves = str(tmp_path / "parts"), checkpoint.save, []

    def interrupted(*state):
        save(*state)
        saves.append(state)
        if len(saves) in (1, 3):
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pretraining.pretrain(task, text=[texts[task]], out=out, **QUICK)
        assert not (tmp_path / "parts" / "config.json").exists()
        torch.rand(7)  # whatever chance has done in between
    parts = pretraining.pretrain(task, text=[texts[task]], out=out, **QUICK)
    for name, tensor in tensors(whole).items():
        assert torch.equal(tensors(parts)[name], tensor), name
    steps = [json.loads(line)["step"] for line in (parts / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert (
        json.loads((parts / "result.json").read_text())["metrics"]
        == json.loads((whole / "result.json").read_text())["metrics"]
    )


@each_task
def test_a_training_begins_with_another_model_where_one_is_named(texts, task, tmp_path):
    first = pretraining.pretrain(task, text=[texts[task]], out=str(tmp_path / "first"), **QUICK)
    more = QUICK | {"model": str(first), "lr": 1e-9, "vocab": 9999, "layers": 7}  # what a model has is not asked for
    second = pretraining.pretrain(task, text=[texts[task]], out=str(tmp_path / "second"), **more)
    for name, tensor in tensors(first).items():
        torch.testing.assert_close(tensors(second)[name], tensor, rtol=0, atol=1e-6)
    assert minift.load_tokenizer(second).files == minift.load_tokenizer(first).files


def rows_learned_from(book, folder, monkeypatch, **values):
    """The plan of a pre-training, and how many rows there are."""
    found = []
    monkeypatch.setattr(train, "train", lambda model, plan, *_, **__: found.append(plan) or exit())
    with pytest.raises(SystemExit):
        pretraining.pretrain("lm", text=[book], out=str(folder), **(QUICK | values))
    return found[0], (len(np.fromfile(folder / "tokens.bin", "<u2")) - 1) // QUICK["context"]


def test_every_two_hundredth_row_is_held_out_and_each_other_one_learned_once_an_epoch(book, tmp_path, monkeypatch):
    _, rows = rows_learned_from(book, tmp_path / "a", monkeypatch)
    learned = sorted(set(range(rows)) - set(range(100, rows, 200)))
    assert rows > 200 and len(learned) < rows
    two_epochs = 2.0 * QUICK["context"] * len(learned)
    plan, _ = rows_learned_from(book, tmp_path / "b", monkeypatch, tokens=two_epochs)
    seen = [row for stretch in plan for batch in stretch for row in batch]
    half = len(learned)
    assert sorted(seen[:half]) == learned == sorted(seen[half:])
    assert seen[:half] != learned and seen[:half] != seen[half:]  # in another order each time
    other, _ = rows_learned_from(book, tmp_path / "c", monkeypatch, tokens=two_epochs, seed=1)
    assert other != plan


def test_the_model_has_the_weights_of_the_best_stretch_also_after_an_interruption(tmp_path):
    """Of the stretches' losses 3, 1, 2 the second is the best; the training stops after it and goes on."""
    scores = iter([3.0, 1.0, 2.0])
    model = torch.nn.Linear(1, 1, bias=False)
    model.blocks, model.new, kept = [], [], []

    def evaluate(model):
        kept.append(model.weight.item())
        return {"loss": next(scores)}

    def run(steps):
        options = Finetune(lr=1e-2, precision="fp32", max_steps=None)
        loss = lambda model, batch: (model(batch["x"]).sum(), 1)
        with pytest.MonkeyPatch.context() as patch:
            if steps == 2:
                patch.setattr(checkpoint, "save", interrupting)
            train.train(
                model, [[[0]], [[1]], [[2]]], lambda rows: {"x": torch.ones(1, 1)}, loss, options, evaluate,
                lambda m: -m["loss"], state=tmp_path / "training.pt",
            )  # fmt: skip

    save = checkpoint.save

    def interrupting(path, model, optimizer, history, best):
        save(path, model, optimizer, history, best)
        if history.steps == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(2)
    run(3)
    assert len(set(kept)) == 3 and model.weight.item() == kept[1]


def test_other_settings_do_not_go_on_with_a_training(book, tmp_path):
    out = str(tmp_path / "run")
    pretraining.pretrain("lm", text=[book], out=out, **QUICK)
    with pytest.raises(minift.Error, match=r"another training began here: lr was 0.01, is 0.02; give its settings"):
        pretraining.pretrain("lm", text=[book], out=out, **(QUICK | {"lr": 0.02}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(minift.Error, match="full: is not empty"):
        pretraining.pretrain("lm", text=[book], out=str(tmp_path / "full"), **QUICK)


def test_a_damaged_state_is_one_clear_error(book, tmp_path):
    folder = pretraining.pretrain("lm", text=[book], out=str(tmp_path / "run"), **QUICK)
    (folder / "training.pt").write_bytes((folder / "training.pt").read_bytes()[:1000])
    with pytest.raises(minift.Error, match=r"training.pt: no state of this training .*; remove it to begin anew"):
        pretraining.pretrain("lm", text=[book], out=str(folder), **QUICK)


@pytest.mark.parametrize("task", ["lm", "mlm"])
def test_the_file_of_tokens_holds_all_documents_one_after_the_other(book, task, tmp_path):
    folder = pretraining.pretrain(task, text=[book, book], out=str(tmp_path / "run"), **QUICK)
    tokenizer = minift.load_tokenizer(folder)
    ids = np.fromfile(folder / "tokens.bin", "<u2").tolist()
    end = tokenizer.eos if task == "lm" else tokenizer.sep
    documents = [text.strip("\n") for text in files.read_text(book).split("<|endoftext|>")] * 2
    encode = tokenizer.encode if task == "lm" else lambda text: tokenizer.encode(text)[1:-1]
    assert ids == [end, *(i for text in documents for i in (*encode(text), end))]


@given(
    some.lists(some.text("ab \n", max_size=30).map(lambda text: text.strip("\n")), min_size=1, max_size=6),
    some.integers(1, 50),
)
def test_reading_in_blocks_loses_nothing_and_finds_every_end(tmp_path_factory, documents, size):
    path = tmp_path_factory.mktemp("blocks") / "a.txt"
    path.write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "BLOCK", size)
        found = list(pretraining.blocks(str(path)))
    whole, current = [], ""
    for text, ends in found:
        current += text
        if ends:
            whole, current = [*whole, current.strip("\n")], ""
    assert whole == documents and current == ""


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"text": None}, ["pretrain needs --text"]),
        ({"context": 4096}, ["tokens in 1 rows are too few: 101 rows are the least"]),
        ({"vocab": 100}, ["size=100 is too small"]),
        ({"heads": 3}, ["n_embd 16 cannot be shared among 3 heads"]),
        ({"text": ["nowhere.txt"]}, ["nowhere.txt: cannot be read"]),
        ({"tokens": -1.0}, ["--tokens -1.0"]),
        ({"model": "bert-nano"}, ["bert has no kind 'lm'"]),
    ],
)
def test_a_mistake_is_one_clear_error(book, values, parts, tmp_path):
    with pytest.raises(minift.Error) as caught:
        pretraining.pretrain("lm", **(QUICK | {"text": [book], "out": str(tmp_path / "run")} | values))
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value
    assert not (tmp_path / "run" / "config.json").exists()


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(minift.Error, match="unknown task 'ml'; there is lm, mlm"):
        pretraining.pretrain("ml")


def test_the_command_takes_several_texts(book, tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "run"), "--vocab", "300", "--layers", "1", "--width", "16", "--heads", "2"]
    arguments += ["--context", "16", "--tokens", "640", "--device", "cpu", "--text", book, book]
    main(["pretrain", "lm", *arguments])
    out = capsys.readouterr().out
    assert "encoding 2 files" in out and "held out   loss" in out


def test_the_loop_skips_what_was_learned_and_nothing_else(tmp_path):
    """Every batch is seen once, however often the training stops."""
    model, seen = torch.nn.Linear(2, 1), []

    def collate(rows):
        seen.append(rows)
        return {"x": torch.ones(len(rows), 2)}

    def run(stop):
        def evaluate(model):
            if len(seen) == stop:
                raise KeyboardInterrupt
            return {"loss": 1.0}

        options = Finetune(lr=1e-3, precision="fp32")
        loss = lambda model, batch: (model(batch["x"]).square().sum(), len(batch["x"]))
        return train.train(
            model, plan, collate, loss, options, evaluate, lambda m: -m["loss"], state=tmp_path / "training.pt"
        )

    plan = [[[1], [2]], [[3]], [[4], [5], [6]]]
    model.blocks, model.new = [], []
    with pytest.raises(KeyboardInterrupt):
        run(stop=3)  # while the second epoch is measured: it has not been saved, and is learned again
    assert run(stop=None).steps == 6
    assert seen == [[1], [2], [3], [3], [4], [5], [6]]
