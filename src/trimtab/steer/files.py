"""Steerings on disk and on the hub: safetensors, a JSON configuration and a card, in one folder.

The card of a steering: what it is, where it acts and how to use it, as the hub shows it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from safetensors.torch import save as bytes_of
from torch import Tensor, bfloat16, float16, float32, float64

from trimtab.errors import ModelError, ShapeError, TrimtabError, explain
from trimtab.models.sites import Site
from trimtab.models.tokenizer import first_line
from trimtab.runs.atomic import atomic_directory
from trimtab.runs.environment import versions
from trimtab.runs.files import DEPTH_LIMIT, TEXT_LIMIT, check_regular, depth, reading
from trimtab.runs.serialise import to_json
from trimtab.steer.maps import Base, Maps, check_maps, sparsity

LONG = 8
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def card(maps: Maps, base: Base, made_by: Mapping[str, Any]) -> str:
    """A model card in Markdown, with the fields that the hub reads at its head."""
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
"""What maps may be stored as; torch does no arithmetic with narrower numbers."""
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
    target = Path(folder).expanduser().absolute()
    if target.is_file():
        raise ModelError(explain(f"the file {target}", "a folder to write to"))
    others = [path.name for path in target.iterdir() if path.name not in FILES] if target.is_dir() else []
    if others:
        got = f"the folder {target} with {min(others)!r} in it, which would be lost"
        raise ModelError(explain(got, "a new folder, an empty one, or one that holds a steering"))
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
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        folder = save(maps, base, made_by, Path(scratch) / "steering")
        try:
            name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            done = api.upload_folder(
                repo_id=name,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
            )
        except (OSError, ValueError) as error:
            got, hint = f"{repo_id}: {first_line(error)}", "hf auth login, or token="
            raise ModelError(explain(got, "a repository that you may write to", hint)) from error
    return str(done.pr_url if create_pr else done.commit_url)


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
        raise ModelError(explain(f"the folder {folder} without {CONFIG}", "a folder that holds a steering"))
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
