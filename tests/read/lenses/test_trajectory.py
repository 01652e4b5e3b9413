"""The trajectory of a prompt against the lens state by state, its table and its figure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pictured
from lens_worlds import decoder, texts
from trimtab.errors import ModelError
from trimtab.models.load import load
from trimtab.read.lenses.jacobian import JacobianLens
from trimtab.read.lenses.trajectory import trajectory
from trimtab.report.figures import to_svg


def test_it_is_what_the_lens_says_at_the_last_token():
    model = decoder("gemma2")
    lens = JacobianLens.fit(model, texts(4))
    found = trajectory(model, "abc d", lens, top=3)
    ids = model.need_tokenizer()("abc d", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model.module(input_ids=ids, output_hidden_states=True)
        own = out.logits[0, -1].log_softmax(-1)
        first = lens.log_probabilities(out.hidden_states[0][0, -1], 0)
    np.testing.assert_allclose(found.log_probabilities[-1], own.topk(3).values, atol=1e-5)
    np.testing.assert_allclose(found.log_probabilities[0], first.topk(3).values, atol=1e-5)
    np.testing.assert_allclose(found.final[0], first[own.topk(3).indices], atol=1e-5)
    assert found.tokens[-1].tolist() == own.topk(3).indices.tolist()
    assert found.words[-1][0] == model.need_tokenizer().decode([found.tokens[-1, 0]])
    assert repr(found) == "LensTrajectory(jacobian lens, 3 states of 'abc d')"


def test_its_table_and_its_figure():
    found = trajectory(decoder(), "ab", top=2)
    table = found.to_frame()
    assert list(table) == ["state", "rank", "token", "text", "log_probability", "final_log_probability"]
    assert table.state.tolist() == [0, 0, 1, 1, 2, 2]
    last = table[table.state == 2]
    np.testing.assert_array_equal(last.log_probability, last.final_log_probability)
    drawing = to_svg(found.figure())
    assert "Most likely tokens by layer (logit lens)" in drawing
    assert "block 2" in drawing
    assert "<table" in found._repr_html_()


def test_of_a_prompt_about_a_picture():
    model = load(pictured.llava(), tokenizer=pictured.words(), processor=pictured.clip_processor())
    one, other = (trajectory(model, "a cat", image=image) for image in pictured.random_pictures(2))
    assert np.abs(one.log_probabilities - other.log_probabilities).max() > 1e-4


def test_bad_input_is_refused():
    with pytest.raises(ModelError, match="top: got 65, expected from 1 to 64, the vocabulary"):
        trajectory(decoder(), "ab", top=65)
    with pytest.raises(ModelError, match="the lens 'tuned' alone"):
        trajectory(decoder(), "ab", "tuned")
