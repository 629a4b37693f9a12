"""From a model folder to a module and back: which class, which key is which parameter, and a report on every key.

A folder has the form that Hugging Face publishes: config.json says the shape, model.safetensors (or an older form, see
weights.py) holds the tensors, under names that each model file maps to its parameters in `key_map`.
"""

import re
from collections import Counter
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from . import files, hub, safetensors, tokenizers, weights
from .errors import Error, nearest
from .models import bert, gpt2

FAMILIES = {"gpt2": (gpt2, gpt2.GPT2), "bert": (bert, bert.BERT)}  # by config.json's model_type


@dataclass
class Report:
    """What loading did with every key of the file and every parameter of the model (Law 5)."""

    mapped: list[str] = field(default_factory=list)  # keys taken as they are
    transposed: list[str] = field(default_factory=list)  # keys taken, (in, out) turned to (out, in)
    tied: list[str] = field(default_factory=list)  # "key = parameter": one tensor under two names, held once
    dropped: list[str] = field(default_factory=list)  # keys known and not needed: mask buffers, another kind's head
    new: list[str] = field(default_factory=list)  # parameters of an added head, drawn at random
    missing: list[str] = field(default_factory=list)  # parameters that the file lacks
    misshapen: list[str] = field(default_factory=list)  # "key: (4, 8) in the file, (4, 16) in the model"
    unexpected: list[str] = field(default_factory=list)  # keys that no kind of this family knows
    notes: list[str] = field(default_factory=list)

    def fault(self, prefix: str) -> str | None:
        """Why the loaded model cannot be trusted, or None. An unknown head is no reason, an unknown backbone key is."""
        unknown = [key for key in self.unexpected if key.startswith(prefix)]
        for what, keys in ("lack", self.missing), ("have another shape:", self.misshapen), ("hold unknown", unknown):
            if keys:
                return f"the weights {what} " + "; ".join(keys[:10]) + ("; …" if len(keys) > 10 else "")
        return None

    def __str__(self):
        lines = []
        for f in fields(self):
            # h.0.attn.bias, h.1.attn.bias, … share a line: h.*.attn.bias (12)
            groups = Counter(re.sub(r"\.\d+\.", ".*.", value) for value in getattr(self, f.name))
            shown = [f"{group} ({n})" if n > 1 else group for group, n in groups.items()]
            lines.append(f"{f.name:10} {sum(groups.values()):4}  " + ("\n" + " " * 17).join(shown))
        return "\n".join(line.rstrip() for line in lines)


def load_model(name, kind: str | None = None, labels: list[str] | None = None) -> nn.Module:
    """The model in a folder (or embedded, or `random:NAME` for its shape with fresh weights), in float32, in eval mode.

    `kind` and `labels` ask for another head than the folder's own: what it lacks of that head is drawn at random (from
    torch's generator) and listed in `model.report.new`. Raises `Error` on anything else missing, misshapen or unknown.
    """
    name = str(name)
    model = build(hub.find(name.removeprefix("random:")), kind, labels, random=name.startswith("random:"))
    module = FAMILIES[model.FAMILY][0]
    fault = model.report.fault(module.PREFIX)
    if fault:
        raise Error(f"{name}: {fault}; `minift check {name}` lists every key")
    return model.eval()


def build(folder: Path, kind=None, labels=None, random=False):
    """The model with the report at `model.report`, whatever it says: parameters that the file lacks stay on the meta
    device. `load_model` is the one to use; `minift check` wants the report of a broken folder too."""
    module, cls, config, own, generation = read_config(folder)
    kind = kind or own
    fresh = kind != own or (labels is not None and labels != config.labels)
    if labels is not None:
        config.labels = list(labels)
    if random:
        model = cls(config, kind)
        model.report = Report(new=[name for name, _ in model.named_parameters()])
    else:
        tensors = weights.read(folder)
        if getattr(config, module.DEPTH) > len(tensors):  # before a config's mistake fills the memory
            raise Error(f"{folder / 'config.json'}: {module.DEPTH} is {getattr(config, module.DEPTH)}, the weights hold fewer")
        with torch.device("meta"):
            model = cls(config, kind)
        model.report = assign(module, model, tensors, new=module.NEW.get(kind, ()) if fresh else ())
    model.generation = generation
    return model


