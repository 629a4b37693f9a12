"""AWD-LSTM: its equations, the laws, fastai's files, training with a state. Run me: pytest tests/test_awd_lstm.py"""

import pickle
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

import minift
from minift import adapters, data, pretrained, pretraining, safetensors, train
from minift.models import awd_lstm
from minift.models.awd_lstm import AWDLSTM, Config
from minift.settings import Finetune
from minift.tasks.lm import Streams
from minift.tokenizers.words import SPECIAL, Words

torch.set_num_threads(1)

VOCABULARY, C, H = 40, 8, 12
LABELS = ["bad", "good", "odd"]
KINDS = pytest.mark.parametrize("kind", AWDLSTM.ARCHITECTURES)
NONE = dict.fromkeys(awd_lstm.DROPOUT["lm"], 0.0)
WORDS = [*SPECIAL, *(f"word{i}" for i in range(VOCABULARY - len(SPECIAL)))]


def tiny(kind="lm", dtype=torch.float64, **more):
    """The same model at every call, none of its parameters or figures at its initial value."""
    torch.manual_seed(0)
    config = Config(**{"vocab_size": VOCABULARY, "emb_sz": C, "n_hid": H, "labels": LABELS} | NONE | more)
    model = AWDLSTM(config, kind).to(dtype).eval()
    with torch.no_grad():
        for p in model.state_dict().values():
            p += torch.empty_like(p).uniform_(0.1, 0.5)
    return model


def text(length, seed=0):
    return torch.randint(1, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(100 * length + seed))


def close(found, expected, atol=1e-12):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def by_hand(model, ids):
    """The hidden states (T, C) of one text (T,), a step and a gate at a time (Merity et al. 2017, section 2)."""
    xs = [model.encoder.weight[id] for id in ids]
    for rnn in model.rnns:
        h = c = torch.zeros(rnn.weight_hh_l0_raw.shape[1], dtype=xs[0].dtype)
        outputs = []
        for x in xs:
            z = rnn.weight_ih_l0 @ x + rnn.bias_ih_l0 + rnn.weight_hh_l0_raw @ h + rnn.bias_hh_l0
            i, f, g, o = z.split(len(h))
            c = 1 / (1 + (-f).exp()) * c + 1 / (1 + (-i).exp()) * torch.tanh(g)
            h = 1 / (1 + (-o).exp()) * torch.tanh(c)
            outputs.append(h)
        xs = outputs
    return torch.stack(xs)


def head_by_hand(model, hidden):
    """The scores of one text: [last, max, mean], and twice norm and matrix."""
    x = torch.cat((hidden[-1], hidden.max(0).values, hidden.sum(0) / len(hidden)))
    for norm, linear in (0, 2), (4, 6):
        n, m = model.layers[norm], model.layers[linear]
        x = m.weight @ ((x - n.running_mean) / (n.running_var + 1e-5).sqrt() * n.weight + n.bias) + m.bias
        x = x if linear == 6 else x.clamp(min=0)
    return x


# -- the equations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_logits_are_those_of_the_equations(layers):
    model, ids = tiny(n_layers=layers), text(9)
    hidden = by_hand(model, ids[0])
    close(model.hidden(ids)[0], hidden)
    close(model(ids)[0], hidden @ model.encoder.weight.T + model.decoder.bias)
    close(model(ids.repeat(3, 1))[2], model(ids)[0])
    assert model(ids).shape == (1, 9, VOCABULARY)


def test_a_classifier_scores_the_last_the_largest_and_the_mean():
    model = tiny("classify")
    for n in 1, 2, 9:
        close(model(text(n))[0], head_by_hand(model, by_hand(model, text(n)[0])))


def test_in_float32_it_is_the_same_to_rounding():
    close(tiny().float()(text(30)).double(), tiny()(text(30)), atol=2e-5)


def test_the_default_shape_is_that_of_wt103():
    with torch.device("meta"):
        model = AWDLSTM(Config())
    assert [tuple(rnn.weight_ih_l0.shape) for rnn in model.rnns] == [(4608, 400), (4608, 1152), (1600, 1152)]
    assert [tuple(rnn.weight_hh_l0_raw.shape) for rnn in model.rnns] == [(4608, 1152), (4608, 1152), (1600, 400)]


