from __future__ import annotations

import pytest

import tiny_generator as tiny
from trimtab.steer.hypertransport.fitted import FittedHyperTransport
from trimtab.steer.hypertransport.network import Sizes


@pytest.fixture(scope="session")
def trained() -> FittedHyperTransport:
    """Trained on all pairs of a style and a thing but three."""
    hyper = tiny.settings(steps=200, sizes=Sizes(hidden=128))
    return hyper.fit(tiny.handle(), tiny.concepts(), tiny.source())
