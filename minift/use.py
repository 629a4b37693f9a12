"""A model that has learned a task, used: `predict`, `evaluate`, `shuffle_test`."""

from pathlib import Path

import torch

from . import data, hub, pretrained, settings
from .errors import Error
from .tasks.answer import WINDOW, Answer
from .tasks.answer_written import WrittenAnswer
from .tasks.classify import Classify
from .tasks.denoise import Denoise
from .tasks.lm import LM, Streams
from .tasks.mlm import MLM
from .tasks.prompt import Prompt
from .tasks.translate import Translate

TASKS = {task.name: task for task in (Classify, LM, MLM, Translate, Denoise, Answer)}


def predict(model, rows, max_batch: int = 64, say=lambda line: None, **prompting) -> list[dict]:
    """A prediction for each text or row (see `data.read`): {"prediction", "scores"}, in order.

    `model` is a folder, an embedded name or (module, tokenizer), fine-tuned for a task. `say` hears of texts cut.
    With `shots` (a number) a language model is prompted instead: `examples` (labelled rows; none: the reviews) gives
    the labels, and so many to be shown; `template` and `seed` may follow (tasks/prompt.py)."""
    if isinstance(rows, str) and Path(rows).suffix.lower() not in data.PARSERS:
        raise Error(f"'{data.short(rows)}' is the name of no data file; if it is a text, give it in a list: [text]")
    worker, model = ready(model, **prompting)
    if not hasattr(worker, "predictions"):
        there = worker.then.format("MODEL")
        raise Error(f"predict is for classifiers, translators and answerers; this model is for {worker.name}: {there}")
    examples = worker.examples(data.read(rows), labelled=False)
    say_cut(worker, say)
    return worker.predictions(outputs_of(worker, model, examples, max_batch), examples)


def evaluate(model, rows, task: str | None = None, say=lambda line: None, **prompting) -> dict[str, float]:
    """The task's metrics of a fine-tuned or prompted model (as for `predict`) on labelled rows. `say` hears of texts
    cut."""
    worker, model = ready(model, **prompting)
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


# -- the task of a model, and what it makes of examples --------------------------------------------------------------


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
    kind, more = (Streams, [model.bptt]) if task == "lm" and hasattr(model, "bptt") else (TASKS[task], [])
    return kind(tokenizer, limit, options.seed, options.prompt, *more)


def pair(model):
    """(module, tokenizer) as given in memory, if it is that."""
    if isinstance(model, tuple | list) and len(model) == 2 and isinstance(model[0], torch.nn.Module):
        return model
    raise Error(f"model is a {type(model).__name__}; give a name, a folder, or (module, tokenizer) as minift.load does")


def ready(model, shots: int | None = None, examples=None, **more):
    """(the task's worker, module) of a fine-tuned model; with `shots`, of a language model that is prompted."""
    module, tokenizer = pretrained.load(model) if isinstance(model, str | Path) else pair(model)
    if shots is not None:
        if module.kind not in Prompt.kinds:
            raise Error(f"--shots: prompting is for language models, such as gpt2; this one's kind is {module.kind}")
        table = data.read(hub.DATA / "reviews" / "train.tsv" if examples is None else examples)
        return Prompt(tokenizer, table, shots, module.longest, **more), module
    if prompting := [*more, *([] if examples is None else ["examples"])]:
        raise Error(f"{', '.join(prompting)}: for prompting; give shots, too")
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
        what = "prompts" if worker.name == "prompt" else "texts"
        say(f"           {worker.truncated:,} {what} were longer than {worker.max_length} tokens and are cut")


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
