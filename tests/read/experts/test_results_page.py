"""The page of results of ExpertLens: verdicts, words and numbers follow the result files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_1samp

from benchmark_scripts import BENCHMARKS, scripts

RESULTS = BENCHMARKS / "results" / "experts"
FILES = ("minilm", "minilm-differences", "minilm-nouns-48", "causal")
FIRST, CENTRED = "experts with AP above 0.5, Jaccard", "mean sentence embedding, centred"


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    names = ("claims", "page", "pages")
    with scripts("experts", *names) as found:
        yield dict(zip(names, found, strict=True))


@pytest.fixture
def files() -> dict[str, Any]:
    return {name: json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in FILES}


def row_of(table: list[dict[str, Any]], name: str, ratings: str = "men") -> dict[str, Any]:
    (row,) = [one for one in table if (one["row"], one["ratings"]) == (name, ratings)]
    return row


def gap_of(files: dict[str, Any], against: str, ratings: str = "men", row: str = FIRST) -> dict[str, Any]:
    every = files["minilm-differences"]["differences"]
    (gap,) = [one for one in every if (one["row"], one["against"], one["ratings"]) == (row, against, ratings)]
    return gap


def verdict(modules: dict[str, ModuleType], files: dict[str, Any], start: str) -> Any:
    every = modules["claims"].judged(files["minilm"], files["minilm-differences"], files["causal"])
    (claim,) = [one for one in every if one.text.startswith(start)]
    return claim


@pytest.mark.parametrize(("low", "high", "told"), [(0.6, 0.75, "held"), (0.8, 0.9, "did not hold")])
def test_rho_on_men_is_held_against_the_range_of_the_paper(
    modules: dict[str, ModuleType], files: dict[str, Any], low: float, high: float, told: str
) -> None:
    row_of(files["minilm"]["table"], FIRST).update(low=low, high=high, rho=(low + high) / 2, n_concepts=33)
    found = verdict(modules, files, "on MEN the overlap")
    assert found.verdict == told
    assert found.measured.endswith(f"[{low:.2f}, {high:.2f}], n = 33 words")


def test_differences_decide_the_claims_about_baselines(
    modules: dict[str, ModuleType], files: dict[str, Any]
) -> None:
    words, embeddings = (
        "experts agree more with people than shared",
        "experts agree more with people than emb",
    )
    assert verdict(modules, files, words).verdict == "partly"
    gap_of(files, "shared words (TF-IDF centroids)", "simlex999").update(low=0.01)
    assert verdict(modules, files, words).verdict == "held"
    gap_of(files, "shared words (TF-IDF centroids)", "simlex999").update(low=0.0004)  # 0 at three decimals
    assert verdict(modules, files, words).verdict == "partly"
    told = "above zero in 0 of 8, below in 4: -0.17 [-0.32, -0.02], n = 216 to -0.05 [-0.13, +0.02], n = 146"
    assert verdict(modules, files, embeddings).measured == told
    gap_of(files, CENTRED).update(difference=0.2, low=0.1, high=0.3)
    found = verdict(modules, files, embeddings)
    assert found.verdict == "partly"
    assert found.measured.startswith("above zero in 1 of 8, below in 3: ")
    assert found.measured.endswith(" to +0.20 [+0.10, +0.30], n = 146")


def test_a_control_that_agrees_and_permuted_labels_with_experts_are_told(
    modules: dict[str, ModuleType], files: dict[str, Any]
) -> None:
    assert verdict(modules, files, "controls").measured == "it does in 6 of 8"
    for name in ("random weights, experts", "concept word masked, experts"):
        row_of(files["minilm"]["table"], name).update(low=-0.1)
    assert verdict(modules, files, "controls").verdict == "held"
    told = "\n".join(modules["page"].controls(files["minilm"]))
    assert "excludes zero" not in told
    rate = "at a false discovery rate"
    assert verdict(modules, files, rate).verdict == "held"
    files["minilm"]["facts"]["permuted_with_any_expert"].update(value=0.2, low=0.1, high=0.3)
    assert verdict(modules, files, rate).verdict == "did not hold"


@pytest.mark.parametrize(
    ("ends", "embedding", "told"),
    [
        ((0.6, 0.71), (0.1, 0.2), ("held", "held")),
        ((0.5, 0.69), (-0.1, 0.2), ("did not hold", "did not hold")),
    ],
)
def test_the_claims_about_a_real_language_model(
    modules: dict[str, ModuleType],
    ends: tuple[float, float],
    embedding: tuple[float, float],
    told: tuple[str, str],
) -> None:
    rho = {"rho": 0.65, "low": ends[0], "high": ends[1], "n_concepts": 33}
    gap = {"row": FIRST, "ratings": "men", "difference": 0.1, "n_concepts": 33}
    found = {
        "settings": {"tau": 0.5},
        "table": [{"row": FIRST, "role": "experts", "ratings": "men", **rho}],
        "differences": [
            {**gap, "against": CENTRED, "low": embedding[0], "high": embedding[1]},
            {**gap, "against": modules["claims"].WORDS, "low": -0.3, "high": -0.2},
        ],
    }
    claims = list(modules["claims"].of_language_model(found))
    assert tuple(claim.verdict for claim in claims) == told
    assert claims[1].measured.startswith(f"less {CENTRED} +0.10 [")
    assert modules["claims"].WORDS not in claims[1].measured
    assert list(modules["claims"].of_language_model(None)) == []


def test_the_cost_of_a_run_names_its_cpu_time_where_it_is_known(modules: dict[str, ModuleType]) -> None:
    found = {"wall_s": 600, "cpu_s": 240, "threads": {"torch": 1}, "load_average_at_the_end": [3.14, 2, 1]}
    told = "It took 10 minutes of a machine with a load of 3.1, and 4 minutes of CPU time on 1 thread"
    assert modules["page"].cost_of(found) == told
    assert modules["page"].cost_of(found | {"cpu_s": None}) == "It took 10 minutes"


@pytest.mark.parametrize(
    ("start", "way", "difference", "told"),
    [
        ("to force", "step 320, force", {"low": -0.1}, "partly"),
        ("to silence", "step 320, silence", {"low": 0.1, "high": 0.2}, "partly"),
        ("with random weights", "step 0, force", {"low": 0.1, "high": 0.2}, "partly"),
    ],
)
def test_effects_decide_their_claims(
    modules: dict[str, ModuleType],
    files: dict[str, Any],
    start: str,
    way: str,
    difference: dict[str, float],
    told: str,
) -> None:
    assert verdict(modules, files, start).verdict == "held"
    files["causal"]["effects"][way]["means"]["experts - random"].update(difference)
    assert verdict(modules, files, start).verdict == told


def test_effects_over_topics_have_students_intervals(files: dict[str, Any]) -> None:
    with scripts("experts", "causal") as (causal,):
        for effect in files["causal"]["effects"].values():
            made = causal.over_topics(effect["topics"])
            assert list(made) == list(effect["means"])
            for name, told in effect["means"].items():
                assert told == pytest.approx(made[name])
                gaps = [
                    row["experts"] - row[name.removeprefix("experts - ")] if " - " in name else row[name]
                    for row in effect["topics"]
                ]
                ends = ttest_1samp(gaps, 0.0).confidence_interval(0.95)
                assert (told["low"], told["high"]) == pytest.approx((ends.low, ends.high))


def test_overlap_that_follows_topics_before_training_is_no_learning(
    modules: dict[str, ModuleType], files: dict[str, Any]
) -> None:
    start = "the overlap of a causal model"
    assert verdict(modules, files, start).verdict == "held"
    files["causal"]["alignment"][0]["AP above 0.5"].update(low=0.1, high=0.2)
    assert verdict(modules, files, start).verdict == "partly"


def test_words_beside_differences_follow_their_intervals(
    modules: dict[str, ModuleType], files: dict[str, Any]
) -> None:
    def told() -> str:
        return "\n".join(modules["page"].beside(files["minilm"], files["minilm-differences"]))

    assert f"below {CENTRED} and mean sentence embedding, standardised" in told()
    assert "In 4 of the 5 of these" in told()
    gap_of(files, CENTRED).update(high=0.01)
    gap_of(files, CENTRED, "simlex999").update(high=0.01)
    assert f"below {CENTRED}" not in told()
    assert "In 2 of the 3 of these" in told()
    assert "seen after looking, is *200 best experts, Jaccard*" in told()
    row_of(files["minilm-differences"]["rows"], FIRST)["rho"] = 0.9
    assert "seen after looking" not in told()


@pytest.mark.parametrize(("nouns", "topics"), [(80, 8), (60, 4)])
def test_the_cap_is_rho_of_a_perfect_order(modules: dict[str, ModuleType], nouns: int, topics: int) -> None:
    topic = np.repeat(np.arange(topics), nouns // topics)
    first, second = np.triu_indices(nouns, 1)
    same = topic[first] == topic[second]
    order = same + np.linspace(0, 0.5, len(same))  # each pair of one topic above each of two, without ties
    assert modules["page"].cap(nouns, topics) == pytest.approx(spearmanr(same, order).statistic, abs=1e-5)


def test_ranges_and_counts_are_those_of_the_file(
    modules: dict[str, ModuleType], files: dict[str, Any]
) -> None:
    experts = [
        row["rho"] for row in files["minilm"]["table"] if (row["role"], row["ratings"]) == ("experts", "men")
    ]
    told = " ".join("\n".join(modules["page"].agreement(files["minilm"])).split())
    assert f"the {len(experts)} rows of experts lie between {min(experts):.2f} and {max(experts):.2f}" in told
    assert "MEN (n = 146 words, 296 pairs)" in told


def test_the_page_says_what_there_is(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = modules["page"].page()
    shutil.copytree(RESULTS, tmp_path / "experts")
    monkeypatch.setattr(modules["pages"], "RESULTS", tmp_path)
    assert modules["page"].page() == whole
    for name, told in {
        "smollm2": "## What does a real language model say?",
        "causal": "## Do experts of a causal model",
        "minilm-differences": "## Do experts agree more",
        "minilm-nouns-48": "## Do other sentences",
    }.items():
        (tmp_path / "experts" / f"{name}.json").unlink()
        assert told in whole
        assert told not in modules["page"].page()
    assert "experts agree more with people" not in modules["page"].page()
    assert "causal language model" not in modules["page"].page()
    (tmp_path / "experts" / "minilm.json").unlink()
    with pytest.raises(SystemExit, match=r"minilm\.json is missing: run run\.py first"):
        modules["page"].page()
