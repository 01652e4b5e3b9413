"""Tables in memory: only the columns that make records are read, and never the names of columns as texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from trimtab.data.domains import Domain
from trimtab.data.record_files import Rows
from trimtab.data.records import Chat, Completion, Text
from trimtab.errors import ConfigError, DataError
from trimtab.models.chat import without_nulls

TEXTS = [f"document number {number}" for number in range(40)]
FRAME = pd.DataFrame({"source": "web", "text": TEXTS, "id": range(40)})
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def columns_of(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {name: frame[name].tolist() for name in frame}


TABLES: dict[str, Callable[[], Any]] = {
    "data frame": lambda: FRAME,
    "strings of Arrow": lambda: FRAME.astype({"text": "string[pyarrow]"}),
    "categories": lambda: FRAME.astype({"text": "category"}),
    "Arrow table": lambda: pa.Table.from_pandas(FRAME),
    "Arrow dictionary": lambda: pa.table({"text": pa.array(TEXTS).dictionary_encode(), "id": range(40)}),
    "Arrow batch": lambda: pa.RecordBatch.from_pandas(FRAME),
    "mapping of lists": lambda: columns_of(FRAME),
    "mapping of arrays": lambda: {name: FRAME[name].to_numpy() for name in FRAME},
    "data set": lambda: datasets.Dataset.from_pandas(FRAME),
    "data set with a format": lambda: datasets.Dataset.from_pandas(FRAME).with_format("numpy"),
    "data set with frames": lambda: datasets.Dataset.from_pandas(FRAME).with_format("pandas"),
    "stream": lambda: datasets.Dataset.from_pandas(FRAME).to_iterable_dataset(),
    "series": lambda: FRAME["text"],
    "object array": lambda: np.array(TEXTS, dtype=object),
    "array of strings": lambda: np.array(TEXTS),
    "Arrow column": lambda: pa.chunked_array([TEXTS[:7], TEXTS[7:]]),
    "tuple": lambda: tuple(TEXTS),
    "values of a mapping": lambda: dict(enumerate(TEXTS)).values(),
}


@pytest.mark.parametrize("make", TABLES.values(), ids=list(TABLES))
def test_rows_are_records_however_they_are_held(make: Callable[[], Any]) -> None:
    expected = Domain("d", train=TEXTS)
    for domain in (Domain("d", train=make()), Domain("d", train=make())):
        assert [item.text for item in domain.items("train")] == TEXTS
        assert domain.fingerprint == expected.fingerprint
        assert all(type(item.text) is str for item in domain.items("train"))
    pool = Domain.from_dataset("d", make())
    assert pool.splits == ("train", "validation", "test")
    assert pool.fingerprint == Domain.from_dataset("d", TEXTS).fingerprint


@pytest.mark.parametrize("name", ["data frame", "Arrow table", "mapping of lists", "data set", "stream"])
def test_columns_that_are_not_read_are_told(name: str) -> None:
    domain = Domain("d", train=TABLES[name]())
    told = domain.unread
    assert told[0].startswith("columns 'id', 'source' not used") or told == ("column 'id' not used",)
    _ = domain.contents
    assert domain.unread == told


@pytest.mark.parametrize("kind", [datasets.Audio(), datasets.Image()])
def test_sound_and_pictures_are_never_decoded(kind: Any) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "media": kind})
    raw = {"text": TEXTS, "media": [{"bytes": b"not decoded", "path": None}] * len(TEXTS)}
    table = datasets.Dataset.from_dict(raw).cast(features)
    streamed = table.to_iterable_dataset()
    for source in (table, streamed, datasets.DatasetDict(train=table)):
        domain = Domain.from_dataset("talks", source)
        assert sum(content.records for content in domain.contents.values()) == len(TEXTS)
        assert domain.unread == ("column 'media' not used",)


@pytest.mark.parametrize(
    "rows",
    [
        pd.DataFrame({"text": ["a", None, "b", float("nan")]}),
        pd.DataFrame({"text": pd.array(["a", pd.NA, "b", None], dtype="string")}),
        pd.Series(["a", None, "b", float("nan")]),
        np.array(["a", None, "b", np.float32("nan")], dtype=object),
        pa.table({"text": ["a", None, "b", None]}),
        datasets.Dataset.from_dict({"text": ["a", None, "b", None]}),
        {"text": ["a", None, "b", None]},
        [{"text": "a"}, {"text": None}, "b", None],
    ],
)
def test_rows_without_a_value_are_skipped_and_counted(rows: Any) -> None:
    domain = Domain("d", train=rows)
    assert [item.text for item in domain.items("train")] == ["a", "b"]
    assert domain.contents["train"].without_value == 2
    assert domain.unread == ("2 records without a value skipped",)


def test_kinds_of_record_in_a_table() -> None:
    frame = pd.DataFrame({"prompt": ["p", None], "completion": ["c", None], "messages": [None, TALK]})
    domain = Domain("d", train=frame)
    assert list(domain.items("train")) == [Completion("p", "c"), Chat(tuple(TALK))]
    text_first = Domain("d", train=pd.DataFrame({"text": ["a"], "prompt": ["Q"], "source": ["web"]}))
    assert list(text_first.items("train")) == [Text("a")]
    assert text_first.unread == ("columns 'prompt', 'source' not used",)


@pytest.mark.parametrize("key", ["tools", "documents"])
def test_lists_of_parquet_are_arrays_in_pandas(key: str) -> None:
    given = [{"type": "function", "function": {"name": "f", "tags": ["a", "b"]}}]
    frame = pa.table({"messages": [TALK], key: [given]}).to_pandas()
    assert isinstance(frame["messages"][0], np.ndarray)
    for table in (frame, frame.to_dict("records"), {name: list(frame[name]) for name in frame}):
        (item,) = Domain("d", train=table).items("train")
        assert item == Chat(tuple(TALK), {key: given})
        assert item.digest == Chat(tuple(TALK), {key: given}).digest


def test_keys_that_a_table_fills_in_are_no_keys_of_a_message() -> None:
    call = {"name": "weather", "arguments": {"city": "Oslo"}}
    other = {"name": "time", "arguments": {"zone": "CET"}}
    talks = [
        [TALK[0], {"role": "assistant", "content": "x", "tool_calls": [{"function": one}]}]
        for one in (call, other)
    ]
    for rows in (datasets.Dataset.from_list([{"messages": talk} for talk in talks]), {"messages": talks}):
        domain = Domain("d", train=rows)
        assert [list(item.messages) for item in domain.items("train")] == talks
        assert domain.fingerprint == Domain("d", train=[{"messages": talk} for talk in talks]).fingerprint
    assert without_nulls({"a": None, "content": None, "b": [{"c": None, "d": 1}]}, keep="content") == {
        "content": None,
        "b": [{"d": 1}],
    }


@pytest.mark.parametrize(
    ("records", "match"),
    [
        ({"a", "b"}, r"got a set, whose order changes, expected records in an order; try sorted\(...\)"),
        (frozenset("ab"), "got a frozenset, whose order changes"),
        (
            (text for text in "ab"),
            r"got an iterator, expected records that can be read again; try list\(...\)",
        ),
        (map(str, [1]), "got an iterator"),
        ("data.jsonl", "got str, expected a sequence of records; try a list, or Domain.from_path for a file"),
        ({"text": "a"}, r"got a dict with 'text', expected .*; try a list, such as \[record\]"),
        ({"train": "a"}, "got a dict with 'train', expected .*; try Domain.from_dataset"),
        (
            {"text": ["a"], "id": [1, 2]},
            r"got columns of {'text': 1, 'id': 2} rows, expected columns of equal",
        ),
        (np.array([["a", "b"]]), "got an array with 2 axes, expected an array of one axis"),
        (np.array("a"), "got an array with 0 axes"),
        (np.array([("a",)], dtype=[("text", "U1")]), "got an array with fields, .* try pandas.DataFrame"),
        (pd.DataFrame({"body": ["a"]}), r"got columns \['body'\], .*; try columns={'text': 'body'}"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "got column 'text' twice"),
        (
            pa.table({"question": ["a"], "answer": ["b"]}),
            "try columns={'prompt': 'question', 'completion': 'answer'}",
        ),
        (
            type("DataFrame", (), {"__iter__": lambda self: iter(["text"])})(),
            "got DataFrame, .* pandas DataFrame",
        ),
        (7, "got int, expected a sequence of records; try a list"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value[:30],
)
def test_what_gives_no_records_is_refused_at_once(records: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        Domain("d", train=records)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (pd.DataFrame({"text": [1, 2]}), r"train, record 0, 'text': got int, expected a text"),
        (np.array([1.5]), "record 0: got float64, expected a text"),
        (np.array([b"a"]), "record 0: got bytes_?, expected a text"),
        (pa.table({"text": [b"a"]}), "record 0, 'text': got bytes, expected a text; try decoding it"),
        (
            pd.DataFrame({"text": [["a"]]}),
            "record 0, 'text': got list, expected a text; try a record for each",
        ),
    ],
)
def test_values_that_are_no_texts_are_told_by_their_row(rows: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        _ = Domain("d", train=rows).contents


def test_columns_of_other_names() -> None:
    frame = pd.DataFrame({"question": ["q"] * 30, "reply": [f"a{n}" for n in range(30)], "text": "unused"})
    asked = {"prompt": "question", "completion": "reply"}
    for table in (frame, datasets.Dataset.from_pandas(frame), frame.to_dict("records"), columns_of(frame)):
        domain = Domain.from_dataset("qa", table, columns=asked, fractions=(0.5, 0.25, 0.25))
        assert all(isinstance(item, Completion) for item in domain.items("train"))
        assert domain.unread == ("column 'text' not used",)
    with pytest.raises(
        DataError, match=r"got columns \[.*'reply'.*\], expected 'repy' among them; try 'reply'"
    ):
        Domain.from_dataset("qa", frame, columns={"prompt": "question", "completion": "repy"})
    with pytest.raises(DataError, match=r"got a mapping with .*, expected 'bdy' among them; try 'body'"):
        _ = Domain.from_dataset("qa", [{"id": 1, "body": "a"}], columns={"text": "bdy"}).contents
    for wrong, match in (
        ({"txt": "a"}, r"columns.txt: got 'txt', expected one of .*; try 'text'"),
        ({"prompt": "a"}, "got 'prompt' without 'completion'"),
        ({"text": ""}, "columns.text: got '', expected the name of a column"),
        ({}, "expected a mapping of our keys to theirs"),
    ):
        with pytest.raises(ConfigError, match=match):
            Domain.from_dataset("qa", frame, columns=wrong)


def test_rows_know_their_number() -> None:
    assert [
        len(Rows(make(), "here")) for name, make in TABLES.items() if name in ("data frame", "series")
    ] == [40, 40]
    assert len(Rows({"text": TEXTS}, "here")) == 40
    assert repr(Domain("d", train=FRAME)) == "Domain('d': train 40 records)"
