"""Captioners against transformers' own forward passes and `generate`, picture by picture."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
import transformers as hf

import pictured
from captioners_by_hand import own_logits, pixels, start_of
from trimtab.errors import ModelError, ShapeError
from trimtab.models.captioner import captioner
from trimtab.models.load import load

TEXTS = ["a cat", "two dogs.", "b", "some words"]


@pytest.fixture(params=list(pictured.CAPTIONERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def speak(kind: str, prompt: str | None = None) -> Any:
    return captioner(
        pictured.CAPTIONERS[kind](), prompt, tokenizer=pictured.words(), processor=pictured.clip_processor()
    )


def test_log_probabilities_are_those_of_a_plain_forward_pass(kind):
    speaker, images = speak(kind), pictured.random_pictures(4)
    features, ids = speaker.features(images), speaker.encode(TEXTS)
    ended = [True, False, True, True]
    found, mask = speaker.log_probabilities(features, ids, ended)
    assert mask.sum(1).tolist() == [len(row) + end for row, end in zip(ids, ended, strict=True)]
    for row in range(4):
        with torch.no_grad():
            logp = own_logits(
                kind, speaker.model.module, pixels(images)[row : row + 1], ids[row]
            ).log_softmax(-1)
        tokens = [*ids[row], *([1] if ended[row] else [])]
        expected = logp[torch.arange(len(tokens)), torch.tensor(tokens)]
        torch.testing.assert_close(found[row][mask[row].bool()].detach(), expected, atol=1e-5, rtol=1e-5)
        assert not found[row][~mask[row].bool()].any()


def test_gradients_are_those_of_a_plain_forward_pass(kind):
    speaker, image = speak(kind), pictured.random_pictures(1)
    ids, parameters = speaker.encode(["a cat"]), speaker.parameters()
    found, _ = speaker.log_probabilities(speaker.features(image), ids, [True])
    grads = torch.autograd.grad(found.sum(), list(parameters.values()), allow_unused=True)
    logp = own_logits(kind, speaker.model.module, pixels(image), ids[0]).log_softmax(-1)
    own = logp[torch.arange(len(ids[0]) + 1), torch.tensor([*ids[0], 1])].sum()
    expected = torch.autograd.grad(own, list(parameters.values()), allow_unused=True)
    for name, one, other in zip(parameters, grads, expected, strict=True):
        assert not name.startswith(speaker.speaker.vision)
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def own_captions(kind: str, module: Any, seen: torch.Tensor, beams: int, length: int = 12) -> list[list[int]]:
    """Tokens by transformers' own `generate` from pixels, one picture at a time."""
    settings: dict[str, Any] = {"max_new_tokens": length, "num_beams": beams, "do_sample": False}
    rows = []
    for one in seen:
        if kind == "llava":
            ids = torch.tensor([start_of(kind)])
            told = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            out = module.generate(pixel_values=one[None], pad_token_id=2, **told, **settings)[0][
                ids.shape[1] :
            ]
        elif kind.startswith("ved") or kind == "blip":
            out = module.generate(pixel_values=one[None], **settings)[0][1:]
        else:
            out = module.generate(pixel_values=one[None], pad_token_id=2, **settings)[0]
        rows.append(out.tolist())
    return [row[: row.index(1)] if 1 in row else row for row in rows]


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_are_those_of_transformers(kind, beams):
    speaker, images = speak(kind), pictured.random_pictures(6)
    features = speaker.features(images)
    expected = own_captions(kind, speaker.model.module, pixels(images), beams)
    for size in (4, 64):
        found = speaker.generate(features, max_new_tokens=12, num_beams=beams, batch_size=size)
        assert found.ids == expected
        assert found.ended == [len(row) < 12 for row in expected]
    assert len({tuple(row) for row in expected}) > 1, "the pictures make no difference"
    assert found.texts == [
        speaker.model.tokenizer.decode(row, skip_special_tokens=True).strip() for row in expected
    ]


def test_draws_depend_on_the_seed_of_the_row_alone(kind):
    speaker = speak(kind)
    features = speaker.features(pictured.random_pictures(4))
    first = speaker.generate(features, max_new_tokens=6, temperature=2.0, seeds=[5, 6, 7, 8])
    again = speaker.generate(features[[3, 1]], max_new_tokens=6, temperature=2.0, seeds=[8, 6], batch_size=1)
    assert again.ids == [first.ids[3], first.ids[1]]
    same = speaker.generate(features[[0, 0, 0]], max_new_tokens=6, temperature=2.0, seeds=[1, 1, 2])
    assert same.ids[0] == same.ids[1] != same.ids[2]
    state = torch.random.get_rng_state()
    default = speaker.generate(features, max_new_tokens=6, temperature=2.0)
    assert torch.equal(state, torch.random.get_rng_state())
    assert default.ids == speaker.generate(features, max_new_tokens=6, temperature=2.0).ids != first.ids


