"""A surrogate of the benchmark in seconds a scenario: noisy quadratic losses under Adam, in place of a language model.

    python benchmarks/dynamics/surrogate.py --methods ours feedback uniform
                                                  writes benchmarks/results/dynamics/surrogate.json

A run of the benchmark takes a minute, so that single settings of a mixer cannot be told apart on it: runs move by ten
points for incidental reasons. Here a domain is a quadratic bowl in `SIZE` weights, random within a world. The base
weights are the least of what pretraining mixes. A target's bowl lies away from them, deep in directions of its own;
others feel these directions, too. Sequences of a domain differ in how a move of the weights changes their loss, which
makes readings noisy. Amplitudes were set by eye, so that 64 steps on one domain move each loss about as much as on the
real model. The mixers are the real ones, and ask the real questions.

What it is for: settings of DynaMiCS were chosen on it, on other worlds than those here. What it is not: evidence on
language models.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from methods import methods
from outcomes import smooth_gain
from scenarios import FIT, LIKE, SCENARIOS, Scenario

from trimtab.adapt.mixer import Mixer
from trimtab.adapt.session import Clock, make_roles
from trimtab.numerics.bootstrap import bootstrap, mean
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware
from trimtab.runs.serialise import to_json
from trimtab.seeds import derive
from trimtab.train.losses import SequenceLosses
from trimtab.train.settings import Fit, evaluation_steps

RESULT = Path(__file__).parents[1] / "results" / "dynamics" / "surrogate.json"
SIZE, TOKENS, SEQUENCES = 240, 128, 256
SCALE = 60.0
"""Loss in nats per token is a bowl's height divided by this."""
READING, GRADIENT = 0.03, 0.03
"""Noise of a sequence per unit of moved weights, and of a gradient's entry."""
AWAY = {
    "headers": 0.5,
    "stubs": 0.9,
    "fonts": 1.3,
    "python": 0.2,
    "docstrings": 0.2,
    "tests": 0.2,
    "networks": 0.2,
    "metadata": 0.25,
}
"""Kind of text -> how far the least of its bowl is away."""
POOL = {"python": 0.3, "docstrings": 0.3, "metadata": 0.15, "tests": 0.2, "headers": 0.05}
"""What pretraining mixes."""
RATES = (7e-4, 1.4e-3, 2.8e-3)
WORLDS = range(8)


@dataclass(frozen=True, eq=False)
class World:
    """Bowls of every kind of text.

    Attributes:
        depth, least: kind -> (SIZE,) curvature, and where the bowl is lowest.
        base: (SIZE,) the weights after pretraining.
        near: domain -> (SIZE,) how far a domain that is like another has its least from it.
        noise: domain -> (SEQUENCES, SIZE) what a move of the weights does to each sequence, beyond the loss.
    """

    depth: Mapping[str, np.ndarray]
    least: Mapping[str, np.ndarray]
    base: np.ndarray
    near: Mapping[str, np.ndarray] = field(repr=False)
    noise: Mapping[str, np.ndarray] = field(repr=False)

    def bowl(self, domain: str) -> tuple[np.ndarray, np.ndarray]:
        """Curvature and least of a domain."""
        kind = LIKE.get(domain, domain)
        return self.depth[kind], self.least[kind] + self.near.get(domain, 0.0)

    def change(self, domain: str, weights: np.ndarray) -> float:
        """Change of a domain's loss since the base weights, nats per token."""
        depth, least = self.bowl(domain)
        heights = [0.5 * float(depth @ (at - least) ** 2) for at in (weights, self.base)]
        return (heights[0] - heights[1]) / SCALE


@cache
def world(number: int) -> World:
    """The world of this number."""
    draw = np.random.default_rng(derive(number, "world"))
    common = np.exp(draw.normal(0, 1, SIZE))
    depth, least = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for kind, away in AWAY.items():
        felt = common * np.exp(draw.normal(0, 0.8, SIZE)) * (draw.random(SIZE) < 0.55)
        own = draw.random(SIZE) < 0.35
        depth[kind] = np.where(own, np.maximum(felt, 3 * common), felt)
        least[kind] = draw.normal(0, 1, SIZE) * away * own
    total = sum(share * depth[kind] for kind, share in POOL.items()) + 1e-9
    base = sum(share * depth[kind] * least[kind] for kind, share in POOL.items()) / total
    near = {name: draw.normal(0, 0.02, SIZE) for name in LIKE}
    noise = {name: draw.normal(0, 1, (SEQUENCES, SIZE)) for name in (*AWAY, *LIKE)}
    return World(depth, least, base, near, noise)


