"""Muon is torch's Muon, to the rounding of its bfloat16; rates, schedules and unfreezing are ULMFiT's.
Run me: pytest tests/test_optim.py"""

import math

import pytest
import tiny
import torch
from torch import nn

import minift
from minift import adapters, miniatures, optim, runs, train
from minift.models import gpt2
from minift.settings import Finetune

torch.set_num_threads(1)


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (48, 48)])
def test_muon_makes_the_steps_of_torchs_muon(shape):
    chance = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=chance) * 0.02
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    a = optim.Muon([ours], lr=1e-2, weight_decay=0.1)
    b = torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        ours.grad = torch.randn(shape, generator=chance)
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
    assert (ours - theirs).norm() < 0.02 * (theirs - start).norm()  # bfloat16 has eight bits


@pytest.mark.parametrize("shape", [(32, 96), (96, 32)])
def test_an_orthogonal_update_moves_all_directions_about_equally_far(shape):
    update = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = optim.orthogonal(update)
    left, _, right = torch.linalg.svd(update, full_matrices=False)
    strengths = torch.linalg.svdvals(found)
    assert found.shape == shape and strengths.min() > 0.6 and strengths.max() < 1.25
    assert torch.linalg.norm(found - left @ right) < 0.35 * torch.linalg.norm(found)  # its own directions


