from __future__ import annotations

import pandas as pd
import pytest
import torch
from scipy.stats import chi2
from torch import nn

import tiny_models
from trimtab.errors import ModelError
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


@pytest.mark.parametrize("name", tiny_models.DECODERS)
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


@pytest.mark.parametrize("name", tiny_models.DECODERS)
def test_with_a_cache_equals_without(name, make, tokenizer):
    model, widths = load(make(name), tokenizer=tokenizer), []
    embedding = model.module.get_input_embeddings()
    embedding.register_forward_hook(lambda _m, inputs, _o: widths.append(inputs[0].shape[1]))
    cached = model.generate(PROMPTS, max_new_tokens=8)
    assert set(widths[1:]) == {1}
    widths.clear()
    model.module.generation_config.use_cache = model.module.config.use_cache = False
    assert model.generate(PROMPTS, max_new_tokens=8) == cached
    assert widths == list(range(widths[0], widths[0] + len(widths)))


def test_the_tokenizer_s_side_of_padding_is_of_no_consequence(make):
    sides = [load(make("gpt2"), tokenizer=tiny_models.tokenizer(side, "<unk>")) for side in ("left", "right")]
    first, second = (model.generate(PROMPTS, max_new_tokens=6) for model in sides)
    assert first == second


# Sampling -----------------------------------------------------------------------------------------------


def test_draws_depend_on_the_seed_and_not_on_the_batch(make, tokenizer):
    model = load(make("llama"), tokenizer=tokenizer)
    first = model.generate(PROMPTS, 8, temperature=1.0, seed=3)
    assert model.generate(PROMPTS, 8, batch_size=3, temperature=1.0, seed=3) == first
    assert model.generate(PROMPTS, 8, temperature=1.0, seed=4) != first
    assert model.generate(PROMPTS, 8) != first


def test_the_same_prompt_twice_is_drawn_twice(make, tokenizer):
    drawn = load(make("llama"), tokenizer=tokenizer).generate(["ab"] * 4, 8, temperature=2.0)
    assert len(set(drawn)) > 1


def test_draws_leave_the_caller_s_generator_alone(make, tokenizer):
    model = load(make("llama"), tokenizer=tokenizer)
    state = torch.get_rng_state()
    model.generate(PROMPTS, 3, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_low_temperature_is_greedy(make, tokenizer):
    model = load(make("llama"), tokenizer=tokenizer)
    assert model.generate(PROMPTS, 6, temperature=1e-4) == model.generate(PROMPTS, 6)


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_first_tokens_come_as_often_as_their_probability_says(temperature, make, tokenizer):
    """Pearson's statistic over the 64 tokens against its chi-squared law, at a level of one in a thousand."""
    module, count = make("llama"), 3000
    with torch.no_grad():
        logits = module(torch.tensor([[3, 4]])).logits[0, -1].double()
    expected = (logits / temperature).softmax(-1) * count
    drawn = load(module, tokenizer=tokenizer).generate(["ab"] * count, 1, 500, temperature=temperature)
    ids = torch.tensor([tokenizer(text)["input_ids"][0] if text else 0 for text in drawn])
    counts = torch.bincount(ids, minlength=64).double()
    # special tokens decode to nothing: one category
    counts, expected = (torch.cat([part[:3].sum()[None], part[3:]]) for part in (counts, expected))
    common = expected >= 5
    statistic = float(((counts - expected)[common].square() / expected[common]).sum())
    assert statistic < chi2.ppf(0.999, int(common.sum()))


# Refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one",), r"got one string, expected a list of prompts; try \[prompt\]"),
        (({"text": ["a"]},), r"got a dict, expected a list of prompts; try list\(table\['text'\]\)"),
        ((pd.DataFrame({"text": ["a"]}),), r"got a DataFrame, expected a list of prompts"),
        (({"a", "b"},), r"got a set, expected a list of prompts"),
        ((["a"], 2.5), "max_new_tokens: got 2.5, expected at least 1"),
        ((["a"], 1, 1, "hot"), "temperature: got hot, expected a number"),
        ((["a", ""],), r"got the prompt '', which has no token, expected at least one token"),
        ((["a"], 0), "max_new_tokens: got 0, expected at least 1"),
        ((["a"], 1, 0), "batch_size: got 0, expected at least 1"),
        ((["a"], 1, 1, -0.5), r"temperature: got -0\.5, expected a number of at least 0"),
        ((["a"], 1, 1, float("nan")), r"temperature: got nan, expected a number of at least 0"),
    ],
)
def test_refusals(arguments, message, make, tokenizer):
    with pytest.raises(ModelError, match=message):
        load(make("gpt2"), tokenizer=tokenizer).generate(
            *arguments[:3], **dict(zip(["temperature"], arguments[3:], strict=False))
        )


def test_a_module_that_cannot_generate(tokenizer):
    with pytest.raises(
        ModelError, match=r"got a Linear without generate\(\), expected a model that generates"
    ):
        load(nn.Linear(2, 2), tokenizer=tokenizer).generate(["a"])


