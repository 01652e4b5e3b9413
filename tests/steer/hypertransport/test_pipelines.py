"""HyperTransport on tiny pipelines of diffusers: U-Nets at all norms, a transformer at the norms of its blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pictured import clip, clip_processor, words
from tiny_generator import SMALL
from tiny_pipelines import KINDS, SITES, pipeline
from trimtab import HyperTransport, load
from trimtab.models.encoders import two_tower

CONCEPTS = {
    "red cross": ["red cross", "a red cross", "one red cross"],
    "blue": ["blue sea", "a blue ring", "so blue"],
}
SOURCE = ["a cross", "a ring", "the sea", "one"]


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
