"""An encoder-decoder of two BERTs: the logits, files, texts and training of transformers; names, tokenizers, rates.
Run me: pytest tests/test_bert2bert.py; a published shape too: pytest -m "long or not long" tests/test_bert2bert.py
"""

import json
import random

import pytest
import tiny
import torch
import two_stacks
from transformers import AutoTokenizer, BertConfig, BertTokenizer, EncoderDecoderConfig, EncoderDecoderModel
from transformers.initialization import no_init_weights

import minift
from minift import cli, data, generation, optim, pretrained, safetensors, settings, train
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
    assert list(cache) == [key for i in range(model.config.decoder.num_hidden_layers) for key in (i, (i, "cross"))]


@odd
def test_a_row_without_a_token_gives_finite_logits_and_gradients(name, pairs):
    two_stacks.an_empty_row_is_finite(pairs(name)[1])


@odd
def test_recomputing_gives_the_same_gradients(name, pairs):
    two_stacks.recomputing_gives_the_same_gradients(pairs(name)[1], idle=2)  # the pooler's


@odd
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_twenty_steps_of_training_are_those_of_transformers(name, pairs, dtype, most):
    """Law 8"""
    theirs, ours = two_stacks.twenty_steps_are_those_of_transformers(*pairs(name), PAD, dtype, most)
    for key, tensor in ours.items():  # (a bias of the keys has the gradient 0, in practice a rounding)
        off = (tensor - theirs[key.replace("encoder.bert.", "encoder.")]).abs()
        assert key.endswith("key.bias") or (off.mean() < 1e-5 if dtype == torch.float32 else off.max() < 1e-8), key


# -- what it writes ---------------------------------------------------------------------------------------------------


def texts(count, seed):
    chance = random.Random(seed)
    return [[chance.randrange(6, 60) for _ in range(chance.randint(2, 9))] for _ in range(count)]


def padded(rows):
    ids = torch.full((len(rows), max(map(len, rows))), PAD)
    for row, text in zip(ids, rows, strict=True):
        row[: len(text)] = torch.tensor(text)
    return ids, ids != PAD


@pytest.fixture(scope="module", params=["alike", "the sides differ in all"])
def writers(request, tmp_path_factory):
    """(a model of transformers that has learned random pairs for some steps, so that what it writes varies; ours)"""
    torch.manual_seed(0)
    theirs, chance = EncoderDecoderModel(ODD[request.param]()), random.Random(1)
    known = [(row, [*chance.choices(range(6, 60), k=chance.randint(1, 10)), SEP]) for row in texts(12, 7) * 3]
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=5e-3)
    for _ in range(120):
        sources, targets = zip(*chance.sample(known, 24), strict=True)
        (src, mask), (target, real) = padded(sources), padded(targets)
        out = theirs(input_ids=src, attention_mask=mask.long(), labels=target.masked_fill(~real, IGNORE))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("writer")
    theirs.generation_config.update(pad_token_id=PAD, eos_token_id=SEP, decoder_start_token_id=CLS, max_length=16)
    theirs.eval().save_pretrained(folder)
    return theirs, minift.load_model(folder)


@pytest.mark.parametrize("how", [{}, {"beams": 4}, {"beams": 3, "length_penalty": 2.0, "no_repeat_ngram": 2}])
def test_greedily_and_by_beams_it_writes_what_transformers_writes(writers, how):
    theirs, ours = writers
    src, mask = padded(texts(12, 7) + texts(4, 8))
    names = {"beams": "num_beams", "no_repeat_ngram": "no_repeat_ngram_size"}
    said = theirs.generate(src, attention_mask=mask.long(), **{names.get(k, k): v for k, v in how.items()}).tolist()
    right = [row[1 : row.index(SEP)] if SEP in row else row[1:] for row in said]
    found = generation.generate_ids(ours, src, mask, **how)
    assert [row[: row.index(PAD)] if PAD in row else row for row in found] == [
        row[: row.index(PAD)] if PAD in row else row for row in right
    ]
    assert len({tuple(row) for row in found}) > 8 and len({len(row) for row in found}) > 2


