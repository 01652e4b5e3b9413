"""Completions, log-likelihoods and KL divergences of a language model on batches of texts.

The other texts of a batch change no completion and no score. Prompt and continuation are scored as one text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import takewhile
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from trimtab.errors import ShapeError, explain
from trimtab.models.batches import (
    TextBatch,
    TokenRow,
    check_listed,
    evaluating,
    pad_token,
    padded,
    row_batches,
    text_batches,
    token_rows,
)
from trimtab.models.captioning import caption_nats
from trimtab.models.chat import Prompt, is_talk, read_prompt
from trimtab.models.decoding import Draws, neutral
from trimtab.models.devices import device_of
from trimtab.models.families import Handle, refusal, unwrapped
from trimtab.models.inspection import check_model, refuse_module, require_language_model
from trimtab.models.speakers import need_speaker, refuse_blind
from trimtab.models.tokenizer import (
    Added,
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
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 32,
    batch_size: int = 16,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Completions of prompts: at each step the most likely token, or one drawn by its probability.

    Prompts are padded on the left under an explicit mask, and positions count from each prompt's own first
    token, so padding changes nothing. Draws depend on the seed, the prompt's place in the list and the step, so
    the batch size changes nothing either. Nothing but the logits decides: of the module's `generation_config` only the
    end tokens are heeded, not its penalties, samplers, beams, bans or lengths. The tokenizer is only read, the
    module's mode and `generation_config` are restored, and the caller's random generators are not touched.

    Args:
        module: a causal language model with `generate`.
        tokenizer: its tokenizer.
        prompts: texts of at least one token each; or conversations, as lists of messages or mappings with "messages",
            which the tokenizer's chat template writes, with its generation prompt. None at all gives an empty list.
        max_new_tokens: at least 1; a completion is shorter when the model ends it.
        batch_size: prompts at a time.
        temperature: 0 takes the most likely token; above, tokens are drawn from softmax(logits / temperature).
        seed: of the draws.

    Returns:
        The completions alone, without prompt and special tokens, in the order of the prompts.

    Raises:
        ModelError: a single string, a prompt without tokens, with tokens that the module has no embedding for or, with
            `max_new_tokens`, beyond its limit; messages without a chat template; a number out of range, or not a causal
            language model with `generate`.
        DataError: a prompt of another form, or messages that the chat template refuses.
    """
    _check(module, prompts, max_new_tokens, batch_size, temperature)
    rows = prompt_rows(tokenizer, prompts)
    refuse_unknown(module, tokenizer, rows, "prompt")
    sizes = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    completions = continuations(module, tokenizer, rows, **sizes, temperature=temperature, seed=seed)
    return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in completions]


