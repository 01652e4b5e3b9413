"""Caption scores on real captions, and beside COCO's own programs in Java and aac-metrics where they run.

    OMP_NUM_THREADS=1 python benchmarks/captions/scores.py --data DIR --peers peers/bin/python

DIR holds captions/coco_karpathy5k.jsonl.gz and imagecode_valid_captions.jsonl.gz; `peers/bin/python` has the packages
that `scores_peers.py` names. Without `--peers` only our part is measured. Writes
benchmarks/results/captions/scores.json; `scores_page.py` prints it as tables.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.refer.scores.alignment import best_alignment, meteor
from trimtab.refer.scores.ngrams import bleu, bleu_statistics, cider
from trimtab.refer.scores.scores import caption_scores, item_scores
from trimtab.refer.scores.stems import stem
from trimtab.refer.scores.tokenisers import Tokeniser, ptb, words
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware
from trimtab.runs.serialise import to_json

RESULT = Path(__file__).parents[1] / "results" / "captions" / "scores.json"
SPEAKERS = ("clipcap_coco", "clipcap_conceptual")
PUBLISHED = {"CIDEr-D": 108.35, "BLEU-4": 32.15}
"""ClipCap (MLP and tuned GPT-2) on COCO's Karpathy test split: Mokady, Hertz, Bermano 2021, table 1."""
ROUNDS = 3


def spaced(text: str) -> list[str]:
    return text.split()


def lower(text: str) -> list[str]:
    return text.lower().split()


def with_stops(text: str) -> list[str]:
    """COCO's tokens, and a token for the full stop at the end."""
    return [*ptb(text), *(["."] if text.rstrip().endswith(".") else [])]


