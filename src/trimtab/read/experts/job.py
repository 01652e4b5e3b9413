"""ExpertLens as a job: what a recipe says, whether it can work, what it will take, and carrying it out.

What a result of ExpertLens tells of a lens: its concepts, where experts are, the best of them, single numbers.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from trimtab.data.concept import NOT_NOUNS, PARTS_OF_SPEECH, is_token, is_wordnet, sentences_of
from trimtab.data.concepts import ConceptSet
from trimtab.errors import ConfigProblems, DataError, Problem, explain
from trimtab.models.batches import Pool
from trimtab.models.load import load, name_problems
from trimtab.numerics.bootstrap import Interval, bootstrap, mean
from trimtab.read.experts.agreement import DIFFERENCES
from trimtab.read.experts.baselines import COLUMNS, Alignment, alignment, false_discoveries, rows
from trimtab.read.experts.lens import ExpertLens
from trimtab.read.experts.ratings import Judged, RatingsFile, judged, most_rated, ratings_file
from trimtab.read.experts.result import ExpertsResult
from trimtab.report.formats import missing
from trimtab.runs.folder import at_work
from trimtab.runs.paths import missing_file
from trimtab.runs.serialise import plain

SHOWN = 10
"""Experts of each concept that a result keeps."""


def concepts_table(lens: ExpertLens, tau: float, fdr: float) -> pd.DataFrame:
    """A row per concept: its examples, its experts by either rule, and whether its halves agree on them."""
    nothing = np.full(len(lens.concepts), np.nan)
    stable = (
        lens.stability(tau=tau).concepts if lens.can_be_halved else {"overlap": nothing, "found": nothing}
    )
    return pd.DataFrame(
        {
            "concept": lens.concepts.names,
            "positive": [len(concept.positive) for concept in lens.concepts],
            "negative": [len(concept.negative) for concept in lens.concepts],
            "experts": lens.sets(tau=tau).sum(1),
            "found": lens.sets(fdr=fdr).sum(1),
            "best": lens.precision.max(1),
            "overlap": np.asarray(stable["overlap"]),
            "retrieved": np.asarray(stable["found"]),
        }
    )


def counts_table(lens: ExpertLens, tau: float) -> pd.DataFrame:
    """A row per site: its units, its experts over all concepts, and their share, mean over concepts."""
    counts = lens.counts(tau=tau).sum()
    frame = pd.DataFrame({"site": counts.index, "units": lens.units.widths, "experts": counts.to_numpy()})
    frame["share"] = frame["experts"] / (frame["units"] * len(lens.concepts))
    return frame


def best_experts(lens: ExpertLens) -> pd.DataFrame:
    """The units with the highest average precision of each concept: columns concept, site, unit, ap, q."""
    top = min(SHOWN, len(lens.units))
    frames = [lens.experts(name, top=top).assign(concept=name) for name in lens.concepts.names]
    return pd.concat(frames, ignore_index=True)[["concept", "site", "unit", "ap", "q"]]


def single_numbers(lens: ExpertLens, tau: float, fdr: float, concepts: pd.DataFrame) -> dict[str, Any]:
    """What is told of all concepts at once; rates and means with their intervals over concepts and n."""
    overlap = retrieval = Interval(np.nan, np.nan, np.nan, 0)
    if lens.can_be_halved:
        stable = lens.stability(tau=tau)
        overlap, retrieval = stable.overlap, stable.retrieval
    return {
        "units": len(lens.units),
        "concepts": len(lens.concepts),
        "examples": len(lens.concepts.pool.examples),
        "cut": int(lens.responses.cut.sum()),
        "experts": asdict(bootstrap(mean, concepts["experts"].to_numpy(dtype=float))),
        "found": asdict(bootstrap(mean, concepts["found"].to_numpy(dtype=float))),
        "overlap_of_halves": asdict(overlap),
        "retrieved_by_halves": asdict(retrieval),
        "permuted_with_any_expert": asdict(false_discoveries(lens, fdr)),
        "tau": tau,
        "fdr": fdr,
    }


Progressor = Callable[[int, int], None]
LEAST = {"top": 1, "positives": 2, "negatives": 2, "most": 2, "max_tokens": 2, "batch_size": 1}


@dataclass(frozen=True)
class ExpertLensConfig:
    """Concepts to look for in a model, and ratings to compare them by.

    Attributes:
        model: a hub name or a folder.
        concepts: a file of concepts (JSON lines of name, positive, negative), or one of WordNet sentences; from those
            the words of the ratings become concepts.
        ratings: name -> CSV file with word1, word2, score; none leaves alignment out.
        reliability: name -> reliability of these ratings in (0, 1], where it is known, for the ceiling.
        sites: where units are; "*" means the outputs of all linear maps of every block.
        pool: how the tokens of an example become one response.
        tau: average precision above which a unit is an expert.
        top: experts of each concept in the rows that have a fixed number.
        fdr: false discovery rate for the counts of experts.
        pos: parts of speech of the WordNet entries that sentences are taken from ("n", "v", "a", "r").
        positives: sentences of each word, from WordNet.
        negatives: of each, from WordNet.
        most: words taken from WordNet: those that keep the most rated pairs.
        max_tokens: longer texts are cut.
        batch_size: examples at a time.
        dtype: "float32", "bfloat16" or "float64"; null for the checkpoint's own.
        device: null for the first accelerator, else the CPU.
        seed: of all that is drawn.
    """

    model: str
    concepts: str
    system: Literal["expertlens"] = "expertlens"
    ratings: Mapping[str, str] = field(default_factory=dict)
    reliability: Mapping[str, float] = field(default_factory=dict)
    sites: tuple[str, ...] = ("*",)
    pool: Pool = "max"
    tau: float = 0.5
    top: int = 200
    fdr: float = 0.05
    pos: tuple[str, ...] = NOT_NOUNS
    positives: int = 24
    negatives: int = 60
    most: int = 300
    max_tokens: int = 128
    batch_size: int = 32
    dtype: Literal["float32", "bfloat16", "float64"] | None = None
    device: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a job came to."""

    result: ExpertsResult
    report_path: Path

    def table(self) -> str:
        """The table as plain text, with what its intervals cover."""
        shown = self.result.to_frame().drop(columns=NOT_PRINTED, errors="ignore")
        parts = [_as_text(shown), *_differences_in_words(self.result.table)]
        parts.append("\n".join(_facts_in_words(self.result.facts)))
        return "\n\n".join(parts) + (f"\n{READING}" if len(self.result.table) else "")

    def to_json(self) -> str:
        """The table, the differences between its rows and the single numbers as JSON."""
        frames = {"table": self.result.table, "concepts": self.result.concepts}
        frames["differences"] = self.result.differences
        told = {name: plain(frame.to_dict("records")) for name, frame in frames.items()}
        return json.dumps(
            {**told, "facts": plain(self.result.facts), "seconds": self.result.seconds}, indent=2
        )


