"""Leak audit of small vision-language models about rendered scenes whose truth is known: three seeds, all levels.

    python benchmarks/leaks/scenes.py [--seeds 0 1 2] [--plain-seeds 0]     writes benchmarks/results/leaks/scenes.json

A seed is a model of its own, trained once (some minutes of one core) and kept by the lab. `--plain-seeds` are seeds of
models that never learned to answer "what colour is the ...". All read the same questions about scenes that none has
seen. A model that answers fewer than nine of ten held-out questions right is refused. Readings and cells are kept in
`runs/benchmark-leaks`, so that a killed run goes on. `--smoke` shows in a minute that all runs; its numbers go nowhere.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from audits import audited, evidence, head, rounded, tables, write
from claims import SCENES

from trimtab.lab.registry import questions as questions_file
from trimtab.lab.scene_vlm import SceneVlm, scene_vlm
from trimtab.models.load import load
from trimtab.read.leaks.levels import Answer, Hidden, Level, TopLogits, TopLogprobs, Trajectory
from trimtab.read.leaks.mitigations import DEFAULT, Erase
from trimtab.read.leaks.questions import Questions, read_questions
from trimtab.read.leaks.served import Mitigation
from trimtab.runs.files import read_json

RUNS = Path("runs/benchmark-leaks")
ROWS, LEAST = 1000, 0.9
ATTRIBUTES, BACKGROUND = ("colour",), ("background_colour", "noise")
KS = (15, 40, 64)
"""Fixed logits of the paper's network; 64 are the whole vocabulary."""
LEVELS: tuple[Level, ...] = (
    Hidden(),
    Trajectory("logit"),
    Trajectory("tuned"),
    TopLogits((2, 8, 15, 40), ("sorted", "fixed", "served")),
    TopLogits(None),
    TopLogprobs((1, 2, 5, 20)),
    Answer(),
)
MITIGATIONS: tuple[Mitigation, ...] = (*DEFAULT, Erase("background_colour"))


def asked(rows: int) -> Questions:
    """The first questions of the lab's file, two of each scene."""
    path = questions_file("scene-questions")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:rows]]
    frame = pd.DataFrame(lines).drop(columns=["graph"])
    frame["image"] = [str(path.parent / name) for name in frame["image"]]
    return read_questions(frame, ATTRIBUTES, group="scene", background=BACKGROUND)


def measured(settings: SceneVlm, rows: int, folder: Path, jobs: int) -> dict[str, Any]:
    """The audit of one model."""
    cpu, place = time.process_time(), scene_vlm(settings)
    card = read_json(place / "card.json", "the card of a model")
    told = {"seed": settings.seed, "colour_questions": settings.colour_questions}
    told["card"] = {name: card[name] for name in ("parameters", "yes_no", "where", "colour")}
    if card["yes_no"]["right"] <= LEAST:
        return told | {"refused": f"{card['yes_no']['right']} of held-out questions right, not above {LEAST}"}
    model, questions = load(str(place)), asked(rows)
    result, outcomes, reading = audited(model, questions, LEVELS, MITIGATIONS, folder, jobs=jobs)
    found, network = evidence(outcomes, reading, questions, SCENES, KS, None)
    told |= {
        "cpu_s": rounded(time.process_time() - cpu),
        "evidence": rounded(found),
        "network": rounded(network),
    }
    return told | tables(result)


def kept(settings: SceneVlm, rows: int, folder: Path, jobs: int) -> dict[str, Any]:
    """The record of a model, measured once for the same settings."""
    path = folder / "record.json"
    question = repr((settings, rows, LEVELS, MITIGATIONS, KS))
    if path.is_file() and (record := read_json(path, "a kept record"))["question"] == question:
        return dict(record["record"])
    record = measured(settings, rows, folder, jobs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"question": question, "record": record}), encoding="utf-8")
    return dict(record)


def models(seeds: list[int], plain: list[int]) -> Iterator[SceneVlm]:
    """With and without questions of what colour something is."""
    yield from (replace(SceneVlm(), seed=seed) for seed in seeds)
    yield from (replace(SceneVlm(), seed=seed, colour_questions=False) for seed in plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--plain-seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--smoke", action="store_true", help="200 questions to the first model, for the code alone"
    )
    parser.add_argument("--folder", type=Path, default=RUNS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = 200 if given.smoke else ROWS
    every = list(models(given.seeds, given.plain_seeds))[: 1 if given.smoke else None]
    runs = []
    for settings in every:
        kind = "colour" if settings.colour_questions else "plain"
        name = f"scenes-{'smoke-' if given.smoke else ''}{kind}-{settings.seed}"
        runs.append(kept(settings, rows, given.folder / name, given.jobs))
        print(
            name,
            {key: runs[-1].get(key) for key in ("card", "refused", "cpu_s")},
            file=sys.stderr,
            flush=True,
        )
        command = f"python benchmarks/leaks/scenes.py --seeds {' '.join(map(str, given.seeds))}"
        command += f" --plain-seeds {' '.join(map(str, given.plain_seeds))}"
        settings_told = {"rows": rows, "levels": list(map(repr, LEVELS)), "least": LEAST}
        facts = head(command, settings_told | {"mitigations": list(map(repr, MITIGATIONS)), "ks": list(KS)})
        if not given.smoke:
            write("scenes.json", {**facts, "runs": runs})


if __name__ == "__main__":
    main()
