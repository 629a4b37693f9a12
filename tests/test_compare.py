"""Side by side: each run's figures are those of its result.json, and what cannot be run is said, not hidden.
Run me: pytest tests/test_compare.py"""

import csv
import json
import math
import re
from xml.etree import ElementTree

import pytest

from minift import cli, compare, plots
from minift.errors import Error

ROWS = [(f"{word} soup number {n}", label) for n in range(12) for word, label in (("Good", "up"), ("Bad", "down"))]
SMALL = {"epochs": 1, "threads": 1, "warmup": 0.0, "seed": 0}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    for name, rows in ("train", ROWS), ("test", ROWS[:6]):
        lines = "".join(f"{text}\t{label}\n" for text, label in rows)
        (folder / f"{name}.tsv").write_text("text\tlabel\n" + lines, encoding="utf-8")
    return {name: str(folder / f"{name}.tsv") for name in ("train", "test")}


@pytest.fixture(scope="module")
def compared(files, tmp_path_factory):
    out, lines = tmp_path_factory.mktemp("out") / "all", []
    found = compare.compare("classify", "bert-nano,gpt2-nano", "head,last:3", out, lines.append, **files, **SMALL)
    return out, found, lines


def test_each_row_has_the_figures_of_its_run(compared):
    out, found, _ = compared
    assert [(row["model"], row["tune"]) for row in found] == [
        ("bert-nano", "head"), ("bert-nano", "last:3"), ("gpt2-nano", "head"), ("gpt2-nano", "last:3"),
    ]  # fmt: skip
    for row in found[:1] + found[2:]:
        folder = out / f"{row['model']}-{row['tune']}".replace(":", "-")
        result = json.loads((folder / "result.json").read_text("utf-8"))
        assert row["score"] == result["metrics"]["test"]["accuracy"] and row["metric"] == "accuracy"
        assert row["learning"] == result["train"]["learning"] and row["seconds"] == result["train"]["seconds"]
        assert row["peak_memory_bytes"] == result["train"]["peak_memory_bytes"] > 1e8
        assert "warmup = 0.0" in (folder / "config.toml").read_text("utf-8"), "a setting of 0 is a setting"
    assert found[0]["learning"] < found[3]["learning"]


def test_a_way_that_a_model_does_not_have_is_said_beside_the_others(compared):
    _, found, lines = compared
    assert found[1].keys() == {"model", "tune", "error"} and "the blocks of this model" in found[1]["error"]
    assert len(lines) == 6 and "–" in lines[2] and found[1]["error"] in lines[2]
    assert re.fullmatch(r"gpt2-nano +head +[01]\.\d{3} +512 +\d+\.\d +\d{3,}", lines[3])


def test_the_table_and_the_picture_say_the_same(compared):
    out, found, _ = compared
    with (out / "compare.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["model"] for row in table] == [row["model"] for row in found]
    assert [row["score"] for row in table] == [str(row.get("score", "")) for row in found]
    drawn = {"bert-nano": [], "gpt2-nano": []}
    for row in sorted((row for row in found if "score" in row), key=lambda row: row["learning"]):
        drawn[row["model"]].append((math.log10(row["learning"]), row["score"]))
    words = "classify: accuracy by what learns", "parameters that learn, power of ten", "accuracy"
    svg = (out / "compare.svg").read_text("utf-8")
    assert svg == plots.curves(drawn, *words)
    ElementTree.fromstring(svg)


def test_what_has_been_run_is_not_run_again(compared, files, monkeypatch):
    out, found, _ = compared
    monkeypatch.setattr(compare.subprocess, "run", None)
    again = compare.compare("classify", "bert-nano,gpt2-nano", "head", out, **files, **SMALL)
    assert again == [found[0], found[2]]


def test_the_command_line_hands_its_flags_on(compared, files, capsys, monkeypatch):
    out, _, _ = compared
    monkeypatch.setattr(compare.subprocess, "run", None)
    cli.main(["compare", "classify", "--models", "gpt2-nano", "--tune", "last:3", "--out", str(out)])
    assert capsys.readouterr().out.splitlines()[1].startswith("gpt2-nano  last:3  ")


def test_where_nothing_goes_through_the_first_reason_is_the_error(tmp_path):
    missing = str(tmp_path / "none.tsv")
    with pytest.raises(Error, match=r"no run went through; the first: .*none\.tsv"):
        compare.compare("classify", "bert-nano", "head", tmp_path / "out", train=missing)
    assert not (tmp_path / "out" / "compare.csv").exists()


def test_a_setting_that_is_wrong_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(compare.subprocess, "run", None)
    with pytest.raises(Error, match="unknown setting 'epoch'"):
        compare.compare("classify", "bert-nano", "head", tmp_path / "out", epoch=3)
    (tmp_path / "file").write_text("")
    with pytest.raises(Error, match="is a file; name a folder"):
        compare.compare("classify", "bert-nano", "head", tmp_path / "file")
