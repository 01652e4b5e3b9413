"""Two models on the same records, against one row at a time without padding, and against the same text in bytes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as token_models
from torch import nn
from transformers import PreTrainedTokenizerFast

import compare_worlds as cw
from trimtab import Domain, load
from trimtab.adapt.compare.reading import Side, byte_row, read_bytes, read_tokens, same_tokens, sequence_nll
from trimtab.data.encode import Marker
from trimtab.data.tokens import tokenise
from trimtab.errors import DataError, ModelError
from trimtab.models.language import kl_divergence
from worlds import tokenizer

ONE, OTHER = cw.base(0), cw.base(1)
TEXTS = [text[: 6 + place] for place, text in enumerate(cw.texts("cdef", 9))]


@pytest.fixture(scope="module")
def split() -> Any:
    return tokenise(Domain("math", test=TEXTS), ONE, seq_len=32, packing="padded").splits["test"]


def alone(model: Any, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of the next token after each token but the last, one row without padding."""
    with torch.no_grad():
        return model.module(input_ids=torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_losses_kl_and_greedy_tokens_are_those_of_each_row_alone(split: Any, batch_size: int) -> None:
    rows = [3, 0, 8, 5]
    reading = read_tokens(Side(ONE), Side(OTHER), split, rows, batch_size=batch_size)
    for place, row in enumerate(rows):
        ids = split.ids[split.offsets[row] : split.offsets[row + 1]].tolist()
        p, q = alone(ONE, ids), alone(OTHER, ids)
        after = torch.tensor(ids[1:])[:, None]
        assert reading.base.nll[place] == pytest.approx(-float(p.gather(1, after).sum()), rel=1e-5)
        assert reading.tuned.nll[place] == pytest.approx(-float(q.gather(1, after).sum()), rel=1e-5)
        assert reading.kl.nll[place] == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4)
        assert reading.changed.nll[place] == int((p.argmax(1) != q.argmax(1)).sum())
        assert reading.base.tokens[place] == len(ids) - 1
        assert reading.texts[place] == tokenizer().decode(ids, skip_special_tokens=True)
    assert not reading.identical


def test_only_what_is_learned_of_a_record_counts() -> None:
    domain = Domain("sums", test=[{"prompt": "cdcd", "completion": "efe"}, "cdefc"])
    split = tokenise(domain, ONE, seq_len=32, packing="padded").splits["test"]
    reading = read_tokens(Side(ONE), Side(OTHER), split, [0, 1], batch_size=2)
    assert reading.base.tokens.tolist() == [
        4,
        5,
    ]  # the completion with its end; all but the first token of a text
    ids = tokenizer()("cdcdefe<eos>")["input_ids"]
    learned = alone(ONE, ids).gather(1, torch.tensor(ids[1:])[:, None])[3:]
    assert reading.base.nll[0] == pytest.approx(-float(learned.sum()), rel=1e-5)


def test_a_model_against_itself_is_identical(split: Any) -> None:
    reading = read_tokens(Side(ONE), Side(cw.copied(ONE)), split, range(len(split)), batch_size=4)
    assert reading.identical
    assert not reading.kl.nll.any()
    assert not reading.changed.nll.any()


class Louder:
    """A change that multiplies the logits, as a temperature does."""

    def __init__(self, by: float) -> None:
        self.by, self.opened = by, 0

    @contextmanager
    def on(self, model: Any) -> Any:
        self.opened += 1
        hook = model.module.lm_head.register_forward_hook(lambda _, __, logits: self.by * logits)
        try:
            yield
        finally:
            hook.remove()


def test_a_change_is_on_for_the_tuned_side_alone(split: Any) -> None:
    louder = Louder(1.5)
    rows = list(range(len(split)))
    reading = read_tokens(Side(ONE), Side(ONE, louder), split, rows, batch_size=16)
    plain = read_tokens(Side(ONE), Side(ONE), split, rows, batch_size=16)
    assert np.array_equal(reading.base.nll, plain.base.nll)
    assert not reading.changed.nll.any()  # a temperature moves no maximum
    per_text = kl_divergence(ONE, [text + "<eos>" for text in TEXTS], lambda: louder.on(ONE))
    last = kl_divergence(
        ONE, TEXTS, lambda: louder.on(ONE)
    )  # it counts the position after the last token, too
    assert per_text.tokens.tolist() == [tokens + 1 for tokens in reading.base.tokens]
    assert (reading.kl.nll > 0).all()
    assert (reading.kl.nll < per_text.nats).all()
    np.testing.assert_allclose(reading.kl.nll, last.nats, rtol=1e-4)
    assert not ONE.module.lm_head._forward_hooks


def widened(model: Any, more: int) -> Any:
    """A model that predicts further tokens, each of which it finds next to impossible."""
    wide = cw.copied(model)
    head = wide.module.lm_head
    weight = torch.cat([head.weight.detach(), torch.zeros(more, head.weight.shape[1])])
    wide.module.lm_head = nn.Linear(head.in_features, len(weight), bias=False)
    wide.module.lm_head.weight.data = weight
    return wide


def test_tokens_that_one_model_alone_predicts(split: Any) -> None:
    wide = widened(ONE, 6)
    rows = [0, 1]
    reading = read_tokens(Side(ONE), Side(wide), split, rows, batch_size=2)
    for place, row in enumerate(rows):
        ids = split.ids[split.offsets[row] : split.offsets[row + 1]].tolist()
        p, q = alone(ONE, ids), alone(wide, ids)
        expected = float((p.exp() * (p - q[:, : p.shape[1]])).sum())
        assert reading.kl.nll[place] == pytest.approx(expected, rel=1e-4)
    assert read_tokens(Side(wide), Side(ONE), split, rows, batch_size=2).kl is None


