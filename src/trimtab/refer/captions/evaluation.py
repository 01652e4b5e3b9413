"""Evaluation of a speaker before and after tuning: what listeners find, what people would say, what is in the picture.

Captions of both are of the same pictures, so differences are paired, and resampled by picture or by group of pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from trimtab.data.pictures import Pictures
from trimtab.errors import refusal
from trimtab.numerics.bootstrap import Interval, bootstrap, mean, mean_difference, ratio_of_sums, wilson
from trimtab.refer.captions.faithfulness import Truth, faithfulness, values_said
from trimtab.refer.captions.listener import Gallery, Listener, given_sets, random_sets
from trimtab.refer.captions.training import words_of
from trimtab.refer.choices import CHOICES

RANDOM, HARD = "random", "hard"
FIRST, OTHER = "listener", "independent"
NONE: Mapping[str, Any] = {"value": None, "low": None, "high": None, "n": 0}
"""What is not measured."""

Captions = Mapping[str, str]
"""Picture -> its caption, in the order of the test pictures."""


@dataclass(frozen=True, eq=False)
class TestSet:
    """Pictures to judge captions by.

    Attributes:
        pictures: all that candidate sets name.
        names: of those that are captioned.
        candidates: hard sets; None for none.
        references: captions by people.
        told: truth of the captioned pictures; empty where it is not known.
        clusters: group of each captioned picture.
        n: size of random candidate sets.
        seed: of the random sets and the resamples.
        others: further captions by people, by the name of their set.
    """

    __test__ = False  # pytest: no test

    pictures: Pictures
    names: tuple[str, ...]
    candidates: pd.DataFrame | None = None
    references: Mapping[str, Sequence[str]] = field(default_factory=dict)
    told: Mapping[str, Truth] = field(default_factory=dict)
    clusters: tuple[str, ...] = ()
    n: int = 100
    seed: int = 0
    others: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)

    def interval(self, value: Float[np.ndarray, " names"]) -> Interval:
        """Mean with its interval, resampled by cluster; Wilson's where all are 0 or all are 1, which has a width."""
        if float(value.min()) == float(value.max()) in (0.0, 1.0):
            n = len(set(self.clusters)) if self.clusters else len(value)
            return wilson(int(value[0]) * n, n)
        return bootstrap(mean, value, clusters=self.clusters or None, seed=self.seed)

    def change(self, before: np.ndarray, after: np.ndarray) -> Interval:
        """Mean of after less before, paired."""
        return bootstrap(
            mean_difference, after, before, paired=True, clusters=self.clusters or None, seed=self.seed
        )


@dataclass(frozen=True, eq=False)
class Judge:
    """A listener with its view of the test pictures.

    Attributes:
        role: "listener" for the one that gave the rewards, "independent" for one that did not.
        listener: itself.
        targets: the captioned pictures, in order.
        shown: every picture of the candidate sets; the same as the targets where there are no such sets.
    """

    role: str
    listener: Listener
    targets: Gallery
    shown: Gallery

    @classmethod
    def of(cls, role: str, listener: Listener, test: TestSet) -> Judge:
        """The listener after a look at every test picture.

        Raises:
            DataError: a picture that cannot be read, targets that are copies of one picture, or a candidate set of
                copies of its target.
        """
        targets = listener.gallery(test.pictures.select(test.names))
        if (different := len(set(targets.keys))) < 2:
            raise refusal("test", f"{different} different pictures to caption", "at least 2")
        if test.candidates is None:
            return cls(role, listener, targets, targets)
        shown = listener.gallery(test.pictures)
        given_sets(shown, test.candidates)
        return cls(role, listener, targets, shown)


