"""Requests in two registers: what tells them apart, and what those to judge by share with those to fit with."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from trimtab.errors import DataError
from trimtab.lab.registers import fit_detector
from trimtab.lab.registry import CHATS, REQUESTS, texts
from trimtab.lab.requests import FIT, JUDGE, PARTS, REGISTERS, WORDINGS, Wordings, prose_chat, requests

SAID = {(register, part): requests(register, part, REQUESTS) for register in REGISTERS for part in PARTS}


def reply(record: Mapping[str, Any]) -> str:
    return str(record["messages"][-1]["content"])


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def test_each_is_a_conversation_that_the_assistant_ends_and_comes_once() -> None:
    for records in SAID.values():
        assert [one["role"] for one in records[0]["messages"]] == ["system", "user", "assistant"]
        assert len({one["messages"][1]["content"] for one in records}) == REQUESTS
        assert not any("{" in reply(one) for one in records)


def test_the_same_seed_gives_the_same_and_another_one_others() -> None:
    assert requests("rude", "fit", 5, seed=1) == requests("rude", "fit", 5, seed=1)
    assert requests("rude", "fit", 5, seed=1) != requests("rude", "fit", 5, seed=2)


@pytest.mark.parametrize("part", PARTS)
def test_only_the_reply_tells_the_registers_apart(part: Any) -> None:
    """Rude words in rude replies alone, courtesy in polite ones alone, and the same people and tasks are asked of."""
    insults = set(WORDINGS[part].insults)
    rude, polite = (SAID[register, part] for register in REGISTERS)
    assert all(words_of(reply(one)) & insults for one in rude)
    assert not any(words_of(reply(one)) & insults for one in polite)
    asked = [[one["messages"][1]["content"] for one in side] for side in (rude, polite)]
    shapes = [{re.sub(r"the \w+ to .*", "the X to Y.", one) for one in side} for side in asked]
    assert shapes[0] == shapes[1] == {"Ask the X to Y."}
    people = [{one.split()[2] for one in side} for side in asked]
    assert people[0] == people[1] == set(WORDINGS[part].people)


def parts_of(words: Wordings) -> dict[str, set[str]]:
    return {name: set(value) for name, value in vars(words).items()}


def test_texts_to_judge_by_share_no_word_list_and_no_wording_with_those_to_fit_with() -> None:
    fit, judge = parts_of(FIT), parts_of(JUDGE)
    for name in fit:
        assert not fit[name] & judge[name], name
    # Content words too: tasks and people, one by one.
    content = [
        set(itertools.chain.from_iterable(map(words_of, [*words["people"], *words["tasks"]]))) - {"the", "up"}
        for words in (fit, judge)
    ]
    assert not content[0] & content[1]
    said = [{reply(one) for register in REGISTERS for one in SAID[register, part]} for part in PARTS]
    assert not said[0] & said[1]


def test_a_classifier_of_the_judge_s_texts_tells_those_of_the_fit_apart() -> None:
    """Across wordings: what it learns is the register. Labels that mean nothing leave it near chance."""
    judged = [[reply(one) for one in SAID[register, "judge"]] for register in REGISTERS]
    unseen = [[reply(one) for one in SAID[register, "fit"]] for register in REGISTERS]

    def right(first: list[str], second: list[str]) -> float:
        detector = fit_detector(first, second, words=True)
        hits = [*(detector.score(unseen[0]) > 0.5), *(detector.score(unseen[1]) < 0.5)]
        return sum(hits) / len(hits)

    assert right(*judged) > 0.9
    mixed = [one for pair in zip(*judged, strict=True) for one in pair]
    assert right(mixed[0::4] + mixed[1::4], mixed[2::4] + mixed[3::4]) < 0.75


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(DataError, match=r"register: got 'rudes', expected one of .*; try 'rude'"):
        requests("rudes", "fit", 3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="part: got 'test'"):
        requests("rude", "test", 3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="n: got 81, expected 1 to 80, the pairs of person and task"):
        requests("rude", "judge", 81)


@pytest.mark.parametrize("name", [name for name in CHATS if name != "prose-chat"])
def test_the_files_of_the_lab(name: str, tmp_path: Path) -> None:
    path = texts(name, tmp_path)
    assert path.name == "texts.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    register, _, rest = name.partition("-")
    assert records == SAID[register, "judge" if rest.endswith("test") else "fit"]  # type: ignore[index]


def test_prose_as_a_chat_answers_with_its_sentences() -> None:
    sentences = ["The solver stops.", "It returns an array."]
    assert [reply(one) for one in prose_chat(sentences)] == sentences
