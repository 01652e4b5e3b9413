"""Tokenisers of caption scores, each with a signature: scores of two tokenisers cannot be compared.

`ptb` follows the tokeniser that COCO's scores are computed with, Stanford's PTBTokenizer of 2014 in lower case and
without punctuation, as regular expressions. `words` knows runs of letters, digits and apostrophes, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from trimtab.errors import ConfigProblems, not_among

DROPPED = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
"""Punctuation that COCO's scores leave out. Their list names brackets too, but as -LRB- where the tokens are -lrb-."""

_ABBREVIATIONS = (
    "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri|calif|conn|fla|md|mich|ala|ariz|colo|ga"
    "|ind|kan|ky|minn|mo|mont|nev|okla|penn|tenn|va|vt|wisc?|wyo|inc|cos?|corp|pty|ltd|plc|rt|bancorp|dept|bhd|assn"
    "|univ|intl|sys|mrs?|ms|drs?|profs?|sen|rep|atty|lt|col|gen|messrs|gov|adm|rev|maj|sgt|cpl|pvt|capt|ste?|ave|pres"
    "|lieut|hon|brig|co?mdr|pfc|spc|supt|det|mt|ft|adj|adv|asst|assoc|ens|insp|mlle|mme|msgr|sfc|jr|sr|bros|blvd|rd|esq"
    "|al|etc|vs|est|ext|cf|bldg|tel|ct|sq|natl|ph\\.d"
)
_BEFORE_NUMBERS = "figs?|nos?|art|ca|prop|pp|op"
_STATES = "Mass|Ark|Del|Ill|La|Miss|Ore|Pa|Tex|Wash"
_STARTS = "A|An|As|At|But|He|Her|If|In|It|She|Some|That|The|Their|Then|There|These|They|This|We|What|When|You"
_END = r"(?![^\W_])"
_LETTER, _SIGN = r"[^\W\d_]", r"[^\W_]"
_PTB = re.compile(
    rf"""
    (?:https?://|www\.)\S+ | <[^<>\s]+>
    | n't{_END} | {_LETTER}+?(?=n't{_END})
    | '(?:s|d|m|re|ve|ll|em|cause|till?|n'?|[0-9]0s){_END} | 't(?=(?:is|was){_END})
    | (?:can(?=not{_END}) | (?:gon|wan)(?=na{_END}) | got(?=ta{_END}) | (?:gim|lem)(?=me{_END}))
    | [dlocs]'{_SIGN}+ | ma'am{_END} | ol'{_END} | y'
    | (?:{_ABBREVIATIONS}|(?-i:{_STATES}))\. | (?:{_BEFORE_NUMBERS})\.(?=\s*\d)
    | {_LETTER}(?:\.{_LETTER})+\.?{_END} | {_LETTER}\.{_END}(?!\s+(?-i:{_STARTS})\b)
    | [-+]?[0-9]+(?:[.,:][0-9]+)+(?:-{_SIGN}+)* | [-+.,][0-9]+{_END}
    | [#@]{_LETTER}{_SIGN}* | (?-i:[A-Z]+&[A-Z]+)
    | {_LETTER}{_SIGN}*(?:\.{_LETTER}{_SIGN}*)+
    | {_SIGN}+(?:[-/_]{_SIGN}+)*
    | [?!]+ | _+ | \*+ | [^\s.\-\U00010000-\U0010ffff]
    """,
    re.VERBOSE | re.IGNORECASE,
)
_WRITTEN = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019", "'"),
        **dict.fromkeys("\u201c\u201d\u201e", '"'),
        **dict.fromkeys("\u2013\u2014", "--"),
        "\u2026": "...",
        "\u00bd": "1/2",
        "\u00bc": "1/4",
        "\u00be": "3/4",
        "\u200b": " ",
        "\u00a3": "#",
        "\u20ac": "$",
    }
)
_SPOKEN = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_NONE = DROPPED | {'"'}
_WORDS = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def ptb(text: str) -> list[str]:
    """Tokens of the Penn Treebank in lower case, without punctuation.

    Contractions are two tokens, hyphenated words one, and brackets are kept under their names, as COCO's scores do.
    It follows Stanford's PTBTokenizer 3.4.1; docs/results/caption-scores.md counts the captions with other tokens.
    Unlike that program it reads each text by itself: "x." at an end stays one token whatever text comes next.

    >>> ptb("A dog's close-up, isn't it? (at 5 p.m.)")
    ['a', 'dog', "'s", 'close-up', 'is', "n't", 'it', '-lrb-', 'at', '5', 'p.m.', '-rrb-']
    """
    text = text if text.isascii() else text.translate(_WRITTEN)
    if "." in text[:-1]:  # what a full stop means depends on what follows
        return list(_kept(text))
    return [token for chunk in text.split() for token in _of_chunk(chunk)]


def _kept(text: str) -> tuple[str, ...]:
    found = (token.lower() for token in _PTB.findall(text))
    return tuple(_SPOKEN.get(one, one) for one in found if one not in _NONE)


_of_chunk = lru_cache(maxsize=2**16)(_kept)


def words(text: str) -> list[str]:
    """Runs of letters, digits and inner apostrophes in lower case.

    >>> words("A dog's close-up, isn't it?")
    ['a', "dog's", 'close', 'up', "isn't", 'it']
    """
    return _WORDS.findall(text.lower().replace("\u2019", "'"))


@dataclass(frozen=True)
class Tokeniser:
    """A tokeniser with its name and version, which belong to every score.

    Attributes:
        name: what it is chosen by.
        version: raised whenever a text comes to other tokens.
        split: from a text to its tokens.
    """

    name: str
    version: int
    split: Callable[[str], list[str]]

    @property
    def signature(self) -> str:
        """Name and version, as `ptb.1`."""
        return f"{self.name}.{self.version}"


TOKENISERS: Mapping[str, Tokeniser] = MappingProxyType(
    {one.__name__: Tokeniser(one.__name__, 1, one) for one in (ptb, words)}
)
"""The tokenisers by name."""


def tokeniser(name: str | Tokeniser) -> Tokeniser:
    """The tokeniser of a name; one of your own is given as it is.

    Raises:
        ConfigProblems: a name that none has.

    >>> tokeniser("ptb").signature
    'ptb.1'
    """
    if isinstance(name, Tokeniser):
        return name
    if name not in TOKENISERS:
        raise ConfigProblems([not_among("tokeniser", name, TOKENISERS)])
    return TOKENISERS[name]
