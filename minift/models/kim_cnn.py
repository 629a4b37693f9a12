"""Kim's CNN: filters that slide over word vectors, and the strongest answer of each.

Kim 2014, "Convolutional Neural Networks for Sentence Classification" (EMNLP); what the paper leaves open is as in his
code (github yoonkim/CNN_sentence). The word vectors are random ("rand"), or published ones that stay as they are
("static"), learn ("non-static"), or both at once ("multichannel").

    B  rows of the batch    V  vocabulary                      widths  words that a filter spans: 3, 4 and 5
    T  tokens of a text     C  channels of a word vector       M       all feature maps, 3 times 100

A mask is (B, T): True, or a number, where there is a token; False, or 0, where there is padding. A text stands between
zeros without end, so that its padding is never anything else. Run me: python -m minift.models.kim_cnn
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import Error, nearest

CHANNELS = ("non-static", "static", "multichannel")


@dataclass
class Config:
    """The fields of config.json; the defaults are the paper's (section 3.1)."""

    vocab_size: int = 30000
    embedding_size: int = 300
    channels: str = "non-static"  # the vectors learn; "static": they do not; "multichannel": one copy of each
    widths: list = field(default_factory=lambda: [3, 4, 5])
    maps: int = 100  # of each width
    dropout: float = 0.5  # on the M maxima
    max_norm: int | None = 3  # the longest that the weights of one label may be; None: no limit
    pad_token_id: int | None = None
    labels: list = field(default_factory=lambda: ["LABEL_0", "LABEL_1"])  # one: a number (regression)
    extra: dict = field(default_factory=dict)  # whatever else config.json says, kept for saving

    def __post_init__(self):
        if self.channels not in CHANNELS:
            hint = nearest(self.channels, CHANNELS)
            raise Error(f"channels '{self.channels}' is none of {', '.join(CHANNELS)}{hint}")
        if not self.widths or not all(type(width) is int and 0 < width <= 1000 for width in self.widths):
            raise Error(f"widths is {self.widths}, but must list how many words filters span, such as [3, 4, 5]")


