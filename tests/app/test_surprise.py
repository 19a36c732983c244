"""The page of a memory: one file, which shows the text as it is and runs nothing of it."""

import html
import re
import shutil
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from toy import ToyHead

from app.errors import UserError
from app.module import TitansModule
from app.surprise import Passage, refuse_without_memory, write_page
from app.trace import traces
from memory import BackboneConfig, MemoryConfig, TitansBackbone

PIECES = ["</script>", "<b>", "&", "é", '"', " ", "DATA"]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
STRIDE = 20_000  # values of a series' token
POINT = "<script>document.querySelectorAll('{}')[{}].dispatchEvent(new Event('mouseover'))</script>"


@pytest.fixture
def page(tmp_path: Path, capsys: pytest.CaptureFixture) -> Path:
    """Of seven hostile tokens, and of two look-backs of more values than a call of JavaScript may have arguments."""
    model = TitansBackbone(BackboneConfig(dim=8, layers=2, memory=MemoryConfig(heads=2, chunk=4)))
    letters = Passage("<i>a</i>", PIECES, traces(model, torch.randn(1, len(PIECES), 8)))
    spans = [(STRIDE * i, STRIDE * (i + 1)) for i in range(8)]
    values = torch.randn(8 * STRIDE).tolist()
    series = Passage("b", ["x"] * 8, traces(model, torch.randn(2, 4, 8)), values, spans)
    path = tmp_path / "page.html"
    arguments = Namespace(ckpt=Path("best.ckpt"), input=Path("<u>.txt"), output=path)
    write_page(arguments, [letters, series], ["Left out: <s>nothing</s>."])
    assert capsys.readouterr().out == f"Left out: <s>nothing</s>.\npage: {path}\n"
    return path


def test_nothing_of_the_text_can_end_its_place_and_nothing_is_fetched(page: Path) -> None:
    text = page.read_text()
    assert text.count("</script>") == 2 and "<b>" not in text and "<i>" not in text and "<s>" not in text
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|src=|@import|url\(", text)


@pytest.mark.skipif(BROWSER is None, reason="no chromium here to open the page with")
def test_a_browser_shows_every_token_and_what_it_read_back(page: Path, tmp_path: Path) -> None:
    for marks, count in ((".letters span", len(PIECES)), ("rect", 8)):
        page.with_suffix(".1.html").write_text(page.read_text() + POINT.format(marks, count - 1))
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
        opened = [str(BROWSER), *options, "--dump-dom", page.with_suffix(".1.html").as_uri()]
        shown = subprocess.run(opened, capture_output=True, text=True, check=True, timeout=60).stdout
        drawn = shown[shown.index("<main") : shown.index("</main>")]
        assert html.unescape("".join(re.findall(r"<span[^>]*>(.*?)</span>", drawn))) == "".join(PIECES)
        assert drawn.count("<rect") == 8 and drawn.count("<polyline") == 13
        assert "&lt;i&gt;a&lt;/i&gt;: 7 tokens" in drawn and "<title>&lt;u&gt;.txt, as best.ckpt read it" in shown
        told = shown[shown.index('id="told"') :]
        assert f"token {count} " in told and told.count("cosine") >= 3
        assert drawn.count('class="found"') == 3 and drawn.count('class="chosen"') == 1


def test_a_model_without_memory_is_refused() -> None:
    module = TitansModule(ToyHead(8, 3), BackboneConfig("attention", 8, 1, heads=2))
    with pytest.raises(UserError, match="the model is attention, which has no memory"):
        refuse_without_memory(module)
