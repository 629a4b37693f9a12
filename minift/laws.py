"""The laws of minift: models of one stack, training, tasks, tokenizers. Those of two stacks are in laws_pairs.py.

A law is a function here; its docstring says it in words, and then where to look when it is broken. The models are
those of miniatures.py. verify.py checks them all: minift verify
"""

import io
import itertools
import math
from contextlib import redirect_stderr
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, pad

from . import adapters, data, files, generation, lora, pretrained, settings, tokenizers, train
from .data import IGNORE
from .errors import Error
from .miniatures import (
    BATCHES,
    CONFIG,
    EXAMPLES,
    HEADS,
    IDS,
    KINDS,
    OTHER,
    REFERENCE,
    Framed,
    Letters,
    saved,
    temporary,
    tiny,
    weights,
    windows,
)
from .tasks.classify import Classify
from .tasks.lm import LM
from .tasks.mlm import MLM


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


CAUSAL = "gpt2 gpt_neo opt opt-350m"  # the families that read from left to right, ...
BOTH_WAYS = "bert roberta distilbert"  # ... those that see all, ...
ATTENTIVE = f"{CAUSAL} {BOTH_WAYS}"  # ... both, ...
ALL = f"{ATTENTIVE} kim_cnn"  # ... and what has filters instead
LAWS = []  # (family, name, function), in the order in which they are checked


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


@law(ATTENTIVE, "the published numerics")
def numerics(family):
    """With published weights a model gives the logits of the model that was published.
    Look at models/FAMILY.py: which GELU, which epsilon, scores by the root of hs, where norms stand, what is tied"""
    for kind in KINDS[family]:
        more = {"segments": torch.tensor([[0, 0, 0, 1, 1, 1]])} if family == "bert" else {}
        logits = tiny(family, kind)(IDS, **more).flatten()
        same(f"logits of {kind}", logits[:: 1 if kind == "classify" else 30], torch.tensor(REFERENCE[kind, family]))


@law(ALL, "forward is the head of hidden")
def forward(family):
    """model(ids) gives logits, never a loss: model.head of model.hidden, or in a classifier of model.pooled.
    Look at models/FAMILY.py: forward, hidden, pooled, head"""
    for kind in KINDS[family]:
        model = tiny(family, kind)
        shape, below = ((1, 3), model.pooled) if kind == "classify" else ((1, 6, 29), model.hidden)
        equal(f"shape of the logits of {kind}", tuple(model(IDS).shape), shape)
        same(f"logits of {kind}, by forward and by head", model(IDS), model.head(below(IDS)))


@law(ALL, "padding is inert")
def padding(family):
    """A text gives the same answer with any number of pads before or behind it.
    Look at models/FAMILY.py: positions, attention, and in `pooled` the last real token, or (BERT) the first"""
    for kind in KINDS[family]:
        model = tiny(family, kind)
        for left, right in (0, 0), (0, 3), (3, 0), (2, 1):
            logits = model(*padded(IDS, left, right))
            logits = logits if kind == "classify" else logits[:, left : left + 6]
            same(f"logits of {kind}, {left} pads before the text and {right} behind", logits, model(IDS))


@law(ALL, "a row of nothing but padding")
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


@law(BOTH_WAYS, "every token sees every token")
@law(CAUSAL, "the future is invisible")
def sight(family):
    """Changing a token changes what is said at it and after it; in a BERT also before it, in others nothing there.
    Look at models/FAMILY.py: the causal mask (tril, is_causal), which a BERT has not"""
    model = tiny(family, next(iter(KINDS[family])))
    for name, mask in ("no mask", None), ("a mask", torch.ones_like(IDS).bool()):
        for t in range(6):
            moved = (model(IDS + (torch.arange(6) == t), mask) - model(IDS, mask)).abs().amax(-1)[0]  # (T,)
            found, right = (moved > 1e-5).nonzero()[:, 0].tolist(), list(range(t if family in CAUSAL.split() else 0, 6))
            equal(f"token {t} changed, with {name}: the tokens that notice", found, right)


@law(ATTENTIVE, "packed texts are strangers")
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


@law(CAUSAL, "the cache changes nothing")
def cached(family):
    """A text fed piece by piece, the keys and values of earlier pieces kept, gives the logits of the whole.
    Look at models/FAMILY.py: behind S cached tokens positions go on at S, masks cover S + T, old keys stand first"""
    model = tiny(family, "lm")
    for left in 0, 2:
        ids, mask = padded(IDS, left, 0)
        for sizes in (left + 4, 1, 1), (left + 1, 3, 2):
            cache, pieces = {}, []
            for size, end in zip(sizes, itertools.accumulate(sizes), strict=True):
                seen = mask[:, :end] if left else None
                pieces.append(model.head(model.hidden(ids[:, end - size : end], seen, cache)))
            same(f"logits in pieces of {sizes}, {left} of them pads", torch.cat(pieces, 1)[:, left:], model(IDS))


@law(CAUSAL, "a batch continues as its rows do")
def greedy(family):
    """A prompt goes on with the likeliest token each time, whatever its neighbours; the end token ends its row alone.
    Look at generation.py: each row's own last token, the mask that grows, `going`; models/FAMILY.py: the cache"""
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


@law(ALL, "saved as it was published")
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


@law(ALL, "dropout in training alone")
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
            first, *others = (model(IDS) for _ in range(9))  # which two may chance to be alike
            equal(f"{name}: passes in training all alike", all(torch.equal(first, one) for one in others), False)
            learn(model, BATCHES, 1)
            same(f"{name}: two passes after training", model(IDS), model(IDS), tolerance=0)


