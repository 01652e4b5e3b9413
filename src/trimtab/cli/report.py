"""`trimtab report`: one page of finished runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from trimtab.cli.console import parser, say
from trimtab.cli.jobs import check_folder, find_run
from trimtab.errors import CheckpointError, ConfigProblems, Problem, explain
from trimtab.runs.places import as_path
from trimtab.systems import imported, system_of_run

RESULT = "artifacts/result.json"
MOST_FOLDERS = 20_000
"""Folders that are looked through for runs."""


def main(argv: Sequence[str]) -> int:
    """Write the page of one run, or of several side by side; groups and sweeps bring all their runs."""
    options = parser("report")
    options.add_argument("runs", metavar="RUN", nargs="+", help="folder or name of a run, a group or a sweep")
    options.add_argument(
        "-o", "--out", type=Path, metavar="PAGE.html", help="default: report.html in the run"
    )
    arguments = options.parse_args(argv)
    folders = [find_run(text) for text in arguments.runs]
    if arguments.out is None and len(folders) > 1:
        raise ConfigProblems([Problem("-o", "nothing", "a file for a page of several runs", "-o page.html")])
    out = arguments.out or folders[0] / "report.html"
    if as_path(out, "-o", "a file to write").is_dir():
        raise ConfigProblems(
            [Problem("-o", f"{str(out)!r}, a folder", "a file to write", f"{out}/page.html")]
        )
    check_folder(out.parent, "-o")

    from trimtab.runs.atomic import write_atomic

    write_atomic(out, _page([each for folder in folders for each in _finished(folder)], _title(folders)))
    say(str(out))
    return 0


def _page(runs: Sequence[Path], title: str) -> str:
    from trimtab.runs.listing import read_config_of

    systems = {system_of_run(read_config_of(run)) for run in runs}
    if len(systems) > 1:
        names = ", ".join(sorted(system.name for system in systems))
        raise CheckpointError(explain(f"runs of {names}", "runs of one system"))
    system = systems.pop()
    load = imported(system.load_result)
    page: str = imported(system.page)([load(run) for run in runs], title)
    return page


def _finished(folder: Path) -> list[Path]:
    found = sorted(_with_results(folder))
    if not found:
        raise CheckpointError(explain(f"no finished run in {folder}", "one", f"trimtab resume {folder}"))
    return found


def _with_results(folder: Path) -> Iterator[Path]:
    """The folders below that hold a result; neither links nor what a run keeps are entered."""
    for number, (path, folders, _) in enumerate(os.walk(folder)):
        if number > MOST_FOLDERS:
            got = f"more than {MOST_FOLDERS:,} folders in {folder}"
            raise CheckpointError(explain(got, "the folder of a run, a group or a sweep"))
        if "artifacts" in folders and (Path(path) / RESULT).is_file():
            yield Path(path)
        folders[:] = [name for name in folders if name != "artifacts" and not name.startswith(".")]


def _title(folders: Sequence[Path]) -> str:
    return ", ".join(folder.resolve().name for folder in folders)
