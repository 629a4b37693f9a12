"""Find a model by name: one that comes with minift, a folder, or a model of the Hugging Face Hub.

What comes from the Hub is kept where and as `huggingface_hub` keeps it, so that each finds what the other has loaded:

    models--openai-community--gpt2/
        blobs/DIGEST                    the bytes of a file
        snapshots/COMMIT/config.json    a link to them (where links cannot be made, the file itself)
        refs/main                       the commit that this name stands for

download.py brings a single file; here is which files, from where, and what it is called when there is none.
"""

import os
import re
import uuid
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

from . import download as web
from . import files, tokenizers
from .errors import Error, nearest

HERE = Path(__file__).parent
DATA = HERE / "_data" if (HERE / "_data").exists() else HERE.parent / "data"  # in a wheel / in a clone
MODELS = DATA / "models"

PART = r"[A-Za-z0-9](?:[\w.-]*\w)?"
NAME = re.compile(rf"(?!.*(?:--|\.\.))((?:{PART}/)?{PART})(?:@(\w[\w./-]*))?", re.ASCII)  # gpt2, or org/gpt2@v1.0
SETTINGS = "config.json", "generation_config.json"
TWO = "bert2bert:"  # and then ENC,DEC: a model's two sides, each named as a model is
CNN = "kim-cnn"  # alone, or with :FROM, a file of word vectors or a model: made for the texts at hand (cnn.py)


def embedded() -> list[str]:
    """The names of the models that come with minift."""
    return sorted(p.parent.name for p in MODELS.glob("*/config.json"))


def find(name) -> Path:
    """The folder of a model: that of an embedded one, a path, one in the Hub's cache, or one new from the Hub."""
    name = str(name)
    if name in embedded():
        return MODELS / name
    folder = Path(os.path.expanduser(name))  # of a user that is not there, ~x stays ~x
    if folder.is_dir():
        return folder
    if folder.exists():
        raise Error(f"{folder}: a model is a folder (config.json, model.safetensors, tokenizer files), this is a file")
    if name.partition(":")[0] == CNN:
        raise Error(f"{name}: has no words until it sees texts; minift finetune classify --model {name} makes it")
    snapshot = cached(*parsed(name))
    if not lacks(snapshot):
        return snapshot
    first, slash, _ = name.partition("/")
    if slash and os.path.isdir(first):  # runs/classify-9 is a slip, and none of the Hub's business
        raise unknown(name, f"; {first} is a folder here: if you mean the Hub, first `minift download {name}`")
    return download(name)


def parsed(name: str) -> tuple[str, str]:
    """("openai-community/gpt2", "main") of "openai-community/gpt2"; `Error` if the Hub can have no such name."""
    match = NAME.fullmatch(name)
    if not match:
        raise unknown(name)
    return match[1], match[2] or "main"


def each_side(name: str, load) -> list:
    """What `load` makes of ("encoder", ENC) and ("decoder", DEC) of a name bert2bert:ENC,DEC."""
    names, found = name.removeprefix(TWO).split(","), []
    if len(names) != 2 or not all(names):
        raise Error(f"{name}: give an encoder and a decoder, such as {TWO}bert-nano,random:bert-nano")
    for side, one in zip(("encoder", "decoder"), names, strict=True):
        try:
            found.append(load(side, one))
        except Error as e:
            raise Error(f"the {side} of {name}: {e}", e.code) from None
    return found


def unknown(name: str, more: str = "") -> Error:
    known = embedded()
    what = f"neither a model that comes with minift ({', '.join(known)}) nor a folder"
    return Error(f"{name}: {what}{more}{nearest(name, known)}")


# -- the cache on this machine ----------------------------------------------------------------------------------------
# The environment is read when it is needed: a notebook may set it after the import.


def home() -> Path:
    default = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.path.expandvars(os.path.expanduser(os.environ.get("HF_HOME") or default)))


