# %% [markdown]
# # GPT-2 by hand
#
# `minift/models/gpt2.py` is a GPT-2 in one file. Here we compute the same numbers from matrix
# products and a few formulas, one cell a step, and compare after every step. At the end we train a
# tiny one until it knows two sentences by heart, and let it speak.
#
# Papers: Vaswani et al. 2017 ("Attention Is All You Need") for attention, Radford et al. 2019
# ("Language Models are Unsupervised Multitask Learners") for GPT-2.
#
# Run it cell by cell, or whole: `python tutorials/03_gpt2_by_hand.py`, about 10 seconds, no
# network. A cell that takes longer than a second says so.

# %%
import math
import os

import torch
import torch.nn.functional as F

import minift
from minift.models.gpt2 import GPT2, Config

MODEL = None  # or the folder of a published GPT-2; None: a tiny one with random weights

torch.manual_seed(0)
torch.set_printoptions(precision=2, sci_mode=False, linewidth=100)


def same(what, ours, theirs):
    """Print the shape and the largest difference; stop if it is more than rounding."""
    largest = (ours - theirs).abs().max().item()
    print(f"{what}: {tuple(ours.shape)}, ours and minift's differ by at most {largest:.0e}")
    assert largest < 1e-5 * max(1, theirs.abs().max().item()), "that is not rounding"


# %% [markdown]
# ## 1. A model and a text
#
# Letters for shapes, here and in the library: B rows of the batch, T tokens, C channels, nh heads
# of hs = C / nh channels each, V vocabulary.
#
# The tiny model has two blocks and reads bytes, so V is 256 and encoding is `text.encode()`. To
# each of its fresh weights we add some noise: a fresh bias is 0, a fresh norm 1, and we would not
# notice if we forgot them. The cell prints the ids.

