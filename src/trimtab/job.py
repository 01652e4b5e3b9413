"""Job and result, the two contracts of every system, and what is written once for all of them.

A *job* is a frozen dataclass whose fields are the YAML of a config. It says what is wrong with it and what it will
cost, and carries itself out. A *result* is a frozen dataclass of numbers and frames. It says its headline table, a
summary and the sections of its page; page, files, text, JSON and the comparison of several results follow from that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, Self, get_args, get_type_hints

import pandas as pd

from trimtab.errors import ConfigProblems, DataError, Problem, TrimtabError, explain, placed_problem
from trimtab.report.formats import short
from trimtab.report.page import Page, Section, Table, Text, cell
from trimtab.report.text import plain_table
from trimtab.runs.atomic import write_atomic
from trimtab.runs.brief import few, model_of, one_line
from trimtab.runs.folder import RunFolder, at_work, read_run
from trimtab.runs.live import escaped
from trimtab.runs.paths import is_first
from trimtab.runs.serialise import checked, plain, read_result, reading_result, write_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""
RECORD = "run.json"
MAY_CHANGE = ("jobs", "log_with")
"""Fields of a job that may be other ones when its run goes on: they change no number."""


@dataclass(frozen=True)
class Elsewhere:
    """The folder of a run for the processes of one launch that write nothing in it."""

    path: Path


@dataclass(frozen=True)
class LabName:
    """Marks a field of a job whose values may be names of the lab, `lab:NAME`; see `trimtab.systems.resolve`."""

    kind: str


ModelName = Annotated[str, LabName("model")]
"""A hub name, a folder, or a model that the lab trains."""
Corpus = Annotated[str, LabName("corpus")]
"""A source of records, or a corpus of the lab."""
Texts = Annotated[str, LabName("texts")]
"""A file of short texts, or texts of the lab."""
TableFile = Annotated[str, LabName("table")]
"""A CSV or Parquet file, or a table of the lab."""
PictureFolder = Annotated[str, LabName("pictures")]
"""A folder of pictures, or pictures of the lab."""
Concepts = Annotated[str, LabName("concepts")]
"""A file of concepts, or concepts of the lab."""
Ratings = Annotated[str, LabName("ratings")]
"""A file of ratings, or ratings of the lab."""
QuestionFile = Annotated[str, LabName("questions")]
"""A file of questions (JSONL, CSV or Parquet), or questions of the lab."""


class Job(Protocol):
    """A system's config: a frozen dataclass whose fields are the YAML, `system` among them."""

    result: ClassVar[type[Result]]
    """What `run` returns."""

    def problems(self) -> Iterator[Problem]:
        """Problems of the config beyond the types of its fields; loads no model, downloads nothing."""
        ...

    def cost(self) -> Mapping[str, Any]:
        """Planned cost by quantity, an upper bound; a quantity that ends in `_bytes` is one of memory or disk."""
        ...

    def run(self, folder: RunFolder | Elsewhere, progress: Progress) -> Result:
        """Carry the job out, or go on with it, in a folder that is held; `carry_out` saves the result.

        Of several processes of one launch (torchrun), all but the first are given `Elsewhere`.
        """
        ...


@dataclass(frozen=True)
class Survey:
    """Survey of a job's data: what its files hold, read before the run and without the weights of its model.

    A job that can tell has a method `survey() -> Survey`; it is no part of the contract.

    Attributes:
        tables: counts by title.
        notes: what of the data a user has to know, one sentence each.
        examples: title -> a record as the run will read it, on one line.
        problems: every mistake in the data that keeps the run from its end.
        cost: quantities of `Job.cost` that the data makes exact.
    """

    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    examples: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    cost: Mapping[str, Any] = field(default_factory=dict)

    def to_text(self) -> str:
        """Tables, examples and notes for the terminal; empty where there is nothing to tell."""
        parts = [f"{title}\n{plain_table(table)}" for title, table in self.tables.items() if len(table)]
        parts += ["\n".join(f"{title}: {text}" for title, text in self.examples.items())]
        return "\n\n".join(filter(None, (*parts, "\n".join(self.notes))))

    def to_plain(self) -> dict[str, Any]:
        """Tables as lists of records, examples and notes, for JSON."""
        tables = {title: _records(table) for title, table in self.tables.items()}
        return {"tables": tables, "examples": dict(self.examples), "notes": list(self.notes)}


@contextmanager
def noting(problems: list[Problem], where: str) -> Iterator[None]:
    """Note an error of the block as a problem of a key, so that a survey goes on to the next one."""
    try:
        yield
    except (TrimtabError, OSError) as error:
        problems.append(placed_problem(where, error))


