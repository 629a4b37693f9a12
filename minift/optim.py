"""The optimisers, AdamW to fine-tune and Muon to pre-train; the rate of each step and of each part of a model, and when
each part begins to learn (ULMFiT: Howard and Ruder 2018, "Universal Language Model Fine-tuning")."""

import math

import torch
from torch import nn


def usual_rate(width: int, depth: int, tune: str, family: str = "") -> float:
    """A peak rate to start from: 5e-5 for a base model of 768 channels and 12 blocks (BERT, appendix A.3), more for
    smaller ones, ten times as much for LoRA (Hu et al. 2021, table 9: 4e-4 or 5e-4 for a base model), and much more
    where only a head learns, which has no knowledge to lose. A Kim CNN is no Transformer: its filters always begin at
    random."""
    if tune == "head":
        return 5e-3
    if family == "kim_cnn":
        return 1e-3
    return round((5e-4 if tune == "lora" else 5e-5) * (768 * 12) / (width * depth), 6)


def usual_new_rate(lr: float, family: str, tune: str) -> float:
    """The rate of what was drawn at random, where the rest has this one. What joins two BERTs has far to go, while what
    they know is soon lost (Liu and Lapata 2019, "Text Summarization with Pretrained Encoders", of a new decoder)."""
    return 10 * lr if family == "encoder-decoder" and tune not in ("head", "lora") else lr


def adamw(
    model: nn.Module, lr: float, weight_decay: float, lr_new: float | None = None, rate_decay: float = 1.0
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over what learns. Biases and norms are not decayed: decay pulls towards zero,
    and a norm at zero passes nothing on. `lr_new` is the rate of what was drawn at random when the model was loaded. Of
    the rest, each part has the rate of the part above it divided by `rate_decay` (ULMFiT, section 3.2)."""
    learning, new, parts = [p for p in model.parameters() if p.requires_grad], drawn(model), {}
    level = dict.fromkeys(learning, 0) if rate_decay == 1 else levels(model, learning)
    for p in learning:
        rate = (lr_new or lr) if p in new else lr / rate_decay ** level[p]
        parts.setdefault((p in new, rate), []).append(p)
    own = [group | {"lr": rate} for (_, rate), part in parts.items() for group in groups(part, weight_decay)]
    optimizer = torch.optim.AdamW(own, lr=lr, fused=True)
    if hasattr(model, "constrain"):  # weights that have a limit go back to it after each step
        optimizer.register_step_post_hook(lambda *_: model.constrain())
    return optimizer


def groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict]:
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def drawn(model: nn.Module) -> set[nn.Parameter]:
    """What was drawn at random when the model was loaded: a new head, say."""
    names = set(model.report.new) if hasattr(model, "report") else set()
    return {p for name, p in model.named_parameters() if name in names}


def levels(model: nn.Module, learning: list[nn.Parameter]) -> dict[nn.Parameter, int]:
    """How deep each of these parameters lies, counted from the highest that learns: 0 the head and whatever was drawn
    at random, 1 the last block with what stands on it, 2 the block below, …, last the embeddings."""
    deep = dict.fromkeys(model.parameters(), len(model.blocks) + 1)
    for level, block in enumerate(reversed(model.blocks), 1):
        deep |= dict.fromkeys(block.parameters(), level)
    for level, modules in (1, model.top), (0, model.new):
        deep |= dict.fromkeys((p for module in modules for p in module.parameters()), level)
    deep |= dict.fromkeys(drawn(model), 0)
    highest = min(deep[p] for p in learning)  # a language model may have no head of its own
    return {p: deep[p] - highest for p in learning}


def unfreeze(model: nn.Module, learning: list[nn.Parameter], epoch: int):
    """Of what learns, let that learn whose turn has come in this epoch (from 1): first the head, then with each epoch
    one block more from the top, last the embeddings (ULMFiT, section 3.3). The others get no gradient, and what has
    none, AdamW leaves alone."""
    for p, level in levels(model, learning).items():
        p.requires_grad_(level < epoch)


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
    share of the steps, then down to 0 ("linear", "cosine") or level ("constant"). "slanted" goes up
    and down in straight lines, from and to 1/32 (ULMFiT, section 3.2, equation 3, which calls `warmup` cut_frac)."""
    if schedule == "slanted":
        cut = math.floor(warmup * steps)
        # The paper divides by cut * (1 / cut_frac - 1). That is the same where nothing is rounded; else it may fall
        # below 0 at the end.
        p = step / cut if step < cut else 1 - (step - cut) / (steps - cut)
        return (1 + p * (32 - 1)) / 32
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    left = (steps - step) / max(steps - rising, 1)  # from 1 towards 0
    return {"linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "constant": 1.0}[schedule]
