"""JSON Schema of configs (draft 2020-12), from their dataclasses, for editors that complete and check YAML."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from trimtab.runs.config import members, words
from trimtab.runs.serialise import plain

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: dict[Any, dict[str, Any]] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}
_ATTRIBUTE = re.compile(r"^ {4}(?P<names>\w+(?:, \w+)*): (?P<text>.*(?:\n {8,}.*)*)", re.MULTILINE)


def json_schema(*configs: type) -> dict[str, Any]:
    """The schema of a config, or of whichever of several a file holds.

    Args:
        configs: dataclasses as `trimtab.runs.config.read_config` reads; each with its `system`.

    Returns:
        JSON values. What a dataclass checks beyond the types of its fields is not in it: `trimtab check` says that.
    """
    several = [_of_class(config, needed=("system",)) for config in configs]
    return {"$schema": DRAFT, **(several[0] if len(several) == 1 else {"oneOf": several})}


def keys(config: type, where: str = "") -> Iterator[tuple[str, str, str]]:
    """Every key of a config: dotted, with what its values look like, and what it is; of unions, those of each kind."""
    about, hints = attribute_docs(config), get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        if not field.init:
            continue
        key = f"{where}.{field.name}" if where else field.name
        kind = _bare(hints[field.name])
        mappings = [member for member in members(kind) if dataclasses.is_dataclass(member)]
        yield key, "a mapping" if mappings else words(kind), about.get(field.name, "")
        for member in mappings:
            named = get_args(_bare(get_type_hints(member, include_extras=True).get("kind")))
            below = f"{key}[{named[0]}]" if len(mappings) > 1 and named else key
            yield from keys(member, below)  # type: ignore[arg-type]


def attribute_docs(config: type) -> dict[str, str]:
    """What the docstring of a class, or of one that it inherits from, says of each attribute."""
    docs: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        text = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2]
        for match in _ATTRIBUTE.finditer(text):
            line = " ".join(match["text"].split())
            docs |= dict.fromkeys(match["names"].split(", "), line)
    return docs


def _of_class(cls: Any, needed: Collection[str] = ()) -> dict[str, Any]:
    """An object without unknown keys; `needed` are required beside the fields without a default."""
    hints, about = get_type_hints(cls, include_extras=True), attribute_docs(cls)
    properties, required = {}, []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        schema = _of(hints[field.name])
        if text := about.get(field.name):
            schema = {**schema, "description": text}
        has_default = field.default is not field.default_factory  # both missing where it has none
        if not has_default or field.name in needed:
            required.append(field.name)
        else:
            made = field.default_factory
            value = made() if made is not dataclasses.MISSING else field.default
            schema = {**schema, "default": plain(value)}
        properties[field.name] = schema
    first = inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]
    schema = {"type": "object", "description": first, "properties": properties, "required": required}
    return schema | {"additionalProperties": False}


def _of(kind: Any) -> dict[str, Any]:
    bare = _bare(kind)
    origin, inside = get_origin(bare), get_args(bare)
    if dataclasses.is_dataclass(bare):
        return _of_class(bare)
    if origin is Literal:
        return {"enum": list(inside)}
    if origin in (Union, types.UnionType):
        inside = members(bare)
        mappings = [member for member in inside if dataclasses.is_dataclass(member)]
        by_kind = ("kind",) if len(mappings) > 1 else ()
        return {
            "anyOf": [_of_class(it, _with_kind(it, by_kind)) if it in mappings else _of(it) for it in inside]
        }
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of(inside[1])}
    if origin is tuple and inside[-1] is not ...:
        items = [_of(one) for one in inside]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if isinstance(origin, type) and issubclass(origin, Collection):
        return {"type": "array", "items": _of(inside[0])}
    return dict(_PLAIN.get(bare, {}))


def _with_kind(cls: Any, names: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in names if any(field.name == name for field in dataclasses.fields(cls)))


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind
