"""`minift verify` holds as shipped, its numbers are those of transformers, and it names the law that a mistake breaks.
Run me: pytest tests/test_verify.py"""

import importlib
import inspect
import time
from pathlib import Path

import pytest
import torch
import transformers

from minift import cli, laws, laws_pairs, miniatures, pretrained, safetensors, verify
from minift.errors import Error

torch.set_num_threads(1)
FAMILIES = tuple(family for family in miniatures.KINDS if family != "kim_cnn")  # which transformers does not know
PAIRED = laws_pairs.FAMILIES.split()
EACH = [(family, kind) for family in FAMILIES for kind in miniatures.KINDS[family]]


def theirs(folder, family, kind):
    miniatures.publish(folder, family, kind)
    return getattr(transformers, miniatures.KINDS[family][kind][0]).from_pretrained(folder).eval()


def their_logits(model, family):
    if family in PAIRED:
        return model(input_ids=miniatures.IDS, decoder_input_ids=miniatures.OTHER).logits.flatten().detach()
    segments = {"token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 1]])} if family == "bert" else {}
    return model(miniatures.IDS, **segments).logits.flatten().detach()


def padded(rows):
    ids, mask = (torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long) for _ in "12")
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    return ids, mask


def their_losses(model):
    """Twenty steps of torch.optim.AdamW as the published recipe has it: no decay on biases and norms, clipping to 1."""
    if model.config.model_type == "marian":  # sines, which transformers 5 would train
        for stack in model.model.encoder, model.model.decoder:
            stack.embed_positions.requires_grad_(False)
    kept = ("ln_", "LayerNorm", "layer_norm", "layernorm")  # norms
    names = {n: p for n, p in model.named_parameters()}
    free = [n for n in names if n.endswith("bias") or any(part in n for part in kept)]
    others, decayed = [names[n] for n in free], [p for n, p in names.items() if n not in free]
    groups = [{"params": decayed, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    optimizer, losses = torch.optim.AdamW(groups, lr=5e-4), []
    for step in range(20):
        examples = [miniatures.PAIRS[i] for i in miniatures.BATCHES[step % 2]]
        ids, mask = padded([e["ids"] for e in examples])
        labels = torch.tensor([miniatures.EXAMPLES[i]["target"] for i in miniatures.BATCHES[step % 2]])
        if model.config.is_encoder_decoder:
            labels, real = padded([e["target"] for e in examples])
            labels = labels.masked_fill(real == 0, -100)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


# -- the stored numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "kind"), [(family, kind) for family in FAMILIES for kind in miniatures.KINDS[family]]
)
def test_the_stored_logits_are_those_of_transformers(tmp_path, family, kind):
    logits = their_logits(theirs(tmp_path, family, kind), family)[:: 1 if kind == "classify" else 30]
    assert logits.tolist() == pytest.approx(miniatures.REFERENCE[kind, family], rel=0, abs=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stored_losses_are_those_of_transformers_and_torch_adamw(tmp_path, family):
    losses = their_losses(theirs(tmp_path, family, [*miniatures.KINDS[family]][-1]))
    assert [losses[i] for i in (0, 1, 9, 19)] == pytest.approx(miniatures.REFERENCE["losses", family], rel=0, abs=5e-6)


@pytest.mark.parametrize(
    ("family", "kind"), [(family, kind) for family in FAMILIES for kind in miniatures.KINDS[family]]
)
def test_the_tiny_file_has_the_keys_that_transformers_writes(tmp_path, family, kind):
    theirs(tmp_path, family, kind).save_pretrained(tmp_path / "again")
    found = safetensors.load(tmp_path / "again" / "model.safetensors")
    ours = miniatures.weights(family, kind)
    assert found.keys() == ours.keys()
    assert all(torch.equal(found[key], ours[key]) for key in ours)


def test_no_tiny_weight_is_as_it_is_initialised():
    for family in FAMILIES:
        for kind in miniatures.KINDS[family]:
            for key, tensor in miniatures.weights(family, kind).items():
                start = 1.0 if tensor.ndim == 1 and key.endswith("weight") else 0.0
                assert (tensor != start).float().mean() > 0.9, key
                assert tensor.ndim < 2 or torch.linalg.matrix_rank(tensor) == min(tensor.shape), key


@pytest.mark.parametrize("family", laws.CAUSAL.split())
def test_the_greedy_texts_of_the_tiny_model_vary_and_have_no_close_second(family):
    model, seen = miniatures.tiny(family, "lm"), set()
    for prompt in miniatures.IDS, miniatures.OTHER, miniatures.IDS[:, :1]:
        ids = prompt
        for _ in range(8):
            best = model(ids)[0, -1].topk(2)
            assert best.values[0] - best.values[1] > 1e-3
            ids = torch.cat((ids, best.indices[:1, None]), 1)
        assert len(set(ids[0, prompt.shape[1] :].tolist())) > 1
        seen.update(ids[0, prompt.shape[1] :].tolist())
    assert len(seen) > (8 if family == "gpt2" else 2)


# -- as shipped -------------------------------------------------------------------------------------------------------


def test_every_law_holds_as_shipped_well_within_thirty_seconds(capsys):
    started = time.process_time()
    cli.main(["verify"])
    assert time.process_time() - started < 30
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[:-1]] == ["holds"] * len(verify.LAWS)
    assert "gpt2        padding is inert ................. holds" in lines
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
        words, look = check.__doc__.replace("FAMILY", miniatures.FILES.get(family, family)).split("Look at ")
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
    for family, (_, cls, config) in list(pretrained.FAMILIES.items()):
        if cls.__module__ == module.__name__:
            entry = (module, edited[cls.__name__], edited[config.__name__])
            monkeypatch.setitem(pretrained.FAMILIES, family, entry)
    for page in laws, laws_pairs:  # which know a task by its name
        for name in ("Classify", "LM", "MLM", "Translate", "Denoise"):
            if name in edited and vars(page).get(name) is not None and vars(page)[name].__module__ == module.__name__:
                monkeypatch.setattr(page, name, edited[name])


def broken(*families):
    """Law -> what shows that it is broken, for the laws of these families."""
    found = [(name, verify.fault(check, family)) for family, name, check in verify.LAWS if family in families]
    return {name: shown for name, shown in found if shown}


GPT2, BERT, BART, T5, TWO = (f"models/{name}" for name in ("gpt2", "bert", "bart", "t5", "bert2bert"))
NEO, OPT, ROBERTA, DISTIL = (f"models/{name}" for name in ("gpt_neo", "opt", "roberta", "distilbert"))
FUTURE2, PACKED2 = "the target's future is unseen", "packed pairs are strangers"
CACHES, WRITTEN = "the caches change nothing", "batches are written as rows are"
FED, PUT = "fed what came before", "what is hidden can be put back"
NUMERICS, STEPS, PADDING = "the published numerics", "twenty steps of AdamW", "padding is inert"
PACKED, CACHE, BATCH = "packed texts are strangers", "the cache changes nothing", "a batch continues as its rows do"
SUM, DROPOUT, HEAD = "accumulation is one large batch", "dropout in training alone", "--tune head trains the head"
FUTURE, BOTH, EMPTY = "the future is invisible", "every token sees every token", "a row of nothing but padding"
SAVED, NAN, FORWARD = "saved as it was published", "no step after a NaN", "forward is the head of hidden"
ONCE, HIDDEN = "every token is predicted once", "three ways to hide a word"
LORA = "LoRA beside what is frozen"
BPE, PIECES, MORE = "byte pairs and back", "word pieces and back", "and others, too"

MISTAKES = {  # the file, the laws that break; what it says, what a learner writes
    "exact instead of tanh GELU in GPT-2": (GPT2, (NUMERICS, STEPS),
        'function: str = "gelu_new"', 'function: str = "gelu"'),
    "tanh instead of exact GELU in BERT": (BERT, (NUMERICS, STEPS),
        'hidden_act: str = "gelu"', 'hidden_act: str = "gelu_new"'),
    "BERT with GPT-2's epsilon": (BERT, (NUMERICS, STEPS),
        "layer_norm_eps: float = 1e-12", "layer_norm_eps: float = 1e-5"),
    "GPT-2 with BERT's epsilon": (GPT2, (NUMERICS, STEPS),
        "_epsilon: float = 1e-5", "_epsilon: float = 1e-12"),
    "scores not scaled in GPT-2": (GPT2, (NUMERICS, STEPS),
        "(config.n_embd // config.n_head) ** -0.5", "1.0"),
    "scores not scaled in BERT": (BERT, (NUMERICS, STEPS),
        "if self.training else 0.0", "if self.training else 0.0, scale=1.0"),
    "no final norm": (GPT2, (NUMERICS, STEPS),
        "return self.transformer.ln_f(x)", "return x"),
    "segments ignored": (BERT, (NUMERICS,),
        "torch.zeros_like(ids) if segments is None else segments", "torch.zeros_like(ids)"),
    "a square matrix not transposed": (GPT2, (NUMERICS, STEPS),
        '"c_" in name', '"c_" in name and "attn.c_p" not in name'),
    "the last column, not the last real token": (GPT2, (PADDING, SUM, STEPS),
        "ids.device), last]", "ids.device), -1]"),
    "the first column, not the first real token": (BERT, (PADDING,),
        "0 if mask is None else (mask != 0).int().argmax(1)", "0"),
    "the mask ignored in GPT-2": (GPT2, (PADDING, PACKED, MORE),
        "visible = visible[:, None]", "visible = None"),
    "the mask ignored in BERT": (BERT, (PADDING, PACKED, MORE),
        "visible = visible[:, None]", "visible = None"),
    "columns as positions in GPT-2": (GPT2, (PADDING, PACKED, CACHE, BATCH),
        "position = visible.sum(-1) - 1", "position = torch.arange(S, S + T)"),
    "columns as positions in BERT": (BERT, (PADDING, PACKED),
        "visible.tril().sum(-1) - 1", "torch.arange(T)"),
    "positions from row 0 in RoBERTa": (ROBERTA, (NUMERICS, STEPS),
        "self.config.first + position", "position"),
    "positions from row 2, wherever the padding is": (ROBERTA, (NUMERICS, STEPS),
        "return self.pad_token_id + 1", "return 2"),
    "RoBERTa's classifier without its tanh": (ROBERTA, (NUMERICS, STEPS),
        "torch.tanh(self.dense(self.dropout(x)))", "self.dense(self.dropout(x))"),
    "columns as positions in RoBERTa": (ROBERTA, (PADDING, PACKED),
        "visible.tril().sum(-1) - 1", "torch.arange(T)"),
    "a RoBERTa head that --tune head forgets": (ROBERTA, (HEAD, DROPOUT),
        'for name in ("lm_head", "classifier", "qa_outputs")', 'for name in ("lm_head", "qa_outputs")'),
    "the mask ignored in DistilBERT": (DISTIL, (PADDING, PACKED, MORE),
        "visible = visible[:, None]", "visible = None"),
    "tanh instead of exact GELU in DistilBERT": (DISTIL, (NUMERICS, STEPS),
        '"gelu": F.gelu,', '"gelu": partial(F.gelu, approximate="tanh"),'),
    "DistilBERT with GPT-2's epsilon": (DISTIL, (NUMERICS, STEPS),
        "EPSILON = 1e-12", "EPSILON = 1e-5"),
    "tanh instead of ReLU in DistilBERT's classifier": (DISTIL, (NUMERICS, STEPS),
        "F.relu(self.pre_classifier(hidden))", "torch.tanh(self.pre_classifier(hidden))"),
    "DistilBERT's classifier without dropout": (DISTIL, (DROPOUT,),
        "self.dropout(F.relu(self.pre_classifier(hidden)))", "F.relu(self.pre_classifier(hidden))"),
    "the causal mask off by one": (GPT2, (FUTURE, MORE),
        ".tril(S)", ".tril(S + 1)"),
    "no causal mask without padding": (GPT2, (FUTURE, NUMERICS, MORE),
        "is_causal=visible is None and T > 1", "is_causal=False"),
    "a causal BERT": (BERT, (BOTH, MORE),
        "mask[:, :, None] == mask[:, None]", "(mask[:, :, None] == mask[:, None]).tril()"),
    "packed rows see each other in GPT-2": (GPT2, (PACKED,),
        "mask[:, S:, None] == mask[:, None]", "(mask[:, S:, None] != 0) == (mask[:, None] != 0)"),
    "packed rows see each other in BERT": (BERT, (PACKED,),
        "mask[:, :, None] == mask[:, None]", "(mask[:, :, None] != 0) == (mask[:, None] != 0)"),
    "padding that sees nothing": (BERT, (EMPTY, MORE),
        "mask[:, :, None] == mask[:, None]", "(mask[:, :, None] == mask[:, None]) & (mask != 0)[:, None]"),
    "cached positions off by one": (GPT2, (CACHE,),
        "torch.arange(S, S + T, dev", "torch.arange(S + (S > 0), S + T + (S > 0), dev"),
    "new keys before old": (GPT2, (CACHE, BATCH),
        "torch.cat((past[0], k), 2)", "torch.cat((k, past[0]), 2)"),
    "forward with a loss's normalisation": (GPT2, (FORWARD, NUMERICS, MORE),
        "return self.head(", "return 2 * self.head("),
    "dropout in evaluation in GPT-2": (GPT2, (DROPOUT,),
        "=self.dropout if self.training else 0.0", "=self.dropout"),
    "dropout in evaluation in BERT": (BERT, (DROPOUT,),
        "=self.dropout if self.training else 0.0", "=self.dropout"),
    "dropout in what is frozen": ("adapters", (DROPOUT,),
        "model.eval()", "model.train()"),
    "no eval() after training": ("train", (DROPOUT,),
        "    model.eval()\n    return history", "    return history"),
    "transposes forgotten on save": ("pretrained", (SAVED,),
        "state[name].T.contiguous() if transposed else state[name]", "state[name]"),
    "each batch's mean": ("tasks/classify", (SUM,),
        'target, reduction="sum"), len(target)', "target), 1"),
    "divided by the batches": ("train", (SUM,),
        "p.grad /= units", "p.grad /= len(window)"),
    "decay on biases and norms": ("optim", (STEPS,),
        '"weight_decay": 0.0', '"weight_decay": weight_decay'),
    "gradients never cleared": ("train", (STEPS,),
        "optimizer.zero_grad()", "pass"),
    "gradients not clipped": ("train", (STEPS,),
        "clip_grad_norm_(learning, settings.clip)", "clip_grad_norm_(learning, 1e9)"),
    "a head that trains the backbone": ("adapters", (HEAD, DROPOUT),
        'requires_grad_(tune == "all")', "requires_grad_(True)"),
    "LoRA merged without its scale": ("lora", (LORA,),
        "change = self.alpha / self.rank * ", "change = "),
    "LoRA that begins with noise": ("lora", (LORA,),
        "nn.init.zeros_(self.lora_B.weight)", "pass"),
    "LoRA merged into the only copy of the weights": ("lora", (LORA,),
        "self.weight + change", "self.weight.add_(change)"),
    "NaN in a gradient": ("train", (NAN,),
        "(math.isfinite(mean) and math.isfinite(norm))", "math.isfinite(mean)"),
    "a loss that is infinite": ("train", (NAN,),
        "(math.isfinite(mean) and math.isfinite(norm))", "math.isfinite(norm)"),
    "an end token that ends nothing": ("generation", (BATCH,),
        "row[: next((i for i, token in enumerate(row) if token in rules.eos_token_id), None)]", "row"),
    "an end token that ends all rows": ("generation", (BATCH,),
        "not going.any()", "not going.all()"),
    "the last column of the prompts": ("generation", (BATCH,),
        "self.cache)[rows, last]", "self.cache)[rows, -1]"),
    "rows that ended go on, others end": ("generation", (BATCH,),
        "(left,) = going.nonzero(as_tuple=True)\n            context",
        "(left,) = (~going).nonzero(as_tuple=True)\n            context"),
    "a token between two windows that nobody predicts": ("tasks/lm", (ONCE,),
        "done, size = end, 0", "done, size = end + 1, 0"),
    "the token itself as its target": ("tasks/lm", (ONCE,),
        "ids[done:end]", "ids[done - 1 : end - 1]"),
    "measured in windows side by side": ("tasks/lm", (ONCE,),
        "max(self.max_length // 2, 1)", "self.max_length"),
    "one number for all the texts of a row": ("tasks/lm", (ONCE,),
        "[n for n, window", "[1 for n, window"),
    "no token of its own for what ends a document": ("tasks/lm", (ONCE,),
        "*self.tokenizer.encode(text), *edge]", "*self.tokenizer.encode(text)]"),
    "every hidden word becomes [MASK]": ("tasks/mlm", (HIDDEN,),
        "draw < 0.8 * HIDDEN", "draw < HIDDEN"),
    "no hidden word stays": ("tasks/mlm", (HIDDEN,),
        "draw < 0.9 * HIDDEN", "draw < HIDDEN"),
    "special tokens hidden, too": ("tasks/mlm", (HIDDEN,),
        "torch.isin(ids, special)", "torch.isin(ids, special[:1])"),
    "a loss for every word": ("tasks/mlm", (HIDDEN,),
        "torch.where(draw < HIDDEN, ids, IGNORE)", "ids.clone()"),
    "measured on other words each time": ("tasks/mlm", (HIDDEN,),
        "chance = torch.Generator().manual_seed(0)", "chance = None"),
    "special tokens found in a text, BPE": ("tokenizers/bpe", (BPE,),
        "for rank in ranks]", 'for rank in ranks] + [self.eos] * text.count("<|endoftext|>")'),
    "special tokens found in a text, WordPiece": ("tokenizers/wordpiece", (PIECES,),
        "self._normal(text).split()", "(self._normal(text), text)[text in self._vocab].split()"),
    "the shortest piece first": ("tokenizers/wordpiece", (PIECES,),
        "range(len(word), start, -1)", "range(start + 1, len(word) + 1)"),
    "scores scaled in GPT-Neo": (NEO, (NUMERICS, STEPS),
        "scale=1.0", "scale=None"),
    "blocks of GPT-Neo that all see everything": (NEO, (NUMERICS, STEPS),
        "if window < S + T:", "if False:"),
    "a window that is one token wider": (NEO, (NUMERICS, STEPS),
        "+ 1 - window", "- window"),
    "a window that counts the padding, too": (NEO, (BATCH,),
        "(visible.cumsum(-1) > position[..., None] + 1 - window)", "torch.ones_like(visible).triu(S + 1 - window)"),
    "positions of OPT from row 0": (OPT, (NUMERICS, STEPS),
        "embed_positions(position + 2)", "embed_positions(position)"),
    "columns as positions in OPT": (OPT, (PADDING, PACKED, CACHE, BATCH),
        "position = visible.sum(-1) - 1", "position = torch.arange(S, S + T)"),
    "GELU in OPT": (OPT, (NUMERICS, STEPS),
        'activation_function: str = "relu"', 'activation_function: str = "gelu"'),
    "OPT 350M with its norms before": (OPT, (NUMERICS, STEPS),
        "self.before = config.do_layer_norm_before", "self.before = True"),
    "windows over padding": ("models/kim_cnn", (PADDING, SUM),
        "if mask is not None:", "if False:"),
    "dropout in evaluation in a CNN": ("models/kim_cnn", (DROPOUT,),
        "self.classifier(self.dropout(pooled))", "self.classifier(F.dropout(pooled, self.config.dropout))"),
    "a static copy that is not saved": ("models/kim_cnn", (SAVED, MORE),
        'keys = ["static", ', "keys = ["),
    "no bias of the logits": (BART, (NUMERICS, STEPS, MORE),
        "self.model.shared.weight, self.final_logits_bias[0]", "self.model.shared.weight, None"),
    "positions from row 0": (BART, (NUMERICS, STEPS),
        "self.embed_positions(position + 2)", "self.embed_positions(position)"),
    "tanh instead of exact GELU in BART": (BART, (NUMERICS, STEPS),
        '"gelu": F.gelu,', '"gelu": partial(F.gelu, approximate="tanh"),'),
    "a decoder that sees ahead": (BART, (FUTURE2, NUMERICS, MORE),
        "causal = visible is None and x.shape[1] > 1", "causal = False"),
    "a causal encoder": (BART, (NUMERICS, MORE),
        "self.self_attn(x, self.self_attn.read(x), visible)",
        "self.self_attn(x, self.self_attn.read(x), visible, visible is None)"),
    "no look at the source": (BART, (FUTURE2, NUMERICS, MORE),
        "self.encoder_attn(x, source, across)", "0 * self.encoder_attn(x, source, across)"),
    "padding of the source is seen": (BART, (PADDING, MORE),
        "across = (mine[:, :, None] == src_mask[:, None])[:, None]", "across = None"),
    "pairs that see each other's source": (BART, (PACKED2,),
        "mine[:, :, None] == src_mask[:, None]", "(mine[:, :, None] != 0) == (src_mask[:, None] != 0)"),
    "positions that start anew at each cached step": (BART, (CACHES, WRITTEN, MORE),
        "visible, position = None, torch.arange(past, past + T", "visible, position = None, torch.arange(0, T"),
    "old target keys last": (BART, (CACHES,),
        "tuple(torch.cat(both, 2) for both in zip(past, own, strict=True))",
        "tuple(torch.cat(both[::-1], 2) for both in zip(past, own, strict=True))"),
    "a tied key saved under another name": (BART, (SAVED,),
        'keys += ["model.shared.weight", "lm_head.weight"', 'keys += ["model.shared.weights", "lm_head.weight"'),
    "the target fed as it is": ("tasks/translate", (FED, STEPS),
        "torch.cat((start, target[:, :-1]), 1)", "target"),
    "a loss for the padding, too": ("tasks/translate", (FED, STEPS),
        "reduction=\"sum\", label_smoothing=smoothing)\n        return loss, len(logits)",
        "reduction=\"sum\", label_smoothing=smoothing)\n        return loss, mask.numel()"),
    "smoothed when measured": ("tasks/translate", (FED,),
        "self.smoothing if model.training else 0.0", "self.smoothing"),
    "beams that take each other's caches": ("generation", (WRITTEN,),
        "context.pick(origin.flatten(), others=False)", "pass"),
    "beams that never begin apart": ("generation", (WRITTEN,),
        "total[:, 1:] = -1e9", "total[:, 1:] = 0"),
    "noise that is always the same": ("tasks/denoise", (PUT,),
        "int(torch.randint(2**62, ()))", "0"),
    "measured on other noise each time": ("tasks/denoise", (PUT,),
        "chance = np.random.default_rng(0)", "chance = np.random.default_rng()"),
    "the target in the order of the source": ("tasks/denoise", (PUT,),
        "masks), joined(sentences)", "masks), shuffled"),
    "scores scaled in T5": (T5, (NUMERICS, STEPS),
        "            scale=1.0,\n", ""),
    "a norm that takes the mean off": (T5, (NUMERICS, STEPS),
        "square = x.float()", "x = x - x.mean(-1, keepdim=True); square = x.float()"),
    "T5's head given more than it was": (T5, (NUMERICS, STEPS),
        "x * self.config.d_model**-0.5 if self.config.scale_decoder_outputs else x", "x"),
    "before taken for behind": (T5, (NUMERICS, STEPS),
        "place[None] - place[past:, None]", "place[past:, None] - place[None]"),
    "a decoder that keeps rows for what follows": (T5, (NUMERICS, STEPS),
        "Stack(config, decoder, False)", "Stack(config, decoder, True)"),
    "distances as if nothing were cached": (T5, (CACHES, WRITTEN),
        "place[past:, None]", "place[:T, None]"),
    "the exact GELU in the gate": (T5, (NUMERICS, STEPS),
        '"gelu_new" if name == "gated-gelu" else name.split', 'name.split'),
    "the other half gated": (T5, (NUMERICS, STEPS),
        "self.act(self.wi_0(x)) * self.wi_1(x)", "self.act(self.wi_1(x)) * self.wi_0(x)"),
    "T5 1.1 with the table of words as its head": (T5, (NUMERICS, STEPS),
        "(self.shared if self.config.tie_word_embeddings else self.lm_head).weight", "self.shared.weight"),
    "a BERT that writes and sees ahead": (TWO, (FUTURE2, NUMERICS, MORE),
        "causal = visible is None and x.shape[1] > 1", "causal = False"),
    "a BERT that writes without looking": (TWO, (FUTURE2, NUMERICS, MORE),
        "x = self.crossattention(x, source, across)", "pass"),
    "the source's padding seen by a BERT": (TWO, (PADDING, MORE),
        "across = (mine[:, :, None] == src_mask[:, None])[:, None]", "across = None"),
}  # fmt: skip
FAMILY_OF = {GPT2: "gpt2", BERT: "bert", "tokenizers/bpe": "bpe", "tokenizers/wordpiece": "wordpiece"}
FAMILY_OF |= {"models/kim_cnn": "kim_cnn"}
FAMILY_OF |= {BART: "bart", "tasks/translate": "bart translate", "tasks/denoise": "denoise"}
FAMILY_OF |= {ROBERTA: "roberta", DISTIL: "distilbert"}
FAMILY_OF |= {T5: "t5", TWO: "bert2bert"}
FAMILY_OF |= {name: "t5-1.1" for name in MISTAKES if "gate" in name or "T5 1.1" in name}
FAMILY_OF |= {NEO: "gpt_neo", OPT: "opt", "OPT 350M with its norms before": "opt-350m"}
FAMILY_OF |= {"tasks/classify": "bert", "optim": "bert", "tasks/lm": "lm", "tasks/mlm": "mlm"}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_by_the_law_that_it_breaks(monkeypatch, mistake):
    file, laws, old, new = MISTAKES[mistake]
    plant(monkeypatch, file, old, new)
    families = FAMILY_OF.get(mistake) or FAMILY_OF.get(file, "bart" if laws == (WRITTEN,) else "gpt2")
    found = broken(*("train" if laws == (NAN,) else families).split())
    if laws[-1] == MORE:
        assert found.keys() >= set(laws[:-1]), found
    else:
        assert found.keys() == set(laws), found


def test_a_mistake_in_one_model_breaks_no_law_of_others(monkeypatch):
    plant(monkeypatch, BERT, "visible = visible[:, None]", "visible = None")
    assert broken("bert") and not broken("gpt2", "train", "bpe", "wordpiece")


def test_the_report_of_a_broken_law_has_its_words_its_number_and_where_to_look(monkeypatch, capsys):
    plant(monkeypatch, GPT2, '_function: str = "gelu_new"', '_function: str = "gelu"')
    with pytest.raises(SystemExit) as stopped:
        cli.main(["verify"])
    out, err = capsys.readouterr()
    assert stopped.value.code == 1
    assert err.startswith(
        f"minift: 2 of {len(verify.LAWS)} laws are broken: gpt2: the published numerics; gpt2: twenty"
    )
    lines = out.splitlines()
    at = lines.index("gpt2        the published numerics ........... BROKEN")
    assert lines[at + 1].startswith(
        "    the law   With published weights a model gives the logits of the model that was"
    )
    assert lines[at + 2].startswith("    shown by  logits of lm: off by 0.0002")
    assert lines[at + 3].startswith("    look at   models/gpt2.py: which GELU")
    assert len([line for line in lines if line.endswith(" holds")]) == len(verify.LAWS) - 2


def test_a_check_that_crashes_is_broken_by_its_own_words_and_the_others_still_run(monkeypatch, capsys):
    plant(monkeypatch, GPT2, "def pooled(self, ids, mask=None):", "def pooled(self, ids):")
    with pytest.raises(Error, match="gpt2: forward is the head of hidden") as stopped:
        verify.main()
    assert stopped.value.code == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "TypeError: GPT2.pooled() takes 2 positional arguments but 3 were given (models/gpt2.py, line " in out
    assert "wordpiece word pieces and back ............. holds" in out
