"""The README's table "What held and what did not", from the result files.

python benchmarks/readme.py [--write]    prints it; --write puts it between the README's two marks
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARKS = ("<!-- held -->\n", "<!-- /held -->")


SCENARIOS = 6
"""Scenarios of the benchmark of DynaMiCS before its verdicts are given."""


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def shown(found: Mapping[str, float], digits: int = 2, scale: float = 1.0, unit: str = "") -> str:
    """A value with its 95 % interval and its n."""
    value, low, high = (f"{scale * found[part]:.{digits}f}" for part in ("value", "low", "high"))
    return f"{value}{unit} [{low}, {high}], n = {found['n']}"


def dynamics() -> tuple[tuple[str, ...], ...]:
    """Constraints that were kept, gain beside a search and a control; not measured before enough scenarios are."""
    path = RESULTS / "dynamics" / "lab" / "summary.json"
    summary = read("dynamics/lab/summary.json") if path.is_file() else {"by_scenario": {}}
    rows = summary["all"] if len(summary["by_scenario"]) >= SCENARIOS else []
    row = next((row for row in rows if row["method"] == "ours"), None)
    kept = "DynaMiCS, defaults: constraints kept on test where a run claims it"
    gain = "DynaMiCS, defaults: gain within constraints less that of the best of five fixed runs, points"
    slopes = "DynaMiCS, defaults: that gain less that of runs whose rest keeps its first shares, points"
    unknown, none = ("-", "not measured", "dynamics"), {"n": 0}
    share, less = (row["kept_of_claimed"], row["over_best_of_five"]) if row else (none, none)
    control = summary["less_controls"]["ours, first rest"] if row else none
    return (
        (kept, "at least 95 %", shown(share, 0, 100, " %"), reached(share, 0.95), "dynamics")
        if share["n"]
        else (kept, "at least 95 %", *unknown),
        (gain, "above -1", shown(less, 1), reached(less, -1.0, whole=True), "dynamics")
        if less["n"] and less["low"] is not None
        else (gain, "above -1", *unknown),
        (slopes, "above 0", shown(control, 1), reached(control, 0.0, whole=True), "dynamics")
        if control["n"] and control["low"] is not None
        else (slopes, "above 0", *unknown),
    )


def reached(found: Mapping[str, float], least: float, *, whole: bool = False) -> str:
    """Held where the value is large enough, or the whole interval; did not where the interval lies below; else open."""
    if found["low" if whole else "value"] >= least:
        return "held"
    return "did not hold" if found["high"] < least else "open"


def forgetting() -> tuple[str, ...]:
    removed = read("forgetting/laws.json")["domains"]["far"]["share removed at 1 %"]
    verdict = "held" if removed["high"] >= 1 else "did not hold"
    claim = "1 % of pretraining data removes forgetting (share removed)"
    return claim, "all", shown(removed, 0, 100, " %"), verdict, "forgetting"


def steering() -> tuple[str, ...]:
    found = [
        row["all"]
        for row in read("steering/summary.json")["end_to_end_less_local"]
        if (row.get("of"), row.get("score")) == ("LinEAS, gamma .3", "insult_rate at KL 0.05")
    ]
    better = [row["high"] < 0 for row in found]
    verdict = "held" if all(better) else "partly" if any(better) else "did not hold"
    worst = max(found, key=lambda row: row["value"])
    claim = "LinEAS: maps learned end to end less site by site, rate of insults at equal cost, worse of two worlds"
    return claim, "below 0", shown(worst, 3), verdict, "steering"


def hypertransport() -> tuple[str, ...]:
    found = read("hypertransport/scenes.json")
    verdict = next(one["verdict"] for one in found["verdicts"] if one["claim"] == "ridge")
    claim = "HyperTransport: share of an unseen concept at equal input, less ridge regression (lab scenes)"
    return claim, "above 0", shown(found["overall"]["ridge"], 3), verdict, "hypertransport"


def experts() -> tuple[str, ...]:
    found = next(
        row
        for row in read("experts/minilm.json")["table"]
        if (row["row"], row["ratings"]) == ("experts with AP above 0.5, Jaccard", "men")
    )
    verdict = "held" if found["low"] <= 0.79 and found["high"] >= 0.70 else "did not hold"
    claim = "ExpertLens: rank correlation with people's similarity ratings (MEN)"
    return (
        claim,
        "0.70 to 0.79",
        shown({**found, "value": found["rho"], "n": found["n_concepts"]}),
        verdict,
        "expertlens",
    )


def naming() -> tuple[str, ...]:
    gap = read("names/manynames.json")["people"]["audit"]["gap"]
    verdict = "held" if gap["high"] < 0 else "did not hold"
    claim = "Naming bias: women named by their sport, less men (ManyNames)"
    return claim, "below 0", shown(gap, 3), verdict, "naming-bias"


def lexicon() -> tuple[str, ...]:
    nearer = read("names/wcs.json")["summary"]["turned_less_own"]
    verdict = "held" if nearer["low"] > 0 else "did not hold"
    claim = "Colour lexicons of languages lie nearer the efficiency frontier than rotated ones, bits"
    return claim, "above 0", shown(nearer, 3), verdict, "lexicon"


def captions() -> tuple[str, ...]:
    found = claimed("an independent listener finds more pictures too")["test P@1 random, independent"]
    verdict = "held" if found["low"] > 0 else "did not hold"
    claim = "DiscriTune: P@1 of 100 of an independent listener, after less before (lab scenes)"
    return claim, "above 0", shown(found), verdict, "discritune"


def in_domain() -> tuple[str, ...]:
    (found,) = claimed("captions lie only slightly further from people's of the training").values()
    verdict = "held" if found["low"] >= -0.2 else "did not hold"
    claim = "DiscriTune: CIDEr-D against captions of the training, change"
    return claim, "at least -20 %", shown(found, 0, 100, " %"), verdict, "discritune"


def claimed(claim: str) -> Any:
    """Differences behind a claim of the paper, of the quickstart's settings."""
    rows = read("captions/discritune.json")["claims"]
    arm = "leave-one-out, KL .1"
    return next(row["differences"] for row in rows if (row["claim"], row["arm"]) == (claim, arm))