READING = (
    "rho: Spearman's correlation with the scores over pairs; low, high: 95 %, over concepts; mantel_p: concepts\n"
    "dealt out anew; ceiling: what the reliability of the similarities allows, for ratings without error unless theirs "
    "is stated.\nDifferences are drawn in pairs, with the same concepts for both rows."
)
NOT_PRINTED = ["role", "note", "source", "difference", "difference_low", "difference_high", "told"]


@dataclass(frozen=True)
class Estimate:
    """What a job will take, at most."""

    steps: int

    def to_text(self) -> str:
        """One line per quantity."""
        return f"passes over all examples  {self.steps}"


def check(config: ExpertLensConfig) -> list[Problem]:
    """Every mistake that can be seen without loading a model or downloading anything."""
    found = [
        Problem(name, str(getattr(config, name)), f"at least {least}")
        for name, least in LEAST.items()
        if getattr(config, name) < least
    ]
    if not 0 <= config.tau < 1:
        found.append(Problem("tau", str(config.tau), "a number in [0, 1)"))
    if not 0 < config.fdr < 1:
        found.append(Problem("fdr", str(config.fdr), "a number in (0, 1)"))
    if not config.pos or set(config.pos) - set(PARTS_OF_SPEECH):
        found.append(Problem("pos", str(list(config.pos)), f"some of {list(PARTS_OF_SPEECH)}"))
    if config.seed < 0:
        found.append(Problem("seed", str(config.seed), "0 or more"))
    if not config.sites:
        found.append(Problem("sites", "none", 'at least one pattern, or "*"'))
    found += missing_file("concepts", config.concepts)
    return [*found, *_ratings_problems(config), *name_problems(config.model)]


