"""The loop against a twin in NumPy, against itself in other pieces, and against what it must not touch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unigram as uni
import worlds
from trimtab.data.stream import MixtureStream
from trimtab.data.tokens import tokenise
from trimtab.errors import DivergedError
from trimtab.models.load import Model
from trimtab.seeds import isolated
from trimtab.train.evaluation import evaluation_rows
from trimtab.train.loop import Loop
from trimtab.train.settings import Fit
from unigram import Twin, Unigram, counts, row_losses

MATH = [[0, 1, 1, 2], [0, 1, 3], [0, 2, 1, 1, 1, 4], [0, 6, 1]]
WEB = [[0, 5, 5, 6, 5], [0, 4, 5], [0, 0], [0, 5, 2, 5], [0, 6, 6, 6, 6, 1]]
ROWS = {"math": MATH, "web": WEB}
FIT = Fit(steps=10, batch_size=4, lr=0.07, weight_decay=0.03, betas=(0.8, 0.95), clip_norm=None)


def unigram_loop(fit: Fit = FIT, *, seed: int = 3, module: nn.Module | None = None) -> Loop:
    domains = {name: uni.domain(name, train=rows, validation=rows) for name, rows in ROWS.items()}
    return Loop(uni.unigram(module), domains, fit, seed=seed)


def llama_loop(
    fit: Fit = worlds.QUICK, *, names: tuple[str, ...] = ("math", "web"), seed: int = 0, **options: Any
) -> Loop:
    model = worlds.model(**options)
    tokens = {name: tokenise(worlds.domain(name), model, seq_len=fit.seq_len) for name in names}
    return Loop(model, tokens, fit, seed=seed)


def values(loop: Loop) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in loop.parameters.items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a: Mapping[str, Tensor], b: Mapping[str, Tensor], tolerance: float) -> bool:
    return all(torch.allclose(a[name], b[name], rtol=0, atol=tolerance) for name in a)


# Against the twin


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clip_norm": 0.05},
        {"clip_norm": 100.0},
        {"lr_schedule": "cosine", "warmup_steps": 3},
        {"micro_batch_size": 3},
        {"weight_decay": 0.0, "betas": (0.0, 0.5)},
    ],
    ids=str,
)
def test_steps_are_those_of_the_twin(changes: dict[str, Any]) -> None:
    fit = replace(FIT, **changes)
    loop = unigram_loop(fit)
    twin = Twin(lr=fit.lr, betas=fit.betas, weight_decay=fit.weight_decay, clip_norm=fit.clip_norm)
    stream = MixtureStream({name: len(rows) for name, rows in ROWS.items()}, 4, seed=3)
    for step, share in enumerate((0.5, 0.5, 0.9, 0.0, 1.0, 0.3, 0.3)):
        drawn = stream.draw([share, 1 - share])
        stats = loop.step([share, 1 - share])
        loss, norm = twin.step(counts([ROWS[name][row] for name, row in drawn]), fit.lr_at(step))
        assert stats.loss == pytest.approx(loss, abs=1e-12)
        assert stats.grad_norm == pytest.approx(norm, abs=1e-12)
        assert stats.examples == Counter(name for name, _ in drawn)
        np.testing.assert_allclose(loop.parameters["theta"].detach().numpy(), twin.theta, rtol=0, atol=1e-10)
    assert loop.step_count == 7


@pytest.mark.parametrize("micro", [None, 1, 3])
def test_a_step_tells_the_loss_of_each_domain_drawn(micro: int | None) -> None:
    loop = unigram_loop(replace(FIT, micro_batch_size=micro))
    stream = MixtureStream({name: len(rows) for name, rows in ROWS.items()}, 4, seed=3)
    for share in (0.5, 0.25, 1.0, 0.75):
        theta = loop.parameters["theta"].detach().numpy().copy()
        drawn = stream.draw([share, 1 - share])
        stats = loop.step([share, 1 - share])
        assert set(stats.nll) == set(stats.tokens) == {name for name, _ in drawn}
        for name in stats.nll:
            nll, tokens = row_losses(theta, [ROWS[name][row] for domain, row in drawn if domain == name])
            assert stats.nll[name] == pytest.approx(nll.sum(), abs=1e-12)
            assert stats.tokens[name] == tokens.sum()
        assert sum(stats.nll.values()) / sum(stats.tokens.values()) == pytest.approx(stats.loss, abs=1e-12)


def test_readings_are_those_of_the_twin() -> None:
    loop = unigram_loop()
    loop.step([0.5, 0.5])
    theta = loop.parameters["theta"].detach().numpy()
    for limit, batch in ((None, 16), (3, 2), (99, 1)):
        loop.fit = replace(FIT, eval_batch_size=batch)
        read = loop.evaluate(dict(loop.splits), limit)
        for name, rows in ROWS.items():
            nll, tokens = row_losses(theta, [rows[row] for row in evaluation_rows(name, len(rows), limit)])
            np.testing.assert_allclose(read[name].nll, nll, rtol=0, atol=1e-12)
            np.testing.assert_array_equal(read[name].tokens, tokens)


def test_readings_know_the_group_of_each_sequence_else_its_record() -> None:
    loop = unigram_loop(replace(FIT, eval_batch_size=2))
    numbers = np.array([7, 7, 3, 7, 3])
    grouped = replace(loop.splits["web"], groups=numbers)
    read = loop.evaluate({"math": loop.splits["math"], "web": grouped}, 4)
    np.testing.assert_array_equal(read["web"].records, numbers[list(evaluation_rows("web", 5, 4))])
    np.testing.assert_array_equal(read["math"].records, list(evaluation_rows("math", 4, 4)))
    assert (read["web"].units, read["math"].units) == (2, 4)


def test_weights_follow_the_order_of_the_domains() -> None:
    loop = unigram_loop()
    assert loop.domains == ("math", "web")
    assert loop.step([1.0, 0.0]).examples == {"math": 4}


# The same batch in other pieces


@pytest.mark.parametrize("micro", [1, 2, 3])
@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_accumulated_gradients_are_those_of_the_whole_batch(micro: int, packing: Any) -> None:
    fit = replace(worlds.QUICK, packing=packing, clip_norm=0.1)
    whole, pieces = (
        mixed_loop(replace(fit, micro_batch_size=size), dtype=torch.float64) for size in (None, micro)
    )
    for _ in range(3):
        expected, got = whole.step([0.5, 0.5]), pieces.step([0.5, 0.5])
        assert got.loss == pytest.approx(expected.loss, abs=1e-12)
        assert got.grad_norm == pytest.approx(expected.grad_norm, abs=1e-12)
    assert close(values(pieces), values(whole), 1e-10)


RECORDS = {
    "asked": [{"prompt": "e" * n, "completion": "f" * (n % 4 + 1)} for n in range(1, 9)],
    "long": [{"prompt": "c", "completion": "d" * n} for n in range(5, 13)],
}


def mixed_loop(fit: Fit, *, dtype: torch.dtype) -> Loop:
    """Rows of very different lengths, with loss on completions only."""
    model = worlds.model(dtype=dtype)
    domains = {name: worlds.Domain(name, train=records) for name, records in RECORDS.items()}
    tokens = {name: tokenise(d, model, seq_len=16, packing=fit.packing) for name, d in domains.items()}
    return Loop(model, tokens, fit, seed=0)


def row_by_row(model: Model, prompt: str, completion: str) -> tuple[float, int]:
    """Summed loss and number of a completion's tokens and its end, from one unpadded forward pass."""
    ids = [*model.tokenizer(prompt + completion)["input_ids"], model.tokenizer.eos_token_id]
    start = len(model.tokenizer(prompt)["input_ids"])
    with torch.no_grad():
        logits = model.module(input_ids=torch.tensor([ids])).logits[0]
    log_p = torch.log_softmax(logits, -1)
    return -sum(float(log_p[t - 1, ids[t]]) for t in range(start, len(ids))), len(ids) - start


