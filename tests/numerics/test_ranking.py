from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from trimtab.errors import ShapeError
from trimtab.numerics.ranking import auroc


def drawn(units, samples, levels, seed=0):
    """Scores with many ties where there are few levels, and labels of both classes."""
    draw = np.random.default_rng(seed)
    labels = np.r_[0, 1, draw.integers(0, 2, samples - 2)]
    return draw.integers(0, levels, (units, samples)).astype(float) + 0.1 * labels, labels


@pytest.mark.parametrize("levels", [2, 5, 10**6])
@pytest.mark.parametrize("samples", [2, 7, 64])
def test_it_is_that_of_scikit_learn_with_and_without_ties(levels, samples):
    scores, labels = drawn(20, samples, levels)
    expected = [roc_auc_score(labels, row) for row in scores]
    found = auroc(torch.from_numpy(scores), torch.from_numpy(labels))
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


def test_it_is_the_share_of_pairs_in_order():
    scores, labels = (torch.from_numpy(part) for part in drawn(6, 30, 4, seed=1))
    gaps = scores[:, labels == 1, None] - scores[:, None, labels == 0]
    by_hand = ((gaps > 0).double() + (gaps == 0).double() / 2).mean((1, 2))
    torch.testing.assert_close(auroc(scores, labels), by_hand, rtol=0, atol=1e-12)


@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=20))
def test_increasing_functions_change_nothing_and_a_change_of_sign_mirrors(pairs):
    scores, labels = (torch.tensor(part, dtype=torch.float64) for part in zip(*pairs, strict=True))
    plain = auroc(scores, labels)
    torch.testing.assert_close(auroc(scores.exp(), labels), plain, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(auroc(-scores, labels), 1 - plain, equal_nan=True, rtol=0, atol=1e-12)
    torch.testing.assert_close(auroc(scores, 1 - labels), 1 - plain, equal_nan=True, rtol=0, atol=1e-12)


def test_a_missing_class_and_nan_scores_have_no_answer():
    scores = torch.tensor([[1.0, 2.0, 3.0], [1.0, torch.nan, 3.0]])
    assert auroc(scores, torch.ones(3)).isnan().all()
    assert auroc(scores, torch.tensor([0, 0, 1])).isnan().tolist() == [False, True]


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"got scores of shape \(2, 3\) and labels of shape \(2,\)"):
        auroc(torch.zeros(2, 3), torch.zeros(2))
