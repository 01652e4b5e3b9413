"""Questions of an audit: files and frames, what is set aside and what is refused."""

from __future__ import annotations

import contextlib
import gzip
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trimtab.errors import DataError
from trimtab.read.leaks.questions import Accounting, label_rows, read_questions

COLOURS, CITIES = ("red", "blue"), ("Oslo", "Cairo", "Lima")


def table(n: int = 30, **columns: Any) -> pd.DataFrame:
    """Rows of which each has its own prompt; three rows a scene."""
    rows: dict[str, Any] = {
        "prompt": [f"Is box {row} {COLOURS[row % 2]}?" for row in range(n)],
        "colour": [COLOURS[row % 2] for row in range(n)],
        "city": [CITIES[row % 3] for row in range(n)],
        "scene": [row // 3 for row in range(n)],
    }
    return pd.DataFrame(rows | columns)


def counted(frame: pd.DataFrame, where: str) -> dict[str, int]:
    part = frame[frame["where"] == where]
    return dict(zip(part["why"], part["rows"], strict=True))


def test_a_table_is_read_row_by_row():
    mentioned = [["colour"] if row % 2 else [] for row in range(30)]
    frame = table(mentioned=mentioned, question=["q"] * 30, answer=[bool(row % 2) for row in range(30)])
    read = read_questions(frame, ["colour"], group="scene", background=["city"])
    assert list(read.attributes.columns) == ["colour", "city"]
    assert read.attributes["city"].tolist() == [CITIES[row % 3] for row in range(30)]
    assert read.roles["colour"].tolist() == ["mentioned" if one else "unmentioned" for one in mentioned]
    assert set(read.roles["city"]) == {"background"}
    assert read.groups.tolist() == [row // 3 for row in range(30)]
    assert read.known == ["q"] * 30
    assert read.answers[:2] == ["False", "True"]
    assert read.images is None
    assert read.of("colour", "mentioned").tolist() == list(range(1, 30, 2))
    assert read.of("city", "mentioned").tolist() == []
    assert repr(read) == "Questions(30 rows in 10 groups, colour, city)"
    assert counted(read.accounting.frame, "questions") == {"in": 30, "used": 30}


def test_without_columns_of_their_own_nothing_is_known_mentioned_or_answered():
    read = read_questions(table(), ["colour"])
    assert (read.known, read.answers, read.images) == (None, None, None)
    assert set(read.roles["colour"]) == {"unmentioned"}


def test_rows_of_one_prompt_are_a_group_unless_one_is_named():
    assert read_questions(table(), ["colour"]).groups.tolist() == list(range(30))
    twice = table(prompt=[f"prompt {row // 2}" for row in range(30)])
    assert read_questions(twice, ["colour"]).groups.tolist() == [row // 2 for row in range(30)]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv", "tsv", "parquet"])
def test_files_of_every_kind_read_alike(tmp_path, ending):
    frame = table(mentioned=[["colour", "city"] if row % 2 else [] for row in range(30)])
    frame.loc[0, "city"] = None
    path = tmp_path / f"questions.{ending}"
    if ending.startswith("jsonl"):
        lines = [
            json.dumps({k: v for k, v in row.items() if v is not None}) for row in frame.to_dict("records")
        ]
        text = "\n\n".join(lines).encode()
        path.write_bytes(gzip.compress(text) if ending.endswith("gz") else b"\xef\xbb\xbf" + text)
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        texts = frame.assign(mentioned=[", ".join(one) for one in frame["mentioned"]])
        texts.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    expected = read_questions(frame, ["colour", "city"], group="scene")
    read = read_questions(path, ["colour", "city"], group="scene")
    pd.testing.assert_frame_equal(read.attributes, expected.attributes)
    pd.testing.assert_frame_equal(read.roles, expected.roles)
    pd.testing.assert_frame_equal(read.accounting.frame, expected.accounting.frame)
    assert read.groups.tolist() == expected.groups.tolist()
    assert read.texts == expected.texts
    assert read.fingerprint == expected.fingerprint


def test_conversations_are_prompts(tmp_path):
    talks = [[{"role": "user", "content": f"box {row}"}] for row in range(30)]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in table(prompt=talks).to_dict("records")))
    read = read_questions(path, ["colour"])
    assert read.prompts == talks
    assert read.texts[2] == "user: box 2"
    frame = table(prompt=[np.array(talk, dtype=object) for talk in talks])  # as Parquet gives them
    assert read_questions(frame, ["colour"]).prompts == talks


def test_pictures_are_named_from_the_file_and_make_groups(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(11):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / "pictures" / f"{number}.png")
    frame = table(image=[f"pictures/{row % 11}.png" for row in range(30)])
    path = tmp_path / "questions.csv"
    frame.to_csv(path, index=False)
    read = read_questions(path, ["city"])
    assert read.images == [tmp_path / "pictures" / f"{row % 11}.png" for row in range(30)]
    assert read.groups.tolist() == [row % 11 for row in range(30)]
    assert read.known == read.texts  # who asks about a picture knows the prompt
    assert "with pictures" in repr(read)
    before = read.fingerprint
    (tmp_path / "pictures" / "3.png").unlink()
    with pytest.raises(
        DataError, match=r"row 3, 'image': got no file '.*3.png' and 2 more, expected a picture"
    ):
        read_questions(path, ["city"])
    Image.new("RGB", (9, 9)).save(tmp_path / "pictures" / "3.png")
    assert read_questions(path, ["city"]).fingerprint != before


def test_what_is_set_aside_is_counted_by_its_reason():
    frame = table(36, question=["q"] * 36)
    frame["scene"] = frame["scene"].astype(object)
    frame.loc[[0, 1], "prompt"] = [None, " "]
    frame.loc[2, "question"] = float("nan")
    frame.loc[3, "scene"] = None
    frame.loc[4, ["colour", "city"]] = [None, ""]
    frame.loc[5, "colour"] = float("nan")
    frame.loc[6, "colour"] = "teal"
    read = read_questions(frame, ["colour", "city"], group="scene")
    assert counted(read.accounting.frame, "questions") == {
        "in": 36,
        "no prompt": 2,
        "no question": 1,
        "no group 'scene'": 1,
        "no label of any attribute": 1,
        "used": 31,
    }
    assert counted(read.accounting.frame, "colour") == {
        "in": 31,
        "no label": 1,
        "a class in fewer than 5 groups ('teal')": 1,
        "used": 29,
    }
    assert read.attributes["colour"].isna().tolist()[:2] == [True, True]
    assert read.accounting.used("city") == 31
    assert set(read.attributes["colour"].dropna()) == {"red", "blue"}


_cells = st.sampled_from(["red", "blue", "blue", "red", None, "", "rare", 1.0, float("nan")])


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(["p", "p", "", None]), _cells, _cells, st.sampled_from([*range(9), None])),
        max_size=60,
    )
)
def test_rows_in_are_rows_used_and_set_aside(rows):
    """Always: or the questions are refused by name."""
    frame = pd.DataFrame(rows, columns=["prompt", "colour", "city", "scene"]).astype(object)
    before, read = frame.copy(), None
    with contextlib.suppress(DataError):
        read = read_questions(frame, ["colour", "city"], group="scene")
    pd.testing.assert_frame_equal(frame, before)
    if read is None:
        return
    for where, part in read.accounting.frame.groupby("where"):
        numbers = part["rows"].tolist()
        assert numbers[0] == sum(numbers[1:])
        used = len(read) if where == "questions" else int(read.attributes[where].notna().sum())
        assert numbers[-1] == used
    assert len(read.prompts) == len(read.groups) == len(read.attributes) == len(read.roles) == len(read)
    for name in ("colour", "city"):
        spread = pd.Series(read.groups).groupby(read.attributes[name]).nunique()
        assert spread.min() >= 5


