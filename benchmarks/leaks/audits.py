"""An audit with the leak of every cell beside its tables, and its result as JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from claims import Evidence, Subject, evidence_of
from large_k import INPUTS, large_k

from trimtab.job import Progress
from trimtab.models.load import Model
from trimtab.read.leaks.assessment import Assessment, assess
from trimtab.read.leaks.cells import Measured, measured, samples_of
from trimtab.read.leaks.controls import UNTRAINED
from trimtab.read.leaks.levels import Level, TopLogprobs
from trimtab.read.leaks.mitigated import mitigation_rows
from trimtab.read.leaks.model_cells import Reading, cells_of, read_for_audit, with_lenses
from trimtab.read.leaks.questions import Questions
from trimtab.read.leaks.readings import open_readings
from trimtab.read.leaks.result import LeaksResult
from trimtab.read.leaks.served import Mitigation
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware, threads, versions
from trimtab.runs.serialise import to_json

RESULTS = Path(__file__).parents[1] / "results" / "leaks"
DIGITS = 5
SERVED = 20
"""Log-probabilities that most servers send at most."""


def audited(
    model: Model,
    questions: Questions,
    levels: Sequence[Level],
    mitigations: Sequence[Mitigation],
    folder: Path,
    *,
    jobs: int,
) -> tuple[LeaksResult, list[Measured], Reading]:
    """The steps of `audit`, and the leaks of all rows of its cells; the untrained model serves 20 tokens at most."""
    fitted, told = with_lenses(levels, model, questions, None, folder / "lenses")
    how = Assessment(jobs=jobs, store=folder / "cells", progress=progress(folder.name))
    reading = read_for_audit(
        model,
        questions,
        fitted,
        folder,
        mitigations=mitigations,
        progress=progress(f"{folder.name}, prompts"),
    )
    how = replace(how, stamp=reading.stamp)
    controls = [cell for cell in reading.controls if (cell.control, cell.level) != (UNTRAINED, "logprobs")]
    served = cells_of([TopLogprobs(SERVED, encodings=("served",))], open_readings(folder / "untrained"))
    controls += [replace(cell, control=UNTRAINED) for cell in served]
    final = reading.readings.plan.depth - 1
    result = assess(
        questions, reading.cells, controls, final=final, facts=reading.facts, findings=told, how=how
    )
    tried = mitigation_rows(
        reading.served, questions, mitigations, right=reading.right, jobs=jobs, store=how.store,
        stamp=f"{reading.stamp} as served", progress=how.progress,
    )  # fmt: skip
    outcomes = measured([*reading.cells, *controls], questions, store=how.store, stamp=how.stamp)
    return replace(result, mitigations=tried), outcomes, reading


def progress(name: str) -> Progress:
    """Prints how far a phase is, at every twentieth step."""

    def tell(done: int, total: int) -> None:
        if done % 20 == 0 or done == total:
            print(f"{time.strftime('%H:%M:%S')} {name}: {done} of {total}", file=sys.stderr, flush=True)

    return tell


def evidence(
    outcomes: Sequence[Measured],
    reading: Reading,
    questions: Questions,
    subject: Subject,
    ks: Sequence[int],
    most: int | None,
    seed: int = 0,
) -> tuple[dict[str, list[Evidence]], list[dict[str, Any]]]:
    """Evidence for every claim, and the accuracies of the paper's network.

    Args:
        ks: numbers of fixed logits of the network; the second last is compared with the last.
        most: see `evidence_of`.
    """
    found, rows, readings = evidence_of(outcomes, subject, most), list[dict[str, Any]](), reading.readings

    def logits(k: int, at: np.ndarray) -> np.ndarray:
        if readings.every:
            order = (
                readings.all_logits()[:256].mean(axis=0).argsort()[::-1]
                if k > len(readings.fixed_ids)
                else []
            )
            return np.asarray(readings.tokens(order[:k] if len(order) else readings.fixed_ids[:k])[at])
        return np.asarray(readings.tokens(readings.fixed_ids[:k])[at])

    for samples in samples_of(questions):
        if (samples.attribute, samples.role) in subject.pairs:
            one = large_k(logits, samples, ks, ks[-2], seed)
            rows += one["rows"]
            for inputs in INPUTS:
                found[f"collapse {inputs}"].append(one["differences"][inputs])
    return found, rows


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a frame; what is unknown is left out."""
    rows = frame.to_dict("records")
    return [{str(name): rounded(value) for name, value in row.items() if known(value)} for row in rows]


def known(value: Any) -> bool:
    return value is not None and value != "" and not (isinstance(value, float) and np.isnan(value))


def rounded(value: Any) -> Any:
    """Numbers in a few digits, inside lists and mappings too."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}")
    return value


def tables(result: LeaksResult) -> dict[str, Any]:
    """The tables of an audit with its facts and findings."""
    frames = ("table", "controls", "checks", "mitigations", "accounting")
    return {
        **{name: records(getattr(result, name)) for name in frames},
        "facts": rounded(dict(result.facts)),
        "findings": list(result.findings),
        "seconds": rounded(result.seconds),
    }


def head(command: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What every result file says of its run."""
    return {
        "command": command,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": versions(),
        "hardware": hardware(),
        "threads": threads(),
        "interval": "95 %, over scenes; differences paired over the same questions",
        "settings": settings,
    }


def write(name: str, facts: dict[str, Any]) -> None:
    """A result file with one row of each table a line."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULTS / name, _text(facts, "") + "\n")


def _text(value: Any, indent: str) -> str:
    """JSON in which mappings of rows are opened and rows are not."""
    deeper = f"{indent} "
    if isinstance(value, dict) and any(isinstance(one, dict | list) and one for one in value.values()):
        parts = [f"{deeper}{to_json(str(name))}: {_text(one, deeper)}" for name, one in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f"{deeper}{_text(one, deeper)}" for one in value) + f"\n{indent}]"
    return to_json(value)
