"""Tasks of a comparison: records with answers that can be checked, and what both models answer.

A greedy completion has to begin with the answer, or the answer has to be the likeliest of several choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from trimtab.adapt.compare.reading import Side
from trimtab.data.domains import Domain
from trimtab.data.records import CHOICES, Chat, Completion, Item
from trimtab.errors import refusal
from trimtab.models.language import continuation_log_likelihood, prompt_rows
from trimtab.models.tokenizer import longest

Task = Literal["exact", "choice"]
SPARE = 8
"""New tokens beyond those of the longest answer: a model may begin with white space, or spell the answer otherwise."""
MOST_NEW = 256
"""New tokens of a completion, at most."""


@dataclass(frozen=True)
class Question:
    """A record as a task: a prompt, its right answer, and what it is chosen from.

    Attributes:
        prompt: a text, or a conversation as `trimtab.models.chat.read_prompt` takes it.
        answer: the right one.
        choices: the answer among them at `right`; empty for none.
        right: place of the answer among the choices.
    """

    prompt: Any
    answer: str
    choices: tuple[str, ...] = ()
    right: int = 0


def question_of(item: Item, task: Task, where: str) -> Question:
    """The task of a record: of a prompt with its completion, or of a conversation up to its last answer.

    Raises:
        DataError: a plain text, a conversation that does not end with a text of the assistant, a blank answer, or, for
            "choice", a record without choices.
    """
    if isinstance(item, Chat) and task == "exact":
        last = item.messages[-1]
        if last.get("role") != "assistant" or not isinstance(last.get("content"), str):
            got = "a conversation that does not end with a text of the assistant"
            raise refusal(where, got, "an answer to check", "task: null, to compare losses alone")
        question = Question({**item.given, "messages": list(item.messages[:-1])}, str(last["content"]))
    elif isinstance(item, Completion):
        right = (
            [choice.strip() for choice in item.choices].index(item.completion.strip()) if item.choices else 0
        )
        question = Question(item.prompt, item.completion, item.choices, right)
    else:
        expected = "'prompt' and 'completion'" + (f", with {CHOICES!r}" if task == "choice" else "")
        raise refusal(
            where, f"a {type(item).__name__.lower()}", expected, "task: null, to compare losses alone"
        )
    if not question.answer.strip():
        raise refusal(where, "a blank answer", "a completion that can be checked")
    if task == "choice" and not question.choices:
        got = f"no {CHOICES!r}, or none among which the completion is"
        raise refusal(where, got, "a list of texts, the completion among them", "task: exact")
    return question


def questions_of(domain: Domain, task: Task, rows: Sequence[int]) -> list[tuple[Question, str]]:
    """Tasks of the records of these numbers, in the order of the numbers, each with its group ("" for none).

    Raises:
        DataError: a record that is no task, see `question_of`.
    """
    wanted, found = set(rows), dict[int, tuple[Question, str]]()
    for number, item in enumerate(domain.items("test")):
        if number in wanted:
            found[number] = question_of(item, task, f"domain {domain.name!r}, record {number}"), item.group
    return [found[row] for row in rows]


@dataclass(frozen=True, eq=False)
class Answers:
    """What two models answered to the same questions.

    Attributes:
        questions: those that both were asked.
        base, tuned: 1 where the answer was right, else 0.
        clusters: group of each question, or its own number.
        texts: of both models: what each wrote, or chose.
        left_out: records that either model has no room for.
    """

    questions: tuple[Question, ...]
    base: Float[np.ndarray, " n"]
    tuned: Float[np.ndarray, " n"]
    clusters: Int[np.ndarray, " n"]
    texts: tuple[tuple[str, ...], tuple[str, ...]]
    left_out: int


def ask(base: Side, tuned: Side, domain: Domain, task: Task, rows: Sequence[int], batch_size: int) -> Answers:
    """Answers of both models to the tasks of a domain's records.

    Args:
        base, tuned: the two sides.
        domain: with a test split of tasks.
        task: their kind.
        rows: numbers of the records.
        batch_size: prompts at a time; one at a time in double precision, where padding may give nan.

    Raises:
        DataError: a record that is no task, or none that both models have room for.
        ModelError: a prompt that cannot be read, or a model without `generate`.
    """
    every = questions_of(domain, task, rows)
    pairs = [pair for pair in every if all(_fits(side, pair[0]) for side in (base, tuned))]
    if not pairs:
        got = f"{len(every)} prompts that leave no room for an answer"
        raise refusal(f"domain {domain.name!r}", got, "some that both models can read", "shorter prompts")
    questions = [question for question, _ in pairs]
    answer = written if task == "exact" else chosen
    room = max(_room(side, question) for side in (base, tuned) for question in questions)
    found = [answer(side, questions, _batch(side, batch_size), room) for side in (base, tuned)]
    names = [group or f"{place} of its own" for place, (_, group) in enumerate(pairs)]
    clusters = np.unique(names, return_inverse=True)[1].astype(np.int64)
    (one, first), (two, second) = found
    return Answers(
        tuple(questions), one, two, clusters, (tuple(first), tuple(second)), len(every) - len(pairs)
    )


def written(
    side: Side, questions: Sequence[Question], batch_size: int, room: int
) -> tuple[Float[np.ndarray, " n"], list[str]]:
    """Whether the greedy completion of each prompt begins with its answer, and the completions."""
    sizes = {"max_new_tokens": min(room, MOST_NEW), "batch_size": batch_size}
    with side.read():
        texts = side.model.generate([question.prompt for question in questions], **sizes)
    right = [begins_with(text, question.answer) for text, question in zip(texts, questions, strict=True)]
    return np.array(right, dtype=float), texts


def begins_with(text: str, answer: str) -> bool:
    """Whether a text begins with an answer, white space aside, and does not go on in the middle of a word or number.

    >>> begins_with("  New\\nYork City", "New York"), begins_with(" 42", "4"), begins_with(" 4.", "4")
    (True, False, True)
    """
    said, wanted = (" ".join(one.split()) for one in (text, answer))
    rest = said.removeprefix(wanted)
    inside = wanted[-1:].isalnum() and rest[:1].isalnum()
    return said.startswith(wanted) and not inside


def chosen(
    side: Side, questions: Sequence[Question], batch_size: int, _room: int
) -> tuple[Float[np.ndarray, " n"], list[str]]:
    """Whether the right choice is the likeliest after each prompt, in nats per byte of the choice; and the choices.

    Of equal ones the first counts. A likelihood that is not a number counts as none: without any the answer is wrong.
    """
    prompts = [str(question.prompt) for question in questions for _ in question.choices]
    choices = [choice for question in questions for choice in question.choices]
    with side.read():
        scores = continuation_log_likelihood(side.model, prompts, choices, batch_size=batch_size).nats
    per_byte = scores / [len(choice.encode()) for choice in choices]
    right, texts, start = [], list[str](), 0
    for question in questions:
        likely = per_byte[start : start + len(question.choices)]
        start += len(question.choices)
        known = ~np.isnan(likely)
        best = int(np.argmax(np.where(known, likely, -np.inf)))
        right.append(best == question.right and known[best])
        texts.append(question.choices[best] if known[best] else "")
    return np.array(right, dtype=float), texts


def _room(side: Side, question: Question) -> int:
    """New tokens that an answer takes."""
    tokenizer: Any = side.model.need_tokenizer()
    longest_answer = max(question.choices or (question.answer,), key=len)
    return len(tokenizer(longest_answer, add_special_tokens=False, verbose=False)["input_ids"]) + SPARE


def _fits(side: Side, question: Question) -> bool:
    limit = longest(side.model.module)
    if limit is None:
        return True
    tokens = len(prompt_rows(side.model.need_tokenizer(), [question.prompt])[0])
    return tokens + min(_room(side, question), MOST_NEW) <= limit


def _batch(side: Side, batch_size: int) -> int:
    double = next(side.model.module.parameters()).dtype == torch.float64
    return 1 if double else batch_size
