"""Configs: YAML text <-> frozen dataclasses, with every mistake told at once.

Plain values -> dataclasses by their annotations; every mistake is noted, none stops the reading.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from trimtab.errors import ConfigError, ConfigProblems, Problem, nearest, told_problem
from trimtab.runs.atomic import write_atomic
from trimtab.runs.files import VALUE_LIMIT, dump_yaml, load_yaml, read_text
from trimtab.runs.serialise import plain

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
WHOLE = 2**63
"""What whole numbers stay below, with either sign: arrays, generators and files hold 64 bits."""


class _Bad:
    """Stands where a value could not be read."""


BAD = _Bad()


class Reader:
    """Reads one config; `problems` holds what was wrong with it."""

    def __init__(self, cls: type) -> None:
        self.problems: list[Problem] = []
        self._known = tuple(dotted_keys(cls))

    def read(self, kind: Any, value: Any, where: str = "") -> Any:
        """The value as `kind`, with a problem noted for each part that is wrong.

        So that later checks can be made all the same, a wrong part of a dataclass takes its default; BAD where
        there is none.
        """
        shape = _bare(kind)
        if _is_union(shape):
            return self._union(kind, value, where)
        if dataclasses.is_dataclass(shape):
            return self._dataclass(shape, value, where)
        origin = get_origin(shape)
        if isinstance(origin, type) and get_args(shape):
            if issubclass(origin, Mapping):
                return self._mapping(shape, value, where)
            if issubclass(origin, Sequence | Set):
                return self._list(shape, value, where)
        return self._leaf(kind, value, where)

    def _union(self, kind: Any, value: Any, where: str) -> Any:
        """A union of dataclasses is told apart by `kind`, others by what fits."""
        members = [member for member in get_args(_bare(kind)) if member is not type(None)]
        if value is None and len(members) < len(get_args(_bare(kind))):
            return None
        choices = [member for member in members if dataclasses.is_dataclass(_bare(member))]
        lists = [member for member in members if _is_list(member)]
        if len(members) == 1 or (len(lists) == 1 and isinstance(value, list | tuple)):
            return self.read((lists or members)[0], value, where)
        if not choices or (not isinstance(value, Mapping) and len(choices) < len(members)):
            return self._leaf(kind, value, where)
        if not isinstance(value, Mapping):
            return self._wrong(kind, value, where)
        if len(choices) == 1 and "kind" not in get_type_hints(_bare(choices[0])):
            return self.read(choices[0], value, where)
        by_kind = {name: _bare(member) for member in choices for name in _kinds(_bare(member))}
        named = value.get("kind")
        if not isinstance(named, str) or named not in by_kind:
            got = "nothing" if "kind" not in value else show(named)
            expected = f"one of {', '.join(map(repr, by_kind))}"
            return self._note(_join(where, "kind"), got, expected, nearest(str(named), by_kind))
        return self.read(by_kind[named], value, where)

    def _dataclass(self, cls: Any, value: Any, where: str) -> Any:
        if not isinstance(value, Mapping):
            return self._wrong(cls, value, where)
        fields, hints = _fields(cls), get_type_hints(cls, include_extras=True)
        for key in value:
            if key not in fields:
                self._unknown(str(key), fields, where)
        read = {}
        for name, field in fields.items():
            if name in value:
                read[name] = self.read(hints[name], value[name], _join(where, name))
            elif _is_required(field):
                read[name] = self._note(_join(where, name), "nothing", words(hints[name]))
        if any(read[name] is BAD and _is_required(fields[name]) for name in read):
            return BAD
        return self._make(cls, {name: each for name, each in read.items() if each is not BAD}, where)

    def _make(self, cls: Any, fields: Mapping[str, Any], where: str) -> Any:
        """The dataclass's own checks speak when its fields have the right types."""
        try:
            return cls(**fields)
        except ConfigProblems as error:
            self.problems += [
                dataclasses.replace(problem, where=_join(where, problem.where)) for problem in error.problems
            ]
        except ValueError as error:
            told = told_problem(where or "config", error)
            if told is None:
                return self._note(where or "config", show(dict(fields)), str(error))
            self.problems.append(told)
        return BAD

    def _mapping(self, kind: Any, value: Any, where: str) -> Any:
        if not isinstance(value, Mapping):
            return self._wrong(kind, value, where)
        _, inside = get_args(kind)
        for key in value:
            if isinstance(key, bool) or not isinstance(key, str | int):
                return self._note(where or "config", f"{show(key)} as a key", "text as a key", f'"{key}"')
        read = {str(key): self.read(inside, item, _join(where, str(key))) for key, item in value.items()}
        return BAD if BAD in read.values() else read

    def _list(self, kind: Any, value: Any, where: str) -> Any:
        origin, inside = get_origin(kind), get_args(kind)
        if not isinstance(value, list | tuple):
            return self._wrong(kind, value, where)
        if origin is tuple and inside[-1] is not ...:
            if len(value) != len(inside):
                return self._wrong(kind, value, where)
        else:
            inside = (inside[0],) * len(value)
        pairs = zip(inside, value, strict=True)
        items = [self.read(item, each, f"{where}[{index}]") for index, (item, each) in enumerate(pairs)]
        if BAD in items:
            return BAD
        return list(items) if origin is list else frozenset(items) if origin is frozenset else tuple(items)

    def _leaf(self, kind: Any, value: Any, where: str) -> Any:
        """Strict, but as JSON is strict: whole numbers are numbers, text is a path, a list a tuple."""
        try:
            read = _adapter(kind).validate_json(json.dumps(value, default=str), strict=True)
        except ValidationError as error:
            return self._wrong(kind, value, where, error)
        if isinstance(read, int) and not -WHOLE < read < WHOLE:
            return self._note(where or "config", show(value), f"{words(kind)} within 64 bits")
        return read

    def _wrong(self, kind: Any, value: Any, where: str, error: ValidationError | None = None) -> _Bad:
        expected = words(kind)
        if error is not None and get_origin(kind) is Annotated and _fits(_bare(kind), value):
            expected = error.errors()[0]["msg"].removeprefix("Input should be ")
        return self._note(where or "config", show(value), expected, _hint(kind, value))

    def _unknown(self, key: str, fields: Mapping[str, Any], where: str) -> None:
        elsewhere = [repr(known) for known in self._known if known.rpartition(".")[2] == key]
        hint = elsewhere[0] if elsewhere else nearest(key, fields)
        self._note(_join(where, key), "an unknown key", f"one of {', '.join(fields)}", hint)

    def _note(self, where: str, got: str, expected: str, hint: str = "") -> _Bad:
        self.problems.append(Problem(where, got, expected, hint))
        return BAD


