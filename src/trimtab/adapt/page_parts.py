"""What the sections of a run's page and of a group's page share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.report.numbers import missing
from trimtab.report.page import Tone

if TYPE_CHECKING:
    from trimtab.adapt.result import FinetuneResult

COVERS = (
    "Intervals are 95 % over the choice of test records, paired with the base model on the same sequences; "
    "each run is one training seed, so they do not cover the seed."
)


def tone(kept: object) -> Tone:
    """The tone of whether something was kept; none where there is no answer."""
    return "" if missing(kept) else ("good" if kept else "bad")


def setting(result: FinetuneResult, *path: str) -> Any:
    """A value of the run's config; None where it has none."""
    value: Any = result.config
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def evenly(places: Sequence[int], most: int) -> list[int]:
    """At most so many of the places, at even distances, both ends among them.

    >>> evenly(range(10), 4), evenly(range(2), 4), evenly([], 4)
    ([0, 3, 6, 9], [0, 1], [])
    """
    chosen = np.linspace(0, len(places) - 1, min(len(places), most)).round().astype(int)
    return [places[number] for number in chosen.tolist()]
