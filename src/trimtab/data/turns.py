"""Where the assistant's turns are in what a chat template writes, found by their places and not by their words.

From characters that carry loss to tokens that carry loss.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from trimtab.data.records import Chat, excerpt
from trimtab.errors import DataError, explain

Span = tuple[int, int]
"""Characters [start, end) of a text."""


@dataclass(frozen=True)
class Marked:
    """A text and the spans of characters that carry loss, in order."""

    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Marker:
    """Tokenises marked texts: a token carries loss if one of its characters does.

    So the tokens are those of the whole text, as in pretraining, and a token that straddles the end of a
    prompt is learned. With tokenizers that do not say which characters a token covers, a span begins at the first token
    that differs when the text before it stands alone, and ends with the token that holds its last character.
    """

    tokenizer: PreTrainedTokenizerBase

    def ids_and_loss(self, texts: Sequence[Marked]) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Per text, (n,) token ids without special tokens around them, and (n,) whether each carries loss."""
        if not texts:
            return []
        if not self.tokenizer.is_fast:
            return [self._by_beginnings(marked) for marked in texts]
        encodings = self._backend.encode_batch([marked.text for marked in texts], add_special_tokens=False)
        return [
            (np.array(encoding.ids, np.int64), _touched(encoding.offsets, marked.spans))
            for encoding, marked in zip(encodings, texts, strict=True)
        ]

    @cached_property
    def _backend(self) -> Any:
        """A copy with offsets as they are: the post-processor would leave white space out of them."""
        backend = copy.deepcopy(self.tokenizer.backend_tokenizer)
        backend.post_processor = None
        backend.no_padding()
        backend.no_truncation()
        return backend

    def _by_beginnings(self, marked: Marked) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        ids = self._ids(marked.text)
        loss = np.zeros(len(ids), np.bool_)
        for start, end in marked.spans:
            first, _ = _shared(ids, self._ids(marked.text[:start]))
            last, straddles = _shared(ids, self._ids(marked.text[:end]))
            loss[first : last + straddles] = start < end
        return np.array(ids, np.int64), loss

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


def _shared(ids: Sequence[int], beginning: Sequence[int]) -> tuple[int, bool]:
    """How many tokens a text has in common with its beginning alone, and whether the next one straddles its end.

    >>> _shared([1, 2, 3, 4], [1, 2]), _shared([1, 2, 3, 4], [1, 5])
    ((2, False), (1, True))
    """
    pairs = zip(ids, beginning, strict=False)
    common = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    if common is None:
        return min(len(ids), len(beginning)), False
    return common, True


def _touched(offsets: Sequence[Span], spans: Sequence[Span]) -> NDArray[np.bool_]:
    """Which tokens cover a character of a span.

    >>> _touched([(0, 2), (2, 5), (5, 6)], [(3, 4)])
    array([False,  True, False])
    """
    starts, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    touched = np.zeros(len(starts), np.bool_)
    for start, end in spans:
        touched |= (starts < end) & (ends > start)
    return touched


Message = Mapping[str, Any]

