"""RoBERTa: BERT, trained on more text, for longer, and on hidden words alone.

Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach". The layers are BERT's (Devlin et al. 2019),
layer norms after each addition; what differs is around them: there is one kind of segment, positions begin behind the
padding's id, the epsilon is 1e-5, and the heads bear other names, the classifier's with a layer of its own. Loads the
published RoBERTa and DistilRoBERTa of every size. Parameters bear the names of the published files.

    B  rows of the batch      C   channels, config.hidden_size      nh  heads
    T  tokens                 V   vocabulary                        hs  channels of a head, C / nh

A mask is (B, T): True, or a number, where there is a token; False, or 0, where there is padding. Equal numbers see
each other, so that several texts can share a row. Run me: python -m minift.models.roberta
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
    "gelu": F.gelu,  # the exact one: what RoBERTa uses
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


@dataclass
class Config:
    """The fields of a published config.json; the defaults are roberta-base's."""

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None  # None: hidden_dropout_prob
    max_position_embeddings: int = 514  # rows of the table: two more than the longest text has tokens, see `first`
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    pad_token_id: int = 1
    labels: list = field(default_factory=lambda: ["LABEL_0", "LABEL_1"])  # of a classifier; one: a number (regression)
    extra: dict = field(default_factory=dict)  # whatever else config.json says, kept for saving

    @property
    def first(self):
        """The position of a text's first token: fairseq, where RoBERTa comes from, left the rows before it unused."""
        return self.pad_token_id + 1

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
        if not 0 < self.first < self.max_position_embeddings:
            raise Error(
                f"max_position_embeddings is {self.max_position_embeddings}, pad_token_id {self.pad_token_id}: "
                "positions begin behind the padding's id, and here none is left"
            )
        if self.extra.get("is_decoder"):  # the same weights, which would mean something else
            raise Error("is_decoder is true: this RoBERTa writes from left to right, and here it reads both ways")


class Embeddings(nn.Module):
    """What the token is, where it stands, and which segment it is in, there being one: three vectors, added."""

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
    """Each token gathers from all tokens of its text (Vaswani et al. 2017, section 3.2)."""

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


class LMHead(nn.Module):
    """The masked-language-model head: transform, then compare with every word's embedding."""

    def __init__(self, config: Config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if config.tie_word_embeddings:
            self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        else:
            self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden):
        return self.layer_norm(F.gelu(self.dense(hidden)))  # whatever hidden_act says


class Classifier(nn.Module):
    """A score a label from the vector of <s>. BERT's pooler, which learned to tell next sentences, has no part here."""

    def __init__(self, config: Config):
        super().__init__()
        p = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(p)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, len(config.labels))

    def forward(self, x):
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(x)))))


