"""DistilBERT: BERT with half of its layers, taught by BERT.

Sanh et al. 2019, "DistilBERT, a distilled version of BERT": it began with every other layer of BERT and learned to say
of hidden words what BERT says of them (section 3). A layer computes what BERT's does (Devlin et al. 2019), layer norms
after each addition, under other names and with no dropout behind the attention; segments and pooler are gone. Loads the
published DistilBERT, English, cased and multilingual. Parameters bear the names of the published files.

    B  rows of the batch      C   channels, config.dim      nh  heads
    T  tokens                 V   vocabulary                hs  channels of a head, C / nh

A mask is (B, T): True, or a number, where there is a token; False, or 0, where there is padding. Equal numbers see
each other, so that several texts can share a row. Run me: python -m minift.models.distilbert
"""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import Error, nearest

EPSILON = 1e-12  # of every layer norm; config.json does not say it
ACTIVATIONS = {
    "gelu": F.gelu,  # the exact one: what the published DistilBERTs use
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


@dataclass
class Config:
    """The fields of a published config.json; the defaults are distilbert-base-uncased's."""

    vocab_size: int = 30522
    dim: int = 768
    n_layers: int = 6
    n_heads: int = 12
    hidden_dim: int = 3072  # width of the MLP
    activation: str = "gelu"
    dropout: float = 0.1  # after the embeddings and the MLP, ...
    attention_dropout: float = 0.1  # ... on the attention weights, ...
    seq_classif_dropout: float = 0.2  # ... in the classifier ...
    qa_dropout: float = 0.1  # ... and before the scores of an answer
    max_position_embeddings: int = 512  # the longest text
    sinusoidal_pos_embds: bool = False  # how positions start in a fresh model; a file has them, learned or not
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    labels: list = field(default_factory=lambda: ["LABEL_0", "LABEL_1"])  # of a classifier; one: a number (regression)
    extra: dict = field(default_factory=dict)  # whatever else config.json says, kept for saving

    def __post_init__(self):
        if self.dim % self.n_heads:
            raise Error(f"dim {self.dim} cannot be shared among n_heads {self.n_heads}: it must be a multiple")
        if self.activation not in ACTIVATIONS:
            raise Error(
                f"activation '{self.activation}' is none of {', '.join(ACTIVATIONS)}"
                + nearest(self.activation, ACTIVATIONS)
            )


class Embeddings(nn.Module):
    """What the token is and where it stands: two vectors, added."""

    def __init__(self, config: Config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.dim)
        self.LayerNorm = nn.LayerNorm(config.dim, eps=EPSILON)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids, position):
        return self.dropout(self.LayerNorm(self.word_embeddings(ids) + self.position_embeddings(position)))


def sines(positions: int, C: int) -> torch.Tensor:
    """(positions, C) sines and cosines by turns, of ever longer period (Vaswani et al. 2017, section 3.5)."""
    turns = 10000.0 ** (-torch.arange(0, C, 2, dtype=torch.float64) / C)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * turns
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)[:, :C].float()


