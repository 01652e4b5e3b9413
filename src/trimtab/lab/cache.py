"""Folders that are expensive to make and are made once, whoever asks first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from trimtab.runs.atomic import atomic_directory


def built_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, after `build` has filled it, here or in another process.

    The first to ask builds under a lock while the others wait; a build that fails or is killed leaves nothing
    and the next one starts again. The lock's file stays beside the folder.

    Args:
        folder: where the result belongs.
        build: fills the empty folder it is given.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            with atomic_directory(folder, replace=False) as temporary:
                build(temporary)
    return folder
