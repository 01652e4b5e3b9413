"""The page of results of DynaMiCS, from the result files: every number and every comparison is computed.

python benchmarks/dynamics/page.py [--write]    prints it; --write puts it into docs/results
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from claims import MATTERS, claims, points
from claims import SCENARIOS as ENOUGH
from groups import DEFAULTS, FIRST_REST, PUBLISHED, SHUFFLED, STOPPED, Found, Group, read_group
from methods import MARGINS, SWEEP, TUNED_BY, TUNING_SEED, methods
from outcomes import HINDSIGHT
from scenarios import SCENARIOS
from sections import broken, former, limits
from table import FEEDBACK, YARDSTICK, less, over_seeds

sys.path.append(str(Path(__file__).parents[1]))
from claims_table import table
from pages import RESULTS, bullets, joined, lines, listed, main, number, prose, read, script, span

FOLDER = RESULTS / "dynamics" / "lab"
SHOWN = ("search", "sweep", "ours", "paper", "control", "rival")
"""Roles of the methods in the first table; single settings have their own."""
MAIN = (DEFAULTS, YARDSTICK, FEEDBACK, STOPPED, PUBLISHED, FIRST_REST, SHUFFLED)
"""Methods that are compared by scenario."""


def there(group: Group) -> Iterator[str]:
    """What was run so far, and the outcome in two sentences."""
    seeds = {
        name: [b["seed"] for b in group.blocks if b["scenario"]["name"] == name] for name in group.scenarios
    }
    missing = [f"`{name}`" for name in SCENARIOS if name not in group.scenarios]
    some = len({tuple(one) for one in seeds.values()}) > 1
    each = ", ".join(f"`{name}` {len(one)}" for name, one in seeds.items())
    yield prose(
        f"Pairs of scenario and seed: {len(group.blocks)}. Scenarios: {len(seeds)}.",
        f"Seeds: {listed(group.seeds())}" + (f" ({each})." if some else "."),
        f"Not run yet: {listed(missing)}." if missing else "",
        f"With fewer than {ENOUGH} scenarios a verdict on the defaults is open.",
        "Gains are falls of target perplexity in per cent, differences are in points.",
        "Verdicts on gains are by constrained gain; smooth gain is explained below.",
        "Open: the interval is too wide to say.",
    )


def outcome(group: Group) -> Iterator[str]:
    """Who gained what, and where the defaults are above or below on every seed."""
    names = [name for name in MAIN[:4] if group.rows.get(name, {}).get("n") == len(group.blocks)]
    each = [f"{group.named(n).strip('*')} {span(group.rows[n]['constrained'], 1)} %" for n in names]
    yield prose(f"Mean constrained gain: {listed(each)}.")
    if own := group.rows.get(DEFAULTS):
        cost = f"{number(own['steps'])} times the steps of one fixed run, and {number(own['all_in'])} times all-in"
        yield prose(
            f"In the mean of {own['n']} runs the defaults took {cost}.", "No step is spent on measuring."
        )
    told = []
    for other in names[1:] if DEFAULTS in names else ():
        higher, lower = sided(group, other)
        these = points(less(group.units, DEFAULTS, other, by=over_seeds))
        told.append(
            f"Against {group.named(other)}: above on every seed in {higher}; below in {lower}. "
            f"On these scenarios, over seeds alone: {these}."
        )
    yield bullets(told)


def sided(group: Group, other: str) -> Iterator[str]:
    """Scenarios in which the defaults gain more on every seed, and in which they gain less."""
    gaps = (group.of(DEFAULTS)["constrained"] - group.of(other)["constrained"]).dropna()
    for sign in (1, -1):
        some = [name for name, one in gaps.groupby(level=0, sort=False) if (sign * one > 0).all()]
        yield listed(f"`{name}`" for name in some) if some else "none"


def measured(group: Group) -> Iterator[str]:
    """What was done, and what the words mean."""
    block, fit = group.blocks[0], group.blocks[0]["fit"]
    tolerances = sorted({t for one in group.scenarios.values() for t in one["constraints"].values()})
    margin = methods("", block["scenario"]["train"])[DEFAULTS].margin
    yield "## How it was measured"
    yield prose(
        f"A model of {block['model']['parameters']:,} parameters, pretrained on text of the Python installation,",
        f"trains for {fit['steps']} steps of {fit['batch_size']} x {fit['seq_len']} tokens",
        f"({script('dynamics/run.py')}).",
        f"Constraints may rise by {listed(f'{t:g}' for t in tolerances)} nats per token.",
    )
    yield bullets(f"`{name}`: {one['why']}." for name, one in group.scenarios.items())
    yield "What the words mean:"
    yield bullets(
        [
            "*Kept*: on test, no constraint's loss rose by more than its tolerance.",
            "*Claimed*: the run returned a checkpoint that kept everything on validation.",
            "*Constrained gain*: the fall of target perplexity on test, or zero for a run that broke a constraint.",
            "*Smooth gain*: the most on validation, interpolated to where the first constraint meets its tolerance. "
            "Single constrained gains jump by a reading; this does not.",
            f"*Best of five*: fixed target masses {listed(f'{mass:g}' for mass in SWEEP)}, chosen on validation. "
            "It pays for all; its smooth gain is the largest of theirs.",
            "*Worst excess*: the largest change beyond a tolerance on test, negative where all stay inside.",
            "*Steps (all-in)*: multiples of one fixed run; all-in counts every sequence read, too.",
            f"Constraints are read on {fit['eval_sequences']} validation sequences, "
            f"results on {fit['test_sequences']} of test.",
            f"A checkpoint keeps each constraint on validation by {margin:g} standard errors, over documents.",
            f"Each family of methods has its own learning rate, one of {len(block['scenario']['rates'])}, "
            f"chosen on seed {TUNING_SEED} by one member.",
            *rates(group),
            "Brackets are 95 % intervals: Wilson's of a share, Student's of a mean. "
            "A mean is over scenarios, each the mean of its seeds: it speaks of other scenarios, too. "
            "With fewer than three scenarios it is over pairs. There n counts the units: scenarios, or pairs.",
        ]
    )


def rates(group: Group) -> Iterator[str]:
    """Whose runs chose the learning rate of a family, and how often it was one of the ends."""
    choices: dict[str, dict[str, str]] = {}
    for block in group.blocks:
        scenario, runs = block["scenario"], block["runs"]
        ends = {min(scenario["rates"]): "lowest", max(scenario["rates"]): "highest"}
        for name in (DEFAULTS, FEEDBACK, STOPPED):
            if name in runs:
                end = ends.get(runs[name]["rate"], "")
                choices.setdefault(runs[name]["family"], {})[scenario["name"]] = end
    for family, chosen in choices.items():
        by, counts = TUNED_BY[family], Counter(end for end in chosen.values() if end)
        told = " and ".join(f"in {n} the {end}" for end, n in counts.items())
        yield f"`{by[0]}` chose that of `{family}`" + (
            f": of {len(chosen)} scenarios {told} rate." if told else "."
        )


def every_method(group: Group) -> Iterator[str]:
    """All methods over the pairs that they were run on."""
    rows = {name: row for name, row in group.rows.items() if shown(name, row)}
    heads = [
        "method",
        "pairs",
        "kept of claimed (worst excess, nats)",
        "constrained gain, %",
        "smooth gain, %",
    ]
    yield "## All methods"
    yield lines(
        [*heads, "less best of five", "less Feedback", "steps (all-in)"],
        [
            [
                group.named(name),
                str(row["n"]),
                kept(row),
                span(row["constrained"], 1),
                span(row["smooth"], 1),
                *(
                    "-" if name == other or not row[key]["n"] else span(row[key], 1, sign="+")
                    for other, key in ((YARDSTICK, "over_best_of_five"), (FEEDBACK, "over_feedback"))
                ),
                f"{number(row['steps'])} x ({number(row['all_in'])})",
            ]
            for name, row in rows.items()
        ],
    )


def shown(name: str, row: Found) -> bool:
    """Whether a method is in the first table: no other choice of checkpoints, no hindsight, no random mixture."""
    plain = name != HINDSIGHT and not name.endswith(tuple(MARGINS)) and not name.startswith("random ")
    return plain and row["role"] in SHOWN


def kept(row: Found) -> str:
    """How many runs kept what they claimed, with the largest change beyond a tolerance."""
    share = row["kept_of_claimed"]
    done = f"{round(share['value'] * share['n'])} of {share['n']}" if share["n"] else "none claimed"
    return f"{done} ({number(row['worst_excess_nats'], 4, '+')})"


def by_scenario(group: Group) -> Iterator[str]:
    """Constrained and smooth gains of the main methods, a scenario a line."""
    names = [name for name in MAIN if name in group.rows]
    parts = {name: group.part([name]) for name in group.scenarios}
    yield "## By scenario"
    yield "Mean constrained gain / smooth gain, %:"
    yield lines(
        ["scenario", "seeds", *(group.named(name) for name in names)],
        [
            [f"`{scenario}`", str(len(part.blocks)), *(gains(part.rows.get(name)) for name in names)]
            for scenario, part in parts.items()
            if part
        ],
    )


def gains(row: Found | None) -> str:
    """Constrained and smooth gain."""
    return " / ".join(number(row[of]["value"], 1) for of in ("constrained", "smooth")) if row else "-"


def settings(group: Group) -> Iterator[str]:
    """Single settings and controls against the defaults, over the pairs that both were run on."""
    names = [
        name
        for name, row in group.rows.items()
        if name != DEFAULTS and (name.startswith(DEFAULTS) or row["role"] == "control")
    ]
    yield "## Which settings matter?"
    if not names or DEFAULTS not in group.rows:
        yield "No other setting was run yet, nor a control."
        return
    where = group.part(MATTERS)
    yield "One setting changed at a time; differences to the defaults, over the pairs that both were run on:"
    yield lines(
        [
            "changed",
            "kept of claimed (worst excess, nats)",
            "constrained gain, less the defaults",
            "smooth gain, less the defaults",
            f"constrained, on {', '.join(f'`{name}`' for name in MATTERS)}",
        ],
        [
            [
                group.named(name).removeprefix("defaults, "),
                kept(group.rows[name]),
                points(group.difference(name, DEFAULTS)),
                points(group.difference(name, DEFAULTS, "smooth")),
                points(where.difference(name, DEFAULTS)) if where else "-",
            ]
            for name in names
        ],
    )


def page(folder: Path = FOLDER) -> str:
    """The whole page; what has no result file is left out."""
    group = read_group(folder)
    planned, fresh, further = (
        read(f"dynamics/{name}/summary.json") for name in ("planned", "confirmation", "further")
    )
    parts = [
        "# Results: DynaMiCS",
        "How it works: [dynamics.md](../dynamics.md). Made by `python benchmarks/dynamics/page.py --write`.",
        table(claims(group, planned)),
    ]
    if group:
        sections = (there, outcome, measured, every_method, by_scenario, settings, broken, limits)
        parts += [text for section in sections for text in section(group)]
    return joined([*parts, *former(planned, fresh, further, read("dynamics/limits.json"))])


if __name__ == "__main__":
    main("dynamics.md", page())
