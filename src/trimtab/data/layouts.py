"""Layouts of other people's conversations, ShareGPT's and Alpaca's, as records with messages.

Axolotl and LLaMA-Factory read the same keys. So a model's own chat template writes the conversation, whatever words
the authors of a data set trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.errors import nearest, refusal
from trimtab.models.chat import as_lists, is_missing, is_talk, read_field
from trimtab.runs.files import parse_json

ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    "system": "system",
}
"""Speakers of ShareGPT's turns -> roles of messages."""
_LOSS = ("weight", "train", "training", "loss")
"""Keys by which a turn says whether it is to be learned."""


@dataclass(frozen=True)
class Layout:
    """Layout of records that become a conversation.

    Attributes:
        needed: keys or columns that a record must have.
        optional: further ones that are read where they are there.
        read: a record and its place in errors -> a record with "messages" and perhaps "tools".
    """

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Mapping[str, Any], str], dict[str, Any]]


def sharegpt(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Messages of ShareGPT's "conversations", each turn with "from" and "value".

    A turn from "function_call" is a tool call of the assistant: JSON of one call or of a list of them. A "system" text
    beside the turns is the first message. "tools" may be the JSON text of a list; bare functions are wrapped.

    Raises:
        DataError: a turn of another form, or from a speaker that is none of `ROLES`.

    >>> sharegpt({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}, "a:1")
    {'messages': [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Ho'}]}
    """
    turns = as_lists(raw["conversations"])
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        turns = parse_json(turns, f"{where}, 'conversations'", "a list of turns")
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise refusal(f"{where}, 'conversations'", type(turns).__name__, "a list of turns")
    messages = [_turn(turn, f"{where}, turn {number}") for number, turn in enumerate(turns)]
    begun = bool(messages) and messages[0]["role"] == "system"
    return {"messages": [*([] if begun else _system(raw, where)), *messages]} | _tools(raw, where)


def _turn(turn: object, where: str) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise refusal(where, type(turn).__name__, "a mapping with 'from' and 'value'")
    if "from" not in turn and "role" in turn:
        got = "a turn with 'role'"
        raise refusal(where, got, "'from' and 'value'", "columns={'messages': 'conversations'}")
    speaker = read_field(turn, "from", where)
    if speaker not in ROLES:
        expected = f"one of {', '.join(map(repr, ROLES))}"
        raise refusal(f"{where}, 'from'", repr(speaker), expected, nearest(speaker, ROLES))
    message: dict[str, Any] = {"role": ROLES[speaker]}
    if speaker == "function_call":
        calls = parse_json(read_field(turn, "value", where), f"{where}, 'value'", "a tool call in JSON")
        calls = calls if isinstance(calls, list) else [calls]
        if not calls or not all(
            isinstance(one, Mapping) and isinstance(one.get("name"), str) for one in calls
        ):
            expected = "a tool call, a mapping with 'name' and 'arguments', or a list of such"
            raise refusal(f"{where}, 'value'", repr(calls)[:60], expected)
        message |= {"content": "", "tool_calls": [{"type": "function", "function": one} for one in calls]}
    else:
        message["content"] = read_field(turn, "value", where)
    return message | {key: turn[key] for key in _LOSS if not is_missing(turn.get(key))}


def alpaca(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Messages of Alpaca's "instruction", "input" and "output".

    The user says the instruction and, after a blank line, the input where there is one; the assistant says the output.
    "system" is the first message, and pairs of "history" are earlier turns, as LLaMA-Factory has them.

    Raises:
        DataError: a value that is no text, or a history that is no list of pairs.

    >>> alpaca({"instruction": "Add.", "input": "1, 2", "output": "3"}, "a:1")["messages"][0]
    {'role': 'user', 'content': 'Add.\\n\\n1, 2'}
    """
    question = read_field(raw, "instruction", where)
    more = "" if is_missing(raw.get("input")) else read_field(raw, "input", where)
    question = f"{question}\n\n{more}" if more.strip() else question
    talk = [*_history(raw, where), (question, read_field(raw, "output", where))]
    messages = [
        {"role": role, "content": text}
        for pair in talk
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return {"messages": [*_system(raw, where), *messages]}


def _history(raw: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    pairs = as_lists(raw.get("history"))
    for number, pair in enumerate([] if is_missing(pairs) or pairs == "" else pairs):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(one, str) for one in pair):
            got = repr(pair)[:60]
            raise refusal(f"{where}, 'history', turn {number}", got, "a pair of texts: question and answer")
        yield pair[0], pair[1]


def _system(raw: Mapping[str, Any], where: str) -> list[dict[str, str]]:
    value = raw.get("system")
    text = "" if is_missing(value) else read_field(raw, "system", where)
    return [{"role": "system", "content": text}] if text.strip() else []


def _tools(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    tools = as_lists(raw.get("tools"))
    if isinstance(tools, str):
        tools = parse_json(tools, f"{where}, 'tools'", "a JSON list") if tools.strip() else None
    if is_missing(tools) or not tools:
        return {}
    if not is_talk(tools):  # a list of mappings too
        raise refusal(f"{where}, 'tools'", repr(tools)[:60], "a list of mappings")
    return {"tools": [one if "function" in one else {"type": "function", "function": one} for one in tools]}


LAYOUTS: Mapping[str, Layout] = {
    "sharegpt": Layout(("conversations",), ("system", "tools"), sharegpt),
    "alpaca": Layout(("instruction", "output"), ("input", "system", "history"), alpaca),
}
"""Name in `columns` -> layout."""


def looks_like(names: Iterable[Any], raw: Mapping[Any, Any] | None = None) -> str:
    """Name of the layout that keys or columns seem to have; empty for none.

    Args:
        names: of the keys or columns.
        raw: the record, where there is one at hand; ShareGPT's turns have "from".

    >>> looks_like(["instruction", "input", "output", "id"]), looks_like(["text"])
    ('alpaca', '')
    """
    keys = set(map(str, names))
    turns = as_lists((raw or {}).get("conversations"))
    first = turns[0] if is_talk(turns) else None
    if "conversations" in keys and (first is None or "from" in first):
        return "sharegpt"
    return "alpaca" if set(LAYOUTS["alpaca"].needed) <= keys else ""
