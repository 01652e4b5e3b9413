"""Regular expressions that others wrote: refused where searching a name could take longer than anyone waits.

Python's matcher tries one way after another, and a name that does not match makes it try all. `(a+)+$` has 2^n ways to
read n letters. So the ways of an expression are bounded from its structure before it is used, and names have at most
`NAME_LIMIT` characters.
"""

from __future__ import annotations

import importlib
import math
import re
import warnings
from functools import lru_cache
from typing import Any

from trimtab.errors import DataError, explain

NAME_LIMIT = 500
"""Characters that a name may have."""
WAYS_LIMIT = 2e8
"""Steps of a search at worst: a second or so, and only for a name made for the purpose."""
_FLAGS = re.compile(r"\s*\(\?[aiLmsux]+\)")
_NEVER = "\x00\x01\x02"
_TREE: Any = importlib.import_module("re._parser")


@lru_cache(maxsize=10_000)
def compiled(expression: str) -> re.Pattern[str]:
    """The expression, any case.

    Raises:
        DataError: it is no regular expression, sets flags, matches everything, or may try too many ways (one repetition
            within another, as in `(a+)+`, or several long ones after each other).

    >>> bool(compiled(r"\\bski+er").search("SKIIER"))
    True
    >>> compiled("[")
    Traceback (most recent call last):
    trimtab.errors.DataError: got '[', expected a regular expression (unterminated character set at position 0)
    """
    try:
        with warnings.catch_warnings():
            # Of sets that other dialects have and Python's reads otherwise, as [[:alpha:]].
            warnings.simplefilter("error", FutureWarning)
            pattern = re.compile(expression, re.IGNORECASE)
            ways = _ways(_TREE.parse(expression, re.IGNORECASE))
    except (re.error, FutureWarning, RecursionError, OverflowError, MemoryError) as raised:
        reason = str(raised) or type(raised).__name__
        got = f"{expression!r:.80}"
        raise DataError(explain(got, f"a regular expression ({reason})")) from None
    if _FLAGS.match(expression):
        got = f"{expression!r:.80}, which sets flags for a whole list"
        raise DataError(
            explain(got, "an expression without them", "leaving (?i) out: any case is the default")
        )
    anchored = expression.startswith("^") and "|" not in expression
    starts = 1 if anchored else NAME_LIMIT
    if starts * ways > WAYS_LIMIT:
        got = f"{expression!r:.80}, which could take for ever on a name that does not match"
        raise DataError(
            explain(
                got, "an expression without a repetition in a repetition", "simpler ones, each on its own"
            )
        )
    if pattern.search("") or pattern.search(_NEVER):
        raise DataError(explain(f"{expression!r:.80}", "an expression that does not match everything"))
    return pattern


def _ways(tree: Any) -> float:
    """How many ways there are, at most, to match a name of the greatest length from one place."""
    ways = 1.0
    for operation, argument in tree:
        ways *= _ways_of(str(operation), argument)
    return ways


def _ways_of(operation: str, argument: Any) -> float:
    if operation in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, inside = argument
        return _repeated(int(least), min(int(most), NAME_LIMIT), _ways(inside))
    if operation == "BRANCH":
        return _alternatives(argument[1])
    if operation == "SUBPATTERN":
        return _ways(argument[-1])
    if operation in ("ASSERT", "ASSERT_NOT"):
        return _ways(argument[1])
    if operation == "ATOMIC_GROUP":
        return _ways(argument)
    if operation == "GROUPREF_EXISTS":
        return sum(_ways(one) for one in argument[1:] if one is not None)
    return 1.0


def _repeated(least: int, most: int, inside: float) -> float:
    """The sum of inside^k over the numbers of repetitions."""
    if inside <= 1.0:
        return float(max(most - least + 1, 1))
    if most * math.log(inside) > math.log(1e12):
        return math.inf
    return sum(inside**k for k in range(least, most + 1))


def _alternatives(branches: list[Any]) -> float:
    """Alternatives that begin with different letters exclude each other: only one is tried to its end."""
    firsts = [_first(one) for one in branches]
    ways = [_ways(one) for one in branches]
    if None not in firsts and len(set(firsts)) == len(firsts):
        return max(ways)
    return sum(ways)


def _first(tree: Any) -> str | None:
    """The letter that a match begins with, in lower case; None where it may be several."""
    for operation, argument in tree:
        if str(operation) == "LITERAL":
            return chr(argument).lower()
        if str(operation) == "SUBPATTERN":
            return _first(argument[-1])
        if str(operation) not in ("AT", "ASSERT", "ASSERT_NOT"):
            return None
    return None
