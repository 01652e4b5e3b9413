"""Tokenizers and processors: what turns texts and pictures into the inputs of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from trimtab.errors import ModelError, explain
from trimtab.models.folder import check_files, local_folder

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
    folder = local_folder(source) or Path(source)
    hint = "tokenizer= or tokenizer.save_pretrained(folder)"
    if folder.is_dir() and not _has_any(folder, _TOKENIZER_FILES):
        raise ModelError(explain(f"the folder {folder} without a tokenizer", "tokenizer files", hint))
    if folder.is_dir():
        check_files(folder)
    try:
        words = AutoTokenizer.from_pretrained(
            str(folder if folder.is_dir() else source), trust_remote_code=False
        )
        encoded = words("a", verbose=False)["input_ids"]
    except (
        Exception
    ) as error:  # of transformers, of tokenizers or of Python: a damaged file can bring about any
        raise ModelError(explain(f"{source}: {first_line(error)}", "a tokenizer", hint)) from error
    if not isinstance(words, PreTrainedTokenizerBase) or not isinstance(encoded, list):
        raise ModelError(explain(f"{source}: a {type(words).__name__}", "a tokenizer", hint))
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
        return cast("Any", AutoProcessor).from_pretrained(str(source), trust_remote_code=False)
    except Exception as error:  # as for tokenizers
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
    """What an error says first, and its kind where the words alone would not tell."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    said = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]).rstrip(".")
    clear = isinstance(error, OSError | ValueError) and " " in said
    return said if clear else f"{type(error).__name__} {said}".strip()


def _has_any(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).is_file() for name in names)
