"""Greedy and beam search: token for token what transformers writes, in ragged batches, in every family.
Run me: pytest tests/test_beams.py
"""

import itertools
import json
import random

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MarianConfig,
    MarianMTModel,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import minift
from minift import generation

torch.set_num_threads(1)

V, EOS, PAD, LONGEST = 40, 2, 1, 24


def sides(layers, ffn_dim):
    both = {"layers": layers, "attention_heads": 4, "ffn_dim": ffn_dim}
    return {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in both.items()}


SHAPE = {"vocab_size": V, "d_model": 32, "max_position_embeddings": LONGEST, "dropout": 0.0, **sides(2, 48)}
IDS = {"pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": 0}
FAMILIES = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=V, n_positions=2 * LONGEST, n_embd=32, n_layer=2, n_head=4, **IDS)
    ),
    "gpt_neo": lambda: GPTNeoForCausalLM(
        GPTNeoConfig(vocab_size=V, max_position_embeddings=2 * LONGEST, hidden_size=32, num_layers=2, num_heads=4,
            attention_types=[[["global", "local"], 1]], window_size=4, **IDS)
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(vocab_size=V, max_position_embeddings=2 * LONGEST, hidden_size=32, num_hidden_layers=2,
            num_attention_heads=4, ffn_dim=48, dropout=0.0, **IDS)
    ),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(**SHAPE, **IDS, decoder_start_token_id=2, forced_eos_token_id=None)
    ),
    "marian": lambda: MarianMTModel(
        MarianConfig(**SHAPE, **IDS, decoder_start_token_id=PAD, scale_embedding=True, forced_eos_token_id=None)
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=V, d_model=32, d_ff=48, num_layers=2, num_heads=4, d_kv=12, dropout_rate=0.0,
            feed_forward_proj="gated-gelu", **IDS, decoder_start_token_id=PAD)
    ),
}  # fmt: skip
CAUSAL = ("gpt2", "gpt_neo", "opt")


def texts(count: int, seed: int) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(3, V) for _ in range(chance.randint(2, 9))] for _ in range(count)]


