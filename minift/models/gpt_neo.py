"""GPT-Neo: a GPT-2 that in every second block sees only the newest tokens; the open rebuilding of GPT-3.

Black et al. 2021, "GPT-Neo: Large Scale Autoregressive Language Modeling with Mesh-Tensorflow". As GPT-3 has it (Brown
et al. 2020, section 2.1), blocks that see the whole text alternate with blocks that see a band of it. Loads the
published GPT-Neo of every size and the TinyStories models, and holds GPT-3's own eight shapes, see GPT3. Parameters
bear the names of the published files.

    B  rows of the batch      C   channels, config.hidden_size      nh  heads
    T  tokens fed now         S   tokens in the cache               hs  channels of a head, C / nh
    V  vocabulary

A mask is (B, S + T): True, or a number, where there is a token; False, or 0, where there is padding. Equal
numbers see each other, so that several texts can share a row. Run me: python -m minift.models.gpt_neo
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import Error, nearest

ACTIVATIONS = {
    "gelu_new": partial(F.gelu, approximate="tanh"),  # what GPT-Neo was trained with
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}


@dataclass
class Config:
    """The fields of a published config.json; the defaults are GPT-Neo 1.3B's."""

    vocab_size: int = 50257
    max_position_embeddings: int = 2048  # the longest text
    hidden_size: int = 2048
    num_layers: int = 24
    num_heads: int = 16
    attention_types: list = field(default_factory=lambda: [[["global", "local"], 12]])  # the pair, twelve times over
    window_size: int = 256  # how many tokens a local block sees: the newest ones, among them the token itself
    intermediate_size: int | None = None  # width of the MLP; None: 4 * hidden_size
    activation_function: str = "gelu_new"
    embed_dropout: float = 0.0  # dropout after the embeddings, ...
    attention_dropout: float = 0.0  # ... on the attention weights, ...
    resid_dropout: float = 0.0  # ... and before each addition to the residual stream
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    labels: list = field(default_factory=lambda: ["LABEL_0", "LABEL_1"])  # of a classifier; one: a number (regression)
    extra: dict = field(default_factory=dict)  # whatever else config.json says, kept for saving

    def __post_init__(self):
        if self.hidden_size % self.num_heads:
            heads = f"{self.num_heads} heads (num_heads)"
            raise Error(f"hidden_size {self.hidden_size} cannot be shared among {heads}: make it a multiple")
        if self.activation_function not in ACTIVATIONS:
            raise Error(
                f"activation_function '{self.activation_function}' is none of {', '.join(ACTIVATIONS)}"
                + nearest(self.activation_function, ACTIVATIONS)
            )
        try:
            length = sum(len(kinds) * count for kinds, count in self.attention_types)
            known = {kind for kinds, _ in self.attention_types for kind in kinds} <= {"global", "local"}
        except (TypeError, ValueError):
            known = False
        if not known:
            form = "[[['global', 'local'], 12]]: kinds of block, and how often they follow each other"
            raise Error(f"attention_types is {self.attention_types!r}, but must be like {form}")
        if length != self.num_layers:
            raise Error(f"attention_types names {length} blocks, but num_layers is {self.num_layers}; make them agree")

    @property
    def kinds(self) -> list[str]:
        """What each block sees: "global" or "local"."""
        return [kind for kinds, count in self.attention_types for _ in range(count) for kind in kinds]


