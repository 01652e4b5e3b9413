"""Live line of a fine-tuning run, from its metrics: loss, learning rate, changes against their limits, mixture."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trimtab.adapt.metrics import Progress, Row
from trimtab.adapt.session import Roles
from trimtab.errors import Problem
from trimtab.job import Progress as Tell
from trimtab.runs.live import Bars, Line
from trimtab.train.settings import Fit

Shown = Tell | Literal[False] | None
"""Progress of a run from Python: None shows it, False is silent, a callable is told the steps done and in all."""
SMOOTHING = 0.9
"""What a step leaves of the mean training loss before it."""
MOST_TITLE = 24
"""Letters of a run's label before its line."""


@dataclass(frozen=True)
class Shape:
    """What of a run is shown, and how long names may be."""

    name: int | None = None
    mixture: bool = False
    monitored: bool = False
    lr: bool = True
    every: bool = True
    """Every constraint and target, or of each the worst."""


SHAPES = (
    Shape(None, mixture=True, monitored=True),
    Shape(10, mixture=True, monitored=True),
    Shape(None, monitored=True),
    Shape(10, monitored=True),
    Shape(None),
    Shape(10),
    Shape(10, lr=False),
    Shape(6, lr=False),
    Shape(10, every=False),
    Shape(6, every=False, lr=False),
)
"""From the whole line to the least of it; the first one that fits is shown."""


class RunWords:
    """A run in words, from the rows of its metrics: call it with the columns that there are.

    >>> from trimtab.adapt.session import make_roles
    >>> words = RunWords(make_roles(["math", "web"], [], ["math"], {"web": 0.05}), Fit(steps=200))
    >>> words.add({"event": "training", "step": 71, "loss": 2.412})
    >>> change = {"math": [-0.05, -0.06, -0.04], "web": [0.062, 0.05, 0.07]}
    >>> words.add({"event": "evaluation", "step": 71, "split": "validation", "change": change})
    >>> words.add({"event": "mixture", "step": 71, "weights": {"math": 0.78, "web": 0.22}})
    >>> words(80)
    'step 71/200  loss 2.41  lr 1e-4  math -0.050  web +0.062/0.050!'
    """

    def __init__(self, roles: Roles, fit: Fit) -> None:
        self.roles, self.fit, self.step = roles, fit, 0
        self.loss: float | None = None
        self.base: Mapping[str, float | None] = {}
        self.moved: dict[str, float] = {}
        self.weights: Mapping[str, float] = {}

    def add(self, row: Row) -> None:
        """Take in one more row of the metrics, as it is or as it was read back (null for nan)."""
        self.step = int(row["step"])
        if row["event"] == "training":
            self.loss = row["loss"] if self.loss is None else _mean(self.loss, row["loss"])
        elif row["event"] == "evaluation" and row["split"] == "validation":
            self.base, self.moved = {} if self.step else row["loss_nats"], _changes(row)
        elif row["event"] == "mixture":
            self.weights = row["weights"]

    def __call__(self, width: int) -> str:
        """The parts that fit; names are shortened, nothing is wrapped."""
        return _fitting(self._parts, width)

    def tested(self, row: Row) -> Callable[[int], str]:
        """The changes on test, as words."""
        if not row["step"]:
            return lambda width: "test: the base weights stay"[:width]
        head = f"test at step {row['step']}"
        return lambda width: _fitting(lambda shape: [head, *self._of_changes(_changes(row), shape)], width)

    def _parts(self, shape: Shape) -> Iterator[str]:
        yield f"step {self.step}/{self.fit.steps}"
        if self.base and not self.step:
            judged = [*self.roles.targets, *self.roles.tolerances]
            shown = [name for name in self.base if shape.monitored or name in judged]
            losses = (f"{_short(name, shape.name)} {_number(self.base[name]):.3f}" for name in shown)
            yield "base model  " + "  ".join(losses)
            return
        if self.loss is not None:
            yield f"loss {self.loss:.2f}"
            if shape.lr:
                yield f"lr {_rate(self.fit.lr_at(max(0, self.step - 1)))}"
        yield from self._of_changes(self.moved, shape)
        shares = {name: round(100 * share) for name, share in self.weights.items()}
        if shape.mixture and any(shares.values()):
            parts = (f"{_short(name, shape.name)} {share} %" for name, share in shares.items() if share)
            yield "mixture " + " ".join(parts)

    def _of_changes(self, moved: Mapping[str, float], shape: Shape) -> Iterator[str]:
        """Targets, constraints with their limits, a mark on those that are broken, and the monitored domains."""
        limits = self.roles.tolerances
        targets = [name for name in self.roles.targets if name in moved]
        constraints = [name for name in limits if name in moved]
        if not shape.every:
            targets = sorted(targets, key=lambda name: -_ranked(moved[name]))[:1]
            constraints = sorted(constraints, key=lambda name: limits[name] - _ranked(moved[name]))[:1]
        for name in targets:
            yield f"{_short(name, shape.name)} {_signed(moved[name])}"
        for name in constraints:
            limit = f"{limits[name]:.3f}" if limits[name] == round(limits[name], 3) else f"{limits[name]:g}"
            broken = "" if moved[name] <= limits[name] else "!"
            yield f"{_short(name, shape.name)} {_signed(moved[name])}/{limit}{broken}"
        hidden = len({*self.roles.targets, *limits} & {*moved}) - len(targets) - len(constraints)
        if hidden:
            yield f"+{hidden} more"
        if shape.monitored:
            others = [name for name in moved if name not in self.roles.targets and name not in limits]
            yield from (f"({_short(name, shape.name)} {_signed(moved[name])})" for name in others)


