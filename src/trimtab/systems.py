"""The systems that trimtab has, by name and as strings: nothing heavy is imported before it is used.

This is the one place that knows both the systems and the lab, so it also turns the `lab:` names of recipes into
folders and finds the recipes that ship with the package.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from trimtab.errors import ConfigProblems, Problem, nearest
from trimtab.runs.paths import as_path, cache_home

Config = TypeVar("Config")
Progress = Callable[[int, int], None]
LAB = "lab:"


@dataclass(frozen=True)
class System:
    """A published method as jobs that run from a config.

    Attributes:
        name: what a config says under `system`.
        title: one line for people.
        paper: the paper it reproduces.
        config: "module:attribute" of the frozen dataclass that a config fills.
        run: of `run(config, folder, progress) -> Outcome`; resumes what the folder holds.
        check: of `check(config) -> list[Problem]`; loads no model, downloads nothing.
        estimate: of `estimate(config)`, whose answer has `to_text()`.
        load_result: of `load(folder)` for the result of one finished run.
        page: of `page(results, title)`, which makes the text of a report.
    """

    name: str
    title: str
    paper: str
    config: str
    run: str
    check: str
    estimate: str
    load_result: str
    page: str


class Outcome(Protocol):
    """What a system's `run` returns; `passed = False` says that a stated criterion failed."""

    @property
    def report_path(self) -> Path:
        """The page of the run."""
        ...

    def table(self) -> str:
        """What to print."""
        ...

    def to_json(self) -> str:
        """The same as JSON text."""
        ...


def _system(
    name: str, title: str, paper: str, folder: str, config: str, result: str, **elsewhere: str
) -> System:
    """A system whose job, result and page are in one folder, but for what is `elsewhere`."""
    job = f"trimtab.{folder}.job"
    references = {
        "config": f"{job}:{config}",
        "run": f"{job}:run",
        "check": f"{job}:check",
        "estimate": f"{job}:estimate",
        "load_result": f"trimtab.{folder}.result:{result}.load",
        "page": f"trimtab.{folder}.result:page",
    }
    return System(name, title, paper, **references | elsewhere)


