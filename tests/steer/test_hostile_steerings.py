"""Steerings that are damaged, made up or no files: each is refused with its file, or is read as what it says."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from trimtab import Steering
from trimtab.errors import TrimtabError
from trimtab.steer.maps import Base

CONFIG, WEIGHTS = "steering_config.json", "steering_model.safetensors"
SITE, OTHER = "model.layers.0:out", "model.layers.1:out"
DEEP: Any = json.loads('{"a":' * 150 + "1" + "}" * 150)
NAN = float("nan")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    maps = {site: (torch.ones(4), torch.arange(4.0)) for site in (SITE, OTHER)}
    base = Base("someone/model", {"model.layers.0": "00", "model.layers.1": "11"})
    return Steering(maps, base, {"estimator": "MeanAcT"}).save_pretrained(tmp_path / "calm")


def refused(source: Any, told: str = "") -> None:
    with pytest.raises(TrimtabError, match=r"got [\s\S]+, expected ") as caught:
        Steering.from_pretrained(source)
    assert str(source) in str(caught.value) or not isinstance(source, Path)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 500 + 2 * len(str(source))


def rewrite(folder: Path, changed: dict[str, Any]) -> None:
    config = json.loads((folder / CONFIG).read_text()) | changed
    (folder / CONFIG).write_text(json.dumps(config))


def put(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Other tensors, with a checksum that fits."""
    save_file(tensors, folder / WEIGHTS)
    rewrite(folder, {"sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()})


def whole() -> dict[str, torch.Tensor]:
    return {f"{site}.{part}": torch.ones(4) for site in (SITE, OTHER) for part in ("weight", "shift")}


FIELDS: dict[str, list[Any]] = {
    "schema": [0, 2, "1", None, True, 1e308, [1], {}, "x" * 10**4],
    "base_model_name_or_path": [None, 5, [], {}],
    "fingerprints": [None, [], "a", {"model.layers.0": None}, {"model.layers.0": []}],
    "sites": [None, [], {SITE: 0}, {SITE: -4}, {SITE: 4.0}, {SITE: True}, {SITE: "4"}, {SITE: 10**30}, {SITE: [4]},
              {SITE: 4}, {}, {SITE: 4, OTHER: 4, "model.layers.2:out": 4}, {"": 4}, {":out": 4}, {f"{SITE}:up": 4},
              {"model.layers.0": 4, SITE: 4, OTHER: 4}],
    "made_by": [None, [], "LinEAS", 5],
    "trimtab_version": [None, 5, []],
    "sha256": [None, "", "0" * 64, 5, []],
    "more": [DEEP],
}  # fmt: skip


@pytest.mark.parametrize("field", list(FIELDS))
def test_a_field_that_no_steering_has_is_refused(folder: Path, field: str) -> None:
    kept = (folder / CONFIG).read_text()
    for value in FIELDS[field]:
        rewrite(folder, {field: value})
        refused(folder)
        (folder / CONFIG).write_text(kept)
    if field != "more":
        config = json.loads(kept)
        del config[field]
        (folder / CONFIG).write_text(json.dumps(config))
        refused(folder, field if field != "schema" else "schema None")


TEXTS = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "cut": b'{"schema": 1',
    "deep": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "deep lists": b"[" * 10**5,
    "a number too long": b'{"schema": ' + b"1" * 5000 + b"}",
    "UTF-16": '{"schema": 1}'.encode("utf-16"),
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


@pytest.mark.parametrize("name", list(TEXTS))
def test_a_configuration_that_is_none_is_refused(folder: Path, name: str) -> None:
    (folder / CONFIG).write_bytes(TEXTS[name])
    refused(folder, CONFIG)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("kind", ["pipe", "zero", "folder", "missing", "loop", "huge"])
def test_what_is_no_file_is_refused_at_once(folder: Path, file: str, kind: str) -> None:
    (folder / file).unlink()
    if kind == "pipe":
        os.mkfifo(folder / file)
    elif kind in ("zero", "loop"):
        (folder / file).symlink_to("/dev/zero" if kind == "zero" else folder / file)
    elif kind == "folder":
        (folder / file).mkdir()
    elif kind == "huge" and file == CONFIG:
        with (folder / file).open("wb") as stream:
            stream.truncate(2**40)
    refused(folder, file)


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e5m2", "int8", "int64", "bool", "uint8", "complex64"]
)
def test_other_types_than_numbers_one_can_reckon_with_are_refused(folder: Path, name: str) -> None:
    try:
        put(folder, whole() | {f"{SITE}.shift": torch.ones(4).to(getattr(torch, name))})
    except (KeyError, RuntimeError, ValueError):
        pytest.skip(f"safetensors does not write {name}")
    refused(folder, name)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_every_usual_type_is_read(folder: Path, name: str) -> None:
    put(folder, {key: value.to(getattr(torch, name)) for key, value in whole().items()})
    assert Steering.from_pretrained(folder).maps[SITE][0].dtype == getattr(torch, name)


ALTERED: dict[str, dict[str, torch.Tensor | None]] = {
    "nan": {f"{SITE}.weight": torch.tensor([1.0, NAN, 1.0, 1.0])},
    "infinite": {f"{OTHER}.shift": torch.full((4,), float("-inf"))},
    "of another length": {f"{SITE}.weight": torch.ones(5)},
    "two-dimensional": {f"{SITE}.weight": torch.ones(4, 1)},
    "a number": {f"{SITE}.weight": torch.tensor(1.0)},
    "empty": {f"{SITE}.weight": torch.ones(0)},
    "missing": {f"{SITE}.shift": None},
    "a site missing": {f"{SITE}.shift": None, f"{SITE}.weight": None},
    "one too many": {"model.layers.2:out.weight": torch.ones(4)},
    "by another name": {f"{SITE}.shift": None, f"{SITE}.bias": torch.ones(4)},
}


@pytest.mark.parametrize("name", list(ALTERED))
def test_tensors_that_are_not_those_of_the_sites_are_refused(folder: Path, name: str) -> None:
    tensors = {key: value for key, value in (whole() | ALTERED[name]).items() if value is not None}
    put(folder, tensors)
    refused(folder)


def test_bytes_that_are_no_safetensors_are_refused_whatever_their_checksum(folder: Path) -> None:
    right, draw = (folder / WEIGHTS).read_bytes(), random.Random(0)
    header = right[8 : 8 + int.from_bytes(right[:8], "little")]
    contents = [
        b"",
        b"\x00" * 7,
        b"\xff" * 16,
        (2**62).to_bytes(8, "little") + b"{}",
        right[:20],
        b"[" * 10**5,
    ]
    contents += [(len(text)).to_bytes(8, "little") + text for text in (b"[]", b"{", b'{"a":' * 4000, header)]
    contents += [
        right.replace(b'"F32"', b'"F4"'),
        right.replace(b"[4]", b"[9]"),
        right.replace(b"[4]", b'"4"'),
    ]
    for _ in range(40):
        place = draw.randrange(len(header) + 8)
        contents.append(right[:place] + bytes([draw.randrange(256)]) + right[place + 1 :])
    for content in contents:
        (folder / WEIGHTS).write_bytes(content)
        rewrite(folder, {"sha256": hashlib.sha256(content).hexdigest()})
        with contextlib.suppress(TrimtabError):
            assert set(Steering.from_pretrained(folder).maps) == {SITE, OTHER}


@pytest.mark.parametrize(
    "source", [None, 5, b"calm", ["calm"], "", "\0", "a\0/b", "~nosuchuser/x", "/" + "x" * 300]
)
def test_what_names_no_folder_is_refused(source: Any) -> None:
    refused(source)


def test_a_file_is_no_folder(folder: Path) -> None:
    refused(folder / CONFIG, "which is no folder")
