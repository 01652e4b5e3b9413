"""Laws of forgetting against planted truth, closed forms and brute force; what the runs cannot tell is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trimtab import FinetuningLaw, ForgettingLaw
from trimtab.adapt.forgetting.effects import NOTHING_FORGOTTEN, aicc, compare_forms
from trimtab.adapt.forgetting.laws import plan_share
from trimtab.cli.main import main
from trimtab.errors import ConfigError, DataError, ShapeError

TRUTH = {"A": 0.9, "B": 829.0, "alpha": 0.45, "beta": 0.35}
TARGET = {"A": 80.0, "alpha": 0.3, "beta": 0.1, "E": 1.5}
SHARES = (0.0, 0.001, 0.01, 0.05)


def rise(params: Any, tokens: Any, inject: Any) -> Any:
    return TRUTH["A"] * tokens ** TRUTH["beta"] / ((1 + TRUTH["B"] * inject) * params) ** TRUTH["alpha"]


def runs(noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Three sizes, three token counts, four shares; noise multiplies what is forgotten, and the target loss."""
    draw = np.random.default_rng(seed)
    grid = [(n, d, p) for n in (5e4, 2e5, 8e5) for d in (3e4, 2e5, 1e6) for p in SHARES]
    frame = pd.DataFrame(grid, columns=["params", "tokens", "inject"])
    n, d, p = (frame[name].to_numpy() for name in frame)
    frame["loss_pt0"] = 5 * n**-0.05
    frame["loss_pt"] = frame["loss_pt0"] + rise(n, d, p) * np.exp(noise * draw.normal(size=len(n)))
    told = TARGET["A"] / (n ** TARGET["alpha"] * d ** TARGET["beta"]) + TARGET["E"]
    frame["loss_ft"] = told * np.exp(noise * draw.normal(size=len(n)))
    return frame


@pytest.fixture(scope="module")
def law() -> ForgettingLaw:
    return ForgettingLaw.fit(runs(0.02), n_boot=60)


@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_noiseless_truth_is_found(loss: Any) -> None:
    found = ForgettingLaw.fit(runs(), loss=loss, n_boot=0)
    assert found.coefficients == pytest.approx(TRUTH, rel=1e-6)
    assert FinetuningLaw.fit(runs(), loss=loss, n_boot=0).coefficients == pytest.approx(TARGET, rel=1e-5)


def test_noisy_truth_lies_in_the_intervals(law: ForgettingLaw) -> None:
    """With one data set an interval may miss; three times its half-width must not."""
    target = FinetuningLaw.fit(runs(0.002), n_boot=40)
    for found, truth in ((law, TRUTH), (target, TARGET)):
        for name, (low, high) in found.intervals.items():
            assert low < found.coefficients[name] < high
            assert abs(found.coefficients[name] - truth[name]) < 1.5 * (high - low)
    assert law.coefficients == pytest.approx(TRUTH, rel=0.15)


def test_predictions_are_the_formula_and_broadcast(law: ForgettingLaw) -> None:
    c = law.coefficients
    one = law.predict(params=2e5, tokens=1e5, inject=0.01, loss_pt0=2.5)
    by_hand = 2.5 + c["A"] * 1e5 ** c["beta"] / ((1 + c["B"] * 0.01) * 2e5) ** c["alpha"]
    assert isinstance(one, float)
    assert one == pytest.approx(by_hand, rel=1e-12)
    many = law.predict(
        params=np.array([1e5, 2e5])[:, None], tokens=1e5, inject=np.array([0.0, 0.01, 0.1]), loss_pt0=2.5
    )
    assert many.shape == (2, 3)
    assert many[1, 1] == pytest.approx(one)


def test_a_new_run_scatters_more_than_the_curve(law: ForgettingLaw) -> None:
    where = {"params": 2e5, "tokens": 1e5, "inject": 0.0, "loss_pt0": 2.5}
    low, high = law.interval(**where)
    tight = law.interval(**where, noise=False)
    assert low < tight[0] < law.predict(**where) < tight[1] < high
    several = law.interval(**where | {"inject": np.array([0.0, 0.01])})
    assert several[0].shape == (2,)


