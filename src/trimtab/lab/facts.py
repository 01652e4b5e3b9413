"""Questions about short texts of facts, with labels of everything that the texts say: what a leak audit reads.

A thing in a box is asked about; where somebody lives is not. "The box has a red cube. Anna lives in Cairo. Is there a
ball in the box? Answer:" is answered by "no"; the caller has written nothing about red, Anna or Cairo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trimtab.seeds import derive

COLOURS = ("red", "blue", "green", "yellow", "purple", "brown", "black", "white")
OBJECTS = ("cube", "ball", "cup", "key", "ring", "book", "coin", "hat")
NAMES = ("Anna", "Omar", "Maria", "John", "Lucy", "Peter", "Sara", "David")
CITIES = ("Cairo", "Paris", "Tokyo", "Lima")

BOX = (
    "The box has a {}.",
    "The box holds a {}.",
    "The box contains a {}.",
    "There is a {} in the box.",
    "In the box there is a {}.",
    "A {} is in the box.",
)
HOME = (
    "{} lives in {}.",
    "{} is from {}.",
    "{} has a home in {}.",
    "The home of {} is in {}.",
)
IS_THERE = (
    "Is there a {} in the box?",
    "Is a {} in the box?",
    "Does the box have a {}?",
    "Does the box hold a {}?",
    "Does the box contain a {}?",
)
"""Wordings of what a text says of the box and of the person, and of a question; those of a yes and of a no alike."""
ANSWER = "Answer:"
SCENES, QUESTIONS_EACH, MENTIONED = 320, 2, 0.25
"""Texts of facts of `lab:facts`, questions about each, and the share of questions that mention the colour."""


@dataclass(frozen=True)
class Facts:
    """One text of facts: the thing in the box with its colour, and the person with the city where they live."""

    colour: str
    object: str
    name: str
    city: str

    def text(self, draw: np.random.Generator) -> str:
        """The facts in words: wording and order of the two sentences are drawn.

        >>> Facts("red", "cube", "Anna", "Cairo").text(np.random.default_rng(1))
        'Anna has a home in Cairo. The box contains a red cube.'
        """
        box = str(draw.choice(BOX)).format(f"{self.colour} {self.object}")
        home = str(draw.choice(HOME)).format(self.name, self.city)
        return " ".join([box, home] if draw.random() < 0.5 else [home, box])


def draw_facts(count: int, draw: np.random.Generator) -> list[Facts]:
    """Facts of which each value of each attribute stands in equally many, and no attribute tells another."""
    columns = [_balanced(values, count, draw) for values in (COLOURS, OBJECTS, NAMES, CITIES)]
    return [Facts(*values) for values in zip(*columns, strict=True)]


def _balanced(values: tuple[str, ...], count: int, draw: np.random.Generator) -> list[str]:
    """Values in random order, each as often as any other; those of an uneven count differ by one."""
    order = draw.permutation(count) % len(values)
    return [values[place] for place in order]


def is_there(facts: Facts, draw: np.random.Generator, *, yes: bool, colour: str = "") -> str:
    """Question whether there is a thing in the box; a no is asked about any other object.

    Args:
        facts: what is in the box.
        draw: of the wording and of the other object.
        yes: the right answer.
        colour: the colour that the question mentions; empty for none.
    """
    others = [thing for thing in OBJECTS if thing != facts.object]
    thing = facts.object if yes else str(draw.choice(others))
    return str(draw.choice(IS_THERE)).format(f"{colour} {thing}".strip())


def fact_questions(scenes: int = SCENES, seed: int = 0) -> pd.DataFrame:
    """Questions of yes or no about texts of facts, in the columns of a questions file.

    The answer is yes in half of the questions, whatever they say. A question that mentions a colour mentions that of
    the thing in the box. So the question alone says nothing about the answer, the city or the name, nor about a colour
    that it does not mention. It says half of the object.

    Args:
        scenes: texts of facts; each is asked about twice, in other words, and its rows are one group.
        seed: of all draws.

    Returns:
        prompt, question, answer (yes or no), mentioned (names of attributes), colour, object, city, name, scene.
    """
    draw = np.random.default_rng(derive(seed, "facts"))
    count = scenes * QUESTIONS_EACH
    yes = draw.permutation(count) % 2 == 0
    mentions = draw.permutation(count) < round(MENTIONED * count)
    rows = []
    for place, facts in enumerate(one for one in draw_facts(scenes, draw) for _ in range(QUESTIONS_EACH)):
        colour = facts.colour if mentions[place] else ""
        question = is_there(facts, draw, yes=bool(yes[place]), colour=colour)
        row = {
            "prompt": f"{facts.text(draw)} {question} {ANSWER}",
            "question": question,
            "answer": "yes" if yes[place] else "no",
            "mentioned": ["object", "colour"] if colour else ["object"],
        }
        rows.append({**row, **vars(facts), "scene": place // QUESTIONS_EACH})
    columns = ["prompt", "question", "answer", "mentioned", "colour", "object", "city", "name", "scene"]
    return pd.DataFrame(rows, columns=columns)


def as_chat(frame: pd.DataFrame) -> pd.DataFrame:
    """The same questions as messages to a chat model, which is told to answer yes or no.

    >>> as_chat(fact_questions(1))["prompt"][0][0]["content"].endswith("Answer yes or no.")
    True
    """
    texts = [prompt.removesuffix(ANSWER) + "Answer yes or no." for prompt in frame["prompt"]]
    chats: list[Any] = [[{"role": "user", "content": text}] for text in texts]
    return frame.assign(prompt=chats)
