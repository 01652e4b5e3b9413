"""The page of results of lexicons: rules on made-up intervals, sentences that change with them, missing files."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from benchmark_scripts import scripts

with scripts("names", "lexicon_page") as found_scripts:
    (PAGE,) = found_scripts
FILES = PAGE.files()


@pytest.fixture
def found() -> dict[str, Any]:
    """The result files, to be changed."""
    return copy.deepcopy(FILES)


def verdict(found: dict[str, Any], claim: str) -> str:
    """The last cell of the claim's row."""
    row = next(line for line in PAGE.page(found).splitlines() if line.startswith(f"| {claim}"))
    return row.rpartition("**")[0].rpartition("**")[2]


def difference(low: float, high: float) -> dict[str, float]:
    return {"difference": (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ([(0.1, 0.2), (0.1, 0.3)], "held"),
        ([(0.1, 0.2), (-0.1, 0.3)], "partly"),
        ([(0.1, 0.2), (-0.3, -0.1)], "open"),  # the sign depends on the setting
        ([(-0.1, 0.2)], "open"),
        ([(-0.1, 0.2), (-0.2, -0.1)], "did not hold"),
        ([(0.0, 0.2)], "open"),  # an interval that touches zero tells nothing
        ([], "not measured"),
    ],
)
def test_a_difference_is_judged_by_all_settings(ends: list[tuple[float, float]], told: str) -> None:
    assert PAGE.settled([PAGE.side(difference(*one)) for one in ends]) == told


def lexicon(success: float, bits: float, half: float = 0.01) -> dict[str, float]:
    return {
        "success": success,
        "success_low": success - half,
        "success_high": success + half,
        "info_bits": bits,
        "info_low": bits - half,
        "info_high": bits + half,
    }


@pytest.mark.parametrize(
    ("soft", "told"),
    [
        (lexicon(0.7, 2.0), "held"),
        (lexicon(0.7, 4.0), "did not hold"),  # more bits than hard words
        (lexicon(0.61, 2.0), "open"),  # meets the interval of hard words
        (lexicon(0.5, 2.0), "did not hold"),
        (lexicon(0.7, 3.0), "open"),  # as many bits as hard words
    ],
)
def test_soft_words_are_judged_by_success_and_bits(soft: dict[str, float], told: str) -> None:
    shapes = {"soft": soft, "hard": lexicon(0.6, 3.0), "nested": lexicon(0.55, 1.0)}
    assert PAGE.best_for_bits(shapes) == told


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        (["held", "held"], "held"),
        (["held", "did not hold"], "partly"),
        (["open", "did not hold"], "did not hold"),
        (["open", "open"], "open"),
        ([], "not measured"),
    ],
)
def test_a_claim_about_sizes_is_judged_by_each(sizes: list[str], told: str) -> None:
    assert PAGE.over_sizes(sizes) == told


def test_close_contexts_are_open_until_every_setting_has_one_sign(found: dict[str, Any]) -> None:
    assert verdict(found, "close contexts") == "open"
    assert "cannot be told from such a table" in PAGE.page(found)
    for row in found["chinese"]["over_cells"]:
        row.update(difference(0.1, 0.2), n_clusters=7)
    text = PAGE.page(found)
    assert "16 above zero, 0 below, n = 7 games | **held** |" in text
    assert "cannot be told from such a table" not in text
    assert "above zero at 12, 48, 96, 192 cells" in " ".join(text.split())
    assert "Finer cells" not in text  # means are all alike


def test_turned_words_are_judged_by_their_interval_and_n(found: dict[str, Any]) -> None:
    claim = "colour lexicons lie nearer"
    assert verdict(found, claim) == "held"
    found["wcs"]["summary"]["turned_less_own"] = {"value": -0.2, "low": -0.3, "high": -0.1, "n": 9}
    assert verdict(found, claim) == "did not hold"
    assert "-0.200 [-0.300, -0.100], n = 9 languages" in PAGE.page(found)


def test_success_is_compared_with_the_published_digits(found: dict[str, Any]) -> None:
    assert verdict(found, "success in context") == "held"
    found["chinese"]["success"][0]["success"] = 0.92
    assert verdict(found, "success in context") == "partly"
    assert "2 of 3 are equal to the digits published" in PAGE.page(found)


def test_messages_that_are_set_aside_are_compared_by_the_interval(found: dict[str, Any]) -> None:
    assert "**more often in close contexts**" in PAGE.page(found)
    gap = next(row for row in found["chinese"]["set_aside"] if row["context"] == "hard less easy")
    gap.update(low=-0.2, high=-0.1)
    assert "**less often in close contexts**" in PAGE.page(found)
    gap.update(low=-0.2, high=0.1)
    assert "often in close contexts" not in PAGE.page(found)


def test_shapes_are_told_apart_by_their_intervals(found: dict[str, Any]) -> None:
    text = " ".join(PAGE.page(found).split())
    assert "less often with 6 words; not told apart with 14 words; more often with 30 words." in text
    for row in found["wcs"]["simulated"]:
        row.update(lexicon(0.8 if row["shape"] == "soft" else 0.6, 2.0))
    text = " ".join(PAGE.page(found).split())
    assert "Soft words succeed, against hard ones: more often with 6, 14, 30 words." in text
    assert "They need fewer bits at 0 of 3 sizes." in text


def test_a_file_that_is_missing_leaves_its_sections_out(found: dict[str, Any]) -> None:
    text = PAGE.page(found | {"wcs": None})
    assert "World Color Survey**" not in text
    assert "Made lexicons**" not in text
    assert text.count("**not measured**") == 2
    nothing = PAGE.page({"chinese": None, "wcs": None})
    assert nothing.startswith("# Results: lexicons\n")
    assert nothing.count("**not measured**") == 4
    assert not re.search(r"\d\.\d", re.sub(r"`[^`]*`", "", nothing))
