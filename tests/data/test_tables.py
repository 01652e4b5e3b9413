"""Tables that others wrote: what is read, what is refused with file and row, and labels of every type."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import random
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trimtab.data.tables import (
    check_columns,
    column_problems,
    columns_of,
    find_label,
    label_text,
    labels,
    read_table,
    whole_counts,
)
from trimtab.errors import DataError

GOOD = "referent,name,count\n" + "".join(f"r{k},man,{k + 1}\n" for k in range(6))


def parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    pd.DataFrame(columns).to_parquet(out)
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a.csv", GOOD)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", GOOD.replace("r0", "café").encode("latin-1"), r"not UTF-8 .*line 2, byte 23.*iconv"),
        ("a.csv", GOOD.encode("utf-16"), "not UTF-8"),
        ("a.csv", GOOD.encode("utf-16-le"), "a NUL character in line 1"),
        ("a.csv", b"", "an empty file"),
        ("a.csv", b"\n\n", "an empty file"),
        ("a.csv", b"\xef\xbb\xbf", "an empty file"),
        ("a.csv", (GOOD + "a,b,1,9\n").encode(), "Expected 3 fields in line 8, saw 4"),
        ("a.csv", (GOOD + '"a,b,1\n').encode(), "EOF inside string"),
        ("a.csv", b"a,b\n1,2,3\n4,5,6\n", "more than the 2 cells of the header"),
        ("a.csv", b"a,b,a\n1,2,3\n", "column 'a' twice"),
        ("a.csv", ",".join(f"c{k}" for k in range(20_000)).encode(), "20,000 columns"),
        ("a.csv.gz", gzip.compress(GOOD.encode() * 50)[:60], "cannot be read"),
        ("a.csv.gz", GOOD.encode(), "cannot be read"),
        ("a.csv.gz", gzip.compress(bytes(600 * 2**20), 1), "more than 512 MiB when unpacked"),
        ("a.csv.zip", zipped(), r"\.csv\.gz; try unpacking"),
        ("a.csv.bz2", bz2.compress(GOOD.encode()), r"\.csv\.gz; try unpacking"),
        ("a.xlsx", b"PK", r"a \.csv"),
        ("csv", b"a,b", r"a \.csv"),
        ("a.parquet", GOOD.encode(), "a Parquet file"),
        ("a.parquet", b"", "a Parquet file"),
        ("a.parquet", parquet(a=[1, 2])[:80], "a Parquet file"),
    ],
    ids=lambda one: None if isinstance(one, bytes) else str(one)[:12],
)
def test_a_table_that_cannot_be_read_is_told(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as told:
        read_table(tmp_path / name)
    assert name in str(told.value)


def test_pipes_devices_and_folders_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    (tmp_path / "dangling.csv").symlink_to("nowhere")
    for name, message in {
        "pipe": "a pipe",
        "folder": "a folder",
        "zero": "a device",
        "dangling": "no file",
    }.items():
        for read in (read_table, columns_of):
            with pytest.raises(DataError, match=message):
                read(tmp_path / f"{name}.csv")
    for path in ("~nosuchuser/a.csv", "a\0b.csv", "x" * 5000 + ".csv"):
        with pytest.raises(DataError):
            read_table(path)


def test_a_billion_rows_of_one_value_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.data.tables.CELL_LIMIT", 1000)
    (tmp_path / "a.parquet").write_bytes(parquet(a=[1] * 1001))
    with pytest.raises(DataError, match="1,001 rows of 1 columns"):
        read_table(tmp_path / "a.parquet")


def test_texts_stay_texts_and_numbers_are_numbers(tmp_path: Path) -> None:
    columns = {
        "id": ["007", "008", "010"],
        "long": ["1234567890123456789", "1234567890123456788", "1"],
        "word": ["NA", "null", ""],
        "whole": ["1", "-2", "0"],
        "gap": ["0", "", "1"],
        "real": ["1.5", "", "1e3"],
        "truth": ["TRUE", "false", "True"],
        "nan": ["nan", "nan", "nan"],
    }
    pd.DataFrame(columns).to_csv(tmp_path / "a.csv", index=False)
    frame = read_table(tmp_path / "a.csv")
    for name in ("id", "long", "word", "nan"):
        assert frame[name].tolist() == columns[name]
    assert frame["whole"].tolist() == [1, -2, 0]
    assert labels(frame["gap"]).tolist() == ["0", None, "1"]
    np.testing.assert_equal(frame["real"].tolist(), [1.5, np.nan, 1000.0])
    assert frame["truth"].tolist() == [True, False, True]
    assert columns_of(tmp_path / "a.csv") == list(columns)


def test_an_index_of_parquet_is_a_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"L": [1.0, 2.0]}, index=pd.Index(["a", "b"], name="referent"))
    frame.to_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet")["referent"].tolist() == ["a", "b"]
    assert set(columns_of(tmp_path / "a.parquet")) == {"L", "referent"}


# Labels

KINDS = {
    "int": pd.Series([0, 1, 0]),
    "numpy": pd.Series(np.array([0, 1, 0], dtype=np.int8)),
    "float": pd.Series([0.0, 1.0, 0.0]),
    "nullable": pd.Series([0, 1, 0], dtype="Int64"),
    "category": pd.Series([0, 1, 0], dtype="category"),
    "text": pd.Series(["0", " 1 ", "0"]),
    "scalars": pd.Series([np.int64(0), np.float32(1), 0], dtype=object),
    "decimal": pd.Series([Decimal("0"), Decimal("1.0"), Decimal("0")], dtype=object),
    "bytes": pd.Series([b"0", b"1", b"0"], dtype=object),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_every_type_are_the_same_texts(kind: str) -> None:
    assert labels(KINDS[kind]).tolist() == ["0", "1", "0"]


def test_missing_labels_have_no_text_and_lists_are_refused() -> None:
    for missing in (None, np.nan, pd.NA, pd.NaT, "", "  "):
        assert labels(pd.Series(["a", missing], dtype=object)).tolist() == ["a", None]
    assert labels(pd.Series([True, pd.NA], dtype="boolean")).tolist() == ["True", None]
    for wrong in (["a"], {"a": 3}, b"\xff", "\ud800", object()):
        with pytest.raises(DataError, match="got a"):
            labels(pd.Series(["a", wrong], dtype=object))
    assert label_text(pd.Timestamp("2026-01-02")) == "2026-01-02 00:00:00"


def test_the_label_that_is_meant() -> None:
    for wanted, there, found in [
        (0, ["0", "1"], "0"),
        ("0", ["0.0", "1.0"], "0.0"),
        (False, ["False", "True"], "False"),
        (False, ["FALSE", "TRUE"], "FALSE"),
        ("true", ["False", "True"], "True"),
        (np.int64(1), ["0", "1"], "1"),
        ("old man", ["old man"], "old man"),
        (0, ["False", "True"], None),
        ("m", ["male"], None),
        ("1", ["1.0", "01", "1.00"], None),
    ]:
        assert find_label(wanted, there) == found


# Counts and columns


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1, 1e19], "1e.19 in row 1"),
        ([1, 2.0**53], "in row 1"),
        ([2**52, 2**52], "add to 2\\^53 or more at row 1"),
        ([1, np.inf], "inf in row 1"),
        ([1, -np.inf], "-inf in row 1"),
        ([1, pd.NA], "<NA> in row 1"),
        (["1", "9007199254740993"], "'9007199254740993' in row 1"),
        (["1", "1_000"], "'1_000' in row 1"),
        (["1", "٣"], "in row 1"),
        (["1", ""], "'' in row 1"),
        ([1, [2]], "in row 1"),
        ([1, 10**400], "in row 1"),
    ],
)
def test_counts_that_are_not_exact_are_refused_with_their_row(counts: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        whole_counts(pd.DataFrame({"n": pd.Series(counts, dtype=object)}), "n")


def test_columns_that_are_missing_or_there_twice_are_told(tmp_path: Path) -> None:
    frame = pd.DataFrame([[1, 2, 3]], columns=["a", "b", "a"])
    with pytest.raises(DataError, match="column 'a' twice"):
        check_columns(frame, ["a"])
    with pytest.raises(DataError, match="a dict, expected a pandas DataFrame"):
        check_columns({"a": [1]}, ["a"])  # type: ignore[arg-type]
    (tmp_path / "a.csv").write_text(GOOD)
    found = column_problems(
        "counts", str(tmp_path / "a.csv"), {"group": "nam", "cluster": "game", "name": "name"}
    )
    assert [(one.where, one.hint) for one in found] == [("group", "'name'"), ("cluster", "'name'")]
    assert column_problems("counts", "lab:colour-names", {"group": "x"}) == []


@pytest.mark.parametrize("seed", range(3))
def test_spoilt_tables_are_read_or_refused_with_their_name(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    raws = {
        "a.csv": GOOD.encode(),
        "a.csv.gz": gzip.compress(GOOD.encode()),
        "a.parquet": parquet(a=list(range(50))),
    }
    for name, raw in raws.items():
        for _ in range(25):
            content = bytearray(raw)
            for _ in range(rng.choice((1, 1, 4, 16))):
                content[rng.randrange(len(content))] = rng.randrange(256)
            (tmp_path / name).write_bytes(
                content[: rng.randrange(len(content))] if rng.random() < 0.3 else content
            )
            for read in (columns_of, read_table):
                try:
                    read(tmp_path / name)
                except DataError as told:
                    assert name in str(told)  # noqa: PT017 (either end is right)