def test_draws_follow_the_log_probabilities():
    """Frequencies of the first token against its probabilities, by a chi-squared test."""
    from scipy.stats import chisquare

    speaker = speak("prefix")
    one, n = speaker.features(pictured.random_pictures(1)), 1000
    drawn = speaker.generate(one[[0] * n], max_new_tokens=1, temperature=1.0, seeds=range(n), batch_size=n)
    found = torch.bincount(torch.tensor([row[0] if row else 1 for row in drawn.ids]), minlength=64)
    with torch.no_grad():
        scored = [speaker.log_probabilities(one, [[token]], [False])[0] for token in range(64)]
    p = torch.cat(scored).exp()[:, 0].double()
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-5)
    common = p * n >= 5
    counts = torch.cat([found[common], found[~common].sum()[None]]).double()
    expected = torch.cat([p[common], p[~common].sum()[None]]) * n
    assert chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3


def test_a_folder_says_the_same(kind, tmp_path):
    speaker, images = speak(kind), pictured.random_pictures(3)
    speaker.model.module.save_pretrained(tmp_path)
    pictured.words().save_pretrained(tmp_path)
    pictured.clip_processor().save_pretrained(tmp_path)
    again = captioner(tmp_path)
    features = again.features(images, 2)
    torch.testing.assert_close(features.values, speaker.features(images).values)
    assert again.generate(features).ids == speaker.generate(features).ids
    assert captioner(again) is again
    assert captioner(again.model).model is again.model
    assert set(again.parameters()) == set(speaker.parameters())
    assert captioner(load(tmp_path), "a ").prompt == "a "


def test_a_prompt_stands_before_every_caption(kind):
    prompt = "pic) a" if kind == "llava" else "a cat"
    speaker, images = speak(kind, prompt), pictured.random_pictures(3)
    features, ids = speaker.features(images), [[9, 8], [7], [6, 5]]
    found, _ = speaker.log_probabilities(features, ids, [True] * 3)
    words = pictured.words()(prompt, add_special_tokens=False)["input_ids"]
    for row in range(3):
        if kind == "llava":
            start = [0, *words[:3], *[pictured.IMAGE] * 4, *words[4:]]
            seen = {"pixel_values": pixels(images)[row : row + 1]}
            logits = speaker.model.module(input_ids=torch.tensor([[*start, *ids[row]]]), **seen).logits[0]
            logits = logits[len(start) - 1 :]
        else:
            logits = own_logits(
                kind, speaker.model.module, pixels(images)[row : row + 1], [*words, *ids[row]]
            )
            logits = logits[len(words) :]
        at = torch.tensor([*ids[row], 1])
        expected = logits.log_softmax(-1)[torch.arange(len(at)), at]
        torch.testing.assert_close(found[row][: len(at)], expected, atol=1e-5, rtol=1e-5)


def test_empty_captions_and_several_end_tokens():
    speaker = speak("prefix")
    features = speaker.features(pictured.random_pictures(2))
    found, mask = speaker.log_probabilities(features, [[], []], [True, False])
    assert mask.tolist() == [[1], [0]]
    speaker.model.module.generation_config.eos_token_id = [1, 7]
    both, _ = speaker.log_probabilities(features, [[], []], [True, True])
    with torch.no_grad():
        other, _ = speaker.log_probabilities(features, [[7], [7]], [False, False])
    torch.testing.assert_close(both[0].exp(), found[0].exp() + other[0].exp())
    none, mask = speaker.log_probabilities(features, [[], []], [False, False])
    assert none.shape == mask.shape == (2, 0)


def most_tokens(speaker: Any, features: Any) -> int:
    """The largest max_new_tokens that `generate` takes."""
    for tokens in range(70, 0, -1):
        with suppress(ModelError):
            speaker.generate(features, max_new_tokens=tokens)
            return tokens
    raise AssertionError("no number of tokens will do")


