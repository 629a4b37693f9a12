"""Answers to questions: rows and windows, what transformers and SQuAD's scorers say of the same, whole runs.
Run me: pytest tests/test_answer.py
"""

import json
import random
import subprocess
import sys

import pytest
import squad_goldens
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForQuestionAnswering,
    BartTokenizerFast,
    BertForQuestionAnswering,
    BertTokenizerFast,
    GPT2LMHeadModel,
)

import minift
from minift import cli, data, metrics, train, use
from minift.data import IGNORE
from minift.settings import Finetune
from minift.tasks import answer_written
from minift.tasks.answer import Answer, listed, questions, touched
from minift.tasks.answer_written import NONE, WrittenAnswer

torch.set_num_threads(1)

GOLDENS = json.loads(squad_goldens.GOLDENS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {"bert": tiny.bert_folder, "gpt2": tiny.gpt2_folder, "bart": tiny.bart_folder}
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in made.items()}


@pytest.fixture(scope="module")
def tokenizers(folders):
    return {name: minift.load_tokenizer(folder) for name, folder in folders.items()}


def row(context, answer=None, question="was the film good", **more):
    """A row whose answer, if there is one, is the first place of that text."""
    answers = [] if answer is None else [{"text": answer, "answer_start": context.index(answer)}]
    return {"question": question, "context": context, "answers": answers} | more


def asked(rows, notes=None, **how):
    return questions(data.read(rows), [] if notes is None else notes, **how)


# -- rows -------------------------------------------------------------------------------------------------------------


def test_rows_that_cannot_be_taken_as_they_are_are_told_of_by_their_id():
    good = row("the film was good", "good", id="good")
    rows = [
        good,
        good,
        good | {"id": "other", "answers": [{"text": "film", "answer_start": 4}]},
        row("it was bad", "bad", id="moved") | {"answers": [{"text": "bad", "answer_start": 6}]},
        row("bad bad", "bad", id="often") | {"answers": [{"text": "bad", "answer_start": 1}]},
        row("dull", "dull", id="gone") | {"answers": [{"text": "fine", "answer_start": 0}]},
        row("fine", None, id="none"),
        row("fine again", "fine", id="none"),
    ]
    notes = []
    learned = asked(rows, notes, learning=True)
    assert [one["name"] for one in learned] == ["good", "other", "none", "none"]
    assert notes == [
        "<rows>: there twice with the same answers, left out the second time: 1 (good)",
        "<rows>: there twice with different answers, kept: 1 (other)",
        "<rows>: the answer is not at its answer_start, but once elsewhere; left out, unless it has another: 1 "
        "(moved (at 7, not 6))",
        "<rows>: the answer is not at its answer_start, nor just once elsewhere; left out, unless it has another: 2 "
        "(often ('bad' at 1), gone ('fine' at 0))",
        "<rows>: id of several questions, kept: 1 (none)",
        "<rows>: without an answer: 1 (none)",
    ]
    measured = asked(rows, notes := [])
    assert [one["name"] for one in measured] == ["good", "other", "moved", "often", "gone", "none", "none"]
    assert sum("kept, since only the text counts here" in line for line in notes) == 2


def test_a_row_with_one_answer_that_stands_is_learned_from_by_that_one():
    wrong, stands = {"text": "bad", "answer_start": 0}, {"text": "good", "answer_start": 4}
    rows = [row("the good film") | {"answers": [wrong, stands]}]
    (found,) = asked(rows, notes := [], learning=True)
    assert found["answers"] == [("good", 4)] and "row 1 ('bad' at 0)" in notes[0]


def test_many_names_are_counted_and_the_first_five_named():
    rows = [row(f"film {i}", id=f"q{i}") for i in range(12)]
    asked(rows, notes := [])
    assert notes == ["<rows>: without an answer: 12 (q0, q1, q2, q3, q4 and 7 more)"]


