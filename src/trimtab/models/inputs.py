"""Tokenizers and processors: what turns texts and pictures into the inputs of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from trimtab.errors import ModelError, explain

TokenizerSource = PreTrainedTokenizerBase | str | Path
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def read_tokenizer(source: TokenizerSource) -> PreTrainedTokenizerBase:
    """The tokenizer itself, or the one of a folder or hub name.

    Raises:
        ModelError: there is none.
    """
    if isinstance(source, PreTrainedTokenizerBase):
        return source
    folder = Path(source).expanduser()
    hint = "tokenizer= or tokenizer.save_pretrained(folder)"
    if folder.is_dir() and not _has_any(folder, _TOKENIZER_FILES):
        raise ModelError(explain(f"the folder {folder} without a tokenizer", "tokenizer files", hint))
    try:
        words = AutoTokenizer.from_pretrained(str(source))
    except (OSError, ValueError) as error:
        raise ModelError(explain(f"{source}: {first_line(error)}", "a tokenizer", hint)) from error
    assert isinstance(words, PreTrainedTokenizerBase)
    return words


def tokenizer_beside(where: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a checkpoint that may do without; None when it does."""
    folder = Path(where)
    if folder.is_dir():
        return read_tokenizer(where) if _has_any(folder, _TOKENIZER_FILES) else None
    try:
        return read_tokenizer(where)
    except (ModelError, KeyError):  # a KeyError is what transformers says of models that read no text
        return None


def read_processor(source: Any) -> Any:
    """The processor itself, or the one of a folder or hub name; None stays None.

    Raises:
        ModelError: there is none.
    """
    if not isinstance(source, str | Path):
        return source
    try:
        return cast("Any", AutoProcessor).from_pretrained(str(source))
    except (OSError, ValueError) as error:
        hint = "processor= or processor.save_pretrained(folder)"
        raise ModelError(explain(f"{source}: {first_line(error)}", "a processor", hint)) from error


def processor_beside(where: str) -> Any:
    """The processor of a checkpoint, for pictures with or without text; None when it has none."""
    for name in _PROCESSOR_FILES:
        try:
            cached_file(where, name)
        except OSError:
            continue
        return read_processor(where)
    return None


def first_line(error: Exception) -> str:
    """What an error says first."""
    return str(error).strip().partition("\n")[0].rstrip(".")


def _has_any(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).is_file() for name in names)
