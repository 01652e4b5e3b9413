"""Base models of four sizes that read 50 tokens of the pretraining mixture per parameter; trained once and kept.

    python benchmarks/forgetting/bases.py [--sizes 60k 140k 330k 820k 2m]

A fifth, three times as large as the fourth, is for machines with a GPU: on two cores it takes hours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import text

from trimtab.lab.corpora import read_card
from trimtab.lab.models import LabModel, pretrain
from trimtab.models.devices import default_device
from trimtab.runs.paths import built_once, cache_home
from trimtab.train.settings import Fit

TOKENS_PER_PARAMETER = 50
WIDTHS = {"60k": 40, "140k": 64, "330k": 104, "820k": 168, "2m": 304}
"""Width of the residual stream by size; two layers, MLPs of three times the width."""
SIZES, BEYOND = ("60k", "140k", "330k", "820k"), "2m"
FIT = Fit(
    batch_size=16,
    seq_len=128,
    lr=4e-3,
    lr_schedule="cosine",
    warmup_steps=100,
    betas=(0.9, 0.95),
    weight_decay=0.1,
    eval_sequences=256,
    probe_sequences=64,
    eval_batch_size=64,
)
WIDE = replace(FIT, batch_size=64, lr=2e-3)
"""Of the fifth: a GPU takes four times the batch in little more time."""
VOCABULARY = 512


def settings(size: str) -> LabModel:
    """The settings of one size."""
    width, fit = WIDTHS[size], WIDE if size == BEYOND else FIT
    tokens = TOKENS_PER_PARAMETER * parameters(width)
    return LabModel(
        what=f"base model of the forgetting benchmark, {size} parameters",
        pool={"pretraining": 1.0},
        fit=replace(fit, steps=math.ceil(tokens / (fit.batch_size * fit.seq_len))),
        width=width,
        intermediate=3 * width,
        vocabulary=VOCABULARY,
        characters=10**9,
    )


def parameters(width: int) -> int:
    """Parameters of two blocks of this width with tied embeddings and root-mean-square norms."""
    return VOCABULARY * width + 2 * (4 * width**2 + 9 * width**2 + 2 * width) + width


def base(size: str, tell: Any = None) -> Path:
    """The folder of a base model, trained on first use."""
    asked, home = settings(size), text.pretraining()
    made_from = json.dumps([asdict(asked), read_card(home)["fingerprint"]], sort_keys=True)
    key = hashlib.sha256(made_from.encode()).hexdigest()[:12]

    def build(folder: Path) -> None:
        start = time.monotonic()
        facts = pretrain(asked, {"pretraining": home}, folder, tell, default_device())
        card = {"settings": asdict(asked), **facts, "seconds": round(time.monotonic() - start, 1)}
        (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")

    return built_once(cache_home() / "benchmarks" / "forgetting" / f"base-{size}-{key}", build)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(WIDTHS))
    for size in options.parse_args().sizes:

        def tell(done: int, total: int, loss: float, size: str = size) -> None:
            if done % 500 == 0:
                print(f"{size}: {done} of {total} steps, {loss:.3f} nats", file=sys.stderr, flush=True)

        card = read_card(base(size, tell))
        print(size, card["parameters"], card["validation_loss_nats"], f"{card['seconds']} s")


if __name__ == "__main__":
    main()
