"""Naming counts: what they hold, the files they come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trimtab import NamingCounts
from trimtab.data.naming import check_cells
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
    with pytest.raises(DataError, match=r"no column 'count'.*try 'counts' under the name 'count'"):
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


def test_trials_without_counts_count_one_per_row() -> None:
    trials = FRAME.drop(columns="count")
    assert NamingCounts.from_frame(trials).total == len(trials)
    for name in ("n", "Count", "freq", "n_counts"):
        with pytest.raises(DataError, match=f"{name!r} under the name 'count'"):
            NamingCounts.from_frame(trials.assign(**{name: 2}))


@pytest.mark.parametrize(
    "cell", ['{"a": 3, "b": 1}', "{'a': 3}", '["a", "b"]', ' {"a": 1.0} ', '[{"name": "a"}]']
)
def test_a_cell_that_holds_names_with_counts_is_no_name(cell: str) -> None:
    with pytest.raises(DataError, match=r"names with their counts, expected one name per row.*json"):
        NamingCounts.from_frame(FRAME.assign(name=["a", "b", cell, "b", "c"]))
    for fine in ("{a}", "[a]", "a: 3", "(b)"):
        NamingCounts.from_frame(FRAME.assign(name=fine))


@pytest.mark.parametrize(
    "counts", [[0] * 5, [1e19] * 5, [2.0**52] * 5, ["x"] * 5, [""] * 5, [None] * 5, [np.inf] * 5]
)
def test_counts_of_nothing_or_of_too_much_are_refused(counts: list) -> None:
    with pytest.raises(DataError, match=r"got .*expected"):
        NamingCounts.from_frame(FRAME.assign(count=counts))


@pytest.mark.parametrize("kind", [int, float, str, "Int64", "category"])
def test_referents_of_one_value_are_one_whatever_type_holds_them(kind: object) -> None:
    counts = NamingCounts.from_frame(FRAME.assign(referent=FRAME["referent"].astype(kind)))  # type: ignore[call-overload]
    for index in ([1, 2, 3], [1.0, 2.0, 3.0], ["1", "2", "3"]):
        assert counts.features_of(FEATURES.set_axis(index)).tolist() == [[0.0], [1.0]]


def test_names_are_texts_and_features_are_of_ordinary_size() -> None:
    assert NamingCounts.from_frame(FRAME.assign(name=[3, 3, "3", 2.0, "a"])).names == ["2", "3"]
    counts = NamingCounts.from_frame(FRAME)
    with pytest.raises(DataError, match="no column of features"):
        counts.features_of(FEATURES[[]])
    for value in (1e308, -np.inf):
        with pytest.raises(DataError, match="'x' of referent 2"):
            counts.features_of(FEATURES.assign(x=[0, value, 0]))
    with pytest.raises(DataError, match="1,000,000 referents by 1,000 names"):
        check_cells(1_000_000, 1_000, "names")