def assign(module, model: nn.Module, tensors: dict[str, torch.Tensor], new: tuple[str, ...]) -> Report:
    """Give the file's tensors to the model's parameters. Parameters that start with one of `new` belong to a head that
    is being added: the first of them is never taken from the file, all are drawn where the file lacks them."""
    known, report = module.key_map(model.config), Report()
    wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
    bare = not any(key.startswith(module.PREFIX) for key in map(canonical, tensors))
    state, source = {}, {}
    for key, tensor in tensors.items():
        name = canonical(key)
        if bare and name not in known:
            name = module.PREFIX + name
        name, transposed = known.get(name, (name, False))
        if name in source:
            raise Error(f"the keys {source[name]} and {key} are both {name}; keep one of them")
        source[name] = key
        if name.endswith(module.DROPPED) or (name in known and new and name.startswith(new[0])):
            report.dropped.append(key)
        elif name in wanted:
            tensor = tensor.T if transposed and tensor.ndim == 2 else tensor
            if tensor.shape != wanted[name]:
                shapes = f"{tuple(tensor.shape)} in the file, {tuple(wanted[name])} in the model"
                report.misshapen.append(f"{key}: {shapes}")
                continue
            state[name] = tensor.float().contiguous()
            (report.transposed if transposed else report.mapped).append(key)
            if not state[name].isfinite().all():
                report.notes.append(f"{key} holds values that are not finite")
        elif name in module.TIED:
            report.tied.append(f"{key} = {module.TIED[name]}")
        elif name in known:
            report.dropped.append(key)
        else:
            report.unexpected.append(name)
    for copy, name in module.TIED.items():
        if copy in source and copy not in wanted and name in state and not torch.equal(tensors[source[copy]].float(), state[name]):
            report.notes.append(f"{source[copy]} differs from {name}, which config.json ties it to; {name} is used")
    for name in wanted.keys() - state.keys():
        if new and name.startswith(new):
            state[name] = model.init_parameter(name, torch.empty(wanted[name]))
            report.new.append(name)
        elif name not in source:
            report.missing.append(name)
    model.load_state_dict(state, assign=True, strict=False)
    return report


def canonical(key: str) -> str:
    """A key without the prefixes of torch.compile and DDP, and with today's names of a norm's parameters."""
    key = key.removeprefix("_orig_mod.").removeprefix("module.")
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{'weight' if m[1] == 'gamma' else 'bias'}", key)


def read_config(folder: Path):
    """(module of the family, its class, its Config, kind of head, generation settings) of a folder."""
    path = folder / "config.json"
    if not path.exists():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise Error(f"{folder}: no config.json, so this is no model folder; it holds {found}")
    raw = files.read_json(path)
    if not isinstance(raw, dict):
        raise Error(f"{path}: must hold an object, not a {type(raw).__name__}")
    family = raw.pop("model_type", None)
    if family not in FAMILIES:
        raise Error(f"{path}: model_type {family!r} is none of {', '.join(FAMILIES)}{nearest(family, FAMILIES)}")
    module, cls = FAMILIES[family]
    names, labels = raw.pop("architectures", None) or [], raw.pop("id2label", None)
    raw.pop("label2id", None)
    known = {f.name: checked(path, f, raw.pop(f.name)) for f in fields(module.Config) if f.name in raw and f.name != "labels"}
    if labels:
        try:
            known["labels"] = [str(labels[i]) for i in sorted(labels, key=int)]
        except (TypeError, ValueError):
            raise Error(f"{path}: id2label is {labels!r}, but must map '0', '1', … to names") from None
    try:
        config = module.Config(**known, extra=raw)
    except Error as e:
        raise Error(f"{path}: {e}") from None
    kinds = {name: kind for kind, name in cls.ARCHITECTURES.items()}
    kind = next((kinds[name] for name in names if name in kinds), next(iter(cls.ARCHITECTURES)))
    defaults = folder / "generation_config.json"
    return module, cls, config, kind, files.read_json(defaults) if defaults.exists() else {}


