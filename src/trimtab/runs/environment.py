"""The environment of a run: versions, git commit, hardware and threads, on which a result may depend.

A repository's own configuration names programs (fsmonitor, filters, hooks, textconv, aliases), and an unpacked archive
can bring one. The commit is therefore read from git's files, and whether files differ from it is asked of git with a
repository of our own, which has the folder's commit, index and objects but none of its configuration.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import re
import subprocess
import sys
import tempfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from trimtab.errors import TrimtabError
from trimtab.runs.files import read_text

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def commit_of(folder: Path) -> tuple[str, Path, Path] | None:
    """The commit that is checked out in the repository around `folder`, the top of its tree, and its git folder.

    Reads HEAD and refs, also those of a linked worktree or a submodule. Variables of git (`GIT_DIR`) are not followed,
    but for `GIT_CEILING_DIRECTORIES`, above which nothing is looked for. None outside a repository, before the first
    commit, or where refs are kept in another format (reftable).
    """
    named = os.environ.get("GIT_CEILING_DIRECTORIES", "").split(os.pathsep)
    ceilings = {Path(each) for each in named if each}
    with contextlib.suppress(OSError, RuntimeError):
        folder = folder.resolve()
        ceilings |= {ceiling.resolve() for ceiling in ceilings}
        above = itertools.takewhile(lambda each: each not in ceilings, folder.parents[:64])
        for top in (folder, *above):
            if (git := _git_folder(top)) is not None:
                commit = _resolve(git)
                return (commit, top, git) if commit else None
    return None


def has_changed(commit: str, top: Path, git: Path) -> bool | None:
    """Whether tracked files differ from the commit; None without git, or where git cannot say.

    Submodules are left out: they have configurations of their own.
    """
    common = _common(git)
    with tempfile.TemporaryDirectory(prefix="trimtab-git-") as repo:
        for name in ("objects", "refs"):
            (Path(repo) / name).mkdir()
        (Path(repo) / "HEAD").write_text(commit + "\n")
        (Path(repo) / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = false\n")
        git_env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {
            "GIT_DIR": repo,
            "GIT_WORK_TREE": str(top),
            "GIT_INDEX_FILE": str(git / "index"),
            "GIT_OBJECT_DIRECTORY": str(common / "objects"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_TERMINAL_PROMPT": "0",
        }
        command = ["git", "status", "--porcelain", "-uno", "--ignore-submodules=all", "--no-renames"]
        # In a folder of our own, so that a search path with "." in it finds no program of the user's folder.
        try:
            done = subprocess.run(command, cwd=repo, env=git_env, capture_output=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
    return bool(done.stdout.strip())


def _git_folder(top: Path) -> Path | None:
    """`.git`, or what a file of that name points at."""
    pointer = _text(top / ".git") or ""
    pointed = pointer.removeprefix("gitdir: ") if pointer.startswith("gitdir: ") else ".git"
    with contextlib.suppress(OSError, ValueError):
        return top / pointed if (top / pointed / "HEAD").is_file() else None
    return None


def _common(git: Path) -> Path:
    """Where a linked worktree keeps what it shares with the others; else the git folder itself."""
    shared = _text(git / "commondir")
    return git / shared if shared else git


def _resolve(git: Path) -> str | None:
    """Follow HEAD to a commit."""
    common, name = _common(git), "HEAD"
    for _ in range(5):
        text = _text(git / name) or _text(common / name) or _packed(common, name)
        if text is None or not text.startswith("ref: "):
            return text if text and _COMMIT.fullmatch(text) else None
        name = text.removeprefix("ref: ").strip()
        if not name.startswith("refs/") or ".." in name:
            return None
    return None


def _packed(common: Path, name: str) -> str | None:
    lines = (_text(common / "packed-refs", 64 * 2**20) or "").splitlines()
    return next((commit for commit, _, ref in (line.partition(" ") for line in lines) if ref == name), None)


def _text(path: Path, limit: int = 4096) -> str | None:
    """The text of a file of at most `limit` bytes; None where there is none."""
    with contextlib.suppress(TrimtabError, ValueError):
        return read_text(path, "text of git", limit=limit).strip() or None
    return None


PACKAGES = (
    "trimtab",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "datasets",
    "safetensors",
    "numpy",
    "scipy",
    "pandas",
    "clarabel",
)


def describe() -> dict[str, Any]:
    """Versions, git commit, hardware and threads of this process as plain JSON values; never fails."""
    facts = {"python": platform.python_version(), "platform": platform.platform(), "versions": versions()}
    return facts | {"git": git(), "hardware": hardware(), "threads": threads()}


def versions() -> dict[str, str]:
    """The installed version of each package that can change a number, as this process found them first."""
    return dict(_installed(PACKAGES))


@cache
def _installed(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions from metadata, whose files take longer to read than a small run takes to train."""
    installed = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def git(folder: Path | None = None) -> dict[str, Any] | None:
    """Commit, and whether tracked files differ from it (None without git); None outside a repository.

    Nothing that the folder brings along is run, whatever its repository is configured to run.
    """
    checkout = commit_of(Path() if folder is None else folder)
    return None if checkout is None else {"commit": checkout[0], "changed": has_changed(*checkout)}


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory in bytes, names of the GPUs.

    GPUs are asked for only where torch is imported already: this must stay instant.
    """
    torch, memory, cpu = sys.modules.get("torch"), None, ""
    with contextlib.suppress(OSError):
        models = re.findall(r"^model name.*?:(.*)", Path("/proc/cpuinfo").read_text("utf-8", "replace"), re.M)
        cpu = models[0].strip() if models else ""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpus = range(torch.cuda.device_count()) if torch is not None and torch.cuda.is_available() else ()
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": cpu or platform.processor() or platform.machine(),
        "cores": len(affinity(0)) if affinity is not None else os.cpu_count() or 1,
        "memory_bytes": memory,
        "gpus": [torch.cuda.get_device_name(index) for index in gpus] if torch is not None else [],
    }


def threads() -> dict[str, Any]:
    """Threads of torch (None while it is not imported) and what the environment asks for."""
    torch = sys.modules.get("torch")
    count = torch.get_num_threads() if torch is not None else None
    return {"torch": count, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}
