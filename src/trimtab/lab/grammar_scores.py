"""How rude, how much on its topic and how far from the truth a model or a text of the grammar world is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimtab.errors import ShapeError, explain
from trimtab.lab.grammar import World
from trimtab.lab.grammar_table import PAD_TOKEN


def insult_rate(
    world: World, ids: Int[Tensor, "B T"], probs: Float[Tensor, "B T V"] | None = None
) -> Float[Tensor, " B"]:
    """How often a modifier slot holds an insult: counted in texts, or the probability a model gives it.

    A slot is the place after a determiner, wherever that stands, so that text which left the grammar can be
    judged too. An insult at a noun's place is not counted: there it is a word like any other.

    Args:
        world: whose documents these are.
        ids: token ids; padding on the right is left out.
        probs: predictions of the next token at each place; None counts the words of `ids` themselves.

    Returns:
        The mean over each document's slots, in [0, 1]; nan for a document without any. With probs, the slot after
        a final determiner counts too: it is predicted, though not there.

    Raises:
        ShapeError: probs are not (B, T, V).
    """
    predicted, real = _predictions(world, ids, probs)
    slots = torch.isin(ids, world.determiner_ids)[:, : predicted.shape[1]] & real
    mass = predicted[..., world.insult_ids].sum(-1)
    return torch.where(slots, mass, 0).sum(1) / slots.sum(1)


def topic_fidelity(
    world: World,
    ids: Int[Tensor, "B T"],
    topic: Int[Tensor, " B"],
    probs: Float[Tensor, "B T V"] | None = None,
) -> Float[Tensor, " B"]:
    """Of the nouns and verbs of any topic, the share that is of the document's own topic.

    Sum over places of the probability of the topic's own nouns and verbs, over the same sum for all topics.
    The places are all but modifier slots, since an insult there is a noun of the first topic. A text of the world
    has `focus` on average; an ideal model less, as it must first find the topic, so compare a model with
    `topic_fidelity(world, ids, topic, world.clean_next_token(ids))`.

    Args:
        world: whose documents these are.
        ids: token ids; padding on the right is left out.
        topic: of each document, as sampled; for a completion, the topic of its prompt.
        probs: predictions of the next token at each place; None counts the words of `ids` themselves.

    Returns:
        One share in [0, 1] per document; nan where no noun or verb is likely at all.

    Raises:
        ShapeError: probs are not (B, T, V).
    """
    predicted, real = _predictions(world, ids, probs)
    places = real & ~torch.isin(ids, world.determiner_ids)[:, : predicted.shape[1]]
    mass = torch.einsum("btv,kv->btk", predicted, world.topic_words.to(predicted))
    by_topic = torch.where(places[..., None], mass, 0).sum(1)
    return by_topic.gather(1, topic[:, None])[:, 0] / by_topic.sum(1)


def kl_to_truth(
    world: World, logits: Float[Tensor, "B T V"], ids: Int[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """KL(truth || model) of the next token at each place, in nats; nan after a prefix that cannot be.

    0 exactly when the model is ideal. The logits need not be normalised.

    Raises:
        ShapeError: logits are not (B, T, V), or ids are not of this world.
    """
    return _divergence(world.next_token(ids), _checked(world, ids, logits))


def kl_to_clean(
    world: World, logits: Float[Tensor, "B T V"], ids: Int[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """KL(counterfactual clean truth || model) of the next token at each place, in nats; nan as `kl_to_truth`.

    What a perfect steering towards clean brings to 0: on clean documents little more than `kl_to_truth`, on rude
    ones -log(1 - insult probability) at each slot of an ideal model that is not steered.

    Raises:
        ShapeError: logits are not (B, T, V), or ids are not of this world.
    """
    return _divergence(world.clean_next_token(ids), _checked(world, ids, logits))


def _divergence(truth: Float[Tensor, "B T V"], logits: Float[Tensor, "B T V"]) -> Float[Tensor, "B T"]:
    model = logits.to(truth).log_softmax(-1)
    gaps = torch.where(truth == 0, 0, truth * (truth.log() - model))  # also where a model is certain: 0 * inf
    return gaps.sum(-1)


def _predictions(
    world: World, ids: Int[Tensor, "B T"], probs: Float[Tensor, "B T V"] | None
) -> tuple[Float[Tensor, "B P V"], Bool[Tensor, "B P"]]:
    """Next-token predictions of documents and where they count; without probs, the next words as certainties."""
    pad = world.lexicon.number[PAD_TOKEN]
    if probs is not None:
        return _checked(world, ids, probs), ids != pad
    upcoming = ids[:, 1:]
    return F.one_hot(upcoming, len(world.words)).double(), upcoming != pad


def _checked(world: World, ids: Tensor, given: Tensor) -> Tensor:
    if given.shape != (*ids.shape, len(world.words)):
        got = f"predictions of shape {tuple(given.shape)} for ids of shape {tuple(ids.shape)}"
        raise ShapeError(
            explain(got, f"{(*ids.shape, len(world.words))}", "one row per token of the world's own")
        )
    return given
