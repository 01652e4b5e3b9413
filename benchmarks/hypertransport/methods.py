"""Methods of the benchmark: hypernetworks, rivals from maps of training concepts, fits to each concept, the oracle."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from kept import kept, kept_steering
from world import POOL, SITES, World

from trimtab import CAA, ITI, HyperTransport, LinAcT, LinEAS, MeanAcT, Steering
from trimtab.lab.scene_concepts import plain_prompts
from trimtab.seeds import derive
from trimtab.steer.hypertransport.concept_file import ConceptRow
from trimtab.steer.hypertransport.fitted import FittedHyperTransport
from trimtab.steer.hypertransport.oracle import picture_oracle
from trimtab.steer.hypertransport.rivals import ConceptMaps, refine
from trimtab.steer.hypertransport.training import prompt_examples

HYPER, HYPER_2, HYPER_FEW = "HyperTransport, p = 1", "HyperTransport, p = 2", "HyperTransport, few concepts"
RIDGE, NEAREST, MEAN = "ridge on LinAcT", "nearest of LinAcT", "mean of LinAcT"
RIDGE_FEW, NEAREST_FEW, MEAN_FEW = "ridge on LinEAS, few", "nearest of LinEAS, few", "mean of LinEAS, few"
LINEAS, LINACT, MEANACT, CAA_, ITI_ = "LinEAS", "LinAcT", "MeanAcT", "CAA", "ITI"
LINEAS_SHORT, LINEAS_ALIKE = "LinEAS, 20 steps", "LinEAS, same scenes"
REFINED, ORACLE = "refined by 20 steps", "affine oracle"
PROMPTING, RENDERS, UNSTEERED = "prompting", "true renders", "unsteered"
SHORT = 20
"""Steps of LinEAS that refine the hypernetwork's maps, and of LinEAS from the identity beside them."""
EACH = (LINEAS, LINEAS_SHORT, LINEAS_ALIKE, LINACT, MEANACT, CAA_, ITI_)
"""Methods fitted to each concept; the targets of that of the same scenes are the generic prompts with its values."""
ORACLE_PROMPTS = 512
LINEAS_STEPS = 90


@dataclass(frozen=True)
class Chosen:
    """Settings that were chosen on the validation concepts.

    Attributes:
        hyper: of HyperTransport, (name, value) each.
        lineas: of LinEAS.
        linact: of LinAcT.
        iti: of ITI.
    """

    hyper: tuple[tuple[str, Any], ...] = ()
    lineas: tuple[tuple[str, Any], ...] = ()
    linact: tuple[tuple[str, Any], ...] = ()
    iti: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class Trained:
    """A hypernetwork and what it cost.

    Attributes:
        fitted: it.
        seconds: CPU seconds of its training: of its set-up, and of a step times the steps; nan where no process took
            three of them.
    """

    fitted: FittedHyperTransport
    seconds: float


@cache
def hypernetwork(world: World, p: int, count: int, settings: tuple[tuple[str, Any], ...]) -> Trained:
    """A hypernetwork of the first training concepts."""
    rows = world.train[:count]
    asked = HyperTransport(
        sites=SITES, encoder=world.encoder, p=p, steps=world.size.steps, seed=derive(world.seed, "hyper")
    )
    estimator = replace(asked, **dict(settings))
    words = map(str, (p, len(rows), estimator.steps, *(part for pair in settings for part in pair)))
    place = world.folder / "hypernetworks" / "-".join(words)
    times = [time.process_time()]

    def progress(step: int, steps: int, loss: float) -> None:  # noqa: ARG001
        times.append(time.process_time())

    concepts = {row.name: list(row.prompts) for row in rows}
    fitted = estimator.fit(
        world.generator, concepts, list(world.source), out=place / "fit", progress=progress
    )
    question = [world.name, p, len(rows), estimator.steps, settings]
    seconds = kept(place / "seconds.json", question, lambda: _seconds(times, len(fitted.losses)))
    return Trained(fitted, math.nan if seconds is None else seconds)


def _seconds(times: Sequence[float], steps: int) -> float:
    if len(times) < 4:
        return math.nan
    return times[1] - times[0] + (steps - 1) * (times[-1] - times[1]) / (len(times) - 2)


def estimators(world: World, chosen: Chosen) -> dict[str, Any]:
    """Estimators that are fitted to each concept; LinEAS without its penalty, which keeps it from steering here."""
    lineas = replace(
        LinEAS(sites=SITES, p=1.0, gamma=0.0, lr=0.05, steps=LINEAS_STEPS), **dict(chosen.lineas)
    )
    most = world.size.lineas
    return {
        LINEAS: replace(lineas, steps=most) if most else lineas,
        LINEAS_SHORT: replace(lineas, steps=min(SHORT, most or SHORT)),
        LINEAS_ALIKE: replace(lineas, steps=most) if most else lineas,
        LINACT: replace(LinAcT(sites=SITES), **dict(chosen.linact)),
        MEANACT: MeanAcT(sites=SITES),
        CAA_: CAA(sites=SITES, position="mean"),
        ITI_: replace(ITI(sites=SITES, pool="mean"), **dict(chosen.iti)),
    }


