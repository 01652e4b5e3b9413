"""Records of a domain: a plain text, a prompt with its completion, or a conversation with what its template takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from trimtab.errors import Problem, nearest, refusal
from trimtab.runs.files import has_halves, parse_json

BESIDE_MESSAGES = ("tools", "functions", "documents", "chat_template_kwargs", "system")
"""Keys beside "messages" that change what a chat template writes; all others are ignored."""


def read_given(raw: Mapping[str, Any], messages: Sequence[Any], where: str) -> dict[str, Any]:
    """Chat template arguments of a record beside its messages: `tools`, `documents`, variables of its own.

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
        got, expected = "a text of its own beside 'messages'", "a system prompt as the first message"
        raise refusal(f"{where}, 'system'", got, expected, hint)
    tools = _mappings(raw, "tools", where) or [
        {"type": "function", "function": one} for one in _mappings(raw, "functions", where)
    ]
    documents, variables = _mappings(raw, "documents", where), raw.get("chat_template_kwargs") or {}
    variables = {} if isinstance(variables, float) else variables
    if isinstance(variables, str):
        variables = parse_json(variables, f"{where}, 'chat_template_kwargs'", "a JSON object")
    if not isinstance(variables, Mapping):
        expected = "a mapping of variables of the chat template"
        raise refusal(f"{where}, 'chat_template_kwargs'", type(variables).__name__, expected)
    given = {name: value for name, value in variables.items() if value is not None}
    return given | ({"tools": tools} if tools else {}) | ({"documents": documents} if documents else {})


def _mappings(raw: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """A list of mappings, or the JSON text of one; keys without a value, which tables fill in, are left out."""
    value = raw.get(key)
    if isinstance(value, str):
        value = parse_json(value, f"{where}, {key!r}", "a JSON list") if value.strip() else None
    if value is None or isinstance(value, float):  # nan, as tables write no value
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(one, Mapping) for one in value):
        raise refusal(f"{where}, {key!r}", repr(value)[:60], "a list of mappings")
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


def without_nulls(value: Any, *, keep: str = "") -> Any:
    """Mappings without keys that have no value, at every depth: tables give every row the keys of all of them.

    >>> without_nulls({"city": "Oslo", "unit": None, "in": [{"a": None}]})
    {'city': 'Oslo', 'in': [{}]}
    >>> without_nulls([{"role": "user", "content": None, "tool_calls": None}], keep="content")
    [{'role': 'user', 'content': None}]
    """
    if isinstance(value, Mapping):
        there = {key: inner for key, inner in value.items() if inner is not None or key == keep}
        return {key: without_nulls(inner, keep=keep) for key, inner in there.items()}
    return [without_nulls(inner, keep=keep) for inner in value] if isinstance(value, list | tuple) else value


_KINDS = "a text, or a mapping with 'text', with 'prompt' and 'completion', or with 'messages'"
KEYS = ("text", "prompt", "completion", "messages")
"""The keys that make a record; `trimtab.data.records.BESIDE_MESSAGES` may stand beside messages."""

_SAME_KEYS = dict(zip(KEYS, KEYS, strict=True))
Columns = Mapping[str, str] | None
"""Our keys -> those of somebody's data; None for the same."""
_MOST = 12
_LONG = 60
_ALIKE = 0.75
_COMPLETIONS = {
    "question": "answer response",
    "problem": "solution",
    "instruction": "output response",
    "input": "output",
    "query": "response answer",
    "prompt": "response answer chosen",
    "source": "target",
}
"""What others call a prompt and its completion."""
_TEXTS = ("content", "body", "document", "article", "raw_content", "sentence", "passage", "story", "code")
"""What others call a text."""


class _Digested:
    """A record that is identified by the digest of its content."""

    @cached_property
    def digest(self) -> bytes:
        """Content digest, 32 bytes: sha256 of the kind and its fields as JSON, which separates them."""
        text = json.dumps(self._content(), sort_keys=True, ensure_ascii=True, default=str)
        return hashlib.sha256(text.encode()).digest()

    def _content(self) -> tuple[Any, ...]:
        kind: Any = type(self)
        return (kind.__name__.lower(), *(getattr(self, name) for name in kind.__dataclass_fields__))


@dataclass(frozen=True)
class Text(_Digested):
    """A document; every token carries loss."""

    text: str


