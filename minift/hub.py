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
    """One line for each embedded model and data set: its name, and the first line of its README, if it has one."""
    data = sorted(p for p in DATA.glob("*/") if p != MODELS)
    lines = []
    for kind, folder in [("model", MODELS / name) for name in embedded()] + [("data", p) for p in data]:
        readme = folder / "README.md"
        text = readme.read_text("utf-8") if readme.exists() else ""
        prose = re.sub(r"(?s)\A---.*?---", "", text)  # without a model card's header
        first = next((line for line in prose.splitlines() if line and line[0] != "#"), "")
        lines.append(f"{kind:6} {folder.name:12} {first}".rstrip())
    return lines