_render_marked: Any = render_jinja_template  # its annotation leaves out the spans that it also returns
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

    def text(self, messages: Sequence[Message], *, prompt: bool = False) -> str | None:
        """Other messages by the same template; None if it refuses them."""
        try:
            return render(self.tokenizer, self.chat, messages, prompt=prompt) if messages else ""
        except Exception:
            return None

    def _with(self, number: int, message: Message) -> str:
        """The text with another message in the place of one; empty where the template refuses it."""
        return self.text([*self.messages[:number], message, *self.messages[number + 1 :]]) or ""

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
                bare = Written(Chat(self.chat.messages, rest), self.tokenizer, self.messages, "")
                ignored = bare.text(self.messages) == self.whole
            else:
                ignored = re.search(rf"\b{re.escape(name)}\b", source) is None
            if ignored:
                raise self._ignored(f"{name!r} in the record")
        for number, message in enumerate(self.messages):
            if any(part["type"] != "text" for part in _parts(message)):
                raise skipped(self.chat, "a part of content that is no text", "parts of type 'text'")
            if not self._takes_parts(number):
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

    def _takes_parts(self, number: int) -> bool:
        """Whether a content in parts is written part by part, not as the list that it is."""
        message = self.messages[number]
        if not _parts(message):
            return True
        strange = {**message, "content": [{**part, _mark(number): _mark(number)} for part in _parts(message)]}
        return _mark(number) not in self._with(number, strange) and self._writes_all(number, "content")

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
            if _mark(number) not in self._with(number, other):
                return False
        return True

    def points(self) -> dict[int, Point]:
        """A place inside every message, by its number; those that cannot be told for certain are not in it.

        Raises:
            SkippedError: none of the assistant's turns.
        """
        spoken = self.spoken()
        found = self._all_points()
        for number in range(len(self.messages)) if not found else ():
            if (place := self._point(number)) is not None:
                found[number] = place
            else:
                self._check_written(number)
        if lost := [number for number in spoken if number not in found]:
            got = f"a turn of the assistant that the chat template leaves out or rewrites (message {lost[0]})"
            raise skipped(self.chat, got, "one whose place in the text is certain")
        return found

    def _check_written(self, number: int) -> None:
        """Raise if a message that says something is nowhere in the text."""
        fields = [field for field in _FIELDS if _has(self.messages[number], field)]
        if fields and not any(self._changed(number, field) for field in fields):
            raise self._ignored(f"message {number} of role {self.messages[number]['role']!r}")

    def _point(self, number: int) -> Point | None:
        """A place inside one message, at the end of what it says."""
        for field in _FIELDS:
            place = self._unmarked(self._changed(number, field), self.whole)
            if place is not None:
                return Point(place, field)
        return None

    def generated(self) -> list[Span] | None:
        """What the template marks as generated; None if it has no such marks.

        Raises:
            SkippedError: it does not write one of the messages.
        """
        if _MARKER.search(self._template()) is None:
            return None
        if not self._all_points():
            for number in range(len(self.messages)):
                self._check_written(number)
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

    def turn(self, number: int, points: Mapping[int, Point]) -> Span:
        """Where one of the assistant's turns is."""
        before = self.text(self.messages[:number], prompt=True)
        upto = self.text(self.messages[: number + 1])
        point = points[number]
        if before and len(before) <= point.place and self.whole.startswith(before):
            start: int | None = len(before)
        else:
            start = self._start(number, before, points)
        if upto and point.place <= len(upto) and self.whole.startswith(upto):
            end: int | None = len(upto)
        else:
            end = self._end(number, point)
        if start is None or end is None:
            got = f"a turn of the assistant without a certain {'beginning' if start is None else 'end'}"
            raise skipped(self.chat, f"{got} (message {number})", "one whose place in the text is certain")
        return start, end

    def _start(self, number: int, before: str | None, points: Mapping[int, Point]) -> int | None:
        """After the generation prompt that opens the turn; where there is none, where its content begins."""
        earlier = self.text(self.messages[:number])
        if not number:
            before, earlier = self.text(self.messages[:1], prompt=True), self.text(self.messages[:1])
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
        place = self._unmarked(self._changed(number, "content", front=True), self.whole)
        if place is not None or not isinstance(content, str) or "</think>" not in content:
            return place
        thought, end, answer = content.rpartition("</think>")
        mark = _mark(number)
        for text in (f"{thought}{mark}{end}{answer}", f"{thought}{end}{_inserted(answer, mark, True)}"):
            written = self._with(number, {**message, "content": text})
            if text.startswith(f"{thought}{mark}") and mark in written:
                return None
            place = self._unmarked((written, mark), self.whole)
        return place

    def _end(self, number: int, point: Point) -> int | None:
        """After what closes the turn where it is the last or another is asked for after it; else its text's end."""
        closed = self._closed(number, point)
        message = self.messages[number]
        if closed is None:
            closed = self._closed_before_next(number, point)
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
        asked = next((n for n, message in enumerate(self.messages) if message["role"] != "assistant"), 0) + 1
        earlier = self.text(self.messages[:asked]) or ""
        before = self.text(self.messages[:asked], prompt=True)
        prompt = before[len(earlier) :] if before and before.startswith(earlier) else ""
        if not prompt or not upto.endswith(prompt):
            return None
        turn = upto.removesuffix(prompt)
        return len(turn) if self.whole.startswith(turn) and len(turn) >= point.place else None

    def _all_points(self) -> dict[int, Point]:
        """`points` with a single rendering, where the marks of all messages can be taken out again together."""
        fields = [next((f for f in _FIELDS if _has(m, f)), "content") for m in self.messages]
        marked = [
            _marked(message, field, _mark(number))
            for number, (message, field) in enumerate(zip(self.messages, fields, strict=True))
        ]
        text, found, place = self.text(marked) or "", dict[int, Point](), 0
        marks = {number: _mark(number) for number in range(len(self.messages))}
        if any(text.count(mark) != 1 or mark in self.whole for mark in marks.values()):
            return {}
        for number in sorted(marks, key=lambda number: text.index(marks[number])):
            found[number] = Point(text.index(marks[number]) - place, fields[number])
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
        text = self._with(number, _marked(message, field, mark, front=front))
        return (text, mark) if mark in text else None

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


def render(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, messages: Sequence[Message], *, prompt: bool = False
) -> str:
    """What the template writes; with `prompt`, up to where the assistant starts. Raises what the template raises."""
    given = {"tokenize": False, "add_generation_prompt": prompt, **chat.given}
    return str(tokenizer.apply_chat_template([dict(message) for message in messages], **given))


def skipped(chat: Chat, got: object, expected: str, hint: str = "") -> SkippedError:
    """The reason why a conversation is left out."""
    return SkippedError(f"messages {excerpt(chat)}: {explain(got, expected, hint)}")


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
