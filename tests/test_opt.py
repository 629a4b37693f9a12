"""OPT: the formula in its two forms, the prefixes of the published files, and the token before every text. What it
shares with other models is in test_laws.py, test_parity.py, test_pretrained.py, test_beams.py, test_classify.py and
test_bpe.py. Run me: pytest tests/test_opt.py"""

import json
import math

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, OPTConfig, OPTForCausalLM, OPTModel

import minift
from minift import cli, data, generation, safetensors
from minift.models.opt import OPT, Config
from minift.tasks.lm import LM

torch.set_num_threads(1)
V = 40
SIZES = {"max_position_embeddings": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"vocab_size": V, "ffn_dim": 24}
FORMS = {  # what config.json says
    "125m": {},
    "350m": {"word_embed_proj_dim": 12, "do_layer_norm_before": False},
    "no norm at the end": {"_remove_final_layer_norm": True},
    "no biases, norms without weights": {"enable_bias": False, "layer_norm_elementwise_affine": False},
    "narrow, norms before": {"word_embed_proj_dim": 12},
}
each_form = pytest.mark.parametrize("form", FORMS)


def lively(form, kind="lm"):
    torch.manual_seed(0)
    model = OPT(Config(**SIZES, **FORMS[form]), kind).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += torch.empty_like(p).uniform_(-0.3, 0.3)
    return model


def text(length, seed=0):
    return torch.randint(3, V, (1, length), generator=torch.Generator().manual_seed(100 * length + seed))


def close(found, expected, atol=5e-6):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@each_form
def test_opt_is_the_published_formula(form):
    """Positions from row 2 on; ReLU; norms with 1e-5 before each half and at the end, or after each addition and none
    at the end; scores divided by the root of a head's channels; the embedding is the head."""
    model, ids, T = lively(form).double(), text(7), 7
    p = {name.removeprefix("model.decoder."): value for name, value in model.named_parameters()}
    before = form != "350m"

    def norm(x, name):
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * p.get(f"{name}.weight", 1) + p.get(f"{name}.bias", 0)

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0)

    x = p["embed_tokens.weight"][ids[0]]
    x = linear(x, "project_in") if "project_in.weight" in p else x
    x = x + p["embed_positions.weight"][2 : 2 + T]
    for i in range(2):
        layer = f"layers.{i}"
        y = norm(x, f"{layer}.self_attn_layer_norm") if before else x
        q, k, v = (linear(y, f"{layer}.self_attn.{name}_proj") for name in "qkv")
        heads = []
        for part in slice(0, 8), slice(8, 16):
            scores = (q[:, part] @ k[:, part].T / math.sqrt(8)).masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
            heads.append(scores.softmax(-1) @ v[:, part])
        x = x + linear(torch.cat(heads, -1), f"{layer}.self_attn.out_proj")
        x = x if before else norm(x, f"{layer}.self_attn_layer_norm")
        y = norm(x, f"{layer}.final_layer_norm") if before else x
        x = x + linear(linear(y, f"{layer}.fc1").clamp(min=0), f"{layer}.fc2")
        x = x if before else norm(x, f"{layer}.final_layer_norm")
    x = x if form in ("350m", "no norm at the end") else norm(x, "final_layer_norm")
    x = linear(x, "project_out") if "project_out.weight" in p else x
    close(model(ids)[0], x @ p["embed_tokens.weight"].T, atol=1e-10)


def test_the_last_position_is_the_last_row_of_the_table():
    model, ids = lively("125m"), text(32)
    before = model(ids)
    with torch.no_grad():
        model.model.decoder.embed_positions.weight[33] += 1
    assert (model(ids) != before).any(-1)[0].nonzero()[:, 0].tolist() == [31]
    with pytest.raises(minift.Error, match="33 tokens, but the model has 32 positions; shorten the text"):
        model(text(33))


# -- the files --------------------------------------------------------------------------------------------------------


def published(folder, form, prefix, head):
    """transformers' model, its file with keys as the published ones have them; the model itself."""
    torch.manual_seed(0)
    theirs = OPTForCausalLM(OPTConfig(**SIZES, **FORMS[form])).eval()
    for p in theirs.parameters():
        torch.nn.init.uniform_(p, -0.5, 0.5)
    theirs.save_pretrained(folder)
    keys = {key: tensor.clone() for key, tensor in safetensors.load(folder / "model.safetensors").items()}
    keys = {prefix + key.removeprefix("model.decoder."): tensor for key, tensor in keys.items()}
    if head:  # the 350M's file has the tied head, too
        keys["lm_head.weight"] = theirs.lm_head.weight.detach().clone()
    safetensors.save(folder / "model.safetensors", keys)
    return theirs


