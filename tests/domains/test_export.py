"""A model of any domain is written as safetensors and JSON, and answers the same when it is read from these."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("safetensors", reason="safetensors is not installed: pip install -e '.[hf]'")

from app.door import main
from app.export import load
from app.reading import Unreadable

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"),
    *("--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.limit_val_batches=0"),
    *("--trainer.max_steps=1", "--trainer.max_epochs=-1", "--trainer.log_every_n_steps=1", "--model.backbone.dim=16"),
]
TRAININGS = {
    "timeseries": ("timeseries_ett", "--data.source=sample", "--data.look_back=24", "--data.horizon=12"),
    "genomics": ("genomics_sample", "--data.floors=false", "--data.batch_size=8", "--data.max_length=60"),
}


@pytest.mark.parametrize("domain", TRAININGS)
def test_a_model_answers_the_same_after_it_was_exported(
    domain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TITANS_DATA", str(tmp_path))
    config, *options = TRAININGS[domain]
    cli = main(["fit", "--config", str(ROOT / "conf" / f"{config}.yaml"), *SMALL, *options])
    cli.trainer.save_checkpoint("x.ckpt")
    main(["export", "x.ckpt", "out"])
    with pytest.raises(SystemExit, match="2"):
        main(["export", "x.ckpt", "x.ckpt"])
    assert "error: x.ckpt: no folder can be made there (File exists); name another" in capsys.readouterr().err
    assert {path.name for path in Path("out").iterdir()} == {"config.json", "model.safetensors"}
    batch = next(iter(cli.datamodule.train_dataloader()))
    trained = cli.model.cpu().eval()
    exported = load("out").cpu()
    assert type(exported.head) is type(trained.head)
    with torch.no_grad():
        torch.testing.assert_close(exported(batch), trained(batch), rtol=0, atol=1e-5)
    extra = {name: value for name, value in trained.state_dict().items() if "_extra_state" in name}
    assert extra and {name: exported.state_dict()[name] for name in extra} == extra
    if domain == "genomics":
        (snippet,) = re.findall(
            r"```python\n(import json\n.*?)```", (ROOT / "docs" / "usage.md").read_text(), re.DOTALL
        )
        names: dict[str, Any] = {}
        exec(snippet.replace('"exported/', '"out/'), names)
        ours = exported.backbone.state_dict()
        theirs = names["backbone"].state_dict()
        assert ours.keys() == theirs.keys() and all(map(torch.equal, ours.values(), theirs.values()))

    config = json.loads(Path("out/config.json").read_text())
    Path("out/config.json").write_text(json.dumps(config | {"extra_state": {}}))
    with pytest.raises(Unreadable, match="out: .*_extra_state"):
        load("out")
    Path("out/model.safetensors").write_bytes(b"12345678")
    with pytest.raises(Unreadable, match="out: not an exported model"):
        load("out")
