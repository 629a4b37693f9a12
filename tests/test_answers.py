"""The embedded questions are SQuAD 2.0 and as their README says. Run me: pytest tests/test_answers.py"""

import json
import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from minift import hub
from minift.baselines import scores

FOLDER = hub.DATA / "answers"
README = (FOLDER / "README.md").read_text("utf-8")
PARTS = ("train", "validation", "test")
TEXTS = {part: (FOLDER / f"{part}.json").read_bytes().decode("utf-8") for part in PARTS}
FILES = {part: json.loads(text) for part, text in TEXTS.items()}
PASSAGES = [  # (part, title, context, its questions)
    (part, article["title"], paragraph["context"], paragraph["qas"])
    for part, file in FILES.items()
    for article in file["data"]
    for paragraph in article["paragraphs"]
]
ROWS = [(part, context, qa) for part, _, context, qas in PASSAGES for qa in qas]
CAN = [(part, context, qa) for part, context, qa in ROWS if not qa["is_impossible"]]
SPANS = [(context, qa, span) for _, context, qa in ROWS for span in (*qa["answers"], *qa.get("plausible_answers", []))]
ASKING = ("what", "how", "which", "who", "where", "when", "why", "whom", "whose")
COMMON = """a an and are as at be been before by did do does for from had has have he her his in is it its of on or
she than that the their they this to was were with what how which who where when why whom whose"""

each_part = pytest.mark.parametrize("part", PARTS)


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())


def runs(text: str, n: int) -> set[str]:
    found = words(text)
    return {" ".join(found[i : i + n]) for i in range(len(found) - n + 1)}


def asking(question: str) -> str:
    """The first question word, which need not be the first word: "In which year …"."""
    return next(word for word in words(question) if word in ASKING)


def sentences(context: str) -> list[tuple[int, int]]:
    """Where each begins and ends; a full stop after a title ("Mr") has none."""
    ends = [match.end() for match in re.finditer(r'[.!?]"? (?=["A-Z0-9])', context)]
    return list(zip([0, *ends], [*ends, len(context)], strict=True))


def overlap() -> float:
    """How often the sentence with most of the question's words holds the (first) answer; of equals, by lot."""
    found = []
    for _, context, qa in CAN:
        asked, start = set(words(qa["question"])) - set(COMMON.split()), qa["answers"][0]["answer_start"]
        spans = sentences(context)
        common = [len(asked & set(words(context[a:b]))) for a, b in spans]
        best = [a <= start < b for (a, b), n in zip(spans, common, strict=True) if n == max(common)]
        found.append(sum(best) / len(best))
    return float(np.mean(found))


@each_part
def test_every_part_has_the_form_of_squad_2(part):
    """Fields and types, no more and no fewer."""
    assert list(FILES[part]) == ["version", "data"] and FILES[part]["version"] == "v2.0"
    for article in FILES[part]["data"]:
        assert list(article) == ["title", "paragraphs"] and len(article["paragraphs"]) == 1
        assert list(article["paragraphs"][0]) == ["context", "qas"]
    for _, _, qa in (row for row in ROWS if row[0] == part):
        assert isinstance(qa["question"], str) and isinstance(qa["id"], str)
        assert qa["is_impossible"] is (qa["answers"] == []), qa["id"]
        others = {"plausible_answers"} if qa["is_impossible"] else set()
        assert qa.keys() == {"question", "id", "answers", "is_impossible"} | others, qa["id"]
        for span in (*qa["answers"], *qa.get("plausible_answers", [])):
            assert list(span) == ["text", "answer_start"] and type(span["answer_start"]) is int, qa["id"]


@each_part
def test_the_files_are_readable_as_they_stand(part):
    """UTF-8 as it is, LF, a field a line and an answer a line, so that a diff says what changed."""
    text = TEXTS[part]
    assert text.endswith("}\n") and "\r" not in text and "\\u" not in text and text[0] == "{"
    whole = json.dumps(FILES[part], ensure_ascii=False, indent=1)
    span = r'\{\s*("text": .*)\s*\n\s*("answer_start": \d+)\s*\}'
    assert re.sub(span, r"{\1 \2}", whole) + "\n" == text


def test_there_are_as_many_as_promised():
    passages, questions = Counter(row[0] for row in PASSAGES), Counter(row[0] for row in ROWS)
    assert passages.total() >= 66 and questions.total() >= 330
    assert passages["train"] >= 44 and min(passages["validation"], passages["test"]) >= 11
    assert min(questions["validation"], questions["test"]) >= 100


