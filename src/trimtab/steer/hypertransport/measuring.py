"""Measurement of steerings by strength: fidelity to the concept and to the rest of the prompt, with intervals."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from PIL import Image

from trimtab.errors import ModelError
from trimtab.models.load import Model
from trimtab.numerics.bootstrap import Interval, bootstrap, mean, wilson
from trimtab.steer.hypertransport.concept_file import SPLITS, ConceptRow
from trimtab.steer.hypertransport.judging import Fidelity, Judge, Marks, Outputs
from trimtab.steer.steering import Steering

HYPER, LINEAS, RIDGE, NEAREST, MEAN = "hypertransport", "lineas", "ridge", "nearest", "mean"
ORACLE, PROMPTING, TRUTH, UNSTEERED = "oracle", "prompting", "truth", "unsteered"
METHODS = (HYPER, LINEAS, RIDGE, NEAREST, MEAN, ORACLE, PROMPTING, TRUTH, UNSTEERED)
"""What is measured: the hypernetwork, its rivals, affine maps that were told the truth, words in the prompt, the true
outputs, and nothing at all."""
SCORES = ("concept_fidelity", "input_fidelity")
DISTANCE = "truth_distance"
TABLE = (
    "concept",
    "split",
    "method",
    "strength",
    *(f"{s}{end}" for s in (*SCORES, DISTANCE) for end in ("", "_low", "_high")),
    "n",
)
"""Columns of the table; strength is nan where a method has none."""
ALL_HELD_OUT = "all held out"
BUDGET = 0.05
"""Input fidelity that steerings may lose where they are compared at equal input fidelity."""
N_BOOT = 1000
THUMBNAIL = 96
"""Pixels of a picture on the page, at most."""


@dataclass(frozen=True)
class Measure:
    """Measure of steerings on prompts that no fit has seen.

    Attributes:
        generator: the model.
        fidelity: of its outputs.
        judge: that it is by; None for an encoder.
        prompts: to steer.
        strengths: of each steering.
        seed: of the noise, the same for all methods.
        shown: prompts whose outputs are kept for the page.
    """

    generator: Model
    fidelity: Fidelity
    judge: Judge | None
    prompts: tuple[str, ...]
    strengths: tuple[float, ...]
    seed: int
    shown: int
    _kept: dict[str, Outputs] = field(default_factory=dict)

    def rehearse(self, concepts: Sequence[ConceptRow]) -> None:
        """Measure two outputs of each concept without a steering, so that what is refused is so before any fit.

        Raises:
            DataError, ModelError: what the judge, the encoder or the generator refuses.
        """
        short = replace(self, prompts=self.prompts[:2], shown=0, _kept={})
        outputs = short._generated(short.prompts)
        for concept in concepts:
            _ = short.fidelity.marks(outputs, short.prompts, concept)  # first what the judge does not see
            _ = short.of(concept, {})

    def of(
        self, concept: ConceptRow, steerings: Mapping[str, Steering]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows of the table, and outputs for the page, of a concept under each method."""
        rows, samples = list[dict[str, Any]](), list[dict[str, Any]]()
        truth = self.judge.truth(self.prompts, concept.values, self.seed) if self.judge else None
        for method, strength, outputs in self._outputs(concept, steerings, truth):
            about: dict[str, Any] = {
                "concept": concept.name,
                "split": SPLITS.get(concept.split, concept.split),
            }
            about |= {"method": method, "strength": strength}
            marks = self.fidelity.marks(outputs, self.prompts, concept)
            found = scores(marks, shares=self.fidelity.shares)
            gaps = np.full(len(self.prompts), np.nan) if truth is None else distances(outputs, truth)
            found |= _columns(DISTANCE, bootstrap(mean, gaps, n_boot=N_BOOT))
            rows.append(about | found | {"n": len(self.prompts)})
            for prompt, output in zip(self.prompts[: self.shown], outputs, strict=False):
                samples.append(about | {"prompt": prompt} | _shown(output))
        return rows, samples

    def _outputs(
        self, concept: ConceptRow, steerings: Mapping[str, Steering], truth: Outputs | None
    ) -> Iterator[tuple[str, float, Outputs]]:
        for method, steering in steerings.items():
            for strength in self.strengths:
                with steering.on(self.generator, strength):
                    yield method, strength, self._generated(self.prompts)
        if (prompted := self._prompted_outputs(concept)) is not None:
            yield PROMPTING, math.nan, prompted
        if truth is not None:
            yield TRUTH, math.nan, truth
        if UNSTEERED not in self._kept:
            self._kept[UNSTEERED] = self._generated(self.prompts)
        yield UNSTEERED, 0.0, self._kept[UNSTEERED]

    def _prompted_outputs(self, concept: ConceptRow) -> Outputs | None:
        """Outputs of prompts that name the concept; None where the generator does not know a word of it."""
        if self.judge is not None:
            return self._generated(self.judge.prompted(self.prompts, concept.values))
        try:
            return self._generated([f"{prompt}, {concept.name}" for prompt in self.prompts])
        except ModelError:
            return None

    def _generated(self, prompts: Sequence[str]) -> Outputs:
        outputs: Outputs = self.generator.generate(list(prompts), seed=self.seed)
        return outputs


