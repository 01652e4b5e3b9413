"""Work in the folder of a run: whatever ends it, the run says how it ended."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trimtab.runs.plain import plain
from trimtab.runs.record import RunFolder


@contextmanager
def at_work(folder: Path, config: Any, *, may_change: Collection[str] = ()) -> Iterator[RunFolder]:
    """Hold the folder of a run, begun or gone on with; its status is "done" when the block ends well.

    After an interruption it is "interrupted", after any other error "failed"; the error goes on.

    Args:
        folder: of the run; made when missing.
        config: of the job, a dataclass or a mapping; it is the run's identity.
        may_change: dotted keys that are not part of that.

    Raises:
        CheckpointError: another process holds the run, its config differs, or the folder is damaged.
    """
    with RunFolder.create_or_open(folder, plain(config, finite=False), may_change=may_change) as held:
        held.go_on()
        try:
            yield held
        except BaseException as error:
            held.set_status("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        held.set_status("done")
