"""BART: read one text whole, then write another from left to right. Also Marian, the translators of OPUS-MT.

Lewis et al. 2020, "BART: Denoising Sequence-to-Sequence Pre-training"; the two stacks and the attention that joins them
are those of Vaswani et al. 2017, layer norms after each addition. Loads the published BART of every size, the distilled
ones, and Marian (Junczys-Dowmunt et al. 2018), which differs in three places, each named MarianConfig below. Parameters
bear the names of the published files.

    B  rows of the batch      C   channels, config.d_model      nh  heads
    S  tokens of the source   T   tokens of the target          hs  channels of a head, C / nh
    V  vocabulary

A mask is (B, S) or (B, T): True, or a number, where there is a token; False, or 0, where there is padding. Equal
numbers see each other, in the source, in the target and across. Run me: python -m minift.models.bart
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
    "gelu": F.gelu,  # the exact one: BART's
    "swish": F.silu,  # Marian's
    "silu": F.silu,
    "relu": F.relu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
}


@dataclass
class Config:
    """The fields of a published config.json; the defaults are bart-large's."""

    vocab_size: int = 50265
    max_position_embeddings: int = 1024  # the longest text
    d_model: int = 1024
    encoder_layers: int = 12
    encoder_attention_heads: int = 16
    encoder_ffn_dim: int = 4096
    decoder_layers: int = 12
    decoder_attention_heads: int = 16
    decoder_ffn_dim: int = 4096
    activation_function: str = "gelu"
    dropout: float = 0.1  # after the embeddings and before each addition to the residual stream, ...
    attention_dropout: float = 0.0  # ... on the attention weights, ...
    activation_dropout: float = 0.0  # ... and inside the MLP
    init_std: float = 0.02
    scale_embedding: bool = False  # multiply embeddings by the root of C (Vaswani et al., section 3.4)
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 1
    decoder_start_token_id: int = 2  # what the decoder is fed first: the end token, as in fairseq
    labels: list = field(default_factory=list)
    extra: dict = field(default_factory=dict)  # whatever else config.json says, kept for saving
    sinusoidal: ClassVar[bool] = False  # learned positions, and a norm over the embeddings

    def __post_init__(self):
        for name in ("encoder", "decoder"):
            heads = getattr(self, f"{name}_attention_heads")
            if self.d_model % heads:
                raise Error(f"d_model {self.d_model} cannot be shared among {name}_attention_heads {heads}")
        if self.activation_function not in ACTIVATIONS:
            raise Error(
                f"activation_function '{self.activation_function}' is none of {', '.join(ACTIVATIONS)}"
                + nearest(self.activation_function, ACTIVATIONS)
            )
        shared = {"tie_word_embeddings": self.tie_word_embeddings, **self.extra}
        for name in ("tie_word_embeddings", "share_encoder_decoder_embeddings"):
            if not shared.get(name, True):
                raise Error(f"{name} is false: here one table of words serves source, target and head")


@dataclass
class MarianConfig(Config):
    """Marian's positions are sines and cosines, no norm follows the embeddings, and the padding's row starts the
    decoder; the defaults are opus-mt-en-fr's."""

    vocab_size: int = 59514
    max_position_embeddings: int = 512
    d_model: int = 512
    encoder_layers: int = 6
    encoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048
    decoder_layers: int = 6
    decoder_attention_heads: int = 8
    decoder_ffn_dim: int = 2048
    activation_function: str = "swish"
    scale_embedding: bool = True
    pad_token_id: int | None = 59513
    decoder_start_token_id: int = 59513
    sinusoidal: ClassVar[bool] = True


