"""Cells of an audit: features that are classified, for every attribute and role, in parallel and resumably."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
from jaxtyping import Float, Int
from sklearn.feature_extraction.text import CountVectorizer

from trimtab.errors import TrimtabError, explain
from trimtab.job import Progress
from trimtab.read.leaks.classifiers import DEFAULT
from trimtab.read.leaks.estimate import Baseline, Leak, estimate_leak, fit_baseline
from trimtab.read.leaks.folds import usable_rows
from trimtab.read.leaks.questions import ROLES, Questions
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import versions
from trimtab.runs.serialise import reading_result
from trimtab.seeds import derive

Features = Callable[[np.ndarray], np.ndarray]
"""Row numbers of the questions (rows,) -> features (rows, d)."""
Against = Literal["question", "classes"]
"""What bits are measured against: the words of the question, or the shares of the classes."""
FOLDS = 5
"""Outer folds; a class in fewer groups cannot be in every one of them."""
MOST_WORDS = 2000
"""Words of a bag of words: the most frequent ones."""
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
WORD = rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+|[^\w\s]"
"""A word: a character of a script without spaces (Thai, Lao, Burmese, Khmer, Japanese, Chinese), letters and digits,
or any other sign."""


@dataclass(frozen=True)
class Cell:
    """Features from which an attribute is classified, whatever they come from: a model's readings or a transcript.

    Attributes:
        level: hidden, trajectory, logits, logprobs or answer; "" for a control that reads no level.
        features: row numbers (rows,) -> (rows, d); called in another process where there are several jobs.
        encoding: of top tokens; "" where there is none.
        k: number of tokens; None where there is none.
        lens: name of the lens of a trajectory.
        layer: number of the state, 0 for the input of the first block.
        setting: how it is served, such as "2 decimals"; "" for nothing special.
        control: name of the control; "" for none.
        against: what bits are measured against.
        shuffled: labels are dealt out anew among rows, or among groups where they are constant in each.
    """

    level: str
    features: Features
    encoding: str = ""
    k: int | None = None
    lens: str = ""
    layer: int | None = None
    setting: str = ""
    control: str = ""
    against: Against = "question"
    shuffled: bool = False

    @property
    def name(self) -> dict[str, Any]:
        """Every field that tells it from other cells."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "features"}

    @property
    def title(self) -> str:
        """The cell in a few words, such as "logprobs served k 20"."""
        numbers = [f"{name} {it}" for name, it in (("k", self.k), ("layer", self.layer)) if it is not None]
        return " ".join(
            filter(None, [self.control, self.level, self.lens, self.encoding, *numbers, self.setting])
        )


@dataclass(frozen=True)
class Measured:
    """A cell measured for one attribute in one role.

    Attributes:
        rows: (n,) numbers of the questions that have the attribute in this role, those of the leak's arrays.
        leak: None where it could not be estimated.
        why: why not.
    """

    attribute: str
    role: str
    cell: Cell
    rows: Int[np.ndarray, " n"]
    leak: Leak | None
    why: str = ""


@dataclass(frozen=True)
class Samples:
    """Rows of the questions that have an attribute in a role, with what the classifiers need of them.

    Attributes:
        rows: (n,) numbers of the questions.
        labels: (n,) text.
        groups: (n,) whole numbers.
        known: (n, words) bag of words of what the caller knows anyway; None where that is nothing.
        aside: reason -> questions that have the attribute in this role and cannot be used.
    """

    attribute: str
    role: str
    rows: Int[np.ndarray, " n"]
    labels: np.ndarray
    groups: Int[np.ndarray, " n"]
    known: Float[np.ndarray, "n words"] | None
    aside: Mapping[str, int]


def samples_of(questions: Questions) -> Iterator[Samples]:
    """Rows of each attribute in each role that some question has it in; rows of classes too rare are set aside."""
    for attribute in map(str, questions.attributes.columns):
        labels, roles = questions.attributes[attribute], questions.roles[attribute]
        for role in ROLES:
            rows = np.flatnonzero((labels.notna() & (roles == role)).to_numpy())
            if len(rows):
                told = labels.to_numpy(dtype=object)[rows].astype(str)
                usable, aside = usable_rows(told, questions.groups[rows], FOLDS)
                rows, told = rows[usable], told[usable]
                known = (
                    words_of([questions.known[row] for row in rows]) if questions.known is not None else None
                )
                yield Samples(attribute, role, rows, told, questions.groups[rows], known, aside)


