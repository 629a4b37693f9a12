"""A new Kim CNN (models/kim_cnn.py) for the texts that it is to learn from, by its name:

    kim-cnn          the words of these texts, their vectors random
    kim-cnn:FILE     the same words; vectors from a GloVe or word2vec file (vectors.py), random where it lacks a word
    kim-cnn:MODEL    the tokens of a model, named as models are, and their vectors, from its embedding

With random: in front, the same with nothing but random vectors.
"""

import os
from collections import Counter
from pathlib import Path

import torch

from . import hub, pretrained, tokenizers, vectors
from .errors import Error
from .models.kim_cnn import CHANNELS, Config, KimCNN
from .tokenizers.words import Words

EPOCHS = 10  # times through the training rows, if not said: filters that begin at random need more than three
SPECIAL = ["xxunk", "xxpad"]  # a word that the training texts lack, and padding


def named(name) -> bool:
    """Whether it is the name of a new Kim CNN."""
    return isinstance(name, str) and name.removeprefix("random:").partition(":")[0] == hub.CNN


def made(name: str, kinds, labels: list[str] | None, texts: list[str], channels: str | None = None):
    """(model, tokenizer) of such a name, with a head for these labels; `texts` are those that it is to learn from."""
    if not named(name):
        raise Error(f"--channels {channels}: is said of a new model, {hub.CNN} or {hub.CNN}:FROM, and kept by it")
    pretrained.wanted(name, KimCNN, kinds, "classify")
    _, colon, source = name.removeprefix("random:").partition(":")
    if colon and not source:
        raise Error(f"{name}: behind the colon give a file of word vectors, or a model; or leave it out")
    source = os.path.expanduser(source)  # no shell does it behind a colon
    report, known = pretrained.Report(), None
    if not source:
        tokenizer = words_of(texts)
    elif Path(source).is_file():
        tokenizer = words_of(texts)
        known, note = of_file(source, tokenizer.itos)
        report.notes += note
    else:
        tokenizer, known = of_model(name, source)
    config = Config(tokenizer.vocab_size, channels=channels or CHANNELS[0], pad_token_id=tokenizer.pad)
    if labels is not None:
        config.labels = list(labels)
    if known is not None:
        config.vocab_size, config.embedding_size = known.shape
    model = KimCNN(config)
    if known is not None and not name.startswith("random:"):
        model.set_vectors(known)
        report.mapped = [key for key in ("static", "embed.weight") if key in model.state_dict()]
    report.new = [key for key in model.state_dict() if key not in report.mapped]
    model.report = report
    return model.eval(), tokenizer


def words_of(texts: list[str]) -> Words:
    """Every word of the texts, in lower case; the most frequent first, of equals the first in the alphabet."""
    cut = Words(SPECIAL, markers=False).cut
    count = Counter(word for text in texts for word in cut(text))
    found = sorted(count.keys() - {*SPECIAL}, key=lambda word: (-count[word], word))
    if not found:
        raise Error("the training rows have no words in 'text', or 'text_a' and 'text_b'; a Kim CNN reads nothing else")
    return Words(SPECIAL + found, markers=False)


def of_file(path: str, words: list[str]) -> tuple[torch.Tensor, list[str]]:
    """(vectors (V, C) of these words, what to say of them)"""
    found = vectors.read(path, words[len(SPECIAL) :])
    known, all = len(found.known), len(words) - len(SPECIAL)
    note = f"{path}: {found.count:,} vectors of {found.width} numbers; {known:,} of the {all:,} words have one"
    return vectors.table(words, found), [f"{note} ({known / all:.0%}), the others are random", *found.notes]


def of_model(name: str, source: str) -> tuple[object, torch.Tensor]:
    """(tokenizer, vectors (V, C) of its tokens) of the model that is named behind the colon."""
    try:
        model, tokenizer = pretrained.load(source)
    except Error as e:
        raise Error(f"the vectors of {name}: there is no such file, and as a model, {e}", e.code) from None
    if isinstance(tokenizer, tokenizers.Pair):  # another vocabulary to write with
        tokenizer = tokenizer.source
    # In every family the embedding is the first to have a row for each token.
    return tokenizer, next(t for t in model.state_dict().values() if len(t) >= tokenizer.vocab_size)
