"""T5: the logits, files and training of transformers, distances, the laws of masks and caches, tied heads and others.
Run me: pytest tests/test_t5.py; the published shapes too: pytest -m "long or not long" tests/test_t5.py
(What it writes, greedily and by beams, is in test_beams.py.)
"""

import copy
import json

import pytest
import torch
import two_stacks
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration, T5Model
from transformers.initialization import no_init_weights
from transformers.models.t5.modeling_t5 import T5Attention

import minift
from minift import pretrained, safetensors
from minift.errors import Error
from minift.models import t5

torch.set_num_threads(1)

NEWER = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}  # version 1.1


def shape(width, inner, depth, heads, d_kv=64, vocab_size=32128, **more):
    sizes = {"d_model": width, "d_ff": inner, "num_layers": depth, "num_heads": heads, "d_kv": d_kv}
    return T5Config(vocab_size=vocab_size, decoder_start_token_id=0, **sizes, **more)


def odd_shape(*sizes, **more):
    return shape(*sizes, vocab_size=61, **more)


ODD = {  # small, with what a config.json may say
    "1.0": odd_shape(32, 64, 2, 4, 8),
    "1.1": odd_shape(32, 48, 2, 4, 8, **NEWER),
    "1.0, wide heads, a short decoder": odd_shape(24, 40, 3, 3, 11, num_decoder_layers=1),
    "1.1, narrow heads, a deep decoder, few buckets": odd_shape(
        32, 40, 1, 2, 5, **NEWER, num_decoder_layers=3, relative_attention_num_buckets=9,
        relative_attention_max_distance=20, layer_norm_epsilon=1e-2,
    ),
    "tied, and not scaled": odd_shape(32, 48, 2, 4, 8, tie_word_embeddings=False, feed_forward_proj="silu"),
    "untied, and scaled": odd_shape(32, 48, 2, 4, 8, feed_forward_proj="gated-silu"),
    "gated by the exact GELU's tanh, by its name": odd_shape(32, 48, 1, 4, 8, feed_forward_proj="gated-gelu_new"),
    "the exact GELU": odd_shape(32, 48, 1, 4, 8, feed_forward_proj="gelu"),
}  # fmt: skip
UNTIED = {"1.1", "1.1, narrow heads, a deep decoder, few buckets", "untied, and scaled"}
PUBLISHED = {
    "t5-small": shape(512, 2048, 6, 8),
    "t5-base": shape(768, 3072, 12, 12),
    "t5-v1_1-small, flan-t5-small": shape(512, 1024, 8, 6, **NEWER),
    "flan-t5-base": shape(768, 2048, 12, 12, **NEWER),
    "t5-3b, two of its layers": shape(1024, 16384, 2, 32, 128),
    "flan-t5-xl, two of its layers": shape(2048, 5120, 2, 32, **NEWER),
}
odd = pytest.mark.parametrize("name", ODD)


def reference(config, untied):
    """A model of transformers no parameter of which has the value that it would start with."""
    torch.manual_seed(0)
    with no_init_weights():
        model = T5ForConditionalGeneration(copy.deepcopy(config)).eval()
    model.tie_weights()
    if untied:  # as transformers loads a file whose head is another
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
        model.all_tied_weights_keys.pop("lm_head.weight")
    with torch.no_grad():
        for name, p in model.named_parameters():
            spread = {"shared.weight": 1.5}.get(name, 2 * p.shape[-1] ** -0.5)  # by the width that it reads
            if ".q." in name:  # scores are not divided: sharper ones would multiply every rounding
                spread *= 2 * config.d_kv**-0.5
            if p.ndim == 1 or "relative" in name:
                spread = 1.0
            p.uniform_(-spread, spread)
            if p.ndim == 1:
                p.mul_(0.5).add_(1)
    return model


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """(a model of transformers, ours from its folder) by the name of the configuration"""
    made = {}

    def pair(name):
        if name not in made:
            theirs, folder = reference(ODD[name], name in UNTIED), tmp_path_factory.mktemp("model")
            theirs.save_pretrained(folder)
            made[name] = theirs, minift.load_model(folder)
        return made[name]

    return pair


def batch(vocab_size, longest=24):
    """Sources of 24, 7 and 1 tokens, targets of 1, 9 and 20: ids right-padded, and masks."""
    torch.manual_seed(1)
    sizes = [longest, 7, 1], [1, 9, longest - 4]
    masks = [torch.arange(longest) < torch.tensor(lengths)[:, None] for lengths in sizes]
    src, tgt = (torch.randint(3, vocab_size, mask.shape) * mask for mask in masks)
    return src, tgt, *masks


