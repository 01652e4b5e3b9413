"""Settings of DiscriTune, ours and the paper's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from trimtab.errors import Problem, not_among
from trimtab.refer.captions.estimators import Estimator, Length, Whitening, least_samples
from trimtab.refer.captions.rewards import Reward
from trimtab.runs.config import typed_problems
from trimtab.runs.files import bound_problems
from trimtab.seeds import seed_problem
from trimtab.train.settings import MOST_LR

Preset = Literal["default", "paper"]
Negatives = Literal["random", "hard", "batch"]
Divergence = Literal["k1", "k3"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {
        "estimator": "leave-one-out",
        "negatives": "random",
        "batch_size": 16,
        "lr": 1e-5,
        "length": "mean",
    },
    # Dessi et al. 2023, section 3 and appendix A; the paper does not say whether gradients are clipped.
    "paper": {"estimator": "greedy", "negatives": "batch", "batch_size": 100, "lr": 1e-7, "length": "mean"},
}
"""Preset -> the values of the settings that are None."""
SAMPLES = 4
"""Captions of a picture where nothing else is said; the greedy estimator has one."""
_CHOICES: Mapping[str, Any] = {
    "preset": Preset,
    "estimator": Estimator,
    "negatives": Negatives,
    "reward": Reward,
    "length": Length,
    "whitening": Whitening,
    "kl_estimator": Divergence,
}


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Settings of DiscriTune. Those that are None are the preset's.

    Attributes:
        preset: "default", or "paper" for the published ones (greedy captions, batches of 100 that are their own
            negatives, Adam at 1e-7).
        estimator: "leave-one-out", "group", "sampled", "self-critical" or "greedy"; see `estimators.advantages`.
        reward: "log-probability", "accuracy", "similarity" or "margin"; see `rewards.listener_rewards`.
        negatives: "random" pictures of the training set, neighbours in the listener's space ("hard", and random
            ones beside), or the other pictures of the batch ("batch").
        n_negatives: in all, for "random" and "hard".
        n_hard: of them neighbours, for "hard".
        masking: leave copies of the picture, by their pixels, out of its negatives. Equal captions stay.
        samples: captions of each picture; None for 1 with "greedy", else 4.
        length: log-probability of a caption, the "mean" over its tokens or their "sum".
        whitening: divide advantages by the standard deviation of a picture's rewards ("group"), of all of a step
            ("batch"), or not ("none").
        kl: weight of the divergence from the start, in rewards per nat.
        kl_estimator: "k3" per token as a term of the loss, or "k1" of a caption within the reward.
        entropy: weight of the entropy of captions, within the reward.
        cross_entropy: weight of the cross-entropy of captions by people; needs references.
        human: weight of captions by people as further trajectories (Chaffin et al. 2024); needs references.
        steps: of the optimiser.
        batch_size: pictures in a step.
        lr: learning rate of Adam. A speaker of the lab learns at 3e-4 and breaks at 1e-3.
        betas: decay rates of Adam's two moments.
        clip_norm: largest norm of a gradient; None leaves gradients alone.
        max_new_tokens: of a caption.
        evaluate_every: steps between scores on pictures that are held out.
        checkpoint_every: steps between resumable checkpoints.
        seed: of the order, the captions and the negatives.
    """

    preset: Preset = "default"
    estimator: Estimator | None = None
    reward: Reward = "log-probability"
    negatives: Negatives | None = None
    n_negatives: int = 99
    n_hard: int = 9
    masking: bool = True
    samples: int | None = None
    length: Length | None = None
    whitening: Whitening = "none"
    kl: float = 0.0
    kl_estimator: Divergence = "k3"
    entropy: float = 0.0
    cross_entropy: float = 0.0
    human: float = 0.0
    steps: int = 1000
    batch_size: int | None = None
    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 1.0
    max_new_tokens: int = 32
    evaluate_every: int = 100
    checkpoint_every: int = 50
    seed: int = 0

    def setting(self, name: str) -> Any:
        """A setting, or the preset's value for it where it is None.

        >>> Tuning(preset="paper").setting("lr"), Tuning(estimator="greedy").setting("samples")
        (1e-07, 1)
        """
        value = getattr(self, name)
        if value is None and name == "samples":
            return 1 if self.setting("estimator") == "greedy" else SAMPLES
        return PRESETS[self.preset].get(name) if value is None else value

    def problems(self) -> Iterator[Problem]:
        """Every setting that cannot work; those of another type or out of all bounds alone, where there are any."""
        if mistyped := [*typed_problems(self, without=("listener",)), *bound_problems(self)]:
            yield from mistyped
            return
        words = {name: getattr(self, name) for name in _CHOICES if getattr(self, name) is not None}
        wrong = [
            not_among(name, word, get_args(_CHOICES[name]))
            for name, word in words.items()
            if word not in get_args(_CHOICES[name])
        ]
        if wrong:
            yield from wrong
            return
        counts = (
            "n_negatives",
            "steps",
            "batch_size",
            "max_new_tokens",
            "evaluate_every",
            "checkpoint_every",
        )
        for name in counts:
            if (value := self.setting(name)) < 1:
                yield Problem(name, str(value), "at least 1")
        yield from self._caption_problems()
        if self.setting("negatives") == "batch" and self.setting("batch_size") < 2:
            got = f"batch_size {self.setting('batch_size')} whose own pictures are the negatives"
            yield Problem("batch_size", got, "at least 2", "negatives: random")
        if self.setting("negatives") == "hard" and not 1 <= self.n_hard <= self.n_negatives:
            yield Problem("n_hard", str(self.n_hard), f"1 to n_negatives={self.n_negatives}")
        if not 0 < self.setting("lr") <= MOST_LR:
            yield Problem("lr", str(self.setting("lr")), f"a number above 0, at most {MOST_LR:g}")
        for name in ("kl", "entropy", "cross_entropy", "human"):
            if not 0 <= getattr(self, name) < math.inf:
                yield Problem(name, str(getattr(self, name)), "zero or more")
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            yield Problem("clip_norm", str(self.clip_norm), "a positive number, or null")
        if not all(0 <= beta < 1 for beta in self.betas):
            yield Problem("betas", str(self.betas), "two numbers in [0, 1)")
        if (problem := seed_problem("seed", self.seed)) is not None:
            yield problem

    def _caption_problems(self) -> Iterator[Problem]:
        """Problems of the number of captions, which an estimator may need to be two or more."""
        estimator, samples = self.setting("estimator"), self.setting("samples")
        least = least_samples(estimator, self.whitening)
        if samples < least:
            why = f"{estimator}" if least_samples(estimator) > 1 else "whitening by group"
            yield Problem(
                "samples", str(samples), f"at least {least} captions of a picture for {why}", "samples: 4"
            )
        elif estimator == "greedy" and samples > 1:
            got = f"{samples} captions of a picture with the estimator greedy"
            yield Problem("samples", got, "1: the likeliest caption is one", "estimator: leave-one-out")

    @property
    def reads_people(self) -> bool:
        """Whether captions by people are trained on."""
        return self.cross_entropy > 0 or self.human > 0
