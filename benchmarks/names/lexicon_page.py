"""The documentation's page of results of lexicons, written from the result files: every number is computed.

python benchmarks/names/lexicon_page.py [--write]    prints it; --write puts it into docs/results
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from pages import joined, lines, main, number, prose, read, script, span
from verdicts import FAILED, HELD, OPEN, PARTLY, UNKNOWN, side

from trimtab.refer.lexicon.contexts import Trials

Found = Mapping[str, Any]
Row = Mapping[str, Any]
BELOW, ABOVE, UNCLEAR = "below", "above", "not told apart from"
"""What `verdicts.side` says of an interval."""
EASY, HARD = "far", "close"
ALL, SAME = "all messages", "same referents, both contexts' mix"
CORRECTED, KEPT = "corrected", "kept"
HARD_WORDS, SOFT, NESTED = "hard", "soft", "nested"
"""Shapes of made lexicons: sharp borders, overlapping words, words within words."""
SUCCESS, BITS = ("success_low", "success_high"), ("info_low", "info_high")


def files() -> dict[str, Any]:
    """The result files by name; None where one was not made."""
    return {name: read(f"names/{name}.json") for name in ("chinese", "wcs")}


# Rules ---------------------------------------------------------------------------------------------------------------


def settled(sides: Sequence[str]) -> str:
    """The verdict on a difference by several settings.

    Held where every interval lies above zero, did not where some lie below and none above, partly where some lie above
    and none below; open where the sign depends on the settings, or where none tells.
    """
    if not sides:
        return UNKNOWN
    if ABOVE in sides and BELOW in sides:
        return OPEN
    if ABOVE in sides:
        return PARTLY if UNCLEAR in sides else HELD
    return FAILED if BELOW in sides else OPEN


def beyond(one: Row, two: Row, ends: tuple[str, str]) -> str:
    """Where the first interval lies, by the second; unclear where they share a point."""
    low, high = ends
    return BELOW if one[high] < two[low] else ABOVE if one[low] > two[high] else UNCLEAR


def best_for_bits(shapes: Mapping[str, Row]) -> str:
    """Whether soft words succeed most often, for fewer bits than hard ones: by intervals that share no point."""
    soft = shapes[SOFT]
    success = [beyond(soft, shapes[other], SUCCESS) for other in (HARD_WORDS, NESTED)]
    if BELOW in success or beyond(soft, shapes[HARD_WORDS], BITS) == ABOVE:
        return FAILED
    saves = beyond(soft, shapes[HARD_WORDS], BITS) == BELOW
    return HELD if saves and success == [ABOVE, ABOVE] else OPEN


def over_sizes(verdicts: Sequence[str]) -> str:
    """Held where it held at every size, partly where at some; did not where it failed at one and held at none."""
    if not verdicts:
        return UNKNOWN
    if HELD in verdicts:
        return HELD if set(verdicts) == {HELD} else PARTLY
    return FAILED if FAILED in verdicts else OPEN


# Parts of the result files -------------------------------------------------------------------------------------------


def differences(chinese: Found | None, comparison: str) -> list[Row]:
    """Close less far of one comparison, by what became of modifiers and by smoothing."""
    rows = [] if chinese is None else chinese["in_context"]
    pair = f"{HARD} less {EASY}"
    return [row for row in rows if (row["pair"], row["comparison"]) == (pair, comparison)]


def over_cells(chinese: Found | None) -> dict[tuple[float, float], dict[Any, Row]]:
    """Close less far for the same referents, by size of the cells and by smoothing."""
    found: dict[tuple[float, float], dict[Any, Row]] = {}
    for row in [] if chinese is None else chinese["over_cells"]:
        found.setdefault((row["hue"], row["saturation"]), {})[row["smoothing"]] = row
    return found


def made(wcs: Found | None) -> dict[int, dict[str, dict[float, Row]]]:
    """Made lexicons by words, shape and flexibility of their speakers."""
    found: dict[int, dict[str, dict[float, Row]]] = {}
    for row in [] if wcs is None else wcs["simulated"]:
        found.setdefault(row["words"], {}).setdefault(row["shape"], {})[row["flexibility"]] = row
    return found


def flexible(wcs: Found | None) -> dict[int, dict[str, Row]]:
    """Made lexicons by words and shape, of the most flexible speakers."""
    return {
        words: {shape: own[max(own)] for shape, own in shapes.items()} for words, shapes in made(wcs).items()
    }


# The page ------------------------------------------------------------------------------------------------------------


def claims(found: Found) -> Iterator[str]:
    """The verdicts."""
    chinese, wcs = found["chinese"], found["wcs"]
    yield "## Which claims held?"
    rows = [_published(chinese), _informative(chinese), _nearer(wcs), _soft(wcs)]
    yield lines(["claim", "measured, 95 % interval", "verdict"], [[*row, f"**{v}**"] for *row, v in rows])
    yield prose(
        "**Held**: every interval lies above zero, at every setting or size.",
        "**Partly**: some do, and none below.",
        "**Did not hold**: none lies above and some lie below.",
        "**Open**: the sign depends on the settings, or no interval tells.",
        "Made lexicons: soft words succeed more often than both others, and need fewer bits than hard ones.",
        "There intervals count where they share no point, and *partly* is at some sizes only.",
        "The rules were written when the results had been seen.",
    )


def _published(chinese: Found | None) -> list[str]:
    rows = [] if chinese is None else chinese["success"]
    same = [number(row["success"], 3) == number(row["published"], 3) for row in rows]
    verdict = UNKNOWN if not rows else HELD if all(same) else PARTLY if any(same) else FAILED
    measured = f"{sum(same)} of {len(same)} are equal to the digits published" if rows else "-"
    return ["success in context is as published (Mandarin)", measured, verdict]


def _informative(chinese: Found | None) -> list[str]:
    cells = [row for own in over_cells(chinese).values() for row in own.values()]
    sides = [side(row) for row in cells]
    measured = "-"
    if cells:
        measured = (
            f"of {len(sides)} cells and smoothings: {sides.count(ABOVE)} above zero, {sides.count(BELOW)} below, "
            f"n = {cells[0]['n_clusters']} games"
        )
    return ["close contexts get more informative words (Mandarin)", measured, settled(sides)]


def _nearer(wcs: Found | None) -> list[str]:
    text = "colour lexicons lie nearer the frontier than their own words turned round the hue circle, bits"
    if wcs is None:
        return [text, "-", UNKNOWN]
    gap = wcs["summary"]["turned_less_own"]
    return [text, f"{span(gap, 3, sign='+')}, n = {gap['n']} languages", settled([side(gap)])]


def _soft(wcs: Found | None) -> list[str]:
    text = (
        "soft words, several per referent, succeed most often for fewer bits than hard ones (made lexicons)"
    )
    parts, verdicts = [], []
    for words, shapes in flexible(wcs).items():
        verdicts.append(best_for_bits(shapes))
        each = " against ".join(_success(shapes[shape]) for shape in (SOFT, HARD_WORDS))
        parts.append(f"{words} words {each}: {verdicts[-1]}")
    trials = f"; n = {wcs['simulated'][0]['n']} trials" if wcs else ""
    return [text, "; ".join(parts) + trials or "-", over_sizes(verdicts)]


def opening() -> Iterator[str]:
    """What the page is about."""
    yield "# Results: lexicons"
    yield "How it works: [lexicon.md](../lexicon.md)."
    yield "Made by `python benchmarks/names/lexicon_page.py --write`."
    yield prose(
        "The data is not part of the package; commands and settings are in the result files:",
        f"[Chinese](../../benchmarks/results/names/chinese.json) ({script('names/chinese.py')}),",
        f"[World Color Survey](../../benchmarks/results/names/wcs.json) ({script('names/wcs.py')}).",
    )


def mandarin(chinese: Found | None) -> Iterator[str]:
    """Colours in context."""
    if chinese is None:
        return
    success = chinese["success"]
    yield "## Do close contexts get more informative words?"
    yield prose(
        f"**Mandarin colours in context** (Monroe et al. 2018; {success[0]['games']} games).",
        "A speaker names one of several colours, and the listener clicks it.",
        "Intervals are 95 % bootstrap over games.",
    )
    rows = [
        [row["context"], span(row, 3, of="success"), row["trials"], number(row["published"], 3)]
        for row in success
    ]
    yield lines(["context", "success", "trials", "published"], rows)
    yield from by_treatment(chinese)
    yield from by_cells(chinese)
    yield from aside(chinese)


def by_treatment(chinese: Found) -> Iterator[str]:
    """Differences by what becomes of modifiers."""
    cells = {
        name: {(row["treatment"], row["smoothing"]): row for row in differences(chinese, name)}
        for name in (ALL, SAME)
    }
    yield prose(
        f"Bits per message by `{chinese['default_measure']}`, close less far, in {chinese['settings']['cells']} cells",
        "of hue and saturation.",
        "Modifiers are stripped, kept as words of their own, or only messages without one are taken (bare).",
    )
    rows = []
    for (treatment, smoothing), row in cells[ALL].items():
        both = (span(own[treatment, smoothing], 3, of="difference", sign="+") for own in cells.values())
        rows.append([treatment, number(smoothing, 0), *both, row["n_messages"]])
    yield lines(["modifiers", "smoothing", *cells, "messages"], rows)
    sides: dict[str, list[str]] = {}
    for (treatment, _), row in cells[SAME].items():
        sides.setdefault(treatment, []).append(side(row))
    unclear = [treatment for treatment, own in sides.items() if settled(own) in (OPEN, PARTLY)]
    if unclear:
        yield prose(
            f"For the same referents smoothing decides whether a difference is told: {', '.join(unclear)}.",
            "As words of their own most modifiers are rare, so how much they add cannot be said."
            if KEPT in unclear
            else "",
        )


def by_cells(chinese: Found) -> Iterator[str]:
    """Differences by the size of cells, by smoothing, and with a correction."""
    cells = over_cells(chinese)
    columns = list(next(iter(cells.values())))
    smooth = [name for name in columns if name != CORRECTED]
    yield prose(
        "The same difference (stripped, same referents, both contexts' mix) over sizes of cells.",
        "*Corrected* takes off each word the bits that as many referents drawn at random would seem to tell.",
    )
    rows = [
        [
            f"{next(iter(own.values()))['cells']} ({size[0]:g}° x {size[1]:g})",
            *(span(own[name], 3, of="difference", sign="+") for name in columns),
        ]
        for size, own in cells.items()
    ]
    heads = [f"smoothing {number(name, 0)}" for name in smooth] + [CORRECTED] * (CORRECTED in columns)
    yield lines(["cells (hue x saturation)", *heads], rows)
    yield prose(*told_of_cells(cells, smooth))


def told_of_cells(cells: Mapping[Any, Mapping[Any, Row]], smooth: Sequence[float]) -> Iterator[str]:
    """What the table shows, by its means and intervals."""
    every = [side(row) for own in cells.values() for row in own.values()]
    if ABOVE in every and BELOW in every:
        yield "**Whether close contexts get more informative words cannot be told from such a table**:"
        yield "the sign depends on the cells and on how rarely said words are treated."
    values = [[own[name]["difference"] for own in cells.values()] for name in smooth]
    finer = all(one < two for column in values for one, two in pairwise(column))
    less = all(one > two for row in zip(*values, strict=True) for one, two in pairwise(row))
    if finer and less:
        yield "Finer cells and less smoothing raise every mean, as they do for any word that is said a few times."
    elif finer:
        yield "Finer cells raise every mean."
    where: dict[str, list[str]] = {}
    for own in cells.values():
        if CORRECTED in own:
            where.setdefault(side(own[CORRECTED]), []).append(str(own[CORRECTED]["cells"]))
    words = {ABOVE: "above zero", BELOW: "below zero", UNCLEAR: "not told apart from zero"}
    parts = [f"{words[at]} at {', '.join(names)} cells" for at, names in where.items()]
    if parts:
        yield f"Corrected, it is {'; '.join(parts)}."


def aside(chinese: Found) -> Iterator[str]:
    """Messages without a word of the list."""
    by = {row["context"]: row for row in chinese["set_aside"]}
    gap = by.pop("hard less easy")
    rows = [[name, row["n_messages"], row["n_aside"], span(row, 3, of="share")] for name, row in by.items()]
    rows += [[f"{HARD} less {EASY}", gap["n_messages"], gap["n_aside"], span(gap, 3, of="share", sign="+")]]
    yield "Messages without a colour word of the list are set aside:"
    yield lines(["context", "messages", "set aside", "share"], rows)
    often = {ABOVE: "more often", BELOW: "less often"}.get(side(gap))
    reasons = next(row["messages_by_reason"] for row in chinese["in_context"] if "messages_by_reason" in row)
    lost = reasons["no word of the list"]
    yield prose(
        f"They are set aside **{often} in close contexts**: what is compared is chosen, and differently so."
        if often
        else "",
        f"Of all {sum(reasons.values())} messages, of every context, {lost} are set aside.",
    )


MEASURES = {
    "complexity_bits": ("bits that a word costs", 2),
    "accuracy_bits": ("bits of the colour that it tells", 2),
    "words_per_referent": ("different words of a chip", 1),
    "effective_words": ("effective words of a chip", 1),
    "inefficiency_bits": ("bits from the annealed frontier", 3),
    "inefficiency_bits_without_coded_NA": ("the same, languages without a term coded as missing", 3),
    "turned_less_own": ("words turned round the hue circle less own, bits from the frontier", 3),
}


def survey(wcs: Found | None) -> Iterator[str]:
    """Languages on the plane of complexity and accuracy."""
    if wcs is None:
        return
    summary = wcs["summary"]
    chips = max(row["n_referents"] for row in wcs["languages"])
    yield "## How near are languages to the frontier?"
    yield prose(
        f"**World Color Survey**: {summary['languages']} languages, {chips} chips.",
        f"Turned: by {', '.join(map(str, wcs['settings']['turns']))} columns of hues.",
        "Intervals are 95 % bootstrap over languages.",
    )
    rows = [
        [text, span(summary[name], digits), summary[name]["n"]] for name, (text, digits) in MEASURES.items()
    ]
    yield lines(["mean over languages", "value", "n"], rows)
    gap, nearer = summary["turned_less_own"], summary["languages_nearer_than_their_turned_twins"]
    missing = summary["not_placed"]
    yield prose(
        f"{nearer} of {gap['n']} languages are nearer the frontier than their own words turned.",
        f"{len(missing)} lack some chips and have no place beside that frontier." if missing else "",
        f"The whole takes {number(summary['cpu_seconds'], 1)} seconds of one core.",
    )


def simulated(wcs: Found | None) -> Iterator[str]:
    """Made lexicons over the same chips."""
    if wcs is None:
        return
    usual, every = Trials(), made(wcs)
    trials = wcs["simulated"][0]["n"]
    yield "## Do several words per thing pay?"
    yield prose(
        f"**Made lexicons** over the same chips: {trials} trials with {usual.distractors} distractors.",
        f"In {number(100 * usual.nearby, 0)} % of trials these are the nearest chips.",
        "Intervals are 95 % bootstrap over trials.",
    )
    rows = []
    for words, shapes in every.items():
        for shape, own in shapes.items():
            ends = (own[min(own)], own[max(own)])
            told = [text for row in ends for text in (_success(row), _bits(row))]
            rows.append([str(words), shape, *told])
    heads = [
        f"{what}, {who}" for who in ("one word each", "all words in context") for what in ("success", "bits")
    ]
    yield lines(["words", "shape", *heads], rows)
    yield prose(*told_of_shapes(flexible(wcs)))


def _success(row: Row) -> str:
    return span(row, 3, of="success", ends=SUCCESS)


def _bits(row: Row) -> str:
    return span(row, 2, of="info_bits", ends=BITS)


def told_of_shapes(sizes: Mapping[int, Mapping[str, Row]]) -> Iterator[str]:
    """How soft and nested words do beside hard ones, all in context; differences were not measured."""
    yield "Speakers weigh all words in context; differences were not measured, only whether intervals meet."
    words = {ABOVE: "more often", BELOW: "less often", UNCLEAR: "not told apart"}
    for shape in (SOFT, NESTED):
        where: dict[str, list[str]] = {}
        for size, shapes in sizes.items():
            where.setdefault(beyond(shapes[shape], shapes[HARD_WORDS], SUCCESS), []).append(str(size))
        fewer = sum(beyond(own[shape], own[HARD_WORDS], BITS) == BELOW for own in sizes.values())
        parts = [f"{words[at]} with {', '.join(names)} words" for at, names in where.items()]
        yield f"{shape.capitalize()} words succeed, against hard ones: {'; '.join(parts)}."
        yield f"They need fewer bits at {fewer} of {len(sizes)} sizes."
    yield "Half of nested words are wide."


def page(found: Found | None = None) -> str:
    """The whole page."""
    found = files() if found is None else found
    parts = [*opening(), *claims(found), *mandarin(found["chinese"]), *survey(found["wcs"])]
    return joined([*parts, *simulated(found["wcs"])])


if __name__ == "__main__":
    main("lexicon.md", page())
