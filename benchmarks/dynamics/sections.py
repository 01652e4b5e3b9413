"""Sections of the page of results that follow its tables of methods: what broke, what limits it, the published form."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from claims import NEAR, count, length, points
from groups import DEFAULTS, PUBLISHED, SHUFFLED, STOPPED, Found, Group
from table import FEEDBACK, YARDSTICK

sys.path.append(str(Path(__file__).parents[1]))
from pages import bullets, lines, link, listed, number, percent, prose, script, span

FORMER = {
    PUBLISHED: "DynaMiCS as published",
    "ours, rolled back": "planned mixtures, rolled-back probes",
    "ours, robust": "planned mixtures, robust solver",
    DEFAULTS: "planned mixtures, defaults of then",
    SHUFFLED: "the same, shuffled slopes (control)",
    FEEDBACK: "Feedback",
    YARDSTICK: "best of five fixed runs",
}
"""What methods of the former benchmark are called here."""


def broken(group: Group) -> Iterator[str]:
    """Every constraint that broke on test, of the methods that are compared, with its interval."""
    methods = [name for name in (DEFAULTS, FEEDBACK, YARDSTICK, STOPPED, PUBLISHED) if name in group.rows]
    found = group.breaches(methods)
    yield "## Constraints that were broken"
    counts = [
        f"{len({(one['scenario'], one['seed']) for one in found if one['method'] == name})} of "
        f"{len(group.of(name))} ({group.named(name).strip('*')})"
        for name in methods
    ]
    yield prose(f"Runs that broke one on test: {listed(counts)}.")
    yield lines(
        ["method", "scenario, seed", "domain", "change on test, nats", "limit", "change on validation"],
        [
            [
                group.named(one["method"]),
                f"`{one['scenario']}`, {one['seed']}",
                one["domain"],
                span(one, 3, of="change", ends=("change_low", "change_high"), sign="+"),
                f"{one['tolerance']:g}",
                number(one["validation"], 3, "+"),
            ]
            for one in found
        ],
    )
    if found:
        inside = sum((one["change_low"] or 0) <= one["tolerance"] for one in found)
        yield f"The interval holds the limit in {inside} of {len(found)} rows."


def limits(group: Group) -> Iterator[str]:
    """Where the defaults fall short, and what the numbers cannot say."""
    yield "## What limits it"
    own, seeds = group.rows.get(DEFAULTS), len(group.seeds())
    told = [*_short(group), *_behind(group), *_unclaimed(group)] if own else []
    if own and group.difference(DEFAULTS, YARDSTICK)["n"]:
        less = group.difference(DEFAULTS, YARDSTICK, "gain")
        told.append(f"Gain whatever broke, less that of the best of five, in points: {points(less)}.")
    half = [
        (row["change_high"] - row["change_low"]) / 2 / row["tolerance"]
        for _, run in group.runs(DEFAULTS)
        for row in run["test"]
        if row["role"] == "constraint" and row["change_low"] is not None and row["tolerance"]
    ]
    if half:
        wide = number(statistics.median(half))
        told.append(f"Intervals of constraints on test reach {wide} tolerances to each side, in the median.")
    told += [
        f"Scenarios: {len(group.scenarios)}. They are the units of intervals, as seeds of one are alike.",
        "In one scenario chance alone puts one method above another on every seed in "
        f"{number(100 * 0.5**seeds, 0)} % of cases.",
        *means(group),
        "Scenarios were chosen while the defaults were developed. The seeds here chose nothing.",
        "One small model; wall-clock in the files is of a machine that was shared.",
    ]
    yield bullets(told)


def _short(group: Group) -> Iterator[str]:
    """Pairs in which the defaults gain clearly less than the best of five fixed runs."""
    own, best = (group.of(name)["constrained"] for name in (DEFAULTS, YARDSTICK))
    gaps = (own - best).dropna()
    if gaps.empty:
        return
    lost = gaps[gaps < -NEAR].sort_values()
    each = ", ".join(f"`{name}` {seed} ({number(gap, 1, '+')})" for (name, seed), gap in lost.items())
    yield (
        f"The best of five gains more by over {NEAR:g} point in {len(lost)} of {len(gaps)} pairs"
        + (f" ({each})." if each else ".")
    )


def _behind(group: Group) -> Iterator[str]:
    """What the best of five chose, and when both stopped, where it gains more on every seed."""
    own, best = group.of(DEFAULTS), group.of(YARDSTICK)
    gaps = (own["constrained"] - best["constrained"]).dropna()
    for name, gap in gaps.groupby("scenario", sort=False):
        if (gap < 0).all():
            chosen = {float(run.removeprefix("fixed ")) for run in best.loc[name]["run"]}
            kept = (_steps(each.loc[name]["step"]) for each in (best, own))
            yield "On `{}` the search took a target share of {} and kept {}; the defaults kept {}.".format(
                name, _ends(chosen), *kept
            )


def _steps(values: Collection[float]) -> str:
    low, high = min(values), max(values)
    return f"step {low:.0f}" if low == high else f"steps {low:.0f} to {high:.0f}"


def _unclaimed(group: Group) -> Iterator[str]:
    own = group.of(DEFAULTS)
    if none := int((~own["claimed"].astype(bool)).sum()):
        yield f"In {none} of {len(own)} runs of the defaults no checkpoint kept everything: the model is unchanged."


def means(group: Group) -> Iterator[str]:
    """What a mean over targets hides: how far the defaults lower each target on test."""
    for name, scenario in group.scenarios.items():
        if len(scenario["targets"]) < 2:
            continue
        falls: dict[str, list[float]] = {}
        for unit, run in group.runs(DEFAULTS):
            for row in run["test"]:
                if unit.scenario == name and row["role"] == "target":
                    falls.setdefault(row["domain"], []).append(-row["change"])
        each = ", ".join(f"{domain} {_ends(some)}" for domain, some in falls.items())
        if each:
            yield f"The gain is a mean over targets: on `{name}` the defaults lower, in nats, {each}."


def _ends(values: Collection[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def former(
    planned: Found | None, fresh: Found | None, further: Found | None, limit: Found | None
) -> Iterator[str]:
    """What was measured with planned mixtures, and carries over: the published form, its predictions, their limits."""
    if planned is None:
        return
    groups = {"first seeds": planned} | ({"fresh seeds": fresh} if fresh else {})
    rows = {what: {row["method"]: row for row in group["all"]} for what, group in groups.items()}
    yield "## The published form and planned mixtures"
    places = {"first": "planned", "fresh": "confirmation"}
    yield prose(
        'A former benchmark solved for the whole mixture, as the paper does; today that is `mass="planned"`.',
        "Its corpora were other ones, and checkpoints kept less margin, so its gains are not those above.",
        f"Results: {listed(link(f'dynamics/{place}/summary.json', what) for what, place in places.items())} seeds.",
    )
    yield lines(
        ["method", "seeds", "kept on test", "constrained gain, %", "less best of five", "steps"],
        [
            [
                told,
                what,
                count(row["kept"]),
                span(row["constrained"], 1),
                "-" if name == YARDSTICK else points(row["over_best_of_five"]),
                f"{number(row['steps'])} x",
            ]
            for name, told in FORMER.items()
            for what in groups
            if (row := rows[what].get(name))
        ],
    )
    yield from _hints(further)
    yield from _predictions(planned)
    yield from _additive(limit)


def _hints(further: Found | None) -> Iterator[str]:
    """One seed each: an adapter, and constraints that nothing keeps."""
    if further is None:
        return
    lora = {row["method"]: row["gain"]["value"] for row in further["by_scenario"]["fonts lora"]}
    runs = [row for row in further["by_scenario"]["infeasible"] if row["role"] != "search"]
    claimed = sum(row["false_feasible"]["n"] for row in runs)
    yield prose(
        "With a LoRA, in a single run, planned mixtures gained",
        f"{number(lora[DEFAULTS], 1)} % with the right slopes and {number(lora[SHUFFLED], 1)} % with shuffled ones.",
        "So there slopes brought nothing." if lora[SHUFFLED] >= lora[DEFAULTS] else "",
        f"Where nothing keeps the constraints, {claimed} of {len(runs)} runs claimed a feasible checkpoint.",
    )


def _predictions(planned: Found) -> Iterator[str]:
    """How far predictions of loss changes were off."""
    rows = [
        [
            told,
            length(one["up_to_steps"]),
            str(one["n"]),
            number(one["rmse_nats"], 3),
            number(one["realised_rms_nats"], 3),
            percent(one["within_two_errors"]),
        ]
        for name, told in ((PUBLISHED, "published"), (DEFAULTS, "planned, kept probes"))
        for one in sorted(planned["calibration"], key=lambda one: one["up_to_steps"])
        if one["method"] == name
    ]
    if rows:
        yield "How far ahead slopes predict, root mean square over losses and updates:"
        heads = ["form", "steps ahead", "n", "off by, nats", "losses moved by", "within two standard errors"]
        yield lines(heads, rows)
        yield "Updates of one run are alike, so the intervals of these shares are too narrow."


def _additive(found: Found | None) -> Iterator[str]:
    """Curvature, and domains that do not add up."""
    if found is None:
        return
    scenarios = [of["constraints"] for of in found["scenarios"].values()]
    first, last = found["readings"][0], found["readings"][-1]
    bends = [of[f"slope_{last}_over_slope_{first}"]["median"] for of in scenarios]
    gaps = [of["additivity"][str(last)] for of in scenarios]
    sizes = [one["gap_rms_nats"] for one in gaps]
    yield prose(
        f"Two reasons, measured on each domain alone ({script('dynamics/limits.py')},",
        f"{link('dynamics/limits.json', 'result')}, no intervals).",
        f"Slopes of constraints over {last} steps are {_ends(bends)} of those over {first}, in the median.",
        f"Domains do not add up: after {last} steps the even mixture is off their sum by {_ends(sizes)} nats.",
        "It forgets less than its parts, so a planner that adds slopes is too careful."
        if all(one["mean_gap_nats"] < 0 for one in gaps)
        else "",
    )