# -- two BERTs by name ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{name: the folder of a tiny BERT}: two of one vocabulary, one of them with a head; one of another shape, which
    speaks another language."""
    root = tmp_path_factory.mktemp("berts")
    found = {"plain": tiny.bert_folder(root / "plain"), "other": root / "other"}
    torch.manual_seed(3)
    model, tokenizer = minift.load(found["plain"], kind="mlm")
    minift.save(model, tokenizer, root / "mlm")
    pieces = ["[UNK]", "[SEP]", "le", "bon", "[CLS]", "[PAD]", "[MASK]", "mauvais", "un", *"abcdefghijklmnopqrstuvwxyz"]
    pieces += ["##" + c for c in pieces[-26:]]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = bert.Config(vocab_size=len(pieces) + 1, max_position_embeddings=32, pad_token_id=5, **sizes)
    files = {"vocab.txt": "\n".join(pieces) + "\n", "tokenizer_config.json": json.dumps({"do_lower_case": False})}
    tiny.folder(found["other"], bert.BERT(config, "mlm"), files)
    return {**found, "mlm": root / "mlm"}


def tensors(folder):
    return safetensors.load(folder / "model.safetensors")


def test_both_sides_have_the_weights_of_their_folders_and_the_rest_is_new(folders, tmp_path):
    model, tokenizer = minift.load(f"bert2bert:{folders['plain']},{folders['mlm']}")
    minift.save(model, tokenizer, tmp_path)
    found, plain, mlm = (tensors(folder) for folder in (tmp_path, folders["plain"], folders["mlm"]))
    assert found.keys() > {f"encoder.{key}" for key in plain} | {f"decoder.{key}" for key in mlm}
    assert all(torch.equal(found[f"encoder.{key}"], plain[key]) for key in plain)
    assert all(torch.equal(found[f"decoder.{key}"], mlm[key]) for key in mlm)
    new = found.keys() - {f"encoder.{key}" for key in plain} - {f"decoder.{key}" for key in mlm}
    assert new == set(model.report.new) and all(".crossattention." in name for name in new) and len(new) == 20
    for name in new:
        norm = name.endswith("LayerNorm.weight")
        assert (found[name] == norm).all() if found[name].ndim == 1 else 0.015 < found[name].std() < 0.025
    assert model.report.fault("") is None and len(model.report.mapped) == len(plain) + len(mlm)
    assert model.training is False and (model.start, model.longest, len(model.blocks)) == (CLS, 48, 4)


def test_a_head_a_pooler_and_a_bridge_that_no_folder_has_are_new_and_named(folders):
    model = minift.load_model(f"bert2bert:{folders['other']},{folders['plain']}")
    parts = {
        name.split(".")[1] if name.startswith("decoder.cls") else name.split(".layer.")[0] for name in model.report.new
    }
    assert parts == {"cls", "decoder.bert.encoder", "enc_to_dec_proj.weight", "enc_to_dec_proj.bias"} | {
        "encoder.bert.pooler.dense.weight", "encoder.bert.pooler.dense.bias"
    }  # fmt: skip
    assert model.enc_to_dec_proj.weight.shape == (16, 32) and 0.01 < model.enc_to_dec_proj.weight.std() < 0.03
    assert list(model.report.new) == [name for name in model.state_dict() if name in model.report.new]


def test_what_is_new_comes_from_torchs_generator(folders):
    name, found = f"bert2bert:{folders['plain']},random:{folders['plain']}", []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(minift.load_model(name).state_dict())
    same = {key: torch.equal(found[0][key], found[1][key]) for key in found[0]}
    other = {key for key in found[0] if not torch.equal(found[0][key], found[2][key])}
    assert all(same.values())
    assert {key.split(".")[0] for key in other} == {
        "decoder"
    } and "decoder.bert.embeddings.word_embeddings.weight" in other


def test_one_bert_twice_is_two_and_a_random_side_learned_nothing(folders):
    model = minift.load_model(f"bert2bert:{folders['plain']},{folders['plain']}")
    a, b = (side.bert.embeddings.word_embeddings.weight for side in (model.encoder, model.decoder))
    assert torch.equal(a, b)
    with torch.no_grad():
        a += 1
    assert not torch.equal(a, b) and torch.equal(b, tensors(folders["plain"])["embeddings.word_embeddings.weight"])
    model = minift.load_model(f"bert2bert:random:{folders['plain']},{folders['plain']}")
    assert [n for n, _ in model.encoder.named_parameters()] == [
        n.removeprefix("encoder.") for n in model.report.new if n.startswith("encoder.")
    ]


def test_a_saved_pair_is_loaded_again_and_measured_by_check(folders, tmp_path):
    model, tokenizer = minift.load(f"bert2bert:{folders['other']},{folders['plain']}")
    minift.save(model, tokenizer, tmp_path)
    again, _ = minift.load(tmp_path)
    assert again.config == model.config and again.generation == model.generation and not again.report.new
    src, tgt = torch.tensor([[1, 8, 9, 3]]), torch.tensor([[CLS, 7, 8]])
    assert torch.equal(again(src, tgt), model(src, tgt))
    assert "EncoderDecoderModel" in pretrained.check(tmp_path)
    fresh = minift.load_model(f"random:{tmp_path}")
    assert fresh.report.new == [name for name, _ in fresh.named_parameters()] and fresh.generation == model.generation


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bert2bert:PLAIN", "bert2bert:PLAIN: give an encoder and a decoder, such as bert2bert:bert-nano,random:"),
        ("bert2bert:PLAIN,", "give an encoder and a decoder"),
        ("bert2bert:PLAIN,PLAIN,PLAIN", "give an encoder and a decoder"),
        ("bert2bert:bert-nan,PLAIN", "the encoder of bert2bert:bert-nan,PLAIN: bert-nan: neither a model that comes"),
        ("bert2bert:PLAIN,random:bert-nan", "the decoder of bert2bert:PLAIN,random:bert-nan: bert-nan: neither"),
        ("bert2bert:PLAIN,gpt2-nano", "the decoder of bert2bert:PLAIN,gpt2-nano: gpt2-nano: is a gpt2, where a BERT"),
        ("bert2bert:bert2bert:PLAIN,PLAIN", "the encoder of"),
        ("bert2bert:PLAIN,PLAIN/x", "the decoder of bert2bert:PLAIN,PLAIN/x: "),
    ],
)
@pytest.mark.parametrize("load", [minift.load, minift.load_model])
def test_a_name_that_is_no_pair_of_berts_is_refused_by_side(folders, name, message, load):
    name, message = (text.replace("PLAIN", str(folders["plain"])) for text in (name, message))
    with pytest.raises(Error) as caught:
        load(name)
    assert message in str(caught.value)


def test_a_side_without_a_tokenizer_is_named(folders, tmp_path):
    minift.save(minift.load_model(folders["plain"]), None, tmp_path)
    for load in minift.load, minift.load_tokenizer:
        with pytest.raises(Error, match=r"the decoder of bert2bert:.*: no tokenizer"):
            load(f"bert2bert:{folders['plain']},{tmp_path}")


def test_other_kinds_are_refused(folders):
    with pytest.raises(Error, match="encoder-decoder has no kind 'classify', but seq2seq"):
        minift.load(f"bert2bert:{folders['plain']},{folders['plain']}", kind="classify")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tie_encoder_decoder": True}, "config.json: tie_encoder_decoder is true: here each side has weights"),
        ({"decoder_start_token_id": None}, "config.json: decoder_start_token_id is not given: the token that"),
        ({"encoder": None}, "config.json: encoder is None, but must be the configuration of the encoder"),
        ({"decoder": {"model_type": "gpt2"}}, "config.json: its decoder is a gpt2, and here both sides are BERTs"),
        ({"encoder": {"model_type": "roberta"}}, "config.json: its encoder is a roberta"),
        ({"decoder": {"is_decoder": False}}, "config.json, decoder: is_decoder is false"),
        ({"decoder": {"add_cross_attention": False}}, "config.json, decoder: add_cross_attention is false"),
        ({"encoder": {"is_decoder": True}}, "config.json, encoder: is_decoder is true"),
        ({"encoder": {"hidden_size": "16"}}, "config.json, encoder: hidden_size is '16', but must be of type int"),
        ({"decoder": {"num_attention_heads": 5}}, "config.json, decoder: hidden_size 16 cannot be shared among"),
        ({"decoder": {"num_hidden_layers": 9000}}, "num_hidden_layers is 9002, the weights hold fewer"),
        ({"encoder": {"vocab_size": 50}}, "the weights have another shape: encoder.embeddings.word_embeddings.weight"),
    ],
)  # fmt: skip
def test_a_config_that_makes_no_pair_is_refused_by_place(folders, tmp_path, change, message):
    model = minift.load_model(f"bert2bert:{folders['plain']},{folders['plain']}")
    minift.save(model, None, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Error) as caught:
        minift.load_model(tmp_path)
    assert message in str(caught.value)
    assert "missing" not in str(caught.value)


def test_cross_attention_that_a_folder_lacks_is_an_error_and_an_unknown_key_too(folders, tmp_path):
    model = minift.load_model(f"bert2bert:{folders['plain']},{folders['plain']}")
    minift.save(model, None, tmp_path)
    found = {key: tensor.clone() for key, tensor in tensors(tmp_path).items()}
    gone = "decoder.bert.encoder.layer.1.crossattention.self.value.weight"
    for kept, message in (
        ({key: tensor for key, tensor in found.items() if key != gone}, f"the weights lack {gone}"),
        (found | {"decoder.bert.encoder.layer.0.adapter.weight": torch.ones(1)}, "the weights hold unknown decoder"),
    ):
        safetensors.save(tmp_path / "model.safetensors", kept)
        with pytest.raises(Error, match=message):
            minift.load_model(tmp_path)
    useless = {"encoder.embeddings.position_ids": torch.arange(48), "decoder.bert.pooler.dense.bias": torch.ones(16)}
    word = found["decoder.bert.embeddings.word_embeddings.weight"]
    safetensors.save(
        tmp_path / "model.safetensors", found | useless | {"decoder.cls.predictions.decoder.weight": word.clone()}
    )
    report = minift.load_model(tmp_path).report
    assert sorted(report.dropped) == sorted(useless) and len(report.tied) == 1 and not report.notes


# -- two vocabularies -------------------------------------------------------------------------------------------------


def test_one_vocabulary_for_both_sides_is_one_plain_tokenizer(folders, tmp_path):
    model, tokenizer = minift.load(f"bert2bert:{folders['plain']},random:{folders['mlm']}")
    assert type(tokenizer).__name__ == "WordPiece"
    minift.save(model, tokenizer, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt")
    }
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("the film was good").input_ids == tokenizer.encode("the film was good")
    ends = {"decoder_start_token_id": CLS, "eos_token_id": SEP, "pad_token_id": PAD, "max_length": 48}
    assert json.loads((tmp_path / "generation_config.json").read_text()) == ends
    assert EncoderDecoderModel.from_pretrained(tmp_path).generation_config.to_diff_dict().items() >= ends.items()


def test_two_vocabularies_read_and_write_and_are_saved_side_by_side(folders, tmp_path):
    name = f"bert2bert:{folders['plain']},{folders['other']}"
    model, tokenizer = minift.load(name)
    source, target = (minift.load_tokenizer(folders[one]) for one in ("plain", "other"))
    text = "un bon film"
    assert tokenizer.encode(text) == source.encode(text) != target.encode(text) == tokenizer.encode_target(text)
    assert (
        tokenizer.decode(target.encode(text), skip_special=True) == text and tokenizer.vocab_size == target.vocab_size
    )
    assert (tokenizer.cls, tokenizer.sep, tokenizer.unk) == (target.cls, target.sep, target.unk) == (4, 1, 0)
    assert tokenizer.pad == source.pad == 0 and tokenizer.mask is None and target.pad == 5
    assert model.generation == {
        "decoder_start_token_id": 4, "eos_token_id": 1, "pad_token_id": 5, "max_length": 32
    }  # fmt: skip
    minift.save(model, tokenizer, tmp_path)
    assert (tmp_path / "vocab.txt").read_bytes() == (folders["plain"] / "vocab.txt").read_bytes()
    assert {p.name for p in (tmp_path / "target").iterdir()} == {"vocab.txt", "tokenizer_config.json"}
    again = minift.load_tokenizer(tmp_path)
    assert again.encode(text) == tokenizer.encode(text) and again.encode_target(text) == tokenizer.encode_target(text)
    for there, ours in (tmp_path, source), (tmp_path / "target", target):
        assert BertTokenizer.from_pretrained(there)(text).input_ids == ours.encode(text)


def test_a_model_that_lies_in_target_is_no_second_tokenizer(folders, tmp_path):
    model, tokenizer = minift.load(folders["plain"])
    minift.save(model, tokenizer, tmp_path)
    minift.save(model, tokenizer, tmp_path / "target")
    assert type(minift.load_tokenizer(tmp_path)).__name__ == "WordPiece"


def test_a_vocabulary_that_does_not_fit_its_side_is_refused(folders, tmp_path):
    model, tokenizer = minift.load(f"bert2bert:{folders['plain']},{folders['other']}")
    minift.save(model, tokenizer.source, tmp_path)
    with pytest.raises(Error, match=f"the tokenizer has {tokenizer.source.vocab_size} tokens, the embedding"):
        minift.load(tmp_path)


def test_the_padding_of_either_side_changes_nothing(folders):
    """Sources are filled up with the source's [PAD], and no target is fed one that its model would see."""
    model, tokenizer = minift.load(f"bert2bert:{folders['other']},{folders['plain']}")
    task = Translate(tokenizer, 24)
    rows = [{"src": "abc", "tgt": "the good film"}, {"src": "a much longer one", "tgt": "bad"}]
    examples = task.examples(data.read(rows))
    batch = task.batch(examples)
    assert batch["src"][0, -1] == 5 == tokenizer.pad and batch["target"][0, 0] == tokenizer.cls == CLS
    together, _ = task.loss(model, batch)
    alone = [task.loss(model, task.batch([example])) for example in examples]
    torch.testing.assert_close(together, sum(loss for loss, _ in alone), rtol=1e-5, atol=1e-4)
    said = task.outputs(model, batch)
    for i, example in enumerate(examples):
        assert torch.equal(task.outputs(model, task.batch([example]))[0], said[i])