def retrieval(test: TestSet, judges: Sequence[Judge], before: Captions, after: Captions) -> pd.DataFrame:
    """P@1 of each listener on random and on hard candidate sets, before and after.

    Columns: listener (its role), name, candidates ("random" or "hard"), size (of a set), before, before_low,
    before_high, after, after_low, after_high, change, change_low, change_high, n (captions).
    """
    rows = []
    for judge in judges:
        n = min(test.n, len(set(judge.targets.keys)))
        kinds: list[tuple[str, Gallery, dict[str, Any], int]] = []
        kinds.append((RANDOM, judge.targets, {"n": n, "seed": test.seed}, n))
        if test.candidates is not None:
            size = int(test.candidates["candidates"].map(len).max())
            kinds.append((HARD, judge.shown, {"candidates": test.candidates}, size))
        for kind, gallery, how, size in kinds:
            sides = ([captions[name] for name in test.names] for captions in (before, after))
            first, second = (judge.listener.hits(1, texts, gallery, **how) for texts in sides)
            row: dict[str, Any] = {
                "listener": judge.role,
                "name": place_name(judge.listener.name),
                "candidates": kind,
                "size": size,
            }
            ends = _pair(test.interval(first), test.interval(second), test.change(first, second))
            rows.append(row | ends | {"n": len(first)})
    return pd.DataFrame(rows)


