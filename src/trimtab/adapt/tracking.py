"""Experiment trackers of a run: its metrics as scalars for those that Accelerate knows, as rows for a callable."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType

from trimtab.adapt.metrics import Progress, Row
from trimtab.adapt.session import Roles
from trimtab.errors import ConfigError, Problem, explain, install_hint, not_among
from trimtab.runs.folder import RunFolder
from trimtab.runs.serialise import plain
from trimtab.train.settings import Fit

Receiver = Callable[[Row], Any]
LogWith = str | Receiver | Sequence[str | Receiver] | None
"""A tracker that Accelerate knows, a callable that gets the rows of metrics.jsonl, or several of both."""
PROJECT = "trimtab"
"""Project of the trackers that have projects, unless their own environment variable names one."""
TRACKED = ("trackio", "tensorboard")
"""The trackers of the extra `track`."""
LOGGED = "logged.json"
"""In artifacts: which rows each tracker has, so that a run that goes on logs none twice."""


def scalars(row: Row, roles: Roles, fit: Fit) -> dict[str, float]:
    """A row of the metrics as named numbers; what is not finite is left out.

    >>> from trimtab.adapt.session import make_roles
    >>> roles = make_roles(["math", "web"], [], ["math"], {"web": 0.05})
    >>> losses, change = {"math": 2.0, "web": 3.0}, {"math": [-0.5, -1, 0], "web": [0.0, -1, 1]}
    >>> row = {"step": 8, "event": "evaluation", "split": "validation", "loss_nats": losses, "change": change}
    >>> scalars(row, roles, Fit())["eval/slack/web"]
    0.05
    """
    named: dict[str, Any] = {}
    losses = row.get("loss_nats", {})
    if row["event"] == "training":
        named = {"train/loss": row["loss"], "train/grad_norm": row["grad_norm"]}
        named["train/lr"] = fit.lr_at(row["step"] - 1)
        named |= {f"train/loss/{name}": loss for name, loss in losses.items()}
    elif row["event"] == "mixture":
        named = {f"mixture/{name}": share for name, share in row["weights"].items()}
        if "status" in row:
            named["mixture/relaxed"] = float(row["status"] in ("relaxed", "broken"))
    elif row["event"] == "evaluation":
        split = "test" if row["split"] == "test" else "eval"
        moved = {name: change[0] for name, change in row["change"].items()}
        limits = {name: roles.tolerances[name] for name in moved if name in roles.tolerances}
        left = {name: limit - moved[name] for name, limit in limits.items() if moved[name] is not None}
        for kind, values in (("loss", losses), ("change", moved), ("slack", left)):
            named |= {f"{split}/{kind}/{name}": value for name, value in values.items()}
    return {name: float(value) for name, value in named.items() if _finite(value)}


def log_problems(log_with: LogWith, *, kept: bool = True) -> Iterator[Problem]:
    """Trackers that are unknown or not installed, and what is neither a name nor a callable; imports none of them.

    Args:
        log_with: as `finetune` takes it.
        kept: whether the run has a folder that stays.
    """
    builtin = {str(member) for member in LoggerType}
    available = {str(member) for member in get_available_trackers()}
    for one in receivers(log_with):
        if isinstance(one, type) or not (callable(one) or isinstance(one, str)):
            known = next((name for name, it in LOGGER_TYPE_TO_CLASS.items() if it is one), None)
            expected = "a tracker's name, a callable that gets rows, or a list of such"
            yield Problem("log_with", f"{one!r:.80}", expected, repr(known) if known else "")
        elif callable(one):
            continue
        elif one not in LOGGER_TYPE_TO_CLASS:
            yield not_among("log_with", one, LOGGER_TYPE_TO_CLASS)
        elif one in builtin and one not in available:
            hint = install_hint("track") if one in TRACKED else f"pip install {one}"
            yield Problem("log_with", f"{one!r}, which is not installed", "an installed tracker", hint)
        elif LOGGER_TYPE_TO_CLASS[one].requires_logging_directory and not kept:
            expected = "a folder of the run, which it writes into"
            yield Problem("log_with", f"{one!r} without a folder", expected, "out='runs/my-1'")


def receivers(log_with: LogWith) -> list[str | Receiver]:
    """The trackers and callables, as a list."""
    several = isinstance(log_with, Sequence) and not isinstance(log_with, str | bytes)
    return list(log_with) if several else [] if log_with is None else [log_with]  # type: ignore[arg-type, list-item]


class Logger:
    """A tracker of a run: it gets each row once; one that fails is dropped with a warning.

    Args:
        name: what it is called in the warning.
        send: takes a row.
        logged: rows of this run that it has already.
        note: called with their number, after each one.
    """

    def __init__(self, name: str, send: Receiver, logged: int, note: Callable[[int], None]) -> None:
        self.name, self.send, self.logged, self.note = name, send, logged, note
        self.rows, self.failed = 0, False

    def resume(self, rows: Sequence[Row], progress: Progress) -> None:  # noqa: ARG002
        """Send what it lacks of earlier sessions."""
        for row in rows:
            self.row(row)

    def row(self, row: Row) -> None:
        """Send one more row, unless it was sent before the run was interrupted."""
        self.rows += 1
        if self.failed or self.rows <= self.logged:
            return
        try:
            self.send(plain(row))
        except Exception as error:
            self.fail(error)
        else:
            self.logged = self.rows
            self.note(self.logged)

    def fail(self, error: Exception) -> None:
        """Warn, and send nothing more."""
        self.failed = True
        what = f"{type(error).__name__}: {error}"
        warnings.warn(f"log_with: {self.name} failed ({what}); the run goes on without it", stacklevel=2)


@contextmanager
def loggers(
    log_with: LogWith, folder: RunFolder | None, name: str, config: Mapping[str, Any], roles: Roles, fit: Fit
) -> Iterator[list[Logger]]:
    """The loggers of a run while it goes on, started and finished; none on processes without its folder.

    Args:
        log_with: as `finetune` takes it.
        folder: of the run.
        name: of the run.
        config: logged once.
        roles: the domains by role.
        fit: the settings.

    Raises:
        ConfigError: a tracker does not start.
    """
    wanted = receivers(log_with)
    if folder is None or not wanted:
        yield []
        return
    record, flat = _Record(folder.artifacts / LOGGED), dict(_flat(plain(config)))
    with ExitStack() as stack:
        started = []
        for place, one in enumerate(wanted):
            if callable(one):
                known, send = f"callable {place + 1}", one
            else:
                begun = one in record.rows
                tracker = _started(one, folder.path, name, record.id, {} if begun else flat, resumed=begun)
                stack.callback(_finish, one, tracker)
                known, send = one, _sender(tracker, roles, fit)
            record.note(known, record.rows.get(known, 0))
            started.append(Logger(known, send, record.rows[known], partial(record.note, known)))
        yield started


class _Record:
    """Which rows each tracker has, on disk."""

    def __init__(self, path: Path) -> None:
        self.path, self.id, self.rows = path, uuid.uuid4().hex[:12], dict[str, int]()
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            earlier = json.loads(path.read_text(encoding="utf-8"))
            self.rows = {name: int(rows) for name, rows in earlier["rows"].items()}
            self.id = str(earlier["id"])

    def note(self, name: str, rows: int) -> None:
        self.rows[name] = rows
        with suppress(OSError):
            self.path.write_text(json.dumps({"id": self.id, "rows": self.rows}), encoding="utf-8")


def _started(
    name: str, path: Path, own: str, identity: str, config: Mapping[str, Any], *, resumed: bool
) -> Any:
    """A tracker of Accelerate under the run's name, in one project; a member of a group in its group.

    The config is text in TensorBoard, whose table of settings would make a run of its own.
    """
    group = path.parent.parent.name if path.parent.name == "members" else None
    tracker_class, settings = LOGGER_TYPE_TO_CLASS[name], dict[str, Any]()
    project = os.environ.get(f"{name.upper()}_PROJECT") or PROJECT
    if name == "wandb":
        settings = {"name": own, "group": group, "config": config, "id": identity, "resume": "allow"}
    if name == "trackio":  # goes on by name, so that it has to be one of its own
        settings = {"name": f"{own}-{identity[:4]}", "group": group, "config": dict(config)}
        settings["resume"] = "allow" if resumed else "never"
    if name == "mlflow":
        settings = {"run_name": own}
    places = (name, str(path)) if tracker_class.requires_logging_directory else (project,)
    try:
        with redirect_stdout(sys.stderr):  # stdout is for data
            tracker = tracker_class(*places, **settings)
            tracker.start()
            if name == "tensorboard" and config:
                tracker.log({"config": "\n".join(f"    {key}: {it}" for key, it in config.items())}, step=0)
            elif "config" not in settings and config:
                tracker.store_init_configuration(dict(config))
    except Exception as error:
        got = f"{name}, which does not start ({type(error).__name__}: {error})"
        raise ConfigError(
            f"log_with: {explain(got, 'a tracker that can be reached', 'another one')}"
        ) from error
    return tracker


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, one in value.items():
            yield from _flat(one, f"{key}.{name}" if key else name)
    else:
        yield (
            key,
            value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value),
        )


def _sender(tracker: Any, roles: Roles, fit: Fit) -> Receiver:
    def send(row: Row) -> None:
        if named := scalars(row, roles, fit):
            tracker.log(named, step=row["step"])

    return send


def _finish(name: str, tracker: Any) -> None:
    """End a run of a tracker; trackio by its own function, since it would end it once more at exit."""
    try:
        with redirect_stdout(sys.stderr):
            (importlib.import_module(name) if name == "trackio" else tracker).finish()
    except Exception as error:
        warnings.warn(f"log_with: {name} did not finish ({type(error).__name__}: {error})", stacklevel=2)


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
