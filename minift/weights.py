"""The weight files of a model folder. It holds one of five, and the first of these that is there is read:

    model.safetensors                the tensors (safetensors.py)
    model.safetensors.index.json     {"weight_map": {"wte.weight": "model-00001-of-00002.safetensors", …}}
    pytorch_model.bin                a pickled state dict, as torch.save writes it
    pytorch_model.bin.index.json     the same in several files
    *.pth                            the same as fastai writes it, alone or as the "model" beside an optimiser's state

A pickle is a program. Torch's restricted unpickler builds tensors and plain containers and runs nothing else;
what asks for more is refused by name.
"""

import os
import pickletools
import re
import zipfile
from contextlib import suppress
from pathlib import Path

import torch

from . import safetensors
from .errors import Error
from .files import read_json
from .safetensors import PICKLES, damaged, opened, short, stray

FILES = [form + end for form in ("model.safetensors", "pytorch_model.bin") for end in ("", ".index.json")]
FOREIGN = ".h5", ".msgpack", ".gguf", ".onnx", ".ckpt"


def read(folder) -> dict[str, torch.Tensor]:
    """All the tensors of the model in `folder`, by name, on the CPU."""
    folder = Path(folder)
    for path in (folder / name for name in FILES):
        if os.path.lexists(path):  # also a link to nowhere, so that the error is about it
            return _sharded(path) if path.suffix == ".json" else _tensors(path)
    if not folder.is_dir():
        raise Error(f"{folder}: no such folder; check the path")
    if found := pickles(folder):
        if len(found) > 1:
            raise Error(f"{folder}: holds {_some([path.name for path in found])}; give a folder with one of them")
        return _unpickled(found[0])
    names = sorted(path.name for path in folder.iterdir())
    foreign = "".join(f"; {name} cannot be read here" for name in names if name.endswith(FOREIGN))
    raise Error(
        f"{folder}: no weights: looked for {', '.join(FILES)}, the folder holds {_some(names)}{foreign}; "
        "get the safetensors form of this model"
    )


def pickles(folder: Path) -> list[Path]:
    """The .pth files of a folder, or of what fastai calls models/ in it."""
    return sorted(folder.glob("*.pth")) or sorted(folder.glob("model*/*.pth"))


def _tensors(path) -> dict[str, torch.Tensor]:
    return safetensors.load(path) if path.suffix == ".safetensors" else _unpickled(path)


def _sharded(index) -> dict[str, torch.Tensor]:
    """The tensors of the files that `index` names, each of which must hold just what the index says."""
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise damaged(index, "must have a weight_map from the names of the tensors to those of their files")
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    keys_of = {}
    for key, name in places.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+" + re.escape(suffix), name):
            what = f"weight_map puts {short(key)} into {short(name)}, which is no plain *{suffix} name"
            raise Error(f"{index}: {what}; its files must lie beside it")
        keys_of.setdefault(name, set()).add(key)
    for name, keys in keys_of.items():  # before the first is read: they may be large
        if not (index.parent / name).is_file():
            raise Error(f"{index}: {name} is missing, with {_some(sorted(keys))}; put it beside the index")
    tensors = {}
    for name, keys in keys_of.items():
        shard = _tensors(index.parent / name)
        for odd, verb in (keys - shard.keys(), "lacks"), (shard.keys() - keys, "also holds"):
            if odd:
                what = f"{verb} {_some(sorted(odd))}, unlike {index.name} says"
                raise Error(f"{index.parent / name}: {what}; download both again, of one version")
        tensors |= shard
    return tensors


def _unpickled(path) -> dict[str, torch.Tensor]:
    """The state dict that torch.save put into the file, zip or (before torch 1.6) plain pickle."""
    if torch.__version__ < (2, 10):  # a pickle could write into memory it does not own: CVE-2026-24747
        raise Error(
            f"{path}: torch {torch.__version__} does not read pickles safely; install torch 2.10 or newer, "
            "or get the safetensors form of this model"
        )
    with opened(path) as f:
        head = f.read(512)
    if head[8:9] == b"{":
        raise Error(f"{path}: is a safetensors file; name it model.safetensors")
    if not head.startswith(PICKLES):
        known = stray(head)
        raise Error(f"{path}: {known}") if known else damaged(path, f"begins with {head[:8]!r}, is no pickle")
    try:
        mapped = head.startswith(b"PK") and _check_zip(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Error:
        raise
    except Exception as e:  # a damaged pickle can raise nearly anything
        if name := _refused(path, e):
            raise Error(
                f"{path}: asks for {short(name)}, which no weights need; it was refused and not run: "
                "get the safetensors form of this model, or have its author save model.state_dict()"
            ) from None
        raise damaged(path, f"no state dict that torch can read ({type(e).__name__})") from None
    if not isinstance(state, dict):
        raise Error(f"{path}: holds a {type(state).__name__}, not a state dict; save model.state_dict()")
    if path.suffix == ".pth" and isinstance(state.get("model"), dict):
        state = state["model"]
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            what = f"{short(key)} is a {type(value).__name__}, where names of tensors are expected"
            raise Error(f"{path}: {what}; save model.state_dict() alone")
    return {key: value.detach() for key, value in state.items()}  # a Parameter becomes a tensor


def _check_zip(path) -> bool:
    """Test the checksums, which torch does not. True if nothing is compressed: the file can be mapped."""
    with zipfile.ZipFile(path) as archive:
        if bad := archive.testzip():
            raise damaged(path, f"the checksum of its member {short(bad)} is wrong")
        return all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())


def _refused(path, error) -> str | None:
    """What the unpickler would not import: by the words of torch, or as the plain pickle's own text tells."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return found[1]
    with opened(path) as f:  # newer protocols are refused at their first byte, before any name is met
        start, texts = f.read(1 << 20), []
    with suppress(ValueError):  # as far as it can be read
        for code, argument, _ in pickletools.genops(start):
            if code.name == "STACK_GLOBAL":
                return ".".join(texts[-2:])
            if isinstance(argument, str):
                texts.append(argument)
    return None


def _some(names) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(short, names[:10])) + more if names else "nothing"
