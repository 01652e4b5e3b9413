"""Lexicon analysis as a job: its recipe, the checks of it, its cost and its run.

Three simulated lexicons of the same referents are its references: sharp, overlapping, nested.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import cdist

from trimtab.data import tables
from trimtab.data.naming import NamingCounts, counts_column, is_lab
from trimtab.data.tables import Label
from trimtab.data.wordlist import WordList, unreadable_list
from trimtab.errors import DataError, Problem, explain, not_among
from trimtab.job import Elsewhere, Progress, Survey, TableFile, noting, unread_source
from trimtab.numerics.bootstrap import check_choice
from trimtab.refer.lexicon.contexts import Treatment, Trials, set_aside, treated
from trimtab.refer.lexicon.lexicon import FLEXIBILITIES, Frontier, Kind, Lexicon, Volume, bandwidth_of
from trimtab.refer.lexicon.result import LexiconResult, lab_to_hex, mean_colour
from trimtab.runs.brief import brief
from trimtab.runs.folder import RunFolder
from trimtab.runs.paths import missing_file
from trimtab.runs.serialise import plain
from trimtab.seeds import seed_problem

Shape = Literal["hard", "soft", "nested"]


def simulated_lexicon(features: pd.DataFrame, shape: Shape, words: int, *, width: float = 1.0) -> Lexicon:
    """Simulated lexicon of a given shape and number of words.

    Args:
        features: indexed by referent, one column per dimension.
        shape: "hard": one word per referent, regions by Ward's clustering; "soft": the same regions with centres, each
            word said in proportion to a normal density around its centre, so that words overlap; "nested": regions
            within regions, half as many words at each level, a referent's words (fine to coarse) all equally likely.
        words: how many in all; for "nested" the levels have words/2, words/4, ..., 1.
        width: of a soft word, in units of the mean distance of a referent to its centre.

    Raises:
        DataError: fewer than 2 words, or more than referents.
        ConfigError: an unknown shape.
    """
    check_choice("shape", shape, get_args(Shape))
    values = features.to_numpy(dtype=float)
    if not 2 <= words <= len(values):
        raise DataError(explain(f"{words} words for {len(values)} referents", f"2 to {len(values)}"))
    tree = linkage(values, "ward")
    if shape == "hard":
        naming = _regions(tree, words)
    elif shape == "soft":
        regions = _regions(tree, words)
        centres = (regions.T @ values) / regions.sum(axis=0)[:, None]
        distances = cdist(values, centres, "sqeuclidean")
        spread = width**2 * float((distances * regions).sum() / len(values))
        naming = np.exp(-(distances - distances.min(axis=1, keepdims=True)) / (2 * spread))
        naming[naming < 0.01] = 0.0
        naming /= naming.sum(axis=1, keepdims=True)
    else:
        left, levels = words, []
        while left > 0:
            levels.append(_regions(tree, (left + 1) // 2 if left > 1 else 1))
            left -= levels[-1].shape[1]
        naming = np.hstack(levels) / len(levels)
    return Lexicon(
        referents=tuple(features.index.tolist()),
        names=tuple(f"{shape} {number}" for number in range(1, naming.shape[1] + 1)),
        naming=naming,
        prior=np.full(len(values), 1.0 / len(values)),
        features=values,
        columns=tuple(map(str, features.columns)),
        bandwidth=bandwidth_of(features, values),
    )


def _regions(tree: np.ndarray, words: int) -> np.ndarray:
    """Naming matrix of Ward's clustering: one word per referent, that of its region."""
    regions = fcluster(tree, words, "maxclust")
    return np.eye(regions.max())[regions - 1]


DRAWN = 8
"""Words whose denotations are drawn."""
MOST_DRAWS = 1_000_000


