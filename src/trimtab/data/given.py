"""What a conversation gives its chat template beside texts: parts of content, tools, documents, variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.errors import DataError, explain
from trimtab.runs.files import parse_json

BESIDE_MESSAGES = ("tools", "functions", "documents", "chat_template_kwargs", "system")
"""Keys beside "messages" that change what a chat template writes; all others are ignored."""


def check_content(message: Mapping[str, Any], where: str) -> None:
    """Refuse what is neither a text nor a list of parts; an assistant may say nothing, or call a tool instead.

    Raises:
        DataError: it is neither.
    """
    content = message.get("content")
    if content is None and message["role"] == "assistant":
        return
    if isinstance(content, list | tuple):
        for part in content:
            if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
                expected = "a mapping with 'type', such as {'type': 'text', 'text': ...}"
                raise DataError(f"{where}, a part of 'content': {explain(repr(part)[:60], expected)}")
        return
    if not isinstance(content, str):
        got = "no value" if content is None else type(content).__name__
        raise DataError(f"{where}, 'content': {explain(got, 'a text')}")


def read_given(raw: Mapping[str, Any], messages: Sequence[Any], where: str) -> dict[str, Any]:
    """What a record gives its chat template beside the messages: `tools`, `documents`, variables of its own.

    `tools` and `documents` are lists of mappings, or the JSON text of one, as trl takes them; `functions`, OpenAI's
    older form, become tools. `chat_template_kwargs` are the variables. Keys without a value are left out at every
    depth, since tables give every row the keys of all of them.

    Args:
        raw: the record.
        messages: its messages.
        where: what to call it in an error.

    Raises:
        DataError: one of them is of another form, or the record has a `system` prompt that is none of the messages.
    """
    system = raw.get("system")
    if isinstance(system, str) and system.strip() and {"role": "system", "content": system} not in messages:
        hint = "{'role': 'system', 'content': ...}, or removing the key if it is something else"
        what = explain("a text of its own beside 'messages'", "a system prompt as the first message", hint)
        raise DataError(f"{where}, 'system': {what}")
    tools = _mappings(raw, "tools", where) or [
        {"type": "function", "function": one} for one in _mappings(raw, "functions", where)
    ]
    documents, variables = _mappings(raw, "documents", where), raw.get("chat_template_kwargs") or {}
    variables = {} if isinstance(variables, float) else variables
    if isinstance(variables, str):
        variables = parse_json(variables, f"{where}, 'chat_template_kwargs'", "a JSON object")
    if not isinstance(variables, Mapping):
        what = explain(type(variables).__name__, "a mapping of variables of the chat template")
        raise DataError(f"{where}, 'chat_template_kwargs': {what}")
    given = {name: value for name, value in variables.items() if value is not None}
    return given | ({"tools": tools} if tools else {}) | ({"documents": documents} if documents else {})


def _mappings(raw: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """A list of mappings, or the JSON text of one; keys without a value, which tables fill in, are left out."""
    value = raw.get(key)
    value = None if isinstance(value, float) else value  # nan, as tables write no value
    if isinstance(value, str):
        value = parse_json(value, f"{where}, {key!r}", "a JSON list") if value.strip() else None
    if value is None:
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(one, Mapping) for one in value):
        raise DataError(f"{where}, {key!r}: {explain(repr(value)[:60], 'a list of mappings')}")
    return [dict(without_nulls(one)) for one in value]


def as_lists(value: Any) -> Any:
    """Arrays as lists, at every depth: pandas holds lists of Parquet files so.

    >>> import numpy as np
    >>> as_lists(np.array([{"role": "user", "content": np.array(["a"])}], dtype=object))
    [{'role': 'user', 'content': ['a']}]
    """
    if type(value).__module__ == "numpy":
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: as_lists(inner) for key, inner in value.items()}
    return [as_lists(inner) for inner in value] if isinstance(value, list | tuple) else value


def without_nulls(value: Any) -> Any:
    """Mappings without keys that have no value, at every depth: tables give every row the keys of all of them.

    >>> without_nulls({"city": "Oslo", "unit": None, "in": [{"a": None}]})
    {'city': 'Oslo', 'in': [{}]}
    """
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list | tuple) else value
