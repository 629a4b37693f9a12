"""One run: model, task, data and loop put together, and the run's folder: `finetune`."""

import copy
import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from . import adapters, cnn, data, files, hub, lora, optim, plots, pretrained, settings, train
from .errors import Error, nearest
from .memory import keep_memory, peak_memory
from .tasks.answer import STYLES
from .tasks.classify import Classify, joined
from .use import TASKS, new_worker, on, outputs_of, pair, say_cut

MEMORY = "(given in memory)"  # stands in the run's folder where a name or a path would
EMBEDDED = {  # the model and the data set that a task takes when none is given
    "classify": ("bert-nano", "reviews"),
    "lm": ("gpt2-nano", "harbour"),
    "mlm": ("bert-nano", "harbour"),
    "translate": ("bart-nano-en-fr", "phrasebook"),
    "denoise": ("bart-nano-en-fr", "harbour"),
    "answer": ("bert-nano", "answers"),
}
OTHER = hub.DATA / "reviews" / "test.tsv"  # what a language model may forget while it learns another text
NAMES = {"train": "train", "valid": "validation", "test": "test"}  # a part, and its file in an embedded data set


@dataclass
class Run:
    metrics: dict  # by split: {"valid": {…}, "test_before": {…}, "test": {…}}
    model: torch.nn.Module
    tokenizer: object
    folder: Path
    train: dict  # steps, tokens, seconds, tokens_per_second, peak_memory_bytes, …
    baselines: dict = field(default_factory=dict)  # bag_of_words, random_weights: metrics on the test rows


def finetune(task: str, say=lambda line: None, **values) -> Run:
    """Fine-tune a model on a task and write the run's folder.

    `values` are fields of `settings.Finetune`. `model` may also be (module, tokenizer); `train`, `valid` and `test` may
    be rows in memory (see `data.read`). `say` takes the lines of the report. Raises `Error`; then no model is written.
    """
    if task not in TASKS:
        raise Error(f"unknown task '{task}'; there is {', '.join(TASKS)}{nearest(task, TASKS)}")
    sources = ("model", "train", "valid", "test")
    memory = {k: values.pop(k) for k in sources if not isinstance(values.get(k), str | Path | None)}
    values = {k: str(v) if isinstance(v, Path) else v for k, v in values.items() if v is not None}
    options = prepare(settings.make(settings.Finetune, values))
    options.model = options.model or EMBEDDED[task][0]
    tables, origin, labels = read_tables(task, options, memory)
    folder = new_folder(task, options.out)

    kinds = STYLES[options.style] if task == "answer" else TASKS[task].kinds
    model, tokenizer = start(memory.get("model", options.model), kinds, labels, tables, options)
    model.to(options.device)
    worker = new_worker(task, model, tokenizer, labels, options)
    options.batch_size = options.batch_size or worker.usual_batch
    options.epochs = options.epochs or (cnn.EPOCHS if cnn.named(options.model) else worker.usual_epochs)
    examples = {k: worker.training(table) if k == "train" else worker.examples(table) for k, table in tables.items()}
    learning, total = adapters.choose(model, options.tune, options)
    model.recompute = options.recompute
    size = next(model.parameters()).shape[1], len(model.blocks)  # the first parameter is the embedding, (V, C)
    usual = lambda tune: options.lr or worker.rate_factor * optim.usual_rate(*size, tune, model.FAMILY)
    fresh_lr, options.lr = usual("all"), usual(options.tune)  # of the random baseline, all of which learns; of this run
    options.lr_new = options.lr_new or optim.usual_new_rate(options.lr, model.FAMILY, options.tune)

    name = "yours" if "model" in memory else options.model
    say(f"model      {name}, {total:,} parameters, {learning:,} of them learn {adapters.how(model, options)}")
    report = getattr(model, "report", pretrained.Report())
    if drawn := report.new:
        own = f"; their rate {options.lr_new:g}" if options.lr_new != options.lr else ""
        say(f"           drawn at random: {', '.join(drawn) if len(drawn) < 10 else f'{len(drawn)} tensors'}{own}")
    for note in report.notes:
        say(f"           {note}")
    how = f"{options.device}, {options.precision}, {torch.get_num_threads()} threads"
    say(f"device     {how}; seed {options.seed}, rate {options.lr:g}")
    for split, table in tables.items():
        say(f"{split:10} {len(table.rows):,} rows of {origin[split]}: {worker.describe(examples[split])}")
    say_cut(worker, say)

    metrics, compared, outputs = {}, {}, {}
    judged = [split for split in ("test" if "test" in tables else "valid", "other") if split in tables]
    for split in judged:
        metrics[f"{split}_before"], found = assess(worker, model, examples[split], options)
        say(f"before     {split} {shown(metrics[f'{split}_before'])}")
        if split == judged[0] and worker.shows_before:
            say("\n" + worker.show(model, tables[split], examples[split], found) + "\n")
    first = adapters.snapshot(model)
    history = fit(worker, model, tables, examples, options, folder, [*memory])
    lora.merge(model)  # what is measured from here on is what is saved
    if getattr(worker, "threshold", None) is not None:  # it is still the last epoch's, which may not be the best one
        assess(worker, model, examples["valid"], options, settle=True)
    metrics["valid"] = history.best
    best = f"best epoch {history.epoch}, valid {shown(history.best)}"
    say(f"trained    {history.steps} steps in {history.seconds:.0f} s; {best}")
    moved = adapters.moved(model, first)
    say("moved      " + ", ".join(f"{part} {share:.1%}" for part, share in moved.items()))
    for split in judged:
        metrics[split], outputs[split] = assess(worker, model, examples[split], options)
        say(f"after      {split} {shown(metrics[split])}")
    split = judged[0]
    if words := worker.words_alone(tables, examples, split):
        compared["bag_of_words"] = words
        say(f"baseline   {split} {shown(words)} by a bag of words (tf-idf, logistic regression)")
    if options.baselines:
        say("baseline   the same model from random weights …")
        plain = replace(options, lr=fresh_lr, rate_decay=1.0, unfreeze="once")
        compared["random_weights"] = random_weights(worker, model, tables, examples, plain, split)
        say(f"baseline   {split} {shown(compared['random_weights'])} from random weights")
    say("\n" + worker.show(model, tables[split], examples[split], outputs[split]) + "\n")

    trained = {
        "steps": history.steps,
        "epoch": history.epoch,
        "tokens": history.tokens,
        "seconds": round(history.seconds, 2),
        "tokens_per_second": round(history.tokens / history.seconds),
        "peak_memory_bytes": peak_memory(options.device),
        "parameters": total,
        "learning": learning,
        "moved": {part: round(share, 5) for part, share in moved.items()},
    }
    run = Run(metrics, model, tokenizer, folder, trained, compared)
    write(run, task, worker, options, memory, history)
    say(f"saved      {folder}; now: {worker.then.format(folder)}")
    return run


