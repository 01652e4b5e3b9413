"""How do captions that people write against near-identical pictures differ from those of a captioner?

    python benchmarks/intelligibility/imagecode.py DATA     writes benchmarks/results/intelligibility/imagecode.json

DATA holds `imagecode_valid_captions.jsonl.gz`, `imagecode_valid_annotations.jsonl.gz` and
`captions/coco_karpathy5k.jsonl.gz`. ImageCoDe's captions tell one of ten near-identical pictures from the others; those
of ClipCap, and of COCO's people, describe a picture alone. The pictures differ, so only the words are compared.
Phenomena are the codes of ImageCoDe's annotators, over the 200 captions for which all ten codes were in use.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from record import write

from trimtab.numerics.bootstrap import Resampling, wilson
from trimtab.refer.intelligibility.statistics import caption_statistics, words_of

NEGATION = frozenset(
    [
        "no",
        "not",
        "without",
        "never",
        "none",
        "nobody",
        "nothing",
        "isn't",
        "aren't",
        "doesn't",
        "don't",
        "can't",
        "cannot",
    ]
)
SPATIAL = frozenset(
    [
        "left",
        "right",
        "above",
        "below",
        "under",
        "behind",
        "front",
        "top",
        "bottom",
        "between",
        "near",
        "next",
        "corner",
        "center",
        "middle",
    ]
)
QUANTITY = frozenset(
    [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "both",
        "all",
        "several",
        "many",
        "few",
        "single",
    ]
)
LISTS = {"negation": NEGATION, "spatial": SPATIAL, "quantity": QUANTITY}
"""Words by which phenomena are counted alike in captions that nobody annotated."""


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def speakers(data: Path) -> dict[str, pd.DataFrame]:
    people = lines(data / "imagecode_valid_captions.jsonl.gz")
    coco = lines(data / "captions" / "coco_karpathy5k.jsonl.gz")
    items = [f"{row['image_set']} {row['target_index']}" for row in people]
    frame = pd.DataFrame({"item": items, "caption": [row["caption"] for row in people]})
    frame = frame.assign(cluster=[row["image_set"] for row in people]).drop_duplicates("item")
    told = {"people, ImageCoDe": frame}
    of_coco = {
        "people, COCO": [row["refs"][0] for row in coco],
        "ClipCap, COCO": [row["clipcap_coco"] for row in coco],
    }
    of_coco |= {"ClipCap, Conceptual Captions": [row["clipcap_conceptual"] for row in coco]}
    numbers = [str(row["idx"]) for row in coco]
    return told | {
        name: pd.DataFrame({"item": numbers, "caption": said, "cluster": numbers})
        for name, said in of_coco.items()
    }


def share(hits: list[bool]) -> dict[str, Any]:
    found = wilson(sum(hits), len(hits))
    return {"share": found.value, "interval": [found.low, found.high], "n": found.n}


def main() -> None:
    data = Path(sys.argv[1])
    said = speakers(data)
    table = caption_statistics(said, None, Resampling(2000))
    words = [
        {
            "speaker": name,
            "words_of": kind,
            **share([bool(listed & set(words_of(one))) for one in frame["caption"]]),
        }
        for name, frame in said.items()
        for kind, listed in LISTS.items()
    ]
    annotated = [
        row for row in lines(data / "imagecode_valid_annotations.jsonl.gz") if row["scope"] == "all10"
    ]
    codes = sorted({code for row in annotated for code in row["codes"]})
    phenomena = [{"code": code, **share([code in row["codes"] for row in annotated])} for code in codes]
    agreement = []
    for code, kind in (("neg", "negation"), ("s", "spatial"), ("q", "quantity")):
        by_words = np.array([bool(LISTS[kind] & set(words_of(row["caption"]))) for row in annotated])
        by_people = np.array([code in row["codes"] for row in annotated])
        agreement.append({"code": code, "words_of": kind, "agreement": float((by_words == by_people).mean())})
    body = {
        "statistics": table.to_dict("records"),
        "words": words,
        "phenomena": phenomena,
        "agreement": agreement,
    }
    write("imagecode", body, {"n_boot": 2000}, "bootstrap over image sets; shares: Wilson")
    print(table.T.to_string())
    for row in words:
        print(row["speaker"], row["words_of"], round(row["share"], 3))


if __name__ == "__main__":
    main()
