"""Ridge regression against scikit-learn and brute force; mean, nearest, and refinement."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

import tiny_generator as tiny
from trimtab import LinEAS, MeanAcT, Steering
from trimtab.errors import ConfigError, DataError, ModelError, ShapeError
from trimtab.steer.hypertransport.rivals import ConceptMaps, concept_steerings, leave_one_out, refine, ridge
from trimtab.steer.maps import Base

SIZES = st.tuples(st.integers(3, 9), st.integers(1, 12), st.integers(1, 4))


def drawn(n, e, q, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, e, generator=draw).double() + 3, torch.randn(n, q, generator=draw).double() - 2


@given(SIZES, st.sampled_from([1e-3, 0.3, 10.0]), st.integers(0, 3))
def test_ridge_is_that_of_scikit_learn(sizes, alpha, seed):
    x, y = drawn(*sizes, seed)
    coefficients, intercept = ridge(x, y, alpha)
    other = Ridge(alpha=alpha, solver="svd").fit(x.numpy(), y.numpy())
    torch.testing.assert_close(
        coefficients.T, torch.from_numpy(other.coef_.reshape(y.shape[1], -1)), rtol=1e-7, atol=1e-9
    )
    torch.testing.assert_close(intercept, torch.as_tensor(other.intercept_).reshape(-1), rtol=1e-7, atol=1e-9)


@given(SIZES, st.sampled_from([1e-3, 0.3, 10.0]), st.integers(0, 3))
def test_leaving_one_out_is_fitting_all_the_others(sizes, alpha, seed):
    x, y = drawn(*sizes, seed)
    expected = []
    for place in range(len(x)):
        others = [k for k in range(len(x)) if k != place]
        coefficients, intercept = ridge(x[others], y[others], alpha)
        expected.append(y[place] - x[place] @ coefficients - intercept)
    torch.testing.assert_close(leave_one_out(x, y, alpha), torch.stack(expected), rtol=1e-6, atol=1e-8)


def steering(row, width=3, fingerprint="0"):
    weight, shift = 1 + row[:width], row[width : 2 * width]
    return Steering({"a:out": (weight, shift)}, Base("m", {"a": fingerprint}), {"estimator": "Planted"})


def planted(n=12, noise=0.0):
    """Maps that are linear in the embedding."""
    x, mixing = torch.nn.functional.normalize(drawn(n, 4, 4)[0] - 3), drawn(4, 6, 6, 1)[0]
    rows = x @ mixing + noise * drawn(n, 6, 6, 2)[0]
    names = tuple(f"c{k}" for k in range(n))
    return ConceptMaps(names, x.float(), tuple(map(steering, rows))), x, rows, mixing


def test_ridge_finds_maps_that_are_linear_in_the_embedding():
    known, _, _, mixing = planted(40)
    fitted = known.ridge()
    assert fitted.alpha == min(fitted.errors, key=lambda one: fitted.errors[one]) == 1e-4
    new = torch.tensor([0.5, 0.5, -0.5, 0.5])
    weight, shift = fitted(new).maps["a:out"]
    expected = new.double() @ mixing
    torch.testing.assert_close(torch.cat([weight - 1, shift]), expected, rtol=1e-2, atol=1e-2)
    assert fitted(new).made_by == {"estimator": "ridge regression", "of": "Planted", "alpha": 1e-4}


def test_the_more_noise_the_larger_the_penalty_that_is_chosen():
    assert planted(noise=0.0)[0].ridge().alpha < planted(noise=30.0)[0].ridge().alpha
    fixed = planted()[0].ridge(0.5)
    assert (fixed.alpha, fixed.errors) == (0.5, {})


def test_nearest_and_mean():
    known, x, rows, _ = planted()
    found = known.nearest(0.9 * x[7].float() + 0.01)
    torch.testing.assert_close(torch.cat([found.maps["a:out"][0] - 1, found.maps["a:out"][1]]), rows[7])
    assert found.made_by["estimator"] == "nearest concept: c7"
    weight, shift = known.mean().maps["a:out"]
    torch.testing.assert_close(torch.cat([weight - 1, shift]), rows.mean(0))
    same = ConceptMaps(("a", "b"), x[:2].float(), (steering(rows[0]),) * 2)
    torch.testing.assert_close(same.ridge()(x[5].float()).maps["a:out"][1], rows[0][3:])


def test_what_does_not_fit_together_is_refused():
    known, x, rows, _ = planted()
    pair = known.steerings[:2]
    with pytest.raises(DataError, match="concepts: got 1, expected at least 2"):
        ConceptMaps(("a",), x[:1], pair[:1])
    with pytest.raises(ShapeError, match=r"got 2 names, embeddings \(3, 4\) and 2 steerings"):
        ConceptMaps(("a", "b"), x[:3], pair)
    with pytest.raises(ModelError, match="concept 'b': got maps at other sites, expected those of 'a'"):
        ConceptMaps(("a", "b"), x[:2], (pair[0], steering(rows[0], 2)))
    with pytest.raises(ModelError, match="concept 'b': got a steering of another model"):
        ConceptMaps(("a", "b"), x[:2], (pair[0], steering(rows[0], fingerprint="1")))
    with pytest.raises(ShapeError, match=r"got an embedding of shape \(3,\), expected \(4,\)"):
        known.nearest(x[0, :3])
    with pytest.raises(ConfigError, match="alpha: got 0, expected a finite number above 0"):
        known.ridge(0)
    with pytest.raises(ConfigError, match="alpha: got nan"):
        leave_one_out(x, rows, float("nan"))


def test_steerings_of_each_concept_are_those_of_its_estimator():
    generator, concepts = tiny.handle(), dict(list(tiny.concepts().items())[:3])
    told = []
    found = concept_steerings(
        MeanAcT("norm", sequential=False),
        generator,
        concepts,
        tiny.source(),
        progress=lambda *now: told.append(now),
    )
    assert list(found) == list(concepts)
    assert told == [(1, 3), (2, 3), (3, 3)]
    red, _ = (found[name].maps["norm:out"][1] for name in list(concepts)[:2])
    words = generator.module.words.weight
    means = [tiny.counts(one).mean(0) for one in (tiny.source(), concepts[next(iter(concepts))])]
    torch.testing.assert_close(red, words.detach() @ (means[1] - means[0]), atol=0.35, rtol=0)


def test_refinement_starts_where_it_is_told_and_brings_the_distance_down():
    generator, concepts = tiny.handle(), tiny.concepts()
    start = concept_steerings(MeanAcT("norm"), generator, dict(list(concepts.items())[:2]), tiny.source())[
        "red cross"
    ]
    none = refine(
        start, generator, tiny.source(), concepts["red cross"], steps=1, estimator=LinEAS(lr=1e-30, p=1.0)
    )
    for mine, other in zip(none.maps["norm:out"], start.maps["norm:out"], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    refined = refine(start, generator, tiny.source(), concepts["red cross"], steps=15).made_by["losses"]
    cold = LinEAS("norm", p=1.0, gamma=0.0, steps=15).fit(
        generator,
        *(
            generator.prompt_batches(one, seed=k, batch_size=64)
            for k, one in enumerate((tiny.source(), concepts["red cross"]))
        ),
    )
    assert refined[-1] < refined[0] < 0.7 * cold.made_by["losses"][0]


def test_a_start_at_other_sites_is_refused():
    generator = tiny.handle()
    start = MeanAcT(["norm", "words"], sequential=False).fit(
        generator, *(generator.prompt_batches(tiny.source(), seed=k, batch_size=64) for k in range(2))
    )
    sides = [generator.prompt_batches(tiny.source(), seed=k, batch_size=64) for k in range(2)]
    with pytest.raises(
        ModelError, match=r"got a start with words:out, expected maps at the sites of this fit"
    ):
        LinEAS("norm", steps=1).fit(generator, *sides, start=start)
    only = Steering({"norm:out": start.maps["norm:out"]}, start.base)
    with pytest.raises(ModelError, match=r"got a start without words:out"):
        LinEAS(["norm", "words"], steps=1).fit(generator, *sides, start=only)
