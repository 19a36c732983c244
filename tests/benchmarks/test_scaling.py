"""What is made of measured speeds."""

from pathlib import Path

import pytest

from benchmarks.scaling import ALONE, Speed, draw, rows_of

SPEEDS = [
    Speed(ALONE, 1, [90.0, 100.0, 101.0], 2.0, 10**8),
    Speed("ddp", 2, [190.0], 2.5, 10**8),
    Speed("ddp", 4, [340.0], 2.5, 10**8),
    Speed("fsdp", 2, [150.0], 1.5, 10**8),
]


@pytest.mark.parametrize("bounded", [True, False])
def test_speed_is_compared_with_that_of_as_many_single_devices(bounded: bool) -> None:
    rows = {row.metric: row for row in rows_of(SPEEDS, "a GPU", "a command", bounded)}
    shares = {name: row.value for name, row in rows.items() if name.endswith("weak scaling")}
    assert shares == {
        "ddp, 2 devices: weak scaling": 0.95,
        "ddp, 4 devices: weak scaling": 0.85,
        "fsdp, 2 devices: weak scaling": 0.75,
    }
    missed = [name for name, row in rows.items() if row.misses()]
    assert missed == (["ddp, 4 devices: weak scaling", "fsdp, 2 devices: weak scaling"] if bounded else [])
    assert rows["alone, 1 device: speed"].value == 100 and rows["alone, 1 device: speed"].spread > 0


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    draw(SPEEDS, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
