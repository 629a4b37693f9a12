"""Reading and writing files so that nothing is half-written and every fault names its place."""

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from .errors import Error


@contextmanager
def written(path):
    """Open `path` for binary writing under a temporary name in the same folder; it takes its real name
    only when the block ends well and the bytes are on disk. A reader sees the old file or the new one."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as e:
        raise Error(f"{path}: cannot be written ({e.strerror}); choose another folder", code=1) from None
    try:
        with os.fdopen(handle, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        mask = os.umask(0)  # mkstemp makes a file that only its owner can read; give it the usual rights
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as e:
        raise Error(f"{path}: writing failed ({e.strerror or e}); the old file, if any, is untouched", code=1) from None
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write_text(path, text: str):
    with written(path) as f:
        f.write(text.encode("utf-8"))


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def unused(name: str) -> Path:
    """The first of runs/NAME-1, runs/NAME-2, … that is not there."""
    return next(folder for n in range(1, 10**6) if not (folder := Path("runs") / f"{name}-{n}").exists())


def append_text(path, text: str):
    try:
        with open(path, "a", encoding="utf-8") as f:
            f.write(text)
    except OSError as e:
        raise Error(f"{path}: writing failed ({e.strerror}); make room, or choose another folder", code=1) from None


def read_bytes(path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise Error(f"{path}: no such file") from None
    except OSError as e:
        raise Error(f"{path}: cannot be read ({e.strerror})") from None


def read_text(path) -> str:
    """The file as UTF-8 text, without a byte-order mark; line ends as they stand."""
    raw = read_bytes(path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        kind = "looks like UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "perhaps Latin-1"
        line = raw.count(b"\n", 0, e.start) + 1
        raise Error(
            f"{path}, line {line}: byte 0x{raw[e.start]:02x} at offset {e.start} is not UTF-8 ({kind}); "
            f"convert it first, for example: iconv -f {'UTF-16' if 'UTF' in kind else 'LATIN1'} -t UTF-8"
        ) from None


def read_json(path):
    """The file's JSON value; whatever is wrong with it becomes one `Error` with line and column."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise Error(f"{path}, line {e.lineno}, column {e.colno}: not valid JSON ({e.msg})") from None
    except (RecursionError, ValueError) as e:  # absurd nesting, absurd integers
        raise Error(f"{path}: not usable JSON ({type(e).__name__}: {str(e)[:80]})") from None
