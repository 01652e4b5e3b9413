"""What a fine-tuning run came to: a value that knows its config, its cost and every number behind its verdict.

What a run came to, said in plain sentences.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from trimtab.adapt.cost import CostReport
from trimtab.adapt.data_table import Stretch
from trimtab.adapt.dynamics.compare import gain_difference, target_gain, unique_labels
from trimtab.errors import CheckpointError, explain
from trimtab.report.formats import fixed, missing, span
from trimtab.runs.atomic import write_atomic
from trimtab.runs.serialise import checked, finished, read_lines, read_object, reading_result, to_json
from trimtab.train.losses import Change

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Status = Literal["feasible", "infeasible", "no gain", "diverged"]
SCHEMA = 1
LOSS_COLUMNS = (
    "step",
    "domain",
    "split",
    "loss_nats",
    "standard_error",
    "change",
    "change_low",
    "change_high",
)
RECORD_COLUMNS = ("domain", "record", "tokens", "change")
_COLUMNS = {
    "mixtures": ("step",),
    "losses": LOSS_COLUMNS,
    "final": (
        "domain",
        "role",
        "reference",
        "tolerance",
        "loss",
        "change",
        "change_low",
        "change_high",
        "kept",
    ),
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
class FinetuneResult:
    """The outcome of `finetune`.

    Attributes:
        label: a short name of the run, its mixer's unless told otherwise.
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
        config: everything needed to do the run again.
        notes: what the run wants its reader to know, one sentence each.
        target_records: per test record of each target: domain, record, tokens, change (nats, summed over the record's
            tokens). Paired comparisons between runs rest on it; empty in results of earlier versions.
        data: what became of the records of each domain and split; see `trimtab.adapt.data_table.data_table`. Empty for
            a result that an earlier version wrote.
        examples: per training domain, its first sequence as stretches of text, each with whether it carries loss.
    """

    label: str
    status: Status
    step: int
    mixtures: pd.DataFrame
    slopes: list[SlopeUpdate]
    losses: pd.DataFrame
    final: pd.DataFrame
    cost: CostReport
    config: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())
    target_records: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(RECORD_COLUMNS)))
    data: pd.DataFrame = field(default_factory=pd.DataFrame)
    examples: Mapping[str, tuple[Stretch, ...]] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """The final table: one row per evaluation domain, measured on test sequences."""
        return self.final.copy()

    def figure(self) -> Figure:
        """The mixture over time."""
        from trimtab.adapt.dynamics.figures import mixture_figure

        return mixture_figure(self)

    def report(self, path: str | Path) -> Path:
        """Write the report page (one self-contained HTML file) and return its path."""
        from trimtab.adapt.dynamics.page import page

        write_atomic(Path(path), page([self], title=self.label))
        return Path(path)

    def save(self, path: str | Path) -> Path:
        """Write the result as one JSON file that `FinetuneResult.load` reads."""
        write_atomic(Path(path), to_json(to_mapping(self), indent=1) + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> FinetuneResult:
        """Read a saved result, or that of a finished run folder.

        Raises:
            CheckpointError: there is no result (yet), or another version of trimtab wrote it.
        """
        path = Path(path)
        if path.is_dir():
            found = finished(path)
        elif not path.exists():
            got = f"no finished result in {path}"
            raise CheckpointError(explain(got, "a finished run", "resuming it"))
        else:
            found = read_object(path)
        with reading_result(path):
            return from_mapping(found)


_SHARE = " (share)"
_TAKEN = re.compile(r"step( \(share\))*")


def share_column(domain: str) -> str:
    """The column of a domain in `FinetuneResult.mixtures`: its name, but beside the column of steps.

    >>> share_column("web"), share_column("step"), domain_of(share_column("step"))
    ('web', 'step (share)', 'step')
    """
    return domain + _SHARE if _TAKEN.fullmatch(domain) else domain


def domain_of(column: str) -> str:
    """The inverse of `share_column`."""
    return column.removesuffix(_SHARE) if _TAKEN.fullmatch(column) else column


def to_mapping(result: FinetuneResult) -> dict[str, Any]:
    """The result as JSON values (nan becomes null)."""
    return {
        "schema": SCHEMA,
        "label": result.label,
        "status": result.status,
        "step": result.step,
        "mixtures": _split(result.mixtures),
        "slopes": [_update_to_mapping(update) for update in result.slopes],
        "losses": _split(result.losses),
        "final": _split(result.final),
        "cost": asdict(result.cost),
        "config": result.config,
        "notes": result.notes,
        "target_records": _split(result.target_records),
        "data": _split(result.data),
        "examples": result.examples,
    }


def from_mapping(value: Mapping[str, Any]) -> FinetuneResult:
    """The inverse of `to_mapping`; what is no result fails in the ways of `trimtab.runs.serialise.DAMAGE`."""
    if value.get("schema") != SCHEMA:
        raise CheckpointError(explain(f"result schema {value.get('schema')}", f"schema {SCHEMA}"))
    frames = {
        "mixtures": _frame(value["mixtures"]),
        "losses": _numeric(_frame(value["losses"]), ("domain", "split")),
        "final": _numeric(_frame(value["final"]), ("domain", "role")),
    }
    for name, columns in _COLUMNS.items():
        if missing := [column for column in columns if column not in frames[name]]:
            raise TypeError(f"{name} has no column {missing[0]}")
    slopes = [_update_from_mapping(update) for update in value["slopes"]]
    data = value.get("data", {"columns": [], "rows": []})
    later = {
        "notes": tuple(value["notes"]),
        **_records(value.get("target_records")),
        "data": _numeric(_frame(data), ("domain", "split")) if data["columns"] else pd.DataFrame(),
        "examples": {
            name: tuple((text, learned) for text, learned in stretches)
            for name, stretches in value.get("examples", {}).items()
        },
    }
    told = {name: value[name] for name in ("label", "status", "step", "config")}
    cost = checked(CostReport, value["cost"])
    return checked(FinetuneResult, {**told, **frames, **later, "slopes": slopes, "cost": cost})


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


def _update_from_mapping(value: Mapping[str, Any]) -> SlopeUpdate:
    return read_update(value, value["train"], value["evaluate"])


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


def verdict(results: Sequence[FinetuneResult]) -> str:
    """What the first run gained and kept on test and at which cost, and a second sentence about the comparison."""
    labels = unique_labels(results)
    sentence = sentence_about(results[0], labels[0])
    if len(results) == 1:
        return sentence
    kept = [k for k, result in enumerate(results) if kept_all(result) and target_gain(result)[0] > 0]
    best = max(kept, key=lambda k: target_gain(results[k])[0], default=None)
    group = (
        f"Of the {len(results)} runs compared, {len(kept)} gained something and kept every constraint on test"
    )
    if best is None:
        return f"{sentence} {group}."
    others = {labels[k]: gain_difference(results[best], results[k]) for k in kept if k != best}
    return f"{sentence} {group}. {_best(labels[best], _gain(results[best]), others)}"


def _best(label: str, gain: str, others: Mapping[str, Change]) -> str:
    """Who gained most, and from whom the paired differences on test records tell it apart."""
    sentence = f"The largest estimate among them, {gain}, is that of {label}"
    if not others:
        return f"{sentence}."
    unknown = [name for name, apart in others.items() if math.isnan(apart.high)]
    close = [name for name, apart in others.items() if name not in unknown and apart.high >= 0]
    parts = []
    if close:
        parts.append(f"it is not told apart from {_listed(close)}")
    if unknown:
        parts.append(f"its difference from {_listed(unknown)} was not measured on the same test records")
    if not parts:
        parts = ["it is told apart from each other one"]
    return f"{sentence}; {', and '.join(parts)} (95 % intervals of paired differences over test records)."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sentence_about(result: FinetuneResult, label: str) -> str:
    """What one run gained, kept and cost."""
    return f"{label} {_outcome(result)}, {_price(result)}."


def _outcome(result: FinetuneResult) -> str:
    """What a run came to, to follow its label."""
    if result.status == "infeasible":
        return "is infeasible: no checkpoint kept every constraint on validation, so the base weights were returned"
    if result.status == "no gain":
        return "gained nothing: no checkpoint within the constraints was better on the targets than the base weights"
    if result.status == "diverged" and result.step == 0:
        return "diverged before any checkpoint was better within the constraints, so the base weights were returned"
    diverged = result.status == "diverged"
    begin = f"diverged, and its last good checkpoint (step {result.step}) " if diverged else ""
    return f"{begin}{_moved(result)} and kept {_count_kept(result)}"


def _moved(result: FinetuneResult) -> str:
    gain, low, high = target_gain(result)
    if missing(gain):
        return "has no test result on its targets"
    doubt = ", which may be no change at all" if low <= 0 <= high else ""
    verb = "lowered" if gain >= 0 else "raised"
    low, high = (low, high) if gain >= 0 else (-high, -low)
    return f"{verb} target perplexity on test by {fixed(abs(gain), 1)} % (95 % interval {span(low, high, 1)}{doubt})"


def _gain(result: FinetuneResult) -> str:
    gain, low, high = target_gain(result)
    return f"{fixed(gain, 1)} % ({span(low, high, 1)})"


def _count_kept(result: FinetuneResult) -> str:
    own = result.final[result.final["role"] == "constraint"]
    if not len(own):
        return "no constraint, as none was set"
    broken = own[[not missing(kept) and not kept for kept in own["kept"]]]
    held = own[[not missing(kept) and bool(kept) for kept in own["kept"]]]
    open_ = int((held["change_high"] > held["tolerance"]).sum())
    doubt = f" ({open_} of them within the noise: the interval reaches beyond the tolerance)" if open_ else ""
    count = f"{len(held)} of {len(own)} constraints{doubt}"
    names = [
        f"{name} ({fixed(change, signed=True)} nats, tolerance {fixed(tolerance)})"
        for name, change, tolerance in zip(
            broken["domain"], broken["change"], broken["tolerance"], strict=True
        )
    ]
    return f"{count}; not kept: {', '.join(names)}" if names else count


def kept_all(result: FinetuneResult) -> bool:
    """Whether every constraint is known to be kept on test; true of a run without any."""
    own = result.final.loc[result.final["role"] == "constraint", "kept"]
    return all(not missing(kept) and bool(kept) for kept in own)


def _price(result: FinetuneResult) -> str:
    cost = result.cost
    return (
        f"for {fixed(cost.training_multiple, 2)} times the training steps of one fixed-mixture run "
        f"({fixed(cost.all_in_multiple, 2)} times with evaluations)"
    )
