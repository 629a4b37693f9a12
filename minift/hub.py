"""Find a model by name: one that comes with minift, or a folder."""

import os
import re
from pathlib import Path

from .errors import Error, nearest

HERE = Path(__file__).parent
DATA = HERE / "_data" if (HERE / "_data").exists() else HERE.parent / "data"  # in a wheel / in a clone
MODELS = DATA / "models"


def embedded() -> list[str]:
    """The names of the models that come with minift."""
    return sorted(p.parent.name for p in MODELS.glob("*/config.json"))


def find(name) -> Path:
    """The folder of an embedded model or of a path."""
    if (MODELS / str(name) / "config.json").exists() and "/" not in str(name):
        return MODELS / str(name)
    folder = Path(os.path.expanduser(name))  # of a user that is not there, ~x stays ~x
    if folder.is_dir():
        return folder
    if folder.exists():
        raise Error(f"{folder}: a model is a folder (config.json, model.safetensors, tokenizer files), this is a file")
    known = embedded()
    raise Error(
        f"{name}: neither a model that comes with minift ({', '.join(known)}) nor a folder{nearest(name, known)}"
    )


def listing() -> list[str]:
    """One line for each embedded model and data set: its name, and the first sentence of its README."""
    lines = []
    for kind, folder in ("model", MODELS), ("data", DATA):
        for readme in sorted(folder.glob("*/README.md")):
            prose = re.sub(r"(?s)\A---.*?---", "", readme.read_text("utf-8"))  # without a model card's header
            first = next((line for line in prose.splitlines() if line and line[0] != "#"), "")
            if readme.parent != MODELS:
                lines.append(f"{kind:6} {readme.parent.name:12} {first}")
    return lines
