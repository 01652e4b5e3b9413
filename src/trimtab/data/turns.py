"""Assistant's turns of a conversation, located by place in the text that its chat template writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from trimtab.data.records import Chat, excerpt
from trimtab.errors import DataError, explain
from trimtab.models.chat import Message, forms, in_call, render, reserved

Span = tuple[int, int]
"""Characters [start, end) of a text."""


@dataclass(frozen=True)
class Marked:
    """A text and the spans of characters that carry loss, in order."""

    text: str
    spans: tuple[Span, ...]


_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of an assistant's reasoning, as transformers has them."""
_FIELDS = ("content", "tool_calls", *_REASONING)
"""Where a message says something, in the order in which they are looked at."""


class SkippedError(DataError):
    """A conversation that is left out and counted, since where the assistant speaks in it is not certain."""


@dataclass(frozen=True)
class Point:
    """A character inside a message as it is written, and the field of the message that it is in."""

    place: int
    field: str


@dataclass(frozen=True)
class Written:
    """Rendered conversation: the text of a chat by its template, and the places of its turns.

    Attributes:
        chat: the record.
        tokenizer: whose template it is.
        messages: what the template is given.
    """

    chat: Chat
    tokenizer: PreTrainedTokenizerBase
    messages: tuple[Message, ...]

    @cached_property
    def whole(self) -> str:
        """Rendered text of the whole conversation; raises what the template raises."""
        return self.render(self.messages)

    def render(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """Rendered text of other messages; with `prompt`, up to where the assistant starts."""
        return render(self.tokenizer, messages, self.chat.given, prompt=prompt)

    def text(self, messages: Sequence[Message], *, prompt: bool = False) -> str | None:
        """Rendered text of other messages; None if the template refuses them."""
        try:
            return self.render(messages, prompt=prompt) if messages else ""
        except Exception:
            return None

    def _with(self, number: int, message: Message) -> str:
        """The text with another message in the place of one; empty where the template refuses it."""
        return self.text([*self.messages[:number], message, *self.messages[number + 1 :]]) or ""

    def spoken(self) -> list[int]:
        """Numbers of the assistant's turns that are not empty."""
        turns = [n for n, message in enumerate(self.messages) if message["role"] == "assistant"]
        return [n for n in turns if any(_has(self.messages[n], field) for field in _FIELDS)]

    def check_fields(self) -> None:
        """Raise if the template does not write what the record gives it."""
        source = self._template()
        for name in self.chat.given:
            if name in ("tools", "documents"):
                rest = {key: value for key, value in self.chat.given.items() if key != name}
                bare = Written(Chat(self.chat.messages, rest), self.tokenizer, self.messages)
                ignored = bare.text(self.messages) == self.whole
            else:
                ignored = re.search(rf"\b{re.escape(name)}\b", source) is None
            if ignored:
                raise self._ignored(f"{name!r} in the record")
        for number, message in enumerate(self.messages):
            parts, mark = _parts(message), _mark(number)
            if any(part["type"] != "text" for part in parts):
                raise skipped(self.chat, "a part of content that is no text", "parts of type 'text'")
            # Content in parts is to be written part by part, not as the list that it is.
            strange = {**message, "content": [{**part, mark: mark} for part in parts]}
            if parts and (mark in self._with(number, strange) or not self._writes_all(number, "content")):
                got = "content in parts, which the chat template does not take"
                raise skipped(self.chat, got, "one text")
            if not self._writes_all(number, "tool_calls"):
                raise self._ignored("tool calls")
        reasons = any(_has(message, field) for message in self.messages for field in _REASONING)
        if reasons and not re.search("reasoning|thinking", source):
            raise self._ignored("reasoning")

    def _ignored(self, what: str) -> SkippedError:
        got = f"{what}, which the chat template does not write"
        hint = "another template, or removing it from the records"
        return skipped(self.chat, got, "a template that does", hint)

    def _writes_all(self, number: int, field: str) -> bool:
        """Whether every part of a list is written: each text of a content, each call."""
        message, mark = self.messages[number], _mark(number)
        listed: Any = message.get(field)
        for place, one in enumerate(listed) if isinstance(listed, list) else ():
            marked = _marked({**message, field: [one]}, field, mark)[field]
            other = {**message, field: [*listed[:place], *marked, *listed[place + 1 :]]}
            if mark not in self._with(number, other):
                return False
        return True

    def points(self) -> dict[int, Point]:
        """Place inside each message, by its number; messages whose place is not certain are left out.

        Raises:
            SkippedError: none of the assistant's turns.
        """
        points = self._all_points()
        for number in range(len(self.messages)) if not points else ():
            places = ((self._unmarked(number, self._changed(number, field)), field) for field in _FIELDS)
            point = next((Point(place, field) for place, field in places if place is not None), None)
            if point is None:
                self._check_written(number)
            else:
                points[number] = point
        if lost := [number for number in self.spoken() if number not in points]:
            got = f"a turn of the assistant that the chat template leaves out or rewrites (message {lost[0]})"
            raise skipped(self.chat, got, "one whose place in the text is certain")
        return points

    def _check_written(self, number: int) -> None:
        """Raise if a message that says something is nowhere in the text."""
        fields = [field for field in _FIELDS if _has(self.messages[number], field)]
        if fields and not any(self._changed(number, field) for field in fields):
            raise self._ignored(f"message {number} of role {self.messages[number]['role']!r}")

    def generated(self) -> list[Span] | None:
        """Spans that the template marks as generated; None if it has no such marks.

        Raises:
            SkippedError: it does not write one of the messages.
        """
        if _MARKER.search(self._template()) is None:
            return None
        if not self._all_points():
            for number in range(len(self.messages)):
                self._check_written(number)
        given = dict(self.chat.given)
        render_marked: Any = render_jinja_template  # its annotation leaves out the spans that it also returns
        texts, spans = render_marked(
            conversations=[[dict(message) for message in self.messages]],
            tools=given.pop("tools", None),
            documents=given.pop("documents", None),
            chat_template=self._template(),
            return_assistant_tokens_mask=True,
            **{**self.tokenizer.special_tokens_map, **given},
        )
        return [(int(start), int(end)) for start, end in spans[0]] if texts[0] == self.whole else None

    def turn(self, number: int, points: Mapping[int, Point]) -> Span:
        """Span of one of the assistant's turns."""
        before = self.text(self.messages[:number], prompt=True)
        upto = self.text(self.messages[: number + 1])
        point = points[number]
        opened = before and len(before) <= point.place and self.whole.startswith(before)
        start = len(before) if before and opened else self._start(number, before, points)
        closed = upto and point.place <= len(upto) and self.whole.startswith(upto)
        end = len(upto) if upto and closed else self._end(number, point)
        if start is None or end is None:
            got = f"a turn of the assistant without a certain {'beginning' if start is None else 'end'}"
            raise skipped(self.chat, f"{got} (message {number})", "one whose place in the text is certain")
        return start, end

    def _start(self, number: int, before: str | None, points: Mapping[int, Point]) -> int | None:
        """After the generation prompt that opens the turn; where there is none, where its content begins."""
        if not number:
            before = self.text(self.messages[:1], prompt=True)
        earlier = self.text(self.messages[: number or 1])
        prompt = before[len(earlier) :] if before and earlier and before.startswith(earlier) else ""
        previous = points.get(number - 1)
        low = previous.place if previous else (None if number else 0)
        edge = self._closed(number - 1, previous) if previous else None
        if edge is not None and self.whole.startswith(prompt, edge):
            return edge + len(prompt)
        front = self._front(number)
        place = -1 if front is None or not prompt else self.whole.rfind(prompt, low or 0, front)
        if place >= (low or 0):
            # between the message before and the content stand only words of the template
            return place + len(prompt) if low is not None else front
        if front is None and prompt and low is not None:
            place = self.whole.find(prompt, low, points[number].place)
            return place + len(prompt) if place >= 0 else None
        return front

    def _front(self, number: int) -> int | None:
        """Where the content of a turn begins; after its reasoning where the template leaves that out."""
        message = self.messages[number]
        content = message.get("content")
        if not _has(message, "content"):
            return None
        place = self._unmarked(number, self._changed(number, "content", front=True))
        if place is not None or not isinstance(content, str) or "</think>" not in content:
            return place
        thought, end, answer = content.rpartition("</think>")
        mark = _mark(number)
        for text in (f"{thought}{mark}{end}{answer}", f"{thought}{end}{_inserted(answer, mark, True)}"):
            written = self._with(number, {**message, "content": text})
            if text.startswith(f"{thought}{mark}") and mark in written:
                return None
            place = self._unmarked(number, written)
        return place

    def _end(self, number: int, point: Point) -> int | None:
        """End of a turn: after what closes it, at the end or before a prompt for another; else the end of its text."""
        closed, message = self._closed(number, point), self.messages[number]
        closed = self._closed_before_next(number, point) if closed is None else closed
        if closed is None and point.field == "content" and not _has(message, "tool_calls"):
            content = _last_text(message)
            blank = content[len(content.rstrip()) :]
            return point.place + len(blank) * self.whole.startswith(blank, point.place)
        return closed

    def _closed(self, number: int, point: Point) -> int | None:
        """Where a message and what closes it end, if it is closed as it is where it is the last."""
        mark = _mark(number)
        alone = self.text([*self.messages[:number], _marked(self.messages[number], point.field, mark)])
        _, there, closing = (alone or "").partition(mark)
        if there and self.whole.startswith(closing, point.place):
            return point.place + len(closing)
        return None

    def _closed_before_next(self, number: int, point: Point) -> int | None:
        """Where a turn ends that is closed in another way once something follows, as gpt-oss closes its last one."""
        upto = self.text(self.messages[: number + 1], prompt=True) or ""
        lead = next((n for n, message in enumerate(self.messages) if message["role"] != "assistant"), 0) + 1
        earlier = self.text(self.messages[:lead]) or ""
        before = self.text(self.messages[:lead], prompt=True)
        prompt = before[len(earlier) :] if before and before.startswith(earlier) else ""
        if not prompt or not upto.endswith(prompt):
            return None
        turn = upto.removesuffix(prompt)
        return len(turn) if self.whole.startswith(turn) and len(turn) >= point.place else None

    def _all_points(self) -> dict[int, Point]:
        """`points` with a single rendering, where the marks of all messages can be taken out again together."""
        fields = [next((f for f in _FIELDS if _has(m, f)), "content") for m in self.messages]
        marks = [_mark(number) for number in range(len(self.messages))]
        text = self.text(list(map(_marked, self.messages, fields, marks))) or ""
        if any(text.count(mark) != 1 or mark in self.whole for mark in marks):
            return {}
        points, before = dict[int, Point](), 0
        for number in sorted(range(len(marks)), key=lambda number: text.index(marks[number])):
            points[number] = Point(text.index(marks[number]) - before, fields[number])
            before += len(marks[number])
        for mark in marks:
            text = text.replace(mark, "")
        return points if text == self.whole else {}

    def _changed(self, number: int, field: str, *, front: bool = False) -> str:
        """The whole text with a mark in one field of one message; empty if it is not written."""
        message = self.messages[number]
        if not _has(message, field) and (field != "content" or any(_has(message, f) for f in _FIELDS)):
            return ""
        text = self._with(number, _marked(message, field, _mark(number), front=front))
        return text if _mark(number) in text else ""

    def _unmarked(self, number: int, text: str) -> int | None:
        """Where the mark of a message stands, if it stands once and without it the text is the whole."""
        mark = _mark(number)
        once = text.count(mark) == 1 and mark not in self.whole and text.replace(mark, "") == self.whole
        return text.index(mark) if once else None

    def _template(self) -> str:
        return self.tokenizer.get_chat_template(None, self.chat.given.get("tools"))


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
    calls = (key for m in chat.messages for key in ("tool_calls", "function_call") if m.get(key))
    for key in (*chat.given, *calls):
        raise skipped(chat, f"{key!r}", "a tokenizer with a chat template, which the plain format lacks")
    text, spans = "", []
    for number, message in enumerate(chat.messages):
        content = message.get("content") or ""
        if not isinstance(content, str):
            raise skipped(chat, "content in parts", "one text per message in the plain format")
        text += f"{'' if not text else chr(10) * 2}{message['role'].capitalize()}: "
        start = len(text)
        text += content
        if message["role"] == "assistant" and content.strip():
            text += "" if content.rstrip().endswith(eos_token) else eos_token
            if not _muted(chat, number):
                spans.append((start, len(text)))
    return Marked(text, tuple(spans))


def spell_by_template(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> Marked:
    """A conversation rendered by the tokenizer's own template, with the spans of the assistant's turns.

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
    if muted := [number for number in written.spoken() if _muted(chat, number)]:
        places = [written.points()[number].place for number in muted]
        spans = [span for span in spans if not any(span[0] <= place <= span[1] for place in places)]
    return Marked(written.whole, tuple(spans))


def _muted(chat: Chat, number: int) -> bool:
    """Whether a turn is not to be learned: of the prompt, or as OpenAI, axolotl and ms-swift (loss) say so.

    OpenAI's key is weight, axolotl has train and training.
    """
    values = (chat.messages[number].get(key) for key in ("weight", "train", "training", "loss"))
    return number < chat.prompt or any(isinstance(value, int | float) and value == 0 for value in values)


def _write(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> Written:
    """The conversation, tool arguments as mappings as transformers has them, else as the JSON texts that they were."""
    if name := reserved(tokenizer, chat.given):
        raise skipped(chat, f"{name!r} in chat_template_kwargs", "variables of the chat template")
    failure: Exception | None = None
    for messages in forms(chat.messages):
        written = Written(chat, tokenizer, messages)
        try:
            _ = written.whole
            return written
        except Exception as error:
            failure = failure or error
    expected = "a conversation that the tokenizer's chat template takes"
    raise skipped(chat, failure, expected, "other roles or order")


def skipped(chat: Chat, got: object, expected: str, hint: str = "") -> SkippedError:
    """Error that says why a conversation is left out."""
    return SkippedError(f"messages {excerpt(chat)}: {explain(got, expected, hint)}")


def _has(message: Message, field: str) -> bool:
    """Whether a field of a message is not empty."""
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
        first, *calls = message["tool_calls"]
        named = in_call(first, lambda call: {**call, "name": f"{call.get('name', '')}{mark}"})
        return {**message, field: [named, *calls]}
    value = message.get(field) or ""
    if not isinstance(value, list):
        return {**message, field: _inserted(str(value), mark, front)}
    places = [place for place, part in enumerate(value) if part["type"] == "text"]
    if not places:
        return message
    place = places[0 if front else -1]
    part = {**value[place], "text": _inserted(str(value[place].get("text", "")), mark, front)}
    return {**message, field: [*value[:place], part, *value[place + 1 :]]}


def _inserted(text: str, mark: str, front: bool) -> str:
    """Text with the mark at one end, inside its outer white space, so that trimming changes nothing."""
    edge = len(text) - len(text.lstrip()) if front else len(text.rstrip())
    return text[:edge] + mark + text[edge:]
