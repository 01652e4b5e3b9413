"""Model folders as downloads, disks and strangers leave them: refused in our words, or loaded as they were saved."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_models
from trimtab.adapt.dynamics.job import DynamicsConfig
from trimtab.adapt.mixers.fixed import Uniform
from trimtab.errors import ModelError, TrimtabError
from trimtab.models.load import load
from trimtab.train.settings import Fit

JSON_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
NASTY = [
    None,
    True,
    -1,
    0,
    10**9,
    10**30,
    1.5,
    float("nan"),
    "",
    "x",
    "../../x",
    [],
    [[]],
    {},
    {"a": 1},
    "\ud800",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "m"
    tiny_models.build("llama").save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "m"))


def in_time(call, seconds=20):
    """What a call gives or raises; a call that does not end is a failure of its own."""
    outcome: list[object] = []

    def run():
        try:
            outcome.append(call())
        except Exception as error:  # the outcome is what is looked at
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, "it hangs"
    return outcome[0]


def asked(folder: Path):
    """A job's estimate for a folder."""
    config = DynamicsConfig(
        model=str(folder), train={"a": "a.jsonl"}, targets=("a",), mixer=Uniform(targets=[]), fit=Fit()
    )
    return config.cost()


def clear(outcome) -> bool:
    """Whether it went well, or was refused with what was got and expected."""
    said = str(outcome)
    return not isinstance(outcome, Exception) or (
        isinstance(outcome, TrimtabError) and "got" in said and "expected" in said
    )


def edit(file: Path, change) -> None:
    facts = json.loads(file.read_text())
    change(facts)
    file.write_text(json.dumps(facts))


def tensors(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    held = load_file(file)
    change(held)
    save_file(held, file, metadata={"format": "pt"})


# At random ------------------------------------------------------------------------------------------------


def spoil(folder: Path, draw: random.Random) -> str:
    """One thing done to a folder; what it was."""
    way = draw.choice(["value", "value", "value", "bytes", "cut", "text", "gone", "kind", "deep"])
    name = draw.choice([*JSON_FILES, "model.safetensors"])
    file = folder / name
    if way == "value" and name.endswith(".json"):
        facts = json.loads(file.read_text())
        key = draw.choice(sorted(facts))
        facts[key] = draw.choice(NASTY)
        file.write_text(json.dumps(facts))
        return f"{name} {key} = {facts[key]!r}"
    raw = bytearray(file.read_bytes())
    if way == "bytes":
        for _ in range(draw.randint(1, 8)):
            raw[draw.randrange(min(len(raw), 3000))] = draw.randrange(256)
        file.write_bytes(raw)
    elif way == "text":
        file.write_text(draw.choice(["", "[]", "null", "5", '"x"', "{", "{}", '{"a": NaN}', "\0" * 100]))
    elif way == "deep":
        file.write_text('{"a":' * 5000 + "1" + "}" * 5000)
    elif way in ("gone", "kind"):
        file.unlink()
        if way == "kind":
            draw.choice([lambda: file.mkdir(), lambda: os.mkfifo(file)])()
    else:
        file.write_bytes(raw[: draw.randrange(len(raw))])
    return f"{name} {way}"


@pytest.mark.parametrize("seed", range(int(os.environ.get("TRIMTAB_FUZZ", "60")) // 15))
def test_a_spoilt_folder_is_refused_in_our_words(seed, whole, tmp_path):
    draw = random.Random(seed)
    for number in range(15):
        folder = Path(shutil.copytree(whole, tmp_path / str(number)))
        what = spoil(folder, draw)
        for call in (load, asked):
            outcome = in_time(lambda call=call, folder=folder: call(folder))
            assert clear(outcome), f"{call.__name__} of {what}: {type(outcome).__name__} {outcome}"


# One by one -----------------------------------------------------------------------------------------------


def refused(folder, message, call=load):
    outcome = in_time(lambda: call(folder))
    assert isinstance(outcome, ModelError), outcome
    with pytest.raises(ModelError, match=message):
        raise outcome


@pytest.mark.parametrize("call", [load, asked])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a pointer of Git LFS"),
        (b"", "expected a whole safetensors file"),
        (b"\xff" * 8, "expected a whole safetensors file"),
        (b"\x02\0\0\0\0\0\0\0[]", "a header that is a list"),
        (b'\x0e\0\0\0\0\0\0\0{"a": {"b":1}}', "a: got an entry of another kind"),
        (b"\x04\0\0\0\0\0\0\0{{{{", "text that is not JSON"),
    ],
)
def test_a_file_of_weights_that_is_none(content, message, call, folder):
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, message, call)


@pytest.mark.parametrize("call", [load, asked])
def test_weights_cut_short(call, folder):
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 1)
    refused(
        folder,
        r"model\.safetensors: got \d+ bytes of numbers.*expected a whole safetensors file; try down",
        call,
    )


