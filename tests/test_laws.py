"""The laws of DESIGN.md for the models of one stack, on tiny ones. Run me: pytest tests/test_laws.py"""

import math
import os
from itertools import product
from operator import attrgetter

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

import minift
from minift import adapters, data, safetensors, train
from minift.models import bert, distilbert, gpt2, gpt_neo, opt, roberta
from minift.settings import Finetune

torch.set_num_threads(1)

MODELS = gpt2.GPT2, gpt_neo.GPTNeo, opt.OPT, bert.BERT, roberta.RoBERTa, distilbert.DistilBERT
CLASS = {cls.FAMILY: cls for cls in MODELS} | {"opt-350m": opt.OPT}
LM = {family: "lm" if "lm" in cls.ARCHITECTURES else "mlm" for family, cls in CLASS.items()}
FAMILIES = pytest.mark.parametrize("family", CLASS)
CAUSAL = pytest.mark.parametrize("family", [family for family in CLASS if LM[family] == "lm"])
KINDS = pytest.mark.parametrize(("family", "kind"), [(f, kind) for f in CLASS for kind in CLASS[f].ARCHITECTURES])
VOCABULARY = 40
LABELS = ["bad", "good", "odd"]


def config(family, dropout=0.0):
    if family == "gpt2":
        rates = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), dropout)
        sizes = {"n_positions": 32, "n_embd": 16, "n_layer": 3, "n_head": 2}
        return gpt2.Config(vocab_size=VOCABULARY, labels=LABELS, **sizes, **rates)
    if family == "distilbert":
        rates = dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout", "qa_dropout"), dropout)
        sizes = {"max_position_embeddings": 32, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24}
        return distilbert.Config(vocab_size=VOCABULARY, labels=LABELS, **sizes, **rates)
    if family == "gpt_neo":  # whose second block sees no more than three tokens
        rates = dict.fromkeys(("embed_dropout", "attention_dropout", "resid_dropout"), dropout)
        sizes = {"max_position_embeddings": 32, "hidden_size": 16, "num_layers": 3, "num_heads": 2, "window_size": 3}
        types = [[["global", "local", "global"], 1]]
        return gpt_neo.Config(vocab_size=VOCABULARY, labels=LABELS, attention_types=types, **sizes, **rates)
    if family.startswith("opt"):
        rates = dict.fromkeys(("dropout", "attention_dropout"), dropout)
        sizes = {"max_position_embeddings": 32, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
        sizes |= {"word_embed_proj_dim": 12, "do_layer_norm_before": False} if family == "opt-350m" else {}
        return opt.Config(vocab_size=VOCABULARY, labels=LABELS, ffn_dim=24, **sizes, **rates)
    rates = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    if family == "roberta":  # whose positions begin behind the padding's id
        sizes |= {"max_position_embeddings": 33, "pad_token_id": 0}
        return roberta.Config(vocab_size=VOCABULARY, labels=LABELS, **sizes, **rates)
    return bert.Config(vocab_size=VOCABULARY, labels=LABELS, max_position_embeddings=32, **sizes, **rates)


def tiny(family, kind, dropout=0.0):
    """The same model at every call, none of its parameters at its initial value."""
    torch.manual_seed(0)
    model = CLASS[family](config(family, dropout), kind).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += torch.empty_like(p).uniform_(-0.3, 0.3)
    return model


def text(length, seed=0):
    """ids (1, T); 0 stands for padding and is in no text."""
    return torch.randint(1, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(100 * length + seed))


def has_pooled(family, kind):
    """Whether there is one vector for a text: a BERT needs its pooler for that."""
    return family != "bert" or kind not in ("mlm", "answer")


def embedding(model):
    return next(module for module in model.modules() if isinstance(module, nn.Embedding))


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(before, model):
    return {name for name, p in model.named_parameters() if not torch.equal(before[name], p)}


def close(found, expected, atol=5e-6):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# -- Law 1: forward gives logits; a step divides its loss once, by all its units --------------------------------------


@KINDS
def test_forward_gives_logits_and_nothing_else(family, kind):
    model, ids = tiny(family, kind), text(5)
    if kind == "encoder":
        assert model.hidden(ids).shape == (1, 5, 16) and model.pooled(ids).shape == (1, 16)
        return
    logits = model(ids)
    assert logits.shape == {"classify": (1, len(LABELS)), "answer": (1, 5, 2)}.get(kind, (1, 5, VOCABULARY))
    assert torch.equal(logits, model.head(model.pooled(ids) if kind == "classify" else model.hidden(ids)))


@FAMILIES
def test_the_unembedding_is_what_the_head_multiplies_by(family):
    model = tiny(family, LM[family])
    hidden = model.hidden(text(5))
    weight, bias = model.unembedding
    transform = {"bert": "cls.predictions", "roberta": "lm_head", "distilbert": "transformed"}
    if family in transform:
        hidden = attrgetter(transform[family])(model)(hidden)
    close(F.linear(hidden, weight, bias), model(text(5)))


LENGTHS = [9, 2, 5, 12, 1, 7, 3, 3, 10, 4, 6]
ROWS = [{"ids": text(n, i)[0].tolist(), "target": (n + i) % 3} for i, n in enumerate(LENGTHS)]


def collate(rows):
    ids, mask = data.pad([ROWS[i]["ids"] for i in rows], 0)
    return {"ids": ids, "mask": mask, "target": torch.tensor([ROWS[i]["target"] for i in rows])}


def class_loss(model, batch):
    return F.cross_entropy(model(batch["ids"], batch["mask"]), batch["target"], reduction="sum"), len(batch["ids"])


def token_loss(model, batch):
    """Another token for each token: a row has as many units as tokens."""
    logits, target = model(batch["ids"], batch["mask"])[batch["mask"]], batch["ids"][batch["mask"]] * 7 % VOCABULARY
    return F.cross_entropy(logits, target, reduction="sum"), len(target)


def options(**values):
    return Finetune(**{"lr": 1e-3, "precision": "fp32", "log_every": 1} | values)


def gradients(model, batches, loss, monkeypatch, accumulate):
    """Of each step of `train`: (gradients before clipping, as one vector; loss). The rate is 0, so the weights stay."""
    found = []

    def clip(parameters, most):
        found.append(torch.cat([p.grad.flatten() for p in parameters]))
        return torch.tensor(0.0)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    history = train.train(model, [batches], collate, loss, options(lr=0.0, accumulate=accumulate))
    return list(zip(found, history.losses, strict=True))


@FAMILIES
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("of_tokens", [False, True])
def test_accumulation_equals_one_large_batch(family, dtype, most, of_tokens, monkeypatch):
    loss, kind = (token_loss, LM[family]) if of_tokens else (class_loss, "classify")
    small = [[0, 1, 2], [3], [4, 5], [6, 7, 8, 9], [10]]  # uneven, and of three windows the last is not full
    large = [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9], [10]]
    several = gradients(tiny(family, kind).to(dtype), small, loss, monkeypatch, accumulate=2)
    at_once = gradients(tiny(family, kind).to(dtype), large, loss, monkeypatch, accumulate=1)
    assert len(several) == len(at_once) == 3
    for (a, loss_a), (b, loss_b) in zip(several, at_once, strict=True):
        assert b.norm() > 1e-2 and (a - b).norm() <= most * b.norm()
        assert math.isclose(loss_a, loss_b, rel_tol=most)


