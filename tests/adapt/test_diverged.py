"""A mixer whose arithmetic cannot take the losses ends a run as diverged, with what came before; a fault does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from trimtab import DynaMiCS, finetune
from trimtab.adapt.mixer import Decision, NoProbes, State
from trimtab.adapt.mixers.controllers import DualAscent, ReferenceLoss
from trimtab.adapt.mixers.fixed import Uniform
from trimtab.adapt.mixers.published import Aioli
from trimtab.adapt.session import Session
from worlds import QUICK, evaluated, model, trainable

DOMAINS = {"train": trainable(), "evaluate": evaluated()}
ROLES: dict[str, Any] = {"targets": ["math"], "constraints": {"web": 0.0, "safety": 0.3}}


@dataclass(frozen=True)
class Asked(NoProbes):
    """Even shares at first, then whatever `then` does."""

    then: Callable[[], tuple[float, ...]]
    targets: tuple[str, ...] = ("math",)
    constraints: dict[str, float] = field(default_factory=lambda: {"web": 0.0})
    kind: str = "asked"

    def decide(self, session: Session, state: State) -> Decision:
        shares = self.then() if session.step else (1 / 3,) * 3
        return Decision(shares, 4 if not session.step else None, {"n": 1})


def raised(error: Exception) -> Callable[[], tuple[float, ...]]:
    def then() -> tuple[float, ...]:
        raise error

    return then


@pytest.mark.parametrize(
    "then",
    [
        raised(ArithmeticError("the cone solver did not converge")),
        raised(OverflowError("intermediate overflow in fsum")),
        raised(FloatingPointError("overflow")),
        raised(np.linalg.LinAlgError("Singular matrix")),
        lambda: (math.nan, 0.5, 0.5),
        lambda: (math.inf, 0.0, 0.0),
    ],
)
def test_arithmetic_that_fails_is_a_run_that_diverged(then: Callable[[], tuple[float, ...]]) -> None:
    result = finetune(model(), **DOMAINS, mixer=Asked(then), fit=QUICK, config={"a": 1})
    assert result.status == "diverged"
    (note,) = result.notes
    assert note.startswith("Stopped at step 4 of 12: diverged: asked finds no mixture at step 4 (")
    assert "; losses: math " in note
    assert note.endswith("try a lower lr.")


def test_a_fault_of_a_mixer_stays_what_it_is() -> None:
    mixer = Asked(raised(ZeroDivisionError("by nothing")))
    with pytest.raises(ZeroDivisionError, match="by nothing"):
        finetune(model(), **DOMAINS, mixer=mixer, fit=QUICK, config={"a": 1})


@pytest.mark.filterwarnings("ignore:.*(overflow|invalid value).*:RuntimeWarning")
@pytest.mark.parametrize(
    "mixer",
    [
        DynaMiCS(**ROLES, preset="paper"),
        DynaMiCS(**ROLES, solver="robust"),
        Aioli(**ROLES, rounds=1),
        ReferenceLoss(**ROLES, every=2),
        DualAscent(**ROLES, every=2),
    ],
    ids=["paper", "robust", "aioli", "reference", "dual"],
)
def test_no_mixer_ends_raw_on_huge_losses(mixer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.train.settings.MOST_LR", math.inf)
    result = finetune(model(), **DOMAINS, mixer=mixer, fit=replace(QUICK, lr=1e3))
    assert result.status in ("diverged", "infeasible", "feasible", "no gain")


def test_a_base_model_without_a_finite_loss_is_not_told_to_lower_its_lr() -> None:
    for mixer in (DynaMiCS(**ROLES), DualAscent(**ROLES), Uniform(**ROLES)):
        handle = model()
        with torch.no_grad():
            next(iter(handle.trainable().values())).fill_(math.nan)
        result = finetune(handle, **DOMAINS, mixer=mixer, fit=QUICK)
        assert result.status == "diverged"
        assert (
            "the base model's loss of math, web, safety is not finite; try other weights" in result.notes[0]
        )
