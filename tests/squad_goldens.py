"""What SQuAD's own scorers, and the published rule that turns logits into answers, say of made-up rows: to make
squad_goldens.json anew, which the tests compare with,

    pip download --no-deps transformers==4.57.6 && unzip transformers-4.57.6-py3-none-any.whl   (5 has no such file)
    python tests/squad_goldens.py transformers/data/metrics/squad_metrics.py compute_score.py

The second file is metrics/squad/compute_score.py of github.com/huggingface/evaluate, the script of version 1.1.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path
from random import Random
from types import SimpleNamespace

import tiny

import minift
from minift import data
from minift.tasks.answer import Answer, questions

GOLDENS = Path(__file__).with_name("squad_goldens.json")
WORDS = "the a an The cat cat's dog U.S.-led 1,000 é naïve “quoted” ... - 's AND new theatre a.n İ The, x\u00a0y"
SIZE, OVERLAP = 40, 10  # of the windows


def scored():
    """[(prediction, references)]"""
    chance = Random(0)
    text = lambda: " ".join(chance.choice(WORDS.split(" ")) for _ in range(chance.randint(0, 5)))
    rows = []
    for _ in range(400):
        references = [text() for _ in range(chance.choice((0, 1, 1, 2, 3)))]
        longer = [f"{text()} {reference}" for reference in references]
        rows.append((chance.choice([text(), "", *references, *longer]), references))
    return rows


def rows():
    """Questions on texts of one to three windows, a third without an answer."""
    chance = Random(1)
    found = []
    for i in range(60):
        words = [chance.choice(tiny.WORDS) for _ in range(chance.randint(3, 80))]
        at = chance.choice([i for i, word in enumerate(words) if word != "the"])  # of which normalising leaves nothing
        answer = {"text": words[at], "answer_start": len(" ".join(["", *words[:at]]))}
        row = {"id": f"q{i}", "question": "was the film good", "context": " ".join(words)}
        found.append(row | {"answers": [] if i % 3 == 0 else [answer]})
    return found


def logits(windows):
    """[(start, end)] for each window, whole multiples of 2**-16, alike in every release of every library; in some rows
    the answer has a good chance."""
    found, state = [], 1
    for window in windows:
        both = ([], [])
        for numbers, place in zip(both, ("start", "end"), strict=True):
            for token in range(len(window["ids"])):
                state = (1103515245 * state + 12345) % 2**31
                likely = 12 * (window["row"] % 3 == 1 and 0 < window[place] == token)
                numbers.append((state >> 8) % 2**20 / 2**16 + likely)
        found.append(both)
    return found


def windows(tokenizer):
    return Answer(tokenizer, SIZE, OVERLAP).windows(questions(data.read(rows()), []), "rows")


def main(metrics, script):
    class Split:  # all that the file needs of BERT's tokenizer: these words stand between single spaces
        def __init__(self, do_lower_case):
            pass

        def tokenize(self, text):
            return text.split()

    lines = [line for line in Path(metrics).read_text().splitlines() if not line.startswith("from ...")]
    logs = SimpleNamespace(get_logger=logging.getLogger)  # in place of what these lines import
    two, one = {"BasicTokenizer": Split, "logging": logs, "__name__": "two"}, {"__name__": "one"}
    exec("\n".join(lines), two)
    exec(Path(script).read_text(), one)
    best = one["metric_max_over_ground_truths"]

    goldens = {"version 1.1": [], "version 2.0": []}
    for prediction, references in scored():
        if references:
            scores = [best(one[name], prediction, references) for name in ("exact_match_score", "f1_score")]
            goldens["version 1.1"].append([float(score) for score in scores])
        example = SimpleNamespace(qas_id="q", answers=[{"text": text} for text in references])
        scores = two["get_raw_scores"]([example], {"q": prediction})
        goldens["version 2.0"].append([float(score["q"]) for score in scores])

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = minift.load_tokenizer(tiny.bert_folder(Path(folder)))
        found = windows(tokenizer)
        examples, features, results = [], [], []
        for row in rows():
            words = row["context"].split()
            answers = [{"text": one["text"]} for one in row["answers"]]
            examples.append(SimpleNamespace(qas_id=row["id"], doc_tokens=words, answers=answers))
        for i, (window, (start, end)) in enumerate(zip(found, logits(found), strict=True)):
            context = window["question"]["context"]
            places = {
                window["context"] + j: context[: place[0]].count(" ") for j, place in enumerate(window["offsets"])
            }
            shape = {"tokens": tokenizer.tokens(window["ids"]), "token_to_orig_map": places}
            shape |= {"token_is_max_context": dict.fromkeys(places, True), "example_index": window["row"]}
            features.append(SimpleNamespace(unique_id=i, **shape))
            results.append(SimpleNamespace(unique_id=i, start_logits=start, end_logits=end))
        joined = SimpleNamespace(convert_tokens_to_string=" ".join)
        for name, null in ("always", False), ("or none", True):
            odds = str(Path(folder) / "odds.json")
            rest = (20, 30, True, None, None, odds if null else None, False, null, 0.0, joined)
            goldens[name] = two["compute_predictions_logits"](examples, features, results, *rest)
        goldens["odds"] = json.loads(Path(odds).read_text())
        goldens["best"] = two["squad_evaluate"](examples, goldens["always"], goldens["odds"])["best_f1"] / 100
    GOLDENS.write_text(json.dumps(goldens, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
