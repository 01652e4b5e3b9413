"""Short texts that show a behaviour, from a file of the user's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.data.records import Text
from trimtab.data.sources import Files, find, kind_of
from trimtab.errors import DataError, explain
from trimtab.seeds import derive


@dataclass(frozen=True)
class Examples:
    """Texts to fit with, and others to judge by."""

    fit: tuple[str, ...]
    held_out: tuple[str, ...]


def read_examples(source: str | Path, name: str, fit: int, held_out: int, seed: int = 0) -> Examples:
    """Different examples drawn at random from a file: each line of a text file, each record of JSONL or Parquet.

    Args:
        source: a file, or a glob pattern.
        name: what to call it in errors.
        fit: how many to fit with.
        held_out: how many more to judge by.
        seed: of the draw; the same file and seed give the same examples.

    Raises:
        DataError: a file that cannot be read, a record that is no text, or fewer different texts than asked for.
    """
    texts = list(dict.fromkeys(text for text in _texts(source, name) if text.strip()))
    if len(texts) < fit + held_out:
        got = f"{len(texts)} different texts in {source}"
        expected = f"{fit + held_out}: {fit} to fit with and {held_out} held out"
        raise DataError(f"{name}: {explain(got, expected, 'fewer of each, or more text')}")
    order = np.random.default_rng(derive(seed, "examples", name)).permutation(len(texts))
    drawn = [texts[place] for place in order[: fit + held_out]]
    return Examples(tuple(drawn[:fit]), tuple(drawn[fit:]))


def _texts(source: str | Path, name: str) -> list[str]:
    found = []
    for path in find(str(source), name):
        if kind_of(path) == "text":
            found += _lines(path)
        else:
            found += [_text(item, path, name) for item in Files((path,))]
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        got = f"bytes that are not UTF-8 ({error.reason} at {error.start})"
        raise DataError(f"{path}: {explain(got, 'UTF-8 text', 'iconv -t utf-8')}") from error


def _text(item: object, path: Path, name: str) -> str:
    if not isinstance(item, Text):
        raise DataError(f"{name}: {explain(f'a {type(item).__name__.lower()} in {path}', 'plain texts')}")
    return item.text
