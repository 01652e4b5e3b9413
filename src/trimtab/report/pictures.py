"""Figures as blocks of a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trimtab.report.figures import to_svg
from trimtab.report.page import Gallery, Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def picture(figure: Figure, caption: str = "") -> Picture:
    """A figure as a block of a page."""
    return Picture(to_svg(figure), caption)


def gallery(figures: Sequence[Figure], caption: str = "", *, small: bool = False) -> Gallery:
    """Figures side by side with one caption."""
    return Gallery([picture(figure) for figure in figures], caption, small)
