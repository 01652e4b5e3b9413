"""The page of results of DynaMiCS, from the result files: every number and every comparison is computed.

python benchmarks/dynamics/page.py [--write]    prints it; --write puts it into docs/results
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from claims import (
    DEFAULTS,
    FEEDBACK,
    GOAL_STEPS,
    PUBLISHED,
    ROLLED_BACK,
    SHUFFLED,
    Claim,
    best_setting,
    claims,
    goal,
    kept_probes,
    setting,
)
from groups import PAIR, Found, Group, read_group
from methods import MARGINS, SWEEP, TUNED_BY, TUNING_SEED, methods
from outcomes import HINDSIGHT
from scenarios import SCENARIOS
from sections import broken, care, further, kept_of, limits, one_target, percent, predictions, share, stricter
from table import YARDSTICK

sys.path.append(str(Path(__file__).parents[1]))
from pages import RESULTS, joined, lines, link, main, number, prose, script, span
from verdicts import FAILED, OPEN, above, side

FOLDER = RESULTS / "dynamics"
SHOWN = ("search", "ours", "paper", "control", "rival")
"""Roles of the methods in the first table; the parts of a search and single settings are left out of it."""
NAMES = {
    YARDSTICK: "best of five fixed runs",
    "best of eight fixed": "best of eight fixed runs",
    HINDSIGHT: "best of five fixed, chosen by its test losses (nobody can)",
    DEFAULTS: "**DynaMiCS, defaults**",
    ROLLED_BACK: "our planning on rolled-back probes",
    PUBLISHED: "DynaMiCS as published, light",
    SHUFFLED: "defaults with shuffled slopes (control)",
    "oracle": "as published, robust solver, longer probes (oracle)",
}


KEPT = "kept on test (worst excess, nats)"
GAIN_HEADS = (KEPT, "constrained gain, %", "gain, whatever broke")


def name_of(method: str, group: Group) -> str:
    """A method in words, or by its class."""
    if method in NAMES:
        return NAMES[method]
    facts = group.facts(method)
    if facts["role"] == "search":
        return f"{method} mixtures"
    if facts["role"] == "sweep":
        return f"a fixed target mass of {method.removeprefix('fixed ')}"
    if facts["role"] == "rival":
        scenario = next(iter(group.scenarios))
        mixer = methods(scenario, SCENARIOS[scenario].train)[method].mixer
        part = f", share {facts['mixer']['share']:g}" if "share" in facts["mixer"] else ""
        return f"{type(mixer).__name__}{part}"
    return f"defaults, {setting(group, method)}"


def times(value: float) -> str:
    """A multiple."""
    return f"{number(value)} x"


def told_of(values: Sequence[float]) -> str:
    """Numbers in a row."""
    return ", ".join(f"{value:g}" for value in values)


def evidence_of(claim: Claim) -> str:
    """The evidence on a claim in a cell."""
    told = {
        "count": lambda one: f"{one['count']} of {one['n']}: {share(one)}",
        "percent": lambda one: f"{percent(one, '+')}, n = {one['n']}",
        "share": lambda one: f"{share(one)}, n = {one['n']}",
        "steps": lambda one: f"{times(one['value'])}, n = {one['n']}",
    }[claim.kind]
    return "; ".join(": ".join(filter(None, (one["what"], told(one)))) for one in claim.evidence) or "-"


def opening(first: Group, fresh: Group | None) -> Iterator[str]:
    """The question, the claims, and why the defaults miss the goal."""
    yield "## Does one run replace a search over fixed mixtures?"
    rows = [
        [one.text, one.whose, one.held_if, evidence_of(one), f"**{one.verdict}**"]
        for one in claims(first, fresh)
    ]
    yield lines(["claim", "whose", "held if", "measured", "verdict"], rows)
    yield prose(
        "Gains are falls of target perplexity in per cent, and differences of gains are in points.",
        "Open: the intervals are too wide to say.",
        "Fresh seeds were run after the first ones, and chose nothing." if fresh else "",
    )
    yield from missed(first)


def missed(group: Group) -> Iterator[str]:
    """Pairs in which the defaults miss the goal, one a line; and what they gain whatever broke."""
    met, of = goal(group, DEFAULTS)
    yield prose(
        f"On the first seeds the defaults reach the goal in {met} of {of} pairs.",
        "The others:" if met < of else "",
    )
    yard = group.of(YARDSTICK).set_index(PAIR)["constrained"]
    told = [
        f"- `{unit.scenario}`, seed {unit.seed}: everything kept, gain {number(unit.constrained, 1)} %, "
        f"that of the best of five {number(best, 1)} %."
        for unit in group.of(DEFAULTS).itertuples()
        if unit.kept and unit.constrained < (best := yard[unit.scenario, unit.seed])
    ]
    breaches = group.breaches([DEFAULTS])
    told += [f"- `{one.scenario}`, seed {one.seed}: {one.told}" for one in breaches]
    yield "\n".join(told)
    if breaches:
        rows, less = group.rows(), group.difference(DEFAULTS, YARDSTICK, "gain")
        yield prose(
            "A run over its limit counts as zero.",
            f"Whatever broke, the defaults gain {percent(rows[DEFAULTS]['gain'])} %",
            f"and the best of five {percent(rows[YARDSTICK]['gain'])} %.",
            f"The difference is {percent(less, '+')} points, {side(less)} zero.",
        )


def measured(group: Group) -> Iterator[str]:
    """What was done."""
    block, fit = group.blocks[0], group.blocks[0]["fit"]
    of = methods(block["scenario"]["name"], block["scenario"]["train"])[DEFAULTS]
    yield "### How it was measured"
    yield prose(
        f"The model has {block['model']['parameters']:,} parameters.",
        "It was pretrained on text of the Python installation.",
        f"A run ({script('dynamics/run.py')}) is {fit['steps']} steps of",
        f"{fit['batch_size']} x {fit['seq_len']} tokens.",
        f"Tolerances are {told_of(group.tolerances)} nats per token.",
        f"Each of {len(group.scenarios)} scenarios was run on {len(group.seeds())} training seeds:",
    )
    yield "\n".join(f"- `{name}`: {one['why']}." for name, one in group.scenarios.items())
    yield "What the words mean, and how runs were chosen:"
    told = [
        "*Kept*: on test, no constraint's loss rose by more than its tolerance.",
        "*Constrained gain*: the fall of target perplexity on test, or zero for a run that broke a constraint.",
        f"*Less best of five*: paired with the best of the fixed target masses {told_of(SWEEP)}.",
        "*Above*, *below*: the whole interval lies there; else a difference is not told apart from zero.",
        "*Worst excess*: the largest change beyond a tolerance; negative where all stay inside.",
        "A search chooses among its runs on validation, and pays for all of them.",
        "*Steps*: optimiser steps in multiples of one fixed run. *All-in* counts every sequence read, too.",
        f"Intervals are 95 % bootstrap intervals over the {len(group.blocks)} pairs of scenario and seed.",
        f"Constraints are read on {fit['eval_sequences']} validation sequences, "
        f"results on {fit['test_sequences']} of test.",
        f"A checkpoint must keep each constraint on validation by {of.margin:g} standard error, over documents.",
        f"Each family of methods has its own learning rate, one of {len(block['scenario']['rates'])}.",
        f"The best of up to {max(map(len, TUNED_BY.values()))} members chose it, on seed {TUNING_SEED}.",
        f"Every method and run: {link('dynamics/summary.json', 'summary')} and the files beside it.",
    ]
    yield "\n".join(f"- {one}" for one in told)


def every_method(group: Group) -> Iterator[str]:
    """All methods over all pairs, then by scenario."""
    rows = {name: row for name, row in group.rows().items() if shown(name, row, group)}
    yield "### All methods"
    yield lines(
        ["method", KEPT, "constrained gain, %", "less best of five", "steps (all-in)"],
        [
            [
                name_of(name, group),
                kept_worst(row),
                percent(row["constrained"]),
                less_yardstick(name, row),
                f"{times(row['steps'])} ({number(row['all_in'])})",
            ]
            for name, row in rows.items()
        ],
    )
    others = [side(row["over_best_of_five"]) for name, row in rows.items() if name != YARDSTICK]
    yield prose(
        f"By their intervals, {others.count('above')} of {len(others)} methods lie above the best of five",
        f"and {others.count('below')} below.",
        f"{others.count('not told apart from')} are not told apart from it.",
    )
    yield "### By scenario"
    yield by_scenario(group, rows)
    yield from told_by_scenario(group, rows)


def shown(name: str, row: Found, group: Group) -> bool:
    """Whether a method is in the first table: no part of a search, no other choice of checkpoints, no hindsight."""
    plain = name != HINDSIGHT and not any(name.endswith(told) for told in MARGINS)
    return row["role"] in SHOWN and plain and row["n"] == len(group.blocks)


def less_yardstick(name: str, row: Found) -> str:
    """The difference to the best of five, and which side it is on if it is on one; a dash for itself."""
    less = row["over_best_of_five"]
    told = percent(less, "+") if side(less) == "not told apart from" else f"{percent(less, '+')} {side(less)}"
    return "-" if name == YARDSTICK else told


def kept_worst(row: Found) -> str:
    """How many runs kept everything on test, with the largest change beyond a tolerance."""
    return f"{kept_of(row)} ({number(row['worst_excess_nats'], 4, '+')})"


def by_scenario(group: Group, rows: Mapping[str, Found]) -> str:
    """The methods of the claims in each scenario."""
    some = (DEFAULTS, ROLLED_BACK, PUBLISHED, FEEDBACK, YARDSTICK, SHUFFLED)
    parts = {name: group.rows(name) for name in group.scenarios}
    heads = [f"{what}, `{name}`" for name in parts for what in ("constrained gain, %", "less best of five")]
    table = []
    for one in rows:
        if one in some:
            own = [part[one] for part in parts.values()]
            cells = [cell for row in own for cell in (percent(row["constrained"]), less_yardstick(one, row))]
            table.append([name_of(one, group), *cells])
    return lines(["method", *heads], table)


def told_by_scenario(group: Group, rows: Mapping[str, Found]) -> Iterator[str]:
    """What slopes are worth in each scenario, and where a method without them does better or worse."""
    pairs = (
        ("Whatever broke, the defaults gain over shuffled slopes:", DEFAULTS, SHUFFLED, "gain"),
        ("`Feedback` less our planning on rolled-back probes:", FEEDBACK, ROLLED_BACK, "constrained"),
    )
    for told, first, second, of in pairs:
        if {first, second} <= set(rows):
            found = {name: group.difference(first, second, of, name) for name in group.scenarios}
            each = (f"{percent(one, '+')} on `{name}`, {side(one)} zero" for name, one in found.items())
            yield prose(told, "; ".join(each) + ".")


def settings(group: Group) -> Iterator[str]:
    """Single settings of the defaults and of the published form."""
    rows = group.rows()
    own = [name for name, row in rows.items() if row["role"] in ("ours", "paper", "ablation", "choice")]
    kept = [name for name in own if kept_probes(group, name) or name == ROLLED_BACK]
    if len(kept) > 1:
        yield "## Which settings matter?"
        yield "The same pairs, learning rates of the family, one setting changed at a time."
        yield from changed(group, kept)
        yield from matter(group, kept)
    others = [name for name in own if name not in kept and name != PUBLISHED]
    if others and PUBLISHED in own:
        yield "### Of the published form"
        yield lines(
            ["of the published form, changed", *GAIN_HEADS, "steps"],
            [
                [
                    setting(group, name, PUBLISHED),
                    kept_worst(rows[name]),
                    percent(rows[name]["constrained"]),
                    percent(rows[name]["gain"]),
                    times(rows[name]["steps"]),
                ]
                for name in rows
                if name in (PUBLISHED, *others)
            ],
        )
        lost = {name: rows[name]["n"] - round(rows[name]["kept"]["value"] * rows[name]["n"]) for name in own}
        counts = [lost[name] for name in others]
        yield prose(
            f"With the grid's penalties {lost[PUBLISHED]} of {rows[PUBLISHED]['n']} runs broke a constraint on test.",
            "The other rows have hard constraints, and no margin beyond that of the slopes.",
            f"There {min(counts)} to {max(counts)} of {rows[others[0]]['n']} runs broke one.",
        )


def changed(group: Group, names: Sequence[str]) -> Iterator[str]:
    """Each setting beside the defaults: what it came to, then where it comes from."""
    rows, parts = group.rows(), [group.rows(name) for name in group.scenarios]
    ordered = [name for name in rows if name in names]
    less = {
        name: ("-", "-")
        if name == DEFAULTS
        else tuple(
            span(group.difference(name, DEFAULTS, of), digits, sign="+")
            for of, digits in (("gain", 1), ("step", 0))
        )
        for name in ordered
    }
    yield lines(
        ["of the defaults, changed", KEPT, "constrained gain, %", "less best of five"],
        [
            [
                setting(group, name),
                kept_worst(rows[name]),
                percent(rows[name]["constrained"]),
                less_yardstick(name, rows[name]),
            ]
            for name in ordered
        ],
    )
    yield "The constrained gain in each scenario, and differences to the defaults whatever broke:"
    yield lines(
        [
            "changed",
            *(f"gain, `{name}`" for name in group.scenarios),
            "gain, less the defaults",
            "step of the checkpoint, less the defaults",
        ],
        [
            [
                setting(group, name),
                *(number(part[name]["constrained"]["value"], 1) for part in parts),
                *less[name],
            ]
            for name in ordered
        ],
    )


def matter(group: Group, names: Sequence[str]) -> Iterator[str]:
    """Which settings are told apart from the defaults, and which reach the goal by their estimates."""
    others, rows = [name for name in names if name != DEFAULTS], group.rows()
    sides = {name: side(group.difference(name, DEFAULTS, "gain")) for name in others}
    steps = {name: side(group.difference(name, DEFAULTS, "step")) for name in others}
    lower = [name for name in others if sides[name] == "below"]
    yield "\n".join(
        (
            f"- Whatever broke, {listed(group, lower, others)} lie below the defaults.",
            f"- Of these, {listed(group, [name for name in lower if steps[name] == 'below'], lower)} "
            "take earlier checkpoints.",
            f"- {listed(group, [name for name in others if sides[name] == 'above'], others)} lie above the defaults.",
        )
    )
    met = [
        name
        for name in others
        if rows[name]["kept"]["value"] == 1
        and rows[name]["over_best_of_five"]["value"] >= 0
        and rows[name]["steps"] <= GOAL_STEPS
    ]
    yield prose(
        "The goal: everything kept, the gain of the best of five,",
        f"at most {GOAL_STEPS:g} times the steps of one run.",
        f"By their estimates {listed(group, met, others)} reach it.",
        "The best of so many, on the pairs that chose it, may be luck." if met else "",
    )


def listed(group: Group, some: Sequence[str], every: Sequence[str]) -> str:
    """How many settings of so many, and which."""
    told = f" ({'; '.join(setting(group, name) for name in some)})" if some else ""
    return f"{len(some)} of {len(every)}{told}"


def fresh_pairs(first: Group, fresh: Group | None) -> Iterator[str]:
    """A few methods, repeated on seeds that had chosen nothing."""
    if fresh is None:
        return
    rows, best = fresh.rows(), best_setting(first)
    mass = next((name for name, row in rows.items() if row["role"] == "sweep"), None)
    some = [name for name in rows if name in (FEEDBACK, HINDSIGHT, best, YARDSTICK, DEFAULTS, mass)]
    yield "## Does the best setting stay best on fresh seeds?"
    yield (
        f"Seeds {told_of(fresh.seeds())}, the same scenarios "
        f"({link('dynamics/confirmation/summary.json', 'summary')})."
    )
    yield lines(
        ["method", *GAIN_HEADS, "less best of five", "steps"],
        [
            [
                name_of(name, fresh),
                kept_worst(rows[name]),
                percent(rows[name]["constrained"]),
                percent(rows[name]["gain"]),
                less_yardstick(name, rows[name]),
                times(rows[name]["steps"]),
            ]
            for name in some
        ],
    )
    gains = [rows[name]["gain"]["value"] for name in some]
    less = fresh.difference(best, DEFAULTS) if best in rows else None
    yield prose(
        f"Whatever broke, these gain {number(min(gains), 1)} to {number(max(gains), 1)} %.",
        "What differs is whether everything was kept."
        if len({rows[name]["kept"]["value"] for name in some}) > 1
        else "",
        "The defaults stayed as they were: the setting is not better on fresh seeds by more than chance."
        if less is not None and above([less]) in (OPEN, FAILED)
        else "",
    )
    yield from broken(fresh, some)
    yield from stricter(first, fresh)
    yield prose(
        "`Feedback` moves the share of the targets by the tightest constraint, and assumes that fewer targets mend it.",
        "That fails where another training domain hurts a constraint, too.",
        "So what it did on these scenarios and this model is no recommendation beyond them.",
    )


def page(folder: Path = FOLDER) -> str:
    """The whole page; what has no result file is left out."""
    first, fresh, hints = (read_group(folder / name) for name in ("", "confirmation", "further"))
    parts = [
        "# Results: DynaMiCS",
        prose(
            "How it works: [dynamics.md](../dynamics.md).",
            "Made by `python benchmarks/dynamics/page.py --write`.",
        ),
    ]
    if first is not None:
        parts += [
            *opening(first, fresh),
            *measured(first),
            *every_method(first),
            *settings(first),
            *fresh_pairs(first, fresh),
            *further(hints),
            *predictions(first),
        ]
    parts += [*limits(), *one_target(), *care(first, hints.scenarios if hints else ())]
    return joined(parts)


if __name__ == "__main__":
    main("dynamics.md", page())
