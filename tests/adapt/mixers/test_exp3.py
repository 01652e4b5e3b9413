"""Online data mixing against the published pseudocode, written out again, and against what it must come to."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fake_session import ROLES, ask, session
from trimtab.adapt.finetune import refuse
from trimtab.adapt.mixers.published import Exp3, exploration
from trimtab.adapt.session import make_roles
from trimtab.errors import ConfigProblems

TURNS: list[dict[str, float]] = [
    {"math": 1.0, "code": 2.5, "web": 2.0},
    {"math": 1.1, "web": 2.2},
    {"code": 2.4},
    *[{"math": 1.0, "code": 2.5, "web": 2.0}] * 30,
]


def published(turns: list[dict[str, float]], decay: float) -> list[dict[str, float]]:
    """Algorithm 1 of arXiv 2312.02406 for domains by name, without its warm-up."""
    names = ["math", "code", "web"]
    reward = dict.fromkeys(names, 0.0)
    share = dict.fromkeys(names, 1 / 3)
    before, found = 1 / 3, []
    for t, losses in enumerate(turns, start=1):
        now = min(1 / 3, math.sqrt(math.log(3) / (3 * t)))
        for name, loss in losses.items():
            reward[name] = decay * reward[name] + (1 - decay) * loss / share[name]
        total = sum(math.exp(before * reward[name]) for name in names)
        share = {name: (1 - 3 * now) * math.exp(before * reward[name]) / total + now for name in names}
        before = now
        found.append(share)
    return found


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_shares_are_those_of_the_published_algorithm(decay: float) -> None:
    asked = [session(0), *(session(4 * t, training_losses=losses) for t, losses in enumerate(TURNS, 1))]
    first, *answers = ask(Exp3(decay=decay), *asked)
    assert first.weights == (1 / 3, 1 / 3, 1 / 3)
    for answer, share in zip(answers, published(TURNS, decay), strict=True):
        assert answer.weights == pytest.approx(tuple(share.values()), abs=1e-12)
    assert answers[-1].weights[1] > answers[-1].weights[2] > answers[-1].weights[0]


def test_equal_losses_leave_equal_shares() -> None:
    losses = dict.fromkeys(ROLES.train, 3.0)
    answers = ask(Exp3(), *[session(training_losses=losses)] * 40)
    assert answers[-1].weights == pytest.approx((1 / 3, 1 / 3, 1 / 3), abs=1e-15)


def test_no_share_falls_below_what_is_explored() -> None:
    losses = {"math": 1.0, "code": 50.0, "web": 1.0}
    answers = ask(Exp3(decay=0.0), *[session(training_losses=losses)] * 80)
    least = np.array([min(answer.weights) for answer in answers])
    assert (least >= [exploration(3, turn) - 1e-12 for turn in range(80)]).all()
    assert exploration(3, 79) == pytest.approx(math.sqrt(math.log(3) / 237), abs=1e-15)


def test_targets_and_constraints_say_nothing() -> None:
    losses = {"math": 1.0, "code": 2.0, "web": 3.0}
    plain, moved = (
        ask(Exp3(), *[session(training_losses=losses, **more)] * 20)[-1].weights
        for more in ({}, {"web": 9.0, "math": 9.0})
    )
    assert plain == moved


def test_one_domain_gets_everything() -> None:
    roles = make_roles(["math"], [], ["math"], {})
    answers = ask(Exp3(), *[session(roles=roles, training_losses={"math": 2.0})] * 5)
    assert [answer.weights for answer in answers] == [(1.0,)] * 5


def test_it_is_asked_at_its_own_rhythm() -> None:
    assert [Exp3(every=3).decide(session(step), {}).ask_at for step in (0, 3, 63)] == [3, 6, None]


@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        (Exp3(every=0), r"mixer\.every: got 0, expected at least 1"),
        (Exp3(decay=1.0), r"mixer\.decay: got 1\.0, expected a number from 0 to below 1"),
        (Exp3(decay=math.nan), r"mixer\.decay: got nan, expected a number from 0 to below 1"),
    ],
    ids=str,
)
def test_each_impossible_setting_is_named(mixer: Exp3, message: str) -> None:
    with pytest.raises(ConfigProblems, match=message):
        refuse(mixer.problems(ROLES))
