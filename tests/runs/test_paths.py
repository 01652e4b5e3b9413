"""Places follow the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trimtab.errors import ConfigProblems
from trimtab.runs.paths import cache_home, missing_file, missing_source, neighbour, processes, runs_home


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


def test_places_that_no_path_can_be_are_told_with_their_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("~nosuchuser/x", "x" * 5000, "a" * 300):
        monkeypatch.setenv("TRIMTAB_CACHE", value)
        with pytest.raises(ConfigProblems, match=r"\$TRIMTAB_CACHE: got .* expected a folder"):
            cache_home()
    for value in ("x", "0", "-1", "1.5", "\u0663", "9" * 50):
        monkeypatch.setenv("WORLD_SIZE", value)
        with pytest.raises(ConfigProblems, match=r"\$WORLD_SIZE: got "):
            processes()
    monkeypatch.setenv("WORLD_SIZE", "")
    assert processes() == 1


def test_what_is_no_file_is_told_as_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for source, got in (
        (str(tmp_path), ", a folder"),
        (str(tmp_path / "pipe"), ", a pipe or a device"),
        (str(tmp_path / "loop"), "(Too many levels of symbolic links)"),
        ("~nosuchuser/x", "(no such user)"),
        ("a\0b", "(embedded null byte)"),
        ("x" * 5000, "(File name too long)"),
    ):
        for find in (missing_file, missing_source):
            found = find("counts", source, "a file")
            assert (not found) == (find is missing_source and source == str(tmp_path)), source
            assert all(problem.where == "counts" and problem.got.endswith(got) for problem in found)
            assert all(len(problem.got) < 200 for problem in found)


def test_a_neighbour_is_near_by_more_than_its_ending(tmp_path: Path) -> None:
    for name in ("empty.jsonl", "maths.csv", "math.txt"):
        (tmp_path / name).write_text("")
    assert neighbour(tmp_path / "maths.jsonl") == str(tmp_path / "maths.csv")
    assert neighbour(tmp_path / "mth.txt") == str(tmp_path / "math.txt")
    assert neighbour(tmp_path / "python.jsonl") == "a path relative to the current directory"
    assert neighbour(Path()) == "a path relative to the current directory"


def test_the_nearest_name_is_never_the_one_that_was_given(tmp_path: Path) -> None:
    (tmp_path / "web.jsonl").symlink_to("web.jsonl")
    assert neighbour(tmp_path / "web.jsonl") == "a path relative to the current directory"
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert not neighbour(tmp_path / "pipe.jsonl")