@torch.no_grad()
def logits(theirs, src, tgt, src_mask, tgt_mask):
    out = theirs(input_ids=src, attention_mask=src_mask.long(), decoder_input_ids=tgt)
    return out.logits[tgt_mask], out.encoder_last_hidden_state[src_mask]


def same_both_ways(config, untied, folder, longest=24):
    theirs, inputs = reference(config, untied), batch(config.vocab_size, longest)
    expected, memory = logits(theirs, *inputs)
    assert expected.std() > 0.15  # else the tolerance would say little
    theirs.save_pretrained(f"{folder}/theirs")
    model = minift.load_model(f"{folder}/theirs")
    src, _, src_mask, tgt_mask = inputs
    assert model.report.fault("") is None and not model.report.new, str(model.report)
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs)[tgt_mask], expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(model.encode(src, src_mask)[src_mask], memory, rtol=0, atol=1e-4)

    minift.save(model, None, f"{folder}/ours")
    again, info = type(theirs).from_pretrained(f"{folder}/ours", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), info
    found, wanted = (safetensors.load(f"{folder}/{name}/model.safetensors") for name in ("ours", "theirs"))
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in found)
    assert ("lm_head.weight" in found) == untied
    assert torch.equal(logits(again.eval(), *inputs)[0], expected)
    same = {"_name_or_path", "transformers_version"}
    before, after = ({k: v for k, v in m.config.to_dict().items() if k not in same} for m in (theirs, again))
    assert before == after


@odd
def test_logits_and_files_are_those_of_transformers(name, tmp_path):
    same_both_ways(ODD[name], name in UNTIED, tmp_path)


@pytest.mark.parametrize("name", ["1.0", "1.1, narrow heads, a deep decoder, few buckets"])
def test_texts_longer_than_the_last_distance_and_than_the_training_texts_are_read_alike(name, tmp_path):
    same_both_ways(ODD[name], name in UNTIED, tmp_path, longest=600)


@pytest.mark.long
@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_and_files_of_every_published_shape(name, tmp_path):
    config = PUBLISHED[name]
    same_both_ways(config, not config.scale_decoder_outputs, tmp_path)


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "most"), [(32, 128), (9, 20), (4, 3), (64, 1000), (33, 17)])
def test_every_distance_has_the_row_that_it_has_in_transformers(both_ways, buckets, most):
    config = t5.Config(relative_attention_num_buckets=buckets, relative_attention_max_distance=most)
    distance = torch.arange(-3000, 3001)
    right = T5Attention._relative_position_bucket(distance, both_ways, buckets, most)
    assert t5.bucket(distance, config, both_ways).tolist() == right.tolist()


def test_near_tokens_have_a_row_each_and_far_ones_share_the_last():
    config, back = t5.Config(), -torch.arange(400)
    causal, both = (t5.bucket(back, config, both_ways).tolist() for both_ways in (False, True))
    assert causal[:17] == [*range(17)] and causal[113:] == [31] * 287 and causal == sorted(causal)
    assert both[:9] == [*range(9)] and both[-1] == 15
    assert t5.bucket(-back, config, True).tolist()[1:] == [row + 16 for row in both[1:]]
    assert set(t5.bucket(-back, config, False).tolist()) == {0}


# -- masks and caches -------------------------------------------------------------------------------------------------


def exact(pairs, name):
    """Ours in float64: rounding must not hide, or be taken for, a token that is seen."""
    return copy.deepcopy(pairs(name)[1]).double()


@odd
def test_padding_on_either_side_is_inert(name, pairs):
    two_stacks.padding_is_inert(exact(pairs, name), 1e-6)


@odd
def test_pairs_packed_in_one_row_do_not_meet(name, pairs):
    two_stacks.packed_pairs_do_not_meet(exact(pairs, name), 1e-6)


@odd
def test_the_future_of_the_target_is_invisible_and_the_source_is_not(name, pairs):
    two_stacks.the_future_is_invisible_and_the_source_is_not(pairs(name)[1])


@odd
@pytest.mark.parametrize("pieces", [[1] * 26, [3, 1, 22]])
@pytest.mark.parametrize("masked", [False, True])
def test_a_cache_changes_nothing(name, pairs, pieces, masked):
    model = exact(pairs, name)
    cache = two_stacks.a_cache_changes_nothing(model, pieces, masked, 1e-6)
    assert list(cache) == [key for i in range(model.config.num_decoder_layers) for key in (i, (i, "cross"))]