@FAMILIES
def test_a_gradient_left_by_someone_else_is_not_learned_from(family):
    one, other = tiny(family, "classify"), tiny(family, "classify")
    class_loss(other, collate([3]))[0].backward()
    for model in one, other:
        train.train(model, [[[0, 1]]], collate, class_loss, options())
    assert changed(weights(one), other) == set()


# -- Law 2: padding is inert ------------------------------------------------------------------------------------------


def masks(real):
    """The ways to write a mask of which tokens are real."""
    return real, real.int(), real.long() * 7


def padded(ids, left, right, seed=0):
    """(ids, which are real) with anything at all in the padding."""
    ends = [text(n, seed + 1) if n else ids[:, :0] for n in (left, right)]
    real = torch.ones(1, left + ids.shape[1] + right, dtype=torch.bool)
    real[:, :left] = real[:, real.shape[1] - right :] = False
    return torch.cat((ends[0], ids, ends[1]), 1), real


@KINDS
def test_pads_left_or_right_change_no_answer(family, kind):
    model, ids = tiny(family, kind), text(6)
    alone = model.hidden(ids)
    for left, right in product(range(6), range(6)):
        wider, real = padded(ids, left, right)
        for mask in masks(real):
            close(model.hidden(wider, mask)[real], alone[0])
            if has_pooled(family, kind):
                close(model.pooled(wider, mask), alone[:, -1] if family == "gpt2" else model.pooled(ids))
            if kind == "classify":
                close(model(wider, mask), model(ids))


