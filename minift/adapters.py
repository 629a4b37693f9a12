"""Which parameters learn: the head alone, the last blocks, matrices beside the frozen ones (LoRA), or all."""

import re

import torch
from torch import nn

from . import lora, optim, settings
from .errors import Error

USUAL = settings.Finetune()


def choose(model: nn.Module, tune: str, options: settings.Finetune = USUAL) -> tuple[int, int]:
    """Freeze what `tune` ("head", "last:N", "lora" or "all") does not name; (learning, all) parameters counted.

    Above the last block there may be a final norm or a pooler: it learns with the last blocks, not with the head. With
    "lora", the layers that `options.lora_layers` names (see `lora.matching`) get LoRA; the head learns, too."""
    match = re.fullmatch(r"head|all|lora|last:(\d+)", tune)
    depth = len(model.blocks)
    if not match or (match[1] and not 1 <= int(match[1]) <= depth):
        there = f"last:N with N from 1 to {depth}, the blocks of this model"
        raise Error(f"--tune {tune}: give head, all, lora, or {there}")
    lora.must_be_merged(model)
    model.unmerged = {}  # what was merged before stays so
    model.requires_grad_(tune == "all")
    learning = [*model.new] if tune != "all" else []
    if match[1]:
        learning += [*model.blocks[-int(match[1]) :], *model.top]
    for module in learning:
        module.requires_grad_(True)
    if tune == "lora":
        rank, found = options.lora_rank, lora.matching(model, options.lora_layers)
        for name, layer in found.items():
            most = min(layer.weight.shape)
            if rank > most:
                raise Error(f"--lora-rank {rank}: {name} is {tuple(layer.weight.shape)}, of rank {most} at most")
        rest = options.lora_alpha, options.lora_dropout
        lora.add(model, {name: lora.LoRA(layer, rank, *rest) for name, layer in found.items()})
    if not any(p.requires_grad for p in model.parameters()):
        raise Error(f"--tune {tune}: this model has no head of its own; its vocabulary weights are the embedding's")
    return sum(p.numel() for p in model.parameters() if p.requires_grad), sum(p.numel() for p in model.parameters())


def how(model: nn.Module, options: settings.Finetune) -> str:
    """What there is to say about how it learns, a line each."""
    lines = [f"(--tune {options.tune})"]
    if layers := lora.adapted(model):
        lines += [f"LoRA of rank {options.lora_rank}, alpha {options.lora_alpha:g}, beside {lora.starred(layers)}"]
    if options.rate_decay != 1:
        lines += [f"the rate of a block is that of the one above divided by {options.rate_decay:g}"]
    if options.unfreeze == "gradual":
        parts = 1 + max(optim.levels(model, [p for p in model.parameters() if p.requires_grad]).values())
        lines += [f"first the highest part learns, with each epoch one more, from epoch {parts} on all"]
    return f"\n{'':11}".join(lines)


def train_mode(model: nn.Module):
    """Training mode for what learns; what is frozen stays in eval mode, so that dropout does not blur its features. A
    block with LoRA learns."""
    model.eval()
    head = getattr(model, "new", [])  # with its dropout
    parts = [*getattr(model, "blocks", []), *getattr(model, "top", [])]
    for module in model.modules():
        own = [p.requires_grad for p in module.parameters()]
        around = any(isinstance(m, lora.LoRA) and m.lora_A.weight.requires_grad for m in module.modules())
        if module in head or (own and all(own)) or (around and module in parts):
            module.train()
        elif any(own):  # itself, not all that is in it: tasks and recomputation ask whether the model learns
            module.training = True


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the parameters that learn, and of those that LoRA will be merged into, for `moved`."""
    merged = {f"{name}.weight" for name in lora.adapted(model)}
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad or name in merged}


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