@pytest.mark.parametrize("wanted", [0.05, 0.1, 0.2])
def test_the_median_share_for_a_rise_gives_that_rise(law: ForgettingLaw, wanted: float) -> None:
    share = law.inject_for(rise=wanted, params=2e5, tokens=1e6, confidence=0.5)
    assert law.rise(params=2e5, tokens=1e6, inject=share) == pytest.approx(wanted)
    low, high = law.inject_interval(rise=wanted, params=2e5, tokens=1e6)
    assert low < share < high


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("wanted", [0.1, 0.2])
def test_the_share_is_the_smallest_that_keeps_the_rise_in_so_many_refits(
    law: ForgettingLaw, wanted: float, confidence: float
) -> None:
    """By brute force over refits; a share one in a hundred thousand smaller keeps it in too few."""

    def kept(share: float) -> float:
        a, b, alpha, beta = law.fitted.draws.T
        return float((a * 1e6**beta / ((1 + b * share) * 2e5) ** alpha <= wanted).mean())

    share = law.inject_for(rise=wanted, params=2e5, tokens=1e6, confidence=confidence)
    assert kept(share) >= confidence > kept(share * (1 - 1e-5))
    assert law.kept(rise=wanted, params=2e5, tokens=1e6, inject=share) == kept(share)
    many = law.inject_for(rise=np.array([wanted, 9.0, 1e-4]), params=2e5, tokens=1e6, confidence=confidence)
    assert many[:2].tolist() == [share, 0.0]
    assert np.isnan(many[2])


def test_the_scatter_of_runs_needs_a_larger_share_as_brute_force_has_it(law: ForgettingLaw) -> None:
    where = {"rise": 0.2, "params": 2e5, "tokens": 1e6}
    share = law.inject_for(**where, loss_pt0=2.7)
    a, b, alpha, beta = law.fitted.draws.T
    n = len(law.fitted.residuals)
    scatter = np.exp(law.fitted.residuals * np.sqrt(n / (n - 4)))

    def kept(share: float) -> float:
        loss = 2.7 + a * 1e6**beta / ((1 + b * share) * 2e5) ** alpha
        return float((loss[:, None] * scatter <= 2.9).mean())

    assert kept(share) >= 0.95 > kept(share * (1 - 1e-5))
    assert share > law.inject_for(**where)
    assert law.kept(**where, inject=share, loss_pt0=2.7) == pytest.approx(kept(share))


def test_a_plan_keeps_its_promise_as_often_as_it_says_where_the_law_is_exact(law: ForgettingLaw) -> None:
    """Fits scatter around the truth as their refits scatter around them; 1000 of them, without fitting any.

    With real fits: `benchmarks/forgetting/planned.py`.
    """
    draw, names = np.random.default_rng(0), list(TRUTH)
    truth, spread = np.array(list(TRUTH.values())), np.cov(np.log(law.fitted.draws.T))
    kept = dict.fromkeys((0.5, 0.8, 0.95), 0)
    for _ in range(1000):
        noise = draw.multivariate_normal(np.zeros(4), spread, size=201)
        found = truth * np.exp(noise[0])
        refits = replace(
            law.fitted,
            coefficients=dict(zip(names, found.tolist(), strict=True)),
            draws=found * np.exp(noise[1:]),
        )
        for confidence in kept:
            one = ForgettingLaw(refits, law.ranges)
            share = one.inject_for(rise=0.15, params=2e5, tokens=2e5, confidence=confidence)
            kept[confidence] += bool(rise(2e5, 2e5, share) <= 0.15)
    for confidence, count in kept.items():
        assert abs(count / 1000 - confidence) < 4 * np.sqrt(confidence * (1 - confidence) / 1000)


def test_no_share_is_needed_or_none_is_enough(law: ForgettingLaw) -> None:
    for confidence in (0.5, 0.95):
        asked = {"params": 2e5, "tokens": 1e6, "confidence": confidence}
        assert law.inject_for(rise=9.0, **asked) == 0.0
        assert np.isnan(law.inject_for(rise=1e-4, **asked))
        assert law.inject_for(rise=np.array([9.0, 0.1]), **asked).shape == (2,)
    with pytest.raises(ConfigError, match="never none"):
        law.inject_for(rise=0.0, params=2e5, tokens=1e6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"confidence": 95}, "confidence: got 95, expected a share of the refits, from 0.5"),
        ({"confidence": 0.4}, "confidence: got 0.4"),
        ({"confidence": float("nan")}, "confidence: got nan"),
        ({"params": float("nan")}, "params: got nan, expected a number above 0"),
        ({"tokens": -1.0}, "tokens: got -1.0"),
        ({"loss_pt0": 0.0}, "loss_pt0: got 0.0"),
        ({"rise": float("nan")}, "rise: got nan"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    law: ForgettingLaw, changed: dict[str, float], message: str
) -> None:
    """Not a number is no reason to say that no share keeps the promise."""
    with pytest.raises(ConfigError, match=message):
        law.inject_for(**{"rise": 0.1, "params": 2e5, "tokens": 1e6} | changed)


