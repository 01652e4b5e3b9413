"""Two processes do what one does: the same samples, the same slopes, probes dealt between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dealt_run import mixtures, watched_run

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two gloo processes saw."""
    out = tmp_path_factory.mktemp("dealt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("ACCELERATE_USE_CPU", None)
    if torch.cuda.is_available():  # without a GPU nobody need say that there is none
        environment["ACCELERATE_USE_CPU"] = "1"
    done = subprocess.run(
        [*command, str(TESTS / "dealt_run.py"), str(out)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What a single process saw."""
    return watched_run(None)


@pytest.mark.slow
def test_there_were_two_processes(ranks: list[dict[str, Any]]) -> None:
    assert [rank["world"] for rank in ranks] == [2, 2]


@pytest.mark.slow
def test_the_sample_order_is_that_of_one_process(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    drawn = [[list(pair) for pair in batch] for batch in alone["drawn"]]
    assert ranks[0]["drawn"] == ranks[1]["drawn"] == drawn
    assert len(drawn) == 12


@pytest.mark.slow
def test_probes_are_dealt(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert alone["probed"] == [0, 1, 2]
    assert [rank["probed"] for rank in ranks] == [[0, 2], [1]]


@pytest.mark.slow
def test_slopes_and_losses_are_those_of_one_process(
    ranks: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    for rank in ranks:
        np.testing.assert_allclose(rank["slopes"], alone["slopes"], rtol=1e-6)
        np.testing.assert_allclose(rank["losses"], alone["losses"], rtol=1e-6)
        assert (rank["status"], rank["step"]) == (alone["status"], alone["step"])


@pytest.mark.slow
def test_training_losses_and_gradients_are_those_of_one_process(ranks: list[dict[str, Any]]) -> None:
    expected = mixtures(None)
    assert len({tuple(row[1:]) for row in expected["exp3"]}) > 2
    for rank in ranks:
        for label, value in expected.items():
            np.testing.assert_allclose(rank["mixtures"][label], value, rtol=1e-6, err_msg=label)
    assert ranks[0]["mixtures"] == ranks[1]["mixtures"]


@pytest.mark.slow
def test_both_processes_end_with_the_same_weights(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["weights"] == ranks[1]["weights"]


@pytest.mark.slow
def test_without_trackers_none_is_imported(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "accelerate" in rank["modules"]
        assert not {"trackio", "wandb", "tensorboard", "tensorboardX", "mlflow"} & set(rank["modules"])
