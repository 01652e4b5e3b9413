"""How a sweep is stopped: a file that the processes of its cells watch, so that each of them is interrupted once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


@contextmanager
def stop_on_signal(stop: Path) -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM makes the file `stop`, which the workers watch; the second is a real one."""
    stop.unlink(missing_ok=True)

    def hold(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if stop.exists():
            raise KeyboardInterrupt
        stop.touch()

    mine = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if mine else ()
    before = {number: signal.signal(number, hold) for number in numbers}
    try:
        yield stop.exists
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.unlink(missing_ok=True)


def leave_group() -> None:
    """Keep a terminal's Ctrl-C from this process, so that its cell is interrupted once: by the watcher."""
    if os.name == "posix" and os.getpgrp() != os.getpid():
        os.setpgrp()


@contextmanager
def watched(stop: Path) -> Iterator[None]:
    """Interrupt this process when the sweep is stopped, or when the process that started this one is gone."""
    parent, ended = os.getppid(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            if stop.exists() or os.getppid() != parent:
                _interrupt()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        if os.getppid() != parent:  # nobody waits for the answer
            os._exit(1)


def _interrupt() -> None:
    """Ctrl-C for this process; sent to its main thread, so that it also ends a wait there."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)
