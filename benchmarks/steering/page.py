"""The documentation's page of results of steering, written from the result files: every number is computed.

python benchmarks/steering/page.py [--write]    prints it; --write puts it into docs/results
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from claims import (
    ABOVE,
    BELOW,
    MEANS,
    RULE,
    UNCLEAR,
    Row,
    each_site,
    gaps,
    judged,
    real_cells,
    real_score,
    rivals,
)
from methods import DEFAULT, LABELS, LOCAL, METHODS, ORACLE, UNPENALISED, VARIANTS
from more_page import fewer_and_more, inverses, planted, rates, registers
from pages import RESULTS, joined, lines, link, listed, main, number, prose, read, script, span
from peer_page import packages
from table import BUDGETS, MATCHED
from verdicts import HELD, INTERVAL, side

from worlds import GRAMMARS, JUDGED, PLACES, STRONG, WEAK

Found = Mapping[str, Any]
WRECKED = 10
"""Times the budget that a method costs at full strength, from which on it is listed."""
PARTS = {WEAK: "main", STRONG: "strong"}
FULL, CLEAN = "insult_rate", "kl_to_clean"


def files() -> dict[str, Any]:
    """The result files by name; None where one was not made."""
    found = {
        name: read(f"steering/{name}.json") for name in ("summary", "planted", "real", "algebra", "peers")
    }
    cards = sorted(path.name for path in (RESULTS / "steering").glob("main-*.json"))
    return found | {"models": [read(f"steering/{name}")["models"] for name in cards]}


def groups(summary: Found, part: str) -> dict[tuple[str, str], Row]:
    """Scores of a part by method and kind of site."""
    return {(row["method"], row["place"]): row for row in summary["groups"] if row["part"] == part}


def opening(found: Found) -> Iterator[str]:
    """What was done."""
    yield "# Results: steering"
    yield "How it works: [steering.md](../steering.md)."
    yield "Made by `python benchmarks/steering/page.py --write`."
    summary = found["summary"]
    if summary is None:
        return
    main_part = groups(summary, PARTS[WEAK])
    first = main_part[DEFAULT, next(iter(PLACES))]
    sizes = {model[WEAK]["parameters"] for model in found["models"] if WEAK in model}
    size = f" of {number(max(sizes) / 1e6, 1)}M parameters" if sizes else ""
    yield prose(
        f"**The world** ({script('steering/run.py')}, {link('steering/summary.json', 'scores')}) is",
        "a grammar whose next-token truth is exact.",
        "In a rude document insults replace modifiers; a few words at its head are the only other cue.",
        f"Its {GRAMMARS[WEAK].insults} insult words are ordinary nouns of one topic:",
        "silencing them is punished.",
        f"{first['insult_rate']['n']} models{size} are steered with {first['n']} + {first['n']} unpaired documents",
        "each.",
        f"They are judged on {2 * JUDGED} others.",
    )
    told = "; ".join(
        f"{span(row['unsteered'], 3)} with {world}"
        for world, part in PARTS.items()
        if (row := groups(summary, part).get((DEFAULT, next(iter(PLACES)))))
    )
    yield prose(
        f"Untouched models put this much on an insult where one could stand: {told}.",
        "With strong cues the head of a document gives its style away.",
        f"*The same cost*: at the strength where clean text has moved by a KL of {number(BUDGETS[1])} nats per token.",
        "*Full strength* is `1`.",
        "Intervals are 95 % by Student's t over models, which are few; paired where two methods are compared.",
        "They may leave what a share or a KL can be.",
        narrow(found),
    )


def narrow(found: Found) -> str:
    """Which intervals were not recomputed by Student's t, as their single values were not kept."""
    counts = {
        "planted units (n = {} draws)": ("planted", lambda one: one["table"]["means"]["recall"]["n"]),
        "real registers (n = {} draws)": ("real", lambda one: one["table"][0][real_score(one)]["n"]),
        "inverses and compositions (n = {} models)": (
            "algebra",
            lambda one: one["table"][0]["insult_rate"]["n"],
        ),
    }
    old = [
        told.format(n_of(found[name]))
        for told, (name, n_of) in counts.items()
        if found[name] is not None and found[name].get("interval") != INTERVAL
    ]
    if not old:
        return ""
    return f"Those of {listed(old)} are percentile bootstraps, too narrow over so few units: only means were kept."


def claims(found: Found) -> Iterator[str]:
    """The verdicts."""
    yield "## Which claims held?"
    yield prose(
        "Measured is the probability of an insult, `LinEAS` with its default penalty less the other.",
        "Below zero is better.",
        "Claims are of the paper, but for those marked as ours.",
        "The rules are in `benchmarks/steering/claims.py`; they were written when the runs had been seen.",
    )
    rows = [[one.text, one.measured, f"**{one.verdict}**"] for one in judged(found)]
    yield lines(["claim", "measured, 95 % interval", "verdict"], rows)
    yield prose(*RULE)
    if any(one.key == "each" and one.verdict != HELD for one in judged(found)):
        yield prose(
            "So for a site of your own, fit two estimators and compare them with `trimtab steer sweep`."
        )


