"""The page of results of steering: rules on made-up intervals, sentences that change with them, missing files."""

from __future__ import annotations

import copy
import re
from typing import Any

import pandas as pd
import pytest

from benchmark_scripts import scripts
from trimtab import LinEAS

with scripts("steering", "claims", "page", "table", "methods") as found_scripts:
    CLAIMS, PAGE, TABLE, METHODS = found_scripts
FILES = PAGE.files()


def interval(low: float, high: float, n: int = 5) -> dict[str, Any]:
    return {"value": (low + high) / 2, "low": low, "high": high, "n": n}


@pytest.fixture
def found() -> dict[str, Any]:
    """The result files, to be changed."""
    return copy.deepcopy(FILES)


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {one.key: one.verdict for one in CLAIMS.judged(found)}


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ([(-0.2, -0.1), (-0.3, -0.1)], "held"),
        ([(-0.2, -0.1), (-0.3, 0.1)], "partly"),
        ([(-0.2, 0.1), (-0.3, 0.1)], "open"),
        ([(-0.2, -0.1), (0.1, 0.2)], "did not hold"),
        ([(-0.2, 0.0)], "open"),  # an interval that touches zero tells nothing
        ([], "not measured"),
    ],
)
def test_a_claim_is_judged_by_all_its_intervals(ends: list[tuple[float, float]], verdict: str) -> None:
    assert CLAIMS.below([CLAIMS.side(interval(*one)) for one in ends]) == verdict


def test_intervals_of_two_means_tell_only_where_they_do_not_meet() -> None:
    low, middle, high = interval(0.1, 0.2), interval(0.2, 0.4), interval(0.3, 0.5)
    assert CLAIMS.apart(low, high) == CLAIMS.BELOW
    assert CLAIMS.apart(high, low) == CLAIMS.ABOVE
    assert CLAIMS.apart(low, middle) == CLAIMS.apart(middle, high) == CLAIMS.UNCLEAR


def test_a_claim_flips_with_the_interval_of_one_world(found: dict[str, Any]) -> None:
    """End to end against local fits holds with weak cues alone, as measured."""
    assert verdicts(found)["local"] == "partly"
    rows = CLAIMS.gaps(
        found["summary"], "end_to_end_less_local", METHODS.DEFAULT, METHODS.LOCAL[METHODS.DEFAULT]
    )
    weak, strong = (row["all"] for row in rows)
    strong.update(interval(-0.1, -0.02, n=7))
    assert verdicts(found)["local"] == "held"
    assert "strong cues -0.060 [-0.100, -0.020], n = 7 | **held** |" in PAGE.page(found)
    weak.update(interval(0.01, 0.02))
    assert verdicts(found)["local"] == "did not hold"


def test_the_spread_over_sites_is_judged_by_every_rival_but_the_oracle(found: dict[str, Any]) -> None:
    gap = "default less it, spread"
    rows = [
        row
        for row in found["summary"]["sensitivity_to_the_site"]
        if row["score"] == TABLE.MATCHED and gap in row
    ]
    for row in rows:
        row[gap] = interval(-0.2, -0.1) if row["method"] != METHODS.ORACLE else interval(0.1, 0.2)
    assert verdicts(found)["sites"] == "held"
    rows[-1][gap] = interval(0.1, 0.2)
    assert rows[-1]["method"] != METHODS.ORACLE
    assert verdicts(found)["sites"] == "did not hold"


def test_real_registers_are_judged_at_every_kind_of_site(found: dict[str, Any]) -> None:
    score = CLAIMS.real_score(found["real"])
    assert score == "code_score at KL 0.2"
    for row in found["real"]["table"]:
        row[score] = interval(0.1, 0.2) if row["method"] == METHODS.DEFAULT else interval(0.3, 0.4)
    assert verdicts(found)["real"] == "held"
    assert "of 4 kinds of site: 4 below, 0 above, n = 5 | **held** |" in PAGE.page(found)


def test_units_that_are_all_found_make_a_detector(found: dict[str, Any]) -> None:
    assert "not a detector" in PAGE.page(found)
    found["planted"]["table"]["end to end, 0.3"]["precision"] = interval(0.9, 1.0)
    assert verdicts(found)["planted"] == "held"
    assert "not a detector" not in PAGE.page(found)


def test_sentences_change_with_the_intervals(found: dict[str, Any]) -> None:
    text = PAGE.page(found)
    assert "Over all sites it is not told apart from `MeanAcT` with weak cues." in text
    assert "Rivals that do better somewhere: 3 of 70" in text
    (row,) = CLAIMS.gaps(found["summary"], "unpenalised_less_others", "LinEAS", "MeanAcT")
    row["all"] = interval(-0.2, -0.1)
    for one in found["summary"]["default_less_others"]:
        one["by_place"] = {place: interval(-0.2, 0.1) for place in one["by_place"]}
    text = PAGE.page(found)
    assert "better than `MeanAcT` with weak cues" in text
    assert "Rivals that do better" not in text
    assert "supervised map finds" not in text  # not told apart from the oracle anywhere
    assert "So for a site of your own" in text  # open is not held


