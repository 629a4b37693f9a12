"""BERT: understand a text by looking both ways.

Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"; the layer is
the encoder's of Vaswani et al. 2017, layer norms after each addition. Loads the published BERT of every size, cased
and uncased, and MiniLM. Parameters bear the names of the published files.

    B  rows of the batch      C   channels, config.hidden_size      nh  heads
    T  tokens                 V   vocabulary                        hs  channels of a head, C / nh

A mask is (B, T): True, or a number, where there is a token; False, or 0, where there is padding. Equal numbers see
each other, so that several texts can share a row. Run me: python -m minift.models.bert
"""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import Error, nearest

ACTIVATIONS = {
    "gelu": F.gelu,  # the exact one: what the published BERTs use
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


@dataclass
class Config:
    """The fields of a published config.json; the defaults are bert-base-uncased's."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None  # None: hidden_dropout_prob
    max_position_embeddings: int = 512  # the longest text
    type_vocab_size: int = 2  # first text, second text
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    labels: list = field(default_factory=lambda: ["LABEL_0", "LABEL_1"])  # of a classifier; one: a number (regression)
    extra: dict = field(default_factory=dict)  # whatever else config.json says, kept for saving

    def __post_init__(self):
        if self.hidden_size % self.num_attention_heads:
            raise Error(
                f"hidden_size {self.hidden_size} cannot be shared among num_attention_heads "
                f"{self.num_attention_heads}: it must be a multiple"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise Error(
                f"hidden_act '{self.hidden_act}' is none of {', '.join(ACTIVATIONS)}"
                + nearest(self.hidden_act, ACTIVATIONS)
            )
        if self.extra.get("is_decoder"):  # the same weights, which would mean something else
            raise Error("is_decoder is true: this BERT writes from left to right, and here BERT reads both ways")


class Embeddings(nn.Module):
    """What the token is, where it stands, and to which of two texts it belongs: three vectors, added (figure 2)."""

    def __init__(self, config: Config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, ids, position, segments):
        x = self.word_embeddings(ids) + self.position_embeddings(position) + self.token_type_embeddings(segments)
        return self.dropout(self.LayerNorm(x))


class AddAndNorm(nn.Module):
    """How either half of a layer ends: project to C, drop out, add what came in, normalise."""

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x, residual):
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Attention(nn.Module):
    """Each token gathers from all tokens of its text (Vaswani et al., section 3.2)."""

    def __init__(self, config: Config):
        super().__init__()
        C = config.hidden_size
        self.n_head, self.dropout = config.num_attention_heads, config.attention_probs_dropout_prob
        self.self = nn.ModuleDict({"query": nn.Linear(C, C), "key": nn.Linear(C, C), "value": nn.Linear(C, C)})
        self.output = AddAndNorm(config, C)

    def forward(self, x, visible):
        B, T, C = x.shape
        q, k, v = (self.self[name](x).view(B, T, self.n_head, -1).transpose(1, 2) for name in ("query", "key", "value"))
        y = F.scaled_dot_product_attention(  # q, k, v: (B, nh, T, hs); scores are divided by the root of hs
            q, k, v, attn_mask=visible, dropout_p=self.dropout if self.training else 0.0
        )
        return self.output(y.transpose(1, 2).reshape(B, T, C), x)  # heads side by side again


class Layer(nn.Module):
    """Attention between tokens, then an MLP within each."""

    def __init__(self, config: Config):
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.intermediate_size)})
        self.act = ACTIVATIONS[config.hidden_act]
        self.output = AddAndNorm(config, config.intermediate_size)

    def forward(self, x, visible=None):
        x = self.attention(x, visible)
        return self.output(self.act(self.intermediate.dense(x)), x)


class Predictions(nn.Module):
    """The masked-language-model head (section 3.1): transform, then compare with every word's embedding."""

    def __init__(self, config: Config):
        super().__init__()
        self.transform = nn.ModuleDict(
            {
                "dense": nn.Linear(config.hidden_size, config.hidden_size),
                "LayerNorm": nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps),
            }
        )
        self.act = ACTIVATIONS[config.hidden_act]
        if config.tie_word_embeddings:
            self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        else:
            self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden):
        return self.transform.LayerNorm(self.act(self.transform.dense(hidden)))


