"""Concept files of HyperTransport: JSON lines of a name, example prompts, and perhaps a split and values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import DataError, explain, nearest, refusal
from trimtab.runs.files import has_halves, parse_json, read_text
from trimtab.seeds import derive

TRAIN = "train"
"""The split of training concepts; every other one is held out."""
HELD_OUT = "held out"
"""The split of concepts that were drawn to be held out."""
SPLITS = {TRAIN: "training", "held_values": "held value", "held_combinations": "held combination"}
"""Split of a file -> its name in results; others keep theirs."""
TAKEN = ("training", "all held out")
"""Words of results that no split of a file may be."""
KEYS = ("concept", "prompts", "split", "values")
EXPECTED = '{"concept": "...", "prompts": ["...", "..."]}, perhaps with "split" and "values"'


@dataclass(frozen=True)
class ConceptRow:
    """A concept with its example prompts.

    Attributes:
        name: words for it.
        prompts: of a model, for what has the concept.
        split: "train", or what is held out and why; "" where the file does not say.
        values: attribute -> value, for a judge of attributes; empty where the file does not say.
    """

    name: str
    prompts: tuple[str, ...]
    split: str = ""
    values: Mapping[str, str] = field(default_factory=dict)


def read_concept_rows(path: str | Path) -> list[ConceptRow]:
    """Concepts of a file, in its order.

    Raises:
        DataError: no such file; a line that is no such object, named with its number; a name given twice; or a file in
            which some concepts have a split and others none.
    """
    rows, seen = list[ConceptRow](), dict[str, int]()
    text = read_text(path, "a file of concepts, one JSON object a line")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = _row(where, parse_json(line, where, EXPECTED))
        if (first := seen.setdefault(row.name, number)) != number:
            raise refusal(where, f"{row.name!r:.60} again, as on line {first}", "each concept once")
        rows.append(row)
    if not rows:
        raise refusal(str(path), "no concept", f"lines of {EXPECTED}")
    if len({not row.split for row in rows}) > 1:
        without = next(row.name for row in rows if not row.split)
        got = f"a split of some concepts, and none of {without!r:.60}"
        raise refusal(str(path), got, "a split of each concept, or of none")
    return rows


def _row(where: str, given: Any) -> ConceptRow:
    if not isinstance(given, dict):
        raise refusal(where, f"a {type(given).__name__}", EXPECTED)
    if unknown := next((key for key in given if key not in KEYS), None):
        raise refusal(where, f"the key {unknown!r:.60}", f"keys of {KEYS}", nearest(unknown, KEYS))
    name, prompts = given.get("concept"), given.get("prompts")
    if not isinstance(name, str) or not name.strip():
        raise refusal(where, f"the concept {name!r:.60}", EXPECTED)
    if not isinstance(prompts, list) or not all(isinstance(one, str) for one in prompts):
        raise refusal(where, f"prompts {prompts!r:.60}", "a list of texts")
    if any(map(has_halves, (name, *prompts))):
        raise refusal(where, "half a character (a lone surrogate)", "whole ones")
    split, values = given.get("split", ""), given.get("values", {})
    if not isinstance(split, str) or ("split" in given and not split.strip()):
        raise refusal(where, f"the split {split!r:.60}", f"a word, such as {TRAIN!r}")
    if split in TAKEN:
        raise refusal(where, f"the split {split!r}, as results call another", "another word", repr(TRAIN))
    if not isinstance(values, dict) or not all(isinstance(one, str) for one in values.values()):
        raise refusal(where, f"values {values!r:.60}", "an object of texts by attribute")
    return ConceptRow(name, tuple(prompts), split, values)


@dataclass(frozen=True)
class ConceptDraw:
    """Concepts of a run.

    Attributes:
        train: to train on.
        held_out: never trained on; as many of each split as of the others, as far as there are.
        shown: of those to train on, some that are measured too.
    """

    train: tuple[ConceptRow, ...]
    held_out: tuple[ConceptRow, ...]
    shown: tuple[ConceptRow, ...]

    @classmethod
    def of(
        cls, rows: Sequence[ConceptRow], train: int | None, held_out: int, shown: int, seed: int
    ) -> ConceptDraw:
        """Draw of concepts: by their splits, or at random where they have none.

        Args:
            rows: of the file.
            train: how many to train on; None for all that are not held out.
            held_out: how many to hold out.
            shown: how many of the training ones to measure.
            seed: of the draw.

        Raises:
            DataError: fewer concepts than asked for.
        """
        rng = np.random.default_rng(derive(seed, "concepts"))
        order = [rows[place] for place in rng.permutation(len(rows))]
        if rows[0].split:
            known = [row for row in order if row.split == TRAIN]
            unseen = list(_in_turn([row for row in order if row.split != TRAIN]))
        else:
            unseen = [ConceptRow(row.name, row.prompts, HELD_OUT, row.values) for row in order[:held_out]]
            known = [ConceptRow(row.name, row.prompts, TRAIN, row.values) for row in order[held_out:]]
        wanted = {
            "held out": (unseen, held_out),
            "to train on": (known, train or 2),
            "to show": (known[:train], shown),
        }
        for what, (there, least) in wanted.items():
            if len(there) < least:
                counts = ", ".join(f"{n} of {split or 'no split'}" for split, n in _counts(rows).items())
                raise DataError(
                    f"concepts: {explain(f'{len(there)} {what} ({counts})', f'at least {least}', 'fewer')}"
                )
        kept = tuple(known[: len(known) if train is None else train])
        return cls(kept, tuple(unseen[:held_out]), kept[:shown])

    @property
    def measured(self) -> tuple[ConceptRow, ...]:
        """Concepts that are measured, held-out ones first."""
        return (*self.held_out, *self.shown)


def _in_turn(rows: Sequence[ConceptRow]) -> Iterator[ConceptRow]:
    """Rows of each split in turn."""
    lines = [[row for row in rows if row.split == split] for split in sorted(_counts(rows))]
    for place in range(max(map(len, lines), default=0)):
        yield from (line[place] for line in lines if place < len(line))


def _counts(rows: Sequence[ConceptRow]) -> Mapping[str, int]:
    return Counter(row.split for row in rows)
