"""Whole runs on a few rows: what they write, that they repeat, and what stays when they fail.
Run me: pytest tests/test_runs.py"""

import hashlib
import json
import os
import tomllib
from dataclasses import fields
from xml.etree import ElementTree

import pytest
import tiny
import torch

import minift
from minift import files, hub, pretrained, runs, safetensors
from minift.cli import main
from minift.settings import Finetune
from minift.tasks.classify import Classify

torch.set_num_threads(1)

QUICK = {"max_steps": 3, "batch_size": 4, "device": "cpu"}
METRICS = {"accuracy", "macro_f1", "mcc"}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return str(tiny.bert_folder(tmp_path_factory.mktemp("bert")))


def finetune(**settings):
    """A quick run, with its lines."""
    lines = []
    return minift.finetune("classify", say=lines.append, **(QUICK | settings)), "\n".join(lines)


def digest(folder) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def tensors(folder):
    return {name: tensor.float() for name, tensor in safetensors.load(folder / "model.safetensors").items()}


def refused(*parts, code=2, **settings):
    """The message of the `Error` that a run must end with; it holds all `parts`, and no model is left."""
    with pytest.raises(minift.Error) as caught:
        finetune(**settings)
    message = str(caught.value)
    assert caught.value.code == code and [part for part in parts if part not in message] == [], message
    assert not (settings["out"] / "model.safetensors").exists() and not (settings["out"] / "config.json").exists()
    return message


# -- a run of bert-nano on three files, and what it writes ------------------------------------------------------------


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    """(run, its lines, its three files)"""
    folder = tmp_path_factory.mktemp("nano")
    parts = {"train": tiny.rows(16), "valid": tiny.rows(6, start=100), "test": tiny.rows(10, start=200)}
    paths = {name: tiny.tsv(folder / f"{name}.tsv", rows) for name, rows in parts.items()}
    settings = {"epochs": 2, "max_steps": None, "log_every": 3, "lr": 1e-3, "seed": 7, "patience": 5}
    run, lines = finetune(out=folder / "run", **paths, **settings)
    return run, lines, paths


def test_result_json_says_what_the_contract_says(nano):
    run = nano[0]
    result = json.loads((run.folder / "result.json").read_text())
    assert list(result) == ["task", "model", "metrics", "train", "baselines"]
    assert (result["task"], result["model"]) == ("classify", "bert-nano")
    assert result["metrics"].keys() == {"test_before", "valid", "test"} and result["metrics"] == run.metrics
    assert result["baselines"].keys() == {"bag_of_words"} and result["baselines"] == run.baselines
    for metrics in *result["metrics"].values(), *result["baselines"].values():
        assert metrics.keys() == METRICS and 0 <= metrics["accuracy"] <= 1
    train = result["train"]
    assert {"steps", "tokens", "seconds", "tokens_per_second", "peak_memory_bytes"} <= train.keys()
    assert train == run.train and train["steps"] == 8 and train["epoch"] in (1, 2)
    tokens = sum(len(run.tokenizer.encode(row["text"])) for row in tiny.rows(16))
    assert train["tokens"] == 2 * tokens  # in two epochs; padding does not count
    assert train["parameters"] == train["learning"] == sum(p.numel() for p in run.model.parameters())
    assert train["peak_memory_bytes"] > 10**7


