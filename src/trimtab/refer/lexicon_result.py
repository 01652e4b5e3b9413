"""What a look at lexicons came to: a value that knows its settings and every number of its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from trimtab.runs.atomic import write_atomic
from trimtab.runs.result_file import checked, read_result, reading_result, write_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1


@dataclass(frozen=True)
class LexiconResult:
    """The outcome of a job about lexicons.

    Attributes:
        label: a short name.
        words: name, info_bits, denotation, probability of the first lexicon (see `Lexicon.informativeness`).
        systems: one row per lexicon: lexicon, the fields of `System`, inefficiency_bits, beta.
        frontier: beta, complexity_bits, accuracy_bits, words.
        simulation: lexicon, flexibility, success and info_bits with their ends, n.
        contexts: treatment of modifiers, smoothing, then the columns of `InContext.comparison`; empty without contexts.
        accounting: step, reason, n_messages.
        places: referent, x, y, colour ("" where features are not colours), then p(w|m) of the words that are drawn.
        config: everything needed to do it again.
        seconds: it took.
        aside: treatment, then the columns of `contexts.set_aside`: how many messages are not compared, by context.
    """

    label: str
    words: pd.DataFrame
    systems: pd.DataFrame
    frontier: pd.DataFrame
    simulation: pd.DataFrame
    contexts: pd.DataFrame
    accounting: pd.DataFrame
    places: pd.DataFrame
    config: Mapping[str, Any]
    seconds: float
    aside: pd.DataFrame = field(default_factory=pd.DataFrame)

    def to_frame(self) -> pd.DataFrame:
        """The lexicons on the plane."""
        return self.systems.copy()

    def figure(self) -> Figure:
        """The plane of complexity and accuracy."""
        from trimtab.refer.lexicon_page import plane_figure

        return plane_figure(self)

    def report(self, path: str | Path) -> Path:
        """Write the report page (one self-contained HTML file) and return its path."""
        from trimtab.refer.lexicon_page import page

        write_atomic(Path(path), page([self], title=self.label))
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write every number into a run's folder."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return write_result(folder, SCHEMA, values, indent=1)

    @classmethod
    def load(cls, folder: str | Path) -> LexiconResult:
        """Read the result of a finished run.

        Raises:
            CheckpointError: there is none (yet), or another version of trimtab wrote it.
        """
        found = read_result(folder, SCHEMA)
        with reading_result(folder):
            return checked(cls, found)
