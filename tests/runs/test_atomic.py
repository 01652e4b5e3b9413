"""Files and folders are there whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trimtab.errors import CheckpointError
from trimtab.runs import atomic
from trimtab.runs.atomic import atomic_directory, clean_below, clean_leftovers, write_atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(CheckpointError, match="a pipe or a device, expected a file to write"):
            write_atomic(path, "text")
    assert names(tmp_path) == ["link", "pipe"]
    assert pipe.is_fifo()
    assert link.is_symlink()


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_atomic(tmp_path / "deep/a.txt", "one")
    write_atomic(tmp_path / "deep/a.txt", "two")
    assert (tmp_path / "deep/a.txt").read_text() == "two"
    assert names(tmp_path / "deep") == ["a.txt"]


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "a.txt", "one")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(CheckpointError, match="what was there before is intact: free some space"):
        write_atomic(tmp_path / "a.txt", "two")
    assert (tmp_path / "a.txt").read_text() == "one"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(CheckpointError, match="a, a folder, expected a file to write; try a file in it"):
        write_atomic(tmp_path / "a", "text")
    assert names(tmp_path) == ["a"]


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "step-1") as folder:
        (folder / "weights").write_text("w")
        assert not (tmp_path / "step-1").exists()
    assert (tmp_path / "step-1/weights").read_text() == "w"
    assert names(tmp_path) == ["step-1"]


def test_an_exception_leaves_the_old_folder(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "best") as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(IsADirectoryError), atomic_directory(tmp_path / "best") as folder:
        folder.write_text("new")
    assert (tmp_path / "best/weights").read_text() == "old"
    assert names(tmp_path) == ["best"]


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_directory(tmp_path / "best") as folder:
        (folder / "weights").write_text("old")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(CheckpointError, match="No space left"), atomic_directory(tmp_path / "best") as folder:
        (folder / "weights").write_text("new")
    assert (tmp_path / "best/weights").read_text() == "old"


def test_a_folder_is_replaced(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic_directory(tmp_path / "best") as folder:
            (folder / text).write_text(text)
    assert names(tmp_path / "best") == ["new"]
    assert names(tmp_path) == ["best"]


def test_a_failed_swap_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_directory(tmp_path / "best") as folder:
        (folder / "weights").write_text("old")
    real = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if ".new-" in self.name:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "best") as folder:
        (folder / "weights").write_text("new")
    assert (tmp_path / "best/weights").read_text() == "old"
    assert names(tmp_path) == ["best"]


def test_a_cache_keeps_what_was_built_first(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "entry", replace=False) as slow:
        (slow / "by").write_text("slow")
        with atomic_directory(tmp_path / "entry", replace=False) as fast:
            (fast / "by").write_text("fast")
    assert (tmp_path / "entry/by").read_text() == "fast"
    assert names(tmp_path) == ["entry"]


KILLED = """
import os, signal, sys
from pathlib import Path
from trimtab.runs import atomic
rename = Path.rename
def deadly(self, target):
    if ".new-" in self.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = deadly
atomic._exchange = lambda *_: False  # as on a system without it
with atomic.atomic_directory(Path(sys.argv[1])) as folder:
    (folder / "weights").write_text("new")
"""


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "best") as folder:
        (folder / "weights").write_text("old")
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "best")], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2
    assert not (tmp_path / "best").exists()
    clean_leftovers(tmp_path)
    assert names(tmp_path) == ["best"]
    assert (tmp_path / "best/weights").read_text() == "old"


def test_living_writers_and_strangers_are_left_alone(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "mine") as folder:
        (tmp_path / ".mine.new-otherhost-1-abc").mkdir()
        (tmp_path / ".gitignore").write_text("")
        clean_leftovers(tmp_path)
        assert names(tmp_path) == sorted([folder.name, ".mine.new-otherhost-1-abc", ".gitignore"])
        clean_leftovers(tmp_path, everyones=True)
        assert names(tmp_path) == sorted([folder.name, ".gitignore"])
    clean_leftovers(tmp_path / "missing")


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux")
def test_a_folder_that_is_replaced_is_never_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_directory(tmp_path / "best") as folder:
        (folder / "weights").write_text("old")
    seen: list[list[str]] = []

    def watched(path: Path, **options: object) -> None:
        seen.append(names(tmp_path))

    monkeypatch.setattr(atomic.shutil, "rmtree", watched)
    monkeypatch.setattr(Path, "rename", None)
    with atomic_directory(tmp_path / "best") as folder:
        (folder / "weights").write_text("new")
    assert (tmp_path / "best/weights").read_text() == "new"
    assert seen == [["best", folder.name] if folder.name > "best" else [folder.name, "best"]]
    assert (folder / "weights").read_text() == "old"  # as a kill before the removal leaves it
    monkeypatch.undo()
    clean_below(tmp_path)
    assert names(tmp_path) == ["best"]


def test_what_killed_writers_left_is_cleaned_however_deep(tmp_path: Path) -> None:
    deep = tmp_path / "artifacts/checkpoints"
    (deep / ".step-4.old-otherhost-1-abc/inner").mkdir(parents=True)
    (deep / ".step-4.new-otherhost-1-abd").mkdir()
    (deep / ".step-9.new-otherhost-1-abe").mkdir()
    (tmp_path / "artifacts/.result.json.new-otherhost-1-abf").write_text("{")
    clean_below(tmp_path / "artifacts")
    assert names(deep) == ["step-4"]
    assert names(tmp_path / "artifacts") == ["checkpoints"]


@pytest.mark.parametrize("place", ["checkpoints", "checkpoints/step-4", "weights-0/parameters.safetensors"])
def test_links_below_are_refused_before_anything_is_cleaned(tmp_path: Path, place: str) -> None:
    left = tmp_path / "run/.result.json.new-otherhost-1-abf"
    link = tmp_path / "run" / place
    link.parent.mkdir(parents=True)
    left.write_text("{")
    (tmp_path / "outside").mkdir()
    link.symlink_to(tmp_path / "outside")
    with pytest.raises(
        CheckpointError, match=r"got the link .*, expected a file or folder of the run itself"
    ):
        clean_below(tmp_path / "run")
    assert left.exists()
