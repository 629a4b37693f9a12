"""What others have published about published weights, to be computed again here: `minift check` compares.

A model is known by the sha256 of its weights, as its page on the Hub states it. Each figure stands in somebody's test,
which is named beside it; the tolerance is that test's, and for a logit what float32 sums in another order may add.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from .errors import Error


@dataclass
class Figure:
    what: str
    source: str
    published: list[float]
    within: float
    compute: Callable  # (model, tokenizer) -> as many numbers as were published


def following(text: str):
    """The likeliest token after a text, and its logit."""

    def compute(model, tokenizer):
        logits = model(torch.tensor([tokenizer.encode(text)]))[0, -1]
        return [logits.argmax().item(), logits.max().item()]

    return compute


def greedy(ids: list[int], count: int):
    """Token ids, and the `count` that follow if each is the likeliest."""

    def compute(model, tokenizer):
        all = torch.tensor([ids])
        for _ in range(count):
            all = torch.cat([all, model(all)[:, -1:].argmax(-1)], dim=1)
        return all[0].tolist()

    return compute


def filled(text: str):
    """The likeliest token at each [MASK] of a text, and its logit."""

    def compute(model, tokenizer):
        ids = [tokenizer.cls]
        for i, part in enumerate(text.split("[MASK]")):
            ids += [tokenizer.mask] * (i > 0) + tokenizer.encode(part)[1:-1]
        logits = model(torch.tensor([[*ids, tokenizer.sep]]))[0]
        masked = [logits[at] for at, id in enumerate(ids) if id == tokenizer.mask]
        return [value.item() for row in masked for value in (row.argmax(), row.max())]

    return compute


def sentence(text: str, count: int):
    """The first `count` numbers of a text's vector: the mean over its tokens, of length 1."""

    def compute(model, tokenizer):
        return F.normalize(model.hidden(torch.tensor([tokenizer.encode(text)]))[0].mean(0), dim=0)[:count].tolist()

    return compute


def corner(ids: list[int], of: str):
    """The first three numbers at each of the first three tokens: of their "hidden" vectors or of their "logits"."""

    def compute(model, tokenizer):
        vectors = model.hidden(torch.tensor([ids])) if of == "hidden" else model(torch.tensor([ids]))
        return vectors[0, :3, :3].flatten().tolist()

    return compute


COUNTING = "One two three four five six seven eight nine ten eleven"
PARIS = "Paris is the [MASK] of France. It is [MASK] in Europe."
DOG = [464, 3290, 373, 1043, 287, 257, 2214, 1474, 262, 16246, 286, 2688, 290, 2688, 27262, 13, 198, 198, 464, 3290]
HELLO = [0, 31414, 232, 328, 740, 1140, 12695, 69, 46078, 1588, 2]  # "Hello world! …" as RoBERTa reads it
MINILM = "asserted by an R package"  # found as an excerpt only, which does not name it
VECTORS = {
    "This is an example sentence": [0.06765693, 0.06349593, 0.04871314, 0.07930495, 0.03744806, 0.00265273],
    "Each sentence is converted.": [0.07853645, 0.08856265, -0.00209270, -0.00717247, -0.01252624, 0.01881747],
    "": [-0.11883835, 0.04829856, -0.00254805],
}

