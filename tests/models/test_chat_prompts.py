"""Prompts of `generate` that are conversations: the chat template's tokens, and no others."""

from __future__ import annotations

from typing import Any

import pytest

import templates
from tiny_models import CHAT, build, chat_tokenizer, tokenizer
from trimtab.errors import DataError, ModelError
from trimtab.models.chat import read_prompt
from trimtab.models.language import prompt_rows
from trimtab.models.load import load

SYSTEM = {"role": "system", "content": "Be kind."}
HI, HO = {"role": "user", "content": "Hi, you"}, {"role": "assistant", "content": "Ho!"}
TALKS = {"question": [HI], "system": [SYSTEM, HI], "turns": [HI, HO, {"role": "user", "content": "And?"}]}
TEMPLATES = {
    name: text for name, text in vars(templates).items() if name.isupper() and not name.startswith("_")
}


@pytest.mark.parametrize("with_bos", [False, True])
@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_tokens_are_those_of_the_chat_template(name: str, talk: str, with_bos: bool) -> None:
    words = chat_tokenizer(TEMPLATES[name], with_bos=with_bos)
    if name == "ALTERNATES" and talk == "system":
        with pytest.raises(
            DataError, match="prompt 0: got Conversation roles must alternate, expected a conv"
        ):
            prompt_rows(words, [TALKS[talk]])
        return
    expected = words.apply_chat_template(
        TALKS[talk], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert prompt_rows(words, [TALKS[talk]]) == [expected]
    assert prompt_rows(words, [{"messages": TALKS[talk], "id": 1}]) == [expected]
    assert prompt_rows(words, [{"prompt": TALKS[talk]}]) == [expected]


def test_texts_and_conversations_may_stand_in_one_list() -> None:
    words = chat_tokenizer(templates.DEFAULT_SYSTEM, with_bos=True)
    text, talk = words("Hi")["input_ids"], prompt_rows(words, [[HI]])[0]
    assert prompt_rows(words, ["Hi", [HI], {"text": "Hi"}, {"prompt": "Hi"}]) == [text, talk, text, text]


def test_what_stands_beside_messages_is_given_to_the_template() -> None:
    words = chat_tokenizer(templates.THINKS_LAST)
    thinking, not_thinking = prompt_rows(
        words, [[HI], {"messages": [HI], "chat_template_kwargs": {"enable_thinking": False}}]
    )
    assert words.decode(not_thinking).removeprefix(words.decode(thinking)) == "<think></think>"
    tools = chat_tokenizer(templates.BRACKETS)
    (row,) = prompt_rows(tools, [{"messages": [HI], "tools": '[{"name": "weather"}]'}])
    assert '[tools][{"name": "weather"}]' in tools.decode(row)


def test_completions_are_those_of_the_template_s_text() -> None:
    model = load(build("llama", **CHAT), tokenizer=chat_tokenizer(templates.ALTERNATES, with_bos=True))
    written = [
        model.tokenizer.apply_chat_template(TALKS[name], add_generation_prompt=True, tokenize=False)
        for name in ("question", "turns")
    ]
    assert written[0].startswith("<bos><turn>")
    found = model.generate([TALKS["question"], TALKS["turns"]], max_new_tokens=8)
    assert found == model.generate(written, max_new_tokens=8)
    assert found == [model.generate([TALKS[name]], 8)[0] for name in ("question", "turns")]
    assert len(set(found)) == 2


def test_a_conversation_in_words() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    assert str(read_prompt([SYSTEM, HI], "x")) == "system: Be kind.\nuser: Hi, you"
    assert "Hi" in str(read_prompt([parts], "x"))


@pytest.mark.parametrize(
    ("prompts", "error", "match"),
    [
        ([HI, HO], ModelError, r"got the messages of one conversation, expected a list of prompts; try \[mess"),
        ([[HI, HO]], DataError, "prompt 0: got an assistant's message at the end, .*; try leaving it out"),
        ([[HI], [{"role": "user"}]], DataError, "prompt 1, message 0, 'content': got no value, expected a text"),
        (["a", {"messages": "Hi"}], DataError, "prompt 1, 'messages': got str, expected a list of messages"),
        (["a", {"txt": "Hi"}], DataError, "prompt 1: got a mapping with 'txt', expected a text, a list"),
        (["a", 3], DataError, "prompt 1: got int, expected a text, a list of messages, or a mapping"),
        ([{"messages": [HI], "chat_template_kwargs": {"tokenize": True}}], DataError, "got 'tokenize' in chat"),
        ([{"messages": [HI], "system": "Be kind."}], DataError, "prompt 0, 'system': got a text of its own"),
    ],
)  # fmt: skip
def test_refusals(prompts: Any, error: type[Exception], match: str) -> None:
    model = load(build("llama", **CHAT), tokenizer=chat_tokenizer(templates.DEFAULT_SYSTEM))
    with pytest.raises(error, match=match):
        model.generate(prompts, max_new_tokens=1)


def test_messages_for_a_model_without_a_chat_template() -> None:
    model = load(build("llama"), tokenizer=tokenizer())
    match = (
        "prompt 1: got messages for a tokenizer without a chat template, expected a text, or a chat template; "
        "try the model's instruct version"
    )
    with pytest.raises(ModelError, match=match):
        model.generate(["a", [HI]], max_new_tokens=1)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([{"type": "image", "url": "x"}], "a part of content that is no text"),
        ([{"type": "text", "text": 3}], "a part of content that is no text"),
        ([{"type": "text", "text": "Hi"}], "content in parts, which the chat template does not take"),
    ],
)
def test_what_a_template_would_write_as_a_list_of_python_is_refused(content: Any, told: str) -> None:
    words = chat_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(DataError, match=f"prompt 0: got {told}"):
        prompt_rows(words, [[{"role": "user", "content": content}]])


def test_parts_are_fine_where_the_template_takes_them() -> None:
    words = chat_tokenizer(
        "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}"
    )
    (row,) = prompt_rows(words, [[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]])
    assert words.decode(row) == "Hi"
