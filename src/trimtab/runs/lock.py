"""A lock on a run's folder that the system releases when its holder dies."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trimtab.errors import CheckpointError, explain

if sys.platform != "win32":
    import fcntl


def is_locked(path: Path) -> bool:
    """Whether a living process holds the run in this folder."""
    lock = path / ".lock"
    if sys.platform == "win32" or not lock.exists():
        return False
    with _opened(lock) as descriptor:
        return not _try_lock(descriptor)


def take_lock(path: Path) -> int:
    """Lock the run; the system releases it when the process ends, however it ends."""
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    if not _try_lock(descriptor) and not _try_once_more(descriptor):
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise CheckpointError(
            explain(
                f"run {path} held by process {holder}", "a run that nobody writes", "waiting for it to end"
            )
        )
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def _try_once_more(descriptor: int) -> bool:
    """Somebody who only looks whether the run is held (`is_locked`) lets go at once."""
    time.sleep(0.05)
    return _try_lock(descriptor)


def _try_lock(descriptor: int) -> bool:
    """True when locked now, or where the file system has no locks (some network mounts)."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