@odd
def test_a_row_without_a_token_gives_finite_logits_and_gradients(name, pairs):
    two_stacks.an_empty_row_is_finite(pairs(name)[1])


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["1.0", "1.1"])
def test_recomputing_gives_the_same_gradients(name, pairs):
    two_stacks.recomputing_gives_the_same_gradients(pairs(name)[1])


@pytest.mark.parametrize(
    ("name", "dtype", "most"),
    [(name, torch.float32, 1e-5) for name in ODD] + [(name, torch.float64, 1e-9) for name in [*ODD][:4]],
)
def test_twenty_steps_of_training_are_those_of_transformers(name, pairs, dtype, most):
    """Law 8"""
    theirs, ours = two_stacks.twenty_steps_are_those_of_transformers(*pairs(name), 0, dtype, most)
    for key, tensor in ours.items():
        off = (tensor - theirs[key]).abs()
        assert off.mean() < 1e-5 if dtype == torch.float32 else off.max() < 1e-7, key


def test_dropout_falls_where_it_falls_in_transformers(pairs):
    """With the same draws: the mean over many of them, and its deviation, which every place of dropout widens."""
    found = []
    for model in pairs("1.1"):
        model = copy.deepcopy(model).train()
        src, tgt = torch.arange(3, 11)[None].expand(2000, -1), torch.arange(20, 24)[None].expand(2000, -1)
        torch.manual_seed(0)
        with torch.no_grad():
            out = model(input_ids=src, decoder_input_ids=tgt).logits if hasattr(model, "generate") else model(src, tgt)
        found.append((out.mean(0), out.std(0)))
    (mean, spread), (ours, our_spread) = found
    assert ((ours - mean).abs() < 6 * spread / 2000**0.5).all()
    assert (our_spread / spread - 1).abs().max() < 0.15 and (our_spread / spread - 1).mean().abs() < 0.01


@pytest.mark.parametrize("name", ["1.0", "1.1"])
def test_fresh_weights_are_spread_as_transformers_spreads_them(name, tmp_path):
    torch.manual_seed(0)
    more = {**(NEWER if name == "1.1" else {}), "num_decoder_layers": 1}
    theirs = T5ForConditionalGeneration(shape(256, 512, 2, 4, 24, vocab_size=500, **more))
    theirs.save_pretrained(tmp_path)
    model = minift.load_model(f"random:{tmp_path}")
    state = theirs.state_dict()
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight":  # which transformers 5 leaves as large as the embedding, tied to it
            assert float(tensor.std()) == pytest.approx(256**-0.5, rel=0.02)
        elif tensor.ndim == 1:
            assert (tensor == 1).all()
        else:
            assert float(tensor.std()) == pytest.approx(
                float(state[key].std()), rel=0.2 if "relative" in key else 0.03
            ), key
    assert hasattr(model, "lm_head") == (name == "1.1") and model.report.new == [*dict(model.named_parameters())]
    with torch.no_grad():
        assert 0.1 < model(two_stacks.some(4, 9), two_stacks.some(4, 9)).std() < 3


@pytest.mark.parametrize("name", ["1.0", "1.1"])
def test_cross_entropy_on_the_unembedding_is_that_of_the_logits(name, pairs):
    _, model = pairs(name)
    src, tgt = two_stacks.some(2, 5), two_stacks.some(2, 4)
    weight, bias = model.unembedding
    assert bias is None and torch.equal(model.hidden(src, tgt) @ weight.T, model(src, tgt))


@pytest.mark.parametrize("name", ["1.0", "1.1"])
def test_in_bfloat16_it_is_about_the_same_and_norms_are_measured_in_float32(name, pairs):
    _, model = pairs(name)
    src, tgt, mask = two_stacks.some(2, 7), two_stacks.some(2, 5), torch.tensor([[True] * 7, [False] * 3 + [True] * 4])
    with torch.no_grad():
        right = model(src, tgt, mask)
        for half in copy.deepcopy(model).bfloat16(), None:
            with torch.autocast("cpu", torch.bfloat16, enabled=half is None):
                found = (half or model)(src, tgt, mask)
            assert found.dtype == torch.bfloat16
            assert (found.float() - right).abs().mean() < 0.05 * right.abs().mean()
    norm = t5.Norm(t5.Config(d_model=512)).half()
    torch.nn.init.ones_(norm.weight)
    large = torch.full((1, 512), 3e4, dtype=torch.float16)  # whose squares float16 does not hold
    assert torch.equal(norm(large), torch.ones_like(large))


