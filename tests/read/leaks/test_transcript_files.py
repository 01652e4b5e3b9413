"""Reading of served responses: every form gives the same, and what is wrong is named and counted."""

from __future__ import annotations

import gzip
import json
import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from served_responses import batch, choice, entry, response, write
from trimtab.errors import DataError
from trimtab.read.leaks.transcript_files import Position, _position, read_responses

TOP = {" No": -0.25, " Yes": -1.75, "\u00e9": -4.0}
CHAT = response(choice(entry(" No", -0.25, TOP)))
OLDER = {
    "id": "cmpl-1",
    "object": "text_completion",
    "model": "m",
    "choices": [
        {
            "text": " No",
            "logprobs": {
                "tokens": [" No"],
                "token_logprobs": [-0.25],
                "top_logprobs": [TOP],
                "text_offset": [16],
            },
        }
    ],
}
NEWEST = {
    "id": "resp-1",
    "object": "response",
    "output": [
        {"type": "reasoning", "summary": []},
        {
            "type": "message",
            "content": [{"type": "output_text", "text": " No", "logprobs": [entry(" No", -0.25, TOP)]}],
        },
    ],
}
ASK = {"messages": [{"role": "user", "content": "Is there a ball?"}]}


@pytest.mark.parametrize(
    "line",
    [
        CHAT | ASK,
        {"response": CHAT, "request": ASK},
        batch("a", CHAT, request={"custom_id": "a", "method": "POST", "body": ASK}),
        OLDER | {"prompt": "Is there a ball?"},
        {"response": OLDER, "request": {"prompt": ["Is there a ball?"]}},
        NEWEST | {"input": "Is there a ball?"},
        {
            "response": NEWEST,
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "Is there a ball?"}]}],
        },
        CHAT | {"prompt_logprobs": [None, {"5": {"logprob": -1.0}}]} | ASK,
    ],
    ids=[
        "chat",
        "response",
        "batch",
        "older",
        "older beside",
        "responses",
        "responses beside",
        "prompt_logprobs",
    ],
)
def test_every_form_gives_the_same(line: dict[str, Any], tmp_path: Path) -> None:
    read = read_responses(write(tmp_path / "served.jsonl", [line | {"city": "Lima"}]))
    (one,) = read.responses
    assert one.positions == (Position(" No", -0.25, tuple(TOP), tuple(TOP.values())),)
    assert one.columns["city"] == "Lima"
    assert one.messages == (("user", "Is there a ball?"),)
    assert one.id in ("a", "chatcmpl-1", "cmpl-1", "resp-1")
    assert (read.served, read.set_aside) == (3, {})
    assert any("log-probabilities of the prompt" in note for note in read.findings) == (
        "prompt_logprobs" in line
    )


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_marks_and_gzip_change_nothing(end: str, mark: str, tmp_path: Path) -> None:
    text = mark + end.join(json.dumps(batch(str(n), CHAT)) for n in range(3)) + end + end
    (tmp_path / "a.jsonl").write_bytes(text.encode())
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    for name in ("a.jsonl", "a.jsonl.gz"):
        read = read_responses(tmp_path / name)
        assert [one.id for one in read.responses] == ["0", "1", "2"]
        assert {one.positions[0].tokens for one in read.responses} == {tuple(TOP)}


def test_tokens_are_named_by_their_bytes(tmp_path: Path) -> None:
    top = [
        {"token": "\ufffd", "logprob": -1.0, "bytes": [0xE2, 0x9C]},
        {"token": "\ufffd", "logprob": -2.0, "bytes": [0xE2]},
        {"token": "\u2581cat", "logprob": -3.0, "bytes": list(b" cat")},
        {"token": "token_id:17", "logprob": -4.0, "bytes": list(b"token_id:17")},
        {"token": "x", "logprob": -5.0, "bytes": [300]},
        {"token": "x", "logprob": -6.0, "bytes": None},
        {"token": "<eos>", "logprob": -7.0},
    ]
    token = {"token": "\ufffd", "logprob": -1.0, "bytes": [0xE2, 0x9C], "top_logprobs": top}
    read = read_responses(write(tmp_path / "a.jsonl", [response(choice(token))]))
    names = ("bytes:e29c", "bytes:e2", " cat", "token_id:17", "x", "x (again)", "<eos>")
    assert read.responses[0].positions[0].tokens == names
    assert read.responses[0].positions[0].answer == "bytes:e29c"
    told = " ".join(read.findings)
    assert "1 served tokens have bytes that are none" in told
    assert "1 served tokens print like another one" in told
    assert "2 served tokens are parts of a character" in told


