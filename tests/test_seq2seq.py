"""Encoder-decoders: the logits and the files of transformers, and the laws of masks and caches.
Run me: pytest tests/test_seq2seq.py; the published shapes too: pytest -m "long or not long" tests/test_seq2seq.py
"""

import copy
import json

import pytest
import torch
import two_stacks
from transformers import BartConfig, BartForConditionalGeneration, MarianConfig, MarianMTModel
from transformers.initialization import no_init_weights

import minift
from minift import safetensors
from minift.errors import Error

torch.set_num_threads(1)

CLASS = {"bart": BartForConditionalGeneration, "marian": MarianMTModel}


def sizes(width, depth, heads, inner, **more):
    both = {"layers": depth, "attention_heads": heads, "ffn_dim": inner}
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in both.items()}
    return {"d_model": width, **sides, **more}


def bart(*shape, **more):
    return BartConfig(**sizes(*shape), **more)


def marian(*shape, vocab_size=61, **more):
    last = vocab_size - 1
    more = {"activation_function": "swish", "scale_embedding": True, **more}
    return MarianConfig(**sizes(*shape), vocab_size=vocab_size, pad_token_id=last, decoder_start_token_id=last, **more)


SMALL = {"vocab_size": 61, "max_position_embeddings": 24}
ODD = {  # small, with what a config.json may say
    "bart": bart(32, 2, 4, 64, **SMALL),
    "bart, scaled embedding, ReLU": bart(32, 2, 4, 40, **SMALL, scale_embedding=True, activation_function="relu"),
    "bart, the sides differ (distilled)": BartConfig(
        **{**sizes(32, 3, 4, 64), "decoder_layers": 1, "decoder_ffn_dim": 48, "decoder_attention_heads": 2}, **SMALL
    ),
    "marian": marian(32, 2, 4, 64, max_position_embeddings=24),
    "marian, odd width, no scale": marian(33, 2, 3, 64, scale_embedding=False, max_position_embeddings=24),
}
PUBLISHED = {
    "bart-base": bart(768, 6, 12, 3072),
    "opus-mt-en-fr": marian(512, 6, 8, 2048, vocab_size=59514, max_position_embeddings=512),
    "opus-mt-tc-tiny": marian(256, 6, 8, 1024, vocab_size=32001, max_position_embeddings=256),
}
odd = pytest.mark.parametrize("name", ODD)


def reference(config):
    """A model of transformers no parameter of which has the value that it would start with."""
    torch.manual_seed(0)
    with no_init_weights():
        model = CLASS[config.model_type](config).eval()
    model.tie_weights()
    with torch.no_grad():
        for name, p in [*model.named_parameters(), ("bias", model.final_logits_bias)]:
            if "embed_positions" in name and config.model_type == "marian":
                continue
            spread = 0.1 if p.ndim == 2 and p.shape[0] in (config.vocab_size, 26) else 3 * p.numel() ** -0.25
            p.uniform_(-spread, spread)
            if p.ndim == 1 and "norm" in name and name.endswith("weight"):
                p += 1
    if config.model_type == "marian":
        for side in (model.model.encoder, model.model.decoder):
            side.embed_positions.weight.data = side.embed_positions.create_weight()
    return model


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """(a model of transformers, ours from its folder) by the name of the configuration"""
    made = {}

    def pair(name):
        if name not in made:
            theirs, folder = reference(copy.deepcopy(ODD[name])), tmp_path_factory.mktemp("model")
            theirs.save_pretrained(folder)
            made[name] = theirs, minift.load_model(folder)
        return made[name]

    return pair


def batch(config, longest=24):
    """Sources of 24, 7 and 1 tokens, targets of 1, 9 and 20: ids right-padded, and masks."""
    torch.manual_seed(1)
    masks = [torch.arange(longest) < torch.tensor(lengths)[:, None] for lengths in ([24, 7, 1], [1, 9, 20])]
    src, tgt = (torch.randint(3, config.vocab_size - 1, mask.shape) * mask for mask in masks)
    return src, tgt, *masks


@torch.no_grad()
def logits(theirs, src, tgt, src_mask, tgt_mask):
    out = theirs(input_ids=src, attention_mask=src_mask.long(), decoder_input_ids=tgt)
    return out.logits[tgt_mask], out.encoder_last_hidden_state[src_mask]


