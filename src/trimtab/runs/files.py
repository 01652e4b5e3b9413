"""Files that somebody else wrote: read within bounds, and whatever a library raises is told with the file's name."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trimtab.errors import DataError, TrimtabError, explain

TEXT_LIMIT = 64 * 2**20
"""Bytes that a text read whole may have."""

DEPTH_LIMIT = 100
"""How deep lists and mappings may nest in JSON and YAML."""

_EXPECTED = (OSError, ValueError, EOFError, RecursionError, OverflowError, MemoryError)
_LIBRARIES = {
    "pyarrow",
    "pandas",
    "safetensors",
    "safetensors_rust",
    "zlib",
    "zipfile",
    "lzma",
    "_lzma",
    "yaml",
}


@contextlib.contextmanager
def reading(
    path: str | Path, expected: str, *, error: type[TrimtabError] = DataError, hint: str = ""
) -> Iterator[None]:
    """Turn what libraries raise about a damaged, missing or unreadable file into `error`, with the file's name.

    Covers the operating system, decoding, decompression, JSON, YAML, pandas, Arrow and safetensors. What is a fault
    of the code (a KeyError, say) passes; so do our own errors.

    Args:
        path: what to call the file: a path, or a path with a line.
        expected: what it should have held, such as "a Parquet file".
        error: what to raise.
        hint: what to try.

    >>> with reading("a.json", "JSON"):
    ...     json.loads("{")
    Traceback (most recent call last):
    trimtab.errors.DataError: a.json: got a file that cannot be read (Expecting property name ... expected JSON
    """
    try:
        yield
    except TrimtabError:
        raise
    except Exception as raised:
        library = type(raised).__module__.partition(".")[0]
        if not isinstance(raised, _EXPECTED) and library not in _LIBRARIES:
            raise
        raise error(f"{path}: {explain(_reason(raised), expected, hint)}") from raised


def check_regular(
    path: str | Path, expected: str, *, error: type[TrimtabError] = DataError, limit: int | None = None
) -> Path:
    """The path, after making sure that reading it ends: a regular file of at most `limit` bytes.

    Raises:
        error: it is missing, a folder, a pipe or a device, or larger than `limit`.
    """
    path = Path(path)
    with reading(path, expected, error=error):
        found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{path}: {explain(_kind(found.st_mode), expected)}")
    if limit is not None and found.st_size > limit:
        got = f"{found.st_size / 2**20:,.0f} MiB"
        raise error(f"{path}: {explain(got, f'{expected} of at most {limit / 2**20:,.0f} MiB')}")
    return path


def read_text(
    path: str | Path, expected: str, *, error: type[TrimtabError] = DataError, limit: int = TEXT_LIMIT
) -> str:
    """A whole text file, in UTF-8 with or without a byte order mark.

    Raises:
        error: see `check_regular`; or it is not UTF-8, told with the byte at which it fails.
    """
    path = check_regular(path, expected, error=error, limit=limit)
    with reading(path, expected, error=error):
        raw = path.read_bytes()
    return decode(raw, path, expected, error=error)


def decode(
    raw: bytes,
    path: str | Path,
    expected: str,
    *,
    error: type[TrimtabError] = DataError,
    whole: bool = True,
) -> str:
    """UTF-8 bytes, with or without a byte order mark, as text.

    Args:
        raw: the bytes.
        path: the file, for the message.
        expected: what it should have held.
        error: what to raise.
        whole: False for the beginning of a file, which may end within a character.

    Raises:
        error: they are not UTF-8, told with the line and the byte at which it fails.

    >>> decode("caf\u00e9".encode()[:-1], "a.csv", "a table", whole=False)
    'caf'
    """
    try:
        if whole:
            return raw.decode("utf-8-sig")
        return codecs.getincrementaldecoder("utf-8-sig")().decode(raw)
    except UnicodeDecodeError as raised:
        line = raw.count(b"\n", 0, raised.start) + 1
        got = f"bytes that are not UTF-8 ({raised.reason}, line {line}, byte {raised.start})"
        raise error(f"{path}: {explain(got, f'{expected} in UTF-8', 'iconv -t utf-8')}") from raised


def parse_json(text: str, where: str, expected: str, *, error: type[TrimtabError] = DataError) -> Any:
    """The value of a JSON text whose nesting, and whose numbers' length, are bounded.

    Args:
        text: the JSON.
        where: file, or file and line, for the message.
        expected: what it should be, such as "a JSON object".
        error: what to raise.

    Raises:
        error: it is not JSON, a number has more digits than Python reads, or it nests deeper than `DEPTH_LIMIT`.

    >>> parse_json("[" * 500 + "]" * 500, "a.json", "a list")
    Traceback (most recent call last):
    trimtab.errors.DataError: a.json: got values nested deeper than 100, expected a list
    """
    try:
        value = json.loads(text)
    except RecursionError as raised:
        raise error(f"{where}: {explain(_too_deep(), expected)}") from raised
    except json.JSONDecodeError as raised:
        place = f"line {raised.lineno}, " if "\n" in text.strip() else ""
        got = f"text that is not JSON ({raised.msg}, {place}column {raised.colno})"
        raise error(f"{where}: {explain(got, expected)}") from raised
    except ValueError as raised:
        raise error(f"{where}: {explain('a number with too many digits', expected)}") from raised
    if depth(value) > DEPTH_LIMIT:
        raise error(f"{where}: {explain(_too_deep(), expected)}")
    return value


def read_json(
    path: str | Path, expected: str, *, error: type[TrimtabError] = DataError, limit: int = TEXT_LIMIT
) -> Any:
    """The value of a JSON file; see `read_text` and `parse_json` for what is refused."""
    return parse_json(read_text(path, expected, error=error, limit=limit), str(path), expected, error=error)


def depth(value: Any) -> int:
    """How deep lists and mappings nest in a tree of plain values; 0 for a single value, without recursion.

    >>> depth({"a": [1, [2]]}), depth(5)
    (3, 0)
    """
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        one, level = waiting.pop()
        if isinstance(one, dict | list):
            deepest = max(deepest, level)
            inner = one.values() if isinstance(one, dict) else one
            waiting.extend((item, level + 1) for item in inner if isinstance(item, dict | list))
    return deepest


def _too_deep() -> str:
    return f"values nested deeper than {DEPTH_LIMIT}"


def _reason(raised: Exception) -> str:
    if isinstance(raised, FileNotFoundError):
        return "no such file"
    if isinstance(raised, RecursionError):
        return _too_deep()
    if isinstance(raised, OSError) and raised.errno:
        return f"a file that cannot be read ({os.strerror(raised.errno)})"
    first = str(raised).strip().partition("\n")[0]
    return f"a file that cannot be read ({first or type(raised).__name__})"


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
