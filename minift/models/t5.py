"""T5: every task is a text in and a text out. Versions 1.0 and 1.1, and Flan-T5, which is 1.1 fine-tuned.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", section 2.1: an
encoder and a decoder whose norms stand before each part and only rescale, no biases, scores of attention that are not
divided by anything, and no positions but how far two tokens are apart. Version 1.1 gates the MLP (Shazeer 2020, "GLU
Variants Improve Transformer") and has an output matrix of its own. Parameters bear the names of the published files.

    B  rows of the batch      C   channels, config.d_model      nh  heads
    S  tokens of the source   T   tokens of the target          hs  channels of a head, d_kv; nh hs need not be C
    V  vocabulary

A mask is (B, S) or (B, T): True, or a number, where there is a token; False, or 0, where there is padding. Equal
numbers see each other, in the source, in the target and across. Run me: python -m minift.models.t5
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
    "relu": F.relu,  # version 1.0's
    "gelu_new": partial(F.gelu, approximate="tanh"),  # version 1.1's
    "gelu": F.gelu,
    "silu": F.silu,
    "swish": F.silu,
}


@dataclass
class Config:
    """The fields of a published config.json; the defaults are those of t5-small."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6  # of the encoder
    num_decoder_layers: int | None = None  # as many as the encoder has, if nothing is said
    num_heads: int = 8
    relative_attention_num_buckets: int = 32  # distances that are told apart
    relative_attention_max_distance: int = 128  # from here on all are alike
    feed_forward_proj: str = "relu"  # or "gated-gelu": version 1.1
    dropout_rate: float = 0.1  # of embeddings, attention weights, inside the MLP, before additions, after the last norm
    layer_norm_epsilon: float = 1e-6
    tie_word_embeddings: bool = True  # the head is the table of words: version 1.0; see `settle`
    scale_decoder_outputs: bool | None = None  # multiply what goes into the head by C^-0.5: as tied, if nothing is said
    pad_token_id: int | None = 0
    decoder_start_token_id: int | None = None  # what the decoder is fed first: the padding, if nothing is said
    labels: list = field(default_factory=list)
    extra: dict = field(default_factory=dict)  # whatever else config.json says, kept for saving

    def __post_init__(self):
        if self.num_decoder_layers is None:
            self.num_decoder_layers = self.num_layers
        if self.scale_decoder_outputs is None:
            self.scale_decoder_outputs = self.tie_word_embeddings
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.pad_token_id or 0
        gate, _, name = self.feed_forward_proj.rpartition("-")
        if gate not in ("", "gated") or name not in ACTIVATIONS:
            raise Error(
                f"feed_forward_proj '{self.feed_forward_proj}' is none of {', '.join(ACTIVATIONS)}, and none of these "
                "behind gated-" + nearest(name, ACTIVATIONS)
            )
        buckets, most = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4 or most <= buckets // 2:
            least = max(buckets // 2 + 1, 3)
            raise Error(
                f"relative_attention_num_buckets {buckets} with relative_attention_max_distance {most}: distances need "
                f"4 buckets or more, and for so many the last one begins at {least} or later"
            )
        longest = self.extra.get("n_positions", 512)
        if not isinstance(longest, int) or isinstance(longest, bool) or not 0 < longest <= 2**24:
            raise Error(f"n_positions is {longest!r}, but must lie between 1 and {2**24}")

    @property
    def activation(self):
        """Of the MLP. "gated-gelu" means the tanh approximation."""
        name = self.feed_forward_proj
        return ACTIVATIONS["gelu_new" if name == "gated-gelu" else name.split("-")[-1]]


class Norm(nn.Module):
    """Divides by the root of the mean square: no mean is taken off, no bias added (Zhang & Sennrich 2019)."""

    def __init__(self, config: Config):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(config.d_model)), config.layer_norm_epsilon

    def forward(self, x):
        square = x.float().square().mean(-1, keepdim=True)  # in float32, whatever x is
        return self.weight * (x * torch.rsqrt(square + self.eps)).to(x.dtype)


