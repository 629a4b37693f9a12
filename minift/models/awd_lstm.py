"""AWD-LSTM: a language model that reads left to right and keeps what it has read in a state of fixed size.

Merity et al. 2017, "Regularizing and Optimizing LSTM Language Models" (arXiv:1708.02182): three LSTM layers, and four
kinds of dropout that keep them from learning their text by heart. ULMFiT (Howard and Ruder 2018, arXiv:1801.06146)
makes a classifier of it. Loads what fastai publishes (wt103-fwd). Parameters bear the names of those files.

    B  rows of the batch      C  channels of a word, config.emb_sz     N  texts, where a row holds several
    T  tokens fed now         H  channels of a layer, config.n_hid     S  tokens in the state
    V  vocabulary                (of the last one C, so that the embedding can be the decoder)

A mask is (B, S + T): True, or a number, where there is a token; False, or 0, where there is padding. Equal numbers are
one text; where the number changes, the state begins anew. Run me: python -m minift.models.awd_lstm
"""

import re
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from ..errors import Error

DROPOUT = {  # as fastai publishes it
    "lm": {"embed_p": 0.02, "input_p": 0.25, "hidden_p": 0.15, "weight_p": 0.2, "output_p": 0.1},
    "classify": {"embed_p": 0.05, "input_p": 0.4, "hidden_p": 0.3, "weight_p": 0.5, "output_p": 0.4},
}


@dataclass
class Config:
    """The names are fastai's where it has one; the defaults are those of wt103-fwd."""

    vocab_size: int = 60000
    emb_sz: int = 400
    n_hid: int = 1152
    n_layers: int = 3
    embed_p: float | None = None  # dropout of whole words, ... (None: as published for the kind, DROPOUT)
    input_p: float | None = None  # ... of the first layer's input, ...
    hidden_p: float | None = None  # ... between layers, ...
    weight_p: float | None = None  # ... of the weights from state to state, ...
    output_p: float | None = None  # ... and before the decoder or classifier
    bptt: int = 70  # tokens that a gradient goes back through
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 1
    labels: list = field(default_factory=lambda: ["LABEL_0", "LABEL_1"])  # of a classifier; one: a number (regression)
    extra: dict = field(default_factory=dict)  # whatever else config.json says, kept for saving


