"""Generation against transformers' own: greedy token for token, sampling by its logits processors; then by the laws.
Run me: pytest tests/test_generation.py"""

import json
import math

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import minift
from minift.generation import Rules, choose, generate_ids, probabilities
from minift.models import bert, gpt2

torch.set_num_threads(1)
V, LONGEST = 37, 40
PROMPTS = [[5], [7, 30, 2, 11, 8], [1, 1, 4], [33, 20, 9, 9, 14, 3, 25, 6], [12, 0]]


@pytest.fixture(scope="module")
def trained():
    """A tiny GPT-2 that learnt, roughly, that x(t) = 5 x(t - 2) + 1 modulo V: where a token stands matters."""
    torch.manual_seed(0)
    config = gpt2.Config(vocab_size=V, n_positions=LONGEST, n_embd=32, n_layer=2, n_head=4)
    model = gpt2.GPT2(config).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        ids = torch.randint(V, (16, LONGEST))
        for t in range(2, LONGEST):
            ids[:, t] = (5 * ids[:, t - 2] + 1) % V
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.6 * math.log(V)
    return model


@pytest.fixture
def model(trained):
    trained.generation = {}
    yield trained.eval()
    trained.generation = {}


@pytest.fixture(scope="module")
def theirs(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    trained.generation = {}
    minift.save(trained, None, folder)
    model = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)
    return model


def padded(prompts, side):
    """ids and mask, with a token that means something in the padding"""
    T = max(map(len, prompts))
    rows = [([23] * (T - len(p)) + p, [0] * (T - len(p)) + [1] * len(p)) for p in prompts]
    if side == "right":
        rows = [(p + [23] * (T - len(p)), [1] * len(p) + [0] * (T - len(p))) for p in prompts]
    ids, mask = zip(*rows, strict=True)
    return torch.tensor(ids), torch.tensor(mask)


def their_greedy(theirs, prompts, **settings):
    ids, mask = padded(prompts, "left")
    found = theirs.generate(ids, attention_mask=mask, do_sample=False, **settings)[:, ids.shape[1] :].tolist()
    eos = settings.get("eos_token_id")
    ends = eos if isinstance(eos, list) else [eos]
    return [row[: next((i for i, token in enumerate(row) if token in ends), None)] for row in found]


def one_by_one(model, prompt, n):
    """The likeliest token each time, without a cache."""
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


# -- greedy -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_ragged_batch_continues_token_for_token_as_in_transformers(model, theirs, side):
    expected = their_greedy(theirs, PROMPTS, max_new_tokens=20)
    ids, mask = padded(PROMPTS, side)
    assert generate_ids(model, ids, mask.bool(), max_new_tokens=20) == expected
    assert generate_ids(model, ids, mask, max_new_tokens=20) == expected
    assert expected == [one_by_one(model, prompt, 20) for prompt in PROMPTS]
    assert len({token for row in expected for token in row}) > 10, "the texts vary"
    assert all(len(set(row)) > 3 for row in expected)
    assert generate_ids(model, ids, max_new_tokens=20) != expected, "the mask matters"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("least", [0, 2, 9])
def test_an_end_token_ends_its_row_as_in_transformers(model, theirs, side, least):
    free = their_greedy(theirs, PROMPTS, max_new_tokens=15)
    ids, mask = padded(PROMPTS, side)
    lengths = set()
    for eos in sorted({token for row in free for token in row})[::2]:
        expected = their_greedy(theirs, PROMPTS, max_new_tokens=15, eos_token_id=eos, min_new_tokens=least)
        assert generate_ids(model, ids, mask, max_new_tokens=15, eos=eos, min_new_tokens=least) == expected
        lengths |= {len(row) for row in expected}
        assert min(map(len, expected)) >= least
    assert len(lengths) > 4, "rows ended in many places"