def batches(world: World, what: str, prompts: Sequence[str], seed: int) -> list[Any]:
    """Prompts as batches of forward keywords."""
    given: Any = {"seed": seed, "batch_size": POOL}  # one batch: LinEAS then needs no second forward pass
    return list(prompt_examples(world.generator, what, prompts, **given).batches)


def fitted_to(world: World, name: str, estimator: Any, row: ConceptRow) -> tuple[Steering, float]:
    """A steering fitted to a concept, kept, and its CPU seconds."""

    def make() -> Steering:
        source = batches(world, "source", world.source, derive(world.seed, "source"))
        alike = name == LINEAS_ALIKE
        prompts = world.truth.prompted(world.source, row.values) if alike else row.prompts
        target = batches(world, row.name, prompts, derive(world.seed, "target", row.name))
        steering: Steering = estimator.fit(world.generator, source, target)
        return steering

    question = [world.name, row.name, repr_of(estimator)]
    return kept_steering(world.folder / "steerings", name, question, make)


def repr_of(estimator: Any) -> dict[str, Any]:
    """Settings of an estimator, by name."""
    return {"class": type(estimator).__name__, **vars(estimator)}


def known(world: World, name: str, estimator: Any, fitted: FittedHyperTransport) -> ConceptMaps:
    """Maps of the training concepts of a hypernetwork, fitted one by one, beside their embeddings."""
    rows = {row.name: row for row in world.train}
    steerings = tuple(fitted_to(world, name, estimator, rows[one])[0] for one in fitted.concepts)
    return ConceptMaps(fitted.concepts, fitted.embeddings, steerings)


@dataclass(frozen=True, eq=False)
class Methods:
    """All methods of one world.

    Attributes:
        world: where.
        chosen: settings.
    """

    world: World
    chosen: Chosen

    def hyper(self, p: int = 1, count: int | None = None) -> FittedHyperTransport:
        """The hypernetwork; of all training concepts, or of fewer."""
        every = len(self.world.train)
        return self.trained(p, min(count or every, every)).fitted

    def trained(self, p: int, count: int) -> Trained:
        """A hypernetwork with the chosen settings and its cost."""
        return hypernetwork(self.world, p, count, self.chosen.hyper)

    @property
    def few(self) -> FittedHyperTransport:
        """The hypernetwork of as many concepts as LinEAS is fitted to."""
        return self.hyper(count=self.world.size.fitted)

    def rivals(self) -> dict[str, Callable[[Any], Steering]]:
        """Rivals by name, from the embedding of a concept to a steering."""
        return _rivals(self.world, self.chosen)

    def steerings(self, row: ConceptRow) -> dict[str, Steering]:
        """Every steering of a concept."""
        world, prompts = self.world, list(row.prompts)
        networks = {HYPER: self.hyper(), HYPER_2: self.hyper(2), HYPER_FEW: self.few}
        found = {name: network(prompts) for name, network in networks.items()}
        embedding = networks[HYPER].embedding(prompts)
        found |= {
            name: rival(self.few.embedding(prompts) if name.endswith("few") else embedding)
            for name, rival in self.rivals().items()
        }
        settings = estimators(world, self.chosen)
        found |= {name: fitted_to(world, name, settings[name], row)[0] for name in EACH}
        found[REFINED] = self.refined(row, found[HYPER])[0]
        question = [world.name, row.name, world.size.oracle, ORACLE_PROMPTS]
        found[ORACLE] = kept_steering(
            world.folder / "steerings", ORACLE, question, lambda: oracle(world, row)
        )[0]
        return found

    def refined(self, row: ConceptRow, start: Steering) -> tuple[Steering, float]:
        """Some steps of LinEAS from the hypernetwork's maps, and their CPU seconds."""
        world, short = self.world, estimators(self.world, self.chosen)[LINEAS_SHORT]
        how: Any = {"steps": short.steps, "estimator": short, "seed": derive(world.seed, "refine", row.name)}
        make = lambda: refine(start, world.generator, world.source, row.prompts, **how)  # noqa: E731
        question = [world.name, row.name, start.made_by["hypernetwork"], repr_of(short)]
        return kept_steering(world.folder / "steerings", REFINED, question, make)


@cache
def _rivals(world: World, chosen: Chosen) -> dict[str, Callable[[Any], Steering]]:
    methods, settings = Methods(world, chosen), estimators(world, chosen)
    every = known(world, LINACT, settings[LINACT], methods.hyper())
    few = known(world, LINEAS, settings[LINEAS], methods.few)
    middle, middle_few = every.mean(), few.mean()
    return {
        RIDGE: every.ridge(),
        NEAREST: every.nearest,
        MEAN: lambda _: middle,
        RIDGE_FEW: few.ridge(),
        NEAREST_FEW: few.nearest,
        MEAN_FEW: lambda _: middle_few,
    }


def oracle(world: World, row: ConceptRow) -> Steering:
    """Affine maps at the same sites, trained on the distance to true renders of fresh noise: a ceiling, not a rival."""
    truth = lambda prompts, seed: world.truth.truth(prompts, row.values, seed)  # noqa: E731
    seed = derive(world.seed, "oracle", row.name)
    prompts = plain_prompts(ORACLE_PROMPTS, seed, of="oracle")
    found = picture_oracle(world.generator, truth, prompts, SITES, steps=world.size.oracle, seed=seed)
    assert found is not None
    return found