def choices(
    test: TestSet, judges: Sequence[Judge], before: Captions, after: Captions, most: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Candidate sets of the first test pictures, and what each listener chose with the captions before and after.

    The sets are those of `retrieval`: the hard ones where there are any, else the random ones.

    Returns:
        item, candidates, target; and the columns of `refer.choices.CHOICES`, ties sharing an answer.
    """
    names = test.names[:most]
    if test.candidates is not None:
        sets = test.candidates[["item", "candidates", "target"]].head(most).reset_index(drop=True)
    else:
        gallery = judges[0].targets
        n = min(test.n, len(set(gallery.keys)))
        drawn = random_sets(gallery, n, test.seed)[: len(names)]
        listed = [[gallery.names[row] for row in (target, *others)] for target, others in drawn]
        sets = pd.DataFrame({"item": names, "candidates": listed, "target": names})
    rows = []
    for judge in judges:
        for when, captions in (("before", before), ("after", after)):
            texts = [captions[name] for name in names]
            near = judge.listener.nearest(texts, sets, judge.shown)
            for item, chosen in zip(names, near, strict=True):
                rows += [(item, when, judge.role, name, 1 / len(chosen)) for name in chosen]
    return sets, pd.DataFrame(rows, columns=list(CHOICES))


def place_name(name: str) -> str:
    """The name of a model without the path of its folder; a name of the hub stays whole."""
    return Path(name).name if Path(name).exists() else name


def _pair(before: Interval, after: Interval, change: Interval) -> dict[str, Any]:
    """The columns of a quantity before and after."""
    cells: dict[str, Any] = {}
    for name, one in (("before", before), ("after", after), ("change", change)):
        cells |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
    return cells


def p_at_1(table: pd.DataFrame, candidates: str = RANDOM) -> dict[str, dict[str, Any]]:
    """P@1 of the two listeners before and after, each as value, low, high and n; None for what was not measured."""
    found: dict[str, dict[str, Any]] = {}
    for role, prefix in ((FIRST, ""), (OTHER, "independent_")):
        rows = table[(table["listener"] == role) & (table["candidates"] == candidates)]
        for when in ("before", "after"):
            found[prefix + when] = dict(NONE)
            if len(rows):
                row = rows.iloc[0]
                ends = {"value": row[when], "low": row[f"{when}_low"], "high": row[f"{when}_high"]}
                found[prefix + when] = {key: _plain(one) for key, one in ends.items()} | {"n": int(row["n"])}
    return found


def _plain(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def wording(test: TestSet, before: Captions, after: Captions) -> pd.DataFrame:
    """Columns captions (before, after and people, where given), length, repetition, vocabulary and n."""
    told = [captions[0] for name in test.names if (captions := test.references.get(name))]
    sides = {"before": list(before.values()), "after": list(after.values())} | (
        {"people": told} if told else {}
    )
    rows = [{"captions": side, **words_of(texts), "n": len(texts)} for side, texts in sides.items()]
    return pd.DataFrame(rows)


def truthfulness(test: TestSet, before: Captions, after: Captions) -> pd.DataFrame:
    """Hallucinated and omitted attributes before and after, and of people's first captions: shares with intervals.

    Columns: captions, hallucinated (share of the named values), omitted (share of the true ones), each with low and
    high; named (values per caption), n. Values that no reference of the test pictures names do not count. Empty where
    the pictures come without a truth.
    """
    if not test.told:
        return pd.DataFrame()
    people = {name: test.references[name][0] for name in test.names if test.references.get(name)}
    every = [text for name in test.names for text in test.references.get(name, ())]
    said = values_said(every, test.told.values()) if every else None
    places = {name: place for place, name in enumerate(test.names)}
    rows = []
    for side, captions in {"before": before, "after": after, "people": people}.items():
        if not captions:
            continue
        counts = faithfulness(captions, test.told, said)
        groups = [test.clusters[places[item]] for item in counts["item"]] if test.clusters else None
        row: dict[str, Any] = {"captions": side}
        for name, of in (("hallucinated", "named"), ("omitted", "true")):
            top, base = (counts[column].to_numpy(float) for column in (name, of))
            one = share(top, base, groups, test.seed)
            row |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
        rows.append(row | {"named": float(counts["named"].mean()), "n": len(counts)})
    return pd.DataFrame(rows)


def share(top: np.ndarray, base: np.ndarray, groups: Sequence[str] | None, seed: int) -> Interval:
    """A ratio of sums with its interval; nan where there is nothing to take a share of.

    A share of 0 or 1 has Wilson's interval, of as many trials as there are captions or groups: the wider one.
    """
    if not base.sum():
        return Interval(math.nan, math.nan, math.nan, len(base))
    if top.sum() in (0, base.sum()):
        n = len(base) if groups is None else len(set(groups))
        return wilson(n if top.sum() else 0, n)
    kept = base > 0  # what has no such values adds nothing to either sum
    clusters = None if groups is None else np.asarray(groups)[kept]
    return bootstrap(ratio_of_sums, top[kept], base[kept], paired=True, clusters=clusters, seed=seed)


def warning_signs(table: pd.DataFrame, words: pd.DataFrame, truth: pd.DataFrame) -> tuple[str, ...]:
    """Signs of reward hacking, one sentence each: captions that the listener of the training alone understands better.

    Told are: repetition that rose to more than a tenth of the word pairs; captions twice as long as before and longer
    than people's; a gain of the listener that is beyond chance beside an independent one without, or with a loss; more
    attributes that are not in the picture, beyond the intervals.
    """
    signs = []
    sides = _by(words, "captions")
    old, new = sides["before"], sides["after"]
    if new["repetition"] > max(0.1, old["repetition"]):
        both = f"{new['repetition']:.2f} of their word pairs, {old['repetition']:.2f} before"
        signs.append(f"Captions repeat themselves: {both}.")
    longest = max(2 * old["length"], sides["people"]["length"] if "people" in sides else 0.0)
    if new["length"] > longest:
        signs.append(f"Captions have {new['length']:.1f} words, {old['length']:.1f} before.")
    for kind, rows in table.groupby("candidates", sort=False):
        change = _by(rows, "listener")
        if {FIRST, OTHER} <= set(change) and change[FIRST]["change_low"] > 0 >= change[OTHER]["change_low"]:
            signs.append(
                f"On {kind} sets the listener of the training gained, and for the independent one no gain is "
                f"distinguishable from chance ({change[OTHER]['change']:+.3f})."
            )
    if len(truth):
        seen = _by(truth, "captions")
        if seen["after"]["hallucinated_low"] > seen["before"]["hallucinated_high"]:
            both = f"{seen['after']['hallucinated']:.3f} of the values, {seen['before']['hallucinated']:.3f} before"
            signs.append(f"Captions name more that is not in the picture: {both}.")
    return tuple(signs)


def _by(frame: pd.DataFrame, column: str) -> dict[str, dict[str, Any]]:
    """The rows of a frame by the value of a column."""
    return {str(row[column]): {str(k): v for k, v in row.items()} for row in frame.to_dict("records")}


def with_captions(test: TestSet, before: Captions, after: Captions) -> pd.DataFrame:
    """The captions themselves: columns item, before, after, reference (the first of people's, or empty)."""
    people = [(test.references.get(name) or [""])[0] for name in test.names]
    columns = {"before": [before[n] for n in test.names], "after": [after[n] for n in test.names]}
    return pd.DataFrame({"item": list(test.names), **columns, "reference": people})
