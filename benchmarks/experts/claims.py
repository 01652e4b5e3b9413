"""Claims about experts, and the rules by which they held or did not, from intervals of the result files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from causal import TAU

from trimtab.numerics.bootstrap import Interval
from trimtab.read.experts.agreement import side as side_of

sys.path.append(str(Path(__file__).parents[1]))
from claims_table import Claim, of_all, touch
from pages import number, percent, span
from verdicts import above, below, side

LEAST_RHO, MOST_RHO = 0.70, 0.79
"""Range of the paper's rho on MEN, of causal models of 70M to 12B parameters (Fedzechkina et al. 2026)."""
RATINGS = {"men": "MEN", "simlex999": "SimLex"}
EXPERTS, BASELINE, CONTROL = "experts", "baseline", "control"
WORDS = "shared words (TF-IDF centroids)"
MEASURED = f"AP above {TAU:g}"
"""The similarity of the first column of the causal model's table, at the cut of the settings."""
NAME = "SmolLM2"
"""What the real language model is called in a claim."""
Found = Mapping[str, Any]


def rows_of(table: Sequence[Found], role: str) -> dict[str, dict[str, Found]]:
    """Rows of a role by name and ratings."""
    found: dict[str, dict[str, Found]] = {}
    for row in table:
        if row["role"] == role:
            found.setdefault(row["row"], {})[row["ratings"]] = row
    return found


def headline(encoder: Found) -> str:
    """The row of the cut that the settings name."""
    return f"experts with AP above {encoder['settings']['tau']:g}, Jaccard"


def gaps(differences: Found | None) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Each row of experts less each baseline, by row, baseline and ratings, with the verdict of its interval."""
    return {
        (row["row"], row["against"], row["ratings"]): {
            "value": row["difference"],
            **{name: row[name] for name in ("low", "high")},
            "n": row["n_concepts"],
            "side": side_of(Interval(row["difference"], row["low"], row["high"], row["n_concepts"])),
        }
        for row in (differences or {"differences": []})["differences"]
    }


def rated(one: Found, sign: str = "") -> str:
    """A value of rated words with its interval and their number."""
    return f"{span(one, of='rho' if 'rho' in one else 'value', sign=sign)}, n = {one.get('n_concepts', one.get('n'))}"


def by_ratings(found: Mapping[str, Found], sign: str = "") -> str:
    """One value for each set of ratings."""
    return "; ".join(f"{RATINGS[name]} {rated(one, sign)}" for name, one in found.items())


def of_encoder(encoder: Found, differences: Found | None) -> Iterator[Claim]:
    """Claims about the sentence encoder."""
    row, every = headline(encoder), rows_of(encoder["table"], EXPERTS)
    men = every[row]["men"]
    yield Claim(
        f"on MEN the overlap of experts correlates with people's ratings at {number(LEAST_RHO)} to {number(MOST_RHO)}",
        "paper, of causal models",
        "the interval of rho overlaps that range",
        f"{rated(men)} words",
        of_all([touch(men, {"low": LEAST_RHO, "high": MOST_RHO})]),
    )
    found = {key: gap for key, gap in gaps(differences).items() if key[0] == row}
    words = {ratings: gap for (_, against, ratings), gap in found.items() if against == WORDS}
    if words:
        yield Claim(
            "experts agree more with people than shared words do",
            "ours",
            "the difference lies above zero on each set of ratings",
            by_ratings(words, "+"),
            of_all([gap["side"] == "above" for gap in words.values()]),
        )
    embeddings = [gap for key, gap in found.items() if key[1] != WORDS]
    if embeddings:
        each = [gap["side"] for gap in embeddings]
        ends = (pick(embeddings, key=lambda gap: gap["value"]) for pick in (min, max))
        yield Claim(
            "experts agree more with people than embeddings do",
            "paper, of causal models",
            "the difference lies above zero for each embedding and set of ratings",
            f"above zero in {each.count('above')} of {len(each)}, below in {each.count('below')}: "
            + " to ".join(rated(gap, "+") for gap in ends),
            of_all([one == "above" for one in each]),
        )
    controls = [row for row in encoder["table"] if row["role"] == CONTROL]
    empty = [row["low"] <= 0 <= row["high"] for row in controls]
    yield Claim(
        "controls, which must not agree with people, do not",
        "ours",
        "the interval of rho holds zero, for each control and set of ratings",
        f"it does in {sum(empty)} of {len(empty)}",
        of_all(empty),
    )
    permuted, fdr = encoder["facts"]["permuted_with_any_expert"], encoder["settings"]["fdr"]
    yield Claim(
        f"at a false discovery rate of {fdr:g} permuted labels have an expert no more often than that",
        "ours",
        "the interval of the share of concepts reaches down to that rate",
        f"{percent(permuted)}, n = {permuted['n']} concepts",
        of_all([permuted["low"] <= fdr]),
    )


def ends_of_training(causal: Found) -> tuple[Found, Found]:
    """The table's rows at random weights and at the last checkpoint."""
    rows = sorted(causal["alignment"], key=lambda row: row["step"])
    return rows[0], rows[-1]