def test_values_that_are_no_measurement_are_left_out(tmp_path: Path) -> None:
    odd = {"a": -3.0, "b": -1.0, "c": -9999.0, "d": -math.inf, "e": math.nan, "f": 1e-7}
    read = read_responses(write(tmp_path / "a.jsonl", [response(choice(entry("c", -9999.0, odd)))]))
    (position,) = read.responses[0].positions
    assert position.tokens == ("f", "b", "a")
    assert position.values == (0.0, -1.0, -3.0)
    assert math.isnan(position.nats)
    told = " ".join(read.findings)
    for words in ("entries of -9999 or below", "that are no numbers", "were not sorted"):
        assert words in told


def test_the_answer_alone_is_one_served_token(tmp_path: Path) -> None:
    read = read_responses(write(tmp_path / "a.jsonl", [response(choice(entry(" No", -0.25, {})))]))
    assert (read.served, read.responses[0].positions[0].tokens) == (1, (" No",))
    assert "written token's log-probability alone" in " ".join(read.findings)


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=8, unique=True), st.randoms(use_true_random=False))
def test_the_order_in_which_tokens_are_served_changes_nothing(values: list[float], order: Any) -> None:
    top = {f"t{place}": value for place, value in enumerate(values)}
    mixed = list(top.items())
    order.shuffle(mixed)
    one, other = (
        _position(entry("t0", values[0], dict(pairs)), Counter[str]()) for pairs in (top.items(), mixed)
    )
    assert one == other
    assert list(one.values) == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (batch("b", None) | {"error": {"code": "x"}}, "an error in the place of a response"),
        (
            {"response": {"status_code": 429, "body": {"error": {"message": "m"}}}},
            "an error in the place of a response",
        ),
        ({"error": {"message": "m"}}, "an error in the place of a response"),
        ({"object": "error", "message": "m"}, "an error in the place of a response"),
        (response({"message": {}, "logprobs": None}), "no log-probabilities"),
        ({"response": "No"}, "no log-probabilities"),
        ({"response": None}, "an error in the place of a response"),
        (response({"message": {}}), "no log-probabilities"),
        (response(choice()), "no answer token"),
        (response(), "a response without choices"),
        (response(choice({"token": None, "logprob": -1.0})), "a token that is no text"),
        (response(choice(entry("a", 0.5, {"a": 0.5}))), "values above 0, which are no log-probabilities"),
        (response(choice(entry("a", math.nan, {"a": math.nan}))), "log-probabilities that are no numbers"),
        (
            response(choice({"token": "a", "logprob": -1, "top_logprobs": {"a": -1}})),
            "top_logprobs that are no list",
        ),
        ('{"choices": [{"logprobs"', "a last line that is cut off"),
    ],
)
def test_responses_that_cannot_be_used_are_set_aside(line: Any, why: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [CHAT, line])
    if isinstance(line, str):
        path.write_text(path.read_text().rstrip("\n"))
    read = read_responses(path)
    assert (len(read.responses), read.set_aside) == (1, {why: 1})
    if isinstance(line, str):
        assert f"{path}:2 is cut off" in read.findings


def test_a_column_may_be_called_error(tmp_path: Path) -> None:
    (one,) = read_responses(write(tmp_path / "a.jsonl", [CHAT | {"error": "late"}])).responses
    assert one.columns["error"] == "late"


ODD = (None, True, -1, 300, 1e400, float("nan"), "", "token_id:5", [], [None], {}, {"error": "x"})


