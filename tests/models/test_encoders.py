"""Two-tower encoders against transformers' own features, and the places where transformers does not hear a text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny_models
from pictured import PROCESSORS, TOWERS, clip, clip_processor, dual_clip, random_pictures, words
from trimtab.errors import DataError, ModelError
from trimtab.models.encoders import two_tower
from trimtab.models.load import load

TEXTS = ["the quick brown fox", "Hello", "z a z", "one more.", ""]


def features(kind: str, module: Any, text: str) -> torch.Tensor:
    """Transformers' own way, one text at a time."""
    fixed = {"padding": "max_length", "max_length": 24} if kind == "siglip" else {}
    inputs = words()(text, return_tensors="pt", **fixed)
    if kind == "siglip":
        inputs.pop("attention_mask")
    with torch.no_grad():
        return module.get_text_features(**inputs).pooler_output


@pytest.fixture(params=list(TOWERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_texts_are_transformers_own_features_at_length_one(kind):
    module = TOWERS[kind]()
    tower = two_tower(module, words(), PROCESSORS[kind]())
    expected = torch.cat([features(kind, module, text) for text in TEXTS])
    expected = torch.nn.functional.normalize(expected)
    for size in (1, 2, 256):
        torch.testing.assert_close(tower.texts(TEXTS, size), expected, atol=1e-5, rtol=0)
    assert tower.texts([]).shape == (0, expected.shape[1])
    assert tower.notes == ()
    assert tower.scale == pytest.approx(float(module.logit_scale.detach().exp()))


def test_pictures_are_transformers_own_features_at_length_one(kind):
    module, images = TOWERS[kind](), random_pictures()
    tower = two_tower(module, words(), PROCESSORS[kind]())
    pixels = PROCESSORS[kind]()(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = torch.nn.functional.normalize(module.get_image_features(pixel_values=pixels).pooler_output)
    for size in (1, 2, 64):
        found = tower.pictures(iter(images), size)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert tower.pictures([]).shape == (0, expected.shape[1])


def test_a_folder_says_the_same_as_the_module(kind, tmp_path):
    module, images = TOWERS[kind](), random_pictures()
    tower = two_tower(module, words(), PROCESSORS[kind]())
    for part in (module, words(), PROCESSORS[kind]()):
        part.save_pretrained(tmp_path)
    again = two_tower(tmp_path)
    assert (again.notes, again.scale) == (tower.notes, tower.scale)
    torch.testing.assert_close(again.texts(TEXTS), tower.texts(TEXTS))
    torch.testing.assert_close(again.pictures(images), tower.pictures(images))
    assert two_tower(again) is again
    assert two_tower(again.model).model is again.model


# The end token of CLIP ----------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [clip, dual_clip])
def test_words_after_the_largest_id_are_heard(build):
    """With `eos_token_id` 2 transformers pools at the largest id: it gives two texts one embedding, we do not."""
    module = build(eos=2)
    texts = ["a)b", "a)c"]  # `)` has the largest id of all
    own = [features("clip", module, text) for text in texts]
    torch.testing.assert_close(own[0], own[1], atol=0, rtol=0)
    tower = two_tower(module, words(), clip_processor())
    first, second = tower.texts(texts)
    assert float((first - second).abs().max()) > 1e-3
    assert "pooled at the tokenizer's end token 1" in tower.notes[0]
    sane = two_tower(build(), words(), clip_processor())
    torch.testing.assert_close(tower.texts(TEXTS), sane.texts(TEXTS), atol=0, rtol=0)
    assert sane.notes == ()


def test_an_end_token_with_the_largest_id_needs_no_note():
    tower = two_tower(clip(eos=2), words(end=")"), clip_processor())
    assert tower.notes == ()
    expected = two_tower(clip(eos=63), words(end=")"), clip_processor()).texts(["ab"])
    torch.testing.assert_close(tower.texts(["ab"]), expected, atol=0, rtol=0)


def test_an_end_token_that_no_text_has_is_replaced_with_a_note():
    tower = two_tower(clip(eos=7), words(), clip_processor())
    assert "pooled at the tokenizer's end token 1, not at 7" in tower.notes[0]
    own = [features("clip", tower.model.module, text) for text in ("ab", "cd")]
    torch.testing.assert_close(own[0], own[1], atol=0, rtol=0)  # at the first token, whatever follows
    torch.testing.assert_close(tower.texts(TEXTS), two_tower(clip(), words(), clip_processor()).texts(TEXTS))


def test_a_tokenizer_that_leaves_the_end_token_out_gets_it():
    tower = two_tower(clip(), words(added=False), clip_processor())
    assert "put after every text" in tower.notes[0]
    expected = two_tower(clip(), words(), clip_processor()).texts(["<s>ab"])
    torch.testing.assert_close(tower.texts(["<s>ab"]), expected)


def test_no_end_token_at_all_is_refused():
    tokenizer = words(added=False)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="tokenizer without an end token"):
        two_tower(clip(), tokenizer, clip_processor())


def test_long_texts_are_cut_and_end():
    tower = two_tower(clip(), words(), clip_processor())
    cut = tower.texts(["ab" * 100])
    torch.testing.assert_close(cut, tower.texts(["ab" * 31]))  # 64 positions with the first and the end token
    assert not torch.allclose(cut, tower.texts(["ba" * 100]), atol=1e-3)


# Refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "bert", "clip_text_model", "clip_vision_model"])
def test_other_models_are_refused(name):
    model = load(tiny_models.build(name), tokenizer=words())
    with pytest.raises(ModelError, match="expected a model of two towers"):
        two_tower(model)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ModelError, match="CLIPModel without tokenizer"):
        two_tower(clip())
    with pytest.raises(ModelError, match="got no processor, expected a processor of pictures"):
        two_tower(clip(), words())
    tower = two_tower(clip(), words(), clip_processor())
    with pytest.raises(ModelError, match="beside a loaded model"):
        two_tower(tower, words())
    with pytest.raises(ModelError, match=r"try \[text\]"):
        tower.texts("one")
    with pytest.raises(DataError, match=r"try \[picture\]"):
        tower.pictures(random_pictures(1)[0])
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"picture 1, .*empty file"):
        tower.pictures([random_pictures(1)[0], tmp_path / "a.png"])
    for call in (tower.texts, tower.pictures):
        with pytest.raises(ModelError, match="batch_size: got 0"):
            call([], 0)


def test_numbers_that_are_none_are_refused():
    wrong = clip_processor()
    wrong.image_std = [0.0, 1.0, 1.0]
    with pytest.raises(DataError, match="picture 0: got pixels that are nan or infinite"):
        two_tower(clip(), words(), wrong).pictures(random_pictures(2))
    large = clip_processor(32)
    with pytest.raises(ModelError, match="got pictures of 32 x 32 from the processor, expected 16 x 16"):
        two_tower(clip(), words(), large).pictures(random_pictures(2))
    module = clip()
    module.text_projection.weight.data[:] = float("nan")
    with pytest.raises(ModelError, match="text 0: got an embedding that is zero, nan or infinite"):
        two_tower(module, words(), clip_processor()).texts(["a"])
    module.logit_scale.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="logit scale of nan"):
        two_tower(module, words(), clip_processor())
