"""From the rows of a run's metrics to its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from trimtab.adapt.data_table import Stretch
from trimtab.adapt.ledger import cost_report
from trimtab.adapt.progress import Progress
from trimtab.adapt.result import (
    LOSS_COLUMNS,
    RECORD_COLUMNS,
    FinetuneResult,
    Status,
    read_update,
    share_column,
)
from trimtab.adapt.roles import Roles
from trimtab.adapt.rows import Row
from trimtab.train.evaluate import SequenceLosses, change
from trimtab.train.fit import Fit, evaluation_steps


def make_result(
    rows: Sequence[Row],
    progress: Progress,
    roles: Roles,
    fit: Fit,
    *,
    label: str,
    config: Mapping[str, Any],
    base: Mapping[str, SequenceLosses],
    final: Mapping[str, SequenceLosses],
    data: pd.DataFrame | None = None,
    data_notes: Iterable[str] = (),
    examples: Mapping[str, tuple[Stretch, ...]] | None = None,
) -> FinetuneResult:
    """The result of a finished run.

    Args:
        rows: of its metrics.
        progress: where it ended.
        roles: the domains by role.
        fit: its settings.
        label: its short name.
        config: what is needed to do it again.
        base: losses of the base model on test sequences.
        final: losses of the chosen weights on the same sequences.
        data: what became of the records, from `trimtab.adapt.data_table.data_table`.
        data_notes: what of it the reader has to know.
        examples: what is learned of each training domain, shown on its first sequence.
    """
    mixtures = [row for row in rows if row["event"] == "mixture"]
    readings = [row for row in rows if row["event"] == "evaluation" and row["split"] == "validation"]
    grid = len(evaluation_steps(fit.steps, fit.eval_points))
    per_reading = progress.ledger.monitoring_sequences // max(1, len(readings))
    return FinetuneResult(
        label=label,
        status=_status(progress),
        step=progress.best_step,
        mixtures=pd.DataFrame(
            [
                {"step": r["step"], **{share_column(name): share for name, share in r["weights"].items()}}
                for r in mixtures
            ],
            columns=["step", *map(share_column, roles.train)],
        ),
        slopes=[
            read_update(row, list(roles.train), list(roles.evaluate)) for row in mixtures if "slopes" in row
        ],
        losses=losses_frame([row for row in rows if row["event"] == "evaluation"]),
        final=final_frame(roles, base, final),
        cost=cost_report(
            progress.ledger, steps=fit.steps, grid_sequences=grid * per_reading, batch_size=fit.batch_size
        ),
        config=config,
        target_records=record_changes({name: (base[name], final[name]) for name in roles.targets}),
        notes=(*data_notes, *_rounding_notes(rows, progress), *_notes(progress, mixtures, roles, fit)),
        data=pd.DataFrame() if data is None else data,
        examples=examples or {},
    )


def losses_frame(readings: Sequence[Row]) -> pd.DataFrame:
    """One row per step, domain and split."""
    return pd.DataFrame(
        [
            (
                row["step"],
                name,
                row["split"],
                row["loss_nats"][name],
                row["standard_error"][name],
                *row["change"][name],
            )
            for row in readings
            for name in row["loss_nats"]
        ],
        columns=LOSS_COLUMNS,
    ).astype(dict.fromkeys(LOSS_COLUMNS[3:], float))


def final_frame(
    roles: Roles, base: Mapping[str, SequenceLosses], final: Mapping[str, SequenceLosses]
) -> pd.DataFrame:
    """The verdict per evaluation domain, on test sequences; a constraint is kept if its estimate is."""
    rows = []
    for name in roles.evaluate:
        moved = change(final[name], base[name])
        tolerance = roles.tolerance(name)
        rows.append(
            {
                "domain": name,
                "role": roles.role(name),
                "reference": base[name].loss,
                "tolerance": tolerance,
                "loss": final[name].loss,
                "change": moved.value,
                "change_low": moved.low,
                "change_high": moved.high,
                "units": moved.units,
                "kept": bool(moved.value <= tolerance) if name in roles.tolerances else None,
            }
        )
    frame = pd.DataFrame(rows)
    frame["kept"] = pd.Series([row["kept"] for row in rows], dtype=object)
    return frame


def record_changes(read: Mapping[str, tuple[SequenceLosses, SequenceLosses]]) -> pd.DataFrame:
    """Per domain and record: loss-carrying tokens, and by how much their summed loss changed, in nats.

    Args:
        read: the losses before and after of the same sequences, by domain.
    """
    parts = []
    for name, (before, after) in read.items():
        rows = pd.DataFrame(
            {"record": after.records, "tokens": after.tokens, "change": after.nll - before.nll}
        )
        parts.append(rows.groupby("record", as_index=False).sum().assign(domain=name))
    return pd.concat(parts, ignore_index=True)[list(RECORD_COLUMNS)]


def _status(progress: Progress) -> Status:
    if (progress.stop or "").startswith("diverged"):
        return "diverged"
    if progress.best_step:
        return "feasible"
    return "no gain" if progress.kept_once else "infeasible"


def _rounding_notes(rows: Sequence[Row], progress: Progress) -> list[str]:
    """What rounding to the checkpoint's type left of the chosen weights; of the last candidate where none was."""
    seen = [row for row in rows if row["event"] == "rounding"]
    chosen = [row for row in seen if row["step"] == progress.best_step] or seen
    if not chosen:
        return []
    row = chosen[-1]
    finite = {name: moved for name, moved in row["moved"].items() if moved is not None}
    most = max(finite, key=lambda name: abs(finite[name]), default=None)
    losses = (
        f", and the validation loss of {most} moves by {finite[most]:+.2g} nats, the most" if most else ""
    )
    back = (
        f"{100 * row['returned']:.3g} % of them round back to where they were"
        if row["returned"]
        else "none is lost"
    )
    return [
        f"Trained in float32, saved in {' and '.join(row['types'])}: at step {row['step']} "
        f"{100 * row['changed']:.3g} % of the weights had changed; {back}{losses}."
    ]


def _notes(progress: Progress, mixtures: Sequence[Row], roles: Roles, fit: Fit) -> list[str]:
    notes = []
    if progress.stop and progress.stop != "done":
        notes.append(f"Stopped at step {progress.ledger.training_steps} of {fit.steps}: {progress.stop}.")
    edges = [*(row["step"] for row in mixtures[1:]), fit.steps]
    for row, end in zip(mixtures, edges, strict=False):
        examples = (end - row["step"]) * fit.batch_size
        unseen = [name for name in roles.train if 0 < row["weights"][name] * examples < 0.5]
        if unseen:
            notes.append(
                f"From step {row['step']} to {end} the weight of {', '.join(unseen)} rounds to no sequence "
                f"of {examples}."
            )
        bad = [name for name in roles.train if _diverged(row, roles, name)]
        if bad:
            notes.append(f"The probe of {', '.join(bad)} at step {row['step']} diverged; it got no weight.")
        if row.get("status") == "relaxed":
            notes.append(
                f"At step {row['step']} no mixture was predicted to keep every constraint; "
                f"in conflict: {', '.join(row['conflicts'])}."
            )
    return notes


def _diverged(row: Row, roles: Roles, name: str) -> bool:
    column = roles.train.index(name)
    return "slopes" in row and all(line[column] is None for line in row["slopes"])
