"""The page of results as Markdown, from whatever results there are.

python benchmarks/intelligibility/table.py > docs/results/intelligibility.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "intelligibility"
Row = dict[str, Any]


def read(name: str) -> Row | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def span(row: Row, value: str = "accuracy", start: str = "", sign: str = "") -> str:
    low, high = row[f"{start}low"], row[f"{start}high"]
    if row[value] is None:
        return "-"
    told = f"{row[value]:{sign}.3f}"
    return told if low is None or high is None else f"{told} [{low:{sign}.3f}, {high:{sign}.3f}]"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def file(name: str) -> str:
    return f"([file](../../benchmarks/results/intelligibility/{name}.json))"


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
    yield markdown(
        ["speaker", *listeners],
        [[speaker, *(span(at[speaker, listener]) for listener in listeners)] for speaker in speakers],
    )
    rows = [
        (row["kind"], f"{row['speaker']} -> {row['listener']}", f"{row['other_speaker']} -> {row['other_listener']}",
         span(row, "value", sign="+"))
        for row in found["interactions"]
    ]  # fmt: skip
    yield markdown(["kind", "pair", "other pair", "interaction"], rows)
    own, beyond = found["interactions"][0], [r for r in found["interactions"] if r["kind"] == "less control"]
    yield f"The interaction of own pairs is {span(own, 'value', sign='+')}. True full captions adapted to nobody:"
    for row in beyond:
        apart = "" if row["low"] > 0 or row["high"] < 0 else ", not told apart from 0"
        yield f"- beyond them, {row['speaker']} adds {span(row, 'value', sign='+')} of it{apart}."
    rows = [(row["speaker"], row["listener"], row["control"], span(row)) for row in found["controls"]]
    kept = [row for row in rows if row[2] in ("shuffled captions", "no caption")]
    yield markdown(["speaker", "listener", "control", "accuracy"], kept)
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
    return markdown([*heads, "of several items", "overlap with distractors"], table)


def tangrams(found: Row) -> Iterator[str]:
    yield "## Real people and real models: tangrams"
    yield (
        "Reference games over twelve tangrams (Boyce et al. 2024, 2025; Tan et al. 2025): messages of people, heard by "
        "the people of the game, by readers without its history, and by two vision-language models. Intervals over "
        "games; chance 0.083. No neural speaker "
        f"is heard by people in this set, so **there is no interaction to measure**. {file('tangrams')}"
    )
    rows = [
        (r["anchor"], f"{r['published']:.3f}", f"{r['found']:.3f}", "yes" if r["agrees"] else "no")
        for r in found["anchors"]
    ]
    yield markdown(["accuracy of", "data's page", "here", "agrees"], rows)
    rows = [(r["stratum"], span(r), r["n"], r["n_groups"]) for r in found["people_of_the_game_by_block"]]
    yield "People of the game, by repetition of the figures (an empty choice is wrong):"
    yield markdown(["repetition", "accuracy", "choices", "games"], rows)
    yield "Readers without history, by experiment:"
    yield markdown(
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
    yield markdown(
        ["condition", "model", "accuracy", "messages", "mean top p", "calibration error", "Brier"], rows
    )
    rows = []
    for name in ("people_of_the_game", "readers", "models_no_context", "models_backward"):
        for row in found[name]["controls"]:
            if row["control"] == "shuffled captions":
                rows.append((name.replace("_", " "), row["listener"], span(row)))
    yield "Shuffled control (the target beside the answers to all other messages):"
    yield markdown(["study", "listener", "accuracy"], rows)
    rows = []
    for name in ("people_of_the_game", "readers", "models_no_context"):
        rows += [
            (name.replace("_", " "), row["listener"], row["stratum"], span(row), row["n"])
            for row in by(found[name], "length")
        ]
    yield "By length of the message:"
    yield markdown(["study", "listener", "length", "accuracy", "answers"], rows)
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
    yield markdown(
        ["speaker", *kinds], [[one, *(share(at[one, kind]) for kind in kinds)] for one in speakers]
    )
    yield "Phenomena that ImageCoDe's annotators found (codes as in the source), and how the lists agree with them:"
    yield markdown(["code", "share"], [(row["code"], share(row)) for row in found["phenomena"]])
    yield markdown(
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
        f"{len(rows)} coverages of 95 % intervals lie in 0.92 to 0.98. {file('coverage')}"
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
    yield markdown(["world", "groups", "statistic", "truth", "covered", "mean width"], table)


def main() -> None:
    parts = [
        "# Results: mutual intelligibility",
        "How it works: [intelligibility.md](../intelligibility.md). "
        "Made by `python benchmarks/intelligibility/table.py`.",
    ]
    for name, tell in (
        ("scenes", scenes),
        ("tangrams", tangrams),
        ("imagecode", imagecode),
        ("coverage", coverage),
    ):
        found = read(name)
        parts += list(tell(found)) if found else []
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
