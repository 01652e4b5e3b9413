"""How long the loss of LinEAS takes: forward and backward, ours beside POT and beside `torch.sort`.

    OMP_NUM_THREADS=1 python benchmarks/transport.py        writes benchmarks/results/transport.json

32 sites of 18,432 units, 32 source examples each, against 32 or 48 target examples: 589,824 distances with p = 2, in
float32 on one thread. Everybody gets the same activations, (examples, units) for each site, the layout in which
pooled activations come; a round is one forward and one backward of the sum over sites and units, with gradients to
the source samples. Contestants alternate within a round, so that what else the machine does hits all of them. CPU
time stands beside wall-clock time, because the machine may be shared.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ot
import torch
from torch import Tensor

from trimtab.numerics.bootstrap import bootstrap
from trimtab.numerics.transport import wasserstein_1d
from trimtab.runs.environment import hardware, threads, versions

SITES, UNITS, SOURCES, TARGETS, ROUNDS, SEED, GOAL = 32, 18_432, 32, (32, 48), 9, 0, 3.0


def ours(x: Tensor, y: Tensor) -> Tensor:
    return wasserstein_1d(x.T, y.T).sum()


def pot(x: Tensor, y: Tensor) -> Tensor:
    return ot.wasserstein_1d(x, y, p=2).sum()


def torch_sort(x: Tensor, y: Tensor) -> Tensor:
    return (
        (x.T.contiguous().sort(dim=-1).values - y.T.contiguous().sort(dim=-1).values).square().mean(-1).sum()
    )


Loss = Callable[[Tensor, Tensor], Tensor]
CONTESTANTS: dict[str, Loss] = {"trimtab": ours, "POT": pot, "torch.sort": torch_sort}


def samples(size: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, UNITS, generator=generator) for _ in range(SITES)]


def once(loss: Loss, xs: list[Tensor], ys: list[Tensor]) -> tuple[float, float, float, Tensor]:
    """Seconds of wall clock, of CPU, the value, and the gradient at the last site."""
    leaves = [x.detach().requires_grad_() for x in xs]
    wall, cpu = time.perf_counter(), time.process_time()
    total = torch.stack([loss(x, y) for x, y in zip(leaves, ys, strict=True)]).sum()
    total.backward()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    gradient = leaves[-1].grad
    assert gradient is not None
    return wall, cpu, total.item(), gradient


def race(targets: int) -> dict[str, object]:
    xs, ys = samples(SOURCES, SEED), samples(targets, SEED + 1)
    racing = {name: loss for name, loss in CONTESTANTS.items() if name != "torch.sort" or targets == SOURCES}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in racing}
    last = {}
    for number in range(ROUNDS + 1):  # the first one warms up
        for name, loss in racing.items():
            wall, cpu, *last[name] = once(loss, xs, ys)
            if number:
                seconds[name].append((wall, cpu))
        print(f"{SOURCES} against {targets}, round {number} of {ROUNDS}", file=sys.stderr)
    walls = {name: np.array(times)[:, 0] for name, times in seconds.items()}
    cpus = {name: np.array(times)[:, 1] for name, times in seconds.items()}
    return {
        "source_examples": SOURCES,
        "target_examples": targets,
        "rounds": ROUNDS,
        "wall_s": {name: [round(value, 4) for value in times] for name, times in walls.items()},
        "wall_median_s": {name: round(float(np.median(times)), 4) for name, times in walls.items()},
        "cpu_median_s": {name: round(float(np.median(times)), 4) for name, times in cpus.items()},
        "times_faster_by_wall": {name: faster(walls, name) for name in racing if name != "trimtab"},
        "times_faster_by_cpu": {name: faster(cpus, name) for name in racing if name != "trimtab"},
        "differs_from_trimtab": {
            name: difference(last["trimtab"], last[name]) for name in racing if name != "trimtab"
        },
    }


def faster(times: dict[str, np.ndarray], name: str) -> dict[str, float]:
    """Median time of another over ours."""
    ratio = bootstrap(
        lambda theirs, own: np.median(theirs) / np.median(own),
        times[name],
        times["trimtab"],
        paired=True,
        seed=SEED,
    )
    return {
        "ratio": round(ratio.value, 2),
        "low": round(ratio.low, 2),
        "high": round(ratio.high, 2),
        "n": ratio.n,
    }


def difference(own: list, theirs: list) -> dict[str, float]:
    """By how much the sum differs, relatively, and the gradient at the last site at most, against its largest entry."""
    gap = (own[1] - theirs[1]).abs().max() / own[1].abs().max()
    return {"value": abs(own[0] - theirs[0]) / own[0], "gradient": gap.item()}


def main() -> None:
    torch.set_num_threads(1)
    before = os.getloadavg()
    rows = [race(targets) for targets in TARGETS]
    ratios = [row["times_faster_by_wall"]["POT"]["low"] for row in rows]  # type: ignore[index]
    result = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/transport.py",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {**versions(), "POT": ot.__version__},
        "hardware": hardware(),
        "threads": threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "seed": SEED,
        "size": f"{SITES} sites x {UNITS} units, float32, p = 2, forward and backward",
        "interval": "95 % percentile bootstrap over rounds of the ratio of medians, 2000 resamples",
        "machine_shared": "other work ran at the same time where the load average is above 1; contestants alternated",
        "load_average": {"before": before, "after": os.getloadavg()},
        "goal_times_faster_than_pot": GOAL,
        "goal_met": min(ratios) >= GOAL,
        "rows": rows,
    }
    out = Path(__file__).parent / "results" / "transport.json"
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    json.dump(rows, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
