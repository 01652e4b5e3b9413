"""The handle with pictures: loading, completions, likelihoods and captures, against passes by hand."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import pictured
import tiny_models
from captioners_by_hand import own_logits, pixels
from trimtab.errors import ModelError, ShapeError
from trimtab.models.captioner import captioner
from trimtab.models.captioning import picture_batches
from trimtab.models.families import towers
from trimtab.models.hooks import capture, intervene
from trimtab.models.language import continuation_log_likelihood, log_likelihood
from trimtab.models.load import Model, load
from trimtab.models.sites import resolve

TEXTS = ["a cat", "two dogs.", "b", "a cat on a mat"]


def handle(kind: str) -> Model:
    build = (pictured.CAPTIONERS | pictured.TOWERS)[kind]
    processor = pictured.PROCESSORS.get(kind, pictured.clip_processor)()
    return load(build(), tokenizer=pictured.words(), processor=processor)


@pytest.fixture(params=list(pictured.CAPTIONERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Loading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*pictured.CAPTIONERS, *pictured.TOWERS])
def test_a_folder_is_loaded_with_its_class_tokenizer_and_processor(name, tmp_path):
    model = handle(name)
    model.save_pretrained(tmp_path / "whole")
    again = load(tmp_path / "whole")
    assert type(again.module) is type(model.module)
    assert again.fingerprint() == model.fingerprint()
    assert again.tokenizer is not None
    assert again.processor is not None
    with pytest.raises(ModelError, match="expected a causal language model"):
        load(tmp_path / "whole", kind="language model")


def test_nothing_is_said_of_a_library_that_is_not_there_and_peft_is_left_alone(tmp_path):
    """transformers says once a process that its processors want torchvision; loading does not make it.

    Without an adapter, PEFT, which takes as long to import as transformers, is not.
    """
    names = ("clip", "prefix")
    for name in names:
        handle(name).save_pretrained(tmp_path / name)
    code = "import sys; from trimtab.models.load import load; [load(one) for one in sys.argv[1:]]; "
    code += "print('peft' in sys.modules)"
    folders = [str(tmp_path / name) for name in names]
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True)
    assert "torchvision" not in done.stdout + done.stderr
    assert done.stdout == "False\n"


def test_what_transformers_loads_is_the_same(tmp_path):
    from transformers import AutoModelForImageTextToText

    for name in ("prefix", "ved", "blip", "llava"):
        module = pictured.CAPTIONERS[name]()
        module.save_pretrained(tmp_path / name)
        again = AutoModelForImageTextToText.from_pretrained(tmp_path / name)
        assert type(again) is type(module)
        for key, value in module.state_dict().items():
            assert torch.equal(again.state_dict()[key], value)


# Completions --------------------------------------------------------------------------------------------


def test_captions_without_and_with_prompts(kind):
    model, images = handle(kind), pictured.random_pictures(4)
    speaker = captioner(model)
    expected = speaker.generate(speaker.features(images), max_new_tokens=6).texts
    assert model.generate(None, 6, images=images) == expected
    assert model.generate(images=images, max_new_tokens=6, batch_size=1) == expected
    picture = ")" if kind == "llava" else ""
    prompts = [f"{picture}{text}" for text in TEXTS]
    whole = model.generate(prompts, 6, images=images)
    for row, (prompt, image) in enumerate(zip(prompts, images, strict=True)):  # prompts of several lengths
        one = captioner(model, prompt)
        assert one.generate(one.features([image]), max_new_tokens=6).texts == [whole[row]]
    assert model.generate(prompts, 6, images=speaker.features(images), batch_size=3) == whole


def test_draws_depend_on_the_seed_and_the_place(kind):
    model = handle(kind)
    seen = captioner(model).features(pictured.random_pictures(4))
    settings: Any = {"max_new_tokens": 6, "temperature": 3.0, "images": seen}
    first = model.generate(seed=1, **settings)
    assert model.generate(seed=1, batch_size=1, **settings) == first
    assert model.generate(seed=2, **settings) != first
    if kind != "llava":
        prompts = ["", "ab", "", "abc"]
        mixed = model.generate(prompts, seed=1, **settings)
        assert [mixed[0], mixed[2]] == [first[0], first[2]]


# Likelihoods --------------------------------------------------------------------------------------------


def test_log_likelihoods_are_those_of_one_picture_at_a_time(kind):
    model, images = handle(kind), pictured.random_pictures(4)
    ids = captioner(model).encode(TEXTS)
    expected = []
    for row in range(4):
        with torch.no_grad():
            logp = own_logits(kind, model.module, pixels(images)[row : row + 1], ids[row]).log_softmax(-1)
        expected.append(float(logp[torch.arange(len(ids[row])), torch.tensor(ids[row])].double().sum()))
    for size in (1, 3, 16):
        found = log_likelihood(model, TEXTS, images=images, batch_size=size)
        np.testing.assert_allclose(found.nats, expected, rtol=1e-5)
        assert found.tokens.tolist() == list(map(len, ids))
    cut = log_likelihood(model, TEXTS, images=images, max_tokens=2)
    assert cut.tokens.tolist() == [min(len(row), 2) for row in ids]
    assert log_likelihood(model, TEXTS[::-1], images=images).nats.tolist() != pytest.approx(expected[::-1])


def test_a_continuation_is_what_its_tokens_add(kind):
    model, images = handle(kind), pictured.random_pictures(3)
    picture = ")" if kind == "llava" else ""
    prompts, endings = [f"{picture}{text}" for text in ("ab", "the quick", "")], [" cd", " fox", "y"]
    found = continuation_log_likelihood(model, prompts, endings, images=images, batch_size=2)
    assert found.tokens.tolist() == [3, 4, 1]
    for row in range(3):
        speaker = captioner(model, prompts[row])
        seen, ids = speaker.features(images[row : row + 1]), speaker.encode([endings[row]])
        logp, _ = speaker.log_probabilities(seen, ids, [False])
        assert found.nats[row] == pytest.approx(float(logp.detach().sum()), rel=1e-5)
    if kind != "llava":
        whole = log_likelihood(model, ["ab cd"], images=images[:1]).nats[0]
        head = log_likelihood(model, ["ab"], images=images[:1]).nats[0]
        assert found.nats[0] == pytest.approx(whole - head, rel=1e-4)


# Captures -----------------------------------------------------------------------------------------------

SITES = {
    "ved": ("encoder.layers.*.mlp", "decoder.transformer.h.*"),
    "ved_bert": ("encoder.layers.*.mlp", "decoder.bert.encoder.layer.*.output"),
    "ved_wide": ("encoder.layers.*", "decoder.transformer.h.*"),
    "blip": ("vision_model.encoder.layers.*", "text_decoder.bert.encoder.layer.*.output"),
    "prefix": ("vision_tower.vision_model.encoder.layers.*", "language_model.transformer.h.*"),
    "prefix_patches": ("vision_tower.encoder.layers.*", "language_model.model.layers.*"),
    "llava": ("vision_tower.encoder.layers.*", "language_model.layers.*"),
    "clip": ("vision_model.encoder.layers.*", "text_model.encoder.layers.*"),
    "siglip": ("vision_model.encoder.layers.*", "text_model.encoder.layers.*"),
    "dual": ("vision_model.layers.*", "text_model.encoder.layer.*"),
}


@pytest.mark.parametrize("name", list(SITES))
@pytest.mark.parametrize("pool", ["max", "last"])
def test_padding_and_the_batch_change_no_capture(name, pool):
    model, images = handle(name), pictured.random_pictures(4)

    def taken(sites: Any, size: int) -> dict[str, torch.Tensor]:
        with torch.no_grad(), capture(model, sites, pool) as found:
            for batch in picture_batches(model, images, TEXTS, batch_size=size):
                model.module(**batch)
        return dict(found)

    alone, together = taken(SITES[name], 1), taken(SITES[name], 3)
    assert len(alone) == 4
    for site, value in alone.items():
        assert value.shape[0] == 4
        torch.testing.assert_close(together[site], value, atol=2e-5, rtol=1e-4)
        assert float((value[0] - value[1]).abs().max()) > 1e-3, "the pictures make no difference"


def test_places_of_the_parts_that_have_a_family():
    """`residual` and the others after the part: a GPT-2 that decodes, CLIP that sees."""
    expected = {
        "ved": {"decoder": "gpt2"},
        "ved_bert": {"decoder": "bert"},
        "prefix": {"vision_tower": "clip_vision_model", "language_model": "gpt2"},
        "llava": {"model.vision_tower": "clip_vision_model", "model.language_model": "llama"},
        "clip": {"text_model": "clip_text_model", "vision_model": "clip_vision_model"},
    }
    for name, parts in expected.items():
        model = handle(name)
        assert {path: family.name for path, family in towers(model.module).items()} == parts
        for path in parts:
            sites = resolve(model, f"{path}.mlp_out")
            assert len(sites) == 2
            assert all(site.path.startswith(f"{path}.") for site in sites)


def test_a_vision_tower_is_captured_without_texts():
    model = load(tiny_models.build("clip_vision_model"), processor=pictured.clip_processor())
    images = pictured.random_pictures(3)
    with torch.no_grad(), capture(model, "encoder.layers.1", "mean") as found:
        for batch in picture_batches(model, images, batch_size=2):
            model.module(**batch)
        whole = model.module(pixels(images), output_hidden_states=True).hidden_states[-1].mean(1)
    torch.testing.assert_close(found["encoder.layers.1:out"][:3], whole)


def test_what_a_batch_reads_is_what_a_caption_reads(kind):
    """Logits of `picture_batches` against the log-probabilities of the same texts."""
    model, images = handle(kind), pictured.random_pictures(4)
    expected = log_likelihood(model, TEXTS, images=images).nats
    ids = captioner(model).encode(TEXTS)
    with torch.no_grad():
        (batch,) = picture_batches(model, images, TEXTS, batch_size=4)
        logits = model.module(**batch).logits
    read = batch.get("decoder_input_ids", batch.get("input_ids"))
    before = read.shape[1] - max(map(len, ids))
    skipped = 0 if kind.startswith("prefix") else before - 1
    for row, tokens in enumerate(ids):
        logp = logits[row, skipped : skipped + len(tokens)].log_softmax(-1)
        said = logp[torch.arange(len(tokens)), torch.tensor(tokens)].double().sum()
        assert float(said) == pytest.approx(expected[row], rel=1e-5)


def test_an_intervention_changes_captions(kind):
    model = handle(kind)
    seen = captioner(model).features(pictured.random_pictures(4))
    before = model.generate(images=seen, max_new_tokens=8)
    site = SITES[kind][1].replace("*", "1")
    with intervene(model, {site: lambda h: h + 3.0 * torch.linspace(-1, 1, h.shape[-1])}):
        assert model.generate(images=seen, max_new_tokens=8) != before
    with intervene(model, {site: torch.zeros_like}, strength=0.0):
        assert model.generate(images=seen, max_new_tokens=8) == before


# Refusals -----------------------------------------------------------------------------------------------


def test_a_language_model_sees_nothing():
    model = load(tiny_models.build("llama"), tokenizer=pictured.words(), processor=pictured.clip_processor())
    images = pictured.random_pictures(1)
    for call in (
        lambda: model.generate(["a"], images=images),
        lambda: log_likelihood(model, ["a"], images=images),
        lambda: continuation_log_likelihood(model, ["a"], ["b"], images=images),
        lambda: picture_batches(model, images, ["a"]),
    ):
        with pytest.raises(ModelError, match="got pictures for a LlamaForCausalLM, expected a"):
            call()
    with pytest.raises(ModelError, match="got no prompts"):
        model.generate()


@pytest.mark.parametrize("kind", ["ved", "blip", "prefix"])
def test_a_captioner_needs_pictures(kind):
    model = handle(kind)
    for call in (
        lambda: model.generate(["a"]),
        lambda: log_likelihood(model, ["a"]),
        lambda: continuation_log_likelihood(model, ["a"], ["b"]),
    ):
        with pytest.raises(
            ModelError, match=r"got texts alone for a .*, expected a picture for each; try images="
        ):
            call()


def test_pictures_that_do_not_fit_are_refused():
    model, images = handle("prefix"), pictured.random_pictures(2)
    with pytest.raises(ShapeError, match="got 1 texts and 2 pictures"):
        log_likelihood(model, ["a"], images=images)
    with pytest.raises(ShapeError, match="got 1 prompts for 2 pictures"):
        model.generate(["a"], images=images)
    with pytest.raises(ShapeError, match="got 1 texts and more pictures"):
        list(picture_batches(model, images, ["a"]))
    with pytest.raises(ModelError, match=r"try \[prompt\]"):
        model.generate("ab", images=images)
    with pytest.raises(ModelError, match="got no processor, expected a processor of pictures"):
        load(pictured.prefix(), tokenizer=pictured.words()).generate(images=images)
    with pytest.raises(ModelError, match="got pictures of 32 x 32 from the processor, expected 16 x 16"):
        load(pictured.prefix(), tokenizer=pictured.words(), processor=pictured.clip_processor(32)).generate(
            images=images
        )
    with pytest.raises(ModelError, match="got 2 pictures in a prompt, expected one picture"):
        handle("llava").generate(["a)b)"] * 2, images=images)
