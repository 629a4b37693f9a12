"""The embedded phrasebook is as its README says, no pair like another. Run me: pytest tests/test_phrasebook.py"""

import re
import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from minift import data, hub

HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared" / "data" / "translation"  # beside the checkout, where there is one
FOLDER = hub.DATA / "phrasebook"
README = (FOLDER / "README.md").read_text("utf-8")
PARTS = ("train", "validation", "test")
TABLES = {part: data.read(FOLDER / f"{part}.tsv") for part in PARTS}
ROWS = [(table.where(i), part, row) for part, table in TABLES.items() for i, row in enumerate(table.rows)]
TOPICS = set(re.findall(r"`(\w+)`\s\(", README))
NBSP = "\u00a0"
ACCENTED = "àâçèéêëîïôùûœ"

# Words that may stand on both sides of a pair: names, and what English and French share or write alike.
NAMES = "Alpha Anne Breton Brest Capella Claire Delta Falmouth France Jersey Judith Marjolaine Martin Paul Tango"
ALIKE = """a air aluminium animal anode antifouling art as assistance b bar batteries biscuit biscuits bulletin c
cargo catalogues catamaran change chewing cigarette civilisation club cockpit cocktail code condition cousins danger
date diesel distance double euros excellent ferry force fortune front gps guillemots gum hectopascals horizon humour
imminent instructions instruments invention ketch long mayday mayonnaise me minute minutes miracle moment nature
normal nylon on orange original page pages pan passage patience patient phosphorescence pigeons pipe pirates plan
poison port position possible pure queue radar radio route sandwich signal silence simple six skipper stop surface
surprise table textile thermos triangle v vhf volts winch zig"""
ENGLISH = "the and of with is are was were you we they have has this that it its to my your from into her his"
FRENCH = "le la les des une du au aux et est sont avec dans nous vous je tu il elle qui que ce cette"

each_part = pytest.mark.parametrize("part", PARTS)
each_side = pytest.mark.parametrize("side", ("src", "tgt"))


def words(text: str) -> list[str]:
    """Lower-cased; an elided one ("l'", "don'") is a word."""
    return re.findall(r"[^\W_]+'?", text.lower())


def runs(text: str, n: int) -> set[str]:
    found = words(text)
    return {" ".join(found[i : i + n]) for i in range(len(found) - n + 1)}


