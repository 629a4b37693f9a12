"""The logits and the files of transformers, for every published shape of the families of one stack, on random weights.
Run me: pytest tests/test_parity.py; the large shapes too (minutes): pytest -m "long or not long" tests/test_parity.py

Models above 130M parameters are cut to two layers, those above 6B to one layer and 512 tokens: what their size changes
stands in each layer alike.
"""

import os
import tempfile
from pathlib import Path

import pytest
import torch
import transformers
from transformers import BertConfig, DistilBertConfig, GPT2Config, GPTNeoConfig, OPTConfig, RobertaConfig
from transformers.initialization import no_init_weights

import minift
from minift.models.bert import BERT
from minift.models.distilbert import DistilBERT
from minift.models.gpt2 import GPT2
from minift.models.gpt_neo import GPTNeo
from minift.models.opt import OPT
from minift.models.roberta import RoBERTa

torch.set_num_threads(1)

KINDS = {  # by family: each kind, and the class of transformers that is one
    model.FAMILY: {kind: getattr(transformers, name) for kind, name in model.ARCHITECTURES.items()}
    for model in (GPT2, GPTNeo, OPT, BERT, RoBERTa, DistilBERT)
}


def gpt2(width, layers, heads, **more):
    return GPT2Config(n_embd=width, n_layer=layers, n_head=heads, **more)


def cerebras(width, layers, heads):
    return gpt2(width, layers, heads, n_positions=2048, n_inner=4 * width, activation_function="gelu")


