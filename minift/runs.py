"""One run: model, task, data and loop put together, and the run's folder. `finetune`, `predict`, `evaluate`."""

import copy
import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from . import adapters, data, files, hub, optim, plots, pretrained, settings, train
from .errors import Error, nearest
from .memory import keep_memory, peak_memory
from .tasks.answer import STYLES, WINDOW, Answer
from .tasks.answer_written import WrittenAnswer
from .tasks.classify import Classify
from .tasks.denoise import Denoise
from .tasks.lm import LM
from .tasks.mlm import MLM
from .tasks.translate import Translate

MEMORY = "(given in memory)"  # stands in the run's folder where a name or a path would
TASKS = {task.name: task for task in (Classify, LM, MLM, Translate, Denoise, Answer)}
EMBEDDED = {  # the model and the data set that a task takes when none is given
    "classify": ("bert-nano", "reviews"),
    "lm": ("gpt2-nano", "harbour"),
    "mlm": ("bert-nano", "harbour"),
    "translate": ("bart-nano-en-fr", "phrasebook"),
    "denoise": ("bart-nano-en-fr", "harbour"),
    "answer": ("bert-nano", "answers"),
}
NAMES = {"train": "train", "valid": "validation", "test": "test"}  # a part, and its file in an embedded data set
OTHER = hub.DATA / "reviews" / "test.tsv"  # what a language model may forget while it learns another text


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
    options.batch_size = options.batch_size or TASKS[task].usual_batch
    options.epochs = options.epochs or TASKS[task].usual_epochs
    tables, origin, labels = read_tables(task, options, memory)
    folder = new_folder(task, options.out)

    kinds = STYLES[options.style] if task == "answer" else TASKS[task].kinds
    model, tokenizer = start(memory.get("model", options.model), kinds, labels)
    model.to(options.device)
    worker = new_worker(task, model, tokenizer, labels, options)
    examples = {k: worker.training(table) if k == "train" else worker.examples(table) for k, table in tables.items()}
    learning, total = adapters.choose(model, options.tune)
    model.recompute = options.recompute
    size = next(model.parameters()).shape[1], len(model.blocks)  # the first parameter is the embedding, (V, C)
    usual = lambda tune: options.lr or worker.rate_factor * optim.usual_rate(*size, tune)
    fresh_lr, options.lr = usual("all"), usual(options.tune)  # of the random baseline, all of which learns; of this run
    options.lr_new = options.lr_new or optim.usual_new_rate(options.lr, model.FAMILY, options.tune)

    name = "yours" if "model" in memory else options.model
    say(f"model      {name}, {total:,} parameters, {learning:,} of them learn (--tune {options.tune})")
    report = getattr(model, "report", pretrained.Report())
    if drawn := report.new:
        own = f"; their rate {options.lr_new:g}" if options.lr_new != options.lr else ""
        say(f"           drawn at random: {', '.join(drawn) if len(drawn) < 10 else f'{len(drawn)} tensors'}{own}")
    for note in report.notes:
        say(f"           {note}")
    threads = f"{torch.get_num_threads()} threads"
    say(f"device     {options.device}, {options.precision}, {threads}; seed {options.seed}, rate {options.lr:g}")
    for split, table in tables.items():
        say(f"{split:10} {len(table.rows):,} rows of {origin[split]}: {worker.describe(examples[split])}")
    say_cut(worker, say)

    metrics, compared = {}, {}
    judged = [split for split in ("test" if "test" in tables else "valid", "other") if split in tables]
    for split in judged:
        metrics[f"{split}_before"], outputs = assess(worker, model, examples[split], options)
        say(f"before     {split} {shown(metrics[f'{split}_before'])}")
        if split == judged[0] and worker.shows_before:
            say("\n" + worker.show(model, tables[split], examples[split], outputs) + "\n")
    first = adapters.snapshot(model)
    history = fit(worker, model, tables, examples, options, folder, [*memory])
    if getattr(worker, "threshold", None) is not None:  # it is still the last epoch's, which may not be the best one
        assess(worker, model, examples["valid"], options, settle=True)
    metrics["valid"] = history.best
    best = f"best epoch {history.epoch}, valid {shown(history.best)}"
    say(f"trained    {history.steps} steps in {history.seconds:.0f} s; {best}")
    moved = adapters.moved(model, first)
    say("moved      " + ", ".join(f"{part} {share:.1%}" for part, share in moved.items()))
    outputs = {}
    for split in judged:
        metrics[split], outputs[split] = assess(worker, model, examples[split], options)
        say(f"after      {split} {shown(metrics[split])}")
    split = judged[0]
    if words := worker.words_alone(tables, examples, split):
        compared["bag_of_words"] = words
        say(f"baseline   {split} {shown(words)} by a bag of words (tf-idf, logistic regression)")
    if options.baselines:
        say("baseline   the same model from random weights …")
        compared["random_weights"] = random_weights(
            worker, model, tables, examples, replace(options, lr=fresh_lr), split
        )
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


