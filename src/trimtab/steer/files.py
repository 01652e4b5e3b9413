"""Steering files: safetensors with a configuration and a card, GGUF control vectors, and maps folded into weights.

llama.cpp reads control vectors. A model with folded maps gives the outputs of the steered one at no cost.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from safetensors.torch import save as bytes_of
from torch import Tensor, bfloat16, float16, float32, float64, nn

from trimtab.errors import ModelError, ShapeError, TrimtabError, explain, install_hint
from trimtab.models.batches import evaluating
from trimtab.models.families import FAMILIES
from trimtab.models.folder import folder_for
from trimtab.models.hooks import checked_strength
from trimtab.models.hub import upload
from trimtab.models.inspection import check_model
from trimtab.models.load import Model, load
from trimtab.models.outputs import largest_gap, outputs, probe_inputs, tolerance
from trimtab.models.sites import Site, network_of
from trimtab.models.tokenizer import first_line
from trimtab.models.weights import Parts, apply, plan
from trimtab.runs.atomic import atomic_directory
from trimtab.runs.environment import versions
from trimtab.runs.files import DEPTH_LIMIT, TEXT_LIMIT, check_regular, depth, reading
from trimtab.runs.serialise import to_json
from trimtab.steer.maps import AffineMap, Base, Maps, check_maps, sparsity, steered

LONG = 8
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def card(maps: Maps, base: Base, made_by: Mapping[str, Any]) -> str:
    """Model card in Markdown, with the fields that the hub reads at its head."""
    head: dict[str, Any] = {"library_name": "trimtab", "tags": ["steering", "activation-steering"]}
    if _HUB_NAME.fullmatch(base.name) and not Path(base.name).exists():
        head["base_model"] = base.name
    alone = sparsity(maps)
    sites = [f"| `{site}` | {len(weight)} | {alone[site]:.1%} |" for site, (weight, _) in maps.items()]
    return (
        Path(__file__)
        .with_name("card.md")
        .read_text(encoding="utf-8")
        .format(
            head=yaml.safe_dump(head, sort_keys=False).rstrip(),
            base=base.name,
            maker=made_by.get("estimator", "see below" if made_by else "unknown"),
            version=versions().get("trimtab", "unknown"),
            sites="\n".join(sites),
            settings=to_json(_short(made_by), indent=2),
        )
    )


def _short(value: Any) -> Any:
    """Without long lists, such as the loss of every step; the configuration has them."""
    if isinstance(value, Mapping):
        return {key: _short(item) for key, item in value.items()}
    return f"{len(value)} values" if isinstance(value, list | tuple) and len(value) > LONG else value


CONFIG, WEIGHTS, CARD = FILES = ("steering_config.json", "steering_model.safetensors", "README.md")
SCHEMA = 1
_PARTS = ("weight", "shift")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
TYPES = (float16, bfloat16, float32, float64)
"""Types that maps may be stored as; torch does no arithmetic with narrower numbers."""
_EXPECTED: dict[str, type] = {
    **dict.fromkeys(("base_model_name_or_path", "trimtab_version", "sha256"), str),
    **dict.fromkeys(("fingerprints", "sites", "made_by"), dict),
}


def save(maps: Maps, base: Base, made_by: Mapping[str, Any], folder: str | Path) -> Path:
    """Write a steering; the folder appears whole or not at all.

    In it are `steering_model.safetensors`, `steering_config.json` (schema, base model, fingerprints of its modules at
    the sites, width of each site, what made it, version of trimtab, SHA-256 of the weights) and a card, `README.md`.

    Args:
        maps: on any device.
        base: what they were fitted on.
        made_by: plain values.
        folder: a new or empty one, or one that holds a steering, which is replaced.

    Returns:
        The folder.

    Raises:
        ModelError: something else is in the folder, or `made_by` holds what JSON cannot.
        CheckpointError: the disk is full; what was there is intact.
    """
    target = folder_for("a steering", folder, FILES)
    weights = bytes_of(dict(named_tensors(maps)), metadata={"format": "pt"})
    config = {
        "schema": SCHEMA,
        "base_model_name_or_path": base.name,
        "fingerprints": dict(base.fingerprints),
        "sites": {site: len(weight) for site, (weight, _) in maps.items()},
        "made_by": dict(made_by),
        "trimtab_version": versions().get("trimtab", "unknown"),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    try:
        text = to_json(config, indent=2)
    except TypeError as error:
        raise ModelError(f"made_by: {error}") from error
    with atomic_directory(target) as new:
        (new / WEIGHTS).write_bytes(weights)
        (new / CONFIG).write_text(text + "\n", encoding="utf-8")
        (new / CARD).write_text(card(maps, base, made_by), encoding="utf-8")
    return target


def named_tensors(maps: Maps) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the file of weights: `SITE.weight` and `SITE.shift` for each site."""
    for site, pair in maps.items():
        for part, tensor in zip(_PARTS, pair, strict=True):
            yield f"{site}.{part}", tensor.detach().cpu().contiguous().clone()


