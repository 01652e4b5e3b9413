"""States at the answer position: those of a plain forward pass on the single prompt, whatever is in the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import captioners_by_hand
import pictured
import templates
import tiny_models
from trimtab.errors import ModelError, ShapeError
from trimtab.models.answers import AnswerStates, answer_rows, answer_states
from trimtab.models.hooks import intervene
from trimtab.models.load import Model, load
from trimtab.models.readout import readout_of

PROMPTS = ["Hello there", "a", "zz top(", "Hello there", "a longer text than the others are"]


def joined(batches: Any) -> AnswerStates:
    listed = list(batches)
    hidden = [one.hidden for one in listed]
    states = None if hidden[0] is None else torch.cat(hidden)
    return AnswerStates(states, torch.cat([one.logits for one in listed]))


def tiny(name: str = "llama", **config: Any) -> Model:
    return load(tiny_models.build(name, **config), tokenizer=tiny_models.tokenizer())


@pytest.mark.parametrize("name", tiny_models.DECODERS)
def test_every_family_as_transformers_has_it_on_the_single_prompt(name):
    model = tiny(name)
    read, readout = joined(answer_states(model, PROMPTS, batch_size=3)), readout_of(model)
    assert read.hidden is not None
    assert read.hidden.shape == (5, 3, 16)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([model.need_tokenizer()(prompt)["input_ids"]])
        with torch.no_grad():
            own = model.module(ids, output_hidden_states=True)
        expected = torch.stack([state[0, -1] for state in own.hidden_states])
        torch.testing.assert_close(read.logits[row], own.logits[0, -1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(read.hidden[row, :-1], expected[:-1], atol=1e-5, rtol=1e-5)
        # The last state is raw: transformers' own last one has the final norm already.
        with torch.no_grad():
            normed = readout.normed(read.hidden[row, -1])
        torch.testing.assert_close(normed, expected[-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_neither_padding_nor_the_batch_size_changes_anything(name):
    model = tiny(name)
    alone = joined(answer_states(model, PROMPTS, batch_size=1))
    for size in (2, 5, 64):
        together = joined(answer_states(model, PROMPTS, batch_size=size))
        torch.testing.assert_close(together.logits, alone.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.hidden, alone.hidden, atol=1e-5, rtol=1e-5)


def test_logits_alone_are_the_same_logits():
    model = tiny()
    (both,) = answer_states(model, PROMPTS)
    (alone,) = answer_states(model, PROMPTS, hidden=False)
    assert alone.hidden is None
    assert torch.equal(both.logits, alone.logits)


def test_a_conversation_is_read_up_to_where_the_assistant_begins():
    module = tiny_models.build("llama", **tiny_models.CHAT)
    model = load(module, tokenizer=tiny_models.chat_tokenizer(templates.DEFAULT_SYSTEM))
    talk = [{"role": "user", "content": "Where is Anna?"}]
    (read,) = answer_states(model, [talk, "plain"])
    ids = model.need_tokenizer().apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        own = module(torch.tensor([ids])).logits[0, -1]
    torch.testing.assert_close(read.logits[0], own, atol=1e-5, rtol=1e-5)
    assert answer_rows(model, [talk])[0] == ids


@pytest.mark.parametrize("prompt", ["ab", ")ab"])
def test_a_picture_stands_where_its_token_is_or_before_the_words(prompt):
    processor = pictured.clip_processor()
    model = load(pictured.llava(), tokenizer=pictured.words(), processor=processor)
    images = pictured.random_pictures(3)
    prompts = [prompt, f"{prompt}cde", prompt]
    read = joined(answer_states(model, prompts, images, batch_size=2))
    assert read.hidden is not None
    assert read.hidden.shape == (3, 3, 16)
    added, picture = model.need_tokenizer()("")["input_ids"][:1], pictured.IMAGE
    for row, (image, text) in enumerate(zip(images, prompts, strict=True)):
        words = model.need_tokenizer()(text.removeprefix(")"), add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*added, *[picture] * 4, *words]])
        with torch.no_grad():
            own = model.module(
                input_ids=ids, pixel_values=captioners_by_hand.pixels([image]), output_hidden_states=True
            )
        torch.testing.assert_close(read.logits[row], own.logits[0, -1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(read.hidden[row, 1], own.hidden_states[1][0, -1], atol=1e-5, rtol=1e-5)


def test_half_precision_is_read_as_single_precision():
    module = tiny_models.build("llama").to(torch.bfloat16)
    (read,) = answer_states(load(module, tokenizer=tiny_models.tokenizer()), PROMPTS)
    assert read.hidden is not None
    assert read.logits.dtype == read.hidden.dtype == torch.float32
    assert torch.equal(read.hidden, read.hidden.bfloat16().float())


def test_double_precision_with_eager_attention_has_no_nan_at_padding():
    module = tiny_models.build("gpt2", attn_implementation="eager").double()
    (read,) = answer_states(load(module, tokenizer=tiny_models.tokenizer()), PROMPTS)
    (single,) = answer_states(tiny("gpt2"), PROMPTS)
    torch.testing.assert_close(read.logits, single.logits, atol=1e-4, rtol=1e-4)


def test_interventions_take_part_and_nothing_of_the_caller_changes():
    model = tiny()
    model.module.train()
    state = torch.random.get_rng_state()
    (plain,) = answer_states(model, PROMPTS)
    with intervene(model, {"residual.1": lambda h: h + 1.0}):
        (moved,) = answer_states(model, PROMPTS)
    assert plain.hidden is not None
    assert moved.hidden is not None
    torch.testing.assert_close(moved.hidden[:, 2], plain.hidden[:, 2] + 1.0)
    assert torch.equal(moved.hidden[:, :2], plain.hidden[:, :2])
    assert model.module.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_cannot_be_read_is_refused():
    model = tiny()
    with pytest.raises(ModelError, match="got one string, expected a list of prompts"):
        answer_states(model, "Hello")
    with pytest.raises(ModelError, match="which has no token"):
        answer_states(model, ["a", ""])
    with pytest.raises(ModelError, match="80 tokens in prompt 1, expected at most 64"):
        answer_states(model, ["a", "a" * 80])
    with pytest.raises(ModelError, match="batch_size: got 0, expected at least 1"):
        answer_states(model, ["a"], batch_size=0)
    with pytest.raises(ModelError, match="pictures for a LlamaForCausalLM, expected a captioner"):
        answer_states(model, ["a"], pictured.random_pictures(1))
    bert = load(tiny_models.build("bert_masked_lm"), tokenizer=tiny_models.tokenizer())
    with pytest.raises(ModelError, match="got a BertForMaskedLM, expected a causal language model"):
        answer_states(bert, ["a"])


def test_pictures_and_prompts_that_do_not_fit_are_refused():
    processor = pictured.clip_processor()
    blip = load(pictured.blip(), tokenizer=pictured.words(), processor=processor)
    with pytest.raises(ModelError, match="BlipForConditionalGeneration, expected a Llava"):
        answer_states(blip, ["a"], pictured.random_pictures(1))
    model = load(pictured.llava(), tokenizer=pictured.words(), processor=processor)
    with pytest.raises(ShapeError, match="got 2 pictures for 1 prompts, expected one picture for each"):
        answer_states(model, ["a"], pictured.random_pictures(2))
    with pytest.raises(ModelError, match="tokens in prompt 0, expected at most 64"):
        answer_states(model, ["a" * 62], pictured.random_pictures(1))


def test_weights_that_are_not_numbers_are_found_at_their_prompt():
    model = tiny()
    with torch.no_grad():
        model.module.get_input_embeddings().weight[model.need_tokenizer()("z")["input_ids"][-1]] = torch.nan
    with pytest.raises(ModelError, match="prompt 2: got logits that are nan or infinite"):
        list(answer_states(model, PROMPTS, batch_size=2, hidden=False))