class BERT(nn.Module):
    """`kind` is what it ends in: "encoder", nothing but the pooler; "mlm", the vocabulary at every token;
    "pretraining", that and the pooler's next-sentence score, `cls.seq_relationship`; "classify", a score a label;
    "answer", for each token how well the answer to a question starts and ends there (section 4.2)."""

    FAMILY = "bert"  # config.json's model_type
    ARCHITECTURES: ClassVar = {  # the name that config.json gives each kind; the first is the default
        "encoder": "BertModel",
        "mlm": "BertForMaskedLM",
        "pretraining": "BertForPreTraining",
        "classify": "BertForSequenceClassification",
        "answer": "BertForQuestionAnswering",
    }

    def __init__(self, config: Config, kind: str = "encoder"):
        super().__init__()
        C = config.hidden_size
        self.config, self.kind = config, kind
        self.recompute = False  # activation checkpointing: in training, less memory for a third more work
        layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        encoder = nn.ModuleDict({"layer": layers})
        self.bert = nn.ModuleDict({"embeddings": Embeddings(config), "encoder": encoder})
        if kind not in ("mlm", "answer"):
            self.bert["pooler"] = nn.ModuleDict({"dense": nn.Linear(C, C)})
        if kind in ("mlm", "pretraining"):
            self.cls = nn.ModuleDict({"predictions": Predictions(config)})
        if kind == "pretraining":
            self.cls["seq_relationship"] = nn.Linear(C, 2)
        if kind == "classify":
            p = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
            self.dropout = nn.Dropout(p)
            self.classifier = nn.Linear(C, len(config.labels))
        if kind == "answer":
            self.qa_outputs = nn.Linear(C, 2)
        for name, parameter in self.named_parameters():
            self.init_parameter(name, parameter)

    @torch.no_grad()
    def init_parameter(self, name, p):
        """As published: normal with deviation 0.02, biases 0, norms 1."""
        if p.ndim == 1:
            return p.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
        return p.normal_(0.0, self.config.initializer_range)

    @property
    def blocks(self):
        """What `--tune last:N` counts."""
        return self.bert.encoder.layer

    @property
    def longest(self):
        """The most tokens that a text may have."""
        return self.config.max_position_embeddings

    @property
    def top(self):
        """What stands between the blocks and the head: it learns with the last blocks."""
        return [self.bert.pooler] if "pooler" in self.bert else []

    @property
    def new(self):
        """The head that fine-tuning adds: `--tune head` trains nothing else."""
        if self.kind == "classify":
            return [self.dropout, self.classifier]
        if self.kind == "answer":
            return [self.qa_outputs]
        return [*self.cls.values()] if "cls" in self._modules else []

    def hidden(self, ids, mask=None, segments=None):
        """ids (B, T), segments (B, T) of 0 and 1 (None: all 0) -> (B, T, C) without the head."""
        T = ids.shape[1]
        if self.longest < T:
            raise Error(f"{T} tokens, but the model has {self.longest} positions; shorten the text")
        if mask is None:
            visible, position = None, torch.arange(T, device=ids.device)
        else:
            visible = mask[:, :, None] == mask[:, None]  # (B, T, T) padding sees padding, so no row is empty
            position = visible.tril().sum(-1) - 1  # how many of one's own text came before
            visible = visible[:, None]  # (B, 1, T, T) for all heads
        x = self.bert.embeddings(ids, position, torch.zeros_like(ids) if segments is None else segments)
        for layer in self.bert.encoder.layer:
            if self.recompute and self.training:
                x = checkpoint(layer, x, visible, use_reentrant=False)
            else:
                x = layer(x, visible)
        return x

    def pooled(self, ids, mask=None, segments=None):
        """(B, C): the pooler's tanh over each row's first real token, [CLS] (section 3.1, task 2)."""
        if "pooler" not in self.bert:
            raise Error(f"this folder's model has no pooler: it was saved as {self.ARCHITECTURES[self.kind]}")
        hidden = self.hidden(ids, mask, segments)
        first = 0 if mask is None else (mask != 0).int().argmax(1)  # (B,)
        return torch.tanh(self.bert.pooler.dense(hidden[torch.arange(len(ids), device=ids.device), first]))

    def head(self, hidden):
        """(B, T, C) hidden -> logits (B, T, V) of a masked language model, (B, T, 2), start and end, of an answerer;
        (B, C) pooled -> logits (B, labels) of a classifier."""
        if self.kind == "classify":
            return self.classifier(self.dropout(hidden))
        if self.kind == "answer":
            return self.qa_outputs(hidden)
        weight, bias = self.unembedding
        return F.linear(self.cls.predictions(hidden), weight, bias)

    @property
    def unembedding(self):
        """Weight (V, C) and bias (V,) of the vocabulary head, to be used behind `cls.predictions`."""
        if "cls" not in self._modules:
            raise Error(f"this folder's model ({self.ARCHITECTURES[self.kind]}) has no vocabulary head")
        if self.config.tie_word_embeddings:
            return self.bert.embeddings.word_embeddings.weight, self.cls.predictions.bias
        return self.cls.predictions.decoder.weight, self.cls.predictions.decoder.bias

    def forward(self, ids, mask=None, segments=None):
        """ids (B, T) -> logits: (B, T, V) of a masked language model, (B, labels) of a classifier, (B, T, 2) of an
        answerer."""
        if self.kind == "classify":
            return self.head(self.pooled(ids, mask, segments))
        return self.head(self.hidden(ids, mask, segments))