def test_answers_may_be_written_as_on_the_hub():
    hub = {"text": ["good", "the good"], "answer_start": [4, 0]}
    assert listed(hub, None, "here") == [("good", 4), ("the good", 0)]
    assert listed({"text": [], "answer_start": []}, None, "here") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": " "}, "<rows>, row 1: question is ' '; it must be a text"),
        ({"context": 3}, "<rows>, row 1: context is 3; it must be a text"),
        ({"answers": "good"}, "<rows>, row 1: answers is 'good'; it must be a list of {text, answer_start}"),
        ({"answers": [{"text": "good"}]}, "<rows>, row 1: an answer is 'good' at answer_start None; give a text and"),
        ({"answers": [{"text": " ", "answer_start": 3}]}, "<rows>, row 1: an answer is ' ' at answer_start 3; give"),
        ({"is_impossible": True}, "<rows>, row 1: is_impossible is True, but it has 1 answers; correct either"),
        ({"answers": [], "is_impossible": False}, "<rows>, row 1: is_impossible is False, but it has 0 answers"),
    ],
)
def test_a_faulty_row_is_named_with_the_value(change, message):
    with pytest.raises(minift.Error) as caught:
        asked([row("the film was good", "good") | change])
    assert str(caught.value).startswith(message)


# -- rows -> windows --------------------------------------------------------------------------------------------------

FAST = {"bert": BertTokenizerFast, "bart": BartTokenizerFast}


@pytest.mark.parametrize("family", FAST)
@pytest.mark.parametrize(("size", "overlap"), [(48, 16), (40, 10), (30, 0), (33, 13)])
def test_windows_and_places_are_those_of_transformers(tokenizers, folders, family, size, overlap):
    chance = random.Random(size)
    words = [*tiny.WORDS, "café", "Ünder", "x-y", "東京", "😀", "  ", "naïve,", "a\u0301b"]
    theirs = FAST[family].from_pretrained(folders[family])
    contexts = [" ".join(chance.choice(words) for _ in range(chance.randint(1, 60))) for _ in range(40)]
    contexts = [text for text in contexts if text.strip()]
    worker = Answer(tokenizers[family], size, overlap)
    found = worker.windows(asked([row(text, question=f"was {i}") for i, text in enumerate(contexts)]), "rows")
    for i, context in enumerate(contexts):
        ours = [window for window in found if window["row"] == i]
        cut = {"truncation": "only_second", "max_length": size, "stride": overlap, "return_overflowing_tokens": True}
        expected = theirs(f"was {i}", context, return_offsets_mapping=True, **cut)
        assert [window["ids"] for window in ours] == expected["input_ids"]
        for n, window in enumerate(ours):
            places = [
                p for p, text in zip(expected["offset_mapping"][n], expected.sequence_ids(n), strict=True) if text
            ]
            assert window["offsets"] == places and expected.sequence_ids(n).index(1) == window["context"]
        segments = worker.batch(ours).get("segments")
        if family == "bert":
            assert [line[:n] for line, n in zip(segments.tolist(), map(len, expected["input_ids"]), strict=True)] == (
                expected["token_type_ids"]
            )
        else:
            assert segments is None


@pytest.mark.parametrize("family", FAST)
def test_each_window_points_at_the_answers_tokens_or_at_its_first(tokenizers, family):
    context = " ".join(f"good film {i}" for i in range(30)) + " Ünder fine"
    for answer in "film 3", "good", "Ünder fine", "9 good film":
        worker = Answer(tokenizers[family], 40, 12)
        windows = worker.training(data.read([row(context, answer)]))
        start = context.index(answer)
        pointing = 0
        for window in windows:
            (low, _), (_, high) = window["offsets"][0], window["offsets"][-1]
            if window["end"]:
                first, last = (window["offsets"][window[end] - window["context"]] for end in ("start", "end"))
                assert context[first[0] : last[1]] == answer and (first[0], last[1]) == (start, start + len(answer))
                pointing += 1
            else:
                assert window["start"] == 0 and not low <= start < start + len(answer) <= high
        assert len(windows) > 3 and pointing >= 1


def test_of_an_answer_that_begins_inside_a_token_all_tokens_count_that_it_touches():
    offsets = [(0, 4), (5, 9), (9, 12), (12, 12), (13, 14)]
    assert touched(offsets, "es ab", 3) == [0, 1]
    assert touched(offsets, "a", 4) == []  # a space, of which no token is made
    assert touched(offsets, "abcdefgh", 9) == [2, 4]


