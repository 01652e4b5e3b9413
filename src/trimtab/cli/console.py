"""Console of the command: verbs, arguments and output, data on stdout, all else on stderr, from one process only.

Hints of the library are rewritten to name keys of a config instead of arguments of Python.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from trimtab.errors import explain
from trimtab.runs.live import write

DONE, CRITERION_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Verb:
    """A verb in one line, an example, and the file of this folder whose function of that name carries it out."""

    what: str
    example: str
    file: str = ""


VERBS = {
    "ls": Verb("list recipes and systems", "trimtab ls", "catalogue"),
    "cp": Verb("copy a recipe to edit it", "trimtab cp dynamics/quickstart my.yaml", "catalogue"),
    "check": Verb(
        "tell every problem of a config and its data, or what it will take", "trimtab check my.yaml", "jobs"
    ),
    "run": Verb("run a config or a recipe", "trimtab run my.yaml --fit.steps 400 --seed 1", "jobs"),
    "resume": Verb("go on with a run that was interrupted", "trimtab resume runs/my-1", "jobs"),
    "sweep": Verb("run a config over a grid", "trimtab sweep my.yaml --over seed=0..4 --jobs 2", "jobs"),
    "export": Verb("write the model or adapter a run left", "trimtab export runs/my-1 --out DIR", "export"),
    "compare": Verb(
        "tell what a change of a model broke, domain by domain",
        "trimtab compare path/to/base path/to/tuned --domains domains.yaml",
        "compare",
    ),
    "steer": Verb(
        "fit, try, sweep or fuse a steering, or make one of a concept",
        "trimtab steer fit steering/quickstart",
        "steer",
    ),
    "plan": Verb(
        "tell the smallest share of pretraining data that keeps a rise small in 95 % of a law's refits",
        "trimtab plan --law law.json --params 1.4e9 --tokens 3e7 --max-rise 0.05",
        "catalogue",
    ),
    "captions": Verb(
        "score captions against references", "trimtab captions score captions.jsonl --json", "captions"
    ),
    "listen": Verb(
        "write a page on which people choose pictures by captions, or read their answers back",
        "trimtab listen pictures/ people.csv captioner.csv -o task",
        "listen",
    ),
    "audit": Verb(
        "tell what served log-probabilities give away: of a transcript, or of a model by a recipe",
        "trimtab audit served.jsonl --attributes city --group user --max-bits 0.5",
        "audit",
    ),
    "runs": Verb("list runs", "trimtab runs done", "catalogue"),
    "report": Verb("make one page of runs", "trimtab report runs/my-1 runs/my-2 -o page.html", "catalogue"),
    "schema": Verb(
        "print the keys of configs, as JSON Schema for editors",
        "trimtab schema dynamics > dynamics.json",
        "editor",
    ),
    "completion": Verb("print the completion of a shell", "trimtab completion bash", "editor"),
    "doctor": Verb("show versions, devices, caches and extras", "trimtab doctor", "catalogue"),
}


def say(text: str) -> None:
    """Write data to stdout."""
    write(sys.stdout, text)


def note(text: str) -> None:
    """Write a notice to stderr: something that is not data."""
    write(sys.stderr, text)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose exit carries its message as a note, for those who asked for JSON."""

    def error(self, message: str) -> NoReturn:
        try:
            super().error(message)
        except SystemExit as ended:
            ended.add_note(message)
            raise


def parser(verb: str, line: Verb | None = None, *, as_json: bool = False) -> argparse.ArgumentParser:
    """The argument parser of a verb, with its line and example, from the table of verbs if not given.

    Args:
        verb: what the command is called.
        line: its line and example.
        as_json: whether it can print JSON.
    """
    line = line or VERBS[verb]
    what, example = sentence(line.what), f"Example: {line.example}"
    options = _Parser(f"trimtab {verb}", None, what, example, allow_abbrev=False)
    if as_json:
        options.add_argument("--json", action="store_true", help="print the result as JSON")
    return options


def path_named(text: str) -> Path:
    """The path that an argument names, which an empty text does not.

    Raises:
        ArgumentTypeError: it is empty, as a variable of the shell is that was not set.
    """
    if not text:
        raise argparse.ArgumentTypeError(explain("''", "a path", "./ for the current folder"))
    return Path(text)


def sentence(text: str) -> str:
    """A sentence with its first letter raised and all others as they are.

    >>> sentence("score captions: BLEU, CIDEr-D")
    'Score captions: BLEU, CIDEr-D.'
    """
    return f"{text[:1].upper()}{text[1:]}."


def split_overrides(options: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line as what the parser knows and the dotted overrides, which may stand anywhere."""
    mine, overrides, waiting = [], [], list(argv)
    while waiting:
        word = waiting.pop(0)
        is_option = word.partition("=")[0] in options._option_string_actions
        if not word.startswith("--") or is_option:
            mine.append(word)
            continue
        overrides.append(word)
        if "=" not in word and waiting and not waiting[0].startswith("--"):
            overrides.append(waiting.pop(0))
    return mine, overrides


_ARGUMENT = re.compile(r"(\w+)=(.+)")
_WORDS = {"None": "null", "True": "true", "False": "false"}
_MERGED = "a folder with the adapter merged into its model (trimtab export RUN --merge --out DIR)"
_METHODS = {
    "tokenizer= or tokenizer.save_pretrained(folder)": "saving the tokenizer into the model's folder",
    "load(module, tokenizer=AutoTokenizer.from_pretrained(...))": "saving the tokenizer into the model's folder",
    "processor= or processor.save_pretrained(folder)": "saving the processor into the model's folder",
    "PeftModel.from_pretrained(base, folder), then load(module, tokenizer=...)": _MERGED,
    "load(model.module.merge_and_unload(), ...) first": _MERGED,
    "export_run(..., model=...), with": "trimtab.adapt.export.export_run(..., model=...) from Python, with",
    "adapter={'r': 16} or requires_grad_()": "adapter: {r: 16}",
    "load(..., processor=...)": "saving the processor into the model's folder",
    "reading with keep_default_na=False": "filling the cell, or quotes around a name such as NA",
    "fit(..., n_boot=500)": "n_boot: 500",
    "candidates_per_item=": "--candidates-per-item ",
    "candidates=FILE": "--candidates FILE",
}
"""What the library suggests -> what does the same from a config or a shell."""


def for_command(hint: str) -> str:
    """A hint of the library in the terms of a config, not of a call.

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