@KINDS
def test_rows_of_a_batch_answer_as_they_do_alone(family, kind):
    model = tiny(family, kind)
    texts = [text(n) for n in (9, 1, 4)]
    for side in "left", "right", "both":
        gaps = [9 - ids.shape[1] for ids in texts]
        sides = [{"left": (gap, 0), "right": (0, gap), "both": (gap // 2, gap - gap // 2)}[side] for gap in gaps]
        pairs = [padded(ids, *gap) for ids, gap in zip(texts, sides, strict=True)]
        ids, real = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
        for mask in masks(real):
            hidden = model.hidden(ids, mask)
            for row, alone in enumerate(texts):
                close(hidden[row, real[row]], model.hidden(alone)[0])


@KINDS
def test_padding_learns_nothing(family, kind):
    model, pad = tiny(family, kind), 39
    ids, mask = torch.full((2, 8), pad), torch.zeros(2, 8, dtype=torch.bool)
    ids[0, :5], mask[0, :5] = text(5)[0].clamp(max=38), True
    ids[1, 4:], mask[1, 4:] = text(4)[0].clamp(max=38), True
    model.hidden(ids, mask)[mask].square().sum().backward()
    gradient = embedding(model).weight.grad
    assert gradient[ids[mask]].any(-1).all() and not gradient[pad].any()


@KINDS
def test_packed_texts_are_read_as_if_alone(family, kind):
    model = tiny(family, kind)
    texts = [text(n) for n in (4, 1, 6, 3)]
    ids = torch.cat((*texts[:2], text(2, 9), *texts[2:], text(3, 9)), 1)
    mask = torch.tensor([[5] * 4 + [2] + [0] * 2 + [9] * 6 + [1] * 3 + [0] * 3])
    hidden = model.hidden(ids, mask)
    for number, alone in zip((5, 2, 9, 1), texts, strict=True):
        close(hidden[mask == number], model.hidden(alone)[0])


def test_packed_texts_keep_their_segments():
    model = tiny("bert", "encoder")
    one, other = text(5), text(3)
    segments = torch.tensor([[0, 0, 1, 1, 1, 0, 1, 1]])
    hidden = model.hidden(torch.cat((one, other), 1), torch.tensor([[1] * 5 + [2] * 3]), segments)
    close(hidden[:, :5], model.hidden(one, segments=segments[:, :5]))
    close(hidden[:, 5:], model.hidden(other, None, segments[:, 5:]))
    assert not torch.allclose(hidden[:, :5], model.hidden(one), atol=1e-2)


@KINDS
@pytest.mark.parametrize("rows", [[True, False], [False, False]])
def test_a_row_without_any_token_gives_finite_outputs_and_gradients(family, kind, rows):
    for of in range(3):
        model = tiny(family, kind, dropout=0.1).train()
        ids = torch.cat([text(4), text(4, 1)])
        mask = masks(torch.tensor(rows)[:, None].expand(2, 4))[of]
        outputs = [model.hidden(ids, mask)]
        outputs += [model.pooled(ids, mask)] if has_pooled(family, kind) else []
        outputs += [model(ids, mask)] if kind != "encoder" else []
        sum(out.square().sum() for out in outputs).backward()
        assert all(out.isfinite().all() for out in outputs)
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# -- Law 3: the future is invisible, and so are packed neighbours -----------------------------------------------------


@CAUSAL
@pytest.mark.parametrize("how", ["no mask", "bool", "left pads", "packed"])
def test_a_later_token_changes_no_earlier_logit(family, how):
    model, ids = tiny(family, "lm"), text(8)
    mask = None if how == "no mask" else torch.ones(1, 8, dtype=torch.long)
    if how == "left pads":
        mask[:, :2] = 0
    if how == "packed":
        mask[:, 4:] = 2
    before = model(ids, mask)
    for t in range(8):
        other = ids.clone()
        other[0, t] = ids[0, t] % (VOCABULARY - 1) + 1
        after = model(other, mask)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t], before[:, t])


@CAUSAL
def test_no_gradient_flows_from_a_token_to_a_later_one(family):
    model, ids = tiny(family, "lm"), text(8)
    vectors = []
    embedding(model).register_forward_hook(lambda module, given, x: vectors.append(x))
    logits = model(ids)
    for t in range(8):
        (gradient,) = torch.autograd.grad(logits[0, t].square().sum(), vectors[0], retain_graph=True)
        assert gradient[0, : t + 1].any(-1).all() and not gradient[0, t + 1 :].any()


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_bert_looks_both_ways(family):
    model, ids = tiny(family, "encoder"), text(8)
    before = model.hidden(ids)
    for t in 0, 7:
        other = ids.clone()
        other[0, t] = ids[0, t] % (VOCABULARY - 1) + 1
        assert (model.hidden(other) != before).any(-1).all()


@KINDS
def test_packed_neighbours_never_see_each_other(family, kind):
    model, ids = tiny(family, kind), text(9)
    mask = torch.tensor([[3, 3, 3, 1, 1, 1, 1, 2, 2]])
    before = model.hidden(ids, mask)
    for number in 1, 2, 3:
        other = torch.where(mask == number, ids % (VOCABULARY - 1) + 1, ids)
        same = (model.hidden(other, mask) == before).all(-1)
        assert torch.equal(same, mask != number)


# -- Law 4: published numerics ----------------------------------------------------------------------------------------


def norm(x, p, name, eps):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def linear(x, p, name):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def attended(q, k, v, heads, visible):
    """Scores divided by the root of a head's channels; each argument (T, C)."""
    size = q.shape[-1] // heads
    parts = [slice(size * h, size * (h + 1)) for h in range(heads)]
    scores = [(q[:, part] @ k[:, part].T / math.sqrt(size)).masked_fill(~visible, -math.inf) for part in parts]
    return torch.cat([score.softmax(-1) @ v[:, part] for score, part in zip(scores, parts, strict=True)], -1)


def test_gpt2_is_the_published_formula():
    """Norms first, with 1e-5; the tanh GELU; positions from 0; the embedding is the head."""
    model, ids = tiny("gpt2", "lm").double(), text(7)
    p = {name.removeprefix("transformer."): value for name, value in model.named_parameters()}
    x = p["wte.weight"][ids[0]] + p["wpe.weight"][:7]
    for i in range(3):
        q, k, v = linear(norm(x, p, f"h.{i}.ln_1", 1e-5), p, f"h.{i}.attn.c_attn").split(16, -1)
        x = x + linear(attended(q, k, v, 2, torch.ones(7, 7).tril().bool()), p, f"h.{i}.attn.c_proj")
        y = linear(norm(x, p, f"h.{i}.ln_2", 1e-5), p, f"h.{i}.mlp.c_fc")
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + linear(y, p, f"h.{i}.mlp.c_proj")
    close(model(ids)[0], norm(x, p, "ln_f", 1e-5) @ p["wte.weight"].T, atol=1e-10)


def test_bert_is_the_published_formula():
    """Norms last, with 1e-12; the exact GELU; positions from 0; the embedding and a bias are the head."""
    model, ids, segments = tiny("bert", "mlm").double(), text(7), torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    p = {name.removeprefix("bert."): value for name, value in model.named_parameters()}
    words, positions, kinds = (p[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type"))

    def gelu(y):
        return 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))

    x = norm(words[ids[0]] + positions[:7] + kinds[segments[0]], p, "embeddings.LayerNorm", 1e-12)
    for layer in (f"encoder.layer.{i}" for i in range(3)):
        q, k, v = (linear(x, p, f"{layer}.attention.self.{name}") for name in ("query", "key", "value"))
        y = linear(attended(q, k, v, 2, torch.ones(7, 7).bool()), p, f"{layer}.attention.output.dense")
        x = norm(x + y, p, f"{layer}.attention.output.LayerNorm", 1e-12)
        y = linear(gelu(linear(x, p, f"{layer}.intermediate.dense")), p, f"{layer}.output.dense")
        x = norm(x + y, p, f"{layer}.output.LayerNorm", 1e-12)
    x = norm(gelu(linear(x, p, "cls.predictions.transform.dense")), p, "cls.predictions.transform.LayerNorm", 1e-12)
    close(model(ids, None, segments)[0], x @ words.T + p["cls.predictions.bias"], atol=1e-10)


@FAMILIES
def test_a_fresh_model_starts_as_published(family):
    torch.manual_seed(0)
    for name, p in CLASS[family](config(family), LM[family]).named_parameters():
        if p.ndim == 1:
            norm = name.endswith("weight")
            assert (p == (1 if norm else 0)).all(), name
        else:  # what is added to the residual stream, twice in each of three blocks, starts smaller
            added = ("c_proj.weight", "out_proj.weight", "fc2.weight")
            deviation = 0.02 / math.sqrt(6) if name.endswith(added) else 0.02
            if family == "gpt_neo" and name.endswith("q_proj.weight"):  # as nothing else makes its scores smaller
                deviation /= math.sqrt(8)
            assert math.isclose(p.std(), deviation, rel_tol=0.3), name


@FAMILIES
def test_a_tied_embedding_learns_from_both_its_ends(family):
    model, ids = tiny(family, LM[family]), text(4)
    model(ids)[..., 39].sum().backward()
    assert model.unembedding[0] is embedding(model).weight
    gradient = embedding(model).weight.grad
    assert gradient[ids[0]].any(-1).all() and gradient[39].any()


# -- Law 5: loading maps every key by name (more in test_pretrained.py) -----------------------------------------------


@KINDS
def test_every_parameter_has_one_published_key_and_one_way_to_lie_in_the_file(family, kind, tmp_path):
    model = tiny(family, kind)
    minift.save(model, None, tmp_path)
    assert len(safetensors.load(tmp_path / "model.safetensors")) == len(list(model.parameters()))
    again = minift.load_model(tmp_path)
    assert changed(weights(model), again) == set()
    report = again.report
    assert len(report.mapped) + len(report.transposed) == len(list(model.parameters()))


# -- Law 6: nothing is half-written -----------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("fails", ["fsync", "replace"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_save_that_fails_leaves_no_model_or_the_old_one(family, fails, after, tmp_path, monkeypatch):
    old, new = tiny(family, "classify"), tiny(family, "classify")
    minift.save(old, None, tmp_path / "old")
    names = sorted(os.listdir(tmp_path / "old"))
    real, calls = getattr(os, fails), []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > after:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, fails, full)
    for folder in "old", "new":
        calls.clear()
        with pytest.raises(minift.Error, match="No space left on device") as caught:
            minift.save(new, None, tmp_path / folder)
        assert caught.value.code == 1
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path / "old")) == names
    assert changed(weights(old), minift.load_model(tmp_path / "old")) == set()
    with pytest.raises(minift.Error, match=r"no config\.json"):
        minift.load_model(tmp_path / "new")
    assert not [name for name in os.listdir(tmp_path / "new") if name.startswith(".")]


