"""ShareGPT's and Alpaca's records as conversations, from files, tables and configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from templates import ALTERNATES, DEFAULT_SYSTEM, MARKS
from trimtab.data.domains import Domain, Origin, read_domain
from trimtab.data.encode import encode
from trimtab.data.records import NOTHING, Chat, column_problems, parse, unused_of
from trimtab.errors import ConfigError, ConfigProblems, DataError

HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}
TALK = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"})
ALPACA = {"instruction": "Add.", "input": "1, 2", "output": "3"}


def sharegpt(raw: Any) -> Any:
    return parse(raw, "a.jsonl:3", columns="sharegpt")


def alpaca(raw: Any) -> Any:
    return parse(raw, "a.jsonl:3", columns="alpaca")


def test_turns_of_sharegpt_are_messages() -> None:
    found = sharegpt({"id": 7, "conversations": [HUMAN, GPT]})
    assert found == Chat(TALK)
    assert unused_of(found) == ("id",)
    assert found.digest == parse({"messages": list(TALK)}, "x").digest
    assert sharegpt({"conversations": json.dumps([HUMAN, GPT])}) == Chat(TALK)
    system = {"role": "system", "content": "Be kind."}
    for raw in (
        {"conversations": [{"from": "system", "value": "Be kind."}, HUMAN, GPT]},
        {"conversations": [HUMAN, GPT], "system": "Be kind."},
    ):
        assert sharegpt(raw) == Chat((system, *TALK))
    assert sharegpt({"conversations": [HUMAN, {**GPT, "weight": 0}]}).messages[1]["weight"] == 0


def test_calls_and_tools_of_sharegpt() -> None:
    call = {"name": "weather", "arguments": {"city": "Oslo"}}
    tool = {"name": "weather", "description": "d", "parameters": {}}
    turns = [
        HUMAN,
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "5"},
    ]
    found = sharegpt({"conversations": [*turns, GPT], "tools": json.dumps([tool])})
    assert [message["role"] for message in found.messages] == ["user", "assistant", "tool", "assistant"]
    assert found.messages[1]["tool_calls"] == [{"type": "function", "function": call}]
    assert found.given == {"tools": [{"type": "function", "function": tool}]}
    wrapped = {"type": "function", "function": tool}
    assert sharegpt({"conversations": [HUMAN, GPT], "tools": [wrapped]}).given == {"tools": [wrapped]}


def test_an_instruction_with_its_input_is_what_the_user_says() -> None:
    assert alpaca(ALPACA) == Chat(
        ({"role": "user", "content": "Add.\n\n1, 2"}, {"role": "assistant", "content": "3"})
    )
    for raw in ({"instruction": "Hi", "output": "Ho"}, {"instruction": "Hi", "input": " ", "output": "Ho"}):
        assert alpaca(raw) == Chat(TALK)
    found = alpaca({**ALPACA, "system": "Be kind.", "history": [["Hi", "Ho"]], "text": "all of it"})
    assert [message["content"] for message in found.messages] == ["Be kind.", "Hi", "Ho", "Add.\n\n1, 2", "3"]
    assert unused_of(found) == ("text",)


def test_rows_without_a_value_are_nothing() -> None:
    assert sharegpt({"conversations": None}) is NOTHING
    assert alpaca({"instruction": "a", "output": float("nan")}) is NOTHING


@pytest.mark.parametrize(
    ("read", "raw", "match"),
    [
        (sharegpt, {"conversations": "Hi"}, "a.jsonl:3, 'conversations': got str, expected a list of turns"),
        (
            sharegpt,
            {"conversations": []},
            r"a.jsonl:3, 'conversations': got \[\], expected a list of messages",
        ),
        (sharegpt, {"conversations": ["Hi"]}, "a.jsonl:3, turn 0: got str, expected a mapping with 'from'"),
        (
            sharegpt,
            {"conversations": [HUMAN, {"from": "gtp", "value": "a"}]},
            "turn 1, 'from': .*; try 'gpt'",
        ),
        (sharegpt, {"conversations": [{"from": "human"}]}, "turn 0, 'value': got no value, expected a text"),
        (
            sharegpt,
            {"conversations": list(TALK)},
            r"turn 0: got a turn with 'role', expected 'from' and 'value'; try columns={'messages'",
        ),
        (
            sharegpt,
            {"conversations": [{"from": "function_call", "value": "weather()"}]},
            "turn 0, 'value': got text that is not JSON .*, expected a tool call in JSON",
        ),
        (
            sharegpt,
            {"conversations": [HUMAN], "tools": ["f"]},
            "'tools': got .*, expected a list of mappings",
        ),
        (sharegpt, {"conversation": [HUMAN]}, "expected 'conversations' among them; try 'conversation'"),
        (alpaca, {**ALPACA, "output": 3}, "a.jsonl:3, 'output': got int, expected a text"),
        (alpaca, {**ALPACA, "input": ["a"]}, "a.jsonl:3, 'input': got list, expected a text"),
        (alpaca, {**ALPACA, "history": [["a"]]}, "'history', turn 0: got .*, expected a pair of texts"),
        (alpaca, {"instruction": "a", "outpt": "b"}, "expected 'output' among them; try 'outpt'"),
    ],
)
def test_malformed_records_say_where_and_what(read: Any, raw: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read(raw)


def test_names_of_layouts() -> None:
    assert list(column_problems("sharegpt")) == []
    (problem,) = column_problems("sharegtp")
    assert str(problem).startswith("columns: got 'sharegtp', expected 'sharegpt', 'alpaca', or a mapping")
    assert problem.hint == "'sharegpt'"
    with pytest.raises(ConfigError, match="domain 'd', columns: got 'chatml'"):
        Domain.from_dataset("d", [ALPACA], columns="chatml")  # type: ignore[arg-type]
    with pytest.raises(ConfigProblems, match="columns: got 'chatml'"):
        Origin("a.jsonl", columns="chatml")  # type: ignore[arg-type]


def rows(count: int) -> list[dict[str, Any]]:
    return [{**ALPACA, "output": f"answer {n}", "text": "all"} for n in range(count)]


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_files_of_every_kind(tmp_path: Path, ending: str) -> None:
    path, frame = tmp_path / f"a.{ending}", pd.DataFrame(rows(40))
    if ending == "parquet":
        frame.to_parquet(path)
    elif ending == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=ending == "jsonl")
    domain = read_domain("d", Origin(str(path), columns="alpaca"))
    assert domain.fingerprint == Domain.from_dataset("d", rows(40), columns="alpaca").fingerprint
    assert {type(item) for item in domain.items("train")} == {Chat}
    assert domain.unread == ("column 'text' not used",)


def test_errors_name_the_file_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"conversations": [HUMAN, GPT]}) + '\n{"conversations": [{"from": "me"}]}\n')
    with pytest.raises(DataError, match=r"a.jsonl:2, turn 0, 'from': got 'me', expected one of 'human'"):
        _ = Domain.from_jsonl("d", path, columns="sharegpt").contents
    with pytest.raises(DataError, match=r"a.jsonl:1: got a mapping with 'conversations'.*try columns='share"):
        _ = Domain.from_jsonl("d", path).contents
    frame = pd.DataFrame({"conversations": [[HUMAN, GPT]]})
    with pytest.raises(DataError, match=r"got columns \['conversations'\], .*; try columns='sharegpt'"):
        Domain("d", train=frame)
    assert list(Domain.from_dataset("d", {"train": frame}, columns="sharegpt").items("train")) == [Chat(TALK)]


@pytest.mark.parametrize("template", [DEFAULT_SYSTEM, ALTERNATES, None])
def test_the_model_s_own_template_writes_them(make_tokenizer: Any, template: str | None) -> None:
    tokenizer = make_tokenizer(template=template)
    (laid_out,) = encode([alpaca({"instruction": "Hi", "output": "Ho"})], tokenizer)
    (messages,) = encode([parse({"messages": list(TALK)}, "x")], tokenizer)
    assert laid_out.ids.tolist() == messages.ids.tolist()
    assert laid_out.loss.tolist() == messages.loss.tolist()


@pytest.mark.parametrize("template", [DEFAULT_SYSTEM, ALTERNATES, MARKS, None])
def test_loss_is_on_the_turns_of_the_completion_only(make_tokenizer: Any, template: str | None) -> None:
    """As TRL's conversational prompt and completion."""
    tokenizer, talk = (
        make_tokenizer(template=template),
        [*TALK, TALK[0], {"role": "assistant", "content": "sat"}],
    )
    (whole,) = encode([parse({"messages": talk}, "x")], tokenizer)
    (split,) = encode([parse({"prompt": talk[:3], "completion": talk[3:]}, "x")], tokenizer)
    assert split.ids.tolist() == whole.ids.tolist()
    learned = tokenizer.decode(split.ids[split.loss])
    assert learned.strip().startswith("sat")
    assert "Ho" not in learned
    assert "Ho" in tokenizer.decode(whole.ids[whole.loss])


@pytest.mark.parametrize("call", ["3", "[]", "{}", '"f"', "[1]", '[{"name": "f"}, {}]', '{"name": 3}'])
def test_a_call_without_a_name_is_refused(call: str) -> None:
    turns = [HUMAN, {"from": "function_call", "value": call}]
    with pytest.raises(
        DataError, match=r"a.jsonl:3, turn 1, 'value': got .*, expected a tool call, a mapping with 'name'"
    ):
        sharegpt({"conversations": turns})
