from __future__ import annotations

import pytest
import torch
import transformers as hf
from safetensors import SafetensorError
from torch import nn

from tiny_models import NAMES, build, inputs, tokenizer
from trimtab import Steering, load
from trimtab.errors import CheckpointError, ModelError
from trimtab.models import save
from trimtab.models.hooks import capture
from trimtab.models.sites import resolve
from trimtab.steer.maps import Base

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


# What is refused


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    model = load(build("llama"))
    with pytest.raises(ModelError, match="where there is something already"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"something already, .*; try notes\.txt-2"):
        model.save_pretrained(tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_adapters_and_modules_without_a_format_are_refused(tmp_path):
    adapted = load(build("llama"), tokenizer=tokenizer(), adapter={"r": 2})
    with pytest.raises(ModelError, match=r"a model with an adapter.*merge_and_unload"):
        adapted.save_pretrained(tmp_path / "x")
    with pytest.raises(ModelError, match=r"got a Linear, expected a model of transformers or diffusers"):
        load(nn.Linear(2, 2)).save_pretrained(tmp_path / "x")
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
