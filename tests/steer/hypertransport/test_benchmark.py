"""The benchmark of HyperTransport: rules of verdicts on made-up evidence, and a page that says what the result says."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks" / "hypertransport"
SPLITS = ("held_values", "held_combinations")
CONCEPTS = 12
FILES = ("kept", "world", "methods", "measures", "claims", "gather", "table")


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The benchmark's files by name; they import each other as scripts do."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        for name in (*FILES, "pieces", "plan", "run", "language"):  # the last are only imported
            spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            found[name] = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, found[name])
            spec.loader.exec_module(found[name])
        yield found


def flat(concept: float, fidelity: float = 0.9) -> list[dict[str, float]]:
    """A curve that is the same at every strength."""
    return [
        {"strength": s, "concept": concept, "values": {"colour": concept}}
        | {"whole": 0.0, "input": fidelity, "distance": 0.1}
        for s in (0.5, 1.0, 2.0)
    ]


def run(modules: dict[str, ModuleType], seed: int, nearest: float) -> dict[str, Any]:
    """Records of a seed in which every concept has the same curves, but for what falls with novelty."""
    names = modules["methods"]
    levels = {
        names.HYPER: (0.8, 0.9),
        names.HYPER_2: (0.7, 0.95),
        names.HYPER_FEW: (0.75, 0.9),
        names.RIDGE: (0.8, 0.9),
        names.RIDGE_FEW: (0.6, 0.9),
        names.NEAREST: (nearest, 0.9),
        names.MEAN: (0.3, 0.9),
        names.LINEAS: (0.82, 0.9),
        names.LINEAS_SHORT: (0.4, 0.9),
        names.LINEAS_ALIKE: (0.9, 0.9),
        names.REFINED: (0.5, 0.9),
        names.PROMPTING: (0.95, 0.99),
        names.UNSTEERED: (0.1, 0.9),
    }

    def record(place: int, split: str, curves: dict[str, Any]) -> dict[str, Any]:
        about = {"concept": f"{split} {place}", "split": split, "novelty": place / 10, "usual": 0.5}
        return about | {"curves": curves | {names.UNSTEERED: flat(0.1)[:1]}}

    def records(curves: Any) -> list[dict[str, Any]]:
        return [record(place, split, curves(place)) for split in SPLITS for place in range(CONCEPTS)]

    seen = {"1 texts": 0.5, "8 texts": 0.8, "1 pictures": 0.42, "8 pictures": 0.78}
    timed = [{names.HYPER: 0.0, names.LINEAS: seconds} for seconds in (0.5, 1.5)]
    return {
        "seed": seed,
        "concepts": [300, 2 * CONCEPTS],
        "planes": records(lambda _: {name: flat(*level) for name, level in levels.items()}),
        "conditions": records(lambda _: {name: flat(level) for name, level in seen.items()}),
        "counts": records(lambda _: {"8": flat(0.4), "32": flat(0.6), "128": flat(0.6)}),
        "novelty": records(lambda place: {names.HYPER: flat(0.9 - place / 50)}),
        "seconds": [{"concept": "one", "seconds": one, "training": 100.0} for one in timed],
    }


@pytest.fixture(scope="module")
def found(modules: dict[str, ModuleType]) -> dict[str, Any]:
    runs = [run(modules, 0, nearest=0.5), run(modules, 1, nearest=0.85)]
    gathered: dict[str, Any] = modules["gather"].gathered(
        runs, modules["methods"].Chosen(), modules["world"].FULL
    )
    return gathered


def test_verdicts_of_made_up_runs(found: dict[str, Any]) -> None:
    assert {one["claim"]: one["verdict"] for one in found["verdicts"]} == {
        "mean": "held",
        "nearest": "partly",
        "ridge": "open",
        "end to end": "held",
        "lineas": "held",
        "p concept": "held",
        "p input": "held",
        "novelty": "held",
        "pictures": "partly",
        "conditions": "held",
        "counts": "partly",
        "break even": "held",
        "prompting input": "held",
        "prompting concept": "did not hold",
        "refined": "did not hold",
        "start": "held",
        "same scenes": "held",
    }
    paying = found["evidence"]["break even"][
        0
    ]  # 100 + n * 0 < n * 1, and of the quicker and the slower concept
    assert [paying[end] for end in ("value", "low", "high", "n")] == [101, 67, 201, 2]
    assert found["overall"]["nearest"]["value"] == pytest.approx((0.3 - 0.05) / 2)
    assert found["overall"]["nearest"]["n"] == 2 * 2 * CONCEPTS
    colours = {one["method"]: one["concept"] for one in found["attributes"] if one["attribute"] == "colour"}
    assert [colours[name]["value"] for name in ("LinEAS", "unsteered")] == pytest.approx([0.82, 0.1])
    assert colours["LinEAS"]["n"] == 2 * 2 * CONCEPTS
    assert [one["value"] for one in found["evidence"]["novelty"]] == pytest.approx([-1, -1])


def test_what_is_not_measured_has_no_verdict(modules: dict[str, ModuleType]) -> None:
    assert {one["verdict"] for one in modules["claims"].judged({})} == {"not measured"}


def test_open_is_neither_above_nor_below(modules: dict[str, ModuleType]) -> None:
    claims = modules["claims"]
    wide = [{"value": 0.0, "low": -0.1, "high": 0.1}]
    assert [rule(wide) for rule in (claims.above, claims.below, claims.not_worse)] == [claims.OPEN] * 3


def test_equal_input_is_the_best_before_the_budget_is_spent(modules: dict[str, ModuleType]) -> None:
    measures = modules["measures"]
    start = {"input": 0.9, "concept": 0.0}
    line = [{"input": 0.9, "concept": 0.6}, {"input": 0.88, "concept": 0.4}, {"input": 0.5, "concept": 1.0}]
    assert measures.at_budget(line, start) == 0.6  # carried on, the concept is lost before the input is
    steep = [{"input": 0.8, "concept": 1.0}]
    assert math.isclose(measures.at_budget(steep, start), 0.5)  # half of the way costs .05
    assert measures.at_budget([{"input": 0.1, "concept": 0.0}], {"input": 0.9, "concept": 0.3}) == 0.3


def test_a_kept_piece_is_made_anew_for_another_question(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    kept, path = modules["kept"].kept, tmp_path / "piece.json"
    assert kept(path, ("a", 1), lambda: [1, 2]) == [1, 2]
    assert kept(path, ("a", 1), lambda: pytest.fail("made again")) == [1, 2]
    assert kept(path, ("a", 2), lambda: {"x": (3,)}) == {"x": [3]}


def test_the_page_says_which_means_of_few_have_a_bootstrap(
    modules: dict[str, ModuleType], found: dict[str, Any]
) -> None:
    """A result made today has Student's intervals there; an older one, which does not say so, had bootstraps."""
    told = " ".join(modules["table"].page({**found, "interval": None}, None).split())
    assert f"Those over few (n = 2 and {CONCEPTS}) are percentile bootstraps" in told
    assert "percentile bootstraps" not in modules["table"].page(found, None)
    one = found["evidence"]["mean"][0]
    assert one["low"] + one["high"] == pytest.approx(2 * one["value"])


def test_the_page_says_verdicts_and_parameters(modules: dict[str, ModuleType], found: dict[str, Any]) -> None:
    text = modules["table"].page(found, None)
    assert "| it does better than the mean map on concepts it never saw | ours |" in text
    assert text.count("**partly**") == 3
    assert "| U-Net of DMD2 | 256 | 5.31 M | 5.9 M |" in text
    assert "| Nitro-1-PixArt | 56 | 4.54 M | 4.7 M |" in text
    assert modules["table"].figure(found).startswith("<svg")