@dataclass(frozen=True)
class LexiconConfig:
    """Recipe of a lexicon job: the lexicons behind naming data.

    Attributes:
        counts: CSV or Parquet file with columns referent, name, count; without count, each row counts 1.
        features: CSV or Parquet file with a column referent and one per dimension; L, a, b are CIELAB.
        kind: which informativeness: "kl" or "size".
        volume: how a denotation is measured, for "size": "cells", "hull" or "neighbours".
        smoothings: referents drawn from the prior that are added to each word. The first is used; contexts show all.
        lexicon: column that tells lexicons apart, such as the language; empty for one.
        context: column of contexts; empty for none.
        easy, hard: the contexts that are compared.
        cluster: column of what is drawn together, such as the game; empty for each referent's messages.
        heads: word list of what is named, to reduce names to; empty for names as they are.
        modifiers: word list of what narrows names down; needed with heads.
        treatments: of modifiers, for contexts. The first also makes the lexicon.
        flexibilities: of the speakers who are simulated.
        distractors: beside each referent, for the simulation.
        trials: of the simulation.
        frontier: whether to anneal the best lexicons, a minute or two for 330 referents.
        n_boot: resamples.
        seed: of everything drawn.
    """

    counts: TableFile
    features: TableFile
    system: Literal["lexicon"] = "lexicon"
    kind: Kind = "kl"
    volume: Volume = "cells"
    smoothings: tuple[float, ...] = (0.0,)
    lexicon: str = ""
    context: str = ""
    easy: Label = ""
    hard: Label = ""
    cluster: str = ""
    heads: str = ""
    modifiers: str = ""
    treatments: tuple[Treatment, ...] = ("stripped", "kept", "bare")
    flexibilities: tuple[float, ...] = FLEXIBILITIES
    distractors: int = 2
    trials: int = 2000
    frontier: bool = True
    n_boot: int = 2000
    seed: int = 0

    result: ClassVar = LexiconResult

    __repr__ = brief

    def problems(self) -> Iterator[Problem]:
        """Problems of the recipe that can be seen without reading more of the data than the names of its columns."""
        for name in ("counts", "features"):
            yield from missing_file(name, getattr(self, name), "a CSV or Parquet file")
        yield from _column_problems(self)
        for name in ("heads", "modifiers"):
            yield from unreadable_list(name, getattr(self, name), "a name such as colours-en")
        if bool(self.heads) != bool(self.modifiers):
            yield Problem("modifiers", repr(self.modifiers), "a word list beside heads, or neither")
        if self.context and len({tables.label_text(self.easy), tables.label_text(self.hard)} - {""}) < 2:
            yield Problem("easy, hard", repr((self.easy, self.hard)), "two different contexts")
        if not self.smoothings or not all(0 <= one < math.inf for one in self.smoothings):
            yield Problem("smoothings", str(list(self.smoothings)), "at least one number, none below 0")
        if not self.treatments:
            yield Problem("treatments", "none", "at least one of stripped, kept, bare")
        if not self.flexibilities or not all(0 <= one <= 1 for one in self.flexibilities):
            yield Problem("flexibilities", str(list(self.flexibilities)), "numbers in [0, 1]")
        for name in ("distractors", "trials", "n_boot"):
            if not 1 <= getattr(self, name) <= MOST_DRAWS:
                yield Problem(name, str(getattr(self, name)), f"at least 1, at most {MOST_DRAWS:,}")
        if problem := seed_problem("seed", self.seed):
            yield problem

    def cost(self) -> Mapping[str, Any]:
        """Cost in steps: the lexicon with its frontier, the lexicons, the simulation, and contexts."""
        contexts = len(self.treated()) * len(self.smoothings) if self.context else 0
        return {"steps": 3 + contexts}

    def treated(self) -> tuple[Treatment, ...]:
        """The treatments of modifiers in contexts: the first alone where no word list says what is a modifier."""
        return self.treatments if self.heads else self.treatments[:1]

    def survey(self) -> Survey:
        """Survey of the tables: messages, referents and names, of each lexicon and context, and features."""
        files = {"counts": self.counts, "features": self.features}
        if notes := tuple(filter(None, (unread_source(name, path) for name, path in files.items()))):
            return Survey(notes=notes)
        problems, found = list[Problem](), dict[str, pd.DataFrame]()
        with noting(problems, "counts"):
            given = NamingCounts.read(self.counts)
            found["counts"] = messages_table(given, self)
            if self.context and not problems:
                problems += context_problems(given, self)
            with noting(problems, "features"):
                features = features_table(self)
                columns = pd.DataFrame([{"referents": len(features), "columns": len(features.columns)}])
                found["features"] = columns
                given.features_of(features)
        return Survey(found, problems=tuple(problems))

    def run(self, folder: RunFolder | Elsewhere, progress: Progress) -> LexiconResult:  # noqa: ARG002
        """Lexicons of the data, measured alone and in context.

        Raises:
            DataError: the data does not hold what the config says.
        """
        start, steps, done = time.perf_counter(), self.cost()["steps"], itertools.count(1)

        def tell() -> None:
            progress(next(done), steps)

        given, features = NamingCounts.read(self.counts), features_table(self)
        counts, accounting = _reduced(given, self, self.treatments[0])
        whole = _fitted(counts, features, self)
        if len(whole.referents) <= max(2, self.distractors):
            got = f"{len(whole.referents)} referents that were named, {self.distractors} distractors"
            raise DataError(explain(got, "at least 3 referents, and more than distractors"))
        tell()
        frontier = whole.frontier() if self.frontier else None
        systems = _systems(counts, features, self, whole, frontier)
        tell()
        simulation = _simulation(whole, self)
        tell()
        contexts, aside, accounts = _contexts(given, features, self, tell)
        accounts = [accounting.assign(step=f"names, {self.treatments[0]}"), *accounts]
        config = plain(self)
        if not counts_column(tables.columns_of(self.counts)):
            config["counts of rows"] = "1 each: there is no column 'count'"
        for words in filter(None, (self.heads, self.modifiers)):
            config[f"source of {words}"] = WordList.read(words).described()
        return LexiconResult(
            label=f"lexicon: {Path(self.counts).stem}",
            words=whole.informativeness(),
            systems=systems,
            frontier=frontier.to_frame() if frontier else pd.DataFrame(),
            simulation=simulation,
            contexts=contexts,
            accounting=pd.concat(accounts, ignore_index=True)[["step", "reason", "n_messages"]],
            places=_places(whole, features),
            plane=_plane(whole, features),
            config=config,
            seconds=time.perf_counter() - start,
            aside=aside,
        )


