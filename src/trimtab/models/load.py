"""One handle for a causal language model, from a hub name, a local folder or a module."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from trimtab.errors import ModelError, explain, nearest
from trimtab.models.adapters import read_adapter, wrap
from trimtab.models.families import Family, family_of, unwrapped
from trimtab.models.generate import generate

if TYPE_CHECKING:
    from peft import LoraConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
_CAUSAL = "a causal language model"
_SAMPLED_VALUES = 4096


@dataclass(frozen=True)
class Model:
    """A loaded network with its tokenizer: one handle for training, reading and generating.

    Attributes:
        module: the network; inside a peft wrapper when an adapter was asked for.
        tokenizer: the caller's or the checkpoint's, never changed.
        name: the hub name, the folder or the class it came from.
    """

    module: nn.Module
    tokenizer: PreTrainedTokenizerBase
    name: str

    @property
    def family(self) -> Family | None:
        """Where this kind of model keeps its blocks and norms; None when we have no table for it."""
        return family_of(self.module)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.module.parameters()).device

    def generate(self, prompts: Sequence[str], max_new_tokens: int = 32, batch_size: int = 16) -> list[str]:
        """Greedy completions of the prompts; see `trimtab.models.generate.generate`."""
        return generate(
            self.module, self.tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size
        )

    def trainable(self) -> dict[str, nn.Parameter]:
        """Every parameter that requires a gradient, by canonical name; tied parameters once.

        With an adapter these are exactly the adapter's. Canonical names are those of the plain model: the
        prefixes of a peft wrapper are left out.

        Raises:
            ModelError: no parameter requires a gradient.
        """
        found = {
            canonical(name): parameter
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad
        }
        if not found:
            got = f"{self.name} with every parameter frozen"
            raise ModelError(explain(got, "something to train", "adapter={'r': 16} or requires_grad_()"))
        return found

    def fingerprint(self) -> str:
        """16 hex digits that change when the architecture or the weights do.

        Covers each tensor's name, shape, dtype and up to 4096 evenly spaced values, so it is quick for large
        models and blind only to an edit that misses all of them.
        """
        digest = hashlib.sha256()
        for name, tensor in self.module.state_dict().items():
            digest.update(f"{canonical(name)} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            flat = tensor.detach().reshape(-1)
            digest.update(flat[:: max(1, flat.numel() // _SAMPLED_VALUES)].double().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def canonical(name: str) -> str:
    """A parameter's or module's name as it is without a peft wrapper.

    >>> canonical("base_model.model.model.layers.0.mlp.up_proj.base_layer.weight")
    'model.layers.0.mlp.up_proj.weight'
    """
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def load(
    source: str | Path | nn.Module,
    *,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    dtype: str | None = None,
    device: str | torch.device | None = None,
    adapter: Mapping[str, Any] | LoraConfig | None = None,
) -> Model:
    """A causal language model with its tokenizer, ready to evaluate or to train.

    Args:
        source: a hub name, a folder written by `save_pretrained` (safetensors), or a module you built.
        tokenizer: needed beside a module; otherwise it replaces the checkpoint's. A folder or name is loaded.
        dtype: "float32", "bfloat16" or "float64"; None keeps the checkpoint's own.
        device: None means the first free accelerator of this process, else the CPU.
        adapter: `{"r": 32, "alpha": 64, "dropout": 0.0, "targets": ["q_proj"], "seed": 0}`, all
            optional, or a peft `LoraConfig`. Only the adapter is trainable then. A module gets it in place.

    Returns:
        A handle whose module is in evaluation mode, unless it was passed in: then its mode is kept.

    Raises:
        ModelError: the folder, its config.json or the tokenizer is missing, this is not a causal language
            model, the hub name cannot be reached, or a setting is wrong. Settings are checked before files,
            and files before weights.
    """
    _check_settings(source, dtype, device, adapter)
    if isinstance(source, nn.Module):
        module, words = source, _given_tokenizer(source, tokenizer)
        name = str(getattr(getattr(source, "config", None), "name_or_path", "") or type(source).__name__)
    else:
        name = str(source)
        module, words = _from_checkpoint(source, tokenizer, dtype, device)
    return Model(module if adapter is None else wrap(module, adapter), words, name)


def _from_checkpoint(
    source: str | Path,
    tokenizer: PreTrainedTokenizerBase | str | Path | None,
    dtype: str | None,
    device: str | torch.device | None,
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    where = _place(source)
    _refuse_other_kinds(where, _config(where))
    words = _tokenizer(where if tokenizer is None else tokenizer)
    try:
        module: nn.Module = AutoModelForCausalLM.from_pretrained(
            where, dtype="auto" if dtype is None else DTYPES[dtype], use_safetensors=True
        )
    except (OSError, ValueError) as error:
        hint = "save_pretrained again with a current transformers, or check the name"
        raise ModelError(explain(f"{where}: {_first_line(error)}", "weights in safetensors", hint)) from error
    return module.to(_default_device() if device is None else device), words


def _check_settings(
    source: str | Path | nn.Module,
    dtype: str | None,
    device: str | torch.device | None,
    adapter: Mapping[str, Any] | LoraConfig | None,
) -> None:
    if isinstance(adapter, Mapping):
        read_adapter(adapter)
    if dtype is not None and dtype not in DTYPES:
        hint = nearest(str(dtype).removeprefix("torch."), DTYPES)
        raise ModelError(f"dtype: {explain(repr(dtype), f'one of {tuple(DTYPES)}', hint)}")
    if not isinstance(source, nn.Module):
        return
    if dtype is not None or device is not None:
        got = "dtype= or device= beside a module"
        raise ModelError(explain(got, "a module that is as you want it", "module.to(...) before load"))
    if isinstance(source, PreTrainedModel) or hasattr(source, "get_base_model"):
        _refuse_other_modules(unwrapped(source))


def _place(source: str | Path) -> str:
    """The folder or hub name to hand to transformers; refused when it must be a folder and is none."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return str(folder)
        got = f"the folder {folder} without config.json"
        if (folder / "adapter_config.json").is_file():
            hint = "PeftModel.from_pretrained(base, folder), then load(module, tokenizer=...)"
            raise ModelError(explain(got + " but with an adapter", "a whole model", hint))
        raise ModelError(
            explain(got, "a folder written by save_pretrained", "the folder that has config.json")
        )
    if isinstance(source, Path) or source.startswith((".", "/", "~")) or source.count("/") > 1 or not source:
        raise ModelError(
            explain(f"the folder {source!r}, which does not exist", "a model's folder or hub name")
        )
    return source