def predict(model, rows, max_batch: int = 64, say=lambda line: None) -> list[dict]:
    """A prediction for each text or row (see `data.read`): {"prediction", "scores"}, in order.

    `model` is a folder, an embedded name or (module, tokenizer), fine-tuned for a task. `say` hears of texts cut."""
    if isinstance(rows, str) and Path(rows).suffix.lower() not in data.PARSERS:
        raise Error(f"'{data.short(rows)}' is the name of no data file; if it is a text, give it in a list: [text]")
    worker, model = ready(model)
    if not hasattr(worker, "predictions"):
        there = worker.then.format("MODEL")
        raise Error(f"predict is for classifiers, translators and answerers; this model is for {worker.name}: {there}")
    examples = worker.examples(data.read(rows), labelled=False)
    say_cut(worker, say)
    return worker.predictions(outputs_of(worker, model, examples, max_batch), examples)


def evaluate(model, rows, task: str | None = None, say=lambda line: None) -> dict[str, float]:
    """The task's metrics of a fine-tuned model (as for `predict`) on labelled rows. `say` hears of texts cut."""
    worker, model = ready(model)
    if task not in (None, worker.name):
        raise Error(f"--task {task}: this model was fine-tuned for {worker.name}")
    examples = worker.examples(data.read(rows))
    say_cut(worker, say)
    return worker.metrics(outputs_of(worker, model, examples, 2 * worker.usual_batch), examples)


def shuffle_test(model, rows, say=lambda line: None) -> dict[str, dict[str, float]]:
    """Does a translator read its source? {"own": its metrics, "another's": those of what it says when each row is given
    the source of the row before}. If the second are not far below the first, the decoder writes from memory alone."""
    worker, model = ready(model)
    if worker.name != "translate":
        raise Error(f"shuffle_test is for translators; this model is for {worker.name}")
    examples = worker.examples(data.read(rows))
    say_cut(worker, say)
    moved = [mine | {"ids": other["ids"]} for mine, other in zip(examples, examples[-1:] + examples[:-1], strict=True)]
    return {
        name: worker.metrics(outputs_of(worker, model, some, 2 * worker.usual_batch), some)
        for name, some in (("own", examples), ("another's", moved))
    }


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


def start(model, kinds: tuple, labels: list[str] | None):
    """(module with a head of one of these kinds for these labels, tokenizer)"""
    if isinstance(model, str):
        return pretrained.load(model, kinds, labels)
    module, tokenizer = pair(model)
    return pretrained.with_head(module, kinds, labels), tokenizer


def new_worker(task: str, model, tokenizer, labels, options, threshold: float | None = None):
    limit = min(options.max_length or (WINDOW if model.kind == "answer" else model.longest), model.longest)
    if model.kind == "answer":
        return Answer(tokenizer, limit, options.overlap, threshold)
    if task == "answer":
        return WrittenAnswer(tokenizer, limit, model.kind)
    if task == "classify":
        return Classify(tokenizer, labels, options.regression, limit)
    if task == "translate":
        return Translate(tokenizer, limit, options.prefix, options.metric, options.smoothing, options.beams)
    return TASKS[task](tokenizer, limit, options.seed, options.prompt)


