"""The surrogate of the benchmark of DynaMiCS: what it takes for granted of training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from benchmark_scripts import scripts
from trimtab import Feedback, Fixed


@pytest.fixture(scope="module")
def surrogate() -> Iterator[ModuleType]:
    with scripts("dynamics", "surrogate") as (module,):
        yield module


def test_base_weights_are_the_least_of_what_pretraining_mixes(surrogate: ModuleType) -> None:
    world, draw = surrogate.world(0), np.random.default_rng(0)

    def pooled(weights: np.ndarray) -> float:
        return float(sum(share * world.change(kind, weights) for kind, share in surrogate.POOL.items()))

    for _ in range(20):
        assert pooled(world.base + 0.1 * draw.normal(0, 1, surrogate.SIZE)) > 0


@pytest.mark.parametrize("domain", ["headers", "stubs", "fonts", "manuals"])
def test_training_on_a_domain_lowers_its_loss_and_its_like(surrogate: ModuleType, domain: str) -> None:
    asked = surrogate.SCENARIOS["proxies"]
    one = Fixed(weights=dict.fromkeys(asked.train, 0.0) | {domain: 1.0})
    run = surrogate.SurrogateRun(0, asked, one, replace(surrogate.FIT, lr=2.8e-3))
    shares = np.array([one.weights[name] for name in asked.train])
    for _ in range(64):
        run.train(shares)
    assert run.world.change(domain, run.weights) < 0
    assert run.world.change(surrogate.LIKE.get(domain, domain), run.weights) < 0


def test_a_gain_is_the_same_again_and_not_that_of_another_world(surrogate: ModuleType) -> None:
    asked = surrogate.SCENARIOS["strangers"]
    mixer = Feedback(targets=asked.targets, constraints=asked.constraints)
    fit = replace(surrogate.FIT, lr=1.4e-3)
    first, again, other = (surrogate.SurrogateRun(k, asked, mixer, fit).gain() for k in (0, 0, 1))
    assert first == again != other
    assert first > 0