def features_table(config: LexiconConfig) -> pd.DataFrame:
    """Features of a job, indexed by referent.

    Raises:
        DataError: a table that cannot be read, or without a referent in every row.
    """
    features = tables.read_table(config.features)
    tables.check_columns(features, ["referent"])
    tables.check_known(features, "referent")
    return features.set_index("referent")


def messages_table(counts: NamingCounts, config: LexiconConfig) -> pd.DataFrame:
    """Messages, referents and names: of all rows, of each lexicon, and of each context."""
    said = counts.table[counts.table["count"] > 0]
    parts = [("all", said)]
    for column in filter(None, (config.lexicon, config.context)):
        tables.check_columns(said, [column])
        parts += [(f"{column} {label}", part) for label, part in said.groupby(tables.labels(said[column]))]
    rows = [(n, int(p["count"].sum()), p["referent"].nunique(), p["name"].nunique()) for n, p in parts]
    return pd.DataFrame(rows, columns=["rows of", "messages", "referents", "names"])


def context_problems(counts: NamingCounts, config: LexiconConfig) -> Iterator[Problem]:
    """The contexts to be compared that no row has."""
    there = sorted(set(tables.labels(counts.table[config.context]).dropna()))
    for key in ("easy", "hard"):
        if (label := getattr(config, key)) != "" and tables.find_label(label, there) is None:
            yield not_among(key, label, there)


def _column_problems(config: LexiconConfig) -> list[Problem]:
    """Problems of columns that the tables lack, and of features that have none."""
    named = {"lexicon": config.lexicon, "context": config.context, "cluster": config.cluster}
    named = {key: value for key, value in named.items() if value}
    wanted = {"counts": "referent", "counts ": "name"} | named
    problems = tables.column_problems("counts", config.counts, wanted)
    problems += tables.column_problems("features", config.features, {"features": "referent"})
    problems = [replace(one, where=one.where.strip()) for one in problems]
    for name in ("counts", "features"):
        source = getattr(config, name)
        if (
            source.startswith("lab:")
            or not Path(source).is_file()
            or any(it.where == name for it in problems)
        ):
            continue
        try:
            columns = tables.columns_of(source)
            if name == "counts":
                counts_column(columns)
            elif set(columns) <= {"referent"}:
                raise DataError(explain("no column of features", "at least one beside the referent"))
        except DataError as error:
            problems.append(Problem(name, str(error), "a table that can be used"))
    return problems


def _reduced(
    counts: NamingCounts, config: LexiconConfig, treatment: Treatment
) -> tuple[NamingCounts, pd.DataFrame]:
    if not config.heads:
        return counts, pd.DataFrame({"reason": ["used"], "n_messages": [counts.total]})
    return treated(counts, WordList.read(config.heads), WordList.read(config.modifiers), treatment)


def _fitted(
    counts: NamingCounts, features: pd.DataFrame, config: LexiconConfig, smoothing: float | None = None
) -> Lexicon:
    chosen = config.smoothings[0] if smoothing is None else smoothing
    return Lexicon.fit(counts, features, kind=config.kind, volume=config.volume, smoothing=chosen)