class KimCNN(nn.Module):
    """One `kind`, "classify": a score a label."""

    FAMILY = "kim_cnn"  # config.json's model_type
    ARCHITECTURES: ClassVar = {"classify": "KimCNN"}  # the name that config.json gives each kind
    longest = 2**16  # tokens of a text: there are no positions, but memory has an end

    def __init__(self, config: Config, kind: str = "classify"):
        super().__init__()
        self.config, self.kind = config, kind
        self.recompute = False  # of one layer, there is nothing to compute again
        V, C = config.vocab_size, config.embedding_size
        # Saved like a parameter, and out of every optimiser's reach:
        self.register_buffer("static", torch.empty(V, C) if config.channels != "non-static" else None)
        self.embed = nn.Embedding(V, C) if config.channels != "static" else None
        self.convs = nn.ModuleList(nn.Conv1d(C, config.maps, width) for width in config.widths)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.maps * len(config.widths), len(config.labels))
        for name, parameter in self.named_parameters():
            self.init_parameter(name, parameter)
        if self.embed is None:
            self.init_parameter("static", self.static)
        self.set_vectors(self.tables[-1])  # two channels start as one

    @torch.no_grad()
    def init_parameter(self, name, p):
        """Vectors uniform up to 0.25, as in Kim's code; filters and head up to the root of 1 / inputs, biases 0. (His
        filters begin below 0.01 and his head at 0, which learns later and ends alike.)"""
        if p.ndim == 1:
            return p.zero_()
        limit = p[0].numel() ** -0.5 if name.startswith(("convs", "classifier")) else 0.25
        return p.uniform_(-limit, limit)

    @property
    def tables(self):
        """The word vectors (V, C) of each channel; those that learn come last."""
        return [table for table in (self.static, self.embed and self.embed.weight) if table is not None]

    @torch.no_grad()
    def set_vectors(self, vectors):
        """Let vectors (V, C) be those of the words, in every channel."""
        for table in self.tables:
            table.copy_(vectors)

    @torch.no_grad()
    def constrain(self):
        """What follows each step of an optimiser (optim.adamw sees to it): where the weights of a label are longer than
        max_norm, they are made as long as that (section 2.1)."""
        if self.config.max_norm:
            weight = self.classifier.weight  # (labels, M)
            weight.mul_((self.config.max_norm / weight.norm(dim=1, keepdim=True)).clamp(max=1.0))

    @property
    def blocks(self):
        """What `--tune last:N` counts: all the filters are one layer."""
        return [self.convs]

    @property
    def top(self):
        """Between the filters and the head nothing learns."""
        return []

    @property
    def new(self):
        """The head that fine-tuning adds: `--tune head` trains nothing else."""
        return [self.dropout, self.classifier]

    def hidden(self, ids, mask=None):
        """ids (B, T) -> (B, T + W, M), W the widest filter: every filter's answer at every place that it can begin at,
        from W words before the text to its last word.

        Kim's code puts zeros at both ends, so that filters also see the words at the edges alone, and texts shorter
        than a filter are read, too. It then fills up to the longest text of all; so most texts have windows of nothing
        but zeros, where a filter answers with its bias. Here each text has one, whatever its padding."""
        x = sum(F.embedding(ids, table) for table in self.tables)  # the sum of what a filter makes of each channel
        if mask is not None:
            x = x.masked_fill((mask == 0)[:, :, None], 0.0)
        x, W = x.transpose(1, 2), max(self.config.widths)  # (B, C, T)
        maps = [conv(F.pad(x, (W, conv.kernel_size[0] - 1))) for conv in self.convs]  # each (B, M / 3, T + W)
        return F.relu(torch.cat(maps, 1).transpose(1, 2))

    def pooled(self, ids, mask=None):
        """(B, M): max over time, each filter's strongest answer (section 2)."""
        return self.hidden(ids, mask).max(1).values

    def head(self, pooled):
        """(B, M) -> logits (B, labels)."""
        return self.classifier(self.dropout(pooled))

    @property
    def unembedding(self):
        raise Error("a Kim CNN only classifies; it has no vocabulary head")

    def forward(self, ids, mask=None, segments=None):
        """ids (B, T) -> logits (B, labels). `segments` is what BERT's tokenizers tell of pairs: of no use here."""
        return self.head(self.pooled(ids, mask))


def key_map(config: Config) -> dict[str, tuple[str, bool]]:
    """Key in the file -> parameter here, and whether it is stored transposed (never). The names are minift's own: Kim
    published none."""
    keys = ["static", "embed.weight", "classifier.weight", "classifier.bias"]
    keys += [f"convs.{i}.{name}" for i in range(len(config.widths)) for name in ("weight", "bias")]
    return {key: (key, False) for key in keys}


DEPTH = ""  # no number of layers
PREFIX = ""
BARE = None  # there is no kind whose files leave out a prefix
DROPPED = ()
ZERO = ()  # what files may leave out, being 0
TIED = {}
LABELLED = "classifier."  # the head whose rows are labels: of no use for other labels
NEW = {"classify": (LABELLED,)}  # what may be new when fine-tuning adds a head


if __name__ == "__main__":
    model = KimCNN(Config(vocab_size=100, embedding_size=16, maps=4)).eval()
    ids = torch.tensor([[5, 17, 42, 8]])
    print("each filter at each place (B, T + W, M):", tuple(model.hidden(ids).shape))
    pooled = model.pooled(ids)
    print("max over time (B, M):", tuple(pooled.shape), "logits (B, labels):", tuple(model(ids).shape))
    padded, mask = torch.tensor([[5, 17, 42, 8, 0, 0]]), torch.tensor([[1, 1, 1, 1, 0, 0]])
    print("two pads change it by", (model.pooled(padded, mask) - pooled).abs().max().item())
