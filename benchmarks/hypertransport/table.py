"""The documentation's page of results of HyperTransport, written from the result files: every number is computed.

python benchmarks/hypertransport/table.py [--write]    prints it; --write puts it and the plane into docs
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from methods import (
    HYPER,
    HYPER_2,
    LINACT,
    LINEAS,
    MEAN,
    NEAREST,
    ORACLE,
    PROMPTING,
    REFINED,
    RENDERS,
    RIDGE,
    UNSTEERED,
)

from trimtab.report.figures import to_svg
from trimtab.report.intervals import Cloud, curve_and_clouds
from trimtab.steer.hypertransport.measuring import ALL_HELD_OUT
from trimtab.steer.hypertransport.network import HyperNetwork

sys.path.append(str(Path(__file__).parents[1]))
import pages
from pages import joined, lines, listed, number, prose, read
from verdicts import FEW, INTERVAL

FIGURE = "hypertransport.svg"
Found = Mapping[str, Any]
DRAWN = (HYPER, HYPER_2, LINEAS, LINACT, RIDGE, NEAREST, MEAN, REFINED, PROMPTING, ORACLE, RENDERS)
"""Methods of the figure."""
PAPER = {
    "U-Net of DMD2": (256, (320, 640, 960, 1280, 1920, 2560), 5.9),
    "Nitro-1-PixArt": (56, (1152,), 4.7),
}
"""Generator -> sites, distinct widths, and the millions of parameters that the paper states of the hypernetwork."""
PAPER_EMBEDDING = 768


def span(one: Found, sign: str = "", digits: int = 3) -> str:
    """A value with its interval; a dash for none."""
    return pages.span(one, digits, sign=sign)


def opening(found: Found) -> Iterator[str]:
    """What was done."""
    size, seeds = found["settings"]["size"], found["seeds"]
    train, held = ("/".join(dict.fromkeys(str(one["concepts"][place]) for one in seeds)) for place in (0, 1))
    yield "# Results: HyperTransport"
    yield "How it works: [hypertransport.md](../hypertransport.md)."
    yield prose(
        "This page is written by `python benchmarks/hypertransport/table.py --write` from the files in",
        "[benchmarks/results/hypertransport](../../benchmarks/results/hypertransport), which name commands, versions",
        "and settings.",
    )
    yield prose(
        f"A one-step generator of scenes is steered to concepts that are never trained on. {len(seeds)} seeds,",
        "each with a generator, prompts and held-out combinations of its own; encoder and judge are the same.",
        f"Training concepts: {train}. Held-out ones: {held}, of which {size['held_out']} are measured by every method.",
    )
    yield prose(
        "*Concept* is the share of the concept's values that an independent judge sees.",
        "*Whole* is the share of pictures in which it sees all of them.",
        "*Input* is the share of the other attributes that are as the prompt says.",
        f"*Equal input* is concept fidelity where input fidelity has fallen by {found['settings']['budget']}, or the",
        "best before it. Intervals are at 95 %, over concepts, which share values: they are rather too narrow.",
        narrow(found),
        f"Strengths are {', '.join(map(str, found['settings']['strengths']))}.",
        "Beyond a whole step a map is carried on in a straight line.",
    )
    best = {kind: dict(map(tuple, one)) or "defaults" for kind, one in found["settings"]["chosen"].items()}
    told = "; ".join(f"{kind} {settings}" for kind, settings in best.items())
    yield prose(f"Settings were chosen on training concepts that were held out for it: {told}.")


def narrow(found: Found) -> str:
    """Over how few concepts a mean still has a percentile bootstrap; nothing of a result with Student's intervals."""
    evidence = [one for every in found["evidence"].values() for one in every]
    few = sorted({one["n"] for one in (*evidence, *(one["concept"] for one in found["attributes"]))})
    few = [n for n in few if n < FEW]
    if not few or found.get("interval") == INTERVAL:
        return ""
    return (
        f"Those over few (n = {listed(few)}) are percentile bootstraps, which few concepts narrow further:"
        " single values were not kept."
    )


def pooled(one: Found | None) -> str:
    """A difference over all concepts; a dash where the claim is about none."""
    return "-" if one is None else f"{span(one, '+')}, n = {one['n']}"


def claims(found: Found) -> Iterator[str]:
    """Verdicts, then the evidence."""
    yield "## Claims"
    yield prose(
        "The rules were written before the first full run, in `benchmarks/hypertransport/claims.py`. They first meant",
        "*whole* by concept fidelity. That was changed after ten validation concepts and one held-out one had been",
        "looked at under rivals. No hypernetwork had been measured then; the file says which.",
    )
    every = found["overall"]
    rows = [
        [one["text"], one["whose"], one["held if"], pooled(every.get(one["claim"])), f"**{one['verdict']}**"]
        for one in found["verdicts"]
    ]
    yield lines(["claim", "whose", "held if", "over all seeds and splits", "verdict"], rows)
    proof = [
        [key, one["what"], span(one, "+"), str(one["n"])]
        for key, every in found["evidence"].items()
        for one in every
    ]
    yield lines(["claim", "what", "value", "n"], proof)


def over_seeds(rows: Sequence[Found], what: str) -> str:
    """Mean over seeds of a measure, with the lowest and the highest; a dash where there is none."""
    values = [one[what]["value"] for one in rows if what in one]
    if not values:
        return "-"
    ends = f" ({number(min(values), 2)} to {number(max(values), 2)})" if len(values) > 1 else ""
    return f"{number(float(np.mean(values)), 3)}{ends}"


def rows_of(found: Found, piece: str, split: str, method: str, strength: float | None) -> list[Found]:
    """Means of a method at a strength, one a seed; None is at equal input."""
    wanted = {"split": split, "method": method, "strength": strength}
    return [one for one in found[piece] if all(one[key] == value for key, value in wanted.items())]


