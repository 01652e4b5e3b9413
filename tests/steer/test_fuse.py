from __future__ import annotations

import copy

import pytest
import torch
import transformers as hf
from torch import nn

from tiny_models import build, inputs, tokenizer
from trimtab import Steering, load
from trimtab.errors import ModelError, ShapeError
from trimtab.models.hooks import capture
from trimtab.models.outputs import largest_gap
from trimtab.models.sites import resolve
from trimtab.models.weights import Parts, plan
from trimtab.steer.maps import Base

BLOCKS = {
    "bert": "encoder.layer.*",
    "clip": ["text_model.encoder.layers.*", "vision_model.encoder.layers.*"],
    "gpt2": "transformer.h.*",
    "gpt_neox": "gpt_neox.layers.*",
}


def within(name, *places):
    """Places inside every block of a model."""
    blocks = BLOCKS.get(name, "model.layers.*")
    return [
        f"{block}.{place}" if place else block
        for block in ([blocks] if isinstance(blocks, str) else blocks)
        for place in places
    ]


BOTH = {
    "llama": [
        "attention_out", "mlp_out", "self_attn", "mlp", "pre_attention_norm", "pre_mlp_norm",
        "model.norm", "mlp.down_proj:in", "q_proj", "mlp.gate_proj:in",
    ],
    "qwen3": ["attention_out", "mlp_out", "self_attn", "mlp", "pre_attention_norm", "pre_mlp_norm", "model.norm"],
    "gemma3_text": [
        "attention_out", "mlp_out", "self_attn", "mlp", "pre_attention_norm", "pre_mlp_norm", "model.norm",
    ],
    "gpt2": [
        "attention_out", "mlp_out", "attn", "mlp", "ln_1", "ln_2", "transformer.ln_f", "mlp.c_fc:in", "c_attn",
    ],
    "gpt_neox": [
        "attention_out", "mlp_out", "attention", "mlp", "pre_attention_norm", "pre_mlp_norm",
        "gpt_neox.final_layer_norm", "query_key_value:in",
    ],
    "bert": [
        "attention_out", "mlp_out", "LayerNorm", *within("bert", "", "output", "attention", "attention.output"),
    ],
    "clip": [
        *within("clip", "mlp", "self_attn", "mlp.fc2", "self_attn.out_proj", "layer_norm[12]"),
        "post_layernorm", "final_layer_norm", "pre_layrnorm", "patch_embedding", "visual_projection:in",
    ],
    "unet": ["*norm*", "conv[12]", "conv_in", "to_out.0", "to_q", "proj_in", "time_emb_proj"],
    "pixart": ["to_out.0", "to_[qkv]", "net.0.proj", "pos_embed.proj", "linear_[12]:in", "proj_out"],
}  # fmt: skip
"""Sites whose maps fold whole, with scale and shift."""

SCALES = {"gemma3_text": ["post_attention_layernorm", "post_feedforward_layernorm"]}
"""Sites where a scale folds and a shift does not."""

SHIFTS = {name: within(name, "") for name in ("llama", "qwen3", "gpt2", "gpt_neox", "clip")}
"""Sites where a shift folds and a scale does not."""

CASES = [
    (name, pattern, kind)
    for kind, table in (("both", BOTH), ("scale", SCALES), ("shift", SHIFTS))
    for name, patterns in table.items()
    for pattern in [*patterns, patterns]
]


def read(out):
    """Everything that a model returns, but for what it is made of."""
    return {name: value for name, value in out.items() if isinstance(value, torch.Tensor)}


def random_steering(module, name, pattern, kind="both", seed=0):
    draw = torch.Generator().manual_seed(seed)
    found = resolve(module, pattern)
    if isinstance(pattern, str) and pattern == "post_layernorm":
        found = found[:1]
    with torch.no_grad(), capture(module, found) as taken:
        module(**inputs(name))
    maps = {}
    for site, value in taken.items():
        d = value.shape[1 if value.ndim == 4 else -1]
        weight = torch.ones(d) if kind == "shift" else 1 + 0.3 * torch.randn(d, generator=draw)
        shift = torch.zeros(d) if kind == "scale" else 0.3 * torch.randn(d, generator=draw)
        maps[site] = weight, shift
    return Steering(maps, Base.of(module, found))


def same(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    assert largest_gap(expected, found) <= tolerance


# What folds


@pytest.mark.parametrize(
    ("name", "pattern", "kind"), CASES, ids=lambda value: "all" if isinstance(value, list) else str(value)
)
def test_a_fused_model_computes_what_the_hooked_one_does(name, pattern, kind):
    module, given = build(name), inputs(name)
    steering = random_steering(module, name, pattern, kind)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    settings = copy.deepcopy(dict(module.config)) if name in ("unet", "pixart") else module.config.to_dict()
    fused = steering.fuse(module, 0.7).module
    with torch.no_grad():
        plain = read(module(**given))
        with steering.on(module, 0.7):
            expected = read(module(**given))
        found = read(fused(**given))
    same(found, expected, 1e-5)
    assert largest_gap(plain, expected) > 1e-3
    # The caller's model is as it was, and the new one has no hook.
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert (dict(module.config) if name in ("unet", "pixart") else module.config.to_dict()) == settings
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in fused.modules())
    assert type(fused) is type(module)


