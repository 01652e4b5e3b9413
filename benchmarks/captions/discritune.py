"""DiscriTune on rendered scenes whose truth is known: arms, controls and ablations, in pieces that can be killed.

    python benchmarks/captions/discritune.py [--seeds 0 1 2 3 4]
    python benchmarks/captions/discritune_page.py --write

A seed is a world of its own: pictures, captioners, the listener of the training and an independent one. An arm of a
seed is kept in `runs/benchmark-captions` as soon as it is done, and is not run again while its settings are the same.
The result, `benchmarks/results/captions/discritune.json`, is written anew after each arm from all that is kept.
Captions are greedy (the paper decodes by five beams). `--smoke` shows in a minute that everything runs; its numbers
say nothing and go nowhere. Rules of verdicts are in `claims.py`, and were written before the first run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from arms import Arm, ablations, main_arms
from claims import summary
from measures import captions, judged, nats
from scene_world import LISTENER, SMOKE, TEST, Sizes, World

from trimtab.lab.scene_models import RECIPE
from trimtab.refer.captions.discritune import DiscriTune, Tuned
from trimtab.refer.captions.tuning import Tuning
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware, threads, versions
from trimtab.runs.serialise import plain, read_json, to_json

RESULT = Path(__file__).parents[1] / "results" / "captions" / "discritune.json"
RUNS = Path("runs/benchmark-captions")
EXAMPLES = 4
LAST = 10
"""Steps at the end of a run whose diagnostics are averaged."""
FIRST = 3
"""Seeds on which all ablations run before any runs on the others."""
SHOWN = ("reward", "advantage_sd", "found", "kl_nats", "gradient_norm", "ended")


def tuned(arm: Arm, world: World, tuning: Tuning, speaker: Any) -> Tuned:
    """The speaker after DiscriTune."""
    listener = world.misled if arm.shuffled else world.listeners[LISTENER]
    pictures = world.pictures if arm.pictures == "plain" else world.copies
    people = world.people(arm.full) if tuning.reads_people else None
    settings = asdict(tuning) | {"steps": world.sizes.steps, "seed": world.seed}
    settings |= {"evaluate_every": world.sizes.steps}
    return DiscriTune(listener, **settings).fit(speaker, pictures, people)


def said_by(arm: Arm, world: World) -> tuple[dict[str, dict[str, str]], dict[str, float], dict[str, float]]:
    """Captions of the arm, cross-entropies of people's, and diagnostics of the end of its training."""
    if arm.role == "control" and arm.tuning is None:
        dialect = "full" if "full" in arm.name else "terse"
        return {name: dict(getattr(exam, dialect)) for name, exam in world.exams.items()}, {}, {}
    speaker, end = world.speaker(arm.full), {}
    if arm.tuning is not None:
        history = tuned(arm, world, arm.tuning, speaker).history
        end = {f"last {name}": float(history[name].tail(LAST).mean()) for name in SHOWN}
    return captions(speaker, world), nats(speaker, world), end


def measured(arm: Arm, world: World) -> dict[str, Any]:
    """One arm of one seed."""
    world.prepare(arm.full)
    cpu, wall = time.process_time(), time.perf_counter()
    said, losses, end = said_by(arm, world)
    tuning_cpu = time.process_time() - cpu
    means, items = judged(said, world)
    return {
        "means": {**means, **losses, **end, "seconds": tuning_cpu},
        "items": items,
        "captions": said,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
    }


def question(arm: Arm, seed: int, sizes: Sizes) -> dict[str, Any]:
    """All that decides an arm's numbers."""
    asked = {"arm": asdict(arm), "seed": seed, "sizes": asdict(sizes), "recipe": RECIPE}
    found: dict[str, Any] = plain(asked)
    return found


def kept(arm: Arm, seed: int, sizes: Sizes, folder: Path) -> dict[str, Any] | None:
    """What was measured earlier, if the question is the same."""
    path = place(arm, seed, folder)
    if not path.is_file():
        return None
    record: dict[str, Any] = read_json(path)
    return record if record["question"] == question(arm, seed, sizes) else None


