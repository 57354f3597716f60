"""Test downloads from a local server: complete, interrupted, resumed and refused."""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import requests
from filelock import FileLock

from sabtune import cli
from sabtune.data import catalogue, place
from sabtune.data.catalogue import DATA_SETS, DataSet, File
from sabtune.data.fetch import CHUNK_BYTES, fetch, state
from sabtune.errors import ConfigError, DataError

CONTENT = bytes(range(256)) * 2000


class Server(BaseHTTPRequestHandler):
    """A server of `files` that can break off.

    It honors Range if `ranges`, and breaks off after `cut` bytes the first `cuts` times.
    """

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str | None]] = []
    ranges = True
    cuts = 0
    cut = 2 * CHUNK_BYTES
    declared: ClassVar[bool | int] = True  # whether it sends Content-Length, or a false value
    redirect = ""
    sent = 0

    def do_GET(self) -> None:
        kind = type(self)
        kind.asked.append(self.headers["Range"])
        if kind.redirect and not self.path.endswith("?again"):
            self.send_response(302)
            self.send_header("Location", kind.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = kind.files.get(self.path.removeprefix("/").partition("?")[0])
        if content is None:
            self.send_error(404)
            return
        start = int(self.headers["Range"][6:-1]) if kind.ranges and self.headers["Range"] else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if kind.declared:
            size = len(content) - start if kind.declared is True else kind.declared
            self.send_header("Content-Length", str(size))
        self.end_headers()
        if kind.declared is not True:
            self.pour(content)
            return
        if kind.cuts:
            kind.cuts -= 1
            self.wfile.write(content[start : start + kind.cut])
            self.close_connection = True
            return
        self.wfile.write(content[start:])

    def pour(self, content: bytes) -> None:
        """Repeat the content until the client closes the connection or 64 MiB are sent."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            while type(self).sent < 1 << 26:
                self.wfile.write(content)
                type(self).sent += len(content)

    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    """Yield a server with one file, which is the data set "tiny"."""

    class Fresh(Server):
        files: ClassVar[dict[str, bytes]] = {"tiny.bin": CONTENT}
        asked: ClassVar[list[str | None]] = []

    running = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{running.server_port}/"
    monkeypatch.setitem(DATA_SETS, "tiny", tiny(url + "tiny.bin"))
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    yield Fresh
    running.shutdown()
    thread.join()
    running.server_close()


def tiny(*urls: str) -> DataSet:
    digest = hashlib.sha256(CONTENT).hexdigest()
    file = File(name="tiny.bin", urls=urls, sha256=digest, size=len(CONTENT))
    return DataSet(title="Tiny", about="a test's", task="none", files=(file,))


class Seen(list[tuple[str, int, int]]):
    """A progress callback that records its calls."""

    def __call__(self, *told: object) -> None:
        self.append(told)  # type: ignore[arg-type]


def test_a_file_is_downloaded_once(server: type[Server], tmp_path: Path) -> None:
    seen = Seen()
    (path,) = fetch("tiny", tmp_path, seen)
    assert path == tmp_path / "tiny" / "tiny.bin"
    assert path.read_bytes() == CONTENT
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1] == ("tiny.bin", len(CONTENT), len(CONTENT))
    fetch("tiny", tmp_path, seen)
    assert server.asked == [None]
    assert {p.name for p in path.parent.iterdir()} == {"tiny.bin", ".lock"}


def test_an_interrupted_download_resumes(server: type[Server], tmp_path: Path) -> None:
    server.cuts = 2
    (path,) = fetch("tiny", tmp_path, Seen())
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={2 * CHUNK_BYTES}-", f"bytes={4 * CHUNK_BYTES}-"]


def test_a_partial_download_of_an_earlier_run_resumes(server: type[Server], tmp_path: Path) -> None:
    server.cuts, server.cut = 3, CHUNK_BYTES
    with pytest.raises(DataError, match=r"tiny\.bin can't be downloaded") as raised:
        fetch("tiny", tmp_path, Seen())
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("or import a copy with `sabtune data add tiny PATH`")
    seen = Seen()
    (path,) = fetch("tiny", tmp_path, seen)
    assert path.read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={3 * CHUNK_BYTES}-"
    assert min(done for _, done, _ in seen) > 3 * CHUNK_BYTES


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more", b"another file's"])
def test_an_invalid_partial_download_is_replaced(
    server: type[Server], tmp_path: Path, part: bytes
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "tiny.bin.part").write_bytes(part)
    (path,) = fetch("tiny", tmp_path, Seen())
    assert path.read_bytes() == CONTENT
    assert not (tmp_path / "tiny" / "tiny.bin.part").exists()


def test_a_server_without_ranges_restarts_the_download(
    server: type[Server], tmp_path: Path
) -> None:
    server.cuts, server.ranges = 1, False
    (path,) = fetch("tiny", tmp_path, Seen())
    assert path.read_bytes() == CONTENT


def test_wrong_content_is_not_kept(server: type[Server], tmp_path: Path) -> None:
    server.files["tiny.bin"] = CONTENT[:-1] + b"!"
    with pytest.raises(DataError, match=r"tiny\.bin can't be downloaded .*hash"):
        fetch("tiny", tmp_path, Seen())
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == {".lock"}


@pytest.mark.parametrize("declared", [False, len(CONTENT) + 1, 10**18])
def test_a_download_stops_at_the_size_of_the_file(
    server: type[Server], tmp_path: Path, declared: bool | int
) -> None:
    server.declared = declared
    with pytest.raises(DataError, match=r"more than the 512,000 bytes that the file has"):
        fetch("tiny", tmp_path, Seen())
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == {".lock"}
    assert server.sent < 1 << 26


def test_only_http_redirects_are_followed(
    server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (url,) = DATA_SETS["tiny"].files[0].urls
    for target, told in (
        ("file:///etc/passwd", r"redirects to file:///etc/passwd, which is no http or https"),
        ("ftp://127.0.0.1/x", r"redirects to ftp://127.0.0.1/x"),
        ("tiny.bin", r"more than 5 redirects"),
    ):
        server.redirect = target
        with pytest.raises(DataError, match=told):
            fetch("tiny", tmp_path, Seen())
    server.redirect = "/tiny.bin?again"
    (path,) = fetch("tiny", tmp_path, Seen())
    assert path.read_bytes() == CONTENT
    asked = []

    def get(url: str, **options: object) -> requests.Response:
        asked.append(url)
        answer = requests.Response()
        answer.status_code, answer.headers["Location"] = 302, "http://example.org/tiny.bin"
        answer.raw = io.BytesIO()
        return answer

    monkeypatch.setattr(requests, "get", get)
    path.unlink()
    monkeypatch.setitem(DATA_SETS, "tiny", tiny(url.replace("http:", "https:")))
    with pytest.raises(DataError, match=r"redirects to http://example\.org/tiny\.bin, which"):
        fetch("tiny", tmp_path, Seen())
    assert all(url.startswith("https:") for url in asked)


def test_a_damaged_file_is_fetched_again(server: type[Server], tmp_path: Path) -> None:
    path, file = tmp_path / "tiny" / "tiny.bin", DATA_SETS["tiny"].files[0]
    assert state(path, file) == "missing"
    path.parent.mkdir()
    path.write_bytes(CONTENT[:1000])
    assert state(path, file) == "damaged"
    fetch("tiny", tmp_path, Seen())
    assert state(path, file) == "there"


def test_the_next_url_is_tried(
    server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (good,) = DATA_SETS["tiny"].files[0].urls
    monkeypatch.setitem(DATA_SETS, "tiny", tiny(good.replace("tiny.bin", "gone.bin"), good))
    (path,) = fetch("tiny", tmp_path, Seen())
    assert path.read_bytes() == CONTENT


def test_two_downloads_of_a_data_set_do_not_overlap(server: type[Server], tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    with (
        FileLock(tmp_path / "tiny" / ".lock"),
        pytest.raises(DataError, match="is being fetched already"),
    ):
        fetch("tiny", tmp_path, Seen())


def test_a_folder_that_cannot_be_written_is_named(server: type[Server]) -> None:
    with pytest.raises(DataError, match=r"/proc/data/tiny can't be written"):
        fetch("tiny", Path("/proc/data"), Seen())


def test_an_unknown_data_set_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="the data set is 'minst': give one of mnist, fashion-mnist"
    ):
        fetch("minst", tmp_path, Seen())


def test_the_data_commands(
    server: type[Server],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv(place.VARIABLE, "elsewhere")

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["sabtune", "data", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            sys.exit(cli.run())
        shown = capsys.readouterr()
        assert stopped.value.code == (2 if shown.err else 0)
        return shown.out + shown.err

    def row(name: str) -> list[str]:
        lines = run("list", "--data-dir", tmp_path).splitlines()
        (line,) = (line for line in lines if line.startswith(f"│ {name}"))
        return [cell.strip() for cell in line.strip("│").split("│")]

    assert row("tiny")[-1] == "no"
    told = run("fetch", "tiny", "--data-dir", tmp_path)
    assert told.split() == f"tiny: 1 file, complete, in {tmp_path / 'tiny'}".split()
    assert row("tiny")[-1] == "yes"
    (tmp_path / "tiny" / "tiny.bin").write_bytes(b"")
    assert row("tiny")[-1] == "damaged: fetch it again"
    assert row("cifar10") == [
        "cifar10",
        f"CIFAR-10, {DATA_SETS['cifar10'].about}",
        "pixels",
        "170",
        "no",
    ]
    server.files.clear()
    told = run("fetch", "tiny", "--data-dir", tmp_path)
    assert told.startswith("sabtune: tiny.bin can't be downloaded")
    assert told.count("\n") == 1


def test_the_catalogue_names_the_files_that_readers_open() -> None:
    names = {name: [file.name for file in known.files] for name, known in DATA_SETS.items()}
    assert names["cifar10"] == ["cifar-10-binary.tar.gz"]
    assert names["mnist"] == names["fashion-mnist"]
    assert set(names["mnist"]) == {
        f"{part}-{kind}-ubyte.gz"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    }
    for known in DATA_SETS.values():
        for file in known.files:
            assert len(bytes.fromhex(file.sha256)) == 32
            assert file.content is None or len(bytes.fromhex(file.content)) == 32
            assert all(url.startswith("https://") for url in file.urls)
            assert all(url.endswith(file.name) for url in file.urls)
    assert catalogue.DATA_SETS is DATA_SETS
