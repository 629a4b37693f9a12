"""LoRA in every family: what it learns, what it leaves, its files, which are peft's.
Run me: pytest tests/test_lora.py"""

import json
import warnings

import peft
import pytest
import tiny
import torch
import transformers

import minift
from minift import adapters, lora, miniatures, optim, pretrained, runs, safetensors, train
from minift.settings import Finetune

torch.set_num_threads(1)
EACH = [(family, kind) for family in miniatures.KINDS for kind in miniatures.KINDS[family] if family != "kim_cnn"]
each = pytest.mark.parametrize(("family", "kind"), EACH, ids=lambda x: x)
USUAL = {  # family: the layers of each block that get LoRA when none are named
    "gpt2": ["attn.c_attn"],
    "bert": ["attention.self.query", "attention.self.value"],
    "bart": [f"{part}.{name}_proj" for part in ("self_attn", "encoder_attn") for name in "vq"],
    "t5": [f"{part}.{name}" for part in ("SelfAttention", "EncDecAttention") for name in "qv"],
    "bert2bert": ["attention.self.query", "attention.self.value"],  # across, all is new and learns whole
}
USUAL |= {"marian": USUAL["bart"], "t5-1.1": USUAL["t5"], "roberta": USUAL["bert"]}
USUAL |= {"distilbert": ["attention.q_lin", "attention.v_lin"], "gpt_neo": ["attention.q_proj", "attention.v_proj"]}
USUAL |= {family: ["self_attn.q_proj", "self_attn.v_proj"] for family in ("opt", "opt-350m")}


def said(model):
    """Logits of the tiny texts, of a model of ours."""
    pair = model.kind == "seq2seq"
    return model(miniatures.IDS, miniatures.OTHER) if pair else model(miniatures.IDS)


def theirs_said(model, kind):
    more = {"decoder_input_ids": miniatures.OTHER} if kind == "seq2seq" else {}
    with torch.no_grad():
        return model(input_ids=miniatures.IDS, **more).logits


def prepared(family, kind, moved=True, **options):
    """A tiny model with LoRA; `moved`: nothing that learns is as it was at first."""
    torch.manual_seed(0)
    model = miniatures.tiny(family, kind)
    adapters.choose(model, "lora", Finetune(**({"lora_rank": 3, "lora_alpha": 5.0} | options)))
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and moved:
                p += torch.empty_like(p).uniform_(-0.3, 0.3)
    return model


def learn(model, steps=3, **options):
    """Train to say the tokens in another order."""
    logits = said(model).flatten(0, -2)
    target = torch.arange(len(logits)) % logits.shape[1]
    loss = lambda model, batch: (
        torch.nn.functional.cross_entropy(said(model).flatten(0, -2), target, reduction="sum"),
        len(target),
    )
    options = Finetune(**({"lr": 1e-2, "weight_decay": 0.5, "precision": "fp32"} | options))
    return train.train(model, [[[0]]] * steps, lambda rows: {}, loss, options)


