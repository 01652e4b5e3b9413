"""What is joined to what inside a block, family by family, as folding maps into weights needs it: data, not code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from trimtab.models.families import Family, towers, unwrapped


@dataclass(frozen=True)
class Wiring:
    """How the modules of a block are joined; all paths are relative to the block, '' is the block itself.

    Attributes:
        hands_on: module -> the module inside whose output it returns unchanged, but for dropout.
        readers: RMS norm -> the linear maps that read its output; none where it is added to the residual. Norms with a
            bias of their own are left out.
        last_added: the linear map whose output is the last thing added to the residual, so that what is added to its
            bias is added to the block's output. None where a norm follows it.
        flags: name of a flag in the configuration -> the linear maps that have a bias where it is set.
    """

    hands_on: Mapping[str, str]
    readers: Mapping[str, tuple[str, ...]]
    last_added: str | None
    flags: Mapping[str, tuple[str, ...]]


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATED = ("mlp.gate_proj", "mlp.up_proj")
_ATTENTION_FLAG = {"attention_bias": (*_QKV, "self_attn.o_proj")}
_LLAMA = Wiring(
    hands_on={"self_attn": "self_attn.o_proj", "mlp": "mlp.down_proj"},
    readers={"input_layernorm": _QKV, "post_attention_layernorm": _GATED},
    last_added="mlp.down_proj",
    flags=_ATTENTION_FLAG | {"mlp_bias": (*_GATED, "mlp.down_proj")},
)
_GEMMA = Wiring(
    hands_on=_LLAMA.hands_on,
    readers={
        "input_layernorm": _QKV,
        "post_attention_layernorm": (),
        "pre_feedforward_layernorm": _GATED,
        "post_feedforward_layernorm": (),
    },
    last_added=None,
    flags=_ATTENTION_FLAG,
)
_CLIP = Wiring({"self_attn": "self_attn.out_proj", "mlp": "mlp.fc2"}, {}, "mlp.fc2", {})

WIRING: dict[str, Wiring] = {
    "llama": _LLAMA,
    "mistral": replace(_LLAMA, flags={}),
    "qwen2": replace(_LLAMA, flags={}),
    "qwen3": replace(_LLAMA, flags=_ATTENTION_FLAG),
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gpt2": Wiring({"attn": "attn.c_proj", "mlp": "mlp.c_proj"}, {}, "mlp.c_proj", {}),
    "gpt_neox": Wiring(
        hands_on={"attention": "attention.dense", "mlp": "mlp.dense_4h_to_h"},
        readers={},
        last_added="mlp.dense_4h_to_h",
        flags={"attention_bias": ("attention.query_key_value", "attention.dense")},
    ),
    "bert": Wiring(
        hands_on={
            "attention": "attention.output.LayerNorm",
            "attention.output": "attention.output.LayerNorm",
            "output": "output.LayerNorm",
            "": "output.LayerNorm",
        },
        readers={},
        last_added=None,
        flags={},
    ),
    "clip_text_model": _CLIP,
    "clip_vision_model": _CLIP,
}
"""By the name of the family."""


@dataclass(frozen=True)
class Tower:
    """One family inside a network, in paths of the network.

    Attributes:
        family: where its parts are.
        wiring: how they are joined.
        config: of the part that it describes.
    """

    family: Family
    wiring: Wiring
    config: Any

    def split(self, path: str) -> tuple[str, str] | None:
        """The block that a module is in and its path there; None outside the blocks.

        >>> from trimtab.models.families import FAMILIES
        >>> Tower(FAMILIES["gpt2"], WIRING["gpt2"], None).split("transformer.h.3.mlp")
        ('transformer.h.3', 'mlp')
        """
        inside = path.removeprefix(f"{self.family.blocks}.")
        number, _, rest = inside.partition(".")
        return (f"{self.family.blocks}.{number}", rest) if inside != path and number.isdigit() else None

    def hands_on(self, path: str) -> str | None:
        """The module whose output this one returns unchanged."""
        block, inside = self.split(path) or ("", None)
        inner = None if inside is None else self.wiring.hands_on.get(inside)
        return None if inner is None else f"{block}.{inner}"

    def readers(self, path: str) -> tuple[str, ...] | None:
        """The linear maps that read an RMS norm; None for what is no RMS norm that we know."""
        if path == self.family.final_norm:
            return (self.family.unembedding,) if self.family.unembedding else ()
        block, inside = self.split(path) or ("", None)
        found = None if inside is None else self.wiring.readers.get(inside)
        return None if found is None else tuple(f"{block}.{reader}" for reader in found)

    def last_added(self, path: str) -> str | None:
        """The linear map to whose bias a shift of this block's output may go; None for what is no such block."""
        block, inside = self.split(path) or ("", None)
        return f"{block}.{self.wiring.last_added}" if inside == "" and self.wiring.last_added else None

    def flag(self, path: str) -> str | None:
        """The flag of the configuration that gives this linear map a bias."""
        _, inside = self.split(path) or ("", None)
        found = [
            flag for flag, maps in self.wiring.flags.items() if inside in maps and hasattr(self.config, flag)
        ]
        return found[0] if found else None


def towers_of(network: nn.Module) -> tuple[Tower, ...]:
    """The families inside a network whose wiring we know."""
    bare = unwrapped(network)
    return tuple(
        Tower(family, WIRING[family.name], bare.get_submodule(path).config)
        for path, family in towers(bare).items()
        if family.name in WIRING
    )
