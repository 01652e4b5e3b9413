"""LoRA adapters: from a short mapping to trainable low-rank matrices inside a model, by way of peft."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from transformers.pytorch_utils import Conv1D

from trimtab.errors import nearest
from trimtab.models.families import refusal
from trimtab.seeds import derive, isolated

if TYPE_CHECKING:
    from peft import LoraConfig

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Lora:
    """A LoRA adapter (Hu et al. 2021): `W + (alpha / r) B A`, with only A and B trained.

    Attributes:
        r: rank, at least 1.
        alpha: strength; None means 2 r.
        dropout: share of the adapter's inputs dropped while training, in [0, 1).
        targets: names of the modules to adapt; None means every linear map except the unembedding.
        seed: of A's random start; B starts at 0, so a fresh adapter changes nothing.
    """

    r: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    seed: int = 0


KEYS = tuple(Lora.__dataclass_fields__)


def read_adapter(adapter: Mapping[str, Any]) -> Lora:
    """Check a mapping such as `{"r": 32, "targets": ["q_proj"]}` and give it the defaults.

    Raises:
        ModelError: a key is unknown, or a value is of the wrong kind or out of range.

    >>> read_adapter({"r": 4})
    Lora(r=4, alpha=None, dropout=0.0, targets=None, seed=0)
    """
    for key in adapter:
        if key not in KEYS:
            raise refusal(repr(key), f"keys among {KEYS}", nearest(str(key), KEYS), at="adapter")
    for key, value in adapter.items():
        expected, holds = _RULES[key]
        try:
            good = holds(value)
        except TypeError:
            good = False
        if not good:
            raise refusal(repr(value), expected, at=f"adapter {key}")
    targets = adapter.get("targets")
    names = (targets,) if isinstance(targets, str) else tuple(targets or ())
    return Lora(**{**adapter, "targets": None if targets in (None, ALL_LINEAR) else names})


def wrap(module: nn.Module, adapter: Mapping[str, Any] | LoraConfig) -> nn.Module:
    """Put a LoRA adapter inside `module` (in place, as peft does) and return the peft wrapper.

    Only the adapter's parameters require gradients afterwards. The caller's random generators are unchanged.

    Raises:
        ModelError: the mapping is wrong, the targets match no module, or the module has an adapter already.
    """
    from peft import LoraConfig, get_peft_model

    if hasattr(module, "peft_config"):
        raise refusal("adapter= for a model that has an adapter", "one adapter", "adapter=None")
    seed, config = 0, adapter
    if isinstance(adapter, Mapping):
        lora = read_adapter(adapter)
        seed = lora.seed
        config = LoraConfig(
            r=lora.r,
            lora_alpha=cast("int", 2 * lora.r if lora.alpha is None else lora.alpha),
            lora_dropout=lora.dropout,
            target_modules=ALL_LINEAR if lora.targets is None else list(lora.targets),
            fan_in_fan_out=any(isinstance(part, Conv1D) for part in module.modules()),
            task_type="CAUSAL_LM" if callable(getattr(module, "generate", None)) else None,
        )
    with isolated(derive(seed, "adapter")), warnings.catch_warnings():
        # peft 0.21 reads a property that transformers 5.23 has renamed; nothing the caller could act on.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        try:
            return cast("nn.Module", get_peft_model(cast("Any", module), cast("Any", config)))
        except ValueError as error:
            hint = f"the last part of a linear module's name, or leave it out for {ALL_LINEAR!r}"
            raise refusal(error, "names in the model", hint, at="adapter targets") from error


def _is_number(value: Any, kinds: Any = int | float) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "r": ("a whole number of at least 1", lambda v: _is_number(v, int) and v >= 1),
    "alpha": ("a number above 0", lambda v: v is None or (_is_number(v) and v > 0)),
    "dropout": ("a number in [0, 1)", lambda v: _is_number(v) and 0 <= v < 1),
    "seed": ("a whole number", lambda v: _is_number(v, int)),
    "targets": (
        f"{ALL_LINEAR!r} or a list of module names",
        lambda v: v is None or isinstance(v, str) or (bool(v) and all(isinstance(name, str) for name in v)),
    ),
}
