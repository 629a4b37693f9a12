# %% [markdown]
# # Published weights, key by key
#
# A published model is a folder: a config, a file of named tensors, a tokenizer. Loading it looks
# like copying tensors by name, and nearly is. But where a name, a layout or a constant is missed,
# most mistakes raise no error: the model just becomes worse, or random. Here we load by hand, step
# into each trap on purpose, and measure what it does.
#
# What minift does about each stands in `minift/pretrained.py` and in the `key_map` of each model
# file.
#
# Run it cell by cell, or whole: `python tutorials/04_published_weights.py`, about 10 seconds, no
# network. A cell that takes longer than a second says so.

# %%
import json
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F

import minift
from minift import hub, safetensors
from minift.models import bert, gpt2

MODEL = "bert-nano"  # or the folder of a published BERT (with a model.safetensors)
GPT2 = None  # or the folder of a published GPT-2; None: a tiny one that we write ourselves

torch.manual_seed(0)
scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # everything we write goes here

# %% [markdown]
# ## 1. What is in the folder
#
# The cell prints the files with their sizes, and what `config.json` says of the shape.

# %%
folder = hub.find(MODEL)
for path in sorted(folder.iterdir()):
    print(f"{path.stat().st_size:12,} {path.name}")
said = json.loads((folder / "config.json").read_text("utf-8"))
print({key: value for key, value in said.items() if isinstance(value, int | float) and not isinstance(value, bool)})

# %% [markdown]
# A safetensors file is simple enough to read by hand: 8 bytes that say how long the header is, a
# header in JSON, then the tensors, one behind the other. (Unlike a pickle, it cannot run anything.)
# The cell prints the header's length and its first entries. `data_offsets` count from the end of
# the header.

# %%
with open(folder / "model.safetensors", "rb") as f:
    length = int.from_bytes(f.read(8), "little")
    header = json.loads(f.read(length))
header.pop("__metadata__", None)
print("header:", length, "bytes,", len(header), "tensors")
for key, entry in list(header.items())[:6]:
    print(key, entry)

# %% [markdown]
# Let us read one tensor: seek, read, interpret. `F32` is float32, `F16` float16, `BF16` bfloat16
# (exercise 2). The cell prints the first numbers of the table of segments and compares with
# `minift.safetensors.load`, which reads all of them.

# %%
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

key = next(key for key in header if key.endswith("token_type_embeddings.weight"))
begin, end = header[key]["data_offsets"]
with open(folder / "model.safetensors", "rb") as f:
    f.seek(8 + length + begin)
    raw = bytearray(f.read(end - begin))
by_hand = torch.frombuffer(raw, dtype=DTYPES[header[key]["dtype"]]).reshape(header[key]["shape"])

tensors = safetensors.load(folder / "model.safetensors")
print(key, by_hand[0, :4].tolist())
print("equal to the library's:", torch.equal(by_hand, tensors[key]))

# %% [markdown]
# ## 2. Loading by hand
#
# First a module of the right shape. The fields of `bert.Config` bear the names of `config.json`;
# what is not a field (the version of a library, say) is left out. The cell prints how many
# parameters the model has and how many keys the file.


# %%
def fresh(**changes):
    """A BERT of this shape with random weights; `changes` replace what config.json says."""
    known = {f.name: said[f.name] for f in fields(bert.Config) if f.name in said}
    return bert.BERT(bert.Config(**known | changes), "encoder").eval().requires_grad_(False)


model = fresh()
wanted = dict(model.named_parameters())
print(len(wanted), "parameters, such as", list(wanted)[5])
print(len(tensors), "keys, such as", list(tensors)[5])

# %% [markdown]
# Now copy. A file of a bare `BertModel` has no `bert.` before its keys, one of a BERT with a head
# has; and old files call a norm's parameters gamma and beta (section 3 says why that matters). We
# accept both. Every tensor must find a parameter of its own shape, and every parameter must be
# found. The cell prints what it does for block 0, and what is left over on either side.


