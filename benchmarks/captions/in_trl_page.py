"""The section "What a benchmark showed" of docs/method/caption-rewards.md, from the result of `in_trl.py`.

python benchmarks/captions/in_trl_page.py [--write]    prints it; --write puts it between the page's two marks
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from pages import ROOT, joined, lines, link, prose, read, span, verdict

RESULT = "captions/trl.json"
PAGE = ROOT / "docs" / "method" / "caption-rewards.md"
MARKS = ("<!-- in trl -->\n", "<!-- /in trl -->")
COLUMNS = {
    "random": "P@1 of 100",
    "hard": "P@1, hard",
    "random, independent": "P@1 of 100, independent",
    "hard, independent": "P@1, hard, independent",
}


def section(result: Mapping[str, Any]) -> str:
    """The section, every number of it from the result."""
    settings, arms = result["settings"], []
    for arm, row in result["arms"].items():
        spans = [span(row[measure]) for measure in COLUMNS]
        ends = [f"{row['words']['value']:.1f}", f"{row['cpu_s']['value']:.0f}", str(row["random"]["n"])]
        arms.append([arm, *spans, *ends])
    gaps = []
    for row in result["differences"]:
        spans = [f"{span(row[measure], sign='+')} {verdict(row[measure])}" for measure in ("random", "hard")]
        gaps.append([f"{row['arm']} less {row['less']}", *spans, str(row["random"]["n"])])
    about = prose(
        "[`in_trl.py`](../../benchmarks/captions/in_trl.py): a tiny Llava on rendered scenes, tuned from one start by",
        f"our own loop (`DiscriTune`) and by TRL: {settings['steps']} steps of {settings['pictures a step']} pictures",
        f"with {settings['captions a picture']} captions each, learning rate {settings['lr']:g}.",
        f"{settings['test pictures']} test pictures. Intervals: {result['interval']};",
        "so few seeds make them wide. *Independent* is a listener of another architecture that no arm was tuned for.",
        "*Own batch* takes negatives from TRL's batch, copies of the true picture among them.",
    )
    source = f"Measured on {result['date']} with TRL {result['versions']['trl']}: {link(RESULT, 'result')}."
    heads = ["arm", *COLUMNS.values(), "words", "CPU s", "seeds"]
    tables = (
        lines(heads, arms),
        lines(["difference, paired by seed", "P@1 of 100", "P@1, hard", "seeds"], gaps),
    )
    return joined([about, *tables, source])


def main() -> None:
    told = section(read(RESULT))
    if "--write" not in sys.argv[1:]:
        print(told, end="")
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    PAGE.write_text(before + MARKS[0] + told + MARKS[1] + after, encoding="utf-8")


if __name__ == "__main__":
    main()