def place(arm: Arm, seed: int, folder: Path) -> Path:
    return (
        folder
        / f"seed-{seed}"
        / f"{arm.key.replace(' %: ', '-').replace(' ', '_').replace(chr(39), '')}.json"
    )


def schedule(seeds: Sequence[int], every: bool) -> Iterator[tuple[Arm, int]]:
    """Main arms seed by seed, then warnings, then each ablation over the first seeds, and over the others.

    So what is cut short is as balanced as it can be.
    """
    main = main_arms()
    yield from ((arm, seed) for seed in seeds for arm in main if arm.role != "warning")
    yield from ((arm, seed) for arm in main if arm.role == "warning" for seed in seeds)
    if every:
        for some in (seeds[:FIRST], seeds[FIRST:]):
            yield from ((arm, seed) for arm in ablations() for seed in some)


def write(seeds: Sequence[int], sizes: Sizes, folder: Path, result: Path) -> None:
    """The result of all that is kept."""
    runs = [
        (seed, arm, record)
        for arm in (*main_arms(), *ablations())
        for seed in seeds
        if (record := kept(arm, seed, sizes, folder)) is not None
    ]
    every = (*main_arms(), *ablations())
    first = next((record["captions"][TEST] for seed, _, record in runs if seed == seeds[0]), {})
    facts = {
        "command": f"python benchmarks/captions/discritune.py --seeds {' '.join(map(str, seeds))}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": versions(),
        "hardware": hardware(),
        "threads": threads(),
        "seeds": list(seeds),
        "sizes": plain(asdict(sizes)),
        "cpu_minutes": sum(record["cpu_s"] for *_, record in runs) / 60,
        "not_run": [arm.key for arm in every if arm.key not in {done.key for _, done, _ in runs}],
        "examples": [
            {"item": item, **{a.key: r["captions"][TEST][item] for s, a, r in runs if s == seeds[0]}}
            for item in list(first)[:EXAMPLES]
        ],
        "arms": {arm.key: plain(asdict(arm)) for arm in every},
        **summary([(seed, arm.key, record["means"], record["items"]) for seed, arm, record in runs]),
        "runs": [
            {
                "seed": seed,
                "arm": arm.key,
                "cpu_s": record["cpu_s"],
                "wall_s": record["wall_s"],
                **record["means"],
            }
            for seed, arm, record in runs
        ],
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(result, compact(facts))


def compact(facts: dict[str, Any]) -> str:
    """JSON with one entry of each part a line, so that the file stays small and changes readable."""
    parts = []
    for name, part in facts.items():
        if isinstance(part, dict):
            rows = ",\n".join(f"  {to_json(key)}: {to_json(value)}" for key, value in part.items())
            text = f"{{\n{rows}\n }}"
        elif isinstance(part, list) and part and isinstance(part[0], dict):
            text = "[\n" + ",\n".join(f"  {to_json(row)}" for row in part) + "\n ]"
        else:
            text = to_json(part)
        parts.append(f" {to_json(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--main", action="store_true", help="no ablations")
    parser.add_argument("--smoke", action="store_true", help="all arms in a minute, for their code alone")
    parser.add_argument("--folder", type=Path, default=RUNS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sizes = SMOKE if asked.smoke else Sizes()
    seeds = asked.seeds[:1] if asked.smoke else asked.seeds
    folder = asked.folder / "smoke" if asked.smoke else asked.folder
    result = folder / "discritune.json" if asked.smoke else RESULT
    worlds: dict[int, World] = {}
    for arm, seed in schedule(seeds, not asked.main):
        if kept(arm, seed, sizes, folder) is not None:
            continue
        world = worlds.setdefault(seed, World(seed, sizes))
        record = measured(arm, world)
        path = place(arm, seed, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, to_json({"question": question(arm, seed, sizes), **record}) + "\n")
        means = record["means"]
        told = {
            name: round(means[name], 3) for name in ("test P@1 random, listener", "test P@1 hard, listener")
        }
        print(f"seed {seed}, {arm.key}: {told}, {record['cpu_s']:.0f} s", file=sys.stderr, flush=True)
        write(seeds, sizes, folder, result)
    write(seeds, sizes, folder, result)


if __name__ == "__main__":
    main()
