"""GPT-2: predict the next token from all the tokens before it.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; the block is Vaswani et al. 2017
with the layer norms moved to the front of each half (GPT-2, section 2.3). Loads the published GPT-2 of every
size, DistilGPT2 and Cerebras-GPT. Parameters bear the names of the published files.

    B  rows of the batch      C   channels, config.n_embd       nh  heads
    T  tokens fed now         S   tokens in the cache           hs  channels of a head, C / nh
    V  vocabulary

A mask is (B, S + T): True, or a number, where there is a token; False, or 0, where there is padding. Equal
numbers see each other, so that several texts can share a row. Run me: python -m minift.models.gpt2
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
    "gelu_new": partial(F.gelu, approximate="tanh"),  # what GPT-2 was trained with
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,  # Cerebras-GPT
    "relu": F.relu,
}


@dataclass
class Config:
    """The fields of a published config.json; the defaults are GPT-2 124M's."""

    vocab_size: int = 50257
    n_positions: int = 1024  # the longest text
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None  # width of the MLP; None: 4 * n_embd
    activation_function: str = "gelu_new"
    embd_pdrop: float = 0.1  # dropout after the embeddings, ...
    attn_pdrop: float = 0.1  # ... on the attention weights, ...
    resid_pdrop: float = 0.1  # ... and before each addition to the residual stream
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True  # divide scores by the root of hs
    scale_attn_by_inverse_layer_idx: bool = False  # and by the layer's number (Mistral's GPT-2s)
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    labels: list = field(default_factory=lambda: ["LABEL_0", "LABEL_1"])  # of a classifier; one: a number (regression)
    extra: dict = field(default_factory=dict)  # whatever else config.json says, kept for saving

    def __post_init__(self):
        if self.n_embd % self.n_head:
            raise Error(f"n_embd {self.n_embd} cannot be shared among {self.n_head} heads (n_head): make it a multiple")
        if self.activation_function not in ACTIVATIONS:
            raise Error(
                f"activation_function '{self.activation_function}' is none of {', '.join(ACTIVATIONS)}"
                + nearest(self.activation_function, ACTIVATIONS)
            )


class Attention(nn.Module):
    """Each token gathers from the tokens it may see (Vaswani et al., section 3.2)."""

    def __init__(self, config: Config, layer: int):
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.attn_pdrop
        self.scale = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # queries, keys and values in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x, visible, past):
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)  # each (B, nh, T, hs)
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)  # (B, nh, S + T, hs)
        y = F.scaled_dot_product_attention(
            q, k, v,
            attn_mask=visible,
            is_causal=visible is None and T > 1,  # a lone token sees everything before it
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scale,
        )  # fmt: skip
        y = y.transpose(1, 2).reshape(B, T, C)  # heads side by side again
        return self.resid_dropout(self.c_proj(y)), (k, v)


class MLP(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        inner = config.n_inner or 4 * config.n_embd
        self.c_fc = nn.Linear(config.n_embd, inner)
        self.act = ACTIVATIONS[config.activation_function]
        self.c_proj = nn.Linear(inner, config.n_embd)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x):
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))


class Block(nn.Module):
    """Read from the residual stream, add to it, twice: attention between tokens, MLP within each."""

    def __init__(self, config: Config, layer: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x, visible=None, past=None):
        gathered, present = self.attn(self.ln_1(x), visible, past)
        x = x + gathered
        return x + self.mlp(self.ln_2(x)), present


