"""The three kinds of record a domain may hold: plain text, a prompt with its completion, a conversation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from trimtab.data.given import check_content, read_given
from trimtab.errors import DataError, explain, nearest

_KINDS = "a text, or a mapping with 'text', with 'prompt' and 'completion', or with 'messages'"
KEYS = ("text", "prompt", "completion", "messages")
"""The keys that make a record; `trimtab.data.given.BESIDE_MESSAGES` may stand beside messages."""


@dataclass(frozen=True)
class Text:
    """A document; every token carries loss."""

    text: str

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that stand for the content."""
        return _digest("text", self.text)


@dataclass(frozen=True)
class Completion:
    """A prompt and what should follow it; only the completion carries loss."""

    prompt: str
    completion: str

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that stand for the content."""
        return _digest("completion", self.prompt, self.completion)


@dataclass(frozen=True)
class Chat:
    """A conversation; only what the assistant says carries loss.

    Attributes:
        messages: each with "role" and what it says: "content", a text or a list of parts, "tool_calls", reasoning.
        given: what else the chat template is given: "tools", "documents", and variables of its own.
    """

    messages: tuple[Mapping[str, Any], ...]
    given: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that stand for the content."""
        if not self.given:
            return _digest("chat", *map(dict, self.messages))
        return _digest("chat given", dict(self.given), *map(dict, self.messages))


Item = Text | Completion | Chat
"""A record whose form has been checked."""

Record = str | Mapping[str, Any] | Item
"""What a user may give as one record."""


def parse(raw: object, where: str) -> Item:
    """The record in its checked form.

    Keys other than `KEYS` are ignored, and so are keys without a value; beside "messages", those of
    `trimtab.data.given.BESIDE_MESSAGES` are kept for the chat template (`tools` also as a JSON text, as trl takes it).

    Args:
        raw: a text or a mapping; a checked record passes through.
        where: what to call the record in an error: file and line, or its number.

    Raises:
        DataError: neither a text nor one of the three kinds of mapping, or a field of the wrong type.

    >>> parse({"prompt": "2 + 2 =", "completion": " 4", "id": 7}, "line 1")
    Completion(prompt='2 + 2 =', completion=' 4')
    """
    if isinstance(raw, Text | Completion | Chat):
        return raw
    if isinstance(raw, str):
        return Text(raw)
    if not isinstance(raw, Mapping):
        raise DataError(f"{where}: {explain(type(raw).__name__, _KINDS)}")
    fields = {key: raw[key] for key in KEYS if raw.get(key) is not None}
    if "messages" in fields:
        return Chat(_messages(fields["messages"], where), read_given(raw, fields["messages"], where))
    if "prompt" in fields or "completion" in fields:
        return Completion(_string(fields, "prompt", where), _string(fields, "completion", where))
    if "text" in fields:
        return Text(_string(fields, "text", where))
    raise DataError(f"{where}: {explain(_named_keys(raw), _KINDS, _near_key(raw))}")


def excerpt(item: Item, length: int = 60) -> str:
    """The start of a record, quoted, for a message.

    >>> excerpt(Text("one two three"), length=7)
    "'one two...'"
    """
    if isinstance(item, Text):
        text = item.text
    elif isinstance(item, Completion):
        text = item.prompt + item.completion
    else:
        text = " / ".join(str(message.get("content") or "...") for message in item.messages)
    return repr(text if len(text) <= length else f"{text[:length]}...")


def _digest(*parts: object) -> bytes:
    """Sha256 of the parts as JSON, which separates them; lone surrogates pass."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).digest()


def _string(fields: Mapping[str, Any], key: str, where: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        got = "no value" if value is None else type(value).__name__
        hint = "one record with 'messages'" if isinstance(value, Sequence) else ""
        raise DataError(f"{where}, {key!r}: {explain(got, 'a text', hint)}")
    return value


def _messages(value: object, where: str) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        got = repr(value) if value in ("", [], ()) else type(value).__name__
        raise DataError(f"{where}, 'messages': {explain(got, 'a list of messages, at least one')}")
    for number, message in enumerate(value):
        if not isinstance(message, Mapping):
            what = explain(type(message).__name__, "a mapping with 'role' and 'content'")
            raise DataError(f"{where}, message {number}: {what}")
        _string(message, "role", f"{where}, message {number}")
        check_content(message, f"{where}, message {number}")
    return tuple(value)


def _named_keys(raw: Mapping[Any, Any]) -> str:
    return f"a mapping with {', '.join(map(repr, raw))}" if raw else "an empty mapping"


def _near_key(raw: Mapping[Any, Any]) -> str:
    for key in raw:
        near = nearest(str(key), KEYS)
        if near:
            return f"renaming {key!r} to {near}"
    return ""
