"""Untrained models: other weights from the seed alone, and a caller's model and random state that are kept."""

from __future__ import annotations

import torch

from tiny_models import build, tokenizer
from trimtab import load
from trimtab.models.untrained import untrained


def test_fresh_weights_are_others_and_the_callers_are_kept() -> None:
    model = load(build("llama"), tokenizer=tokenizer())
    before, state = model.fingerprint(), torch.random.get_rng_state()
    first, again, other = (untrained(model, seed) for seed in (0, 0, 1))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.tokenizer is model.tokenizer
    assert first.fingerprint() == again.fingerprint()
    assert len({before, first.fingerprint(), other.fingerprint()}) == 3
    assert model.fingerprint() == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_module_that_transformers_cannot_build_has_none() -> None:
    assert untrained(load(torch.nn.Linear(2, 2)), 0) is None
