"""Rivals of a hypernetwork: steerings of a new concept from those that were fitted to each training concept.

Mean map, nearest concept and ridge regression need no training end to end. Refinement starts LinEAS from given maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import ConfigError, DataError, ModelError, ShapeError, explain
from trimtab.models.load import Model
from trimtab.seeds import derive
from trimtab.steer.hypertransport.training import Prompts, called, prompt_examples
from trimtab.steer.lineas.lineas import LinEAS
from trimtab.steer.samples import Inputs
from trimtab.steer.steering import Steering

ALPHAS = tuple(10.0**power for power in range(-4, 5))
"""Penalties among which leave-one-out chooses."""

BATCH = 32


def concept_steerings(
    estimator: Any,
    generator: Model,
    concepts: Mapping[str, Sequence[str]],
    source: Sequence[str],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Steering]:
    """Steerings fitted to each concept by itself, by an estimator such as LinEAS or LinAcT.

    Args:
        estimator: has `fit(generator, source, target)`.
        generator: see `HyperTransport.fit`.
        concepts: names, each to prompts.
        source: generic prompts.
        seed: of the noise of prompts, the same for every concept's source.
        progress: called after each concept with how many are done, and of how many.

    Raises:
        DataError, ModelError: as `HyperTransport.fit`, and what the estimator refuses.
    """
    prompts = Prompts.checked(concepts, source)
    first, found = _inputs(generator, "source", prompts.source, seed), dict[str, Steering]()
    for name, given in zip(prompts.names, prompts.of, strict=True):
        target = _inputs(generator, called(name), given, derive(seed, "target", name))
        found[name] = estimator.fit(generator, first, target)
        if progress is not None:
            progress(len(found), len(prompts.names))
    return found


def refine(
    steering: Steering,
    generator: Model,
    source: Sequence[str],
    target: Sequence[str],
    *,
    steps: int = 20,
    estimator: LinEAS | None = None,
    seed: int = 0,
) -> Steering:
    """Steering after some steps of LinEAS that start from its maps.

    Args:
        steering: where to start, such as a hypernetwork's.
        generator: what it was made for.
        source: generic prompts.
        target: prompts of the concept.
        steps: of LinEAS.
        estimator: its other settings; None for the distance of order 1 without penalty. Sites are the steering's.
        seed: of the noise of prompts.

    Raises:
        DataError, ModelError: as `trimtab.LinEAS.fit`.
    """
    chosen = LinEAS(p=1.0, gamma=0.0) if estimator is None else estimator
    settings = replace(chosen, sites=list(steering.maps), steps=steps)
    sides = (
        _inputs(generator, what, given, derive(seed, what))
        for what, given in (("source", source), ("target", target))
    )
    return settings.fit(generator, *sides, start=steering)


def _inputs(generator: Model, what: str, prompts: Sequence[str], seed: int) -> Inputs:
    return list(prompt_examples(generator, what, prompts, seed=seed, batch_size=BATCH).batches)


@dataclass(frozen=True, eq=False)
class ConceptMaps:
    """Fitted maps of training concepts beside their embeddings.

    Attributes:
        names: of the concepts.
        embeddings: (n, e), such as `FittedHyperTransport.embeddings`.
        steerings: one a concept, of one model and at the same sites.
    """

    names: tuple[str, ...]
    embeddings: Float[Tensor, "n e"]
    steerings: tuple[Steering, ...]

    def __post_init__(self) -> None:
        """Refuse what does not fit together.

        Raises:
            DataError: fewer than two concepts.
            ShapeError: not one embedding and one steering a name.
            ModelError: steerings at other sites, or of other models.
        """
        n = len(self.names)
        if n < 2:
            raise DataError(f"concepts: {explain(n, 'at least 2')}")
        if self.embeddings.ndim != 2 or len(self.embeddings) != n or len(self.steerings) != n:
            got = f"{n} names, embeddings {tuple(self.embeddings.shape)} and {len(self.steerings)} steerings"
            raise ShapeError(explain(got, "one embedding (e,) and one steering a name"))
        first = self.steerings[0]
        for name, one in zip(self.names, self.steerings, strict=True):
            widths = {site: len(weight) for site, (weight, _) in one.maps.items()}
            if widths != {site: len(weight) for site, (weight, _) in first.maps.items()}:
                raise ModelError(
                    f"{called(name)}: {explain('maps at other sites', f'those of {self.names[0]!r:.60}')}"
                )
            if first.base.conflicts(one.base):
                raise ModelError(f"{called(name)}: {explain('a steering of another model', 'one model')}")

    def mean(self) -> Steering:
        """Mean of all maps, whatever the concept: what knowing nothing of it gives."""
        return self._steering(self._rows().mean(0), "mean of all concepts")

    def nearest(self, embedding: Float[Tensor, " e"]) -> Steering:
        """Maps of the training concept whose embedding has the largest cosine.

        Raises:
            ShapeError: an embedding of another width.
        """
        row = _checked(embedding, self.embeddings)
        cosines = torch.nn.functional.cosine_similarity(self.embeddings.double(), row[None])
        best = int(cosines.argmax())
        return self._steering(self._rows()[best], f"nearest concept: {self.names[best]}")

    def ridge(self, alpha: float | None = None) -> RidgeMaps:
        """Ridge regression of all coordinates of the maps on the embedding.

        Args:
            alpha: the penalty; None for the one of `ALPHAS` with the least leave-one-out error, in which each
                coordinate counts by the share of its variance.

        Raises:
            ConfigError: a penalty that is not above 0.
        """
        x, y = self.embeddings.double(), self._rows()
        errors: dict[float, float] = {}
        if alpha is None:
            varies = y.std(0, correction=0)
            told = varies > 1e-12 * y.abs().amax(0).clamp_min(1e-300)
            scaled = y[:, told] / varies[told]
            errors = {one: float(leave_one_out(x, scaled, one).square().mean()) for one in ALPHAS}
            alpha = min(errors, key=lambda one: errors[one]) if bool(told.any()) else ALPHAS[0]
        coefficients, intercept = ridge(x, y, alpha)
        return RidgeMaps(self, coefficients, intercept, alpha, errors)

    def _rows(self) -> Float[Tensor, "n q"]:
        """All coordinates of each concept's maps: (weight - 1) and shift, site after site."""
        return torch.stack([_row(one) for one in self.steerings])

    def _steering(self, row: Float[Tensor, " q"], how: str, **facts: Any) -> Steering:
        maps, place = dict[str, tuple[Tensor, Tensor]](), 0
        for site, (weight, shift) in self.steerings[0].maps.items():
            d = len(weight)
            change, moved = row[place : place + d], row[place + d : place + 2 * d]
            maps[site], place = ((1 + change).to(weight.dtype), moved.to(shift.dtype)), place + 2 * d
        made_by = {"estimator": how, "of": self.steerings[0].made_by.get("estimator", "unknown"), **facts}
        return Steering(maps, self.steerings[0].base, made_by)


