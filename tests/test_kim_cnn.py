"""Kim's CNN: the paper's sums in plain loops, padding, what learns, and whole runs.
Run me: pytest tests/test_kim_cnn.py"""

import json
import math
import os

import pytest
import tiny
import torch
import torch.nn.functional as F

import minift
from minift import adapters, cnn, data, hub, optim, pretrained
from minift.models.kim_cnn import CHANNELS, Config, KimCNN
from minift.tokenizers.words import Words

torch.set_num_threads(1)

each_way = pytest.mark.parametrize("channels", CHANNELS)
TEXTS = ["the film was good, 3.", "very bad", "", "Never again!"]


def model(channels="non-static", **more):
    """A small one in which no parameter is as it begins, and two channels differ."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 23, "embedding_size": 6, "maps": 5, "labels": ["x", "y", "z"]} | more
    model = KimCNN(Config(channels=channels, **sizes)).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.uniform_(-0.9, 0.9)
    return model


def by_hand(model, ids):
    """Scores (labels) and maxima (M) of one text, as the paper defines them, in plain loops over Python's floats."""
    config = model.config
    weights = {name: tensor.double().tolist() for name, tensor in model.state_dict().items()}
    tables = [weights[name] for name in ("static", "embed.weight") if name in weights]
    zero, widest = [0.0] * config.embedding_size, max(config.widths)
    channels = [[zero] * widest + [table[i] for i in ids] + [zero] * widest for table in tables]
    maxima = []
    for n, width in enumerate(config.widths):
        for filter, bias in zip(weights[f"convs.{n}.weight"], weights[f"convs.{n}.bias"], strict=True):
            answers = []
            for start in range(len(channels[0]) - width + 1):
                total = bias
                for words in channels:  # "each filter is applied to both channels and the results are added"
                    for k in range(width):
                        for c in range(config.embedding_size):
                            total += filter[c][k] * words[start + k][c]
                answers.append(max(total, 0.0))
            maxima.append(max(answers))
    rows = zip(weights["classifier.weight"], weights["classifier.bias"], strict=True)
    return [b + sum(w * m for w, m in zip(row, maxima, strict=True)) for row, b in rows], maxima


# -- the sums of the paper --------------------------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize("widths", [[3, 4, 5], [1], [2, 2, 7]])
def test_scores_are_those_of_plain_loops(channels, widths):
    cnn = model(channels, widths=widths)
    for ids in [7, 1, 22, 0, 7, 7, 13, 5, 9], [4, 2, 2], [11], []:
        scores, maxima = by_hand(cnn, ids)
        text = torch.tensor([ids], dtype=torch.long)
        torch.testing.assert_close(cnn(text)[0], torch.tensor(scores), rtol=0, atol=1e-5)
        torch.testing.assert_close(cnn.pooled(text)[0], torch.tensor(maxima), rtol=0, atol=1e-5)


def test_the_defaults_are_those_of_the_paper():
    cnn = KimCNN(Config(vocab_size=50))
    assert [tuple(conv.weight.shape) for conv in cnn.convs] == [(100, 300, 3), (100, 300, 4), (100, 300, 5)]
    assert cnn.embed.weight.shape == (50, 300) and cnn.dropout.p == 0.5 and cnn.config.max_norm == 3
    assert cnn.pooled(torch.tensor([[1, 2], [3, 4]])).shape == (2, 300)
    assert 0.2 < cnn.embed.weight.abs().max() <= 0.25
    assert all(conv.weight.abs().max() <= (300 * conv.kernel_size[0]) ** -0.5 for conv in cnn.convs)
    assert all(conv.bias.abs().max() == 0 for conv in cnn.convs)


@each_way
def test_forward_is_the_head_of_the_maximum_of_hidden(channels):
    cnn, ids = model(channels), torch.tensor([[3, 1, 4, 1]])
    assert cnn.hidden(ids).shape == (1, 4 + 5, 15)
    assert torch.equal(cnn(ids), cnn.head(cnn.hidden(ids).max(1).values))
    assert torch.equal(cnn(ids), cnn.head(cnn.pooled(ids)))
    with pytest.raises(minift.Error, match="only classifies"):
        _ = cnn.unembedding


