"""What has a name is fetched once, or its command says where to get it."""

import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep import public
from data_prep.corpora import find
from data_prep.files import LOCK, DownloadError


def test_what_has_a_name_is_fetched_or_told_how(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for part in ("train", "valid", "test"):
            archive.writestr(f"wikitext-2/wiki.{part}.tokens", " \n = A = \n")

    def served(url: str, path: Path, sha256: str | None, retries: int) -> Path:
        asked.append((url, sha256))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed.getvalue())
        return path

    monkeypatch.setattr(public, "download", served)
    text = root / "data" / "text"
    for name in ("shakespeare", "gpt2", "neox", "mistral"):
        public.fetch(name)
        assert all((text / file.path).is_file() for file in public.FILES[name])
    assert [url for url, sha256 in asked if sha256 is None] == [public.FILES["neox"][0].url]
    assert (text / "tokenizers/neox" / LOCK).is_file()
    with pytest.raises(DownloadError, match="wikitext-2-v1.zip: md5 is .*, expected 542cc.* or put what is in http"):
        public.fetch("wikitext-2")
    whole = replace(public.FILES["wikitext-2"][0], md5=hashlib.md5(packed.getvalue()).hexdigest())
    monkeypatch.setitem(public.FILES, "wikitext-2", (whole,))
    public.fetch("wikitext-2")
    assert {part: len(files) for part, files in find("wikitext-2").items()} == {"train": 1, "val": 1, "test": 1}
    assert not [*text.rglob("*.zip"), *text.rglob("*.part")]
    known = len(asked)
    for name in public.FILES:
        if name != "wikitext-103":
            public.fetch(name)
    assert len(asked) == known  # a file that is there is not downloaded again
    with pytest.raises(DownloadError, match=f"books: no server has this selection: .* into {text}/books"):
        public.fetch("books")