def copies(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# -- what it computes -------------------------------------------------------------------------------------------------


@each
@torch.no_grad()  # with gradients, attention may take another kernel
def test_before_training_nothing_is_changed_by_a_bit(family, kind):
    assert torch.equal(said(prepared(family, kind, moved=False)), said(miniatures.tiny(family, kind)))


@each
def test_merged_says_the_same_and_unmerged_every_bit_is_back(family, kind):
    model = prepared(family, kind)
    before, logits = copies(model), said(model)
    plain = said(miniatures.tiny(family, kind))
    assert (logits - plain).abs().max() > 0.01  # LoRA matters
    lora.merge(model)
    assert not any(isinstance(module, lora.LoRA) for module in model.modules())
    assert {name for name, _ in model.named_parameters()} == {
        n for n, _ in miniatures.tiny(family, kind).named_parameters()
    }
    torch.testing.assert_close(said(model), logits, rtol=0, atol=1e-5)
    lora.merge(model)  # once more changes nothing
    torch.testing.assert_close(said(model), logits, rtol=0, atol=1e-5)
    lora.unmerge(model)
    after = copies(model)
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(said(model), logits)


def test_the_change_is_alpha_over_r_times_b_times_a():
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(7, 5), torch.randn(2, 3, 7)
    layer = lora.LoRA(linear, 2, 6.0, 0.0)
    assert layer.lora_A.weight.shape == (2, 7) and layer.lora_A.weight.all() and not layer.lora_B.weight.any()
    torch.nn.init.normal_(layer.lora_B.weight)
    weight = linear.weight + 6 / 2 * layer.lora_B.weight @ layer.lora_A.weight
    torch.testing.assert_close(layer(x), x @ weight.T + linear.bias)
    assert torch.equal(layer.merged().weight, weight) and layer.merged().bias is linear.bias


@each
def test_the_usual_layers_are_the_queries_and_values(family, kind):
    model = prepared(family, kind)
    names = [*lora.adapted(model)]
    per_block = [[name for name in USUAL[family] if any(name in n for n, _ in b.named_modules())] for b in model.blocks]
    assert len(names) == sum(map(len, per_block)) > 0
    assert all(name.endswith(tuple(USUAL[family])) for name in names)


def test_a_model_without_linear_layers_has_no_place_for_it():
    with pytest.raises(
        minift.Error, match="no linear layers in this model's blocks to stand beside; try last:N or all"
    ):
        adapters.choose(miniatures.tiny("kim_cnn", "classify"), "lora")


# -- what learns ------------------------------------------------------------------------------------------------------


@each
def test_what_is_frozen_keeps_every_bit_and_a_b_and_the_head_learn(family, kind):
    model = prepared(family, kind)
    before = copies(model)
    head = {f"{name}.{inner}" for name, module in lora.whole(model).items() for inner, _ in module.named_parameters()}
    pairs = {f"{name}.lora_{part}.weight" for name in lora.adapted(model) for part in "AB"}
    learn(model)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == head | pairs
    assert bool(head) == (kind in ("classify", "mlm") or family == "bert2bert")
    lora.unmerge(model)
    plain = miniatures.tiny(family, kind)
    assert all(torch.equal(p, before[name]) for name, p in plain.named_parameters() if name not in head)


@each
def test_the_optimiser_sees_lora_and_the_head_alone(family, kind):
    model = prepared(family, kind)
    names = {id(p): name for name, p in model.named_parameters()}
    seen = {names[id(p)] for group in optim.adamw(model, 1e-3, 0.1).param_groups for p in group["params"]}
    heads = tuple(f"{name}." for name in lora.whole(model))
    assert seen == {name for name in names.values() if ".lora_" in name or name.startswith(heads)}
    learning, total = adapters.choose(miniatures.tiny(family, kind), "lora", Finetune(lora_rank=3))
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert learning == sum(sizes[name] for name in seen) and total == sum(sizes.values())


def test_a_block_with_lora_drops_out_and_what_is_frozen_beside_it_does_not():
    more = {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}
    model = miniatures.tiny("gpt2", "lm", **more)
    adapters.choose(model, "lora", Finetune(lora_layers=r"h\.1\.attn\.c_attn", lora_dropout=0.5))
    adapters.train_mode(model)
    assert [*lora.adapted(model)] == ["transformer.h.1.attn.c_attn"]
    assert all(module.training for module in model.blocks[1].modules())  # with LoRA's own dropout
    assert not any(module.training for module in [*model.blocks[0].modules(), model.transformer.drop])
    assert model.training  # recomputation and label smoothing ask for it
    layer, x = model.blocks[1].attn.c_attn, torch.ones(1, 16)
    torch.nn.init.normal_(layer.lora_B.weight)
    assert not torch.equal(layer(x), layer(x))
    model.eval()
    assert torch.equal(layer(x), layer(x))


def test_recomputing_gives_the_same_gradients_with_lora():
    found = []
    for recompute in False, True:
        model = prepared("bart", "seq2seq")
        model.recompute = recompute
        adapters.train_mode(model)
        said(model).square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_pooler_drawn_at_random_learns_with_the_head(tmp_path):
    """Frozen, it would stay noise, and an adapter without it would belong to nothing."""
    miniatures.publish(tmp_path / "base", "bert", "mlm")
    model = minift.load_model(tmp_path / "base", "classify", ["a", "b"])
    adapters.choose(model, "lora")
    learning = {name for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name}
    assert learning == {f"{name}.{part}" for name in ("bert.pooler.dense", "classifier") for part in ("weight", "bias")}
    lora.save(model, tmp_path / "adapter")
    other = minift.load_model(tmp_path / "base", "classify", ["a", "b"])
    assert not torch.equal(said(other), said(model))
    assert torch.equal(said(lora.load(other, tmp_path / "adapter")), said(model))


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("query", 2),
        ("query,value", 4),
        (" query , value ", 4),
        (r"layer\.1\.attention.*", 4),
        (r"attention\.output\.dense", 2),
        (r"layer.\d{1,2}.output.dense,query", 4),
        (".*", 13),  # six a layer and the pooler; the classifier learns whole
        ("bert.pooler.dense", 1),
    ],
)
def test_layers_are_named_by_the_ends_of_their_names_or_by_regular_expressions(pattern, count):
    assert len(lora.matching(miniatures.tiny("bert", "classify"), pattern)) == count