def same_both_ways(config, folder):
    theirs = reference(config)
    inputs = batch(config)
    expected, memory = logits(theirs, *inputs)
    theirs.save_pretrained(f"{folder}/theirs")
    model = minift.load_model(f"{folder}/theirs")
    src, _, src_mask, tgt_mask = inputs
    assert model.report.fault("") is None and not model.report.new and not model.report.notes, str(model.report)
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs)[tgt_mask], expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(model.encode(src, src_mask)[src_mask], memory, rtol=0, atol=1e-4)

    minift.save(model, None, f"{folder}/ours")
    again, info = type(theirs).from_pretrained(f"{folder}/ours", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), info
    found = safetensors.load(f"{folder}/ours/model.safetensors")
    wanted = safetensors.load(f"{folder}/theirs/model.safetensors")
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in found)
    assert torch.equal(logits(again.eval(), *inputs)[0], expected)
    same = {"_name_or_path", "transformers_version", "id2label", "label2id"}
    before, after = (
        {k: v for k, v in m.config.to_dict().items() if k not in same and not (k == "bos_token_id" and v is None)}
        for m in (theirs, again)
    )
    assert before == after


@odd
def test_logits_and_files_are_those_of_transformers(name, tmp_path):
    same_both_ways(copy.deepcopy(ODD[name]), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_and_files_of_every_published_shape(name, tmp_path):
    same_both_ways(copy.deepcopy(PUBLISHED[name]), tmp_path)


@odd
def test_padding_on_either_side_is_inert(name, pairs):
    two_stacks.padding_is_inert(pairs(name)[1], 2e-5)


@odd
def test_pairs_packed_in_one_row_do_not_meet(name, pairs):
    two_stacks.packed_pairs_do_not_meet(pairs(name)[1], 2e-5)


@odd
def test_the_future_of_the_target_is_invisible_and_the_source_is_not(name, pairs):
    two_stacks.the_future_is_invisible_and_the_source_is_not(pairs(name)[1])


@odd
@pytest.mark.parametrize("pieces", [[1] * 8, [3, 1, 4], [5, 3]])
@pytest.mark.parametrize("masked", [False, True])
def test_a_cache_changes_nothing(name, pairs, pieces, masked):
    model = pairs(name)[1]
    cache = two_stacks.a_cache_changes_nothing(model, pieces, masked, 2e-5)
    assert list(cache) == [key for i in range(model.config.decoder_layers) for key in (i, (i, "cross"))]


@odd
def test_a_row_without_a_token_gives_finite_logits_and_gradients(name, pairs):
    two_stacks.an_empty_row_is_finite(pairs(name)[1])


@odd
def test_recomputing_gives_the_same_gradients(name, pairs):
    two_stacks.recomputing_gives_the_same_gradients(pairs(name)[1])


@odd
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_twenty_steps_of_training_are_those_of_transformers(name, pairs, dtype, most):
    """Law 8"""
    pad = ODD[name].pad_token_id
    theirs, ours = two_stacks.twenty_steps_are_those_of_transformers(*pairs(name), pad, dtype, most)
    for key, tensor in ours.items():  # (a bias of the keys has the gradient 0, in practice a rounding)
        if dtype == torch.float64 and not key.endswith("k_proj.bias"):
            torch.testing.assert_close(tensor, theirs[key], rtol=0, atol=1e-7)


def test_bare_files_of_bart_base_load_and_their_missing_bias_is_zero(tmp_path, pairs):
    theirs, model = pairs("bart")
    theirs.model.save_pretrained(tmp_path)  # BartModel: no prefix, no bias
    bare = minift.load_model(tmp_path)
    assert bare.report.notes == ["final_logits_bias is not in the file: it is 0"]
    src, tgt = torch.randint(3, 60, (2, 5)), torch.randint(3, 60, (2, 4))
    expected = model(src, tgt) - model.final_logits_bias
    torch.testing.assert_close(bare(src, tgt), expected, rtol=0, atol=1e-5)


def test_old_files_of_marian_hold_their_positions_too(tmp_path, pairs):
    theirs, _ = pairs("marian")
    theirs.save_pretrained(tmp_path)
    tensors = safetensors.load(tmp_path / "model.safetensors")
    for side in ("encoder", "decoder"):
        tensors[f"model.{side}.embed_positions.weight"] = torch.randn(24, 32)
    safetensors.save(tmp_path / "model.safetensors", tensors)
    model = minift.load_model(tmp_path)
    assert len(model.report.dropped) == 2 and model.report.fault("") is None


@pytest.mark.parametrize("name", ["share_encoder_decoder_embeddings", "tie_word_embeddings"])
def test_a_vocabulary_for_each_side_is_refused(name, tmp_path, pairs):
    theirs, _ = pairs("marian")
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: False}))
    with pytest.raises(Error, match=f"{name} is false: here one table of words serves source, target and head"):
        minift.load_model(tmp_path)


def test_a_text_longer_than_the_positions_is_refused(pairs):
    _, model = pairs("bart")
    with pytest.raises(Error, match="25 tokens, but the model has 24 positions"):
        model(torch.ones(1, 25, dtype=torch.long), torch.ones(1, 3, dtype=torch.long))
