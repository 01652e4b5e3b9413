"""Gradients of every estimator against enumeration: all captions of a two-word vocabulary, at most two words long."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trimtab.errors import ShapeError
from trimtab.refer.captions.estimators import (
    RunningMean,
    advantages,
    caption_scores_of,
    k1,
    k3,
    penalised,
    reinforce,
)
from trimtab.refer.captions.rewards import listener_rewards

END = 2
CAPTIONS = [(END,), (0, END), (1, END), (0, 0), (0, 1), (1, 0), (1, 1)]
WORTH = torch.tensor([0.1, 2.0, -0.5, 0.7, 1.5, -1.0, 0.3], dtype=torch.float64)
LENGTHS = torch.tensor([len(caption) for caption in CAPTIONS], dtype=torch.float64)


def a_speaker(seed: int = 0) -> Tensor:
    """Logits of the next word at the beginning, after word 0 and after word 1."""
    values = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_()


def tokens_of(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each token of each caption (7, 2), and which tokens are there."""
    table, rows = torch.log_softmax(logits, dim=1), []
    for caption in CAPTIONS:
        places = [0, *(1 + word for word in caption[:-1])]
        row = [table[place, word] for place, word in zip(places, caption, strict=True)]
        rows.append(torch.stack([*row, *[torch.zeros(())] * (2 - len(row))]))
    return torch.stack(rows), torch.tensor([[True, len(caption) == 2] for caption in CAPTIONS])


