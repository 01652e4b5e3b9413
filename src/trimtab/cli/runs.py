"""`trimtab runs`: what was run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trimtab.cli.console import note, parser, say
from trimtab.runs.paths import runs_home

if TYPE_CHECKING:
    from trimtab.runs.listing import RunSummary


def main(argv: Sequence[str]) -> int:
    """List runs, oldest first."""
    options = parser("runs")
    options.add_argument(
        "filter",
        metavar="FILTER",
        nargs="?",
        default="",
        help="part of a line, or KEY=VALUE of a run's config",
    )
    options.add_argument("--json", action="store_true", help="as JSON")
    arguments = options.parse_args(argv)

    from trimtab.runs.listing import list_runs

    found = [run for run in list_runs(runs_home()) if _matches(run, arguments.filter)]
    if arguments.json:
        say(json.dumps([_plain(run) for run in found], indent=2))
    elif found:
        names = [_printable(run.name) for run in found]
        width = max(map(len, names)) + 2
        lines = zip(names, found, strict=True)
        say("\n".join(f"{name:<{width}}{_printable(_line(run))}" for name, run in lines))
    else:
        note(f"no such runs in {runs_home()}")
    return 0


def _line(run: RunSummary) -> str:
    facts = " ".join(f"{key}={value}" for key, value in run.facts.items())
    return f"{run.status:<13}{run.created[:16].replace('T', ' '):<18}{facts}".rstrip()


def _matches(run: RunSummary, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    if equals:
        return _text(_at(run.config, key)) == value
    return wanted in run.name or wanted in _line(run)


def _at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    """A value as a filter names it; YAML also has dates, which JSON has not, and values within themselves."""
    try:
        return value if isinstance(value, str) else json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        return ""


def _printable(text: str) -> str:
    """One line that any terminal shows: control characters and what no encoding has, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _plain(run: RunSummary) -> dict[str, Any]:
    return {
        "path": str(run.path),
        "name": run.name,
        "status": run.status,
        "created": run.created,
        "facts": run.facts,
    }
