from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sites_of_models import sites
from steerings import random_steering
from tiny_models import NINE, build, inputs, tokenizer
from trimtab import Steering, load
from trimtab.errors import ModelError, ShapeError
from trimtab.models.hooks import intervene
from trimtab.models.sites import resolve
from trimtab.steer.maps import AffineMap, Base


def read(out):
    return torch.cat([out.text_embeds, out.image_embeds], 1) if hasattr(out, "image_embeds") else out[0]


# What it does


@pytest.mark.parametrize("name", NINE)
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_it_is_the_interpolated_map_at_every_site(name, strength):
    module, given_ = build(name), inputs(name)
    steering = random_steering(module, name, sites(name))

    def by_hand(weight, shift):
        def change(h):
            shape = (-1, 1, 1) if h.ndim == 4 else (-1,)
            return (1 - strength) * h + strength * (weight.reshape(shape) * h + shift.reshape(shape))

        return change

    with torch.no_grad():
        with steering.on(module, strength):
            seen = read(module(**given_))
        with intervene(module, {site: by_hand(*pair) for site, pair in steering.maps.items()}):
            expected = read(module(**given_))
        plain = read(module(**given_))
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert not torch.allclose(seen, plain, rtol=1e-3)


@pytest.mark.parametrize("name", NINE)
def test_strength_zero_is_bit_identical(name):
    module, given_ = build(name), inputs(name)
    steering = random_steering(module, name, sites(name))
    with torch.no_grad():
        plain = read(module(**given_))
        with steering.on(module, 0.0):
            assert torch.equal(read(module(**given_)), plain)


