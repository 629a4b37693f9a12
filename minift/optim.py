"""The optimisers, AdamW to fine-tune and Muon to pre-train, and the learning rate of each step."""

import math

import torch
from torch import nn


def usual_rate(width: int, depth: int, tune: str, family: str = "") -> float:
    """A peak rate to start from: 5e-5 for a base model of 768 channels and 12 blocks (BERT, appendix A.3), more for
    smaller ones, and much more where only a head learns, which has no knowledge to lose. A Kim CNN is no Transformer:
    its filters always begin at random."""
    if family == "kim_cnn" and tune != "head":
        return 1e-3
    return 5e-3 if tune == "head" else round(5e-5 * (768 * 12) / (width * depth), 6)


def usual_new_rate(lr: float, family: str, tune: str) -> float:
    """The rate of what was drawn at random, where the rest has this one. What joins two BERTs has far to go, while what
    they know is soon lost (Liu and Lapata 2019, "Text Summarization with Pretrained Encoders", of a new decoder)."""
    return 10 * lr if family == "encoder-decoder" and tune != "head" else lr


def adamw(model: nn.Module, lr: float, weight_decay: float, lr_new: float | None = None) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over what learns. Biases and norms are not decayed: decay pulls towards zero,
    and a norm at zero passes nothing on. `lr_new` is the rate of what was drawn at random when the model was loaded."""
    new = set(model.report.new) if hasattr(model, "report") else set()
    known, drawn = [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (drawn if name in new else known).append(p)
    own = [group | {"lr": lr_new or lr} for group in groups(drawn, weight_decay)]
    optimizer = torch.optim.AdamW(groups(known, weight_decay) + own, lr=lr, fused=True)
    if hasattr(model, "constrain"):  # weights that have a limit go back to it after each step
        optimizer.register_step_post_hook(lambda *_: model.constrain())
    return optimizer


def groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict]:
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal (Jordan et al. 2024): a matrix's update moves all its directions equally far, where
    AdamW's follows the few that gradients are longest in. Scaled and decayed as in Liu et al. 2025 ("Muon is scalable
    for LLM training", section 2.2), so that AdamW's rates serve it."""

    def __init__(self, matrices, lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p)).lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(mean, group["momentum"])  # Nesterov's: one step further than the mean
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(orthogonal(ahead), alpha=-group["lr"] * 0.2 * math.sqrt(max(p.shape)))


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """The matrix with x's directions and all its singular values near 1: five steps of a polynomial that draws each of
    them there (Newton and Schulz; the coefficients are Jordan's, for speed: 0.7 to 1.2 is near enough)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = x if x.shape[0] <= x.shape[1] else x.T  # the smaller product
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        square = wide @ wide.T
        wide = a * wide + (b * square + c * square @ square) @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.T


class Pair:
    """Two optimisers that look like one."""

    def __init__(self, *both: torch.optim.Optimizer):
        self.both = both

    @property
    def param_groups(self):
        return [group for one in self.both for group in one.param_groups]

    def zero_grad(self):
        for one in self.both:
            one.zero_grad()

    def step(self):
        for one in self.both:
            one.step()

    def state_dict(self):
        return [one.state_dict() for one in self.both]

    def load_state_dict(self, states):
        for one, state in zip(self.both, states, strict=True):
            one.load_state_dict(state)


def muon(model: nn.Module, lr: float, weight_decay: float) -> Pair:
    """Muon over the matrices inside the blocks, AdamW over embeddings, head, biases and norms."""
    inner = [p for p in model.blocks.parameters() if p.ndim == 2]
    chosen = set(inner)
    rest = [p for p in model.parameters() if p not in chosen]
    return Pair(Muon(inner, lr, weight_decay), torch.optim.AdamW(groups(rest, weight_decay), lr=lr, fused=True))


def rate(step: int, steps: int, warmup: float, schedule: str) -> float:
    """The factor on the learning rate at `step` of `steps` (from 0): up in a straight line over the first `warmup`
    share of the steps, then down to 0 ("linear", "cosine") or level ("constant")."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    left = (steps - step) / max(steps - rising, 1)  # from 1 towards 0
    return {"linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "constant": 1.0}[schedule]
