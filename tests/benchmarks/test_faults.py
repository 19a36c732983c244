"""The script that kills trainings: a few kills, and whether it would see a fault."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import faults

ROOT = Path(__file__).parents[2]
TOY = (str(ROOT / "tests" / "app" / "toy.yaml"), "--data.samples=192", "--trainer.val_check_interval=5")
SCRIPT = "import sys; from benchmarks import faults; faults.TRAININGS = {'toy': %r}; sys.exit(faults.main())"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_is_lost_in_three_kills_and_a_fault_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    command = [sys.executable, "-c", SCRIPT % (TOY,), "--domains=toy", "--kills=3", f"--folder={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "app")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for told in (
        "damaged 0",
        "unequal 0",
        "lost 0",
        "kills in a step 1,",
        "kills in a save 1,",
        "unequal at the end 0",
    ):
        assert told in done.stdout

    monkeypatch.chdir(tmp_path / "toy")
    known, counts = json.loads(Path("steps.json").read_text()), Counter()
    before = faults.look("straight", known, {}, counts)
    assert before.keys() == {"best", "last"} and counts == Counter({"checkpoints read": 2})
    paths = faults.checkpoints("straight")
    paths["best"].rename("best.ckpt")
    content = bytearray(paths["last"].read_bytes())
    content[len(content) // 2] ^= 1
    paths["last"].write_bytes(content)
    faults.look("straight", known, before, counts)
    assert counts["damaged"] == 1 and counts["lost"] == 2 and "last.ckpt: damaged" in capsys.readouterr().out
    Path("best.ckpt").rename(paths["last"])
    step = faults.look("straight", known, {"last": 10**6}, counts)["last"]
    known["steps"][str(step)] = "another"
    faults.look("straight", known, {}, counts)
    assert counts["older than before"] == 1 and counts["unequal"] == 1