def test_the_loss_of_a_padded_batch_is_weighted_by_completion_tokens() -> None:
    loop = mixed_loop(replace(worlds.QUICK, packing="padded", micro_batch_size=3), dtype=torch.float64)
    stream = MixtureStream({name: len(split) for name, split in loop.splits.items()}, 4, seed=0)
    drawn = [RECORDS[name][row] for name, row in stream.draw([0.5, 0.5])]
    parts = [row_by_row(loop.model, record["prompt"], record["completion"]) for record in drawn]
    expected = sum(nll for nll, _ in parts) / sum(tokens for _, tokens in parts)
    assert len({tokens for _, tokens in parts}) > 1
    assert loop.step([0.5, 0.5]).loss == pytest.approx(expected, abs=1e-12)


def test_a_reading_of_padded_rows_is_that_of_each_row_alone() -> None:
    loop = mixed_loop(replace(worlds.QUICK, packing="padded"), dtype=torch.float64)
    read = loop.evaluate(dict(loop.splits), None)
    for name, records in RECORDS.items():
        order = evaluation_rows(name, len(records), None)
        parts = [row_by_row(loop.model, records[k]["prompt"], records[k]["completion"]) for k in order]
        np.testing.assert_allclose(read[name].nll, [nll for nll, _ in parts], rtol=0, atol=1e-10)
        np.testing.assert_array_equal(read[name].tokens, [tokens for _, tokens in parts])


