"""What every encoder-decoder must do, said once for test_seq2seq.py, test_t5.py and test_bert2bert.py.

A `model` has a vocabulary of 60 tokens or more and takes texts of 26; `atol` is what rounding may make of its logits.
"""

import copy

import pytest
import torch

from minift.data import IGNORE


def some(*shape):
    return torch.randint(3, 59, shape)


@torch.no_grad()
def padding_is_inert(model, atol):
    src, tgt = some(1, 9), some(1, 6)
    alone = model(src, tgt)[0]
    for left, right, before, after in (3, 0, 0, 2), (0, 4, 5, 0), (2, 2, 3, 3), (0, 0, 0, 0):
        pads = lambda ids, a, b: torch.nn.functional.pad(ids, (a, b), value=7)
        masks = [pads(torch.ones_like(x), a, b) * 0 for x, a, b in ((src, left, right), (tgt, before, after))]
        masks[0][:, left : left + 9], masks[1][:, before : before + 6] = 1, 1
        for kind in (torch.long, torch.bool):
            found = model(pads(src, left, right), pads(tgt, before, after), *(mask.to(kind) for mask in masks))
            torch.testing.assert_close(found[0, before : before + 6], alone, rtol=0, atol=atol)


@torch.no_grad()
def packed_pairs_do_not_meet(model, atol):
    src, tgt = some(1, 12), some(1, 11)
    packed = model(src, tgt, torch.tensor([[1] * 5 + [2] * 7]), torch.tensor([[1] * 8 + [2] * 3]))
    apart = model(src[:, :5], tgt[:, :8]), model(src[:, 5:], tgt[:, 8:])
    torch.testing.assert_close(packed, torch.cat(apart, 1), rtol=0, atol=atol)


@torch.no_grad()
def the_future_is_invisible_and_the_source_is_not(model):
    src, tgt = some(2, 9), some(2, 8)
    said = model(src, tgt)
    for text, place, noticed in (tgt, 5, [5, 6, 7]), (src, 8, list(range(8))):
        other = text.clone()
        other[:, place] = (other[:, place] - 2) % 57 + 3
        changed = (model(*((src, other) if text is tgt else (other, tgt))) != said).any(-1).any(0)
        assert changed.nonzero()[:, 0].tolist() == noticed


@torch.no_grad()
def a_cache_changes_nothing(model, pieces, masked, atol):
    """A target fed in pieces of these sizes; returns the cache. `masked`: ragged, and targets padded on the left, as
    prompts are."""
    T = sum(pieces)
    src, tgt, masks = some(3, 9), some(3, T), (None, None)
    if masked:
        masks = torch.arange(9) < torch.tensor([[9], [4], [1]]), torch.arange(T) >= torch.tensor([[0], [2], [0]])
    expected = model(src, tgt, *masks)
    memory, cache, found, done = model.encode(src, masks[0]), {}, [], 0
    for size in pieces:
        seen = None if masks[1] is None else masks[1][:, : done + size]
        found.append(model.head(model.decode(tgt[:, done : done + size], memory, masks[0], seen, cache)))
        done += size
    real = slice(None) if masks[1] is None else masks[1]
    torch.testing.assert_close(torch.cat(found, 1)[real], expected[real], rtol=0, atol=atol)
    return cache


def an_empty_row_is_finite(model):
    """A source, a target, or both without a token: logits and gradients."""
    src, tgt, empty = some(2, 5), some(2, 4), torch.tensor([[True], [False]])
    for masks in (empty.expand(2, 5),), (empty.expand(2, 5), empty.expand(2, 4)), (None, empty.expand(2, 4)):
        model = copy.deepcopy(model).train()
        out = model(src, tgt, *masks)
        out.sum().backward()
        assert out.isfinite().all()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def without_dropout(model):
    for module in model.modules():
        for what in ("dropout", "attention_dropout", "activation_dropout", "p"):
            if isinstance(getattr(module, what, None), float):
                setattr(module, what, 0.0)
    return model


def recomputing_gives_the_same_gradients(model, idle=0):
    """And keeps less meanwhile. `idle`: how many parameters the logits do not depend on."""
    grads, kept, (src, tgt) = [], [], (some(2, 5) for _ in "12")
    for recompute in (False, True):
        pupil = without_dropout(copy.deepcopy(model)).train()
        pupil.recompute, saved = recompute, []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            loss = pupil(src, tgt).square().sum()
        loss.backward()
        kept.append(len(saved))
        grads.append([p.grad for p in pupil.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert len(grads[0]) == len([*model.parameters()]) - idle
    assert kept[0] - kept[1] > 20 * len(model.blocks), kept


def twenty_steps_are_those_of_transformers(theirs, ours, pad, dtype, most):
    """Law 8: the same batches, dropout off, AdamW. Returns the trained weights (theirs, ours) by their names."""
    theirs, ours = (without_dropout(copy.deepcopy(model)).train().to(dtype) for model in (theirs, ours))
    optimizers, losses = [torch.optim.AdamW(model.parameters(), lr=3e-4) for model in (theirs, ours)], [[], []]
    for step in range(20):
        torch.manual_seed(step % 2)
        masks = [torch.arange(12) < torch.randint(3, 12, (4, 1)) for _ in range(2)]
        src, target = (torch.where(mask, torch.randint(6, 59, (4, 12)), pad) for mask in masks)
        target = target.masked_fill(~masks[1], IGNORE)
        fed = torch.cat((torch.full((4, 1), ours.start), target[:, :-1].masked_fill(~masks[1][:, :-1], pad)), 1)
        out = theirs(input_ids=src, attention_mask=masks[0].long(), labels=target)
        said = ours(src, fed, masks[0], masks[1])
        loss = torch.nn.functional.cross_entropy(said.flatten(0, 1), target.flatten())
        for i, value in enumerate((out.loss, loss)):
            optimizers[i].zero_grad()
            value.backward()
            optimizers[i].step()
            losses[i].append(value.item())
    assert losses[0] == pytest.approx(losses[1], abs=most) and losses[0][-1] < losses[0][0]
    return theirs.state_dict(), ours.state_dict()
