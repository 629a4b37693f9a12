"""Which file of a folder is read, what a pickle may not do, and every fault by its message."""

import json
import os
import pickle
import random
import shutil
import warnings
import zipfile
from collections import OrderedDict

import pytest
import torch
from torch.torch_version import TorchVersion

from minift import safetensors
from minift.errors import Error
from minift.weights import read

torch.set_num_threads(1)
INDEX = "model.safetensors.index.json"


def state():
    return {"wte": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7), "h.0": torch.ones(4).bfloat16()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def refused(place, *parts, folder=None):
    """Reading `folder`, or `place`, is an error at `place` that says all `parts`."""
    with pytest.raises(Error) as caught:
        read(folder or place)
    message = str(caught.value)
    assert message.startswith(str(place)) and all(part in message for part in parts), message
    assert "weights_only" not in message and message.isprintable()


def sharded(folder, form="safetensors"):
    """A model in two files; the parsed index, to be changed."""
    one, two = ({key: state()[key]} for key in ("wte", "steps"))
    stem = "model" if form == "safetensors" else "pytorch_model"
    names = [f"{stem}-0000{i}-of-00002.{form}" for i in (1, 2)]
    for name, tensors in zip(names, (one, two), strict=True):
        (safetensors.save if form == "safetensors" else lambda p, t: torch.save(t, p))(folder / name, tensors)
    index = {"metadata": {"total_size": 32}, "weight_map": {"wte": names[0], "steps": names[1]}}
    (folder / f"{stem}.{form}.index.json").write_text(json.dumps(index))
    return index


# ---- what is read


def test_all_four_forms_give_the_same_tensors_and_the_first_one_wins(tmp_path):
    whole, parts = state(), {key: state()[key] for key in ("wte", "steps")}
    sharded(tmp_path, "bin")
    assert same(read(tmp_path), parts)
    torch.save(whole, tmp_path / "pytorch_model.bin")
    assert same(read(tmp_path), whole)
    sharded(tmp_path)
    assert same(read(tmp_path), parts)
    safetensors.save(tmp_path / "model.safetensors", {"only": torch.ones(1)})
    assert list(read(str(tmp_path))) == ["only"]


def test_published_pickles_old_and_new_are_read(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    parameters = {key: torch.nn.Parameter(tensor, False) for key, tensor in state().items()}
    for value in state(), OrderedDict(state()), parameters:
        for zipped in True, False:
            torch.save(value, path, _use_new_zipfile_serialization=zipped)
            loaded = read(tmp_path)
            assert same(loaded, state()) and {type(t) for t in loaded.values()} == {torch.Tensor}


def test_tied_tensors_of_a_pickle_stay_tied(tmp_path):
    wte = torch.ones(2, 3)
    torch.save({"wte": wte, "lm_head": wte}, tmp_path / "pytorch_model.bin")
    loaded = read(tmp_path)
    assert loaded["wte"].data_ptr() == loaded["lm_head"].data_ptr()


def test_a_pickle_zipped_anew_with_compression_is_read_right(tmp_path):
    torch.save(state(), tmp_path / "plain")
    with (
        zipfile.ZipFile(tmp_path / "plain") as plain,
        zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert same(read(tmp_path), state())


def test_changing_what_a_pickle_gave_does_not_change_the_file(tmp_path):
    torch.save(state(), tmp_path / "pytorch_model.bin")
    read(tmp_path)["wte"].zero_()
    assert same(read(tmp_path), state())


# ---- nothing to read


def test_a_folder_without_weights_says_what_it_holds_and_what_was_looked_for(tmp_path):
    for name in "config.json", "merges.txt":
        (tmp_path / name).touch()
    looked = "model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index"
    refused(tmp_path, f"no weights: looked for {looked}.json, the folder holds 'config.json', 'merges.txt'; ")
    for i in range(20):
        (tmp_path / f"x{i:02}").touch()
    refused(tmp_path, "'x07' and 12 more; ")


def test_an_empty_or_absent_folder_is_named(tmp_path):
    refused(tmp_path, "the folder holds nothing; ")
    refused(tmp_path / "absent", "no such folder")


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack", "model-Q4.gguf"])
def test_weights_of_another_library_are_named_and_the_safetensors_form_asked_for(tmp_path, name):
    (tmp_path / name).touch()
    refused(tmp_path, f"{name} cannot be read here; get the safetensors form of this model")


def test_a_link_to_nowhere_is_named(tmp_path):
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blob")
    refused(tmp_path, "model.safetensors: cannot be read (No such file or directory)")


# ---- pickles (numbers: FAULTS.md, Weights)


class Evil:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("call", [os.system, eval, exec, shutil.rmtree, open, torch.load, torch.hub.load])
@pytest.mark.parametrize("zipped", [True, False])
def test_17_a_malicious_pickle_is_refused_by_name_and_not_run(tmp_path, call, zipped):
    trace = tmp_path / "trace"
    argument = {os.system: f"touch {trace}", open: str(trace)}.get(call, f"open({str(trace)!r}, 'w')")
    value = {"wte": torch.ones(2), "evil": Evil(call, *([argument, "w"] if call is open else [argument]))}
    torch.save(value, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    refused(tmp_path, "pytorch_model.bin: asks for '", f"{call.__name__}', which no", "get the safetensors")
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_17_a_malicious_pickle_that_torch_did_not_write_is_refused_by_name_too(tmp_path, protocol):
    evil = Evil(os.system, f"touch {tmp_path / 'trace'}")
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"wte": evil}, protocol))
    refused(tmp_path, f"asks for '{os.system.__module__}.system', which no weights need")
    assert not (tmp_path / "trace").exists()