def test_what_returns_no_logits_is_refused(split: Any) -> None:
    silent = load(nn.Identity(), tokenizer=tokenizer())
    silent.module.forward = lambda input_ids, attention_mask: input_ids  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="Identity that returns no logits, expected a causal language model"):
        read_tokens(Side(silent), Side(silent), split, [0], batch_size=1)


# Different tokenizers


def merged(corpus: str, size: int, lead: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with merges, and perhaps a token before every text."""
    bpe = Tokenizer(token_models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["</s>", "<s>"]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    bpe.train_from_iterator([corpus], trainer)
    if lead:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", bos_token="<s>")


PLAIN = tokenizer()
WORDS = merged("the cat sat on the mat, the cats sat; naïve café – 日本語", 300)
LED = merged("abab abc the theme", 280, lead=True)


def test_which_tokenizers_are_the_same() -> None:
    again = merged("the cat sat on the mat, the cats sat; naïve café – 日本語", 300)
    assert same_tokens(WORDS, again)
    again.chat_template = "{{ messages }}"
    again.add_special_tokens({"pad_token": "<pad>"})
    assert same_tokens(WORDS, again)
    assert not same_tokens(WORDS, PLAIN)
    assert not same_tokens(LED, merged("abab abc the theme", 280))  # one begins texts with a token


def decoded(words: PreTrainedTokenizerFast, ids: np.ndarray) -> bytes:
    """The bytes of byte-level tokens, without a decoder that would replace broken characters."""
    table = {letter: byte for byte, letter in _byte_letters().items()}
    return b"".join(
        bytes(table[letter] for letter in token) for token in words.convert_ids_to_tokens(ids.tolist())
    )


def _byte_letters() -> dict[int, str]:
    """The letter that GPT-2's table has for each byte: printable ones stand for themselves."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {byte: chr(256 + place) for place, byte in enumerate(others)}


@given(
    st.text(alphabet="the cat sänaïve日本語\n😀ab", min_size=0, max_size=80),
    st.integers(0, 12),
    st.sampled_from([(PLAIN, WORDS), (WORDS, LED), (LED, LED)]),
    st.integers(4, 40),
)
def test_both_are_scored_on_the_same_bytes(text: str, start: int, pair: Any, seq_len: int) -> None:
    row = byte_row(text, start, [Marker(words) for words in pair], seq_len)
    if row is None:
        return
    tail = row.text.encode()[-row.scored :] if row.scored else b""
    assert text.startswith(row.text)
    assert len(row.text) - len(tail.decode()) >= start  # nothing of the prompt is scored
    for words, (ids, scored) in zip(pair, row.tokens, strict=True):
        assert len(ids) <= seq_len
        assert decoded(words, ids[scored]) == tail
        assert not scored[0]  # nothing precedes it


def test_most_of_a_text_is_scored() -> None:
    text = "the cats sat on the mat"
    row = byte_row(text, 0, [Marker(PLAIN), Marker(WORDS)], 64)
    assert row is not None
    assert row.scored == len(text) - len("the")
    row = byte_row("Is it so? yes", len("Is it so?"), [Marker(PLAIN), Marker(WORDS)], 64)
    assert row is not None
    assert row.scored == len(" yes")
    assert byte_row("", 0, [Marker(PLAIN), Marker(WORDS)], 64) is None


def test_losses_per_byte_are_those_of_each_text_alone() -> None:
    other = load(cw.base(3).module, tokenizer=merged("abcd abcd ab", 258))
    other.module.resize_token_embeddings(260)
    records = [{"text": TEXTS[0], "group": "x"}, {"prompt": "ab", "completion": "cdab", "group": "y"}]
    domain = Domain("math", test=[*records, {"text": TEXTS[5], "group": "x"}])
    reading = read_bytes(Side(ONE), Side(other), domain, [2, 0, 1], seq_len=32, batch_size=2)
    assert reading.kl is None
    assert reading.texts == (TEXTS[0], "abcdab", TEXTS[5])
    assert reading.base.records.tolist() == [0, 1, 0]
    markers = [Marker(model.tokenizer) for model in (ONE, other)]
    for place, (text, start) in enumerate([(TEXTS[0], 0), ("abcdab", 2), (TEXTS[5], 0)]):
        row = byte_row(text, start, markers, 32)
        assert row is not None
        assert reading.base.tokens[place] == row.scored
        for losses, model, (ids, scored) in zip(
            (reading.base, reading.tuned), (ONE, other), row.tokens, strict=True
        ):
            logs = alone(model, ids.tolist()).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
            assert losses.nll[place] == pytest.approx(-float(logs[torch.tensor(scored[1:])].sum()), rel=1e-5)


def test_conversations_and_slow_tokenizers_cannot_be_compared_per_byte() -> None:
    talk = {"messages": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]}
    sides = Side(ONE), Side(load(cw.base(1).module, tokenizer=WORDS))
    with pytest.raises(DataError, match="domain 'talk': got no text that both tokenizers can be scored on"):
        read_bytes(*sides, Domain("talk", test=[talk]), [0], seq_len=32, batch_size=2)


def test_sequence_losses_are_those_of_the_pair(split: Any) -> None:
    pair = read_tokens(Side(ONE), Side(OTHER), split, range(len(split)), batch_size=3)
    np.testing.assert_allclose(sequence_nll(Side(OTHER), split, 4), pair.tuned.nll, rtol=1e-6)
