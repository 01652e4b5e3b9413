"""The systems that trimtab has, by name and as strings: nothing heavy is imported before it is used.

This is the one place that knows both the systems and the lab, so it also turns the `lab:` names of recipes into
folders and finds the recipes that ship with the package.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from trimtab.errors import ConfigProblems, Problem, nearest
from trimtab.runs.places import cache_home

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


SYSTEMS: dict[str, System] = {
    "dynamics": System(
        name="dynamics",
        title="fine-tune under constraints with a dynamic mixture (DynaMiCS)",
        paper="arXiv 2605.10770",
        config="trimtab.adapt.dynamics_job:DynamicsConfig",
        run="trimtab.adapt.dynamics_job:run",
        check="trimtab.adapt.dynamics_job:check",
        estimate="trimtab.adapt.estimate:estimate",
        load_result="trimtab.adapt.result:FinetuneResult.load",
        page="trimtab.adapt.dynamics_page:page",
    ),
    "steering": System(
        name="steering",
        title="steer activations by maps learned end to end (LinEAS), with its rivals",
        paper="arXiv 2503.10679",
        config="trimtab.steer.steering_job:SteeringConfig",
        run="trimtab.steer.steering_job:run",
        check="trimtab.steer.steering_job:check",
        estimate="trimtab.steer.steering_job:estimate",
        load_result="trimtab.steer.steering_result:SteeringResult.load",
        page="trimtab.steer.steering_page:page",
    ),
    "forgetting": System(
        name="forgetting",
        title="scaling laws for forgetting, and the share of pretraining data that keeps a promise",
        paper="arXiv 2502.06042",
        config="trimtab.adapt.forgetting_job:ForgettingConfig",
        run="trimtab.adapt.forgetting_job:run",
        check="trimtab.adapt.forgetting_job:check",
        estimate="trimtab.adapt.forgetting_job:estimate",
        load_result="trimtab.adapt.forgetting_result:ForgettingResult.load",
        page="trimtab.adapt.forgetting_page:page",
    ),
    "expertlens": System(
        name="expertlens",
        title="which units know a concept, and whether their concepts agree with ours (ExpertLens)",
        paper="arXiv 2502.15090",
        config="trimtab.read.experts_job:ExpertLensConfig",
        run="trimtab.read.experts_job:run",
        check="trimtab.read.experts_job:check",
        estimate="trimtab.read.experts_job:estimate",
        load_result="trimtab.read.experts_result:ExpertsResult.load",
        page="trimtab.read.experts_page:page",
    ),
    "naming-bias": System(
        name="naming-bias",
        title="naming bias between groups, standardised for what is in the picture",
        paper="arXiv 2305.14468",
        config="trimtab.refer.bias_job:NamingBiasConfig",
        run="trimtab.refer.bias_job:run",
        check="trimtab.refer.bias_job:check",
        estimate="trimtab.refer.bias_job:estimate",
        load_result="trimtab.refer.bias_result:NamingBias.load",
        page="trimtab.refer.bias_page:page",
    ),
    "lexicon": System(
        name="lexicon",
        title="informativeness of words and lexicons, alone and in context",
        paper="arXiv 2410.07827",
        config="trimtab.refer.lexicon_job:LexiconConfig",
        run="trimtab.refer.lexicon_job:run",
        check="trimtab.refer.lexicon_job:check",
        estimate="trimtab.refer.lexicon_job:estimate",
        load_result="trimtab.refer.lexicon_result:LexiconResult.load",
        page="trimtab.refer.lexicon_page:page",
    ),
}


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
    if name not in SYSTEMS:
        expected = (
            f"one of {', '.join(map(repr, SYSTEMS))}" if len(SYSTEMS) > 1 else repr(next(iter(SYSTEMS)))
        )
        got = "nothing" if name is None else repr(name)
        raise ConfigProblems([Problem("system", got, expected, nearest(str(name), SYSTEMS))])
    return SYSTEMS[str(name)]


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
    shipped = recipes()
    if Path(text).is_file():
        return Path(text).stem, Path(text)
    if text in shipped:
        return text, shipped[text].path
    near = nearest(text, [*shipped, *(path.name for path in Path().glob("*.y*ml"))])
    problem = Problem("config", repr(text), "a YAML file or a recipe", near or "trimtab ls")
    raise ConfigProblems([problem])


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
        paths = {key: lab_folder(field, value, progress) for key, value in values.items()}
        changes[field] = paths[""] if isinstance(getattr(config, field), str) else paths
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
    names = imported(_LAB_NAMES[field])
    if value.removeprefix(LAB) not in names:
        expected = f"one of {', '.join(LAB + name for name in names)}"
        raise ConfigProblems([Problem(field, repr(value), expected, _near(value, names))])
    build, name = imported(_LAB_BUILDERS[field]), value.removeprefix(LAB)
    if field not in ("model", "models") or progress is None:
        return str(build(name))
    shown: list[Progress] = []

    def tell(done: int, total: int, loss: float) -> None:  # noqa: ARG001
        if not shown:
            shown.append(progress(f"pretraining {value}, once"))
        shown[0](done, total)

    return str(build(name, progress=tell))


_CORPORA, _TEXTS = ("train", "evaluate", "domain", "pretraining"), ("source", "target", "neutral")
_TABLES = ("counts", "features", "predictions")
_LAB_NAMES = {
    **dict.fromkeys(("model", "models"), "trimtab.lab.names:MODELS"),
    **dict.fromkeys(_CORPORA, "trimtab.lab.sources:SOURCES"),
    **dict.fromkeys(_TEXTS, "trimtab.lab.names:TEXTS"),
    **dict.fromkeys(_TABLES, "trimtab.lab.names:TABLES"),
    "concepts": "trimtab.lab.concepts:CONCEPTS",
    "ratings": "trimtab.lab.concepts:RATINGS",
}
_LAB_BUILDERS = {
    **dict.fromkeys(("model", "models"), "trimtab.lab.names:model"),
    **dict.fromkeys(_CORPORA, "trimtab.lab.corpora:corpus"),
    **dict.fromkeys(_TEXTS, "trimtab.lab.names:texts"),
    **dict.fromkeys(_TABLES, "trimtab.lab.names:table"),
    "concepts": "trimtab.lab.concepts:concepts",
    "ratings": "trimtab.lab.concepts:ratings",
}


def _sources(config: Any) -> dict[str, dict[str, str]]:
    """The fields that may hold `lab:` names, as mappings; the key of a single value is empty."""
    found: dict[str, dict[str, str]] = {}
    for field in _LAB_NAMES:
        value = getattr(config, field, None)
        if isinstance(value, str):
            found[field] = {"": value}
        elif isinstance(value, Mapping):
            found[field] = dict(value)
    return found


def _lab_values(config: Any) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Dotted key, value and choices of every `lab:` name."""
    for field, values in _sources(config).items():
        for key, value in values.items():
            if value.startswith(LAB):
                yield f"{field}.{key}".rstrip("."), value, tuple(imported(_LAB_NAMES[field]))


def _near(value: str, names: Sequence[str]) -> str:
    near = nearest(value.removeprefix(LAB), names).strip("'")
    return LAB + near if near else ""


def _first_comment(path: Path) -> str:
    """The first line of a recipe, which is a comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""
