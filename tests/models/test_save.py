from __future__ import annotations

import json

import pytest
import torch
import transformers as hf
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, inject_adapter_in_model
from safetensors import SafetensorError
from torch import nn

from tiny_models import NAMES, build, inputs, tokenizer
from trimtab import Steering, load
from trimtab.errors import CheckpointError, ModelError
from trimtab.models import adapter, hub, save
from trimtab.models.hooks import capture
from trimtab.models.sites import resolve
from trimtab.steer.maps import Base

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
"""Of peft 0.21 with transformers 5.23, whoever loads an adapter."""

SCALES = {
    "llama": ["mlp", "self_attn", "pre_mlp_norm", "pre_attention_norm", "model.norm"],
    "qwen3": ["mlp", "self_attn", "pre_mlp_norm", "pre_attention_norm", "model.norm"],
    "gemma3_text": ["mlp", "self_attn", "*norm", "*layernorm"],
    "gpt2": ["mlp", "attn", "ln_*"],
    "gpt_neox": ["mlp", "attention", "pre_mlp_norm", "final_layer_norm"],
    "bert": ["LayerNorm", "mlp_out", "residual"],
    "clip": ["*.mlp", "*.self_attn", "layer_norm[12]"],
    "unet": ["*norm[123]", "to_out.0"],
    "pixart": ["to_out.0", "pos_embed.proj"],
}
"""Sites whose scales are saved in each family."""

BOTH = {
    "llama": ["mlp", "self_attn", "pre_mlp_norm", "pre_attention_norm"],
    "qwen2": ["pre_attention_norm"],
    "qwen3": ["self_attn", "pre_attention_norm"],
    "gemma2": ["self_attn", "pre_attention_norm"],
    "gemma3_text": ["self_attn", "pre_attention_norm"],
    "gpt_neox": SCALES["gpt_neox"],
    **{name: SCALES[name] for name in ("gpt2", "bert", "clip", "pixart")},
    "unet": ["*norm[123]", "to_out.0", "conv[12]"],
}
"""Sites whose scales and shifts are saved."""

SHIFTS = {"llama": "residual", "gpt2": "residual", "gpt_neox": "residual", "clip": "encoder.layers.*"}
"""Sites of which only shifts fold, and are saved."""

LOST = {
    "qwen3": ["mlp", "pre_mlp_norm", "residual", "model.norm"],
    "gemma3_text": ["mlp", "pre_mlp_norm"],
    "mistral": ["self_attn", "mlp", "pre_mlp_norm", "pre_attention_norm", "residual"],
    "qwen2": ["self_attn", "mlp", "pre_mlp_norm"],
    "llama": ["model.norm"],
    "unet": ["to_q"],
}
"""Sites whose shifts need a bias that the configuration has no place for."""

CASES = [
    (name, sites, kind)
    for kind, table in (("scale", SCALES), ("both", BOTH), ("shift", SHIFTS))
    for name, sites in table.items()
]


def random_steering(module, name, patterns, kind):
    draw = torch.Generator().manual_seed(0)
    # Norms of queries and keys have the width of a head.
    found = [site for site in resolve(module, patterns) if not site.path.endswith(("q_norm", "k_norm"))]
    with torch.no_grad(), capture(module, found) as taken:
        module(**inputs(name))
    maps = {}
    for site, value in taken.items():
        d = value.shape[1 if value.ndim == 4 else -1]
        weight = torch.ones(d) if kind == "shift" else 1 + 0.3 * torch.randn(d, generator=draw)
        maps[site] = weight, torch.zeros(d) if kind == "scale" else 0.3 * torch.randn(d, generator=draw)
    return Steering(maps, Base.of(module, found))


def read(out):
    return {name: value for name, value in out.items() if isinstance(value, torch.Tensor)}


def plainly(module, folder):
    """As someone without trimtab would load it."""
    if isinstance(module, hf.PreTrainedModel):
        kind = hf.AutoModelForCausalLM if hasattr(module, "lm_head") else hf.AutoModel
        return kind.from_pretrained(folder).eval()
    return type(module).from_pretrained(folder).eval()


