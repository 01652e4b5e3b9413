"""What looking for experts came to: a value that knows its settings and every number of its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from trimtab.runs.atomic import write_atomic
from trimtab.runs.result_file import checked, read_result, reading_result, write_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1
FRAMES = ("table", "concepts", "counts", "similarity", "experts", "differences")
_KEPT = ("label", "facts", "findings", "config", "seconds", *FRAMES)


@dataclass(frozen=True)
class ExpertsResult:
    """The outcome of an ExpertLens job.

    Attributes:
        label: a short name of the run, its model's unless told otherwise.
        table: alignment with ratings, see `trimtab.read.comparison.Alignment`; empty without ratings.
        concepts: columns concept, positive, negative, experts (by average precision), found (at the false discovery
            rate), best (highest average precision), overlap (of the experts of its halves), retrieved.
        counts: columns site and experts: over all concepts, units with their average precision above the threshold.
        similarity: Jaccard of experts, concepts as rows and columns.
        experts: columns concept, site, unit, ap, q: the best of each concept.
        facts: single numbers, each with n and an interval where it is a rate or a mean.
        findings: what a reader should know of the concepts, the ratings and the examples.
        config: everything needed to do the run again.
        seconds: of the run.
        differences: between the rho of rows of experts and of baselines, see `trimtab.read.comparison.Alignment`; empty
            without ratings, and for runs of versions that did not measure them.
    """

    label: str
    table: pd.DataFrame
    concepts: pd.DataFrame
    counts: pd.DataFrame
    similarity: pd.DataFrame
    experts: pd.DataFrame
    facts: Mapping[str, Any]
    findings: tuple[str, ...]
    config: Mapping[str, Any]
    seconds: float
    differences: pd.DataFrame = field(default_factory=pd.DataFrame)

    def to_frame(self) -> pd.DataFrame:
        """The table of alignment, or the concepts where nothing was rated."""
        return (self.table if len(self.table) else self.concepts).copy()

    def figure(self) -> Figure:
        """The map of concepts."""
        from trimtab.read.experts_figures import concept_map

        return concept_map(self.similarity)

    def report(self, path: str | Path) -> Path:
        """Write the report page (one self-contained HTML file) and return its path."""
        from trimtab.read.experts_page import page

        write_atomic(Path(path), page([self], title=self.label))
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write the numbers into a run's folder."""
        return write_result(folder, SCHEMA, {name: getattr(self, name) for name in _KEPT})

    @classmethod
    def load(cls, folder: str | Path) -> ExpertsResult:
        """Read the result of a finished run.

        Raises:
            CheckpointError: there is none (yet), or another version of trimtab wrote it.
        """
        found = read_result(folder, SCHEMA)
        with reading_result(folder):
            found["similarity"].index = found["similarity"].columns
            return checked(cls, found | {"findings": tuple(found["findings"])})
