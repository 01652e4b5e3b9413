"""Domains of a comparison: where their records are, which of them are read, and what each may lose."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from trimtab.adapt.compare.tasks import Task, question_of
from trimtab.data.domains import Domain, Origin, as_domains, origin_problems, read_domain
from trimtab.data.splits import Part, pool_of, source_of
from trimtab.errors import ConfigProblems, Problem, nearest, not_among
from trimtab.runs.config import read_config, read_mapping

Records = Literal["all", "test"]
_HELD_OUT = ("test", "validation", "train")
"""Splits that a domain with splits of its own is read on: the first that it has."""


@dataclass(frozen=True)
class ComparedDomain(Origin):
    """A domain to compare two models on, as a domains file has it.

    Attributes:
        tolerance: nats per token by which the loss may rise (nats per byte where tokenizers differ); null for none.
        task: "exact", where a greedy completion has to begin with the record's completion, or "choice", where the
            completion has to be the likeliest of the record's `choices`; null where records are no tasks.
        points: points of accuracy, hundredths, that the task may lose; null for none.
        records: of a file "all", or those of the "test" split that fine-tuning on the file would hold out. Of a folder
            or data set with splits of its own always its test split, else its validation split.
    """

    tolerance: float | None = None
    task: Task | None = None
    points: float | None = None
    records: Records = "all"


@dataclass(frozen=True)
class Asked:
    """What is asked of a domain: its records as a test split, its task, and what it may lose.

    Attributes:
        domain: with a test split alone.
        tolerance: nats per token or byte; None for none.
        task: of its records; None where they are only read.
        points: of accuracy that the task may lose; None for none.
    """

    domain: Domain
    tolerance: float | None = None
    task: Task | None = None
    points: float | None = None


def domain_problems(domains: Mapping[str, str | ComparedDomain]) -> Iterator[Problem]:
    """Problems of the domains of a config that can be seen without reading their records."""
    if not domains:
        yield Problem("domains", "none", "at least one", "{web: {path: web.jsonl, tolerance: 0.02}}")
    for name, given in domains.items():
        where = f"domains.{name}"
        yield from origin_problems(f"{where}.path" if isinstance(given, ComparedDomain) else where, given)
        if not name.strip():
            yield Problem("domains", f"{name!r} as a name", "a text that is not blank")
        if isinstance(given, ComparedDomain):
            yield from limit_problems(where, given.tolerance, given.task, given.points)


def limit_problems(
    where: str, tolerance: float | None, task: str | None, points: float | None
) -> Iterator[Problem]:
    """Problems of what a domain may lose.

    >>> print(*limit_problems("domains.web", -0.1, None, None))
    domains.web.tolerance: got -0.1, expected a number of at least 0, nats per token
    """
    if task is not None and task not in get_args(Task):
        yield not_among(f"{where}.task", task, get_args(Task))
    if tolerance is not None and not (_is_number(tolerance) and 0 <= tolerance < math.inf):
        yield Problem(f"{where}.tolerance", repr(tolerance), "a number of at least 0, nats per token")
    if points is None:
        return
    if task is None:
        yield Problem(
            f"{where}.points", "it without a task", "it beside task: exact or task: choice", "tolerance"
        )
    if not (_is_number(points) and 0 <= points <= 100):
        yield Problem(f"{where}.points", repr(points), "a number from 0 to 100, points of accuracy")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def given_domains(domains: Any) -> Any:
    """Domains of a call with the mappings that have a `path` read as a domains file has them; a path is such a file.

    Raises:
        ConfigProblems: every mistake in them.
    """
    if isinstance(domains, str | Path):
        domains = read_mapping(Path(domains).expanduser())
    if not isinstance(domains, Mapping):
        return domains
    read, problems = dict[Any, Any](), list[Problem]()
    for name, given in domains.items():
        read[name] = given
        if isinstance(given, Mapping) and isinstance(given.get("path"), str | Path):
            try:
                read[name] = read_config({**given, "path": str(given["path"])}, ComparedDomain)
            except ConfigProblems as error:
                where = f"domains[{name!r}]"
                problems += [replace(one, where=f"{where}.{one.where}") for one in error.problems]
    if problems:
        raise ConfigProblems(problems)
    return read


def given_problems(
    domains: Any, tolerances: Mapping[str, Any], tasks: Mapping[str, Any], points: Mapping[str, Any]
) -> Iterator[Problem]:
    """Problems of a call from Python: limits of domains that there are not, and limits that are none."""
    if not isinstance(domains, Mapping) or not domains:
        got = f"a {type(domains).__name__}" if domains else "no domain"
        yield Problem("domains", got, "a mapping of names to domains, at least one", "{'web': 'web.jsonl'}")
        return
    every = {"tolerances": tolerances, "tasks": tasks, "points": points}
    if wrong := {key: limits for key, limits in every.items() if not isinstance(limits, Mapping)}:
        for key, limits in wrong.items():
            hint = f"{{{next(iter(domains))!r}: {limits!r:.20}}}"
            yield Problem(key, f"{limits!r:.60}", "a mapping of names of domains", hint)
        return
    for key, limits in every.items():
        for name in limits:
            if name not in domains:
                expected = f"one of the domains, {', '.join(map(repr, domains))}"
                yield Problem(f"{key}[{name!r}]", repr(name), expected, nearest(str(name), domains))
    for name, given in domains.items():
        own = given if isinstance(given, ComparedDomain) else ComparedDomain("")
        tolerance, task = tolerances.get(name, own.tolerance), tasks.get(name, own.task)
        yield from limit_problems(f"domains[{name!r}]", tolerance, task, points.get(name, own.points))


def read_domains(
    domains: Mapping[str, Any],
    tolerances: Mapping[str, float],
    tasks: Mapping[str, Task],
    points: Mapping[str, float],
) -> dict[str, Asked]:
    """Domains by name, with the records of tasks checked.

    Args:
        domains: name -> a `ComparedDomain`, or what `trimtab.data.domains.as_domains` takes. Of a `Domain` its test
            split is read, else its validation split, else that to train on.
        tolerances: name -> nats per token; before those of a `ComparedDomain`.
        tasks: name -> its task.
        points: name -> points of accuracy.

    Raises:
        DataError: records that cannot be read, or that are not of the task.
    """
    asked = {}
    for name, given in domains.items():
        own = given if isinstance(given, ComparedDomain) else ComparedDomain("")
        domain = evaluated(name, given)
        task = tasks.get(name, own.task)
        if task is not None:
            for number, item in enumerate(domain.items("test")):
                question_of(item, task, f"domain {name!r}, record {number}")
        limits = tolerances.get(name, own.tolerance), points.get(name, own.points)
        asked[name] = Asked(domain, limits[0], task, limits[1])
    return asked


def evaluated(name: str, given: Any) -> Domain:
    """The records of a source that are compared on, as the test split of a domain that has no other.

    A file or a list is read whole, unless a `ComparedDomain` says otherwise; of splits that somebody made, the test
    split, else the validation split.
    """
    if isinstance(given, ComparedDomain):
        domain, whole = read_domain(name, given), given.records == "all"
    else:
        domain, whole = as_domains("domains", {name: given})[name], True
    split = next(split for split in _HELD_OUT if split in domain.splits)
    source = source_of(getattr(domain, split), f"{name}, {split}")
    if whole and not isinstance(given, Domain):
        source = Part(pool_of(source), 0.0, 1.0)
    return Domain(name, test=source, left_out=domain.left_out)
