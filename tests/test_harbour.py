"""The embedded harbour is as its README says, fit to adapt a model to. Run me: pytest tests/test_harbour.py"""

import re
from collections import Counter

import pytest

from minift import data, hub

FOLDER = hub.DATA / "harbour"
END = "<|endoftext|>"
PARTS = ("train", "validation")
TEXTS = {part: (FOLDER / f"{part}.txt").read_bytes().decode("utf-8") for part in PARTS}
DOCUMENTS = {part: text.removesuffix("\n").split(f"\n{END}\n") for part, text in TEXTS.items()}
ALL = [(f"{part} {i}", document) for part in PARTS for i, document in enumerate(DOCUMENTS[part], 1)]
KINDS = (  # in the order in which they take turns
    "Log of the",
    "Harbour-master's notes:",
    "Letter from",
    "Pilot's book:",
    "Day-book of the",
    "Told in the net loft:",
    "Minutes of the pilots' meeting:",
    "Words of Ossel:",
)
PLACES = "Ossel, Elbow, Gut, Widow, Combs, Barley Bank, Hessa, Kettle Head, Lowry, Salt Quay, Gull Quay, Tarrow"
BOATS = "Marigold, Two Brothers, Good Intent, Badger, Linnet"
PEOPLE = "Edda Marsh, Silas Crane, Kit Sorrel, Hanna Brock, Tam Leddy, Joss Arkle, Abel Thorne, Bridie Quill, Jory Venn"
WORDS = "Sower, Grey Aunt, wool, drummel, tansy, skep, pinder, bell buoy, fat tide"

each_part = pytest.mark.parametrize("part", PARTS)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower())


def kind(document: str) -> str:
    return next(kind for kind in KINDS if document.startswith(kind + " "))


def test_there_is_enough_to_learn_from_and_a_tenth_is_held_out():
    sizes = {part: len(text.encode("utf-8")) for part, text in TEXTS.items()}
    assert 100_000 <= sum(sizes.values()) <= 115_000 and sizes["validation"] >= 10_000
    assert 60 <= len(ALL) <= 90 and len(DOCUMENTS["validation"]) >= 8
    assert 0.09 <= sizes["validation"] / sum(sizes.values()) <= 0.13


@each_part
def test_the_files_are_plain_text_with_nothing_odd_in_it(part):
    text = TEXTS[part]
    assert text.endswith("\n") and not text.endswith("\n\n")
    assert sorted({c for c in text if c != "\n" and not (c.isascii() and c.isprintable())}) == []
    for n, line in enumerate(text.split("\n")[:-1], 1):
        assert line == " ".join(line.split()), (n, "white space around or doubled", line)


@each_part
def test_the_end_marker_stands_between_documents_and_nowhere_else(part):
    lines = TEXTS[part].split("\n")[:-1]
    assert END not in (lines[0], lines[-1])
    assert TEXTS[part].count(END) == lines.count(END) == len(DOCUMENTS[part]) - 1


@each_part
def test_minift_reads_each_file_as_that_many_documents(part):
    rows = data.read(FOLDER / f"{part}.txt").rows
    assert [row["text"].strip() for row in rows] == DOCUMENTS[part]


def test_a_document_is_a_title_and_paragraphs_of_one_line_each():
    for where, document in ALL:
        assert 800 <= len(document) <= 2500, (where, len(document))
        title, *paragraphs = document.split("\n\n")
        assert len(paragraphs) >= 2 and "\n" not in document.replace("\n\n", ""), where
        assert title[-1].isalpha() and len(title) <= 100, (where, title)
        for paragraph in paragraphs:
            assert paragraph[-1] in '.!?"' or len(words(paragraph)) <= 15, (where, paragraph)  # or a name


def test_no_title_and_no_paragraph_comes_twice():
    counts = Counter(paragraph for _, document in ALL for paragraph in document.split("\n\n"))
    assert [p for p, n in counts.items() if n > 1 and len(words(p)) > 3] == []  # but "Edda Marsh" below her notes


def test_the_kinds_take_turns_and_every_ninth_document_is_held_out():
    train, held = iter(DOCUMENTS["train"]), iter(DOCUMENTS["validation"])
    order = [kind(next(train if n % 9 else held)) for n in range(1, len(ALL) + 1)]
    assert order == list(KINDS) * 9
    assert sorted(map(kind, DOCUMENTS["validation"])) == sorted(KINDS)


def test_no_two_documents_share_twelve_words_in_a_row():
    """Neither two to learn from nor, above all, a held-out one and one to learn from."""
    seen = {}
    for where, document in ALL:
        text = words(document)
        for run in {tuple(text[i : i + 12]) for i in range(len(text) - 11)}:
            assert run not in seen, f"{where} and {seen[run]} share: {' '.join(run)}"
            seen[run] = where


def test_no_template_runs_through_the_sentences():
    """Few begin alike, and no six words in a row come back often, but in titles and lists of those present."""
    bodies = [document.split("\n\n", 1)[1] for _, document in ALL]
    sentences = [words(s) for body in bodies for s in re.split(r"(?<=[.!?])\s+", body)]
    starts = Counter(tuple(s[:4]) for s in sentences if len(s) > 7)
    assert starts.most_common(1)[0][1] <= 8, starts.most_common(5)
    runs = Counter()
    for body in bodies:
        text = words(body)
        runs.update({" ".join(text[i : i + 6]) for i in range(len(text) - 5)})
    assert runs.most_common(1)[0][1] <= 5, runs.most_common(5)


@pytest.mark.parametrize("name", ", ".join((PLACES, BOATS, PEOPLE, WORDS)).split(", "))
def test_a_name_recurs_and_is_met_in_the_held_out_part_too(name):
    has = [where for where, document in ALL if re.search(rf"\b{name}", document)]
    assert len(has) >= 8 and any(where.startswith("validation") for where in has), has


def test_the_readme_says_the_licence_and_the_counts():
    text = (FOLDER / "README.md").read_text("utf-8")
    assert "CC0" in text and "language model" in text
    first = next(line for line in text.splitlines() if line and line[0] != "#")  # what `minift ls` shows
    for number in (len(ALL), *map(len, DOCUMENTS.values())):
        assert f"{number}" in words(first), number
    for part in PARTS:
        count = sum(len(document.split()) for document in DOCUMENTS[part])
        row = f"| `{part}.txt` | {len(DOCUMENTS[part])} | {count:,} | {len(TEXTS[part].encode('utf-8')):,} |"
        assert row in text, row
    assert [name for name in KINDS if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize("name", ", ".join((PLACES, BOATS, PEOPLE, WORDS)).split(", "))
def test_the_readme_explains_the_name(name):
    assert name.lower() in " ".join((FOLDER / "README.md").read_text("utf-8").lower().split())
