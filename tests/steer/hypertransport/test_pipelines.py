"""HyperTransport on tiny pipelines of diffusers: U-Nets at all norms, a transformer at the norms of its blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pictured import clip, clip_processor, words
from tiny_generator import SMALL
from tiny_pipelines import KINDS, SITES, pipeline
from trimtab import HyperTransport, load
from trimtab.errors import CheckpointError, ModelError
from trimtab.models.encoders import two_tower

CONCEPTS = {
    "red cross": ["red cross", "a red cross", "one red cross"],
    "blue": ["blue sea", "a blue ring", "so blue"],
}
SOURCE = ["a cross", "a ring", "the sea", "one"]


def test_the_time_step_is_of_the_fit_and_of_its_file(tmp_path):
    """A generator at another time step has other activations, though its weights are the same."""
    pipeline("sd").save_pretrained(tmp_path / "pipe")
    generator = load(tmp_path / "pipe", timestep=399)
    hyper = HyperTransport("*norm*", two_tower(clip(), words(), clip_processor()), steps=1, sizes=SMALL)
    fitted = hyper.fit(generator, CONCEPTS, SOURCE, out=tmp_path / "fit")
    assert fitted.settings["timestep"] == 399
    fitted.save_pretrained(tmp_path / "hyper")
    other = load(tmp_path / "pipe")
    message = r"got a generator at time step 999, expected 399, .*; try load\(folder, timestep=399\)"
    with pytest.raises(ModelError, match=message):
        HyperTransport.from_pretrained(tmp_path / "hyper", other, hyper.encoder)
    HyperTransport.from_pretrained(tmp_path / "hyper", generator, hyper.encoder)
    with pytest.raises(CheckpointError, match=r"holds another fit: settings\.timestep"):
        hyper.fit(other, CONCEPTS, SOURCE, out=tmp_path / "fit")


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_is_trained_on_and_steered(kind, tmp_path):
    pipeline(kind).save_pretrained(tmp_path / "pipe")
    generator = load(tmp_path / "pipe")
    hyper = HyperTransport(
        SITES[kind], two_tower(clip(), words(), clip_processor()), steps=3, sizes=SMALL, lr=0.05
    )
    fitted = hyper.fit(generator, CONCEPTS, SOURCE)
    assert len(fitted.losses) == 3
    assert all(np.isfinite(fitted.losses))
    assert all("norm" in site for site in fitted.scales)
    untouched = generator.generate(SOURCE, seed=4)
    for condition in ("a red cross", untouched[0]):
        steering = fitted(condition)
        for strength, same in ((0.0, True), (1.0, False)):
            with steering.on(generator, strength):
                made = generator.generate(SOURCE, seed=4)
            assert all(one == other for one, other in zip(made, untouched, strict=True)) is same
    fitted.save_pretrained(tmp_path / "hyper")
    again = HyperTransport.from_pretrained(tmp_path / "hyper", load(tmp_path / "pipe"), hyper.encoder)
    for site, pair in fitted("so blue").maps.items():
        assert all(map(torch.equal, again("so blue").maps[site], pair))
