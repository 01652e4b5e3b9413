"""Study of a hypernetwork beside its rivals: fits, kept piece by piece, so that a killed run goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from trimtab.models.load import Model
from trimtab.runs.atomic import write_atomic
from trimtab.runs.serialise import read_object, to_json
from trimtab.seeds import derive
from trimtab.steer.estimators import GaussianAcT, LinAcT, MeanAcT
from trimtab.steer.hypertransport.concept_file import ConceptDraw, ConceptRow
from trimtab.steer.hypertransport.conditions import Condition
from trimtab.steer.hypertransport.fitted import FittedHyperTransport
from trimtab.steer.hypertransport.hypertransport import HyperTransport
from trimtab.steer.hypertransport.judging import Judge
from trimtab.steer.hypertransport.measuring import HYPER, LINEAS, MEAN, NEAREST, ORACLE, RIDGE, Measure
from trimtab.steer.hypertransport.oracle import picture_oracle
from trimtab.steer.hypertransport.rivals import BATCH, ConceptMaps, RidgeMaps
from trimtab.steer.hypertransport.training import called, prompt_examples
from trimtab.steer.lineas.lineas import LinEAS
from trimtab.steer.samples import Inputs
from trimtab.steer.steering import Steering

PAUSE = 10
"""Usual steps that a pause of the machine counts as, at most."""
HYPERNETWORK = "hypernetwork"
"""Folder of the fitted hypernetwork, in the artifacts of a run."""
Maps = LinAcT | GaussianAcT | MeanAcT
Shown = Literal["prompts", "name"]


@dataclass
class Steps:
    """Counter of the steps of all parts of a study.

    Attributes:
        tell: called with the steps done and in all.
        total: in all.
        done: so far.
    """

    tell: Callable[[int, int], None]
    total: int
    done: int = 0

    def reach(self, step: int) -> None:
        """Tell that a step is done; one that was done before is not told again."""
        if step > self.done:
            self.done = step
            self.tell(min(step, self.total), self.total)


@dataclass(frozen=True)
class Rivals:
    """Rivals of the hypernetwork: maps of the training concepts by formula, beside their embeddings.

    Attributes:
        maps: of each training concept.
        ridge: from embeddings to them.
        seconds: of fitting them.
    """

    maps: ConceptMaps
    ridge: RidgeMaps
    seconds: float


@dataclass(frozen=True, eq=False)
class Study:
    """Study of one generator, in a folder.

    Attributes:
        generator: the model.
        folder: for finished parts.
        concepts: of this run.
        source: generic prompts to fit with.
        settings: of the hypernetwork.
        lineas: fitted to each measured concept; None for no rivals.
        maps: closed form of each training concept.
        condition: what the hypernetwork reads of a new concept: its prompts, averaged, or its name.
        seed: of noise.
        steps: counter.
    """

    generator: Model
    folder: Path
    concepts: ConceptDraw
    source: tuple[str, ...]
    settings: HyperTransport
    lineas: LinEAS | None
    maps: Maps
    condition: Shown
    seed: int
    steps: Steps
    _inputs: dict[str, Inputs] = field(default_factory=dict)

    def fit(self) -> tuple[FittedHyperTransport, float]:
        """The hypernetwork, and the seconds that its training takes: of a step, times the steps.

        A step's seconds are those of this process, pauses of the machine left out; nan where another one did them all.
        """
        known = self.folder / "training.json"
        started, times = time.perf_counter(), list[float]()

        def progress(step: int, steps: int, loss: float) -> None:  # noqa: ARG001
            times.append(time.perf_counter())
            self.steps.reach(step)

        concepts = {row.name: list(row.prompts) for row in self.concepts.train}
        fitted = self.settings.fit(
            self.generator, concepts, list(self.source), out=self.folder / "fit", progress=progress
        )
        if known.is_file():
            seconds = read_object(known)["seconds"]
        else:
            setup = times[0] - started if times else math.nan
            seconds = setup + usual_mean(np.diff(times)) * (len(fitted.losses) - 1)
            write_atomic(known, to_json({"seconds": seconds}))
        fitted.save_pretrained(self.folder / HYPERNETWORK)
        return fitted, math.nan if seconds is None else float(seconds)

    def rivals(self, fitted: FittedHyperTransport) -> Rivals | None:
        """Maps of each training concept and ridge regression on them; None where no rival is asked for."""
        if self.lineas is None:
            return None
        found, seconds, start = list[Steering](), 0.0, len(fitted.losses)
        estimator = replace(self.maps, sites=self.settings.sites, pool=self.settings.pool)
        for place, row in enumerate(self.concepts.train):
            kept = self.folder / "maps" / f"{place:05d}"
            if not kept.is_dir():
                began = time.perf_counter()
                steering = estimator.fit(self.generator, self._of("source"), self._of("target", row))
                made_by = dict(steering.made_by) | {"seconds": time.perf_counter() - began}
                replace(steering, made_by=made_by).save_pretrained(kept)
            found.append(Steering.from_pretrained(str(kept)))
            seconds += float(found[-1].made_by["seconds"])
            self.steps.reach(start + place + 1)
        maps = ConceptMaps(fitted.concepts, fitted.embeddings, tuple(found))
        return Rivals(maps, maps.ridge(), seconds)

    def measured(
        self, place: int, fitted: FittedHyperTransport, rivals: Rivals | None, measure: Measure
    ) -> dict[str, Any]:
        """A measured concept: rows of the table, samples and facts; read where it was measured before."""
        kept, row = self.folder / "measured" / f"{place:05d}.json", self.concepts.measured[place]
        start = len(fitted.losses) + (len(self.concepts.train) if rivals else 0)
        each = 1 + (self.lineas.settled().steps or 0 if self.lineas else 0)
        if not kept.is_file():
            began = time.perf_counter()
            condition: Condition = row.name if self.condition == "name" else list(row.prompts)
            steerings = {HYPER: fitted(condition)}
            made_by = steerings[HYPER].made_by
            facts = {
                "concept": row.name,
                "novelty": made_by["novelty"],
                "nearest": made_by["nearest_concept"],
            }
            facts[f"{HYPER}_seconds"] = time.perf_counter() - began
            if rivals is not None and self.lineas is not None:
                began = time.perf_counter()
                steerings[LINEAS] = self._lineas(row, place, start + each * place)
                facts[f"{LINEAS}_seconds"] = time.perf_counter() - began
                embedding = fitted.embedding(condition)
                steerings[RIDGE] = rivals.ridge(embedding)
                steerings[NEAREST] = rivals.maps.nearest(embedding)
                steerings[MEAN] = rivals.maps.mean()
            if (
                rivals is not None
                and measure.judge is not None
                and (best := self._oracle(row, measure.judge))
            ):
                steerings[ORACLE] = best
            rows, samples = measure.of(row, steerings)
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(kept, to_json({"rows": rows, "samples": samples, "facts": facts}))
        self.steps.reach(start + each * (place + 1))
        return read_object(kept)

    def _lineas(self, row: ConceptRow, place: int, start: int) -> Steering:
        assert self.lineas is not None
        estimator = replace(self.lineas, sites=self.settings.sites, pool=self.settings.pool)
        return estimator.fit(
            self.generator,
            self._of("source"),
            self._of("target", row),
            out=self.folder / "lineas" / f"{place:05d}",
            progress=lambda step, steps, loss: self.steps.reach(start + step),  # noqa: ARG005
        )

    def _oracle(self, row: ConceptRow, judge: Judge) -> Steering | None:
        truth = lambda prompts, seed: judge.truth(prompts, row.values, seed)  # noqa: E731
        given: Any = {"sites": self.settings.sites, "seed": derive(self.seed, "oracle", row.name)}
        return picture_oracle(self.generator, truth, self.source, **given)

    def _of(self, what: str, row: ConceptRow | None = None) -> Inputs:
        """Batches of the generic prompts, or of those of a concept, with noise of their own."""
        if row is None and what in self._inputs:
            return self._inputs[what]
        seed = derive(self.seed, what, row.name if row else "")
        prompts = row.prompts if row else self.source
        given: Any = {"seed": seed, "batch_size": BATCH, "max_tokens": self.settings.max_tokens}
        batches = list(
            prompt_examples(self.generator, called(row.name) if row else what, prompts, **given).batches
        )
        if row is None:
            self._inputs[what] = batches
        return batches


def usual_mean(seconds: Float[np.ndarray, " n"]) -> float:
    """Mean time of a step, in which a pause of the machine counts as ten usual steps; 0 without any step.

    >>> usual_mean(np.array([1.0, 1.0, 1.0, 600.0]))
    3.25
    """
    if not len(seconds):
        return 0.0
    return float(np.minimum(seconds, PAUSE * np.median(seconds)).mean())


def facts_of(pieces: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a measured concept, with nan for seconds that no fit took."""
    return {f"{LINEAS}_seconds": math.nan, **pieces["facts"]}