@each_part
def test_about_a_quarter_cannot_be_answered(part):
    share = np.mean([qa["is_impossible"] for p, _, qa in ROWS if p == part])
    assert 0.22 <= share <= 0.30


def test_every_passage_has_questions_of_both_kinds():
    for _, title, _, qas in PASSAGES:
        cannot = sum(qa["is_impossible"] for qa in qas)
        assert 1 <= cannot <= 5 and len(qas) - cannot >= 4, (title, cannot, len(qas))


def test_ids_count_the_passages_and_their_questions_and_tell_the_part():
    """Of every six passages the third is to choose by and the sixth to test on."""
    number = {title: int(qas[0]["id"].split("-")[1]) for _, title, _, qas in PASSAGES}
    assert sorted(number.values()) == list(range(1, len(PASSAGES) + 1))
    for part, title, _, qas in PASSAGES:
        assert part == {3: "validation", 0: "test"}.get(number[title] % 6, "train"), title
        assert [qa["id"] for qa in qas] == [f"selmouth-{number[title]:02}-{k}" for k in range(1, len(qas) + 1)]
    assert len({qa["id"] for _, _, qa in ROWS}) == len(ROWS)


def test_an_answer_stands_where_it_says_to_the_character():
    for context, qa, span in SPANS:
        text, start = span["text"], span["answer_start"]
        assert context[start : start + len(text)] == text, qa["id"]
    bytes_differ = [qa["id"] for c, qa, s in SPANS if len(c[: s["answer_start"]].encode()) != s["answer_start"]]
    assert len(bytes_differ) >= 5  # so that who counts bytes is found out


def test_an_answer_is_whole_words_and_not_a_whole_sentence():
    for context, qa, span in SPANS:
        text, start = span["text"], span["answer_start"]
        end = start + len(text)
        assert not re.match(r"\w", context[end:]) and not re.search(r"\w$", context[:start]), qa["id"]
        assert text == text.strip(" .,;:!?") and 1 <= len(text.split()) <= 8, (qa["id"], text)
        sentence = next(context[a:b] for a, b in sentences(context) if a <= start < b)
        assert len(text) < 0.8 * len(sentence) and end <= context.index(sentence) + len(sentence), (qa["id"], text)


def test_an_answer_is_not_in_its_question():
    for _, qa, span in SPANS:
        assert span["text"].lower() not in qa["question"].lower(), qa["id"]


def test_only_a_held_out_question_has_several_answers():
    several = 0
    for part, _, qa in CAN:
        found = [(span["answer_start"], span["text"]) for span in qa["answers"]]
        assert len(set(found)) == len(found) <= (1 if part == "train" else 3), qa["id"]
        several += len(found) > 1
    assert several >= len([row for row in CAN if row[0] != "train"]) / 2
    assert all(len(qa["plausible_answers"]) == 1 for _, _, qa in ROWS if qa["is_impossible"])


def test_answers_stand_everywhere_in_a_passage():
    places = [qa["answers"][0]["answer_start"] / len(context) for _, context, qa in CAN]
    counts, _ = np.histogram(places, 10, (0, 1))
    assert counts.min() >= 0.05 * len(CAN) and counts.max() <= 0.15 * len(CAN), counts


def test_answers_are_numbers_and_names_and_phrases():
    texts = [qa["answers"][0]["text"] for _, _, qa in CAN]
    sizes = [len(text.split()) for text in texts]
    names = [all(word[0].isupper() for word in text.split()) for text in texts]
    assert np.mean([bool(re.search(r"\d", text)) for text in texts]) >= 0.1
    assert np.mean(names) >= 0.1
    assert np.mean(np.array(sizes) == 1) <= 0.4 and np.mean(np.array(sizes) >= 4) >= 0.2


def test_every_question_is_one_short_question():
    for _, _, qa in ROWS:
        question = qa["question"]
        assert question.endswith("?") and question.count("?") == 1 and question[0].isupper(), qa["id"]
        assert 4 <= len(question.split()) <= 18 and question == " ".join(question.split()), qa["id"]
        assert asking(question), qa["id"]


def test_every_passage_is_80_to_160_words_of_plain_text():
    for _, title, context, _ in PASSAGES:
        assert 80 <= len(context.split()) <= 160 and context == " ".join(context.split()), title
        assert context[-1] in '."' and not re.search(r"\s[.,;:!?]|[,;](?=[^\W\d])", context), title
        assert all(" " <= c <= "~" or c in "£è" for c in context), title


