"""Live lines of progress on stderr: redrawn on a terminal, plain lines anywhere else, from the first process only."""

from __future__ import annotations

import os
import sys
import threading
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, TextIO

from trimtab.runs.paths import is_first

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

Words = Callable[[int], str]
"""What is known of the work, in at most so many columns; none of it is wrapped."""
PIPE_COLUMNS = 200
"""Width of a plain line, which goes to a file more often than to eyes."""
AT_ONCE, SILENT, SILENT_WITH_WORDS = 2.0, 60.0, 300.0
"""Seconds between two plain lines: at least, at most without words, at most with them."""
PULSE = 5.0
"""Seconds between two looks whether a plain line is due, while nothing reports a step."""
BAR = 20
"""Columns of a bar, at most; below half of it none is drawn."""


def escaped(text: str) -> str:
    """Text with control characters written as escapes: they would move the cursor or change colours.

    >>> escaped("a\\x1b[2Jb"), escaped("two\\nlines")
    ('a\\\\x1b[2Jb', 'two\\nlines')
    """
    odd = {letter for letter in set(text) - {"\n", "\t"} if unicodedata.category(letter) in _ODD}
    return "".join(repr(letter)[1:-1] if letter in odd else letter for letter in text)


_ODD = ("Cc", "Cs", "Zl", "Zp")


def write(stream: TextIO | None, text: str) -> None:
    """Write lines to a stream that may be closed, or narrower than Unicode; from the first process only.

    What the stream cannot carry is written as escapes, and so are control characters in what others named.
    """
    if stream is None or not is_first():
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    line = escaped(text).encode(encoding, "backslashreplace").decode(encoding)
    stream.write(line if line.endswith("\n") else f"{line}\n")


def clock_time(seconds: float) -> str:
    """Seconds as a clock shows them.

    >>> clock_time(32.4), clock_time(3723)
    ('0:32', '1:02:03')
    """
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


class Line:
    """The line of one thing that takes a while: call it with the steps done and in all.

    On a terminal it is redrawn. Elsewhere a plain line is written whenever another tenth is done, and after a minute of
    silence; with words, whenever they are marked, and after five minutes. Make one with `Bars.bar`.
    """

    def __init__(self, title: str, bars: Bars) -> None:
        self.title, self._bars = title, bars
        self.done, self.total = 0, 0
        self.words: Words | None = None
        self._made = self._told = bars.clock()
        self._begun: tuple[float, int] | None = None
        self._told_done, self._ended = 0, False

    def __call__(self, done: int, total: int) -> None:
        """Note the steps done and in all."""
        if self._begun is None:
            self._begun, self._told_done = (self._bars.clock(), done), done
        self.done, self.total = done, total
        self._bars.refresh(self)

    def say(self, words: Words, *, mark: bool = False) -> None:
        """Show these words; a mark is worth a plain line of its own where there is no terminal."""
        self.words = words
        self._bars.refresh(self, mark)

    def keep(self, words: Words) -> None:
        """Write a line that stays, on a terminal too."""
        self._told = self._bars.clock()
        self._bars.write(lambda width: self._titled(words, width))

    def another(self, title: str) -> Line:
        """A further line, below this one."""
        return self._bars.bar(title)

    def end(self) -> None:
        """Take the line away."""
        self._ended = True

    @property
    def under_way(self) -> bool:
        """Whether there is something left to report."""
        return not self._ended and (self.words is not None or not self.total or self.done < self.total)

    def left(self) -> float | None:
        """Seconds left at the rate since the first call; None where that is not known."""
        if self._begun is None or self.done <= self._begun[1]:
            return None
        since, done = self._begun
        return (self._bars.clock() - since) / (self.done - done) * max(0, self.total - self.done)

    def due(self) -> bool:
        """Whether it is time for a plain line."""
        silent = self._bars.clock() - self._told
        if self.words is not None and self.total:
            return silent >= SILENT_WITH_WORDS
        tenth = self.total > 0 and (self.done - self._told_done) * 10 >= self.total
        return silent >= SILENT or (tenth and silent >= AT_ONCE)

    def plain(self) -> str:
        """The line where there is no terminal; the next one is due from here on."""
        self._told, self._told_done = self._bars.clock(), self.done
        left, gone = self.left(), f"{clock_time(self._told - self._made)} so far"
        if self.words is None:
            counts = [f"{self.done}/{self.total}"] if self.total else []
            time_left = [] if left is None else [f"{clock_time(left)} left"]
            return "  ".join([*([self.title] if self.title else []), *counts, gone, *time_left])
        tail = gone if left is None else f"{clock_time(left)} left"
        return f"{self._titled(self.words, PIPE_COLUMNS - len(tail) - 2)}  {tail}"

    def drawn(self, width: int, dash: str = "━", rest: str = "─") -> str:
        """The line on a terminal of so many columns, with a bar where there is room for one."""
        left = self.left()
        tail = "" if left is None else f"  {clock_time(left)} left"
        if self.words is None:
            gone = f"{clock_time(self._bars.clock() - self._made)} so far"
            head = f"{self.title}  {self.done}/{self.total}" if self.total else f"{self.title}  {gone}"
        else:
            head = self._titled(self.words, width - len(tail))
        room = min(BAR, width - len(head) - len(tail) - 2)
        if self.total and room >= BAR // 2:
            full = room * min(self.done, self.total) // self.total
            head += f"  {dash * full}{rest * (room - full)}"
        return (head + tail)[:width]

    def _titled(self, words: Words, width: int) -> str:
        title = f"{self.title}  " if self.title else ""
        return title + words(max(0, width - len(title)))


