"""A small model hub over HTTP: the endpoints that huggingface_hub needs, and faults on demand."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Hub:
    """One repository of a `kind`; `commits` map a commit id to its files, `branches` a name to a
    commit.

    Faults: `token` is demanded of every request; `gated` refuses files; `corrupt` names are served
    with a flipped byte; the answers for a file drop the connection after the bytes that `cut` lists
    for it, in turn; `status` is answered to everything.
    """

    repository: str
    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    token: str | None = None
    gated: bool = False
    corrupt: set[str] = field(default_factory=set)
    cut: dict[str, list[int]] = field(default_factory=dict)
    status: int | None = None
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    served: int = 0
    endpoint: str = ""
    kind: str = "model"


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        hub = self.hub
        path = unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("Range")))
        if hub.status:
            return self.refuse(hub.status, "", "no")
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.refuse(401, "RepoNotFound", "Repository not found")
        api = f"/api/{hub.kind}s/{hub.repository}"
        files = f"{'' if hub.kind == 'model' else '/datasets'}/{hub.repository}/resolve/"
        if path == api:
            return self.info("main")
        if path.startswith(f"{api}/revision/"):
            return self.info(path.removeprefix(f"{api}/revision/"))
        if path.startswith(f"{api}/tree/"):
            return self.tree(path.removeprefix(f"{api}/tree/"))
        if path.startswith(files):
            commit, _, name = path.removeprefix(files).partition("/")
            return self.file(commit, name, body)
        return self.refuse(404, "RepoNotFound", "Repository not found")

    def refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def info(self, revision: str) -> None:
        commit = self.hub.branches.get(revision, revision)
        if commit not in self.hub.commits:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = [
            {"rfilename": name, **_metadata(name, content)}
            for name, content in self.hub.commits[commit].items()
        ]
        return self.send_json({"id": self.hub.repository, "sha": commit, "siblings": siblings})

    def tree(self, commit: str) -> None:
        entries = []
        for name, content in self.hub.commits[commit].items():
            metadata = _metadata(name, content)
            if "lfs" in metadata:
                metadata["lfs"]["oid"] = metadata["lfs"].pop("sha256")
            entries.append(
                {"type": "file", "path": name, "oid": metadata.pop("blobId"), **metadata}
            )
        return self.send_json(entries)

    def send_json(self, value: Any) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def file(self, commit: str, name: str, body: bool) -> None:
        hub = self.hub
        if hub.gated:
            return self.refuse(403, "GatedRepo", "Access is restricted")
        content = hub.commits.get(commit, {}).get(name)
        if content is None:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        metadata = _metadata(name, content)
        etag = metadata["lfs"]["sha256"] if "lfs" in metadata else metadata["blobId"]
        if name in hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = 0
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self.send_body(name, content[start:])
        return None

    def send_body(self, name: str, content: bytes) -> None:
        hub = self.hub
        limit = len(content)
        if hub.cut.get(name):
            limit = min(limit, hub.cut[name].pop(0))
        self.wfile.write(content[:limit])
        hub.served += limit
        self.close_connection = limit < len(content)


def _metadata(name: str, content: bytes) -> dict[str, Any]:
    metadata: dict[str, Any] = {"size": len(content), "blobId": git_blob(content)}
    if name.endswith(".safetensors"):
        sha256 = hashlib.sha256(content).hexdigest()
        metadata["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return metadata
