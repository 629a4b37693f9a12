"""Damaged texts: what is hidden, how much, and that it can be put back. Run me: pytest tests/test_denoise.py"""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minift
from minift import data
from minift.data import IGNORE
from minift.errors import Error
from minift.tasks.denoise import Denoise, joined, replaced, spans

torch.set_num_threads(1)


class Words:
    """A token a word, "." included with its word; ids from 20 on."""

    pad, eos, cls, sep, mask, unk = 0, 2, 1, 2, 3, 4
    sentinels = ()

    def __init__(self):
        self.ids = {}

    def encode(self, text, max_length=None):
        first = [] if self.cls is None else [self.cls]
        return [*first, *(self.ids.setdefault(word, len(self.ids) + 20) for word in text.split()), self.eos]

    def decode(self, ids, skip_special=False):
        words = {id: word for word, id in self.ids.items()}
        return " ".join(words.get(id, f"<{id}>") for id in ids if not (skip_special and id < 20))


class T5Words(Words):
    cls = sep = mask = None
    sentinels = tuple(range(19, 4, -1))


BOOK = " ".join(f"It is the {n}th of all days and {n + 1} men came home." + " Why?" * (n % 3) for n in range(60))
TABLE = data.read([{"text": BOOK}, {"text": "A short one."}])
each_noise = pytest.mark.parametrize("words", [Words, T5Words])


@each_noise
def test_windows_are_whole_sentences_and_together_the_text(words):
    worker = Denoise(words(), 40)
    windows = worker.training(TABLE)
    assert joined(window["ids"] for window in windows) == worker.bare(BOOK) + worker.bare("A short one.")
    assert all(window["ids"] == joined(window["sentences"]) for window in windows)
    assert max(len(window["ids"]) for window in windows) <= 40 - len(worker.first) - 1
    ends = [sentence[-1] for window in windows for sentence in window["sentences"]]
    assert all(worker.tokenizer.decode([id])[-1] in ".?" for id in ends)


@each_noise
def test_a_sentence_longer_than_a_window_is_cut(words):
    worker = Denoise(words(), 12)
    windows = worker.training(data.read([{"text": "on and on " * 20}]))
    assert joined(window["ids"] for window in windows) == worker.bare("on and on " * 20) and len(windows) > 5