# -- the steps of a run, in their order -------------------------------------------------------------------------------


def prepare(options: settings.Finetune) -> settings.Finetune:
    """Fix device, precision, threads and seed."""
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    elif device != "cpu" and not getattr(torch, device).is_available():
        raise Error(f"--device {device}: torch sees no such device here; try --device cpu")
    precision = options.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_memory()
    if device == "cpu" and precision == "bf16":  # plain matrix products: flash attention there computes in float32
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    torch.manual_seed(options.seed)
    return replace(options, device=device, precision=precision)


def read_tables(task, options, memory):
    """({split: Table}, {split: where its rows came from}, the label names)"""
    sources = {split: memory.get(split, getattr(options, split)) for split in ("train", "valid", "test")}
    if sources["train"] is None:
        folder = hub.DATA / EMBEDDED[task][1]
        embedded = {split: next(folder.glob(f"{name}.*"), None) for split, name in NAMES.items()}
        sources = {k: path and str(path) if sources[k] is None else sources[k] for k, path in embedded.items()}
    tables = {split: data.read(source) for split, source in sources.items() if source is not None}
    origin = {split: table.source for split, table in tables.items()}
    labels = Classify.labels_of(tables["train"], options.regression) if task == "classify" else None
    plain_text = TASKS[task].plain_text
    if "valid" not in tables and plain_text and len(tables["train"].rows) < 10:
        tables["train"], tables["valid"] = data.tails(tables["train"], 0.1)
        origin["valid"] = f"{origin['train']} (the last tenth of each text, held out)"
    elif "valid" not in tables:  # after the labels: what is held out may be all the rows of a rare one
        tables["train"], tables["valid"] = data.split(tables["train"], 0.1, options.seed)
        origin["valid"] = f"{origin['train']} (a seeded tenth, held out)"
    if plain_text:
        tables["other"], origin["other"] = data.read(OTHER), str(OTHER)
    return {split: tables[split] for split in (*NAMES, "other") if split in tables}, origin, labels


def start(model, kinds: tuple, labels: list[str] | None, tables, options):
    """(module with a head of one of these kinds for these labels, tokenizer); a new Kim CNN has the training's words"""
    if cnn.named(model) or options.channels:
        return cnn.made(model, kinds, labels, [joined(row) for row in tables["train"].rows], options.channels)
    if isinstance(model, str):
        return pretrained.load(model, kinds, labels)
    module, tokenizer = pair(model)
    return pretrained.with_head(module, kinds, labels), tokenizer


