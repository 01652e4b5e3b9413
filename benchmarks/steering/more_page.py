"""Sections of the page of results: planted units, real registers, learning rates, examples, inverses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from claims import ABOVE, BELOW, UNCLEAR, apart, real_cells, real_score, real_sides, untouched_score
from methods import DEFAULT, LABELS, LOCAL, METHODS
from pages import lines, link, listed, number, prose, script, span
from table import MATCHED
from verdicts import side

from trimtab import LinEAS
from worlds import PLACES, WEAK

Found = Mapping[str, Any]
Row = Mapping[str, Any]
NAMES = {alias: place for place, alias in PLACES.items()}


def planted(found: Found | None) -> Iterator[str]:
    """Whether sparsity finds the units that were changed."""
    if found is None:
        return
    about, table = found["planted"], found["table"]
    means = table["means"]
    yield "## Does sparsity find the units that were changed?"
    yield prose(
        f"({script('steering/planted.py')}, {link('steering/planted.json', 'result')})",
        f"{about['units']} units of one norm were shifted by {number(about['shift_sd'], 0)} standard deviations.",
        "The same norm of every block may be mapped.",
        f"{about['examples']} + {about['examples']} examples, {means['recall']['n']} draws of units, one model.",
        "A comparison of means, told how many to pick, is the rival.",
    )
    cells = {name: _measures(row) for name, row in table.items() if name != "means"}
    rows = [["means that differ most, in standard errors", *_measures(means)]]
    rows += [
        [f"`{name.rpartition(', ')[2]}`, {name.rpartition(', ')[0]}", *row] for name, row in cells.items()
    ]
    yield lines(["`gamma`, fit", "units touched", "precision", "recall"], rows)
    default = f"{METHODS[DEFAULT]('residual').gamma:g}"
    ours, theirs = (table[f"{how}, {default}"]["precision"] for how in ("end to end", "local"))
    where = apart(ours, theirs)
    told = "overlaps that of local fits" if where == UNCLEAR else f"lies {where} that of local fits"
    yield prose(
        f"At the default the interval of precision, end to end, {told}.",
        _not_a_detector(ours, means["precision"]),
    )


def _not_a_detector(ours: Row, means: Row) -> str:
    if apart(ours, means) != BELOW:
        return ""
    return "It lies below that of the comparison of means: `gamma` is a way to do less, not a detector."


def _measures(row: Row) -> list[str]:
    """Units touched, precision (by the draws in which a unit was touched) and recall."""
    told = [span(row["touched"], 1), span(row["precision"]), span(row["recall"])]
    fewer = row["precision"]["n"]
    if 0 < fewer < row["recall"]["n"]:
        told[1] += f", n = {fewer}"
    return told


def registers(found: Found | None) -> Iterator[str]:
    """Code to prose with a model of real text."""
    if found is None:
        return
    score = real_score(found)
    assert score is not None
    cells = real_cells(found, score)
    untouched = real_cells(found, untouched_score(found))
    before = next(iter(untouched.values()))["value"]
    size, budget = found["model"]["parameters"] / 1e6, score.split()[-1]
    apart_of = found["separation"]
    yield "## Real registers"
    yield prose(
        f"({script('steering/real.py')}, {link('steering/real.json', 'result')})",
        f"`{found['model']['name']}` ({number(size)}M parameters) goes on with lines of code.",
        f"It is steered from code to docstring prose, fitted with {found['examples']} + {found['examples']} lines.",
        "A detector of characters scores what is generated: one is code, zero is prose, so lower is better.",
        f"Untouched: {number(before)}.",
    )
    yield prose(
        f"It tells real registers apart by {span(apart_of['real'])}, n = {apart_of['real']['n']}.",
        f"The model's own: {span(apart_of['generated'])}, n = {apart_of['generated']['n']}.",
        *(
            ["Its prose is weak: a low score says that it is no longer like code, not that it is good prose."]
            if apart_of["generated"]["high"] < apart_of["real"]["low"]
            else []
        ),
    )
    yield prose(
        f"Scores where the KL on package metadata, which is neither register, reaches {budget} nats per token.",
        "Where it stays below that, the score is that of the largest strength.",
        f"{next(iter(cells.values()))['n']} draws of examples, one model; intervals are over draws.",
    )
    places = list(dict.fromkeys(place for _, place in cells))
    rows = [
        [name, *(span(cells[method, place]) for place in places)]
        for method, name in LABELS.items()
        if (method, places[0]) in cells
    ]
    shuffled = {row["place"]: row[score] for row in found["table"] if row["shuffled"]}
    rows += [["`MeanAcT`, registers shuffled together (control)", *(span(shuffled.get(p)) for p in places)]]
    yield lines(["method", *(NAMES[place] for place in places)], rows)
    yield prose(*(_against(found, rival) for rival in ("MeanAcT", LOCAL[DEFAULT])))
    yield prose(_unmoved(cells, untouched, places))


def _against(found: Found, rival: str) -> str:
    """Where the default's interval lies by that of a rival."""
    sides = real_sides(found, rival)
    name = LABELS[rival]
    named = {
        where: [NAMES[p] for p, one in sides.items() if one == where] for where in (BELOW, ABOVE, UNCLEAR)
    }
    parts = [
        f"{word} at {', '.join(named[where])}"
        for where, word in ((BELOW, "below"), (ABOVE, "above"), (UNCLEAR, "overlapping"))
        if named[where]
    ]
    return f"The default's interval against {name}: {'; '.join(parts)}."


