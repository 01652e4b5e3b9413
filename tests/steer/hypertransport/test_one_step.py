"""HyperTransport on the package's own generator of pictures, at its conditional norms."""

from __future__ import annotations

import numpy as np
import torch

from pictured import clip, clip_processor, words
from tiny_generator import SMALL
from trimtab import HyperTransport, load
from trimtab.lab.scene_models import SPECIAL, word_tokenizer
from trimtab.models.encoders import two_tower
from trimtab.models.one_step import OneStepConfig, OneStepGenerator

NAMED = ("red", "blue", "cross", "ring")
CONCEPTS = {
    "red cross": ["red cross", "red red cross", "cross red red"],
    "blue": ["blue ring", "blue cross", "blue"],
}
SOURCE = ["cross", "ring", "red ring", "ring cross"]


def test_a_one_step_generator_is_trained_on_and_steered():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = {"image_size": 16, "noise_size": 3, "width": 16, "condition_width": 12, "blocks": 2}
        network = OneStepGenerator(OneStepConfig(vocab_size=len(SPECIAL) + len(NAMED), **size)).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    generator = load(network, tokenizer=word_tokenizer(NAMED, framed=False))
    encoder = two_tower(clip(), words(), clip_processor())
    hyper = HyperTransport("*norm*", encoder, steps=40, sizes=SMALL, lr=0.02, examples=8)
    fitted = hyper.fit(generator, CONCEPTS, SOURCE)
    assert len(fitted.scales) == 5
    assert sum(fitted.losses[-10:]) < 0.8 * sum(fitted.losses[:10])
    untouched = generator.generate(SOURCE, seed=4)
    for condition in ("red cross", untouched[1]):
        with fitted(condition).on(generator):
            made = generator.generate(SOURCE, seed=4)
        assert not np.array_equal(*(np.array(side[0]) for side in (made, untouched)))
        with fitted(condition).on(generator, 0.0):
            assert generator.generate(SOURCE, seed=4) == untouched
