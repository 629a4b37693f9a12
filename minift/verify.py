"""The laws of minift, checked on tiny models in seconds: run me after you changed the internals.

A law is a function here; its docstring says it in words, and then where to look when it is broken. The models come in
the published form, with weights by a formula, the same on every machine. The stored numbers are what transformers and
torch.optim.AdamW make of them; tests/test_verify.py derives them again. Run me: minift verify
"""

import io
import itertools
import math
import tempfile
import textwrap
import time
import traceback
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import pad

from . import adapters, files, generation, pretrained, safetensors, settings, tokenizers, train
from .errors import Error
from .tasks.classify import Classify

CONFIG = {  # what it leaves out, such as which GELU and which epsilon, has the published default
    "gpt2": {"n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 4}
    | {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0},
    "bert": {"max_position_embeddings": 24, "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
# The tensors of a published file, as weight+bias. GPT-2 stores its matrices (in, out), BERT (out, in).
GPT2 = """transformer.wte.weight:29x16 transformer.wpe.weight:24x16 transformer.h.*.ln_1:16+16
    transformer.h.*.attn.c_attn:16x48+48 transformer.h.*.attn.c_proj:16x16+16 transformer.h.*.ln_2:16+16
    transformer.h.*.mlp.c_fc:16x64+64 transformer.h.*.mlp.c_proj:64x16+16 transformer.ln_f:16+16 """
BERT = """bert.embeddings.word_embeddings.weight:29x16 bert.embeddings.position_embeddings.weight:24x16
    bert.embeddings.token_type_embeddings.weight:2x16 bert.embeddings.LayerNorm:16+16
    bert.encoder.layer.*.attention.self.query:16x16+16 bert.encoder.layer.*.attention.self.key:16x16+16
    bert.encoder.layer.*.attention.self.value:16x16+16 bert.encoder.layer.*.attention.output.dense:16x16+16
    bert.encoder.layer.*.attention.output.LayerNorm:16+16 bert.encoder.layer.*.intermediate.dense:64x16+64
    bert.encoder.layer.*.output.dense:16x64+16 bert.encoder.layer.*.output.LayerNorm:16+16 """
MLM = "cls.predictions.transform.dense:16x16+16 cls.predictions.transform.LayerNorm:16+16 cls.predictions.bias:29"
SCORE, POOLED = "score.weight:3x16", "bert.pooler.dense:16x16+16 classifier:3x16+3"
KINDS = {  # by family: kind, the name that config.json gives it, its tensors; first the one that ends in the vocabulary
    "gpt2": {"lm": ("GPT2LMHeadModel", GPT2), "classify": ("GPT2ForSequenceClassification", GPT2 + SCORE)},
    "bert": {"mlm": ("BertForMaskedLM", BERT + MLM), "classify": ("BertForSequenceClassification", BERT + POOLED)},
}
HEADS = {"gpt2": ["score.weight"], "bert": ["classifier.bias", "classifier.weight"]}  # what fine-tuning adds
IDS, OTHER = torch.tensor([[5, 17, 2, 26, 11, 8]]), torch.tensor([[23, 7, 14, 20]])
EXAMPLES = [{"ids": list(range(5 * n + 1, 5 * n + 4 + 2 * n % 7)), "target": n % 3} for n in range(5)]  # 3 to 9 tokens
BATCHES = [[0, 1, 2, 3], [4]]  # so unequal that the mean of their means is not the mean of all
REFERENCE = {  # the logits of IDS, of the language models every thirtieth; the losses of steps 1, 2, 10 and 20
    ("lm", "gpt2"): [0.031579, 0.230418, -0.036412, -0.087228, -0.032898, 0.088179],
    ("classify", "gpt2"): [-1.03315, -1.43333, -1.044165],
    ("mlm", "bert"): [0.023577, 0.119477, 0.010029, 0.036565, -0.201387, 0.078939],
    ("classify", "bert"): [-0.314137, 0.211597, -2.512387],
    ("losses", "gpt2"): [1.175656, 0.662136, 0.164017, 0.0438],
    ("losses", "bert"): [1.665348, 1.652458, 0.505565, 0.257982],
}
temporary = partial(tempfile.TemporaryDirectory, ignore_cleanup_errors=True)  # Windows keeps a file that is mapped


def weights(family: str, kind: str) -> dict[str, torch.Tensor]:
    """The tiny model's file: sin(k² / 7 + n) for element k of tensor n, so that no two rows are alike and nothing is as
    it is initialised. The embeddings are small, so that the epsilon of the norm behind them counts."""
    shapes, tensors = {}, {}
    for entry in KINDS[family][kind][1].split():
        for layer in "01" if "*" in entry else "0":
            name, size = entry.replace("*", layer).split(":")
            weight, plus, bias = size.partition("+")
            shapes |= {f"{name}.weight": weight, f"{name}.bias": bias} if plus else {name: size}
    for n, (key, size) in enumerate(shapes.items()):
        shape = [int(length) for length in size.split("x")]
        k = torch.arange(math.prod(shape), dtype=torch.float64)
        wave = torch.sin(k * k / 7 + n).float().view(shape)
        matrix = len(shape) == 2 and not key.endswith(("wte.weight", "wpe.weight", "embeddings.weight"))
        tensors[key] = wave * (0.5 if matrix else 0.1) + (len(shape) == 1 and key.endswith("weight"))
    return tensors


def publish(folder, family: str, kind: str, **more):
    """Write the tiny model's folder as Hugging Face would, without dropout."""
    config = {"model_type": family, "architectures": [KINDS[family][kind][0]], "vocab_size": 29, "pad_token_id": 0}
    config |= CONFIG[family] | more
    if kind == "classify":
        config["id2label"] = {"0": "blue", "1": "green", "2": "red"}
    safetensors.save(Path(folder) / "model.safetensors", weights(family, kind))
    files.write_json(Path(folder) / "config.json", config)


def tiny(family: str, kind: str, **more):
    with temporary() as folder:
        publish(folder, family, kind, **more)
        return pretrained.load_model(folder)


def saved(model, folder) -> dict[str, torch.Tensor]:
    """The file that `minift.save` writes."""
    pretrained.save(model, None, folder)
    return {key: tensor.clone() for key, tensor in safetensors.load(Path(folder) / "model.safetensors").items()}


def learn(model, batches, epochs: int, loss=None, accumulate=1) -> tuple[torch.Tensor, torch.Tensor]:
    """Train on EXAMPLES; the losses of the steps, and the lengths of their gradients."""
    worker = Classify(type("Tokenizer", (), {"pad": 0}), model.config.labels)
    options = settings.Finetune(
        lr=5e-4, weight_decay=0.5, warmup=0.0, schedule="constant", precision="fp32", log_every=1, accumulate=accumulate
    )
    collate, records = lambda rows: worker.batch([EXAMPLES[i] for i in rows]), []
    with redirect_stderr(io.StringIO()):  # no progress bar
        train.train(model, [batches] * epochs, collate, loss or worker.loss, options, log=records.append)
    return torch.tensor([r["loss"] for r in records]), torch.tensor([r["norm"] for r in records])


LAWS = []  # (family, name, function)


class Broken(Exception):
    """What shows that a law does not hold."""


def law(families: str, name: str):
    return lambda check: LAWS.extend((family, name, check) for family in families.split()) or check


def same(what: str, found, right, tolerance=1e-5):
    if found.shape != right.shape:
        raise Broken(f"{what}: shape {tuple(found.shape)}, where {tuple(right.shape)} is right")
    difference = float((found - right).detach().abs().max())
    if not difference <= tolerance:  # so that NaN is a difference
        limit = f"rounding stays below {tolerance:g}" if tolerance else "no bit may differ"
        raise Broken(f"{what}: off by {difference:.2g}; {limit}")


def equal(what: str, found, right):
    if found != right:
        raise Broken(f"{what}: {found!r}, where {right!r} is right")


def padded(ids, left: int, right: int):
    """The row with so many pads, and the mask that says so."""
    return pad(ids, (left, right), value=3), pad(torch.ones_like(ids), (left, right)).bool()


# -- the laws ---------------------------------------------------------------------------------------------------------


@law("gpt2 bert", "the published numerics")
def numerics(family):
    """With published weights a model gives the logits of the model that was published.
    Look at models/FAMILY.py: which GELU, which epsilon, scores by the root of hs, where norms stand, what is tied"""
    for kind in KINDS[family]:
        more = {"segments": torch.tensor([[0, 0, 0, 1, 1, 1]])} if family == "bert" else {}
        logits = tiny(family, kind)(IDS, **more).flatten()
        same(f"logits of {kind}", logits[:: 1 if kind == "classify" else 30], torch.tensor(REFERENCE[kind, family]))


@law("gpt2 bert", "forward is the head of hidden")
def forward(family):
    """model(ids) gives logits, never a loss: model.head of model.hidden, or in a classifier of model.pooled.
    Look at models/FAMILY.py: forward, hidden, pooled, head"""
    for kind in KINDS[family]:
        model = tiny(family, kind)
        shape, below = ((1, 3), model.pooled) if kind == "classify" else ((1, 6, 29), model.hidden)
        equal(f"shape of the logits of {kind}", tuple(model(IDS).shape), shape)
        same(f"logits of {kind}, by forward and by head", model(IDS), model.head(below(IDS)))


@law("gpt2 bert", "padding is inert")
def padding(family):
    """A text gives the same answer with any number of pads before or behind it.
    Look at models/FAMILY.py: positions, attention, and in `pooled` the last (GPT-2) or first (BERT) real token"""
    for kind in KINDS[family]:
        model = tiny(family, kind)
        for left, right in (0, 0), (0, 3), (3, 0), (2, 1):
            logits = model(*padded(IDS, left, right))
            logits = logits if kind == "classify" else logits[:, left : left + 6]
            same(f"logits of {kind}, {left} pads before the text and {right} behind", logits, model(IDS))


@law("gpt2 bert", "a row of nothing but padding")
def nothing(family):
    """A row without a real token gives finite logits and gradients, and leaves the row beside it as it is.
    Look at models/FAMILY.py: a softmax over nothing is NaN; let padding see padding"""
    for kind in KINDS[family]:
        model = tiny(family, kind)
        logits = model(IDS.repeat(2, 1), torch.tensor([[True], [False]]).expand(2, 6))
        logits.sum().backward()
        same(f"logits of the row beside it, {kind}", logits[:1], model(IDS))
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        odd = [name for name, t in {"logits": logits, **gradients}.items() if not t.isfinite().all()]
        equal(f"{kind}: logits or gradients that are not finite", odd, [])


@law("bert", "every token sees every token")
@law("gpt2", "the future is invisible")
def sight(family):
    """Changing a token changes what is said at it and after it; in GPT-2 nothing before it, in BERT all of that, too.
    Look at models/FAMILY.py: the causal mask (tril, is_causal), which only GPT-2 has"""
    model = tiny(family, next(iter(KINDS[family])))
    for name, mask in ("no mask", None), ("a mask", torch.ones_like(IDS).bool()):
        for t in range(6):
            moved = (model(IDS + (torch.arange(6) == t), mask) - model(IDS, mask)).abs().amax(-1)[0]  # (T,)
            found, right = (moved > 1e-5).nonzero()[:, 0].tolist(), list(range(t if family == "gpt2" else 0, 6))
            equal(f"token {t} changed, with {name}: the tokens that notice", found, right)


@law("gpt2 bert", "packed texts are strangers")
def packed(family):
    """Texts that share a row, numbered 1, 2, … by the mask, never see each other, and each begins at position 0.
    Look at models/FAMILY.py: `visible` compares the mask's numbers; positions restart where the number changes"""
    model = tiny(family, next(iter(KINDS[family])))
    row, mask = torch.cat((IDS, OTHER, IDS[:, :2]), 1), torch.tensor([[1] * 6 + [2] * 4 + [0] * 2])
    logits, first, second = (model(row + (torch.arange(12) == t), mask) for t in (-1, 1, 7))  # another token at t
    same("the first text changed: logits of the second", first[:, 6:10], logits[:, 6:10])
    same("the second text changed: logits of the first", second[:, :6], logits[:, :6])
    same("logits of the first text, alone and packed", logits[:, :6], model(IDS))
    same("logits of the second text, alone and packed", logits[:, 6:10], model(OTHER))


@law("gpt2", "the cache changes nothing")
def cached(family):
    """A text fed piece by piece, the keys and values of earlier pieces kept, gives the logits of the whole.
    Look at models/gpt2.py: behind S cached tokens positions go on at S, the mask covers S + T, old keys stand first"""
    model = tiny(family, "lm")
    for left in 0, 2:
        ids, mask = padded(IDS, left, 0)
        for sizes in (left + 4, 1, 1), (left + 1, 3, 2):
            cache, pieces = {}, []
            for size, end in zip(sizes, itertools.accumulate(sizes), strict=True):
                seen = mask[:, :end] if left else None
                pieces.append(model.head(model.hidden(ids[:, end - size : end], seen, cache)))
            same(f"logits in pieces of {sizes}, {left} of them pads", torch.cat(pieces, 1)[:, left:], model(IDS))


@law("gpt2", "a batch continues as its rows do")
def greedy(family):
    """A prompt goes on with the likeliest token each time, whatever its neighbours; the end token ends its row alone.
    Look at generation.py: each row's own last token, the mask that grows, `done`; models/gpt2.py: the cache"""
    model, prompts, right = tiny(family, "lm"), (IDS, OTHER, IDS[:, :1]), []
    for ids in prompts:
        for _ in range(8):
            ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), 1)
        right.append(ids[0, -8:].tolist())
    eos = right[1][1]  # it ends two rows, at different steps
    ended = [row[: row.index(eos)] if eos in row else row for row in right]
    for side, turn in ("left", 1), ("right", -1):
        rows = [padded(ids, *(6 - ids.shape[1], 0)[::turn]) for ids in prompts]
        ids, mask = map(torch.cat, zip(*rows, strict=True))
        for end, texts in (None, right), (eos, ended):
            found = generation.generate_ids(model, ids, mask, max_new_tokens=8, temperature=0.0, eos=end)
            equal(f"prompts padded on the {side}, end token {end}", found, texts)


@law("gpt2 bert", "saved as it was published")
def published(family):
    """Loading, then saving, gives the published file, bit for bit: GPT-2's matrices (in, out), a tied head once; and
    what was saved is loaded as the same model.
    Look at models/FAMILY.py: `key_map` (which keys, which transposed) and TIED; pretrained.py: `save` and `assign`"""
    for kind in KINDS[family]:
        model, right = tiny(family, kind), weights(family, kind)
        with temporary() as folder:
            tensors = saved(model, folder)
            equal(f"{kind}: keys that only one of the files has", sorted(tensors.keys() ^ right.keys()), [])
            for key in right:
                same(f"{kind}: {key} in the file", tensors[key], right[key], tolerance=0)
            again = pretrained.load_model(folder)
        same(f"{kind}: logits after saving and loading", again(IDS), model(IDS), tolerance=0)
        equal(f"{kind}: configuration", again.config, model.config)


@law("gpt2 bert", "dropout in training alone")
def dropout(family):
    """Each dropout acts in training, where something learns; never in evaluation, nor in what is frozen.
    Look at models/FAMILY.py: dropout_p is 0 unless self.training; adapters.py: `train_mode`; train.py: its end"""
    with torch.random.fork_rng():  # chance drawn here is not missing elsewhere
        for name in (name for name in CONFIG[family] if "drop" in name):
            model = tiny(family, "classify", **{name: 0.5})
            same(f"{name}: two passes in evaluation", model(IDS), model(IDS), tolerance=0)
            adapters.choose(model, "head")
            adapters.train_mode(model)
            same(f"{name}: two passes, all but the head frozen", model.pooled(IDS), model.pooled(IDS), tolerance=0)
            adapters.choose(model, "all")
            adapters.train_mode(model)
            equal(f"{name}: two passes in training", torch.equal(model(IDS), model(IDS)), False)
            learn(model, BATCHES, 1)
            same(f"{name}: two passes after training", model(IDS), model(IDS), tolerance=0)


@law("gpt2 bert", "accumulation is one large batch")
def accumulation(family):
    """A step over batches is the step over all their rows at once; a mean of means would favour a small batch's rows.
    Look at tasks/classify.py: `loss` gives a sum and its units; train.py: gradients are divided once, by all units"""
    losses, norms = learn(tiny(family, "classify"), BATCHES, 3, accumulate=2)
    at_once, their_norms = learn(tiny(family, "classify"), [[0, 1, 2, 3, 4]], 3)
    same("batches of 4 and 1 rows against one of 5: losses of three steps", losses, at_once)
    same("batches of 4 and 1 rows against one of 5: lengths of the gradients", norms, their_norms, tolerance=1e-4)


@law("gpt2 bert", "twenty steps of AdamW")
def twenty_steps(family):
    """Without dropout, twenty steps give the losses that transformers and torch.optim.AdamW give on the same batches.
    Look at optim.py: no decay on biases and norms; train.py: clip, step, zero_grad; tasks/classify.py: the loss"""
    losses = learn(tiny(family, "classify"), BATCHES, 10)[0][[0, 1, 9, 19]]
    same("losses of steps 1, 2, 10 and 20", losses, torch.tensor(REFERENCE["losses", family]))


@law("gpt2 bert", "--tune head trains the head")
def head_alone(family):
    """With --tune head the head learns, and every weight of the backbone keeps every bit.
    Look at adapters.py: `choose`; models/FAMILY.py: `new`; optim.py: AdamW decays whatever it is given"""
    model = tiny(family, "classify")
    adapters.choose(model, "head")
    with temporary() as folder:
        before = saved(model, folder)
        learn(model, BATCHES, 2)
        moved = [key for key, tensor in saved(model, folder).items() if not torch.equal(tensor, before[key])]
    equal("weights that changed", sorted(moved), HEADS[family])


@law("train", "no step after a NaN")
def not_finite(_):
    """Where the loss or a gradient is not finite, training stops with an error, and the weights stay as they were.
    Look at train.py: what it does between backward() and optimizer.step()"""
    for what, poison in ("loss", lambda p: p.sum() + math.inf), ("gradient", lambda p: (p * 0).abs().sqrt().sum()):
        model = tiny("gpt2", "classify")
        weight = next(model.parameters())
        before = weight.detach().clone()
        try:
            learn(model, BATCHES, 1, loss=lambda model, batch: (poison(weight), 1))  # noqa: B023
        except Error:
            same(f"weights after a {what} that is not finite", weight, before, tolerance=0)
        else:
            raise Broken(f"the {what} is not finite, and training goes on")


@law("bpe", "byte pairs and back")
def bpe(_):
    """Bytes are joined in the order of the merges, decoding gives the text back, "<|endoftext|>" in a text is text.
    Look at tokenizers/bpe.py: bytes, not characters; a text has no special tokens"""
    plain = [chr(byte) for byte in (*range(33, 127), *range(161, 173), *range(174, 256))]  # they stand for themselves
    merges = ["l o", "lo w", "e r", "Ġ low"]
    tokens = plain + [chr(i) for i in range(256, 512 - len(plain))] + ["lo", "low", "er", "Ġlow", "<|endoftext|>"]
    with temporary() as folder:
        files.write_json(Path(folder) / "vocab.json", {token: id for id, token in enumerate(tokens)})
        files.write_text(Path(folder) / "merges.txt", "\n".join(merges))
        tokenizer = tokenizers.load(folder)
    equal("ids of 'low lower'", tokenizer.encode("low lower"), [tokens.index(token) for token in ("low", "Ġlow", "er")])
    text = "low <|endoftext|>\n  lower é 😀"
    equal("a text encoded and decoded", tokenizer.decode(tokenizer.encode(text)), text)
    equal("the end token is in the ids of a text", tokenizer.eos in tokenizer.encode(text), False)


@law("wordpiece", "word pieces and back")
def wordpiece(_):
    """Words are the longest pieces from their left, or [UNK]; decoding gives them back; "[SEP]" in a text is text.
    Look at tokenizers/wordpiece.py: lower case, no accents, the longest piece first; a text has no special tokens"""
    vocab = "[PAD] [UNK] [CLS] [SEP] [MASK] low lo ##w ##er ##est hello , ! [ ] sep"
    tokens = vocab.split()
    with temporary() as folder:
        files.write_text(Path(folder) / "vocab.txt", vocab.replace(" ", "\n"))
        tokenizer = tokenizers.load(folder)
    texts = {("Héllo, LOWER lowx!",): "[CLS] hello , low ##er [UNK] ! [SEP]", ("[SEP]",): "[CLS] [ sep ] [SEP]"}
    for text, pieces in (texts | {("low", "hello!"): "[CLS] low [SEP] hello ! [SEP]"}).items():
        equal(f"ids of {text}", tokenizer.encode(*text), [tokens.index(piece) for piece in pieces.split()])
    equal("segments of a pair", tokenizer.segments(tokenizer.encode("low", "hello!")), [0, 0, 0, 1, 1, 1])
    equal("a text encoded and decoded", tokenizer.decode(tokenizer.encode("hello, lowest")[1:-1]), "hello, lowest")


def fault(check, family: str) -> str | None:
    """What shows that the law is broken, or None. A check that crashes shows it, too."""
    try:
        check(family)
    except Broken as e:
        return str(e)
    except Exception as e:
        here = Path(__file__).parent
        frames = [f for f in traceback.extract_tb(e.__traceback__) if Path(f.filename).is_relative_to(here)]
        return f"{type(e).__name__}: {e} ({Path(frames[-1].filename).relative_to(here)}, line {frames[-1].lineno})"


def main():
    """Print a line a law; raise `Error` with the names of those that are broken."""
    broken, started, threads = [], time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)  # on tensors so small, threads wait for each other
    for family, name, check in LAWS:
        shown = fault(check, family)
        print(f"{family:9}  {name + ' ':.<34} {'BROKEN' if shown else 'holds'}", flush=True)
        if shown:
            broken.append(f"{family}: {name}")
            words, look = check.__doc__.replace("FAMILY", family).split("Look at ")
            for label, text in ("the law", words), ("shown by", shown), ("look at", look):
                text = textwrap.shorten(text, 500, placeholder=" …")
                print(textwrap.fill(text, 100, initial_indent=f"    {label:10}", subsequent_indent=" " * 14))
    torch.set_num_threads(threads)
    if broken:
        raise Error(f"{len(broken)} of {len(LAWS)} laws are broken: {'; '.join(broken)}", code=1)
    print(f"all {len(LAWS)} laws hold ({time.perf_counter() - started:.1f} s)")