# -- a rate of its own for what is new --------------------------------------------------------------------------------


def peaks(model, optimizer):
    """{(rate, decay): the names of the parameters}"""
    names = {id(p): name for name, p in model.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        found.setdefault((group["lr"], group["weight_decay"]), set()).update(names[id(p)] for p in group["params"])
    return {key: names for key, names in found.items() if names}


@pytest.mark.parametrize("name", ["bert2bert:PLAIN,MLM", "PLAIN as a classifier"])
def test_what_is_new_has_a_rate_of_its_own_in_every_family(folders, name):
    if name == "PLAIN as a classifier":
        model = minift.load_model(folders["plain"], kind="classify")
    else:
        model = minift.load_model(f"bert2bert:{folders['plain']},{folders['mlm']}")
    new, shapes = set(model.report.new), {name: p.ndim for name, p in model.named_parameters()}
    found = peaks(model, optim.adamw(model, 1e-3, 0.1, lr_new=5e-3))
    assert found[5e-3, 0.1] | found[5e-3, 0.0] == new and found.keys() == {
        (rate, decay) for rate in (1e-3, 5e-3) for decay in (0.1, 0.0)
    }
    assert set.union(*found.values()) == shapes.keys()
    assert all((decay > 0) == (shapes[name] > 1) for (_, decay), names in found.items() for name in names)
    assert {rate for rate, _ in peaks(model, optim.adamw(model, 1e-3, 0.1))} == {1e-3}
    model.requires_grad_(False)
    model.get_parameter(model.report.new[0]).requires_grad_(True)
    assert list(peaks(model, optim.adamw(model, 1e-3, 0.1, lr_new=5e-3)).values()) == [{model.report.new[0]}]


@pytest.mark.parametrize("lr_new", [None, 1e-3, 2e-2])
def test_each_rate_rises_and_falls_from_its_own_peak(folders, lr_new):
    model, used = minift.load_model(folders["plain"], kind="classify"), []

    def watched(*of):
        optimizer = optim.adamw(*of, lr_new=lr_new)
        step = optimizer.step
        optimizer.step = lambda: used.append([group["lr"] for group in optimizer.param_groups]) or step()
        return optimizer

    options = settings.Finetune(lr=1e-3, warmup=0.5, schedule="linear", precision="fp32", log_every=1)
    logged = []
    batch = {"ids": torch.tensor([[2, 9, 3]]), "mask": torch.ones(1, 3, dtype=torch.bool)}
    loss = lambda model, batch: (model(batch["ids"], batch["mask"]).square().sum(), 1)
    train.train(model, [[[0]] * 4], lambda rows: batch, loss, options, log=logged.append, optimizer=watched)
    factors = [0.5, 1.0, 1.0, 0.5]
    peak = lr_new or 1e-3
    assert [rates[0] for rates in used] == pytest.approx([1e-3 * factor for factor in factors])
    assert [rates[2] for rates in used] == pytest.approx([peak * factor for factor in factors])
    assert [entry["lr"] for entry in logged] == pytest.approx([1e-3 * factor for factor in factors])


def test_a_rate_that_is_no_other_trains_as_before(folders):
    """The groups change no bit."""
    found = []
    for optimizer in (optim.adamw, lambda model, lr, decay: torch.optim.AdamW(
        optim.groups([*model.parameters()], decay), lr=lr, fused=True
    )):  # fmt: skip
        torch.manual_seed(0)
        model = minift.load_model(folders["plain"], kind="classify")
        batch = {"ids": torch.tensor([[2, 9, 3]]), "mask": torch.ones(1, 3, dtype=torch.bool)}
        loss = lambda model, batch: (model(batch["ids"], batch["mask"]).square().sum(), 1)
        options = settings.Finetune(lr=1e-3, precision="fp32")
        train.train(model, [[[0]] * 5], lambda rows, batch=batch: batch, loss, options, optimizer=optimizer)
        found.append(model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


# -- a whole run ------------------------------------------------------------------------------------------------------

WORDS = {"a": "un", "the": "le", "good": "bon", "bad": "mauvais"}


def pairs_of(count: int, seed: int) -> list[dict]:
    """A word five times, and in the other language its word five times: a tiny model learns it in seconds."""
    chance, rows = random.Random(seed), []
    for _ in range(count):
        word, filler = chance.choice([*WORDS]), "film " * chance.randint(0, 3)
        rows.append({"src": f"{filler}{word}", "tgt": " ".join([WORDS[word]] * 5)})
    return rows


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    """(the folder, what was said) of a run of the command line"""
    root, out = tmp_path_factory.mktemp("run"), []
    files = {name: tiny.tsv(root / f"{name}.tsv", pairs_of(n, i)) for i, (name, n) in enumerate(
        {"train": 800, "valid": 40, "test": 60}.items()
    )}  # fmt: skip
    given = [part for name, file in files.items() for part in (f"--{name}", file)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *line, **_: out.append(" ".join(map(str, line))))
        cli.main(
            [
                *("finetune", "translate", "--model", f"bert2bert:{folders['plain']},{folders['other']}", *given),
                *f"--out {root / 'run'} --epochs 10 --batch-size 16 --lr 5e-4 --precision fp32".split(),
            ]
        )
    return root / "run", "\n".join(out)


def test_a_run_learns_the_language_of_the_decoder(run):
    folder, said = run
    result = json.loads((folder / "result.json").read_text())
    assert result["metrics"]["test_before"]["bleu"] < 20 and result["metrics"]["test"]["bleu"] > 80, result["metrics"]
    assert "lr_new = 0.005" in (folder / "config.toml").read_text()
    assert "drawn at random: 22 tensors; their rate 0.005" in said, said
