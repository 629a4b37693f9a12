"""Causal language modelling: learn a text by predicting every token from those before it. No labels are needed.

document -> windows   <|endoftext|> ids <|endoftext|>, cut into windows of at most T tokens
windows -> rows       several in a row where they fit, kept apart by the mask's numbers, so that they never meet
rows -> batch         ids, mask, target (B, T); target IGNORE where nothing is to be predicted
batch -> loss         cross-entropy of the next token (GPT-2, section 2)
-> metrics            loss and perplexity a token; bits per byte, which compares across vocabularies

    B rows, T tokens, C channels, V vocabulary
"""

import textwrap

import torch
import torch.nn.functional as F

from .. import data, generation, metrics
from ..data import IGNORE
from ..errors import Error

TEXT = "text"


class LM:
    name, kinds = "lm", ("lm",)
    usual_batch, usual_epochs = 4, 3  # a batch is so many rows: of 512 tokens, about 2,000 tokens
    rate_factor = 1.0  # its usual rate, in those of optim.usual_rate
    truncated = 0  # long texts become several windows
    plain_text = shows_before = True
    then = 'minift generate {} --prompt "…"'

    def __init__(self, tokenizer, max_length: int, seed: int = 0, prompt: str | None = None):
        self.tokenizer, self.max_length, self.seed, self.prompt = tokenizer, max_length, seed, prompt

    def training(self, table: data.Table) -> list[dict]:
        """Rows to learn from: each token is predicted once."""
        return self.rows(table, self.max_length)

    def examples(self, table: data.Table) -> list[dict]:
        """Rows to measure on: each token is predicted once, from at least T/2 tokens before it where its document has
        so many. (In windows side by side those at a window's start would have next to none.)"""
        return self.rows(table, max(self.max_length // 2, 1))

    def rows(self, table: data.Table, stride: int) -> list[dict]:
        """One example a row: {"ids", "mask", "target", "tokens", "bytes"}."""
        windows, edge = [], [] if self.tokenizer.eos is None else [self.tokenizer.eos]
        for text in texts(table):
            ids, size = [*self.tokenizer.encode(text), *edge], len(text.encode("utf-8", "surrogatepass"))
            ids = ids if ids[:1] == edge else [*edge, *ids]  # OPT's tokenizer has put it there
            windows += self.windows(ids, size, stride)
        if not windows:
            raise Error(f"{table.source}: nothing to predict; its texts have less than two tokens")
        rows = data.pack([len(w["ids"]) for w in windows], self.max_length)
        return [packed([windows[i] for i in row]) for row in rows]

    def windows(self, ids: list[int], size: int, stride: int):
        """The windows of a document of `size` bytes, each with `stride` new targets."""
        T, done = self.max_length, 1  # the first token is given
        while done < len(ids):
            start = max(0, done - 1 - (T - stride))
            end = min(start + T + 1, len(ids))
            target = [IGNORE] * (done - start - 1) + ids[done:end]
            yield {"ids": ids[start : end - 1], "target": target, "tokens": end - done, "bytes": size}
            done, size = end, 0  # the document's bytes are counted with its first window

    def batch(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        return {
            "ids": data.pad([e["ids"] for e in examples], self.tokenizer.pad or 0)[0],
            "mask": data.pad([e["mask"] for e in examples], 0)[0],
            "target": data.pad([e["target"] for e in examples], IGNORE)[0],
        }

    def losses(self, model, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """((N,) the loss of every target, (N,) its row). Logits are computed for what has a target, and no more."""
        supervised = batch["target"] != IGNORE  # (B, T)
        mask = None if (batch["mask"] == 1).all() else batch["mask"]  # without one, attention is faster
        hidden = model.hidden(batch["ids"], mask, batch.get("cache"))[supervised]  # (N, C)
        logits = model.head(hidden).float()  # (N, V)
        return F.cross_entropy(logits, batch["target"][supervised], reduction="none"), supervised.nonzero()[:, 0]

    def loss(self, model, batch) -> tuple[torch.Tensor, int]:
        """(sum over the targets, targets)"""
        losses, _ = self.losses(model, batch)
        return losses.sum(), len(losses)

    def outputs(self, model, batch) -> torch.Tensor:
        """(B, 2) for each row: the sum of its losses, its targets."""
        losses, rows = self.losses(model, batch)
        both = torch.stack((losses.double(), torch.ones_like(losses, dtype=torch.float64)), 1)  # (N, 2)
        return torch.zeros(len(batch["ids"]), 2, dtype=torch.float64, device=both.device).index_add_(0, rows, both)

    def metrics(self, outputs: torch.Tensor, examples: list[dict]) -> dict[str, float]:
        total, targets = outputs.sum(0).tolist()
        return metrics.language(total / targets, sum(e["tokens"] for e in examples), sum(e["bytes"] for e in examples))

    def goal(self, metrics: dict) -> float:
        """What the best epoch has most of."""
        return -metrics["loss"]

    def describe(self, examples: list[dict]) -> str:
        return f"{sum(e['tokens'] for e in examples):,} tokens in {len(examples):,} rows of up to {self.max_length}"

    def words_alone(self, tables, examples, split) -> None:
        """There is no baseline by words alone: the model itself before training is what to beat."""

    def show(self, model, table: data.Table, examples, outputs) -> str:
        """How the model continues the prompt; without one, the first words of the first text."""
        first = self.tokenizer.encode(next(texts(table)))[: min(16, self.max_length // 2)]
        start = self.tokenizer.decode(first, skip_special=True)
        prompt = self.prompt or start.rpartition(" ")[0] or start  # whole words
        settings = {"temperature": 0.8, "top_k": 50, "seed": self.seed, "max_new_tokens": 60}
        found = generation.generate(model, self.tokenizer, prompt, **settings)
        return textwrap.fill(f"{prompt} |{found}", 110, initial_indent="  ", subsequent_indent="  ")


class Streams(LM):
    """The same for a model with a state (AWD-LSTM), by truncated back-propagation: all documents make one long text,
    cut into as many streams as a batch has rows. A batch has the next T tokens of each; it goes on from the state that
    the batch before has left, but its gradient ends there (Merity et al. 2017, section 5; T is always `bptt` here)."""

    usual_batch, rate_factor = 32, 4.0

    def __init__(self, tokenizer, max_length: int, seed: int = 0, prompt: str | None = None, bptt: int = 70):
        super().__init__(tokenizer, min(max_length, 8 * bptt), seed, prompt)  # measured in windows of this length
        self.bptt, self.state, self.at = min(max_length, bptt), {}, None
        self.stride = max(self.max_length - 2 * self.bptt, 1)

    def training(self, table: data.Table) -> list[dict]:
        ids = [id for text in texts(table) for id in self.tokenizer.encode(text)]
        rows = [self.window(ids, row) for row in range((len(ids) - 2) // self.bptt + 1)]
        if not rows:
            raise Error(f"{table.source}: nothing to predict; its texts have less than two tokens")
        return rows

    def examples(self, table: data.Table) -> list[dict]:
        """As above, with two windows of T before what is measured: a state has forgotten most of what lies farther."""
        return self.rows(table, self.stride)

    def window(self, tokens, row: int) -> dict:
        """The example that window number `row` of the text is."""
        ids = list(map(int, tokens[row * self.bptt : (row + 1) * self.bptt + 1]))
        n = len(ids) - 1
        return {"ids": ids[:-1], "target": ids[1:], "mask": [1] * n, "tokens": n, "bytes": 0, "at": row}

    def in_order(self, rows: int, size: int) -> list[list[int]]:
        """Batches of the next window of each of `size` streams."""
        length = -(-rows // size)
        streams = [range(start, min(start + length, rows)) for start in range(0, rows, length)]
        return [[stream[k] for stream in streams if k < len(stream)] for k in range(length)]

    def batch(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        at = {"at": torch.tensor([e["at"] for e in examples])} if "at" in examples[0] else {}
        return super().batch(examples) | at

    def losses(self, model, batch) -> tuple[torch.Tensor, torch.Tensor]:
        if not model.training:  # between two stretches: the next one begins from nothing, as it does after a pause
            self.state, self.at = {}, None
            return super().losses(model, batch)
        at = batch["at"]
        if self.at is None or len(self.at) < len(at) or not torch.equal(self.at[: len(at)] + 1, at):
            self.state = {}
        cache = {layer: tuple(part[: len(at)] for part in pair) for layer, pair in self.state.items()}
        ones = torch.ones_like(batch["mask"])  # only the text's last window is padded, and nothing comes behind it
        found = super().losses(model, batch | {"cache": cache, "mask": ones})
        self.state, self.at = {layer: tuple(p.detach() for p in pair) for layer, pair in cache.items()}, at
        return found


def texts(table: data.Table):
    """The documents of a table."""
    column = table.column(TEXT)
    for i, row in enumerate(table.rows):
        if not isinstance(row[column], str):
            raise Error(f"{table.where(i)}: the text is {row[column]!r}; it must be a string")
        if text := row[column].strip("\n"):  # line ends around a document are the file's
            yield text


def packed(windows: list[dict]) -> dict:
    """Several windows in one row: ids and targets one after the other, mask 1 for the first, 2 for the second, …"""
    row = {key: [value for window in windows for value in window[key]] for key in ("ids", "target")}
    row["mask"] = [n for n, window in enumerate(windows, 1) for _ in window["ids"]]
    return row | {key: sum(window[key] for window in windows) for key in ("tokens", "bytes")}