def new_folder(task: str, out: str | None) -> Path:
    if out is None:
        return files.unused(task)
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Error(f"--out {folder}: is not empty; name another folder, or remove it first")
    return folder


def fit(worker, model, tables, examples, options, folder=None, memory=()) -> train.History:
    """Train the model, with the log in the folder. `memory` names what was given in memory, for config.toml."""
    lengths = [len(example["ids"]) for example in examples["train"]]
    size, ordered = None if options.batch_tokens else options.batch_size, getattr(worker, "in_order", None)
    mixed = lambda epoch: data.length_batches(lengths, size, options.batch_tokens, options.seed, epoch)
    plan, steps = [], 0
    while steps < options.max_steps if options.max_steps else len(plan) < options.epochs:
        plan.append(ordered(len(lengths), options.batch_size) if ordered else mixed(len(plan)))
        steps += math.ceil(len(plan[-1]) / options.accumulate)
    if folder:
        files.write_text(folder / "config.toml", toml(worker.name, options, memory))  # makes the folder

    try:
        return train.train(
            model,
            plan,
            collate=lambda rows: on(options.device, worker.batch([examples["train"][i] for i in rows])),
            loss=worker.loss,
            settings=options,
            evaluate=lambda model: assess(worker, model, examples["valid"], options, settle=True)[0],
            score=worker.goal,
            log=logger(folder) if folder else lambda entry: None,
            where=lambda i: tables["train"].where(examples["train"][i].get("row", i)),
            optimizer=lambda *of: optim.adamw(*of, options.lr_new, options.rate_decay),
        )
    except torch.OutOfMemoryError as e:
        way_out = "a smaller --batch-size with more --accumulate, a smaller --max-length, or --recompute"
        raise Error(f"{options.device} is out of memory; try {way_out} ({str(e)[:80]})", code=1) from None


def logger(folder: Path):
    """What appends an entry to the folder's metrics.jsonl."""
    return lambda entry: files.append_text(folder / "metrics.jsonl", json.dumps(entry) + "\n")


def assess(worker, model, examples, options, settle=False):
    """(metrics, outputs) on examples; `settle`: by which the task may first choose what is not learned, a threshold."""
    with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
        outputs = outputs_of(worker, model, examples, options.batch_size)
    if settle and hasattr(worker, "settle"):
        worker.settle(outputs, examples)
    return worker.metrics(outputs, examples), outputs


def random_weights(worker, model, tables, examples, options, split) -> dict:
    """What the same training makes of the same architecture without pre-training: all of it learns."""
    torch.manual_seed(options.seed)
    worker = copy.copy(worker)  # what it settles is its own
    fresh = type(model)(model.config, model.kind).to(options.device)
    fresh.generation = getattr(model, "generation", {})  # what ends a text
    fit(worker, fresh, tables, examples, options)
    return assess(worker, fresh, examples[split], options)[0]


def write(run: Run, task, worker, options, memory, history):
    """The run's folder: first the figures, last the model, so that a folder with a model is whole."""
    result = {"task": task, "model": MEMORY if "model" in memory else options.model}
    result |= {"metrics": run.metrics, "train": run.train, "baselines": run.baselines}
    files.write_json(run.folder / "result.json", result)
    loss = {"training loss": list(enumerate(history.losses, 1))}
    files.write_text(run.folder / "curves.svg", plots.curves(loss, f"{task}: {result['model']}"))
    config = copy.deepcopy(run.model.config)
    if task == "classify":
        config.extra["problem_type"] = "regression" if worker.regression else "single_label_classification"
    said = {name: getattr(worker, name, None) for name in ("prefix", "overlap", "threshold")}
    said = {name: value for name, value in said.items() if value not in (None, "")}
    config.extra["minift"] = {"task": task, "max_length": worker.max_length, **said}
    if config.pad_token_id is None:  # transformers finds a row's last token by the padding's id
        config.pad_token_id = run.tokenizer.eos
    run.model.config = config
    lora.save(run.model, run.folder / "adapter", result["model"])
    pretrained.save(run.model, run.tokenizer, run.folder)


def shown(metrics: dict) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())


def toml(task: str, options, memory=()) -> str:
    lines = [f"# minift finetune {task} --config config.toml   runs this again"]
    if memory:  # an error then, rather than a run of something else
        lines += [f"# once a name or a file stands where it says {MEMORY}"]
    values = {"task": task, **asdict(options), **dict.fromkeys(memory, MEMORY)}
    for name, value in values.items():
        if value is not None and name != "out":
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)
            lines.append(f"{name} = {text}")
    return "\n".join(lines) + "\n"
