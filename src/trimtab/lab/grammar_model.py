"""Llama of the grammar world: trained once by this machine, and judged by the exact truth.

Models and texts are measured by their rate of insults, their topic fidelity and their KL divergence from the truth.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trimtab.errors import ShapeError, explain
from trimtab.lab.grammar import END_TOKEN, PAD_TOKEN, STYLES, UNKNOWN_TOKEN, Grammar, World
from trimtab.lab.models import Progress, built_model, built_with, fast_tokenizer, llama, model_folder
from trimtab.seeds import derive, isolated
from trimtab.train.settings import Fit


def insult_rate(
    world: World, ids: Int[Tensor, "B T"], probs: Float[Tensor, "B T V"] | None = None
) -> Float[Tensor, " B"]:
    """Insult rate: the share of modifier slots that hold an insult, counted in texts or expected by a model.

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
    """Topic fidelity: of the nouns and verbs of any topic, the share that is of the document's topic.

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
        expected = f"{(*ids.shape, len(world.words))}"
        raise ShapeError(explain(got, expected, "one row per token of the world's own"))
    return given


RECIPE = 1
"""Raised when the same settings would give another model, so that no cache serves the old one."""

_HELD_OUT = 256
_SPREAD = 0.06
"""Standard deviation of fresh weights. With the .02 of wide models a width of 64 learns topics 200 steps later."""


@dataclass(frozen=True)
class GrammarModel:
    """The settings of a Llama with tied embeddings for a grammar world, and how it is trained.

    Attributes:
        width: size of the residual stream.
        intermediate: size of the MLPs.
        layers: blocks.
        heads: attention heads.
        steps: optimiser steps.
        batch_size: documents per step, each seen once.
        lr: peak learning rate of AdamW.
        warmup_steps: of the learning rate, before its cosine to zero.
    """

    width: int = 64
    intermediate: int = 176
    layers: int = 6
    heads: int = 4
    steps: int = 400
    batch_size: int = 32
    lr: float = 6e-3
    warmup_steps: int = 20


def grammar_model(
    seed: int = 0,
    grammar: Grammar | None = None,
    settings: GrammarModel | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of a small model of a grammar world, for `load`; trained here on first use, then kept.

    It is trained on fresh documents of both styles and all topics; the label at each place is the exact
    distribution of the next word, not the one that was drawn: the same expected loss with less noise.
    `card.json` has its settings, versions and, on held-out documents, KL(truth || model) in nats per token and the
    insult probability in each style. Weights depend on the machine and on the number of threads.

    Args:
        seed: of weights and documents; the world has its own in `grammar`.
        grammar: the world; None means `Grammar()`.
        settings: of model and training; None means `GrammarModel()`.
        cache: where to keep it; None means the cache of this machine.
        progress: called after each training step; never called when the model is there already.

    Raises:
        ConfigProblems: settings of the world that cannot work.
    """
    world, model = World(Grammar() if grammar is None else grammar), settings or GrammarModel()
    given = {"seed": seed, "grammar": asdict(world.grammar), "settings": asdict(model)}

    def make(folder: Path) -> dict[str, Any]:
        network = train(world, model, seed, progress)
        network.save_pretrained(folder)
        world_tokenizer(world).save_pretrained(folder)
        return _facts(world, network, seed)

    target = model_folder("grammar", [RECIPE, given], cache)
    return built_model(target, {"name": "grammar", "recipe": RECIPE, **given}, make)


def world_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """One token per word of the world, words separated by spaces; ids are those of the world, nothing is added."""
    inner = Tokenizer(models.WordLevel(dict(world.lexicon.number), unk_token=UNKNOWN_TOKEN))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return fast_tokenizer(inner, pad_token=PAD_TOKEN, eos_token=END_TOKEN, unk_token=UNKNOWN_TOKEN)


def world_config(world: World, settings: GrammarModel) -> LlamaConfig:
    """The configuration of a model whose tokens are the words of a world."""
    number, positions = world.lexicon.number, max(256, world.length(world.grammar.sentences))
    special = number[END_TOKEN], number[PAD_TOKEN]
    return llama(settings, len(world.words), positions, *special, initializer_range=_SPREAD)


def train(
    world: World, settings: GrammarModel, seed: int, progress: Progress | None = None
) -> LlamaForCausalLM:
    """A model trained on fresh documents and their exact next-token distributions, in evaluation mode.

    The caller's random generators are unchanged.
    """
    steps, lr = settings.steps, settings.lr
    schedule = Fit(steps=steps, lr=lr, lr_schedule="cosine", warmup_steps=settings.warmup_steps)
    documents = torch.Generator().manual_seed(derive(seed, "grammar", "documents"))
    with isolated(derive(seed, "grammar", "weights")):
        network = LlamaForCausalLM(world_config(world, settings))
    weights = network.parameters()
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr_at(step)
        ids = world.sample(settings.batch_size, generator=documents).ids
        truth = world.next_token(ids).float()
        loss = F.cross_entropy(network(input_ids=ids).logits.flatten(0, 1), truth.flatten(0, 1))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if progress is not None:
            progress(step + 1, steps, float(loss.detach()))
    network.train(False)
    return network


@torch.no_grad()
def _facts(world: World, network: LlamaForCausalLM, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(derive(seed, "grammar", "held out"))
    held = world.sample(_HELD_OUT, generator=generator)
    logits = network(input_ids=held.ids).logits
    rates = insult_rate(world, held.ids, logits.double().softmax(-1))
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "held_out_documents": _HELD_OUT,
        "kl_to_truth_nats": round(float(kl_to_truth(world, logits, held.ids).mean()), 5),
        "insult_probability": {
            style: round(float(rates[held.style == number].mean()), 4) for number, style in enumerate(STYLES)
        },
        **built_with(),
    }