# -- Law 7: one error class -------------------------------------------------------------------------------------------


@KINDS
def test_a_text_longer_than_the_positions_is_an_error_that_says_so(family, kind):
    with pytest.raises(minift.Error, match="33 tokens, but the model has 32 positions; shorten the text") as caught:
        tiny(family, kind).hidden(text(33))
    assert caught.value.code == 2
    assert tiny(family, kind).hidden(text(32)).isfinite().all()


@FAMILIES
@pytest.mark.parametrize("tune", ["", "heads", "last", "last:0", "last:4", "last:-1", "last:x", "all "])
def test_a_part_to_tune_that_is_not_there_is_an_error_that_lists_them(family, tune):
    with pytest.raises(minift.Error, match="give head, all, lora, or last:N with N from 1 to 3"):
        adapters.choose(tiny(family, "classify"), tune)


# -- Law 8: training is the same training -----------------------------------------------------------------------------


# A bias of the keys shifts all scores of a query alike, so its gradient is 0; in float32 it is a rounding instead, and
# AdamW makes steps of that.
KEYS = dict.fromkeys(CLASS, ("k_proj.bias", slice(None)))
KEYS |= {"gpt2": ("c_attn.bias", slice(16, 32)), "distilbert": ("k_lin.bias", slice(None))}
KEYS |= dict.fromkeys(("bert", "roberta"), ("key.bias", slice(None)))


