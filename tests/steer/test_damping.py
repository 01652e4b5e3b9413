from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from behaviours import sides
from tiny_models import build, tokenizer
from trimtab import AurA, load
from trimtab.models.sites import resolve
from trimtab.steer.estimators import damping_map
from trimtab.steer.samples import prepare, samples


def test_weights_are_one_minus_the_gini_of_what_ranks_the_source_higher():
    draw = torch.Generator().manual_seed(0)
    source, target = torch.randn(9, 30, generator=draw), torch.randn(7, 30, generator=draw) - 0.3
    found = damping_map(source, target)
    labels = np.repeat([1, 0], [9, 7])
    areas = np.array([roc_auc_score(labels, column) for column in torch.cat([source, target]).T])
    expected = np.where(areas > 0.5, 1 - 2 * (areas - 0.5), 1)
    np.testing.assert_allclose(found.weight, expected, rtol=1e-6)
    assert not found.shift.any()
    assert (found.weight < 1).any()
    assert (found.weight == 1).any()


def test_perfect_detectors_are_silenced_and_those_of_the_target_left_alone():
    found = damping_map(torch.tensor([[3.0, 0.0, 1.0], [4.0, 0.5, 1.0]]), torch.tensor([[1.0, 2.0, 1.0]]))
    assert found.weight.tolist() == [0.0, 1.0, 1.0]


def test_responses_are_the_largest_over_tokens():
    model, (source, target) = load(build("llama"), tokenizer=tokenizer()), sides(8, 6)
    steering = AurA().fit(model, source, target)
    given = prepare(model, source, target, batch_size=3, max_tokens=None)
    before, wanted = (samples(model, side, resolve(model, "mlp_out"), "max") for side in given)
    assert list(steering.maps) == [f"model.layers.{k}.mlp.down_proj:out" for k in (0, 1)]
    for site, (weight, _) in steering.maps.items():
        torch.testing.assert_close(weight, damping_map(before[site], wanted[site]).weight)
