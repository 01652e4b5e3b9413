"""Steering: elementwise affine maps at sites of a model, with a strength in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from torch import Tensor, nn

from trimtab.errors import ModelError, explain
from trimtab.models.hooks import checked_strength
from trimtab.models.sites import Site, resolve
from trimtab.report.page import Table, cell
from trimtab.runs.brief import one_line
from trimtab.steer import files
from trimtab.steer.maps import AffineMap, Base, check_maps, sparsity, steered

if TYPE_CHECKING:
    from trimtab.models.load import Model


@dataclass(frozen=True, eq=False)
class Steering:
    """Elementwise affine maps at sites of one model (arXiv 2503.10679).

    At strength s each site has `(1 - s) z + s (weight * z + shift)`. A steering is a value: methods give new ones.

    Attributes:
        maps: site name -> (weight (d,), shift (d,)).
        base: the model it was fitted on.
        made_by: the estimator and its settings, plain values.
    """

    maps: Mapping[str, tuple[Tensor, Tensor]]
    base: Base
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse invalid maps.

        Raises:
            ShapeError: weight and shift are not vectors of one length.
            ModelError: there is no site, one is no name, or a value is not finite.
        """
        check_maps(self.maps)

    def __repr__(self) -> str:
        sites = f"{len(self.maps)} site{'s' * (len(self.maps) != 1)}"
        made = (str(self.made_by["estimator"]),) if "estimator" in self.made_by else ()
        return one_line(
            "Steering", *made, sites, _moved(self._units().values()), f"of {Path(self.base.name).name!r}"
        )

    def _repr_html_(self) -> str:
        """The estimator, the model, and the units that each site moves, for notebooks."""
        rows = [{"site": site, "units": n, "moved": moved} for site, (moved, n) in self._units().items()]
        maker = self.made_by.get("estimator", "unknown")
        summary = f"Made by {maker} for {self.base.name}: {_moved(self._units().values())}."
        return cell("Steering", summary, Table(pd.DataFrame(rows)))

    def _units(self) -> dict[str, tuple[int, int]]:
        """Site name -> units that it moves, and all of its units."""
        return {
            name: (int(((weight != 1) | (shift != 0)).sum()), len(weight))
            for name, (weight, shift) in self.maps.items()
        }

    @property
    def sites(self) -> tuple[Site, ...]:
        """Sites of the maps."""
        return tuple(Site.parse(name) for name in self.maps)

    @contextmanager
    def on(self, model: Model | nn.Module, strength: float | Tensor = 1.0) -> Iterator[None]:
        """Run a block with the model steered.

        Args:
            model: the model it was fitted on, with or without an adapter; never changed.
            strength: in [0, 1]; a number, or (B,) one per row of the batch. Rows at 0 are bit-identical to those of the
                untouched model. Under classifier-free guidance give the unconditional half 0.

        Raises:
            ModelError: another model (see `rebased`), a strength out of range, a compiled model, or, at the end, a site
                that was never reached.
            ShapeError: not one strength per row.
        """
        amount = checked_strength(strength)
        self.check(model)
        with steered(model, self.maps, amount):
            yield

    def check(self, model: Model | nn.Module) -> None:
        """Refuse a model that this steering was not fitted on.

        Raises:
            ModelError: it lacks a site, or its weights there differ.
        """
        self.base.check(model, self.maps)

    def rebased(self, model: Model | nn.Module) -> Steering:
        """The same maps for another model with the same sites, such as a fine-tuned one.

        Widths are checked when the model runs.

        Raises:
            ModelError: the model lacks a site.
        """
        resolve(model, self.sites)
        return replace(self, base=Base.of(model, self.sites))

    def then(self, other: Steering) -> Steering:
        """Composition: this steering, then the other; order matters at sites where both act.

        At full strength it is the other after this one, exactly. Below, the composed map is toned down as a whole.

        Raises:
            ModelError: they were fitted on models that differ at a site of both.
            ShapeError: a site has different widths.
        """
        if changed := self.base.conflicts(other.base):
            got = f"steerings of {self.base.name} and {other.base.name}, which differ at {changed[0]}"
            raise ModelError(explain(got, "one model", "rebased(model) first"))
        maps = dict(self.maps)
        for name, pair in other.maps.items():
            maps[name] = _pair(AffineMap(*maps[name]).then(AffineMap(*pair))) if name in maps else pair
        base = Base(self.base.name, {**self.base.fingerprints, **other.base.fingerprints})
        made_by = {"composed": [dict(self.made_by), dict(other.made_by)]}
        return Steering(maps, base, made_by)

    def inverse(self) -> Steering:
        """Inverse steering, which undoes this one at full strength: `(z - shift) / weight`.

        Raises:
            ModelError: a weight is 0.
        """
        return self._changed(lambda one: one.inverse(), inverse=True)

    def __mul__(self, amount: float) -> Steering:
        """Scaled steering: `(1 - c) z + c T(z)`; c may be above 1 or below 0, a strength may not.

        >>> half = steering * 0.5  # doctest: +SKIP
        """
        return self._changed(lambda one: one.toned(amount), times=amount)

    __rmul__ = __mul__

    def sparsity(self) -> dict[str, float]:
        """Sparsity: site name -> share of its units that are left alone (weight exactly 1, shift exactly 0)."""
        return sparsity(self.maps)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write it as safetensors, configuration and card; see `trimtab.steer.files.save`."""
        return files.save(self.maps, self.base, self.made_by, folder)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> Steering:
        """Read it from a folder or the hub, all of it checked; see `trimtab.steer.files.read`."""
        return cls(*files.read(source, revision))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload it and say where it is; for the options see `trimtab.steer.files.push`."""
        return files.push(self.maps, self.base, self.made_by, repo_id, **options)

    def fuse(self, model: Model | nn.Module, strength: float = 1.0) -> Model:
        """A new model with the maps in its weights, at no cost when it runs; see `trimtab.steer.files.fuse`."""
        return files.fuse(self.maps, self.base, model, strength)

    def export(self, form: Literal["gguf"], path: str | Path, *, model_hint: str = "") -> Path:
        """Write a steering that only shifts residuals as a llama.cpp control vector; see `trimtab.steer.files.write`.

        Raises:
            ModelError: another form, or a steering that a control vector cannot hold.
        """
        if form != "gguf":
            raise ModelError(f"export: {explain(repr(form), repr('gguf'))}")
        return files.write(self.maps, path, model_hint or self.base.name)

    def _changed(self, change: Callable[[AffineMap], AffineMap], **how: Any) -> Steering:
        maps = {name: _pair(change(AffineMap(*pair))) for name, pair in self.maps.items()}
        return replace(self, maps=maps, made_by={**self.made_by, **how})


def _moved(units: Iterable[tuple[int, int]]) -> str:
    moved, every = map(sum, zip(*units, strict=True))
    return f"{moved} of {every} units moved"


def _pair(one: AffineMap) -> tuple[Tensor, Tensor]:
    return one.weight, one.shift
