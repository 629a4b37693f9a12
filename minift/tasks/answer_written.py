"""Answers to questions about a text, written by a model that writes (generative): a language model, or an
encoder-decoder. It may say what stands nowhere in the text, and where the text does not say, it is to write NONE.

row -> example     "question: … context: …", as T5 was asked (Raffel et al. 2020, appendix D.15), and the answer; for a
                   language model, which goes on with what it reads, "question: … context: … answer: …" in one row
examples -> batch  encoder-decoder: as for `translate`; language model: ids, mask, target (B, T)
batch -> loss      cross-entropy of the answer's tokens and of the end, and of no others
-> prediction      what the model writes, greedily
-> metrics         exact match and F1, as in answer.py

    B rows, T tokens, N targets, C channels, V vocabulary
"""

import torch
import torch.nn.functional as F

from .. import data, generation, metrics
from ..data import IGNORE
from .answer import Answer, note, questions, right, shown
from .translate import Translate

NONE = "unanswerable"  # what is written where there is no answer
LONGEST = 40  # tokens of an answer, or a third of the longest text, where that is less


class WrittenAnswer(Translate):
    """What `translate` does too is said there."""

    name, kinds = Answer.name, Answer.kinds
    usual_batch, usual_epochs = Answer.usual_batch, Answer.usual_epochs
    rate_factor, then, shows_before = Answer.rate_factor, Answer.then, Answer.shows_before
    goal, words_alone = Answer.goal, Answer.words_alone

    def __init__(self, tokenizer, max_length: int, kind: str):
        super().__init__(tokenizer, max_length)
        self.lm, self.notes, self.longest = kind == "lm", [], min(LONGEST, max_length // 3)
        self.reader = getattr(tokenizer, "source", tokenizer)  # some have a vocabulary a side
        self.end = tokenizer.sep if tokenizer.eos is None else tokenizer.eos

    def training(self, table: data.Table) -> list[dict]:
        """Rows to learn from: {"ids", "target", …} with the first answer that the ids still have."""
        found, lost = [], []
        for question in questions(table, self.notes, learning=True):
            prompt, ids, kept = self.prompt(question)
            texts = [text for text, start in question["answers"] if start + len(text) <= kept]
            if question["answers"] and not texts:
                lost.append(question["name"])
                continue
            found.append(self.taught(prompt, ids, texts[0] if texts else NONE) | {"row": question["row"]})
            found[-1]["question"] = question
        note(self.notes, table.source, lost, f"left out, the answer being behind the first {self.max_length} tokens")
        return found

    def examples(self, table: data.Table, labelled: bool = True) -> list[dict]:
        """Rows to measure on or to predict from: {"ids", "row", "question"}."""
        found = []
        for question in questions(table, self.notes, labelled=labelled):
            _, ids, kept = self.prompt(question)
            self.truncated += kept < len(question["context"])
            found.append({"ids": ids, "row": question["row"], "question": question})
        return found

    def prompt(self, question: dict) -> tuple[str, list[int], int]:
        """(what the model reads, its ids, how many of the context's characters they hold): at most `max_length` tokens,
        with a language model's answer. The question, too, loses what is more than a third of that."""
        room = self.max_length - self.longest * self.lm
        asked, kept = self.begun(question["question"], room // 3), len(question["context"])
        while True:
            text = f"question: {asked} context: {question['context'][:kept].strip()}" + " answer:" * self.lm
            ids = self.reader.encode(text)
            if len(ids) <= room or not kept:
                return text, ids[:room], kept
            _, offsets = self.reader.encode_with_offsets(question["context"][:kept])
            kept = len(self.begun(question["context"][:kept], max(len(offsets) - len(ids) + room, 0)))

    def begun(self, text: str, most: int) -> str:
        """The text's first `most` tokens, or all of it."""
        _, offsets = self.reader.encode_with_offsets(text)
        return text if len(offsets) <= most else text[: offsets[most][0]]

    def taught(self, prompt: str, ids: list[int], answer: str) -> dict:
        if not self.lm:
            return {"ids": ids, "target": self.cut(self.encode_target, answer)}
        said = [*self.reader.encode(f"{prompt} {answer}")[len(ids) :][: self.longest], self.end]
        return {"ids": [*ids, *said[:-1]], "target": [IGNORE] * (len(ids) - 1) + said}

    def batch(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        if not self.lm:
            return super().batch(examples)
        ids, mask = data.pad([example["ids"] for example in examples], self.tokenizer.pad or 0)
        batch = {"ids": ids, "mask": mask}
        if "target" in examples[0]:
            batch["target"], _ = data.pad([example["target"] for example in examples], IGNORE)
        return batch

    def loss(self, model, batch) -> tuple[torch.Tensor, int]:
        """(sum over the answers' tokens and ends, how many these are)"""
        if not self.lm:
            return super().loss(model, batch)
        supervised = batch["target"] != IGNORE  # (B, T)
        logits = model.head(model.hidden(batch["ids"], batch["mask"])[supervised]).float()  # (N, C) -> (N, V)
        return F.cross_entropy(logits, batch["target"][supervised], reduction="sum"), len(logits)

    def outputs(self, model, batch) -> torch.Tensor:
        """(B, longest) the ids that the model writes, and IGNORE behind them."""
        read = (batch["ids"], batch["mask"]) if self.lm else (batch["src"], batch["src_mask"])
        settings = {"temperature": 0.0, "max_new_tokens": self.longest, "eos": self.end if self.lm else None}
        rows = generation.generate_ids(model, *read, **settings)
        return data.pad([row + [IGNORE] * (self.longest - len(row)) for row in rows], IGNORE)[0]

    def predictions(self, outputs: torch.Tensor, examples: list[dict]) -> list[dict]:
        """{"prediction"}; "" where the model says that there is no answer."""
        return [{"prediction": "" if text == NONE else text} for text in self.texts(outputs)]

    def metrics(self, outputs: torch.Tensor, examples: list[dict]) -> dict[str, float]:
        said = [found["prediction"] for found in self.predictions(outputs, examples)]
        return metrics.answers(said, [right(example["question"]) for example in examples])

    def describe(self, examples: list[dict]) -> str:
        none = sum(not example["question"]["answers"] for example in examples)
        text = f"{len(examples):,} questions" + (f", {none:,} without an answer" if none else "")
        return f"{text}, {sum(len(example['ids']) for example in examples):,} tokens"

    def show(self, model, table: data.Table, examples, outputs, count: int = 5) -> str:
        """The first questions: what is right, what the model says."""
        return shown([example["question"] for example in examples], self.predictions(outputs, examples), count)
