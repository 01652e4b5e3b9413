"""Captions: what is read from frames, files and mappings, and what is refused, with its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trimtab.data.captions import captions_to_score, reference_texts, references, speaker_captions
from trimtab.errors import DataError, TrimtabError

ROWS = [{"item": "a", "caption": "a red cat"}, {"item": "b", "caption": 'dogs, "two"', "group": "g"}]
SEVERAL = {"a": ["a red cat", "a cat"], "b": ["dogs"]}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pd.DataFrame(rows).to_parquet(path)
        return path
    if name.endswith(".json"):
        text = json.dumps(rows)
    elif name.endswith(".jsonl"):
        text = "".join(json.dumps(row) + "\n\n" for row in rows)
    else:
        text = pd.DataFrame(rows).to_csv(index=False, sep="\t" if name.endswith(".tsv") else ",")
    raw = text.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize(
    "name", ["c.csv", "c.tsv", "c.csv.gz", "c.parquet", "c.json", "c.jsonl", "c.jsonl.gz"]
)
def test_one_caption_an_item_from_every_format(tmp_path: Path, name: str) -> None:
    frame = speaker_captions(written(tmp_path / name, ROWS))
    assert frame.columns.tolist() == ["item", "caption", "group"]
    assert frame["caption"].tolist() == ["a red cat", 'dogs, "two"']
    assert frame["item"].tolist() == ["a", "b"]


def test_mappings_lists_and_frames_are_the_same_captions() -> None:
    expected = {"item": ["a", "b"], "caption": ["x", "y"]}
    rows = [{"item": "a", "caption": "x"}, {"item": "b", "caption": "y"}]
    frame = pd.DataFrame({"caption": ["x", "y"], "item": ["a", "b"]}, index=[7, 7])
    for source in ({"a": "x", "b": "y"}, rows, frame):
        assert speaker_captions(source).to_dict("list") == expected
    assert frame.columns.tolist() == ["caption", "item"]


def test_items_are_labels() -> None:
    assert speaker_captions({1: "x", np.int64(2): "y"})["item"].tolist() == ["1", "2"]
    with pytest.raises(DataError, match=r"item '1': got two captions of item '1' \(the other: .*item 1\)"):
        speaker_captions({1: "x", "1": "y"})


@pytest.mark.parametrize("name", ["c.csv", "c.parquet", "c.json", "c.jsonl"])
@pytest.mark.parametrize("listed", [False, True])
def test_references_as_rows_or_as_lists(tmp_path: Path, name: str, listed: bool) -> None:
    rows: list[dict[str, Any]] = [{"item": k, "caption": one} for k, v in SEVERAL.items() for one in v]
    if listed:
        packed = json.dumps if name.endswith(".csv") else list
        rows = [{"item": item, "references": packed(several)} for item, several in SEVERAL.items()]
    assert references(written(tmp_path / name, rows)) == SEVERAL


def test_references_of_mappings() -> None:
    assert references({"a": ["x", "y"], "b": "z"}) == {"a": ["x", "y"], "b": ["z"]}
    assert references({"a": "[a cat"}) == {"a": ["[a cat"]}
    assert references({"a": '["a cat"'}) == {"a": ['["a cat"']}


def test_json_objects_are_mappings(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(SEVERAL))
    assert references(path) == SEVERAL
    path.write_text('{"a": "x"}')
    assert speaker_captions(str(path)).to_dict("list") == {"item": ["a"], "caption": ["x"]}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([*ROWS, ROWS[0]], r"captions, row 2: got two captions of item 'a' \(the other: captions, row 0\)"),
        ([{"item": "a", "capton": "x"}], r"row 0: got no 'caption' among .*; try 'capton'"),
        (
            pd.DataFrame({"item": ["a"], "captions": ["x"]}),
            "captions: got no column 'caption'.*try 'captions'",
        ),
        ({"a": " \n"}, "captions, item 'a': got the caption empty, expected a text with words"),
        ({"a": 3}, r"item 'a': got 3 \(int\) for the caption, expected a text"),
        ({"a": None}, "item 'a': got no value for the caption"),
        ({"a": ["x", "y"]}, r"got \['x', 'y'\] \(list\) for the caption, expected a text"),
        ({"a": b"x"}, r"\(bytes\) for the caption"),
        ({"a": "x \ud83d"}, "with half a character"),
        ({"": "x"}, "got no item"),
        ({None: "x"}, "got no item"),
        ({("a", "b"): "x"}, "item: got a tuple"),
        (pd.DataFrame({"item": ["a", "b"], "caption": ["x", None]}), "row 1: got no value for the caption"),
        (pd.DataFrame({"item": ["a", float("nan")], "caption": ["x", "y"]}), "row 1: got no item"),
        (["a red cat"], r"row 0: got 'a red cat' \(str\), expected an object with item, caption"),
        ([], "captions: got no captions"),
        ({}, "captions: got no captions"),
        (3, "captions: got a int, expected captions"),
        ({"item": ["a"], "caption": ["x"]}, "got a mapping with keys .*; try pandas.DataFrame"),
        ("nowhere.csv", "captions: got no file 'nowhere.csv'"),
    ],
)
def test_what_is_no_caption_is_refused(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        speaker_captions(source)


def test_an_empty_caption_where_a_model_may_say_nothing() -> None:
    assert speaker_captions({"a": ""}, empty=True)["caption"].tolist() == [""]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"a": []}, "references, item 'a': got an empty list of references"),
        ({"a": ["x", ""]}, "item 'a': got reference 2 of 2 empty"),
        ({"a": ["x", None]}, "item 'a': got no value for reference 2 of 2"),
        ({"a": {"x": 1}}, r"got references that are \{'x': 1\} \(dict\), expected a list of texts"),
        ({}, "references: got no references"),
        (pd.DataFrame({"item": ["a"], "text": ["x"]}), "references: got no column 'caption'"),
        (
            [{"item": "a", "text": "x"}],
            "no 'caption' among .*expected an object with item and caption or references",
        ),
        (
            [{"item": "a", "references": ["x"]}] * 2,
            r"row 1: got references of item 'a' again \(the other: .*row 0\)",
        ),
    ],
)
def test_what_are_no_references_is_refused(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        references(source)


def test_lines_to_score(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(
        '{"candidate": "", "references": ["x", "y"], "id": 3}\n{"candidate": "a", "references": "x"}\n'
    )
    assert captions_to_score(path) == (["", "a"], [["x", "y"], ["x"]])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "c.jsonl:2: got text that is not JSON"),
        ("[1]", r"c.jsonl:2: got \[1\] \(list\), expected an object with candidate, references; try .*tabby"),
        ('{"candidate": "a"}', "c.jsonl:2: got no 'references' among"),
        ('{"candidat": "a", "references": ["x"]}', "c.jsonl:2: got no 'candidate' among .*; try 'candidat'"),
        ('{"candidate": null, "references": ["x"]}', "c.jsonl:2: got no value for the candidate"),
        ('{"candidate": "a", "references": []}', "c.jsonl:2: got an empty list of references"),
        ('{"candidate": "a", "references": [" "]}', "c.jsonl:2: got reference 1 of 1 empty"),
        ('{"candidate": "a", "references": 7}', "c.jsonl:2: got references that are 7"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(f'{{"candidate": "a", "references": ["x"]}}\n{line}\n')
    with pytest.raises(DataError, match=message):
        captions_to_score(path)


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("c.jsonl", b"", "got an empty file"),
        ("c.jsonl", b"\xff\xfe{\x00", "UTF-16"),
        ("c.jsonl.gz", b"not packed", "cannot be read"),
        ("c.txt", b"a", "got 'c.txt', expected a .csv"),
        ("c.json", b"3", r"got 3 \(int\), expected a JSON array"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(TrimtabError, match=message):
        captions_to_score(tmp_path / name)


def test_a_folder_is_no_file_of_captions(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").mkdir()
    with pytest.raises(DataError, match="got a folder, expected one JSON object per line"):
        captions_to_score(tmp_path / "d.jsonl")


def test_lists_of_references_in_csv_are_lists_again(tmp_path: Path) -> None:
    told = {"1": ["a cat", 'it\'s "a" tabby'], "2": ["[two] dogs"], "3": ["caf\u00e9 \U0001f600", "x"]}
    frame = pd.DataFrame({"item": list(told), "references": list(told.values())})
    frame.to_csv(tmp_path / "python.csv", index=False)
    frame.assign(references=frame["references"].map(json.dumps)).to_csv(tmp_path / "json.csv", index=False)
    assert references(tmp_path / "python.csv") == references(tmp_path / "json.csv") == told
    assert reference_texts("[two dogs]", "row 1") == ["[two dogs]"]
