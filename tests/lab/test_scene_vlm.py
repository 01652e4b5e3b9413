from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from trimtab.lab import registry
from trimtab.lab.corpora import read_card
from trimtab.lab.scene_blocks import (
    END,
    IMAGE,
    UNLABELLED,
    Blocks,
    block_tokenizer,
    caption,
    easy_question,
    numbers,
    packed,
)
from trimtab.lab.scene_questions import QUESTION_WORLD, QuestionScenes, question_scenes
from trimtab.lab.scene_towers import Schedule
from trimtab.lab.scene_vlm import (
    FIRST,
    LATER,
    SceneVlm,
    block_logits,
    new_vlm,
    scene_vlm,
    seen,
    vlm_facts,
)
from trimtab.lab.scenes import Scene, Thing
from trimtab.models.load import load
from trimtab.models.speakers import need_speaker

TINY = SceneVlm(
    scenes=60,
    held_out=20,
    vision=Schedule(20, 4e-3, 16),
    language=Schedule(5, 2e-3, 8),
    width=32,
    intermediate=64,
    layers=2,
)
WORDS = numbers(QUESTION_WORLD, TINY.vocabulary)


@pytest.fixture(scope="module")
def scenes() -> QuestionScenes:
    return question_scenes(QUESTION_WORLD, 40, start="test", seed=0)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("vlm")


@pytest.fixture(scope="module")
def folder(home) -> Path:
    return scene_vlm(TINY, home)


def rows_of(scenes: QuestionScenes, rows: int = 3) -> list[list[tuple[str, str]]]:
    rng = np.random.default_rng(0)
    return [Blocks(scenes).draw(row, FIRST, 8, rng) for row in range(rows)]


def test_the_model_is_made_once_and_the_same_every_time(folder, home, tmp_path):
    torch.manual_seed(5)
    before, steps = torch.random.get_rng_state(), []
    again = scene_vlm(TINY, tmp_path, progress=lambda *step: steps.append(step))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = (folder / "model.safetensors").read_bytes()
    assert (again / "model.safetensors").read_bytes() == weights
    assert [step[:2] for step in steps] == [(number, 25) for number in range(1, 26)]
    assert scene_vlm(TINY, home, progress=lambda *_: pytest.fail("trained again")) == folder
    assert {folder.name, again.name} == {folder.name}


def test_its_card_says_how_often_it_answers_right(folder):
    card = read_card(folder)
    assert card["yes_no"]["n"] == 40
    assert sum(share["n"] for share in card["yes_no_by_noise"].values()) == 40
    told = sum(share["n"] * share["right"] for share in card["yes_no_by_noise"].values()) / 40
    assert told == pytest.approx(card["yes_no"]["right"], abs=1e-3)
    assert card["where"]["n"] == 20 >= card["colour"]["n"] > 0
    assert card["settings"]["language"]["steps"] == 5
    assert {"parameters", "threads", "versions", "seconds"} <= {*card}


def test_plain_transformers_loads_it_and_computes_what_blocks_compute(folder, scenes):
    processor, model = (
        AutoProcessor.from_pretrained(folder),
        AutoModelForImageTextToText.from_pretrained(folder),
    )
    assert isinstance(model, LlavaForConditionalGeneration)
    asked = [(some[0].text, some[0].answer) for some in scenes.questions(1)][:4]
    images = [Image.fromarray(pixels) for pixels in scenes.pixels[:4]]
    for image, (prompt, answer) in zip(images, asked, strict=True):
        given = processor(images=image, text=f"<image> {prompt}", return_tensors="pt")
        assert given["input_ids"][0].tolist() == [IMAGE] * 9 + [WORDS[word] for word in prompt.split()]
        batch = packed([[(prompt, answer)]], WORDS, 9)
        own = block_logits(model, seen(model, given["pixel_values"]), batch)
        with torch.no_grad():
            assert torch.allclose(own[:, :-1], model(**given).logits, atol=1e-5)
    texts = [f"<image> {prompt}" for prompt, _ in asked]
    given = processor(images=images, text=texts, return_tensors="pt", padding=True)
    said = model.generate(**given, max_new_tokens=3)
    assert said.shape[1] <= given["input_ids"].shape[1] + 3
    assert model.generation_config.eos_token_id == END
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def test_a_handle_puts_the_picture_before_a_plain_question(folder):
    model = load(str(folder))
    tokenizer, processor = model.need_tokenizer(), AutoProcessor.from_pretrained(folder)
    prompt = tokenizer("is there a red circle ?")["input_ids"]
    picture = Image.fromarray(np.zeros((48, 48, 3), dtype=np.uint8))
    given = processor(images=picture, text="<image> is there a red circle ?")["input_ids"]
    assert [need_speaker(model).start(tokenizer, prompt, 9)] == given


