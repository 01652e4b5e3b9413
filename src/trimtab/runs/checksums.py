"""Checksums of a folder's files, kept beside them: a flipped bit is noticed before it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

from trimtab.errors import CheckpointError, explain
from trimtab.runs.files import read_json

CHECKSUMS = "checksums.json"
"""The file that holds the SHA-256 of every other file of its folder."""


def write_checksums(folder: Path) -> None:
    """Note the SHA-256 of every file below `folder` in its `checksums.json`.

    Call it inside `atomic_directory`, when all else is written.
    """
    sums = {
        file.relative_to(folder).as_posix(): sha256(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / CHECKSUMS
    }
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
        raise CheckpointError(
            f"{folder / CHECKSUMS}: {explain(type(sums).__name__, 'a mapping of checksums')}"
        )
    if missing := sorted(set(only or ()) - set(sums)):
        raise CheckpointError(explain(f"no checksum of {folder / missing[0]}", "one of every file written"))
    for name, noted in sums.items():
        if only is not None and name not in only:
            continue
        file = folder / name
        if not file.is_file():
            raise CheckpointError(explain(f"no file {file}", "every file that was written"))
        if sha256(file) != noted:
            raise CheckpointError(explain(f"damaged {file}", "the bytes that were written (SHA-256)"))


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
