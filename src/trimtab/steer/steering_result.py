"""What fitting a steering came to: a value that knows its settings and every number of its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from trimtab.errors import CheckpointError, explain
from trimtab.runs.atomic import write_atomic
from trimtab.runs.result_file import RESULT, read_result, write_result
from trimtab.steer.steering import Steering

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1
STEERING = RESULT.parent / "steering"
"""Where a finished run keeps its steering."""
_KEPT = ("label", "config", "seconds", "curve", "costs", "samples", "read")
_OPTIONAL = ("read",)


@dataclass(frozen=True)
class SteeringResult:
    """The outcome of a steering job.

    Attributes:
        label: a short name of the run, its estimator's unless told otherwise.
        steering: what was fitted.
        curve: effect and side effect by strength on held-out texts, see `trimtab.steer.curve`.
        costs: columns site, before, after: 1-D transport cost to the target samples, mean over units, each in units of
            the target's variance there; held-out samples.
        samples: columns prompt, strength, text: what the model writes.
        config: everything needed to do the run again.
        seconds: of the fit.
        read: one row per side: what was read, used and left out, see `trimtab.steer.steering_job.reading_table`; empty
            for a run of an earlier version.
    """

    label: str
    steering: Steering
    curve: pd.DataFrame
    costs: pd.DataFrame
    samples: pd.DataFrame
    config: Mapping[str, Any]
    seconds: float
    read: pd.DataFrame = field(default_factory=pd.DataFrame)

    def to_frame(self) -> pd.DataFrame:
        """The strength curve."""
        return self.curve.copy()

    def figure(self) -> Figure:
        """Lean by strength."""
        from trimtab.steer.steering_figures import curve_figures

        return curve_figures(self)[0]

    def report(self, path: str | Path) -> Path:
        """Write the report page (one self-contained HTML file) and return its path."""
        from trimtab.steer.steering_page import page

        write_atomic(Path(path), page([self], title=self.label))
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write the steering and the numbers into a run's folder."""
        self.steering.save_pretrained(Path(folder) / STEERING)
        return write_result(folder, SCHEMA, {name: getattr(self, name) for name in _KEPT}, indent=1)

    @classmethod
    def load(cls, folder: str | Path) -> SteeringResult:
        """Read the result of a finished run.

        Raises:
            CheckpointError: there is none (yet), another version of trimtab wrote it, or a part of it is missing.
        """
        found = read_result(folder, SCHEMA)
        for name in _KEPT:
            if name not in found and name not in _OPTIONAL:
                raise CheckpointError(
                    f"{Path(folder) / RESULT}: {explain(f'no {name!r}', 'the result of a steering')}"
                )
        known = {name: found[name] for name in _KEPT if name in found}
        return cls(steering=Steering.from_pretrained(Path(folder) / STEERING), **known)
