"""Configs: YAML text <-> frozen dataclasses, with every mistake reported at once.

pydantic reads plain values by the annotations of the dataclasses, strictly as JSON is strict: whole numbers are
numbers, text is a path, a list a tuple. Ours are the words of the messages, the choice among the members of a union,
and defaults in the place of wrong values, so that what is left is checked in the same breath.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from trimtab.errors import ConfigError, ConfigProblems, Problem, nearest, problem_of_message
from trimtab.runs.atomic import write_atomic
from trimtab.runs.files import VALUE_LIMIT, dump_yaml, has_halves, load_yaml, read_text
from trimtab.runs.serialise import plain

Config = TypeVar("Config")
SIZE_LIMIT = 16 * 2**20
"""Bytes of a YAML file."""
WHOLE = 2**63
"""What whole numbers stay below, with either sign: arrays, generators and files hold 64 bits."""
BAD, MISSING = object(), object()
"""What stands for a value that could not be read, and for one that is not there."""
_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_WORDS |= {type(None): "null", Any: "a value"}
_COLLECTIONS = (Mapping, tuple, list)
_UNKNOWN = "unexpected_keyword_argument"


@dataclasses.dataclass(frozen=True)
class _Odd:
    """Stands for text with half a character, and for a value under a key that is no text."""

    value: Any
    as_key: bool = False


def _read(kind: Any, given: Any, where: str, root: type) -> tuple[Any, list[Problem]]:
    """Plain values as `kind`, with a problem for each part that is wrong; BAD where one of those has no default.

    A wrong part of a dataclass takes its default and all is read again, so that what the dataclass itself refuses is
    reported, too. `given` loses what was wrong.
    """
    problems: dict[Problem, None] = {}
    while True:
        try:
            return _adapter(kind).validate_json(_json(given), strict=True), list(problems)
        except ValidationError as raised:
            errors = sorted(raised.errors(), key=lambda error: error["type"] != _UNKNOWN)
        wrong = [_Wrong(error, kind, given, where) for error in errors]
        problems |= dict.fromkeys(problem for each in wrong for problem in each.problems(root))
        drops = [each.drop for each in wrong if each.drop is not None]
        if not drops:
            return BAD, list(problems)
        for parent, key in drops:
            parent.pop(key, None)


class _Wrong:
    """An error of pydantic at its place: its dotted key, the kind that was declared there, and the value there.

    Attributes:
        drop: the mapping and the key of the nearest part around it that has a default.
    """

    def __init__(self, error: Any, kind: Any, value: Any, where: str) -> None:
        self.error, self.parent, self.drop = error, kind, None
        short_tuple = error["type"] == "missing" and isinstance(error["loc"][-1], int)
        for step in error["loc"][: -1 if short_tuple else None]:
            if isinstance(value, _Odd):
                break
            self.parent = _bare(_member(kind, value))
            inside, place = get_args(self.parent), f"{where}[{step}]"
            if dataclasses.is_dataclass(self.parent):
                kind, place = _hints(self.parent).get(step, Any), _join(where, step)
                if not _fields(self.parent).get(step):
                    self.drop = value, step
            elif isinstance(value, dict):
                kind, place = inside[1], _join(where, step)
            else:
                kind = inside[step if len(inside) > step and inside[-1] is not ... else 0]
            value = value[step] if isinstance(step, int) else value.get(step, MISSING)
            if not (isinstance(value, _Odd) and value.as_key) or dataclasses.is_dataclass(self.parent):
                where = place
        self.is_odd = isinstance(value, _Odd)
        self.under_odd_key = self.is_odd and value.as_key
        self.where, self.kind = where, kind
        self.value = value.value if isinstance(value, _Odd) else value

    def problems(self, root: type) -> Iterator[Problem]:
        """The problems of the error, in the words of trimtab."""
        where, kind, value = self.where or "config", self.kind, self.value
        raised = self.error.get("ctx", {}).get("error")
        if self.under_odd_key:
            yield Problem(where, f"{show(value)} as a key", "text as a key", f'"{value}"')
        elif self.is_odd:  # whatever pydantic says of what stands for it
            yield self._of_another_kind(where)
        elif self.error["type"] == _UNKNOWN:
            key, names = self.error["loc"][-1], _fields(self.parent)
            known = list(dotted_keys(root))
            elsewhere = [repr(each) for each in known if each.rpartition(".")[2] == key]
            hint = elsewhere[0] if elsewhere else nearest(key, names)
            if where in known:  # of another kind of the same part
                hint = f"another {where.rpartition('.')[0]}.kind, which has it"
            yield Problem(where, "an unknown key", f"one of {', '.join(names)}", hint)
        elif value is MISSING:
            yield Problem(where, "nothing", words(kind))
        elif self.error["type"] == "kind":
            named, kinds = value.get("kind", ""), list(_by_kind(kind))
            got = show(named) if "kind" in value else "nothing"
            expected = f"one of {', '.join(map(repr, kinds))}"
            yield Problem(_join(self.where, "kind"), got, expected, nearest(str(named), kinds))
        elif isinstance(raised, ConfigProblems):
            for problem in raised.problems:
                yield dataclasses.replace(problem, where=_join(self.where, problem.where))
        elif raised is not None:
            yield problem_of_message(where, raised) or Problem(where, show(value), str(raised))
        else:
            yield self._of_another_kind(where)

    def _of_another_kind(self, where: str) -> Problem:
        kind, value = _member(self.kind, self.value), self.value
        bare, expected, hint = _bare(kind), words(kind), ""
        members = get_args(bare) if _is_union(bare) else (bare,)
        choices = [str(each) for one in members if get_origin(one) is Literal for each in get_args(one)]
        if isinstance(value, int) and int in members and not -WHOLE < value < WHOLE:
            return Problem(where, show(value), f"{expected} within 64 bits")
        if get_origin(kind) is Annotated and _fits(bare, _json(value)):
            expected = self.error["msg"].removeprefix("Input should be ")
        if choices:
            hint = nearest(str(value), choices)
        elif isinstance(value, str) and {int, float, bool} & set(members):
            number = len(value) < 40 and any(_fits(each, value.lower()) for each in members)
            hint = f"{value} without quotes" if number else ""
        elif str in members and isinstance(value, int | float) and len(str(value)) < 40:
            hint = f"'{value}' in quotes"
        elif isinstance(value, str) and get_origin(bare) is tuple and value.isidentifier():
            hint = f"[{value}]"
        return Problem(where, show(value), expected, hint)


def _readable(kind: Any) -> Any:
    """A kind as pydantic is to read it: unions by our choice of a member, whole numbers of 64 bits, no unknown keys."""
    bare: Any = _bare(kind)
    origin: Any = get_origin(bare)
    inside = get_args(bare)
    if dataclasses.is_dataclass(_bare(kind)):
        fields = [
            (name, _readable(_hints(bare)[name]), *([] if required else [MISSING]))
            for name, required in _fields(bare).items()
        ]
        closed = {"__pydantic_config__": ConfigDict(extra="forbid")}
        shadow = dataclasses.make_dataclass("Config", fields, kw_only=True, namespace=closed)
        made = AfterValidator(lambda it: bare(**{k: v for k, v in vars(it).items() if v is not MISSING}))
        return Annotated[shadow, made]
    if _is_union(bare):
        members = [member for member in inside if member is not type(None)]
        if len(members) > 1:
            return Annotated[Any, PlainValidator(partial(_picked, bare))]
        return _readable(members[0]) | None
    if _is_a(origin, Collection):
        outer: Any = dict if issubclass(origin, Mapping) else origin if origin in (list, frozenset) else tuple
        items = [each if each is ... else _readable(each) for each in inside]
        return outer[(*items, ...) if outer is tuple and origin is not tuple else tuple(items)]
    return Annotated[kind, Field(gt=-WHOLE, lt=WHOLE)] if bare is int else kind


def _picked(union: Any, value: Any) -> Any:
    """A value of a union, read as the dataclass of its kind, else as one of the members that are no dataclass."""
    member = _member(union, value)
    if member is not union:
        return _adapter(member).validate_json(_json(value), strict=True)
    others = tuple(each for each in get_args(union) if not dataclasses.is_dataclass(each))
    with contextlib.suppress(ValidationError):
        read = _raw(Union[others]).validate_json(_json(value), strict=True) if others else WHOLE  # noqa: UP007
        if not isinstance(read, int) or -WHOLE < read < WHOLE:
            return read
    raise PydanticCustomError("kind" if isinstance(value, dict) and _by_kind(union) else "other", "wrong")


def _member(kind: Any, value: Any) -> Any:
    """The member of a union as which a value is read; the union where there is none, any other kind as it is.

    A mapping is the dataclass that its `kind` names, a list the only member that is one.
    """
    members = [member for member in get_args(_bare(kind)) if member is not type(None)]
    if not _is_union(_bare(kind)) or value is None:
        return kind
    if len(members) == 1:
        return members[0]
    lists = [each for each in members if isinstance(value, list) and _is_a(get_origin(_bare(each)), Sequence)]
    if isinstance(value, dict):
        named = value.get("kind")
        return _by_kind(kind).get(named if isinstance(named, str) else "", kind)
    return lists[0] if len(lists) == 1 else kind


def _by_kind(union: Any) -> dict[str, Any]:
    """The dataclasses of a union by the values of their `kind`; one that has none by the empty name."""
    return {
        name: member
        for member in get_args(_bare(union))
        if dataclasses.is_dataclass(member)
        for name in get_args(_bare(_hints(member).get("kind"))) or ("",)
    }


_raw: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(lambda kind: TypeAdapter(_readable(kind)))


def _fits(kind: Any, text: str) -> bool:
    with contextlib.suppress(ValidationError):
        _raw(kind).validate_json(text, strict=True)
        return True
    return False


def _json(value: Any) -> str:
    """JSON text, in which what has no JSON is text, and what is odd a value that no kind takes."""
    return json.dumps(value, default=lambda it: {"": [[]]} if isinstance(it, _Odd) else str(it))


def _plain_values(value: Any) -> Any:
    """Values of Python as JSON has them: mappings with text as keys, lists, and numbers for scalars of libraries."""
    if isinstance(value, Mapping):
        values = {}
        for key, inner in value.items():
            is_text = isinstance(key, str | int) and not isinstance(key, bool) and not has_halves(str(key))
            text = str(key).encode(errors="replace").decode()
            values[text] = _plain_values(inner) if is_text else _Odd(key, as_key=True)
        return values
    if isinstance(value, list | tuple):
        return [_plain_values(inner) for inner in value]
    if isinstance(value, str) and has_halves(value):
        return _Odd(value)
    is_scalar = callable(getattr(value, "item", None)) and not getattr(value, "shape", ())
    return value.item() if is_scalar else value


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
    cls, problems = type(settings), []
    for name in _fields(cls):
        value = getattr(settings, name)
        if name not in without and not dataclasses.is_dataclass(value):
            problems += _read(_hints(cls)[name], _plain_values(value), _join(where, name), cls)[1]
    return problems


def words(kind: Any) -> str:
    """The description of a type for users: what its values look like.

    >>> words(tuple[int, ...]), words(Literal["a", "b"]), words(float | None)
    ('a list, each a whole number', "one of 'a', 'b'", 'a number or null')
    """
    kind = _bare(kind)
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(repr, inside))}" if len(inside) > 1 else repr(inside[0])
    if _is_union(kind):
        return " or ".join(dict.fromkeys(words(member) for member in members(kind)))
    if dataclasses.is_dataclass(kind):
        return f"a mapping with keys among {', '.join(_fields(kind))}"
    if not _is_a(origin, object):
        return _WORDS.get(kind) or f"a {getattr(kind, '__name__', kind)}".lower()
    if _is_a(origin, Mapping):
        return f"a mapping of names, each to {words(inside[1])}"
    if origin is tuple and inside[-1] is not ...:
        return f"a list of {', '.join(map(words, inside))}"
    return f"a list, each {words(inside[0])}"


def show(value: Any) -> str:
    """A value as it would stand in YAML, shortened: text in quotes, a long list by its beginning."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def dotted_keys(cls: Any, where: str = "") -> Iterator[str]:
    """All keys a config of this dataclass can have, those of nested dataclasses dotted."""
    for name, kind in get_type_hints(cls).items():
        yield _join(where, name)
        for member in members(kind):
            if dataclasses.is_dataclass(member):
                yield from dotted_keys(member, _join(where, name))


