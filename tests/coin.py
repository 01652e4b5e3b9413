"""A seventh system, made of one job and one result: it throws a coin."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pandas as pd
from matplotlib.figure import Figure

from trimtab import systems
from trimtab.errors import ConfigError, Problem
from trimtab.job import Elsewhere, ModelName, Progress, Result
from trimtab.report.page import Section, Text
from trimtab.runs.folder import RunFolder
from trimtab.runs.serialise import plain


@dataclass(frozen=True, repr=False)
class CoinResult(Result):
    """How often it fell on heads."""

    throws: int
    heads: pd.DataFrame
    worse: bool = False

    @property
    def passed(self) -> bool:
        return not self.worse

    def to_frame(self) -> pd.DataFrame:
        return self.heads.copy()

    def summary(self) -> str:
        return f"steps {self.throws} seed {self.config['seed']}"

    def sections(self) -> Iterator[Section]:
        yield Section("Throws", [Text(f"{int(self.heads['heads'].sum())} of {self.throws} were heads.")])

    def figure(self) -> Figure:
        return Figure()


@dataclass(frozen=True)
class Fit:
    steps: int = 4
    lr: float = 1e-4


@dataclass(frozen=True)
class CoinJob:
    """How often to throw, and how to behave meanwhile."""

    system: Literal["coin"]
    model: ModelName = "somewhere"
    train: dict[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    fit: Fit = field(default_factory=Fit)
    behaves: Literal["well", "worse", "badly", "interrupted", "broken"] = "well"
    jobs: int = 1
    seed: int = 0

    result: ClassVar[type[Result]] = CoinResult

    def problems(self) -> Iterator[Problem]:
        for name in self.targets:
            if name not in self.train:
                yield Problem("targets", repr(name), f"one of {list(self.train)}")

    def cost(self) -> Mapping[str, Any]:
        return {"steps": self.fit.steps}

    def run(self, folder: RunFolder | Elsewhere, progress: Progress) -> CoinResult:
        if self.behaves == "badly":
            raise ConfigError("got a bad mood, expected a good one")
        if self.behaves == "broken":
            raise RuntimeError("a mistake of ours")
        coin, heads = random.Random(self.seed), []
        for step in range(self.fit.steps):
            heads.append(coin.random() < 0.5)
            if isinstance(folder, RunFolder):
                folder.append({"step": step})
                if self.behaves == "interrupted" and len(folder.rows()) < 3:
                    raise KeyboardInterrupt
            progress(step + 1, self.fit.steps)
        return CoinResult(
            self.fit.steps,
            pd.DataFrame({"heads": heads}).astype(float),
            self.behaves == "worse",
            label=f"coin {self.seed}",
            config=plain(self),
        )


COIN = systems.System("coin", "coin:CoinJob", "how often a coin falls on heads", "none")
"""The one line that a system needs in the table of systems."""
