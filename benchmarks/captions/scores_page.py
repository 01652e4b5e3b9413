"""The tables of benchmarks/results/captions/scores.json as Markdown, as docs/results/caption-scores.md has them.

python benchmarks/captions/scores_page.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parents[1] / "results" / "captions" / "scores.json"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def span(row: Mapping[str, Any]) -> str:
    return f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def small(value: float) -> str:
    return "0" if value == 0 else f"{value:.1g}" if value < 0.01 else f"{value:.2f}"


def ours(record: Mapping[str, Any]) -> Iterator[str]:
    told = record["ours"]
    kinds = ("clipcap_coco", "clipcap_conceptual", "identical", "shuffled")
    tables = [told[kind]["scores"] if "clipcap" in kind else told[kind] for kind in kinds]
    rows = [
        (rows[0]["score"], *(span(row) for row in rows[:2]), *(f"{row['value']:.2f}" for row in rows[2:]))
        for rows in zip(*tables, strict=True)
    ]
    yield markdown(["score", "ClipCap, COCO", "ClipCap, Conceptual", "identical", "shuffled"], rows)
    seconds = " and ".join(f"{told[kind]['cpu_seconds']:.1f}" for kind in kinds[:2])
    n = tables[0][0]["n"]
    yield f"{n:,} captions with five references, all scores and intervals: {seconds} CPU seconds."
    least = told["identical_cider_d_of_four_words_or_more"]
    ends = f"{least['least']:.2f} to {least['most']:.2f}"
    yield f"Identical captions of four tokens or more (n {least['n']:,}): CIDEr-D {ends}."


def published(record: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    java = record.get("peers", {}).get("scores", {}).get("clipcap_coco", {})
    theirs = {
        "CIDEr-D": java.get("cider_d", {}).get("pycocoevalcap"),
        "BLEU-4": java.get("bleu", {}).get("pycocoevalcap", [None])[-1],
    }
    for row in record["ours"]["clipcap_coco"]["scores"]:
        if row["score"] in record["published"]:
            paper = record["published"][row["score"]]
            away = 100 * (row["value"] / paper - 1)
            rows.append((row["score"], paper, span(row), f"{away:+.2f} %", f"{theirs[row['score']]:.2f}"))
    yield markdown(
        ["score", "published", "ours, these captions", "difference", "Java's, these captions"], rows
    )
    rows = [
        (f"`{one['tokeniser']}`", f"{one['BLEU-4']:.2f}", f"{one['CIDEr-D']:.2f}")
        for one in record["tokenisers"]
    ]
    yield markdown(["tokeniser", "BLEU-4", "CIDEr-D"], rows)
    rows = [(f"{one['documents']:,}", f"{one['CIDEr-D']:.2f}") for one in record["documents"]]
    yield markdown(["documents", "CIDEr-D of the same 50 captions"], rows)


def agreement(peers: Mapping[str, Any]) -> Iterator[str]:
    rows, largest = [], "largest_difference_of_an_item"
    for speaker, told in peers["scores"].items():
        bleu, rouge, cider, meteor = (
            told[one] for one in ("bleu", "rouge_l", "cider_d", "meteor_exact_stem")
        )
        away = max(abs(a - b) for a, b in zip(bleu["ours"], bleu["pycocoevalcap"], strict=True))
        items = cider[largest]
        one_by_one = f" ({meteor['items_that_differ']} of {told['items']:,} items)"
        compared = (
            ("BLEU-4", "pycocoevalcap", bleu["pycocoevalcap"][-1], bleu["ours"][-1], away, " (corpus)"),
            ("ROUGE-L", "pycocoevalcap", rouge["pycocoevalcap"], rouge["ours"], rouge[largest], ""),
            ("CIDEr-D", "pycocoevalcap", cider["pycocoevalcap"], cider["ours"], items["pycocoevalcap"], ""),
            ("CIDEr-D", "aac-metrics", cider["aac_metrics"], cider["ours"], items["aac_metrics"], ""),
            (
                "METEOR",
                "METEOR 1.5, exact and stem",
                meteor["meteor_1.5"],
                meteor["ours"],
                meteor[largest],
                one_by_one,
            ),
        )
        for name, program, theirs, mine, difference, said in compared:
            rows.append(
                (speaker, name, program, f"{theirs:.3f}", f"{mine:.3f}", f"{small(difference)}{said}")
            )
    yield markdown(
        ["captions", "score", "program", "its value", "ours", "largest difference of an item"], rows
    )
    rows = [(name, f"{told['texts']:,}", told["differ"]) for name, told in peers["tokens"].items()]
    stems = peers["stems"]
    yield markdown(["texts", "n", "other tokens than Stanford's"], rows)
    listed = "; ".join(f"{word}: {mine}, {theirs}" for word, mine, theirs in stems["examples"])
    yield f"Stems beside nltk's: {stems['differ']} of {stems['words']:,} words differ. {listed}"
    speed = peers["speed"]
    rows = [
        (name, f"{seconds:.2f}", f"{speed['times_as_long_as_ours'].get(name, 1.0):.1f}")
        for name, seconds in speed["median"].items()
    ]
    yield markdown(["CIDEr of tokens", "median CPU seconds", "times ours"], rows)


def main() -> None:
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    parts = [*ours(record), *published(record)]
    if "peers" in record:
        parts += agreement(record["peers"])
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