@pytest.mark.parametrize(
    ("name", "patterns", "kind"), CASES, ids=[f"{name}-{kind}" for name, _, kind in CASES]
)
def test_a_fused_model_is_saved_and_read_by_the_library_that_it_is_of(tmp_path, name, patterns, kind):
    module, given = build(name), inputs(name)
    steering = random_steering(module, name, patterns, kind)
    folder = steering.fuse(module, 0.6).save_pretrained(tmp_path / "fused")
    again = plainly(module, folder)
    with torch.no_grad():
        with steering.on(module, 0.6):
            expected = read(module(**given))
        plain, found = read(module(**given)), read(again(**given))
    for key, value in expected.items():
        size = value.abs().max()
        assert (found[key] - value).abs().max() <= 1e-5 * size
        assert (plain[key] - value).abs().max() > 1e-3 * size


@pytest.mark.parametrize(
    ("name", "pattern"), [(name, site) for name, sites in LOST.items() for site in sites]
)
def test_biases_that_would_be_lost_are_refused_and_nothing_is_left(tmp_path, name, pattern):
    module = build(name)
    steering = random_steering(module, name, pattern, "shift")
    fused = steering.fuse(module)
    with pytest.raises(
        ModelError, match=r"weights that a checkpoint of \w+ has no place for \(.*bias\).*in memory"
    ):
        fused.save_pretrained(tmp_path / "fused")
    assert not list(tmp_path.iterdir())


def test_a_flag_gives_every_block_a_bias_of_zero():
    module = build("llama")
    fused = random_steering(module, "llama", "mlp_out.1", "shift").fuse(module).module
    assert fused.config.mlp_bias
    assert not fused.config.attention_bias
    biases = {name: value for name, value in fused.named_parameters() if name.endswith("bias")}
    assert len(biases) == 2 * 3
    assert [name for name, value in biases.items() if value.any()] == ["model.layers.1.mlp.down_proj.bias"]


def test_a_flag_that_is_off_is_set_in_gpt_neox_too(tmp_path):
    module = build("gpt_neox", attention_bias=False)
    steering = random_steering(module, "gpt_neox", "attention_out", "both")
    folder = steering.fuse(module).save_pretrained(tmp_path / "fused")
    assert plainly(module, folder).config.attention_bias


@pytest.mark.parametrize("name", NAMES)
def test_every_model_is_saved_as_it_is(tmp_path, name):
    module = build(name)
    folder = load(module, tokenizer=tokenizer()).save_pretrained(tmp_path / "model")
    again = type(module).from_pretrained(folder)
    assert again.state_dict().keys() == module.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in module.state_dict().items())
    assert hf.AutoTokenizer.from_pretrained(folder)("ab")["input_ids"] == [3, 4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precision_and_mode_are_kept(tmp_path, dtype):
    model = load(build("llama").to(dtype).train(), tokenizer=tokenizer())
    again = load(model.save_pretrained(tmp_path / "new" / "model"))
    assert again.module.dtype == dtype
    assert model.module.training
    assert again.generate(["ab"], max_new_tokens=3) == model.generate(["ab"], max_new_tokens=3)


# Adapters -------------------------------------------------------------------------------------------------


def adapted(module, **settings):
    """A model whose adapter changes something: peft starts with B at 0."""
    model = load(module, tokenizer=tokenizer(), adapter={"r": 2, "seed": 5, **settings})
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=draw))
    return model


def logits(module, name="llama"):
    with torch.no_grad():
        return module.eval()(**inputs(name)).logits.float()


def snapshot(model):
    return {name: value.clone() for name, value in model.module.state_dict().items()}


@pytest.fixture
def based(tmp_path):
    """A folder with a base model, and a model with an adapter on it."""
    load(build("llama"), tokenizer=tokenizer()).save_pretrained(tmp_path / "base")
    module = hf.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    return adapted(module)


def test_an_adapter_is_saved_as_peft_reads_it(based, tmp_path, monkeypatch):
    before, expected = snapshot(based), logits(based.module)
    folder = based.save_pretrained(tmp_path / "adapter", card=f"load {save.HERE}")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    assert (folder / "README.md").read_text() == f"load {folder}"
    assert not (folder / "config.json").exists()
    again = AutoPeftModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(again), expected)
    assert hf.AutoTokenizer.from_pretrained(folder)("ab")["input_ids"] == [3, 4]
    assert all(torch.equal(value, before[name]) for name, value in based.module.state_dict().items())
    with pytest.raises(ModelError, match="where there is something already"):
        based.save_pretrained(folder)


