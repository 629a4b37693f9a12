"""Answers to questions about a text, each a passage of it (extractive), or none where the text does not say.

row -> windows     question and context become [CLS] question [SEP] context [SEP]; of a long context each window has a
                   part, and neighbours share some tokens, so that an answer at the edge of one is whole in another
windows -> batch   ids (B, T), mask, segments if the model has them; start, end (B,) the answer's first and last token
batch -> loss      the model says for every token how well the answer starts there, and how well it ends there:
                   cross-entropy of both, averaged (Devlin et al. 2019, section 4.2). Where a window does not hold the
                   answer both point at [CLS] (section 4.3)
-> prediction      of all spans of all windows the one whose start and end together score most, unless [CLS] does better
-> metrics         exact match and F1, as SQuAD's own scorers count

    B windows, T tokens

Models that write their answer (generative) are in answer_written.py; what a row is, is said here for both.
"""

from collections import Counter

import torch
import torch.nn.functional as F

from .. import data, metrics
from ..errors import Error

STYLES = {"extractive": ("answer",), "generative": ("lm", "seq2seq"), None: ("answer", "lm", "seq2seq")}  # of --style
WINDOW = 384  # tokens, where --max-length says nothing
TOP = 20  # starts and ends of a window that are tried with each other, ...
LONGEST = 30  # ... and the most tokens from one to the other: both as in SQuAD's published baselines
NO_SPAN = -1e6  # the score where none of these spans lies in the context
NAMED = 5  # rows that a note names


