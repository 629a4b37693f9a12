"""BERT2BERT: one BERT reads, another writes what it makes of it.

Rothe et al. 2020, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks" (section 2): the encoder is a BERT
as it stands; the decoder is a BERT that no longer sees what follows, and whose layers each look at what the encoder has
read. This cross-attention is new, as is a bridge between sides of different width; all the rest was learned before.
Loads what transformers calls EncoderDecoderModel, where both sides are BERTs. Parameters bear the names of the
published files, but that the encoder's begin with `encoder.bert.` instead of `encoder.`

    B  rows of the batch      C   channels, hidden_size of a side      nh  heads
    S  tokens of the source   T   tokens of the target                 hs  channels of a head, C / nh
    V  vocabulary of the target

A mask is (B, S) or (B, T): True, or a number, where there is a token; False, or 0, where there is padding. Equal
numbers see each other, in the source, in the target and across. Run me: python -m minift.models.bert2bert
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import Error
from . import bert


@dataclass
class DecoderConfig(bert.Config):
    is_decoder: bool = True
    add_cross_attention: bool = True

    def __post_init__(self):
        super().__post_init__()
        for name in ("is_decoder", "add_cross_attention"):
            if not getattr(self, name):
                raise Error(f"{name} is false, but this decoder writes, and sees what the encoder has read")


@dataclass
class Config:
    """The fields of a published config.json: two of BERT's, and what joins them."""

    encoder: bert.Config
    decoder: DecoderConfig
    pad_token_id: int | None = 0  # of the target
    decoder_start_token_id: int | None = None  # what the decoder is fed first: its [CLS]
    labels: list = field(default_factory=list)
    extra: dict = field(default_factory=dict)  # whatever else config.json says, kept for saving

    def __post_init__(self):
        for name in ("encoder", "decoder"):
            family = getattr(self, name).extra.setdefault("model_type", "bert")
            if family != "bert":
                raise Error(f"its {name} is a {family}, and here both sides are BERTs")
        if self.extra.get("tie_encoder_decoder"):
            raise Error("tie_encoder_decoder is true: here each side has weights of its own")
        if self.decoder_start_token_id is None:
            what = "the token that the decoder is fed first, the [CLS] of its vocabulary"
            raise Error(f"decoder_start_token_id is not given: {what} (101 in the published BERTs')")

    @property
    def num_hidden_layers(self):
        return self.encoder.num_hidden_layers + self.decoder.num_hidden_layers

    @property
    def tie_word_embeddings(self):
        """Whether the decoder compares with its own words' embeddings."""
        return self.decoder.tie_word_embeddings


