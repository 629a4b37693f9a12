"""Which parameters learn: the head alone, the last blocks, or all."""

import re

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
