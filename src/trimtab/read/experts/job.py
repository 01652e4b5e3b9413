"""ExpertLens as a job: its recipe, the checks of it, its cost and its run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from trimtab.data.concept import NOT_NOUNS, PARTS_OF_SPEECH, is_token, is_wordnet, sentences_of
from trimtab.data.concepts import ConceptSet
from trimtab.errors import DataError, Problem, explain
from trimtab.job import Concepts, Elsewhere, ModelName, Progress, Ratings, Survey, noting, unread_source
from trimtab.models.batches import Pool
from trimtab.models.load import load, name_problems
from trimtab.numerics.bootstrap import Interval, bootstrap, mean
from trimtab.read.experts.baselines import alignment, false_discoveries, rows
from trimtab.read.experts.firing import firing
from trimtab.read.experts.lens import ExpertLens
from trimtab.read.experts.places import by_block
from trimtab.read.experts.ratings import Judged, RatingsFile, judged, most_rated, ratings_file
from trimtab.read.experts.result import ExpertsResult
from trimtab.runs.brief import brief
from trimtab.runs.folder import RunFolder
from trimtab.runs.paths import missing_file
from trimtab.runs.serialise import plain

SHOWN = 10
"""Experts of each concept that a result keeps."""
LEAST = {"top": 1, "positives": 2, "negatives": 2, "most": 2, "max_tokens": 2, "batch_size": 1, "seed": 0}
SIDES = ("word1", "word2")


@dataclass(frozen=True)
class ExpertLensConfig:
    """Recipe of an ExpertLens job: concepts to look for in a model, and ratings to compare them by.

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

    model: ModelName
    concepts: Concepts
    system: Literal["expertlens"] = "expertlens"
    ratings: Mapping[str, Ratings] = field(default_factory=dict)
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

    result: ClassVar = ExpertsResult

    __repr__ = brief

    def problems(self) -> Iterator[Problem]:
        """Problems of the recipe that can be seen without loading a model or downloading anything."""
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                yield Problem(name, str(getattr(self, name)), f"at least {least}")
        if not 0 <= self.tau < 1:
            yield Problem("tau", str(self.tau), "a number in [0, 1)")
        if not 0 < self.fdr < 1:
            yield Problem("fdr", str(self.fdr), "a number in (0, 1)")
        if not self.pos or set(self.pos) - set(PARTS_OF_SPEECH):
            yield Problem("pos", str(list(self.pos)), f"some of {list(PARTS_OF_SPEECH)}")
        if not self.sites:
            yield Problem("sites", "none", 'at least one pattern, or "*"')
        yield from missing_file("concepts", self.concepts)
        for name, path in self.ratings.items():
            yield from missing_file(f"ratings.{name}", path)
        for name, value in self.reliability.items():
            if name not in self.ratings:
                yield Problem(f"reliability.{name}", "no such ratings", f"one of {list(self.ratings)}")
            elif not 0 < value <= 1:
                yield Problem(f"reliability.{name}", str(value), "a number in (0, 1]")
        yield from name_problems(self.model)

    def cost(self) -> Mapping[str, Any]:
        """Cost in passes over the examples: experts; with ratings also embeddings, random weights and masked words."""
        return {"steps": 4 if self.ratings else 1}

    def survey(self) -> Survey:
        """Survey of the concepts and ratings: examples of each, and pairs of concepts that are rated."""
        files = {"concepts": self.concepts} | {f"ratings.{name}": path for name, path in self.ratings.items()}
        if notes := tuple(filter(None, (unread_source(name, file) for name, file in files.items()))):
            return Survey(notes=notes)
        problems, read, tables = list[Problem](), dict[str, RatingsFile](), dict[str, pd.DataFrame]()
        for name, path in self.ratings.items():
            with noting(problems, f"ratings.{name}"):
                read[name] = ratings_file(path)
        with noting(problems, "concepts"):
            concepts = compared_concepts(self, {name: file.frame for name, file in read.items()})
            notes = concepts.findings
            tables["concepts"] = _concepts_table(concepts)
            rows = []
            for name, file in read.items():
                with noting(problems, f"ratings.{name}"):
                    it = judged(file.frame, concepts.names, file.rows)
                    row = {"ratings": name, "rows": len(file.rows), "pairs": len(it.pairs)}
                    rows.append(row | {"words that are no concept": len(it.unknown)})
                    notes += tuple(f"ratings {name}: {note}" for note in it.notes)
            tables["ratings"] = pd.DataFrame(rows)
        return Survey(tables, notes, problems=tuple(problems))

    def run(self, folder: RunFolder | Elsewhere, progress: Progress) -> ExpertsResult:  # noqa: ARG002
        """Experts of all concepts, and alignment with ratings; `progress` counts the examples that were read.

        Raises:
            DataError: concepts or ratings that cannot be used.
        """
        start = time.perf_counter()
        files = {name: ratings_file(path) for name, path in self.ratings.items()}
        concepts = compared_concepts(self, {name: file.frame for name, file in files.items()})
        ratings = {}
        for name, file in files.items():
            try:
                ratings[name] = judged(file.frame, concepts.names, file.rows)
            except DataError as error:
                raise DataError(f"ratings.{name}: {error}") from error
        model = load(self.model, dtype=self.dtype, device=self.device)
        settings = {name: getattr(self, name) for name in ("pool", "batch_size", "max_tokens", "seed")}
        lens = ExpertLens.fit(model, concepts, self.sites, **settings, progress=progress)
        lens.responses.progress = None
        top = min(self.top, max(1, len(lens.units) // 4))
        scores = alignment(
            list(rows(lens, self.tau, top)) if ratings else [], lens, ratings, self.reliability
        )
        return ExpertsResult(
            label=Path(self.model).name,
            table=scores.table,
            differences=scores.differences,
            similarity=lens.similarity(tau=self.tau),
            findings=tuple(_findings(self, lens, ratings, top)),
            **measured(lens, self.tau, self.fdr),
            config=plain(self),
            seconds=time.perf_counter() - start,
        )


def _concepts_table(concepts: ConceptSet) -> pd.DataFrame:
    """Number of concepts, and the fewest and most examples of one."""
    sides = {side: [len(getattr(one, side)) for one in concepts] for side in ("positive", "negative")}
    rows = [{"examples": side, "fewest": min(sizes), "most": max(sizes)} for side, sizes in sides.items()]
    return pd.DataFrame([{"concepts": len(concepts), **row} for row in rows])


def measured(lens: ExpertLens, tau: float, fdr: float) -> dict[str, Any]:
    """Measurements of a lens as fields of `ExpertsResult`: concepts, where experts are, what they fire at, numbers."""
    names = lens.concepts.names
    stable = lens.stability(tau=tau) if lens.can_be_halved else None
    concepts = pd.DataFrame(
        {
            "concept": names,
            "positive": [len(concept.positive) for concept in lens.concepts],
            "negative": [len(concept.negative) for concept in lens.concepts],
            "experts": lens.sets(tau=tau).sum(1),
            "found": lens.sets(fdr=fdr).sum(1),
            "best": lens.precision.max(1),
            "overlap": stable.concepts["overlap"].to_numpy() if stable else np.nan,
            "retrieved": stable.concepts["found"].to_numpy() if stable else np.nan,
        }
    )
    by_site = lens.counts(tau=tau).sum()
    counts = pd.DataFrame({"site": by_site.index, "units": lens.units.widths, "experts": by_site.to_numpy()})
    counts["share"] = counts["experts"] / (counts["units"] * len(names))
    fires = firing(lens)
    best = [lens.experts(name, top=min(SHOWN, len(lens.units))).assign(concept=name) for name in names]
    unknown = Interval(np.nan, np.nan, np.nan, 0)
    intervals = {
        "experts": bootstrap(mean, concepts["experts"].to_numpy(dtype=float)),
        "found": bootstrap(mean, concepts["found"].to_numpy(dtype=float)),
        "overlap_of_halves": stable.overlap if stable else unknown,
        "retrieved_by_halves": stable.retrieval if stable else unknown,
        "permuted_with_any_expert": false_discoveries(lens, fdr),
    }
    sizes = {"units": len(lens.units), "concepts": len(names), "examples": len(lens.concepts.pool.examples)}
    sizes["cut"] = int(lens.responses.cut.sum())
    return {
        "concepts": concepts,
        "counts": counts,
        "experts": pd.concat(best, ignore_index=True)[["concept", "site", "unit", "ap", "q"]],
        "layers": by_block(lens.counts(tau=tau), lens.units),
        "firing": fires.table,
        "unfired": fires.reason,
        "facts": sizes | {name: asdict(it) for name, it in intervals.items()} | {"tau": tau, "fdr": fdr},
    }


def compared_concepts(config: ExpertLensConfig, ratings: Mapping[str, pd.DataFrame]) -> ConceptSet:
    """Concept set of a job, of at least two to compare.

    Raises:
        DataError: a single concept, or as `read_concepts`.
    """
    concepts = read_concepts(config, ratings)
    if len(concepts) < 2:
        got = f"the single concept {concepts.names[0]!r}"
        hint = "ExpertLens.experts for one"
        raise DataError(f"{config.concepts}: {explain(got, 'at least two to compare', hint)}")
    return concepts


def read_concepts(config: ExpertLensConfig, ratings: Mapping[str, pd.DataFrame]) -> ConceptSet:
    """Concept set of a job: that of its file, or rated words with their WordNet sentences.

    Raises:
        DataError: a file that is neither concepts nor WordNet's, or WordNet's without ratings to take words from.
    """
    path = Path(config.concepts).expanduser()
    if not is_wordnet(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the result says what was found
            return ConceptSet.from_jsonl(path)
    if not ratings:
        expected = explain("none, beside WordNet sentences", "ratings, to take words from")
        raise DataError(f"ratings: {expected}")
    lowered = {
        name: frame.assign(**{side: frame[side].astype(str).str.strip().str.lower() for side in SIDES})
        for name, frame in ratings.items()
    }
    words = {word for frame in lowered.values() for side in SIDES for word in frame[side]} - {""}
    sentences = sentences_of(path, words, config.pos)
    enough = [word for word, texts in sentences.items() if len(texts) >= config.positives]
    kept = most_rated(lowered, enough, config.most)
    sizes = {"positives": config.positives, "negatives": config.negatives, "seed": config.seed}
    concepts = ConceptSet.from_sentences({word: sentences[word] for word in kept}, **sizes)
    never = sorted(word for word in words if not is_token(word))
    few = len(words) - len(enough) - len(never)
    note = f"of {len(words)} rated words {len(kept)} are concepts: left out were "
    note += f"{few} with fewer than {config.positives} sentences, "
    if never:
        note += f"{len(never)} that are not one word of letters, such as {never[0]!r}, "
    note += f"and {len(enough) - len(kept)} with the fewest rated pairs"
    return ConceptSet(concepts.concepts, (note,))


def _findings(
    config: ExpertLensConfig, lens: ExpertLens, ratings: Mapping[str, Judged], top: int
) -> Iterator[str]:
    """Notes for the reader: on the concepts, on the ratings, and on what was cut."""
    yield from lens.concepts.findings
    for name, it in ratings.items():
        if it.unknown:
            few, one = ", ".join(map(repr, it.unknown[:5])), len(it.unknown) == 1
            number = f"{len(it.unknown)} {'word is no concept' if one else 'words are no concepts'}"
            yield f"ratings {name}: {number}, such as {few}"
        yield from (f"ratings {name}: {note}" for note in it.notes)
    if cut := int(lens.responses.cut.sum()):
        number = f"{cut} of {len(lens.responses.examples)} examples"
        longer = f"were longer than {config.max_tokens} tokens and cut"
        yield f"{number} {longer}; the longest has {lens.responses.longest}"
    if ratings and top < config.top:
        yield f"rows of a fixed number of experts have {top}, a quarter of all units, instead of {config.top}"
    if not lens.can_be_halved:
        few = min(lens.concepts, key=lambda concept: min(len(concept.positive), len(concept.negative))).name
        yield f"examples were not halved, so that no ceiling is known: {few} has one example on a side"