def _unmoved(cells: Mapping[Any, Row], before: Mapping[Any, Row], places: list[str]) -> str:
    """Where the default leaves the score within its interval, or nearer to code."""
    still = [NAMES[p] for p in places if cells[DEFAULT, p]["high"] >= before[DEFAULT, p]["value"]]
    if not still:
        return ""
    return (
        f"At {', '.join(still)} its interval reaches the untouched score, so that it may move nothing there."
    )


def _changes(row: Row) -> dict[str, str]:
    """Settings that a group changes, by name."""
    parts = (part.rpartition(" ") for part in row["changes"].split(", "))
    return {name: value for name, _, value in parts}


def _fit(place: str, kind: str, optimizer: str) -> str:
    """A site and a kind of fit in words."""
    ours = LinEAS().settled()
    usual = " (ours)" if (kind, optimizer) == (ours.normalisation, ours.optimizer) else ""
    loss = "the paper's sum" if kind == "paper" else kind
    return f"{place}, {loss}, {'SGD' if optimizer == 'sgd' else optimizer.capitalize()}{usual}"


def rates(summary: Found | None) -> Iterator[str]:
    """Learning rates by normalisation and optimizer."""
    if summary is None:
        return
    rows_of = [row | _changes(row) for row in summary["groups"] if row["part"] == "rates"]
    if not rows_of:
        return
    cells = {(row["place"], row["normalisation"], row["optimizer"], row["lr"]): row for row in rows_of}
    fits, every = list(dict.fromkeys(key[:3] for key in cells)), sorted({key[3] for key in cells}, key=float)
    ours = LinEAS().settled()
    yield "### Learning rates"
    yield prose(
        f"`LinEAS(gamma=0)` by learning rate, {ours.steps} steps, with {WEAK}.",
        f"Insults at the same cost; {link('steering/summary.json', 'all scores')}.",
    )
    rows = [[_fit(*fit), *(_rate(cells[(*fit, lr)]) for lr in every)] for fit in fits]
    yield lines(["site and fit", *every], rows)
    whole = {key: row for key, row in cells.items() if not row["diverged"]["value"]}
    for place in dict.fromkeys(key[0] for key in whole):
        yield prose(*_lowest({key: row for key, row in whole.items() if key[0] == place}))
    wild = list(dict.fromkeys(key[:3] for key, row in cells.items() if row["diverged"]["value"]))
    parts = [_fit(*fit) for fit in wild]
    yield prose(
        f"Fits diverge only here: {'; '.join(parts)}." if parts else "No fit diverges.",
        f"The penalty is off; with it one rate, {number(ours.lr)}, has been run.",
    )


def _rate(row: Row) -> str:
    """A score, or how many fits diverged."""
    one = row["diverged"]
    count = round(one["value"] * one["n"])
    return f"{count} of {one['n']} diverge" if count else span(row[MATCHED], 3)


def _lowest(cells: Mapping[tuple[str, ...], Row]) -> Iterator[str]:
    """The lowest mean at a kind of site, and the lowest of the scale-free loss."""
    lowest = lambda keys: min(keys, key=lambda key: cells[key][MATCHED]["value"])  # noqa: E731
    best = lowest(cells)
    yield f"The lowest mean is {span(cells[best][MATCHED], 3)} ({_fit(*best[:3])}, at {best[3]})."
    free = [key for key in cells if key[1] == LinEAS().settled().normalisation]
    if best not in free:
        own = lowest(free)
        yield f"The lowest of the scale-free loss there is {span(cells[own][MATCHED], 3)}, at {own[3]}."


def fewer_and_more(summary: Found | None) -> Iterator[str]:
    """Scores by the number of examples."""
    if summary is None:
        return
    every = [row for row in summary["groups"] if row["part"] == "examples"]
    if not every:
        return
    place = every[0]["place"]
    usual = [
        row
        for row in summary["groups"]
        if (row["part"], row["place"]) == ("main", place)
        and row["method"] in {one["method"] for one in every}
    ]
    cells = {(row["method"], row["n"]): row for row in (*every, *usual)}
    counts = sorted({n for _, n in cells})
    yield "### Examples"
    yield f"Insults at the same cost by examples on each side, {place}, with {WEAK}:"
    methods = [method for method in LABELS if (method, counts[0]) in cells]
    rows = [[LABELS[m], *(span(cells[m, n][MATCHED], 3) for n in counts)] for m in methods]
    kept = [span(cells[DEFAULT, n]["topic_fidelity"], 3) for n in counts]
    gaps = summary["most_less_fewest_examples"]
    more = {one["method"]: span(one["gap"], 3, sign="+") for one in gaps}
    rows = [[*row, more.get(method, "-")] for method, row in zip(methods, rows, strict=True)]
    rows += [["the default: topics kept at full strength", *kept, "-"]]
    yield lines(["method", *map(str, counts), f"{counts[-1]} less {counts[0]}, same models"], rows)
    yield prose(*_helped(gaps))


