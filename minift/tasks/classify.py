"""Classification: one text or a pair, one of several labels, or with `regression` a number.

row -> example    a row's text becomes ids, its label a class number
examples -> batch ids (B, T) padded on the right, mask (B, T), segments (B, T) if the model has them, target (B,)
batch -> loss     cross-entropy of the label's logit, or the squared error
logits -> prediction, metrics
"""

import math
import re
from collections import Counter

import torch
import torch.nn.functional as F

from .. import baselines, data, metrics
from ..errors import Error, nearest

TEXT = ("text", "text_a", "sentence1")  # synonyms of the first text's column, ...
PAIR = ("text_b", "sentence2")  # ... and of the second's, where there is one


class Classify:
    name, kinds = "classify", ("classify",)
    usual_batch, usual_epochs = 32, 3  # a batch is so many rows
    rate_factor = 1.0  # its usual rate, in those of optim.usual_rate
    plain_text = shows_before = False
    then = 'minift predict {} "…"'

    def __init__(self, tokenizer, labels: list[str], regression: bool = False, max_length: int | None = None):
        self.tokenizer, self.labels, self.regression, self.max_length = tokenizer, labels, regression, max_length
        self.truncated = 0  # texts cut to max_length so far

    @staticmethod
    def labels_of(table: data.Table, regression: bool) -> list[str]:
        """The label names of the training rows, sorted: numbers by size, words by letter."""
        if regression:
            return ["LABEL_0"]
        column = table.column("label")
        labels = {label_of(table, i, column) for i in range(len(table.rows))}
        if len(labels) < 2:
            only = f"every row has the label '{labels.pop()}'"
            raise Error(f"{table.source}: {only}; there must be two labels or more to tell apart")
        if len(labels) > max(50, len(table.rows) // 2) or 10 < len(labels) == len(table.rows):
            raise Error(
                f"{table.source}: {len(labels)} different labels in {len(table.rows)} rows, such as {min(labels)!r}; "
                "is 'label' the right column? For numbers to be predicted, give --regression"
            )
        size = {s: float(s) for s in labels if re.fullmatch(r"-?\d+(\.\d+)?", s)}
        return sorted(labels, key=lambda s: (s not in size, size.get(s, 0), s))

    def examples(self, table: data.Table, labelled: bool = True) -> list[dict]:
        """One example a row: {"ids", "target"}; without labels, "ids" alone."""
        first = table.column(*TEXT)
        columns = [first, table.column(*PAIR)] if any(name in table.columns for name in PAIR) else [first]
        label = table.column("label") if labelled else None
        return [
            self.inputs([row[name] for name in columns], table.where(i))
            | ({"target": self.target(table, i, label)} if labelled else {})
            for i, row in enumerate(table.rows)
        ]

    training = examples  # those to learn from are made in the same way

    def inputs(self, texts: list[str], where: str) -> dict:
        """{"ids"} of one text or of a pair."""
        ids = self.tokenizer.encode(*strings(texts, where))
        if self.max_length and len(ids) > self.max_length:
            self.truncated += 1
            ids = self.tokenizer.encode(*texts, max_length=self.max_length)
        return {"ids": ids or [self.tokenizer.eos or 0]}  # GPT-2 has no ids for an empty text, and a row needs one

    def target(self, table, i, column):
        name = label_of(table, i, column)
        if self.regression:
            try:
                number = float(name)
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                raise Error(f"{table.where(i)}: label '{name}' is no finite number, as --regression needs")
            return number
        if name not in self.labels:
            raise Error(
                f"{table.where(i)}: label '{name}' is not among the labels of the training rows "
                f"({', '.join(self.labels[:12])}){nearest(name, self.labels)}"
            )
        return self.labels.index(name)

    def batch(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        rows = [example["ids"] for example in examples]
        ids, mask = data.pad(rows, self.tokenizer.pad or 0)  # which id pads does not matter: the mask hides it
        batch = {"ids": ids, "mask": mask}
        if hasattr(self.tokenizer, "segments"):
            batch["segments"] = data.pad([self.tokenizer.segments(row) for row in rows], 0)[0]
        if "target" in examples[0]:
            batch["target"] = torch.tensor([example["target"] for example in examples])
        return batch

    def logits(self, model, batch) -> torch.Tensor:
        """(B, labels)"""
        return model(**{name: batch[name] for name in ("ids", "mask", "segments") if name in batch}).float()

    def loss(self, model, batch) -> tuple[torch.Tensor, int]:
        """(sum over the rows, rows)"""
        logits, target = self.logits(model, batch), batch["target"]
        if self.regression:
            return F.mse_loss(logits[:, 0], target.float(), reduction="sum"), len(target)
        return F.cross_entropy(logits, target, reduction="sum"), len(target)

    outputs = logits  # what `predictions`, `metrics` and `show` are made from, a row each

    def predictions(self, logits: torch.Tensor, examples: list[dict] | None = None) -> list[dict]:
        if self.regression:
            return [{"prediction": value} for value in logits[:, 0].tolist()]
        likeliest = [self.labels[i] for i in logits.argmax(-1).tolist()]
        scores = [dict(zip(self.labels, row, strict=True)) for row in logits.softmax(-1).tolist()]
        return [{"prediction": name, "scores": row} for name, row in zip(likeliest, scores, strict=True)]

    def metrics(self, logits: torch.Tensor, examples: list[dict]) -> dict[str, float]:
        targets = [example["target"] for example in examples]
        if self.regression:
            return metrics.regression(logits[:, 0].tolist(), targets)
        return metrics.classification(logits.argmax(-1).tolist(), targets, self.labels)

    def goal(self, metrics: dict) -> float:
        """What the best epoch has most of."""
        return metrics["spearman" if self.regression else "accuracy"]

    def describe(self, examples: list[dict]) -> str:
        """How the labels are spread, for the run's first lines."""
        if self.regression:
            values = [example["target"] for example in examples]
            return f"numbers from {min(values):g} to {max(values):g}"
        counts = Counter(self.labels[example["target"]] for example in examples)
        return ", ".join(f"{name} {counts[name]}" for name in self.labels)

    def words_alone(self, tables, examples, split: str) -> dict[str, float]:
        """The metrics of a bag of words that learns the training rows and reads those of `split`."""
        texts = {name: [joined(row) for row in tables[name].rows] for name in ("train", split)}
        targets = [example["target"] for example in examples["train"]]
        classes = None if self.regression else len(self.labels)
        scores = baselines.scores(texts["train"], targets, texts[split], classes)
        return self.metrics(torch.as_tensor(scores).reshape(len(scores), -1), examples[split])

    def show(self, model, table, examples, logits, count=5) -> str:
        """The first rows with what the model says of them."""
        lines = []
        for i, found in enumerate(self.predictions(logits[:count])):
            truth = table.rows[i][table.column("label")]
            if self.regression:
                verdict = f"{found['prediction']:8.3f}  (label {truth})"
            else:
                right = "right" if found["prediction"] == str(truth).strip() else "WRONG"
                verdict = f"{right}  {found['prediction']} {found['scores'][found['prediction']]:.2f}"
            lines.append(f"  {verdict:28}  {' '.join(joined(table.rows[i]).split())[:90]}")
        return "\n".join(lines)


def strings(texts: list, where: str) -> list[str]:
    for value in texts:
        if not isinstance(value, str):
            raise Error(f"{where}: the text is {value!r}; it must be a string")
    return texts


def label_of(table: data.Table, i: int, column: str) -> str:
    name = str(table.rows[i][column]).strip()
    if not name or table.rows[i][column] is None:
        raise Error(f"{table.where(i)}: the label is blank; fill it in or leave the row out")
    return name


def joined(row: dict) -> str:
    """The text or the two texts of a row, as the bag-of-words baseline reads them."""
    return "  ".join(str(row[name]) for name in (*TEXT, *PAIR) if name in row)
