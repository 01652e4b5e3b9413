"""Words in sentences: the word that a concept is named after, whether a sentence has it, and sentences without it."""

from __future__ import annotations

import re
from functools import lru_cache

_SENSE = re.compile(r"^(?P<lemma>.+?)(%\d.*|\.[nvars]\.\d+)$")


def word_of(name: str) -> str:
    """The word that a concept is named after: without a WordNet sense, with spaces for underscores.

    >>> word_of("bank%1:14:00::"), word_of("hot_dog.n.01"), word_of("cat")
    ('bank', 'hot dog', 'cat')
    """
    found = _SENSE.match(name)
    return (found["lemma"] if found else name).replace("_", " ").strip()


def word_in(text: str) -> bool:
    """Whether there is anything to look for in a text that is taken for a word.

    >>> word_in("hot dog"), word_in("c++"), word_in(" "), word_in("_")
    (True, True, False, False)
    """
    return bool(text.replace("_", " ").strip())


def mentions(text: str, word: str) -> bool:
    """Whether a sentence has a word, in any case and with an English ending; a blank word is in none.

    >>> mentions("The Cats slept.", "cat"), mentions("He concatenates.", "cat"), mentions("two ponies", "pony")
    (True, False, True)
    """
    if not word.strip():
        return False
    # Looking for the first letters is 20 times as fast as the pattern, and nearly always says no.
    return word.split()[0][:-1].lower() in text.lower() and _pattern(word).search(text) is not None


def without(text: str, word: str, stand_in: str) -> str:
    """The sentence with something else in the place of a word.

    >>> without("The Cats slept.", "cat", "[MASK]")
    'The [MASK] slept.'
    """
    return _pattern(word).sub(lambda _: stand_in, text) if word.strip() else text


@lru_cache(maxsize=4096)
def _pattern(word: str) -> re.Pattern[str]:
    """A word with the regular endings of English; irregular forms are not found."""
    stem = r"\s+".join(map(re.escape, word.split()))
    forms = [rf"{stem}(?:s|es|ed|d|ing|'s)?"]
    if word.endswith("y"):
        forms.append(rf"{stem[:-1]}(?:ies|ied)")
    if word.endswith("e"):
        forms.append(rf"{stem[:-1]}ing")
    return re.compile(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)", re.IGNORECASE)
