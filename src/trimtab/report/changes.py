"""Words of a text that differ from another text, marked."""

from __future__ import annotations

from difflib import SequenceMatcher

from trimtab.report.page import Mark


def changed_words(before: str, after: str) -> Mark:
    """A text whose words that another text lacks there are marked; words are what spaces separate.

    The longest runs of common words are matched first (Ratcliff & Metzener 1988). A word that the text lacks leaves
    no trace.

    Args:
        before: the text that it is compared with.
        after: the text that is shown.

    >>> changed_words("the pig bites the rat", "the hen bites a rat").parts
    (('the', False), ('hen', True), ('bites', False), ('a', True), ('rat', False))
    >>> changed_words("all the same", "all  the same").parts
    ()
    """
    old, new = before.split(), after.split()
    steps = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    parts = [(" ".join(new[start:end]), kind != "equal") for kind, _, _, start, end in steps if end > start]
    return Mark(after, parts=tuple(parts) if any(marked for _, marked in parts) else ())
