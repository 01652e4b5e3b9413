"""Where a domain comes from: more than a path in a config, and anything that holds data in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from trimtab.adapt.dynamics.job import DynamicsConfig, read_domains
from trimtab.adapt.forgetting.job import ForgettingConfig
from trimtab.data.domains import EVALUATE_ONLY, Domain, Origin, as_domains, read_domain
from trimtab.data.records import Completion
from trimtab.errors import ConfigProblems, DataError
from trimtab.runs.config import read_config
from trimtab.runs.serialise import plain

TEXTS = [f"document number {number}" for number in range(200)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three splits, of which the last repeats three records of the first."""
    parts = {"train": TEXTS[:150], "validation": TEXTS[150:170], "test": [*TEXTS[170:], *TEXTS[:3]]}
    for split, texts in parts.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    return tmp_path


def config(**changes: Any) -> DynamicsConfig:
    content = {"model": "me/model", "train": {}, "targets": ["d"], "mixer": {"kind": "uniform"}, **changes}
    return read_config(content, DynamicsConfig)


def test_a_config_can_name_columns_and_drop_what_overlaps(folder: Path) -> None:
    said = {"path": str(folder), "columns": {"text": "body"}}
    refused = config(train={"d": said})
    assert list(refused.problems()) == []
    with pytest.raises(
        DataError, match=r"3 records in both train and test .*; try .* \{path: ..., overlap: drop\}"
    ):
        _ = read_domains(refused)[0]["d"].contents
    dropping = config(train={"d": {**said, "overlap": "drop"}})
    domain = read_domains(dropping)[0]["d"]
    assert {split: found.records for split, found in domain.contents.items()} == {
        "train": 147,
        "validation": 20,
        "test": 33,
    }
    assert domain.unread == ("3 records left out, which a later split has too",)
    assert read_config(plain(dropping), DynamicsConfig) == dropping
    assert dropping.train["d"] == Origin(str(folder), columns={"text": "body"}, overlap="drop")


def test_the_hub_is_asked_for_what_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(path: str, **options: Any) -> Any:
        asked.append((path, options))
        return datasets.Dataset.from_dict({"question": TEXTS, "answer": TEXTS})

    monkeypatch.setattr(datasets, "load_dataset", load)
    columns = {"prompt": "question", "completion": "answer"}
    said = {
        "path": "hf:openai/gsm8k",
        "config": "main",
        "split": "train",
        "revision": "v1",
        "columns": columns,
    }
    job = config(train={"d": said}, evaluate={"e": "hf:me/plain"})
    assert list(job.problems()) == []
    domains = read_domains(DynamicsConfig(**{**vars(job), "evaluate": {}}))[0]
    assert isinstance(next(domains["d"].items("train")), Completion)
    Domain.from_dataset("d", "openai/gsm8k", name="main", columns=columns)
    Domain.from_dataset("d", "openai/gsm8k", config="main", streaming=False, columns=columns)
    assert asked == [
        ("openai/gsm8k", {"name": "main", "split": "train", "revision": "v1"}),
        ("openai/gsm8k", {"name": "main"}),
        ("openai/gsm8k", {"name": "main", "streaming": False}),
    ]
    with pytest.raises(DataError, match=r"got columns .*, expected 'qestion' among them; try 'question'"):
        Domain.from_dataset("d", "me/qa", columns={"prompt": "qestion", "completion": "answer"})


def test_splits_of_other_names_can_be_asked_for() -> None:
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    with pytest.raises(
        DataError, match=r"got splits \['train_sft', 'test_sft'\], .*; try split='train_sft', as a"
    ):
        Domain.from_dataset("d", datasets.DatasetDict(train_sft=rows, test_sft=rows))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"path": "x.txt", "split": "train"},
            r"train\.d\.split: got 'train', expected it only beside path: hf:",
        ),
        ({"path": "x.txt", "columns": {"txt": "a"}}, r"train\.d\.columns\.txt: got 'txt', .*; try 'text'"),
        (
            {"path": "x.txt", "overlap": "keep"},
            r"train\.d\.overlap: got 'keep', expected one of 'refuse', 'drop'",
        ),
        ({"path": "x.txt", "colums": {}}, r"train\.d\.colums: got an unknown key, .*; try 'columns'"),
        ({"columns": {}}, r"train\.d\.path: got nothing, expected text"),
        (["x.txt"], r"train\.d: got \[\"x.txt\"\], expected text or a mapping with keys among path, config"),
    ],
)
def test_mistakes_are_told_with_their_key(said: Any, message: str) -> None:
    with pytest.raises(ConfigProblems, match=message):
        config(train={"d": said})


