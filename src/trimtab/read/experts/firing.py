"""Sentences at which experts fire: for the best units of a concept, their strongest examples, token by token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from transformers import PreTrainedTokenizerBase

from trimtab.models.tokenizer import Added
from trimtab.read.experts.lens import ExpertLens
from trimtab.read.experts.places import place_names
from trimtab.report.formats import fixed, number
from trimtab.report.page import Mark, Passage, Table, Text

UNITS, SENTENCES = 2, 3
"""Best units of a concept that are read token by token, and sentences of each."""
AROUND = 70
"""Characters of a sentence that are kept before and after the token."""
CONCEPTS = 100
"""Concepts on a page, at most."""
COLUMNS = ["concept", "site", "unit", "ap", "positive", "response", "activation", "before", "token", "after"]


@dataclass(frozen=True)
class Firing:
    """Strongest examples of the best units of each concept, with the token at which each unit fires.

    Attributes:
        table: columns concept, site, unit, ap; positive (whether the example has the concept), response (pooled, by
            which examples are ranked), activation (the largest of a token), before, token, after (parts of the text).
        reason: why there is none; "" where there is one.
    """

    table: pd.DataFrame
    reason: str = ""


@dataclass(frozen=True)
class _Shown:
    """A unit and one of its strongest examples."""

    concept: int
    unit: int
    row: int
    positive: bool
    response: float


def firing(lens: ExpertLens) -> Firing:
    """Strongest examples of the best units, by pooled response, and the token with the largest activation in each.

    They are among the examples of the concept, of both kinds. Units are those of highest average precision, whatever
    it is.

    Args:
        lens: of texts; concepts of pictures, and tokenizers that do not say where a token stands in a text, have none.
    """
    nothing = pd.DataFrame(columns=COLUMNS)
    if not lens.concepts.textual:
        return Firing(nothing, "pictures have no tokens")
    tokenizer = lens.responses.model.need_tokenizer()
    if not tokenizer.is_fast:
        return Firing(nothing, "the tokenizer does not say where a token stands in a text")
    chosen = list(_strongest(lens))
    by_site = defaultdict(list)
    owners = lens.units.site_numbers
    for one in chosen:
        by_site[owners[one.unit]].append(one)
    activations: dict[tuple[int, int], Float[np.ndarray, " tokens"]] = {}
    for owner, members in by_site.items():
        rows, units = (
            [one.row for one in members],
            [int(one.unit - lens.units.starts[owner]) for one in members],
        )
        values = lens.responses.by_token(lens.units.sites[owner], rows, units)
        pairs = ((one.row, one.unit) for one in members)
        activations.update(zip(pairs, values, strict=True))
    texts = TokenPlaces(tokenizer, Added.of(tokenizer), lens.responses.examples, lens.responses.token_ids)
    named = lens.units.named(np.array([one.unit for one in chosen]))
    found = []
    for one, (site, unit) in zip(chosen, named.itertuples(index=False), strict=True):
        each = activations[one.row, one.unit]
        if len(each):
            place = int(each.argmax())
            unit_of = (lens.concepts.names[one.concept], site, unit, lens.precision[one.concept, one.unit])
            fires = (one.positive, one.response, float(each[place]))
            found.append((*unit_of, *fires, *texts.parted(one.row, place)))
    return Firing(
        pd.DataFrame(found, columns=COLUMNS), "" if found else "these sites have no place for each token"
    )


def _strongest(lens: ExpertLens) -> Iterator[_Shown]:
    """Best units of each concept, with the examples of the largest pooled responses; the first of equal ones."""
    best = np.argsort(-lens.precision, axis=1, kind="stable")[:, :UNITS]
    columns, places = np.unique(best, return_inverse=True)
    responses = lens.responses.of(np.arange(len(lens.responses.examples)), columns)
    for concept, labelling in enumerate(lens.labellings):
        positive = set(labelling.positive.tolist())
        for unit, place in zip(best[concept], places.reshape(best.shape)[concept], strict=True):
            values = responses[labelling.rows, place]
            for at in np.argsort(-values, kind="stable")[:SENTENCES]:
                row = int(labelling.rows[at])
                yield _Shown(concept, int(unit), row, row in positive, float(values[at]))


@dataclass(frozen=True)
class TokenPlaces:
    """Places of tokens in their texts, by the offsets that a fast tokenizer keeps.

    Attributes:
        tokenizer: only read.
        added: special tokens that it puts around every text.
        texts: any number.
        ids: token ids of each as a model reads it, whole or cut.
    """

    tokenizer: PreTrainedTokenizerBase
    added: Added
    texts: Sequence[str]
    ids: Sequence[Sequence[int]]

    def parted(self, row: int, place: int) -> tuple[str, str, str]:
        """A text in three parts: before a token, the token, after it; a special token stands at an end of it."""
        text, ids = self.texts[row], list(self.ids[row])
        settings: Mapping[str, Any] = {
            "add_special_tokens": False,
            "return_offsets_mapping": True,
            "verbose": False,
        }
        bare = self.tokenizer(text, **settings)
        first, length = _shared(ids, list(bare["input_ids"]), len(self.added.before))
        if not first <= place < first + length:
            name = str(self.tokenizer.convert_ids_to_tokens([ids[place]])[0])
            whole = _shortened(text, 2 * AROUND)
            return ("", name, f" {whole}") if place < first else (f"{whole} ", name, "")
        start, stop = bare["offset_mapping"][place - first]
        if text[start:stop].strip():  # a blank before a word is part of many tokens
            start += len(text[start:stop]) - len(text[start:stop].lstrip())
        before, after = text[:start], text[stop:]
        before = f"…{before[-AROUND:]}" if len(before) > AROUND else before
        return before, text[start:stop], _shortened(after, AROUND)


def firing_blocks(table: pd.DataFrame, reason: str, pool: str) -> Iterator[Text | Table]:
    """What the best units fire at, as a table whose sentences have the firing token marked; or why there is none.

    Args:
        table: see `Firing`.
        reason: see `Firing`.
        pool: how tokens became one response.
    """
    if reason:
        yield Text(f"No sentences are shown: {reason}.")
    if not len(table):
        return
    names = table["concept"].unique()
    shown = table[table["concept"].isin(names[:CONCEPTS])]
    marked = [
        Passage(before, token, after, f"activation {number(value)}")
        for before, token, after, value in shown[["before", "token", "after", "activation"]]
        .to_numpy()
        .tolist()
    ]
    columns: dict[str, Any] = {"concept": shown["concept"], "sentence": pd.Series(marked, index=shown.index)}
    columns["activation"] = shown["activation"]
    if pool != "max":
        columns["response"] = shown["response"]
    columns["example"] = shown["positive"].map({True: "positive", False: "negative"})
    columns |= {"AP": shown["ap"], "unit": shown["unit"], "place": place_names(shown["site"])}
    tones: dict[str, Any] = {
        "AP": fixed,
        "example": lambda side: Mark(side, "" if side == "positive" else "unsure"),
    }
    yield Table(pd.DataFrame(columns), " ".join(_caption(table, len(names), pool)), tones)


def _caption(table: pd.DataFrame, concepts: int, pool: str) -> Iterator[str]:
    units = table.groupby(["concept", "site", "unit"], sort=False).size()
    most, each = int(units.groupby("concept").size().max()), int(units.max())
    of_each = f"the {most} units of highest average precision of each concept"
    yield f"{len(table)} rows: {of_each}, and the {each} examples each responds to most."
    yield "The token with the largest activation is marked."
    if pool != "max":
        yield f"A response is pooled over tokens ({pool}), so it is not the activation of the marked one."
    yield f"{int(table['positive'].sum())} of {len(table)} examples have the concept of their row."
    yield "Units were picked by these examples, which therefore are no test of them."
    if concepts > CONCEPTS:
        yield f"The first {CONCEPTS} of {concepts} concepts are shown."


def _shared(ids: Sequence[int], bare: Sequence[int], most: int) -> tuple[int, int]:
    """Where the tokens of a text begin in a row, behind at most so many special ones, and how many of them there are.

    >>> _shared([1, 5, 6, 2], [5, 6, 7], 1)
    (1, 2)
    """
    found = []
    for start in range(most + 1):
        pairs = zip(ids[start:], bare, strict=False)
        same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(ids) - start, len(bare)))
        found.append((same, -start))
    same, start = max(found)
    return -start, same


def _shortened(text: str, most: int) -> str:
    return f"{text[:most]}…" if len(text) > most else text