def test_labels_are_texts_whatever_their_type():
    frame = table(colour=[float(row % 2) for row in range(30)], city=[bool(row % 2) for row in range(30)])
    read = read_questions(frame, ["colour", "city"])
    assert set(read.attributes["colour"]) == {"0", "1"}
    assert set(read.attributes["city"]) == {"False", "True"}


def test_mentioned_in_every_form():
    forms = [
        "colour",
        "colour, city",
        "['city']",
        '["city"]',
        None,
        "",
        np.array(["city"]),
        ("colour",),
        "shape",
    ]
    frame = table(27, mentioned=forms * 3, shape=["x"] * 27)
    read = read_questions(frame, ["colour", "city"])
    told = [[name for name in ("colour", "city") if read.roles[name][row] == "mentioned"] for row in range(9)]
    assert told == [["colour"], ["colour", "city"], ["city"], ["city"], [], [], ["city"], ["colour"], []]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            {},
            {"attributes": "colour"},
            r"attributes: got 'colour', expected a list of columns; try \['colour'\]",
        ),
        ({}, {"attributes": []}, "attributes: got none, expected at least one column"),
        ({}, {"attributes": ["colour", "colour"]}, "attributes: got 'colour' twice, expected each once"),
        (
            {},
            {"attributes": ["color"]},
            "attributes: got no column 'color', expected one of .*; try 'colour'",
        ),
        ({}, {"attributes": ["scene"], "group": "scene"}, "attributes: got 'scene', which is the group"),
        ({}, {"attributes": ["prompt"]}, "'prompt', which is a column with a meaning of its own"),
        ({}, {"group": "scnee"}, "group: got no column 'scnee', expected .*; try 'scene'"),
        ({}, {"background": "city"}, r"background: got 'city', expected a list of columns"),
        ({"prompt": [""] * 30}, {}, r"questions: got no row that can be used \(30 x no prompt\)"),
        (
            {"colour": ["red"] * 30},
            {},
            r"attribute 'colour': got 1 of 1 classes in at least 5 groups, expected at",
        ),
        ({"colour": list(range(30))}, {}, "attribute 'colour': got 0 of 30 classes in at least 5 groups"),
        ({"colour": [["red"]] * 30}, {}, "column 'colour': got .*list.*, expected "),
        ({"scene": [0] * 30}, {"group": "scene"}, "questions: got 1 group by 'scene', expected at least 5"),
        ({"scene": [0, 1] * 15}, {"group": "scene"}, "got 2 groups by 'scene', .*; try another group"),
        ({"prompt": ["same"] * 30}, {}, "got 1 group by rows that are not alike"),
        ({"prompt": [3] * 30}, {}, "row 0: got int, expected a text, a list of messages"),
        (
            {"prompt": [[{"role": "assistant", "content": "x"}]] * 30},
            {},
            "row 0: got an assistant's message at the",
        ),
        (
            {"mentioned": [3] * 30},
            {},
            "questions, row 0, 'mentioned': got 3, expected a list of names, or a text",
        ),
        ({"mentioned": [[1]] * 30}, {}, r"row 0, 'mentioned': got \[1\], expected a list of names"),
        (
            {"mentioned": ["color"] * 30},
            {},
            "'mentioned': got 'color', expected names of attributes; try 'colour'",
        ),
        ({"mentioned": ["city"] * 30}, {"background": ["city"]}, "got 'city', which is of the background"),
        ({"image": [3] * 30}, {}, "row 0, 'image': got a int, expected the path of a picture"),
        ({"answer": [["yes"]] * 30}, {}, r"column 'answer': got a list \['yes'\], expected a text"),
    ],
)
def test_what_is_refused(change, options, message):
    with pytest.raises(DataError, match=message):
        read_questions(table(**change), **({"attributes": ["colour"]} | options))


