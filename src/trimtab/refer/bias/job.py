"""An audit of naming bias as a job: what a recipe says, whether it can work, and carrying it out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from trimtab.data.tables import Label, check_columns, column_problems, label_text, labels, read_table
from trimtab.data.wordlist import WordList, is_word_list, labels_of_objects, unreadable_list
from trimtab.errors import ConfigProblems, Problem, not_among
from trimtab.refer.bias.audit import Draws, naming_bias
from trimtab.refer.bias.models import Amplification, amplification, sensitivity
from trimtab.refer.bias.objects import Columns, Outcome
from trimtab.refer.bias.result import NamingBias
from trimtab.runs.files import reading
from trimtab.runs.folder import at_work
from trimtab.runs.paths import missing_file
from trimtab.runs.serialise import plain

Progressor = Callable[[int, int], None]
TABLE = "a CSV or Parquet file"
MOST_DRAWS = 1_000_000


@dataclass(frozen=True)
class NamingBiasConfig:
    """An audit of naming data.

    A word list is the name of one that ships (`gender-en`, `sports-en`, `people-en`) or a YAML file of your own.

    Attributes:
        counts: CSV or Parquet file with one row per object and name.
        outcome: a column of true and false (or 1 and 0), or a word list: what kind of name is counted.
        reference: label of the reference group; 0, "0" and 0.0 mean the same.
        groups: what a source of labels is called -> a column, or a word list that labels objects by their names. The
            first is used; the others are told as its sensitivity.
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

    counts: str
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
    predictions: str = ""
    model: str = ""
    group_words: str = ""
    n_boot: int = 2000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Carried:
    """What a job came to."""

    result: NamingBias
    report_path: Path

    def table(self) -> str:
        """Rates and gaps as plain text, and what was set aside."""
        parts = [self.result.rates, self.result.to_frame(), self.result.accounting]
        shown = [part.to_string(index=False, float_format=lambda v: f"{v:.3f}", na_rep="-") for part in parts]
        notes = [f"note: {note}" for note in self.result.notes]
        return "\n\n".join([*shown, *notes])

    def to_json(self) -> str:
        """The same, and the tables of the page, as JSON."""
        names = ("rates", "standardised", "strata", "accounting", "sensitivity", "amplification", "misnaming")
        frames = {name: plain(getattr(self.result, name).to_dict("records")) for name in names}
        return json.dumps(
            {"gap": plain(vars(self.result.gap)), **frames, "seconds": self.result.seconds}, indent=2
        )


@dataclass(frozen=True)
class Estimate:
    """What a job will take."""

    steps: int
    rows: int

    def to_text(self) -> str:
        """One line per quantity."""
        return f"resamples  {self.steps}\nrows       {self.rows or 'not known before they are read'}"


def check(config: NamingBiasConfig) -> list[Problem]:
    """Every mistake that can be seen without reading more of the data than the names of its columns."""
    found = [
        *missing_file("counts", config.counts, TABLE),
        *(missing_file("predictions", config.predictions, TABLE) if config.predictions else []),
    ]
    lists = {"outcome": config.outcome, "strata": config.strata, "group_words": config.group_words}
    lists |= {f"groups.{name}": value for name, value in config.groups.items()}
    lists |= {f"among.{number}": value for number, value in enumerate(config.among)}
    for where, value in lists.items():
        if where.startswith(("group_words", "among")) or is_word_list(value):
            found += unreadable_list(where, value, "gender-en")
    found += _column_problems(config)
    if not config.groups:
        found.append(Problem("groups", "none", "at least one source of labels", "groups: {names: gender-en}"))
    if not 1 <= config.n_boot <= MOST_DRAWS:
        found.append(Problem("n_boot", str(config.n_boot), f"at least 1, at most {MOST_DRAWS:,}"))
    if config.seed < 0:
        found.append(Problem("seed", str(config.seed), "a whole number, at least 0"))
    if not 0 < config.confidence < 1:
        found.append(Problem("confidence", str(config.confidence), "a number between 0 and 1", "0.95"))
    for name, values in (("agreement", (config.agreement,)), ("stricter", config.stricter)):
        if not all(0.5 <= value < 1 for value in values):
            found.append(Problem(name, str(list(values)), "numbers in [0.5, 1)"))
    if not any(problem.where == "strata" for problem in found):
        found += _general_problems(config)
    return found


def _column_problems(config: NamingBiasConfig) -> list[Problem]:
    """Columns that the config names and the tables lack."""
    both = {"object": config.object}
    columns = {
        "strata": config.strata,
        "cluster": config.cluster,
        "outcome": config.outcome,
        "weight": config.weight,
    }
    columns |= {f"groups.{name}": value for name, value in config.groups.items()}
    given = {key: value for key, value in columns.items() if not is_word_list(value)}
    optional = ("strata", "cluster", "weight")
    given = {key: value for key, value in given.items() if value or key not in optional}
    named = {"name": config.name} if _reads_names(config) else {}
    found = column_problems("counts", config.counts, both | named | given)
    if config.predictions:
        own = {
            "object": config.object,
            "name": config.name,
            **({"model": config.model} if config.model else {}),
        }
        own |= {"outcome": config.outcome} if not is_word_list(config.outcome) else {}
        found += column_problems("predictions", config.predictions, own)
    return [_without_counts(one) for one in found]


