"""Hints as somebody at the command line can follow them: keys of a config in the place of arguments of Python."""

from __future__ import annotations

import re

_ARGUMENT = re.compile(r"(\w+)=(.+)")
_WORDS = {"None": "null", "True": "true", "False": "false"}
_METHODS = {
    "tokenizer= or tokenizer.save_pretrained(folder)": "saving the tokenizer into the model's folder",
    "tokenizer=AutoTokenizer.from_pretrained(...)": "saving the tokenizer into the model's folder",
    "processor= or processor.save_pretrained(folder)": "saving the processor into the model's folder",
    "PeftModel.from_pretrained(base, folder), then load(module, tokenizer=...)": (
        "a folder with the adapter merged into its model (merge_and_unload, then save_pretrained)"
    ),
    "load(model.module.merge_and_unload(), ...) first": (
        "a folder with the adapter merged into its model (merge_and_unload, then save_pretrained)"
    ),
    "adapter={'r': 16} or requires_grad_()": "adapter: {r: 16}",
    "load(..., processor=...)": "saving the processor into the model's folder",
    "reading with keep_default_na=False": "filling the cell, or quotes around a name such as NA",
    "fit(..., n_boot=500)": "n_boot: 500",
}
"""What the library suggests -> what does the same from a config or a shell."""


def for_command(hint: str) -> str:
    """A hint of the library for somebody who has a config, not a call.

    >>> for_command("max_tokens=512"), for_command("loss_sites=None"), for_command("'web'")
    ('max_tokens: 512', 'loss_sites: null', "'web'")
    """
    for said, instead in _METHODS.items():
        if hint.startswith(said):
            return instead + hint.removeprefix(said)
    argument = _ARGUMENT.fullmatch(hint)
    if argument is None:
        return hint
    value = argument[2].strip("'\"")
    return f"{argument[1]}: {_WORDS.get(value, value)}"


def in_message(message: str) -> str:
    """A message of an error with its hint put so.

    >>> in_message("got 900 tokens, expected at most 512; try max_tokens=512")
    'got 900 tokens, expected at most 512; try max_tokens: 512'
    """
    before, mark, hint = message.rpartition("; try ")
    return f"{before}{mark}{for_command(hint)}" if mark else message
