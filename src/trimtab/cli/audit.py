"""`trimtab audit`: what served log-probabilities give away, of a transcript or of a recipe, in plain words."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.cli.console import note, parser, path_named, say, split_overrides
from trimtab.cli.jobs import outcome_of, read_job
from trimtab.errors import ConfigProblems, Problem
from trimtab.runs.paths import missing_file
from trimtab.systems import find_config, imported

TRANSCRIPTS = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
"""Endings of a transcript; everything else is a config or a recipe."""
_OF_TRANSCRIPTS = ("labels", "key", "question", "positions")
_KEYS = ("attributes", "background", "group", *_OF_TRANSCRIPTS, "max_bits", "seed")


def audit(argv: Sequence[str]) -> int:
    """Audit a transcript of served responses, or run a recipe of the system `leaks`; 1 where a bound is not kept."""
    options = parser("audit", as_json=True)
    code = "an attribute exceeds --max-bits at what is served, or could not be measured"
    options.epilog = f"{options.epilog}. Exit code 1: {code}."
    options.add_argument(
        "file",
        metavar="FILE",
        help="served responses, one a line (.jsonl, .gz too), or a YAML file or recipe",
    )
    options.add_argument("--attributes", metavar="NAME,...", help="columns to recover from what is served")
    options.add_argument(
        "--background", metavar="NAME,...", help="columns of things that questions are not about"
    )
    options.add_argument("--group", metavar="NAME", help="column of what must not be split, such as a user")
    options.add_argument("--labels", metavar="FILE", help="table of the columns, where they are not in FILE")
    options.add_argument("--key", metavar="NAME", help="column that joins both; custom_id")
    options.add_argument(
        "--question",
        metavar="NAME",
        help="column of what a caller knows anyway; @user for the user's messages",
    )
    options.add_argument("--positions", type=int, metavar="N", help="answer tokens to audit together; 1")
    options.add_argument("--max-bits", type=float, metavar="BITS", help="most that an attribute may leak")
    options.add_argument("--seed", type=int, metavar="N", help="of folds and classifiers; 0")
    options.add_argument("--jobs", type=int, metavar="N", help="processes, one thread each")
    options.add_argument(
        "--out", type=path_named, metavar="DIR", help="the run's folder; a new one if not given"
    )
    options.usage = options.format_usage().removeprefix("usage: ").rstrip() + " [--KEY.KEY VALUE ...]"
    words, more = split_overrides(options, argv)
    arguments = options.parse_args(words)
    if problems := list(problems_of(arguments)):
        raise ConfigProblems(problems)
    name, content = _content(arguments)
    overrides = {**imported("trimtab.runs.config:parse_overrides")(more), **_given(arguments)}
    job = read_job(content, overrides, jobs=arguments.jobs)
    _, outcome = outcome_of(job, arguments.out, name=name)
    told = outcome["json"]
    if arguments.json:
        say(json.dumps(told, indent=2))
    else:
        tables = outcome["table"].rpartition("\n\n")[
            0
        ]  # without the summary, which stands below in plain words
        say("\n".join([*([tables, ""] if tables else []), *plain_words(told)]))
    note(f"report {outcome['report']}")
    return 0 if outcome["passed"] else 1


def problems_of(arguments: Namespace) -> Iterator[Problem]:
    """Problems of arguments that are missing or do not go together, before a file is read."""
    if is_transcript(arguments.file):
        yield from missing_file("FILE", arguments.file, "a transcript: served responses, one a line")
        if not _names(arguments.attributes) and not _names(arguments.background):
            expected = "columns to recover from what is served"
            yield Problem("--attributes", "nothing", expected, "--attributes city,colour")
        if arguments.labels is not None:
            yield from missing_file("--labels", arguments.labels, "a table with the key and the columns")
        elif arguments.key is not None:
            yield Problem("--key", "it without --labels", "--labels FILE --key NAME")
        return
    for name in _OF_TRANSCRIPTS:
        if getattr(arguments, name) is not None:
            expected = f"it for a transcript ({', '.join(TRANSCRIPTS)}), not for {arguments.file!r:.60}"
            yield Problem(f"--{name}", "it for a config", expected, "the keys of the config")


def is_transcript(file: str) -> bool:
    """Whether a file is a transcript by its name.

    >>> is_transcript("a/served.jsonl.gz"), is_transcript("leaks/quickstart")
    (True, False)
    """
    return file.lower().endswith(TRANSCRIPTS)


def _content(arguments: Namespace) -> tuple[str, Mapping[str, Any]]:
    """Name and content of the config: that of a transcript, or of a file or recipe."""
    if is_transcript(arguments.file):
        name = Path(arguments.file).name.removesuffix(".gz").rpartition(".")[0]
        return f"audit-{name}", {"system": "leaks", "transcript": arguments.file}
    name, path = find_config(arguments.file)
    content = imported("trimtab.runs.config:read_mapping")(path)
    if content.get("system") != "leaks":
        got = f"{content.get('system')!r:.60} in {arguments.file}"
        raise ConfigProblems([Problem("system", got, "'leaks'", f"trimtab run {arguments.file}")])
    return name, content


def _given(arguments: Namespace) -> dict[str, Any]:
    """Keys of the config that options set; columns are lists."""
    given = {name: getattr(arguments, name) for name in _KEYS if getattr(arguments, name) is not None}
    return given | {name: _names(given[name]) for name in ("attributes", "background") if name in given}


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def plain_words(told: Mapping[str, Any]) -> Iterator[str]:
    """What a caller can learn of each attribute, what to do, and whether the bound holds, as lines of text.

    Args:
        told: the result as JSON values.
    """
    import pandas as pd

    risk_table, unmeasured, above = (
        imported(f"trimtab.read.leaks.recommendation:{name}")
        for name in ("risk_table", "unmeasured", "ABOVE")
    )
    bound, table, unknown = told["max_bits"], pd.DataFrame(told["table"]), list[tuple[str, str]]()
    rows = table
    if len(table):
        unknown = unmeasured(
            table, pd.DataFrame(told.get("accounting", []), columns=["where", "rows", "why"])
        )
        rows = risk_table(table, bound, unknown)
    yield "What a caller can learn"
    for row in rows.to_dict("records"):
        yield f"  {row['attribute']} ({row['role']}): {row['risk']}"
        if row["bits"] == row["bits"]:  # not nan
            right, chance = (f"{100 * row[name]:.0f} %" for name in ("accuracy", "chance"))
            yield f"    guessed right in {right} of cases from {row['served']}; the largest class has {chance}"
            yield f"    {row['bits']:.2f} bits ({row['low']:.2f} to {row['high']:.2f}) more than the question tells"
    if not len(rows):
        yield "  nothing: no served level could be measured"
    yield "What to do"
    yield from (f"  {sentence}" for sentence in re.split(r"(?<=\.) (?=[A-Z])", told["recommendation"]))
    if bound is not None:
        held = "not tested"
        if len(rows) and rows["low"].notna().any():
            held = "exceeded" if (rows["risk"] == above).any() else "not shown to be exceeded"
        names = ", ".join(f"{name} ({role})" for name, role in unknown)
        yield f"Bound of {bound:g} bits: {held}" + (
            f"; not tested for {names}, so not passed" if names else ""
        )
