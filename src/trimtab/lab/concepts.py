"""Concepts of the grammar world, in sentences that tell nothing but the word, and which of them belong together."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

import numpy as np

from trimtab.data.concepts import ConceptSet
from trimtab.errors import ConfigError, explain, nearest
from trimtab.lab.cache import built_once
from trimtab.lab.grammar_table import Grammar, Lexicon
from trimtab.runs.places import cache_home
from trimtab.seeds import derive

RECIPE = 2
"""Raised when the same name would give other files, so that no cache serves the old ones."""
SENTENCES, NEGATIVES = 24, 60


def concepts(name: str, cache: Path | None = None) -> Path:
    """A file of concepts, written on first use; `nouns`: every noun of the grammar world in the same 24 sentences.

    Raises:
        ConfigError: there are no such concepts.
    """
    return _file(name, "concepts", CONCEPTS, "concepts.jsonl", cache)


def ratings(name: str, cache: Path | None = None) -> Path:
    """A file of ratings, written on first use; `topics`: 1 for two nouns of one topic, 0 for others.

    A file of the same name with `.source` after it says that these are labels, not people's ratings.

    Raises:
        ConfigError: there are no such ratings.
    """
    return _file(name, "ratings", RATINGS, "ratings.csv", cache)


def noun_topics(grammar: Grammar | None = None) -> dict[str, int]:
    """The number of the topic of every noun."""
    found = Lexicon(Grammar() if grammar is None else grammar).nouns
    return {noun: topic for topic, nouns in enumerate(found) for noun in nouns}


def noun_concepts(grammar: Grammar | None = None, seed: int = 0) -> ConceptSet:
    """Every noun of the grammar world as a concept, in the same sentences of that world.

    What surrounds the place of the noun is of no topic more than of another, so that shared words say nothing about
    which nouns belong together: only a model that has learned it can.
    """
    grammar = Grammar() if grammar is None else grammar
    draw = np.random.default_rng(derive(seed, "noun concepts"))
    lexicon = Lexicon(grammar)
    cues = [word for group in lexicon.cues for word in group]
    verbs = [verb for group in lexicon.verbs for verb in group]
    frames = list(product(lexicon.determiners, lexicon.modifiers, verbs))
    picked = draw.choice(len(frames), SENTENCES, replace=False)
    templates = []
    for determiner, modifier, verb in (frames[place] for place in picked):
        head = " ".join(draw.choice(cues, grammar.cues))
        end = f"{draw.choice(lexicon.determiners)} {draw.choice(lexicon.modifiers)} {{}} ."
        templates.append(f"{head} {determiner} {modifier} {{}} {verb} {end}")
    return ConceptSet.from_templates(list(noun_topics(grammar)), templates, negatives=NEGATIVES, seed=seed)


def _nouns(path: Path) -> None:
    noun_concepts().save_jsonl(path)


def _topics(path: Path) -> None:
    topic = noun_topics()
    names = list(topic)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["word1", "word2", "score"])
        for number, first in enumerate(names):
            rows.writerows(
                (first, second, int(topic[first] == topic[second])) for second in names[number + 1 :]
            )
    path.with_name(f"{path.name}.source").write_text("labels\n", encoding="utf-8")


CONCEPTS: Mapping[str, Callable[[Path], None]] = {"nouns": _nouns}
RATINGS: Mapping[str, Callable[[Path], None]] = {"topics": _topics}


def _file(
    name: str, what: str, known: Mapping[str, Callable[[Path], None]], file: str, cache: Path | None
) -> Path:
    if name not in known:
        raise ConfigError(
            f"lab {what}: {explain(repr(name), f'one of {tuple(known)}', nearest(name, known))}"
        )
    home = (cache_home() if cache is None else cache) / "lab" / what
    return built_once(home / f"{name}-{RECIPE}", lambda folder: known[name](folder / file)) / file
