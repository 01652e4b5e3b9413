"""The documentation's page of results of caption scores, written from the result file: every number is computed.

python benchmarks/captions/scores_page.py [--write]    prints it; --write puts it into docs/results
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from pages import joined, lines, link, main, number, prose, read, span

RESULT = "captions/scores.json"
SHIFTED = "each picture gets the COCO model's caption of another picture"
Record = Mapping[str, Any]


def small(value: float) -> str:
    """A difference that may be one of rounding."""
    return "0" if value == 0 else f"{value:.1g}" if value < 0.01 else f"{value:.2f}"


def opening(record: Record) -> Iterator[str]:
    n = record["ours"]["clipcap_coco"]["scores"][0]["n"]
    yield "# Results: caption scores"
    yield "How it works: [caption-scores.md](../caption-scores.md)."
    shared = max(max(record["load_average"][when]) for when in ("before", "after")) > 1
    yield prose(
        "Made by `python benchmarks/captions/scores_page.py --write`. The captions are not part of the package.",
        f"Commands, versions, hardware and settings are in the {link(RESULT, 'result file')}.",
        f"COCO's Karpathy test split has {n:,} pictures with five captions of people each.",
        "Two ClipCap models captioned them. Intervals are 95 % bootstrap intervals over pictures.",
        "Other work ran on the machine at the same time, so CPU seconds are an upper bound."
        if shared
        else "",
    )


def ours(record: Record) -> Iterator[str]:
    told = record["ours"]
    kinds = ("clipcap_coco", "clipcap_conceptual", "identical", "shuffled")
    tables = [told[kind]["scores"] if "clipcap" in kind else told[kind] for kind in kinds]
    rows = [
        (rows[0]["score"], *(span(row) for row in rows[:2]), *(number(row["value"]) for row in rows[2:]))
        for rows in zip(*tables, strict=True)
    ]
    yield "## What real captions score"
    yield lines(["score", "ClipCap, COCO", "ClipCap, Conceptual", "identical", "shuffled"], rows)
    seconds = " and ".join(number(told[kind]["cpu_seconds"], 1) for kind in kinds[:2])
    least = told["identical_cider_d_of_four_words_or_more"]
    yield prose(
        f"All scores and intervals of {tables[0][0]['n']:,} captions took {seconds} CPU seconds.",
        f"Identical: the first reference against itself. Shuffled: {SHIFTED}.",
        'What is left of BLEU there is everyday wording ("a man riding a").',
        f"An identical caption of four tokens or more has CIDEr-D {number(least['least'])} to",
        f"{number(least['most'])} (n = {least['n']:,}).",
    )


def published(record: Record) -> Iterator[str]:
    rows, said = [], []
    java = record.get("peers", {}).get("scores", {}).get("clipcap_coco", {})
    theirs = {
        "CIDEr-D": java.get("cider_d", {}).get("pycocoevalcap"),
        "BLEU-4": java.get("bleu", {}).get("pycocoevalcap", [None])[-1],
    }
    for row in record["ours"]["clipcap_coco"]["scores"]:
        name = row["score"]
        if name in record["published"]:
            paper = record["published"][name]
            away = 100 * (row["value"] / paper - 1)
            rows.append((name, paper, span(row), f"{number(away, sign='+')} %", number(theirs[name])))
            where = "within" if row["low"] <= paper <= row["high"] else "outside"
            said.append(f"The published {name} lies {where} the interval of these captions.")
    yield "## The published values"
    yield "Published: Mokady, Hertz, Bermano 2021, ClipCap with an MLP and tuned GPT-2."
    yield lines(["score", "published", "ours, these captions", "difference", "Java's, these captions"], rows)
    tried = record["tokenisers"]
    pair = [
        one for one in tried if all(f"{one[s]:.1f}" == f"{p:.1f}" for s, p in record["published"].items())
    ]
    yield prose(
        *said,
        "The captions come from another repository than the published table's." if not pair else "",
        f"No tokeniser of {len(tried)} that were tried gives the published pair."
        if not pair
        else f"The tokeniser `{pair[0]['tokeniser']}` gives the published pair.",
        "Java's column is COCO's own programs with Stanford's tokeniser.",
    )
    yield lines(
        ["tokeniser", "BLEU-4", "CIDEr-D"],
        [(f"`{one['tokeniser']}`", number(one["BLEU-4"]), number(one["CIDEr-D"])) for one in tried],
    )
    yield prose(
        "`lower` and `spaced` split at blanks, with and without lower case, and so keep punctuation on words.",
        "`with_stops` keeps the full stop as a token.",
    )
    counted = record["documents"]
    yield prose(
        f"Document frequencies matter: below are the same {counted[0]['documents']} captions, with frequencies from",
        "more and more pictures.",
    )
    yield lines(
        ["documents", f"CIDEr-D of the same {counted[0]['documents']} captions"],
        [(f"{one['documents']:,}", number(one["CIDEr-D"])) for one in counted],
    )


def compared(told: Record) -> Iterator[tuple[str, str, float, float, float, str]]:
    """Score, program, its value, ours, the largest difference and what it is of."""
    bleu, rouge, cider, meteor = (told[one] for one in ("bleu", "rouge_l", "cider_d", "meteor_exact_stem"))
    largest = "largest_difference_of_an_item"
    away = max(abs(a - b) for a, b in zip(bleu["ours"], bleu["pycocoevalcap"], strict=True))
    yield "BLEU-4", "pycocoevalcap", bleu["pycocoevalcap"][-1], bleu["ours"][-1], away, " (corpus)"
    yield "ROUGE-L", "pycocoevalcap", rouge["pycocoevalcap"], rouge["ours"], rouge[largest], ""
    for column, program in (("pycocoevalcap", "pycocoevalcap"), ("aac_metrics", "aac-metrics")):
        yield "CIDEr-D", program, cider[column], cider["ours"], cider[largest][column], ""
    differ = f" ({meteor['items_that_differ']} of {told['items']:,} items)"
    yield (
        "METEOR",
        "METEOR 1.5, exact and stem",
        meteor["meteor_1.5"],
        meteor["ours"],
        meteor[largest],
        differ,
    )


def agreement(peers: Record) -> Iterator[str]:
    yield "## Beside the programs in use"
    yield "On the same tokens; differences are of scores times 100."
    rows = [
        (speaker, name, program, number(theirs, 3), number(mine, 3), f"{small(away)}{said}")
        for speaker, told in peers["scores"].items()
        for name, program, theirs, mine, away, said in compared(told)
    ]
    yield lines(["captions", "score", "program", "its value", "ours", "largest difference of an item"], rows)
    yield prose(
        "METEOR 1.5 was run with exact and stem matches and equal weights of content and function words.",
        "What differs are ties between alignments of a form and of a stem.",
    )
    tokens, stems = peers["tokens"], peers["stems"]
    yield lines(
        ["texts", "n", "other tokens than Stanford's"],
        [(name, f"{told['texts']:,}", told["differ"]) for name, told in tokens.items()],
    )
    shown = [one["text"] for told in tokens.values() for one in told["examples"]]
    listed = "; ".join(f"{word}: {mine}, {theirs}" for word, mine, theirs in stems["examples"])
    yield prose(
        f"Texts that differ, for example: {'; '.join(f'`{text}`' for text in shown[:2])}." if shown else "",
        f"Stems beside nltk's: {stems['differ']} of {stems['words']:,} words differ{': ' if listed else ''}{listed}.",
    )
    speed = peers["speed"]
    rounds = len(speed["cpu_seconds"]["ours"])
    yield prose(
        f"CIDEr from tokens, {rounds} rounds in turn, one thread.",
        "Ours gives CIDEr and CIDEr-D, the others CIDEr-D.",
    )
    yield lines(
        ["CIDEr of tokens", "median CPU seconds", "times ours"],
        [
            (name, number(seconds), number(speed["times_as_long_as_ours"].get(name, 1.0), 1))
            for name, seconds in speed["median"].items()
        ],
    )


def page(record: Record) -> str:
    """The whole page."""
    peers = agreement(record["peers"]) if "peers" in record else ()
    return joined([*opening(record), *ours(record), *published(record), *peers])


if __name__ == "__main__":
    main("caption-scores.md", page(read(RESULT)))
