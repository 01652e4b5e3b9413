"""Served responses in files, one JSON object a line: what each answer token's top log-probabilities were.

| form | where it is read |
|---|---|
| chat completions | `choices[].logprobs.content[]`: token, logprob, bytes, top_logprobs |
| completions, the older form | `choices[].logprobs`: tokens, token_logprobs, top_logprobs, text_offset |
| responses | `output[].content[].logprobs[]`, as in chat completions |

Each stands at the top level of a line, under `response`, or under `response.body` as batches write it. The request
stands beside it: `messages`, `prompt` or `input`, at the top level, under `request`, or under `request.body`. Servers
that speak these forms (vLLM and others) add fields, which are passed over.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from trimtab.data.record_files import lines
from trimtab.data.tables import show
from trimtab.errors import DataError, refusal
from trimtab.runs.files import check_regular, parse_json
from trimtab.runs.paths import neighbour, path_problem

CLAMP = -9999.0
"""Log-probability that servers write for a token outside the ones they rank: no measurement."""
FORM = "one served response per line, as JSON in the form of chat completions"
_CHUNKS = "putting the chunks of one id together, or stream: false"
_STREAM = "responses that are not streamed (stream: false)"
_ABOVE = 1e-3
"""Rounding of a probability of 1, in nats; what is larger is no log-probability."""
_TOKEN_ID = re.compile(r"token_id:[0-9]+")
_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True)
class Position:
    """Top log-probabilities at one token of an answer, sorted by falling value.

    A token is named by its UTF-8 bytes where the server gave them, since several tokens can print alike, else by its
    text; bytes that are no text are named `bytes:` and their digits.

    Attributes:
        answer: the token that was written.
        nats: its log-probability; nan where the server does not say.
        tokens: (k) the served tokens.
        values: (k) their log-probabilities in nats, at most 0.
    """

    answer: str
    nats: float
    tokens: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Response:
    """One choice of one served response.

    Attributes:
        where: file and line.
        line: number of the line; the choices of one response share it.
        id: `custom_id`, else the response's own id; empty where there is none.
        columns: what stands at the top level of the line, besides response and request.
        messages: role and text of each message of the request; one "user" for a prompt.
        positions: the first answer tokens, at least one.
    """

    where: str
    line: int
    id: str
    columns: Mapping[str, Any]
    messages: tuple[tuple[str, str], ...]
    positions: tuple[Position, ...]


@dataclass(frozen=True)
class Responses:
    """The responses of a file, what was set aside, and what was odd.

    Attributes:
        responses: in the order of the file.
        set_aside: reason -> choices without log-probabilities that can be read.
        findings: what a reader of the audit has to know, a sentence each.
    """

    responses: tuple[Response, ...]
    set_aside: Mapping[str, int]
    findings: tuple[str, ...]

    @property
    def served(self) -> int:
        """Number of tokens that are served at the first answer token: the most frequent one, the larger of equals.

        Some forms add the written token where it is not among the first k, so that the largest number is k + 1.
        """
        sizes = Counter(len(one.positions[0].tokens) for one in self.responses)
        return max(sizes, key=lambda size: (sizes[size], size))


class SetAsideError(DataError):
    """A response that cannot be used; the file can."""


def read_responses(path: str | Path, *, positions: int = 1) -> Responses:
    """Served responses of a file of JSON lines; see the head of this module for the forms.

    A response with an error, without log-probabilities, without an answer token or with values that are no
    log-probabilities is set aside and counted, and so is a last line that is cut off. Entries of -9999 and below,
    which servers write for tokens that they do not rank, and entries that are no number are left out. Unsorted ones
    are sorted. Each of several choices is a response of its own.

    Args:
        path: a file in UTF-8; `.gz` is unpacked on the way.
        positions: answer tokens that are kept of each response, at least 1.

    Raises:
        DataError: no such file, a folder, pipe or device, an empty file, a line that is no response, that is too long
            or that is not JSON (but the last), streamed chunks, or a file without a single log-probability.
    """
    if not isinstance(path, str | Path):
        raise refusal("transcript", f"a {type(path).__name__}", f"the path of a file: {FORM}")
    if (problem := path_problem("transcript", path, FORM)) is not None:
        raise DataError(str(problem))
    path = Path(path).expanduser()
    if not path.exists():
        raise refusal("transcript", f"no file {str(path)!r}", FORM, neighbour(path))
    check_regular(path, FORM)
    responses: list[Response] = []
    aside, odd, first = Counter[str](), Counter[str](), ""
    for number, (where, raw) in enumerate(_objects(path, aside, odd), start=1):
        found = False
        for place, choice in enumerate(_choices(raw, where)):
            found = True
            try:
                kept = _positions(choice, raw, positions, odd)
            except SetAsideError as error:
                aside[str(error)] += 1
                first = first or f"{where}: {error}"
                continue
            odd["choices"] += place == 1
            columns = {str(key): value for key, value in raw.items() if key not in _STRUCTURE}
            responses.append(Response(where, number, _id(raw), columns, _messages(raw), kept))
        if not found:
            aside[_NO_CHOICE] += 1
            first = first or f"{where}: {_NO_CHOICE}"
    if not responses:
        got = f"no response with log-probabilities ({first})" if first else "an empty file"
        hint = "logprobs: true, top_logprobs: 20 in the request" if first else ""
        raise refusal(path, got, FORM, hint)
    return Responses(tuple(responses), dict(aside), tuple(_findings(responses, odd)))


_NO_CHOICE = "a response without choices"
_CUT = "a last line that is cut off"
_STRUCTURE = (
    "choices",
    "response",
    "request",
    "messages",
    "prompt",
    "input",
    "output",
    "prompt_logprobs",
    "usage",
)


def _objects(path: Path, aside: Counter[str], odd: Counter[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and object of each line; a last line that is cut off is counted."""
    read = lines(path, FORM, newline=None)
    ahead = next(read, None)
    while ahead is not None:
        (where, line), ahead = ahead, next(read, None)
        text = line.strip()
        if not text:
            continue
        if text.startswith(("data:", "event:")):
            raise refusal(where, "a line of a stream of events", _STREAM, _CHUNKS)
        if text.startswith("["):
            raise refusal(where, "the start of a list", FORM, "jq -c '.[]' to write a line for each")
        try:
            raw = parse_json(text, where, FORM)
        except DataError:
            if ahead is not None or line.endswith("\n"):
                raise
            aside[_CUT] += 1
            odd[f"{where} is cut off"] += 1
            continue
        if not isinstance(raw, dict):
            raise refusal(where, f"a {type(raw).__name__}", FORM)
        yield where, raw


