"""Steerings of a fitted hypernetwork, novelty, files and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny_generator as tiny
from pictured import random_pictures
from tiny_generator import settings
from tiny_models import build, tokenizer
from trimtab import HyperTransport, Steering, load
from trimtab.errors import DataError, ModelError
from trimtab.lab.scene_models import word_tokenizer


def test_a_steering_is_an_ordinary_one(trained, tmp_path):
    steering = trained("red disc")
    steering.save_pretrained(tmp_path)
    again = Steering.from_pretrained(tmp_path)
    assert torch.equal(again.maps["norm:out"][0], steering.maps["norm:out"][0])
    again.check(tiny.handle())
    for wrong in ("1", None, [[0.1], [0.2, 0.3]]):
        kind = type(wrong).__name__
        with (
            pytest.raises(ModelError, match=f"strength: got a {kind}, expected a number or one per row"),
            steering.on(tiny.handle(), wrong),
        ):
            pass
    made_by = steering.made_by
    assert (made_by["estimator"], made_by["concept"]) == ("HyperTransport", "red disc")
    assert made_by["novelty"] == pytest.approx(trained.novelty("red disc"))
    assert made_by["nearest_concept"] in trained.concepts
    assert made_by["usual_novelty"] == trained.usual_novelty
    assert trained(["red disc", "a red disc"]).made_by["concept"] == ["red disc", "a red disc"]
    assert trained(random_pictures(2, side=4)).made_by["concept"] == "2 pictures"


def test_many_at_once_are_those_one_by_one(trained):
    names = ["red disc", "gold star", ["blue box", "blue box left"]]
    for one, name in zip(trained.many(names), names, strict=True):
        for site, pair in trained(name).maps.items():
            torch.testing.assert_close(one.maps[site], pair)
    with pytest.raises(
        DataError, match=r"concepts: got one string, expected a list of concepts; try \[...\]"
    ):
        trained.many("red")
    for other in (random_pictures(1)[0], Path("seen.png"), {"a": ["red"]}, None, iter(["red"])):
        with pytest.raises(DataError, match=f"concepts: got a {type(other).__name__}, expected a list"):
            trained.many(other)
    with pytest.raises(DataError, match="concepts: got no concept, expected a list"):
        trained.many([])


def test_the_order_of_examples_and_their_repetition_change_nothing(trained):
    first = trained(["red disc", "red star left", "gold box"])
    for other in (["gold box", "red disc", "red star left"], ["red disc", "red star left", "gold box"] * 2):
        torch.testing.assert_close(
            trained(other).maps["norm:out"], first.maps["norm:out"], rtol=1e-4, atol=1e-5
        )


def test_novelty_is_one_minus_the_nearest_cosine(trained):
    row = trained.embedding("red disc")
    expected = min(1 - float(torch.dot(row, known)) for known in trained.embeddings)
    assert trained.novelty("red disc") == pytest.approx(expected, abs=1e-6)
    name = trained.concepts[3]
    assert trained.novelty(tiny.concepts()[name]) == pytest.approx(0, abs=1e-6)


def test_usual_novelty_leaves_each_concept_out(trained):
    own = []
    for place, row in enumerate(trained.embeddings):
        others = torch.cat([trained.embeddings[:place], trained.embeddings[place + 1 :]])
        own.append(1 - float((others @ row).max()))
    assert trained.usual_novelty == pytest.approx(float(torch.quantile(torch.tensor(own), 0.95)), abs=1e-6)


def test_training_concepts_that_all_have_a_twin_are_not_new(trained):
    """Cosines of equal vectors may round above 1; no training concept is newer than usual for that."""
    twins = replace(trained, embeddings=trained.embeddings.repeat_interleave(2, 0)[:-1])
    twins = replace(twins, concepts=tuple(str(place) for place in range(len(twins.embeddings))))
    assert 0 <= twins.usual_novelty <= 1e-6
    row = trained.embeddings[0] * (1 + 1e-4)
    (steering,) = twins.of_embeddings([row], ["longer than one by rounding"])
    assert steering.made_by["novelty"] == 0
    (steering,) = twins.of_embeddings([-row], ["the other way"])
    assert steering.made_by["novelty"] <= 2


def test_words_that_the_encoder_does_not_know_are_told_or_refused(trained):
    """Of a word-level vocabulary; what is left of a text decides, and a text without any known word says nothing."""
    words = word_tokenizer(tiny.WORDS, framed=False)
    encoder = replace(
        trained.conditions.encoder, model=replace(trained.conditions.encoder.model, tokenizer=words)
    )
    known = replace(trained, conditions=replace(trained.conditions, encoder=encoder))
    assert "unheard" not in known("red disc").made_by
    assert known("red zebra disc").made_by["unheard"] == ["zebra"]
    one, two = known.many(["red", ["gold star", "mauve star"]])
    assert ("unheard" in one.made_by, two.made_by["unheard"]) == (False, ["mauve"])
    for lost in ("zebra", ["red", "zebra mauve"]):
        with pytest.raises(ModelError, match=r"got 'zebra.*', of which the encoder .* knows no word"):
            known(lost)
    with pytest.raises(DataError, match="concept: got half a character at place 0, expected whole ones"):
        known("red \ud800")


# Files


def test_a_saved_one_gives_the_same_maps_to_the_last_bit(trained, tmp_path):
    trained.save_pretrained(tmp_path / "hyper")
    again = HyperTransport.from_pretrained(tmp_path / "hyper", tiny.handle(), tiny.encoder())
    picture = tiny.handle().generate(["gold star"])[0]
    for concept in ("red disc", ["gold star", "gold"], picture):
        mine, other = trained(concept), again(concept)
        assert mine.made_by == other.made_by
        assert all(
            torch.equal(a, b)
            for site in mine.maps
            for a, b in zip(mine.maps[site], other.maps[site], strict=True)
        )
    assert again.losses == trained.losses
    assert (again.settings, again.fingerprint) == (trained.settings, trained.fingerprint)
    expected = "FittedHyperTransport(22 concepts, 1 site, encoder 'tiny-encoder', of 'tiny-generator')"
    assert repr(again) == expected
    assert "- gold cross" in (tmp_path / "hyper" / "README.md").read_text()
    again.save_pretrained(tmp_path / "hyper")
    first, second = (
        (tmp_path / one / "hypertransport.safetensors").read_bytes() for one in ("hyper", "hyper")
    )
    assert first == second


def test_the_encoder_is_found_by_its_name(tmp_path):
    build("llama").save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    model, concepts = load(tmp_path / "model"), {"abc": ["ab", "ca"], "def": ["de", "fd"]}
    for number, encoder in enumerate(("self", str(tmp_path / "model"))):
        hyper = settings(sites="pre_mlp_norm", encoder=encoder, steps=2)
        fitted = hyper.fit(model, concepts, ["abd", "ef"])
        assert fitted.settings["encoder"] == encoder
        fitted.save_pretrained(tmp_path / str(number))
        again = HyperTransport.from_pretrained(tmp_path / str(number), model)
        assert all(
            map(
                torch.equal,
                again("cab").maps["model.layers.0.post_attention_layernorm:out"],
                fitted("cab").maps["model.layers.0.post_attention_layernorm:out"],
            )
        )
    with pytest.raises(ModelError, match="which reads texts alone"):
        again(random_pictures(1)[0])


@pytest.fixture
def saved(trained, tmp_path):
    return trained.save_pretrained(tmp_path / "hyper")


def test_another_generator_or_encoder_is_refused(saved):
    other = tiny.handle()
    with torch.no_grad():
        other.module.paint.weight += 1
    with pytest.raises(
        ModelError,
        match=r"a generator whose weights at paint are not those of tiny-generator, .*; try fitting",
    ):
        HyperTransport.from_pretrained(saved, other, tiny.encoder())
    encoder = tiny.encoder()
    with torch.no_grad():
        encoder.model.module[0].weight += 1
    with pytest.raises(ModelError, match="got the encoder 'tiny-encoder' with other weights"):
        HyperTransport.from_pretrained(saved, tiny.handle(), encoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 9}, "got schema 9 by trimtab .*, expected schema 1; try another version"),
        ({"sites": {"norm:out": 0}}, "got widths that are no whole numbers above 0"),
        ({"sites": {}}, "got widths that are no whole numbers above 0"),
        ({"sites": {"norm:out": 5}}, "expected the tensors that hypertransport_config.json speaks of"),
        ({"sizes": {"key": 3}}, "got other keys of sizes or encoder"),
        ({"concepts": 3}, "got concepts 3, expected a list"),
        ({"concepts": ["red"]}, r"got embeddings \(22, 16\), expected \(1, 16\), as hypertransport_config"),
        ({"sha256": "0"}, "cut short or changed after it was saved"),
    ],
)
def test_a_damaged_configuration_is_refused(saved, change, message):
    path = saved / "hypertransport_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        HyperTransport.from_pretrained(saved, tiny.handle(), tiny.encoder())


def test_a_folder_without_one_is_refused(saved, tmp_path):
    with pytest.raises(
        ModelError, match=r"without hypertransport_config.json, expected a folder that save_pretrained"
    ):
        HyperTransport.from_pretrained(tmp_path, tiny.handle())
    with pytest.raises(ModelError, match=r"none, which is no folder"):
        HyperTransport.from_pretrained(tmp_path / "none", tiny.handle())
    (saved / "hypertransport.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="cut short or changed"):
        HyperTransport.from_pretrained(saved, tiny.handle(), tiny.encoder())
    (saved / "hypertransport_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"hypertransport_config.json"):
        HyperTransport.from_pretrained(saved, tiny.handle(), tiny.encoder())


def test_a_folder_of_something_else_is_not_written_over(trained, tmp_path):
    (tmp_path / "thesis.txt").write_text("...")
    with pytest.raises(ModelError, match=r"with 'thesis.txt' in it, which would be lost"):
        trained.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"got the file .*thesis.txt, expected a folder to write to"):
        trained.save_pretrained(tmp_path / "thesis.txt")
