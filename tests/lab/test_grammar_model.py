from __future__ import annotations

import pytest
import torch

from trimtab.errors import ConfigProblems
from trimtab.lab import grammar_model as under_test
from trimtab.lab.corpora import read_card
from trimtab.lab.grammar import Grammar, World
from trimtab.lab.grammar_model import GrammarModel, grammar_model, insult_rate, kl_to_truth, world_tokenizer
from trimtab.models.load import load

EASY = Grammar(topics=2, nouns=3, verbs=2, modifiers=3, insults=2, cue_words=2, sentences=2, cue_strength=0.9)
TINY = GrammarModel(width=32, intermediate=64, layers=2, heads=2, steps=250, batch_size=32, lr=1e-2)
QUICK = GrammarModel(width=16, intermediate=16, layers=1, heads=2, steps=3, batch_size=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model of an easy world and its folder."""
    folder = grammar_model(0, EASY, TINY, tmp_path_factory.mktemp("grammar"))
    return load(folder), folder


def test_a_model_comes_near_the_truth(trained):
    model, folder = trained
    world, card = World(EASY), read_card(folder)
    held = world.sample(128, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        logits = model.module(input_ids=held.ids).logits
    found = float(kl_to_truth(world, logits, held.ids).mean())
    knows_the_grammar_only = world.next_token(held.ids).mean(0).log().expand_as(logits)
    assert found < 0.1
    assert found < 0.7 * float(kl_to_truth(world, knows_the_grammar_only, held.ids).mean())
    assert card["kl_to_truth_nats"] == pytest.approx(found, abs=0.03)
    rates = insult_rate(world, held.ids, logits.softmax(-1))
    for number, style in enumerate(("clean", "rude")):
        assert card["insult_probability"][style] == pytest.approx(
            float(rates[held.style == number].mean()), abs=0.05
        )
    assert card["insult_probability"]["rude"] > card["insult_probability"]["clean"] + 0.2


def test_texts_go_through_the_public_handle(trained):
    model, _ = trained
    world = World(EASY)
    documents = world.sample(4, generator=torch.Generator().manual_seed(2), style="rude", sentences=1)
    assert torch.equal(torch.tensor(model.tokenizer(documents.texts)["input_ids"]), documents.ids)
    completions = model.generate(documents.texts, max_new_tokens=8)
    whole = world.encode([f"{text} {more}" for text, more in zip(documents.texts, completions, strict=True)])
    assert whole.shape == (4, world.length(2))
    assert not world.next_token(whole).isnan().any()


def test_card_and_folder(trained):
    model, folder = trained
    card = read_card(folder)
    assert card["parameters"] == sum(p.numel() for p in model.module.parameters())
    assert card["grammar"] == vars(EASY)
    assert card["settings"] == vars(TINY)
    assert (folder / "model.safetensors").is_file()
    assert len(world_tokenizer(World(EASY))) == model.module.config.vocab_size == len(World(EASY).words)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_same_settings_give_the_same_weights_and_leave_the_generator_alone(tmp_path):
    first = grammar_model(0, EASY, QUICK, tmp_path / "a")
    torch.manual_seed(7)
    state, told = torch.get_rng_state(), []
    second = grammar_model(0, EASY, QUICK, tmp_path / "b", lambda *progress: told.append(progress[:2]))
    assert torch.equal(torch.get_rng_state(), state)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert first.name == second.name
    assert weights(first) == weights(second)


def test_second_time_comes_from_the_cache_and_other_settings_do_not(tmp_path, monkeypatch):
    told = []
    first = grammar_model(0, EASY, QUICK, tmp_path)
    assert grammar_model(0, EASY, QUICK, tmp_path, lambda *progress: told.append(progress)) == first
    assert told == []
    others = {grammar_model(1, EASY, QUICK, tmp_path), grammar_model(0, Grammar(), QUICK, tmp_path)}
    monkeypatch.setattr(under_test, "RECIPE", 2)
    others.add(grammar_model(0, EASY, QUICK, tmp_path))
    assert len(others | {first}) == 4


def test_a_world_that_cannot_be_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ConfigProblems, match=r"grammar\.topics: got 1, expected 2 to 8; try 2"):
        grammar_model(0, Grammar(topics=1), QUICK, tmp_path)
    assert not list(tmp_path.iterdir())
