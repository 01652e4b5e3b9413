"""Weight changes of a network: LoRA adapters, by way of peft, and folding of elementwise affine maps.

Which weights can take a map at a site is data: the wiring of a block, family by family.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trimtab.errors import ModelError, ShapeError, explain, nearest
from trimtab.models.families import Family, refusal, towers, unwrapped
from trimtab.models.sites import Site, first_names, modules_of
from trimtab.models.tokenizer import first_line
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
    """LoRA settings of a mapping such as `{"r": 32, "targets": ["q_proj"]}`, checked, with defaults.

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
    """Put a LoRA adapter inside `module` (in place, as peft does) and return the peft wrapper, in the module's mode.

    Only the adapter's parameters require gradients afterwards. The caller's random generators are unchanged.

    Raises:
        ModelError: the mapping is wrong, the targets match no module, peft refuses the settings for this model, or the
            module has an adapter already.
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
            modes = {part: part.training for part in module.modules()}
            wrapped = cast("nn.Module", get_peft_model(cast("Any", module), cast("Any", config)))
            for part in wrapped.modules():  # peft leaves what it adds, dropout too, in the mode of training
                part.training = modes.get(part, module.training)
            return wrapped
        except torch.OutOfMemoryError:
            raise
        except (ValueError, TypeError, RuntimeError) as error:
            if "arget" in first_line(error):  # "Target modules ... not found", "No modules were targeted ..."
                hint = f"the last part of a linear module's name, or leave it out for {ALL_LINEAR!r}"
                raise refusal(error, "names in the model", hint, at="adapter targets") from error
            expected = "settings that peft can put into this model"
            raise refusal(first_line(error), expected, "adapter={'r': 16}", at="adapter") from error


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


@dataclass(frozen=True)
class Wiring:
    """Wiring of a block: which module feeds which; all paths are relative to the block, '' is the block itself.

    Attributes:
        hands_on: module -> the module inside whose output it returns unchanged, but for dropout.
        readers: RMS norm -> the linear maps that read its output; none where it is added to the residual. Norms with a
            bias of their own are left out.
        last_added: the linear map whose output is the last thing added to the residual, so that what is added to its
            bias is added to the block's output. None where a norm follows it.
        flags: name of a flag in the configuration -> the linear maps that have a bias where it is set.
    """

    hands_on: Mapping[str, str]
    readers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    last_added: str | None = None
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


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
    readers={"input_layernorm": _QKV, "pre_feedforward_layernorm": _GATED}
    | dict.fromkeys(("post_attention_layernorm", "post_feedforward_layernorm"), ()),
    flags=_ATTENTION_FLAG,
)
_CLIP = Wiring({"self_attn": "self_attn.out_proj", "mlp": "mlp.fc2"}, last_added="mlp.fc2")

WIRING: dict[str, Wiring] = {
    "llama": _LLAMA,
    "mistral": replace(_LLAMA, flags={}),
    "qwen2": replace(_LLAMA, flags={}),
    "qwen3": replace(_LLAMA, flags=_ATTENTION_FLAG),
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gpt2": Wiring({"attn": "attn.c_proj", "mlp": "mlp.c_proj"}, last_added="mlp.c_proj"),
    "gpt_neox": Wiring(
        hands_on={"attention": "attention.dense", "mlp": "mlp.dense_4h_to_h"},
        last_added="mlp.dense_4h_to_h",
        flags={"attention_bias": ("attention.query_key_value", "attention.dense")},
    ),
    "bert": Wiring(
        dict.fromkeys(("attention", "attention.output"), "attention.output.LayerNorm")
        | dict.fromkeys(("output", ""), "output.LayerNorm")
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
        readers = None if inside is None else self.wiring.readers.get(inside)
        return None if readers is None else tuple(f"{block}.{reader}" for reader in readers)

    def last_added(self, path: str) -> str | None:
        """The linear map to whose bias a shift of this block's output may go; None for what is no such block."""
        block, inside = self.split(path) or ("", None)
        return f"{block}.{self.wiring.last_added}" if inside == "" and self.wiring.last_added else None

    def flag(self, path: str) -> str | None:
        """Configuration flag that gives this linear map a bias."""
        _, inside = self.split(path) or ("", None)
        flags = (flag for flag, maps in self.wiring.flags.items() if inside in maps)
        return next((flag for flag in flags if hasattr(self.config, flag)), None)


LINEAR = (nn.Linear, Conv1D)
ROWS = (*LINEAR, nn.Conv2d, nn.LayerNorm, nn.GroupNorm)
"""Modules whose output units are rows of their weight, with a bias for each."""

_ODD = "whose weights are quantised or of another kind"

Way = Literal["rows", "columns", "gain", "sum"]


