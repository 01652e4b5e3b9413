"""The command `trimtab`: finds the verb, runs it, and turns errors into messages and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from trimtab.errors import ConfigError, ConfigProblems, TrimtabError, explain, nearest

DONE, CRITERION_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Verb:
    """A verb in one line, and an example of it."""

    what: str
    example: str


VERBS = {
    "ls": Verb("list recipes and systems", "trimtab ls"),
    "cp": Verb("copy a recipe to edit it", "trimtab cp dynamics/quickstart my.yaml"),
    "check": Verb("tell every problem of a config, or what it will take", "trimtab check my.yaml"),
    "run": Verb("run a config or a recipe", "trimtab run my.yaml --fit.steps 400 --seed 1"),
    "resume": Verb("go on with a run that was interrupted", "trimtab resume runs/my-1"),
    "sweep": Verb("run a config over a grid", "trimtab sweep my.yaml --over seed=0..4 --jobs 2"),
    "steer": Verb("fit, try, sweep or fuse a steering", "trimtab steer fit steering/quickstart"),
    "plan": Verb(
        "tell the smallest share of pretraining data that keeps a rise small in 95 % of a law's refits",
        "trimtab plan --law law.json --params 1.4e9 --tokens 3e7 --max-rise 0.05",
    ),
    "runs": Verb("list runs", "trimtab runs done"),
    "report": Verb("make one page of runs", "trimtab report runs/my-1 runs/my-2 -o page.html"),
    "doctor": Verb("show versions, devices, caches and extras", "trimtab doctor"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done; 1 a stated criterion failed; 2 bad input (the message says what, without a traceback);
    130 interrupted, with a resumable checkpoint written.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as ended:  # argparse, after its message
        return ended.code if isinstance(ended.code, int) else BAD_INPUT
    except (TrimtabError, OSError) as error:
        _tell(_message(error))
        _drop_stdout()
        return BAD_INPUT
    return code


def _dispatch(arguments: list[str]) -> int:
    from trimtab.cli.console import say

    if not arguments or arguments[0] in ("-h", "--help"):
        say(help_text())
        return DONE if arguments else BAD_INPUT
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        say(f"trimtab {version('trimtab')}")
        return DONE
    verb = arguments[0]
    if verb not in VERBS:
        got = repr(verb) if len(verb) <= 60 else f"{verb[:57]!r}..."
        raise ConfigError(explain(got, f"one of {', '.join(VERBS)}", nearest(verb[:60], VERBS)))
    code: int = importlib.import_module(f"trimtab.cli.{verb}").main(arguments[1:])
    return code


def help_text() -> str:
    """All verbs, each with an example."""
    lines = [f"  {name:<8}{verb.what}\n{'':10}{verb.example}" for name, verb in VERBS.items()]
    return "\n".join(
        (
            "usage: trimtab VERB ...",
            "",
            "Change open-weight generative models on purpose, and show what you did not change.",
            "",
            *lines,
            "",
            "trimtab VERB --help says more, trimtab -V the version. Exit codes: 0 done, 1 a stated criterion failed,",
            "2 bad input, 130 interrupted (go on with trimtab resume).",
            "",
        )
    )


def _message(error: Exception) -> str:
    from trimtab.cli.hints import in_message

    if isinstance(error, ConfigProblems) and len(error.problems) > 1:
        return "".join(f"trimtab: {in_message(str(problem))}\n" for problem in error.problems)
    if isinstance(error, OSError) and error.errno is not None:
        why = os.strerror(error.errno)
        got = why if error.filename is None else f"{str(error.filename)!r:.200} ({why})"
        return f"trimtab: {explain(got, 'files and folders that can be used')}\n"
    return f"trimtab: {in_message(str(error))}\n"


def _tell(message: str) -> None:
    from trimtab.cli.console import note

    with suppress(OSError):  # nobody can be told that stderr is gone
        note(message)


def _drop_stdout() -> None:
    """Where a reader has gone or a disk is full: keep the interpreter from complaining about it at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            _drop(stream)


def _drop(stream: Any) -> None:
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