def unread_source(where: str, source: str) -> str:
    """The note on a source that no survey reads, since it is made or downloaded by the run; empty for files.

    >>> unread_source("train.web", "hf:owner/name"), unread_source("train.web", "web.jsonl")
    ('train.web: hf:owner/name is not read before the run, which downloads it.', '')
    """
    made = {"hf:": "downloads", "lab:": "makes"}
    does = next((verb for start, verb in made.items() if source.startswith(start)), "")
    return f"{where}: {source} is not read before the run, which {does} it." if does else ""


def survey_of(job: Job) -> Survey | None:
    """The survey of a job's data; None for a job that has none."""
    survey: Callable[[], Survey] | None = getattr(job, "survey", None)
    return survey() if survey is not None else None


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run: numbers and frames with their config.

    Fields of subclasses are JSON values, dataclasses of such, and frames. What needs another file, or a
    form of its own, goes through `values` and `from_values`.

    Attributes:
        label: a short name of the run.
        config: everything needed to do the run again.
        seconds: the run took.
    """

    label: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    schema: ClassVar[int] = 1
    """Version of the fields on disk."""

    def to_frame(self) -> pd.DataFrame:
        """The headline table."""
        raise NotImplementedError

    def summary(self) -> str:
        """The summary of the result, in one or two sentences."""
        raise NotImplementedError

    def sections(self) -> Iterator[Section]:
        """The sections of the page."""
        raise NotImplementedError

    def figure(self) -> Figure:
        """The main figure."""
        raise NotImplementedError

    def headline(self) -> dict[str, str]:
        """The result in a few words by what they are about, for one line of `trimtab runs`."""
        return {}

    @property
    def passed(self) -> bool:
        """False where a stated criterion failed; the command then ends with 1."""
        return True

    @property
    def complete(self) -> bool:
        """False where parts of the run failed: its status is then "failed", and the same call tries them again."""
        return True

    @classmethod
    def compared(cls, results: Sequence[Self], labels: Sequence[str]) -> Iterator[Section]:
        """The sections that set several results side by side, before the chapter of each; by default their tables."""
        frames = [result.to_frame().copy() for result in results]
        for frame, label in zip(frames, labels, strict=True):
            frame.insert(0, "run", label, allow_duplicates=True)
        yield Section("Compared", [Table(pd.concat(frames, ignore_index=True))])

    @classmethod
    def page(cls, results: Sequence[Self], title: str = "", about: str = "") -> str:
        """Result page in one self-contained HTML file: of one result, or of several side by side, in folded chapters.

        Args:
            results: finished ones of one system.
            title: the heading.
            about: the title of the browser tab, see `about_runs`.

        Raises:
            DataError: there is no result.
        """
        if not results:
            raise DataError(explain("no result", "at least one finished run", "trimtab runs"))
        if len(results) == 1:
            only = results[0]
            return Page(title or only.label, only.summary(), list(only.sections()), about).render()
        labels = [f"{place}. {result.label}" for place, result in enumerate(results, start=1)]
        chapters = [
            Section(label, [Text(result.summary()), *result.sections()], collapsed=True)
            for label, result in zip(labels, results, strict=True)
        ]
        summary = cls.summary_of_several(results)
        return Page(title, summary, [*cls.compared(results, labels), *chapters], about).render()

    @classmethod
    def summary_of_several(cls, results: Sequence[Self]) -> str:
        """The summary of a page of several results."""
        return f"{len(results)} runs side by side."

    def report(self, path: str | Path) -> Path:
        """Write the page (one self-contained HTML file) and return its path."""
        write_atomic(Path(path), self.page([self], *titles(Path(path).parent, self.label)))
        return Path(path)

    def values(self) -> dict[str, Any]:
        """The fields of the result as they are written."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def from_values(cls, values: dict[str, Any], folder: Path) -> Self:  # noqa: ARG003
        """The inverse of `values`, for those read from the folder of a run: frames are frames, tuples lists."""
        return checked(cls, values)

    def save(self, folder: str | Path) -> Path:
        """Write the result into the folder of a run: readers see all of it or nothing."""
        return write_result(folder, self.schema, self.values(), indent=1)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the result of a finished run.

        Raises:
            CheckpointError: there is none (yet), it is damaged, or another version of trimtab wrote it.
        """
        values = read_result(folder, cls.schema)
        with reading_result(folder):
            return cls.from_values(values, Path(folder))

    def to_text(self) -> str:
        """The headline table and the summary as plain text."""
        frame = self.to_frame()
        return "\n\n".join([*([plain_table(frame)] if len(frame) else []), self.summary()])

    def to_json(self) -> str:
        """Every field but the config as JSON: frames as lists of records, nan as null."""
        return json.dumps(
            plain({name: _records(value) for name, value in self.json_values().items()}), indent=2
        )

    def json_values(self) -> dict[str, Any]:
        """The content of `to_json` by name: JSON values, dataclasses of such, and frames."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "config"}

    def __repr__(self) -> str:
        facts = [f"{name} {text}" for name, text in self.headline().items()] or [self.summary()]
        return one_line(type(self).__name__, f"{short(self.label, 40)!r}: {', '.join(facts)}")

    def __str__(self) -> str:
        return escaped(self.to_text())  # names may hold what would move a cursor

    def _repr_html_(self) -> str:
        """The summary and the first rows of the headline table, for notebooks."""
        return cell(f"{type(self).__name__} {self.label}", self.summary(), Table(self.to_frame()))