class SurrogateRun:
    """A run of a mixer on a scenario in a world; see `trimtab.adapt.session.Session` for what a mixer asks."""

    def __init__(self, number: int, scenario: Scenario, mixer: Mixer, fit: Fit) -> None:
        self.world, self.scenario, self.fit, self.mixer = world(number), scenario, fit, mixer
        self.draw = np.random.default_rng(derive(number, "run"))
        names = (*scenario.targets, *scenario.constraints)
        others = [name for name in names if name not in scenario.train]
        self.roles = make_roles(scenario.train, others, scenario.targets, scenario.constraints)
        self.hard = {name: self.draw.normal(2.5, 0.4, SEQUENCES) for name in self.roles.evaluate}
        self.grid = evaluation_steps(fit.steps, fit.eval_points)
        bowls = [self.world.bowl(name) for name in scenario.train]
        self.depth, self.least = (np.stack(part) for part in zip(*bowls, strict=True))
        self.weights, self.step = self.world.base.copy(), 0
        self.moment, self.square = np.zeros((2, SIZE))

    def read(self, names: Sequence[str], sequences: int) -> dict[str, SequenceLosses]:
        """Losses of the first sequences."""
        moved = self.weights - self.world.base
        found = {}
        for name in names:
            noise = READING * self.world.noise[name][:sequences] @ moved
            each = self.hard[name][:sequences] + self.world.change(name, self.weights) + noise
            found[name] = SequenceLosses(TOKENS * each, np.full(sequences, TOKENS))
        return found

    def train(self, mixture: np.ndarray) -> None:
        """A step of Adam on the mixture's gradient."""
        slope = (mixture[:, None] * self.depth * (self.weights - self.least)).sum(axis=0) / SCALE
        slope += GRADIENT * self.draw.normal(0, 1, SIZE)
        beta, decay = self.fit.betas
        self.moment = beta * self.moment + (1 - beta) * slope
        self.square = decay * self.square + (1 - decay) * slope**2
        rate = self.fit.lr_at(self.step)
        self.step += 1
        root = np.sqrt(self.square / (1 - decay**self.step)) + 1e-8
        self.weights = self.weights - rate * self.moment / (1 - beta**self.step) / root

    def session(self, reference: Mapping[str, SequenceLosses]) -> Any:
        """The run at this step, as its mixer sees it."""
        every, fit = self.roles.evaluate, self.fit
        whole = self.read(every, fit.eval_sequences)

        def sampled(of: Sequence[str] | None = None) -> dict[str, SequenceLosses]:
            return {name: whole[name].first(fit.probe_sequences) for name in of or every}

        return SimpleNamespace(
            roles=self.roles,
            step=self.step,
            steps=fit.steps,
            grid=self.grid,
            reference=reference,
            losses=lambda: whole,
            sampled_losses=sampled,
            clock=Clock(),
            margin=fit.margin,
            momentum=fit.betas[0],
            rates=lambda start, stop: np.array([fit.lr_at(k) / fit.lr for k in range(start, stop)]),
        )

    def gain(self) -> float:
        """The fall of the targets where the first constraint meets its limit, as of perplexity, in per cent."""
        reference = self.read(self.roles.evaluate, self.fit.eval_sequences)
        readings, state, ask_at, mixture = [], dict[str, Any](), 0, np.zeros(0)
        while self.step < self.fit.steps:
            if ask_at == self.step:
                try:
                    decision = self.mixer.decide(self.session(reference), state)
                except ArithmeticError:  # a run ends there, with what it has
                    break
                mixture, state = np.array(decision.weights), dict(decision.state)
                ask_at = -1 if decision.ask_at is None else decision.ask_at
                if decision.stop:
                    break
            self.train(mixture)
            if self.step in self.grid:
                readings.append({name: self.world.change(name, self.weights) for name in self.roles.evaluate})
        limits = [{"domain": name, "tolerance": most} for name, most in self.scenario.constraints.items()]
        return smooth_gain(readings, self.scenario.targets, limits)


def gains(method: str, scenario: str, worlds: Sequence[int]) -> list[float]:
    """Gains of a method in each world, at the rate that is best over them."""
    asked = SCENARIOS[scenario]
    mixer = replace(  # type: ignore[type-var]
        methods(scenario, asked.train)[method].mixer, targets=asked.targets, constraints=asked.constraints
    )
    found = [
        [SurrogateRun(number, asked, mixer, replace(FIT, lr=rate, margin=2.0)).gain() for number in worlds]
        for rate in RATES
    ]
    return max(found, key=math.fsum)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--methods", nargs="+", required=True)
    asked = parser.parse_args()
    worlds = list(WORLDS)
    found = {name: {s: gains(name, s, worlds) for s in SCENARIOS} for name in asked.methods}
    flat = {name: np.array(list(of.values())) for name, of in found.items()}
    first = flat[asked.methods[0]]
    rows = {
        name: {
            "gain": vars(bootstrap(mean, of.mean(axis=0))),
            "less_the_first": vars(bootstrap(mean, (of - first).mean(axis=0))),
            "by_scenario": {s: float(np.mean(each)) for s, each in found[name].items()},
        }
        for name, of in flat.items()
    }
    record = {
        "command": "python benchmarks/dynamics/surrogate.py --methods "
        + " ".join(f'"{name}"' for name in asked.methods),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": {name: version(name) for name in ("trimtab", "numpy")}
        | {"python": platform.python_version()},
        "hardware": hardware(),
        "worlds": worlds,
        "rates": RATES,
        "methods": rows,
    }
    write_atomic(RESULT, to_json(record, indent=1) + "\n")
    for name, row in rows.items():
        print(
            name, round(row["gain"]["value"], 2), {k: round(v, 2) for k, v in row["less_the_first"].items()}
        )


if __name__ == "__main__":
    main()
