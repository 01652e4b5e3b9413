"""The command `trimtab`: finds the verb, runs it, and turns errors into messages and exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from trimtab.cli.console import BAD_INPUT, DONE, INTERRUPTED, VERBS, for_command, in_message, note, say
from trimtab.errors import ConfigError, Problem, TrimtabError, explain, nearest, placed_problem
from trimtab.runs.live import short_warnings
from trimtab.systems import imported


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done; 1 a stated criterion failed; 2 bad input (the message says what, without a traceback);
    130 interrupted, with a resumable checkpoint written.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with short_warnings():
            code = _dispatch(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_streams()
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as ended:  # argparse, after its message
        told = getattr(ended, "__notes__", ())
        if told and "--json" in arguments:
            problem = Problem("arguments", told[0], "arguments that the verb takes", "--help")
            with suppress(OSError):
                say(json.dumps({"problems": [vars(problem)]}))
        return ended.code if isinstance(ended.code, int) else BAD_INPUT
    except (TrimtabError, OSError) as error:
        messages = [str(problem) for problem in getattr(error, "problems", ())] or [str(error)]
        if isinstance(error, OSError) and error.errno is not None:
            why = os.strerror(error.errno)
            got = why if error.filename is None else f"{str(error.filename)!r:.200} ({why})"
            messages = [explain(got, "files and folders that can be used")]
        if "--json" in arguments:
            with suppress(OSError):
                say(json.dumps({"problems": [vars(problem) for problem in _problems(error, messages)]}))
        with suppress(OSError):  # without stderr there is no place for a message
            note("".join(f"trimtab: {in_message(each)}\n" for each in messages))
        _drop_streams()
        return BAD_INPUT
    return code


def _problems(error: Exception, messages: Sequence[str]) -> list[Problem]:
    """The problems of an error, with hints in the terms of a config."""
    problems = getattr(error, "problems", ()) or [placed_problem("", message) for message in messages]
    return [replace(problem, hint=for_command(problem.hint)) for problem in problems]


def _dispatch(arguments: list[str]) -> int:
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
    code: int = imported(f"trimtab.cli.{VERBS[verb].file}:{verb}")(arguments[1:])
    return code


def help_text() -> str:
    """All verbs, each with an example."""
    lines = [f"  {name:<12}{verb.what}\n{'':14}{verb.example}" for name, verb in VERBS.items()]
    head = "Change open-weight generative models on purpose, and show what you did not change."
    tail = "trimtab VERB --help says more, trimtab -V the version. Exit codes: 0 done, 1 a stated criterion failed,"
    last = "2 bad input, 130 interrupted (go on with trimtab resume)."
    return "\n".join(("usage: trimtab VERB ...", "", head, "", *lines, "", tail, last, ""))


def _drop_streams() -> None:
    """Redirect closed or full streams, so that the interpreter does not complain about them at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            with suppress(OSError, ValueError, AttributeError):
                descriptor, nowhere = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