class Attention(nn.Module):
    """Each token gathers from the tokens it may see, of its own text or of another (Vaswani et al., section 3.2)."""

    def __init__(self, config: Config, n_head: int):
        super().__init__()
        C = config.d_model
        self.n_head, self.dropout = n_head, config.attention_dropout
        self.k_proj, self.v_proj = nn.Linear(C, C), nn.Linear(C, C)
        self.q_proj, self.out_proj = nn.Linear(C, C), nn.Linear(C, C)

    def heads(self, x):
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)  # (B, T, C) -> (B, nh, T, hs)

    def read(self, source):
        """What there is to gather from a text (B, S, C): keys and values, each (B, nh, S, hs)."""
        return self.heads(self.k_proj(source)), self.heads(self.v_proj(source))

    def forward(self, x, read, visible=None, is_causal=False):
        y = F.scaled_dot_product_attention(  # scores are divided by the root of hs
            self.heads(self.q_proj(x)),
            *read,
            attn_mask=visible,
            is_causal=is_causal,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(y.transpose(1, 2).flatten(2))  # heads side by side again


class EncoderLayer(nn.Module):
    """Attention between the source's tokens, then an MLP within each."""

    def __init__(self, config: Config, side: str = "encoder"):
        super().__init__()
        C, width = config.d_model, getattr(config, f"{side}_ffn_dim")
        self.self_attn = Attention(config, getattr(config, f"{side}_attention_heads"))
        self.self_attn_layer_norm = nn.LayerNorm(C)
        self.fc1, self.fc2 = nn.Linear(C, width), nn.Linear(width, C)
        self.final_layer_norm = nn.LayerNorm(C)
        self.act = ACTIVATIONS[config.activation_function]
        self.dropout, self.act_dropout = nn.Dropout(config.dropout), nn.Dropout(config.activation_dropout)

    def mlp(self, x):
        y = self.fc2(self.act_dropout(self.act(self.fc1(x))))
        return self.final_layer_norm(x + self.dropout(y))

    def forward(self, x, visible=None):
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, self.self_attn.read(x), visible)))
        return self.mlp(x)


class DecoderLayer(EncoderLayer):
    """The same, and in between each target token looks at the source."""

    def __init__(self, config: Config):
        super().__init__(config, "decoder")
        self.encoder_attn = Attention(config, config.decoder_attention_heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, x, memory, visible=None, across=None, past=None, source=None):
        """`past`: keys and values of earlier target tokens; `source`: those of the memory, if read before. Returns x
        with both, for the cache."""
        own = self.self_attn.read(x)
        if past is not None:
            own = tuple(torch.cat(both, 2) for both in zip(past, own, strict=True))  # (B, nh, T so far, hs)
        causal = visible is None and x.shape[1] > 1  # a lone token sees everything before it
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, own, visible, causal)))
        source = source or self.encoder_attn.read(memory)
        x = self.encoder_attn_layer_norm(x + self.dropout(self.encoder_attn(x, source, across)))
        return self.mlp(x), own, source


class Stack(nn.ModuleDict):
    """Encoder or decoder: its positions, its layers."""

    def __init__(self, config: Config, layers: list[nn.Module]):
        super().__init__({"layers": nn.ModuleList(layers)})
        if config.sinusoidal:
            self.register_buffer("sines", sines(config.max_position_embeddings, config.d_model), persistent=False)
        else:
            self["embed_positions"] = nn.Embedding(config.max_position_embeddings + 2, config.d_model)
            self["layernorm_embedding"] = nn.LayerNorm(config.d_model)
        self["dropout"] = nn.Dropout(config.dropout)

    def embed(self, x, position):
        """The words' vectors with those of their places."""
        if "embed_positions" in self:
            x = self.layernorm_embedding(x + self.embed_positions(position + 2))  # rows 0 and 1: fairseq's, unused
        else:
            x = x + self.sines[position]
        return self.dropout(x)


def sines(positions: int, C: int) -> torch.Tensor:
    """(positions, C) waves of ever longer period, C/2 sines and then C/2 cosines (Vaswani et al., section 3.5, where
    they alternate)."""
    turns = 10000.0 ** (-torch.arange(0, C, 2, dtype=torch.float64, device="cpu") / C)
    angles = torch.arange(positions, dtype=torch.float64, device="cpu")[:, None] * turns
    return torch.cat((angles.sin(), angles.cos()), 1)[:, :C].float()


