"""Words of a text that differ from another text, marked."""

from __future__ import annotations

from difflib import SequenceMatcher
from itertools import groupby
from operator import itemgetter

from trimtab.report.page import Passage


def changed_words(before: str, after: str) -> Passage:
    """A text whose words that another text lacks there are marked; words are what spaces separate.

    The longest runs of common words are matched first (Ratcliff & Metzener 1988). A word that the text lacks leaves
    no trace.

    Args:
        before: the text that it is compared with.
        after: the text that is shown.

    >>> changed_words("the pig bites the rat", "the hen bites a rat").parts
    (('the ', False), ('hen', True), (' bites ', False), ('a', True), (' rat', False))
    >>> changed_words("all the same", "all  the same").parts
    (('all the same', False),)
    """
    old, new = before.split(), after.split()
    steps = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    marked = [kind != "equal" for kind, _, _, start, end in steps for _ in range(start, end)]
    runs = [
        (" ".join(word for word, _ in run), differs)
        for differs, run in groupby(zip(new, marked, strict=True), key=itemgetter(1))
    ]
    last = len(runs) - 1
    return Passage(
        tuple(
            (run if differs else f"{' ' * (place > 0)}{run}{' ' * (place < last)}", differs)
            for place, (run, differs) in enumerate(runs)
        )
    )
