"""How much pretraining data keeps a rise small? On simulated runs of a planted law; yours go into the same table.

python examples/forgetting.py [OUT]        some ten seconds; writes OUT/run/report.html
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from trimtab import ForgettingLaw
from trimtab.adapt.forgetting.job import ForgettingConfig
from trimtab.job import carry_out


def simulated() -> pd.DataFrame:
    """Three sizes, three token counts, three shares; 2 % noise on what is forgotten."""
    grid = [(n, d, p) for n in (5e4, 2e5, 8e5) for d in (1e4, 1e5, 1e6) for p in (0.0, 0.001, 0.01)]
    frame = pd.DataFrame(grid, columns=["params", "tokens", "inject"])
    n, d, p = (frame[name].to_numpy() for name in frame)
    noise = np.exp(0.02 * np.random.default_rng(0).normal(size=len(n)))
    rise = 0.5 * d**0.3 / ((1 + 800 * p) * n) ** 0.4 * noise
    return frame.assign(loss_pt0=3.0, loss_pt=3.0 + rise, loss_ft=1.5 + 40 / (n**0.3 * d**0.1), seed=0)


def main(out: Path) -> None:
    frame = simulated()
    law = ForgettingLaw.fit(frame[frame["params"] < 8e5], n_boot=20)
    print(law.to_frame().round(3).to_string(index=False))
    share = law.inject_for(rise=0.1, params=8e5, tokens=1e6)
    median = law.inject_for(rise=0.1, params=8e5, tokens=1e6, confidence=0.5)
    print(f"a rise within 0.1 nats at the size left out, in 95 % of refits: at a share of {share:.4f}")
    print(f"the law's median: {median:.4f}")
    print("outside what was fitted:", *law.extrapolates(params=8e5, tokens=1e6, inject=share))

    out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out / "points.csv", index=False)
    carry_out(ForgettingConfig(points=str(out / "points.csv"), n_boot=10), out / "run")
    print(out / "run/report.html")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example-forgetting"))
