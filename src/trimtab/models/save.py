"""A model as a plain Hugging Face checkpoint, read back and compared before success is reported.

A small made-up input for a network, to see whether two networks compute the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from trimtab.errors import CheckpointError, ModelError, TrimtabError, explain
from trimtab.models.batches import evaluating
from trimtab.models.families import towers
from trimtab.models.folder import path_of
from trimtab.models.inspection import check_model, loader
from trimtab.models.sites import network_of
from trimtab.models.tokenizer import first_line
from trimtab.runs.atomic import atomic_directory

if TYPE_CHECKING:
    from trimtab.models.load import Model


ROWS, TOKENS = 2, 8
HALF_TOLERANCE = 0.1


def probe_inputs(network: nn.Module) -> dict[str, Tensor] | None:
    """Keywords of a forward pass with random tokens and pictures, the same each time.

    None for what is no single model of transformers that we know: parts of pipelines, models that see and speak.
    """
    kinds = {family.name for family in towers(network).values()}
    sees, reads = "clip_vision_model" in kinds, bool(kinds - {"clip_vision_model"})
    if not isinstance(network, PreTrainedModel) or not kinds or (sees and network.can_generate()):
        return None
    draw = torch.Generator().manual_seed(0)
    config: Any = network.config
    found: dict[str, Tensor] = {}
    if reads:
        words: Any = config.get_text_config()
        found["input_ids"] = torch.randint(0, words.vocab_size, (ROWS, TOKENS), generator=draw)
        found["attention_mask"] = torch.ones_like(found["input_ids"])
    if sees:
        size = getattr(config, "vision_config", config).image_size
        pixels = torch.randn(ROWS, 3, size, size, generator=draw)
        found["pixel_values"] = pixels.to(network.dtype)
    return {name: value.to(network.device) for name, value in found.items()}


def outputs(network: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that a network returns, by name, in single precision at least."""
    returned = network(**inputs, return_dict=True)
    tensors = {name: value for name, value in returned.items() if isinstance(value, Tensor)}
    return {name: value if value.dtype == torch.float64 else value.float() for name, value in tensors.items()}


def tolerance(network: nn.Module, single: float) -> float:
    """The gap to allow in single precision and beyond; in half precision only gross mistakes can be told."""
    precise = next(network.parameters()).dtype in (torch.float32, torch.float64)
    return single if precise else HALF_TOLERANCE


