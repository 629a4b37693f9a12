"""How data/reviews is split, and what that luck is worth: the figures in its README.

    python tests/bench/reviews.py              bag of words and bert-nano on the splits that seeds 0 to 4 make
    python tests/bench/reviews.py --baselines  and bert-nano's architecture from random weights

About half a minute a split on two cores, a minute with --baselines. The files that ship are the split of seed 0.
"""

import random
import sys
import tempfile

import minift
from minift import data, hub

FILES = ("train", "validation", "test", "hard")
KEPT, VALIDATION, TEST = 0.6, 0.125, 0.3  # of the hard rows; of the rows of each kind


def groups(rows: list[dict]) -> list[list[dict]]:
    """The rows of each label, domain and style."""
    found = {}
    for row in rows:
        found.setdefault((row["label"], row["domain"], row["style"]), []).append(row)
    return [found[kind] for kind in sorted(found)]


def made(seed: int) -> dict[str, list[dict]]:
    """The rows of each file; those of hard.tsv are the same for every seed."""
    rows = [row for name in FILES for row in data.read(hub.DATA / "reviews" / f"{name}.tsv").rows]
    parts, kept, chance = {name: [] for name in FILES}, [], random.Random(0)
    for kind in groups(sorted(rows, key=lambda row: list(row.values()))):
        chance.shuffle(kind)
        count = len(kind) if kind[0]["style"] == "plain" else round(KEPT * len(kind))
        kept += kind[:count]
        parts["hard"] += kind[count:]
    chance = random.Random(seed)
    for kind in groups(kept):
        chance.shuffle(kind)
        for i, row in enumerate(kind):
            place = (i + chance.random()) / len(kind)
            parts["test" if place < TEST else "validation" if place < TEST + VALIDATION else "train"].append(row)
    for name in ("train", "validation", "test"):
        chance.shuffle(parts[name])
    random.Random(0).shuffle(parts["hard"])
    return parts


if __name__ == "__main__":
    print("seed  bag of words  random weights  bert-nano")
    for seed in range(5):
        parts = made(seed)
        given = {"train": parts["train"], "valid": parts["validation"], "test": parts["test"]}
        with tempfile.TemporaryDirectory() as folder:
            run = minift.finetune("classify", **given, out=f"{folder}/run", baselines="--baselines" in sys.argv)
        found = {name: metrics["accuracy"] for name, metrics in run.baselines.items()}
        values = found["bag_of_words"], found.get("random_weights", float("nan")), run.metrics["test"]["accuracy"]
        print(f"{seed:4}  {values[0]:12.3f}  {values[1]:14.3f}  {values[2]:9.3f}", flush=True)