def test_an_answer_that_no_window_holds_is_left_out_and_told_of(tokenizers):
    context = " ".join(tiny.WORDS * 4)
    worker = Answer(tokenizers["bert"], 24, 2)
    rows = [row(context, context[:-6], id="long"), row("the film", "film", id="short")]
    assert {w["question"]["name"] for w in worker.training(data.read(rows))} == {"short"}
    assert "<rows>: left out, the answer being whole in no window (see --overlap): 1 (long)" in worker.notes
    with pytest.raises(minift.Error, match=r"no row can be learned from\n.*whole in no window"):
        Answer(tokenizers["bert"], 24, 2).training(data.read(rows[:1]))


def test_a_long_question_is_cut_to_a_third_of_a_window_and_told_of(tokenizers):
    worker = Answer(tokenizers["bert"], 30, 4)
    (window, *_) = worker.windows(asked([row("the film", question="was " * 50, id="long")]), "rows")
    assert window["context"] == 1 + 10 + 1
    assert worker.notes == ["rows: questions cut to their first 10 tokens: 1 (long)"]


def test_an_overlap_that_leaves_no_room_is_refused(tokenizers):
    with pytest.raises(minift.Error, match=r"--overlap 30: windows of 40 tokens.* can share at most 23"):
        Answer(tokenizers["bert"], 40, 30)
    assert Answer(tokenizers["bert"], 40, 23).windows(asked([row("a " * 90, question="was " * 50)]), "")


# -- batch -> loss ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pointed(folders, tmp_path_factory):
    """(a BERT that answers, the same in transformers, its tokenizer)"""
    torch.manual_seed(0)
    model, tokenizer = minift.load(folders["bert"], "answer")
    with torch.no_grad():
        model.qa_outputs.weight.normal_()  # a new head hardly says anything
    folder = tmp_path_factory.mktemp("pointed")
    minift.save(model, tokenizer, folder)
    return model, BertForQuestionAnswering.from_pretrained(folder).eval(), tokenizer


def learnable(count, seed=0):
    """Rows in which the answer is the word behind "was"; every fourth has no "was", and no answer."""
    chance, rows = random.Random(seed), []
    for i in range(count):
        words = [chance.choice(["film", "meal", "the", "and"]) for _ in range(chance.randint(4, 40))]
        one, answers = {"id": f"r{seed}-{i}", "question": "how was it"}, []
        if i % 4:
            at, word = chance.randrange(len(words)), chance.choice(["good", "bad", "dull", "fine"])
            answers = [{"text": word, "answer_start": len(" ".join([*words[:at], "was", ""]))}]
            words[at:at] = ["was", word]
        rows.append(one | {"context": " ".join(words), "answers": answers})
    return rows


def theirs_of(model, batch):
    names = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "segments"}
    return {name: batch[ours].long() for name, ours in names.items()} | {
        f"{end}_positions": batch[end] for end in ("start", "end")
    }


def test_the_loss_is_that_of_transformers_for_each_row_alone(pointed):
    """Together with shorter ones transformers lets padding be a start or an end, which makes a row's loss depend on its
    neighbours (and large batches on how they are cut)."""
    model, theirs, tokenizer = pointed
    worker = Answer(tokenizer, 30, 8)
    windows = worker.training(data.read(learnable(12)))
    assert len({len(window["ids"]) for window in windows}) > 3
    loss, count = worker.loss(model, worker.batch(windows))
    alone = sum(theirs(**theirs_of(theirs, worker.batch([window]))).loss for window in windows)
    assert count == len(windows)
    torch.testing.assert_close(loss, alone, rtol=1e-5, atol=1e-4)


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return model