def plain_training(model, batches, lr, decay, warmup, clip):
    """What a user of transformers would write: (losses)."""
    plain = ("bias", "LayerNorm.weight", "layer_norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight")
    groups = [
        {"params": [p for name, p in model.named_parameters() if not name.endswith(plain)], "weight_decay": decay},
        {"params": [p for name, p in model.named_parameters() if name.endswith(plain)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8)
    steps = len(batches)
    rising = round(warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: (n + 1) / rising if n < rising else (steps - n) / (steps - rising)
    )
    losses = []
    model.train()
    for rows in batches:
        batch = collate(rows)
        out = model(batch["ids"], attention_mask=batch["mask"].long(), labels=batch["target"])
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(out.loss.item())
    return losses


@FAMILIES
@pytest.mark.parametrize("clip", [1.0, 0.05])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_twenty_steps_are_those_of_transformers_and_torch(family, clip, dtype, most, tmp_path):
    if family == "gpt_neo" and dtype == torch.float64:
        pytest.skip("transformers computes the scores of GPT-Neo in float32, whatever the model is in")
    ours = tiny(family, "classify").to(dtype)
    ours.config.pad_token_id = 0  # transformers finds a row's last token by it
    minift.save(ours, None, tmp_path / "start", dtype)
    their_class = getattr(transformers, CLASS[family].ARCHITECTURES["classify"])
    theirs = their_class.from_pretrained(tmp_path / "start", dtype=dtype)

    epochs = [[[0, 1, 2], [3, 4], [5, 6, 7, 8], [9], [10, 0, 3]], [[1], [2, 9, 4, 7], [8, 10], [5, 3, 0], [6, 1]]] * 2
    how = {"lr": 1e-3, "warmup": 0.2, "clip": clip}
    history = train.train(ours, epochs, collate, class_loss, options(**how, weight_decay=0.1, schedule="linear"))
    losses = plain_training(theirs, [rows for epoch in epochs for rows in epoch], **how, decay=0.1)

    assert len(losses) == history.steps == 20 and losses[0] - losses[-1] > 0.1
    close(torch.tensor(history.losses), torch.tensor(losses), atol=1e-5)
    minift.save(ours, None, tmp_path / "end", dtype)
    found = their_class.from_pretrained(tmp_path / "end", dtype=dtype).state_dict()
    for name, weight in theirs.state_dict().items():
        different = (found[name] - weight).abs() > most
        if dtype == torch.float32 and name.endswith(KEYS[family][0]):
            different[KEYS[family][1]] = False
        assert not different.any(), name


# -- what learns ------------------------------------------------------------------------------------------------------

HEAD = {family: ("score." if LM[family] == "lm" else "classifier.",) for family in CLASS}
HEAD["distilbert"] = ("pre_classifier.", "classifier.")
LAST = dict.fromkeys(("gpt2", "gpt_neo"), ("transformer.h.2.", "transformer.ln_f."))
LAST |= {"opt": ("model.decoder.layers.2.", "model.decoder.final_layer_norm.")}
LAST |= {"opt-350m": ("model.decoder.layers.2.", "model.decoder.project_out.")}
LAST |= {"bert": ("bert.encoder.layer.2.", "bert.pooler.")}
LAST |= {"roberta": ("roberta.encoder.layer.2.",), "distilbert": ("distilbert.transformer.layer.2.",)}


@FAMILIES
@pytest.mark.parametrize("tune", ["head", "last:1", "last:3", "all"])
def test_what_is_not_tuned_stays_bit_for_bit(family, tune):
    model = tiny(family, "classify", dropout=0.1)
    before = weights(model)
    parts = HEAD[family] + (LAST[family] if tune != "head" else ())
    if tune == "last:3":
        parts += ("transformer.h.", "model.decoder.layers.")
        parts += ("bert.encoder.", "roberta.encoder.", "distilbert.transformer.")
    expected = {name for name in before if name.startswith(parts) or tune == "all"}
    learning, total = adapters.choose(model, tune)
    train.train(model, [[[0, 1, 2], [3, 4], [5, 6, 7]]], collate, class_loss, options(lr=0.1))
    unseen = {"bert.embeddings.token_type_embeddings.weight"} if family == "bert" else set()
    assert changed(before, model) | (unseen & expected) == expected
    assert learning == sum(before[name].numel() for name in expected)
    assert total == sum(p.numel() for p in before.values())


@FAMILIES
def test_dropout_does_not_blur_what_is_frozen(family):
    model = tiny(family, "classify", dropout=0.5)
    adapters.choose(model, "head")
    adapters.train_mode(model)
    assert torch.equal(model.pooled(text(6)), model.pooled(text(6)))
    if LM[family] != "lm":  # their heads have no dropout
        assert not torch.equal(model(text(6)), model(text(6)))
    adapters.choose(model, "last:1")
    adapters.train_mode(model)
    frozen = [embedding(model) if LM[family] == "lm" else getattr(model, family).embeddings]
    assert not any(module.training for module in [*frozen, *model.blocks[:-1]]) and model.blocks[-1].training
    assert model.training  # it learns, which label smoothing and recomputation ask for
    adapters.choose(model, "all")
    adapters.train_mode(model)
    assert not torch.equal(model.pooled(text(6)), model.pooled(text(6)))


@pytest.mark.parametrize(("family", "kind"), [(f, "encoder" if f == "bert" else "lm") for f in CLASS])
def test_a_model_without_a_head_of_its_own_cannot_tune_it_alone(family, kind):
    with pytest.raises(minift.Error, match="--tune head: this model has no head of its own"):
        adapters.choose(tiny(family, kind), "head")


# -- the loop ---------------------------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("fault", ["loss", "gradient", "no units"])
def test_training_stops_before_a_step_that_is_not_finite(family, fault):
    model, seen = tiny(family, "classify"), []

    def loss(model, batch):
        summed, units = class_loss(model, batch)
        if not {7, 9} & set(batch["rows"]):
            return summed, units
        if fault == "loss":  # which its slope does not show
            return summed + math.nan, units
        if fault == "gradient":  # the root of 0: its slope is infinite
            return summed + (summed * 0).sqrt(), units
        return summed * 0, 0

    def with_rows(rows):
        return collate(rows) | {"rows": rows, "mask": collate(rows)["mask"]}

    class Places(dict):
        __missing__ = staticmethod("rows.tsv, line {}".format)

    with pytest.raises(minift.Error) as caught:
        train.train(
            model,
            [[[0, 1], [2], [3, 4], [5], [6, 9], [7], [8, 10]]],
            lambda rows: with_rows(rows),
            loss,
            options(accumulate=2),
            log=lambda record: seen.append((record["step"], weights(model))),
            where=Places().__getitem__,
        )
    step, last = seen[-1]
    assert step == 2 and changed(last, model) == set()  # the third, of rows 6, 9 and 7, was not made
    message = str(caught.value)
    assert caught.value.code == 1 and "rows.tsv, line 6, rows.tsv, line 9, rows.tsv, line 7" in message
    assert message.startswith("step 3 has nothing to learn from" if fault == "no units" else "step 3: the ")


@FAMILIES
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_gives_the_same_gradients(family, dropout):
    found = []
    for recompute in False, True:
        model, runs = tiny(family, "classify", dropout).train(), []
        model.recompute = recompute
        for block in model.blocks:
            block.register_forward_pre_hook(lambda *_: runs.append(1))  # noqa: B023
        torch.manual_seed(3)
        class_loss(model, collate([0, 1, 2]))[0].backward()
        assert len(runs) == (6 if recompute else 3)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.equal(*found)


@CAUSAL
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("chunks", [[1, 1, 1, 1, 1], [2, 3], [5], [4, 1]])
def test_a_cache_of_keys_and_values_gives_the_hidden_states_of_one_pass(family, side, chunks):
    model, prompts = tiny(family, "lm"), [text(n) for n in (7, 2, 4)]
    new = torch.cat([text(5, seed) for seed in range(3)])
    pairs = [padded(ids, *((7 - ids.shape[1], 0) if side == "left" else (0, 7 - ids.shape[1]))) for ids in prompts]
    ids, mask = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
    cache = {}
    found = [model.hidden(ids, mask, cache)]
    for part in new.split(chunks, 1):
        mask = torch.cat((mask, torch.ones(part.shape, dtype=torch.bool)), 1)
        found.append(model.hidden(part, mask, cache))
    found = torch.cat(found, 1)
    for row, prompt in enumerate(prompts):
        close(found[row, mask[row]], model.hidden(torch.cat((prompt, new[row : row + 1]), 1))[0])


@CAUSAL
@pytest.mark.parametrize("chunks", [[1] * 9, [4, 5], [3, 1, 5]])
def test_a_cache_needs_no_mask_where_there_is_no_padding(family, chunks):
    model, ids, cache = tiny(family, "lm"), text(9), {}
    parts = [model.hidden(part, None, cache) for part in ids.split(chunks, 1)]
    close(torch.cat(parts, 1), model.hidden(ids))
    with pytest.raises(minift.Error, match="33 tokens, but the model has 32 positions"):
        model.hidden(text(24), None, cache)


@CAUSAL
def test_a_cache_is_heeded_while_recomputing(family):
    model, ids, cache = tiny(family, "lm").train(), text(9), {}
    model.recompute = True
    parts = [model.hidden(part, None, cache) for part in ids.split([4, 5], 1)]
    close(torch.cat(parts, 1), model.hidden(ids))


@FAMILIES
@pytest.mark.parametrize(("patience", "made"), [(None, 6), (1, 3), (2, 4), (3, 6)])
def test_the_model_ends_with_the_best_epochs_weights(family, patience, made):
    model, scores, after = tiny(family, "classify"), iter([0.3, 0.7, 0.7, 0.1, 0.9, 0.2]), []

    def evaluate(model):
        after.append(weights(model))
        return {"accuracy": next(scores)}

    how = {"evaluate": evaluate, "score": lambda metrics: metrics["accuracy"]}
    history = train.train(model, [[[0, 1, 2], [3, 4]]] * 6, collate, class_loss, options(patience=patience), **how)
    best = 5 if made == 6 else 2  # of equals the first
    assert len(after) == made and history.epoch == best and history.steps == 2 * made
    assert changed(after[best - 1], model) == set() and changed(after[-1], model) != set()
    assert history.best == {"accuracy": 0.9 if best == 5 else 0.7} and not model.training
