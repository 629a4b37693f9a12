"""Learning without labels: windows, packing, hidden words, and losses that are those of transformers.
Run me: pytest tests/test_language.py"""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as some
from transformers import BertForPreTraining, GPT2LMHeadModel

import minift
from minift import adapters, data, metrics, safetensors, train, use
from minift.data import IGNORE
from minift.settings import Finetune
from minift.tasks.lm import LM, packed
from minift.tasks.mlm import MLM

torch.set_num_threads(1)

TEXTS = [
    "the film was good and the meal was bad",
    "never again",
    "the meal was not bad, the film was very dull and very very fine " * 4,
    "a",
    "film 7",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"lm": tiny.gpt2_folder(folder / "gpt2"), "mlm": tiny.bert_folder(folder / "bert")}


def loaded(folders, task):
    """(model without dropout, tokenizer)"""
    torch.manual_seed(0)
    model, tokenizer = minift.load(folders[task], {"lm": "lm", "mlm": "pretraining"}[task])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    return model, tokenizer


# -- windows and rows -------------------------------------------------------------------------------------------------


def predicted(row):
    """(the row's number of a text, the token before, the token to predict) for each target."""
    return [(m, i, t) for m, i, t in zip(row["mask"], row["ids"], row["target"], strict=True) if t != IGNORE]


@pytest.mark.parametrize("max_length", [2, 3, 8, 48])
@pytest.mark.parametrize("how", ["training", "examples"])
def test_each_token_of_each_document_is_predicted_once_and_from_the_token_before_it(folders, max_length, how):
    tokenizer = minift.load_tokenizer(folders["lm"])
    worker = LM(tokenizer, max_length)
    rows = getattr(worker, how)(data.read(TEXTS))
    assert all(len(row["ids"]) == len(row["mask"]) == len(row["target"]) <= max_length for row in rows)
    expected = []
    for text in TEXTS:
        ids = [tokenizer.eos, *tokenizer.encode(text.strip("\n")), tokenizer.eos]
        expected += pairwise(ids)
    assert sorted((i, t) for row in rows for _, i, t in predicted(row)) == sorted(expected)
    assert sum(row["tokens"] for row in rows) == len(expected)
    assert sum(row["bytes"] for row in rows) == sum(len(text.encode()) for text in TEXTS)


def test_measuring_gives_each_token_half_a_window_of_context_where_there_is_so_much(folders):
    worker = LM(minift.load_tokenizer(folders["lm"]), 16)
    for row in worker.examples(data.read([TEXTS[2]])):
        for start in [i for i, m in enumerate(row["mask"]) if i == 0 or m != row["mask"][i - 1]]:
            begins = row["ids"][start] == worker.tokenizer.eos  # the document's first window
            first = next(i for i in range(start, len(row["ids"])) if row["target"][i] != IGNORE)
            assert first - start >= (0 if begins else 7)


def test_the_strided_loss_is_that_of_one_long_window(folders):
    """Where the whole text fits into a window, how it is cut does not matter."""
    model, tokenizer = loaded(folders, "lm")
    ids = [tokenizer.eos, *tokenizer.encode(TEXTS[0]), tokenizer.eos]
    logits = model(torch.tensor([ids[:-1]]))[0]
    expected = F.cross_entropy(logits, torch.tensor(ids[1:]))
    worker = LM(tokenizer, 48)
    examples = worker.examples(data.read([TEXTS[0]]))
    with torch.inference_mode():
        found = worker.metrics(use.outputs_of(worker, model, examples, 2), examples)
    assert found["loss"] == pytest.approx(expected.item(), abs=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(expected.item()), rel=1e-5)
    bits = expected.item() * (len(ids) - 1) / math.log(2) / len(TEXTS[0])
    assert found["bits_per_byte"] == pytest.approx(bits, rel=1e-5)


