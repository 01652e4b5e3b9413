"""Lexicons: informativeness of words in bits, and complexity and accuracy of a whole lexicon.

A lexicon stands on the plane of complexity and accuracy, beside the best that any lexicon could do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import cdist
from scipy.special import rel_entr
from sklearn.neighbors import NearestNeighbors

from trimtab.data.naming import NamingCounts, check_cells, is_lab
from trimtab.data.tables import check_known, find_label, label_text, show
from trimtab.errors import DataError, explain, nearest
from trimtab.numerics.bootstrap import check_choice
from trimtab.numerics.information import Bottleneck, bottleneck, plane, plane_of_words
from trimtab.refer.lexicon import contexts
from trimtab.refer.lexicon.contexts import Speaker, Trials
from trimtab.report.page import Table, cell
from trimtab.runs.brief import brief, one_line

Volume = Literal["cells", "hull", "neighbours"]
NEIGHBOURS = 5


def covered(
    members: Bool[np.ndarray, "referents words"],
    prior: Float[np.ndarray, " referents"],
    features: Float[np.ndarray, "referents d"],
    volume: Volume,
) -> Float[np.ndarray, " words"]:
    """Extension volume: the share of the space that each word's denotation takes, in (0, 1]; nan without a volume.

    Args:
        members: whether a word was used for a referent.
        prior: of the referents.
        features: of the referents.
        volume: "cells": the referents themselves, by their prior; "hull": the convex hull in feature space, as a
            part of that of all referents (nan with too few or flat points); "neighbours": referents most of whose
            nearest neighbours (itself among them) are in the denotation, by their prior: smooths single namings away.
    """
    if volume == "hull":
        whole = _hull(features)
        return np.array([_hull(features[column]) / whole for column in members.T])
    if volume == "neighbours":
        k = min(NEIGHBOURS, len(features))
        near = NearestNeighbors(n_neighbors=k).fit(features).kneighbors(features, return_distance=False)
        members = members[near].mean(axis=1) > 0.5
    shares = prior @ members
    return np.asarray(np.where(shares > 0, shares, np.nan))


def _hull(points: np.ndarray) -> float:
    if points.shape[1] == 1:
        return float(np.ptp(points)) or float("nan")
    try:
        return float(ConvexHull(points).volume)
    except (QhullError, ValueError):
        return float("nan")


Kind = Literal["kl", "size"]
LAB_BANDWIDTH = 8.0
"""In CIELAB units: the width of meanings in Zaslavsky et al. 2018 (a variance of 64)."""
FLEXIBILITIES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class System:
    """Measures of a lexicon as a whole: complexity, accuracy, success and sizes.

    Attributes:
        complexity_bits: I(M;W), what words cost: the mean bits of a word, weighted by how often it is said.
        accuracy_bits: I(W;U), what words tell of the world, where meanings are clouds around referents.
        success_rate: how often a listener who hears a word, among all referents, picks the one that was meant.
        words_per_referent: the mean number of different words that a referent has.
        effective_words: 2 to the power of H(W|M): words per referent, counted by how evenly they are used.
        n_referents, n_words: sizes.
    """

    complexity_bits: float
    accuracy_bits: float
    success_rate: float
    words_per_referent: float
    effective_words: float
    n_referents: int
    n_words: int


@dataclass(frozen=True)
class Lexicon:
    """Lexicon: naming distribution p(w|m) of referents m in a feature space, with their prior p(m).

    Attributes:
        referents: what is named.
        names: the words.
        naming: (referents, names): p(w|m).
        prior: (referents,): p(m).
        features: (referents, d).
        columns: names of the features.
        kind: which informativeness: see `informativeness`.
        volume: how a denotation is measured, for "size".
        bandwidth: width of meanings in feature space, for accuracy.
        smoothing: referents drawn from the prior that are added to each word's, for "kl".
        counts: how often each name was given, (names,); all nan where there are only probabilities.
    """

    referents: tuple[Any, ...]
    names: tuple[str, ...]
    naming: Float[np.ndarray, "referents names"]
    prior: Float[np.ndarray, " referents"]
    features: Float[np.ndarray, "referents d"]
    columns: tuple[str, ...]
    kind: Kind = "kl"
    volume: Volume = "cells"
    bandwidth: float = 1.0
    smoothing: float = 0.0
    counts: Float[np.ndarray, " names"] | None = None

    def __repr__(self) -> str:
        sizes = f"{len(self.names)} words for {len(self.referents)} referents"
        return one_line("Lexicon", sizes, f"kind={self.kind!r}")

    def _repr_html_(self) -> str:
        """Sizes, and the words with their bits, most informative first, for notebooks."""
        sizes = f"{len(self.names)} words for {len(self.referents)} referents"
        return cell("Lexicon", f"{sizes}; informativeness by {self.kind}.", Table(self.informativeness()))

    @classmethod
    def fit(
        cls,
        counts: NamingCounts,
        features: pd.DataFrame,
        *,
        kind: Kind = "kl",
        volume: Volume = "cells",
        prior: pd.Series[float] | None = None,
        bandwidth: float | None = None,
        smoothing: float = 0.0,
    ) -> Lexicon:
        """Lexicon of naming data: p(w|m) as the share of a referent's names.

        Args:
            counts: how often each name was given to each referent.
            features: indexed by referent, one column per dimension; columns L, a, b are CIELAB.
            kind: "kl" (default): the bits a Bayesian listener gains, KL(p(m|w) || p(m)); "size": -log2 of the share of
                the space that the word's denotation covers. The two are equal for words with sharp borders.
            volume: for "size": "cells", "hull" or "neighbours", see `covered`.
            prior: weight of each referent; None: all the same.
            bandwidth: width of meanings; None: 8 in CIELAB, else the median distance to the nearest neighbour.
            smoothing: for "kl": so many referents drawn from the prior are added to each word, so that a word said once
                does not count as perfectly precise.

        Raises:
            DataError: a referent without features, features or colours on a wrong scale, a prior that does not fit.
            ConfigError: unknown kind or volume.

        Source: after Gualdoni and Boleda 2024, arXiv 2410.07827; the family and its default are ours (see the docs).
        """
        check_choice("kind", kind, get_args(Kind))
        check_choice("volume", volume, get_args(Volume))
        if not 0 <= smoothing < math.inf or not (bandwidth is None or 0 < bandwidth < math.inf):
            got = f"smoothing {smoothing}, bandwidth {bandwidth}"
            raise DataError(explain(got, "finite numbers, none below 0, bandwidth above 0"))
        values, referents = counts.features_of(features), counts.referents
        check_cells(len(referents), len(referents), "referents")
        weights = np.ones(len(referents))
        if prior is not None:
            frame = prior.reindex(referents).to_frame("prior")
            check_known(frame, "prior")
            weights = frame["prior"].to_numpy(dtype=float)
        wrong = ~((weights > 0) & (weights < math.inf))
        if wrong.any():
            raise DataError(explain(f"a prior of {weights[wrong][0]:g}", "finite weights above 0"))
        table = counts.matrix().astype(float)
        return cls(
            referents=tuple(referents),
            names=tuple(counts.names),
            naming=table / table.sum(axis=1, keepdims=True),
            prior=weights / weights.sum(),
            features=values,
            columns=tuple(map(str, features.columns)),
            kind=kind,
            volume=volume,
            bandwidth=bandwidth or bandwidth_of(features, values),
            smoothing=smoothing,
            counts=table.sum(axis=0),
        )

    @cached_property
    def words(self) -> Float[np.ndarray, " names"]:
        """Word probabilities p(w) = sum of p(m) p(w|m): how often each word is said."""
        return np.asarray(self.prior @ self.naming)

    @cached_property
    def info_bits(self) -> Float[np.ndarray, " names"]:
        """Informativeness of each word in bits; nan where a denotation has no volume."""
        if self.kind == "size":
            return np.asarray(-np.log2(covered(self.naming > 0, self.prior, self.features, self.volume)))
        given = (self.naming * self.prior[:, None]).T / self.words[:, None]
        if self.smoothing:
            counts = np.ones(len(self.names)) if self.counts is None else self.counts
            share = (counts / (counts + self.smoothing))[:, None]
            given = share * given + (1 - share) * self.prior
        return np.asarray(np.maximum(rel_entr(given, self.prior).sum(axis=1) / np.log(2), 0.0))

    def meanings(self) -> Float[np.ndarray, "referents referents"]:
        """Meanings p(u|m): a cloud around each referent, normal with the bandwidth, over the referents."""
        squared = cdist(self.features, self.features, "sqeuclidean") / (2 * self.bandwidth**2)
        clouds = np.exp(-squared)
        return np.asarray(clouds / clouds.sum(axis=1, keepdims=True))

    def informativeness(self) -> pd.DataFrame:
        """Words by bits: columns name, info_bits, denotation (how many referents it was used for), probability p(w)."""
        columns = {"name": self.names, "info_bits": self.info_bits}
        columns |= {"denotation": (self.naming > 0).sum(axis=0), "probability": self.words}
        frame = pd.DataFrame(columns)
        return frame.sort_values(["info_bits", "name"], ascending=[False, True], ignore_index=True)

    def plane(self) -> pd.DataFrame:
        """Words on the plane of complexity and accuracy, whose means weighted by probability are those of `system`.

        Columns name, complexity_bits (of `plane_of_words`: unsmoothed, whatever the kind), accuracy_bits, probability;
        the most probable first.
        """
        complexity, accuracy = plane_of_words(self.prior, self.naming, self.meanings())
        frame = pd.DataFrame({"name": self.names, "complexity_bits": complexity, "accuracy_bits": accuracy})
        frame = frame.assign(probability=self.words)
        return frame.sort_values(["probability", "name"], ascending=[False, True], ignore_index=True)

    def system(self) -> System:
        """Measures of the lexicon as a whole: complexity, accuracy, success and effective words."""
        complexity, accuracy = plane(self.prior, self.naming, self.meanings())
        heard = (self.naming * self.prior[:, None]) / self.words
        each = -rel_entr(self.naming, 1.0).sum(axis=1) / np.log(2)
        return System(
            complexity_bits=complexity,
            accuracy_bits=accuracy,
            success_rate=float((self.prior[:, None] * self.naming * heard).sum()),
            words_per_referent=float(np.average((self.naming > 0).sum(axis=1), weights=self.prior)),
            effective_words=float(2.0 ** (self.prior @ each)),
            n_referents=len(self.referents),
            n_words=len(self.names),
        )

    def choose(
        self,
        referent: Any,
        distractors: Sequence[Any],
        *,
        speaker: Speaker | None = None,
        prior: Sequence[float] | None = None,
    ) -> pd.DataFrame:
        """Pragmatic speaker's choice of a word for a referent among distractors.

        Args:
            referent: what is meant.
            distractors: the other candidates.
            speaker: how success and bits are weighed.
            prior: of the candidates, the referent first; None: all the same.

        Returns:
            Words of the referent, the preferred first: name, p_success (that a listener picks the referent), info_bits,
            preference (the chance that the speaker says it).

        Raises:
            DataError: an unknown referent, the same candidate twice, or a prior that does not fit.
        """
        candidates = [referent, *distractors]
        places = [self._place(one) for one in candidates]
        if len(set(places)) < len(places):
            raise DataError(explain(f"candidates {candidates}", "different ones"))
        weights = np.full(len(places), 1.0) if prior is None else np.asarray(prior, dtype=float)
        usable = np.isfinite(weights).all() and (weights >= 0).all()
        if weights.shape != (len(places),) or not usable or not weights[0] > 0:
            expected = f"{len(places)} weights, the referent's above 0"
            raise DataError(explain(f"prior {list(weights)}", expected))
        naming = self.naming[places]
        success = np.where(naming[0] > 0, contexts.listener(naming, weights)[0], 0.0)
        preference = contexts.speaker_choice(success, self.info_bits, speaker or Speaker())
        frame = pd.DataFrame({"name": self.names, "p_success": success, "info_bits": self.info_bits})
        frame = frame.assign(preference=preference)[success > 0]
        return frame.sort_values(["preference", "name"], ascending=[False, True], ignore_index=True)

    def simulate(
        self,
        flexibility: float | Sequence[float] = FLEXIBILITIES,
        *,
        trials: Trials | None = None,
        speaker: Speaker | None = None,
    ) -> pd.DataFrame:
        """Accuracy against bits conveyed by simulated speakers, from one word per referent up to all words in context.

        See `contexts.simulated` for the columns. The same trials serve every flexibility and every lexicon of the
        same referents, so lexicons can be compared.
        """
        wanted = [float(flexibility)] if isinstance(flexibility, int | float) else list(flexibility)
        candidates = contexts.draw_trials(self.features, self.prior, trials or Trials())
        return contexts.simulated(self.naming, self.info_bits, candidates, wanted, speaker or Speaker())

    def frontier(self, betas: Float[np.ndarray, " n"] | None = None) -> Frontier:
        """Information bottleneck frontier: the most accuracy of any lexicon for its complexity, by annealing."""
        meanings = self.meanings()
        return Frontier(bottleneck(self.prior, meanings, betas=betas), self.prior, meanings)

    def in_context(self, counts: NamingCounts, easy: str, hard: str, **settings: Any) -> contexts.InContext:
        """Bits per word in easy and in hard contexts; see `contexts.in_context`."""
        bits = pd.Series(self.info_bits, index=list(self.names))
        return contexts.in_context(bits, self.referents, counts, easy, hard, **settings)

    def with_naming(self, naming: Float[np.ndarray, "referents names"], names: Sequence[str]) -> Lexicon:
        """Lexicon of the same referents with another naming distribution."""
        return replace(self, naming=naming, names=tuple(names), counts=None)

    def _place(self, referent: Any) -> int:
        there = [label_text(one, strip=False) for one in self.referents]
        same = find_label(referent, there)
        if same is None:
            expected = f"one of {len(there)} referents ({', '.join(there[:5])}, ...)"
            raise DataError(explain(f"referent {show(referent)}", expected, nearest(str(referent), there)))
        return there.index(same)


def bandwidth_of(features: pd.DataFrame, values: np.ndarray) -> float:
    """Bandwidth of meanings: 8 in CIELAB, else the median distance to the nearest neighbour."""
    if is_lab(features):
        return LAB_BANDWIDTH
    distances = cdist(values, values)
    np.fill_diagonal(distances, np.inf)
    near = distances.min(axis=1)
    near = near[np.isfinite(near) & (near > 0)]
    return float(np.median(near)) if len(near) else 1.0


@dataclass(frozen=True)
class Inefficiency:
    """Inefficiency of a lexicon: its distance from the frontier, in bits.

    Attributes:
        bits: (F_beta[lexicon] - F_beta[best]) / beta at the beta where that is smallest; 0 on the frontier.
        beta: that beta.
    """

    bits: float
    beta: float


@dataclass(frozen=True)
class Frontier:
    """Information bottleneck frontier of some referents, by annealing.

    Attributes:
        best: the optimal lexicons.
        prior: of the referents.
        meanings: p(u|m).
    """

    best: Bottleneck
    prior: Float[np.ndarray, " referents"]
    meanings: Float[np.ndarray, "referents referents"]

    __repr__ = brief

    def to_frame(self) -> pd.DataFrame:
        """Frame of the frontier: columns beta, complexity_bits, accuracy_bits, words; from coarse to fine."""
        names = ("beta", "complexity_bits", "accuracy_bits", "words")
        frame = pd.DataFrame({name: getattr(self.best, name) for name in names})
        return frame.sort_values("beta", ignore_index=True)

    def inefficiency(self, lexicon: Lexicon | Float[np.ndarray, "referents names"]) -> Inefficiency:
        """Inefficiency of a lexicon p(w|m): the least (F_beta[lexicon] - F_beta[best]) / beta over beta, in bits.

        Source: Zaslavsky, Kemp, Regier and Tishby 2018, equation 7.
        """
        naming = lexicon if isinstance(lexicon, np.ndarray) else lexicon.naming
        complexity, accuracy = plane(self.prior, naming, self.meanings)
        gaps = (complexity - self.best.beta * accuracy - self.best.objective()) / self.best.beta
        nearest = int(np.argmin(gaps))
        return Inefficiency(float(gaps[nearest]), float(self.best.beta[nearest]))
