"""Scores of 5,000 real captions: published values, the values of COCO's own programs, and the time they take."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest

from trimtab.refer.scores.scores import METEOR, caption_scores

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.slow,
]
RESULT = Path(__file__).parents[3] / "benchmarks/results/captions/scores.json"


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return json.loads(RESULT.read_text(encoding="utf-8"))


@pytest.fixture
def rows(real_data: Path) -> list[dict[str, Any]]:
    with gzip.open(real_data / "captions/coco_karpathy5k.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_clipcap_has_its_published_cider_and_the_bleu_of_cocos_program(
    rows: list[dict[str, Any]], measured: dict[str, Any]
) -> None:
    start = time.process_time()
    table = caption_scores([row["clipcap_coco"] for row in rows], [row["refs"] for row in rows])
    assert time.process_time() - start < 20
    value = table.set_index("score")["value"]
    assert value["CIDEr-D"] == pytest.approx(108.35, rel=0.01)
    peers = measured["peers"]["scores"]["clipcap_coco"]
    assert [value[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx(
        peers["bleu"]["pycocoevalcap"], rel=1e-7
    )
    assert value["CIDEr-D"] == pytest.approx(peers["cider_d"]["pycocoevalcap"], rel=1e-9)
    assert value["ROUGE-L"] == pytest.approx(peers["rouge_l"]["pycocoevalcap"], rel=1e-9)
    assert value[METEOR] == pytest.approx(peers["meteor_exact_stem"]["meteor_1.5"], rel=1e-3)


def test_shuffled_captions_score_near_nothing(rows: list[dict[str, Any]]) -> None:
    half = len(rows) // 2
    turned = [row["clipcap_coco"] for row in rows[half:] + rows[:half]]
    value = caption_scores(turned, [row["refs"] for row in rows], n_boot=1).set_index("score")["value"]
    assert value["CIDEr-D"] < 0.05 * 108.35
    assert value["BLEU-4"] < 0.15 * 32.15  # "a man riding a" is said of many pictures


def test_identical_captions_score_their_maximum(rows: list[dict[str, Any]]) -> None:
    first = [row["refs"][0] for row in rows]
    value = caption_scores(first, [[one] for one in first], n_boot=1).set_index("score")["value"]
    assert value[["BLEU-1", "BLEU-4", "ROUGE-L", METEOR]].tolist() == pytest.approx([100.0] * 4)
    assert value[["CIDEr", "CIDEr-D"]].tolist() == pytest.approx([1000.0] * 2, rel=1e-3)
