"""The prefix model: its equation by hand, what is trained, and its folder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

import pictured
import tiny_models
from trimtab.errors import ConfigError, ModelError
from trimtab.models.prefix import PrefixCaptioner, PrefixCaptionerConfig

IDS = torch.tensor([[5, 9, 7], [8, 3, 4]])


def seen(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_logits_are_those_of_the_language_model_after_the_mapped_vector():
    """ClipCap by hand: W2 tanh(W1 v) as vectors before the embedded words, for CLIP's own image vector v."""
    clip, gpt = tiny_models.build("clip"), tiny_models.build("gpt2")
    model = PrefixCaptioner.assemble(clip, gpt, prefix_length=3)
    with torch.no_grad():
        v = clip.get_image_features(seen()).pooler_output
        first, _, second = model.mapping
        mapped = torch.tanh(v @ first.weight.T + first.bias) @ second.weight.T + second.bias
        read = torch.cat([mapped.reshape(2, 3, 16), gpt.transformer.wte(IDS)], 1)
        expected = gpt(inputs_embeds=read).logits[:, 2:]
        found = model(IDS, seen())
        torch.testing.assert_close(found.logits, expected)
        assert found.logits.shape == (2, 4, 64)
        assert first.weight.shape == (24, 8)  # half of what is put out, as in the paper
        loss = torch.nn.functional.cross_entropy(expected[:, :-1].flatten(0, 1), IDS.flatten())
        torch.testing.assert_close(model(IDS, seen(), labels=IDS).loss, loss)


@pytest.mark.parametrize("reading", ["projected", "pooled", "patches"])
def test_features_stand_for_the_picture_and_padding_for_nothing(reading):
    model = pictured.prefix(reading)
    with torch.no_grad():
        features = model.look(seen())
        whole = model(IDS, seen()).logits
        torch.testing.assert_close(model(IDS, features=features).logits, whole)
        padded = torch.cat([IDS, torch.full((2, 2), 6)], 1)
        mask = torch.tensor([[1, 1, 1, 0, 0]] * 2)
        torch.testing.assert_close(model(padded, seen(), mask).logits[:, :4], whole)
        torch.testing.assert_close(model(features=features).logits, whole[:, :1])
    assert features.shape == {"projected": (2, 8), "pooled": (2, 16), "patches": (2, 5, 16)}[reading]
    assert model.prefix(features).shape == (2, 5 if reading == "patches" else 3, 16)


def test_feature_maps_of_convolutions_are_patches():
    vision = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])
    model = PrefixCaptioner(
        PrefixCaptionerConfig(vision, tiny_models.CONFIGS["gpt2"](), reading="patches")
    ).eval()
    whole = model.vision_tower(seen()).last_hidden_state
    features = model.look(seen())
    assert features.shape[2] == 12
    torch.testing.assert_close(features[:, 0], whole[:, :, 0, 0])


def test_what_sees_is_frozen_unless_asked(tmp_path):
    model = pictured.prefix()
    for one in (model, model.train()):
        assert not one.vision_tower.training
        assert not any(p.requires_grad for p in one.vision_tower.parameters())
        assert all(p.requires_grad for p in (*one.mapping.parameters(), *one.language_model.parameters()))
    model.save_pretrained(tmp_path)
    again, report = PrefixCaptioner.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not any(p.requires_grad for p in again.vision_tower.parameters())
    assert again.language_model.generation_config is again.generation_config
    open_one = PrefixCaptioner(PrefixCaptionerConfig(*parts(), freeze_vision=False)).train()
    assert open_one.vision_tower.training
    assert all(p.requires_grad for p in open_one.parameters())


def parts() -> tuple[Any, Any]:
    return tiny_models.CONFIGS["clip_vision_model"](), tiny_models.CONFIGS["gpt2"]()


def settings(config: Any) -> dict[str, Any]:
    """All that a configuration says, but for what loading notes in it."""
    noted = ("architectures", "dtype", "_name_or_path")
    facts = {name: value for name, value in config.to_dict().items() if name not in noted}
    return {
        name: settings(getattr(config, name)) if name.endswith("_config") else v for name, v in facts.items()
    }


def test_a_folder_keeps_everything(tmp_path):
    for text in ("gpt2", "llama"):
        model = pictured.prefix(text=text)
        model.save_pretrained(tmp_path / text)
        assert (tmp_path / text / "model.safetensors").is_file()
        again = hf.AutoModelForImageTextToText.from_pretrained(tmp_path / text)
        assert settings(again.config) == settings(model.config)
        with torch.no_grad():
            torch.testing.assert_close(again(IDS, seen()).logits, model(IDS, seen()).logits, atol=0, rtol=0)
        tied = again.get_output_embeddings().weight is again.get_input_embeddings().weight
        assert tied == model.config.text_config.tie_word_embeddings


def test_parts_are_copied_from_models_and_folders(tmp_path):
    clip, gpt = tiny_models.build("clip"), tiny_models.build("gpt2")
    clip.save_pretrained(tmp_path / "clip")
    gpt.save_pretrained(tmp_path / "gpt")
    torch.manual_seed(0)
    one = PrefixCaptioner.assemble(clip, gpt)
    torch.manual_seed(0)
    two = PrefixCaptioner.assemble(tmp_path / "clip", str(tmp_path / "gpt"))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, atol=0, rtol=0)
    one.language_model.transformer.wte.weight.data[:] = 0
    assert float(gpt.transformer.wte.weight.detach().abs().max()) > 0
    patches = PrefixCaptioner.assemble(clip, gpt, reading="patches")
    with torch.no_grad():
        torch.testing.assert_close(patches.look(seen()), clip.vision_model(seen()).last_hidden_state)


def test_training_what_speaks_lowers_the_loss():
    model = pictured.prefix()
    images, ids = seen(4), torch.tensor([[5, 1], [6, 1], [7, 1], [8, 1]])
    features, optimizer = (
        model.look(images),
        torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2),
    )
    before = float(model(ids, features=features, labels=ids).loss.detach())
    for _ in range(60):
        optimizer.zero_grad()
        model(ids, features=features, labels=ids).loss.backward()
        optimizer.step()
    assert float(model(ids, features=features, labels=ids).loss.detach()) < before / 10
    assert model.generate(images, max_new_tokens=2, pad_token_id=2)[:, 0].tolist() == [5, 6, 7, 8]


def test_settings_that_are_none_are_refused():
    with pytest.raises(ConfigError, match=r"reading: got 'pool', expected one of .*; try 'pooled'"):
        PrefixCaptionerConfig(reading="pool")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="prefix_length=0"):
        PrefixCaptionerConfig(prefix_length=0)
    with pytest.raises(ModelError, match="reading='projected' of a vit"):
        PrefixCaptioner(PrefixCaptionerConfig(hf.ViTConfig(**tiny_models.VISION), parts()[1]))
    assert PrefixCaptionerConfig().text_config.model_type == "gpt2"
