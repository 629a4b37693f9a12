"""The command line as a user meets it: help, output, and a mistake's message and exit code.
Run me: pytest tests/test_cli.py"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch

import minift
from minift import hub, runs
from minift.cli import main

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
COMMANDS = ("finetune", "compare", "pretrain", "predict", "evaluate", "generate", "download", "check", "ls", "verify")
ROWS = tiny.rows(12)
TABLE = "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in ROWS)


def python(*arguments, **more):
    """A Python of its own, as a user starts it, whatever the current folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more.pop("env", {})
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, **more
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with tiny models, among them a run's."""
    folder = tmp_path_factory.mktemp("models")
    tiny.bert_folder(folder / "bert"), tiny.gpt2_folder(folder / "gpt2")
    minift.finetune("classify", model=folder / "bert", train=ROWS, out=folder / "run", max_steps=2, device="cpu")
    return folder


@pytest.fixture
def here(models, tmp_path, monkeypatch):
    """An empty current folder with links to the tiny models, so that messages begin with bare names."""
    for name in "bert", "gpt2", "run":
        (tmp_path / name).symlink_to(models / name)
    (tmp_path / "rows.tsv").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def called(here, capsys):
    """Run a command; (exit code, stdout, stderr)."""

    def call(*argv):
        code = 0
        try:
            main([str(word) for word in argv])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


# -- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_instant_and_ends_with_an_example(command, tmp_path):
    """A second of processor time, not of a busy machine's clock; the tenth of it is usual."""
    code = f"""
import sys
from minift.cli import main
try:
    main({[command, "--help"] if command else ["--help"]})
finally:
    heavy = [name for name in ("torch", "numpy", "tiktoken", "tqdm") if name in sys.modules]
    print(heavy, file=sys.stderr)
"""
    before = os.times()
    process = python("-c", code, cwd=tmp_path)
    out, err = (stream.decode() for stream in process.communicate())
    after = os.times()
    assert process.returncode == 0 and err.strip() == "[]"
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1
    last = out.strip().splitlines()[-1]
    assert last.startswith(f"example: minift {command}") and out.startswith("usage: minift")


def test_help_lists_every_command_and_only_what_works(called):
    code, out, _ = called("--help")
    assert code == 0
    listed = re.findall(r"(?m)^    (\w+) ", out)
    assert listed == [*COMMANDS]


def test_every_setting_is_a_flag_with_its_default_in_the_help(called):
    _, out, _ = called("finetune", "--help")
    text = " ".join(out.split())
    for part in (
        "--batch-tokens N",
        "(none: 32; answer: 16; lm and mlm: 4; denoise: 8)",
        "(none: 3; translate: 4; mlm, denoise and kim-cnn: 10)",
        "--seed S of everything drawn at random (def",
    ):
        assert part in text, part
    assert len(set(re.findall(r"(?m)^  (--[a-z-]+)", out))) >= 25


# -- output -----------------------------------------------------------------------------------------------------------


def test_evaluate_prints_json(called):
    code, out, err = called("evaluate", "run", "--data", "rows.tsv")
    assert code == 0 and err == ""
    assert json.loads(out) == minift.evaluate("run", ROWS) and json.loads(out).keys() == {"accuracy", "macro_f1", "mcc"}


def test_predict_prints_an_object_for_a_text(called):
    code, out, err = called("predict", "run", "A “fine” meal: größer, 🙂")
    (found,) = minift.predict("run", ["A “fine” meal: größer, 🙂"])
    assert (code, err) == (0, "") and json.loads(out) == {"text": "A “fine” meal: größer, 🙂"} | found
    assert called("predict", "run", "")[0] == 0  # an empty text is a text


