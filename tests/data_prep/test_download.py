"""Downloads against a server in a thread: cut connections, wrong bytes, missing files, the command line."""

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_prep import commands, timeseries
from data_prep.__main__ import main
from data_prep.files import LOCK, DownloadError, data_root, download, record
from data_prep.timeseries import Benchmark, fetch, local_file

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT; the first answer to /cut ends halfway, the first to /busy is 503, and /plain ignores ranges."""

    asked: list[tuple[str, str | None]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        first = self.path not in [path for path, _ in self.asked]
        self.asked.append((self.path, wanted))
        if self.path == "/none" or (self.path == "/busy" and first):
            self.send_error(404 if self.path == "/none" else 503)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.path != "/plain" else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : len(CONTENT) // 2 if self.path == "/cut" and first else None])

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[str]:
    Server.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as httpd:
        threading.Thread(target=httpd.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_a_whole_file_arrives(server: str, tmp_path: Path) -> None:
    path = download(f"{server}/whole", tmp_path / "deep" / "x.csv", SHA256)
    assert path.read_bytes() == CONTENT and [file.name for file in path.parent.iterdir()] == ["x.csv"]


def test_a_cut_connection_is_resumed(server: str, tmp_path: Path) -> None:
    assert download(f"{server}/cut", tmp_path / "x", SHA256, wait=0.01).read_bytes() == CONTENT
    assert Server.asked == [("/cut", None), ("/cut", f"bytes={len(CONTENT) // 2}-")]


def test_an_earlier_call_is_resumed(server: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="connection closed after 256000 of 512000 bytes; run the command again"):
        download(f"{server}/cut", tmp_path / "x", SHA256, retries=0)
    assert not (tmp_path / "x").exists() and (tmp_path / "x.part").stat().st_size == len(CONTENT) // 2
    assert download(f"{server}/cut", tmp_path / "x", SHA256).read_bytes() == CONTENT
    assert Server.asked[1][1] == f"bytes={len(CONTENT) // 2}-"


def test_a_server_without_ranges_starts_anew(server: str, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(b"half")
    assert download(f"{server}/plain", tmp_path / "x", SHA256).read_bytes() == CONTENT


def test_a_complete_part_is_only_checked(server: str, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(CONTENT)
    assert download(f"{server}/whole", tmp_path / "x", SHA256).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server: str, tmp_path: Path) -> None:
    assert download(f"{server}/busy", tmp_path / "x", SHA256, wait=0.01).read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing_behind(server: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"sha256 is {SHA256}, expected 00; .* try again"):
        download(f"{server}/whole", tmp_path / "x", "00")
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_asked_for_once(server: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="/none: HTTP 404"):
        download(f"{server}/none", tmp_path / "x", SHA256)
    assert len(Server.asked) == 1


def test_no_server_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="^http://127.0.0.1:9/x: .*refused") as caught:
        download("http://127.0.0.1:9/x", tmp_path / "x", SHA256, retries=1, wait=0.01)
    assert "\n" not in str(caught.value)


def test_without_a_published_checksum_the_first_download_is_what_counts(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = download(f"{server}/whole", tmp_path / "x", None)
    record(path, "x")
    assert not (tmp_path / LOCK).exists()  # nothing is recorded of a file that somebody else put there
    record(path, "x", "http://there")
    said = capsys.readouterr().out
    assert f"x: http://there publishes no checksum; sha256 {SHA256} is recorded in {tmp_path / LOCK}" in said
    for source in ("", "http://there"):
        record(path, "x", source)
    assert not capsys.readouterr().out and json.loads((tmp_path / LOCK).read_text()) == {"x": SHA256}
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=f"x: sha256 is .*, but .*{LOCK} recorded {SHA256} at the first download"):
        record(path, "x", "http://there")
    for content in ("{", "[]", '{"x": 5}'):
        (tmp_path / LOCK).write_text(content)
        with pytest.raises(ValueError, match=f"{LOCK}: .*; delete it, and download the files again"):
            record(path, "x")


@pytest.fixture
def benchmark(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(timeseries.BENCHMARKS, "Toy", Benchmark(f"{server}/whole", SHA256, 1))
    return "Toy"


def test_the_command_downloads_into_the_root(benchmark: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["timeseries", "--sets", benchmark, "--root", str(tmp_path)]) == 0
    assert (tmp_path / "timeseries" / "Toy.csv").read_bytes() == CONTENT
    assert "Toy.csv" in capsys.readouterr().out


def test_the_command_names_an_unknown_set(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["timeseries", "--sets", "ETTh9", "--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: unknown set 'ETTh9'; choose from ETTh1")


def test_a_local_file_is_not_downloaded_again(benchmark: str, tmp_path: Path) -> None:
    (tmp_path / "timeseries").mkdir()
    packed = tmp_path / "timeseries" / "Toy.csv.gz"
    packed.write_bytes(gzip.compress(CONTENT))
    assert fetch(benchmark, tmp_path) == local_file(benchmark, tmp_path) == packed
    packed.write_bytes(gzip.compress(CONTENT[:-1]))
    with pytest.raises(ValueError, match="Toy.csv.gz: sha256 .* delete it"):
        fetch(benchmark, tmp_path)
    assert Server.asked == []


def test_a_file_without_header_is_taken_and_named_where_the_csv_is_out_of_reach(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = gzip.compress(CONTENT)
    toy = Benchmark(
        f"{server}/none", SHA256, 1, "toy", bare_url="http://x/toy.txt.gz", bare_md5=md5(packed).hexdigest()
    )
    monkeypatch.setitem(timeseries.BENCHMARKS, "Toy", toy)
    with pytest.raises(DownloadError, match="/none: HTTP 404 .*; or put http://x/toy.txt.gz into .*timeseries$"):
        fetch("Toy", tmp_path)
    path = tmp_path / "timeseries" / "toy.txt.gz"
    path.write_bytes(packed)
    assert fetch("Toy", tmp_path) == path
    path.write_bytes(packed[:-1])
    with pytest.raises(ValueError, match="toy.txt.gz: md5 of the file is .* delete it"):
        fetch("Toy", tmp_path)


def test_a_damaged_gzip_is_named(benchmark: str, tmp_path: Path) -> None:
    packed = tmp_path / "timeseries" / "Toy.csv.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(CONTENT)[:-9])
    with pytest.raises(ValueError, match="Toy.csv.gz: truncated or damaged gzip .* download it again"):
        fetch(benchmark, tmp_path)


def test_the_root_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TITANS_DATA", "/elsewhere")
    assert data_root() == Path("/elsewhere")
    monkeypatch.delenv("TITANS_DATA")
    assert data_root() == Path("data")


def test_a_new_file_is_a_new_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source = '"""A set."""\ndef add_arguments(parser): ...\ndef run(options): print("fetched")\n'
    (tmp_path / "fourth.py").write_text(source)
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    assert main(["fourth"]) == 0 and capsys.readouterr().out == "fetched\n"