def of_causal(causal: Found | None) -> Iterator[Claim]:
    """Claims about the causal model."""
    if causal is None:
        return
    start, end = ends_of_training(causal)
    first, last = start[MEASURED], end[MEASURED]
    yield Claim(
        "the overlap of a causal model's experts comes to follow topics",
        "ours",
        "the interval of rho lies above zero at the last checkpoint, and holds zero at random weights",
        f"{span(last, of='rho')} and {span(first, of='rho')}, n = {last['n_concepts']} nouns",
        of_all([side(last) == "above", side(first) not in ("above", "below")]),
    )
    for way, verb, rule in (("force", "raises", above), ("silence", "lowers", below)):
        means = causal["effects"][f"step {end['step']}, {way}"]["means"]
        beyond = {name: means[f"experts - {name}"] for name in ("random", "matched")}
        told = (f"{span(one, sign='+')} less {name} units" for name, one in beyond.items())
        yield Claim(
            f"to {way} experts of a topic {verb} the probability of its words, beyond other units",
            "ours",
            f"the difference of both lies {'above' if rule is above else 'below'} zero",
            f"{'; '.join(told)}, n = {beyond['random']['n']} topics",
            rule(list(beyond.values())),
        )
    untrained = [
        one
        for way in ("force", "silence")
        for name, one in causal["effects"][f"step {start['step']}, {way}"]["means"].items()
        if name.startswith("experts - ")
    ]
    quiet = [side(one) not in ("above", "below") for one in untrained]
    yield Claim(
        "with random weights neither does anything beyond other units",
        "ours",
        "the interval of each difference holds zero",
        f"it does in {sum(quiet)} of {len(quiet)}",
        of_all(quiet),
    )


def of_language_model(found: Found | None) -> Iterator[Claim]:
    """The paper's two claims about causal models, on a real one."""
    if found is None:
        return
    row = headline(found)
    men = rows_of(found["table"], EXPERTS)[row]["men"]
    yield Claim(
        f"{NAME}: on MEN the overlap of experts correlates at {number(LEAST_RHO)} to {number(MOST_RHO)}",
        "paper",
        "the interval of rho overlaps that range",
        f"{rated(men)} words",
        of_all([touch(men, {"low": LEAST_RHO, "high": MOST_RHO})]),
    )
    each = {against: gap for (own, against, _), gap in gaps(found).items() if own == row and against != WORDS}
    yield Claim(
        f"{NAME}: experts agree more with people than embeddings do",
        "paper",
        "the difference on MEN lies above zero for each embedding",
        "; ".join(f"less {against} {rated(gap, '+')}" for against, gap in each.items()),
        of_all([gap["side"] == "above" for gap in each.values()]),
    )


def judged(
    encoder: Found, differences: Found | None, causal: Found | None, language: Found | None = None
) -> list[Claim]:
    """Every claim with its verdict."""
    return [*of_encoder(encoder, differences), *of_language_model(language), *of_causal(causal)]