def test_several_end_tokens_end_a_row_as_in_transformers(model, theirs):
    free = their_greedy(theirs, PROMPTS, max_new_tokens=15)
    ends = [free[0][4], free[1][7], free[3][2]]
    expected = their_greedy(theirs, PROMPTS, max_new_tokens=15, eos_token_id=ends, min_new_tokens=1)
    assert generate_ids(model, *padded(PROMPTS, "left"), max_new_tokens=15, eos=ends, min_new_tokens=1) == expected
    assert expected != free


def test_a_row_that_ended_at_once_is_empty(model):
    first = one_by_one(model, PROMPTS[1], 3)
    found = generate_ids(model, *padded(PROMPTS[:2], "right"), max_new_tokens=3, eos=first[0])
    assert found[1] == []
    assert len(found[0]) > 0


def test_dropout_is_off_and_gradients_are_not_kept(model):
    model.train()
    assert generate_ids(model, torch.tensor([PROMPTS[3]]), max_new_tokens=9) == [one_by_one(model, PROMPTS[3], 9)]
    assert not model.training


# -- the cache --------------------------------------------------------------------------------------------------------


def fed(monkeypatch, model):
    """The widths of what `hidden` gets from now on."""
    widths, hidden = [], model.hidden
    monkeypatch.setattr(model, "hidden", lambda ids, *rest: widths.append(ids.shape[1]) or hidden(ids, *rest))
    return widths


def test_each_step_feeds_one_token_and_the_last_token_is_not_fed(monkeypatch, model):
    widths = fed(monkeypatch, model)
    generate_ids(model, *padded(PROMPTS, "left"), max_new_tokens=6)
    assert widths == [8, 1, 1, 1, 1, 1]


def test_nothing_is_fed_after_every_row_has_ended(monkeypatch, model):
    free = generate_ids(model, *padded(PROMPTS, "left"), max_new_tokens=20)
    common = [(i, j, eos) for i in range(5) for j in range(i) for eos in set(free[i]) & set(free[j])]
    i, j, eos = next((i, j, eos) for i, j, eos in common if free[i].index(eos) + 3 < free[j].index(eos) < 17)
    widths = fed(monkeypatch, model)
    rows = generate_ids(model, *padded([PROMPTS[i], PROMPTS[j]], "left"), max_new_tokens=20, eos=eos)
    assert len(widths) == 1 + max(map(len, rows)) < 20


# -- the end of the positions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, 5])
def test_generation_stops_where_the_positions_end(model, room):
    prompt = [(7 * n) % V for n in range(LONGEST - room)]
    (found,) = generate_ids(model, torch.tensor([prompt]), max_new_tokens=100)
    assert len(found) == room + 1, "the last token needs no position"
    assert found == one_by_one(model, prompt, room + 1)


def test_a_prompt_longer_than_the_positions_is_an_error(model):
    with pytest.raises(minift.Error, match=f"{LONGEST + 1} tokens, but the model has {LONGEST} positions"):
        generate_ids(model, torch.ones((1, LONGEST + 1), dtype=torch.long), max_new_tokens=1)


# -- sampling ---------------------------------------------------------------------------------------------------------


def their_probabilities(logits, temperature, top_k=None, top_p=None):
    logits = transformers.TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        logits = transformers.TopKLogitsWarper(top_k)(None, logits)
    if top_p is not None and top_p < 1:
        logits = transformers.TopPLogitsWarper(top_p)(None, logits)
    return logits.softmax(-1)


LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=30, unique=True)
TEMPERATURES = st.floats(0.125, 8)
TOP_K, TOP_P = st.none() | st.integers(1, 33), st.none() | st.floats(0.01, 1)


@settings(deadline=None, max_examples=200)
@given(LOGITS, TEMPERATURES, TOP_K, TOP_P)
def test_probabilities_are_those_of_transformers(logits, temperature, top_k, top_p):
    logits = torch.tensor([logits, [-x for x in logits]])
    reached = their_probabilities(logits, temperature, top_k).sort(descending=True).values.cumsum(-1)
    assume(top_p is None or (reached - top_p).abs().min() > 1e-5)  # on the edge rounding decides
    assume(all(len(set(row)) == len(row) for row in their_probabilities(logits, temperature).tolist()))
    found = probabilities(logits, temperature, top_k, top_p)
    torch.testing.assert_close(found, their_probabilities(logits, temperature, top_k, top_p), rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=12), TOP_K, TOP_P)
