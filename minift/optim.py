"""AdamW's parameter groups and the learning rate of each step."""

import math

import torch
from torch import nn


def usual_rate(width: int, depth: int, tune: str) -> float:
    """A peak rate to start from: 5e-5 for a base model of 768 channels and 12 blocks (BERT, appendix A.3), more for
    smaller ones, and much more where only a head learns, which has no knowledge to lose."""
    return 5e-3 if tune == "head" else round(5e-5 * (768 * 12) / (width * depth), 6)


def adamw(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over what learns. Biases and norms are not decayed: decay pulls towards zero,
    and a norm at zero passes nothing on."""
    learning = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def rate(step: int, steps: int, warmup: float, schedule: str) -> float:
    """The factor on the learning rate at `step` of `steps` (from 0): up in a straight line over the first `warmup`
    share of the steps, then down to 0 ("linear", "cosine") or level ("constant")."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    left = (steps - step) / max(steps - rising, 1)  # from 1 towards 0
    return {"linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "constant": 1.0}[schedule]