@dataclass(frozen=True)
class _Task:
    """A cell with what it is measured on, as a process gets it."""

    samples: Samples
    cell: Cell
    classifiers: Sequence[str]
    seed: int
    store: Path | None
    stamp: str

    @cached_property
    def path(self) -> Path | None:
        """File that keeps the leak; None where nothing is kept."""
        return None if self.store is None else self.store / f"{self.key()}.json"

    @property
    def is_kept(self) -> bool:
        """Whether the leak was measured before."""
        return self.path is not None and self.path.is_file()

    @cached_property
    def labels(self) -> np.ndarray:
        """(n,) labels that are classified: dealt out anew where the cell is shuffled."""
        samples = self.samples
        if not self.cell.shuffled:
            return samples.labels
        return dealt(samples.labels, samples.groups, self.seed)

    @property
    def needs_baseline(self) -> bool:
        """Whether it has to be measured, above something that is known anyway."""
        known = self.cell.against == "question" and self.samples.known is not None
        return known and len(np.unique(self.samples.labels)) > 1 and not self.is_kept

    @cached_property
    def baseline_key(self) -> str:
        """Digest of all that its baseline depends on."""
        samples = self.samples
        asked = json.dumps([self.labels.tolist(), samples.groups.tolist(), self.seed, list(self.classifiers)])
        known = b"" if samples.known is None else samples.known.tobytes()
        return hashlib.sha256(asked.encode() + known).hexdigest()

    def key(self) -> str:
        """Digest of everything that the leak depends on; of the features only their stamp."""
        samples = self.samples
        known = b"" if samples.known is None else samples.known.tobytes()
        parts = [json.dumps([self.stamp, samples.attribute, samples.role, self.cell.name, self.seed])]
        parts += [repr(self.classifiers), json.dumps(samples.labels.tolist())]
        numbers = samples.rows.tobytes() + np.ascontiguousarray(samples.groups).tobytes() + known
        return hashlib.sha256("\n".join(parts).encode() + numbers).hexdigest()[:32]


