"""Catalogue at the command line: recipes and systems (`trimtab ls`, `cp`), runs (`runs`) and their pages (`report`),
the share of pretraining data by a forgetting law (`plan`), and this installation (`doctor`).
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.cli.console import CRITERION_FAILED, DONE, note, parser, path_named, say
from trimtab.cli.jobs import check_folder, find_run
from trimtab.errors import (
    CheckpointError,
    ConfigProblems,
    Problem,
    TrimtabError,
    explain,
    install_hint,
    nearest,
)
from trimtab.runs.brief import model_of
from trimtab.runs.paths import RESULT, as_path, cache_home, runs_home
from trimtab.systems import SYSTEMS, imported, recipes, system_of_run

if TYPE_CHECKING:
    from trimtab.job import Result
    from trimtab.runs.folder import RunSummary

_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


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
    lines = ["recipes", *(f"  {recipe.name:<{width}}{recipe.description}" for recipe in shipped)]
    lines += [
        "systems",
        *(f"  {each.name:<{width}}{'; '.join(filter(None, (each.title, each.paper)))}" for each in systems),
    ]
    say("\n".join(lines))
    return 0


def cp(argv: Sequence[str]) -> int:
    """Copy a recipe; an existing file is never overwritten."""
    options = parser("cp", as_json=True)
    options.add_argument("recipe", metavar="RECIPE", help="as `trimtab ls` names it")
    options.add_argument("target", metavar="TARGET.yaml", type=path_named)
    arguments = options.parse_args(argv)
    shipped, name = recipes(), arguments.recipe
    if name not in shipped:
        near = nearest(name[:60], shipped) or "trimtab ls"
        raise ConfigProblems([Problem("recipe", repr(name), f"one of {', '.join(shipped)}", near)])
    target = as_path(arguments.target, "target", "a new file")
    check_folder(target.parent, "target")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(shipped[name].path.read_text(encoding="utf-8"))
    except FileExistsError:
        problem = Problem("target", f"{target}, which exists", "a new file", "another name")
        raise ConfigProblems([problem]) from None
    say(json.dumps({"path": str(target), "recipe": name}) if arguments.json else str(target))
    return 0


def runs(argv: Sequence[str]) -> int:
    """List runs, oldest first."""
    options = parser("runs", as_json=True)
    help_text = "part of a line, or KEY=VALUE of a run's config"
    options.add_argument("filter", metavar="FILTER", nargs="?", default="", help=help_text)
    arguments = options.parse_args(argv)

    from trimtab.runs.folder import list_runs

    chosen = [run for run in list_runs(runs_home()) if _matches(run, arguments.filter)]
    if arguments.json:
        keys = ("name", "status", "created", "facts")
        rows = [{"path": str(run.path), **{key: getattr(run, key) for key in keys}} for run in chosen]
        say(json.dumps(rows, indent=2))
    elif chosen:
        lines = [(_printable(run.name), _printable(_line(run))) for run in chosen]
        width = max(len(name) for name, _ in lines) + 2
        say("\n".join(f"{name:<{width}}{line}" for name, line in lines))
    else:
        note(f"no such runs in {runs_home()}")
    return 0


def _line(run: RunSummary) -> str:
    """Status, date, system and model of a run, then its headline; what else it noted where it has none."""
    headline = run.facts.get("headline")
    if isinstance(headline, Mapping) and headline:
        what = ", ".join(f"{key} {value}" for key, value in headline.items())
    else:
        what = " ".join(f"{key}={value}" for key, value in run.facts.items() if key != "headline")
    system = str(run.config.get("system", "")) or ("fine-tuning" if run.config else "")
    about = " ".join(filter(None, (system, model_of(run.config))))
    return f"{run.status:<13}{run.created[:16].replace('T', ' '):<18}{about:<24}  {what}".rstrip()


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


def report(argv: Sequence[str]) -> int:
    """Write the page of one run, or of several side by side; groups and sweeps bring all their runs."""
    options, default = parser("report", as_json=True), "default: report.html in the run"
    options.add_argument("runs", metavar="RUN", nargs="+", help="folder or name of a run, a group or a sweep")
    options.add_argument("-o", "--out", type=path_named, metavar="PAGE.html", help=default)
    arguments = options.parse_args(argv)
    folders = [find_run(text, "a run, a group or a sweep") for text in arguments.runs]
    if arguments.out is None and len(folders) > 1:
        raise ConfigProblems([Problem("-o", "nothing", "a file for a page of several runs", "-o page.html")])
    out = as_path(arguments.out or folders[0] / "report.html", "-o", "a file to write")
    if out.is_dir():
        problem = Problem("-o", f"{str(out)!r}, a folder", "a file to write", f"{out}/page.html")
        raise ConfigProblems([problem])
    check_folder(out.parent, "-o")
    if out.is_symlink():  # what it points at is written, as by a shell's redirection
        out = out.resolve()

    from trimtab.runs.atomic import write_atomic
    from trimtab.runs.folder import find_below

    finished: list[Path] = []
    for folder in folders:
        results = find_below(folder, RESULT)
        if not results:
            begun = find_below(folder, Path("config.yaml"))
            hint = f"trimtab resume {begun[0].parent}" if begun else "trimtab runs, which lists them"
            raise CheckpointError(explain(f"no finished run in {folder}", "one", hint))
        finished += [path.parent.parent for path in results]
    title = ", ".join(folder.resolve().name for folder in folders)
    write_atomic(out, _page(finished, title.encode(errors="replace").decode()))
    say(json.dumps({"path": str(out), "runs": list(map(str, finished))}) if arguments.json else str(out))
    return 0


def _page(runs: Sequence[Path], title: str) -> str:
    from trimtab.runs.folder import read_config_of
    from trimtab.runs.serialise import DAMAGE, is_sealed

    systems = {system_of_run(read_config_of(run)) for run in runs}
    if len(systems) > 1:
        names = ", ".join(sorted(system.name for system in systems))
        raise CheckpointError(explain(f"runs of {names}", "runs of one system"))
    result_class = systems.pop().job_class().result
    unsealed = [str(run / RESULT) for run in runs if not is_sealed(run)]
    results = _told_apart([result_class.load(run) for run in runs], runs)
    try:
        page: str = result_class.page(results, title, imported("trimtab.job:about_runs")(runs))
        page.encode()
    except DAMAGE as error:
        if isinstance(error, TrimtabError) or not unsealed:  # every result is as it was written
            raise
        got = f"values that no page can be made of ({type(error).__name__}: {str(error)[:200]})"
        message = explain(got, "a result as a run writes it")
        raise CheckpointError(f"{', '.join(unsealed)}: {message}") from error
    return page


def _told_apart(results: Sequence[Result], runs: Sequence[Path]) -> list[Result]:
    """Results of which those with one label carry the name of their run, or group, beside it."""
    many = {label for label, count in Counter(result.label for result in results).items() if count > 1}
    homes = [run.parent.parent if run.parent.name == "members" else run for run in map(Path.resolve, runs)]
    return [
        replace(result, label=f"{result.label} ({home.name})") if result.label in many else result
        for result, home in zip(results, homes, strict=True)
    ]


def plan(argv: Sequence[str]) -> int:
    """Tell the smallest share of pretraining data that keeps a rise small in 95 % of a law's refits; 1 where none does.

    See `trimtab.adapt.forgetting.laws.plan_share`.
    """
    options = parser("plan", as_json=True)
    rise = "of the pretraining loss, nats per token"
    promise = "share of the law's refits in which the promise is kept (default 0.95; 0.5 is the median)"
    base = "pretraining loss of the base model; with it the scatter of runs counts, too"
    options.add_argument("--law", required=True, metavar="FILE", help="written by ForgettingLaw.save()")
    options.add_argument("--params", required=True, type=count, help="parameters of the model, such as 1.4B")
    options.add_argument("--tokens", required=True, type=count, help="unique fine-tuning tokens, such as 30M")
    options.add_argument("--max-rise", required=True, type=float, help=rise)
    options.add_argument("--confidence", type=float, default=0.95, help=promise)
    options.add_argument("--loss-pt0", type=float, metavar="NATS", help=base)
    wanted = vars(options.parse_args(argv))
    as_json, confidence = wanted.pop("json"), wanted["confidence"]
    for name in ("params", "tokens", "max_rise", "loss_pt0"):
        if wanted[name] is not None and not 0 < wanted[name] < math.inf:
            problem = Problem(f"--{name.replace('_', '-')}", str(wanted[name]), "a number above 0")
            raise ConfigProblems([problem])
    if not 0.5 <= confidence < 1:
        hint = "0.95" if not 50 < confidence < 100 else f"{confidence / 100:g}"
        expected = "a share of the refits, from 0.5 to below 1"
        raise ConfigProblems([Problem("--confidence", str(confidence), expected, hint)])
    share = imported("trimtab.adapt.forgetting.laws:plan_share")(**wanted)
    say(json.dumps(share.to_plain(), indent=1) if as_json else share.to_text())
    for warning in share.warnings:
        note(f"Warning: {warning}.")
    return CRITERION_FAILED if math.isnan(share.inject) else DONE


def count(text: str) -> float:
    """A count as people write it: 30000, 3e7, 30M, 1.4B.

    >>> count("1.4B"), count("3e7"), count("500k")
    (1400000000.0, 30000000.0, 500000.0)
    """
    unit = _UNITS.get(text[-1:].lower())
    try:
        return float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        message = explain(repr(text), "a count such as 3e7, 30M or 1.4B")
        raise argparse.ArgumentTypeError(message) from None


def doctor(argv: Sequence[str]) -> int:
    """Show versions, devices, threads, caches and extras; changes nothing."""
    as_json = parser("doctor", as_json=True).parse_args(argv).json

    import torch  # so that devices and threads are known

    from trimtab.runs.environment import describe

    installation, places = describe(), {}
    for name, home in (("cache", cache_home()), ("runs", runs_home())):
        size = sum(path.lstat().st_size for path in home.rglob("*") if path.is_file())
        places[name] = {"path": str(home), "bytes": size}
    facts = {
        **{key: installation[key] for key in ("python", "platform", "versions")},
        "devices": {**installation["hardware"], "mps": torch.backends.mps.is_available()},
        "threads": installation["threads"],
        "places": places,
        "extras": extras(),
    }
    say(json.dumps(facts, indent=2) if as_json else "\n".join(_lines(facts)))
    return 0


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
        get = f"lacks {', '.join(missing)}; {install_hint(name)}" if missing else "installed"
        yield f"extra      {name}: {get}"


def extras() -> dict[str, list[str]]:
    """Each extra of the package with those of its requirements that are not installed."""
    names = metadata.metadata("trimtab").get_all("Provides-Extra") or ()
    lacking: dict[str, list[str]] = {name: [] for name in names}
    for line in metadata.requires("trimtab") or ():
        extra = re.search(r"""extra\s*==\s*['"]([^'"]+)""", line)
        name = re.match(r"[\w.-]+", line)
        if extra and name and not any(metadata.Distribution.discover(name=name[0])):
            lacking[extra[1]].append(name[0])
    return lacking


def _readable(count: float | None) -> str:
    if count is None:
        return "memory unknown"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
