"""Laws of forgetting at one size: a real model fine-tuned on word problems with replayed encyclopedia text.

    python benchmarks/real/forgetting.py --data DIR --jobs 2    writes benchmarks/results/real/forgetting.json
    python benchmarks/real/forgetting.py --data DIR --gather    writes it from the cells that are there

The model is `lab:smollm2`, SmolLM2-135M-Instruct with dequantised Q4_1 weights, in bfloat16 with a LoRA adapter in
float32. A cell is a share of replay and a seed: one run, read at several steps. No text is read twice and the learning
rate is constant, so that a reading is a shorter run. This deviates from the law's definition, which reads each run
where its target loss is lowest. Nobody has this model's pretraining text: whole sentences of Wikipedia stand for it.

The law is fitted to all readings but the longest, or but those of one share, and predicts these. Rivals that could win:
the law without the share, a rise linear in the logarithm of tokens and in the share, a constant, and the nearest
readings that are known. The control that should fail is the law fitted with shares that belong to other runs. Kill it
whenever you like; the same command goes on.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from runs import head, options, results_of, span, write
from trimtab import load
from trimtab.adapt.finetune import finetune
from trimtab.adapt.forgetting.fitting import FORMS, Centre, Form, fit_form, projected
from trimtab.adapt.mixers.fixed import Replay
from trimtab.data.domains import Domain
from trimtab.lab.smollm2 import smollm2
from trimtab.numerics.bootstrap import bootstrap, ratio_of_sums
from trimtab.numerics.curves import Coefficient, bootstrap_curve
from trimtab.train.settings import Fit

TARGET, PRETRAINING = "word problems", "encyclopedia"
SHARES = (0.0, 0.01, 0.05, 0.2)
KEPT_SHARE = 0.05
"""The share that is held out in the second test of the law."""
LAW, LINEAR, NEAREST, DEALT = "injection", "log-linear", "nearest readings", "shares of other runs"
RIVALS: dict[str, Form] = {
    LAW: FORMS[LAW],
    "without the share": FORMS["without the share"],
    LINEAR: Form(
        lambda x, level, slope, share: level + slope * np.log(x["d"]) + share * x["p"],
        (Coefficient("level", -5, 5), Coefficient("slope", -5, 5), Coefficient("share", -50, 50)),
        "level + slope log D + share p",
    ),
    "constant": FORMS["constant"],
}
"""Forms of the rise; at one size N^alpha is a part of A."""
N_BOOT = 200


@dataclass(frozen=True)
class Size:
    """How long a run is, and what is read.

    Attributes:
        steps: of a run.
        batch: sequences a step.
        length: tokens of a sequence.
        points: readings after the start, on a geometric grid.
        judged: validation sequences of each domain.
        rank: of the adapter.
        lr: constant.
        problems: word problems to train on; more than a run reads.
    """

    steps: int = 48
    batch: int = 8
    length: int = 128
    points: int = 6
    judged: int = 32
    rank: int = 8
    lr: float = 2e-3
    problems: int = 1200


def records(path: Path) -> list[str]:
    """Texts of a file that blank lines part, such as a question with its answer."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [one.strip() for one in file.read().split("\n\n") if one.strip()]


def prose(path: Path) -> list[str]:
    """Paragraphs of whole sentences as they were before words were cut apart and rare ones replaced.

    Sentences with a replaced word are left out, and paragraphs of which less than 200 characters are left.
    """
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = [line.strip() for line in file if not line.strip().startswith("=")]
    kept = (" ".join(one for one in sentences(line) if "<unk>" not in one) for line in lines)
    return [joined for one in kept if len(joined := together(one)) >= 200]


def sentences(line: str) -> list[str]:
    """Sentences of a line in which signs stand between spaces.

    >>> sentences("A 1 @.@ 5 cm one . It is <unk> .")
    ['A 1 @.@ 5 cm one .', 'It is <unk> .']
    """
    return re.split(r"(?<= [.!?])\s+(?=[A-Z\"])", line)


