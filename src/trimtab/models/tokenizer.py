"""Tokenizers and processors: how they are read, whether a network fits them, and which special tokens they add.

A network fits if it has a place for every token and position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from trimtab.errors import ModelError
from trimtab.models.families import refusal, text_config, unwrapped
from trimtab.models.folder import PROCESSOR_FILES, check_files, local_folder, read_config


def embeddings(network: nn.Module) -> int | None:
    """Size of the input embedding, in tokens; None for a network without one that we can find."""
    return _size(network, "get_input_embeddings", "num_embeddings")


def predicted(network: nn.Module) -> int | None:
    """Size of the output head, in tokens; None for a network without a head."""
    return _size(network, "get_output_embeddings", "out_features")


def vocabulary(network: nn.Module) -> int | None:
    """Vocabulary size: tokens that the network both reads and predicts; None where it does not say."""
    return min((size for size in (embeddings(network), predicted(network)) if size is not None), default=None)


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
        rows: token ids of texts.
        what: what a text is called.

    Raises:
        ModelError: naming the token, the text and both sizes.
    """
    limit = vocabulary(network)
    for number, row in enumerate(rows):
        if limit is not None and max(row, default=-1) >= limit:
            raise unknown_token(network, tokenizer, int(max(row)), f"{what} {number}")


def unknown_token(
    network: nn.Module, tokenizer: PreTrainedTokenizerBase | None, token: int, where: str
) -> ModelError:
    """ModelError about a token that the network has no place for; both sizes are named, where they are known."""
    reads, writes = embeddings(network), predicted(network)
    size = f"embeddings for {reads}" if reads is not None else "no embeddings"
    if writes is not None and writes != reads:
        size += f" and outputs for {writes}"
    expected = f"tokens that the model has a place for: it has {size}"
    if tokenizer is None:
        return refusal(f"token {token} in {where}", expected, "the tokenizer of this model")
    word = repr(tokenizer.convert_ids_to_tokens([token])[0])
    got = f"token {token} ({word}) in {where}, of a tokenizer with {len(tokenizer)} tokens"
    return refusal(got, expected, f"model.module.resize_token_embeddings({len(tokenizer)})")


def refuse_unreadable_outputs(network: nn.Module) -> None:
    """Refuse to generate with a network that can write tokens which it cannot read.

    Raises:
        ModelError: naming both sizes.
    """
    reads, writes = embeddings(network), predicted(network)
    if reads is not None and writes is not None and writes > reads:
        got = f"outputs for {writes} tokens beside embeddings for {reads}"
        raise refusal(got, "as many of both", f"model.module.resize_token_embeddings({writes})")


def longest(network: nn.Module) -> int | None:
    """Maximum sequence length that a network has positions for; None when its configuration does not say.

    Tables that begin to count after the padding token, as RoBERTa's do, have so many places less.
    """
    limits = (getattr(text_config(network), name, None) for name in _POSITIONS)
    limit = next((one for one in limits if isinstance(one, int) and not isinstance(one, bool) and one > 0), 0)
    for name, part in unwrapped(network).named_modules():
        table = isinstance(part, nn.Embedding) and name.endswith("position_embeddings")
        if table and part.num_embeddings == limit and part.padding_idx is not None:
            return limit - int(part.padding_idx) - 1
    return limit or None


def refuse_longer(network: nn.Module, length: int, got: str, hint: str) -> None:
    """Refuse a sequence that is longer than `longest`: beyond it tables end, and rotations were never trained.

    Raises:
        ModelError: naming both lengths.
    """
    limit = longest(network)
    if limit is not None and length > limit:
        raise refusal(got, f"at most {limit}, the model's limit", hint.format(limit=limit))


def local_limit(source: str) -> int | None:
    """Positions that the configuration of a model's folder names; None where it is not here, or does not say."""
    folder = None if source.startswith("lab:") else local_folder(source)
    if folder is None or not (folder / "config.json").is_file():
        return None
    facts = read_config(folder)
    text = facts.get("text_config")
    found = (part.get(name) for part in (text, facts) if isinstance(part, dict) for name in _POSITIONS)
    return next((one for one in found if type(one) is int and one > 0), None)


_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx")


def _size(network: nn.Module, getter: str, attribute: str) -> int | None:
    find = getattr(unwrapped(network), getter, None)
    try:
        size = getattr(find() if callable(find) else None, attribute, None)
    except (NotImplementedError, AttributeError):  # transformers raises these for models that read no tokens
        return None
    return size if isinstance(size, int) else None