class BART(nn.Module):
    """Tokens of a source and of a target in, for each target token the logits of the next one out."""

    FAMILY = "bart"  # config.json's model_type
    ARCHITECTURES: ClassVar = {"seq2seq": "BartForConditionalGeneration"}  # the name in config.json of each kind

    def __init__(self, config: Config, kind: str = "seq2seq"):
        super().__init__()
        self.config, self.kind = config, kind
        self.recompute = False  # activation checkpointing: in training, less memory for a third more work
        V, C = config.vocab_size, config.d_model
        encoder = [EncoderLayer(config) for _ in range(config.encoder_layers)]
        decoder = [DecoderLayer(config) for _ in range(config.decoder_layers)]
        self.model = nn.ModuleDict(
            {
                "shared": nn.Embedding(V, C, config.pad_token_id),  # of both sides; the padding's row stays
                "encoder": Stack(config, encoder),
                "decoder": Stack(config, decoder),
            }
        )
        self.register_buffer("final_logits_bias", torch.zeros(1, V))  # published, never trained
        for name, parameter in self.named_parameters():
            self.init_parameter(name, parameter)

    @torch.no_grad()
    def init_parameter(self, name, p):
        """As published: normal with deviation 0.02, biases 0, norms 1, the padding's vector 0."""
        if p.ndim == 1:
            return p.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        p.normal_(0.0, self.config.init_std)
        if name == "model.shared.weight" and self.config.pad_token_id is not None:
            p[self.config.pad_token_id] = 0.0
        return p

    @property
    def blocks(self):
        """What `--tune last:N` counts: the encoder's layers, then the decoder's."""
        return nn.ModuleList([*self.model.encoder.layers, *self.model.decoder.layers])

    @property
    def longest(self):
        """The most tokens that either text may have."""
        return self.config.max_position_embeddings

    @property
    def start(self):
        """The token that the decoder is fed first: a target t1 t2 t3 is learned from start t1 t2."""
        return self.config.decoder_start_token_id

    top = new = ()  # nothing stands between the last layer and the vocabulary, nothing is added to fine-tune

    def embedded(self, stack, ids, position, length):
        if self.longest < length:
            raise Error(f"{length} tokens, but the model has {self.longest} positions; shorten the text")
        scale = math.sqrt(self.config.d_model) if self.config.scale_embedding else 1.0
        return stack.embed(self.model.shared(ids) * scale, position)

    def run(self, layer, *inputs):
        if self.recompute and self.training:
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)

    def encode(self, src, src_mask=None):
        """src (B, S) -> memory (B, S, C), what the decoder reads."""
        if src_mask is None:
            visible, position = None, torch.arange(src.shape[1], device=src.device)
        else:
            visible = src_mask[:, :, None] == src_mask[:, None]  # (B, S, S) padding sees padding, so no row is empty
            position = visible.tril().sum(-1) - 1  # how many of one's own text came before
            visible = visible[:, None]  # (B, 1, S, S) for all heads
        x = self.embedded(self.model.encoder, src, position, src.shape[1])
        for layer in self.model.encoder.layers:
            x = self.run(layer, x, visible)
        return x

    def decode(self, tgt, memory, src_mask=None, tgt_mask=None, cache=None):
        """tgt (B, T), memory (B, S, C) -> (B, T, C) without the head.

        `cache` is a dict, empty at first, that keeps each layer's keys and values, of the target under the layer's
        number, of the source under (number, "cross"): feed only the new tokens, and a mask, if any, over all."""
        T = tgt.shape[1]
        past = cache[0][0].shape[2] if cache else 0
        if tgt_mask is None and (past == 0 or T == 1):
            visible, position = None, torch.arange(past, past + T, device=tgt.device)
        else:
            tgt_mask = tgt.new_ones(len(tgt), past + T) if tgt_mask is None else tgt_mask
            visible = torch.ones(T, past + T, dtype=torch.bool, device=tgt.device).tril(past)[None]  # never the future
            visible = visible & (tgt_mask[:, past:, None] == tgt_mask[:, None])  # (B, T, past + T)
            position = visible.sum(-1) - 1
            visible = visible[:, None]  # (B, 1, T, past + T)
        across = None
        if src_mask is not None:
            mine = tgt.new_ones(len(tgt), T) if tgt_mask is None else tgt_mask[:, past:]
            across = (mine[:, :, None] == src_mask[:, None])[:, None]  # (B, 1, T, S)
        x = self.embedded(self.model.decoder, tgt, position, past + T)
        for i, layer in enumerate(self.model.decoder.layers):
            kept = (cache.get(i), cache.get((i, "cross"))) if cache else (None, None)
            x, own, source = self.run(layer, x, memory, visible, across, *kept)
            if cache is not None:
                cache[i], cache[i, "cross"] = own, source
        return x

    def hidden(self, src, tgt, src_mask=None, tgt_mask=None):
        """(B, T, C) of the target's tokens, without the head."""
        return self.decode(tgt, self.encode(src, src_mask), src_mask, tgt_mask)

    def head(self, hidden):
        """(..., C) -> logits (..., V)."""
        return F.linear(hidden, *self.unembedding)

    @property
    def unembedding(self):
        """Weight (V, C) and bias (V,) of the vocabulary head."""
        return self.model.shared.weight, self.final_logits_bias[0]

    def forward(self, src, tgt, src_mask=None, tgt_mask=None):
        """src (B, S), tgt (B, T), which begins with `start` -> logits (B, T, V) of each next token."""
        return self.head(self.hidden(src, tgt, src_mask, tgt_mask))


