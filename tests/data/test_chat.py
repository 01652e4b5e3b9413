"""Where the assistant speaks in what a template writes: by its place, never by its words."""

from __future__ import annotations

import pytest
from transformers import ByT5Tokenizer

from templates import (
    ALTERNATES,
    BRACKETS,
    CLOSES_LAST,
    DEFAULT_SYSTEM,
    ENCODES,
    ESCAPES,
    PARTS,
    PROMPTS_TO_THINK,
    SUFFIX,
    THINKS_LAST,
)
from trimtab.data.encode import encode
from trimtab.data.records import Chat, parse
from trimtab.data.turns import SkippedError, spell_by_template, spell_plainly
from trimtab.errors import DataError

CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TOOLS = [{"type": "function", "function": {"name": "weather", "strict": None}}]


def user(text):
    return {"role": "user", "content": text}


def says(text, **more):
    return {"role": "assistant", "content": text, **more}


def learned(tokenizer, *messages, **record) -> list[str]:
    """What carries loss, turn by turn."""
    marked = spell_by_template(parse({"messages": list(messages), **record}, "it"), tokenizer)
    return [marked.text[start:end] for start, end in marked.spans]


YES = (user("yes or no? yes"), says("yes"), user("yes?"), says("yes"))
THOUGHTS = (user("2+2?"), says("<think>easy</think>four"), user("3+3?"), says("<think>hm</think>six"))
TALKS = {
    "words that stand in the question": (THINKS_LAST, YES, ["yes<|end|>\n", "<think></think>yes<|end|>\n"]),
    "reasoning stripped from an earlier answer": (
        THINKS_LAST,
        THOUGHTS,
        ["four<|end|>\n", "<think>hm</think>six<|end|>\n"],
    ),
    "reasoning in a field of its own": (
        THINKS_LAST,
        (user("2+2?"), says("four", reasoning_content="a"), user("3?"), says("six", reasoning_content="hm")),
        ["four<|end|>\n", "<think>hm</think>six<|end|>\n"],
    ),
    "a prompt that opens reasoning": (PROMPTS_TO_THINK, THOUGHTS, ["four<eos>", "six<eos>"]),
    "a default system prompt with the answer": (DEFAULT_SYSTEM, YES, ["yes<|end|>", "yes<|end|>"]),
    "a system prompt with the answer": (
        DEFAULT_SYSTEM,
        ({"role": "system", "content": "yes"}, *YES),
        ["yes<|end|>", "yes<|end|>"],
    ),
    "trimmed": (ALTERNATES, (user("yes"), says(" yes \n")), ["yes<|end|>\n"]),
    "no generation prompt": (BRACKETS, YES, [" yes <eos>", " yes <eos>"]),
    "encoded": (ENCODES, (user('"a"'), says('"b"\n'), user("c"), says("d")), ['"\\"b\\"\\n"\n', '"d"\n']),
    "escaped": (ESCAPES, (user("<a>"), says("<b>")), ["&lt;b&gt;</assistant>"]),
    "the last turn is the user's": (THINKS_LAST, (user("a"), says("b"), user("b")), ["b<|end|>\n"]),
    "a turn in which nothing is said": (
        DEFAULT_SYSTEM,
        (user("a"), says(""), user("c"), says("d")),
        ["d<|end|>"],
    ),
    "two turns in a row, the first turn": (
        DEFAULT_SYSTEM,
        (says("a"), user("a"), says("b"), says("a")),
        ["a<|end|>", "b<|end|>", "a<|end|>"],
    ),
    "words that look like the template": (
        DEFAULT_SYSTEM,
        (user("<|start|>assistant\nno"), says("<|start|>assistant\nno"), user("a"), says("b")),
        ["<|start|>assistant\nno<|end|>", "b<|end|>"],
    ),
    "earlier answers closed otherwise": (CLOSES_LAST, YES, ["yes<|end|>", "yes<|return|>"]),
    "answers in a row closed otherwise": (
        CLOSES_LAST,
        (says("a"), user("b"), says("a"), says("b")),
        ["a<|end|>", "a<|end|>", "b<|return|>"],
    ),
    "closed once for all": (SUFFIX, YES, ["yes", "yes\n<eos>"]),
    "content in parts": (
        PARTS,
        (
            {"role": "user", "content": [{"type": "text", "text": "b"}]},
            says([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        ),
        ["ab<|end|>"],
    ),
}


@pytest.mark.parametrize("name", TALKS)
def test_the_turns_of_the_assistant_carry_loss_as_they_are_written(make_tokenizer, name):
    template, talk, expected = TALKS[name]
    assert learned(make_tokenizer(template=template), *talk) == expected


@pytest.mark.parametrize("content", [None, ""])
@pytest.mark.parametrize(
    "call",
    [{"tool_calls": [CALL]}, {"function_call": CALL["function"]}],
    ids=["tool_calls", "function_call"],
)
def test_a_turn_that_only_calls_a_tool_is_learned(make_tokenizer, content, call):
    talk = (
        user("cold?"),
        says(content, **call),
        {"role": "tool", "content": "-4"},
        says("Yes."),
        user("?"),
        says("!"),
    )
    found = learned(make_tokenizer(template=THINKS_LAST), *talk)
    assert found[0] == '<call>weather {"city": "Oslo"}</call><|end|>\n'
    assert found[1:] == ["Yes.<|end|>\n", "<think></think>!<|end|>\n"]
    found = learned(make_tokenizer(template=BRACKETS), *talk, tools=TOOLS)
    assert found[0].startswith('[calls]{"name": "weather", "arguments": {"city": "Oslo"}}<eos>')
    assert found[1:] == [" Yes. <eos>", " ! <eos>"]


@pytest.mark.parametrize(
    "record",
    [
        {"tools": TOOLS},
        {"tools": '[{"type": "function", "function": {"name": "weather"}}]'},
        {"functions": [{"name": "weather"}]},
    ],
)
def test_tools_reach_the_template_in_every_form(make_tokenizer, record):
    chat = parse({"messages": [user("cold?"), says("no")], **record}, "it")
    text = spell_by_template(chat, make_tokenizer(template=BRACKETS)).text
    assert text.startswith(
        '[tools][{"type": "function", "function": {"name": "weather"}}][INST] cold? [/INST]'
    )
    assert chat.digest != parse({"messages": [user("cold?"), says("no")]}, "it").digest


def test_variables_of_the_template_come_from_the_record(make_tokenizer):
    tokenizer, talk = make_tokenizer(template=THINKS_LAST), (user("a"), says("b"))
    assert learned(tokenizer, *talk) == ["<think></think>b<|end|>\n"]
    assert learned(tokenizer, *talk, chat_template_kwargs={"enable_thinking": False}) == ["b<|end|>\n"]


LEFT_OUT = {
    "tools": (
        DEFAULT_SYSTEM,
        YES,
        {"tools": TOOLS},
        "'tools' in the record, which the chat template does not write",
    ),
    "documents": (DEFAULT_SYSTEM, YES, {"documents": [{"text": "a"}]}, "'documents' in the record, which"),
    "a variable": (DEFAULT_SYSTEM, YES, {"chat_template_kwargs": {"mood": 1}}, "'mood' in the record, which"),
    "an argument": (
        DEFAULT_SYSTEM,
        YES,
        {"chat_template_kwargs": {"tokenize": 1}},
        "'tokenize' in chat_template_k",
    ),
    "a call": (
        DEFAULT_SYSTEM,
        (user("a"), says("b", tool_calls=[CALL])),
        {},
        "tool calls, which the chat template",
    ),
    "a second call": (
        BRACKETS,
        (user("a"), says("", tool_calls=[CALL, CALL])),
        {},
        "tool calls, which the chat",
    ),
    "reasoning": (
        DEFAULT_SYSTEM,
        (user("a"), says("b", reasoning_content="c")),
        {},
        "reasoning, which the chat",
    ),
    "a system message": (
        BRACKETS,
        ({"role": "system", "content": "a"}, *YES),
        {},
        "message 0 of role 'system', which",
    ),
    "parts": (ESCAPES, (user("a"), says([{"type": "text", "text": "b"}])), {}, "content in parts, which"),
    "a picture": (PARTS, (user("a"), says([{"type": "image"}])), {}, "a part of content that is no text"),
    "roles": (
        ALTERNATES,
        (user("a"), user("b"), says("c")),
        {},
        "got Conversation roles must alternate, expected",
    ),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_a_template_does_not_write_is_left_out_with_its_reason(make_tokenizer, name):
    template, talk, record, match = LEFT_OUT[name]
    with pytest.raises(SkippedError, match=match):
        learned(make_tokenizer(template=template), *talk, **record)


def test_the_plain_format_has_no_place_for_tools_or_parts():
    for record in (
        {"messages": [user("a"), says("b")], "tools": TOOLS},
        {"messages": [user("a"), says("", tool_calls=[CALL])]},
        {"messages": [user("a"), says([{"type": "text", "text": "b"}])]},
    ):
        with pytest.raises(SkippedError, match="plain format"):
            spell_plainly(parse(record, "it"), "</s>")


@pytest.mark.parametrize(
    ("record", "match"),
    [
        ({"tools": "[1"}, "it, 'tools': got text that is not JSON"),
        ({"tools": ["weather"]}, "it, 'tools': got .*, expected a list of mappings"),
        ({"chat_template_kwargs": [1]}, "it, 'chat_template_kwargs': got list, expected a mapping"),
        ({"system": "be nice"}, "it, 'system': got a text of its own beside 'messages'"),
    ],
)
def test_what_stands_beside_the_messages_has_its_form(record, match):
    with pytest.raises(DataError, match=match):
        parse({"messages": [user("a"), says("b")], **record}, "it")


def test_the_system_prompt_may_be_repeated_beside_the_messages():
    talk = [{"role": "system", "content": "be nice"}, user("a")]
    assert parse({"messages": talk, "system": "be nice"}, "it") == Chat(tuple(talk))


GENERATION = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %} {{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


def test_a_template_that_marks_what_is_generated_is_taken_at_its_word(make_tokenizer):
    tokenizer = make_tokenizer(template=GENERATION)
    assert learned(tokenizer, *YES) == [" yes", " yes"]
    (encoded,) = encode([Chat(YES)], tokenizer)
    assert tokenizer.decode(encoded.ids[encoded.loss]) == " yes yes"


@pytest.mark.parametrize(
    ("key", "no", "yes"), [("weight", 0, 1), ("train", False, True), ("loss", False, None)]
)
def test_a_turn_that_says_so_is_read_and_not_learned(make_tokenizer, key, no, yes):
    talk = (user("a"), says("b", **{key: no}), user("c"), says("d", **{key: yes}))
    marked = GENERATION.replace(" {{ m.content }}", "{{ m.content }}")
    for template, expected in ((DEFAULT_SYSTEM, ["d<|end|>"]), (marked, ["d"])):
        assert learned(make_tokenizer(template=template), *talk) == expected
    plain = spell_plainly(Chat(talk), "</s>")
    assert [plain.text[start:end] for start, end in plain.spans] == ["d</s>"]


def test_a_slow_tokenizer_learns_the_same_turns():
    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = THINKS_LAST
    (encoded,) = encode([Chat(THOUGHTS)], tokenizer)
    assert tokenizer.decode(encoded.ids[encoded.loss]) == "four<|end|>\n<think>hm</think>six<|end|>\n"
