"""Which tokens a record becomes, and which of them carry loss."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from trimtab.data.encode import Encoded, encode, find_tokenizer, pad_id, tokenizer_fingerprint
from trimtab.data.records import Chat, Completion, Text
from trimtab.errors import DataError, ModelError

CHATML = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
# Writes "(thought)" before the last turn only, as templates of reasoning models do.
THINKING = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}(thought){% endif %}{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
PICKY = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
SHOUTING = "{{ messages | length }}{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
TALK = Chat(
    (
        {"role": "user", "content": "the cat?"},
        {"role": "assistant", "content": "sat on the mat"},
        {"role": "user", "content": "and the dog?"},
        {"role": "assistant", "content": "sat too"},
    )
)


def said(encoded: Encoded, tokenizer) -> str:
    """The text of the tokens that carry loss; "|" where there is a gap."""
    runs = np.split(np.arange(len(encoded.ids)), np.flatnonzero(np.diff(encoded.loss.astype(int))) + 1)
    return "|".join(
        tokenizer.decode(encoded.ids[run]) for run in runs if encoded.loss[run].all() and len(run)
    )


def one(item, tokenizer) -> Encoded:
    (encoded,) = encode([item], tokenizer)
    assert encoded.ids.dtype == np.int32
    assert encoded.ids.shape == encoded.loss.shape
    return encoded


def test_a_text_is_its_tokens_and_eos_all_with_loss(tokenizer):
    encoded = one(Text("the cat"), tokenizer)
    assert tokenizer.decode(encoded.ids) == "the cat<eos>"
    assert encoded.loss.all()
    assert encoded.is_text


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("2 + 2 =", " 4"),
        ("2 + 2 = ", "4"),
        ("def f(x):\n", "    return x"),
        ("", "the cat"),
        ("naïve é", "日本 é"),
        ("the", " \n\n cat"),
    ],
)
def test_only_the_completion_and_eos_carry_loss(tokenizer, prompt, completion):
    encoded = one(Completion(prompt, completion), tokenizer)
    assert tokenizer.decode(encoded.ids) == f"{prompt}{completion}<eos>"
    loss = said(encoded, tokenizer)
    assert loss.endswith(f"{completion}<eos>")
    assert len(loss) <= len(f"{completion}<eos>") + prompt[-1:].isspace()
    assert not encoded.is_text


def test_a_token_with_a_character_of_the_completion_carries_loss(tokenizer):
    encoded = one(Completion("the c", "at"), tokenizer)
    assert said(encoded, tokenizer) == " cat<eos>"


def test_nothing_to_learn_from_an_empty_completion(tokenizer):
    assert not one(Completion("the cat", " "), tokenizer).loss.any()


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_only_the_assistant_carries_loss(make_tokenizer, template):
    tokenizer = make_tokenizer(template=template)
    encoded = one(TALK, tokenizer)
    assert tokenizer.decode(encoded.ids) == tokenizer.apply_chat_template(list(TALK.messages), tokenize=False)
    end = "<|end|>" if template is MARKED else "<|end|>\n"
    assert said(encoded, tokenizer) == f"sat on the mat{end}|sat too{end}"


def test_a_template_that_writes_earlier_turns_differently(make_tokenizer):
    tokenizer = make_tokenizer(template=THINKING)
    assert said(one(TALK, tokenizer), tokenizer) == "sat on the mat<|end|>\n|(thought)sat too<|end|>\n"


def test_the_plain_format_without_a_template(tokenizer):
    encoded = one(Chat(({"role": "system", "content": "be nice"}, *TALK.messages)), tokenizer)
    assert tokenizer.decode(encoded.ids) == (
        "System: be nice\n\nUser: the cat?\n\nAssistant: sat on the mat<eos>"
        "\n\nUser: and the dog?\n\nAssistant: sat too<eos>"
    )
    assert said(encoded, tokenizer).replace(" sat", "sat") == "sat on the mat<eos>|sat too<eos>"


def test_a_conversation_in_which_the_assistant_is_silent_or_first(make_tokenizer):
    tokenizer = make_tokenizer(template=CHATML)
    silent = Chat(({"role": "user", "content": "hi"}, {"role": "assistant", "content": " "}))
    assert not one(silent, tokenizer).loss.any()
    first = Chat(TALK.messages[1:])
    assert said(one(first, tokenizer), tokenizer) == "sat on the mat<|end|>\n|sat too<|end|>\n"


def test_a_conversation_that_the_template_refuses_is_left_out_with_its_reason(make_tokenizer):
    with_system = Chat(({"role": "system", "content": "be nice"}, *TALK.messages))
    for template in (PICKY, PICKY + MARKED):
        tokenizer = make_tokenizer(template=template)
        bad, good = encode([with_system, TALK], tokenizer)
        assert "messages 'be nice / the cat" in bad.skipped
        assert "got no system role, expected a conversation that the" in bad.skipped
        assert not len(bad.ids)
        assert good.loss.any()
        assert not good.skipped


def test_a_template_that_rewrites_the_words_gives_loss_on_what_it_writes(make_tokenizer):
    tokenizer = make_tokenizer(template=SHOUTING)
    assert said(one(TALK, tokenizer), tokenizer).replace(" SAT", "SAT") == "SAT ON THE MAT|SAT TOO"


def test_a_tokenizer_that_begins_texts_with_bos(make_tokenizer):
    tokenizer = make_tokenizer(with_bos=True)
    items = [Text("the cat"), Completion("the", " cat"), TALK]
    decoded = [tokenizer.decode(encoded.ids) for encoded in encode(items, tokenizer)]
    assert decoded[:2] == ["<bos>the cat<eos>", "<bos>the cat<eos>"]
    assert decoded[2].startswith("<bos>User: the cat?")
    assert said(one(items[1], tokenizer), tokenizer) == " cat<eos>"


RENDERED = {
    "begun and ended": ("<bos>[user]hi[assistant]ho<eos>", "<bos>[user]hi[assistant]ho<eos>"),
    "begun": ("<bos>the cat", "<bos>the cat<eos>"),
    "ended": ("the cat<eos>", "<bos>the cat<eos>"),
    "white space around": ("\n<bos>the cat<eos> \n", "\n<bos>the cat<eos> \n"),
    "inside": ("the<eos>cat<bos>sat", "<bos>the<eos>cat<bos>sat<eos>"),
    "neither": ("the cat", "<bos>the cat<eos>"),
}


@pytest.mark.parametrize("name", RENDERED)
def test_special_tokens_of_a_rendered_text_are_not_doubled(make_tokenizer, name):
    text, expected = RENDERED[name]
    tokenizer = make_tokenizer(with_bos=True)
    begin = text.index("the cat") if "the cat" in text else 5
    for item in (Text(text), Completion(text[:begin], text[begin:])):
        assert tokenizer.decode(one(item, tokenizer).ids) == expected
    without = one(Text(text), make_tokenizer(bos_token="<bos>"))
    assert (
        tokenizer.decode(without.ids) == expected[len("<bos>") :]
        if name in ("ended", "inside", "neither")
        else expected
    )


def test_an_answer_that_ends_with_the_end_token_is_closed_once(make_tokenizer):
    tokenizer = make_tokenizer(with_bos=True)
    completion = one(Completion("<bos>2 + 2 =", " 4<eos>"), tokenizer)
    assert tokenizer.decode(completion.ids) == "<bos>2 + 2 = 4<eos>"
    assert said(completion, tokenizer) == " 4<eos>"
    plain = one(
        Chat(({"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho<eos>"})), tokenizer
    )
    assert tokenizer.decode(plain.ids) == "<bos>User: hi\n\nAssistant: ho<eos>"
    templated = make_tokenizer(with_bos=True, template="{{ bos_token }}" + CHATML)
    assert templated.decode(one(TALK, templated).ids).count("<bos>") == 1


@pytest.mark.parametrize(
    "item",
    [
        Text("so happy \ud83d today"),
        Completion("Q: \udc00", "a"),
        Chat(({"role": "user", "content": "hi"}, {"role": "assistant", "content": "\ud83d"})),
        Chat(({"role": "user\ud83d", "content": "hi"},)),
        Chat(TALK.messages, {"tools": [{"name": "a\ud83d"}]}),
    ],
)
def test_half_of_a_character_is_refused_by_name(make_tokenizer, item):
    for template in (None, CHATML):
        with pytest.raises(
            DataError, match=r"record .*: got half of a surrogate pair, expected text that UTF-8"
        ):
            list(encode([TALK, item], make_tokenizer(template=template)))


def test_mixed_records_keep_their_order(make_tokenizer):
    tokenizer = make_tokenizer(template=MARKED)
    items = [Text("a"), TALK, Completion("b", "c"), Text("d"), TALK] * 150
    together = list(encode(items, tokenizer))
    assert len(together) == len(items)
    for item, encoded in zip(items[:5], together[-5:], strict=True):
        np.testing.assert_array_equal(encoded.ids, one(item, tokenizer).ids)


def test_long_documents_are_tokenised_in_pieces_with_the_same_tokens(tokenizer, monkeypatch):
    text = "".join(f"line {number}:\n\n    the cat sat {'x' * (number % 37)}\n" for number in range(300))
    whole = one(Text(text), tokenizer).ids
    monkeypatch.setattr("trimtab.data.encode._PIECE", 200)
    np.testing.assert_array_equal(one(Text(text), tokenizer).ids, whole)
    monkeypatch.setattr("trimtab.data.encode._PIECE", 10)
    assert tokenizer.decode(one(Text("x" * 95), tokenizer).ids) == "x" * 95 + "<eos>"


def test_a_tokenizer_that_does_not_know_its_offsets():
    tokenizer = ByT5Tokenizer()
    encoded = one(Completion("the cat", " sat"), tokenizer)
    assert tokenizer.decode(encoded.ids) == "the cat sat</s>"
    assert said(encoded, tokenizer) == " sat</s>"
    assert said(one(TALK, tokenizer), tokenizer) == "sat on the mat</s>|sat too</s>"
    assert len(tokenizer_fingerprint(tokenizer)) == 64


def test_no_eos_is_an_error_where_one_is_needed(make_tokenizer):
    tokenizer = make_tokenizer(eos_token=None, template=CHATML)
    assert tokenizer.eos_token_id is None
    assert one(TALK, tokenizer).loss.any()
    match = (
        r"end-of-sequence token: got none, expected one, to end documents with; try tokenizer.eos_token = "
    )
    with pytest.raises(ModelError, match=match):
        one(Text("a"), tokenizer)
    with pytest.raises(ModelError, match=match):
        one(TALK, make_tokenizer(eos_token=None))


def test_padding_falls_back_to_eos(make_tokenizer):
    assert pad_id(make_tokenizer(pad_token="<pad>")) == 2
    assert pad_id(make_tokenizer()) == 0 == make_tokenizer().eos_token_id
    assert pad_id(make_tokenizer(eos_token="<|end|>")) == 4
    assert pad_id(make_tokenizer(eos_token=None)) == 0


def test_a_tokenizer_or_what_has_one(tokenizer):
    class Handle:
        def __init__(self, tokenizer):
            self.tokenizer = tokenizer

    assert find_tokenizer(tokenizer) is find_tokenizer(Handle(tokenizer)) is tokenizer
    for wrong in (Tokenizer(models.BPE()), Handle(None), "gpt2"):
        with pytest.raises(
            ModelError, match=r"got .*, expected a transformers tokenizer, or a model that has one"
        ):
            find_tokenizer(wrong)


def test_the_fingerprint_of_a_tokenizer(make_tokenizer):
    tokenizer = make_tokenizer()
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a"], truncation=True, max_length=3)
    assert tokenizer.backend_tokenizer.truncation
    assert tokenizer_fingerprint(tokenizer) == before == tokenizer_fingerprint(make_tokenizer())
    others = [
        make_tokenizer(template=CHATML),
        make_tokenizer(with_bos=True),
        make_tokenizer(pad_token="<pad>"),
        make_tokenizer(eos_token="<|end|>"),
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a"))),
    ]
    assert len({before, *map(tokenizer_fingerprint, others)}) == 6
