"""Low-precision checkpoints: they learn as in float32, come back in their own type, and are judged as saved."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn

from trimtab import Fixed, Uniform, finetune, load
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.data.tokens import tokenise
from trimtab.models.load import Model
from trimtab.train.loop import Loop
from trimtab.train.settings import evaluation_steps
from trimtab.train.state import float32_weights, rounded, rounding
from worlds import QUICK, evaluated, llama, tokenizer, trainable

SLOW = replace(QUICK, lr=1e-5, steps=40, eval_points=3)
"""A rate at which bfloat16 rounds most steps away."""


def run(handle: Model, fit: Any = SLOW, **options: Any) -> FinetuneResult:
    mixer = options.pop("mixer", Uniform(targets=["math"]))
    return finetune(handle, train=trainable(), mixer=mixer, fit=fit, **options)


def handle(dtype: torch.dtype, **options: Any) -> Model:
    network = llama(dtype=torch.bfloat16).to(dtype)
    return load(network, tokenizer=tokenizer(), **options)


def frozen_embeddings(dtype: torch.dtype) -> Model:
    found = handle(dtype)
    found.module.get_input_embeddings().requires_grad_(False)
    return found


def coarse_adapter(dtype: torch.dtype) -> Model:
    """LoRA whose own matrices are of low precision, as `autocast_adapter_dtype=False` of peft makes them."""
    found = handle(
        dtype, adapter=LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
    )
    for parameter in found.trainable().values():
        parameter.data = parameter.data.to(dtype)
    return found


@pytest.mark.parametrize(("precision", "told"), [("bf16", True), ("fp32", False)])
def test_emulated_bfloat16_is_warned_of(precision: Any, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(handle(torch.float32), replace(SLOW, precision=precision, steps=1, eval_points=1))
    about = [one for one in caught if "no arithmetic for bfloat16" in str(one.message)]
    assert [one.filename == __file__ for one in about] == [True] * told


@cache
def learned_in_float32(make: Any, fit: Any) -> float:
    """How far the loss of the target falls in float32: the same for every type that is held against it."""
    return -float(run(make(torch.float32), fit).final.set_index("domain").loc["math", "change"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [handle, frozen_embeddings, coarse_adapter])
def test_it_learns_as_in_float32_and_keeps_its_types(make: Any, dtype: torch.dtype) -> None:
    fit = replace(SLOW, lr=1e-4) if make is coarse_adapter else SLOW
    low = make(dtype)
    types = {name: tensor.dtype for name, tensor in low.module.state_dict().items()}
    gain, wide = (
        -float(run(low, fit).final.set_index("domain").loc["math", "change"]),
        learned_in_float32(make, fit),
    )
    assert wide > 1e-4
    assert gain > 0.5 * wide
    assert types == {name: tensor.dtype for name, tensor in low.module.state_dict().items()}


def test_frozen_weights_of_low_precision_come_back_bit_for_bit() -> None:
    low = frozen_embeddings(torch.bfloat16)
    before = low.module.get_input_embeddings().weight.clone()
    run(low)
    assert torch.equal(before, low.module.get_input_embeddings().weight)


def test_test_losses_are_those_of_the_weights_as_saved(tmp_path: Path) -> None:
    low = handle(torch.bfloat16)
    result = run(low, replace(QUICK, lr=1e-4), evaluate=evaluated(), out=tmp_path / "run")
    low.save_pretrained(tmp_path / "saved")
    assert load(tmp_path / "saved").module.dtype == torch.bfloat16
    again = load(tmp_path / "saved", dtype="float32")
    domains = {name: tokenise(d, again, seq_len=16) for name, d in {**trainable(), **evaluated()}.items()}
    test = {name: domain.splits["test"] for name, domain in domains.items()}
    losses = Loop(again, {"math": domains["math"]}, QUICK, seed=0).evaluate(test, QUICK.test_sequences)
    assert result.step > 0
    for row in result.final.itertuples():
        assert row.loss == pytest.approx(losses[row.domain].loss, abs=1e-6)
    kept = load_file(tmp_path / "run" / f"artifacts/weights-{result.step:08d}/parameters.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.bfloat16}


def test_what_rounds_away_is_told() -> None:
    low = handle(torch.bfloat16)
    before = {name: p.detach().clone() for name, p in low.trainable().items()}
    note = run(low).notes[0]
    assert note.startswith("Trained in float32, saved in bfloat16: at step 40 ")
    back = float(note.partition("had changed; ")[2].split(" %")[0]) / 100
    changed = float(note.partition("at step 40 ")[2].split(" %")[0]) / 100
    same = sum(int((p == before[name]).sum()) for name, p in low.trainable().items())
    total = sum(p.numel() for p in before.values())
    assert same / total == pytest.approx(1 - changed + changed * back, abs=0.005)
    assert not any("rounded" in one or "saved in" in one for one in run(handle(torch.float32)).notes)


def test_readings_of_rounded_weights_are_paid_for(tmp_path: Path) -> None:
    """Each candidate is read once more as saved; the fixed-mixture run it is compared with reads the grid alone."""
    fit = replace(QUICK, lr=1e-4)
    results = {
        dtype: run(handle(dtype), fit, out=tmp_path / str(dtype)) for dtype in (torch.bfloat16, torch.float32)
    }
    grid = len(evaluation_steps(fit.steps, fit.eval_points))
    for dtype, result in results.items():
        rows = [
            json.loads(line) for line in (tmp_path / str(dtype) / "metrics.jsonl").read_text().splitlines()
        ]
        rounded_readings = sum(row["event"] == "rounding" for row in rows)
        assert (rounded_readings > 0) == (dtype == torch.bfloat16)
        each = result.cost.evaluation_batches * fit.batch_size / (grid + rounded_readings)
        assert each == fit.eval_sequences * len(trainable())
        batches = each / fit.batch_size / 3
        whole = (fit.steps + batches * (grid + rounded_readings)) / (fit.steps + batches * grid)
        assert result.cost.all_in_multiple == pytest.approx(whole)


def test_a_checkpoint_that_breaks_a_constraint_once_rounded_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rounding is made to hurt: the second candidate is ruined by it, and the first stays chosen."""
    seen = itertools.count()

    @contextmanager
    def ruining(parameters: Any, stored: Any) -> Iterator[None]:
        factor = 100.0 if next(seen) else 1.0
        with rounded(parameters, stored), torch.no_grad():
            for parameter in parameters.values():
                parameter.mul_(factor)
            yield

    monkeypatch.setattr("trimtab.adapt.run.rounded", ruining)
    mixer = Fixed(weights={"math": 1, "web": 1}, targets=["math"], constraints={"web": 0.5})
    result = run(handle(torch.bfloat16), replace(QUICK, lr=1e-3), mixer=mixer)
    first, second = evaluation_steps(QUICK.steps, QUICK.eval_points)[1:3]
    rows = result.losses[result.losses["split"] == "validation"].set_index(["domain", "step"])["change"]
    assert rows["math", second] < rows["math", first] < 0
    assert next(seen) > 1
    assert (result.status, result.step) == ("feasible", first)


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    fit = replace(QUICK, lr=1e-4)

    def stopping(done: int, _: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    whole, parts = handle(torch.bfloat16), handle(torch.bfloat16)
    expected = run(whole, fit, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(parts, fit, out=tmp_path / "parts", progress=stopping)
    assert parts.module.dtype == torch.bfloat16
    fresh = handle(torch.bfloat16)
    result = run(fresh, fit, out=tmp_path / "parts")
    assert result.notes == expected.notes
    assert all(
        torch.equal(a, b) for a, b in zip(whole.module.parameters(), fresh.module.parameters(), strict=True)
    )
    back = handle(torch.bfloat16)
    run(back, fit, out=tmp_path / "parts")
    assert all(
        torch.equal(a, b) for a, b in zip(whole.module.parameters(), back.module.parameters(), strict=True)
    )


def test_types_come_back_after_an_exception_and_float32_models_are_left_alone() -> None:
    low, wide = handle(torch.bfloat16), handle(torch.float32, adapter={"r": 2})

    def interrupted() -> None:
        with float32_weights(low) as stored:
            assert {p.dtype for p in low.module.parameters()} == {torch.float32}
            assert set(stored) == set(low.trainable())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert {p.dtype for p in low.module.parameters()} == {torch.bfloat16}
    with float32_weights(wide) as stored:
        assert stored == {}


def test_rounded_values_are_those_of_the_type_and_go_again() -> None:
    value = nn.Parameter(torch.tensor([1.0, 1.001, 1.004, -3.0]))
    before = value.detach().clone()
    with rounded({"w": value}, {"w": torch.bfloat16}):
        assert torch.equal(value.detach(), before.bfloat16().float())
    assert torch.equal(value.detach(), before)


def test_rounding_counts() -> None:
    """Of four weights three changed; one of them, by less than half a gap, rounds back."""
    base = torch.tensor([1.0, 1.0, 1.0, 1.0])
    now = nn.Parameter(torch.tensor([1.0, 1.001, 1.1, 2.0]))
    found = rounding({"w": now}, {"w": torch.bfloat16}, {"w": base}.__getitem__)
    assert (found.changed, found.returned) == (3 / 4, 1 / 3)
    still = rounding({"w": nn.Parameter(base)}, {"w": torch.bfloat16}, {"w": base}.__getitem__)
    assert still.changed == 0
    assert math.isnan(still.returned)
