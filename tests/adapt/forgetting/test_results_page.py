"""The page of results of forgetting: verdicts, words and numbers follow the result files."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmark_scripts import BENCHMARKS, scripts

RESULTS = BENCHMARKS / "results" / "forgetting"
FILES = ("laws", "promise", "planned", "devices", "points-near", "points-far")


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    names = ("claims", "promise_page", "page", "pages", "claims_table")
    with scripts("forgetting", *names) as found:
        yield dict(zip(names, found, strict=True))


@pytest.fixture(scope="module")
def files() -> dict[str, Any]:
    return {name: json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in FILES}


@pytest.fixture
def laws(files: dict[str, Any]) -> Any:
    return copy.deepcopy(files["laws"])


def ends(low: float, high: float, n: int = 9) -> dict[str, Any]:
    return {"value": (low + high) / 2, "low": low, "high": high, "n": n}


def verdict(modules: dict[str, ModuleType], found: Any, start: str, *others: Any) -> Any:
    every = modules["claims"].judged(found, *(others or (None, None)))
    (claim,) = [one for one in every if one.text.startswith(start)]
    return claim


def test_verdicts_need_every_interval(modules: dict[str, ModuleType]) -> None:
    within = modules["claims_table"].within
    assert within([ends(-0.01, 0.01)], 0.02) == "held"
    assert within([ends(-0.01, 0.03)], 0.02) == "open"
    assert within([ends(-0.01, 0.01), ends(0.03, 0.04)], 0.02) == "did not hold"
    of_all = modules["claims_table"].of_all
    assert [of_all(each) for each in ([True, True], [True, False], [False], [])] == [
        "held",
        "partly",
        "did not hold",
        "not measured",
    ]


def test_intervals_touch_where_they_have_a_point_in_common(modules: dict[str, ModuleType]) -> None:
    touch = modules["claims_table"].touch
    assert touch(ends(0, 1), ends(1, 2))
    assert not touch(ends(0, 1), ends(1.1, 2))
    assert not touch(ends(1.1, 2), ends(0, 1))


def test_the_share_removed_decides_the_claim_of_one_per_cent(
    modules: dict[str, ModuleType], laws: Any
) -> None:
    start = "1 % of pretraining data prevents"
    assert verdict(modules, laws, start).verdict == "did not hold"
    laws["domains"]["near"]["share removed at 1 %"] = ends(0.9, 1.02, n=17)
    one = verdict(modules, laws, start)
    assert one.verdict == "partly"
    assert "near 96 % [90, 102], n = 17" in one.measured
    laws["domains"]["far"]["share removed at 1 %"] = ends(0.9, 1.02)
    assert verdict(modules, laws, start).verdict == "held"


@pytest.mark.parametrize(
    ("start", "change", "told"),
    [
        (
            "fine-tuning without",
            lambda d: d["forgetting without injection"].update(rise=ends(-0.1, 0.2)),
            "partly",
        ),
        ("1 % leaves", lambda d: d["target at 1 %"].update(low=0.02, high=0.03), "did not hold"),
        ("the law of forgetting", lambda d: d["forms"]["both"][1].update(aicc=-1e4), "partly"),
        ("the fine-tuning law", lambda d: d["fine-tuning error, held out"].update(low=0.02), "held"),
        ("B lies", lambda d: d["forgetting"][1].update(high=1000.0), "partly"),
    ],
)
def test_a_claim_of_one_domain_changes_the_verdict(
    modules: dict[str, ModuleType], laws: Any, start: str, change: Any, told: str
) -> None:
    before = verdict(modules, laws, start).verdict
    change(laws["domains"]["near"])
    assert verdict(modules, laws, start).verdict == told != before


def test_claims_about_errors_are_of_every_fit(modules: dict[str, ModuleType], laws: Any) -> None:
    loss, rival = "it predicts the pretraining loss", "it predicts rises"
    for told in laws["domains"].values():
        for rows in (*told["forms"].values(), *told["a size beyond"]["forms"].values()):
            for row in rows:
                row.update(loss_error=0.004, loss_low=0.003, more_low=0.1, more_high=0.2, rise_more=0.15)
    assert verdict(modules, laws, loss).verdict == "held"
    assert verdict(modules, laws, rival).verdict == "held"
    assert verdict(modules, laws, rival).measured == "above zero in 32 of 32, below in 0"
    laws["domains"]["far"]["forms"]["both"][0]["loss_low"] = 0.02
    assert verdict(modules, laws, loss).verdict == "partly"


def test_promises_decide_the_claims_about_plans(
    modules: dict[str, ModuleType], files: dict[str, Any]
) -> None:
    promise = copy.deepcopy(files["promise"])
    rest = (promise, files["planned"])
    more, often = "DynaMiCS keeps more", "a planned median"
    assert verdict(modules, files["laws"], more, *rest).verdict == "held"
    assert verdict(modules, files["laws"], often, *rest).verdict == "did not hold"
    for row in promise["rows"]:
        row["kept"] = True
    promise["summary"]["kept"]["planned"]["share"].update(low=0.45, high=0.6)
    found = verdict(modules, files["laws"], more, *rest)
    assert (found.verdict, found.measured) == ("open", "+0.00 [+0.00, +0.00], n = 33")
    assert verdict(modules, files["laws"], often, *rest).verdict == "held"


def test_pairs_are_of_one_promise_and_seed(modules: dict[str, ModuleType], files: dict[str, Any]) -> None:
    found = modules["claims"].pairs(files["promise"]["rows"], "dynamics", "planned")
    same = ("domain", "tokens", "seed", "promise")
    assert [one for one, other in found if any(one[name] != other[name] for name in same)] == []
    assert {(one["how"], other["how"]) for one, other in found} == {("dynamics", "planned")}
    assert len(found) == sum(row["how"] == "planned" for row in files["promise"]["rows"])


def test_a_sentence_about_noise_vanishes_where_a_run_is_within_it(
    modules: dict[str, ModuleType], laws: Any
) -> None:
    section = modules["page"].forgotten
    assert any("Every run" in part for part in section(laws["domains"]))
    laws["domains"]["far"]["forgetting without injection"]["clear"] = 27
    told = list(section(laws["domains"]))
    assert not any("Every run" in part for part in told)
    assert "27 of 28" in told[1]


def test_what_removes_more_is_told_by_intervals_that_do_not_overlap(
    modules: dict[str, ModuleType], laws: Any
) -> None:
    told = "\n".join(modules["page"].removal(laws["domains"]))
    assert "- at 1 %: on far than on near text (all)" in told
    rows = {(row["inject"], row["tokens"]): row for row in laws["domains"]["near"]["share removed"]}
    for (_, tokens), row in rows.items():
        row.update(low=0.5, high=0.6) if tokens is None else row.update(low=-1.0, high=1.0)
    told = "\n".join(modules["page"].removal(laws["domains"]))
    assert "- at 1 %: on near than on far text (all)" in told
    assert "6 of 16" not in told
    assert "5 of 16" in told  # near over all at each share, and far of many tokens at the largest


def test_the_side_of_the_predicted_rise_is_that_of_its_interval(
    modules: dict[str, ModuleType], laws: Any, files: dict[str, Any]
) -> None:
    points = {domain: files[f"points-{domain}"] for domain in ("near", "far")}
    told = "\n".join(modules["page"].extrapolation(laws["domains"], points))
    assert "- too high: largest token count (near and far); both (near and far)" in told
    laws["domains"]["near"]["mean rise, held out"]["both"]["predicted less real"].update(low=-0.1)
    told = "\n".join(modules["page"].extrapolation(laws["domains"], points))
    assert "- too high: largest token count (near and far); both (far)" in told


def test_a_rival_that_errs_less_is_named_only_while_its_interval_says_so(
    modules: dict[str, ModuleType], laws: Any
) -> None:
    assert "- *additive*: a size beyond (near and far)" in "\n".join(modules["page"].rivals(laws["domains"]))
    for told in laws["domains"].values():
        for row in told["a size beyond"]["forms"]["a size beyond"]:
            row["more_high"] = 0.1
    assert "- of no form" in "\n".join(modules["page"].rivals(laws["domains"]))


def test_numbers_of_promises_are_those_of_the_runs(
    modules: dict[str, ModuleType], files: dict[str, Any]
) -> None:
    promise = copy.deepcopy(files["promise"])
    points = {"near": files["points-near"], "far": files["points-far"]}
    told = "\n".join(modules["promise_page"].promises(promise, points))
    own = [row for row in promise["rows"] if row["how"] == "dynamics" and row["promise"] == 0.05]
    broken = sum(row["rise"] > row["promise"] for row in own)
    assert f"DynaMiCS: {broken} of {len(own)} promises of 0.05 nats were broken" in told
    assert "DynaMiCS is not distinguishable from that of planned shares" in told
    promise["summary"]["target change, dynamics less"]["planned"].update(low=0.001)
    assert "DynaMiCS is higher than that of planned" in "\n".join(
        modules["promise_page"].promises(promise, points)
    )


def test_the_page_says_what_there_is(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = modules["page"].page()
    shutil.copytree(RESULTS, tmp_path / "forgetting")
    monkeypatch.setattr(modules["pages"], "RESULTS", tmp_path)
    assert modules["page"].page() == whole
    for name in ("promise", "devices"):
        (tmp_path / "forgetting" / f"{name}.json").unlink()
    part = modules["page"].page()
    assert "## Do planned shares" in whole
    assert "## Do planned shares" not in part
    assert "DynaMiCS" not in part
    assert "## Do a GPU" not in part
    (tmp_path / "forgetting" / "laws.json").unlink()
    with pytest.raises(SystemExit, match=r"laws\.json is missing: run table\.py first"):
        modules["page"].page()
