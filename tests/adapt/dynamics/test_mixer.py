"""DynaMiCS asked by hand: what its settings stand for, the mixtures it gives, when it asks again, what it refuses."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from fake_run import Straight
from fake_session import BASE, CONSTRAINTS, ROLES, TARGETS, ask, session
from trimtab.adapt.call import settled
from trimtab.adapt.dynamics.mixer import PRESETS, DynaMiCS
from trimtab.adapt.dynamics.planning import Planning
from trimtab.adapt.dynamics.sides import Sides
from trimtab.adapt.finetune import refuse
from trimtab.adapt.mixer import Needs
from trimtab.adapt.session import SlopeEstimate, make_roles
from trimtab.errors import ConfigProblems, DivergedError
from trimtab.numerics.simplex import MixtureProblem, solve_mixture
from trimtab.train.settings import Fit

ASKED: dict[str, Any] = {"targets": TARGETS, "constraints": CONSTRAINTS}
HELPS_AND_HURTS = [[-0.02, 0.0, 0.0], [0.0, -0.01, 0.0], [0.01, 0.0, -0.01], [0.01, 0.0, -0.01]]


def estimate(slopes: list[list[float]], errors: float = 0.0, steps: int = 3) -> SlopeEstimate:
    return SlopeEstimate(np.array(slopes), np.full((len(slopes), len(slopes[0])), errors), steps)


# What settings stand for


PUBLISHED = {
    "probes": "rolled-back",
    "mass": "planned",
    "schedule": "light",
    "slopes": "whole",
    "solver": "grid",
    "ridge": 0.0,
    "reach": "next",
    "returns": 1.0,
    "margin": 0.0,
    "cap": math.inf,
    "shrink": False,
}
OURS = {
    "probes": "kept",
    "mass": "feedback",
    "schedule": "light",
    "slopes": "momentum",
    "solver": "lp",
    "ridge": 0.5,
    "reach": "best",
    "returns": 0.5,
    "margin": 1.0,
    "cap": 0.5,
    "shrink": True,
}
OTHER = {
    "schedule": 7,
    "slopes": "second-half",
    "solver": "robust",
    "ridge": 0.25,
    "reach": "end",
    "returns": 0.75,
    "margin": 2.0,
    "cap": 3.0,
}


@pytest.mark.parametrize(("preset", "values"), [("default", OURS), ("paper", PUBLISHED)])
def test_a_setting_left_open_is_the_presets(preset: Any, values: dict[str, Any]) -> None:
    mixer = DynaMiCS(preset=preset)
    unused = dict.fromkeys(("schedule", "slopes") if values["probes"] == "kept" else ())
    assert {name: mixer.settled(name) for name in PRESETS[preset]} == values | unused


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", OTHER)
def test_a_setting_that_is_given_counts(preset: Any, name: str) -> None:
    assert DynaMiCS(preset=preset, **{name: OTHER[name]}).settled(name) == OTHER[name]


@pytest.mark.parametrize("asked", [{"schedule": 4}, {"probe_steps": 2}, {"schedule": [], "probe_steps": 1}])
def test_a_schedule_or_a_probe_length_asks_for_rolled_back_probes_and_for_nothing_else(asked: Any) -> None:
    mixer = DynaMiCS(**asked)
    assert mixer.settled("probes") == "rolled-back"
    assert mixer.planning == DynaMiCS(mass="planned").planning
    assert mixer.settled("slopes") == "momentum"


@pytest.mark.parametrize(
    "asked", [*({name: OTHER[name]} for name in OTHER), {"protect_targets": True}, {"probe_steps": 2}]
)
def test_a_setting_of_plans_asks_for_a_planned_mixture(asked: Any) -> None:
    """Rolled-back probes, too; and what is left open then is what it was before there was feedback."""
    mixer, plain = DynaMiCS(**asked), DynaMiCS()
    rolls_back = asked.keys() & {"schedule", "slopes", "probe_steps"}
    planned = mixer.settled("probes") == "rolled-back" or not rolls_back
    assert mixer.settled("mass") == ("planned" if planned else "feedback")
    assert (mixer.sides(ROLES) is None) == planned
    if planned:
        assert [mixer.settled(name) for name in ("blocks", "lean", "kappa")] == [40, 0.0, 1.28]
    assert plain.settled("mass") == "feedback"
    assert plain.sides(ROLES) == Sides(20, 1.0, 0.64, shrink=True)


@pytest.mark.parametrize(
    ("train", "targets", "tolerances"),
    [
        (["math", "code", "web"], ["math"], {}),
        (["code", "web"], ["math"], {"web": 0.1}),
        (["math", "code"], ["math", "code"], {"safety": 0.1}),
    ],
    ids=["no constraint", "no target to train on", "targets alone"],
)
def test_without_two_sides_the_mixture_is_planned(train: Any, targets: Any, tolerances: Any) -> None:
    roles, mixer = make_roles(train, ["math", "safety"], targets, tolerances), DynaMiCS()
    assert mixer.settled("mass") == "feedback"
    assert mixer.sides(roles) is None
    slopes = np.random.default_rng(0).normal(0, 0.01, (len(roles.evaluate), len(train)))
    found = Straight(slopes, roles=roles).run(mixer)
    assert all(min(one.weights) >= 0 for _, one in found)
    assert found[-1][1].update is not None
    assert found[-1][1].update.solution.status in ("optimal", "relaxed")
    asked = Straight(slopes, roles=roles).run(DynaMiCS(mass="planned"))
    assert [(step, one.weights) for step, one in found] == [(step, one.weights) for step, one in asked]
    assert settled(mixer, Fit(), roles) == settled(DynaMiCS(mass="planned"), Fit()) | {"mass": "planned"}
    off_the_grid = [step for step, _ in found if step not in (0, 1, 4, 16, 64)]
    assert mixer.needs(Fit(steps=64, eval_points=4), roles) == Needs(sampled_readings=len(off_the_grid))


def test_the_papers_plan_is_linear_and_without_reserves() -> None:
    assert DynaMiCS(preset="paper").planning == Planning(solver="grid")


def test_kept_probes_plan_no_trial() -> None:
    assert DynaMiCS().plan(64) == []
    assert DynaMiCS(preset="paper", probes="kept").plan(64) == []


def test_it_plans_the_trials_it_will_ask_for() -> None:
    plan = DynaMiCS(schedule=[10], probe_steps=4).plan(13)
    assert [(span.start, span.horizon, span.probe_steps) for span in plan] == [(0, 10, 4), (10, 3, 3)]
    assert DynaMiCS(probes="rolled-back").plan(64) == DynaMiCS(preset="paper").plan(64)


# Rolled-back probes


@pytest.mark.parametrize("solver", ["grid", "lp", "robust"])
def test_the_published_update_is_probe_then_solve(solver: Any) -> None:
    """One trial, a straight line to the next update, and nothing kept in reserve."""
    measured = estimate(HELPS_AND_HURTS, errors=1e-3)
    mixer = DynaMiCS(**ASKED, preset="paper", schedule=[16], solver=solver, probe_steps=5)
    asked = session(16, slopes=measured, safety=0.02, web=0.03, math=-0.1)
    decision = mixer.decide(asked, {})
    problem = MixtureProblem(
        slopes=measured.slopes,
        losses=BASE + np.array([-0.1, 0.0, 0.03, 0.02]),
        reference=BASE + np.array([math.nan, math.nan, 0.1, 0.05]),
        targets=[0],
        horizon=48,
        slope_se=measured.standard_errors,
        scale=np.array([0.01, 0.01, 0.1, 0.05]),
    )
    expected = solve_mixture(problem, solver)
    assert asked.tried == [(5,)]
    np.testing.assert_allclose(decision.weights, expected.weights, rtol=0, atol=1e-10)
    assert decision.ask_at is None
    assert decision.update is not None
    assert decision.update.horizon == 48
    np.testing.assert_allclose(decision.update.estimate.slopes, measured.slopes, atol=1e-15)
    np.testing.assert_allclose(decision.update.estimate.standard_errors, 1e-3, atol=1e-15)
    assert decision.update.estimate.steps == 5
    assert decision.update.solution.conflicts == expected.conflicts
    np.testing.assert_array_equal(decision.update.solution.shadow_prices, expected.shadow_prices)
    assert "solver" in asked.clock.seconds


def test_the_published_update_by_hand() -> None:
    """math falls by .02 a step; safety may rise by .05, does so by .01 a step of math and falls by .01 of web:
    over 10 steps w_math - w_web <= .5, so 3/4 and 1/4."""
    mixer = DynaMiCS(**ASKED, preset="paper", schedule=10, solver="lp")
    decision = mixer.decide(session(slopes=estimate(HELPS_AND_HURTS)), {})
    assert decision.weights == pytest.approx((0.75, 0.0, 0.25), abs=1e-6)
    assert decision.ask_at == 10
    assert decision.update is not None
    assert decision.update.solution.predicted == pytest.approx([1.85, 2.0, 2.05, 2.05], abs=1e-6)


@pytest.mark.parametrize(
    ("rule", "steps", "readings"),
    [("whole", 4, (4,)), ("second-half", 4, (2, 4)), ("momentum", 5, (2, 5)), ("momentum", 1, (1,))],
)
def test_the_rule_says_when_a_trial_is_read(rule: Any, steps: int, readings: tuple[int, ...]) -> None:
    asked = session(slopes=estimate(HELPS_AND_HURTS, errors=1e-3))
    DynaMiCS(**ASKED, slopes=rule, schedule=16, probe_steps=steps).decide(asked, {})
    assert asked.tried == [readings]


@pytest.mark.parametrize(("name", "value"), [("kappa", 5.0), ("ridge", 3.0), ("margin", 2.0)])
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_what_is_kept_in_reserve_keeps_the_target_back(preset: Any, name: str, value: float) -> None:
    measured, plain = estimate(HELPS_AND_HURTS, errors=2e-3), {"kappa": 0.0, "ridge": 0.0, "margin": 0.0}
    one, two = (
        DynaMiCS(**ASKED, preset=preset, schedule=10, solver="robust", **options)
        .decide(session(slopes=measured, spread=0.01), {})
        .weights[0]
        for options in (plain, plain | {name: value})
    )
    assert two < one - 0.01


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_it_asks_again_at_the_next_update_also_after_a_resume_between_two(preset: Any) -> None:
    mixer = DynaMiCS(**ASKED, preset=preset, schedule=[0, 10, 40], solver="lp")
    asked = (session(step, slopes=estimate(HELPS_AND_HURTS)) for step in (0, 10, 39, 40, 63))
    assert [mixer.decide(now, {}).ask_at for now in asked] == [10, 40, 40, None, None]


def test_what_it_remembers_survives_json() -> None:
    mixer = DynaMiCS(**ASKED, schedule=10)
    first, second = (
        session(step, slopes=estimate(HELPS_AND_HURTS, 1e-3), momentum=0.9, math=-step / 100)
        for step in (0, 10)
    )
    state = mixer.decide(first, {}).state
    read = json.loads(json.dumps(state))
    assert read == state
    assert mixer.decide(second, read).weights == mixer.decide(second, state).weights


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_column_that_diverged_gets_no_weight(preset: Any) -> None:
    slopes = np.array([[math.nan, -0.01, 0.0], *[[math.nan, 0.0, 0.0]] * 3])
    measured = SlopeEstimate(slopes, np.abs(slopes), 3)
    mixer = DynaMiCS(**ASKED, preset=preset, schedule=10, ridge=0.0, solver="lp")
    decision = mixer.decide(session(slopes=measured), {})
    assert decision.weights[0] == 0.0
    assert decision.weights[1] > 0.7
    assert decision.update is not None
    assert np.isnan(decision.update.estimate.slopes[:, 0]).all()
    assert np.isfinite(decision.update.solution.predicted).all()


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_no_column_left_ends_the_run(preset: Any) -> None:
    measured = estimate([[math.nan] * 3] * 4)
    with pytest.raises(DivergedError, match=r"every probe of step 4 diverged; try a lower lr"):
        DynaMiCS(targets=TARGETS, preset=preset, schedule=4).decide(session(4, slopes=measured), {})


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_a_loss_that_left_the_finite_numbers_ends_the_run(loss: float) -> None:
    asked = session(4, slopes=estimate(HELPS_AND_HURTS), code=loss)
    with pytest.raises(DivergedError, match=r"the loss of code at step 4 is not finite; try a lower lr"):
        DynaMiCS(**ASKED, schedule=4).decide(asked, {})
    assert asked.tried == []


def test_targets_are_protected_where_asked() -> None:
    """code is a target that training on math hurts."""
    roles = make_roles(["math", "code", "web"], [], ["math", "code"], {})
    slopes = estimate([[-0.02, 0.0, 0.0], [0.005, -0.001, 0.0], [0.0, 0.0, 0.0]])
    for protect, moved in ((False, 0.05), (True, 0.0)):
        mixer = DynaMiCS(preset="paper", schedule=10, solver="lp", protect_targets=protect)
        (decision,) = ask(mixer, session(roles=roles, slopes=slopes))
        assert decision.update is not None
        assert decision.update.solution.predicted[1] - BASE == pytest.approx(moved, abs=1e-6)


# Refusals


POSITIVE = ", expected a number from 0 to 1000"
PLANNED = {"solver": "lp", "ridge": 0.0, "reach": "end", "returns": 1.0, "margin": 0.0, "cap": 1.0}
IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"schedule": 0}, "mixer.schedule: got 0, expected a gap of at least one step; try 'light'"),
    (
        {"schedule": "lite"},
        "mixer.schedule: got 'lite', expected 'none' or 'light' or 'dense'; try 'light'",
    ),
    ({"schedule": [4, -2]}, "mixer.schedule: got -2, expected steps of zero or more"),
    ({"solver": "robst"}, "mixer.solver: got 'robst', expected 'grid' or 'lp' or 'robust'; try 'robust'"),
    ({"preset": "papers"}, "mixer.preset: got 'papers', expected 'default' or 'paper'; try 'paper'"),
    ({"probes": "keep"}, "mixer.probes: got 'keep', expected 'kept' or 'rolled-back'; try 'kept'"),
    (
        {"slopes": "half"},
        "mixer.slopes: got 'half', expected 'whole' or 'second-half' or 'momentum'; try 'second-half'",
    ),
    ({"reach": "nxt"}, "mixer.reach: got 'nxt', expected 'next' or 'end' or 'best'; try 'next'"),
    ({"probe_steps": 0}, "mixer.probe_steps: got 0, expected at least 1, or null"),
    ({"kappa": -1.0}, f"mixer.kappa: got -1.0{POSITIVE}"),
    ({"kappa": math.nan}, f"mixer.kappa: got nan{POSITIVE}"),
    ({"ridge": math.inf}, f"mixer.ridge: got inf{POSITIVE}"),
    ({"margin": -0.5}, f"mixer.margin: got -0.5{POSITIVE}"),
    ({"returns": 0.0}, "mixer.returns: got 0.0, expected above 0, at most 1"),
    ({"returns": 1.5}, "mixer.returns: got 1.5, expected above 0, at most 1"),
    ({"cap": 0.0}, "mixer.cap: got 0.0, expected above 0"),
    ({"cap": math.nan}, "mixer.cap: got nan, expected above 0"),
    ({"lean": -0.1}, "mixer.lean: got -0.1, expected a share between 0 and 1"),
    ({"lean": 1.1}, "mixer.lean: got 1.1, expected a share between 0 and 1"),
    ({"blocks": 0}, "mixer.blocks: got 0, expected at least 1"),
    ({"mass": "feedbac"}, "mixer.mass: got 'feedbac', expected 'feedback' or 'planned'; try 'feedback'"),
    *(
        (
            {"mass": "feedback", **settings},
            "mixer.mass: got 'feedback', expected 'planned', where probes are rolled back",
        )
        for settings in (
            *({"schedule": 4}, {"probe_steps": 2}, {"slopes": "whole"}),
            *({"probes": "rolled-back"}, {"preset": "paper"}),
        )
    ),
    *(
        (
            {**rolled_back, name: value},
            f"mixer.{name}: got {value!r}, expected nothing: it is a setting of kept probes; "
            'try probes: "kept"',
        )
        for rolled_back in ({"schedule": 8}, {"preset": "paper"})
        for name, value in {"blocks": 10, "lean": 0.5}.items()
    ),
    *(
        (
            {"mass": "feedback", name: value},
            f"mixer.{name}: got {value!r}, expected nothing: it is a setting of a planned mixture; "
            'try mass: "planned"',
        )
        for name, value in {**PLANNED, "protect_targets": True}.items()
    ),
    *(
        (
            {"probes": "kept", name: value},
            f"mixer.{name}: got {value!r}, expected nothing: it is a setting of rolled-back probes; "
            'try probes: "rolled-back"',
        )
        for name, value in {"schedule": "light", "probe_steps": 4, "slopes": "whole"}.items()
    ),
]


@pytest.mark.parametrize(("settings", "message"), IMPOSSIBLE, ids=[message for _, message in IMPOSSIBLE])
def test_each_impossible_setting_is_named(settings: dict[str, Any], message: str) -> None:
    assert [str(problem) for problem in DynaMiCS(**ASKED, **settings).problems(ROLES)] == [message]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"preset": "paper"},
        {"schedule": "dense", "slopes": "whole", "probes": "rolled-back"},
        {
            "ridge": 0.0,
            "margin": 0.0,
            "kappa": 0.0,
            "cap": math.inf,
            "returns": 1.0,
            "lean": 0.0,
            "blocks": 1,
        },
        {"lean": 1.0, "probes": "kept"},
        {"mass": "planned", "solver": "lp", "protect_targets": True},
        {"mass": "feedback", "kappa": 0.0, "shrink": False, "blocks": 3, "lean": 1.0},
        {"mass": "feedback", "preset": "paper", "probes": "kept"},
    ],
    ids=str,
)
def test_these_settings_are_fine(settings: dict[str, Any]) -> None:
    assert list(DynaMiCS(**ASKED, **settings).problems(ROLES)) == []


def test_all_impossible_settings_are_told_at_once() -> None:
    mixer = DynaMiCS(probes="kept", schedule=0, reach="far", blocks=0, lean=2.0)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigProblems, match=r"(?s)schedule: got 0.*reach: got 'far'.*lean.*blocks.*schedule"
    ):
        refuse(mixer.problems(ROLES))


def test_without_a_target_to_train_on_it_still_has_slopes_to_go_by() -> None:
    assert list(DynaMiCS().problems(make_roles(["web"], ["math"], ["math"], {}))) == []
