from __future__ import annotations

import threading
import time

import pytest

from trimtab.runs.paths import built_once


def test_builds_once_and_returns_the_folder(tmp_path):
    calls = []

    def build(folder):
        calls.append(folder)
        (folder / "file").write_text("content")

    target = tmp_path / "deep" / "folder"
    assert built_once(target, build) == target
    assert built_once(target, build) == target
    assert len(calls) == 1
    assert calls[0] != target
    assert (target / "file").read_text() == "content"


def test_two_at_once_build_once(tmp_path):
    calls = []

    def build(folder):
        calls.append(folder)
        time.sleep(0.2)
        (folder / "file").write_text(str(len(calls)))

    workers = [threading.Thread(target=built_once, args=(tmp_path / "folder", build)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(calls) == 1
    assert (tmp_path / "folder" / "file").read_text() == "1"


def test_a_failed_build_leaves_nothing_and_may_be_tried_again(tmp_path):
    def fail(folder):
        (folder / "half").write_text("half")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        built_once(tmp_path / "folder", fail)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    built_once(tmp_path / "folder", lambda folder: (folder / "file").touch())
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["file"]
