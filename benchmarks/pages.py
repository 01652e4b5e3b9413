"""What the scripts that write docs/results have in common: result files, numbers, tables and paragraphs as Markdown.

A script is called as `python benchmarks/SYSTEM/PAGE.py [--write]`: it prints its page, or puts it into docs/results.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ROOT / "docs" / "results"
IMAGES = ROOT / "docs" / "images"


def read(name: str) -> Any:
    """A result file, as `dynamics/summary.json`; None where it was not made."""
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def link(name: str, text: str = "file") -> str:
    """A link from a page of results to a result file."""
    return f"[{text}](../../benchmarks/results/{name})"


def script(path: str) -> str:
    """A link from a page of results to a script, as `dynamics/run.py`."""
    return f"[`{Path(path).name}`](../../benchmarks/{path})"


def number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A number as text, with no zero that is negative; a dash for none."""
    if value is None:
        return "-"
    told = f"{value:{sign}.{digits}f}"
    return told.replace("-", "+" if sign else "") if float(told) == 0 else told


def span(
    one: Mapping[str, Any] | None,
    digits: int = 2,
    *,
    of: str = "value",
    ends: tuple[str, str] = ("low", "high"),
    sign: str = "",
    scale: float = 1.0,
) -> str:
    """A value with its interval, or without where there is none; a dash for no value."""
    if one is None or one.get(of) is None:
        return "-"
    low, high = (one.get(end) for end in ends)
    value = number(scale * one[of], digits, sign)
    if low is None or high is None:
        return value
    return f"{value} [{number(scale * low, digits, sign)}, {number(scale * high, digits, sign)}]"


def verdict(found: Mapping[str, Any]) -> str:
    """Which side of 0 a difference is on, by its interval.

    >>> verdict({"value": 0.1, "low": -0.1, "high": 0.3}), verdict({"value": 0.2, "low": 0.1, "high": 0.3})
    ('not told apart', 'higher')
    """
    if found["low"] is None or found["high"] is None or found["low"] <= 0 <= found["high"]:
        return "not told apart"
    return "higher" if found["value"] > 0 else "lower"


def percent(
    one: Mapping[str, Any] | None,
    digits: int = 0,
    *,
    of: str = "value",
    ends: tuple[str, str] = ("low", "high"),
) -> str:
    """A share with its interval in per cent; a dash for none."""
    value, _, interval = span(one, digits, of=of, ends=ends, scale=100).partition(" ")
    return value if value == "-" else f"{value} % {interval}".strip()


def listed(values: Iterable[object]) -> str:
    """One or more values in a row, as words have it: "a, b and c"."""
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else last


def lines(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; nothing where there are no rows."""
    if not rows:
        return ""
    told = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, row))} |".replace("| --- ", "|---") for row in told)


def prose(*sentences: str) -> str:
    """Sentences as one paragraph of lines that fit a screen."""
    whole = " ".join(filter(None, sentences))
    return textwrap.fill(whole, 118, break_long_words=False, break_on_hyphens=False)


def bullets(items: Iterable[str]) -> str:
    """A list, an item a line."""
    return "\n".join(f"- {item}" for item in items)


def joined(parts: Iterable[str]) -> str:
    """A page of its parts, but for those that are empty."""
    return "\n\n".join(part for part in parts if part) + "\n"


def main(name: str, page: str, figures: Mapping[str, Callable[[], str]] | None = None) -> None:
    """Print a page, or put it and its figures into docs where the command line says `--write`."""
    if "--write" not in sys.argv[1:]:
        print(page, end="")
        return
    (PAGES / name).write_text(page, encoding="utf-8")
    for figure, drawn in (figures or {}).items():
        (IMAGES / figure).write_text(drawn() + "\n", encoding="utf-8")
