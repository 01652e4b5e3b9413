"""Colours in context, Mandarin: human success by context, and whether hard contexts get more informative words.

    python benchmarks/names/chinese.py --data DIR        writes benchmarks/results/names/chinese.json

DIR holds colors_zh.csv.gz. Success counts trials (the first row of each game and round). A referent is a cell of hue
(30 degrees) and saturation (25 points); lightness is always 50. Names are what speakers typed, reduced to colour words,
with modifiers stripped, kept, or messages without one only. Drawn together: the game.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from record import write
from scipy.special import rel_entr

from trimtab.data.naming import NamingCounts, read_table
from trimtab.data.wordlist import WordList
from trimtab.numerics.cluster_bootstrap import bootstrap_totals, units_of
from trimtab.refer.lexicon.contexts import set_aside, treated
from trimtab.refer.lexicon.lexicon import Lexicon

CONTEXTS = ("far", "split", "close")
TREATMENTS, SMOOTHINGS = ("stripped", "kept", "bare"), (0.0, 1.0, 2.0)
CELLS = ((60, 50), (30, 25), (15, 25), (15, 12.5))
"""Sizes of cells: degrees of hue, points of saturation. The second is that of the other tables."""
PUBLISHED = {"far": 0.925, "split": 0.859, "close": 0.797}


def success(messages: pd.DataFrame) -> list[dict[str, object]]:
    """Share of trials in which the listener clicked the target, clustered by game."""
    trials = messages.drop_duplicates(["game_id", "round"])
    place = trials["condition"].map({one: k for k, one in enumerate(CONTEXTS)}).to_numpy()
    values = np.column_stack([trials["outcome"], np.ones(len(trials))])
    units = units_of(values, place, len(CONTEXTS), pd.factorize(trials["game_id"])[0])
    found = bootstrap_totals(lambda totals: totals[..., 0] / totals[..., 1], units)
    sizes = np.bincount(place)
    return [
        {
            "context": one,
            "success": found.values[k],
            "low": found.low[k],
            "high": found.high[k],
            "trials": int(sizes[k]),
            "games": found.n,
            "published": PUBLISHED[one],
        }
        for k, one in enumerate(CONTEXTS)
    ]


def naming(messages: pd.DataFrame, size: tuple[float, float] = (30, 25)) -> tuple[NamingCounts, pd.DataFrame]:
    """What speakers said of each cell of colours, and the cells on the plane of hue and saturation."""
    said = messages[messages["role"] == "speaker"]
    hue, saturation = said["target_h"].astype(int), said["target_s"].astype(int)
    column = (saturation // size[1]).clip(upper=100 // size[1] - 1)
    cell = (hue // size[0]).astype(int).astype(str) + "/" + column.astype(int).astype(str)
    frame = pd.DataFrame(
        {
            "referent": cell,
            "name": said["contents"],
            "count": 1,
            "context": said["condition"],
            "game": said["game_id"],
        }
    )
    angle = np.radians(hue)
    points = pd.DataFrame({"x": saturation * np.cos(angle), "y": saturation * np.sin(angle)})
    blank = frame["name"].str.strip() == ""
    return NamingCounts.from_frame(frame[~blank]), points.groupby(cell).mean()


def in_contexts(counts: NamingCounts, features: pd.DataFrame) -> list[dict[str, object]]:
    """Bits by context, for each treatment of modifiers, smoothing, and pair of contexts."""
    heads, modifiers = WordList.read("colours-zh"), WordList.read("modifiers-zh")
    rows = []
    for treatment in TREATMENTS:
        own, accounting = treated(counts, heads, modifiers, treatment)
        for smoothing in SMOOTHINGS:
            lexicon = Lexicon.fit(own, features, smoothing=smoothing)
            for easy, hard in (("far", "close"), ("far", "split"), ("split", "close")):
                told = lexicon.in_context(own, easy, hard, cluster="game").comparison
                rows += told.assign(
                    treatment=treatment, smoothing=smoothing, pair=f"{hard} less {easy}"
                ).to_dict("records")
        rows[-1]["messages_by_reason"] = accounting.set_index("reason")["n_messages"].to_dict()
    return rows


def over_cells(messages: pd.DataFrame) -> list[dict[str, object]]:
    """Close less far for the same referents, modifiers stripped, over sizes of cells, smoothings and a correction."""
    heads, modifiers = WordList.read("colours-zh"), WordList.read("modifiers-zh")
    rows: list[dict[str, object]] = []
    for size in CELLS:
        given, features = naming(messages, size)
        own, _ = treated(given, heads, modifiers, "stripped")
        for smoothing in (*SMOOTHINGS, None):
            lexicon = Lexicon.fit(own, features, smoothing=smoothing or 0.0)
            if smoothing is None:
                lexicon = corrected(lexicon)
            told = lexicon.in_context(own, "far", "close", cluster="game").comparison.iloc[3]
            about = {"hue": size[0], "saturation": size[1], "cells": len(lexicon.referents)}
            about |= {"smoothing": "corrected" if smoothing is None else smoothing}
            rows.append(about | told.to_dict())
    return rows


def unknown_words(counts: NamingCounts) -> list[dict[str, object]]:
    """The share of messages without a colour word of the list, far against close."""
    own, _ = treated(counts, WordList.read("colours-zh"), WordList.read("modifiers-zh"), "stripped")
    kept = pd.Series(counts.table.index.isin(own.table.index), index=counts.table.index)
    return set_aside(counts, kept, "far", "close", cluster="game").to_dict("records")


def corrected(lexicon: Lexicon, draws: int = 500) -> Lexicon:
    """Bits less what chance gives a word said as often: those of so many referents drawn from the prior.

    A word said once seems to single out one cell, whatever it means; n messages at random seem to tell
    KL(their shares || prior) bits.
    """
    assert lexicon.counts is not None
    rng = np.random.default_rng(0)
    expected = {}
    for n in set(lexicon.counts.astype(int)):
        shares = rng.multinomial(n, lexicon.prior, size=draws) / n
        expected[n] = float(rel_entr(shares, lexicon.prior).sum(axis=1).mean() / np.log(2))
    bits = lexicon.info_bits - np.array([expected[n] for n in lexicon.counts.astype(int)])
    made = replace(lexicon)
    made.__dict__["info_bits"] = bits
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    messages = read_table(parser.parse_args().data / "colors_zh.csv.gz")
    counts, features = naming(messages)
    rows = in_contexts(counts, features)
    cells, aside = over_cells(messages), unknown_words(counts)
    body = {"success": success(messages), "default_measure": "kl", "in_context": rows, "over_cells": cells}
    body |= {"set_aside": aside}
    write(
        "chinese",
        body,
        {"n_boot": 2000, "seed": 0, "cells": len(features)},
        "95 % percentile bootstrap over games",
    )
    for row in body["success"]:
        print(row)
    print(*aside, sep="\n")
    for row in cells:
        print({k: row[k] for k in ("hue", "saturation", "cells", "smoothing", "difference", "low", "high")})
    for row in rows:
        if row["comparison"] == "same referents, both contexts' mix" and row["pair"] == "close less far":
            print(
                row["treatment"],
                row["smoothing"],
                {k: round(float(row[k]), 3) for k in ("easy", "hard", "difference", "low", "high")},
            )


if __name__ == "__main__":
    main()