def titles(run: Path, label: str) -> tuple[str, str]:
    """Heading and browser-tab title of a page in the folder of a run; elsewhere the label for both."""
    return (run.resolve().name, about_runs([run])) if (run / RECORD).is_file() else (label, label)


def about_runs(folders: Sequence[Path]) -> str:
    """The title that tells the page of these runs from others: names, models, system and date."""
    runs = [read_run(folder) for folder in folders]
    parts = [[folder.resolve().name for folder in folders], [model_of(run.config) for run in runs]]
    parts += [
        [str(run.config.get("system", "fine-tuning")) for run in runs],
        [run.created[:10] for run in runs],
    ]
    return " · ".join(text for part in parts if (text := few(part)))


def _records(value: Any) -> Any:
    return value.to_dict("records") if isinstance(value, pd.DataFrame) else value


def carry_out(job: Job, folder: str | Path, progress: Progress | None = None) -> Result:
    """Run a job in a folder, or go on with it: checked first, the folder held meanwhile, result and page saved.

    Raises:
        ConfigProblems: everything that is wrong with the config, before any work.
        CheckpointError: another process holds the folder, or it holds a run with another config.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    if not hasattr(job, "problems") or isinstance(job, type):
        hint = "a config of a system, such as DynamicsConfig(...)"
        raise ConfigProblems([Problem("job", f"{job!r:.60}", "a job", hint)])
    if problems := [*dict.fromkeys(job.problems()), *unresolved_names(job)]:
        raise ConfigProblems(problems)
    path, progress = Path(folder), progress or (lambda *_: None)
    if not is_first():
        return job.run(Elsewhere(path), progress)
    with at_work(path, job, may_change=MAY_CHANGE) as held:
        result = job.run(held, progress)
        result.save(path)
        held.set_status(held.status, headline=result.headline())
        result.report(path / "report.html")
        if not result.complete:
            held.set_status("failed")
    return result


def unresolved_names(job: Job) -> Iterator[Problem]:
    """The names of the lab in a job, which only the command line makes files of by itself."""
    for name, hint in get_type_hints(type(job), include_extras=True).items():
        for where, value in _sources(name, getattr(job, name)) if _may_name_lab(hint) else ():
            if value.startswith("lab:"):
                yield Problem(where, repr(value), "a folder or file", "trimtab.systems.resolve(job)")


def _may_name_lab(hint: Any) -> bool:
    marks = getattr(hint, "__metadata__", ())
    return any(isinstance(mark, LabName) for mark in marks) or any(map(_may_name_lab, get_args(hint)))


def _sources(where: str, value: Any) -> Iterator[tuple[str, str]]:
    """Dotted key and source of each value of a field that may name several."""
    if isinstance(value, Mapping):
        yield from (pair for key, one in value.items() for pair in _sources(f"{where}.{key}", one))
    elif isinstance(source := getattr(value, "path", value), str):
        yield where, source


def cost_text(cost: Mapping[str, Any]) -> str:
    """One line per quantity of a cost.

    >>> print(cost_text({"steps": 400, "memory_bytes": 3 * 2**30, "disk_bytes": float("nan")}))
    steps   400
    memory  3.0 GiB
    disk    unknown: the model is not on this machine, or is quantised already
    """
    lines = {name.removesuffix("_bytes").replace("_", " "): _quantity(name, it) for name, it in cost.items()}
    width = max(map(len, lines), default=0) + 2
    return "\n".join(f"{name:{width}}{text}" for name, text in lines.items())


def _quantity(name: str, value: Any) -> str:
    if value is None:
        return "not known before the data is read"
    if value != value:
        return "unknown: the model is not on this machine, or is quantised already"
    if name.endswith("_bytes"):
        power = min(3, max(0, (int(value).bit_length() - 1) // 10))
        return f"{value / 1024**power:.{min(power, 1)}f} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
