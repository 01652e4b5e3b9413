"""What the runs of `run.py` say: was anything forgotten, does the law predict it, what injection did and cost.

    python benchmarks/forgetting/table.py         writes benchmarks/results/forgetting/laws.json and law-<domain>.json
    python benchmarks/forgetting/page.py          the page of results from these and the other files

Per domain: forgetting without injection; both laws fitted to all but the largest size and the largest token count and
judged there; rival forms with AICc and errors on the largest size, on the largest token count and on both; the share of
forgetting removed at 1 %; equivalence of the target loss (margin 1 %); injected sequences. law-<domain>.json is the law
of all sizes but the largest, which `promise.py` plans with. Where runs of a fifth size are there (three times the
fourth, from a machine with a GPU), all of this is said of the four, and the laws of the four are judged on the fifth.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import bases
import numpy as np
import pandas as pd
import text
from record import RESULTS, write

from trimtab import FinetuningLaw, ForgettingLaw
from trimtab.adapt.forgetting.effects import (
    beside_none,
    compare_forms,
    forgetting_shown,
    injected_sequences,
    share_removed,
    target_equivalence,
)
from trimtab.errors import DataError
from trimtab.numerics.bootstrap import bootstrap, mean
from trimtab.runs.serialise import read_json

SHARE, N_BOOT = 0.01, 300


def points(domain: str) -> pd.DataFrame:
    """The runs of one domain."""
    return pd.DataFrame(read_json(RESULTS / f"points-{domain}.json")["rows"])


def held_out(frame: pd.DataFrame) -> dict[str, pd.Series[bool]]:
    """What is kept from a fit, by name."""
    size, tokens = (frame[name] == frame[name].max() for name in ("params", "tokens"))
    return {"largest size": size, "largest token count": tokens, "both": size | tokens}


def fitted(frame: pd.DataFrame, kept_out: dict[str, pd.Series[bool]], out: pd.Series[bool]) -> dict[str, Any]:
    """The laws on the runs that are not `out`, their coefficients, and the fine-tuning law's error on the others.

    Rival forms are compared for each way to hold runs out.
    """
    law, target = (law.fit(frame[~out], n_boot=N_BOOT) for law in (ForgettingLaw, FinetuningLaw))
    told = target.predict(params=frame[out]["params"].to_numpy(), tokens=frame[out]["tokens"].to_numpy())
    off = np.abs(told / frame[out]["loss_ft"].to_numpy() - 1)
    return {
        "mean rise, held out": {name: mean_rise(frame, rows) for name, rows in kept_out.items()},
        "forgetting": law.to_frame().to_dict("records"),
        "fine-tuning": target.to_frame().to_dict("records"),
        "fine-tuning error, held out": asdict(bootstrap(mean, off)),
        "agreeing starts": {"forgetting": law.fitted.agreeing, "fine-tuning": target.fitted.agreeing},
        "at bounds": {"forgetting": law.fitted.at_bounds, "fine-tuning": target.fitted.at_bounds},
        "forms": {name: compare_forms(frame, rows).to_dict("records") for name, rows in kept_out.items()},
    }


def mean_rise(frame: pd.DataFrame, out: pd.Series[bool]) -> dict[str, Any]:
    """What the law of the other runs predicts for these, what came, and the difference run by run."""
    law, rows = ForgettingLaw.fit(frame[~out], n_boot=0), frame[out]
    inputs = {name: rows[name].to_numpy() for name in ("params", "tokens", "inject")}
    predicted, real = law.rise(**inputs), (rows["loss_pt"] - rows["loss_pt0"]).to_numpy()
    means = {"predicted": float(np.mean(predicted)), "real": float(np.mean(real))}
    return {**means, "predicted less real": asdict(bootstrap(mean, predicted - real))}


def removed(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The share of forgetting removed by each share of injection, over all runs and for each token count."""
    rows: list[dict[str, Any]] = []
    for share in sorted(set(frame["inject"]) - {0.0}):
        pairs = beside_none(frame, share)
        rows.append({"inject": share, "tokens": None, **asdict(share_removed(pairs))})
        rows += [
            {"inject": share, "tokens": tokens, **asdict(share_removed(some))}
            for tokens, some in pairs.groupby("tokens")
        ]
    return rows


def judged(domain: str) -> dict[str, Any]:
    """All that is said of one domain; what cannot be fitted says why."""
    everything = points(domain)
    frame = everything[everything["size"] != bases.BEYOND]
    pairs, shown = beside_none(frame, SHARE), forgetting_shown(frame)
    told: dict[str, Any] = {
        "runs": len(frame),
        "minimum not reached": int((~frame["reached"]).sum()),
        "forgetting without injection": {**shown, "rise": asdict(shown["rise"])},
        "share removed at 1 %": asdict(share_removed(pairs)),
        "share removed": removed(frame),
        "target at 1 %": {
            **asdict(target_equivalence(pairs)),
            "equivalent": target_equivalence(pairs).equivalent,
        },
        "injected": injected_sequences(frame).to_dict("records"),
    }
    try:
        kept_out = held_out(frame)
        told |= fitted(frame, kept_out, kept_out["both"])
        if len(frame) < len(everything):
            beyond = everything["size"] == bases.BEYOND
            told["a size beyond"] = fitted(everything, {"a size beyond": beyond}, beyond)
        smaller = frame[frame["params"] < frame["params"].max()]
        ForgettingLaw.fit(smaller, n_boot=N_BOOT).save(RESULTS / f"law-{domain}.json")
    except DataError as error:
        told["not fitted"] = str(error)
    return told


def main() -> None:
    there = [domain for domain in text.DOMAINS if (RESULTS / f"points-{domain}.json").exists()]
    found = {domain: judged(domain) for domain in there}
    write("laws", {"domains": found})
    print("next: python benchmarks/forgetting/page.py --write")


if __name__ == "__main__":
    main()