def test_maps_on_every_kind_of_site_at_once_fold_exactly():
    module, given = build("llama").double(), inputs("llama")
    steering = random_steering(build("llama"), "llama", BOTH["llama"]).rebased(module)
    steering = steering.then(random_steering(build("llama"), "llama", "residual", "shift").rebased(module))
    with torch.no_grad():
        with steering.on(module):
            expected = read(module(**given))
        same(read(steering.fuse(module).module(**given)), expected, 1e-12)


@pytest.mark.parametrize("flags", [{}, {"attention_bias": True, "mlp_bias": True}])
def test_biases_that_are_there_are_kept(flags):
    module, given = build("llama", **flags), inputs("llama")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    steering = random_steering(module, "llama", [*BOTH["llama"]])
    with torch.no_grad():
        with steering.on(module):
            expected = read(module(**given))
        same(read(steering.fuse(module).module(**given)), expected)


@pytest.mark.parametrize("name", ["qwen2", "mistral", "gemma2", "clip_text_model", "clip_vision_model"])
def test_the_other_families_fold_as_well(name):
    module, given = build(name), inputs(name)
    places = ["mlp_out", "attention_out", "pre_mlp_norm", "pre_attention_norm"]
    steering = random_steering(module, name, places)
    if name != "gemma2":
        steering = steering.then(random_steering(module, name, "residual", "shift"))
    with torch.no_grad():
        with steering.on(module):
            expected = read(module(**given))
        same(read(steering.fuse(module).module(**given)), expected)


def test_parts_of_a_module_of_ones_own_fold():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(4, 6, bias=False), nn.RMSNorm(6), nn.LayerNorm(6, bias=False), nn.Linear(6, 3)
    )
    draw = torch.Generator().manual_seed(0)
    maps = {
        "0:out": (torch.randn(6, generator=draw), torch.randn(6, generator=draw)),
        "1:out": (torch.randn(6, generator=draw), torch.zeros(6)),
        "2:out": (torch.randn(6, generator=draw), torch.randn(6, generator=draw)),
        "3:in": (torch.randn(6, generator=draw), torch.randn(6, generator=draw)),
    }
    steering, x = Steering(maps, Base.of(module, resolve(module, list(maps)))), torch.randn(5, 4)
    with torch.no_grad(), steering.on(module):
        expected = module(x)
    torch.testing.assert_close(steering.fuse(module).module(x), expected)


def test_strength_zero_gives_the_untouched_weights():
    module = build("llama")
    fused = random_steering(module, "llama", ["mlp_out", "pre_mlp_norm"]).fuse(module, 0.0).module
    assert fused is not module
    assert fused.state_dict().keys() == module.state_dict().keys()
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in fused.state_dict().items())


def test_half_precision_is_fused_within_its_rounding():
    module, given = build("llama").to(torch.bfloat16), inputs("llama")
    steering = random_steering(build("llama"), "llama", ["mlp_out", "pre_mlp_norm"])
    fused = steering.fuse(module).module
    assert fused.dtype == torch.bfloat16
    with torch.no_grad(), steering.on(module):
        expected = read(module(**given))
    same(read(fused(**given)), expected, 0.05)


def test_a_handle_keeps_its_tokenizer_and_the_fused_model_generates_the_same():
    model = load(build("llama").train(), tokenizer=tokenizer())
    steering = random_steering(build("llama"), "llama", ["mlp_out", "pre_mlp_norm"]) * 3
    fused = steering.fuse(model)
    assert model.module.training
    assert not fused.module.training
    assert fused.tokenizer is model.tokenizer
    with steering.on(model):
        steered = model.generate(["abc", "de"], max_new_tokens=6)
    assert fused.generate(["abc", "de"], max_new_tokens=6) == steered
    assert steered != model.generate(["abc", "de"], max_new_tokens=6)


def test_two_towers_of_one_model_that_sees_and_speaks_each_fold():
    text = hf.LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                          num_attention_heads=2, num_key_value_heads=1, head_dim=8)  # fmt: skip
    sight = hf.CLIPVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                                image_size=16, patch_size=8)  # fmt: skip
    torch.manual_seed(0)
    module = hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(vision_config=sight, text_config=text, image_token_index=5)
    ).eval()
    given = {"input_ids": torch.tensor([[5, 5, 5, 5, 7, 8]]), "pixel_values": torch.randn(1, 3, 16, 16)}
    paths = [site for site in resolve(module, "*.mlp") if "projector" not in site.path]
    found = [*paths, *resolve(module, "language_model.layers.*.input_layernorm")]
    draw = torch.Generator().manual_seed(0)
    maps = {s.name: (torch.randn(16, generator=draw), torch.randn(16, generator=draw)) for s in found}
    steering = Steering(maps, Base.of(module, found))
    fused = steering.fuse(module).module
    with torch.no_grad(), steering.on(module):
        expected = module(**given).logits
    torch.testing.assert_close(fused(**given).logits, expected, rtol=1e-5, atol=1e-6)
    assert fused.config.text_config.attention_bias
    assert not module.config.text_config.attention_bias


