"""Sections of the page of results that follow its claims: what broke, further scenarios, predictions, their limits."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from claims import DEFAULTS, FEEDBACK, PUBLISHED, SHUFFLED, STRICT, best_setting, setting, told_length
from groups import Found, Group
from scenarios import SCENARIOS
from table import LENGTHS

from trimtab.adapt.cost import update_steps
from trimtab.numerics.bootstrap import bootstrap, ratio_of_sums

sys.path.append(str(Path(__file__).parents[1]))
from pages import lines, link, number, prose, read, script, span
from verdicts import side


def kept_of(row: Found) -> str:
    """How many runs kept everything on test."""
    return f"{round(row['kept']['value'] * row['kept']['n'])} of {row['kept']['n']}"


def percent(one: Found, sign: str = "") -> str:
    """A number of per cent or of points, with its interval."""
    return span(one, 1, sign=sign)


def share(one: Found) -> str:
    """A share in per cent with its interval."""
    value, _, ends = span(one, 0, scale=100).partition(" ")
    return f"{value} % {ends}".rstrip()


def broken(group: Group, methods: Collection[str]) -> Iterator[str]:
    """Where the runs of a table broke a limit, and what validation had shown."""
    found = group.breaches(methods)
    if not found:
        return
    seeds, domains = sorted({one.seed for one in found}), sorted({one.domain for one in found})
    before = [one.validation for one in found if one.validation is not None]
    inside = sum(one.low <= one.tolerance for one in found)
    changes = [one.change for one in found]
    yield prose(
        f"{len(found)} constraints were broken on test, on {', '.join(domains)}, at seed {', '.join(map(str, seeds))}.",
        f"There the change on validation was {number(min(before), 3)} to {number(max(before), 3)} nats.",
        f"On test it was {number(min(changes), 3)} to {number(max(changes), 3)};",
        f"the intervals of {inside} of {len(found)} hold the limit.",
    )


def stricter(first: Group, fresh: Group) -> Iterator[str]:
    """Whether another choice of checkpoints mends what broke."""
    plain = best_setting(first)
    strict = f"{plain}, {STRICT}"
    groups = {"first": first, "fresh": fresh}
    there = {name: group for name, group in groups.items() if strict in group.rows()}
    if not there:
        return
    yield f"Would a stricter choice of checkpoints help? With {setting(first, strict)}:"
    yield lines(
        [
            "seeds",
            "pairs",
            "kept on test",
            "kept, one standard error",
            "gain less one standard error",
            "by its interval",
        ],
        [
            [
                name,
                str(group.rows()[strict]["n"]),
                kept_of(group.rows()[strict]),
                f"{int(same(group, plain, strict)['kept'].sum())} of {len(same(group, plain, strict))}",
                percent(one := group.difference(strict, plain), "+"),
                side(one).removesuffix(" from"),
            ]
            for name, group in there.items()
        ],
    )
    for one in (breach for group in there.values() for breach in group.breaches([strict])):
        yield prose(
            f"One constraint still broke, on `{one.scenario}`, seed {one.seed}:",
            one.told,
        )


def same(group: Group, method: str, other: str) -> Any:
    """The units of a method on the pairs where another was run too."""
    pairs = set(group.of(other)[["scenario", "seed"]].itertuples(index=False, name=None))
    own = group.of(method)
    return own[[pair in pairs for pair in own[["scenario", "seed"]].itertuples(index=False, name=None)]]


def further(group: Group | None) -> Iterator[str]:
    """Scenarios of one seed each."""
    if group is None:
        return
    yield "## An adapter, and constraints that nothing keeps"
    yield prose(
        f"{len(group.scenarios)} further scenarios were run on one seed each, so these are hints",
        f"({link('dynamics/further/summary.json', 'summary')}).",
        "A single run has no interval.",
    )
    for name, scenario in group.scenarios.items():
        own = group.units[group.units["scenario"] == name]
        single = own[own["role"] != "search"]
        if single["claimed"].any():
            yield from adapted(group, name, scenario, single)
        else:
            relaxed = {
                told: group.facts(method, name)
                for method, told in ((DEFAULTS, "the defaults"), (PUBLISHED, "the published form"))
                if method in set(single["method"])
            }
            yield prose(
                f"**`{name}`**: {scenario['why'].partition(':')[0]}.",
                f"None of {len(single)} runs claimed a feasible checkpoint; all returned the base weights.",
                "Updates marked relaxed:",
                "; ".join(f"{run['relaxed']} of {run['updates']} of {told}" for told, run in relaxed.items())
                + ".",
            )


def adapted(group: Group, name: str, scenario: Found, single: Any) -> Iterator[str]:
    """The scenario with an adapter: slopes beside shuffled ones."""
    rows = group.rows(name)
    rank = f", an adapter of rank {scenario['lora']}" if scenario["lora"] else ""
    yield prose(
        f"**`{name}`**: {scenario['why']}{rank}.",
        f"Everything was kept in {int(single['kept'].sum())} of {len(single)} runs.",
    )
    labels = {
        DEFAULTS: "defaults",
        SHUFFLED: "defaults with shuffled slopes (control)",
        FEEDBACK: "Feedback",
    }
    masses = [method for method, row in rows.items() if row["role"] == "sweep"]
    labels |= (
        {masses[0]: f"a fixed target mass of {masses[0].removeprefix('fixed ')}, the best"} if masses else {}
    )
    told = [
        [labels[one], number(row["gain"]["value"], 1), kept_of(row)]
        for one, row in rows.items()
        if one in labels
    ]
    yield lines([f"on `{name}`", "gain, %", "kept on test"], told)
    if {DEFAULTS, SHUFFLED} <= set(rows):
        slopes, shuffled = (rows[one]["gain"]["value"] for one in (DEFAULTS, SHUFFLED))
        yield prose(
            f"With shuffled slopes the gain is {number(shuffled, 1)} %, with the right ones {number(slopes, 1)} %.",
            "So in this one run with an adapter slopes brought nothing." if shuffled >= slopes else "",
        )


def predictions(group: Group) -> Iterator[str]:
    """How far predictions of loss changes were off."""
    rows = [
        [told, told_length(longest), *cells]
        for method, told in ((PUBLISHED, "published"), (DEFAULTS, "defaults"))
        for longest, cells in calibrated(group, method).items()
    ]
    if not rows:
        return
    yield "## How far ahead do slopes predict?"
    yield prose(
        "Root mean square over losses and updates, in nats; intervals draw whole runs.",
        "The last column has Wilson's interval, as if predictions were independent.",
    )
    heads = [
        "form",
        "steps ahead",
        "n",
        "prediction off by",
        "losses moved by",
        "within two standard errors, %",
    ]
    yield lines(heads, rows)
    (limit,) = group.tolerances[-1:]
    longest = [row for row in points(group, PUBLISHED) if row[1] > LENGTHS[-2]]
    off = rms(longest, 2) if longest else None
    yield prose(
        "Over the shortest intervals this proves little.",
        "Where the mixture is a single domain, the run repeats its probe.",
        *(beyond(off, limit) if off else []),
    )


def beyond(off: Found, limit: float) -> Iterator[str]:
    """What the longest predictions mean for a plan, by the interval of their error."""
    where = {"above": "above", "below": "below"}.get(
        side({"low": off["low"] - limit, "high": off["high"] - limit})
    )
    if where:
        yield f"The longest predictions are off by {span(off, 3)} nats, {where} the tolerance of {limit:g}."
    if where == "above":
        yield "So long horizons limit the published form."


def points(group: Group, method: str) -> list[tuple[int, float, float, float]]:
    """Predictions of a method: run, steps ahead, error, change that came."""
    return [
        (place, horizon, predicted - realised, realised)
        for place, block in enumerate(group.blocks)
        if method in block["runs"]
        for horizon, predicted, _, realised in block["runs"][method]["calibration"]
    ]


def calibrated(group: Group, method: str) -> dict[int, list[str]]:
    """Cells of the table of predictions, by the longest interval of each class."""
    file = {row["up_to_steps"]: row for row in group.summary["calibration"] if row["method"] == method}
    classes = defaultdict(list)
    for row in points(group, method):
        classes[next(n for n in LENGTHS if row[1] <= n)].append(row)
    return {
        longest: [
            str(file[longest]["n"]),
            span(rms(classes[longest], 2), 3),
            span(rms(classes[longest], 3), 3),
            span(file[longest]["within_two_errors"], 0, scale=100),
        ]
        for longest in sorted(file)
    }


def rms(rows: Collection[tuple[float, ...]], column: int) -> dict[str, Any]:
    """Root mean square of a column, with an interval that draws whole runs."""
    table = np.array(list(rows))
    found = bootstrap(
        ratio_of_sums, table[:, column] ** 2, np.ones(len(table)), clusters=table[:, 0].tolist()
    )
    return {end: float(np.sqrt(getattr(found, end))) for end in ("value", "low", "high")}


def limits() -> Iterator[str]:
    """Noise, curvature and domains that do not add up."""
    found = read("dynamics/limits.json")
    if found is None:
        return
    scenarios = {name: of["constraints"] for name, of in found["scenarios"].items()}
    first, last = found["readings"][0], found["readings"][-1]
    noise, bend = f"between_orders_rms_nats_at_{first}", f"slope_{last}_over_slope_{first}"
    carried = {name: of[noise] * last / first for name, of in scenarios.items()}
    yield "## What limits a planner of slopes?"
    yield prose(
        f"{script('dynamics/limits.py')} trains on each domain alone and on the even mixture, from the same weights.",
        f"Changes of the constraints' losses on {len(found['seeds'])} orders of the data, in nats:",
        "root mean square, and the mean in brackets.",
    )
    quartiles = tuple(name for name in next(iter(scenarios.values()))[bend] if name.startswith("q"))
    rows = [
        [f"noise: a change over {first} steps differs between data orders by"]
        + [number(of[noise], 4) for of in scenarios.values()],
        ["the same, in units of its paired standard error"]
        + [number(of["between_orders_over_standard_error"]) for of in scenarios.values()],
        [f"noise carried to {last} steps"] + [number(one, 3) for one in carried.values()],
        [f"curvature: slope over {last} steps / over {first}, median [quartiles]"]
        + [
            span(of[bend], of="median", ends=quartiles) + f", n = {of[bend]['n']}"
            for of in scenarios.values()
        ],
        *(
            [f"{what}, {steps} steps"] + [gap(of[key][str(steps)]) for of in scenarios.values()]
            for what, key in (
                ("even mixture less what slopes over as many steps add up to", "straight_line"),
                ("even mixture less the sum of what each domain did in its share of the steps", "additivity"),
            )
            for steps in (first, last)
        ),
        [f"change under the even mixture, {last} steps"]
        + [number(of["additivity"][str(last)]["change_rms_nats"], 3) for of in scenarios.values()],
    ]
    yield lines(["", *(f"`{name}`" for name in scenarios)], rows)
    bends = [of[bend]["median"] for of in scenarios.values()]
    yield prose(
        f"The {link('dynamics/limits.json', 'result')} has no intervals, so that these are values without a verdict.",
        f"In the median, slopes over {last} steps are {number(min(bends))} to {number(max(bends))}",
        f"of those over {first}.",
    )
    yield from additive(scenarios, last, carried)


def gap(of: Found) -> str:
    """A gap with its mean in brackets."""
    return f"{number(of['gap_rms_nats'], 3)} ({number(of['mean_gap_nats'], 3, '+')})"


def additive(scenarios: Mapping[str, Found], last: int, carried: Mapping[str, float]) -> Iterator[str]:
    """What the gaps mean for a plan, where every scenario says the same."""
    gaps = {name: of["additivity"][str(last)] for name, of in scenarios.items()}
    shares = [(one["mean_gap_nats"] / one["gap_rms_nats"]) ** 2 for one in gaps.values()]
    if all(one["mean_gap_nats"] < 0 for one in gaps.values()):
        yield prose(
            "Trained together, domains forget less than their parts do.",
            f"The mean makes up {number(100 * min(shares), 0)} % or more of that gap's mean square.",
            "A planner that adds up slopes is then too careful about mixtures.",
        )
    tolerances = [t for name in scenarios for t in SCENARIOS[name].constraints.values()]
    sizes = [one["gap_rms_nats"] for one in gaps.values()]
    least, noise = number(min(sizes), 3), number(max(carried.values()), 3)
    if min(sizes) > max(tolerances):
        yield prose(
            f"After {last} steps the gap is {least} nats or more, the tolerance {max(tolerances):g},",
            f"and noise carried as far at most {noise}.",
            "Kept probes measure often, from the mixture itself.",
        )


def one_target() -> Iterator[str]:
    """DynaMiCS with the pretraining text as the only constraint."""
    found = read("forgetting/promise.json")
    if found is None:
        return
    kept, gains = found["summary"]["kept"], found["summary"]["target change, dynamics less"]
    own = [row for row in found["rows"] if row["how"] == "dynamics"]
    steps = [row["steps"] for row in own]
    tight = min(row["promise"] for row in own)
    yield "## One target, one constraint"
    yield prose(
        "For the [laws of forgetting](forgetting.md) DynaMiCS kept a model's pretraining text as its only constraint:",
        f"{len(own)} runs of {min(steps):,} to {max(steps):,} steps on {len({row['domain'] for row in own})} domains "
        f"({link('forgetting/promise.json', 'result')}).",
    )
    labels = {"dynamics": "DynaMiCS, defaults", "stopped": "the target alone, stopped within the promise"}
    yield lines(
        ["", "promises kept on test", "%", "target loss, DynaMiCS less it, nats"],
        [
            [
                told,
                f"{kept[how]['kept']} of {kept[how]['runs']}",
                span(kept[how]["share"], 0, scale=100),
                f"{span(gains[how], 3, sign='+')}, n = {gains[how]['n']}" if how in gains else "-",
            ]
            for how, told in labels.items()
        ],
    )
    lost = [row for row in own if row["promise"] == tight and not row["kept"]]
    stops = [row["step"] for row in found["rows"] if row["how"] == "stopped" and row["promise"] == tight]
    yield prose(
        f"Of {sum(row['promise'] == tight for row in own)} runs with the tightest promise, {tight:g} nats,",
        f"{len(lost)} broke it.",
        f"Their checkpoints were those of step {ends(row['step'] for row in lost)}." if lost else "",
        f"The early stop's were those of step {ends(stops)}." if stops else "",
    )


def ends(numbers: Iterable[int]) -> str:
    """The lowest and the highest, or the one that all are."""
    return " to ".join(map(str, sorted({min(every := list(numbers)), max(every)})))


def care(group: Group | None, others: Collection[str]) -> Iterator[str]:
    """What to read with care; `others` are scenarios with results of their own."""
    if group is None:
        return
    yield "## What to read with care"
    steps = group.blocks[0]["fit"]["steps"]
    left = [f"`{name}`" for name in SCENARIOS if name not in {*group.scenarios, *others}]
    told = [
        *means(group),
        "The defaults were developed on `two targets` and on the tuning seed of both scenarios.",
        "Some were changed after a first version had been run on one pair of scenario and seed: "
        "shrinking, no leaning after the first blocks, and the margin.",
        "Learning rates were chosen before standard errors were taken over documents.",
        *(
            [f"At {steps} steps the light and dense schedules round to the same updates."]
            if update_steps("light", steps) == update_steps("dense", steps)
            else []
        ),
        f"The benchmark's code has scenarios without results: {', '.join(left)}." if left else "",
        "Wall-clock in the files is of a machine that was shared.",
    ]
    yield "\n".join(f"- {one}" for one in told if one)


def means(group: Group) -> Iterator[str]:
    """What a mean over targets hides: changes of each target under the defaults."""
    for name, scenario in group.scenarios.items():
        if len(scenario["targets"]) > 1:
            falls = (-group.target_changes(DEFAULTS, name)).groupby(level=0)
            parts = [f"{domain} {number(one.min())} to {number(one.max())}" for domain, one in falls]
            yield f"The gain is a mean over targets. On `{name}` the defaults lower, in nats: {', '.join(parts)}."
