"""Data sets that the `datasets` library loads: by name from the hub, or from a folder that it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.errors import DataError, explain

_SAID = 600
_SETS, _SET = "dataset_dict.json", ("state.json", "dataset_info.json")


def load_set(name: str, dataset: str, options: Mapping[str, Any]) -> Any:
    """What `datasets.load_dataset` gives for a name; `name` is the domain's.

    Raises:
        DataError: it cannot be loaded, with the beginning of the reason.
    """
    from datasets import load_dataset

    try:
        return load_dataset(dataset, **options)
    except Exception as error:
        expected = "a data set that can be loaded"
        hint = "its name on the hub, or a path"
        if "config" in str(error).lower():
            hint = "config=..., one of those named"
        said = " ".join(str(error).split())[:_SAID] or type(error).__name__
        raise DataError(f"domain {name!r}: {explain(f'{dataset!r}: {said}', expected, hint)}") from error


def is_saved_set(folder: Path) -> bool:
    """Whether `save_to_disk` of a `Dataset` or a `DatasetDict` wrote the folder."""
    return (folder / _SETS).is_file() or all((folder / file).is_file() for file in _SET)


def load_saved(name: str, folder: Path) -> Any:
    """The `Dataset` or `DatasetDict` of a folder that `save_to_disk` wrote; memory-mapped.

    Raises:
        DataError: it is damaged; `name` is the domain's.
    """
    from datasets import load_from_disk

    try:
        return load_from_disk(str(folder))
    except Exception as error:
        got = f"a folder that cannot be read ({str(error).strip().partition(chr(10))[0] or type(error).__name__})"
        what = explain(got, "a data set as save_to_disk writes it", "writing it again")
        raise DataError(f"domain {name!r}: {folder}: {what}") from error
