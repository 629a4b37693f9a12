"""The format against its reference, the `safetensors` package; every fault by its message; a seeded fuzz."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors as reference
import safetensors.torch
import torch

from minift.errors import Error
from minift.safetensors import DTYPES, MAX_HEADER, load, read_header, save

torch.set_num_threads(1)
AGAIN = "download it again, or save it again"


def raw(header, data=b"", length=None) -> bytes:
    """A file put together by hand, so that any part of it can be wrong."""
    if isinstance(header, dict):
        header = json.dumps(header)
    text = header if isinstance(header, bytes) else header.encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin=0, end=8, shape=(2,), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


def state():
    """Tensors of every dtype with random bits (NaNs too), some without elements, some without dimensions."""
    torch.manual_seed(0)
    tensors = {}
    for name, dtype in DTYPES.items():
        bits = torch.randint(0, 2 if dtype == torch.bool else 256, (6 * dtype.itemsize,), dtype=torch.uint8)
        tensors[f"{name}.matrix"] = bits.view(dtype).reshape(2, 3)
        tensors[f"{name}.scalar"] = bits[: dtype.itemsize].clone().view(dtype).reshape(())
        tensors[f"{name}.empty"] = torch.empty(3, 0, 2, dtype=dtype)
    return tensors


def bits(tensor):
    return tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def same(one, other):
    return one.keys() == other.keys() and all(bits(one[name]) == bits(other[name]) for name in one)


def refused(path, content=None) -> str:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Error) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


# ---- the same as the reference, both ways


def test_a_saved_file_is_the_references_byte_for_byte(tmp_path):
    tensors = state() | {'größe\n\x1f\x7f\u2028🙂"\\': torch.ones(3), "a": torch.ones(1), "Z": torch.ones(1)}
    shuffled = dict(random.Random(0).sample(sorted(tensors.items()), len(tensors)))
    save(tmp_path / "ours", shuffled)
    reference.torch.save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert read_header(tmp_path / "ours")[2] % 8 == 0


def test_the_reference_reads_every_dtype_that_we_save_bit_for_bit(tmp_path):
    save(tmp_path / "f", state(), {"format": "pt", "note": "ü"})
    assert same(reference.torch.load_file(tmp_path / "f"), state())
    with reference.safe_open(tmp_path / "f", "pt") as f:
        assert f.metadata() == {"format": "pt", "note": "ü"}


def test_we_read_every_dtype_that_the_reference_saves_bit_for_bit(tmp_path):
    reference.torch.save_file(state(), tmp_path / "f", metadata={"step": "7"})
    assert same(load(tmp_path / "f"), state())
    assert read_header(tmp_path / "f")[1] == {"step": "7"}


def test_no_tensor_at_all_is_a_file_too(tmp_path):
    save(tmp_path / "f", {}, {})
    assert load(tmp_path / "f") == {} == reference.torch.load_file(tmp_path / "f")


def test_keys_come_in_the_order_of_the_file(tmp_path):
    (tmp_path / "f").write_bytes(raw({"b": entry(8, 16), "a": entry(0, 8), "c": entry(16, 24)}, bytes(24)))
    assert list(load(tmp_path / "f")) == ["b", "a", "c"]


def test_the_header_is_read_without_the_tensors(tmp_path):
    save(tmp_path / "f", {"w": torch.zeros(3, 2), "i": torch.tensor(5)})
    entries, metadata, start = read_header(tmp_path / "f")
    assert entries == {"i": (torch.int64, [], 0, 8), "w": (torch.float32, [3, 2], 8, 32)}
    assert metadata == {"format": "pt"} and (tmp_path / "f").stat().st_size == start + 32


def test_a_tensor_that_is_not_aligned_is_copied_and_right(tmp_path):
    values = torch.randn(5)
    header = {"pad": entry(0, 1, [1], "U8"), "w": entry(1, 21, [5])}
    (tmp_path / "f").write_bytes(raw(header, b"\x07" + values.numpy().tobytes()))
    loaded = load(tmp_path / "f")
    assert torch.equal(loaded["w"], values) and loaded["w"].data_ptr() % 4 == 0


def test_views_of_all_kinds_are_saved_as_what_they_show(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "transposed": base.t(),
        "expanded": torch.ones(1).expand(3),
        "conjugate": torch.tensor([1 + 2j, 3 - 4j]).conj(),
        "negative": torch.tensor([1 + 2j]).conj().imag,
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    save(tmp_path / "f", tensors)
    loaded = load(tmp_path / "f")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


# ---- memory and the file under it


def test_changing_a_loaded_tensor_does_not_change_the_file(tmp_path):
    save(tmp_path / "f", {"w": torch.ones(4)})
    before = (tmp_path / "f").read_bytes()
    loaded = load(tmp_path / "f")
    loaded["w"].mul_(3)
    assert (tmp_path / "f").read_bytes() == before
    assert loaded["w"].tolist() == [3] * 4 and load(tmp_path / "f")["w"].tolist() == [1] * 4


def test_saving_over_a_loaded_file_leaves_its_tensors_intact(tmp_path):
    save(tmp_path / "f", {"a": torch.full((10_000,), 1.0), "b": torch.full((10_000,), 2.0)})
    loaded = load(tmp_path / "f")
    save(tmp_path / "f", {"a": loaded["b"], "b": torch.zeros(3)})  # from the map of the file it replaces
    assert loaded["a"].unique().tolist() == [1] and loaded["b"].unique().tolist() == [2]
    assert load(tmp_path / "f")["a"].unique().tolist() == [2]


def test_a_failed_save_leaves_the_old_file(tmp_path):
    save(tmp_path / "f", {"w": torch.ones(2)})
    with pytest.raises(Error):
        save(tmp_path / "f", {"w": torch.zeros(2), "x": "text"})
    assert load(tmp_path / "f")["w"].tolist() == [1, 1] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory in use from /proc")
def test_loading_takes_no_memory_until_touched_and_then_one_file(tmp_path):
    save(tmp_path / "f", {"a": torch.ones(8, 1 << 20), "b": torch.ones(8, 1 << 20)})  # 64 MiB
    program = f"""