def largest_gap(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """The largest difference of two outputs, as a share of the largest value expected; inf where one is nan."""
    return max((_gap(value.detach(), found[name].detach()) for name, value in expected.items()), default=0.0)


def _gap(expected: Tensor, found: Tensor) -> float:
    same = (expected == found) | (expected.isnan() & found.isnan())
    gaps = (expected - found).abs() / expected.abs().max().clamp(min=1e-30)
    return float(torch.where(same, 0.0, gaps).nan_to_num(torch.inf).max())


TOLERANCE = 1e-5
_READING = (OSError, ValueError, RuntimeError, KeyError, TypeError)


def save(model: Model, folder: str | Path) -> Path:
    """Write network, tokenizer and processor so that `from_pretrained` of transformers or diffusers reads them.

    What was written is read back by the library itself: every weight must be the same, and the outputs on a made-up
    input, where one can be made, within 1e-5 of the largest. (transformers drops weights that a configuration has no
    place for, with no more than a line in its log.) In half precision outputs may differ by a tenth: `module.to` also
    rounds what is not saved, such as the frequencies of positions.

    Args:
        model: without an adapter. Reading back takes as much memory again.
        folder: a new or an empty one; it appears whole or not at all.

    Returns:
        The folder.

    Raises:
        ModelError: the network has no `save_pretrained`, has an adapter, or has weights that its configuration has no
            place for, such as a bias that `fuse` had to add; the folder has files; or what was read back differs.
        CheckpointError: it cannot be written: the disk is full, say. Nothing is left behind.
    """
    network, target = _plain(model), path_of(folder, "a folder's path").absolute()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        got = f"{target}, where there is something already"
        raise ModelError(explain(got, "a new folder or an empty one", f"{target.name}-2"))
    check_model(network, "saving")
    _refuse_what_would_be_lost(network)
    with _written(target), atomic_directory(target) as new:
        for part in (network, model.tokenizer, model.processor):
            if part is not None:
                _save_part(part, new)
        _compare(network, new)
    return target


def _save_part(part: Any, folder: Path) -> None:
    try:
        part.save_pretrained(folder)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        if isinstance(error, TrimtabError) or "os error" in str(error):
            raise
        got = f"a {type(part).__name__} that cannot save itself ({first_line(error)[:200]})"
        raise ModelError(
            explain(got, "what save_pretrained can write", "an untied, unquantised copy")
        ) from error


@contextmanager
def _written(target: Path) -> Iterator[None]:
    """Turn what libraries raise when they cannot write into a CheckpointError; safetensors has an error of its own."""
    try:
        yield
    except TrimtabError:
        raise
    except Exception as error:
        writing = isinstance(error, OSError | SafetensorError) or "os error" in str(error)
        if not writing:
            raise
        got = f"'{first_line(error)}' while writing {target}"
        raise CheckpointError(
            explain(got, "a place to write to", "another folder, or freeing some space")
        ) from error


def _plain(model: Model) -> Any:
    network = network_of(model)
    if any(hasattr(part, "peft_config") or hasattr(part, "base_layer") for part in network.modules()):
        hint = "model.module.save_pretrained for the adapter, or load(model.module.merge_and_unload(), ...)"
        raise ModelError(explain("a model with an adapter", "a plain model", hint))
    if not callable(getattr(network, "save_pretrained", None)):
        hint = "safetensors.torch.save_model(module, path)"
        raise ModelError(explain(f"a {type(network).__name__}", "a model of transformers or diffusers", hint))
    return network


def _refuse_what_would_be_lost(network: Any) -> None:
    """Compare the names and shapes of the weights with those of a fresh network of this configuration."""
    try:
        with torch.device("meta"):
            fresh = _fresh(network)
    except (NotImplementedError, RuntimeError):  # cannot be built without memory: reading back will tell
        return
    places = {name: value.shape for name, value in fresh.state_dict().items()}
    held = network.state_dict()
    if odd := next((name for name, value in held.items() if not isinstance(value, torch.Tensor)), None):
        got = f"{odd}, a {type(held[odd]).__name__}, among the weights of a {type(network).__name__}"
        raise ModelError(explain(got, "tensors alone, as a checkpoint has them", "the unquantised model"))
    extra = [name for name, value in held.items() if places.get(name) != value.shape]
    if extra:
        got = f"{len(extra)} weights that a checkpoint of {type(network).__name__} has no place for ({extra[0]})"
        hint = "using it in memory, or a steering that only scales or acts where there is a bias"
        raise ModelError(
            explain(got, "those of its configuration, since the rest is dropped on reading", hint)
        )


def _fresh(network: Any) -> nn.Module:
    kind: Any = type(network)
    build = kind._from_config if isinstance(network, PreTrainedModel) else kind.from_config
    fresh = build(network.config)
    assert isinstance(fresh, nn.Module)
    return fresh


def _compare(network: Any, folder: Path) -> None:
    again = _read_back(network, folder)
    found = again.state_dict()
    wrong = [name for name, value in network.state_dict().items() if not _same(value, found.get(name))]
    if wrong or found.keys() - network.state_dict().keys():
        got = f"{wrong[0] if wrong else 'weights'} other than it was written"
        raise ModelError(explain(got, "what is read back to be the same", "a current transformers"))
    inputs = probe_inputs(network)
    if inputs is None:
        return
    with evaluating(network), evaluating(again):
        gap = largest_gap(outputs(network, inputs), outputs(again, inputs))
    allowed = tolerance(network, TOLERANCE)
    if gap > allowed:
        got = f"outputs that are {gap:.1g} of the largest away from those of the model that was saved"
        raise ModelError(explain(got, f"at most {allowed:g}", "a module whose config says all that it does"))


def _read_back(network: Any, folder: Path) -> nn.Module:
    kind: Any = type(network)
    try:
        if isinstance(network, PreTrainedModel):
            kind = loader(AutoConfig.from_pretrained(str(folder), trust_remote_code=False))
            again = kind.from_pretrained(str(folder), dtype="auto", use_safetensors=True)
        else:
            again = kind.from_pretrained(str(folder), torch_dtype=network.dtype, use_safetensors=True)
    except _READING as error:
        raise ModelError(
            explain(f"{first_line(error)} when it was read back", "a checkpoint that can be read")
        ) from error
    assert isinstance(again, nn.Module)
    return again.to(network.device)


def _same(value: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and other.dtype == value.dtype and torch.equal(value, other)
