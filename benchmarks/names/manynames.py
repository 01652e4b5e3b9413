"""ManyNames, raw English answers: is a sports person called by the sport, and do photographs or groups explain it?

    python benchmarks/names/manynames.py --data DIR        writes benchmarks/results/names/manynames.json

DIR holds manynames_en.parquet and naming_predictions/. Objects of the domain "people" whose answers name a sport at
least once; only answers that name a person count (a shirt is not a name of who wears it), the rest are set aside and
counted. Outcome: the answer names a sport or an athlete. Gender: by most of the answers that name one, or by the name
in Visual Genome, which other people gave. Stratum: the sport that most sport names say. Cluster: the photograph.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
from record import write

from trimtab.data.wordlist import MIXED, UNKNOWN, WordList, labels_of_objects
from trimtab.numerics.bootstrap import Resampling
from trimtab.refer.bias.audit import naming_bias
from trimtab.refer.bias.models import amplification, sensitivity
from trimtab.refer.bias.objects import Columns

GENDER, SPORTS, PEOPLE = WordList.read("gender-en"), WordList.read("sports-en"), WordList.read("people-en")
PILOT = {"men": 0.428, "women": 0.306, "gap": 0.122, "at_the_womens_mix": 0.043, "by_visual_genome": 0.062}
"""What a pilot reported, with the reference's sign turned: men minus women."""


def of_person(name: str) -> bool:
    """Whether an answer names a person."""
    return GENDER(name) or SPORTS(name) or PEOPLE(name)


def answers(folder: Path) -> pd.DataFrame:
    """One row per object and answer: referent, image, name, count, vg_name, for people."""
    objects = pd.read_parquet(folder / "manynames_en.parquet")
    people = objects[objects["vg_domain"] == "people"]
    rows = [
        (row.object_id, row.image_id, name, count, row.vg_name)
        for row in people.itertuples()
        for name, count in json.loads(row.responses).items()
    ]
    return pd.DataFrame(rows, columns=["referent", "image", "name", "count", "vg_name"])


def sports_people(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of objects that some answer calls by a sport, with labels of gender by source and the sport."""
    sport = labels_of_objects(frame, SPORTS, ignore=["general"])
    own = frame[frame["referent"].map(sport) != UNKNOWN].copy()
    own["sport"] = own["referent"].map(sport)
    for source, agreement in (("answers", 0.5), ("answers, nine in ten", 0.9)):
        own[source] = own["referent"].map(labels_of_objects(own, GENDER, agreement=agreement))
    own["visual genome"] = own["vg_name"].map(lambda name: GENDER.label(name) or UNKNOWN)
    both = own["answers"].where(own["answers"] == own["visual genome"], MIXED)
    return own.assign(**{"both agree": both})


SETTINGS: dict[str, Any] = {"object": "referent", "strata": "sport", "cluster": "image", "weight": "count"}
SETTINGS |= {"reference": "male"}


def people_audit(frame: pd.DataFrame, n_boot: int) -> dict[str, Any]:
    """The audit by answers, and what other labels and outcomes say."""
    own = sports_people(frame)
    result = naming_bias(own, group="answers", outcome=SPORTS, among=of_person, n_boot=n_boot, **SETTINGS)
    specific = WordList(
        {label: words for label, words in SPORTS.labels.items() if label != "general"},
        SPORTS.source,
        "the sport only",
    )
    sources = {one: one for one in ("answers", "answers, nine in ten", "visual genome", "both agree")}
    told = sensitivity(
        own,
        sources,
        {"sport or athlete": SPORTS, "the sport only": specific},
        among=of_person,
        n_boot=n_boot,
        **SETTINGS,
    )
    every = naming_bias(own, group="answers", outcome=SPORTS, n_boot=n_boot, **SETTINGS)
    return {
        "audit": plain_result(result),
        "sensitivity": told.to_dict("records"),
        "all_answers_count": plain_result(every),
    }


def plain_result(result: Any) -> dict[str, Any]:
    """Every table of an audit."""
    frames = ("rates", "standardised", "strata", "representation", "power", "accounting")
    estimates = ("gap", "odds_ratio", "risk_ratio", "mantel_haenszel")
    return {
        **{name: getattr(result, name).to_dict("records") for name in frames},
        **{name: vars(getattr(result, name)) for name in estimates},
        "notes": list(result.notes),
    }


def detectors(folder: Path, frame: pd.DataFrame, n_boot: int) -> dict[str, Any]:
    """Seven archived models beside people, on the photographs of their test set."""
    predicted = pd.read_csv(folder / "naming_predictions/predictions.csv", keep_default_na=False)
    predicted = predicted.rename(columns={"object_id": "referent", "pred_name": "name"})
    test = frame[frame["referent"].isin(predicted["referent"])]
    verified = verified_rows(folder)
    found = {}
    for title, people in (("raw answers", test), ("verified answers", verified)):
        own = sports_people(people)
        columns = Columns("referent", "answers", "sport", "image", "count")
        audit = naming_bias(own, group="answers", outcome=SPORTS, among=of_person, n_boot=n_boot, **SETTINGS)
        beside = amplification(
            own,
            predicted,
            columns=columns,
            outcome=SPORTS,
            reference="male",
            among=of_person,
            group_words=GENDER,
            model="model",
            draws=Resampling(n_boot),
        )
        found[title] = {
            "people": plain_result(audit),
            **{
                name: getattr(beside, name).to_dict("records") for name in ("gaps", "misnaming", "accounting")
            },
        }
    return found


def verified_rows(folder: Path) -> pd.DataFrame:
    """The verified answers of the test set: names given at least twice."""
    table = pd.read_csv(folder / "naming_predictions/verified_responses.csv", keep_default_na=False)
    rows = [
        (row.object_id, row.image_id, name, count, "")
        for row in table.itertuples()
        for name, count in json.loads(row.verified_responses).items()
    ]
    return pd.DataFrame(rows, columns=["referent", "image", "name", "count", "vg_name"])


def whole_audit_seconds(folder: Path, n_boot: int) -> dict[str, Any]:
    """Seconds for all answers of all domains, clustered: the share of an object's answers that are its top name."""
    objects = pd.read_parquet(folder / "manynames_en.parquet")
    loads = json.loads
    rows = [
        (row.object_id, row.image_id, row.vg_domain, row.vg_cat, name, count)
        for row in objects.itertuples()
        for name, count in {**loads(row.responses), **loads(row.marks)}.items()
    ]
    frame = pd.DataFrame(rows, columns=["referent", "image", "domain", "category", "name", "count"])
    frame["top"] = frame["count"] == frame.groupby("referent")["count"].transform("max")
    frame["kind"] = frame["domain"].where(frame["domain"] == "people", "things")
    start = time.perf_counter()
    result = naming_bias(
        frame,
        group="kind",
        outcome="top",
        strata="category",
        cluster="image",
        weight="count",
        reference="people",
        n_boot=n_boot,
    )
    return {
        "tokens": int(result.accounting["n_tokens"].sum()),
        "rows": len(frame),
        "n_boot": n_boot,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--n-boot", type=int, default=2000)
    asked = parser.parse_args()
    frame = answers(asked.data)
    body = {
        "pilot": PILOT,
        "people": people_audit(frame, asked.n_boot),
        "detectors": detectors(asked.data, frame, asked.n_boot),
        "all_answers": whole_audit_seconds(asked.data, asked.n_boot),
    }
    write(
        "manynames", body, {"n_boot": asked.n_boot, "seed": 0}, "95 % percentile bootstrap over photographs"
    )


if __name__ == "__main__":
    main()
