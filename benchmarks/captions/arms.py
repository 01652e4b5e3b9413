"""The arms of the DiscriTune benchmark: who speaks, and how they were tuned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from trimtab.refer.captions.tuning import Tuning

MAIN, ABLATION = 0.2, 0.1
"""Share of full captions in what the captioner of an arm had learned from."""
START = "start"
LEAVE_ONE_OUT, GREEDY, MIXED = "leave-one-out", "greedy", "leave-one-out, .1 cross-entropy"
SHUFFLED, COLLAPSE, PAPER_RATE = "shuffled pictures", "leave-one-out at 1e-3", "greedy at the paper's 1e-7"
TRUE_FULL, TRUE_TERSE = "true full captions", "true terse captions"
NEAR = "leave-one-out, KL .1"
TUNED = (NEAR, LEAVE_ONE_OUT, GREEDY)
"""The arms of which the paper's claims are judged: settings of our quickstart, without its KL, the paper's estimator.

The first joined after the second had been seen on seed 0, where it named much that was not there.
"""

LR, GREEDY_LR = 3e-4, 1e-4
OURS = Tuning(estimator="leave-one-out", negatives="random", batch_size=16, samples=4, lr=LR, length="mean")
GREEDY_OF_OLD = Tuning(preset="paper", lr=GREEDY_LR)
"""The paper's settings but for the learning rate: greedy captions, batches of 100 that are their own negatives."""


@dataclass(frozen=True)
class Arm:
    """One speaker.

    Attributes:
        name: of it; unique together with `full`.
        full: share of full captions that its captioner had learned from.
        role: "main", "control", "ablation" or "warning".
        tuning: settings of DiscriTune; None for a speaker that is not tuned.
        pictures: that it is tuned on: "plain", or "copies", where pictures stand once, twice and four times.
        shuffled: the listener hears each caption of another picture.
    """

    name: str
    full: float
    role: Literal["main", "control", "ablation", "warning"]
    tuning: Tuning | None
    pictures: Literal["plain", "copies"] = "plain"
    shuffled: bool = False

    @property
    def key(self) -> str:
        """Unique name: the share of full captions in per cent, and the arm."""
        return f"{round(100 * self.full)} %: {self.name}"


def main_arms() -> list[Arm]:
    """Arms at the larger share of full captions; those without tuning first."""
    return [
        Arm(START, MAIN, "main", None),
        Arm(TRUE_FULL, MAIN, "control", None),
        Arm(TRUE_TERSE, MAIN, "control", None),
        Arm(NEAR, MAIN, "main", replace(OURS, kl=0.1)),
        Arm(LEAVE_ONE_OUT, MAIN, "main", OURS),
        Arm(GREEDY, MAIN, "main", GREEDY_OF_OLD),
        Arm(MIXED, MAIN, "main", replace(OURS, cross_entropy=0.1)),
        Arm(SHUFFLED, MAIN, "control", OURS, shuffled=True),
        Arm(COLLAPSE, MAIN, "warning", replace(OURS, lr=1e-3)),
        Arm(PAPER_RATE, MAIN, "warning", Tuning(preset="paper")),
    ]


def ablations() -> list[Arm]:
    """Arms at the smaller share, where less is gained for free; the most asked about first."""
    copied = replace(OURS, negatives="hard")
    found = replace(copied, reward="accuracy")
    changed = {
        LEAVE_ONE_OUT: OURS,
        "KL .1": replace(OURS, kl=0.1),
        GREEDY: GREEDY_OF_OLD,
        "hard negatives": replace(OURS, negatives="hard"),
        "accuracy": replace(OURS, reward="accuracy"),
        "copies, accuracy, masked": found,
        "copies, accuracy, not masked": replace(found, masking=False),
        "summed log-probability": replace(OURS, length="sum"),
        "self-critical": replace(OURS, estimator="self-critical"),
        "sampled, running mean": replace(OURS, estimator="sampled"),
        "whitening by batch": replace(OURS, whitening="batch"),
        "negatives of the batch": replace(OURS, negatives="batch"),
        "copies, masked": copied,
        "copies, not masked": replace(copied, masking=False),
        "hard negatives, .1 cross-entropy": replace(copied, cross_entropy=0.1),
    }
    return [
        Arm(START, ABLATION, "main", None),
        *(
            Arm(name, ABLATION, "ablation", tuning, "copies" if "copies" in name else "plain")
            for name, tuning in changed.items()
        ),
    ]


COMPARISONS = {
    "greedy less leave-one-out": (GREEDY, LEAVE_ONE_OUT),
    "running mean less leave-one-out": ("sampled, running mean", LEAVE_ONE_OUT),
    "self-critical less leave-one-out": ("self-critical", LEAVE_ONE_OUT),
    "summed less mean log-probability": ("summed log-probability", LEAVE_ONE_OUT),
    "whitening less none": ("whitening by batch", LEAVE_ONE_OUT),
    "KL .1 less none": ("KL .1", LEAVE_ONE_OUT),
    "hard less random negatives": ("hard negatives", LEAVE_ONE_OUT),
    "negatives of the batch less random ones": ("negatives of the batch", LEAVE_ONE_OUT),
    "accuracy less log-probability as reward": ("accuracy", LEAVE_ONE_OUT),
    ".1 cross-entropy less none, hard negatives": ("hard negatives, .1 cross-entropy", "hard negatives"),
    "not masked less masked": ("copies, not masked", "copies, masked"),
    "not masked less masked, accuracy as reward": (
        "copies, accuracy, not masked",
        "copies, accuracy, masked",
    ),
}
"""Paired differences between arms at the smaller share of full captions."""
