"""The script that kills trainings: a few kills, and whether it would see a fault."""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import faults
from tests.processes import forking

TOYS = Path(__file__).parents[1] / "app"
TOY = (str(TOYS / "toy.yaml"), "--data.samples=192", "--trainer.val_check_interval=5")


def _kill_toys(folder: Path) -> None:
    """In a new process, as it forks: the script on toys."""
    sys.path.append(str(TOYS))
    with (folder / "script.log").open("w", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        faults.TRAININGS = {"toy": TOY}
        code = faults.main(["--domains=toy", "--kills=3", f"--folder={folder}"])
        log.flush()
        os._exit(code)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_is_lost_in_three_kills_and_a_fault_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    script = forking().Process(target=_kill_toys, args=(tmp_path,))
    script.start()
    script.join(250)
    script.kill()
    told_all = (tmp_path / "script.log").read_text()
    assert script.exitcode == 0, told_all
    for told in (
        "damaged 0",
        "unequal 0",
        "lost 0",
        "kills in a step 1,",
        "kills in a save 1,",
        "unequal at the end 0",
    ):
        assert told in told_all

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
