"""Whether a network has a place for every token of its tokenizer and for every position of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from trimtab.errors import ModelError, explain
from trimtab.models.families import unwrapped


def embeddings(network: nn.Module) -> int | None:
    """How many tokens the input embedding has; None for a network without one that we can find."""
    return _size(network, "get_input_embeddings", "num_embeddings")


def predicted(network: nn.Module) -> int | None:
    """How many tokens the output head tells apart; None for a network without a head."""
    return _size(network, "get_output_embeddings", "out_features")


def vocabulary(network: nn.Module) -> int | None:
    """How many tokens the network both reads and predicts, the smaller of the two; None where it does not say."""
    known = [size for size in (embeddings(network), predicted(network)) if size is not None]
    return min(known, default=None)


def lacks_tokens(network: nn.Module, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has a token that the network has no place for.

    Not a mistake by itself: Gemma 3's tokenizer has one for pictures, which its text models lack. It is one as soon as
    a text has such a token, see `refuse_unknown`.
    """
    limit = vocabulary(network)
    return limit is not None and max(tokenizer.get_vocab().values(), default=-1) >= limit


def refuse_unknown(
    network: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], what: str = "text"
) -> None:
    """Refuse token ids that the network has no place for.

    Args:
        network: with or without a wrapper.
        tokenizer: where they are from.
        rows: token ids of some texts.
        what: what a text is called.

    Raises:
        ModelError: naming the token, the text and both sizes.
    """
    limit = vocabulary(network)
    if limit is None:
        return
    for number, row in enumerate(rows):
        if len(row) and max(row) >= limit:
            raise unknown_token(network, tokenizer, int(max(row)), f"{what} {number}")


def unknown_token(
    network: nn.Module, tokenizer: PreTrainedTokenizerBase, token: int, where: str
) -> ModelError:
    """What to raise about a token that the network has no place for; both sizes are named."""
    reads, writes = embeddings(network), predicted(network)
    size = f"embeddings for {reads}" if reads is not None else "no embeddings"
    if writes is not None and writes != reads:
        size += f" and outputs for {writes}"
    word = repr(tokenizer.convert_ids_to_tokens([token])[0])
    got = f"token {token} ({word}) in {where}, of a tokenizer with {len(tokenizer)} tokens"
    expected = f"tokens that the model has a place for: it has {size}"
    return ModelError(explain(got, expected, f"model.module.resize_token_embeddings({len(tokenizer)})"))


def refuse_unreadable_outputs(network: nn.Module) -> None:
    """Refuse to generate with a network that can write tokens which it cannot read.

    Raises:
        ModelError: naming both sizes.
    """
    reads, writes = embeddings(network), predicted(network)
    if reads is not None and writes is not None and writes > reads:
        got = f"outputs for {writes} tokens beside embeddings for {reads}"
        raise ModelError(explain(got, "as many of both", f"model.module.resize_token_embeddings({writes})"))


def longest(network: nn.Module) -> int | None:
    """How many positions a network has a place for, or was trained with; None when its configuration does not say.

    Tables that begin to count after the padding token, as RoBERTa's do, have so many places less.
    """
    network = unwrapped(network)
    config: Any = getattr(network, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in _POSITIONS:
        limit = getattr(text, name, None)
        if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
            return limit - _skipped_positions(network, limit)
    return None


def refuse_longer(network: nn.Module, length: int, got: str, hint: str) -> None:
    """Refuse a sequence that is longer than `longest`: beyond it tables end, and rotations were never trained.

    Raises:
        ModelError: naming both lengths.
    """
    limit = longest(network)
    if limit is not None and length > limit:
        raise ModelError(explain(got, f"at most {limit}, the model's limit", hint.format(limit=limit)))


_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx")


def _skipped_positions(network: nn.Module, limit: int) -> int:
    """Places at the start of a table of positions that no token has."""
    for name, part in network.named_modules():
        table = isinstance(part, nn.Embedding) and name.endswith("position_embeddings")
        if table and part.num_embeddings == limit and part.padding_idx is not None:
            return int(part.padding_idx) + 1
    return 0


def _size(network: nn.Module, getter: str, attribute: str) -> int | None:
    find = getattr(unwrapped(network), getter, None)
    if not callable(find):
        return None
    try:
        part: Any = find()
    except (NotImplementedError, AttributeError):  # what transformers says of models that read no tokens
        return None
    size = getattr(part, attribute, None)
    return size if isinstance(size, int) else None