def test_what_is_not_there_is_told_by_check(folder: Path) -> None:
    (folder / "table.xlsx").touch()
    sources = {
        "gone": {"path": str(folder / "gone.jsonl"), "columns": {"text": "body"}},
        "excel": str(folder / "table.*"),
        "blank": " ",
        "nul": "a\0b",
        "long": "x" * 5000,
        "user": "~nosuchuser/x",
        "device": "/dev/null",
    }
    found = {
        problem.where: str(problem)
        for problem in config(train={"d": str(folder)}, evaluate=sources).problems()
    }
    assert set(found) == {f"evaluate.{name}" for name in sources}
    assert "got a .xlsx file" in found["evaluate.excel"]
    wrong = ForgettingConfig(
        models={"a": "me/a"}, tokens=(9,), domain=Origin("no.csv"), pretraining="~nosuchuser/x"
    )
    assert {problem.where for problem in wrong.problems()} == {"domain", "pretraining"}


@pytest.mark.parametrize(
    "given",
    [
        TEXTS,
        pd.DataFrame({"text": TEXTS}),
        np.array(TEXTS),
        datasets.Dataset.from_dict({"text": TEXTS}),
        datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": TEXTS})),
        {"text": TEXTS},
        {"train": TEXTS},
    ],
    ids=lambda given: type(given).__name__,
)
def test_whatever_holds_data_becomes_a_domain(given: Any) -> None:
    domain = as_domains("train", {"d": given})["d"]
    assert domain.fingerprint == Domain.from_dataset("d", TEXTS).fingerprint
    if not isinstance(given, dict):
        assert as_domains("evaluate", {"d": given}, fractions=EVALUATE_ONLY)["d"].splits == (
            "validation",
            "test",
        )


def test_domains_paths_and_descriptions_become_domains(folder: Path) -> None:
    mine = Domain("mine", train=["a"])
    said = Origin(str(folder), columns={"text": "body"})
    found = as_domains("train", {"a": mine, "b": folder / "train.jsonl", "c": str(folder), "d": said})
    assert found["a"] is mine
    assert [domain.name for domain in found.values()] == ["mine", "b", "c", "d"]
    assert read_domain("d", plain(said)).splits == found["d"].splits


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            [Domain("a", train=["x"])],
            "train: got a list, expected a mapping of names to domains; try {name: domain}",
        ),
        (Domain("a", train=["x"]), "train: got the domain 'a', expected a mapping .*; try {'a': domain}"),
        ("data.jsonl", "train: got a str, expected a mapping"),
        ({1: ["x"]}, "train: got a dict, expected a mapping of names"),
        ({"d": None}, "domain 'd': got NoneType, expected a Domain, a path, a data set, a table or a list"),
        ({"d": {"a"}}, "domain 'd': got a set, whose order changes"),
        ({"d": iter(["a"])}, "domain 'd': got an iterator"),
        ({"d": Path("no such file.txt")}, "domain 'd': got 'no such file.txt', expected a file that exists"),
        ({"d": {"other": ["a"]}}, r"domain 'd', split 'train': got columns \['other'\]"),
        ({"d": {"other": TEXTS, "more": None}}, r"domain 'd': got splits \['other', 'more'\]"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value)[:24],
)
def test_what_is_no_data_is_refused(given: Any, message: str) -> None:
    with pytest.raises((ConfigProblems, DataError), match=message):
        as_domains("train", given)
