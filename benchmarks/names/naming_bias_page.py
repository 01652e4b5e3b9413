"""The page of results of naming bias, from the result files: every number and every comparison is computed.

python benchmarks/names/naming_bias_page.py [--write]    prints it; --write puts it into docs/results
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from naming_bias_claims import (
    CONFIDENCE,
    SHIPPED,
    WORDS,
    Found,
    amplified,
    at_mix,
    compared,
    composition,
    ends,
    gap_of,
    gaps,
    held_truth,
    holds,
    judged,
    model_gap,
    raw,
    shares,
    tally,
)

sys.path.append(str(Path(__file__).parents[1]))
from pages import joined, lines, link, main, number, prose, read, script, span
from verdicts import HELD, side

MOST = 2
"""Sports of a group that are told: those where most of it are shown."""


def opening(found: Found, coverage: Found | None) -> Iterator[str]:
    """The question, the claims, and what was done."""
    yield "## Are women named by their sport less often than men?"
    rows = [[*row[:-1], f"**{row[-1]}**"] for row in judged(found, coverage)]
    yield lines(["claim", "whose", "held if", "measured", "verdict"], rows)
    yield prose(
        "Gaps are women less men.",
        "Open: the intervals are too wide to say.",
        "Which names count as a sport is decided by our word lists, not by the paper's.",
    )
    yield "### How it was measured"
    yield "\n".join(f"- {one}" for one in settings(found))


def settings(found: Found) -> Iterator[str]:
    """Data, outcome, intervals, and who was set aside."""
    audit = found["people"]["audit"]
    counts = {row["reason"]: row for row in audit["accounting"]}
    aside = {name: row["n_objects"] for name, row in counts.items() if name != "used" and row["n_objects"]}
    total = sum(row["n_objects"] for row in counts.values())
    outside = sum(row["n_tokens"] for row in counts.values() if not row["n_objects"])
    every = found["people"]["all_answers_count"]["gap"]
    speed = found["all_answers"]
    yield "English ManyNames (Silberer et al. 2020), raw answers. The data is not part of the package."
    yield (
        f"Commands and settings: {link('names/manynames.json', 'result')}, by {script('names/manynames.py')}. "
        f"Intervals: {found['interval']}, {found['settings']['n_boot']} resamples."
    )
    yield f"{total:,} people in photographs whom at least one answer calls by a sport. The sport is the stratum."
    yield f"{sum(aside.values())} are set aside: {', '.join(f'{name} ({n})' for name, n in aside.items())}."
    yield "Gender: by most of the answers that name one. Outcome: the answer names a sport or an athlete."
    yield f"Only answers that name a person count; {outside:,} others do not. Counting them, the gap is {gaps(every)}."
    yield (
        f"An audit of all {speed['tokens']:,} answers, of things too, took "
        f"{number(speed['seconds'], 0)} seconds with {speed['n_boot']} resamples."
    )


def mixes(found: Found) -> Iterator[str]:
    """What the mix of sports accounts for."""
    audit = found["people"]["audit"]
    rows = audit["standardised"]
    yield "## How much do the sports that are shown account for?"
    cells = [["raw", gaps(audit["gap"]), "-", "-", "-", f"{audit['gap']['n']:,}"]]
    cells += [
        [
            f"at the mix of {WORDS[row['mix']]}",
            gaps(gap_of(row)),
            gaps(composition(row)),
            percent(row, "explained", "explained_low", "explained_high"),
            percent(row, "support"),
            f"{row['n_objects']:,}",
        ]
        for row in rows
    ]
    yield lines(
        [
            "gap",
            "value",
            "what the mix accounts for",
            "as a part of the raw gap",
            "mix that can be compared",
            "n",
        ],
        cells,
    )
    sides = {WORDS[row["mix"]]: side(composition(row)) for row in rows}
    told = []
    for where in dict.fromkeys(sides.values()):
        names = " and of ".join(name for name, one in sides.items() if one == where)
        told.append(f"At the mix of {names}, what it accounts for is {where} zero.")
    yield prose(*told, "One number at one mix would hide this." if len(told) > 1 else "")


def percent(row: Found, of: str, low: str = "", high: str = "") -> str:
    """A share in per cent, with its interval where it has one."""
    value, _, interval = span(row, 0, of=of, ends=(low, high), scale=100).partition(" ")
    return f"{value} % {interval}".rstrip()


def sports(found: Found) -> Iterator[str]:
    """The gap in each sport."""
    audit = found["people"]["audit"]
    rows = compared(audit)
    yield "### By sport"
    yield lines(
        ["sport", "men", "women", "rate of men", "rate of women", "gap"],
        [
            [
                row["stratum"],
                str(row["n_male"]),
                str(row["n_female"]),
                shares(ends(row, "rate_male", "low_male", "high_male")),
                shares(ends(row, "rate_female", "low_female", "high_female")),
                gaps(gap_of(row)),
            ]
            for row in rows
        ],
    )
    totals = {row["group"]: row["n_objects"] for row in audit["rates"]}
    for group, other in (("female", "male"), ("male", "female")):
        most = sorted(rows, key=lambda row: -row[f"n_{group}"])[:MOST]
        shown = sum(row[f"n_{group}"] for row in most)
        yield prose(
            f"{shown} of {totals[group]:,} {WORDS[group]} are shown in {' and '.join(row['stratum'] for row in most)},",
            f"with {' and '.join(str(row[f'n_{other}']) for row in most)} {WORDS[other]} beside them.",
            "The gap there is",
            "; ".join(f"{gaps(gap_of(row))} ({side(gap_of(row))} zero)" for row in most) + ".",
        )
    yield from audit_notes(audit)


def audit_notes(audit: Found) -> Iterator[str]:
    """Sports that cannot be compared."""
    alone = [row["stratum"] for row in audit["strata"] if row["gap"] is None]
    if alone:
        yield f"Left out, since one group is not shown: {', '.join(alone)}."


def labels(found: Found) -> Iterator[str]:
    """The same with other sources of labels and another outcome."""
    rows = found["people"]["sensitivity"]
    yield "## Does it matter who says what the gender is?"
    yield lines(
        [
            "labels by",
            "outcome",
            "men and women",
            "set aside",
            "raw gap",
            "at the women's mix",
            "by its interval",
        ],
        [
            [
                row["source"],
                row["outcome"],
                f"{row['n_reference']:,} and {row['n_other']:,}",
                str(row["n_aside"]),
                gaps(gap_of(row)),
                gaps(at_mix(row)),
                side(at_mix(row)).removesuffix(" from"),
            ]
            for row in rows
        ],
    )
    yield "Names in Visual Genome are those that other people gave. Differences between sources were not measured."


def detectors(found: Found) -> Iterator[str]:
    """Archived models beside people."""
    yield "## Do models have the gap, and do they amplify it?"
    for title, told in found["detectors"].items():
        rates, rows = {row["group"]: row for row in told["people"]["rates"]}, raw(told)
        yield f"### Against {title}"
        yield lines(
            ["model", "its raw gap", "amplification: model less people", "n"],
            [
                [row["model"], gaps(model_gap(row)), gaps(amplified(row)), str(row["n_objects"])]
                for row in rows
            ],
        )
        people = [
            f"{shares(ends(row, 'rate'))} of {row['n_objects']} {WORDS[name]}" for name, row in rates.items()
        ]
        yield prose(
            f"People, on the same test photographs: {', '.join(people)}.",
            f"Their gap is {gaps(told['people']['gap'])}.",
        )
        alike = sum(row["model_gap"] * row["people"] > 0 for row in rows)
        more = [side(amplified(row)) for row in rows]
        apart = sum(one != "not told apart from" for one in more)
        yield prose(
            f"{alike} of {len(rows)} gaps of models have the sign of people's;",
            f"{tally([model_gap(row) for row in rows], 'below')}.",
            f"With {rates['female']['n_objects']} women,",
            f"amplification is told apart from zero in {apart} of {len(rows)}.",
        )


def power(found: Found) -> Iterator[str]:
    """The smallest gap that such data would show."""
    rows = found["people"]["audit"]["power"]
    yield "## How small a gap would such data show?"
    told = {f"at the mix of {group}": f"at the mix of {name}" for group, name in WORDS.items()}
    yield lines(
        ["gap", "standard error", f"shown {number(100 * rows[0]['power'], 0)} % of the time"],
        [
            [told.get(row["gap"], row["gap"]), number(row["standard_error"], 4), number(row["detectable"], 3)]
            for row in rows
        ],
    )


def intervals(coverage: Found | None) -> Iterator[str]:
    """How often intervals hold a truth that is known."""
    if coverage is None:
        return
    rows = coverage["rows"]
    sizes = list(dict.fromkeys(row["photographs"] for row in rows))
    cells = {(row["method"], row["gap"], row["photographs"]): row for row in rows}
    yield "## Do the intervals hold the truth?"
    yield prose(
        f"{coverage['settings']['data_sets']} made-up data sets of each size, whose true gaps are known",
        f"({link('names/coverage.json', 'result')}, by {script('names/coverage.py')}).",
        f"Share of {number(100 * CONFIDENCE, 0)} % intervals that hold the truth, and their mean width;",
        f"intervals are Wilson's. *{SHIPPED.capitalize()}* is what `naming_bias` does.",
    )
    yield lines(
        ["intervals", "gap", *(f"{size:,} photographs" for size in sizes)],
        [
            [method, WORDS.get(name, name), *(_covered(cells[method, name, size]) for size in sizes)]
            for method, name in dict.fromkeys((row["method"], row["gap"]) for row in rows)
        ],
    )
    told = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        inside = sum(holds([held_truth(row)]) == HELD for row in own)
        shares_of = [row["covered"] for row in own]
        told.append(
            f"- {method}: {number(min(shares_of), 3)} to {number(max(shares_of), 3)}; "
            f"the share's interval holds {number(CONFIDENCE)} in {inside} of {len(own)}."
        )
    yield "\n".join(told)


def _covered(row: Found) -> str:
    return f"{shares(held_truth(row))}, width {number(row['mean_width'], 3)}"


def pilot(found: Found) -> Iterator[str]:
    """Figures of a pilot beside ours, as men less women there."""
    audit, told = found["people"]["audit"], found["pilot"]
    rates = {row["group"]: ends(row, "rate") for row in audit["rates"]}
    source = {row["source"]: row for row in reversed(found["people"]["sensitivity"])}
    mix = next(row for row in audit["standardised"] if row["mix"] == "female")
    pairs = {
        "rate of men": (told["men"], rates["male"]),
        "rate of women": (told["women"], rates["female"]),
        "gap": (-told["gap"], audit["gap"]),
        "gap at the women's mix": (-told["at_the_womens_mix"], gap_of(mix)),
        "gap by Visual Genome": (-told["by_visual_genome"], gap_of(source["visual genome"])),
    }
    yield "## Does it come out as in a pilot?"
    inside = {what: one["low"] <= figure <= one["high"] for what, (figure, one) in pairs.items()}
    rows = []
    for what, (figure, one) in pairs.items():
        sign = "+" if what.startswith("gap") else ""
        rows.append([what, number(figure, 3, sign), span(one, 3, sign=sign), "yes" if inside[what] else "no"])
    yield lines(["", "pilot", "here", "within"], rows)
    yield (
        f"{sum(inside.values())} of {len(inside)} figures of the pilot lie within our intervals. "
        "Its word lists were not available."
    )


def page() -> str:
    """The whole page; what has no result file is left out."""
    found, coverage = read("names/manynames.json"), read("names/coverage.json")
    parts = [
        "# Results: naming bias",
        prose(
            "How it works: [naming-bias.md](../naming-bias.md).",
            "Made by `python benchmarks/names/naming_bias_page.py --write`.",
        ),
    ]
    if found is not None:
        parts += [
            *opening(found, coverage),
            *mixes(found),
            *sports(found),
            *labels(found),
            *detectors(found),
            *power(found),
            *pilot(found),
        ]
    return joined([*parts, *intervals(coverage)])


if __name__ == "__main__":
    main("naming-bias.md", page())