def gpt3(layers: int, width: int, heads: int) -> Config:
    pairs = [[["global", "local"], layers // 2]]
    return Config(num_layers=layers, hidden_size=width, num_heads=heads, attention_types=pairs)


# GPT-3's eight shapes (Brown et al. 2020, table 2.1), all for texts of 2048 tokens. Two rows of the table cannot be as
# printed, for there heads times channels of a head are not the width: XL (24 heads of 128, width 2048) has the 16 heads
# that GPT-Neo gave it, 13B (40 heads of 128, width 5140) is 5120 wide. The paper does not say how wide the band is; 256
# is GPT-Neo's.
GPT3 = {
    "small": gpt3(12, 768, 12),
    "medium": gpt3(24, 1024, 16),
    "large": gpt3(24, 1536, 16),
    "xl": gpt3(24, 2048, 16),
    "2.7b": gpt3(32, 2560, 32),
    "6.7b": gpt3(32, 4096, 32),
    "13b": gpt3(40, 5120, 40),
    "175b": gpt3(96, 12288, 96),
}


class Attention(nn.Module):
    """Each token gathers from the tokens it may see (Vaswani et al. 2017, section 3.2), by scores that are not divided
    by the root of hs: training found weights that do without."""

    def __init__(self, config: Config):
        super().__init__()
        C = config.hidden_size
        self.num_heads, self.dropout = config.num_heads, config.attention_dropout
        self.k_proj, self.v_proj = nn.Linear(C, C, bias=False), nn.Linear(C, C, bias=False)
        self.q_proj, self.out_proj = nn.Linear(C, C, bias=False), nn.Linear(C, C)
        self.resid_dropout = nn.Dropout(config.resid_dropout)

    def forward(self, x, visible, past):
        B, T, C = x.shape
        projections = self.q_proj, self.k_proj, self.v_proj
        q, k, v = (p(x).view(B, T, self.num_heads, -1).transpose(1, 2) for p in projections)  # each (B, nh, T, hs)
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)  # (B, nh, S + T, hs)
        exact = torch.promote_types(v.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):  # scores so large would lose their digits in 16 bits
            y = F.scaled_dot_product_attention(
                q.to(exact), k.to(exact), v.to(exact),
                attn_mask=visible,
                is_causal=visible is None and T > 1,  # a lone token sees everything before it
                dropout_p=self.dropout if self.training else 0.0,
                scale=1.0,
            )  # fmt: skip
        y = y.to(v.dtype).transpose(1, 2).reshape(B, T, C)  # heads side by side again
        return self.resid_dropout(self.out_proj(y)), (k, v)


class MLP(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        inner = config.intermediate_size or 4 * config.hidden_size
        self.c_fc = nn.Linear(config.hidden_size, inner)
        self.act = ACTIVATIONS[config.activation_function]
        self.c_proj = nn.Linear(inner, config.hidden_size)
        self.dropout = nn.Dropout(config.resid_dropout)

    def forward(self, x):
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))


class Block(nn.Module):
    """Read from the residual stream, add to it, twice: attention between tokens, MLP within each."""

    def __init__(self, config: Config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.attn = nn.ModuleDict({"attention": Attention(config)})  # so nested in the published names
        self.ln_2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x, visible=None, past=None):
        gathered, present = self.attn.attention(self.ln_1(x), visible, past)
        x = x + gathered
        return x + self.mlp(self.ln_2(x)), present


