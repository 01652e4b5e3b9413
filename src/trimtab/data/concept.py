"""Concepts: a name, examples of both kinds and a word each; their checks; readers of JSON lines and WordNet."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from trimtab.data.record_files import lines
from trimtab.errors import DataError, explain, nearest, refusal
from trimtab.runs.brief import brief
from trimtab.runs.files import TEXT_LIMIT, check_regular, has_halves, parse_json

_SENSE = re.compile(r"^(?P<lemma>.+?)(%\d.*|\.[nvars]\.\d+)$")


def word_of(name: str) -> str:
    """Lemma of a concept's name: without a WordNet sense, with spaces for underscores.

    >>> word_of("bank%1:14:00::"), word_of("hot_dog.n.01"), word_of("cat")
    ('bank', 'hot dog', 'cat')
    """
    sense = _SENSE.match(name)
    return (sense["lemma"] if sense else name).replace("_", " ").strip()


def word_in(text: str) -> bool:
    """Whether a text has a character other than blanks and underscores, so that it can be searched for as a word.

    >>> word_in("hot dog"), word_in("c++"), word_in(" "), word_in("_")
    (True, True, False, False)
    """
    return bool(text.replace("_", " ").strip())


def mentions(text: str, word: str) -> bool:
    """Word match: whether a sentence has a word, in any case and with an English ending; a blank word is in none.

    >>> mentions("The Cats slept.", "cat"), mentions("He concatenates.", "cat"), mentions("two ponies", "pony")
    (True, False, True)
    """
    if not word.strip():
        return False
    # Looking for the first letters is 20 times as fast as the pattern, and nearly always says no.
    return word.split()[0][:-1].lower() in text.lower() and _pattern(word).search(text) is not None


def without(text: str, word: str, stand_in: str) -> str:
    """Word substitution: the sentence with `stand_in` in the place of a word.

    >>> without("The Cats slept.", "cat", "[MASK]")
    'The [MASK] slept.'
    """
    return _pattern(word).sub(lambda _: stand_in, text) if word.strip() else text


@lru_cache(maxsize=4096)
def _pattern(word: str) -> re.Pattern[str]:
    """A word with the regular endings of English; irregular forms are not found."""
    stem = r"\s+".join(map(re.escape, word.split()))
    other = {"y": rf"|{stem[:-1]}(?:ies|ied)", "e": rf"|{stem[:-1]}ing"}.get(word[-1], "")
    return re.compile(rf"(?<!\w)(?:{stem}(?:s|es|ed|d|ing|'s)?{other})(?!\w)", re.IGNORECASE)


Example = Any
"""A text, or a picture: a tensor (C, H, W) of pixel values, or anything that the model's processor reads."""


@dataclass(frozen=True)
class Concept:
    """Concept: a name with positive and negative examples.

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

    __repr__ = brief


def identity(example: Example) -> object:
    """Key by which two examples are the same: the words of a text, the contents of a picture."""
    if isinstance(example, str):
        return " ".join(example.split())
    detach = getattr(example, "detach", None)
    array = np.asarray(detach().cpu() if detach is not None else example)
    return hashlib.sha256(f"{array.shape} {array.dtype}".encode() + array.tobytes()).hexdigest()


def mistakes(concepts: Sequence[Concept]) -> Iterator[str]:
    """Problems that make concepts unusable, each with the concept's name."""
    if not concepts:
        yield explain("no concept", "at least one")
    if unreadable := [mistake for concept in concepts for mistake in _wrong_types(concept)]:
        yield from unreadable
        return
    names = Counter(concept.name for concept in concepts)
    for name in sorted(name for name in names if names[name] > 1):
        yield f"{name}: {explain('two concepts of this name', 'one')}"
    kinds, seen = set(), dict[frozenset[object], str]()
    for concept in concepts:
        kinds |= {isinstance(one, str) for one in (*concept.positive, *concept.negative)}
        keys = [identity(one) for one in concept.positive]
        for got, *expected in _concept_mistakes(concept, keys):
            yield f"{concept.name}: {explain(got, *expected)}"
        twin = seen.setdefault(frozenset(keys), concept.name)
        if keys and twin != concept.name:
            yield f"{concept.name}: {explain(f'the positive examples of {twin}', 'its own')}"
    if len(kinds) > 1:
        yield explain("texts and pictures in one set", "one or the other")


