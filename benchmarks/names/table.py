"""The tables of the naming bias benchmark as Markdown, from whatever results there are.

python benchmarks/names/table.py        prints them; the documentation's are these
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "names"


def read(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def span(value: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    if value is None:
        return "-"
    told = f"{value:{sign}.3f}"
    return told if low is None or high is None else f"{told} [{low:{sign}.3f}, {high:{sign}.3f}]"


def rate_of(row: dict[str, Any]) -> str:
    return f"{row['group']} {span(row['rate'], row['low'], row['high'])} (n {row['n_objects']})"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def manynames(found: dict[str, Any]) -> Iterator[str]:
    audit, pilot = found["people"]["audit"], found["pilot"]
    men, women = audit["rates"]
    for row, told in ((men, "men"), (women, "women")):
        yield f"{rate_of(row)}; pilot {pilot[told]}"
    gap = audit["gap"]
    yield f"gap {span(gap['value'], gap['low'], gap['high'], '+')}, p {gap['p']:.4f}; pilot -{pilot['gap']}"
    rows = [
        (
            row["mix"],
            span(row["gap"], row["low"], row["high"], "+"),
            span(row["composition"], row["composition_low"], row["composition_high"], "+"),
            span(row["explained"], row["explained_low"], row["explained_high"], "+"),
            f"{row['support']:.3f}",
        )
        for row in audit["standardised"]
    ]
    yield markdown(["mix of sports", "gap", "composition", "explained", "support"], rows)
    share = audit["representation"][1]
    yield f"share of women {span(share['share'], share['low'], share['high'])}"
    yield markdown(
        ["gap", "standard error", "detectable"],
        [(r["gap"], f"{r['standard_error']:.4f}", f"{r['detectable']:.3f}") for r in audit["power"]],
    )
    rows = [
        (
            r["stratum"],
            r["n_male"],
            r["n_female"],
            span(r["rate_male"], None, None),
            span(r["rate_female"], None, None),
            span(r["gap"], r["low"], r["high"], "+"),
        )
        for r in sorted(audit["strata"], key=lambda one: -one["n_male"] - one["n_female"])
    ]
    yield markdown(["sport", "men", "women", "rate of men", "of women", "gap"], rows)
    rows = [
        (
            r["source"],
            r["outcome"],
            f"{r['n_reference']} + {r['n_other']}",
            r["n_aside"],
            span(r["gap"], r["low"], r["high"], "+"),
            span(r["standardised"], r["standardised_low"], r["standardised_high"], "+"),
        )
        for r in found["people"]["sensitivity"]
    ]
    yield markdown(["label", "outcome", "objects", "set aside", "gap", "at the women's mix"], rows)
    yield markdown(
        ["what became of them", "objects", "names"],
        [(r["reason"], r["n_objects"], r["n_tokens"]) for r in audit["accounting"]],
    )
    for title, told in found["detectors"].items():
        men, women = told["people"]["rates"]
        yield f"{title}: {rate_of(men)}, {rate_of(women)}"
        rows = [
            (
                r["model"],
                span(r["model_gap"], r["model_low"], r["model_high"], "+"),
                span(r["amplification"], r["amplification_low"], r["amplification_high"], "+"),
                r["n_objects"],
            )
            for r in told["gaps"]
            if r["gap"] == "raw"
        ]
        yield markdown(["model", "raw gap", "amplification", "n"], rows)
    yield str(found["all_answers"])


def coverage(found: dict[str, Any]) -> Iterator[str]:
    rows = [
        (
            r["photographs"],
            r["method"],
            r["gap"],
            span(r["covered"], *r["covered_interval"]),
            f"{r['mean_width']:.3f}",
            "yes" if r["within_92_98"] else "**no**",
        )
        for r in found["rows"]
    ]
    yield markdown(["photographs", "intervals", "gap", "held the truth", "mean width", "in .92 to .98"], rows)


def main() -> None:
    for name, parts in (("manynames", manynames), ("coverage", coverage)):
        found = read(name)
        print(f"\n## {name}\n")
        print("\n\n".join(parts(found)) if found else "no result yet")


if __name__ == "__main__":
    main()