def gradient(logits: Tensor, value: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(value, logits, retain_graph=True)
    return slope


def exact(logits: Tensor, worth: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Gradient of the mean reward, by enumeration; a reward may be a function of the log-probability."""
    tokens, mask = tokens_of(logits)
    scores = caption_scores_of(tokens, mask, "sum")
    values = WORTH if worth is None else worth(scores)
    return gradient(logits, (scores.exp() * values).sum())


def expected(
    logits: Tensor, samples: int, shaped: dict[str, Any] | None = None, length: Any = "sum", **how: Any
) -> Tensor:
    """Expected gradient of the loss over all draws of `samples` captions, with its sign turned."""
    tokens, mask = tokens_of(logits)
    scores, chance = (caption_scores_of(tokens, mask, kind) for kind in (length, "sum"))
    total = torch.zeros_like(logits)
    for draw in itertools.product(range(len(CAPTIONS)), repeat=samples):
        rows = list(draw)
        values = penalised(WORTH[rows], scores[rows], **shaped) if shaped else WORTH[rows]
        advantage = advantages(values[None], **how)[0]
        probability = chance[rows].sum().exp().detach()
        total -= probability * gradient(logits, reinforce(advantage, scores[rows]))
    return total


GREEDY = WORTH[3:4]
UNBIASED = {
    "leave-one-out": {},
    "sampled": {"running": 0.4},
    "self-critical": {"greedy": GREEDY},
}


@pytest.mark.parametrize("estimator", UNBIASED)
def test_sampled_estimators_are_unbiased(estimator: str) -> None:
    logits = a_speaker()
    found = expected(logits, 2, estimator=estimator, **UNBIASED[estimator])
    assert torch.allclose(found, exact(logits), atol=1e-12, rtol=1e-10)


def test_three_samples_leave_one_out_are_unbiased() -> None:
    logits = a_speaker(1)
    assert torch.allclose(expected(logits, 3, estimator="leave-one-out"), exact(logits), atol=1e-12)


@pytest.mark.parametrize("samples", [2, 3])
def test_a_group_baseline_shrinks_the_gradient_by_the_share_of_others(samples: int) -> None:
    logits = a_speaker()
    found = expected(logits, samples, estimator="group")
    assert torch.allclose(found, exact(logits) * (samples - 1) / samples, atol=1e-12)
    assert not torch.allclose(found, exact(logits), atol=1e-3)


def test_the_mean_log_probability_weighs_each_caption_by_one_over_its_length() -> None:
    """Its expectation is sum p (r - J) grad log p / length, which is the gradient only among equal lengths."""
    logits = a_speaker()
    tokens, mask = tokens_of(logits)
    scores = caption_scores_of(tokens, mask, "sum")
    chance = scores.exp().detach()
    stated = gradient(logits, (chance * WORTH / LENGTHS * scores).sum())
    off = gradient(logits, (chance / LENGTHS * scores).sum()) * 0.4
    found = expected(logits, 2, estimator="sampled", length="mean", running=0.4)
    assert torch.allclose(found, stated - off, atol=1e-12)
    assert not torch.allclose(found, exact(logits), atol=1e-3)


def test_greedy_follows_no_gradient_of_the_mean_reward() -> None:
    """It raises the likeliest caption when its reward is above the mean so far, and never tries another."""
    logits = a_speaker()
    tokens, mask = tokens_of(logits)
    scores = caption_scores_of(tokens, mask, "sum")
    best = int(scores.argmax())
    advantage = advantages(WORTH[best].reshape(1, 1), "greedy", running=0.25)
    found = -gradient(logits, reinforce(advantage[0], scores[best : best + 1]))
    assert torch.allclose(found, (WORTH[best] - 0.25) * gradient(logits, scores[best]), atol=1e-12)
    assert not torch.allclose(found, exact(logits), atol=1e-2)


@pytest.mark.parametrize("whitening", ["group", "batch"])
def test_whitening_is_biased_and_no_multiple_of_the_gradient(whitening: str) -> None:
    logits = a_speaker()
    found, truth = expected(logits, 3, estimator="group", whitening=whitening), exact(logits)
    cosine = torch.cosine_similarity(found.flatten(), truth.flatten(), dim=0)
    assert 0 < cosine < 1 - 1e-4


@pytest.mark.parametrize("whitening", ["group", "batch"])
def test_whitened_advantages_do_not_change_with_the_scale_of_rewards(whitening: Any) -> None:
    values = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, other = (advantages(each, "group", whitening=whitening) for each in (values, 3 * values + 7))
    assert torch.allclose(one, other, atol=1e-10)
    assert one.std() == pytest.approx(1, abs=0.2)


def test_kl_and_entropy_in_the_reward_are_unbiased() -> None:
    logits, start = a_speaker(), a_speaker(5).detach()
    tokens, mask = tokens_of(start)
    before = caption_scores_of(tokens, mask, "sum")
    truth = exact(logits, lambda scores: WORTH - 0.3 * (scores - before) - 0.2 * scores)
    tokens, mask = tokens_of(logits)
    scores = caption_scores_of(tokens, mask, "sum")
    found = torch.zeros_like(logits)
    for draw in itertools.product(range(len(CAPTIONS)), repeat=2):
        rows = list(draw)
        values = penalised(WORTH[rows], scores[rows], before[rows], kl=0.3, entropy=0.2)
        loss = reinforce(advantages(values[None], "leave-one-out")[0], scores[rows])
        found -= scores[rows].sum().exp().detach() * gradient(logits, loss)
    assert torch.allclose(found, truth, atol=1e-12)


def test_k1_as_a_loss_has_no_gradient_and_k3_that_of_the_reverse_divergence() -> None:
    """One token, so that captions are its three values."""
    logits = a_speaker()[0].detach().requires_grad_()
    p, q = torch.log_softmax(logits, 0), torch.log_softmax(a_speaker(5)[0].detach(), 0)
    mask = torch.ones(1, 1, dtype=torch.bool)
    slopes, means = {}, {}
    for kind in (k1, k3):
        each = [kind(p[word].reshape(1, 1), q[word].reshape(1, 1), mask) for word in range(3)]
        chances = p.exp().detach()
        slopes[kind] = sum(c * gradient(logits, value) for c, value in zip(chances, each, strict=True))
        means[kind] = float(sum(c * value.detach() for c, value in zip(chances, each, strict=True)))
        assert kind is k1 or min(float(value.detach()) for value in each) >= 0
    forward, reverse = (p.exp() * (p - q)).sum(), (q.exp() * (q - p)).sum()
    assert means[k1] == pytest.approx(float(forward.detach()), abs=1e-12)
    assert means[k3] == pytest.approx(float(forward.detach()), abs=1e-12)
    assert torch.allclose(slopes[k1], torch.zeros(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(slopes[k3], gradient(logits, reverse), atol=1e-12)


def test_a_planted_copy_of_the_target_changes_the_reward_only_without_masking() -> None:
    target, others = (
        torch.tensor([0.8], dtype=torch.float64),
        torch.tensor([[0.3, -0.2]], dtype=torch.float64),
    )
    planted, copy = torch.cat([others, target[None]], dim=1), torch.tensor([[False, False, True]])
    for kind in ("log-probability", "accuracy", "margin"):
        how: Any = {"reward": kind, "tau": 10.0}
        alone = listener_rewards(target, others, **how)
        assert torch.equal(alone, listener_rewards(target, planted, masked=copy, **how)), kind
        assert float(listener_rewards(target, planted, **how)) < float(alone) - 0.1, kind


def test_copies_cancel_in_leave_one_out_when_all_have_as_many_and_not_when_they_do_not() -> None:
    """Every picture g times in its batch costs log g whatever the caption, and no advantage sees it."""
    cosines = 4 * torch.eye(2, dtype=torch.float64)
    captions = cosines[[0, 0, 1]]  # three captions; two of picture 0, one that fits the other picture

    def log_rewards(copies: list[int]) -> Tensor:
        similar = captions[:, torch.cat([torch.full((n,), place) for place, n in enumerate(copies)])]
        return listener_rewards(similar[:, 0], similar[:, 1:])[None]

    single, double, unequal = (
        advantages(log_rewards(each), "leave-one-out") for each in ([1, 1], [2, 2], [3, 1])
    )
    assert torch.allclose(single, double, atol=1e-12)
    assert not torch.allclose(single, unequal, atol=1e-3)


def test_the_running_mean_is_read_before_its_update() -> None:
    mean = RunningMean()
    seen = []
    for values in ([[1.0, 2.0]], [[6.0]], [[0.0, 1.0]]):
        seen.append(mean.value)
        mean = mean.after(torch.tensor(values))
    assert seen == [0.0, 1.5, 3.0]
    assert mean.value == pytest.approx(2.0)


@given(st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=1, max_size=5))
def test_leave_one_out_by_brute_force_and_its_sum_is_zero(rows: list[list[float]]) -> None:
    values = torch.tensor(rows, dtype=torch.float64)
    found = advantages(values, "leave-one-out")
    for row, line in zip(rows, found.tolist(), strict=True):
        assert line == pytest.approx([one - (sum(row) - one) / 2 for one in row], abs=1e-9)
    assert torch.allclose(found.sum(1), torch.zeros(len(rows), dtype=torch.float64), atol=1e-9)


def test_equal_rewards_give_no_advantage_when_whitened() -> None:
    values = torch.full((2, 3), 0.1)
    assert advantages(values, "group", whitening="group").abs().max() == 0
    assert advantages(values, "leave-one-out", whitening="batch").abs().max() < 1e-6


def test_refusals() -> None:
    one = torch.zeros(3, 1)
    with pytest.raises(ShapeError, match=r"rewards of shape \(3, 1\).*at least 2 captions for leave-one-out"):
        advantages(one, "leave-one-out")
    with pytest.raises(ShapeError, match="at least 2 captions for sampled"):
        advantages(one, "sampled", whitening="group")
    with pytest.raises(ShapeError, match=r"got no greedy rewards, expected one per picture, \(3,\)"):
        advantages(one, "self-critical")
