"""What there is: recipes and systems (`trimtab ls`, `cp`), runs (`runs`), and this installation (`doctor`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.cli.console import note, parser, say
from trimtab.cli.jobs import check_folder
from trimtab.errors import ConfigProblems, Problem, nearest
from trimtab.runs.paths import as_path, cache_home, runs_home
from trimtab.systems import SYSTEMS, recipes

if TYPE_CHECKING:
    from trimtab.runs.listing import RunSummary


def ls(argv: Sequence[str]) -> int:
    """List recipes and systems."""
    as_json = parser("ls", as_json=True).parse_args(argv).json
    shipped, systems = recipes().values(), SYSTEMS.values()
    if as_json:
        listing = {
            "recipes": [{"name": each.name, "description": each.description} for each in shipped],
            "systems": [{"name": each.name, "title": each.title, "paper": each.paper} for each in systems],
        }
        say(json.dumps(listing, indent=2))
        return 0
    width = max(len(recipe.name) for recipe in shipped) + 2
    say("recipes")
    for recipe in shipped:
        say(f"  {recipe.name:<{width}}{recipe.description}")
    say("systems")
    for system in systems:
        say(f"  {system.name:<{width}}{system.title}; {system.paper}")
    return 0


def cp(argv: Sequence[str]) -> int:
    """Copy a recipe; an existing file is never overwritten."""
    options = parser("cp")
    options.add_argument("recipe", metavar="RECIPE", help="as `trimtab ls` names it")
    options.add_argument("target", metavar="TARGET.yaml", type=Path)
    arguments = options.parse_args(argv)
    shipped = recipes()
    if arguments.recipe not in shipped:
        near = nearest(arguments.recipe[:60], shipped) or "trimtab ls"
        raise ConfigProblems(
            [Problem("recipe", repr(arguments.recipe), f"one of {', '.join(shipped)}", near)]
        )
    target = as_path(arguments.target, "target", "a new file")
    check_folder(target.parent, "target")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(shipped[arguments.recipe].path.read_text(encoding="utf-8"))
    except FileExistsError:
        raise ConfigProblems(
            [Problem("target", f"{target}, which exists", "a new file", "another name")]
        ) from None
    say(str(target))
    return 0


def runs(argv: Sequence[str]) -> int:
    """List runs, oldest first."""
    options = parser("runs", as_json=True)
    help_text = "part of a line, or KEY=VALUE of a run's config"
    options.add_argument("filter", metavar="FILTER", nargs="?", default="", help=help_text)
    arguments = options.parse_args(argv)

    from trimtab.runs.listing import list_runs

    found = [run for run in list_runs(runs_home()) if _matches(run, arguments.filter)]
    if arguments.json:
        keys = ("name", "status", "created", "facts")
        rows = [{"path": str(run.path), **{key: getattr(run, key) for key in keys}} for run in found]
        say(json.dumps(rows, indent=2))
    elif found:
        rows_shown = [[_printable(run.name), _printable(_line(run))] for run in found]
        width = max(len(name) for name, _ in rows_shown) + 2
        say("\n".join(f"{name:<{width}}{line}" for name, line in rows_shown))
    else:
        note(f"no such runs in {runs_home()}")
    return 0


def _line(run: RunSummary) -> str:
    facts = " ".join(f"{key}={value}" for key, value in run.facts.items())
    return f"{run.status:<13}{run.created[:16].replace('T', ' '):<18}{facts}".rstrip()


def _matches(run: RunSummary, wanted: str) -> bool:
    key, equals, text = wanted.partition("=")
    if not equals:
        return wanted in run.name or wanted in _line(run)
    value: Any = run.config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    with suppress(TypeError, ValueError, RecursionError):  # YAML has values within themselves, JSON has not
        return (value if isinstance(value, str) else json.dumps(value, default=str)) == text
    return text == ""


def _printable(text: str) -> str:
    """One line that any terminal shows: control characters and what no encoding has, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def doctor(argv: Sequence[str]) -> int:
    """Show versions, devices, threads, caches and extras; changes nothing."""
    as_json = parser("doctor", as_json=True).parse_args(argv).json

    import torch  # so that devices and threads are known

    from trimtab.runs.environment import describe

    known = describe()
    homes = {"cache": cache_home(), "runs": runs_home()}
    facts = {
        **{key: known[key] for key in ("python", "platform", "versions")},
        "devices": {**known["hardware"], "mps": torch.backends.mps.is_available()},
        "threads": known["threads"],
        "places": {name: {"path": str(home), "bytes": _size(home)} for name, home in homes.items()},
        "extras": extras(),
    }
    say(json.dumps(facts, indent=2) if as_json else "\n".join(_lines(facts)))
    return 0


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    devices, places = facts["devices"], facts["places"]
    yield f"python     {facts['python']} on {facts['platform']}"
    yield f"versions   {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}"
    yield f"processor  {devices['cpu']}, {devices['cores']} cores, {_readable(devices['memory_bytes'])}"
    yield f"devices    {', '.join([*devices['gpus'], *(['mps'] if devices['mps'] else []), 'cpu'])}"
    yield f"threads    {facts['threads']['torch']} (OMP_NUM_THREADS {facts['threads']['OMP_NUM_THREADS'] or 'not set'})"
    for name, place in places.items():
        yield f"{name:<11}{place['path']} ({_readable(place['bytes'])})"
    for name, missing in facts["extras"].items():
        get = f'lacks {", ".join(missing)}; pip install "trimtab[{name}]"' if missing else "installed"
        yield f"extra      {name}: {get}"


def extras() -> dict[str, list[str]]:
    """Each extra of the package with those of its requirements that are not installed."""
    found: dict[str, list[str]] = {
        name: [] for name in metadata.metadata("trimtab").get_all("Provides-Extra") or ()
    }
    for line in metadata.requires("trimtab") or ():
        extra = re.search(r"""extra\s*==\s*['"]([^'"]+)""", line)
        name = re.match(r"[\w.-]+", line)
        if extra and name and not any(metadata.Distribution.discover(name=name[0])):
            found[extra[1]].append(name[0])
    return found


def _readable(count: float | None) -> str:
    if count is None:
        return "memory unknown"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
