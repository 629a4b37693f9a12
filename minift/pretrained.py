"""From a model folder to a module and back: which class, which key is which parameter, and a report on every key.

A folder has the form that Hugging Face publishes: config.json says the shape, model.safetensors (or an older form, see
weights.py) holds the tensors, under names that each model file maps to its parameters in `key_map`.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from . import files, fingerprints, hub, safetensors, tokenizers, weights
from .errors import Error, nearest
from .models import bart, bert, bert2bert, gpt2, t5

FAMILIES = {  # config.json's model_type: (the file, its model, its configuration)
    "gpt2": (gpt2, gpt2.GPT2, gpt2.Config),
    "bert": (bert, bert.BERT, bert.Config),
    "bart": (bart, bart.BART, bart.Config),
    "marian": (bart, bart.Marian, bart.MarianConfig),
    "t5": (t5, t5.T5, t5.Config),
    "encoder-decoder": (bert2bert, bert2bert.BERT2BERT, bert2bert.Config),
}


GENERATION = (
    *("max_length", "min_length", "num_beams", "length_penalty", "early_stopping", "no_repeat_ngram_size"),
    *("repetition_penalty", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id"),
    *("forced_eos_token_id", "eos_token_id", "do_sample", "temperature", "top_k", "top_p"),
)


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


def load_model(name, kind: str | tuple | None = None, labels: list[str] | None = None) -> nn.Module:
    """The model of a name (hub.py; `random:NAME`: its shape with fresh weights; `bert2bert:ENC,DEC`: it reads with ENC
    and writes with DEC), in float32, in eval mode.

    `kind` and `labels` ask for another head than the folder's own (of several kinds the folder's own, if it is one of
    them, else the first): what it lacks of that head is drawn at random (from torch's generator) and listed in
    `model.report.new`. Raises `Error` on anything else missing, misshapen or unknown.
    """
    name = str(name)
    if name.startswith(hub.TWO):
        return of_two(name, kind).eval()
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
    kind = wanted(folder, cls, kind, own)
    labels = config.labels if labels is None else list(labels)
    fresh = kind != own or labels != config.labels
    config.labels = labels
    tensors = {} if random else weights.read(folder)
    path = folder / "config.json"
    for name in module.DEPTH.split():
        depth = getattr(config, name)
        if depth > (1000 if random else len(tensors)):  # a config's mistake must not fill the memory
            why = "more than any published model has" if random else "the weights hold fewer"
            raise Error(f"{path}: {name} is {depth}, {why}")
    settle = getattr(module, "settle", lambda *_: [])  # for what config.json does not always know
    notes = settle(config, {canonical(key): tensor for key, tensor in tensors.items()})
    with torch.device("meta"):  # shapes alone
        model = cls(config, kind)
    if random:
        size = 4 * sum(p.numel() for p in model.parameters())
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**40
        if size > memory:
            raise Error(f"{path}: a model of this shape takes {size:,} bytes, this machine has {memory:,}")
        model = cls(config, kind)
        model.report = Report(new=[name for name, _ in model.named_parameters()])
    else:
        model.report = assign(folder, module, model, tensors, fresh)
    model.report.notes += notes
    model.generation = generation
    return model


def wanted(name, cls, kind, own: str) -> str:
    """The kind to load where `kind` (None, one, or several) is asked for and the model's own is `own`."""
    kinds = (kind,) if isinstance(kind, str) else kind or (own,)
    kind = own if own in kinds else next((one for one in kinds if one in cls.ARCHITECTURES), kinds[0])
    if kind not in cls.ARCHITECTURES:
        there = ", ".join(cls.ARCHITECTURES)
        raise Error(f"{name}: {cls.FAMILY} has no kind '{kind}', but {there}{nearest(kind, cls.ARCHITECTURES)}")
    return kind


def of_two(name: str, kind) -> nn.Module:
    """The encoder-decoder of bert2bert:ENC,DEC. What neither BERT has is new: drawn at random."""
    wanted(name, bert2bert.BERT2BERT, kind, "seq2seq")

    def half(side, one):
        cls = read_config(hub.find(one.removeprefix("random:")))[1]
        if cls is not bert.BERT:
            raise Error(f"{one}: is a {cls.FAMILY}, where a BERT is needed")
        model = load_model(one, "encoder" if side == "encoder" else "mlm")
        return model, fitting(one, model)

    (encoder, _), (decoder, ends) = hub.each_side(name, half)
    model, sides = bert2bert.joined(encoder, decoder, ends), {"encoder": encoder, "decoder": decoder}
    lists = {f.name: [f"{k}.{v}" for k, m in sides.items() for v in getattr(m.report, f.name)] for f in fields(Report)}
    known = {f"{side}.{name}" for side, part in sides.items() for name in part.state_dict()} - {*lists["new"]}
    model.report = Report(**lists | {"new": [name for name in model.state_dict() if name not in known]})
    return model


def assign(folder, module, model: nn.Module, tensors: dict[str, torch.Tensor], fresh: bool) -> Report:
    """Give the file's tensors to the model's parameters. `fresh`: the head is being added, so that what the file lacks
    of it is drawn, and a head that the file has for other labels is not taken."""
    report, known = Report(), module.key_map(model.config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    # (what `key_map` does not know has no parameter of its own even in a model whose head is untied)
    tied = {copy: name for copy, name in module.TIED.items() if model.config.tie_word_embeddings or copy not in known}
    new = module.NEW.get(model.kind, ()) if fresh else ()
    bare = not any(canonical(key).startswith(module.PREFIX) for key in tensors)

    found = {}  # by the parameter's name here: (key in the file, whether it is stored transposed)
    for key in tensors:
        name = canonical(key)
        if bare and name not in known:
            name = module.PREFIX + name
        name, transposed = known.get(name, (name, False))
        if name in found:
            raise Error(f"{folder}: the keys {found[name][0]} and {key} are both {name}; keep one of them")
        found[name] = key, transposed
    for copy, name in tied.items():
        if copy in found and name not in found:  # some tools keep the other name of a tied pair
            found[name] = found.pop(copy)

    state = {}
    for name, (key, transposed) in found.items():
        tensor = tensors[key].T if transposed and tensors[key].ndim == 2 else tensors[key]
        useless = name not in shapes and name.endswith(module.DROPPED)
        if useless or (fresh and name in known and name.startswith(module.LABELLED)):
            report.dropped.append(key)
        elif name in shapes and tensor.shape != shapes[name]:
            report.misshapen.append(f"{key}: {tuple(tensor.shape)} in the file, {tuple(shapes[name])} in the model")
        elif name in shapes:
            state[name] = tensor.float().contiguous()
            (report.transposed if transposed else report.mapped).append(key)
            if not state[name].isfinite().all():
                report.notes.append(f"{key} holds values that are not finite")
        elif name in tied:
            one = tied[name]
            report.tied.append(f"{key} = {one}")
            if not torch.equal(tensor.float(), tensors[found[one][0]].float()):
                report.notes.append(f"{key} differs from {one}, which config.json ties it to; {one} is used")
        elif name in known:
            report.dropped.append(key)
        else:
            report.unexpected.append(name)

    report.new = [name for name in shapes if name not in state and name.startswith(new)]
    zero = [name for name in shapes if name not in found and name in module.ZERO]
    report.missing = [name for name in shapes if name not in found and name not in (*report.new, *zero)]
    state |= {name: torch.zeros(shapes[name]) for name in zero}
    report.notes += [f"{name} is not in the file: it is 0" for name in zero]
    if not report.misshapen:  # else config.json may be wrong, and any size in it
        for name in report.new:  # in the model's order: a seed gives the same head in every process
            state[name] = model.init_parameter(name, torch.empty(shapes[name]))
    model.load_state_dict(state, assign=True, strict=False)
    return report


def canonical(key: str) -> str:
    """A key without the prefixes of torch.compile and DDP, and with today's names of a norm's parameters."""
    key = key.replace("_orig_mod.", "").removeprefix("module.")
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{'weight' if m[1] == 'gamma' else 'bias'}", key)


def read_config(folder: Path):
    """(module of the family, its class, its Config, kind of head, generation settings) of a folder."""
    path = folder / "config.json"
    if not path.exists():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise Error(f"{folder}: no config.json, so this is no model folder; it holds {found}")
    raw = read_object(path)
    family = raw.pop("model_type", None)
    if family is None:  # early files do not say it; the one that most of the fields belong to
        shared = {name: sum(f.name in raw for f in fields(Config)) for name, (_, _, Config) in FAMILIES.items()}
        family = max(shared, key=shared.get) if any(shared.values()) else None
    if not isinstance(family, str) or family not in FAMILIES:
        raise Error(f"{path}: model_type {family!r} is none of {', '.join(FAMILIES)}{nearest(family, FAMILIES)}")
    module, cls, Config = FAMILIES[family]
    names, config = raw.pop("architectures", None) or [], configured(path, Config, raw)
    kinds = {name: kind for kind, name in cls.ARCHITECTURES.items()}
    kind = next((kinds[str(name)] for name in names if str(name) in kinds), next(iter(cls.ARCHITECTURES)))
    defaults = folder / "generation_config.json"
    return module, cls, config, kind, read_object(defaults) if defaults.exists() else generation_of(raw)


def configured(path, Config, raw: dict):
    """The Config of what config.json says. A field may be a Config of its own: one side of two."""
    labels = raw.pop("id2label", None)
    for key in ("label2id", "dtype", "torch_dtype"):  # said anew when saving; and all is float32 from here on
        raw.pop(key, None)
    known = {}
    for f in fields(Config):
        if is_dataclass(f.type):
            value = raw.pop(f.name, None)
            if not isinstance(value, dict):
                raise Error(f"{path}: {f.name} is {value!r}, but must be the configuration of the {f.name}")
            known[f.name] = configured(f"{path}, {f.name}", f.type, value)
        elif f.name in raw and f.name not in ("labels", "extra"):
            known[f.name] = checked(path, f, raw.pop(f.name))
    if labels:
        try:
            known["labels"] = [str(labels[i]) for i in sorted(labels, key=int)]
        except (TypeError, ValueError):
            raise Error(f"{path}: id2label is {labels!r}, but must map '0', '1', … to names") from None
    try:
        return Config(**known, extra=raw)
    except Error as e:
        raise Error(f"{path}: {e}") from None


def generation_of(raw: dict) -> dict:
    """How a model writes, where config.json still says it, as it did before there was a generation_config.json."""
    found = {name: raw[name] for name in GENERATION if raw.get(name) is not None}
    if raw.get("force_bos_token_to_be_generated"):  # bart-large-cnn's, once
        found.setdefault("forced_bos_token_id", raw.get("bos_token_id"))
    return found


def read_object(path) -> dict:
    value = files.read_json(path)
    if not isinstance(value, dict):
        raise Error(f"{path}: must hold an object, not a {type(value).__name__}")
    return value


def checked(path, f, value):
    """The value, if it has the type that the field declares, and is no absurd size. (What is no whole number, such as a
    dropout or an epsilon, lies between 0 and 1.)"""
    allowed = get_args(f.type) or (f.type,)  # int | None -> (int, NoneType)
    if float in allowed:
        allowed += (int,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join(t.__name__ for t in allowed).replace("NoneType", "null")
        raise Error(f"{path}: {f.name} is {value!r}, but must be of type {names}")
    if allowed[0] is float and value is not None and not 0 <= value <= 1:
        raise Error(f"{path}: {f.name} is {value}, but must lie between 0 and 1")
    if allowed[0] is int and value is not None and not f.name.endswith("_id") and not 0 < value <= 2**24:
        raise Error(f"{path}: {f.name} is {value}, but must lie between 1 and {2**24}")
    return value


def load_tokenizer(name):
    """The tokenizer of the same names as `load_model`."""
    if str(name).startswith(hub.TWO):
        return tokenizers.of_two(*hub.each_side(str(name), lambda _, one: load_tokenizer(one)))
    return tokenizers.load(hub.find(str(name).removeprefix("random:")))


def load(name, kind: str | tuple | None = None, labels: list[str] | None = None):
    """(model, tokenizer) of a name; see `load_model`."""
    model = load_model(name, kind, labels)
    return model, fitting(name, model)


def fitting(name, model):
    """The folder's tokenizer, if the model has an embedding for each of its tokens."""
    tokenizer, config, both = load_tokenizer(name), model.config, ("source", "target")
    source, target = (getattr(tokenizer, side, tokenizer) for side in both)
    for one, sized in (source, getattr(config, "encoder", config)), (target, getattr(config, "decoder", config)):
        if one.vocab_size > sized.vocab_size:
            sizes = f"the tokenizer has {one.vocab_size} tokens, the embedding {sized.vocab_size} rows"
            raise Error(f"{name}: {sizes}; they do not belong together")
    return tokenizer


def save(model: nn.Module, tokenizer, folder, dtype: torch.dtype = torch.float32):
    """Write a folder that `load` and transformers read alike: config.json, model.safetensors, the tokenizer's files.

    Keys and layouts are the published ones; a tied tensor is written once. `tokenizer` may be None. `dtype` is what the
    file stores; float16 halves it."""
    folder = Path(folder)
    module, cls, _ = FAMILIES[model.FAMILY]
    config = {"model_type": model.FAMILY, "architectures": [cls.ARCHITECTURES[model.kind]], **said(model.config)}
    config["dtype"], labels = "float32", model.config.labels  # to compute in, whatever the file stores
    if model.kind == "classify":
        config["id2label"] = {str(i): name for i, name in enumerate(labels)}
        config["label2id"] = {name: i for i, name in enumerate(labels)}
    state = {canonical(name): tensor.to("cpu", dtype) for name, tensor in model.state_dict().items()}
    published = {}
    for key, (name, transposed) in module.key_map(model.config).items():
        if name in state:
            key = key.removeprefix(module.PREFIX) if model.kind == module.BARE else key
            published[key] = state[name].T.contiguous() if transposed else state[name]
    if len(published) < len(state):
        lost = len(state) - len(published)
        raise Error(f"{folder}: not saved: {lost} parameters of this model have no published name")
    safetensors.save(folder / "model.safetensors", published)
    if tokenizer is not None:
        tokenizer.save(folder)
    if getattr(model, "generation", None):
        files.write_json(folder / "generation_config.json", model.generation)
    files.write_json(folder / "config.json", config)  # last: without it the folder is not yet a model


def said(config) -> dict:
    """What config.json says of a Config, in the names that it was read by."""
    own = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in ("labels", "extra")}
    return config.extra | {name: said(value) if is_dataclass(value) else value for name, value in own.items()}


def with_head(model: nn.Module, kind, labels: list[str] | None) -> nn.Module:
    """The same weights under a head of this kind for these labels: new, unless the model has just that head."""
    kind = wanted("this model", type(model), kind, model.kind)
    labels = model.config.labels if labels is None else list(labels)
    if model.kind == kind and model.config.labels == labels:
        return model
    fresh = type(model)(replace(model.config, labels=labels), kind)
    labelled = FAMILIES[model.FAMILY][0].LABELLED
    kept = {name: p for name, p in model.state_dict().items() if not name.startswith(labelled)}
    fresh.load_state_dict(kept, strict=False)
    fresh.report = Report(new=[name for name in fresh.state_dict() if name not in kept])
    return fresh.eval()


def check(name) -> str:
    """The report on a model folder as text, with its published figures where it has some; raises `Error` with the
    report where the model cannot be used."""
    folder = hub.find(name)
    model = build(folder).eval()
    module, cls, _ = FAMILIES[model.FAMILY]
    count = sum(p.numel() for p in model.parameters())
    what = f"{cls.ARCHITECTURES[model.kind]}, {count:,} parameters in {len(model.blocks)} blocks"
    text = f"{folder}\n{what}\n{model.report}"
    fault = model.report.fault(module.PREFIX)
    if fault:
        raise Error(f"{text}\n{folder}: {fault}")
    tokenizer = fitting(folder, model)
    text += "\nevery parameter has its weights; the tokenizer loads"
    return f"{text}\n{fingerprints.compare(name, folder, lambda: (model, tokenizer))}".rstrip()
