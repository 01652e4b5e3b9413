"""REINFORCE estimators for captions: advantages, penalties and their loss, on plain tensors.

A picture has g captions drawn from the speaker, and a reward each. Losses are written so that their gradient, in
expectation over the captions, is minus that of the mean reward; where it is not, the function says what it is instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trimtab.errors import ShapeError, explain

Estimator = Literal["leave-one-out", "group", "sampled", "self-critical", "greedy"]
"""Where captions come from and what their rewards are compared with; see `advantages`."""
Length = Literal["mean", "sum"]
"""Log-probability of a caption: the mean of its tokens', or their sum."""
Whitening = Literal["none", "group", "batch"]
"""What an advantage is divided by the standard deviation of."""
LEAST_SPREAD = 1e-6
"""Standard deviations below this are none: rewards that are equal but for rounding."""


@dataclass(frozen=True)
class RunningMean:
    """Cumulative mean of the rewards of all steps so far: the baseline of the paper, read before its update.

    Attributes:
        total: sum of the rewards.
        count: of them.
    """

    total: float = 0.0
    count: int = 0

    @property
    def value(self) -> float:
        """The mean; 0 before the first step, so that the first advantage is the reward itself."""
        return self.total / self.count if self.count else 0.0

    def after(self, values: Float[Tensor, "n g"]) -> RunningMean:
        """The mean with the rewards of one more step.

        >>> RunningMean().after(torch.tensor([[1.0, 3.0]])).value
        2.0
        """
        return RunningMean(self.total + float(values.double().sum()), self.count + values.numel())


def least_samples(estimator: Estimator, whitening: Whitening = "none") -> int:
    """The least number of captions per picture that an estimator can work with."""
    return 2 if estimator in ("leave-one-out", "group") or whitening == "group" else 1


def advantages(
    values: Float[Tensor, "n g"],
    estimator: Estimator,
    *,
    running: float = 0.0,
    greedy: Float[Tensor, " n"] | None = None,
    whitening: Whitening = "none",
) -> Float[Tensor, "n g"]:
    """Advantages: rewards less a baseline.

    The baseline of "greedy" and "sampled" is the running mean over steps; that of "self-critical" the reward of the
    picture's greedy caption (Rennie et al. 2017); that of "leave-one-out" the mean of the picture's other captions
    (Kool et al. 2019); that of "group" the mean of all of them.

    With summed log-probabilities and sampled captions, "sampled", "self-critical" and "leave-one-out" give unbiased
    gradients of the mean reward, "group" gives (g - 1) / g of it. "greedy" scores the caption that no dice were thrown
    for, and follows no gradient of the mean reward: a caption that is never the likeliest is never tried. Whitening
    scales a gradient by one over the spread of rewards, so that its expectation is that of no fixed objective.

    Args:
        values: reward of each of g captions of n pictures.
        estimator: which baseline.
        running: see `RunningMean`, before this step.
        greedy: reward of the greedy captions, for "self-critical".
        whitening: divide by the standard deviation of a picture's rewards ("group") or of all ("batch"); where there
            is no spread, advantages are 0 for "group", and as they are for "batch".

    Raises:
        ShapeError: fewer captions per picture than the estimator needs, or no greedy rewards where it needs them.

    >>> advantages(torch.tensor([[1.0, 0.0, 2.0]]), "leave-one-out")
    tensor([[ 0.0000, -1.5000,  1.5000]])
    """
    if values.ndim != 2 or values.shape[1] < (least := least_samples(estimator, whitening)):
        got = f"rewards of shape {tuple(values.shape)}"
        raise ShapeError(explain(got, f"(pictures, captions), at least {least} captions for {estimator}"))
    if estimator == "self-critical":
        if greedy is None or greedy.shape != values.shape[:1]:
            got = "no greedy rewards" if greedy is None else f"greedy rewards of shape {tuple(greedy.shape)}"
            raise ShapeError(explain(got, f"one per picture, ({len(values)},)"))
        above = values - greedy[:, None]
    elif estimator in ("leave-one-out", "group"):
        above = values - values.mean(dim=1, keepdim=True)
        if estimator == "leave-one-out":  # the mean of the others is further off than that of all
            above = above * (values.shape[1] / (values.shape[1] - 1))
    else:
        above = values - running
    if whitening == "group":
        spread = values.std(dim=1, keepdim=True)
        return torch.where(spread > LEAST_SPREAD, above / spread.clamp_min(LEAST_SPREAD), 0.0)
    if whitening == "batch" and values.numel() > 1:
        spread = above.std()
        # Centred as well: what is left of a baseline that fits no batch goes with the spread.
        return (above - above.mean()) / spread if spread > LEAST_SPREAD else above
    return above


def caption_scores_of(
    log_probabilities: Float[Tensor, "b t"], mask: Bool[Tensor, "b t"], length: Length
) -> Float[Tensor, " b"]:
    """Log-probability of captions from those of their tokens; 0 for an empty caption.

    The mean over tokens is the paper's. Its gradient weighs a caption by one over its length, so that REINFORCE with it
    is unbiased only among captions of one length (times that length); the sum is unbiased.

    >>> tokens, mask = torch.tensor([[-1.0, -3.0]]), torch.ones(1, 2, dtype=torch.bool)
    >>> caption_scores_of(tokens, mask, "mean"), caption_scores_of(tokens, mask, "sum")
    (tensor([-2.]), tensor([-4.]))
    """
    total = torch.where(mask, log_probabilities, 0.0).sum(dim=1)
    return total if length == "sum" else total / mask.sum(dim=1).clamp_min(1)


def reinforce(advantage: Float[Tensor, " b"], scores: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """REINFORCE loss: minus the mean of advantage, a constant, times log-probability (Williams 1992)."""
    return -(advantage.detach() * scores).mean()


def penalised(
    values: Float[Tensor, " b"],
    scores: Float[Tensor, " b"],
    start: Float[Tensor, " b"] | None,
    *,
    kl: float,
    entropy: float,
) -> Float[Tensor, " b"]:
    """Rewards less `kl` times log p - log p_start ("k1"), less `entropy` times log p, as constants.

    In expectation over captions of the model the two are KL(model || start) and minus the entropy. A reward that has
    them gives the gradient of reward - kl * KL + entropy * H with any unbiased estimator. As terms of a loss they would
    give none: the mean of the gradient of log p is 0.
    """
    values = values - entropy * scores.detach() if entropy else values
    if not kl or start is None:
        return values
    return values - kl * (scores - start).detach()


def k1(
    log_probabilities: Float[Tensor, "b t"], start: Float[Tensor, "b t"], mask: Bool[Tensor, "b t"]
) -> Float[Tensor, ""]:
    """KL to the start, nats per token: the mean of log p - log q over sampled tokens; unbiased, may be below 0."""
    gap = torch.where(mask, log_probabilities - start, 0.0)
    return gap.sum() / mask.sum().clamp_min(1)


def k3(
    log_probabilities: Float[Tensor, "b t"], start: Float[Tensor, "b t"], mask: Bool[Tensor, "b t"]
) -> Float[Tensor, ""]:
    """KL to the start, nats per token: the mean of q/p - 1 - log(q/p) over sampled tokens; unbiased, never below 0.

    As a term of a loss its gradient is, in expectation over the sampled token, that of KL(start || model) instead of
    KL(model || start): the two agree to first order where the models do (Schulman 2020, "Approximating KL divergence").
    """
    gap = torch.where(mask, start - log_probabilities, 0.0)
    return (torch.expm1(gap) - gap).sum() / mask.sum().clamp_min(1)