def store(id: str) -> Path:
    """Where the cache keeps a model's files."""
    cache = os.environ.get("HF_HUB_CACHE") or home() / "hub"
    return Path(os.path.expandvars(os.path.expanduser(cache))) / f"models--{id.replace('/', '--')}"


def cached(id: str, revision: str) -> Path:
    """The folder of this version's files, which may be there or not, wholly or in part."""
    ref = store(id) / "refs" / revision
    return store(id) / "snapshots" / (files.read_text(ref).strip() if ref.is_file() else revision)


def lacks(folder: Path) -> list[str]:
    """What a folder of the cache still lacks of a model; transformers loads single files, as it needs them."""
    from .weights import FILES  # which imports torch

    there = {path.name for path in folder.glob("*") if path.exists()}
    form = next((name for name in FILES if name in there), FILES[0])
    wanted = ["config.json", form, *(shards(folder / form) if form in there else ())]
    if there & {"source.spm", "target.spm"}:
        wanted += ["source.spm", "target.spm", "vocab.json"]
    elif not there & {"vocab.txt", "merges.txt", "spiece.model"}:
        wanted.append("tokenizer.json")
    return [name for name in wanted if name not in there]


def shards(path: Path) -> list[str]:
    """The files that a weight file speaks of: none, if it is no index."""
    if path.suffix != ".json":
        return []
    content = files.read_json(path)
    places = content.get("weight_map") if isinstance(content, dict) else None
    names = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
    for name in names:
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):  # ../../.bashrc
            raise Error(f"{path}: puts weights into {name!r}, which is no plain name of a file")
    return names


# -- the Hub ----------------------------------------------------------------------------------------------------------


def offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def endpoint() -> str:
    url = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    if not re.fullmatch(r"https?://[^\s\[\]]+", url, re.ASCII):
        raise Error(f"HF_ENDPOINT={url}: must be a web address such as https://huggingface.co")
    return url


def token() -> str | None:
    """Who asks, for models that are not open to all. It is sent to the endpoint and to no other host."""
    path = Path(os.path.expanduser(os.environ.get("HF_TOKEN_PATH") or home() / "token"))
    found = os.environ.get("HF_TOKEN") or (files.read_text(path) if path.is_file() else "")
    if not re.fullmatch(r"\s*[!-~]*\s*", found):
        raise Error(f"the token in HF_TOKEN, or else in {path}, has spaces or letters that no token has; copy it anew")
    return found.strip() or None


def download(name) -> Path:
    """The folder of a model of the Hub as it is there now: what the cache lacks of it is loaded."""
    name = str(name)
    if name in embedded():
        return MODELS / name
    id, revision = parsed(name)
    hint = nearest(id, embedded())
    if offline():
        snapshot = cached(id, revision)
        if missing := lacks(snapshot):
            lack = f"{snapshot} lacks {', '.join(missing)}"
            raise unknown(name, f" nor in the cache of the Hub ({lack}), and HF_HUB_OFFLINE is set")
        return snapshot
    try:
        return update(id, revision)
    except HTTPError as e:
        raise Error(f"{name}: {refusal(e, id, revision)}{hint}") from None
    except OSError as e:
        raise Error(f"{name}: {e.filename or store(id)}: writing failed ({e.strerror}); see HF_HOME", code=1) from None
    except Error as e:
        raise Error(f"{name}: {e}{hint}", e.code) from None