def test_the_kinds_of_question_are_mixed_and_do_not_give_away_the_answer():
    """Each kind has some that can be answered and some that cannot."""
    both = [Counter(asking(qa["question"]) for *_, qa in ROWS if qa["is_impossible"] == kind) for kind in (0, 1)]
    for word in ASKING[:7]:
        can, cannot = (counts[word] for counts in both)
        assert can + cannot >= 0.03 * len(ROWS) and 0.1 <= cannot / (can + cannot) <= 0.45, (word, can, cannot)
    assert both[0].most_common(1)[0][1] <= 0.45 * len(CAN)


def test_the_words_of_a_question_tell_little_of_whether_it_can_be_answered():
    """Of a held-out question that cannot and one that can, a bag of words seldom knows which is which."""
    x = {part: [qa["question"] for p, _, qa in ROWS if p == part] for part in PARTS}
    y = {part: np.array([qa["is_impossible"] for p, _, qa in ROWS if p == part], int) for part in PARTS}
    held_out, truth = x["validation"] + x["test"], np.concatenate([y["validation"], y["test"]])
    found = scores(x["train"], y["train"], held_out, 2)[:, 1]
    right = np.mean(found[truth == 1][:, None] > found[truth == 0])
    assert 0.45 <= right <= 0.7 and f"in {100 * right:.0f} % of the pairs" in README


def test_the_sentence_most_like_the_question_often_is_not_the_one():
    assert np.mean([len(sentences(context)) for *_, context, _ in PASSAGES]) >= 6
    assert 0.4 <= overlap() <= 0.6 and f"in {100 * overlap():.0f} % of the questions" in README


def test_no_title_passage_or_question_comes_twice():
    for found in (
        [title for _, title, _, _ in PASSAGES],
        [context for _, _, context, _ in PASSAGES],
        [" ".join(words(qa["question"])) for _, _, qa in ROWS],
    ):
        assert len(set(found)) == len(found)


def test_no_question_is_nearly_another():
    """Of the words of any two, less than three quarters are common to both; in different parts less than 70 %."""
    sets = [(part, set(words(qa["question"]))) for part, _, qa in ROWS]
    for (p, a), (q, b) in combinations(sets, 2):
        assert len(a & b) / len(a | b) < (0.75 if p == q else 0.7), (a, b)


def test_no_two_passages_share_eight_words_in_a_row():
    seen = {}
    for part, title, context, qas in PASSAGES:
        here = set().union(*(runs(text, 8) for text in (context, *(qa["question"] for qa in qas))))
        common = {run: seen[run] for run in here if run in seen}
        assert common == {}, (part, title, common)
        seen |= dict.fromkeys(here, (part, title))


def test_no_template_runs_through_the_texts():
    """Few questions begin alike, and no five words in a row come back often."""
    starts = Counter(" ".join(words(qa["question"])[:3]) for _, _, qa in ROWS)
    assert starts.most_common(1)[0][1] <= len(ROWS) / 25, starts.most_common(5)
    openings = Counter(" ".join(words(context)[:2]) for _, _, context, _ in PASSAGES)
    assert openings.most_common(1)[0][1] <= 3, openings.most_common(5)
    counts = Counter(run for _, _, context, _ in PASSAGES for run in runs(context, 5))
    assert counts.most_common(1)[0][1] <= 3, counts.most_common(5)


def test_the_readme_says_the_licence_and_the_counts():
    assert "CC0" in README and "language model" in README
    first = next(line for line in README.splitlines() if line and line[0] != "#")  # what `minift ls` shows
    sizes = Counter(part for part, *_ in ROWS)
    for number in (len(PASSAGES), len(ROWS), sum(qa["is_impossible"] for *_, qa in ROWS), *sizes.values()):
        assert re.search(rf"(?<![\d,]){number:,}(?![\d,])", first), number
    for part in PARTS:
        contexts = [context for p, _, context, _ in PASSAGES if p == part]
        lengths = sum(len(context.split()) for context in contexts)
        cannot = sum(qa["is_impossible"] for p, _, qa in ROWS if p == part)
        row = f"| `{part}.json` | {len(contexts)} | {lengths:,} | {sizes[part]:,} | {cannot} |"
        assert row in README, row


def test_the_readme_says_what_is_asked():
    counts = Counter(asking(qa["question"]) for *_, qa in ROWS)
    for word in ASKING:
        assert f"{word} {counts[word]}" in README, (word, counts[word])
    for part in ("validation", "test"):
        share = np.mean([qa["is_impossible"] for p, _, qa in ROWS if p == part])
        assert f"{100 * share:.1f} % of `{part}.json`" in README
    lengths = sorted(len(context.split()) for *_, context, _ in PASSAGES)
    assert f"{lengths[0]} to {lengths[-1]} words" in README
