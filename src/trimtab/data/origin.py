"""Where a domain comes from: what a config says under its name, or whatever somebody hands over in Python."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from trimtab.data.domains import FRACTIONS, Domain
from trimtab.data.record_files import refuse_source
from trimtab.data.records import column_problems, refusal
from trimtab.data.splits import is_pattern, kind_of
from trimtab.errors import ConfigProblems, DataError, Problem, TrimtabError, explain, problem_of_message
from trimtab.runs.paths import neighbour

EVALUATE_ONLY = (0.0, 0.5, 0.5)
"""How a pool is split that is never trained on: validation and test, half each."""

PEEKED = 1000
"""Files of a pattern whose endings are looked at before a run."""
_OF_THE_HUB = ("config", "split", "revision")


@dataclass(frozen=True)
class Origin:
    """A domain's data as a config may describe it, where a path alone does not do.

    Attributes:
        path: a file, a glob pattern, a folder or `hf:owner/name`.
        config: which configuration of a data set of the hub.
        split: which split of it, to take that as a pool.
        revision: which version of it: a branch, a tag or a commit.
        columns: our keys (text, prompt, completion, messages) -> those of the data; others are then not read.
        overlap: "refuse" records that stand in two splits, or "drop" them from the earlier one.

    Raises:
        ConfigProblems: a wrong key in `columns`, or what only data sets of the hub have beside a path.
    """

    path: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    overlap: Literal["refuse", "drop"] = "refuse"

    def __post_init__(self) -> None:
        problems = list(column_problems(self.columns)) if self.columns else []
        if not self.path.startswith("hf:"):
            given = {name: getattr(self, name) for name in _OF_THE_HUB if getattr(self, name) is not None}
            expected = "it only beside path: hf:owner/name"
            problems += [Problem(name, repr(value), expected) for name, value in given.items()]
        if problems:
            raise ConfigProblems(problems)


def path_of(origin: str | Origin | Mapping[str, Any]) -> str:
    """The path of a domain's data.

    >>> path_of("data"), path_of(Origin("data", overlap="drop"))
    ('data', 'data')
    """
    if isinstance(origin, Mapping):
        return str(origin["path"])
    return origin.path if isinstance(origin, Origin) else origin


def read_domain(
    name: str, origin: str | Path | Origin | Mapping[str, Any], *, fractions: Sequence[float] = FRACTIONS
) -> Domain:
    """The domain that a config describes.

    Args:
        name: the domain's name.
        origin: a path, or more than that; as a mapping it is what `plain` makes of an `Origin`.
        fractions: shares of train, validation and test in a pool.

    Raises:
        DataError, ConfigError: as `Domain.from_path` and `Domain.from_dataset`.
    """
    if isinstance(origin, Mapping):
        origin = Origin(**origin)
    if not isinstance(origin, Origin):
        return Domain.from_path(name, origin, fractions=fractions)
    columns = origin.columns or None
    if origin.path.startswith("hf:"):
        options: dict[str, Any] = {key: getattr(origin, key) for key in _OF_THE_HUB}
        path = origin.path.removeprefix("hf:")
        domain = Domain.from_dataset(name, path, columns=columns, fractions=fractions, **options)
    else:
        domain = Domain.from_path(name, origin.path, columns=columns, fractions=fractions)
    return domain.without_overlap() if origin.overlap == "drop" else domain


def as_domains(where: str, given: Any, *, fractions: Sequence[float] = FRACTIONS) -> dict[str, Domain]:
    """Domains by name, made of what was handed over for each: a domain, a path, a data set, a table or a list.

    Args:
        where: what to call the mapping in an error: "train" or "evaluate".
        given: domain name -> its data.
        fractions: shares of train, validation and test in a pool.

    Raises:
        ConfigProblems: no mapping of names.
        DataError: data that makes no domain, as the constructors of `Domain`.
    """
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        got, hint = f"a {type(given).__name__}", "{name: domain}"
        if isinstance(given, Domain):
            got, hint = f"the domain {given.name!r}", f"{{{given.name!r}: domain}}"
        raise ConfigProblems([Problem(where, got, "a mapping of names to domains", hint)])
    domains: dict[str, Domain] = {}
    for name, data in given.items():
        if isinstance(data, Domain):
            domains[name] = data
        elif isinstance(data, str | Path | Origin):
            domains[name] = read_domain(name, data, fractions=fractions)
        elif data is None or isinstance(data, int | float | bytes):
            expected = "a Domain, a path, a data set, a table or a list of records"
            raise refusal(f"domain {name!r}", type(data).__name__, expected)
        else:
            if not isinstance(data, Mapping):
                refuse_source(data, f"domain {name!r}")
            domains[name] = Domain.from_dataset(name, data, fractions=fractions)
    return domains


def origin_problems(where: str, origin: str | Origin) -> list[Problem]:
    """Whether the data is there and of a kind to read; the hub and corpora of the lab are not looked up.

    Of a pattern the endings of the first files are looked at: what it matches may be the whole disk.

    >>> origin_problems("train.web", "lab:prose")
    []
    """
    source = path_of(origin)
    if source.startswith("hf:") and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source[3:], re.ASCII):
        return [Problem(where, repr(source), "hf:owner/name")]
    if source.startswith(("hf:", "lab:")):
        return []
    try:
        if is_pattern(source):
            matches = list(islice(glob.iglob(str(Path(source).expanduser()), recursive=True), PEEKED))  # noqa: PTH207
            if not matches:
                raise DataError(explain(repr(source), "a pattern that matches files"))
            for match in matches:
                kind_of(Path(match))
        else:
            read_domain("domain", origin)
    except DataError as error:
        problem = told(where, error)
        if problem.expected in ("a file that exists", "a pattern that matches files") or not source:
            expected = "a file, a glob, a folder or hf:owner/name"
            return [Problem(where, problem.got, expected, neighbour(Path(source)))]
        return [problem]
    return []


def told(where: str, error: TrimtabError) -> Problem:
    """The problem that an error tells of: 'got ..., expected ...; try ...'."""
    return problem_of_message(where, error) or Problem(where, str(error), "what a config can hold")
