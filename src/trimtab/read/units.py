"""Which unit is which: sites side by side, numbered through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int


@dataclass(frozen=True)
class Units:
    """Units of several sites, numbered through in the order of the sites.

    Attributes:
        sites: their names.
        widths: units of each.
    """

    sites: tuple[str, ...]
    widths: tuple[int, ...]

    def __len__(self) -> int:
        """How many units there are.

        >>> len(Units(("a:out", "b:out"), (2, 3)))
        5
        """
        return sum(self.widths)

    @property
    def starts(self) -> Int[np.ndarray, " sites"]:
        """The number of each site's first unit."""
        return np.cumsum([0, *self.widths[:-1]])

    @property
    def site_numbers(self) -> Int[np.ndarray, " units"]:
        """For each unit, the place of its site."""
        return np.repeat(np.arange(len(self.sites)), self.widths)

    def named(self, units: Int[np.ndarray, " n"]) -> pd.DataFrame:
        """Site and number within the site: columns site, unit.

        >>> Units(("a:out", "b:out"), (2, 3)).named(np.array([4, 0])).values.tolist()
        [['b:out', 2], ['a:out', 0]]
        """
        owners = self.site_numbers[units]
        names = [self.sites[owner] for owner in owners]
        return pd.DataFrame({"site": names, "unit": units - self.starts[owners]})

    def by_site(self, units: Int[np.ndarray, " n"]) -> Mapping[str, Sequence[int]]:
        """Site -> numbers of units within it, for sites that have any."""
        frame = self.named(units)
        return {str(site): part["unit"].tolist() for site, part in frame.groupby("site", sort=False)}