# %%
if MODEL is None:
    config = Config(vocab_size=256, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    model = GPT2(config).eval().requires_grad_(False)  # we only look
    for parameter in model.parameters():
        parameter += 0.2 * torch.randn(parameter.shape)
    encode = lambda text: list(text.encode())
else:
    model, tokenizer = minift.load(MODEL)
    model.requires_grad_(False)
    config, encode = model.config, tokenizer.encode

text = "to be or not to be"
ids = torch.tensor([encode(text)])  # (B, T)
B, T = ids.shape
C, nh = config.n_embd, config.n_head
hs = C // nh
print(ids)
print(f"B = {B}, T = {T}, C = {C}, nh = {nh}, hs = {hs}, V = {config.vocab_size}, blocks = {config.n_layer}")

# %% [markdown]
# ## 2. Embeddings: what, and where
#
# Each token is looked up in a table, `wte` (V, C). Attention by itself does not know order, so a
# second learned vector says where the token stands: `wpe` (1024 rows in the published models, which
# is why they cannot read longer texts). The two are added. The cell compares the sum.

# %%
wte, wpe = model.transformer.wte.weight, model.transformer.wpe.weight
position = torch.arange(T)  # 0, 1, 2, ...
x = wte[ids] + wpe[position]  # (B, T, C)
same("embeddings", x, model.transformer.wte(ids) + model.transformer.wpe(position))

# %% [markdown]
# This `x` is the *residual stream*. Every block reads from it and adds to it, twice:
#
#     x = x + attention(norm(x))          gather from other tokens
#     x = x + mlp(norm(x))                think about what was gathered
#
# ## 3. Layer norm
#
# Each token's C numbers are brought to mean 0 and variance 1, then scaled and shifted by learned
# `weight` and `bias` (Ba et al. 2016, section 3):
#
# $$\mathrm{norm}(x) = \frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{var}(x) + \epsilon}} \cdot w + b$$
#
# Two details decide whether published weights work: the variance divides by C, not C - 1, and
# $\epsilon$ stands *inside* the root (1e-5 for GPT-2, 1e-12 for BERT). GPT-2 normalises what goes
# into each half (section 2.3), the first Transformer normalised what came out. The cell compares.


# %%
def layer_norm(x, norm):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * norm.weight + norm.bias


block = model.transformer.h[0]
n = layer_norm(x, block.ln_1)  # (B, T, C)
same("first norm", n, block.ln_1(x))

# %% [markdown]
# ## 4. Attention
#
# Every token asks a question, its *query*; every token offers a *key*, by which it is found, and a
# *value*, which it gives (Vaswani et al., section 3.2). All three are linear functions of the
# normalised stream. GPT-2 keeps their three matrices in one, `c_attn`: (C, 3C) in the published
# file, (3C, C) in PyTorch's layout. The cell prints the shapes.

# %%
c_attn = block.attn.c_attn
q, k, v = (n @ c_attn.weight.T + c_attn.bias).split(C, dim=-1)  # each (B, T, C)
print("weight", tuple(c_attn.weight.shape), "  q, k, v each", tuple(q.shape))

# %% [markdown]
# **Heads** (section 3.2.2): the C channels are dealt into nh groups of hs, and each group attends
# for itself, so that one token can look for several things at once. The cell prints the new shape.


# %%
def heads(x):
    B, T, C = x.shape
    return x.view(B, T, nh, C // nh).transpose(1, 2)  # (B, nh, T, hs)


q, k, v = heads(q), heads(k), heads(v)
print("q, k, v each", tuple(q.shape))

# %% [markdown]
# **Scores**: how well each query fits each key is their product. A sum of hs products of numbers of
# size 1 has size $\sqrt{hs}$; softmax of large numbers is nearly all on one token and learns badly.
# So the scores are divided by that (section 3.2.1):
#
# $$\mathrm{scores} = \frac{q \, k^\top}{\sqrt{hs}}$$
#
# The cell first shows the size for random q and k of hs = 64, GPT-2's; then the scores of head 0,
# of the first five tokens (row: who asks; column: who is asked).

# %%
product = torch.randn(1000, 64) @ torch.randn(64, 1000)
print(f"deviation of products: {product.std():.1f}, divided by the root of 64: {(product / 8).std():.1f}")
scores = q @ k.transpose(-2, -1) / math.sqrt(hs)  # (B, nh, T, T)
print("scores", tuple(scores.shape))
print(scores[0, 0, :5, :5])

# %% [markdown]
# **The causal mask**: the model learns to predict the next token, so no token may see a later one.
# Their scores become minus infinity. **Softmax** turns each row into shares that sum to 1, and
# $e^{-\infty}$ is 0: the future gets nothing. The cell prints the shares of the same five tokens.
# The first can see only itself.

# %%
visible = torch.ones(T, T, dtype=torch.bool).tril()  # True where the row's token may see the column's
scores = scores.masked_fill(~visible, -torch.inf)
exponentials = torch.exp(scores - scores.max(-1, keepdim=True).values)  # less the largest: no overflow
shares = exponentials / exponentials.sum(-1, keepdim=True)  # (B, nh, T, T)
print(shares[0, 0, :5, :5])

# %% [markdown]
# **Gather**: each token takes the values of those it sees, by their shares. The heads are laid side
# by side again and mixed by one more matrix, `c_proj`. The cell compares with the library's whole
# attention, which calls PyTorch's fused `scaled_dot_product_attention` for all of this.

# %%
y = shares @ v  # (B, nh, T, hs)
y = y.transpose(1, 2).reshape(B, T, C)  # (B, T, C), heads side by side
gathered = y @ block.attn.c_proj.weight.T + block.attn.c_proj.bias
same("attention", gathered, block.attn(n, None, None)[0])

# %% [markdown]
# ## 5. The MLP, and the GELU that GPT-2 means
#
# The gathered vectors are added to the stream. The second half of the block treats each token by
# itself: up to 4C channels, a bend, down to C again. The bend is GELU (Hendrycks & Gimpel 2016,
# section 2), $x \, \Phi(x)$: x times the chance that a normal number is below it. OpenAI used the
# approximation of that section, and published weights want it:
#
# $$\mathrm{gelu}(x) = \frac{x}{2} \left(1 + \tanh\left(\sqrt{2/\pi} \, (x + 0.044715 \, x^3)\right)\right)$$
#
# BERT's weights want the exact one. The cell prints how far the two are apart (little; but through
# 12 layers it adds up).


# %%
def gelu(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


points = torch.linspace(-5, 5, 1001)
print(f"approximate and exact GELU differ by up to {(gelu(points) - F.gelu(points)).abs().max():.4f}")

# %% [markdown]
# Now the second half, and with it the whole block. The cell compares the MLP, then the block.

# %%
x = x + gathered  # first addition to the stream
n = layer_norm(x, block.ln_2)
inner = gelu(n @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias)  # (B, T, 4C)
thought = inner @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias  # (B, T, C)
same("MLP", thought, block.mlp(n))
x = x + thought  # second addition
same("block", x, block(wte[ids] + wpe[position])[0])

# %% [markdown]
# ## 6. The whole model
#
# All of it once more, as two functions: a block is what we just did, the model is embeddings,
# blocks, a last norm. `visible` (B, T, T), True where a token may be seen, and `position` (B, T)
# are arguments, because the next sections change them.
#
# The output layer has no weights of its own: the score of a token is the product of the hidden
# state with that token's *embedding* ("tied"). The cell compares all T × V logits.


# %%
def block_by_hand(block, x, visible):
    n = layer_norm(x, block.ln_1)
    q, k, v = map(heads, (n @ block.attn.c_attn.weight.T + block.attn.c_attn.bias).split(C, dim=-1))
    scores = q @ k.transpose(-2, -1) / math.sqrt(hs)
    shares = scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1)  # (B, 1, T, T): for all heads
    y = (shares @ v).transpose(1, 2).reshape(x.shape)
    x = x + y @ block.attn.c_proj.weight.T + block.attn.c_proj.bias
    n = layer_norm(x, block.ln_2)
    inner = gelu(n @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias)
    return x + inner @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias


def logits_by_hand(ids, visible, position):
    x = wte[ids] + wpe[position]
    for block in model.transformer.h:
        x = block_by_hand(block, x, visible)
    return layer_norm(x, model.transformer.ln_f) @ wte.T  # (B, T, V)


logits = logits_by_hand(ids, visible[None], position[None])
same("logits", logits, model(ids))

# %% [markdown]
# **The loss.** The logits at token t are about token t + 1. Softmax makes them probabilities; the
# loss is the mean of minus the logarithm of what the *right* next token got:
#
# $$\mathrm{loss} = -\frac{1}{T-1} \sum_{t=0}^{T-2} \log p_t(\mathrm{ids}_{t+1})$$
#
# The last logits have no target, the first token is nobody's target. The cell compares with
# PyTorch, and with guessing evenly among V tokens, which costs log V.

# %%
log_p = logits - logits.exp().sum(-1, keepdim=True).log()  # log-softmax (B, T, V)
chosen = [log_p[0, t, ids[0, t + 1]] for t in range(T - 1)]
loss = -torch.stack(chosen).mean()
same("loss", loss, F.cross_entropy(logits[0, :-1], ids[0, 1:]))
print(f"loss {loss:.2f}, guessing {math.log(config.vocab_size):.2f}")

# %% [markdown]
# **The future is invisible**: change one token, and no logit before it may move. This is the test
# to run after any change to attention. The cell changes token 3 and prints at which tokens the
# logits moved.

# %%
other = ids.clone()
other[0, 3] += 1
moved = (model(other) != model(ids)).any(-1)[0]  # (T,)
print("logits moved at tokens", moved.nonzero()[:, 0].tolist())

# %% [markdown]
# ## 7. Padding and packing: one mask for both
#
# Rows of a batch differ in length. minift's `mask` (B, T) says what each place holds: 0 or False is
# padding, and *equal numbers see each other*, so one row may also carry several texts. Two rules
# follow:
#
# - a token sees the tokens up to itself that bear its own number;
# - its position is how many of those came before it. Otherwise a text that stands further right
#   would be read as if it began in the middle.
#
# The cell prints both for a row with two texts of 3 and 2 tokens and two pads in front.

# %%
mask = torch.tensor([[0, 0, 1, 1, 1, 2, 2]])
visible = mask[:, :, None] == mask[:, None]  # (B, T, T) the same text ...
visible = visible & torch.ones(7, 7, dtype=torch.bool).tril()  # ... and not the future
position = visible.sum(-1) - 1  # (B, T)
print(visible[0].int())
print("positions", position[0].tolist())

# %% [markdown]
# (Pads see pads. Nobody reads what they compute, but a row of shares with nothing to see would be 0
# / 0.)
#
# Does it hold? "to be" alone, with three pads at its left, and packed behind another text: its last
# logits must be the same. The cell prints the differences.

# %%
alone = torch.tensor([encode("to be")])
padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), alone), 1)  # three pads; their id is never looked at
behind = torch.tensor([encode("or not ") + encode("to be")])
length, start = alone.shape[1], behind.shape[1] - alone.shape[1]