class GPT2(nn.Module):
    """`kind` is what it ends in: "lm", the vocabulary (its weight is the embedding's); "classify", a score a label."""

    FAMILY = "gpt2"  # config.json's model_type
    ARCHITECTURES: ClassVar = {  # the name that config.json gives each kind; the first is the default
        "lm": "GPT2LMHeadModel",
        "classify": "GPT2ForSequenceClassification",
    }

    def __init__(self, config: Config, kind: str = "lm"):
        super().__init__()
        self.config, self.kind = config, kind
        self.recompute = False  # activation checkpointing: in training, less memory for a third more work
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),  # what the token is
                "wpe": nn.Embedding(config.n_positions, config.n_embd),  # where it stands
                "drop": nn.Dropout(config.embd_pdrop),
                "h": nn.ModuleList(Block(config, layer) for layer in range(config.n_layer)),
                "ln_f": nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon),
            }
        )
        if kind == "classify":
            self.score = nn.Linear(config.n_embd, len(config.labels), bias=False)
        elif not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            self.init_parameter(name, parameter)

    @torch.no_grad()
    def init_parameter(self, name, p):
        """As published: normal with deviation 0.02, biases 0, norms 1; and each of the 2 * n_layer additions to the
        residual stream starts smaller, so that their sum keeps its size (GPT-2, section 2.3)."""
        if p.ndim == 1:
            return p.fill_(1.0 if name.endswith("weight") else 0.0)
        std = self.config.initializer_range
        return p.normal_(0.0, std / math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj.weight") else std)

    @property
    def blocks(self):
        """What `--tune last:N` counts."""
        return self.transformer.h

    @property
    def longest(self):
        """The most tokens that a text may have."""
        return self.config.n_positions

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
        if mask is not None or (S and T > 1):
            visible = torch.ones(T, S + T, dtype=torch.bool, device=ids.device).tril(S)[None]  # never the future
            if mask is not None:
                visible = visible & (mask[:, S:, None] == mask[:, None])  # (B, T, S + T) never another text
            position = visible.sum(-1) - 1  # how many of one's own text came before
            visible = visible[:, None]  # (B, 1, T, S + T) for all heads
        else:
            visible, position = None, torch.arange(S, S + T, device=ids.device)
        x = self.transformer.drop(self.transformer.wte(ids) + self.transformer.wpe(position))
        for layer, block in enumerate(self.transformer.h):
            if self.recompute and self.training and cache is None:
                x, present = checkpoint(block, x, visible, use_reentrant=False)
            else:
                x, present = block(x, visible, cache.get(layer) if cache else None)
            if cache is not None:
                cache[layer] = present
        return self.transformer.ln_f(x)

    def pooled(self, ids, mask=None):
        """(B, C): the hidden state of each row's last real token, the only one that has seen them all."""
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
    """Key in a published file -> parameter here, and whether the file stores it transposed: OpenAI's `Conv1D` keeps
    weights as (in, out), `nn.Linear` as (out, in). Files may leave out the prefix `transformer.` of the keys."""
    keys = {
        "transformer.wte.weight": ("transformer.wte.weight", False),
        "transformer.wpe.weight": ("transformer.wpe.weight", False),
        "transformer.ln_f.weight": ("transformer.ln_f.weight", False),
        "transformer.ln_f.bias": ("transformer.ln_f.bias", False),
        "lm_head.weight": ("lm_head.weight", False),
        "score.weight": ("score.weight", False),
    }
    for i in range(config.n_layer):
        block = f"transformer.h.{i}"
        for name in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"):
            keys[f"{block}.{name}.weight"] = (f"{block}.{name}.weight", "c_" in name)
            keys[f"{block}.{name}.bias"] = (f"{block}.{name}.bias", False)
    return keys


DEPTH = "n_layer"
PREFIX = "transformer."
BARE = None  # the kind whose files leave out the prefix: that of OpenAI's own do, those of transformers do not
DROPPED = (".attn.bias", ".attn.masked_bias")  # old files store the causal mask; here it is computed
ZERO = ()  # what files may leave out, being 0
TIED = {"lm_head.weight": "transformer.wte.weight"}
LABELLED = "score."  # the head whose rows are labels: of no use for other labels
NEW = {"classify": (LABELLED,)}  # what may be new when fine-tuning adds a head


if __name__ == "__main__":
    model = GPT2(Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4)).eval()
    ids = torch.tensor([[5, 17, 42, 8]])
    logits = model(ids)
    print("logits (B, T, V):", tuple(logits.shape))
    ids[0, 3] = 9
    changed = (model(ids) != logits).any(-1)[0].nonzero()[:, 0]
    print("changing the last token changes the logits of token", changed.tolist())
