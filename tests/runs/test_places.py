"""Places follow the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.runs.places import cache_home, runs_home


def test_named_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("TRIMTAB_RUNS", str(tmp_path / "r"))
    assert cache_home() == tmp_path / "c"
    assert runs_home() == tmp_path / "r"


def test_default_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", "")
    monkeypatch.delenv("TRIMTAB_RUNS", raising=False)
    assert cache_home().is_absolute()
    assert "trimtab" in cache_home().parts
    assert runs_home() == Path("runs")