@pytest.mark.parametrize("form", ["125m", "350m"])
@pytest.mark.parametrize("prefix", ["model.decoder.", "decoder."])
@pytest.mark.parametrize("head", [False, True])
def test_files_with_either_prefix_load(tmp_path, form, prefix, head):
    theirs = published(tmp_path, form, prefix, head)
    model = minift.load_model(tmp_path)
    report = model.report
    assert len(report.mapped) == len(list(model.parameters())) and report.tied == (
        ["lm_head.weight = model.decoder.embed_tokens.weight"] if head else []
    )
    assert not any((report.new, report.missing, report.unexpected, report.dropped, report.notes))
    with torch.inference_mode():
        close(model(text(9)), theirs(text(9)).logits)


def test_a_missing_and_an_unknown_weight_are_named_whatever_the_prefix(tmp_path):
    published(tmp_path, "125m", "decoder.", head=False)
    keys = {key: tensor.clone() for key, tensor in safetensors.load(tmp_path / "model.safetensors").items()}
    safetensors.save(tmp_path / "model.safetensors", keys | {"decoder.layers.1.fc3.weight": torch.ones(2)})
    with pytest.raises(minift.Error, match=r"the weights hold unknown model\.decoder\.layers\.1\.fc3\.weight"):
        minift.load_model(tmp_path)
    del keys["decoder.layers.1.fc2.bias"]
    safetensors.save(tmp_path / "model.safetensors", keys)
    with pytest.raises(minift.Error, match=r"the weights lack model\.decoder\.layers\.1\.fc2\.bias"):
        minift.load_model(tmp_path)


@each_form
def test_what_is_saved_transformers_loads_with_its_head_and_without(tmp_path, form):
    model = lively(form)
    minift.save(model, None, tmp_path)
    keys = safetensors.load(tmp_path / "model.safetensors")
    assert len(keys) == len(list(model.parameters())) and all(key.startswith("model.decoder.") for key in keys)
    with torch.inference_mode():
        close(AutoModelForCausalLM.from_pretrained(tmp_path).eval()(text(9)).logits, model(text(9)))
        close(OPTModel.from_pretrained(tmp_path).eval()(text(9)).last_hidden_state, model.hidden(text(9)))
    again = minift.load_model(tmp_path)
    assert again.config == model.config and torch.equal(again(text(9)), model(text(9)))


def test_positions_are_counted_from_the_mask_as_in_transformers(tmp_path):
    model, ids = lively("125m"), torch.cat((text(9), text(9, 1), text(9, 2)))
    mask = torch.tensor([[0] * 4 + [1] * 5, [1] * 9, [0] * 8 + [1]])
    minift.save(model, None, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        close(model(ids, mask)[mask.bool()], theirs(ids, attention_mask=mask).logits[mask.bool()])


def test_a_narrow_hidden_state_is_what_the_head_reads():
    model = lively("350m", "classify")
    assert model.hidden(text(5)).shape == (1, 5, 12) and model.pooled(text(5)).shape == (1, 12)
    assert model.score.weight.shape == (2, 12) and model(text(5)).shape == (1, 2)
    weight, _ = lively("350m").unembedding
    assert weight.shape == (V, 12)


# -- the token before every text --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.opt_folder(tmp_path_factory.mktemp("opt") / "opt")


def test_a_document_begins_and_ends_with_one_end_token(folder):
    tokenizer = minift.load_tokenizer(folder)
    (row,) = LM(tokenizer, 48).training(data.read(["the film"]))
    inner = tokenizer.encode("the film")[1:]
    assert row["ids"] == [2, *inner] and row["target"] == [*inner, 2]


def test_a_prompt_begins_with_it_as_in_transformers(folder):
    model, tokenizer = minift.load(folder)
    theirs, their_tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for prompt in "the good film", "", " a":
        ids = their_tokenizer(prompt, return_tensors="pt")["input_ids"]
        assert ids[0, 0] == 2
        new = theirs.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
        new = new[: new.index(2)] if 2 in new else new
        found = generation.generate(model, tokenizer, prompt, max_new_tokens=12)
        assert found == their_tokenizer.decode(new)


def test_a_language_model_is_fine_tuned_checked_and_writes(folder, tmp_path, capsys):
    run = tmp_path / "run"
    (tmp_path / "text.txt").write_text("the film was good and the meal was bad. " * 60)
    how = ("--max-steps", "5", "--lr", "0.01", "--device", "cpu", "--out", str(run))
    cli.main(["finetune", "lm", "--model", str(folder), "--train", str(tmp_path / "text.txt"), *how])
    assert "\n   film was good and |" in capsys.readouterr().out  # what it was to go on with: no </s> before it
    cli.main(["check", str(run)])
    assert "OPTForCausalLM" in capsys.readouterr().out
    cli.main(["generate", str(run), "--prompt", "the film", "--max-new-tokens", "4"])
    assert capsys.readouterr().out.startswith("the film")
    assert json.loads((run / "config.json").read_text())["pad_token_id"] == 1
    ours, theirs = minift.load_model(run), AutoModelForCausalLM.from_pretrained(run).eval()
    with torch.inference_mode():
        close(theirs(text(30)).logits, ours(text(30)), atol=1e-5)
