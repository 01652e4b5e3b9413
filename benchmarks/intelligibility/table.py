"""The page of results as Markdown, from whatever results there are.

python benchmarks/intelligibility/table.py [--write]    prints it; --write puts it into docs/results
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
import pages
from pages import lines, link, read

Row = dict[str, Any]
TANGRAMS = 12
BAND = (0.92, 0.98)
"""Shares of intervals that hold the truth, as the column `within_92_98` counts them."""


def span(row: Row, value: str = "accuracy", start: str = "", sign: str = "") -> str:
    return pages.span(row, 3, of=value, ends=(f"{start}low", f"{start}high"), sign=sign)


def file(name: str) -> str:
    return f"({link(f'intelligibility/{name}.json')})"


def by(study: Row, column: str) -> list[Row]:
    return [row for row in study["strata"] if row["by"] == column]


def scenes(found: Row) -> Iterator[str]:
    yield "## Rendered scenes, where the truth is known"
    yield (
        "`trimtab run intelligibility/quickstart`: candidates are the target and nine pictures that differ from it in "
        "one "
        f"attribute; one seed of the models and of tuning. {file('scenes')}"
    )
    listeners = list(dict.fromkeys(row["listener"] for row in found["accuracy"]))
    speakers = list(dict.fromkeys(row["speaker"] for row in found["accuracy"]))
    at = {(row["speaker"], row["listener"]): row for row in found["accuracy"]}
    yield lines(
        ["speaker", *listeners],
        [[speaker, *(span(at[speaker, listener]) for listener in listeners)] for speaker in speakers],
    )
    rows = [
        (row["kind"], f"{row['speaker']} -> {row['listener']}", f"{row['other_speaker']} -> {row['other_listener']}",
         span(row, "value", sign="+"))
        for row in found["interactions"]
    ]  # fmt: skip
    yield lines(["kind", "pair", "other pair", "interaction"], rows)
    own, beyond = found["interactions"][0], [r for r in found["interactions"] if r["kind"] == "less control"]
    yield f"The interaction of own pairs is {span(own, 'value', sign='+')}. True full captions adapted to nobody:"
    for row in beyond:
        apart = "" if row["low"] > 0 or row["high"] < 0 else ", not told apart from 0"
        yield f"- beyond them, {row['speaker']} adds {span(row, 'value', sign='+')} of it{apart}."
    rows = [(row["speaker"], row["listener"], row["control"], span(row)) for row in found["controls"]]
    kept = [row for row in rows if row[2] in ("shuffled captions", "no caption")]
    yield lines(["speaker", "listener", "control", "accuracy"], kept)
    yield captions(found["captions"])


def captions(rows: Sequence[Row]) -> str:
    table = [
        (
            row["speaker"],
            row["n"],
            span(row, "words", "words_"),
            row["types"],
            f"{row['rarefied']:.0f}",
            f"{row['entropy_bits']:.2f}",
            f"{row['repetition']:.3f}",
            f"{row['repeats']:.3f}",
            span(row, "overlap", "overlap_"),
        )
        for row in rows
    ]
    heads = ["speaker", "captions", "words", "types", "types, equal text", "entropy, bits", "said before"]
    return lines([*heads, "of several items", "overlap with distractors"], table)


def tangrams(found: Row) -> Iterator[str]:
    yield "## Real people and real models: tangrams"
    yield (
        f"Reference games over {TANGRAMS} tangrams (Boyce et al. 2024, 2025; Tan et al. 2025). "
        "Messages of people are heard by the people of the game, by readers without its history, and by two "
        f"vision-language models. Intervals over games; chance {1 / TANGRAMS:.3f}. No neural speaker "
        f"is heard by people in this set, so **there is no interaction to measure**. {file('tangrams')}"
    )
    rows = [
        (r["anchor"], f"{r['published']:.3f}", f"{r['found']:.3f}", "yes" if r["agrees"] else "no")
        for r in found["anchors"]
    ]
    yield lines(["accuracy of", "data's page", "here", "agrees"], rows)
    rows = [(r["stratum"], span(r), r["n"], r["n_groups"]) for r in found["people_of_the_game_by_block"]]
    yield "People of the game, by repetition of the figures (an empty choice is wrong):"
    yield lines(["repetition", "accuracy", "choices", "games"], rows)
    yield "Readers without history, by experiment:"
    yield lines(
        ["experiment", "accuracy", "choices", "games"],
        [(r["stratum"], span(r), r["n"], r["n_groups"]) for r in by(found["readers"], "experiment")],
    )
    rows = []
    for name in ("no_context", "backward"):
        study = found[f"models_{name}"]
        of = {row["listener"]: row for row in study["calibration"]}
        for row in study["accuracy"]:
            told = of[row["listener"]]
            rows.append(
                (
                    name,
                    row["listener"],
                    span(row),
                    row["n"],
                    f"{told['confidence']:.3f}",
                    span(told, "ece", "ece_"),
                    span(told, "brier", "brier_"),
                )
            )
    yield (
        "Models; `no_context` heard the message alone, `backward` the game's later trials with their answers. The "
        "two come "
        "from different runs:"
    )
    yield lines(
        ["condition", "model", "accuracy", "messages", "mean top p", "calibration error", "Brier"], rows
    )
    rows = []
    for name in ("people_of_the_game", "readers", "models_no_context", "models_backward"):
        for row in found[name]["controls"]:
            if row["control"] == "shuffled captions":
                rows.append((name.replace("_", " "), row["listener"], span(row)))
    yield "Shuffled control (the target beside the answers to all other messages):"
    yield lines(["study", "listener", "accuracy"], rows)
    rows = []
    for name in ("people_of_the_game", "readers", "models_no_context"):
        rows += [
            (name.replace("_", " "), row["listener"], row["stratum"], span(row), row["n"])
            for row in by(found[name], "length")
        ]
    yield "By length of the message:"
    yield lines(["study", "listener", "length", "accuracy", "answers"], rows)
    row = found["first_and_last_block"]["matched"][0]
    yield (
        f"From {row['speaker']} to {row['other']} messages shorten and accuracy rises by "
        f"{span(row, 'difference', sign='+')}; within bins of length, at one mix of lengths, by "
        f"{span(row, 'matched', 'matched_', '+')} (support {row['support']:.2f})."
    )


def imagecode(found: Row) -> Iterator[str]:
    yield "## Words against near-identical pictures: ImageCoDe"
    yield (
        "ImageCoDe's people tell one of ten near-identical pictures from the rest; COCO's people and ClipCap describe "
        "one "
        f"alone. The pictures differ, so only words are compared. {file('imagecode')}"
    )
    yield captions(found["statistics"])
    kinds = list(dict.fromkeys(row["words_of"] for row in found["words"]))
    at = {(row["speaker"], row["words_of"]): row for row in found["words"]}
    speakers = list(dict.fromkeys(row["speaker"] for row in found["words"]))

    def share(row: Row) -> str:
        return f"{row['share']:.3f} [{row['interval'][0]:.3f}, {row['interval'][1]:.3f}]"

    yield "Share of captions with a word of a list:"
    yield lines(["speaker", *kinds], [[one, *(share(at[one, kind]) for kind in kinds)] for one in speakers])
    yield "Phenomena that ImageCoDe's annotators found (codes as in the source), and how the lists agree with them:"
    yield lines(["code", "share"], [(row["code"], share(row)) for row in found["phenomena"]])
    yield lines(
        ["code", "list", "agreement"],
        [(r["code"], r["words_of"], f"{r['agreement']:.3f}") for r in found["agreement"]],
    )


def coverage(found: Row) -> Iterator[str]:
    yield "## Do the intervals hold the truth?"
    rows, settings = found["rows"], found["settings"]
    inside = sum(row["within_92_98"] for row in rows)
    yield (
        f"Planted matrices, {settings['data_sets']} data sets each, seeds {settings['seeds'][0]} to "
        f"{settings['seeds'][1]}: {inside} of "
        f"{len(rows)} coverages of 95 % intervals lie in {BAND[0]} to {BAND[1]}. {file('coverage')}"
    )
    table = [
        (
            row["world"],
            row["groups"],
            row["statistic"],
            f"{row['truth']:+.2f}",
            f"{row['covered']:.3f}",
            f"{row['mean_width']:.3f}",
        )
        for row in rows
    ]
    yield lines(["world", "groups", "statistic", "truth", "covered", "mean width"], table)


def page() -> str:
    """The whole page."""
    parts = [
        "# Results: mutual intelligibility",
        "How it works: [intelligibility.md](../intelligibility.md). "
        "Made by `python benchmarks/intelligibility/table.py --write`.",
    ]
    for name, tell in (
        ("scenes", scenes),
        ("tangrams", tangrams),
        ("imagecode", imagecode),
        ("coverage", coverage),
    ):
        found = read(f"intelligibility/{name}.json")
        parts += list(tell(found)) if found else []
    return pages.joined(parts)


if __name__ == "__main__":
    pages.main("intelligibility.md", page())
