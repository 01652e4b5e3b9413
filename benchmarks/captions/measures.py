"""Measures of one speaker: what listeners find by its captions, how they are worded, and whether they are true."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scene_world import CROSS, INDEPENDENT, LISTENER, TEST, Exam, World

from trimtab.models.captioner import Captioner
from trimtab.refer.captions.faithfulness import faithfulness
from trimtab.refer.captions.training import captions_of, cross_entropy, words_of
from trimtab.refer.scores.scores import caption_scores

MOST_TOKENS = 32
ITEMS = {
    **{
        f"{exam} P@1 {kind}, {role}": (exam, role, kind)
        for exam in (TEST, CROSS)
        for kind in ("random", "hard")
        for role in (LISTENER, INDEPENDENT)
    },
}
"""Measures with a number for each picture."""
TRUTH = ("hallucinated", "omitted")


def captions(speaker: Captioner, world: World) -> dict[str, dict[str, str]]:
    """Greedy captions of each exam's targets."""
    said = {}
    for name, exam in world.exams.items():
        texts = captions_of(speaker, exam.pictures, exam.names, max_new_tokens=MOST_TOKENS)
        said[name] = dict(zip(exam.names, texts, strict=True))
    return said


def judged(
    said: Mapping[str, Mapping[str, str]], world: World
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Measures of captions: means, and the numbers of each picture where there are any."""
    items: dict[str, list[float]] = {}
    for measure, (name, role, kind) in ITEMS.items():
        items[measure] = hits(world, name, role, kind, said[name])
    means: dict[str, float] = {}
    for name, exam in world.exams.items():
        counts = faithfulness(said[name], exam.told, exam.said)
        for column in TRUTH:
            items[f"{name} {column}"] = counts[column].astype(float).tolist()
        means[f"{name} named"] = float(counts["named"].mean())
        means |= {f"{name} {key}": value for key, value in words_of(list(said[name].values())).items()}
        means |= {f"{name} CIDEr-D {dialect}": value for dialect, value in cider(said[name], exam).items()}
    return means | {measure: float(np.mean(values)) for measure, values in items.items()}, items


def hits(world: World, name: str, role: str, kind: str, said: Mapping[str, str]) -> list[float]:
    """Whether a listener finds the picture of each caption, among 100 at random or in its hard set."""
    listener, exam = world.listeners[role], world.exams[name]
    if kind == "random":
        found = listener.hits(1, said, world.galleries[name, role, "targets"], n=100, seed=world.seed)
    else:
        found = listener.hits(1, said, world.galleries[name, role, "all"], candidates=exam.hard)
    return [float(one) for one in found]


def cider(said: Mapping[str, str], exam: Exam) -> dict[str, float]:
    """CIDEr-D against terse references, several a picture, and against the full one."""
    found = {}
    for dialect, references in (
        ("terse", exam.terse_references),
        ("full", {name: [text] for name, text in exam.full.items()}),
    ):
        scores = caption_scores(dict(said), references, tokeniser="words", n_boot=1).set_index("score")
        found[dialect] = float(scores.loc["CIDEr-D", "value"])
    return found


def nats(speaker: Captioner, world: World) -> dict[str, float]:
    """Cross-entropy of people's captions of unseen pictures, per token."""
    exam = world.exams[TEST]
    sides = {"terse": exam.terse, "full": exam.full}
    return {
        f"test nats {dialect}": float(cross_entropy(speaker, exam.pictures, told, exam.names).mean())
        for dialect, told in sides.items()
    }
