"""An encoder-decoder made of two BERTs: the logits, files, texts and training of transformers; names, tokenizers, rates.
Run me: pytest tests/test_bert2bert.py; a published shape too: pytest -m "long or not long" tests/test_bert2bert.py
"""

import copy
import json
import random

import pytest
import tiny
import torch
from transformers import AutoTokenizer, BertConfig, EncoderDecoderConfig, EncoderDecoderModel
from transformers.initialization import no_init_weights

import minift
from minift import cli, generation, metrics, optim, safetensors, settings, train
from minift.data import IGNORE
from minift.errors import Error
from minift.models import bert
from minift.tasks.translate import Translate

torch.set_num_threads(1)

CLS, SEP, PAD = 2, 3, 0  # of the decoder


def side(width, depth, heads, inner, vocab_size=61, longest=24, **more):
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": inner}
    return BertConfig(vocab_size=vocab_size, max_position_embeddings=longest, **sizes, **more)


def joined(encoder, decoder):
    ends = {"decoder_start_token_id": CLS, "pad_token_id": PAD}
    return EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **ends)


ODD = {  # small, with what a config.json may say
    "alike": lambda: joined(side(32, 2, 4, 64), side(32, 2, 4, 64)),
    "the sides differ in all": lambda: joined(
        side(24, 3, 2, 40, 67, 26, hidden_act="relu", layer_norm_eps=1e-5, pad_token_id=5),
        side(36, 1, 3, 52, 61, 24, hidden_act="gelu_new", layer_norm_eps=1e-3, type_vocab_size=1),
    ),
    "the head is untied": lambda: joined(side(32, 1, 4, 64), side(32, 2, 2, 48, tie_word_embeddings=False)),
}
PUBLISHED = {"bert-medium twice": lambda: joined(*(side(512, 8, 8, 2048, 30522, 512) for _ in "12"))}
odd = pytest.mark.parametrize("name", ODD)


def reference(config):
    """A model of transformers no parameter of which has the value that it would start with."""
    torch.manual_seed(0)
    with no_init_weights():
        model = EncoderDecoderModel(config).eval()
    model.decoder.tie_weights()
    with torch.no_grad():
        for name, p in model.named_parameters():
            spread = 0.1 if "embeddings." in name and p.ndim == 2 else 3 * p.numel() ** -0.25
            p.uniform_(-spread, spread)
            if name.endswith("LayerNorm.weight"):
                p += 1
    return model


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """(a model of transformers, ours from its folder) by the name of the configuration"""
    made = {}

    def pair(name):
        if name not in made:
            theirs, folder = reference(ODD[name]()), tmp_path_factory.mktemp("model")
            theirs.save_pretrained(folder)
            made[name] = theirs, minift.load_model(folder)
        return made[name]

    return pair


def batch(longest=24):
    """Sources of 24, 7 and 1 tokens, targets of 1, 9 and 20: ids right-padded, and masks."""
    torch.manual_seed(1)
    masks = [torch.arange(longest) < torch.tensor(lengths)[:, None] for lengths in ([24, 7, 1], [1, 9, 20])]
    src, tgt = (torch.randint(6, 60, mask.shape) * mask for mask in masks)
    return src, tgt, *masks


@torch.no_grad()
def logits(theirs, src, tgt, src_mask, tgt_mask):
    out = theirs(input_ids=src, attention_mask=src_mask.long(), decoder_input_ids=tgt)
    return out.logits[tgt_mask], out.encoder_last_hidden_state[src_mask]