@dataclass(frozen=True)
class Completion(_Digested):
    """A prompt and what should follow it; only the completion carries loss."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Chat(_Digested):
    """A conversation; only what the assistant says carries loss.

    Attributes:
        messages: each with "role" and what it says: "content", a text or a list of parts, "tool_calls", reasoning.
        given: what else the chat template is given: "tools", "documents", and variables of its own.
    """

    messages: tuple[Mapping[str, Any], ...]
    given: Mapping[str, Any] = field(default_factory=dict)

    def _content(self) -> tuple[Any, ...]:
        given = ("chat given", dict(self.given)) if self.given else ("chat",)
        return (*given, *map(dict, self.messages))


Item = Text | Completion | Chat
"""A record whose form has been checked."""

Record = str | Mapping[str, Any] | Item
"""What a user may give as one record."""

NOTHING = Text("")
"""Stands where a record has the keys but no value; skipped as blank texts are, and counted apart."""


def unused_of(item: Item) -> tuple[str, ...]:
    """Unused keys or columns: those that stood beside the record and have no part in it."""
    return tuple(item.__dict__.get("_unused", ()))


def whole(item: Item) -> Item:
    """The record itself, checked for lone surrogates (halves of characters), so that it can be tokenised.

    JSON and UTF-16 exports hold them; no tokenizer reads them and UTF-8 cannot encode them.

    Raises:
        DataError: it holds half of a character; the message has the place it was read from.
    """
    if where := item.__dict__.get("_halves"):
        got, hint = "half of a character (a lone surrogate)", "removing it, or U+FFFD in its place"
        raise refusal(where, got, "whole characters", hint)
    return item


def parse(raw: object, where: str, *, columns: Columns = None, unused: tuple[str, ...] = ()) -> Item:
    """Record in its checked form: `Text`, `Completion` or `Chat`.

    Keys other than `KEYS` are ignored, and so are keys without a value; beside "messages", those of
    `BESIDE_MESSAGES` are kept for the chat template (`tools` also as a JSON text, as trl takes it).

    None and nan are no value, as tables write them. A record that has the keys of its kind but no value gives
    `NOTHING`. Conversations may be JSON text, as in CSV. Of several kinds in one record, messages win over a prompt
    with its completion, and those over a text.

    Args:
        raw: a text or a mapping; a checked record passes through.
        where: what to call the record in an error: file and line, or its number.
        columns: our keys -> those of the record; None for the same.
        unused: columns of the record's table that were not read, to be noted.

    Raises:
        DataError: neither a text nor one of the three kinds of mapping, or a field of the wrong type. Half of a
            character (a lone surrogate) is refused by `whole`, where the record is used.

    >>> parse({"prompt": "2 + 2 =", "completion": " 4", "id": 7}, "line 1")
    Completion(prompt='2 + 2 =', completion=' 4')
    """
    if isinstance(raw, Text | Completion | Chat):
        return _marked(raw, where)
    if isinstance(raw, str):
        return _marked(Text(str(raw)), where)
    if is_missing(raw):
        return NOTHING
    if not isinstance(raw, Mapping):
        raise refusal(where, type(raw).__name__, _KINDS)
    try:
        item, used = _item(raw, columns, where)
        if item is not None:
            _marked(item, where)
    except RecursionError as error:
        raise refusal(where, "values nested too deep", _KINDS) from error
    if item is None:
        expected, hint = missing_column(columns, raw) if columns else (_KINDS, hint_for(raw, raw))
        got = f"a mapping with {named(raw)}" if raw else "an empty mapping"
        raise refusal(where, got, expected, hint)
    if len(raw) > len(used):
        unused += tuple(str(key) for key in raw if key not in used and not is_missing(raw[key]))
    if unused and item is not NOTHING:
        # Kept beside the fields, as cached digests are: two records of the same content stay equal.
        item.__dict__["_unused"] = unused
    return item


def is_missing(value: object) -> bool:
    """Whether a value says that there is none: None, nan, or pandas' NA.

    >>> is_missing(None), is_missing(float("nan")), is_missing("")
    (True, True, False)
    """
    kind = type(value).__name__
    return value is None or kind in ("NAType", "NaTType") or (kind[:5] == "float" and bool(value != value))


def excerpt(item: Item, length: int = 60) -> str:
    """The start of a record, quoted, for a message.

    >>> excerpt(Text("one two three"), length=7)
    "'one two...'"
    """
    if isinstance(item, Chat):
        text = " / ".join(str(message.get("content") or "...") for message in item.messages)
    else:
        text = item.text if isinstance(item, Text) else item.prompt + item.completion
    return repr(text if len(text) <= length else f"{text[:length]}...")


def column_problems(columns: Mapping[str, str]) -> Iterator[Problem]:
    """Problems of a mapping of our keys to those of somebody's data.

    >>> print(*column_problems({"txt": "body"}))
    columns.txt: got 'txt', expected one of 'text', 'prompt', 'completion', 'messages'; try 'text'
    """
    if not isinstance(columns, Mapping) or not columns:
        yield Problem("columns", repr(columns), "a mapping of our keys to theirs", "{'text': 'body'}")
        return
    for key, name in columns.items():
        if key not in KEYS:
            expected = f"one of {', '.join(map(repr, KEYS))}"
            yield Problem(f"columns.{key}", repr(key), expected, nearest(str(key), KEYS))
        if not isinstance(name, str) or not name:
            yield Problem(f"columns.{key}", repr(name), "the name of a column")
    for one, other in (("prompt", "completion"), ("completion", "prompt")):
        if one in columns and other not in columns:
            yield Problem("columns", f"{one!r} without {other!r}", f"{other!r} beside it")


def hint_for(names: Iterable[Any], raw: Mapping[Any, Any] | None = None) -> str:
    """Hint for keys or columns that make no record; empty where none fits.

    Args:
        names: of the keys or columns.
        raw: the record, where there is one at hand.

    >>> hint_for(["question", "answer"])
    "columns={'prompt': 'question', 'completion': 'answer'}"
    """
    keys = list(names)
    talks = [name for name in ("conversations", "conversation", "dialogue", "dialog") if name in keys]
    if talks:
        # Renaming, unless its turns are not as ours.
        talk = (raw or {}).get(talks[0])
        first = talk[0] if isinstance(talk, list | tuple) and talk else None
        if isinstance(first, Mapping) and {"role", "content"} <= first.keys():
            return f"columns={{'messages': {talks[0]!r}}}"
        return f"'messages', a list of {{'role', 'content'}}, made of {talks[0]!r} ('human' becomes 'user')"
    if {"instruction", "input", "output"} <= set(keys):
        return "a 'prompt' made of 'instruction' and 'input', and 'output' as 'completion'"
    pairs = ((prompt, completion) for prompt, others in _COMPLETIONS.items() for completion in others.split())
    for prompt, completion in pairs:
        if prompt in keys and completion in keys:
            return f"columns={{'prompt': {prompt!r}, 'completion': {completion!r}}}"
    for name in keys[: 8 * _MOST]:
        near = get_close_matches(str(name)[:_LONG].casefold(), KEYS, n=1, cutoff=_ALIKE)
        if near and near[0] not in keys:
            return f"renaming {name!r} to {near[0]!r}, or columns={{{near[0]!r}: {name!r}}}"
    texts = [name for name in _TEXTS if name in keys]
    return f"columns={{'text': {texts[0]!r}}}" if texts else ""


def missing_column(columns: Mapping[str, str], names: Iterable[Any]) -> tuple[str, str]:
    """Expectation and hint where keys lack one of `columns`: the name that looks most like it.

    >>> missing_column({"text": "bdy"}, ["id", "body"])
    ("'bdy' among them", "'body'")
    """
    keys = list(map(str, names))
    missing = [name for name in columns.values() if name not in keys]
    return f"{named(missing)} among them", nearest(missing[0], keys) if missing else ""


def has_record(names: set[str]) -> bool:
    """Whether keys or columns of these names make records.

    >>> has_record({"prompt", "completion", "id"}), has_record({"prompt"})
    (True, False)
    """
    return bool({"text", "messages"} & names) or {"prompt", "completion"} <= names


def used_columns(
    names: Sequence[str], where: str, columns: Columns = None
) -> tuple[list[str], tuple[str, ...]]:
    """The columns of a table that make records, and those that are not read.

    Args:
        names: of all its columns.
        where: what to call the table in an error.
        columns: our keys -> the table's; None for the same.

    Raises:
        DataError: none of them does, one that is asked for is not there, or one that is used stands there twice.
    """
    keys = KEYS + BESIDE_MESSAGES * ("messages" in names)
    used = list(dict.fromkeys(columns.values() if columns else (name for name in names if name in keys)))
    got = f"columns [{named(names)}]"
    if columns and not set(used) <= set(names):
        raise refusal(where, got, *missing_column(columns, names))
    if not columns and not has_record(set(used)):
        expected = "a column 'text', 'prompt' and 'completion', or 'messages'"
        raise refusal(where, got, expected, hint_for(names) or "columns={'text': ...}")
    if twice := [name for name in used if names.count(name) > 1]:
        raise refusal(where, f"column {twice[0]!r} twice", "each column once")
    return used, tuple(name for name in names if name not in used)


def named(names: Iterable[Any]) -> str:
    """A list of names for a message, shortened.

    >>> named(["a", "b"])
    "'a', 'b'"
    """
    every = list(names)
    more = f" and {len(every) - _MOST} more" if len(every) > _MOST else ""
    shortened = (name if len(str(name)) <= _LONG else f"{str(name)[:_LONG]}..." for name in every[:_MOST])
    return ", ".join(map(repr, shortened)) + more


def _item(raw: Mapping[Any, Any], columns: Columns, where: str) -> tuple[Item | None, set[str]]:
    """The record of a mapping and the keys of the mapping that it is made of; None where they make none."""
    names = columns or _SAME_KEYS
    there = {key: raw[name] for key, name in names.items() if name in raw}
    fields = {key: value for key, value in there.items() if not is_missing(value)}
    if "messages" in fields:
        extra_keys = BESIDE_MESSAGES if columns is None else ()
        given = {key: as_lists(raw[key]) for key in extra_keys if not is_missing(raw.get(key))}
        messages = _messages(fields["messages"], where)
        return Chat(messages, read_given(given, messages, where)), {names["messages"], *given}
    if "prompt" in fields and "completion" in fields:
        prompt, completion = (_string(fields, key, where) for key in ("prompt", "completion"))
        return Completion(prompt, completion), {names["prompt"], names["completion"]}
    if "text" in fields:
        return Text(_string(fields, "text", where)), {names["text"]}
    if "text" in there or "messages" in there or len(there) == 2:
        return NOTHING, set()
    if there:
        other = "completion" if "prompt" in there else "prompt"
        raise refusal(f"{where}, {other!r}", "no value", "a text", hint_for(raw, raw))
    return None, set()


def _marked(item: Item, where: str) -> Item:
    """The record, with its place noted where half of a character is in it; `whole` refuses it then."""
    if "_halves" not in item.__dict__ and (field := halved(item)):
        item.__dict__["_halves"] = f"{where}, {field!r}"
    return item


def halved(item: Item) -> str:
    """The first field of a record, or of what it gives its template, with half of a character; empty without one."""
    values = {name: vars(item)[name] for name in item.__dataclass_fields__}
    values |= values.pop("given", {})
    return next((name for name, value in values.items() if _has_halves(value)), "")


def _has_halves(value: object) -> bool:
    if isinstance(value, str):
        return has_halves(value)
    if isinstance(value, Mapping):
        return any(_has_halves(key) or _has_halves(item) for key, item in value.items())
    return isinstance(value, list | tuple) and any(map(_has_halves, value))


def _string(fields: Mapping[str, Any], key: str, where: str) -> str:
    value = fields.get(key)
    if isinstance(value, str):
        return str(value)
    hint = "a record for each text" if isinstance(value, Sequence) else ""
    if isinstance(value, bytes | bytearray):
        hint = "decoding it"
    elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
        hint = "one record with 'messages'"
    got = "no value" if value is None else type(value).__name__
    raise refusal(f"{where}, {key!r}", got, "a text", hint)


def _messages(value: object, where: str) -> tuple[Mapping[str, Any], ...]:
    """The messages, read where they are JSON text, and without the empty keys with which tables fill them."""
    value = as_lists(value)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parse_json(value, f"{where}, 'messages'", "a list of messages")
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        got = repr(value) if value in ("", [], ()) else type(value).__name__
        raise refusal(f"{where}, 'messages'", got, "a list of messages, at least one")
    for number, message in enumerate(value):
        place = f"{where}, message {number}"
        if not isinstance(message, Mapping):
            raise refusal(place, type(message).__name__, "a mapping with 'role' and 'content'")
        _string(message, "role", place)
        content = message.get("content")
        # An assistant may say nothing, or call a tool instead.
        silent = content is None and message["role"] == "assistant"
        if not silent and not isinstance(content, str | list | tuple):
            got = "no value" if content is None else type(content).__name__
            raise refusal(f"{place}, 'content'", got, "a text")
        for part in content if isinstance(content, list | tuple) else ():
            if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
                expected = "a mapping with 'type', such as {'type': 'text', 'text': ...}"
                raise refusal(f"{place}, a part of 'content'", repr(part)[:60], expected)
    return tuple({k: v for k, v in message.items() if v is not None or k == "content"} for message in value)