right = model(alone)[:, -1]  # (1, V)
same("padded", model(padded, torch.tensor([[0] * 3 + [1] * length]))[:, -1], right)
same("packed", model(behind, torch.tensor([[1] * start + [2] * length]))[:, -1], right)

# %% [markdown]
# And if we forget? The cell pads "to be" as above, once keeping the mask but counting positions
# from the left edge, once with no mask at all. Neither raises an error; both give another model's
# answer.

# %%
mask = torch.tensor([[0] * 3 + [1] * length])
visible = (mask[:, :, None] == mask[:, None]) & torch.ones(length + 3, length + 3, dtype=torch.bool).tril()
late = logits_by_hand(padded, visible, torch.arange(length + 3)[None])[:, -1]
bare = model(padded)[:, -1]
print(f"the logits have a deviation of {right.std():.2f}")
print(f"positions from the left edge: off by up to {(late - right).abs().max():.2f}")
print(f"no mask: off by up to {(bare - right).abs().max():.2f}")

# %% [markdown]
# ## 8. The cache
#
# To continue a text we need the logits of its last token, again and again, one token longer each
# time. Since no token sees the future, the keys and values of the earlier ones never change: keep
# them, and feed only what is new. The model stores them in a dict that we hand it, for each block a
# pair (keys, values), each (B, nh, S, hs) after S tokens.
#
# The cell feeds "to be or not to be" as one piece of three tokens, then token by token, and
# compares with the full pass.

