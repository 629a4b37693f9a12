"""A Hugging Face Hub on this machine, as small as it goes, which can be told to misbehave."""

import hashlib
import json
import socket
import threading
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Models by id, each a dict of file names to bytes. A file of more than `large` bytes is redirected to `store`, as
    the Hub's large files are. What `answers` has for a path (its end is enough) comes in place of the right answer."""

    def __init__(self, models, large=1000):
        self.models, self.large, self.moved = models, large, {}
        self.answers: dict[str, list] = {}  # end of a path: functions of the handler that answer in its place
        self.asked = []  # (method, path, headers) of each request
        self.store = None  # another Hub, on another port, for the large files
        self.listing = lambda listing: listing  # changes what is said of a model
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

            def send(self, status, body=b"", **headers):
                """An answer; the headers' underscores become hyphens. Content_Length=None leaves that out."""
                self.send_response(status)
                headers = {"Content_Length": len(body)} | headers
                for name, value in headers.items():
                    if value is not None:
                        self.send_header(name.replace("_", "-"), str(value))
                if headers["Content_Length"] != len(body):
                    self.close_connection = True
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def send_file(self, body, **headers):
                """A file, or what Range wants of it."""
                start = int(self.headers.get("Range", "bytes=0-")[6:-1])
                if start:
                    headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                self.send(206 if start else 200, body[start:], **headers)

            def cut(self, body, count, ranges=True, length=True):
                """`count` bytes of what was wanted; then the line breaks."""
                start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if ranges else 0
                headers = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
                whole = len(body) - start if length else None
                self.send(206 if start else 200, body[start : start + count], Content_Length=whole, **headers)
                self.close_connection = True

            def reset(self):
                """Not a word, and the line breaks."""
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a client that has gone
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, to):
        self.asked.append((to.command, to.path, dict(to.headers)))
        path = to.path.partition("?")[0]
        for end, answers in self.answers.items():
            if path.endswith(end) and answers:
                return answers.pop(0)(to)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            id = "/".join(parts[2:-2])
            if id in self.moved:
                return to.send(307, Location=to.path.replace(id, self.moved[id]))
            if id not in self.models:
                return to.send(404, b'{"error": "Repository not found"}', X_Error_Code="RepoNotFound")
            return to.send(200, json.dumps(self.listing(said(self.models[id], self.large))).encode())
        if parts[0] == "large":
            return to.send_file(self.models[parts[1]])
        at = parts.index("resolve")  # id/resolve/commit/name
        id, name = "/".join(parts[:at]), "/".join(parts[at + 2 :])
        if id in self.moved:
            return to.send(307, Location=to.path.replace(id, self.moved[id]))
        body = self.models[id].get(name)
        if body is None:
            return to.send(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit(self.models[id]))
        about = {"X_Repo_Commit": commit(self.models[id])}
        if len(body) > self.large and self.store:
            digest = sha256(body)
            self.store.models[digest] = body
            location = f"{self.store.url}/large/{digest}"
            return to.send(302, Location=location, X_Linked_Etag=f'"{digest}"', X_Linked_Size=len(body), **about)
        return to.send_file(body, ETag=f'"{git(body) if len(body) <= self.large else sha256(body)}"', **about)

    def answers_with(self, end, *answers):
        self.answers.setdefault(end, []).extend(answers)

    def paths(self, method="GET"):
        """The last part of each path that was asked for."""
        return [path.partition("?")[0].split("/")[-1] for m, path, _ in self.asked if m == method]


@cache
def sha256(body):
    return hashlib.sha256(body).hexdigest()


@cache
def git(body):
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def commit(files):
    return hashlib.sha1(repr(sorted((name, sha256(body)) for name, body in files.items())).encode()).hexdigest()


def said(files, large):
    """What the Hub's list of a model's files says."""
    siblings = []
    for name, body in files.items():
        one = {"rfilename": name, "size": len(body), "blobId": git(body)}
        if len(body) > large:
            one |= {"blobId": git(b"a pointer to it"), "lfs": {"sha256": sha256(body), "size": len(body)}}
        siblings.append(one)
    return {"id": "x", "sha": commit(files), "siblings": siblings}


@contextmanager
def serving(models, **how):
    hub = Hub(models, **how)
    hub.store = Hub({})
    try:
        yield hub
    finally:
        for one in hub, hub.store:
            one.server.shutdown()
            one.server.server_close()
