"""What asking for the laws of forgetting came to: the runs, the laws where they can be told, the page's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trimtab.adapt.forgetting import FinetuningLaw, ForgettingLaw
from trimtab.adapt.law_compare import compare_forms
from trimtab.adapt.law_effects import (
    beside_none,
    forgetting_shown,
    injected_sequences,
    share_removed,
    target_equivalence,
)
from trimtab.errors import CheckpointError, DataError, explain
from trimtab.numerics.resample import bootstrap, mean
from trimtab.runs.atomic import write_atomic
from trimtab.runs.result_file import checked, finished, numeric, reading_result, write_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1
LAW, TARGET_LAW = Path("artifacts/law.json"), Path("artifacts/law-target.json")


@dataclass(frozen=True, eq=False)
class ForgettingResult:
    """The outcome of a job of the laws of forgetting.

    Attributes:
        label: a short name of the run.
        points: one row per run, see `forgetting_grid`; held_out: whether it was kept from the fits that are judged.
        law, target: of all runs; None where the runs cannot tell.
        refused: what they cannot tell, and why; by "forgetting", "fine-tuning", "forms" or "injection".
        forms: the table of `compare_forms`; empty where it was refused.
        facts: single numbers, each with n and an interval where it is a rate or a mean.
        config: everything needed to do the run again.
        seconds: of the run.
    """

    label: str
    points: pd.DataFrame
    law: ForgettingLaw | None
    target: FinetuningLaw | None
    refused: Mapping[str, str]
    forms: pd.DataFrame
    facts: Mapping[str, Any]
    config: Mapping[str, Any]
    seconds: float

    def to_frame(self) -> pd.DataFrame:
        """Coefficients of the laws with 95 % intervals."""
        laws = {"forgetting": self.law, "fine-tuning": self.target}
        frames = [law.to_frame().assign(law=name) for name, law in laws.items() if law is not None]
        columns = ["law", "coefficient", "value", "low", "high", "n"]
        return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)

    def figure(self) -> Figure:
        """Predicted against observed rises."""
        from trimtab.adapt.forgetting_figures import predicted_figure

        return predicted_figure(self)

    def report(self, path: str | Path) -> Path:
        """Write the report page (one self-contained HTML file) and return its path."""
        from trimtab.adapt.forgetting_page import page

        write_atomic(Path(path), page([self], title=self.label))
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write the numbers into a run's folder, and the laws that `trimtab plan` reads."""
        for law, name in ((self.law, LAW), (self.target, TARGET_LAW)):
            if law is not None:
                law.save(Path(folder) / name)
        told = {name: getattr(self, name) for name in ("label", "refused", "facts", "config", "seconds")}
        frames = {name: getattr(self, name).to_dict("records") for name in ("points", "forms")}
        return write_result(folder, SCHEMA, told | frames)

    @classmethod
    def load(cls, folder: str | Path) -> ForgettingResult:
        """Read the result of a finished run.

        Raises:
            CheckpointError: there is none (yet), another version of trimtab wrote it, or a part of it is missing.
            DataError: a law beside it is damaged.
        """
        folder = Path(folder)
        found = finished(folder)
        if not isinstance(found, dict) or found.pop("schema", None) != SCHEMA:
            raise CheckpointError(explain(f"another result in {folder}", f"schema {SCHEMA}"))
        with reading_result(folder):
            frames = {name: numeric(pd.DataFrame(found.pop(name))) for name in ("points", "forms")}
        law = ForgettingLaw.load(folder / LAW) if (folder / LAW).exists() else None
        target = FinetuningLaw.load(folder / TARGET_LAW) if (folder / TARGET_LAW).exists() else None
        with reading_result(folder):
            return checked(cls, {**found, **frames, "law": law, "target": target})


def held_out(points: pd.DataFrame) -> pd.Series[bool]:
    """The largest size and the largest token count, where there are at least three of them; else nothing."""
    out = pd.Series(False, index=points.index)
    for name in ("params", "tokens"):
        if points[name].nunique() > 2:
            out |= points[name] == points[name].max()
    return out


def judged(
    points: pd.DataFrame,
    *,
    label: str,
    inject: float,
    margin: float,
    n_boot: int,
    seed: int,
    config: Mapping[str, Any],
    seconds: float,
) -> ForgettingResult:
    """Fit both laws, compare the forms on held-out runs, read off what injection did; refusals are kept as words."""
    refused: dict[str, str] = {}

    def tried(name: str, what: Any) -> Any:
        try:
            return what()
        except DataError as error:
            refused[name] = str(error)
            return None

    points = points.assign(held_out=held_out(points))
    law = tried("forgetting", lambda: ForgettingLaw.fit(points, n_boot=n_boot, seed=seed))
    target = tried("fine-tuning", lambda: FinetuningLaw.fit(points, n_boot=n_boot, seed=seed))
    forms = tried("forms", lambda: compare_forms(points, points["held_out"].tolist(), seed=seed))
    unseen = tried("fine-tuning held out", lambda: _unseen(points, seed))
    pairs = tried("injection", lambda: beside_none(points, inject))
    shown = forgetting_shown(points, seed=seed)
    facts = {
        "runs": len(points),
        "held_out": int(points["held_out"].sum()),
        "inject": inject,
        "forgotten": asdict(shown["rise"]),
        "clear": shown["clear"],
        "target_error": unseen,
        "removed": None if pairs is None else asdict(share_removed(pairs, seed=seed)),
        "equivalence": None if pairs is None else _told(target_equivalence(pairs, margin)),
        "injected": injected_sequences(points).to_dict("records"),
        "not_reached": int((~points["reached"].astype(bool)).sum()) if "reached" in points else None,
    }
    frame = pd.DataFrame() if forms is None else forms
    return ForgettingResult(label, points, law, target, refused, frame, facts, config, seconds)


def _told(found: Any) -> dict[str, Any]:
    return {**asdict(found), "equivalent": found.equivalent}


def _unseen(points: pd.DataFrame, seed: int) -> dict[str, Any] | None:
    """Relative error of the fine-tuning loss where runs were held out, by the law of the others."""
    out = points["held_out"]
    if not out.any():
        return None
    law = FinetuningLaw.fit(points[~out], n_boot=0, seed=seed)
    where = {name: points.loc[out, name].to_numpy(dtype=float) for name in ("params", "tokens")}
    off = np.abs(law.predict(**where) / points.loc[out, "loss_ft"].to_numpy(dtype=float) - 1)
    return asdict(bootstrap(mean, off, seed=seed))
