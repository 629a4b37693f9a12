"""Masked language modelling (Devlin et al. 2019, section 3.1, task 1): hide some words, learn to tell them from both
sides. No labels are needed.

document -> windows   [CLS] ids [SEP], at most T tokens each
windows -> rows       several in a row where they fit, kept apart by the mask's numbers
rows -> batch         a seventh of the tokens is hidden, others each time: ids, mask, target (B, T)
batch -> loss         cross-entropy at the hidden tokens, and at no others
-> metrics            as for `lm`, on tokens that are hidden once and for all

    B rows, T tokens, C channels, V vocabulary
"""

import torch

from .. import data
from ..data import IGNORE
from ..errors import Error
from .lm import LM, packed, texts

HIDDEN = 0.15  # the share of tokens to predict: of these 80 % become [MASK], 10 % any token, 10 % stay as they are


class MLM(LM):
    """What `lm` does too is said there: batches' padding, the loss over targets, the metrics."""

    # A model with a pooler keeps it ("pretraining" is BERT's own form, with both heads): a classifier begins there.
    name, kinds = "mlm", ("pretraining", "mlm")
    then = "minift finetune classify --model {}"
    usual_epochs = 10  # a text is learned from often, since other tokens are hidden each time

    def __init__(self, tokenizer, max_length: int, seed: int = 0, prompt: str | None = None):
        super().__init__(tokenizer, max_length, seed, prompt)
        if tokenizer.mask is None:
            raise Error("this model's tokenizer has no [MASK]; mlm is for BERT, lm for GPT-2")

    def training(self, table: data.Table) -> list[dict]:
        """Rows of whole texts: their tokens are hidden anew whenever they make a batch."""
        windows, room = [], self.max_length - 2
        for text in texts(table):
            ids, size = self.tokenizer.encode(text)[1:-1], len(text.encode("utf-8", "surrogatepass"))
            for start in range(0, len(ids), room):
                piece = [self.tokenizer.cls, *ids[start : start + room], self.tokenizer.sep]
                windows.append({"ids": piece, "target": [], "tokens": len(piece) - 2, "bytes": 0 if start else size})
        if not windows:
            raise Error(f"{table.source}: nothing to predict; its texts are empty")
        rows = data.pack([len(window["ids"]) for window in windows], self.max_length)
        return [packed([windows[i] for i in row]) for row in rows]

    def examples(self, table: data.Table) -> list[dict]:
        """Rows to measure on."""
        return self.fixed(self.training(table))

    def fixed(self, rows: list[dict]) -> list[dict]:
        """The rows with some of their tokens hidden once and for all: the same ones in every run."""
        chance = torch.Generator().manual_seed(0)
        pairs = [self.hide(torch.tensor([row["ids"]]), chance) for row in rows]
        return [row | {"ids": i[0].tolist(), "target": t[0].tolist()} for row, (i, t) in zip(rows, pairs, strict=True)]

    def batch(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        batch = super().batch(examples)
        if not examples[0]["target"]:
            batch["ids"], batch["target"] = self.hide(batch["ids"])
        return batch

    def hide(self, ids: torch.Tensor, chance: torch.Generator | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """ids (B, T) -> (ids with some hidden, target: the true ids of these, elsewhere IGNORE). `chance` draws; None:
        torch's own generator, which the run has seeded."""
        special = torch.tensor([self.tokenizer.pad, self.tokenizer.cls, self.tokenizer.sep])
        draw = torch.rand(ids.shape, generator=chance).masked_fill(torch.isin(ids, special), 1.0)
        if not (draw < HIDDEN).any():  # something must be predicted
            draw.view(-1)[draw.argmin()] = 0.0
        target = torch.where(draw < HIDDEN, ids, IGNORE)
        anything = torch.randint(self.tokenizer.vocab_size, ids.shape, generator=chance)
        ids = torch.where(draw < 0.9 * HIDDEN, anything, ids)
        return torch.where(draw < 0.8 * HIDDEN, self.tokenizer.mask, ids), target

    @torch.inference_mode()
    def show(self, model, table: data.Table, examples, outputs) -> str:
        """What the model puts into the first hidden places of the first row, and what stood there."""
        device, lines = next(model.parameters()).device, []
        batch = {name: tensor.to(device) for name, tensor in self.batch(examples[:1]).items()}
        places = (batch["target"][0] != IGNORE).nonzero()[:6, 0]
        chances = model.head(model.hidden(batch["ids"], batch["mask"])[0, places]).float().softmax(-1).topk(3)
        for place, p, ids in zip(places.tolist(), chances.values.tolist(), chances.indices.tolist(), strict=True):
            guesses = zip(self.tokenizer.tokens(ids), p, strict=True)
            (truth,) = self.tokenizer.tokens(batch["target"][0, place : place + 1].tolist())
            around = batch["ids"][0, max(place - 6, 0) : place + 7].tolist()
            line = f"  {truth:14} {', '.join(f'{guess} {chance:.2f}' for guess, chance in guesses):44}  "
            line += f"… {self.tokenizer.decode(around)} …"
            lines.append(line.replace("\n", "\\n"))  # to RoBERTa a line's end is a token
        return "\n".join(["  hidden         the likeliest three", *lines])