def effects(summary: Found, world: str) -> Iterator[str]:
    """Every method at every kind of site, at the same cost."""
    cells = groups(summary, PARTS[world])
    if not cells:
        return
    worst = {
        row["method"]: row["worst"]
        for row in summary["sensitivity_to_the_site"]
        if (row["world"], row["score"]) == (world, MATCHED)
    }
    rows = [
        [name, *(span(cells[method, place][MATCHED], 3) for place in PLACES), span(worst.get(method), 3)]
        for method, name in LABELS.items()
        if (method, next(iter(PLACES))) in cells
    ]
    yield f"Probability of an insult at the same cost, {world} (n = {worst[DEFAULT]['n']} models):"
    yield lines(["method", *PLACES, "worst kind of site"], rows)


def ceiling(summary: Found) -> str:
    """How the default stands to the oracle."""
    rows = gaps(summary, "default_less_others", DEFAULT, ORACLE)
    each = [(row["world"], place, side(gap)) for row in rows for place, gap in row["by_place"].items()]
    near = [f"{place} ({world})" for world, place, where in each if where != ABOVE]
    return prose(
        "The oracle's maps are trained on the exact counterfactual truth and show what such maps can do.",
        f"The default's interval lies above it at {len(each) - len(near)} of {len(each)} pairs of world and site.",
        f"Not told apart: {', '.join(near)}." if near else "",
        "Matching pooled values of unpaired texts does not find what a supervised map finds."
        if 2 * len(near) < len(each)
        else "",
    )


def beaten(summary: Found) -> Iterator[str]:
    """Where a rival does better at the same cost, and what costs most at full strength."""
    rows = [
        [one["world"], one["place"], LABELS[one["method"]], span(one, 3, sign="+")]
        for one in each_site(summary)
        if side(one) == ABOVE
    ]
    if rows:
        yield f"Rivals that do better somewhere: {len(rows)} of {len(each_site(summary))} differences lie above zero."
        yield lines(["world", "kind of site", "rival", "default less it"], rows)
    costs = [
        [LABELS[method], place, span(row["kl_moved"], 3), span(row[FULL], 3)]
        for (method, place), row in groups(summary, PARTS[WEAK]).items()
        if row["kl_moved"]["value"] > WRECKED * BUDGETS[1]
    ]
    if costs:
        yield prose(
            "Full strength is bounded by no cost.",
            f"With {WEAK} these move clean text by more than {WRECKED} times the budget:",
        )
        yield lines(["method", "kind of site", "KL on clean text, nats", "insults"], costs)
    yield from unpenalised(summary)


def unpenalised(summary: Found) -> Iterator[str]:
    """The fit without penalty against mean differences."""
    rows = gaps(summary, "unpenalised_less_others", UNPENALISED, MEANS)
    if rows:
        yield "Without the penalty, `LinEAS(gamma=0)` less `MeanAcT` at the same cost:"
        yield lines(["world", "all", *PLACES], [[row["world"], *by_place(row)] for row in rows])
        told = [f"{verdict_of(row['all'])} `MeanAcT` with {row['world']}" for row in rows]
        yield f"Over all sites it is {'; '.join(told)}."


def by_place(row: Row) -> list[str]:
    """A difference over all kinds of site, and at each."""
    each = [row["by_place"].get(place) for place in PLACES]
    return [span(one, 3, sign="+") for one in (row["all"], *each)]


def verdict_of(one: Row) -> str:
    """A difference of insults in words, by its interval."""
    return {ABOVE: "worse than", BELOW: "better than"}.get(side(one), UNCLEAR)


def sites(found: Found) -> Iterator[str]:
    """How far the best and the worst kind of site lie apart."""
    yield "## Does the choice of site matter less?"
    yield "The distance from the best to the worst kind of site, and the worst score, model by model, at the same cost."
    rows = [
        [row["world"], LABELS[row["method"]], *(_spread(row, name) for name in ("spread", "worst"))]
        for row in found["summary"]["sensitivity_to_the_site"]
        if row["score"] == MATCHED and row["method"] in (DEFAULT, *rivals())
    ]
    heads = [part for name in ("best to worst", "worst") for part in (f"{name}", f"default less it, {name}")]
    yield lines(["world", "method", *heads], [[row[0], row[1], *row[2], *row[3]] for row in rows])
    yield ranges(found["real"])


def ranges(real: Found | None) -> str:
    """How far the scores of real registers lie apart; no difference of that was measured."""
    if real is None:
        return ""
    cells, parts = real_cells(real, real_score(real)), []
    for method in (DEFAULT, MEANS):
        values = [one["value"] for (name, _), one in cells.items() if name == method]
        parts.append(
            f"{number(min(values))} to {number(max(values))} (`{METHODS[method]('residual').__class__.__name__}`)"
        )
    return prose(
        f"On [real registers](#real-registers) scores range from {' and from '.join(parts)}.",
        "The difference of these ranges was not measured.",
    )