def _systems(
    counts: NamingCounts,
    features: pd.DataFrame,
    config: LexiconConfig,
    whole: Lexicon,
    frontier: Frontier | None,
) -> pd.DataFrame:
    """System table: all names together, and each lexicon on its own where a column tells them apart."""
    lexicons = [("all", whole)]
    if config.lexicon:
        tables.check_columns(counts.table, [config.lexicon])
        tables.check_known(counts.table, config.lexicon)
        said = counts.table[counts.table["count"] > 0]
        for name, rows in said.groupby(tables.labels(said[config.lexicon])):
            lexicons.append((str(name), _fitted(NamingCounts.from_frame(rows), features, config)))
    systems = pd.DataFrame([{"lexicon": name, **vars(lexicon.system())} for name, lexicon in lexicons])
    # The frontier is that of all referents: a lexicon that lacks some cannot be placed beside it.
    same = [one if one.referents == whole.referents else None for _, one in lexicons]
    near = [frontier.inefficiency(one) if frontier and one else None for one in same]
    bits = [one.bits if one else np.nan for one in near]
    return systems.assign(inefficiency_bits=bits, beta=[one.beta if one else np.nan for one in near])


def _simulation(whole: Lexicon, config: LexiconConfig) -> pd.DataFrame:
    """Simulation of this lexicon and three simulated ones with as many words, on the same trials."""
    words = min(max(2, len(whole.names)), len(whole.referents) - 1)
    features = pd.DataFrame(whole.features, index=list(whole.referents), columns=list(whole.columns))
    every = {"as observed": whole}
    every |= {shape: simulated_lexicon(features, shape, words) for shape in get_args(Shape)}
    trials = Trials(config.trials, config.distractors, seed=config.seed)
    made = ((name, one.simulate(config.flexibilities, trials=trials)) for name, one in every.items())
    simulations = [table.assign(lexicon=name) for name, table in made]
    return pd.concat(simulations, ignore_index=True)


def _contexts(
    given: NamingCounts, features: pd.DataFrame, config: LexiconConfig, tell: Callable[[], None]
) -> tuple[pd.DataFrame, pd.DataFrame, list[pd.DataFrame]]:
    """Bits by context, the share of messages set aside by context, and what became of all messages."""
    if not config.context:
        return pd.DataFrame(), pd.DataFrame(), []
    rows, shares, accounts = [], [], []
    settings: dict[str, Any] = {"context": config.context, "cluster": config.cluster or None}
    settings |= {"n_boot": config.n_boot, "seed": config.seed, "easy": config.easy, "hard": config.hard}
    for treatment in config.treated():
        counts, reduced = _reduced(given, config, treatment)
        for smoothing in config.smoothings:
            lexicon = _fitted(counts, features, config, smoothing)
            measured = lexicon.in_context(counts, **settings)
            row = {"treatment": treatment, "smoothing": smoothing}
            rows.append(pd.DataFrame(row, index=measured.comparison.index).join(measured.comparison))
            tell()
        informative_names = [
            name for name, bits in zip(lexicon.names, lexicon.info_bits, strict=True) if np.isfinite(bits)
        ]
        informative = counts.table.index[counts.table["name"].isin(informative_names)]
        kept = pd.Series(given.table.index.isin(informative), index=given.table.index)
        share = set_aside(given, kept, **settings)
        share.insert(0, "treatment", treatment)
        shares.append(share)
        aside = reduced[reduced["reason"] != "used"]
        accounts.append(pd.concat([measured.accounting, aside]).assign(step=f"contexts, {treatment}"))
    return pd.concat(rows, ignore_index=True), pd.concat(shares, ignore_index=True), accounts


def _places(lexicon: Lexicon, features: pd.DataFrame) -> pd.DataFrame:
    """Coordinates of referents on the page: hue angle and lightness in CIELAB, else the first two features."""
    values = lexicon.features
    if is_lab(features):
        x, y = np.degrees(np.arctan2(values[:, 2], values[:, 1])) % 360 / 3.6, values[:, 0]
        colours = lab_to_hex(values)
    else:
        x, y = values[:, 0], values[:, 1] if values.shape[1] > 1 else np.zeros(len(values))
        colours = [""] * len(values)
    top = np.argsort(-lexicon.words, kind="stable")[:DRAWN]
    shares = {lexicon.names[word]: lexicon.naming[:, word] for word in top}
    base = {"referent": list(lexicon.referents), "x": x, "y": y, "colour": colours}
    return pd.DataFrame(base).join(pd.DataFrame(shares), rsuffix=" (word)")


def _plane(lexicon: Lexicon, features: pd.DataFrame) -> pd.DataFrame:
    """Words on the plane of complexity and accuracy, each with the mean colour of what it names, "" without colours."""
    frame = lexicon.plane()
    if not is_lab(features):
        return frame.assign(colour="")
    chips = lab_to_hex(lexicon.features)
    own = {
        name: mean_colour(chips, lexicon.naming[:, word] * lexicon.prior)
        for word, name in enumerate(lexicon.names)
    }
    return frame.assign(colour=frame["name"].map(own))
