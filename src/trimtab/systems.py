"""The registry of systems, by name and as strings: nothing heavy is imported before it is used.

This is the one place that knows both the systems and the lab, so it also turns the `lab:` names of recipes into
folders and finds the recipes that ship with the package.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from trimtab.errors import ConfigProblems, Problem, nearest
from trimtab.runs.paths import as_path, cache_home

AnyJob = TypeVar("AnyJob")
Progress = Callable[[int, int], None]
LAB = "lab:"


@dataclass(frozen=True)
class System:
    """A published method, or a tool of ours, as jobs that run from a config.

    Attributes:
        name: what a config says under `system`.
        job: "module:class" of the frozen dataclass that a config fills; a `trimtab.job.Job`.
        title: one line for people.
        paper: the paper it reproduces; empty for a tool.
    """

    name: str
    job: str
    title: str
    paper: str

    def job_class(self) -> Any:
        """The class of its jobs, imported."""
        return imported(self.job)


_ALL = (
    System(
        "dynamics",
        "trimtab.adapt.dynamics.job:DynamicsConfig",
        "fine-tune under constraints with a dynamic mixture (DynaMiCS)",
        "arXiv 2605.10770",
    ),
    System(
        "steering",
        "trimtab.steer.lineas.job:SteeringConfig",
        "steer activations by maps learned end to end (LinEAS), with its rivals",
        "arXiv 2503.10679",
    ),
    System(
        "hypertransport",
        "trimtab.steer.hypertransport.job:HyperTransportConfig",
        "a hypernetwork that makes a steering of any concept in one forward pass (HyperTransport)",
        "arXiv 2605.08254",
    ),
    System(
        "forgetting",
        "trimtab.adapt.forgetting.job:ForgettingConfig",
        "scaling laws for forgetting, and the share of pretraining data that keeps it small",
        "arXiv 2502.06042",
    ),
    System(
        "compare",
        "trimtab.adapt.compare.job:CompareConfig",
        "what a change of a model broke and what it kept, domain by domain, wherever it was made",
        "",
    ),
    System(
        "expertlens",
        "trimtab.read.experts.job:ExpertLensConfig",
        "which units know a concept, and whether their concepts agree with ours (ExpertLens)",
        "arXiv 2502.15090",
    ),
    System(
        "leaks",
        "trimtab.read.leaks.job:LeaksConfig",
        "what served log-probabilities give away about the input",
        "arXiv 2604.09885",
    ),
    System(
        "naming-bias",
        "trimtab.refer.bias.job:NamingBiasConfig",
        "naming bias between groups, standardised for what is in the picture",
        "arXiv 2305.14468",
    ),
    System(
        "lexicon",
        "trimtab.refer.lexicon.job:LexiconConfig",
        "informativeness of words and lexicons, alone and in context",
        "arXiv 2410.07827",
    ),
    System(
        "discritune",
        "trimtab.refer.captions.job:DiscriTuneConfig",
        "fine-tune a captioner so that a listener finds the picture (DiscriTune)",
        "arXiv 2304.01662",
    ),
    System(
        "intelligibility",
        "trimtab.refer.intelligibility.job:IntelligibilityConfig",
        "who understands whose captions: speakers x listeners, with controls and co-adaptation",
        "arXiv 2210.11512",
    ),
)
SYSTEMS: dict[str, System] = {system.name: system for system in _ALL}


@dataclass(frozen=True)
class Recipe:
    """A config that ships with the package: its name (`system/name`), file, and what it is for."""

    name: str
    path: Path
    description: str


def system_of(config: Mapping[str, Any]) -> System:
    """The system a config names.

    Raises:
        ConfigProblems: it names none, or one that does not exist.
    """
    name = config.get("system")
    if not isinstance(name, str) or name not in SYSTEMS:
        expected = (
            f"one of {', '.join(map(repr, SYSTEMS))}" if len(SYSTEMS) > 1 else repr(next(iter(SYSTEMS)))
        )
        from trimtab.runs.config import show

        got = "nothing" if name is None else show(name)
        raise ConfigProblems([Problem("system", got, expected, nearest(str(name)[:60], SYSTEMS))])
    return SYSTEMS[name]


def system_of_run(config: Mapping[str, Any]) -> System:
    """The system of a run; one started from Python names none, and can be of the only system that there is."""
    return system_of({"system": "dynamics", **config})


def imported(reference: str) -> Any:
    """The object that a string "module:attribute" or "module:attribute.attribute" names.

    >>> imported("trimtab.errors:nearest")("mth", ["math"])
    "'math'"
    """
    module, _, attributes = reference.partition(":")
    target: Any = importlib.import_module(module)
    for attribute in attributes.split("."):
        target = getattr(target, attribute)
    return target


def recipes() -> dict[str, Recipe]:
    """The recipes that ship with the package, by name."""
    home = Path(__file__).parent / "recipes"
    paths = sorted(home.glob("*/*.yaml"))
    names = [path.relative_to(home).with_suffix("").as_posix() for path in paths]
    return {name: Recipe(name, path, _first_comment(path)) for name, path in zip(names, paths, strict=True)}


def find_config(text: str) -> tuple[str, Path]:
    """The name and file of a config: a file of the user's, else a recipe of that name.

    Raises:
        ConfigProblems: it is neither; the nearest recipe is named.
    """
    shipped, expected = recipes(), "a YAML file or a recipe"
    if text in shipped:
        here = Path(text).is_file()
        return (Path(text).stem, Path(text)) if here else (text, shipped[text].path)
    path = as_path(text, "config", expected)
    if path.is_file():
        return path.stem, path
    if path.exists() and text:
        got = f"{text!r}, {'a folder' if path.is_dir() else 'a pipe or a device'}"
        raise ConfigProblems([Problem("config", got, expected, "trimtab ls")])
    # Files are compared without their endings, which all share.
    files = {one.stem: one.name for one in islice(Path().glob("*.y*ml"), 1000)}
    stem = nearest(path.stem[:60], files, alike=0.5).strip("'")
    near = nearest(text[:60], shipped) or (repr(files[stem]) if stem else "trimtab ls")
    raise ConfigProblems([Problem("config", repr(text), expected, near)])


def lab_problems(job: Any) -> list[Problem]:
    """The `lab:` names of a job that do not exist; builds nothing."""
    return [
        _unknown(where, value, names)
        for field, kind in _lab_fields(type(job)).items()
        for where, value in _values(field, getattr(job, field))
        if value.startswith(LAB) and value.removeprefix(LAB) not in (names := _names(kind))
    ]


def resolve(job: AnyJob, progress: Callable[[str], Progress] | None = None) -> AnyJob:
    """The job with every `lab:` name replaced by its folder, built on first use.

    Args:
        job: its fields say by their types which of them may hold such names, see `trimtab.job.LabName`.
        progress: called once per thing that takes a while, with its title; gets the steps done and in all.

    Raises:
        ConfigProblems: a name that does not exist.
    """
    if problems := lab_problems(job):
        raise ConfigProblems(problems)

    return _replaced(job, lambda kind, value: lab_folder(kind, value, progress))


def already_built(job: AnyJob) -> AnyJob:
    """The job with the folder or file of each `lab:` name that this machine has, for estimates; builds nothing."""
    return _replaced(job, _built)


def _replaced(job: AnyJob, place: Callable[[str, str], str]) -> AnyJob:
    """The job with each value that may be a name of the lab, given with its kind, replaced."""

    def replaced(kind: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: replaced(kind, one) for key, one in value.items()}
        if isinstance(value, str):
            return place(kind, value)
        return dataclasses.replace(value, path=place(kind, value.path)) if hasattr(value, "path") else value

    fields = _lab_fields(type(job))
    return dataclasses.replace(
        job, **{name: replaced(kind, getattr(job, name)) for name, kind in fields.items()}
    )  # type: ignore[type-var]


def _built(kind: str, value: str) -> str:
    """The newest folder or file of a `lab:` name in the cache; the name itself where there is none."""
    if not value.startswith(LAB):
        return value
    plural = {"model": "models", "corpus": "corpora", "table": "tables"}.get(kind, kind)
    folders, name = (cache_home() / "lab" / plural).glob("*/*.*"), re.escape(value.removeprefix(LAB))
    whole = {path.parent for path in folders if re.fullmatch(f"{name}-[0-9a-f]+", path.parent.name)}
    if not whole:
        return value
    newest = max(whole, key=lambda folder: folder.stat().st_mtime)
    if kind in _FOLDERS:
        return str(newest)
    files = [path for path in newest.iterdir() if path.is_file()]
    return str(min(files, key=lambda path: len(path.name)))


_TRAINED = ("model", "judge")
"""Kinds that are trained on first use, with progress."""
_FOLDERS = ("model", "corpus", "pictures")
"""Kinds of lab names that stand for a folder; the others stand for the file in one."""


def lab_folder(kind: str, value: str, progress: Callable[[str], Progress] | None = None) -> str:
    """A value of a config, or the folder or file that its `lab:` name stands for, built on first use.

    Args:
        kind: of what it names: "model", "corpus", "texts", "table", "pictures", "concepts", "ratings",
            "questions" or "judge", which stands for the reference of one.
        value: a `lab:` name; anything else is given back.
        progress: as for `resolve`.

    Raises:
        ConfigProblems: a name that does not exist.
    """
    if not value.startswith(LAB):
        return value
    if (name := value.removeprefix(LAB)) not in (names := _names(kind)):
        raise ConfigProblems([_unknown(kind, value, names)])
    build = imported(f"trimtab.lab.{_LAB[kind][1]}")
    if kind not in _TRAINED or progress is None:
        return str(build(name))
    bars: list[Progress] = []

    def tell(done: int, total: int, loss: float) -> None:  # noqa: ARG001
        if not bars:
            bars.append(progress(f"pretraining {value}, once"))
        bars[0](done, total)

    return str(build(name, progress=tell))


_LAB = {
    "model": ("registry:MODELS", "registry:model"),
    "corpus": ("corpora:SOURCES", "corpora:corpus"),
    "texts": ("registry:TEXTS", "registry:texts"),
    "table": ("registry:TABLES", "registry:table"),
    "pictures": ("registry:PICTURES", "registry:pictures"),
    "concepts": ("registry:CONCEPTS", "registry:concepts"),
    "ratings": ("registry:RATINGS", "registry:ratings"),
    "questions": ("registry:QUESTIONS", "registry:questions"),
    "judge": ("registry:JUDGES", "registry:judge"),
}
"""Kind of a lab name -> the lab's names of it, and what builds one of them."""


