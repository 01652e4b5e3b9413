"""World Color Survey: 110 languages on the plane of complexity and accuracy, beside the annealed frontier.

    python benchmarks/names/wcs.py --data DIR        writes benchmarks/results/names/wcs.json

DIR holds wcs_terms.parquet, wcs_chips.csv and wcs_languages.csv. p(w|m) of a language is the share of its speakers who
gave chip m the term w; missing answers are left out and counted (17 languages have a term that the source took for
missing). Chips are equally likely; meanings are clouds of variance 64 in CIELAB. The control turns each language's
terms round the hue circle by 10, 20 and 30 of 40 columns, which keeps all but the fit of words to the space.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from record import write

from trimtab.data.naming import NamingCounts, read_table
from trimtab.numerics.bootstrap import bootstrap, mean
from trimtab.refer.lexicon.job import simulated_lexicon
from trimtab.refer.lexicon.lexicon import Frontier, Lexicon

TURNS = (10, 20, 30)


def chips(folder: Path) -> pd.DataFrame:
    """Chips with their CIELAB and their place on the grid."""
    return read_table(folder / "wcs_chips.csv").set_index("chip")


def lexicons(folder: Path, features: pd.DataFrame) -> tuple[dict[int, Lexicon], dict[int, int]]:
    """The lexicon of each language, and how many answers it lacks."""
    terms = pd.read_parquet(folder / "wcs_terms.parquet")
    found, missing = {}, {}
    for language, own in terms.groupby("language"):
        given = own.dropna(subset="term")
        missing[int(language)] = len(own) - len(given)
        frame = given.groupby(["chip", "term"]).size().rename("count").reset_index()
        frame.columns = ["referent", "name", "count"]
        found[int(language)] = Lexicon.fit(NamingCounts.from_frame(frame), features)
    return found, missing


def turned(naming: np.ndarray, grid: pd.DataFrame, by: int) -> np.ndarray:
    """The same words, turned round the hue circle; achromatic chips stay."""
    column = grid["grid_col"].to_numpy()
    there = np.where(column == 0, 0, (column - 1 + by) % 40 + 1)
    place = {pair: k for k, pair in enumerate(zip(grid["grid_row"], column, strict=True))}
    return naming[[place[pair] for pair in zip(grid["grid_row"], there, strict=True)]]


def rows_of(found: dict[int, Lexicon], frontier: Frontier, grid: pd.DataFrame) -> list[dict[str, Any]]:
    """Each language on the plane, with its distance from the frontier and that of its turned twins."""
    rows = []
    for language, lexicon in found.items():
        whole = len(lexicon.referents) == len(grid)
        near = frontier.inefficiency(lexicon) if whole else None
        twins = (
            [frontier.inefficiency(turned(lexicon.naming, grid, by)).bits for by in TURNS] if whole else []
        )
        rows.append(
            {
                "language": language,
                **vars(lexicon.system()),
                "inefficiency_bits": near.bits if near else float("nan"),
                "beta": near.beta if near else float("nan"),
                "turned_inefficiency_bits": float(np.mean(twins)) if twins else float("nan"),
            }
        )
    return rows


def simulated(features: pd.DataFrame) -> list[dict[str, Any]]:
    """Accuracy against bits for made lexicons of three shapes and two sizes, on the same trials."""
    rows = []
    for words in (6, 14, 30):
        for shape in ("hard", "soft", "nested"):
            told = simulated_lexicon(features, shape, words).simulate()
            rows += told.assign(shape=shape, words=words).to_dict("records")
    return rows


def interval(values: pd.Series) -> dict[str, Any]:
    """The mean over languages with its interval."""
    return vars(bootstrap(mean, values.dropna().to_numpy()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    folder = parser.parse_args().data
    wall, cpu = time.perf_counter(), time.process_time()
    grid = chips(folder)
    features = grid[["L", "a", "b"]]
    found, missing = lexicons(folder, features)
    frontier = next(one for one in found.values() if len(one.referents) == len(grid)).frontier()
    table = pd.DataFrame(rows_of(found, frontier, grid))
    seconds = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    coded = read_table(folder / "wcs_languages.csv").set_index("language")["term_coded_NA"]
    table["missing_answers"] = table["language"].map(missing)
    table["term_coded_NA"] = table["language"].map(coded)
    clean = table[table["term_coded_NA"] == 0]
    summary = {
        "languages": len(table),
        "not_placed": table.loc[table["inefficiency_bits"].isna(), "language"].tolist(),
        "inefficiency_bits": interval(table["inefficiency_bits"]),
        "inefficiency_bits_without_coded_NA": interval(clean["inefficiency_bits"]),
        "turned_less_own": interval(table["turned_inefficiency_bits"] - table["inefficiency_bits"]),
        "languages_nearer_than_their_turned_twins": int(
            (table["turned_inefficiency_bits"] > table["inefficiency_bits"]).sum()
        ),
        "complexity_bits": interval(table["complexity_bits"]),
        "accuracy_bits": interval(table["accuracy_bits"]),
        "words_per_referent": interval(table["words_per_referent"]),
        "effective_words": interval(table["effective_words"]),
        **seconds,
    }
    body = {
        "summary": summary,
        "frontier": frontier.to_frame().to_dict("records"),
        "languages": table.to_dict("records"),
    }
    body["simulated"] = simulated(features)
    write("wcs", body, {"variance": 64, "turns": TURNS}, "95 % percentile bootstrap over languages or trials")
    print(pd.Series(summary))


if __name__ == "__main__":
    main()
