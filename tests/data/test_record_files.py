"""Files of every kind: what is a record in them, where they end, and that a fault is told with file and line."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trimtab.data import record_files
from trimtab.data.domains import Domain
from trimtab.data.records import Chat, Completion, Text
from trimtab.data.splits import Files
from trimtab.errors import DataError

ODD = 'she said "hello, you"\nfor the\u2028second\x85time\x0b\x0c; caf\u00e9'
ROWS = [{"id": number, "text": f"{number}: {ODD}"} for number in range(120)]
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def table(rows: list[dict[str, Any]], delimiter: str = ",", end: str = "\r\n") -> bytes:
    lines: list[str] = []
    sink = type("Sink", (), {"write": lambda self, text: lines.append(text)})()
    writer = csv.DictWriter(sink, list(rows[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return "".join(lines).encode()


def jsonl(rows: list[dict[str, Any]], end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()


WRITTEN = {
    "a.csv": table(ROWS),
    "lf.csv": table(ROWS, end="\n"),
    "cr.csv": table(ROWS, end="\r"),
    "bom.csv": b"\xef\xbb\xbf" + table(ROWS),
    "a.csv.gz": gzip.compress(table(ROWS)),
    "a.tsv": table(ROWS, "\t"),
    "A.TAB": table(ROWS, "\t"),
    "a.jsonl": jsonl(ROWS),
    "cr.jsonl": jsonl(ROWS, "\r"),
    "crlf.ndjson": b"\xef\xbb\xbf" + jsonl(ROWS, "\r\n"),
    "a.jsonl.gz": gzip.compress(jsonl(ROWS)),
    "lines.json": jsonl(ROWS),
    "array.json": json.dumps(ROWS, indent=1).encode(),
    "array.json.gz": gzip.compress(b"\n\n " + json.dumps(ROWS).encode()),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_records_in_every_kind_of_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(WRITTEN[name])
    domain = Domain.from_path("d", tmp_path / name)
    assert domain.fingerprint == Domain.from_dataset("d", ROWS).fingerprint
    assert [item.text for item in domain.train.pool] == [row["text"] for row in ROWS]
    assert domain.unread == ("column 'id' not used",)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".json", ".jsonl.gz", ".parquet"])
def test_a_folder_of_tables(tmp_path: Path, ending: str) -> None:
    parts = {"train": ROWS[:30], "validation": ROWS[30:35], "test": ROWS[35:]}
    for split, rows in parts.items():
        content = {
            ".csv": table(rows),
            ".tsv": table(rows, "\t"),
            ".json": json.dumps(rows).encode(),
            ".jsonl.gz": gzip.compress(jsonl(rows)),
        }
        if ending == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}{ending}")
        else:
            (tmp_path / f"{split}{ending}").write_bytes(content[ending])
    (tmp_path / "extra.csv").write_text("more")
    (tmp_path / "notes").mkdir()
    domain = Domain.from_path("d", tmp_path)
    assert {split: found.records for split, found in domain.contents.items()} == {
        split: len(rows) for split, rows in parts.items()
    }
    assert domain.unread == ("files 'extra.csv', 'notes' not used", "column 'id' not used")


def test_empty_cells_are_no_value_and_messages_may_be_json(tmp_path: Path) -> None:
    rows = [
        {"text": "", "prompt": "p", "completion": "c", "messages": ""},
        {"text": "", "prompt": "p", "completion": "", "messages": ""},
        {"text": "5", "prompt": "", "completion": "", "messages": ""},
        {"text": "", "prompt": "", "completion": "", "messages": json.dumps(TALK)},
    ]
    (tmp_path / "a.csv").write_bytes(table(rows) + b"\r\n")
    domain = Domain.from_path("d", tmp_path / "a.csv")
    domain = Domain("d", train=domain.train.pool)
    assert list(domain.items("train")) == [Completion("p", "c"), Text("5"), Chat(tuple(TALK))]
    assert domain.contents["train"].without_value == 1
    assert domain.unread == ("1 record without a value skipped",)


def test_columns_of_other_names_in_files(tmp_path: Path) -> None:
    rows = [{"q": f"{n}?", "a": str(n), "text": "other"} for n in range(30)]
    (tmp_path / "a.csv").write_bytes(table(rows))
    (tmp_path / "a.jsonl").write_bytes(jsonl(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    columns = {"prompt": "q", "completion": "a"}
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        domain = Domain.from_path("qa", tmp_path / name, columns=columns)
        assert next(iter(domain.train.pool)) == Completion("0?", "0")
        assert domain.unread == ("column 'text' not used",)
        wrong = Domain.from_path("qa", tmp_path / name, columns={"text": "txt"})
        with pytest.raises(DataError, match=rf"{name}.*: got .*, expected 'txt' among them; try 'text'"):
            _ = wrong.contents


@pytest.mark.parametrize("many", [False, True])
def test_folders_that_save_to_disk_wrote(tmp_path: Path, many: bool) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    saved = datasets.DatasetDict(train=rows, test=rows.select([3]), extra=rows) if many else rows
    saved.save_to_disk(tmp_path / "set")
    domain = Domain.from_path("d", tmp_path / "set")
    if many:
        assert domain.left_out == ("split 'extra' not used",)
        assert [item.text for item in domain.items("test")] == [ROWS[3]["text"]]
    else:
        assert domain.fingerprint == Domain.from_dataset("d", ROWS).fingerprint
    part = next((tmp_path / "set").rglob("*.arrow"))
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(
        DataError, match=r"domain 'd': .*set: got a folder that cannot be read .*, expected a data"
    ):
        Domain.from_path("d", tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.csv", b"", r"a\.csv: got an empty file, expected a first line that names the columns"),
        (
            "a.csv",
            b"id;text\n1;a\n",
            r"a\.csv: got one column 'id;text', with ';' in it, .*; try ',' between columns",
        ),
        ("a.csv", b"id\ttext\n1\ta\n", r"with '\\t' in it, .*; try a file that ends in \.tsv"),
        ("a.tsv", b"id,text\n1,a\n", r"got one column 'id,text', with ',' in it"),
        (
            "a.csv",
            b"title,body\nx,y\n",
            r"a\.csv: got columns \['title', 'body'\], .*; try columns={'text': 'body'}",
        ),
        ("a.csv", b"text,text\nx,y\n", "got column 'text' twice"),
        (
            "a.csv",
            b"id,text\n1,a\n2,b,c\n",
            r"a\.csv:3: got 3 cells, expected 2, as the first line has; try quotes",
        ),
        ("a.csv", b"id,text\n1\n", r"a\.csv:2: got 1 cells, expected 2"),
        (
            "a.csv",
            b'id,text\n1,"a\n',
            r"a\.csv:2: got unexpected end of data, expected CSV in UTF-8; try quotes",
        ),
        ("a.csv", b'id,text\n1,"a"b\n', r"a\.csv:2: got ',' expected after '\"'"),
        (
            "a.csv",
            "id,text\n1,a\n2,caf\xe9\n".encode("latin-1"),
            r"a\.csv:3: got bytes that are not UTF-8 .*; try iconv",
        ),
        (
            "a.csv",
            "id,text\n1,a\n".encode("utf-16"),
            r"a\.csv: got UTF-16 text, expected CSV .*; try iconv -f utf-16",
        ),
        ("a.jsonl", '{"text": "a"}'.encode("utf-32"), r"a\.jsonl: got UTF-32 text"),
        ("a.txt", "words".encode("utf-16"), r"a\.txt: got UTF-16 text, expected UTF-8 text"),
        ("a.txt", "words".encode("utf-16-le"), r"a\.txt: got NUL characters, .*, expected UTF-8 text"),
        ("a.md", b"\x89PNG\r\n\x1a\n", r"a\.md: got bytes that are not UTF-8"),
        (
            "a.jsonl",
            b'\n{"text": "a" "b"}\n',
            r"a\.jsonl:2: got text that is not JSON \(Expecting ',' delimiter, column 14\), expected one",
        ),
        (
            "a.jsonl",
            b'[{"text": "a"}]',
            r"a\.jsonl:1: got the start of a list, .*; try a name that ends in \.json",
        ),
        (
            "a.json",
            b'[{"text": "a"}',
            r"a\.json: got text that is not JSON \(.*\), expected a JSON array of records",
        ),
        ("a.json", b'[{"text": 5}]', r"a\.json, record 0, 'text': got int"),
        ("a.json", b'{"data": [1]}', r"a\.json:1: got a mapping with 'data'"),
        (
            "a.jsonl",
            b'{"text": "a", "x": ' + b"[" * 300 + b"]" * 300 + b"}",
            r"a\.jsonl:1: got values nested deeper",
        ),
        ("a.jsonl.gz", b"not packed", r"a\.jsonl\.gz: got a file that cannot be read \(Not a gzipped file"),
        ("a.csv.gz", gzip.compress(table(ROWS))[:-30], r"a\.csv\.gz: got a file that cannot be read"),
        ("a.jsonl", gzip.compress(b"{}"), r"a\.jsonl: got a gzip file, .*; try a name that ends in \.gz"),
        ("a.parquet", b"PAR1PAR1", r"a\.parquet: got a file that cannot be read .*, expected a Parquet file"),
        ("a.csv", bz2.compress(b"text"), r"a\.csv:1: got bytes that are not UTF-8"),
    ],
)
def test_a_fault_is_told_with_its_file_and_line(
    tmp_path: Path, name: str, content: bytes, match: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=match):
        _ = Domain.from_path("d", tmp_path / name).contents


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": "' + b"x" * 80 + b'"}'),
        ("a.json", b'{"text": "a"}\n{"text": "' + b"x" * 80 + b'"}'),
        ("a.csv", b"text,id\na,1\n" + b"x" * 80 + b",2\n"),
        ("a.csv", b'text,id\na,1\n"' + b"xxxxxxx\n" * 10 + b'",2\n'),
        ("a.jsonl.gz", gzip.compress(b"\n" + b" " * 80)),
    ],
)
def test_lines_and_cells_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.setattr(record_files, "LINE_LIMIT", 60)
    (tmp_path / name).write_bytes(content)
    limit = csv.field_size_limit()
    with pytest.raises(
        DataError, match=rf"{name}:\d+: got (a line of more than|field larger than field limit)"
    ):
        _ = Domain.from_path("d", tmp_path / name).contents
    assert csv.field_size_limit() == limit
    monkeypatch.setattr(record_files, "LINE_LIMIT", 10**6)
    assert len(list(Domain.from_path("d", tmp_path / name).train.pool)) in (0, 2)


def test_whole_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_files, "JSON_LIMIT", 2**20)
    monkeypatch.setattr(record_files, "DOCUMENT_LIMIT", 2**20)
    (tmp_path / "a.json").write_bytes(b"[" + b" " * 2**20 + b"]")
    (tmp_path / "test.txt.gz").write_bytes(gzip.compress(b"word " * 2**18))
    with pytest.raises(DataError, match=r"a\.json: got more than 1 MiB, .*; try one JSON object per line"):
        _ = Domain.from_path("d", tmp_path / "a.json").contents
    with pytest.raises(DataError, match=r"test\.txt\.gz: got more than 1 MiB, .*; try several files"):
        _ = Domain.from_path("d", tmp_path).contents


def test_parquet_of_every_type(tmp_path: Path) -> None:
    columns = {
        "text": pa.array(["a", None, "b"], pa.large_string()),
        "picture": pa.array([b"\xff", b"", None]),
        "nested": pa.array([[{"a": 1}], None, []]),
    }
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    pq.write_table(pa.table({"text": pa.array(["v"]).dictionary_encode()}), tmp_path / "validation.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "test.parquet")
    domain = Domain.from_path("d", tmp_path)
    assert [item.text for item in domain.items("train")] == ["a", "b"]
    with pytest.raises(
        DataError, match=r"split 'test': got no record in .*test.parquet \(1 record without a value"
    ):
        _ = domain.contents
    for column, match in (
        (pa.array([["a"]]), "row 0, 'text': got list"),
        (pa.array([b"a"]), "row 0, 'text': got bytes, expected a text; try decoding it"),
        (pa.array([1.5]), "row 0, 'text': got float"),
        (pa.nulls(1), r"got no record in .* \(1 record without a value skipped\), expected at least one"),
    ):
        pq.write_table(pa.table({"text": column}), tmp_path / "one.parquet")
        with pytest.raises(DataError, match=match):
            _ = Domain.from_parquet("d", tmp_path / "one.parquet", fractions=(0.998, 0.001, 0.001)).contents


@pytest.mark.parametrize(
    ("name", "content", "ending"),
    [
        ("a.txt", '{"text": "a"}\n{"text": "b"}\n', ".jsonl"),
        ("a", '\ufeff{"prompt": "a", "completion": "b"}\n', ".jsonl"),
        ("a.log", "id,text,label\n1,a,2\n", ".csv"),
        ("a.data", "prompt\tcompletion\na\tb\n", ".tsv"),
    ],
)
def test_records_in_a_file_that_is_called_text_are_no_prose(
    tmp_path: Path, name: str, content: str, ending: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"as the first line of a text file, .* ends in {ending}"):
        _ = Domain.from_path("d", tmp_path / name).contents


def test_prose_that_looks_a_little_like_records_is_read(tmp_path: Path) -> None:
    for number, text in enumerate(['{"a": 1}\nx', "the text, the words\n", "text\nb", "{text}", "", "a\tb"]):
        (tmp_path / f"{number}.txt").write_text(text)
        assert list(Files((tmp_path / f"{number}.txt",))) == [Text(text)]
    (tmp_path / "a.jsonlines").write_text('{"text": "a"}\n')
    assert list(Files((tmp_path / "a.jsonlines",))) == [Text("a")]
