"""Naming counts: what they hold, the files they come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trimtab import NamingCounts
from trimtab.errors import DataError

FRAME = pd.DataFrame(
    {
        "referent": [2, 1, 1, 1, 3],
        "name": ["a", "b", "a", "b", "c"],
        "count": [4, 1, 2, 1, 0],
        "context": list("xxyyx"),
    }
)
FEATURES = pd.DataFrame({"x": [0.0, 1.0, 2.0]}, index=[1, 2, 3])


def test_counts_add_up_and_keep_what_else_is_known() -> None:
    counts = NamingCounts.from_frame(FRAME)
    assert counts.total == 8
    assert counts.referents == [1, 2]
    assert counts.names == ["a", "b"]
    assert counts.matrix().tolist() == [[2, 2], [4, 0]]
    assert counts.matrix([2, 9]).tolist() == [[4, 0], [0, 0]]
    assert counts.table["context"].tolist() == list("xxyyx")
    assert FRAME["count"].tolist() == [4, 1, 2, 1, 0]


@pytest.mark.parametrize("name", ["counts.csv", "counts.tsv", "counts.csv.gz", "counts.parquet"])
def test_files_read_back_and_na_is_a_word(tmp_path: Path, name: str) -> None:
    frame = FRAME.assign(name=["NA", "b", "NA", "b", "null"])
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    counts = NamingCounts.read(path)
    assert counts.names == ["NA", "b"]
    assert counts.referents == [1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": [1, -1, 1, 1, 1]}, "-1 in row 1 of 'count' .1 such rows., expected whole counts"),
        ({"count": [1, 1, 0.5, 1, 1]}, "0.5 in row 2"),
        ({"count": [1, 1, np.nan, 1, 1]}, "nan in row 2"),
        ({"count": list("1x111")}, "'x' in row 1"),
        ({"name": ["a", None, "a", "b", "c"]}, "1 of 5 rows without 'name'"),
        ({"referent": ["", "1", "1", "2", "3"]}, "1 of 5 rows without 'referent'"),
    ],
)
def test_bad_rows_are_refused(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        NamingCounts.from_frame(FRAME.assign(**change))


def test_missing_columns_rows_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'count'.*try 'counts'"):
        NamingCounts.from_frame(FRAME.rename(columns={"count": "counts"}))
    with pytest.raises(DataError, match="no rows"):
        NamingCounts.from_frame(FRAME.iloc[:0])
    (tmp_path / "counts.csv").write_text("referent,name,count\n")
    with pytest.raises(DataError, match=r"no file .*count.csv.*counts.csv"):
        NamingCounts.read(tmp_path / "count.csv")
    (tmp_path / "counts.txt").write_text("")
    with pytest.raises(DataError, match=r"expected a \.csv"):
        NamingCounts.read(tmp_path / "counts.txt")


def test_features_fit_or_are_refused() -> None:
    counts = NamingCounts.from_frame(FRAME)
    assert counts.features_of(FEATURES).tolist() == [[0.0], [1.0]]
    with pytest.raises(DataError, match="1 referents without features"):
        counts.features_of(FEATURES.drop(index=2))
    with pytest.raises(DataError, match="referent 1 twice"):
        counts.features_of(pd.concat([FEATURES, FEATURES]))
    with pytest.raises(DataError, match="not finite"):
        counts.features_of(FEATURES.assign(x=[np.nan, 1, 2]))
    with pytest.raises(DataError, match="expected numbers"):
        counts.features_of(FEATURES.assign(x=list("abc")))


@pytest.mark.parametrize("scale", [1 / 100, 255])
def test_colours_on_another_scale_are_refused(scale: float) -> None:
    lab = pd.DataFrame({"L": [20.0, 80, 50], "a": [10.0, -60, 0], "b": [5.0, 70, 0]}, index=[1, 2, 3])
    counts = NamingCounts.from_frame(FRAME)
    assert counts.features_of(lab).shape == (2, 3)
    with pytest.raises(DataError, match="CIELAB"):
        counts.features_of(lab * scale)
