"""A conversation as one text, and where in it the assistant speaks."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimtab.data.records import Chat, without_nulls
from trimtab.data.turns import Marked, Message, Written, render, skipped

_ARGUMENTS = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer comes with a chat template."""
    return bool(tokenizer.chat_template)


def spell_plainly(chat: Chat, eos_token: str) -> Marked:
    """A conversation in the plain format, for tokenizers without a chat template.

    Each turn is its capitalised role, a colon, a space and the content; turns are separated by a blank
    line. What the assistant says is closed by the end-of-sequence token, which carries loss too, unless it ends with
    one already.

    Raises:
        SkippedError: tools, tool calls, parts of content or variables, for which the plain format has no place.

    >>> chat = Chat(({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}))
    >>> spell_plainly(chat, "</s>")
    Marked(text='User: Hi\\n\\nAssistant: Hello</s>', spans=((21, 30),))
    """
    calls = [key for m in chat.messages for key in ("tool_calls", "function_call") if m.get(key)]
    for key in (*chat.given, *calls):
        raise skipped(chat, f"{key!r}", "a tokenizer with a chat template, which the plain format lacks")
    text, spans = "", []
    for message in chat.messages:
        content = message.get("content") or ""
        if not isinstance(content, str):
            raise skipped(chat, "content in parts", "one text per message in the plain format")
        text += f"{'' if not text else chr(10) * 2}{message['role'].capitalize()}: "
        start = len(text)
        text += content
        if message["role"] == "assistant" and content.strip():
            text += "" if content.rstrip().endswith(eos_token) else eos_token
            if not _muted(message):
                spans.append((start, len(text)))
    return Marked(text, tuple(spans))


def spell_by_template(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> Marked:
    """A conversation by the tokenizer's own template, and where in that text the assistant's turns are.

    A template with `{% generation %}` says itself what the assistant generates. In any other, a turn begins where the
    template's generation prompt ends and goes on to the end of what closes it (text, tool calls and end-of-turn
    tokens). It is located by its place, never by its words: the conversation is written again with a mark inside every
    message, and taking the marks out has to give the first text back. So a template may trim, encode or leave out
    parts of earlier turns: loss is on what it writes. A turn in which nothing is said has no span, nor one that
    says that it is not to be learned (`weight: 0`, `train: false`, `loss: false`).

    Raises:
        SkippedError: the template refuses the conversation or does not write a part of it (an assistant's turn, tools,
            tool calls, reasoning, documents, variables), or a turn cannot be located for certain.
    """
    written = _write(chat, tokenizer)
    written.check_fields()
    spans = written.generated()
    if spans is None:
        points, spoken = written.points(), written.spoken()
        spans = [written.turn(number, points) for number in spoken]
        others = [point.place for number, point in points.items() if number not in spoken]
        ordered = all(first[1] <= second[0] for first, second in pairwise(spans))
        if not ordered or any(start < place < end for start, end in spans for place in others):
            raise skipped(chat, "turns that the chat template writes in one another", "turns in order")
    if muted := [number for number in written.spoken() if _muted(written.messages[number])]:
        places = [written.points()[number].place for number in muted]
        spans = [span for span in spans if not any(span[0] <= place <= span[1] for place in places)]
    return Marked(written.whole, tuple(spans))


def _muted(message: Message) -> bool:
    """Whether a turn is not to be learned, as OpenAI (weight), axolotl (train, training) and ms-swift (loss) say so."""
    values = (message.get(key) for key in ("weight", "train", "training", "loss"))
    return any(isinstance(value, int | float) and value == 0 for value in values)


def _write(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> Written:
    """The conversation, tool arguments as mappings as transformers has them, else as the JSON texts that they were."""
    for name in chat.given:
        if name in _ARGUMENTS - {"tools", "documents"}:
            raise skipped(chat, f"{name!r} in chat_template_kwargs", "variables of the chat template")
    messages = tuple(_prepared(message) for message in chat.messages)
    read = tuple(
        {**message, "tool_calls": [_read_arguments(call) for call in message["tool_calls"]]}
        if isinstance(message.get("tool_calls"), list)
        else message
        for message in messages
    )
    failure: Exception | None = None
    for some in (read, messages):
        try:
            return Written(chat, tokenizer, some, render(tokenizer, chat, some))
        except Exception as error:
            failure = failure or error
    expected = "a conversation that the tokenizer's chat template takes"
    raise skipped(chat, failure, expected, "other roles or order")


def _prepared(message: Message) -> Message:
    """A message as templates know it: no content is an empty one, and a call of OpenAI's older form is a tool call."""
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


def _read_arguments(call: Any) -> Any:
    if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping):
        return {**call, "function": _read_arguments(call["function"])}
    if not isinstance(call, Mapping) or not isinstance(call.get("arguments"), str):
        return call
    try:
        arguments = json.loads(call["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "arguments": arguments} if isinstance(arguments, dict) else call