def test_a_weight_that_lacks(folder):
    tensors(folder, lambda held: held.pop("model.layers.1.mlp.up_proj.weight"))
    refused(folder, r"1 weights that the files lack, such as model\.layers\.1\.mlp\.up_proj\.weight")


def test_a_weight_of_another_shape(folder):
    tensors(folder, lambda held: held.update({"model.norm.weight": torch.ones(4)}))
    refused(folder, r"expected")


def test_fewer_layers_than_the_files_have(folder):
    edit(folder / "config.json", lambda facts: facts.update(num_hidden_layers=1, layer_types=None))
    refused(folder, r"weights that its configuration has no place for, such as model\.layers\.1\.")


def test_more_layers_than_the_files_have(folder):
    edit(folder / "config.json", lambda facts: facts.update(num_hidden_layers=3, layer_types=None))
    refused(folder, r"weights that the files lack, such as model\.layers\.2\.")


def test_a_bias_that_the_configuration_drops(folder):
    tensors(folder, lambda held: held.update({"model.layers.0.self_attn.o_proj.bias": torch.ones(16)}))
    refused(folder, r"no place for, such as model\.layers\.0\.self_attn\.o_proj\.bias")


@pytest.mark.parametrize(
    "sizes", [{"num_hidden_layers": 10**9}, {"hidden_size": 10**6, "intermediate_size": 10**6}]
)
def test_sizes_beyond_the_files(sizes, folder):
    edit(folder / "config.json", lambda facts: facts.update(sizes | {"layer_types": None}))
    refused(folder, "expected a configuration of the weights beside it")


@pytest.mark.parametrize("name", ["../../x.safetensors", "gone.safetensors", "/etc/x.safetensors"])
def test_an_index_that_names_other_files(name, folder):
    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    files = dict.fromkeys(held, "a.safetensors") | {"model.norm.weight": name}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    refused(
        folder, r"index\.json: got .*x\.safetensors|index\.json: got gone\.safetensors, which is not there"
    )


def test_weights_in_several_files(folder, whole):
    load(whole).module.save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    assert load(folder).fingerprint() == load(whole).fingerprint()
    os.truncate(sorted(folder.glob("model-*.safetensors"))[1], 3000)
    refused(folder, "expected a whole safetensors file")


def test_pickles_alone(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    refused(
        folder,
        r"weights as pickles \(pytorch_model\.bin\), which can run code, expected weights in safetensors",
    )


def test_an_adapter_beside_a_model(folder):
    """transformers would load the adapter's base model from wherever it says."""
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    refused(folder, "with an adapter beside config.json, expected a whole model alone")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_not_asked_about(file, folder, monkeypatch):
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    own = {"auto_map": {"AutoConfig": "code.C", "AutoTokenizer": ["code.T", None]}, "model_type": "own"}
    edit(folder / file, lambda facts: facts.update(own | {"tokenizer_class": "T"}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    assert clear(in_time(lambda: load(folder)))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("name", ["~nosuchuser/x", "a\0b", "x" * 5000, "\ud800", "", "./" + "y" * 300])
def test_names_that_name_nothing(name):
    refused(name, "expected a model's folder or hub name")


def test_an_encoder_whose_pooler_was_not_saved(tmp_path):
    """It is left out rather than filled at random; the hidden states are those that were saved."""
    module = tiny_models.build("bert")
    module.save_pretrained(tmp_path)
    tensors(tmp_path, lambda held: [held.pop(name) for name in list(held) if "pooler" in name])
    found = load(tmp_path)
    keywords = tiny_models.inputs("bert")
    with torch.no_grad():
        assert torch.equal(found.module(**keywords)[0], module(**keywords)[0])
    assert found.module.pooler is None
    assert found.fingerprint() == load(tmp_path).fingerprint()


@pytest.mark.parametrize("name", ["gpt2", "gemma3_text", "bert_masked_lm"])
def test_tied_weights_and_left_out_heads_are_no_fault(name, tmp_path):
    module = tiny_models.build(name)
    module.save_pretrained(tmp_path)
    tensors(tmp_path, lambda held: held.update({"cls.seq_relationship.weight": torch.ones(2, 16)}))
    words = tiny_models.tokenizer()
    assert load(tmp_path, tokenizer=words).fingerprint() == load(module).fingerprint()


def test_a_tokenizer_s_folder_with_a_pipe(whole, folder):
    (folder / "tokenizer_config.json").unlink()
    os.mkfifo(folder / "tokenizer_config.json")
    outcome = in_time(lambda: load(whole, tokenizer=folder))
    assert isinstance(outcome, ModelError)
    assert "tokenizer_config.json: got a pipe, expected a file" in str(outcome)
