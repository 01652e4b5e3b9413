"""Interrupts wait for a moment at which the state is whole, and no longer."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from trimtab.train.loop import Paused, interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_held_until_the_check(number: signal.Signals) -> None:
    with interruptible() as check:
        check()
        os.kill(os.getpid(), number)
        finished = True
        with pytest.raises(Paused):
            check()
    assert finished


def test_a_second_signal_is_not_held() -> None:
    with interruptible() as check:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as caught:
            os.kill(os.getpid(), signal.SIGINT)
        assert not isinstance(caught.value, Paused)
        with pytest.raises(Paused):
            check()


def test_every_check_after_a_signal_pauses() -> None:
    with interruptible() as check:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(2):
            with pytest.raises(Paused):
                check()


@pytest.mark.parametrize("raised", [None, ValueError])
def test_the_callers_handlers_come_back(raised: type[Exception] | None) -> None:
    def mine(number: int, frame: object) -> None: ...

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, mine) for number in numbers}
    try:
        try:
            with interruptible():
                assert all(signal.getsignal(number) is not mine for number in numbers)
                if raised:
                    raise raised
        except ValueError:
            pass
        assert all(signal.getsignal(number) is mine for number in numbers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_outside_the_main_thread_nothing_is_touched() -> None:
    seen: list[object] = []

    def work() -> None:
        with interruptible() as check:
            seen.append(signal.getsignal(signal.SIGINT))
            check()

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_pause_is_an_interrupt_to_those_who_know_no_better() -> None:
    assert issubclass(Paused, KeyboardInterrupt)