@given(some.lists(some.integers(1, 20), min_size=1, max_size=60))
def test_packing_loses_nothing_overfills_nothing_and_leaves_no_two_rows_that_fit_into_one(lengths):
    rows = data.pack(lengths, 20)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    sizes = sorted(sum(lengths[i] for i in row) for row in rows)
    assert sizes[-1] <= 20 and (len(sizes) == 1 or sizes[0] + sizes[1] > 20)


def test_a_piece_that_is_too_long_for_a_row_is_an_error():
    with pytest.raises(minift.Error, match="a piece of 21 tokens does not fit into a row of 20"):
        data.pack([3, 21], 20)


def unpacked(rows):
    """The same windows, each in a row of its own."""
    alone = []
    for row in rows:
        for n in range(1, max(row["mask"]) + 1):
            at = [i for i, m in enumerate(row["mask"]) if m == n]
            alone.append(packed([{k: [row[k][i] for i in at] for k in ("ids", "target")} | {"tokens": 1, "bytes": 1}]))
    return alone


@pytest.mark.parametrize("task", ["lm", "mlm"])
def test_packed_training_is_unpacked_training_of_the_same_documents(folders, task):
    found = {}
    for how in ("packed", "alone"):
        model, tokenizer = loaded(folders, task)
        worker = {"lm": LM, "mlm": MLM}[task](tokenizer, 40)
        rows = worker.training(data.read(TEXTS)) if task == "lm" else worker.examples(data.read(TEXTS))
        assert max(max(row["mask"]) for row in rows) > 1  # something is packed
        rows = unpacked(rows) if how == "alone" else rows
        plan = [[list(range(len(rows)))]] * 6
        options = Finetune(lr=1e-2, precision="fp32", weight_decay=0.1)
        history = train.train(model, plan, lambda i, w=worker, r=rows: w.batch([r[j] for j in i]), worker.loss, options)
        found[how] = history.losses
    assert found["packed"] == pytest.approx(found["alone"], abs=1e-5)
    assert found["packed"][0] - found["packed"][-1] > 0.05