# -- files ------------------------------------------------------------------------------------------------------------


def published(folder, theirs, change, tensors=None, drop=()):
    """The folder of a model with another config.json and other tensors."""
    theirs.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in drop}))
    if tensors is not None:
        found = {key: tensor.clone() for key, tensor in safetensors.load(folder / "model.safetensors").items()}
        found = {k: v for k, v in (found | tensors(found)).items() if v is not None}
        safetensors.save(folder / "model.safetensors", found)
    return folder


NEW_KEYS = ("scale_decoder_outputs", "dense_act_fn", "is_gated_act", "classifier_dropout", "is_decoder")
OLD = {  # as published: the configuration knows less than that of today, the file holds more
    "1.0": ({"n_positions": 512, "architectures": ["T5WithLMHeadModel"]}, ("tie_word_embeddings", "num_decoder_layers"),
        lambda file: {f"{side}.embed_tokens.weight": file["shared.weight"].clone() for side in ("encoder", "decoder")}
        | {"lm_head.weight": file["shared.weight"].clone()}
        | {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.randn(32, 4)}),
    "1.1": ({"tie_word_embeddings": False}, ("num_decoder_layers",),
        lambda file: {f"{side}.embed_tokens.weight": file["shared.weight"].clone() for side in ("encoder", "decoder")}),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_files_of_the_time_before_transformers_5_are_read_alike_by_both(name, pairs, tmp_path):
    theirs, _ = pairs(name)
    change, drop, more = OLD[name]
    published(tmp_path, theirs, change, more, (*NEW_KEYS, *drop))
    model = minift.load_model(tmp_path)
    again = T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    inputs = batch(61)
    right = logits(theirs, *inputs)[0]
    assert torch.equal(logits(again, *inputs)[0], right)
    torch.testing.assert_close(model(*inputs)[inputs[3]], right, rtol=0, atol=1e-4)
    untied = name == "1.1"
    copies = ["decoder.embed_tokens.weight", "encoder.embed_tokens.weight", *([] if untied else ["lm_head.weight"])]
    assert sorted(model.report.tied) == [f"{key} = shared.weight" for key in copies]
    assert model.report.dropped == ([] if untied else [key for key in more({"shared.weight": torch.zeros(1)}) if
        "EncDec" in key]) and not model.report.notes and not model.report.unexpected  # fmt: skip
    minift.save(model, None, tmp_path / "again")
    said = json.loads((tmp_path / "again" / "config.json").read_text())
    # of transformers 4 the first decides about both, of transformers 5 the second about the scale
    assert said["tie_word_embeddings"] == said["scale_decoder_outputs"] == (not untied)
    assert said["architectures"] == ["T5ForConditionalGeneration"] and said["num_decoder_layers"] == 2
    assert model.generation["decoder_start_token_id"] == 0 == model.start and model.generation["eos_token_id"] == 1


def test_what_the_file_holds_decides_whether_the_head_is_tied_and_a_note_says_so(pairs, tmp_path):
    inputs = batch(61)
    for i, (name, change, more, note) in enumerate(
        [
            ("1.0", {"tie_word_embeddings": False}, lambda file: {}, "the file has no other"),
            ("1.0", {"tie_word_embeddings": False}, lambda file: {"lm_head.weight": file["shared.weight"].clone()},
                "the file has no other"),
            ("1.0", {}, lambda file: {"lm_head.weight": file["shared.weight"] / 2}, "the file has another: it is used"),
            ("1.0", {}, lambda file: {"lm_head.weight": file["shared.weight"], "shared.weight": None}, None),
            ("1.0", {}, lambda file: {"decoder.embed_tokens.weight": file["shared.weight"], "shared.weight": None},
                None),
            ("1.1", {}, lambda file: {"encoder.embed_tokens.weight": file["shared.weight"], "shared.weight": None},
                None),
        ]
    ):  # fmt: skip
        folder = published(tmp_path / str(i), pairs(name)[0], change, more, NEW_KEYS if change else ())
        model = minift.load_model(folder)
        theirs = T5ForConditionalGeneration.from_pretrained(folder).eval()
        right = logits(theirs, *inputs)[0]
        torch.testing.assert_close(model(*inputs)[inputs[3]], right, rtol=0, atol=1e-4)
        untied = theirs.lm_head.weight is not theirs.shared.weight
        assert hasattr(model, "lm_head") == untied == (not model.config.tie_word_embeddings)
        assert [*map(bool, model.report.notes)] == [True] * (note is not None)
        assert note is None or note in model.report.notes[0]


def test_a_model_without_a_head_of_its_own_is_read_with_its_table_of_words_and_half_a_model_is_refused(pairs, tmp_path):
    theirs, model = pairs("1.0")
    theirs.save_pretrained(tmp_path / "whole")
    T5Model.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "bare")
    bare, (src, tgt) = minift.load_model(tmp_path / "bare"), (two_stacks.some(2, 5), two_stacks.some(2, 4))
    assert torch.equal(bare(src, tgt), model(src, tgt))
    T5EncoderModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "half")
    with pytest.raises(Error, match=r"the weights (lack decoder|hold fewer)"):
        minift.load_model(tmp_path / "half")


