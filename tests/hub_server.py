"""A Hub for tests, on the loopback interface: what huggingface_hub 2.4 asks of one, by the standard library.

It keeps models, datasets and Spaces in memory, with commits, branches, tags, private repositories, large files by
SHA-256 (which it verifies) and tokens that may write, may only read, or are unknown. What it does not cover: Xet (its
clients must have HF_HUB_DISABLE_XET=1), uploads in parts, pull requests, gated repositories, organisations, and the
Hub's own rules for metadata, of which it only asks that there be some.
"""

import base64
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".pt", ".png", ".arrow")
GITATTRIBUTES = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LARGE).encode()
KIND, REPO, REVISION = r"/api/(models|datasets|spaces)", r"/([\w.-]+/[\w.-]+)", r"/([^/]+)"
PREFIX = r"/(datasets/|spaces/|)"
ROUTES: list[tuple[str, str, Callable[..., None]]] = []


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of `method` whose path contains `path`.

    `kind` is a status to answer with, or "drop" (hang up without an answer), "cut" (hang up half-way through the
    answer's body) or "slow" (answer after a second).
    """

    method: str
    path: str
    kind: int | str
    times: int = 1


@dataclass
class File:
    content: bytes
    large: bool

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git has in the place of a large file."""
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
        return text.encode()

    def describe(self, path: str) -> dict[str, Any]:
        kept = self.pointer if self.large else self.content
        oid = hashlib.sha1(b"blob %d\0" % len(kept) + kept).hexdigest()
        row = {"type": "file", "path": path, "size": self.size, "oid": oid}
        large = {"oid": self.sha256, "size": self.size, "pointerSize": len(kept)}
        return row | ({"lfs": large} if self.large else {})


@dataclass
class Commit:
    title: str
    message: str
    author: str
    files: dict[str, File]
    parent: "Commit | None" = None
    date: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @property
    def sha(self) -> str:
        tree = json.dumps({path: file.sha256 for path, file in self.files.items()})
        parts = (self.title, self.message, self.date.isoformat(), tree, self.parent.sha if self.parent else "")
        return hashlib.sha1("\0".join(parts).encode()).hexdigest()


@dataclass
class Repo:
    private: bool
    branches: dict[str, Commit]
    tags: dict[str, Commit] = field(default_factory=dict)

    def history(self) -> dict[str, Commit]:
        commits, found = [*self.branches.values(), *self.tags.values()], {}
        while commits:
            commit = commits.pop()
            found[commit.sha] = commit
            commits += [commit.parent] if commit.parent else []
        return found


class Refusal(Exception):
    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(status, message, headers)


class HubServer:
    """Serves until its `with` block ends. `tokens` and `read_only` say whose a token is."""

    def __init__(self, tokens: dict[str, str], read_only: dict[str, str] | None = None):
        self.writers, self.readers = tokens, read_only or {}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[tuple[str, str], bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def files(self, repo: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        commit = self.commit(self.repos[kind, repo], revision)
        return {path: file.content for path, file in commit.files.items()}

    def commit(self, repo: Repo, revision: str) -> Commit:
        named = repo.branches | repo.tags | repo.history()
        if revision not in named:
            raise Refusal(404, "Invalid rev id", **{"X-Error-Code": "RevisionNotFound"})
        return named[revision]


def environment(hub: HubServer, home: Path, token: str | None = None) -> dict[str, str]:
    """Variables of a process that has this Hub for its Hub, and nothing of huggingface_hub's from before."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    own = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return inherited | own | ({"HF_TOKEN": token} if token else {})


def route(method: str, pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def add(answer: Callable[..., None]) -> Callable[..., None]:
        ROUTES.append((method, pattern, answer))
        return answer

    return add


class Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def serve(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        hub.requests.append((self.command, path))
        fault = next((f for f in hub.faults if f.times and f.method == self.command and f.path in path), None)
        self.kind = fault.kind if fault else None
        if fault:
            fault.times -= 1
        if self.kind == "slow":
            time.sleep(1)
        try:
            if self.kind == "drop":
                self.close_connection = True
                return
            if isinstance(self.kind, int):
                raise Refusal(self.kind, "as the test wants it")
            with hub.lock:
                self.user = self.whose_token()
                for method, pattern, answer in ROUTES:
                    # A slash within a branch's name comes quoted.
                    found = re.fullmatch(pattern, url.path)
                    if found and method == self.command.replace("HEAD", "GET"):
                        return answer(self, *[group and unquote(group) for group in found.groups()])
            raise Refusal(404, f"no {self.command} {path} here")
        except Refusal as refusal:
            status, message, headers = refusal.args
            self.send({"error": message}, status, {"X-Error-Message": message} | headers)

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def send(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.kind == "cut":
            content, self.close_connection = content[: len(content) // 2], True
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass

    def whose_token(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        user = (self.hub.writers | self.hub.readers).get(token)
        if token and not user:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return user

    def may_write(self, name: str) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not self.user:
            raise Refusal(401, "Invalid username or password.")
        if self.hub.writers.get(token) != name.split("/")[0]:
            raise Refusal(403, "You don't have the rights to write to this repository")

    def repo(self, kind: str, name: str, write: bool = False) -> Repo:
        repo = self.hub.repos.get((kind, name))
        if not repo or (repo.private and self.user != name.split("/")[0]):
            raise Refusal(404 if self.user else 401, "Repository not found", **{"X-Error-Code": "RepoNotFound"})
        if write:
            self.may_write(name)
        return repo

    @route("GET", "/api/whoami-v2")
    def whoami(self) -> None:
        if not self.user:
            raise Refusal(401, "Invalid username or password.")
        self.send({"type": "user", "name": self.user, "orgs": []})

    @route("POST", "/api/repos/create")
    def create(self) -> None:
        wanted = json.loads(self.body)
        kind, name = f"{wanted.get('type', 'model')}s", f"{wanted.get('organization') or self.user}/{wanted['name']}"
        self.may_write(name)
        url = {"url": f"{self.hub.url}/{kind + '/' if kind != 'models' else ''}{name}"}
        if (kind, name) in self.hub.repos:
            return self.send({"error": "You already created this repo", **url}, 409)
        first = Commit("initial commit", "", self.user or "", {".gitattributes": File(GITATTRIBUTES, False)})
        self.hub.repos[kind, name] = Repo(wanted.get("visibility") == "private", {"main": first})
        self.send(url)

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self) -> None:
        if not re.match(r"---\n(.*\n)+?---\n", json.loads(self.body)["content"]):
            return self.send({"errors": [{"message": "no metadata"}], "warnings": []}, 400)
        self.send({"errors": [], "warnings": []})

    @route("GET", f"{KIND}{REPO}(?:/revision{REVISION})?")
    def info(self, kind: str, name: str, revision: str | None) -> None:
        repo = self.repo(kind, name)
        commit = self.hub.commit(repo, revision or "main")
        files = [{"rfilename": path} for path in commit.files]
        self.send({"id": name, "sha": commit.sha, "private": repo.private, "tags": [], "siblings": files})

    @route("GET", f"{KIND}{REPO}/refs")
    def refs(self, kind: str, name: str) -> None:
        def rows(named: dict[str, Commit], folder: str) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{folder}/{n}", "targetCommit": c.sha} for n, c in named.items()]

        repo = self.repo(kind, name)
        self.send({"branches": rows(repo.branches, "heads"), "tags": rows(repo.tags, "tags"), "converts": []})

    @route("GET", f"{KIND}{REPO}/commits{REVISION}")
    def commits(self, kind: str, name: str, revision: str) -> None:
        commit: Commit | None = self.hub.commit(self.repo(kind, name), revision)
        rows = []
        while commit:
            row = {"id": commit.sha, "title": commit.title, "message": commit.message}
            rows.append(row | {"authors": [{"user": commit.author}], "date": f"{commit.date:%Y-%m-%dT%H:%M:%S.%fZ}"})
            commit = commit.parent
        self.send(rows)

    @route("GET", f"{KIND}{REPO}/tree{REVISION}(?:/(.*))?")
    def tree(self, kind: str, name: str, revision: str, folder: str | None) -> None:
        prefix = f"{folder}/" if folder else ""
        files = self.hub.commit(self.repo(kind, name), revision).files
        found = {path: file for path, file in files.items() if path.startswith(prefix)}
        if folder and not found:
            raise Refusal(404, "no such folder", **{"X-Error-Code": "EntryNotFound"})
        deep = self.query.get("recursive", ["false"])[0].lower() == "true"
        here = {path: file for path, file in found.items() if deep or "/" not in path[len(prefix) :]}
        folders = {prefix + path[len(prefix) :].split("/")[0] for path in found.keys() - here.keys()}
        rows = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        self.send(rows + [file.describe(path) for path, file in here.items()])

    @route("POST", f"{KIND}{REPO}/branch{REVISION}")
    def create_branch(self, kind: str, name: str, branch: str) -> None:
        repo = self.repo(kind, name, write=True)
        if branch in repo.branches:
            raise Refusal(409, "Reference already exists")
        repo.branches[branch] = self.hub.commit(repo, json.loads(self.body or "{}").get("startingPoint", "main"))
        self.send({})

    @route("POST", f"{KIND}{REPO}/tag{REVISION}")
    def create_tag(self, kind: str, name: str, revision: str) -> None:
        repo, tag = self.repo(kind, name, write=True), json.loads(self.body)["tag"]
        if tag in repo.tags:
            raise Refusal(409, "Tag reference exists already")
        repo.tags[tag] = self.hub.commit(repo, revision)
        self.send({})

    @route("POST", f"{KIND}{REPO}/preupload{REVISION}")
    def preupload(self, kind: str, name: str, revision: str) -> None:
        there = self.hub.commit(self.repo(kind, name, write=True), revision).files
        rows = []
        for file in json.loads(self.body)["files"]:
            large = file["path"].endswith(LARGE) or file["size"] > 10_000_000
            known = there.get(file["path"])
            oid = known and (known.sha256 if known.large else known.describe("")["oid"])
            row = {"path": file["path"], "uploadMode": "lfs" if large else "regular"}
            rows.append(row | {"shouldIgnore": False, "oid": oid})
        self.send({"files": rows})

    @route("POST", rf"{PREFIX}{REPO[1:]}\.git/info/lfs/objects/batch")
    def batch(self, prefix: str, name: str) -> None:
        self.repo(prefix.rstrip("/") or "models", name, write=True)
        rows = []
        for wanted in json.loads(self.body)["objects"]:
            where = {"upload": {"href": f"{self.hub.url}/lfs/{name}/{wanted['oid']}"}}
            where["verify"] = {"href": f"{self.hub.url}/verify/{name}"}
            rows.append(wanted | ({} if (name, wanted["oid"]) in self.hub.large else {"actions": where}))
        self.send({"transfer": "basic", "objects": rows})

    @route("PUT", f"/lfs{REPO}/([0-9a-f]{{64}})")
    def upload(self, name: str, sha256: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise Refusal(400, "the content is not what was announced")
        self.hub.large[name, sha256] = self.body
        self.send(b"")

    @route("POST", f"/verify{REPO}")
    def verify(self, name: str) -> None:
        wanted = json.loads(self.body)
        if len(self.hub.large.get((name, wanted["oid"]), b"")) != wanted["size"]:
            raise Refusal(400, "not there, or of another size")
        self.send({})

    @route("POST", f"{KIND}{REPO}/commit{REVISION}")
    def create_commit(self, kind: str, name: str, branch: str) -> None:
        repo = self.repo(kind, name, write=True)
        head, *changes = [json.loads(line) for line in self.body.splitlines()]
        if branch not in repo.branches:
            raise Refusal(404, "Invalid rev id", **{"X-Error-Code": "RevisionNotFound"})
        parent, header = repo.branches[branch], head["value"]
        if header.get("parentCommit", parent.sha) != parent.sha:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(parent.files)
        for change in changes:
            value, path = change["value"], change["value"]["path"]
            if {"", ".", "..", ".git"} & set(path.replace("\\", "/").rstrip("/").split("/")):
                raise Refusal(400, f"{path!r} is no name of a file")
            if change["key"] == "file":
                files[path] = File(base64.b64decode(value["content"]), large=False)
            elif change["key"] == "lfsFile":
                if (name, value["oid"]) not in self.hub.large:
                    raise Refusal(400, f"{path} was not uploaded")
                files[path] = File(self.hub.large[name, value["oid"]], large=True)
            elif change["key"] in ("deletedFile", "deletedFolder"):
                gone = [p for p in files if p == path or p.startswith(path.rstrip("/") + "/")]
                if not gone:
                    raise Refusal(400, f"{path} is not there")
                files = {p: file for p, file in files.items() if p not in gone}
        commit = Commit(header["summary"], header.get("description", ""), self.user or "", files, parent)
        repo.branches[branch] = commit
        self.send({"commitOid": commit.sha, "commitUrl": f"{self.hub.url}/{name}/commit/{commit.sha}"})

    @route("GET", rf"{PREFIX}{REPO[1:]}/resolve{REVISION}/(.+)")
    def resolve(self, prefix: str, name: str, revision: str, path: str) -> None:
        commit = self.hub.commit(self.repo(prefix.rstrip("/") or "models", name), revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            raise Refusal(404, "Entry not found", **{"X-Error-Code": "EntryNotFound"}, **headers)
        file = commit.files[path]
        headers["ETag"] = f'"{file.sha256 if file.large else file.describe(path)["oid"]}"'
        if file.large:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(file.size)}
        if start := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first = int(start[1])
            headers["Content-Range"] = f"bytes {first}-{file.size - 1}/{file.size}"
            return self.send(file.content[first:], 206, headers)
        self.send(file.content, 200, headers)