def checked(path, f, value):
    """The value, if it has the type that the field declares; a size must be positive."""
    allowed = get_args(f.type) or (f.type,)  # int | None -> (int, NoneType)
    if float in allowed:
        allowed += (int,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join(t.__name__ for t in allowed).replace("NoneType", "null")
        raise Error(f"{path}: {f.name} is {value!r}, but must be of type {names}")
    if allowed[0] is int and value is not None and not f.name.endswith("_id") and not 0 < value < 2**31:
        raise Error(f"{path}: {f.name} is {value}, but must lie between 1 and {2**31 - 1}")
    return value


def load_tokenizer(name):
    """The tokenizer of a folder or an embedded model."""
    return tokenizers.load(hub.find(str(name).removeprefix("random:")))


def load(name, kind: str | None = None, labels: list[str] | None = None):
    """(model, tokenizer) of a folder or an embedded model; see `load_model`."""
    model, tokenizer = load_model(name, kind, labels), load_tokenizer(name)
    rows = model.config.vocab_size
    if tokenizer.vocab_size > rows:
        raise Error(f"{name}: the tokenizer has {tokenizer.vocab_size} tokens, the embedding {rows} rows; they do not belong together")
    return model, tokenizer


def save(model: nn.Module, tokenizer, folder):
    """Write a folder that `load` and transformers read alike: config.json, model.safetensors, the tokenizer's files.

    Keys and layouts are the published ones; a tied tensor is written once. `tokenizer` may be None."""
    folder = Path(folder)
    module, cls = FAMILIES[model.FAMILY]
    values = asdict(model.config)
    labels, extra = values.pop("labels"), values.pop("extra")
    config = {"model_type": model.FAMILY, "architectures": [cls.ARCHITECTURES[model.kind]], **extra, **values}
    if model.kind == "classify":
        config["id2label"] = {str(i): name for i, name in enumerate(labels)}
        config["label2id"] = {name: i for i, name in enumerate(labels)}
    state = {name: p.detach().cpu() for name, p in model.named_parameters()}
    published = {}
    for key, (name, transposed) in module.key_map(model.config).items():
        if name in state:
            published[key] = state[name].T.contiguous() if transposed else state[name]
    safetensors.save(folder / "model.safetensors", published)
    if tokenizer is not None:
        tokenizer.save(folder)
    if getattr(model, "generation", None):
        files.write_json(folder / "generation_config.json", model.generation)
    files.write_json(folder / "config.json", config)  # last: without it the folder is not yet a model


def with_head(model: nn.Module, kind: str, labels: list[str]) -> nn.Module:
    """The same weights under a head of this kind for these labels: new, unless the model has just that head."""
    if model.kind == kind and model.config.labels == labels:
        return model
    fresh = type(model)(replace(model.config, labels=list(labels)), kind)
    new = FAMILIES[model.FAMILY][0].NEW[kind][0]
    fresh.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith(new)}, strict=False)
    return fresh


def check(name) -> str:
    """The report on a model folder as text; raises `Error` with the report where the model cannot be used."""
    folder = hub.find(name)
    model = build(folder)
    module, cls = FAMILIES[model.FAMILY]
    count = sum(p.numel() for p in model.parameters())
    text = f"{folder}\n{cls.ARCHITECTURES[model.kind]}, {count:,} parameters in {len(model.blocks)} blocks\n{model.report}"
    fault = model.report.fault(module.PREFIX)
    if fault:
        raise Error(f"{text}\n{folder}: {fault}")
    load_tokenizer(folder)
    return text + "\nevery parameter has its weights; the tokenizer loads"