class Attention(nn.Module):
    """Each token gathers from all tokens of its text (Vaswani et al., section 3.2)."""

    def __init__(self, config: Config):
        super().__init__()
        C = config.dim
        self.n_head, self.dropout = config.n_heads, config.attention_dropout
        self.q_lin, self.k_lin, self.v_lin, self.out_lin = (nn.Linear(C, C) for _ in range(4))

    def forward(self, x, visible):
        B, T, C = x.shape
        q, k, v = (
            project(x).view(B, T, self.n_head, -1).transpose(1, 2) for project in (self.q_lin, self.k_lin, self.v_lin)
        )
        y = F.scaled_dot_product_attention(  # q, k, v: (B, nh, T, hs); scores are divided by the root of hs
            q, k, v, attn_mask=visible, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_lin(y.transpose(1, 2).reshape(B, T, C))  # heads side by side again


class FFN(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(config.dim, config.hidden_dim), nn.Linear(config.hidden_dim, config.dim)
        self.act = ACTIVATIONS[config.activation]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        return self.dropout(self.lin2(self.act(self.lin1(x))))


class Layer(nn.Module):
    """Attention between tokens, then an MLP within each; what came in is added, and the sum is normalised."""

    def __init__(self, config: Config):
        super().__init__()
        self.attention = Attention(config)
        self.sa_layer_norm = nn.LayerNorm(config.dim, eps=EPSILON)
        self.ffn = FFN(config)
        self.output_layer_norm = nn.LayerNorm(config.dim, eps=EPSILON)

    def forward(self, x, visible=None):
        x = self.sa_layer_norm(self.attention(x, visible) + x)
        return self.output_layer_norm(self.ffn(x) + x)


class DistilBERT(nn.Module):
    """`kind` is what it ends in: "encoder", nothing; "mlm", the vocabulary at every token; "classify", a score a label;
    "answer", for each token how well the answer to a question starts and ends there."""

    FAMILY = "distilbert"  # config.json's model_type
    ARCHITECTURES: ClassVar = {  # the name that config.json gives each kind; the first is the default
        "encoder": "DistilBertModel",
        "mlm": "DistilBertForMaskedLM",
        "classify": "DistilBertForSequenceClassification",
        "answer": "DistilBertForQuestionAnswering",
    }

    def __init__(self, config: Config, kind: str = "encoder"):
        super().__init__()
        C, V = config.dim, config.vocab_size
        self.config, self.kind = config, kind
        self.recompute = False  # activation checkpointing: in training, less memory for a third more work
        transformer = nn.ModuleDict({"layer": nn.ModuleList(Layer(config) for _ in range(config.n_layers))})
        self.distilbert = nn.ModuleDict({"embeddings": Embeddings(config), "transformer": transformer})
        if kind == "mlm":
            self.vocab_transform = nn.Linear(C, C)
            self.act = ACTIVATIONS[config.activation]
            self.vocab_layer_norm = nn.LayerNorm(C, eps=EPSILON)
            tied = nn.ParameterDict({"bias": torch.zeros(V)})  # the weight is the words' embeddings
            self.vocab_projector = tied if config.tie_word_embeddings else nn.Linear(C, V)
        if kind == "classify":
            self.pre_classifier = nn.Linear(C, C)
            self.dropout = nn.Dropout(config.seq_classif_dropout)
            self.classifier = nn.Linear(C, len(config.labels))
        if kind == "answer":
            self.dropout = nn.Dropout(config.qa_dropout)
            self.qa_outputs = nn.Linear(C, 2)
        for name, parameter in self.named_parameters():
            self.init_parameter(name, parameter)

    @torch.no_grad()
    def init_parameter(self, name, p):
        """As published: normal with deviation 0.02 (positions: or waves), biases 0, norms 1."""
        if p.ndim == 1:
            return p.fill_(1.0 if name.endswith(("LayerNorm.weight", "layer_norm.weight")) else 0.0)
        if name.endswith("position_embeddings.weight") and self.config.sinusoidal_pos_embds:
            return p.copy_(sines(*p.shape))
        return p.normal_(0.0, self.config.initializer_range)

    @property
    def blocks(self):
        """What `--tune last:N` counts."""
        return self.distilbert.transformer.layer

    @property
    def longest(self):
        """The most tokens that a text may have."""
        return self.config.max_position_embeddings

    top = ()  # nothing stands between the last layer and a head

    @property
    def new(self):
        """The head that fine-tuning adds: `--tune head` trains nothing else."""
        return [module for name, module in self.named_children() if name != "distilbert"]

    def hidden(self, ids, mask=None, segments=None):
        """ids (B, T) -> (B, T, C) without the head. `segments` are taken and not read, so that a task may treat this as
        it treats a BERT: DistilBERT tells the texts of a pair apart by the [SEP] between them."""
        T = ids.shape[1]
        if self.longest < T:
            raise Error(f"{T} tokens, but the model has {self.longest} positions; shorten the text")
        if mask is None:
            visible, position = None, torch.arange(T, device=ids.device)
        else:
            visible = mask[:, :, None] == mask[:, None]  # (B, T, T) padding sees padding, so no row is empty
            position = visible.tril().sum(-1) - 1  # how many of one's own text came before
            visible = visible[:, None]  # (B, 1, T, T) for all heads
        x = self.distilbert.embeddings(ids, position)
        for layer in self.distilbert.transformer.layer:
            if self.recompute and self.training:
                x = checkpoint(layer, x, visible, use_reentrant=False)
            else:
                x = layer(x, visible)
        return x

    def pooled(self, ids, mask=None, segments=None):
        """(B, C): the vector of each row's first real token, [CLS], as it is."""
        hidden = self.hidden(ids, mask)
        first = 0 if mask is None else (mask != 0).int().argmax(1)  # (B,)
        return hidden[torch.arange(len(ids), device=ids.device), first]

    def head(self, hidden):
        """(B, T, C) hidden -> logits (B, T, V) of a masked language model, (B, T, 2), start and end, of an answerer;
        (B, C) pooled -> logits (B, labels) of a classifier."""
        if self.kind == "classify":
            return self.classifier(self.dropout(F.relu(self.pre_classifier(hidden))))
        if self.kind == "answer":
            return self.qa_outputs(self.dropout(hidden))
        weight, bias = self.unembedding
        return F.linear(self.transformed(hidden), weight, bias)

    def transformed(self, hidden):
        """(..., C) -> (..., C): what a masked language model compares with every word's embedding."""
        return self.vocab_layer_norm(self.act(self.vocab_transform(hidden)))

    @property
    def unembedding(self):
        """Weight (V, C) and bias (V,) of the vocabulary head, to be used behind `transformed`."""
        if self.kind != "mlm":
            raise Error(f"this folder's model ({self.ARCHITECTURES[self.kind]}) has no vocabulary head")
        one = self.distilbert.embeddings.word_embeddings if self.config.tie_word_embeddings else self.vocab_projector
        return one.weight, self.vocab_projector.bias

    def forward(self, ids, mask=None, segments=None):
        """ids (B, T) -> logits: (B, T, V) of a masked language model, (B, labels) of a classifier, (B, T, 2) of an
        answerer. `segments` are taken and not read."""
        return self.head(self.pooled(ids, mask) if self.kind == "classify" else self.hidden(ids, mask))


def key_map(config: Config) -> dict[str, tuple[str, bool]]:
    """Key in a published file -> parameter here, and whether the file stores it transposed (DistilBERT's: never). Files
    may leave out the prefix `distilbert.`"""
    modules = ["distilbert.embeddings.LayerNorm", "vocab_transform", "vocab_layer_norm", "vocab_projector"]
    modules += ["pre_classifier", "classifier", "qa_outputs"]
    for i in range(config.n_layers):
        layer = f"distilbert.transformer.layer.{i}"
        modules += [f"{layer}.attention.{name}_lin" for name in ("q", "k", "v", "out")]
        modules += [f"{layer}.{name}" for name in ("sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm")]
    keys = [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
    keys += [f"distilbert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position")]
    return {key: (key, False) for key in keys}


DEPTH = "n_layers"
PREFIX = "distilbert."
BARE = "encoder"  # the kind whose files leave out the prefix
DROPPED = ("embeddings.position_ids",)  # a stored 0, 1, 2, …; here positions follow the mask
ZERO = ()  # what files may leave out, being 0
TIED = {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"}
LABELLED = "classifier."  # the part of a head whose rows are labels: of no use for other labels
NEW = {  # what may be new when fine-tuning adds a head
    "mlm": ("vocab_",),
    "classify": ("pre_classifier.", LABELLED),
    "answer": ("qa_outputs.",),
}


if __name__ == "__main__":
    model = DistilBERT(Config(vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=64), "mlm").eval()
    ids = torch.tensor([[1, 17, 42, 2]])
    print("logits (B, T, V):", tuple(model(ids).shape))
    print("segments are not read:", torch.equal(model(ids, segments=torch.tensor([[0, 0, 1, 1]])), model(ids)))
    print("parameters:", sum(p.numel() for p in model.parameters()))
