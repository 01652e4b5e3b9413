"""Hugging Face checkpoint of a model, read back and compared before success is reported.

Random dummy inputs show whether two networks compute the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from trimtab.errors import CheckpointError, TrimtabError, explain
from trimtab.models.batches import evaluating
from trimtab.models.families import Handle, refusal, towers
from trimtab.models.folder import path_of
from trimtab.models.inspection import check_model, loader
from trimtab.models.sites import network_of
from trimtab.models.tokenizer import first_line
from trimtab.runs.atomic import atomic_directory

ROWS, TOKENS = 2, 8
HALF_TOLERANCE = 0.1


def probe_inputs(network: nn.Module) -> dict[str, Tensor] | None:
    """Dummy inputs: keywords of a forward pass with random tokens and pictures, the same each time.

    None for what is no single model of transformers that we know: parts of pipelines, models that see and speak.
    """
    kinds = {family.name for family in towers(network).values()}
    sees, reads = "clip_vision_model" in kinds, bool(kinds - {"clip_vision_model"})
    if not isinstance(network, PreTrainedModel) or not kinds or (sees and network.can_generate()):
        return None
    draw = torch.Generator().manual_seed(0)
    config: Any = network.config
    inputs: dict[str, Tensor] = {}
    if reads:
        tokens = config.get_text_config().vocab_size
        inputs["input_ids"] = torch.randint(0, tokens, (ROWS, TOKENS), generator=draw)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if sees:
        size = getattr(config, "vision_config", config).image_size
        inputs["pixel_values"] = torch.randn(ROWS, 3, size, size, generator=draw).to(network.dtype)
    return {name: value.to(network.device) for name, value in inputs.items()}


def outputs(network: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of a network: the tensors that it returns, by name, in single precision at least."""
    returned = network(**inputs, return_dict=True)
    tensors = {name: value for name, value in returned.items() if isinstance(value, Tensor)}
    return {name: value if value.dtype == torch.float64 else value.float() for name, value in tensors.items()}


def tolerance(network: nn.Module, single: float) -> float:
    """Allowed gap of outputs: `single` in single precision and beyond; in half precision a tenth."""
    precise = next(network.parameters()).dtype in (torch.float32, torch.float64)
    return single if precise else HALF_TOLERANCE


def largest_gap(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> float:
    """Relative gap of outputs: the largest difference over the largest expected value; inf where one is nan."""
    gaps = [0.0]
    for name, value in expected.items():
        one, other = value.detach(), actual[name].detach()
        shares = (one - other).abs() / one.abs().max().clamp(min=1e-30)
        same = (one == other) | (one.isnan() & other.isnan())
        gaps.append(float(torch.where(same, 0.0, shares).nan_to_num(torch.inf).max()))
    return max(gaps)


TOLERANCE = 1e-5


def save(model: Handle, folder: str | Path) -> Path:
    """Write network, tokenizer and processor so that `from_pretrained` of transformers or diffusers reads them.

    What was written is read back by the library itself: every weight must be the same, and the outputs on a dummy
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
        CheckpointError: it cannot be written: for example, the disk is full. Nothing is left behind.
    """
    network, target = _plain(model), path_of(folder, "a folder's path").absolute()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        got = f"{target}, where there is something already"
        raise refusal(got, "a new folder or an empty one", f"{target.name}-2")
    check_model(network, "saving")
    _refuse_what_would_be_lost(network)
    with _written(target), atomic_directory(target) as new:
        for part in (one for one in (network, model.tokenizer, model.processor) if one is not None):
            try:
                part.save_pretrained(new)
            except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
                if isinstance(error, TrimtabError) or "os error" in str(error):
                    raise
                got = f"a {type(part).__name__} that cannot save itself ({first_line(error)[:200]})"
                raise refusal(got, "what save_pretrained can write", "an untied, unquantised copy") from error
        _compare(network, new)
    return target


@contextmanager
def _written(target: Path) -> Iterator[None]:
    """Turn what libraries raise when they cannot write into a CheckpointError; safetensors has an error of its own."""
    try:
        yield
    except TrimtabError:
        raise
    except Exception as error:
        if not isinstance(error, OSError | SafetensorError) and "os error" not in str(error):
            raise
        got, hint = f"'{first_line(error)}' while writing {target}", "another folder, or freeing some space"
        raise CheckpointError(explain(got, "a place to write to", hint)) from error


def _plain(model: Handle) -> Any:
    network = network_of(model)
    if any(hasattr(part, "peft_config") or hasattr(part, "base_layer") for part in network.modules()):
        hint = "model.module.save_pretrained for the adapter, or load(model.module.merge_and_unload(), ...)"
        raise refusal("a model with an adapter", "a plain model", hint)
    if not callable(getattr(network, "save_pretrained", None)):
        hint = "safetensors.torch.save_model(module, path)"
        raise refusal(f"a {type(network).__name__}", "a model of transformers or diffusers", hint)
    return network


def _refuse_what_would_be_lost(network: Any) -> None:
    """Compare the names and shapes of the weights with those of a fresh network of this configuration."""
    kind = type(network)
    try:
        with torch.device("meta"):
            build = kind._from_config if isinstance(network, PreTrainedModel) else kind.from_config
            fresh = build(network.config).state_dict()
    except (NotImplementedError, RuntimeError):  # cannot be built without memory: reading back will show it
        return
    held = network.state_dict()
    if odd := next((name for name, value in held.items() if not isinstance(value, Tensor)), None):
        got = f"{odd}, a {type(held[odd]).__name__}, among the weights of a {kind.__name__}"
        raise refusal(got, "tensors alone, as a checkpoint has them", "the unquantised model")
    if extra := [n for n, value in held.items() if n not in fresh or fresh[n].shape != value.shape]:
        got = f"{len(extra)} weights that a checkpoint of {kind.__name__} has no place for ({extra[0]})"
        hint = "using it in memory, or a steering that only scales or acts where there is a bias"
        raise refusal(got, "those of its configuration, since the rest is dropped on reading", hint)


def _compare(network: Any, folder: Path) -> None:
    again, weights = _read_back(network, folder), network.state_dict()
    copies = again.state_dict()
    wrong = [
        name
        for name, value in weights.items()
        if name not in copies or copies[name].dtype != value.dtype or not torch.equal(value, copies[name])
    ]
    if wrong or copies.keys() - weights.keys():
        got = f"{wrong[0] if wrong else 'weights'} other than it was written"
        raise refusal(got, "what is read back to be the same", "a current transformers")
    inputs = probe_inputs(network)
    if inputs is None:
        return
    with evaluating(network), evaluating(again):
        gap = largest_gap(outputs(network, inputs), outputs(again, inputs))
    allowed = tolerance(network, TOLERANCE)
    if gap > allowed:
        got = f"outputs that are {gap:.1g} of the largest away from those of the model that was saved"
        raise refusal(got, f"at most {allowed:g}", "a module whose config says all that it does")


def _read_back(network: Any, folder: Path) -> nn.Module:
    kind: Any = type(network)
    try:
        if isinstance(network, PreTrainedModel):
            kind = loader(AutoConfig.from_pretrained(str(folder), trust_remote_code=False))
            again = kind.from_pretrained(str(folder), dtype="auto", use_safetensors=True)
        else:
            again = kind.from_pretrained(str(folder), torch_dtype=network.dtype, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        got = f"{first_line(error)} when it was read back"
        raise refusal(got, "a checkpoint that can be read") from error
    assert isinstance(again, nn.Module)
    return again.to(network.device)