import re, torch
from minift.safetensors import load
def memory(field):
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
before = memory("VmRSS")
tensors = load({str(tmp_path / "f")!r})
loaded = memory("VmRSS")
assert sum(t.sum().item() for t in tensors.values()) == 1 << 24
print(loaded - before, memory("VmHWM") - before)
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    loaded, peak = map(float, out.split())
    assert loaded < 8 and 60 < peak < 96


# ---- what is wrong is named: the file, the place, the way out (numbers: FAULTS.md, Weights)


def w(**fields) -> bytes:
    """A file of one tensor of two floats, 'w', sound but for `fields`."""
    return raw({"w": entry() | fields}, bytes(8))


def ab(a, b, size) -> bytes:
    return raw({"b": entry(*b), "a": entry(*a)}, bytes(size))


ENTRY = json.dumps(entry())
FAULTS = {
    "01 an empty file": (b"", "have 0 bytes"),
    "01 seven bytes": (bytes(7), "have 7 bytes"),
    "01 a header of no bytes": (bytes(8), "begins with b'', not with '{'"),
    "02 a header longer than the file": (raw("{}", length=50), "have 10 of 58 bytes or more"),
    "02 a header cut off": (w()[:65], "have 65 of 69 bytes or more: its header alone takes 61"),
    "02 a header over the limit": (raw("{}", length=MAX_HEADER + 1), "a header of 100000001 bytes"),
    "03 a header of 2**63 bytes": (raw("{}", length=2**63), "a header of 9223372036854775808 bytes"),
    "03 a header of 2**64 - 1 bytes": (raw("{}", length=2**64 - 1), "a header of 18446744073709551615 bytes"),
    "04 an end cut off": (w()[:-3], "have 74 of 77 bytes, the end of 'w' is missing"),
    "05 bytes after the end": (w() + bytes(3), "3 bytes too many, after 'w'"),
    "05 bytes after nothing": (raw("{}", bytes(11)), "11 bytes too many, after the header"),
    "06 an overlap": (ab((0, 8), (4, 12), 12), "'a' and 'b' overlap by 4 bytes"),
    "06 the same bytes twice": (ab((0, 8), (0, 8), 8), "'b' and 'a' overlap by 8 bytes"),
    "07 a hole": (ab((0, 8), (16, 24), 24), "'a' and 'b' leave a hole of 8 bytes"),
    "07 a hole at the start": (ab((8, 16), (16, 24), 24), "the header and 'a' leave a hole of 8 bytes"),
    "08 a name twice": (raw(f'{{"w": {ENTRY}, "w": {ENTRY}}}', bytes(8)), "the key 'w' stands twice"),
    "08 a field twice": (raw('{"w": {"dtype": "F32", "dtype": "F32"}}'), "the key 'dtype' stands twice"),
    "09 an unknown dtype": (w(dtype="F31"), "'w' has the unknown dtype 'F31'"),
    "09 a dtype in small letters": (w(dtype="f32"), "'w' has the unknown dtype 'f32'", "U32, F32, C64,"),
    "09 a dtype that is no text": (w(dtype=["F32"]), "'w' has the unknown dtype ['F32']"),
    "10 a header in Latin-1": (raw('{"größe": {}}'.encode("latin-1")), "not JSON in UTF-8 ('utf-8' codec"),
    "10 half of a surrogate pair": (raw({"w\ud83d": entry()}, bytes(8)), "surrogates not allowed"),
    "10 such a half in the metadata": (raw({"__metadata__": {"a": "\udc00"}}), "surrogates not allowed"),
    "11 no JSON": (raw('{"w": }'), "not JSON in UTF-8 (Expecting value: line 1 column 7"),
    "11 something before it": (raw(" {}"), "begins with b' ', not with '{'"),
    "11 something after it": (raw("{}x"), "not JSON in UTF-8 (Extra data"),
    "11 a NaN": (w(shape=[float("nan")]), "'w': shape must be integers from 0 to 2**63 - 1, is [nan]"),
    "11 an Infinity": (w(data_offsets=[0, float("inf")]), "'w': data_offsets must", "[0, inf]"),
    "11 a NaN in the metadata": (raw({"__metadata__": {"a": float("nan")}}), "'__metadata__'", "{'a': nan}"),
    "11 a deep nest": (raw('{"w": ' + "[" * 200_000), "not JSON in UTF-8 (maximum recursion depth"),
    "11 a nest that can be read": (raw('{"w": ' + "[" * 900 + "]" * 900 + "}"), "'w' must have dtype"),
    "11 a number of 5000 digits": (raw('{"w": ' + ENTRY.replace("2]", "9" * 5000 + "]") + "}"), "is [inf]"),
    "12 a negative dimension": (w(shape=[-2]), "'w': shape must be integers", "is [-2]"),
    "12 a dimension of minus zero": (raw('{"w": ' + ENTRY.replace("2]", "-0]") + "}"), "'w': shape", "[-0.0]"),
    "12 a dimension with a point": (w(shape=[2.0]), "'w': shape must be integers", "is [2.0]"),
    "12 a dimension that is true": (w(shape=[True, 2]), "'w': shape must be integers", "is [True, 2]"),
    "12 a dimension in quotes": (w(shape=["2"]), "'w': shape must be integers", "is ['2']"),
    "12 a dimension of 2**63": (w(shape=[0, 2**63]), "'w': shape must", "is [0, 9223372036854775808]"),
    "12 a shape over 63 bits": (w(shape=[2**31, 2**32]), "'w': shape [2147483648", "2**63 - 1 bytes"),
    "12 an empty shape over 63 bits": (w(shape=[0, 2**62]), "'w': shape [0", "2**63 - 1 bytes"),
    "12 a shape that is no list": (w(shape=2), "'w': shape must be integers", "is 2"),
    "12 an offset with a point": (w(data_offsets=[0.0, 8]), "'w': data_offsets must be integers", "[0.0, 8]"),
    "12 three offsets": (w(data_offsets=[0, 4, 8]), "'w': data_offsets must be [begin, end], is [0, 4, 8]"),
    "13 not the bytes of the shape": (w(shape=[3, 1]), "'w': shape [3, 1] of F32 takes 12 bytes", "are 8"),
    "13 offsets the wrong way": (w(data_offsets=[8, 0]), "'w': shape [2] of F32", "offsets [8, 0] are -8"),
    "an unexpected field": (w(strides=[1]), "'w' must have dtype,", "nothing else", "strides"),
    "a missing field": (raw({"w": {"dtype": "F32"}}), "'w' must have", "is {'dtype': 'F32'}"),
    "an entry that is no object": (raw({"w": ["F32", [2], [0, 8]]}), "'w' must have", "is ['F32', [2],"),
    "metadata that is no object": (raw({"__metadata__": None}), "'__metadata__' must map strings", "is None"),
    "metadata with a number": (raw({"__metadata__": {"step": 3}}), "'__metadata__' must", "{'step': 3}"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_is_refused_with_its_fault_named(tmp_path, fault):
    content, *parts = FAULTS[fault]
    message = refused(tmp_path / "model.safetensors", content)
    assert all(part in message for part in parts), message
    assert AGAIN in message or "; known are BOOL, U8," in message
    assert len(message) < 600 and message.isprintable()


STRAYS = {
    "14 a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9\nsize 548105171\n",
        "is a Git LFS pointer",
        "run git lfs pull",
    ),
    "15 an HTML page": (b"\n<!DOCTYPE html><html><body>404", "is a web page", "download it again"),
    "15 an error in XML": (b"<?xml version='1.0'?><Error>AccessDenied", "is a web page", "needs a login"),
    "16 a zip of torch.save": (b"PK\x03\x04" + bytes(60), "is a pickle", "name it pytorch_model.bin"),
    "16 a plain pickle": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j.", "is a pickle", "name it pytorch_model.bin"),
}


@pytest.mark.parametrize("kind", STRAYS)
def test_another_kind_of_file_is_recognised(tmp_path, kind):
    content, *parts = STRAYS[kind]
    message = refused(tmp_path / "model.safetensors", content)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("length", [0x80, 0x0280, 0x04034B50])
def test_a_length_that_looks_like_a_pickle_is_still_a_length(tmp_path, length):
    content = raw(b"{}" + b" " * (length - 2))
    (tmp_path / "f").write_bytes(content)
    assert load(tmp_path / "f") == {}
    assert f"of {8 + length} bytes or more" in refused(tmp_path / "f", content[:50])


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    assert "No such file" in refused(tmp_path / "absent")
    assert "directory" in refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "tensor", "parts"),
    [
        ("x", [1.0], "'x' is a list, not a tensor"),
        (3, torch.ones(1), "a tensor cannot be named 3"),
        ("__metadata__", torch.ones(1), "cannot be named '__metadata__'"),
        ("x", torch.eye(2).to_sparse(), "'x' (torch.float32, torch.sparse_coo"),
        ("x", torch.ones(2, device="meta"), "'x' (torch.float32, torch.strided, on meta)"),
        ("x", torch.ones(2, dtype=torch.complex128), "'x' (torch.complex128"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, name, tensor, parts):
    with pytest.raises(Error, match=re.escape(f"{tmp_path / 'f'}: ") + ".*" + re.escape(parts)):
        save(tmp_path / "f", {name: tensor})
    assert not list(tmp_path.iterdir())


def test_metadata_must_be_text(tmp_path):
    with pytest.raises(Error, match=r"metadata must map strings to strings, is \{'step': 3\}"):
        save(tmp_path / "f", {}, {"step": 3})


def test_names_that_share_memory_are_both_named_and_neighbours_in_one_storage_are_not(tmp_path):
    base = torch.arange(6.0)
    for one, other in (base, base), (base, base.reshape(2, 3).t()), (base.reshape(2, 3), base[5:]):
        with pytest.raises(Error, match=r"'(lm_head|wte)' and '(lm_head|wte)' share memory"):
            save(tmp_path / "f", {"wte": one, "x": torch.ones(3), "lm_head": other})
    save(tmp_path / "f", {"wte": base[:3], "x": base[6:], "y": base[6:], "lm_head": base[3:]})
    assert load(tmp_path / "f")["lm_head"].tolist() == [3, 4, 5]


# ---- fuzz

NUMBERS = rb"""0 0 1 1 2 2 3 4 8 12 16 24 28 -0 -1 1.0 2e0 01 +1 0x2 true null [] NaN Infinity 4294967296
    9223372036854775807 9223372036854775808 18446744073709551615 18446744073709551616 1e400""".split()
STRINGS = rb"""a b w aa A \n \/ \x \u0061 \u00e9 \u0000 \ud83d\ude00 \ud83d \udc00 \ud83d\u0061 dtype shape
    data_offsets F32 F16 U8 I8 BOOL F4 F6_E2M3 __metadata__""".split()
STRINGS += [b"", b"\xc3\xa9", b"\xe9", b"\xed\xa0\x80", b"\n", b"\x7f"]
BLANKS = [b" ", b"\n", b"\t\r", b"\x0b", b"\x0c", b"\xc2\xa0", b"\x00", b"//", b",", b'"x":{},', b'"x":"x",']


def mutant(rng, seeds) -> bytes:
    """One of the valid files with a few edits of its words, bytes or length; most are JSON still."""
    content = rng.choice(seeds)
    length = int.from_bytes(content[:8], "little")
    words = re.findall(rb'"[^"]*"|\d+|.', content[8 : 8 + length], re.DOTALL)
    data = content[8 + length :]
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, other, edit = rng.randrange(len(words)), rng.randrange(len(words)), rng.randrange(10)
        word = words[at]
        if edit <= 4 and word[:1] == b'"':
            words[at] = b'"' + rng.choice(STRINGS) + b'"'
        elif edit <= 4:
            words[at] = rng.choice(NUMBERS) if word.isdigit() else word + rng.choice(BLANKS)
        elif edit == 5:
            words[at], words[other] = words[other], word
        elif edit == 6:
            words[at:other] = rng.choice(([], words[at:other] * 2))
        elif edit == 7 and word:
            byte = rng.randrange(len(word))
            words[at] = word[:byte] + bytes([word[byte] ^ 1 << rng.randrange(8)]) + word[byte + 1 :]
        elif edit == 8:
            data = rng.choice((data[: rng.randrange(len(data) + 1)], data + bytes(rng.randrange(9))))
        words = words or [b"{}"]
    header = b"".join(words)
    told = len(header) if rng.random() < 0.9 else rng.choice((length, len(header) + rng.randrange(9), 2**63))
    whole = told.to_bytes(8, "little") + header + data
    return whole if rng.random() < 0.95 else whole[: rng.randrange(len(whole))]


def test_of_20000_damaged_files_each_loads_as_in_the_reference_or_is_refused(tmp_path):
    four = {"a": entry(), "b": entry(8, 24, [2, 1], "I64"), "c": entry(24, 28, []), "d": entry(28, 28, [0])}
    three = {"a": entry(0, 4, [4], "U8"), "b": entry(4, 8, [2], "BF16"), "é": entry(8, 16, [1], "C64")}
    seeds = [
        raw(four | {"__metadata__": {"format": "pt"}}, bytes(range(28))),
        raw(three, bytes(16)),
        raw({"a": entry(0, 0, [0]), "b": entry(0, 2, [2, 1], "BOOL")}, b"\x00\x01"),
    ]
    rng, path, loaded = random.Random(0), tmp_path / "f", 0
    for number in range(20_000):
        content = mutant(rng, seeds)
        path.unlink(missing_ok=True)  # ext4 is slow to write over a file
        path.write_bytes(content)
        try:
            ours = load(path)
        except Error as error:
            assert str(error).startswith(f"{path}: ")
            continue
        loaded += 1
        try:
            theirs = dict(reference.deserialize(content))
        except Exception as error:
            pytest.fail(f"mutant {number} is accepted, the reference says {error!r}: {content}")
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            expected = theirs[name]
            assert tensor.dtype == DTYPES[expected["dtype"]] and list(tensor.shape) == expected["shape"]
            assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == bytes(expected["data"])
    assert 1000 < loaded < 10_000  # neither all broken nor all whole
