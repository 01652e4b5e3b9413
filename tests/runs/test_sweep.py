"""Sweeps: every cell once, whatever happens to some of them."""

from __future__ import annotations

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

from trimtab.errors import CheckpointError, ConfigProblems
from trimtab.runs.folder import RunFolder
from trimtab.runs.sweep import expand, sweep


def make_square() -> Callable[[dict[str, Any], Path], dict[str, Any]]:
    """A function that processes can be sent, which cannot import this module."""

    def square(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
        with (folder / "calls").open("a") as file:
            file.write("x")
        if cell.get("fails"):
            raise ValueError(f"no {cell['x']}")
        if cell.get("dies") and (cell["dies"] == "always" or not (folder / "died").exists()):
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"square": cell["x"] ** 2, "threads": os.environ.get("OMP_NUM_THREADS"), "pid": os.getpid()}

    return square


square = make_square()


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text())


@pytest.mark.parametrize("jobs", [1, 2])
def test_failures_do_not_stop_others(tmp_path: Path, jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    cells = {f"../c{x}": {"x": x, "fails": x == 1} for x in range(3)}
    seen: list[tuple[int, int]] = []
    result = sweep(
        square, cells, tmp_path, jobs=jobs, progress=lambda done, total: seen.append((done, total))
    )
    assert {name: value["square"] for name, value in result.results.items()} == {"../c0": 0, "../c2": 4}
    assert result.failures == {"../c1": "ValueError: no 1"}
    assert "Traceback" in (result.folders["../c1"] / "error.txt").read_text()
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert all(folder.parent == tmp_path for folder in result.folders.values())
    if jobs > 1:
        assert all(value["threads"] == "1" for value in result.results.values())
        assert all(value["pid"] != os.getpid() for value in result.results.values())


def test_the_same_call_goes_on(tmp_path: Path) -> None:
    cells = {"good": {"x": 2}, "bad": {"x": 3, "fails": True}}
    first = sweep(square, cells, tmp_path)
    again = sweep(square, cells, tmp_path)
    assert again == first
    assert calls(tmp_path / "good") == 1
    assert calls(tmp_path / "bad") == 2
    more = sweep(square, {**cells, "new": {"x": 4}}, tmp_path)
    assert list(more.results) == ["good", "new"]


def test_a_failure_that_is_mended_leaves_no_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/error.txt").write_text("old")
    assert sweep(square, {"a": {"x": 1}}, tmp_path).failures == {}
    assert not (tmp_path / "a/error.txt").exists()


def test_another_cell_of_the_same_name_is_refused(tmp_path: Path) -> None:
    sweep(square, {"a": {"x": 1}}, tmp_path)
    with pytest.raises(CheckpointError, match="got another cell 'a'"):
        sweep(square, {"a": {"x": 2}}, tmp_path)


def test_a_key_that_may_change_is_no_part_of_a_cell(tmp_path: Path) -> None:
    sweep(square, {"a": {"x": 2, "told": "here"}}, tmp_path)
    for cell in ({"x": 2, "told": "there"}, {"x": 2}):
        done = sweep(square, {"a": cell}, tmp_path, may_change=["told"])
        assert list(done.results) == ["a"]
    with pytest.raises(CheckpointError, match="got another cell 'a'"):
        sweep(square, {"a": {"x": 3}}, tmp_path, may_change=["told"])


def test_a_result_that_json_cannot_hold_is_a_failure(tmp_path: Path) -> None:
    result = sweep(lambda cell, folder: object(), {"a": 1}, tmp_path)
    assert result.failures["a"].startswith("TypeError: got object")


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    RunFolder.create_or_open(tmp_path, {}).close()
    with (
        RunFolder.create_or_open(tmp_path, {}),
        pytest.raises(CheckpointError, match="expected a run that nobody writes"),
    ):
        sweep(square, {"a": {"x": 1}}, tmp_path)


def test_a_cell_whose_process_dies_is_tried_again_alone(tmp_path: Path) -> None:
    cells = {
        "once": {"x": 1, "dies": "once"},
        "always": {"x": 2, "dies": "always"},
        **{str(x): {"x": x} for x in range(3)},
    }
    result = sweep(square, cells, tmp_path, jobs=2)
    assert {name: value["square"] for name, value in result.results.items()} == {
        "once": 1, "0": 0, "1": 1, "2": 4,
    }  # fmt: skip
    assert result.failures == {"always": "its process was killed twice: out of memory?"}


SLOW = """
import sys, time
from pathlib import Path
from trimtab.runs.sweep import sweep

def slow(cell, folder):
    (folder / "started").touch()
    try:
        time.sleep(30 if cell else 0)
    except KeyboardInterrupt:
        (folder / "saved").touch()
        raise

if __name__ == "__main__":
    sweep(slow, {str(n): n for n in range(4)}, sys.argv[1], jobs=int(sys.argv[2]))
"""


def started(tmp_path: Path, jobs: int) -> subprocess.Popen[str]:
    (tmp_path / "slow.py").write_text(textwrap.dedent(SLOW))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "slow.py"), str(tmp_path / "sweep"), str(jobs)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that started these tests in the background lets its children ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while len(list(tmp_path.glob("sweep/[123]/started"))) < jobs:
        assert process.poll() is None
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(("jobs", "group"), [(1, False), (2, False), (2, True)])
def test_an_interrupt_reaches_every_running_cell_once(tmp_path: Path, jobs: int, group: bool) -> None:
    process = started(tmp_path, jobs)
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate()[1]
    folder = tmp_path / "sweep"
    assert len(list(folder.glob("*/saved"))) == jobs
    assert not (folder / ".stop").exists()
    assert '"interrupted"' in (folder / "1/cell.json").read_text()
    assert not (folder / "3").exists()
    result = sweep(lambda cell, folder: cell, {str(n): n for n in range(4)}, folder)
    assert result.results == {"0": None, "1": 1, "2": 2, "3": 3}