def test_muon_takes_the_matrices_inside_the_blocks_and_adamw_the_rest():
    model = gpt2.GPT2(gpt2.Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    matrices, others = optim.muon(model, 1e-3, 0.1).both
    names = {id(p): name for name, p in model.named_parameters()}
    chosen = [names[id(p)] for group in matrices.param_groups for p in group["params"]]
    rest = [names[id(p)] for group in others.param_groups for p in group["params"]]
    kinds = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert chosen == [f"transformer.h.{i}.{kind}.weight" for i in (0, 1) for kind in kinds]
    assert sorted(chosen + rest) == sorted(names.values())
    decayed = {names[id(p)] for group in others.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {"transformer.wte.weight", "transformer.wpe.weight"}


# -- ULMFiT: rates by depth, slanted triangles, gradual unfreezing ----------------------------------------------------


@pytest.mark.parametrize(("steps", "cut_frac"), [(10, 0.1), (1000, 0.1), (300, 0.5), (40, 0.25), (250, 0.02)])
def test_the_slanted_triangle_is_the_papers(steps, cut_frac):
    """Howard and Ruder 2018, equation 3, as it stands there."""
    ratio, cut = 32, math.floor(steps * cut_frac)
    for t in range(steps):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
        assert optim.rate(t, steps, cut_frac, "slanted") == pytest.approx((1 + p * (ratio - 1)) / ratio, abs=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 9, 15, 19, 123])
def test_where_the_cut_is_rounded_the_slanted_triangle_stays_one(steps):
    """There the paper's formula goes below 0: with 19 steps to -0.83."""
    found = [optim.rate(t, steps, 0.1, "slanted") for t in range(steps)]
    cut = steps // 10
    assert max(found) == found[cut] == 1 and min(found) >= 1 / 32
    assert found[:cut] == sorted(found[:cut]) and found[cut:] == sorted(found[cut:], reverse=True)


EACH = [(family, kind) for family in miniatures.KINDS for kind in miniatures.KINDS[family]]
each = pytest.mark.parametrize(("family", "kind"), EACH, ids=lambda x: x)


def by_hand(family, kind, name):
    """The level of a parameter, by its name."""
    if family == "bert2bert":
        if "crossattention" in name or "cls." in name:
            return 0
        side, _, rest = name.partition(".")
        layer = rest.partition("layer.")[2][:1]
        return 4 - int(layer) - 2 * (side == "decoder") if layer else 5
    heads = {"classify": ("score", "classifier", "pre_classifier"), "mlm": ("cls", "lm_head", "vocab_")}
    if name.startswith(heads.get(kind, ("none",))):
        return 0
    two = kind == "seq2seq"  # stacks, of two blocks each
    depth = 4 if two else 1 if family == "kim_cnn" else 2
    if any(part in name for part in ("ln_f", "pooler", "decoder.final_layer_norm", "project_out", "convs")):
        level = 1
    elif digit := next((part for part in name.split(".") if part.isdigit()), None):
        level = depth - int(digit) - 2 * (two and name.startswith(("model.decoder", "decoder")))
    else:
        level = depth + 1
    return level - (kind not in ("classify", "mlm"))  # without a head the last block is the highest


@each
def test_each_parts_rate_is_that_of_the_part_above_divided_by_the_decay(family, kind):
    model = miniatures.tiny(family, kind)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {}
    for group in optim.adamw(model, 1e-3, 0.1, rate_decay=2.6).param_groups:
        for p in group["params"]:
            assert group["weight_decay"] == (0.1 if p.ndim > 1 else 0.0)
            found[names[id(p)]] = group["lr"]
    assert found.keys() == set(names.values())
    for name, rate in found.items():
        assert rate == pytest.approx(1e-3 / 2.6 ** by_hand(family, kind, name), rel=1e-9), name
    depth = len(model.blocks) + (kind in ("classify", "mlm") or family == "bert2bert")
    assert len(set(found.values())) == depth + 1


def test_what_was_drawn_at_random_has_its_own_rate_whatever_the_decay(tmp_path):
    model = minift.load_model(tiny.bert_folder(tmp_path), "classify", ["a", "b"])
    model.report.new.append("bert.pooler.dense.weight")
    names = {id(p): name for name, p in model.named_parameters()}
    groups = optim.adamw(model, 1e-3, 0.1, lr_new=7e-3, rate_decay=2.0).param_groups
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    drawn = {name for name, rate in rates.items() if rate == 7e-3}
    assert drawn == {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight"}
    assert rates["bert.pooler.dense.bias"] == rates["bert.encoder.layer.1.output.dense.weight"] == 5e-4
    assert rates["bert.encoder.layer.0.output.dense.weight"] == 2.5e-4
    assert rates["bert.embeddings.word_embeddings.weight"] == 1.25e-4


def test_a_decay_of_one_is_none():
    model = miniatures.tiny("bert", "classify")
    assert {group["lr"] for group in optim.adamw(model, 1e-3, 0.1).param_groups} == {1e-3}


def logits(model):
    pair = model.kind == "seq2seq"
    return model(miniatures.IDS, miniatures.OTHER) if pair else model(miniatures.IDS)


def trained(model, epochs, **options):
    """Epochs of two steps; the names of the parameters that moved in each."""
    seen, moved = {name: p.detach().clone() for name, p in model.named_parameters()}, []

    def note(model):
        moved.append({name for name, p in model.named_parameters() if not torch.equal(p, seen[name])})
        seen.update((name, p.detach().clone()) for name, p in model.named_parameters())
        return {"epoch": len(moved)}

    first = logits(model)
    target = torch.arange(first.numel() // first.shape[-1]) % first.shape[-1]
    cross_entropy = nn.functional.cross_entropy
    loss = lambda model, batch: (cross_entropy(logits(model).flatten(0, -2), target, reduction="sum"), len(target))
    how = {"lr": 1e-2, "weight_decay": 0.5, "precision": "fp32", "schedule": "constant", "warmup": 0.0}
    plan = [[[0], [0]]] * epochs
    train.train(model, plan, lambda rows: {}, loss, Finetune(**how | options), note, lambda metrics: metrics["epoch"])
    return moved


@each
def test_with_each_epoch_one_part_more_learns_and_the_others_keep_every_bit(family, kind):
    model = miniatures.tiny(family, kind)
    last = max(by_hand(family, kind, name) for name, _ in model.named_parameters())
    moved = trained(model, last + 2, unfreeze="gradual")
    for epoch, names in enumerate(moved, 1):
        due = {name for name, p in model.named_parameters() if by_hand(family, kind, name) < epoch}
        # a bias of the keys has no gradient but rounding; an encoder-decoder does not use its encoder's pooler
        idle = {name for name in due - names if not name.endswith(("k_proj.bias", "key.bias"))}
        assert names <= due and all("encoder.bert.pooler" in name for name in idle), idle
    assert moved[0] < moved[-1]


def test_unfreezing_opens_what_tune_names_and_nothing_else():
    model = miniatures.tiny("bert", "classify")
    adapters.choose(model, "last:1")
    moved = trained(model, 3, unfreeze="gradual")
    assert {name.partition(".")[0] for name in moved[0]} == {"classifier"}
    assert (
        moved[1] == moved[2] == {n for n, _ in model.named_parameters() if "layer.1." in n or "pooler" in n} | moved[0]
    )
    assert {n for n, p in model.named_parameters() if p.requires_grad} == moved[2]

    model = miniatures.tiny("gpt2", "classify")
    adapters.choose(model, "lora")
    moved = trained(model, 3, unfreeze="gradual")
    matrices = lambda *blocks: {f"transformer.h.{i}.attn.c_attn.lora_{part}.weight" for i in blocks for part in "AB"}
    assert moved == [{"score.weight"}, matrices(1) | {"score.weight"}, matrices(0, 1) | {"score.weight"}]


def test_what_does_not_learn_yet_does_not_drop_out():
    model = miniatures.tiny("bert", "classify", hidden_dropout_prob=0.5)
    learning = [*model.parameters()]
    for epoch, training in enumerate([[False] * 3, [False, False, True], [False, True, True], [True] * 3], 1):
        optim.unfreeze(model, learning, epoch)
        adapters.train_mode(model)
        parts = [model.bert.embeddings, *model.blocks]
        assert (
            [part.training for part in parts]
            == [part.dropout.training for part in parts[:1]] + training[1:]
            == training
        )
        assert model.dropout.training and model.classifier.training


def test_a_run_with_everything_of_ulmfit_says_so_and_learns(tmp_path, monkeypatch):
    scores = iter([0.1, 0.2, 0.3, 0.3])  # before, two epochs, after
    monkeypatch.setattr(runs, "assess", lambda *_, **_more: ({"accuracy": next(scores)}, torch.zeros(8, 2)))
    folder, lines = tiny.bert_folder(tmp_path / "base"), []
    how = {"unfreeze": "gradual", "rate_decay": 2.6, "schedule": "slanted", "epochs": 2, "batch_size": 4}
    rows = {"train": tiny.rows(16), "valid": tiny.rows(8, start=40)}
    run = minift.finetune("classify", model=str(folder), out=tmp_path / "run", say=lines.append, lr=1e-2, **how, **rows)
    text = "\n".join(lines)
    assert "the rate of a block is that of the one above divided by 2.6" in text
    assert "first the highest part learns, with each epoch one more, from epoch 4 on all" in text
    before = minift.load_model(folder)
    same = {name for name, p in before.named_parameters() if torch.equal(p, run.model.get_parameter(name))}
    assert same == {name for name in same if "embeddings" in name or "layer.0" in name} and len(same) == 5 + 16
    assert run.train["moved"]["block 1"] == run.train["moved"]["embeddings"] == 0 < run.train["moved"]["block 2"]