# What is refused


REFUSED = [
    ("llama", "residual", "both", r"weight is not 1: it would also scale what earlier blocks added"),
    ("gemma3_text", "residual", "shift", r"a Gemma3DecoderLayer, whose output is not that of one linear map"),
    ("gemma3_text", "post_feedforward_layernorm", "shift", r"a norm without bias.*no linear map reads alone"),
    ("llama", "q_proj:in", "both", None),
    ("llama", "mlp:in", "both", r"a LlamaMLP, whose input is no linear map's"),
    ("llama", "act_fn", "both", r"whose output is not that of one linear map or norm"),
    ("llama", "embed_tokens", "both", r"a Embedding, whose output is not that"),
    (
        "bert",
        "intermediate",
        "both",
        r"a BertIntermediate, whose output.*try 'encoder.layer.0.intermediate.dense:out'",
    ),
    ("pixart", "norm1", "both", r"a LayerNorm, which has no weights to fold into"),
    ("unet", "conv_in:in", "both", r"a Conv2d, whose input is no linear map's"),
]


@pytest.mark.parametrize(("name", "pattern", "kind", "message"), REFUSED)
def test_what_fits_into_no_weights_is_refused(name, pattern, kind, message):
    module = build(name)
    steering = random_steering(module, name, pattern, kind)
    if message is None:
        steering.fuse(module)
        return
    with pytest.raises(ModelError, match=message):
        steering.fuse(module)


def test_weights_shared_with_another_place_are_refused_but_a_bias_beside_them_is_not():
    module, given = build("llama", tie_word_embeddings=True), inputs("llama")
    with pytest.raises(ModelError, match=r"weight at lm_head is also that of model.embed_tokens"):
        random_steering(module, "llama", "lm_head").fuse(module)
    steering = random_steering(module, "llama", "lm_head", "shift")
    with torch.no_grad(), steering.on(module):
        expected = read(module(**given))
    same(read(steering.fuse(module).module(**given)), expected)


def test_an_adapter_is_to_be_merged_first():
    model = load(build("llama"), tokenizer=tokenizer(), adapter={"r": 2})
    steering = random_steering(build("llama"), "llama", "mlp_out")
    with pytest.raises(ModelError, match=r"a model with an adapter.*merge_and_unload"):
        steering.fuse(model)
    with pytest.raises(ModelError, match=r"a model with an adapter"):
        steering.fuse(model.module.base_model.model)


def test_quantised_models_are_refused():
    module = build("llama")
    steering = random_steering(module, "llama", "mlp_out")
    module.is_quantized = True
    with pytest.raises(ModelError, match="got a quantised model"):
        steering.fuse(module)


class Int8Linear(nn.Linear):
    pass


def test_quantised_layers_are_refused():
    module = build("llama")
    steering = random_steering(module, "llama", "residual", "shift")
    layer = module.model.layers[0].mlp
    odd = Int8Linear(32, 16, bias=False)
    odd.weight = layer.down_proj.weight
    layer.down_proj = odd
    with pytest.raises(
        ModelError, match=r"whose weights are quantised or of another kind at model.layers.0.mlp.down_proj"
    ):
        steering.fuse(module)


def test_a_model_in_use_is_refused():
    module = build("llama")
    steering = random_steering(module, "llama", "mlp_out")
    with steering.on(module):
        with pytest.raises(ModelError, match="inside a `with` block"):
            steering.fuse(module)
        module(**inputs("llama"))
    with capture(module, "mlp_out"):
        with pytest.raises(ModelError, match="inside a `with` block"):
            steering.fuse(module)
        module(**inputs("llama"))


def test_another_model_another_width_and_strengths_per_row_are_refused():
    module = build("llama")
    steering = random_steering(module, "llama", "mlp_out")
    with pytest.raises(ModelError, match="are not those of"):
        steering.fuse(build("llama", seed=1))
    with pytest.raises(ModelError, match="got one per row, expected one number"):
        steering.fuse(module, torch.tensor([0.1, 0.2]))
    wide = build("llama", hidden_size=32, head_dim=16)
    with pytest.raises(ShapeError, match=r"mlp.down_proj:out: got 16 units, expected 32"):
        steering.rebased(wide).fuse(wide)


def test_a_mistake_in_folding_is_noticed_where_an_input_can_be_made_up(monkeypatch):
    module = build("llama")
    steering = random_steering(module, "llama", "mlp_out")
    monkeypatch.setattr("trimtab.steer.files.apply", lambda parts, fold, weight, shift: None)
    with pytest.raises(ModelError, match=r"of the largest away from those of the hooked model"):
        steering.fuse(module)


def test_planning_changes_nothing():
    module = build("llama")
    before = {key: value.clone() for key, value in module.state_dict().items()}
    site = resolve(module, "mlp_out")[0]
    assert plan(Parts.of(module), site, torch.full((16,), 2.0), torch.ones(16)).way == "rows"
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
