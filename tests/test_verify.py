"""`minift verify` holds as shipped, its numbers are those of transformers, and it names the law that a learner's mistake
breaks. Run me: pytest tests/test_verify.py"""

import importlib
import inspect
import time
from pathlib import Path

import pytest
import torch
import transformers

from minift import cli, pretrained, verify
from minift.errors import Error

torch.set_num_threads(1)
FAMILIES = ("gpt2", "bert")


def theirs(folder, family, kind):
    verify.publish(folder, family, kind)
    return getattr(transformers, verify.KINDS[family][kind][0]).from_pretrained(folder).eval()


def their_logits(model, family):
    segments = {"token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 1]])} if family == "bert" else {}
    return model(verify.IDS, **segments).logits.flatten().detach()


def their_losses(model):
    """Twenty steps of torch.optim.AdamW as the published recipe has it: no decay on biases and norms, clipping to 1."""
    decayed = [p for n, p in model.named_parameters() if not n.endswith("bias") and "ln_" not in n and "LayerNorm" not in n]
    others = [p for n, p in model.named_parameters() if not any(p is q for q in decayed)]
    groups = [{"params": decayed, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    optimizer, losses = torch.optim.AdamW(groups, lr=5e-4), []
    for step in range(20):
        examples = [verify.EXAMPLES[i] for i in verify.BATCHES[step % 2]]
        ids, mask = (torch.zeros(len(examples), max(len(e["ids"]) for e in examples), dtype=torch.long) for _ in "12")
        for row, example in enumerate(examples):
            ids[row, : len(example["ids"])], mask[row, : len(example["ids"])] = torch.tensor(example["ids"]), 1
        loss = model(ids, attention_mask=mask, labels=torch.tensor([e["target"] for e in examples])).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


# -- the stored numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), [(family, kind) for family in FAMILIES for kind in verify.KINDS[family]])
def test_the_stored_logits_are_those_of_transformers(tmp_path, family, kind):
    logits = their_logits(theirs(tmp_path, family, kind), family)[:: 1 if kind == "classify" else 30]
    assert logits.tolist() == pytest.approx(verify.REFERENCE[kind, family], rel=0, abs=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stored_losses_are_those_of_transformers_and_torch_adamw(tmp_path, family):
    losses = their_losses(theirs(tmp_path, family, "classify"))
    assert [losses[i] for i in (0, 1, 9, 19)] == pytest.approx(verify.REFERENCE["losses", family], rel=0, abs=5e-6)


@pytest.mark.parametrize(("family", "kind"), [(family, kind) for family in FAMILIES for kind in verify.KINDS[family]])
def test_the_tiny_file_has_the_keys_that_transformers_writes(tmp_path, family, kind):
    theirs(tmp_path, family, kind).save_pretrained(tmp_path / "again")
    found = verify.safetensors.load(tmp_path / "again" / "model.safetensors")
    ours = verify.weights(family, kind)
    assert found.keys() == ours.keys()
    assert all(torch.equal(found[key], ours[key]) for key in ours)


def test_no_tiny_weight_is_as_it_is_initialised():
    for family in FAMILIES:
        for kind in verify.KINDS[family]:
            for key, tensor in verify.weights(family, kind).items():
                start = 1.0 if tensor.ndim == 1 and key.endswith("weight") else 0.0
                assert (tensor != start).float().mean() > 0.9, key
                assert tensor.ndim < 2 or torch.linalg.matrix_rank(tensor) == min(tensor.shape), key


def test_the_greedy_texts_of_the_tiny_model_vary_and_have_no_close_second():
    model = verify.tiny("gpt2", "lm")
    for prompt in verify.IDS, verify.OTHER, verify.IDS[:, :1]:
        ids = prompt
        for _ in range(8):
            best = model(ids)[0, -1].topk(2)
            assert best.values[0] - best.values[1] > 1e-3
            ids = torch.cat((ids, best.indices[:1, None]), 1)
        assert len(set(ids[0, prompt.shape[1] :].tolist())) > 2


# -- as shipped -------------------------------------------------------------------------------------------------------


def test_every_law_holds_as_shipped_well_within_thirty_seconds(capsys):
    started = time.perf_counter()
    cli.main(["verify"])
    assert time.perf_counter() - started < 30
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[:-1]] == ["holds"] * len(verify.LAWS)
    assert "gpt2       padding is inert ................. holds" in lines
    assert lines[-1].startswith(f"all {len(verify.LAWS)} laws hold (")


def test_verifying_twice_draws_nothing_from_torch_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    verify.main()
    assert torch.equal(torch.rand(3), expected)


def test_every_law_says_in_words_what_it_is_and_where_to_look():
    here = Path(verify.__file__).parent
    for family, name, check in verify.LAWS:
        words, look = check.__doc__.replace("FAMILY", family).split("Look at ")
        assert len(words.split()) > 8, name
        files = [word.strip("`:,;") for word in look.split() if ".py" in word]
        assert files, name
        assert all((here / file).exists() for file in files), name


# -- a learner's mistakes ---------------------------------------------------------------------------------------------


def plant(monkeypatch, file, old, new):
    """Let the module be as if `old` in its source were `new`, which a learner might have typed."""
    module = importlib.import_module("minift." + file.replace("/", "."))
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"minift/{file}.py does not say {old!r} once: plant this mistake anew"
    edited = dict(vars(module))
    exec(compile(source.replace(old, new), module.__file__, "exec"), edited)
    for name, value in edited.items():
        if not name.startswith("__"):
            monkeypatch.setitem(vars(module), name, value)
    if file.startswith("models/"):
        family = file.removeprefix("models/")
        monkeypatch.setitem(pretrained.FAMILIES, family, (module, edited[{"gpt2": "GPT2", "bert": "BERT"}[family]]))
    if file == "tasks/classify":
        monkeypatch.setattr(verify, "Classify", edited["Classify"])


def broken(families=("gpt2", "bert", "train", "bpe", "wordpiece")):
    """Law -> what shows that it is broken."""
    found = {f"{family}: {name}": verify.fault(check, family) for family, name, check in verify.LAWS if family in families}
    return {law: shown for law, shown in found.items() if shown}


GPT2, BERT = "models/gpt2", "models/bert"
