"""The record of a fine-tuning run: a value that knows its config, its cost and every number behind its verdict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd

from trimtab.adapt.cost import CostReport
from trimtab.errors import CheckpointError, explain
from trimtab.job import Result
from trimtab.runs.serialise import checked, read_lines

Status = Literal["feasible", "infeasible", "no gain", "diverged"]
Stretch = tuple[str, bool]
"""A stretch of text, and whether it carries loss."""
CHANGE_COLUMNS = ("change", "change_low", "change_high")
LOSS_COLUMNS = ("step", "domain", "split", "loss_nats", "standard_error", *CHANGE_COLUMNS)
RECORD_COLUMNS = ("domain", "record", "tokens", "change")
_COLUMNS = {
    "mixtures": ("step",),
    "losses": LOSS_COLUMNS,
    "final": ("domain", "role", "reference", "tolerance", "loss", *CHANGE_COLUMNS, "kept"),
}
"""What the frames of a result have at least."""


@dataclass(frozen=True)
class SlopeUpdate:
    """One update of a probing mixer.

    Attributes:
        step: when it was made.
        horizon: steps until the next one.
        slopes: evaluation domains x training domains, nats per token and step; nan where a probe diverged.
        standard_errors: of the slopes, over evaluation sequences.
        predicted: loss at the horizon by evaluation domain, nats per token.
        weights: the mixture chosen, by training domain.
        solver_status: "optimal", or "relaxed" when no mixture keeps all constraints.
        conflicts: constraints that cannot be kept together (or alone).
        shadow_prices: target nats that one nat of tolerance would buy, by constraint; nan when relaxed.
    """

    step: int
    horizon: int
    slopes: pd.DataFrame
    standard_errors: pd.DataFrame
    predicted: Mapping[str, float]
    weights: Mapping[str, float]
    solver_status: str
    conflicts: tuple[str, ...]
    shadow_prices: Mapping[str, float]


@dataclass(frozen=True)
class RunRecord(Result):
    """The record of a fine-tuning run.

    Attributes:
        status: "feasible"; "infeasible" (no evaluated checkpoint kept all constraints on validation data) and
            "no gain" (none that did improved the targets) leave the base weights; "diverged" is a run whose loss
            left the finite numbers, or grew until no mixture could be found, with the best checkpoint before that, if
            any.
        step: the checkpoint in the model; 0 for the base weights.
        mixtures: columns step and one per training domain; a row holds from its step on. A domain that is itself
            named "step" has the column "step (share)" (see `share_column`).
        slopes: one `SlopeUpdate` per update of a probing mixer.
        losses: columns step, domain, split, loss_nats, standard_error, change, change_low, change_high: the readings
            of the evaluation grid; changes are paired with step 0, intervals 95 % over records.
        final: per evaluation domain, on *test*: domain, role, reference (the base model's loss), tolerance, loss,
            change, change_low, change_high, units (records read, over which the interval is; sequences where all are
            of one record), kept (True / False; None unless a constraint).
        cost: steps, evaluations and seconds, beside a fixed-mixture run.
        notes: what the run wants its reader to know, one sentence each.
        target_records: per test record of each target: domain, record, tokens, change (nats, summed over the record's
            tokens). Paired comparisons between runs rest on it; empty in results of earlier versions.
        data: what became of the records of each domain and split; see `trimtab.adapt.data_table.data_table`. Empty for
            a result that an earlier version wrote.
        examples: per training domain, its first sequence as stretches of text, each with whether it carries loss.
    """

    status: Status
    step: int
    mixtures: pd.DataFrame
    slopes: list[SlopeUpdate]
    losses: pd.DataFrame
    final: pd.DataFrame
    cost: CostReport
    notes: tuple[str, ...] = field(default=())
    target_records: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(RECORD_COLUMNS)))
    data: pd.DataFrame = field(default_factory=pd.DataFrame)
    examples: Mapping[str, tuple[Stretch, ...]] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """The final table: one row per evaluation domain, measured on test sequences."""
        return self.final.copy()


_SHARE = " (share)"
_TAKEN = re.compile(r"step( \(share\))*")


def share_column(domain: str) -> str:
    """The column of a domain in `RunRecord.mixtures`: its name, but beside the column of steps.

    >>> share_column("web"), share_column("step"), domain_of(share_column("step"))
    ('web', 'step (share)', 'step')
    """
    return domain + _SHARE if _TAKEN.fullmatch(domain) else domain


def domain_of(column: str) -> str:
    """The inverse of `share_column`."""
    return column.removesuffix(_SHARE) if _TAKEN.fullmatch(column) else column


Record = TypeVar("Record", bound=RunRecord)


def to_mapping(record: RunRecord) -> dict[str, Any]:
    """The record as JSON values (nan becomes null); its seconds stand in its cost."""
    return {
        "schema": record.schema,
        **{name: value for name, value in record.values().items() if name != "seconds"},
        **{
            name: _split(getattr(record, name))
            for name in ("mixtures", "losses", "final", "target_records", "data")
        },
        "cost": asdict(record.cost),
        "slopes": [_update_to_mapping(update) for update in record.slopes],
    }


def from_mapping(cls: type[Record], value: Mapping[str, Any]) -> Record:
    """The inverse of `to_mapping`; what is no record fails in the ways of `trimtab.runs.serialise.DAMAGE`."""
    if value.get("schema") != cls.schema:
        raise CheckpointError(explain(f"result schema {value.get('schema')}", f"schema {cls.schema}"))
    frames = {
        "mixtures": _frame(value["mixtures"]),
        "losses": _numeric(_frame(value["losses"]), ("domain", "split")),
        "final": _numeric(_frame(value["final"]), ("domain", "role")),
    }
    for name, columns in _COLUMNS.items():
        if missing := [column for column in columns if column not in frames[name]]:
            raise TypeError(f"{name} has no column {missing[0]}")
    data = value.get("data", {"columns": [], "rows": []})
    cost = checked(CostReport, value["cost"])
    later = {
        "notes": tuple(value["notes"]),
        **_records(value.get("target_records")),
        "data": _numeric(_frame(data), ("domain", "split")) if data["columns"] else pd.DataFrame(),
        "examples": {
            name: tuple((text, learned) for text, learned in stretches)
            for name, stretches in value.get("examples", {}).items()
        },
        "slopes": [read_update(update, update["train"], update["evaluate"]) for update in value["slopes"]],
        "cost": cost,
        "seconds": sum(cost.seconds.values()),
    }
    return checked(
        cls, {name: value[name] for name in ("label", "status", "step", "config")} | frames | later
    )


def _records(value: Mapping[str, Any] | None) -> dict[str, pd.DataFrame]:
    if value is None or not value["rows"]:
        return {}
    if value["columns"] != list(RECORD_COLUMNS):
        raise TypeError(f"target_records has columns {value['columns']}")
    return {"target_records": _numeric(_frame(value), ("domain",))}


def read_update(row: Mapping[str, Any], train: list[str], evaluate: list[str]) -> SlopeUpdate:
    """The update that a row of metrics.jsonl records."""
    return SlopeUpdate(
        step=row["step"],
        horizon=row["horizon"],
        slopes=pd.DataFrame(row["slopes"], index=evaluate, columns=train, dtype=float),
        standard_errors=pd.DataFrame(row["standard_errors"], index=evaluate, columns=train, dtype=float),
        predicted=_numbers(row["predicted"]),
        weights=row["weights"],
        solver_status=row["status"],
        conflicts=tuple(row["conflicts"]),
        shadow_prices=_numbers(row["shadow_prices"]),
    )


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.

    Raises:
        CheckpointError: a row is damaged, or does not say its step and what it is about.
    """
    rows = read_lines(folder / "metrics.jsonl")
    for number, row in enumerate(rows, start=1):
        if type(row.get("step")) is not int or not isinstance(row.get("event"), str):
            file = folder / "metrics.jsonl"
            raise CheckpointError(f"{file}, line {number}: {explain('other values', 'a step and an event')}")
    return rows


def _update_to_mapping(update: SlopeUpdate) -> dict[str, Any]:
    return {
        "step": update.step,
        "horizon": update.horizon,
        "train": list(update.slopes.columns),
        "evaluate": list(update.slopes.index),
        "slopes": update.slopes.to_numpy(),
        "standard_errors": update.standard_errors.to_numpy(),
        "predicted": update.predicted,
        "weights": update.weights,
        "status": update.solver_status,
        "conflicts": update.conflicts,
        "shadow_prices": update.shadow_prices,
    }


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float("nan") if value is None else value for name, value in values.items()}


def _split(frame: pd.DataFrame) -> dict[str, Any]:
    return {"columns": list(frame.columns), "rows": frame.to_numpy(dtype=object).tolist()}


def _frame(value: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(value["rows"], columns=value["columns"])


def _numeric(frame: pd.DataFrame, texts: tuple[str, ...]) -> pd.DataFrame:
    """Numbers as numbers (null is nan again); `texts` as they are; whether a constraint was kept as objects."""
    for name in frame.columns:
        if name == "kept":
            frame[name] = pd.Series(list(frame[name]), dtype=object)
        elif name not in texts:
            frame[name] = pd.to_numeric(frame[name])
    return frame
