"""Sweeps on Ray keep the promises of sweeps; without Ray, one says so before any work."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.errors import ConfigError
from trimtab.runs.sweep import sweep

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: see the extra cluster"
)

CELLS = """
import os, signal, sys, time
from pathlib import Path
from trimtab.runs.sweep import sweep

def cell(asked, folder):
    with (folder / "calls").open("a") as file:
        file.write("x")
    if asked.get("fails"):
        raise ValueError("no")
    if asked.get("dies") == "always" or (asked.get("dies") == "once" and len((folder / "calls").read_text()) == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        time.sleep(asked.get("sleeps", 0))
    except KeyboardInterrupt:
        (folder / "saved").touch()
        raise
    return {"square": asked["x"] ** 2, "pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}
"""


def swept(tmp_path: Path, cells: dict[str, Any]) -> subprocess.Popen[str]:
    """A sweep in a process of its own, which also starts the cluster."""
    code = textwrap.dedent(CELLS) + textwrap.dedent(f"""
    if __name__ == "__main__":
        done = sweep(cell, {cells!r}, {str(tmp_path / "sweep")!r}, jobs=2, backend="ray")
        print(__import__("json").dumps([done.results, done.failures, os.getpid()]))
    """)
    (tmp_path / "cells.py").write_text(code)
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "cells.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text())


def wait_for(there: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not there():
        assert time.monotonic() < until
        time.sleep(0.1)


@needs_ray
@pytest.mark.slow
def test_failures_and_deaths_do_not_stop_others_and_nothing_is_repeated(tmp_path: Path) -> None:
    cells = {
        "fails": {"x": 1, "fails": True},
        "once": {"x": 2, "dies": "once"},
        "always": {"x": 3, "dies": "always"},
        **{str(x): {"x": x} for x in range(3)},
    }
    for calls_of_a_failure in (1, 2):
        told, errors = swept(tmp_path, cells).communicate(timeout=120)
        assert told, errors
        results, failures, driver = json.loads(
            told.splitlines()[-1]
        )  # Ray tells there too whose process died
        assert {name: value["square"] for name, value in results.items()} == {
            "once": 4, "0": 0, "1": 1, "2": 4,
        }  # fmt: skip
        assert failures == {
            "fails": "ValueError: no",
            "always": "its process was killed twice: out of memory?",
        }
        assert all(value["pid"] != driver and value["threads"] == "1" for value in results.values())
        assert calls(tmp_path / "sweep/fails") == calls_of_a_failure
        assert [calls(tmp_path / "sweep" / name) for name in ("once", "0", "1", "2")] == [2, 1, 1, 1]


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True])
def test_an_interrupt_reaches_every_running_cell_once(tmp_path: Path, group: bool) -> None:
    process = swept(tmp_path, {str(x): {"x": x, "sleeps": 60} for x in range(4)})
    wait_for(lambda: process.poll() is not None or len(list(tmp_path.glob("sweep/*/calls"))) == 2)
    time.sleep(0.5)
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    folder = tmp_path / "sweep"
    assert sorted(path.parent.name for path in folder.glob("*/saved")) == ["0", "1"]
    assert not (folder / ".stop").exists()
    assert '"interrupted"' in (folder / "0/cell.json").read_text()
    assert not (folder / "2").exists()


@needs_ray
@pytest.mark.slow
def test_cells_do_not_outlive_a_killed_sweep_and_processes_go_on_with_it(tmp_path: Path) -> None:
    cells = {str(x): {"x": x, "sleeps": 60 * (x > 0)} for x in range(3)}
    process = swept(tmp_path, cells)
    folder = tmp_path / "sweep"
    wait_for(lambda: len(list(folder.glob("*/calls"))) == 3)
    time.sleep(0.5)
    process.kill()
    process.communicate()
    wait_for(lambda: len(list(folder.glob("*/saved"))) == 2)
    wait_for(lambda: all('"interrupted"' in (folder / x / "cell.json").read_text() for x in "12"))
    result = sweep(lambda cell, folder: cell["x"], cells, folder)
    assert result.results["0"]["square"] == 0
    assert [result.results[x] for x in "12"] == [1, 2]


def test_a_cluster_that_is_not_installed_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError,
        match=r"backend: got 'ray', .* try pip install -e .\.\[cluster\]. in the folder of trimtab$",
    ):
        sweep(print, {"a": 1}, tmp_path / "sweep", backend="ray")
    assert not (tmp_path / "sweep").exists()


def test_an_unknown_backend(tmp_path: Path) -> None:
    wrong: Any = "raj"
    with pytest.raises(ConfigError, match=r"backend: got 'raj', expected one of .*; try 'ray'"):
        sweep(print, {"a": 1}, tmp_path / "sweep", backend=wrong)