def test_a_caption_cut_at_the_limit_of_the_model_is_scored(kind):
    speaker = speak(kind)
    features = speaker.features(pictured.random_pictures(2))
    tokens = most_tokens(speaker, features)
    assert tokens < 70
    ids = [[5] * tokens, [6, 5]]
    found, mask = speaker.log_probabilities(features, ids, [False, True])
    assert mask.sum(1).tolist() == [tokens, 3]
    shorter, _ = speaker.log_probabilities(features, [[5] * (tokens - 1), [6, 5]], [True, True])
    torch.testing.assert_close(found[0, :-1], shorter[0, :-1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1, :3], shorter[1, :3], atol=1e-5, rtol=1e-5)
    with pytest.raises(ModelError, match="expected at most 64, the model's limit"):
        speaker.log_probabilities(features, ids, [True, True])


def test_transformers_does_not_warn_of_a_missing_mask(caplog, monkeypatch):
    monkeypatch.setattr(hf.utils.logging.get_logger("transformers"), "propagate", True)
    hf.utils.logging.warning_once.cache_clear()
    speaker = speak("ved")
    speaker.model.module.decoder.config.pad_token_id = 5
    features = speaker.features(pictured.random_pictures(2))
    speaker.log_probabilities(features, [[5], [6, 5]], [True, True])
    speaker.generate(features, max_new_tokens=3)
    assert not [record for record in caplog.records if "mask" in record.getMessage()]


def test_modes_settings_and_dropout_are_left_alone():
    module = pictured.prefix()
    module.language_model.config.attn_pdrop = 0.5
    speaker = captioner(module, tokenizer=pictured.words(), processor=pictured.clip_processor())
    features = speaker.features(pictured.random_pictures(2))
    module.train()
    assert not module.vision_tower.training
    modes = [part.training for part in module.modules()]
    settings = module.generation_config
    settings.repetition_penalty = 3.0
    ids = speaker.generate(features, max_new_tokens=5).ids
    first, _ = speaker.log_probabilities(features, ids, [False] * 2)
    second, _ = speaker.log_probabilities(features, ids, [False] * 2)
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    assert modes == [part.training for part in module.modules()]
    assert module.language_model.generation_config is settings
    settings.repetition_penalty = None
    assert ids == speaker.generate(features, max_new_tokens=5).ids


def test_frozen_vision_is_not_among_the_parameters(kind):
    speaker = speak(kind)
    module, vision = speaker.model.module, speaker.speaker.vision
    names = {
        name for name, one in module.named_parameters() if one.requires_grad and not name.startswith(vision)
    }
    assert set(speaker.parameters()) == names
    module.requires_grad_(True)
    assert set(speaker.parameters(vision=True)) == {name for name, _ in module.named_parameters()}
    module.requires_grad_(False)
    with pytest.raises(ModelError, match="every parameter frozen"):
        speaker.parameters()


def test_an_adapter_speaks():
    from trimtab.models.load import Model

    module = pictured.prefix()
    model = load(module, tokenizer=pictured.words(), processor=pictured.clip_processor())
    images = pictured.random_pictures(2)
    before = captioner(model).generate(captioner(model).features(images)).ids
    adapted = load(
        module,
        tokenizer=pictured.words(),
        processor=pictured.clip_processor(),
        adapter={"r": 2, "targets": ["c_attn"]},
    )
    assert isinstance(adapted, Model)
    speaker = captioner(adapted)
    assert speaker.generate(speaker.features(images)).ids == before
    assert all("lora_" in name for name in speaker.parameters())


# Refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "bert", "clip"])
def test_other_models_are_refused(name):
    import tiny_models

    model = load(tiny_models.build(name), tokenizer=pictured.words())
    with pytest.raises(ModelError, match="expected a captioner: VisionEncoderDecoder, BLIP, Llava"):
        captioner(model)


def test_what_is_missing_or_out_of_range_is_named():
    with pytest.raises(ModelError, match="PrefixCaptioner without tokenizer"):
        captioner(pictured.prefix())
    with pytest.raises(ModelError, match="got no processor, expected a processor of pictures"):
        captioner(pictured.prefix(), tokenizer=pictured.words())
    speaker = speak("prefix")
    features = speaker.features(pictured.random_pictures(2))
    with pytest.raises(ModelError, match="beside a loaded model"):
        captioner(speaker, tokenizer=pictured.words())
    with pytest.raises(ModelError, match="no pictures"):
        speaker.features([])
    with pytest.raises(ShapeError, match="got 1 seeds for 2 pictures"):
        speaker.generate(features, temperature=1.0, seeds=[1])
    with pytest.raises(ShapeError, match="got 2 pictures, 1 captions and 2 ends"):
        speaker.log_probabilities(features, [[5]], [True, True])
    with pytest.raises(ModelError, match="expected beams or draws"):
        speaker.generate(features, num_beams=2, temperature=1.0)
    with pytest.raises(ModelError, match="max_new_tokens: got 0"):
        speaker.generate(features, max_new_tokens=0)
    with pytest.raises(ModelError, match=r"3 prefix vectors and 62 tokens.*at most 64"):
        speaker.generate(features, max_new_tokens=63)
    assert len(speaker.generate(features, max_new_tokens=62)) == 2
    with pytest.raises(ModelError, match=r"token 64 .* in caption 0"):
        speaker.log_probabilities(features, [[64], [5]], [True, True])