def read(
    source: str | Path, revision: str | None = None
) -> tuple[dict[str, tuple[Tensor, Tensor]], Base, dict[str, Any]]:
    """The maps of a folder or a hub repository, their base and how they were made, after checking all of it.

    Nothing but JSON and safetensors is ever opened, and from the hub nothing else is fetched.

    Args:
        source: a folder that `save` wrote, or a hub name such as `someone/calm`.
        revision: branch, tag or commit on the hub.

    Raises:
        ModelError: a file is missing, a pipe or a device, the configuration is no JSON or says what no steering has,
            weights are a pickle, damaged or changed since they were saved, the schema is unknown, values are not
            finite, or the hub cannot be reached.
        ShapeError: a site has another width than the configuration says, or another type than `TYPES`.
    """
    folder = _folder(source, revision)
    config = _read_config(folder)
    weights = _read_weights(folder, config["sha256"])
    maps: dict[str, Any] = {}
    for site, width in config["sites"].items():
        for name in (f"{site}.{part}" for part in _PARTS):
            if name not in weights:
                raise _damaged(folder / WEIGHTS, f"no {name!r}", f"the sites of {CONFIG}")
            tensor = weights.pop(name)
            if tensor.shape != (width,) or tensor.dtype not in TYPES:
                got = f"{name} of shape {tuple(tensor.shape)} and {tensor.dtype}"
                raise ShapeError(
                    f"{folder / WEIGHTS}: {explain(got, f'({width},) numbers, as {CONFIG} says')}"
                )
            maps[site] = (*maps.get(site, ()), tensor)
    if weights:
        raise _damaged(folder / WEIGHTS, f"{min(weights)!r}, which {CONFIG} does not name", "its tensors")
    try:
        check_maps(maps)
    except TrimtabError as error:
        raise type(error)(f"{folder}: {error}") from error
    return maps, Base(config["base_model_name_or_path"], config["fingerprints"]), config["made_by"]