def test_with_ties_as_many_tokens_stay_as_in_transformers(logits, top_k, top_p):
    logits = torch.tensor([logits]).float()
    reached = their_probabilities(logits, 1.0, top_k).sort(descending=True).values.cumsum(-1)
    assume(top_p is None or (reached - top_p).abs().min() > 1e-5)
    found, expected = probabilities(logits, 1.0, top_k, top_p), their_probabilities(logits, 1.0, top_k, top_p)
    torch.testing.assert_close(found.sort().values, expected.sort().values, rtol=0, atol=1e-6)
    assert (logits[found > 0].min() >= logits[found == 0].max()) if (found == 0).any() else True


def test_tokens_that_tie_with_the_kth_stay():
    assert probabilities(torch.tensor([[3.0, 1.0, 1.0, 0.0]]), 1.0, top_k=2)[0, 1:].tolist() == pytest.approx(
        [1 / (math.e**2 + 2), 1 / (math.e**2 + 2), 0]
    )


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1e-6, 1), (0.49, 1), (0.5, 1), (0.51, 2), (0.74, 2), (0.75, 2), (0.8, 3), (1.0, 4), (None, 4)]
)
def test_top_p_keeps_the_likeliest_that_together_reach_it(top_p, kept):
    p = torch.tensor([[0.125, 0.5, 0.125, 0.25]])
    found = probabilities(p.log(), 1.0, top_p=top_p)
    assert (found > 0).sum() == kept
    order = torch.tensor([1, 3, 0, 2])[:kept]
    if kept != 3:  # of two that tie either may stay
        assert found[0, order].tolist() == pytest.approx((p[0, order] / p[0, order].sum()).tolist(), abs=1e-6)


def test_top_k_of_nothing_or_of_more_than_there_is_cuts_nothing():
    logits = torch.tensor([[0.0, 1.0, 5.0]])
    for top_k in None, 0, 3, 99:
        torch.testing.assert_close(probabilities(logits, 1.0, top_k), logits.softmax(-1))


def test_temperature_zero_is_greedy_and_a_tie_goes_to_the_first():
    assert choose(torch.tensor([[0.0, 2.0, 2.0], [3.0, 0.0, 1.0]]), Rules(), None).tolist() == [1, 0]


def test_sampled_tokens_come_as_often_as_their_probability_says(model):
    n, prompt = 6000, PROMPTS[1]
    logits = model(torch.tensor([prompt]))[:, -1].detach()
    for settings_ in {"temperature": 1.5}, {"temperature": 0.8, "top_k": 7}, {"temperature": 1.0, "top_p": 0.6}:
        p = their_probabilities(logits, **settings_)[0].double()
        found = generate_ids(model, torch.tensor([prompt] * n), max_new_tokens=1, seed=1, **settings_)
        counts = torch.tensor(found)[:, 0].bincount(minlength=V).double()
        assert counts[p == 0].sum() == 0
        kept = p > 0
        assert kept.sum() > 2
        chi_square = ((counts - n * p)[kept] ** 2 / (n * p[kept])).sum()
        freedom = int(kept.sum()) - 1
        assert chi_square < freedom + 5 * math.sqrt(2 * freedom)
        assert chi_square > freedom - 4 * math.sqrt(2 * freedom) or freedom < 9, "chance, not rounding of n * p"


def test_later_tokens_are_sampled_given_the_earlier(model):
    n, prompt = 4000, PROMPTS[3]
    rows = generate_ids(model, torch.tensor([prompt] * n), max_new_tokens=2, temperature=1.0, top_k=3, seed=2)
    firsts = [first for first, _ in rows]
    first = max(set(firsts), key=firsts.count)
    seconds = torch.tensor([second for f, second in rows if f == first])
    p = their_probabilities(model(torch.tensor([[*prompt, first]]))[:, -1].detach(), 1.0, 3)[0]
    found = seconds.bincount(minlength=V) / len(seconds)
    assert (found - p).abs().max() < 4 * (0.25 / len(seconds)) ** 0.5


