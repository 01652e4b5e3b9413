"""Names that someone else chose, made safe and short enough to stand in a figure or a narrow column."""

from __future__ import annotations

from collections.abc import Sequence


def printable(name: str) -> str:
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
