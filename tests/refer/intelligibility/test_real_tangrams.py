"""Real people and models on tangrams: what the data's page says comes out; skipped where the data is not there."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

DATA = Path(os.environ.get("TRIMTAB_DATA", ""))
BENCHMARKS = Path(__file__).parents[3] / "benchmarks" / "intelligibility"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(
        not (DATA / "tangrams" / "choices.csv.gz").is_file(),
        reason="TRIMTAB_DATA names no folder with the tangrams",
    ),
]


def test_the_anchors_come_out_within_intervals_of_games(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("intelligibility_tangrams", BENCHMARKS / "tangrams.py")
    assert spec is not None
    assert spec.loader is not None
    tangrams = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tangrams
    spec.loader.exec_module(tangrams)
    found = tangrams.tables(DATA)
    blocks, read = tangrams.every_choice(found, 200), tangrams.readers(found, 200)
    alone = tangrams.models(found, 200)["no_context"]
    rows = tangrams.anchors(blocks, read, alone)
    assert [row["anchor"] for row in rows if not row["agrees"]] == []
    first, last = blocks.iloc[0], blocks.iloc[-1]
    # The data's page gives .787 to .822 and .941 to .965, over games.
    assert first["low"] == pytest.approx(0.787, abs=0.006)
    assert first["high"] == pytest.approx(0.822, abs=0.006)
    assert last["low"] == pytest.approx(0.941, abs=0.006)
    assert last["high"] == pytest.approx(0.965, abs=0.006)
    shuffled = alone.controls[alone.controls["control"] == "shuffled captions"]["accuracy"]
    assert (shuffled.to_numpy() < alone.accuracy["accuracy"].to_numpy()).all()
