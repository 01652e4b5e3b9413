"""`trimtab run`: a config or a recipe, in a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trimtab.cli.console import Verb, parser, split_overrides, with_overrides
from trimtab.cli.jobs import read_content, read_job, run_job
from trimtab.systems import find_config


def main(argv: Sequence[str], verb: str = "run", line: Verb | None = None) -> int:
    """Run a config; the same command with the same --out goes on where it was.

    Args:
        argv: the arguments.
        verb: what the command is called in its help.
        line: its line and example there, if it is not in the table of verbs.
    """
    options = parser(verb, line)
    options.add_argument("file", metavar="FILE", help="a YAML file, or a recipe")
    options.add_argument("--out", type=Path, metavar="DIR", help="the run's folder; a new one if not given")
    options.add_argument("--jobs", type=int, metavar="N", help="runs at a time, one thread each")
    options.add_argument("--json", action="store_true", help="print the result as JSON")
    mine, words = split_overrides(with_overrides(options), argv)
    arguments = options.parse_args(mine)

    from trimtab.runs.config import parse_overrides

    overrides = parse_overrides(words)
    if arguments.jobs is not None:
        overrides["jobs"] = arguments.jobs
    name, path = find_config(arguments.file)
    job = read_job(read_content(path), overrides)
    return run_job(job, arguments.out, name=name, as_json=arguments.json)
