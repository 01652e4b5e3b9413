from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from trimtab.errors import ModelError
from trimtab.models.generate import left_padded
from trimtab.models.load import load

PROMPTS = ["a", "the quick brown fox", "Hello, hello", "zz"]


def greedy_by_hand(module, tokenizer, prompt, count):
    """Whole forward passes without cache or padding: the slow, obvious way."""
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(count):
        with torch.no_grad():
            best = int(module(torch.tensor([ids])).logits[0, -1].argmax())
        if best == tokenizer.eos_token_id:
            break
        ids = [*ids, best]
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize("name", zoo.DECODERS)
def test_a_batch_equals_each_prompt_by_hand(name, make, tokenizer):
    model = load(make(name), tokenizer=tokenizer)
    expected = [greedy_by_hand(model.module, tokenizer, prompt, 6) for prompt in PROMPTS]
    assert len(set(expected)) > 1
    assert model.generate(PROMPTS, max_new_tokens=6) == expected
    assert model.generate(PROMPTS, max_new_tokens=6, batch_size=3) == expected


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_with_an_adapter(name, make, tokenizer):
    plain = load(make(name), tokenizer=tokenizer).generate(PROMPTS, max_new_tokens=4)
    adapted = load(make(name), tokenizer=tokenizer, adapter={"r": 2})
    assert adapted.generate(PROMPTS, max_new_tokens=4) == plain


def test_an_end_token_ends_only_its_own_row(make, tokenizer):
    model = load(make("llama"), tokenizer=tokenizer)
    free = model.generate(PROMPTS, max_new_tokens=6)
    stop = tokenizer(free[1][2])["input_ids"][0]
    model.module.generation_config.eos_token_id = [stop, tokenizer.eos_token_id]
    cut = [text.split(free[1][2])[0] for text in free]
    assert cut[1] != free[1]
    assert model.generate(PROMPTS, max_new_tokens=6) == cut


def test_leaves_mode_tokenizer_and_configuration_alone(make, tokenizer):
    model = load(make("gpt2").train(), tokenizer=tokenizer)
    model.module.lm_head.eval()
    model.module.generation_config.update(do_sample=True, temperature=0.3, max_length=3)
    before = model.module.generation_config.to_dict(), tokenizer.padding_side, tokenizer.pad_token
    first = model.generate(PROMPTS, max_new_tokens=5)
    assert first == model.generate(PROMPTS, max_new_tokens=5)
    assert model.module.training
    assert not model.module.lm_head.training
    after = model.module.generation_config.to_dict(), tokenizer.padding_side, tokenizer.pad_token
    assert after == before


def test_no_prompts_give_no_completions(make, tokenizer):
    assert load(make("gpt2"), tokenizer=tokenizer).generate([]) == []


def test_positions_count_from_the_first_real_token():
    ids, mask, positions = left_padded([[7], [4, 5, 6]], pad=9)
    assert ids.tolist() == [[9, 9, 7], [4, 5, 6]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert positions.tolist() == [[0, 0, 0], [0, 1, 2]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one",), r"got one string, expected a list of prompts; try \[prompt\]"),
        ((["a", ""],), r"got the prompt '', which has no token, expected at least one token"),
        ((["a"], 0), "max_new_tokens: got 0, expected at least 1"),
        ((["a"], 1, 0), "batch_size: got 0, expected at least 1"),
    ],
)
def test_refusals(arguments, message, make, tokenizer):
    with pytest.raises(ModelError, match=message):
        load(make("gpt2"), tokenizer=tokenizer).generate(*arguments)


def test_a_module_that_cannot_generate(tokenizer):
    with pytest.raises(
        ModelError, match=r"got a Linear without generate\(\), expected a model that generates"
    ):
        load(nn.Linear(2, 2), tokenizer=tokenizer).generate(["a"])