def table(found: Found, piece: str) -> str:
    """Each method of a piece, in each split: at full strength and at equal input."""
    rows, kinds = [], dict.fromkeys((one["split"], one["method"]) for one in found[piece])
    for split, method in kinds:
        full = rows_of(found, piece, split, method, 0.0 if method == UNSTEERED else 1.0)
        reached = rows_of(found, piece, split, method, None)
        told = [over_seeds(full, name) for name in ("concept", "whole", "input", "distance")]
        rows.append([split, method, *told, over_seeds(reached, "concept")])
    return lines(
        ["split", "method", "concept, full", "whole, full", "input, full", "distance, full", "equal input"],
        rows,
    )


def attributes(found: Found) -> Iterator[str]:
    """What is easy and what is hard: values by attribute."""
    if not found["attributes"]:
        return
    yield "## Attributes"
    yield prose(
        "Share of held-out concepts' values that are seen at equal input, over all seeds; n is the number of concepts."
    )
    cells = {(one["method"], one["attribute"]): one["concept"] for one in found["attributes"]}
    names = sorted({name for _, name in cells})
    rows = [
        [method, *(span(cells[method, name]) for name in names)]
        for method in dict.fromkeys(method for method, _ in cells)
    ]
    counts = (cells[HYPER, name]["n"] for name in names)
    heads = [f"{name} (n = {count})" for name, count in zip(names, counts, strict=True)]
    yield lines(["method", *heads], rows)


def seconds(found: Found) -> Iterator[str]:
    """CPU seconds side by side."""
    if not found["seconds"]:
        return
    yield "## Seconds"
    names = found["seconds"][0]["each"]
    rows = [[name, *(number(one["each"][name], 3) for one in found["seconds"])] for name in names]
    rows += [["training, once", *(number(one["training"], 0) for one in found["seconds"])]]
    rows += [["break-even, concepts", *(span(one["break_even"], digits=0) for one in found["seconds"])]]
    yield "CPU seconds of a steering, on one thread; the break-even with its interval over concepts."
    yield lines(["method", *(f"seed {one['seed']}" for one in found["seconds"])], rows)


def parameters() -> Iterator[str]:
    """Parameters of our hypernetwork at the paper's sizes."""
    yield "## Parameters"
    rows = []
    for name, (sites, widths, stated) in PAPER.items():
        shapes = {str(place): widths[place % len(widths)] for place in range(sites)}
        count = sum(one.numel() for one in HyperNetwork(shapes, PAPER_EMBEDDING).parameters())
        rows.append([name, str(sites), f"{count / 1e6:.2f} M", f"{stated} M"])
    yield lines(["generator", "sites", "parts that the paper states", "its total"], rows)
    yield "The paper's totals are larger than the sum of the parts that it states; it does not say of what."


def language(found: Found | None) -> Iterator[str]:
    """The language model."""
    if found is None:
        return
    yield "## A language model"
    yield prose(
        f"Concepts are a noun and a modifier that documents repeat, {found['settings']['size']['train']} to train on.",
        f"Compared where KL from the untouched model has risen to {found['settings']['budget_nats']} nats a place.",
    )
    verdicts = {one["what"]: one["verdict"] for one in found["verdicts"]}
    rows = [
        [key, one["what"], span(one, "+"), str(one["n"]), f"**{verdicts[key]}**"]
        for key, every in found["evidence"].items()
        for one in every
    ]
    yield lines(["encoder and rival", "what", "difference", "n", "on held-out concepts"], rows)


def page(found: Found, spoken: Found | None) -> str:
    """The whole page."""
    parts = [
        *opening(found),
        *claims(found),
        f"![Fidelity to the concept against fidelity to the input, by method](../images/{FIGURE})",
        *(
            part
            for heading, piece in (
                ("Methods", "planes"),
                ("Conditions", "conditions"),
                ("Training concepts", "counts"),
                ("Novelty", "novelty"),
            )
            for part in (f"## {heading}", table(found, piece))
            if found[piece]
        ),
        *attributes(found),
        *seconds(found),
        *language(spoken),
        *parameters(),
    ]
    return joined(parts)


def figure(found: Found) -> str:
    """The plane: concept against input fidelity over strengths, means over seeds, as SVG."""
    clouds = dict[str, Cloud]()
    start = _line(found, UNSTEERED)
    for method in DRAWN:
        line = _line(found, method)
        connected = len(line) > 1
        points = [*start, *line] if connected else line
        if points:
            across, up = zip(*points, strict=True)
            clouds[method] = Cloud(list(across), list(up), joined=connected)
    names = ("fidelity to the input", "fidelity to the concept")
    label = (
        "Fidelity to the concept against fidelity to the input over strengths, by method, means over seeds"
    )
    return to_svg(curve_and_clouds(None, clouds, axes_names=names, title=ALL_HELD_OUT, label=label))


def _line(found: Found, method: str) -> list[tuple[float, float]]:
    """Input and concept fidelity at each strength."""
    rows = [one for one in found["planes"] if one["split"] == ALL_HELD_OUT and one["method"] == method]
    strengths = sorted({one["strength"] for one in rows if one["strength"] is not None})
    return [
        tuple(
            float(np.mean([one[what]["value"] for one in rows if one["strength"] == strength]))
            for what in ("input", "concept")
        )  # type: ignore[misc]
        for strength in strengths
    ]


def main() -> None:
    found = read("hypertransport/scenes.json")
    if found is None:
        sys.exit("benchmarks/results/hypertransport/scenes.json is missing: run run.py first")
    text = page(found, read("hypertransport/language.json"))
    pages.main("hypertransport.md", text, {FIGURE: lambda: figure(found)})


if __name__ == "__main__":
    main()
