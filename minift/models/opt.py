"""OPT: predict the next token from all the tokens before it; Meta's rebuilding of GPT-3, every size of it published.

Zhang et al. 2022, "OPT: Open Pre-trained Transformer Language Models": a GPT-2 with ReLU, its positions numbered as in
fairseq. Loads the published OPT of every size, also the 350M, which has its norms after each addition and narrower
embeddings. Parameters bear the names of the published files.

    B  rows of the batch      C   channels, config.hidden_size           nh  heads
    T  tokens fed now         E   channels of the embeddings: C, but     hs  channels of a head, C / nh
    S  tokens in the cache        word_embed_proj_dim in the 350M        V   vocabulary

A mask is (B, S + T): True, or a number, where there is a token; False, or 0, where there is padding. Equal
numbers see each other, so that several texts can share a row. Run me: python -m minift.models.opt
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
    "relu": F.relu,  # OPT's
    "gelu": F.gelu,  # Galactica's
    "gelu_new": partial(F.gelu, approximate="tanh"),
}
EPSILON = 1e-5  # of the layer norms; no config.json says it


@dataclass
class Config:
    """The fields of a published config.json; the defaults are OPT 125M's."""

    vocab_size: int = 50272
    max_position_embeddings: int = 2048  # the longest text
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    ffn_dim: int = 3072  # width of the MLP
    word_embed_proj_dim: int | None = None  # channels of the embeddings; None: hidden_size
    do_layer_norm_before: bool = True  # each norm before what it feeds, and one at the end; False: after each addition
    _remove_final_layer_norm: bool = False  # none at the end: what was fine-tuned before the norm there was noticed
    enable_bias: bool = True  # of the linear maps in the blocks
    layer_norm_elementwise_affine: bool = True  # whether norms have weights
    activation_function: str = "relu"
    dropout: float = 0.1  # before each addition to the residual stream, ...
    attention_dropout: float = 0.0  # ... and on the attention weights
    init_std: float = 0.02
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 1
    labels: list = field(default_factory=lambda: ["LABEL_0", "LABEL_1"])  # of a classifier; one: a number (regression)
    extra: dict = field(default_factory=dict)  # whatever else config.json says, kept for saving

    def __post_init__(self):
        self.word_embed_proj_dim = self.word_embed_proj_dim or self.hidden_size
        if self.hidden_size % self.num_attention_heads:
            heads = f"{self.num_attention_heads} heads (num_attention_heads)"
            raise Error(f"hidden_size {self.hidden_size} cannot be shared among {heads}: make it a multiple")
        if self.activation_function not in ACTIVATIONS:
            raise Error(
                f"activation_function '{self.activation_function}' is none of {', '.join(ACTIVATIONS)}"
                + nearest(self.activation_function, ACTIVATIONS)
            )

    @property
    def narrow(self) -> bool:
        """Whether the embeddings have other channels than the blocks."""
        return self.word_embed_proj_dim != self.hidden_size

    @property
    def ends_in_norm(self) -> bool:
        return self.do_layer_norm_before and not self._remove_final_layer_norm


def norm(config: Config) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, EPSILON, elementwise_affine=config.layer_norm_elementwise_affine)