class Marian(BART):
    FAMILY = "marian"
    ARCHITECTURES: ClassVar = {"seq2seq": "MarianMTModel"}


CONFIGS = {"bart": Config, "marian": MarianConfig}


def key_map(config: Config) -> dict[str, tuple[str, bool]]:
    """Key in a published file -> parameter here, and whether the file stores it transposed (never). Files may leave out
    the prefix `model.`."""
    modules = []
    for side, depth in ("encoder", config.encoder_layers), ("decoder", config.decoder_layers):
        names = ["self_attn_layer_norm", "fc1", "fc2", "final_layer_norm"]
        for attention in ("self_attn", "encoder_attn")[: 1 + (side == "decoder")]:
            names += [f"{attention}.{name}_proj" for name in ("k", "v", "q", "out")]
        names += ["encoder_attn_layer_norm"] if side == "decoder" else []
        modules += [f"model.{side}.layers.{i}.{name}" for i in range(depth) for name in names]
        modules += [] if config.sinusoidal else [f"model.{side}.layernorm_embedding"]
    keys = [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
    keys += [] if config.sinusoidal else [f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")]
    keys += ["model.shared.weight", "lm_head.weight", "final_logits_bias"]
    return {key: (key, False) for key in keys}


DEPTH = "encoder_layers decoder_layers"
PREFIX = "model."
BARE = None  # files of bart-base and bart-large leave out the prefix, those of transformers do not
DROPPED = ("embed_positions.weight", ".version")  # Marian's are computed here
ZERO = ("final_logits_bias",)  # the same files leave this out
TIED = dict.fromkeys(
    ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"), "model.shared.weight"
)
LABELLED = "classification_head."  # which minift does not read
NEW: dict = {}


if __name__ == "__main__":
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2), ("ffn_dim", 64))}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    model = BART(Config(vocab_size=100, d_model=32, **sizes, **heads)).eval()
    src, tgt = torch.tensor([[0, 17, 42, 8, 2]]), torch.tensor([[model.start, 0, 31]])
    print("logits (B, T, V):", tuple(model(src, tgt).shape))
    memory, cache = model.encode(src), {}
    steps = [model.head(model.decode(tgt[:, i : i + 1], memory, cache=cache)) for i in range(3)]
    print("a token at a time gives the same:", torch.allclose(torch.cat(steps, 1), model(src, tgt), atol=1e-5))
