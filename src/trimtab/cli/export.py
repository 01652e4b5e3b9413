"""`trimtab export`: the model, the adapter or the steering that a run left, in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.cli.console import parser, path_named, say
from trimtab.cli.jobs import check_folder, find_run
from trimtab.errors import CheckpointError, ConfigProblems, Problem, explain
from trimtab.runs.atomic import atomic_directory
from trimtab.runs.paths import MODEL
from trimtab.systems import imported, system_of_run


def export(argv: Sequence[str]) -> int:
    """Write what a run left into a new folder: of fine-tuning a model or an adapter, of steering the steering."""
    options = parser("export", as_json=True)
    options.add_argument("run", metavar="RUN", help="folder or name of a finished run, or of a group")
    options.add_argument("--out", type=path_named, metavar="DIR", required=True, help="a new folder")
    options.add_argument("--merge", action="store_true", help="fold a LoRA into its base, as one model")
    arguments = options.parse_args(argv)
    arguments.out = check_folder(arguments.out)
    if sys.stderr is None or not sys.stderr.isatty():  # else a download of the base, which may take long
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    from trimtab.runs.folder import read_config_of

    folder = find_run(arguments.run, "a finished run, or of a group")
    is_run = (folder / "config.yaml").exists()
    system = system_of_run(read_config_of(folder)).name if is_run else "dynamics"
    kinds = {"steering": _steering, "discritune": _captioner}
    kind = kinds.get(system)
    written = kind(folder, arguments) if kind else _model(folder, system, arguments)
    what = {
        "model": "a model for transformers",
        "adapter": "an adapter for peft",
        "captioner": "a captioner for transformers",
    }.get(written["kind"], "a steering")
    of = f", of step {written['step']} of {written['run']}" if "step" in written else ""
    say(json.dumps(written) if arguments.json else f"{written['folder']}: {what}{of}")
    return 0


def _model(folder: Path, system: str, arguments: Namespace) -> dict[str, Any]:
    if system != "dynamics":
        got = f"{folder}, a run of {system}, which leaves no model"
        raise CheckpointError(
            explain(got, "a run of fine-tuning, of steering or of discritune", "trimtab report")
        )
    done = imported("trimtab.adapt.export:export_run")(folder, arguments.out, merged=arguments.merge)
    return {"folder": str(arguments.out), "kind": done.kind, "run": str(done.run), "step": done.step}


def _captioner(folder: Path, arguments: Namespace) -> dict[str, Any]:
    kept, out = folder / MODEL, arguments.out
    if arguments.merge:
        got, hint = "a run of discritune, which leaves a whole model", f"trimtab export {folder} --out {out}"
        raise ConfigProblems([Problem("--merge", got, "a run of fine-tuning", hint)])
    if not (kept / "config.json").is_file():
        got = f"{folder}, which has not finished"
        raise CheckpointError(explain(got, "a finished run", f"trimtab resume {folder}"))
    if out.exists() and any(out.iterdir()):
        raise ConfigProblems([Problem("--out", f"{str(out)!r}, where there is something", "a new folder")])
    with atomic_directory(out) as new:
        shutil.copytree(kept, new, dirs_exist_ok=True)
    return {"folder": str(out), "kind": "captioner", "run": str(folder)}


def _steering(folder: Path, arguments: Namespace) -> dict[str, Any]:
    kept = folder / "artifacts" / "steering"
    if arguments.merge:
        hint = f"trimtab steer fuse {folder} MODEL --out {arguments.out}"
        problem = Problem("--merge", "a run of steering", "a run of fine-tuning", hint)
        raise ConfigProblems([problem])
    if not kept.is_dir():
        got = f"{folder}, which has not finished"
        raise CheckpointError(explain(got, "a finished run", f"trimtab resume {folder}"))
    steering = imported("trimtab.steer.steering:Steering").from_pretrained(kept)
    steering.save_pretrained(arguments.out)
    return {"folder": str(arguments.out), "kind": "steering", "run": str(folder)}
