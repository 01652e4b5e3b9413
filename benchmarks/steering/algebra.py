"""Does the algebra of steerings hold: do inverses make clean text rude, do compositions do two things at once?

    python benchmarks/steering/algebra.py        writes benchmarks/results/steering/algebra.json

Inverse: a steering fitted from rude to clean documents is inverted and judged on clean ones, beside a steering fitted
from clean to rude. Composition: a second steering is fitted from documents of one topic to those of another, with the
styles mixed; both orders of the two are judged on rude documents of the first topic, beside each alone and a third
fitted to both changes at once, which could win. The control composes a steering with its inverse, which must change
nothing.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import METHODS

from trimtab import Steering
from trimtab.lab.grammar import Documents, Style
from trimtab.lab.grammar_model import insult_rate, topic_fidelity
from trimtab.models.language import kl
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware
from trimtab.runs.serialise import to_json
from trimtab.runs.sweep import sweep
from trimtab.seeds import derive
from worlds import JUDGED, PLACES, Judge, judge, logits

sys.path.append(str(Path(__file__).parents[1]))
from verdicts import INTERVAL, mean_interval

RESULTS = Path(__file__).parents[1] / "results" / "steering"
WANTED = ("MeanAcT", "LinAcT", "LinEAS", "LinEAS, gamma .3")
SITES = ("pre-MLP norm", "MLP out")
SEEDS = (0, 1, 2, 3, 4)
FROM, TO = 1, 2
"""Topics; the nouns of topic 0 serve as insults, so it is left out."""
EXAMPLES = 32


def run(cell: dict[str, Any], folder: Path) -> dict[str, Any]:  # noqa: ARG001
    """One model, site and estimator: every steering of it and what it does."""
    torch.set_num_threads(1)
    judged = judge("weak cues", cell["seed"])
    fit = _Fits(judged, cell)
    to_clean = fit(_drawn(judged, cell, "rude"), _drawn(judged, cell, "clean"))
    to_topic = fit(_drawn(judged, cell, None, FROM), _drawn(judged, cell, None, TO))
    both = fit(_drawn(judged, cell, "rude", FROM), _drawn(judged, cell, "clean", TO))
    rude = _drawn(judged, cell, "rude", FROM, n=JUDGED, purpose="judged")
    composed = {
        "untouched": to_clean * 0.0,
        "style": to_clean,
        "topic": to_topic,
        "style, then topic": to_clean.then(to_topic),
        "topic, then style": to_topic.then(to_clean),
        "fitted to both": both,
    }
    return {
        "inverse": _inverse(
            judged, to_clean, fit(_drawn(judged, cell, "clean"), _drawn(judged, cell, "rude"))
        ),
        "composition": {name: _both(judged, one, rude) for name, one in composed.items()},
    }


class _Fits:
    """Fits of one estimator at one place."""

    def __init__(self, judged: Judge, cell: Mapping[str, Any]) -> None:
        self.judged, self.cell = judged, cell

    def __call__(self, source: Documents, target: Documents) -> Steering:
        estimator = METHODS[self.cell["method"]](PLACES[self.cell["place"]])
        fitted: Steering = estimator.fit(self.judged.model, source=source.texts, target=target.texts)
        return fitted


def _drawn(
    judged: Judge,
    cell: Mapping[str, Any],
    style: Style | None,
    topic: int | None = None,
    n: int = EXAMPLES,
    purpose: str = "fit",
) -> Documents:
    draws = torch.Generator().manual_seed(derive(cell["seed"], "algebra", purpose, str(style), str(topic)))
    return judged.world.sample(n, generator=draws, style=style, topic=topic)


def _inverse(judged: Judge, to_clean: Steering, to_rude: Steering) -> dict[str, dict[str, float]]:
    """On clean documents: how rude, and how far from the untouched model."""
    steerings = {
        "untouched": to_clean * 0.0,
        "inverse": to_clean.inverse(),
        "fitted": to_rude,
        "there and back": to_clean.then(to_clean.inverse()),
    }
    return {name: _on_clean(judged, steering) for name, steering in steerings.items()}


def _on_clean(judged: Judge, steering: Steering) -> dict[str, float]:
    with steering.on(judged.model):
        after = logits(judged.model, judged.clean.ids)
    rude = insult_rate(judged.world, judged.clean.ids, after.double().softmax(-1))
    return {"insult_rate": float(rude.mean()), "kl_moved": float(kl(judged.before, after).mean())}


def _both(judged: Judge, steering: Steering, rude: Documents) -> dict[str, float]:
    """On rude documents of the first topic: how rude, and how much of the second topic."""
    with steering.on(judged.model):
        probs = logits(judged.model, rude.ids).double().softmax(-1)
    second = torch.full_like(rude.topic, TO)
    return {
        "insult_rate": float(insult_rate(judged.world, rude.ids, probs).mean()),
        "second_topic": float(topic_fidelity(judged.world, rude.ids, second, probs).mean()),
    }


def table(cells: Mapping[str, Any], results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per site, estimator, question and steering: scores with intervals over models."""
    groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for name, result in results.items():
        for part, rows in result.items():
            for steering, scores in rows.items():
                key = (cells[name]["place"], cells[name]["method"], part, steering)
                groups.setdefault(key, []).append(scores)
    heads = ("place", "method", "part", "steering")
    return [
        dict(zip(heads, key, strict=True)) | {score: _told([row[score] for row in rows]) for score in rows[0]}
        for key, rows in groups.items()
    ]


def _told(values: list[float]) -> dict[str, Any]:
    found = mean_interval(np.array(values))
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    for seed in SEEDS:
        judge("weak cues", seed)
    cells = {
        f"{place}, {method}, {seed}": {"place": place, "method": method, "seed": seed}
        for place in SITES
        for method in WANTED
        for seed in SEEDS
    }
    done = sweep(run, cells, Path("runs/benchmark-algebra"), jobs=asked.jobs)
    record = {
        "command": f"python benchmarks/steering/algebra.py --jobs {asked.jobs}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "units": f"models, {len(SEEDS)} of them, each with its own examples",
        "interval": INTERVAL,
        "examples": EXAMPLES,
        "judged": JUDGED,
        "versions": {name: version(name) for name in ("trimtab", "torch")}
        | {"python": platform.python_version()},
        "hardware": hardware(),
        "table": table(cells, done.results),
        "failures": dict(done.failures),
    }
    write_atomic(RESULTS / "algebra.json", to_json(record, indent=1) + "\n")
    for row in record["table"]:
        print(
            {key: value if isinstance(value, str) else round(value["value"], 3) for key, value in row.items()}
        )


if __name__ == "__main__":
    main()