class LiveRun:
    """What a run tells its line: words after every row, and lines that stay where it goes on and where it ends."""

    def __init__(self, line: Line, roles: Roles, fit: Fit) -> None:
        self.line, self.words = line, RunWords(roles, fit)
        line.say(lambda width: "reading the base model's losses"[:width])

    def resume(self, rows: Sequence[Row], progress: Progress | None = None) -> None:  # noqa: ARG002
        """Take in the rows of an earlier session."""
        for row in rows:
            self.words.add(row)
        step, steps = self.words.step, self.words.fit.steps
        self.line.keep(lambda width: f"goes on at step {step} of {steps}"[:width])
        self.line.say(self.words)

    def row(self, row: Row) -> None:
        """Show one more row."""
        if row["event"] == "evaluation" and row["split"] == "test":
            self.line.keep(self.words.tested(row))
            return
        self.words.add(row)
        self.line.say(self.words, mark=row["event"] == "evaluation")


class Ticks:
    """Steps of a run, real and on trial, told as it pauses between them; a resumed run counts on.

    Args:
        check: called first; may raise `Paused`.
        tell: called with the steps done and in all.
        taken: says how many steps this session took.
        total: of the whole run.
    """

    def __init__(
        self, check: Callable[[], None], tell: Tell | None, taken: Callable[[], int], total: int
    ) -> None:
        self.check, self.tell, self.taken, self.total, self.earlier = check, tell, taken, total, 0

    def __call__(self) -> None:
        """Tell where the run is, unless it is interrupted."""
        self.check()
        if self.tell is not None:
            self.tell(min(self.earlier + self.taken(), self.total), self.total)

    def resume(self, rows: Sequence[Row], progress: Progress) -> None:  # noqa: ARG002
        """Count on from those of an earlier session."""
        self.earlier = progress.ledger.training_steps + progress.ledger.probe_steps

    def row(self, row: Row) -> None:
        """Nothing: steps are told between rows."""


def shown_problems(progress: Any) -> Iterator[Problem]:
    """The problem of a `progress` that is none of `Shown`."""
    if isinstance(progress, type) or not (progress is None or progress is False or callable(progress)):
        hint = "progress=None, which shows the run" if progress is True else ""
        expected = "None, False, or a callable that is told the steps done and in all"
        yield Problem("progress", f"{progress!r:.80}", expected, hint)


