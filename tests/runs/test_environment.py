"""What a run notes about the machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from trimtab.runs import environment


def test_the_description_is_plain() -> None:
    known = environment.describe()
    assert json.loads(json.dumps(known)) == known
    assert known["hardware"]["memory_bytes"] > 2**20


def test_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment.git(tmp_path) is None
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    (tmp_path / "file").write_text("one")
    for command in (("init", "-q"), ("add", "file"), (*who, "commit", "-qm", "first")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    clean = environment.git(tmp_path)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["changed"] is False
    (tmp_path / "file").write_text("two")
    changed = environment.git(tmp_path)
    assert changed == {**clean, "changed": True}
