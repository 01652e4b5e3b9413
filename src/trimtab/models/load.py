"""Model handle: network, tokenizer and processor, from a hub name, a local folder or a module.

Names of models and devices are checked without loading anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from trimtab.errors import ModelError, Problem, TrimtabError, nearest
from trimtab.models import inspection, one_step, pipelines
from trimtab.models.captioning import Decoding, captions
from trimtab.models.chat import Prompt
from trimtab.models.devices import default_device, device_of, warn_of_emulation
from trimtab.models.families import Family, family_of, refusal, unwrapped
from trimtab.models.folder import (
    ADAPTER_HINT,
    check_folder,
    check_size,
    check_weights,
    local_folder,
    refuse_partly,
)
from trimtab.models.inspection import Kind
from trimtab.models.language import generate
from trimtab.models.one_step import OneStepGenerator
from trimtab.models.pipelines import INDEX, Pipeline, read_pipeline
from trimtab.models.quantization import (
    four_bits,
    is_four_bit_checkpoint,
    keep_differentiable,
    parameter_count,
)
from trimtab.models.save import push, save
from trimtab.models.sites import canonical, network_fingerprint
from trimtab.models.speakers import refuse_blind
from trimtab.models.tokenizer import (
    TokenizerSource,
    first_line,
    optional_processor,
    optional_tokenizer,
    read_processor,
    read_tokenizer,
)
from trimtab.models.weights import read_adapter, wrap
from trimtab.runs.brief import one_line
from trimtab.runs.paths import path_problem

if TYPE_CHECKING:
    from peft import LoraConfig

_HUB_NAME = re.compile(r"(?=.{1,96}$)\w([\w.-]*\w)?(/\w([\w.-]*\w)?)?", re.ASCII)
EXPECTED = "a folder with a config.json, or a hub name"
_ALIKE = 0.85
"""Similarity to the name of a folder from which a hub name counts as a misspelt path."""


def name_problems(model: str, where: str = "model", *, pipelines: bool = False) -> Iterator[Problem]:
    """Problems of a model's name: a path that is no folder with a config.json; no hub or `lab:` name is looked up.

    A possible hub name counts as a misspelt path if a model's folder at that place has a similar name, and the name is
    in no cache of this machine. With `pipelines` the folder of a text-to-image pipeline will do too.

    >>> list(name_problems("Qwen/Qwen3-0.6B"))
    []
    """
    if model.startswith("lab:"):
        return
    if (problem := path_problem(where, model, EXPECTED)) is not None:
        yield problem
        return
    try:
        folder = local_folder(model)
    except ModelError:
        yield Problem(where, ascii(model)[:80], EXPECTED)
        return
    if folder is not None or is_path(model):
        files = ("config.json", INDEX) if pipelines else ("config.json",)
        if folder is None or not any((folder / name).exists() for name in files):
            hint = nearest_folder(Path(model)) or "the folder that has config.json"
            yield Problem(where, repr(model), EXPECTED, hint)
    elif (near := nearest_folder(Path(model), _ALIKE)) and not _cached(model):
        yield Problem(where, repr(model), f"{EXPECTED} (there is no folder of this name)", near)
    elif not _HUB_NAME.fullmatch(model):
        name = model.removeprefix("hf:")
        yield Problem(where, repr(model), EXPECTED, repr(name) if name != model and name else "")


def is_path(source: str | Path) -> bool:
    """Whether a source can only be a path, not the name of a model on the hub.

    >>> is_path("./here"), is_path("gpt2")
    (True, False)
    """
    text = str(source)
    looks_local = text.startswith((".", "/", "~")) or text.count("/") > 1 or not text
    try:
        return isinstance(source, Path) or looks_local or Path(source).exists()
    except (OSError, ValueError):
        return True


def nearest_folder(path: Path, alike: float = 0.5) -> str:
    """Model folder with the name most similar to that of a missing path, at its place; empty where none is similar.

    Args:
        path: what is not there.
        alike: the least similarity, in [0, 1].
    """
    try:
        wanted = path.expanduser()
        folders = [folder for folder in wanted.parent.iterdir() if (folder / "config.json").is_file()]
    except (OSError, ValueError, RuntimeError):
        return ""
    likeness = {folder: SequenceMatcher(None, wanted.name, folder.name).ratio() for folder in folders}
    best = max(sorted(likeness), key=lambda folder: likeness[folder], default=None)
    if best is None or likeness[best] < alike or best.name == wanted.name:
        return ""
    return str(path.parent / best.name)


def _cached(name: str) -> bool:
    try:
        return cached_file(name, "config.json", local_files_only=True) is not None
    except (OSError, ValueError):
        return False


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class Model:
    """A loaded network with its tokenizer: one handle for training, reading and generating.

    Attributes:
        module: the network; inside a peft wrapper when it has an adapter.
        tokenizer: the caller's or the checkpoint's, never changed; None for a model that reads no text, or when
            a module came without.
        name: the hub name, the folder or the class it came from.
        processor: of pictures, with or without text; None for most models.
        pipeline: the text-to-image pipeline around the network, which is its denoiser; None for most models.
    """

    module: nn.Module
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    processor: Any = None
    pipeline: Pipeline | None = None

    def __repr__(self) -> str:
        count = parameter_count(self.module)
        reads = [name for name in ("tokenizer", "processor") if getattr(self, name) is not None]
        network = type(unwrapped(self.module)).__name__
        return one_line(
            "Model", repr(self.name), network, f"{count:,} parameters", *(f"with {it}" for it in reads)
        )

    @property
    def family(self) -> Family | None:
        """Family of the model: where it keeps its blocks and norms; None when we have no table for it."""
        return family_of(self.module)

    @property
    def device(self) -> torch.device:
        """Device for inputs: that of the parameters, also where accelerate has offloaded them."""
        return device_of(self.module)

    def need_tokenizer(self) -> PreTrainedTokenizerBase:
        """Tokenizer, for calls that need one.

        Raises:
            ModelError: there is none.
        """
        if self.tokenizer is None:
            got = f"a {type(unwrapped(self.module)).__name__} without tokenizer"
            hint = "load(module, tokenizer=AutoTokenizer.from_pretrained(...))"
            raise refusal(got, "tokenizer= beside a module", hint)
        return self.tokenizer

    def generate(
        self,
        prompts: Sequence[Prompt] | None = None,
        max_new_tokens: int = 32,
        batch_size: int = 16,
        *,
        images: Any = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Any]:
        """Completions of prompts, texts or conversations, greedy or sampled; see `trimtab.models.language.generate`.

        A generator of pictures gives one for each prompt, see `pictures` in `trimtab.models.one_step` and
        `trimtab.models.pipelines`; of the settings it has the seed and the batch size.

        With `images` captions of pictures, by a captioner: one prompt a picture, or None for none; the texts are
        without the prompts. See `trimtab.models.captioner` for beams, tokens and log-probabilities.
        """
        if images is not None:
            decoding = Decoding(max_new_tokens, temperature)
            return captions(self, cast("Any", prompts), images, decoding, seed, batch_size)
        is_one_step = isinstance(unwrapped(self.module), OneStepGenerator)
        if is_one_step or self.pipeline is not None:  # generators of pictures
            if temperature:
                raise refusal(temperature, "0: noise is what differs", "another seed", at="temperature")
            draw = one_step.pictures if is_one_step else pipelines.pictures
            return draw(self, cast("Any", prompts), seed=seed, batch_size=batch_size)
        refuse_blind(self.module)
        if prompts is None:
            raise refusal("no prompts", "a list of prompts", "generate(prompts)")
        inspection.refuse_module(self.module)
        return generate(
            self.module,
            self.need_tokenizer(),
            prompts,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            temperature=temperature,
            seed=seed,
        )

    def save_pretrained(self, folder: str | Path, *, merged: bool = False, card: str = "") -> Path:
        """Write a Hugging Face checkpoint, or the adapter where there is one; see `trimtab.models.save.save`.

        Args:
            folder: a new or an empty one.
            merged: write an adapter's base with the adapter folded in, as one whole model.
            card: text of the README.md, such as `result.card()` of a fine-tuning result.
        """
        return save(self, folder, merged=merged, card=card)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes and say where it is; for the options see `trimtab.models.save.push`."""
        return push(self, repo_id, **options)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Trainable parameters: those that require a gradient, by canonical name; tied parameters once.

        With an adapter these are exactly the adapter's. Canonical names are those of the plain model: the
        prefixes of a peft wrapper are left out.

        Raises:
            ModelError: no parameter requires a gradient.
        """
        parameters = {canonical(name): p for name, p in self.module.named_parameters() if p.requires_grad}
        if not parameters:
            got = f"{self.name} with every parameter frozen"
            raise refusal(got, "something to train", "adapter={'r': 16} or requires_grad_()")
        return parameters

    def fingerprint(self) -> str:
        """Fingerprint: 16 hex digits that change when the architecture or the weights do.

        Covers each tensor's name, shape, dtype and up to 4096 evenly spaced values, so it is quick for large
        models and blind only to an edit that misses all of them. Weights that accelerate has offloaded count by their
        values; of a quantised model, packed weights and settings count as well.
        """
        return network_fingerprint(self.module)


def load(
    source: str | Path | nn.Module,
    *,
    tokenizer: TokenizerSource | None = None,
    processor: Any = None,
    dtype: str | None = None,
    device: str | torch.device | None = None,
    adapter: Mapping[str, Any] | LoraConfig | None = None,
    kind: Kind = "any",
    timestep: int | None = None,
    load_in_4bit: bool = False,
) -> Model:
    """Loaded model with its tokenizer or processor, ready to read, to steer, to evaluate or to train.

    A checkpoint is loaded with the class that saved it: a causal language model, an encoder such as BERT, CLIP or
    another pair of towers or one of them, a captioner. The folder of a text-to-image pipeline of diffusers gives its
    denoiser, which makes pictures in one step; parts of other pipelines are passed in as modules.

    Args:
        source: a hub name, a folder written by `save_pretrained` (safetensors), or a module you built.
        tokenizer: replaces the checkpoint's. A folder or name is loaded. Beside a module it is optional; calls that
            need it say so.
        processor: of pictures; replaces the checkpoint's, if it is no language model and has one.
        dtype: "float32", "bfloat16" or "float64"; None keeps the checkpoint's own, of a pipeline "float32".
        device: None means the first free accelerator of this process, else the CPU.
        adapter: `{"r": 32, "alpha": 64, "dropout": 0.0, "targets": ["q_proj"], "seed": 0}`, all
            optional, or a peft `LoraConfig`. Only the adapter is trainable then. A module gets it in place.
        kind: "language model" refuses everything that is no causal language model with a tokenizer, before its
            weights are read.
        timestep: of a pipeline, at which it makes a picture in one step; None for the last one, of pure noise.
        load_in_4bit: hold linear maps in 4 bits, see `trimtab.models.quantization`: to read, or with `adapter` to
            train. A checkpoint that is in 4 bits keeps its own settings. A module in 4 bits can be passed in as well.

    Returns:
        A handle whose module is in evaluation mode, unless it was passed in: then its mode is kept.

    Raises:
        ModelError: the folder, its config.json or a language model's tokenizer is missing or damaged, this is not of
            the kind asked for, the hub name cannot be reached, or a setting is wrong. The weights are cut short, lack
            one that the configuration asks for, or have one more in its layers; or a module's weights were never
            loaded. Settings are checked before files, and files before weights. No code of a checkpoint is run.
    """
    _check_settings(source, dtype, device, adapter, kind, load_in_4bit)
    if isinstance(source, nn.Module):
        words = None if tokenizer is None else read_tokenizer(tokenizer)
        name = str(getattr(getattr(source, "config", None), "name_or_path", "") or type(source).__name__)
        model = Model(source, words, name, read_processor(processor))
        inspection.check_model(model)
        if kind == "language model":
            model.need_tokenizer()
        keep_differentiable(source)
    elif (pipeline := _pipeline_folder(source, kind)) is not None:
        if load_in_4bit:
            raise refusal(f"load_in_4bit=True for the pipeline {source}", "a model of transformers")
        chosen = default_device() if device is None else device
        found = read_pipeline(pipeline, dtype=DTYPES.get(dtype or ""), device=chosen, timestep=timestep)
        model = Model(found.denoiser, found.pipe.tokenizer, str(source), None, found)
    else:
        model = _from_checkpoint(source, tokenizer, processor, dtype, device, kind, load_in_4bit)
    if not isinstance(source, nn.Module):
        warn_of_emulation(device_of(model.module), getattr(model.module, "dtype", None))
    if timestep is not None and model.pipeline is None:
        raise refusal(f"timestep={timestep} beside {model.name}", "the folder of a pipeline", at="timestep")
    return model if adapter is None else replace(model, module=wrap(model.module, adapter))


def as_model(source: Model | str | Path | nn.Module) -> Model:
    """A handle as it is; a folder, hub name or module loaded with the defaults of `load`."""
    return source if isinstance(source, Model) else load(source)


def _pipeline_folder(source: str | Path, kind: Kind) -> Path | None:
    """The folder of a pipeline, where a source is one and may be."""
    folder = local_folder(source)
    if folder is None or kind != "any" or not (folder / INDEX).is_file() or (folder / "config.json").exists():
        return None
    return folder


def _from_checkpoint(
    source: str | Path,
    tokenizer: TokenizerSource | None,
    processor: Any,
    dtype: Any,
    device: Any,
    kind: Kind,
    load_in_4bit: bool,
) -> Model:
    where = _place(source)
    folder = local_folder(where)
    if folder:
        check_folder(folder)
    config = _config(where)
    if kind == "language model":
        inspection.refuse_checkpoint(where, config)
    held = check_weights(folder) if folder else {}
    causal = inspection.is_causal(config)  # only a language model must have a tokenizer
    given = where if tokenizer is None and causal else tokenizer
    words = optional_tokenizer(where) if given is None else read_tokenizer(given)
    pictures = read_processor(processor) if processor is not None or causal else optional_processor(where)
    hint = "save_pretrained again with a current transformers, or check the name"
    place, options = default_device() if device is None else device, {}
    if load_in_4bit and not is_four_bit_checkpoint(where, config):
        options = {
            "quantization_config": four_bits(DTYPES.get(dtype, config.dtype)),
            "device_map": {"": place},
        }
    with _refusing(where, "weights in safetensors", hint):
        if folder:
            check_size(where, config, held)
        module, report = inspection.loader(config).from_pretrained(
            where,
            dtype="auto" if dtype is None else DTYPES[dtype],
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
        refuse_partly(where, module, report)
        module = module if options else module.to(place)
        keep_differentiable(module)
    return Model(module, words, str(source), pictures)


@contextmanager
def _refusing(where: str, expected: str, hint: str) -> Iterator[None]:
    """Turn whatever transformers raises on damaged files into a ModelError; it has no list of what that may be."""
    try:
        yield
    except (TrimtabError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise refusal(f"{where}: {first_line(error)}", expected, hint) from error


def _check_settings(
    source: Any, dtype: Any, device: Any, adapter: Any, kind: str, load_in_4bit: bool
) -> None:
    if kind not in get_args(Kind):
        raise refusal(repr(kind), f"one of {get_args(Kind)}", nearest(kind, get_args(Kind)), at="kind")
    if isinstance(adapter, Mapping):
        read_adapter(adapter)
    if dtype is not None and dtype not in DTYPES:
        hint = nearest(str(dtype).removeprefix("torch."), DTYPES)
        raise refusal(repr(dtype), f"one of {tuple(DTYPES)}", hint, at="dtype")
    if not isinstance(load_in_4bit, bool):
        raise refusal(repr(load_in_4bit), "True or False", at="load_in_4bit")
    if load_in_4bit and dtype == "float64":
        raise refusal("'float64' beside load_in_4bit=True", "'bfloat16', 'float32' or None", at="dtype")
    if isinstance(source, nn.Module):
        if dtype is not None or device is not None or load_in_4bit:
            got = "dtype=, device= or load_in_4bit= beside a module"
            raise refusal(got, "a module that is as you want it", "module.to(...) before load")
        if kind == "language model":
            inspection.refuse_module(source)
    elif not isinstance(source, str | Path):
        raise refusal(f"a {type(source).__name__}", "a folder, a hub name or a torch module")
    elif device is not None:
        try:
            torch.empty(0, device=torch.device(device))
        except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
            got = f"{device!r} ({first_line(error)})"
            hint = "device=None for the first free accelerator, or 'cpu'"
            raise refusal(got, "a device of this machine", hint, at="device") from error


def _place(source: str | Path) -> str:
    """The folder or hub name to hand to transformers; refused when it must be a folder and is none."""
    folder = local_folder(source)
    if folder is None and not is_path(source):
        return str(source)
    if folder is None:
        got = f"the folder {str(source)!r}, which does not exist"
        raise refusal(got, "a model's folder or hub name", nearest_folder(Path(source)))
    if (folder / "config.json").exists():
        return str(folder)
    for file, what, expected, hint in _NO_MODEL:
        if (folder / file).is_file():
            raise refusal(f"the folder {folder} without config.json but with {what}", expected, hint)
    got, hint = f"the folder {folder} without config.json", "the folder that has config.json"
    raise refusal(got, "a folder written by save_pretrained", hint)


_NO_MODEL = (
    ("adapter_config.json", "an adapter", "a whole model", ADAPTER_HINT),
    (INDEX, "a pipeline", "one model", "load(pipeline.unet) or load(pipeline.transformer)"),
)
"""Folders that hold no model: a file that shows it, what it holds, what was expected, what to try."""


def _config(where: str) -> PreTrainedConfig:
    hint = nearest_folder(Path(where)) or "check the name and the network"
    with _refusing(where, "a local folder, or a model that the hub serves and this transformers knows", hint):
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
    if not isinstance(config, PreTrainedConfig):
        raise refusal(f"{where}: a {type(config).__name__}", "a model's configuration")
    return config