class Answer:
    name, kinds = "answer", STYLES[None]
    usual_batch, usual_epochs = 16, 3  # a batch is so many windows
    rate_factor = 1.0  # its usual rate, in those of optim.usual_rate
    plain_text = shows_before = False
    then = "minift predict {} --input QUESTIONS.json"
    truncated = 0  # long texts become several windows

    def __init__(self, tokenizer, max_length: int, overlap: int | None = None, threshold: float | None = None):
        """Windows of `max_length` tokens share `overlap` of them (none: a third). A question is said to have no answer
        where that scores more than `threshold` above the best span; None: it always has one."""
        self.tokenizer, self.max_length, self.threshold = tokenizer, max_length, threshold
        self.overlap = max_length // 3 if overlap is None else overlap
        self.first, *self.middle, self.last = tokenizer.encode("", "")  # the special tokens around two texts
        self.longest_question = max_length // 3
        most = max_length - self.longest_question - len(self.middle) - 3
        if not 0 <= self.overlap <= most:
            raise Error(
                f"--overlap {self.overlap}: windows of {max_length} tokens, of which a question may take "
                f"{self.longest_question}, can share at most {most}; lower it, or raise --max-length"
            )
        self.notes = []  # on rows that are left out or odd, for the run's first lines

    def training(self, table: data.Table) -> list[dict]:
        """Windows to learn from, with the place of the answer: {"start", "end"} beside what `examples` says."""
        windows = self.windows(questions(table, self.notes, learning=True), table.source)
        answerable = {window["row"] for window in windows if window["question"]["answers"]}
        held = {window["row"] for window in windows if window["end"]}
        lost = [window["question"]["name"] for window in windows if window["row"] in answerable - held]
        note(self.notes, table.source, lost, "left out, the answer being whole in no window (see --overlap)")
        if len(answerable) < len({window["row"] for window in windows}):
            self.threshold = 0.0  # until `settle`
        windows = [window for window in windows if window["row"] not in answerable - held]
        if not windows:
            raise Error(f"{table.source}: no row can be learned from" + "".join(f"\n{line}" for line in self.notes))
        return windows

    def examples(self, table: data.Table, labelled: bool = True) -> list[dict]:
        """Windows to measure on or to predict from, in the order of the rows, one or more a row."""
        return self.windows(questions(table, self.notes, labelled=labelled), table.source)

    def windows(self, questions: list[dict], source: str) -> list[dict]:
        """{"ids", "question", "row", "start", "end"}, and of the context's tokens in this window: "context", the index
        of the first in the ids; "offsets", where each is in the context, in characters. start = end = 0: no answer."""
        found, long = [], []
        for question in questions:
            asked, _ = self.tokenizer.encode_with_offsets(question["question"])
            if len(asked) > self.longest_question:
                long.append(question["name"])
            ids, offsets = self.tokenizer.encode_with_offsets(question["context"])
            answer = touched(offsets, *question["answers"][0]) if question["answers"] else []
            head = [self.first, *asked[: self.longest_question], *self.middle]
            room = self.max_length - len(head) - 1  # for context tokens
            for at in range(0, max(len(ids) - self.overlap, 1), room - self.overlap):
                end = min(at + room, len(ids))
                window = {"ids": [*head, *ids[at:end], self.last], "question": question, "row": question["row"]}
                window |= {"context": len(head), "offsets": offsets[at:end], "start": 0, "end": 0}
                if answer and at <= answer[0] and answer[-1] < end:
                    window |= {"start": len(head) + answer[0] - at, "end": len(head) + answer[-1] - at}
                found.append(window)
        note(self.notes, source, long, f"questions cut to their first {self.longest_question} tokens")
        return found

    def batch(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        rows = [example["ids"] for example in examples]
        ids, mask = data.pad(rows, self.tokenizer.pad or 0)
        batch = {"ids": ids, "mask": mask, "inside": torch.zeros_like(mask)}  # inside: what an answer may be made of
        for i, example in enumerate(examples):
            real = torch.tensor([start < end for start, end in example["offsets"]], dtype=torch.bool)
            batch["inside"][i, example["context"] : example["context"] + len(real)] = real
        if hasattr(self.tokenizer, "segments"):
            batch["segments"] = data.pad([self.tokenizer.segments(row) for row in rows], 0)[0]
        return batch | {end: torch.tensor([example[end] for example in examples]) for end in ("start", "end")}

    def logits(self, model, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T) how well the answer starts at each token, (B, T) how well it ends there; -inf for padding, which would
        else make a window's loss depend on how long its neighbours are."""
        logits = model(**{name: batch[name] for name in ("ids", "mask", "segments") if name in batch}).float()
        return logits.masked_fill(~batch["mask"][..., None], -torch.inf).unbind(-1)

    def loss(self, model, batch) -> tuple[torch.Tensor, int]:
        """(sum over the windows, windows)"""
        losses = (
            F.cross_entropy(logits, batch[end], reduction="sum")
            for logits, end in zip(self.logits(model, batch), ("start", "end"), strict=True)
        )
        return sum(losses) / 2, len(batch["ids"])

    def outputs(self, model, batch) -> torch.Tensor:
        """(B, 4) for each window: the score of saying nothing, which is [CLS] as start and end; the best span's score,
        its first and its last token. Only the TOP likeliest starts and ends are tried."""
        start, end = self.logits(model, batch)
        inside, k = batch["inside"], min(TOP, start.shape[1])
        (s, first), (e, last) = start.topk(k), end.topk(k)  # each (B, k)
        length = last[:, None] - first[:, :, None]  # (B, k, k), less 1
        allowed = inside.gather(1, first)[:, :, None] & inside.gather(1, last)[:, None]
        allowed &= (length >= 0) & (length < LONGEST)
        score, pair = (s[:, :, None] + e[:, None]).masked_fill(~allowed, NO_SPAN).flatten(1).max(1, keepdim=True)
        null = start[:, :1] + end[:, :1]
        return torch.cat((null, score, first.gather(1, pair // k), last.gather(1, pair % k)), 1)

    def answers(self, outputs: torch.Tensor, examples: list[dict]) -> list[dict]:
        """For each question, over its windows: {"question"; "scores": {"answer": the best span's, "null": the least
        that a window gives to saying nothing}; "start", "end": the span's, in characters of the context}"""
        found = []
        for (null, score, first, last), window in zip(outputs.tolist(), examples, strict=True):
            if not found or found[-1]["question"] is not window["question"]:
                scores = {"answer": NO_SPAN, "null": null}
                found.append({"question": window["question"], "scores": scores, "start": 0, "end": 0})
            scores = found[-1]["scores"]
            scores["null"] = min(null, scores["null"])
            if score > scores["answer"]:
                scores["answer"] = score
                first, last = (window["offsets"][int(token) - window["context"]] for token in (first, last))
                found[-1] |= {"start": first[0], "end": last[1]}
        return found

    def predictions(self, outputs: torch.Tensor, examples: list[dict]) -> list[dict]:
        """{"prediction", "start", "end", "scores"}; the text context[start:end], or "" and None for no answer."""
        found = []
        for one in self.answers(outputs, examples):
            text, scores = passage(one), one["scores"]
            if self.threshold is not None and scores["null"] - scores["answer"] > self.threshold:
                text = ""
            place = {"start": one["start"], "end": one["end"]} if text else {"start": None, "end": None}
            found.append({"prediction": text, **place, "scores": scores})
        return found

    def metrics(self, outputs: torch.Tensor, examples: list[dict]) -> dict[str, float]:
        said = [found["prediction"] for found in self.predictions(outputs, examples)]
        return metrics.answers(said, [right(one["question"]) for one in self.answers(outputs, examples)])

    def settle(self, outputs: torch.Tensor, examples: list[dict]):
        """Choose the threshold with which these rows have the best F1. Nothing to do if the training rows all have an
        answer."""
        if self.threshold is None:
            return
        found = self.answers(outputs, examples)
        odds = torch.tensor([one["scores"]["null"] - one["scores"]["answer"] for one in found], dtype=torch.float64)
        # What it gains to answer a question rather than to say nothing; summed from the surest on, the F1 is highest
        # where the sum is.
        f1 = lambda said, one: metrics.answer(said, right(one["question"]), version_2=True)[1]
        gain = torch.tensor([f1(passage(one), one) - f1("", one) for one in found], dtype=torch.float64)
        odds, order = odds.sort()
        total = torch.cat((torch.zeros(1), gain[order].cumsum(0)))
        best = int(total.argmax())  # so many are answered
        self.threshold = float(odds[best - 1] if best else odds[0] - 1)

    def goal(self, metrics: dict) -> float:
        """What the best epoch has most of."""
        return metrics["f1"]

    def describe(self, examples: list[dict]) -> str:
        asked = {example["row"]: bool(example["question"]["answers"]) for example in examples}
        none = len(asked) - sum(asked.values())
        text = f"{len(asked):,} questions" + (f", {none:,} without an answer" if none else "")
        return f"{text}, in {len(examples):,} windows of up to {self.max_length} tokens"

    def words_alone(self, tables, examples, split) -> None:
        """There is no baseline by words alone."""

    def show(self, model, table: data.Table, examples, outputs, count: int = 5) -> str:
        """The first questions: what is right, what the model says."""
        return shown([window["question"] for window in examples], self.predictions(outputs, examples), count)


# -- rows, for both styles --------------------------------------------------------------------------------------------


def questions(table: data.Table, notes: list[str], labelled: bool = True, learning: bool = False) -> list[dict]:
    """{"row", "name", "question", "context", "answers": [(text, start)]} of each row; `notes` gets what is to be said.

    Answers are a list as in SQuAD's files, or {"text": [...], "answer_start": [...]} as in the Hub's; none: the text
    does not say. A row that is there twice is left out the second time. So is, where a model is to learn, one whose
    answers all stand elsewhere than it says; for measuring it counts, since there only an answer's text does."""
    columns = [table.column("question"), table.column("context")]
    labels, found, seen = table.column("answers") if labelled else None, [], {}
    twice, again, moved, lost = [], [], [], []
    for i, row in enumerate(table.rows):
        name = str(row.get("id") or table.where(i).rpartition(", ")[2])
        asked, context = texts = [row[column] for column in columns]
        for column, text in zip(columns, texts, strict=True):
            if not isinstance(text, str) or not text.strip():
                raise Error(f"{table.where(i)}: {column} is {text!r}; it must be a text")
        answers = listed(row[labels], row.get("is_impossible"), table.where(i)) if labelled else []
        if labelled and (asked, context) in seen:
            if seen[asked, context] == answers:
                twice.append(name)
                continue
            again.append(name)
        seen[asked, context] = answers
        there = [(text, start) for text, start in answers if start >= 0 and context.startswith(text, start)]
        if len(there) < len(answers):
            text, start = next(one for one in answers if one not in there)
            if context.count(text) == 1:
                moved.append(f"{name} (at {context.index(text)}, not {start})")
            else:
                lost.append(f"{name} ({data.short(repr(text))} at {start})")
            if learning and not there:
                continue
        kept = there if learning else answers
        found.append({"row": i, "name": name, "question": asked.strip(), "context": context, "answers": kept})
    out = "left out, unless it has another" if learning else "kept, since only the text counts here"
    note(notes, table.source, twice, "there twice with the same answers, left out the second time")
    note(notes, table.source, again, "there twice with different answers, kept")
    note(notes, table.source, moved, f"the answer is not at its answer_start, but once elsewhere; {out}")
    note(notes, table.source, lost, f"the answer is not at its answer_start, nor just once elsewhere; {out}")
    if labelled:
        names = Counter(one["name"] for one in found)
        note(notes, table.source, [name for name, n in names.items() if n > 1], "id of several questions, kept")
        note(notes, table.source, [one["name"] for one in found if not one["answers"]], "without an answer")
    return found


def listed(answers, impossible, where: str) -> list[tuple[str, int]]:
    """The answers of a row as (text, start)."""
    if isinstance(answers, dict) and all(isinstance(answers.get(k), list) for k in ("text", "answer_start")):
        pairs = [*zip(answers["text"], answers["answer_start"], strict=False)]
    elif isinstance(answers, list) and all(isinstance(one, dict) for one in answers):
        pairs = [(one.get("text"), one.get("answer_start")) for one in answers]
    else:
        raise Error(f"{where}: answers is {data.short(repr(answers))}; it must be a list of {{text, answer_start}}")
    for text, start in pairs:
        if not isinstance(text, str) or not text.strip() or type(start) is not int:
            raise Error(f"{where}: an answer is {text!r} at answer_start {start!r}; give a text and a whole number")
    if impossible is not None and bool(impossible) != (not pairs):
        raise Error(f"{where}: is_impossible is {impossible!r}, but it has {len(pairs)} answers; correct either")
    return pairs


def touched(offsets: list[tuple[int, int]], text: str, start: int) -> list[int]:
    """The tokens that an answer reaches into."""
    return [i for i, (a, b) in enumerate(offsets) if a < start + len(text) and b > start and a < b]


def passage(found: dict) -> str:
    return found["question"]["context"][found["start"] : found["end"]]


def right(question: dict) -> list[str]:
    return [text for text, _ in question["answers"]]


def note(notes: list[str], source: str, names, what: str):
    """Put down what is to be said of the rows of these names."""
    if names := [*dict.fromkeys(names)]:
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        notes.append(f"{source}: {what}: {len(names):,} ({', '.join(names[:NAMED])}{more})")


def shown(asked: list[dict], said: list[dict], count: int) -> str:
    """The first questions, with what is right and what the model says. `asked` may name a question several times."""
    asked, lines = list({question["row"]: question for question in asked}.values()), []
    for question, found in zip(asked[:count], said, strict=False):
        lines += [f"  {' '.join(question['question'].split())[:110]}"]
        lines += [f"    right  {' / '.join(dict.fromkeys(right(question))) or '(no answer)'}"]
        lines += [f"    model  {data.short(' '.join(found['prediction'].split())) or '(no answer)'}"]
    return "\n".join(lines)
