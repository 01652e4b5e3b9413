"""On a GPU as on the CPU: losses, restores, slopes, steerings, rankings and texts. Skipped where there is no GPU."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

import pictured
import tiny_models
import worlds
from steerings import random_steering
from trimtab import LinEAS, Model, load
from trimtab.adapt.dynamics.mixer import DynaMiCS
from trimtab.adapt.finetune import finetune
from trimtab.adapt.mixers.fixed import Uniform
from trimtab.data.tokens import tokenise
from trimtab.models.captioner import captioner
from trimtab.models.encoders import two_tower
from trimtab.numerics.ranking import auroc, average_precision
from trimtab.read.responses import Responses
from trimtab.train.loop import Loop

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
PROMPTS = ["a", "the quick brown fox", "Hello, hello", "zz"]


def on(device: str, dropout: float = 0.0) -> Model:
    """A small model there."""
    return load(worlds.llama(dropout=dropout).to(device), tokenizer=worlds.tokenizer())


def run(device: str, mixer: Any, **changes: Any) -> Any:
    """A short fine-tuning."""
    return finetune(
        on(device),
        train=worlds.trainable(),
        evaluate=worlds.evaluated(),
        mixer=mixer,
        fit=replace(worlds.QUICK, **changes),
    )


def loop(**changes: Any) -> Loop:
    """A loop on the GPU, whose model drops activations."""
    model = on("cuda", dropout=0.1)
    fit = replace(worlds.QUICK, **changes)
    domains = {
        name: tokenise(d, model.need_tokenizer(), seq_len=fit.seq_len)
        for name, d in worlds.trainable().items()
    }
    return Loop(model, domains, fit, seed=0)


def test_fine_tuning_reaches_the_losses_of_the_cpu() -> None:
    there, here = (run(device, Uniform(targets=["math"])).losses for device in ("cuda", "cpu"))
    assert here["loss_nats"].nunique() > 10
    np.testing.assert_allclose(there["loss_nats"], here["loss_nats"], rtol=1e-4)


def test_probes_measure_the_slopes_of_the_cpu() -> None:
    asked = {"targets": ["math"], "constraints": {"safety": 0.05, "facts": 0.05}}
    there, here = (run(device, DynaMiCS(**asked)) for device in ("cuda", "cpu"))
    first, expected = there.slopes[0].slopes.to_numpy(), here.slopes[0].slopes.to_numpy()
    np.testing.assert_allclose(first, expected, rtol=1e-2, atol=1e-5)
    assert there.status == here.status


def test_a_lora_on_a_base_in_4_bits_trains_as_on_the_cpu(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    worlds.saved_model(str(tmp_path), width=64)
    found = {}
    for device in ("cuda", "cpu"):
        model = load(tmp_path, load_in_4bit=True, device=device, adapter={"r": 4})
        found[device] = finetune(
            model,
            train=worlds.trainable(),
            evaluate=worlds.evaluated(),
            mixer=Uniform(targets=["math"]),
            fit=replace(worlds.QUICK, lr=3e-2),
        ).final["change"]
    assert found["cpu"].abs().max() > 0.05
    np.testing.assert_allclose(found["cuda"], found["cpu"], atol=1e-2)


def test_a_restored_loop_takes_the_same_step_with_dropout() -> None:
    training = loop()
    training.step([1 / 3] * 3)
    kept = training.snapshot()
    first = training.step([0.2, 0.3, 0.5]).loss
    training.step([1.0, 0.0, 0.0])
    training.restore(kept)
    again = training.snapshot()
    for name, value in kept.parameters.items():
        assert value.device.type == "cuda"
        assert torch.equal(value, again.parameters[name])
    assert training.step([0.2, 0.3, 0.5]).loss == pytest.approx(first, rel=1e-6)


def test_mixed_precision_trains() -> None:
    losses = run("cuda", Uniform(targets=["math"]), precision="bf16", steps=40).losses
    math = losses[losses["domain"] == "math"]["change"]
    assert math.iloc[-1] < -0.05


def test_a_run_on_the_gpu_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("cuda", Uniform(targets=["math"]))
    asked: dict[str, Any] = {
        "train": worlds.trainable(),
        "evaluate": worlds.evaluated(),
        "mixer": Uniform(targets=["math"]),
        "fit": worlds.QUICK,
        "out": tmp_path / "run",
    }
    real, steps = Loop.step, []

    def stopped(self: Loop, weights: Any, **options: Any) -> Any:
        if len(steps) == 8:
            raise KeyboardInterrupt
        steps.append(1)
        return real(self, weights, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            finetune(on("cuda"), **asked)
    again = finetune(on("cuda"), **asked)
    np.testing.assert_allclose(again.losses["loss_nats"], whole.losses["loss_nats"], rtol=1e-5)


@pytest.mark.parametrize("name", tiny_models.NINE)
def test_a_steering_moves_every_kind_of_model_as_on_the_cpu(name: str) -> None:
    sites = "mid_block.resnets.*.norm1" if name == "unet" else "residual"
    sites = "transformer_blocks.*.norm[12]" if name == "pixart" else sites
    sites = ["text_model.*.*.*.mlp", "vision_model.*.*.*.mlp"] if name == "clip" else sites  # type: ignore[assignment]
    module = tiny_models.build(name)
    moved = copy.deepcopy(module).cuda()
    steering = random_steering(module, name, sites)
    found = []
    for network, device in ((module, "cpu"), (moved, "cuda")):
        given = _on(tiny_models.inputs(name), device)
        with torch.no_grad(), steering.on(network):
            found.append([value.cpu() for value in _tensors(network(**given))])
    assert found[0]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)


def test_lineas_finds_a_planted_map() -> None:
    draw = torch.Generator().manual_seed(0)
    rows, weight, shift = torch.randn(24, 4, generator=draw), torch.tensor([1.0, 0.5, 2.0, 1.5]), 3.0
    network = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(4, 3)).cuda()
    given = [{"input": rows}], [{"input": weight * rows + shift}]
    steering = LinEAS("0", gamma=0.0, lr=0.1, steps=300).fit(network, *given)
    torch.testing.assert_close(steering.maps["0:out"][0].cpu(), weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rankings_are_those_of_scikit_learn(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 300, generator=draw).to(dtype)
    labels = torch.rand(300, generator=draw) < 0.3
    for ours, theirs in ((average_precision, average_precision_score), (auroc, roc_auc_score)):
        found = ours(scores.cuda(), labels)
        assert found.device.type == "cuda"
        expected = [theirs(labels.numpy(), unit.double().numpy()) for unit in scores]
        np.testing.assert_allclose(found.cpu().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("drawn", [{}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "sampled"])
def test_texts_are_those_of_the_cpu(name: str, drawn: dict[str, Any]) -> None:
    said = [
        load(tiny_models.build(name).to(device), tokenizer=tiny_models.tokenizer()).generate(
            PROMPTS, max_new_tokens=8, **drawn
        )
        for device in ("cuda", "cpu")
    ]
    assert len(set(said[1])) > 1
    assert said[0] == said[1]


def test_responses_are_those_of_the_cpu() -> None:
    found = []
    for device in ("cuda", "cpu"):
        model = load(tiny_models.build("llama").to(device), tokenizer=tiny_models.tokenizer())
        found.append(Responses(model, PROMPTS).of(range(len(PROMPTS)), np.arange(40)))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-4)


def _on(given: Any, device: str) -> Any:
    if isinstance(given, dict):
        return {name: _on(value, device) for name, value in given.items()}
    return given.to(device) if isinstance(given, torch.Tensor) else given


def _tensors(output: Any) -> list[torch.Tensor]:
    return [value for value in output.values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("kind", list(pictured.CAPTIONERS))
def test_captions_and_their_log_probabilities_are_the_same(kind: str) -> None:
    images, found = pictured.random_pictures(4), []
    for device in ("cpu", "cuda"):
        parts: Any = {"tokenizer": pictured.words(), "processor": pictured.clip_processor()}
        speaker = captioner(pictured.CAPTIONERS[kind]().to(device), **parts)
        features = speaker.features(images)
        ids = speaker.encode(["a cat", "b", "two dogs", "c d"])
        logp, _ = speaker.log_probabilities(features, ids, [True] * 4)
        written = speaker.generate(features, max_new_tokens=6)
        drawn = speaker.generate(features, max_new_tokens=6, temperature=1.0)
        found.append((logp.detach().cpu(), written.ids, drawn.ids))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-3, rtol=1e-3)
    assert found[0][1:] == found[1][1:]


@pytest.mark.parametrize("kind", list(pictured.TOWERS))
def test_embeddings_are_the_same(kind: str) -> None:
    images, texts, found = pictured.random_pictures(4), ["a cat", "b"], []
    for device in ("cpu", "cuda"):
        tower = two_tower(pictured.TOWERS[kind]().to(device), pictured.words(), pictured.PROCESSORS[kind]())
        found.append(torch.cat([tower.texts(texts), tower.pictures(images)]))
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-3)
