"""Leak audit as a job: its problems all at once, its survey, its run and what it leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from quick_leaks import questions
from tiny_models import build, tokenizer
from trimtab.errors import ConfigProblems, DataError
from trimtab.job import carry_out, survey_of
from trimtab.read.leaks import job
from trimtab.read.leaks.job import LeaksConfig, texts_of
from trimtab.read.leaks.result import TABLE, LeaksResult, empty
from trimtab.runs.config import read_config
from trimtab.runs.folder import at_work, read_run


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("leaks")
    build("llama").save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    questions().to_json(folder / "questions.jsonl", orient="records", lines=True)
    return folder


def config(places: Path, **more: Any) -> LeaksConfig:
    content: dict[str, Any] = {"system": "leaks", "model": str(places / "model")}
    content |= {
        "questions": str(places / "questions.jsonl"),
        "attributes": ["colour"],
        "background": ["city"],
    }
    content |= {"group": "scene", "levels": [{"hidden": [-1]}, {"logprobs": [1, 5]}, "answer"]}
    return read_config(content | {"mitigations": [{"truncate": 1}]} | more, LeaksConfig)


def test_a_good_config_has_no_problem(places: Path) -> None:
    assert list(config(places).problems()) == []
    assert list(config(places, levels=[]).problems()) == []
    assert config(places).cost() == {"steps": 2}
    assert config(places, controls=False).cost() == {"steps": 1}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"model": None}, "model: got neither a model nor a transcript, expected one of them"),
        ({"model": "./nowhere"}, "model: got './nowhere', expected a folder with a config.json"),
        ({"questions": "none.jsonl"}, "questions: got 'none.jsonl', expected a questions file"),
        ({"attributes": [], "background": []}, "attributes: got none, expected at least one column"),
        ({"levels": ["hiden"]}, "levels[0]: got 'hiden', expected 'hidden' or"),
        (
            {"levels": ["hidden"], "max_bits": 0.1},
            "max_bits: got a bound, and levels that no caller sees (hidden)",
        ),
        (
            {"mitigations": [{"erase": "size"}]},
            "mitigations[0].erase: got 'size', expected one of 'colour', 'city'",
        ),
        ({"classifiers": ["logistics"]}, "classifiers: got 'logistics', expected 'logistic'"),
        ({"classifiers": []}, "classifiers: got none, expected at least one"),
        ({"jobs": 0}, "jobs: got 0, expected at least 1"),
        ({"batch_size": 0}, "batch_size: got 0, expected at least 1"),
        ({"seed": -1}, "seed: got -1, expected a whole number"),
        ({"device": "gpu"}, "device: got 'gpu', expected"),
        ({"lens_texts": "none.txt"}, "lens_texts: got 'none.txt', expected a text file"),
        ({"question": "asked"}, "question: got it without a transcript"),
    ],
)
def test_each_mistake_is_told(places: Path, more: dict[str, Any], told: str) -> None:
    assert [str(one) for one in config(places, **more).problems() if str(one).startswith(told)]


def test_a_transcript_stands_alone(places: Path) -> None:
    wrong = config(places, transcript="none.jsonl", levels=["hidden"], labels="none.csv")
    assert [problem.where for problem in wrong.problems()] == [
        "model", "questions", "transcript", "labels", "levels[0]"
    ]  # fmt: skip


def test_the_survey_counts_attributes_in_their_roles(places: Path) -> None:
    survey = survey_of(config(places))
    assert survey is not None
    assert survey.tables["attributes"].to_dict("records")[0] == {
        "attribute": "colour", "role": "mentioned", "rows": 24, "groups": 24, "classes": 2, "largest class": 0.5,
        "set aside": 0,
    }  # fmt: skip
    assert survey.cost == {"rows": 48, "attributes_and_roles": 3, "scratch_bytes": 4 * 48 * (2 * 16 + 4 * 5)}
    missing = survey_of(config(places, attributes=["colour", "size"]))
    assert missing is not None
    assert "size" in str(missing.problems[0])
    lab = survey_of(replace(config(places), questions="lab:facts"))
    assert lab is not None
    assert lab.notes == ("questions: lab:facts is not read before the run, which makes it.",)


def few_classes(places: Path, **changed: Any) -> LeaksConfig:
    """A config whose questions have other columns."""
    path = places / f"few-{len(list(places.iterdir()))}.jsonl"
    questions().assign(**changed).to_json(path, orient="records", lines=True)
    return config(places, questions=str(path))


@pytest.mark.parametrize(
    ("mentioned", "classes"), [(range(0, 12, 4), "0 classes"), (range(0, 40, 4), "1 class")]
)
def test_an_attribute_of_fewer_than_two_classes_in_a_role_is_told_before_the_run(
    places: Path, mentioned: range, classes: str
) -> None:
    listed = [["colour"] if row in mentioned else [] for row in range(48)]
    chosen = few_classes(places, mentioned=listed)
    told = f"colour (mentioned): {classes} in at least 5 groups, so it will not be measured"
    for bound, end in ((None, "."), (0.1, "; the bound is not tested there, so the exit code is 1.")):
        survey = survey_of(replace(chosen, max_bits=bound))
        assert survey is not None
        assert survey.problems == ()
        assert f"{told}{end}" in survey.notes
    survey = survey_of(config(places))
    assert survey is not None
    assert survey.notes == ()


@pytest.mark.parametrize(
    ("colours", "got"),
    [
        (["red"] * 48, "1 of 1 classes in at least 5 groups"),
        ([f"c{row // 8}" for row in range(48)], "0 of 6 classes in at least 5 groups"),
        (["red"] * 40 + ["blue"] * 8, "1 of 2 classes in at least 5 groups"),
    ],
)
def test_an_attribute_of_fewer_than_two_classes_is_refused_before_the_run(
    places: Path, colours: list[str], got: str
) -> None:
    survey = survey_of(few_classes(places, colour=colours))
    assert survey is not None
    (problem,) = survey.problems
    assert f"attribute 'colour': got {got}, expected at least 2 classes" in str(problem)


@pytest.mark.usefixtures("quick")
def test_a_run_leaves_its_result_and_its_page(places: Path, tmp_path: Path) -> None:
    chosen = config(places, attributes=[], max_bits=0.05)
    told: list[tuple[int, int]] = []
    result = carry_out(chosen, tmp_path, lambda done, total: told.append((done, total)))
    assert isinstance(result, LeaksResult)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1][0] == told[-1][1]
    loaded = LeaksResult.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.table, result.table)
    assert loaded.passed is result.passed is False
    assert "leaks" in read_run(tmp_path).config["system"]
    assert "<table" in (tmp_path / "report.html").read_text()


def test_a_wrong_config_is_refused_before_a_folder_is_made(places: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigProblems, match="jobs: got 0"):
        carry_out(config(places, jobs=0), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_transcript_is_audited_with_the_settings_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def note(path: str, attributes: tuple[str, ...], **more: Any) -> LeaksResult:
        given.update(more, path=path, attributes=attributes)
        return LeaksResult(table=empty(TABLE))

    monkeypatch.setattr(job, "audit_transcript", note)
    (tmp_path / "served.jsonl").write_text("{}\n")
    chosen = LeaksConfig(
        transcript=str(tmp_path / "served.jsonl"), attributes=("city",), question="@user", seed=4
    )
    with at_work(tmp_path / "run", chosen) as folder:
        chosen.run(folder, lambda *_: None)
    assert (given["question"], given["seed"], given["levels"]) == ("@user", 4, None)
    assert given["folder"] == tmp_path / "run/artifacts/audit"


def test_texts_of_a_lens(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    assert texts_of(str(tmp_path / "a.txt")) == ["one", "two"]
    (tmp_path / "b.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"lens_texts: got no text in .*b\.txt, expected a text a line"):
        texts_of(str(tmp_path / "b.txt"))
