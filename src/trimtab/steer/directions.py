"""Steering directions added to activations: mean differences (CAA) and classifiers (ITI)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.errors import ModelError, Problem, explain
from trimtab.models.batches import Pool
from trimtab.models.families import text_config, towers, unwrapped
from trimtab.models.sites import network_of
from trimtab.runs.brief import brief
from trimtab.steer.estimators import Checked, at_each_site, fit_maps, mean_map, setting_problems
from trimtab.steer.maps import AffineMap
from trimtab.steer.samples import Inputs, Samples
from trimtab.steer.steering import Steering

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

    from trimtab.models.load import Model

FOLDS = 4
"""Folds of the cross-validation by which heads are chosen."""

SHARE_OF_HEADS = 48 / 1024
"""Share of heads that ITI moves by default, as in its paper."""

Variant = Literal["c", "heads"]


@dataclass(frozen=True)
class CAA(Checked):
    """Contrastive activation addition: the mean difference, added to the residual (Rimsky et al., arXiv 2312.06681).

    Every site gets its own difference, on the untouched model. Differences at several sites add up on their way: the
    paper uses one block, such as `residual.13`.

    Attributes:
        sites: where shifts are, see `trimtab.models.sites.resolve`.
        position: "last" reads the last token of each example, as in the paper; "mean" all of them.
        batch_size: texts at a time.
        max_tokens: longer texts are cut; None refuses those beyond the model's limit.
    """

    sites: str | Sequence[str] = "residual"
    position: Literal["last", "mean"] = "last"
    batch_size: int = 32
    max_tokens: int | None = None
    kind: Literal["caa"] = "caa"

    __repr__ = brief

    def fit(self, model: Model | nn.Module, source: Inputs, target: Inputs) -> Steering:
        """The shifts from source to target; see `trimtab.steer.estimators.fit_maps` for what is refused."""
        return fit_maps(self, at_each_site(mean_map), model, source, target, pool=self.position)


@dataclass(frozen=True)
class ITI:
    """Inference-time intervention: a shift along a classifier's direction (Li et al. 2023, arXiv 2306.03341).

    A logistic regression tells target from source examples; activations move along its direction by `alpha` standard
    deviations of what both sides project to.

    Attributes:
        sites: where shifts are; None for `attention_out` and, with heads, what that reads (`attention_out:in`).
        variant: "c" fits one classifier for each site (the form that arXiv 2503.10679 compares with); "heads" is the
            original: one for each attention head, and only the heads whose classifiers do best on examples they were
            not fitted on are moved.
        alpha: standard deviations at strength 1. The paper moves few heads by 15.
        heads: how many heads are moved; None for 48 of 1024, rounded up, as in the paper.
        pool: one vector per example; the paper's is the last token.
        batch_size: texts at a time.
        max_tokens: longer texts are cut; None refuses those beyond the model's limit.
    """

    sites: str | Sequence[str] | None = None
    variant: Variant = "c"
    alpha: float = 1.0
    heads: int | None = None
    pool: Pool = "last"
    batch_size: int = 32
    max_tokens: int | None = None
    kind: Literal["iti"] = "iti"

    __repr__ = brief

    def fit(self, model: Model | nn.Module, source: Inputs, target: Inputs) -> Steering:
        """The shifts from source to target; see `trimtab.steer.estimators.fit_maps` for what is refused.

        Raises:
            ModelError: with heads also a model that does not say how many it has, or has fewer than asked for.
        """
        heads = self.variant == "heads"
        default = "attention_out:in" if heads else "attention_out"
        estimator = self if self.sites is not None else replace(self, sites=default)

        def rule(x: Samples, y: Samples) -> Mapping[str, AffineMap]:
            if heads:
                return head_maps(x, y, heads_of(model), self.heads, self.alpha)
            return {site: classifier_map(values, y[site], self.alpha) for site, values in x.items()}

        return fit_maps(estimator, rule, model, source, target, pool=self.pool)

    def problems(self) -> Iterator[Problem]:
        """Settings that cannot work."""
        yield from setting_problems(self)
        if self.heads is not None and self.variant != "heads":
            yield Problem("heads", str(self.heads), "nothing: variant c has none", 'variant="heads"')


def classifier_map(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"], alpha: float) -> AffineMap:
    """Shift along the direction of a logistic regression, `alpha` standard deviations long.

    The standard deviation is of the projections of both sides together.
    """
    direction = _direction(source, target)
    return AffineMap(torch.ones_like(direction), alpha * direction)


def head_maps(
    source: Samples, target: Samples, count: int, chosen: int | None, alpha: float
) -> dict[str, AffineMap]:
    """Shifts of the attention heads whose classifiers score best; every other head is left alone.

    Args:
        source: samples at sites whose units are those of one head after another.
        target: likewise.
        count: heads per site.
        chosen: how many heads to move; None for the paper's share.
        alpha: standard deviations.

    Raises:
        ModelError: a width that is no multiple of the number of heads, or fewer heads than asked for.
    """
    from sklearn.model_selection import PredefinedSplit, cross_val_score

    parts, scores = {}, {}
    for site, values in source.items():
        if values.shape[1] % count:
            got = f"{values.shape[1]} units at {site}"
            raise ModelError(explain(got, f"a multiple of {count} heads", "'attention_out:in'"))
        parts[site] = list(zip(values.chunk(count, dim=1), target[site].chunk(count, dim=1), strict=True))
        fold = np.concatenate([np.arange(len(values)), np.arange(len(target[site]))])
        split = PredefinedSplit(fold % min(FOLDS, len(values), len(target[site])))
        for k, pair in enumerate(parts[site]):
            both, labels = _labelled(*pair)
            scores[site, k] = cross_val_score(
                _classifier(), both, labels, cv=split, error_score="raise"
            ).mean()
    wanted = math.ceil(SHARE_OF_HEADS * len(scores)) if chosen is None else chosen
    if wanted > len(scores):
        raise ModelError(f"heads: {explain(wanted, f'at most {len(scores)}, which the sites have')}")
    best = set(sorted(scores, key=scores.__getitem__, reverse=True)[:wanted])
    maps = {}
    for site, pairs in parts.items():
        shifts = [
            _direction(x, y) if (site, k) in best else torch.zeros_like(x[0])
            for k, (x, y) in enumerate(pairs)
        ]
        shift = alpha * torch.cat(shifts)
        maps[site] = AffineMap(torch.ones_like(shift), shift)
    return maps


def heads_of(model: Model | nn.Module) -> int:
    """Number of attention heads of each block, from the configuration.

    Raises:
        ModelError: it does not say, or there are several towers.
    """
    network = unwrapped(network_of(model))
    count = getattr(text_config(network), "num_attention_heads", None)
    if not isinstance(count, int) or len(towers(network)) > 1:
        got = f"a {type(network).__name__}, of which we do not know the heads"
        raise ModelError(explain(got, "a transformer of one tower", 'variant="c"'))
    return count


def _direction(source: Tensor, target: Tensor) -> Float[Tensor, " d"]:
    """One standard deviation of projections, from source to target; 0 where nothing tells them apart."""
    both, labels = _labelled(source, target)
    weights = _classifier().fit(both, labels).coef_[0]
    length = float(np.linalg.norm(weights))
    unit = weights / length if length > 0 else weights
    return torch.from_numpy(unit * (both @ unit).std()).to(source)


def _classifier() -> LogisticRegression:
    """A logistic regression with scikit-learn's ridge penalty, as in the paper; to convergence."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(tol=1e-8, max_iter=10_000)


def _labelled(source: Tensor, target: Tensor) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    """Both sides, the target as the positive class."""
    both = torch.cat([source, target]).double().cpu().numpy()
    return both, np.repeat([0.0, 1.0], [len(source), len(target)])
