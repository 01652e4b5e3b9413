"""The job of intelligibility: from files and models to a matrix and a page, killed anywhere, and what stops it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import small_speakers as small
from trimtab.errors import ConfigError, ConfigProblems, DataError
from trimtab.job import Elsewhere, carry_out
from trimtab.refer.captions.listener import Listener
from trimtab.refer.captions.tuning import Tuning
from trimtab.refer.intelligibility import job
from trimtab.refer.intelligibility.job import IntelligibilityConfig, Tune
from trimtab.refer.intelligibility.result import Intelligibility
from trimtab.runs.config import read_config

SETTINGS = Tuning(
    n_negatives=7, batch_size=8, lr=0.1, steps=30, evaluate_every=10, checkpoint_every=10, max_new_tokens=3
)
HEARS: dict[str, dict[str, Any]] = {"ear": {}, "other": {"deaf_to": ("disc",), "name": "other"}}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IntelligibilityConfig:
    """Sixteen pictures, captions of people who name colours, a captioner, two models and the rule."""
    loads = lambda source, device=None: source if isinstance(source, small.Speaker) else small.Speaker()  # noqa: E731
    monkeypatch.setattr(job, "captioner", loads)
    hears = lambda source, **how: small.listener(**HEARS[Path(source).name])  # noqa: E731
    monkeypatch.setattr(Listener, "from_pretrained", hears)
    for name in ("speaker", *HEARS):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    shown = small.pictures()
    (tmp_path / "pictures").mkdir()
    for name in shown.names:
        shown[name].save(tmp_path / "pictures" / f"{name}.png")
    scenes = [
        {"objects": [dict(zip(("colour", "shape"), name.split("-"), strict=True))]} for name in shown.names
    ]
    rows = {"file_name": [f"{n}.png" for n in shown.names], "scene": list(map(json.dumps, scenes))}
    pd.DataFrame(rows).to_csv(tmp_path / "pictures" / "metadata.csv", index=False)
    sets = [[other for other in shown.names if other[0] == name[0] or other == name] for name in shown.names]
    hard = pd.DataFrame(
        {"item": shown.names, "candidates": list(map(json.dumps, sets)), "target": shown.names}
    )
    hard.assign(family=[name.split("-")[0] for name in shown.names]).to_csv(
        tmp_path / "hard.csv", index=False
    )
    for name, words in (
        ("full", lambda one: one.replace("-", " ")),
        ("terse", lambda one: one.split("-")[0]),
    ):
        said = pd.DataFrame({"item": shown.names, "caption": list(map(words, shown.names))})
        said.to_csv(tmp_path / f"{name}.csv", index=False)
    choices = pd.DataFrame({"item": shown.names, "choice": shown.names, "speaker": "people"})
    choices.to_csv(tmp_path / "choices.csv", index=False)
    at = {path.name: str(path) for path in tmp_path.iterdir()}
    return IntelligibilityConfig(
        candidates=at["hard.csv"],
        captions={"full": at["full.csv"], "people": at["terse.csv"]},
        captioners={"captioner": at["speaker"]},
        listeners={"A": at["ear"], "other": at["other"], "rule": "rule"},
        records={"recorded": at["choices.csv"]},
        pictures=at["pictures"],
        tune=Tune("captioner", "A", "other", settings=SETTINGS),
        tune_pictures=at["pictures"],
        own={"people": "rule", "tuned": "A"},
        control="full",
        max_new_tokens=3,
        n_boot=100,
    )


def test_a_run_from_files_to_a_page(config: IntelligibilityConfig, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    result = carry_out(config, tmp_path / "run", lambda done, total: steps.append((done, total)))
    assert isinstance(result, Intelligibility)
    assert result.speakers == ["full", "people", "captioner", "tuned"]
    assert result.listeners == ["A", "other", "rule", "recorded"]
    assert result.cell("full", "rule")["value"] == 1
    assert result.cell("people", "rule")["value"] == 0.25  # every colour has four shapes in its set
    assert result.cell("tuned", "A")["value"] > result.cell("captioner", "A")["value"] + 0.1
    assert result.cell("people", "recorded")["value"] == 1
    assert np.isnan(result.cell("full", "recorded")["value"])
    told = json.loads(result.to_json())
    assert next(iter(told)) == "p_at_1"
    assert set(told["p_at_1"]) == {"before", "after", "independent_before", "independent_after"}
    assert all(set(one) == {"value", "low", "high", "n"} for one in told["p_at_1"].values())
    assert told["p_at_1"]["after"]["value"] == result.cell("tuned", "A")["value"]
    assert told["p_at_1"]["independent_before"]["value"] == result.cell("captioner", "other")["value"]
    kinds = result.interactions["kind"].tolist()
    assert kinds == ["own", "less control", "less control"]
    page = (tmp_path / "run/report.html").read_text()
    for title in (
        "Accuracy",
        "Before and after tuning",
        "Interaction",
        "Controls",
        "Captions",
        "Calibration",
    ):
        assert f">{title}<" in page
    heard = list(dict.fromkeys(result.reliability["listener"]))
    assert heard == ["A", "other", "rule"]  # choices alone have no calibration
    assert all(f">Reliability of {name}</text>" in page for name in heard)
    assert page.count("<svg") == 2 + len(heard) + 8  # of the examples
    assert page.count("data:image/png;base64,") == len(result.sets)
    sizes = {name: 4 if name[0] in "rb" else 8 for name in result.sets["item"]}  # green and grey are one set
    assert result.sets.groupby("item")["candidate"].nunique().to_dict() == sizes
    assert dict(zip(result.sets["item"], result.sets["size"], strict=True)) == sizes
    of_target = result.choices["candidate"] == result.choices["item"]
    found = result.choices[of_target].set_index(["item", "speaker", "listener"])["answers"]
    scores = result.examples.set_index(["item", "speaker"])
    for (item, speaker), row in scores[result.listeners].iterrows():
        for listener, score in row.dropna().items():
            assert found.get((item, speaker, listener), 0.0) == pytest.approx(score, abs=1e-12)
    assert not {"chosen", "answers"} & set(result.answers)
    assert "full, who adapted to nobody" in page
    assert steps[-1][0] == steps[-1][1] == config.cost()["steps"]
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    loaded = Intelligibility.load(tmp_path / "run")
    assert loaded.interaction == result.interaction
    pd.testing.assert_frame_equal(loaded.accuracy, result.accuracy, check_dtype=False)
    assert loaded.to_text() == result.to_text()


def test_a_run_killed_while_it_tunes_goes_on_to_the_same_numbers(
    config: IntelligibilityConfig, tmp_path: Path
) -> None:
    config = replace(config, strata=(), records={}, control="", n_boot=20)
    whole = carry_out(config, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(config, tmp_path / "killed", stop)
    again = carry_out(config, tmp_path / "killed")
    pd.testing.assert_frame_equal(again.accuracy, whole.accuracy)
    pd.testing.assert_frame_equal(again.answers, whole.answers)
    for name in ("captions-2.json", "captions-3.json"):
        first, second = (tmp_path / run / "artifacts" / name for run in ("whole", "killed"))
        assert first.read_bytes() == second.read_bytes()


def test_captions_that_were_made_are_not_made_again(
    config: IntelligibilityConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, strata=(), records={}, control="", n_boot=20)
    first = carry_out(config, tmp_path / "run")
    (tmp_path / "run/artifacts/result.json").unlink(missing_ok=True)

    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded again")

    monkeypatch.setattr(job, "captioner", fails)
    pd.testing.assert_frame_equal(carry_out(config, tmp_path / "run").accuracy, first.accuracy)


def test_without_models_there_is_no_tuning_and_no_picture(
    config: IntelligibilityConfig, tmp_path: Path
) -> None:
    bare = replace(
        config,
        captioners={},
        listeners={},
        tune=None,
        tune_pictures="",
        pictures="",
        own={},
        control="",
        group="family",
    )
    result = carry_out(bare, tmp_path / "bare")
    assert result.p_at_1 == {}
    assert result.accuracy["n_groups"].tolist() == [0, 4]
    assert "No interaction: no two own pairs" in result.summary()
    assert "clustered by family" in (tmp_path / "bare/report.html").read_text()


def test_sets_can_be_built(config: IntelligibilityConfig, tmp_path: Path) -> None:
    for kind in ("hard", "random"):
        built = replace(
            config, candidates=kind, n_candidates=4, tune=None, records={}, own={}, control="", strata=()
        )
        result = carry_out(built, tmp_path / kind)
        assert result.accuracy["n"].tolist() == [16] * 9
        assert result.accuracy["chance"].tolist() == pytest.approx([0.25] * 9)


def test_what_stops_a_job_before_it_starts(config: IntelligibilityConfig, tmp_path: Path) -> None:
    tune = config.tune
    assert tune is not None
    cases: list[tuple[dict[str, Any], str]] = [
        ({"candidates": "nowhere.csv"}, "candidates: got 'nowhere.csv', expected a table"),
        (
            {"captions": {"people": "no.csv"}, "control": ""},
            "captions.people: got 'no.csv', expected a table",
        ),
        ({"records": {"A": config.records["recorded"]}}, "two of the name 'A', expected one listener a name"),
        ({"pictures": ""}, "pictures: got none, expected a folder of pictures, which 'captioner' looks at"),
        ({"own": {"peple": "A"}}, "own: got 'peple', expected .*; try 'people'"),
        ({"own": {"people": "ruel"}}, "own.people: got 'ruel'"),
        ({"control": "ful"}, "control: got 'ful', expected .*; try 'full'"),
        ({"tune": replace(tune, speaker="people")}, "tune.speaker: got 'people', expected 'captioner'"),
        ({"tune": replace(tune, listener="rule")}, "tune.listener: got 'rule', expected 'A' or 'other'"),
        ({"tune": replace(tune, independent="A")}, "tune.independent: got the same as tune.listener"),
        ({"tune_pictures": "nowhere"}, "tune_pictures: got 'nowhere', expected a folder of pictures"),
        ({"tune": replace(tune, settings=replace(SETTINGS, lr=0.0))}, "tune.settings.lr: got 0.0"),
        ({"n_boot": 0}, "n_boot: got 0, expected at least 1"),
        ({"confidence": 1.0}, "confidence: got 1.0"),
        ({"seed": -1}, "seed: got -1"),
        ({"missing": "ignore"}, "missing: got 'ignore', expected 'refuse' or 'drop'"),
        (
            {"captions": {}, "captioners": {}, "tune": None, "own": {}, "control": ""},
            "got none, expected at least one speaker",
        ),
    ]
    for changed, message in cases:
        with pytest.raises(ConfigProblems, match=message):
            carry_out(replace(config, **changed), tmp_path / "never")
    assert not (tmp_path / "never").exists()
    with pytest.raises(ConfigError, match="several processes, expected one process"):
        config.run(Elsewhere(tmp_path), lambda *_: None)


def test_tables_that_do_not_do_stop_a_run(config: IntelligibilityConfig, tmp_path: Path) -> None:
    twice = pd.concat([pd.read_csv(config.captions["people"])] * 2)
    twice.to_csv(tmp_path / "twice.csv", index=False)
    some = pd.read_csv(config.captions["people"]).iloc[:14]
    some.to_csv(tmp_path / "some.csv", index=False)
    for name, message in (("twice", "two captions of item"), ("some", "got 2 items without a caption: ")):
        broken = replace(
            config, captions={**config.captions, "people": str(tmp_path / f"{name}.csv")}, tune=None, own={}
        )
        with pytest.raises(DataError, match=message):
            carry_out(broken, tmp_path / f"run {name}")
    survey = replace(config, captions={"people": str(tmp_path / "twice.csv")}).survey()
    assert [one.where for one in survey.problems] == [f"captions.people, {tmp_path / 'twice.csv'}, row 16"]
    assert config.survey().tables["tables"]["rows"].tolist() == [16, 16, 16, 16]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"group": "set"}, "group: got no column 'set' in the answers of A, the captions of full or"),
        ({"strata": ("famly",)}, "strata: got no column 'famly'.*; try 'family'"),
        ({"records": "other.csv"}, "listener recorded, item .*: got choice 'nobody', expected one of its"),
        ({"records": "nan.jsonl"}, r"listener recorded, item .*: got log-probabilities \[nan"),
    ],
)
def test_tables_are_refused_before_anything_is_captioned_or_tuned(
    changed: dict[str, Any],
    message: str,
    config: IntelligibilityConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choices = pd.read_csv(config.records["recorded"])
    choices.assign(choice="nobody").to_csv(tmp_path / "other.csv", index=False)
    nothing = choices.drop(columns="choice").assign(log_probabilities=[[float("nan")] * 4] * len(choices))
    lines = [json.dumps(row) for row in nothing.to_dict("records")]
    (tmp_path / "nan.jsonl").write_text("\n".join(lines))
    if "records" in changed:
        changed = {"records": {"recorded": str(tmp_path / changed["records"])}}

    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError("a captioner was asked")

    monkeypatch.setattr(job, "captioner", fails)
    broken = replace(config, **changed)
    with pytest.raises(DataError, match=message):
        carry_out(broken, tmp_path / "broken")
    assert re.search(message, "\n".join(map(str, broken.survey().problems)))


def test_captions_may_be_empty_and_items_may_be_files(config: IntelligibilityConfig, tmp_path: Path) -> None:
    said = pd.read_csv(config.captions["people"])
    said.loc[0, "caption"] = ""
    said.assign(item=said["item"] + ".png").to_csv(tmp_path / "files.csv", index=False)
    changed = replace(
        config,
        captions={"people": str(tmp_path / "files.csv")},
        captioners={},
        records={},
        tune=None,
        own={},
        control="",
    )
    assert not changed.survey().problems
    result = carry_out(changed, tmp_path / "files")
    assert result.accuracy["n"].tolist() == [16] * 3
    silent = result.answers[result.answers["words"] == 0]
    assert silent["score"].tolist() == silent["silent"].tolist()
    assert len(silent) == 3


def test_check_tells_what_the_run_refuses(config: IntelligibilityConfig, tmp_path: Path) -> None:
    people = pd.read_csv(config.captions["people"])
    people.iloc[:14].to_csv(tmp_path / "some.csv", index=False)
    people.assign(choice=people["item"], speaker="people").to_csv(tmp_path / "right.csv", index=False)
    people.assign(choice=people["item"], speaker="nobody").to_json(
        tmp_path / "stranger.json", orient="records"
    )
    people.assign(choice="no-such", speaker="people").to_csv(tmp_path / "wrong.csv", index=False)
    assert replace(config, records={"ears": str(tmp_path / "right.csv")}).survey().problems == ()
    short = replace(SETTINGS, n_negatives=99)
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"captions": {**config.captions, "people": str(tmp_path / "some.csv")}},
            "2 items without a caption",
        ),
        ({"records": {"ears": str(tmp_path / "stranger.json")}}, "got speaker 'nobody', expected one of"),
        ({"records": {"ears": str(tmp_path / "wrong.csv")}}, "choice 'no-such'"),
        ({"group": "game"}, "group: got no column 'game'"),
        (
            {"tune": replace(config.tune, settings=short)},
            "expected more than n_negatives=99; try n_negatives: 15",
        ),
    ]
    for number, (changed, message) in enumerate(cases):
        (problem,) = replace(config, **changed).survey().problems
        assert message in str(problem)
        if "tune" not in changed:
            with pytest.raises(DataError, match=re.escape(message)):
                carry_out(replace(config, **{"tune": None, "own": {}, **changed}), tmp_path / f"run {number}")


def test_a_config_is_yaml_and_back(config: IntelligibilityConfig) -> None:
    from trimtab.runs.serialise import plain

    assert read_config(plain(config), IntelligibilityConfig) == config
    assert "captions" in repr(config)
