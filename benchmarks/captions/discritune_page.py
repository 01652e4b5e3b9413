"""The documentation's page of results of DiscriTune, written from the result file: every number in it is computed.

python benchmarks/captions/discritune_page.py [--write]    prints it; --write puts it and its figure into docs
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from arms import (
    ABLATION,
    COLLAPSE,
    COMPARISONS,
    LEAVE_ONE_OUT,
    MAIN,
    NEAR,
    PAPER_RATE,
    SHUFFLED,
    START,
    TUNED,
    ablations,
    main_arms,
)

sys.path.append(str(Path(__file__).parents[1]))
import pages
from pages import lines, link, number, prose, span

FIGURE = "discritune.svg"
RESULT = "captions/discritune.json"
Found = Mapping[str, Any]


def key(name: str, full: float = MAIN) -> str:
    return f"{round(100 * full)} %: {name}"


def measured(found: Found, arms: Sequence[str], columns: Mapping[str, tuple[str, int]], full: float) -> str:
    """Arms by measures; arms that were not run are left out."""
    table = {name: found["table"].get(key(name, full)) for name in arms}
    rows = [
        [name, *(span(own.get(measure), digits) for measure, digits in columns.values()), seeds_of(own)]
        for name, own in table.items()
        if own
    ]
    return lines(["speaker", *columns, "seeds"], rows)


def seeds_of(own: Mapping[str, Any]) -> str:
    """The number of seeds behind the numbers of an arm or of a difference."""
    return str(max(one["n"] for one in own.values()))


def names_of(full: float) -> list[str]:
    return [arm.name for arm in (main_arms() if full == MAIN else ablations())]


def retrieval(exam: str) -> dict[str, tuple[str, int]]:
    """Columns of P@1."""
    return {
        f"{kind}, {role}": (f"{exam} P@1 {kind}, {role}", 2)
        for kind in ("random", "hard")
        for role in ("listener", "independent")
    }


WORDING = {
    "CIDEr-D terse": ("test CIDEr-D terse", 0),
    "CIDEr-D full": ("test CIDEr-D full", 0),
    "nats, terse": ("test nats terse", 2),
    "nats, full": ("test nats full", 2),
    "words": ("test length", 1),
    "vocabulary": ("test vocabulary", 0),
    "repetition": ("test repetition", 3),
}
TRUTH = {
    "named": ("test named", 1),
    "hallucinated": ("test hallucinated", 2),
    "as a share": ("test share", 3),
    "omitted": ("test omitted", 2),
    "hallucinated, elsewhere": ("cross hallucinated", 2),
    "omitted, elsewhere": ("cross omitted", 2),
}


def opening(found: Found) -> Iterator[str]:
    """What was done."""
    sizes, seeds = found["sizes"], found["seeds"]
    yield "# Results: DiscriTune"
    yield "How it works: [discritune.md](../discritune.md)."
    yield prose(
        "This page is written by `python benchmarks/captions/discritune_page.py --write`.",
        f"Its numbers are those of the {link(RESULT, 'result file')}, which names versions, machine and settings.",
        f"`{found['command']}` makes that file, in {number(found['cpu_minutes'], 0)} CPU minutes beside the models.",
    )
    yield prose(
        f"**What was done.** {len(seeds)} seeds, each a world of its own: rendered scenes whose attributes are known,",
        "captioners, a listener to train with, and an independent one of another architecture, seed and vision tower.",
        f"The captioner had learned from {number(100 * MAIN, 0)} % full captions and else terse ones.",
        f"An arm is {sizes['steps']} steps of DiscriTune on {2 * sizes['training']} pictures.",
        f"It is judged on {sizes['test']} unseen pictures, and on {sizes['cross']} of another kind:",
        "two or three objects where the training has one or two, and no plain background or natural palette.",
        "P@1 is among 100 random pictures, or in a hard set: the target and nine variants, one attribute changed each.",
        "The greedy arm has the paper's settings but for its learning rate.",
        f"Intervals: {found['interval']}; those by t may leave [0, 1]. Captions are greedy.",
    )


def claims(found: Found) -> Iterator[str]:
    """The verdicts, and the differences behind them."""
    yield "## Claims of the paper"
    yield prose(
        "The rules were written before the first run.",
        f"{NEAR} (the quickstart's settings) joined when {LEAVE_ONE_OUT} alone had been seen on the first seed.",
        "The quickstart's were found on the world of that seed too.",
        "Differences are to the speaker of the same seed before tuning.",
    )
    each = {text: [one for one in found["claims"] if one["claim"] == text] for text in _claims(found)}
    verdicts = [
        [text, own[0]["rule"], *(f"**{verdict(own, name)['verdict']}**" for name in TUNED)]
        for text, own in each.items()
    ]
    yield lines(["claim", "held if", *TUNED], verdicts)
    rows = []
    for own in each.values():
        for measure in own[0]["differences"]:
            relative = ", relative" if own[0]["relative"] else ""
            digits = 0 if "CIDEr" in measure and not relative else 2
            told = (span(verdict(own, name)["differences"][measure], digits, sign="+") for name in TUNED)
            rows.append([titled(measure) + relative, *told])
    yield lines(["difference", *TUNED], rows)
    yield from seed_by_seed(found)


def seed_by_seed(found: Found) -> Iterator[str]:
    """In how many seeds an interval over pictures lies above 0."""
    measure = "test P@1 hard, independent"
    parts = []
    for name in TUNED:
        rows = [row for row in found["within_seeds"].get(key(name), []) if row["measure"] == measure]
        parts.append(f"{name} in {sum(row['low'] > 0 for row in rows)} of {len(rows)}")
    n = found["sizes"]["test"]
    yield prose(
        f"Seed by seed, with intervals over {n} pictures, P@1 of the independent listener on hard sets rose",
        f"beyond chance: {'; '.join(parts)} seeds.",
    )


def _claims(found: Found) -> list[str]:
    return list(dict.fromkeys(one["claim"] for one in found["claims"]))


def verdict(rows: Sequence[Mapping[str, Any]], arm: str) -> Mapping[str, Any]:
    return next(row for row in rows if row["arm"] == arm)


def titled(measure: str) -> str:
    """A measure in words: the pictures come last."""
    exam, _, rest = measure.partition(" ")
    return rest if exam == "test" else f"{rest}, pictures of another kind"


def gains(found: Found, name: str, measure: str, full: float = MAIN) -> Mapping[str, Any]:
    """An arm less the start by a measure."""
    one: Mapping[str, Any] = found["less_start"][key(name, full)][measure]
    return one


def warnings(found: Found) -> Iterator[str]:
    """Arms that must fail, or did."""
    yield "## Controls and warnings"
    table, measure = found["table"], "test P@1 random, listener"
    rows = []
    if key(SHUFFLED) in table:
        one = gains(found, SHUFFLED, measure)
        told = (
            "gains nothing, as it must"
            if one["low"] is None or one["low"] <= 0
            else "gains, which is a fault"
        )
        rows.append(
            f"Against a listener who is shown another picture the speaker {told}: {span(one, 2, sign='+')}."
        )
    if key(COLLAPSE) in table:
        own, before = table[key(COLLAPSE)], table[key(START)]
        parts = [
            f"{name} {span(own[m], d)} ({span(before[m], d)})"
            for name, m, d in (
                ("words", "test length", 1),
                ("repetition", "test repetition", 2),
                ("hallucinated attributes", "test hallucinated", 2),
                ("P@1", measure, 2),
            )
        ]
        rows.append(f"*{COLLAPSE}* (start): {'; '.join(parts)}.")
    if key(PAPER_RATE) in table:
        one = gains(found, PAPER_RATE, measure)
        rows.append(f"*{PAPER_RATE}* changes P@1 by {span(one, 3, sign='+')} in these few steps.")
    yield "\n".join(textwrap.fill(f"- {row}", 118, subsequent_indent="  ") for row in rows)


def ablated(found: Found) -> Iterator[str]:
    """Tables at the smaller share of full captions."""
    yield f"## Ablations: a captioner that saw {number(100 * ABLATION, 0)} % full captions"
    columns = {**retrieval("test"), **_some(TRUTH), "words": ("test length", 1)}
    yield measured(found, names_of(ABLATION), columns, ABLATION)
    told = {name: one for name, one in found["comparisons"].items() if name in COMPARISONS}
    if told:
        compared = {
            "P@1 random, independent": ("test P@1 random, independent", 3),
            "P@1 hard, independent": ("test P@1 hard, independent", 3),
            "hallucinated": ("test hallucinated", 2),
            "CIDEr-D terse": ("test CIDEr-D terse", 0),
            "seconds": ("seconds", 0),
        }
        rows = [
            [name, *(span(own.get(m), d, sign="+") for m, d in compared.values()), seeds_of(own)]
            for name, own in told.items()
        ]
        yield "Differences, paired by seed:"
        yield lines(["difference", *compared, "seeds"], rows)
        yield distinguishable(told)


def _some(columns: Mapping[str, tuple[str, int]]) -> dict[str, tuple[str, int]]:
    return {name: columns[name] for name in ("hallucinated", "omitted")}


def distinguishable(told: Mapping[str, Mapping[str, Any]]) -> str:
    """Which differences of P@1 on hard sets have an interval beside 0."""
    measure = "test P@1 hard, independent"
    sides: dict[str, list[str]] = {"better": [], "worse": [], "interval holds 0": []}
    for name, own in told.items():
        one = own[measure]
        unclear = one["low"] is None or one["low"] <= 0 <= one["high"]
        sides["interval holds 0" if unclear else "better" if one["value"] > 0 else "worse"].append(name)
    listed = [f"- {side}: {'; '.join(names)}" for side, names in sides.items() if names]
    several = f"Of the {len(told)} differences, not corrected for their number,"
    return "\n".join([f"{several} by the independent listener on hard sets:", "", *listed])


def examples(found: Found) -> Iterator[str]:
    """Captions of the first pictures."""
    arms = [key(name) for name in (START, *TUNED, "true full captions")]
    rows = [[one["item"], *(one.get(arm, "-") for arm in arms)] for one in found["examples"]]
    yield f"## Captions of seed {found['seeds'][0]}"
    yield lines(["picture", *(arm.partition(": ")[2] for arm in arms)], rows)


def terse_ceiling(found: Found) -> Iterator[str]:
    """How near captions that say all can be to terse ones."""
    told = [found["table"][key(name)]["test CIDEr-D terse"] for name in ("true full captions", START)]
    full, start = (span(one, 0) for one in told)
    yield f"For scale: against terse captions, true full ones reach {full} and the start {start}."


def page(found: Found) -> str:
    """The whole page."""
    parts = [
        *opening(found),
        *claims(found),
        "![P@1 in hard sets before and after](../images/discritune.svg)",
        "## P@1",
        measured(found, names_of(MAIN), retrieval("test"), MAIN),
        "Pictures of another kind:",
        measured(found, names_of(MAIN), retrieval("cross"), MAIN),
        "## Wording",
        prose(
            "CIDEr-D is times 100, so 1000 for identical captions: against several terse captions of a picture,",
            "as in the training, or against its full one.",
            "Nats are the cross-entropy of people's captions of unseen pictures, per token.",
            *terse_ceiling(found),
        ),
        measured(found, names_of(MAIN), WORDING, MAIN),
        "## Faithfulness",
        "Attribute values per caption; the share is of the named ones. Elsewhere: pictures of another kind.",
        measured(found, names_of(MAIN), TRUTH, MAIN),
        *warnings(found),
        *ablated(found),
        *examples(found),
        *missing(found),
    ]
    text = "\n\n".join(parts) + "\n"
    return re.sub(r"(?<=[ ,(|*])\.(?=\d)", "0.", text)  # names of arms


def missing(found: Found) -> Iterator[str]:
    """What was not run."""
    yield "## Left out"
    arms = (
        [f"Arms of the script that were not run: {'; '.join(found['not_run'])}."] if found["not_run"] else []
    )
    full = len(found["seeds"])
    fewer = [f"{name} ({seeds_of(own)})" for name, own in found["table"].items() if int(seeds_of(own)) < full]
    short = [f"On fewer than {full} seeds, for want of time: {'; '.join(fewer)}."] if fewer else []
    yield prose(
        *arms,
        *short,
        "Not measured here: beams at the end, entropy bonuses, people's captions as further trajectories,",
        "other captioners and listeners than the lab's, and people as listeners.",
    )


def figure(found: Found) -> str:
    """P@1 in hard sets of each main arm, for both listeners, as SVG."""
    from trimtab.report.figures import chart, colour, grid, legend_below, name_rows, point, to_svg

    names = [name for name in names_of(MAIN) if key(name) in found["table"]]
    label = "P@1 in hard sets by speaker, for the listener of the training and an independent one"
    with chart(0.8 + 0.32 * len(names), "P@1 in hard sets, 95 % over seeds", label) as (drawing, axes):
        for place, role in enumerate(("listener", "independent")):
            for row, name in enumerate(names):
                one = found["table"][key(name)][f"test P@1 hard, {role}"]
                at = row + 0.24 * place - 0.12
                if one["low"] is not None:
                    axes.plot([one["low"], one["high"]], [at, at], color=colour(place), linewidth=1.6)
                axes.plot(one["value"], at, linestyle="", label=role if row == 0 else None, **point(place))
        name_rows(
            axes,
            [
                name.replace(".1 cross-entropy", "CE .1").replace("the paper's ", "").replace(" .", " 0.")
                for name in names
            ],
        )
        axes.set_xlim(0, 1)
        grid(axes, "x")
        legend_below(drawing, 2)
    return to_svg(drawing)


if __name__ == "__main__":
    result = pages.read(RESULT)
    pages.main("discritune.md", page(result), {FIGURE: lambda: figure(result)})