def pair(model):
    """(module, tokenizer) as given in memory, if it is that."""
    if isinstance(model, tuple | list) and len(model) == 2 and isinstance(model[0], torch.nn.Module):
        return model
    raise Error(f"model is a {type(model).__name__}; give a name, a folder, or (module, tokenizer) as minift.load does")


def new_folder(task: str, out: str | None) -> Path:
    if out is None:
        return next(folder for n in range(1, 10**6) if not (folder := Path("runs") / f"{task}-{n}").exists())
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Error(f"--out {folder}: is not empty; name another folder, or remove it first")
    return folder


def fit(worker, model, tables, examples, options, folder=None, memory=()) -> train.History:
    """Train the model, with the log in the folder. `memory` names what was given in memory, for config.toml."""
    lengths = [len(example["ids"]) for example in examples["train"]]

    def batches(epoch):
        size = None if options.batch_tokens else options.batch_size
        return data.length_batches(lengths, size, options.batch_tokens, options.seed, epoch)

    plan, steps = [], 0
    while steps < options.max_steps if options.max_steps else len(plan) < options.epochs:
        plan.append(batches(len(plan)))
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
            optimizer=lambda *of: optim.adamw(*of, lr_new=options.lr_new),
        )
    except torch.OutOfMemoryError as e:
        way_out = "a smaller --batch-size with more --accumulate, a smaller --max-length, or --recompute"
        raise Error(f"{options.device} is out of memory; try {way_out} ({str(e)[:80]})", code=1) from None


def logger(folder: Path):
    """What appends an entry to the folder's metrics.jsonl."""
    return lambda entry: files.append_text(folder / "metrics.jsonl", json.dumps(entry) + "\n")


def on(device, batch):
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


@torch.inference_mode()
def outputs_of(worker, model, examples, size: int) -> torch.Tensor:
    """(N, …) what the task's metrics are made from, a row for each example, in their order, on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    result = [None] * len(examples)
    for rows in data.length_batches([len(example["ids"]) for example in examples], size, shuffle=False):
        outputs = worker.outputs(model, on(device, worker.batch([examples[i] for i in rows])))
        for i, row in zip(rows, outputs.cpu(), strict=True):
            result[i] = row
    return torch.stack(result)


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
    result = {
        "task": task,
        "model": MEMORY if "model" in memory else options.model,
        "metrics": run.metrics,
        "train": run.train,
        "baselines": run.baselines,
    }
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
    pretrained.save(run.model, run.tokenizer, run.folder)


def ready(model):
    """(the task's worker, module) of a fine-tuned model."""
    module, tokenizer = pretrained.load(model) if isinstance(model, str | Path) else pair(model)
    said, regression = module.config.extra.get("minift", {}), module.config.extra.get("problem_type") == "regression"
    able = [name for name, task in TASKS.items() if module.kind in task.kinds]
    task = said["task"] if said.get("task") in able else next(iter(able), None)
    if task is None:
        name = model if isinstance(model, str | Path) else "this model"
        way_out = f"fine-tune it first: minift finetune classify --model {name}"
        raise Error(f"{name}: has no head of {' or '.join(TASKS)}; {way_out}")
    options = settings.Finetune(regression=regression, prefix=said.get("prefix", ""))
    options.max_length, options.overlap = said.get("max_length"), said.get("overlap")
    return new_worker(task, module, tokenizer, module.config.labels, options, said.get("threshold")), module


def say_cut(worker, say):
    for note in getattr(worker, "notes", ()):
        say(f"           {note}")
    if worker.truncated:
        say(f"           {worker.truncated:,} texts were longer than {worker.max_length} tokens and are cut")


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
