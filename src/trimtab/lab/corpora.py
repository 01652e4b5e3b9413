"""Real text in distinct domains, made from the Python installation: nothing to download.

The content follows the versions of Python and of the packages, so a corpus carries a fingerprint and the
versions it was made from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import DataError, explain
from trimtab.lab.cache import built_once
from trimtab.lab.installation import stdlib
from trimtab.lab.sources import available, find, known
from trimtab.runs.places import cache_home

SPLITS = ("train", "validation", "test")
RECIPE = 1
"""Raised when the same installation would give other text, so that no cache serves the old one."""

_CAP = 2_000_000
_FILE_CAP = 64_000
_LONG_LINE = 40
_SHORTEST = 100
_LEAST = 200_000
# Of ten files in the order of their hashes: eight, one and one.
_DEAL = ("train", "validation", "train", "train", "train", "test", "train", "train", "train", "train")


@dataclass(frozen=True)
class CleanFile:
    """A file's documents after cleaning, and its name."""

    key: str
    documents: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of text."""
        return sum(len(document.encode()) for document in self.documents)


def corpora() -> tuple[str, ...]:
    """The names of the corpora that can be made on this machine."""
    return available()


def corpus(name: str, cache: Path | None = None) -> Path:
    """A folder with real text of one domain, made on first use (seconds) and kept.

    `train.jsonl`, `validation.jsonl` and `test.jsonl` hold one `{"text": ...}` a line, about 8 : 1 : 1, together
    at most 2 MB. No file of the installation is in two splits, no document occurs twice, and no line longer than
    40 characters stands in two files (licences, boilerplate). `card.json` has versions, sizes, the files of each
    split and a fingerprint of the text.

    Args:
        name: one of `corpora()`.
        cache: where to keep it; None means the cache of this machine.

    Raises:
        DataError: there is no such corpus, or the installation lacks its files; says which it has.
    """
    source = known(name)
    made_from = json.dumps([RECIPE, source.versions(), str(stdlib())])
    key = hashlib.sha256(made_from.encode()).hexdigest()[:12]
    folder = (cache_home() if cache is None else cache) / "lab" / "corpora" / f"{name}-{key}"
    return built_once(folder, lambda temporary: _build(name, temporary))


def read_card(folder: Path) -> dict[str, Any]:
    """What is written about a corpus or a lab model in its folder."""
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert isinstance(card, dict)
    return card


def _build(name: str, folder: Path) -> None:
    source = known(name)
    files = clean(in_order(find(name)), source.documents)
    size = sum(file.size for file in files)
    if size < _LEAST:
        got = f"{size} bytes of text in {len(files)} files"
        raise DataError(f"corpus {name!r}: {explain(got, f'at least {_LEAST}', f'one of {available()}')}")
    dealt = deal(files)
    for split, its in dealt.items():
        lines = [
            json.dumps({"text": document}, ensure_ascii=False) for file in its for document in file.documents
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    card = {
        "schema": 1,
        "name": name,
        "what": source.what,
        "recipe": RECIPE,
        "versions": source.versions(),
        "fingerprint": fingerprint(folder),
        "splits": {split: _sizes(its) for split, its in dealt.items()},
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def fingerprint(folder: Path) -> str:
    """SHA-256 of the text of the three splits, as hex digits."""
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update((folder / f"{split}.jsonl").read_bytes())
    return digest.hexdigest()


def in_order(files: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Names and texts of files in the order of their names' hashes; what is not UTF-8 is passed over."""
    for key in sorted(files, key=_hash):
        try:
            yield key, files[key].read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue


def clean(
    files: Iterable[tuple[str, str]], documents: Callable[[str], list[str]], cap: int = _CAP
) -> list[CleanFile]:
    """Files with repeated long lines, duplicate and tiny documents removed, until `cap` bytes are there.

    A line of more than 40 characters stays only in the first file that has it. A file gives at most 64 kB.
    """
    lines: set[str] = set()
    seen: set[str] = set()
    kept: list[CleanFile] = []
    room = cap
    for key, text in files:
        whole = documents(text)
        fresh = [_without(lines, document) for document in whole]
        lines.update(line for document in whole for line in _long_lines(document))
        distinct = [document for document in dict.fromkeys(fresh) if document not in seen]
        file = CleanFile(key, tuple(_within(min(room, _FILE_CAP), distinct)))
        seen.update(file.documents)
        if file.documents:
            kept.append(file)
            room -= file.size
        if room < _SHORTEST:
            break
    return kept


def deal(files: Sequence[CleanFile]) -> dict[str, list[CleanFile]]:
    """Whole files to splits: of every ten, eight to train and one each to validation and test."""
    dealt: dict[str, list[CleanFile]] = {split: [] for split in SPLITS}
    for place, file in enumerate(files):
        dealt[_DEAL[place % len(_DEAL)]].append(file)
    return dealt


def _without(lines: set[str], document: str) -> str:
    kept = [line.rstrip() for line in document.splitlines() if line.strip() not in lines]
    return "\n".join(kept).strip("\n")


def _long_lines(document: str) -> Iterator[str]:
    stripped = (line.strip() for line in document.splitlines())
    return (line for line in stripped if len(line) > _LONG_LINE)


def _within(cap: int, documents: Sequence[str]) -> Iterator[str]:
    """Documents up to `cap` bytes in all, the last one cut at a line; tiny ones left out."""
    for document in documents:
        raw = document.encode()
        text = document if len(raw) <= cap else raw[:cap].decode(errors="ignore").rpartition("\n")[0]
        if len(text) >= _SHORTEST:
            yield text
        cap -= len(raw)
        if cap <= 0:
            return


def _sizes(files: Sequence[CleanFile]) -> dict[str, Any]:
    return {
        "documents": sum(len(file.documents) for file in files),
        "bytes": sum(file.size for file in files),
        "files": [file.key for file in files],
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
