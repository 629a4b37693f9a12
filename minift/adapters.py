"""Which parameters learn: the head alone, the last blocks, or all."""

import re

import torch
from torch import nn

from .errors import Error


def choose(model: nn.Module, tune: str) -> tuple[int, int]:
    """Freeze what `tune` ("head", "last:N" or "all") does not name; (learning, all) parameters counted.

    Above the last block there may be a final norm or a pooler: it learns with the last blocks, not with the head."""
    match = re.fullmatch(r"head|all|last:(\d+)", tune)
    depth = len(model.blocks)
    if not match or (match[1] and not 1 <= int(match[1]) <= depth):
        raise Error(f"--tune {tune}: give head, all, or last:N with N from 1 to {depth}, the blocks of this model")
    model.requires_grad_(tune == "all")
    learning = [*model.new] if tune != "all" else []
    if match[1]:
        learning += [*model.blocks[-int(match[1]) :], *model.top]
    for module in learning:
        module.requires_grad_(True)
    if not any(p.requires_grad for p in model.parameters()):
        raise Error(f"--tune {tune}: this model has no head of its own; its vocabulary weights are the embedding's")
    return sum(p.numel() for p in model.parameters() if p.requires_grad), sum(p.numel() for p in model.parameters())


def train_mode(model: nn.Module):
    """Training mode for what learns; what is frozen stays in eval mode, so that dropout does not blur its features."""
    model.eval()
    head = getattr(model, "new", [])  # with its dropout
    for module in model.modules():
        own = [p.requires_grad for p in module.parameters()]
        if module in head or (own and all(own)):
            module.train()


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the parameters that learn, for `moved`."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def moved(model: nn.Module, before: dict[str, torch.Tensor]) -> dict[str, float]:
    """How far each part of the model is from where it was: the length of the difference, as a share of the length."""
    part = {id(p): "the rest" for p in model.parameters()}
    part |= {id(p): "embeddings" for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    part |= {id(p): f"block {i}" for i, block in enumerate(model.blocks, 1) for p in block.parameters()}
    part |= {id(p): "head" for module in model.new for p in module.parameters()}
    sums = {}
    for name, p in model.named_parameters():
        if name in before:
            total = sums.setdefault(part[id(p)], [0.0, 0.0])
            total[0] += float((p - before[name]).square().sum())
            total[1] += float(before[name].square().sum())
    return {name: (difference / max(length, 1e-30)) ** 0.5 for name, (difference, length) in sums.items()}
