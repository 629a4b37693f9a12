"""Prompting: what is shown, what fits, and the scores of the labels, against one model call a label.
Run me: pytest tests/test_prompt.py"""

import json

import pytest
import torch

import minift
from minift import cli, data
from minift.errors import Error
from minift.tasks.prompt import Prompt

torch.set_num_threads(1)
SHOWN = [("Fine soup.", "good"), ("Cold soup.", "very bad"), ("Warm bread.", "good"), ("No bread.", "very bad")]
TEXTS = ["The soup was warm and came with bread.", "Soup."]


@pytest.fixture(scope="module")
def nano():
    return minift.load("gpt2-nano")


def worker(nano, shots, **more):
    model, tokenizer = nano
    return Prompt(tokenizer, data.read(SHOWN), shots, **{"max_length": model.longest} | more)


def texts_of(nano, made, texts=TEXTS):
    return [
        nano[1].decode(e["ids"]).removeprefix("<|endoftext|>") for e in made.examples(data.read(texts), labelled=False)
    ]


def test_zero_shots_show_the_text_alone(nano):
    assert texts_of(nano, worker(nano, 0)) == [f"{text}\nLabel:" for text in TEXTS]


def test_before_each_text_stand_other_examples_with_their_labels(nano):
    found = texts_of(nano, worker(nano, 2), [f"{n} loaves." for n in range(20)])
    shown = [tuple(text.split("\n\n")[:-1]) for text in found]
    assert {one for pair in shown for one in pair} == {f"{text}\nLabel: {label}" for text, label in SHOWN}
    assert len(set(shown)) > 6 and all(len(set(pair)) == 2 for pair in shown)
    assert [text.split("\n\n")[-1] for text in found] == [f"{n} loaves.\nLabel:" for n in range(20)]


def test_a_seed_draws_the_same_examples_wherever_a_text_stands(nano):
    one, two = (texts_of(nano, worker(nano, 2, seed=5), some) for some in (TEXTS, TEXTS[::-1]))
    assert one == two[::-1]
    assert len({tuple(texts_of(nano, worker(nano, 2, seed=seed))) for seed in range(8)}) > 4


def test_a_template_is_filled_for_text_and_examples(nano):
    made = worker(nano, 1, template=r"Guest: {text}\nVerdict: {label}")
    shot, text = texts_of(nano, made)[1].split("\n\n")
    assert text == "Guest: Soup.\nVerdict:"
    assert shot in {f"Guest: {text}\nVerdict: {label}" for text, label in SHOWN}


@pytest.mark.parametrize("shots", [0, 3])
def test_a_labels_score_is_the_mean_log_likelihood_of_its_tokens(nano, shots):
    model, tokenizer = nano
    made = worker(nano, shots)
    examples = made.examples(data.read(TEXTS), labelled=False)
    found = made.outputs(model, made.batch(examples))
    assert found.shape == (2, 2) and made.labels == ["good", "very bad"]
    for text, example, row in zip(texts_of(nano, made), examples, found, strict=True):
        for label, answer, score in zip(made.labels, example["answers"], row, strict=True):
            ids = [tokenizer.eos, *tokenizer.encode(f"{text} {label}".removeprefix("<|endoftext|>"))]
            assert ids[-len(answer) :] == answer and tokenizer.decode(answer) == " " + label
            chances = model(torch.tensor([ids]))[0].log_softmax(-1)
            right = sum(chances[t - 1, ids[t]].item() for t in range(len(ids) - len(answer), len(ids))) / len(answer)
            assert score.item() == pytest.approx(right, abs=1e-4)


def test_examples_are_left_out_from_the_front_and_a_text_is_cut_where_all_do_not_fit(nano):
    whole, tight = worker(nano, 3), worker(nano, 3, max_length=32)
    for long, short in zip(texts_of(nano, whole), texts_of(nano, tight), strict=True):
        assert long.endswith(short) and len(short) < len(long)
    assert tight.truncated == 2 and whole.truncated == 0
    assert texts_of(nano, tight)[1].count("\n\n") == 2, "the short text has room for two examples"
    narrow = worker(nano, 3, max_length=6)
    for example in narrow.examples(data.read(TEXTS), labelled=False):
        assert max(len(example["ids"]) + len(answer) - 1 for answer in example["answers"]) == 6
        assert example["ids"][0] == nano[1].eos
    assert all(text.endswith("\nLabel:") for text in texts_of(nano, narrow))


def test_a_model_that_has_learned_the_labels_is_right(tmp_path):
    """Fine-tuned as a language model on filled templates, then prompted without examples."""
    texts = [f"{text}\nLabel: {label}" for text, label in SHOWN]
    run = minift.finetune("lm", train=texts, valid=texts, test=texts, out=tmp_path / "run", epochs=15, lr=3e-3)
    before, after = (
        minift.evaluate(model, SHOWN, shots=0, examples=SHOWN)["accuracy"] for model in ("gpt2-nano", run.folder)
    )
    assert after == 1.0 > before


def test_from_the_command_line_a_file_is_answered_and_measured(tmp_path, capsys):
    rows = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in SHOWN)
    (tmp_path / "rows.tsv").write_text(rows, encoding="utf-8")
    file = str(tmp_path / "rows.tsv")
    cli.main(["predict", "gpt2-nano", "--shots", "2", "--examples", file, "--data", file])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in found] == [text for text, _ in SHOWN]
    assert all(row["scores"].keys() == {"good", "very bad"} for row in found)
    assert all(row["prediction"] == max(row["scores"], key=row["scores"].get) for row in found)
    cli.main(["evaluate", "gpt2-nano", "--shots", "2", "--examples", file, "--data", file])
    right = sum(row["prediction"] == row["label"] for row in found) / 4
    assert json.loads(capsys.readouterr().out)["accuracy"] == right


def test_the_embedded_reviews_are_shown_where_no_examples_are_given():
    (found,) = minift.predict("gpt2-nano", ["A joy."], shots=1)
    assert found["scores"].keys() == {"negative", "positive"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shots": 5}, "--shots 5: <rows> has 4 rows; give 0 to so many"),
        ({"shots": -1}, "--shots -1: <rows> has 4 rows"),
        ({"shots": 1, "template": "{label}: {text}"}, "needs {text}, and ' {label}' at its end"),
        ({"shots": 1, "template": "Label: {label}"}, "needs {text}"),
        ({}, "examples: for prompting; give shots, too"),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings, words):
    with pytest.raises(Error) as raised:
        minift.predict("gpt2-nano", TEXTS, examples=SHOWN, **settings)
    assert words in str(raised.value)


def test_an_encoder_is_not_prompted():
    with pytest.raises(Error, match="prompting is for language models, such as gpt2; this one's kind is"):
        minift.predict("bert-nano", TEXTS, examples=SHOWN, shots=0)