def test_a_base_in_a_relative_folder_is_named_whole(tmp_path, monkeypatch):
    load(build("llama"), tokenizer=tokenizer()).save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    folder = load("base", adapter={"r": 2}).save_pretrained("adapter")
    monkeypatch.chdir("/")
    AutoPeftModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])
def test_a_merged_model_is_a_whole_one(name, tmp_path):
    model = adapted(build(name))
    before, expected = snapshot(model), logits(model.module, name)
    folder = model.save_pretrained(tmp_path / "whole", merged=True)
    assert not list(folder.glob("adapter*"))
    again = hf.AutoModelForCausalLM.from_pretrained(folder)
    assert (logits(again, name) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert isinstance(model.module, PeftModel)
    assert all(torch.equal(value, before[key]) for key, value in model.module.state_dict().items())
    assert load(folder).trainable().keys() >= {key for key, _ in again.named_parameters()}


def test_low_precision_stays_what_it_is(tmp_path):
    model = adapted(build("llama").to(torch.bfloat16))
    folder = model.save_pretrained(tmp_path / "whole", merged=True)
    assert hf.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype == torch.bfloat16
    assert load(build("llama"), tokenizer=tokenizer()).save_pretrained(tmp_path / "plain", merged=True)


def test_an_adapter_that_is_read_back_otherwise_is_no_success(based, tmp_path, monkeypatch):
    monkeypatch.setattr(adapter, "load_file", lambda path: {})
    with pytest.raises(
        ModelError, match=r"lora_A.weight other than it was written, expected what is read back"
    ):
        based.save_pretrained(tmp_path / "adapter")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_an_adapter_that_does_not_say_all_it_does_is_noticed(based, tmp_path):
    layer = based.module.base_model.model.model.layers[0].self_attn.q_proj
    layer.scaling["default"] = 40.0
    with pytest.raises(ModelError, match=r"outputs that are .* away from those of the model that was saved"):
        based.save_pretrained(tmp_path / "adapter")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_what_cannot_be_merged_says_so(based, tmp_path, monkeypatch):
    with torch.no_grad():
        next(iter(based.trainable().values())).fill_(torch.nan)
    with pytest.raises(
        ModelError, match=r"an adapter that cannot be merged .*expected a LoRA of finite weights"
    ):
        based.save_pretrained(tmp_path / "x", merged=True)
    monkeypatch.setattr(adapter, "quantised", lambda network: "a Linear4bit at q")
    with pytest.raises(
        ModelError, match=r"a quantised model \(a Linear4bit at q\).*saving the adapter alone"
    ):
        based.save_pretrained(tmp_path / "x", merged=True)


def test_files_are_compared_without_a_second_model(tmp_path, monkeypatch):
    """What the end of a run does: the weights alone, in the place of a folder that is there."""
    monkeypatch.setattr(save, "_compare", None)
    for name in ("llama", "gpt2"):
        model = load(build(name), tokenizer=tokenizer())
        assert save.write(model, tmp_path / "model", thorough=False) == tmp_path / "model"
    assert hf.AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.model_type == "gpt2"
    monkeypatch.setattr(torch, "equal", lambda *_: False)
    with pytest.raises(ModelError, match="other than it was written"):
        save.write(model, tmp_path / "model", thorough=False)


# The hub ---------------------------------------------------------------------------------------------------


class Hub:
    """Stands in for the hub's interface."""

    def __init__(self, token=None):
        Hub.token = token

    def create_repo(self, repo_id, *, private, exist_ok):
        if repo_id.startswith("other/"):
            raise OSError("403 Forbidden: you may not.\nmore")
        Hub.private = private
        return type("Made", (), {"repo_id": repo_id})

    def upload_folder(self, *, repo_id, folder_path, revision, commit_message, create_pr):
        Hub.files = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        Hub.said = (revision, commit_message)
        return type(
            "Done", (), {"commit_url": f"https://hub/{repo_id}/1", "pr_url": f"https://hub/{repo_id}/pr"}
        )


def test_models_and_adapters_are_pushed_as_they_are_saved(based, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "HfApi", Hub)
    where = based.push_to_hub("someone/mine", private=True, token="t", card=f"load {save.HERE}")
    assert where == "https://hub/someone/mine/1"
    assert (Hub.token, Hub.private, Hub.said) == ("t", True, (None, "Upload a model"))
    saved = based.save_pretrained(tmp_path / "adapter")
    assert Hub.files["adapter_model.safetensors"] == (saved / "adapter_model.safetensors").read_bytes()
    assert Hub.files["README.md"] == b"load someone/mine"
    assert based.push_to_hub("someone/mine", merged=True, create_pr=True) == "https://hub/someone/mine/pr"
    assert "model.safetensors" in Hub.files
    with pytest.raises(
        ModelError, match=r"got other/mine: 403 Forbidden: you may not, expected a repository"
    ):
        based.push_to_hub("other/mine")


# What is refused


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    model = load(build("llama"))
    with pytest.raises(ModelError, match="where there is something already"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"something already, .*; try notes\.txt-2"):
        model.save_pretrained(tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_modules_without_a_format_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"got a Linear, expected a model of transformers or diffusers"):
        load(nn.Linear(2, 2)).save_pretrained(tmp_path / "x")
    bare = build("llama")
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), bare)
    with pytest.raises(ModelError, match=r"adapter layers outside of a peft model, expected a PeftModel"):
        load(bare).save_pretrained(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_dropped_without_a_word_are_noticed_on_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(save, "_refuse_what_would_be_lost", lambda network: None)
    module = build("mistral")
    fused = random_steering(module, "mistral", "mlp_out", "shift").fuse(module)
    with pytest.raises(ModelError, match=r"got model.layers.0.mlp.down_proj.bias other than it was written"):
        fused.save_pretrained(tmp_path / "fused")
    assert not list(tmp_path.iterdir())


def test_what_the_configuration_does_not_say_is_noticed(tmp_path):
    module = build("llama")
    module.model.norm.variance_epsilon = 1.0
    with pytest.raises(ModelError, match=r"outputs that are .* away from those of the model that was saved"):
        load(module).save_pretrained(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_cannot_be_read_is_no_success(tmp_path, monkeypatch):
    def broken(config):
        raise OSError("no such thing")

    monkeypatch.setattr(save, "loader", broken)
    with pytest.raises(ModelError, match="no such thing when it was read back"):
        load(build("llama")).save_pretrained(tmp_path / "x")
    assert not list(tmp_path.iterdir())


# Disks --------------------------------------------------------------------------------------------------


def full(*_, **__):
    raise SafetensorError("I/O error: No space left on device (os error 28)")


def no_room(*_, **__):
    raise OSError(28, "No space left on device")


def rust(*_, **__):
    raise Exception("No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("where", "failure"),
    [
        ("transformers.modeling_utils.safe_save_file", full),
        ("transformers.PreTrainedConfig.save_pretrained", no_room),
        ("transformers.PreTrainedTokenizerBase.save_pretrained", rust),
    ],
)
def test_a_full_disk_leaves_nothing_behind(where, failure, tmp_path, monkeypatch):
    monkeypatch.setattr(where, failure)
    with pytest.raises(CheckpointError, match=r"got '.*No space left.* while writing .*m"):
        load(build("llama"), tokenizer=tokenizer()).save_pretrained(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_save_itself(tmp_path):
    module = build("gpt2")
    module.transformer.h[1].mlp = module.transformer.h[0].mlp
    with pytest.raises(
        ModelError, match=r"got a GPT2LMHeadModel that cannot save itself .*shared tensors.*; try an untied"
    ):
        load(module, tokenizer=tokenizer()).save_pretrained(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["~nosuchuser/x", "a\0b"])
def test_a_folder_that_cannot_be(name):
    with pytest.raises(ModelError, match="expected a folder's path"):
        load(build("llama"), tokenizer=tokenizer()).save_pretrained(name)


class Scaled(nn.LayerNorm):
    """A norm that keeps more than tensors with its weights."""

    def get_extra_state(self):
        return {"scale": 2}


def test_what_is_no_tensor_cannot_be_saved(tmp_path):
    module = build("gpt2")
    module.transformer.ln_f = Scaled(16)
    model = load(module, tokenizer=tokenizer())
    assert len(model.fingerprint()) == 16
    with pytest.raises(ModelError, match=r"_extra_state, a dict, among the weights of a GPT2LMHeadModel"):
        model.save_pretrained(tmp_path / "m")
