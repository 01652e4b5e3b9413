from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trimtab.errors import ModelError
from trimtab.lab.scene_models import SPECIAL, word_tokenizer
from trimtab.models.hooks import capture, intervene
from trimtab.models.load import Model, load
from trimtab.models.one_step import (
    ConditionalNorm,
    OneStepConfig,
    OneStepGenerator,
    as_pictures,
    noise_vectors,
    prompt_batches,
)
from trimtab.models.sites import resolve

WORDS = ("large", "small", "red", "blue", "circle", "square")
PROMPTS = ["large red circle", "small square", "blue", "red red square", "small blue circle"]


@pytest.fixture(scope="module")
def model() -> Model:
    """A small generator with weights at random, those of its conditions too."""
    torch.manual_seed(0)
    config = OneStepConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        image_size=16,
        noise_size=3,
        width=16,
        condition_width=12,
        blocks=2,
    )
    network = OneStepGenerator(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return load(network, tokenizer=word_tokenizer(WORDS, framed=False))


def pixels(model: Model, batch_size: int = 32, prompts=PROMPTS, seed: int = 0) -> torch.Tensor:
    batches = prompt_batches(model, prompts, seed=seed, batch_size=batch_size)
    with torch.no_grad():
        return torch.cat([model.module(**batch) for batch in batches])


def test_a_folder_holds_all_of_it_and_no_code(model, tmp_path):
    folder = model.save_pretrained(tmp_path / "generator")
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    assert "auto_map" not in json.loads((folder / "config.json").read_text())
    again = load(folder)
    assert isinstance(again.module, OneStepGenerator)
    assert not again.module.training
    assert torch.equal(pixels(again), pixels(model))
    assert again.fingerprint() == model.fingerprint()


def test_a_seed_decides_the_pictures(model):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second, other = (model.generate(PROMPTS, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert [one.size for one in first] == [(16, 16)] * len(PROMPTS)
    assert [one.tobytes() for one in first] == [one.tobytes() for one in second]
    assert all(one.tobytes() != two.tobytes() for one, two in zip(first, other, strict=True))
    twice = model.generate(["blue", "blue"], seed=3)
    assert twice[0].tobytes() != twice[1].tobytes()


@given(st.integers(0, 2**40), st.integers(0, 6), st.integers(1, 5))
def test_the_noise_of_a_place_depends_on_nothing_but_seed_and_place(seed, count, size):
    noise = noise_vectors(count, size, seed)
    assert noise.shape == (count, size)
    assert (np.abs(noise) <= 1).all()
    assert np.array_equal(noise, noise_vectors(count + 2, size, seed)[:count])


def test_padding_and_the_batch_change_nothing(model):
    (batch,) = prompt_batches(model, PROMPTS)
    assert (batch["attention_mask"].sum(1) == torch.tensor([3, 2, 1, 3, 3])).all()
    wide = {
        name: F.pad(batch[name], (0, 4), value=value)
        for name, value in (("input_ids", 5), ("attention_mask", 0))
    }
    with torch.no_grad():
        assert torch.equal(model.module(**(batch | wide)), model.module(**batch))
    assert torch.allclose(pixels(model, 1), pixels(model), atol=1e-6)
    assert torch.allclose(pixels(model, 2), pixels(model), atol=1e-6)


def test_the_order_of_words_is_not_heard_and_each_word_is(model):
    swapped = [" ".join(reversed(prompt.split())) for prompt in PROMPTS]
    assert torch.equal(pixels(model, prompts=swapped), pixels(model))
    first = pixels(model, prompts=["large red circle"])
    for place in range(3):
        for word in set(WORDS) - {["large", "red", "circle"][place]}:
            words = ["large", "red", "circle"]
            words[place] = word
            assert (pixels(model, prompts=[" ".join(words)]) - first).abs().max() > 1e-4


def test_the_sites_of_norms_are_what_follows_the_conditional_scale_and_shift(model):
    sites = [site.name for site in resolve(model, "*norm*")]
    norms = [name for name, part in model.module.named_modules() if isinstance(part, ConditionalNorm)]
    assert sites == [f"{name}:out" for name in norms]
    assert len(sites) == 5
    (batch,) = prompt_batches(model, PROMPTS)
    with torch.no_grad(), capture(model, ["blocks.1.norm2:in", "blocks.1.norm2"]) as taken:
        model.module(**batch)
    h, out = taken["blocks.1.norm2:in"].double(), taken["blocks.1.norm2:out"]
    groups = h.reshape(len(h), 8, 2, 8, 8)
    mean, deviation = groups.mean((2, 3, 4), keepdim=True), groups.std((2, 3, 4), keepdim=True, correction=0)
    normed = ((groups - mean) / (deviation**2 + 1e-5).sqrt()).reshape(h.shape)
    gaps = out - normed
    for row in range(len(h)):  # out is affine in the normed canvas, channel by channel
        for channel in range(16):
            x, y = normed[row, channel].flatten(), out[row, channel].double().flatten()
            scale, shift = np.polyfit(x, y, 1)
            assert np.allclose(scale * x + shift, y, atol=1e-4)
    assert gaps.abs().max() > 0.1


def test_what_a_place_sees_are_waves_of_its_coordinates(model):
    network = model.module
    placed = torch.tensor([[0.25, -0.5, 0.1, 0.7]])
    features = network._coordinates(placed)[0].numpy()
    line = (np.arange(16) + 0.5) / 8 - 1
    y, x = np.meshgrid(line, line, indexing="ij")
    near = np.clip((x - 0.25) / 0.5, -1, 1), np.clip((y + 0.5) / 0.5, -1, 1)
    far = x + 0.1, y + 0.7
    expected = []
    for (u, v), base in ((near, 0.5), (far, 2.0)):
        angles = [np.pi * base * 2**k for k in range(3)]
        expected += [f(a * w) for a in angles for w in (u, v, u + v, u - v) for f in (np.sin, np.cos)]
    assert len(features) == len(expected)
    for wave in expected:
        assert np.abs(features - wave).max((1, 2)).min() < 1e-5


def test_strength_0_is_the_untouched_generator(model):
    changes = {"*norm*": lambda h: 3 * h + 1}
    plain = pixels(model)
    with intervene(model, changes, strength=0.0):
        assert torch.equal(pixels(model), plain)
    with intervene(model, changes):
        assert (pixels(model) - plain).abs().max() > 1e-2
    with intervene(model, changes, strength=torch.tensor([0.0, 1, 0, 1, 0])):
        mixed = pixels(model)
    assert torch.equal(mixed[::2], plain[::2])
    assert torch.equal(pixels(model), plain)


def test_gradients_reach_a_map_at_every_norm(model):
    network = OneStepGenerator(model.module.config).double().eval()
    network.load_state_dict({name: value.double() for name, value in model.module.state_dict().items()})
    (batch,) = prompt_batches(Model(network, model.tokenizer, ""), PROMPTS)
    for site in resolve(network, "*norm*"):
        shift = torch.zeros((), dtype=torch.float64, requires_grad=True)

        def loss(shift, name=site.name):
            with intervene(network, {name: lambda h: h + shift}):
                return network(**batch).square().sum()

        (slope,) = torch.autograd.grad(loss(shift), shift)
        with torch.no_grad():
            secant = (loss(shift + 1e-5) - loss(shift - 1e-5)) / 2e-5
        assert slope == pytest.approx(float(secant), rel=1e-5)
        assert slope != 0


def test_pictures_of_pixels():
    values = torch.tensor([0.0, 0.2, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 4)
    (picture,) = as_pictures(values)
    assert picture.size == (4, 2)
    assert picture.getpixel((3, 1)) == (0, 51, 255)


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        (
            ["red", "reed circle"],
            {},
            r"prompt 1: got the word 'reed', expected words of its vocabulary; try 'red'",
        ),
        ("red", {}, r"got one string, expected a list of prompts; try \[prompt\]"),
        (["red", " "], {}, "got the prompt ' ', which has no token, expected at least one token"),
        (["red", 3], {}, "prompt 1: got a int, expected a text"),
        (None, {}, "got a NoneType, expected a list of prompts"),
        (["red"], {"batch_size": 0}, "batch_size: got 0, expected at least 1"),
        (["red"], {"temperature": 0.5}, "temperature: got 0.5, expected 0"),
    ],
)
def test_prompts_that_it_cannot_paint_are_refused(model, prompts, settings, message):
    with pytest.raises(ModelError, match=message):
        model.generate(prompts, **settings)


def test_no_prompt_is_no_picture(model):
    assert model.generate([]) == []


def test_another_network_is_refused(model):
    other = Model(nn.Linear(2, 2), model.tokenizer, "other")
    with pytest.raises(ModelError, match="got a Linear, expected a OneStepGenerator"):
        prompt_batches(other, ["red"])
    with pytest.raises(ModelError, match="without tokenizer"):
        Model(model.module, None, "bare").generate(["red"])