class GPTNeo(nn.Module):
    """`kind` is what it ends in: "lm", the vocabulary (its weight is the embedding's); "classify", a score a label."""

    FAMILY = "gpt_neo"  # config.json's model_type
    ARCHITECTURES: ClassVar = {  # the name that config.json gives each kind; the first is the default
        "lm": "GPTNeoForCausalLM",
        "classify": "GPTNeoForSequenceClassification",
    }

    def __init__(self, config: Config, kind: str = "lm"):
        super().__init__()
        self.config, self.kind = config, kind
        self.recompute = False  # activation checkpointing: in training, less memory for a third more work
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.hidden_size),  # what the token is
                "wpe": nn.Embedding(config.max_position_embeddings, config.hidden_size),  # where it stands
                "drop": nn.Dropout(config.embed_dropout),
                "h": nn.ModuleList(Block(config) for _ in range(config.num_layers)),
                "ln_f": nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon),
            }
        )
        if kind == "classify":
            self.score = nn.Linear(config.hidden_size, len(config.labels), bias=False)
        elif not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            self.init_parameter(name, parameter)

    @torch.no_grad()
    def init_parameter(self, name, p):
        """As GPT-3 starts (Brown et al., section 2.1): normal with deviation 0.02, biases 0, norms 1, each of the
        2 * num_layers additions to the residual stream smaller. Queries start smaller by the root of hs, for nothing
        else divides the scores: so Mesh TensorFlow has it, in which GPT-Neo was trained."""
        if p.ndim == 1:
            return p.fill_(1.0 if name.endswith("weight") else 0.0)
        std = self.config.initializer_range
        if name.endswith(("out_proj.weight", "c_proj.weight")):
            std /= math.sqrt(2 * self.config.num_layers)
        elif name.endswith("q_proj.weight"):
            std /= math.sqrt(self.config.hidden_size // self.config.num_heads)
        return p.normal_(0.0, std)

    @property
    def blocks(self):
        """What `--tune last:N` counts."""
        return self.transformer.h

    @property
    def longest(self):
        """The most tokens that a text may have."""
        return self.config.max_position_embeddings

    @property
    def top(self):
        """What stands between the blocks and the head: it learns with the last blocks."""
        return [self.transformer.ln_f]

    @property
    def new(self):
        """The head that fine-tuning adds: `--tune head` trains nothing else."""
        return [self.score] if self.kind == "classify" else []

    def hidden(self, ids, mask=None, cache=None):
        """ids (B, T) -> (B, T, C), normalised, without the head.

        `cache` is a dict, empty at first, that keeps each block's keys and values: feed only the new tokens, and a
        mask, if any, over the S cached ones and these."""
        T, S = ids.shape[1], cache[0][0].shape[2] if cache else 0
        if self.longest < S + T:
            raise Error(f"{S + T} tokens, but the model has {self.longest} positions; shorten the text")
        visible = torch.ones(T, S + T, dtype=torch.bool, device=ids.device).tril(S)[None]  # never the future
        if mask is not None:
            visible = visible & (mask[:, S:, None] == mask[:, None])  # (B, T, S + T) never another text
        position = visible.sum(-1) - 1  # how many of one's own text came before
        near, window = visible, self.config.window_size
        if window < S + T:  # of what is visible the newest, counted as positions are: padding in between takes no room
            near = visible & (visible.cumsum(-1) > position[..., None] + 1 - window)  # (B, T, S + T)
        seen = {"global": visible[:, None], "local": near[:, None]}  # (B, 1, T, S + T) for all heads
        if mask is None and (S == 0 or T == 1):  # without a mask, attention is faster
            seen = {"global": None, "local": None if near is visible else near[:, None]}
        x = self.transformer.drop(self.transformer.wte(ids) + self.transformer.wpe(position))
        for layer, (block, kind) in enumerate(zip(self.transformer.h, self.config.kinds, strict=True)):
            if self.recompute and self.training and cache is None:
                x, present = checkpoint(block, x, seen[kind], use_reentrant=False)
            else:
                x, present = block(x, seen[kind], cache.get(layer) if cache else None)
            if cache is not None:
                cache[layer] = present
        return self.transformer.ln_f(x)

    def pooled(self, ids, mask=None):
        """(B, C): the hidden state of each row's last real token, the only one that can have seen them all."""
        hidden = self.hidden(ids, mask)
        if mask is None:
            return hidden[:, -1]
        last = ids.shape[1] - 1 - (mask != 0).int().flip(1).argmax(1)  # (B,)
        return hidden[torch.arange(len(ids), device=ids.device), last]

    def head(self, hidden):
        """(..., C) -> logits (..., V) of a language model, (..., labels) of a classifier."""
        return self.score(hidden) if self.kind == "classify" else F.linear(hidden, self.unembedding[0])

    @property
    def unembedding(self):
        """Weight (V, C) and bias (none) of the vocabulary head."""
        if self.kind == "classify":
            raise Error("a classifier has no vocabulary head; load the model it was made from")
        return (self.transformer.wte if self.config.tie_word_embeddings else self.lm_head).weight, None

    def forward(self, ids, mask=None):
        """ids (B, T) -> logits: (B, T, V) of a language model, (B, labels) of a classifier."""
        return self.head(self.pooled(ids, mask) if self.kind == "classify" else self.hidden(ids, mask))


def key_map(config: Config) -> dict[str, tuple[str, bool]]:
    """Key in a published file -> parameter here; nothing is stored transposed, as it is in GPT-2. Files may leave out
    the prefix `transformer.` of the keys."""
    names = ["transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight", "score.weight"]
    names += ["transformer.ln_f.weight", "transformer.ln_f.bias"]
    for i in range(config.num_layers):
        block = f"transformer.h.{i}"
        names += [f"{block}.attn.attention.{name}_proj.weight" for name in ("q", "k", "v", "out")]
        names += [f"{block}.attn.attention.out_proj.bias"]  # the only bias in attention
        for name in ("ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj"):
            names += [f"{block}.{name}.weight", f"{block}.{name}.bias"]
    return {name: (name, False) for name in names}


DEPTH = "num_layers"
PREFIX = "transformer."
BARE = None  # the kind whose files leave out the prefix
DROPPED = (".attn.attention.bias", ".attn.attention.masked_bias")  # old files store the masks; here they are computed
ZERO = ()  # what files may leave out, being 0
TIED = {"lm_head.weight": "transformer.wte.weight"}
LABELLED = "score."  # the head whose rows are labels: of no use for other labels
NEW = {"classify": (LABELLED,)}  # what may be new when fine-tuning adds a head


if __name__ == "__main__":
    with torch.device("meta"):  # shapes alone
        for name, config in GPT3.items():
            print(f"GPT-3 {name}: {sum(p.numel() for p in GPTNeo(config).parameters()):,} parameters")
    local = Config(100, 32, 16, num_layers=1, num_heads=2, attention_types=[[["local"], 1]], window_size=2)
    model, ids = GPTNeo(local).eval(), torch.tensor([[5, 17, 42, 8]])
    logits = model(ids)
    print("logits (B, T, V):", tuple(logits.shape))
    ids[0, 1] = 9
    changed = (model(ids) != logits).any(-1)[0].nonzero()[:, 0]
    print("one local block with a window of two: changing token 1 changes the logits of tokens", changed.tolist())