@law(ALL, "accumulation is one large batch")
def accumulation(family):
    """A step over batches is the step over all their rows at once; a mean of means would favour a small batch's rows.
    Look at tasks/classify.py: `loss` gives a sum and its units; train.py: gradients are divided once, by all units"""
    losses, norms = learn(tiny(family, "classify"), BATCHES, 3, accumulate=2)
    at_once, their_norms = learn(tiny(family, "classify"), [[0, 1, 2, 3, 4]], 3)
    same("batches of 4 and 1 rows against one of 5: losses of three steps", losses, at_once)
    same("batches of 4 and 1 rows against one of 5: lengths of the gradients", norms, their_norms, tolerance=1e-4)


@law(ATTENTIVE, "twenty steps of AdamW")
def twenty_steps(family):
    """Without dropout, twenty steps give the losses that transformers and torch.optim.AdamW give on the same batches.
    Look at optim.py: no decay on biases and norms; train.py: clip, step, zero_grad; tasks/classify.py: the loss"""
    losses = learn(tiny(family, "classify"), BATCHES, 10)[0][[0, 1, 9, 19]]
    same("losses of steps 1, 2, 10 and 20", losses, torch.tensor(REFERENCE["losses", family]))


@law(ALL, "--tune head trains the head")
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


@law("gpt2 bert", "LoRA beside what is frozen")
def beside(family):
    """With --tune lora A, B and the head learn, and all else keeps every bit. Made part of the weights, A and B say the
    same; taken out again, they leave no trace.
    Look at lora.py: `forward` and `merged` (the same scale), `add` (what is frozen), `merge`; adapters.py: `choose`"""
    model, plain = tiny(family, "classify"), tiny(family, "classify")
    with torch.random.fork_rng():  # A is drawn
        adapters.choose(model, "lora")
    same("logits before training", model(IDS), plain(IDS))
    learn(model, BATCHES, 2)
    logits = model(IDS)
    lora.merge(model)
    same("logits after training, LoRA made part of the weights", model(IDS), logits)
    lora.unmerge(model)
    same("logits after training, LoRA taken out again", model(IDS), logits, tolerance=0)
    moved = [name for name, p in plain.named_parameters() if not torch.equal(p, model.get_parameter(name))]
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


@law("lm", "every token is predicted once")
def once(_):
    """Each token of a document is predicted once, from what stands before it: in training from its own window, in
    measuring from at least half a window where the document has so much. Its neighbours in a row change nothing.
    Look at tasks/lm.py: `rows` (where a window starts, what its targets are), `packed` (a number for each window)"""
    worker, model, documents = LM(Letters(), 8), tiny("gpt2", "lm"), ["qualm", "no", "waltzbadnymphforquickjigsvex"]
    table = data.read(documents)
    for name, rows, least in ("training", worker.training(table), 1), ("measuring", worker.examples(table), 4):
        found, total = [], 0.0
        for ids, target in windows(rows):
            total += cross_entropy(
                model(torch.tensor([ids]))[0], torch.tensor(target), ignore_index=IGNORE, reduction="sum"
            )
            shown = [i for i, wanted in enumerate(target) if wanted != IGNORE]
            found += [target[i] for i in shown]
            follows = [target[i] for i in shown[:-1]] == [ids[i + 1] for i in shown[:-1]]
            equal(f"{name}, window {ids}: the targets are the tokens that follow", follows, True)
            equal(f"{name}, window {ids}: documents that begin inside it", ids[1:].count(4), 0)
            if ids[0] != 4:
                equal(f"{name}, window {ids}: tokens before its first target", max(shown[0] + 1, least), shown[0] + 1)
        right = [token for text in documents for token in (*worker.tokenizer.encode(text), 4)]
        equal(f"{name}: the tokens predicted", sorted(found), sorted(right))
        batch = worker.batch(rows)
        same(f"{name}: the loss of all rows, packed and alone", worker.loss(model, batch)[0], total, tolerance=1e-4)


@law("mlm", "three ways to hide a word")
def hidden(_):
    """Of the words 15 % are to be told, others each time: 80 % of these become [MASK], 10 % any token, 10 % stay.
    Special tokens are never among them. What a model is measured on is hidden once and for all. The loss counts the
    hidden words and no others.
    Look at tasks/mlm.py: `hide` (draw, target, what replaces an id), `hidden` (a generator of its own)"""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        worker = MLM(Framed(), 24)
        ids = torch.randint(5, 29, (200, 100))
        ids[:, :3] = torch.tensor([0, 1, 2])
        given, target = worker.hide(ids)
        chosen = target != IGNORE
        equal("special tokens among the hidden", chosen[:, :3].any().item(), False)
        equal("targets that are not the word itself", (target != ids)[chosen].any().item(), False)
        equal("words changed, though not hidden", (given != ids)[~chosen].any().item(), False)
        masked, kept = (given == worker.tokenizer.mask) & chosen, (given == ids) & chosen
        shares = {"hidden": (chosen[:, 3:], 0.15), "[MASK]": (masked[chosen], 0.8), "kept": (kept[chosen], 0.1)}
        for name, (places, share) in shares.items():
            same(f"share of {name}", places.float().mean(), torch.tensor(share), tolerance=0.03)
        rows, table = worker.training(data.read(["waltzbadnymph", "forquickjigs"])), data.read(["vexedquizzes"])
        first, second = (worker.batch(rows) for _ in "12")
        equal("the same words hidden twice", torch.equal(first["target"], second["target"]), False)
        equal("to measure on: what is hidden, twice", worker.examples(table), worker.examples(table))
    model, places = tiny("bert", "mlm"), first["target"] != IGNORE
    right = cross_entropy(model(first["ids"], first["mask"])[places], first["target"][places], reduction="sum")
    same("the loss of the hidden words", worker.loss(model, first)[0], right)


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