def spoiled(value: Any, draw: Any) -> Any:
    """The value with one part of it, at any depth, replaced by something odd."""
    parts = list(
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    if not parts or not draw.randrange(6):
        return draw.choice(ODD)
    place, inner = draw.choice(parts)
    changed = value.copy()
    changed[place] = spoiled(inner, draw)
    return changed


@given(st.randoms(use_true_random=True))
@settings(max_examples=60)
def test_whatever_stands_in_a_line_is_read_or_refused(draw: Any) -> None:
    whole = [
        batch("a", CHAT, request={"body": ASK}),
        OLDER | {"prompt": "Is there?"},
        NEWEST | {"input": "Is there?"},
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.jsonl", [CHAT, *(json.dumps(spoiled(one, draw)) for one in whole)])
        try:
            read = read_responses(path, positions=2)
        except DataError as error:
            assert "got " in str(error)  # noqa: PT017
            return
    assert len(read.responses) + sum(read.set_aside.values()) >= 4
    for one in read.responses:
        assert all(list(at.values) == sorted(at.values, reverse=True) for at in one.positions)
        assert all(len(set(at.tokens)) == len(at.values) > 0 for at in one.positions)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file, expected one served response per line"),
        ('{"a": 1}\n', r"a.jsonl:1: got no response \(keys 'a'\), expected .* try choices at the top level"),
        ("[{}]\n", r"a.jsonl:1: got the start of a list, .* try jq -c"),
        ("3\n", "a.jsonl:1: got a int, expected"),
        ('{"choices"\n{}\n', "a.jsonl:1: got text that is not JSON"),
        ('data: {"choices": []}\n', "a.jsonl:1: got a line of a stream of events, .* stream: false"),
        (
            '{"object": "chat.completion.chunk", "choices": []}\n',
            "a.jsonl:1: got a chunk of a streamed response",
        ),
        ('{"choices": [{"delta": {"content": "a"}}]}\n', "a.jsonl:1: got a chunk of a streamed response"),
        (
            '{"choices": [{"logprobs": null}]}\n',
            r"no response with log-probabilities \(.*a.jsonl:1: no log.*top_logprobs: 20",
        ),
        ("[" * 200 + "\n", "start of a list"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}\n", "values nested deeper than 100"),
    ],
)
def test_files_that_cannot_be_used_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_responses(path)


def test_paths_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    (tmp_path / "served.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"no file '.*servd.jsonl', .* try .*served.jsonl"):
        read_responses(tmp_path / "servd.jsonl")
    for path, message in (("~nosuchuser/a.jsonl", "no such user"), ("a\0.jsonl", "null byte")):
        with pytest.raises(DataError, match=f"transcript: got .*{message}"):
            read_responses(path)
    with pytest.raises(DataError, match="a folder, expected one served response per line"):
        read_responses(tmp_path)
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(DataError, match=r"a gzip file, .* try a name that ends in .gz"):
        read_responses(tmp_path / "packed.jsonl")


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.data.record_files.LINE_LIMIT", 2**20)
    (tmp_path / "a.jsonl").write_text("{" + " " * 2**21)
    with pytest.raises(DataError, match="a line of more than 1 MiB"):
        read_responses(tmp_path / "a.jsonl")


def test_choices_are_responses_of_one_line(tmp_path: Path) -> None:
    two = response(choice(entry("a", -1.0, {"a": -1.0})), choice(entry("b", -2.0, {"a": -1.0}), index=1))
    read = read_responses(write(tmp_path / "a.jsonl", [two, CHAT]))
    assert [one.line for one in read.responses] == [1, 1, 2]
    assert [one.positions[0].answer for one in read.responses] == ["a", "b", " No"]
    assert "1 requests have several choices" in " ".join(read.findings)


def test_positions_and_short_answers(tmp_path: Path) -> None:
    long = response(*[choice(*[entry(name, -1.0, {name: -1.0}) for name in "abc"])])
    read = read_responses(write(tmp_path / "a.jsonl", [long, CHAT]), positions=2)
    assert [[at.answer for at in one.positions] for one in read.responses] == [["a", "b"], [" No"]]
    assert "1 responses have fewer answer tokens" in " ".join(read.findings)


def test_an_echoed_prompt_is_passed_over(tmp_path: Path) -> None:
    told = {
        "tokens": ["Is", " it", "?", " No"],
        "token_logprobs": [None, -3.0, -2.0, -0.25],
        "top_logprobs": [None, {" it": -3.0}, {"?": -2.0}, TOP],
        "text_offset": [0, 2, 5, 6],
    }
    line = {"choices": [{"text": "Is it? No", "logprobs": told}]}
    read = read_responses(write(tmp_path / "a.jsonl", [line | {"prompt": "Is it?"}, line]))
    assert read.responses[0].positions[0].answer == " No"
    assert read.set_aside == {"an echoed prompt of unknown length": 1}


def test_the_number_that_is_served_is_the_most_frequent(tmp_path: Path) -> None:
    def older(top: dict[str, float]) -> dict[str, Any]:
        told = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [top]}
        return {"choices": [{"logprobs": told}]}

    sizes = [{"a": -1.0, "b": -2.0}, {"a": -1.0, "b": -2.0}, {"a": -1.0, "b": -2.0, "c": -9.0}]
    assert read_responses(write(tmp_path / "a.jsonl", [older(top) for top in sizes])).served == 2
