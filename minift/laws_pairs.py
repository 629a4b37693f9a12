"""The laws of encoder-decoders, of translation and of denoising, in the manner of laws.py."""

import io
import itertools
from contextlib import redirect_stderr

import torch
from torch.nn.functional import cross_entropy

from . import data, generation, pretrained, settings, train
from .data import IGNORE
from .laws import LAWS, equal, law, padded, same
from .miniatures import BATCHES, IDS, OTHER, PAIRS, REFERENCE, Framed, saved, temporary, tiny, weights
from .tasks.denoise import Denoise
from .tasks.translate import Translate

__all__ = ["LAWS"]
FAMILIES = "bart marian t5 t5-1.1 bert2bert"
MASKED = "bart marian t5 bert2bert"  # who sees whom does not depend on T5's version
SRC, TGT = IDS, OTHER


@law(FAMILIES, "the published numerics")
def numerics(family):
    """With published weights a model gives the logits of the model that was published.
    Look at models/FAMILY.py: which activation, where norms stand, positions (rows from 2 on, sines or distances), what
    is scaled (embeddings, scores, what the head is given), the bias of the logits"""
    logits = tiny(family, "seq2seq")(SRC, TGT).flatten()
    same("logits of the target", logits[::30], torch.tensor(REFERENCE["seq2seq", family]))


@law(FAMILIES, "forward is the head of hidden")
def forward(family):
    """model(src, tgt) gives logits: model.head of model.decode of model.encode; the head is one product of a matrix.
    Look at models/FAMILY.py: forward, hidden, head, unembedding"""
    model = tiny(family, "seq2seq")
    hidden, logits = model.decode(TGT, model.encode(SRC)), model(SRC, TGT)
    equal("shape of the logits", tuple(logits.shape), (1, 4, 29))
    same("logits, by forward and step by step", logits, model.head(hidden))
    weight, bias = model.unembedding
    if family == "bert2bert":  # BERT's vocabulary stands behind a layer of its own
        hidden = model.decoder.cls.predictions(hidden)
    same("logits, by forward and by the unembedding", logits, hidden @ weight.T + (0 if bias is None else bias))


@law(MASKED, "padding is inert")
def padding(family):
    """A pair gives the same answer with any number of pads before or behind source and target.
    Look at models/FAMILY.py: positions, and who may see whom in `encode` and in `decode`, itself and across"""
    model = tiny(family, "seq2seq")
    for before, behind in (0, 3), (3, 0), (2, 1):
        (src, src_mask), (tgt, tgt_mask) = padded(SRC, before, behind), padded(TGT, behind, before)
        logits = model(src, tgt, src_mask, tgt_mask)[:, behind : behind + 4]
        same(f"logits, {before} pads before the source and {behind} behind, {behind} before the target", logits,
            model(SRC, TGT))  # fmt: skip


@law(MASKED, "a source of nothing but padding")
def nothing(family):
    """A source without a real token gives finite logits and gradients, and leaves the row beside it as it is.
    Look at models/FAMILY.py: a softmax over nothing is NaN; let padding see padding"""
    model, mask = tiny(family, "seq2seq"), torch.tensor([[True], [False]])
    logits = model(SRC.repeat(2, 1), TGT.repeat(2, 1), mask.expand(2, 6), mask.expand(2, 4))
    logits.sum().backward()
    same("logits of the row beside it", logits[:1], model(SRC, TGT))
    odd = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    equal("logits that are not finite", int((~logits.isfinite()).sum()), 0)
    equal("gradients that are not finite", odd, [])


