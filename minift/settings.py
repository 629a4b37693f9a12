"""Every option, once: the command line makes its flags from these fields, Python takes them as keywords, and a run's
config.toml lists them. Nothing heavy is imported, so that `minift --help` is instant."""

import math
from dataclasses import dataclass, field, fields
from typing import ClassVar, get_args

from .errors import Error, nearest

MAY_BE_0 = (
    "warmup",
    "weight_decay",
    "seed",
    "smoothing",
    "lora_dropout",
    "overlap",
)  # of the numbers; all the others are counts, rates or lengths
MODELS, TUNE = "kim-cnn,bert-nano,gpt2-nano", "head,last:1,lora,all"  # what is compared
TYPES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", list: "a list"}


def option(default, help, **more):
    """A field with its help text; `choices` and `metavar` are handed on to argparse."""
    return field(default=default, metadata={"help": help, **more})


@dataclass
class Finetune:
    """Settings of `minift finetune` and `minift.finetune`."""

    model: str | None = option(
        None,
        "embedded, a folder, a Hub id, or random:NAME: its shape, fresh weights; bert2bert:ENC,DEC: two BERTs as an "
        "encoder-decoder, each named so; kim-cnn or kim-cnn:FROM: filters over words, their vectors random or from a "
        "GloVe or word2vec file or a model (none: the task's, see minift ls)",
        metavar="M",
    )
    train: str | None = option(
        None, "rows to learn from: .tsv, .csv, .jsonl, .json or .txt (none: what comes with minift)", metavar="F"
    )
    valid: str | None = option(None, "rows to choose the best epoch by (none: a tenth of the training's)", metavar="F")
    test: str | None = option(None, "rows to report on at the end", metavar="F")
    out: str | None = option(None, "the run's folder (none: runs/TASK-N)", metavar="DIR")
    epochs: int | None = option(
        None, "times through the training rows (none: 3; translate: 4; mlm, denoise and kim-cnn: 10)", metavar="N"
    )
    max_steps: int | None = option(None, "stop after so many steps instead", metavar="N")
    lr: float | None = option(
        None, "peak learning rate (none: by the model's size and the task, optim.usual_rate)", metavar="X"
    )
    lr_new: float | None = option(
        None, "rate of what was drawn at random (none: --lr, for bert2bert ten times --lr)", metavar="X"
    )
    batch_size: int | None = option(None, "rows a step (none: 32; answer: 16; lm and mlm: 4; denoise: 8)", metavar="N")
    batch_tokens: int | None = option(None, "padded tokens a batch, instead of rows", metavar="N")
    accumulate: int = option(1, "batches a step", metavar="N")
    max_length: int | None = option(
        None, "cut texts to so many tokens (none: the model's positions; answer: 384, a window's tokens)", metavar="N"
    )
    tune: str = option("all", "what learns: head, last:N, lora or all", metavar="head|last:N|lora|all")
    lora_layers: str = option(
        "c_attn,query,value,q_proj,v_proj,q_lin,v_lin,q,v",
        "lora: which linear layers, by the ends of their names or regular expressions; as it is, queries and values",
        metavar="P",
    )
    lora_rank: int = option(8, "lora: rows of A, columns of B", metavar="N")
    lora_alpha: float = option(16.0, "lora: the change is BA times alpha / rank, so raise both together", metavar="X")
    lora_dropout: float = option(0.0, "lora: dropout on what A reads", metavar="X")
    unfreeze: str = option(
        "once", "gradual: the head first, each epoch a block more from the top (ULMFiT)", choices=("once", "gradual")
    )
    rate_decay: float = option(
        1.0, "each block's rate is that of the block above divided by X (ULMFiT: 2.6)", metavar="X"
    )
    schedule: str = option(
        "linear", "the rate after warm-up; slanted: ULMFiT's", choices=("linear", "cosine", "constant", "slanted")
    )
    warmup: float = option(0.1, "share of the steps that warm up", metavar="X")
    weight_decay: float = option(0.01, "AdamW's decay, not on biases and norms", metavar="X")
    clip: float = option(1.0, "longest gradient", metavar="X")
    patience: int | None = option(None, "stop after so many epochs without a better validation score", metavar="N")
    prompt: str | None = option(None, "lm: the text to continue, before and after (none: a test text's)", metavar="P")
    regression: bool = option(False, "the label is a number")
    prefix: str = option("", "translate: put before each source, such as 'translate English to French: '", metavar="P")
    metric: str = option("bleu", "translate: bleu (and chrF), or rouge for summaries", choices=("bleu", "rouge"))
    smoothing: float = option(0.1, "translate: the share of the target's chance for all other words", metavar="X")
    beams: int | None = option(
        None, "translate: beams when measuring (none: generation_config.json's, or 1)", metavar="N"
    )
    channels: str | None = option(
        None,
        "kim-cnn: its vectors learn (non-static), stay (static), or a copy of each (none: non-static)",
        choices=("static", "non-static", "multichannel"),
    )
    style: str | None = option(
        None,
        "answer: point at a passage, or write freely (none: extractive, where the model can)",
        choices=("extractive", "generative"),
    )
    overlap: int | None = option(
        None, "answer: tokens that neighbouring windows of a long text share (none: a third of them)", metavar="N"
    )
    baselines: bool = option(False, "also train the same model from random weights, to compare")
    recompute: bool = option(False, "activation checkpointing: less memory, a third more work")
    precision: str = option("auto", "auto: bf16 on a GPU that has it, else fp32", choices=("auto", "fp32", "bf16"))
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    threads: int | None = option(None, "CPU threads (none: torch's choice)", metavar="N")
    seed: int = option(0, "of everything drawn at random", metavar="S")
    log_every: int = option(10, "steps between two lines of metrics.jsonl", metavar="N")


