"""GPT-Neo: the formula, the window, its scores, and GPT-3's table. What it shares with other models is in test_laws.py,
test_parity.py, test_pretrained.py, test_beams.py and test_classify.py. Run me: pytest tests/test_gpt_neo.py"""

import math

import pytest
import tiny
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, GPTNeoConfig, GPTNeoForCausalLM

import minift
from minift import cli
from minift.models.gpt_neo import GPT3, Config, GPTNeo

torch.set_num_threads(1)
V, C, HEADS, WINDOW = 40, 16, 2, 3
TYPES = [[["global", "local"], 1], [["local"], 1]]


def lively(window=WINDOW, **more):
    """A GPT-Neo of three blocks, global, local, local, none of its parameters at its initial value."""
    torch.manual_seed(0)
    sizes = {"max_position_embeddings": 32, "hidden_size": C, "num_layers": 3, "num_heads": HEADS}
    model = GPTNeo(Config(V, attention_types=TYPES, window_size=window, **sizes, **more)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += torch.empty_like(p).uniform_(-0.3, 0.3)
    return model


def text(length, seed=0):
    return torch.randint(1, V, (1, length), generator=torch.Generator().manual_seed(100 * length + seed))


def close(found, expected, atol=5e-6):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def norm(x, p, name):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def test_gpt_neo_is_the_published_formula():
    """Norms first, with 1e-5; scores as they are; a local block sees a token and the two before it; biases where
    attention ends and in the MLP; the tanh GELU; positions from 0; the embedding is the head."""
    model, ids, T = lively().double(), text(9), 9
    p = {name.removeprefix("transformer."): value for name, value in model.named_parameters()}
    x = p["wte.weight"][ids[0]] + p["wpe.weight"][:T]
    for i, kind in enumerate(["global", "local", "local"]):
        y = norm(x, p, f"h.{i}.ln_1")
        q, k, v = (y @ p[f"h.{i}.attn.attention.{name}_proj.weight"].T for name in "qkv")
        gathered = torch.zeros(T, C, dtype=torch.float64)
        for t in range(T):
            first = max(0, t - 2) if kind == "local" else 0
            for part in slice(0, 8), slice(8, 16):
                weights = (k[first : t + 1, part] @ q[t, part]).softmax(0)
                gathered[t, part] = weights @ v[first : t + 1, part]
        out = f"h.{i}.attn.attention.out_proj"
        x = x + gathered @ p[f"{out}.weight"].T + p[f"{out}.bias"]
        y = norm(x, p, f"h.{i}.ln_2") @ p[f"h.{i}.mlp.c_fc.weight"].T + p[f"h.{i}.mlp.c_fc.bias"]
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + y @ p[f"h.{i}.mlp.c_proj.weight"].T + p[f"h.{i}.mlp.c_proj.bias"]
    close(model(ids)[0], norm(x, p, "ln_f") @ p["wte.weight"].T, atol=1e-10)


# -- the window -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [255, 256, 257, 300])
def test_the_published_window_of_256_is_that_of_transformers(length, tmp_path):
    torch.manual_seed(0)
    types = [[["global", "local"], 1]]
    config = GPTNeoConfig(vocab_size=V, hidden_size=32, num_layers=2, num_heads=2, attention_types=types)
    theirs = GPTNeoForCausalLM(config).eval()
    assert config.window_size == 256 and config.max_position_embeddings == 2048
    for p in theirs.parameters():
        torch.nn.init.uniform_(p, -0.5, 0.5)
    theirs.save_pretrained(tmp_path)
    ours, ids = minift.load_model(tmp_path), text(length)
    with torch.inference_mode():
        close(ours(ids), theirs(ids).logits, atol=1e-4)
        mask = torch.arange(length)[None] < length - 3
        close(ours(ids, mask)[mask], theirs(ids, attention_mask=mask.long()).logits[mask], atol=1e-4)
        cache, parts = {}, []
        for part in ids.split([200, 50, length - 252, 1, 1], 1):  # over the edge of the window, token by token
            parts.append(ours.head(ours.hidden(part, None, cache)))
        close(torch.cat(parts, 1), theirs(ids).logits, atol=1e-4)


def test_padding_in_the_middle_of_a_text_takes_no_room_in_the_window():
    model, ids = lively(), text(8)
    wider = torch.cat((ids[:, :3], text(5), ids[:, 3:6], text(2), ids[:, 6:]), 1)
    mask = torch.tensor([[1] * 3 + [0] * 5 + [1] * 3 + [0] * 2 + [1] * 2])
    close(model(wider, mask)[mask.bool()], model(ids)[0])
    woven, other = torch.cat((ids[:, :4], text(6, 1), ids[:, 4:]), 1), torch.tensor([[1] * 4 + [2] * 6 + [1] * 4])
    close(model(woven, other)[other == 1], model(ids)[0])
    close(model(woven, other)[other == 2], model(text(6, 1))[0])


def test_a_token_is_seen_by_a_local_block_as_long_as_the_window_says():
    sizes = {"max_position_embeddings": 32, "hidden_size": C, "num_heads": HEADS}
    torch.manual_seed(0)
    for window in 1, 2, 5, 8, 9:
        model = GPTNeo(Config(V, num_layers=1, attention_types=[[["local"], 1]], window_size=window, **sizes)).eval()
        ids = text(8)
        other = ids.clone()
        other[0, 1] = ids[0, 1] % (V - 1) + 1
        for mask in None, torch.ones_like(ids):
            changed = (model(ids, mask) != model(other, mask)).any(-1)[0].nonzero()[:, 0].tolist()
            assert changed == list(range(1, min(1 + window, 8)))


# -- the scores -------------------------------------------------------------------------------------------------------


def test_scores_are_computed_in_float32_even_where_the_rest_is_not(monkeypatch):
    seen, real = [], F.scaled_dot_product_attention

    def attend(q, k, v, **how):
        y = real(q, k, v, **how)
        seen.append({t.dtype for t in (q, k, v, y)} | ({torch.bfloat16} if torch.is_autocast_enabled("cpu") else set()))
        return y

    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    model, ids = lively(), text(8)
    exact = model(ids)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(ids)
    assert model.bfloat16()(ids).dtype == torch.bfloat16
    assert seen == [{torch.float32}] * 9
    assert 0 < (mixed - exact).abs().max() < 0.3  # the rest was in bfloat16


def test_a_fresh_models_scores_are_as_small_as_if_they_were_divided():
    torch.manual_seed(0)
    model = GPTNeo(Config(V, hidden_size=256, num_layers=2, num_heads=4, attention_types=[[["global"], 2]]))
    attention = model.blocks[0].attn.attention
    assert math.isclose(attention.q_proj.weight.std().item(), 0.02 / math.sqrt(64), rel_tol=0.05)
    assert math.isclose(attention.k_proj.weight.std().item(), 0.02, rel_tol=0.05)


# -- GPT-3's eight shapes ---------------------------------------------------------------------------------------------

TABLE = {  # Brown et al. 2020, table 2.1: parameters, layers, width, heads, channels of a head
    "small": ("125M", 12, 768, 12, 64),
    "medium": ("350M", 24, 1024, 16, 64),
    "large": ("760M", 24, 1536, 16, 96),
    "xl": ("1.3B", 24, 2048, 24, 128),
    "2.7b": ("2.7B", 32, 2560, 32, 80),
    "6.7b": ("6.7B", 32, 4096, 32, 128),
    "13b": ("13.0B", 40, 5140, 40, 128),
    "175b": ("175.0B", 96, 12288, 96, 128),
}


@pytest.mark.parametrize("name", TABLE)
def test_gpt3s_shapes_have_the_parameters_of_the_papers_table(name):
    printed, layers, width, heads, size = TABLE[name]
    config = GPT3[name]
    with torch.device("meta"):  # shapes alone: 175 billion parameters would take 700 GB
        count = sum(p.numel() for p in GPTNeo(config).parameters())
    unit = {"M": 1e6, "B": 1e9}[printed[-1]]
    digits = 0 if name in ("13b", "175b") else len(printed[:-1].partition(".")[2])  # of 12.85 and 174.6 it made wholes
    if name == "medium":  # 356M: the paper's 350M is rounder than the rest of its table
        assert round(count / unit) == 356
    else:
        assert round(count / unit, digits) == float(printed[:-1])
    assert config.num_layers == layers and config.vocab_size == 50257 and config.max_position_embeddings == 2048
    assert config.kinds == ["global", "local"] * (layers // 2)
    if heads * size == width:
        assert (config.hidden_size, config.num_heads) == (width, heads)
    else:  # printed so that no model can have it: the width here is the nearest product, or the heads are
        assert config.hidden_size // config.num_heads == size
        assert (config.hidden_size, config.num_heads) == {"xl": (2048, 16), "13b": (5120, 40)}[name]


def test_gpt3_small_is_a_model_that_saves_and_that_transformers_loads(tmp_path):
    torch.manual_seed(0)
    config = GPT3["small"]
    small = GPTNeo(Config(61, 64, config.hidden_size, 2, config.num_heads, [[["global", "local"], 1]])).eval()
    minift.save(small, None, tmp_path)
    with torch.inference_mode():
        close(AutoModelForCausalLM.from_pretrained(tmp_path)(text(12)).logits, small(text(12)), atol=1e-4)
        assert 0.9 < F.cross_entropy(small(text(30))[0, :-1], text(30)[0, 1:]) / math.log(61) < 1.2  # nothing known


# -- the commands -----------------------------------------------------------------------------------------------------


def test_a_language_model_is_fine_tuned_checked_and_writes(tmp_path, capsys):
    folder, run = tiny.gpt_neo_folder(tmp_path / "neo"), tmp_path / "run"
    (tmp_path / "text.txt").write_text("the film was good and the meal was bad. " * 60)
    how = ("--max-steps", "5", "--lr", "0.01", "--device", "cpu", "--out", str(run))
    cli.main(["finetune", "lm", "--model", str(folder), "--train", str(tmp_path / "text.txt"), *how])
    cli.main(["check", str(run)])
    assert "GPTNeoForCausalLM" in capsys.readouterr().out
    cli.main(["generate", str(run), "--prompt", "the film", "--max-new-tokens", "4"])
    assert capsys.readouterr().out.startswith("the film")
    ours, theirs = minift.load_model(run), AutoModelForCausalLM.from_pretrained(run).eval()
    with torch.inference_mode():
        close(theirs(text(30)).logits, ours(text(30)), atol=1e-5)