@pytest.mark.parametrize("share", [5.0, -0.1, float("nan")])
def test_a_share_that_is_none_is_refused(law: ForgettingLaw, share: float) -> None:
    with pytest.raises(ConfigError, match=r"inject: got .*, expected a share from 0 to 1"):
        law.predict(params=2e5, tokens=1e5, inject=share, loss_pt0=2.5)


def test_a_law_by_which_injection_harms_plans_no_share(law: ForgettingLaw) -> None:
    harmful = replace(law.fitted, coefficients={**law.coefficients, "alpha": -0.2})
    asked = {"rise": 1e-3, "params": 2e5, "tokens": 1e6}
    assert np.isnan(ForgettingLaw(harmful, law.ranges).inject_for(**asked, confidence=0.5))
    harmful = replace(law.fitted, draws=law.fitted.draws * [1, 1, -1, 1])
    assert np.isnan(ForgettingLaw(harmful, law.ranges).inject_for(**asked))


def test_runs_that_forgot_nothing_or_came_out_better_do_not_break_it() -> None:
    frame = runs(0.02)
    frame.loc[[3, 7], "loss_pt"] = frame["loss_pt0"] - 0.002
    found = ForgettingLaw.fit(frame, n_boot=0)
    assert found.coefficients == pytest.approx(TRUTH, rel=0.15)


def test_outlying_runs_move_the_default_little() -> None:
    frame = runs()
    frame.loc[[5, 20], "loss_pt"] += 0.3
    assert ForgettingLaw.fit(frame, n_boot=0).coefficients == pytest.approx(TRUTH, rel=0.02)