@law(MASKED, "the target's future is unseen")
def sight(family):
    """Changing a token of the target changes nothing before it; changing one of the source changes everything.
    Look at models/FAMILY.py: the causal mask (tril, is_causal) in `decode`, none in `encode` and across"""
    model = tiny(family, "seq2seq")
    for name, masks in ("no mask", ()), ("masks", (torch.ones_like(SRC).bool(), torch.ones_like(TGT).bool())):
        right = model(SRC, TGT, *masks)
        for t in range(4):
            moved = (model(SRC, TGT + (torch.arange(4) == t), *masks) - right).abs().amax(-1)[0]  # (T,)
            noticed = (moved > 1e-5).nonzero()[:, 0].tolist()
            equal(f"token {t} of the target changed, with {name}: those that notice", noticed, list(range(t, 4)))
        for s in range(6):
            moved = (model(SRC + (torch.arange(6) == s), TGT, *masks) - right).abs().amax(-1)[0]
            noticed = (moved > 1e-6).nonzero()[:, 0].tolist()
            equal(f"token {s} of the source changed, with {name}: those that notice", noticed, [0, 1, 2, 3])


@law(MASKED, "packed pairs are strangers")
def packed(family):
    """Pairs that share a row, numbered 1, 2, … by both masks, never see each other.
    Look at models/FAMILY.py: `visible` and `across` compare the masks' numbers; positions restart with them"""
    model = tiny(family, "seq2seq")
    src, src_mask = torch.cat((SRC, OTHER), 1), torch.tensor([[1] * 6 + [2] * 4])
    tgt, tgt_mask = torch.cat((TGT, IDS[:, :3]), 1), torch.tensor([[1] * 4 + [2] * 3])
    logits = model(src, tgt, src_mask, tgt_mask)
    same("logits of the first pair, alone and packed", logits[:, :4], model(SRC, TGT))
    same("logits of the second pair, alone and packed", logits[:, 4:], model(OTHER, IDS[:, :3]))


@law(MASKED, "the caches change nothing")
def cached(family):
    """A target fed piece by piece, keys and values of earlier pieces and of the source kept, gives the same logits.
    Look at models/FAMILY.py: positions go on behind what is cached, old keys stand first, the source's are read once"""
    model = tiny(family, "seq2seq")
    for left in 0, 2:
        src, src_mask = padded(SRC, left, 0)
        memory = model.encode(src, src_mask)
        for sizes in (1, 1, 1, 1), (2, 1, 1), (1, 3):
            cache, pieces = {}, []
            for size, end in zip(sizes, itertools.accumulate(sizes), strict=True):
                hidden = model.decode(TGT[:, end - size : end], memory, src_mask, cache=cache)
                pieces.append(model.head(hidden))
            same(f"logits in pieces of {sizes}, {left} pads before the source", torch.cat(pieces, 1), model(SRC, TGT))


@law(MASKED, "batches are written as rows are")
def written(family):
    """A source is answered with the likeliest tokens, or the likeliest of four beams, whatever its neighbours, as a
    search answers that keeps nothing and reads every beginning anew.
    Look at generation.py: Context (who reads what), `pick` (which rows go on), beam_search; `decode` in
    models/FAMILY.py"""
    model, sources = tiny(family, "seq2seq"), (SRC, OTHER, IDS[:, :2])

    def search(src, beams):
        best = [(0.0, [model.start])]  # the logarithm of a text's probability, and the text
        for _ in range(6):
            longer = []
            for total, text in best:
                chances = model(src, torch.tensor([text]))[0, -1].log_softmax(-1)
                chances[text] = -torch.inf  # no token twice
                longer += [(total + chance, [*text, id]) for id, chance in enumerate(chances.tolist())]
            best = sorted(longer, reverse=True)[:beams]
        return best[0][1][1:]

    rows = [padded(src, 6 - src.shape[1], 0) for src in sources]
    src, mask = map(torch.cat, zip(*rows, strict=True))
    for beams in 1, 4:
        found = generation.generate_ids(
            model, src, mask, beams=beams, max_new_tokens=6, temperature=0.0, eos=[], no_repeat_ngram=1
        )
        equal(f"sources padded on the left, {beams} beams", found, [search(one, beams) for one in sources])