def test_blocks_of_a_row_are_independent(scenes):
    with torch.no_grad():
        torch.manual_seed(0)
        model = new_vlm(TINY)
        features = torch.randn(3, 9, TINY.width)
        rows = rows_of(scenes)
        batch = packed(rows, WORDS, 9)
        together = block_logits(model, features, batch)
        for row, blocks in enumerate(rows):
            for number, block in enumerate(blocks, 1):
                alone = packed([[block]], WORDS, 9)
                at = batch.blocks[row] == number
                assert torch.equal(batch.labels[row, at], alone.labels[0, 9:])
                logits = block_logits(model, features[row : row + 1], alone)[0, 9:]
                assert torch.allclose(together[row, at], logits, atol=1e-5)


def test_labels_are_the_answer_and_its_end():
    batch = packed([[("where is the circle ?", "north")]], WORDS, 9)
    told = [int(label) for label in batch.labels[0] if label != UNLABELLED]
    assert told == [WORDS["north"], END]
    assert batch.ids[0, 9:].tolist() == [
        WORDS[word] for word in ("where", "is", "the", "circle", "?", "north")
    ]
    assert batch.positions[0].tolist() == [*range(15)]


def test_a_row_has_the_blocks_that_its_shares_say(scenes):
    for shares in (FIRST, LATER):
        assert sum(shares) == pytest.approx(1)
        counts = Counter()
        rng = np.random.default_rng(0)
        for _ in range(20):
            drawn = Blocks(scenes).draw(0, shares, 8, rng)
            assert sum(prompt == "describe ?" for prompt, _ in drawn) == 1
            counts.update(prompt.split()[0] for prompt, _ in drawn)
        assert counts["is"] / 160 == pytest.approx(shares[0] + shares[1], abs=0.03)


def test_what_colour_is_asked_only_where_it_is_wanted(scenes):
    rng = np.random.default_rng(0)
    told = [Blocks(scenes, wanted).colour(row, rng) for wanted in (True, False) for row in range(40)]
    assert sum(prompt.startswith("what colour") for prompt, _ in told[:40]) > 30
    assert not any("colour" in prompt for prompt, _ in told[40:])


def test_answers_of_blocks_are_true(scenes):
    rng = np.random.default_rng(1)
    blocks = Blocks(scenes)
    for row, scene in enumerate(scenes.scenes):
        for prompt, answer in (blocks.where(row, rng), blocks.colour(row, rng), blocks.easy(row, rng)):
            words = {*prompt.split()} - {"where", "what", "colour", "is", "there", "the", "a", "?"}
            fits = [one for one in scene.objects if words <= set(vars(one).values())]
            if prompt.startswith("is"):
                assert (answer == "yes") == bool(fits)
            else:
                assert [
                    getattr(one, "position" if prompt.startswith("where") else "colour") for one in fits
                ] == [answer]


def test_an_easy_question_is_as_often_true_as_false(scenes):
    rng = np.random.default_rng(2)
    told = [easy_question(scenes.scenes[row % 40], QUESTION_WORLD, rng)[1] for row in range(1000)]
    assert told.count("yes") / 1000 == pytest.approx(0.5, abs=0.065)


def test_a_caption_names_cells_and_the_tokenizer_every_word():
    scene = Scene(
        (Thing("circle", "red", "north"), Thing("square", "blue", "centre", "small", material="shiny"))
    )
    text = caption(scene)
    assert text == "north large matte red circle and centre small shiny blue square"
    tokenizer = block_tokenizer(QUESTION_WORLD, TINY.vocabulary)
    assert tokenizer(text)["input_ids"] == [WORDS[word] for word in text.split()]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) == TINY.vocabulary


def test_facts_of_a_model_that_always_says_yes(monkeypatch):
    def yes(_model, _features, batch):
        return torch.nn.functional.one_hot(torch.full(batch.ids.shape, WORDS["yes"]), 64).float()

    monkeypatch.setattr("trimtab.lab.scene_vlm.block_logits", yes)
    facts = vlm_facts(replace(TINY, held_out=30), new_vlm(TINY))
    held_out = question_scenes(QUESTION_WORLD, 30, start="test", seed=0)
    answers = [one.answer for some in held_out.questions(2) for one in some]
    assert facts["yes_no"] == {"right": round(answers.count("yes") / 60, 4), "n": 60}
    assert facts["where"]["right"] == facts["colour"]["right"] == 0


def test_the_lab_knows_its_model_and_its_questions(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "SCENES", 6)
    path = registry.questions("scene-questions", tmp_path)
    assert path.name == "questions.jsonl"
    assert len(path.read_text("utf-8").splitlines()) == 12
    assert [one for one in path.parent.iterdir() if one.is_file()] == [path]
    assert len([*path.parent.glob("pictures/*.png")]) == 6
    assert "vlm" in registry.MODELS