TOKENISERS: tuple[Callable[[str], list[str]], ...] = (ptb, words, lower, spaced, with_stops)


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def ours(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Every score of both speakers, identical and shuffled captions, and the CPU seconds of all scores at once."""
    references = [row["refs"] for row in rows]
    told: dict[str, Any] = {}
    for speaker in SPEAKERS:
        start = time.process_time()
        table = caption_scores([row[speaker] for row in rows], references)
        told[speaker] = {"cpu_seconds": time.process_time() - start, "scores": table.to_dict("records")}
    first = [row["refs"][0] for row in rows]
    same = caption_scores(first, [[one] for one in first])
    long = item_scores(first, [[one] for one in first])["CIDEr-D"][[len(ptb(one)) >= 4 for one in first]]
    # Item k is described by the caption of item k + 2,500.
    turned = [rows[k - len(rows) // 2]["clipcap_coco"] for k in range(len(rows))]
    return {
        **told,
        "identical": same.to_dict("records"),
        "identical_cider_d_of_four_words_or_more": {"least": long.min(), "most": long.max(), "n": len(long)},
        "shuffled": caption_scores(turned, references).to_dict("records"),
    }


def by_tokeniser(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """BLEU-4 and CIDEr-D of the same captions by several tokenisers."""
    table = []
    for split in TOKENISERS:
        told = caption_scores(
            [row["clipcap_coco"] for row in rows],
            [row["refs"] for row in rows],
            tokeniser=Tokeniser(split.__name__, 1, split),
        ).set_index("score")
        table.append({"tokeniser": split.__name__, **{name: told.value[name] for name in PUBLISHED}})
    return table


def by_documents(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """CIDEr-D of the first 50 captions with document frequencies from more and more items."""
    candidates, references = [row["clipcap_coco"] for row in rows], [row["refs"] for row in rows]
    table = []
    for documents in (50, 200, 1000, 5000):
        told = caption_scores(candidates[:50], references[:50], corpus=references[:documents]).set_index(
            "score"
        )
        table.append({"documents": documents, "CIDEr-D": told.value["CIDEr-D"]})
    return table


def asked(python: str, part: str, given: Any) -> Any:
    """A part of the peers' side, in their interpreter."""
    script = str(Path(__file__).with_name("scores_peers.py"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [python, script, part],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return json.loads(done.stdout)


def tokens_agree(python: str, texts: list[str]) -> dict[str, Any]:
    """How many texts have other tokens by Stanford's program."""
    mine, theirs = [ptb(text) for text in texts], asked(python, "tokens", texts)
    other = [
        {"text": text[:160], "ours": left, "stanford": right}
        for text, left, right in zip(texts, mine, theirs, strict=True)
        if left != right
    ]
    return {"texts": len(texts), "differ": len(other), "examples": other[:5]}


def scores_agree(
    python: str, candidates: list[list[str]], references: list[list[list[str]]]
) -> dict[str, Any]:
    """The largest difference to the peers on the same tokens, score by score."""
    given = {"candidates": candidates, "references": references, "parts": ["bleu", "rouge", "cider"]}
    coco, aac, java = (asked(python, part, given) for part in ("coco", "aac", "meteor"))
    told = cider(candidates, references)[:, 1]
    aligned = [best_alignment(one, several) for one, several in zip(candidates, references, strict=True)]
    segments = np.array([one.score for one in aligned])
    away = np.abs(segments - np.array(java["each"]))
    rouge = item_scores(
        [" ".join(one) for one in candidates],
        [[" ".join(one) for one in several] for several in references],
        tokeniser=Tokeniser("spaced", 1, spaced),
    )["ROUGE-L"]
    return {
        "items": len(candidates),
        "bleu": {
            "ours": (100 * bleu(bleu_statistics(candidates, references).sum(axis=0))).tolist(),
            "pycocoevalcap": [100 * one for one in coco["bleu"]["value"]],
        },
        "rouge_l": {
            "ours": rouge.mean(),
            "pycocoevalcap": 100 * coco["rouge"]["value"],
            "largest_difference_of_an_item": np.abs(rouge - 100 * np.array(coco["rouge"]["each"])).max(),
        },
        "cider_d": {
            "ours": 100 * told.mean(),
            "pycocoevalcap": 100 * coco["cider"]["value"],
            "aac_metrics": 100 * aac["value"],
            "largest_difference_of_an_item": {
                "pycocoevalcap": 100 * np.abs(told - np.array(coco["cider"]["each"])).max(),
                "aac_metrics": 100 * np.abs(told - np.array(aac["each"])).max(),
            },
        },
        "meteor_exact_stem": {
            "ours": 100 * float(meteor(np.array([one.statistics for one in aligned]).sum(axis=0))),
            "meteor_1.5": 100 * java["value"],
            "items_that_differ": int((away > 1e-9).sum()),
            "largest_difference_of_an_item": 100 * away.max(),
            "mean_of_items_ours": 100 * segments.mean(),
            "mean_of_items_meteor_1.5": 100 * np.mean(java["each"]),
        },
    }


def race(python: str, candidates: list[list[str]], references: list[list[list[str]]]) -> dict[str, Any]:
    """CPU seconds of CIDEr and CIDEr-D from tokens, in turn with the peers, which make one of the two."""
    seconds: dict[str, list[float]] = {"ours": [], "pycocoevalcap": [], "aac_metrics": []}
    given = {"candidates": candidates, "references": references, "parts": ["cider"]}
    for _ in range(ROUNDS):
        start = time.process_time()
        cider(candidates, references)
        seconds["ours"].append(time.process_time() - start)
        seconds["pycocoevalcap"].append(asked(python, "coco", given)["cider"]["cpu_seconds"])
        seconds["aac_metrics"].append(asked(python, "aac", given)["cpu_seconds"])
    middle = {name: float(np.median(several)) for name, several in seconds.items()}
    ratios = {name: middle[name] / middle["ours"] for name in ("pycocoevalcap", "aac_metrics")}
    return {"cpu_seconds": seconds, "median": middle, "times_as_long_as_ours": ratios}


def stems_agree(python: str, texts: list[str]) -> dict[str, Any]:
    """Words of the captions with another stem by nltk's stemmer of the same algorithm."""
    vocabulary = sorted({token for text in texts for token in ptb(text) if not token.startswith("'")})
    theirs = asked(python, "stems", vocabulary)
    other = [
        (word, stem(word), one) for word, one in zip(vocabulary, theirs, strict=True) if stem(word) != one
    ]
    return {"words": len(vocabulary), "differ": len(other), "examples": other[:20]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", help="an interpreter that has the peers")
    given = parser.parse_args()
    rows = lines(given.data / "captions" / "coco_karpathy5k.jsonl.gz")
    load = os.getloadavg()
    record: dict[str, Any] = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/captions/scores.py --data DIR --peers peers/bin/python",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {one: version(one) for one in ("trimtab", "numpy", "scipy", "pandas")},
        "python": platform.python_version(),
        "hardware": hardware(),
        "interval": "95 % percentile bootstrap over items, 2,000 resamples, document frequencies kept",
        "published": PUBLISHED,
        "ours": ours(rows),
        "tokenisers": by_tokeniser(rows),
        "documents": by_documents(rows),
    }
    if given.peers:
        python = given.peers
        texts = [text for row in rows for text in (*row["refs"], *(row[one] for one in SPEAKERS))]
        others = [row["caption"] for row in lines(given.data / "imagecode_valid_captions.jsonl.gz")]
        references = [[ptb(one) for one in row["refs"]] for row in rows]
        tokenised = {one: [ptb(row[one]) for row in rows] for one in SPEAKERS}
        record["peers"] = {
            "versions": asked(python, "versions", None),
            "tokens": {"coco": tokens_agree(python, texts), "imagecode": tokens_agree(python, others)},
            "stems": stems_agree(python, [*texts, *others]),
            "scores": {one: scores_agree(python, tokenised[one], references) for one in SPEAKERS},
            "speed": race(python, tokenised["clipcap_coco"], references),
        }
    record["load_average"] = {"before": load, "after": os.getloadavg()}
    record["machine_shared"] = "other work ran at the same time where the load average is above 1"
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULT, to_json(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