class Attention(bert.Attention):
    """BERT's attention, which here is told what there is to gather from: its own text so far, or another."""

    def heads(self, x):
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)  # (B, T, C) -> (B, nh, T, hs)

    def read(self, source):
        """Keys and values of a text (B, S, C), each (B, nh, S, hs)."""
        return self.heads(self.self.key(source)), self.heads(self.self.value(source))

    def forward(self, x, read, visible=None, is_causal=False):
        y = F.scaled_dot_product_attention(
            self.heads(self.self.query(x)),
            *read,
            attn_mask=visible,
            is_causal=is_causal,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(y.transpose(1, 2).flatten(2), x)  # heads side by side again


class Layer(bert.Layer):
    """BERT's layer, and between attention and MLP each target token looks at the source."""

    def __init__(self, config: DecoderConfig):
        super().__init__(config)
        self.attention, self.crossattention = Attention(config), Attention(config)

    def forward(self, x, memory, visible=None, across=None, past=None, source=None):
        """`past`: keys and values of earlier target tokens; `source`: those of the memory, if read before. Returns x
        with both, for the cache."""
        own = self.attention.read(x)
        if past is not None:
            own = tuple(torch.cat(both, 2) for both in zip(past, own, strict=True))  # (B, nh, T so far, hs)
        causal = visible is None and x.shape[1] > 1  # a lone token sees everything before it
        x = self.attention(x, own, visible, causal)
        source = source or self.crossattention.read(memory)
        x = self.crossattention(x, source, across)
        return self.output(self.act(self.intermediate.dense(x)), x), own, source


class Decoder(bert.BERT):
    """A BERT with its masked-language-model head, which now tells the next word, and with layers that look across."""

    def __init__(self, config: DecoderConfig):
        super().__init__(config, "mlm")
        self.bert.encoder["layer"] = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        for name, parameter in self.blocks.named_parameters():
            self.init_parameter(name, parameter)

    def hidden(self, tgt, memory, src_mask=None, tgt_mask=None, cache=None):
        """See `BERT2BERT.decode`."""
        T = tgt.shape[1]
        past = cache[0][0].shape[2] if cache else 0
        if self.longest < past + T:
            raise Error(f"{past + T} tokens, but the decoder has {self.longest} positions; shorten the text")
        if tgt_mask is None and (past == 0 or T == 1):
            visible, position = None, torch.arange(past, past + T, device=tgt.device)
        else:
            tgt_mask = tgt.new_ones(len(tgt), past + T) if tgt_mask is None else tgt_mask
            visible = torch.ones(T, past + T, dtype=torch.bool, device=tgt.device).tril(past)[None]  # never the future
            visible = visible & (tgt_mask[:, past:, None] == tgt_mask[:, None])  # (B, T, past + T)
            position = visible.sum(-1) - 1  # how many of one's own text came before
            visible = visible[:, None]  # (B, 1, T, past + T) for all heads
        across = None
        if src_mask is not None:
            mine = tgt.new_ones(len(tgt), T) if tgt_mask is None else tgt_mask[:, past:]
            across = (mine[:, :, None] == src_mask[:, None])[:, None]  # (B, 1, T, S)
        x = self.bert.embeddings(tgt, position, torch.zeros_like(tgt))  # all of it a first text
        for i, layer in enumerate(self.blocks):
            inputs = x, memory, visible, across, *((cache.get(i), cache.get((i, "cross"))) if cache else ())
            if self.recompute and self.training:
                x, own, source = checkpoint(layer, *inputs, use_reentrant=False)
            else:
                x, own, source = layer(*inputs)
            if cache is not None:
                cache[i], cache[i, "cross"] = own, source
        return x


class BERT2BERT(nn.Module):
    FAMILY = "encoder-decoder"  # config.json's model_type
    ARCHITECTURES: ClassVar = {"seq2seq": "EncoderDecoderModel"}  # its name in config.json of each kind

    def __init__(self, config: Config, kind: str = "seq2seq"):
        super().__init__()
        self.config, self.kind = config, kind
        self.recompute = False  # activation checkpointing: in training, less memory for a third more work
        self.encoder, self.decoder = bert.BERT(config.encoder), Decoder(config.decoder)
        widths = config.encoder.hidden_size, config.decoder.hidden_size
        self.enc_to_dec_proj = nn.Linear(*widths) if widths[0] != widths[1] else nn.Identity()
        for name, parameter in self.enc_to_dec_proj.named_parameters():
            self.init_parameter(name, parameter)

    def init_parameter(self, name, p):
        """What joins the sides begins as BERT's own parameters do."""
        return self.decoder.init_parameter(name, p)

    @property
    def blocks(self):
        """What `--tune last:N` counts: the encoder's layers, then the decoder's."""
        return nn.ModuleList([*self.encoder.blocks, *self.decoder.blocks])

    @property
    def longest(self):
        """The most tokens that either text may have."""
        return min(self.encoder.longest, self.decoder.longest)

    @property
    def start(self):
        """The token that the decoder is fed first: a target t1 t2 t3 is learned from start t1 t2."""
        return self.config.decoder_start_token_id

    top = ()  # what stands between the last layer and the vocabulary is new

    @property
    def new(self):
        """What fine-tuning adds: `--tune head` trains nothing else."""
        across = [layer.crossattention for layer in self.decoder.blocks]
        return [*across, self.enc_to_dec_proj, self.decoder.cls.predictions]

    def encode(self, src, src_mask=None):
        """src (B, S) -> memory (B, S, C), what the decoder reads."""
        self.encoder.recompute = self.recompute
        return self.enc_to_dec_proj(self.encoder.hidden(src, src_mask))

    def decode(self, tgt, memory, src_mask=None, tgt_mask=None, cache=None):
        """tgt (B, T), memory (B, S, C) -> (B, T, C) without the head.

        `cache` is a dict, empty at first, that keeps each layer's keys and values, of the target under the layer's
        number, of the source under (number, "cross"): feed only the new tokens, and a mask, if any, over all."""
        self.decoder.recompute = self.recompute
        return self.decoder.hidden(tgt, memory, src_mask, tgt_mask, cache)

    def hidden(self, src, tgt, src_mask=None, tgt_mask=None):
        """(B, T, C) of the target's tokens, without the head."""
        return self.decode(tgt, self.encode(src, src_mask), src_mask, tgt_mask)

    def head(self, hidden):
        """(..., C) -> logits (..., V)."""
        return self.decoder.head(hidden)

    @property
    def unembedding(self):
        """Weight (V, C) and bias (V,) of the vocabulary head, to be used behind `decoder.cls.predictions`."""
        return self.decoder.unembedding

    def forward(self, src, tgt, src_mask=None, tgt_mask=None):
        """src (B, S), tgt (B, T), which begins with `start` -> logits (B, T, V) of each next token."""
        return self.head(self.hidden(src, tgt, src_mask, tgt_mask))


def joined(encoder: bert.BERT, decoder: bert.BERT, ends) -> BERT2BERT:
    """Two BERTs, the second with its masked-language-model head, as one model; what neither has is drawn at random.
    `ends` is the tokenizer of the decoder, which writes from [CLS] to [SEP]."""
    if ends.cls is None or ends.sep is None:
        raise Error("the decoder's tokenizer has no [CLS] and [SEP], between which it could write")
    with torch.device("meta"):  # shapes alone
        model = BERT2BERT(Config(encoder.config, DecoderConfig(**vars(decoder.config)), ends.pad, ends.cls))
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
    for name, p in model.named_parameters():  # in this order: a seed draws the same in every process
        if name not in state:
            state[name] = model.init_parameter(name, torch.empty(p.shape))
    model.load_state_dict(state, assign=True)
    longest = min(decoder.longest, 128)  # all positions would take long before it has learned to end
    model.generation = {"decoder_start_token_id": ends.cls, "eos_token_id": ends.sep, "pad_token_id": ends.pad}
    model.generation["max_length"] = longest
    return model


def key_map(config: Config) -> dict[str, tuple[str, bool]]:
    """Key in a published file -> parameter here, and whether the file stores it transposed (never)."""
    keys = {f"encoder.{key.removeprefix('bert.')}": f"encoder.{key}" for key in bert.key_map(config.encoder)}
    decoder = [f"decoder.{key}" for key in bert.key_map(config.decoder)]
    decoder += [key.replace(".attention.", ".crossattention.") for key in decoder if ".attention." in key]
    decoder += ["enc_to_dec_proj.weight", "enc_to_dec_proj.bias"]
    return {key: (name, False) for key, name in (keys | dict(zip(decoder, decoder, strict=True))).items()}


DEPTH = "num_hidden_layers"
PREFIX = ""
BARE = None  # there is no kind whose files leave out a prefix
DROPPED = bert.DROPPED
ZERO = ()
TIED = {f"decoder.{copy}": f"decoder.{name}" for copy, name in bert.TIED.items()}
LABELLED = "encoder.classifier."  # no kind has one
NEW: dict = {}  # a folder has it all; what two BERTs lack, pretrained.py draws when it joins them


if __name__ == "__main__":
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    encoder, decoder = bert.Config(100, 32, **sizes), DecoderConfig(80, 48, **sizes)
    model = BERT2BERT(Config(encoder, decoder, decoder_start_token_id=2)).eval()
    src, tgt = torch.tensor([[2, 17, 42, 8, 3]]), torch.tensor([[model.start, 9, 31]])
    print("logits (B, T, V):", tuple(model(src, tgt).shape))
    memory, cache = model.encode(src), {}
    steps = [model.head(model.decode(tgt[:, i : i + 1], memory, cache=cache)) for i in range(3)]
    print("a token at a time gives the same:", torch.allclose(torch.cat(steps, 1), model(src, tgt), atol=1e-5))