def _wrong_types(concept: Concept) -> Iterator[str]:
    """Problems of type in the fields of a concept."""
    name, word = cast("tuple[object, object]", (concept.name, concept.word))
    if not isinstance(name, str) or not name.strip() or has_halves(name):
        yield explain(f"the name {name!r}", "a text that is not blank")
    if not isinstance(word, str | None):
        yield f"{name}: {explain(f'the word {word!r}', 'a text, or None')}"
    for what in ("positive", "negative"):
        examples: object = getattr(concept, what)
        if not isinstance(examples, list | tuple):
            got = f"a {type(examples).__name__} of {what} examples"
            yield f"{name}: {explain(got, 'a list or tuple')}"


def _concept_mistakes(concept: Concept, positive: Sequence[object]) -> Iterator[tuple[str, ...]]:
    """Problems of one concept as (got, expected, hint); `positive` holds the keys of its positive examples."""
    negative = [identity(one) for one in concept.negative]
    if concept.word is not None and not word_in(concept.word):
        yield f"the word {concept.word!r}", "a word that texts mention", "null for none"
    for what, keys, examples in (
        ("positive", positive, concept.positive),
        ("negative", negative, concept.negative),
    ):
        texts = [one for one in examples if isinstance(one, str)]
        if not keys:
            yield f"no {what} example", "at least one"
        if blank := [one for one in texts if not one.strip()]:
            yield f"{len(blank)} blank {what} examples", "texts"
        if halves := list(filter(has_halves, texts)):
            got = f"{len(halves)} {what} examples with half a character, such as {_quoted(halves[0])}"
            yield got, "whole characters"
        if twice := [one for n, one in enumerate(examples) if keys[n] in keys[:n]]:
            yield f"{len(twice)} {what} examples twice, such as {_quoted(twice[0])}", "each once"
    if both := [n for n, key in enumerate(positive) if key in set(negative)]:
        count, first = len({positive[n] for n in both}), _quoted(concept.positive[both[0]])
        yield f"{count} examples that are both positive and negative, such as {first}", "one or the other"


def word_findings(concept: Concept) -> Iterator[str]:
    """Mismatches of examples and word: positive texts without the concept's word, and negative ones with it."""
    word = concept.word
    if word is None or not isinstance(concept.positive[0], str):
        return
    for side, texts, wanted, what in (
        ("positive", concept.positive, True, "missing from"),
        ("negative", concept.negative, False, "in"),
    ):
        if odd := [one for one in texts if mentions(one, word) != wanted]:
            where = f"{len(odd)} of {len(texts)} {side} sentences, such as {_quoted(odd[0])}"
            yield f"{concept.name}: the word {word!r} is {what} {where}"


def _quoted(example: Example) -> str:
    if not isinstance(example, str):
        return "a picture"
    return repr(example if len(example) < 80 else f"{example[:79]}…")


EXPECTED = '{"name": text, "positive": [texts], "negative": [texts]}'


def read_concepts(path: Path) -> Iterator[Concept]:
    """The concepts of a file, gzipped or not, in its order.

    Raises:
        DataError: no such file, a folder or a pipe, not UTF-8, or a line that is no concept; with the line.
    """
    for where, row in _rows(path, "a file of JSON lines in UTF-8", EXPECTED):
        name = row.get("name")
        if not isinstance(name, str) or not name.strip():
            got = f"the name {name!r}" if isinstance(name, str) else "no name"
            raise refusal(where, got, EXPECTED, _near("name", row))
        if has_halves(name):
            raise refusal(where, f"half a character in the name {name!r}", "whole ones")
        place = f"{where}, {name}"
        sides: dict[str, list[str]] = {side: row.get(side, []) for side in ("positive", "negative")}
        for side, texts in sides.items():
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise refusal(place, f"{side} that is no list of texts", EXPECTED)
            if side not in row and (near := _near(side, row)):
                raise refusal(place, f"no {side}", EXPECTED, near)
            if halves := [number for number, text in enumerate(texts) if has_halves(text)]:
                got = f"half a character (a lone surrogate) in {side} example {halves[0]}"
                raise refusal(place, got, "whole characters")
        word = row.get("word", word_of(name))
        if not isinstance(word, str | None):
            raise refusal(place, f"the word {word!r}", "a text, or null for a concept that is no word")
        yield Concept(name, tuple(sides["positive"]), tuple(sides["negative"]), word)


