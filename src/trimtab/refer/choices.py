"""Choices of listeners among candidates, as pages show them: the target, its distractors, and who chose which."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from string import ascii_lowercase

import pandas as pd
from PIL import Image

from trimtab.data.naming import each_row
from trimtab.report.candidate_set import Candidate, candidate_set
from trimtab.report.formats import number, short
from trimtab.report.page import Picture

MOST = 10
"""Candidates of a set that a page shows, the target among them."""
SIDE = 96
"""Pixels of the longer side of a picture on a page."""
SYMBOLS = "●○■□▲△◆◇"
SETS = ("item", "size", "candidate")
CHOICES = ("item", "speaker", "listener", "candidate", "answers")
_LINE = 11
"""Letters of a line under a distractor."""
_TIES = {1 / 2: "½", 1 / 3: "⅓"}
TIES = "A tie of two or three candidates is marked ½ or ⅓, a wider one not at all; a whole number counts answers."


def thumbnail(image: Image.Image, side: int = SIDE) -> str:
    """A picture as a data URI, its longer side at most so many pixels: as PNG, or as JPEG where that is shorter."""
    small = image.convert("RGB")
    small.info = {}
    small.thumbnail((side, side))
    files = []
    for kind, how in (("png", {"optimize": True}), ("jpeg", {"quality": 80})):
        buffer = io.BytesIO()
        small.save(buffer, format=kind, **how)
        files.append((len(buffer.getvalue()), kind, buffer.getvalue()))
    _, kind, content = min(files)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def shown_sets(candidates: pd.DataFrame, choices: pd.DataFrame) -> pd.DataFrame:
    """Candidate sets cut to what a page shows: the target, what was chosen most, then the others in their order.

    Args:
        candidates: item, candidates and target.
        choices: columns `CHOICES`.

    Returns:
        Columns `SETS`: a row for each of at most `MOST` candidates of an item, the target first; size of the whole set.
    """
    rows = []
    for row in each_row(candidates):
        own = choices[choices["item"] == row.item].groupby("candidate", sort=False)["answers"].sum()
        chosen = own.sort_values(ascending=False, kind="stable").index
        names = dict.fromkeys(
            [row.target, *(name for name in chosen if name in row.candidates), *row.candidates]
        )
        rows += [(row.item, len(row.candidates), name) for name in list(names)[:MOST]]
    return pd.DataFrame(rows, columns=list(SETS))


def symbols(listeners: Sequence[str]) -> dict[str, str]:
    """The mark of each listener.

    >>> symbols(["clip", "people"])
    {'clip': '●', 'people': '○'}
    """
    return {name: SYMBOLS[k] if k < len(SYMBOLS) else f"({k + 1})" for k, name in enumerate(listeners)}


def lettered(speakers: Sequence[str]) -> dict[str, str]:
    """A letter for each speaker, where names would be too long or too many.

    >>> lettered(["people", "captioner"])
    {'people': 'a', 'captioner': 'b'}
    """
    return {
        name: ascii_lowercase[k] if k < len(ascii_lowercase) else str(k + 1)
        for k, name in enumerate(speakers)
    }


def drawn_sets(
    sets: pd.DataFrame,
    choices: pd.DataFrame,
    pictures: Mapping[str, str],
    speakers: Mapping[str, str],
    listeners: Sequence[str],
    captions: Mapping[str, str],
) -> list[Picture]:
    """Candidate sets as drawings.

    Args:
        sets: columns `SETS`.
        choices: columns `CHOICES`: how many answers of a listener to a speaker's caption chose a candidate; ties share
            an answer.
        pictures: candidate -> data URI.
        speakers: what is written of each, in the order of the lines under a picture.
        listeners: in the order of their `symbols`.
        captions: item -> what stands below its set.
    """
    marks, drawn = symbols(listeners), []
    for item, names_of_set in sets.groupby("item", sort=False)["candidate"]:
        own = choices[choices["item"] == item]
        given = own.groupby(["speaker", "listener"])["answers"].transform("sum")
        own = own[(given > 1 + 1e-9) | (own["answers"] > 0.99 / 3)].assign(given=given)
        target, *others = (
            _candidate(
                name, place == 0, own[own["candidate"] == name], pictures.get(name, ""), marks, speakers
            )
            for place, name in enumerate(names_of_set)
        )
        drawn.append(candidate_set(target, others, caption=captions.get(str(item), "")))
    return drawn


def _candidate(
    name: str, target: bool, own: pd.DataFrame, uri: str, marks: Mapping[str, str], names: Mapping[str, str]
) -> Candidate:
    """A candidate with the marks of who chose it, a line a speaker, and the same in words."""
    lines, told = [], [f"{name}, the target" if target else name]
    for speaker, written in names.items():
        chose = {row.listener: row for row in each_row(own[own["speaker"] == speaker])}
        parts = [
            mark + _amount(chose[listener].answers, chose[listener].given)
            for listener, mark in marks.items()
            if listener in chose
        ]
        if not parts:
            continue
        whole = f"{written} {''.join(parts)}"
        lines += [whole] if target or len(whole) <= _LINE else [written, *parts]
        told.append(f"chosen with {speaker} by {', '.join(one for one in marks if one in chose)}")
    return Candidate(name, uri, lines, short("; ".join(told), 200))


def _amount(answers: float, given: float) -> str:
    """Nothing of a single answer that is whole, a fraction of one at a tie, else how many answers."""
    if given > 1 + 1e-9:
        return number(answers, 2)
    return next((sign for tie, sign in _TIES.items() if abs(answers - tie) < 1e-9), "")
