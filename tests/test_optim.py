"""Muon is torch's Muon, to the rounding of its bfloat16. Run me: pytest tests/test_optim.py"""

import pytest
import torch
from torch import nn

from minift import optim
from minift.models import gpt2

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
