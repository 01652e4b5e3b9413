"""Greedy completions of a batch of prompts, each the same as if it had been asked alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from trimtab.errors import ModelError, explain


def generate(
    module: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 32,
    batch_size: int = 16,
) -> list[str]:
    """The most likely next token, again and again, after each prompt.

    Prompts are padded on the left under an explicit mask, and positions count from each prompt's own first
    token, so padding changes nothing. The tokenizer is only read and the module's mode is restored.

    Args:
        module: a causal language model with `generate`.
        tokenizer: its tokenizer.
        prompts: texts; at least one token each. None at all gives an empty list.
        max_new_tokens: at least 1; a completion is shorter when the model ends it.
        batch_size: prompts at a time.

    Returns:
        The completions alone, without prompt and special tokens, in the order of the prompts.

    Raises:
        ModelError: a single string, a prompt without tokens, a number below 1, or no `generate`.
    """
    _check(module, prompts, max_new_tokens, batch_size)
    rows = [list(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
        if not row:
            raise ModelError(explain(f"the prompt {prompt!r}, which has no token", "at least one token"))
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        batches = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
        done = [ids for batch in batches for ids in _complete(module, tokenizer, batch, max_new_tokens)]
    finally:
        for part in training:
            part.training = True
    return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in done]


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and position ids, each (B, T): rows end together, padding comes first.

    >>> left_padded([[5, 6], [7]], pad=0)[0].tolist()
    [[5, 6], [0, 7]]
    """
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


@torch.no_grad()
def _complete(
    module: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], max_new_tokens: int
) -> list[list[int]]:
    own = getattr(module, "generation_config", None)
    eos = getattr(own, "eos_token_id", None)
    eos = tokenizer.eos_token_id if eos is None else eos
    ends = [] if eos is None else eos if isinstance(eos, list) else [eos]
    pad = tokenizer.pad_token_id
    pad = pad if pad is not None else ends[0] if ends else 0
    device = next(module.parameters()).device
    ids, mask, positions = (part.to(device) for part in left_padded(rows, int(pad)))
    settings = cast("Any", GenerationConfig)(
        do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, pad_token_id=pad, eos_token_id=eos
    )
    out = cast("Any", module).generate(
        input_ids=ids, attention_mask=mask, position_ids=positions, generation_config=settings
    )
    return [_until(row, ends) for row in out[:, ids.shape[1] :].tolist()]


def _until(row: list[int], ends: Sequence[int]) -> list[int]:
    """A completion up to its first end token; what follows is the batch's padding."""
    stops = [place for place, token in enumerate(row) if token in ends]
    return row[: stops[0]] if stops else row


def _check(module: nn.Module, prompts: Sequence[str], max_new_tokens: int, batch_size: int) -> None:
    if isinstance(prompts, str):
        raise ModelError(explain("one string", "a list of prompts", "[prompt]"))
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise ModelError(f"{name}: {explain(value, 'at least 1')}")
    if not callable(getattr(module, "generate", None)):
        raise ModelError(explain(f"a {type(module).__name__} without generate()", "a model that generates"))
