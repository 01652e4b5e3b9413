"""What a result may depend on besides its config: versions, commit, hardware, threads."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from trimtab.runs.commit import commit_of, has_changed

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
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        "git": git(),
        "hardware": hardware(),
        "threads": threads(),
    }


def versions() -> dict[str, str]:
    """The installed version of each package that can change a number."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def git(folder: Path | None = None) -> dict[str, Any] | None:
    """Commit, and whether tracked files differ from it (None without git); None outside a repository.

    Nothing that the folder brings along is run, whatever its repository is configured to run.
    """
    found = commit_of(Path() if folder is None else folder)
    return None if found is None else {"commit": found[0], "changed": has_changed(*found)}


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory in bytes, names of the GPUs.

    GPUs are asked for only where torch is imported already: this must stay instant.
    """
    return {"cpu": _cpu(), "cores": _cores(), "memory_bytes": _memory(), "gpus": _gpus()}


def threads() -> dict[str, Any]:
    """Threads of torch (None while it is not imported) and what the environment asks for."""
    torch = sys.modules.get("torch")
    return {
        "torch": torch.get_num_threads() if torch is not None else None,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _memory() -> int | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
