"""Configs: what is right reads back equal, what is wrong is told all at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Gt
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import ConfigError, ConfigProblems, Problem
from trimtab.runs.config import parse_overrides, read_config, write_config
from trimtab.runs.files import dump_yaml, load_yaml


@dataclass(frozen=True)
class Fit:
    steps: int
    lr: float = 1e-4
    schedule: Literal["constant", "linear"] = "constant"
    betas: tuple[float, float] = (0.9, 0.95)
    clip: Annotated[float, Gt(0)] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError("got 0 steps, expected at least 1; try 320")


@dataclass(frozen=True)
class Uniform:
    kind: Literal["uniform"] = "uniform"


@dataclass(frozen=True)
class Replay:
    share: float
    kind: Literal["replay"] = "replay"

    def __post_init__(self) -> None:
        problems = (
            [Problem("share", str(self.share), "a share in [0, 1]")] if not 0 <= self.share <= 1 else []
        )
        if problems:
            raise ConfigProblems(problems)


Mixer = Uniform | Replay


@dataclass(frozen=True)
class Job:
    model: str
    fit: Fit
    mixer: Mixer
    train: Mapping[str, str]
    targets: tuple[str, ...]
    compare: dict[str, Mixer] = field(default_factory=dict)
    adapter: Fit | None = None
    threshold: int | str = 0
    folder: Path | None = None
    rate: Annotated[float, Gt(0)] = 1.0
    flag: bool = False


GOOD: dict[str, Any] = {
    "model": "lab:text-small",
    "fit": {"steps": 320},
    "mixer": {"kind": "replay", "share": 1},
    "train": {"code": "a.py"},
    "targets": ["code"],
}


def problems(change: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> dict[str, Problem]:
    with pytest.raises(ConfigProblems) as raised:
        read_config({**GOOD, **change}, Job, overrides)
    return {problem.where: problem for problem in raised.value.problems}


def test_a_config_is_read() -> None:
    job = read_config(
        {**GOOD, "compare": {"u": {"kind": "uniform"}}, "adapter": {"steps": 1, "clip": 1}, "folder": "x/y"},
        Job,
    )
    assert job == Job(
        "lab:text-small",
        Fit(320),
        Replay(1.0),
        {"code": "a.py"},
        ("code",),
        {"u": Uniform()},
        Fit(1, clip=1.0),
        folder=Path("x/y"),
    )


def test_it_reads_back_equal(tmp_path: Path) -> None:
    job = read_config({**GOOD, "fit": {"steps": 3, "lr": 1e-5, "clip": math.inf}, "model": "1e-5"}, Job)
    write_config(job, tmp_path / "a.yaml")
    assert read_config(tmp_path / "a.yaml", Job) == job


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_plain_value_survives_yaml(value: Any) -> None:
    assert load_yaml(dump_yaml(value)) == value


def test_words_that_yaml_1_1_would_change_stay_words() -> None:
    assert load_yaml("[no, on, 010, 2026-01-01, 1:30, 1e-4, .5, 0x10, ~]") == [
        "no", "on", "010", "2026-01-01", "1:30", 1e-4, 0.5, 16, None,
    ]  # fmt: skip


def test_every_mistake_is_told_at_once() -> None:
    found = problems(
        {
            "fit": {"steps": "400", "lr": "fast", "schedule": "linaer", "betas": [0.9], "setps": 3},
            "mixer": {"kind": "unifrom"},
            "targets": "code",
            "train": {"code": 3},
            "modle": "x",
        }
    )
    assert {key: (p.got, p.expected, p.hint) for key, p in found.items()} == {
        "modle": ("an unknown key", f"one of {', '.join(asdict(read_config(GOOD, Job)))}", "'model'"),
        "fit.setps": ("an unknown key", "one of steps, lr, schedule, betas, clip", "'steps'"),
        "fit.steps": ("'400'", "a whole number", "400 without quotes"),
        "fit.lr": ("'fast'", "a number", ""),
        "fit.schedule": ("'linaer'", "one of 'constant', 'linear'", "'linear'"),
        "fit.betas": ("[0.9]", "a list of a number, a number", ""),
        "mixer.kind": ("'unifrom'", "one of 'uniform', 'replay'", "'uniform'"),
        "targets": ("'code'", "a list, each text", "[code]"),
        "train.code": ("3", "text", "'3' in quotes"),
    }


def test_missing_keys() -> None:
    with pytest.raises(ConfigProblems) as raised:
        read_config({"fit": {}, "mixer": {}, "train": {}}, Job)
    assert [(p.where, p.got, p.expected) for p in raised.value.problems] == [
        ("model", "nothing", "text"),
        ("fit.steps", "nothing", "a whole number"),
        ("mixer.kind", "nothing", "one of 'uniform', 'replay'"),
        ("targets", "nothing", "a list, each text"),
    ]


@pytest.mark.parametrize(
    ("change", "where", "got", "expected"),
    [
        ({"fit": None}, "fit", "null", "a mapping with keys among steps, lr, schedule, betas, clip"),
        ({"flag": 1}, "flag", "1", "true or false"),
        ({"flag": "no"}, "flag", "'no'", "true or false"),
        ({"fit": {"steps": True}}, "fit.steps", "true", "a whole number"),
        ({"fit": {"steps": 1.5}}, "fit.steps", "1.5", "a whole number"),
        ({"fit": {"steps": 1, "clip": -1}}, "fit.clip", "-1", "greater than 0"),
        ({"rate": 0}, "rate", "0", "greater than 0"),
        ({"rate": "x"}, "rate", "'x'", "a number"),
        ({"threshold": [1]}, "threshold", "[1]", "a whole number or text"),
        ({"mixer": "uniform"}, "mixer", "'uniform'", "a mapping with keys among kind or a mapping"),
        ({"train": ["a"]}, "train", '["a"]', "a mapping of names, each to text"),
        ({"targets": ["a", 3]}, "targets[1]", "3", "text"),
        ({"compare": {"x": {"kind": "replay"}}}, "compare.x.share", "nothing", "a number"),
        ({"compare": {"x": {"kind": "replay", "share": 2}}}, "compare.x.share", "2.0", "a share in [0, 1]"),
        ({"fit": {"steps": 0}}, "fit", "0 steps", "at least 1"),
        ({"model": "x" * 99, "flag": "y" * 99}, "flag", "'yyy", "true or false"),
    ],
)
def test_one_mistake(change: Mapping[str, Any], where: str, got: str, expected: str) -> None:
    found = problems(change)
    assert list(found) == [where]
    assert found[where].got.startswith(got)
    assert found[where].expected.startswith(expected)


def test_overrides_win_and_are_checked() -> None:
    original = {**GOOD, "fit": {"steps": 320}}
    job = read_config(original, Job, {"fit.steps": 4, "adapter.steps": 2, "train.more": "b.py"})
    assert (job.fit.steps, job.adapter, dict(job.train)) == (4, Fit(2), {"code": "a.py", "more": "b.py"})
    assert original == {**GOOD, "fit": {"steps": 320}}
    found = problems({"flag": 3}, {"steps": 4, "fit.lrr": 1, "model.name": "x"})
    assert found["steps"].hint == "'fit.steps'"
    assert found["fit.lrr"].hint == "'lr'"
    assert found["model.name"].expected == "a mapping there"
    assert found["flag"].got == "3"


def test_parsing_overrides() -> None:
    assert parse_overrides(["--a.b", "[1, 2]", "--c=x=y", "--d", "-1e-4", "--e=", "--f", "null"]) == {
        "a.b": [1, 2], "c": "x=y", "d": -1e-4, "e": None, "f": None,
    }  # fmt: skip
    with pytest.raises(ConfigProblems) as raised:
        parse_overrides(["stray", "--a", "--b", "1", "--c"])
    assert [(p.where, p.got) for p in raised.value.problems] == [
        ("command line", "'stray'"), ("a", "no value"), ("c", "no value"),
    ]  # fmt: skip
    with pytest.raises(ConfigProblems, match=r"a: got '\[', expected a value in YAML"):
        parse_overrides(["--a", "["])


def test_semantic_checks_are_told_too() -> None:
    told = [Problem("targets", "'code'", "a domain of train")]
    with pytest.raises(ConfigProblems, match="targets: got 'code', expected a domain of train"):
        read_config(GOOD, Job, extra_problems=lambda job: told)
    assert read_config(GOOD, Job, extra_problems=lambda job: []) == read_config(GOOD, Job)


def test_all_kinds_of_mistakes_at_once() -> None:
    def semantic(job: Job) -> list[Problem]:
        assert (job.rate, job.fit.lr) == (1.0, 1e-4)
        return [Problem(where, "x", "y") for where in ("rate", "targets")]

    with pytest.raises(ConfigProblems) as raised:
        read_config(
            {**GOOD, "fit": {"steps": 1, "lr": "x", "no": 1}, "rate": -1}, Job, extra_problems=semantic
        )
    assert [problem.where for problem in raised.value.problems] == ["fit.no", "fit.lr", "rate", "targets"]


def test_semantic_checks_need_what_has_no_default() -> None:
    def never(job: Job) -> list[Problem]:
        raise AssertionError

    for change in ({"model": 3}, {"targets": ["a", 3]}, {"train": {"code": 3}}, {"fit": {}}):
        with pytest.raises(ConfigProblems):
            read_config({**GOOD, **change}, Job, extra_problems=never)


def test_a_union_with_a_list() -> None:
    @dataclass(frozen=True)
    class Plan:
        schedule: Literal["light"] | int | Sequence[int] = "light"

    plans = [read_config({"schedule": value}, Plan).schedule for value in ("light", 3, [1, 2])]
    assert plans == ["light", 3, (1, 2)]
    with pytest.raises(ConfigProblems, match=r"schedule\[1\]: got 'x', expected a whole number"):
        read_config({"schedule": [1, "x"]}, Plan)
    with pytest.raises(
        ConfigProblems, match=r"'lihgt', expected 'light' or a whole number or a list.*'light'"
    ):
        read_config({"schedule": "lihgt"}, Plan)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: ]\nc: 2\n", r"line 2, column 4: got .*, expected YAML"),
        ("a: 1\na: 2\n", r"line 2, column 1: got key 'a' given twice"),
        ("", "got an empty file, expected a mapping"),
        ("- a\n", "got a list, expected a mapping"),
        ("a: !!python/object:os.system x\n", "could not determine a constructor"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigProblems, match=message):
        read_config(tmp_path / "a.yaml", Job)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblems, match="got no such file, expected a YAML file"):
        read_config(tmp_path / "none.yaml", Job)
    with pytest.raises(ConfigProblems, match="expected a YAML file that can be read"):
        read_config(tmp_path, Job)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigProblems, match="expected a YAML file that can be read"):
        read_config(tmp_path / "binary", Job)