def neo(width, layers, heads, types=None, **more):
    types = types or [[["global", "local"], layers // 2]]
    return GPTNeoConfig(hidden_size=width, num_layers=layers, num_heads=heads, attention_types=types, **more)


def opt(width, layers, heads, **more):
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return OPTConfig(**sizes, **{"ffn_dim": 4 * width} | more)


def bert(width, layers, heads, vocabulary=30522, inner=None, **more):
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return BertConfig(vocab_size=vocabulary, intermediate_size=inner or 4 * width, **sizes, **more)


def roberta(width, layers, heads, vocabulary=50265, inner=None, **more):
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    own = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5} | more
    return RobertaConfig(vocab_size=vocabulary, intermediate_size=inner or 4 * width, **sizes, **own)


def distilbert(vocabulary=30522, layers=6, **more):
    return DistilBertConfig(vocab_size=vocabulary, n_layers=layers, **more)


BASE = {  # name of the published model: its shape
    "gpt2": gpt2(768, 12, 12),
    "distilgpt2": gpt2(768, 6, 12),
    "Cerebras-GPT-111M": cerebras(768, 10, 12),
    "gpt-neo-125m": neo(768, 12, 12),
    "TinyStories-1M": neo(64, 8, 16),
    "TinyStories-8M": neo(256, 8, 16),
    "TinyStories-33M": neo(768, 4, 16),
    "opt-125m": opt(768, 12, 12),
    "bert_uncased_L-2_H-128_A-2 (tiny)": bert(128, 2, 2),
    "bert_uncased_L-4_H-256_A-4 (mini)": bert(256, 4, 4),
    "bert_uncased_L-4_H-512_A-8 (small)": bert(512, 4, 8),
    "bert_uncased_L-8_H-512_A-8 (medium)": bert(512, 8, 8),
    "bert-base-uncased": bert(768, 12, 12),
    "bert-base-cased": bert(768, 12, 12, 28996),
    "MiniLM-L6-H384-uncased": bert(384, 6, 12),
    "MiniLM-L12-H384-uncased": bert(384, 12, 12),
    "roberta-base": roberta(768, 12, 12),
    "distilroberta-base": roberta(768, 6, 12),
    "distilbert-base-uncased": distilbert(),
    "distilbert-base-cased": distilbert(28996),
    "distilbert-base-german-cased": distilbert(31102),
}
CUT = {  # the same above 130M parameters, with two of its layers
    "gpt2-medium": gpt2(1024, 2, 16),
    "gpt2-large": gpt2(1280, 2, 20),
    "gpt2-xl": gpt2(1600, 2, 25),
    "Cerebras-GPT-256M": cerebras(1088, 2, 17),
    "Cerebras-GPT-590M": cerebras(1536, 2, 12),
    "Cerebras-GPT-1.3B": cerebras(2048, 2, 16),
    "gpt-neo-1.3B": neo(2048, 2, 16),
    "gpt-neo-2.7B": neo(2560, 2, 20),
    "opt-350m": opt(1024, 2, 16, word_embed_proj_dim=512, do_layer_norm_before=False),
    "opt-1.3b": opt(2048, 2, 32),
    "opt-2.7b": opt(2560, 2, 32),
    "opt-6.7b": opt(4096, 1, 32, vocab_size=512),
    "opt-13b": opt(5120, 1, 40, vocab_size=512),
    "opt-30b": opt(7168, 1, 56, vocab_size=512),
    "bert-base-multilingual-cased": bert(768, 2, 12, 119547),
    "bert-large-uncased": bert(1024, 2, 16),
    "bert-large-cased": bert(1024, 2, 16, 28996),
    "bert-large-uncased-whole-word-masking": bert(1024, 2, 16),
    "bert-large-cased-whole-word-masking": bert(1024, 2, 16, 28996),
    "roberta-large": roberta(1024, 2, 16),
    "distilbert-base-multilingual-cased": distilbert(119547, 2),
}
SMALL = {"vocabulary": 61, "inner": 40, "max_position_embeddings": 24}
ROOM = {"vocabulary": 61, "inner": 40, "max_position_embeddings": 28, "pad_token_id": 3}  # for texts of 24
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 40}
TINIEST = {"vocabulary": 61, "layers": 2, "dim": 32, "n_heads": 4, "hidden_dim": 40, "max_position_embeddings": 24}
ODD = {  # what a config.json may say and the published ones above do not
    "gpt2, not divided by the root of hs": gpt2(32, 3, 4, vocab_size=61, scale_attn_weights=False),
    "gpt2, scores divided by the layer": gpt2(32, 3, 4, vocab_size=61, scale_attn_by_inverse_layer_idx=True),
    "gpt2, another inner width, ReLU": gpt2(32, 2, 2, vocab_size=61, n_inner=50, activation_function="relu"),
    "gpt2, another epsilon, one label": gpt2(32, 2, 2, vocab_size=61, layer_norm_epsilon=1e-2, num_labels=1),
    "gpt2, untied, no longer than its text": gpt2(32, 2, 2, vocab_size=61, n_positions=24, tie_word_embeddings=False),
    "gpt_neo, a window of five": neo(32, 4, 4, vocab_size=61, window_size=5, max_position_embeddings=24),
    "gpt_neo, local blocks first, another inner width, exact GELU": neo(
        *(32, 3, 4, [[["local"], 2], [["global"], 1]]),
        **{"vocab_size": 61, "window_size": 3, "intermediate_size": 50, "activation_function": "gelu"},
    ),
    "gpt_neo, untied, another epsilon, one label": neo(
        32, 2, 2, vocab_size=61, tie_word_embeddings=False, layer_norm_epsilon=1e-2, num_labels=1
    ),
    "opt, narrow embeddings, norms after": opt(
        32, 2, 4, vocab_size=61, word_embed_proj_dim=20, do_layer_norm_before=False, max_position_embeddings=24
    ),
    "opt, no norm at the end": opt(32, 2, 2, vocab_size=61, _remove_final_layer_norm=True, ffn_dim=50),
    "opt, no biases, norms without weights": opt(
        32, 2, 2, vocab_size=61, enable_bias=False, layer_norm_elementwise_affine=False
    ),
    "opt, wide embeddings, untied, GELU, one label": opt(
        32,
        2,
        2,
        vocab_size=61,
        word_embed_proj_dim=40,
        tie_word_embeddings=False,
        activation_function="gelu",
        num_labels=1,
    ),
    "bert, tanh GELU, one segment": bert(32, 2, 4, **SMALL, hidden_act="gelu_new", type_vocab_size=1),
    "bert, ReLU, another epsilon, five": bert(32, 2, 4, **SMALL, hidden_act="relu", layer_norm_eps=1e-2, num_labels=5),
    "bert, untied, a dropout of its own": bert(32, 2, 4, **SMALL, tie_word_embeddings=False, classifier_dropout=0.3),
    "roberta, another padding, ReLU, two": roberta(32, 2, 4, **ROOM, hidden_act="relu", type_vocab_size=2),
    "roberta, untied, five labels": roberta(32, 2, 4, **ROOM, tie_word_embeddings=False, num_labels=5),
    "roberta, as transformers alone has it": RobertaConfig(**TINY, vocab_size=61, num_attention_heads=4),
    "distilbert, tanh GELU": distilbert(**TINIEST, activation="gelu_new"),
    "distilbert, untied, ReLU, one label": distilbert(
        **TINIEST, tie_word_embeddings=False, activation="relu", num_labels=1
    ),
    "distilbert, waves for positions": distilbert(**TINIEST, sinusoidal_pos_embds=True),
}
SLOW = {  # of the base sizes, one kind or two are enough for every day
    "bert-base-cased": {"encoder", "pretraining", "classify", "answer"},
    "bert-base-uncased": {"answer"},
    "roberta-base": {"encoder", "classify", "answer"},
    "distilroberta-base": {"encoder", "mlm", "answer"},
    "distilbert-base-uncased": {"encoder", "classify"},
    "distilbert-base-cased": {"encoder", "mlm", "classify", "answer"},
    "distilbert-base-german-cased": {"encoder", "mlm", "classify", "answer"},
}
SLOW |= {"gpt-neo-125m": {"classify"}, "opt-125m": {"classify"}}


def cases(*tables):
    for shapes in tables:
        for name, config in shapes.items():
            for kind in KINDS[config.model_type]:
                if kind == "answer" and config.num_labels != 2:
                    continue  # an answer has a start and an end
                slow = pytest.mark.long if shapes is CUT or kind in SLOW.get(name, ()) else ()
                yield pytest.param(config, kind, id=f"{name}, {kind}", marks=slow)