def plain(kind):
    """The type of a field that may be None: int | None -> int."""
    return next(t for t in (get_args(kind) or (kind,)) if t is not type(None))


def checked(settings):
    """The settings, if every value makes sense; else an `Error` that names the flag."""
    for f in fields(settings):
        value, flag = getattr(settings, f.name), "--" + f.name.replace("_", "-")
        choices = f.metadata.get("choices")
        if choices and value not in (*choices, f.default):
            raise Error(f"{flag} {value}: choose one of {', '.join(choices)}{nearest(value, choices)}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not (0 < value < math.inf or (value == 0 and f.name in MAY_BE_0)):
            least = "0 or more" if f.name in MAY_BE_0 else "greater than 0"
            raise Error(f"{flag} {value}: must be a finite number, {least}")
    if not 0 <= settings.warmup < 1:
        raise Error(f"--warmup {settings.warmup}: a share of the steps, from 0 to below 1")
    if not 0 <= getattr(settings, "lora_dropout", 0.0) < 1:
        raise Error(f"--lora-dropout {settings.lora_dropout}: a chance, from 0 to below 1")
    if settings.seed >= 2**63:  # more than torch's generators take
        raise Error(f"--seed {settings.seed}: must be less than 2**63")
    return settings


def make(cls, values: dict):
    """`cls(**values)`, where an unknown name or a value of the wrong type is an `Error` with the nearest name."""
    known = {f.name: f for f in fields(cls)}
    for name, value in values.items():
        if name not in known:
            raise Error(f"unknown setting '{name}'{nearest(name, known)}")
        kind = plain(known[name].type)
        if kind is float and type(value) is int:
            values = {**values, name: float(value)}
        elif not isinstance(value, known[name].type) or (isinstance(value, bool) and kind is not bool):
            raise Error(f"setting {name} = {value!r}: must be {TYPES[kind]}")
    return checked(cls(**values))


@dataclass
class Pretrain:
    """Settings of `minift pretrain`."""

    text: list | None = option(  # noqa: RUF009 (the field's default is None)
        None, "text files: .txt, documents parted by lines <|endoftext|>", metavar="F"
    )
    out: str | None = option(None, "the run's folder; the same again goes on where it stopped", metavar="DIR")
    model: str | None = option(
        None, "go on from this model: its weights, shape and vocabulary instead of new ones", metavar="M"
    )
    vocab: int = option(8192, "tokens to train a vocabulary of", metavar="N")
    layers: int = option(6, "blocks", metavar="N")
    width: int = option(256, "channels", metavar="N")
    heads: int = option(8, "attention heads a block", metavar="N")
    context: int = option(512, "tokens a row, the model's positions", metavar="N")
    tokens: float = option(20e6, "how many to learn from, repeating the texts if need be", metavar="N")
    batch_size: int = option(8, "rows a batch", metavar="N")
    accumulate: int = option(1, "batches a step", metavar="N")
    lr: float = option(4e-3, "peak rate of Muon (the matrices in the blocks) and AdamW (the rest)", metavar="X")
    schedule: str = option("cosine", "the rate after warm-up", choices=("linear", "cosine", "constant", "slanted"))
    warmup: float = option(0.02, "share of the steps that warm up", metavar="X")
    weight_decay: float = option(0.1, "decay, not on biases and norms", metavar="X")
    clip: float = option(1.0, "longest gradient", metavar="X")
    max_steps: int | None = option(None, "stop after so many steps", metavar="N")
    save_every: int = option(200, "batches between two measurements and saves", metavar="N")
    precision: str = option("auto", "auto: bf16 on a GPU that has it, else fp32", choices=("auto", "fp32", "bf16"))
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    threads: int | None = option(None, "CPU threads (none: torch's choice)", metavar="N")
    seed: int = option(0, "of everything drawn at random", metavar="S")
    log_every: int = option(10, "steps between two lines of metrics.jsonl", metavar="N")
    patience: ClassVar = None  # the loop asks for these; stopping early and unfreezing are for fine-tuning
    unfreeze: ClassVar = "once"


@dataclass
class Generate:
    """Settings of `minift generate`; what is not given comes from the model's generation_config.json."""

    prompt: str = option("Once upon a time", "the text to continue", metavar="P")
    max_new_tokens: int | None = option(None, "tokens to add (none: 50)", metavar="N")
    temperature: float | None = option(None, "0: the likeliest token each time; 1: as the model says", metavar="X")
    top_k: int | None = option(None, "sample among so many", metavar="N")
    top_p: float | None = option(None, "sample among those that together reach this probability", metavar="X")
    beams: int | None = option(None, "search for the likeliest text with so many beginnings in hand", metavar="N")
    seed: int | None = option(None, "of the sampling", metavar="S")


@dataclass
class Prompt:
    """Settings of `minift predict` and `minift evaluate` where a language model is prompted instead of fine-tuned."""

    shots: int | None = option(
        None, "prompt a language model with so many examples before each text, or with 0: none", metavar="K"
    )
    examples: str | None = option(
        None, "labelled rows, which give the labels and the examples (none: the embedded reviews)", metavar="F"
    )
    template: str | None = option(
        None, r"what is written for a text (none: '{text}\nLabel: {label}'); \n: a new line", metavar="T"
    )
    seed: int | None = option(None, "of the drawing of examples", metavar="S")