def test_shares_of_tokens_are_shares_of_what_carries_loss() -> None:
    """Rows of 9 against rows of 3 predicted tokens: half of the tokens is a quarter of the rows."""
    domains = {
        "long": uni.domain("long", train=[[0] * 10] * 8),
        "short": uni.domain("short", train=[[0] * 4] * 8),
    }
    drawn: dict[str, Counter[str]] = {}
    for shares in ("tokens", "examples"):
        loop = Loop(uni.unigram(), domains, replace(FIT, shares=shares), seed=0)
        drawn[shares] = sum((Counter(loop.step([0.5, 0.5]).examples) for _ in range(20)), Counter())
    assert drawn["tokens"] == {"long": 20, "short": 60}
    assert drawn["examples"] == {"long": 40, "short": 40}


# Precision, clipping, divergence


def test_bf16_is_autocast_over_parameters_that_stay_wide() -> None:
    seen: list[torch.dtype] = []
    fine, coarse = llama_loop(), llama_loop(replace(worlds.QUICK, precision="bf16"))
    coarse.model.module.model.layers[0].mlp.up_proj.register_forward_hook(
        lambda _, __, output: seen.append(output.dtype)
    )
    losses = [loop.step([0.5, 0.5]).loss for loop in (fine, coarse)]
    assert seen == [torch.bfloat16]
    assert {parameter.dtype for parameter in coarse.parameters.values()} == {torch.float32}
    moments = [state["exp_avg"].dtype for state in coarse.snapshot().moments.values()]
    assert set(moments) == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    read = coarse.evaluate({"math": coarse.splits["math"]}, 4)
    assert seen[-1] == torch.bfloat16
    assert read["math"].nll.dtype == np.float64


def test_a_model_in_bf16_keeps_its_type() -> None:
    loop = llama_loop(dtype=torch.bfloat16)
    loop.step([0.5, 0.5])
    assert {parameter.dtype for parameter in loop.parameters.values()} == {torch.bfloat16}


class Breaks(Unigram):
    """A unigram model whose logits or gradient leave the finite numbers at one call."""

    def __init__(self, at: int, value: float = math.nan) -> None:
        super().__init__()
        self.at, self.value, self.calls = at, value, 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        self.calls += 1
        out = super().forward(input_ids, attention_mask)
        if self.calls == self.at:
            out.logits = out.logits * self.value
        return out


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [0, 2])
def test_a_diverging_step_leaves_parameters_and_moments_as_they_were(step: int, value: float) -> None:
    loop = unigram_loop(module=Breaks(step + 1, value))
    for _ in range(step):
        loop.step([0.5, 0.5])
    before = loop.snapshot()
    with pytest.raises(DivergedError, match=f"step {step} is not finite; try a lower lr"):
        loop.step([0.5, 0.5])
    after = loop.snapshot()
    assert same(after.parameters, before.parameters)
    assert after.moments.keys() == before.moments.keys()
    assert all(same(after.moments[name], before.moments[name]) for name in before.moments)
    assert after.step == step
    assert loop.parameters["theta"].grad is None


def test_a_loss_that_is_infinite_with_a_finite_gradient_has_diverged() -> None:
    class Forbids(Unigram):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            out = super().forward(input_ids, attention_mask)
            out.logits = torch.where(torch.arange(uni.VOCABULARY) == 5, -math.inf, out.logits)
            return out

    loop = unigram_loop(module=Forbids())
    with pytest.raises(DivergedError, match="step 0"):
        loop.step([0.0, 1.0])


# Randomness, order, and what is not touched


