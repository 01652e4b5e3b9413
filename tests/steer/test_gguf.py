from __future__ import annotations

import sys

import gguf
import pytest
import torch

from trimtab import Steering
from trimtab.errors import ModelError
from trimtab.steer.maps import Base


def shifting(*names, weight=1.0):
    draw = torch.Generator().manual_seed(0)
    return Steering(
        {name: (torch.full((8,), weight), torch.randn(8, generator=draw)) for name in names},
        Base("someone/tiny", {}),
    )


def text(reader, key):
    return bytes(reader.fields[key].parts[-1]).decode()


@pytest.mark.parametrize("blocks", ["model.layers", "transformer.h", "gpt_neox.layers", "layers", "h"])
def test_gguf_reads_back_what_was_written(tmp_path, blocks):
    steering = shifting(f"{blocks}.12:out", f"{blocks}.3:out")
    path = steering.export("gguf", tmp_path / "new" / "calm.gguf")
    assert [file.name for file in path.parent.iterdir()] == ["calm.gguf"]
    reader = gguf.GGUFReader(path)
    assert text(reader, "general.architecture") == "controlvector"
    assert text(reader, "controlvector.model_hint") == "someone/tiny"
    assert int(reader.fields["controlvector.layer_count"].parts[-1][0]) == 2
    found = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    # Blocks count from 0 in the file as in the module's path.
    assert list(found) == ["direction.3", "direction.12"]
    for number in (3, 12):
        assert torch.equal(found[f"direction.{number}"], steering.maps[f"{blocks}.{number}:out"][1])
        assert found[f"direction.{number}"].dtype == torch.float32


def test_an_old_file_is_replaced_and_a_hint_is_written(tmp_path):
    (tmp_path / "calm.gguf").write_text("old")
    path = shifting("model.layers.1:out").export("gguf", tmp_path / "calm.gguf", model_hint="llama")
    assert text(gguf.GGUFReader(path), "controlvector.model_hint") == "llama"


def test_block_0_may_be_there_if_it_is_left_alone(tmp_path):
    steering = shifting("model.layers.0:out", "model.layers.1:out")
    with pytest.raises(ModelError, match=r"model.layers.0:out, a shift of block 0.*blocks from 1 on"):
        steering.export("gguf", tmp_path / "x.gguf")
    steering.maps["model.layers.0:out"][1].zero_()
    reader = gguf.GGUFReader(steering.export("gguf", tmp_path / "x.gguf"))
    assert [tensor.name for tensor in reader.tensors] == ["direction.1"]


@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp:out", "model.layers.1:in", "encoder.layer.1:out", "0:out"]
)
def test_only_outputs_of_blocks_are_taken(tmp_path, name):
    with pytest.raises(ModelError, match=r"got the site .*expected the output of a block"):
        shifting(name).export("gguf", tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())


def test_scales_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"a weight that is not 1 in 8 units, expected shifts alone"):
        shifting("model.layers.1:out", weight=1.5).export("gguf", tmp_path / "x.gguf")


def test_another_form_is_refused(tmp_path):
    with pytest.raises(ModelError, match="got 'onnx', expected 'gguf'"):
        shifting("model.layers.1:out").export("onnx", tmp_path / "x")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(
        ModelError, match=r"got no package gguf.*try pip install -e .\.\[gguf\]. in the folder of trimtab$"
    ):
        shifting("model.layers.1:out").export("gguf", tmp_path / "x.gguf")
