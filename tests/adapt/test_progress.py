"""Where a run stands: through JSON and back, and what was trained on since the mixer was asked."""

from __future__ import annotations

import json
from dataclasses import asdict

from trimtab.adapt.cost import Ledger
from trimtab.adapt.metrics import Progress
from trimtab.train.loop import StepStats


def test_a_checkpoint_gives_it_back() -> None:
    progress = Progress(
        weights=(0.25, 0.75),
        ask_at=None,
        state={"shares": [0.25, 0.75]},
        training_nll={"math": 3.0},
        training_tokens={"math": 2},
        best_step=5,
        best_change=-0.1,
        kept_once=True,
        probed=True,
        stop="done",
        offset=120,
        ledger=Ledger(1, 2, 3, 4, {"training": 0.5}, 6),
    )
    assert Progress.read(json.loads(json.dumps(asdict(progress)))) == progress
    assert Progress.read(asdict(Progress())) == Progress()


def test_training_losses_are_means_over_tokens() -> None:
    start = Progress()
    once = start.trained(StepStats(1.0, 1.0, {"math": 1}, {"math": 6.0}, {"math": 2}))
    twice = once.trained(
        StepStats(1.0, 1.0, {"math": 1, "web": 2}, {"math": 2.0, "web": 9.0}, {"math": 6, "web": 3})
    )
    assert once.training_losses == {"math": 3.0}
    assert twice.training_losses == {"math": 1.0, "web": 3.0}
    assert start.training_losses == {}
