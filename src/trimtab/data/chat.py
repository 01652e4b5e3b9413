"""A conversation as one text, and where in it the assistant speaks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimtab.data.marking import Marked, Span
from trimtab.data.records import Chat, excerpt
from trimtab.errors import DataError, explain

_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


def marks_assistant(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template says itself what the assistant generates (`{% generation %}`)."""
    return has_template(tokenizer) and _MARKER.search(tokenizer.get_chat_template()) is not None


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer comes with a chat template."""
    return bool(tokenizer.chat_template)


def spell_plainly(chat: Chat, eos_token: str) -> Marked:
    """A conversation in the plain format, for tokenizers without a chat template.

    Each turn is its capitalised role, a colon, a space and the content; turns are separated by a blank
    line. What the assistant says is closed by the end-of-sequence token, which carries loss too.

    >>> chat = Chat(({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}))
    >>> spell_plainly(chat, "</s>")
    Marked(text='User: Hi\\n\\nAssistant: Hello</s>', spans=((21, 30),))
    """
    text, spans = "", []
    for message in chat.messages:
        text += f"{'' if not text else chr(10) * 2}{message['role'].capitalize()}: "
        start = len(text)
        text += message["content"]
        if message["role"] == "assistant" and message["content"].strip():
            text += eos_token
            spans.append((start, len(text)))
    return Marked(text, tuple(spans))


def spell_by_template(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> Marked:
    """A conversation by the tokenizer's own template, for templates that do not mark the assistant's words.

    A turn of the assistant is what the template adds to the prompt before it when the turn is included. Some
    templates write earlier turns differently from the last (they leave out its reasoning); there the turn
    is found by its content, together with what the template puts after it.

    Raises:
        DataError: the template refuses the conversation, or rewrites the assistant's words.
    """
    messages = chat.messages
    whole = render(messages, tokenizer)
    spans: list[Span] = []
    for turn, message in enumerate(messages):
        if message["role"] == "assistant" and message["content"].strip():
            cursor = spans[-1][1] if spans else 0
            spans.append(_turn(messages, turn, whole, cursor, tokenizer))
    return Marked(whole, tuple(spans))


def render(
    messages: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, *, prompt: bool = False
) -> str:
    """The text of a conversation by the tokenizer's template; with `prompt`, up to where the assistant starts.

    Raises:
        DataError: the template refuses the conversation.
    """
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=prompt
        )
    except Exception as error:
        raise refused(Chat(tuple(messages)), error) from error
    return str(text)


def refused(chat: Chat, error: Exception) -> DataError:
    """The error of a conversation that the tokenizer's template does not take."""
    expected = "a conversation that the tokenizer's chat template takes"
    return DataError(f"messages {excerpt(chat)}: {explain(error, expected, 'other roles or order')}")


def _turn(
    messages: Sequence[Mapping[str, Any]],
    turn: int,
    whole: str,
    cursor: int,
    tokenizer: PreTrainedTokenizerBase,
) -> Span:
    before = render(messages[:turn], tokenizer, prompt=True) if turn else ""
    upto = render(messages[: turn + 1], tokenizer)
    if turn and whole.startswith(before) and whole.startswith(upto) and len(before) < len(upto):
        return len(before), len(upto)
    content = messages[turn]["content"].strip()
    start = whole.find(content, cursor)
    if start < 0 or content not in upto:
        what = explain("a chat template that rewrites them", "the words as given", "another template")
        raise DataError(f"assistant's words {content[:60]!r}: {what}")
    end = start + len(content)
    tail = upto[upto.rfind(content) + len(content) :]
    return start, end + len(tail) if whole.startswith(tail, end) else end