@given(st.integers(0, 2**32), st.lists(st.integers(1, 30), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_what_t5_hides_can_be_put_back(seed, sizes):
    worker = Denoise(T5Words(), 512)
    numbers = iter(range(100, 1000))
    sentences = [[next(numbers) for _ in range(size)] for size in sizes]
    source, target = worker.corrupt(sentences, np.random.default_rng(seed))
    marks = [token for token in source if token in T5Words.sentinels]
    assert marks == list(T5Words.sentinels[: len(marks)]) and target[-1] == T5Words.sentinels[len(marks)]
    gone, at = {}, None
    for token in target[:-1]:
        if token in T5Words.sentinels:
            at = gone.setdefault(token, [])
        else:
            at.append(token)
    assert all(gone.values()), "no span is empty"
    ids = joined(sentences)
    assert joined(gone.get(token, [token]) for token in source) == ids
    hidden = sum(map(len, gone.values()))
    if len(sizes) > 2 and len(marks) < len(T5Words.sentinels) - 1:
        assert hidden == max(round(0.15 * len(ids)), 1)
    apart = [a in gone and b in gone for a, b in pairwise(source)]
    assert not any(apart), "two spans never touch"


@given(st.integers(0, 2**32), st.lists(st.integers(1, 30), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_bart_hides_a_third_in_sentences_that_changed_places(seed, sizes):
    worker = Denoise(Words(), 512)
    numbers = iter(range(100, 1000))
    sentences = [[next(numbers) for _ in range(size)] for size in sizes]
    source, target = worker.infill(sentences, np.random.default_rng(seed))
    n, kept = sum(sizes), [token for token in source if token != Words.mask]
    assert target == joined(sentences) and len(kept) == len(set(kept)) and set(kept) <= set(target)
    home = {token: i for i, sentence in enumerate(sentences) for token in sentence}
    blocks = [home[token] for token in kept]
    assert len([1 for a, b in pairwise(blocks) if a != b]) <= max(len(set(blocks)) - 1, 0)
    for i in range(len(sizes)):  # within a sentence the order stays
        inside = [token for token in kept if home[token] == i]
        assert inside == sorted(inside)
    assert n - len(kept) <= max(round(0.3 * n), 1)
    assert Words.mask in source


def test_spans_lie_anywhere_alike_and_are_three_tokens_long_on_average():
    chance = np.random.default_rng(0)
    worker, covered, masks, gone = Denoise(Words(), 512), Counter(), 0, 0
    ids = list(range(100, 200))
    for _ in range(600):
        source, _ = worker.infill([ids], chance)
        left = set(ids) & set(source)
        covered.update(set(ids) - left)
        masks += source.count(Words.mask)
        gone += 100 - len(left)
    shares = np.array([covered[id] / 600 for id in ids])
    assert 0.24 < gone / 60000 < 0.31 and 2.2 < gone / masks < 3.2
    assert shares[10:90].std() < 0.03 and abs(shares[:50].mean() - shares[50:].mean()) < 0.02


def test_places_are_replaced_one_by_one():
    assert replaced([1, 2, 3, 4, 5], [(1, 2), (4, 0)], [[9], [8]]) == [1, 9, 4, 8, 5]
    assert [length for _, length in spans(10, [2, 0, 3], np.random.default_rng(0))] == [2, 0, 3]


@each_noise
def test_damage_is_new_in_each_batch_and_the_same_whenever_it_is_measured(words):
    worker = Denoise(words(), 60)
    windows = worker.training(TABLE)
    torch.manual_seed(0)
    first, second = worker.batch(windows[:4]), worker.batch(windows[:4])
    assert first["src"].tolist() != second["src"].tolist()
    torch.manual_seed(0)
    assert worker.batch(windows[:4])["src"].tolist() == first["src"].tolist()
    assert worker.examples(TABLE) == worker.examples(TABLE)
    assert first["src"].shape[1] <= 60 and (first["target"] != IGNORE).equal(first["target_mask"])
    for row, mask in zip(first["src"], first["src_mask"], strict=True):
        ids = row[mask].tolist()
        assert ids[-1] == 2 and (words is T5Words or ids[0] == 1)


def test_a_tokenizer_without_mask_and_sentinels_is_refused():
    plain = T5Words()
    plain.sentinels = ()
    with pytest.raises(Error, match="neither a mask nor T5's sentinels"):
        Denoise(plain, 40)


def test_texts_without_a_word_are_refused():
    with pytest.raises(Error, match="nothing to learn"):
        Denoise(Words(), 40).training(data.read([{"text": "  "}]))


def test_a_run_says_how_many_windows_it_has_and_its_folder_goes_on_to_translate(tmp_path):
    said, folder = [], tiny.bart_folder(tmp_path / "bart")
    texts = ["A good meal. The bad one again. " * 6, "The film was good. Never a bad meal."]
    run = minift.finetune(
        "denoise", said.append, model=folder, train=texts, valid=texts[:1], epochs=3, out=tmp_path / "a"
    )
    windows = Denoise(run.tokenizer, 24).training(data.read(texts))
    tokens = sum(len(window["ids"]) for window in windows)
    assert any(
        line.startswith("train") and line.endswith(f"{tokens:,} tokens in {len(windows)} windows") for line in said
    )
    assert run.metrics["valid"]["loss"] < run.metrics["valid_before"]["loss"]
    assert sum(line.count("  given  ") for line in said) == 2  # a damaged text, before and after
    rows = [{"src": "a good meal", "tgt": "the bad one"}]
    after = minift.finetune("translate", model=run.folder, train=rows * 4, valid=rows, max_steps=1, out=tmp_path / "b")
    assert after.model.kind == "seq2seq" and after.train["steps"] == 1