def test_dropout_falls_on_the_maxima_in_training_alone():
    cnn, ids = model(), torch.tensor([[3, 1, 4, 1]])
    cnn.train()
    torch.manual_seed(1)
    found = cnn(ids)
    torch.manual_seed(1)
    assert torch.equal(found, cnn.classifier(F.dropout(cnn.pooled(ids), 0.5)))
    assert not torch.equal(cnn(ids), cnn(ids)) and torch.equal(cnn.pooled(ids), cnn.pooled(ids))
    cnn.eval()
    assert torch.equal(cnn(ids), cnn(ids))


# -- padding ----------------------------------------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize("length", [0, 1, 2, 4, 5, 9])
def test_padding_changes_neither_answer_nor_gradient(channels, length):
    cnn = model(channels)
    ids = torch.randint(0, 23, (1, length), generator=torch.Generator().manual_seed(length))

    def gradients(logits):
        cnn.zero_grad()
        logits[0, 1].backward()
        return [p.grad.clone() for p in cnn.parameters()]

    right = cnn(ids)
    learned = gradients(right)
    for before, behind in (0, 1), (1, 0), (0, 9), (9, 0), (3, 2):
        padded = F.pad(ids, (before, behind), value=17)
        mask = F.pad(torch.ones_like(ids), (before, behind))
        for one in mask.bool(), mask, mask * 2:
            torch.testing.assert_close(cnn(padded, one), right, rtol=0, atol=1e-6)
        for found, wanted in zip(gradients(cnn(padded, mask)), learned, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_neighbours_in_a_batch_change_nothing():
    cnn, rows = model(), [[5, 6, 7, 8, 9, 10], [11], [12, 13, 14]]
    ids, mask = data.pad(rows, 1)
    for logits, row in zip(cnn(ids, mask), rows, strict=True):
        torch.testing.assert_close(logits, cnn(torch.tensor([row]))[0], rtol=0, atol=1e-6)


@each_way
def test_a_row_of_nothing_but_padding_is_finite_and_says_what_an_empty_text_says(channels):
    cnn, ids = model(channels), torch.tensor([[3, 1, 4], [3, 1, 4]])
    logits = cnn(ids, torch.tensor([[1, 1, 1], [0, 0, 0]]))
    torch.testing.assert_close(logits[1:], cnn(torch.zeros(1, 0, dtype=torch.long)), rtol=0, atol=1e-6)
    logits.sum().backward()
    assert logits.isfinite().all() and all(p.grad.isfinite().all() for p in cnn.parameters())


# -- what learns ------------------------------------------------------------------------------------------------------


def learned(cnn, tune="all", steps=3, lr=0.05):
    """The keys of what changed in a few steps of the optimiser of whole runs."""
    adapters.choose(cnn, tune)
    adapters.train_mode(cnn)
    before = {name: tensor.clone() for name, tensor in cnn.state_dict().items()}
    optimizer = optim.adamw(cnn, lr, 0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(cnn(torch.tensor([[3, 1, 4], [5, 9, 2]])), torch.tensor([0, 1])).backward()
        optimizer.step()
    return {name for name, tensor in cnn.state_dict().items() if not torch.equal(tensor, before[name])}


HEAD = {"classifier.weight", "classifier.bias"}
FILTERS = {f"convs.{i}.{name}" for i in range(3) for name in ("weight", "bias")}
VECTORS = {"non-static": {"embed.weight"}, "static": set(), "multichannel": {"embed.weight"}}


@each_way
def test_static_vectors_never_move_and_all_else_learns(channels):
    assert learned(model(channels)) == VECTORS[channels] | FILTERS | HEAD
    assert learned(model(channels), "last:1") == FILTERS | HEAD
    assert learned(model(channels), "head") == HEAD
    with pytest.raises(minift.Error, match="last:N with N from 1 to 1"):
        adapters.choose(model(channels), "last:2")


def test_the_moved_report_names_vectors_filters_and_head():
    cnn = model("multichannel")
    before = adapters.snapshot(cnn)
    learned(cnn)
    moved = adapters.moved(cnn, before)
    assert moved.keys() == {"embeddings", "block 1", "head"} and all(share > 0 for share in moved.values())


def test_two_channels_start_as_one_and_what_is_new_follows_the_seed():
    torch.manual_seed(3)
    first = KimCNN(Config(vocab_size=9, channels="multichannel"))
    assert torch.equal(first.static, first.embed.weight) and first.static.data_ptr() != first.embed.weight.data_ptr()
    torch.manual_seed(3)
    second = KimCNN(Config(vocab_size=9, channels="multichannel"))
    assert all(torch.equal(a, second.state_dict()[name]) for name, a in first.state_dict().items())
    static = KimCNN(Config(vocab_size=9, channels="static"))
    assert 0.2 < static.static.abs().max() <= 0.25 and "embed.weight" not in static.state_dict()


def test_only_the_words_of_the_texts_get_gradients():
    cnn = model()
    cnn(torch.tensor([[3, 1, 4, 0]]), torch.tensor([[1, 1, 1, 0]])).square().sum().backward()
    assert set(cnn.embed.weight.grad.abs().sum(1).nonzero()[:, 0].tolist()) <= {3, 1, 4}
    assert cnn.embed.weight.grad.abs().sum() > 0


def test_after_each_step_no_labels_weights_are_longer_than_three():
    cnn = model(maps=100)
    with torch.no_grad():
        cnn.classifier.weight[0] *= 10 / cnn.classifier.weight[0].norm()
        cnn.classifier.weight[1] *= 2 / cnn.classifier.weight[1].norm()
    adapters.choose(cnn, "all")
    optimizer = optim.adamw(cnn, 1e-3, 0.0)
    direction = cnn.classifier.weight[0] / 10
    cnn(torch.tensor([[3, 1, 4]])).sum().backward()
    optimizer.step()
    norms = cnn.classifier.weight.norm(dim=1).tolist()
    assert norms[0] == pytest.approx(3, abs=1e-5) and norms[1] == pytest.approx(2, abs=0.05)
    assert F.cosine_similarity(cnn.classifier.weight[0], direction, dim=0) > 0.99
    assert learned(model(maps=100), lr=1.0, steps=9)
    free = model(maps=100, max_norm=None)
    learned(free, lr=1.0, steps=9)
    assert free.classifier.weight.norm(dim=1).max() > 3.5


def test_a_label_whose_weights_are_zero_stays_there():
    cnn = model()
    with torch.no_grad():
        cnn.classifier.weight.zero_()
    cnn.constrain()
    assert torch.equal(cnn.classifier.weight, torch.zeros(3, 15))


# -- folders ----------------------------------------------------------------------------------------------------------


@each_way
def test_a_saved_model_is_loaded_bit_for_bit(channels, tmp_path):
    cnn, ids = model(channels, widths=[2, 3], max_norm=None), torch.tensor([[3, 1, 4, 1, 5]])
    tokenizer = Words(["xxunk", "xxpad", *(f"w{i}" for i in range(21))], markers=False)
    minift.save(cnn, tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "kim_cnn" and config["architectures"] == ["KimCNN"]
    assert config["id2label"] == {"0": "x", "1": "y", "2": "z"}
    again, words = minift.load(tmp_path)
    assert again.config == cnn.config and words.itos == tokenizer.itos
    assert again.state_dict().keys() == cnn.state_dict().keys()
    assert all(torch.equal(tensor, cnn.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert torch.equal(again(ids), cnn(ids)) and not again.report.new
    assert "KimCNN" in pretrained.check(tmp_path)


def test_other_labels_get_a_new_head_and_the_rest_is_kept(tmp_path):
    cnn = model("multichannel")
    minift.save(cnn, None, tmp_path)
    for other in minift.load_model(tmp_path, "classify", ["a", "b"]), pretrained.with_head(cnn, "classify", ["a", "b"]):
        assert set(other.report.new) == HEAD and other.classifier.weight.shape == (2, 15)
        kept = {name for name, tensor in other.state_dict().items() if torch.equal(tensor, cnn.state_dict()[name])
                if name not in HEAD}  # fmt: skip
        assert kept == {"static", "embed.weight"} | FILTERS


def test_random_in_front_of_a_folder_gives_its_shape_with_fresh_weights(tmp_path):
    minift.save(model("multichannel"), None, tmp_path)
    fresh = minift.load_model(f"random:{tmp_path}")
    assert fresh.embed.weight.abs().max() <= 0.25 and torch.equal(fresh.static, fresh.embed.weight)


def test_a_configuration_that_cannot_be_is_named(tmp_path):
    minift.save(model(), None, tmp_path)
    path = tmp_path / "config.json"
    right = json.loads(path.read_text())
    for field, value, said in (
        ("channels", "statik", "did you mean 'static'"),
        ("widths", [], "widths is []"),
        ("widths", [3, "4"], "widths is [3, '4']"),
        ("widths", [0], "widths is [0]"),
        ("channels", "static", "the weights lack static"),
        ("maps", 6, "have another shape"),
    ):
        path.write_text(json.dumps(right | {field: value}))
        with pytest.raises(minift.Error) as caught:
            minift.load_model(tmp_path)
        assert said in str(caught.value) and str(tmp_path) in str(caught.value)


# -- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    make = {"bert": tiny.bert_folder, "gpt2": tiny.gpt2_folder, "bart": tiny.bart_folder}
    return {name: str(make(tmp_path_factory.mktemp(name))) for name, make in make.items()}


@pytest.fixture(scope="module")
def glove(tmp_path_factory):
    """Vectors of four numbers for half of the words of tiny.rows."""
    words = ["film", "was", "good", "bad", "zebra"]
    lines = [f"{word} {i + 1} {-i} 0.5 {i / 4}" for i, word in enumerate(words)]
    path = tmp_path_factory.mktemp("vectors") / "glove.4d.txt"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def finetuned(out, model="kim-cnn", **more):
    settings = {"train": tiny.rows(24), "valid": tiny.rows(6, start=24), "epochs": 3, "batch_size": 8} | more
    lines = []
    return minift.finetune("classify", model=model, out=out, say=lines.append, **settings), "\n".join(lines)


def test_a_run_learns_and_its_folder_predicts_as_the_run_does(tmp_path):
    run, said = finetuned(tmp_path / "run", epochs=6, valid=tiny.rows(12, start=24), baselines=True)
    assert run.metrics["valid"]["accuracy"] == 1.0
    assert "rate 0.001" in said and "embeddings" in said and "bag of words" in said
    assert set(run.baselines) == {"bag_of_words", "random_weights"}
    result = minift.predict(tmp_path / "run", TEXTS)
    assert result == minift.predict((run.model, run.tokenizer), TEXTS)
    assert [row["prediction"] for row in result[:2]] == ["good", "bad"]
    model, tokenizer = minift.load(tmp_path / "run")
    assert model.config.pad_token_id == tokenizer.pad == 1
    assert minift.evaluate(tmp_path / "run", tiny.rows(6, start=24))["accuracy"] == 1.0


def test_its_words_are_those_of_the_training_rows_alone(tmp_path):
    rows = [{"text": "A Film, a film!", "label": "x"}, {"text": "no meal", "label": "y"}]
    other = [{"text": "zebra", "label": "x"}]
    run, _ = finetuned(tmp_path / "run", train=rows, valid=other, test=other, epochs=1)
    assert run.tokenizer.itos == ["xxunk", "xxpad", "a", "film", "!", ",", "meal", "no"]
    assert run.model.config.vocab_size == 8 and run.model.embed.weight.shape == (8, 300)


def test_pairs_and_numbers_are_learned_too(tmp_path):
    rows = [{"text_a": row["text"], "text_b": "again", "label": i / 4} for i, row in enumerate(tiny.rows(8))]
    run, _ = finetuned(tmp_path / "run", train=rows, valid=rows, epochs=1, regression=True)
    assert "again" in run.tokenizer.itos
    assert math.isfinite(minift.predict(tmp_path / "run", rows)[0]["prediction"])


@each_way
def test_vectors_of_a_file_are_those_of_its_words(tmp_path, glove, channels):
    run, said = finetuned(tmp_path / "run", f"kim-cnn:{glove}", epochs=1, channels=channels, lr=1e-9)
    words = run.tokenizer.itos
    assert f"5 vectors of 4 numbers; 4 of the {len(words) - 2} words have one" in said
    assert "embed.weight" not in said.split("drawn at random: ")[1].split("\n")[0]
    assert run.model.config.channels == channels and run.model.config.embedding_size == 4
    for table in run.model.tables:
        torch.testing.assert_close(table[words.index("good")], torch.tensor([3, -2, 0.5, 0.5]), rtol=0, atol=1e-6)
        assert table[words.index("very")].abs().sum() > 0


def test_a_static_channel_keeps_the_files_vectors_while_the_other_learns(tmp_path, glove):
    run, _ = finetuned(tmp_path / "run", f"kim-cnn:{glove}", channels="multichannel", lr=0.01)
    at, right = run.tokenizer.itos.index("good"), torch.tensor([3, -2, 0.5, 0.5])
    assert torch.equal(run.model.static[at], right) and not torch.equal(run.model.embed.weight[at], right)


def test_a_file_is_found_in_the_users_own_folder(glove, monkeypatch):
    folder, name = os.path.split(glove)
    monkeypatch.setenv("HOME", folder)
    model, _ = cnn.made(f"kim-cnn:~/{name}", ("classify",), ["x", "y"], ["good film"])
    assert model.config.embedding_size == 4


def test_random_before_a_file_draws_its_vectors_too(glove):
    texts = [row["text"] for row in tiny.rows(9)]
    model, tokenizer = cnn.made(f"random:kim-cnn:{glove}", ("classify",), ["x", "y"], texts)
    assert model.config.embedding_size == 4 and model.embed.weight.abs().max() <= 0.25
    assert "embed.weight" in model.report.new and "good" in tokenizer.itos


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart"])
def test_a_models_tokens_and_vectors_are_read(tmp_path, folders, family):
    run, said = finetuned(tmp_path / "run", f"kim-cnn:{folders[family]}", epochs=1, channels="static")
    source, tokenizer = minift.load(folders[family])
    name = {"bert": "bert.embeddings.word_embeddings", "gpt2": "transformer.wte", "bart": "model.shared"}[family]
    assert torch.equal(run.model.static, source.state_dict()[f"{name}.weight"])
    assert run.tokenizer.encode("the film") == tokenizer.encode("the film")
    assert minift.predict(tmp_path / "run", TEXTS) == minift.predict((run.model, run.tokenizer), TEXTS)
    assert "static" not in said.split("drawn at random: ")[1].split("\n")[0]


@pytest.mark.parametrize("name", hub.embedded())
def test_of_every_embedded_model_it_is_the_embedding_that_is_read(name):
    model, tokenizer = cnn.made(f"kim-cnn:{name}", ("classify",), None, [])
    first = next(m for m in minift.load_model(name).modules() if isinstance(m, torch.nn.Embedding))
    assert torch.equal(model.embed.weight, first.weight)
    assert model(torch.tensor([tokenizer.encode("a text")])).isfinite().all()


def test_a_fine_tuned_one_goes_on_and_lends_its_vectors(tmp_path, glove):
    finetuned(tmp_path / "first", f"kim-cnn:{glove}", channels="static", epochs=1)
    again, _ = finetuned(tmp_path / "second", str(tmp_path / "first"), epochs=1)
    assert again.model.config.channels == "static"
    lent, _ = finetuned(tmp_path / "third", f"kim-cnn:{tmp_path / 'first'}", channels="static", epochs=1)
    assert torch.equal(lent.model.static, again.model.static)


@pytest.mark.parametrize(
    ("task", "model", "more", "said"),
    [
        ("lm", "kim-cnn", {}, "kim_cnn has no kind 'lm', but classify"),
        ("classify", "kim-cnn:", {}, "behind the colon"),
        ("classify", "kim-cnn:nowhere/v.txt", {}, "there is no such file, and as a model"),
        ("classify", "kim-cnn", {"channels": "statik"}, "did you mean 'static'"),
        ("classify", "bert-nano", {"channels": "static"}, "--channels static"),
        ("classify", "kim-cnn", {"train": [{"text": " ", "label": x} for x in "ab"]}, "no words"),
        ("classify", "kim-cnn", {"train": [{"txt": "a b", "label": x} for x in "ab"]}, "'text'"),
    ],
)
def test_what_cannot_be_is_named(tmp_path, monkeypatch, task, model, more, said):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = [{"text": "a text of some words"}] * 4 if task == "lm" else tiny.rows(8)
    settings = {"train": rows, "valid": rows} | more
    if "train" in more:
        settings["valid"] = more["train"]
    with pytest.raises(minift.Error) as caught:
        minift.finetune(task, model=model, out=tmp_path / "run", **settings)
    assert said in str(caught.value) and not (tmp_path / "run" / "config.json").exists()


def test_without_texts_it_has_no_words():
    for name in "kim-cnn", "random:kim-cnn", "kim-cnn:glove.txt":
        with pytest.raises(minift.Error, match="no words until it sees texts"):
            minift.load(name)
