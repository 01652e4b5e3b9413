"""A conversation as one text, and where in it the assistant speaks."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from trimtab.data.marking import Marked, Span
from trimtab.data.records import Chat, excerpt, without_nulls
from trimtab.errors import DataError, explain

Message = Mapping[str, Any]

_render_marked: Any = render_jinja_template  # its annotation leaves out the spans that it also returns
_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of an assistant's reasoning, as transformers has them."""
_ARGUMENTS = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)


class SkippedError(DataError):
    """A conversation that is left out and counted, since where the assistant speaks in it is not certain."""


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
    named = [
        *chat.given,
        *(key for m in chat.messages for key in ("tool_calls", "function_call") if m.get(key)),
    ]
    if named:
        raise _skipped(
            chat, f"{named[0]!r}", "a tokenizer with a chat template, which the plain format lacks"
        )
    text, spans = "", []
    for message in chat.messages:
        content = message.get("content") or ""
        if not isinstance(content, str):
            raise _skipped(chat, "content in parts", "one text per message in the plain format")
        text += f"{'' if not text else chr(10) * 2}{message['role'].capitalize()}: "
        start = len(text)
        text += content
        if message["role"] == "assistant" and content.strip():
            text += "" if content.rstrip().endswith(eos_token) else eos_token
            spans.append((start, len(text)))
    return Marked(text, tuple(spans))