def _helped(gaps: list[Row]) -> Iterator[str]:
    """For whom more examples help, by the interval."""
    names = {
        where: [_plain(one["method"]) for one in gaps if side(one["gap"]) == where]
        for where in (BELOW, ABOVE, UNCLEAR)
    }
    if names[BELOW]:
        yield f"More examples help {listed(names[BELOW])}."
    if names[ABOVE]:
        yield f"They hurt {listed(names[ABOVE])}."
    if names[UNCLEAR]:
        yield f"For {listed(names[UNCLEAR])} no difference is told apart from none."


def inverses(found: Found | None) -> Iterator[str]:
    """Inverses and compositions of steerings."""
    if found is None:
        return
    cells = {(row["place"], row["method"], row["part"], row["steering"]): row for row in found["table"]}
    fits = list(dict.fromkeys(key[:2] for key in cells))
    n = next(iter(cells.values()))["insult_rate"]["n"]
    yield "### Inverses"
    before = cells[(*fits[0], "inverse", "untouched")]["insult_rate"]
    yield prose(
        f"({script('steering/algebra.py')}, {link('steering/algebra.json', 'result')})",
        "A steering to clean text, inverted, is judged on clean documents beside one that was fitted the other way.",
        f"Insults are {span(before, 3)} before; n = {n} models, full strength.",
    )
    rows = []
    for fit in fits:
        both = [cells[(*fit, "inverse", name)] for name in ("inverse", "fitted")]
        told = [span(one[score], 3) for score in ("insult_rate", "kl_moved") for one in both]
        rows.append([fit[0], _plain(fit[1]), *told])
    heads = [
        f"{score}, {name}" for score in ("insults", "KL on clean text") for name in ("inverse", "fitted")
    ]
    yield lines(["kind of site", "method", *heads], rows)
    yield prose(*_inverse_told(cells, fits))
    yield from _composed(cells, fits)


def _plain(method: str) -> str:
    return LABELS[method].replace("*", "")


def _inverse_told(cells: Mapping[Any, Row], fits: list[tuple[str, str]]) -> Iterator[str]:
    less = [
        f"{_plain(method)} ({place})"
        for place, method in fits
        if apart(*(cells[place, method, "inverse", name]["insult_rate"] for name in ("inverse", "fitted")))
        == BELOW
    ]
    costly = [
        f"{_plain(method)} ({place})"
        for place, method in fits
        if apart(*(cells[place, method, "inverse", name]["kl_moved"] for name in ("inverse", "fitted")))
        == ABOVE
    ]
    if less:
        yield f"The inverse does less than the fitted one, by intervals that do not meet: {', '.join(less)}."
    if costly:
        yield f"It costs more: {', '.join(costly)}."
    if any(one.startswith(_plain(DEFAULT)) for one in less):
        yield "Weights near zero become large: with the default, fit it the other way instead."
    most = max(cells[(*fit, "inverse", "there and back")]["kl_moved"]["high"] for fit in fits)
    yield f"The control, a steering followed by its inverse, moves clean text by at most {number(most, 3)} nats."


def _composed(cells: Mapping[Any, Row], fits: list[tuple[str, str]]) -> Iterator[str]:
    names = list(dict.fromkeys(key[3] for key in cells if key[2] == "composition"))
    yield "### Compositions"
    yield prose(
        "A steering of style and one from a topic to a second topic: alone, in either order, and fitted to both.",
        "Judged on rude documents of the first topic.",
    )
    for score, head in (("insult_rate", "Insults"), ("second_topic", "The second topic")):
        rows = [
            [fit[0], _plain(fit[1]), *(span(cells[(*fit, "composition", name)][score], 3) for name in names)]
            for fit in fits
        ]
        yield f"{head}:"
        yield lines(["kind of site", "method", *names], rows)
    alone = {"insult_rate": "style", "second_topic": "topic"}
    orders = [name for name in names if "then" in name]
    near = {
        score: sum(
            apart(cells[(*fit, "composition", order)][score], cells[(*fit, "composition", one)][score])
            == UNCLEAR
            for fit in fits
            for order in orders
        )
        for score, one in alone.items()
    }
    every = len(fits) * len(orders)
    yield prose(
        f"Intervals of compositions overlap those of the style alone in {near['insult_rate']} of {every}, by insults.",
        f"They overlap those of the topic alone in {near['second_topic']} of {every}, by the second topic.",
    )