@pytest.mark.parametrize("pattern", ["", "quer", "uery", "classifier", "self", "bert"])
def test_a_pattern_that_names_no_linear_layer_is_an_error_that_lists_them(pattern):
    with pytest.raises(minift.Error) as caught:
        adapters.choose(miniatures.tiny("bert", "classify"), "lora", Finetune(lora_layers=pattern))
    assert f"--lora-layers {pattern}: names none" in str(caught.value)
    for name in ("self.query (2)", "self.key (2)", "*.intermediate.dense (2)", "bert.pooler.dense"):
        assert name in str(caught.value)
    assert "classifier" not in str(caught.value).partition("there are")[2]


def test_a_rank_larger_than_a_layer_is_an_error_that_says_how_large_it_is():
    with pytest.raises(minift.Error, match=r"--lora-rank 17: .*0\.attn\.c_attn is \(48, 16\), of rank 16 at most"):
        adapters.choose(miniatures.tiny("gpt2", "lm"), "lora", Finetune(lora_rank=17))
    adapters.choose(miniatures.tiny("gpt2", "lm"), "lora", Finetune(lora_rank=16))


def test_a_model_with_lora_must_be_merged_before_anything_else_is_made_of_it(tmp_path):
    model = prepared("bert", "classify")
    for attempt in (
        lambda: minift.save(model, None, tmp_path / "a"),
        lambda: adapters.choose(model, "all"),
        lambda: pretrained.with_head(model, "classify", ["x", "y"]),
        lambda: lora.load(model, tmp_path),
    ):
        with pytest.raises(minift.Error, match=r"minift\.lora\.merge\(model\)"):
            (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 3, "lora_alpha": 5}')
            safetensors.save(tmp_path / "adapter_model.safetensors", {})
            attempt()
    assert not (tmp_path / "a").exists()
    lora.merge(model)
    logits = said(model)
    minift.save(model, None, tmp_path / "a")
    assert torch.equal(said(minift.load_model(tmp_path / "a")), logits)
    adapters.choose(model, "all")  # and from here on it is a model like others
    assert lora.adapted(model) == {} and all(p.requires_grad for p in model.parameters())


