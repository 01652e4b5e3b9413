"""Validation of a checkpoint folder before transformers reads it: what is damaged, missing or beyond bounds.

Of safetensors files only the headers are read.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from trimtab.errors import ModelError, explain
from trimtab.models.families import refusal
from trimtab.models.inspection import loader
from trimtab.runs.files import check_regular, parse_json, read_json, reading

HEADER_LIMIT = 100_000_000
"""Bytes that a safetensors header may have; the format's own limit."""

INDEX = "model.safetensors.index.json"
_WEIGHTS = "weights in safetensors"
_WIDTH = re.compile("(?:B?F|I|U)(16|32|64)")
"""Types of numbers, by their bits."""


@dataclass(frozen=True)
class Header:
    """Shape and type of one tensor of a safetensors file.

    Attributes:
        shape: of the tensor.
        dtype: as safetensors names it, such as "BF16".
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def folder_for(what: str, folder: str | Path, own: Collection[str]) -> Path:
    """Absolute path of a folder to write to, in which nothing else is lost: new, empty, or with an older one of ours.

    Args:
        what: that is written, such as "a steering".
        folder: where.
        own: names of its files.

    Raises:
        ModelError: it is a file, or holds something else.
    """
    target = Path(folder).expanduser().absolute()
    if target.is_file():
        raise ModelError(explain(f"the file {target}", "a folder to write to"))
    others = [path.name for path in target.iterdir() if path.name not in own] if target.is_dir() else []
    if others:
        got = f"the folder {target} with {min(others)!r} in it, which would be lost"
        raise ModelError(explain(got, f"a new folder, an empty one, or one that holds {what}"))
    return target


def headers_of(folder: Path) -> dict[str, Header]:
    """Shape and type of each tensor in a folder's safetensors files; none where the folder has no such file.

    Raises:
        ModelError: a file is no safetensors file, a pointer of Git LFS, or cut short; it is named.
    """
    headers: dict[str, Header] = {}
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        headers |= read_headers(file)
    return headers


def read_headers(file: Path) -> dict[str, Header]:
    """Shape and type of each tensor of one file.

    Raises:
        ModelError: see `headers_of`.
    """
    check_regular(file, _WEIGHTS, error=ModelError)
    with reading(file, _WEIGHTS, error=ModelError), file.open("rb") as stream:
        size = file.stat().st_size
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if start.startswith(b"version "):
            hint = "git lfs pull, or downloading the file itself"
            raise refusal("a pointer of Git LFS", _WEIGHTS, hint, at=file)
        if len(start) < 8 or length > min(HEADER_LIMIT, size - 8):
            raise _cut(file, f"{size} bytes, of which a header would take {length}")
        text = stream.read(length)
    with reading(file, _WEIGHTS, error=ModelError):
        header = parse_json(text.decode(), str(file), "the header of a safetensors file", error=ModelError)
    if not isinstance(header, dict):
        raise refusal(f"a header that is a {type(header).__name__}", "a mapping", at=file)
    header.pop("__metadata__", None)
    return {name: _header(file, name, entry, size - 8 - length) for name, entry in header.items()}


def _header(file: Path, name: str, entry: Any, room: int) -> Header:
    at = f"{file}, {name}"
    try:
        shape, dtype, (start, end) = entry["shape"], entry["dtype"], entry["data_offsets"]
        right = all(type(one) is int and one >= 0 for one in (*shape, start, end)) and isinstance(dtype, str)
    except (TypeError, KeyError, ValueError):
        right = False
    if not right:
        raise refusal("an entry of another kind", "shape, dtype and data_offsets", at=at)
    header, width = Header(tuple(shape), dtype), _WIDTH.fullmatch(dtype)
    if end > room:
        raise _cut(file, f"{room} bytes of numbers, where {name} ends at byte {end}")
    if end < start or (width and end - start != header.size * int(width[1]) // 8):
        got = f"{end - start} bytes for shape {tuple(shape)} of {dtype}"
        raise refusal(got, "as many as the shape takes", at=at)
    return header


def _cut(file: Path, got: str) -> ModelError:
    hint = "downloading it again: it is cut short or damaged"
    return refusal(got, "a whole safetensors file", hint, at=file)


_READ = (".json", ".safetensors", ".model", ".txt", ".jinja", ".bin")
ADAPTER_HINT = "PeftModel.from_pretrained(base, folder), then load(module, tokenizer=...)"
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_SETUPS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_LAYERS = re.compile(r"(n|num)_?(hidden_|encoder_|decoder_)?layers?|(en|de)coder_layers|n_blocks|depth")
_SLACK = 2**27
"""Numbers that a network may have beyond what its files hold: tables that it computes and does not save."""


def path_of(source: str | Path, expected: str) -> Path:
    """Path that a text names, with `~` expanded.

    Raises:
        ModelError: it can be no path: empty, too long, with a NUL or half a character, or of a user who is not there.
    """
    try:
        if not os.fspath(source):
            raise ValueError("empty")
        if b"\0" in os.fspath(source).encode():
            raise ValueError("a NUL in it")
        path = Path(source).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number else str(error).partition("\n")[0]
        raise refusal(f"{_quoted(source)}, which names nothing ({reason})", expected) from error
    return path


def local_folder(source: str | Path) -> Path | None:
    """Local folder that a source names, with `~` expanded; None where it is no folder.

    Raises:
        ModelError: a text that can name neither a folder nor a model.

    >>> local_folder("Qwen/Qwen3-0.6B") is None
    True
    """
    folder = path_of(source, "a model's folder or hub name")
    return folder if folder.is_dir() else None


def read_config(folder: Path) -> dict[str, Any]:
    """Configuration of a checkpoint: the mapping in its folder's config.json.

    Raises:
        ModelError: it is missing, no regular file, no JSON or no mapping, or it asks for files outside the folder or
            code from elsewhere.
    """
    return _read_mapping(folder / "config.json", "a model's configuration", "a mapping of settings")


def _read_mapping(file: Path, what: str, expected: str) -> dict[str, Any]:
    facts = read_json(file, what, error=ModelError)
    if not isinstance(facts, dict):
        raise refusal(f"a {type(facts).__name__}", expected, at=file)
    return facts


def check_files(folder: Path) -> None:
    """Refuse a folder with pipes or devices among its files: reading one would never end.

    Raises:
        ModelError: a pipe, a device or a folder under the name of a file; it is named.
    """
    for file in sorted(folder.iterdir()):
        if file.suffix in _READ and file.exists():
            check_regular(file, "a file", error=ModelError)


def check_folder(folder: Path) -> None:
    """Refuse a folder whose settings are damaged, or ask for code from elsewhere.

    Args:
        folder: with a config.json.

    Raises:
        ModelError: a file that is no regular one (reading a pipe would wait) or no JSON, code of the checkpoint's own
            that nothing stands in for, or an adapter beside the model.
    """
    check_files(folder)
    facts, file = read_config(folder), folder / "config.json"
    if "auto_map" in facts and "model_type" not in facts:
        raise refusal("a model with code of its own (auto_map)", "a model that transformers knows", at=file)
    kernel = facts.get("attn_implementation", facts.get("_attn_implementation"))
    if isinstance(kernel, str) and ("/" in kernel or ":" in kernel):
        got = f"attn_implementation {kernel!r}, which is code from the hub"
        raise refusal(got, "an implementation of transformers", "leaving it out", at=file)
    weights = facts.get("transformers_weights")
    if weights is not None and not (isinstance(weights, str) and Path(weights).name == weights):
        got = f"transformers_weights {_quoted(weights)}"
        raise refusal(got, "a file of this folder", "leaving it out", at=file)
    if (folder / "adapter_config.json").is_file():
        got = f"the folder {folder} with an adapter beside config.json"
        raise refusal(got, "a whole model alone", f"{ADAPTER_HINT}; or another folder")
    for name in (*_SETUPS, *PROCESSOR_FILES):
        if (folder / name).is_file():
            _read_mapping(folder / name, "a mapping of settings", "a mapping of settings")


def check_weights(folder: Path) -> dict[str, Header]:
    """Refuse a folder whose weights are damaged or missing; only their headers are read.

    Returns:
        What its safetensors files hold.

    Raises:
        ModelError: a file is cut short, an index names missing or outside files, or the weights are pickles or not
            there.
    """
    headers, index = headers_of(folder), folder / INDEX
    if index.is_file() and not (folder / "model.safetensors").is_file():
        held = read_json(index, "an index of weights", error=ModelError)
        files = held.get("weight_map") if isinstance(held, dict) else None
        if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
            raise refusal("no weight_map of tensor names to files", "an index of weights", at=index)
        again = "downloading it again"
        for name in sorted(set(files.values())):
            if Path(name).name != name or "\\" in name or "\0" in name:
                raise refusal(_quoted(name), "the name of a file of this folder", at=index)
            if not (folder / name).is_file():
                raise refusal(f"{name}, which is not there", "files that are there", again, at=index)
        if absent := sorted(set(files) - set(headers)):
            got = f"{len(absent)} tensors that no file has, such as {absent[0]}"
            raise refusal(got, "tensors that are there", again, at=index)
    if headers:
        return headers
    hint = "save_pretrained again with a current transformers, "
    others = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if others:
        got = f"the folder {folder} with weights as pickles ({others[0]}), which can run code"
        raise refusal(got, _WEIGHTS, f"{hint}where you trust them")
    raise refusal(f"the folder {folder} without weights", _WEIGHTS, f"{hint}or downloading it whole")


def check_size(where: str, config: PreTrainedConfig, held: Mapping[str, Header]) -> None:
    """Refuse a configuration of a network much larger than its files, before it takes memory or time.

    Args:
        where: the folder, for errors.
        config: as transformers reads it.
        held: what the files hold.

    Raises:
        ModelError: more layers than there are tensors, or many more numbers than the files have.
    """
    if getattr(config, "quantization_config", None) is not None:
        return
    expected, settings = "a configuration of the weights beside it", list(config.to_dict().items())
    while settings:  # also those of parts
        key, value = settings.pop()
        if isinstance(value, Mapping):
            settings += value.items()
        elif isinstance(value, int) and _LAYERS.fullmatch(str(key)) and not 0 <= value <= len(held):
            raise refusal(f"{key} {value} beside files of {len(held)} tensors", expected, at=where)
    try:
        with torch.device("meta"):
            kind = loader(config)
            network = kind._from_config(config) if hasattr(kind, "_from_config") else kind.from_config(config)
    except Exception:  # loading builds it in the same way, and will raise
        return
    tensors = {id(one): one.numel() for one in (*network.parameters(), *network.buffers())}
    wanted, there = sum(tensors.values()), sum(header.size for header in held.values())
    if wanted > 2 * there + _SLACK:
        got = f"a configuration of {wanted:,} numbers beside files of {there:,}"
        raise refusal(got, expected, at=where)


def refuse_partly(where: str, network: Any, report: Mapping[str, Any]) -> None:
    """Refuse a partly loaded network: weights filled at random, or left out.

    A pooler that the files lack is taken out instead (its output would be random). Heads that only the files have are
    no fault: an encoder without its head is one.

    Args:
        where: the folder or name, for errors.
        network: as transformers has loaded it.
        report: transformers' loading info.

    Raises:
        ModelError: naming a weight that is missing, of another shape, or left out of a layer that is there.
    """
    expected = "every weight of its configuration"
    hint = "downloading it again, or the config.json that was saved with it"
    missing, shapes = sorted(report["missing_keys"]), sorted(report["mismatched_keys"])
    if missing and all(name.startswith("pooler.") for name in missing) and hasattr(network, "pooler"):
        network.pooler, missing = None, []
    got = f"{len(missing)} weights that the files lack, such as {missing[0]}" if missing else ""
    if shapes and not got:
        name, file, configured = shapes[0]
        got = f"{name} of shape {tuple(file)}, where the configuration has {tuple(configured)}"
    if messages := report["error_msgs"]:
        got = got or str(messages[0])
    if got:
        raise refusal(got, expected, hint, at=where)
    places = set(network.state_dict())
    if left := [name for name in sorted(report["unexpected_keys"]) if _belongs(places, name)]:
        got = f"{len(left)} weights that its configuration has no place for, such as {left[0]}"
        raise refusal(got, "a place for every weight of its layers", hint, at=where)


def _belongs(places: set[str], name: str) -> bool:
    """Whether a weight is of a further layer of a kind that is there, or of a module that is there."""
    layers = re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "0", name, count=1)
    if layers != name and any(
        f".{place}".endswith(f".{layers}") or f".{layers}".endswith(f".{place}") for place in places
    ):
        return True
    owner, _, leaf = name.rpartition(".")
    return leaf in ("weight", "bias") and any(f"{owner}.{other}" in places for other in ("weight", "bias"))


def _quoted(value: object) -> str:
    text = ascii(str(value))
    return text if len(text) < 80 else f"{text[:60]}...' ({len(text)} characters)"
