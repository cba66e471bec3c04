"""A hub on loopback: what `huggingface_hub` and `datasets` ask of huggingface.co, answered from memory.

Model and dataset information at a revision, file trees, and `resolve` with the headers of the real one: the
commit, an ETag, and for large files a redirect to another path, as to the storage of LFS. Trouble is set per
file: cut transfers, slow ones; per repository: gated.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".parquet")  # kept in LFS: behind a redirect


@dataclass
class Repository:
    """Commits of files, and the names that point at them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def push(self, files: dict[str, bytes], ref: str = "main") -> str:
        """A new commit that `ref` points at; its hash."""
        commit = oid(repr(sorted((name, oid(content)) for name, content in files.items())).encode())[:40]
        self.commits[commit], self.refs[ref] = files, commit
        return commit

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.refs.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


class Hub(ThreadingHTTPServer):
    """`with Hub() as hub:` serves on `hub.url`; `hub.requests` lists what was asked, (method, path)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}  # "models/org/name" or "datasets/org/name"
        self.requests: list[tuple[str, str]] = []
        self.cut: dict[str, int] = {}  # file name -> how many transfers of it break off in the middle
        self.slow: dict[str, float] = {}  # file name -> seconds before its bytes
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def repository(self, name: str) -> Repository:
        return self.repositories.setdefault(name, Repository())

    def __exit__(self, *error) -> None:
        self.shutdown()
        super().__exit__(*error)


def oid(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *arguments) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append((self.command, path))
        parts = path.split("/")
        if parts[0] == "storage":
            return self.send_file(parts[-1], *self.server_file(parts))
        if parts[0] == "api":
            return self.send_api(parts[1], parts[2:])
        kind = "datasets" if parts[0] == "datasets" else "models"
        parts = parts[1:] if kind == "datasets" else parts
        if "resolve" in parts:
            at = parts.index("resolve")
            return self.send_resolve(kind, "/".join(parts[:at]), parts[at + 1], "/".join(parts[at + 2 :]))
        self.refuse(404, "EntryNotFound", "no such page")

    def found(self, kind: str, name: str, revision: str):
        """The commit and files, or None after an error was sent."""
        repository = self.server.repositories.get(f"{kind}/{name}")
        if repository is None:
            return self.refuse(401, "RepoNotFound", "Repository not found")
        if (at := repository.at(revision)) is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return at

    def send_api(self, kind: str, rest: list[str]) -> None:
        marks = [
            i for i, part in enumerate(rest) if part in ("revision", "tree", "paths-info", "xet-read-token")
        ]
        at = marks[0] if marks else len(rest)
        name, what = "/".join(rest[:at]), rest[at] if marks else "info"
        found = self.found(kind, name, rest[at + 1] if marks else "main")
        if found is None:
            return
        commit, files = found
        if what in ("info", "revision"):
            siblings = [{"rfilename": file} for file in files]
            gated = "manual" if self.server.repositories[f"{kind}/{name}"].gated else False
            plain = {"id": name, "sha": commit, "siblings": siblings, "private": False, "gated": gated}
            plain |= {"disabled": False, "downloads": 0, "likes": 0, "tags": []}
            return self.send_json(plain)
        if what == "tree":
            return self.send_json(self.tree(files, "/".join(rest[at + 2 :])))
        if what == "paths-info":
            asked = json.loads(self.body) if self.body[:1] == b"{" else parse_qs(self.body.decode())
            wanted = asked["paths"] if isinstance(asked["paths"], list) else [asked["paths"]]
            entries = self.tree(files, "", folders=True)
            return self.send_json([entry for entry in entries if entry["path"] in wanted])
        self.refuse(404, "EntryNotFound", what)

    def tree(self, files: dict[str, bytes], under: str, folders: bool = True) -> list[dict]:
        recursive = folders or "recursive" in self.path
        made = []
        names = {"/".join(name.split("/")[:i]) for name in files for i in range(1, name.count("/") + 1)}
        for folder in sorted(names):
            made.append({"type": "directory", "path": folder, "oid": oid(folder.encode())[:40], "size": 0})
        for name, content in files.items():
            entry = {"type": "file", "path": name, "oid": oid(content)[:40], "size": len(content)}
            if name.endswith(LARGE):
                entry["lfs"] = {"oid": oid(content), "size": len(content), "pointerSize": 130}
            made.append(entry)
        prefix = under + "/" if under else ""
        made = [entry for entry in made if entry["path"].startswith(prefix)]
        return made if recursive else [e for e in made if "/" not in e["path"][len(prefix) :]]

    def send_resolve(self, kind: str, name: str, revision: str, file: str) -> None:
        found = self.found(kind, name, revision)
        if found is None:
            return
        commit, files = found
        if self.server.repositories[f"{kind}/{name}"].gated:
            message = f"Access to {kind[:-1]} {name} is restricted"
            return self.refuse(401, "GatedRepo", message, {"X-Repo-Commit": commit})
        if file not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        content = files[file]
        if not file.endswith(LARGE):
            return self.send_file(file, content, commit)
        self.send_response(302)
        self.send_header("Location", f"{self.server.url}/storage/{kind}/{name}/{commit}/{file}")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Linked-Etag", f'"{oid(content)}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def server_file(self, parts: list[str]) -> tuple[bytes, str]:
        for name, repository in self.server.repositories.items():
            here = "/".join(parts[1:])
            if here.startswith(name + "/"):
                commit, _, file = here.removeprefix(name + "/").partition("/")
                return repository.commits[commit][file], commit
        raise KeyError(parts)

    def send_file(self, file: str, content: bytes, commit: str) -> None:
        name, start = file.split("/")[-1], 0
        wanted = self.headers.get("Range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), int(last) + 1 if last else len(content)
            whole, content = len(content), content[start:stop]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{whole}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{oid(content)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        time.sleep(self.server.slow.get(name, 0))
        if self.server.cut.get(name, 0) > 0:
            self.server.cut[name] -= 1
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
            return
        self.wfile.write(content)

    def send_json(self, plain) -> None:
        content = json.dumps(plain).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        content = json.dumps({"error": message}).encode()
        self.send_response(status)
        for name, value in {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
