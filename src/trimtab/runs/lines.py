"""JSON on disk: files of rows that grow, and single values."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.errors import CheckpointError, explain
from trimtab.runs.atomic import full_disk_is_clear
from trimtab.runs.plain import to_json


class JsonLines:
    """A file of JSON lines that only grows, except when a resume cuts it back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
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


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file; [] when it is missing; a torn last line is left out.

    Raises:
        CheckpointError: any other line is not JSON; it is named.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_row(path, number, line) for number, line in enumerate(lines, start=1)]


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise CheckpointError(f"{path}, line {number}: {explain('damaged text', 'a JSON row')}") from error
    return row


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        CheckpointError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(explain(f"no file {path}", "one written by a run")) from error
    except ValueError as error:
        raise CheckpointError(explain(f"damaged text in {path}", "JSON written by a run")) from error