def test_17_a_whole_module_is_refused_by_name(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pytorch_model.bin")
    refused(tmp_path, "asks for 'torch.nn.modules.linear.Linear'", "have its author save model.state_dict()")


def test_18_a_torch_whose_unpickler_has_a_hole_is_not_used(tmp_path, monkeypatch):
    torch.save(state(), tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.9.1+cu128"))
    refused(tmp_path, "pytorch_model.bin: torch 2.9.1+cu128 does not read pickles safely; install torch 2.10")
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.10.0"))
    assert same(read(tmp_path), state())


def test_19_a_flipped_byte_of_data_is_found(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(state(), path)
    whole = path.read_bytes()
    at = whole.index(torch.arange(6.0).numpy().tobytes())
    path.write_bytes(whole[: at + 7] + b"\x40" + whole[at + 8 :])
    assert torch.load(path, weights_only=True)["wte"][0, 1] != 1  # torch says nothing
    refused(tmp_path, "model.bin: the checksum of its member 'pytorch_model/data/0' is wrong", "it again")


STRAYS = {
    "an empty file": (b"", "begins with b'', is no pickle", "download it again"),
    "any other file": (b"weights", "begins with b'weights', is no pickle", "download it again"),
    "14 a Git LFS pointer": (b"version https://git-lfs.github.com/", "is a Git LFS", "run git lfs pull"),
    "15 an HTML page": (b"<html>", "is a web page", "download it again"),
    "a zip without an end": (b"PK\x03\x04" + bytes(90), "no state dict that torch can read (BadZipFile)"),
    "a pickle without an end": (b"\x80\x02}q", "no state dict that torch can read", "download it again"),
}


@pytest.mark.parametrize("kind", STRAYS)
def test_a_bin_that_is_none_is_refused_with_what_it_is(tmp_path, kind):
    content, *parts = STRAYS[kind]
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    refused(tmp_path, "pytorch_model.bin: ", *parts)


def test_16_a_pickle_and_a_safetensors_file_that_bear_each_others_name_are_told_apart(tmp_path):
    for zipped in True, False:
        torch.save(state(), tmp_path / "model.safetensors", _use_new_zipfile_serialization=zipped)
        refused(tmp_path, "model.safetensors: is a pickle", "name it pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    for length in 2, 0x80, 0x04034B50:  # the last two look like the start of a pickle and of a zip
        (tmp_path / "pytorch_model.bin").write_bytes(length.to_bytes(8, "little") + b"{}")
        refused(tmp_path, "pytorch_model.bin: is a safetensors file; name it model.safetensors")


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ([torch.ones(2)], "holds a list, not a state dict"),
        ({"epoch": 3}, "'epoch' is a int"),
        ({"state_dict": state()}, "'state_dict' is a dict, where names of tensors are expected"),
        ({0: torch.ones(2)}, "0 is a Tensor, where names of tensors are expected"),
    ],
)
def test_what_is_no_state_dict_is_named(tmp_path, value, part):
    torch.save(value, tmp_path / "pytorch_model.bin")
    refused(tmp_path, part, "save model.state_dict()")


def test_of_2000_damaged_pickles_each_is_read_or_refused(tmp_path):
    rng, path, loaded = random.Random(0), tmp_path / "pytorch_model.bin", 0
    seeds = []
    for zipped in True, False:
        torch.save({"w": torch.ones(3), "v": torch.zeros(2, 2)}, path, _use_new_zipfile_serialization=zipped)
        seeds.append(path.read_bytes())
    for _ in range(2000):
        content = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 4))):
            content[rng.randrange(len(content))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        path.unlink()
        path.write_bytes(content if rng.random() < 0.9 else content[: rng.randrange(len(content))])
        try:
            with warnings.catch_warnings(action="ignore"):
                loaded += bool(read(tmp_path))
        except Error as error:
            assert str(error).startswith(str(path)) and "weights_only" not in str(error)
    assert 100 < loaded < 1900


# ---- shards


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_21_an_absent_shard_is_named_with_its_keys(tmp_path, form):
    index = sharded(tmp_path, form)
    (tmp_path / index["weight_map"]["steps"]).unlink()
    refused(tmp_path, f"index.json: {index['weight_map']['steps']} is missing, with 'steps'; put it beside")


@pytest.mark.parametrize(
    "name",
    [
        *("../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", r"..\model.safetensors", ".."),
        *("C:x.safetensors", "x.safetensors\0", "x.safetensors\n", "model.bin", "model-00001-of-00002"),
        *("", 3, None, ["a"]),
    ],
)
def test_21_a_shard_outside_the_folder_or_of_another_form_is_refused(tmp_path, name):
    index = sharded(tmp_path)
    index["weight_map"]["wte"] = name
    (tmp_path / INDEX).write_text(json.dumps(index))
    safetensors.save(tmp_path.parent / "model.safetensors", {"wte": torch.ones(1)})
    refused(tmp_path, f"{INDEX}: weight_map puts 'wte' into {name!r}, which is no plain *.safetensors name")


def test_a_key_that_its_shard_lacks_is_named(tmp_path):
    index = sharded(tmp_path)
    index["weight_map"]["bias"] = index["weight_map"]["wte"]
    (tmp_path / INDEX).write_text(json.dumps(index))
    refused(tmp_path, f"model-00001-of-00002.safetensors: lacks 'bias', unlike {INDEX} says; download both")


def test_a_key_that_the_index_puts_elsewhere_or_nowhere_is_named(tmp_path):
    sharded(tmp_path)
    path = tmp_path / "model-00001-of-00002.safetensors"
    for extra in "bias", "steps":
        safetensors.save(path, {"wte": torch.ones(1), extra: torch.ones(1)})
        refused(path, f"also holds '{extra}', unlike {INDEX} says; download both again", folder=tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": ["a"]}', '{"weight_map": {}}'])
def test_an_index_without_a_map_is_refused(tmp_path, content):
    (tmp_path / INDEX).write_text(content)
    refused(tmp_path, f"{INDEX}: must have a weight_map", "download it again")


def test_an_index_that_is_no_json_is_refused_with_line_and_column(tmp_path):
    (tmp_path / INDEX).write_text('{"weight_map":\n <html>')
    refused(tmp_path, f"{INDEX}, line 2, column 2: not valid JSON")
