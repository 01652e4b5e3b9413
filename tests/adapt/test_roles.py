"""Roles: who is what, and which names are mistaken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from trimtab.adapt.finetune import refuse
from trimtab.adapt.session import make_roles, role_problems
from trimtab.errors import ConfigProblems


def test_training_domains_are_evaluated_first_and_once() -> None:
    roles = make_roles(["math", "web"], ["safety", "math"], ["math"], {"safety": 0.1})
    assert roles.train == ("math", "web")
    assert roles.evaluate == ("math", "web", "safety")


def test_each_domain_has_one_role() -> None:
    roles = make_roles(["math", "web"], ["safety", "facts"], ["math", "facts"], {"safety": 0.0})
    found = {name: roles.role(name) for name in roles.evaluate}
    assert found == {"math": "target", "web": "monitored", "safety": "constraint", "facts": "target"}
    assert roles.tolerance("safety") == 0.0
    assert math.isnan(roles.tolerance("math"))
    assert math.isnan(roles.tolerance("web"))
    assert roles.trainable_targets == ("math",)


def test_good_roles_have_no_problem() -> None:
    assert list(role_problems(make_roles(["math", "web"], ["safety"], ["safety"], {"web": 0.0}))) == []


@pytest.mark.parametrize(
    ("targets", "tolerances", "message"),
    [
        ([], {}, r"targets: got no target, expected at least one domain to improve"),
        (
            ["mth"],
            {},
            r"targets: got 'mth', expected one of the domains 'math', 'web', 'safety'; try 'math'",
        ),
        (["math", "math"], {}, r"targets: got 'math' twice, expected each target once"),
        (["web"], {"web": 0.1}, r"constraints\.web: got a target, expected a domain that is not a target"),
        (["math"], {"safty": 0.1}, r"constraints\.safty: got 'safty', expected one of .*; try 'safety'"),
        (["math"], {"web": -0.1}, r"constraints\.web: got -0\.1, expected a tolerance of zero or more"),
        (["math"], {"web": math.nan}, r"constraints\.web: got nan, expected a tolerance of zero or more"),
        (["math"], {"web": "5%"}, r"constraints\.web: got '5%', .*; try a number, such as 0\.02"),
        (["math"], {"web": None}, r"constraints\.web: got None, expected a tolerance of zero or more"),
        (["math"], {"web": True}, r"constraints\.web: got True, expected a tolerance of zero or more"),
        (["math"], {"web": math.inf}, r"constraints\.web: got inf, expected a tolerance of zero or more"),
    ],
)
def test_each_mistaken_name_is_told(
    targets: Sequence[str], tolerances: Mapping[str, float], message: str
) -> None:
    roles = make_roles(["math", "web"], ["safety"], targets, tolerances)
    with pytest.raises(ConfigProblems, match=message) as caught:
        refuse(role_problems(roles))
    assert len(caught.value.problems) == 1


def test_nothing_to_train_on() -> None:
    with pytest.raises(ConfigProblems, match="train: got no domain, expected at least one domain to train"):
        refuse(role_problems(make_roles([], ["math"], ["math"], {})))


def test_every_mistake_is_told_at_once() -> None:
    roles = make_roles(["math"], [], ["mth"], {"math": -1.0, "x": 0.0})
    assert [problem.where for problem in role_problems(roles)] == [
        "targets",
        "constraints.math",
        "constraints.x",
    ]


def test_tolerances_are_a_mapping() -> None:
    for given in (["web"], 0.02, "web"):
        with pytest.raises(
            ConfigProblems, match=r"constraints: got a \w+, expected a mapping .*; try {'web': 0\.02}"
        ):
            make_roles(["math", "web"], [], ["math"], given)  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers() -> None:
    roles = make_roles(["math", "web"], [], ["math"], {"web": np.float32(0.5)})
    assert list(role_problems(roles)) == []