@pytest.mark.parametrize(
    ("column", "coefficient"), [("params", "alpha"), ("tokens", "beta"), ("inject", "B")]
)
def test_what_does_not_vary_determines_nothing(column: str, coefficient: str) -> None:
    frame = runs()
    frame[column] = frame[column].iloc[1]
    with pytest.raises(DataError, match=rf"{column}: got .* throughout, .* determines {coefficient}"):
        ForgettingLaw.fit(frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="inject"), "expected params, tokens, inject, loss_pt, loss_pt0"),
        (lambda f: f.assign(inject=f["inject"] * 100), "inject: got .*shares from 0 to below 1"),
        (lambda f: f.assign(params=0.0), "params: got .*above 0"),
        (
            lambda f: f.assign(loss_pt=np.nan),
            r"loss_pt: got no value \(nan\) in row 0, expected above 0 nats",
        ),
        (lambda f: f.assign(loss_pt0=pd.NA), "loss_pt0: got no value .* in row 0"),
        (lambda f: f.assign(tokens=[None, *f["tokens"][1:]]), "tokens: got no value .* in row 0"),
        (lambda f: f.assign(loss_pt=-1.5), "loss_pt: got -1.5 in row 0"),
        (lambda f: f.assign(run=[None, *range(len(f) - 1)]), "run: got no value in row 0"),
        (lambda f: pd.concat([f, f["params"]], axis=1), "several columns params"),
        (lambda f: f.to_dict("list"), "frame: got a dict, expected a frame with columns params, tokens"),
        (lambda f: f.assign(tokens="many"), "tokens: got 'many' in row 0"),
        (lambda f: f.iloc[:0], "no run"),
        (lambda f: f.assign(loss_pt=f["loss_pt0"] - 0.01), "a run that forgot something"),
        (lambda f: f.iloc[[0, 17, 34]], "at least 4 points"),
    ],
)
def test_bad_runs_are_refused_by_name(change: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ForgettingLaw.fit(change(runs()))


def test_readings_of_one_run_are_resampled_together() -> None:
    """Every run four times over tells no more than once, and only the column `run` says so."""
    frame = runs(0.05)
    many = pd.concat([frame] * 4, ignore_index=True).assign(run=np.tile(np.arange(len(frame)), 4))
    loose = ForgettingLaw.fit(many.drop(columns="run"), n_boot=40).fitted.draws.std(0)
    tied = ForgettingLaw.fit(many, n_boot=40).fitted.draws.std(0)
    assert (tied > 1.3 * loose).all()


def test_a_law_survives_its_file(law: ForgettingLaw, tmp_path: Path) -> None:
    again = ForgettingLaw.load(law.save(tmp_path / "law.json"))
    assert again.coefficients == law.coefficients
    assert again.to_frame().equals(law.to_frame())
    where = {"params": 2e5, "tokens": 1e5, "inject": 0.01, "loss_pt0": 2.5}
    assert again.interval(**where) == law.interval(**where)
    with pytest.raises(DataError, match="got a law of forgetting, expected a law of fine-tuning"):
        FinetuningLaw.load(tmp_path / "law.json")
    (tmp_path / "other.json").write_text("{}")
    for name in ("other.json", "missing.json"):
        with pytest.raises(DataError, match=name):
            ForgettingLaw.load(tmp_path / name)


def test_without_refits_there_is_no_interval() -> None:
    bare = ForgettingLaw.fit(runs(), n_boot=0)
    assert all(np.isnan(ends).all() for ends in bare.intervals.values())
    with pytest.raises(DataError, match="a law without refits"):
        bare.interval(params=2e5, tokens=1e5, inject=0.0, loss_pt0=2.5)
    with pytest.raises(DataError, match="a law without refits"):
        bare.inject_for(rise=0.1, params=2e5, tokens=1e6)
    assert bare.inject_for(rise=0.1, params=2e5, tokens=1e6, confidence=0.5) > 0


def test_the_true_form_wins_on_unseen_runs() -> None:
    frame = runs(0.02)
    table = compare_forms(frame, frame["params"] == 8e5).set_index("form")
    rivals = ["without the share", "additive", "constant", NOTHING_FORGOTTEN]
    assert table.loc["injection", "rise_error"] < 0.1 < table.loc[rivals, "rise_error"].min()
    assert table.loc["injection", "aicc"] < table.loc[rivals, "aicc"].min()
    assert table.loc[NOTHING_FORGOTTEN, "rise_error"] == pytest.approx(1.0)
    assert table.loc[NOTHING_FORGOTTEN, "loss_error"] < 0.2
    assert table["n_held_out"].eq(12).all()


def test_nothing_held_out_leaves_errors_open() -> None:
    table = compare_forms(runs(0.02))
    assert table[["loss_error", "rise_error"]].isna().all(axis=None)
    with pytest.raises(ShapeError, match="one mark per run"):
        compare_forms(runs(), [True])
    with pytest.raises(DataError, match="expected at least 8"):
        compare_forms(runs(), np.arange(36) > 5)


def test_the_criterion_by_hand() -> None:
    residuals = np.array([1.0, -1.0, 2.0, 0.0, -2.0, 1.0])
    assert aicc(residuals, 1) == pytest.approx(6 * np.log(11 / 6) + 4 + 2 * 2 * 3 / 3)


def test_plan_on_the_command_line(
    law: ForgettingLaw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(law.save(tmp_path / "law.json"))
    asked = ["plan", "--law", path, "--params", "2e5", "--tokens", "1e6"]
    assert main([*asked, "--max-rise", "0.2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["inject"] == law.inject_for(rise=0.2, params=2e5, tokens=1e6)
    assert told["confidence"] == 0.95
    assert told["kept"] >= 0.95
    assert told["rise"] < 0.2
    assert told["warnings"] == []
    assert main([*asked[:4], "200k", "--tokens", "1M", "--max-rise", "0.2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == told
    assert main([*asked, "--max-rise", "0.2", "--json", "--confidence", "0.5"]) == 0
    median = json.loads(capsys.readouterr().out)
    assert median["rise"] == pytest.approx(0.2)
    assert median["inject"] == told["median"] < told["inject"]
    assert main([*asked, "--max-rise", "0.2", "--json", "--loss-pt0", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["inject"] > told["inject"]
    assert main([*asked, "--max-rise", "0.2", "--confidence", "95"]) == 2
    assert "--confidence: got 95.0, expected a share of the refits, from 0.5" in capsys.readouterr().err
    assert main([*asked, "--max-rise", "1e-4"]) == 1
    assert "No share keeps the rise within" in capsys.readouterr().out
    assert main([*asked[:4], "2e9", "--tokens", "1e6", "--max-rise", "0.05"]) == 0
    assert "params 2e+09 is outside the fitted 50000 to 800000" in capsys.readouterr().err
    assert main([*asked, "--max-rise", "-1"]) == 2
    assert "--max-rise: got -1.0, expected a number above 0" in capsys.readouterr().err
    assert main(["plan", "--law", str(tmp_path), "--params", "1", "--tokens", "1", "--max-rise", "1"]) == 2


def test_a_plan_in_words(law: ForgettingLaw) -> None:
    asked = {"params": 2e5, "tokens": 1e6}
    plan = plan_share(law, **asked, max_rise=0.2)
    assert plan.to_text().startswith(
        f"Inject {100 * plan.inject:.3g} % of pretraining data: the smallest share that keeps the rise within 0.200 "
        "nats in at least 95 % of 60 refits of the law."
    )
    assert f"The median of the law, {100 * plan.median:.3g} %, keeps it in " in plan.to_text()
    assert "Without injection" in plan.to_text()
    half = plan_share(law, **asked, max_rise=0.2, confidence=0.5)
    assert f"Inject {100 * plan.median:.3g} % of pretraining data, the median:" in half.to_text()
    assert half.kept == half.median_kept == plan.median_kept
    none = plan_share(law, **asked, max_rise=1e-4)
    assert "No share keeps the rise within 0.000100 nats in 95 % of 60 refits" in none.to_text()
    assert "some share does in 0 % of them" in none.to_text()
    assert "By the law itself no share keeps it, either." in none.to_text()


@pytest.mark.parametrize("domain", ["near", "far"])
def test_the_plans_of_the_benchmark_are_the_medians_of_its_laws(domain: str) -> None:
    folder = Path(__file__).parents[3] / "benchmarks/results/forgetting"
    law = ForgettingLaw.load(folder / f"law-{domain}.json")
    told = json.loads((folder / "promise.json").read_text())
    for plan in (plan for plan in told["plans"] if plan["domain"] == domain):
        where = {"params": 820_680, "tokens": plan["tokens"]}
        assert law.rise(**where, inject=0.0) == pytest.approx(plan["rise_without"], rel=1e-12)
        share = law.inject_for(**where, rise=plan["max_rise"], confidence=0.5)
        assert share == pytest.approx(plan["inject"] or np.nan, rel=1e-9, nan_ok=True)


def test_a_plan_warns_of_coefficients_that_stand_at_a_bound(law: ForgettingLaw) -> None:
    stuck = replace(law, fitted=replace(law.fitted, at_bounds=("B",)))
    for given, warned in ((law, False), (stuck, True)):
        warnings = plan_share(given, params=2e5, tokens=1e6, max_rise=0.2).warnings
        assert any(told.startswith("B of the law is at a bound") for told in warnings) == warned


def test_a_whole_number_beyond_the_largest_float_is_told() -> None:
    odd = runs().astype({"loss_pt0": object})
    odd.loc[odd.index[2], "loss_pt0"] = 10**400
    with pytest.raises(DataError, match=r"loss_pt0: got 10+\.\.\. in row 2"):
        ForgettingLaw.fit(odd)


@pytest.mark.parametrize(
    ("refits", "confidence", "warned"),
    [(1, 0.95, True), (19, 0.95, True), (20, 0.95, False), (30, 0.99, True), (1, 0.5, False)],
)
def test_a_plan_warns_of_refits_too_few_for_its_confidence(
    law: ForgettingLaw, refits: int, confidence: float, warned: bool
) -> None:
    draws = np.resize(np.asarray(law.fitted.draws), (refits, len(law.coefficients)))
    few = replace(law, fitted=replace(law.fitted, draws=draws))
    told = plan_share(few, params=2e5, tokens=1e6, max_rise=0.2, confidence=confidence).warnings
    assert any(text.startswith(f"{refits} refits are too few") for text in told) == warned
