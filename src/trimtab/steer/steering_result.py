"""What fitting a steering came to: a value that knows its settings and every number of its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from trimtab.errors import CheckpointError, explain
from trimtab.runs.atomic import write_atomic
from trimtab.runs.lines import read_json
from trimtab.runs.plain import to_json
from trimtab.steer.steering import Steering

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1
RESULT = Path("artifacts/result.json")
"""Where a finished run keeps its result; its steering is in the folder `steering` beside it."""


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
    """

    label: str
    steering: Steering
    curve: pd.DataFrame
    costs: pd.DataFrame
    samples: pd.DataFrame
    config: Mapping[str, Any]
    seconds: float

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
        folder = Path(folder)
        self.steering.save_pretrained(folder / RESULT.parent / "steering")
        frames = {name: _split(getattr(self, name)) for name in ("curve", "costs", "samples")}
        facts = {
            "schema": SCHEMA,
            "label": self.label,
            "config": self.config,
            "seconds": self.seconds,
            **frames,
        }
        write_atomic(folder / RESULT, to_json(facts, indent=1) + "\n")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> SteeringResult:
        """Read the result of a finished run.

        Raises:
            CheckpointError: there is none (yet), or another version of trimtab wrote it.
        """
        folder = Path(folder)
        if not (folder / RESULT).exists():
            raise CheckpointError(explain(f"no finished result in {folder}", "a finished run", "resuming it"))
        found = read_json(folder / RESULT)
        if found.get("schema") != SCHEMA:
            raise CheckpointError(explain(f"result schema {found.get('schema')}", f"schema {SCHEMA}"))
        frames = {name: _frame(found[name]) for name in ("curve", "costs", "samples")}
        steering = Steering.from_pretrained(folder / RESULT.parent / "steering")
        return cls(found["label"], steering, config=found["config"], seconds=found["seconds"], **frames)


def _split(frame: pd.DataFrame) -> dict[str, Any]:
    return {"columns": list(frame.columns), "rows": frame.to_numpy(dtype=object).tolist()}


def _frame(value: Mapping[str, Any]) -> pd.DataFrame:
    frame = pd.DataFrame(value["rows"], columns=value["columns"])
    for name in frame.columns:
        if name not in ("site", "prompt", "text"):
            frame[name] = pd.to_numeric(frame[name])
    return frame
