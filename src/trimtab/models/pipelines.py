"""Diffusers text-to-image pipelines run in one step: a denoiser, the keywords that it is called with, and pictures.

Needs the extra `[t2i]`. Distilled one-step generators such as DMD2, SDXL-Turbo and Nitro-1-PixArt are such pipelines.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from trimtab.errors import install_hint
from trimtab.models.batches import check_listed, evaluating
from trimtab.models.devices import device_of
from trimtab.models.families import Handle, refusal, unwrapped
from trimtab.models.tokenizer import first_line
from trimtab.seeds import derive, isolated

INDEX = "model_index.json"
"""File that the folder of a pipeline has in the place of `config.json`."""

PARTS = ("unet", "transformer")
"""Names that pipelines give their denoiser."""

NEEDED = ("prompt", "timesteps", "latents", "guidance_scale")
"""What the call of a pipeline must take, to be run in one step from given noise."""


@dataclass(frozen=True, eq=False)
class Pipeline:
    """Text-to-image pipeline that is run in one step, without guidance.

    The time step is explicit: that of a scheduler's own schedule for one step is not the one that a distilled generator
    was trained at. `LCMScheduler` starts at 999, whatever the training did; DMD2 in one step has 399.

    Attributes:
        pipe: the pipeline, in evaluation mode; never changed.
        timestep: at which it denoises.
    """

    pipe: Any
    timestep: int

    @property
    def part(self) -> str:
        """Name of the denoiser, "unet" or "transformer"."""
        return next(name for name in PARTS if isinstance(getattr(self.pipe, name, None), nn.Module))

    @property
    def denoiser(self) -> nn.Module:
        """The U-Net or the transformer."""
        found: nn.Module = getattr(self.pipe, self.part)
        return found

    def around(self, denoiser: nn.Module) -> Any:
        """The pipeline with another denoiser, such as one with an adapter; the pipeline itself is left as it is."""
        if denoiser is self.denoiser:
            return self.pipe
        other = copy(self.pipe)
        setattr(other, self.part, denoiser)
        return other


def read_pipeline(
    folder: Path, *, dtype: torch.dtype | None, device: Any, timestep: int | None = None
) -> Pipeline:
    """Pipeline of a folder that `save_pretrained` of diffusers wrote; no code in it is run.

    Args:
        folder: one with `model_index.json`.
        dtype: None keeps single precision.
        device: where to put it.
        timestep: at which it denoises; None for the last one, of pure noise: 999 for most.

    Raises:
        ModelError: diffusers is not installed, files are missing or damaged, the pipeline makes no pictures of texts in
            one step, or a time step that its scheduler does not have.
    """
    diffusers = _diffusers()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its versions and of what is deprecated
            pipe = diffusers.DiffusionPipeline.from_pretrained(
                str(folder),
                torch_dtype=dtype or torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # diffusers has no list of what damaged files raise
        hint = "save_pretrained again with a current diffusers"
        raise refusal(f"{folder}: {first_line(error)}", "a pipeline in safetensors", hint) from error
    return one_step(pipe.to(device), timestep)


def one_step(pipe: Any, timestep: int | None = None) -> Pipeline:
    """Pipeline that is run in one step.

    Args:
        pipe: of diffusers, with a U-Net or a transformer.
        timestep: see `read_pipeline`.

    Raises:
        ModelError: see `read_pipeline`.
    """
    name, takes = type(pipe).__name__, inspect.signature(type(pipe).__call__).parameters
    lacking = [one for one in NEEDED if one not in takes]
    if not any(isinstance(getattr(pipe, part, None), nn.Module) for part in PARTS):
        lacking = ["a U-Net or transformer"]
    if lacking or "max_timesteps" in takes or "image" in takes:
        got = f"a {name}, {f'without {lacking[0]}' if lacking else 'which is not run at one time step of a text'}"
        hint = "a StableDiffusionPipeline, StableDiffusionXLPipeline or PixArtAlphaPipeline"
        raise refusal(got, "a text-to-image pipeline that takes time steps and latents", hint)
    if "timesteps" not in inspect.signature(pipe.scheduler.set_timesteps).parameters:
        got = f"a {name} with a {type(pipe.scheduler).__name__}, which takes no explicit time steps"
        raise refusal(
            got, "one that does", "pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)"
        )
    steps = int(pipe.scheduler.config.num_train_timesteps)
    chosen = steps - 1 if timestep is None else timestep
    if type(chosen) is not int or not 0 <= chosen < steps:
        raise refusal(repr(chosen), f"a whole number from 0 to {steps - 1}", at="timestep")
    pipe.set_progress_bar_config(disable=True)
    return Pipeline(pipe, chosen)


def prompt_batches(
    model: Handle, prompts: Sequence[str], *, seed: int = 0, batch_size: int = 32
) -> list[dict[str, Any]]:
    """Forward keywords of a pipeline's denoiser, a batch each: the very ones that it is called with to make pictures.

    The noise of a prompt depends on the seed and its place in the list, not on the batch: the same seed gives the same
    noise with and without a steering.

    Args:
        model: a handle with a `pipeline`.
        prompts: texts; longer ones are cut as the pipeline does.
        seed: of the noise.
        batch_size: prompts at a time.

    Raises:
        ModelError: a model without pipeline, one single string, a prompt that is no text, or a batch size below 1.
    """
    pipeline, network = _pipeline(model), unwrapped(model.module)
    names = [name for name in inspect.signature(network.forward).parameters if name != "return_dict"]
    batches = list[dict[str, Any]]()

    def record(_module: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        given = dict(zip(names, inputs, strict=False)) | dict(keywords)
        batches.append({name: one for name, one in given.items() if name in names and one is not None})
        raise _RecordedError

    for texts, noise in _parts(pipeline, prompts, seed, batch_size):
        handle = pipeline.denoiser.register_forward_pre_hook(record, with_kwargs=True)
        try:
            _run(pipeline.pipe, pipeline.timestep, texts, noise, output_type="latent")
        except _RecordedError:
            pass
        finally:
            handle.remove()
    return batches


def pictures(
    model: Handle, prompts: Sequence[str], *, seed: int = 0, batch_size: int = 8
) -> list[Image.Image]:
    """Pictures of prompts by a pipeline, in their order, each from one forward pass of its denoiser.

    Modes are restored and the caller's random generators are not touched; for seed and errors see `prompt_batches`.
    """
    pipeline = _pipeline(model)
    pipe, made = pipeline.around(model.module), list[Image.Image]()
    with evaluating(model.module), isolated(derive(seed, "pipeline")):
        for texts, noise in _parts(pipeline, prompts, seed, batch_size):
            made += _run(pipe, pipeline.timestep, texts, noise, output_type="pil").images
    return made


class _RecordedError(Exception):
    """The denoiser was called, and need not run."""


def _run(pipe: Any, timestep: int, texts: list[str], noise: Tensor, **more: Any) -> Any:
    """One step without guidance; sizes and texts as they are."""
    takes = inspect.signature(type(pipe).__call__).parameters
    plain = {name: False for name in ("use_resolution_binning", "clean_caption") if name in takes}
    steps = {"timesteps": [timestep], "guidance_scale": 1.0}
    # The latents are multiplied in place by some pipelines.
    return pipe(prompt=texts, latents=noise.clone(), **steps, **plain, **more)


def _parts(
    pipeline: Pipeline, prompts: Sequence[str], seed: int, batch_size: int
) -> Iterator[tuple[list[str], Float[Tensor, "B C H W"]]]:
    """Batches of prompts with their noise; all prompts are checked before the first."""
    check_listed(prompts, "prompt")
    if batch_size < 1:
        raise refusal(batch_size, "at least 1", at="batch_size")
    given = list(prompts)
    for place, one in enumerate(given):
        if not isinstance(one, str) or not one.strip():
            got = f"the blank prompt {one!r}" if isinstance(one, str) else f"a {type(one).__name__}"
            raise refusal(got, "a text", at=f"prompt {place}")
    shape = _shape(pipeline.denoiser)
    network = pipeline.denoiser
    kind, device = next(network.parameters()).dtype, device_of(network)
    for start in range(0, len(given), batch_size):
        places = range(start, min(start + batch_size, len(given)))
        drawn = [torch.Generator().manual_seed(derive(seed, "noise", place)) for place in places]
        noise = torch.stack([torch.randn(shape, generator=one) for one in drawn])
        yield given[start : start + batch_size], noise.to(device, kind)


def _shape(denoiser: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the latents."""
    config: Any = denoiser.config
    size = config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return int(config.in_channels), int(height), int(width)


def _pipeline(model: Handle) -> Pipeline:
    found = getattr(model, "pipeline", None)
    if not isinstance(found, Pipeline):
        raise refusal(f"a {type(model.module).__name__} without pipeline", "a pipeline", "load(its folder)")
    return found


def _diffusers() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what diffusers says on import is its own affair
            import diffusers
    except ImportError as error:
        hint = f"{install_hint('t2i')} (pip install trimtab[t2i])"
        raise refusal("no diffusers", "the package that reads pipelines", hint) from error
    return diffusers