# %%
cache = {}
pieces = [model.hidden(ids[:, :3], cache=cache)]
for t in range(3, T):
    pieces.append(model.hidden(ids[:, t : t + 1], cache=cache))  # (B, 1, C)
print("the cache holds", len(cache), "blocks, keys", tuple(cache[0][0].shape))
same("cached", torch.cat(pieces, 1), model.hidden(ids))

# %% [markdown]
# ## 9. Learning two sentences by heart
#
# A fresh, small model; dropout off, because we *want* it to memorise. The two sentences are equally
# long, so that no padding is needed (the first exercise is about that). Each ends with a line
# break, which will tell us where to stop.
#
# The loss should begin near log 256 = 5.55, as the model knows nothing, and end below 0.1. It
# cannot reach 0: after "the " even a perfect memory must guess which sentence it is in, one of 22
# guesses, and log 2 / 22 is 0.03. About 3 seconds.

# %%
torch.manual_seed(0)
STEPS = 60 if os.environ.get("MINIFT_QUICK") else 120  # the tests set MINIFT_QUICK; it changes nothing else

sentences = ["the cat sat on the mat\n", "the dog dug in the fog\n"]
batch = torch.tensor([list(sentence.encode()) for sentence in sentences])  # (2, T)
small = GPT2(Config(256, 64, n_embd=64, n_layer=2, n_head=4, embd_pdrop=0, attn_pdrop=0, resid_pdrop=0))
optimizer = torch.optim.AdamW(small.parameters(), lr=3e-3)
for step in range(STEPS + 1):
    logits = small(batch)  # (2, T, V)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
    if step % 20 == 0:
        print(f"step {step:3}  loss {loss:.3f}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% [markdown]
# **Greedy generation**: take the likeliest next token, feed it back, stop at the line break. Keys
# and values go into a cache, so that each step feeds one token. The cell prints what our loop says
# and what `minift.generate_ids` says, for two beginnings.


# %%
def continue_by_hand(model, ids, end):
    cache, new = {}, []
    logits = model.head(model.hidden(ids, cache=cache)[:, -1])  # (1, V)
    while len(new) < 30:
        token = logits.argmax(-1)  # (1,)
        if token.item() == end:
            break
        new.append(token.item())
        logits = model.head(model.hidden(token[None], cache=cache)[:, -1])
    return new


small.eval()
for beginning in ("the cat", "the dog"):
    prompt = torch.tensor([list(beginning.encode())])
    ours = continue_by_hand(small, prompt, end=10)
    theirs = minift.generate_ids(small, prompt, max_new_tokens=30, eos=10)[0]
    print(f"{beginning}|{bytes(ours).decode(errors='replace')}", "  minift the same:", ours == theirs)

# %% [markdown]
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
# **Exercise 1: the loss of a padded batch.** `logits` (B, T, V), `ids` (B, T), `mask` (B, T), True
# for real tokens, padding at the right. Return one number: the mean over *all* next tokens that are
# real. Logits at t are about token t + 1.
#
# Hint: shift first, then choose by the shifted mask, `(B, T - 1)`; `F.cross_entropy` takes (N, V)
# and (N,).


# %%
def padded_loss(logits, ids, mask): ...


def check_padded_loss(answer):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 9, 50, generator=generator)
    ids = torch.randint(50, (2, 9), generator=generator)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    got = answer(logits, ids, mask)
    assert isinstance(got, torch.Tensor) and got.ndim == 0, f"return a tensor that is one number, not {got!r}"
    rows = [F.cross_entropy(logits[b, : n - 1], ids[b, 1:n], reduction="sum") for b, n in ((0, 9), (1, 4))]
    want = (sum(rows) / (8 + 3)).item()
    assert abs(got.item() - want) < 1e-5, f"8 + 3 targets have a mean of {want:.4f}, yours is {got:.4f}"
    other = answer(logits, ids.masked_fill(~mask, 7), mask)
    assert abs(other.item() - want) < 1e-5, "the loss changes with the ids of the padding"