def _rows(path: Path, whole: str, expected: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON lines, gzipped or not, each with "path:line"; blank lines are passed over.

    Args:
        path: the file.
        whole: what it should be, for messages.
        expected: what a line should be.

    Raises:
        DataError: no such file, one that is no regular file, no UTF-8 or too large, or a line that is damaged, no
            object, or has a key twice, of which JSON would keep the last silently.
    """

    def once(pairs: Sequence[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise refusal(where, f"the key {twice[0]!r} twice", expected)

    for where, line in lines(check_regular(path, whole), whole, limit=TEXT_LIMIT):
        if line.strip():
            row = parse_json(line, where, expected)
            if not isinstance(row, dict):
                raise refusal(where, f"a {type(row).__name__}", expected)
            json.loads(line, object_pairs_hook=once)
            yield where, row


def _near(key: str, row: Mapping[str, Any]) -> str:
    near = nearest(key, [other for other in row if other not in ("name", "positive", "negative", "word")])
    return f"renaming {near} to {key!r}" if near else ""


LEAST_WORDS = 5
PARTS_OF_SPEECH = ("n", "v", "a", "r")
"""WordNet's letters for nouns, verbs, adjectives (with their satellites, "s") and adverbs."""
NOT_NOUNS = ("v", "a", "r")
"""Definitions of nouns are no sentences: they place a thing in a taxonomy, "any of various fishes of the family"."""
_TOKEN = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
WORDNET = "a file of WordNet sentences in UTF-8", "an object with definition and examples"


def is_wordnet(path: Path) -> bool:
    """Whether a file looks like one of WordNet's: its first line is an object with a definition."""
    try:
        return "definition" in next(_rows(path, *WORDNET))[1]
    except (StopIteration, DataError):
        return False


def is_token(word: str) -> bool:
    """Whether a word can be found in sentences: letters, with hyphens and apostrophes inside, and no space.

    >>> is_token("cat"), is_token("merry-go-round"), is_token("ice cream"), is_token("4x4")
    (True, True, False, False)
    """
    return _TOKEN.fullmatch(word.lower()) is not None


def sentences_of(
    path: Path, words: Iterable[str], pos: Collection[str] | None = None
) -> dict[str, list[str]]:
    """Sentences by word: the definitions and examples that have it as it is written, in any case, in the file's order.

    Args:
        path: JSON lines, gzipped or not, with `definition` and `examples` in each.
        words: single words of letters, see `is_token`; others are in no sentence.
        pos: parts of speech of the entries that count, of `PARTS_OF_SPEECH`; None for all. An entry that states none
            counts.

    Returns:
        Different sentences of at least five words each; none for a word that is in no sentence.

    Raises:
        DataError: no such file, or a line that is none of WordNet's.
    """
    sentences: dict[str, dict[str, None]] = {word: {} for word in words}
    written: dict[str, list[str]] = {}
    for word in sentences:
        written.setdefault(word.lower(), []).append(word)
    for where, row in _rows(path, *WORDNET):
        definition, examples = row.get("definition"), row.get("examples")
        texts = (definition, *examples) if isinstance(examples, list) else ()
        if not texts or not all(isinstance(text, str) for text in texts):
            expected = "an object with definition, a text, and examples, a list of texts"
            raise refusal(where, "another line", expected)
        if any(map(has_halves, texts)):
            raise refusal(where, "half a character (a lone surrogate)", "whole characters")
        # A satellite ("s") is an adjective, and an entry without a part of speech counts.
        if pos is not None and ("a" if row.get("pos") == "s" else row.get("pos")) not in (None, *pos):
            continue
        for text in (text for text in texts if len(text.split()) >= LEAST_WORDS):
            tokens = set(_TOKEN.findall(text.lower()))
            for word in (word for token in tokens for word in written.get(token, ())):
                sentences[word][text] = None
    return {word: list(texts) for word, texts in sentences.items()}
