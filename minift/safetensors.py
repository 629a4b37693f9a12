"""The safetensors format: a file of tensors that can hold nothing else, so that reading one runs no code.

    8 bytes    N, the length of the header, as an unsigned little-endian integer
    N bytes    the header, one JSON object in UTF-8; spaces at its end put the data at a multiple of 8:
               {"__metadata__": {"format": "pt"},                             strings only, may be absent
                "wte.weight": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}, …}
    the rest   the tensors, little-endian, row by row; the offsets count from the end of the header, and
               together they cover the data exactly: no hole, no overlap, nothing after the last

Reading refuses whatever the reference does, and a little more (a key that stands twice, say).
https://github.com/huggingface/safetensors#format
"""

import json
import mmap
import os
import reprlib
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch

from .errors import Error
from .files import written

DTYPES = dict(  # by growing alignment, in the reference's order; a saved file begins with the last of them
    BOOL=torch.bool, U8=torch.uint8, I8=torch.int8,
    F8_E5M2=torch.float8_e5m2, F8_E4M3=torch.float8_e4m3fn, F8_E8M0=torch.float8_e8m0fnu,
    F8_E4M3FNUZ=torch.float8_e4m3fnuz, F8_E5M2FNUZ=torch.float8_e5m2fnuz,
    I16=torch.int16, U16=torch.uint16, F16=torch.float16, BF16=torch.bfloat16,
    I32=torch.int32, U32=torch.uint32, F32=torch.float32, C64=torch.complex64,
    F64=torch.float64, I64=torch.int64, U64=torch.uint64,
)  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000  # bytes, the reference's limit
PICKLES = (b"PK\x03\x04", b"\x80")  # how a file of torch.save begins: today's zip, the plain pickle of old

_short = reprlib.Repr()  # a broken header may hold megabytes: an error shows the beginning
_short.maxstring = _short.maxother = 120
short = _short.repr


class Entry(NamedTuple):
    """What the header says of one tensor; `begin` and `end` count from the end of the header."""

    dtype: torch.dtype
    shape: list[int]
    begin: int
    end: int


def load(path) -> dict[str, torch.Tensor]:
    """The tensors of the file by name, in the file's order. They lie in a copy-on-write map of it: what is
    never touched is never read, and what is written to a tensor stays in memory, the file does not change."""
    with opened(path) as f:
        entries, _, start = _header(path, f)
        data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
    return {name: _tensor(data, start, entry) for name, entry in entries.items()}


def read_header(path) -> tuple[dict[str, Entry], dict[str, str], int]:
    """The header, checked against the file: entries by name, metadata, where in the file the data begins."""
    with opened(path) as f:
        return _header(path, f)


def save(path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None):
    """Write the file, byte for byte as the reference does. Tensors loaded from an old one stay intact."""
    metadata = {"format": "pt"} if metadata is None else metadata
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise Error(f"{path}: metadata must map strings to strings, is {short(metadata)}; use json.dumps")
    for name, tensor in tensors.items():
        _check_savable(path, name, tensor)
    _check_unshared(path, tensors)

    rank = list(DTYPES.values()).index
    order = sorted(tensors, key=lambda name: (-rank(tensors[name].dtype), name))
    header, end = {"__metadata__": metadata}, 0
    for name in order:
        tensor, begin = tensors[name], end
        end += tensor.nbytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with written(path) as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for name in order:  # one at a time: at most one is copied to be contiguous and on the CPU
            plain = tensors[name].cpu().contiguous().resolve_conj().resolve_neg()
            flat = plain.as_strided([plain.numel()], [1])  # a lone number is contiguous whatever its stride
            f.write(flat.view(torch.uint8).numpy())


@contextmanager
def opened(path):
    """The file, open for reading bytes; what the system then says against it becomes an `Error`."""
    try:
        with open(path, "rb") as f:
            yield f
    except OSError as e:
        raise Error(f"{path}: cannot be read ({e.strerror or e}); check the path") from None


def stray(head: bytes) -> str | None:
    """What else often bears the name of a safetensors file and begins with `head`, and the way out."""
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights it stands for; run git lfs pull in its folder"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "is a web page, not weights: the download failed, or needs a login; download it again"
    if head.startswith(PICKLES) and head[8:9] != b"{":  # else a cut file whose length looks like a pickle
        return "is a pickle as torch.save writes it, not safetensors; name it pytorch_model.bin"
    return None


def damaged(path, what) -> Error:
    return Error(f"{path}: {what}; the file is damaged: download it again, or save it again")


