"""Likelihoods against one text at a time without padding, against transformers' own loss, and divergences by hand."""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
from trimtab.errors import ModelError, ShapeError
from trimtab.models.language import continuation_log_likelihood, kl, kl_divergence, log_likelihood
from trimtab.models.load import load

TEXTS = ["the quick brown fox", "Hello, hello", "zz", "a", "one more."]


@pytest.fixture(params=tiny_models.DECODERS)
def model(request, make, tokenizer):
    """A language model of each family, in double precision."""
    return load(make(request.param).double(), tokenizer=tokenizer)


@pytest.fixture
def llama(make, tokenizer):
    return load(make("llama").double(), tokenizer=tokenizer)


def exact(model):
    """How closely a model in double precision can agree: Gemma 2 takes its softmax in single precision."""
    return 1e-6 if model.family.name == "gemma2" else 1e-10


def alone(model, ids, start=1):
    """The slow, obvious way: one row, no padding, log_softmax."""
    with torch.no_grad():
        logp = model.module(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logp[place - 1, ids[place]]) for place in range(start, len(ids)))


def test_each_text_is_as_likely_as_alone(model, tokenizer):
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    expected = [alone(model, row) for row in rows]
    for size in (1, 3, 16):
        found = log_likelihood(model, TEXTS, batch_size=size)
        np.testing.assert_allclose(found.nats, expected, rtol=exact(model))
        assert found.tokens.tolist() == [len(row) - 1 for row in rows]


def test_perplexity_is_exp_of_the_loss_of_transformers(model, tokenizer):
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        loss = float(model.module(ids, labels=ids).loss)
    found = log_likelihood(model, TEXTS[:1])
    assert found.loss_nats == pytest.approx(loss, abs=1e-6)  # theirs is computed in single precision
    assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-6)


def test_the_side_of_padding_of_the_tokenizer_is_of_no_consequence(make):
    sides = [load(make("gpt2"), tokenizer=tiny_models.tokenizer(side, "<unk>")) for side in ("left", "right")]
    first, second = (log_likelihood(model, TEXTS).nats for model in sides)
    np.testing.assert_array_equal(first, second)


def test_a_text_of_one_token_counts_for_nothing(llama):
    found = log_likelihood(llama, ["a"])
    assert (found.nats.tolist(), found.tokens.tolist()) == ([0.0], [0])
    assert math.isnan(found.perplexity)


def test_no_texts(llama):
    assert len(log_likelihood(llama, []).nats) == 0
    assert math.isnan(log_likelihood(llama, []).loss_nats)
    assert math.isnan(kl_divergence(llama, [], nullcontext).mean_nats)


def test_long_texts_are_cut(llama):
    cut = log_likelihood(llama, ["abcabcabc"], max_tokens=4)
    np.testing.assert_allclose(cut.nats, log_likelihood(llama, ["abca"]).nats)


def test_low_precision_models_are_scored_in_single_precision(make, tokenizer):
    exact = log_likelihood(load(make("llama"), tokenizer=tokenizer), TEXTS)
    rough = log_likelihood(load(make("llama").to(torch.bfloat16), tokenizer=tokenizer), TEXTS)
    np.testing.assert_allclose(rough.loss_nats, exact.loss_nats, rtol=0.05)


# Continuations ------------------------------------------------------------------------------------------


def test_a_continuation_is_what_its_tokens_add(model, tokenizer):
    prompts, endings = ["ab", "the quick", "x"], [" cd", " fox jumps", "y"]
    found = continuation_log_likelihood(model, prompts, endings, batch_size=2)
    for place, (prompt, ending) in enumerate(zip(prompts, endings, strict=True)):
        whole, start = tokenizer(prompt + ending)["input_ids"], len(tokenizer(prompt)["input_ids"])
        assert found.nats[place] == pytest.approx(alone(model, whole, start), rel=exact(model))
    assert found.tokens.tolist() == [3, 10, 1]


def test_continuations_of_one_token_are_a_distribution(llama, tokenizer):
    """Over the whole vocabulary, probabilities sum to one less the tokens that no text writes."""
    letters = [tokenizer.decode([place]) for place in range(3, 64) if tokenizer.decode([place])]
    found = continuation_log_likelihood(llama, ["ab"] * len(letters), letters)
    with torch.no_grad():
        p = llama.module(torch.tensor([[3, 4]])).logits[0, -1].softmax(-1)
    written = [tokenizer(letter)["input_ids"][0] for letter in letters]
    assert np.exp(found.nats).sum() == pytest.approx(float(p[written].sum()), abs=1e-9)


def test_special_tokens_stand_before_the_prompt_only(make):
    tokenizer = tiny_models.tokenizer()
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    model = load(make("llama").double(), tokenizer=tokenizer)
    found = continuation_log_likelihood(model, ["ab"], ["cd"])
    assert found.nats[0] == pytest.approx(alone(model, [0, 3, 4, 5, 6], 3), abs=1e-9)
    assert log_likelihood(model, ["ab"]).tokens.tolist() == [2]


