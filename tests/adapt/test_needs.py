"""What mixers say they will ask for: against the questions they really ask, and worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fake_session import ROLES, session
from trimtab import Aioli, DynaMiCS, EarlyStoppedTarget, Exp3, Feedback, Fit, GradientAlignment
from trimtab.adapt.mixer import Decision, Needs, NoProbes, State, off_grid, questions
from trimtab.adapt.session import Session, make_roles
from trimtab.train.settings import evaluation_steps

FIT = Fit(steps=64, eval_points=4, eval_sequences=20, probe_sequences=6)
"""Evaluated at 0, 1, 4, 16 and 64."""


def asked(mixer: Any, steps: int, roles: Any = ROLES, **options: Any) -> list[int]:
    """The steps at which a mixer is really asked in a run whose losses never move."""
    found, state, step = [], {}, 0
    while step is not None:
        assert not found or found[-1] < step < steps
        found.append(step)
        now = session(step, steps=steps, roles=roles, training_losses={}, **options)
        decision = mixer.decide(now, state)
        state, step = decision.state, decision.ask_at
    return found


@given(steps=st.integers(1, 200), every=st.none() | st.integers(1, 250))
def test_a_rhythm_is_told_as_it_is_kept(steps: int, every: int | None) -> None:
    assert list(questions(steps, every)) == asked(Feedback(every=every), steps)


@given(
    steps=st.integers(1, 120),
    rounds=st.integers(1, 6),
    sweeps=st.integers(1, 3),
    delta=st.floats(0.01, 0.99),
    names=st.integers(1, 4),
)
@example(steps=17, rounds=2, sweeps=1, delta=0.99, names=2)
def test_sweeps_are_told_as_they_are_made(
    steps: int, rounds: int, sweeps: int, delta: float, names: int
) -> None:
    mixer = Aioli(rounds=rounds, sweeps=sweeps, delta=delta)
    roles = make_roles(["math", "code", "web", "safety"][:names], ["facts"], ["math"], {"facts": 0.1})
    assert mixer.questions(steps, names) == asked(mixer, steps, roles)


@given(steps=st.integers(1, 120), blocks=st.integers(1, 60), points=st.integers(1, 8))
def test_borders_of_fed_back_runs_are_told_as_they_are_asked(steps: int, blocks: int, points: int) -> None:
    fit, mixer, grid = (
        Fit(steps=steps, eval_points=points),
        DynaMiCS(blocks=blocks),
        evaluation_steps(steps, points),
    )
    found = asked(mixer, steps, grid=grid)
    assert set(grid) <= {*found, steps}
    assert mixer.needs(fit, ROLES) == Needs(judged_readings=off_grid(found, fit))


@pytest.mark.parametrize(
    ("mixer", "needs"),
    [
        (Feedback(), Needs(whole_readings=16 - 3)),
        (Feedback(every=8), Needs(whole_readings=6)),
        (Feedback(every=16), Needs(whole_readings=2)),
        (Feedback(every=64), Needs()),
        (
            GradientAlignment(every=32, sequences=5),
            Needs(whole_readings=1, gradient_sequences=2 * 5 * (3 + 1 + 2)),
        ),
        (Aioli(rounds=2, delta=0.75), Needs(whole_readings=2 * 4 - 2)),
        (DynaMiCS(schedule=32, probe_steps=5, slopes="whole"), Needs(2 * 3 * 5, 1, 2 * 3)),
        (DynaMiCS(schedule=32, probe_steps=5, slopes="momentum"), Needs(2 * 3 * 5, 1, 2 * 3 * 2)),
        (DynaMiCS(schedule=32, probe_steps=1, slopes="second-half"), Needs(2 * 3 * 1, 1, 2 * 3)),
        (DynaMiCS(schedule=[60], probe_steps=5), Needs(3 * (5 + 4), 1, 2 * 3 * 2)),
        (DynaMiCS(blocks=4, mass="planned"), Needs(sampled_readings=4)),
        (DynaMiCS(blocks=1, mass="planned"), Needs(sampled_readings=2)),
        (DynaMiCS(blocks=4), Needs(judged_readings=2)),
        (DynaMiCS(blocks=1), Needs()),
        (EarlyStoppedTarget(), Needs()),
        (Exp3(), Needs()),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_worked_out_by_hand(mixer: Any, needs: Needs) -> None:
    """64 steps on 3 domains, evaluated at 0, 1, 4, 16 and 64.

    Two sweeps of Aioli begin at 0 and 32, with 8 steps a mixture: it is asked at 0, 8, 16, 24, 32, 40, 48 and 56.
    Kept probes in 4 blocks: first ones of 2 steps, cut at points of the grid, then 16 steps each: borders are 0, 1, 2,
    4, 6, 16, 32 and 48. In a single block they are 0, 1, 2, 4, 6 and 16. With the mass fed back there are no first
    blocks: 0, 1, 4, 16, 32 and 48, or 0, 1, 4 and 16.
    """
    assert mixer.needs(FIT, ROLES) == needs


def test_a_ledger_of_needs() -> None:
    """Of the four evaluation domains three are judged: code is only monitored."""
    ledger = Needs(7, 2, 3, 5, 11).ledger(FIT, ROLES)
    assert (ledger.training_steps, ledger.probe_steps, ledger.gradient_sequences) == (64, 7, 11)
    assert ledger.monitoring_sequences == 5 * 4 * 20
    assert ledger.probe_sequences == 4 * (2 * 20 + 3 * 6) + 3 * 5 * 6


def test_readings_on_the_grid_are_free() -> None:
    assert off_grid((0, 1, 4, 16), FIT) == 0
    assert off_grid((2, 4, 63), FIT) == 2


def test_a_mixer_of_ones_own_needs_nothing_unless_it_says_so() -> None:
    @dataclass(frozen=True)
    class Own(NoProbes):
        def decide(self, session: Session, state: State) -> Decision:
            return Decision((1.0,))

    assert Own().needs(FIT, ROLES) == Needs()
