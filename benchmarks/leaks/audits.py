"""An audit with the leak of every cell beside its tables, and its result as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from claims import Evidence, Subject, evidence_of
from large_k import INPUTS, large_k

from trimtab.models.load import Model
from trimtab.read.leaks.audit import audit
from trimtab.read.leaks.cells import Measured, measured, samples_of
from trimtab.read.leaks.levels import Level
from trimtab.read.leaks.model_cells import Reading, read_for_audit, with_lenses
from trimtab.read.leaks.questions import Questions
from trimtab.read.leaks.result import LeaksResult
from trimtab.read.leaks.served import Mitigation
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware, threads, versions
from trimtab.runs.serialise import to_json

RESULTS = Path(__file__).parents[1] / "results" / "leaks"
DIGITS = 5


def audited(
    model: Model,
    questions: Questions,
    levels: Sequence[Level],
    mitigations: Sequence[Mitigation],
    folder: Path,
    *,
    jobs: int,
    batch_size: int = 16,
) -> tuple[LeaksResult, list[Measured], Reading]:
    """The audit, and the same cells with the leaks of their rows, which it left in the folder."""
    result = audit(
        model,
        questions,
        levels=levels,
        mitigations=mitigations,
        folder=folder,
        jobs=jobs,
        batch_size=batch_size,
    )
    fitted, _ = with_lenses(levels, model, questions, None, folder / "lenses")
    reading = read_for_audit(model, questions, fitted, folder, mitigations=mitigations, batch_size=batch_size)
    cells = [replace(cell, against="question") for cell in (*reading.cells, *reading.controls)]
    return result, measured(cells, questions, store=folder / "cells", stamp=reading.stamp), reading


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
        "recommendation": result.recommendation,
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
