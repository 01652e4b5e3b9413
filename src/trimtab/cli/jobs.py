"""From a config to a run: what the verbs that run things share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.cli.console import Bars, note, say
from trimtab.errors import CheckpointError, ConfigProblems, Problem, explain, nearest
from trimtab.runs.files import bound_problems
from trimtab.runs.paths import as_path, is_first, path_problem, processes, runs_home, safe_name
from trimtab.systems import LAB, imported, lab_problems, resolve, system_of

if TYPE_CHECKING:
    from trimtab.job import Job, Result

OUTCOME = "artifacts/outcome.json"
VALUES = 20_000
"""Values that a config may hold, aliases written out: far above any use, and read in a second."""


def read_content(path: Path) -> dict[str, Any]:
    """What the file of a config holds, unchecked; see `read_mapping`.

    Raises:
        ConfigProblems: it cannot be read, or holds more values than any config.
    """
    from trimtab.runs.config import read_mapping

    return read_mapping(path, most=VALUES)


def read_job(content: Mapping[str, Any], overrides: Mapping[str, Any], *, here: bool = True) -> Job:
    """The job that a config describes, checked.

    Args:
        content: of the config.
        overrides: dotted keys and their values.
        here: whether it is to run on this machine, which then must have its device.

    Raises:
        ConfigProblems: everything that is wrong with it.
    """
    from trimtab.runs.config import read_config

    _hide_other_bars({**content, **overrides}.get("model"))

    def problems(job: Any) -> list[Problem]:
        found = [*bound_problems(job), *job.problems(), *lab_problems(job)]
        if here and getattr(job, "device", None) is not None:
            found += imported("trimtab.models.load:device_problems")(job.device)
        return list(dict.fromkeys(found))

    job: Job = read_config(
        content, system_of({**content, **overrides}).job_class(), overrides, extra_problems=problems
    )
    return job


def _hide_other_bars(model: object) -> None:
    """Silence the bars of the libraries below, except on a terminal where a download may take long."""
    is_here = isinstance(model, str) and (model.startswith(LAB) or _is_there(model))
    if is_here or sys.stderr is None or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _is_there(path: str) -> bool:
    return path_problem("path", path) is None and Path(path).expanduser().exists()


def check_folder(folder: Path, where: str = "--out") -> None:
    """Refuse a folder that cannot be made or written in; makes nothing.

    Raises:
        ConfigProblems: it, or what it would be made in, is no folder or may not be written in.
    """
    expected = "a folder that can be written in, or a new one"
    nearest_there = as_path(folder, where, expected).absolute()
    while not os.path.lexists(nearest_there):
        nearest_there = nearest_there.parent
    if not nearest_there.is_dir():
        got = f"{str(folder)!r}, where {nearest_there} is no folder"
    elif not os.access(nearest_there, os.W_OK | os.X_OK):
        got = f"{str(folder)!r}, where {nearest_there} may not be written in"
    else:
        return
    raise ConfigProblems([Problem(where, got, expected)])


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
    from trimtab.job import MAY_CHANGE, carry_out
    from trimtab.runs.folder import check_config
    from trimtab.runs.serialise import plain

    if folder is None and processes() > 1:  # each of them would make a folder of its own
        raise ConfigProblems([Problem("--out", "nothing", "a folder that all processes share", "--out DIR")])
    with Bars() as bars:
        job = resolve(job, bars.bar)
        if folder is not None:
            as_path(folder, "--out", "a folder")
        folder = folder or new_folder(name)
        check_config(folder, plain(job, finite=False), may_change=MAY_CHANGE)
        told = finished(folder)
        if told is None:
            check_folder(folder)
            note(f"run {folder}")
            try:
                told = describe(carry_out(job, folder, bars.bar(f"run {folder}")), folder)
            except KeyboardInterrupt:
                begun = (folder / "config.yaml").exists()
                note(
                    f"interrupted; go on with: trimtab resume {folder}"
                    if begun
                    else "interrupted before it began"
                )
                raise
        else:
            note(
                f"run {folder} is finished; this is what it found then, with the model and data of that time"
            )
    say(json.dumps(told["json"], indent=2) if as_json else told["table"])
    note(f"report {told['report']}")
    return 0 if told["passed"] else 1


def finished(folder: Path) -> dict[str, Any] | None:
    """What a finished run had to say; None when it is not finished.

    Raises:
        CheckpointError: what it had to say is damaged.
    """
    from trimtab.runs.listing import read_run
    from trimtab.runs.serialise import read_object

    if not (folder / OUTCOME).is_file() or read_run(folder).status != "done":
        return None
    told = read_object(folder / OUTCOME)
    for key, kind in (("table", str), ("report", str), ("passed", bool), ("json", object)):
        if not isinstance(told.get(key), kind) or key not in told:
            got = f"no {key} in {folder / OUTCOME}"
            raise CheckpointError(explain(got, "what a run had to say", "deleting that file, and resuming"))
    return told


def describe(result: Result, folder: Path) -> dict[str, Any]:
    """What a run has to say, as plain values, also written into its folder."""
    from trimtab.runs.atomic import write_atomic

    told = {
        "table": result.to_text(),
        "json": json.loads(result.to_json()),
        "report": str(folder / "report.html"),
        "passed": result.passed,
    }
    if is_first():
        write_atomic(folder / OUTCOME, json.dumps(told))
    return told


def new_folder(name: str) -> Path:
    """A folder of its own for a new run: `NAME-1`, `NAME-2`, ... in the home of runs."""
    home = runs_home()
    check_folder(home, "$TRIMTAB_RUNS")
    home.mkdir(parents=True, exist_ok=True)
    base, number = safe_name(name.replace("/", "-")), 1
    while True:
        try:
            (home / f"{base}-{number}").mkdir()
        except FileExistsError:
            number += 1
        else:
            return home / f"{base}-{number}"


def find_run(text: str) -> Path:
    """The folder of a run: a path, or a name in the home of runs.

    Raises:
        CheckpointError: there is none; the nearest name is told.
        ConfigProblems: it is what no path can be.
    """
    from trimtab.runs.listing import list_runs

    expected = "the folder or name of a run"
    if not text.strip():
        raise ConfigProblems([Problem("run", repr(text), expected, "trimtab runs")])
    for path in (as_path(text, "run", expected), runs_home() / text):
        if path.is_dir():
            return path
    names = [run.name for run in list_runs(runs_home())]
    raise CheckpointError(explain(f"no folder {text!r}", f"a run in {runs_home()}", nearest(text, names)))