def ragged(rows: list[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    pads = [[PAD] * (width - len(row)) for row in rows]
    ids = [pad + row if left else row + pad for row, pad in zip(rows, pads, strict=True)]
    real = [[0] * len(pad) + [1] * len(row) if left else [1] * len(row) + [0] * len(pad) for row, pad in
            zip(rows, pads, strict=True)]  # fmt: skip
    return torch.tensor(ids), torch.tensor(real)


def trained(family: str):
    """A model of transformers that has learned random pairs for some steps, three targets a source, so that what it
    writes varies and it is never sure."""
    torch.manual_seed(0)
    model, sources, chance = FAMILIES[family](), texts(12, 7) + texts(9, 8), random.Random(1)
    pairs = [(row, [*chance.choices(range(3, V), k=chance.randint(1, 10)), EOS]) for row in sources * 3]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(35 if family == "t5" else 120):  # (T5 learns faster, and would be sure)
        rows, targets = zip(*chance.sample(pairs, 24), strict=True)
        if family in CAUSAL:
            ids, mask = ragged([a + b for a, b in zip(rows, targets, strict=True)], left=False)
            loss = model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        else:
            ids, mask = ragged(rows, left=False)
            labels, real = ragged(targets, left=False)
            loss = model(input_ids=ids, attention_mask=mask, labels=labels.masked_fill(real == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tmp_path_factory):
    """(ours, theirs, sources or prompts, their mask), the rows padded on the side that transformers wants."""
    theirs, folder = trained(request.param), tmp_path_factory.mktemp(request.param)
    theirs.generation_config.update(pad_token_id=PAD, max_length=None)
    theirs.save_pretrained(folder)
    return minift.load_model(folder), theirs, *ragged(texts(12, 7), left=request.param in CAUSAL)


NAMES = {"beams": "num_beams", "no_repeat_ngram": "no_repeat_ngram_size", "eos": "eos_token_id"}


def written(theirs, ids, mask, **settings) -> list[list[int]]:
    """The new tokens of transformers, up to the end token."""
    settings = {NAMES.get(name, name): value for name, value in settings.items()}
    found = theirs.generate(ids, attention_mask=mask, do_sample=False, **{"max_new_tokens": 14, **settings})
    found = found[:, 1 if theirs.config.is_encoder_decoder else ids.shape[1] :].tolist()
    ends = settings.get("eos_token_id", EOS)
    ends = [ends] if isinstance(ends, int) else ends
    return [list(itertools.takewhile(lambda token: token not in ends, row)) for row in found]


def ours_and_theirs(both, **settings):
    ours, theirs, ids, mask = both
    # transformers pads behind the end, and where a padding token is a token to write, cuts there
    mine = generation.generate_ids(ours, ids, mask, **{"max_new_tokens": 14, **settings})
    return mine, written(theirs, ids, mask, **settings)


def padless(rows):
    return [row[: row.index(PAD)] if PAD in row else row for row in rows]


SETTINGS = [
    {},
    {"beams": 4},
    {"beams": 5},
    {"beams": 4, "length_penalty": 0.5},
    {"beams": 4, "length_penalty": 2.0},
    {"beams": 4, "length_penalty": -1.0},
    {"beams": 4, "early_stopping": True},
    {"beams": 5, "early_stopping": "never"},
    {"beams": 3, "early_stopping": "never", "length_penalty": 0.0},
    {"beams": 4, "min_new_tokens": 9},
    {"min_new_tokens": 9},
    {"no_repeat_ngram": 2},
    {"no_repeat_ngram": 1, "max_new_tokens": 20},
    {"beams": 4, "no_repeat_ngram": 2},
    {"beams": 4, "no_repeat_ngram": 3, "length_penalty": 2.0},
    {"beams": 4, "eos": [EOS, 7, 11]},
    {"eos": [EOS, 7, 11]},
    {"beams": 2, "max_new_tokens": 1},
    {"beams": 4, "max_new_tokens": 20},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: ", ".join(f"{k} {v}" for k, v in settings.items()))
def test_every_token_is_that_of_transformers(both, settings):
    mine, right = ours_and_theirs(both, **settings)
    assert padless(mine) == padless(right)


def test_the_models_write_texts_that_vary_and_heed_the_mask(both):
    ours, _, ids, mask = both
    for beams in 1, 4:
        rows = generation.generate_ids(ours, ids, mask, max_new_tokens=14, beams=beams)
        assert len({tuple(row) for row in rows}) > 8 and len({len(row) for row in rows}) > 2
        assert len({token for row in rows for token in row}) > 15
        assert generation.generate_ids(ours, ids, None, max_new_tokens=14, beams=beams) != rows
    plain, wide = (generation.generate_ids(ours, ids, mask, max_new_tokens=14, beams=beams) for beams in (1, 4))
    assert plain != wide


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("left", [True, False])
def test_a_batch_writes_what_its_rows_write_alone(both, beams, left):
    ours, *_ = both
    rows = texts(9, 8)
    together = generation.generate_ids(ours, *ragged(rows, left), max_new_tokens=14, beams=beams)
    alone = [generation.generate_ids(ours, torch.tensor([row]), max_new_tokens=14, beams=beams)[0] for row in rows]
    assert together == alone


RULES = {
    "a first token": {"forced_bos_token_id": 9},
    "a last token": {"forced_eos_token_id": EOS, "max_length": 8},
    "both": {"forced_bos_token_id": 9, "forced_eos_token_id": EOS, "max_length": 9},
    "banned words": {"bad_words_ids": [[PAD], [5], [6, 8], [3, 4, 5], [EOS]]},
    "suppressed tokens": {"suppress_tokens": [5, 6, 7], "begin_suppress_tokens": [3, 4, EOS]},
    "suppressed behind a first token": {"begin_suppress_tokens": [EOS, 12], "forced_bos_token_id": 9},
    "a penalty on repetition": {"repetition_penalty": 1.7},
    "a shortest and a longest": {"min_length": 8, "max_length": 11},
    "all that a summariser says": {
        "num_beams": 4, "length_penalty": 2.0, "max_length": 20, "min_length": 6, "no_repeat_ngram_size": 3,
        "early_stopping": True, "forced_bos_token_id": 0, "forced_eos_token_id": EOS,
    },
}  # fmt: skip


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", RULES)
def test_generation_config_is_heeded_as_in_transformers(both, name, beams, monkeypatch):
    ours, theirs, ids, mask = both
    rules = {"num_beams": beams, **RULES[name]}
    if theirs.config.model_type in CAUSAL:  # which is not told its first token, and counts the prompt
        rules.pop("forced_bos_token_id", None)
        rules |= {name: rules[name] + ids.shape[1] for name in ("min_length", "max_length") if name in rules}
    monkeypatch.setattr(ours, "generation", {**ours.generation, "max_length": 15 + ids.shape[1], **rules})
    right = written(theirs, ids, mask, max_new_tokens=None, **{"max_length": 15 + ids.shape[1], **rules})
    mine = generation.generate_ids(ours, ids, mask)
    assert padless(mine) == padless(right)
    assert any(mine)


def score(model, source, tokens, penalty) -> float:
    """The log-probability of a text of up to four tokens with its end, by its length to the power of the penalty."""
    said = [*tokens, EOS][:4]
    fed = torch.tensor([[model.start, *tokens]])[:, :4]
    logs = model(torch.tensor([source]), fed)[0].log_softmax(-1)
    return float(logs[range(len(said)), said].sum() / len(said) ** penalty)


@pytest.mark.parametrize("both", ["bart", "marian"], indirect=True)  # a search through everything takes long
def test_with_beams_enough_the_search_finds_the_best_text_of_all(both):
    ours, *_ = both
    allowed = [4, 9, 13]
    ours.generation["suppress_tokens"] = [t for t in range(V) if t not in (*allowed, EOS)]
    try:
        with torch.no_grad():
            for source in texts(4, 9):
                every = [list(t) for n in range(5) for t in itertools.product(allowed, repeat=n)]
                best = max(every, key=lambda tokens: score(ours, source, tokens, 1.0))
                (found,) = generation.generate_ids(
                    ours, torch.tensor([source]), max_new_tokens=4, beams=27, early_stopping="never"
                )
                assert found == best
    finally:
        del ours.generation["suppress_tokens"]


def test_an_encoder_decoder_samples_as_often_as_its_probabilities_say(both):
    ours, *_ = both
    source = torch.tensor([[5, 9, 13]])
    with torch.no_grad():
        logits = ours(source, torch.tensor([[ours.start]]))[0, -1] if ours.kind == "seq2seq" else ours(source)[0, -1]
    chances = (logits / 1.3).softmax(-1)
    rows = generation.generate_ids(ours, source.expand(4000, -1), max_new_tokens=1, temperature=1.3, seed=3)
    assert rows == generation.generate_ids(ours, source.expand(4000, -1), max_new_tokens=1, temperature=1.3, seed=3)
    counts = torch.bincount(torch.tensor([row[0] if row else EOS for row in rows]), minlength=V)
    assert (counts / 4000 - chances).abs().max() < 0.03


@pytest.mark.parametrize("both", ["bart"], indirect=True)
def test_old_folders_say_in_config_json_how_they_write(both, tmp_path):
    ours, theirs, ids, mask = both
    minift.save(ours, None, tmp_path)
    (tmp_path / "generation_config.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    rules = {"num_beams": 4, "no_repeat_ngram_size": 2, "max_length": 12, "min_length": 5, "early_stopping": True}
    (tmp_path / "config.json").write_text(json.dumps(config | rules | {"force_bos_token_to_be_generated": True}))
    right = written(theirs, ids, mask, max_new_tokens=None, **rules, forced_bos_token_id=0)
    assert generation.generate_ids(minift.load_model(tmp_path), ids, mask) == right


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 0}, "beams 0: must be 1 or more"),
        (
            {"beams": 4, "temperature": 0.7},
            "beams 4 search for the likeliest text; to sample, at temperature 0.7, take",
        ),
        ({"max_new_tokens": 0}, r"max_new_tokens 0: must be 1 or more"),
    ],
)
def test_settings_that_make_no_sense_are_told(both, settings, message):
    with pytest.raises(minift.Error, match=message):
        generation.generate_ids(both[0], both[2], **settings)