def test_an_interrupted_training_with_lora_goes_on_to_the_same_bits(tmp_path):
    found = []
    for stops in [4], [2, 4]:
        for stop in stops:
            model = prepared("bert", "classify", lora_dropout=0.3)
            torch.manual_seed(1)
            state = tmp_path / f"{len(stops)}.pt"
            loss = lambda model, batch: (said(model).logsumexp(-1).sum(), 1)
            options = Finetune(lr=1e-2, schedule="constant", warmup=0.0, precision="fp32", unfreeze="gradual")
            train.train(model, [[[0]]] * stop, lambda rows: {}, loss, options, state=state)
        found.append(copies(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert any(not torch.equal(found[0][name], p) for name, p in prepared("bert", "classify").named_parameters())


# -- its files are peft's ---------------------------------------------------------------------------------------------


def their_base(folder, family, kind):
    miniatures.publish(folder, family, kind)
    return getattr(transformers, miniatures.KINDS[family][kind][0]).from_pretrained(folder).eval()


@each
def test_peft_reads_the_adapter_beside_the_base_of_transformers(tmp_path, family, kind):
    base = their_base(tmp_path / "base", family, kind)
    assert len({*lora.OTHERS} & {*vars(peft.LoraConfig())}) == len(lora.OTHERS)  # these are still called so
    model = prepared(family, kind)
    lora.save(model, tmp_path / "adapter", "the base")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about peft
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # the file holds both copies
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(theirs_said(theirs, kind), said(model), rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs_said(theirs.merge_and_unload(), kind), said(model), rtol=0, atol=1e-5)
    merged = prepared(family, kind)
    lora.merge(merged)
    lora.save(merged, tmp_path / "again", "the base")
    for name in "adapter_model.safetensors", "adapter_config.json":
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "adapter" / name).read_bytes()


@each
def test_an_adapter_is_put_beside_its_base_again(tmp_path, family, kind):
    model = prepared(family, kind)
    lora.save(model, tmp_path)
    other = lora.load(miniatures.tiny(family, kind), tmp_path)
    assert torch.equal(said(other), said(model))
    learning = [{name for name, p in m.named_parameters() if p.requires_grad} for m in (other, model)]
    assert learning[0] == learning[1]  # it can learn on
    lora.save(other, tmp_path / "again")
    again = (tmp_path / "again" / "adapter_model.safetensors").read_bytes()
    assert again == (tmp_path / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("family", "kind", "targets", "more"),
    [
        ("gpt2", "lm", ["c_attn", "c_proj"], {}),
        ("gpt2", "classify", ["c_attn"], {"task_type": "SEQ_CLS"}),
        ("bert", "classify", ["query", "dense"], {"task_type": "SEQ_CLS"}),
        ("bert", "mlm", "all-linear", {}),
        ("bart", "seq2seq", ["q_proj", "fc1"], {"task_type": "SEQ_2_SEQ_LM"}),
        ("t5-1.1", "seq2seq", ["q", "wi_0", "wo"], {"task_type": "SEQ_2_SEQ_LM"}),
    ],
)
def test_an_adapter_of_peft_is_read_here(tmp_path, family, kind, targets, more):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False, **more)
    if family == "gpt2":
        config.fan_in_fan_out = True
    if (family, kind) == ("bert", "mlm"):  # by "all-linear" peft means layers of the head, too
        config.exclude_modules = "cls.*"
    theirs = peft.get_peft_model(their_base(tmp_path / "base", family, kind), config).eval()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "modules_to_save" in name:
                p += 0.1
    theirs.save_pretrained(tmp_path / "adapter")
    model = lora.load(minift.load_model(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(said(model), theirs_said(theirs, kind), rtol=0, atol=1e-5)


def broken(tmp_path, config=None, **tensors):
    """The adapter of a tiny classifier, with something else in its config or its tensors (None: left out)."""
    lora.save(prepared("bert", "classify"), tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    path = tmp_path / "adapter_model.safetensors"
    found = {key: tensor.clone() for key, tensor in safetensors.load(path).items()} | tensors
    safetensors.save(path, {key: tensor for key, tensor in found.items() if tensor is not None})


QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    ("config", "tensors", "parts"),
    [
        ({"peft_type": "IA3"}, {}, ["adapter_config.json", "'IA3'", "no adapter of LoRA's"]),
        ({"r": None}, {}, ["r None"]),
        ({"lora_alpha": "5"}, {}, ["lora_alpha '5'"]),
        ({"use_dora": True}, {}, ["use_dora is True"]),
        ({"rank_pattern": {"query": 2}}, {}, ["rank_pattern is {'query': 2}"]),
        ({"init_lora_weights": "pissa"}, {}, ["init_lora_weights is 'pissa'"]),  # it changes the base
        ({"r": 4}, {}, ["adapter_model.safetensors", "lora_A.weight, (3, 16), is (4, 16) in this model"]),
        ({}, {f"{QUERY}.lora_B.weight": None}, ["A of a layer without B"]),
        ({}, {"base_model.model.classifier.weight": torch.ones(2, 16)}, ["(2, 16), is (3, 16)", "its labels"]),
        ({}, {"base_model.model.odd": torch.ones(2)}, ["odd, (2,), has no place", "load the base"]),
    ],
    ids=str,
)
def test_an_adapter_that_does_not_fit_is_an_error_and_leaves_the_model_as_it_is(tmp_path, config, tensors, parts):
    broken(tmp_path, config, **tensors)
    model = miniatures.tiny("bert", "classify")
    before = copies(model)
    with pytest.raises(minift.Error) as caught:
        lora.load(model, tmp_path)
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value
    after = copies(model)
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert all(p.requires_grad for p in model.parameters())


def test_a_head_that_was_trained_apart_from_the_words_is_no_head_of_a_tied_model(tmp_path):
    lora.save(prepared("bert", "mlm"), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = {key: tensor.clone() for key, tensor in safetensors.load(path).items()}
    tensors["base_model.model.cls.predictions.decoder.weight"] += 1
    safetensors.save(path, tensors)
    model = miniatures.tiny("bert", "mlm")
    with pytest.raises(minift.Error, match=r"decoder\.weight is not bert\.embeddings\.word_embeddings\.weight"):
        lora.load(model, tmp_path)
    assert torch.equal(said(model), said(miniatures.tiny("bert", "mlm")))


# -- runs -------------------------------------------------------------------------------------------------------------

QUICK = {"max_steps": 4, "batch_size": 4, "device": "cpu", "tune": "lora", "lora_rank": 4}
TEXTS = ["The good film was very good, and never dull again. " * 3] * 12
PAIRS = [{"src": f"the good bad {i}", "tgt": f"bad {i}"} for i in range(12)]


def finetune(task, folder, **values):
    lines = []
    return minift.finetune(task, say=lines.append, out=folder, **(QUICK | values)), "\n".join(lines)


@pytest.mark.parametrize(
    ("task", "base", "rows"),
    [
        ("classify", "bert", tiny.rows(16)),
        ("classify", "gpt2", tiny.rows(16)),
        ("lm", "gpt2", TEXTS),
        ("translate", "bart", PAIRS),
    ],
)
def test_a_run_keeps_the_adapter_beside_the_merged_model(tmp_path, task, base, rows):
    folder = getattr(tiny, f"{base}_folder")(tmp_path / "base")
    run, lines = finetune(task, tmp_path / "run", model=str(folder), train=rows, valid=rows[:4], baselines=True)
    layers = {"bert": "self.query (2)", "gpt2": "attn.c_attn (2)", "bart": "decoder.layers.*.self_attn.v_proj (2)"}
    assert "(--tune lora)\n           LoRA of rank 4, alpha 16, beside " in lines and layers[base] in lines
    assert run.train["learning"] < run.train["parameters"] / 3 and run.baselines["random_weights"]

    model = minift.load_model(run.folder)  # what predict and transformers read: a plain model, LoRA merged
    for name, p in run.model.named_parameters():
        assert torch.equal(model.get_parameter(name), p)
    name = json.loads((run.folder / "config.json").read_text())["architectures"][0]
    theirs = getattr(transformers, name).from_pretrained(run.folder).state_dict()
    ours = safetensors.load(run.folder / "model.safetensors")
    assert not [key for key in ours if not torch.equal(theirs[key], ours[key])]
    found = minift.evaluate(run.folder, rows[:4])
    assert found == {name: pytest.approx(value, abs=1e-5) for name, value in run.metrics["valid"].items()}

    again = minift.load_model(folder, model.kind, model.config.labels)
    frozen = copies(again)
    lora.load(again, run.folder / "adapter")
    lora.merge(again)
    same = [name for name, p in again.named_parameters() if torch.equal(p, frozen[name])]
    assert len(frozen) - len(same) == {"bert": 6, "gpt2": 3 - (task == "lm"), "bart": 12}[base]
    for name, p in again.named_parameters():
        assert torch.equal(p, run.model.get_parameter(name)), name
    config = json.loads((run.folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder) and config["r"] == 4 and config["lora_alpha"] == 16
    assert config["fan_in_fan_out"] is (base == "gpt2")


def test_what_moved_is_the_share_of_the_change_in_the_matrices_that_have_one(tmp_path):
    folder = tiny.bert_folder(tmp_path / "base")
    run, _ = finetune("classify", tmp_path / "run", model=str(folder), train=tiny.rows(16), lora_layers="query")
    assert run.train["moved"].keys() == {"block 1", "block 2", "head"}
    before = minift.load_model(folder)
    name = "bert.encoder.layer.1.attention.self.query.weight"
    first, last = before.get_parameter(name), run.model.get_parameter(name)
    share = float(((last - first).norm() / first.norm()).detach())
    assert run.train["moved"]["block 2"] == pytest.approx(share, abs=1e-5) and share > 0
    lora.unmerge(run.model)
    assert torch.equal(run.model.get_parameter(name), first)


def test_a_model_with_lora_given_in_memory_is_refused_until_it_is_merged(tmp_path):
    folder = tiny.bert_folder(tmp_path / "base")
    run, _ = finetune("classify", tmp_path / "a", model=str(folder), train=tiny.rows(16))
    pair = run.model, run.tokenizer
    lora.unmerge(run.model)
    assert minift.predict(pair, ["good"])  # it predicts, merged or not
    with pytest.raises(minift.Error, match="this model has LoRA"):
        finetune("classify", tmp_path / "b", model=pair, train=tiny.rows(16), tune="all")
    lora.merge(run.model)
    more, _ = finetune("classify", tmp_path / "c", model=pair, train=tiny.rows(16), tune="last:1")
    assert not (more.folder / "adapter").exists()


def test_the_usual_rate_of_lora_is_ten_times_that_of_all():
    assert optim.usual_rate(768, 12, "lora") == 5e-4 == pytest.approx(10 * optim.usual_rate(768, 12, "all"))
    assert optim.usual_new_rate(1e-3, "encoder-decoder", "lora") == 1e-3


def test_the_random_baseline_learns_whole_at_once_and_at_one_rate(tmp_path, monkeypatch):
    seen, fit = [], runs.fit

    def spy(worker, model, tables, examples, options, *rest):
        seen.append((options.rate_decay, options.unfreeze, bool(lora.adapted(model)), options.lr))
        return fit(worker, model, tables, examples, options, *rest)

    monkeypatch.setattr(runs, "fit", spy)
    how = {"model": str(tiny.bert_folder(tmp_path / "base")), "train": tiny.rows(16), "valid": tiny.rows(4)}
    finetune("classify", tmp_path / "run", baselines=True, rate_decay=2.0, unfreeze="gradual", **how)
    rates = [optim.usual_rate(16, 2, tune) for tune in ("lora", "all")]
    assert seen == [(2.0, "gradual", True, rates[0]), (1.0, "once", False, rates[1])]
