"""Where data lies on disk, and how a file is fetched into it."""

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from app.reading import reading

LOCK = "checksums.json"  # names of the files beside it and their checksums
CHUNK = 1 << 16  # bytes per read
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP answers worth another try


class DownloadError(OSError):
    """A file could not be fetched; the message names the address and the reason."""


def data_root() -> Path:
    """Folder that holds every data set: the environment variable TITANS_DATA, else `data`."""
    return Path(os.environ.get("TITANS_DATA") or "data")


def download(
    url: str, path: Path, sha256: str | None, retries: int = 4, wait: float = 1.0, timeout: float = 20.0
) -> Path:
    """Fetch `url` to `path`, going on from `path.part` where an earlier call was cut.

    The file appears under its name only when its checksum holds, so a reader never sees half of it.

    Args:
        url: http(s) address.
        path: where the file shall lie; its folder is made.
        sha256: checksum of the bytes as served; None where none is published: then see `record`.
        retries: further tries after a cut or a passing server error.
        wait: seconds before the second try; doubled before each next one.
        timeout: seconds without an answer after which a try counts as cut.

    Raises:
        DownloadError: the address is unknown to the server, the network fails to the last try, or the checksum differs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    for attempt in range(retries + 1):
        try:
            _fetch(url, part, timeout)
            break
        except urllib.error.HTTPError as err:
            if err.code not in PASSING or attempt == retries:
                raise DownloadError(f"{url}: HTTP {err.code} {err.reason}") from err
        except (OSError, http.client.HTTPException) as err:
            if attempt == retries:
                reason = getattr(err, "reason", err)  # urllib wraps the error that happened
                raise DownloadError(f"{url}: {reason}; run the command again to go on where it stopped") from err
        time.sleep(wait * 2**attempt)
    if sha256 is not None and (actual := hashlib.sha256(part.read_bytes()).hexdigest()) != sha256:
        part.unlink()  # a download that goes on from wrong bytes could never succeed
        raise DownloadError(f"{url}: sha256 is {actual}, expected {sha256}; the file was altered or cut, try again")
    os.replace(part, path)
    return path


def record(path: Path, name: str, source: str = "") -> None:
    """Compare a file with the checksum that LOCK beside it has under its name.

    Where no checksum is published, the first download's is all there is to compare with: it is recorded and said.

    Args:
        path: the file.
        name: what it is or will be called.
        source: where it was just downloaded from; empty records nothing.

    Raises:
        ValueError: it is another file than the one that was recorded, or the record cannot be read.
    """
    lock = path.with_name(LOCK)
    known = {}
    if lock.is_file():
        with reading(lock, "a record of checksums", "delete it, and download the files again") as at:
            known = json.loads(lock.read_bytes())
            if not isinstance(known, dict) or not all(isinstance(value, str) for value in known.values()):
                raise at.error("not a checksum for each file")
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if known.get(name, actual) != actual:
        raise ValueError(
            f"{path}: sha256 is {actual}, but {lock} recorded {known[name]} at the first download; it was altered or "
            "cut: download it again, or delete its line there if it is meant"
        )
    if source and name not in known:
        part = lock.with_name(lock.name + ".part")
        part.write_text(json.dumps({**known, name: actual}, indent=2) + "\n")
        os.replace(part, lock)
        print(f"{name}: {source} publishes no checksum; sha256 {actual} is recorded in {lock} and holds from now on")


def _fetch(url: str, part: Path, timeout: float) -> None:
    """Append to `part` what it lacks of `url`; an early end of the stream raises OSError."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as err:
        if err.code == 416 and have:  # nothing is left to send: the checksum decides
            return
        raise
    with response, _progress() as progress:
        if response.status != 206:  # the server sends the whole file whatever was asked
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        task = progress.add_task(part.name.removesuffix(".part"), total=total, completed=have)
        with part.open("ab" if have else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                progress.update(task, advance=len(chunk))
            size = file.tell()
    if total is not None and size < total:
        raise OSError(f"connection closed after {size} of {total} bytes")


def _progress() -> Progress:
    bar = BarColumn(bar_width=30)
    return Progress(
        TextColumn("{task.description}"), bar, DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    )
