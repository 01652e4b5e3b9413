"""Law files that are damaged, made up or no files: `trimtab plan` refuses each in one line, which names the field."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab import FinetuningLaw, ForgettingLaw
from trimtab.cli.main import main
from trimtab.errors import DataError

LAW: dict[str, Any] = {
    "law": "forgetting",
    "ranges": {"params": [1e5, 1e9], "tokens": [1e4, 1e9], "inject": [0, 0.05]},
    "coefficients": {"A": 0.1, "B": 20, "alpha": 0.2, "beta": 0.3},
    "draws": [[0.1, 20, 0.2, 0.3], [0.11, 21, 0.2, 0.3]],
    "residuals": [0.0, 0.01, -0.01],
    "agreeing": 1,
    "at_bounds": [],
    "loss": "huber",
}
TARGET: dict[str, Any] = LAW | {
    "law": "fine-tuning",
    "ranges": {"params": [1e5, 1e9], "tokens": [1e4, 1e9]},
    "coefficients": {"A": 80.0, "alpha": 0.3, "beta": 0.1, "E": 1.5},
    "draws": [[80.0, 0.3, 0.1, 1.5]],
}
NAN, INF = float("nan"), float("inf")

ODD: dict[str, list[Any]] = {
    "coefficients.A": [-1, 0, NAN, INF, "0.1", None, True, [0.1], {}, 10**400],
    "coefficients.B": [-1, 0, NAN, -INF, False, "20"],
    "coefficients.alpha": [INF, NAN, -2, 50, "0.2"],
    "coefficients.beta": [-INF, 4.5, None],
    "coefficients": [[], {}, None, 5,
                     {"A": 0.1, "B": 20, "alpha": 0.2}, {"a": 0.1, "B": 20, "alpha": 0.2, "beta": 0.3}],
    "draws": [5, None, {}, [5], [[]], [[0.1, 20, 0.2]], [[0.1, 20, 0.2, 0.3, 1]], [0.1, 20, 0.2, 0.3],
              [[0.1, -20, 0.2, 0.3]], [[0.1, 20, NAN, 0.3]], [[[0.1], 20, 0.2, 0.3]], [[0.1, 20, 0.2, "0.3"]]],
    "residuals": [[], 5, None, [NAN], [INF], ["0"], [[0.0]]],
    "ranges": [[], {}, None, "wide", {"params": [1, 2]}],
    "ranges.params": [[2, 1], [], [1], [1, 2, 3], [0, 1], [-1, 1], [NAN, 1], [1, INF], None, 5, ["1", "2"], {"low": 1}],
    "ranges.tokens": [[3, 1], [None, None]],
    "ranges.inject": [[-0.1, 0.05], [0.05, 0], [0, 5], [0, NAN]],
    "agreeing": [-1, 2, NAN, "1", None],
    "at_bounds": [5, "B", ["C"], [5], [["B"]], None],
    "loss": ["mse", 5, None, ["huber"]],
    "law": [5, None, [], {}, "fine-tuning", "forgetting law"],
}  # fmt: skip
DEEP = '{"a":' * 5000 + "1" + "}" * 5000
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "a space": b" ",
    "a list": b"[]",
    "a text": b'"law"',
    "null": b"null",
    "a number": b"5",
    "a number too long": b"1" * 5000,
    "cut short": json.dumps(LAW).encode()[:-20],
    "two": json.dumps(LAW).encode() * 2,
    "deep": DEEP.encode(),
    "a deep field": json.dumps(LAW | {"more": 1}).replace('"more": 1', f'"more": {DEEP}').encode(),
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "UTF-16": json.dumps(LAW).encode("utf-16"),
    "Latin-1": b'{"law": "caf\xe9"}',
    "bytes": bytes(range(256)),
    "a pickle": b"\x80\x04K\x01.",
    "1e999": json.dumps(LAW).replace("0.3", "1e999").encode(),
    "HTML": b"<!doctype html><title>404</title>",
}


def altered(field: str, value: Any) -> dict[str, Any]:
    """A law with one field changed."""
    record = copy.deepcopy(LAW)
    *outer, last = field.split(".")
    inside = record
    for name in outer:
        inside = inside[name]
    inside[last] = value
    return record


def planned(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["plan", "--law", str(path), "--params", "3e5", "--tokens", "3e4", "--max-rise", "0.05"])
    told = capsys.readouterr()
    return code, told.out + told.err


def refused(path: Path, capsys: pytest.CaptureFixture[str], told: str = "") -> None:
    code, text = planned(path, capsys)
    assert code == 2, text
    assert f"{path}" in text
    assert "got " in text
    assert "expected " in text
    assert told in text
    assert text.count("\n") == 1
    assert len(text) < 400 + len(str(path))


@pytest.mark.parametrize("field", list(ODD))
def test_a_field_that_no_law_has_is_named(
    field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, value in enumerate(ODD[field]):
        path = tmp_path / f"{place}.json"
        path.write_text(json.dumps(altered(field, value)))
        refused(path, capsys, "a law of" if field == "law" else field)


@pytest.mark.parametrize(
    "field", [*LAW, "coefficients.A", "coefficients.beta", "ranges.params", "ranges.inject"]
)
def test_a_field_that_is_missing_is_named(
    field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = copy.deepcopy(LAW)
    *outer, last = field.split(".")
    del (record[outer[0]] if outer else record)[last]
    (tmp_path / "law.json").write_text(json.dumps(record))
    refused(tmp_path / "law.json", capsys, field.partition(".")[0])


@pytest.mark.parametrize("name", list(TEXTS))
def test_a_file_that_is_no_law_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "law.json").write_bytes(TEXTS[name])
    refused(tmp_path / "law.json", capsys)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)
    for name in ("pipe", "zero", "loop", "folder", "huge", "missing", "folder/x", "zero/x", "x" * 300):
        refused(tmp_path / name, capsys)


def test_a_file_spoilt_anywhere_is_refused_or_gives_a_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sixty laws with a byte changed, cut out or doubled."""
    draw, path = random.Random(0), tmp_path / "law.json"
    whole = json.dumps(LAW).encode()
    for _ in range(60):
        place = draw.randrange(len(whole))
        piece = draw.choice(
            [b"", bytes([draw.randrange(256)]), whole[place : place + 2] * 2, b"-", b"9" * 400]
        )
        path.write_bytes(whole[:place] + piece + whole[place + 1 :])
        code, told = planned(path, capsys)
        assert code in (0, 1) or (code == 2 and "got " in told and "expected " in told), told
        assert "-" not in told.partition("%")[0].partition("Inject")[2]