def test_metrics_jsonl_has_a_line_a_logged_step_and_one_an_epoch(nano):
    lines = [json.loads(line) for line in (nano[0].folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [3, 6, 8]  # every third and the last
    assert steps[0].keys() == {"step", "epoch", "loss", "lr", "norm", "tokens_per_second"}
    assert [line["epoch"] for line in steps] == [1, 2, 2]
    valid = [line for line in lines if "valid" in line]
    assert [(line["step"], line["epoch"]) for line in valid] == [(4, 1), (8, 2)]
    best = max(valid, key=lambda line: line["valid"]["accuracy"])
    assert best["valid"] == nano[0].metrics["valid"] and best["epoch"] == nano[0].train["epoch"]


def test_curves_svg_is_a_picture_of_every_step(nano):
    tree = ElementTree.parse(nano[0].folder / "curves.svg")
    assert tree.getroot().tag.endswith("svg")
    assert len(list(tree.iter("{http://www.w3.org/2000/svg}circle"))) == 8


def test_the_lines_tell_device_seed_rows_and_figures(nano):
    run, lines, paths = nano
    for part in (
        f"bert-nano, {run.train['parameters']:,} parameters",
        "drawn at random: classifier.weight, classifier.bias",
        "cpu, fp32",
        "seed 7, rate 0.001",
        f"16 rows of {paths['train']}: bad 8, good 8",
        f"6 rows of {paths['valid']}",
        f"test accuracy {run.metrics['test']['accuracy']:.3f}",
        f"test accuracy {run.baselines['bag_of_words']['accuracy']:.3f}",
        "best epoch",
        f"saved      {run.folder}",
    ):
        assert part in lines, part
    assert lines.count("WRONG") + lines.count("right") == 5  # five rows of the test part with their prediction


def test_config_toml_has_every_setting_and_runs_again_to_the_same_bits(nano, tmp_path, capsys):
    run, _, paths = nano
    config = tomllib.loads((run.folder / "config.toml").read_text())
    left_out = {f.name for f in fields(Finetune)} - config.keys()
    assert left_out == {
        "out",
        "max_steps",
        "batch_tokens",
        "max_length",
        "threads",
        "prompt",
        "beams",
        "channels",
        "style",
        "overlap",
    }  # those that are none, and out
    assert config | paths | {"task": "classify", "device": "cpu", "precision": "fp32", "lr": 1e-3} == config
    main(["finetune", "classify", "--config", str(run.folder / "config.toml"), "--out", str(tmp_path / "again")])
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (run.folder, tmp_path / "again"))
    for part in "metrics", "baselines", "model", "task":
        assert first[part] == second[part]
    assert digest(run.folder) == digest(tmp_path / "again")
    losses = [
        [json.loads(line).get("loss") for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run.folder, tmp_path / "again")
    ]
    assert losses[0] == losses[1]
    assert f"saved      {tmp_path / 'again'}" in capsys.readouterr().out


def test_whatever_a_path_is_called_config_toml_can_be_read():
    for name in 'a "b".tsv', "C:\\new\\table.tsv", "größe 🙂.tsv", "it's\ta\ttab.tsv":
        values = {"task": "classify", "train": name, "lr": 1e-7, "seed": 2**62, "regression": True}
        found = tomllib.loads(runs.toml("classify", Finetune(train=name, lr=1e-7, seed=2**62, regression=True)))
        assert found | values == found


def test_the_folder_is_a_model(nano):
    run = nano[0]
    model, tokenizer = minift.load(run.folder)
    assert model.kind == "classify" and model.config.labels == ["bad", "good"]
    assert tokenizer.encode("never again") == run.tokenizer.encode("never again")
    assert model.report.new == model.report.missing == model.report.unexpected == []
    for name, p in run.model.named_parameters():
        assert torch.equal(model.get_parameter(name), p), name
    names = {path.name for path in run.folder.iterdir()}
    assert names >= {"result.json", "metrics.jsonl", "config.toml", "curves.svg", "config.json", "model.safetensors"}
    assert [name for name in names if name.startswith(".")] == []  # no temporary file stays


def test_evaluate_gives_the_metrics_of_the_run_again(nano):
    run, _, paths = nano
    assert minift.evaluate(run.folder, paths["test"]) == run.metrics["test"]
    assert minift.evaluate((run.model, run.tokenizer), paths["test"], task="classify") == run.metrics["test"]
    assert minift.evaluate(str(run.folder), tiny.rows(6, start=100)) == run.metrics["valid"]


def test_predictions_keep_the_order_of_the_rows(nano):
    run = nano[0]
    rows = tiny.rows(70, start=300)
    rows.sort(key=lambda row: hashlib.sha256(row["text"].encode()).hexdigest())  # lengths in no order
    together = minift.predict(run.folder, rows)
    for row, found in list(zip(rows, together, strict=True))[::9]:
        (alone,) = minift.predict((run.model, run.tokenizer), [row["text"]])
        assert found["prediction"] == alone["prediction"]
        assert found["scores"] == pytest.approx(alone["scores"], abs=1e-5)
    assert len({round(found["scores"]["good"], 4) for found in together}) > 40  # rows can be told apart
    small = minift.predict(run.folder, rows, max_batch=3)
    assert [row["prediction"] for row in small] == [row["prediction"] for row in together]


def test_with_tune_head_all_else_stays_bit_for_bit_what_is_embedded(tmp_path):
    run, lines = finetune(train=tiny.rows(12), valid=tiny.rows(4), tune="head", out=tmp_path / "run")
    before, after = tensors(hub.find("bert-nano")), tensors(run.folder)
    backbone = {name: tensor for name, tensor in after.items() if not name.startswith("classifier.")}
    prefix = "" if any(name.startswith("bert.") for name in before) else "bert."
    kept = {prefix + name: tensor for name, tensor in before.items()}
    assert len(backbone) > 30 and all(torch.equal(tensor, kept[name]) for name, tensor in backbone.items())
    width = after["classifier.weight"].shape[1]
    assert run.train["learning"] == 2 * width + 2
    assert f"{run.train['parameters']:,} parameters, {2 * width + 2:,} of them learn (--tune head)" in lines


def test_random_bert_nano_has_its_shape_and_none_of_its_weights(tmp_path):
    model, tokenizer = minift.load("random:bert-nano")
    embedded = minift.load_model("bert-nano")
    assert tokenizer.encode("never") == minift.load_tokenizer("bert-nano").encode("never")
    for name, p in embedded.named_parameters():
        fresh = model.get_parameter(name)
        assert fresh.shape == p.shape and (p.ndim == 1 or not torch.equal(fresh, p)), name
    run, lines = finetune(model="random:bert-nano", train=tiny.rows(8), out=tmp_path / "run", max_steps=1)
    assert "model      random:bert-nano" in lines and "drawn at random:" in lines
    assert json.loads((run.folder / "result.json").read_text())["model"] == "random:bert-nano"


# -- the same with a tiny BERT: sources, settings, repetition ---------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(bert, tmp_path):
    found = []
    for name, seed in ("a", 3), ("b", 3), ("c", 4):
        torch.manual_seed(len(found))  # what was drawn before does not matter
        run, _ = finetune(model=bert, train=tiny.rows(20), out=tmp_path / name, seed=seed)
        found.append(digest(run.folder))
    assert found[0] == found[1] != found[2]


def test_rows_in_memory_and_rows_in_a_file_are_learned_alike(bert, tmp_path):
    rows, valid = tiny.rows(20), tiny.rows(6, start=50)
    files = tiny.tsv(tmp_path / "train.tsv", rows), tiny.tsv(tmp_path / "valid.tsv", valid)
    pairs = [tuple(row.values()) for row in rows]
    a, _ = finetune(model=bert, train=rows, valid=valid, out=tmp_path / "a")
    b, _ = finetune(model=bert, train=tmp_path / "train.tsv", valid=files[1], out=str(tmp_path / "b"))
    c, _ = finetune(model=bert, train=pairs, valid=valid, out=tmp_path / "c")
    assert digest(a.folder) == digest(b.folder) == digest(c.folder) and a.metrics == b.metrics == c.metrics


def test_a_module_with_its_tokenizer_is_learned_like_its_folder_and_left_alone(bert, tmp_path):
    module, tokenizer = minift.load(bert)
    before = {name: p.clone() for name, p in module.named_parameters()}
    a, lines = finetune(model=(module, tokenizer), train=tiny.rows(20), out=tmp_path / "a", lr=1e-3)
    assert "model      yours, " in lines
    assert all(torch.equal(before[name], p) for name, p in module.named_parameters())
    assert a.model is not module and a.tokenizer is tokenizer
    changed = [name for name, p in before.items() if not torch.equal(a.model.get_parameter(name), p)]
    assert len(changed) == len(before)
    assert minift.predict(a.folder, ["good"]) == minift.predict((a.model, a.tokenizer), ["good"])


def test_what_was_in_memory_cannot_be_run_again_by_mistake(bert, tmp_path, capsys):
    """Else config.toml would quietly stand for the embedded rows and bert-nano."""
    rows = tiny.rows(20)
    run, _ = finetune(model=minift.load(bert), train=rows, out=tmp_path / "a")
    assert json.loads((run.folder / "result.json").read_text())["model"] == "(given in memory)"
    config = run.folder / "config.toml"
    for known in {}, {"train": tiny.tsv(tmp_path / "train.tsv", rows)}:
        flags = [part for name, value in known.items() for part in (f"--{name}", value)]
        with pytest.raises(SystemExit) as end:
            main(["finetune", "classify", "--config", str(config), "--out", str(tmp_path / "b"), *flags])
        assert end.value.code == 2 and "(given in memory)" in capsys.readouterr().err
    main(["finetune", "classify", "--config", str(config), "--out", str(tmp_path / "b"), *flags, "--model", bert])
    assert digest(tmp_path / "b") != "" and "saved" in capsys.readouterr().out


def test_a_fine_tuned_model_learns_on_with_its_head(bert, tmp_path):
    a, _ = finetune(model=bert, train=tiny.rows(20), out=tmp_path / "a")
    b, lines = finetune(model=a.folder, train=tiny.rows(20), out=tmp_path / "b", tune="head", lr=1e-9)
    assert "drawn at random" not in lines
    torch.testing.assert_close(tensors(a.folder), tensors(b.folder), rtol=0, atol=1e-6)
    c, lines = finetune(model=a.folder, train=tiny.rows(20, ("x", "y", "z")), out=tmp_path / "c")
    assert "drawn at random: classifier.weight, classifier.bias" in lines
    assert c.model.config.labels == ["x", "y", "z"]


def test_tune_says_how_many_parameters_learn(bert, tmp_path):
    model = minift.load_model(bert, "classify", ["bad", "good"])
    block, pooler = (sum(p.numel() for p in part.parameters()) for part in (model.blocks[1], model.bert.pooler))
    total, head = sum(p.numel() for p in model.parameters()), 2 * 16 + 2
    learning = {"head": head, "last:1": head + pooler + block, "last:2": head + pooler + 2 * block, "all": total}
    for tune, count in learning.items():
        run, lines = finetune(model=bert, train=tiny.rows(8), tune=tune, out=tmp_path / tune, lr=1e-2)
        assert run.train["learning"] == count and run.train["parameters"] == total
        assert f"{total:,} parameters, {count:,} of them learn (--tune {tune})" in lines
        frozen = [name for name, p in run.model.named_parameters() if not p.requires_grad]
        assert sum(run.model.get_parameter(name).numel() for name in frozen) == total - count
        same = [name for name, p in run.model.named_parameters() if torch.equal(p, model.get_parameter(name))]
        assert same == frozen
        open_layers = [i for i in (0, 1) if f"bert.encoder.layer.{i}.output.dense.weight" not in frozen]
        assert open_layers == {"head": [], "last:1": [1]}.get(tune, [0, 1])


def test_without_valid_a_seeded_tenth_is_held_out_and_said(bert, tmp_path, monkeypatch):
    parts, fit = [], runs.fit

    def spy(worker, model, tables, *rest):
        parts.append({split: {row["text"] for row in table.rows} for split, table in tables.items()})
        return fit(worker, model, tables, *rest)

    monkeypatch.setattr(runs, "fit", spy)
    train = tiny.tsv(tmp_path / "train.tsv", tiny.rows(40))
    for name, seed in ("a", 1), ("b", 1), ("c", 2):
        _, lines = finetune(model=bert, train=train, out=tmp_path / name, seed=seed)
        assert f"36 rows of {train}: " in lines
        assert f"4 rows of {train} (a seeded tenth, held out)" in lines
    for part in parts:
        assert (len(part["train"]), len(part["valid"])) == (36, 4) and not part["train"] & part["valid"]
    assert parts[0] == parts[1] != parts[2]


def test_a_label_whose_rows_are_all_held_out_is_still_a_label(bert, tmp_path):
    rows = tiny.rows(12)
    for seed in range(200):  # the row of the rare label must be among those held out
        rows[5]["label"] = "rare"
        held = runs.data.split(runs.data.read(rows), 0.1, seed)[1]
        if any(row["label"] == "rare" for row in held.rows):
            break
    run, lines = finetune(model=bert, train=rows, seed=seed, out=tmp_path / "run")
    assert run.model.config.labels == ["bad", "good", "rare"] and "rare 0" in lines


def test_the_figures_are_those_of_the_best_epoch(bert, tmp_path, monkeypatch):
    scores = iter([0.1, 0.2, 0.9, 0.5, 0.9])  # before, three epochs, after
    monkeypatch.setattr(runs, "assess", lambda *_, **__: ({"accuracy": next(scores)}, torch.zeros(1, 2)))
    run, lines = finetune(model=bert, train=tiny.rows(12), out=tmp_path / "a", epochs=3, max_steps=None)
    assert run.metrics == {"valid_before": {"accuracy": 0.1}, "valid": {"accuracy": 0.9}} and run.train["epoch"] == 2
    assert "best epoch 2, valid accuracy 0.900" in lines


def test_cut_texts_are_counted(bert, tmp_path):
    _, lines = finetune(model=bert, train=tiny.rows(10), max_length=7, out=tmp_path / "a")
    assert "texts were longer than 7 tokens and are cut" in lines
    assert json.loads((tmp_path / "a" / "config.json").read_text())["minift"]["max_length"] == 7
    long = {"text": "never " * 100, "label": "bad"}
    _, lines = finetune(model=bert, train=[*tiny.rows(10), long], valid=[long], out=tmp_path / "b", max_length=1000)
    assert "2 texts were longer than 48 tokens and are cut" in lines  # the model has no more positions
    said = []
    assert minift.predict(tmp_path / "b", [long["text"]], say=said.append)
    assert minift.evaluate(tmp_path / "b", [long, *tiny.rows(2)], say=said.append)
    assert [line.strip() for line in said] == ["1 texts were longer than 48 tokens and are cut"] * 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
def test_a_disk_that_fills_up_in_the_middle_of_a_training_is_one_clear_error(bert, tmp_path, monkeypatch):
    append = files.append_text
    monkeypatch.setattr(files, "append_text", lambda path, text: append("/dev/full", text))
    refused(
        "/dev/full: writing failed (No space left on device)",
        code=1,
        train=tiny.rows(12),
        out=tmp_path / "a",
        model=bert,
    )


def test_baselines_adds_the_same_model_from_random_weights(bert, tmp_path):
    rows = {"train": tiny.rows(20), "valid": tiny.rows(4), "test": tiny.rows(10, start=50)}
    run, lines = finetune(model=bert, out=tmp_path / "a", baselines=True, tune="head", **rows)
    assert run.baselines.keys() == {"bag_of_words", "random_weights"} and "from random weights" in lines
    assert run.baselines["random_weights"].keys() == METRICS
    assert json.loads((tmp_path / "a" / "result.json").read_text())["baselines"] == run.baselines
    plain, _ = finetune(model=bert, out=tmp_path / "b", tune="head", **rows)
    assert digest(run.folder) == digest(plain.folder) and run.metrics == plain.metrics  # the model is none the wiser
    logged = [(run.folder / "metrics.jsonl").read_text().count("\n") for run in (run, plain)]
    assert logged[0] == logged[1]


def test_the_random_baseline_learns_with_all_its_parameters_at_a_rate_for_all(bert, tmp_path, monkeypatch):
    """A head's rate is a hundred times too high for all."""
    seen, train = [], runs.train.train

    def spy(model, *args, **named):
        seen.append((named["settings"].lr, sum(p.numel() for p in model.parameters() if p.requires_grad)))
        return train(model, *args, **named)

    monkeypatch.setattr(runs.train, "train", spy)
    rows = tiny.rows(12)
    run, _ = finetune(model=bert, out=tmp_path / "a", train=rows, valid=rows, test=rows, baselines=True, tune="head")
    total = run.train["parameters"]
    assert seen == [(runs.optim.usual_rate(16, 2, "head"), 34), (runs.optim.usual_rate(16, 2, "all"), total)]


def test_the_run_has_a_folder_of_its_own_if_none_is_named(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [str(finetune(model=bert, train=tiny.rows(8), max_steps=1)[0].folder) for _ in range(2)]
    assert folders == ["runs/classify-1", "runs/classify-2"]


def test_an_empty_folder_may_be_given(bert, tmp_path):
    (tmp_path / "a").mkdir()
    assert finetune(model=bert, train=tiny.rows(8), out=tmp_path / "a")[0].folder == tmp_path / "a"


def test_batch_tokens_and_accumulate_make_steps(bert, tmp_path):
    rows = tiny.rows(20)
    longest = max(len(minift.load_tokenizer(bert).encode(row["text"])) for row in rows)
    more = {"train": rows, "valid": rows, "max_steps": None, "epochs": 1}
    run, _ = finetune(model=bert, out=tmp_path / "a", accumulate=2, **more)
    assert run.train["steps"] == 3  # 20 rows, 5 batches of 4
    run, _ = finetune(model=bert, out=tmp_path / "b", batch_tokens=longest, **more)
    assert 10 <= run.train["steps"] <= 20
    refused("batch_tokens=5", f"{longest} tokens", model=bert, out=tmp_path / "c", batch_tokens=5, **more)


def test_regression_runs_from_end_to_end(bert, tmp_path):
    rows = [row | {"label": i / 7} for i, row in enumerate(tiny.rows(20))]
    run, lines = finetune(model=bert, train=rows, test=rows[:9], regression=True, out=tmp_path / "a")
    assert run.metrics["test"].keys() == {"spearman", "pearson", "mse"} == run.baselines["bag_of_words"].keys()
    assert "numbers from 0" in lines
    again = minift.evaluate(run.folder, rows[:9])
    assert again == pytest.approx(run.metrics["test"], abs=1e-4)
    assert [*minift.predict(run.folder, ["good"])[0]] == ["prediction"]


# -- what goes wrong leaves no model ----------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_run(bert, tmp_path, monkeypatch):
    loss = Classify.loss
    monkeypatch.setattr(Classify, "loss", lambda self, *args: (loss(self, *args)[0] * float("nan"), 4))
    parts = "step 1", "nan", "<rows>, row", "--lr"
    refused(*parts, code=1, model=bert, train=tiny.rows(12), out=tmp_path / "a")


def test_an_absurd_rate_ends_the_run(bert, tmp_path):
    path = tiny.tsv(tmp_path / "train.tsv", tiny.rows(40))
    message = refused(
        "--lr", f"{path}, line", code=1, model=bert, train=path, lr=1e38, warmup=0.0, max_steps=9, out=tmp_path / "a"
    )
    assert "step " in message and not (tmp_path / "a" / "result.json").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_is_broken_off_leaves_no_model(bert, tmp_path, monkeypatch, error):
    def loss(*_):
        raise error

    monkeypatch.setattr(Classify, "loss", loss)
    with pytest.raises(error):
        finetune(model=bert, train=tiny.rows(12), out=tmp_path / "a")
    assert {path.name for path in (tmp_path / "a").iterdir()} <= {"config.toml", "metrics.jsonl"}


def test_a_model_that_cannot_be_written_is_no_model(bert, tmp_path, monkeypatch):
    def save(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained.safetensors, "save", save)
    with pytest.raises(OSError):
        finetune(model=bert, train=tiny.rows(12), out=tmp_path / "a")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert not names & {"config.json", "model.safetensors"}


def test_too_little_memory_is_said_with_ways_out(bert, tmp_path, monkeypatch):
    def loss(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Classify, "loss", loss)
    parts = "out of memory", "--batch-size", "--accumulate", "--recompute", "2 GiB"
    refused(*parts, code=1, model=bert, train=tiny.rows(12), out=tmp_path / "a")


def test_an_occupied_folder_is_refused_and_left_as_it_is(bert, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("months of work")
    refused("--out", str(tmp_path / "a"), "not empty", model=bert, train=tiny.rows(8), out=tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(minift.Error, match="--out"):
        finetune(model=bert, train=tiny.rows(8), out=tmp_path / "file")
    refused("file", "cannot be written", code=1, model=bert, train=tiny.rows(8), out=tmp_path / "file" / "a")


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"test": [("a", "goood")]}, ["<rows>, row 1", "'goood'", "did you mean 'good'"]),
        ({"valid": [("a", None)]}, ["<rows>, row 1", "blank"]),
        ({"tune": "last:3"}, ["--tune last:3", "1 to 2"]),
        ({"tune": "lore"}, ["--tune lore", "lora"]),
        (
            {"tune": "lora", "lora_layers": "queri"},
            ["--lora-layers queri", "bert.encoder.layer.*.attention.self.query (2)"],
        ),
        ({"tune": "lora", "lora_layers": "query,("}, ["--lora-layers query,(", "no regular expression"]),
        ({"tune": "lora", "lora_rank": 17}, ["--lora-rank 17", "query is (16, 16), of rank 16 at most"]),
        ({"lora_dropout": 1.0}, ["--lora-dropout 1.0"]),
        ({"unfreeze": "gradually"}, ["--unfreeze gradually", "did you mean 'gradual'"]),
        ({"rate_decay": 0.0}, ["--rate-decay 0.0"]),
        ({"epoch": 3}, ["'epoch'", "did you mean 'epochs'"]),
        ({"epochs": 1.5}, ["epochs = 1.5", "whole number"]),
        ({"epochs": True}, ["epochs = True", "whole number"]),
        ({"regression": 1}, ["regression = 1", "true or false"]),
        ({"lr": "3e-5"}, ["lr = '3e-5'", "a number"]),
        ({"lr": float("inf")}, ["--lr inf"]),
        ({"lr": float("nan")}, ["--lr nan"]),
        ({"weight_decay": -0.1}, ["--weight-decay -0.1"]),
        ({"warmup": 1.0}, ["--warmup 1.0"]),
        ({"seed": -1}, ["--seed -1"]),
        ({"seed": 2**63}, ["--seed 9223372036854775808"]),
        ({"batch_size": 0}, ["--batch-size 0"]),
        ({"precision": "fp16"}, ["--precision fp16", "bf16"]),
        ({"model": 5}, ["int", "(module, tokenizer)"]),
        ({"model": torch.nn.Linear(1, 1)}, ["Linear", "(module, tokenizer)"]),
        ({"model": "bert-nanno"}, ["bert-nanno", "did you mean 'bert-nano'"]),
        ({"train": []}, ["no rows"]),
        ({"test": []}, ["no rows"]),
        ({"train": {"text": ["a"]}}, ["dict"]),
        ({"max_length": 1}, ["max_length=1", "2 special tokens"]),
    ],
    ids=str,
)
def test_a_mistake_is_named_before_anything_is_written(bert, tmp_path, settings, parts):
    refused(*parts, out=tmp_path / "a", **({"model": bert, "train": tiny.rows(12)} | settings))
    assert not (tmp_path / "a").exists()