def _reads_names(config: NamingBiasConfig) -> bool:
    """Whether names are looked at, as they are unless columns say everything."""
    return bool(config.among) or any(
        map(is_word_list, (config.outcome, config.strata, *config.groups.values()))
    )


def _without_counts(problem: Problem) -> Problem:
    """A missing column of counts may mean that there are none, with one row per answer."""
    return (
        replace(problem, hint=problem.hint or "weight: '' for one per row")
        if problem.where == "weight"
        else problem
    )


def _general_problems(config: NamingBiasConfig) -> list[Problem]:
    if not is_word_list(config.strata):
        return []
    there = [str(one) for one in WordList.read(config.strata).labels]
    return [
        not_among("general", label_text(one), there) for one in config.general if label_text(one) not in there
    ]


def estimate(config: NamingBiasConfig) -> Estimate:
    """Resamples and rows of a job."""
    path = Path(config.counts)
    rows = 0
    if path.is_file() and path.suffix == ".csv":
        with reading(path, TABLE), path.open("rb") as lines:
            rows = max(0, sum(1 for _ in lines) - 1)
    return Estimate(config.n_boot, rows)


def run(config: NamingBiasConfig, folder: Path, progress: Progressor | None = None) -> Carried:
    """Carry the job out in `folder`.

    Raises:
        ConfigProblems: the config cannot work.
        DataError: the data does not hold what the config says.
    """
    if problems := check(config):
        raise ConfigProblems(problems)
    with at_work(folder, config) as held:
        result = _carried_out(config, progress or _silent)
        result.save(held.path)
        report = result.report(folder / "report.html")
    return Carried(result, report)


def _carried_out(config: NamingBiasConfig, progress: Progressor) -> NamingBias:
    frame = read_table(config.counts)
    check_columns(frame, [config.object])
    frame, sources = labelled(frame, config)
    progress(1, 4)
    outcome: Outcome = WordList.read(config.outcome) if is_word_list(config.outcome) else config.outcome
    lists = [WordList.read(one) for one in config.among]
    settings: dict[str, Any] = {
        "object": config.object,
        "name": config.name,
        "strata": STRATUM if is_word_list(config.strata) else config.strata or None,
        "cluster": config.cluster or None,
        "weight": config.weight or None,
        "reference": config.reference,
        "among": (lambda name: any(words(name) for words in lists)) if lists else None,
        **{key: getattr(config, key) for key in ("n_boot", "confidence", "seed")},
    }
    first = next(iter(sources.values()))
    result = naming_bias(frame, outcome=outcome, group=first, **settings)
    progress(2, 4)
    told = (
        sensitivity(frame, sources, {config.outcome: outcome}, **settings)
        if len(sources) > 1
        else pd.DataFrame()
    )
    progress(3, 4)
    beside = _beside(frame, config, outcome, settings, first) if config.predictions else None
    progress(4, 4)
    return replace(
        result,
        label=f"naming bias: {config.outcome}",
        config=plain(config) | {"label source": next(iter(sources)), **_sources(config)},
        sensitivity=told,
        amplification=beside.gaps if beside else pd.DataFrame(),
        misnaming=beside.misnaming if beside else pd.DataFrame(),
    )


STRATUM = "stratum by names"


def _silent(done: int, total: int) -> None:
    """Tell nobody."""


def labelled(frame: pd.DataFrame, config: NamingBiasConfig) -> tuple[pd.DataFrame, dict[str, str]]:
    """The rows with labels of every source that is a word list, and the column of each source."""
    sources: dict[str, str] = {}
    frame = frame.assign(**{config.object: labels(frame[config.object])})
    given: Mapping[str, Any] = {"object": config.object, "name": config.name, "weight": config.weight or None}
    for source, value in config.groups.items():
        if not is_word_list(value):
            sources[source] = value
            continue
        for agreement in (config.agreement, *config.stricter):
            title = source if agreement == config.agreement else f"{source}, {agreement:g} agree"
            found = labels_of_objects(frame, WordList.read(value), agreement=agreement, **given)
            sources[title] = f"group by {title}"
            frame[sources[title]] = frame[config.object].map(found)
    if is_word_list(config.strata):
        found = labels_of_objects(
            frame, WordList.read(config.strata), ignore=[label_text(one) for one in config.general], **given
        )
        frame[STRATUM] = frame[config.object].map(found)
    return frame, sources


def _beside(
    frame: pd.DataFrame, config: NamingBiasConfig, outcome: Outcome, settings: Mapping[str, Any], group: str
) -> Amplification:
    columns = Columns(
        config.object, group, settings["strata"], settings["cluster"], settings["weight"], config.name
    )
    return amplification(
        frame,
        read_table(config.predictions),
        columns=columns,
        outcome=outcome,
        reference=config.reference,
        among=settings["among"],
        group_words=WordList.read(config.group_words) if config.group_words else None,
        model=config.model or None,
        draws=Draws(config.n_boot, config.confidence, config.seed),
    )


def _sources(config: NamingBiasConfig) -> dict[str, str]:
    """Where each word list of a job is from, for the page, and what a reader should know of it."""
    named = [config.outcome, config.strata, config.group_words, *config.groups.values(), *config.among]
    lists = [WordList.read(one) for one in dict.fromkeys(named) if is_word_list(one)]
    return {f"source of {one.title}": one.described() for one in lists}
