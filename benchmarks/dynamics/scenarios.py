"""What is asked of every method: domains with roles and tolerances, on text that comes with the installation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trimtab import Domain, Fit
from trimtab.adapt.dynamics.job import EVALUATE_ONLY
from trimtab.lab.corpora import corpus

MODEL = "text-small"
FIT = Fit(
    steps=256,
    batch_size=8,
    seq_len=128,
    eval_sequences=64,
    probe_sequences=16,
    test_sequences=192,
    eval_batch_size=32,
    eval_points=9,
    crossings=3,
    warmup_steps=16,
    checkpoint_every=10**6,
)
"""Settings that all methods share, but for the learning rate; a run is too short to need a checkpoint."""


@dataclass(frozen=True)
class Scenario:
    """A question: improve `targets`, keep `constraints` (nats per token), training on `train` only.

    Attributes:
        why: what it is in the benchmark for.
        train: corpora to train on.
        targets: corpora to improve.
        constraints: corpus -> tolerance; those not in `train` can only be evaluated.
        lora: rank of an adapter instead of all parameters; 0 for none.
        rates: learning rates to choose from, if there is more than one.
    """

    why: str
    train: Sequence[str]
    targets: Sequence[str]
    constraints: Mapping[str, float]
    lora: int = 0
    rates: Sequence[float] = field(default=(5e-5, 1e-4, 2e-4))

    def domains(self) -> tuple[dict[str, Domain], dict[str, Domain]]:
        """Domains to train on, and domains to evaluate only."""
        others = [name for name in (*self.targets, *self.constraints) if name not in self.train]
        return (
            {name: _training(name) for name in self.train},
            {name: Domain.from_path(name, str(corpus(name)), fractions=EVALUATE_ONLY) for name in others},
        )


LIKE = {"suites": "tests", "manuals": "docstrings"}
"""Training domains that are of the kind of a corpus and no file of its validation and test."""


def _training(name: str) -> Domain:
    if name in LIKE:
        return Domain.from_path(name, str(corpus(LIKE[name]) / "train.jsonl"))
    return Domain.from_path(name, str(corpus(name)))


def _keep(*names: str, within: float = 0.05) -> dict[str, float]:
    return dict.fromkeys(names, within)


SCENARIOS: dict[str, Scenario] = {
    "helper": Scenario(
        "a target to evaluate only (tests) and a constraint to evaluate only (networks), both helped by a domain that "
        "is neither (python)",
        train=("headers", "python", "docstrings", "stubs"),
        targets=("headers", "tests"),
        constraints=_keep("docstrings", "stubs", "networks"),
    ),
    "improvable": Scenario(
        "a trainable constraint (type stubs, new to the model) that can still improve",
        train=("headers", "stubs", "python", "docstrings"),
        targets=("headers",),
        constraints=_keep("stubs", "python", "docstrings", "tests"),
    ),
    "tight": Scenario(
        "three targets, tolerances of .02",
        train=("headers", "stubs", "fonts", "python", "docstrings", "tests", "networks"),
        targets=("headers", "stubs", "fonts"),
        constraints=_keep("python", "docstrings", "tests", "networks", within=0.02),
    ),
    "two targets": Scenario(
        "two targets and a constraint to evaluate only",
        train=("headers", "stubs", "python", "docstrings", "tests"),
        targets=("headers", "stubs"),
        constraints=_keep("python", "docstrings", "tests", "networks"),
    ),
    "three targets": Scenario(
        "three targets, four constraints, all trainable",
        train=("headers", "stubs", "fonts", "python", "docstrings", "tests", "networks"),
        targets=("headers", "stubs", "fonts"),
        constraints=_keep("python", "docstrings", "tests", "networks"),
    ),
    "six constraints": Scenario(
        "one target and six constraints, three of them to evaluate only",
        train=("fonts", "python", "docstrings", "tests"),
        targets=("fonts",),
        constraints=_keep("python", "docstrings", "tests", "networks", "headers", "stubs"),
    ),
    "proxies": Scenario(
        "constraints to evaluate only, and a pool whose names tell nothing: two domains are of their kind, three not",
        train=("headers", "suites", "manuals", "stubs", "fonts", "metadata"),
        targets=("headers",),
        constraints=_keep("tests", "docstrings"),
    ),
    "strangers": Scenario(
        "constraints to train on beside three domains that no one asked for (stubs, fonts, metadata)",
        train=("headers", "python", "docstrings", "stubs", "fonts", "metadata"),
        targets=("headers",),
        constraints=_keep("python", "docstrings", "tests"),
    ),
}
"""In the order in which they are run. Seeds of the benchmark are 10, 11, 12; learning rates are chosen on seed 100."""
