"""LoRA: beside a frozen matrix, two small ones that learn. Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language
Models", section 4.1.

    y = W x + b + (alpha / r) B A x

    W  (out, in)  as it was published, frozen        A  (r, in)   drawn at random    r  the rank, far smaller than both
    b  (out,)     the same                           B  (out, r)  0 at first         in, out  widths of the layer

    adapters.choose(model, "lora")     puts LoRA beside the queries' and values' matrices
    lora.merge(model)                  makes it part of the weights; unmerge takes it out again
    lora.save(model, folder)           writes A, B and the head that learned with them, in the form of the peft library
    lora.load(model, folder)           puts them beside the weights of their base
"""

import re
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from . import files, safetensors
from .errors import Error

TASKS = {"classify": "SEQ_CLS", "lm": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}  # peft's names; for mlm it has none
# What makes another kind of LoRA of it where peft's config sets it, with the same tensors or others:
OTHERS = ("use_dora", "use_rslora", "lora_bias", "rank_pattern", "alpha_pattern", "alora_invocation_tokens")
OTHERS += ("layer_replication", "use_qalora", "use_bdlora")
PLAIN = (None, True, False, "gaussian")  # ways of drawing A that leave the weights of the base alone


class LoRA(nn.Linear):
    """A linear layer that stays as it is, and the change beside it. A is drawn as torch draws a linear layer, which is
    what the paper's code does; B is 0, so that training begins at the model as it was."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, dropout: float):
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.rank, self.alpha, self.dropout = rank, alpha, nn.Dropout(dropout)
        self.lora_A = nn.Linear(self.in_features, rank, bias=False, device=self.weight.device)
        self.lora_B = nn.Linear(rank, self.out_features, bias=False, device=self.weight.device)
        nn.init.zeros_(self.lora_B.weight)

    @property
    def pair(self):
        return {"lora_A.weight": self.lora_A.weight, "lora_B.weight": self.lora_B.weight}

    def forward(self, x):
        return super().forward(x) + self.alpha / self.rank * self.lora_B(self.lora_A(self.dropout(x)))

    def merged(self) -> nn.Linear:
        """The plain layer that says the same."""
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        change = self.alpha / self.rank * self.lora_B.weight @ self.lora_A.weight
        plain.weight, plain.bias = nn.Parameter(self.weight + change, requires_grad=False), self.bias
        return plain


def must_be_merged(model: nn.Module):
    if any(isinstance(module, LoRA) for module in model.modules()):
        raise Error("this model has LoRA; make it part of the weights first: minift.lora.merge(model)")


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """By name, the linear layers of the blocks and of what stands on top, but for those that learn whole."""
    must_be_merged(model)
    inside = {m for part in (*model.blocks, *model.top) for m in part.modules()}
    inside -= {m for part in whole(model).values() for m in part.modules()}
    return {name: m for name, m in model.named_modules() if m in inside and isinstance(m, nn.Linear)}


def whole(model: nn.Module) -> dict[str, nn.Module]:
    """By name, what learns whole beside LoRA: the head; and what stands below it, if it was drawn at random, as the
    pooler of a BERT that was published without one."""
    names = {module: f"{name}." for name, module in model.named_modules()}
    drawn = tuple(model.report.new) if hasattr(model, "report") else ()
    top = [module for module in model.top if any(name.startswith(names[module]) for name in drawn)]
    return {names[module][:-1]: module for module in (*model.new, *top) if [*module.parameters()]}


def matching(model: nn.Module, pattern: str) -> dict[str, nn.Linear]:
    """By name, the linear layers that a pattern names: regular expressions with commas between them, each for a whole
    name or for its end behind a dot: "query,value"; "layer.[01].attention.*"; ".*"."""
    layers = linear_layers(model)
    if not layers:
        raise Error("--tune lora: there are no linear layers in this model's blocks to stand beside; try last:N or all")
    parts = [part.strip() for part in re.split(r",(?![^{]*})", pattern)]  # not at the comma of x{1,2}
    try:
        found = {n: layer for n, layer in layers.items() if any(re.fullmatch(rf"(.*\.)?({p})", n) for p in parts)}
    except re.error as e:
        raise Error(f"--lora-layers {pattern}: no regular expression ({e})") from None
    if not found:
        raise Error(f"--lora-layers {pattern}: names none of the linear layers; there are {starred(layers)}")
    return found


def starred(names) -> str:
    """h.0.attn.c_attn, h.1.attn.c_attn, … as one: h.*.attn.c_attn (12)"""
    groups = Counter(re.sub(r"\.\d+\.", ".*.", name) for name in names)
    return ", ".join(f"{group} ({n})" if n > 1 else group for group, n in groups.items())


def add(model: nn.Module, layers: dict[str, LoRA]):
    """Put these in the places of their names; freeze the model, but for them and what learns whole."""
    model.requires_grad_(False)
    for module in whole(model).values():
        module.requires_grad_(True)
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    model.unmerged = {}


def adapted(model: nn.Module) -> dict[str, LoRA]:
    """By name, the layers with LoRA, merged or not."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, LoRA)}
    return found or getattr(model, "unmerged", {})


@torch.no_grad()
def merge(model: nn.Module):
    """Make LoRA part of the weights, in place: the model is a plain one again, which can be saved. The layers that it
    replaces are kept at `model.unmerged`: `unmerge` gives back every bit."""
    model.unmerged = adapted(model)
    for name, layer in model.unmerged.items():
        model.set_submodule(name, layer.merged())


def unmerge(model: nn.Module):
    """Take `merge` back, in place."""
    for name, layer in adapted(model).items():
        model.set_submodule(name, layer)
    model.unmerged = {}


