"""Denoising: an encoder-decoder is given a damaged text and says what was there. No labels are needed.

document -> windows   whole sentences, at most T tokens together
window -> noise       BART's (Lewis et al. 2020, section 2.2): the sentences change places, and spans of tokens, a third
                      of the text, each become one <mask>; the target is the text as it was. Where the tokenizer has
                      T5's sentinels, T5's (Raffel et al. 2020, section 3.1.4): a seventh of the text goes, each span
                      for a sentinel of its own; the target is what went.
                          Thank <X> me to your party <Y> week.  ->  <X> you for inviting <Y> last <Z>
noise -> batch, loss  as for `translate`, damaged anew whenever a window makes a batch
-> metrics            loss and perplexity a target token, on windows that are damaged once and for all
"""

import math
import re
from itertools import chain

import numpy as np
import torch

from .. import data
from ..data import IGNORE
from ..errors import Error
from .lm import texts
from .translate import Translate

SENTENCE_END = re.compile(r"(?<=[.!?…])\s+")
BART_SHARE, BART_SPAN = 0.3, 3.0  # the share of tokens that go; spans are Poisson-distributed with this mean
T5_SHARE, T5_SPAN = 0.15, 3.0


class Denoise(Translate):
    """What `translate` does too is said there: padding, teacher forcing, the loss."""

    name = "denoise"
    usual_batch, usual_epochs = 8, 10
    plain_text = shows_before = True
    then = "minift finetune translate --model {}"

    def __init__(self, tokenizer, max_length: int, seed: int = 0, prompt: str | None = None):
        super().__init__(tokenizer, max_length)
        self.sentinels = getattr(tokenizer, "sentinels", ())
        if not self.sentinels and tokenizer.mask is None:
            raise Error("this model's tokenizer has neither a mask nor T5's sentinels, so that nothing can be hidden")
        self.first = [] if tokenizer.cls is None else [tokenizer.cls]
        self.last = [tokenizer.sep if tokenizer.eos is None else tokenizer.eos]

    def training(self, table: data.Table) -> list[dict]:
        """Windows to learn from, undamaged: {"ids", "sentences"}; the ids are those of all its sentences."""
        room, windows = self.max_length - len(self.first) - len(self.last), []
        for text in texts(table):
            windows.append([])
            for i, sentence in enumerate(SENTENCE_END.split(text)):
                ids = self.bare(f" {sentence}" if i else sentence)
                for piece in (ids[at : at + room] for at in range(0, len(ids), room)):
                    if sum(map(len, windows[-1])) + len(piece) > room:
                        windows.append([])
                    windows[-1].append(piece)
        found = [{"ids": joined(window), "sentences": window} for window in windows if window]
        if not found:
            raise Error(f"{table.source}: nothing to learn; its texts are empty")
        return found

    def bare(self, text: str) -> list[int]:
        """The ids of a text without the special tokens around it."""
        ids = self.tokenizer.encode(text)
        return ids[len(self.first) : len(ids) - len(self.last)]

    def examples(self, table: data.Table) -> list[dict]:
        """Windows to measure on."""
        return self.fixed(self.training(table))

    def fixed(self, windows: list[dict]) -> list[dict]:
        """The windows damaged once and for all: alike in every run."""
        chance = np.random.default_rng(0)
        return [self.damaged(window, chance) for window in windows]

    def batch(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        if "target" not in examples[0]:
            chance = np.random.default_rng(int(torch.randint(2**62, ())))  # torch's generator is seeded by the run
            examples = [self.damaged(window, chance) for window in examples]
        return super().batch(examples)

    def damaged(self, window: dict, chance: np.random.Generator) -> dict:
        """{"ids" of the damaged text, "target"} of a window."""
        source, target = (self.corrupt if self.sentinels else self.infill)(window["sentences"], chance)
        source = source[: self.max_length - len(self.first) - len(self.last)]  # an empty span adds a token
        return {"ids": [*self.first, *source, *self.last], "target": [*self.first, *target, *self.last]}

    def infill(self, sentences: list[list[int]], chance) -> tuple[list[int], list[int]]:
        """BART's noise: (source, target)."""
        shuffled = joined(sentences[i] for i in chance.permutation(len(sentences)))
        lengths, left = [], max(round(BART_SHARE * len(shuffled)), 1)
        while left > 0:
            lengths.append(min(int(chance.poisson(BART_SPAN)), left))
            left -= max(lengths[-1], 1)  # of 0 tokens: a mask where nothing is missing
        masks = [[self.tokenizer.mask]] * len(lengths)
        return replaced(shuffled, spans(len(shuffled), lengths, chance), masks), joined(sentences)

    def corrupt(self, sentences: list[list[int]], chance) -> tuple[list[int], list[int]]:
        """T5's noise: (source, target)."""
        ids = joined(sentences)
        gone = max(round(T5_SHARE * len(ids)), 1)
        count = min(max(round(gone / T5_SPAN), 1), len(ids) - gone + 1, len(self.sentinels) - 1)
        cuts = [0, *sorted(1 + chance.choice(gone - 1, count - 1, replace=False)), gone] if count > 1 else [0, gone]
        places = spans(len(ids), np.diff(cuts).tolist(), chance)
        marks = [[sentinel] for sentinel in self.sentinels[: count + 1]]
        target = [token for mark, (at, n) in zip(marks, places, strict=False) for token in (*mark, *ids[at : at + n])]
        return replaced(ids, places, marks), target + marks[count]

    @torch.inference_mode()
    def outputs(self, model, batch) -> torch.Tensor:
        """(B, 2) for each row: the sum of its losses, its target tokens."""
        rows = []
        for i in range(len(batch["src"])):
            summed, count = self.loss(model, {name: tensor[i : i + 1] for name, tensor in batch.items()})
            rows.append([float(summed), count])
        return torch.tensor(rows, dtype=torch.float64)

    def describe(self, examples: list[dict]) -> str:
        return f"{sum(len(example['ids']) for example in examples):,} tokens in {len(examples):,} windows"

    def metrics(self, outputs: torch.Tensor, examples: list[dict]) -> dict[str, float]:
        total, tokens = outputs.sum(0).tolist()
        return {"loss": total / tokens, "perplexity": math.exp(min(total / tokens, 700.0))}

    def goal(self, metrics: dict) -> float:
        """What the best epoch has most of."""
        return -metrics["loss"]

    def show(self, model, table: data.Table, examples, outputs) -> str:
        """A damaged text, what was to be said, and what the model says."""
        example = min(examples, key=lambda e: abs(len(e["ids"]) - 40))
        device = next(model.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in self.batch([example]).items()}
        (said,) = super().outputs(model, batch)
        found = {"given": example["ids"], "right": example["target"], "model": said[said != IGNORE].tolist()}
        return "\n".join(f"  {name}  {self.tokenizer.decode(ids)}" for name, ids in found.items())


def joined(lists) -> list[int]:
    return list(chain.from_iterable(lists))


def spans(n: int, lengths: list[int], chance) -> list[tuple[int, int]]:
    """(start, length) of a span of each length among n tokens, apart from each other, anywhere alike."""
    kept = n - sum(lengths)  # a span stands before one of the tokens that stay, or behind the last
    slots = sorted(chance.choice(kept + 1, min(len(lengths), kept + 1), replace=False).tolist())
    before = np.cumsum([0, *lengths]).tolist()
    return [(slot + gone, length) for slot, gone, length in zip(slots, before, lengths, strict=False)]


def replaced(ids: list[int], places: list[tuple[int, int]], marks: list[list[int]]) -> list[int]:
    """The ids with a mark in each place instead of what stands there."""
    found, at = [], 0
    for (start, length), mark in zip(places, marks, strict=False):
        found += [*ids[at:start], *mark]
        at = start + length
    return found + ids[at:]
