"""Formats of numbers, names and differences: few digits, a true minus sign, a dash where there is no number.

Names that someone else chose are made safe and short. A difference is described by its interval, in the same words
everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

NOTHING = "–"


def missing(value: object) -> bool:
    """Whether a value is missing: None, or a number that is nan.

    >>> missing(float("nan")), missing(None), missing(0.0)
    (True, True, False)
    """
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:  # pandas.NA compares to itself as NA, which has no truth value
        return True


def number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """A number with `digits` significant digits; a dash for nan and None.

    Whole numbers keep all their digits. A value that is not zero is never written as zero.

    >>> number(0.04187), number(-1234.5), number(7), number(float("nan")), number(0.0412, 2, signed=True)
    ('0.0419', '−1234', '7', '–', '+0.041')
    """
    if value is None or missing(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    places = 0 if value == 0 or float(value).is_integer() else digits - 1 - math.floor(math.log10(abs(value)))
    if places > digits + 3:
        text = f"{value:.{digits - 1}e}".replace("e-0", "e-")
    else:
        text = f"{value:.{max(places, 0)}f}"
    return _sign(text, positive=signed and value > 0)


def percent(share: float | None) -> str:
    """A share in whole per cent; a dash for nan and None. Only none is written as 0, and only all as 100.

    >>> percent(0.254), percent(0.001), percent(0.0), percent(0.999), percent(1)
    ('25 %', '<1 %', '0 %', '>99 %', '100 %')
    """
    if share is None or missing(share):
        return NOTHING
    text = f"{100 * share:.0f} %"
    if text == "0 %" and share > 0:
        return "<1 %"
    return ">99 %" if text == "100 %" and share < 1 else text


def count(value: float) -> str:
    """A number of parameters or tokens in at most three digits and a letter.

    >>> count(1.5e9), count(8e5), count(1234), count(96)
    ('1.5B', '800k', '1.23k', '96')
    """
    unit, letter = next(((unit, letter) for unit, letter in _UNITS if abs(value) >= 0.9995 * unit), (1.0, ""))
    return f"{value / unit:.3g}{letter}"


_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def fixed(value: float | None, places: int = 3, *, signed: bool = False) -> str:
    """A number with a fixed number of decimals, for columns that are compared; a dash for nan and None.

    >>> fixed(0.0412), fixed(-0.5, 1), fixed(0.05, 2, signed=True), fixed(-0.01, 1), fixed(float("nan"))
    ('0.041', '−0.5', '+0.05', '0.0', '–')
    """
    if value is None or missing(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{places}f}"
    if float(text) == 0:
        return text.removeprefix("-")
    return _sign(text, positive=signed and value > 0)


def span(low: float | None, high: float | None, places: int = 3, *, signed: bool = False) -> str:
    """The text of an interval; a dash when an end is missing.

    >>> span(0.011, 0.05), span(float("nan"), 1.0)
    ('0.011 to 0.050', '–')
    """
    if missing(low) or missing(high):
        return NOTHING
    return f"{fixed(low, places, signed=signed)} to {fixed(high, places, signed=signed)}"


def with_ends(value: float, low: float, high: float) -> str:
    """A value in words with its interval, alone where it has none.

    >>> with_ends(0.5, 0.25, 0.75), with_ends(2, float("nan"), 1.0)
    ('0.500 (0.250 to 0.750)', '2')
    """
    ends = "" if missing(low) or missing(high) else f" ({number(low)} to {number(high)})"
    return number(value) + ends


def spans(low: Iterable[float], high: Iterable[float], places: int = 3, *, signed: bool = False) -> list[str]:
    """The intervals of a column, see `span`.

    >>> spans([0.0, 0.2], [0.5, float("nan")], 1)
    ['0.0 to 0.5', '–']
    """
    return [span(*ends, places, signed=signed) for ends in zip(low, high, strict=True)]


def estimate(value: float, low: float, high: float, places: int = 3, *, signed: bool = False) -> str:
    """A value with its interval in brackets, in ASCII, for a line of a terminal; alone where it has no interval.

    >>> estimate(-0.194, -0.222, -0.166, signed=True), estimate(0.5, float("nan"), 1.0, 1)
    ('-0.194 [-0.222, -0.166]', '0.5')
    """
    ends = (
        ""
        if missing(low) or missing(high)
        else ", ".join(fixed(end, places, signed=signed) for end in (low, high))
    )
    text = fixed(value, places, signed=signed) + (f" [{ends}]" if ends else "")
    return text.replace("−", "-").replace(NOTHING, "-")


def _sign(text: str, *, positive: bool) -> str:
    return ("+" if positive else "") + text.replace("-", "−")


def printable(name: object) -> str:
    """The name on one line, with characters that XML or a terminal cannot carry replaced by �.

    >>> printable("a\\x00b\\nc")
    'a�b c'
    """
    one_line = " ".join(str(name).split())
    return "".join(letter if letter.isprintable() else "�" for letter in one_line)


def short(name: str, width: int = 18) -> str:
    """The name in at most `width` characters: its two ends around an ellipsis.

    >>> short("instruction-following-v2-final", 12)
    'instru…final'
    """
    clean = printable(name)
    if len(clean) <= width:
        return clean
    tail = (width - 1) // 2
    return clean[: width - 1 - tail] + "…" + (clean[-tail:] if tail else "")


def short_names(names: Sequence[str], width: int = 18) -> list[str]:
    """Each name in at most `width` characters, still different from the others.

    >>> short_names(["a" * 40, "a" * 41], 8)
    ['aaaa…aaa', 'aaaa…a~2']
    """
    taken: dict[str, str] = {}
    for name in dict.fromkeys(names):
        candidate, number = short(name, width), 1
        while candidate in taken.values():
            number += 1
            ending = f"~{number}"
            candidate = short(name, width)[: width - len(ending)] + ending
        taken[name] = candidate
    return [taken[name] for name in names]


def from_zero(low: float, high: float) -> str:
    """The verdict of a difference's interval: above zero, below it, or neither.

    >>> from_zero(0.1, 0.3), from_zero(-0.1, 0.3), from_zero(float("nan"), 0.3)
    ('distinguishable from 0', 'not distinguishable from 0', 'without an interval')
    """
    if math.isnan(low) or math.isnan(high):
        return "without an interval"
    return "distinguishable from 0" if low > 0 or high < 0 else "not distinguishable from 0"