# -- an adapter's folder: adapter_config.json, adapter_model.safetensors ----------------------------------------------


def published(model: nn.Module) -> tuple[dict[str, tuple[str, bool]], dict[str, str]]:
    """Parameter here -> its key in transformers, and whether it is turned there; key of a tied copy -> parameter."""
    family = sys.modules[type(model).__module__]  # the model's file
    prefix = family.PREFIX if model.kind == family.BARE else ""
    keys = {name: (key.removeprefix(prefix), turned) for key, (name, turned) in family.key_map(model.config).items()}
    return keys, family.TIED if model.config.tie_word_embeddings else {}


def places(model: nn.Module, layers: dict[str, LoRA]) -> dict[str, torch.Tensor]:
    """Key in an adapter's file -> the tensor here, or a view of it, of the model and of these layers."""
    (keys, tied), own = published(model), dict(model.named_parameters())
    found = {keys[name][0]: p.T if keys[name][1] else p for name, p in own.items() if name in keys}
    for name, layer in layers.items():
        module = keys[f"{name}.weight"][0].removesuffix("weight")
        found |= {module + part: p for part, p in layer.pair.items()}
    return found | {copy: own[name] for copy, name in tied.items() if name in own}


def save(model: nn.Module, folder, base: str | None = None):
    """Write LoRA, merged or not, and what learned whole beside it; nothing, if the model has no LoRA. In transformers,
    PeftModel.from_pretrained(MODEL, folder) reads it, where MODEL is the base with this kind of head.

    `base` is the base's name, for the record."""
    layers = adapted(model)
    if not layers:
        return
    (keys, _), modules = published(model), []
    for name, module in whole(model).items():
        inner = next(module.named_parameters())[0]
        modules.append(keys[f"{name}.{inner}"][0].removesuffix(f".{inner}"))
    learned = tuple(f"{module}." for module in modules)  # with their tied tensors: peft wants a module complete
    tensors = {
        f"base_model.model.{key}": tensor.detach().clone()
        for key, tensor in places(model, layers).items()
        if ".lora_" in key or key.startswith(learned)
    }
    name, layer = next(iter(layers.items()))
    config = {
        "peft_type": "LORA",
        "task_type": TASKS.get(model.kind),
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": layer.rank,
        "lora_alpha": layer.alpha,
        "lora_dropout": layer.dropout.p,
        "bias": "none",
        "fan_in_fan_out": keys[f"{name}.weight"][1],  # transformers keeps GPT-2's matrices (in, out)
        "target_modules": [keys[f"{name}.weight"][0].removesuffix(".weight") for name in layers],
        "modules_to_save": modules or None,
    }
    safetensors.save(Path(folder) / "adapter_model.safetensors", tensors)
    files.write_json(Path(folder) / "adapter_config.json", config)


@torch.no_grad()
def load(model: nn.Module, folder) -> nn.Module:
    """Put an adapter, that `save` or peft wrote, beside the weights of its base, in place; returns the model.

    The base must have the adapter's kind of head, for its labels: minift.load_model(BASE, "classify", LABELS). Raises
    `Error`, and then the model is as it was."""
    path = Path(folder) / "adapter_config.json"
    config = files.read_json(path)
    config = config if isinstance(config, dict) else {}
    kind, rank, alpha = (config.get(name) for name in ("peft_type", "r", "lora_alpha"))
    if kind != "LORA" or type(rank) is not int or rank < 1 or not isinstance(alpha, int | float):
        raise Error(f"{path}: peft_type {kind!r}, r {rank!r}, lora_alpha {alpha!r}: this is no adapter of LoRA's")
    odd = [name for name in OTHERS if config.get(name)]
    odd += ["init_lora_weights"] if config.get("init_lora_weights") not in PLAIN else []
    if odd:
        raise Error(f"{path}: {odd[0]} is {config[odd[0]]!r}, and minift knows plain LoRA alone")

    path, dropout = path.with_name("adapter_model.safetensors"), config.get("lora_dropout") or 0.0
    found = {key.removeprefix("base_model.model."): tensor for key, tensor in safetensors.load(path).items()}
    layers = {name: LoRA(layer, rank, alpha, dropout) for name, layer in linear_layers(model).items()}
    here, (keys, tied) = places(model, layers), published(model)
    for key, tensor in found.items():
        if key not in here or here[key].shape != tensor.shape:
            right = f"is {tuple(here[key].shape)}" if key in here else "has no place"
            way_out = "load the base that the adapter was made for, with its kind of head and its labels"
            raise Error(f"{path}: {key}, {tuple(tensor.shape)}, {right} in this model; {way_out}")
        if key in tied and not torch.equal(tensor, found.get(keys[tied[key]][0], here[key])):
            raise Error(f"{path}: {key} is not {tied[key]}, to which this model ties it")
    filled = {here[key] for key in found}
    layers = {name: layer for name, layer in layers.items() if filled & {*layer.pair.values()}}
    if not layers or not all(filled >= {*layer.pair.values()} for layer in layers.values()):
        raise Error(f"{path}: has no LoRA, or A of a layer without B, or B without A")
    add(model, layers)
    for key, tensor in found.items():
        here[key].copy_(tensor)
    return model


if __name__ == "__main__":
    layer = LoRA(nn.Linear(64, 32), rank=4, alpha=8, dropout=0.0)
    x, learn = torch.randn(2, 64), [p for p in layer.parameters() if p is not layer.weight and p is not layer.bias]
    print("W:", layer.weight.numel(), "numbers; A and B:", sum(p.numel() for p in learn))
    nn.init.normal_(layer.lora_B.weight)
    print("merged says the same:", torch.allclose(layer(x), layer.merged()(x), atol=1e-5))