def dealt(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Labels dealt out anew, group after group in an order drawn from the seed, so that those of a group stay together.

    Their shares stay the same; where each group has one label, groups are dealt one each and shares stay about the
    same. Labels that go together in a group make intervals of rows alone too narrow, which shuffled rows would hide.

    >>> dealt(np.array(["a", "a", "b", "b"]), np.array([0, 0, 1, 1]), 1).tolist() in (list("aabb"), list("bbaa"))
    True
    """
    rng = np.random.default_rng(derive(seed, "shuffled labels"))
    names, first, place = np.unique(groups, return_index=True, return_inverse=True)
    if len(names) < len(labels) and (labels == labels[first][place]).all():
        return np.asarray(labels[first][rng.permutation(len(names))][place])
    drawn = rng.permutation(len(labels))
    dealt_from = drawn[np.argsort(rng.permutation(len(names))[place[drawn]], kind="stable")]
    out = np.empty_like(labels)
    out[np.argsort(place, kind="stable")] = labels[dealt_from]
    return out


def measured(
    cells: Iterable[Cell],
    questions: Questions,
    *,
    classifiers: Sequence[str] = DEFAULT,
    seed: int = 0,
    jobs: int = 1,
    store: Path | None = None,
    stamp: str = "",
    progress: Progress | None = None,
    baselines: Baselines | None = None,
) -> list[Measured]:
    """Leak of each cell for each attribute and role, in that order; the same for any number of jobs.

    All cells of an attribute and role share their folds, so that their leaks can be compared row by row.

    Args:
        cells: what is classified.
        questions: labels, roles, groups, and what is known anyway.
        classifiers: see `estimate_leak`.
        seed: of folds and classifiers.
        jobs: processes, one thread each.
        store: folder that keeps every finished cell; a call that was killed goes on from there.
        stamp: of the features; kept cells of another stamp, or of other versions, are measured again.
        progress: called with the cells done and in all.
        baselines: those that this audit has fitted already; None for none.

    Returns:
        One per attribute, role and cell; those that could not be estimated have no leak, and say why.
    """
    if store is not None:
        stamp = json.dumps([stamp, versions()])
    tasks = [
        _Task(samples, cell, classifiers, derive(seed, "leak", samples.attribute, samples.role), store, stamp)
        for samples in samples_of(questions)
        for cell in cells
    ]
    done: list[Measured] = []
    outcomes = _each(tasks, jobs, Baselines() if baselines is None else baselines)
    for task, (leak, why) in zip(tasks, outcomes, strict=True):
        done.append(
            Measured(task.samples.attribute, task.samples.role, task.cell, task.samples.rows, leak, why)
        )
        if progress is not None:
            progress(len(done), len(tasks))
    return done


def words_of(texts: Sequence[str]) -> Float[np.ndarray, "n words"]:
    """Binary bag of words: 1 where a text has a word; of the most frequent ones that are not in every text.

    Signs, pictograms and characters of scripts without spaces count as words, since they too can name an attribute.

    >>> words_of(["a red cube", "a blue cube"]).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    if not len(texts):
        return np.zeros((0, 0))
    counter = CountVectorizer(binary=True, token_pattern=WORD, max_features=MOST_WORDS)
    try:
        bag = np.asarray(counter.fit_transform(texts).todense(), dtype=np.float64)
    except ValueError:  # there is no word in any text
        return np.zeros((len(texts), 0))
    return bag[:, bag.min(axis=0) < 1]


def _each(tasks: Sequence[_Task], jobs: int, baselines: Baselines) -> Iterator[tuple[Leak | None, str]]:
    """The outcome of each task, in order: here, or in processes of one thread each, baselines before cells."""
    if jobs == 1:
        yield from (_leak_of(task, baselines.of(task)) for task in tasks)
        return
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        run = joblib.Parallel(n_jobs=jobs, return_as="generator")
        wanted = baselines.missing(tasks)
        baselines.add(wanted, run(joblib.delayed(_fitted)(task) for task in wanted.values()))
        yield from run(joblib.delayed(_leak_of)(task, baselines.of(task)) for task in tasks)


class Baselines:
    """Fitted baselines of an audit, each fitted once: all cells of an attribute in a role share theirs.

    What is kept is small: folds and predictions. The features of a baseline are those of the cell that asks.
    """

    def __init__(self) -> None:
        self._fitted: dict[str, Baseline | str] = {}

    def __len__(self) -> int:
        """Number of baselines that were fitted, or refused."""
        return len(self._fitted)

    def of(self, task: _Task) -> Baseline | str | None:
        """Baseline of a task, fitted where it is new; the reason where it cannot be; None where none is needed."""
        if not task.needs_baseline:
            return None
        if task.baseline_key not in self._fitted:
            self.add([task.baseline_key], [_fitted(task)])
        known = self._fitted[task.baseline_key]
        return known if isinstance(known, str) else replace(known, features=task.samples.known)

    def missing(self, tasks: Iterable[_Task]) -> dict[str, _Task]:
        """Key -> a task of each baseline that tasks need and that was not fitted yet."""
        wanted = {task.baseline_key: task for task in tasks if task.needs_baseline}
        return {key: task for key, task in wanted.items() if key not in self._fitted}

    def add(self, keys: Iterable[str], fitted: Iterable[Baseline | str]) -> None:
        """Keep baselines, without their features."""
        for key, one in zip(keys, fitted, strict=True):
            self._fitted[key] = one if isinstance(one, str) else replace(one, features=None)


def _fitted(task: _Task) -> Baseline | str:
    """What is known anyway, fitted; the reason where it cannot be."""
    samples, names = task.samples, task.classifiers
    try:
        return fit_baseline(
            task.labels, samples.groups, samples.known, task.seed, classifiers=names, folds=FOLDS
        )
    except TrimtabError as error:
        return str(error)


def _leak_of(task: _Task, baseline: Baseline | str | None) -> tuple[Leak | None, str]:
    """Leak of a cell, from the store where it is there; None with the reason where it is refused."""
    path, samples = task.path, task.samples
    if path is not None and path.is_file():
        return _read(path)
    if (classes := len(np.unique(samples.labels))) < 2:
        noun = "class" if classes == 1 else "classes"
        got = f"{classes} {noun} in at least {FOLDS} groups"
        return None, explain(got, "at least two", "more questions")
    if isinstance(baseline, str):
        return None, baseline
    how: dict[str, Any] = {"classifiers": task.classifiers, "folds": FOLDS}
    try:
        features = np.asarray(task.cell.features(samples.rows))
        leak = estimate_leak(features, task.labels, samples.groups, baseline, task.seed, **how)
    except TrimtabError as error:
        return None, str(error)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {one.name: getattr(leak, one.name) for one in fields(leak)}
        write_atomic(path, json.dumps(values, default=lambda it: it.tolist()))
    return leak, ""


def _read(path: Path) -> tuple[Leak, str]:
    """A leak as it was kept; JSON's own nan and infinity are read back too."""
    with reading_result(path):
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        arrays: dict[str, Any] = {k: np.array(it) if isinstance(it, list) else it for k, it in values.items()}
        return Leak(**arrays), ""
