"""The hostile variants are what they say, and the question about them lets nothing else pass."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import hostile
from trimtab.errors import ConfigError, DataError


def test_each_place_of_a_value_is_spoilt() -> None:
    value = {"a": [1, {"b": "x"}], "c": None}
    found = dict(hostile.json_texts(value, each=len(hostile.LEAVES)))
    for where in ("all of it", "a", "a.0", "a.1", "a.1.b", "c"):
        assert {f"{where} is {name}" for name in hostile.LEAVES} <= set(found)
    assert found["a.1.b left out"] == '{"a": [1, {}], "c": null}'
    assert found["c twice"] == '{"a": [1, {"b": "x"}], "c": null, "c": null}'
    assert found["a cut"] == '{"a": [1], "c": null}'
    assert found["a.0 is too many digits"].count("9") == 4301
    assert found == dict(hostile.json_texts(value, each=len(hostile.LEAVES)))


def test_the_good_value_is_among_no_variant() -> None:
    good = {"a": 1}
    assert good not in [
        json.loads(text) for _, text in hostile.json_texts(good, each=3) if text == "{" + text
    ]
    assert hostile.yaml_flow({"a": [float("nan"), -float("inf")]}) == '{"a": [.nan, -.inf]}'


def test_files_and_what_is_none(tmp_path: Path) -> None:
    path, good = tmp_path / "a.json", b'{"a": 1}\n' * 20
    names = []
    for name, put in hostile.files(good):
        put(path)
        names.append(name)
        if path.is_file() and name != "a link to a device":
            assert path.stat().st_size == 0 or path.read_bytes() != good
    assert len(names) == len(set(names)) > 30
    hostile.remove(path)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_copied_and_one_file_of_it_spoilt(tmp_path: Path) -> None:
    good = tmp_path / "good"
    (good / "in").mkdir(parents=True)
    (good / "a.json").write_text('{"x": [1, 2]}')
    (good / "in/b").write_bytes(b"1234567890")
    seen = [name for name, folder in hostile.spoilt(good, tmp_path, bits=2) if (folder / "in").is_dir()]
    assert len(seen) > 80
    assert {name.partition(":")[0] for name in seen} == {"a.json", "in/b"}
    assert (good / "a.json").read_text() == '{"x": [1, 2]}'
    assert not (tmp_path / "spoilt").exists()


def test_only_a_value_or_a_message_of_ours_passes() -> None:
    def fail(error: Exception) -> None:
        raise error

    assert hostile.outcome(lambda: 1) == "accepted"
    assert "got 1" in hostile.outcome(lambda: fail(ConfigError("a: got 1, expected 2")))
    assert "held" in hostile.outcome(lambda: fail(DataError("held by 5")), also=["held"])
    for call, told in (
        (lambda: fail(KeyError("a")), "raw KeyError"),
        (lambda: fail(DataError("no")), "vague: no"),
        (lambda: time.sleep(9), "no end"),
    ):
        with pytest.raises(AssertionError, match=told):
            hostile.outcome(call, seconds=0.2)
    with pytest.raises(UnicodeEncodeError):
        hostile.outcome(lambda: fail(DataError("got \ud800, expected x")))