def test_tables_that_are_none(tmp_path):
    with pytest.raises(
        DataError, match="questions: got a list, expected a pandas DataFrame, or the path of a file"
    ):
        read_questions([{"prompt": "a"}], ["colour"])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="got no column 'prompt'"):
        read_questions(table().drop(columns="prompt"), ["colour"])
    twice = pd.concat([table(), table()[["colour"]]], axis=1)
    with pytest.raises(DataError, match="attributes: got column 'colour' twice, expected each column once"):
        read_questions(twice, ["colour"])
    with pytest.raises(DataError, match=r"got no row that can be used \(no rows\)"):
        read_questions(table(0), ["colour"])
    (tmp_path / "questions.jsonl").write_text('{"prompt": "a"}\n[1]\n')
    with pytest.raises(DataError, match=r"questions.jsonl:2: got a list, expected a JSON object"):
        read_questions(tmp_path / "questions.jsonl", ["colour"])
    (tmp_path / "questions.jsonl").write_text('{"prompt": "a"}\n{"prom')
    with pytest.raises(DataError, match=r"questions.jsonl:2: got text that is not JSON"):
        read_questions(tmp_path / "questions.jsonl", ["colour"])
    (tmp_path / "questions.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"questions.jsonl: got no rows, expected one JSON object per line"):
        read_questions(tmp_path / "questions.jsonl", ["colour"])
    with pytest.raises(
        DataError, match=r"got no file '.*question.jsonl', expected a file of questions; try .*jsonl"
    ):
        read_questions(tmp_path / "question.jsonl", ["colour"])
    with pytest.raises(
        DataError, match=r"got 'a.json', expected a .jsonl, .csv, .tsv or .parquet file; try one"
    ):
        read_questions(tmp_path / "a.json", ["colour"])


def test_labels_of_a_table_without_prompts():
    """As a transcript has them: each row is its own group unless one is named."""
    frame = table().drop(columns="prompt").assign(mentioned="colour")
    aside = pd.Series(["no log-probabilities", *[None] * 29], dtype=object)
    read = label_rows(frame, ["colour"], aside=aside, where="transcript")
    assert read.rows.tolist() == list(range(1, 30))
    assert read.groups.tolist() == list(range(29))
    assert set(read.roles["colour"]) == {"mentioned"}
    assert counted(read.accounting.frame, "transcript") == {"in": 30, "no log-probabilities": 1, "used": 29}


def test_rows_that_do_not_add_up_are_no_accounting():
    both = Accounting.of("a", 3, {"no label": 1}) + Accounting.of("b", 2, {})
    assert [both.used("a"), both.used("b")] == [2, 2]
    with pytest.raises(
        DataError, match=r"accounting of a: got \[3, 1, 1\] for .*, expected in = set aside \+ used"
    ):
        Accounting(pd.DataFrame({"where": "a", "rows": [3, 1, 1], "why": ["in", "no label", "used"]}))
    with pytest.raises(DataError, match="accounting of a: got"):
        Accounting.of("a", 3, {"no label": 4})
