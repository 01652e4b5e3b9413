"""LinEAS: maps at many sites learned together, end to end, from unpaired samples (arXiv 2503.10679).

A fit that was killed goes on from its last checkpoint.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from trimtab.errors import CheckpointError, DivergedError, ModelError, Problem, explain
from trimtab.models.batches import Pool
from trimtab.models.inspection import check_model
from trimtab.models.load import Model
from trimtab.models.sites import network_of, resolve
from trimtab.runs.brief import brief
from trimtab.runs.serialise import differences, plain
from trimtab.steer.estimators import costs, refuse, setting_problems, steering_of
from trimtab.steer.lineas.end_to_end import Descent, EndToEnd, Optimizer, State
from trimtab.steer.maps import AffineMap, fingerprint
from trimtab.steer.samples import Inputs, Normalisation, Scale, prepare, running, samples
from trimtab.steer.steering import Steering
from trimtab.train.state import Snapshot, checkpoints, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from trimtab.steer.samples import Examples


@dataclass(frozen=True)
class KeptFit:
    """Checkpoints of one fit.

    Attributes:
        folder: where they are; None keeps nothing.
        identity: settings, sites and fingerprints of examples and model, JSON values: what makes it this fit.
        every: steps between checkpoints.
    """

    folder: Path | None
    identity: Mapping[str, Any]
    every: int = 50

    def last(self) -> tuple[State, list[float]] | None:
        """Newest checkpoint: the state and the losses up to it; None where there is none.

        Raises:
            CheckpointError: the folder holds another fit (what differs is named), or is damaged.
        """
        kept = checkpoints(self.folder) if self.folder is not None else []
        if not kept:
            return None
        snapshot, extra = load_checkpoint(kept[-1])
        pairs = differences(extra["identity"], dict(self.identity))
        if changes := "; ".join(f"{key} (was {was!r}, now {now!r})" for key, was, now in pairs):
            hint = "try another folder, or the same settings"
            raise CheckpointError(f"{self.folder} holds another fit: {changes}; {hint}")
        moments = snapshot.moments
        mean, square = ({site: moments[site][key] for site in moments} for key in ("mean", "square"))
        return State(snapshot.step, dict(snapshot.parameters), mean, square), list(extra["losses"])

    def save(self, state: State, losses: list[float], *, final: bool = False) -> None:
        """Write a checkpoint, every so many steps and at the end.

        Raises:
            CheckpointError: the disk is full; what was kept before is intact.
        """
        if self.folder is None or (state.step % self.every and not final):
            return
        moments = {site: {"mean": state.mean[site], "square": state.square[site]} for site in state.point}
        snapshot = Snapshot(state.step, state.point, moments, stream={}, rng={})
        save_checkpoint(self.folder, snapshot, {"identity": dict(self.identity), "losses": losses})


Preset = Literal["default", "paper"]
Progress = Callable[[int, int, float], None]
"""Called with the step, from 1, the number of steps, and the loss before that step."""

PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "default": {"gamma": 0.3, "steps": 200, "lr": 0.05, "normalisation": "scale-free", "optimizer": "adam"},
    "paper": {"gamma": 0.0, "steps": 1000, "lr": 0.1, "normalisation": "paper", "optimizer": "sgd"},
}
"""What a setting that is None stands for."""


@dataclass(frozen=True)
class LinEAS:
    """LinEAS: elementwise affine maps from source to target, learned at all sites at once (arXiv 2503.10679).

    Source examples run through the maps, and the transport cost between what they then look like and what target
    examples look like is lowered, summed over sites and units. Examples need not be paired. Settings that are None
    are the preset's; `preset="paper"` gives the published ones.

    Attributes:
        sites: where maps are, see `trimtab.models.sites.resolve`. The paper has norms; the default is the one before
            each MLP.
        gamma: weight of the sparse group lasso on (weight - 1) and on the shift, two groups for each site; the larger,
            the fewer units are touched. In the scale-free normalisation a unit moves only where its cost changes by
            more than about gamma per target standard deviation. 0 switches it off, as the paper's preset does; .3 by
            default.
        preset: "default" or "paper".
        steps: full-batch steps.
        lr: first step size of a cosine schedule.
        normalisation: "scale-free" counts costs in target variances and shifts in target standard deviations around
            the source mean, unit by unit; "paper" takes activations as they are.
        optimizer: "adam" with one step size for each group, or "sgd"; see `trimtab.steer.lineas.end_to_end.Descent`.
        p: order of the transport distance.
        loss_sites: where costs are measured; None for the sites themselves.
        pool: one vector per example: the mean over its tokens or positions, the largest, or the last token.
        stop_gradient: an ablation: each site sees its inputs as constants, so maps are fitted locally.
        batch_size: texts held in the graph at a time; the loss is of all of them whatever this is.
        max_tokens: longer texts are cut; None refuses those beyond the model's limit.
        seed: of models that draw random numbers in their forward pass; no other part of a fit draws any.
    """

    sites: str | Sequence[str] = "pre_mlp_norm"
    gamma: float | None = None
    preset: Preset = "default"
    steps: int | None = None
    lr: float | None = None
    normalisation: Normalisation | None = None
    optimizer: Optimizer | None = None
    p: float = 2.0
    loss_sites: str | Sequence[str] | None = None
    pool: Pool = "mean"
    stop_gradient: bool = False
    batch_size: int = 32
    max_tokens: int | None = None
    seed: int = 0
    kind: Literal["lineas"] = "lineas"

    __repr__ = brief

    def fit(
        self,
        model: Model | nn.Module,
        source: Inputs,
        target: Inputs,
        *,
        start: Steering | None = None,
        out: str | Path | None = None,
        progress: Progress | None = None,
    ) -> Steering:
        """The maps that take source to target.

        The model is untouched: weights, gradients, modes, hooks and the caller's random generators.

        Args:
            model: a handle; a bare module will do where examples are no texts.
            source: how it behaves: two texts at least, or batches of forward keywords.
            target: how it should; the number may differ.
            start: maps to start from, at the sites of this fit; None starts at the identity.
            out: a folder for checkpoints. A fit that was killed goes on from there, to the same maps bit by bit; a
                finished one is read.
            progress: called after each step.

        Returns:
            A steering. Its `made_by` has the settings, `losses` (one per step, before it) and, by loss site, `cost`:
            the mean transport cost per unit before and after, in target variances.

        Raises:
            ConfigError: a setting is wrong; all are named at once.
            DataError: a side is empty or too small.
            ModelError: a site that is not there, activations that are not finite, a map that no loss site depends on,
                or a start at other sites or of another model.
            DivergedError: the loss left the finite numbers.
            CheckpointError: `out` holds another fit.
        """
        settled = self.settled()
        check_model(model, "gradients")
        first, second = prepare(model, source, target, batch_size=self.batch_size, max_tokens=self.max_tokens)
        problem = settled._problem(model, first, second)
        begin = problem.start(settled._start(model, problem, start))
        identity = {
            "settings": plain(asdict(settled)),
            "sites": [site.name for site in problem.sites],
            "source": first.fingerprint,
            "target": second.fingerprint,
            "model": Model(network_of(model), None, "").fingerprint(),
            **({} if start is None else {"start": fingerprint(start.maps)}),
        }
        kept = KeptFit(None if out is None else Path(out), identity)
        state, losses = settled._descend(problem, begin, kept, progress)
        if not all(point.isfinite().all() for point in state.point.values()):
            raise settled._diverged(losses)
        maps = problem.maps(state.point)
        after = samples(model, problem.source, problem.loss_sites, settled.pool, maps)
        cost = costs(problem.before, after, problem.target)
        settled._warn_of_a_rise(cost)
        return steering_of(settled, model, maps, cost, losses=losses)

    def problems(self) -> Iterator[Problem]:
        """Settings that cannot work."""
        yield from setting_problems(self)
        if self.stop_gradient and self.loss_sites is not None:
            got, hint = "loss_sites beside stop_gradient", "loss_sites=None"
            yield Problem("loss_sites", got, "costs at the sites themselves", hint)

    def settled(self) -> LinEAS:
        """Resolved settings: the preset's value for every one that is None.

        Raises:
            ConfigProblems: settings that cannot work.
        """
        refuse(self.problems())
        chosen = {name: value for name, value in PRESETS[self.preset].items() if getattr(self, name) is None}
        return replace(self, **chosen)

    def _problem(self, model: Model | nn.Module, source: Examples, target: Examples) -> EndToEnd:
        sites = resolve(model, self.sites)
        loss_sites = sites if self.loss_sites is None else resolve(model, self.loss_sites)
        both = tuple(dict.fromkeys((*sites, *loss_sites)))
        before, wanted = (samples(model, side, both, self.pool) for side in (source, target))
        how = self.normalisation or "scale-free"
        scales = {site: Scale.of(before[site], wanted[site], how) for site in before}
        settings: Any = {name: getattr(self, name) for name in ("pool", "p", "stop_gradient", "seed")}
        return EndToEnd(model, sites, loss_sites, source, before, wanted, scales, **settings)

    def _start(
        self, model: Model | nn.Module, problem: EndToEnd, start: Steering | None
    ) -> dict[str, AffineMap] | None:
        if start is None:
            return None
        start.check(model)
        if set(start.maps) != (sites := {site.name for site in problem.sites}):
            other = min(set(start.maps) ^ sites)
            got = f"a start {'with' if other in start.maps else 'without'} {other}"
            raise ModelError(explain(got, "maps at the sites of this fit", "sites=list(start.maps)"))
        return {site: AffineMap(*pair) for site, pair in start.maps.items()}

    def _descend(
        self, problem: EndToEnd, begin: State, kept: KeptFit, progress: Progress | None
    ) -> tuple[State, list[float]]:
        """All steps, from the last checkpoint on."""
        descent = Descent(**{field.name: getattr(self, field.name) for field in fields(Descent)})
        state, losses = kept.last() or (begin, [])
        state = state.on_devices_of(begin)
        if state.step == descent.steps:
            return state, losses
        with running(problem.model, grad=True), problem.in_place():
            while state.step < descent.steps:
                loss, gradient = problem.gradient(state.point)
                if not math.isfinite(loss) or not all(slope.isfinite().all() for slope in gradient.values()):
                    raise self._diverged(losses)
                state = descent.after(state, gradient)
                losses.append(loss)
                kept.save(state, losses, final=state.step == descent.steps)
                if progress is not None:
                    progress(state.step, descent.steps, loss)
        return state, losses

    def _warn_of_a_rise(self, cost: Mapping[str, tuple[float, float]]) -> None:
        """Warn where the maps make source and target less alike, over all sites."""
        before, after = (fmean(pair[end] for pair in cost.values()) for end in (0, 1))
        if after > before:
            got = f"LinEAS: the mean cost rose from {before:.3g} to {after:.3g} in {self.steps} steps"
            warnings.warn(f"{got}; try a lower lr than {self.lr:g}, or more steps", stacklevel=3)

    def _diverged(self, losses: Sequence[float]) -> DivergedError:
        n = len(losses)
        last = f"the last finite loss was {losses[-1]:.4g} at step {n - 1}" if losses else "at the start"
        advice = f"a lower lr than {self.lr:g}"
        if self.normalisation == "paper":
            advice += ', or normalisation="scale-free"'
        at = f"LinEAS: the loss of step {n} or its gradient is not finite ({last})"
        return DivergedError(f"{at}; try {advice}")
