"""Token batches with attention masks, in which padding changes nothing, and pooling to one vector per example.

All padding happens here.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from trimtab.errors import ShapeError, explain, nearest
from trimtab.models.families import Handle, refusal, unwrapped
from trimtab.models.tokenizer import Added, embeddings, longest, refuse_longer, refuse_unknown

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True)
class TextBatch:
    """Token ids of texts, padded, with their attention mask and positions.

    Attributes:
        ids: (B, T) token ids.
        mask: (B, T), 1 where a token is valid.
        positions: (B, T), counted from each row's first valid token.
        side: where the padding is.
        response: (B, T), 1 at the tokens of the response, the ones that are scored and pooled; None for all tokens.
    """

    ids: Int[Tensor, "B T"]
    mask: Int[Tensor, "B T"]
    positions: Int[Tensor, "B T"]
    side: PaddingSide = "right"
    response: Int[Tensor, "B T"] | None = None

    def to(self, device: torch.device | str) -> TextBatch:
        """The same batch on a device."""
        response = None if self.response is None else self.response.to(device)
        ids, mask, positions = (one.to(device) for one in (self.ids, self.mask, self.positions))
        return TextBatch(ids, mask, positions, self.side, response)

    @property
    def scored(self) -> Int[Tensor, "B T"]:
        """(B, T), 1 at the tokens that count: those of the response, or all but padding."""
        return self.mask if self.response is None else self.response

    @property
    def predicting(self) -> Int[Tensor, "B T"]:
        """(B, T), 1 where the next-token distribution counts: before, in and after the response, or everywhere."""
        if self.response is None:
            return self.mask
        before = torch.zeros_like(self.response)
        before[:, :-1] = self.response[:, 1:]
        return torch.maximum(before, self.response)

    def arguments(self, module: nn.Module) -> dict[str, Tensor]:
        """Keywords of a forward pass: ids and mask, and positions where the model would count padding.

        Models count from the left edge. That is right for padding on the right, also for those that count from
        another number than 0, and wrong for padding on the left.

        Raises:
            ModelError: padding on the left of a float64 model with eager attention: most of those take the softmax of
                the row of a padding token, all minus infinity in single precision, and hand its nan on.
        """
        keywords = {"input_ids": self.ids, "attention_mask": self.mask}
        if self.side == "right":
            return keywords
        network = unwrapped(module)
        eager = getattr(getattr(network, "config", None), "_attn_implementation", None) == "eager"
        if eager and not self.mask.all() and next(network.parameters()).dtype == torch.float64:
            got = "padding on the left for a float64 model with eager attention, which can make nan of it"
            raise refusal(got, "rows of one length, or another precision", "batch_size=1")
        takes = "position_ids" in inspect.signature(network.forward).parameters
        return keywords | ({"position_ids": self.positions} if takes else {})


@dataclass(frozen=True)
class TokenRow:
    """Token ids of one example, and which of them are its response.

    Attributes:
        ids: (T,) token ids.
        response: (T,) whether each belongs to the response; None where all count.
    """

    ids: Sequence[int]
    response: Sequence[bool] | None = None


def padded(
    rows: Sequence[Sequence[int]],
    pad: int,
    side: PaddingSide = "right",
    responses: Sequence[Sequence[bool]] | None = None,
) -> TextBatch:
    """Padded batch of rows of token ids, under an explicit mask.

    Args:
        rows: token ids.
        pad: the token id at padding.
        side: where padding goes.
        responses: whether each token belongs to the response of its row; None where all do.

    Raises:
        ModelError: no row, or one without tokens.

    >>> padded([[5, 6], [7]], pad=0, side="left").ids.tolist()
    [[5, 6], [0, 7]]
    >>> padded([[5, 6], [7]], pad=0).mask.tolist()
    [[1, 1], [1, 0]]
    """
    if not rows or not all(map(len, rows)):
        got = "no rows" if not rows else "a row without tokens"
        raise refusal(got, "at least one row of at least one token")
    width = max(map(len, rows))

    def fill(filling: int, contents: Sequence[Sequence[int]]) -> Tensor:
        gaps = [[filling] * (width - len(row)) for row in contents]
        pairs = zip(gaps, contents, strict=True)
        return torch.tensor([[*gap, *row] if side == "left" else [*row, *gap] for gap, row in pairs])

    mask = fill(0, [[1] * len(row) for row in rows])
    response = None if responses is None else fill(0, [[int(one) for one in row] for row in responses])
    return TextBatch(fill(pad, rows), mask, (mask.cumsum(1) - 1).clamp(min=0), side, response)


def token_rows(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    what: str = "text",
    special: bool = True,
    max_tokens: int | None = None,
    empty: bool = False,
) -> list[list[int]]:
    """Token ids of each text, one row a text.

    A special token that the tokenizer adds and that a text has already, as one rendered by a chat template has, is
    there once.

    Args:
        tokenizer: only read.
        texts: any number.
        what: what a text is called in errors.
        special: with the special tokens that the tokenizer adds, such as a first one.
        max_tokens: longer texts are cut to this many; None cuts nothing.
        empty: let texts without tokens pass.

    Raises:
        ModelError: a single string, something that is no text or cannot be encoded, or a text without tokens; a table
            or a mapping, which gives its keys, and a set, whose order changes.
    """
    check_listed(texts, what)
    texts = list(texts)
    added, rows = Added.of(tokenizer) if special else Added(), []

    def ids(text: str, limit: int | None) -> list[int]:
        cut = {} if limit is None else {"truncation": True, "max_length": limit}
        return list(tokenizer(text, add_special_tokens=special, verbose=False, **cut)["input_ids"])

    for number, text in enumerate(texts):
        at = f"{what} {number}"
        if not isinstance(text, str):
            raise refusal(f"a {type(text).__name__}", "a text", at=at)
        try:
            if max_tokens is None:
                rows.append(added.once(ids(text, None)))
                continue
            row = ids(text, max_tokens + added.count)  # wide enough to show what is doubled
            once = len(added.once(row)) == len(row)
            rows.append(ids(text, max_tokens) if once else added.cut(added.once(ids(text, None)), max_tokens))
        except (TypeError, UnicodeError) as error:
            got = f"{text[:40]!r}, which the tokenizer cannot encode"
            raise refusal(got, "text in Unicode without lone surrogates", at=at) from error
    for text, row in zip(texts, rows, strict=True):
        if not (row or empty):
            raise refusal(f"the {what} {text!r}, which has no token", "at least one token")
    return rows


def check_listed(texts: object, what: str = "text") -> None:
    """Refuse anything but an ordered list of texts: one string, a table, a mapping, a set.

    Args:
        texts: what was given.
        what: what a text is called.

    Raises:
        ModelError: a single string, a table or mapping, a set, or what cannot be iterated.
    """
    got = f"a {type(texts).__name__}"
    hint = f"sorted({what}s)" if isinstance(texts, Set) else f"list({what}s)"
    if isinstance(texts, str):
        got, hint = "one string", f"[{what}]"
    elif isinstance(texts, Mapping) or hasattr(texts, "columns") or hasattr(texts, "column_names"):
        hint = "list(table['text'])"
    elif isinstance(texts, Iterable) and not isinstance(texts, Set | bytes):
        return
    raise refusal(got, f"a list of {what}s", hint)


def row_batches(
    model: Handle,
    rows: Sequence[Sequence[int]],
    *,
    batch_size: int = 16,
    side: PaddingSide = "right",
    responses: Sequence[Sequence[bool]] | None = None,
) -> Iterator[TextBatch]:
    """Rows of token ids in their order, `batch_size` at a time, on the model's device; for `responses` see `padded`.

    Raises:
        ModelError: a batch size below 1, a row longer than the model's table of positions, or a token that the model
            has no embedding for.
    """
    if batch_size < 1:
        raise refusal(batch_size, "at least 1", at="batch_size")
    limit = longest(model.module) or math.inf
    if long := next(((number, len(row)) for number, row in enumerate(rows) if len(row) > limit), None):
        refuse_longer(model.module, long[1], f"{long[1]} tokens in text {long[0]}", "max_tokens={limit}")
    refuse_unknown(model.module, model.need_tokenizer(), rows)
    pad = pad_token(model.need_tokenizer(), model.module)
    parts = [slice(start, start + batch_size) for start in range(0, len(rows), batch_size)]
    masks = [None if responses is None else responses[part] for part in parts]
    pairs = zip(parts, masks, strict=True)
    return (padded(rows[part], pad, side, mask).to(model.device) for part, mask in pairs)


def text_batches(
    model: Handle,
    texts: Sequence[str] | Sequence[TokenRow],
    *,
    batch_size: int = 16,
    side: PaddingSide = "right",
    max_tokens: int | None = None,
) -> Iterator[TextBatch]:
    """Texts in their order as padded batches on the model's device: `model.module(**batch.arguments(model.module))`.

    Args:
        model: a handle with a tokenizer.
        texts: at least one token each; or rows of tokens, which are taken as they are.
        batch_size: texts at a time.
        side: where padding goes; on the right it is right for every kind of model.
        max_tokens: longer texts are cut; None refuses those longer than the model's limit.

    Raises:
        ModelError: no tokenizer, a single string, a text without tokens or too long, or a batch size below 1: all
            before the first batch.
    """
    tokenizer = model.need_tokenizer()
    check_listed(texts)
    given = list(texts)
    rows = [one for one in given if isinstance(one, TokenRow)]
    if not rows or len(rows) < len(given):
        ids = token_rows(tokenizer, cast("list[str]", given), max_tokens=max_tokens)
        return row_batches(model, ids, batch_size=batch_size, side=side)
    every = [[True] * len(row.ids) if row.response is None else row.response for row in rows]
    responses = every if any(row.response is not None for row in rows) else None
    ids = [list(row.ids) for row in rows]
    return row_batches(model, ids, batch_size=batch_size, side=side, responses=responses)


def pad_token(tokenizer: PreTrainedTokenizerBase, network: nn.Module | None = None) -> int:
    """Padding token id; under a mask every id gives the same results.

    Args:
        tokenizer: its padding token, else its end token, else 0.
        network: tokens that it has no embedding for are passed over.
    """
    limit = None if network is None else embeddings(network)
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int) and (limit is None or token < limit):
            return token
    return 0


@contextmanager
def evaluating(module: nn.Module, *, gradients: bool = False) -> Iterator[None]:
    """Evaluation mode for a block; each part's mode comes back, also if the block changes it.

    Args:
        module: its parts may be in different modes.
        gradients: with gradients, where the caller has them on.
    """
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with nullcontext() if gradients else torch.no_grad():
            yield
    finally:
        module.eval()
        for part in training:
            part.training = True


@contextmanager
def activation_checkpointing(module: nn.Module) -> Iterator[None]:
    """Activation checkpointing of a model of transformers for a block; it stays on afterwards where it was on before.

    Only training passes are changed. Gradients are those of a plain pass.

    Args:
        module: a network of transformers, with or without an adapter of peft.

    Raises:
        ModelError: the network has no activation checkpointing.
    """
    network = unwrapped(module)
    names = ("activation_checkpointing", "gradient_checkpointing")  # the second until transformers 5.20
    name = next((one for one in names if callable(getattr(network, f"{one}_enable", None))), None)
    if name is None or not getattr(network, "supports_gradient_checkpointing", False):
        hint = "fit.activation_checkpointing=False, or a smaller fit.micro_batch_size"
        raise refusal(f"activation checkpointing of {type(network).__name__}", "a network that has it", hint)
    if any(getattr(part, "gradient_checkpointing", False) for part in network.modules()):
        yield
        return
    with warnings.catch_warnings():
        # Wrappers of peft are asked by names that transformers 5.23 has deprecated.
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.*deprecated", FutureWarning)
        getattr(network, f"{name}_enable")(**{f"{name}_kwargs": {"use_reentrant": False}})
        try:
            yield
        finally:
            getattr(network, f"{name}_disable")()


Pool = Literal["mean", "max", "last"]


def pool(
    values: Float[Tensor, B * rest], how: Pool, mask: Int[Tensor, "B T"] | None = None
) -> Float[Tensor, "B d"]:
    """Pooled values: one vector per example.

    Args:
        values: (B, T, d) over tokens, (B, C, H, W) over positions of an image, or (B, d), returned as it is.
        how: "mean", "max", or "last" (the last valid token; not for images).
        mask: (B, T), 1 where a token is valid, on either side of the padding; None where all are. Not for images.

    Returns:
        (B, d), or (B, C) for an image. Padding never enters: not even infinities or nan there.

    Raises:
        ModelError: an unknown way, or "last" for an image.
        ShapeError: a mask of another shape, an example without a valid token, or values of another rank.

    >>> pool(torch.tensor([[[1.0], [5.0], [9.0]]]), "mean", torch.tensor([[1, 1, 0]]))
    tensor([[3.]])
    """
    if how not in get_args(Pool):
        raise refusal(repr(how), f"one of {get_args(Pool)}", nearest(how, get_args(Pool)), at="pool")
    if values.ndim == 2:
        return values
    if values.ndim == 4:
        if how == "last":
            raise refusal("last for an image", "mean or max", at="pool")
        return values.mean((2, 3)) if how == "mean" else values.amax((2, 3))
    if values.ndim != 3:
        raise ShapeError(
            explain(f"values of shape {tuple(values.shape)}", "(B, T, d), (B, C, H, W) or (B, d)")
        )
    valid = _checked(values, mask)
    if how == "last":
        places = torch.arange(valid.shape[1], device=valid.device)
        return values[torch.arange(len(values), device=valid.device), (valid * places).argmax(1)]
    if how == "max":
        return values.masked_fill(~valid[..., None], -torch.inf).amax(1)
    return values.masked_fill(~valid[..., None], 0).sum(1) / valid.sum(1, keepdim=True)


def _checked(values: Tensor, mask: Tensor | None) -> Tensor:
    """A boolean mask on the device of the values."""
    if mask is None:
        return torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    if mask.shape != values.shape[:2]:
        got = f"a mask of shape {tuple(mask.shape)} for values of shape {tuple(values.shape)}"
        raise ShapeError(explain(got, "one entry per token", "the attention mask of the same batch"))
    if not mask.bool().any(1).all():
        raise ShapeError(explain("an example without a valid token", "at least one each"))
    return mask.bool().to(values.device)
