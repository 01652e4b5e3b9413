"""What the outputs of a real model give away about texts that it read: an audit with two draws of questions.

    python benchmarks/real/leaks.py --jobs 2        writes benchmarks/results/real/leaks.json
    python benchmarks/real/leaks.py --gather        writes it from the cells that are there

The model is `lab:smollm2`, SmolLM2-135M-Instruct with dequantised Q4_1 weights, in float32: in bfloat16 the rounding of
logits would hide some of the leak. A cell is a draw of 640 short prompts, as in `trimtab run leaks/real`: a text of
facts, then a question of yes or no. Classifiers recover a colour, which some questions mention, and a city, which none
does. Bits are above the words of the question. The control that should fail is the most
that is served, with labels dealt out anew. Other controls are random tokens, the answer alone and an untrained model.
Kill it whenever you like; the same command goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from runs import head, model_of, options, results_of, write
from trimtab.lab.facts import QUESTIONS_EACH, SCENES, fact_questions
from trimtab.lab.smollm2 import smollm2
from trimtab.read.leaks.audit import audit
from trimtab.read.leaks.controls import RANDOM_TOKENS, SHUFFLED, UNTRAINED
from trimtab.read.leaks.levels import Answer, Hidden, Level, TopLogprobs
from trimtab.read.leaks.mitigations import mitigation_of
from trimtab.read.leaks.recommendation import SERVED

ATTRIBUTES, BACKGROUND = ("colour",), ("city",)
LEVELS: tuple[Level, ...] = (
    Hidden((15, -1)),
    TopLogprobs((1, 5, 20), encodings=("served",)),
    TopLogprobs((20,), encodings=("sorted",)),
    Answer(),
)
"""Those of the recipe with fewer numbers of tokens; the one with most as served is first, and so it is shuffled."""
MITIGATIONS = ({"truncate": 5}, {"round": 1}, "answer-only")
"""Those of the recipe."""
NUMBERS = ("bits", "low", "high", "accuracy", "accuracy_low", "accuracy_high", "chance", "n")
WHAT = ("attribute", "role", "level", "encoding", "setting", "k", "layer", "control", "mitigation")
FOUND, NOTHING, UNCLEAR = "shown", "not shown", "in some draws"


def run(cell: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The audit of one draw of questions; what was read and measured is kept in the cell's folder."""
    result = audit(
        model_of(cell["model"]),
        fact_questions(cell["scenes"], cell["seed"]),
        ATTRIBUTES,
        levels=LEVELS,
        group="scene",
        background=BACKGROUND,
        mitigations=[mitigation_of(one) for one in MITIGATIONS],
        seed=cell["seed"],
        folder=folder / "audit",
    )
    names = ("table", "controls", "checks", "mitigations")
    told: dict[str, Any] = {name: records(getattr(result, name)) for name in names}
    facts = {"facts": dict(result.facts), "findings": list(result.findings), "seconds": result.seconds}
    return told | facts | {"prompts": cell["scenes"] * QUESTIONS_EACH}


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a frame; what is empty or unknown is left out.

    >>> records(pd.DataFrame({"k": [20.0, float("nan")], "bits": [0.5, 0.25], "lens": ["", "logit"]}))
    [{'k': 20.0, 'bits': 0.5}, {'bits': 0.25, 'lens': 'logit'}]
    """
    rows = frame.to_dict("records")
    return [{str(name): one for name, one in row.items() if not _missing(one)} for row in rows]


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and value != value)


def cells(seeds: int, scenes: int, model: str) -> dict[str, dict[str, Any]]:
    """One cell a draw of questions."""
    return {f"draw {seed}": {"seed": seed, "scenes": scenes, "model": model} for seed in range(seeds)}


def gathered(
    every: Mapping[str, Mapping[str, Any]], results: Mapping[str, Any], command: str
) -> dict[str, Any]:
    """The result: what each level and each control gave in each draw, and what that shows of each attribute."""
    there = [{"seed": every[name]["seed"], **results[name]} for name in every if name in results]
    settings = {
        "levels": list(map(repr, LEVELS)),
        "mitigations": MITIGATIONS,
        "scenes": sorted({one["scenes"] for one in every.values()}),
        "dtype": "float32",
    }
    tables = {name: by_draw(there, name) for name in ("table", "controls", "mitigations")}
    return head(command, settings) | {
        "seeds": [one["seed"] for one in there],
        "cells": {"there": len(there), "planned": len(every)},
        "interval": "95 %, over texts of facts, within a draw; two draws are too few for one over draws",
        "bits": "above the words of the question, at most the entropy of the attribute",
        "attributes": shown(tables["table"], tables["controls"]),
        **tables,
        "draws": [{k: v for k, v in one.items() if k not in (*tables, "table")} for one in there],
    }


def by_draw(there: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """Rows of a table that are of the same thing, one entry with the numbers of each draw."""
    grouped: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in there:
        for row in one[name]:
            what = {key: row[key] for key in WHAT if key in row}
            entry = grouped.setdefault(tuple(what.items()), {**what, "draws": []})
            entry["draws"].append({"seed": one["seed"]} | {key: row[key] for key in NUMBERS if key in row})
    return list(grouped.values())


def shown(table: Iterable[Mapping[str, Any]], controls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each attribute and role: what is served with most tokens, the served level of most bits, and controls.

    Served levels are several, so that the largest is picked after looking; `of` says from how many. Whether a leak is
    shown is said of the most tokens as a server sends them, which nobody picked.
    """
    rows = []
    served = [row for row in table if row["level"] in SERVED]
    for attribute, role in dict.fromkeys((row["attribute"], row["role"]) for row in served):
        mine = [row for row in served if (row["attribute"], row["role"]) == (attribute, role)]
        beside = [row for row in controls if (row["attribute"], row["role"]) == (attribute, role)]
        most = max(mine, key=lambda row: (row.get("k") or 0, row.get("encoding") == "served"))
        named = {
            kind: [row for row in beside if row["control"] == kind]
            for kind in (SHUFFLED, UNTRAINED, RANDOM_TOKENS)
        }
        entry = {"attribute": attribute, "role": role, "most served": most, "leak": verdict(most["draws"])}
        entry |= {"largest": max(mine, key=_mean_bits), "of": len(mine)}
        entry |= {kind: max(some, key=_mean_bits) for kind, some in named.items() if some}
        if named[SHUFFLED]:
            entry["shuffled leak"] = verdict(named[SHUFFLED][0]["draws"])
        rows.append(entry)
    return rows


def verdict(draws: Sequence[Mapping[str, Any]]) -> str:
    """Whether bits lie above 0, by their intervals, in every draw.

    >>> verdict([{"low": 0.1}, {"low": -0.1}]), verdict([{"low": 0.1}]), verdict([{"low": -0.1}])
    ('in some draws', 'shown', 'not shown')
    """
    above = [one["low"] > 0 for one in draws]
    return FOUND if all(above) else UNCLEAR if any(above) else NOTHING


def _mean_bits(row: Mapping[str, Any]) -> float:
    return sum(one["bits"] for one in row["draws"]) / len(row["draws"])


def main() -> None:
    parser = options("leaks", __doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--scenes", type=int, default=SCENES, help="texts of facts, two prompts each")
    asked = parser.parse_args()
    command = f"python benchmarks/real/leaks.py --jobs {asked.jobs} --seeds {asked.seeds}"
    command += f" --scenes {asked.scenes}" * (asked.scenes != SCENES)
    every = cells(asked.seeds, asked.scenes, str(smollm2()))
    write(asked.out, gathered(every, results_of(run, every, asked), command))


if __name__ == "__main__":
    main()
