"""Short texts that show a behaviour, from a file of the user's."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.data.record_files import refuse_records
from trimtab.data.records import Text
from trimtab.data.sources import Files, find, kind_of
from trimtab.errors import DataError, explain
from trimtab.runs.files import read_text
from trimtab.seeds import derive

LIMIT = 2**30
"""Bytes that a file of texts may have."""
_LOOKED_AT = 20


@dataclass(frozen=True)
class Examples:
    """Texts to fit with, and others to judge by.

    Attributes:
        fit: as many as were asked for.
        held_out: further ones.
        different: texts that the file holds, each once.
        blank: lines and records of white space alone, left out.
        repeated: further copies of a text, left out.
        shared: different texts that stand on another side too, left out.
    """

    fit: tuple[str, ...]
    held_out: tuple[str, ...]
    different: int = 0
    blank: int = 0
    repeated: int = 0
    shared: int = 0


def read_examples(
    source: str | Path,
    name: str,
    fit: int,
    held_out: int,
    seed: int = 0,
    *,
    without: Collection[str] = frozenset(),
) -> Examples:
    """Different examples drawn at random from a file: each line of a text file, each record of JSON, CSV or Parquet.

    A line ends where editors end one (LF, CR LF or CR), not at other separators of Unicode, which texts may hold.

    Args:
        source: a file, or a glob pattern.
        name: what to call it in errors.
        fit: how many to fit with.
        held_out: how many more to judge by.
        seed: of the draw; the same file and seed give the same examples.
        without: texts that are left out, since they stand on another side.

    Raises:
        DataError: a file that cannot be read, JSON given as text, a record that is no text, or fewer
            different texts than asked for.
    """
    all_texts = list(_texts(source, name))
    some = [text for text in all_texts if text.strip()]
    different = list(dict.fromkeys(some))
    texts = [text for text in different if text not in without]
    shared = len(different) - len(texts)
    if len(texts) < fit + held_out:
        got = f"{len(texts)} different texts in {source}"
        got += f" beside {shared} that stand on another side" if shared else ""
        expected = f"{fit + held_out}: {fit} to fit with and {held_out} held out"
        raise DataError(f"{name}: {explain(got, expected, 'fewer of each, or more text')}")
    order = np.random.default_rng(derive(seed, "examples", name)).permutation(len(texts))
    drawn = [texts[place] for place in order[: fit + held_out]]
    blank, repeated = len(all_texts) - len(some), len(some) - len(different)
    return Examples(tuple(drawn[:fit]), tuple(drawn[fit:]), len(different), blank, repeated, shared)


def different_texts(source: str | Path, name: str) -> frozenset[str]:
    """Every text of a file; for what is refused see `read_examples`."""
    return frozenset(text for text in _texts(source, name) if text.strip())


def _texts(source: str | Path, name: str) -> Iterator[str]:
    for path in find(str(source), name):
        if kind_of(path) == "text":
            lines = _lines(path, name)
            refuse_records(path)
            yield from lines
        else:
            yield from (_text(item, path, name) for item in Files((path,)))


def _lines(path: Path, name: str) -> list[str]:
    whole = read_text(path, "text", limit=LIMIT)
    lines = whole.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    first = [line for line in lines if line.strip()][:_LOOKED_AT]
    if first and all(map(_is_record, first)):
        got = f"lines of {path} that are JSON objects"
        raise DataError(f"{name}: {explain(got, 'a text per line', 'a name that ends in .jsonl')}")
    return lines if whole else []


def _is_record(line: str) -> bool:
    """Whether a line is a JSON object with a key."""
    try:
        return isinstance(value := json.loads(line), dict) and bool(value)
    except (ValueError, RecursionError):
        return False


def _text(item: object, path: Path, name: str) -> str:
    if not isinstance(item, Text):
        raise DataError(f"{name}: {explain(f'a {type(item).__name__.lower()} in {path}', 'plain texts')}")
    try:
        item.text.encode()
    except UnicodeEncodeError as error:
        got = f"half a character (U+{ord(error.object[error.start]):04X}) in a text of {path}"
        raise DataError(f"{name}: {explain(got, 'whole characters')}") from error
    return item.text
