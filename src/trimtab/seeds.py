"""Seeds derived by name, and a random state that leaves the caller's alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import TYPE_CHECKING

from trimtab.errors import Problem

if TYPE_CHECKING:
    import torch

BEYOND = 2**63
"""Seeds are whole numbers from 0 to below this: what `derive` gives, and what torch and NumPy both take."""


def seed_problem(where: str, seed: object) -> Problem | None:
    """The problem of a seed that cannot be used; the same rule for every system.

    >>> print(seed_problem("seed", -1))
    seed: got -1, expected a whole number from 0 to 2**63 - 1
    """
    if not isinstance(seed, bool) and isinstance(seed, Integral) and 0 <= int(seed) < BEYOND:
        return None
    return Problem(where, f"{seed!r:.60}", "a whole number from 0 to 2**63 - 1")


def derive(seed: int, *names: str | int) -> int:
    """A seed for one purpose, from the seed of the whole and the purpose's name.

    The same arguments give the same seed on every machine and Python version; different names give
    unrelated seeds, so two purposes never share a random stream by accident.

    Returns:
        An integer in [0, 2**63).

    >>> derive(0, "stream", "math") == derive(0, "stream", "math")
    True
    >>> derive(0, "stream", "math") == derive(0, "stream", "code")
    False
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Run a block on torch generators seeded with `seed`; the caller's generators are unchanged afterwards."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed what is drawn on the CPU and on a device from here on.

    The numbers of `torch.manual_seed`, which seeds all other kinds of device as well and so takes a millisecond: too
    long for every step of a small model.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        module = torch.get_device_module(device)
        getattr(module, "manual_seed_all", module.manual_seed)(seed)
