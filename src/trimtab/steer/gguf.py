"""Steerings that only shift the residual, as control vectors that llama.cpp reads."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from trimtab.errors import ModelError, explain
from trimtab.models.families import FAMILIES

if TYPE_CHECKING:
    from trimtab.steer.steering import Steering

ARCHITECTURE = "controlvector"
DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox")
"""The families whose graph in llama.cpp adds control vectors; encoders do not."""


def write(steering: Steering, path: str | Path, model_hint: str = "") -> Path:
    """Write a steering of weight 1 at blocks' outputs as a llama.cpp control vector.

    The file has the architecture `controlvector`, `controlvector.model_hint`, `controlvector.layer_count` (how many
    directions there are) and one float32 tensor (d,) `direction.N` for each block.

    `direction.N` is added to what block N leaves in the residual, N counted from 0 as in transformers, at every token:
    to `model.layers.N:out`. llama.cpp's graphs add it after the block's last sum (`build_cvec(cur, il)` just before
    `l_out`), and repeng, whose format this is, trains on `hidden_states[N + 1]`. llama.cpp keeps no direction for block
    0 and refuses a file that has one, so a steering that shifts block 0 is refused here.

    Full strength is a scale of 1: `llama-cli -m model.gguf --control-vector calm.gguf`, or
    `--control-vector-scaled calm.gguf:0.5` (`calm.gguf 0.5` in older versions).

    Args:
        steering: a site `residual` of a causal language model each, weight exactly 1.
        path: the file to write; it appears whole or not at all, in the place of an old one.
        model_hint: a name for people, of what it was made for; llama.cpp does not read it. '' means the base's name.

    Returns:
        The file.

    Raises:
        ModelError: gguf is not installed, a site is no block's output, a weight is not 1, or block 0 is shifted.
    """
    try:
        from gguf import GGUFWriter
    except ImportError as error:
        raise ModelError(explain("no package gguf", "it installed", "pip install 'trimtab[gguf]'")) from error
    directions = dict(_directions(steering))
    target = Path(path).expanduser().absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        writer = GGUFWriter(Path(scratch) / target.name, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_hint or steering.base.name)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(directions))
        for block, direction in sorted(directions.items()):
            writer.add_tensor(f"direction.{block}", direction)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        (Path(scratch) / target.name).replace(target)
    return target


def _directions(steering: Steering) -> Iterator[tuple[int, np.ndarray]]:
    for name, (weight, shift) in steering.maps.items():
        block = _block(name)
        if not torch.equal(weight, torch.ones_like(weight)):
            got = f"{name} with a weight that is not 1 in {int((weight != 1).sum())} units"
            raise ModelError(explain(got, "shifts alone", "CAA, or steering.fuse(model)"))
        if block > 0:
            yield block, shift.detach().cpu().float().numpy()
        elif shift.any():
            got = f"{name}, a shift of block 0, for which llama.cpp has no direction"
            raise ModelError(explain(got, "blocks from 1 on", "fitting without 'residual.0'"))


def _block(name: str) -> int:
    """The number of the block whose output a site is."""
    for family in map(FAMILIES.__getitem__, DECODERS):
        for blocks in (family.blocks, family.blocks.partition(".")[2]):
            if found := re.fullmatch(rf"{re.escape(blocks)}\.(\d+):out", name):
                return int(found[1])
    got = f"the site {name}"
    raise ModelError(explain(got, "the output of a block of a causal language model", "sites='residual'"))
