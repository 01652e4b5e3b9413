"""Draws, targets and the gradient of a training step, against sums written out."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import tiny_generator as tiny
from behaviours import texts
from tiny_generator import SMALL
from tiny_models import build, tokenizer
from trimtab import load
from trimtab.errors import DataError, ModelError
from trimtab.models.sites import resolve
from trimtab.numerics.transport import wasserstein_1d
from trimtab.steer.hypertransport.hypertransport import HyperTransport, _embedded
from trimtab.steer.hypertransport.network import HyperNetwork
from trimtab.steer.hypertransport.training import (
    AVERAGING,
    LAST_RATE,
    Draws,
    KeptTraining,
    Prompts,
    prompt_examples,
)
from trimtab.steer.samples import prepare, running, samples

PROMPTS = {"a": ["x", "y", "z", "w"], "b": ["p", "q"], "c": ["r", "s", "t"]}


def draws(how="any", examples=32, seed=0):
    return Draws((5, 3, 4), (4, 2, 3), 10, examples, how, seed)


def test_every_pass_has_each_concept_once_in_an_order_of_its_own():
    turns = [draws().at(turn).concept for turn in range(30)]
    passes = [turns[start : start + 3] for start in range(0, 30, 3)]
    assert all(sorted(one) == [0, 1, 2] for one in passes)
    assert len(set(map(tuple, passes))) > 1


def test_a_draw_is_of_different_prompts_and_depends_on_the_seed_and_the_turn_alone():
    for turn in range(60):
        one, again = draws().at(turn), draws().at(turn)
        n = (4, 2, 3)[one.concept]
        assert len(set(one.target)) == len(one.target) == 2
        assert max(one.target) < n
        assert 1 <= len(one.condition) <= max(1, n // 2)
        assert max(one.condition) < n + 1
        assert len(set(one.source)) == 10
        assert all(
            np.array_equal(getattr(one, key), getattr(again, key))
            for key in ("condition", "target", "source")
        )
    assert any(draws().at(turn).concept != draws(seed=1).at(turn).concept for turn in range(9))


def test_condition_and_target_are_independent_draws():
    """Of 4 prompts 2 and 2 are drawn: their overlap is hypergeometric, 1 on average, within four standard errors."""
    both = Draws((4, 4), (4, 4), 4, 32, "all", 0)
    overlaps = [len(set(one.condition) & set(one.target)) for one in map(both.at, range(2000))]
    assert np.mean(overlaps) == pytest.approx(1.0, abs=4 * math.sqrt(1 / 3 / 2000))
    counts = np.bincount([len(draws("any").at(turn).condition) for turn in range(600)])
    assert set(np.nonzero(counts)[0]) == {1, 2}


def training(**more):
    generator, settings = (
        tiny.handle(),
        HyperTransport(sites="norm", encoder=tiny.encoder(), sizes=SMALL, **more),
    )
    prompts = Prompts.checked(tiny.concepts(), tiny.source())
    settled = settings.settled(len(prompts.names))
    embeddings = _embedded(tiny.encoder(), prompts, with_names=True)
    centre = torch.full((16,), 0.01)
    return settled._training(generator, prompts, embeddings, centre), prompts


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("how", ["scale-free", "paper"])
def test_the_loss_is_the_sum_over_units_of_the_distance_and_not_of_its_power(p, how):
    given, prompts = training(p=p, normalisation=how, steps=3)
    network = HyperNetwork({"norm:out": tiny.HIDDEN}, 16, SMALL)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        network.head[1].weight.normal_(std=0.1)
    with running(given.problem.model, grad=True):
        loss = given._slope(network, 0, [])
    drawn, site = given.draws.at(0), resolve(given.problem.model, "norm")[0]
    source = given._source(drawn, 0).batches[0]
    module = given.problem.model.module
    hidden = module.words(source["counts"]) + 0.3 * source["noise"]
    rows = given.embeddings[drawn.concept][torch.from_numpy(drawn.condition)]
    condition = torch.nn.functional.normalize(rows.mean(0) - given.centre, dim=0)
    change, move = network(condition[None])[site.name][0]
    scale = given.problem.scales[site.name]
    steered = scale.centre + (1 + change) * (hidden - scale.centre) + scale.spread * move
    place = drawn.concept
    batch = given.problem.model.prompt_batches(
        list(prompts.of[place]), seed=_target_seed(prompts.names[place]), batch_size=32
    )[0]
    wanted = (module.words(batch["counts"]) + 0.3 * batch["noise"])[torch.from_numpy(drawn.target)]
    expected = (wasserstein_1d(steered.T, wanted.T, p=p) / scale.spread**p) ** (1 / p)
    assert loss == pytest.approx(float(expected.detach().sum()), rel=1e-5)
    slopes = torch.autograd.grad(expected.sum(), list(network.parameters()))
    for mine, other in zip(network.parameters(), slopes, strict=True):
        torch.testing.assert_close(mine.grad, other, rtol=1e-3, atol=1e-5)


def _target_seed(name):
    from trimtab.seeds import derive

    return derive(0, "target", name)


def test_prompts_in_several_batches_give_the_same_gradient():
    found = []
    for size in (32, 5):
        given, _ = training(steps=2, batch_size=size)
        network = HyperNetwork({"norm:out": tiny.HIDDEN}, 16, SMALL)
        with running(given.problem.model, grad=True):
            loss = given._slope(network, 0, [])
        found.append((loss, network.head[1].weight.grad.clone()))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-5)


def test_several_concepts_a_step_average_their_gradients():
    given, _ = training(steps=2)
    grads, losses = [], []
    for turn in range(2):
        network = HyperNetwork({"norm:out": tiny.HIDDEN}, 16, SMALL)
        with running(given.problem.model, grad=True):
            losses.append(given._slope(network, turn, []))
        grads.append(network.head[1].weight.grad.clone())
    both, _ = training(steps=1, concepts_per_step=2)
    network = HyperNetwork({"norm:out": tiny.HIDDEN}, 16, SMALL)
    with running(both.problem.model, grad=True):
        loss = both._slope(network, 0, [])
    assert loss == pytest.approx(sum(losses) / 2, rel=1e-6)
    torch.testing.assert_close(network.head[1].weight.grad, sum(grads) / 2)


def test_the_rate_is_a_cosine_to_a_thousandth():
    given, _ = training(steps=100, lr=0.5)
    assert given.rate(0) == 0.5
    assert given.rate(50) == pytest.approx(0.5 * (1 + LAST_RATE) / 2)
    assert given.rate(100) == pytest.approx(0.5 * LAST_RATE)


def test_the_weights_left_are_the_running_average():
    given, _ = training(steps=3)
    network = HyperNetwork({"norm:out": tiny.HIDDEN}, 16, SMALL)
    seen, bias = [], network.head[1].bias
    expected = bias.detach().clone()
    given.run(network, KeptTraining(None, {}), lambda *_: seen.append(bias.detach().clone()))
    for value in seen:
        expected = AVERAGING * expected + (1 - AVERAGING) * value
    torch.testing.assert_close(bias.detach(), expected, rtol=1e-4, atol=1e-9)
    assert not torch.equal(seen[-1], bias)


def test_targets_are_those_of_the_untouched_generator_kept_or_computed_anew():
    given, prompts = training(steps=2)
    rows = np.array([3, 0])
    kept = given.targets.of(1, rows)["norm:out"]
    assert list(given.targets.kept) == [1]
    forgetful = dataclasses.replace(given.targets, kept={}, limit=0)
    anew = forgetful.of(1, rows)["norm:out"]
    assert forgetful.kept == {}
    assert torch.equal(kept, anew)
    examples = prompt_examples(
        given.problem.model, "t", prompts.of[1], seed=_target_seed(prompts.names[1]), batch_size=32
    )
    whole = samples(given.problem.model, examples, resolve(given.problem.model, "norm"), "mean")["norm:out"]
    assert torch.equal(kept, whole[[3, 0]])


def test_prompts_of_a_language_model_are_batched_as_its_texts_are():
    model, given = load(build("llama"), tokenizer=tokenizer()), texts("abc", 5)
    examples = prompt_examples(model, "source", given, seed=0, batch_size=2)
    expected, _ = prepare(model, given, given, batch_size=2, max_tokens=None)
    assert len(examples.batches) == 3
    assert examples.fingerprint == expected.fingerprint


def test_a_model_that_reads_no_prompts_is_refused():
    message = (
        "got a TinyGenerator that reads no prompts, expected a language model or a generator of pictures"
    )
    with pytest.raises(ModelError, match=message):
        prompt_examples(tiny.TinyGenerator(), "source", ["red", "blue"], seed=0, batch_size=2)
    with pytest.raises(ModelError, match="got a Model that reads no prompts"):
        prompt_examples(load(build("llama")), "source", ["red", "blue"], seed=0, batch_size=2)


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        (["a", "b"], r"concepts: got a list, expected a mapping of names"),
        ({"a": ["x", "y"]}, r"concepts: got 1 concept, expected at least 2; try LinEAS for one"),
        ({}, r"concepts: got 0 concepts, expected at least 2"),
        (PROMPTS | {" ": ["m", "n"]}, r"concepts: got the name ' ', expected words"),
        (
            PROMPTS | {"d": []},
            r"concept 'd': got 0 different prompts, expected at least 2; try another prompt: two independent draws",
        ),
        (PROMPTS | {"d": ["m"]}, r"concept 'd': got 1 different prompt, expected at least 2"),
        (PROMPTS | {"d": ["m", "m"]}, r"concept 'd': got 1 different prompt, expected at least 2"),
        (PROMPTS | {"d": ["m", " "]}, r"concept 'd': got the blank prompt ' ' at place 1, expected a text"),
        (PROMPTS | {"d": "mn"}, r"concept 'd': got a str, expected a list of prompts; try \[...\]"),
        (PROMPTS | {"d": ["m", 3]}, r"concept 'd': got a int at place 1, expected a text"),
        (
            PROMPTS | {"d": ["m", "\ud800"]},
            r"concept 'd': got half a character at place 1, expected whole ones",
        ),
        (
            PROMPTS | {"d": ["q", "p"]},
            r"concepts: got 'b' and 'd' with the same prompts, expected concepts that differ",
        ),
    ],
)
def test_concepts_that_cannot_be_trained_on_are_refused(concepts, message):
    with pytest.raises(DataError, match=message):
        Prompts.checked(concepts, ["m", "n"])


def test_generic_prompts_are_checked_too():
    with pytest.raises(
        DataError, match="source: got 1 different prompt, expected at least 2; try more generic"
    ):
        Prompts.checked(PROMPTS, ["m"])
    with pytest.raises(DataError, match="source: got a str, expected a list of prompts"):
        Prompts.checked(PROMPTS, "m")
