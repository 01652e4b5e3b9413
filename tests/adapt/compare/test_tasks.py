"""Tasks against greedy decoding by hand, one forward pass a token, and likelihoods of one text at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import compare_worlds as cw
from trimtab import Domain
from trimtab.adapt.compare.domains import ComparedDomain, evaluated
from trimtab.adapt.compare.reading import Side
from trimtab.adapt.compare.tasks import SPARE, ask, begins_with, question_of
from trimtab.data.records import Chat, Completion, Text, parse
from trimtab.errors import DataError
from worlds import tokenizer

ONE, OTHER = cw.base(0), cw.base(1)
PROMPTS = cw.texts("cdef", 12, length=6)
WORDS = tokenizer()


def greedy(model: Any, prompt: str, room: int) -> str:
    """The most likely token again and again, each time by a forward pass over the whole text."""
    ids = WORDS(prompt)["input_ids"]
    start = len(ids)
    for _ in range(room):
        with torch.no_grad():
            token = int(model.module(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == WORDS.eos_token_id:
            break
        ids.append(token)
    return str(WORDS.decode(ids[start:], skip_special_tokens=True))


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_greedy_completion_has_to_begin_with_the_answer(batch_size: int) -> None:
    own = [greedy(ONE, prompt, 3) for prompt in PROMPTS]
    records = [
        {"prompt": prompt, "completion": said if said.strip() else "x"}
        for prompt, said in zip(PROMPTS, own, strict=True)
    ]
    answers = ask(Side(ONE), Side(OTHER), Domain("own", test=records), "exact", range(12), batch_size)
    room = max(len(WORDS(one["completion"])["input_ids"]) for one in records) + SPARE
    for place, record in enumerate(records):
        for model, right, texts in (
            (ONE, answers.base, answers.texts[0]),
            (OTHER, answers.tuned, answers.texts[1]),
        ):
            said = greedy(model, record["prompt"], room)
            assert texts[place] == said
            assert right[place] == begins_with(said, record["completion"])
    assert answers.base.mean() > answers.tuned.mean()


def test_the_likeliest_choice_per_byte_is_the_answer() -> None:
    choices = ["c", "dd", "efe"]
    records = [{"prompt": prompt, "completion": "dd", "choices": choices} for prompt in PROMPTS]
    answers = ask(Side(ONE), Side(OTHER), Domain("quiz", test=records), "choice", range(12), 4)
    for model, right, texts in (
        (ONE, answers.base, answers.texts[0]),
        (OTHER, answers.tuned, answers.texts[1]),
    ):
        for place, prompt in enumerate(PROMPTS):
            scores = []
            for choice in choices:
                ids = torch.tensor([WORDS(prompt + choice)["input_ids"]])
                with torch.no_grad():
                    logs = model.module(input_ids=ids).logits[0].double().log_softmax(-1)
                after = range(len(prompt), len(prompt) + len(choice))
                scores.append(sum(float(logs[at - 1, ids[0, at]]) for at in after) / len(choice))
            assert texts[place] == choices[int(np.argmax(scores))]
            assert right[place] == (texts[place] == "dd")
    assert 0 < answers.base.mean() < 1


def test_a_model_that_gives_nan_chooses_nothing() -> None:
    broken = cw.copied(ONE)
    with torch.no_grad():
        broken.module.model.norm.weight[0] = torch.nan
    records = [{"prompt": prompt, "completion": "c", "choices": ["c", "dd"]} for prompt in PROMPTS]
    answers = ask(Side(ONE), Side(broken), Domain("quiz", test=records), "choice", range(12), 4)
    assert not answers.tuned.any()
    assert set(answers.texts[1]) == {""}


def test_rows_and_groups_of_questions() -> None:
    records = [{"prompt": p, "completion": "c", "group": number // 3} for number, p in enumerate(PROMPTS)]
    answers = ask(Side(ONE), Side(ONE), Domain("own", test=records), "exact", [7, 0, 1], 4)
    assert [one.prompt for one in answers.questions] == [PROMPTS[7], PROMPTS[0], PROMPTS[1]]
    assert answers.clusters.tolist() == [1, 0, 0]
    assert answers.base.tolist() == answers.tuned.tolist()


def test_prompts_without_room_are_left_out_and_counted() -> None:
    records = [{"prompt": "c" * 60, "completion": "d"}, {"prompt": "cd", "completion": "e"}]
    answers = ask(Side(ONE), Side(OTHER), Domain("long", test=records), "exact", [0, 1], 4)
    assert (answers.left_out, len(answers.questions)) == (1, 1)
    with pytest.raises(DataError, match="domain 'long': got 1 prompts that leave no room for an answer"):
        ask(Side(ONE), Side(OTHER), Domain("long", test=records), "exact", [0], 4)


def test_a_conversation_is_asked_up_to_its_last_answer() -> None:
    talk = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]
    question = question_of(parse({"messages": talk}, "record"), "exact", "record")
    assert question.prompt == {"messages": talk[:1]}
    assert question.answer == "cd"


def test_choices_are_read_beside_prompt_and_completion(tmp_path: Any) -> None:
    (tmp_path / "quiz.jsonl").write_text('{"prompt": "p", "completion": " yes", "choices": ["no", "yes"]}\n')
    (tmp_path / "odd.csv").write_text("prompt,completion,choices\np,yes,7\n")
    (one,) = evaluated("quiz", ComparedDomain(str(tmp_path / "quiz.jsonl"))).items("test")
    assert isinstance(one, Completion)
    assert one.choices == ("no", "yes")
    assert question_of(one, "choice", "record").right == 1
    assert one == Completion("p", " yes")  # the content, which training reads, is the same
    assert one.digest == Completion("p", " yes").digest
    domain = evaluated("odd", str(tmp_path / "odd.csv"))
    (one,) = domain.items("test")
    assert isinstance(one, Completion)
    assert one.choices == ()
    domain.contents  # noqa: B018
    assert domain.unread == ("column 'choices' not used",)


def test_choices_of_a_table_in_parquet(tmp_path: Any) -> None:
    import pandas as pd

    frame = pd.DataFrame({"question": ["p"], "right": ["b"], "choices": [["a", "b"]], "other": [1]})
    frame.to_parquet(tmp_path / "quiz.parquet")
    columns = {"prompt": "question", "completion": "right"}
    domain = evaluated("quiz", ComparedDomain(str(tmp_path / "quiz.parquet"), columns=columns))
    (one,) = domain.items("test")
    assert isinstance(one, Completion)
    assert one.choices == ("a", "b")


@pytest.mark.parametrize(
    ("item", "task", "message"),
    [
        (Text("abc"), "exact", "record: got a text, expected 'prompt' and 'completion'; try task: null"),
        (Text("abc"), "choice", "expected 'prompt' and 'completion', with 'choices'"),
        (
            Completion("a", " "),
            "exact",
            "record: got a blank answer, expected a completion that can be checked",
        ),
        (Completion("a", "b"), "choice", "got no 'choices', or none among which .* try task: exact"),
        (
            Chat(({"role": "user", "content": "a"},)),
            "exact",
            "a conversation that does not end with a text of the",
        ),
        (
            Chat(({"role": "user", "content": "a"},)),
            "choice",
            "got a chat, expected 'prompt' and 'completion'",
        ),
    ],
)
def test_records_that_are_no_tasks(item: Any, task: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        question_of(item, task, "record")
