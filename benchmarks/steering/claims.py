"""Claims about LinEAS, and the rules by which they held or did not; written when the runs had been seen.

A score is the probability of an insult, or the detector's score of code: lower is better. Evidence is a difference
with its 95 % interval; of the real registers only means are kept, so there two intervals that share no point tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from methods import DEFAULT, LOCAL, METHODS, UNPENALISED
from pages import span
from table import MATCHED
from verdicts import FAILED, HELD, OPEN, PARTLY, UNKNOWN, side

BELOW, ABOVE, UNCLEAR = "below", "above", "not told apart from"
"""What `verdicts.side` says of an interval."""
MEANS = "MeanAcT"
Found = Mapping[str, Any]
Row = Mapping[str, Any]


def apart(one: Row, two: Row) -> str:
    """Where the first interval lies, by the second; unclear where they share a point."""
    return BELOW if one["high"] < two["low"] else ABOVE if one["low"] > two["high"] else UNCLEAR


def below(sides: Sequence[str]) -> str:
    """Held where all lie below, did not where one lies above; partly where some lie below, else open."""
    if not sides:
        return UNKNOWN
    if ABOVE in sides:
        return FAILED
    return HELD if all(one == BELOW for one in sides) else PARTLY if BELOW in sides else OPEN


def both_whole(shares: Sequence[Row]) -> str:
    """Held where the intervals of all shares reach the whole."""
    if not shares:
        return UNKNOWN
    return HELD if all(one["high"] is not None and one["high"] >= 1 for one in shares) else FAILED


@dataclass(frozen=True)
class Judged:
    """A claim with what was measured and the verdict.

    Attributes:
        key: short name.
    """

    key: str
    text: str
    measured: str
    verdict: str


def gaps(summary: Found | None, kind: str, of: str, less: str, score: str = MATCHED) -> list[Row]:
    """Differences of two methods, one a world."""
    wanted = {"of": of, "less": less, "score": score}
    rows = [] if summary is None else summary[kind]
    return [row for row in rows if wanted.items() <= row.items()]


def over_sites(rows: Sequence[Row]) -> str:
    """Differences over all sites, by world."""
    return "; ".join(f"{row['world']} {told(row['all'])}" for row in rows) or "-"


def told(one: Row) -> str:
    """A difference with its interval and n."""
    return f"{span(one, 3, sign='+')}, n = {one['n']}"


def counted(sides: Sequence[str], n: int, what: str = "differences") -> str:
    """How many of several lie below and above zero, or below and above another."""
    return f"of {len(sides)} {what}: {sides.count(BELOW)} below, {sides.count(ABOVE)} above, n = {n}"


def spreads(summary: Found | None) -> list[Row]:
    """The default's spread over kinds of site less that of each rival, in each world."""
    rows = [] if summary is None else summary["sensitivity_to_the_site"]
    gap = "default less it, spread"
    return [
        {**row[gap], "world": row["world"], "method": row["method"]}
        for row in rows
        if row["score"] == MATCHED and gap in row and row["method"] in rivals()
    ]


def rivals() -> list[str]:
    """Methods that the default is compared with: all but itself and the oracle."""
    return [name for name in METHODS if name != DEFAULT]


def each_site(summary: Found | None) -> list[Row]:
    """The default less each rival at each kind of site."""
    rows = [] if summary is None else summary["default_less_others"]
    return [
        {**gap, "world": row["world"], "method": row["less"], "place": place}
        for row in rows
        if row["score"] == MATCHED and row["less"] in rivals()
        for place, gap in row["by_place"].items()
    ]


def real_cells(real: Found | None, score: str | None) -> dict[tuple[str, str], Row]:
    """A score by method and kind of site."""
    rows = [] if real is None or score is None else real["table"]
    return {(row["method"], row["place"]): row[score] for row in rows if not row["shuffled"]}


def real_score(real: Found | None) -> str | None:
    """The score at the larger budget of the real registers."""
    return max(_scores(real, "KL"), key=_at, default=None)


def untouched_score(real: Found | None) -> str | None:
    """The score at the lowest strength, which changes nothing."""
    return min(_scores(real, "strength"), key=_at, default=None)


