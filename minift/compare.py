"""Models and ways to tune them side by side: one run each, in a process of its own, and one table of them all.

minift compare classify --models bert-nano,gpt2-nano --tune head,all
"""

import csv
import io
import math
import re
import subprocess
import sys
from pathlib import Path

from . import files, plots, settings
from .errors import Error

HEAD = ("model", "tune", "score", "learning", "seconds", "peak MB")


def compare(task, models=settings.MODELS, tune=settings.TUNE, out=None, say=lambda line: None, **values) -> list[dict]:
    """Fine-tune each of the models in each of the ways (both lists with commas) and write OUT/compare.csv and .svg.

    `values` are fields of `settings.Finetune`, the same for all. Returns a dict for each run: model, tune, and metric
    (its name), score (on the test rows, else the validation rows), learning (parameters), seconds (of training),
    peak_memory_bytes (of the process); or error, where a model has no such way. A run that OUT has is not run again.
    """
    settings.make(settings.Finetune, values)  # a wrong one is told before anything is run
    folder = Path(out or files.unused("compare"))
    if folder.exists() and not folder.is_dir():
        raise Error(f"--out {folder}: is a file; name a folder")
    pairs = [(model, way) for model in models.split(",") for way in tune.split(",")]
    wide = [max(map(len, column)) + 2 for column in zip(HEAD[:2], *pairs, strict=True)]
    form = f"{{:{wide[0]}}}{{:{wide[1]}}}{{:>8}}{{:>14}}{{:>9}}{{:>9}}"
    say(form.format(*HEAD))
    found = []
    for model, way in pairs:
        found.append({"model": model, "tune": way} | run(task, model, way, folder, values))
        row = found[-1]
        if "error" in row:
            say(f"{form.format(model, way, *'––––')}  {row['error']}")
        else:
            memory = f"{(row['peak_memory_bytes'] or math.nan) / 1e6:.0f}"
            cells = f"{row['score']:.3f}", f"{row['learning']:,}", f"{row['seconds']:.1f}", memory
            say(form.format(model, way, *cells))
    if all("error" in row for row in found):
        raise Error(f"no run went through; the first: {found[0]['error']}", code=1)
    write(task, found, folder)
    say(f"saved      {folder / 'compare.csv'}, {folder / 'compare.svg'}, and a folder for each run")
    return found


def run(task: str, model: str, way: str, folder: Path, values: dict) -> dict:
    """The figures of one run, in a process of its own: the system counts a process's peak of memory only as a whole."""
    out = folder / re.sub(r"[^\w.-]+", "-", f"{model}-{way}")
    if not (out / "result.json").exists():
        given = {name.replace("_", "-"): v for name, v in values.items() if v is not None and v is not False}
        flags = [f"--{name}" + ("" if value is True else f"={value}") for name, value in given.items()]
        command = [sys.executable, "-m", "minift", "finetune", task, f"--model={model}", f"--tune={way}", *flags]
        done = subprocess.run([*command, f"--out={out}"], capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1].removeprefix("minift: ")[:200]}
        files.write_text(out / "report.txt", done.stdout)
    result = files.read_json(out / "result.json")
    metrics = result["metrics"].get("test") or result["metrics"]["valid"]
    metric = next(iter(metrics))
    names = ("learning", "seconds", "peak_memory_bytes")
    return {"metric": metric, "score": metrics[metric]} | {name: result["train"][name] for name in names}


def write(task: str, found: list[dict], folder: Path):
    """compare.csv, and compare.svg: a line for each model, its points the ways that a run went through with."""
    text = io.StringIO()
    columns = ("model", "tune", "metric", "score", "learning", "seconds", "peak_memory_bytes", "error")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(found)
    files.write_text(folder / "compare.csv", text.getvalue())
    whole = [row for row in found if "error" not in row]
    lines = {row["model"]: [] for row in whole}
    for row in sorted(whole, key=lambda row: row["learning"]):
        lines[row["model"]].append((math.log10(row["learning"]), row["score"]))
    metric = whole[0]["metric"]
    picture = plots.curves(lines, f"{task}: {metric} by what learns", "parameters that learn, power of ten", metric)
    files.write_text(folder / "compare.svg", picture)