@law(FAMILIES, "saved as it was published")
def published(family):
    """Loading, then saving, gives the published file, bit for bit, and what was saved is loaded as the same model.
    Look at models/FAMILY.py: `key_map` and TIED; pretrained.py: `save` and `assign`"""
    model, right = tiny(family, "seq2seq"), weights(family, "seq2seq")
    with temporary() as folder:
        tensors = saved(model, folder)
        equal("keys that only one of the files has", sorted(tensors.keys() ^ right.keys()), [])
        for key in right:
            same(f"{key} in the file", tensors[key], right[key], tolerance=0)
        again = pretrained.load_model(folder)
    same("logits after saving and loading", again(SRC, TGT), model(SRC, TGT), tolerance=0)


@law(FAMILIES, "twenty steps of AdamW")
def twenty_steps(family):
    """Without dropout, twenty steps give the losses that transformers and torch.optim.AdamW give on the same pairs.
    Look at tasks/translate.py: what the decoder is fed, what it is to say; optim.py; train.py"""
    worker = Translate(Framed(), 24)
    options = settings.Finetune(
        lr=5e-4, weight_decay=0.5, warmup=0.0, schedule="constant", precision="fp32", log_every=1
    )
    records = []
    with redirect_stderr(io.StringIO()):  # no progress bar
        collate = lambda rows: worker.batch([PAIRS[i] for i in rows])
        train.train(tiny(family, "seq2seq"), [BATCHES] * 10, collate, worker.loss, options, log=records.append)
    losses = torch.tensor([records[i]["loss"] for i in (0, 1, 9, 19)])
    same("losses of steps 1, 2, 10 and 20", losses, torch.tensor(REFERENCE["losses", family]))


@law("translate", "fed what came before")
def fed(_):
    """To say token t the decoder is fed the start token and the t tokens before it; padding has no loss, and smoothing
    is for training alone.
    Look at tasks/translate.py: `loss` (the shift, the mask), `batch` (IGNORE behind a row's end)"""
    worker, model = Translate(Framed(), 24, smoothing=0.2), tiny("bart", "seq2seq")
    total = 0.0
    for pair in PAIRS:
        tgt = torch.tensor([[model.start, *pair["target"][:-1]]])
        total += cross_entropy(
            model(torch.tensor([pair["ids"]]), tgt)[0], torch.tensor(pair["target"]), reduction="sum"
        )
    batch = worker.batch(PAIRS)
    equal("targets", int((batch["target"] != IGNORE).sum()), sum(len(pair["target"]) for pair in PAIRS))
    loss, count = worker.loss(model, batch)
    same("the loss of all pairs, together and one by one", loss, total, tolerance=1e-4)
    equal("units of the loss", count, sum(len(pair["target"]) for pair in PAIRS))
    model.train()
    equal("smoothing changes the training loss", bool((worker.loss(model, batch)[0] - loss).abs() > 1e-3), True)


@law("denoise", "what is hidden can be put back")
def hidden(_):
    """BART is given the sentences in another order with spans hidden, and says the text; a text to learn from is
    damaged anew each time, one to measure by always alike.
    Look at tasks/denoise.py: `infill`, `damaged`, `fixed`"""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        worker = Denoise(Framed(), 24)
        windows = worker.training(data.read(["waltz bad. nymph for? quick jigs!"]))
        first, second = (worker.batch(windows) for _ in "12")
        whole = [worker.first[0], *windows[0]["ids"], worker.last[0]]
        equal("the target is the text", first["target"][0].tolist(), whole)
        equal("the same places hidden twice", torch.equal(first["src"], second["src"]), False)
        masks = int((first["src"] == worker.tokenizer.mask).sum())
        equal("nothing hidden", masks == 0, False)
        kept = [id for id in first["src"][0].tolist() if id != worker.tokenizer.mask]
        equal("tokens of the source that the text does not have", sorted(set(kept) - set(whole)), [])
    equal("to measure by: what is hidden, twice", worker.fixed(windows), worker.fixed(windows))