try_(1, check_padded_loss, padded_loss)

# %% [markdown]
# **Exercise 2: a window.** In every second block of GPT-Neo a token sees only the `size` latest
# tokens of its text, itself among them. Given `mask` (B, T) of whole numbers (equal numbers belong
# to one text, 0 is padding), return `visible` (B, T, T), True where the row's token may see the
# column's: its own text, not the future, not too far back.
#
# Hint: compare row and column numbers, `torch.arange(T)[:, None]` and `torch.arange(T)`.


# %%
def window(mask, size): ...


def check_window(answer):
    got = answer(torch.ones(1, 5, dtype=torch.long), 2)
    assert isinstance(got, torch.Tensor) and got.shape == (1, 5, 5), f"return a tensor (1, 5, 5), not {got!r}"
    seen = got[0].int().sum(-1).tolist()
    assert seen == [1, 2, 2, 2, 2], f"5 tokens, size 2: they see 1, 2, 2, 2, 2 tokens; yours see {seen}"
    seen = answer(torch.tensor([[1, 1, 1, 2, 2, 2]]), 2)[0].nonzero().tolist()
    want = [[0, 0], [1, 0], [1, 1], [2, 1], [2, 2], [3, 3], [4, 3], [4, 4], [5, 4], [5, 5]]
    assert seen == want, f"two texts of 3 tokens, size 2: pairs (row, column) {want}; yours {seen}"


try_(2, check_window, window)

# %% [markdown]
# **Exercise 3: how many parameters has GPT-2?** Count them from its config alone. Per block: two
# norms, `c_attn` (C to 3C), `c_proj` (C to C), `c_fc` (C to 4C), `mlp.c_proj` (4C to C), all with
# biases. Around them: `wte` (V, C), `wpe` (`n_positions`, C), the last norm.
#
# Hint: a norm has 2C parameters. And what does the output layer have?


# %%
def count(config: Config) -> int: ...


def check_count(answer):
    for sizes in (100, 20, 8, 1), (50, 30, 12, 3):  # V, n_positions, C, blocks
        config = Config(*sizes, n_head=2)
        have, got = sum(p.numel() for p in GPT2(config).parameters()), answer(config)
        assert got == have, f"with V, n_positions, C, n_layer = {sizes} a model has {have}, you count {got}"
    assert answer(Config()) == 124_439_808, f"GPT-2 small has 124,439,808, you count {answer(Config())}"


try_(3, check_count, count)