# -- the losses of transformers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["lm", "mlm"])
def test_twenty_steps_are_those_of_transformers_and_torch(folders, task, tmp_path):
    ours, tokenizer = loaded(folders, task)
    ours = ours.double()
    minift.save(ours, None, tmp_path / "start", torch.float64)
    their_class = {"lm": GPT2LMHeadModel, "mlm": BertForPreTraining}[task]
    zeros = (
        ("embd_pdrop", "attn_pdrop", "resid_pdrop")
        if task == "lm"
        else ("hidden_dropout_prob", "attention_probs_dropout_prob")
    )
    theirs = their_class.from_pretrained(tmp_path / "start", dtype=torch.float64, **dict.fromkeys(zeros, 0.0)).train()

    worker = {"lm": LM, "mlm": MLM}[task](tokenizer, 24)
    rows = unpacked(worker.training(data.read(TEXTS)) if task == "lm" else worker.examples(data.read(TEXTS)))
    batches = [[(3 * n + k) % len(rows) for k in range(3)] for n in range(20)]
    seen = []

    def collate(numbers):
        seen.append(worker.batch([rows[i] for i in numbers]))
        return seen[-1]

    options = Finetune(lr=1e-3, precision="fp32", weight_decay=0.1, schedule="constant", warmup=0.0)
    history = train.train(ours, [batches], collate, worker.loss, options)

    decay = [p for p in theirs.parameters() if p.ndim > 1]
    plain = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    losses = []
    for batch in seen:
        mask = batch["mask"].long()
        if task == "lm":  # transformers shifts by itself: it gets the text whole, with its last token
            length = mask.sum(1, keepdim=True)
            last = batch["target"].gather(1, length - 1)
            ids = F.pad(batch["ids"], (0, 1)).scatter(1, length, last)
            mask = F.pad(mask, (0, 1)).scatter(1, length, 1)
            loss = theirs(ids, attention_mask=mask, labels=ids.where(mask.bool(), IGNORE)).loss
        else:
            logits = theirs(batch["ids"], attention_mask=mask).prediction_logits
            loss = F.cross_entropy(logits.flatten(0, 1), batch["target"].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert history.losses == pytest.approx(losses, abs=1e-5) and losses[0] - min(losses[10:]) > 0.02


# -- hidden words -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worker(folders):
    return MLM(minift.load_tokenizer(folders["mlm"]), 48)


def test_a_seventh_of_the_tokens_is_hidden_in_berts_three_ways(worker):
    ids = torch.randint(5, worker.tokenizer.vocab_size, (400, 100), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, 50], ids[:, -1] = worker.tokenizer.cls, worker.tokenizer.sep, worker.tokenizer.pad
    found, target = worker.hide(ids, torch.Generator().manual_seed(1))
    chosen = target != IGNORE
    assert not chosen[:, [0, 50, -1]].any() and torch.equal(target[chosen], ids[chosen])
    assert torch.equal(found[~chosen], ids[~chosen])
    n = chosen.sum().item()
    assert n / (400 * 97) == pytest.approx(0.15, abs=0.006)
    masked = (found == worker.tokenizer.mask) & chosen
    same = (found == ids) & chosen
    other = chosen & ~masked & ~same
    assert masked.sum().item() / n == pytest.approx(0.8, abs=0.02)
    assert same.sum().item() / n == pytest.approx(0.1, abs=0.02) and other.sum().item() / n == pytest.approx(
        0.1, abs=0.02
    )
    assert len(found[other].unique()) > 30  # any token may come instead


def test_other_words_are_hidden_each_time_and_the_same_ones_for_the_same_seed(worker, folders):
    def drawn(seed, times):
        torch.manual_seed(seed)
        again = MLM(worker.tokenizer, 48)
        rows = again.training(data.read(TEXTS))
        return [again.batch(rows)["target"].tolist() for _ in range(times)]

    first, second = drawn(3, 2)
    assert first != second and drawn(3, 2) == [first, second] and drawn(4, 1) != [first]


def test_what_is_hidden_for_measuring_does_not_depend_on_the_run(worker):
    torch.manual_seed(9)
    other = MLM(worker.tokenizer, 48)
    other.batch(other.training(data.read(TEXTS)))
    assert other.examples(data.read(TEXTS)) == worker.examples(data.read(TEXTS))


def test_one_token_is_hidden_where_chance_would_hide_none(worker):
    for seed in range(30):
        _, target = worker.hide(
            torch.tensor([[worker.tokenizer.cls, 40, worker.tokenizer.sep]]), torch.Generator().manual_seed(seed)
        )
        assert target.tolist() == [[IGNORE, 40, IGNORE]]


def test_rows_of_masked_texts_hold_every_token_between_its_cls_and_sep(worker):
    for size in (8, 48):
        rows = MLM(worker.tokenizer, size).training(data.read(TEXTS))
        tokens = [i for row in rows for i in row["ids"] if i not in (worker.tokenizer.cls, worker.tokenizer.sep)]
        assert sorted(tokens) == sorted(i for text in TEXTS for i in worker.tokenizer.encode(text)[1:-1])
        for row in unpacked([row | {"target": row["ids"]} for row in rows]):
            assert (row["ids"][0], row["ids"][-1]) == (worker.tokenizer.cls, worker.tokenizer.sep) and len(
                row["ids"]
            ) <= size


# -- whole runs -------------------------------------------------------------------------------------------------------

QUICK = {"max_steps": 12, "lr": 1e-2, "device": "cpu", "max_length": 24}


def test_of_few_texts_the_ends_are_held_out_and_of_many_some_texts(folders, tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("\n\n".join(f"The film number {i} was good, and the meal was bad." for i in range(30)))
    lines = []
    minift.finetune("lm", model=folders["lm"], train=book, out=tmp_path / "a", say=lines.append, **QUICK)
    assert f"1 rows of {book} (the last tenth of each text, held out)" in "\n".join(lines)
    minift.finetune("lm", model=folders["lm"], train=TEXTS * 4, out=tmp_path / "b", say=lines.append, **QUICK)
    assert "(a seeded tenth, held out)" in "\n".join(lines)


def test_the_ends_of_texts_begin_with_a_paragraph_or_at_least_with_a_word():
    table = data.read(["one two three four\n\nfive six seven eight nine ten", "a" * 40, "x"])
    for fraction, kept, ends in (
        (0.5, "one two three four\n\nfive", " six seven eight nine ten"),
        (0.65, "one two three four", "\n\nfive six seven eight nine ten"),
    ):
        train_rows, held = data.tails(table, fraction)
        assert [row["text"] for row in train_rows.rows] == [kept, "a" * 40, "x"]
        assert [row["text"] for row in held.rows] == [ends] and held.lines == [1]
    with pytest.raises(minift.Error, match="too short to hold out a part"):
        data.tails(data.read(["word"]), 0.1)


@pytest.mark.parametrize("task", ["lm", "mlm"])
def test_a_run_tells_before_and_after_and_what_was_forgotten(folders, task, tmp_path):
    lines = []
    run = minift.finetune(
        task, model=folders[task], train=TEXTS * 3, valid=TEXTS[:1], out=tmp_path / "run", say=lines.append, **QUICK
    )
    said = "\n".join(lines)
    assert run.metrics.keys() == {"valid_before", "valid", "other_before", "other"}
    assert all(found.keys() == {"loss", "perplexity", "bits_per_byte"} for found in run.metrics.values())
    assert run.metrics["valid"]["loss"] < run.metrics["valid_before"]["loss"]
    for part in (
        "before     valid",
        "before     other",
        "after      valid",
        "after      other",
        "moved      embeddings",
    ):
        assert part in said, part
    assert run.train["moved"].keys() >= {"embeddings", "block 1", "block 2"}
    result = json.loads((run.folder / "result.json").read_text())
    assert result["task"] == task and result["metrics"] == run.metrics and result["baselines"] == {}
    again = minift.evaluate(run.folder, TEXTS[:1])
    assert again == pytest.approx(run.metrics["valid"], rel=1e-5)


@pytest.mark.parametrize("task", ["lm", "mlm"])
def test_the_best_epoch_is_the_one_with_the_least_loss(folders, task, tmp_path):
    run = minift.finetune(  # so long on one text that it forgets the others
        task, model=folders[task], train=TEXTS[:1], valid=TEXTS[1:], out=tmp_path / "run", lr=3e-2, epochs=12,
        device="cpu", max_length=24,
    )  # fmt: skip
    log = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [entry["valid"]["loss"] for entry in log if "valid" in entry]
    assert losses[-1] > min(losses) and run.metrics["valid"]["loss"] == pytest.approx(min(losses), rel=1e-5)


def test_what_is_forgotten_is_measured_on_text_that_no_one_trains_on(folders, tmp_path):
    lines = []
    minift.finetune("lm", model=folders["lm"], train=TEXTS, out=tmp_path / "a", say=lines.append, **QUICK)
    line = next(line for line in lines if line.startswith("other "))
    assert str(Path("reviews", "test.tsv")) in line and "503 rows" in line


def test_the_prompt_is_continued_before_and_after(folders, tmp_path):
    lines = []
    minift.finetune(
        "lm", model=folders["lm"], train=TEXTS, out=tmp_path / "a", prompt="the film", say=lines.append, **QUICK
    )
    assert sum("the film |" in line for line in lines) == 2


def test_a_model_keeps_its_pooler_while_it_learns_hidden_words_for_a_classifier_to_begin_with(folders, tmp_path):
    first = minift.load_model(folders["mlm"]).state_dict()
    minift.finetune("mlm", model=folders["mlm"], train=TEXTS, out=tmp_path / "domain", **QUICK)
    assert "BertForPreTraining" in (tmp_path / "domain" / "config.json").read_text()
    classifier = minift.load_model(tmp_path / "domain", "classify", ["a", "b"])
    assert set(classifier.report.new) == {"classifier.weight", "classifier.bias"}
    name = "bert.pooler.dense.weight"
    assert torch.equal(classifier.state_dict()[name], first[name])
    words = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(classifier.state_dict()[words], first[words])


def test_a_masked_language_model_stays_one(folders, tmp_path):
    model, tokenizer = minift.load(folders["mlm"], "mlm")
    minift.save(model, tokenizer, tmp_path / "mlm")
    run = minift.finetune("mlm", model=tmp_path / "mlm", train=TEXTS, out=tmp_path / "run", **QUICK)
    assert run.model.kind == "mlm"


def test_tuning_the_head_of_a_masked_language_model_changes_nothing_below_it(folders, tmp_path):
    minift.finetune("mlm", model=folders["mlm"], train=TEXTS, out=tmp_path / "run", tune="head", **QUICK)
    before = safetensors.load(folders["mlm"] / "model.safetensors")
    after = safetensors.load(tmp_path / "run" / "model.safetensors")
    for name, tensor in before.items():
        assert torch.equal(after["bert." + name], tensor), name
    assert after["cls.predictions.bias"].any()


def test_moved_tells_each_part_by_itself(folders):
    model, _ = loaded(folders, "lm")
    before = adapters.snapshot(model)
    with torch.no_grad():
        for p in model.blocks[1].parameters():
            p *= 1.5
    found = adapters.moved(model, before)
    assert found == pytest.approx({"embeddings": 0, "block 1": 0, "block 2": 0.5, "the rest": 0})


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"model": "mlm", "task": "lm"}, ["bert has no kind 'lm'"]),
        ({"model": "lm", "task": "mlm"}, ["gpt2 has no kind 'pretraining'"]),
        ({"train": [{"words": "x"}, {"words": "y"}]}, ["'text' is needed"]),
        ({"train": [{"text": 7}, {"text": "two words"}], "valid": ["x"]}, ["the text is 7; it must be a string"]),
        ({"train": ["\n", "\n\n"], "valid": ["a b"]}, ["nothing to predict"]),
        ({"tune": "head"}, ["--tune head: this model has no head of its own"]),
    ],
)
def test_a_mistake_is_one_clear_error_and_leaves_no_model(folders, values, parts, tmp_path):
    values = {"task": "lm", "train": TEXTS, "out": tmp_path / "run"} | values
    model = folders[values.pop("model", values["task"])]
    with pytest.raises(minift.Error) as caught:
        minift.finetune(values.pop("task"), model=model, **values, **QUICK)
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(("task", "model"), [("lm", "gpt2-nano"), ("mlm", "bert-nano")])
def test_with_nothing_said_an_embedded_model_learns_the_harbour(task, model, tmp_path):
    lines = []
    run = minift.finetune(task, out=tmp_path / "run", say=lines.append, max_steps=2, device="cpu", threads=1)
    said = "\n".join(lines)
    assert f"model      {model}, " in said and str(Path("harbour", "train.txt")) in said
    assert run.metrics["valid"]["bits_per_byte"] < run.metrics["valid_before"]["bits_per_byte"]


def test_predict_sends_a_language_model_to_generate(folders):
    with pytest.raises(
        minift.Error,
        match="predict is for classifiers, translators and answerers; this model is for lm: minift generate",
    ):
        minift.predict(folders["lm"], ["a text"])


def test_perplexity_and_bits_per_byte_are_the_loss_in_other_words():
    found = metrics.language(math.log(8), tokens=10, bytes=30)
    assert found == pytest.approx({"loss": math.log(8), "perplexity": 8, "bits_per_byte": 1.0})