def members(kind: Any) -> tuple[Any, ...]:
    """The types that a value of a type may have in a file: those of a union, without what only Python can give.

    >>> members(int | Callable[[], int] | None)
    (<class 'int'>, <class 'NoneType'>)
    """
    inside = get_args(kind) if _is_union(kind) else (kind,)
    return tuple(member for member in inside if not _only_python(member))


@cache
def _only_python(kind: Any) -> bool:
    """Whether no file can hold a value: functions, objects of other libraries, and what is made of them."""
    kind = _bare(kind)
    if dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        return any(_only_python(hints[each.name]) for each in dataclasses.fields(kind) if each.init)
    if _is_union(kind):
        return all(map(_only_python, get_args(kind)))
    plain_class = not isinstance(kind, type) or kind in _WORDS or issubclass(kind, (Path, *_COLLECTIONS))
    return _is_a(get_origin(kind), Callable) or not plain_class


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _is_a(origin: Any, kinds: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, kinds)


_hints: Callable[[Any], dict[str, Any]] = cache(partial(get_type_hints, include_extras=True))


def _fields(cls: Any) -> dict[str, bool]:
    """The names of the fields that a config gives, each with whether it must."""
    fields = [each for each in dataclasses.fields(cls) if each.init]
    return {each.name: each.default is each.default_factory for each in fields}  # both are missing


