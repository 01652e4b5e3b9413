"""Steerings folded into weights: the same outputs, and nothing left to pay for.

Steerings that only shift the residual, as control vectors that llama.cpp reads.
"""

from __future__ import annotations

import re
import tempfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from trimtab.errors import ModelError, explain
from trimtab.models.batches import evaluating
from trimtab.models.families import FAMILIES
from trimtab.models.fold import Parts, apply, plan
from trimtab.models.hooks import checked_strength
from trimtab.models.inspection import check_model
from trimtab.models.load import Model, load
from trimtab.models.save import largest_gap, outputs, probe_inputs, tolerance
from trimtab.models.sites import Site, network_of
from trimtab.steer.maps import AffineMap, Base, Maps, steered

TOLERANCE = 1e-4


def fuse(maps: Maps, base: Base, model: Model | nn.Module, strength: float = 1.0) -> Model:
    """A new model whose weights hold the maps: it computes what the steered one does, as fast as the untouched one.

    What goes where:

    - output of a linear map, a convolution, a LayerNorm or a GroupNorm: rows of its weight and its bias;
    - input of a linear map: columns of its weight, and its bias;
    - output of an RMS norm: its gain; a shift goes to the biases of the linear maps that read it;
    - output of an attention or an MLP: its last linear map (in BERT, the norm that closes it, as for the whole block);
    - residual (a block's output) of weight 1: the bias of the last linear map added to it.

    Equal to the hooked model but for rounding: within 1e-5 of the largest logit in single precision. In half precision
    weights are rounded once more, so it is another model in the last digits. A model of a family we know is compared
    with the hooked one on a random input before it is returned.

    Args:
        maps: of the steering, by site name.
        base: what they were fitted on: this model.
        model: a handle or a network, unchanged; the copy takes as much memory again.
        strength: one number in [0, 1].

    Returns:
        A handle on a copy in evaluation mode, without hooks. `save_pretrained` writes it where the configuration has
        room for its biases.

    Raises:
        ModelError: another model, an adapter or quantised weights, hooks of ours in place, or a site whose map fits
            into no weights: a residual that is scaled, a norm without weights, weights shared with another module, a
            shift of a norm that no linear map reads alone.
        ShapeError: a site of another width.
    """
    amount = checked_strength(strength)
    if isinstance(amount, Tensor):
        raise ModelError(
            f"strength: {explain('one per row', 'one number: weights are the same for all rows')}"
        )
    handle = model if isinstance(model, Model) else load(model)
    _refuse_model(handle.module)
    base.check(handle, maps)
    network = network_of(handle)
    affine = {
        Site.parse(name): AffineMap(*(part.detach().to("cpu", torch.float64) for part in pair)).toned(amount)
        for name, pair in maps.items()
    }
    parts = Parts.of(network)
    folds = [plan(parts, site, one.weight, one.shift) for site, one in affine.items()]
    copy = deepcopy(network).eval()
    inside = Parts.of(copy)
    # Inputs first, then what is inside before what is around it.
    for fold in sorted(folds, key=lambda fold: (fold.site.side == "out", -fold.site.path.count("."))):
        apply(inside, fold, affine[fold.site].weight, affine[fold.site].shift)
    fused = replace(handle, module=copy)
    if (inputs := probe_inputs(handle.module)) is not None:
        with evaluating(handle.module), steered(handle, maps, amount):
            expected = outputs(handle.module, inputs)
        with torch.no_grad():
            gap = largest_gap(expected, outputs(fused.module, inputs))
        if gap > (allowed := tolerance(fused.module, TOLERANCE)):
            got = f"outputs that are {gap:.1g} of the largest away from those of the hooked model"
            raise ModelError(explain(got, f"at most {allowed:g}", "steering.on, and telling us of this"))
    return fused


def _refuse_model(network: nn.Module) -> None:
    if any(hasattr(part, "peft_config") or hasattr(part, "base_layer") for part in network.modules()):
        hint = "load(model.module.merge_and_unload(), ...) first"
        raise ModelError(explain("a model with an adapter", "plain weights to fold into", hint))
    check_model(network, "folding")
    for part in network.modules():
        for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values()):
            if str(getattr(hook, "__module__", type(hook).__module__)).startswith("trimtab."):
                got = "a model inside a `with` block that steers or captures"
                raise ModelError(explain(got, "a model without hooks", "fusing outside of the block"))


ARCHITECTURE = "controlvector"
DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox")
"""The families whose graph in llama.cpp adds control vectors; encoders do not."""


def write(maps: Maps, path: str | Path, model_hint: str) -> Path:
    """Write maps of weight 1 at blocks' outputs as a llama.cpp control vector.

    The file has the architecture `controlvector`, `controlvector.model_hint`, `controlvector.layer_count` (how many
    directions there are) and one float32 tensor (d,) `direction.N` for each block.

    `direction.N` is added to what block N leaves in the residual, N counted from 0 as in transformers, at every token:
    to `model.layers.N:out`. llama.cpp's graphs add it after the block's last sum (`build_cvec(cur, il)` just before
    `l_out`), and repeng, whose format this is, trains on `hidden_states[N + 1]`. llama.cpp keeps no direction for block
    0 and refuses a file that has one, so a steering that shifts block 0 is refused here.

    Full strength is a scale of 1: `llama-cli -m model.gguf --control-vector calm.gguf`, or
    `--control-vector-scaled calm.gguf:0.5` (`calm.gguf 0.5` in older versions).

    Args:
        maps: each at a site `residual` of a causal language model, weight exactly 1.
        path: the file to write; it appears whole or not at all, in the place of an old one.
        model_hint: a name for people, of what it was made for; llama.cpp does not read it.

    Returns:
        The file.

    Raises:
        ModelError: gguf is not installed, a site is no block's output, a weight is not 1, or block 0 is shifted.
    """
    try:
        from gguf import GGUFWriter
    except ImportError as error:
        raise ModelError(explain("no package gguf", "it installed", "pip install 'trimtab[gguf]'")) from error
    directions = {}
    for name, (weight, shift) in maps.items():
        block = _block(name)
        if not torch.equal(weight, torch.ones_like(weight)):
            got = f"{name} with a weight that is not 1 in {int((weight != 1).sum())} units"
            raise ModelError(explain(got, "shifts alone", "CAA, or steering.fuse(model)"))
        if block > 0:
            directions[block] = shift.detach().cpu().float().numpy()
        elif shift.any():
            got = f"{name}, a shift of block 0, for which llama.cpp has no direction"
            raise ModelError(explain(got, "blocks from 1 on", "fitting without 'residual.0'"))
    target = Path(path).expanduser().absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        writer = GGUFWriter(Path(scratch) / target.name, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_hint)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(directions))
        for block, direction in sorted(directions.items()):
            writer.add_tensor(f"direction.{block}", direction)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        (Path(scratch) / target.name).replace(target)
    return target


def _block(name: str) -> int:
    """The number of the block whose output a site is."""
    for family in map(FAMILIES.__getitem__, DECODERS):
        for blocks in (family.blocks, family.blocks.partition(".")[2]):
            if found := re.fullmatch(rf"{re.escape(blocks)}\.(\d+):out", name):
                return int(found[1])
    got = f"the site {name}"
    raise ModelError(explain(got, "the output of a block of a causal language model", "sites='residual'"))
