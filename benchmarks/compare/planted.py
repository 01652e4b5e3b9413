"""Does a comparison call what changed, and nothing else? On changes whose effect is known, and how long it takes.

    python benchmarks/compare/planted.py        writes benchmarks/results/compare/planted.json

Eighteen domains of texts over four letters each, which no other domain has. The tuned model is worse on the first by a
planted amount (its input embeddings were moved up the gradient of that loss). The second is left as it was: what
happens elsewhere reaches it through rounding alone. Of each of the other sixteen two letters are swapped in what the
model reads and writes. Every text of these changes its loss, but both letters are as likely in them, so the expected
change is exactly 0. All of it is read once, in texts enough for 100 test sets, and each test set is judged as
`trimtab compare` judges it. The planted rise itself is measured on many more texts. Last, a model against itself.
"""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from trimtab import Domain, compare
from trimtab.adapt.compare.domains import Asked
from trimtab.adapt.compare.reading import Reading, Side, read_tokens
from trimtab.adapt.compare.tables import changes_frame
from trimtab.adapt.compare.verdicts import loss_harm
from trimtab.data.tokens import tokenise
from trimtab.numerics.bootstrap import wilson
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware
from trimtab.runs.serialise import to_json

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import compare_worlds as cw  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "compare" / "planted.json"
DRAWS, SIZES, RISE = 100, (25, 100), 0.03
TRUTH = 40_000
PLANTED, UNTOUCHED, SWAPPED = "planted", "untouched", "swapped"


def pool(base: Any, tuned: Any, alphabet: str, n: int, seed: int) -> Reading:
    """Both models on many different texts of a domain."""
    texts = [*dict.fromkeys(cw.texts(alphabet, n + n // 50, seed))][:n]
    split = tokenise(Domain("pool", test=texts), base, seq_len=32, packing="padded").splits["test"]
    return read_tokens(Side(base), Side(tuned), split, range(len(split)), batch_size=512)


def cut(reading: Reading, part: slice) -> Reading:
    """A test set of a pool."""
    sides = {
        name: replace(it, nll=it.nll[part], tokens=it.tokens[part], records=it.records[part])
        for name in ("base", "tuned", "kl", "changed")
        if (it := getattr(reading, name)) is not None
    }
    return replace(reading, **sides, texts=reading.texts[part])


def share(hits: int, n: int) -> dict[str, Any]:
    it = wilson(hits, n)
    return {"value": it.value, "low": it.low, "high": it.high, "n": n}


def judged(readings: dict[str, Reading], truth: float, n: int) -> dict[str, Any]:
    """How often 100 pages of so many texts per domain call a change, and how often intervals hold the truth."""
    limits = {name: 0.5 * truth if name == PLANTED else 0.0 for name in readings}
    asked = {name: Asked(Domain(name, test=["x"]), limits[name]) for name in readings}
    tables = []
    for draw in range(DRAWS):
        part = slice(draw * n, (draw + 1) * n)
        tables.append(
            changes_frame(asked, {name: cut(it, part) for name, it in readings.items()}, {}, "token")
        )
    nulls = [table[table["domain"] != PLANTED] for table in tables]
    rows = [table.set_index("domain").loc[PLANTED] for table in tables]
    plain = [((table["low"] > 0) | (table["high"] < 0)) & (table["change"].abs() > 1e-6) for table in nulls]
    swapped = [table[table["domain"].str.startswith(SWAPPED)] for table in nulls]
    inside = sum(int(((table["low"] <= 0) & (table["high"] >= 0)).sum()) for table in swapped)
    return {
        "texts_per_domain": n,
        "pages_that_call_an_untouched_domain": share(
            sum(bool((t["shown"] != "no").any()) for t in nulls), DRAWS
        ),
        "pages_that_would_without_correction": share(sum(bool(it.any()) for it in plain), DRAWS),
        "pages_that_break_an_untouched_domain": share(
            sum(bool((t["verdict"] == "broken").any()) for t in nulls), DRAWS
        ),
        "intervals_of_swapped_domains_that_hold_0": share(inside, sum(map(len, swapped))),
        "planted_called_worse": share(sum(row["shown"] == "worse" for row in rows), DRAWS),
        "planted_broken_at_half_its_rise": share(sum(row["verdict"] == "broken" for row in rows), DRAWS),
        "intervals_that_hold_the_planted_rise": share(
            sum(bool(row["low"] <= truth <= row["high"]) for row in rows), DRAWS
        ),
        "half_width_nats": {
            "planted": float(np.mean([(row["high"] - row["low"]) / 2 for row in rows])),
            "swapped": float(np.mean([((t["high"] - t["low"]) / 2).mean() for t in swapped])),
        },
        "largest_change_of_the_untouched_domain": max(
            float(t.loc[t["domain"] == UNTOUCHED, "change"].abs().max()) for t in nulls
        ),
    }


def itself(base: Any) -> dict[str, Any]:
    """A model against a copy of itself."""
    given = {f"d{place}": cw.texts(letters, 100) for place, letters in enumerate(cw.ALPHABETS[:4])}
    result = compare(base, cw.copied(base), given, tolerances=dict.fromkeys(given, 0.0))
    numbers = result.changes[["change", "low", "high"]].to_numpy(dtype=float)
    return {
        "largest_number": float(np.abs(numbers).max()),
        "largest_kl": float(result.predictions["kl"].max()),
        "verdicts": sorted(set(result.changes["verdict"])),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    base = cw.base()
    tuned = cw.swapped(
        cw.worse_on(base, cw.ALPHABETS[0], RISE), [letters[:2] for letters in cw.ALPHABETS[2:]]
    )
    kinds = [PLANTED, UNTOUCHED, *(f"{SWAPPED} {place}" for place in range(1, 17))]
    whole = pool(base, tuned, cw.ALPHABETS[0], TRUTH, seed=7)
    truth = loss_harm(whole.tuned, whole.base, None)
    n = DRAWS * max(SIZES)
    readings = {
        kind: pool(base, tuned, letters, n, seed=1) for kind, letters in zip(kinds, cw.ALPHABETS, strict=True)
    }
    result = {
        "command": "python benchmarks/compare/planted.py",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("trimtab", "torch", "transformers", "scipy")},
        "python": platform.python_version(),
        "hardware": hardware(),
        "units": "shares over draws with Wilson's 95 % interval; changes in nats per token",
        "domains": {PLANTED: 1, UNTOUCHED: 1, SWAPPED: 16},
        "draws": DRAWS,
        "planted_rise": {"value": truth.value, "low": truth.low, "high": truth.high, "n": truth.units},
        "by_size": [judged(readings, truth.value, size) for size in SIZES],
        "itself": itself(base),
    }
    write_atomic(RESULT, to_json(result, indent=1) + "\n")
    print(to_json(result, indent=1))


if __name__ == "__main__":
    main()