@dataclass(frozen=True)
class Fold:
    """Fold of a map `w z + b` at a site: the weights that take it, and how.

    Attributes:
        site: where the map is.
        path: the module whose weight is scaled.
        way: how `W z + c`, or the gain g of an RMS norm, takes it.
            "rows", at an output: `W <- diag(w) W, c <- w c + b`.
            "columns", at an input: `c <- c + W b, W <- W diag(w)`.
            "gain": `g <- w (offset + g) - offset`, and `c <- c + W b` in each reader.
            "sum", where w is 1: `c <- c + b`.
        readers: the linear maps that read an RMS norm.
        offset: of the gain.
    """

    site: Site
    path: str
    way: Way
    readers: tuple[str, ...] = ()
    offset: float = 0.0

    @property
    def shifted(self) -> tuple[str, ...]:
        """The modules whose biases a shift changes."""
        return self.readers if self.way == "gain" else (self.path,)


@dataclass(frozen=True)
class Parts:
    """Network to fold into: its modules and towers, and which modules share parameters or paths."""

    network: nn.Module
    modules: dict[str, nn.Module]
    towers: tuple[Tower, ...]
    owners: dict[int, list[str]] = field(default_factory=dict)
    twins: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, network: nn.Module) -> Parts:
        """The parts of a network."""
        bare = unwrapped(network)
        part: Any = bare.get_submodule
        wired = [Tower(one, WIRING[one.name], part(path).config) for path, one in towers(bare).items()]
        parts = cls(network, modules_of(network), tuple(wired))
        for path, module in parts.modules.items():
            for parameter in module.parameters(recurse=False):
                parts.owners.setdefault(id(parameter), []).append(path)
        for other, path in first_names(network).items():
            if other != path:
                parts.twins.setdefault(path, []).append(other)
        return parts

    def tower(self, path: str) -> Tower | None:
        """The family that knows a module in its blocks, or as its final norm."""
        return next((t for t in self.towers if t.split(path) or path == t.family.final_norm), None)


def plan(parts: Parts, site: Site, weight: Tensor, shift: Tensor) -> Fold:
    """Plan of a fold: the weights that take a map; nothing is changed.

    Raises:
        ModelError: no weights of this network could hold the map: the reason and what to try are said.
        ShapeError: the map has another width than the site.
    """
    scales, shifts = bool((weight != 1).any()), bool(shift.any())
    if site.side == "out":
        fold = _output(parts, site, site.path, scales, shifts)
    elif type(parts.modules[site.path]) in LINEAR:
        fold = Fold(site, site.path, "columns")
    else:
        raise _refused(parts, site, "whose input is no linear map's", "the output of the norm before it")
    for path in (site.path, fold.path, *fold.shifted):
        if others := parts.twins.get(path):
            got = f"of which {path} is also {others[0]}, where the map would act as well"
            raise _refused(parts, site, got, "an untied copy of the model")
    module: Any = parts.modules[fold.path]
    if not isinstance(getattr(module, "weight", None), Tensor):
        hint = "the linear map that follows, or steering.on"
        raise _refused(parts, site, "which has no weights to fold into", hint)
    outputs_first = type(module) is not Conv1D
    units = module.weight.shape[0 if outputs_first == (fold.way != "columns") else 1]
    if units != len(weight) or (type(module) is nn.LayerNorm and module.weight.ndim > 1):
        raise ShapeError(
            f"site {site.name}: {explain(f'{len(weight)} units', f'{units}, as the module has')}"
        )
    for path in {fold.path, *fold.shifted} if shifts else {fold.path}:
        _check_weights(parts, site, path, scales and path == fold.path, shifts)
    return fold


@torch.no_grad()
def apply(parts: Parts, fold: Fold, weight: Tensor, shift: Tensor) -> None:
    """Fold a map into weights, in double precision; the network of `parts` is changed in place.

    Maps at inputs must be folded before those at the norms they read, and inner modules before outer ones.
    """
    module: Any = parts.modules[fold.path]
    if fold.way == "columns":
        _shift(parts, fold.path, _through(module, shift))
        _set(module, "weight", _exact(module.weight) * _along(module, weight, outputs=False))
    elif fold.way == "gain":
        for reader in fold.readers:
            _shift(parts, reader, _through(parts.modules[reader], shift))
        _set(module, "weight", _exact(weight) * (fold.offset + _exact(module.weight)) - fold.offset)
    elif fold.way == "rows":
        _set(module, "weight", _exact(module.weight) * _along(module, weight, outputs=True))
        if module.bias is not None:
            _set(module, "bias", _exact(module.bias) * _exact(weight))
    if fold.way in ("rows", "sum"):
        _shift(parts, fold.path, shift)


