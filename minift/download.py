"""A file from a server onto the disk: nothing half-written, nothing unchecked, nothing loaded twice.

A file lies under its digest, as the Hub states it. Until it is whole it is called DIGEST.incomplete, whichever process
loads it, and the next process goes on where that one was stopped. Writers that meet nevertheless, where a file system
has no locks, put the same bytes in the same places; and what is checked is what lies on the disk.
"""

import hashlib
import http.client
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from urllib.parse import urlsplit

from tqdm import tqdm

from .errors import Error

try:
    import fcntl
except ImportError:  # Windows, where a file that another process has open cannot be replaced anyway
    fcntl = None

TIMEOUT = 30  # seconds without a byte
BUSY = 429, 500, 502, 503, 504
PAUSES = 1, 2, 4  # seconds before each further attempt, if a busy server asks for no others
LONGEST = 60  # seconds; a server that asks for more is not waited for


class Redirect(urllib.request.HTTPRedirectHandler):
    """Python's own hands the token on to whatever host a server names."""

    def redirect_request(self, request, *rest):
        new = super().redirect_request(request, *rest)
        if new and urlsplit(new.full_url)[:2] != urlsplit(request.full_url)[:2]:
            new.remove_header("Authorization")
        return new


def answer(url: str, token: str | None, start: int = 0):
    """The server's answer, still to be read: from byte `start` on, if it can do that."""
    request = urllib.request.Request(url, headers={"User-Agent": "minift"})
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if start:
        request.add_header("Range", f"bytes={start}-")
    return urllib.request.build_opener(Redirect).open(request, timeout=TIMEOUT)


def persistently(url: str, attempt):
    """`attempt()`, and once more after each of PAUSES while the server is busy or the line broken; then an `Error`.
    A server's plain no stays the `HTTPError` that it is."""
    host = urlsplit(url).netloc
    for pause in (*PAUSES, None):
        try:
            return attempt()
        except urllib.error.HTTPError as e:
            e.close()
            if e.code not in BUSY:
                raise
            fault, asked = f"answers {meaning(e.code)}", e.headers.get("Retry-After", "")
            if asked.isdecimal() and pause is not None:
                fault += f", wants to be asked again in {asked} s"
                pause = int(asked) if int(asked) <= LONGEST else None
        except (OSError, ValueError, http.client.HTTPException) as e:  # ValueError: redirected to no address at all
            reason = getattr(e, "reason", e)
            fault = f"cannot be reached, or breaks off: {reason or type(e).__name__}"
            if isinstance(reason, socket.gaierror):  # no network, or no such host: that does not change in seconds
                raise Error(f"{host} cannot be found ({reason.strerror}): no network, it seems", code=1) from None
        if pause is None:
            raise Error(f"{host} {fault}; try again later: what has come so far is kept", code=1)
        say(f"{host} {fault}; next attempt in {pause} s")
        time.sleep(pause)


def meaning(status: int) -> str:
    """503 -> "503 Service Unavailable", in the standard's words: a server's own may be anything."""
    return f"{status} {http.client.responses.get(status, '')}".strip()


def say(line: str):
    tqdm.write(line, file=sys.stderr)  # above a bar, if there is one


def ask(url: str, token: str | None) -> dict:
    """The JSON object that the server answers."""

    def attempt():
        with answer(url, token) as response:
            return response.read()

    raw = persistently(url, attempt)
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Error(f"{url} brings {stray(raw)}", code=1)
    return found


def stray(head: bytes) -> str:
    """What bytes that begin with `head` are, if not what was asked for."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of the file that it stands for: this server lacks the file"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "a web page instead: a proxy or a login stands between, or HF_ENDPOINT is no Hub"
    return "something else than a Hub does; see HF_ENDPOINT"


@contextmanager
def alone(lock):
    """Wait for the process that holds this lock, if there is one. A process that dies lets go of it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a") as f:
        try:
            if fcntl:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is loading this file: waiting for it")
            fcntl.flock(f, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield


def fetch(url: str, path, size: int, title: str, token: str | None = None):
    """Load `url`, of `size` bytes, to `path`, whose name is their digest: sha256, or that of git, 40 digits long."""
    partial = path.with_name(f"{path.name}.incomplete")
    create = lambda name, flags: os.open(name, flags | os.O_CREAT, 0o666)
    with open(partial, "r+b", buffering=0, opener=create) as f:
        if f.seek(0, os.SEEK_END) > size:
            f.truncate(0)
        with tqdm(desc=title, total=size, unit="B", unit_scale=True, disable=None, dynamic_ncols=True) as bar:
            fill(f, url, size, token, bar)
        fault = unlike(f, size, path.name)
        os.fsync(f.fileno())
    if fault:
        partial.unlink(missing_ok=True)
        raise Error(f"{url} brings {fault}; it was deleted", code=1)
    try:
        os.replace(partial, path)
    except FileNotFoundError:
        if not path.exists():  # without locks, another process may have been faster
            raise


def fill(f, url: str, size: int, token: str | None, bar):
    """Write what `f` lacks of `size` bytes, in as many answers as it takes."""

    def attempt():
        have = f.seek(0, os.SEEK_END)
        try:
            with answer(url, token, have) as response:
                copy(response, url, f, have, size, bar)
        except (OSError, http.client.HTTPException):
            if f.seek(0, os.SEEK_END) == have:
                raise  # else it broke off, but brought something: go on from there

    while f.seek(0, os.SEEK_END) < size:
        persistently(url, attempt)


def copy(response, url: str, f, have: int, size: int, bar):
    """Write the bytes of one answer, which was asked to begin at byte `have`, where they belong. (Messages name `url`:
    where it was redirected to is long, and may open what is not for everyone.)"""
    start = have if response.status == 206 else 0  # 200: it begins at the beginning nevertheless
    where, length = response.headers.get("Content-Range", ""), response.headers.get("Content-Length", "")
    if start and not where.startswith(f"bytes {start}-"):
        raise Error(f"{url} was asked for the bytes from {start} on, and brings {where or 'others'}", code=1)
    if length.isdecimal() and start + int(length) != size:
        what = f"{start + int(length):,} bytes, where {size:,} were announced"
        raise Error(f"{url} brings {what}" + ("" if start else f": {stray(response.read(512))}"), code=1)
    f.seek(start)
    while (at := f.tell()) < size:
        bar.update(at - bar.n)
        chunk = response.read1(min(1 << 20, size - at))  # what is there: `read` would lose it if the rest never comes
        if not chunk:
            raise ConnectionError(f"the answer ends after {at:,} of {size:,} bytes")
        try:
            while chunk:
                chunk = chunk[f.write(chunk) :]
        except OSError as e:  # the disk's fault, not the line's: no reason for another attempt
            raise Error(f"{f.name}: writing failed ({e.strerror})", code=1) from None
    bar.update(size - bar.n)


def unlike(f, size: int, digest: str) -> str | None:
    """Why `f` is not the file of this digest, or None."""
    f.seek(0)
    head = f.read(512)
    if head.startswith(b"version https://git-lfs"):  # which a mirror may announce as if it were the file
        return stray(head)
    f.seek(0)
    own = hashlib.sha256() if len(digest) == 64 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    found = hashlib.file_digest(f, lambda: own).hexdigest()
    return None if found == digest else f"bytes whose {own.name} is {found}, where {digest} was announced"
