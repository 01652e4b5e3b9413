"""Chat templates of our own that do what those of known families do."""

from __future__ import annotations

_HEAD = "{% for m in messages %}"
_END = "{% endfor %}"

THINKS_LAST = (
    "{% set ns = namespace(last=0) %}" + _HEAD + "{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}" + _END + _HEAD + "{% set text = m.content %}{% set thought = m.reasoning_content or '' %}"
    "{% if '</think>' in text %}{% set thought = text.split('</think>')[0].split('<think>')[-1].strip() %}"
    "{% set text = text.split('</think>')[-1].lstrip() %}{% endif %}<|start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}<think>{{ thought }}</think>{% endif %}{{ text }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function.name }} {{ call.function.arguments | tojson }}</call>"
    "{% endfor %}<|end|>\n"
    + _END
    + "{% if add_generation_prompt %}<|start|>assistant\n{% if enable_thinking is false %}<think></think>"
    "{% endif %}{% endif %}"
)
"""Reasoning, or an empty block of it, in answers after the last question only; kept from the text or a field."""

PROMPTS_TO_THINK = (
    _HEAD
    + "<|start|>{{ m.role }}:{{ m.content.split('</think>')[-1] }}<eos>"
    + _END
    + "{% if add_generation_prompt "
    "%}<|start|>assistant:<think>\n{% endif %}"
)
"""The generation prompt opens reasoning that the history leaves out."""

DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|start|>system\nYou answer yes.<|end|>{% endif %}"
    + _HEAD
    + "<|start|>{{ m.role }}\n{{ m.content }}<|end|>"
    + _END
    + "{% if add_generation_prompt %}<|start|>assistant\n"
    "{% endif %}"
)

ALTERNATES = (
    "{{ bos_token }}" + _HEAD + "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}<turn>{{ m.role }}\n{{ m.content | trim }}"
    "<|end|>\n" + _END + "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
"""Trims, has no system role, calls the assistant's turns in order or raises."""

BRACKETS = (
    "{{ bos_token }}{% set ns = namespace(last=0) %}" + _HEAD + "{% if m.role == 'user' %}{% set ns.last = "
    "loop.index0 %}{% endif %}"
    + _END
    + _HEAD
    + "{% if m.role == 'user' %}{% if tools and loop.index0 == ns.last "
    "%}[tools]{{ tools | tojson }}{% endif %}[INST] {{ m.content.strip() }} [/INST]{% elif m.tool_calls %}[calls]"
    "{{ m.tool_calls[0].function | tojson }}{{ eos_token }}{% elif m.role == 'tool' %}[result]{{ m.content }}[/result]"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}" + _END
)
"""No generation prompt; tools stand before the last question only; system messages are dropped."""

ENCODES = (
    _HEAD
    + "{{ m.role }}: {{ m.content | tojson }}\n"
    + _END
    + "{% if add_generation_prompt %}assistant: {% endif %}"
)
ESCAPES = (
    _HEAD
    + "<{{ m.role }}>{{ m.content | e }}</{{ m.role }}>"
    + _END
    + "{% if add_generation_prompt %}<assistant>{% endif %}"
)

PARTS = (
    _HEAD
    + "<|start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content "
    "%}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|end|>"
    + _END
    + "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)

CLOSES_LAST = (
    _HEAD
    + "<|start|>{{ m.role }}:{{ m.content }}{% if m.role == 'assistant' and loop.last and not add_generation_prompt "
    "%}<|return|>{% else %}<|end|>{% endif %}"
    + _END
    + "{% if add_generation_prompt %}<|start|>assistant:{% endif %}"
)
"""The last answer is closed otherwise than the earlier ones, as gpt-oss does."""

SUFFIX = (
    _HEAD
    + "{{ m.role }}: {{ m.content }}\n"
    + _END
    + "{% if add_generation_prompt %}assistant: {% else %}<eos>{% endif %}"
)
"""One end token after the whole conversation."""

MARKS = (
    _HEAD
    + "<|start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>{% endif %}\n"
    + _END
    + "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
"""Says itself what the assistant generates."""
