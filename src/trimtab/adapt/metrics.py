"""The metrics of a run: its rows, losses per sequence, progress, choice of checkpoint, and the result made of them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from trimtab.adapt.cost import Ledger, cost_report
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.mixer import Decision
from trimtab.adapt.record import (
    COMPLETION_COLUMNS,
    LOSS_COLUMNS,
    RECORD_COLUMNS,
    ROUNDED,
    Status,
    Stretch,
    read_update,
    share_column,
)
from trimtab.adapt.session import Roles
from trimtab.errors import CheckpointError, explain
from trimtab.runs.atomic import atomic_directory, verify_checksums, write_checksums
from trimtab.runs.files import read_json
from trimtab.train.loop import StepStats
from trimtab.train.losses import Change, SequenceLosses, change
from trimtab.train.settings import Fit, evaluation_steps
from trimtab.train.state import load_tensors, save_tensors

Row = dict[str, Any]


def training_row(step: int, stats: StepStats) -> Row:
    """An optimiser step that stayed in the model; `step` counts it."""
    return {
        "step": step,
        "event": "training",
        "loss": stats.loss,
        "grad_norm": stats.grad_norm,
        "examples": stats.examples,
        "loss_nats": {name: nll / stats.tokens[name] for name, nll in stats.nll.items()},
    }


def evaluation_row(
    step: int, split: str, losses: Mapping[str, SequenceLosses], reference: Mapping[str, SequenceLosses]
) -> Row:
    """A reading of every evaluation domain, with its paired change from the base model."""
    moved = {name: change(read, reference[name]) for name, read in losses.items()}
    return {
        "step": step,
        "event": "evaluation",
        "split": split,
        "loss_nats": {name: read.loss for name, read in losses.items()},
        "standard_error": {name: read.standard_error for name, read in losses.items()},
        "change": {name: [m.value, m.low, m.high] for name, m in moved.items()},
    }


def decision_row(roles: Roles, step: int, decision: Decision) -> Row:
    """A mixture, with the slopes and the solution behind it where there are any."""
    weights = dict(zip(roles.train, decision.weights, strict=True))
    row: Row = {"step": step, "event": "mixture", "weights": weights}
    if decision.stop:
        row["stop"] = decision.stop
    if decision.update:
        estimate, solution = decision.update.estimate, decision.update.solution
        row |= {
            "horizon": decision.update.horizon,
            "probe_steps": estimate.steps,
            "slopes": estimate.slopes,
            "standard_errors": estimate.standard_errors,
            "predicted": dict(zip(roles.evaluate, map(float, solution.predicted), strict=True)),
            "status": solution.status,
            "conflicts": [roles.evaluate[index] for index in solution.conflicts],
            "shadow_prices": dict(zip(roles.evaluate, map(float, solution.shadow_prices), strict=True)),
        }
    return row


def write_losses(path: Path, losses: Mapping[str, SequenceLosses]) -> None:
    """Save losses per sequence as safetensors, one file per domain, with checksums."""
    with atomic_directory(path) as folder:
        for index, read in enumerate(losses.values()):
            tensors = {name: torch.from_numpy(values) for name, values in vars(read).items()}
            save_tensors(tensors, folder / f"{index}.safetensors")
        (folder / "domains.json").write_text(json.dumps(list(losses)))
        write_checksums(folder)


def read_losses(path: Path) -> dict[str, SequenceLosses]:
    """Read what `write_losses` saved.

    Raises:
        CheckpointError: it is missing, or not what was written.
    """
    names = read_json(path / "domains.json", "the domains of a run", error=CheckpointError)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path / 'domains.json'}: {explain('other values', 'the names of domains')}")
    verify_checksums(path)
    losses = {}
    for index, name in enumerate(names):
        file = path / f"{index}.safetensors"
        parts = {part: np.asarray(values) for part, values in load_tensors(file).items()}
        nll, tokens = parts.get("nll"), parts.get("tokens")
        fit = nll is not None and tokens is not None and nll.ndim == 1 and nll.shape == tokens.shape
        if not fit or set(parts) - {"nll", "tokens", "records"}:
            raise CheckpointError(f"{file}: {explain('other tensors', 'the losses of sequences')}")
        losses[name] = SequenceLosses(**parts)
    return losses


_KINDS: Mapping[str, tuple[type, ...]] = {
    "weights": (list, tuple),
    "ask_at": (int, type(None)),
    "read_at": (int, type(None)),
    "stop": (str, type(None)),
    "best_change": (int, float),
    "ledger": (dict,),
}
"""Of fields whose default does not tell what they are read back as."""


@dataclass(frozen=True)
class Progress:
    """Progress of a run: what decides how it goes on, beside the state of the loop.

    Attributes:
        weights: the mixture now.
        ask_at: the step at which the mixer wants to be asked; None for never.
        state: the mixer's.
        best_step: the best checkpoint that kept all constraints; 0 (the base weights) while there is none.
        best_change: its mean change of the target losses, nats; 0 for the base weights.
        kept_once: whether any evaluated checkpoint kept all constraints.
        training_nll: summed negative log-likelihood of what was trained on since the mixer was last asked, in nats, by
            training domain.
        training_tokens: the loss-carrying tokens behind it.
        probed: whether the mixture has just been chosen by probes, which cost too much to lose.
        last: step and changes of the constraints of the last reading of all validation sequences.
        read_at: the step at which the run is read once more, off the grid; None for nowhere.
        crossings: how often that was.
        stop: why the run ends here; None while it goes on.
        offset: bytes of metrics.jsonl that belong to it.
        ledger: what it has cost.
    """

    weights: tuple[float, ...] = ()
    ask_at: int | None = 0
    state: Mapping[str, Any] = field(default_factory=dict)
    training_nll: Mapping[str, float] = field(default_factory=dict)
    training_tokens: Mapping[str, int] = field(default_factory=dict)
    best_step: int = 0
    best_change: float = 0.0
    kept_once: bool = False
    probed: bool = False
    last: Mapping[str, Any] = field(default_factory=dict)
    read_at: int | None = None
    crossings: int = 0
    stop: str | None = None
    offset: int = 0
    ledger: Ledger = field(default_factory=Ledger)

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> Progress:
        """The progress of a checkpoint.

        Raises:
            CheckpointError: a field is missing, unknown or of another kind.
        """
        try:
            ledger = Ledger(**_fields(Ledger, saved["ledger"]))
            return cls(**{**_fields(cls, saved), "weights": tuple(saved["weights"]), "ledger": ledger})
        except (KeyError, TypeError, AttributeError) as error:
            got = f"a progress that cannot be read ({error})"
            raise CheckpointError(explain(got, "that of a checkpoint")) from error

    @property
    def training_losses(self) -> dict[str, float]:
        """Mean loss of what was trained on since the mixer was last asked, nats per token, by domain drawn."""
        return {name: nll / self.training_tokens[name] for name, nll in self.training_nll.items()}

    def spent(self, **counts: Any) -> Progress:
        """The progress with these counts and seconds added to its ledger."""
        return replace(self, ledger=self.ledger.add(**counts))

    def trained(self, stats: StepStats) -> Progress:
        """The progress after one more step."""
        nll, tokens = dict(self.training_nll), dict(self.training_tokens)
        for name, more in stats.nll.items():
            nll[name] = nll.get(name, 0.0) + more
            tokens[name] = tokens.get(name, 0) + stats.tokens[name]
        return replace(self, training_nll=nll, training_tokens=tokens)


def _fields(cls: type[Progress | Ledger], saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """The saved fields, each of the kind that it has in a fresh one."""
    for name, fresh in vars(cls()).items():
        value, kinds = saved.get(name, fresh), _KINDS.get(name, (type(fresh),))
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise TypeError(f"{name} is {value!r:.80}")
    return saved


def keeps_all(roles: Roles, moved: Mapping[str, Change], margin: float = 0.0) -> bool:
    """Whether every constraint's paired change is within its tolerance by `margin` standard errors.

    An undefined change is not, nor an undefined error where there is a margin.
    """
    reserve = {name: margin * moved[name].standard_error if margin else 0.0 for name in roles.tolerances}
    return all(moved[name].value + reserve[name] <= tolerance for name, tolerance in roles.tolerances.items())


def target_change(roles: Roles, moved: Mapping[str, Change]) -> float:
    """Mean change of the target losses, nats per token: negative is a gain."""
    return math.fsum(moved[name].value for name in roles.targets) / len(roles.targets)


def lost(now: Mapping[str, SequenceLosses], base: Mapping[str, SequenceLosses]) -> list[str]:
    """Diverged domains: those whose loss was finite in the base model and is so no more."""
    finite = [name for name in now if math.isfinite(base[name].loss)]
    return [name for name in finite if not math.isfinite(now[name].loss)]


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
    completions: pd.DataFrame | None = None,
    untold: Iterable[str] = (),
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
        data: what became of the records, from `trimtab.adapt.record.data_table`.
        data_notes: what of it the reader has to know.
        examples: what is learned of each training domain, shown on its first sequence.
        completions: of held-out prompts, from `trimtab.adapt.completions.completions_frame`.
        untold: why there are none.
    """
    mixtures = [row for row in rows if row["event"] == "mixture"]
    readings = [row for row in rows if row["event"] == "evaluation"]
    read = sum(row["event"] == "rounding" or row.get("split") == "validation" for row in rows)
    grid = len(evaluation_steps(fit.steps, fit.eval_points))
    grid_sequences = grid * (progress.ledger.monitoring_sequences // max(1, read))
    shares = [(row["step"], *(row["weights"][name] for name in roles.train)) for row in mixtures]
    train, evaluate = list(roles.train), list(roles.evaluate)
    changes = []
    for name in roles.targets:
        nats = final[name].nll - base[name].nll
        by_sequence = {"record": final[name].records, "tokens": final[name].tokens, "change": nats}
        by_record = pd.DataFrame(by_sequence).groupby("record", as_index=False).sum()
        changes.append(by_record.assign(domain=name))
    return FinetuneResult(
        label=label,
        status=_status(progress),
        step=progress.best_step,
        mixtures=pd.DataFrame(shares, columns=["step", *map(share_column, train)]),
        slopes=[read_update(row, train, evaluate) for row in mixtures if "slopes" in row],
        losses=losses_frame(readings),
        final=final_frame(roles, base, final),
        cost=cost_report(progress.ledger, fit.steps, grid_sequences, fit.batch_size),
        config=config,
        seconds=sum(progress.ledger.seconds.values()),
        target_records=pd.concat(changes, ignore_index=True)[list(RECORD_COLUMNS)],
        notes=(
            *data_notes,
            *rounding_notes(rows, progress),
            *_notes(progress, mixtures, roles, fit),
            *untold,
        ),
        data=pd.DataFrame() if data is None else data,
        examples=examples or {},
        completions=pd.DataFrame(columns=list(COMPLETION_COLUMNS)) if completions is None else completions,
    )


def losses_frame(readings: Sequence[Row]) -> pd.DataFrame:
    """One row per step, domain and split."""
    rows = [
        (row["step"], name, row["split"], loss, row["standard_error"][name], *row["change"][name])
        for row in readings
        for name, loss in row["loss_nats"].items()
    ]
    return pd.DataFrame(rows, columns=LOSS_COLUMNS).astype(dict.fromkeys(LOSS_COLUMNS[3:], float))


def final_frame(
    roles: Roles, base: Mapping[str, SequenceLosses], final: Mapping[str, SequenceLosses]
) -> pd.DataFrame:
    """The verdict per evaluation domain, on test sequences; a constraint is kept if its estimate is."""
    moved = {name: change(final[name], base[name]) for name in roles.evaluate}
    kept = {name: bool(moved[name].value <= tolerance) for name, tolerance in roles.tolerances.items()}
    rows = [
        {
            "domain": name,
            "role": roles.role(name),
            "reference": base[name].loss,
            "tolerance": roles.tolerance(name),
            "loss": final[name].loss,
            "change": moved[name].value,
            "change_low": moved[name].low,
            "change_high": moved[name].high,
            "units": moved[name].units,
        }
        for name in roles.evaluate
    ]
    return pd.DataFrame(rows).assign(kept=pd.Series(map(kept.get, roles.evaluate), dtype=object))


def _status(progress: Progress) -> Status:
    if (progress.stop or "").startswith("diverged"):
        return "diverged"
    if progress.best_step:
        return "feasible"
    return "no gain" if progress.kept_once else "infeasible"


def rounding_notes(rows: Sequence[Row], progress: Progress) -> Iterator[str]:
    """Rounding notes: what rounding to the checkpoint's type left of the chosen weights, else of the last candidate."""
    checked = [row for row in rows if row["event"] == "rounding"]
    for row in ([row for row in checked if row["step"] == progress.best_step] or checked)[-1:]:
        finite = {name: moved for name, moved in row["moved"].items() if moved is not None}
        back, losses = "none is lost", ""
        if finite:
            most = max(finite, key=lambda name: abs(finite[name]))
            losses = f", and the validation loss of {most} moves by {finite[most]:+.2g} nats, the most"
        if row["returned"]:
            back = f"{100 * row['returned']:.3g} % of them round back to where they were"
        yield (
            f"{ROUNDED}, saved in {' and '.join(row['types'])}: at step {row['step']} "
            f"{100 * row['changed']:.3g} % of the weights had changed; {back}{losses}."
        )


def _notes(progress: Progress, mixtures: Sequence[Row], roles: Roles, fit: Fit) -> Iterator[str]:
    """One line per kind: a stop, domains too rare to be drawn, diverged probes, relaxed updates, broken ones."""
    if progress.stop and progress.stop != "done":
        yield f"Stopped at step {progress.ledger.training_steps} of {fit.steps}: {progress.stop}."
    yield from _too_rare(mixtures, roles, fit)
    yield from _diverged_probes(mixtures, roles)
    yield from _relaxed(mixtures)
    yield from _broken(mixtures)


def _too_rare(mixtures: Sequence[Row], roles: Roles, fit: Fit) -> Iterator[str]:
    """Weights above zero that round to no sequence until the next mixture."""
    edges = [*(row["step"] for row in mixtures[1:]), fit.steps]
    examples = [(end - row["step"]) * fit.batch_size for row, end in zip(mixtures, edges, strict=False)]
    unseen = [
        [name for name in roles.train if 0 < row["weights"][name] * drawn < 0.5]
        for row, drawn in zip(mixtures, examples, strict=True)
    ]
    at = [place for place, names in enumerate(unseen) if names]
    if len(at) == 1:
        row, end, names = mixtures[at[0]], edges[at[0]], ", ".join(unseen[at[0]])
        yield f"From step {row['step']} to {end} the weight of {names} rounds to no sequence of {examples[at[0]]}."
    elif at:
        yield (
            f"In {len(at)} of {len(mixtures)} mixtures a weight above zero rounds to no sequence until the next "
            f"mixture: {_counted(unseen)}."
        )


def _diverged_probes(mixtures: Sequence[Row], roles: Roles) -> Iterator[str]:
    """Probes whose column of slopes is empty; where the mass is fed back, that is of a domain not trained on yet."""
    diverged = []
    for row in mixtures:
        probed = [] if row.get("status") in ("kept", "broken") else row.get("slopes", [])
        columns = zip(roles.train, zip(*probed, strict=True), strict=False)
        diverged.append([name for name, column in columns if all(slope is None for slope in column)])
    steps = [row["step"] for row, names in zip(mixtures, diverged, strict=True) if names]
    if len(steps) == 1:
        (names,) = filter(None, diverged)
        yield f"The probe of {', '.join(names)} at step {steps[0]} diverged; it got no weight."
    elif steps:
        yield f"Probes diverged at {len(steps)} updates, and got no weight there: {_counted(diverged)}."


def _relaxed(mixtures: Sequence[Row]) -> Iterator[str]:
    """Updates at which no mixture was predicted to keep every constraint."""
    updates = [row for row in mixtures if "status" in row]
    relaxed = [row for row in updates if row["status"] == "relaxed"]
    if len(relaxed) == 1:
        yield (
            f"At step {relaxed[0]['step']} no mixture was predicted to keep every constraint; "
            f"in conflict: {', '.join(relaxed[0]['conflicts'])}."
        )
    elif relaxed:
        conflicts = [row["conflicts"] for row in relaxed]
        names = {tuple(each) for each in conflicts}
        over = (
            f"all of them over {', '.join(conflicts[0])}"
            if len(names) == 1
            else f"over {_counted(conflicts)}"
        )
        yield (
            f"{len(relaxed)} of {len(updates)} updates were relaxed, as no mixture was predicted to keep every "
            f"constraint: {over}."
        )


def _broken(mixtures: Sequence[Row]) -> Iterator[str]:
    """Updates at which a constraint was broken, where the mass of the targets is fed back."""
    broken = [row for row in mixtures if row.get("status") == "broken"]
    if len(broken) == 1:
        yield f"At the update of step {broken[0]['step']} a constraint was broken: {', '.join(broken[0]['conflicts'])}."
    elif broken:
        updates = sum("status" in row for row in mixtures)
        names = _counted(row["conflicts"] for row in broken)
        yield f"At {len(broken)} of {updates} updates a constraint was broken: {names}."


def _counted(names: Iterable[Sequence[str]]) -> str:
    """How often each name occurs, the most frequent first.

    >>> _counted([["web"], ["web", "tests"], []])
    'web (2), tests (1)'
    """
    often = Counter(name for each in names for name in each)
    return ", ".join(f"{name} ({count})" for name, count in often.most_common())