class RoBERTa(nn.Module):
    """`kind` is what it ends in: "encoder", nothing but a pooler, as transformers has it; "mlm", the vocabulary at
    every token; "classify", a score a label; "answer", for each token how well the answer to a question starts and
    ends there."""

    FAMILY = "roberta"  # config.json's model_type
    ARCHITECTURES: ClassVar = {  # the name that config.json gives each kind; the first is the default
        "encoder": "RobertaModel",
        "mlm": "RobertaForMaskedLM",
        "classify": "RobertaForSequenceClassification",
        "answer": "RobertaForQuestionAnswering",
    }

    def __init__(self, config: Config, kind: str = "encoder"):
        super().__init__()
        C = config.hidden_size
        self.config, self.kind = config, kind
        self.recompute = False  # activation checkpointing: in training, less memory for a third more work
        layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        encoder = nn.ModuleDict({"layer": layers})
        self.roberta = nn.ModuleDict({"embeddings": Embeddings(config), "encoder": encoder})
        if kind == "encoder":
            self.roberta["pooler"] = nn.ModuleDict({"dense": nn.Linear(C, C)})
        if kind == "mlm":
            self.lm_head = LMHead(config)
        if kind == "classify":
            self.classifier = Classifier(config)
        if kind == "answer":
            self.qa_outputs = nn.Linear(C, 2)
        for name, parameter in self.named_parameters():
            self.init_parameter(name, parameter)

    @torch.no_grad()
    def init_parameter(self, name, p):
        """As published: normal with deviation 0.02, biases 0, norms 1."""
        if p.ndim == 1:
            return p.fill_(1.0 if name.endswith(("LayerNorm.weight", "layer_norm.weight")) else 0.0)
        return p.normal_(0.0, self.config.initializer_range)

    @property
    def blocks(self):
        """What `--tune last:N` counts."""
        return self.roberta.encoder.layer

    @property
    def longest(self):
        """The most tokens that a text may have."""
        return self.config.max_position_embeddings - self.config.first

    top = ()  # nothing stands between the last layer and a head

    @property
    def new(self):
        """The head that fine-tuning adds: `--tune head` trains nothing else."""
        return [getattr(self, name) for name in ("lm_head", "classifier", "qa_outputs") if hasattr(self, name)]

    def hidden(self, ids, mask=None, segments=None):
        """ids (B, T), segments (B, T) (None: all 0, as in the published models) -> (B, T, C) without the head."""
        T = ids.shape[1]
        if self.longest < T:
            raise Error(f"{T} tokens, but the model has {self.longest} positions; shorten the text")
        if mask is None:
            visible, position = None, torch.arange(T, device=ids.device)
        else:
            visible = mask[:, :, None] == mask[:, None]  # (B, T, T) padding sees padding, so no row is empty
            position = visible.tril().sum(-1) - 1  # how many of one's own text came before
            visible = visible[:, None]  # (B, 1, T, T) for all heads
        segments = torch.zeros_like(ids) if segments is None else segments
        x = self.roberta.embeddings(ids, self.config.first + position, segments)
        for layer in self.roberta.encoder.layer:
            if self.recompute and self.training:
                x = checkpoint(layer, x, visible, use_reentrant=False)
            else:
                x = layer(x, visible)
        return x

    def pooled(self, ids, mask=None, segments=None):
        """(B, C): the vector of each row's first real token, <s>; an "encoder" puts its pooler's tanh over it."""
        hidden = self.hidden(ids, mask, segments)
        first = 0 if mask is None else (mask != 0).int().argmax(1)  # (B,)
        x = hidden[torch.arange(len(ids), device=ids.device), first]
        return torch.tanh(self.roberta.pooler.dense(x)) if self.kind == "encoder" else x

    def head(self, hidden):
        """(B, T, C) hidden -> logits (B, T, V) of a masked language model, (B, T, 2), start and end, of an answerer;
        (B, C) pooled -> logits (B, labels) of a classifier."""
        if self.kind == "classify":
            return self.classifier(hidden)
        if self.kind == "answer":
            return self.qa_outputs(hidden)
        weight, bias = self.unembedding
        return F.linear(self.lm_head(hidden), weight, bias)

    @property
    def unembedding(self):
        """Weight (V, C) and bias (V,) of the vocabulary head, to be used behind `lm_head`."""
        if self.kind != "mlm":
            raise Error(f"this folder's model ({self.ARCHITECTURES[self.kind]}) has no vocabulary head")
        if self.config.tie_word_embeddings:
            return self.roberta.embeddings.word_embeddings.weight, self.lm_head.bias
        return self.lm_head.decoder.weight, self.lm_head.decoder.bias

    def forward(self, ids, mask=None, segments=None):
        """ids (B, T) -> logits: (B, T, V) of a masked language model, (B, labels) of a classifier, (B, T, 2) of an
        answerer."""
        if self.kind == "classify":
            return self.head(self.pooled(ids, mask, segments))
        return self.head(self.hidden(ids, mask, segments))


def key_map(config: Config) -> dict[str, tuple[str, bool]]:
    """Key in a published file -> parameter here, and whether the file stores it transposed (RoBERTa's: never). Files
    may leave out the prefix `roberta.`"""
    modules = ["roberta.embeddings.LayerNorm", "roberta.pooler.dense", "lm_head.dense", "lm_head.layer_norm"]
    modules += ["lm_head.decoder", "classifier.dense", "classifier.out_proj", "qa_outputs"]
    for i in range(config.num_hidden_layers):
        layer = f"roberta.encoder.layer.{i}"
        modules += [f"{layer}.attention.self.{name}" for name in ("query", "key", "value")]
        modules += [f"{layer}.attention.output.dense", f"{layer}.attention.output.LayerNorm"]
        modules += [f"{layer}.intermediate.dense", f"{layer}.output.dense", f"{layer}.output.LayerNorm"]
    keys = [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
    keys += [f"roberta.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")]
    keys += ["lm_head.bias"]
    return {key: (key, False) for key in keys}


DEPTH = "num_hidden_layers"
PREFIX = "roberta."
BARE = "encoder"  # the kind whose files leave out the prefix
DROPPED = ("embeddings.position_ids",)  # a stored 0, 1, 2, …; here positions follow the mask
ZERO = ()  # what files may leave out, being 0
TIED = {
    "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
}
LABELLED = "classifier.out_proj."  # the part of a head whose rows are labels: of no use for other labels
NEW = {  # what may be new when fine-tuning adds a head
    "encoder": ("roberta.pooler.",),
    "mlm": ("lm_head.",),
    "classify": ("classifier.",),
    "answer": ("qa_outputs.",),
}


if __name__ == "__main__":
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = RoBERTa(Config(vocab_size=100, **sizes), "classify").eval()
    ids = torch.tensor([[0, 17, 42, 2]])
    print("logits (B, labels):", model(ids).tolist())
    print("the longest text has", model.longest, "tokens, positions", model.config.first, "and on")
    padded, mask = torch.tensor([[1, 1, 0, 17, 42, 2, 1]]), torch.tensor([[0, 0, 1, 1, 1, 1, 0]])
    print("padding changes nothing:", torch.allclose(model(padded, mask), model(ids), atol=1e-6))
