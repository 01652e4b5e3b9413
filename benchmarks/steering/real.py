"""Two real registers: does a steering turn lines of code into prose, and what does it cost elsewhere?

    python benchmarks/steering/real.py --jobs 2 --draws 5        writes benchmarks/results/steering/real.json

The model is `lab:text-small`. Steerings are fitted with train lines of code (source) and train sentences of docstrings
(target). They are judged on validation lines of code: the model goes on after the first half of each, and a detector of
characters, fitted on other text, says how much its continuation looks like code. The pair is admitted only where that
detector tells real and generated registers apart. KL is on package metadata, which is neither. The control is the same
fit with both registers shuffled together. Kill it whenever you like; the same command goes on.
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
import pandas as pd
import torch
from methods import METHODS
from table import at_budget

from trimtab import Model, load
from trimtab.lab.corpora import corpus, read_card
from trimtab.lab.models import lab_model, read_texts
from trimtab.lab.registers import admit, continued, fit_detector, registers, separation
from trimtab.models.language import kl_divergence
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware
from trimtab.runs.serialise import to_json
from trimtab.runs.sweep import sweep
from trimtab.seeds import derive
from trimtab.steer.steering import Steering

sys.path.append(str(Path(__file__).parents[1]))
from verdicts import INTERVAL, mean_interval

RESULTS = Path(__file__).parents[1] / "results" / "steering"
WANTED = (
    "LinEAS",
    "LinEAS, gamma .3",
    "LinEAS, gamma .3, local",
    "MeanAcT",
    "LinAcT",
    "CAA, mean",
    "ITI",
    "AurA",
)
PLACES = ("attention_out", "pre_mlp_norm", "residual", "mlp_out")
STRENGTHS = (0.0, 0.5, 1.0, 2.0)
BUDGETS = (0.05, 0.2)
"""KL on package metadata, nats per token, at which effects are compared."""
EXAMPLES, JUDGED, NEUTRAL = 64, 160, 64


def run(cell: dict[str, Any], folder: Path) -> list[dict[str, Any]]:  # noqa: ARG001
    """One fit, judged at each strength."""
    torch.set_num_threads(1)
    model = load(lab_model("text-small"), device="cpu")
    detector = fit_detector(*_sides(2000, derive(0, "detector")))
    code, prose = _sides(EXAMPLES, derive(cell["draw"], "real", "fit"))
    if cell["shuffled"]:
        mixed = np.random.default_rng(cell["draw"]).permutation([*code, *prose]).tolist()
        code, prose = mixed[:EXAMPLES], mixed[EXAMPLES:]
    steering = METHODS[cell["method"]](cell["place"]).fit(model, source=code, target=prose)
    judged = registers(JUDGED, 0, split="validation")
    neutral = _neutral()
    return [{"strength": s, **_scores(model, steering, s, detector, judged.code, neutral)} for s in STRENGTHS]


def _sides(n: int, seed: int) -> tuple[list[str], list[str]]:
    drawn = registers(n, seed)
    return drawn.code, drawn.prose


def _neutral() -> list[str]:
    lines = [
        line for text in read_texts(corpus("metadata"), "validation", 200_000) for line in text.splitlines()
    ]
    return [line for line in dict.fromkeys(lines) if len(line) > 40][:NEUTRAL]


def _scores(
    model: Model, steering: Steering, strength: float, detector: Any, code: list[str], neutral: list[str]
) -> dict[str, float]:
    toned, s = steering * max(strength, 1.0), min(strength, 1.0)
    with toned.on(model, s):
        looks_like_code = detector.score(continued(model, code)).mean()
    moved = kl_divergence(model, neutral, lambda: toned.on(model, s), max_tokens=128)
    return {"code_score": round(float(looks_like_code), 4), "kl_neutral": round(moved.mean_nats, 5)}


def admission() -> dict[str, Any]:
    """How well the detector tells real registers and the model's own apart; refuses the pair where it does not."""
    model = load(lab_model("text-small"), device="cpu")
    detector = fit_detector(*_sides(2000, derive(0, "detector")))
    judged = registers(350, 0, split="validation")
    real = separation(detector, judged.code, judged.prose)
    own = separation(detector, continued(model, judged.code), continued(model, judged.prose))
    admit(real, own)
    return {"real": vars(real), "generated": vars(own)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--draws", type=int, default=5)
    asked = parser.parse_args()
    apart = admission()
    cells = {
        f"{place}, {method}, {draw}{', shuffled' * shuffled}": {
            "place": place,
            "method": method,
            "draw": draw,
            "shuffled": shuffled,
        }
        for place in PLACES
        for method in WANTED
        for draw in range(asked.draws)
        for shuffled in ((False, True) if method == "MeanAcT" else (False,))
    }
    done = sweep(run, cells, Path("runs/benchmark-real"), jobs=asked.jobs)
    record = {
        "command": f"python benchmarks/steering/real.py --jobs {asked.jobs} --draws {asked.draws}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "model": {"name": "lab:text-small", "parameters": read_card(lab_model("text-small"))["parameters"]},
        "examples": EXAMPLES,
        "judged": JUDGED,
        "neutral": NEUTRAL,
        "units": f"draws of examples, {asked.draws}; one model",
        "interval": INTERVAL,
        "separation": apart,
        "versions": {name: version(name) for name in ("trimtab", "torch", "scikit-learn")}
        | {"python": platform.python_version()},
        "hardware": hardware(),
        "table": _table(cells, done.results),
        "failures": dict(done.failures),
    }
    write_atomic(RESULTS / "real.json", to_json(record, indent=1) + "\n")
    for row in record["table"]:
        print(
            {
                key: round(value["value"], 3) if isinstance(value, dict) else value
                for key, value in row.items()
            }
        )


def _table(cells: dict[str, dict[str, Any]], results: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per kind of site and estimator: scores at each strength and at each budget, over draws."""
    found = [
        {name: cells[cell][name] for name in ("place", "method", "shuffled")} | _flat(pd.DataFrame(rows))
        for cell, rows in results.items()
    ]
    return [
        dict(zip(("place", "method", "shuffled"), key, strict=True))
        | {score: _told(own[score]) for score in own.columns[3:]}
        for key, own in pd.DataFrame(found).groupby(["place", "method", "shuffled"], sort=False)
    ]


def _flat(curve: pd.DataFrame) -> dict[str, float]:
    """One fit's curve as scores by name."""
    scores = {
        f"{score} at strength {row['strength']:g}": float(row[score])
        for row in curve.to_dict("records")
        for score in ("code_score", "kl_neutral")
    }
    return scores | {
        f"code_score at KL {budget:g}": at_budget(curve, "code_score", "kl_neutral", budget)
        for budget in BUDGETS
    }


def _told(values: pd.Series[float]) -> dict[str, Any]:
    found = mean_interval(values.to_numpy(dtype=float))
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


if __name__ == "__main__":
    main()