def typed_problems(settings: Any, where: str = "", *, without: Iterable[str] = ()) -> list[Problem]:
    """Every field of a dataclass, made in Python, whose value is of another type than it is declared.

    Args:
        settings: an instance; scalars of numpy and torch count as the numbers that they are.
        where: what its fields are named under.
        without: fields that are looked at elsewhere.

    >>> from trimtab.train.settings import Fit
    >>> [str(problem) for problem in typed_problems(Fit(lr="1e-3"), "fit")]
    ["fit.lr: got '1e-3', expected a number; try 1e-3 without quotes"]
    """
    cls = type(settings)
    reader, hints = Reader(cls), get_type_hints(cls, include_extras=True)
    for name in _fields(cls):
        value = getattr(settings, name)
        if name not in without and not dataclasses.is_dataclass(value):
            reader.read(hints[name], _scalars(value), _join(where, name))
    return reader.problems


def _scalars(value: Any) -> Any:
    """A value with numbers in the place of scalars that libraries have for them."""
    if isinstance(value, Mapping):
        return {key: _scalars(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_scalars(inner) for inner in value]
    return (
        value.item() if callable(getattr(value, "item", None)) and not getattr(value, "shape", ()) else value
    )


def words(kind: Any) -> str:
    """What a value of this type looks like.

    >>> words(tuple[int, ...]), words(Literal["a", "b"]), words(float | None)
    ('a list, each a whole number', "one of 'a', 'b'", 'a number or null')
    """
    kind = _bare(kind)
    if kind in _WORDS:
        return _WORDS[kind]
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(repr, inside))}" if len(inside) > 1 else repr(inside[0])
    if _is_union(kind):
        return " or ".join(dict.fromkeys(words(member) for member in inside))
    if dataclasses.is_dataclass(kind):
        return f"a mapping with keys among {', '.join(_fields(kind))}"
    if isinstance(origin, type) and inside:
        return _container_words(origin, inside)
    return f"a {getattr(kind, '__name__', kind)}".lower()


def show(value: Any) -> str:
    """A value as it would stand in YAML, shortened: text in quotes, a long list by its beginning."""
    text = json.dumps(value, default=str, ensure_ascii=False) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def dotted_keys(cls: Any, where: str = "") -> Iterator[str]:
    """All keys a config of this dataclass can have, those of nested dataclasses dotted."""
    for name, kind in get_type_hints(cls).items():
        yield _join(where, name)
        for member in get_args(kind) if _is_union(kind) else (kind,):
            if dataclasses.is_dataclass(member):
                yield from dotted_keys(member, _join(where, name))


def _container_words(origin: type, inside: tuple[Any, ...]) -> str:
    if issubclass(origin, Mapping):
        return f"a mapping of names, each to {words(inside[1])}"
    if origin is tuple and inside[-1] is not ...:
        return f"a list of {', '.join(map(words, inside))}"
    return f"a list, each {words(inside[0])}"


def _hint(kind: Any, value: Any) -> str:
    kind = _bare(kind)
    members = get_args(kind) if _is_union(kind) else (kind,)
    literals = [
        str(choice) for member in members if get_origin(member) is Literal for choice in get_args(member)
    ]
    if literals:
        return nearest(str(value), literals)
    if isinstance(value, str) and {int, float, bool} & set(members):
        number = len(value) < 40 and any(_fits(member, _parsed(value)) for member in members)
        return f"{value} without quotes" if number else ""
    if str in members and isinstance(value, int | float) and len(str(value)) < 40:
        return f"'{value}' in quotes"
    return ""


def _parsed(text: str) -> Any:
    try:
        return json.loads(text.lower())
    except ValueError:
        return text


def _fits(kind: Any, value: Any) -> bool:
    try:
        _adapter(kind).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError:
        return False
    return True


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _is_list(kind: Any) -> bool:
    origin = get_origin(_bare(kind))
    return isinstance(origin, type) and issubclass(origin, Sequence)


def _fields(cls: Any) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _kinds(cls: Any) -> tuple[str, ...]:
    """The values that name this member of a union: its `kind: Literal[...]`, else its class name."""
    return get_args(_bare(get_type_hints(cls).get("kind"))) or (cls.__name__,)


def _join(where: str, key: str) -> str:
    """A dotted key; one that somebody chose is shortened, and told by its escapes where it cannot be printed."""
    shown = key if key.isprintable() else json.dumps(key)[1:-1]
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return f"{where}.{shown}" if where else shown or '""'


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
