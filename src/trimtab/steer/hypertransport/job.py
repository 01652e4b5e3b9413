"""HyperTransport as a job: a hypernetwork on many concepts, measured on held-out ones beside its rivals."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd

from trimtab.errors import ConfigError, ConfigProblems, DataError, Problem, explain
from trimtab.job import (
    Concepts,
    Elsewhere,
    LabName,
    ModelName,
    Progress,
    Survey,
    Texts,
    noting,
    unread_source,
)
from trimtab.models.devices import device_problems
from trimtab.models.load import Model, load, name_problems
from trimtab.runs.brief import brief
from trimtab.runs.folder import RunFolder
from trimtab.runs.paths import missing_file, missing_source
from trimtab.runs.serialise import plain
from trimtab.seeds import derive, seed_problem
from trimtab.steer.estimators import LinAcT
from trimtab.steer.hypertransport.concept_file import SPLITS, ConceptDraw, ConceptRow, read_concept_rows
from trimtab.steer.hypertransport.conditions import SELF, Encoder, encoder_of
from trimtab.steer.hypertransport.fitted import FittedHyperTransport, read_config
from trimtab.steer.hypertransport.hypertransport import HyperTransport
from trimtab.steer.hypertransport.judging import ByEncoder, ByJudge, Judge, judge_of, judge_problem
from trimtab.steer.hypertransport.measuring import HYPER, LINEAS, TABLE, Measure, at_equal_input, means
from trimtab.steer.hypertransport.result import SAMPLES, HyperTransportResult
from trimtab.steer.hypertransport.study import HYPERNETWORK, Maps, Rivals, Shown, Steps, Study, facts_of
from trimtab.steer.hypertransport.training import Prompts, called, prompt_examples
from trimtab.steer.lineas.lineas import LinEAS
from trimtab.steer.samples import read_examples
from trimtab.steer.steering import Steering

JudgeName = Annotated[str, LabName("judge")]
"""A reference "module:name" to what makes a judge, or a judge of the lab."""
FILE = "a file of concepts, one JSON object a line"


@dataclass(frozen=True)
class HyperTransportConfig:
    """Config of a HyperTransport job: what it is trained on, and what it is measured by.

    Attributes:
        model: folder or hub name of a one-step generator of pictures, or of a causal language model.
        concepts: JSON lines of `{"concept": "...", "prompts": [...]}`, perhaps with "split" and "values", see
            `trimtab.steer.hypertransport.concept_file`.
        source: file of generic prompts, one a line.
        timestep: of a pipeline of diffusers, at which it makes a picture in one step; null for the last one.
        encoder: of concepts: a folder or hub name; "self" for the steered language model.
        hypertransport: settings of the hypernetwork; its encoder is the one above.
        attributes: concepts all of whose values are of these attributes; [] for all concepts.
        train: concepts to train on; null for all that are not held out.
        held_out: concepts to hold out and measure: of the splits other than "train", or drawn where there are none.
        shown_training: training concepts to measure as well.
        condition: what the hypernetwork reads of a new concept: its "prompts", averaged, or its "name".
        rivals: measure LinEAS fitted to each measured concept, and ridge, nearest and mean of the training concepts'.
        lineas: settings of LinEAS; its sites and pooling are those of the hypernetwork.
        maps: closed form of the training concepts' maps, likewise.
        strengths: of each steering, in (0, 1].
        judge: "module:name" of a judge of attributes, for exact fidelities; "" for none, then an encoder measures.
        judge_encoder: of fidelities where there is no judge; "" for the one of training.
        prompts: generic prompts to measure on, which nothing is fitted to.
        pictures: of them whose outputs the page shows.
        examples: generic prompts to fit with.
        device: null for the first accelerator, else the CPU.
        seed: of all that is drawn.
    """

    model: ModelName
    concepts: Concepts
    source: Texts
    system: Literal["hypertransport"] = "hypertransport"
    timestep: int | None = None
    encoder: ModelName = SELF
    hypertransport: HyperTransport = field(default_factory=HyperTransport)
    attributes: tuple[str, ...] = ()
    train: int | None = None
    held_out: int = 8
    shown_training: int = 2
    condition: Shown = "prompts"
    rivals: bool = True
    lineas: LinEAS = field(default_factory=lambda: LinEAS(p=1.0, gamma=0.0, steps=90))
    maps: Maps = field(default_factory=lambda: LinAcT(sequential=False))
    strengths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    judge: JudgeName = ""
    judge_encoder: ModelName = ""
    prompts: int = 32
    pictures: int = 3
    examples: int = 64
    device: str | None = None
    seed: int = 0

    result: ClassVar = HyperTransportResult

    __repr__ = brief

    def problems(self) -> Iterator[Problem]:
        """Problems of the config that show without reading a file or loading a model."""
        for name in ("hypertransport", "lineas", "maps"):
            for problem in getattr(self, name).problems():
                yield replace(problem, where=f"{name}.{problem.where}")
        if self.hypertransport.encoder != SELF:
            got = f"{self.hypertransport.encoder!s:.60}"
            yield Problem("hypertransport.encoder", got, "it one level up", "encoder:")
        least = {"held_out": 2, "shown_training": 0, "prompts": 2, "pictures": 0, "examples": 2, "train": 2}
        least["timestep"] = 0
        for name, bound in least.items():
            if (value := getattr(self, name)) is not None and value < bound:
                yield Problem(name, str(value), f"at least {bound}")
        if not self.strengths or not all(0 < one <= 1 for one in self.strengths):
            yield Problem("strengths", str(list(self.strengths)), "numbers above 0, up to 1")
        elif list(self.strengths) != sorted(set(self.strengths)):
            yield Problem("strengths", str(list(self.strengths)), "rising numbers")
        yield from self._file_problems()
        yield from device_problems(self.device)
        if problem := seed_problem("seed", self.seed):
            yield problem

    def _file_problems(self) -> Iterator[Problem]:
        yield from name_problems(self.model, pipelines=True)
        for name in ("encoder", "judge_encoder"):
            if (value := getattr(self, name)) not in ("", SELF):
                yield from name_problems(value, name)
        if not self.concepts.startswith("lab:"):
            yield from missing_file("concepts", self.concepts, FILE)
        if not self.source.startswith("lab:"):
            yield from missing_source("source", self.source, "a file of prompts, one a line", folders=False)
        if self.judge and not self.judge.startswith("lab:") and (problem := judge_problem(self.judge)):
            yield problem
        if self.judge and self.judge_encoder:
            yield Problem("judge_encoder", "it beside a judge", "one of them")

    def cost(self) -> Mapping[str, Any]:
        """Planned cost in steps: of the hypernetwork, of the rivals' fits, and one for each measured concept."""
        return self._cost(self.train or 2)

    def _cost(self, train: int) -> dict[str, Any]:
        settled, measured = self.hypertransport.settled(train), self.held_out + self.shown_training
        steps = (settled.steps or 0) + measured
        if self.rivals:
            steps += train + measured * (self.lineas.settled().steps or 0)
        return {"steps": steps, "concepts": train + self.held_out, "prompts": self.prompts}

    def survey(self) -> Survey:
        """Survey of the concepts by split and of the generic prompts; loads no model."""
        notes = [unread_source("concepts", self.concepts), unread_source("source", self.source)]
        problems, tables, cost = list[Problem](), dict[str, pd.DataFrame](), dict[str, Any]()
        if not notes[0]:
            with noting(problems, "concepts"):
                rows = read_concept_rows(self.concepts)
                tables["concepts"] = split_table(rows)
                cost = self._cost(len(self._draw(rows).train))
        if not notes[1]:
            with noting(problems, "source"):
                source, held = self._sources()
                counts = {"to fit with": len(source), "to measure on": len(held)}
                tables["generic prompts"] = pd.DataFrame([counts])
        return Survey(tables, tuple(filter(None, notes)), problems=tuple(problems), cost=cost)

    def _draw(self, rows: list[ConceptRow]) -> ConceptDraw:
        """Concepts of the run, checked as far as it goes without a model."""
        if self.attributes:
            chosen = [row for row in rows if row.values and {*row.values} <= {*self.attributes}]
            if not chosen:
                known = sorted({name for row in rows for name in row.values})
                got = f"attributes {list(self.attributes)}, of which no concept is"
                raise DataError(f"concepts: {explain(got, f'attributes among {known}')}")
            rows = chosen
        draw = ConceptDraw.of(rows, self.train, self.held_out, self.shown_training, self.seed)
        if self.judge and (bare := next((row for row in draw.measured if not row.values), None)):
            got = f"the concept {bare.name!r:.60} without values, and a judge"
            raise DataError(
                f"concepts: {explain(got, 'the values that the judge should see', 'leaving out judge')}"
            )
        checked = {row.name: row.prompts for row in (*draw.train, *draw.held_out)}
        _ = Prompts.checked(checked, ["one", "two"])
        return draw

    def _sources(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Generic prompts: to fit with, and to measure on."""
        pool = read_examples(self.source, "source", self.examples, self.prompts, self.seed)
        if other := next((one for one in (*pool.fit, *pool.held_out) if not isinstance(one, str)), None):
            raise DataError(f"source: {explain(f'a {type(other).__name__}', 'texts, one a line')}")
        return tuple(map(str, pool.fit)), tuple(map(str, pool.held_out))

    def run(self, folder: RunFolder | Elsewhere, progress: Progress) -> HyperTransportResult:
        """Fit the hypernetwork and its rivals and measure them; what is finished is kept in the folder.

        Raises:
            DataError: concepts or prompts that cannot be used.
            ModelError: a model, an encoder or sites that cannot be used.
        """
        if isinstance(folder, Elsewhere):
            raise ConfigError(explain("several processes", "one process for a hypernetwork", "trimtab run"))
        start, draw = time.perf_counter(), self._draw(read_concept_rows(self.concepts))
        source, held = self._sources()
        generator = load(self.model, device=self.device, timestep=self.timestep)
        judge = judge_of(self.judge) if self.judge else None
        encoder = encoder_of(self.encoder, generator)
        measure = self._measure(generator, encoder, judge, held)
        limit = self.hypertransport.max_tokens
        for row in draw.held_out:
            given: Any = {"seed": 0, "batch_size": 32, "max_tokens": limit}
            _ = prompt_examples(generator, called(row.name), row.prompts, **given)
        for row in draw.measured:
            encoder.refuse_unheard([row.name] if self.condition == "name" else row.prompts)
        measure.rehearse(draw.measured)
        settings = replace(
            self.hypertransport, encoder=encoder, seed=derive(self.seed, "fit", self.hypertransport.seed)
        )
        lineas, steps = (
            self.lineas if self.rivals else None,
            Steps(progress, self._cost(len(draw.train))["steps"]),
        )
        study = Study(
            generator,
            folder.artifacts,
            draw,
            source,
            settings,
            lineas=lineas,
            maps=self.maps,
            condition=self.condition,
            seed=self.seed,
            steps=steps,
        )
        fitted, seconds = study.fit()
        rivals = study.rivals(fitted)
        pieces = [study.measured(place, fitted, rivals, measure) for place in range(len(draw.measured))]
        return self._result(pieces, fitted, rivals, seconds, time.perf_counter() - start)

    def _measure(
        self, generator: Model, encoder: Encoder, judge: Judge | None, prompts: tuple[str, ...]
    ) -> Measure:
        if judge is not None:
            fidelity: ByJudge | ByEncoder = ByJudge(judge)
        else:
            fidelity = ByEncoder(encoder_of(self.judge_encoder, generator) if self.judge_encoder else encoder)
        seed = derive(self.seed, "measured")
        return Measure(generator, fidelity, judge, prompts, self.strengths, seed, self.pictures)

    def _result(
        self,
        pieces: list[dict[str, Any]],
        fitted: FittedHyperTransport,
        rivals: Rivals | None,
        training: float,
        seconds: float,
    ) -> HyperTransportResult:
        table = pd.DataFrame([row for piece in pieces for row in piece["rows"]], columns=list(TABLE))
        table = table.astype(dict.fromkeys(TABLE[3:-1], float))
        concepts = pd.DataFrame([facts_of(piece) for piece in pieces])
        split = dict(zip(table["concept"], table["split"], strict=True))
        concepts.insert(1, "split", [split[name] for name in concepts["concept"]])
        own = not self.judge and not self.judge_encoder
        return HyperTransportResult(
            table=table,
            means=means(table),
            equal=at_equal_input(table),
            concepts=concepts,
            samples=pd.DataFrame(
                [one for piece in pieces for one in piece["samples"]], columns=list(SAMPLES)
            ),
            facts={
                "trained_on": len(fitted.concepts),
                "training_seconds": training,
                f"{HYPER}_seconds": float(concepts[f"{HYPER}_seconds"].mean()),
                f"{LINEAS}_seconds": float(concepts[f"{LINEAS}_seconds"].mean()),
                "maps_seconds": rivals.seconds if rivals else math.nan,
                "ridge_alpha": rivals.ridge.alpha if rivals else math.nan,
                "usual_novelty": fitted.usual_novelty,
            },
            measured_by="judge" if self.judge else "the encoder of training" if own else "another encoder",
            config=plain(self),
            seconds=seconds,
        )


def split_table(rows: list[ConceptRow]) -> pd.DataFrame:
    """Concepts by split, with the fewest and the most prompts of one."""
    frame = pd.DataFrame(
        [(SPLITS.get(row.split, row.split) or "none", len(set(row.prompts))) for row in rows],
        columns=["split", "n"],
    )
    counts = frame.groupby("split", sort=False)["n"].agg(["size", "min", "max"]).reset_index()
    return counts.set_axis(["split", "concepts", "fewest prompts", "most prompts"], axis=1)


def concept_steering(
    hypernetwork: str, concept: str | Path, strength: float = 1.0, model: str = "", encoder: str = ""
) -> Steering:
    """Steering of a concept by a saved hypernetwork.

    Args:
        hypernetwork: its folder, or that of a run that fitted one.
        concept: words, or the path of a picture.
        strength: folded into the maps: at 1 the steering acts as the hypernetwork's does at it.
        model: the generator; "" for the one that it was fitted on, by its name there.
        encoder: likewise.

    Raises:
        ConfigError: a generator or an encoder that is not there.
        ModelError: a folder without a hypernetwork, or another generator or encoder.
        DataError: blank words, or a picture that cannot be read.
    """
    inside = Path(hypernetwork) / "artifacts" / HYPERNETWORK
    folder = inside if inside.is_dir() else Path(hypernetwork)
    config = read_config(folder)
    name, words = model or config["base_model_name_or_path"], encoder or config["encoder"]["name"]
    problems = list(name_problems(name, "--model", pipelines=True))
    problems += [] if words == SELF else name_problems(words, "--encoder")
    if problems:
        raise ConfigProblems(problems)
    generator = load(name, timestep=config["settings"].get("timestep"))
    fitted = HyperTransport.from_pretrained(folder, generator, encoder or None)
    steering = fitted(concept)
    return steering if strength == 1 else steering * strength
