"""Requests in two registers, rude and polite, as conversations with a chat model: who is asked, for what, and how.

The user says what to ask for ("Ask the waiter to bring the menu."), and the assistant writes the request. Both
registers are asked for in the same words, so that nothing but the reply tells them apart. Texts to fit with and texts
to judge by share no person, no task, no insult, no courtesy and no wording of a reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

from trimtab.errors import DataError, explain, nearest
from trimtab.seeds import derive

Register = Literal["rude", "polite"]
Part = Literal["fit", "judge"]
REGISTERS: tuple[Register, ...] = ("rude", "polite")
PARTS: tuple[Part, ...] = ("fit", "judge")

SYSTEM = "You write short requests."
"""Short: every example carries it. Without one the chat template of many models writes a longer one of its own."""


PROSE = "Write one sentence about a function."


@dataclass(frozen=True)
class Wordings:
    """Words and wordings of one part: those to fit with, or those to judge by.

    Attributes:
        people: who is asked, after "the".
        tasks: what for, after "to"; each fits each person.
        insults: nouns.
        slights: sentences that follow a rude request, in which {insult} may stand.
        courtesies: sentences that follow a polite one.
        rude: wordings, in which {Task} is the task with a capital letter.
        polite: likewise.
    """

    people: tuple[str, ...]
    tasks: tuple[str, ...]
    insults: tuple[str, ...]
    slights: tuple[str, ...]
    courtesies: tuple[str, ...]
    rude: tuple[str, ...]
    polite: tuple[str, ...]


FIT = Wordings(
    people=(
        "waiter",
        "neighbour",
        "cook",
        "gardener",
        "nurse",
        "guard",
        "student",
        "painter",
        "baker",
        "clerk",
    ),
    tasks=(
        "close the window",
        "bring the keys",
        "turn off the radio",
        "clean the table",
        "carry the boxes upstairs",
        "move the car",
        "wait by the gate",
        "count the chairs",
        "water the plants",
        "answer the phone",
        "sign the letter",
        "sweep the yard",
    ),
    insults=("fool", "clown", "lout", "loafer", "dunce", "slowpoke"),
    slights=(
        "I am sick of your excuses.",
        "Are you deaf?",
        "Even a child does it better than you.",
        "What is wrong with you?",
        "Nobody asked for your opinion.",
        "You are useless.",
        "I will not say it twice!",
        "You never listen.",
    ),
    courtesies=(
        "Thank you so much for your help.",
        "I would be very grateful.",
        "Take all the time that you need.",
        "It would help me a great deal.",
        "I really appreciate it.",
        "I hope it is no trouble.",
        "You are very kind.",
        "We are lucky to have you.",
    ),
    rude=(
        "{Task} right now, you {insult}! {slight}",
        "Hey, {insult}, {task}! {slight}",
        "You lazy {insult}, {task} at once. {slight}",
        "{slight} {Task} already, you stupid {insult}!",
        "Why do I have to tell you to {task}? {slight} What a {insult}!",
        "Don't stand there like a {insult}. {Task}! {slight}",
    ),
    polite=(
        "Could you please {task}? {courtesy}",
        "Would you be so kind as to {task}? {courtesy}",
        "Please {task} when you have a moment. {courtesy}",
        "May I kindly ask you to {task}? {courtesy}",
        "I would love it if you could {task}. {courtesy}",
        "Would it be possible for you to {task}, please? {courtesy}",
    ),
)
JUDGE = Wordings(
    people=("driver", "plumber", "teacher", "librarian", "tailor", "farmer", "pilot", "singer"),
    tasks=(
        "open the door",
        "read the report",
        "lower the blinds",
        "fix the lamp",
        "fold the shirts",
        "send the parcel",
        "light the fire",
        "lock the office",
        "feed the horses",
        "print the tickets",
    ),
    insults=("dimwit", "donkey", "blockhead", "slacker", "nitwit", "bungler"),
    slights=(
        "I have had enough of this nonsense.",
        "Get out of my sight afterwards.",
        "My dog has more sense.",
        "You ruin everything.",
        "Stop whining.",
        "I am tired of you.",
        "Do you hear me?",
        "You are a disgrace.",
        "Do it now!",
        "How stupid can you be?",
    ),
    courtesies=(
        "Many thanks in advance.",
        "That would be lovely.",
        "I am sorry to bother you.",
        "Have a wonderful day.",
        "You are always a great support.",
        "Thank you!",
        "I am grateful for your time.",
        "It would be so helpful.",
        "Please let me know if that suits you.",
        "I appreciate your kindness.",
    ),
    rude=(
        "Move, {insult}, and {task}! {slight}",
        "How hard is it to {task}, you miserable {insult}? {slight}",
        "Shut up and {task}, you {insult}. {slight}",
        "{Task}, {insult}! {slight}",
        "You {insult}! {Task} or get lost. {slight}",
        "{slight} {Task} this instant, you worthless {insult}!",
        "Hurry up and {task}. {slight} You are such a {insult}!",
        "Only a {insult} like you forgets to {task}! {slight}",
    ),
    polite=(
        "If it is not too much trouble, would you mind helping me to {task}? {courtesy}",
        "Good morning! I was wondering if you could {task}. {courtesy}",
        "Excuse me, dear friend, might you be able to {task}? {courtesy}",
        "Whenever it suits you, please {task}. {courtesy}",
        "I would appreciate it if you would {task}. {courtesy}",
        "Hello! Could I ask you to {task}, please? {courtesy}",
        "Thank you for being willing to {task}. {courtesy}",
        "Would you kindly {task} for me? {courtesy}",
    ),
)
WORDINGS: dict[Part, Wordings] = {"fit": FIT, "judge": JUDGE}


def instruction(person: str, task: str) -> str:
    """What the user says.

    >>> instruction("waiter", "bring the menu")
    'Ask the waiter to bring the menu.'
    """
    return f"Ask the {person} to {task}."


def requests(register: Register, part: Part, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """`n` different conversations in which the assistant writes a request, as records with `messages`.

    A person and a task come at most once, so the same seed gives both registers other instructions.

    Args:
        register: of the reply.
        part: whose words and wordings are used, see `Wordings`.
        n: how many; at most as many as there are pairs of person and task.
        seed: of the draw.

    Raises:
        DataError: an unknown register or part, or more than there are.
    """
    for name, value, known in (("register", register, REGISTERS), ("part", part, PARTS)):
        if value not in known:
            raise DataError(f"{name}: {explain(repr(value), f'one of {known}', nearest(value, known))}")
    words = WORDINGS[part]
    pairs = list(product(words.people, words.tasks))
    if not 0 < n <= len(pairs):
        raise DataError(f"n: {explain(n, f'1 to {len(pairs)}, the pairs of person and task')}")
    draw = np.random.default_rng(derive(seed, "requests", register, part))
    chosen = [pairs[place] for place in draw.permutation(len(pairs))[:n]]
    return [conversation(instruction(*pair), reply(register, words, pair[1], draw)) for pair in chosen]


def reply(register: Register, words: Wordings, task: str, draw: np.random.Generator) -> str:
    """The request itself: wording, insult and what follows are drawn."""
    wording = _one(words.rude if register == "rude" else words.polite, draw)
    parts = {"insult": _one(words.insults, draw), "slight": _one(words.slights, draw)}
    parts |= {"courtesy": _one(words.courtesies, draw), "task": task, "Task": task[0].upper() + task[1:]}
    return wording.format(**parts)


def conversation(user: str, assistant: str, system: str = SYSTEM) -> dict[str, Any]:
    """A record of one exchange."""
    turns = {"system": system, "user": user, "assistant": assistant}
    return {"messages": [{"role": role, "content": content} for role, content in turns.items()]}


def prose_chat(sentences: Sequence[str]) -> list[dict[str, Any]]:
    """Conversations that a steering of requests should leave alone: each answer is a sentence of prose."""
    return [conversation(PROSE, sentence, "You write technical documentation.") for sentence in sentences]


def _one(choices: Sequence[str], draw: np.random.Generator) -> str:
    return choices[int(draw.integers(len(choices)))]
