"""A mixture in a trainer on several processes, with shared or sharded weights, and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hosted_run import MIXERS, PROCESSES, mixtures, train
from worlds import llama

TESTS = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:no checkpoint kept every constraint"),
    pytest.mark.filterwarnings("ignore:training ends at step"),
]


def process(kind: str, out: Path, *launcher: str) -> subprocess.CompletedProcess[str]:
    """One command of `hosted_run.py`."""
    return subprocess.run(
        [sys.executable, *launcher, str(TESTS / "hosted_run.py"), kind, str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process saw with each mixer."""
    found = {}
    for name in PROCESSES["whole"]:
        trainer, mixed, rows = train(tmp_path_factory.mktemp("alone"), MIXERS[name])
        found[name] = (json.loads(json.dumps(rows)), mixtures(trainer), mixed)
    return found


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes left what they saw."""
    made = tmp_path_factory.mktemp("together")
    llama(dtype=torch.float64).save_pretrained(made / "base")
    done = process("two", made, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    assert done.returncode == 0, done.stderr[-4000:]
    return made


@pytest.mark.parametrize(("way", "name"), [(way, name) for way, names in PROCESSES.items() for name in names])
def test_two_processes_do_what_one_does(way: str, name: str, together: Path, alone: dict[str, Any]) -> None:
    ranks = [json.loads((together / f"{way}-{name}-{rank}.json").read_text()) for rank in (0, 1)]
    rows, chosen, mixed = alone[name]
    # Each process trains on every second micro-batch of one row.
    micro = [[row for batch in rank["seen"] for row in batch] for rank in ranks]
    dealt = [row for pair in zip(*micro, strict=True) for row in pair]
    expected = [mixed.dataset[tuple(key)]["input_ids"] for batch in rows for key in batch]
    assert dealt == expected
    for rank in ranks:
        assert rank["rows"] == rows
        assert [step for step, _ in rank["mixtures"]] == [step for step, _ in chosen]
        np.testing.assert_allclose([w for _, w in rank["mixtures"]], [w for _, w in chosen], atol=1e-5)
        assert rank["best"] == mixed.progress.best_step
        for domain, change in rank["changes"].items():
            assert change == pytest.approx(mixed.changes[domain].value, abs=1e-9)


def test_a_killed_run_goes_on_to_the_same_mixture(alone: dict[str, Any], tmp_path: Path) -> None:
    done = process("killed", tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    rows, chosen, mixed = alone["kept probes"]
    trainer, resumed, after = train(tmp_path / "run", MIXERS["kept probes"], resume=True)
    assert rows[-len(after) :] == json.loads(json.dumps(after))
    assert len(after) < len(rows)
    assert mixtures(trainer) == chosen
    assert resumed.progress.best_step == mixed.progress.best_step
