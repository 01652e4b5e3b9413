"""Whatever ends the work in a run's folder, the run says how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from trimtab.errors import CheckpointError
from trimtab.runs.folder import at_work
from trimtab.runs.serialise import read_json


@dataclass(frozen=True)
class Config:
    seed: int = 0
    jobs: int = 1


def status(folder: Path) -> str:
    return str(read_json(folder / "run.json")["status"])


def test_it_runs_and_then_is_done(tmp_path: Path) -> None:
    with at_work(tmp_path / "run", Config()) as held:
        assert held.status == "running"
    assert status(tmp_path / "run") == "done"


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ValueError("no"), "failed"), (KeyboardInterrupt(), "interrupted"), (SystemExit(3), "failed")],
)
def test_an_error_is_told_and_goes_on(tmp_path: Path, error: BaseException, expected: str) -> None:
    with pytest.raises(type(error)), at_work(tmp_path, Config()):
        raise error
    assert status(tmp_path) == expected
    with at_work(tmp_path, Config()):
        pass
    assert status(tmp_path) == "done"


def test_another_config_is_refused_unless_it_may_change(tmp_path: Path) -> None:
    with at_work(tmp_path, Config()):
        pass
    with at_work(tmp_path, Config(jobs=2), may_change=("jobs",)):
        pass
    with pytest.raises(CheckpointError, match="seed"), at_work(tmp_path, Config(seed=1)):
        pass
    assert status(tmp_path) == "done"
