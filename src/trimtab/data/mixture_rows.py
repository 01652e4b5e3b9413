"""Rows of a mixture as a data set of the `datasets` library, and the sampler that says which come next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import datasets
from torch.utils.data import Sampler

from trimtab.data.tokens import TokenSplit
from trimtab.errors import ConfigError, explain

COLUMNS = ("input_ids", "attention_mask", "labels")
Key = tuple[str, int]
"""A domain and the number of a row in it."""


class MixtureRows(datasets.Dataset):  # type: ignore[misc]
    """Token rows of several domains, each known by its domain and number.

    It has no length, for a mixture has no epoch: a trainer runs for its `max_steps`. Rows that are asked for together
    are padded to the longest of them. Iterated over it gives each row of each domain once.

    Args:
        splits: the rows of each domain; a mapping that may be filled later.
        columns: of each row, some of "input_ids", "attention_mask" and "labels".
    """

    def __init__(self, splits: Mapping[str, TokenSplit], columns: Sequence[str] = COLUMNS) -> None:
        empty = datasets.Dataset.from_dict({name: [] for name in columns})
        super().__init__(empty.data, info=empty.info)
        self.rows, self.columns = splits, tuple(columns)

    def __len__(self) -> NoReturn:
        raise TypeError(
            "a mixture has no length; give the trainer max_steps and callbacks=[mixture.callback]"
        )

    def __bool__(self) -> bool:
        return True

    @property
    def num_rows(self) -> int:
        """Rows of all domains."""
        return sum(map(len, self.rows.values()))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(split)} rows" for name, split in self.rows.items())
        return f"MixtureRows({sizes})"

    def __getitem__(self, key: Key) -> dict[str, list[int]]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[dict[str, list[int]]]:
        """The rows of a batch, padded on the right to the longest."""
        for key in keys:
            if not (isinstance(key, tuple) and key[0] in self.rows):
                hint = "callbacks=[mixture.callback], or a loader with sampler=mixture.sampler"
                raise ConfigError(explain(f"row {key!r} of a mixture", "a domain and a row of it", hint))
        width = max(
            int(self.rows[name].offsets[row + 1] - self.rows[name].offsets[row]) for name, row in keys
        )
        return [self._row(name, row, width) for name, row in keys]

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        return (self[name, row] for name, split in self.rows.items() for row in range(len(split)))

    def remove_columns(self, column_names: str | Sequence[str], *_: Any, **__: Any) -> MixtureRows:
        """The same rows without some columns."""
        gone = {column_names} if isinstance(column_names, str) else set(column_names)
        return MixtureRows(self.rows, [name for name in self.columns if name not in gone])

    def select_columns(self, column_names: str | Sequence[str], *_: Any, **__: Any) -> MixtureRows:
        """The same rows with some columns only."""
        kept = {column_names} if isinstance(column_names, str) else set(column_names)
        return MixtureRows(self.rows, [name for name in self.columns if name in kept])

    def map(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: the rows are tokenised, cut and packed already.

        Raises:
            ConfigError: always.
        """
        hint = "SFTConfig(dataset_kwargs={'skip_prepare_dataset': True})"
        raise ConfigError(
            explain("a mixture to be prepared again", "its rows, which are ready to train on", hint)
        )

    filter = shuffle = map

    def _row(self, name: str, row: int, width: int) -> dict[str, list[int]]:
        batch, pad = self.rows[name].batch([row]), self.rows[name].pad_id
        fills = {"input_ids": pad, "attention_mask": 0, "labels": -100}
        found = {column: getattr(batch, column)[0].tolist() for column in self.columns}
        return {column: ids + [fills[column]] * (width - len(ids)) for column, ids in found.items()}


class MixtureSampler(Sampler[Key]):
    """The rows that come next, without end; each iteration begins where training stands.

    Args:
        ahead: gives an iterator over the batches from there on.
    """

    def __init__(self, ahead: Callable[[], Iterator[Sequence[Key]]]) -> None:
        self._ahead = ahead

    def __iter__(self) -> Iterator[Key]:
        return (key for batch in self._ahead() for key in batch)
