"""Find a model by name: one that comes with minift, or a folder."""

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
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise Error(f"{folder}: a model is a folder (config.json, model.safetensors, tokenizer files), this is a file")
    raise Error(
        f"{name}: neither a model that comes with minift ({', '.join(embedded())}) nor a folder{nearest(name, embedded())}"
    )


def listing() -> list[str]:
    """One line an embedded model and data set: its name and what its README says first."""
    lines = []
    for kind, folder in ("model", MODELS), ("data", DATA):
        for readme in sorted(folder.glob("*/README.md")):
            if readme.parent != MODELS:
                first = next((line for line in readme.read_text("utf-8").splitlines() if line and line[0] != "#"), "")
                lines.append(f"{kind:6} {readme.parent.name:16} {first}")
    return lines
