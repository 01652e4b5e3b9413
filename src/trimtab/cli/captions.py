"""`trimtab captions score`: the scores of captions in a file, with intervals and signatures."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trimtab.cli.console import parser, say, sentence
from trimtab.errors import ConfigProblems, Problem, not_among
from trimtab.runs.paths import missing_file
from trimtab.systems import imported

ACTIONS = ("score",)
"""What there is to do with captions."""


def captions(argv: Sequence[str]) -> int:
    """Score the captions of a file; there is no other action yet."""
    options = parser("captions")
    verbs = options.add_subparsers(dest="action", metavar="ACTION", required=True)
    what = "score captions against references: BLEU, ROUGE-L, CIDEr, CIDEr-D and METEOR by words and stems"
    example = "Example: trimtab captions score captions.jsonl --tokeniser words --json"
    sub = verbs.add_parser("score", help=what, description=sentence(what), epilog=example)
    lines = "JSON, a line for each caption with candidate (a text) and references (a list); .gz too. With "
    lines += "--references, a table of item and caption"
    sub.add_argument("file", metavar="FILE", help=lines)
    sub.add_argument("--json", action="store_true", help="print the scores as JSON")
    sub.add_argument("--tokeniser", metavar="NAME", default="ptb", help="ptb (COCO's, the default) or words")
    several = "captions by people: item and caption, several rows of an item, or item and references"
    sub.add_argument("--references", metavar="FILE", help=several)
    corpus = "references (item and caption, or item and references) to count CIDEr's document frequencies in"
    sub.add_argument("--corpus", metavar="FILE", help=corpus)
    arguments = options.parse_args(argv)
    if problems := list(problems_of(arguments)):
        raise ConfigProblems(problems)
    candidates, references = arguments.file, arguments.references
    if references is None:
        candidates, references = imported("trimtab.data.captions:captions_to_score")(arguments.file)
    settings = {"tokeniser": arguments.tokeniser, "corpus": arguments.corpus}
    table = imported("trimtab.refer.scores.scores:caption_scores")(candidates, references, **settings)
    rows = table.to_dict("records")
    if arguments.json:
        from trimtab.runs.serialise import to_json

        say(to_json({"file": arguments.file, "n": rows[0]["n"], "scores": rows}, indent=2))
    else:
        say("\n".join(lines_of(rows)))
    return 0


def problems_of(arguments: argparse.Namespace) -> Iterator[Problem]:
    """Problems that show before a file is read."""
    known = imported("trimtab.refer.scores.tokenisers:TOKENISERS")
    if arguments.tokeniser not in known:
        yield not_among("--tokeniser", arguments.tokeniser, known)
    yield from missing_file("FILE", arguments.file, "a file of captions")
    for name, path in (("--references", arguments.references), ("--corpus", arguments.corpus)):
        if path is not None:
            yield from missing_file(name, path, "a file of references")


def lines_of(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The scores as lines of text: value, interval and signature; a dash for what is undefined.

    >>> row = {"score": "BLEU-4", "value": 32.606, "low": 31.85, "high": float("nan"), "signature": "tok:ptb.1"}
    >>> list(lines_of([row]))
    ['BLEU-4    32.61  [31.85, -]  tok:ptb.1']
    """
    named = max(len(row["score"]) for row in rows)
    intervals = [f"[{_number(row['low'])}, {_number(row['high'])}]" for row in rows]
    wide = max(map(len, intervals))
    for row, interval in zip(rows, intervals, strict=True):
        yield f"{row['score']:<{named}} {_number(row['value']):>8}  {interval:<{wide}}  {row['signature']}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
