"""Jobs at the command line: `trimtab check`, `run`, `resume` and `sweep`, from a config to results and exit codes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.cli.console import Verb, for_command, note, parser, path_named, say, split_overrides
from trimtab.errors import CheckpointError, ConfigProblems, Problem, TrimtabError, explain, nearest
from trimtab.runs.files import MOST, bound_problems
from trimtab.runs.live import Bars
from trimtab.runs.paths import (
    MODEL,
    RESULT,
    as_path,
    is_first,
    neighbour,
    path_problem,
    processes,
    runs_home,
    safe_name,
)
from trimtab.systems import LAB, already_built, find_config, imported, lab_problems, resolve, system_of

if TYPE_CHECKING:
    from trimtab.job import Job, Result

OUTCOME, COMPARISON = "artifacts/outcome.json", "artifacts/comparison.json"
VALUES = 20_000
"""Values that a config may hold, aliases written out: far above any use, and read in a second."""


KEPT, BASE = ("artifacts/weights-*", "members/*/artifacts/weights-*"), "weights-00000000"
"""Kept weights of a run or of a group's runs, and those of them that are the base model's."""
FAILED = (
    "Exit code 1: a stated criterion failed. Of fine-tuning: no checkpoint kept every constraint on validation and "
    "gained, so there is no model; with `compare`, that is asked of the main mixer."
)


def check(argv: Sequence[str]) -> int:
    """Tell every problem of a config and its data at once, or what the data holds and what the run will take.

    Loads no model and downloads nothing. Data is tokenised where the tokenizer is on this machine; that alone is
    written, into the cache, where the run finds it.
    """
    options, fast = parser("check", as_json=True), "look at the config alone, not at its data"
    options.add_argument("--fast", action="store_true", help=fast)
    arguments = _parsed(options, argv)

    from trimtab.job import Survey, cost_text, survey_of
    from trimtab.runs.serialise import to_json

    survey: Survey | None = None
    cost: dict[str, Any] = {}
    try:
        _, content, overrides = _read(arguments)
        job = already_built(read_job(content, overrides))
        survey = None if arguments.fast else survey_of(job)
        problems: Sequence[Problem] = survey.problems if survey else ()
        cost = {} if problems else {**job.cost(), **(survey.cost if survey else {})}
    except ConfigProblems as error:
        problems = error.problems
    problems = [replace(problem, hint=for_command(problem.hint)) for problem in problems]
    parts = [
        problems_text(problems) if problems else cost_text(cost),
        *([survey.to_text()] if survey else []),
    ]
    told: dict[str, Any] = {"problems": [vars(problem) for problem in problems]}
    told |= {} if problems else {"estimate": cost}
    told |= {"data": survey.to_plain()} if survey else {}
    say(to_json(told) if arguments.json else "\n\n".join(filter(None, parts)))
    return 2 if problems else 0


def problems_text(problems: Sequence[Problem]) -> str:
    """Problems in blocks of lines, under how many there are."""
    lines = [f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"]
    for problem in problems:
        lines += [problem.where, f"    got       {problem.got}", f"    expected  {problem.expected}"]
        lines += [f"    try       {problem.hint}"] if problem.hint else []
    return "\n".join(lines)


def run(argv: Sequence[str], verb: str = "run", line: Verb | None = None) -> int:
    """Run a config in a folder of its own; the same command with the same --out goes on where it was.

    Args:
        argv: the arguments.
        verb: what the command is called in its help.
        line: its line and example there, if it is not in the table of verbs.
    """
    options = parser(verb, line, as_json=True)
    options.epilog = f"{options.epilog}. {FAILED}"
    options.add_argument(
        "--out", type=path_named, metavar="DIR", help="the run's folder; a new one if not given"
    )
    options.add_argument("--jobs", type=int, metavar="N", help="runs at a time, one thread each")
    arguments = _parsed(options, argv)
    name, content, overrides = _read(arguments)
    job = read_job(content, overrides, jobs=arguments.jobs)
    return run_job(job, arguments.out, name=name, as_json=arguments.json)


def resume(argv: Sequence[str]) -> int:
    """Resume a run from its own config; a finished one prints its summary."""
    options = parser("resume", as_json=True)
    options.add_argument("run", metavar="RUN", help="a run's folder, or its name in `trimtab runs`")
    options.add_argument("--jobs", type=int, metavar="N", help="runs at a time, one thread each")
    arguments = options.parse_args(argv)

    from trimtab.runs.folder import read_config_of

    folder = find_run(arguments.run)
    content = read_config_of(folder)
    if "system" not in content:
        expected, hint = "a run of `trimtab run`", "the same Python call with the same `out`"
        raise CheckpointError(explain(f"{folder}, which was started from Python", expected, hint))
    job = read_job(content, {}, jobs=arguments.jobs)
    return run_job(job, folder, name=folder.name, as_json=arguments.json)


def sweep(argv: Sequence[str]) -> int:
    """Run every cell of a grid; the same command with the same --out goes on; 1 when a cell failed."""
    options, axis = parser("sweep", as_json=True), "an axis; may be given again"
    options.add_argument("--over", action="append", required=True, metavar="KEY=V,V,...", help=axis)
    options.add_argument(
        "--out", type=path_named, metavar="DIR", help="the sweep's folder; a new one if not given"
    )
    options.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time, one thread each")
    options.add_argument("--cluster", choices=["ray"], help="run the cells on a cluster (extra: cluster)")
    arguments = _parsed(options, argv)
    if not 1 <= arguments.jobs <= MOST["jobs"]:
        raise ConfigProblems([Problem("--jobs", str(arguments.jobs), f"1 to {MOST['jobs']}")])

    from trimtab.job import MAY_CHANGE
    from trimtab.runs import sweep as sweeps

    backend: sweeps.Backend = arguments.cluster or "loky"
    sweeps.check_backend(backend)
    name, cells = _cells(arguments)
    folder = new_folder(f"{name}-sweep") if arguments.out is None else check_folder(arguments.out)
    note(f"sweep {folder}: {len(cells)} cells")
    try:
        with Bars() as bars:
            bar = bars.bar(f"sweep {folder}")
            how: dict[str, Any] = {"jobs": arguments.jobs, "backend": backend, "may_change": MAY_CHANGE}
            done = sweeps.sweep(run_cell, cells, folder, **how, progress=bar)
    except KeyboardInterrupt:
        note(f"interrupted; go on with the same command and --out {folder}")
        raise
    results = {name: each["json"] for name, each in done.results.items()}
    tables = "\n\n".join(f"{name}\n{each['table']}" for name, each in done.results.items())
    say(json.dumps({"results": results, "failures": done.failures}, indent=2) if arguments.json else tables)
    for name, error in done.failures.items():
        note(f"{name} failed: {error} (see {done.folders[name] / 'error.txt'})")
    return 1 if done.failures else 0


def _cells(arguments: Namespace) -> tuple[str, dict[str, Any]]:
    """The name of a sweep and the whole config of every cell, checked before any starts; it alone makes processes."""
    from trimtab.runs.serialise import plain
    from trimtab.runs.sweep import expand

    name, content, overrides = _read(arguments)
    cells: dict[str, Any] = {}
    problems: list[Problem] = []
    for cell, values in expand(arguments.over).items():
        try:
            here = arguments.cluster is None
            cells[cell] = read_job(content, {**overrides, **values}, here=here, jobs=1)
        except ConfigProblems as error:
            problems += error.problems
    if problems:
        raise ConfigProblems(list(dict.fromkeys(problems)))
    with Bars() as bars:
        return name, {cell: plain(resolve(job, bars.bar), finite=False) for cell, job in cells.items()}


def run_cell(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Run one cell, in whichever process it lands."""
    from trimtab.job import carry_out

    return describe(carry_out(read_job(content, {}), folder), folder)


