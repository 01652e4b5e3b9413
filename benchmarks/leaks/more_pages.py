"""Parts of the page of results that are not of one audited model: served transcript, memory, channels, lenses."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tables import span

sys.path.append(str(Path(__file__).parents[1]))
from pages import lines, number, prose

Found = Mapping[str, Any]
MEGABYTE = 2**20


def served(found: Found | None) -> Iterator[str]:
    """The transcript beside the model."""
    if found is None:
        return
    yield "## A transcript that was really served"
    read, apart = found["readings"], found["largest_difference"]
    yield prose(
        f"A server that knows transformers alone answered {read['rows']} chat completions over HTTP with 20",
        "log-probabilities. `audit_transcript` read the responses and never saw the model.",
        "Its log-probabilities differ from those that the audit of the model read by",
        f"{read['largest_nats']:.1e} nats at most (median {read['median_nats']:.1e}).",
        f"{read['distinct_tokens_served']} distinct tokens were served, of {read['distinct_tokens_model']} that the",
        "model ranked so high.",
        "Tokens that print alike are one in a transcript that names them by text.",
        f"Over {found['cells']} cells that both audits have, accuracies differ by at most",
        f"{number(apart['accuracy'], 4)} and bits by {number(apart['bits'], 4)}.",
    )
    rows = [
        [
            f"{row['attribute']} ({row['role']})",
            f"{row['level']} {row.get('encoding', '')} {'' if 'k' not in row else int(row['k'])}".strip(),
            number(row.get("bits_model"), 3, "+"),
            number(row.get("bits_served"), 3, "+"),
            number(row.get("accuracy_model"), 3),
            number(row.get("accuracy_served"), 3),
        ]
        for row in found["table"]
        if row.get("encoding") != "sorted"
    ]
    yield lines(
        ["attribute", "cell", "bits, model", "bits, transcript", "accuracy, model", "transcript"], rows
    )


def memory(found: Found | None) -> Iterator[str]:
    """What a pass takes."""
    if found is None:
        return
    yield "## Memory"
    yield prose(
        f"Reading {found['states']} states of {found['prompts']} short prompts (width {found['width']})",
        f"raised the peak of the process from {found['peak_mb_before']} to {found['peak_mb']} MiB.",
        f"The states alone are {number(found['states_bytes'] / MEGABYTE, 0)} MiB.",
        f"{number(found['planned_bytes'] / MEGABYTE, 0)} MiB of files were announced,",
        f"{number(found['file_bytes'] / MEGABYTE, 0)} were written.",
        f"It took {number(found['cpu_s'] / 60, 1)} CPU minutes.",
    )


def channels(found: Found | None) -> Iterator[str]:
    """Coverage of intervals on channels of known information."""
    if found is None:
        return
    yield "## Channels of known information"
    yield prose(
        f"{found['settings']['draws']} data sets of each channel. Covered: the share whose 95 % interval holds the",
        "truth, with Wilson's interval. An estimate is a lower bound, as a trained classifier is not the best one.",
    )
    rows = []
    for row in found["rows"]:
        what = "accuracy" if "accuracy" in row else "gain"
        rows.append(
            [
                row["channel"],
                number(row["bits"], 3),
                f"{number(row['mean_bits'], 3)} (sd {number(row['sd_bits'], 3)})",
                span(row["bits_covered"], of="share"),
                f"{what} {number(row[what], 3)}",
                number(row[f"mean_{what}"], 3),
                span(row[f"{what}_covered"], of="share"),
                str(row["bits_covered"]["n"]),
            ]
        )
    heads = [
        "channel",
        "bits",
        "mean estimate",
        "covered",
        "Bayes accuracy, or gain",
        "mean estimate",
        "covered",
        "n",
    ]
    yield lines(heads, rows)


def lenses(found: Found | None) -> Iterator[str]:
    """Tuned lens and the package of its authors."""
    if found is None:
        return
    yield "## Lenses"
    largest = max(row["largest_difference_nats"] for row in found["equality"])
    yield prose(
        f"With the same maps, the tuned lens and the package tuned-lens differ by {largest:.0e} nats at most, over",
        f"{len(found['equality'])} families. KL from the model to the lens, on held-out texts, by depth:",
    )
    rows = [
        [
            f"{row['lens']}, seed {row['seed']}",
            str(row["state"]),
            span(row, 3, of="kl_nats"),
            span(row, 3, of="logit_kl_nats"),
            span(row, 3, of="gain_nats"),
        ]
        for row in found["depths"]
        if row["seed"] == found["seeds"][0]
    ]
    yield lines(["lens", "state", "KL, nats", "KL of the logit lens", "less by"], rows)
