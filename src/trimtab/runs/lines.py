"""JSON on disk: files of rows that grow, and single values."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.errors import CheckpointError, explain
from trimtab.runs.atomic import full_disk_is_clear
from trimtab.runs.files import check_regular, parse_json, reading
from trimtab.runs.plain import to_json

LIMIT = 512 * 2**20
"""Bytes that a JSON file of a run may have."""

_PART = 2**20


class JsonLines:
    """A file of JSON lines that only grows, except when a resume cuts it back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            check_regular(path, "rows of a run", error=CheckpointError)
            whole = path.read_bytes()
            kept = whole.rfind(b"\n") + 1
            if kept < len(whole):
                os.truncate(path, kept)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one line; after an error the file is as before."""
        line = (to_json(row) + "\n").encode()
        before = self.offset()
        try:
            with full_disk_is_clear(self.path), self.path.open("ab") as file:
                file.write(line)
        except BaseException:
            self._undo(before)
            raise

    def _undo(self, offset: int) -> None:
        if self.path.exists() and self.offset() > offset:
            os.truncate(self.path, offset)

    def offset(self, *, sync: bool = False) -> int:
        """Bytes in the file; `sync` puts them on the disk first."""
        if not self.path.exists():
            return 0
        if sync:
            with self.path.open("ab") as file:
                os.fsync(file.fileno())
        return self.path.stat().st_size

    def truncate(self, offset: int) -> None:
        """Cut the file back to `offset` bytes; CheckpointError when it is shorter than that."""
        if offset > self.offset():
            raise CheckpointError(
                explain(f"{self.offset()} bytes in {self.path}", f"at least the checkpoint's {offset}")
            )
        if self.path.exists():
            os.truncate(self.path, offset)

    def rows(self) -> list[dict[str, Any]]:
        """What `read_lines` finds in the file."""
        return read_lines(self.path)


def digest(path: Path, size: int) -> str:
    """The SHA-256 of the first `size` bytes of a file, in hexadecimal; of none where it is missing."""
    found, left = hashlib.sha256(), size
    if path.exists():
        check_regular(path, "rows of a run", error=CheckpointError)
        with path.open("rb") as file:
            while left and (part := file.read(min(left, _PART))):
                found.update(part)
                left -= len(part)
    return found.hexdigest()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file; [] when it is missing; a torn last line is left out.

    Raises:
        CheckpointError: any other line is not JSON; it is named.
    """
    if not path.exists():
        return []
    check_regular(path, "rows of a run", error=CheckpointError)
    with reading(path, "rows of a run", error=CheckpointError):
        lines = path.read_bytes().split(b"\n")[:-1]
    return [_row(path, number, line) for number, line in enumerate(lines, start=1)]


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    row = _parsed(line, f"{path}, line {number}: {explain('damaged text', 'a JSON row')}")
    if not isinstance(row, dict):
        raise CheckpointError(f"{path}, line {number}: {explain(f'a {type(row).__name__}', 'a JSON row')}")
    return row


def read_json(path: Path, limit: int = LIMIT) -> Any:
    """The value in a JSON file of a run.

    Raises:
        CheckpointError: it is missing, no regular file, larger than `limit` bytes, nested too deep, or not JSON.
    """
    if not path.exists():
        raise CheckpointError(explain(f"no file {path}", "one written by a run"))
    expected = "JSON written by a run"
    check_regular(path, expected, error=CheckpointError, limit=limit)
    with reading(path, expected, error=CheckpointError):
        raw = path.read_bytes()
    return _parsed(raw, explain(f"damaged text in {path}", expected))


def read_object(path: Path, limit: int = LIMIT) -> dict[str, Any]:
    """The mapping in a JSON file of a run; see `read_json`, and CheckpointError for another value."""
    value = read_json(path, limit)
    if not isinstance(value, dict):
        raise CheckpointError(explain(f"damaged text in {path}", "a JSON object written by a run"))
    return value


def _parsed(raw: bytes, message: str) -> Any:
    try:
        return parse_json(raw.decode("utf-8"), "", "JSON", error=CheckpointError)
    except (UnicodeDecodeError, CheckpointError) as error:
        raise CheckpointError(message) from error
