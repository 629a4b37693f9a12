"""minift: fine-tuning you can read.

    model, tokenizer = minift.load("bert-nano")      # an embedded model, or the folder of a published one
    run = minift.finetune("classify", train="rows.tsv")
    minift.predict(run.folder, ["a text"])

Each name is imported when it is first used, so that `import minift` is instant.
"""

from importlib import import_module

from .errors import Error

HOME = {
    "load": "pretrained",
    "load_model": "pretrained",
    "load_tokenizer": "pretrained",
    "save": "pretrained",
    "finetune": "runs",
    "predict": "use",
    "evaluate": "use",
    "shuffle_test": "use",
    "generate": "generation",
    "generate_ids": "generation",
}

__all__ = ["Error", *HOME]


def __getattr__(name):
    if name in HOME:
        return getattr(import_module(f".{HOME[name]}", __name__), name)
    raise AttributeError(f"module 'minift' has no attribute '{name}'")


def __dir__():
    return sorted([*globals(), *HOME])
