"""Holds the sentences of a page against the numbers behind it: none with a number or a comparison is left unchecked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from html.parser import HTMLParser

CLAIM = re.compile(
    r"\d|\b(?:more|less|fewer|above|below|higher|lower|best|worst|better|worse|beats?|than|equal|most|least|all|none"
    r"|every|each|only|larger|smaller|nearest|distinguishable|one|two|three|half|twice)\b",
    re.IGNORECASE,
)
"""What makes a sentence a claim: a number or a comparison."""

_BLOCKS = {"p", "figcaption", "li"}
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")


class _Blocks(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self._depth = 0
        self._in_contents = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_contents |= tag == "nav"
        if tag in _BLOCKS and not self._in_contents:
            self._depth += 1
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag in _BLOCKS and not self._in_contents
        self._in_contents &= tag != "nav"

    def handle_data(self, data: str) -> None:
        if self._depth:
            self.blocks[-1] += data


def sentences(html: str) -> list[str]:
    """The sentences of a page's paragraphs and captions, in order; tables and drawings are data, not sentences.

    >>> sentences("<p>Two of 3 rose. It fell by 0.5 nats.</p><td>7</td>")
    ['Two of 3 rose.', 'It fell by 0.5 nats.']
    """
    parser = _Blocks()
    parser.feed(html)
    return [one for block in parser.blocks for one in _END.split(" ".join(block.split())) if one]


def hold(
    html: str, rules: Mapping[str, Callable[..., bool]], *, definitions: Iterable[str] = ()
) -> dict[str, int]:
    """Check every sentence of a page that holds a number or a comparison.

    Each must match, as a whole, the pattern of a rule whose check of the pattern's groups is true; and a rule is
    tried with each of its numbers spoilt, where it must be false, so that no check is one that cannot fail.

    Args:
        html: the page.
        rules: a regular expression for a whole sentence -> a function of its groups (texts) that computes, from the
            result and not from the page's code, whether the sentence is true.
        definitions: regular expressions of sentences that explain what is shown and depend on no result.

    Returns:
        How many sentences each rule held.
    """
    held = dict.fromkeys(rules, 0)
    known = list(definitions)
    for sentence in sentences(html):
        if not CLAIM.search(sentence) or any(re.fullmatch(one, sentence) for one in known):
            continue
        pattern = next((rule for rule in rules if re.fullmatch(rule, sentence)), None)
        assert pattern is not None, f"no rule holds this sentence: {sentence!r}"
        match = re.fullmatch(pattern, sentence)
        assert match is not None
        groups = [group or "" for group in match.groups()]
        assert rules[pattern](*groups), f"not what was measured: {sentence!r} (rule {pattern!r})"
        for place, group in enumerate(groups):
            spoilt = _spoil(group)
            if spoilt != group:
                changed = [*groups[:place], spoilt, *groups[place + 1 :]]
                assert not _true(rules[pattern], changed), (
                    f"{pattern!r} holds with {group!r} as {spoilt!r} too"
                )
        held[pattern] += 1
    return held


def _true(check: Callable[..., bool], groups: list[str]) -> bool:
    try:
        return bool(check(*groups))
    except (KeyError, IndexError, ValueError, StopIteration):
        return False


def _spoil(text: str) -> str:
    """The text with its first digit above 0 changed; a lone 0 becomes 1.

    >>> _spoil("0.055"), _spoil("0"), _spoil("maths")
    ('0.065', '1', 'maths')
    """
    if re.search(r"[1-9]", text):
        return re.sub(r"[1-9]", lambda digit: str(int(digit[0]) % 9 + 1), text, count=1)
    return re.sub(r"0", "1", text, count=1)
