"""Is a sports person called by the sport, whatever the gender? An audit on simulated names whose truth is known.

python examples/naming_bias.py [OUT]        about ten seconds; writes OUT/report.html
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from trimtab import naming_bias
from trimtab.data.wordlist import WordList
from trimtab.lab.naming import NamingWorld, predictions
from trimtab.refer.bias.models import amplification, sensitivity
from trimtab.refer.bias.objects import Columns


def main(out: Path) -> None:
    world, sports = NamingWorld(), WordList.read("sports-en")
    names = world.sample(photographs=600)  # columns referent, image, gender, annotated, sport, name, count
    settings = {"strata": "sport", "cluster": "image", "weight": "count", "reference": "male"}
    result = naming_bias(names, outcome=sports, group="gender", **settings)
    print(result.rates.to_string(index=False))
    truth, gap = world.truth(), result.gap
    print(f"raw gap {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]; truth {truth['raw']:+.3f}")
    for row in result.standardised.itertuples():
        print(
            f"at the mix of {row.mix}: {row.gap:+.3f} [{row.low:+.3f}, {row.high:+.3f}]; truth {truth[row.mix]:+.3f}"
        )

    told = sensitivity(names, {"annotation": "gender", "second": "annotated"}, {"sports": sports}, **settings)
    beside = amplification(
        names,
        predictions(names),
        columns=Columns("referent", "gender", "sport", "image", "count"),
        outcome=sports,
        reference="male",
        group_words=WordList.read("gender-en"),
        model="model",
    )
    print(beside.gaps[beside.gaps["gap"] == "raw"].round(3).to_string(index=False))
    whole = replace(result, sensitivity=told, amplification=beside.gaps, misnaming=beside.misnaming)
    print(whole.report(out / "report.html"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example-naming-bias"))
