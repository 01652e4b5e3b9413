"""`trimtab report`: one page of finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trimtab.cli.console import parser, say
from trimtab.cli.jobs import check_folder, find_run
from trimtab.errors import CheckpointError, ConfigProblems, Problem, TrimtabError, explain
from trimtab.runs.paths import RESULT, as_path
from trimtab.systems import system_of_run


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
    from trimtab.runs.serialise import DAMAGE, is_sealed

    systems = {system_of_run(read_config_of(run)) for run in runs}
    if len(systems) > 1:
        names = ", ".join(sorted(system.name for system in systems))
        raise CheckpointError(explain(f"runs of {names}", "runs of one system"))
    system = systems.pop()
    result_class = system.job_class().result
    sealed = {run: is_sealed(run) for run in runs}
    results = [result_class.load(run) for run in runs]
    try:
        page: str = result_class.page(results, title)
        page.encode()
    except DAMAGE as error:
        files = [str(run / RESULT) for run in runs if not sealed[run]]
        if isinstance(error, TrimtabError) or not files:  # every result is as it was written
            raise
        got = f"values that no page can be made of ({type(error).__name__}: {str(error)[:200]})"
        raise CheckpointError(f"{', '.join(files)}: {explain(got, 'a result as a run writes it')}") from error
    return page


def _finished(folder: Path) -> list[Path]:
    from trimtab.runs.listing import find_below

    found = [path.parent.parent for path in find_below(folder, RESULT)]
    if not found:
        raise CheckpointError(explain(f"no finished run in {folder}", "one", f"trimtab resume {folder}"))
    return found


def _title(folders: Sequence[Path]) -> str:
    return ", ".join(folder.resolve().name for folder in folders).encode(errors="replace").decode()