@pytest.mark.parametrize("name", ["bert", "bert_masked_lm", "clip", "clip_text_model"])
def test_a_model_of_another_kind(name, make, tokenizer):
    with pytest.raises(ModelError, match=r"got a \w+, expected a causal language model; try its"):
        load(make(name), tokenizer=tokenizer).generate(["a"])


def test_a_language_model_without_tokenizer(make):
    with pytest.raises(ModelError, match="got a LlamaForCausalLM without tokenizer, expected tokenizer="):
        load(make("llama")).generate(["a"])


# Other people's settings ----------------------------------------------------------------------------------

HOSTILE = {
    "sampler": {
        "do_sample": True,
        "temperature": 0.3,
        "top_k": 3,
        "top_p": 0.5,
        "min_p": 0.2,
        "typical_p": 0.3,
        "epsilon_cutoff": 0.1,
        "eta_cutoff": 0.1,
    },
    "penalties": {
        "repetition_penalty": 1.8,
        "no_repeat_ngram_size": 1,
        "exponential_decay_length_penalty": (1, 5.0),
        "sequence_bias": [[[5], 9.0]],
        "guidance_scale": 3.0,
        "renormalize_logits": True,
        "remove_invalid_values": True,
    },
    "bans": {
        "bad_words_ids": [[k] for k in range(3, 40)],
        "suppress_tokens": [40, 41, 42],
        "begin_suppress_tokens": list(range(43, 60)),
        "forced_bos_token_id": 7,
        "forced_eos_token_id": 1,
        "min_new_tokens": 8,
        "min_length": 30,
    },
    "lengths": {"max_length": 4, "max_time": 1e-9, "stop_strings": ["a"]},
    "search": {
        "num_beams": 4,
        "num_return_sequences": 2,
        "length_penalty": 3.0,
        "early_stopping": True,
        "penalty_alpha": 0.6,
        "prompt_lookup_num_tokens": 3,
        "cache_implementation": "static",
        "return_dict_in_generate": True,
        "output_scores": True,
        "pad_token_id": 9,
    },
}


def by_argmax(module, tokenizer, prompt, count, end=1):
    """Greedy decoding without cache, padding or transformers' generate."""
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(count):
        with torch.no_grad():
            best = int(module(torch.tensor([ids])).logits[0, -1].argmax())
        if best == end:
            break
        ids.append(best)
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize("settings", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_nothing_but_the_logits_decides(name, settings, make, tokenizer):
    module = make(name)
    expected = [by_argmax(module, tokenizer, prompt, 8) for prompt in PROMPTS]
    plain = load(make(name), tokenizer=tokenizer)
    module.generation_config.update(**settings)
    own, before = module.generation_config, module.generation_config.to_dict()
    model = load(module, tokenizer=tokenizer)
    assert model.generate(PROMPTS, 8) == expected
    assert model.generate(PROMPTS, 8, temperature=0.7) == plain.generate(PROMPTS, 8, temperature=0.7)
    assert module.generation_config is own
    assert own.to_dict() == before


def test_nothing_but_the_logits_decides_under_an_adapter(make, tokenizer):
    module = make("llama")
    expected = [by_argmax(module, tokenizer, prompt, 6) for prompt in PROMPTS]
    module.generation_config.update(**HOSTILE["penalties"])
    model = load(module, tokenizer=tokenizer, adapter={"r": 2})
    assert model.generate(PROMPTS, 6) == expected
    assert module.generation_config.repetition_penalty == HOSTILE["penalties"]["repetition_penalty"]


def test_the_model_s_own_end_tokens_are_heeded(make, tokenizer):
    """Chat models end a turn with another token than a text, and say so in their generation_config."""
    module = make("llama")
    free = load(make("llama"), tokenizer=tokenizer).generate(["ab"], 8)[0]
    module.generation_config.eos_token_id = [1, tokenizer(free[2])["input_ids"][0], 10**30, -5]
    assert load(module, tokenizer=tokenizer).generate(["ab"], 8) == [free[: free.index(free[2])]]
    module.generation_config.eos_token_id = "</s>"
    with pytest.raises(ModelError, match=r"generation_config\.eos_token_id: got '</s>', expected a token id"):
        load(module, tokenizer=tokenizer).generate(["ab"], 8)


def test_the_settings_come_back_after_a_failure(make, tokenizer, monkeypatch):
    module = make("llama")
    own = module.generation_config
    monkeypatch.setattr(module, "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load(module, tokenizer=tokenizer).generate(["ab"], 2)
    assert module.generation_config is own


def test_a_prompt_that_begins_with_the_first_token_has_it_once(make, tokenizer):
    """As a prompt that a chat template has rendered does."""
    from tokenizers.processors import TemplateProcessing

    words = tiny_models.tokenizer()
    words.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    model = load(make("llama"), tokenizer=words)
    assert model.generate(["<s>abc"], 6) == model.generate(["abc"], 6)
    assert model.generate(["<s>abc"], 6) == load(make("llama"), tokenizer=tokenizer).generate(["<s>abc"], 6)