def edits(a: list[str], b: list[str]) -> int:
    """How many words to insert, drop or exchange to make b of a."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def alike(texts: list[list[str]]):
    """Pairs of texts of which half the words or more, or all but two of either, are common: (i, j, share), i < j."""
    sets = [set(text) for text in texts]
    index = {word: i for i, word in enumerate(sorted(set().union(*sets)))}
    has = np.zeros((len(sets), len(index)), np.float32)
    for i, text in enumerate(sets):
        has[i, [index[word] for word in text]] = 1
    size, common = has.sum(1), has @ has.T
    share = common / (size[:, None] + size - common)
    near = (share >= 0.5) | (common >= np.maximum(size[:, None], size) - 2)
    for i, j in np.argwhere(np.triu(near, 1)):
        yield i, j, share[i, j]


def test_there_are_pairs_enough_and_every_part_has_the_three_columns():
    assert len(TABLES["train"].rows) >= 2500
    assert len(TABLES["validation"].rows) >= 150 and len(TABLES["test"].rows) >= 200
    assert all(table.columns == ["src", "tgt", "topic"] for table in TABLES.values())


@each_part
def test_every_topic_is_in_every_part(part):
    counts, total = (Counter(row["topic"] for _, p, row in ROWS if p in parts) for parts in ([part], PARTS))
    assert counts.keys() == total.keys() == TOPICS and len(TOPICS) == 22
    usual = counts.total() / total.total()
    assert all(0.5 * usual < counts[topic] / total[topic] < 1.5 * usual for topic in TOPICS), counts
    assert all(130 <= n <= 145 for n in total.values()), total


def test_the_files_are_the_split_of_seed_0():
    made = runpy.run_path(str(HERE / "bench" / "phrasebook.py"))["made"]
    assert made(0) == {part: table.rows for part, table in TABLES.items()} != made(1)


@each_part
def test_the_files_are_plain_text_with_nothing_odd_in_it(part):
    raw = (FOLDER / f"{part}.tsv").read_bytes()
    assert raw.endswith(b"\n") and b"\r" not in raw and not raw.startswith(b"\xef\xbb\xbf")
    for n, line in enumerate(raw.decode("utf-8").split("\n")[:-1], 1):
        assert line.count("\t") == 2, (n, line)
        for cell in line.split("\t"):
            assert cell and cell == " ".join(cell.split(" ")).strip() and "  " not in cell, (n, cell)


def test_the_characters_of_either_side_are_those_the_readme_names():
    besides = set(ACCENTED + ACCENTED.upper() + NBSP + "«»")
    for where, _, row in ROWS:
        assert row["src"].isascii() and row["src"].isprintable(), (where, row["src"])
        odd = [c for c in row["tgt"] if c not in besides and not (c.isascii() and c.isprintable())]
        assert odd == [] and '"' not in row["tgt"], (where, row["tgt"], odd)
        assert not re.search(r"[#$%&()*+/<=>@\[\\\]^_`{|}~]", row["src"] + row["tgt"]), (where, row)


def test_french_typography_is_kept():
    """A no-break space before the tall marks and inside the quotes, and none elsewhere."""
    for where, _, row in ROWS:
        text = row["tgt"]
        assert not re.search(f"(?<!{NBSP})[?!;:»]|«(?!{NBSP})", text), (where, text)
        assert not re.search(f"(?<!«){NBSP}(?![?!;:»])", text), (where, text)
        assert not re.search(r"\s[,.']|'\s|[,;:](?=[^\W\d])", text), (where, text)
        assert text.count("«") == text.count("»") == row["src"].count('"') / 2, (where, row)


def test_english_marks_stand_close_to_the_word_before():
    for where, _, row in ROWS:
        assert not re.search(r"\s[?!;:,.]|[,;](?=\w)|[?!.](?=[A-Za-z])", row["src"]), (where, row["src"])


def test_both_sides_begin_and_end_as_sentences_and_alike():
    for where, _, row in ROWS:
        ends = [re.sub(r'["»\s]+$', "", row[side])[-1] for side in ("src", "tgt")]
        assert ends[0] == ends[1] and ends[0] in ".?!", (where, row)
        assert row["src"].count("?") == row["tgt"].count("?"), (where, row)
        for text in row["src"], row["tgt"]:
            first = re.search(r"\w", text).group()
            assert first == first.upper(), (where, text)


def test_a_side_has_3_to_25_words_and_the_two_are_of_like_length():
    ratios = []
    for where, _, row in ROWS:
        lengths = [len(row[side].split(" ")) for side in ("src", "tgt")]
        assert 3 <= lengths[0] <= 25 and len(words(row["tgt"])) >= 3 and lengths[1] <= 25, (where, row)
        ratios.append(len(row["tgt"]) / len(row["src"]))
        assert 0.6 <= ratios[-1] <= 2.3, (where, row)
    assert 1.0 <= np.mean(ratios) <= 1.25 and np.quantile(ratios, 0.01) >= 0.75 and np.quantile(ratios, 0.99) <= 1.7


def test_sentences_are_short_long_and_in_between():
    counts = Counter(min(len(row["src"].split()) // 5, 3) for _, _, row in ROWS)
    assert all(counts[i] >= 0.025 * len(ROWS) for i in range(4)), counts
    marks = Counter(row["src"].rstrip('"')[-1] for _, _, row in ROWS)
    assert marks["?"] >= 100 and marks["!"] >= 40, marks


@each_side
def test_no_two_sides_are_nearly_the_same(side):
    """Any two differ in three words at least, or in two of three, and less than 60 % of their words are common."""
    texts = [words(row[side]) for _, _, row in ROWS]
    for i, j, share in alike(texts):
        enough = min(3, max(len(texts[i]), len(texts[j])) - 1)
        assert share < 0.6 and edits(texts[i], texts[j]) >= enough, (ROWS[i], ROWS[j])


def test_what_counts_as_nearly_the_same_is_found():
    texts = [words(text) for text in ("Ease the jib sheet a little.", "Haul in the chain.", "Ease the sheet a bit.")]
    assert [(i, j) for i, j, _ in alike(texts)] == [(0, 2)]
    assert [edits(texts[0], text) for text in texts] == [0, 6, 2]


@each_side
def test_no_template_runs_through_the_pairs(side):
    """Few begin alike, and no five words in a row come back often, but in the one term that long."""
    texts = [row[side] for _, _, row in ROWS]
    starts = Counter(" ".join(words(text)[:3]) for text in texts)
    assert starts.most_common(1)[0][1] <= len(ROWS) / 90, starts.most_common(5)
    counts = Counter(run for text in texts for run in runs(text, 5))
    del counts["avis de coup de vent"]
    assert counts.most_common(1)[0][1] <= 7, counts.most_common(5)


@pytest.mark.parametrize("side, n", [("src", 6), ("tgt", 7)])  # French has terms of four words and five
def test_a_held_out_pair_shares_no_six_or_seven_words_in_a_row_with_one_to_learn_from(side, n):
    seen = {run: where for where, part, row in ROWS if part == "train" for run in runs(row[side], n)}
    assert len(seen) > 5000
    for where, part, row in ROWS:
        if part != "train":
            common = {run: seen[run] for run in runs(row[side], n) if run in seen}
            assert common == {}, (where, common)


def test_each_side_is_in_its_language():
    for where, _, row in ROWS:
        for side, other in ("src", FRENCH), ("tgt", ENGLISH):
            assert not set(words(row[side])) & set(other.split()), (where, row)
    french = [word for _, _, row in ROWS for word in words(row["tgt"])]
    accented = [word for word in french if set(word) & set(ACCENTED)]
    assert 0.09 <= len(accented) / len(french) <= 0.16
    assert np.mean([bool(set(row["tgt"].lower()) & set(ACCENTED)) for _, _, row in ROWS]) > 0.7


def test_words_on_both_sides_are_names_or_the_same_in_both_languages():
    allowed = set(words(f"{NAMES} {ALIKE}"))
    found = {word for _, _, row in ROWS for word in {*words(row["src"])} & {*words(row["tgt"])} if word[0].isalpha()}
    assert found - allowed == set() == allowed - found - {"b", "c", "v"}


@pytest.mark.parametrize("part", ("validation", "test"))
@each_side
def test_most_words_of_a_held_out_part_can_be_learned(part, side):
    known = {word for row in TABLES["train"].rows for word in words(row[side])}
    met = [word in known for row in TABLES[part].rows for word in words(row[side])]
    assert np.mean(met) >= 0.85


def glossary() -> list[tuple[str, str]]:
    lines = README.partition("## Glossary")[2].splitlines()
    cells = [cell.strip() for line in lines if line.startswith("| ") for cell in line.strip("|").split("|")]
    return [(a, b) for a, b in zip(cells[::2], cells[1::2], strict=True) if b not in ("French", "---")]


def has(term: str, text: str) -> bool:
    """Also in the plural; of "a, b" either."""
    term = "|".join(re.sub(r"^\w+", r"\g<0>(?:s|x|es)?", t) + "(?:s|es)?" for t in term.split(", "))
    return re.search(rf"\b(?:{term})\b", text, re.IGNORECASE) is not None


def test_the_readme_has_a_glossary_and_its_terms_can_be_learned():
    assert len(glossary()) >= 90
    for english, french in glossary():
        french = re.fullmatch(r"(.*) \((?:m|f|fp)\)", french).group(1)
        parts = Counter(part for _, part, row in ROWS if has(english, row["src"]) and has(french, row["tgt"]))
        assert parts.total() >= 4 and parts["train"] >= 3, (english, french, parts)


def test_the_readme_says_the_licence_and_the_counts():
    assert "CC0" in README and "language model" in README
    first = next(line for line in README.splitlines() if line and line[0] != "#")  # what `minift ls` shows
    for number in (len(ROWS), *(len(table.rows) for table in TABLES.values())):
        assert re.search(rf"(?<![\d,]){number:,}(?![\d,])", first), number
    for part, table in TABLES.items():
        sizes = [sum(len(row[side].split()) for row in table.rows) for side in ("src", "tgt")]
        assert f"| `{part}.tsv` | {len(table.rows):,} | {sizes[0]:,} | {sizes[1]:,} |" in README


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data/translation is not beside the checkout")
@each_side
def test_no_side_is_in_the_sentence_pairs_that_others_collected(side):
    """Tatoeba's above all, which an embedded model learned from."""
    ours = {" ".join(words(row[side])): where for where, _, row in ROWS}
    files = sorted(SHARED.glob("*_en-fr*/*.tsv"))
    assert len(files) >= 5
    theirs = (row[side] for file in files for row in data.read(file).rows)
    assert [(ours[text], text) for text in (" ".join(words(t)) for t in theirs) if text in ours] == []
