"""Results of runs as files: what is written is read back, and what cannot be read is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trimtab.errors import CheckpointError
from trimtab.runs.paths import RESULT
from trimtab.runs.serialise import SEAL, finished, is_sealed, numeric, read_result, write_result

FRAME = pd.DataFrame(
    {"word": ["a", "b"], "share": [0.1, np.nan], "n": [1, 2], "kept": [True, False], "never": [np.nan] * 2}
)


def test_values_and_frames_come_back(tmp_path: Path) -> None:
    assert write_result(tmp_path, 1, {"label": "it", "table": FRAME, "notes": ("x",)}) == tmp_path
    found = read_result(tmp_path, 1)
    pd.testing.assert_frame_equal(found.pop("table"), FRAME)
    assert found == {"label": "it", "notes": ["x"]}


def test_an_empty_frame_keeps_its_columns(tmp_path: Path) -> None:
    write_result(tmp_path, 1, {"table": FRAME.head(0), "none": pd.DataFrame()})
    found = read_result(tmp_path, 1)
    assert (list(found["table"]), len(found["table"])) == (list(FRAME), 0)
    assert found["none"].empty


def test_the_file_is_the_one_that_older_runs_have(tmp_path: Path) -> None:
    write_result(tmp_path, 1, {"label": "ä", "table": FRAME[["word", "share"]]})
    text = '{"schema": 1, "label": "ä", "table": {"columns": ["word", "share"], "rows": [["a", 0.1], ["b", null]]}}\n'
    assert (tmp_path / RESULT).read_text(encoding="utf-8") == text
    assert finished(tmp_path) == json.loads(text)
    write_result(tmp_path, 1, {"label": "ä"}, indent=1)
    assert (tmp_path / RESULT).read_text(encoding="utf-8") == '{\n "schema": 1,\n "label": "ä"\n}\n'


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"got no finished result in .*, expected a finished run; try"):
        read_result(tmp_path, 1)
    write_result(tmp_path, 2, {})
    with pytest.raises(CheckpointError, match="got result schema 2, expected schema 1"):
        read_result(tmp_path, 1)
    (tmp_path / RESULT).write_text("{")
    with pytest.raises(CheckpointError, match="damaged text"):
        read_result(tmp_path, 1)
    write_result(tmp_path, 1, {"seconds": 1.25})
    (tmp_path / RESULT).write_text((tmp_path / RESULT).read_text().replace("1.25", "1.35"))
    with pytest.raises(
        CheckpointError, match=r"got damaged .*result\.json, expected the bytes .* try deleting"
    ):
        is_sealed(tmp_path)
    (tmp_path / SEAL).unlink()  # as of an earlier version
    assert not is_sealed(tmp_path)
    assert read_result(tmp_path, 1) == {"seconds": 1.35}
    assert is_sealed(write_result(tmp_path, 1, {}))


def test_numbers_are_numbers_again_and_the_given_frame_stays() -> None:
    given = pd.DataFrame({"word": ["1", None], "share": [0.5, None], "kept": [True, None]}, dtype=object)
    found = numeric(given)
    assert found["share"].dtype == float
    assert found["word"][0] == "1"
    assert found["kept"][0] is True
    assert given["share"].dtype == object