@contextmanager
def live_line(progress: Shown) -> Iterator[Line | None]:
    """The line that a run is shown on: one on stderr, the caller's, or none."""
    if progress is None:
        with Bars() as bars:
            yield bars.bar("")
        return
    if isinstance(progress, Line):
        progress.title = ""
    yield progress if isinstance(progress, Line) else None


class Followed:
    """A run that is shown by the rows it writes, in whichever process; those there already are of an earlier session.

    Args:
        title: before its words.
        metrics: its metrics.jsonl, which need not be there yet.
        beside: its line is made below this one, at the first row.
        roles: the domains by role.
        fit: its settings.
    """

    def __init__(self, title: str, metrics: Path, beside: Line, roles: Roles, fit: Fit) -> None:
        self.title = title if len(title) <= MOST_TITLE else f"{title[: MOST_TITLE - 1]}."
        self.metrics, self.beside, self.roles, self.fit = metrics, beside, roles, fit
        self.live: LiveRun | None = None
        self.offset = 0
        self.earlier = self._read()

    @property
    def finished(self) -> bool:
        """Whether an earlier session ended it."""
        return any(row.get("split") == "test" for row in self.earlier)

    def poll(self) -> None:
        """Show the rows that were written since the last look."""
        if self.metrics.exists() and self.metrics.stat().st_size < self.offset:
            self.offset = self.metrics.stat().st_size  # a resume cut back what no checkpoint held
        rows = self._read()
        if rows and self.live is None:
            self.live = LiveRun(self.beside.another(self.title), self.roles, self.fit)
            if self.earlier:
                self.live.resume(self.earlier)
        for row in rows:
            if self.live is not None:
                if row["event"] == "training":
                    self.live.line(row["step"], self.fit.steps)
                self.live.row(row)
                if row.get("split") == "test":
                    self.live.line.end()

    def _read(self) -> list[Row]:
        """Whole rows behind the last one read."""
        try:
            with self.metrics.open("rb") as file:
                file.seek(self.offset)
                whole = file.read().rpartition(b"\n")[0]
            rows = [json.loads(line) for line in whole.splitlines()]
        except (OSError, ValueError):
            return []
        self.offset += len(whole) + 1 if whole else 0
        return rows


@contextmanager
def following(
    progress: Any, runs: Mapping[str, Path], roles: Roles, fit: Fit, every: float = 0.5
) -> Iterator[None]:
    """Show several runs below the line of their group while the block runs; nothing where that is no line.

    Args:
        progress: of the group.
        runs: label -> metrics.jsonl.
        roles: the domains by role.
        fit: settings of all.
        every: seconds between looks.
    """
    if not isinstance(progress, Line):
        yield
        return
    members = [Followed(label, path, progress, roles, fit) for label, path in runs.items()]
    progress(sum(member.finished for member in members), len(members))
    over = threading.Event()

    def look() -> None:
        for member in members:
            with suppress(OSError):
                member.poll()

    def watch() -> None:
        while not over.wait(every):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        look()


def _fitting(parts: Callable[[Shape], Any], width: int) -> str:
    """The parts of the first shape that fits, else the first parts of the last that do."""
    left: list[str] = []
    for shape in SHAPES:
        left = list(parts(shape))
        if len("  ".join(left)) <= width:
            break
    while len(left) > 1 and len("  ".join(left)) > width:
        left.pop()
    return "  ".join(left)[:width]


def _short(name: str, most: int | None) -> str:
    return name if most is None or len(name) <= most else f"{name[: most - 1]}."


def _rate(lr: float) -> str:
    """A learning rate as one writes it: 1e-4, 9.8e-5."""
    digits, _, power = f"{lr:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def _changes(row: Row) -> dict[str, float]:
    return {name: _number(each[0]) for name, each in row["change"].items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _signed(change: float) -> str:
    return f"{change:+.3f}".replace("-0.000", "+0.000")


def _mean(before: float, now: float) -> float:
    return SMOOTHING * before + (1 - SMOOTHING) * now


def _ranked(change: float) -> float:
    return math.inf if math.isnan(change) else change
