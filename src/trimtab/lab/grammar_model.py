"""A small Llama that this machine trains, once, on documents of a grammar world."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trimtab.lab.cache import built_once
from trimtab.lab.grammar import World
from trimtab.lab.grammar_scores import insult_rate, kl_to_truth
from trimtab.lab.grammar_table import END_TOKEN, PAD_TOKEN, STYLES, UNKNOWN_TOKEN, Grammar
from trimtab.runs.places import cache_home
from trimtab.seeds import derive, isolated
from trimtab.train.fit import Fit

RECIPE = 1
"""Raised when the same settings would give another model, so that no cache serves the old one."""

Progress = Callable[[int, int, float], None]
"""Told after each step: steps done, steps in all, the cross-entropy of this step in nats per token."""

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
        progress: told after each training step; never called when the model is there already.

    Raises:
        ConfigProblems: settings of the world that cannot work.
    """
    world = World(Grammar() if grammar is None else grammar)
    settings = GrammarModel() if settings is None else settings
    given = {"seed": seed, "grammar": asdict(world.grammar), "settings": asdict(settings)}
    key = hashlib.sha256(json.dumps([RECIPE, given], sort_keys=True).encode()).hexdigest()[:12]
    target = (cache_home() if cache is None else cache) / "lab" / "models" / f"grammar-{key}"

    def build(folder: Path) -> None:
        start = time.monotonic()
        network = train(world, settings, seed, progress)
        seconds = round(time.monotonic() - start, 1)
        network.save_pretrained(folder)
        world_tokenizer(world).save_pretrained(folder)
        card = {"schema": 1, "name": "grammar", "recipe": RECIPE, **given, **_facts(world, network, seed)}
        card["seconds"] = seconds
        (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")

    return built_once(target, build)


def world_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """One token per word of the world, words separated by spaces; ids are those of the world, nothing is added."""
    inner = Tokenizer(models.WordLevel(dict(world.lexicon.number), unk_token=UNKNOWN_TOKEN))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    make: type[Any] = PreTrainedTokenizerFast
    made = make(
        tokenizer_object=inner,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        clean_up_tokenization_spaces=False,
    )
    assert isinstance(made, PreTrainedTokenizerFast)
    return made


def train(
    world: World, settings: GrammarModel, seed: int, progress: Progress | None = None
) -> LlamaForCausalLM:
    """A model trained on fresh documents and their exact next-token distributions, in evaluation mode.

    The caller's random generators are unchanged.
    """
    schedule = Fit(
        steps=settings.steps, lr=settings.lr, lr_schedule="cosine", warmup_steps=settings.warmup_steps
    )
    documents = torch.Generator().manual_seed(derive(seed, "grammar", "documents"))
    with isolated(derive(seed, "grammar", "weights")):
        network = LlamaForCausalLM(_config(world, settings))
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    network.train()
    for step in range(settings.steps):
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
            progress(step + 1, settings.steps, float(loss.detach()))
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
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }


def _config(world: World, settings: GrammarModel) -> LlamaConfig:
    number = world.lexicon.number
    return LlamaConfig(
        vocab_size=len(world.words),
        hidden_size=settings.width,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=max(256, world.length(world.grammar.sentences)),
        initializer_range=_SPREAD,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=number[END_TOKEN],
        pad_token_id=number[PAD_TOKEN],
    )
