"""A folder of results of the benchmark: rows of its summary, differences between methods, runs that broke a limit."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from outcomes import blocks, outcomes
from table import interval, told

from trimtab.runs.files import read_json

sys.path.append(str(Path(__file__).parents[1]))
from pages import number

Found = Mapping[str, Any]
PAIR = ["scenario", "seed"]


@dataclass(frozen=True)
class Breach:
    """A constraint that a run broke on test, nats per token; `validation` is the change when it was chosen."""

    scenario: str
    seed: int
    method: str
    domain: str
    change: float
    low: float
    high: float
    tolerance: float
    validation: float | None

    @property
    def told(self) -> str:
        """Domain, change with its interval, and limit."""
        ends = f"[{number(self.low, 4)}, {number(self.high, 4)}]"
        return f"{self.domain} rose by {number(self.change, 4)} {ends} nats, limit {self.tolerance:g}."


@dataclass(frozen=True)
class Group:
    """Runs of the same scenarios and seeds.

    Attributes:
        summary: what `table.py` wrote.
        blocks: a scenario and seed each.
        units: one row per scenario, seed and method, as `outcomes` makes them.
    """

    summary: Found
    blocks: Sequence[Found]
    units: pd.DataFrame

    @cached_property
    def scenarios(self) -> dict[str, Found]:
        """The scenarios by name."""
        return {block["scenario"]["name"]: block["scenario"] for block in self.blocks}

    @property
    def tolerances(self) -> list[float]:
        """Every tolerance that was asked, nats per token."""
        every = {t for one in self.scenarios.values() for t in one["constraints"].values()}
        return sorted(every)

    def seeds(self) -> list[int]:
        """Training seeds."""
        return sorted({block["seed"] for block in self.blocks})

    def rows(self, scenario: str | None = None) -> dict[str, Found]:
        """Rows of the summary by method, over all pairs or those of a scenario, best constrained gain first."""
        rows = self.summary["by_scenario"][scenario] if scenario else self.summary["all"]
        return {row["method"]: row for row in rows}

    def difference(
        self, first: str, second: str, of: str = "constrained", scenario: str | None = None
    ) -> dict[str, Any]:
        """The first method less the second, paired by scenario and seed, with its bootstrap interval."""
        units = self.units if scenario is None else self.units[self.units["scenario"] == scenario]
        sides = [units[units["method"] == one].set_index(PAIR)[of] for one in (first, second)]
        paired = sides[0].sub(sides[1]).dropna().astype(float)
        found = told(interval(paired.index.to_frame(index=False), paired))
        ends = {end: None if math.isnan(found[end]) else found[end] for end in ("value", "low", "high")}
        return {**found, **ends}

    def of(self, method: str) -> pd.DataFrame:
        """The units of a method."""
        return self.units[self.units["method"] == method]

    def facts(self, method: str, scenario: str | None = None) -> Found:
        """Its first run, of any scenario or of one; of a search its role alone."""
        blocks = [b for b in self.blocks if scenario in (None, b["scenario"]["name"])]
        runs = (block["runs"][method] for block in blocks if method in block["runs"])
        found: Found = next(runs, {"role": "search", "family": None, "mixer": {}})
        return found

    def run(self, unit: Any) -> Found:
        """The run behind a unit; of a search, the run that it chose."""
        block = next(
            b for b in self.blocks if (b["scenario"]["name"], b["seed"]) == (unit.scenario, unit.seed)
        )
        run: Found = block["runs"][unit.run]
        return run

    def breaches(self, methods: Collection[str]) -> list[Breach]:
        """Every constraint that a run of these methods broke on test."""
        found = []
        for unit in self.units[
            self.units["method"].isin(methods) & ~self.units["kept"].astype(bool)
        ].itertuples():
            run = self.run(unit)
            read = run["validation"].get(str(run["step"]), {})
            for row in run["test"]:
                if row["role"] == "constraint" and row["change"] > row["tolerance"]:
                    values = (row["change"], row["change_low"], row["change_high"], row["tolerance"])
                    where = (str(unit.scenario), int(unit.seed), str(unit.method), row["domain"])
                    found.append(Breach(*where, *values, read.get(row["domain"])))
        return found

    def target_changes(self, method: str, scenario: str) -> pd.Series:
        """Changes of each target on test, by domain."""
        units = self.of(method)
        rows = [
            (row["domain"], row["change"])
            for unit in units[units["scenario"] == scenario].itertuples()
            for row in self.run(unit)["test"]
            if row["role"] == "target"
        ]
        return pd.Series(dict(enumerate(change for _, change in rows))).set_axis([name for name, _ in rows])


def read_group(folder: Path) -> Group | None:
    """The group of a folder; None where it has no summary or no runs."""
    path, runs = folder / "summary.json", blocks(folder)
    if not path.is_file() or not runs:
        return None
    return Group(read_json(path, "a summary of the benchmark"), runs, outcomes(folder))