class Bars(ExitStack):
    """The lines of one piece of work, in a `with` block that leaves nothing behind on a terminal.

    Args:
        stream: where to; stderr as it is at the time if None.
        clock: seconds.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._stream, self.clock = stream, clock
        self.lines: list[Line] = []
        self._lock, self._over = threading.RLock(), threading.Event()
        self._how: Literal["terminal", "pipe", "silent"] = self._where()
        self._live = False

    def bar(self, title: str) -> Line:
        """The line of a thing of this title; it shows nothing before the first step on a terminal."""
        line = Line(title, self)
        with self._lock:
            self.lines.append(line)
        if self._how == "pipe" and len(self.lines) == 1:
            watcher = threading.Thread(target=self._watch, daemon=True)
            watcher.start()
            self.callback(watcher.join)
            self.callback(self._over.set)
        return line

    def refresh(self, line: Line, mark: bool = False) -> None:
        """Show what is new of a line, where and when that is worth it."""
        with self._lock:
            if self._how == "terminal" and not self._live:
                self._open()
        if self._how == "pipe":
            with self._lock:
                if mark or line.due():
                    self.write(lambda _: line.plain())

    def write(self, words: Words) -> None:
        """Write a line that stays, above the live ones."""
        if self._how == "silent":
            return
        stream = self._stream or sys.stderr
        width = _columns(stream) if self._how == "terminal" else PIPE_COLUMNS
        with suppress(OSError, ValueError):  # a reader that left is no reason to stop
            write(stream, words(width))
            stream.flush()

    def beat(self) -> None:
        """Write the plain lines that are due, of what is under way: else of what came last."""
        with self._lock:
            for line in self._showing():
                if line.due():
                    self.write(lambda _, line=line: line.plain())  # type: ignore[misc]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        marks = ("#", "-") if options.ascii_only else ("━", "─")
        for line in self._showing():
            text = Text(escaped(line.drawn(options.max_width, *marks)), no_wrap=True, overflow="crop")
            text.highlight_regex(r"\S+ \S+!(?=  |$)", "bold red")
            yield text

    def _showing(self) -> list[Line]:
        with self._lock:
            return [line for line in self.lines if line.under_way] or self.lines[-1:]

    def _where(self) -> Literal["terminal", "pipe", "silent"]:
        stream = self._stream or sys.stderr
        if stream is None or not is_first():
            return "silent"
        try:
            terminal = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        except ValueError:  # closed
            return "silent"
        return "terminal" if terminal else "pipe"

    def _watch(self) -> None:
        while not self._over.wait(PULSE):
            self.beat()

    def _open(self) -> None:
        from rich.console import Console
        from rich.errors import LiveError
        from rich.live import Live

        self._live = True
        console = Console(file=self._stream) if self._stream else Console(stderr=True)
        settings: dict[str, Any] = {"console": console, "transient": True, "refresh_per_second": 4}
        # What a caller prints goes above the lines, but stays out of the terminal where stdout is a file.
        settings["redirect_stdout"] = sys.stdout is not None and sys.stdout.isatty()
        try:
            self.enter_context(Live(self, **settings))
        except LiveError:  # the caller's own
            self._how = "pipe"
            return
        self.enter_context(without_loading_bars())


@contextmanager
def short_warnings() -> Iterator[None]:
    """Warnings for users as one line each, without the place in the code; others as Python writes them."""
    as_python_does = warnings.formatwarning

    def line(message: Any, category: type[Warning], *place: Any, **rest: Any) -> str:
        if category is UserWarning:
            return f"Warning: {escaped(str(message))}\n"
        return as_python_does(message, category, *place, **rest)

    warnings.formatwarning = line
    try:
        yield
    finally:
        warnings.formatwarning = as_python_does


@contextmanager
def without_loading_bars() -> Iterator[None]:
    """No "Loading weights" bar of transformers beside the lines, nor in the processes that start meanwhile."""
    name, loaded = "HF_HUB_DISABLE_PROGRESS_BARS", sys.modules.get("transformers.utils.logging")
    before, shown = os.environ.get(name), loaded is not None and loaded.is_progress_bar_enabled()
    os.environ[name] = "1"
    if loaded is not None and shown:
        loaded.disable_progress_bar()
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
        if loaded is not None and shown:
            loaded.enable_progress_bar()


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return 80
