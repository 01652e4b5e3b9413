"""Live lines: what a terminal shows, what a pipe gets, and when."""

from __future__ import annotations

import io
import os
import sys

import pytest

from trimtab.runs.live import Bars, clock_time, without_loading_bars, write


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pipe() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_a_pipe_gets_a_plain_line_every_tenth(clock: Clock, pipe: io.StringIO) -> None:
    with Bars(pipe, clock) as bars:
        line = bars.bar("work")
        for step in range(1, 41):
            clock.now += 1.0
            line(step, 40)
    assert lines(pipe) == [
        f"work  {step}/40  {clock_time(step)} so far  {clock_time(40 - step)} left"
        for step in range(5, 41, 4)
    ]
    assert "\x1b" not in pipe.getvalue()
    assert "\r" not in pipe.getvalue()


def test_short_work_is_silent_and_long_silence_is_broken(clock: Clock, pipe: io.StringIO) -> None:
    with Bars(pipe, clock) as bars:
        line = bars.bar("work")
        for step in range(1, 4):
            clock.now += 0.1
            line(step, 4)
        assert lines(pipe) == []
        for clock.now in (3.1, 63.0, 63.2, 100.0):
            bars.beat()
    assert lines(pipe) == ["work  3/4  0:03 so far  0:02 left", "work  3/4  1:03 so far  0:32 left"]


def test_work_that_has_not_said_how_long_it_is_shows_that_it_lives(clock: Clock, pipe: io.StringIO) -> None:
    with Bars(pipe, clock) as bars:
        bars.bar("work")
        clock.now = 60.0
        bars.beat()
    assert lines(pipe) == ["work  1:00 so far"]


def test_only_what_is_under_way_breaks_the_silence(clock: Clock, pipe: io.StringIO) -> None:
    with Bars(pipe, clock) as bars:
        bars.bar("first")(1, 1)
        bars.bar("second")(1, 3)
        clock.now = 60.0
        bars.beat()
    assert [line.split()[0] for line in lines(pipe)] == ["second"]


def test_words_are_written_when_marked_and_after_five_minutes(clock: Clock, pipe: io.StringIO) -> None:
    with Bars(pipe, clock) as bars:
        line = bars.bar("run")
        for step in range(10):
            clock.now += 29.0
            line(step, 10)
            line.say(lambda width, step=step: f"step {step}"[:width], mark=step == 3)
        assert lines(pipe) == ["run  step 3  3:23 left"]
        clock.now += 200.0
        line(10, 10)
        line.keep(lambda width: "done")
    assert lines(pipe)[1:] == ["run  step 9  0:00 left", "run  done"]


def test_the_rate_is_that_of_this_session(clock: Clock, pipe: io.StringIO) -> None:
    with Bars(pipe, clock) as bars:
        line = bars.bar("run")
        line(101, 200)
        assert line.left() is None
        clock.now = 10.0
        line(111, 200)
        assert line.left() == 89.0


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_line_fits_its_terminal(width: int, clock: Clock) -> None:
    with Bars(Terminal(), clock) as bars:
        line = bars.bar("run runs/my-1")
        line(1, 200)
        clock.now = 1.0
        line(51, 200)
        assert len(line.drawn(width)) <= width
        assert ("━" in line.drawn(width)) == (width > 40)
        line.say(lambda room: ("step 50/200  " + "x" * 300)[:room])
        assert len(line.drawn(width)) == width
        assert line.drawn(width).endswith("left") == (width > 20)


def test_a_terminal_is_redrawn_and_left_clean(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal = Terminal()
    with Bars(terminal, clock) as bars:
        line = bars.bar("wo\x1b[2Jrk")
        line(1, 2)
        line.say(lambda width: "web +0.062/0.050!")
        line.keep(lambda width: "test at step 1")
    drawn = terminal.getvalue()
    assert "\x1b[2J" not in drawn
    assert "wo\\x1b[2Jrk  1/2" in drawn
    assert "test at step 1\n" in drawn
    assert drawn.rstrip().endswith("\x1b[2K")  # what was drawn last is erased


def test_what_is_printed_to_a_file_meanwhile_stays_there(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal = Terminal()
    with Bars(terminal, clock) as bars:
        bars.bar("work")(1, 2)
        sys.stdout.write("data\n")
    assert capsys.readouterr().out == "data\n"
    assert "data" not in terminal.getvalue()


def test_a_dumb_terminal_is_a_pipe(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    with Bars(terminal, clock) as bars:
        bars.bar("work").say(lambda width: "words", mark=True)
    assert terminal.getvalue() == "work  words  0:00 so far\n"


def test_only_the_first_process_speaks(
    clock: Clock, pipe: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with Bars(pipe, clock) as bars:
        bars.bar("work").say(lambda width: "words", mark=True)
    assert pipe.getvalue() == ""


@pytest.mark.parametrize("closed", [True, False])
def test_no_stderr_is_no_error(closed: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream if closed else None)
    with Bars(clock=clock) as bars:
        line = bars.bar("work")
        line(1, 2)
        line.say(lambda width: "words", mark=True)
        line.keep(lambda width: "kept")


def test_a_reader_that_left_stops_nothing(clock: Clock, pipe: io.StringIO) -> None:
    with Bars(pipe, clock) as bars:
        line = bars.bar("work")
        pipe.close()
        line.say(lambda width: "words", mark=True)


def test_what_a_stream_cannot_carry_is_escaped() -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    write(narrow, "caf\xe9 \x1b[2J")
    narrow.seek(0)
    assert narrow.read() == "caf\\xe9 \\x1b[2J\n"


def test_bars_of_transformers_are_off_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import logging

    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    before = logging.is_progress_bar_enabled()
    with without_loading_bars():
        assert not logging.is_progress_bar_enabled()
        assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    assert logging.is_progress_bar_enabled() == before
    assert "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ
