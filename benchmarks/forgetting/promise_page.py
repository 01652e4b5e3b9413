"""The part of the page of forgetting about planned shares, DynaMiCS and an early stop; `page.py` writes it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import bases
from claims import less, pairs, share

sys.path.append(str(Path(__file__).parents[1]))
from pages import bullets, lines, listed, number, percent, prose, span
from verdicts import side

OTHERS = {"dynamics": "DynaMiCS", "stopped": "early stop"}
"""What stands beside planned shares."""
Found = Mapping[str, Any]


def promises(promise: Found, points: Mapping[str, Found]) -> Iterator[str]:
    """Planned shares, DynaMiCS and an early stop."""
    yield "## Do planned shares keep their promise?"
    sizes = sorted(
        {row["params"] for row in next(iter(points.values()))["rows"] if row["size"] != bases.BEYOND}
    )
    yield prose(
        f"Laws of the {len(sizes) - 1} smaller sizes plan the *median* share for {sizes[-1]:,} parameters,",
        f"{number(sizes[-1] / sizes[-2])} times the largest fitted.",
        "A promise is how far the pretraining loss may rise.",
        "A share planned with the default confidence was not run.",
    )
    rows, kept = promise["rows"], promise["summary"]["kept"]
    gains = promise["summary"]["target change, dynamics less"]
    multiple = [row["cost"]["all_in_multiple"] for row in rows if row["how"] == "dynamics"]
    what = {
        "planned": "the planned share, median",
        "dynamics": "DynaMiCS, our defaults, the promise as constraint and as many optimiser steps"
        f" ({number(fmean(multiple), 1)} times their cost with its evaluations)",
        "stopped": "the target alone for as many steps, stopped within the promise",
    }
    yield lines(
        [
            "",
            "promises kept on test",
            "kept with the whole interval",
            "target loss, DynaMiCS less this, nats",
        ],
        [
            [
                text,
                f"{kept[how]['kept']} of {kept[how]['runs']}, {percent(kept[how]['share'])}",
                f"{sum(row['how'] == how and row['clearly kept'] for row in rows if row['promise'])}",
                f"{span(gains[how], 3, sign='+')}, n = {gains[how]['n']}" if how in gains else "",
            ]
            for how, text in what.items()
        ],
    )
    none = [plan for plan in promise["plans"] if plan["inject"] is None]
    yield prose(
        f"The target loss of DynaMiCS is {compared(gains['planned'])} that of planned shares, where both were run.",
        f"For {len(none)} of {len(promise['plans'])} promises the law finds no share that keeps them: none was run.",
    )
    yield from where_broken(promise, points)
    yield from by_promise(promise)


def compared(gap: Found) -> str:
    """What the interval of a difference says of the first beside the second."""
    return {"above": "higher than", "below": "lower than"}.get(side(gap), "not distinguishable from")


def broken(rows: Sequence[Found]) -> str:
    """How many of these runs broke their promise."""
    return f"{sum(not row['kept'] for row in rows)} of {len(rows)}"


def where_broken(promise: Found, points: Mapping[str, Found]) -> Iterator[str]:
    """The tightest promise, and plans within the fitted shares."""
    rows = promise["rows"]
    tight = min(plan["max_rise"] for plan in promise["plans"])
    most = max(row["inject"] for row in next(iter(points.values()))["rows"])
    told = []
    for how, name in OTHERS.items():
        own = [row for row in rows if row["how"] == how]
        at, elsewhere = (
            [row for row in own if (row["promise"] == tight) == there] for there in (True, False)
        )
        told.append(
            f"{name}: {broken(at)} promises of {tight:g} nats were broken, and {broken(elsewhere)} others"
        )
    ways = [pair for pair in pairs(rows, "dynamics", "stopped") if pair[0]["promise"] == tight]
    gap, steps = less(ways, "target_change"), [row["step"] for row, _ in ways]
    told.append(
        f"at {tight:g} nats the target loss of DynaMiCS is {compared(gap)} that of the early stop: "
        f"{span(gap, sign='+')}, n = {gap['n']}; its checkpoints are of steps {min(steps)} to {max(steps)}"
    )
    inside = [row for row in rows if row["how"] == "planned" and row["share"] <= most]
    by_domain = {d: [row for row in inside if row["domain"] == d] for d in points}
    counts = [f"{broken(some)} ({domain})" for domain, some in by_domain.items() if some]
    told.append(f"planned shares within the fitted {share(most)}: {listed(counts)} promises were broken")
    yield bullets(told)


def by_promise(promise: Found) -> Iterator[str]:
    """Each promise, and the rise without injection beside that of the law."""
    rows, table = promise["rows"], []
    order = list(dict.fromkeys(plan["domain"] for plan in promise["plans"]))
    plans = sorted(
        promise["plans"], key=lambda plan: (order.index(plan["domain"]), plan["tokens"], plan["max_rise"])
    )
    without = {(plan["domain"], plan["tokens"]): plan["rise_without"] for plan in plans}
    for plan in plans:
        key = (plan["domain"], plan["tokens"], plan["max_rise"])
        own = [row for row in rows if (row["domain"], row["tokens"], row["promise"]) == key]
        planned = "none" if plan["inject"] is None else share(plan["inject"])
        cells = [kept_and_target(own, how) for how in ("planned", *OTHERS)]
        table.append([f"{key[0]}, {key[1]:,}", f"{key[2]:g}", planned, *cells])
    yield "Rise without injection, mean over runs (lowest to highest):"
    yield lines(
        ["domain", "tokens", "by the law, nats", "real, nats", "runs"],
        [
            [domain, f"{tokens:,}", number(rise), *real_rise(rows, domain, tokens)]
            for (domain, tokens), rise in without.items()
        ],
    )
    fixed = Counter(plan["max_rise"] for plan in promise["plans"])
    parts = sorted(
        {round(p["max_rise"] / p["rise_without"], 2) for p in promise["plans"] if fixed[p["max_rise"]] == 1}
    )
    after = listed([share(part) for part in reversed(parts)])
    early = [f"{rise:g}" for rise, count in fixed.items() if count > 1]
    yield prose(
        f"Promises of {listed(early)} nats were set before anything was known.",
        f"The others are {after} of the rise by the law, and were set when that was known.",
        "Promises kept, and the mean change of the target loss in nats:",
    )
    yield lines(["domain, tokens", "promise, nats", "share planned", "planned", *OTHERS.values()], table)


def kept_and_target(rows: Sequence[Found], how: str) -> str:
    """How many runs of a way kept their promise, and the mean change of the target loss."""
    some = [row for row in rows if row["how"] == how]
    if not some:
        return "-"
    change = number(fmean(row["target_change"] for row in some), sign="+")
    return f"{sum(row['kept'] for row in some)} of {len(some)}, {change}"


def real_rise(rows: Sequence[Found], domain: str, tokens: int) -> tuple[str, str]:
    """Rises of the runs without injection, and how many there are."""
    found = [
        row["rise"] for row in rows if (row["how"], row["domain"], row["tokens"]) == ("none", domain, tokens)
    ]
    return f"{number(fmean(found))} ({number(min(found))} to {number(max(found))})", str(len(found))