def test_twenty_steps_have_the_losses_of_transformers(folders, pointed, tmp_path):
    _, _, tokenizer = pointed
    model = minift.load_model(folders["bert"], "answer")
    minift.save(without_dropout(model), tokenizer, tmp_path)
    rates = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    theirs = BertForQuestionAnswering.from_pretrained(tmp_path, **rates).train()
    worker = Answer(tokenizer, 24, 8)
    windows = [window for window in worker.training(data.read(learnable(120))) if len(window["ids"]) == 24]
    batches = [[*range(i, i + 4)] for i in range(0, 80, 4)]
    assert len(windows) >= 80 and any(window["end"] for window in windows) and not all(w["end"] for w in windows)
    collate = lambda rows: worker.batch([windows[i] for i in rows])
    options = Finetune(lr=1e-3, warmup=0.0, schedule="constant", weight_decay=0.1, clip=1e9, precision="fp32")
    losses = train.train(model, [batches], collate, worker.loss, options).losses

    decayed = [p for p in theirs.parameters() if p.ndim > 1]
    plain = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer, expected = torch.optim.AdamW(groups, lr=1e-3), []
    for rows in batches:
        loss = theirs(**theirs_of(theirs, collate(rows))).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert len(losses) == 20 and expected[-1] < expected[0]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=0, atol=1e-5)


# -- logits -> prediction ---------------------------------------------------------------------------------------------


def outputs_of(worker, windows, logits):
    """What `outputs` makes of given logits, in batches of different lengths."""
    found = []
    for i in range(0, len(windows), 7):
        batch = worker.batch(windows[i : i + 7])

        def model(ids, mask, segments, first=i):
            table = torch.full((*ids.shape, 2), 1000.0)  # where there is padding
            for line, (start, end) in zip(table, logits[first:], strict=False):
                line[: len(start), 0], line[: len(end), 1] = torch.tensor(start), torch.tensor(end)
            return table

        found.append(worker.outputs(model, batch))
    return torch.cat(found)


@pytest.fixture
def golden(tokenizers):
    worker = Answer(tokenizers["bert"], squad_goldens.SIZE, squad_goldens.OVERLAP)
    windows = squad_goldens.windows(tokenizers["bert"])
    return worker, windows, outputs_of(worker, windows, squad_goldens.logits(windows))


@pytest.mark.parametrize("tokens", [30, 31])
def test_an_answer_has_thirty_tokens_at_most(tokenizers, tokens):
    worker = Answer(tokenizers["bert"], 60, 10)
    (window,) = windows = worker.examples(data.read([row(" ".join(["good"] * 40))]))
    start, end = [0.0] * len(window["ids"]), [0.0] * len(window["ids"])
    start[window["context"]] = end[window["context"] + tokens - 1] = 9.0
    (found,) = worker.predictions(outputs_of(worker, windows, [(start, end)]), windows)
    assert (found["prediction"].split() == ["good"] * tokens) == (tokens == 30)


def test_the_published_rule_chooses_the_same_answers_from_the_same_logits(golden):
    worker, windows, outputs = golden
    found = worker.predictions(outputs, windows)
    names = [one["id"] for one in squad_goldens.rows()]
    assert {name: one["prediction"] for name, one in zip(names, found, strict=True)} == GOLDENS["always"]
    for name, one in zip(names, found, strict=True):
        assert one["scores"]["null"] - one["scores"]["answer"] == pytest.approx(GOLDENS["odds"][name], abs=1e-4)
    worker.threshold = 0.0
    or_none = [one["prediction"] for one in worker.predictions(outputs, windows)]
    assert dict(zip(names, or_none, strict=True)) == GOLDENS["or none"] != GOLDENS["always"]


def test_the_threshold_is_the_one_with_the_best_f1(golden):
    worker, windows, outputs = golden
    worker.settle(outputs, windows)
    assert worker.threshold is None  # for training rows that all have an answer
    worker.threshold = 0.0
    worker.settle(outputs, windows)
    settled, found = worker.threshold, worker.metrics(outputs, windows)["f1"]
    assert found == pytest.approx(GOLDENS["best"], abs=1e-12)
    f1 = []
    for odds in [-1e9, *(one["scores"]["null"] - one["scores"]["answer"] for one in worker.answers(outputs, windows))]:
        worker.threshold = odds
        f1.append(worker.metrics(outputs, windows)["f1"])
    assert found == max(f1) > min(f1) and settled != 0.0


def test_where_saying_nothing_is_best_the_threshold_says_nothing(tokenizers):
    worker = Answer(tokenizers["bert"], 40, 10, threshold=0.0)
    windows = worker.examples(data.read([row("the film"), row("good meal again")]))
    logits = [([0.0] * len(w["ids"]), [0.0] * len(w["ids"])) for w in windows]
    outputs = outputs_of(worker, windows, logits)
    worker.settle(outputs, windows)
    found = worker.predictions(outputs, windows)
    assert [(one["prediction"], one["start"], one["end"]) for one in found] == [("", None, None)] * 2
    assert worker.metrics(outputs, windows) == {"exact_match": 1.0, "f1": 1.0}