def spell_by_template(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> Marked:
    """A conversation by the tokenizer's own template, and where in that text the assistant's turns are.

    A template with `{% generation %}` says itself what the assistant generates. In any other, a turn begins where the
    template's generation prompt ends and goes on to the end of what closes it (text, tool calls and end-of-turn
    tokens). It is located by its place, never by its words: the conversation is written again with a mark inside every
    message, and taking the marks out has to give the first text back. So a template may trim, encode or leave out
    parts of earlier turns: loss is on what it writes. A turn in which nothing is said has no span.

    Raises:
        SkippedError: the template refuses the conversation or does not write a part of it (an assistant's turn, tools,
            tool calls, reasoning, documents, variables), or a turn cannot be located for certain.
    """
    written = _Written.of(chat, tokenizer)
    written.check_fields()
    points = written.points()
    spans = written.generated()
    if spans is None:
        spans = [written.turn(number, points) for number in written.spoken()]
        _check_order(written, spans, points)
    return Marked(written.whole, tuple(spans))


@dataclass(frozen=True)
class _Written:
    """A conversation as a template writes it.

    Attributes:
        chat: the record.
        tokenizer: whose template it is.
        messages: what the template is given.
        whole: what it writes.
    """

    chat: Chat
    tokenizer: PreTrainedTokenizerBase
    messages: tuple[Message, ...]
    whole: str

    @classmethod
    def of(cls, chat: Chat, tokenizer: PreTrainedTokenizerBase) -> _Written:
        """The conversation, tool arguments as mappings as transformers has them, else as the JSON texts they were."""
        for name in chat.given:
            if name in _ARGUMENTS - {"tools", "documents"}:
                raise _skipped(chat, f"{name!r} in chat_template_kwargs", "variables of the chat template")
        messages = [_prepared(message) for message in chat.messages]
        failure: Exception | None = None
        for some in (tuple(_with_arguments(message) for message in messages), tuple(messages)):
            try:
                return cls(chat, tokenizer, some, _render(tokenizer, chat, some))
            except Exception as error:
                failure = failure or error
        raise _skipped(
            chat, failure, "a conversation that the tokenizer's chat template takes", "other roles or order"
        )

    def text(self, messages: Sequence[Message], *, prompt: bool = False) -> str | None:
        """Other messages by the same template; None if it refuses them."""
        try:
            return _render(self.tokenizer, self.chat, messages, prompt=prompt) if messages else ""
        except Exception:
            return None

    def spoken(self) -> list[int]:
        """The numbers of the assistant's turns in which something is said."""
        return [
            number
            for number, message in enumerate(self.messages)
            if message["role"] == "assistant" and any(_has(message, field) for field in _FIELDS)
        ]

    def check_fields(self) -> None:
        """Raise if the template does not write what the record gives it."""
        source = self._template()
        for name in self.chat.given:
            if name in ("tools", "documents"):
                rest = {key: value for key, value in self.chat.given.items() if key != name}
                bare = _Written(Chat(self.chat.messages, rest), self.tokenizer, self.messages, "")
                ignored = bare.text(self.messages) == self.whole
            else:
                ignored = re.search(rf"\b{re.escape(name)}\b", source) is None
            if ignored:
                raise _skipped(
                    self.chat, f"{name!r}, which the chat template does not write", "one that does"
                )
        for number, message in enumerate(self.messages):
            if any(part["type"] != "text" for part in _parts(message)):
                raise _skipped(self.chat, "a part of content that is no text", "parts of type 'text'")
            if any(repr(part) in self.whole for part in _parts(message)) or not self._writes_all(
                number, "content"
            ):
                raise _skipped(
                    self.chat, "content in parts, which the chat template does not take", "one text"
                )
            if not self._writes_all(number, "tool_calls"):
                raise _skipped(
                    self.chat, "tool calls, which the chat template does not write", "one that does"
                )
        if any(_has(m, field) for m in self.messages for field in _REASONING) and not re.search(
            "reasoning|thinking", source
        ):
            raise _skipped(self.chat, "reasoning, which the chat template does not write", "one that does")

    def _writes_all(self, number: int, field: str) -> bool:
        """Whether every part of a list is written: each text of a content, each call."""
        message = self.messages[number]
        whole = message.get(field)
        if not isinstance(whole, list):
            return True
        for place in range(len(whole)):
            one = {**message, field: [whole[place]]}
            marked = _marked(one, field, _mark(number))[field]
            other = {**message, field: [*whole[:place], *marked, *whole[place + 1 :]]}
            text = self.text([*self.messages[:number], other, *self.messages[number + 1 :]])
            if _mark(number) not in (text or ""):
                return False
        return True

    def points(self) -> dict[int, int]:
        """A place inside every message, by its number; those that cannot be told for certain are not in it.

        Raises:
            SkippedError: none of the assistant's turns.
        """
        spoken = self.spoken()
        found = self._all_points()
        for number in range(len(self.messages)) if not found else ():
            if (place := self.point(number)) is not None:
                found[number] = place
        if lost := [number for number in spoken if number not in found]:
            got = f"a turn of the assistant that the chat template leaves out or rewrites (message {lost[0]})"
            raise _skipped(self.chat, got, "one whose place in the text is certain")
        return found

    def point(self, number: int) -> int | None:
        """A place inside one message, at the end of what it says."""
        for field in _FIELDS:
            place = self._unmarked(self._changed(number, field), self.whole)
            if place is not None:
                return place
        return None

    def generated(self) -> list[Span] | None:
        """What the template marks as generated; None if it has no such marks."""
        if _MARKER.search(self._template()) is None:
            return None
        given = dict(self.chat.given)
        texts, spans = _render_marked(
            conversations=[[dict(message) for message in self.messages]],
            tools=given.pop("tools", None),
            documents=given.pop("documents", None),
            chat_template=self._template(),
            return_assistant_tokens_mask=True,
            **{**self.tokenizer.special_tokens_map, **given},
        )
        return [(int(start), int(end)) for start, end in spans[0]] if texts[0] == self.whole else None

    def turn(self, number: int, points: Mapping[int, int]) -> Span:
        """Where one of the assistant's turns is."""
        before = self.text(self.messages[:number], prompt=True)
        upto = self.text(self.messages[: number + 1])
        point = points[number]
        if before and len(before) <= point and self.whole.startswith(before):
            start: int | None = len(before)
        else:
            start = self._start(number, before, points)
        if upto and point <= len(upto) and self.whole.startswith(upto):
            end: int | None = len(upto)
        else:
            end = self._end(number, point)
        if start is None or end is None:
            got = f"a turn of the assistant without a certain {'beginning' if start is None else 'end'}"
            raise _skipped(self.chat, f"{got} (message {number})", "one whose place in the text is certain")
        return start, end

    def _start(self, number: int, before: str | None, points: Mapping[int, int]) -> int | None:
        """After the generation prompt that opens the turn; where there is none, where its content begins."""
        earlier = self.text(self.messages[:number])
        if not number:
            before, earlier = self.text(self.messages[:1], prompt=True), self.text(self.messages[:1])
        prompt = before[len(earlier) :] if before and earlier and before.startswith(earlier) else ""
        low = points.get(number - 1) if number else 0
        front = self._front(number)
        if (
            prompt
            and front is not None
            and (place := self.whole.rfind(prompt, low or 0, front)) >= (low or 0)
        ):
            # between the message before and the content stand only words of the template
            return place + len(prompt) if low is not None else front
        if front is None and prompt and low is not None:
            place = self.whole.find(prompt, low, points[number])
            return place + len(prompt) if place >= 0 else None
        return front

    def _front(self, number: int) -> int | None:
        """Where the content of a turn begins; after its reasoning where the template leaves that out."""
        message = self.messages[number]
        content = message.get("content")
        if not _has(message, "content"):
            return None
        place = self._unmarked(self._changed(number, "content", front=True), self.whole)
        if place is not None or not isinstance(content, str) or "</think>" not in content:
            return place
        thought, end, answer = content.rpartition("</think>")
        mark = _mark(number)
        for text in (f"{thought}{mark}{end}{answer}", f"{thought}{end}{_inserted(answer, mark, True)}"):
            other = [*self.messages]
            other[number] = {**message, "content": text}
            written = self.text(other) or ""
            if text.startswith(f"{thought}{mark}") and mark in written:
                return None
            place = self._unmarked((written, mark), self.whole)
        return place

    def _end(self, number: int, point: int) -> int | None:
        """After what closes the turn where it is the last; where it is not closed like that, where its text ends."""
        for field in _FIELDS:
            changed = self._changed(number, field)
            if changed is None or self._unmarked(changed, self.whole) != point:
                continue
            alone = self.text([*self.messages[:number], _marked(self.messages[number], field, _mark(number))])
            _, mark, closing = (alone or "").partition(_mark(number))
            if mark and self.whole.startswith(closing, point):
                return point + len(closing)
            if field == "content" and not _has(self.messages[number], "tool_calls"):
                content = _last_text(self.messages[number])
                blank = content[len(content.rstrip()) :]
                return point + len(blank) * self.whole.startswith(blank, point)
        return None

    def _all_points(self) -> dict[int, int]:
        """`points` with a single rendering, where the marks of all messages can be taken out again together."""
        fields = [next((f for f in _FIELDS if _has(m, f)), "content") for m in self.messages]
        marked = [
            _marked(message, field, _mark(number))
            for number, (message, field) in enumerate(zip(self.messages, fields, strict=True))
        ]
        text, found, place = self.text(marked) or "", {}, 0
        marks = {number: _mark(number) for number in range(len(self.messages))}
        if any(text.count(mark) != 1 or mark in self.whole for mark in marks.values()):
            return {}
        for number in sorted(marks, key=lambda number: text.index(marks[number])):
            found[number] = text.index(marks[number]) - place
            place += len(marks[number])
        for mark in marks.values():
            text = text.replace(mark, "")
        return found if text == self.whole else {}

    def _changed(self, number: int, field: str, *, front: bool = False) -> tuple[str, str] | None:
        """The whole text with a mark in one field of one message, and the mark; None if it is not written."""
        message = self.messages[number]
        if not _has(message, field) and (field != "content" or any(_has(message, f) for f in _FIELDS)):
            return None
        mark = _mark(number)
        other = list(self.messages)
        other[number] = _marked(message, field, mark, front=front)
        text = self.text(other)
        return (text, mark) if text is not None and mark in text else None

    def _unmarked(self, changed: tuple[str, str] | None, whole: str) -> int | None:
        """Where the mark stands, if it stands once and without it the text is the whole."""
        if changed is None:
            return None
        text, mark = changed
        if text.count(mark) != 1 or mark in whole or text.replace(mark, "") != whole:
            return None
        return text.index(mark)

    def _template(self) -> str:
        return self.tokenizer.get_chat_template(None, self.chat.given.get("tools"))


_FIELDS = ("content", "tool_calls", *_REASONING)
"""Where a message says something, in the order in which they are looked at."""


def _check_order(written: _Written, spans: Sequence[Span], points: Mapping[int, int]) -> None:
    """Turns follow one another, and nothing that another role says is among them."""
    spoken = set(written.spoken())
    others = [point for number, point in points.items() if number not in spoken]
    ordered = all(first[1] <= second[0] for first, second in pairwise(spans))
    if not ordered or any(start < point < end for start, end in spans for point in others):
        raise _skipped(written.chat, "turns that the chat template writes in one another", "turns in order")


def _render(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, messages: Sequence[Message], *, prompt: bool = False
) -> str:
    """What the template writes; with `prompt`, up to where the assistant starts. Raises what the template raises."""
    plain = [dict(message) for message in messages]
    return str(
        tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=prompt, **chat.given)
    )