def test_empty_rows_do_not_stand_for_the_embedded_ones(bert, tmp_path):
    refused("no rows", model=bert, valid=[], out=tmp_path / "a")


def test_an_unknown_task_is_named_with_the_nearest():
    with pytest.raises(minift.Error, match=r"'clasify'.*did you mean 'classify'"):
        minift.finetune("clasify")


def test_a_model_without_the_tasks_head_makes_no_predictions(bert):
    with pytest.raises(
        minift.Error, match="no head of classify or lm or mlm or translate or denoise or answer; fine-tune it first"
    ):
        minift.predict(bert, ["a"])
    with pytest.raises(minift.Error, match="this model: has no head of classify"):
        minift.evaluate(minift.load(bert), tiny.rows(2))
    with pytest.raises(minift.Error, match="give a name, a folder, or"):
        minift.predict(minift.load_model(bert), ["a"])


@pytest.mark.parametrize("text", ["Not bad at all.", "3.5 of 5 stars", "very " * 100])
def test_a_text_where_rows_belong_is_told_from_a_file(nano, text):
    with pytest.raises(minift.Error, match="no data file; if it is a text, give it in a list"):
        minift.predict(nano[0].folder, text)


def test_another_task_than_the_models_is_refused(nano):
    with pytest.raises(minift.Error, match="--task answer: this model was fine-tuned for classify"):
        minift.evaluate(nano[0].folder, nano[2]["test"], task="answer")
