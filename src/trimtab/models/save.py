"""Hugging Face checkpoint of a model, or the adapter of one, read back and compared before success is reported."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from trimtab.errors import CheckpointError, TrimtabError, explain
from trimtab.models.adapter import compare_adapter, has_adapter, merged_copy, write_adapter
from trimtab.models.batches import evaluating
from trimtab.models.families import Handle, refusal
from trimtab.models.folder import path_of
from trimtab.models.hub import upload
from trimtab.models.inspection import check_model, loader, quantised
from trimtab.models.outputs import largest_gap, outputs, probe_inputs, tolerance
from trimtab.models.quantization import keep_differentiable
from trimtab.models.sites import network_of
from trimtab.models.tokenizer import first_line
from trimtab.runs.atomic import atomic_directory

TOLERANCE = 1e-5
HERE = "<this folder>"
"""In the text of a card, stands for where the model is loaded from: the folder, or the repository."""
CARD = "README.md"


def save(model: Handle, folder: str | Path, *, merged: bool = False, card: str = "") -> Path:
    """Write network, tokenizer and processor so that `from_pretrained` of transformers, peft or diffusers reads them.

    A model with an adapter is written as that adapter, as peft does, or as one whole model with `merged`. What was
    written is read back by the library itself: every weight must be the same, and the outputs on a dummy input, where
    one can be made, within 1e-5 of the largest. (transformers drops weights that a configuration has no place for,
    with no more than a line in its log.) In half precision outputs may differ by a tenth: `module.to` also rounds what
    is not saved, such as the frequencies of positions.

    Args:
        model: left as it is. Reading back takes as much memory again, and so does merging.
        folder: a new or an empty one; it appears whole or not at all.
        merged: fold an adapter into the weights of its base; nothing to do where there is none.
        card: text of its README.md, such as `FinetuneResult.card()`; `HERE` in it becomes the folder. Without one peft
            writes a template for an adapter, and a whole model has none.

    Returns:
        The folder.

    Raises:
        ModelError: the network has no `save_pretrained`, an adapter outside of peft or one that cannot be merged, or
            weights that its configuration has no place for, such as a bias that `fuse` had to add; the folder has
            files; or what was read back differs.
        CheckpointError: it cannot be written: for example, the disk is full. Nothing is left behind.
    """
    target = path_of(folder, "a folder's path").absolute()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        got = f"{target}, where there is something already"
        raise refusal(got, "a new folder or an empty one", f"{target.name}-2")
    return write(model, target, merged=merged, card=at_place(card, folder))


def at_place(card: str, place: str | Path) -> str:
    """The text of a card with its `HERE` filled in, quoted where that stands in a string of Python.

    >>> at_place(f'load("{HERE}") from {HERE}', 'my "model"')
    'load("my \\\\"model\\\\"") from my "model"'
    """
    return card.replace(f'"{HERE}"', json.dumps(str(place), ensure_ascii=False)).replace(HERE, str(place))


def push(
    model: Handle,
    repo_id: str,
    *,
    merged: bool = False,
    card: str = "",
    commit_message: str = "Upload a model",
    **to: Any,
) -> str:
    """Upload what `save` writes to the hub and say where it is; for the options see `trimtab.models.hub.upload`.

    Raises:
        ModelError: as `save`; or the hub refuses or cannot be reached.
    """
    with tempfile.TemporaryDirectory() as scratch:
        text = at_place(card, repo_id)
        folder = write(model, Path(scratch) / "model", merged=merged, card=text, absolute=False)
        return upload(folder, repo_id, commit_message=commit_message, **to)


def write(
    model: Handle,
    target: Path,
    *,
    merged: bool = False,
    card: str = "",
    thorough: bool = True,
    absolute: bool = True,
) -> Path:
    """`save` into a folder that may be there already, and is then replaced.

    Args:
        model: see `save`.
        target: the folder.
        merged: see `save`.
        card: see `save`; its text as it is.
        thorough: False compares weights file by file, in no more memory than a file takes, and no outputs.
        absolute: see `trimtab.models.adapter.write_adapter`.
    """
    network: Any = network_of(model)
    adapted = has_adapter(network)
    if adapted and merged:
        network, adapted = merged_copy(network), False
    if not callable(getattr(network, "save_pretrained", None)):
        hint = "safetensors.torch.save_model(module, path)"
        raise refusal(f"a {type(network).__name__}", "a model of transformers or diffusers", hint)
    if not adapted:
        check_model(network, "saving")
        _refuse_what_would_be_lost(network)
    with _written(target), atomic_directory(target) as new:
        if adapted:
            write_adapter(network, new, absolute=absolute)
        for part in (one for one in (network, model.tokenizer, model.processor) if one is not None):
            if part is not network or not adapted:
                _save_part(part, new)
        if card:
            (new / CARD).write_text(card, encoding="utf-8")
        if adapted:
            compare_adapter(network, new, thorough=thorough)
        elif thorough or not _same_files(network, new):
            _compare(network, new)
    return target


def _save_part(part: Any, folder: Path) -> None:
    try:
        part.save_pretrained(folder)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        if isinstance(error, TrimtabError) or "os error" in str(error):
            raise
        got = f"a {type(part).__name__} that cannot save itself ({first_line(error)[:200]})"
        raise refusal(got, "what save_pretrained can write", "an untied, unquantised copy") from error


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


def _refuse_what_would_be_lost(network: Any) -> None:
    """Compare the names and shapes of the weights with those of a fresh network of this configuration.

    Of a quantised network these are others: there, reading back tells.
    """
    if quantised(network):
        return
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


def _same_files(network: Any, folder: Path) -> bool:
    """Whether files hold the weights under their own names; False where names differ, so that they cannot be compared.

    Raises:
        ModelError: a weight is another one.
    """
    held, found = network.state_dict(), set[str]()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as read:
            names = set(read.keys())
            if not names <= held.keys():
                return False
            for name in names:
                value = read.get_tensor(name)
                if value.dtype != held[name].dtype or not torch.equal(value, held[name].cpu()):
                    raise refusal(f"{name} other than it was written", _SAME, "a current transformers")
            found |= names
    shared = {held[name].data_ptr() for name in found}
    return all(held[name].data_ptr() in shared for name in held.keys() - found)


_SAME = "what is read back to be the same"


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
        raise refusal(got, _SAME, "a current transformers")
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
    keep_differentiable(again)  # repacked, it would compute something else
    return again.to(network.device)
