"""Conversations: their messages as records give them, and the prompt that a tokenizer's chat template makes of them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trimtab.errors import ModelError, refusal
from trimtab.runs.files import parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]
"""One turn: "role", and what it says: "content", a text or a list of parts, "tool_calls", reasoning."""

Prompt = str | Sequence[Message] | Mapping[str, Any]
"""A text, a list of messages, or a mapping with "messages" or "prompt" and what else the chat template takes."""

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


def is_missing(value: object) -> bool:
    """Whether a value says that there is none: None, nan, or pandas' NA.

    >>> is_missing(None), is_missing(float("nan")), is_missing("")
    (True, True, False)
    """
    kind = type(value).__name__
    return value is None or kind in ("NAType", "NaTType") or (kind[:5] == "float" and bool(value != value))


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


def read_field(fields: Mapping[str, Any], key: str, where: str) -> str:
    """Text of a key of a record or message.

    Raises:
        DataError: there is none, or another value.
    """
    value = fields.get(key)
    if isinstance(value, str):
        return str(value)
    hint = "a record for each text" if isinstance(value, Sequence) else ""
    if isinstance(value, bytes | bytearray):
        hint = "decoding it"
    elif is_talk(value):
        hint = "one record with 'messages'"
    got = "no value" if value is None else type(value).__name__
    raise refusal(f"{where}, {key!r}", got, "a text", hint)


def is_talk(value: object) -> bool:
    """Whether a value is a list of messages and no text.

    >>> is_talk([{"role": "user", "content": "Hi"}]), is_talk("Hi"), is_talk(["Hi"])
    (True, False, False)
    """
    value = as_lists(value)
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


_MESSAGE = "a mapping with 'role' and 'content'"


def read_messages(value: object, where: str, key: str = "messages") -> tuple[Message, ...]:
    """Checked messages, read where they are JSON text, and without the empty keys with which tables fill them.

    Args:
        value: of a record, under the key.
        where: what to call the record in an error.
        key: what the record calls them.

    Raises:
        DataError: no list of messages, or one of another form.
    """
    value = as_lists(value)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parse_json(value, f"{where}, {key!r}", "a list of messages")
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        got = repr(value) if value in ("", [], ()) else type(value).__name__
        raise refusal(f"{where}, {key!r}", got, "a list of messages, at least one")
    for number, message in enumerate(value):
        place = f"{where}, message {number}"
        if not isinstance(message, Mapping):
            raise refusal(place, type(message).__name__, _MESSAGE)
        if "from" in message and "role" not in message:
            hint = "columns='sharegpt', for turns under 'conversations'"
            raise refusal(place, "a turn with 'from'", _MESSAGE, hint)
        read_field(message, "role", place)
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


def forms(messages: Sequence[Message]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """Messages as templates take them, in two forms.

    The first has arguments of tool calls as mappings, as transformers has them, the second as the JSON texts that they
    were. In both no content is an empty one, and a call of OpenAI's older form is a tool call.
    """
    prepared = tuple(_prepared(message) for message in messages)
    parsed = tuple(dict(message) for message in prepared)
    for message in parsed:
        if isinstance(calls := message.get("tool_calls"), list):
            message["tool_calls"] = [in_call(call, _with_arguments) for call in calls]
    return parsed, prepared


def _prepared(message: Message) -> Message:
    prepared = {key: value for key, value in message.items() if value is not None}
    prepared.setdefault("content", "")
    call = prepared.get("function_call")
    if call and not prepared.get("tool_calls"):
        prepared["tool_calls"] = [{"type": "function", "function": call}]
    if prepared.get("tool_calls"):
        prepared["tool_calls"] = without_nulls(prepared["tool_calls"])
    if not isinstance(prepared["content"], str):
        prepared["content"] = [without_nulls(part) for part in prepared["content"]]
    return prepared


def in_call(call: Any, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Any:
    """A tool call with its name and arguments changed: they stand in it, or in its `function`."""
    if not isinstance(call, Mapping):
        return call
    inner = call.get("function")
    return {**call, "function": in_call(inner, change)} if isinstance(inner, Mapping) else change(call)


def _with_arguments(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """A call whose arguments are a mapping where they were the JSON text of one."""
    try:
        arguments = json.loads(call["arguments"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return call
    return {**call, "arguments": arguments} if isinstance(arguments, dict) else call


def reserved(tokenizer: PreTrainedTokenizerBase, given: Mapping[str, Any]) -> str:
    """Name of a variable for the template that is an argument of `apply_chat_template` itself; empty for none."""
    if not given:
        return ""
    arguments = set(inspect.signature(type(tokenizer).apply_chat_template).parameters) - {
        "tools",
        "documents",
    }
    return next((name for name in given if name in arguments), "")


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    given: Mapping[str, Any],
    *,
    prompt: bool = False,
) -> str:
    """Rendered text of messages in one of their `forms`; with `prompt`, up to where the assistant starts.

    Raises:
        Exception: whatever the template raises; transformers has no list of what that may be.
    """
    settings = {"tokenize": False, "add_generation_prompt": prompt, **given}
    return str(tokenizer.apply_chat_template([dict(message) for message in messages], **settings))


@dataclass(frozen=True)
class Conversation:
    """Messages that an assistant is to answer.

    Attributes:
        messages: at least one; the last is not the assistant's.
        given: what else the chat template is given: "tools", "documents", and variables of its own.
    """

    messages: tuple[Message, ...]
    given: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Role and content of each message, a line each, for tables and pages."""
        return "\n".join(f"{one['role']}: {one.get('content') or '...'}" for one in self.messages)

    def prompt(self, tokenizer: PreTrainedTokenizerBase, where: str) -> str:
        """Rendered prompt: the messages by the tokenizer's chat template, up to where the assistant starts.

        Its tokens, without special tokens around them, are those of `apply_chat_template` with
        `add_generation_prompt=True`.

        Raises:
            ModelError: the tokenizer has no chat template.
            DataError: the template refuses the messages.
        """
        check_template(tokenizer, where)
        if name := reserved(tokenizer, self.given):
            got = f"{name!r} in chat_template_kwargs"
            raise refusal(where, got, "variables of the chat template")
        failure: Exception | None = None
        for messages in forms(self.messages):
            try:
                text = render(tokenizer, messages, self.given, prompt=True)
            except Exception as error:
                failure = failure or error
                continue
            self._check_parts(messages, text, where)
            return text
        expected = "a conversation that the tokenizer's chat template takes"
        raise refusal(where, failure, expected, "other roles or order") from failure

    def _check_parts(self, messages: Sequence[Message], text: str, where: str) -> None:
        """Raise a DataError for a picture or sound, and where the template writes a list of parts as Python does."""
        for message in messages:
            parts = message["content"]
            if isinstance(parts, str):
                continue
            if not all(part["type"] == "text" and isinstance(part.get("text"), str) for part in parts):
                raise refusal(where, "a part of content that is no text", "parts of type 'text'")
            if parts and str(parts) in text:
                got = "content in parts, which the chat template does not take"
                raise refusal(where, got, "one text")