KNOWN = {  # sha256 of model.safetensors: (the name of the model, its figures)
    "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707": (
        "gpt2",
        [
            Figure(
                "'One two three four' goes on with ' five'",
                "rust-bert, tests/gpt2.rs",
                [1936, -69.4948],
                1e-3,
                following("One two three four"),
            ),
            Figure(
                "'The dog' goes on for 18 tokens",
                "transformers, test_modeling_gpt2.py, test_lm_generate_gpt2",
                DOG,
                0,
                greedy(DOG[:2], 18),
            ),
        ],
    ),
    "e1ff18884359fe8beb795a5f414feb85a6ce3d929ad019c0d958c039d2b94a1b": (
        "distilgpt2",
        [
            Figure(
                "'One two three … eleven' goes on with ' twelve'",
                "rust-bert, tests/distilgpt2.rs",
                [14104, -48.7065],
                1e-3,
                following(COUNTING),
            )
        ],
    ),
    "52738cbfb54e25a232598242f60ef19ee193d36090b98fe649b10c02724b3521": (
        "gpt-neo-125m",
        [
            Figure(
                "'It was a sunny' goes on with ' day'",
                "rust-bert, tests/gpt_neo.rs",
                [1110, -0.0279],
                1e-3,
                following("It was a sunny"),
            )
        ],
    ),
    "68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3": (
        "bert-base-uncased",
        [
            Figure(
                "'capital' and 'located' in 'Paris is the [MASK] of France. …'",
                "rust-bert, tests/bert.rs, bert_masked_lm_pipeline",
                [3007, 16.7249, 2284, 9.0452],
                1e-3,
                filled(PARIS),
            )
        ],
    ),
    "5bde1d28afb363d0103324efeb5afc8b2b397fe5e04beabb9b1ef355255ade81": (
        "roberta-base",
        [
            Figure(
                "logits of 'Hello world! …'",
                "transformers, test_modeling_roberta.py, test_inference_masked_lm",
                [33.8802, -4.3103, 22.7761, 4.6539, -2.8098, 13.6253, 1.8228, -3.6898, 8.8600],
                1e-3,
                corner(HELLO, "logits"),
            ),
            Figure(
                "vectors of 'Hello world! …'",
                "transformers, test_modeling_roberta.py, test_inference_no_head",
                [-0.0231, 0.0782, 0.0074, -0.1854, 0.0540, -0.0175, 0.0548, 0.0799, 0.1687],
                1e-4,
                corner(HELLO, "hidden"),
            ),
        ],
    ),
    "5e3f1108e3cb34ee048634875d8482665b65ac713291a7e32396fb18f6ff0063": (
        "distilbert-base-uncased",
        [
            Figure(
                "vectors of the tokens 0 to 5",
                "transformers, test_modeling_tf_distilbert.py, test_inference_masked_lm",
                [0.192619, -0.137330, 0.411980, 0.221502, -0.074227, 0.390372, 0.227560, -0.089641, 0.370147],
                1e-4,
                corner([0, 1, 2, 3, 4, 5], "hidden"),
            )
        ],
    ),
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db": (
        "all-MiniLM-L6-v2",
        [Figure(f"vector of '{text}'", MINILM, v, 1e-6, sentence(text, len(v))) for text, v in VECTORS.items()],
    ),
}


@torch.no_grad()
def compare(name, folder: Path, load) -> str:
    """The published figures of the model in `folder`, compared with those computed here, a line each; "" for a model
    that is not known. `load()` gives (model, tokenizer). `Error` if a figure differs: as the weights are the published
    ones, it is the code that must be wrong."""
    path = folder / "model.safetensors"
    if not path.exists():
        return ""
    with open(path, "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    if digest not in KNOWN:
        namesake = str(name).partition("@")[0].rpartition("/")[2]
        published = next((known for known, (called, _) in KNOWN.items() if called == namesake), None)
        return f"not the published {namesake}: sha256 {digest}, published {published}" if published else ""
    known, figures = KNOWN[digest]
    model, tokenizer = load()
    lines, wrong = [f"these are the weights published as {known}, sha256 {digest}"], False
    for figure in figures:
        found = figure.compute(model, tokenizer)
        close = all(abs(a - b) <= figure.within for a, b in zip(found, figure.published, strict=True))
        values = shown(found) if close else f"{shown(found)}, published {shown(figure.published)}"
        lines.append(f"{'as published' if close else 'OTHERWISE':12}  {figure.what}: {values} ({figure.source})")
        wrong |= not close
    text = "\n".join(lines)
    if wrong:
        raise Error(f"{text}\n{folder}: the weights are the published ones, but minift computes something else", code=1)
    return text


def shown(numbers) -> str:
    return ", ".join(f"{number:.7g}" for number in numbers[:6]) + (", …" if len(numbers) > 6 else "")
