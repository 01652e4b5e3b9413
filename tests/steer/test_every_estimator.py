from __future__ import annotations

import pytest
import torch

from behaviours import TEXTUAL, posed, sides
from sites_of_models import doubled
from tiny_models import NINE, build, tokenizer
from trimtab import CAA, ITI, AurA, GaussianAcT, LinAcT, LinEAS, MeanAcT, load
from trimtab.errors import ConfigProblems, DataError, ModelError
from trimtab.models.batches import padded, token_rows
from trimtab.steer.samples import Scale, prepare, samples

EVERY = [LinEAS(steps=3), MeanAcT(), GaussianAcT(), LinAcT(), CAA(), ITI(), AurA()]
EVERY += [ITI(variant="heads"), LinAcT(sequential=False), LinEAS(steps=3, stop_gradient=True)]
SITES = {"clip": ["*.*.*.*.mlp"], "unet": "mid_block.resnets.*.norm1", "bert": "mlp_out"}
SITES |= {"pixart": "transformer_blocks.*.norm[12]"}


def named(estimator):
    return f"{type(estimator).__name__}-{estimator.kind}"


def at(estimator, sites):
    return type(estimator)(**{**vars(estimator), "sites": sites})


def pooled(estimator, pool):
    field = "position" if isinstance(estimator, CAA) else "pool"
    return type(estimator)(**{**vars(estimator), field: pool})


def equal(one, two, **tolerance):
    assert list(one.maps) == list(two.maps)
    for site in one.maps:
        torch.testing.assert_close(one.maps[site], two.maps[site], **tolerance)


@pytest.mark.parametrize("estimator", EVERY, ids=named)
def test_the_model_and_the_caller_s_generators_are_untouched(estimator):
    module = build("llama").train()
    module.lm_head.weight.requires_grad_(False)
    module.model.norm.eval()
    model = load(module, tokenizer=tokenizer())
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    flags = {name: (one.requires_grad, one.grad) for name, one in module.named_parameters()}
    modes = {name: part.training for name, part in module.named_modules()}
    state = torch.random.get_rng_state()
    with torch.no_grad():
        steering = estimator.fit(model, *sides())
    assert {name: (one.requires_grad, one.grad) for name, one in module.named_parameters()} == flags
    assert {name: part.training for name, part in module.named_modules()} == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert not any(part.requires_grad for pair in steering.maps.values() for part in pair)
    steering.check(model)


@pytest.mark.parametrize("estimator", EVERY, ids=named)
def test_it_says_how_it_was_made_in_plain_values_and_how_far_it_got(estimator):
    steering = estimator.fit(load(build("llama"), tokenizer=tokenizer()), *sides())
    made_by = steering.made_by
    assert made_by["estimator"] == type(estimator).__name__
    assert made_by["settings"]["kind"] == estimator.kind
    assert made_by["settings"]["sites"] is not None
    assert list(made_by["cost"]) == list(steering.maps)
    for pair in made_by["cost"].values():
        assert [type(value) for value in pair] == [float, float]


def test_costs_are_mean_squared_gaps_of_sorted_samples_in_target_variances():
    module, (source, target) = build("llama").double(), sides(6, 6)
    model = load(module, tokenizer=tokenizer())
    steering = MeanAcT("residual").fit(model, source, target)
    given = prepare(model, source, target, batch_size=6, max_tokens=None)
    before, wanted = (samples(model, side, steering.sites, "mean") for side in given)
    with steering.on(model):
        after = samples(model, given[0], steering.sites, "mean")
    for site, pair in steering.made_by["cost"].items():
        spread = Scale.of(before[site], wanted[site], "scale-free").spread
        for side, told in zip((before, after), pair, strict=True):
            gap = (side[site].sort(dim=0).values - wanted[site].sort(dim=0).values) / spread
            assert told == pytest.approx(float(gap.square().mean()))