class Attention(nn.Module):
    """Each token gathers from the tokens it may see, of its own text or of another; scores are not scaled."""

    def __init__(self, config: Config, table: bool = False):
        super().__init__()
        C, inner = config.d_model, config.num_heads * config.d_kv
        self.n_head, self.dropout = config.num_heads, config.dropout_rate
        self.q, self.k, self.v = (nn.Linear(C, inner, bias=False) for _ in "qkv")
        self.o = nn.Linear(inner, C, bias=False)
        if table:  # what a distance adds to the score, for each head; all layers of the stack use it
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)

    def heads(self, x):
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)  # (B, T, nh hs) -> (B, nh, T, hs)

    def read(self, source):
        """What there is to gather from a text (B, S, C): keys and values, each (B, nh, S, hs)."""
        return self.heads(self.k(source)), self.heads(self.v(source))

    def forward(self, x, read, bias=None):
        """`bias`: what is added to the scores, -inf where a token is not to be seen; or True where it is."""
        y = F.scaled_dot_product_attention(
            self.heads(self.q(x)),
            *read,
            attn_mask=bias,
            dropout_p=self.dropout if self.training else 0.0,
            scale=1.0,
        )
        return self.o(y.transpose(1, 2).flatten(2))  # heads side by side again


class MLP(nn.Module):
    """Version 1.0: wo(act(wi(x))). With a gate: wo(act(wi_0(x)) * wi_1(x))."""

    def __init__(self, config: Config):
        super().__init__()
        C, width = config.d_model, config.d_ff
        self.gated = config.feed_forward_proj.startswith("gated-")
        for name in ("wi_0", "wi_1") if self.gated else ("wi",):
            setattr(self, name, nn.Linear(C, width, bias=False))
        self.wo = nn.Linear(width, C, bias=False)
        self.act, self.dropout = config.activation, nn.Dropout(config.dropout_rate)

    def forward(self, x):
        y = self.act(self.wi_0(x)) * self.wi_1(x) if self.gated else self.act(self.wi(x))
        return self.wo(self.dropout(y))


class Block(nn.Module):
    """Of the encoder: attention between the source's tokens, then an MLP within each; a norm before either."""

    def __init__(self, config: Config, table: bool, across: bool = False):
        super().__init__()
        parts = {"SelfAttention": Attention(config, table)}
        parts |= {"EncDecAttention": Attention(config)} if across else {}
        parts |= {"DenseReluDense": MLP(config)}  # so named whatever the activation
        self.layer = nn.ModuleList(
            nn.ModuleDict({name: part, "layer_norm": Norm(config)}) for name, part in parts.items()
        )
        self.dropout = nn.Dropout(config.dropout_rate)

    def mlp(self, x):
        return x + self.dropout(self.layer[-1].DenseReluDense(self.layer[-1].layer_norm(x)))

    def forward(self, x, bias):
        attention, y = self.layer[0].SelfAttention, self.layer[0].layer_norm(x)
        return self.mlp(x + self.dropout(attention(y, attention.read(y), bias)))


class DecoderBlock(Block):
    """The same, and in between each target token looks at the source, however far."""

    def __init__(self, config: Config, table: bool):
        super().__init__(config, table, across=True)

    def forward(self, x, memory, bias, across=None, past=None, source=None):
        """`past`: keys and values of earlier target tokens; `source`: those of the memory, if read before. Returns x
        with both, for the cache."""
        attention, y = self.layer[0].SelfAttention, self.layer[0].layer_norm(x)
        own = attention.read(y)
        if past is not None:
            own = tuple(torch.cat(both, 2) for both in zip(past, own, strict=True))  # (B, nh, T so far, hs)
        x = x + self.dropout(attention(y, own, bias))
        attention, y = self.layer[1].EncDecAttention, self.layer[1].layer_norm(x)
        source = source or attention.read(memory)
        x = x + self.dropout(attention(y, source, across))
        return self.mlp(x), own, source


class Stack(nn.Module):
    """Encoder or decoder: its blocks, what distances mean in it, and a last norm."""

    def __init__(self, config: Config, blocks: list[nn.Module], both_ways: bool):
        super().__init__()
        self.config, self.both_ways = config, both_ways
        self.block = nn.ModuleList(blocks)
        self.final_layer_norm, self.dropout = Norm(config), nn.Dropout(config.dropout_rate)

    def bias(self, T: int, past: int = 0):
        """(1, nh, T, past + T) what distances add to the scores of T tokens behind `past` others. Padding before a text
        moves all of it, and no distance."""
        table = self.block[0].layer[0].SelfAttention.relative_attention_bias
        place = torch.arange(past + T, device=table.weight.device)
        rows = bucket(place[None] - place[past:, None], self.config, self.both_ways)
        return table(rows).permute(2, 0, 1)[None]


