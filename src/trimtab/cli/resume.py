"""`trimtab resume`: go on with a run."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.cli.console import parser
from trimtab.cli.jobs import find_run, read_job, run_job
from trimtab.errors import CheckpointError, explain


def main(argv: Sequence[str]) -> int:
    """Go on with a run from its own config; a finished one says what came of it."""
    options = parser("resume")
    options.add_argument("run", metavar="RUN", help="a run's folder, or its name in `trimtab runs`")
    options.add_argument("--jobs", type=int, metavar="N", help="runs at a time, one thread each")
    options.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = options.parse_args(argv)

    from trimtab.runs.listing import read_config_of

    folder = find_run(arguments.run)
    content = read_config_of(folder)
    if "system" not in content:
        got = f"{folder}, which was started from Python"
        raise CheckpointError(
            explain(got, "a run of `trimtab run`", "the same Python call with the same `out`")
        )
    job = read_job(content, {} if arguments.jobs is None else {"jobs": arguments.jobs})
    return run_job(job, folder, name=folder.name, as_json=arguments.json)
