"""What a run notes about the machine; nothing that a folder brings along is run for it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from trimtab.runs import environment
from trimtab.runs.environment import commit_of

WHO = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always")


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *WHO, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One commit with one file."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "file").write_text("one")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "file")
    git(folder, "commit", "-qm", "first")
    return folder


def test_the_description_is_plain() -> None:
    known = environment.describe()
    assert json.loads(json.dumps(known)) == known
    assert known["hardware"]["memory_bytes"] > 2**20


def test_git(repository: Path) -> None:
    assert environment.git(repository.parent) is None
    clean = environment.git(repository)
    assert clean == {"commit": git(repository, "rev-parse", "HEAD"), "changed": False}
    (repository / "inner").mkdir()
    (repository / "untracked").write_text("new")
    assert environment.git(repository / "inner") == clean
    (repository / "file").write_text("two")
    assert environment.git(repository) == {**clean, "changed": True}
    git(repository, "add", "file")
    assert environment.git(repository) == {**clean, "changed": True}
    git(repository, "commit", "-qm", "second")
    git(repository, "checkout", "-q", "--detach", "HEAD~1")
    assert environment.git(repository) == clean


def test_packed_refs_worktrees_and_submodules(repository: Path) -> None:
    git(repository, "pack-refs", "--all")
    git(repository, "gc", "-q")
    assert not (repository / ".git/refs/heads/main").exists()
    clean = environment.git(repository)
    assert clean == {"commit": git(repository, "rev-parse", "HEAD"), "changed": False}
    git(repository, "worktree", "add", "-q", "-b", "other", "../linked")
    linked = repository.parent / "linked"
    assert environment.git(linked) == clean
    (linked / "file").write_text("two")
    assert environment.git(linked) == {**clean, "changed": True}
    outer = repository.parent / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    git(outer, "submodule", "add", "-q", str(repository), "inner")
    assert environment.git(outer / "inner") == clean
    assert environment.git(outer) is None  # no commit yet


def test_without_git_the_commit_is_known_and_what_changed_is_not(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = git(repository, "rev-parse", "HEAD")
    monkeypatch.setenv("PATH", "")
    assert environment.git(repository) == {"commit": expected, "changed": None}


HOSTILE = {
    "fsmonitor": {"core.fsmonitor": "{hook}"},
    "a filter of .gitattributes": {"filter.x.clean": "{hook}", "filter.x.smudge": "{hook}"},
    "a filter that is a process": {"filter.x.process": "{hook}", "filter.x.required": "true"},
    "a difference driver": {
        "diff.x.textconv": "{hook}",
        "diff.x.command": "{hook}",
        "diff.external": "{hook}",
    },
    "hooks": {"core.hooksPath": "{folder}"},
    "an alias and a pager": {"alias.status": "!{hook}", "core.pager": "{hook}", "pager.status": "{hook}"},
    "an included file": {"include.path": "{folder}/more"},
    "remote objects": {
        "extensions.partialClone": "origin",
        "remote.origin.url": "ext::{hook}",
        "core.sshCommand": "{hook}",
        "protocol.ext.allow": "always",
    },
    "a submodule": {"core.fsmonitor": "{hook}"},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_nothing_of_the_folder_is_run(what: str, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these makes an ordinary `git status`, or a command beside it, start the hook."""
    ran, hook = repository.parent / "ran", repository / "hook"
    hook.write_text(f"#!/bin/sh\ntouch '{ran}'\ncat\n")
    hook.chmod(0o755)
    for name in ("post-index-change", "git"):  # the latter for a search path with "." in it
        (repository / name).write_text(hook.read_text())
        (repository / name).chmod(0o755)
    (repository / "more").write_text(f"[core]\n\tfsmonitor = {hook}\n")
    (repository / ".gitattributes").write_text("* filter=x diff=x\n")
    victim = repository
    if what == "a submodule":
        git(repository, "submodule", "add", "-q", str(repository), "inner")
        git(repository, "commit", "-qm", "inner")
        victim = repository / "inner"
    for key, value in HOSTILE[what].items():
        git(victim, "config", key, value.format(hook=hook, folder=repository))
    (repository / "file").write_text("two")  # as long as before, so that only its content tells
    os.utime(repository / "file", (time.time() + 5, time.time() + 5))
    ran.unlink(missing_ok=True)
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(hook))
    monkeypatch.setenv("PATH", f".:{os.environ['PATH']}")
    monkeypatch.chdir(repository)
    found = environment.git()
    assert found is not None
    assert found["changed"] is True
    assert not ran.exists()


@pytest.mark.parametrize(
    "head",
    [
        "",
        "ref: refs/heads/none",
        "ref: ../../../secret",
        "ref: refs/heads/../../../secret",
        "ref: HEAD",
        "x" * 5000,
    ],
)
def test_a_head_that_leads_nowhere(repository: Path, head: str) -> None:
    (repository.parent / "secret").write_text("a" * 40)
    (repository / ".git/HEAD").write_text(head)
    assert environment.git(repository) is None


def test_pipes_and_loops_are_not_waited_for(repository: Path) -> None:
    (repository / ".git/refs/heads/main").unlink()
    os.mkfifo(repository / ".git/refs/heads/main")
    assert commit_of(repository) is None
    (repository / ".git").rename(repository / "moved")
    (repository / ".git").write_text("gitdir: .git\n")
    assert commit_of(repository) is None
    (repository / ".git").unlink()
    os.mkfifo(repository / ".git")
    assert commit_of(repository) is None
