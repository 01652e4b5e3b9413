"""What a command says: data on stdout, everything else on stderr, and only once however many processes run."""

from __future__ import annotations

import argparse
import sys
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from trimtab.cli.main import VERBS, Verb
from trimtab.runs.paths import is_first

if TYPE_CHECKING:
    from rich.progress import Progress


def say(text: str) -> None:
    """Write data to stdout."""
    write(sys.stdout, text)


def note(text: str) -> None:
    """Tell the person at the terminal something that is not data."""
    write(sys.stderr, text)


def write(stream: TextIO | None, text: str) -> None:
    """Write lines to a stream that may be closed, or narrower than Unicode; from the first process only.

    What the stream cannot carry is told by its escapes, and so are control characters in what others named: they would
    move the cursor or change colours.
    """
    if stream is None or not is_first():
        return
    shown = "".join(
        letter if letter.isprintable() or letter in "\n\t" else _escaped(letter) for letter in text
    )
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = shown.encode(encoding, "backslashreplace").decode(encoding)
    stream.write(shown if shown.endswith("\n") else f"{shown}\n")


def _escaped(letter: str) -> str:
    """A control character or half a character by its escape; a space of another width, say, as it is."""
    return repr(letter)[1:-1] if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter


def parser(verb: str, line: Verb | None = None) -> argparse.ArgumentParser:
    """The argument parser of a verb, with its line and example, from the table of verbs if not given."""
    line = line or VERBS[verb]
    return argparse.ArgumentParser(
        prog=f"trimtab {verb}",
        description=line.what.capitalize() + ".",
        epilog=f"Example: {line.example}",
        allow_abbrev=False,
    )


def with_overrides(options: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Say in the help that `split_overrides` takes what the parser does not know."""
    options.usage = options.format_usage().removeprefix("usage: ").rstrip() + " [--KEY.KEY VALUE ...]"
    return options


def split_overrides(options: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line as what the parser knows and the dotted overrides, which may stand anywhere."""
    mine, overrides, waiting = [], [], list(argv)
    while waiting:
        word = waiting.pop(0)
        known = word.partition("=")[0] in options._option_string_actions
        if not word.startswith("--") or known:
            mine.append(word)
            continue
        overrides.append(word)
        if "=" not in word and waiting and not waiting[0].startswith("--"):
            overrides.append(waiting.pop(0))
    return mine, overrides


class Bars:
    """Progress bars with the time left, on a terminal only; a `with` block that leaves nothing behind."""

    def __init__(self) -> None:
        self._live: Progress | None = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def bar(self, title: str) -> Callable[[int, int], None]:
        """A function of the steps done and in all; it shows nothing where nobody looks."""
        if not (is_first() and sys.stderr.isatty()):
            return _nothing
        task: list[Any] = []

        def show(done: int, total: int) -> None:
            live = self._shown()
            if not task:
                task.append(live.add_task(title, total=total))
            live.update(task[0], completed=done, total=total)

        return show

    def _shown(self) -> Progress:
        if self._live is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._live = Progress(*columns, console=Console(stderr=True), transient=True)
            self._live.start()
        return self._live


def _nothing(done: int, total: int) -> None:
    """No bar."""
