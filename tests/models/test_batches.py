from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
from trimtab.errors import ModelError
from trimtab.models.batches import evaluating, pad_token, padded, row_batches, text_batches, token_rows
from trimtab.models.load import load

TEXTS = ["a", "the quick brown fox", "Hello, hello", "zz", "one more."]
READERS = (*tiny_models.DECODERS, "bert", "bert_masked_lm", "clip_text_model")


def test_positions_count_from_the_first_real_token():
    batch = padded([[7], [4, 5, 6]], pad=9, side="left")
    assert batch.ids.tolist() == [[9, 9, 7], [4, 5, 6]]
    assert batch.mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert batch.positions.tolist() == [[0, 0, 0], [0, 1, 2]]


def exact(name: str) -> float:
    """How closely a model in double precision can agree: Gemma 2 takes its softmax in single precision."""
    return 1e-5 if name == "gemma2" else 1e-10


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=5),
    st.sampled_from(["left", "right"]),
)
def test_the_mask_gives_the_rows_back(rows, side):
    batch = padded(rows, pad=3, side=side)
    for row, ids, mask, positions in zip(rows, batch.ids, batch.mask.bool(), batch.positions, strict=True):
        assert ids[mask].tolist() == row
        assert positions[mask].tolist() == list(range(len(row)))
        assert bool(mask[-1 if side == "left" else 0])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", READERS)
def test_padding_on_either_side_changes_nothing(name, side, make, tokenizer):
    """Hidden values or logits of each text in a batch against the text alone, without mask or positions."""
    module = make(name)
    if (name, side) != ("gemma2", "left"):
        module.double()
    model = load(module, tokenizer=tokenizer)
    (batch,) = text_batches(model, TEXTS, side=side)
    with torch.no_grad():
        together = model.module(**batch.arguments(model.module))[0]
        for text, row, mask in zip(TEXTS, together, batch.mask.bool(), strict=True):
            alone = model.module(input_ids=torch.tensor([tokenizer(text)["input_ids"]]))[0][0]
            torch.testing.assert_close(row[mask], alone, atol=exact(name), rtol=exact(name))


def test_padding_on_the_left_that_would_give_nan_is_refused(make, tokenizer):
    model = load(make("gemma2").double(), tokenizer=tokenizer)
    (batch,) = text_batches(model, ["a", "bc"], side="left")
    keywords = {"input_ids": batch.ids, "attention_mask": batch.mask, "position_ids": batch.positions}
    with torch.no_grad():
        assert model.module(**keywords).logits[0, -1].isnan().any()  # else the refusal can go
    message = "got padding on the left for a float64 model with eager attention.*; try batch_size=1"
    for call in (lambda: batch.arguments(model.module), lambda: model.generate(["a", "bc"], 3)):
        with pytest.raises(ModelError, match=message):
            call()
    assert model.generate(["a", "bc"], 3, batch_size=1) == load(make("gemma2"), tokenizer=tokenizer).generate(
        ["a", "bc"], 3
    )


def test_positions_are_passed_where_the_model_would_count_padding(make, tokenizer):
    model = load(make("gpt2"), tokenizer=tokenizer)
    right, left = (next(text_batches(model, TEXTS, side=side)) for side in ("right", "left"))
    assert set(right.arguments(model.module)) == {"input_ids", "attention_mask"}
    assert set(left.arguments(model.module)) == {"input_ids", "attention_mask", "position_ids"}
    adapted = load(make("gpt2"), tokenizer=tokenizer, adapter={"r": 2})
    assert "position_ids" in left.arguments(adapted.module)


def test_batches_keep_the_order(make, tokenizer):
    model = load(make("llama"), tokenizer=tokenizer)
    batches = list(text_batches(model, TEXTS, batch_size=2))
    assert [len(batch.ids) for batch in batches] == [2, 2, 1]
    rows = [ids[mask].tolist() for b in batches for ids, mask in zip(b.ids, b.mask.bool(), strict=True)]
    assert rows == token_rows(tokenizer, TEXTS)
    assert list(text_batches(model, [])) == []


def test_long_texts_are_cut_where_asked_and_the_tokenizer_forgets(make, tokenizer):
    model = load(make("llama"), tokenizer=tokenizer)
    (batch,) = text_batches(model, ["a" * 70, "ab"], max_tokens=5)
    assert batch.mask.sum(1).tolist() == [5, 2]
    assert len(tokenizer("a" * 70)["input_ids"]) == 70


def test_every_part_gets_its_mode_back_also_after_an_error(make):
    module = make("gpt2").train()
    module.lm_head.eval()

    def fail():
        with evaluating(module):
            assert not any(part.training for part in module.modules())
            assert not torch.is_grad_enabled()
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert module.training
    assert not module.lm_head.training
    assert torch.is_grad_enabled()


def test_the_padding_token_is_the_tokenizer_s_or_its_last_or_any():
    assert pad_token(tiny_models.tokenizer(pad_token="<unk>")) == 2
    assert pad_token(tiny_models.tokenizer()) == 1
    bare = tiny_models.tokenizer()
    bare.eos_token = None
    assert pad_token(bare) == 0


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("one", {}, r"got one string, expected a list of texts; try \[text\]"),
        (["a", ""], {}, "got the text '', which has no token, expected at least one token"),
        (["a"], {"batch_size": 0}, "batch_size: got 0, expected at least 1"),
        (
            ["a", "b" * 65],
            {},
            "got 65 tokens in text 1, expected at most 64, the model's limit; try max_tokens=64",
        ),
    ],
)
def test_refusals_come_before_the_first_batch(texts, options, message, make, tokenizer):
    with pytest.raises(ModelError, match=message):
        text_batches(load(make("gpt2"), tokenizer=tokenizer), texts, **options)


def test_without_tokenizer(make):
    with pytest.raises(ModelError, match="got a BertModel without tokenizer"):
        text_batches(load(make("bert")), ["a"])


@pytest.mark.parametrize(("rows", "message"), [([], "no rows"), ([[1], []], "a row without tokens")])
def test_nothing_to_pad(rows, message):
    with pytest.raises(ModelError, match=f"got {message}, expected at least one row of at least one token"):
        padded(rows, 0)


def test_rows_of_a_model_without_a_limit_may_be_long(tokenizer):
    model = load(torch.nn.Linear(2, 2), tokenizer=tokenizer)
    (batch,) = row_batches(model, [[3] * 500])
    assert batch.ids.shape == (1, 500)
