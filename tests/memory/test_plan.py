"""How kernels share a call: its segments, and the rounds of programs on the multiprocessors of a GPU."""

import math

import pytest

plan = pytest.importorskip("memory.ops.triton.plan")


@pytest.mark.parametrize("ramp", [False, True])
@pytest.mark.parametrize(("time", "size"), [(1, 4), (64, 4), (640, 4), (657, 12), (16 * 511 + 1, 40)])
def test_segments_cover_every_chunk_once(time: int, size: int, ramp: bool) -> None:
    segments = plan.Segments(size, ramp).cut(time, 16)
    assert len(segments) == plan.Segments(size, ramp).count(time, 16)
    assert [c for first, chunks in segments for c in range(first, first + chunks)] == list(range(math.ceil(time / 16)))
    assert all(chunks <= size for _, chunks in segments)


@pytest.mark.parametrize(
    ("programs", "idle"), [(16, 116 / 132), (128, 4 / 132), (132, 0), (192, 72 / 264), (256, 8 / 264)]
)
def test_the_last_round_of_programs_leaves_places_empty(programs: int, idle: float) -> None:
    assert plan.idle_share(programs, 132) == pytest.approx(idle)
