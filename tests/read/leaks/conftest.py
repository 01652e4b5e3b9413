"""Quick classifiers for tests of what is around them."""

from __future__ import annotations

import pytest

from quick_leaks import quick_baseline, quick_leak
from trimtab.read.leaks import cells


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are measured by `quick_leak`, which takes the features of a baseline."""
    monkeypatch.setattr(cells, "estimate_leak", quick_leak)
    monkeypatch.setattr(cells, "fit_baseline", quick_baseline)