# Divergence ---------------------------------------------------------------------------------------------


@contextmanager
def shifted(model, amount):
    """An intervention by hand: every block's MLP writes `amount` more on its first unit."""
    handles = [
        part.register_forward_hook(lambda _m, _i, out: out + amount * torch.eye(16, dtype=out.dtype)[0])
        for name, part in model.module.named_modules()
        if name.endswith(model.family.mlp_out)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_divergence_of_each_text_is_as_alone(model, tokenizer):
    found = kl_divergence(model, TEXTS, lambda: shifted(model, 0.7), batch_size=2)
    for text, nats in zip(TEXTS, found.nats, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            p = model.module(ids).logits[0].log_softmax(-1)
            with shifted(model, 0.7):
                q = model.module(ids).logits[0].log_softmax(-1)
        expected = torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True)
        assert nats == pytest.approx(float(expected), rel=exact(model))
    assert found.tokens.tolist() == [len(text) for text in TEXTS]
    assert found.mean_nats == pytest.approx(found.nats.sum() / sum(map(len, TEXTS)))


def test_no_change_diverges_by_nothing_and_a_larger_one_by_more(llama):
    assert kl_divergence(llama, TEXTS, nullcontext).nats.tolist() == [0.0] * len(TEXTS)
    little, much = (
        kl_divergence(llama, TEXTS, lambda size=size: shifted(llama, size)).mean_nats for size in (0.1, 1.0)
    )
    assert 0 < little < much


def test_the_context_is_opened_for_the_second_pass_of_each_batch_only(llama):
    seen = []
    llama.module.register_forward_hook(lambda *_: seen.append("pass"))

    @contextmanager
    def context():
        seen.append("open")
        yield
        seen.append("close")

    kl_divergence(llama, TEXTS, context, batch_size=3)
    assert seen == ["pass", "open", "pass", "close"] * 2


rows = st.lists(st.floats(-20, 20), min_size=4, max_size=4)


@given(rows, rows, st.floats(-5, 5))
def test_kl_is_positive_blind_to_constants_and_the_textbook_s(p, q, constant):
    p, q = torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)
    found = float(kl(p, q))
    a, b = p.softmax(-1), q.softmax(-1)
    assert found >= 0
    assert found == pytest.approx(float((a * (a.log() - b.log())).sum()), abs=1e-9)
    assert float(kl(p + constant, q)) == pytest.approx(found, abs=1e-9)
    assert float(kl(p, p)) == 0


def test_kl_at_the_edges():
    some = torch.tensor([0.0, -torch.inf])
    assert kl(some, torch.zeros(2)) == pytest.approx(math.log(2))
    assert kl(torch.zeros(2), some) == math.inf
    assert kl(some, some) == 0


def test_kl_has_the_gradient_of_the_textbook():
    """Towards the logits of q it is q - p."""
    p, q = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1.0, 0.0, 0.5], requires_grad=True)
    kl(p, q).backward()
    torch.testing.assert_close(q.grad, q.detach().softmax(-1) - p.softmax(-1))


# What is left alone, what is refused --------------------------------------------------------------------


def test_modes_come_back_and_nothing_is_drawn(make, tokenizer):
    module = make("gpt2").train()
    model, state = load(module, tokenizer=tokenizer), torch.get_rng_state()
    first = log_likelihood(model, TEXTS).nats
    np.testing.assert_array_equal(log_likelihood(model, TEXTS).nats, first)
    assert all(part.training for part in module.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_with_an_adapter(make, tokenizer):
    plain = log_likelihood(load(make("gpt2"), tokenizer=tokenizer), TEXTS).nats
    adapted = load(make("gpt2"), tokenizer=tokenizer, adapter={"r": 2})
    np.testing.assert_array_equal(log_likelihood(adapted, TEXTS).nats, plain)


CALLS = [
    lambda model: log_likelihood(model, ["a"]),
    lambda model: kl_divergence(model, ["a"], nullcontext),
    lambda model: continuation_log_likelihood(model, ["a"], ["b"]),
]


@pytest.mark.parametrize("call", CALLS)
def test_other_kinds_are_refused(call, make, tokenizer):
    with pytest.raises(ModelError, match="got a BertForMaskedLM, expected a causal language model"):
        call(load(make("bert_masked_lm"), tokenizer=tokenizer))
    with pytest.raises(ModelError, match="got a LlamaForCausalLM without tokenizer"):
        call(load(make("llama")))


@pytest.mark.parametrize(
    ("prompts", "continuations", "error", "message"),
    [
        (
            ["a", "b"],
            ["c"],
            ShapeError,
            "got 2 prompts and 1 continuations, expected one continuation for each",
        ),
        (["a"], [""], ModelError, "got the continuation '', which has no token"),
        ("a", ["b"], ModelError, r"got one string, expected a list of prompts; try \[prompt\]"),
    ],
)
def test_continuations_that_do_not_fit(prompts, continuations, error, message, llama):
    with pytest.raises(error, match=message):
        continuation_log_likelihood(llama, prompts, continuations)
