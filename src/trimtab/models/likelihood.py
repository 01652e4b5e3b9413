"""How likely texts are under a language model, and how far an intervention moves its next-token distributions.

Prompt and continuation as one row of tokens, and where the continuation begins in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from trimtab.errors import ShapeError, explain
from trimtab.models.batches import TextBatch, check_listed, evaluating, row_batches, text_batches, token_rows
from trimtab.models.families import Handle, refusal
from trimtab.models.inspection import require_language_model
from trimtab.models.tokenizer import Added


def joined_rows(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], continuations: Sequence[str]
) -> tuple[list[list[int]], list[int]]:
    """The tokens of each prompt and its continuation as one text, and how many of them come before the continuation.

    The continuation begins at the first token that has one of its characters. What the tokenizer puts before a text
    stands before the prompt; what it puts after a text is left out.

    Args:
        tokenizer: only read. One that cannot say which characters a token has (a slow one) is asked for the tokens of
            the prompt alone instead, and the continuation begins where they differ from those of both.
        prompts: texts.
        continuations: as many.

    Raises:
        ModelError: a text without tokens, a continuation that adds no token to its prompt, or one that shares the first
            token of all with it, which nothing precedes.
    """
    added = Added.of(tokenizer)
    token_rows(tokenizer, continuations, what="continuation", special=False)
    texts = [prompt + rest for prompt, rest in zip(prompts, continuations, strict=True)]
    heads = token_rows(tokenizer, prompts, what="prompt", special=False, empty=bool(added.before))
    wholes = token_rows(tokenizer, texts, special=False)
    rows, starts = [], []
    for number, (prompt, rest) in enumerate(zip(prompts, continuations, strict=True)):
        row = added.begun(wholes[number])
        start = _start(tokenizer, prompt, rest, heads[number], wholes[number])
        start += len(row) - len(wholes[number])
        at = f"continuation {number}, {rest!r}, after {prompt!r}"
        if start >= len(row):
            raise refusal("no token of its own", "at least one token", at=at)
        if start == 0:
            got = "the first token of all, which nothing precedes"
            raise refusal(got, "a token before it", "a longer prompt", at=at)
        rows.append(row)
        starts.append(start)
    return rows, starts


def _start(
    tokenizer: PreTrainedTokenizerBase, prompt: str, rest: str, head: Sequence[int], whole: Sequence[int]
) -> int:
    if list(whole[: len(head)]) == list(head):
        return len(head)
    if tokenizer.is_fast:
        settings = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
        ends = [end for _, end in tokenizer(prompt + rest, **settings)["offset_mapping"]]
        return next((place for place, end in enumerate(ends) if end > len(prompt)), len(whole))
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(head, whole, strict=False)))


@dataclass(frozen=True)
class LogLikelihood:
    """How likely each of n texts is.

    Attributes:
        nats: summed log probability of each text's scored tokens, at most 0.
        tokens: how many tokens of each text were scored.
    """

    nats: Float[np.ndarray, " n"]
    tokens: Int[np.ndarray, " n"]

    @property
    def loss_nats(self) -> float:
        """Token-weighted mean loss, nats per token; nan without scored tokens."""
        return _per_token(-self.nats, self.tokens)

    @property
    def perplexity(self) -> float:
        """exp of the mean loss per token, at least 1; nan without scored tokens."""
        return float(np.exp(self.loss_nats))


@dataclass(frozen=True)
class Divergence:
    """How far next-token distributions moved on each of n texts.

    Attributes:
        nats: summed over the positions of each text, at least 0.
        tokens: positions of each text.
    """

    nats: Float[np.ndarray, " n"]
    tokens: Int[np.ndarray, " n"]

    @property
    def mean_nats(self) -> float:
        """Mean divergence per token; nan without tokens."""
        return _per_token(self.nats, self.tokens)


def log_likelihood(
    model: Handle, texts: Sequence[str], *, batch_size: int = 16, max_tokens: int | None = None
) -> LogLikelihood:
    """The log probability of each text: of its tokens from the second on, each given those before.

    The first token is never scored, so a text of one token counts for nothing. Interventions that are in place take
    part. One batch of logits is held at a time, in the model's own precision; sums are in double precision.

    Args:
        model: a causal language model with a tokenizer; its modes are restored.
        texts: at least one token each; none at all gives empty arrays.
        batch_size: texts at a time.
        max_tokens: longer texts are cut to this many tokens.

    Raises:
        ModelError: not a causal language model, no tokenizer, or a text that cannot be read.
    """
    require_language_model(model)
    return _scored(model, text_batches(model, texts, batch_size=batch_size, max_tokens=max_tokens))


def continuation_log_likelihood(
    model: Handle, prompts: Sequence[str], continuations: Sequence[str], *, batch_size: int = 16
) -> LogLikelihood:
    """The log probability of each continuation given its prompt; only the continuation's tokens are scored.

    The two are tokenised together, as one text: `the` followed by ` cat` is scored as the end of `the cat`. A token
    that spans the border, as `the` does in `th` + `e`, counts to the continuation, so that none of its characters goes
    unscored; it is conditioned on the tokens before it. Special tokens that the tokenizer adds before a text are part
    of the prompt; those that it adds after a text are left out.

    Args:
        model: a causal language model with a tokenizer.
        prompts: at least one token each.
        continuations: one for each prompt, at least one token each.
        batch_size: pairs at a time.

    Raises:
        ModelError: not a causal language model, no tokenizer, a text that cannot be read, or a continuation that the
            tokenizer joins with the first token of all, which nothing precedes.
        ShapeError: not as many prompts as continuations.
    """
    require_language_model(model)
    for texts, what in ((prompts, "prompt"), (continuations, "continuation")):
        check_listed(texts, what)
    prompts, continuations = list(prompts), list(continuations)
    if len(prompts) != len(continuations):
        got = f"{len(prompts)} prompts and {len(continuations)} continuations"
        raise ShapeError(explain(got, "one continuation for each prompt"))
    rows, starts = joined_rows(model.need_tokenizer(), prompts, continuations)
    batches = row_batches(model, rows, batch_size=batch_size)
    return _scored(model, batches, starts)


def kl_divergence(
    model: Handle,
    texts: Sequence[str],
    change: Callable[[], AbstractContextManager[Any]],
    *,
    batch_size: int = 16,
    max_tokens: int | None = None,
) -> Divergence:
    """KL(model as it is || model inside a context), per token, over the whole vocabulary.

    At every token of a text, the last one included, the two distributions of the next token are compared. Both
    forward passes of a batch follow one another, so two batches of logits are held at a time, whatever the number of
    texts.

    Args:
        model: a causal language model with a tokenizer.
        texts: at least one token each.
        change: opens the context anew for each batch, for instance `lambda: steering.on(model, strength=0.5)`.
        batch_size: texts at a time.
        max_tokens: longer texts are cut to this many tokens.

    Returns:
        Zero exactly where the context changes nothing; infinite where it makes a possible token impossible.

    Raises:
        ModelError: not a causal language model, no tokenizer, or a text that cannot be read.
    """
    require_language_model(model)
    nats: list[float] = []
    tokens: list[int] = []
    with evaluating(model.module):
        for batch in text_batches(model, texts, batch_size=batch_size, max_tokens=max_tokens):
            before = next_token_logits(model.module, batch)
            with change():
                after = next_token_logits(model.module, batch)
            for p, q, mask in zip(before, after, batch.mask.bool(), strict=True):
                nats.append(float(kl(p[mask], q[mask]).double().sum()))
                tokens.append(int(mask.sum()))
    return Divergence(np.array(nats, dtype=np.float64), np.array(tokens, dtype=np.int64))


def next_token_logits(module: nn.Module, batch: TextBatch) -> Float[Tensor, "B T V"]:
    """Logits at every position of a batch, with gradients unless they are off; those at padding mean nothing."""
    logits = getattr(module(**batch.arguments(module)), "logits", None)
    if not isinstance(logits, Tensor):
        got = f"a {type(module).__name__} that returns no logits"
        raise refusal(got, "a causal language model", "its ...ForCausalLM class")
    return logits


def kl(p_logits: Float[Tensor, "*n V"], q_logits: Float[Tensor, "*n V"]) -> Float[Tensor, " *n"]:
    """KL(p || q) of categorical distributions given by logits, in nats; differentiable.

    In single precision at least. Never negative but for rounding, which is cut off at 0; a category that p gives no
    mass adds nothing.

    >>> kl(torch.tensor([0.0, -torch.inf]), torch.tensor([0.0, 0.0]))
    tensor(0.6931)
    """
    single = torch.float64 if p_logits.dtype == torch.float64 else torch.float32
    p, q = p_logits.to(single).log_softmax(-1), q_logits.to(single).log_softmax(-1)
    gap = torch.where(p == -torch.inf, 0.0, p - q)
    return (p.exp() * gap).sum(-1).clamp(min=0)


def _scored(model: Handle, batches: Iterator[TextBatch], starts: Sequence[int] = ()) -> LogLikelihood:
    """Sums over each row's tokens from its start on, from the second where no starts are given."""
    nats: list[float] = []
    tokens: list[int] = []
    with evaluating(model.module):
        for batch in batches:
            begins = torch.tensor(
                starts[len(nats) : len(nats) + len(batch.ids)] or [0], device=batch.ids.device
            )
            after = batch.positions >= begins[:, None]
            scored = (batch.mask.bool() & after)[:, 1:] & batch.mask[:, :-1].bool()
            for keep, ids, logits in zip(
                scored, batch.ids, next_token_logits(model.module, batch), strict=True
            ):
                some = logits[:-1][keep]
                some = some if some.dtype == torch.float64 else some.float()
                logp = some.gather(-1, ids[1:][keep][:, None])[:, 0] - some.logsumexp(-1)
                nats.append(float(logp.double().sum()))
                tokens.append(int(keep.sum()))
    return LogLikelihood(np.array(nats, dtype=np.float64), np.array(tokens, dtype=np.int64))


def _per_token(nats: Float[np.ndarray, " n"], tokens: Int[np.ndarray, " n"]) -> float:
    total = int(tokens.sum())
    return float(nats.sum()) / total if total else math.nan