def together(text: str) -> str:
    """Signs joined to their words again.

    >>> together("In 2007 , it ( the 1 @.@ 5 @-@ inch one ) 's sold .")
    "In 2007, it (the 1.5-inch one)'s sold."
    """
    text = re.sub(r" @(.)@ ", r"\1", text)
    text = re.sub(r" ([.,;:!?)%]|'s\b|n't\b)", r"\1", text)
    return re.sub(r"\( ", "(", text)


def domains(data: Path, size: Size) -> dict[str, Domain]:
    """Both domains; those that judge are of the test files: most to read runs by, an eighth beside."""
    texts = data / "text"
    read = {TARGET: (records, "math_word_problems"), PRETRAINING: (prose, "wikitext")}
    found = {}
    for name, (reader, stem) in read.items():
        train, test = (reader(texts / f"{stem}_{part}.txt.gz") for part in ("train", "test"))
        seen = set(test)
        train = [one for one in dict.fromkeys(train) if one not in seen][: size.problems]
        judged, beside = list(dict.fromkeys(test)), set(test[::8])
        read_by = [one for one in judged if one not in beside]
        found[name] = Domain(name, train=train, validation=read_by, test=sorted(beside))
    return found


def run(cell: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """One fine-tuning: a row per reading, losses on validation text in nats per token."""
    torch.set_num_threads(1)
    size, share = Size(**cell["size"]), cell["share"]
    adapter = {"r": size.rank, "seed": cell["seed"]}
    model = load(cell["model"], device="cpu", dtype="bfloat16", adapter=adapter)
    fit = Fit(
        steps=size.steps,
        batch_size=size.batch,
        seq_len=size.length,
        lr=size.lr,
        eval_sequences=size.judged,
        probe_sequences=2,
        test_sequences=2,
        eval_batch_size=size.batch,
        eval_points=size.points,
        checkpoint_every=12,
    )
    result = finetune(
        model,
        train=domains(Path(cell["data"]), size),
        mixer=Replay(targets=[TARGET], share=share),
        fit=fit,
        seed=cell["seed"],
        out=folder / "run",
        progress=False,
        save_model=False,
    )
    params = sum(one.numel() for one in model.module.parameters())
    about = {"share": share, "seed": cell["seed"], "params": params, "seconds": round(result.seconds, 1)}
    return [about | row for row in readings(result.losses, share, size)]


def readings(losses: pd.DataFrame, share: float, size: Size) -> Iterator[dict[str, Any]]:
    """A row per reading after the start: tokens of the target so far as expected, and losses beside the base's."""
    read = losses[losses["split"] == "validation"].set_index(["step", "domain"])
    first = {name: float(read.loc[(0, name), "loss_nats"]) for name in (TARGET, PRETRAINING)}
    for step in sorted({step for step, _ in read.index if step > 0}):
        kept, target = (read.loc[(step, name)] for name in (PRETRAINING, TARGET))
        yield {
            "step": int(step),
            "tokens": step * size.batch * size.length * (1 - share),
            "inject": share,
            "loss_pt0": first[PRETRAINING],
            "loss_pt": float(kept["loss_nats"]),
            "rise_low": float(kept["change_low"]),
            "rise_high": float(kept["change_high"]),
            "loss_ft0": first[TARGET],
            "loss_ft": float(target["loss_nats"]),
        }


def cells(seeds: int, size: Size, data: Path, model: str) -> dict[str, dict[str, Any]]:
    """One cell a share and seed, seed by seed, so that what is there first is of all shares."""
    fixed = {"size": asdict(size), "data": str(data.resolve()), "model": model}
    return {
        f"share {share:g}, {seed}": {"share": share, "seed": seed, **fixed}
        for seed, share in product(range(seeds), SHARES)
    }


def fitted(form: Form, frame: pd.DataFrame, centre: Centre) -> Any:
    """A form of the rise, fitted by least squares of log losses."""
    points = {name: frame[name].to_numpy(dtype=float) for name in COLUMNS}
    first = projected(points, centre) if "beta" in {one.name for one in form.coefficients} else []
    return fit_form(form, points, centre, "squared", first=first)


COLUMNS = ("params", "tokens", "inject", "loss_pt", "loss_pt0")


def predicted(form: Form, inside: pd.DataFrame, outside: pd.DataFrame) -> np.ndarray:
    """(n,) rises of held-out readings, nats per token, by a form fitted to others."""
    centre = Centre.of({name: inside[name].to_numpy(dtype=float) for name in COLUMNS})
    found = fitted(form, inside, centre)
    x = centre.inputs({name: outside[name].to_numpy(dtype=float) for name in COLUMNS})
    return np.broadcast_to(form.rise(x, **found.coefficients), len(outside)).astype(float)


def nearest(inside: pd.DataFrame, outside: pd.DataFrame) -> np.ndarray:
    """(n,) rises as last read of the same run; of a run that is held out whole, as of its neighbours at that step.

    Neighbours are the next smaller and the next larger share of the same seed.
    """
    rises, told = inside["loss_pt"] - inside["loss_pt0"], []
    for row in outside.to_dict("records"):
        mine = (inside["seed"] == row["seed"]) & (inside["inject"] == row["inject"])
        if mine.any():
            told.append(float(rises[inside[mine]["step"].idxmax()]))
            continue
        there = inside[(inside["seed"] == row["seed"]) & (inside["step"] == row["step"])]
        gaps = there["inject"] - row["inject"]
        sides = [gaps[gaps < 0].nlargest(1), gaps[gaps > 0].nsmallest(1)]
        told.append(float(np.mean([rises[place] for side in sides for place in side.index])))
    return np.array(told)


def dealt(frame: pd.DataFrame, turn: int) -> pd.DataFrame:
    """The readings with the shares of other runs of the same seed, each moved on by so many places."""
    shares = sorted(frame["inject"].unique())
    other = {share: shares[(place + turn) % len(shares)] for place, share in enumerate(shares)}
    return frame.assign(inject=frame["inject"].map(other))


def compared(frame: pd.DataFrame, out: pd.Series) -> list[dict[str, Any]]:
    """Errors of the rise on held-out readings, of the law, of its rivals and of the control.

    Returns:
        One row a form: error, the mean absolute error as a share of the mean absolute rise, and `more`, the error less
        that of the law (above 0 where the law errs less); both with 95 % intervals over runs.
    """
    inside, outside = frame[~out], frame[out]
    told = {name: predicted(form, inside, outside) for name, form in RIVALS.items()}
    told[NEAREST] = nearest(inside, outside)
    real = (outside["loss_pt"] - outside["loss_pt0"]).to_numpy()
    off = {name: np.abs(real - rises) for name, rises in told.items()}
    turns = range(1, frame["inject"].nunique())
    wrong = [predicted(RIVALS[LAW], dealt(frame, k)[~out], dealt(frame, k)[out]) for k in turns]
    off[DEALT] = np.mean([np.abs(real - rises) for rises in wrong], axis=0)
    order = pd.factorize(outside["run"])[0]
    whole = np.bincount(order, np.abs(real))
    rows = []
    for name, gaps in off.items():
        error = bootstrap(ratio_of_sums, np.bincount(order, gaps), whole, paired=True)
        row = {"form": name, "error": span(error), "readings": len(real)}
        if name != LAW:
            more = np.bincount(order, gaps - off[LAW])
            row["more"] = span(bootstrap(ratio_of_sums, more, whole, paired=True))
        rows.append(row)
    return rows


def removed(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """What replay did at the end of the runs: rises, and the share removed, of each seed; two are no interval."""
    last = frame[frame["step"] == frame["step"].max()]
    none = {
        row["seed"]: row["loss_pt"] - row["loss_pt0"] for row in last[last["inject"] == 0].to_dict("records")
    }
    rows = []
    for row in last.sort_values(["inject", "seed"]).to_dict("records"):
        rise = row["loss_pt"] - row["loss_pt0"]
        beside = none.get(row["seed"], 0.0)
        keys = ("inject", "seed", "rise_low", "rise_high", "loss_ft", "loss_ft0")
        part = 1 - rise / beside if row["inject"] and beside > 0 else None
        rows.append({name: row[name] for name in keys} | {"rise": rise, "removed": part})
    return rows


def coefficients(frame: pd.DataFrame, out: pd.Series) -> dict[str, Any]:
    """The law fitted to the readings that are not held out, with 95 % intervals over runs, which are few."""
    inside = frame[~out]
    centre = Centre.of({name: inside[name].to_numpy(dtype=float) for name in COLUMNS})
    found = fitted(RIVALS[LAW], inside, centre)
    clusters = pd.factorize(inside["run"])[0]
    ends = bootstrap_curve(found, clusters=clusters, n_boot=N_BOOT, seed=0).intervals
    values = {
        name: {"value": value, "low": ends[name][0], "high": ends[name][1]}
        for name, value in found.coefficients.items()
    }
    return {"unit_tokens": centre.tokens, "values": values, "runs": int(inside["run"].nunique())} | {
        name: getattr(found, name) for name in ("at_bounds", "undetermined", "agreeing")
    }


def gathered(
    every: Mapping[str, Any], results: Mapping[str, Any], command: str, size: Size
) -> dict[str, Any]:
    """The result: readings, the law with its errors beside its rivals, and what replay did."""
    there = [{**row, "run": name} for name in every if name in results for row in results[name]]
    settings = {"size": size, "shares": SHARES, "dtype": "bfloat16, adapter float32", "n_boot": N_BOOT}
    record = head(command, settings) | {
        "seeds": sorted({row["seed"] for row in there}),
        "cells": {"there": len(results), "planned": len(every)},
        "interval": "95 %, over runs; that of one rise is over text, paired",
        "readings": there,
    }
    if len(results) < len(SHARES) or len({row["inject"] for row in there}) < len(SHARES):
        return record | {"not fitted": "a run of each share is needed"}
    frame = pd.DataFrame(there)
    if not (frame["loss_pt"] > frame["loss_pt0"]).any():
        return record | {"not fitted": "no reading shows a rise", "replay": removed(frame)}
    held = {"longest": frame["step"] == frame["step"].max(), "one share": frame["inject"] == KEPT_SHARE}
    errors = {name: compared(frame, out) for name, out in held.items()}
    return record | {
        "law": coefficients(frame, held["longest"]),
        "errors": errors,
        "verdicts": verdicts(errors, removed(frame)),
        "replay": removed(frame),
    }


def verdicts(
    errors: Mapping[str, Sequence[Mapping[str, Any]]], replay: Sequence[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """Claims by rules that were written before the first run; a claim about runs must hold in each seed."""
    none = [row for row in replay if row["inject"] == 0]
    little = [row["removed"] for row in replay if row["inject"] == 0.01 and row["removed"] is not None]
    rules = {
        "fine-tuning without replay raises the pretraining loss": [row["rise_low"] > 0 for row in none],
        "1 % of replay prevents it: at least 0.9 of the rise is removed": [part >= 0.9 for part in little],
    }
    for name, rows in errors.items():
        better = [row["more"]["low"] > 0 for row in rows if "more" in row and row["form"] != DEALT]
        control = [row["more"]["low"] > 0 for row in rows if row["form"] == DEALT]
        rules[f"{name} held out: the law errs less than each rival"] = better
        rules[f"{name} held out: with the shares of other runs the law errs more"] = control
    return [{"claim": claim, "verdict": _verdict(each)} for claim, each in rules.items()]


def _verdict(each: Sequence[bool]) -> str:
    """
    >>> _verdict([True, False]), _verdict([])
    ('partly', 'not measured')
    """
    if not each:
        return "not measured"
    return "held" if all(each) else "partly" if any(each) else "did not hold"


def main() -> None:
    parser = options("forgetting", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder with text/*.txt.gz")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--lr", type=float, default=Size.lr, help="another one needs another --folder")
    asked = parser.parse_args()
    size = Size(lr=asked.lr)
    command = f"python benchmarks/real/forgetting.py --data DIR --jobs {asked.jobs} --seeds {asked.seeds}"
    command += f" --lr {asked.lr:g}" * (asked.lr != Size.lr)
    every = cells(asked.seeds, size, asked.data, str(smollm2()))
    write(asked.out, gathered(every, results_of(run, every, asked), command, size))


if __name__ == "__main__":
    main()