def _join(where: str, key: str) -> str:
    """A dotted key; one that somebody chose is shortened, and escaped where it cannot be printed."""
    text = key if key.isprintable() else json.dumps(key)[1:-1]
    text = text if len(text) <= 80 else f"{text[:77]}..."
    return f"{where}.{text}" if where else text or '""'


def read_config(
    source: str | Path | Mapping[str, Any],
    cls: type[Config],
    overrides: Mapping[str, Any] | None = None,
    *,
    extra_problems: Callable[[Config], Iterable[Problem]] | None = None,
) -> Config:
    """A config from a YAML file (or a mapping), checked against its dataclass.

    Nested dataclasses, mappings of them, tuples, literals, optional values and unions distinguished by a
    `kind` field are read by their annotations. Whole numbers do for numbers; text never does. Unknown keys
    are mistakes. Relative paths inside a config are relative to the current directory, not to the file.

    Args:
        source: the path of a YAML file, or its content as a mapping.
        cls: the dataclass to make.
        overrides: dotted keys and their values, from `parse_overrides`; they win over the file.
        extra_problems: what only the finished config can tell. It is also called when some values were wrong and
            have defaults, with those in their place, so that all mistakes are reported together.

    Raises:
        ConfigProblems: every mistake, each with its dotted key, what was got and what was expected.
    """
    content = dict(source) if isinstance(source, Mapping) else read_mapping(Path(source))
    problems = []
    for key, value in (overrides or {}).items():
        *parents, last = key.split(".")
        inner = content
        for parent in parents:
            below = inner.get(parent)
            if below is not None and not isinstance(below, Mapping):
                problems.append(Problem(key, f"{show(below)} at {parent!r}", "a mapping there"))
                break
            inner[parent] = inner = dict(below or {})
        else:
            inner[last] = value
    try:  # a mapping from Python may hold itself, nest without bound or hold a number too long to write
        json.dumps(content, default=str, skipkeys=True)
    except (ValueError, RecursionError) as error:
        problem = Problem("config", f"values that cannot be written ({error})", "values as YAML has them")
        raise ConfigProblems([problem]) from None
    config, more = _read(cls, _plain_values(content), "", cls)
    problems += more
    if extra_problems is not None and config is not BAD:
        places = {problem.where for problem in problems}
        problems += [problem for problem in extra_problems(config) if problem.where not in places]
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
        ConfigProblems: a value without a key, a key without a value, or a value that is not YAML.

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
            text = text if equals else waiting.pop(0)
            try:
                overrides[key] = load_yaml(text)
            except yaml.YAMLError as error:
                why = getattr(error, "problem", None) if "{" not in text and "[" not in text else None
                got = f"{show(text)}{f' ({why})' if why else ''}"
                raise ConfigProblems([Problem(key, got, "a value in YAML", "quotes around it")]) from None
    if problems:
        raise ConfigProblems(problems)
    return overrides


def read_mapping(path: Path, *, most: int = VALUE_LIMIT) -> dict[str, Any]:
    """The mapping in a YAML file, unchecked.

    Args:
        path: of the file.
        most: values that it may hold, see `load_yaml`.

    Raises:
        ConfigProblems: there is no such file, or it is not YAML (the line is named), or not a mapping.
    """
    try:
        text = read_text(path, "a YAML file that can be read", error=ConfigError, limit=SIZE_LIMIT)
        content = load_yaml(text, most=most)
    except ConfigError as error:
        problem = problem_of_message(str(path), error)
        if problem is not None and problem.got == "no such file":
            problem = Problem(str(path), "no such file", "a YAML file", "trimtab ls")
        raise (error if problem is None else ConfigProblems([problem])) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark is not None else str(path)
        problem = Problem(where, getattr(error, "problem", None) or "unreadable text", "YAML")
        raise ConfigProblems([problem]) from None
    if not isinstance(content, dict):
        got = "an empty file" if content is None else f"a {type(content).__name__}"
        raise ConfigProblems([Problem(str(path), got, "a mapping of keys to values")])
    return content
