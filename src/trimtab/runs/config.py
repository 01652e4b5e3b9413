"""Configs: YAML text <-> frozen dataclasses, with every mistake told at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from trimtab.errors import ConfigError, ConfigProblems, Problem, told_problem
from trimtab.runs.atomic import write_atomic
from trimtab.runs.files import read_text
from trimtab.runs.plain import plain
from trimtab.runs.reading import BAD, Reader, show
from trimtab.runs.yamltext import VALUE_LIMIT, dump_yaml, load_yaml

Config = TypeVar("Config")
SIZE_LIMIT = 16 * 2**20
"""Bytes of a YAML file."""


def read_config(
    source: str | Path | Mapping[str, Any],
    cls: type[Config],
    overrides: Mapping[str, Any] | None = None,
    *,
    extra_problems: Callable[[Config], Iterable[Problem]] | None = None,
) -> Config:
    """A config from a YAML file (or a mapping), checked against its dataclass.

    Nested dataclasses, mappings of them, tuples, literals, optional values and unions told apart by a
    `kind` field are read by their annotations. Whole numbers do for numbers; text never does. Unknown keys
    are mistakes. Relative paths inside a config are relative to the current directory, not to the file.

    Args:
        source: the path of a YAML file, or its content as a mapping.
        cls: the dataclass to make.
        overrides: dotted keys and their values, from `parse_overrides`; they win over the file.
        extra_problems: what only the finished config can tell. It is also asked when some values were wrong and
            have defaults, with those in their place, so that all mistakes are told together.

    Raises:
        ConfigProblems: every mistake, each with its dotted key, what was got and what was expected.
    """
    content = dict(source) if isinstance(source, Mapping) else read_mapping(Path(source))
    content, problems = _override(content, overrides or {})
    _refuse_endless(content)
    reader = Reader(cls)
    config = reader.read(cls, content)
    problems += reader.problems
    if extra_problems is not None and config is not BAD:
        known = {problem.where for problem in problems}
        problems += [problem for problem in extra_problems(config) if problem.where not in known]
    if problems:
        raise ConfigProblems(problems)
    made: Config = config
    return made


def write_config(config: Any, path: Path) -> None:
    """Write a dataclass as YAML, all fields named; `read_config` reads it back equal."""
    write_atomic(path, dump_yaml(plain(config, finite=False)))


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Dotted overrides of a command line, with their values read as YAML.

    Raises:
        ConfigProblems: a value without a key, or a key without a value.

    >>> parse_overrides(["--fit.steps", "400", "--targets=[a, b]", "--seed", "-1"])
    {'fit.steps': 400, 'targets': ['a', 'b'], 'seed': -1}
    """
    overrides, problems = {}, []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        key, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key:
            problems.append(Problem("command line", repr(argument), "an override such as --fit.steps 400"))
        elif not equals and (not waiting or waiting[0].startswith("--")):
            problems.append(Problem(key, "no value", f"--{key} VALUE"))
        else:
            overrides[key] = parse_value(key, text if equals else waiting.pop(0))
    if problems:
        raise ConfigProblems(problems)
    return overrides


def parse_value(key: str, text: str) -> Any:
    """The value of an override, read as YAML.

    Raises:
        ConfigProblems: the text is not YAML.
    """
    try:
        return load_yaml(text)
    except yaml.YAMLError as error:
        told = getattr(error, "problem", None) if "{" not in text and "[" not in text else None
        got = f"{show(text)}{f' ({told})' if told else ''}"
        raise ConfigProblems([Problem(key, got, "a value in YAML", "quotes around it")]) from None


def read_mapping(path: Path, *, most: int = VALUE_LIMIT) -> dict[str, Any]:
    """What a YAML file holds, unchecked.

    Args:
        path: of the file.
        most: values that it may hold, see `load_yaml`.

    Raises:
        ConfigProblems: there is no such file, or it is not YAML (the line is named), or not a mapping.
    """
    try:
        content = load_yaml(
            read_text(path, "a YAML file that can be read", error=ConfigError, limit=SIZE_LIMIT), most=most
        )
    except ConfigError as error:
        told = told_problem(str(path), error)
        if told is not None and told.got == "no such file":
            told = Problem(str(path), "no such file", "a YAML file", "trimtab ls")
        raise (error if told is None else ConfigProblems([told])) from None
    except yaml.YAMLError as error:
        raise ConfigProblems([_syntax(path, error)]) from None
    if not isinstance(content, dict):
        got = "an empty file" if content is None else f"a {type(content).__name__}"
        raise ConfigProblems([Problem(str(path), got, "a mapping of keys to values")])
    return content


def _syntax(path: Path, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark is not None else str(path)
    return Problem(where, getattr(error, "problem", None) or "unreadable text", "YAML")


def _refuse_endless(content: Mapping[str, Any]) -> None:
    """A mapping from Python may hold itself, nest without bound or hold a number too long to write."""
    try:
        json.dumps(content, default=str, skipkeys=True)
    except (ValueError, RecursionError) as error:
        problem = Problem("config", f"values that cannot be written ({error})", "values as YAML has them")
        raise ConfigProblems([problem]) from None


def _override(
    content: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Problem]]:
    """The content with dotted keys set; the caller's mapping is left alone."""
    changed, problems = dict(content), []
    for key, value in overrides.items():
        *parents, last = key.split(".")
        inner = changed
        for parent in parents:
            below = inner.get(parent)
            if below is not None and not isinstance(below, Mapping):
                problems.append(Problem(key, f"{show(below)} at {parent!r}", "a mapping there"))
                break
            inner[parent] = inner = dict(below or {})
        else:
            inner[last] = value
    return changed, problems
