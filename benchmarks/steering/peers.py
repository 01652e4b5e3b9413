"""Steerings beside repeng, steering-vectors and pyreft: effect, cost of decoding, behaviour, in one run.

    OMP_NUM_THREADS=1 python benchmarks/steering/peers.py      writes benchmarks/results/steering/peers.json
    python benchmarks/steering/page.py --write                 makes the page of it

The packages are none of our dependencies; see `peer_packages.py` for how to install them. Kill it whenever you like:
fits and timings are kept in `runs/benchmark-peers`, and the same command goes on. `--fresh` measures anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peer_behaviour
import peer_effect
import peer_speed
import peer_table
import torch
from peer_packages import PEERS, contestants, peer_versions, plain_import

from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware, threads, versions

KEPT = Path("runs/benchmark-peers")


def kept(name: str, make: Callable[[], Any], fresh: bool) -> Any:
    """What was measured before, or now."""
    path = KEPT / f"{name}.json"
    if fresh or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(make()))
        print(name, file=sys.stderr, flush=True)
    return json.loads(path.read_text())


def effect(seeds: list[int], draws: int, fresh: bool) -> list[dict[str, Any]]:
    return [
        kept(f"effect/{seed}, {draw}, {name}", partial(peer_effect.run, name, seed, draw), fresh)
        for seed in seeds
        for name, draw in peer_effect.wanted(contestants(), draws)
    ]


def speed(sizes: list[peer_speed.Size], fresh: bool) -> list[dict[str, Any]]:
    return [kept(f"speed/{size.name}", partial(peer_speed.race, size), fresh) for size in sizes]


def facts(asked: argparse.Namespace) -> dict[str, Any]:
    command = "OMP_NUM_THREADS=1 python benchmarks/steering/peers.py"
    return {
        "command": f"{command} --seeds {' '.join(map(str, asked.seeds))} --draws {asked.draws} --sizes {asked.sizes}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": {**versions(), **peer_versions(), "python": platform.python_version()},
        "hardware": hardware(),
        "threads": threads(),
        "plain_import": {name: plain_import(name) for name in PEERS},
        "model_seeds": asked.seeds,
        "draws": asked.draws,
        "units": peer_table.UNITS,
        "machine_shared": "other work ran at the same time where the load average is above 1",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--sizes", type=int, default=len(peer_speed.SIZES), help="how many of them to time")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--parts", nargs="+", default=["effect", "speed", "behaviour"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    record = facts(asked)  # first: it asks what a plain import says
    before = os.getloadavg()
    record["behaviour"] = peer_behaviour.matrix() if "behaviour" in asked.parts else {}
    sizes = list(peer_speed.SIZES[: asked.sizes])
    record["speed"] = speed(sizes, asked.fresh) if "speed" in asked.parts else []
    record["speed_not_measured"] = [size.name for size in peer_speed.SIZES if size not in sizes]
    fits = effect(asked.seeds, asked.draws, asked.fresh) if "effect" in asked.parts else []
    record |= {"effect": peer_table.effect(fits), "fits": fits}
    record["load_average"] = {"before": before, "after": os.getloadavg()}
    if asked.parts == ["effect", "speed", "behaviour"]:
        write_atomic(peer_table.RESULT, peer_table.compact(record))


if __name__ == "__main__":
    main()
