"""A file of the web arrives whole and as published, or not at all; what was fetched is kept."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flagdeploy.errors import EvalError
from flagdeploy.evals import download

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Site:
    """Files by path; answers are cut after the bytes of `cuts`, in turn; `status` of `statuses`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"/f": CONTENT}
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.ranges: list[str | None] = []
        self.knows_ranges = True
        self.url = ""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.0)
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.ranges.append(wanted)
            content = site.files.get(self.path)
            status = site.statuses.pop(0) if site.statuses else 200 if content is not None else 404
            start = int(wanted[6:-1]) if wanted and site.knows_ranges else 0
            content = (content or b"")[start:]
            if status == 200 and start:
                status = 206 if content else 416
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if status < 300:
                limit = site.cuts.pop(0) if site.cuts else len(content)
                self.wfile.write(content[:limit])
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def fetched(site: Site, tmp_path: Path, known: str = SHA256) -> list[tuple[int, int | None]]:
    seen: list[tuple[int, int | None]] = []
    path = tmp_path / "deep" / "f"
    found = download.fetch(f"{site.url}/f", path, known, lambda *step: seen.append(step))
    assert found == SHA256
    assert path.read_bytes() == CONTENT
    assert [one.name for one in path.parent.iterdir()] == ["f"]
    return seen


@pytest.mark.parametrize("known", [SHA256, MD5])
def test_a_file_is_fetched_once(site: Site, tmp_path: Path, known: str) -> None:
    assert fetched(site, tmp_path, known) == [(len(CONTENT), len(CONTENT))]
    assert fetched(site, tmp_path, known) == []
    assert len(site.ranges) == 1


def test_lost_connections_and_busy_servers(site: Site, tmp_path: Path) -> None:
    site.cuts, site.statuses = [4000, 1], [200, 200, 503]
    assert fetched(site, tmp_path)[-1] == (len(CONTENT), len(CONTENT))
    assert site.ranges == [None, "bytes=4000-", "bytes=4001-", "bytes=4001-"]


def test_a_server_without_ranges_sends_it_again(site: Site, tmp_path: Path) -> None:
    site.cuts, site.knows_ranges = [4000], False
    fetched(site, tmp_path)


def test_a_part_that_is_whole_needs_no_byte(site: Site, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "f.part").write_bytes(CONTENT)
    fetched(site, tmp_path)
    assert site.ranges == [f"bytes={len(CONTENT)}-"]


def test_another_file_is_refused_and_removed(site: Site, tmp_path: Path) -> None:
    site.files["/f"] = CONTENT[:-1] + b"!"
    with pytest.raises(EvalError, match="is not the file that was published: its hash is"):
        fetched(site, tmp_path)
    assert list((tmp_path / "deep").iterdir()) == []
    site.files["/f"] = CONTENT
    fetched(site, tmp_path)


@pytest.mark.parametrize(
    ("statuses", "message", "hint"),
    [
        ([404], "the server answers HTTP 404", "it may have moved"),
        ([403], "the server answers HTTP 403", "it asks for a login"),
        ([503] * 6, "cannot be fetched: HTTP 503", "what was fetched is kept"),
    ],
)
def test_what_cannot_be_had(
    site: Site, tmp_path: Path, statuses: list[int], message: str, hint: str
) -> None:
    site.statuses = statuses
    with pytest.raises(EvalError) as caught:
        download.fetch(f"{site.url}/f", tmp_path / "f", SHA256, lambda *_: None)
    assert str(caught.value) == f"{site.url}/f: {message}"
    assert hint in str(caught.value.hint)