def _parsed(options: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """The arguments of a verb of configs: what `options` knows, FILE and, as `overrides`, all words that set keys."""
    options.add_argument(
        "file", metavar="FILE", help="a YAML file, or a recipe; keys: trimtab schema SYSTEM --keys"
    )
    options.usage = options.format_usage().removeprefix("usage: ").rstrip() + " [--KEY.KEY VALUE ...]"
    words, overrides = split_overrides(options, argv)
    return options.parse_args(words, Namespace(overrides=overrides))


def _read(arguments: Namespace) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The name of a config, what its file holds, and the overrides; nothing of it is checked.

    Raises:
        ConfigProblems: it cannot be read, or holds more values than any config.
    """
    from trimtab.runs.config import parse_overrides, read_mapping

    overrides = parse_overrides(arguments.overrides)
    name, path = find_config(arguments.file)
    return name, read_mapping(path, most=VALUES), overrides


def read_job(
    content: Mapping[str, Any],
    overrides: Mapping[str, Any],
    *,
    here: bool = True,
    jobs: int | None = None,
    job_class: Any = None,
) -> Job:
    """The job that a config describes, checked.

    Args:
        content: of the config.
        overrides: dotted keys and their values.
        here: whether it is to run on this machine, which then must have its device.
        jobs: runs at a time; only of a system whose job is several runs.
        job_class: of the job; by default that of its system.

    Raises:
        ConfigProblems: everything that is wrong with it.
    """
    from trimtab.runs.config import read_config

    model = {**content, **overrides}.get("model")
    is_here = isinstance(model, str) and (
        model.startswith(LAB) or (path_problem("path", model) is None and Path(model).expanduser().exists())
    )
    if is_here or sys.stderr is None or not sys.stderr.isatty():  # else a download, which may take long
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    def problems(job: Any) -> list[Problem]:
        wrong = [*bound_problems(job), *job.problems(), *lab_problems(job)]
        if here and getattr(job, "device", None) is not None:
            wrong += imported("trimtab.models.devices:device_problems")(job.device)
        return list(dict.fromkeys(wrong))

    system = system_of({**content, **overrides})
    job_class = job_class or system.job_class()
    if "jobs" in job_class.__dataclass_fields__:
        overrides = {**overrides, "jobs": jobs} if jobs is not None else overrides
    elif jobs not in (None, 1):
        expected = f"nothing: a job of {system.name} is one run"
        raise ConfigProblems([Problem("--jobs", str(jobs), expected, "trimtab sweep, for several")])
    job: Job = read_config(content, job_class, overrides, extra_problems=problems)
    return job


def check_folder(folder: Path, where: str = "--out") -> Path:
    """The folder, with `~` put in full; refused if it cannot be made or written in. Makes nothing.

    Raises:
        ConfigProblems: it, or what it would be made in, is no folder or may not be written in.
    """
    expected = "a folder that can be written in, or a new one"
    whole = as_path(folder, where, expected)
    nearest_there = whole.absolute()
    while not os.path.lexists(nearest_there):
        nearest_there = nearest_there.parent
    if nearest_there.is_dir() and os.access(nearest_there, os.W_OK | os.X_OK):
        return whole
    why = "may not be written in" if nearest_there.is_dir() else "is no folder"
    raise ConfigProblems([Problem(where, f"{str(folder)!r}, where {nearest_there} {why}", expected)])


def run_job(job: Job, folder: Path | None, *, name: str, as_json: bool) -> int:
    """Run a job in a folder, or go on with it, or say what came of it; the exit code.

    Args:
        job: checked.
        folder: of the run; None for a new one.
        name: what a new folder is called after.
        as_json: print the result as JSON instead of a table.

    Raises:
        CheckpointError: the folder holds a run with another config.
        KeyboardInterrupt: interrupted; how to go on was said.
    """
    folder, outcome = outcome_of(job, folder, name=name)
    say(json.dumps(outcome["json"], indent=2) if as_json else outcome["table"])
    note(f"report {outcome['report']}")
    if (folder / MODEL).is_dir():
        note(f"model {folder / MODEL}")
    elif any(path.name != BASE for each in KEPT for path in folder.glob(each)):
        note(f"model: trimtab export {folder} --out DIR makes it of the kept weights")
    return 0 if outcome["passed"] else 1


def outcome_of(job: Job, folder: Path | None, *, name: str) -> tuple[Path, dict[str, Any]]:
    """Folder and summary (see `describe`) of a job that is run, or gone on with, or that is finished.

    Args:
        job: checked.
        folder: of the run; None for a new one.
        name: what a new folder is called after.

    Raises:
        CheckpointError: the folder holds a run with another config.
        KeyboardInterrupt: interrupted; how to go on was said.
    """
    from trimtab.job import MAY_CHANGE, carry_out
    from trimtab.runs.folder import check_config, failed_at_once
    from trimtab.runs.serialise import plain

    if folder is None and processes() > 1:  # each of them would make a folder of its own
        raise ConfigProblems([Problem("--out", "nothing", "a folder that all processes share", "--out DIR")])
    with Bars() as bars:
        job = resolve(job, bars.bar)
        kept = folder is not None and as_path(folder, "--out", "a folder").exists()
        folder = new_folder(name) if folder is None else as_path(folder, "--out", "a folder")
        check_config(folder, plain(job, finite=False), may_change=MAY_CHANGE)
        outcome = finished(folder)
        if outcome is not None:
            what = "this is what it found then, with the model and data of that time"
            note(f"run {folder} is finished; {what}")
        else:
            check_folder(folder)
            note(f"run {folder}")
            try:
                outcome = describe(carry_out(job, folder, bars.bar(f"run {folder}")), folder)
            except (TrimtabError, OSError):
                if is_first() and not kept and failed_at_once(folder):
                    shutil.rmtree(folder)  # there is nothing to go on with
                raise
            except KeyboardInterrupt as stop:
                where = str(stop).partition(";")[0]  # "stopped at step 4 of 40", where the run said so
                begun = (folder / "config.yaml").exists()
                how = f"{where or 'interrupted'}; go on with: trimtab resume {folder}"
                note(how if begun else "interrupted before it began")
                raise
    return folder, outcome


def finished(folder: Path) -> dict[str, Any] | None:
    """The summary of a finished run; None when it is not finished.

    Raises:
        CheckpointError: what it had to say is damaged.
    """
    from trimtab.runs.folder import read_run
    from trimtab.runs.serialise import is_sealed, read_object

    results = [path for path in (folder / RESULT, folder / COMPARISON) if path.is_file()]
    if not (folder / OUTCOME).is_file() or not results or read_run(folder).status != "done":
        return None
    is_sealed(folder)
    outcome = read_object(folder / OUTCOME)
    for key, kind in (("table", str), ("report", str), ("passed", bool), ("json", object)):
        if not isinstance(outcome.get(key), kind) or key not in outcome:
            got = f"no {key} in {folder / OUTCOME}"
            raise CheckpointError(explain(got, "what a run had to say", "deleting that file, and resuming"))
    return outcome | {"report": str(folder / "report.html")}


def describe(result: Result, folder: Path) -> dict[str, Any]:
    """The summary of a run as plain values, also written into its folder."""
    from trimtab.runs.atomic import write_atomic

    outcome = {"table": result.to_text(), "json": json.loads(result.to_json())}
    outcome |= {"report": str(folder / "report.html"), "passed": result.passed}
    if is_first():
        write_atomic(folder / OUTCOME, json.dumps(outcome))
    return outcome


def new_folder(name: str) -> Path:
    """The folder of a new run: `NAME-1`, `NAME-2`, ... in the home of runs."""
    home = runs_home()
    check_folder(home, "$TRIMTAB_RUNS")
    home.mkdir(parents=True, exist_ok=True)
    base, number = safe_name(name.replace("/", "-")), 1
    while True:
        folder = home / f"{base}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def find_run(text: str, what: str = "a run") -> Path:
    """The folder of a run: a path, or a name in the home of runs.

    Args:
        text: what was given.
        what: what it should be the folder or name of.

    Raises:
        CheckpointError: there is none; the message says what was looked for, and has the nearest run or path.
        ConfigProblems: it is what no path can be.
    """
    from trimtab.runs.folder import list_runs

    home, expected = runs_home(), f"the folder or name of {what}"
    if not text.strip():
        raise ConfigProblems([Problem("run", repr(text), expected, "trimtab runs")])
    path = as_path(text, "run", expected)
    for place in (path, home / text):
        if place.is_dir():
            return place
    listed = "trimtab runs, which lists them"
    if path.exists():
        run = next((place for place in path.parents if (place / "run.json").is_file()), None)
        raise CheckpointError(explain(f"{text!r}, a file", expected, listed if run is None else f"{run}"))
    local = path.is_absolute() or text.startswith((".", "~"))
    got = f"no folder {text!r}" + ("" if local else f" here, and no run of that name in {home}")
    hint = nearest(text, [run.name for run in list_runs(home)])
    if not hint and (near := neighbour(path)) and Path(near).is_dir():
        hint = near
    raise CheckpointError(explain(got, expected, hint or listed))
