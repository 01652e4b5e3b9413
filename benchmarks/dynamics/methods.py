"""Every method of the benchmark by name: its mixer, the family that shares a learning rate, and its price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from controls import ShuffledSlopes

from trimtab import (
    Aioli,
    DualAscent,
    DynaMiCS,
    EarlyStoppedTarget,
    Exp3,
    Feedback,
    Fixed,
    GradientAlignment,
    Proportional,
    ReferenceLoss,
    Replay,
    Uniform,
)
from trimtab.adapt.mixer import Mixer
from trimtab.seeds import derive
from trimtab.train.settings import MOST_MARGIN

SWEEP = (0.0, 0.2, 0.5, 0.8, 1.0)
"""Target mass of the five fixed runs."""
REFINED = (0.1, 0.35, 0.65)
"""What a second round of the sweep adds."""
RANDOM = 3
"""Random mixtures: with three runs the search costs about what a run with rolled-back probes does."""
CHOSEN_OTHERWISE = (
    *(f"fixed {mass}" for mass in SWEEP[1:]),
    "ours",
    "feedback",
)
"""Methods that are run again with other margins for the choice of a checkpoint."""
MARGINS = {"at its word": 0.0, "by one error": 1.0}
"""Standard errors by which a checkpoint must keep the constraints there, instead of two."""


@dataclass(frozen=True)
class Method:
    """A mixer of the benchmark.

    Attributes:
        mixer: without targets and constraints, which are the scenario's.
        family: methods of one family share a learning rate, chosen on a seed of its own.
        role: "sweep" (part of a search over runs), "rival", "ours", "paper", "control", "ablation", or "choice"
            (another rule for choosing the checkpoint).
        margin: standard errors by which a checkpoint must keep the constraints on validation to be chosen.
    """

    mixer: Mixer
    family: str
    role: str
    margin: float = 2.0


def methods(scenario: str, train: Sequence[str]) -> Mapping[str, Method]:
    """Every method, by name; the random mixtures depend on the scenario alone."""
    found = {**_fixed(scenario, train), **_rivals(), **_dynamics()}
    return found | {
        f"{name}, {told}": replace(found[name], role="choice", margin=margin)
        for told, margin in MARGINS.items()
        for name in CHOSEN_OTHERWISE
    }


def _fixed(scenario: str, train: Sequence[str]) -> dict[str, Method]:
    found = {f"fixed {mass}": Method(_mass(mass), "fixed", "sweep") for mass in SWEEP + REFINED}
    for k in range(RANDOM):
        shares = np.random.default_rng(derive(0, "random search", scenario, k)).dirichlet(np.ones(len(train)))
        weights = dict(zip(train, shares.round(4).tolist(), strict=True))
        found[f"random {k}"] = Method(Fixed(weights=weights), "fixed", "sweep")
    return found


def _mass(mass: float) -> Mixer:
    """A mass of one is pure target training, whose best checkpoint that kept all counts, as everyone's does."""
    return Replay(share=0.0) if mass == 1 else Fixed(target_mass=mass)


def _rivals() -> dict[str, Method]:
    return {
        "early-stopped target": Method(EarlyStoppedTarget(), "fixed", "rival"),
        "replay 1 %": Method(Replay(share=0.01), "fixed", "rival"),
        "replay 5 %": Method(Replay(share=0.05), "fixed", "rival"),
        "uniform": Method(Uniform(), "fixed", "rival"),
        "proportional": Method(Proportional(), "fixed", "rival"),
        "exp3": Method(Exp3(), "adaptive", "rival"),
        "aioli": Method(Aioli(), "adaptive", "rival"),
        "reference loss": Method(ReferenceLoss(), "adaptive", "rival"),
        "dual ascent": Method(DualAscent(), "adaptive", "rival"),
        "gradient alignment": Method(GradientAlignment(), "adaptive", "rival"),
        "feedback": Method(Feedback(), "adaptive", "rival"),
    }


# In a run of 256 steps "dense" rounds to the same updates as "light".
_PUBLISHED = {"preset": "paper", "schedule": "light"}


def _dynamics() -> dict[str, Method]:
    return {
        "ours": Method(DynaMiCS(), "ours", "ours"),
        "ours, planned": Method(DynaMiCS(mass="planned"), "planned", "ablation"),
        "ours, robust": Method(DynaMiCS(solver="robust"), "planned", "ablation"),
        "paper light": Method(DynaMiCS(**_PUBLISHED), "rolled back", "paper"),
        "shuffled": Method(ShuffledSlopes(), "ours", "control"),
        "ours, first rest": Method(DynaMiCS(kappa=MOST_MARGIN), "ours", "ablation"),
        "ours, no lean": Method(DynaMiCS(lean=0.0), "ours", "ablation"),
        "ours, half lean": Method(DynaMiCS(lean=0.5), "ours", "ablation"),
        "ours, kappa 1.28": Method(DynaMiCS(kappa=1.28), "ours", "ablation"),
        "ours, no shrinking": Method(DynaMiCS(shrink=False), "ours", "ablation"),
        "ours, 40 blocks": Method(DynaMiCS(blocks=40), "ours", "ablation"),
    }


TUNED_BY = {
    "fixed": ("fixed 0.5",),
    "adaptive": ("feedback",),
    "rolled back": ("paper light",),
    "planned": ("ours, planned",),
    "ours": ("ours",),
}
"""The members of each family whose runs on the tuning seed choose its learning rate: that of the best of them."""
TUNING_SEED = 100
"""The seed of those runs; no result comes from it."""