def same_both_ways(config, folder):
    theirs, inputs = reference(config), batch()
    expected, memory = logits(theirs, *inputs)
    theirs.save_pretrained(f"{folder}/theirs")
    model = minift.load_model(f"{folder}/theirs")
    src, _, src_mask, tgt_mask = inputs
    assert model.kind == "seq2seq" and model.report.fault("") is None and not model.report.new, str(model.report)
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs)[tgt_mask], expected, rtol=0, atol=1e-4)
        read = model.encoder.hidden(src, src_mask)[src_mask]
        torch.testing.assert_close(read, memory, rtol=0, atol=1e-4)

    minift.save(model, None, f"{folder}/ours")
    again, info = type(theirs).from_pretrained(f"{folder}/ours", output_loading_info=True)
    found = safetensors.load(f"{folder}/ours/model.safetensors")
    wanted = safetensors.load(f"{folder}/theirs/model.safetensors")
    unused = set() if config.decoder.tie_word_embeddings else {"decoder.cls.predictions.bias"}
    assert info["missing_keys"] == unused and all(wanted.pop(key) is not None for key in unused)  # as in BERT itself
    assert not any(info[name] for name in ("unexpected_keys", "mismatched_keys", "error_msgs")), info
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in found)
    assert ("enc_to_dec_proj.weight" in found) == (config.encoder.hidden_size != config.decoder.hidden_size)
    assert torch.equal(logits(again.eval(), *inputs)[0], expected)
    before, after = (plain(m.config.to_dict()) for m in (theirs, again))
    assert before == after


def plain(config):
    """Without what no two files of transformers have in common, and without a side's dtype, which is the whole's."""
    kept = {k: v for k, v in config.items() if k not in ("_name_or_path", "transformers_version", "dtype")}
    return {k: plain(v) if isinstance(v, dict) else v for k, v in kept.items()}


