"""Encoded records to rows on disk: packed or one row each, written as they come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.data.encode import Encoded

Packing = Literal["packed", "padded"]
ARRAYS = {"ids": np.int32, "loss": np.bool_, "offsets": np.int64, "targets": np.int32, "records": np.int64}
"""The files of a split and their types."""


@dataclass(frozen=True)
class SplitCounts:
    """What became of a split's records.

    Attributes:
        records: records read.
        tokens: tokens kept in rows.
        truncated: rows cut at `seq_len`.
        dropped: records without a single predicted token that carries loss, left out.
        left_over: tokens of packed text after the last full row, left out.
        beyond: of those dropped, records whose loss begins after `seq_len`; a longer row would keep them.
        skipped: conversations that the chat template refuses, or in which the assistant's turns are not certain.
        first_skipped: number of the first of them and why; "" without one.
        blank: blank records, left out; not among `records`.
    """

    records: int
    tokens: int
    truncated: int
    dropped: int
    left_over: int
    beyond: int = 0
    skipped: int = 0
    first_skipped: str = ""
    blank: int = 0


def write_rows(
    folder: Path, split: str, encoded: Iterable[Encoded], seq_len: int, packing: Packing
) -> SplitCounts:
    """Write a split's rows to `folder` as they come, and count.

    Packed texts are joined and cut into rows of exactly `seq_len` tokens; the rest after the last is left
    out; a row counts as that of the record at its middle. All other records make a row each, cut at `seq_len`.
    Memory holds one row and one record.
    """
    records = truncated = dropped = beyond = skipped = 0
    first_skipped = ""
    waiting, owners = np.empty(0, np.int32), np.empty(0, np.int64)
    with RowFiles(folder, split) as files:
        for record in encoded:
            records += 1
            if record.skipped:
                skipped += 1
                first_skipped = first_skipped or f"record {records - 1}, {record.skipped}"
            elif packing == "packed" and record.is_text:
                waiting = np.concatenate([waiting, record.ids])
                owners = np.concatenate([owners, np.full(len(record.ids), records - 1)])
                full = len(waiting) // seq_len * seq_len
                if full:
                    files.add_full(waiting[:full].reshape(-1, seq_len), owners[seq_len // 2 : full : seq_len])
                    waiting, owners = waiting[full:], owners[full:]
            elif record.loss[1:seq_len].any():
                truncated += len(record.ids) > seq_len
                files.add(record.ids[:seq_len], record.loss[:seq_len], records - 1)
            else:
                dropped += 1
                beyond += bool(record.loss[seq_len:].any())
        return SplitCounts(
            records, files.tokens, truncated, dropped, len(waiting), beyond, skipped, first_skipped
        )


class RowFiles:
    """The growing arrays of a split: tokens, loss marks, row borders, targets and record of each row."""

    def __init__(self, folder: Path, split: str) -> None:
        self.tokens = 0
        self._closing = ExitStack()
        self._arrays = {
            part: self._closing.enter_context(GrowingArray(array_file(folder, split, part), dtype))
            for part, dtype in ARRAYS.items()
        }
        self._arrays["offsets"].append([0])

    def __enter__(self) -> RowFiles:
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def add(self, ids: NDArray[np.int32], loss: NDArray[np.bool_], record: int) -> None:
        """One row."""
        self.tokens += len(ids)
        self._arrays["ids"].append(ids)
        self._arrays["loss"].append(loss)
        self._arrays["offsets"].append([self.tokens])
        self._arrays["targets"].append([int(np.count_nonzero(loss[1:]))])
        self._arrays["records"].append([record])

    def add_full(self, rows: NDArray[np.int32], records: NDArray[np.int64]) -> None:
        """(R, T) rows with loss on every token, and the record of each."""
        count, length = rows.shape
        self._arrays["ids"].append(rows.ravel())
        self._arrays["loss"].append(np.ones(rows.size, np.bool_))
        self._arrays["offsets"].append(self.tokens + length * np.arange(1, count + 1))
        self._arrays["targets"].append(np.full(count, length - 1))
        self._arrays["records"].append(records)
        self.tokens += rows.size


class GrowingArray:
    """A one-dimensional .npy file written piece by piece; its header learns the length at the end."""

    def __init__(self, path: Path, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)
        self._length = 0
        self._file = path.open("wb")
        self._write_header()

    def __enter__(self) -> GrowingArray:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def append(self, values: Sequence[int] | NDArray[Any]) -> None:
        """Write more values after those before."""
        array = np.asarray(values, self._dtype)
        self._length += len(array)
        self._file.write(array.tobytes())

    def _write_header(self) -> None:
        # numpy leaves room in the header for the first axis to grow, so that it can be written over.
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)


def array_file(folder: Path, split: str, part: str) -> Path:
    """The file of one array of a split."""
    return folder / f"{split}.{part}.npy"