def _scores(real: Found | None, at: str) -> list[str]:
    return (
        [] if real is None else [name for name in real["table"][0] if name.startswith(f"code_score at {at} ")]
    )


def _at(name: str) -> float:
    """The budget or the strength at the end of a score's name."""
    return float(name.split()[-1])


def real_sides(real: Found | None, rival: str) -> dict[str, str]:
    """Where the default's interval lies by that of a rival, by kind of site."""
    cells = real_cells(real, real_score(real))
    return {
        place: apart(one, cells[rival, place])
        for (method, place), one in cells.items()
        if method == DEFAULT and (rival, place) in cells
    }


RULE = (
    "**Held**: every interval lies below zero.",
    "**Did not hold**: one lies above.",
    "**Partly**: some lie below, none above.",
    "**Open**: none lies beyond zero.",
    "Differences are not corrected for their number.",
    "Of the real registers only means were kept: there an interval counts where it shares no point with the other.",
    "The units that were changed are found where the intervals of precision and recall reach one.",
)
"""The rules in words."""


def judged(found: Mapping[str, Any]) -> Iterator[Judged]:
    """Every claim, by what was measured."""
    summary, real, planted = (found.get(name) for name in ("summary", "real", "planted"))
    yield from _of_sites(summary)
    pairs = [
        ("local", "end to end beats local fits, at the same cost", DEFAULT, MATCHED),
        ("local, full", "the same at full strength", DEFAULT, "insult_rate"),
        ("local, no penalty", "the same without the penalty, at the same cost", UNPENALISED, MATCHED),
    ]
    for key, text, method, score in pairs:
        yield _over_sites(key, text, gaps(summary, "end_to_end_less_local", method, LOCAL[method], score))
    rows = gaps(summary, "default_less_others", DEFAULT, UNPENALISED)
    yield _over_sites("sparsity", "sparsity costs nothing: the default less the same without penalty", rows)
    names = ("precision", "recall")
    shares = {name: planted["table"][_default(planted)][name] for name in names} if planted else {}
    told_shares = "; ".join(f"{name} {span(one)}, n = {one['n']}" for name, one in shares.items())
    text = "the units that the default touches are those that were changed (ours)"
    yield Judged("planted", text, told_shares or "-", both_whole(list(shares.values())))
    n = real["table"][0][real_score(real)]["n"] if real else 0
    for key, text, rival in (
        ("real", "real registers: it does more than `MeanAcT`", MEANS),
        ("real, local", "real registers: end to end beats local fits", LOCAL[DEFAULT]),
    ):
        sides = list(real_sides(real, rival).values())
        yield Judged(key, text, counted(sides, n, "kinds of site") if sides else "-", below(sides))


def _over_sites(key: str, text: str, rows: Sequence[Row]) -> Judged:
    """A claim about the mean over all kinds of site, in every world."""
    return Judged(key, text, over_sites(rows), below([side(row["all"]) for row in rows]))


def _of_sites(summary: Found | None) -> Iterator[Judged]:
    every = spreads(summary)
    means = [f"less `MeanAcT`, {one['world']} {told(one)}" for one in every if one["method"] == MEANS]
    sides = [side(one) for one in every]
    measured = "; ".join([*means, counted(sides, every[0]["n"])]) if every else "-"
    text = "it is less sensitive to the kind of site: best to worst, less that of each rival"
    yield Judged("sites", text, measured, below(sides))
    rows = gaps(summary, "default_less_others", DEFAULT, MEANS)
    yield _over_sites("means", "it does more than `MeanAcT` at the same cost", rows)
    cells = each_site(summary)
    sides = [side(one) for one in cells]
    text = "no rival does better at any kind of site, at the same cost (ours)"
    yield Judged("each", text, counted(sides, cells[0]["n"]) if cells else "-", below(sides))


def _default(planted: Found) -> str:
    """The name of the default, end to end."""
    ours = METHODS[DEFAULT]("residual").gamma
    return next(
        name for name in planted["table"] if name.startswith("end") and float(name.split()[-1]) == ours
    )
