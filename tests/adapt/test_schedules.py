"""The paper's schedules, literally and scaled."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from trimtab.adapt.cost import Interval, intervals, update_steps


@pytest.mark.parametrize(
    ("schedule", "published"),
    [
        ("none", (0, 64, 128, 256, 512, 1024)),
        ("light", (0, 8, 16, 32, 64, 128, 256, 512, 1024)),
        ("dense", (0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)),
    ],
)
def test_the_published_updates_of_2048_steps(schedule: Any, published: tuple[int, ...]) -> None:
    assert update_steps(schedule, 2048) == published


def test_other_totals_scale_and_steps_that_round_together_are_one() -> None:
    assert update_steps("none", 4096) == (0, 128, 256, 512, 1024, 2048)
    assert update_steps("dense", 320) == (0, 1, 2, 5, 10, 20, 40, 80, 160)
    assert update_steps("light", 1) == (0,)
    assert update_steps("light", 2) == (0, 1)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [(5, (0, 5, 10)), (12, (0,)), (99, (0,)), ([], (0,)), ([3, 9, 3], (0, 3, 9)), ((0, 11, 12, 40), (0, 11))],
)
def test_gaps_and_steps_given(schedule: Any, expected: tuple[int, ...]) -> None:
    assert update_steps(schedule, 12) == expected


@pytest.mark.parametrize("schedule", ["none", "light", "dense", 7, [2, 31]])
@pytest.mark.parametrize("steps", [1, 2, 40, 320, 2048])
def test_intervals_tile_the_run(schedule: Any, steps: int) -> None:
    spans = intervals(schedule, steps, None)
    assert spans[0].start == 0
    assert spans[-1].start + spans[-1].horizon == steps
    assert all(a.start + a.horizon == b.start for a, b in itertools.pairwise(spans))
    assert all(1 <= span.probe_steps <= span.horizon for span in spans)


def test_probes_last_as_long_as_the_interval_up_to_a_cap() -> None:
    assert [span.probe_steps for span in intervals("none", 2048, None)] == [64, 64, 128, 128, 128, 128]
    assert [span.probe_steps for span in intervals("none", 2048, 100)] == [64, 64, 100, 100, 100, 100]
    assert [span.probe_steps for span in intervals("none", 512, None)] == [16, 16, 32, 32, 32, 32]
    assert intervals(4, 6, 1) == [Interval(0, 4, 1), Interval(4, 2, 1)]
    assert intervals("light", 3, None)[0].probe_steps == 1
