"""Translation, and whatever else turns one text into another: summaries, corrections, simpler questions.

row -> example     `src` and `tgt` become ids, each with its tokenizer's special tokens
examples -> batch  src (B, S), src_mask, target (B, T), target_mask; padded on the right
batch -> loss      the decoder is fed [start, t1, t2, …] and is to say [t1, t2, t3, …] (teacher forcing): cross-entropy,
                   smoothed (Vaswani et al. 2017, section 5.4)
-> prediction      what the model says by itself, greedily or by beams
-> metrics         BLEU and chrF of it, or ROUGE

    B rows, S tokens of a source, T of a target, C channels, V vocabulary
"""

import torch
import torch.nn.functional as F

from .. import data, generation, metrics
from ..data import IGNORE
from ..errors import Error

SOURCE, TARGET = ("src", "text"), ("tgt",)


class Translate:
    name, kinds = "translate", ("seq2seq",)
    usual_batch, usual_epochs = 32, 4  # a batch is so many rows
    rate_factor = 3.0  # its usual rate, in those of optim.usual_rate (six on the phrasebook did worse)
    then = 'minift predict {} "…"'
    plain_text, shows_before = False, True

    def __init__(self, tokenizer, max_length: int, prefix="", metric="bleu", smoothing=0.0, beams=None):
        """`prefix` is put before each source, as "translate English to French: " for T5."""
        self.tokenizer, self.max_length, self.prefix, self.beams = tokenizer, max_length, prefix, beams
        self.metric, self.smoothing = metric, smoothing
        self.encode_target = getattr(tokenizer, "encode_target", tokenizer.encode)  # some have a vocabulary a side
        self.truncated = 0  # texts cut to max_length so far

    def examples(self, table: data.Table, labelled: bool = True) -> list[dict]:
        """One example a row: {"ids", "target", "reference"}; without translations, "ids" alone."""
        source, target = table.column(*SOURCE), table.column(*TARGET) if labelled else None
        found = []
        for i, row in enumerate(table.rows):
            for column in filter(None, (source, target)):
                if not isinstance(row[column], str) or not row[column].strip():
                    raise Error(f"{table.where(i)}: {column} is {row[column]!r}; it must be a text")
            example = {"ids": self.cut(self.tokenizer.encode, self.prefix + row[source])}
            if labelled:
                example |= {"target": self.cut(self.encode_target, row[target]), "reference": row[target]}
            found.append(example)
        return found

    training = examples  # those to learn from are made in the same way

    def cut(self, encode, text: str) -> list[int]:
        ids = encode(text)
        if len(ids) > self.max_length:
            self.truncated += 1
            ids = encode(text, max_length=self.max_length)
        return ids

    def batch(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        src, src_mask = data.pad([e["ids"] for e in examples], self.tokenizer.pad or 0)
        batch = {"src": src, "src_mask": src_mask}
        if "target" in examples[0]:
            batch["target"], batch["target_mask"] = data.pad([e["target"] for e in examples], IGNORE)
        return batch

    def loss(self, model, batch) -> tuple[torch.Tensor, int]:
        """(sum over the target tokens, target tokens)"""
        src, src_mask, target, mask = (batch[name] for name in ("src", "src_mask", "target", "target_mask"))
        start = torch.full_like(target[:, :1], model.start)
        fed = torch.cat((start, target[:, :-1]), 1).masked_fill(~mask, model.start)  # (B, T); behind a row's end: any
        hidden = model.hidden(src, fed, src_mask, mask)[mask]  # (N, C): logits for real tokens, and no others
        logits = model.head(hidden).float()  # (N, V)
        smoothing = self.smoothing if model.training else 0.0
        loss = F.cross_entropy(logits, target[mask], reduction="sum", label_smoothing=smoothing)
        return loss, len(logits)

    def outputs(self, model, batch) -> torch.Tensor:
        """(B, max_length) the ids that the model says, and IGNORE behind them."""
        rows = generation.generate_ids(model, batch["src"], batch["src_mask"], beams=self.beams)
        found = torch.full((len(rows), self.max_length), IGNORE)
        for i, row in enumerate(rows):
            row = row[: self.max_length]
            found[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        return found

    def texts(self, outputs: torch.Tensor) -> list[str]:
        return [self.tokenizer.decode(row[row != IGNORE].tolist(), skip_special=True).strip() for row in outputs]

    def predictions(self, outputs: torch.Tensor, examples: list[dict] | None = None) -> list[dict]:
        return [{"prediction": text} for text in self.texts(outputs)]

    def metrics(self, outputs: torch.Tensor, examples: list[dict]) -> dict[str, float]:
        measure = metrics.rouge if self.metric == "rouge" else metrics.translation
        return measure(self.texts(outputs), [example["reference"] for example in examples])

    def goal(self, metrics: dict) -> float:
        """What the best epoch has most of."""
        return metrics["rougeL" if self.metric == "rouge" else "bleu"]

    def describe(self, examples: list[dict]) -> str:
        sizes = [sum(len(example[side]) for example in examples) for side in ("ids", "target")]
        return "{:,} tokens in, {:,} out".format(*sizes)

    def words_alone(self, tables, examples, split) -> None:
        """There is no baseline by words alone: the model itself before training is what to beat."""

    def show(self, model, table: data.Table, examples, outputs, count: int = 5) -> str:
        """The first rows: the source, its translation, what the model says."""
        source, target, lines = table.column(*SOURCE), table.column(*TARGET), []
        for row, said in zip(table.rows[:count], self.texts(outputs[:count]), strict=True):
            lines += [f"  {row[source]}", f"    right  {row[target]}", f"    model  {said}"]
        return "\n".join(lines)