def bucket(distance, config: Config, both_ways: bool):
    """The row of the table for each distance from a token to the one it looks at, negative where that comes before.
    Half of the rows are for one distance each; the other half share the rest, evenly in the logarithm. Both ways: what
    follows has rows of its own, as many as what came before. Else nothing that follows is seen."""
    count = config.relative_attention_num_buckets
    if both_ways:
        count //= 2
        first, distance = (distance > 0) * count, distance.abs()
    else:
        first, distance = 0, (-distance).clamp(min=0)
    near = count // 2
    share = (distance.clamp(min=near).float() / near).log() / math.log(config.relative_attention_max_distance / near)
    far = (near + (share * (count - near)).long()).clamp(max=count - 1)
    return first + torch.where(distance < near, distance, far)


class T5(nn.Module):
    """Tokens of a source and of a target in, for each target token the logits of the next one out."""

    FAMILY = "t5"  # config.json's model_type
    ARCHITECTURES: ClassVar = {"seq2seq": "T5ForConditionalGeneration"}  # its name in config.json of each kind

    def __init__(self, config: Config, kind: str = "seq2seq"):
        super().__init__()
        self.config, self.kind = config, kind
        self.recompute = False  # activation checkpointing: in training, less memory for a third more work
        self.shared = nn.Embedding(config.vocab_size, config.d_model)  # the words of both sides
        encoder = [Block(config, i == 0) for i in range(config.num_layers)]
        decoder = [DecoderBlock(config, i == 0) for i in range(config.num_decoder_layers)]
        self.encoder, self.decoder = Stack(config, encoder, True), Stack(config, decoder, False)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            self.init_parameter(name, parameter)

    @torch.no_grad()
    def init_parameter(self, name, p):
        """As published: words with deviation 1, a matrix by the root of the width that it reads, and that of the
        queries by the root of d_kv, too, which takes the place of the scaling of scores."""
        config = self.config
        if p.ndim == 1:
            return p.fill_(1.0)
        if name == "shared.weight":
            return p.normal_(0.0, 1.0)
        width = config.d_model if "relative_attention_bias" in name else p.shape[1]
        return p.normal_(0.0, (width * (config.d_kv if name.endswith(".q.weight") else 1)) ** -0.5)

    @property
    def blocks(self):
        """What `--tune last:N` counts: the encoder's blocks, then the decoder's."""
        return nn.ModuleList([*self.encoder.block, *self.decoder.block])

    @property
    def longest(self):
        """Where texts are cut: the length that it was trained on. The model itself takes longer ones."""
        return self.config.extra.get("n_positions", 512)

    @property
    def start(self):
        """The token that the decoder is fed first: a target t1 t2 t3 is learned from start t1 t2."""
        return self.config.decoder_start_token_id

    @property
    def top(self):
        """What stands between the blocks and the head: it learns with the last blocks."""
        return [self.decoder.final_layer_norm]

    new = ()  # nothing is added to fine-tune

    def run(self, layer, *inputs):
        if self.recompute and self.training:
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)

    def encode(self, src, src_mask=None):
        """src (B, S) -> memory (B, S, C), what the decoder reads."""
        stack = self.encoder
        bias = stack.bias(src.shape[1])  # (1, nh, S, S)
        if src_mask is not None:
            visible = src_mask[:, :, None] == src_mask[:, None]  # (B, S, S) padding sees padding, so no row is empty
            bias = bias.masked_fill(~visible[:, None], -torch.inf)  # (B, nh, S, S)
        x = stack.dropout(self.shared(src))
        for block in stack.block:
            x = self.run(block, x, bias)
        return stack.dropout(stack.final_layer_norm(x))

    def decode(self, tgt, memory, src_mask=None, tgt_mask=None, cache=None):
        """tgt (B, T), memory (B, S, C) -> (B, T, C) without the head.

        `cache` is a dict, empty at first, that keeps each layer's keys and values, of the target under the layer's
        number, of the source under (number, "cross"): feed only the new tokens, and a mask, if any, over all."""
        stack, T = self.decoder, tgt.shape[1]
        past = cache[0][0].shape[2] if cache else 0
        visible = torch.ones(T, past + T, dtype=torch.bool, device=tgt.device).tril(past)[None]  # never the future
        if tgt_mask is not None:
            visible = visible & (tgt_mask[:, past:, None] == tgt_mask[:, None])  # (B, T, past + T)
        bias = stack.bias(T, past).masked_fill(~visible[:, None], -torch.inf)  # (1 or B, nh, T, past + T)
        across = None
        if src_mask is not None:
            mine = tgt.new_ones(len(tgt), T) if tgt_mask is None else tgt_mask[:, past:]
            across = (mine[:, :, None] == src_mask[:, None])[:, None]  # (B, 1, T, S)
        x = stack.dropout(self.shared(tgt))
        for i, block in enumerate(stack.block):
            kept = (cache.get(i), cache.get((i, "cross"))) if cache else (None, None)
            x, own, source = self.run(block, x, memory, bias, across, *kept)
            if cache is not None:
                cache[i], cache[i, "cross"] = own, source
        x = stack.dropout(stack.final_layer_norm(x))
        return x * self.config.d_model**-0.5 if self.config.scale_decoder_outputs else x

    def hidden(self, src, tgt, src_mask=None, tgt_mask=None):
        """(B, T, C) of the target's tokens, without the head."""
        return self.decode(tgt, self.encode(src, src_mask), src_mask, tgt_mask)

    def head(self, hidden):
        """(..., C) -> logits (..., V)."""
        return F.linear(hidden, *self.unembedding)

    @property
    def unembedding(self):
        """Weight (V, C) and bias (None) of the vocabulary head."""
        return (self.shared if self.config.tie_word_embeddings else self.lm_head).weight, None

    def forward(self, src, tgt, src_mask=None, tgt_mask=None):
        """src (B, S), tgt (B, T), which begins with `start` -> logits (B, T, V) of each next token."""
        return self.head(self.hidden(src, tgt, src_mask, tgt_mask))


