"""The record of a fine-tuning run: every number behind its verdict, as a value and on disk.

Tables of the run's data belong to it: records read, left out and cut, and an example of what is learned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd

from trimtab.adapt.cost import CostReport
from trimtab.adapt.units import units_read
from trimtab.data.tokens import TokenDomain, left_out
from trimtab.errors import CheckpointError, explain
from trimtab.job import Result
from trimtab.report.formats import NOTHING, missing, span
from trimtab.runs.brief import brief
from trimtab.runs.serialise import checked, read_lines
from trimtab.train.evaluation import evaluation_rows
from trimtab.train.settings import Fit

Status = Literal["feasible", "infeasible", "no gain", "diverged"]
Stretch = tuple[str, bool]
"""A stretch of text, and whether it carries loss."""
CHANGE_COLUMNS = ("change", "change_low", "change_high")
LOSS_COLUMNS = ("step", "domain", "split", "loss_nats", "standard_error", *CHANGE_COLUMNS)
RECORD_COLUMNS = ("domain", "record", "tokens", "change")
COMPLETION_COLUMNS = ("domain", "prompt", "reference", "before", "after")
COLUMNS = (
    *("domain", "split", "records", "blank", "skipped", "dropped", "beyond"),
    *("sequences", "truncated", "tokens", "left_over", "read", "read_records", "probe"),
    *("groups", "read_groups"),
)
"""Columns of `data_table`."""
ROUNDED = "Trained in float32"
"""How the note on rounding to a checkpoint's type begins."""
_NEEDED = {
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
        slopes: evaluation domains x training domains, nats per token and step; nan where a probe diverged, and of
            domains that were not read.
        standard_errors: of the slopes, over evaluation sequences.
        predicted: loss at the horizon by evaluation domain, nats per token.
        weights: the mixture chosen, by training domain.
        solver_status: "optimal", or "relaxed" when no mixture keeps all constraints; where the mass of the targets is
            fed back, "kept", or "broken" when a constraint is broken at this step.
        conflicts: constraints that cannot be kept together (or alone); where the mass is fed back, those broken.
        shadow_prices: target nats that one nat of tolerance would buy, by constraint; nan when relaxed or fed back.
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

    __repr__ = brief


@dataclass(frozen=True, repr=False)
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
            of the evaluation grid; changes are paired with step 0, intervals 95 % over records, or over groups of them.
        final: per evaluation domain, on *test*: domain, role, reference (the base model's loss), tolerance, loss,
            change, change_low, change_high, units (records read, or groups where records have them, over which the
            interval is; sequences where all are of one record), kept (True / False; None unless a constraint).
        cost: steps, evaluations and seconds, beside a fixed-mixture run.
        notes: what the run wants its reader to know, one sentence each.
        target_records: per test record of each target, or per group where records have groups: domain, record,
            tokens, change (nats, summed over its tokens). Paired comparisons between runs rest on it; empty in results
            of earlier versions.
        data: what became of the records of each domain and split; see `data_table`. Empty for a result that an
            earlier version wrote.
        examples: per training domain, its first sequence as stretches of text, each with whether it carries loss.
        completions: per held-out prompt: domain, prompt, reference (how its record goes on), before and after (what the
            base model and the model of the run write); see `trimtab.adapt.completions`. Empty in results of earlier
            versions, and of models that write no text.
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
    completions: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=list(COMPLETION_COLUMNS), dtype=object)
    )

    def to_frame(self) -> pd.DataFrame:
        """One row per evaluation domain on test, in seven columns that 80 characters hold; `final` has all numbers.

        Returns:
            Columns: domain, role, change (nats per token), interval (95 %, text), tolerance (nan unless a constraint),
            n (groups read, else records; sequences where those were not counted), kept (True or False of a constraint,
            None where there is no answer; "" of other domains).
        """
        final, units = self.final, units_read(self, "test")
        judged = final["role"] == "constraint"
        ends = zip(final["change_low"], final["change_high"], strict=True)
        numbers = [units[name].count if name in units else np.nan for name in final["domain"]]
        answers = zip(final["kept"], judged, strict=True)
        kept = ["" if not one else None if missing(it) else bool(it) for it, one in answers]
        columns = {
            "domain": final["domain"],
            "role": final["role"],
            "change": final["change"].astype(float),
            "interval": [span(*each, signed=True).replace("−", "-").replace(NOTHING, "-") for each in ends],
            "tolerance": final["tolerance"].astype(float).where(judged),
            "n": numbers if any(map(missing, numbers)) else [int(number) for number in numbers],
            "kept": pd.Series(kept, index=final.index, dtype=object),
        }
        return pd.DataFrame(columns)


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
    values = {name: value for name, value in record.values().items() if name != "seconds"}
    for name, value in values.items():
        if isinstance(value, pd.DataFrame):
            rows = value.to_numpy(dtype=object).tolist()
            values[name] = {"columns": list(value.columns), "rows": rows}
    slopes = [
        {
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
        for update in record.slopes
    ]
    return {"schema": record.schema, **values, "cost": asdict(record.cost), "slopes": slopes}


def from_mapping(cls: type[Record], value: Mapping[str, Any]) -> Record:
    """The inverse of `to_mapping`; what is no record fails in the ways of `trimtab.runs.serialise.DAMAGE`."""
    if value.get("schema") != cls.schema:
        raise CheckpointError(explain(f"result schema {value.get('schema')}", f"schema {cls.schema}"))
    mixtures = pd.DataFrame(value["mixtures"]["rows"], columns=value["mixtures"]["columns"])
    frames = {"mixtures": mixtures, "losses": _frame(value["losses"]), "final": _frame(value["final"])}
    for name, columns in _NEEDED.items():
        if missing := [column for column in columns if column not in frames[name]]:
            raise TypeError(f"{name} has no column {missing[0]}")
    records = value.get("target_records")
    if records is not None and records["rows"]:
        if records["columns"] != list(RECORD_COLUMNS):
            raise TypeError(f"target_records has columns {records['columns']}")
        frames["target_records"] = _frame(records)
    if "data" in value and value["data"]["columns"]:
        frames["data"] = _frame(value["data"])
    texts = value.get("completions")
    if texts is not None:
        if texts["columns"] != list(COMPLETION_COLUMNS):
            raise TypeError(f"completions has columns {texts['columns']}")
        if not all(len(row) == len(COMPLETION_COLUMNS) for row in texts["rows"]):
            raise TypeError("completions has rows of another length")
        if not all(isinstance(text, str) for row in texts["rows"] for text in row):
            raise TypeError("completions has values that are no texts")
        frames["completions"] = pd.DataFrame(texts["rows"], columns=texts["columns"], dtype=object)
    cost = checked(CostReport, value["cost"])
    values = {
        **{name: value[name] for name in ("label", "status", "step", "config")},
        **frames,
        "notes": tuple(value["notes"]),
        "examples": {
            name: tuple((text, learned) for text, learned in stretches)
            for name, stretches in value.get("examples", {}).items()
        },
        "slopes": [read_update(update, update["train"], update["evaluate"]) for update in value["slopes"]],
        "cost": cost,
        "seconds": sum(cost.seconds.values()),
    }
    return checked(cls, values)


def read_update(row: Mapping[str, Any], train: list[str], evaluate: list[str]) -> SlopeUpdate:
    """The update that a row of metrics.jsonl records."""
    if row["status"] not in ("optimal", "relaxed", "kept", "broken"):
        raise ValueError(f"an update has the status {row['status']!r:.80}")
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


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float("nan") if value is None else value for name, value in values.items()}