def test_an_untied_decoder_has_its_own_weight():
    model = tiny(tie_word_embeddings=False)
    close(model(text(5))[0], by_hand(model, text(5)[0]) @ model.decoder.weight.T + model.decoder.bias)
    assert not torch.equal(model.decoder.weight, model.encoder.weight)


# -- the laws ---------------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize(("left", "right"), [(0, 0), (0, 3), (3, 0), (2, 1)])
@pytest.mark.parametrize("kind_of_mask", [torch.bool, torch.int64])
def test_padding_is_inert(kind, left, right, kind_of_mask):
    model, ids = tiny(kind), text(6)
    padded, mask = F.pad(ids, (left, right), value=7), F.pad(torch.ones_like(ids), (left, right)).to(kind_of_mask)
    rows, masks = torch.cat((padded, text(6 + left + right))), torch.cat((mask, torch.ones_like(mask)))
    for found in model(padded, mask), model(rows, masks)[:1]:
        close(found if kind == "classify" else found[:, left : left + 6], model(ids))


@KINDS
@pytest.mark.parametrize("training", [False, True])
def test_a_row_without_a_token_gives_finite_outputs_and_gradients(kind, training):
    model, ids = tiny(kind).train(training), torch.cat((text(5), text(5, 1), text(5, 2)))
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 1, 1, 0, 0]])
    logits = model(ids, mask)
    logits.sum().backward()
    assert logits.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    if not training:
        found = logits[0] if kind == "classify" else logits[0:1]
        close(found.reshape(-1), model(ids[:1]).reshape(-1))


def test_the_future_is_invisible():
    model, ids = tiny(), text(9)
    changed = ids.clone()
    changed[0, 5:] = (ids[0, 5:] + 3) % VOCABULARY
    assert torch.equal(model(changed)[:, :5], model(ids)[:, :5])
    assert (model(changed)[:, 5:] != model(ids)[:, 5:]).any(-1).all()


@pytest.mark.parametrize(
    "row", [[1, 1, 1, 2, 2, 2, 2], [0, 3, 3, 0, 5, 5, 0], [1, 2, 1, 2, 1, 2, 0], [1, 1, 0, 0, 1, 1, 2]]
)
def test_packed_neighbours_never_see_each_other(row):
    model, ids, mask = tiny(), torch.cat((text(7), text(7, 1))), torch.tensor([row, [4, 4, 4, 4, 4, 4, 9]])
    found = model.hidden(ids, mask)
    for b in 0, 1:
        for n in mask[b].unique():
            if n:
                close(found[b, mask[b] == n], by_hand(model, ids[b, mask[b] == n]))