def test_where_no_span_is_possible_there_is_no_answer(tokenizers):
    worker = Answer(tokenizers["bert"], 40, 10)
    (window, *_) = worker.examples(data.read([row("the film " * 30)]))
    late = [float(i) for i in range(40)]  # the twenty likeliest starts all stand behind the twenty likeliest ends
    (found,) = worker.predictions(outputs_of(worker, [window], [(late, late[::-1])]), [window])
    assert (found["prediction"], found["start"]) == ("", None)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


TEXTS = st.text(st.sampled_from("abé東 😀\u0301İßﬁ,-\n\u00a0\ud83dx\u200d"), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.data())
@pytest.mark.parametrize("family", FAST)
def test_a_predicted_answer_is_the_piece_of_the_context_that_its_tokens_stand_for(tokenizers, family, text, draw):
    if not text.strip():
        return
    worker = Answer(tokenizers[family], 40, 6)
    windows = worker.examples(data.read([row(text)]))
    _, offsets = tokenizers[family].encode_with_offsets(text)
    real = [i for i, (a, b) in enumerate(offsets) if a < b]
    if not real:
        return
    first = draw.draw(st.sampled_from(real))
    last = draw.draw(st.sampled_from([i for i in real if first <= i < first + 6]))
    best, found = None, []
    for window in windows:
        at = next(i for i in range(len(offsets)) if offsets[i : i + len(window["offsets"])] == window["offsets"])
        table = torch.zeros(1, len(window["ids"]), 2)
        inside = at <= first and last < at + len(window["offsets"])
        if inside:
            table[0, window["context"] + first - at, 0] = table[0, window["context"] + last - at, 1] = 9.0
        best = best or inside
        found.append(worker.outputs(lambda ids, mask, segments=None, table=table: table, worker.batch([window])))
    (said,) = worker.predictions(torch.cat(found), windows)
    assert best and (said["start"], said["end"]) == (offsets[first][0], offsets[last][1])
    assert said["prediction"] == text[said["start"] : said["end"]]


# -- whole runs -------------------------------------------------------------------------------------------------------

QUICK = {"device": "cpu", "batch_size": 8, "seed": 0}


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    """(run, its lines, the test rows)"""
    out, lines, test = tmp_path_factory.mktemp("runs") / "run", [], learnable(24, seed=2)
    found = minift.finetune(
        "answer",
        model=str(folders["bert"]),
        train=learnable(160),
        valid=learnable(32, seed=1),
        test=test,
        max_length=36,
        epochs=6,
        lr=5e-3,
        out=out,
        say=lines.append,
        **QUICK,
    )
    return found, "\n".join(lines), test


def test_a_run_learns_where_the_answer_is_and_where_there_is_none(run):
    found, lines, _ = run
    before, after = found.metrics["test_before"], found.metrics["test"]
    assert after["f1"] > 0.8 > before["f1"] and after["f1_answerable"] > 0.7 and after["f1_unanswerable"] > 0.7
    assert found.metrics["valid"]["exact_match"] > 0.7
    assert "drawn at random: qa_outputs.weight, qa_outputs.bias" in lines
    assert "160 questions, 40 without an answer, in " in lines and " windows of up to 36 tokens" in lines
    assert "<rows>: without an answer: 40 (r0-0, r0-4, r0-8, r0-12, r0-16 and 35 more)" in lines
    assert "    right  (no answer)\n    model  (no answer)" in lines


