"""ExpertLens: units as detectors of concepts, similarity of concepts by shared experts, and interventions on experts.

Experts can be held at given values, and so can other units as a control.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from trimtab.data.concepts import ConceptSet
from trimtab.errors import ConfigError, DataError, explain
from trimtab.models.batches import Pool
from trimtab.models.hooks import Intervention
from trimtab.models.load import Model, as_model
from trimtab.numerics.bootstrap import check_choice
from trimtab.numerics.similarity import (
    cosine,
    jaccard,
    overlap_by_chance,
    overlap_coefficient,
    rank_correlation,
)
from trimtab.read.experts import detection
from trimtab.read.experts.agreement import Agreement, Tree, agree, tree
from trimtab.read.experts.detection import Labelling, Selection, Stability
from trimtab.read.experts.ratings import judged
from trimtab.read.responses import Progress, Responses, Sites, Units
from trimtab.report.page import Table, cell
from trimtab.runs.brief import one_line

Rivals = Literal["experts", "random", "matched"]


def set_to(
    units: Units, chosen: Int[np.ndarray, " n"], values: Float[np.ndarray, " n"]
) -> dict[str, Intervention]:
    """Clamping: interventions that hold units at values at every token, by the name of their site.

    Args:
        units: which unit is which.
        chosen: the units to hold.
        values: one for each.
    """

    def hold(h: Tensor, places: Int[np.ndarray, " n"], to: Float[np.ndarray, " n"]) -> Tensor:
        changed = h.clone()
        where = torch.as_tensor(places, device=h.device)
        changed[..., where] = torch.as_tensor(to, device=h.device, dtype=h.dtype)
        return changed

    held: dict[str, Intervention] = {}
    owners = units.site_numbers[chosen]
    for owner in np.unique(owners):
        inside = owners == owner
        places = chosen[inside] - units.starts[owner]
        held[units.sites[owner]] = partial(hold, places=places, to=values[inside])
    return held


def rivals(
    responses: Responses, experts: Int[np.ndarray, " n"], kind: Rivals, seed: int
) -> Int[np.ndarray, " n"]:
    """Units to hold: the experts, or as a control as many random units or units matched by mean response.

    Args:
        responses: of all units.
        experts: numbers of units.
        kind: "experts" themselves; "random": drawn from all other units; "matched": at the same sites, each expert
            paired with another unit so that their mean responses differ as little as possible in all.
        seed: of random ones.

    Raises:
        ConfigError: an unknown kind, or too few other units.
    """
    check_choice("units", kind, get_args(Rivals))
    if kind == "experts":
        return experts
    others = np.setdiff1d(np.arange(len(responses.units)), experts)
    if kind == "random":
        if len(others) < len(experts):
            raise ConfigError(explain(f"{len(others)} other units", f"as many as the {len(experts)} experts"))
        return np.sort(np.random.default_rng(seed).choice(others, len(experts), replace=False))
    mean = np.concatenate([values.mean(0) for _, values in responses.blocks()])
    owners, pairs = responses.units.site_numbers, []
    for owner in np.unique(owners[experts]):
        site_experts, rest = experts[owners[experts] == owner], others[owners[others] == owner]
        if len(rest) < len(site_experts):
            got, expected = f"{len(rest)} other units", f"as many as its {len(site_experts)} experts"
            raise ConfigError(f"{responses.units.sites[owner]}: {explain(got, expected, 'fewer experts')}")
        gaps = np.abs(mean[site_experts][:, None] - mean[rest][None])
        pairs.append(rest[linear_sum_assignment(gaps)[1]])
    return np.sort(np.concatenate(pairs))


Kind = Literal["jaccard", "overlap", "ap_cosine", "ap_spearman"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, eq=False)
class ExpertLens:
    """ExpertLens: every unit of a model as a detector of every concept, by average precision.

    An expert is a unit whose response to an example, its largest activation over valid tokens, ranks the concept's
    positive examples above its negative ones, by average precision. Two concepts are alike as far as they share
    experts.

    Attributes:
        concepts: what was looked for.
        responses: of every unit to every example.
        precision: (concepts, units) average precision.
        seed: of the null tables, ties broken and halves.

    Source: Fedzechkina, Gualdoni, Williamson et al. 2026, arXiv 2502.15090; experts after Suau, Zappella and
    Apostoloff 2022.
    """

    concepts: ConceptSet
    responses: Responses
    precision: Float[np.ndarray, "c u"]
    seed: int = 0
    _chance: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        sizes = f"{len(self.concepts)} concepts, {self.precision.shape[1]} units"
        return one_line("ExpertLens", sizes, f"of {Path(self.responses.model.name).name!r}")

    def _repr_html_(self) -> str:
        """Sizes, and the best average precision of each concept, for notebooks."""
        best = {"concept": list(self.concepts.names), "best AP": self.precision.max(axis=1)}
        summary = f"Average precision of {self.precision.shape[1]} units of {self.responses.model.name}."
        return cell("ExpertLens", summary, Table(pd.DataFrame(best)))

    @classmethod
    def fit(
        cls,
        model: Model,
        concepts: ConceptSet,
        sites: Sites = "*",
        *,
        pool: Pool = "max",
        batch_size: int = 32,
        max_tokens: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> ExpertLens:
        """ExpertLens of a model: its responses to every example, and average precision of every unit for every concept.

        Padding never enters: neither the length nor the side of padding, nor which texts share a batch, decides
        anything. Memory holds the responses of as many sites as fit into 805 MB; more sites take more passes.

        Args:
            model: of text or of pictures; it never changes.
            concepts: texts, for a model with a tokenizer, or pictures.
            sites: patterns, see `trimtab.models.sites.resolve`; "*" means the outputs of all linear maps of every
                block, for the families that we know.
            pool: how the tokens of an example become one response; the paper takes "max".
            batch_size: examples at a time.
            max_tokens: longer texts are cut, and counted in `responses.cut`; None refuses those beyond the model's
                limit.
            seed: see the class.
            progress: called with how many examples were read, and of how many.

        Raises:
            ModelError: an unknown pool or site, no tokenizer or processor, or activations that are not finite.
            DataError: a concept of which every example is longer than `max_tokens`.
        """
        model = as_model(model)
        responses = Responses(model, concepts.pool.examples, sites, pool, batch_size, max_tokens, progress)
        dealt = labellings(concepts)
        for concept, labelling in zip(concepts, dealt, strict=True):
            if responses.cut[labelling.rows].all():
                got = f"{len(labelling.rows)} examples that are all longer than max_tokens={max_tokens}"
                hint = f"max_tokens={responses.longest}"
                raise DataError(f"{concept.name}: {explain(got, 'some that fit', hint)}")
        return cls(concepts, responses, detection.detect(responses, dealt).precision, seed)

    @property
    def units(self) -> Units:
        """Numbering of the units, site by site."""
        return self.responses.units

    @cached_property
    def labellings(self) -> list[Labelling]:
        """Binary labels of each concept: which examples are positive and which negative."""
        return labellings(self.concepts)

    @property
    def can_be_halved(self) -> bool:
        """Whether every concept has at least two examples on both sides, as `halves` and `stability` ask for."""
        return all(min(len(concept.positive), len(concept.negative)) > 1 for concept in self.concepts)

    # Experts ----------------------------------------------------------------------------------------------------

    def experts(
        self, concept: str, tau: float | None = None, top: int | None = None, fdr: float | None = None
    ) -> pd.DataFrame:
        """Experts of a concept, best average precision first.

        Args:
            concept: its name.
            tau: units above this average precision; .5 when nothing is asked for.
            top: the so many best.
            fdr: those found at this false discovery rate.

        Returns:
            Columns site, unit (its number within the site), ap, and q: the false discovery rate at which the unit would
            be found among all units. Empty when there is none.

        Raises:
            DataError: no such concept; the nearest is named.
            ConfigError: more than one way to choose, or one out of range.
        """
        number = self.concepts.number(concept)
        chosen = self._chosen(detection.selection(tau, top, fdr), [number])[0]
        q = detection.q_values(self.chance([number])[0])
        units = np.nonzero(chosen)[0]
        units = units[np.argsort(-self.precision[number, units], kind="stable")]
        return self.units.named(units).assign(ap=self.precision[number, units], q=q[units])

    def sets(
        self, tau: float | None = None, top: int | None = None, fdr: float | None = None
    ) -> Bool[np.ndarray, "c u"]:
        """Expert sets (concepts, units); a concept without experts is a row without members.

        Raises:
            ConfigError: more than one way to choose, or one out of range.
        """
        return self._chosen(detection.selection(tau, top, fdr), range(len(self.concepts)))

    def counts(
        self, tau: float | None = None, top: int | None = None, fdr: float | None = None
    ) -> pd.DataFrame:
        """Expert counts: concepts as rows, sites as columns."""
        sets = self.sets(tau, top, fdr)
        by_site = np.add.reduceat(sets.astype(int), self.units.starts, axis=1)
        return pd.DataFrame(by_site, index=self.concepts.names, columns=list(self.units.sites))

    def chance(self, numbers: list[int] | range) -> Float[np.ndarray, "c u"]:
        """P-values of every unit under random ranking, for some concepts; see `trimtab.read.experts.detection`."""
        new = [number for number in numbers if number not in self._chance]
        if new:
            dealt = [self.labellings[number] for number in new]
            detected = detection.detect(self.responses, dealt, chance=True, seed=self.seed)
            self._chance.update(zip(new, detected.chance, strict=True))
        return np.stack([self._chance[number] for number in numbers])

    def _chosen(self, how: Selection, numbers: list[int] | range) -> Bool[np.ndarray, "c u"]:
        if how.fdr is not None:
            return np.asarray(detection.q_values(self.chance(numbers)) <= how.fdr)
        return how.of(self.precision[list(numbers)])

    # Concepts side by side --------------------------------------------------------------------------------

    def similarity(
        self,
        kind: Kind = "jaccard",
        tau: float | None = None,
        top: int | None = None,
        fdr: float | None = None,
    ) -> pd.DataFrame:
        """Similarity of concepts, each with each: of their expert sets, or of the average precisions of all units.

        Args:
            kind: "jaccard" or "overlap" (over the smaller set) of expert sets; "ap_cosine" or "ap_spearman" of the
                average precisions of all units, which choose no experts.
            tau: see `experts`.
            top: see `experts`.
            fdr: see `experts`.

        Returns:
            Concepts as rows and columns. Rows of concepts without experts are 0.

        Raises:
            ConfigError: an unknown kind, a choice of experts where none is made, or as `experts`.
        """
        check_choice("kind", kind, KINDS)
        if kind.startswith("ap_"):
            if not tau is top is fdr is None:
                raise ConfigError(explain(f"tau, top or fdr beside {kind}", "no choice of experts"))
            matrix = cosine(self.precision) if kind == "ap_cosine" else rank_correlation(self.precision)
        else:
            sets = self.sets(tau, top, fdr)
            matrix = jaccard(sets) if kind == "jaccard" else overlap_coefficient(sets)
        return self.framed(matrix)

    def framed(self, matrix: Float[np.ndarray, "c c"]) -> pd.DataFrame:
        """Frame of a (concepts, concepts) matrix, with their names."""
        return pd.DataFrame(matrix, index=self.concepts.names, columns=self.concepts.names)

    def overlap_null(
        self, tau: float | None = None, top: int | None = None, fdr: float | None = None
    ) -> pd.DataFrame:
        """Hypergeometric null of overlap: what two expert sets share beside what their sizes give by chance.

        Returns:
            One row per pair: concept1, concept2, shared, expected, z (standard deviations of the hypergeometric; units
            are correlated, so it is no p-value; nan where a set is empty).
        """
        overlaps = overlap_by_chance(self.sets(tau, top, fdr))
        first, second = np.triu_indices(len(self.concepts), 1)
        names = np.array(self.concepts.names, dtype=object)
        columns = {"concept1": names[first], "concept2": names[second]}
        parts = {name: getattr(overlaps, name)[first, second] for name in ("shared", "expected", "z")}
        return pd.DataFrame(columns | parts)

    def align(
        self,
        human: pd.DataFrame,
        kind: Kind = "jaccard",
        tau: float | None = None,
        top: int | None = None,
        fdr: float | None = None,
        *,
        reliability: float | None = None,
    ) -> Agreement:
        """Alignment with ratings: Spearman's rho of concept similarities with ratings of the same pairs.

        Args:
            human: columns word1, word2, score: one row per pair of concepts, words in any case of their letters. Words
                that are no concepts are listed in `unknown` of what comes back, and their pairs are not used;
                `notes` counts rows that pair a word with itself, or a pair that was there before.
            kind: see `similarity`.
            tau: see `experts`.
            top: see `experts`.
            fdr: see `experts`.
            reliability: of the scores, in (0, 1], where it is known (from single raters:
                `trimtab.read.experts.ratings.split_half_reliability`); without it the ceiling is that of exact scores.

        Returns:
            Spearman's rho with an interval over concepts, the p-value of a Mantel test, and the ceiling that the
            reliability of both sides sets. `a.minus(b)` compares two with the same ratings, with a paired interval.

        Raises:
            DataError: columns or scores missing, a single concept, or fewer than three pairs of known concepts.
            ConfigError: as `similarity`.
        """
        judgements = judged(human, self.concepts.names)
        similarity = self.similarity(kind, tau, top, fdr)
        halves = None
        if self.can_be_halved:
            halves = tuple(half.similarity(kind, tau, top, fdr) for half in self.halves)
        return agree(similarity, judgements, halves, reliability=reliability, seed=self.seed)

    def stability(
        self, tau: float | None = None, top: int | None = None, fdr: float | None = None
    ) -> Stability:
        """Split-half stability: whether another half of the examples gives the same experts.

        Raises:
            DataError: a concept has fewer than two positive or negative examples.
            ConfigError: as `experts`.
        """
        return detection.stability(self.concepts.names, *(half.sets(tau, top, fdr) for half in self.halves))

    def tree(
        self,
        taxonomy: Mapping[str, str] | None = None,
        kind: Kind = "jaccard",
        tau: float | None = None,
        top: int | None = None,
        fdr: float | None = None,
    ) -> Tree:
        """Hierarchical clustering of concepts (average linkage), beside given categories where there are some.

        Args:
            taxonomy: concept -> its category; concepts without one are not compared but listed in `unknown`.
            kind: see `similarity`.
            tau: see `experts`.
            top: see `experts`.
            fdr: see `experts`.

        Raises:
            DataError: fewer than two concepts, or a taxonomy that knows fewer than three of them.
            ConfigError: as `similarity`.
        """
        return tree(self.similarity(kind, tau, top, fdr), taxonomy, seed=self.seed)

    @cached_property
    def halves(self) -> tuple[ExpertLens, ExpertLens]:
        """Split halves: the lens on one and the other half of every concept's examples, dealt at random.

        Raises:
            DataError: a concept has fewer than two positive or negative examples.
        """
        first, second = (detection.halved(self.concepts, side, self.seed) for side in (0, 1))
        both = detection.detect(self.responses, [*first, *second]).precision
        lenses = []
        for dealt, precision in ((first, both[: len(first)]), (second, both[len(first) :])):
            half = ExpertLens(self.concepts, self.responses, precision, self.seed)
            half.__dict__["labellings"] = dealt
            lenses.append(half)
        return lenses[0], lenses[1]

    # What experts do --------------------------------------------------------------------------------------------

    def silence(
        self, concept: str, top: int = 50, *, units: Rivals = "experts", seed: int = 0
    ) -> dict[str, Intervention]:
        """Ablation of a concept's experts, set to 0 at every token: `intervene(model, lens.silence("cat"))`.

        Args:
            concept: its name.
            top: how many units.
            units: "experts", or as a control as many others: "random" ones, or "matched" ones, which are at the same
                sites and whose mean response is the nearest to that of an expert.
            seed: of random units.

        Returns:
            One per site, by its name.

        Raises:
            DataError: no such concept.
            ConfigError: more units than there are, or an unknown kind of them.
        """
        chosen = self._units_to_set(concept, top, units, seed)
        return set_to(self.units, chosen, np.zeros(len(chosen)))

    def force(
        self, concept: str, top: int = 50, *, units: Rivals = "experts", seed: int = 0
    ) -> dict[str, Intervention]:
        """Clamping of a concept's experts at their median response to its positive examples.

        Args:
            concept: its name.
            top: see `silence`.
            units: see `silence`; others are held at their own median.
            seed: see `silence`.

        Raises:
            DataError: as `silence`.
            ConfigError: as `silence`.

        Source: Suau, Zappella and Apostoloff 2022, section 3.3.
        """
        chosen = self._units_to_set(concept, top, units, seed)
        positive = self.labellings[self.concepts.number(concept)].positive
        return set_to(self.units, chosen, np.median(self.responses.of(positive, chosen), axis=0))

    def _units_to_set(self, concept: str, top: int, units: Rivals, seed: int) -> Int[np.ndarray, " n"]:
        number = self.concepts.number(concept)
        experts = np.nonzero(Selection(top=top).of(self.precision[number]))[0]
        return rivals(self.responses, experts, units, seed)


def labellings(concepts: ConceptSet) -> list[Labelling]:
    """Binary labels of each concept over the pool: which examples are positive and which negative."""
    return [Labelling(p, n) for p, n in zip(concepts.pool.positive, concepts.pool.negative, strict=True)]
