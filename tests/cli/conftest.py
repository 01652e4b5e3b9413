"""A system that costs nothing, so that the command is tested and not the science."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest

from trimtab import systems
from trimtab.errors import ConfigError, Problem
from trimtab.runs.folder import RunFolder
from trimtab.runs.serialise import plain


@dataclass(frozen=True)
class Fit:
    steps: int = 4
    lr: float = 1e-4


@dataclass(frozen=True)
class Config:
    system: Literal["fake"]
    model: str = "somewhere"
    train: dict[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    fit: Fit = field(default_factory=Fit)
    behaves: Literal["well", "worse", "badly", "interrupted", "broken"] = "well"
    jobs: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    config: Config
    report_path: Path

    @property
    def passed(self) -> bool:
        return self.config.behaves != "worse"

    def table(self) -> str:
        return f"steps {self.config.fit.steps} seed {self.config.seed}"

    def to_json(self) -> str:
        return json.dumps({"steps": self.config.fit.steps})


@dataclass(frozen=True)
class Estimate:
    steps: int

    def to_text(self) -> str:
        return f"training steps {self.steps}"


def run(config: Config, folder: Path, progress: Callable[[int, int], None] | None) -> Outcome:
    if config.behaves == "badly":
        raise ConfigError("got a bad mood, expected a good one")
    if config.behaves == "broken":
        raise RuntimeError("a mistake of ours")
    with RunFolder.create_or_open(folder, plain(config), may_change=("jobs",)) as held:
        for step in range(config.fit.steps):
            held.append({"step": step})
            if progress:
                progress(step + 1, config.fit.steps)
            if config.behaves == "interrupted" and len(held.rows()) < 3:
                held.set_status("interrupted")
                raise KeyboardInterrupt
        held.write_json("artifacts/result.json", asdict(config))
        held.set_status("done", result="feasible")
    return Outcome(config, folder / "report.html")


def check(config: Config) -> list[Problem]:
    return [
        Problem("targets", repr(name), f"one of {list(config.train)}")
        for name in config.targets
        if name not in config.train
    ]


def estimate(config: Config) -> Estimate:
    return Estimate(config.fit.steps)


def load_result(folder: Path) -> Any:
    return json.loads((folder / "artifacts/result.json").read_text())


def page(results: list[Any], title: str) -> str:
    return f"{title}: {[result['seed'] for result in results]}"


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Register the system, work in an empty folder, and give the path of a good config."""
    module = ModuleType("fake_system")
    parts = (Config, run, check, estimate, load_result, page)
    vars(module).update({part.__name__: part for part in parts})
    monkeypatch.setitem(sys.modules, "fake_system", module)
    names = {name: f"fake_system:{name}" for name in ("run", "check", "estimate", "load_result", "page")}
    system = systems.System("fake", "nothing at all", "none", config="fake_system:Config", **names)
    monkeypatch.setitem(systems.SYSTEMS, "fake", system)
    monkeypatch.setenv("TRIMTAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.yaml"
    path.write_text("system: fake\ntrain: {a: x, b: y}\ntargets: [a]\n")
    return path
