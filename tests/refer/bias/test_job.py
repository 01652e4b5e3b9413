"""Audits from a config to a folder and a page, models beside people, and what stops a job before it starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from page_script import without_script
from trimtab import naming_bias
from trimtab.data.wordlist import WordList
from trimtab.errors import CheckpointError, ConfigProblems, DataError
from trimtab.job import carry_out, cost_text
from trimtab.lab.naming import NamingWorld, predictions
from trimtab.numerics.bootstrap import Resampling
from trimtab.refer.bias.job import NamingBiasConfig
from trimtab.refer.bias.models import amplification, sensitivity
from trimtab.refer.bias.objects import Columns
from trimtab.refer.bias.result import NamingBias
from trimtab.runs.config import read_config

NAMES = NamingWorld().sample(200, seed=3)
SPORTS, GENDER = WordList.read("sports-en"), WordList.read("gender-en")
COLUMNS = Columns("referent", "gender", "sport", "image", "count")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> NamingBiasConfig:
    tmp_path = tmp_path_factory.mktemp("data")
    NAMES.to_csv(tmp_path / "names.csv", index=False)
    predictions(NAMES).to_csv(tmp_path / "predictions.csv", index=False)
    return NamingBiasConfig(
        counts=str(tmp_path / "names.csv"),
        outcome="sports-en",
        reference="male",
        groups={"annotation": "gender", "names": "gender-en"},
        stricter=(0.9,),
        strata="sport",
        cluster="image",
        predictions=str(tmp_path / "predictions.csv"),
        model="model",
        group_words="gender-en",
        n_boot=100,
    )


@pytest.fixture(scope="module")
def result(config: NamingBiasConfig, tmp_path_factory: pytest.TempPathFactory) -> NamingBias:
    return carry_out(config, tmp_path_factory.mktemp("result") / "run")


def test_a_job_is_the_library_and_its_result_reads_back(config: NamingBiasConfig, tmp_path: Path) -> None:
    outcome = carry_out(config, tmp_path / "run")
    by_hand = naming_bias(
        NAMES,
        outcome=SPORTS,
        group="gender",
        strata="sport",
        cluster="image",
        weight="count",
        reference="male",
        n_boot=100,
    )
    loaded = NamingBias.load(tmp_path / "run")
    for one in (outcome, loaded):
        for name in ("rates", "standardised", "strata", "representation", "power", "accounting"):
            pd.testing.assert_frame_equal(getattr(one, name), getattr(by_hand, name), check_dtype=False)
        assert one.gap.ends() == by_hand.gap.ends()
        assert np.isnan(one.odds_ratio.p)
    assert list(loaded.sensitivity["source"]) == ["annotation", "names", "names, 0.9 agree"]
    told = json.loads(outcome.to_json())
    assert told["gap"]["value"] == by_hand.gap.value
    assert "objects weighing the same: a gap of" in outcome.to_text()
    assert (tmp_path / "run/report.html").read_text().count("<svg") == 2 + len(by_hand.standardised)
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "done"


def test_strata_and_groups_from_names_agree_with_the_columns_they_were_made_from(
    config: NamingBiasConfig, tmp_path: Path
) -> None:
    other = replace(config, groups={"names": "gender-en"}, strata="sports-en", stricter=(), predictions="")
    found = carry_out(other, tmp_path / "other")
    assert set(found.strata["stratum"]) == {"tennis", "baseball", "skateboard", "soccer", "ski"}
    assert found.accounting["n_objects"].sum() == NAMES["referent"].nunique()
    assert not len(found.sensitivity)
    assert not len(found.amplification)
    assert "source of gender-en" in found.config


# Models


def test_models_that_repeat_people_do_not_widen_the_gap() -> None:
    again = NAMES.loc[NAMES.index.repeat(NAMES["count"])].assign(model="the people themselves")
    extreme = NAMES.drop_duplicates("referent").assign(model="sports are for men")
    extreme["name"] = np.where(extreme["gender"] == "male", "tennis player", "woman")
    both = pd.concat([again, extreme])
    found = amplification(
        NAMES,
        both,
        columns=COLUMNS,
        outcome=SPORTS,
        reference="male",
        group_words=GENDER,
        model="model",
        draws=Resampling(200),
    )
    told = found.gaps.set_index(["model", "gap"])
    same = told.loc["the people themselves"]
    np.testing.assert_allclose(
        same[["amplification", "amplification_low", "amplification_high"]], 0, atol=1e-12
    )
    np.testing.assert_allclose(told["model_gap"] - told["people"], told["amplification"], atol=1e-12)
    widest = told.loc[("sports are for men", "raw")]
    assert widest["model_gap"] == -1
    assert widest["amplification_high"] < 0
    assert (found.misnaming["rate"] == 0).all()
    assert set(found.misnaming["n_objects"]) == {
        len(NAMES[NAMES["gender"] == g]["referent"].unique()) for g in ("male", "female")
    }


def test_names_of_the_other_group_and_missing_predictions_are_counted() -> None:
    people = NAMES["referent"].unique()
    wrong = pd.DataFrame({"referent": people[:-5], "name": "woman"})
    found = amplification(
        NAMES,
        wrong,
        columns=COLUMNS,
        outcome=SPORTS,
        reference="male",
        group_words=GENDER,
        draws=Resampling(50),
    )
    told = found.misnaming.set_index("group")
    assert told["rate"].to_dict() == {"male": 1.0, "female": 0.0}
    assert told["low"]["male"] < 1
    assert found.accounting.set_index("reason")["n_objects"].to_dict() == {
        "used": len(people) - 5,
        "no prediction": 5,
    }
    women = NAMES[NAMES["gender"] == "female"]["referent"]
    with pytest.raises(DataError, match="not of both groups"):
        amplification(
            NAMES, wrong[wrong["referent"].isin(women)], columns=COLUMNS, outcome=SPORTS, reference="male"
        )
    with pytest.raises(DataError, match="no column 'name'"):
        amplification(NAMES, wrong[["referent"]], columns=COLUMNS, outcome=SPORTS, reference="male")


def test_sensitivity_is_the_audit_with_other_labels() -> None:
    settings = {"strata": "sport", "weight": "count", "reference": "male", "n_boot": 50}
    told = sensitivity(NAMES, {"first": "gender", "second": "annotated"}, {"sports": SPORTS}, **settings)
    other = naming_bias(NAMES, outcome=SPORTS, group="annotated", **settings)
    assert told["gap"][1] == other.gap.value
    assert told["standardised"][1] == other.standardised["gap"][1]
    assert told["n_aside"].tolist()[0] == 0
    assert told["n_aside"].tolist()[1] > 0


# The page


def test_a_page_escapes_names_and_says_what_chance_explains(result: NamingBias) -> None:
    text = NamingBias.page([replace(result, notes=("<script>alert(1)</script>",), label="<b>")], title="<i>")
    assert "<script>" not in without_script(text)
    assert "&lt;script&gt;" in text
    low = result.standardised.assign(gap=-0.3, low=-0.4, high=-0.2)
    assert replace(result, standardised=low).summary().count("not distinguishable") == 0
    none = result.standardised.assign(gap=0.0, low=-0.1, high=0.1)
    assert replace(result, standardised=none).summary().count("not distinguishable from 0") == 2


def test_several_audits_are_compared_and_none_is_refused(result: NamingBias) -> None:
    text = NamingBias.page([result, replace(result, label="other")])
    assert "2. other" in text
    with pytest.raises(DataError, match="no result"):
        NamingBias.page([])


def test_a_forest_has_a_row_for_every_gap(result: NamingBias) -> None:
    names = [one.get_text() for one in result.figure().axes[0].get_yticklabels()]
    assert len(names) == 1 + 3 + 5
    assert result.to_frame()["gap"].tolist()[0] == "raw"
    assert repr(result).startswith("NamingBias('naming bias: sports-en': gap -0.")


# What is wrong with a config


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"counts": "no/such.csv"}, "counts"),
        ({"predictions": "no/such.csv"}, "predictions"),
        ({"outcome": "nowhere.yaml"}, "outcome"),
        ({"among": ("gender-e",)}, "among.0"),
        ({"group_words": "gender"}, "group_words"),
        ({"groups": {}}, "groups"),
        ({"n_boot": 0}, "n_boot"),
        ({"confidence": 1.0}, "confidence"),
        ({"agreement": 0.4}, "agreement"),
        ({"stricter": (1.0,)}, "stricter"),
        ({"confidence": float("nan")}, "confidence"),
        ({"seed": -1}, "seed"),
        ({"n_boot": 10**12}, "n_boot"),
        ({"strata": "sports-en", "general": ("genral",)}, "general"),
        ({"outcome": "is_sport", "predictions": ""}, "outcome"),
    ],
)
def test_each_mistake_is_named_before_anything_starts(
    config: NamingBiasConfig, tmp_path: Path, changes: dict[str, Any], where: str
) -> None:
    wrong = replace(config, **changes)
    assert [problem.where for problem in wrong.problems()] == [where]
    with pytest.raises(ConfigProblems, match=where):
        carry_out(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_columns_that_are_not_there_are_named_together_before_anything_starts(
    config: NamingBiasConfig, tmp_path: Path
) -> None:
    wrong = replace(
        config,
        strata="sprt",
        cluster="imag",
        weight="cnt",
        groups={"first": "gender", "second": "genre"},
        model="modl",
    )
    found = {problem.where: problem for problem in wrong.problems()}
    assert sorted(found) == ["cluster", "groups.second", "model", "strata", "weight"]
    assert found["strata"].hint == "'sport'"
    assert "one of ['model', 'referent', 'name']" in found["model"].expected
    with pytest.raises(ConfigProblems, match="no column 'sprt'"):
        carry_out(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_that_does_not_hold_what_the_config_says_fails_the_run(
    config: NamingBiasConfig, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"no members of the reference group 'mael'.*try 'male'"):
        carry_out(replace(config, reference="mael"), tmp_path / "run")
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"
    with pytest.raises(CheckpointError, match="no finished result"):
        NamingBias.load(tmp_path / "run")


def test_an_estimate_counts_rows(config: NamingBiasConfig) -> None:
    assert config.cost() == {"steps": 100, "rows": len(NAMES)}
    text = cost_text(replace(config, counts="lab:people").cost())
    assert text.splitlines()[1] == "rows   not known before the data is read"


@pytest.mark.parametrize("reference", ["0", "'0'", "0.0", "false"])
def test_a_recipe_may_name_a_group_by_a_number_or_a_truth_value(tmp_path: Path, reference: str) -> None:
    truth = reference == "false"
    own = NAMES.assign(
        gender=NAMES["gender"] == "female" if truth else (NAMES["gender"] == "female").astype(int)
    )
    own.to_csv(tmp_path / "names.csv", index=False)
    (tmp_path / "c.yaml").write_text(
        f"system: naming-bias\ncounts: {tmp_path / 'names.csv'}\noutcome: sports-en\nreference: {reference}\n"
        "groups: {column: gender}\nn_boot: 20\n"
    )
    found = carry_out(
        read_config(tmp_path / "c.yaml", NamingBiasConfig, extra_problems=NamingBiasConfig.problems),
        tmp_path / "run",
    )
    assert found.groups == (("False", "True") if truth else ("0", "1"))
    assert NamingBias.load(tmp_path / "run").groups == found.groups


def test_predictions_match_objects_of_any_type_and_miss_nothing() -> None:
    given = {"columns": COLUMNS, "outcome": SPORTS, "reference": "male", "draws": Resampling(30)}
    rows = NAMES.drop_duplicates("referent")[["referent", "name"]].assign(model=1)
    expected = amplification(NAMES, rows, model="model", **given).gaps
    for kind in (float, str, "Int64", "category"):
        own = rows.assign(referent=rows["referent"].astype(kind), model=1.0)
        pd.testing.assert_frame_equal(amplification(NAMES, own, model="model", **given).gaps, expected)
    with pytest.raises(DataError, match="rows without 'model'"):
        amplification(NAMES, rows.assign(model=[1.0, *[np.nan] * (len(rows) - 1)]), model="model", **given)
    with pytest.raises(DataError, match="no predictions"):
        amplification(NAMES, rows.iloc[:0], **given)


def test_a_survey_counts_objects_by_group(config: NamingBiasConfig) -> None:
    survey = config.survey()
    rows = survey.tables["rows"].set_index("table")["rows"]
    assert rows["counts"] == len(NAMES)
    objects = survey.tables["objects"]
    assert list(dict.fromkeys(objects["labels"])) == ["annotation", "names", "names, 0.9 agree"]
    annotated = objects[objects["labels"] == "annotation"].set_index("group")["objects"]
    assert annotated["male"] == NAMES[NAMES["gender"] == "male"]["referent"].nunique()
    assert survey.problems == ()
    wrong = replace(config, reference="man", predictions="lab:sports-predictions").survey()
    assert [problem.where for problem in wrong.problems] == ["groups.annotation", *["groups.names"] * 2]
    assert "'man'" in wrong.problems[0].got
    assert wrong.notes[0].startswith("predictions: lab:sports-predictions is not read before the run")


def test_a_seed_is_refused_in_the_words_of_every_system(config: NamingBiasConfig) -> None:
    told = [problem for problem in replace(config, seed=-2).problems() if problem.where == "seed"]
    assert [str(problem) for problem in told] == ["seed: got -2, expected a whole number from 0 to 2**63 - 1"]
