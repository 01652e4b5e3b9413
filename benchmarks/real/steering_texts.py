"""Texts of the steering benchmark on the real model: pairs of registers, prompts, neutral texts, and their judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from trimtab.lab.corpora import corpus
from trimtab.lab.models import read_texts
from trimtab.lab.registers import Detector, beginnings, fit_detector, registers
from trimtab.lab.requests import PARTS, SYSTEM, Part, Register, instruction, prose_chat, requests
from trimtab.seeds import derive

MANNERS, CODE = "rude to polite", "code to prose"


@dataclass(frozen=True)
class Size:
    """Texts of a run."""

    examples: int = 32
    judge: int = 80
    prompts: int = 24
    neutral: int = 12
    tokens: int = 28
    length: int = 96
    history: int = 3


@dataclass(frozen=True, eq=False)
class Pair:
    """A pair of registers.

    Attributes:
        source: to fit with; twice as many as a fit takes, so that draws differ.
        target: likewise.
        prompts: of the source register, to go on with.
        contrast: the same prompts of the target register; what a completion looks like where nothing has to change.
        neutral: texts to leave alone.
        judge: source and target texts that the classifier is fitted on.
        unseen: source and target texts that neither it nor a completion shares a wording with, to rate it by.
    """

    source: Sequence[Any]
    target: Sequence[Any]
    prompts: Sequence[Any]
    contrast: Sequence[Any]
    neutral: Sequence[Any]
    judge: tuple[Sequence[str], Sequence[str]]
    unseen: tuple[Sequence[str], Sequence[str]]


def manners(size: Size) -> Pair:
    """Requests that a chat model writes; fits read none of the words of prompts and classifier."""

    def replies(register: Register, part: Part) -> list[str]:
        return [one["messages"][-1]["content"] for one in requests(register, part, size.judge)]

    fit, judge = PARTS
    source, target = (requests(register, fit, 2 * size.examples) for register in ("rude", "polite"))
    prompts, contrast = (
        [_after(register, number, size) for number in range(size.prompts)] for register in ("rude", "polite")
    )
    return Pair(
        source=source,
        target=target,
        prompts=prompts,
        contrast=contrast,
        neutral=prose_chat(registers(size.neutral, 1, split="validation").prose),
        judge=(replies("rude", judge), replies("polite", judge)),
        unseen=(replies("rude", fit), replies("polite", fit)),
    )


ASKED = (
    ("driver", "slow down"),
    ("teacher", "repeat the question"),
    ("farmer", "sell the eggs"),
    ("pilot", "land the plane"),
    ("tailor", "mend the coat"),
    ("singer", "start the concert"),
    ("plumber", "stop the leak"),
    ("librarian", "stamp the books"),
)
"""Who is asked, and what for, in the last turn of a prompt; no register text has these tasks."""


def _after(register: Register, number: int, size: Size) -> list[dict[str, str]]:
    """A prompt: requests of one register, then one more to write."""
    turns = requests(register, "judge", size.history, seed=derive(number, "real steering", "history") % 2**31)
    last = {"role": "user", "content": instruction(*ASKED[number % len(ASKED)])}
    said = [message for one in turns for message in one["messages"] if message["role"] != "system"]
    return [{"role": "system", "content": SYSTEM}, *said, last]


def code(size: Size) -> Pair:
    """Lines of code and sentences of docstrings of this installation, as plain text."""
    drawn = registers(2 * size.examples, 0, split="validation")
    judged, judge = registers(size.prompts, 0, split="test"), registers(10 * size.judge, 0)
    unseen = registers(size.judge, 2, split="test")
    seen = {*drawn.code, *drawn.prose, *judged.code, *judged.prose, *unseen.code, *unseen.prose}
    lines = [
        line for text in read_texts(corpus("metadata"), "validation", 200_000) for line in text.splitlines()
    ]
    return Pair(
        source=drawn.code,
        target=drawn.prose,
        prompts=beginnings(judged.code),
        contrast=beginnings(judged.prose),
        neutral=[line for line in dict.fromkeys(lines) if len(line) > 40][: size.neutral],
        judge=(
            [one for one in judge.code if one not in seen],
            [one for one in judge.prose if one not in seen],
        ),
        unseen=(unseen.code, unseen.prose),
    )


PAIRS = {MANNERS: manners, CODE: code}


@cache
def pair_of(name: str, size: Size) -> tuple[Pair, Detector]:
    """A pair and its classifier."""
    pair = PAIRS[name](size)
    return pair, fit_detector(*pair.judge, words=name == MANNERS)


def examples(pair: Pair, count: int, draw: int, *, shuffled: bool) -> tuple[list[Any], list[Any]]:
    """Source and target examples of a draw; shuffled, each side holds as many of either register by chance.

    >>> pair = Pair(list("abcd"), list("wxyz"), [], [], [], ([], []), ([], []))
    >>> [sorted({*side} & {*"abcd"}) == sorted(side) for side in examples(pair, 2, 0, shuffled=False)]
    [True, False]
    """
    rng = np.random.default_rng(derive(draw, "real steering", "draw"))
    sides = [
        [side[place] for place in rng.permutation(len(side))[:count]] for side in (pair.source, pair.target)
    ]
    if shuffled:
        both = [*sides[0], *sides[1]]
        mixed = [both[place] for place in rng.permutation(len(both))]
        sides = [mixed[:count], mixed[count:]]
    return sides[0], sides[1]
