"""Records of a domain: a plain text, a prompt with its completion, or a conversation with what its template takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal

from trimtab.data.groups import GROUP, group_text
from trimtab.data.layouts import LAYOUTS, looks_like
from trimtab.errors import Problem, nearest, refusal
from trimtab.models.chat import (
    BESIDE_MESSAGES,
    as_lists,
    is_missing,
    is_talk,
    read_field,
    read_given,
    read_messages,
)
from trimtab.runs.files import has_halves

_KINDS = "a text, or a mapping with 'text', with 'prompt' and 'completion', or with 'messages'"
KEYS = ("text", "prompt", "completion", "messages")
"""The keys that make a record; `GROUP` may stand beside them, `trimtab.models.chat.BESIDE_MESSAGES` beside messages."""
CHOICES = "choices"
"""May stand beside a prompt and a completion: texts among which the completion is. Training reads none of it."""

_SAME_KEYS = dict(zip(KEYS, KEYS, strict=True))
LayoutName = Literal["sharegpt", "alpaca"]
"""Names of `trimtab.data.layouts.LAYOUTS`."""
Columns = Mapping[str, str] | LayoutName | None
"""Our keys -> those of somebody's data, or the name of a layout; None for the same."""
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


@dataclass(frozen=True)
class _Digested:
    """A record that is identified by the digest of its content.

    Attributes:
        group: what it has in common with others, see `trimtab.data.groups`; no part of its content. "" for none.
    """

    group: str = field(default="", kw_only=True, compare=False, repr=False)

    @cached_property
    def digest(self) -> bytes:
        """Content digest, 32 bytes: sha256 of the kind and its fields as JSON, which separates them."""
        text = json.dumps(self._content(), sort_keys=True, ensure_ascii=True, default=str)
        return hashlib.sha256(text.encode()).digest()

    @property
    def grouped_digest(self) -> bytes:
        """Digest of content and group, 32 bytes; `digest` itself without a group."""
        return hashlib.sha256(self.digest + self.group.encode()).digest() if self.group else self.digest

    def _content(self) -> tuple[Any, ...]:
        kind: Any = type(self)
        names = (name for name in kind.__dataclass_fields__ if name not in (GROUP, CHOICES))
        return (kind.__name__.lower(), *(getattr(self, name) for name in names))


@dataclass(frozen=True)
class Text(_Digested):
    """A document; every token carries loss."""

    text: str


@dataclass(frozen=True)
class Completion(_Digested):
    """A prompt and what should follow it; only the completion carries loss.

    Attributes:
        choices: texts to choose the completion from, itself among them but for white space at its ends; no part of the
            content, as nothing but `trimtab compare` asks for them. Empty for none.
    """

    prompt: str
    completion: str
    choices: tuple[str, ...] = field(default=(), kw_only=True, compare=False, repr=False)


