"""Claims about naming bias, and the rules by which they held or did not.

"Paper" is Harrison, Gualdoni and Boleda 2023, "Run like a girl!"; "ours" are claims about what standardisation tells.
Gaps are women less men. A claim is judged over all its evidence by the rule that stands beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from pages import number, span
from verdicts import FAILED, HELD, PARTLY, below, side

Found = Mapping[str, Any]
WORDS = {"male": "men", "female": "women", "pooled": "both"}
PAPER = {"male": 0.46, "female": 0.35}
"""Shares of names that tell the sport, as stated in the abstract of Harrison, Gualdoni and Boleda 2023."""
PARITY = 0.5
CONFIDENCE = 0.95
SHIPPED = "as shipped"
"""The intervals of `naming_bias`, among those whose coverage was measured."""


def ends(row: Found, of: str, low: str = "low", high: str = "high", **more: Any) -> dict[str, Any]:
    """A column of a table with its interval, as evidence."""
    return {"value": row[of], "low": row[low], "high": row[high], **more}


def gap_of(row: Found) -> dict[str, Any]:
    """The gap of a row."""
    return ends(row, "gap")


def at_mix(row: Found) -> dict[str, Any]:
    """The standardised gap of a row of labels."""
    return ends(row, "standardised", "standardised_low", "standardised_high")


def composition(row: Found) -> dict[str, Any]:
    """What the mix accounts for."""
    return ends(row, "composition", "composition_low", "composition_high")


def model_gap(row: Found) -> dict[str, Any]:
    """A model's gap."""
    return ends(row, "model_gap", "model_low", "model_high")


def amplified(row: Found) -> dict[str, Any]:
    """A model's gap less that of people."""
    return ends(row, "amplification", "amplification_low", "amplification_high")


def holds(evidence: Sequence[Found]) -> str:
    """Held where every interval holds its figure, partly where one does."""
    inside = [one["low"] <= one["figure"] <= one["high"] for one in evidence]
    return HELD if all(inside) else PARTLY if any(inside) else FAILED


def under_parity(share: Found) -> str:
    """Held where a share's interval lies below one half."""
    return below([{"low": share["low"] - PARITY, "high": share["high"] - PARITY}])


def gaps(one: Found) -> str:
    """A gap with its interval."""
    return span(one, 3, sign="+")


def shares(one: Found) -> str:
    """A share with its interval."""
    return span(one, 3)


def tally(evidence: Sequence[Found], where: str) -> str:
    """How many intervals lie on a side of 0."""
    return f"{sum(side(one) == where for one in evidence)} of {len(evidence)} lie {where} zero"


def women(audit: Found) -> Found:
    """The share of women among those compared."""
    rows: Sequence[Found] = audit["representation"]
    return ends(next(row for row in rows if (row["stratum"], row["group"]) == ("all", "female")), "share")


def compared(audit: Found) -> list[Found]:
    """Sports in which both groups are shown, the most common first."""
    rows = [row for row in audit["strata"] if row["gap"] is not None]
    return sorted(rows, key=lambda row: -row["n_male"] - row["n_female"])


def raw(detectors: Found) -> list[Found]:
    """Raw gaps of the models."""
    return [row for row in detectors["gaps"] if row["gap"] == "raw"]


def judged(found: Found, coverage: Found | None) -> list[tuple[str, str, str, str, str]]:
    """Claim, whose, rule in words, what was measured, verdict."""
    audit, labels = found["people"]["audit"], found["people"]["sensitivity"]
    n = f"n = {audit['gap']['n']:,}"
    mixes = {WORDS[row["mix"]]: row for row in audit["standardised"]}
    parts = {name: composition(row) for name, row in mixes.items()}
    of_models = [model_gap(row) for row in raw(found["detectors"]["raw answers"])]
    more = [amplified(row) for row in raw(found["detectors"]["raw answers"])]
    sports, difference = [gap_of(row) for row in compared(audit)], PAPER["female"] - PAPER["male"]
    figures = [ends(row, "rate", figure=PAPER[row["group"]]) for row in audit["rates"]]
    rates = "; ".join(
        f"{WORDS[row['group']]} {shares(ends(row, 'rate'))}, n = {row['n_objects']:,}"
        for row in audit["rates"]
    )
    rows = [
        (
            "women are named by their sport less often than men",
            "paper",
            "the gap lies below zero",
            f"{gaps(audit['gap'])}, {n}",
            below([audit["gap"]]),
        ),
        (
            "the gap is as large as the paper's",
            "paper",
            f"the interval holds the paper's {number(difference, 2, '+')}",
            f"{gaps(audit['gap'])}, {n}",
            holds([{**audit["gap"], "figure": difference}]),
        ),
        (
            "men and women are named by their sport as often as in the paper",
            "paper",
            f"each interval holds the paper's: men {number(PAPER['male'])}, women {number(PAPER['female'])}",
            rates,
            holds(figures),
        ),
        (
            "women are shown less often than men",
            "paper",
            f"their share lies below {number(PARITY, 1)}",
            f"{shares(women(audit))}, {n}",
            under_parity(women(audit)),
        ),
        (
            "models that name such people reproduce the gap",
            "paper",
            "every model's gap lies below zero",
            tally(of_models, "below"),
            below(of_models),
        ),
        (
            "in the same mix of sports the gap is still there",
            "ours",
            "at every mix it lies below zero",
            "; ".join(f"mix of {name} {gaps(gap_of(row))}" for name, row in mixes.items()),
            below([gap_of(row) for row in mixes.values()]),
        ),
        (
            "the sports that are shown account for a part of the gap",
            "ours",
            "at every mix that part lies below zero",
            "; ".join(f"mix of {name} {gaps(one)}" for name, one in parts.items()),
            below(list(parts.values())),
        ),
        (
            "the gap is there in every sport",
            "ours",
            "in each it lies below zero",
            tally(sports, "below"),
            below(sports),
        ),
        (
            "the raw gap does not hang on who says what the gender is",
            "ours",
            "with every source of labels it lies below zero",
            tally([gap_of(row) for row in labels], "below"),
            below([gap_of(row) for row in labels]),
        ),
        (
            "the gap at the women's mix does not hang on who says what the gender is",
            "ours",
            "with every source of labels it lies below zero",
            tally([at_mix(row) for row in labels], "below"),
            below([at_mix(row) for row in labels]),
        ),
        (
            "models amplify the gap",
            "ours",
            "every model's gap less that of people lies below zero",
            tally(more, "below"),
            below(more),
        ),
    ]
    if coverage is not None:
        own = [row for row in coverage["rows"] if row["method"] == SHIPPED]
        reach = [held_truth(row) for row in own]
        rows.append(
            (
                f"our {number(100 * CONFIDENCE, 0)} % intervals hold the truth as often as they say",
                "ours",
                f"each share's interval holds {number(CONFIDENCE)}",
                f"{sum(holds([one]) == HELD for one in reach)} of {len(reach)} do",
                holds(reach),
            )
        )
    return rows


def held_truth(row: Found) -> dict[str, Any]:
    low, high = row["covered_interval"]
    return {"value": row["covered"], "low": low, "high": high, "figure": CONFIDENCE}
