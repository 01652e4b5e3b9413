"""States at the answer position: what a model computes at the last token of a prompt, before it says anything."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from trimtab.errors import ShapeError, explain
from trimtab.models.batches import TokenRow, evaluating, row_batches
from trimtab.models.captioning import picture_batches
from trimtab.models.chat import Prompt
from trimtab.models.families import Handle, refusal, unwrapped
from trimtab.models.hooks import capture
from trimtab.models.inspection import check_model, require_language_model
from trimtab.models.language import prompt_rows
from trimtab.models.readout import readout_of
from trimtab.models.speakers import Llava, need_speaker, refuse_blind
from trimtab.models.tokenizer import Added, longest, refuse_longer, refuse_unknown


@dataclass(frozen=True)
class AnswerStates:
    """What a model computes at the answer positions of a batch of prompts; single precision, on the CPU.

    Attributes:
        hidden: (B, L + 1, d) the residual stream: state 0 is the input of the first block, state l the output of block
            l, before any final norm. None where it was not asked for.
        logits: (B, V) of the next token, as the model itself gives them.
    """

    hidden: Float[Tensor, "B states d"] | None
    logits: Float[Tensor, "B V"]


def answer_states(
    model: Handle,
    prompts: Sequence[Prompt] | Sequence[TokenRow],
    images: Any = None,
    *,
    batch_size: int = 16,
    hidden: bool = True,
) -> Iterator[AnswerStates]:
    """Hidden states and logits at the last token of each prompt, a batch at a time, in the order of the prompts.

    Prompts of a batch are padded on the right under an explicit mask. Decoders look backwards only, so that neither
    padding nor the batch size changes anything but rounding, in every family. Interventions in place take part.

    Args:
        model: a causal language model with a tokenizer, or, with pictures, a Llava with a processor. Its modes are
            restored.
        prompts: texts, or conversations; see `trimtab.models.language.prompt_rows`. Rows of tokens are taken as they
            are.
        images: one picture for each prompt: paths, images, or a named collection. A picture stands where the prompt has
            the picture's token, else before its words.
        batch_size: prompts at a time.
        hidden: whether the hidden states are read.

    Raises:
        ModelError: another kind of model, a prompt without tokens or longer than the model's limit, a batch size below
            1: before the first pass. Logits or states that are nan or infinite.
        ShapeError: not one picture for each prompt.
        DataError: a picture that cannot be decoded.
    """
    if images is None:
        refuse_blind(model)
        require_language_model(model)
    elif not isinstance(need_speaker(model), Llava):
        got = f"pictures and prompts for a {type(unwrapped(model.module)).__name__}"
        raise refusal(got, "a Llava, whose answer follows its prompt", "prompts alone, or another model")
    check_model(model)
    rows = answer_rows(model, prompts, pictured=images is not None)
    sites = list(readout_of(model).sites) if hidden else []
    return _read(model, _batches(model, rows, images, batch_size), sites)


def answer_rows(
    model: Handle, prompts: Sequence[Prompt] | Sequence[TokenRow], *, pictured: bool = False
) -> list[list[int]]:
    """Token ids of prompts as `answer_states` reads them, one row a prompt.

    Args:
        model: with a tokenizer.
        prompts: texts, conversations, or rows of tokens, which are taken as they are.
        pictured: whether pictures go with them: as for captions, what the tokenizer puts after a text is left out then.
            The tokens of a picture are not among the rows.

    Raises:
        ModelError: a prompt without tokens, or with one that the model has no place for.
    """
    tokenizer = model.need_tokenizer()
    rows = [list(one.ids) for one in prompts if isinstance(one, TokenRow)]
    if not rows or len(rows) < len(prompts):
        rows = prompt_rows(tokenizer, cast("Sequence[Prompt]", prompts))
    refuse_unknown(model.module, tokenizer, rows, "prompt")
    after = len(Added.of(tokenizer).after) if pictured else 0
    return [
        row[: len(row) - after] if isinstance(prompt, str) else row
        for row, prompt in zip(rows, prompts, strict=True)
    ]


def _batches(
    model: Handle, rows: list[list[int]], images: Any, batch_size: int
) -> Iterator[tuple[Mapping[str, Tensor], Int[Tensor, " B"]]]:
    """Keywords of forward passes, and the place of each row's last token."""
    if images is None:
        limit = longest(model.module) or math.inf
        for number, row in enumerate(rows):
            if len(row) > limit:
                got = f"{len(row)} tokens in prompt {number}"
                refuse_longer(model.module, len(row), got, "a shorter prompt")
        given = row_batches(model, rows, batch_size=batch_size)
        return ((batch.arguments(model.module), batch.mask.sum(1) - 1) for batch in given)
    try:
        count = len(images)
    except TypeError:
        images = list(images)
        count = len(images)
    if count != len(rows):
        got = f"{count} pictures for {len(rows)} prompts"
        raise ShapeError(explain(got, "one picture for each prompt"))
    seen = picture_batches(model, images, [TokenRow(row) for row in rows], batch_size=batch_size)
    return ((batch, batch["attention_mask"].sum(1) - 1) for batch in seen)


def _read(
    model: Handle,
    batches: Iterator[tuple[Mapping[str, Tensor], Int[Tensor, " B"]]],
    sites: Sequence[str],
) -> Iterator[AnswerStates]:
    """Forward passes; of the logits only those at places where a row of the batch ends are computed."""
    module: nn.Module = model.module
    takes = inspect.signature(unwrapped(module).forward).parameters
    first = 0
    for keywords, last in batches:
        ends, place = torch.unique(last, return_inverse=True)
        keep = {"logits_to_keep": ends} if "logits_to_keep" in takes else {}
        cache = {"use_cache": False} if "use_cache" in takes else {}
        states = None
        with evaluating(module):
            if sites:
                with capture(model, sites, "last") as taken:
                    logits = module(**keywords, **keep, **cache).logits
                states = torch.stack([taken[site].float().cpu() for site in sites], 1)
            else:
                logits = module(**keywords, **keep, **cache).logits
        at = place if logits.shape[1] == len(ends) else last
        answers = logits[torch.arange(len(last), device=logits.device), at.to(logits.device)].float().cpu()
        _check_finite(answers, "logits", first)
        if states is not None:
            _check_finite(states.flatten(1), "hidden states", first)
        first += len(answers)
        yield AnswerStates(states, answers)


def _check_finite(values: Float[Tensor, "B n"], what: str, first: int) -> None:
    finite = values.isfinite().all(1)
    if not bool(finite.all()):
        got = f"{what} that are nan or infinite"
        raise refusal(got, "finite numbers", "float32", at=f"prompt {first + int((~finite).nonzero()[0])}")