def test_strengths_per_row_are_those_of_each_row_alone():
    module, given_ = build("llama").double(), inputs("llama", 3)
    steering = random_steering(build("llama"), "llama", "residual").rebased(module)
    with torch.no_grad():
        with steering.on(module, torch.tensor([0.0, 0.5, 1.0])):
            together = module(**given_).logits
        for row, strength in enumerate((0.0, 0.5, 1.0)):
            with steering.on(module, strength):
                torch.testing.assert_close(module(**given_).logits[row], together[row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_an_adapted_model_takes_the_steering_of_the_bare_one(name):
    from peft import LoraConfig, get_peft_model

    module, given_ = build(name), inputs(name)
    steering = random_steering(module, name, "mlp_out")
    with torch.no_grad(), steering.on(module):
        expected = module(**given_)[0]
    tuned = get_peft_model(
        build(name), LoraConfig(r=2, target_modules="all-linear", fan_in_fan_out=name == "gpt2")
    )
    with torch.no_grad(), steering.on(tuned):
        torch.testing.assert_close(tuned(**given_)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_handle_is_steered_in_generation():
    model = load(build("llama"), tokenizer=tokenizer())
    steering = random_steering(model.module, "llama", "residual") * 3
    plain = model.generate(["abc", "de"], max_new_tokens=6)
    with steering.on(model):
        assert model.generate(["abc", "de"], max_new_tokens=6) != plain
    assert model.generate(["abc", "de"], max_new_tokens=6) == plain


# Algebra


vectors = st.lists(st.floats(-5, 5), min_size=3, max_size=3)
weights = st.lists(st.floats(0.1, 5) | st.floats(-5, -0.1), min_size=3, max_size=3)


def affine(weight, shift):
    return AffineMap(torch.tensor(weight, dtype=torch.float64), torch.tensor(shift, dtype=torch.float64))


@given(weights, vectors, weights, vectors, vectors)
def test_composition_inverse_and_tone_are_those_of_functions(w1, b1, w2, b2, z):
    one, two, at = affine(w1, b1), affine(w2, b2), torch.tensor([z], dtype=torch.float64)
    torch.testing.assert_close(one.then(two)(at), two(one(at)), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(one.inverse()(one(at)), at, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.toned(0.3)(at), 0.7 * at + 0.3 * one(at), rtol=1e-10, atol=1e-10)
    assert torch.equal(one.toned(1)(at).sign(), one(at).sign())


def test_an_inverse_undoes_a_steering_in_the_model():
    module, given_ = build("llama").double(), inputs("llama")
    steering = random_steering(build("llama"), "llama", "residual").rebased(module)
    with torch.no_grad():
        plain = module(**given_).logits
        with steering.then(steering.inverse()).on(module):
            torch.testing.assert_close(module(**given_).logits, plain, rtol=1e-5, atol=1e-6)
        with steering.on(module), steering.inverse().on(module):
            torch.testing.assert_close(module(**given_).logits, plain, rtol=1e-5, atol=1e-6)


def test_order_matters_where_both_act_and_sites_are_joined():
    module = build("llama")
    one = random_steering(module, "llama", ["residual.0", "mlp_out.0"], 1)
    two = random_steering(module, "llama", ["residual.0", "residual.1"], 2)
    both, other = one.then(two), two.then(one)
    assert set(both.maps) == set(one.maps) | set(two.maps)
    assert not torch.allclose(both.maps["model.layers.0:out"][1], other.maps["model.layers.0:out"][1])
    for name in ("model.layers.0.mlp.down_proj:out", "model.layers.1:out"):
        torch.testing.assert_close(both.maps[name], other.maps[name])
    with torch.no_grad():
        with both.on(module):
            composed = module(**inputs("llama")).logits
        with one.on(module), two.on(module):
            nested = module(**inputs("llama")).logits
    torch.testing.assert_close(composed, nested, rtol=1e-4, atol=1e-4)


def test_a_number_tones_a_steering():
    module = build("llama")
    steering = random_steering(module, "llama", "residual")
    with torch.no_grad():
        with (0.25 * steering).on(module):
            toned = module(**inputs("llama")).logits
        with steering.on(module, 0.25):
            torch.testing.assert_close(module(**inputs("llama")).logits, toned)


def test_sparsity_is_the_share_of_units_left_alone():
    module = build("llama")
    base = Base.of(module, resolve(module, "residual.0"))
    weight, shift = torch.ones(16), torch.zeros(16)
    weight[:3], shift[2:5] = 2, 1
    assert Steering({"model.layers.0:out": (weight, shift)}, base).sparsity() == {
        "model.layers.0:out": 11 / 16
    }


# Refusals


def test_another_model_is_refused_and_may_be_meant():
    steering = random_steering(build("llama"), "llama", "residual")
    other = build("llama", seed=1)
    with (
        pytest.raises(ModelError, match=r"weights at model.layers.0 are not those of .*try steering.rebased"),
        steering.on(other),
    ):
        pass
    with torch.no_grad(), steering.rebased(other).on(other):
        other(**inputs("llama"))


def test_the_same_model_in_half_precision_is_the_same_model():
    steering = random_steering(build("llama"), "llama", "residual")
    half = build("llama").to(torch.bfloat16)
    with torch.no_grad(), steering.on(half):
        assert half(**inputs("llama")).logits.dtype == torch.bfloat16


def test_a_model_without_the_sites_is_refused():
    steering = random_steering(build("llama"), "llama", "residual")
    with pytest.raises(ModelError, match="matches no module"), steering.on(build("gpt2")):
        pass


def test_sites_of_another_width_are_refused():
    steering = random_steering(build("llama"), "llama", "residual")
    wide = build("llama", hidden_size=32, head_dim=16)
    message = r"site model.layers.0:out: got 32 units, expected 16"
    with pytest.raises(ShapeError, match=message), steering.rebased(wide).on(wide):
        wide(**inputs("llama"))


@pytest.mark.parametrize(
    ("maps", "error", "message"),
    [
        ({}, ModelError, "got no site"),
        ({"a:out": (torch.ones(2), torch.ones(3))}, ShapeError, "two vectors"),
        ({"a:out": (torch.ones(2), torch.tensor([1.0, torch.nan]))}, ModelError, "not finite"),
        ({"a:up": (torch.ones(2), torch.ones(2))}, ModelError, "in or out"),
    ],
)
def test_maps_that_are_none_are_refused(maps, error, message):
    with pytest.raises(error, match=message):
        Steering(maps, Base("x", {}))


def test_a_weight_of_zero_has_no_inverse():
    with pytest.raises(ModelError, match="got 1 units of weight 0"):
        affine([1.0, 0.0, 2.0], [0.0] * 3).inverse()


def test_steerings_of_different_models_do_not_compose():
    one = random_steering(build("llama"), "llama", "residual")
    two = random_steering(build("llama", seed=1), "llama", "residual")
    with pytest.raises(ModelError, match=r"which differ at model.layers.0"):
        one.then(two)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 4)])
def test_maps_of_low_precision_activations_round_once(dtype, shape):
    """A weight of 1.003 is 1 in bfloat16: only what the map gives may be rounded."""
    affine = AffineMap(torch.tensor([1.003, 0.9991, 1.0]), torch.tensor([0.001, 0.0, -0.002]))
    h = torch.linspace(-3, 3, torch.Size(shape).numel()).reshape(shape).to(dtype)
    by_unit = (-1, 1, 1) if len(shape) == 4 else (-1,)
    exact = affine.weight.double().reshape(by_unit) * h.double() + affine.shift.double().reshape(by_unit)
    assert affine(h).dtype == dtype
    assert torch.equal(affine(h), exact.to(dtype))
