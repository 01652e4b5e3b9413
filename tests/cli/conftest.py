"""A system that costs nothing, so that the command is tested and not the science."""

from __future__ import annotations

from pathlib import Path

import pytest

from coin import COIN
from trimtab import systems


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Register the system, work in an empty folder, and give the path of a good config."""
    monkeypatch.setitem(systems.SYSTEMS, "coin", COIN)
    monkeypatch.setenv("TRIMTAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.yaml"
    path.write_text("system: coin\ntrain: {a: x, b: y}\ntargets: [a]\n")
    return path
