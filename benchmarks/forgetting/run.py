"""Real runs for the law of forgetting: sizes x domains x token counts x shares x seeds, as long as there is time.

    python benchmarks/forgetting/run.py --jobs 2 [--sizes 60k 140k 330k 820k 2m] [--domains near far] [--out DIR]
    python benchmarks/forgetting/table.py

Base models are trained first where they are not there yet (`bases.py`). Kill it whenever you like; the same command
goes on. Runs are kept in `runs/benchmark-forgetting`, points in `benchmarks/results/forgetting/points-<domain>.json`,
one row per run; a CUDA device is used where there is one, and each row says where it ran. Every size gets two seeds,
820k and 2m one.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bases
import pandas as pd
import text
from record import RESULTS, write

from trimtab.adapt.forgetting.grid import forgetting_grid
from trimtab.lab.corpora import read_card
from trimtab.train.settings import Fit

TOKENS = (3_000, 14_000, 65_000, 300_000)
SHARES = (0.0, 0.001, 0.005, 0.01, 0.05)
LARGEST = "820k"
"""Of the sizes asked for on two cores; laws that plan are fitted to the smaller ones."""
PASSES, PATIENCE = 60.0, 4
FIT = Fit(
    steps=2000,
    batch_size=8,
    seq_len=128,
    lr=1e-3,
    eval_sequences=64,
    probe_sequences=64,
    test_sequences=256,
    eval_batch_size=64,
    eval_points=18,
    checkpoint_every=400,
)


def seeds(size: str) -> tuple[int, ...]:
    """Two, and one at the largest sizes."""
    return (0,) if size in (LARGEST, bases.BEYOND) else (0, 1)


def grid(size: str, domain: str, folder: Path, jobs: int, **changes: Any) -> pd.DataFrame:
    """The runs of one size on one domain."""
    start, said = time.monotonic(), f"{size} {domain}"

    def tell(done: int, total: int) -> None:
        print(f"{said}: {done} of {total}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    asked: dict[str, Any] = {
        "tokens": TOKENS,
        "shares": SHARES,
        "seeds": seeds(size),
        "fit": FIT,
        "passes": PASSES,
        "patience": PATIENCE,
    }
    frame = forgetting_grid(
        [str(bases.base(size))],
        domain=str(text.text(text.DOMAINS[domain])),
        pretraining=str(text.pretraining()),
        folder=folder / f"{size}-{domain}",
        jobs=jobs,
        progress=tell,
        **{**asked, **changes},
    )
    return frame.assign(size=size, domain=domain).drop(columns="model")


def setting() -> dict[str, Any]:
    """What decides the points."""
    names = (*text.POOL, *text.DOMAINS.values())
    return {
        "fit": asdict(FIT),
        "passes": PASSES,
        "patience": PATIENCE,
        "domains": text.DOMAINS,
        "pool": text.POOL,
        "text": {name: read_card(text.text(name))["fingerprint"][:12] for name in names},
    }


def save(domain: str, frame: pd.DataFrame) -> None:
    """The points of one domain, beside those of other sizes that are there already."""
    sizes = {
        size: {
            name: {"device": "cpu", **read_card(bases.base(size))}[name]
            for name in ("parameters", "validation_loss_nats", "seconds", "device")
        }
        for size in frame["size"].unique()
    }
    body = {"setting": setting(), "bases": sizes, "rows": frame.to_dict("records")}
    write(f"points-{domain}", body, ("torch", "transformers"))


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--sizes", nargs="+", default=bases.SIZES, choices=list(bases.WIDTHS))
    options.add_argument("--domains", nargs="+", default=list(text.DOMAINS), choices=list(text.DOMAINS))
    options.add_argument("--jobs", type=int, default=1)
    options.add_argument("--out", type=Path, default=Path("runs/benchmark-forgetting"))
    asked = options.parse_args()
    for domain in asked.domains:
        frames: list[pd.DataFrame] = []
        for size in asked.sizes:
            frames.append(grid(size, domain, asked.out, asked.jobs))
            save(domain, pd.concat(frames, ignore_index=True))
    print(f"points in {RESULTS}; next: python benchmarks/forgetting/table.py")


if __name__ == "__main__":
    main()
