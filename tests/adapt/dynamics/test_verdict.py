from __future__ import annotations

import re
from dataclasses import replace

import pytest

from finetune_results import MakeResult
from trimtab.adapt.dynamics.result import FinetuneResult, verdict


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("feasible", r"lowered target perplexity on test by 13\.1 % .* kept 4 of 4 constraints"),
        (
            "infeasible",
            "is infeasible: no checkpoint kept every constraint on validation, so the base weights",
        ),
        ("no gain", "gained nothing"),
        ("diverged", r"diverged, and its last good checkpoint \(step 177\) lowered"),
    ],
)
def test_the_verdict_says_plainly_what_happened(result_of: MakeResult, status: str, expected: str) -> None:
    assert re.search(expected, verdict([result_of(status=status)]))


def test_the_verdict_names_what_was_not_kept_and_what_it_cost(result_of: MakeResult) -> None:
    said = verdict([result_of(pulls=(0.02, 0.03, 0.09, 0.01, 0.01, 0.01))])
    assert "raised target perplexity on test by 2.5 % (95 % interval 1.7 to 3.4)" in said
    assert "3 of 4 constraints; not kept: python (+0.090 nats, tolerance 0.050)" in said
    assert "for 2.40 times the training steps of one fixed-mixture run (2.31 times with evaluations)" in said


def test_a_gain_that_may_be_none_is_called_so(result_of: MakeResult) -> None:
    assert "which may be no change at all" in verdict([result_of(pulls=(0.001, -0.002, 0, 0, 0, 0))])


def test_the_verdict_on_a_group_names_the_largest_gain_that_kept_all(group: list[FinetuneResult]) -> None:
    said = verdict(group)
    assert "Of the 7 runs compared, 4 gained something and kept every constraint on test" in said
    assert "is that of Fixed 0.65 on targets" in said


def test_a_group_in_which_nothing_was_kept_names_no_winner(result_of: MakeResult) -> None:
    broken = (-0.1, -0.1, 0.2, 0.0, 0.0, 0.0)
    said = verdict([result_of(pulls=broken), result_of("b", pulls=broken)])
    assert said.endswith("Of the 2 runs compared, 0 gained something and kept every constraint on test.")


def test_a_run_that_lost_on_test_gained_nothing_there(result_of: MakeResult) -> None:
    said = verdict([result_of(), result_of("worse on test", pulls=(0.01, 0.01, 0.0, 0.0, 0.0, 0.0))])
    assert "Of the 2 runs compared, 1 gained something" in said


def test_a_run_that_diverged_at_once_returns_the_base_weights(result_of: MakeResult) -> None:
    said = verdict([replace(result_of(status="diverged"), step=0)])
    assert "diverged before any checkpoint was better within the constraints, so the base weights" in said
