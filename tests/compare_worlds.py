"""A tiny language model whose input and output embeddings are apart, and changes of it whose effect is known."""

from __future__ import annotations

import random
from copy import deepcopy

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trimtab import load
from trimtab.models.load import Model
from worlds import tokenizer

LETTERS = "cdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!?+-*/=<>&%$"
ALPHABETS = tuple(LETTERS[start : start + 4] for start in range(0, 72, 4))
"""Letters of eighteen domains, four each, that no other has; each is a token of its own."""


def base(seed: int = 0) -> Model:
    """A one-block Llama of some 20k parameters with weights large enough that its predictions depend on context."""
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = LlamaForCausalLM(config)
        for parameter in module.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
    return load(module.eval(), tokenizer=tokenizer())


def texts(alphabet: str, n: int, seed: int | str = 0, length: int = 24) -> list[str]:
    """Texts of letters that are drawn uniformly: swapping two letters gives texts that are as likely."""
    draw = random.Random(f"{alphabet}/{seed}")
    return ["".join(draw.choices(alphabet, k=length)) for _ in range(n)]


def copied(model: Model) -> Model:
    """The same model in memory of its own."""
    return load(deepcopy(model.module), tokenizer=model.tokenizer)


def ids_of(letters: str, words: PreTrainedTokenizerFast | None = None) -> list[int]:
    words = words or tokenizer()
    return [int(words.convert_tokens_to_ids(letter)) for letter in letters]


def swapped(model: Model, pairs: list[str]) -> Model:
    """The model with each pair of letters swapped, in what it reads and in what it writes.

    On texts in which both are as likely, its expected loss is exactly that of the model, though no text keeps its own.
    """
    tuned = copied(model)
    with torch.no_grad():
        for pair in pairs:
            ids = ids_of(pair)
            for weight in (tuned.module.model.embed_tokens.weight, tuned.module.lm_head.weight):
                weight[ids] = weight[ids[::-1]].clone()
    return tuned


def worse_on(model: Model, alphabet: str, by: float) -> Model:
    """The model with the input embeddings of some letters moved up the gradient of their loss; no other text has them.

    Args:
        model: left as it is.
        alphabet: of the domain that is to suffer.
        by: the rise in nats per token on a batch of its texts; bisection finds the length of the last step.
    """
    tuned, words = copied(model), tokenizer()
    batch = words(texts(alphabet, 64, "planted"), return_tensors="pt")["input_ids"]
    ids, embedding = ids_of(alphabet), tuned.module.model.embed_tokens.weight

    def loss() -> torch.Tensor:
        return tuned.module(input_ids=batch, labels=batch).loss

    start = float(loss().detach())
    for _ in range(200):
        (gradient,) = torch.autograd.grad(loss(), embedding)
        before, step = embedding[ids].detach().clone(), 0.05 * gradient[ids] / gradient[ids].norm()
        with torch.no_grad():
            embedding[ids] = before + step
            if float(loss()) - start < by:
                continue
            low, high = 0.0, 1.0
            for _ in range(30):
                middle = (low + high) / 2
                embedding[ids] = before + middle * step
                low, high = (middle, high) if float(loss()) - start < by else (low, middle)
        return tuned
    raise AssertionError(f"no rise by {by}")
