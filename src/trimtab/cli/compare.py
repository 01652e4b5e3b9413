"""`trimtab compare`: what a change of a model broke, domain by domain, with an exit code for pipelines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from trimtab.cli.console import CRITERION_FAILED, DONE, note, parser, path_named, say, split_overrides
from trimtab.cli.jobs import outcome_of, read_job
from trimtab.errors import ConfigProblems, Problem
from trimtab.runs.paths import MODEL, RESULT, missing_file, path_problem, runs_home
from trimtab.systems import LAB, imported

STEERING = "artifacts/steering"
"""Where a run of steering keeps what it fitted."""


def compare(argv: Sequence[str]) -> int:
    """Compare two models on the domains of a file; 1 where a tolerance is broken."""
    options = parser("compare", as_json=True)
    options.epilog = f"{options.epilog}. Exit code 1: a tolerance is broken; an open one ends with 0."
    options.add_argument(
        "base", metavar="BASE", help="a hub name, a model's folder, or a run that left a model"
    )
    options.add_argument(
        "tuned", metavar="TUNED", help="the same, or the folder of an adapter or a steering of BASE"
    )
    options.add_argument(
        "--domains", metavar="FILE", required=True, help="YAML: name: {path: ..., tolerance: ...}"
    )
    options.add_argument(
        "--out", type=path_named, metavar="DIR", help="the run's folder; a new one if not given"
    )
    options.usage = options.format_usage().removeprefix("usage: ").rstrip() + " [--KEY VALUE ...]"
    words, more = split_overrides(options, argv)
    arguments = options.parse_args(words)
    base, tuned = (model_place(where, getattr(arguments, where)) for where in ("base", "tuned"))
    if problems := missing_file("--domains", arguments.domains, "a YAML file of domains"):
        raise ConfigProblems(problems)
    domains = imported("trimtab.runs.config:read_mapping")(Path(arguments.domains).expanduser())
    content = {"system": "compare", "base": base, "tuned": tuned, "domains": domains}
    if (
        all(map(is_here, (base, tuned))) or sys.stderr is None or not sys.stderr.isatty()
    ):  # else a download, which may take long
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    job_class = None
    if is_steering(tuned):
        steering = imported("trimtab.steer.steering:Steering").from_pretrained(tuned)
        job_class = imported("trimtab.adapt.compare.job:CompareConfig").changed_by(steering)
    job = read_job(content, imported("trimtab.runs.config:parse_overrides")(more), job_class=job_class)
    paths = [one.get("path") if isinstance(one, Mapping) else one for one in domains.values()]
    refuse_stale(arguments.out, [base, tuned, *paths])
    name = f"compare-{Path(arguments.tuned.removeprefix(LAB)).name}"
    _, outcome = outcome_of(job, arguments.out, name=name)
    say(json.dumps(outcome["json"], indent=2) if arguments.json else outcome["table"])
    note(f"report {outcome['report']}")
    return DONE if outcome["passed"] else CRITERION_FAILED


def refuse_stale(out: Path | None, sources: Sequence[object]) -> None:
    """Refuse the folder of a finished comparison that is older than a model or a file it was of.

    A pipeline would be told the verdict on the former model. Files that were copied count from when they came.

    Raises:
        ConfigProblems: naming what changed.
    """
    folder = None if out is None or path_problem("--out", str(out)) is not None else out.expanduser()
    if folder is None or not (folder / RESULT).is_file():
        return
    at, inside = (folder / RESULT).stat().st_mtime, folder.resolve()
    for source in sources:
        if not isinstance(source, str) or path_problem("path", source) is not None:
            continue
        place = Path(source).expanduser()
        for file in [place, *place.rglob("*")] if place.is_dir() else [place]:
            if not file.is_file() or inside in file.resolve().parents:
                continue
            if max(file.stat().st_mtime, file.stat().st_ctime) > at:
                problem = Problem(
                    "--out", f"a comparison that is older than {file}", "a folder of its own", "a new one"
                )
                raise ConfigProblems([problem])


def model_place(where: str, text: str) -> str:
    """A model's name or folder as it is; of a run, by its folder or its name in `trimtab runs`, what it left.

    Raises:
        ConfigProblems: a run that left neither a model nor a steering.
    """
    if path_problem(where, text) is not None or not text.strip():
        return text  # whoever loads it says what is wrong
    for run in (Path(text).expanduser(), runs_home() / text):
        if (run / "run.json").is_file():
            for left in (MODEL, STEERING):
                if (run / left).is_dir():
                    return str(run / left)
            hint = f"trimtab export {text} --out DIR, and DIR here"
            problem = Problem(
                where, f"the run {text!r}, which has no folder {MODEL}", "a run that left a model", hint
            )
            raise ConfigProblems([problem])
    return text


def is_here(text: str) -> bool:
    """Whether a model is of the lab or a folder of this machine, so that loading it downloads nothing."""
    return text.startswith(LAB) or (path_problem("path", text) is None and Path(text).expanduser().exists())


def is_steering(text: str) -> bool:
    """Whether a name is the folder of a saved steering."""
    return (
        path_problem("tuned", text) is None and (Path(text).expanduser() / "steering_config.json").is_file()
    )