def check_template(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Refuse messages for a tokenizer that has no chat template.

    Raises:
        ModelError: naming what to try.
    """
    if not tokenizer.chat_template:
        got, expected = "messages for a tokenizer without a chat template", "a text, or a chat template"
        hint = "the model's instruct version, or tokenizer.chat_template = ..."
        raise refusal(where, got, expected, hint, error=ModelError)


def read_prompt(raw: object, where: str) -> str | Conversation:
    """Checked prompt: a text, or the messages of a conversation.

    Args:
        raw: a text, a list of messages, or a mapping: with "messages", with "prompt", a text or messages, or with
            "text". `BESIDE_MESSAGES` may stand beside messages; other keys are ignored.
        where: what to call it in an error.

    Raises:
        DataError: something else, messages of another form, or an assistant's message at the end.

    >>> str(read_prompt([{"role": "user", "content": "Hi"}], "prompt 0"))
    'user: Hi'
    """
    if isinstance(raw, str):
        return str(raw)
    value: Any = {"messages": raw} if is_talk(raw) else raw
    key = next(
        (key for key in ("messages", "prompt", "text") if isinstance(value, Mapping) and key in value), ""
    )
    if not key:
        is_mapping = isinstance(raw, Mapping)
        got = f"a mapping with {', '.join(map(repr, value))}"[:80] if is_mapping else type(raw).__name__
        raise refusal(where, got, "a text, a list of messages, or a mapping with 'messages'")
    if key == "text" or (key == "prompt" and not is_talk(value[key])):
        return read_field(value, key, where)
    messages = read_messages(value[key], where, key)
    if messages[-1]["role"] == "assistant":
        got, hint = "an assistant's message at the end", "leaving it out"
        raise refusal(where, got, "messages that the assistant answers", hint)
    return Conversation(messages, read_given(value, messages, where))
