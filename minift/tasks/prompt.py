"""Prompting: a language model classifies with no training at all, by which label it finds the likelier continuation.

Brown et al. 2020, "Language Models are Few-Shot Learners" (GPT-3), sections 2 and 2.4: before the text stand K examples
(zero-, one-, few-shot), drawn anew for each text; each label is tried behind it, and its tokens' mean log-likelihood
(so that long labels lose nothing) is its score.

row -> example        the ids of the prompt, and of each label that may follow it
examples -> batch     a row for each text and label: ids, mask, target (B * L, T); target IGNORE but on the label
batch -> outputs      (B, L) mean log-likelihoods, which Classify's predictions and metrics take for logits

    B texts, L labels, T tokens
"""

import random

import torch
import torch.nn.functional as F

from .. import data
from ..data import IGNORE
from ..errors import Error
from .classify import Classify, joined, label_of, strings

TEMPLATE = "{text}\nLabel: {label}"


class Prompt(Classify):
    name, kinds = "prompt", ("lm",)

    def __init__(self, tokenizer, table: data.Table, shots: int, max_length: int, template=TEMPLATE, seed: int = 0):
        """`table` has the labelled rows to draw from; of `template`, {label} must be the end."""
        super().__init__(tokenizer, self.labels_of(table, regression=False), max_length=max_length)
        if not 0 <= shots <= len(table.rows):
            raise Error(f"--shots {shots}: {table.source} has {len(table.rows)} rows; give 0 to so many")
        if "{text}" not in template or not template.endswith(" {label}"):
            raise Error(f"--template {template!r}: needs {{text}}, and ' {{label}}' at its end, as in {TEMPLATE!r}")
        self.shots, self.template, self.seed = shots, template.replace("\\n", "\n"), seed
        column = table.column("label")
        self.shown = [self.filled(joined(row), label_of(table, i, column)) for i, row in enumerate(table.rows)]

    def filled(self, text: str, label: str) -> str:
        return self.template.replace("{label}", label).replace("{text}", text)

    def inputs(self, texts: list[str], where: str) -> dict:
        """The ids of the prompt and of each answer. Shots are left out from the front until all fit; then the text is
        cut."""
        text = "  ".join(strings(texts, where))
        shots = random.Random(f"{self.seed} {text}").sample(self.shown, self.shots)
        for first in range(len(shots) + 1):
            whole = ["\n\n".join([*shots[first:], self.filled(text, label)]) for label in self.labels]
            ids = self.tokenizer.encode(whole[0].removesuffix(" " + self.labels[0]))
            answers = [self.tokenizer.encode(one)[len(ids) :] for one in whole]  # a word begins with its space
            if self.tokenizer.eos not in (None, *ids[:1]):  # a document begins with it
                ids = [self.tokenizer.eos, *ids]
            room = self.max_length - max(map(len, answers)) + 1  # the last token of an answer is not fed
            if len(ids) <= room:
                break
        self.truncated += first > 0 or len(ids) > room
        ids[1 : 1 + max(len(ids) - room, 0)] = []  # a text that is too long loses its beginning, not what begins it all
        return {"ids": ids, "answers": answers}

    def batch(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        pairs = [(example["ids"], answer) for example in examples for answer in example["answers"]]
        ids, mask = data.pad([ids + answer[:-1] for ids, answer in pairs], self.tokenizer.pad or 0)
        target = data.pad([[IGNORE] * (len(ids) - 1) + answer for ids, answer in pairs], IGNORE)[0]
        return {"ids": ids, "mask": mask, "target": target}

    def outputs(self, model, batch) -> torch.Tensor:
        """(B, L)"""
        supervised = batch["target"] != IGNORE  # (B * L, T)
        logits = model.head(model.hidden(batch["ids"], batch["mask"])[supervised]).float()  # (N, V)
        losses = torch.zeros(supervised.shape, device=logits.device)
        losses[supervised] = F.cross_entropy(logits, batch["target"][supervised], reduction="none")
        return (-losses.sum(1) / supervised.sum(1)).view(-1, len(self.labels))
