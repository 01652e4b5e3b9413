"""The processes that train one model together.

Ctrl-C between steps instead of inside one, so that a run can be saved where it stands.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from accelerate import Accelerator

from trimtab.errors import ConfigError, explain
from trimtab.runs.paths import processes


def accelerator() -> Accelerator:
    """The processes of one launch, as Accelerate sees them; it moves nothing to a device.

    torchrun starts processes without saying on what. On a machine without a GPU they are joined through the CPU (gloo):
    Accelerate alone would take each of them for the only one, and each would do the whole run.

    Raises:
        ConfigError: the environment tells of processes that cannot be joined, or Accelerate sees another number.
    """
    world = processes()
    missing = next((name for name in _LAUNCHED if name not in os.environ), "")
    if world > 1 and missing:
        hint = "unset WORLD_SIZE, for one process"
        got = f"WORLD_SIZE={world} without {missing}"
        raise ConfigError(explain(got, "a launch by torchrun or accelerate", hint))
    joined = Accelerator(device_placement=False, cpu=world > 1 and not torch.cuda.is_available())
    if "WORLD_SIZE" in os.environ and joined.num_processes != world:
        got = f"{joined.num_processes} process(es) of WORLD_SIZE={world}"
        raise ConfigError(explain(got, "all of them together", "ACCELERATE_USE_CPU=1, or one process"))
    return joined


_LAUNCHED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What processes of one launch need beside their number to find one another."""


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
