"""Results that look like real ones, made in milliseconds."""

from __future__ import annotations

import pytest

from finetune_results import MakeResult, make_result
from trimtab.adapt.dynamics.result import FinetuneResult


@pytest.fixture
def result_of() -> MakeResult:
    """A maker of results; see `make_result`."""
    return make_result


@pytest.fixture
def group(result_of: MakeResult) -> list[FinetuneResult]:
    """Seven runs as a comparison would show them: one with probes, one infeasible, one that broke a constraint."""
    fixed = [
        result_of(
            f"Fixed {mass} on targets", probes=False, pulls=(-0.3 * mass, -0.2 * mass, 0.03, 0.04, 0.02, 0.01)
        )
        for mass in (0.2, 0.5, 0.65)
    ]
    return [
        result_of(),
        *fixed,
        result_of("Early-stopped target", probes=False, pulls=(-0.11, -0.08, 0.049, 0.071, 0.02, 0.055)),
        result_of("Replay 5 %", probes=False, status="infeasible"),
        result_of("Uniform", probes=False, status="no gain"),
    ]