def continuations(
    module: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[list[int]]:
    """New token ids after each row of token ids, without the token that ends them; all else as in `generate`.

    Fewer than `max_new_tokens` of them say that the model ended the row itself.

    Raises:
        ModelError: a row that leaves no room for `max_new_tokens`.
    """
    limit = longest(module) or math.inf
    for number, row in enumerate(rows):
        length = len(row) + max_new_tokens - 1  # the last new token is never read
        if length > limit:
            got = f"{len(row)} tokens in prompt {number} and max_new_tokens={max_new_tokens}"
            refuse_longer(module, length, got, "a shorter prompt or fewer new tokens")
    settings = _settings(module, tokenizer, max_new_tokens)
    ends, completions = settings.eos_token_id or [], list[list[int]]()
    with evaluating(module), neutral(module):
        for start in range(0, len(rows), batch_size):
            batch = padded(rows[start : start + batch_size], int(settings.pad_token_id), "left")
            batch = batch.to(device_of(module))
            seeds = [derive(seed, "generate", place) for place in range(start, start + len(batch.ids))]
            written: Tensor = cast("Any", module).generate(
                **batch.arguments(module),
                generation_config=settings,
                logits_processor=[Draws(temperature, seeds)] if temperature else [],
            )
            for row in written[:, batch.ids.shape[1] :].tolist():  # after an end token comes padding
                completions.append(list(takewhile(lambda token: token not in ends, row)))
    return completions


def prompt_rows(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of prompts, one row a prompt.

    A text has the special tokens that the tokenizer adds. A conversation has the tokens of `apply_chat_template` with
    `add_generation_prompt=True`, and no others.

    Args:
        tokenizer: only read.
        prompts: see `trimtab.models.chat.read_prompt`.

    Raises:
        ModelError: no list of prompts, a text without tokens, or messages for a tokenizer without a chat template.
        DataError: a prompt of another form, or messages that the template refuses.
    """
    check_listed(prompts, "prompt")
    given = list(prompts)
    if is_talk(given) and "role" in cast("Any", given[0]):
        raise refusal("the messages of one conversation", "a list of prompts", "[messages]")
    read = [read_prompt(one, f"prompt {number}") for number, one in enumerate(given)]
    texts = iter(token_rows(tokenizer, [one for one in read if isinstance(one, str)], what="prompt"))
    rows = []
    for number, one in enumerate(read):
        if isinstance(one, str):
            rows.append(next(texts))
            continue
        written = one.prompt(tokenizer, f"prompt {number}")
        rows.append(token_rows(tokenizer, [written], what="prompt", special=False)[0])
    return rows


def ends_of(module: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a completion: as the module's generation settings say, else the tokenizer's end token.

    Raises:
        ModelError: settings that name what is no token.
    """
    eos = getattr(getattr(unwrapped(module), "generation_config", None), "eos_token_id", None)
    eos = tokenizer.eos_token_id if eos is None else eos
    ends = [] if eos is None else list(eos) if isinstance(eos, list | tuple) else [eos]
    if not all(isinstance(end, int) and not isinstance(end, bool) for end in ends):
        at = "generation_config.eos_token_id"
        raise refusal(repr(eos), "a token id, or a list of them", at=at)
    limit = predicted(module) or 2**31
    return [end for end in ends if 0 <= end < limit]  # others are never written


def _settings(module: nn.Module, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> Any:
    defaults = getattr(unwrapped(module), "generation_config", None)
    return cast("Any", GenerationConfig)(
        do_sample=False,
        num_beams=1,
        use_cache=getattr(defaults, "use_cache", None) is not False,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_token(tokenizer, module),
        eos_token_id=ends_of(module, tokenizer) or None,
    )


def _check(
    module: nn.Module, prompts: Sequence[Prompt], max_new_tokens: int, batch_size: int, temperature: float
) -> None:
    check_listed(prompts, "prompt")
    for name, count in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if not isinstance(cast("Any", count), Integral) or count < 1:
            raise refusal(count, "at least 1, a whole number", at=name)
    if not isinstance(cast("Any", temperature), Real) or not 0 <= temperature < float("inf"):
        raise refusal(temperature, "a number of at least 0", at="temperature")
    refuse_blind(module)
    refuse_module(module)
    check_model(module)
    refuse_unreadable_outputs(module)
    if not callable(getattr(module, "generate", None)):
        raise refusal(f"a {type(module).__name__} without generate()", "a model that generates")


def joined_rows(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], continuations: Sequence[str]
) -> tuple[list[list[int]], list[int]]:
    """Tokens of each prompt and its continuation as one text, and how many of them come before the continuation.

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
    """Log-likelihood of each of n texts, in nats.

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
        """Perplexity, exp of the mean loss per token, at least 1; nan without scored tokens."""
        return float(np.exp(self.loss_nats))


@dataclass(frozen=True)
class Divergence:
    """KL divergence of next-token distributions on each of n texts, in nats.

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
    model: Handle,
    texts: Sequence[str] | Sequence[TokenRow],
    *,
    batch_size: int = 16,
    max_tokens: int | None = None,
    images: Any = None,
) -> LogLikelihood:
    """Log-likelihood of each text: of its tokens from the second on, each given those before.

    The first token is never scored, so a text of one token counts for nothing. Interventions that are in place take
    part. One batch of logits is held at a time, in the model's own precision; sums are in double precision.

    Args:
        model: a causal language model with a tokenizer; its modes are restored.
        texts: at least one token each; none at all gives empty arrays. Of rows of tokens with a response only the
            tokens of the response are scored.
        batch_size: texts at a time.
        max_tokens: longer texts are cut to this many tokens.
        images: one picture for each text, or their features; for a captioner, of which all tokens of a text are scored,
            the first too, after its own start and without an end token.

    Raises:
        ModelError: not a causal language model, no tokenizer, or a text that cannot be read; pictures for a model that
            is no captioner, or a captioner without pictures.
        ShapeError: not one picture for each text.
    """
    if images is not None:
        need_speaker(model)
        listed: Any = texts
        rows = token_rows(model.need_tokenizer(), listed, special=False, max_tokens=max_tokens)
        return _of_pictures(model, images, None, rows, batch_size)
    refuse_blind(model)
    require_language_model(model)
    return _scored(model, text_batches(model, texts, batch_size=batch_size, max_tokens=max_tokens))


def continuation_log_likelihood(
    model: Handle,
    prompts: Sequence[str],
    continuations: Sequence[str],
    *,
    batch_size: int = 16,
    images: Any = None,
) -> LogLikelihood:
    """Log-likelihood of each continuation given its prompt; only the continuation's tokens are scored.

    The two are tokenised together, as one text: `the` followed by ` cat` is scored as the end of `the cat`. A token
    that spans the border, as `the` does in `th` + `e`, counts to the continuation, so that none of its characters goes
    unscored; it is conditioned on the tokens before it. Special tokens that the tokenizer adds before a text are part
    of the prompt; those that it adds after a text are left out.

    Args:
        model: a causal language model with a tokenizer.
        prompts: at least one token each.
        continuations: one for each prompt, at least one token each.
        batch_size: pairs at a time.
        images: one picture for each pair, or their features, for a captioner. A prompt may be empty then.

    Raises:
        ModelError: not a causal language model, no tokenizer, a text that cannot be read, or a continuation that the
            tokenizer joins with the first token of all, which nothing precedes; pictures for a model that is no
            captioner, or a captioner without pictures.
        ShapeError: not as many prompts as continuations, or not one picture for each.
    """
    if images is None:
        refuse_blind(model)
        require_language_model(model)
    else:
        need_speaker(model)
    for texts, what in ((prompts, "prompt"), (continuations, "continuation")):
        check_listed(texts, what)
    prompts, continuations = list(prompts), list(continuations)
    if len(prompts) != len(continuations):
        got = f"{len(prompts)} prompts and {len(continuations)} continuations"
        raise ShapeError(explain(got, "one continuation for each prompt"))
    if images is not None:
        heads, rests = _split_rows(model.need_tokenizer(), prompts, continuations)
        return _of_pictures(model, images, heads, rests, batch_size)
    rows, starts = joined_rows(model.need_tokenizer(), prompts, continuations)
    batches = row_batches(model, rows, batch_size=batch_size)
    return _scored(model, batches, starts)


def _split_rows(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], continuations: Sequence[str]
) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens of prompts and of their continuations, tokenised together, where a picture precedes both."""
    token_rows(tokenizer, continuations, what="continuation", special=False)
    texts = [prompt + rest for prompt, rest in zip(prompts, continuations, strict=True)]
    heads = token_rows(tokenizer, prompts, what="prompt", special=False, empty=True)
    wholes = token_rows(tokenizer, texts, special=False)
    starts = [_start(tokenizer, *row) for row in zip(prompts, continuations, heads, wholes, strict=True)]
    pairs = list(zip(wholes, starts, strict=True))
    return [row[:start] for row, start in pairs], [row[start:] for row, start in pairs]


def _of_pictures(
    model: Handle, images: Any, starts: list[list[int]] | None, rows: list[list[int]], batch_size: int
) -> LogLikelihood:
    check_model(model)
    nats = caption_nats(model, images, starts, rows, batch_size)
    return LogLikelihood(
        np.array(nats, dtype=np.float64), np.array([len(row) for row in rows], dtype=np.int64)
    )


def kl_divergence(
    model: Handle,
    texts: Sequence[str] | Sequence[TokenRow],
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
        texts: at least one token each. Of rows of tokens with a response the distributions from the one that begins it
            to the one after it count.
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
            for p, q, mask in zip(before, after, batch.predicting.bool(), strict=True):
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
            mine = starts[len(nats) : len(nats) + len(batch.ids)] or [0]
            begins = torch.tensor(mine, device=batch.ids.device)
            after = batch.positions >= begins[:, None]
            scored = (batch.scored.bool() & after)[:, 1:] & batch.mask[:, :-1].bool()
            for keep, ids, logits in zip(
                scored, batch.ids, next_token_logits(model.module, batch), strict=True
            ):
                rows = logits[:-1][keep]
                rows = rows if rows.dtype == torch.float64 else rows.float()
                logp = rows.gather(-1, ids[1:][keep][:, None])[:, 0] - rows.logsumexp(-1)
                nats.append(float(logp.double().sum()))
                tokens.append(int(keep.sum()))
    return LogLikelihood(np.array(nats, dtype=np.float64), np.array(tokens, dtype=np.int64))


def _per_token(nats: Float[np.ndarray, " n"], tokens: Int[np.ndarray, " n"]) -> float:
    total = int(tokens.sum())
    return float(nats.sum()) / total if total else math.nan