def scores(marks: Marks, *, shares: bool) -> dict[str, float]:
    """Mean marks with 95 % intervals over outputs: Wilson's for shares of outputs, else the bootstrap's.

    >>> scores(Marks(np.array([1.0, 1.0]), np.array([0.5, 0.5])), shares=True)["concept_fidelity_low"].__round__(3)
    0.342
    """
    hits = marks.concept
    interval: Callable[[Float[np.ndarray, " n"]], Interval] = lambda it: bootstrap(mean, it, n_boot=N_BOOT)  # noqa: E731
    concept = wilson(int(hits.sum()), len(hits)) if shares else interval(hits)
    return _columns(SCORES[0], concept) | _columns(SCORES[1], interval(marks.others))


def distances(outputs: Outputs, truth: Outputs) -> Float[np.ndarray, " n"]:
    """Mean absolute difference of pixels in [0, 1] of each picture from the true one; nan for texts and other sizes.

    >>> black, white = (Image.new("RGB", (2, 2), fill) for fill in ("black", "white"))
    >>> distances([black, white], [white, white]).tolist()
    [1.0, 0.0]
    """
    found = []
    for one, wanted in zip(outputs, truth, strict=True):
        if isinstance(one, str) or isinstance(wanted, str):
            found.append(math.nan)
            continue
        pair = [
            np.asarray(it if isinstance(it, np.ndarray) else it.convert("RGB"), float) for it in (one, wanted)
        ]
        alike = pair[0].shape == pair[1].shape
        found.append(float(np.abs(pair[0] - pair[1]).mean() / 255) if alike else math.nan)
    return np.array(found)


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Mean fidelities of each method and strength, in each split and over all held-out concepts.

    Each concept counts once, and intervals are over concepts.

    Args:
        table: columns `TABLE`.

    Returns:
        Columns `TABLE` without the concept; n is the number of concepts.
    """
    training = table["split"] == SPLITS["train"]
    parts = [(ALL_HELD_OUT, table[~training]), *table.groupby("split", sort=False)]
    rows = []
    for split, part in parts:
        for (method, strength), group in part.groupby(["method", "strength"], sort=False, dropna=False):
            row: dict[str, Any] = {"split": split, "method": method, "strength": strength}
            for name in (*SCORES, DISTANCE):
                row |= _columns(name, bootstrap(mean, group[name].to_numpy(float), n_boot=N_BOOT))
            rows.append(row | {"n": len(group)})
    return pd.DataFrame(rows, columns=[name for name in TABLE if name != "concept"])


def within_budget(inputs: Sequence[float], concepts: Sequence[float], budget: float = BUDGET) -> float:
    """Concept fidelity at the strength where input fidelity has fallen by a budget, linear between strengths.

    Args:
        inputs: input fidelity by rising strength, the first of the unsteered model.
        concepts: concept fidelity likewise.
        budget: what may be lost.

    >>> within_budget([0.9, 0.8], [0.0, 1.0], 0.05).__round__(3), within_budget([0.9, 0.9], [0.0, 0.7])
    (0.5, 0.7)
    """
    floor = inputs[0] - budget
    for place in range(1, len(inputs)):
        if inputs[place] < floor:
            share = (inputs[place - 1] - floor) / (inputs[place - 1] - inputs[place])
            return concepts[place - 1] + share * (concepts[place] - concepts[place - 1])
    return float(concepts[-1])


def at_equal_input(table: pd.DataFrame, budget: float = BUDGET) -> pd.DataFrame:
    """Concept fidelity of each steering at equal input fidelity: where the budget is spent, or at the largest strength.

    Returns:
        Columns split, method, concept_fidelity, low, high, n (concepts); intervals are over concepts.
    """
    rows = list[dict[str, Any]]()
    for (concept, split), group in table.groupby(["concept", "split"], sort=False):
        start = group[group["method"] == UNSTEERED].iloc[0]
        for method, every in group[~group["method"].isin([PROMPTING, TRUTH, UNSTEERED])].groupby(
            "method", sort=False
        ):
            line = every[every["strength"] > 0].sort_values("strength")
            inputs = [float(start["input_fidelity"]), *line["input_fidelity"]]
            reached = within_budget(
                inputs, [float(start["concept_fidelity"]), *line["concept_fidelity"]], budget
            )
            rows.append({"concept": concept, "split": split, "method": method, "reached": reached})
    frame = pd.DataFrame(rows, columns=["concept", "split", "method", "reached"])
    held = frame[frame["split"] != SPLITS["train"]].assign(split=ALL_HELD_OUT)
    found = []
    for key, group in pd.concat([held, frame]).groupby(["split", "method"], sort=False):
        interval = bootstrap(mean, group["reached"].to_numpy(float), n_boot=N_BOOT)
        found.append((*key, interval.value, interval.low, interval.high, interval.n))
    return pd.DataFrame(found, columns=["split", "method", "concept_fidelity", "low", "high", "n"])


def break_even(training: float, each: float, rival: float) -> float:
    """Fewest concepts from which training once is quicker than fitting each: training + n each < n rival.

    Returns:
        A whole number; nan where a time is not known, or fitting each is as quick but for rounding.

    >>> break_even(100.0, 1.0, 11.0), break_even(100.0, 2.0, 1.0)
    (11.0, nan)
    """
    if not rival > each or math.isnan(training):
        return math.nan
    count = training / (rival - each)
    return float(math.floor(count) + 1) if math.isfinite(count) else math.nan


def _shown(output: Any) -> dict[str, str]:
    """A text, or a small PNG in base 64."""
    if isinstance(output, str):
        return {"text": output, "png": ""}
    small = (Image.fromarray(output) if isinstance(output, np.ndarray) else output).convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    with io.BytesIO() as file:
        small.quantize(64).save(file, "png", optimize=True)
        return {"text": "", "png": base64.b64encode(file.getvalue()).decode()}
