"""One-line `repr` of settings and of values that hold tensors, frames and texts."""

from __future__ import annotations

import dataclasses
import reprlib
from typing import Any

WIDTH = 160
"""Characters of a `repr`, at most."""


class _Short(reprlib.Repr):
    """Values in a few characters; arrays, tensors and frames by their shape alone."""

    def __init__(self) -> None:
        super().__init__()
        self.maxdict = self.maxlist = self.maxtuple = 3
        self.maxlevel, self.maxstring, self.maxother = 2, 40, 60

    def repr1(self, x: Any, level: int) -> str:
        """A value at this depth of nesting."""
        shape = getattr(x, "shape", None)
        if isinstance(shape, tuple) and shape:
            return f"<{type(x).__name__} {' x '.join(map(str, shape))}>"
        return super().repr1(x, level)


_SHORT = _Short()


def brief(value: Any) -> str:
    """`repr` of a dataclass in one line: its class and the fields that are not at their defaults.

    >>> from trimtab.train.settings import Fit
    >>> brief(Fit(steps=400, lr=0.001))
    'Fit(steps=400, lr=0.001)'
    """
    fields = [one for one in dataclasses.fields(value) if one.init and one.repr]
    given = [(one.name, getattr(value, one.name)) for one in fields if _is_set(one, getattr(value, one.name))]
    return one_line(type(value).__name__, *(f"{name}={_SHORT.repr(it)}" for name, it in given))


def one_line(kind: str, *facts: str) -> str:
    """A class with facts about one of its objects, in at most `WIDTH` printable characters.

    >>> one_line("Lexicon", "12 words", "a\\nb"), len(one_line("Lexicon", "x" * 900))
    ('Lexicon(12 words, a b)', 160)
    """
    text = " ".join(f"{kind}({', '.join(facts)})".split())
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 4]}...)"


def _is_set(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether a field differs from its default; true of one that has none, or that cannot be compared."""
    made = field.default_factory
    default = made() if made is not dataclasses.MISSING else field.default
    if default is dataclasses.MISSING:
        return True
    try:
        return bool(value != default)
    except (ValueError, TypeError, RuntimeError):  # arrays, tensors and frames have no single answer
        return True