def _frame(value: Mapping[str, Any]) -> pd.DataFrame:
    """Numbers as numbers (null is nan again); names as they are; whether a constraint was kept as objects."""
    frame = pd.DataFrame(value["rows"], columns=value["columns"])
    for name in frame.columns:
        if name == "kept":
            frame[name] = pd.Series(list(frame[name]), dtype=object)
        elif name not in ("domain", "split", "role"):
            frame[name] = pd.to_numeric(frame[name])
    return frame


def data_table(domains: Mapping[str, TokenDomain], train: Sequence[str], fit: Fit) -> pd.DataFrame:
    """One row per domain and split that a run uses.

    Args:
        domains: tokenised, by name.
        train: which of them are trained on.
        fit: how many sequences are read.

    Returns:
        Columns: domain, split; records (read, blank ones not counted), blank, skipped (conversations left out), dropped
        (without a predicted token that carries loss), beyond (of those, how many a longer sequence would keep);
        sequences, truncated, tokens, left_over; read (sequences that an evaluation reads), read_records (records that
        they are of), probe (sequences that a probe reads), groups (of the records), read_groups (of those sequences).
        The four of what is read are nan for a train split, those of groups where records have none.
    """
    rows = []
    for name, domain in domains.items():
        for split, tokens in domain.splits.items():
            if split == "train" and name not in train:
                continue
            row: dict[str, Any] = {part: getattr(tokens.counts, part, np.nan) for part in COLUMNS}
            row |= {"domain": name, "split": split, "sequences": len(tokens)}
            row["groups"] = float(tokens.counts.groups or np.nan)
            if split != "train":
                limit = fit.eval_sequences if split == "validation" else fit.test_sequences
                read = evaluation_rows(name, len(tokens), limit)
                row |= {"read": float(len(read)), "read_records": float(len(np.unique(tokens.records[read])))}
                row["read_groups"] = (
                    np.nan if tokens.groups is None else float(len(np.unique(tokens.groups[read])))
                )
            if split == "validation":
                row["probe"] = float(min(len(tokens), fit.probe_sequences))
            rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def data_notes(domains: Mapping[str, TokenDomain], table: pd.DataFrame, fit: Fit) -> Iterator[str]:
    """Notes on the data that a reader of the result has to know, a sentence each.

    Args:
        domains: tokenised, by name.
        table: from `data_table`.
        fit: how long sequences are.
    """
    for name, domain in domains.items():
        used = table.loc[table["domain"] == name, "split"].to_list()
        for phrase in (*left_out(domain, used, fit.seq_len), *domain.unread):
            yield f"Data of {name}: {phrase.rstrip('.')}."


def examples(
    domains: Mapping[str, TokenDomain], train: Sequence[str], tokenizer: Any
) -> dict[str, tuple[Stretch, ...]]:
    """Per training domain, its first sequence as stretches of text, each with whether it carries loss."""
    return {name: domains[name].splits["train"].example(tokenizer) for name in train}


def example_line(stretches: Sequence[Stretch]) -> str:
    r"""An example on one line of plain text, what is learned in double brackets.

    >>> example_line([("[user]hi\n[assistant]", False), ("ho</s>", True)])
    '[user]hi\\n[assistant][[ho</s>]]'
    """
    parts = [f"[[{text}]]" if learned else text for text, learned in stretches]
    return "".join(parts).replace("\n", "\\n").replace("\r", "\\r")