def right(law: dict[str, Any]) -> list[dict[str, Any]]:
    """Files that say the same: another order of keys, fields of a later version, whole numbers as decimals."""
    backwards = dict(reversed(law.items())) | {
        "coefficients": dict(reversed(law["coefficients"].items())),
        "ranges": dict(reversed(law["ranges"].items())),
    }
    return [backwards, law | {"made_by": {"version": "9"}}, json.loads(json.dumps(law, sort_keys=True))]


@pytest.mark.parametrize(("cls", "law"), [(ForgettingLaw, LAW), (FinetuningLaw, TARGET)])
def test_what_says_the_same_reads_the_same(
    cls: Callable[..., Any], law: dict[str, Any], tmp_path: Path
) -> None:
    """The order of the keys never decides which coefficient a draw is of."""
    for place, one in enumerate([law, *right(law)]):
        (tmp_path / f"{place}.json").write_text("\ufeff" * (place == 1) + json.dumps(one))
    first, *others = (cls.load(tmp_path / f"{place}.json") for place in range(4))
    for other in others:
        assert other.intervals == first.intervals
        assert list(other.coefficients.items()) == list(first.coefficients.items())
        assert other.ranges == first.ranges


def test_the_other_law_is_checked_likewise(tmp_path: Path) -> None:
    path = tmp_path / "law-target.json"
    for field, value in (("E", -1), ("E", NAN), ("A", 0), ("alpha", 9)):
        path.write_text(json.dumps(TARGET | {"coefficients": TARGET["coefficients"] | {field: value}}))
        with pytest.raises(DataError, match=rf"law-target.json: coefficients.{field}: got .*, expected a"):
            FinetuningLaw.load(path)
    path.write_text(json.dumps(LAW))
    with pytest.raises(DataError, match="got a law of forgetting, expected a law of fine-tuning"):
        FinetuningLaw.load(path)