def test_the_saved_folder_says_how_it_was_made_and_predicts_the_same(run):
    found, _, test = run
    said = json.loads((found.folder / "config.json").read_text())
    assert said["architectures"] == ["BertForQuestionAnswering"]
    assert said["minift"].keys() == {"task", "max_length", "overlap", "threshold"}
    assert (said["minift"]["task"], said["minift"]["max_length"], said["minift"]["overlap"]) == ("answer", 36, 12)
    assert minift.evaluate(found.folder, test) == pytest.approx(found.metrics["test"], abs=1e-9)
    rows = [{"question": one["question"], "context": one["context"]} for one in test]
    predictions = minift.predict(found.folder, rows)
    answers = [[answer["text"] for answer in one["answers"]] for one in test]
    assert metrics.answers([one["prediction"] for one in predictions], answers) == pytest.approx(found.metrics["test"])
    assert any(one["prediction"] == "" for one in predictions)
    for one, given_row in zip(predictions, rows, strict=True):
        assert one.keys() == {"prediction", "start", "end", "scores"} and one["scores"].keys() == {"answer", "null"}
        null = one["scores"]["null"] - one["scores"]["answer"] > said["minift"]["threshold"]
        assert null == (one["prediction"] == "") == (one["start"] is None)
        if not null:
            assert given_row["context"][one["start"] : one["end"]] == one["prediction"]


def test_the_threshold_that_is_saved_is_that_of_the_best_epoch(run):
    found, _, _ = run
    worker, model = use.ready(found.folder)
    windows = worker.examples(data.read(learnable(32, seed=1)))
    outputs = use.outputs_of(worker, model, windows, 8)
    assert worker.metrics(outputs, windows) == pytest.approx(found.metrics["valid"], abs=1e-9)
    saved = worker.threshold
    worker.settle(outputs, windows)
    assert worker.threshold == pytest.approx(saved, abs=1e-4)


def test_transformers_loads_the_folder_and_gives_the_same_logits(run):
    found, _, test = run
    theirs = AutoModelForQuestionAnswering.from_pretrained(found.folder).eval()
    worker, model = use.ready(found.folder)
    batch = worker.batch(worker.examples(data.read(test)))
    inputs = theirs_of(theirs, batch)
    with torch.no_grad():
        ours, said = model(batch["ids"], batch["mask"], batch["segments"]), theirs(**inputs)
    for i, logits in enumerate((said.start_logits, said.end_logits)):
        torch.testing.assert_close(ours[..., i][batch["mask"]], logits[batch["mask"]], rtol=1e-5, atol=1e-4)


def test_the_same_run_again_ends_in_the_same_figures(folders, tmp_path):
    rows = {"train": learnable(24), "valid": learnable(8, seed=1)}
    again = [
        minift.finetune("answer", model=str(folders["bert"]), **rows, max_steps=4, out=tmp_path / name, **QUICK)
        for name in ("a", "b")
    ]
    assert again[0].metrics == again[1].metrics
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_a_baseline_keeps_its_threshold_to_itself(folders, tmp_path):
    rows = {"train": learnable(24), "valid": learnable(8, seed=1)}
    settings = {"model": str(folders["bert"]), **rows, "max_steps": 4, **QUICK}
    plain = minift.finetune("answer", out=tmp_path / "plain", **settings)
    compared = minift.finetune("answer", out=tmp_path / "compared", baselines=True, **settings)
    assert compared.baselines["random_weights"].keys() == plain.metrics["valid"].keys()
    threshold = [run.model.config.extra["minift"]["threshold"] for run in (plain, compared)]
    assert threshold[0] == threshold[1]


def test_where_all_training_rows_have_an_answer_no_threshold_is_saved_and_one_is_always_given(folders, tmp_path):
    rows = [one for one in learnable(24) if one["answers"]]
    settings = {"train": rows, "valid": learnable(8, seed=1), "max_steps": 2, **QUICK}
    found = minift.finetune("answer", model=str(folders["bert"]), out=tmp_path / "run", **settings)
    assert "threshold" not in found.model.config.extra["minift"]
    said = minift.predict((found.model, found.tokenizer), learnable(8, seed=1))
    assert all(one["prediction"] for one in said)


def test_a_published_answerer_needs_nothing_but_its_folder(pointed, tmp_path):
    model, _, tokenizer = pointed
    minift.save(model, tokenizer, tmp_path)
    worker, _ = use.ready(tmp_path)
    assert (worker.max_length, worker.overlap, worker.threshold) == (48, 16, None)
    (found,) = minift.predict(tmp_path, [{"question": "how was it", "context": "it was good " * 20}])
    assert found["prediction"] and found["scores"]["answer"] > -1e5


