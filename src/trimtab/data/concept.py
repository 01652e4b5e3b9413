"""One concept: a name with positive and negative examples, what makes it unusable, what a reader should know of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.data.mentions import mentions, word_in
from trimtab.errors import explain

Example = Any
"""A text, or a picture: a tensor (C, H, W) of pixel values, or anything that the model's processor reads."""


@dataclass(frozen=True)
class Concept:
    """A name with examples.

    Attributes:
        name: of the concept.
        positive: examples that have it.
        negative: examples that do not.
        word: that texts which have the concept mention; None for a concept that is no word, such as a topic.
    """

    name: str
    positive: tuple[Example, ...]
    negative: tuple[Example, ...]
    word: str | None = None


def identity(example: Example) -> object:
    """What makes two examples the same: the words of a text, the contents of a picture."""
    if isinstance(example, str):
        return " ".join(example.split())
    detach = getattr(example, "detach", None)
    array = np.asarray(detach().cpu() if detach is not None else example)
    return hashlib.sha256(f"{array.shape} {array.dtype}".encode() + array.tobytes()).hexdigest()


def cannot_be_encoded(text: str) -> bool:
    r"""Whether a text has half a character in it (a lone surrogate), which JSON can say and no tokenizer reads.

    >>> cannot_be_encoded("a \ud83d b"), cannot_be_encoded("a 😀 b")
    (True, False)
    """
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def mistakes(concepts: Sequence[Concept]) -> Iterator[str]:
    """Everything that makes concepts unusable, each by name."""
    if not concepts:
        yield explain("no concept", "at least one")
    if unreadable := [mistake for concept in concepts for mistake in _wrong_types(concept)]:
        yield from unreadable
        return
    names = [concept.name for concept in concepts]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name}: {explain('two concepts of this name', 'one')}"
    kinds = set()
    seen: dict[frozenset[object], str] = {}
    for concept in concepts:
        kinds |= {isinstance(one, str) for one in (*concept.positive, *concept.negative)}
        own = [identity(one) for one in concept.positive]
        yield from _own_mistakes(concept, own)
        twin = seen.setdefault(frozenset(own), concept.name)
        if own and twin != concept.name:
            yield f"{concept.name}: {explain(f'the positive examples of {twin}', 'its own')}"
    if len(kinds) > 1:
        yield explain("texts and pictures in one set", "one or the other")


def _wrong_types(concept: Concept) -> Iterator[str]:
    """What keeps a concept from being looked at."""
    name: object = concept.name
    word: object = concept.word
    sides: dict[str, object] = {"positive": concept.positive, "negative": concept.negative}
    if not isinstance(name, str) or not name.strip() or cannot_be_encoded(name):
        yield explain(f"the name {name!r}", "a text that is not blank")
    if not isinstance(word, str | None):
        yield f"{name}: {explain(f'the word {word!r}', 'a text, or None')}"
    for what, examples in sides.items():
        if not isinstance(examples, list | tuple):
            got = f"a {type(examples).__name__} of {what} examples"
            yield f"{name}: {explain(got, 'a list or tuple')}"


def _own_mistakes(concept: Concept, own: Sequence[object]) -> Iterator[str]:
    other = [identity(one) for one in concept.negative]
    if concept.word is not None and not word_in(concept.word):
        got = f"the word {concept.word!r}"
        yield f"{concept.name}: {explain(got, 'a word that texts mention', 'null for none')}"
    for what, keys, examples in (("positive", own, concept.positive), ("negative", other, concept.negative)):
        if not keys:
            yield f"{concept.name}: {explain(f'no {what} example', 'at least one')}"
        if blank := [one for one in examples if isinstance(one, str) and not one.strip()]:
            yield f"{concept.name}: {explain(f'{len(blank)} blank {what} examples', 'texts')}"
        if halves := [one for one in examples if isinstance(one, str) and cannot_be_encoded(one)]:
            got = f"{len(halves)} {what} examples with half a character, such as {_shown(halves[0])}"
            yield f"{concept.name}: {explain(got, 'whole characters')}"
        twice = [one for n, one in enumerate(examples) if keys[n] in keys[:n]]
        if twice:
            got = f"{len(twice)} {what} examples twice, such as {_shown(twice[0])}"
            yield f"{concept.name}: {explain(got, 'each once')}"
    both = set(own) & set(other)
    if both:
        one = next(one for one, key in zip(concept.positive, own, strict=True) if key in both)
        got = f"{len(both)} examples that are both positive and negative, such as {_shown(one)}"
        yield f"{concept.name}: {explain(got, 'one or the other')}"


def word_findings(concept: Concept) -> Iterator[str]:
    """Positive texts without the concept's word, and negative ones with it."""
    if concept.word is None or not isinstance(concept.positive[0], str):
        return
    lacking = [one for one in concept.positive if not mentions(one, concept.word)]
    having = [one for one in concept.negative if mentions(one, concept.word)]
    if lacking:
        told = f"the word {concept.word!r} is missing from {len(lacking)} of {len(concept.positive)} positive sentences"
        yield f"{concept.name}: {told}, such as {_shown(lacking[0])}"
    if having:
        told = f"the word {concept.word!r} is in {len(having)} of {len(concept.negative)} negative sentences"
        yield f"{concept.name}: {told}, such as {_shown(having[0])}"


def _shown(example: Example) -> str:
    return (
        repr(example if len(example) < 80 else f"{example[:79]}…")
        if isinstance(example, str)
        else "a picture"
    )
