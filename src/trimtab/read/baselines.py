"""What similarity of concepts is without experts: shared words, static embeddings, sentence embeddings, chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import nn
from transformers import PreTrainedModel

from trimtab.data.concepts import ConceptSet
from trimtab.data.mentions import without
from trimtab.errors import ModelError
from trimtab.models.families import unwrapped
from trimtab.models.load import Model
from trimtab.models.sites import resolve
from trimtab.numerics.similarity import cosine, overlap_by_chance
from trimtab.read.detection import Labelling
from trimtab.read.experts import ExpertLens
from trimtab.read.responses import Responses
from trimtab.seeds import derive, isolated

Matrix = Float[np.ndarray, "c c"]


def shared_words(concepts: ConceptSet) -> Matrix:
    """Cosine of the mean TF-IDF vectors of concepts' positive texts: what their sentences share as bags of words.

    Inverse document frequencies are those of all examples of the set.
    """
    pool = concepts.pool
    rows = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b").fit_transform(pool.examples)
    return cosine(np.stack([np.asarray(rows[p].mean(0))[0] for p in pool.positive]))


def static_embeddings(model: Model, concepts: ConceptSet) -> Matrix | None:
    """Cosine of the input embeddings of concepts' words, each the mean over its tokens; nan for other concepts.

    None for a network that names no table of input embeddings.
    """
    network: Any = unwrapped(model.module)
    weight = getattr(getattr(network, "get_input_embeddings", lambda: None)(), "weight", None)
    if weight is None:
        return None
    table = weight.detach().float().cpu()
    tokenizer = model.need_tokenizer()
    vectors = np.full((len(concepts), table.shape[1]), np.nan)
    for row, concept in zip(vectors, concepts, strict=True):
        ids = tokenizer(concept.word, add_special_tokens=False)["input_ids"] if concept.word else []
        if ids:
            row[:] = table[torch.tensor(ids)].mean(0).numpy()
    return cosine(vectors)


EMBEDDINGS = ("raw", "centred", "standardised")


def sentence_embeddings(lens: ExpertLens) -> dict[str, Matrix]:
    """Cosine of concepts' mean sentence embeddings: raw, centred, standardised; {} where no last block is known.

    A sentence embedding is the mean over valid tokens of what the last block gives. Centring takes the mean over all
    examples away, so that what all sentences share counts no more; standardising also divides by the deviation of each
    coordinate.
    """
    own = lens.responses
    try:
        last = resolve(own.model, "residual")[-1].name
    except ModelError:
        return {}
    read = Responses(own.model, own.examples, [last], "mean", own.batch_size, own.max_tokens)
    values = np.concatenate([block for _, block in read.blocks()], axis=1).astype(float)
    means = np.stack([values[rows].mean(0) for rows in lens.concepts.pool.positive])
    centred, deviation = means - values.mean(0), values.std(0)
    standardised = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
    return {"raw": cosine(means), "centred": cosine(centred), "standardised": cosine(standardised)}


def matched_in_number(lens: ExpertLens, tau: float) -> tuple[Matrix, Matrix]:
    """Jaccard of random sets of the same sizes, in expectation; and how far overlaps go beyond it, in deviations.

    The first says what sizes alone give; the second is what experts share beside it. Pairs with an empty set are 0.
    """
    found = overlap_by_chance(lens.sets(tau=tau))
    sizes = np.diag(found.shared)
    union = sizes[:, None] + sizes[None] - found.expected
    by_size = np.divide(found.expected, union, out=np.zeros_like(union), where=union > 0)
    return by_size, np.nan_to_num(found.z)


def random_concepts(concepts: ConceptSet, seed: int) -> list[Labelling]:
    """For each concept as many positive examples, drawn at random from all, and negative ones in one order for all."""
    pool, drawn = concepts.pool, []
    rest = np.random.default_rng(derive(seed, "random negatives")).permutation(len(pool.examples))
    for name, positive, negative in zip(concepts.names, pool.positive, pool.negative, strict=True):
        own = np.random.default_rng(derive(seed, "random concept", name))
        chosen = own.choice(len(pool.examples), len(positive), replace=False)
        drawn.append(Labelling(chosen, rest[~np.isin(rest, chosen)][: len(negative)]))
    return drawn


def permuted(labellings: list[Labelling], seed: int, times: int = 1) -> list[Labelling]:
    """Each concept's examples with positive and negative dealt out anew: concepts that nothing can know."""
    dealt = []
    for number in range(times * len(labellings)):
        own = labellings[number % len(labellings)]
        rows = np.random.default_rng(derive(seed, "permuted", number)).permutation(own.rows)
        dealt.append(Labelling(rows[: len(own.positive)], rows[len(own.positive) :]))
    return dealt


def fresh(model: Model, seed: int) -> Model | None:
    """A model of the same configuration with random weights; None for one that transformers cannot build."""
    network = unwrapped(model.module)
    if not isinstance(network, PreTrainedModel):
        return None
    kind: Callable[..., nn.Module] = type(network)
    with isolated(derive(seed, "fresh weights")):
        made = kind(network.config)
    return replace(model, module=made.to(model.device, network.dtype).train(False))


def masked(concepts: ConceptSet, stand_in: str) -> tuple[list[str], list[Labelling]]:
    """Every example with the words that it was chosen for replaced by a stand-in, and the concepts in terms of those.

    In a negative example, which is a positive one of other concepts, their words are replaced, so that the stand-in
    tells nothing. Examples that are positive of no concept keep all their words. Examples that differed in such a word
    alone become one, which may then be positive and negative: no unit can tell such concepts apart.
    """
    pool = concepts.pool
    words: dict[int, set[str]] = {}
    for concept, rows in zip(concepts, pool.positive, strict=True):
        for row in rows.tolist():
            words.setdefault(row, set()).add(concept.word or "")
    texts = [str(text) for text in pool.examples]
    for row, own in words.items():
        for word in sorted(own - {""}, key=len, reverse=True):
            texts[row] = without(texts[row], word, stand_in)
    place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    now = np.array([place[text] for text in texts])
    dealt = [Labelling(now[p], now[n]) for p, n in zip(pool.positive, pool.negative, strict=True)]
    return list(place), dealt


def stand_in(model: Model) -> str:
    """What a word is replaced by: the mask token, else the token of unknown words, else three dots."""
    tokenizer = model.need_tokenizer()
    return str(tokenizer.mask_token or tokenizer.unk_token or "...")