def test_dropout_depends_on_seed_and_step_alone() -> None:
    first, second, other = (llama_loop(dropout=0.5, seed=seed) for seed in (0, 0, 1))
    with isolated(0):
        a = [first.step([0.5, 0.5]).loss for _ in range(2)]
    with isolated(1):
        b = [second.step([0.5, 0.5]).loss]
        second.evaluate(dict(second.splits), 4)
        torch.rand(100)
        b.append(second.step([0.5, 0.5]).loss)
    assert a == b
    assert other.step([0.5, 0.5]).loss != a[0]


def test_dropout_is_on_in_steps_and_off_in_readings() -> None:
    loop = llama_loop(dropout=0.5)
    with isolated(0):
        one, two = (loop.evaluate(dict(loop.splits), 4)["math"].nll for _ in range(2))
        np.testing.assert_array_equal(one, two)
        plain = llama_loop(dropout=0.0)
        assert loop.step([1.0, 0.0]).loss != plain.step([1.0, 0.0]).loss


@pytest.mark.parametrize("training", [True, False])
def test_a_reading_touches_nothing(training: bool) -> None:
    loop = llama_loop(dropout=0.5)
    loop.step([0.5, 0.5])
    loop.model.module.train(training)
    before, state = values(loop), torch.get_rng_state()
    loop.evaluate(dict(loop.splits), 4)
    assert same(values(loop), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert loop.model.module.training is training
    assert all(parameter.grad is None for parameter in loop.parameters.values())


def test_the_mode_comes_back_when_a_reading_fails() -> None:
    loop = unigram_loop()
    loop.model.module.train()
    loop.model.module.forward = None  # type: ignore[assignment,method-assign]
    with pytest.raises(TypeError):
        loop.evaluate(dict(loop.splits), 4)
    assert loop.model.module.training


# Snapshots


def assert_same_state(loop: Loop, expected: Any) -> None:
    found = loop.snapshot()
    assert same(found.parameters, expected.parameters)
    assert found.moments.keys() == expected.moments.keys()
    assert all(same(found.moments[name], expected.moments[name]) for name in expected.moments)
    assert same(found.rng, expected.rng)
    assert (found.step, found.stream) == (expected.step, expected.stream)


@pytest.mark.parametrize("taken", [0, 3])
@pytest.mark.parametrize("adapter", [None, {"r": 2, "dropout": 0.3}], ids=["full", "LoRA"])
def test_restoring_is_bit_exact_and_so_is_what_follows(taken: int, adapter: Any) -> None:
    with isolated(0):
        loop = llama_loop(dropout=0.3, adapter=adapter)
        for _ in range(taken):
            loop.step([0.3, 0.7])
        snapshot = loop.snapshot()
        followed = [loop.step([0.3, 0.7]) for _ in range(3)]
        reached = loop.snapshot()
        loop.restore(snapshot)
        assert_same_state(loop, snapshot)
        for _ in range(4):
            loop.step([1.0, 0.0], alone=True)
        torch.rand(9)
        loop.restore(snapshot)
        assert_same_state(loop, snapshot)
        assert [loop.step([0.3, 0.7]) for _ in range(3)] == followed
        assert_same_state(loop, reached)


def test_a_snapshot_of_a_lora_holds_the_adapter_and_nothing_else() -> None:
    loop = llama_loop(adapter={"r": 2, "targets": ["q_proj", "up_proj"]})
    loop.step([0.5, 0.5])
    snapshot = loop.snapshot()
    layer = "model.layers.0"
    assert (
        set(snapshot.parameters)
        == set(snapshot.moments)
        == {
            f"{layer}.{place}.lora_{side}.default.weight"
            for place in ("self_attn.q_proj", "mlp.up_proj")
            for side in "AB"
        }
    )
    adapter = 2 * (24 + 24) + 2 * (24 + 48)
    assert snapshot.nbytes == 4 * (3 * adapter + len(snapshot.moments))
    whole = sum(p.numel() * p.element_size() for p in loop.model.module.parameters())
    assert snapshot.nbytes < whole / 10


def test_a_tied_head_is_kept_once_and_trained_once() -> None:
    loop = llama_loop()
    names = set(loop.snapshot().parameters)
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    loop.step([0.5, 0.5])
    module = loop.model.module
    assert module.lm_head.weight.data_ptr() == module.model.embed_tokens.weight.data_ptr()