def test_what_the_model_says_of_itself(pairs, tmp_path):
    theirs, model = pairs("1.0, wide heads, a short decoder")
    assert (model.kind, model.start, model.longest, len(model.blocks)) == ("seq2seq", 0, 512, 4)
    assert model.top == [model.decoder.final_layer_norm] and not model.new
    assert minift.load_model(published(tmp_path, theirs, {"n_positions": 90})).longest == 90
    with pytest.raises(Error, match="t5 has no kind 'classify', but seq2seq"):
        minift.load_model(tmp_path, kind="classify")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feed_forward_proj": "gated-relo"}, "feed_forward_proj 'gated-relo' is none of relu, "),
        ({"feed_forward_proj": "fenced-relu"}, "feed_forward_proj 'fenced-relu' is none of relu, "),
        ({"feed_forward_proj": "gated-gated-relu"}, "feed_forward_proj 'gated-gated-relu' is none of"),
        ({"feed_forward_proj": 3}, "feed_forward_proj is 3, but must be of type str"),
        ({"feed_forward_proj": "gated-gelu"}, "the weights lack encoder.block.0.layer.1.DenseReluDense.wi_0.weight"),
        ({"relative_attention_num_buckets": 3}, "relative_attention_num_buckets 3 with relative_attention_max_dist"),
        ({"relative_attention_max_distance": 16}, "for so many the last one begins at 17 or later"),
        ({"relative_attention_num_buckets": 16}, "SelfAttention.relative_attention_bias.weight: (32, 4) in the file"),
        ({"num_layers": 9000}, "num_layers is 9000, the weights hold fewer"),
        ({"num_decoder_layers": 9000}, "num_decoder_layers is 9000, the weights hold fewer"),
        ({"num_decoder_layers": 3}, "the weights lack decoder.block.2."),
        ({"num_decoder_layers": 1}, "the weights hold unknown decoder.block.1."),
        ({"num_heads": 0}, "num_heads is 0, but must lie between 1 and"),
        ({"d_kv": 16}, "the weights have another shape: "),
        ({"d_model": "32"}, "d_model is '32', but must be of type int"),
        ({"scale_decoder_outputs": "yes"}, "scale_decoder_outputs is 'yes', but must be of type bool or null"),
        ({"layer_norm_epsilon": -1e-6}, "layer_norm_epsilon is -1e-06, but must lie between 0 and 1"),
        ({"n_positions": 0}, "n_positions is 0, but must lie between 1 and"),
        ({"n_positions": "many"}, "n_positions is 'many', but must lie between 1 and"),
        ({"vocab_size": 60}, "the weights have another shape: shared.weight"),
    ],
)  # fmt: skip
def test_a_config_that_makes_no_model_is_refused_by_field(change, message, pairs, tmp_path):
    folder = published(tmp_path, pairs("1.0")[0], change)
    with pytest.raises(Error) as caught:
        minift.load_model(folder)
    assert message in str(caught.value)


def test_an_unknown_key_is_refused_and_a_check_lists_all(pairs, tmp_path):
    theirs, _ = pairs("1.1")
    published(tmp_path, theirs, {}, lambda file: {"decoder.block.0.layer.3.adapter.weight": torch.ones(1)})
    with pytest.raises(Error, match="the weights hold unknown decoder"):
        minift.load_model(tmp_path)
    with pytest.raises(Error, match=r"(?s)mapped .*\(2\).*unexpected +1  decoder"):
        pretrained.check(tmp_path)
