"""Completions of a batch of prompts, each the same as if it had been asked alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from numbers import Integral, Real
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, PreTrainedTokenizerBase

from trimtab.models.batches import check_listed, evaluating, pad_token, padded, token_rows
from trimtab.models.families import refusal, unwrapped
from trimtab.models.inspection import check_model, device_of, refuse_module
from trimtab.models.tokenizer import (
    longest,
    predicted,
    refuse_longer,
    refuse_unknown,
    refuse_unreadable_outputs,
)
from trimtab.seeds import derive


def generate(
    module: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 32,
    batch_size: int = 16,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """The most likely next token, or one drawn by its probability, again and again, after each prompt.

    Prompts are padded on the left under an explicit mask, and positions count from each prompt's own first
    token, so padding changes nothing. Draws depend on the seed, the prompt's place in the list and the step, so
    the batch size changes nothing either. Nothing but the logits decides: of the module's `generation_config` only the
    end tokens are heeded, not its penalties, samplers, beams, bans or lengths. The tokenizer is only read, the
    module's mode and `generation_config` are restored, and the caller's random generators are not touched.

    Args:
        module: a causal language model with `generate`.
        tokenizer: its tokenizer.
        prompts: texts; at least one token each. None at all gives an empty list.
        max_new_tokens: at least 1; a completion is shorter when the model ends it.
        batch_size: prompts at a time.
        temperature: 0 takes the most likely token; above, tokens are drawn from softmax(logits / temperature).
        seed: of the draws.

    Returns:
        The completions alone, without prompt and special tokens, in the order of the prompts.

    Raises:
        ModelError: a single string, a prompt without tokens, with tokens that the module has no embedding for or, with
            `max_new_tokens`, beyond its limit; a number out of range, or not a causal language model with `generate`.
    """
    _check(module, prompts, max_new_tokens, batch_size, temperature)
    rows = token_rows(tokenizer, prompts, what="prompt")
    refuse_unknown(module, tokenizer, rows, "prompt")
    limit = longest(module) or math.inf
    for number, row in enumerate(rows):
        length = len(row) + max_new_tokens - 1  # the last new token is never read
        if length > limit:
            got = f"{len(row)} tokens in prompt {number} and max_new_tokens={max_new_tokens}"
            refuse_longer(module, length, got, "a shorter prompt or fewer new tokens")
    settings = _settings(module, tokenizer, max_new_tokens)
    ends, completions = settings.eos_token_id or [], list[list[int]]()
    with evaluating(module), _neutral(module):
        for start in range(0, len(rows), batch_size):
            batch = padded(rows[start : start + batch_size], int(settings.pad_token_id), "left")
            batch = batch.to(device_of(module))
            seeds = [derive(seed, "generate", place) for place in range(start, start + len(batch.ids))]
            written: Tensor = cast("Any", module).generate(
                **batch.arguments(module),
                generation_config=settings,
                logits_processor=[_Draws(temperature, seeds)] if temperature else [],
            )
            for row in written[:, batch.ids.shape[1] :].tolist():  # after an end token comes padding
                completions.append(list(takewhile(lambda token: token not in ends, row)))
    return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in completions]


class _Draws(LogitsProcessor):
    """Scores whose largest is a draw from softmax(logits / temperature).

    Adding independent Gumbel noise, -log of a unit exponential, and taking the largest is an exact draw (Gumbel 1954;
    Maddison, Tarlow & Minka 2014). Each row has its own stream, on the CPU and in double precision, so that neither
    the batch nor the device decides.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self.temperature = temperature
        self.streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Any, scores: Any) -> Any:  # noqa: ARG002
        """Logits (B, V) with temperature and noise."""
        waits = torch.empty(scores.shape, dtype=torch.float64)
        for row, stream in zip(waits, self.streams, strict=True):
            row.exponential_(generator=stream)
        return scores.double() / self.temperature - waits.log().to(scores.device)


def _settings(module: nn.Module, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> Any:
    own = getattr(unwrapped(module), "generation_config", None)
    eos = getattr(own, "eos_token_id", None)
    eos = tokenizer.eos_token_id if eos is None else eos
    ends = [] if eos is None else list(eos) if isinstance(eos, list | tuple) else [eos]
    if not all(isinstance(end, int) and not isinstance(end, bool) for end in ends):
        at = "generation_config.eos_token_id"
        raise refusal(repr(eos), "a token id, or a list of them", at=at)
    limit = predicted(module) or 2**31
    ends = [end for end in ends if 0 <= end < limit]  # others are never written
    return cast("Any", GenerationConfig)(
        do_sample=False,
        num_beams=1,
        use_cache=getattr(own, "use_cache", None) is not False,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_token(tokenizer, module),
        eos_token_id=ends or None,
    )


@contextmanager
def _neutral(module: nn.Module) -> Iterator[None]:
    """Run a block without the module's own settings: transformers fills from them whatever is None in ours."""
    network: Any = unwrapped(module)
    if not hasattr(network, "generation_config"):
        yield
        return
    own = network.generation_config
    network.generation_config = cast("Any", GenerationConfig)()
    try:
        yield
    finally:
        network.generation_config = own


def _check(
    module: nn.Module, prompts: Sequence[str], max_new_tokens: int, batch_size: int, temperature: float
) -> None:
    check_listed(prompts, "prompt")
    for name, count in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if not isinstance(cast("Any", count), Integral) or count < 1:
            raise refusal(count, "at least 1, a whole number", at=name)
    if not isinstance(cast("Any", temperature), Real) or not 0 <= temperature < float("inf"):
        raise refusal(temperature, "a number of at least 0", at="temperature")
    refuse_module(module)
    check_model(module)
    refuse_unreadable_outputs(module)
    if not callable(getattr(module, "generate", None)):
        raise refusal(f"a {type(module).__name__} without generate()", "a model that generates")
