"""What a folder's safetensors files hold, read from their headers alone and within bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import ModelError, explain
from trimtab.runs.files import check_regular, parse_json, reading

HEADER_LIMIT = 100_000_000
"""Bytes that a safetensors header may have; the format's own limit."""

INDEX = "model.safetensors.index.json"
_WEIGHTS = "weights in safetensors"
_WIDTHS = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
}


@dataclass(frozen=True)
class Header:
    """One tensor of a file.

    Attributes:
        shape: of the tensor.
        dtype: as safetensors names it, such as "BF16".
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def headers_of(folder: Path) -> dict[str, Header]:
    """Shape and type of each tensor in a folder's safetensors files; none where the folder has no such file.

    Raises:
        ModelError: a file is no safetensors file, a pointer of Git LFS, or cut short; it is named.
    """
    found: dict[str, Header] = {}
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        found |= read_headers(file)
    return found


def read_headers(file: Path) -> dict[str, Header]:
    """Shape and type of each tensor of one file.

    Raises:
        ModelError: see `headers_of`.
    """
    check_regular(file, _WEIGHTS, error=ModelError)
    with reading(file, _WEIGHTS, error=ModelError), file.open("rb") as stream:
        size = file.stat().st_size
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if start.startswith(b"version "):
            hint = "git lfs pull, or downloading the file itself"
            raise ModelError(f"{file}: {explain('a pointer of Git LFS', _WEIGHTS, hint)}")
        if len(start) < 8 or length > min(HEADER_LIMIT, size - 8):
            raise _cut(file, f"{size} bytes, of which a header would take {length}")
        text = stream.read(length)
    with reading(file, _WEIGHTS, error=ModelError):
        header = parse_json(text.decode(), str(file), "the header of a safetensors file", error=ModelError)
    if not isinstance(header, dict):
        raise ModelError(f"{file}: {explain(f'a header that is a {type(header).__name__}', 'a mapping')}")
    header.pop("__metadata__", None)
    return {name: _header(file, name, entry, size - 8 - length) for name, entry in header.items()}


def _header(file: Path, name: str, entry: Any, room: int) -> Header:
    where = f"{file}, {name}"
    try:
        shape, dtype, (start, end) = entry["shape"], entry["dtype"], entry["data_offsets"]
        right = all(type(one) is int and one >= 0 for one in (*shape, start, end)) and isinstance(dtype, str)
    except (TypeError, KeyError, ValueError):
        right = False
    if not right:
        raise ModelError(f"{where}: {explain('an entry of another kind', 'shape, dtype and data_offsets')}")
    header = Header(tuple(shape), dtype)
    if end > room:
        raise _cut(file, f"{room} bytes of numbers, where {name} ends at byte {end}")
    if end < start or (dtype in _WIDTHS and end - start != header.size * _WIDTHS[dtype]):
        got = f"{end - start} bytes for shape {tuple(shape)} of {dtype}"
        raise ModelError(f"{where}: {explain(got, 'as many as the shape takes')}")
    return header


def _cut(file: Path, got: str) -> ModelError:
    hint = "downloading it again: it is cut short or damaged"
    return ModelError(f"{file}: {explain(got, 'a whole safetensors file', hint)}")