def test_a_captioner_of_another_vocabulary_is_refused():
    import tiny_models

    large = tiny_models.chat_tokenizer(None)
    speaker = captioner(pictured.prefix(), tokenizer=large, processor=pictured.clip_processor())
    with pytest.raises(ModelError, match="expected tokens that the model has a place for"):
        speaker.encode(["zzz"])


def test_features_that_are_no_numbers_are_refused():
    speaker = speak("prefix")
    speaker.model.module.vision_tower.visual_projection.weight.data[:] = float("nan")
    with pytest.raises(ModelError, match="vision part vision_tower: got features that are nan"):
        speaker.features(pictured.random_pictures(1))


def test_a_decoder_without_a_start_token_is_refused():
    module = pictured.ved()
    for config in (module.config, module.generation_config):
        config.decoder_start_token_id = None
    for config in (module.config, module.generation_config, module.config.decoder):
        config.bos_token_id = None
    with pytest.raises(ModelError, match="decoder without a start token"):
        captioner(module, tokenizer=pictured.words(), processor=pictured.clip_processor())


def test_a_captioner_without_an_end_token():
    module, tokenizer = pictured.prefix(), pictured.words(added=False)
    tokenizer.eos_token = None
    module.generation_config.eos_token_id = module.config.text_config.eos_token_id = None
    speaker = captioner(module, tokenizer=tokenizer, processor=pictured.clip_processor())
    features = speaker.features(pictured.random_pictures(1))
    assert speaker.generate(features, max_new_tokens=4).ended == [False]
    with pytest.raises(ModelError, match="without an end token"):
        speaker.log_probabilities(features, [[5]], [True])


def test_llava_reads_what_its_processor_writes():
    """The processor's own expansion of a picture's token and its chat template, row by row, against ours."""
    template = (
        "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}){% else %}{{ c.text }}"
        "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    )
    processor = hf.LlavaProcessor(
        pictured.clip_processor(),
        pictured.words(added=False),
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token=")",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    speaker = captioner(pictured.llava(), tokenizer=pictured.words(added=False), processor=processor)
    assert speaker.prompt == ")Describe the picture.:"
    images = pictured.random_pictures(3)
    found = speaker.generate(speaker.features(images), max_new_tokens=8)
    for image, ids in zip(images, found.ids, strict=True):
        told = processor(images=image, text=speaker.prompt, return_tensors="pt")
        out = speaker.model.module.generate(**told, max_new_tokens=8, do_sample=False, pad_token_id=2)
        own = out[0][told["input_ids"].shape[1] :].tolist()
        assert ids == (own[: own.index(1)] if 1 in own else own)


def test_llava_may_write_the_token_of_a_picture():
    """What it drew at a high temperature is scored as it was written: at temperature 1, one draw has its odds."""
    speaker = speak("llava")
    features = speaker.features(pictured.random_pictures(2))
    image = int(speaker.model.module.config.image_token_index)
    words = speaker.encode(TEXTS[:2])
    rows = [[words[0][0], image, words[0][1]], words[1][:2]]
    found, mask = speaker.log_probabilities(features, rows, [False, False])
    assert mask.sum(1).tolist() == [3, 2]
    assert bool(found.isfinite().all())
    before, _ = speaker.log_probabilities(features, [rows[0][:2], rows[1]], [False, False])
    torch.testing.assert_close(found[:, :2], before)
    with torch.no_grad():  # the tokens after it attend to its word embedding, not to a patch
        told = speaker.speaker.keywords(features.values[:1], torch.tensor([[*start_of("llava"), *rows[0]]]))
        embedded = speaker.model.module.get_input_embeddings().weight[image]
    torch.testing.assert_close(told["inputs_embeds"][0, -2], embedded)
