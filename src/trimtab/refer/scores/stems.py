"""Stems of English words by Porter's second stemmer, which METEOR matches words by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_VOWELS = "aeiouy"
_DOUBLES = ("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")
_REGION = re.compile(f"[{_VOWELS}][^{_VOWELS}]")
_SHORT = re.compile(f"(?:^[{_VOWELS}][^{_VOWELS}]|[^{_VOWELS}][{_VOWELS}][^{_VOWELS}wxY])$")
_BEGINNINGS = ("gener", "commun", "arsen")
_WHOLE = {
    "skis": "ski",
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "idly": "idl",
    "gently": "gentl",
    "ugly": "ugli",
    "early": "earli",
    "only": "onli",
    "singly": "singl",
    **{word: word for word in ("sky", "news", "howe", "atlas", "cosmos", "bias", "andes")},
}
_AFTER_PLURAL = ("inning", "outing", "canning", "herring", "earring", "proceed", "exceed", "succeed")
_SECOND = (
    ("ization", "ize"),
    ("ational", "ate"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("iveness", "ive"),
    ("tional", "tion"),
    ("biliti", "ble"),
    ("lessli", "less"),
    ("entli", "ent"),
    ("ation", "ate"),
    ("alism", "al"),
    ("aliti", "al"),
    ("ousli", "ous"),
    ("iviti", "ive"),
    ("fulli", "ful"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("abli", "able"),
    ("izer", "ize"),
    ("ator", "ate"),
    ("alli", "al"),
    ("bli", "ble"),
    ("ogi", "og"),
    ("li", ""),
)
_THIRD = (
    ("ational", "ate"),
    ("tional", "tion"),
    ("alize", "al"),
    ("icate", "ic"),
    ("iciti", "ic"),
    ("ative", ""),
    ("ical", "ic"),
    ("ness", ""),
    ("ful", ""),
)
_FOURTH = (
    *(
        "ement",
        "ance",
        "ence",
        "able",
        "ible",
        "ment",
        "ant",
        "ent",
        "ism",
        "ate",
        "iti",
        "ous",
        "ive",
        "ize",
    ),
    *("ion", "al", "er", "ic"),
)


@lru_cache(maxsize=2**16)
def stem(word: str) -> str:
    """The stem of an English word in lower case: what is left without endings of inflection and derivation.

    Words of one or two letters stay, and so do those with no rule.

    Source: Porter 2001, "Snowball: a language for stemming algorithms", the English stemmer ("Porter2").

    >>> [stem(word) for word in ("running", "ponies", "cat's", "generously", "the")]
    ['run', 'poni', 'cat', 'generous', 'the']
    """
    word = word.replace("\u2019", "'")
    if len(word) <= 2:
        return word
    word = word.removeprefix("'")
    if word in _WHOLE:
        return _WHOLE[word]
    word = re.sub(f"(^|[{_VOWELS}])y", r"\1Y", word)
    first, second = _regions(word)
    word = _plural(word)
    if word not in _AFTER_PLURAL:
        word = _past(word, first)
        if len(word) > 2 and word[-1] in "yY" and word[-2] not in _VOWELS:
            word = f"{word[:-1]}i"
        word = _derived(word, first)
        word = _third(word, first, second)
        word = _fourth(word, second)
        word = _last(word, first, second)
    return word.lower()


def _regions(word: str) -> tuple[int, int]:
    """Where the word's two regions start: after the first consonant behind a vowel, and again after the next one."""
    begun = next((one for one in _BEGINNINGS if word.startswith(one)), "")
    found = _REGION.search(word)
    first = len(begun) or (found.end() if found else len(word))
    again = _REGION.search(word, first)
    return first, again.end() if again else len(word)


def _plural(word: str) -> str:
    for ending in ("'s'", "'s", "'"):
        if word.endswith(ending):
            word = word.removesuffix(ending)
            break
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and re.search(f"[{_VOWELS}]", word[:-2]):
        return word[:-1]
    return word


def _past(word: str, first: int) -> str:
    for ending in ("eedly", "eed"):
        if word.endswith(ending):
            return word.removesuffix(ending) + "ee" if len(word) - len(ending) >= first else word
    for ending in ("ingly", "edly", "ing", "ed"):
        if word.endswith(ending):
            before = word.removesuffix(ending)
            if not re.search(f"[{_VOWELS}]", before):
                return word
            if before.endswith(("at", "bl", "iz")):
                return f"{before}e"
            if before.endswith(_DOUBLES):
                return before[:-1]
            return f"{before}e" if len(before) <= first and _SHORT.search(before) else before
    return word


def _derived(word: str, first: int) -> str:
    for ending, instead in _SECOND:
        if word.endswith(ending):
            before = word.removesuffix(ending)
            fits = {"ogi": before.endswith("l"), "li": before[-1:] in tuple("cdeghkmnrt")}.get(ending, True)
            return before + instead if len(before) >= first and fits else word
    return word


def _third(word: str, first: int, second: int) -> str:
    for ending, instead in _THIRD:
        if word.endswith(ending):
            before = word.removesuffix(ending)
            return before + instead if len(before) >= (second if ending == "ative" else first) else word
    return word


def _fourth(word: str, second: int) -> str:
    for ending in _FOURTH:
        if word.endswith(ending):
            before = word.removesuffix(ending)
            return (
                before if len(before) >= second and (ending != "ion" or before[-1:] in ("s", "t")) else word
            )
    return word


def _last(word: str, first: int, second: int) -> str:
    before = word[:-1]
    if word.endswith("e"):
        keeps = len(before) < second and (len(before) < first or bool(_SHORT.search(before)))
        return word if keeps else before
    return before if word.endswith("ll") and len(before) >= second else word


def stems(words: Sequence[str]) -> list[str]:
    """The stem of each word."""
    return [stem(word) for word in words]