def test_a_seed_decides_what_is_sampled_and_leaves_torch_generator_alone(model):
    ids, mask = padded(PROMPTS, "left")

    def sampled(**more):
        return generate_ids(model, ids, mask, max_new_tokens=12, temperature=1.0, **more)

    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert sampled(seed=1) == sampled(seed=1) != sampled(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    first, second = sampled(), sampled()
    assert first != second
    torch.manual_seed(3)
    assert (sampled(), sampled()) == (first, second)


def test_a_low_temperature_and_top_k_of_one_are_greedy(model):
    ids, mask = padded(PROMPTS, "right")
    greedy = generate_ids(model, ids, mask, max_new_tokens=8)
    assert generate_ids(model, ids, mask, max_new_tokens=8, temperature=1.0, top_k=1, seed=0) == greedy
    assert generate_ids(model, ids, mask, max_new_tokens=8, temperature=1.0, top_p=1e-9, seed=0) == greedy
    assert generate_ids(model, ids, mask, max_new_tokens=8, temperature=1e-4, seed=0) == greedy


# -- what generation_config.json says ---------------------------------------------------------------------------------


def test_what_is_not_given_comes_from_the_generation_config(model):
    ids = torch.tensor([PROMPTS[1]] * 9)
    free = generate_ids(model, ids, max_new_tokens=9)

    model.generation = {"max_new_tokens": 9}
    assert generate_ids(model, ids) == free
    assert generate_ids(model, ids, max_new_tokens=4) == [row[:4] for row in free]

    model.generation = {"eos_token_id": free[0][5], "max_new_tokens": 9}
    assert generate_ids(model, ids) == generate_ids(model, ids, eos=free[0][5], max_new_tokens=9)
    assert len(generate_ids(model, ids)[0]) < 9
    model.generation["eos_token_id"] = [free[0][5], free[0][1]]
    assert generate_ids(model, ids) == [free[0][: free[0].index(free[0][1])]] * 9
    assert len(generate_ids(model, ids, eos=V - 1)[0]) > len(generate_ids(model, ids)[0])

    said = {"temperature": 1.7, "top_k": 9, "top_p": 0.8}
    model.generation = {"do_sample": True, **said}
    as_said = generate_ids(model, ids, max_new_tokens=9, seed=1, **said)
    assert generate_ids(model, ids, max_new_tokens=9, seed=1) == as_said != free
    assert generate_ids(model, ids, max_new_tokens=9, temperature=0) == free

    model.generation = {"temperature": 1.7}  # without do_sample: greedy
    assert generate_ids(model, ids, max_new_tokens=9) == free
    model.generation = {"temperature": 1.7, "top_k": 1}  # and sampling on demand obeys top_k
    assert generate_ids(model, ids, max_new_tokens=9) == free
    assert generate_ids(model, ids, max_new_tokens=9, temperature=1.0, seed=1) == free
    model.generation = {"do_sample": True, "temperature": None, "top_p": None, "eos_token_id": None, "top_k": 1}
    assert generate_ids(model, ids, max_new_tokens=9) == free


def test_fifty_tokens_where_nobody_says_how_many_and_among_fifty_where_it_says_only_do_sample():
    model = gpt2.GPT2(gpt2.Config(vocab_size=200, n_positions=80, n_embd=8, n_layer=1, n_head=2))
    ids = torch.tensor([[1], [2]])
    assert [len(row) for row in generate_ids(model, ids)] == [50, 50]
    model.generation = {"do_sample": True}  # as transformers has it
    fifty, all_of_them = (generate_ids(model, ids, temperature=1.0, top_k=k, seed=1) for k in (50, 200))
    assert generate_ids(model, ids, seed=1) == fifty != all_of_them


def test_a_loaded_folder_brings_its_generation_config(model, tmp_path):
    minift.save(model, None, tmp_path)
    ids = torch.tensor([PROMPTS[1]])
    eos = one_by_one(model, PROMPTS[1], 5)[4]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": eos, "max_new_tokens": 5}), "utf-8")
    found = generate_ids(minift.load_model(tmp_path), ids)
    assert found == generate_ids(model, ids, eos=eos, max_new_tokens=5)
    assert len(found[0]) < 5


# -- texts ------------------------------------------------------------------------------------------------------------


class Letters:
    """A tokenizer: a letter a token, 0 the end of a text."""

    eos = 0

    def encode(self, text):
        return [ord(c) - ord("@") for c in text]

    def decode(self, ids):
        return "".join(chr(id + ord("@")) for id in ids)


def test_generate_gives_the_new_text_alone(model):
    ids = torch.tensor([Letters().encode("BAD")])
    expected = Letters().decode(generate_ids(model, ids, max_new_tokens=7, eos=0)[0])
    assert minift.generate(model, Letters(), "BAD", max_new_tokens=7) == expected
    assert len(expected) == 7
    sampled = minift.generate(model, Letters(), "BAD", max_new_tokens=7, temperature=2.0, seed=5)
    assert sampled == minift.generate(model, Letters(), "BAD", max_new_tokens=7, temperature=2.0, seed=5) != expected


def test_the_text_stops_before_the_end_token(model):
    free = minift.generate(model, Letters(), "BAD", max_new_tokens=7)
    cut = free[: free.index(free[4])]
    (end,) = Letters().encode(free[4])
    assert minift.generate(model, Letters(), "BAD", max_new_tokens=7, eos=end) == cut
    model.generation = {"eos_token_id": end}
    assert minift.generate(model, Letters(), "BAD", max_new_tokens=7) == cut
    assert minift.generate(model, Letters(), "BAD", max_new_tokens=7, eos=None) == cut
    model.generation = {}
    tokenizer = Letters()
    tokenizer.eos = end
    assert minift.generate(model, tokenizer, "BAD", max_new_tokens=7) == cut
    assert minift.generate(model, tokenizer, "BAD", max_new_tokens=7, eos=None) == cut


def test_an_empty_prompt_begins_after_an_end_token(model):
    expected = Letters().decode(generate_ids(model, torch.tensor([[0]]), max_new_tokens=6, eos=0)[0])
    assert minift.generate(model, Letters(), "", max_new_tokens=6) == expected


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"temperature": -0.5}, "temperature -0.5: 0 is greedy, above samples"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p 0.0: a probability, above 0 and up to 1"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p 1.5: a probability"),
        ({"temperature": 1.0, "top_p": math.nan}, "top_p nan"),
        ({"temperature": 1.0, "top_k": -1}, "top_k -1: give a number of tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens 0: must be 1 or more"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_with_its_value(model, given_, message):
    with pytest.raises(minift.Error, match=message):
        generate_ids(model, torch.tensor([[1, 2]]), **given_)


def test_a_setting_of_the_generation_config_is_checked_too(model):
    model.generation = {"do_sample": True, "top_p": 7.0}
    with pytest.raises(minift.Error, match=r"top_p 7\.0"):
        generate_ids(model, torch.tensor([[1, 2]]))


def test_a_prompt_without_a_token_is_named_by_its_row(model):
    mask = torch.tensor([[1, 1], [0, 1], [0, 0]])
    with pytest.raises(minift.Error, match="row 2 of the prompts has no token"):
        generate_ids(model, torch.ones_like(mask), mask, max_new_tokens=1)
    with pytest.raises(minift.Error, match="row 0 of the prompts has no token"):
        generate_ids(model, torch.zeros((1, 0), dtype=torch.long), max_new_tokens=1)


def test_only_a_language_model_continues_a_text():
    config = bert.Config(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    classifier = gpt2.GPT2(gpt2.Config(vocab_size=30, n_embd=8, n_layer=1, n_head=2), "classify")
    for model in bert.BERT(config, "mlm"), bert.BERT(config), classifier, torch.nn.Linear(2, 2):
        with pytest.raises(
            minift.Error, match="only a language model or an encoder-decoder can write a text; this model is a "
        ):
            minift.generate(model, Letters(), "BAD")
