"""Weights that moved: known edits, an adapter by its formula, and what cannot be told."""

from __future__ import annotations

import math
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import compare_worlds as cw
import tiny_models
from trimtab.adapt.compare.weights import adapter_of, by_part, effective, moved_weights

UP = "model.layers.0.mlp.up_proj.weight"


def test_a_model_against_itself_has_not_moved() -> None:
    one = cw.base()
    table, reason = moved_weights(one.module, cw.copied(one).module)
    assert reason == ""
    assert not table[["changed", "relative_change", "change_norm"]].to_numpy(dtype=float).any()
    assert table["entries"].sum() == sum(weight.numel() for weight in one.module.parameters())
    assert adapter_of(one.module) == ""


def test_known_edits() -> None:
    one = cw.base()
    other = cw.copied(one)
    weight = other.module.get_parameter(UP)
    before = weight.detach().double().clone()
    with torch.no_grad():
        weight[:3, 0] += 0.5
    table, _ = moved_weights(one.module, other.module)
    moved = table[table["changed"] > 0]
    assert moved["name"].tolist() == [UP]
    row = moved.iloc[0]
    assert row["changed"] == pytest.approx(3 / before.numel())
    change = float((weight.detach().double() - before).norm())
    assert change == pytest.approx(math.sqrt(3) * 0.5, rel=1e-6)
    assert row["relative_change"] == pytest.approx(change / float(before.norm()), rel=1e-9)
    parts = by_part(table).set_index("part")
    block = [weight.detach().double() for name, weight in one.module.named_parameters() if ".0." in name]
    norm = math.sqrt(sum(float(each.square().sum()) for each in block))
    assert parts.loc["model.layers.0", "relative_change"] == pytest.approx(change / norm, rel=1e-9)
    assert parts.loc["model.layers.0", "entries"] == sum(each.numel() for each in block)
    assert parts.loc["lm_head", "changed"] == 0


def test_a_block_with_a_weight_that_is_nan_has_no_norm_of_its_change() -> None:
    one = cw.base()
    other = cw.copied(one)
    with torch.no_grad():
        other.module.get_parameter(UP)[0, 0] = math.nan
    parts = by_part(moved_weights(one.module, other.module)[0]).set_index("part")
    assert math.isnan(parts.loc["model.layers.0", "relative_change"])
    assert parts.loc["lm_head", "relative_change"] == 0


@pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning")
def test_an_adapter_counts_folded_in() -> None:
    one = cw.base()
    config = LoraConfig(
        r=2, lora_alpha=6, target_modules=["up_proj", "embed_tokens"], modules_to_save=["lm_head"]
    )
    adapted = get_peft_model(cw.copied(one).module, config)
    layer = adapted.base_model.model.model.layers[0].mlp.up_proj
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_(generator=draw)
        adapted.base_model.model.lm_head.modules_to_save["default"].weight += 1.0
    table, reason = moved_weights(one.module, adapted)
    assert reason == ""
    moved = table[table["changed"] > 0].set_index("name")
    assert set(moved.index) == {UP, "lm_head.weight"}  # that of the embedding starts at 0
    delta = (3.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach()
    assert moved.loc[UP, "change_norm"] == pytest.approx(float(delta.double().norm()), rel=1e-5)
    assert moved.loc["lm_head.weight", "change_norm"] == pytest.approx(
        math.sqrt(moved.loc["lm_head.weight", "entries"]), rel=1e-5
    )
    assert adapter_of(adapted) == "default (LORA) on 2 layers"
    with adapted.disable_adapter():
        table, _ = moved_weights(one.module, adapted)
    assert not table.set_index("name").loc[UP, "changed"]
    names = [name for name, _ in effective(adapted)]
    assert names == [name for name, _ in one.module.named_parameters()]


@pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning")
def test_an_adapter_that_no_weight_can_hold_is_left_out() -> None:
    one = cw.base()
    dora = get_peft_model(cw.copied(one).module, LoraConfig(r=2, use_dora=True, target_modules=["up_proj"]))
    table, reason = moved_weights(one.module, dora)
    assert table.empty
    assert reason == f"the adapter at {UP} cannot be folded into a weight"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (
            lambda: tiny_models.build("gpt2"),
            "the architectures differ: .* tensors are in one model only, the first",
        ),
        (
            lambda: tiny_models.build("llama", num_hidden_layers=2, hidden_size=32),
            "the architectures differ: .* have another shape",
        ),
    ],
)
def test_another_architecture_is_left_out_with_the_reason(other: object, reason: str) -> None:
    table, why = moved_weights(tiny_models.build("llama"), other())  # type: ignore[operator]
    assert table.empty
    assert re.search(reason, why)


def test_quantised_weights_are_left_out() -> None:
    plain = nn.Sequential(nn.Linear(4, 4))
    packed = nn.Sequential(nn.Linear(4, 4))
    packed[0].weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    table, reason = moved_weights(plain, packed)
    assert table.empty
    assert reason.startswith("the tuned model's weights are quantised")
