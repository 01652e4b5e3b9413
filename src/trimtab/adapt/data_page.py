"""The part of a run's page about its data: what was read, left out and cut, and what is learned of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from trimtab.report.numbers import NOTHING
from trimtab.report.page import Mark, Section, Table

if TYPE_CHECKING:
    from trimtab.adapt.result import FinetuneResult

_MUCH = 0.05
_OPEN = 3
"""Examples shown unfolded."""


def data_sections(result: FinetuneResult) -> Iterator[Section]:
    """The section "Data"; none for a result that an earlier version wrote."""
    if len(result.data):
        blocks: list[Table | Section] = [_counts(result.data)]
        tables = [_example(name, result.examples[name]) for name in result.examples]
        if tables:
            title = "What is learned: the first sequence of each training domain"
            blocks.append(Section(title, tables, collapsed=len(tables) > _OPEN))
        yield Section("Data", blocks)


def _counts(data: pd.DataFrame) -> Table:
    rows = data.to_dict("records")
    frame = pd.DataFrame(
        {
            "domain": data["domain"],
            "split": data["split"],
            "records": data["records"],
            "blank": data["blank"],
            "left out": [_part(row["skipped"], row["records"]) for row in rows],
            "dropped": [_part(row["dropped"], row["records"]) for row in rows],
            "sequences": data["sequences"],
            "cut": [_part(row["truncated"], row["sequences"]) for row in rows],
            "tokens": data["tokens"],
            "tokens left over": data["left_over"],
            "sequences read": data["read"],
            "records read": data["read_records"],
        }
    )
    caption = (
        "Blank records are skipped, and not among the records. Left out: conversations that the chat template refuses "
        "or does not write as they are. Dropped: without a predicted token that carries loss within a sequence. Cut: "
        "sequences that were longer. Left over: tokens of packed text after the last full sequence. Read: by each "
        "evaluation of that split; a sequence of packed text counts as of one record, that of most of it."
    )
    return Table(frame, caption)


def _part(count: Any, of: Any) -> Mark:
    """A count with its share; unsure where that is more than a few per cent."""
    if not count:
        return Mark("0")
    share = count / of if of else 1.0
    percent = f"{100 * share:.0f}" if share >= 0.01 else "below 1"
    return Mark(f"{int(count)} ({percent} %)", "unsure" if share > _MUCH else "")


def _example(name: str, stretches: tuple[tuple[str, bool], ...]) -> Table:
    frame = pd.DataFrame(
        {
            "loss": ["yes" if learned else NOTHING for _, learned in stretches],
            "text": [text.replace("\n", "\u21b5 ") for text, _ in stretches],
        },
        dtype=object,
    )
    marked = [place for place, (_, learned) in enumerate(stretches) if learned]
    return Table(
        frame, f"{name}: the tokens of the marked rows carry loss, the others are only read.", marked=marked
    )
