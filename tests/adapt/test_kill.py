"""A run whose process is killed goes on to the same numbers, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from runs_to_kill import MOMENTS, kill_at, run
from trimtab.runs.serialise import read_json

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that were killed at each moment, and of one that was interrupted; each with how it ended."""
    folder = tmp_path_factory.mktemp("stopped")
    runs = [[str(folder / moment), moment, "SIGKILL"] for moment in MOMENTS]
    runs.append([str(folder / "interrupted"), "in-training", "SIGINT"])
    command = [sys.executable, str(TESTS / "runs_to_kill.py"), *(word for one in runs for word in one)]
    subprocess.run(command, check=True, timeout=240)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, torch.Tensor]]:
    """Metrics and weights of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    weights, _ = run(out)
    return (out / "metrics.jsonl").read_bytes(), weights


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_to_the_same_numbers(
    moment: str, whole: tuple[bytes, dict[str, torch.Tensor]], stopped: Path
) -> None:
    out = stopped / moment
    killed = read_json(stopped / f"{moment}.json")
    assert killed["code"] == -signal.SIGKILL, killed["stderr"]
    assert read_json(out / "run.json")["status"] == "running"
    left = [path.name for path in (out / "artifacts/checkpoints").iterdir() if path.name.startswith(".")]
    assert bool(left) == (moment == "while-a-checkpoint-is-written")

    torch.set_num_threads(1)
    weights, _ = run(out)
    assert (out / "metrics.jsonl").read_bytes() == whole[0]
    assert all(torch.equal(weights[key], value) for key, value in whole[1].items())
    assert not list((out / "artifacts/checkpoints").glob(".*"))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a process that ends by SIGINT is POSIX")
def test_ctrl_c_says_where_it_stopped_and_how_to_go_on(stopped: Path) -> None:
    """The ninth step is the third real one; the run stops behind it, with a short traceback."""
    out, ended = stopped / "interrupted", read_json(stopped / "interrupted.json")
    assert ended["code"] == -signal.SIGINT, ended["stderr"]
    how = f"the same call goes on (out={str(out)!r})"
    assert ended["stderr"].splitlines()[-1] == f"KeyboardInterrupt: stopped at step 3 of 12; {how}"
    assert ended["stderr"].count("  File ") <= 3
    assert read_json(out / "run.json")["status"] == "interrupted"
    assert list((out / "artifacts/checkpoints").glob("step-00000003"))


def test_ctrl_c_says_what_to_do_where_nothing_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, _ = MOMENTS["in-training"]
    monkeypatch.setattr(owner, name, getattr(owner, name))  # put back afterwards
    kill_at("in-training", signal.SIGINT)
    with pytest.raises(
        KeyboardInterrupt, match=r"^stopped at step 3 of 12; nothing was kept: with out=FOLDER"
    ):
        run(None)
