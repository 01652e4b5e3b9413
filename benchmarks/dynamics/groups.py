"""Result files of the benchmark as one group: rows of methods, differences between them, constraints that broke."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from methods import MARGINS
from outcomes import blocks, outcomes
from table import FEEDBACK, YARDSTICK, less, summary

sys.path.append(str(Path(__file__).parents[1]))
from pages import number

Found = Mapping[str, Any]
DEFAULTS, PUBLISHED, STOPPED = "ours", "paper light", "early-stopped target"
FIRST_REST, SHUFFLED = "ours, first rest", "shuffled"
NAMES = {
    DEFAULTS: "**DynaMiCS, defaults**",
    YARDSTICK: "best of five fixed runs",
    FEEDBACK: "Feedback",
    STOPPED: "target alone, stopped early",
    PUBLISHED: "DynaMiCS as published",
    FIRST_REST: "defaults, rest at its first shares",
    SHUFFLED: "defaults, shuffled slopes (control)",
}


@dataclass(frozen=True)
class Group:
    """Runs of one benchmark.

    Attributes:
        blocks: result files, one per scenario and seed.
        units: one row per scenario, seed and method, as `outcomes` makes them.
    """

    blocks: Sequence[Found]
    units: pd.DataFrame

    @cached_property
    def scenarios(self) -> dict[str, Found]:
        """The scenarios by name, in the order of their files."""
        return {block["scenario"]["name"]: block["scenario"] for block in self.blocks}

    @cached_property
    def rows(self) -> dict[str, Found]:
        """A row per method: those on all pairs first, best constrained gain first."""
        rows = sorted(summary(self.units), key=lambda row: row["n"] < len(self.blocks))
        return {row["method"]: row for row in rows}

    def seeds(self) -> list[int]:
        return sorted({block["seed"] for block in self.blocks})

    def part(self, scenarios: Collection[str]) -> Group | None:
        """The runs of these scenarios; None where there are none."""
        some = [block for block in self.blocks if block["scenario"]["name"] in scenarios]
        return Group(some, self.units[self.units["scenario"].isin(scenarios)]) if some else None

    def difference(self, first: str, second: str, of: str = "constrained") -> dict[str, Any]:
        """The first method less the second over the pairs that both were run on; n = 0 where there are none."""
        return less(self.units, first, second, of)

    def of(self, method: str) -> pd.DataFrame:
        """The units of a method, by scenario and seed."""
        return self.units[self.units["method"] == method].set_index(["scenario", "seed"])

    def facts(self, method: str) -> Found:
        """Its first run; of a search its role alone."""
        runs = (block["runs"][method] for block in self.blocks if method in block["runs"])
        found: Found = next(runs, {"role": "search", "mixer": {}})
        return found

    def runs(self, method: str) -> Iterator[tuple[Any, Found]]:
        """Units of a method with the run behind each; of a search, the run that it chose."""
        by_pair = {(block["scenario"]["name"], block["seed"]): block["runs"] for block in self.blocks}
        for unit in self.units[self.units["method"] == method].itertuples():
            yield unit, by_pair[unit.scenario, unit.seed][unit.run]

    def breaches(self, methods: Collection[str]) -> list[dict[str, Any]]:
        """Every constraint that a run of these methods broke on test: its row there, and the change on validation."""
        return [
            {"method": method, "scenario": unit.scenario, "seed": unit.seed, **row}
            | {"validation": run["validation"].get(str(run["step"]), {}).get(row["domain"])}
            for method in methods
            for unit, run in self.runs(method)
            for row in run["test"]
            if row["role"] == "constraint" and row["change"] > row["tolerance"]
        ]

    def named(self, method: str) -> str:
        """A method in words, or what it changes of the defaults."""
        if method in NAMES:
            return NAMES[method]
        if self.facts(method)["role"] == "sweep":
            return f"fixed target mass of {method.removeprefix('fixed ')}"
        return f"defaults, {self.setting(method)}" if method.startswith(DEFAULTS) else method

    def setting(self, method: str) -> str:
        """What a method changes of the defaults, as settings in code."""
        own, other = (self.facts(name)["mixer"] for name in (method, DEFAULTS))
        changed = [f"`{name}={_code(value)}`" for name, value in own.items() if other.get(name) != value]
        margin = next((errors for told, errors in MARGINS.items() if method.endswith(told)), None)
        return ", ".join(changed + ([] if margin is None else [f"`Fit.margin={margin:g}`"])) or "nothing"


def _code(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return number(value) if isinstance(value, float) and value % 1 else f"{value}".removesuffix(".0")


def read_group(folder: Path) -> Group | None:
    """The group of a folder; None where it has no runs."""
    found = blocks(folder)
    return Group(found, outcomes(folder)) if found else None
