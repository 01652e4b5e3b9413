"""The small model of facts: packed questions are what single ones are, and it learns."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from trimtab.lab import facts_model as under_test
from trimtab.lab.corpora import read_card
from trimtab.lab.facts import CITIES, COLOURS, NAMES, OBJECTS, fact_questions
from trimtab.lab.facts_model import (
    END,
    OPEN,
    OTHER_WORDS,
    Block,
    FactsModel,
    all_facts,
    facts_model,
    facts_tokenizer,
    numbers,
    open_question,
    packed,
    words_of,
    yes_no,
)
from trimtab.lab.models import llama
from trimtab.lab.registry import MODELS
from trimtab.lab.scene_towers import Schedule
from trimtab.models.load import load
from trimtab.seeds import isolated

QUICK = FactsModel(width=32, intermediate=64, layers=2, training=Schedule(60, 1e-2, 8), questions=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return facts_model(QUICK, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def fresh() -> LlamaForCausalLM:
    with isolated(0):
        network = LlamaForCausalLM(llama(QUICK, len(numbers()), 256, END, 0, initializer_range=0.1))
    network.train(False)
    return network.double()


def asked(count: int) -> tuple[list[str], list[list[Block]]]:
    draw, facts = np.random.default_rng(3), all_facts(held_out=False)[:: 1792 // count]
    blocks = [[yes_no(one, draw), open_question(one, "object"), yes_no(one, draw)] for one in facts]
    return [one.text(draw) for one in facts], blocks


@torch.no_grad()
def test_packed_questions_give_what_each_gives_alone(fresh: LlamaForCausalLM) -> None:
    texts, blocks = asked(6)
    batch, tokenizer = packed(texts, blocks), facts_tokenizer()
    logits = fresh(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions).logits
    for row, (text, block) in enumerate(zip(texts, blocks, strict=True)):
        for place, (question, answer) in enumerate(block, 1):
            alone = tokenizer(f"{text} {question} Answer: {answer} <end>", return_tensors="pt").input_ids
            mine = (batch.blocks[row] == place).nonzero()[:, 0]
            assert batch.ids[row][mine].tolist() == alone[0, -len(mine) :].tolist()
            expected = fresh(input_ids=alone).logits[0, -len(mine) :]
            torch.testing.assert_close(logits[row][mine], expected, atol=1e-10, rtol=0)


@torch.no_grad()
def test_the_loss_is_a_weighted_mean_over_words_of_texts_and_answers(fresh: LlamaForCausalLM) -> None:
    texts, blocks = asked(3)
    batch = packed(texts, blocks)
    logits = fresh(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions).logits
    nats, weights = [], []
    for row in range(len(texts)):
        for place in range(batch.ids.shape[1] - 1):
            if batch.blocks[row, place] == batch.blocks[row, place + 1] >= 0:
                log_probs = F.log_softmax(logits[row, place], -1)
                nats.append(-float(log_probs[batch.ids[row, place + 1]]))
                weights.append(1.0 if batch.answers[row, place + 1] else OTHER_WORDS)
    assert float(batch.loss(logits)) == pytest.approx(np.average(nats, weights=weights), abs=1e-10)
    uniform = batch.loss(torch.zeros_like(logits))
    assert float(uniform) == pytest.approx(math.log(len(numbers())), abs=1e-6)


def test_the_tokenizer_has_a_token_for_every_word_of_the_file_and_splits_as_the_training_does() -> None:
    tokenizer, number = facts_tokenizer(), numbers()
    frame = fact_questions(200)
    for text in [
        *frame["prompt"],
        *frame["answer"],
        *(text.format(**vars(all_facts(held_out=True)[9])) for text in OPEN.values()),
    ]:
        assert tokenizer(text).input_ids == [number[word] for word in words_of(text)]
    for values in (COLOURS, OBJECTS, NAMES, CITIES):
        assert set(values) <= set(number)
    assert tokenizer("unheard").input_ids == [number["<unknown>"]]


def test_held_out_texts_say_nothing_that_training_texts_say_together() -> None:
    held, seen = all_facts(held_out=True), all_facts(held_out=False)
    assert not set(held) & set(seen)
    assert len(set(held) | set(seen)) == 8 * 8 * 8 * 4
    pairs = {(one.colour, one.object) for one in seen}
    assert len(pairs) == 64 == len({(one.colour, one.object) for one in held})


def test_questions_of_yes_and_no_are_balanced_and_right() -> None:
    draw, facts = np.random.default_rng(0), all_facts(held_out=True)
    drawn = [(one, yes_no(one, draw)) for one in facts * 8]
    said = [block.answer == "yes" for _, block in drawn]
    assert np.mean(said) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(len(said)))
    for one, (question, answer) in drawn:
        words = set(words_of(question))
        fits = one.object in words and words & set(COLOURS) <= {one.colour}
        assert answer == ("yes" if fits else "no")


def test_a_folder_loads_like_any_model_and_its_card_says_how_good_it_is(folder: Path) -> None:
    model, card = load(folder), read_card(folder)
    assert card["parameters"] == sum(one.numel() for one in model.module.parameters())
    assert card["settings"]["training"]["steps"] == QUICK.training.steps
    right = card["held_out"]
    assert [right[name]["n"] for name in ("yes_no", *OPEN)] == [512, 256, 256, 256, 256]
    assert all(0 <= right[name]["right"] <= 1 for name in ("yes_no", *OPEN))
    for facts in all_facts(held_out=True)[::64]:  # even this one has learned what kind of word answers
        prompts = [f"{facts.text(np.random.default_rng(0))} {open_question(facts, 'city').question} Answer:"]
        assert model.generate(prompts, max_new_tokens=1)[0].strip() in CITIES


def test_it_is_trained_once_and_the_random_state_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert facts_model(QUICK, folder.parents[2]) == folder
    one = FactsModel(width=16, intermediate=16, layers=1, training=Schedule(2, 1e-2, 2), questions=2)
    state, steps = torch.get_rng_state(), []
    first = under_test.train(one, lambda done, total, loss: steps.append((done, total)))
    assert torch.equal(torch.get_rng_state(), state)
    assert steps == [(1, 2), (2, 2)]
    again = under_test.train(one)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert "facts-model" in MODELS
