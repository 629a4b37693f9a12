"""The state of a training on disk, from which it goes on as if it had never stopped: weights, optimiser, figures so
far, the best weights, torch's random numbers. Written whole or not at all."""

import pickle
from dataclasses import asdict
from pathlib import Path

import torch

from . import files
from .errors import Error


def save(path, model, optimizer, history, best):
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": asdict(history),
        "best": best,
        "random": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }
    with files.written(path) as f:
        torch.save(state, f)


def load(path, model, optimizer, history):
    """Put the state into `model`, `optimizer` and `history`, and torch's generators; the best weights, or None."""
    try:
        state = torch.load(Path(path), map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for name, value in state["history"].items():
            setattr(history, name, value)
        torch.set_rng_state(state["random"])
        if state["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as e:
        line = str(e).partition("\n")[0][:120]
        raise Error(f"{path}: no state of this training ({line}); remove it to begin anew") from None
    device = next(model.parameters()).device
    return state["best"] and [tensor.to(device) for tensor in state["best"]]
