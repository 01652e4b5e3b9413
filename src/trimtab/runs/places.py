"""Where things are kept that outlive a process: the cache and the runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_home() -> Path:
    """The folder of lab models and tokenised data: `$TRIMTAB_CACHE`, else the platform's user cache.

    The folder need not exist yet. Nothing in it is precious: all of it can be built again.
    """
    named = os.environ.get("TRIMTAB_CACHE")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("trimtab"))


def runs_home() -> Path:
    """The folder that runs go to unless told otherwise: `$TRIMTAB_RUNS`, else `./runs`."""
    return Path(os.environ.get("TRIMTAB_RUNS") or "runs").expanduser()
