"""The documentation's page of results of DiscriTune, written from the result file: every number in it is computed.

python benchmarks/captions/discritune_page.py [--write]    prints it; --write puts it and its figure into docs
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from arms import (
    ABLATION,
    COLLAPSE,
    COMPARISONS,
    GREEDY,
    LEAVE_ONE_OUT,
    MAIN,
    PAPER_RATE,
    SHUFFLED,
    START,
    TUNED,
    ablations,
    main_arms,
)

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "captions" / "discritune.json"
PAGE = ROOT / "docs" / "results" / "discritune.md"
FIGURE = ROOT / "docs" / "images" / "discritune.svg"
Found = Mapping[str, Any]


def number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A number without the zero before its point; a dash for none."""
    if value is None:
        return "-"
    told = f"{value:{sign}.{digits}f}"
    if float(told) == 0:
        told = told.replace("-", "+" if sign else "")
    return told.replace("0.", ".", 1) if abs(float(told)) < 1 and digits else told


def span(one: Mapping[str, Any] | None, digits: int = 2, sign: str = "") -> str:
    """A value with its interval."""
    if one is None or one["value"] is None:
        return "-"
    value = number(one["value"], digits, sign)
    if one["low"] is None:
        return value
    return f"{value} [{number(one['low'], digits, sign)}, {number(one['high'], digits, sign)}]"


def lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    return "\n".join(
        [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def key(name: str, full: float = MAIN) -> str:
    return f"{round(100 * full)} %: {name}"


def measured(found: Found, arms: Sequence[str], columns: Mapping[str, tuple[str, int]], full: float) -> str:
    """Arms by measures; arms that were not run are left out."""
    rows = [
        [
            name,
            *(
                span(found["table"][key(name, full)].get(measure), digits)
                for measure, digits in columns.values()
            ),
        ]
        for name in arms
        if key(name, full) in found["table"]
    ]
    return lines(["speaker", *columns], rows)


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
    "omitted": ("test omitted", 2),
    "hallucinated, elsewhere": ("cross hallucinated", 2),
    "omitted, elsewhere": ("cross omitted", 2),
}


def opening(found: Found) -> Iterator[str]:
    """What was done."""
    sizes, seeds = found["sizes"], found["seeds"]
    yield "# Results: DiscriTune"
    yield "How it works: [discritune.md](../discritune.md)."
    yield (
        "This page is written by `python benchmarks/captions/discritune_page.py --write` from the \n"
        "[result file](../../benchmarks/results/captions/discritune.json), which has versions, machine, settings.\n"
        f"`{found['command']}` makes that file, in {number(found['cpu_minutes'], 0)} CPU minutes without the models."
    )
    yield (
        f"**What was done.** {len(seeds)} seeds, each a world of its own: rendered scenes whose attributes are known, "
        "captioners, a listener\nto train with, and an independent one of another architecture, seed and vision tower. "
        f"The captioner had learned from {number(100 * MAIN, 0)} % full\ncaptions and else terse ones. Each arm is "
        f"{sizes['steps']} steps of DiscriTune on {2 * sizes['training']} pictures. It is judged on {sizes['test']} "
        f"unseen pictures and on\n{sizes['cross']} of another kind, with two or three objects where the training has "
        "one or two. P@1 is among 100 random pictures, or in a hard\nset of the target and nine pictures that differ "
        f"in one attribute. Intervals are {found['interval']}.\nCaptions are greedy."
    )


def claims(found: Found) -> Iterator[str]:
    """The verdicts, with the differences behind them."""
    yield "## Claims of the paper"
    yield "The rules were written before the first run. Differences are to the same seed's speaker before tuning."
    rows = []
    for text in dict.fromkeys(one["claim"] for one in found["claims"]):
        own = [one for one in found["claims"] if one["claim"] == text]
        cells = []
        for name in TUNED:
            one = next(row for row in own if row["arm"] == name)
            digits = 2 if one["relative"] or "CIDEr" not in next(iter(one["differences"]), "") else 0
            told = "; ".join(span(each, digits, "+") for each in one["differences"].values())
            cells.append(f"**{one['verdict']}**: {told}")
        rows.append([text, own[0]["rule"], *cells])
    yield lines(["claim", "held if", *TUNED], rows)
    order = "; ".join(
        dict.fromkeys(f"{one['claim']}: {', '.join(one['differences'])}" for one in found["claims"])
    )
    yield f"Order of the differences. {order}."


def gains(found: Found, name: str, measure: str, full: float = MAIN) -> Mapping[str, Any]:
    """An arm less the start by a measure."""
    one: Mapping[str, Any] = found["less_start"][key(name, full)][measure]
    return one


def warnings(found: Found) -> Iterator[str]:
    """Arms that must fail, or did."""
    yield "## Controls and warnings"
    table = found["table"]
    rows = []
    if key(SHUFFLED) in table:
        one = gains(found, SHUFFLED, "test P@1 random, listener")
        verdict = (
            "gains nothing, as it must" if one["low"] is not None and one["low"] <= 0 else "gains: a fault"
        )
        rows.append(
            f"- A listener who hears each caption of another picture {verdict}: P@1 among 100 changes by "
            f"{span(one, 2, '+')}."
        )
    if key(COLLAPSE) in table:
        own, before = table[key(COLLAPSE)], table[key(START)]
        rows.append(
            f"- At a rate of 1e-3 captions have {span(own['test length'], 1)} words with a repetition of "
            f"{span(own['test repetition'])}, and P@1 among 100 is\n"
            f"  {span(own['test P@1 random, listener'])}; the start has {span(before['test length'], 1)} words, "
            f"{span(before['test repetition'])} and {span(before['test P@1 random, listener'])}."
        )
    if key(PAPER_RATE) in table:
        one = gains(found, PAPER_RATE, "test P@1 random, listener")
        rows.append(
            f"- The paper's rate of 1e-7 changes P@1 among 100 by {span(one, 3, '+')} in these "
            f"{found['sizes']['steps']} steps; the paper takes far more."
        )
    yield "\n".join(rows)


def ablated(found: Found) -> Iterator[str]:
    """Tables at the smaller share of full captions."""
    yield f"## Ablations: a captioner that saw {number(100 * ABLATION, 0)} % full captions"
    yield measured(
        found,
        names_of(ABLATION),
        {**retrieval("test"), **_some(TRUTH), "words": ("test length", 1)},
        ABLATION,
    )
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
            [name, *(span(own.get(m), d, "+") for m, d in columns.values())] for name, own in told.items()
        ]
        yield "Differences, paired by seed:"
        yield lines(["difference", *compared], rows)
        yield distinguishable(told)


