from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from steerings import random_steering
from tiny_models import build, tokenizer
from trimtab import load
from trimtab.errors import ModelError
from trimtab.steer.strength import curve_texts, strength_curve

SOURCE, TARGET, NEUTRAL = ["abc", "abcd e", "b"], ["xyz", "zy"], ["hello", "world!"]


@pytest.fixture
def model():
    return load(build("llama"), tokenizer=tokenizer())


def one_by_one(model, texts):
    """Log probability and number of scored tokens of each text, without batches."""
    found = []
    for text in texts:
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            logp = model.module(input_ids=ids).logits.double().log_softmax(-1)[0, :-1]
        found.append((float(logp.gather(1, ids[0, 1:, None]).sum()), ids.shape[1] - 1))
    return np.array(found).T


def test_it_measures_what_its_columns_say(model):
    steering = random_steering(model.module, "llama", "residual")
    curve = strength_curve(
        steering, model, source=SOURCE, target=TARGET, neutral=NEUTRAL, strengths=(0, 0.5, 1)
    )
    assert list(curve["strength"]) == [0, 0.5, 1]
    before = {name: one_by_one(model, texts) for name, texts in (("source", SOURCE), ("target", TARGET))}
    for row in curve.itertuples():
        with steering.on(model, row.strength):
            after = {
                name: one_by_one(model, texts) for name, texts in (("source", SOURCE), ("target", TARGET))
            }
        gained = {name: (after[name][0] - before[name][0]).sum() / after[name][1].sum() for name in after}
        assert row.lean == pytest.approx(gained["target"] - gained["source"], abs=1e-4)
        for name in after:
            assert getattr(row, f"{name}_loss") == pytest.approx(
                -after[name][0].sum() / after[name][1].sum(), rel=1e-4
            )
        assert row.lean_low <= row.lean <= row.lean_high


def test_at_strength_zero_nothing_moves_and_kl_grows_from_there(model):
    steering = random_steering(model.module, "llama", "residual")
    curve = strength_curve(steering, model, source=SOURCE, target=TARGET, neutral=NEUTRAL)
    assert (curve.loc[0, ["lean", "lean_low", "lean_high", "kl", "kl_low", "kl_high"]] == 0).all()
    assert (curve["kl"].iloc[1:] > 0).all()


def test_swapping_the_sides_turns_the_lean_round(model):
    steering = random_steering(model.module, "llama", "residual")
    one = strength_curve(steering, model, source=SOURCE, target=TARGET, strengths=(1.0,))
    two = strength_curve(steering, model, source=TARGET, target=SOURCE, strengths=(1.0,))
    assert one["lean"][0] == pytest.approx(-two["lean"][0], abs=1e-9)
    assert one["kl"].isna().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": ["one"]}, "source: got 1 texts, expected at least two"),
        ({"target": []}, "target: got 0 texts"),
        ({"strengths": (0.0, 2.0)}, "strength: got 2.0"),
    ],
)
def test_what_cannot_be_measured_is_refused(model, changes, message):
    steering = random_steering(model.module, "llama", "residual")
    with pytest.raises(ModelError, match=message):
        strength_curve(steering, model, **{"source": SOURCE, "target": TARGET, **changes})


@pytest.mark.parametrize("part", [slice(None), slice(0, None, 2), slice(1, None, 2)])
def test_a_part_of_the_texts_has_the_curve_of_those_texts_alone(model, part):
    steering = random_steering(model.module, "llama", "residual")
    texts = {
        "source": ["abc", "abcd e", "bd", "abe"],
        "target": ["xyz", "zy", "y", "xx y"],
        "neutral": NEUTRAL * 2,
    }
    measured = curve_texts(steering, model, texts, (0.0, 1.0))
    alone = {name: side[part] for name, side in texts.items()}
    expected = strength_curve(steering, model, strengths=(0.0, 1.0), **alone)
    pd.testing.assert_frame_equal(measured.curve(part), expected, rtol=1e-5, atol=1e-6)
    counts = {name: sum(len(text) > 1 or name == "neutral" for text in side) for name, side in alone.items()}
    assert measured.counts(part) == counts