@dataclass(frozen=True)
class Added:
    """Special tokens that a tokenizer puts before and after every text.

    Attributes:
        before: token ids, such as that of `<s>`; none for most tokenizers of the GPT-2 kind.
        after: token ids, such as that of `[SEP]`; none for most language models.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Added:
        """Special tokens of a tokenizer, from a short text that is encoded with and without them."""
        full = tuple(tokenizer("a", verbose=False)["input_ids"])
        bare = tuple(tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"])
        for start in range(len(full) - len(bare) + 1):
            if bare and full[start : start + len(bare)] == bare:
                return cls(full[:start], full[start + len(bare) :])
        return cls()

    def once(self, row: Sequence[int]) -> list[int]:
        """A row in which no added token is doubled by the same one that the text itself begins or ends with.

        >>> Added(before=(1,)).once([1, 1, 5])
        [1, 5]
        """
        ids = list(row)
        before, after = len(self.before), len(self.after)
        if before and len(ids) >= 2 * before and tuple(ids[before : 2 * before]) == self.before:
            ids = ids[before:]
        if after and len(ids) >= 2 * after and tuple(ids[-2 * after : -after]) == self.after:
            ids = ids[:-after]
        return ids

    def begun(self, row: Sequence[int]) -> list[int]:
        """A row with the tokens that go before a text, unless it begins with them already."""
        ids = list(row)
        return ids if tuple(ids[: len(self.before)]) == self.before else [*self.before, *ids]

    @property
    def count(self) -> int:
        """How many tokens it adds to a text."""
        return len(self.before) + len(self.after)

    def cut(self, row: Sequence[int], length: int) -> list[int]:
        """A row of at most this many tokens, with what was added around the text."""
        if len(row) <= length:
            return list(row)
        text = row[: len(row) - len(self.after)]
        return [*text[: max(length - len(self.after), 0)], *self.after][:length]


TokenizerSource = PreTrainedTokenizerBase | str | Path
_VOCABULARIES = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", *_VOCABULARIES)


def read_tokenizer(source: TokenizerSource) -> PreTrainedTokenizerBase:
    """The tokenizer itself, or the one of a folder or hub name.

    Raises:
        ModelError: there is none.
    """
    if isinstance(source, PreTrainedTokenizerBase):
        return source
    folder = local_folder(source) or Path(source)
    hint = "tokenizer= or tokenizer.save_pretrained(folder)"
    if folder.is_dir() and not _has_tokenizer(folder):
        raise refusal(f"the folder {folder} without a tokenizer", "tokenizer files", hint)
    if folder.is_dir():
        check_files(folder)
    try:
        place = str(folder if folder.is_dir() else source)
        words = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        encoded = words("a", verbose=False)["input_ids"]
    except Exception as error:  # of transformers, tokenizers or Python: a damaged file can bring about any
        raise refusal(f"{source}: {first_line(error)}", "a tokenizer", hint) from error
    if not isinstance(words, PreTrainedTokenizerBase) or not isinstance(encoded, list):
        raise refusal(f"{source}: a {type(words).__name__}", "a tokenizer", hint)
    return words


def optional_tokenizer(where: str) -> PreTrainedTokenizerBase | None:
    """Tokenizer of a checkpoint that need not have one; None where there is none."""
    folder = Path(where)
    if folder.is_dir():
        return read_tokenizer(where) if _has_tokenizer(folder) else None
    try:
        return read_tokenizer(where)
    except (ModelError, KeyError):  # transformers raises a KeyError for models that read no text
        return None


def local_tokenizer(source: str) -> PreTrainedTokenizerBase | None:
    """Tokenizer of a folder, or of a hub name in this machine's cache; None where it is not here.

    Raises:
        ModelError: the folder has none, or a damaged one.
    """
    if source.startswith("lab:"):
        return None
    if (folder := local_folder(source)) is not None:
        return read_tokenizer(folder)
    try:
        words = AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=True)
    except Exception:  # as in `read_tokenizer`; the cache may hold a part of the model only
        return None
    return words if isinstance(words, PreTrainedTokenizerBase) else None


def read_processor(source: Any) -> Any:
    """The processor itself, or the one of a folder or hub name; None stays None.

    Raises:
        ModelError: there is none.
    """
    if not isinstance(source, str | Path):
        return source
    try:
        found = cast("Any", AutoProcessor).from_pretrained(str(source), trust_remote_code=False)
        if isinstance(found, PreTrainedTokenizerBase):  # of a kind of model without a processor of its own
            found = cast("Any", AutoImageProcessor).from_pretrained(str(source), trust_remote_code=False)
        return found
    except Exception as error:  # as for tokenizers
        hint = "processor= or processor.save_pretrained(folder)"
        raise refusal(f"{source}: {first_line(error)}", "a processor", hint) from error


def optional_processor(where: str) -> Any:
    """Processor of a checkpoint, for pictures with or without text; None where there is none."""
    for name in PROCESSOR_FILES:
        try:
            cached_file(where, name)
        except OSError:
            continue
        return read_processor(where)
    return None


def first_line(error: Exception) -> str:
    """First line of an error's message, with its class where the message alone is unclear."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    said = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]).rstrip(".")
    clear = isinstance(error, OSError | ValueError) and " " in said
    return said if clear else f"{type(error).__name__} {said}".strip()


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)