def test_workers_do_not_outlive_a_killed_sweep(tmp_path: Path) -> None:
    process = started(tmp_path, 2)
    process.kill()
    process.communicate()
    folder = tmp_path / "sweep"
    until = time.monotonic() + 20
    while len(list(folder.glob("*/saved"))) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_expanding_a_grid() -> None:
    cells = expand(["seed=0..2", "fit.lr=1e-4,3e-4"])
    assert list(cells)[:2] == ["seed=0,fit.lr=0.0001", "seed=0,fit.lr=0.0003"]
    assert len(cells) == 6
    assert cells["seed=2,fit.lr=0.0003"] == {"seed": 2, "fit.lr": 3e-4}
    assert list(expand(["targets=[a, b],[c]", "s=-1..0,7"]).values()) == [
        {"targets": targets, "s": s} for targets in (["a", "b"], ["c"]) for s in (-1, 0, 7)
    ]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (["seed"], "--over: got 'seed', expected key=value,value"),
        (["=1"], "--over: got '=1'"),
        (["seed="], "--over: got 'seed='"),
        (["seed=1", "seed=2"], "got 'seed' twice, expected each key once"),
        (["seed=1,1"], "expected each value once"),
        (["seed=4..0"], "got '4..0', expected a range that goes up"),
        (["seed=[1"], "expected values in YAML"),
    ],
)
def test_grids_that_make_no_sense(axes: list[str], message: str) -> None:
    with pytest.raises(ConfigProblems, match=message):
        expand(axes)


def test_all_axes_are_judged_at_once() -> None:
    with pytest.raises(ConfigProblems) as raised:
        expand(["seed", "lr=2..1"])
    assert len(raised.value.problems) == 2


def test_texts_with_commas_make_cells_of_their_own() -> None:
    found = expand(["a='1,b=2',1", "b=3,'2,b=3'"])
    assert len(found) == 4
    assert {tuple(cell.values()) for cell in found.values()} == {
        ("1,b=2", 3),
        ("1,b=2", "2,b=3"),
        (1, 3),
        (1, "2,b=3"),
    }


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"status": "done"}', '{"status": [], "cell": 1, "result": 1}', "["]
)
def test_a_damaged_cell_is_told(tmp_path: Path, text: str) -> None:
    sweep(square, {"x": {"x": 2}}, tmp_path)
    (tmp_path / "x/cell.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"damaged text in .*cell\.json"):
        sweep(square, {"x": {"x": 2}}, tmp_path)


def test_cells_that_are_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/x").symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match="got the link"):
        sweep(square, {"x": {"x": 2}}, tmp_path / "sweep")
    assert not list((tmp_path / "outside").iterdir())
