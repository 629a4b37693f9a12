"""Folders as fastai leaves them: an AWD-LSTM's weights in a .pth, its vocabulary in a .pkl, and no word on the shape.

wt103-fwd/lstm_fwd.pth       {"0.encoder.weight": (V, C), "0.rnns.0.weight_hh_l0_raw": (4 H, H), …}, or that as
wt103-fwd/itos_wt103.pkl     the "model" beside an optimiser's state; ["xxunk", "xxpad", …]
"""

from pathlib import Path

from . import weights
from .errors import Error
from .models import awd_lstm
from .tokenizers import words


def is_one(folder: Path) -> bool:
    return not (folder / "config.json").exists() and bool(weights.pickles(folder))


def config(folder: Path) -> dict:
    """What a config.json would say; the shape is that of the weights."""
    path = weights.pickles(folder)[0]
    shapes = {awd_lstm.renamed(key).removeprefix("0."): tensor.shape for key, tensor in weights.read(folder).items()}
    layers = [shape for key, shape in shapes.items() if key.endswith(".weight_hh_l0_raw")]
    embedding, head = shapes.get("encoder.weight"), shapes.get("1.layers.6.weight")
    if not layers or embedding is None or {len(shape) for shape in (*layers, embedding)} != {2}:
        raise Error(f"{path}: no AWD-LSTM of fastai's: it has no 0.encoder.weight, or no 0.rnns.*.weight_hh_l0_raw")
    said = {"model_type": "awd_lstm", "architectures": [awd_lstm.AWDLSTM.ARCHITECTURES["classify" if head else "lm"]]}
    said |= {"vocab_size": embedding[0], "emb_sz": embedding[1], "n_hid": layers[0][1], "n_layers": len(layers)}
    if head:
        known = words.labels(folder)
        labels = known if known and len(known) == head[0] else [f"LABEL_{i}" for i in range(head[0])]
        said["id2label"] = dict(enumerate(labels))
    return said