def update(id: str, revision: str) -> Path:
    """Load what the cache lacks of config, tokenizer and one form of the weights. `refs` moves to this version last, so
    that the old one is found until the new one is whole."""
    from .weights import FILES

    server, key = endpoint(), token()
    commit, there = listed(web.ask(f"{server}/api/models/{id}/revision/{quote(revision, safe='')}?blobs=true", key))
    snapshot = store(id) / "snapshots" / commit

    def get(name):
        target, (digest, size) = snapshot / name, stated(name, there[name])
        blob = store(id) / "blobs" / digest
        if target.exists():
            return
        for folder in target.parent, blob.parent:
            folder.mkdir(parents=True, exist_ok=True)
        with web.alone(store(id).parent / ".locks" / store(id).name / f"{digest}.lock"):  # huggingface_hub's
            if not blob.exists() and not target.exists():
                web.fetch(f"{server}/{id}/resolve/{commit}/{name}", blob, size, name, key)
            if not target.exists():
                link(blob, target)

    form = next((name for name in FILES if name in there), None)
    if form is None or "config.json" not in there:
        held = ", ".join(sorted(there)[:10]) or "nothing"
        raise Error(f"no model that minift can read: needs config.json and one of {', '.join(FILES)}; holds {held}")
    for name in (*SETTINGS, *tokenizers.FILES, *(f"target/{name}" for name in tokenizers.FILES), form):
        if name in there:
            get(name)
    for name in shards(snapshot / form):
        if name not in there:
            raise Error(f"{form} speaks of {name}, which {server}/{id} lacks")
        get(name)
    if commit != revision and cached(id, revision) != snapshot:
        files.write_text(store(id) / "refs" / revision, commit)
    return snapshot


def listed(answer: dict) -> tuple[str, dict]:
    """(the commit, what is said of each file by its name) of the Hub's answer."""
    commit, siblings = answer.get("sha"), answer.get("siblings")
    if not re.fullmatch("[0-9a-f]{40}", str(commit)) or not isinstance(siblings, list):  # it becomes a path
        raise Error(f"{endpoint()} does not answer as a Hub does; see HF_ENDPOINT", code=1)
    return commit, {str(file.get("rfilename")): file for file in siblings if isinstance(file, dict)}


def stated(name: str, file: dict) -> tuple[str, int]:
    """(digest, size) of a file; the digest is sha256 for a large one, which git holds a pointer to, else git's own."""
    large = file.get("lfs")
    if isinstance(large, dict):
        digest, size = large.get("sha256"), large.get("size")
    else:
        digest, size = file.get("blobId"), file.get("size")
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", str(digest)) or type(size) is not int:
        raise Error(f"{endpoint()} states no digest and size of {name}, so that it could not be checked", code=1)
    return digest, size


def link(blob: Path, target: Path):
    """Let `target` be `blob`, in one step: as a link, or by moving it where links cannot be made."""
    temporary = target.with_name(uuid.uuid4().hex)
    try:
        os.symlink(os.path.relpath(blob, target.parent), temporary)
    except OSError:
        temporary = blob
    os.replace(temporary, target)


def refusal(e: HTTPError, id: str, revision: str) -> str:
    """What a server's no means."""
    host = urlsplit(e.url).netloc
    if e.headers.get("X-Error-Code") == "RevisionNotFound":
        return f"{host} has no revision {revision} of {id}"
    if e.code in (401, 403):  # the Hub says so, too, of what it has not
        way = f"accept its terms on {endpoint()}/{id}, or take another token" if token() else "it needs HF_TOKEN"
        return (
            f"{host} has no such model, or not for everyone ({web.meaning(e.code)}): if it is private or gated, {way}"
        )
    if e.code == 404:
        return f"{host} has no such model"
    return f"{host} answers {web.meaning(e.code)}"


def listing() -> list[str]:
    """One line for each embedded model and data set: its name, and the first line of its README, if it has one."""
    data = sorted(p for p in DATA.glob("*/") if p != MODELS)
    lines = []
    for kind, folder in [("model", MODELS / name) for name in embedded()] + [("data", p) for p in data]:
        readme = folder / "README.md"
        text = readme.read_text("utf-8") if readme.exists() else ""
        prose = re.sub(r"(?s)\A---.*?---", "", text)  # without a model card's header
        first = next((line for line in prose.splitlines() if line and line[0] != "#"), "")
        lines.append(f"{kind:6} {folder.name:15} {first}".rstrip())
    return lines
