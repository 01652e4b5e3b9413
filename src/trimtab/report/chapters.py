"""A page about one result, or about several: a table that compares them, and a folded chapter for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import pandas as pd

from trimtab.errors import DataError, explain
from trimtab.report.page import Page, Section, Table, Text


class Labelled(Protocol):
    """A result with a short name."""

    @property
    def label(self) -> str:
        """What it is called beside others."""
        ...


Result = TypeVar("Result", bound=Labelled)


def chapters_page(
    title: str,
    results: Sequence[Result],
    told: str,
    *,
    verdict: Callable[[Result], str],
    chapter: Callable[[Result], Iterable[Section]],
    compared: Callable[[Sequence[Result], Sequence[str]], Table] | None = None,
) -> str:
    """One self-contained HTML page: the chapter of one result, or folded chapters of several under numbered labels.

    Args:
        title: of the page.
        results: in the order of their numbers.
        told: what several are, after their number: "models beside one another".
        verdict: one result in a sentence or two.
        chapter: the sections about one result.
        compared: a table of several results and their numbered labels; None for no such section.

    Raises:
        DataError: there is no result.
    """
    if not results:
        raise DataError(explain("no result", "at least one finished run", "trimtab runs"))
    if len(results) == 1:
        return Page(title, verdict(results[0]), list(chapter(results[0]))).render()
    labels = [f"{place}. {result.label}" for place, result in enumerate(results, start=1)]
    beside = [Section("Compared", [compared(results, labels)])] if compared is not None else []
    chapters = [
        Section(label, [Text(verdict(result)), *chapter(result)], collapsed=True)
        for label, result in zip(labels, results, strict=True)
    ]
    return Page(title, f"{len(results)} {told}.", [*beside, *chapters]).render()


def settings_section(rows: Iterable[tuple[str, object]]) -> Section:
    """A folded table of settings and what they were."""
    frame = pd.DataFrame([(name, str(value)) for name, value in rows], columns=["setting", "value"])
    return Section("Settings", [Table(frame)], collapsed=True)