# %%
def today(key):
    """The name that a key of a published BERT has in our model."""
    key = key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return key if key.startswith(("bert.", "cls.", "classifier.")) else f"bert.{key}"


left = set(wanted)
for key, tensor in tensors.items():
    name = today(key)
    if name not in wanted:
        print("no parameter for", key)
        continue
    assert tensor.shape == wanted[name].shape, f"{key}: {tensor.shape}, but {wanted[name].shape} in the model"
    wanted[name].copy_(tensor)
    left.remove(name)
    if ".layer.0." in key:
        print(f"{key:56} {tuple(tensor.shape)}")
print("parameters without weights:", sorted(left) or "none")

# %% [markdown]
# Is it the model? We ask for the hidden states of a sentence, here and from `minift.load_model`.
# The cell prints the largest difference: 0, not even rounding, as it is the same code on the same
# numbers.

# %%
tokenizer = minift.load_tokenizer(MODEL)
ids = torch.tensor([tokenizer.encode("A quiet film that stays with you for days.")])  # (1, T)
right = model.hidden(ids)  # (1, T, C)
print("hidden states", tuple(right.shape), "of typical size", f"{right.abs().mean():.2f}")
print("differs from minift.load_model by", (minift.load_model(MODEL).hidden(ids) - right).abs().max().item())

# %% [markdown]
# We have the measure for the rest of this page: how far do the hidden states move when one thing is
# missed? First a model that has no weights from the file at all, as the worst case. The cell prints
# its mean difference in units of the typical size.


# %%
def off(model):
    """The mean difference from the right hidden states, where 1 is as large as they are themselves."""
    return ((model.hidden(ids) - right).abs().mean() / right.abs().mean()).item()


print(f"right weights: off by {off(model):.6f}")
print(f"random weights: off by {off(fresh()):.6f}")

# %% [markdown]
# ## 3. Traps of a BERT
#
# For these we keep the right state dict at hand, in the model's own names. The cell prints its
# size.

# %%
state = {name: parameter.clone() for name, parameter in model.named_parameters()}
print(len(state), "tensors")

# %% [markdown]
# **The prefix.** `load_state_dict(strict=False)` skips what it does not know. Give it keys without
# `bert.`, and it skips everything, quietly. The cell prints how many parameters stayed random, and
# the difference: that of random weights.

# %%
careless = fresh()
result = careless.load_state_dict({name.removeprefix("bert."): t for name, t in state.items()}, strict=False)
print(f"{len(result.missing_keys)} of {len(state)} parameters missing, no error; off by {off(careless):.6f}")

# %% [markdown]
# **Gamma and beta.** Files from BERT's first years call a norm's `weight` and `bias` `gamma` and
# `beta`. With `strict=False` the norms stay at their fresh 1 and 0. The cell prints the difference:
# large, though only a few thousand numbers of millions are wrong.


