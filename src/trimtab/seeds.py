"""Seeds derived by name, and a random state that leaves the caller's alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager


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