def estimate(config: ExpertLensConfig) -> Estimate:
    """Passes over the examples: experts, and with ratings also embeddings, random weights and masked words."""
    return Estimate(4 if config.ratings else 1)


def run(config: ExpertLensConfig, folder: Path, progress: Progressor | None = None) -> Outcome:
    """Carry the job out in `folder`.

    Args:
        config: the job.
        folder: of the run.
        progress: told how many examples were read.

    Raises:
        ConfigProblems: the config cannot work.
        DataError: concepts or ratings that cannot be used.
    """
    if problems := check(config):
        raise ConfigProblems(problems)
    with at_work(folder, config) as held:
        result = _carried_out(config, progress)
        result.save(held.path)
        report = result.report(folder / "report.html")
    return Outcome(result, report)


def read_concepts(config: ExpertLensConfig, ratings: Mapping[str, pd.DataFrame]) -> ConceptSet:
    """The concepts of a job.

    Raises:
        DataError: a file that is neither concepts nor WordNet's, or WordNet's without ratings to take words from.
    """
    path = Path(config.concepts).expanduser()
    if not is_wordnet(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the result tells what is found
            return ConceptSet.from_jsonl(path)
    if not ratings:
        raise DataError(
            f"ratings: {explain('none, beside WordNet sentences', 'ratings, to take words from')}"
        )
    sides = ("word1", "word2")
    lowered = {
        name: frame.assign(**{side: frame[side].astype(str).str.strip().str.lower() for side in sides})
        for name, frame in ratings.items()
    }
    words = {word for frame in lowered.values() for side in sides for word in frame[side]} - {""}
    found = sentences_of(path, words, config.pos)
    enough = [word for word, sentences in found.items() if len(sentences) >= config.positives]
    kept = most_rated(lowered, enough, config.most)
    concepts = ConceptSet.from_sentences(
        {word: found[word] for word in kept},
        positives=config.positives,
        negatives=config.negatives,
        seed=config.seed,
    )
    never = sorted(word for word in words if not is_token(word))
    few = len(words) - len(enough) - len(never)
    note = f"of {len(words)} rated words {len(kept)} are concepts: left out were "
    note += f"{few} with fewer than {config.positives} sentences, "
    if never:
        note += f"{len(never)} that are not one word of letters, such as {never[0]!r}, "
    note += f"and {len(enough) - len(kept)} with the fewest rated pairs"
    return ConceptSet(concepts.concepts, (note,))


def _carried_out(config: ExpertLensConfig, progress: Progressor | None) -> ExpertsResult:
    start = time.perf_counter()
    files = {name: ratings_file(path) for name, path in config.ratings.items()}
    ratings = {name: file.frame for name, file in files.items()}
    concepts = read_concepts(config, ratings)
    if len(concepts) < 2:
        got = f"the single concept {concepts.names[0]!r}"
        raise DataError(
            f"{config.concepts}: {explain(got, 'at least two to compare', 'ExpertLens.experts for one')}"
        )
    known = {name: _judged(name, file, concepts.names) for name, file in files.items()}
    model = load(config.model, dtype=config.dtype, device=config.device)
    lens = ExpertLens.fit(
        model,
        concepts,
        config.sites,
        pool=config.pool,
        batch_size=config.batch_size,
        max_tokens=config.max_tokens,
        seed=config.seed,
        progress=progress,
    )
    lens.responses.progress = None
    top = min(config.top, max(1, len(lens.units) // 4))
    found = Alignment(pd.DataFrame(columns=COLUMNS), pd.DataFrame(columns=["ratings", *DIFFERENCES]))
    if known:
        found = alignment(list(rows(lens, config.tau, top)), lens, known, config.reliability)
    by_concept = concepts_table(lens, config.tau, config.fdr)
    return ExpertsResult(
        label=Path(config.model).name,
        table=found.table,
        differences=found.differences,
        concepts=by_concept,
        counts=counts_table(lens, config.tau),
        similarity=lens.similarity(tau=config.tau),
        experts=best_experts(lens),
        facts=single_numbers(lens, config.tau, config.fdr, by_concept),
        findings=tuple(_findings(config, lens, known, top)),
        config=plain(config),
        seconds=time.perf_counter() - start,
    )


def _judged(name: str, file: RatingsFile, names: list[str]) -> Judged:
    try:
        return judged(file.frame, names, file.rows)
    except DataError as error:
        raise DataError(f"ratings.{name}: {error}") from error


def _findings(
    config: ExpertLensConfig, lens: ExpertLens, known: Mapping[str, Judged], top: int
) -> Iterator[str]:
    """What a reader should know: of the concepts, of the ratings, and of what was cut."""
    yield from lens.concepts.findings
    for name, it in known.items():
        if it.unknown:
            few = ", ".join(map(repr, it.unknown[:NAMED]))
            number = (
                f"{len(it.unknown)} word{'s are no concepts' if len(it.unknown) > 1 else ' is no concept'}"
            )
            yield f"ratings {name}: {number}, such as {few}"
        yield from (f"ratings {name}: {note}" for note in it.notes)
    cut = int(lens.responses.cut.sum())
    if cut:
        told = f"{cut} of {len(lens.responses.examples)} examples were longer than {config.max_tokens} tokens and cut"
        yield f"{told}; the longest has {lens.responses.longest}"
    if known and top < config.top:
        yield f"rows of a fixed number of experts have {top}, a quarter of all units, instead of {config.top}"
    if not lens.can_be_halved:
        few = min(lens.concepts, key=lambda concept: min(len(concept.positive), len(concept.negative))).name
        yield f"examples were not halved, so that no ceiling is known: {few} has one example on a side"


NAMED = 5
"""Unknown words that a finding names."""


def _as_text(frame: pd.DataFrame) -> str:
    return frame.to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="-")


def _differences_in_words(table: pd.DataFrame) -> Iterator[str]:
    """How much higher rho is for the first row than for the others, a table for each set of ratings."""
    for name, own in table.groupby("ratings", sort=False):
        rest = own[own["difference"].notna()]
        if len(rest):
            shown = pd.DataFrame({"minus": rest["row"], "difference": rest["difference"]})
            shown = shown.assign(low=rest["difference_low"], high=rest["difference_high"])
            shown["so it is"] = rest["told"] + " that row"
            yield f"{name}: rho of {own['row'].iloc[0]}\n{_as_text(shown)}"


def _facts_in_words(facts: Mapping[str, Any]) -> Iterator[str]:
    def told(name: str, places: int) -> str:
        it = facts[name]
        ends = (it[at] for at in ("value", "low", "high"))
        value, low, high = ("-" if missing(end) else f"{end:.{places}f}" for end in ends)
        return f"{value} [{low}, {high}] (n = {it['n']})"

    cut = f", {facts['cut']} of them cut" if facts.get("cut") else ""
    concepts = f"{facts['concepts']} concept{'' if facts['concepts'] == 1 else 's'}"
    yield f"{concepts}, {facts['examples']} examples{cut}, {facts['units']} units"
    yield f"experts a concept with AP above {facts['tau']:g}: {told('experts', 0)}"
    yield f"experts a concept at a false discovery rate of {facts['fdr']:g}: {told('found', 0)}"
    yield f"Jaccard of the experts of both halves of the examples: {told('overlap_of_halves', 3)}"
    yield f"concepts found again by the other half: {told('retrieved_by_halves', 3)}"
    yield f"concepts with permuted labels that have any such expert: {told('permuted_with_any_expert', 3)}"


def _ratings_problems(config: ExpertLensConfig) -> Iterator[Problem]:
    for name, path in config.ratings.items():
        yield from missing_file(f"ratings.{name}", path)
    for name, value in config.reliability.items():
        if name not in config.ratings:
            yield Problem(f"reliability.{name}", "no such ratings", f"one of {list(config.ratings)}")
        elif not 0 < value <= 1:
            yield Problem(f"reliability.{name}", str(value), "a number in (0, 1]")
