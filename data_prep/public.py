"""Where the corpora and tokenizers that have names come from, with checksums, and how they come to their places."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from app.reading import reading
from data_prep import source_code
from data_prep.corpora import NAMED, kind
from data_prep.files import DownloadError, data_root, download, record

TIKTOKEN = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
MISTRAL = "https://raw.githubusercontent.com/mistralai/mistral-common/main"
WIKITEXT = "https://wikitext.smerity.com"


@dataclass(frozen=True)
class PublicFile:
    """A file on a public server.

    Args:
        url: its address.
        path: where it lies below text/ of the data folder; of a zip, one of the files in it.
        sha256: its checksum; empty where it is recorded at the first download.
        md5: the checksum that the publishers of a zip give; empty for other files.
    """

    url: str
    path: str
    sha256: str = ""
    md5: str = ""


FILES = {
    "shakespeare": (
        PublicFile(
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            "tinyshakespeare/input.txt",
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    ),
    "wikitext-2": (
        PublicFile(
            f"{WIKITEXT}/wikitext-2-v1.zip", "wikitext-2/wiki.train.tokens", md5="542ccefacc6c27f945fb54453812b3cd"
        ),
    ),
    "wikitext-103": (
        PublicFile(
            f"{WIKITEXT}/wikitext-103-v1.zip", "wikitext-103/wiki.train.tokens", md5="9ddaacaf6af0710eda8c456decff7832"
        ),
    ),
    "gpt2": (
        PublicFile(
            f"{TIKTOKEN}/encoder.json",
            "tokenizers/gpt2/encoder.json",
            "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        ),
        PublicFile(
            f"{TIKTOKEN}/vocab.bpe",
            "tokenizers/gpt2/vocab.bpe",
            "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        ),
    ),
    "neox": (
        PublicFile(
            "https://huggingface.co/EleutherAI/gpt-neox-20b/resolve/main/tokenizer.json",
            "tokenizers/neox/20B_tokenizer.json",
        ),
    ),
    "mistral": (
        PublicFile(
            f"{MISTRAL}/src/mistral_common/data/tokenizer.model.v1",
            "tokenizers/mistral_v1/tokenizer.model",
            "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
        ),
    ),
}
NOWHERE = ("books", "novels")


def fetch(name: str, root: Path | None = None) -> None:
    """Download, or gather, what a name stands for and is not there; other names are left alone.

    Raises:
        DownloadError: it could not be fetched, or has no address; says which file to put where.
        FileNotFoundError: a package that belongs into it is not installed.
        ValueError: what came is not it.
    """
    folder = (root or data_root()) / "text"
    for place in (folder / part for part in NAMED.get(name, ()) if name in NOWHERE):
        if not any(place.glob("*")):
            raise DownloadError(
                f"{name}: no server has this selection: put jsonl files with a field `text`, named train*, valid* and "
                f"test*, into {place}"
            )
    if name == "code" and not any(kind(file) for file in (folder / name).glob("*")):
        source_code.write(folder / name)
    for file in FILES.get(name, ()):
        target = folder / file.path
        if any(target.parent.glob("*.tokens*" if file.md5 else target.name + "*")):
            continue
        try:
            if file.md5:
                _unzip(download(file.url, target.with_name(Path(file.url).name), None, retries=1), file.md5)
            else:
                download(file.url, target, file.sha256 or None, retries=1)
        except DownloadError as error:
            unpacked = f"what is in {file.url} into {target.parent}" if file.md5 else f"{file.url} there as {target}"
            raise DownloadError(f"{error}; or put {unpacked}") from error
        if not (file.sha256 or file.md5):
            record(target, target.name, file.url)


def _unzip(path: Path, md5: str) -> None:
    """Take the files out of a zip whose checksum holds, and the zip away."""
    actual = hashlib.md5(path.read_bytes()).hexdigest()
    if actual != md5:
        path.unlink()
        raise DownloadError(f"{path.name}: md5 is {actual}, expected {md5}; the file was altered or cut, try again")
    with reading(path, "a zip", "delete it and run the command again"), zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.endswith(".tokens"):
                part = path.with_name(Path(member).name + ".part")
                part.write_bytes(archive.read(member))
                part.replace(path.with_name(Path(member).name))
    path.unlink()