def key_map(config: Config) -> dict[str, tuple[str, bool]]:
    """Key in a published file -> parameter here, and whether the file stores it transposed (never)."""
    names = ["shared", "lm_head"]
    inner = ["wi_0", "wi_1", "wo"] if config.feed_forward_proj.startswith("gated-") else ["wi", "wo"]
    for side, depth in ("encoder", config.num_layers), ("decoder", config.num_decoder_layers):
        parts = ["SelfAttention", *["EncDecAttention"] * (side == "decoder"), "DenseReluDense"]
        names += [f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias", f"{side}.final_layer_norm"]
        for i in range(depth):
            for j, part in enumerate(parts):
                here = f"{side}.block.{i}.layer.{j}"
                names += [f"{here}.{part}.{name}" for name in (inner if part == "DenseReluDense" else "qkvo")]
                names.append(f"{here}.layer_norm")
    return {f"{name}.weight": (f"{name}.weight", False) for name in names}


DEPTH = "num_layers num_decoder_layers"
PREFIX = ""
BARE = None  # there is no kind whose files leave out a prefix
DROPPED = ("EncDecAttention.relative_attention_bias.weight",)  # in old files, used by nothing
ZERO = ()  # what files may leave out, being 0
TIED = dict.fromkeys(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"), "shared.weight")
LABELLED = "classification_head."  # which minift does not read
NEW: dict = {}


def settle(config: Config, tensors: dict[str, torch.Tensor]) -> list[str]:
    """Whether the head is the table of words, as the tensors have it, and what there is to note.

    config.json does not always know: transformers 5 writes tie_word_embeddings true for every T5, and only
    scale_decoder_outputs tells version 1.1, which has a head of its own. Without tensors that must do."""
    head = tensors.get("lm_head.weight")
    words = next((tensors[key] for key in ("shared.weight", *TIED) if key in tensors), None)
    tied = config.scale_decoder_outputs if words is None else head is None or torch.equal(head.float(), words.float())
    said, config.tie_word_embeddings = config.tie_word_embeddings, tied
    if tied and not said and words is not None:
        return ["config.json says that the head is not the table of words, but the file has no other"]
    if said and not tied and config.scale_decoder_outputs:
        return ["config.json says that the head is the table of words, but the file has another: it is used"]
    return []


if __name__ == "__main__":
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 6}
    model = T5(Config(vocab_size=100, **sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False)).eval()
    src, tgt = torch.tensor([[17, 42, 8, 1]]), torch.tensor([[model.start, 9, 31]])
    print("logits (B, T, V):", tuple(model(src, tgt).shape))
    memory, cache = model.encode(src), {}
    steps = [model.head(model.decode(tgt[:, i : i + 1], memory, cache=cache)) for i in range(3)]
    print("a token at a time gives the same:", torch.allclose(torch.cat(steps, 1), model(src, tgt), atol=1e-5))
    ahead = bucket(torch.arange(0, -140, -10), model.config, both_ways=False)
    print("rows of the table for 0, 10, 20, … tokens back:", *ahead.tolist())