class Attention(nn.Module):
    """Each token gathers from the tokens it may see (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: Config):
        super().__init__()
        C, bias = config.hidden_size, config.enable_bias
        self.n_head, self.dropout = config.num_attention_heads, config.attention_dropout
        self.k_proj, self.v_proj = nn.Linear(C, C, bias), nn.Linear(C, C, bias)
        self.q_proj, self.out_proj = nn.Linear(C, C, bias), nn.Linear(C, C, bias)

    def forward(self, x, visible, past):
        B, T, C = x.shape
        projections = self.q_proj, self.k_proj, self.v_proj
        q, k, v = (p(x).view(B, T, self.n_head, -1).transpose(1, 2) for p in projections)  # each (B, nh, T, hs)
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)  # (B, nh, S + T, hs)
        y = F.scaled_dot_product_attention(  # its scores are divided by the root of hs
            q, k, v,
            attn_mask=visible,
            is_causal=visible is None and T > 1,  # a lone token sees everything before it
            dropout_p=self.dropout if self.training else 0.0,
        )  # fmt: skip
        return self.out_proj(y.transpose(1, 2).reshape(B, T, C)), (k, v)  # heads side by side again


class Block(nn.Module):
    """Read from the residual stream, add to it, twice: attention between tokens, an MLP within each. The norm of each
    half stands before it, or in the 350M after the addition."""

    def __init__(self, config: Config):
        super().__init__()
        self.before = config.do_layer_norm_before
        self.self_attn = Attention(config)
        self.self_attn_layer_norm = norm(config)
        self.fc1 = nn.Linear(config.hidden_size, config.ffn_dim, config.enable_bias)
        self.act = ACTIVATIONS[config.activation_function]
        self.fc2 = nn.Linear(config.ffn_dim, config.hidden_size, config.enable_bias)
        self.final_layer_norm = norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, visible=None, past=None):
        gathered, present = self.self_attn(self.self_attn_layer_norm(x) if self.before else x, visible, past)
        x = x + self.dropout(gathered)
        x = x if self.before else self.self_attn_layer_norm(x)
        inner = self.act(self.fc1(self.final_layer_norm(x) if self.before else x))
        x = x + self.dropout(self.fc2(inner))
        return x if self.before else self.final_layer_norm(x), present


class OPT(nn.Module):
    """`kind` is what it ends in: "lm", the vocabulary (its weight is the embedding's); "classify", a score a label."""

    FAMILY = "opt"  # config.json's model_type
    ARCHITECTURES: ClassVar = {  # the name that config.json gives each kind; the first is the default
        "lm": "OPTForCausalLM",
        "classify": "OPTForSequenceClassification",
    }

    def __init__(self, config: Config, kind: str = "lm"):
        super().__init__()
        self.config, self.kind = config, kind
        self.recompute = False  # activation checkpointing: in training, less memory for a third more work
        C, E = config.hidden_size, config.word_embed_proj_dim
        parts = {
            "embed_tokens": nn.Embedding(config.vocab_size, E),  # what the token is
            "embed_positions": nn.Embedding(config.max_position_embeddings + 2, C),  # where it stands
            "layers": nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers)),
        }
        if config.ends_in_norm:
            parts["final_layer_norm"] = norm(config)
        if config.narrow:
            parts |= {"project_in": nn.Linear(E, C, bias=False), "project_out": nn.Linear(C, E, bias=False)}
        self.model = nn.ModuleDict({"decoder": nn.ModuleDict(parts)})
        if kind == "classify":
            self.score = nn.Linear(E, len(config.labels), bias=False)
        elif not config.tie_word_embeddings:
            self.lm_head = nn.Linear(E, config.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            self.init_parameter(name, parameter)

    @torch.no_grad()
    def init_parameter(self, name, p):
        """As published (Zhang et al., section 2.2): normal, biases 0, norms 1; and each of the 2 * num_hidden_layers
        additions to the residual stream starts smaller, so that their sum keeps its size. The deviation is
        config.json's 0.02, where the paper names 0.006."""
        if p.ndim == 1:
            return p.fill_(1.0 if name.endswith("weight") else 0.0)
        added = name.endswith(("out_proj.weight", "fc2.weight"))
        return p.normal_(0.0, self.config.init_std / (math.sqrt(2 * self.config.num_hidden_layers) if added else 1))

    @property
    def blocks(self):
        """What `--tune last:N` counts."""
        return self.model.decoder.layers

    @property
    def longest(self):
        """The most tokens that a text may have."""
        return self.config.max_position_embeddings

    @property
    def top(self):
        """What stands between the blocks and the head: it learns with the last blocks."""
        decoder = self.model.decoder
        return [decoder[name] for name in ("final_layer_norm", "project_out") if name in decoder]

    @property
    def new(self):
        """The head that fine-tuning adds: `--tune head` trains nothing else."""
        return [self.score] if self.kind == "classify" else []

    def hidden(self, ids, mask=None, cache=None):
        """ids (B, T) -> (B, T, E), without the head.

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
        decoder = self.model.decoder
        x = decoder.embed_tokens(ids)
        x = decoder.project_in(x) if self.config.narrow else x
        x = x + decoder.embed_positions(position + 2)  # fairseq's rows 0 and 1 stand for no position
        for layer, block in enumerate(decoder.layers):
            if self.recompute and self.training and cache is None:
                x, present = checkpoint(block, x, visible, use_reentrant=False)
            else:
                x, present = block(x, visible, cache.get(layer) if cache else None)
            if cache is not None:
                cache[layer] = present
        for module in self.top:
            x = module(x)
        return x

    def pooled(self, ids, mask=None):
        """(B, E): the hidden state of each row's last real token, the only one that has seen them all."""
        hidden = self.hidden(ids, mask)
        if mask is None:
            return hidden[:, -1]
        last = ids.shape[1] - 1 - (mask != 0).int().flip(1).argmax(1)  # (B,)
        return hidden[torch.arange(len(ids), device=ids.device), last]

    def head(self, hidden):
        """(..., E) -> logits (..., V) of a language model, (..., labels) of a classifier."""
        return self.score(hidden) if self.kind == "classify" else F.linear(hidden, self.unembedding[0])

    @property
    def unembedding(self):
        """Weight (V, E) and bias (none) of the vocabulary head."""
        if self.kind == "classify":
            raise Error("a classifier has no vocabulary head; load the model it was made from")
        return (self.model.decoder.embed_tokens if self.config.tie_word_embeddings else self.lm_head).weight, None

    def forward(self, ids, mask=None):
        """ids (B, T) -> logits: (B, T, V) of a language model, (B, labels) of a classifier."""
        return self.head(self.pooled(ids, mask) if self.kind == "classify" else self.hidden(ids, mask))


def key_map(config: Config) -> dict[str, tuple[str, bool]]:
    """Key in a published file -> parameter here; nothing is stored transposed. The files of the 350M, 6.7B, 13B and 30B
    leave out the prefix `model.` of the keys."""
    weighted = config.layer_norm_elementwise_affine
    names = ["embed_tokens.weight", "embed_positions.weight"]
    if config.ends_in_norm and weighted:
        names += ["final_layer_norm.weight", "final_layer_norm.bias"]
    if config.narrow:
        names += ["project_in.weight", "project_out.weight"]
    for i in range(config.num_hidden_layers):
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            names += [f"layers.{i}.self_attn.{name}.{part}" for part in ("weight", "bias")[: 1 + config.enable_bias]]
        for name in ("fc1", "fc2"):
            names += [f"layers.{i}.{name}.{part}" for part in ("weight", "bias")[: 1 + config.enable_bias]]
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            names += [f"layers.{i}.{name}.{part}" for part in ("weight", "bias") if weighted]
    names = ["lm_head.weight", "score.weight", *(f"model.decoder.{name}" for name in names)]
    return {name: (name, False) for name in names}


DEPTH = "num_hidden_layers"
PREFIX = "model."
BARE = None  # the kind whose files leave out the prefix when saved; those of transformers never do
DROPPED = ()
ZERO = ()  # what files may leave out, being 0
TIED = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
LABELLED = "score."  # the head whose rows are labels: of no use for other labels
NEW = {"classify": (LABELLED,)}  # what may be new when fine-tuning adds a head


if __name__ == "__main__":
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64}
    ids = torch.tensor([[2, 17, 42, 8]])
    for before in True, False:
        model = OPT(Config(vocab_size=100, **shape, word_embed_proj_dim=16, do_layer_norm_before=before)).eval()
        print("norms before, one at the end:" if before else "norms after:", [*model.model.decoder])
    print("hidden (B, T, E):", tuple(model.hidden(ids).shape), "logits (B, T, V):", tuple(model(ids).shape))
