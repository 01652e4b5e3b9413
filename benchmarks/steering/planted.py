"""Does sparsity find the units that were really changed? Known units of one site are shifted; every site may be mapped.

    python benchmarks/steering/planted.py        writes benchmarks/results/steering/planted.json

Source and target are clean documents of the grammar world, so that they differ by nothing but the planted shift: eight
of 64 units of the pre-MLP norm of the third of six blocks, by two standard deviations either way. All blocks after it
see its consequences, so a method that looks at each site by itself finds units there as well. The baseline that could
win keeps the units whose means differ most, in standard errors, over all sites: as many as were planted, which no
one would know.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trimtab import LinEAS, Steering
from trimtab.models.hooks import capture
from trimtab.models.sites import Site
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware
from trimtab.runs.serialise import to_json
from trimtab.runs.sweep import sweep
from trimtab.seeds import derive
from trimtab.steer.maps import Base
from worlds import documents, judge

sys.path.append(str(Path(__file__).parents[1]))
from verdicts import INTERVAL, mean_interval

RESULTS = Path(__file__).parents[1] / "results" / "steering"
SITE = "model.layers.2.post_attention_layernorm:out"
SITES = "post_attention_layernorm"
UNITS, SHIFT, EXAMPLES = 8, 2.0, 32
GAMMAS = (0.03, 0.1, 0.3, 1.0, 3.0)
SEEDS = (0, 1, 2, 3, 4)


class Planted(nn.Module):
    """A network that is steered where its batch says so."""

    def __init__(self, inner: nn.Module, steering: Steering) -> None:
        super().__init__()
        self.inner, self.steering = inner, steering

    def forward(self, input_ids: Tensor, planted: Tensor) -> Any:
        with self.steering.on(self.inner, float(planted)):
            return self.inner(input_ids=input_ids)


def planted_steering(inner: nn.Module, ids: Tensor, seed: int) -> Steering:
    """Two standard deviations up or down for eight units drawn at random."""
    with torch.no_grad(), capture(inner, SITE, "mean") as taken:
        inner(input_ids=ids)
    spread = taken[SITE].std(0)
    draws = torch.Generator().manual_seed(derive(seed, "planted"))
    units = torch.randperm(len(spread), generator=draws)[:UNITS]
    shift = torch.zeros_like(spread)
    shift[units] = SHIFT * spread[units] * (torch.randint(2, (UNITS,), generator=draws) * 2 - 1)
    return Steering({SITE: (torch.ones_like(shift), shift)}, Base.of(inner, [Site.parse(SITE)]))


def run(cell: dict[str, Any], folder: Path) -> dict[str, Any]:  # noqa: ARG001
    """One seed: every gamma, end to end and local, and the baseline."""
    torch.set_num_threads(1)
    seed = cell["seed"]
    judged = judge("weak cues", 0)
    inner = judged.model.module
    planted = planted_steering(inner, judged.clean.ids, seed)
    network = Planted(inner, planted).eval()
    source, target = (
        {"input_ids": documents(judged.world, "clean", EXAMPLES, side, seed).ids, "planted": torch.tensor(on)}
        for side, on in (("planted source", 0.0), ("planted target", 1.0))
    )
    truth = {f"inner.{SITE}": planted.maps[SITE][1] != 0}
    found = {"means": _judged(_largest_means(network, source, target), truth)}
    for local in (False, True):
        for gamma in GAMMAS:
            estimator = LinEAS(sites=SITES, gamma=gamma, stop_gradient=local)
            steering = estimator.fit(network, source=[source], target=[target])
            touched = {name: (w != 1) | (b != 0) for name, (w, b) in steering.maps.items()}
            found[f"{'local' if local else 'end to end'}, {gamma:g}"] = _judged(touched, truth)
    return found


def _largest_means(network: nn.Module, source: Any, target: Any) -> dict[str, Tensor]:
    """The units whose means differ most in standard errors, as many as were planted."""
    sides = []
    for batch in (source, target):
        with torch.no_grad(), capture(network, SITES, "mean") as taken:
            network(**batch)
        sides.append(dict(taken))
    scores = {
        name: (
            (sides[1][name].mean(0) - values.mean(0)) / (sides[1][name].var(0) + values.var(0)).sqrt()
        ).abs()
        for name, values in sides[0].items()
    }
    least = torch.cat(list(scores.values())).topk(UNITS).values[-1]
    return {name: score >= least for name, score in scores.items()}


def _judged(touched: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    right = sum(int((units & truth[name]).sum()) for name, units in touched.items() if name in truth)
    chosen = sum(int(units.sum()) for units in touched.values())
    return {
        "touched": chosen,
        "precision": right / chosen if chosen else float("nan"),
        "recall": right / UNITS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    judge("weak cues", 0)
    cells = {f"planted {seed}": {"seed": seed} for seed in SEEDS}
    done = sweep(run, cells, Path("runs/benchmark-planted"), jobs=asked.jobs)
    parts = list(done.results.values())
    table = {
        name: {key: _told([part[name][key] for part in parts]) for key in parts[0][name]} for name in parts[0]
    }
    record = {
        "command": f"python benchmarks/steering/planted.py --jobs {asked.jobs}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "units": f"draws of planted units, {len(parts)} of them, on one model",
        "interval": INTERVAL,
        "planted": {
            "site": SITE,
            "units": UNITS,
            "shift_sd": SHIFT,
            "examples": EXAMPLES,
            "sites_mapped": SITES,
        },
        "versions": {name: version(name) for name in ("trimtab", "torch")}
        | {"python": platform.python_version()},
        "hardware": hardware(),
        "table": table,
        "failures": dict(done.failures),
    }
    write_atomic(RESULTS / "planted.json", to_json(record, indent=1) + "\n")
    for name, row in table.items():
        print(name, {key: round(value["value"], 3) for key, value in row.items()})


def _told(values: list[float | None]) -> dict[str, Any]:
    """The mean of what is known: precision is nan, which a kept cell holds as None, where no unit was touched."""
    known = np.array([value for value in values if value is not None and not np.isnan(value)])
    found = mean_interval(known) if len(known) else None
    if found is None:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0}
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


if __name__ == "__main__":
    main()