def push(
    maps: Maps,
    base: Base,
    made_by: Mapping[str, Any],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload a steering",
    create_pr: bool = False,
) -> str:
    """Upload a steering to the hub, making the repository where there is none.

    Args:
        maps: what to upload; see `save` for the files.
        base: see `save`.
        made_by: see `save`.
        repo_id: such as `someone/calm`.
        private: whether a new repository is; None leaves it to the owner's settings.
        token: None takes the one that this machine is logged in with.
        revision: the branch to commit to; None means main.
        commit_message: of the commit.
        create_pr: ask for a pull request instead.

    Returns:
        Where to see the commit, or the pull request.

    Raises:
        ModelError: the hub refuses or cannot be reached.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = save(maps, base, made_by, Path(scratch) / "steering")
        to: dict[str, Any] = {
            "private": private,
            "token": token,
            "revision": revision,
            "create_pr": create_pr,
        }
        return upload(folder, repo_id, commit_message=commit_message, **to)


def _folder(source: str | Path, revision: str | None) -> Path:
    given: object = source
    folders = "a folder that holds a steering"
    named = f"{folders}, or a hub name such as 'someone/calm'"
    if not isinstance(given, str | Path):
        raise ModelError(explain(f"a {type(given).__name__}", named))
    with reading(source, folders, error=ModelError):
        folder = Path(os.path.expanduser(source))  # noqa: PTH111 - Path raises where there is no such user
        if folder.is_dir():
            return folder
        if os.path.lexists(folder):
            raise ModelError(explain(f"{folder}, which is no folder", folders))
    if isinstance(source, Path) or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ModelError(explain(f"the folder {str(source)!r}, which does not exist", named))
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:
        got, hint = f"{source}: {first_line(error)}", "check the name and the network"
        raise ModelError(explain(got, f"{folders}, or a name that the hub serves", hint)) from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.exists():
        inside = folder / "artifacts" / "steering"  # of a run that fitted one
        hint = repr(str(inside)) if (inside / CONFIG).is_file() else ""
        raise ModelError(
            explain(f"the folder {folder} without {CONFIG}", "a folder that holds a steering", hint)
        )
    check_regular(path, "a JSON object", error=ModelError, limit=TEXT_LIMIT)
    with reading(path, "a JSON object", error=ModelError):
        raw = path.read_bytes()
    try:
        config = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"no JSON ({first_line(error)})", "a JSON object") from error
    if depth(config) > DEPTH_LIMIT:
        raise _damaged(path, f"values nested deeper than {DEPTH_LIMIT}", "a JSON object")
    if not isinstance(config, dict):
        raise _damaged(path, f"a {type(config).__name__}", "a JSON object")
    if config.get("schema") != SCHEMA or isinstance(config["schema"], bool):
        version = config.get("trimtab_version", "of unknown version")
        got = f"schema {config.get('schema')!r:.40} by trimtab {version!s:.40}"
        raise ModelError(f"{path}: {explain(got, f'schema {SCHEMA}', 'another version of trimtab')}")
    _check_entries(path, config)
    return config


def _check_entries(path: Path, config: Mapping[str, Any]) -> None:
    for key, kind in _EXPECTED.items():
        if not isinstance(config.get(key), kind):
            raise _damaged(path, f"{key} {config.get(key)!r:.40}", f"a {kind.__name__}")
    for site, width in config["sites"].items():
        try:
            parsed = Site.parse(site)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        if not parsed.path:
            raise _damaged(path, f"the site {site!r}", "the path of a module")
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise _damaged(path, f"{width!r:.40} units at {site:.80}", "a whole number of at least 1")
    if same := [site for site in config["sites"] if f"{site}:out" in config["sites"]]:
        raise _damaged(path, f"{same[0]!r} and {same[0]}:out", "each site once")
    for module, digits in config["fingerprints"].items():
        if not isinstance(digits, str):
            raise _damaged(path, f"{digits!r:.40} as fingerprint of {module}", "hex digits")


def _read_weights(folder: Path, sha256: str) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.exists():
        if pickles := sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES):
            got = f"{pickles[0]} in {folder}, a pickle, which can run any code when it is read"
            raise ModelError(explain(got, WEIGHTS, "save_pretrained by the one who made it"))
        raise ModelError(explain(f"the folder {folder} without {WEIGHTS}", "the weights beside " + CONFIG))
    check_regular(path, "safetensors", error=ModelError)
    with reading(path, "safetensors", error=ModelError):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        got = f"a file of {len(content)} bytes that is cut short or was changed after it was saved"
        raise _damaged(path, got, f"the one whose SHA-256 is in {CONFIG}")
    try:
        return tensors_from(content)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise _damaged(path, first_line(error), "safetensors") from error


def _damaged(path: Path, got: str, expected: str) -> ModelError:
    return ModelError(f"{path}: {explain(got, expected, 'saving or downloading it again')}")


TOLERANCE = 1e-4


def fuse(maps: Maps, base: Base, model: Model | nn.Module, strength: float = 1.0) -> Model:
    """Fused model, whose weights hold the maps: it computes what the steered one does, as fast as the untouched one.

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
        raise ModelError(explain("no package gguf", "it installed", install_hint("gguf"))) from error
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
            if match := re.fullmatch(rf"{re.escape(blocks)}\.(\d+):out", name):
                return int(match[1])
    got = f"the site {name}"
    raise ModelError(explain(got, "the output of a block of a causal language model", "sites='residual'"))