# %%
def old_name(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


careless = fresh()
result = careless.load_state_dict({old_name(name): t for name, t in state.items()}, strict=False)
missed = sum(state[name].numel() for name in result.missing_keys)
print(f"{missed:,} of {sum(t.numel() for t in state.values()):,} numbers missed; off by {off(careless):.6f}")

# %% [markdown]
# **Two GELUs.** BERT's weights want the exact one, $x \, \Phi(x)$; GPT-2's an approximation by
# tanh. `config.json` calls them `gelu` and `gelu_new`. The cell prints the difference when they are
# confused: small, and enough to fail every comparison with the reference.

# %%
tanh = fresh(hidden_act="gelu_new")
tanh.load_state_dict(state)
print(f"tanh GELU: off by {off(tanh):.6f}")

# %% [markdown]
# **Epsilon.** A norm divides by $\sqrt{\mathrm{var} + \epsilon}$. BERT's is 1e-12, PyTorch's
# default 1e-5, which is GPT-2's. It matters where the variance is small. The cell prints the
# difference.

# %%
coarse = fresh(layer_norm_eps=1e-5)
coarse.load_state_dict(state)
print(f"epsilon 1e-5: off by {off(coarse):.6f}")

# %% [markdown]
# **Stored positions.** Old versions of transformers saved a buffer `embeddings.position_ids`, the
# numbers 0 to 511. It is no weight. A strict loader refuses the file because of it. The cell prints
# that refusal; the way out is to drop it *by name*, not to stop being strict.

# %%
try:
    fresh().load_state_dict(state | {"bert.embeddings.position_ids": torch.arange(512)[None]})
except RuntimeError as e:
    print(e)

# %% [markdown]
# **float16.** Many files store half the bytes. Loaded into float32 the numbers are exact copies of
# rounded ones: about three digits. Anything beyond 65504 became infinity when the file was written.
# The cell prints both effects.

# %%
rounded = fresh()
rounded.load_state_dict({name: t.half().float() for name, t in state.items()})
print(f"float16 weights, computed in float32: off by {off(rounded):.6f}")
print("70000 in float16 is", torch.tensor(70000.0).half().item())

# %% [markdown]
# ## 4. All of them in one file, and what minift says
#
# We write a folder as it might have been published years ago: no prefix, gamma and beta, a position
# buffer, float16. minift loads it and keeps a report at `model.report`, which names every key and
# what became of it; numbers of layers are written as `*`. The cell prints the difference and the
# report. About a second.

# %%
old = Path(scratch.name, "old-bert")
shutil.copytree(folder, old, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
aged = {old_name(name).removeprefix("bert."): t.half() for name, t in state.items()}
aged["embeddings.position_ids"] = torch.arange(512)[None]
safetensors.save(old / "model.safetensors", aged)

loaded = minift.load_model(old, kind="encoder")
print(f"off by {off(loaded):.6f}, which is float16's rounding")
print(loaded.report)

# %% [markdown]
# The same report for any folder, from the command line: `minift check FOLDER`.
#
# And a file that lacks a weight? That is an error in minift, always: a random layer in a trained
# model is never what anyone wants. The cell deletes one key, loads, and prints the error.

# %%
del aged["encoder.layer.1.output.dense.bias"]
safetensors.save(old / "model.safetensors", aged)
try:
    minift.load_model(old, kind="encoder")
except minift.Error as e:
    print(e)

# %% [markdown]
# ## 5. Traps of a GPT-2
#
# GPT-2's own code kept the matrices of its projections as (in, out), in a class named `Conv1D`;
# `nn.Linear` has (out, in). The published files still have OpenAI's layout. As no GPT-2 comes with
# minift, we make a tiny one with random weights and save it, in the published layout. The cell
# prints the shapes in the file beside those in the model.

# %%
if GPT2 is None:
    small = gpt2.GPT2(gpt2.Config(vocab_size=256, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    for parameter in small.requires_grad_(False).parameters():
        parameter += 0.2 * torch.randn(parameter.shape)
    minift.save(small, None, Path(scratch.name, "gpt2"))
source = Path(scratch.name, "gpt2") if GPT2 is None else hub.find(GPT2)

model = minift.load_model(source).requires_grad_(False)
tensors = safetensors.load(source / "model.safetensors")
prefix = "" if "wte.weight" in tensors else "transformer."
for name, parameter in list(model.named_parameters())[:8]:
    key = prefix + name.removeprefix("transformer.")
    print(f"{key:36} {tuple(tensors[key].shape)!s:12} {tuple(parameter.shape)}")

# %% [markdown]
# **Transpose by name, not by shape.** A loader that transposes whatever does not fit gets three of
# the four right. `attn.c_proj` is square: it fits either way. We load like that, and compare logits
# as we compared hidden states. The cell prints the difference.

# %%
ids = torch.tensor([list(b"to be or not to be")])  # (1, T)
logits = model(ids)  # (1, T, V)


def logits_off(model):
    return ((model(ids) - logits).abs().mean() / logits.abs().mean()).item()


careless = gpt2.GPT2(model.config).eval().requires_grad_(False)
for name, parameter in careless.named_parameters():
    tensor = tensors[prefix + name.removeprefix("transformer.")]
    parameter.copy_(tensor if tensor.shape == parameter.shape else tensor.T)
print(f"transposed by shape: off by {logits_off(careless):.6f}")

# %% [markdown]
# **The head that is not there.** The output layer shares its weights with the embedding ("tied"),
# so the file holds them once and has no `lm_head.weight`. A model that gives the head a matrix of
# its own, and loads with `strict=False`, has a random head on a perfect body. The cell prints
# whether the key is in the file, the difference, and the loss beside that of guessing (the
# logarithm of V): for a trained model it would fall back to about that.

# %%
careless = gpt2.GPT2(gpt2.Config(**vars(model.config) | {"tie_word_embeddings": False})).eval()
careless.requires_grad_(False).load_state_dict(model.state_dict(), strict=False)
print("lm_head.weight in the file:", "lm_head.weight" in tensors)
loss = F.cross_entropy(careless(ids)[0, :-1], ids[0, 1:])
print(f"random head: off by {logits_off(careless):.6f}")
print(f"its loss {loss:.2f}, guessing {torch.tensor(model.config.vocab_size).log():.2f}")

# %% [markdown]
# **A bias that is a mask.** Old GPT-2 files hold `h.0.attn.bias`, shape (1, 1, 1024, 1024). That is
# not attention's bias (there is `attn.c_attn.bias`): it is the causal mask, saved as a buffer, with
# `masked_bias`, the number -10000 beside it. They are dropped by name. The cell writes such a file,
# without the `transformer.` prefix too, and prints minift's report.

# %%
old = Path(scratch.name, "old-gpt2")
aged = {key.removeprefix("transformer."): tensor for key, tensor in tensors.items()}
N = model.config.n_positions
for i in range(model.config.n_layer):
    aged[f"h.{i}.attn.bias"] = torch.ones(N, N).tril()[None, None]
    aged[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
safetensors.save(old / "model.safetensors", aged)
shutil.copy(source / "config.json", old)

loaded = minift.load_model(old)
print(f"off by {logits_off(loaded):.6f}")
print(loaded.report)

# %% [markdown]
# ## 6. And back
#
# What minift saves has the published keys and layouts again, so other libraries read it. The proof
# that nothing was lost: load, save, and compare bit by bit. The cell does it for both models;
# transposing twice gives back the same bits, too. About a second.

# %%
core = lambda key: today(key).removeprefix("bert.").removeprefix("transformer.")  # a name without prefix

for name in (folder, source):
    again = Path(scratch.name, "again", name.name)
    minift.save(minift.load_model(name), None, again)
    before, after = (safetensors.load(where / "model.safetensors") for where in (name, again))
    after = {core(key): tensor for key, tensor in after.items()}
    kept = [key for key in before if core(key) in after]
    equal = sum(torch.equal(before[key].float(), after[core(key)]) for key in kept)
    print(f"{name.name}: {len(before)} in the file, {len(after)} saved, {equal} of {len(kept)} equal")

# %% [markdown]
# Where a file has more than was saved, these are buffers, or second copies of tied weights. A
# float16 file is saved as float32: twice the size, the same numbers.
#
# ## Exercises
#
# Each is a stub; below it stands a check that says at once what is wrong. Fill in, run again.


# %%
def try_(number, check, answer):
    """Run a check and print its verdict."""
    try:
        check(answer)
        print(f"exercise {number}: right")
    except AssertionError as why:
        print(f"exercise {number}: not yet – {why}")


# %% [markdown]
# **Exercise 1: one key of a GPT-2 file.** Given a key, its tensor, and `shapes` {parameter name:
# shape} of minift's model, return (parameter name, tensor as the model wants it), or `None` for a
# key that is no parameter. Keys come with or without `transformer.`; parameter names have it.
#
# Hint: the transposed ones are the `.weight` of `c_attn`, `c_proj` and `c_fc`. One of them is
# square: its shape will not tell you.


# %%
def place(key, tensor, shapes): ...


def check_place(answer):
    model = gpt2.GPT2(gpt2.Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=2, n_head=2))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        stored = parameter.detach()
        stored = stored.T.contiguous() if ".c_" in name and stored.ndim == 2 else stored
        for key in (name, name.removeprefix("transformer.")):
            got = answer(key, stored, shapes)
            assert isinstance(got, tuple) and len(got) == 2, f"{key}: return (name, tensor), not {got!r}"
            assert got[0] == name, f"{key} is the parameter {name}, not {got[0]}"
            assert got[1].shape == parameter.shape, f"{key}: wanted {parameter.shape}, got {got[1].shape}"
            assert torch.equal(got[1], parameter), f"{key}: right shape, wrong numbers: transposed or not?"
    for key in ("h.0.attn.bias", "transformer.h.1.attn.masked_bias"):
        assert answer(key, torch.zeros(1, 1, 16, 16), shapes) is None, f"{key} is a mask: return None"


try_(1, check_place, place)

# %% [markdown]
# **Exercise 2: bfloat16 from bytes.** NumPy and many languages have no bfloat16. It is the *first
# half* of a float32: one sign bit, eight of exponent, seven of fraction. Given the bytes of N such
# numbers, two each, little-endian, return a float32 tensor (N,). Do not use `torch.bfloat16`.
#
# Hint: the missing half is zeros; in little-endian order the second half of a number comes first.
# float16 is another format with 16 bits: five of exponent, ten of fraction.


# %%
def from_bfloat16(raw: bytes) -> torch.Tensor: ...


def check_from_bfloat16(answer):
    numbers = torch.tensor([1.0, -2.5, 3.140625, 1e30, -1e-30, 0.0]).bfloat16()
    got = answer(numbers.view(torch.uint8).numpy().tobytes())
    assert isinstance(got, torch.Tensor) and got.dtype == torch.float32, f"return a float32 tensor, not {got!r}"
    want = numbers.float()
    assert got.shape == want.shape, f"{len(want)} numbers, yours has the shape {tuple(got.shape)}"
    assert torch.equal(got, want), f"the numbers are {want.tolist()}, yours {got.tolist()}"


try_(2, check_from_bfloat16, from_bfloat16)

# %% [markdown]
# **Exercise 3: c_attn in three.** Other models keep queries, keys and values apart. Given GPT-2's
# `c_attn` as the *file* has it, `weight` (C, 3C) and `bias` (3C,), return three pairs (weight (C,
# C), bias (C,)) for three `nn.Linear`, in the order query, key, value.
#
# Hint: `nn.Linear` computes x W^T + b, OpenAI's `Conv1D` x W + b. C × C is square: shapes will not
# help you.


# %%
def split_c_attn(weight, bias): ...


def check_split_c_attn(answer):
    generator = torch.Generator().manual_seed(2)
    weight, bias, x = (torch.randn(*shape, generator=generator) for shape in ((4, 12), (12,), (5, 4)))
    got = answer(weight, bias)
    assert isinstance(got, list | tuple) and len(got) == 3, f"return three pairs (weight, bias), not {got!r}"
    want = x @ weight + bias  # (5, 12)
    for part, (w, b), y in zip(("query", "key", "value"), got, want.split(4, dim=-1), strict=True):
        assert w.shape == (4, 4) and b.shape == (4,), f"{part}: the shapes are {tuple(w.shape)}, {tuple(b.shape)}"
        assert torch.allclose(F.linear(x, w, b), y, atol=1e-5), f"{part}: nn.Linear computes other numbers with it"


try_(3, check_split_c_attn, split_c_attn)
