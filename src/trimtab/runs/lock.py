"""A lock on a run's folder that the system releases when its holder dies."""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from pathlib import Path

from trimtab.errors import CheckpointError, explain
from trimtab.runs.atomic import full_disk_is_clear

if sys.platform != "win32":
    import fcntl

_NUMBER = re.compile(rb"[0-9\0]{0,20}")
"""What a lock holds: the number of its process, nothing yet, or the zeros that a power cut leaves of it."""


def is_locked(path: Path) -> bool:
    """Whether a living process holds the run in this folder; False where that cannot be told."""
    if sys.platform == "win32":
        return False
    descriptor = _open_to_look(path)
    if descriptor is None:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def take_lock(path: Path) -> int:
    """Lock the run; the system releases it when the process ends, however it ends.

    Raises:
        CheckpointError: another process holds it, or `.lock` is no lock: a link, a pipe, a folder, a file of something
            else, or one that may not be written. It is left as it is.
    """
    try:
        descriptor = _open_lock(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        got = f"a lock {path / '.lock'} that cannot be opened ({error.strerror})"
        raise CheckpointError(explain(got, "a run that may be written", "another folder")) from error
    if not _try_lock(descriptor) and not _try_once_more(descriptor):
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise CheckpointError(
            explain(
                f"run {path} held by process {holder}", "a run that nobody writes", "waiting for it to end"
            )
        )
    try:
        with full_disk_is_clear(path / ".lock"):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_to_look(path: Path) -> int | None:
    """The lock, if only to read where it is another user's; None where there is none."""
    try:
        return _open_lock(path, os.O_RDWR if os.access(path / ".lock", os.W_OK) else os.O_RDONLY)
    except (OSError, CheckpointError):
        return None


def _open_lock(path: Path, flags: int) -> int:
    """Open `.lock` itself, not what a link of that name points at, and only if it holds a process number or nothing."""
    lock = path / ".lock"
    if lock.is_symlink() or (lock.exists() and not lock.is_file()):
        raise _no_lock(lock)
    safely = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(lock, flags | safely, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not _NUMBER.fullmatch(os.read(descriptor, 21)):
        os.close(descriptor)
        raise _no_lock(lock)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _no_lock(lock: Path) -> CheckpointError:
    return CheckpointError(
        explain(f"{lock}, which is no lock of a run", "one that trimtab made", "deleting it")
    )


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