def test_predict_keeps_the_columns_and_the_order_of_its_input(called, here):
    rows = [{"id": i, "text": f"row {'very ' * (i % 7)}{i}", "note": None if i % 2 else "ü"} for i in range(9)]
    (here / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = called("predict", "run", "--input", "in.jsonl", "--output", "deep/out.jsonl")
    assert code == 0 and out == "9 predictions in deep/out.jsonl\n"
    found = [json.loads(line) for line in (here / "deep" / "out.jsonl").read_text("utf-8").splitlines()]
    assert [list(row) for row in found] == [["id", "text", "note", "prediction", "scores"]] * 9
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    assert [row["prediction"] for row in found] == [row["prediction"] for row in minift.predict("run", rows)]
    code, out, _ = called("predict", "run", "--input", "rows.tsv")
    assert [json.loads(line)["label"] for line in out.splitlines()] == [row["label"] for row in ROWS]


def test_ls_names_all_that_comes_along(called):
    code, out, _ = called("ls")
    names = [line.split()[:2] for line in out.splitlines()]
    assert code == 0 and ["data", "reviews"] in names
    assert [name for kind, name in names if kind == "model"] == hub.embedded() != []


def test_check_and_generate_answer(called):
    code, out, _ = called("check", "bert")
    assert code == 0 and "BertModel" in out and "mapped" in out
    code, out, _ = called("generate", "gpt2", "--prompt", "The film", "--max-new-tokens", 3)
    assert code == 0 and out.startswith("The film")


def test_output_into_a_file_has_no_carriage_return_and_no_colours_and_any_console_will_do(here):
    arguments = ("--model", "bert", "--train", "rows.tsv", "--test", "rows.tsv", "--max-steps", "3", "--device", "cpu")
    process = python("-m", "minift", "finetune", "classify", *arguments, env={"PYTHONIOENCODING": "ascii"})
    out, err = process.communicate()
    assert process.returncode == 0, err.decode()
    for stream in out, err:
        assert stream and stream.isascii() and b"\r" not in stream and b"\x1b" not in stream and b"\b" not in stream
    assert b'minift predict runs/classify-1 "\\u2026"' in out and b"step 3/3" in err


def test_a_reader_that_stops_early_is_no_error(here):
    row = json.dumps({"text": "good", "note": "much " * 10000}) + "\n"
    (here / "many.jsonl").write_text(row * 100)  # 5 MB, more than any pipe holds
    process = python("-m", "minift", "predict", "run", "--input", "many.jsonl")
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 1
    process = python("-m", "minift", "ls")  # so little that nothing is written before the end
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 1


# -- mistakes ---------------------------------------------------------------------------------------------------------

FINETUNE = "finetune classify --model bert --max-steps 1 --device cpu --out out --train "
COLUMNS = "text\tlabel\n"
MISTAKES = {  # what: (its files, the command, parts of the message); all end with exit code 2
    "label column misspelt": (
        {"a.tsv": TABLE.replace("label", "lable", 1)},
        FINETUNE + "a.tsv",
        ["a.tsv has the columns text, lable", "'label' is needed", "did you mean 'lable'?"],
    ),
    "texts in a column of another name": (
        {"a.tsv": TABLE.replace("text", "review", 1)},
        FINETUNE + "a.tsv",
        ["a.tsv has the columns review, label", "'text'"],
    ),
    "text and label swapped": (
        {"a.tsv": TABLE.replace("text\tlabel", "label\ttext")},
        FINETUNE + "a.tsv",
        ["a.tsv: 12 different labels in 12 rows", "'The film was bad, 0.'", "is 'label' the right column?"],
    ),
    "unknown label in validation": (
        {"a.tsv": TABLE, "v.tsv": COLUMNS + "fine\tgood\n\nbad\tbda\n"},
        FINETUNE + "a.tsv --valid v.tsv",
        ["v.tsv, line 4: label 'bda'", "(bad, good)", "did you mean 'bad'?"],
    ),
    "unknown label in evaluation": (
        {"a.tsv": COLUMNS + "fine\tpositive\n"},
        "evaluate run --data a.tsv",
        ["a.tsv, line 2: label 'positive'", "(bad, good)"],
    ),
    "unknown flag": ({}, FINETUNE + "rows.tsv --epoch 3", ["--epoch 3", "did you mean '--epochs'?"]),
    "unknown flag with its value": ({}, FINETUNE + "rows.tsv --bath-size=3", ["did you mean '--batch-size'?"]),
    "a flag's value of the wrong type": ({}, FINETUNE + "rows.tsv --lr fast", ["--lr", "'fast'"]),
    "a flag's value that is no choice": (
        {},
        FINETUNE + "rows.tsv --schedule liner",
        ["--schedule", "'liner'", "cosine", "did you mean 'linear'?"],
    ),
    "unknown command": ({}, "finetun classify", ["'finetun'", "evaluate", "did you mean 'finetune'?"]),
    "no command": ({}, "", ["COMMAND"]),
    "no task": ({}, "finetune", ["TASK"]),
    "unknown task": ({}, "finetune clasify", ["'clasify'", "did you mean 'classify'?"]),
    "model not found": (
        {},
        "finetune classify --model bert-nanno --out out --train rows.tsv",
        ["bert-nanno: neither", "nor a folder", "did you mean 'bert-nano'?"],
    ),
    "a random model not found": (
        {},
        "finetune classify --model random:bert-nanno --out out --train rows.tsv",
        ["bert-nanno", "did you mean 'bert-nano'?"],
    ),
    "the home of nobody": ({}, "check ~nosuchuser/bert", ["~nosuchuser/bert: neither", "nor a folder"]),
    "a file as model": ({}, "predict rows.tsv text", ["rows.tsv: a model is a folder", "config.json"]),
    "a folder that is no model": ({"no/a.txt": "x"}, "check no", ["no: no config.json", "a.txt"]),
    "a model without the head": (
        {},
        "predict bert text",
        ["bert: has no head of classify", "minift finetune classify"],
    ),
    "bad --tune": ({}, FINETUNE + "rows.tsv --tune last:7", ["--tune last:7", "head, all, lora, or last:N", "1 to 2"]),
    "occupied --out": ({"out/a.txt": "x"}, FINETUNE + "rows.tsv", ["--out out: is not empty", "another folder"]),
    "missing file": ({}, FINETUNE + "raws.tsv", ["raws.tsv: no such file"]),
    "a folder as data": ({"data/a.csv": "x"}, FINETUNE + "data", ["data: is a folder", "such as a.csv"]),
    "unknown kind of file": ({"a.xlsx": "x"}, FINETUNE + "a.xlsx", ["a.xlsx: '.xlsx' is none of .tsv, .csv"]),
    "wrong delimiter": (
        {"a.csv": "text;label\ngood;x\n"},
        FINETUNE + "a.csv",
        ["a.csv, line 1", "'text;label' is separated by semicolons", "save the file with commas"],
    ),
    "ragged row": (
        {"a.tsv": TABLE + "one\ttwo\tthree\n"},
        FINETUNE + "a.tsv",
        ["a.tsv, line 14: 3 cell(s), but the header has 2 (text, label)"],
    ),
    "unclosed quote": (
        {"a.csv": 'text,label\na,x\n"open,y\nb,x\n'},
        FINETUNE + "a.csv",
        ["a.csv, line 3: the quote that opens here is not closed", '"open,y', "written twice"],
    ),
    "bad JSONL": (
        {"a.jsonl": '{"text": "a", "label": 1}\n{"text": "b", label: 0}\n'},
        FINETUNE + "a.jsonl",
        ["a.jsonl, line 2, column 15: not JSON", "an object a line"],
    ),
    "empty file": ({"a.tsv": ""}, FINETUNE + "a.tsv", ["a.tsv: the file is empty"]),
    "header alone": ({"a.tsv": COLUMNS}, FINETUNE + "a.tsv", ["a.tsv: no rows"]),
    "one class": (
        {"a.tsv": COLUMNS + "a\tx\nb\tx\n"},
        FINETUNE + "a.tsv",
        ["a.tsv: every row has the label 'x'", "two labels"],
    ),
    "blank label": (
        {"a.tsv": TABLE + "hm\t \n"},
        FINETUNE + "a.tsv",
        ["a.tsv, line 14: the label is blank", "fill it in"],
    ),
    "Latin-1": (
        {"a.tsv": (TABLE + "café\tgood\n").encode("latin-1")},
        FINETUNE + "a.tsv",
        ["a.tsv, line 14: byte 0xe9", "not UTF-8", "iconv -f LATIN1"],
    ),
    "UTF-16": ({"a.tsv": TABLE.encode("utf-16")}, FINETUNE + "a.tsv", ["a.tsv, line 1", "UTF-16", "iconv"]),
    "negative rate": ({}, FINETUNE + "rows.tsv --lr -1", ["--lr -1.0", "greater than 0"]),
    "no epochs": ({}, FINETUNE + "rows.tsv --epochs 0", ["--epochs 0", "greater than 0"]),
    "enormous seed": ({}, FINETUNE + f"rows.tsv --seed {10**400}", ["--seed 1000", "less than 2**63"]),
    "no config": ({}, FINETUNE + "rows.tsv --config no.toml", ["no.toml: no such file"]),
    "unknown key in --config": (
        {"c.toml": "epoch = 3\n"},
        FINETUNE + "rows.tsv --config c.toml",
        ["c.toml: unknown setting 'epoch'", "did you mean 'epochs'?"],
    ),
    "wrong type in --config": (
        {"c.toml": 'epochs = "three"\n'},
        FINETUNE + "rows.tsv --config c.toml",
        ["c.toml: setting epochs = 'three': must be a whole number"],
    ),
    "rows in --config": (
        {"c.toml": "train = [1, 2]\n"},
        "finetune classify --out out --config c.toml",
        ["c.toml: setting train = [1, 2]: must be a text"],
    ),
    "bad value in --config": (
        {"c.toml": "batch_size = -8\n"},
        FINETUNE + "rows.tsv --config c.toml",
        ["c.toml: --batch-size -8: must be"],
    ),
    "another task in --config": (
        {"c.toml": 'task = "translate"\n'},
        FINETUNE + "rows.tsv --config c.toml",
        ["c.toml: is for another task than classify"],
    ),
    "TOML syntax": (
        {"c.toml": "epochs = 3\nlr =\n"},
        FINETUNE + "rows.tsv --config c.toml",
        ["c.toml: not valid TOML", "line 2, column 5"],
    ),
    "regression with words": (
        {},
        FINETUNE + "rows.tsv --regression",
        ["rows.tsv, line 2: label 'bad' is no finite number", "--regression"],
    ),
    "regression with nan": (
        {"a.tsv": COLUMNS + "a\t1\nb\tnan\nc\t2\n"},
        FINETUNE + "a.tsv --regression",
        ["a.tsv, line 3: label 'nan' is no finite number"],
    ),
    "predict nothing": ({}, "predict run", ["TEXT", "--input"]),
    "predict a text and a file": ({}, "predict run text --input rows.tsv", ["either", "TEXT", "--input"]),
    "predict a file without texts": (
        {"a.tsv": "review\tid\ngood\t1\n"},
        "predict run --input a.tsv",
        ["a.tsv has the columns review, id", "'text'"],
    ),
    "evaluate without data": ({}, "evaluate run", ["--data"]),
    "evaluate another task": ({}, "evaluate run --data rows.tsv --task answer", ["--task answer", "classify"]),
    "a text that is null": (
        {"a.jsonl": '{"text": "a"}\n{"text": null}\n'},
        "predict run --input a.jsonl",
        ["a.jsonl, line 2: the text is None", "must be a string"],
    ),
    "half of a pair": (
        {"a.jsonl": '{"text_a": "a", "text_b": "b"}\n{"text_a": "c"}\n'},
        "predict run --input a.jsonl",
        ["a.jsonl, line 2: this row has no 'text_b'"],
    ),
    "generate with a classifier": ({}, "generate run", ["language model"]),
    "no such device": (
        {},
        FINETUNE + "rows.tsv --device DEVICE",
        ["--device DEVICE: torch sees no such", "--device cpu"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_explained_in_a_line_and_ends_with_code_2(called, here, mistake):
    files, command, parts = MISTAKES[mistake]
    absent = next(d for d in ("cuda", "mps") if not getattr(torch, d).is_available())
    for name, content in files.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    code, out, err = called(*command.replace("DEVICE", absent).split())
    assert code == 2 and out == "", (code, out, err)
    assert err.startswith("minift: ") and err.endswith("\n") and "Traceback" not in err
    assert [part for part in parts if part.replace("DEVICE", absent) not in err] == [], err
    assert len(err) < 700 and "None" not in err.replace("text is None", "")
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before  # nothing is made or changed


def test_what_fails_while_running_ends_with_code_1(called, here):
    code, _, err = called(*(FINETUNE + "rows.tsv --lr 1e38 --max-steps 9 --warmup 0").split())
    assert code == 1 and "stopped before the update" in err and "rows.tsv, line" in err and "--lr" in err
    assert not (here / "out" / "model.safetensors").exists()
    code, _, err = called("predict", "run", "text", "--output", "rows.tsv/x.jsonl")
    assert code == 1 and "minift: rows.tsv/x.jsonl: cannot be written" in err and "another folder" in err


def test_debug_shows_the_traceback_and_the_code_stays(called):
    plain = called("finetune", "clasify")
    code, _, err = called("finetune", "clasify", "--debug")
    assert code == plain[0] == 2 and "Traceback" not in plain[2]
    assert err.startswith("Traceback (most recent call last)") and "runs.py" in err and err.endswith(plain[2])


def test_a_fault_of_the_program_is_not_dressed_up(called, monkeypatch):
    def fault(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(runs, "finetune", fault)
    with pytest.raises(ZeroDivisionError):
        called("finetune", "classify")


def test_an_interruption_ends_with_code_130(called, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "finetune", interrupted)
    assert called("finetune", "classify") == (130, "", "minift: interrupted; no model was saved\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_control_c_in_the_middle_of_training_leaves_no_model(here):
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    process = python("-m", "minift", *(FINETUNE + "rows.tsv --max-steps 30000 --log-every 1").split(), preexec_fn=heard)
    log, end = here / "out" / "metrics.jsonl", time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.decode().endswith("minift: interrupted; no model was saved\n")
    assert b"Traceback" not in err and not (here / "out" / "model.safetensors").exists()