def test_intervals_over_models_are_students(found: dict[str, Any]) -> None:
    """Each lies evenly about its mean, and the file says by which rule it was made."""
    rows = found["summary"]["groups"] + found["summary"]["sensitivity_to_the_site"] + found["peers"]["effect"]
    every = [one for row in rows for one in row.values() if isinstance(one, dict) and one["n"] > 1]
    assert len(every) > 1000
    assert {one["n"] for one in every} <= {3, 5}
    assert [(one["low"] + one["high"]) / 2 for one in every] == pytest.approx(
        [one["value"] for one in every], abs=1e-5
    )
    assert found["summary"]["interval"] == PAGE.INTERVAL


def test_the_page_names_intervals_that_are_still_bootstraps_of_few(found: dict[str, Any]) -> None:
    assert "real registers (n = 5 draws) and inverses" in " ".join(PAGE.page(found).split())
    found["real"]["interval"] = PAGE.INTERVAL
    text = " ".join(PAGE.page(found).split())
    assert "planted units (n = 5 draws) and inverses and compositions (n = 5 models) are percentile" in text
    for name in ("planted", "algebra"):
        found[name]["interval"] = PAGE.INTERVAL
    assert "too narrow" not in PAGE.page(found)


def test_fits_that_diverge_are_counted(found: dict[str, Any]) -> None:
    assert "4 of 5 diverge | 5 of 5 diverge" in PAGE.page(found)
    for row in found["summary"]["groups"]:
        if row["part"] == "rates":
            row["diverged"], row[TABLE.MATCHED] = interval(0, 0), interval(0.2, 0.4)
    text = PAGE.page(found)
    assert "No fit diverges." in text
    assert " diverge |" not in text


def test_packages_are_told_apart_by_their_intervals(found: dict[str, Any]) -> None:
    row = next(one for one in found["peers"]["effect"] if one["contestant"] == "steering-vectors, mean")
    name = next(key for key in row if "less" in key)
    text = " ".join(PAGE.page(found).split())
    assert (
        "there, as their dials say: trimtab LinEAS, pre-MLP norm; trimtab MeanAcT, residual; repeng, " in text
    )
    assert "Patched to run: repeng, pyreft." in text
    row[name] = interval(-0.2, -0.1, n=3)
    text = " ".join(PAGE.page(found).split())
    assert "MeanAcT, residual; repeng, pca_diff; repeng, pca_center. " in text
    assert "affine oracle, residual; steering-vectors, mean; pyreft LoReFT, everywhere. " in text


@pytest.mark.parametrize("name", ["summary", "planted", "real", "algebra", "peers"])
def test_a_file_that_is_missing_leaves_its_section_out(found: dict[str, Any], name: str) -> None:
    before = set(re.findall(r"^##+ .*$", PAGE.page(found), re.MULTILINE))
    text = PAGE.page(found | {name: None})
    assert set(re.findall(r"^##+ .*$", text, re.MULTILINE)) < before
    if name in ("summary", "planted", "real"):
        assert "**not measured**" in text


def test_without_any_file_nothing_is_claimed() -> None:
    nothing = dict.fromkeys(FILES) | {"models": []}
    assert set(verdicts(nothing).values()) == {"not measured"}
    text = PAGE.page(nothing)
    assert text.startswith("# Results: steering\n")
    assert not re.search(r"\d\.\d", re.sub(r"`[^`]*`", "", text))


def test_the_default_of_the_benchmark_is_the_default() -> None:
    assert METHODS.METHODS[METHODS.DEFAULT]("residual").gamma == LinEAS().settled().gamma


def fit_rows(
    method: str, scores: dict[tuple[int, str], float], n: int = 32, part: str = "main"
) -> list[dict[str, Any]]:
    world = {"part": part, "world": "weak cues", "draw": 0, "n": n, "method": method}
    return [
        {**world, "seed": seed, "place": place, "score": value} for (seed, place), value in scores.items()
    ]


def test_spreads_are_compared_model_by_model() -> None:
    """Spreads of the default are 0.1 and 0.3, those of the rival 0.2 and 0.4: always 0.1 less."""
    ours = {(0, "a"): 0.1, (0, "b"): 0.2, (1, "a"): 0.5, (1, "b"): 0.2}
    theirs = {(0, "a"): 0.5, (0, "b"): 0.3, (1, "a"): 0.1, (1, "b"): 0.5}
    table = pd.DataFrame([*fit_rows(METHODS.DEFAULT, ours), *fit_rows("MeanAcT", theirs)])
    rows = {row["method"]: row for row in TABLE.sensitivity(table, "weak cues", "score")}
    assert rows[METHODS.DEFAULT]["spread"]["value"] == pytest.approx(0.2)
    gap = rows["MeanAcT"]["default less it, spread"]
    assert [gap[end] for end in ("value", "low", "high")] == pytest.approx([-0.1] * 3)
    assert rows["MeanAcT"]["default less it, worst"]["value"] == pytest.approx((-0.3 + 0.0) / 2)
    assert "default less it, spread" not in rows[METHODS.DEFAULT]


def test_the_most_examples_are_compared_with_the_fewest_on_the_same_models() -> None:
    rows = [
        row
        for n, rise in ((4, 0.3), (8, 0.9), (16, 0.1))
        for row in fit_rows("MeanAcT", {(0, "a"): rise, (1, "a"): rise + 1}, n, "examples")
    ]
    (one,) = TABLE.most_less_fewest(pd.DataFrame(rows), "score")
    assert (one["most"], one["fewest"], one["gap"]["n"]) == (16, 4, 2)
    assert [one["gap"][end] for end in ("low", "high")] == pytest.approx([-0.2, -0.2])