def _config(where: str) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(where)
    except (OSError, ValueError) as error:
        expected = "a local folder, or a model that the hub serves and this transformers knows"
        raise ModelError(
            explain(f"{where}: {_first_line(error)}", expected, "check the name and the network")
        ) from error
    assert isinstance(config, PreTrainedConfig)
    return config


def _refuse_other_kinds(where: str, config: PreTrainedConfig) -> None:
    kinds = config.architectures or []
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    causal = {name for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for name in _names(names)}
    if known and (not kinds or causal.intersection(kinds)) and not _looks_both_ways(config):
        return
    got = f"{where}, which is {' '.join(kinds) or config.model_type}"
    raise ModelError(explain(got, _CAUSAL, "a checkpoint such as Qwen/Qwen3-0.6B"))


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _looks_both_ways(config: PreTrainedConfig) -> bool:
    """Whether a model sees the future: encoder-decoders, and encoders such as BERT unless set to decode."""
    encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return bool(config.is_encoder_decoder) or (encoder and getattr(config, "is_decoder", None) is False)


def _refuse_other_modules(module: nn.Module) -> None:
    config = getattr(module, "config", None)
    speaks = isinstance(module, PreTrainedModel) and module.can_generate()
    if not speaks or config is None or _looks_both_ways(config):
        raise ModelError(explain(f"a {type(module).__name__}", _CAUSAL, "its ...ForCausalLM class"))


def _given_tokenizer(
    module: nn.Module, tokenizer: PreTrainedTokenizerBase | str | Path | None
) -> PreTrainedTokenizerBase:
    if tokenizer is None:
        got = f"a {type(module).__name__} without tokenizer"
        raise ModelError(
            explain(got, "tokenizer= beside a module", "tokenizer=AutoTokenizer.from_pretrained(...)")
        )
    return _tokenizer(tokenizer)


def _tokenizer(source: PreTrainedTokenizerBase | str | Path) -> PreTrainedTokenizerBase:
    if isinstance(source, PreTrainedTokenizerBase):
        return source
    folder = Path(source).expanduser()
    hint = "tokenizer= or tokenizer.save_pretrained(folder)"
    if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(explain(f"the folder {folder} without a tokenizer", "tokenizer files", hint))
    try:
        words = AutoTokenizer.from_pretrained(str(source))
    except (OSError, ValueError) as error:
        raise ModelError(explain(f"{source}: {_first_line(error)}", "a tokenizer", hint)) from error
    assert isinstance(words, PreTrainedTokenizerBase)
    return words


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "spiece.model",
)


def _default_device() -> torch.device:
    """This process's accelerator, under torchrun too; the CPU without one or if accelerate is told so."""
    if torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true"):
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