@pytest.mark.parametrize("cut", range(1, 9))
@pytest.mark.parametrize("side", ["none", "left", "right", "both", "packed"])
def test_a_state_goes_on_where_it_stopped(cut, side):
    model, ids = tiny(), torch.cat([text(9, n) for n in range(3)])
    mask = {
        "none": None,
        "left": [[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9, [0, 0, 0, 0, 0, 0, 0, 0, 1]],
        "right": [[1, 1, 1, 1, 1, 1, 1, 0, 0], [1] * 9, [1, 0, 0, 0, 0, 0, 0, 0, 0]],
        "both": [[0, 1, 1, 0, 0, 1, 1, 0, 1], [1] * 9, [0, 0, 0, 1, 1, 0, 0, 0, 0]],
        "packed": [[1, 1, 2, 2, 2, 3, 3, 3, 3], [1] * 9, [0, 1, 1, 1, 0, 2, 2, 0, 2]],
    }[side]
    mask = None if mask is None else torch.tensor(mask)
    cache, part = {}, slice(None)
    first = model.hidden(ids[:, :cut], None if mask is None else mask[:, :cut], cache)
    found = torch.cat((first, model.hidden(ids[:, cut:], mask, cache)), 1)
    whole = model.hidden(ids, mask)
    real = slice(None) if mask is None else mask != 0
    close(found[real], whole[real])
    assert all(part[0].shape == (3, size) for part, size in zip(cache.values(), (H, H, C), strict=True)) and part


def test_dropout_is_in_training_alone_and_of_five_kinds():
    for name in NONE:
        model = tiny(**{name: 0.5}).train()
        once, again = model(text(6)), model(text(6))
        assert not torch.equal(once, again), name
        close(model.eval()(text(6)), tiny()(text(6)))
    model = tiny().train()
    assert torch.equal(model(text(6)), model(text(6)))


def test_a_dropped_word_is_dropped_wherever_it_stands_and_the_rest_is_scaled():
    model, seen = tiny(embed_p=0.5).train(), []
    model.input_dp.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    ids = torch.tensor([[3, 4, 3, 5, 4, 3], [4, 4, 5, 3, 5, 6]])
    for _ in range(10):
        model(ids)
    for x in seen:
        for word in 3, 4, 5:
            scales = (x[ids == word] / model.encoder.weight[word]).flatten()
            assert torch.allclose(scales, scales[0]) and round(scales[0].item(), 9) in (0.0, 2.0)


def test_locked_dropout_drops_the_same_channels_at_every_step_of_a_text():
    torch.manual_seed(1)
    x = awd_lstm.LockedDropout(0.5).train()(torch.ones(4, 9, 50))
    assert (x == x[:, :1]).all() and {*x.unique().tolist()} == {0.0, 2.0}
    assert not torch.equal(x[0], x[1])


def test_dropout_between_layers_stands_between_them_and_not_behind_the_last():
    one, two = (tiny(n_layers=n, hidden_p=0.5) for n in (1, 2))
    alike = [torch.equal(model.train().hidden(text(6)), model.eval().hidden(text(6))) for model in (one, two)]
    assert alike == [True, False]


def test_weight_dropout_changes_what_goes_from_state_to_state_and_nothing_else():
    model = tiny(weight_p=1.0).train()  # all of it dropped: no step sees the one before but through c
    rnn = model.rnns[0]
    y = rnn(torch.ones(1, 3, C, dtype=torch.float64), *torch.zeros(2, 1, H, dtype=torch.float64))[0]
    raw = rnn.weight_hh_l0_raw.detach().clone()
    rnn.eval().weight_hh_l0_raw.data.zero_()
    close(y, rnn(torch.ones(1, 3, C, dtype=torch.float64), *torch.zeros(2, 1, H, dtype=torch.float64))[0])
    assert raw.abs().max() > 0


def test_each_kind_has_its_published_dropout_unless_the_config_says_else():
    config = Config(vocab_size=9, emb_sz=4, n_hid=4, hidden_p=0.0)
    for kind, weight, inputs in ("lm", 0.2, 0.25), ("classify", 0.5, 0.4):
        model = AWDLSTM(config, kind)
        assert (model.rnns[0].weight_p, model.input_dp.p, model.hidden_dp.p) == (weight, inputs, 0.0)


def test_recomputing_gives_the_same_gradients():
    found = []
    for recompute in False, True:
        model = tiny(weight_p=0.3, hidden_p=0.3).train()
        model.recompute = recompute
        torch.manual_seed(3)
        model(torch.cat((text(6), text(6, 1))), torch.tensor([[0, 1, 1, 1, 1, 1], [1] * 6])).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.equal(*found)


def test_a_norm_takes_the_batch_in_training_and_its_running_figures_for_a_lone_row():
    norm = tiny("classify").layers[0]
    ours, theirs = awd_lstm.BatchNorm(3 * C).double(), torch.nn.BatchNorm1d(3 * C).double()
    ours.load_state_dict(norm.state_dict())
    theirs.load_state_dict(norm.state_dict(), strict=False)
    x = torch.randn(5, 3 * C, dtype=torch.float64)
    close(ours(x), theirs(x))
    close(ours.running_var, theirs.running_var)
    close(ours.eval()(x), theirs.eval()(x))
    before = ours.running_mean.clone()
    close(ours.train()(x[:1]), theirs(x[:1]))
    assert torch.equal(ours.running_mean, before)
    model = tiny("classify").train()
    one = model(*(torch.cat(pair) for pair in zip(*[(text(6), torch.ones(1, 6))] * 2, strict=True)))
    model = tiny("classify").train()
    ids, mask = F.pad(text(6), (2, 3)).repeat(2, 1), F.pad(torch.ones(1, 6), (2, 3)).repeat(2, 1)
    close(model(ids, mask), one)


# -- files ------------------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("untied", [False, True])
def test_what_is_saved_loads_bit_for_bit(kind, untied, tmp_path):
    labels = LABELS if kind == "classify" else ["LABEL_0", "LABEL_1"]
    how = {"tie_word_embeddings": not untied, "hidden_p": 0.125, "labels": labels}
    model, tokenizer = tiny(kind, torch.float32, **how), Words(WORDS)
    minift.save(model, tokenizer, tmp_path)
    again, words = minift.load(tmp_path)
    assert again.kind == kind and again.config == model.config and words.itos == WORDS
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert torch.equal(again(text(8)), model(text(8))) and not again.report.new
    keys = safetensors.load(tmp_path / "model.safetensors").keys()
    assert keys >= {"0.encoder.weight", "0.rnns.0.weight_hh_l0_raw", "0.rnns.2.module.weight_ih_l0"}


def published(model, form):
    """The state dict as fastai's versions write it."""
    state, head = {}, {2: "lin", 0: "bn"}
    wrapper = "0.module." if model.kind == "classify" else "0."
    for i, rnn in enumerate(model.rnns):
        state[f"{wrapper}rnns.{i}.weight_hh_l0_raw"] = rnn.weight_hh_l0_raw
        if form == 1:  # the dropped weight is there too, with whatever dropout it had last
            state[f"{wrapper}rnns.{i}.module.weight_hh_l0"] = F.dropout(rnn.weight_hh_l0_raw, 0.5)
        for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
            state[f"{wrapper}rnns.{i}.module.{name}"] = getattr(rnn, name)
    state[f"{wrapper}encoder.weight"] = state[f"{wrapper}encoder_dp.emb.weight"] = model.encoder.weight
    if model.kind == "lm":
        state |= {"1.decoder.weight": model.encoder.weight, "1.decoder.bias": model.decoder.bias}
    else:
        for name, tensor in model.layers.state_dict().items():
            number, _, rest = name.partition(".")
            group = f"{number}" if form == 1 else f"{int(number) // 4}.{int(number) % 4}"
            assert int(number) % 4 in head
            state[f"1.layers.{group}.{rest}"] = tensor
        state |= {
            f"1.layers.{n}.num_batches_tracked": torch.tensor(7) for n in ([0, 4] if form == 1 else ["0.0", "1.0"])
        }
    return {key: tensor.detach().clone() for key, tensor in state.items()}


@KINDS
@pytest.mark.parametrize("form", [1, 2])
@pytest.mark.parametrize("layout", ["flat", "models", "with optimiser", "old zip"])
def test_a_folder_as_fastai_leaves_it_loads_by_name(kind, form, layout, tmp_path):
    model = tiny(kind, torch.float32, labels=["neg", "pos"])
    if form == 2 and kind == "classify":  # fastai 2 gives these no bias
        model.layers[2].bias.data.zero_()
        model.layers[6].bias.data.zero_()
    state = published(model, form)
    if form == 2:
        state = {key: t for key, t in state.items() if not key.startswith(("1.layers.0.2.bias", "1.layers.1.2.bias"))}
    weights = tmp_path / ("models/best.pth" if layout == "models" else "lstm_fwd.pth")
    weights.parent.mkdir(exist_ok=True)
    whole = {"model": state, "opt": {"state": [{"mom": 0.9}], "hypers": []}} if layout == "with optimiser" else state
    torch.save(whole, weights, _use_new_zipfile_serialization=layout != "old zip")
    vocabulary = [WORDS, ["neg", "pos"]] if kind == "classify" else WORDS
    (tmp_path / "itos_wt103.pkl").write_bytes(pickle.dumps(vocabulary))

    found, tokenizer = minift.load(tmp_path)
    assert found.kind == kind and torch.equal(found(text(8)), model(text(8))) and tokenizer.itos == WORDS
    shape = {"vocab_size": VOCABULARY, "emb_sz": C, "n_hid": H, "n_layers": 3}
    assert {name: getattr(found.config, name) for name in shape} == shape
    assert found.config.labels == (["neg", "pos"] if kind == "classify" else ["LABEL_0", "LABEL_1"])
    assert not found.report.new and not found.report.unexpected
    assert "every parameter has its weights" in pretrained.check(tmp_path)
    minift.save(found, tokenizer, tmp_path / "ours")
    assert torch.equal(minift.load_model(tmp_path / "ours")(text(8)), model(text(8)))


def test_an_encoder_alone_becomes_a_language_model_or_a_classifier(tmp_path):
    model = tiny(dtype=torch.float32)
    state = {k[2:]: t for k, t in published(model, 1).items() if k.startswith("0.")}
    torch.save(state, tmp_path / "encoder.pth")
    assert torch.equal(minift.load_model(tmp_path).hidden(text(8)), model.hidden(text(8)))
    found = minift.load_model(tmp_path, "classify", ["a", "b"])
    assert torch.equal(found.hidden(text(8)), model.hidden(text(8)))
    assert {name.split(".")[0] for name in found.report.new} == {"layers"}


class Evil:
    def __reduce__(self):
        return print, ("never",)


def test_weights_that_are_none_are_told_of(tmp_path, capsys):
    path = tmp_path / "lstm.pth"
    for value, message in ({"a": torch.ones(2)}, "no AWD-LSTM"), ({"a": Evil()}, "refused and not run"):
        torch.save(value, path)
        with pytest.raises(minift.Error, match=message):
            minift.load_model(tmp_path)
    state = published(tiny(), 1)
    torch.save(state | {"0.rnns.0.module.weight_ih_l0_reverse": torch.ones(2)}, path)
    with pytest.raises(minift.Error, match=r"hold unknown 0\.rnns\.0\.module\.weight_ih_l0_reverse"):
        minift.load_model(tmp_path)
    state.pop("0.rnns.1.module.bias_hh_l0")
    torch.save(state, path)
    with pytest.raises(minift.Error, match=r"lack rnns\.1\.bias_hh_l0"):
        minift.load_model(tmp_path)
    torch.save(state, tmp_path / "lstm_bwd.pth")
    with pytest.raises(minift.Error, match=r"lstm\.pth', 'lstm_bwd\.pth|lstm.pth, .*lstm_bwd.pth"):
        minift.load_model(tmp_path)
    assert "never" not in capsys.readouterr().out


def test_a_classifier_is_made_of_a_language_model_in_a_folder_or_in_memory(tmp_path):
    model = tiny(dtype=torch.float32)
    minift.save(model, Words(WORDS), tmp_path)
    for found in minift.load_model(tmp_path, "classify", LABELS), pretrained.with_head(model, "classify", LABELS):
        assert torch.equal(found.hidden(text(8)), model.hidden(text(8))) and found(text(8)).shape == (1, 3)
        new = {name for name in found.state_dict() if name.startswith("layers.")}
        assert {*found.report.new} == new and len(new) == 12
        assert torch.equal(found.layers[0].running_var, torch.ones(3 * C))
    minift.save(found, None, tmp_path / "classifier")
    back = minift.load_model(tmp_path / "classifier", "lm")
    assert back.report.new == ["decoder.bias"] and torch.equal(back.hidden(text(8)), model.hidden(text(8)))
    with pytest.raises(minift.Error, match="no vocabulary head"):
        _ = found.unembedding


@KINDS
def test_a_new_vocabulary_keeps_known_words_and_gives_others_the_mean(kind):
    model = tiny(kind)
    model.generation = {"eos_token_id": 2, "suppress_tokens": [0, 39], "num_beams": 2}
    new = ["xxpad", "xxunk", "other", "word5", "xxbos", "word0", "more"]
    found = awd_lstm.adapted(model, WORDS, new)
    ids = [WORDS.index(word) if word in WORDS else -1 for word in new]
    for row, id in enumerate(ids):
        weight = model.encoder.weight.mean(0) if id < 0 else model.encoder.weight[id]
        assert torch.equal(found.encoder.weight[row], weight)
    assert found.config.vocab_size == 7 and found.config.pad_token_id == 0
    assert found.generation == {"eos_token_id": 4, "suppress_tokens": [1], "num_beams": 2}
    known = [row for row, id in enumerate(ids) if id >= 0]
    theirs = model(torch.tensor([[ids[row] for row in known]]))
    ours = found(torch.tensor([known]))
    close(
        ours if kind == "classify" else ours[..., known],
        theirs if kind == "classify" else theirs[..., [ids[r] for r in known]],
    )
    if kind == "lm":
        close(found.decoder.bias[2], model.decoder.bias.mean())
        assert found.unembedding[0] is found.encoder.weight
    with pytest.raises(minift.Error, match="41 words, the embedding 40 rows"):
        awd_lstm.adapted(model, [*WORDS, "one"], new)


def test_the_best_epoch_has_its_running_figures_too():
    model, scores, seen = tiny("classify", torch.float32).train(), iter([0.5, 0.9, 0.1]), []

    def evaluate(model):
        seen.append(model.layers[0].running_mean.clone())
        return {"accuracy": next(scores)}

    batch = {"ids": torch.cat((text(6), text(6, 1))), "mask": torch.ones(2, 6), "target": torch.tensor([0, 1])}
    loss = lambda model, b: (F.cross_entropy(model(b["ids"], b["mask"]), b["target"], reduction="sum"), 2)
    how = Finetune(lr=0.01, precision="fp32")
    train.train(model, [[[0]]] * 3, lambda rows: batch, loss, how, evaluate, lambda metrics: metrics["accuracy"])
    assert torch.equal(model.layers[0].running_mean, seen[1]) and not torch.equal(seen[1], seen[2])


# -- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("how", [{}, {"beams": 3}])
def test_writing_from_a_padded_batch_is_writing_one_by_one(side, how):
    model, prompts = tiny(dtype=torch.float32), [text(n) for n in (7, 2, 4)]
    pad = lambda n: (7 - n, 0) if side == "left" else (0, 7 - n)
    ids = torch.cat([F.pad(p, pad(p.shape[1])) for p in prompts])
    mask = torch.cat([F.pad(torch.ones_like(p), pad(p.shape[1])) for p in prompts]).bool()
    together = minift.generate_ids(model, ids, mask, max_new_tokens=9, eos=3, **how)
    assert together == [minift.generate_ids(model, p, max_new_tokens=9, eos=3, **how)[0] for p in prompts]
    one, said = prompts[0], []
    for _ in range(9 if not how else 0):  # without a cache
        said.append(int(model(one)[0, -1].argmax()))
        one = torch.cat((one, torch.tensor([[said[-1]]])), 1)
    assert how or together[0] == (said[: said.index(3)] if 3 in said else said)


def test_what_is_written_goes_on_behind_the_prompt_with_its_spaces():
    words = Words([*SPECIAL, "the", "cat", ",", "."])
    model = tiny(dtype=torch.float32, vocab_size=13)
    model.decoder.bias.data[: len(SPECIAL)] = -50.0  # words alone
    found = minift.generate(model, words, "The cat", max_new_tokens=12, temperature=1.0, seed=0)
    assert found and (found[0] in " ,.")


# -- learning ---------------------------------------------------------------------------------------------------------


class Numbers:
    """A tokenizer: a text is numbers from 9."""

    pad, unk, bos, eos, cls, sep, mask, vocab_size = 1, 0, 2, None, None, None, None, VOCABULARY

    def encode(self, text):
        return [2, *map(int, text.split())]


def stream_of(length, seed=0):
    return " ".join(map(str, text(length, seed)[0].clamp(9).tolist()))


def test_streams_hold_every_token_once_and_in_order():
    worker = Streams(Numbers(), 2**31, bptt=5)
    table = data.read([{"text": stream_of(33)}, {"text": stream_of(20, 1)}])
    rows = worker.training(table)
    whole = [id for row in table.rows for id in Numbers().encode(row["text"])]
    assert [id for row in rows for id in row["ids"]] == whole[:-1]
    assert [id for row in rows for id in row["target"]] == whole[1:]
    for size in 1, 2, 3, 4, 50:
        batches = worker.in_order(len(rows), size)
        assert sorted(row for batch in batches for row in batch) == list(range(len(rows)))
        assert max(map(len, batches)) <= size
        for before, after in pairwise(batches):
            assert [row + 1 for row in before[: len(after)]] == after


@pytest.mark.parametrize("size", [1, 3])
def test_the_loss_of_a_window_is_that_of_all_the_text_before_it_and_its_gradient_ends_at_its_start(size):
    model = tiny().train()
    worker = Streams(Numbers(), 2**31, bptt=5)
    rows = worker.training(data.read([{"text": stream_of(62)}]))
    batches = worker.in_order(len(rows), size)
    for k, batch in enumerate(batches):
        total, units = worker.loss(model, worker.batch([rows[i] for i in batch]))
        expected, count = 0.0, 0
        for first, last in zip(batches[0], batch, strict=False):
            ids = torch.tensor([id for i in range(first, last + 1) for id in rows[i]["ids"]])[None]
            target = torch.tensor(rows[last]["target"])
            logits = model(ids)[0, -len(target) :]
            expected, count = expected + F.cross_entropy(logits, target, reduction="sum"), count + len(target)
        assert units == count and last - first == k
        close(total.double(), expected, atol=1e-4)  # the loss is in float32


def test_the_gradient_ends_where_its_window_begins():
    model = tiny().train()
    matrix = torch.randn(C, VOCABULARY, dtype=torch.float64)
    model.head = lambda hidden: hidden @ matrix  # so that the embedding learns from what is read alone
    worker, loss = Streams(Numbers(), 2**31, bptt=5), None
    for row in 0, 1:
        loss = worker.loss(model, worker.batch([worker.window([*range(9, 20)], row)]))[0]
    loss.backward()
    learned = model.encoder.weight.grad.abs().sum(1) > 0
    assert learned.nonzero()[:, 0].tolist() == [14, 15, 16, 17, 18]


def test_a_measurement_between_two_windows_begins_the_state_anew():
    model, worker = tiny().train(), Streams(Numbers(), 2**31, bptt=5)
    table = data.read([{"text": stream_of(30)}])
    rows = [worker.batch([row]) for row in worker.training(table)]
    alone = worker.loss(model, rows[1])[0]
    worker.loss(model, rows[0])
    assert not torch.allclose(worker.loss(model, rows[1])[0], alone)
    worker.loss(model.eval(), worker.batch(worker.examples(table)))
    close(worker.loss(model.train(), rows[1])[0], alone)


def test_where_only_the_last_layer_learns_the_state_still_goes_on_and_no_word_is_dropped():
    model, worker = tiny(embed_p=0.5), Streams(Numbers(), 2**31, bptt=5)
    rows = [worker.batch([row]) for row in worker.training(data.read([{"text": stream_of(30)}]))]
    whole = torch.cat([row["ids"] for row in rows[:2]], 1)
    targets = torch.cat([row["target"] for row in rows[:2]], 1)[0]
    expected = F.cross_entropy(model(whole)[0], targets, reduction="none").view(2, 5).sum(1)
    adapters.choose(model, "last:1")
    adapters.train_mode(model)
    close(torch.stack([worker.loss(model, row)[0] for row in rows[:2]]).double(), expected, atol=1e-4)


def test_measuring_gives_each_token_once_with_two_windows_before_it():
    model, worker = tiny(), Streams(Numbers(), 2**31, bptt=5)
    table = data.read([{"text": stream_of(130)}, {"text": stream_of(7, 1)}])
    examples = worker.examples(table)
    assert sum(e["tokens"] for e in examples) == 130 + 7
    assert worker.max_length == 40 and worker.stride == 30
    measured = worker.metrics(worker.outputs(model, worker.batch(examples)), examples)
    ids = torch.tensor([Numbers().encode(table.rows[0]["text"])])
    whole = F.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:], reduction="sum")
    ids = torch.tensor([Numbers().encode(table.rows[1]["text"])])
    whole += F.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:], reduction="sum")
    assert measured["loss"] == pytest.approx(whole.item() / 137, abs=0.02)


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A little language model that has seen a few sentences."""
    path = tmp_path_factory.mktemp("lstm")
    (path / "book.txt").write_text("The cat sat. The dog, so good, sat too!\n\n" * 120, encoding="utf-8")
    how = {"vocab": 40, "width": 16, "layers": 2, "context": 12, "batch_size": 4, "tokens": 8000.0, "save_every": 20}
    how |= {"text": [str(path / "book.txt")], "device": "cpu", "threads": 1, "lr": 0.02}
    pretraining.pretrain("lstm", out=str(path / "whole"), **how)
    return path, how


def test_pretraining_learns_and_says_what_it_held_out(folder):
    path, _ = folder
    model, words = minift.load(path / "whole")
    assert model.FAMILY == "awd_lstm" and words.itos[: len(SPECIAL)] == SPECIAL
    assert model.config.input_p is None and model.input_dp.p == 0.25  # no dropout was in the training, but is now
    result = pretraining.files.read_json(path / "whole" / "result.json")
    assert result["metrics"]["held"]["loss"] < 0.5 and words.vocab_size > 16
    assert model.generation["eos_token_id"] == words.bos
    assert minift.generate(model, words, "The cat", max_new_tokens=4).startswith(" sat.")


def test_pretraining_that_was_interrupted_comes_to_the_same_end(folder):
    path, how = folder

    class Enough(Exception):
        pass

    real, calls = pretraining.held_loss, []

    def held_loss(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise Enough
        return real(*arguments)

    pretraining.held_loss = held_loss
    try:
        with pytest.raises(Enough):
            pretraining.pretrain("lstm", out=str(path / "twice"), **how)
    finally:
        pretraining.held_loss = real
    assert not (path / "twice" / "model.safetensors").exists()
    pretraining.pretrain("lstm", out=str(path / "twice"), **how)
    ours, theirs = ((path / name / "model.safetensors").read_bytes() for name in ("whole", "twice"))
    assert ours == theirs


def test_a_language_model_is_fine_tuned_on_a_text_and_a_classifier_made_of_it(folder, tmp_path):
    path, _ = folder
    (tmp_path / "new.txt").write_text("The dog sat so good. The cat, too!\n\n" * 60, encoding="utf-8")
    how = {"device": "cpu", "threads": 1, "batch_size": 4}
    run = minift.finetune(
        "lm", model=path / "whole", train=tmp_path / "new.txt", out=tmp_path / "run", epochs=2, lr=0.005, **how
    )
    assert run.metrics["valid"]["loss"] < run.metrics["valid_before"]["loss"]
    again = minift.evaluate(tmp_path / "run", tmp_path / "new.txt")
    assert again["loss"] < run.metrics["valid_before"]["loss"]
    rows = [{"text": f"The {'cat' if i % 2 else 'dog'} sat{' so' * (i % 5)} good.", "label": i % 2} for i in range(41)]
    how |= {"train": rows, "valid": rows, "epochs": 12, "lr": 0.02}
    run = minift.finetune("classify", model=tmp_path / "run", out=tmp_path / "c", **how)
    assert run.metrics["valid"]["accuracy"] > 0.9
    before = run.model(torch.tensor([run.tokenizer.encode("The cat sat.")]))
    loaded = minift.load_model(tmp_path / "c")
    assert torch.equal(loaded(torch.tensor([run.tokenizer.encode("The cat sat.")])), before)
    said = minift.predict(tmp_path / "c", [row["text"] for row in rows])
    right = sum(int(found["prediction"]) == row["label"] for found, row in zip(said, rows, strict=True))
    assert right / len(rows) == pytest.approx(run.metrics["valid"]["accuracy"])
