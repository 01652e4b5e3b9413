"""Continuations against the tokens of prompt and continuation as one text, for every style of tokenizer."""

from __future__ import annotations

import string

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

import tiny_models
from trimtab.errors import ModelError
from trimtab.models.language import continuation_log_likelihood, joined_rows, log_likelihood
from trimtab.models.load import load

SPECIAL = ["<unk>", "<s>", "</s>"]
MERGES = [("t", "h"), ("th", "e"), ("c", "a"), ("ca", "t"), ("a", "t"), ("o", "n"), ("e", "c")]


def bpe(space):
    """Byte pairs over letters; `space` is how a space is written."""
    merges = [*MERGES, (space, "the"), (space, "cat"), (space, "on")]
    table = [*SPECIAL, space, *string.ascii_letters, *".,!'", *("".join(pair) for pair in merges)]
    return models.BPE({word: k for k, word in enumerate(dict.fromkeys(table))}, merges, unk_token="<unk>")


def llama2():
    inner = Tokenizer(bpe("▁"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return inner


def metaspace(scheme):
    inner = Tokenizer(bpe("▁"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=scheme == "always")
    return inner


def byte_level(trim):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [*MERGES, ("Ġ", "the"), ("Ġ", "cat"), ("Ġ", "Ġ")]
    table = [*SPECIAL, *letters, *("".join(pair) for pair in merges)]
    inner = Tokenizer(models.BPE({word: k for k, word in enumerate(table)}, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim)
    inner.decoder = decoders.ByteLevel()
    return inner


def word_piece():
    pieces = [
        "the",
        "cat",
        "on",
        *string.ascii_lowercase,
        *(f"##{one}" for one in (*string.ascii_lowercase, "cat")),
    ]
    table = {word: k for k, word in enumerate([*SPECIAL, *pieces, *".,!'"])}
    inner = Tokenizer(models.WordPiece(table, unk_token="<unk>"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return inner


def unigram():
    words = [*((word, 0.0) for word in SPECIAL), ("▁", -2.0), ("▁the", -3.0), ("▁cat", -3.0), ("cat", -4.0)]
    words += [(letter, -5.0) for letter in (*string.ascii_letters, *".,!'")]
    inner = Tokenizer(models.Unigram(words, unk_id=0))
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return inner


STYLES = {
    "llama2": llama2,
    "metaspace first": lambda: metaspace("first"),
    "metaspace never": lambda: metaspace("never"),
    "byte level": lambda: byte_level(False),
    "byte level, trimmed": lambda: byte_level(True),
    "word piece": word_piece,
    "unigram": unigram,
}


def words_of(style, first=True):
    inner = STYLES[style]()
    if first:
        inner.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def by_characters(words, prompt, rest):
    """The slow, obvious way: tokens of the whole text, the first of which that has a character of the continuation."""
    encoded = words(prompt + rest, return_offsets_mapping=True)
    for place, (start, end) in enumerate(encoded["offset_mapping"]):
        if max(start, len(prompt)) < end:
            return encoded["input_ids"], place
    return encoded["input_ids"], len(encoded["input_ids"])


PAIRS = [
    ("the", " cat"),
    ("the", "cat"),
    ("the ", "cat"),
    ("the cat", " on the cat"),
    ("th", "e cat"),
    ("a the", "cat."),
    ("the cat.", " The"),
    ("on", "'the'"),
]


@pytest.mark.parametrize("first", [True, False], ids=["with <s>", "without"])
@pytest.mark.parametrize("style", STYLES)
def test_continuations_are_scored_in_their_text(style, first):
    words = words_of(style, first)
    config = hf.LlamaConfig(
        **tiny_models.GROUPED | {"vocab_size": len(words), "bos_token_id": 1, "eos_token_id": 2}
    )
    network = hf.LlamaForCausalLM(config).double().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    model = load(network, tokenizer=words)
    whole = [by_characters(words, *pair) for pair in PAIRS]
    kept = [(pair, row, start) for pair, (row, start) in zip(PAIRS, whole, strict=True) if start > 0]
    found = continuation_log_likelihood(
        model, *zip(*(pair for pair, _, _ in kept), strict=True), batch_size=3
    )
    for number, (pair, row, start) in enumerate(kept):
        with torch.no_grad():
            logp = network(torch.tensor([row])).logits[0].log_softmax(-1)
        right = sum(float(logp[place - 1, row[place]]) for place in range(start, len(row)))
        assert found.tokens[number] == len(row) - start, pair
        assert found.nats[number] == pytest.approx(right, abs=1e-9), pair
    apart = [k for k, (pair, row, start) in enumerate(kept) if row[:start] == words(pair[0])["input_ids"]]
    heads, both = (
        log_likelihood(model, [join(kept[k][0]) for k in apart]) for join in (lambda pair: pair[0], "".join)
    )
    np.testing.assert_allclose(heads.nats + found.nats[apart], both.nats, atol=1e-9)


@settings(max_examples=60)
@given(
    style=st.sampled_from(sorted(STYLES)),
    prompt=st.text(alphabet="thecaon .,é", min_size=1, max_size=8),
    rest=st.text(alphabet="thecaon .,é", min_size=1, max_size=8),
)
def test_every_character_of_a_continuation_is_scored_once(style, prompt, rest):
    words = words_of(style)
    try:
        ((row,), (start,)) = joined_rows(words, [prompt], [rest])
    except ModelError:  # spaces alone have no token in some styles
        assume(False)
    expected, place = by_characters(words, prompt, rest)
    assert row == expected
    if words(prompt)["input_ids"] != row[:start]:
        assert start == place


def test_a_token_across_the_border_counts_to_the_continuation():
    words = words_of("llama2")
    ((row,), (start,)) = joined_rows(words, ["th"], ["e"])
    assert words.convert_ids_to_tokens(row[start:]) == ["▁the"]


def test_a_continuation_that_nothing_precedes():
    words = words_of("llama2", first=False)
    message = r"continuation 0, 'e', after 'th': got the first token of all, which nothing precedes, expected a token"
    with pytest.raises(ModelError, match=message):
        joined_rows(words, ["th"], ["e"])


@pytest.mark.parametrize(
    ("rest", "message"), [("", "the continuation '', which has no token"), (" ", "no token")]
)
def test_a_continuation_without_tokens(rest, message):
    with pytest.raises(ModelError, match=message):
        joined_rows(words_of("word piece"), ["the"], [rest])


def test_what_a_text_says_itself():
    """A first token in the prompt is there once; an end token counts where the continuation has it itself."""
    inner = llama2()
    added = [("<s>", 1), ("</s>", 2)]
    inner.post_processor = TemplateProcessing("<s> $A </s>", special_tokens=added)
    words = hf.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    ((plain,), (start,)) = joined_rows(words, ["the"], [" cat"])
    assert words.convert_ids_to_tokens(plain) == ["<s>", "▁the", "▁cat"]
    ((again,), (later,)) = joined_rows(words, ["<s>the"], [" cat</s>"])
    assert words.convert_ids_to_tokens(again[later:]) == ["▁cat", "</s>"]
    assert again.count(1) == 1
    assert start == 2


def test_an_empty_prompt_is_the_first_token_alone():
    ((row,), (start,)) = joined_rows(words_of("byte level"), [""], ["cat"])
    assert (row[0], start) == (1, 1)


def test_a_tokenizer_that_cannot_say_which_characters_a_token_has():
    words = hf.ByT5Tokenizer()
    assert not words.is_fast
    ((row,), (start,)) = joined_rows(words, ["thé"], [" cat"])
    assert words.decode(row[start:]) == " cat"
    assert start == 4  # two bytes for the accent
