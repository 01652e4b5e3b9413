"""Atomic files and folders: there whole or not at all, whenever the writer is killed.

Checksums of a folder's files are written with them, so that a flipped bit is noticed before it is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from trimtab.errors import CheckpointError, explain
from trimtab.runs.files import read_json

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<kind>new|old)-(?P<host>\w+)-(?P<pid>\d+)-(?P<mark>\w+)")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Of renameat2 (Linux 3.15, include/uapi/linux/fcntl.h and fs.h): paths from the current folder; swap the two."""

_active: set[str] = set()


@contextlib.contextmanager
def full_disk_is_clear(path: Path) -> Iterator[None]:
    """Turn "no space left" into a CheckpointError that says what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        room = "room for it; what was there before is intact: free some space, then resume"
        raise CheckpointError(explain(f"'{error.strerror}' while writing {path}", room)) from error


def write_atomic(path: Path, text: str) -> None:
    """Atomic write of a text file by a temporary one; readers see the old or the new, never a part.

    Raises:
        CheckpointError: the disk is full, or there is a folder, a pipe or a device, of which a file takes no place.
    """
    if path.exists() and not path.is_file():
        kind, hint = ("a folder", "a file in it") if path.is_dir() else ("a pipe or a device", "")
        raise CheckpointError(explain(f"{path}, {kind}", "a file to write", hint))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_path(path, "new")
    try:
        with full_disk_is_clear(path):
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        _active.discard(temporary.name)
    _sync_folder(path.parent)


@contextlib.contextmanager
def atomic_directory(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Atomic write of a folder under a temporary name next to `path`; it gets its name when the block ends well.

    Files are flushed to the disk first. After an exception nothing is left and `path` is as before.
    What killed writers left behind is removed when the same folder is written again.

    Args:
        path: the folder to make.
        replace: True puts the new folder in the place of an old one (checkpoints: one writer);
            False keeps what another process has finished meanwhile (caches: any number of writers).

    Raises:
        CheckpointError: the disk is full; the previous folder is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clean_leftovers(path.parent, only=path.name)
    temporary = _temporary_path(path, "new")
    try:
        with full_disk_is_clear(path):
            temporary.mkdir()
            yield temporary
            for file in filter(Path.is_file, temporary.rglob("*")):
                _sync(file)
            _sync_folder(temporary)
            _move_into_place(temporary, path, replace)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _active.discard(temporary.name)
    _sync_folder(path.parent)


def clean_below(folder: Path) -> None:
    """`clean_leftovers` of a folder and of every folder below it; the caller holds a lock on all of them.

    Raises:
        CheckpointError: a link is among them: what is written through it would land outside. Nothing is changed then.
    """
    folders = _folders(folder)
    for each in folders:
        clean_leftovers(each, everyones=True)
    for back in set(_folders(folder)) - set(folders):  # what a folder that was put back holds
        clean_leftovers(back, everyones=True)


def refuse_link(path: Path) -> None:
    """Raise a CheckpointError where a file or folder of a run is a link, so that nothing is written through it."""
    if path.is_symlink():
        expected, hint = "a file or folder of the run itself", "what it points at in its place"
        raise CheckpointError(explain(f"the link {path}", expected, hint))


def _folders(folder: Path) -> list[Path]:
    """A folder and all below it, however deep."""
    refuse_link(folder)
    folders, waiting = [], [folder] if folder.is_dir() else []
    while waiting:
        folders.append(waiting.pop())
        for inner in sorted(folders[-1].iterdir()):
            refuse_link(inner)
            if inner.is_dir():
                waiting.append(inner)
    return folders


def clean_leftovers(folder: Path, *, only: str | None = None, everyones: bool = False) -> None:
    """Remove what killed writers left in `folder`; put a folder back whose replacement never arrived.

    Args:
        folder: where to look (not below it); it may be missing.
        only: leave everything but this name alone.
        everyones: the caller holds a lock on the folder, so that no other process can be writing in it.
    """
    if not folder.is_dir():
        return
    for left in sorted(folder.iterdir()):
        match = _LEFTOVER.fullmatch(left.name)
        if match is None or (only is not None and match["name"] != only) or left.name in _active:
            continue
        if not everyones and _may_be_writing(match["host"], int(match["pid"])):
            continue
        if match["kind"] == "old" and not (folder / match["name"]).exists():
            left.rename(folder / match["name"])
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _may_be_writing(host: str, pid: int) -> bool:
    """Whether a writer may live: also where in doubt, on another machine or a system that cannot say."""
    if host != _host() or os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError) as error:
        return isinstance(error, PermissionError)
    return pid != os.getpid()


def _move_into_place(temporary: Path, path: Path, replace: bool) -> None:
    if not replace or not path.exists():
        try:
            temporary.rename(path)
        except OSError as error:  # to lose the race is fine where what another one finished is kept
            if replace or error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        return
    if _exchange(temporary, path):
        return  # what was there before has the temporary name now, which the caller removes
    old = _temporary_path(path, "old")
    try:
        path.rename(old)
        temporary.rename(path)
    except BaseException:
        if not path.exists():
            old.rename(path)
        raise
    finally:
        _active.discard(old.name)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one operation, so that neither is ever missing; False where the system cannot."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a C library without it
            swap = ctypes.CDLL(None, use_errno=True).renameat2
            swap.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
            return not swap(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return False


def _temporary_path(path: Path, kind: str) -> Path:
    mark = f"{kind}-{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    temporary = path.with_name(f".{path.name}.{mark}")
    _active.add(temporary.name)
    return temporary


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; a system that cannot sync folders is left alone."""
    with contextlib.suppress(OSError):
        _sync(folder)


CHECKSUMS = "checksums.json"
"""The file that holds the SHA-256 of every other file of its folder."""


def write_checksums(folder: Path) -> None:
    """Note the SHA-256 of every file below `folder` in its `checksums.json`.

    Call it inside `atomic_directory`, when all else is written.
    """
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / CHECKSUMS]
    sums = {file.relative_to(folder).as_posix(): sha256(file) for file in files}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")


def verify_checksums(folder: Path, only: Collection[str] | None = None) -> None:
    """Compare the files of a folder with what was noted when they were written.

    Args:
        folder: one that `write_checksums` finished; a folder without `checksums.json` is of an earlier version and
            passes.
        only: names of files to look at; the others are not read.

    Raises:
        CheckpointError: a file is missing or differs; it is named.
    """
    if not (folder / CHECKSUMS).exists():
        return
    sums = read_json(folder / CHECKSUMS, "checksums written by trimtab", error=CheckpointError)
    if not isinstance(sums, dict):
        message = explain(type(sums).__name__, "a mapping of checksums")
        raise CheckpointError(f"{folder / CHECKSUMS}: {message}")
    if missing := sorted(set(only or ()) - set(sums)):
        raise CheckpointError(explain(f"no checksum of {folder / missing[0]}", "one of every file written"))
    for name in [name for name in sums if only is None or name in only]:
        file = folder / name
        if not file.is_file():
            raise CheckpointError(explain(f"no file {file}", "every file that was written"))
        if sha256(file) != sums[name]:
            raise CheckpointError(explain(f"damaged {file}", "the bytes that were written (SHA-256)"))


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
