"""Gradient products against closed forms and finite differences, and no trace of them afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import unigram as uni
import worlds
from trimtab.adapt.session import Clock, Session, make_roles
from trimtab.data.stream import MixtureStream
from trimtab.data.tokens import TokenSplit, tokenise
from trimtab.seeds import isolated
from trimtab.train.evaluation import evaluation_rows
from trimtab.train.loop import Loop
from trimtab.train.settings import Fit
from trimtab.train.state import Snapshot
from unigram import Rows, Twin, counts

TRAIN: dict[str, Rows] = {
    "math": [[0, 1, 1, 2], [0, 1, 3], [0, 2, 1, 1, 1, 4], [0, 6, 1], [0, 1, 2]],
    "web": [[0, 5, 5, 6, 5], [0, 4, 5], [0, 0], [0, 5, 2, 5], [0, 6, 6, 6, 6, 1]],
}
EVALUATE: dict[str, Rows] = {
    "math": [[0, 1, 1], [0, 2, 1, 3, 1, 1], [0, 3], [0, 1, 2, 2]],
    "web": [[0, 6, 6, 6], [0, 3, 5], [0, 0, 0, 6], [0, 1], [0, 6, 5]],
    "safety": [[0, 5, 6, 1], [0, 2]],
}
FIT = Fit(steps=20, batch_size=4, lr=0.05, eval_sequences=5, probe_sequences=3, eval_batch_size=2)
ROLES = make_roles(list(TRAIN), ["safety"], ["math"], {"safety": 0.0})


def unigram_session(fit: Fit = FIT, taken: int = 0) -> tuple[Loop, Session]:
    domains = {name: uni.domain(name, train=rows) for name, rows in TRAIN.items()}
    loop = Loop(uni.unigram(), domains, fit, seed=0)
    for _ in range(taken):
        loop.step([0.5, 0.5])
    splits = {name: uni.split(rows) for name, rows in EVALUATE.items()}
    return loop, Session(loop, ROLES, splits, loop.evaluate(splits, 5), Clock())


def next_rows(name: str, taken: int, sequences: int) -> Rows:
    """What a stream of one row at a time gives after as many rows as 2 of each domain per step."""
    stream = MixtureStream({name: len(TRAIN[name])}, 1, seed=0)
    rows = [stream.draw([1.0])[0][1] for _ in range(2 * taken + sequences)]
    return [TRAIN[name][row] for row in rows[2 * taken :]]


@pytest.mark.parametrize("taken", [0, 3])
@pytest.mark.parametrize("sequences", [1, 3, 7])
@pytest.mark.parametrize("micro", [None, 2])
def test_products_are_those_of_the_twin(taken: int, sequences: int, micro: int | None) -> None:
    """The gradient of the unigram loss is the softmax less the shares of the tokens."""
    loop, session = unigram_session(replace(FIT, micro_batch_size=micro), taken)
    found = session.gradients(sequences)
    twin = Twin(lr=0.1)
    twin.theta = loop.parameters["theta"].detach().numpy().copy()
    assert found.evaluate == ROLES.evaluate == ("math", "web", "safety")
    assert found.sequences == sequences
    for i, judged in enumerate(found.evaluate):
        order = evaluation_rows(judged, len(EVALUATE[judged]), sequences)
        evaluation = twin.gradient(counts([EVALUATE[judged][row] for row in order]))
        for j, name in enumerate(TRAIN):
            training = twin.gradient(counts(next_rows(name, taken, sequences)))
            assert found.products[i, j] == pytest.approx(evaluation @ training, abs=1e-12)


def test_only_the_rows_asked_for_are_read() -> None:
    _, session = unigram_session()
    some, every = session.gradients(2, of=["safety", "math"]), session.gradients(2)
    assert some.evaluate == ("safety", "math")
    np.testing.assert_array_equal(some.products, every.products[[2, 0]])


def test_what_gradients_cost_is_booked() -> None:
    """Training rows: 3 of each of 2 domains; evaluation rows: 3, 3 and the 2 that safety has."""
    _, session = unigram_session()
    session.gradients(3)
    assert session.gradient_sequences == 6 + 8
    session.gradients(3, of=["safety"])
    assert session.gradient_sequences == 14 + 6 + 2
    assert (session.probe_steps, session.probe_sequences) == (0, 0)
    assert set(session.clock.seconds) == {"gradients"}


# On a network


def llama_session(taken: int = 0, **options: Any) -> tuple[Loop, Session]:
    model = worlds.model(**options)
    fit = replace(worlds.QUICK, lr=1e-2)
    tokens = {name: tokenise(d, model, seq_len=16) for name, d in worlds.trainable().items()}
    loop = Loop(model, tokens, fit, seed=4)
    for _ in range(taken):
        loop.step([0.5, 0.25, 0.25])
    splits: Mapping[str, TokenSplit] = {name: d.splits["validation"] for name, d in tokens.items()}
    roles = make_roles(list(tokens), [], ["math"], {})
    return loop, Session(loop, roles, splits, loop.evaluate(splits, 8), Clock())


@pytest.mark.parametrize("adapter", [None, {"r": 2}], ids=["full", "LoRA"])
def test_products_say_what_a_small_step_does(adapter: Any) -> None:
    """Central differences of each evaluation loss along each training gradient.

    The network is in float64, but normalises in float32, which bounds how short a step may be.
    """
    loop, session = llama_session(2, dtype=torch.float64, adapter=adapter)
    found, h = session.gradients(4), 1e-3
    base = {name: p.detach().clone() for name, p in loop.parameters.items()}
    for j, name in enumerate(loop.domains):
        down = loop.gradient(loop.splits[name], loop.stream.ahead(name, 4))
        assert len(down) == sum(p.numel() for p in base.values())
        readings = []
        for sign in (1, -1):
            move(loop, base, sign * h * down)
            readings.append(loop.evaluate(session._splits, 4))  # the same 4 rows
        move(loop, base, 0 * down)
        slopes = [(readings[0][i].loss - readings[1][i].loss) / (2 * h) for i in found.evaluate]
        np.testing.assert_allclose(found.products[:, j], slopes, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def move(loop: Loop, base: Mapping[str, torch.Tensor], by: torch.Tensor) -> None:
    parts = by.split([p.numel() for p in base.values()])
    for (name, start), part in zip(base.items(), parts, strict=True):
        loop.parameters[name].copy_(start + part.view_as(start))


def flat(snapshot: Snapshot) -> dict[str, torch.Tensor]:
    moments = {f"{name}/{key}": t for name, state in snapshot.moments.items() for key, t in state.items()}
    return {**snapshot.parameters, **moments, **snapshot.rng}


def assert_same_state(loop: Loop, before: Snapshot) -> None:
    after = loop.snapshot()
    assert flat(after).keys() == flat(before).keys()
    assert all(torch.equal(tensor, flat(before)[name]) for name, tensor in flat(after).items())
    assert (after.step, after.stream) == (before.step, before.stream)
    assert all(parameter.grad is None for parameter in loop.parameters.values())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("adapter", [None, {"r": 2, "dropout": 0.3}], ids=["full", "LoRA"])
def test_gradients_leave_no_trace(training: bool, adapter: Any) -> None:
    with isolated(1):
        loop, session = llama_session(2, dropout=0.2, adapter=adapter)
        loop.model.module.train(training)
        before = loop.snapshot()
        first = session.gradients(3)
        assert_same_state(loop, before)
        assert loop.model.module.training is training
        np.testing.assert_array_equal(session.gradients(3).products, first.products)
    assert (first.products != 0).all()


def test_an_error_inside_leaves_no_trace() -> None:
    with isolated(1):
        loop, session = llama_session(1, dropout=0.2)
        loop.model.module.train()
        before = loop.snapshot()
        hook = loop.model.module.register_forward_hook(fails_after_noise())
        with pytest.raises(RuntimeError, match="out of memory"):
            session.gradients(3)
        hook.remove()
        assert_same_state(loop, before)
        assert loop.model.module.training


def fails_after_noise() -> Callable[..., None]:
    def hook(*_: object) -> None:
        torch.rand(3)
        raise RuntimeError("out of memory")

    return hook


def test_training_goes_on_as_if_nothing_had_been_asked() -> None:
    snapshots = []
    for times in (0, 2):
        with isolated(1):
            loop, session = llama_session(1, dropout=0.2)
            for _ in range(times):
                session.gradients(5)
            for _ in range(3):
                loop.step([0.2, 0.2, 0.6])
            snapshots.append(flat(loop.snapshot()))
    assert all(torch.equal(tensor, snapshots[1][name]) for name, tensor in snapshots[0].items())


def test_gradients_of_a_model_in_half_precision_are_summed_in_float32() -> None:
    loop, _ = llama_session(dtype=torch.bfloat16)
    assert loop.gradient(loop.splits["math"], [0, 1, 2, 3, 4]).dtype == torch.float32