@pytest.fixture
def folder(monkeypatch):
    """Hundreds of megabytes a test: removed at once, and not forced to the disk before."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        yield name


def reference(config, kind):
    """A model of transformers in which no parameter has the value that it would start with, and which is lively enough
    for the two GELUs to differ."""
    torch.manual_seed(0)
    if config.pad_token_id is None:
        config.pad_token_id = 0  # GPT-2's classifier needs one, to find a row's last token
    with no_init_weights():
        model = KINDS[config.model_type][kind](config).eval()
    model.tie_weights()
    with torch.no_grad():
        for name, p in model.named_parameters():
            spread = 0.1 if "embed" in name or ".wte" in name or ".wpe" in name else 3 * p.numel() ** -0.25
            if config.model_type == "gpt_neo" and ".q_proj" in name:  # nothing else divides its scores
                spread *= (config.hidden_size // config.num_heads) ** -0.5
            p.uniform_(-spread, spread)
            if p.ndim == 1 and name.endswith("weight"):  # of a norm
                p += 1
    return model


def batch(config):
    """Texts of 24, 7 and 1 tokens, padded on the right: ids, mask, and segments, the second from the middle on."""
    torch.manual_seed(1)
    mask = torch.arange(24) < torch.tensor([[24], [7], [1]])
    ids = torch.where(mask, torch.randint(config.pad_token_id + 1, config.vocab_size, mask.shape), config.pad_token_id)
    segments = (torch.arange(24) >= torch.tensor([[12], [4], [0]])).long() * mask
    return ids, mask, segments.clamp(max=getattr(config, "type_vocab_size", 1) - 1)


@torch.no_grad()
def theirs(model, kind, ids, mask, segments):
    """What a user of transformers gets: vectors of real tokens, or one vector a row."""
    more = {"token_type_ids": segments} if hasattr(model.config, "type_vocab_size") else {}
    out = model(ids, attention_mask=mask.long(), **more)
    if kind == "encoder":
        return out.last_hidden_state[mask], getattr(out, "pooler_output", out.last_hidden_state[:, 0])
    if kind == "answer":
        return out.start_logits[mask], out.end_logits[mask]
    if kind == "pretraining":
        return out.prediction_logits[mask], out.seq_relationship_logits
    return (out.logits if kind == "classify" else out.logits[mask],)


@torch.no_grad()
def ours(model, kind, ids, mask, segments):
    more = () if "lm" in model.ARCHITECTURES else (segments,)
    if kind == "encoder":
        return model.hidden(ids, mask, *more)[mask], model.pooled(ids, mask, *more)
    if kind == "answer":
        return model(ids, mask, *more)[mask].unbind(-1)
    if kind == "pretraining":
        return model(ids, mask, *more)[mask], model.cls.seq_relationship(model.pooled(ids, mask, *more))
    logits = model(ids, mask, *more)
    return (logits if kind == "classify" else logits[mask],)


def said(config, kind):
    """A configuration without what says where it came from, and without labels where there are none."""
    other = {"_name_or_path", "transformers_version"} | ({"id2label", "label2id"} if kind != "classify" else set())
    return {name: value for name, value in config.to_dict().items() if name not in other}


@pytest.mark.parametrize(("config", "kind"), [*cases(ODD, BASE, CUT)])
def test_logits_and_files_are_those_of_transformers(config, kind, folder):
    reference_model, inputs = reference(config, kind), batch(config)
    expected = theirs(reference_model, kind, *inputs)

    reference_model.save_pretrained(f"{folder}/theirs")
    model = minift.load_model(f"{folder}/theirs")
    assert model.kind == kind
    assert model.report.fault("") is None and not model.report.new and not model.report.notes, str(model.report)
    for found, wanted in zip(ours(model, kind, *inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)

    minift.save(model, None, f"{folder}/ours")
    again, info = type(reference_model).from_pretrained(f"{folder}/ours", output_loading_info=True)
    unused = set() if config.tie_word_embeddings else {"cls.predictions.bias", "lm_head.bias"} & {*again.state_dict()}
    assert info["missing_keys"] == unused  # (an untied head has a bias of its own, and does not use this one)
    assert not info["unexpected_keys"] and not info["mismatched_keys"] and not info["error_msgs"]
    before, after = reference_model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert [name for name in before if name not in unused and not torch.equal(before[name], after[name])] == []
    assert said(again.config, kind) == said(reference_model.config, kind)
    for found, wanted in zip(theirs(again.eval(), kind, *inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)  # (where weights lie in memory may round)


def a_bias_too_many(config, kind):
    """Of an untied masked language model transformers also writes a bias that nothing uses."""
    return kind in ("mlm", "pretraining") and not config.tie_word_embeddings


@pytest.mark.parametrize(("config", "kind"), [case for case in cases(ODD) if not a_bias_too_many(*case.values)])
def test_files_have_the_very_bytes_that_transformers_writes(config, kind, folder):
    reference(config, kind).save_pretrained(f"{folder}/theirs")
    minift.save(minift.load_model(f"{folder}/theirs"), None, f"{folder}/ours")
    ours, theirs = (Path(folder, name, "model.safetensors").read_bytes() for name in ("ours", "theirs"))
    assert ours == theirs