def _header(path, f):
    """`read_header` for the open file `f`."""
    size, head = os.fstat(f.fileno()).st_size, f.read(512)
    length = int.from_bytes(head[:8], "little")
    fault = None
    if size < 8:
        fault = f"have {size} bytes, where the first 8 give the length of the header"
    elif length > MAX_HEADER:
        fault = f"not safetensors: announces a header of {length} bytes, where {MAX_HEADER} is the limit"
    elif size < 8 + length:
        fault = f"have {size} of {8 + length} bytes or more: its header alone takes {length}"
    elif head[8:9] != b"{":
        fault = f"not safetensors: the header begins with {head[8:9]!r}, not with '{{'"
    if fault:
        raise Error(f"{path}: {known}") if (known := stray(head)) else damaged(path, fault)

    def unique(pairs):
        if len(table := dict(pairs)) < len(pairs):
            [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
            raise damaged(path, f"the key {short(twice)} stands twice in the header")
        for text in (text for pair in pairs for text in pair if isinstance(text, str)):
            text.encode()  # a ValueError for half of a surrogate pair, which is no text
        return table

    def number(text):  # what is a float, as 1.5 and NaN are, is refused wherever it stands
        return float(text) if text == "-0" or len(text) > 19 else int(text)

    f.seek(8)
    try:
        header = json.loads(f.read(length).decode("utf-8"), object_pairs_hook=unique, parse_int=number)
    except (ValueError, RecursionError) as e:
        raise damaged(path, f"the header is not JSON in UTF-8 ({e})") from None

    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged(path, f"'__metadata__' must map strings to strings, is {short(metadata)}")
    entries = {name: _entry(path, name, value) for name, value in header.items()}
    _check_cover(path, entries, 8 + length, size)
    return entries, metadata, 8 + length


def _entry(path, name, value) -> Entry:
    """One entry of the header, checked by itself."""
    place = f"tensor {short(name)}"
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise damaged(path, f"{place} must have dtype, shape, data_offsets, nothing else; is {short(value)}")
    kind, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise Error(f"{path}: {place} has the unknown dtype {short(kind)}; known are {', '.join(DTYPES)}")
    for field, numbers in ("shape", shape), ("data_offsets", offsets):  # True is an int too, but no count
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise damaged(path, f"{place}: {field} must be integers from 0 to 2**63 - 1, is {short(numbers)}")
    if len(offsets) != 2:
        raise damaged(path, f"{place}: data_offsets must be [begin, end], is {short(offsets)}")
    size = DTYPES[kind].itemsize
    for n in shape:
        size *= n or 1  # the strides of an empty tensor are computed as if it were not, and must fit too
        if size >= 2**63:
            raise damaged(path, f"{place}: shape {short(shape)} of {kind} takes more than 2**63 - 1 bytes")
    size, span = 0 if 0 in shape else size, offsets[1] - offsets[0]
    if span != size:
        what = f"shape {short(shape)} of {kind} takes {size} bytes, data_offsets {offsets} are {span}"
        raise damaged(path, f"{place}: {what}")
    return Entry(DTYPES[kind], shape, *offsets)


def _check_cover(path, entries, start, size):
    """The tensors in the order of their offsets cover the data: each begins where the one before it ends."""
    end, before = 0, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.begin != end:
            what = "overlap by" if entry.begin < end else "leave a hole of"
            raise damaged(path, f"{before} and {short(name)} {what} {abs(entry.begin - end)} bytes")
        end, before = entry.end, short(name)
    if size < start + end:
        raise damaged(path, f"have {size} of {start + end} bytes, the end of {before} is missing")
    if size > start + end:
        raise damaged(path, f"{size - start - end} bytes too many, after {before}, the last in the file")


def _tensor(data, start, entry) -> torch.Tensor:
    """The tensor of `entry` in the mapped file `data`, whose tensors begin at `start`."""
    if entry.begin == entry.end:  # frombuffer makes no empty tensor
        return torch.empty(entry.shape, dtype=entry.dtype)
    offset, width = start + entry.begin, entry.dtype.itemsize
    if offset % width:  # an old or foreign file; processors want numbers aligned, so this one is copied
        data, offset = bytearray(memoryview(data)[offset : start + entry.end]), 0
    count = (entry.end - entry.begin) // width
    return torch.frombuffer(data, dtype=entry.dtype, count=count, offset=offset).reshape(entry.shape)


def _check_savable(path, name, tensor):
    if not isinstance(name, str) or name == "__metadata__":
        raise Error(f"{path}: a tensor cannot be named {short(name)}; give it another string")
    if not isinstance(tensor, torch.Tensor):
        raise Error(f"{path}: {name!r} is a {type(tensor).__name__}, not a tensor; leave it out")
    if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in NAMES:
        what = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise Error(f"{path}: {name!r} ({what}) cannot be saved; make it dense, with data, of a known dtype")


def _check_unshared(path, tensors):
    """Two names of one memory would come back as two tensors; only the caller knows which name stays."""
    spans = []
    for name, t in tensors.items():
        if t.numel():
            last = sum((n - 1) * step for n, step in zip(t.shape, t.stride(), strict=True))
            spans.append((str(t.device), t.data_ptr(), t.data_ptr() + (last + 1) * t.itemsize, name))
    for (device, _, end, name), (other_device, begin, _, other) in pairwise(sorted(spans)):
        if device == other_device and begin < end:
            raise Error(f"{path}: {name!r} and {other!r} share memory; leave one out, or save its clone()")