def key_map(config: Config) -> dict[str, tuple[str, bool]]:
    """Key in a published file -> parameter here, and whether the file stores it transposed (BERT's: never). Files may
    leave out the prefix `bert.`, and old ones write `gamma` and `beta` for a norm's `weight` and `bias`."""
    modules = ["bert.embeddings.LayerNorm", "bert.pooler.dense", "classifier", "qa_outputs"]
    modules += ["cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder"]
    modules += ["cls.seq_relationship"]
    for i in range(config.num_hidden_layers):
        layer = f"bert.encoder.layer.{i}"
        modules += [f"{layer}.attention.self.{name}" for name in ("query", "key", "value")]
        modules += [f"{layer}.attention.output.dense", f"{layer}.attention.output.LayerNorm"]
        modules += [f"{layer}.intermediate.dense", f"{layer}.output.dense", f"{layer}.output.LayerNorm"]
    keys = [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
    keys += [f"bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")]
    keys += ["cls.predictions.bias"]
    return {key: (key, False) for key in keys}


DEPTH = "num_hidden_layers"
PREFIX = "bert."
BARE = "encoder"  # the kind whose files leave out the prefix
DROPPED = ("embeddings.position_ids",)  # a stored 0, 1, 2, …; here positions follow the mask
ZERO = ()  # what files may leave out, being 0
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
LABELLED = "classifier."  # the head whose rows are labels: of no use for other labels
# What may be new when fine-tuning adds a head:
NEW = {"classify": (LABELLED, "bert.pooler."), "mlm": ("cls.",), "pretraining": ("cls.",), "encoder": ("bert.pooler.",)}
NEW["answer"] = ("qa_outputs.",)


if __name__ == "__main__":
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = BERT(Config(vocab_size=100, **sizes))
    ids = torch.tensor([[1, 17, 42, 2]])
    print("hidden (B, T, C):", tuple(model.hidden(ids).shape), "pooled (B, C):", tuple(model.pooled(ids).shape))
    print("parameters:", sum(p.numel() for p in model.parameters()))
