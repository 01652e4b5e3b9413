"""Several processes are one run, or it is said why not."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trimtab.errors import ConfigError
from trimtab.runs import paths
from trimtab.train import loop
from trimtab.train.loop import accelerator

LAUNCHED = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Accelerate is asked for, and how many processes it then sees."""
    asked: dict[str, Any] = {"sees": 1}

    def made(**options: Any) -> SimpleNamespace:
        asked.update(options)
        return SimpleNamespace(num_processes=asked["sees"])

    monkeypatch.setattr(loop, "Accelerator", made)
    for name in (*LAUNCHED, "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return asked


@pytest.mark.parametrize("told", ["x", "0", "-1", "2.0", " 2", "1e3", "²", "9" * 20])
def test_a_number_of_processes_that_is_none(
    told: str, seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", told)
    with pytest.raises(
        ConfigError, match=r"WORLD_SIZE: got .*, expected a whole number above 0; try unset WORLD_SIZE"
    ):
        accelerator()
    monkeypatch.setenv("WORLD_SIZE", "")
    assert paths.processes() == 1


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("world", [1, 2])
def test_the_cpu_joins_them_where_there_is_no_gpu(
    gpu: bool, world: int, seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    for name, value in {**LAUNCHED, "WORLD_SIZE": str(world)}.items():
        monkeypatch.setenv(name, value)
    seen["sees"] = world
    assert accelerator().num_processes == world
    assert seen["cpu"] is (world > 1 and not gpu)


@pytest.mark.parametrize("missing", LAUNCHED)
def test_processes_that_cannot_find_one_another(
    missing: str, seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**LAUNCHED, "WORLD_SIZE": "2"}.items():
        if name != missing:
            monkeypatch.setenv(name, value)
    with pytest.raises(
        ConfigError, match=f"got WORLD_SIZE=2 without {missing}, expected a launch by torchrun"
    ):
        accelerator()


def test_processes_that_do_not_see_one_another(seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**LAUNCHED, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ConfigError, match=r"got 1 process\(es\) of WORLD_SIZE=2, expected all of them together"
    ):
        accelerator()


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "trimtab", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("trimtab ")
