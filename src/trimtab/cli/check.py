"""`trimtab check`: every problem of a config at once, or what it will take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trimtab.cli.console import for_command, parser, say, split_overrides, with_overrides
from trimtab.cli.jobs import read_content, read_job
from trimtab.errors import ConfigProblems, Problem
from trimtab.systems import already_built, find_config


def main(argv: Sequence[str]) -> int:
    """Check a config; loads no model, downloads nothing, writes nothing."""
    options = parser("check")
    options.add_argument("file", metavar="FILE", help="a YAML file, or a recipe")
    options.add_argument("--json", action="store_true", help="as JSON")
    mine, overrides = split_overrides(with_overrides(options), argv)
    arguments = options.parse_args(mine)
    try:
        cost = _cost(arguments.file, overrides)
    except ConfigProblems as error:
        problems = [replace(problem, hint=for_command(problem.hint)) for problem in error.problems]
        say(json.dumps({"problems": [vars(p) for p in problems]}) if arguments.json else _text(problems))
        return 2
    if arguments.json:
        from trimtab.runs.serialise import to_json

        say(to_json({"problems": [], "estimate": cost}))
    else:
        from trimtab.job import cost_text

        say(cost_text(cost))
    return 0


def _cost(file: str, overrides: Sequence[str]) -> Mapping[str, Any]:
    from trimtab.runs.config import parse_overrides

    _, path = find_config(file)
    return already_built(read_job(read_content(path), parse_overrides(overrides))).cost()


def _text(problems: Sequence[Problem]) -> str:
    lines = [f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"]
    for problem in problems:
        lines += [problem.where, f"    got       {problem.got}", f"    expected  {problem.expected}"]
        lines += [f"    try       {problem.hint}"] if problem.hint else []
    return "\n".join(lines)
