"""Activation checkpointing: the same weights from less memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tiny_models import build
from trimtab import Feedback, Fit, finetune
from trimtab.errors import ModelError
from trimtab.models.batches import activation_checkpointing
from trimtab.train.loop import Loop
from worlds import QUICK, domain, model

MIXER = Feedback(targets=["math"], constraints={"web": 0.05}, every=4)


def trained(monkeypatch: pytest.MonkeyPatch, fit: Fit, **more: Any) -> tuple[dict[str, Any], int]:
    """The weights that a run leaves, and the most bytes that a step kept for its backward pass."""
    handle, kept, most = model(**more), [0], [0]
    own = {parameter.data_ptr() for parameter in handle.module.parameters()}
    step = Loop.step

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[0] += 0 if tensor.data_ptr() in own else tensor.numel() * tensor.element_size()
        return tensor

    def counted(self: Loop, *given: Any, **options: Any) -> Any:
        kept[0] = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            stats = step(self, *given, **options)
        most[0] = max(most[0], kept[0])
        return stats

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", counted)
        train = {"math": domain("math"), "web": domain("web")}
        finetune(handle, train=train, mixer=MIXER, fit=fit, progress=False)
    assert not any(getattr(part, "gradient_checkpointing", False) for part in handle.module.modules())
    return dict(handle.module.state_dict()), most[0]


@pytest.mark.parametrize("more", [{}, {"adapter": {"r": 4}}], ids=["full", "adapter"])
def test_weights_are_the_same_and_a_step_keeps_less(
    more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, much = trained(monkeypatch, QUICK, **more)
    again, little = trained(monkeypatch, replace(QUICK, activation_checkpointing=True), **more)
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=0)
    assert little < 0.7 * much


def test_it_stays_on_where_it_was_on() -> None:
    network = model().module
    with activation_checkpointing(network):
        with activation_checkpointing(network):
            pass
        assert any(getattr(part, "gradient_checkpointing", False) for part in network.modules())
    assert not any(getattr(part, "gradient_checkpointing", False) for part in network.modules())


def test_a_network_without_it_is_refused() -> None:
    for network in (nn.Linear(2, 2), build("clip")):
        network.supports_gradient_checkpointing = False  # type: ignore[assignment]
        told = r"activation checkpointing of .*try fit\.activation_checkpointing=False"
        with pytest.raises(ModelError, match=told), activation_checkpointing(network):
            pass