@odd
def test_logits_and_files_are_those_of_transformers(name, tmp_path):
    same_both_ways(ODD[name](), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_and_files_of_a_published_shape(name, tmp_path):
    same_both_ways(PUBLISHED[name](), tmp_path)


@torch.no_grad()
@odd
def test_padding_on_either_side_is_inert(name, pairs):
    _, model = pairs(name)
    src, tgt = torch.randint(3, 60, (1, 9)), torch.randint(3, 60, (1, 6))
    alone = model(src, tgt)[0]
    for left, right, before, after in (3, 0, 0, 2), (0, 4, 5, 0), (2, 2, 3, 3), (0, 0, 0, 0):
        pads = lambda ids, a, b: torch.nn.functional.pad(ids, (a, b), value=7)
        masks = [pads(torch.ones_like(x), a, b) * 0 for x, a, b in ((src, left, right), (tgt, before, after))]
        masks[0][:, left : left + 9], masks[1][:, before : before + 6] = 1, 1
        for kind in (torch.long, torch.bool):
            found = model(pads(src, left, right), pads(tgt, before, after), *(mask.to(kind) for mask in masks))
            torch.testing.assert_close(found[0, before : before + 6], alone, rtol=0, atol=2e-5)


@torch.no_grad()
@odd
def test_pairs_packed_in_one_row_do_not_meet(name, pairs):
    _, model = pairs(name)
    src, tgt = torch.randint(3, 60, (1, 12)), torch.randint(3, 60, (1, 11))
    packed = model(src, tgt, torch.tensor([[1] * 5 + [2] * 7]), torch.tensor([[1] * 8 + [2] * 3]))
    apart = model(src[:, :5], tgt[:, :8]), model(src[:, 5:], tgt[:, 8:])
    torch.testing.assert_close(packed, torch.cat(apart, 1), rtol=0, atol=2e-5)


@torch.no_grad()
@odd
def test_the_future_of_the_target_is_invisible_and_the_source_is_not(name, pairs):
    _, model = pairs(name)
    src, tgt = torch.randint(3, 60, (2, 9)), torch.randint(3, 60, (2, 8))
    said = model(src, tgt)
    for text, place, noticed in (tgt, 5, [5, 6, 7]), (src, 8, list(range(8))):
        other = text.clone()
        other[:, place] = (other[:, place] - 2) % 57 + 3
        changed = (model(*((src, other) if text is tgt else (other, tgt))) != said).any(-1).any(0)
        assert changed.nonzero()[:, 0].tolist() == noticed


@torch.no_grad()
@odd
@pytest.mark.parametrize("pieces", [[1] * 8, [3, 1, 4], [5, 3]])
@pytest.mark.parametrize("masked", [False, True])
def test_a_cache_changes_nothing(name, pairs, pieces, masked):
    _, model = pairs(name)
    src, tgt = torch.randint(3, 60, (3, 9)), torch.randint(3, 60, (3, 8))
    src_mask = tgt_mask = None
    if masked:
        src_mask = torch.arange(9) < torch.tensor([[9], [4], [1]])
        tgt_mask = torch.arange(8) >= torch.tensor([[0], [2], [0]])  # padded on the left, as prompts are
    expected = model(src, tgt, src_mask, tgt_mask)
    memory, cache, found, done = model.encode(src, src_mask), {}, [], 0
    for size in pieces:
        seen = None if tgt_mask is None else tgt_mask[:, : done + size]
        found.append(model.head(model.decode(tgt[:, done : done + size], memory, src_mask, seen, cache)))
        done += size
    real = slice(None) if tgt_mask is None else tgt_mask
    torch.testing.assert_close(torch.cat(found, 1)[real], expected[real], rtol=0, atol=2e-5)
    depth = model.config.decoder.num_hidden_layers
    assert list(cache) == [key for i in range(depth) for key in (i, (i, "cross"))]


@odd
def test_a_source_without_a_token_gives_finite_logits_and_gradients(name, pairs):
    model = copy.deepcopy(pairs(name)[1]).train()
    src, tgt = torch.randint(3, 60, (2, 5)), torch.randint(3, 60, (2, 4))
    out = model(src, tgt, torch.tensor([[True] * 5, [False] * 5]))
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def without_dropout(model):
    for module in model.modules():
        for what in ("dropout", "p"):
            if isinstance(getattr(module, what, None), float):
                setattr(module, what, 0.0)
    return model


@odd
def test_recomputing_gives_the_same_gradients(name, pairs):
    grads, kept, (src, tgt) = [], [], (torch.randint(3, 60, (2, 5)) for _ in "12")
    for recompute in (False, True):
        model = without_dropout(copy.deepcopy(pairs(name)[1])).train()
        model.recompute = recompute
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            loss = model(src, tgt).square().sum()
        loss.backward()
        kept.append(len(saved))
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert len(grads[0]) == len([*model.parameters()]) - 2  # all but the pooler
    layers = len(model.blocks)
    assert kept[0] - kept[1] > 20 * layers, (kept, layers)


@odd
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_twenty_steps_of_training_are_those_of_transformers(name, pairs, dtype, most):
    """Law 8: the same batches, dropout off, AdamW."""
    theirs, ours = (without_dropout(copy.deepcopy(model)).train().to(dtype) for model in pairs(name))
    optimizers, losses = [torch.optim.AdamW(model.parameters(), lr=3e-4) for model in (theirs, ours)], [[], []]
    for step in range(20):
        torch.manual_seed(step % 2)
        masks = [torch.arange(12) < torch.randint(3, 12, (4, 1)) for _ in range(2)]
        src, target = (torch.where(mask, torch.randint(6, 59, (4, 12)), PAD) for mask in masks)
        target = target.masked_fill(~masks[1], IGNORE)
        fed = torch.cat((torch.full((4, 1), ours.start), target[:, :-1].masked_fill(~masks[1][:, :-1], PAD)), 1)
        out = theirs(input_ids=src, attention_mask=masks[0].long(), labels=target)
        said = ours(src, fed, masks[0], masks[1])
        loss = torch.nn.functional.cross_entropy(said.flatten(0, 1), target.flatten())
        for i, value in enumerate((out.loss, loss)):
            optimizers[i].zero_grad()
            value.backward()
            optimizers[i].step()
            losses[i].append(value.item())
    assert losses[0] == pytest.approx(losses[1], abs=most) and losses[0][-1] < losses[0][0]
    state = theirs.state_dict()
    for key, tensor in ours.state_dict().items():  # (a bias of the keys has the gradient 0, in practice a rounding)
        off = (tensor - state[key.replace("encoder.bert.", "encoder.")]).abs()
        assert key.endswith("key.bias") or (off.mean() < 1e-5 if dtype == torch.float32 else off.max() < 1e-8), key
