"""`trimtab sweep`: one config over a grid of overrides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.cli.console import Bars, note, parser, say, split_overrides, with_overrides
from trimtab.cli.jobs import check_folder, describe, new_folder, read_content, read_job
from trimtab.errors import ConfigProblems, Problem
from trimtab.runs.files import MOST
from trimtab.systems import find_config, resolve

if TYPE_CHECKING:
    from trimtab.runs.sweep import SweepResult


def main(argv: Sequence[str]) -> int:
    """Run every cell of a grid; the same command with the same --out goes on; 1 when a cell failed."""
    options = parser("sweep")
    options.add_argument("file", metavar="FILE", help="a YAML file, or a recipe")
    options.add_argument(
        "--over", action="append", required=True, metavar="KEY=V,V,...", help="an axis; may be given again"
    )
    options.add_argument("--out", type=Path, metavar="DIR", help="the sweep's folder; a new one if not given")
    options.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time, one thread each")
    options.add_argument("--cluster", choices=["ray"], help="run the cells on a cluster (trimtab[cluster])")
    options.add_argument("--json", action="store_true", help="print the results as JSON")
    mine, overrides = split_overrides(with_overrides(options), argv)
    arguments = options.parse_args(mine)
    if not 1 <= arguments.jobs <= MOST["jobs"]:
        raise ConfigProblems([Problem("--jobs", str(arguments.jobs), f"1 to {MOST['jobs']}")])

    from trimtab.runs.config import parse_overrides
    from trimtab.runs.sweep import Backend, check_backend, expand, sweep

    backend: Backend = arguments.cluster or "loky"
    check_backend(backend)
    name, path = find_config(arguments.file)
    grid = expand(arguments.over)
    cells = _cells(read_content(path), parse_overrides(overrides), grid, here=arguments.cluster is None)
    if arguments.out is not None:
        check_folder(arguments.out)
    folder = arguments.out or new_folder(f"{name}-sweep")
    note(f"sweep {folder}: {len(cells)} cells")
    try:
        with Bars() as bars:
            bar = bars.bar(f"sweep {folder}")
            result = sweep(run_cell, cells, folder, jobs=arguments.jobs, backend=backend, progress=bar)
    except KeyboardInterrupt:
        note(f"interrupted; go on with the same command and --out {folder}")
        raise
    _tell(result, as_json=arguments.json)
    return 1 if result.failures else 0


def run_cell(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One cell, in whichever process it lands."""
    from trimtab.job import carry_out

    return describe(carry_out(read_job(content, {}), folder), folder)


def _cells(
    content: Mapping[str, Any],
    overrides: Mapping[str, Any],
    grid: Mapping[str, Mapping[str, Any]],
    *,
    here: bool,
) -> dict[str, Any]:
    """The whole config of every cell, checked before any of them starts; the sweep alone makes processes."""
    from trimtab.runs.serialise import plain

    cells: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, cell in grid.items():
        try:
            job = read_job(content, {**overrides, **cell, "jobs": 1}, here=here)
        except ConfigProblems as error:
            problems += error.problems
        else:
            cells[name] = job
    if problems:
        raise ConfigProblems(list(dict.fromkeys(problems)))
    with Bars() as bars:
        return {name: plain(resolve(job, bars.bar), finite=False) for name, job in cells.items()}


def _tell(result: SweepResult, *, as_json: bool) -> None:
    if as_json:
        told = {name: each["json"] for name, each in result.results.items()}
        say(json.dumps({"results": told, "failures": result.failures}, indent=2))
    else:
        say("\n\n".join(f"{name}\n{each['table']}" for name, each in result.results.items()))
    for name, error in result.failures.items():
        note(f"{name} failed: {error} (see {result.folders[name] / 'error.txt'})")
