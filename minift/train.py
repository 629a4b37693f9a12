"""The training loop: rate, accumulate, backward, clip, step, log, evaluate, keep the best.

It knows neither task nor model. It gets a plan (for each epoch the batches, each a list of row numbers), a function
that makes tensors of a batch's rows, and a function that gives (loss sum, number of units) of a batch.
"""

import math
import sys
import time
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from . import adapters, checkpoint, optim
from .errors import Error


@dataclass
class History:
    """What a training did: `best` is the metrics of the epoch whose weights the model has at the end."""

    steps: int = 0
    tokens: int = 0  # real ones, without padding
    seconds: float = 0.0  # training alone, without evaluations
    epoch: int = 0  # the best one, from 1
    best: dict = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)  # one a step
    evaluations: list[tuple[int, dict]] = field(default_factory=list)  # (step, metrics) an epoch


def train(
    model,
    plan,
    collate,
    loss,
    settings,
    evaluate=None,
    score=None,
    log=lambda record: None,
    where=str,
    state=None,
    optimizer=optim.adamw,
) -> History:
    """Train what `requires_grad` of `model`, in place, and leave it with the weights of the best epoch.

    plan      a list of epochs, each a list of batches, each a list of row numbers
    collate   row numbers -> a dict of tensors on the model's device; those named …mask say which tokens are real
    loss      (model, batch) -> (sum of the losses, number of supervised units)
    evaluate  model -> metrics, called after each epoch; without it the last weights stay
    score     metrics -> the number to maximise
    log       called with one dict every `settings.log_every` steps and one an evaluation
    where     row number -> its place in the data, for messages
    state     a file that is written after each epoch; where it is there, the training goes on from it
    optimizer (model, peak rate, weight decay) -> what makes the steps; a group may have a peak of its own
    """
    device = next(model.parameters()).device
    learning = [p for p in model.parameters() if p.requires_grad]
    changing = [*learning, *model.buffers()]  # a batch norm's running figures are no parameters
    optimizer = optimizer(model, settings.lr, settings.weight_decay)
    peaks = [group["lr"] for group in optimizer.param_groups]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")
    plan = [grouped(epoch, settings.accumulate) for epoch in plan]  # epochs of steps of batches of rows
    steps = sum(map(len, plan))
    if settings.max_steps:
        steps = min(steps, settings.max_steps)
    history, best = History(), None
    if state and state.exists():
        best = checkpoint.load(state, model, optimizer, history)
    started, done = time.perf_counter() - history.seconds, history.steps
    with Progress(steps, done) as progress:
        for epoch, windows in enumerate(plan, 1):
            done -= len(windows)
            if done >= 0:
                continue  # learned before the interruption
            if settings.unfreeze == "gradual":
                optim.unfreeze(model, learning, epoch)
            adapters.train_mode(model)
            for window in windows[: steps - history.steps]:
                factor = optim.rate(history.steps, steps, settings.warmup, settings.schedule)
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * factor

                optimizer.zero_grad()
                total, units = 0.0, 0
                for rows in window:
                    batch = collate(rows)
                    with autocast:
                        summed, count = loss(model, batch)
                    summed.backward()  # gradients add up over the window
                    total, units = total + summed.detach(), units + count
                    history.tokens += sum(int((v != 0).sum()) for k, v in batch.items() if k.endswith("mask"))

                # One division, by all units of the step, so that accumulation equals one large batch
                # (dividing each batch by its own units weighs a short batch's units more).
                mean = float(total) / units if units else math.nan
                for p in learning:
                    if p.grad is not None:
                        p.grad /= units
                norm = float(torch.nn.utils.clip_grad_norm_(learning, settings.clip)) if units else math.nan
                if not (math.isfinite(mean) and math.isfinite(norm)):
                    places = [where(row) for rows in window for row in rows]
                    raise Error(diverged(history.steps + 1, mean, norm, units, places), code=1)
                with autocast:  # Muon multiplies matrices
                    optimizer.step()

                history.steps += 1
                history.losses.append(mean)
                speed = history.tokens / (time.perf_counter() - started)
                record = {"step": history.steps, "epoch": epoch, "loss": mean, "lr": settings.lr * factor, "norm": norm}
                record["tokens_per_second"] = speed
                progress.update(record)
                if history.steps % settings.log_every == 0 or history.steps == steps:
                    log(record)

            if evaluate:
                paused = time.perf_counter()
                metrics = evaluate(model)
                history.evaluations.append((history.steps, metrics))
                log({"step": history.steps, "epoch": epoch, "valid": metrics})
                progress.note(f"epoch {epoch}: " + "  ".join(f"{k} {v:.4f}" for k, v in metrics.items()))
                if not history.best or score(metrics) > score(history.best):
                    history.best, history.epoch = metrics, epoch
                    best = [p.detach().clone() for p in changing]
                started += time.perf_counter() - paused
            history.seconds = time.perf_counter() - started
            if state:
                checkpoint.save(state, model, optimizer, history, best)
            patient = not (settings.patience and evaluate) or epoch - history.epoch < settings.patience
            if history.steps == steps or not patient:
                break
    if best:
        with torch.no_grad():
            for p, kept in zip(changing, best, strict=True):
                p.copy_(kept)
    model.eval()
    return history


def grouped(batches: list, size: int) -> list[list]:
    return [batches[i : i + size] for i in range(0, len(batches), size)]


def diverged(step, mean, norm, units, places) -> str:
    shown = ", ".join(places[:8]) + (", …" if len(places) > 8 else "")
    if not units:
        return f"step {step} has nothing to learn from: no supervised unit in {shown}"
    what = f"the loss is {mean}" if not math.isfinite(mean) else f"the gradient's length is {norm}"
    return f"step {step}: {what}; stopped before the update. Its rows: {shown}. Try a lower --lr, or look at these rows"


class Progress:
    """A bar on a terminal; elsewhere a plain line about every ten seconds. The loss is the step's, the speed the mean
    of all steps so far."""

    def __init__(self, steps: int, done: int):
        self.steps, self.done, self.terminal = steps, done, sys.stderr.isatty()
        self.said, self.started = time.perf_counter(), None
        self.bar = tqdm(total=steps, initial=done, disable=not self.terminal, unit="step", dynamic_ncols=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def update(self, record):
        now = time.perf_counter()
        speed = f"{record['tokens_per_second']:,.0f}"
        said = {"loss": f"{record['loss']:.3f}", "lr": f"{record['lr']:.1e}", "tokens/s": speed}
        self.bar.set_postfix(said, refresh=False)
        self.bar.update()
        self.started = self.started or now  # the first step warms caches up: no estimate from it
        if not self.terminal and (now - self.said > 10 or record["step"] == self.steps):
            each = (now - self.started) / max(record["step"] - self.done - 1, 1)
            left = each * (self.steps - record["step"])
            line = f"step {record['step']}/{self.steps}  " + "  ".join(f"{k} {v}" for k, v in said.items())
            print(f"{line}  {left:.0f} s left", file=sys.stderr, flush=True)
            self.said = now

    def note(self, line):
        tqdm.write(line, file=sys.stderr)
