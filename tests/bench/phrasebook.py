"""How data/phrasebook is split: `made(seed)` gives the rows of each file; those that ship are the split of seed 0."""

import random

from minift import data, hub

FILES = ("train", "validation", "test")
VALIDATION, TEST = 0.06, 0.08  # of the rows of each topic


def made(seed: int) -> dict[str, list[dict]]:
    """The rows of each file, every topic in all of them."""
    rows = [row for name in FILES for row in data.read(hub.DATA / "phrasebook" / f"{name}.tsv").rows]
    topics = {}
    for row in sorted(rows, key=lambda row: (row["topic"], row["src"])):
        topics.setdefault(row["topic"], []).append(row)
    parts, chance = {name: [] for name in FILES}, random.Random(seed)
    for topic in topics.values():
        chance.shuffle(topic)
        for i, row in enumerate(topic):
            place = (i + chance.random()) / len(topic)
            parts["test" if place < TEST else "validation" if place < TEST + VALIDATION else "train"].append(row)
    for part in parts.values():
        chance.shuffle(part)
    return parts
