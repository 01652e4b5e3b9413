"""Lenses against the model's own distribution, and the KL table against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pictured
import tiny_models
from lens_worlds import decoder, texts
from trimtab.errors import ModelError, ShapeError
from trimtab.models.load import load
from trimtab.models.readout import readout_of
from trimtab.numerics.bootstrap import Resampling
from trimtab.read.lenses.choice import lens_of
from trimtab.read.lenses.jacobian import JacobianLens
from trimtab.read.lenses.lens import LogitLens, Reading, lens_kl, text_states
from trimtab.read.lenses.tuned import Recipe, TunedLens

QUICK = Resampling(n_boot=50)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_at_the_last_state_every_lens_is_the_model(name):
    model, given = decoder(name), texts(6)
    tuned = TunedLens.fit(model, given, recipe=Recipe(steps=2, tokens=32))
    lenses = (LogitLens(model), tuned, JacobianLens.fit(model, given))
    (states,) = text_states(model, tuned.readout, given[:1], Reading())
    ids = model.need_tokenizer()(given[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        own = model.module(input_ids=ids).logits[0].log_softmax(-1)
        for lens in lenses:
            for last in (-1, lens.states - 1):
                torch.testing.assert_close(lens.log_probabilities(states.hidden[-1], last), own)


def test_states_do_not_depend_on_the_batch():
    model, given = decoder("gpt2"), texts(7)
    readout = readout_of(model)

    def read(batch_size: int, **more):
        parts = list(text_states(model, readout, given, Reading(batch_size=batch_size, **more)))
        hidden = [torch.cat(each) for each in zip(*(one.hidden for one in parts), strict=True)]
        return hidden, torch.cat([one.texts for one in parts])

    one, whole = read(1), read(7)
    assert torch.equal(one[1], whole[1])
    assert one[1].bincount().tolist() == [len(text) for text in given]
    for first, second in zip(one[0], whole[0], strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)
    last = read(3, last=True)
    ends = one[1].bincount().cumsum(0) - 1
    assert last[1].tolist() == list(range(7))
    torch.testing.assert_close(last[0][1], one[0][1][ends], atol=1e-5, rtol=1e-4)


def test_texts_about_pictures_leave_the_pictures_out():
    model = load(pictured.llava(), tokenizer=pictured.words(), processor=pictured.clip_processor())
    images, given = pictured.random_pictures(3), ["a cat", "b", "some words"]
    readout = readout_of(model)
    found = list(text_states(model, readout, given, Reading(images=images, batch_size=2)))
    lengths = torch.cat([one.texts for one in found]).bincount()
    plain = list(text_states(model, readout, given, Reading()))
    shift = lengths - torch.cat([one.texts for one in plain]).bincount()
    assert shift.unique().numel() == 1  # what stands around a picture, the same for each
    lens = TunedLens.fit(model, given, images=images, recipe=Recipe(steps=1, tokens=8))
    assert np.isfinite(lens_kl(lens, model, given, images=images, resampling=QUICK).kl_nats).all()


def test_kl_is_the_mean_over_tokens_by_hand():
    model, given = decoder("qwen3"), texts(5)
    lens = TunedLens.fit(model, texts(20, seed=1), recipe=Recipe(steps=3, tokens=64))
    table = lens_kl(lens, model, given, batch_size=2, resampling=QUICK)
    sums, tokens = np.zeros((2, 3)), 0
    for text in given:
        ids = model.need_tokenizer()(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out = model.module(input_ids=ids, output_hidden_states=True)
            p = out.logits[0].log_softmax(-1)
            for state, hidden in enumerate(out.hidden_states[:-1]):
                h = hidden[0]
                mapped = h + torch.nn.functional.linear(h, lens.weight[state], lens.bias[state])
                for row, one in enumerate((mapped, h)):
                    q = model.module.lm_head(model.module.model.norm(one)).log_softmax(-1)
                    sums[row, state] += float((p.exp() * (p - q)).sum())
        tokens += ids.shape[1]
    assert (table.tokens == tokens).all()
    np.testing.assert_allclose(table.kl_nats, sums[0] / tokens, atol=1e-5)
    np.testing.assert_allclose(table.logit_kl_nats, sums[1] / tokens, atol=1e-5)
    np.testing.assert_allclose(table.gain_nats, (sums[1] - sums[0]) / tokens, atol=1e-5)
    assert (table.gain_low[:2] <= table.gain_nats[:2]).all()
    assert (table.gain_nats[:2] <= table.gain_high[:2]).all()
    assert table.iloc[-1][["kl_nats", "kl_high"]].tolist() == [0, 0]


def test_one_text_has_no_interval():
    model = decoder()
    table = lens_kl(LogitLens(model), model, texts(1), resampling=QUICK)
    assert table.kl_low.isna().all()
    assert (table.gain_nats == 0).all()


def test_depths_outside_the_model_are_refused():
    lens = LogitLens(decoder())
    with pytest.raises(ShapeError, match="got state 3, expected one of 3, from -3 to 2"):
        lens.log_probabilities(torch.zeros(1, 16), 3)
    with pytest.raises(ModelError, match="got a lens of 3 states, expected 4, as the model has"):
        lens_kl(lens, decoder(num_hidden_layers=3), texts(2))
    with pytest.raises(ModelError, match="got no texts, expected at least one"):
        lens_kl(lens, decoder(), [])
    for kind in (TunedLens, JacobianLens):
        with pytest.raises(ModelError, match="images: got 1 images for 2 texts, expected a picture for each"):
            kind.fit(decoder(), texts(2), images=[None])
    with pytest.raises(ModelError, match="got max_tokens beside images"):
        next(text_states(decoder(), lens.readout, ["a"], Reading(images=[None], max_tokens=3)))


def test_a_lens_by_name_by_folder_or_as_it_is(tmp_path):
    model, given = decoder(), texts(8)
    assert lens_of(None, model).name == lens_of("logit", model).name == "logit"
    jacobian = lens_of("jacobian", model, given)
    assert (jacobian.name, jacobian.made_by["texts"]) == ("jacobian", 8)
    assert lens_of(jacobian, model) is jacobian
    jacobian.save_pretrained(tmp_path / "lens")
    assert torch.equal(lens_of(tmp_path / "lens", model).weight, jacobian.weight)
    tuned = TunedLens.fit(model, given, recipe=Recipe(steps=1, tokens=8))
    tuned.save_pretrained(tmp_path / "lens")
    assert lens_of(str(tmp_path / "lens"), model).name == "tuned"


def test_choices_that_are_none(tmp_path):
    model = decoder()
    for source, message in (
        ("tuned", "got the lens 'tuned' alone, expected texts to fit it to"),
        ("tunde", "got the lens 'tunde', expected one of .*; try 'tuned'"),
        (tmp_path, "without lens_config.json, expected a folder that a lens's save_pretrained wrote"),
        (LogitLens(decoder(num_hidden_layers=1)), "got a LogitLens for another depth, expected a lens of 3"),
    ):
        with pytest.raises(ModelError, match=message):
            lens_of(source, model)
    with pytest.raises(ModelError, match="without an unembedding"):
        LogitLens(load(tiny_models.build("bert"), tokenizer=tiny_models.tokenizer()))