def test_questions_on_one_text_are_never_held_out_from_each_other(folders, tmp_path):
    rows = [row(f"the film {i // 4} was good", "good", question=f"how {i}") for i in range(40)]
    kept, held = data.split(data.read(rows), 0.2, 0)
    assert len(held.rows) == 8 and not {r["context"] for r in kept.rows} & {r["context"] for r in held.rows}


def squad(rows, version="v2.0"):
    paragraphs = [
        {"context": one["context"], "qas": [{"id": one["id"], "question": one["question"], "answers": one["answers"]}]}
        for one in rows
    ]
    return json.dumps({"version": version, "data": [{"title": "t", "paragraphs": paragraphs}]})


def test_the_command_line_answers_a_file_and_a_single_question(run, tmp_path, capsys):
    found, _, test = run
    (tmp_path / "q.json").write_text(squad(test))
    cli.main(["predict", str(found.folder), "--input", str(tmp_path / "q.json"), "--output", str(tmp_path / "o.jsonl")])
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [one["id"] for one in test]
    assert lines[1].keys() >= {"id", "title", "question", "context", "answers", "prediction", "start", "end", "scores"}
    capsys.readouterr()
    cli.main(["evaluate", str(found.folder), "--data", str(tmp_path / "q.json")])
    assert json.loads(capsys.readouterr().out) == pytest.approx(found.metrics["test"], abs=1e-9)
    cli.main(["predict", str(found.folder), "how was it", "--context", "the film and the meal was good and the film"])
    assert json.loads(capsys.readouterr().out)["prediction"] == "good"


def test_a_style_that_the_model_has_not_is_refused(folders, tmp_path):
    rows = {"train": learnable(12), "valid": learnable(8, seed=1), "out": tmp_path / "run"}
    with pytest.raises(minift.Error, match="gpt2 has no kind 'answer'"):
        minift.finetune("answer", model=str(folders["gpt2"]), style="extractive", **rows)
    with pytest.raises(minift.Error, match="bert has no kind 'lm'"):
        minift.finetune("answer", model=str(folders["bert"]), style="generative", **rows)
    with pytest.raises(minift.Error, match="--style generativ: choose one of extractive, generative"):
        minift.finetune("answer", model=str(folders["bert"]), style="generativ", **rows)


# -- answers that are written -----------------------------------------------------------------------------------------


def test_the_command_line_starts_without_torch():
    code = "import sys, minift.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_language_model_learns_the_answer_and_its_end_and_nothing_of_the_prompt(tokenizers):
    tokenizer = tokenizers["gpt2"]
    worker = WrittenAnswer(tokenizer, 48, "lm")
    (example,) = worker.training(data.read([row("the bad", "bad", question="a")]))
    prompt, answer = "question: a context: the bad answer:", [*tokenizer.encode(" bad"), tokenizer.eos]
    assert example["ids"] == [*tokenizer.encode(prompt), *answer[:-1]]
    assert example["target"] == [IGNORE] * (len(tokenizer.encode(prompt)) - 1) + answer
    assert len(example["ids"]) == len(example["target"])
    (measured,) = worker.examples(data.read([row("the bad", "bad", question="a")]))
    assert measured["ids"] == tokenizer.encode(prompt)


def test_a_language_models_loss_is_that_of_transformers_with_the_prompts_labels_ignored(folders, tokenizers):
    model, theirs = minift.load_model(folders["gpt2"]), GPT2LMHeadModel.from_pretrained(folders["gpt2"]).eval()
    worker = WrittenAnswer(tokenizers["gpt2"], 48, "lm")
    batch = worker.batch(worker.training(data.read([row("the bad", "bad", "a"), row("a", None, "a"), row("a", "a")])))
    loss, count = worker.loss(model, batch)
    labels = torch.cat((torch.full_like(batch["target"][:, :1], IGNORE), batch["target"]), 1)
    ids = torch.cat((batch["ids"], torch.zeros_like(batch["ids"][:, :1])), 1)  # they shift the labels themselves
    said = theirs(input_ids=ids, labels=labels)
    assert count == int((labels != IGNORE).sum())
    torch.testing.assert_close(loss, said.loss * count, rtol=1e-5, atol=1e-4)