@pytest.mark.parametrize("estimator", EVERY[:7], ids=named)
@pytest.mark.parametrize("name", NINE)
def test_every_kind_of_model_is_steered(estimator, name):
    model, source, target = posed(name)
    estimator = pooled(at(estimator, SITES.get(name, ["mlp_out", "residual"])), "mean")
    steering = estimator.fit(model, source, target)
    assert any(share < 1 for share in steering.sparsity().values())
    before, after = map(sum, zip(*steering.made_by["cost"].values(), strict=True))
    if isinstance(estimator, LinEAS | GaussianAcT | LinAcT):
        assert after < before


@pytest.mark.parametrize("estimator", [EVERY[0], *EVERY[3:7]], ids=named)
@pytest.mark.parametrize("name", TEXTUAL)
def test_the_side_of_the_padding_changes_nothing(estimator, name):
    module = doubled(build(name), name)
    rows = [token_rows(tokenizer(), texts) for texts in sides(5, 4)]
    estimator = at(estimator, ["mlp_out", "residual"])
    right, left = (
        estimator.fit(module, *([padded(side, 7, where).arguments(module)] for side in rows))
        for where in ("right", "left")
    )
    equal(left, right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("estimator", EVERY, ids=named)
def test_batches_change_nothing(estimator):
    model = load(build("llama").double(), tokenizer=tokenizer())
    whole = estimator.fit(model, *sides())
    parts = type(estimator)(**{**vars(estimator), "batch_size": 3}).fit(model, *sides())
    equal(parts, whole, rtol=1e-6, atol=1e-8)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("estimator", EVERY, ids=named)
def test_an_adapted_model_is_fitted_like_the_bare_one_and_the_steering_fits_both(estimator):
    from peft import LoraConfig, get_peft_model

    bare = load(build("llama"), tokenizer=tokenizer())
    adapted = get_peft_model(build("llama"), LoraConfig(r=2, target_modules="all-linear"))
    steering = estimator.fit(load(adapted, tokenizer=tokenizer()), *sides())
    equal(steering, estimator.fit(bare, *sides()), rtol=1e-4, atol=1e-4)
    with torch.no_grad(), steering.on(bare):
        bare.module(input_ids=torch.tensor([[3, 4, 5]]))


# Refusals, before anything is changed


@pytest.mark.parametrize("estimator", EVERY, ids=named)
@pytest.mark.parametrize(
    ("source", "target", "error", "message"),
    [
        ([], ["a", "b"], DataError, "source: got no example, expected at least 2"),
        (["a", "b"], ["a"], DataError, "target: got 1 example, expected at least 2"),
        (["a", "b"], "ab", DataError, "target: got one single text"),
        (["a", "b"], ["a", "b" * 65], ModelError, "at most 64, the model's limit; try max_tokens=64"),
    ],
)
def test_bad_examples_are_refused(estimator, source, target, error, message):
    with pytest.raises(error, match=message):
        estimator.fit(load(build("llama"), tokenizer=tokenizer()), source, target)


@pytest.mark.parametrize("estimator", EVERY, ids=named)
def test_activations_that_are_not_finite_are_refused(estimator):
    module = build("llama")
    with torch.no_grad():
        module.model.layers[0].self_attn.v_proj.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match=r"source: got nan or infinity in .* units at model.layers.0"):
        estimator.fit(load(module, tokenizer=tokenizer()), *sides())


@pytest.mark.parametrize("estimator", EVERY, ids=named)
def test_wrong_settings_are_refused(estimator):
    wrong = type(estimator)(**{**vars(estimator), "batch_size": 0, "max_tokens": 0, "sites": ()})
    with pytest.raises(ConfigProblems) as caught:
        wrong.fit(load(build("llama"), tokenizer=tokenizer()), *sides())
    assert {problem.where for problem in caught.value.problems} == {"batch_size", "max_tokens", "sites"}
    if hasattr(estimator, "pool"):
        with pytest.raises(ConfigProblems, match="pool: got 'median', expected 'mean' or 'max' or 'last'"):
            type(estimator)(**{**vars(estimator), "pool": "median"}).fit(build("llama"), [], [])
