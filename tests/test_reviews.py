"""The embedded reviews are as their README says, and too hard for words alone. Run me: pytest tests/test_reviews.py"""

import re
import runpy
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from minift import data, hub
from minift.baselines import bag_of_words

FOLDER = hub.DATA / "reviews"
PARTS = ("train", "validation", "test")
TABLES = {part: data.read(FOLDER / f"{part}.tsv") for part in (*PARTS, "hard")}
ROWS = [(table.where(i), part, row) for part, table in TABLES.items() for i, row in enumerate(table.rows)]
DOMAINS = {"product", "place", "meal", "book", "service"}
HARD = {"negation", "irony", "mixed", "implied"}

each_part = pytest.mark.parametrize("part", PARTS)
each_file = pytest.mark.parametrize("part", TABLES)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower())


def test_there_are_rows_enough_and_every_part_has_the_four_columns():
    assert len(ROWS) >= 1500 and min(len(table.rows) for table in TABLES.values()) >= 200
    for table in TABLES.values():
        assert table.columns == ["text", "label", "domain", "style"]


@each_file
def test_the_labels_are_half_and_half(part):
    counts = Counter(row["label"] for row in TABLES[part].rows)
    assert counts.keys() == {"negative", "positive"}
    assert min(counts.values()) > 0.48 * counts.total()


@each_part
def test_each_label_has_every_domain_and_every_style(part):
    """Nothing but the text tells the label."""
    rows = TABLES[part].rows
    for column, expected in ("domain", DOMAINS), ("style", HARD | {"plain"}):
        assert {row[column] for row in rows} == expected
        counts = Counter((row[column], row["label"]) for row in rows)
        for value in expected:
            negative, positive = counts[value, "negative"], counts[value, "positive"]
            assert min(negative, positive) > 0.35 * (negative + positive), (column, value, negative, positive)


@each_part
def test_a_quarter_of_the_rows_or_more_is_hard(part):
    rows = TABLES[part].rows
    counts = Counter(row["style"] for row in rows)
    assert sum(counts[style] for style in HARD) >= len(rows) / 4
    assert all(counts[style] >= len(rows) / 50 for style in HARD), counts


@each_file
def test_the_files_are_plain_text_with_nothing_odd_in_it(part):
    raw = (FOLDER / f"{part}.tsv").read_bytes()
    assert raw.endswith(b"\n") and b"\r" not in raw and not raw.startswith(b"\xef\xbb\xbf")
    for n, line in enumerate(raw.decode("utf-8").split("\n")[:-1], 1):
        odd = [c for c in line.replace("\t", "") if not (c.isascii() and c.isprintable())]
        assert odd == [] and line.count("\t") == 3, (n, line, odd)
        for cell in line.split("\t"):
            assert cell and cell == " ".join(cell.split()), (n, "white space around or doubled", cell)


def test_the_files_are_the_split_of_seed_0():
    source = Path(__file__).parent / "bench" / "reviews.py"
    made = runpy.run_path(str(source))["made"]
    assert made(0) == {part: table.rows for part, table in TABLES.items()} != made(1)


def test_the_hard_file_has_hard_rows_of_every_style_and_nothing_else():
    counts = Counter(row["style"] for row in TABLES["hard"].rows)
    assert counts.keys() == HARD and min(counts.values()) >= 40


def test_every_text_is_a_short_review():
    for where, _, row in ROWS:
        assert 5 <= len(row["text"].split()) <= 45, (where, row["text"])
        assert row["text"][-1] in ".!?…\"')", (where, row["text"])


def test_no_two_reviews_share_eight_words_in_a_row():
    seen = {}
    for where, _, row in ROWS:
        text = words(row["text"])
        for run in {tuple(text[i : i + 8]) for i in range(len(text) - 7)}:
            assert run not in seen, f"{where} and {seen[run]} share: {' '.join(run)}"
            seen[run] = where


def test_no_review_is_nearly_the_same_as_another():
    """Of the words of any two, less than 60 % are common to both; in different parts or in one."""
    sets = [set(words(row["text"])) for _, _, row in ROWS]
    index = {word: i for i, word in enumerate(sorted(set().union(*sets)))}
    has = np.zeros((len(sets), len(index)), np.float32)
    for i, text in enumerate(sets):
        has[i, [index[word] for word in text]] = 1
    size = has.sum(1)
    for first in range(0, len(sets), 500):  # 500 rows against all: the square of all is large
        common = has[first : first + 500] @ has.T
        share = common / (size[first : first + 500, None] + size - common)
        for i, j in np.argwhere(share >= 0.6):
            assert first + i == j, (ROWS[first + i], ROWS[j])


def test_no_template_runs_through_the_reviews():
    """Few begin alike, and no five words in a row come back often."""
    starts = Counter(" ".join(words(row["text"])[:3]) for _, _, row in ROWS)
    assert starts.most_common(1)[0][1] <= len(ROWS) / 50, starts.most_common(5)
    runs = Counter()
    for _, _, row in ROWS:
        text = words(row["text"])
        runs.update({" ".join(text[i : i + 5]) for i in range(len(text) - 4)})
    assert runs.most_common(1)[0][1] <= 20, runs.most_common(5)


def test_a_bag_of_words_is_better_than_chance_and_far_from_good():
    train, test = TABLES["train"].rows, TABLES["test"].rows
    labels, truth = (np.array([row["label"] == "positive" for row in rows], int) for rows in (train, test))
    found = bag_of_words([row["text"] for row in train], labels, [row["text"] for row in test], 2)
    assert 0.65 <= (found == truth).mean() <= 0.80


def test_the_readme_says_the_licence_and_the_counts():
    text = (FOLDER / "README.md").read_text("utf-8")
    assert "CC0" in text
    for number in (len(ROWS), *(len(table.rows) for table in TABLES.values())):
        assert f"{number:,}" in text, number
    assert [name for name in DOMAINS | HARD if f"`{name}`" not in text] == []


def test_the_parts_have_no_row_in_common():
    texts = {part: {" ".join(words(row["text"])) for row in table.rows} for part, table in TABLES.items()}
    assert sum(map(len, texts.values())) == len(ROWS)
    assert all(not texts[a] & texts[b] for a, b in combinations(texts, 2))
