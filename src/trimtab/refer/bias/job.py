"""Naming-bias audit as a job: its recipe, the checks of it, its cost and its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd

from trimtab.data.tables import Label, check_columns, column_problems, label_text, labels, read_table
from trimtab.data.wordlist import WordList, is_word_list, labels_of_objects, unreadable_list
from trimtab.errors import Problem, not_among
from trimtab.job import Elsewhere, Progress, Survey, TableFile, noting, unread_source
from trimtab.numerics.bootstrap import Resampling
from trimtab.refer.bias.audit import naming_bias
from trimtab.refer.bias.models import Amplification, amplification, sensitivity
from trimtab.refer.bias.objects import USED, Columns, Objects, Outcome, objects_of
from trimtab.refer.bias.result import NamingBias
from trimtab.runs.brief import brief
from trimtab.runs.files import reading
from trimtab.runs.folder import RunFolder
from trimtab.runs.paths import missing_file
from trimtab.runs.serialise import plain
from trimtab.seeds import seed_problem

TABLE = "a CSV or Parquet file"
MOST_DRAWS = 1_000_000
STRATUM = "stratum by names"


@dataclass(frozen=True)
class NamingBiasConfig:
    """Recipe of a naming-bias audit.

    A word list is the name of one that ships (`gender-en`, `sports-en`, `people-en`) or a YAML file of your own.

    Attributes:
        counts: CSV or Parquet file with one row per object and name.
        outcome: a column of true and false (or 1 and 0), or a word list: what kind of name is counted.
        reference: label of the reference group; 0, "0" and 0.0 mean the same.
        groups: what a source of labels is called -> a column, or a word list that labels objects by their names. The
            first is used; the others are reported as its sensitivity.
        object: column of the objects.
        name: column of the names.
        weight: column of counts; empty for one per row.
        strata: a column, or a word list that finds the situation in an object's names; empty for none.
        general: labels of that word list which say nothing specific.
        cluster: column of what is drawn together; empty for each object.
        among: word lists of names that count; none for all names.
        agreement: share of an object's labelled names that must say the same label.
        stricter: further agreements, for the sensitivity.
        predictions: CSV or Parquet file with names that models give to the objects; empty for none.
        model: its column that tells models apart; empty for one model.
        group_words: word list of names that tell a group, for misnaming; empty for none.
        n_boot: resamples.
        confidence: of the intervals.
        seed: of the resamples.
    """

    counts: TableFile
    outcome: str
    reference: Label
    groups: dict[str, str]
    system: Literal["naming-bias"] = "naming-bias"
    object: str = "referent"
    name: str = "name"
    weight: str = "count"
    strata: str = ""
    general: tuple[Label, ...] = ()
    cluster: str = ""
    among: tuple[str, ...] = ()
    agreement: float = 0.5
    stricter: tuple[float, ...] = ()
    predictions: TableFile = ""
    model: str = ""
    group_words: str = ""
    n_boot: int = 2000
    confidence: float = 0.95
    seed: int = 0

    result: ClassVar = NamingBias

    __repr__ = brief

    def problems(self) -> Iterator[Problem]:
        """Problems of the recipe that can be seen without reading more of the data than the names of its columns."""
        yield from missing_file("counts", self.counts, TABLE)
        if self.predictions:
            yield from missing_file("predictions", self.predictions, TABLE)
        columns_or_lists = {"outcome": self.outcome, "strata": self.strata} | _named_groups(self)
        lists = {where: value for where, value in columns_or_lists.items() if is_word_list(value)}
        lists |= {"group_words": self.group_words} | {f"among.{n}": one for n, one in enumerate(self.among)}
        for where, value in lists.items():
            yield from unreadable_list(where, value, "gender-en")
        yield from _column_problems(self)
        if not self.groups:
            yield Problem("groups", "none", "at least one source of labels", "groups: {names: gender-en}")
        if not 1 <= self.n_boot <= MOST_DRAWS:
            yield Problem("n_boot", str(self.n_boot), f"at least 1, at most {MOST_DRAWS:,}")
        if problem := seed_problem("seed", self.seed):
            yield problem
        if not 0 < self.confidence < 1:
            yield Problem("confidence", str(self.confidence), "a number between 0 and 1", "0.95")
        for name, values in (("agreement", (self.agreement,)), ("stricter", self.stricter)):
            if not all(0.5 <= value < 1 for value in values):
                yield Problem(name, str(list(values)), "numbers in [0.5, 1)")
        if is_word_list(self.strata) and not unreadable_list("strata", self.strata, ""):
            there = [str(one) for one in WordList.read(self.strata).labels]
            general = [label_text(one) for one in self.general]
            yield from (not_among("general", one, there) for one in general if one not in there)

    def cost(self) -> Mapping[str, Any]:
        """Cost: resamples, and rows of the table; None where they are not known before it is read."""
        path, rows = Path(self.counts), None
        if path.is_file() and path.suffix == ".csv":
            with reading(path, TABLE), path.open("rb") as lines:
                rows = max(0, sum(1 for _ in lines) - 1)
        return {"steps": self.n_boot, "rows": rows}

    def survey(self) -> Survey:
        """Survey of the tables: rows, and objects of each group by every source of labels."""
        files = {name: path for name in ("counts", "predictions") if (path := getattr(self, name))}
        notes = tuple(filter(None, (unread_source(name, path) for name, path in files.items())))
        problems, tables, rows = list[Problem](), dict[str, pd.DataFrame](), list[dict[str, Any]]()
        if not unread_source("counts", self.counts):
            with noting(problems, "counts"):
                frame, sources = labelled(counts_table(self), self)
                tables["rows"] = pd.DataFrame([{"table": "counts", "rows": len(frame)}])
                outcome, settings = audit_settings(self)
                strata, cluster, weight = (settings[name] for name in ("strata", "cluster", "weight"))
                for source, group in sources.items():
                    columns = Columns(self.object, group, strata, cluster, weight, self.name)
                    with noting(problems, f"groups.{source.partition(', ')[0]}"):
                        objects = objects_of(frame, columns, outcome, self.reference, settings["among"])
                        rows += objects_by_group(source, objects)
                        notes += tuple(f"{source}: {note}." for note in objects.notes)
                tables["objects"] = pd.DataFrame(rows)
        if self.predictions and not unread_source("predictions", self.predictions):
            with noting(problems, "predictions"):
                more = pd.DataFrame([{"table": "predictions", "rows": len(read_table(self.predictions))}])
                tables["rows"] = pd.concat([*([tables["rows"]] if "rows" in tables else []), more])
        return Survey(tables, notes, problems=tuple(problems))

    def run(self, folder: RunFolder | Elsewhere, progress: Progress) -> NamingBias:  # noqa: ARG002
        """Audit with its sensitivity to other sources of labels, and amplification by models.

        Raises:
            DataError: the data does not hold what the config says.
        """
        frame, sources = labelled(counts_table(self), self)
        progress(1, 4)
        outcome, settings = audit_settings(self)
        first, group = next(iter(sources.items()))
        result = naming_bias(frame, outcome=outcome, group=group, **settings)
        progress(2, 4)
        if len(sources) > 1:
            others = sensitivity(frame, sources, {self.outcome: outcome}, **settings)
            result = replace(result, sensitivity=others)
        progress(3, 4)
        if self.predictions:
            models = _models(frame, self, outcome, settings, group)
            result = replace(result, amplification=models.gaps, misnaming=models.misnaming)
        progress(4, 4)
        named = [self.outcome, self.strata, self.group_words, *self.groups.values(), *self.among]
        words = [WordList.read(one) for one in dict.fromkeys(named) if is_word_list(one)]
        origins = {f"source of {one.title}": one.described() for one in words}
        config = plain(self) | {"label source": first, **origins}
        return replace(result, label=f"naming bias: {self.outcome}", config=config)


def _named_groups(config: NamingBiasConfig) -> dict[str, str]:
    return {f"groups.{name}": value for name, value in config.groups.items()}


def _column_problems(config: NamingBiasConfig) -> Iterator[Problem]:
    """Problems of columns that the tables lack; names are looked at unless columns say everything."""
    optional = {"strata": config.strata, "cluster": config.cluster, "weight": config.weight}
    columns = {key: value for key, value in optional.items() if value}
    columns |= {"outcome": config.outcome} | _named_groups(config)
    lists = any(map(is_word_list, (config.outcome, config.strata, *config.groups.values())))
    named = {"object": config.object} | ({"name": config.name} if lists or config.among else {})
    named |= {key: value for key, value in columns.items() if not is_word_list(value)}
    for problem in column_problems("counts", config.counts, named):
        # A missing column of counts may mean that there are none, with one row per answer.
        hint = "weight: '' for one per row" if problem.where == "weight" else ""
        yield replace(problem, hint=problem.hint or hint)
    if config.predictions:
        named = {"object": config.object, "name": config.name}
        named |= {"model": config.model} if config.model else {}
        named |= {"outcome": config.outcome} if not is_word_list(config.outcome) else {}
        yield from column_problems("predictions", config.predictions, named)


def counts_table(config: NamingBiasConfig) -> pd.DataFrame:
    """Naming rows of a job, with its column of objects.

    Raises:
        DataError: a table that cannot be read, or without that column.
    """
    frame = read_table(config.counts)
    check_columns(frame, [config.object])
    return frame


def audit_settings(config: NamingBiasConfig) -> tuple[Outcome, dict[str, Any]]:
    """Outcome and further settings of an audit: columns, names that count, and resamples."""
    outcome: Outcome = WordList.read(config.outcome) if is_word_list(config.outcome) else config.outcome
    as_given = ("object", "name", "reference", "n_boot", "confidence", "seed")
    settings: dict[str, Any] = {key: getattr(config, key) for key in as_given}
    settings |= {key: getattr(config, key) or None for key in ("strata", "cluster", "weight", "among")}
    if is_word_list(config.strata):
        settings["strata"] = STRATUM
    if lists := [WordList.read(one) for one in config.among]:
        settings["among"] = lambda name: any(words(name) for words in lists)
    return outcome, settings


def objects_by_group(source: str, objects: Objects) -> list[dict[str, Any]]:
    """Number of objects in each of the two groups, and of those set aside, by a source of labels."""
    sizes = objects.table["group"].value_counts()
    counts = {group: int(sizes.get(place, 0)) for place, group in enumerate(objects.groups)}
    aside = objects.accounting[objects.accounting["reason"] != USED]
    reasons = zip(aside["reason"], aside["n_objects"], strict=True)
    counts |= {f"({reason})": int(count) for reason, count in reasons if count}
    return [{"labels": source, "group": group, "objects": count} for group, count in counts.items()]


def labelled(frame: pd.DataFrame, config: NamingBiasConfig) -> tuple[pd.DataFrame, dict[str, str]]:
    """Naming rows with labels of every source that is a word list, and the column of each source."""
    sources: dict[str, str] = {}
    frame = frame.assign(**{config.object: labels(frame[config.object])})
    given: Mapping[str, Any] = {"object": config.object, "name": config.name, "weight": config.weight or None}
    for source, value in config.groups.items():
        if not is_word_list(value):
            sources[source] = value
            continue
        for agreement in (config.agreement, *config.stricter):
            title = source if agreement == config.agreement else f"{source}, {agreement:g} agree"
            by_object = labels_of_objects(frame, WordList.read(value), agreement=agreement, **given)
            sources[title] = f"group by {title}"
            frame[sources[title]] = frame[config.object].map(by_object)
    if is_word_list(config.strata):
        ignore = [label_text(one) for one in config.general]
        by_object = labels_of_objects(frame, WordList.read(config.strata), ignore=ignore, **given)
        frame[STRATUM] = frame[config.object].map(by_object)
    return frame, sources


def _models(
    frame: pd.DataFrame, config: NamingBiasConfig, outcome: Outcome, settings: Mapping[str, Any], group: str
) -> Amplification:
    strata, cluster, weight = (settings[name] for name in ("strata", "cluster", "weight"))
    return amplification(
        frame,
        read_table(config.predictions),
        columns=Columns(config.object, group, strata, cluster, weight, config.name),
        outcome=outcome,
        reference=config.reference,
        among=settings["among"],
        group_words=WordList.read(config.group_words) if config.group_words else None,
        model=config.model or None,
        draws=Resampling(config.n_boot, config.confidence, config.seed),
    )
