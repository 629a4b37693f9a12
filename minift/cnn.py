"""A new Kim CNN (models/kim_cnn.py) for the texts that it is to learn from, by its name:

    kim-cnn          the words of these texts, their vectors random
    kim-cnn:FILE     the same words; vectors from a GloVe or word2vec file (vectors.py), random where it lacks a word
    kim-cnn:MODEL    the tokens of a model, named as models are, and their vectors in its embedding
"""

from collections import Counter
from pathlib import Path

from . import hub, pretrained, tokenizers, vectors
from .errors import Error
from .models.kim_cnn import Config, KimCNN
from .tasks.classify import TEXT, joined
from .tokenizers.words import Words

SPECIAL = ["xxunk", "xxpad"]


def named(name: str) -> bool:
    """Whether the name is that of a new Kim CNN, or with random: before it, of one with nothing but random vectors."""
    return name.removeprefix("random:").partition(":")[0] == hub.CNN


def made(name: str, kinds, labels: list[str] | None, table, channels: str):
    """(model, tokenizer) of a name, with a head for these labels. `table` has the rows whose words it is to know."""
    _, colon, source = name.removeprefix("random:").partition(":")
    if colon and not source:
        raise Error(f"{name}: give a file of word vectors or a model behind the colon, or leave it out")
    pretrained.wanted(name, KimCNN, kinds, "classify")
    report = pretrained.Report()
    if source and not Path(source).is_file():
        tokenizer, known = of_model(name, source)
    else:
        tokenizer, known = of_texts([joined(row) for row in table.rows], table.column(*TEXT)), None
        report.notes.append(f"{tokenizer.vocab_size:,} words of the training rows")
        if source:
            known = of_file(source, tokenizer.itos, report)
    rows, *width = (tokenizer.vocab_size,) if known is None else known.shape
    sizes = {"vocab_size": rows} | ({"embedding_size": width[0]} if width else {})
    model = KimCNN(Config(**sizes, channels=channels, pad_token_id=tokenizer.pad, labels=labels))
    if known is not None and not name.startswith("random:"):
        model.set_vectors(known)
        report.mapped = [name for name in ("static", "embed.weight") if name in model.state_dict()]
    report.new = [name for name in model.state_dict() if name not in report.mapped]
    model.report = report
    return model.eval(), tokenizer


def of_texts(texts: list[str], _) -> Words:
    """Every word of the texts, in lower case; the most frequent first, of equals the first in the alphabet."""
    cut = Words(SPECIAL, markers=False).cut
    count = Counter(word for text in texts for word in cut(text))
    return Words([*SPECIAL, *sorted(count.keys() - SPECIAL, key=lambda word: (-count[word], word))], markers=False)