def _output(parts: Parts, site: Site, path: str, scales: bool, shifts: bool) -> Fold:
    if type(parts.modules[path]) in ROWS:
        return Fold(site, path, "rows")
    tower = parts.tower(path)
    if tower and (inner := tower.hands_on(path)):
        return _output(parts, site, inner, scales, shifts)
    if tower and (last := tower.last_added(path)):
        if scales:
            got = "whose weight is not 1: it would also scale what earlier blocks added to the residual"
            hint = "a steering that only shifts, or sites such as 'mlp_out' and 'pre_mlp_norm'"
            raise _refused(parts, site, got, hint)
        return Fold(site, last, "sum")
    readers = tower.readers(path) if tower else None
    if readers is None and isinstance(parts.modules[path], nn.RMSNorm):
        readers = ()
    if readers is None:
        if isinstance(parts.modules[path], ROWS):
            raise _refused(parts, site, _ODD, "the unquantised model")
        maps = [n for n, part in parts.modules.items() if n.startswith(f"{path}.") and type(part) in LINEAR]
        hint = f"'{maps[-1]}:out'" if maps else "the linear map or norm beside it"
        got = "whose output is not that of one linear map or norm with weights"
        raise _refused(parts, site, got, hint)
    if shifts and not readers:
        got = "a norm without bias, whose output no linear map reads alone, with a shift"
        raise _refused(parts, site, got, "a steering that only scales, or 'pre_mlp_norm'")
    return Fold(site, path, "gain", readers, tower.family.norm_offset if tower else 0.0)


def _check_weights(parts: Parts, site: Site, path: str, scales: bool, shifts: bool) -> None:
    """Refuse weights that are not plain numbers, or not this module's alone."""
    module: Any = parts.modules[path]
    plain = type(module) in ROWS or path == site.path
    if not plain or not module.weight.is_floating_point():
        raise _refused(parts, site, f"{_ODD} at {path}", "the unquantised model")
    for name in ("weight", "bias") if scales else ("bias",) if shifts else ():
        parameter = getattr(module, name, None)
        others = [other for other in parts.owners.get(id(parameter), []) if other != path]
        if others:
            got = f"whose {name} at {path} is also that of {others[0]}, which would change as well"
            raise _refused(parts, site, got, "an untied copy of the model")


def _refused(parts: Parts, site: Site, why: str, hint: str) -> ModelError:
    got = f"a {type(parts.modules[site.path]).__name__}, {why}"
    return refusal(got, "a site whose map fits into weights", hint, at=f"site {site.name}")


def _shift(parts: Parts, path: str, shift: Tensor) -> None:
    """Add to a bias, making it where there is none; where a flag stands for it, everywhere the flag does."""
    if not shift.any():
        return
    module: Any = parts.modules[path]
    if module.bias is None:
        tower, places = parts.tower(path), [path]
        if tower and (flag := tower.flag(path)):
            maps = tower.wiring.flags[flag]
            places += (other for other in parts.modules if (tower.split(other) or ("", None))[1] in maps)
            for config in _configs(parts.network, tower.family.name):
                setattr(config, flag, True)
        for linear in (cast("Any", parts.modules[place]) for place in places):
            if linear.bias is None:
                zeros = linear.weight.new_zeros(len(linear.weight))
                linear.bias = nn.Parameter(zeros, requires_grad=linear.weight.requires_grad)
    _set(module, "bias", _exact(module.bias) + _exact(shift))


def _configs(network: nn.Module, model_type: str) -> Iterator[Any]:
    """Every configuration of a kind, also those inside others: a part and its whole may have one each."""
    waiting = [part.config for part in network.modules() if hasattr(part, "config")]
    seen = set[int]()
    while waiting:
        config = waiting.pop()
        if id(config) not in seen and hasattr(config, "model_type"):
            seen.add(id(config))
            waiting += vars(config).values()
            if config.model_type == model_type:
                yield config


def _through(module: Any, shift: Tensor) -> Tensor:
    """What a linear map makes of a shift of its input."""
    weight = _exact(module.weight)
    return _exact(shift) @ weight if type(module) is Conv1D else weight @ _exact(shift)


def _along(module: Any, vector: Tensor, *, outputs: bool) -> Tensor:
    """A vector over outputs or inputs, shaped to multiply the weight."""
    rows = outputs != (type(module) is Conv1D)
    return _exact(vector).reshape(-1, *[1] * (module.weight.ndim - 1)) if rows else _exact(vector)


def _set(module: Any, name: str, value: Tensor) -> None:
    getattr(module, name).data.copy_(value)


def _exact(tensor: Tensor) -> Tensor:
    """In double precision, on the CPU: not every device has it."""
    return tensor.detach().to("cpu", torch.float64)
