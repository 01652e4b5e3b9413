"""One-line `repr` of settings and of values that hold tensors, frames and texts; short names of models."""

from __future__ import annotations

import dataclasses
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WIDTH = 160
"""Characters of a `repr`, at most."""
_DIGEST = re.compile(r"-[0-9a-f]{12}$")
"""What ends the folder of a lab model."""


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


def model_of(config: Mapping[str, Any]) -> str:
    """The short name of the model, or models, that a config names; "" where it names none.

    >>> model_of({"model": "path/to/grammar-76dcf1b36eb1"}), model_of({"model": "owner/tiny-llama"}), model_of({})
    ('grammar', 'tiny-llama', '')
    """
    if "predictions" in config:  # there a `model` is a column of names that models gave
        return ""
    several = config.get("models")
    names = list(several.values()) if isinstance(several, Mapping) else [config.get("model")]
    return few([_DIGEST.sub("", Path(name).name) for name in names if isinstance(name, str)])


def few(names: Sequence[str]) -> str:
    """Different names in a list, the first three of many.

    >>> few(["a", "b", "a", "", "c", "d"])
    'a, b, c and 1 more'
    """
    kept = [name for name in dict.fromkeys(names) if name]
    rest = f" and {len(kept) - 3} more" if len(kept) > 3 else ""
    return ", ".join(kept[:3]) + rest
