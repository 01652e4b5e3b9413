"""Anchors of a page: what each section, table and drawing is linked to by, the same whenever the page is made again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trimtab.report.formats import printable

_LONGEST = 48
"""Characters of one title in an anchor, at most."""


class Titled(Protocol):
    """A section: a title and what stands below it."""

    @property
    def title(self) -> str:
        """Its heading."""
        ...

    @property
    def blocks(self) -> Sequence[Any]:
        """Its blocks."""
        ...


@dataclass(frozen=True)
class Placed:
    """A block of a page with its anchor.

    Attributes:
        block: a section, a table, a drawing, several drawings or a text.
        anchor: its id in the page; empty for a text.
        inside: the blocks of a section, or the drawings of a gallery.
    """

    block: Any
    anchor: str = ""
    inside: tuple[Placed, ...] = ()

    @property
    def sections(self) -> list[Placed]:
        """The sections inside, one level down."""
        return [one for one in self.inside if hasattr(one.block, "blocks")]


def placed(sections: Sequence[Titled], within: str = "") -> list[Placed]:
    """Sections with the anchors of all that they hold: titles from the outermost to the innermost, joined by points.

    A drawing or a table is counted within its section. An anchor holds a to z, digits, hyphens and points only.

    >>> from trimtab.report.page import Section, Text
    >>> [one.anchor for one in placed([Section("Losses, in nats", [Text("None.")]), Section("Losses, in nats", [])])]
    ['losses-in-nats', 'losses-in-nats-2']
    """
    taken: Counter[str] = Counter()
    found = []
    for section in sections:
        anchor = _free(within + slug(section.title), taken)
        found.append(Placed(section, anchor, tuple(_inside(section.blocks, anchor))))
    return found


def slug(title: str) -> str:
    """The title as part of an address.

    >>> slug("What the solver said"), slug("数据")
    ('what-the-solver-said', 'section')
    """
    return re.sub(r"[^a-z0-9]+", "-", printable(title).lower())[:_LONGEST].strip("-") or "section"


def _free(anchor: str, taken: Counter[str]) -> str:
    """The anchor, with a number where it is taken."""
    taken[anchor] += 1
    if taken[anchor] == 1:
        return anchor
    return _free(f"{anchor}-{taken[anchor]}", taken)


def _inside(blocks: Sequence[Any], within: str) -> list[Placed]:
    inner = iter(placed([block for block in blocks if hasattr(block, "blocks")], f"{within}."))
    counts: Counter[str] = Counter()

    def numbered(kind: str) -> str:
        counts[kind] += 1
        return f"{within}.{kind}-{counts[kind]}"

    found = []
    for block in blocks:
        if hasattr(block, "blocks"):
            found.append(next(inner))
        elif hasattr(block, "pictures"):
            drawings = [Placed(one, numbered("drawing")) for one in block.pictures]
            found.append(Placed(block, "", tuple(drawings)))
        elif hasattr(block, "svg"):
            found.append(Placed(block, numbered("drawing")))
        else:
            found.append(Placed(block, numbered("table") if hasattr(block, "frame") else ""))
    return found