class LockedDropout(nn.Module):
    """Dropout of the same channels at every step of a text (Merity et al., section 4.2, after Gal and Ghahramani)."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x):
        return x * F.dropout(torch.ones_like(x[:, :1]), self.p) if self.training and self.p else x  # mask (B, 1, C)


class LSTM(nn.Module):
    """One layer. From the input x and its own last output h it makes four gates of each channel, and with them

        c = sigmoid(f) * c + sigmoid(i) * tanh(g)      forget, and write
        h = sigmoid(o) * tanh(c)                       show

    (Merity et al., section 2; the weights hold i, f, g, o in this order). Dropped weights (section 2, after Wan et al.)
    are the same ones at every step, so that the whole loop over time stays one call."""

    def __init__(self, n_in: int, n_out: int, weight_p: float):
        super().__init__()
        self.weight_p = weight_p
        self.weight_ih_l0 = nn.Parameter(torch.empty(4 * n_out, n_in))
        self.weight_hh_l0_raw = nn.Parameter(torch.empty(4 * n_out, n_out))  # "raw": before the dropout
        self.bias_ih_l0 = nn.Parameter(torch.empty(4 * n_out))
        self.bias_hh_l0 = nn.Parameter(torch.empty(4 * n_out))

    def forward(self, x, h, c, lengths=None):
        """x (B, T, in), h and c (B, out) -> outputs (B, T, out), the last h and c. `lengths`, longest first: where the
        texts end; else they all have T tokens."""
        dropped = F.dropout(self.weight_hh_l0_raw, self.weight_p, self.training)
        weights = [self.weight_ih_l0, dropped, self.bias_ih_l0, self.bias_hh_l0]
        state, rest = (h[None], c[None]), (weights, True, 1, 0.0, self.training, False)  # biases; one layer; one way
        if lengths is None:
            y, h, c = torch.lstm(x, state, *rest, True)  # batch first
        else:
            packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True)
            y, h, c = torch.lstm(packed.data, packed.batch_sizes, state, *rest)
            y = pad_packed_sequence(packed._replace(data=y), batch_first=True)[0]
        return y, h[0], c[0]


class BatchNorm(nn.Module):
    """To mean 0 and variance 1 over the batch (Ioffe and Szegedy 2015), in evaluation by the running figures; a lone
    row, which has no variance, goes by them in training, too."""

    def __init__(self, n: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(n)), nn.Parameter(torch.empty(n))
        self.register_buffer("running_mean", torch.zeros(n))
        self.register_buffer("running_var", torch.ones(n))

    def forward(self, x):
        by_batch = self.training and len(x) > 1
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, by_batch, 0.1, 1e-5)


class AWDLSTM(nn.Module):
    """`kind` is what it ends in: "lm", the vocabulary (its weight is the embedding's); "classify", a score a label."""

    FAMILY = "awd_lstm"  # config.json's model_type; transformers has no such model
    ARCHITECTURES: ClassVar = {"lm": "AWDLSTMForLanguageModeling", "classify": "AWDLSTMForSequenceClassification"}

    def __init__(self, config: Config, kind: str = "lm"):
        super().__init__()
        self.config, self.kind = config, kind
        self.recompute = False  # activation checkpointing: in training, less memory for a third more work
        C, said = config.emb_sz, {name: getattr(config, name) for name in DROPOUT[kind]}
        p = {name: DROPOUT[kind][name] if value is None else value for name, value in said.items()}
        sizes = [C, *[config.n_hid] * (config.n_layers - 1), C]
        self.embed_p = p["embed_p"]
        self.encoder = nn.Embedding(config.vocab_size, C)
        self.input_dp = LockedDropout(p["input_p"])
        self.rnns = nn.ModuleList(LSTM(*pair, p["weight_p"]) for pair in pairwise(sizes))
        self.hidden_dp = LockedDropout(p["hidden_p"])
        self.output_dp = LockedDropout(p["output_p"])
        if kind == "classify":  # (Howard and Ruder, section 3.3)
            first, second = nn.Linear(3 * C, 50), nn.Linear(50, len(config.labels))
            head = [BatchNorm(3 * C), nn.Dropout(p["output_p"]), first, nn.ReLU()]
            self.layers = nn.Sequential(*head, BatchNorm(50), nn.Dropout(0.1), second)
        else:
            self.decoder = nn.Linear(C, config.vocab_size)
            if config.tie_word_embeddings:
                del self.decoder.weight  # the embedding's
        for name, parameter in self.named_parameters():
            self.init_parameter(name, parameter)

    @torch.no_grad()
    def init_parameter(self, name, p):
        """Orthogonal gates that forget little (Jozefowicz et al. 2015, section 2.2: a bias of 1) and words of length 2.
        Published models began with smaller words and uniform weights, through which so little passes that a model
        knows no more than how frequent words are for many steps; they took rates of 30."""
        if name.endswith("bias_ih_l0"):
            p.zero_().chunk(4)[1].fill_(1.0)
            return p
        if p.ndim == 1:  # a norm has weight and variance 1, all else here is 0
            return p.fill_(1.0 if name.endswith(("weight", "var")) else 0.0)
        if name.startswith("rnns."):
            for gate in p.chunk(4):
                nn.init.orthogonal_(gate)
            return p
        return p.normal_(0.0, 2 * p.shape[1] ** -0.5) if "coder" in name else nn.init.kaiming_uniform_(p, 5**0.5)

    @property
    def blocks(self):
        """What `--tune last:N` counts."""
        return self.rnns

    @property
    def longest(self):
        """Where texts to classify are cut, as in fastai; a state itself has no end."""
        return 1440 if self.kind == "classify" else 2**31

    @property
    def bptt(self):
        """How many tokens a language model learns from at a time, the state of the last ones in hand."""
        return self.config.bptt

    @property
    def top(self):
        """What stands between the blocks and the head: nothing."""
        return []

    @property
    def new(self):
        """The head that fine-tuning adds: `--tune head` trains nothing else."""
        return [self.layers] if self.kind == "classify" else []

    def hidden(self, ids, mask=None, cache=None):
        """ids (B, T) -> (B, T, C), without the head.

        `cache` is a dict, empty at first, that keeps each layer's state (h, c), each (B, H): feed only the new tokens,
        and a mask, if any, over the S that it has read and these."""
        if mask is None or (cache is None and right_padded(mask)):  # what comes behind a text cannot change it
            x, states = self.read(ids, self.states(len(ids), ids.device, cache))
            if cache is not None:
                cache.update(enumerate(states))
            return x
        B, T = ids.shape
        texts = Texts(mask[:, mask.shape[1] - T :])
        before = self.states(B, ids.device, cache)
        going_on = (texts.number == last_number(mask[:, :-T])[texts.row])[:, None] if cache else 0  # (N, 1)
        start = [tuple(part[texts.row] * going_on for part in state) for state in before]
        y, states = self.read(texts.apart(ids), start, texts.lengths)
        if cache is not None:
            for layer, (old, new) in enumerate(zip(before, states, strict=True)):
                cache[layer] = tuple(torch.where(texts.any, n[texts.last], o) for o, n in zip(old, new, strict=True))
        return texts.together(y)

    def states(self, B, device, cache):
        """Each layer's (h, c) before the first token, or in the cache."""
        zero = [torch.zeros(B, rnn.weight_hh_l0_raw.shape[1], device=device) for rnn in self.rnns]
        zero = [z.to(self.encoder.weight.dtype) for z in zero]
        return [cache[layer] if cache else (z, z) for layer, z in enumerate(zero)]

    def read(self, ids, states, lengths=None):
        """ids (B, T), the state of each layer -> (B, T, C), their states after the last token."""
        x, after = self.encoder(ids), []
        if self.encoder.training and self.embed_p:  # of a word that is dropped no token is seen (Merity et al., 4.3)
            x = x * F.dropout(torch.ones_like(self.encoder.weight[:, 0]), self.embed_p)[ids][..., None]
        x = self.input_dp(x)
        for layer, (rnn, state) in enumerate(zip(self.rnns, states, strict=True)):
            if self.recompute and self.training:
                x, *state = checkpoint(rnn, x, *state, lengths, use_reentrant=False)
            else:
                x, *state = rnn(x, *state, lengths)
            x = x if layer + 1 == len(self.rnns) else self.hidden_dp(x)
            after.append(state)
        return x, after

    def pooled(self, ids, mask=None):
        """(B, 3 C): of each row the last hidden state, the largest value of each channel, and the mean (Howard and
        Ruder, section 3.3, "concat pooling"), over its real tokens."""
        hidden = self.hidden(ids, mask)
        real = real_tokens(torch.ones_like(ids) if mask is None else mask)[..., None] != 0  # (B, T, 1)
        last = ids.shape[1] - 1 - real.int().flip(1).argmax(1)  # (B, 1)
        largest = hidden.masked_fill(~real, -torch.inf).amax(1)
        mean = hidden.masked_fill(~real, 0).sum(1) / real.sum(1)
        return torch.cat((hidden[torch.arange(len(ids), device=ids.device), last[:, 0]], largest, mean), 1)

    def head(self, hidden):
        """(B, T, C) -> logits (B, T, V) of a language model; (B, 3 C) -> (B, labels) of a classifier."""
        return self.layers(hidden) if self.kind == "classify" else F.linear(self.output_dp(hidden), *self.unembedding)

    @property
    def unembedding(self):
        """Weight (V, C) and bias (V,) of the vocabulary head."""
        if self.kind == "classify":
            raise Error("a classifier has no vocabulary head; load the model it was made from")
        return (self.encoder if self.config.tie_word_embeddings else self.decoder).weight, self.decoder.bias

    def forward(self, ids, mask=None):
        """ids (B, T) -> logits: (B, T, V) of a language model, (B, labels) of a classifier."""
        return self.head(self.pooled(ids, mask) if self.kind == "classify" else self.hidden(ids, mask))


@torch.no_grad()
def adapted(model: AWDLSTM, old: list[str], new: list[str]) -> AWDLSTM:
    """The model for another vocabulary: words that it knows keep their vectors and biases, others begin with the mean
    of all (Howard and Ruder, section 3.2; as fastai does). `old` and `new` list the words by id."""
    if len(old) > model.config.vocab_size:
        raise Error(f"the old vocabulary has {len(old)} words, the embedding {model.config.vocab_size} rows")
    at = {word: id for id, word in reversed([*enumerate(old)])}
    ids = {at[word]: id for id, word in reversed([*enumerate(new)]) if word in at}  # old -> new
    rows, pad = [at.get(word, -1) for word in new], model.config.pad_token_id
    fresh = type(model)(replace(model.config, vocab_size=len(new), pad_token_id=ids.get(pad)), model.kind)
    state = model.state_dict()
    for name in {"encoder.weight", "decoder.weight", "decoder.bias"} & state.keys():
        state[name] = torch.cat((state[name], state[name].mean(0, keepdim=True)))[rows]
    fresh.to(model.encoder.weight).load_state_dict(state)
    moved = lambda value: [ids[id] for id in value if id in ids] if isinstance(value, list) else ids.get(value)
    said = getattr(model, "generation", {}).items()
    fresh.generation = {k: moved(v) if k.endswith(("token_id", "tokens")) else v for k, v in said}
    return fresh.eval()


def right_padded(mask) -> bool:
    """Whether all padding stands behind one text a row."""
    return bool((mask.int() <= 1).all() and (mask[:, 1:].int() <= mask[:, :-1].int()).all())


def real_tokens(mask):
    """The mask as numbers (B, T); a row without any token gets one, so that nothing is divided by none."""
    number = mask.long().clone()
    number[:, 0] += (number == 0).all(1)
    return number


def last_number(mask):
    """(B,) the number of each row's last token, 0 where there is none."""
    at = mask.shape[1] - 1 - (mask != 0).int().flip(1).argmax(1)
    return mask.long().gather(1, at[:, None])[:, 0]


class Texts:
    """The texts of rows with padding, or with several texts, as rows of their own: N of them, the longest first."""

    def __init__(self, mask):
        number = real_tokens(mask)
        self.shape, self.any = number.shape, (mask != 0).any(1)[:, None]
        self.b, self.t = number.nonzero(as_tuple=True)  # where the tokens stand, in reading order
        key = self.b * (number.max() + 1) + number[self.b, self.t]  # one for each text
        _, text, lengths = key.unique(return_inverse=True, return_counts=True)
        self.lengths, order = lengths.sort(descending=True, stable=True)
        self.n = order.argsort()[text]  # the text of each token, ...
        by_text = self.n.argsort(stable=True)
        starts = (self.lengths.cumsum(0) - self.lengths).repeat_interleave(self.lengths)
        self.at = torch.empty_like(by_text).scatter_(0, by_text, torch.arange(len(key), device=key.device) - starts)
        self.row, self.number = (x[by_text[self.lengths.cumsum(0) - 1]] for x in (self.b, number[self.b, self.t]))
        last = self.shape[1] - 1 - (number != 0).int().flip(1).argmax(1)
        place = torch.empty_like(number).index_put_((self.b, self.t), self.n)
        self.last = place.gather(1, last[:, None])[:, 0]  # (B,) the text that each row ends with

    def apart(self, ids):
        """(B, T) -> (N, longest)"""
        return ids.new_zeros(len(self.lengths), int(self.lengths[0])).index_put((self.n, self.at), ids[self.b, self.t])

    def together(self, y):
        """(N, longest, C) -> (B, T, C), 0 where there is no token"""
        return y.new_zeros(*self.shape, y.shape[2]).index_put((self.b, self.t), y[self.n, self.at])


def renamed(key: str) -> str:
    """A key as the language models have it: classifiers hold theirs in a wrapper, and fastai 2 numbers their head's
    layers in groups of four."""
    key = re.sub(r"^0\.module\.", "0.", key)
    return re.sub(r"^1\.layers\.(\d)\.(\d)\.", lambda m: f"1.layers.{4 * int(m[1]) + int(m[2])}.", key)


def key_map(config: Config) -> dict[str, tuple[str, bool]]:
    """Key in a published file -> parameter here, and whether the file stores it transposed (never)."""
    keys = {"0.encoder.weight": "encoder.weight", "1.decoder.weight": "decoder.weight"}
    keys |= {"1.decoder.bias": "decoder.bias"}
    for i in range(config.n_layers):
        keys[f"0.rnns.{i}.weight_hh_l0_raw"] = f"rnns.{i}.weight_hh_l0_raw"
        for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
            keys[f"0.rnns.{i}.module.{name}"] = f"rnns.{i}.{name}"
    for i, names in {0: NORM, 2: LINEAR, 4: NORM, 6: LINEAR}.items():
        keys |= {f"1.layers.{i}.{name}": f"layers.{i}.{name}" for name in names}
    return {key: (name, False) for key, name in keys.items()}


LINEAR, NORM = ("weight", "bias"), ("weight", "bias", "running_mean", "running_var")
DEPTH = "n_layers"
PREFIX = "0."
BARE = None  # the kind whose files leave out the prefix: those that fastai calls encoders do
DROPPED = ("module.weight_hh_l0", "num_batches_tracked")  # a copy of the raw weight, of no use
ZERO = ("decoder.bias", "layers.2.bias", "layers.6.bias")  # what files may leave out, being 0
TIED = {"decoder.weight": "encoder.weight", "0.encoder_dp.emb.weight": "encoder.weight"}
LABELLED = "layers."  # the head whose rows are labels: of no use for other labels
NEW = {"classify": (LABELLED,), "lm": ("decoder.bias",)}  # what may be new when fine-tuning adds a head


if __name__ == "__main__":
    model = AWDLSTM(Config(vocab_size=100, emb_sz=16, n_hid=32)).eval()
    ids, cache = torch.tensor([[5, 17, 42, 8]]), {}
    print("logits (B, T, V):", tuple(model(ids).shape))
    first, then = model.hidden(ids[:, :3], cache=cache), model.hidden(ids[:, 3:], cache=cache)
    print("read in two parts as at once:", torch.allclose(torch.cat((first, then), 1), model.hidden(ids), atol=1e-6))