_ALL = (
    _system(
        "dynamics",
        "fine-tune under constraints with a dynamic mixture (DynaMiCS)",
        "arXiv 2605.10770",
        "adapt.dynamics",
        "DynamicsConfig",
        "FinetuneResult",
        page="trimtab.adapt.dynamics.page:page",
        load_result="trimtab.adapt.result:FinetuneResult.load",
    ),
    _system(
        "steering",
        "steer activations by maps learned end to end (LinEAS), with its rivals",
        "arXiv 2503.10679",
        "steer.lineas",
        "SteeringConfig",
        "SteeringResult",
    ),
    _system(
        "forgetting",
        "scaling laws for forgetting, and the share of pretraining data that keeps it small",
        "arXiv 2502.06042",
        "adapt.forgetting",
        "ForgettingConfig",
        "ForgettingResult",
    ),
    _system(
        "expertlens",
        "which units know a concept, and whether their concepts agree with ours (ExpertLens)",
        "arXiv 2502.15090",
        "read.experts",
        "ExpertLensConfig",
        "ExpertsResult",
    ),
    _system(
        "naming-bias",
        "naming bias between groups, standardised for what is in the picture",
        "arXiv 2305.14468",
        "refer.bias",
        "NamingBiasConfig",
        "NamingBias",
    ),
    _system(
        "lexicon",
        "informativeness of words and lexicons, alone and in context",
        "arXiv 2410.07827",
        "refer.lexicon",
        "LexiconConfig",
        "LexiconResult",
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
    """What a string "module:attribute" or "module:attribute.attribute" names.

    >>> imported("trimtab.errors:nearest")("mth", ["math"])
    "'math'"
    """
    module, _, attributes = reference.partition(":")
    found: Any = importlib.import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found


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
    near = nearest(text[:60], [*shipped, *(path.name for path in islice(Path().glob("*.y*ml"), 1000))])
    raise ConfigProblems([Problem("config", repr(text), expected, near or "trimtab ls")])


def lab_problems(config: Any) -> list[Problem]:
    """The `lab:` names of a config that do not exist; builds nothing."""
    return [
        Problem(where, repr(value), f"one of {', '.join(LAB + name for name in names)}", _near(value, names))
        for where, value, names in _lab_values(config)
        if value.removeprefix(LAB) not in names
    ]


def resolve(config: Config, progress: Callable[[str], Progress] | None = None) -> Config:
    """The config with every `lab:` name replaced by its folder, built on first use.

    Args:
        config: a system's config; `lab_folder` says which fields may hold such names.
        progress: asked once per thing that takes a while, with its title; gets the steps done and in all.

    Raises:
        ConfigProblems: a name that does not exist.
    """
    if problems := lab_problems(config):
        raise ConfigProblems(problems)
    changes: dict[str, Any] = {}
    for field, values in _sources(config).items():
        given = getattr(config, field)
        paths = {key: lab_folder(field, value, progress) for key, value in values.items()}
        if isinstance(given, Mapping):
            changes[field] = {key: _with_path(given[key], path) for key, path in paths.items()}
        else:
            changes[field] = _with_path(given, paths[""])
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def already_built(config: Config) -> Config:
    """The config with the folder of its lab model where this machine has it, for estimates; builds nothing."""
    model = getattr(config, "model", "")
    if not isinstance(model, str) or not model.startswith(LAB):
        return config
    found = list((cache_home() / "lab" / "models").glob(f"{model.removeprefix(LAB)}-*/config.json"))
    if not found:
        return config
    newest = max(found, key=lambda path: path.stat().st_mtime).parent
    return dataclasses.replace(config, model=str(newest))  # type: ignore[type-var]


def lab_folder(field: str, value: str, progress: Callable[[str], Progress] | None = None) -> str:
    """A value of a config, or the folder or file that its `lab:` name stands for, built on first use.

    Args:
        field: which one: "model", "models", "train", "evaluate", "domain", "pretraining", "source", "target",
            "neutral", "concepts" or "ratings".
        value: a `lab:` name; anything else is given back.
        progress: as for `resolve`.

    Raises:
        ConfigProblems: a name that does not exist.
    """
    if not value.startswith(LAB):
        return value
    names, build = _of_the_lab(field)
    if value.removeprefix(LAB) not in names:
        expected = f"one of {', '.join(LAB + name for name in names)}"
        raise ConfigProblems([Problem(field, repr(value), expected, _near(value, names))])
    name = value.removeprefix(LAB)
    if field not in ("model", "models") or progress is None:
        return str(build(name))
    shown: list[Progress] = []

    def tell(done: int, total: int, loss: float) -> None:  # noqa: ARG001
        if not shown:
            shown.append(progress(f"pretraining {value}, once"))
        shown[0](done, total)

    return str(build(name, progress=tell))


_LAB = {
    **dict.fromkeys(("model", "models"), ("registry:MODELS", "registry:model")),
    **dict.fromkeys(("train", "evaluate", "domain", "pretraining"), ("corpora:SOURCES", "corpora:corpus")),
    **dict.fromkeys(("source", "target", "neutral"), ("registry:TEXTS", "registry:texts")),
    **dict.fromkeys(("counts", "features", "predictions"), ("registry:TABLES", "registry:table")),
    "concepts": ("registry:CONCEPTS", "registry:concepts"),
    "ratings": ("registry:RATINGS", "registry:ratings"),
}
"""Field of a config -> the lab's names for it, and what builds one of them."""


def _of_the_lab(field: str) -> tuple[Any, Any]:
    names, build = _LAB[field]
    return imported(f"trimtab.lab.{names}"), imported(f"trimtab.lab.{build}")


def _sources(config: Any) -> dict[str, dict[str, str]]:
    """The fields that may hold `lab:` names, as mappings; the key of a single value is empty."""
    found: dict[str, dict[str, str]] = {}
    for field in _LAB:
        value = getattr(config, field, None)
        if isinstance(value, Mapping):
            found[field] = {key: _path(one) for key, one in value.items()}
        elif isinstance(value, str) or hasattr(value, "path"):
            found[field] = {"": _path(value)}
    return found


def _path(value: Any) -> str:
    """The path of a value that is one, or that describes more with the path as its `path`."""
    return value if isinstance(value, str) else str(value.path)


def _with_path(value: Any, path: str) -> Any:
    return path if isinstance(value, str) else dataclasses.replace(value, path=path)


def _lab_values(config: Any) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Dotted key, value and choices of every `lab:` name."""
    for field, values in _sources(config).items():
        for key, value in values.items():
            if value.startswith(LAB):
                yield f"{field}.{key}".rstrip("."), value, tuple(_of_the_lab(field)[0])


def _near(value: str, names: Sequence[str]) -> str:
    near = nearest(value.removeprefix(LAB), names).strip("'")
    return LAB + near if near else ""


def _first_comment(path: Path) -> str:
    """The first line of a recipe, which is a comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""
