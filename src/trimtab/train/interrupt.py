"""Ctrl-C between steps instead of inside one, so that a run can be saved where it stands."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Paused(KeyboardInterrupt):
    """An interrupt that was held back to a moment at which the state is whole."""


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C (and SIGTERM) back until the yielded function is called; that call raises Paused.

    A second signal raises KeyboardInterrupt at once. Outside the main thread, where Python
    delivers no signals, the function does nothing. Handlers are put back afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    caught: list[int] = []

    def hold(number: int, _: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    def check() -> None:
        if caught:
            raise Paused

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