def _names(kind: str) -> tuple[str, ...]:
    return tuple(imported(f"trimtab.lab.{_LAB[kind][0]}"))


def _lab_fields(job_class: type) -> dict[str, str]:
    """Field -> kind, of the fields whose type says that they may hold names of the lab."""

    def kinds(hint: Any) -> Iterator[str]:
        yield from (mark.kind for mark in getattr(hint, "__metadata__", ()) if hasattr(mark, "kind"))
        for inner in get_args(hint):
            yield from kinds(inner)

    hints = get_type_hints(job_class, include_extras=True)
    return {name: kind for name, hint in hints.items() if (kind := next(kinds(hint), None))}


def _values(where: str, value: Any) -> Iterator[tuple[str, str]]:
    """Dotted key and path of each value of a field: a path, a mapping or dataclass with `path`, or several of them."""
    if isinstance(value, Mapping):
        yield from (pair for key, one in value.items() for pair in _values(f"{where}.{key}", one))
    elif isinstance(path := getattr(value, "path", value), str):
        yield where, path


def _unknown(where: str, value: str, names: Sequence[str]) -> Problem:
    near = nearest(value.removeprefix(LAB), names).strip("'")
    expected = f"one of {', '.join(LAB + name for name in names)}"
    return Problem(where, repr(value), expected, LAB + near if near else "")


def _first_comment(path: Path) -> str:
    """The first line of a recipe, which is a comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""