def test_an_encoder_decoder_reads_question_and_context_and_learns_the_answer(tokenizers):
    worker = WrittenAnswer(tokenizers["bart"], 24, "seq2seq")
    found = worker.training(data.read([row("bad", "bad", "a"), row("good", None, "a")]))
    encode = tokenizers["bart"].encode
    assert found[0]["ids"] == encode("question: a context: bad")[:24] and found[0]["target"] == encode("bad")
    assert found[1]["target"] == encode(NONE)


@pytest.mark.parametrize(("family", "kind", "size"), [("gpt2", "lm", 80), ("bart", "seq2seq", 60)])
def test_a_long_text_is_cut_at_its_end_and_the_prompt_keeps_its_form(tokenizers, family, kind, size):
    worker = WrittenAnswer(tokenizers[family], size, kind)
    long = row("the film was good " * 9 + "bad", "bad", "a")
    (example,) = worker.examples(data.read([long]))
    text = tokenizers[family].decode(example["ids"], skip_special=True)
    assert text.startswith("question: a context: the film was") and text.endswith("answer:") == (kind == "lm")
    room = size - worker.longest * (kind == "lm")
    assert room - 6 <= len(example["ids"]) <= room and worker.truncated == 1
    assert worker.training(data.read([long | {"id": "x"}])) == []
    assert worker.notes == [f"<rows>: left out, the answer being behind the first {size} tokens: 1 (x)"]
    early = worker.training(data.read([long | {"answers": [*long["answers"], {"text": "film", "answer_start": 4}]}]))
    assert len(early) == 1


def test_what_is_written_for_no_answer_counts_as_none(tokenizers, monkeypatch):
    worker = WrittenAnswer(tokenizers["gpt2"], 48, "lm")
    examples = worker.examples(data.read([row("bad"), row("bad", "bad", "a")]))
    said = [tokenizers["gpt2"].encode(text) for text in (f" {NONE}", " bad\n")]
    monkeypatch.setattr(answer_written.generation, "generate_ids", lambda *_, **__: said)
    outputs = worker.outputs(None, worker.batch(examples))
    assert outputs.shape == (2, worker.longest)
    assert worker.predictions(outputs, examples) == [{"prediction": ""}, {"prediction": "bad"}]
    assert worker.metrics(outputs, examples)["f1"] == 1.0


@pytest.mark.parametrize(("family", "kind"), [("gpt2", "lm"), ("bart", "seq2seq")])
def test_a_model_without_an_answering_head_writes_and_its_folder_still_answers(folders, tmp_path, family, kind):
    rows = [row(word, word, "a", id=f"{i}") for i, word in enumerate(["a", "bad", "the", "good"] * 4)]
    settings = {"train": rows, "valid": rows[:4], "epochs": 1, "out": tmp_path / "run", **QUICK}
    lines = []
    found = minift.finetune("answer", model=str(folders[family]), say=lines.append, **settings)
    assert found.metrics["valid"].keys() == {"exact_match", "f1"}
    config = json.loads((found.folder / "config.json").read_text())
    assert found.model.kind == kind and config["minift"]["task"] == "answer"
    worker, _ = use.ready(found.folder)
    assert type(worker) is WrittenAnswer and worker.name == "answer"
    (said,) = minift.predict(found.folder, [{"question": "a", "context": "bad"}])
    assert said.keys() == {"prediction"}
    assert minift.evaluate(found.folder, rows[:4], task="answer") == pytest.approx(found.metrics["valid"])


def test_a_language_model_learns_to_write_the_answer_or_that_there_is_none(folders, tmp_path):
    answers = {"bad": "bad", "good": "good", "the": None}
    rows = [row(text, answer, question) for text, answer in answers.items() for question in "abcd"]
    model, tokenizer = minift.load(folders["gpt2"])
    settings = {"train": rows, "valid": rows, "epochs": 80, "lr": 5e-3, "out": tmp_path / "run", **QUICK}
    found = minift.finetune("answer", model=(without_dropout(model), tokenizer), **settings)
    assert found.metrics["valid"]["f1_answerable"] > 0.9 and found.metrics["valid"]["f1_unanswerable"] > 0.9
    (said,) = minift.predict(found.folder, [{"question": "b", "context": "good"}])
    assert said == {"prediction": "good"}