@dataclass(frozen=True)
class Chat(_Digested):
    """A conversation; only what the assistant says carries loss.

    Attributes:
        messages: each with "role" and what it says: "content", a text or a list of parts, "tool_calls", reasoning.
        given: what else the chat template is given: "tools", "documents", and variables of its own.
        prompt: how many messages at the start are only read, as those of trl's conversational "prompt".
    """

    messages: tuple[Mapping[str, Any], ...]
    given: Mapping[str, Any] = field(default_factory=dict)
    prompt: int = 0

    def _content(self) -> tuple[Any, ...]:
        given = ("chat given", dict(self.given)) if self.given else ("chat",)
        prompt = (f"prompt {self.prompt}",) if self.prompt else ()
        return (*prompt, *given, *map(dict, self.messages))


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

    Keys other than `KEYS` and `GROUP` are ignored, and so are keys without a value; beside "messages", those of
    `BESIDE_MESSAGES` are kept for the chat template (`tools` also as a JSON text, as trl takes it).

    A prompt and a completion are both texts, or both lists of messages, as trl's conversational records have them.
    None and nan are no value, as tables write them. A record that has the keys of its kind but no value gives
    `NOTHING`. Conversations may be JSON text, as in CSV. Of several kinds in one record, messages win over a prompt
    with its completion, and those over a text.

    Args:
        raw: a text or a mapping; a checked record passes through.
        where: what to call the record in an error: file and line, or its number.
        columns: our keys -> those of the record, or "sharegpt" or "alpaca"; None for the same. Those of `KEYS` are the
            same, too, where only the group is named.
        unused: columns of the record's table that were not read, to be noted.

    Raises:
        DataError: neither a text nor one of the three kinds of mapping, a field of the wrong type, or a record without
            a value in the column that `columns` names for the group. Half of a
            character (a lone surrogate) is refused by `whole`, where the record is used.

    >>> parse({"prompt": "2 + 2 =", "completion": " 4", "id": 7}, "line 1")
    Completion(prompt='2 + 2 =', completion=' 4')
    """
    if isinstance(raw, Text | Completion | Chat):
        return _marked(_grouped(raw, raw.group, f"{where}, {GROUP!r}"), where)
    if isinstance(raw, str):
        return _marked(Text(str(raw)), where)
    if is_missing(raw):
        return NOTHING
    if not isinstance(raw, Mapping):
        raise refusal(where, type(raw).__name__, _KINDS)
    record_columns, name = _without_group(columns)
    try:
        item, used = _item(raw, record_columns, where)
        if item is not None and item is not NOTHING:
            group = raw.get(name) if name else None
            _need_group(raw, columns, where)
            item = _marked(_grouped(item, group, f"{where}, {name!r}"), where)
    except RecursionError as error:
        raise refusal(where, "values nested too deep", _KINDS) from error
    if item is None:
        expected, hint = (
            missing_column(record_columns, raw) if record_columns else (_KINDS, hint_for(raw, raw))
        )
        got = f"a mapping with {named(raw)}" if raw else "an empty mapping"
        raise refusal(where, got, expected, hint)
    used |= {name} if name and name in raw else set()
    if len(raw) > len(used):
        unused += tuple(str(key) for key in raw if key not in used and not is_missing(raw[key]))
    if unused and item is not NOTHING:
        # Kept beside the fields, as cached digests are: two records of the same content stay equal.
        item.__dict__["_unused"] = unused
    return item


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


def column_problems(columns: object) -> Iterator[Problem]:
    """Problems of a mapping of our keys to those of somebody's data, or of the name of a layout.

    >>> print(*column_problems({"txt": "body"}))
    columns.txt: got 'txt', expected one of 'text', 'prompt', 'completion', 'messages', 'group'; try 'text'
    """
    if isinstance(columns, str):
        if columns not in LAYOUTS:
            expected = f"{', '.join(map(repr, LAYOUTS))}, or a mapping of our keys to theirs"
            yield Problem("columns", repr(columns), expected, nearest(columns, LAYOUTS) or "{'text': 'body'}")
        return
    if not isinstance(columns, Mapping) or not columns:
        yield Problem("columns", repr(columns), "a mapping of our keys to theirs", "{'text': 'body'}")
        return
    for key, name in columns.items():
        if key not in (*KEYS, GROUP):
            expected = f"one of {', '.join(map(repr, (*KEYS, GROUP)))}"
            yield Problem(f"columns.{key}", repr(key), expected, nearest(str(key), (*KEYS, GROUP)))
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
    if layout := looks_like(keys, raw):
        return f"columns={layout!r}"
    talks = [name for name in ("conversations", "conversation", "dialogue", "dialog") if name in keys]
    if talks:
        # Renaming, unless its turns are not as ours.
        talk = as_lists((raw or {}).get(talks[0]))
        if is_talk(talk) and {"role", "content"} <= talk[0].keys():
            return f"columns={{'messages': {talks[0]!r}}}"
        return f"'messages', a list of {{'role', 'content'}}, made of {talks[0]!r} ('human' becomes 'user')"
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


def _needed(columns: Mapping[str, str] | str) -> list[str]:
    """Keys or columns that a record must have."""
    return list(LAYOUTS[columns].needed if isinstance(columns, str) else columns.values())


def missing_column(columns: Mapping[str, str] | str, names: Iterable[Any]) -> tuple[str, str]:
    """Expectation and hint where keys lack one of `columns`: the name that looks most like it.

    >>> missing_column({"text": "bdy"}, ["id", "body"])
    ("'bdy' among them", "'body'")
    """
    keys = list(map(str, names))
    missing = [name for name in _needed(columns) if name not in keys]
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
    talks = "messages" in names or {"prompt", "completion"} <= set(names)
    keys = KEYS + BESIDE_MESSAGES * talks
    record_columns, group = _without_group(columns)
    needed, got = _needed(columns) if columns else [], f"columns [{named(names)}]"
    if columns and not set(needed) <= set(names):
        raise refusal(where, got, *missing_column(columns, names))
    optional = [name for name in names if name in keys] if not record_columns else []
    asked = "completion" in (record_columns if isinstance(record_columns, Mapping) else names)
    optional += [name for name in names if name == CHOICES and asked]
    if isinstance(columns, str):
        optional = [name for name in LAYOUTS[columns].optional if name in names]
    used = list(dict.fromkeys([*needed, *optional, *(name for name in names if name == group)]))
    if not record_columns and not has_record(set(used)):
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


def _without_group(columns: Columns) -> tuple[Columns, str]:
    """Columns of what makes a record (None: the same as ours), and that of its group; "" where it is not read.

    >>> _without_group({"text": "body"}), _without_group({"group": "play"})
    (({'text': 'body'}, ''), (None, 'play'))
    """
    if columns is None or isinstance(columns, str):
        return columns, GROUP
    return {key: name for key, name in columns.items() if key != GROUP} or None, columns.get(GROUP, "")


def _need_group(raw: Mapping[Any, Any], columns: Columns, where: str) -> None:
    """Refuse a record without a value in the column that is named for the group."""
    if (
        not isinstance(columns, Mapping)
        or not is_missing(raw.get(name := columns.get(GROUP, "")))
        or not name
    ):
        return
    if name not in raw:
        raise refusal(where, f"a mapping with {named(raw)}", *missing_column({GROUP: name}, raw))
    raise refusal(f"{where}, {name!r}", "no value", "a text or a number, the record's group")


def _grouped(item: Item, value: object, where: str) -> Item:
    """The record with its group, itself where it has that already."""
    group = group_text(value, where)
    return item if group == item.group else replace(item, group=group)


def _item(raw: Mapping[Any, Any], columns: Columns, where: str) -> tuple[Item | None, set[str]]:
    """The record of a mapping and the keys of the mapping that it is made of; None where they make none."""
    if isinstance(columns, str):
        return _laid_out(raw, columns, where)
    names = columns or _SAME_KEYS
    there = {key: raw[name] for key, name in names.items() if name in raw}
    fields = {key: value for key, value in there.items() if not is_missing(value)}
    given = {key: as_lists(raw[key]) for key in BESIDE_MESSAGES if not is_missing(raw.get(key))}
    given = given if columns is None else {}
    if "messages" in fields:
        messages = read_messages(fields["messages"], where)
        return Chat(messages, read_given(given, messages, where)), {names["messages"], *given}
    if "prompt" in fields and "completion" in fields:
        used = {names["prompt"], names["completion"]}
        if is_talk(fields["prompt"]) and is_talk(fields["completion"]):
            prompt, completion = (read_messages(fields[key], where, key) for key in ("prompt", "completion"))
            messages = (*prompt, *completion)
            return Chat(messages, read_given(given, messages, where), len(prompt)), used | set(given)
        asked, answer = _texts(fields, where)
        choices = _choices(raw.get(CHOICES), answer)
        return Completion(asked, answer, choices=choices), used | ({CHOICES} if choices else set())
    if "text" in fields:
        return Text(read_field(fields, "text", where)), {names["text"]}
    if "text" in there or "messages" in there or len(there) == 2:
        return NOTHING, set()
    if there:
        other = "completion" if "prompt" in there else "prompt"
        raise refusal(f"{where}, {other!r}", "no value", "a text", hint_for(raw, raw))
    return None, set()


def _texts(fields: Mapping[str, Any], where: str) -> Iterator[str]:
    """Prompt and completion that are texts, refused where one of them is a list of messages."""
    for key, other in (("prompt", "completion"), ("completion", "prompt")):
        if is_talk(fields[key]) and isinstance(fields[other], str):
            got = f"a text beside messages in {key!r}"
            hint = "[{'role': ..., 'content': ...}]"
            raise refusal(f"{where}, {other!r}", got, "a list of messages, too", hint)
    return (read_field(fields, key, where) for key in ("prompt", "completion"))


def _choices(value: Any, completion: str) -> tuple[str, ...]:
    """Texts among which the completion is; none where a column of that name holds something else.

    >>> _choices(["yes", "no"], " no"), _choices({"text": ["yes"]}, "yes"), _choices(["a", "b"], "c")
    (('yes', 'no'), (), ())
    """
    texts = as_lists(value)
    listed = isinstance(texts, list) and len(texts) > 1 and all(isinstance(text, str) for text in texts)
    return tuple(texts) if listed and completion.strip() in [text.strip() for text in texts] else ()


def _laid_out(raw: Mapping[Any, Any], columns: str, where: str) -> tuple[Item | None, set[str]]:
    """The conversation of a record in one of `LAYOUTS`, as `_item` gives it."""
    layout = LAYOUTS[columns]
    if not all(name in raw for name in layout.needed):
        return None, set()
    if any(is_missing(raw[name]) for name in layout.needed):
        return NOTHING, set()
    record = layout.read(raw, where)
    messages = read_messages(record["messages"], where, layout.needed[0])
    used = {name for name in (*layout.needed, *layout.optional) if name in raw}
    return Chat(messages, read_given(record, messages, where)), used


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