def test_what_a_folder_asks_for_and_is_not_here_is_told(both, monkeypatch):
    ours, _, ids, _ = both
    monkeypatch.setattr(ours, "generation", {"num_beam_groups": 2, "diversity_penalty": 0.5})
    with pytest.raises(minift.Error, match=r"generation_config\.json asks for num_beam_groups 2, which is not here"):
        generation.generate_ids(ours, ids)


def test_a_source_without_a_token_is_named_by_its_row(both):
    ours, _, ids, mask = both
    mask = mask.clone()
    mask[3] = 0
    with pytest.raises(minift.Error, match="row 3 of the prompts has no token"):
        generation.generate_ids(ours, ids, mask)


def test_sampling_sets_aside_the_beams_of_a_folder_and_beams_its_sampling(both, monkeypatch):
    ours, _, ids, mask = both
    monkeypatch.setattr(ours, "generation", {**ours.generation, "num_beams": 4})
    generation.generate_ids(ours, ids, mask, temperature=0.9, max_new_tokens=3)
    monkeypatch.setattr(ours, "generation", {**ours.generation, "num_beams": 1, "do_sample": True})
    beams = generation.generate_ids(ours, ids, mask, beams=4, max_new_tokens=14)
    monkeypatch.setattr(ours, "generation", {**ours.generation, "do_sample": False})
    assert beams == generation.generate_ids(ours, ids, mask, beams=4, max_new_tokens=14)
