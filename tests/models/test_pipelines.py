"""Diffusers pipelines in one step against their own arithmetic written out; what seeds decide; what is refused."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny_models import build, tokenizer
from tiny_pipelines import KINDS, pipeline
from trimtab import Model, load
from trimtab.errors import ModelError
from trimtab.models.pipelines import Pipeline, one_step, prompt_batches

PROMPTS = ["red cross", "a blue disc", "ring"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in made.items():
        pipeline(kind).save_pretrained(folder)
    return made


@pytest.fixture(scope="module")
def models(folders) -> dict[str, Model]:
    return {kind: load(folder) for kind, folder in folders.items()}


@pytest.fixture(params=KINDS)
def model(request, models) -> Model:
    return models[request.param]


def pixels(pictures):
    return np.stack([np.array(one) for one in pictures]).astype(int)


def by_hand(model, prompts, seed):
    """Pictures of the consistency function at the time step: c_out x_0 + c_skip x, decoded (Luo et al. 2023)."""
    pipe, step = model.pipeline.pipe, model.pipeline.timestep
    (batch,) = prompt_batches(model, prompts, seed=seed)
    noise = batch.get("sample", batch.get("hidden_states"))
    with torch.no_grad():
        predicted = model.module(**batch).sample[:, :4]  # PixArt's further channels are variances
        share = pipe.scheduler.alphas_cumprod[step]
        clean = (noise - (1 - share).sqrt() * predicted) / share.sqrt()
        scaled = step * pipe.scheduler.config.timestep_scaling
        skip, out = 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25) ** 0.5
        decoded = pipe.vae.decode((out * clean + skip * noise) / pipe.vae.config.scaling_factor).sample
    return ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy().astype(int)


def test_pictures_are_those_of_the_denoiser_on_the_same_keywords(model):
    made = pixels(model.generate(PROMPTS, seed=3))
    assert np.abs(made - by_hand(model, PROMPTS, 3)).max() <= 1
    assert made.std() > 5


def test_the_seed_decides_and_the_batch_does_not(model):
    first = pixels(model.generate(PROMPTS, seed=0))
    assert (first == pixels(model.generate(PROMPTS, seed=0))).all()
    assert (first != pixels(model.generate(PROMPTS, seed=1))).any()
    assert np.abs(first - pixels(model.generate(PROMPTS, seed=0, batch_size=2))).max() <= 1
    whole = prompt_batches(model, PROMPTS, seed=0)[0]
    parts = prompt_batches(model, PROMPTS, seed=0, batch_size=2)
    for name in ("sample", "hidden_states", "encoder_hidden_states"):
        if name in whole:
            torch.testing.assert_close(torch.cat([part[name] for part in parts]), whole[name])
    other = prompt_batches(model, ["zzz", *PROMPTS[1:]], seed=0)[0]
    noise = "sample" if "sample" in whole else "hidden_states"
    assert torch.equal(other[noise], whole[noise])
    assert not torch.equal(other["encoder_hidden_states"], whole["encoder_hidden_states"])


def test_nothing_of_the_caller_changes(model):
    state, before = torch.random.get_rng_state(), copy.deepcopy(model.module.state_dict())
    model.module.train()
    try:
        prompt_batches(model, PROMPTS)
        model.generate(PROMPTS)
        assert all(part.training for part in model.module.modules())
    finally:
        model.module.eval()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.module.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())


def test_another_denoiser_makes_other_pictures_and_the_pipeline_stays(models):
    model = models["sd"]
    before, own = pixels(model.generate(PROMPTS)), model.pipeline.pipe.unet
    other = copy.deepcopy(model.module)
    with torch.no_grad():
        other.conv_out.weight.mul_(-1)
    changed = replace(model, module=other)
    assert (pixels(changed.generate(PROMPTS)) != before).any()
    assert model.pipeline.pipe.unet is own
    assert (pixels(model.generate(PROMPTS)) == before).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_time_step_is_explicit(folders, models, kind):
    early = load(folders[kind], timestep=399)
    for model, step in ((models[kind], 999), (early, 399)):
        assert {int(one) for one in prompt_batches(model, PROMPTS)[0]["timestep"].flatten()} == {step}
    assert (pixels(early.generate(PROMPTS)) != pixels(models[kind].generate(PROMPTS))).any()
    assert np.abs(pixels(early.generate(PROMPTS)) - by_hand(early, PROMPTS, 0)).max() <= 1


def test_a_time_step_that_is_none_is_refused(folders, tmp_path):
    with pytest.raises(ModelError, match="timestep: got 1000, expected a whole number from 0 to 999"):
        load(folders["sd"], timestep=1000)
    with pytest.raises(ModelError, match="timestep: got True, expected a whole number"):
        load(folders["sd"], timestep=True)
    with pytest.raises(
        ModelError, match="timestep: got timestep=3 beside LlamaForCausalLM, expected the folder of a"
    ):
        load(build("llama"), timestep=3)


def test_prompts_that_are_none_are_refused(models):
    for bad, message in (
        ("red", "got one string, expected a list of prompts"),
        (["red", " "], "prompt 1: got the blank prompt ' ', expected a text"),
        (["red", 3], "prompt 1: got a int, expected a text"),
    ):
        with pytest.raises(ModelError, match=message):
            models["sd"].generate(bad)
    with pytest.raises(ModelError, match="batch_size: got 0, expected at least 1"):
        models["sd"].generate(["red"], batch_size=0)
    with pytest.raises(
        ModelError, match=r"temperature: got 0.5, expected 0: noise is what differs; try another seed"
    ):
        models["sd"].generate(["red"], temperature=0.5)
    with pytest.raises(ModelError, match="got a LlamaForCausalLM without pipeline, expected a pipeline"):
        prompt_batches(load(build("llama"), tokenizer=tokenizer()), ["red"])


def test_without_diffusers_one_line_says_what_to_install(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    message = r"got no diffusers, expected the package that reads pipelines; try .*pip install trimtab\[t2i\]"
    with pytest.raises(ModelError, match=message) as caught:
        load(folders["sd"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "index", ["{}", "[", '{"_class_name": ["mine.py", "Mine"]}', '{"_class_name": "Nothing"}']
)
def test_a_damaged_folder_is_refused_and_no_code_of_it_runs(tmp_path, index):
    (tmp_path / "model_index.json").write_text(index)
    (tmp_path / "mine.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(ModelError, match="expected a pipeline in safetensors; try save_pretrained again"):
        load(tmp_path)


def test_a_pipeline_that_reads_no_text_or_takes_no_time_steps_is_refused():
    import diffusers

    one = diffusers.DDPMPipeline(build("unet"), diffusers.DDPMScheduler())
    with pytest.raises(
        ModelError, match="got a DDPMPipeline, without prompt, expected a text-to-image pipeline"
    ):
        one_step(one)
    other = pipeline("sd")
    other.scheduler = diffusers.PNDMScheduler()
    message = r"with a PNDMScheduler, which takes no explicit time steps.*try pipe.scheduler = LCMScheduler"
    with pytest.raises(ModelError, match=message):
        one_step(other)
    with pytest.raises(ModelError, match="got a StableDiffusionXLImg2ImgPipeline, which is not run at one"):
        one_step(diffusers.StableDiffusionXLImg2ImgPipeline(**pipeline("sdxl").components))


def test_the_folder_says_what_is_in_it(folders, models):
    index = json.loads((folders["pixart"] / "model_index.json").read_text())
    assert index["_class_name"] == type(models["pixart"].pipeline.pipe).__name__
    assert models["pixart"].module is models["pixart"].pipeline.pipe.transformer
    assert models["sdxl"].pipeline.part == "unet"
    assert isinstance(models["sdxl"].pipeline, Pipeline)
    assert models["sd"].tokenizer is not None
    with pytest.raises(ModelError, match="but with a pipeline, expected one model"):
        load(folders["sd"], kind="language model")