def _some(columns: Mapping[str, tuple[str, int]]) -> dict[str, tuple[str, int]]:
    return {name: columns[name] for name in ("hallucinated", "omitted")}


def distinguishable(told: Mapping[str, Mapping[str, Any]]) -> str:
    """Which differences of P@1 on hard sets have an interval beside 0."""
    measure = "test P@1 hard, independent"
    sides: dict[str, list[str]] = {"better": [], "worse": [], "neither": []}
    for name, own in told.items():
        one = own[measure]
        unclear = one["low"] is None or one["low"] <= 0 <= one["high"]
        sides["neither" if unclear else "better" if one["value"] > 0 else "worse"].append(name)
    parts = [f"{side}: {', '.join(names)}" for side, names in sides.items() if names]
    return f"By the independent listener on hard sets, with an interval beside 0 or not: {'; '.join(parts)}."


def examples(found: Found) -> Iterator[str]:
    """Captions of the first pictures."""
    arms = [key(name) for name in (START, LEAVE_ONE_OUT, GREEDY, "true full captions")]
    rows = [[one["item"], *(one.get(arm, "-") for arm in arms)] for one in found["examples"]]
    yield f"## Captions of seed {found['seeds'][0]}"
    yield lines(["picture", *(arm.partition(": ")[2] for arm in arms)], rows)


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
        "CIDEr-D is times 100. Nats are the cross-entropy of people's captions of unseen pictures, per token.",
        measured(found, names_of(MAIN), WORDING, MAIN),
        "## Faithfulness",
        "Attribute values per caption. Elsewhere: pictures of another kind.",
        measured(found, names_of(MAIN), TRUTH, MAIN),
        *warnings(found),
        *ablated(found),
        *examples(found),
        *missing(found),
    ]
    return "\n\n".join(parts) + "\n"


def missing(found: Found) -> Iterator[str]:
    """What was not run."""
    yield "## Left out"
    arms = (
        f"Arms of the script that were not run: {', '.join(found['not_run'])}. " if found["not_run"] else ""
    )
    yield (
        f"{arms}Not measured here: beams at the end, entropy bonuses, people's captions as further trajectories, "
        "other captioners and listeners\nthan the lab's, and people as listeners."
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
        name_rows(axes, names)
        axes.set_xlim(0, 1)
        grid(axes, "x")
        legend_below(drawing, 2)
    return to_svg(drawing)


def main() -> None:
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    if "--write" not in sys.argv[1:]:
        print(page(found))
        return
    PAGE.write_text(page(found), encoding="utf-8")
    FIGURE.write_text(figure(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