def heard() -> tuple[str, ...]:
    rows = read("intelligibility/scenes.json")["interactions"]
    found = next(row for row in rows if (row["kind"], row["speaker"]) == ("less control", "tuned"))
    verdict = "held" if found["low"] > 0 else "did not hold"
    claim = "Intelligibility: tuning suits its own listener, beyond true full captions (interaction)"
    return claim, "above 0", shown({**found, "n": found["n_groups"]}, 3), verdict, "intelligibility"


def leaks() -> tuple[str, ...]:
    rows = read("leaks/real.json")["table"]
    wanted = {"attribute": "city", "level": "logprobs", "encoding": "served", "k": 20}
    found = next(row for row in rows if wanted.items() <= row.items())
    verdict = "held" if found["low"] > 0 else "did not hold"
    claim = "Leak audit: bits about a city nobody asked for, in 20 log-probabilities (SmolLM2)"
    return claim, "above 0", shown({**found, "value": found["bits"]}), verdict, "leaks"


def table() -> str:
    """The table as Markdown."""
    head = "| claim | expected | measured, 95 % interval | verdict | more |\n|---|---|---|---|---|\n"
    rows = [
        *dynamics(),
        forgetting(),
        steering(),
        hypertransport(),
        experts(),
        naming(),
        lexicon(),
        captions(),
        in_domain(),
        heard(),
        leaks(),
    ]
    return head + "".join(
        f"| {claim} | {expected} | {measured} | {verdict} | [results](docs/results/{page}.md) |\n"
        for claim, expected, measured, verdict, page in rows
    )


def main() -> None:
    readme = ROOT / "README.md"
    if "--write" not in sys.argv[1:]:
        print(table())
        return
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    readme.write_text(before + MARKS[0] + table() + MARKS[1] + rest.split(MARKS[1])[1], encoding="utf-8")


if __name__ == "__main__":
    main()