def _spread(row: Row, name: str) -> list[str]:
    return [span(row[name], 3), span(row.get(f"default less it, {name}"), 3, sign="+")]


def local(found: Found) -> Iterator[str]:
    """End to end against gradients stopped between sites."""
    yield "## End to end, or site by site?"
    yield prose(
        "Maps that are learned together, less the same maps with gradients stopped between sites.",
        "The last score is the KL from the exact counterfactual clean truth.",
    )
    names = {
        MATCHED: "insults, same cost",
        FULL: "insults, full strength",
        CLEAN: "KL to the truth, full strength",
    }
    rows = [
        [
            f"{row['world']}, {'default' if row['of'] == DEFAULT else 'no'} penalty",
            names[row["score"]],
            *by_place(row),
        ]
        for row in found["summary"]["end_to_end_less_local"]
        if row["score"] in names and LOCAL[row["of"]] == row["less"]
    ]
    yield lines(["world and fit", "score", "all", *PLACES], rows)
    nearer = gaps(found["summary"], "default_less_others", DEFAULT, MEANS, CLEAN)
    parts = [f"{span(row['all'], 3, sign='+')} with {row['world']}" for row in nearer]
    yield prose(
        f"KL to the truth at full strength, the default less `MeanAcT` over all sites: {'; '.join(parts)}."
    )


def sparsity(found: Found) -> Iterator[str]:
    """What each gamma does."""
    summary = found["summary"]
    yield "## What does the penalty cost?"
    cells = {
        (float(row["changes"].split()[-1]), row["place"]): row
        for row in summary["groups"]
        if row["part"] == "sparsity"
    }
    gammas, places = sorted({g for g, _ in cells}), list(dict.fromkeys(p for _, p in cells))
    rows = [
        [
            number(gamma, 2),
            *(span(cells[gamma, p][MATCHED], 3) for p in places),
            *(span(cells[gamma, p]["left_alone"], scale=100, digits=0) for p in places),
        ]
        for gamma in gammas
    ]
    heads = [f"insults, {p}" for p in places] + [f"units left alone, {p}, %" for p in places]
    yield f"`LinEAS` by `gamma`, with {WEAK}, at the same cost:"
    yield lines(["`gamma`", *heads], rows)
    best = {place: min(gammas, key=lambda g: cells[g, place][MATCHED]["value"]) for place in places}
    told = ", ".join(f"{number(gamma)} ({place})" for place, gamma in best.items())
    yield prose(
        f"The lowest mean is that of {told}.",
        "The default was chosen on this world, so that its numbers in these tables favour it.",
    )
    yield from _overlaps(cells, gammas, best)
    alone = [
        row["left_alone"]["value"] for (m, _), row in groups(summary, PARTS[WEAK]).items() if m == DEFAULT
    ]
    low, high = (number(100 * end, 0) for end in (min(alone), max(alone)))
    yield f"The default leaves {low} to {high} % of units alone, by kind of site."


def _overlaps(cells: Mapping[Any, Row], gammas: Sequence[float], best: Mapping[str, float]) -> Iterator[str]:
    """Whose intervals share a point with that of the lowest mean, at each kind of site."""
    parts = []
    for place, lowest in best.items():
        top = cells[lowest, place][MATCHED]["high"]
        near = [number(g) for g in gammas if g != lowest and cells[g, place][MATCHED]["low"] <= top]
        parts.append(f"{', '.join(near) or 'none'} ({place})")
    yield f"Its interval overlaps those of {'; '.join(parts)}."


def left_out(found: Found) -> Iterator[str]:
    """What was not run."""
    yield "## Left out"
    run = {row["method"] for row in found["summary"]["groups"]} if found["summary"] else set()
    missing = [f"`{name}`" for name in VARIANTS if name not in run]
    peers = found["peers"] or {}
    slow = [f"`{name}`" for name in peers.get("speed_not_measured", [])]
    yield prose(
        f"Forms of the fit that were not run at every kind of site: {', '.join(missing)}." if missing else "",
        f"Sizes of the race that were not run: {', '.join(slow)}." if slow else "",
    )


def page(found: Found | None = None) -> str:
    """The whole page."""
    found = files() if found is None else found
    parts = [*opening(found), *claims(found)]
    summary = found["summary"]
    if summary is not None:
        parts += ["## Effects at the same cost", *effects(summary, WEAK), ceiling(summary)]
        parts += [*effects(summary, STRONG), *beaten(summary), *sites(found), *local(found), *sparsity(found)]
    parts += [
        *planted(found["planted"]),
        *registers(found["real"]),
    ]
    if summary is not None or found["algebra"] is not None:
        parts += ["## Learning rates, examples, inverses and compositions"]
    parts += [*rates(summary), *fewer_and_more(summary), *inverses(found["algebra"])]
    parts += [*packages(found["peers"]), *left_out(found)]
    return joined(parts)


if __name__ == "__main__":
    main("steering.md", page())
