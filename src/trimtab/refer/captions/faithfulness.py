"""Faithfulness of captions to what is in the picture: attributes that are named wrongly, and those left out.

Truth comes with the pictures: a scene graph as JSON in a column of their metadata, or columns of attributes. A caption
names an attribute where one of its values stands in it as a word; other words are not read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from trimtab.data.pictures import Pictures
from trimtab.errors import DataError, explain, nearest, refusal
from trimtab.runs.files import parse_json

SCENE = "scene"
"""Column of metadata with the scene graph of a picture."""
_GRAPH = 'a scene graph such as {"objects": [{"shape": "circle", "colour": "red"}], "background": "plain"}'
AND, ON = "and", "on"


@dataclass(frozen=True)
class Truth:
    """What is true of a picture.

    Attributes:
        objects: attribute -> value of each object.
        whole: attribute -> value of the picture as a whole.
    """

    objects: tuple[Mapping[str, str], ...] = ()
    whole: Mapping[str, str] = field(default_factory=dict)

    def values(self) -> set[str]:
        """Every value that is true of something in it."""
        return {value for part in (*self.objects, self.whole) for value in part.values()}


def truths(pictures: Pictures, attributes: Sequence[str] = (), where: str = "pictures") -> dict[str, Truth]:
    """The truth of each picture by its name; {} where the metadata has none.

    Args:
        pictures: with a column `scene` of graphs as JSON, or columns of attributes of the picture as a whole.
        attributes: names of those columns; with them no graph is read.
        where: what to call the pictures in messages.

    Raises:
        DataError: a column that is not there, or a cell that is no scene graph; the picture is named.
    """
    table = pictures.table
    if missing := [name for name in attributes if name not in table.columns]:
        there = [str(name) for name in table.columns]
        got = f"no column {missing[0]!r} in the metadata, which has {there[:12]}"
        raise refusal(where, got, "the columns of attributes", nearest(missing[0], there))
    if attributes:
        rows = table[list(attributes)].to_dict("records")
        whole = ({str(k): str(v) for k, v in row.items() if not pd.isna(v)} for row in rows)
        return {str(name): Truth((), one) for name, one in zip(table.index, whole, strict=True)}
    if SCENE not in table.columns:
        return {}
    cells = zip(table.index, table[SCENE], strict=True)
    return {str(name): truth_of(cell, f"{where}, picture {name!r}") for name, cell in cells}


def truth_of(graph: object, where: str = "scene") -> Truth:
    """The truth in a scene graph: a mapping, or the same as JSON.

    Raises:
        DataError: it is no graph.

    >>> truth_of('{"objects": [{"shape": "circle"}], "background": "plain"}')
    Truth(objects=({'shape': 'circle'},), whole={'background': 'plain'})
    """
    content = parse_json(graph, where, _GRAPH) if isinstance(graph, str) else graph
    if not isinstance(content, Mapping):
        raise refusal(where, f"a {type(content).__name__}", _GRAPH)
    objects = content.get("objects", [])
    if not isinstance(objects, list) or not all(isinstance(one, Mapping) for one in objects):
        raise refusal(where, f"objects that are no list of mappings ({objects!r:.60})", _GRAPH)
    whole = {str(name): str(value) for name, value in content.items() if name != "objects"}
    return Truth(tuple({str(k): str(v) for k, v in one.items()} for one in objects), whole)


@dataclass(frozen=True)
class Words:
    """The values that captions can name, found in a text as whole words; longer values first.

    Attributes:
        of_objects: values of objects.
        of_whole: values of a picture as a whole.
    """

    of_objects: frozenset[str]
    of_whole: frozenset[str]

    @classmethod
    def of(cls, told: Iterable[Truth]) -> Words:
        """The values that occur in any truth."""
        listed = list(told)
        objects = {value for one in listed for part in one.objects for value in part.values()}
        return cls(frozenset(objects), frozenset(value for one in listed for value in one.whole.values()))

    def read(self, caption: str) -> tuple[list[set[str]], set[str]]:
        """The values that each phrase of a caption names, and those that it names of the whole.

        Phrases end at `and`; what stands after `on` is of the whole where a value can be both.

        >>> words = Words(frozenset({"red", "circle"}), frozenset({"plain", "red"}))
        >>> words.read("a red and a circle on red")
        ([{'red'}, {'circle'}], {'red'})
        """
        found: list[set[str]] = [set()]
        whole, after = set[str](), False
        for word in self._pattern().findall(caption.lower()):
            if word == AND:
                found.append(set())
            elif word == ON:
                after = True
            elif word in self.of_whole and (after or word not in self.of_objects):
                whole.add(word)
            else:
                found[-1].add(word)
        return [one for one in found if one], whole

    def _pattern(self) -> re.Pattern[str]:
        known = sorted({AND, ON, *self.of_objects, *self.of_whole}, key=lambda word: (-len(word), word))
        return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, known)) + r")(?!\w)")


def faithfulness(
    captions: Mapping[str, str], told: Mapping[str, Truth], said: Collection[str] | None = None
) -> pd.DataFrame:
    """Attributes that captions name wrongly or leave out.

    The phrases of a caption go to the objects with which they share most values, one to one. A value is hallucinated
    where it is not true of its object (or of the whole), and so is every value of a phrase without an object. It is
    omitted where it is true and not named of its object.

    Args:
        captions: by the picture's name.
        told: truth by the picture's name.
        said: values that people ever name; others count neither as named nor as omitted. None for all.

    Returns:
        A row per caption: item, named (values), hallucinated (of those), true (values that could be named), omitted (of
        those).

    Raises:
        DataError: a caption of a picture without a truth.

    >>> told = {"a": truth_of({"objects": [{"shape": "circle", "colour": "red"}]}),
    ...         "b": truth_of({"objects": [{"shape": "square", "colour": "blue"}]})}
    >>> print(faithfulness({"a": "a blue circle"}, told).to_string(index=False))
    item  named  hallucinated  true  omitted
       a      2             1     2        1
    """
    words, rows = Words.of(told.values()), []
    pattern_words = None if said is None else frozenset(said)
    for item, caption in captions.items():
        if item not in told:
            got = f"a caption of {item!r}"
            raise DataError(explain(got, "pictures whose truth is known", nearest(item, told)))
        phrases, whole = words.read(caption)
        rows.append((item, *_counts(phrases, whole, told[item], pattern_words)))
    return pd.DataFrame(rows, columns=["item", "named", "hallucinated", "true", "omitted"])


def values_said(captions: Iterable[str], told: Iterable[Truth]) -> set[str]:
    """The values that any of these captions names."""
    words, said = Words.of(told), set[str]()
    for caption in captions:
        phrases, whole = words.read(caption)
        said |= whole.union(*phrases)
    return said


def _counts(
    phrases: Sequence[set[str]], whole: set[str], truth: Truth, said: frozenset[str] | None
) -> tuple[int, int, int, int]:
    """Named, hallucinated, true and omitted values of one caption."""

    def counted(values: Iterable[str]) -> set[str]:
        return {value for value in values if said is None or value in said}

    named = [counted(phrase) for phrase in phrases]
    objects = [counted(one.values()) for one in truth.objects]
    shared = np.array([[len(a & b) for b in objects] for a in named]).reshape(len(named), len(objects))
    pairs = [(counted(whole), counted(truth.whole.values()))]
    rows, columns = linear_sum_assignment(shared, maximize=True)
    pairs += [(named[row], objects[column]) for row, column in zip(rows, columns, strict=True)]
    pairs += [(phrase, set()) for place, phrase in enumerate(named) if place not in rows]
    pairs += [(set(), one) for place, one in enumerate(objects) if place not in columns]
    return (
        sum(len(a) for a, _ in pairs),
        sum(len(a - b) for a, b in pairs),
        sum(len(b) for _, b in pairs),
        sum(len(b - a) for a, b in pairs),
    )
