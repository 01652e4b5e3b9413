"""Runs that feed the mass of the targets back: what they read, what their page says, and how one gives up."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest

from trimtab import DynaMiCS, finetune
from trimtab.adapt.dynamics import sides
from trimtab.adapt.dynamics.compare import calibration
from trimtab.adapt.dynamics.figures import unread
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.dynamics.sides import SEEN
from worlds import QUICK, evaluated, model, trainable

FED_BACK = DynaMiCS(targets=["math"], constraints={"web": 0.3, "safety": 0.3})
DOMAINS = {"train": trainable(), "evaluate": evaluated()}


@pytest.fixture(scope="module")
def result() -> FinetuneResult:
    return finetune(model(), **DOMAINS, mixer=FED_BACK, fit=QUICK)


def test_monitored_domains_cost_nothing_between_readings_of_the_grid(result: FinetuneResult) -> None:
    """Borders are at every step; those off the grid read 4 sequences of math, web and safety."""
    assert result.mixtures["step"].tolist() == list(range(12))
    assert (result.cost.probe_steps, result.cost.training_multiple) == (0, 1.0)
    assert result.cost.evaluation_batches == (5 * 5 * 8 + 8 * 3 * 4) / 4
    assert [update.step for update in result.slopes] == list(range(SEEN, 12))


@pytest.mark.usefixtures("undrawn")
def test_its_page_speaks_of_feedback_and_has_no_rows_without_slopes(result: FinetuneResult) -> None:
    text = html.unescape(FinetuneResult.page([result]))
    headings = re.findall(r"<h[23]>(.*?)</h[23]>", text)
    assert "Constraints at each update" in headings
    assert "What the solver said" not in headings
    assert "price" not in text
    assert "share of the targets" in text
    assert unread(result) == ["code", "facts"]
    assert "Without a row, as between evaluations only targets and constraints are read: code, facts." in text
    points = calibration(result)
    assert set(points["domain"]) == {"math", "web", "safety"}
    assert np.isfinite(points[["predicted", "realised"]].to_numpy(dtype=float)[:-3]).all()


def test_a_run_that_gives_up_says_so_and_keeps_its_best_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "web stays broken with the least target training there is, since step 2"
    monkeypatch.setattr(sides, "given_up", lambda session, *_: told if session.step == 6 else None)
    stopped = finetune(model(), **DOMAINS, mixer=FED_BACK, fit=QUICK)
    assert stopped.notes[0] == f"Stopped at step 6 of 12: {told}."
    assert (stopped.status, stopped.step, stopped.cost.training_steps) == ("feasible", 5, 6)