@dataclass(frozen=True, eq=False)
class RidgeMaps:
    """Ridge regression from an embedding to the coordinates of maps.

    Attributes:
        known: what it was fitted to.
        coefficients: (e, q).
        intercept: (q,).
        alpha: the penalty.
        errors: of leave-one-out, by penalty, as shares of variance; empty where the penalty was given.
    """

    known: ConceptMaps
    coefficients: Float[Tensor, "e q"]
    intercept: Float[Tensor, " q"]
    alpha: float
    errors: Mapping[float, float]

    def __call__(self, embedding: Float[Tensor, " e"]) -> Steering:
        """Steering of a new concept.

        Raises:
            ShapeError: an embedding of another width.
        """
        row = _checked(embedding, self.known.embeddings) @ self.coefficients + self.intercept
        return self.known._steering(row, "ridge regression", alpha=self.alpha)


def ridge(
    x: Float[Tensor, "n e"], y: Float[Tensor, "n q"], alpha: float
) -> tuple[Float[Tensor, "e q"], Float[Tensor, " q"]]:
    """Ridge regression with an intercept that is not penalised: coefficients and intercept.

    The minimiser of ||y - x B - 1 c||^2 + alpha ||B||^2 (Hoerl & Kennard 1970), by the singular values of centred x.

    Raises:
        ConfigError: a penalty that is not a finite number above 0.

    >>> x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [4.0]])
    >>> round(ridge(x, y, 2.0)[0].item(), 4)
    1.0
    """
    _check_alpha(alpha)
    centre, middle = x.mean(0), y.mean(0)
    left, size, right = torch.linalg.svd(x - centre, full_matrices=False)
    shrunk = size / (size.square() + alpha)
    coefficients = right.T @ (shrunk[:, None] * (left.T @ (y - middle)))
    return coefficients, middle - centre @ coefficients


def leave_one_out(x: Float[Tensor, "n e"], y: Float[Tensor, "n q"], alpha: float) -> Float[Tensor, "n q"]:
    """Errors at each row of a ridge regression that was fitted to all the others, in closed form.

    The residual over 1 - h, with h the leverage of the row, the intercept's 1/n in it (Golub, Heath & Wahba 1979).

    Raises:
        ConfigError: a penalty that is not a finite number above 0.
    """
    _check_alpha(alpha)
    left, size, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    kept, gap = size.square() / (size.square() + alpha), y - y.mean(0)
    residual = gap - left @ (kept[:, None] * (left.T @ gap))
    leverage = 1 / len(x) + (left.square() * kept).sum(1)
    errors: Tensor = residual / (1 - leverage)[:, None]
    return errors


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < float("inf"):
        raise ConfigError(f"alpha: {explain(alpha, 'a finite number above 0')}")


def _row(steering: Steering) -> Float[Tensor, " q"]:
    parts = [
        part for weight, shift in steering.maps.values() for part in (weight.double() - 1, shift.double())
    ]
    return torch.cat(parts)


def _checked(embedding: Tensor, known: Tensor) -> Tensor:
    if embedding.shape != known.shape[1:]:
        raise ShapeError(explain(f"an embedding of shape {tuple(embedding.shape)}", f"({known.shape[1]},)"))
    return embedding.double()