def _body(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The response of a line: at its top level, under `response`, or under `response.body`."""
    response = raw.get("response", raw)
    response = response.get("body", response) if isinstance(response, dict) else {}
    return response if isinstance(response, dict) else {}


def _choices(raw: Mapping[str, Any], where: str) -> Iterator[Mapping[str, Any]]:
    """The choices of a response; one that holds nothing but an error for one that failed."""
    body = _body(raw)
    if body.get("object") == "chat.completion.chunk" or _first_of(body.get("choices"), "delta") is not None:
        raise refusal(where, "a chunk of a streamed response", _STREAM, _CHUNKS)
    response = raw.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    failed = isinstance(status, int) and status >= 400
    if isinstance(body.get("choices"), list) and not failed:
        yield from (one if isinstance(one, dict) else {} for one in body["choices"])
    elif isinstance(body.get("output"), list) and not failed:
        yield {"logprobs": {"content": list(_of_responses(body["output"]))}}
    elif failed or any(one.get("error") for one in (raw, body)) or body.get("object") == "error":
        yield {"error": True}
    elif "response" in raw:
        yield {"error": response is None}
    else:
        keys = ", ".join(map(repr, list(raw)[:6]))
        raise refusal(
            where, f"no response (keys {keys})", FORM, "choices at the top level or under 'response'"
        )


def _of_responses(output: Sequence[Any]) -> Iterator[Any]:
    """The answer tokens of a response whose text stands in parts of its output."""
    for item in output:
        for part in _listed(item, "content"):
            yield from _listed(part, "logprobs")


def _listed(value: Any, key: str) -> list[Any]:
    """The list at a key; empty where there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def _first_of(values: Any, key: str) -> Any:
    first = values[0] if isinstance(values, list) and values else None
    return first.get(key) if isinstance(first, dict) else None


def _positions(
    choice: Mapping[str, Any], raw: Mapping[str, Any], most: int, odd: Counter[str]
) -> tuple[Position, ...]:
    """The first answer tokens of a choice.

    Raises:
        SetAsideError: it has none whose log-probabilities can be read; the message is the reason alone.
    """
    if choice.get("error"):
        raise SetAsideError("an error in the place of a response")
    told = choice.get("logprobs")
    if not isinstance(told, dict):
        raise SetAsideError("no log-probabilities")
    entries = told.get("content")
    if not isinstance(entries, list):
        entries = list(_older(told, raw)) if isinstance(told.get("tokens"), list) else None
    if entries is None:
        raise SetAsideError("no log-probabilities")
    if not entries:
        raise SetAsideError("no answer token")
    odd["prompt log-probabilities"] += any("prompt_logprobs" in one for one in (raw, _body(raw), choice))
    kept = [_position(one, odd) for one in entries[:most]]
    odd["short"] += len(kept) < most
    return tuple(kept)


def _older(told: Mapping[str, Any], raw: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The answer tokens of the older form as entries of the newer one, without an echoed prompt."""
    tokens, values, tops = (_listed(told, key) for key in ("tokens", "token_logprobs", "top_logprobs"))
    start = 0
    if values and values[0] is None:  # nothing precedes the first token of a prompt that was echoed
        prompt, offsets = _request(raw).get("prompt"), told.get("text_offset")
        if not isinstance(prompt, str) or not isinstance(offsets, list):
            raise SetAsideError("an echoed prompt of unknown length")
        start = next((n for n, at in enumerate(offsets) if _number(at) >= len(prompt)), len(tokens))
    for place in range(start, len(tokens)):
        top = tops[place] if place < len(tops) else None
        listed = top.items() if isinstance(top, dict) else ()
        value = values[place] if place < len(values) else None
        ranked = [{"token": token, "logprob": nats} for token, nats in listed]
        yield {"token": tokens[place], "logprob": value, "top_logprobs": ranked}


def _position(entry: Any, odd: Counter[str]) -> Position:
    """One answer token with its top log-probabilities, sorted; what is odd is counted."""
    if not isinstance(entry, dict):
        raise SetAsideError("an answer token that is no object")
    answer, nats = _name(entry, odd), _number(entry.get("logprob"))
    top = entry.get("top_logprobs") or []
    if not isinstance(top, list):
        raise SetAsideError("top_logprobs that are no list")
    pairs: dict[str, float] = {}
    clamped = unread = 0
    for one in top or [entry]:
        name, value = _name(one, odd), _number(one.get("logprob"))
        clamped += value <= CLAMP
        unread += math.isnan(value)
        if math.isnan(value) or value <= CLAMP or pairs.get(name) == value:
            continue
        if value > _ABOVE:
            raise SetAsideError("values above 0, which are no log-probabilities")
        while name in pairs:  # another token that prints alike
            name, odd["alike"] = f"{name} (again)", odd["alike"] + 1
        pairs[name] = min(value, 0.0)
    odd["clamped"] += clamped > 0
    odd["no number"] += unread > 0
    if not pairs:
        raise SetAsideError("log-probabilities that are no numbers")
    ranked = sorted(pairs, key=lambda name: -pairs[name])
    odd["unsorted"] += ranked != list(pairs)
    odd["answer alone"] += not top
    return Position(
        answer, nats if nats > CLAMP else math.nan, tuple(ranked), tuple(pairs[n] for n in ranked)
    )


def _name(entry: Any, odd: Counter[str]) -> str:
    """Name of a token: its bytes as text where they are given, else its text."""
    token = entry.get("token") if isinstance(entry, dict) else None
    if not isinstance(token, str):
        raise SetAsideError("a token that is no text")
    given = entry.get("bytes")
    if not given or _TOKEN_ID.fullmatch(token):
        return token
    if not isinstance(given, list) or not all(type(one) is int and 0 <= one < 256 for one in given):
        odd["bytes"] += 1
        return token
    try:
        return bytes(given).decode()
    except UnicodeDecodeError:
        return f"bytes:{bytes(given).hex()}"


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(max(min(value, 10**300), -(10**300))) if is_number else math.nan


def _id(raw: Mapping[str, Any]) -> str:
    found = raw.get("custom_id") or _body(raw).get("id") or ""
    return found if isinstance(found, str) else show(found)


def _request(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request of a line: under `request.body`, under `request`, or the line itself."""
    request = raw.get("request")
    request = request.get("body", request) if isinstance(request, dict) else raw
    return request if isinstance(request, dict) else raw


def _messages(raw: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Role and text of each message of the request."""
    request = _request(raw)
    given = next((request[key] for key in ("messages", "prompt", "input") if request.get(key)), ())
    if isinstance(given, str):
        return (("user", given),)
    if isinstance(given, list) and all(isinstance(one, str) for one in given):
        return tuple(("user", one) for one in given)
    messages = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    return tuple((str(one.get("role") or "user"), _text(one.get("content"))) for one in messages)


def _text(content: Any) -> str:
    """The text of a message, of whose parts those of text count."""
    if isinstance(content, list):
        parts = [one for one in content if isinstance(one, dict) and one.get("type") in _PARTS]
        return "\n".join(str(one.get("text") or "") for one in parts)
    return content if isinstance(content, str) else ""


_ODD = {
    "clamped": f"{{n}} responses hold entries of {CLAMP:g} or below, which say that a token was not ranked; left out",
    "no number": "{n} responses hold log-probabilities that are no numbers; those entries were left out",
    "unsorted": "{n} responses had top log-probabilities that were not sorted; they were sorted",
    "alike": "{n} served tokens print like another one of the same answer, with no bytes to tell them apart",
    "bytes": "{n} served tokens have bytes that are none; their text was taken",
    "answer alone": "{n} responses serve the written token's log-probability alone (top_logprobs was not asked for)",
    "choices": "{n} requests have several choices: each is a response, and they are kept together in the folds",
    "prompt log-probabilities": "{n} responses also hold log-probabilities of the prompt, which were not audited; "
    "who gets them can read the prompt itself",
    "short": "{n} responses have fewer answer tokens than are audited; the missing ones count as not served",
}


def _findings(responses: Sequence[Response], odd: Counter[str]) -> Iterator[str]:
    yield from (name for name in odd if name.endswith("is cut off"))
    yield from (text.format(n=odd[name]) for name, text in _ODD.items() if odd[name])
    tokens = set(chain.from_iterable(position.tokens for one in responses for position in one.positions))
    if odd_ones := [one for one in tokens if one.startswith("bytes:")]:
        yield f"{len(odd_ones)} served tokens are parts of a character and are named by their bytes"