def _skipped(chat: Chat, got: object, expected: str, hint: str = "") -> SkippedError:
    return SkippedError(f"messages {excerpt(chat)}: {explain(got, expected, hint)}")


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


def _with_arguments(message: Message) -> Message:
    """The arguments of tool calls as mappings, where they are the JSON text of one."""
    if not isinstance(message.get("tool_calls"), list):
        return message
    return {**message, "tool_calls": [_read_arguments(call) for call in message["tool_calls"]]}


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


def _has(message: Message, field: str) -> bool:
    """Whether a field of a message says something."""
    value = message.get(field)
    if isinstance(value, list) and field == "content":
        return bool(_last_text(message).strip())
    return bool(value.strip()) if isinstance(value, str) else bool(value)


def _parts(message: Message) -> list[Any]:
    return message["content"] if isinstance(message.get("content"), list) else []


def _last_text(message: Message) -> str:
    texts = [part.get("text") for part in _parts(message) if part["type"] == "text"]
    return str(texts[-1] if texts else message["content"] if not _parts(message) else "")


def _mark(number: int) -> str:
    """Digits, which no template trims, escapes or changes the case of, and which do not overlap themselves."""
    return f"908172{number:04d}6354"


def _marked(message: Message, field: str, mark: str, *, front: bool = False) -> Message:
    """The message with a mark at the end, or at the front, of what a field says; of a call, in its name."""
    if field == "tool_calls":
        calls = list(message["tool_calls"])
        calls[0] = _named(calls[0], mark)
        return {**message, field: calls}
    value = message.get(field) or ""
    if not isinstance(value, list):
        return {**message, field: _inserted(str(value), mark, front)}
    texts = [place for place, part in enumerate(value) if part["type"] == "text"]
    if not texts:
        return message
    place = texts[0 if front else -1]
    part = {**value[place], "text": _inserted(str(value[place].get("text", "")), mark, front)}
    return {**message, field: [*value[:place], part, *value[place + 1 :]]}


def _inserted(text: str, mark: str, front: bool) -> str:
    """White space stays outside, so that trimming it changes nothing."""
    edge = len(text) - len(text.lstrip()) if front else len(text.rstrip())
    return text[:edge] + mark + text[edge:]


def _named(call: Any, mark: str) -> Any:
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _named(call["function"], mark)}
    return {**call, "name": f"{call.get('name', '')}{mark}"}
