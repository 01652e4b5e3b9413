"""Places follow the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.runs.places import cache_home, missing_file, runs_home


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


def test_a_file_that_is_not_there_is_told_with_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("a")
    assert missing_file("counts", str(tmp_path / "names.csv")) == []
    (found,) = missing_file("counts", str(tmp_path / "nmes.csv"), "a CSV file")
    assert (found.where, found.expected) == ("counts", "a CSV file")
    assert found.hint == str(tmp_path / "names.csv")
    assert missing_file("counts", "lab:gender") == []
