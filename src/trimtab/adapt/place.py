"""Where a run is kept, and whether what is there may be gone on with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from trimtab.errors import CheckpointError, ConfigError, explain
from trimtab.runs.lines import read_object
from trimtab.runs.record import RunFolder


@contextmanager
def place(out: str | Path | None, accelerator: Accelerator) -> Iterator[Path]:
    """The run's folder: the caller's, or one that is gone afterwards; the same on every process."""
    if out is not None:
        if not isinstance(out, str | Path):
            raise ConfigError(f"out: {explain(repr(out), 'the path of a folder, or None')}")
        yield Path(out)
        return
    first = accelerator.is_main_process
    with tempfile.TemporaryDirectory(prefix="trimtab-") if first else nullcontext("") as folder:
        shared = [folder]
        if accelerator.num_processes > 1:
            broadcast_object_list(shared)
        yield Path(shared[0])
        accelerator.wait_for_everyone()


@contextmanager
def open_run(
    path: Path, config: Mapping[str, Any], identity: Mapping[str, Any], accelerator: Accelerator
) -> Iterator[RunFolder | None]:
    """Hold the run's folder while it is written; None on every process but the first.

    An exception leaves the run's status "interrupted" (Ctrl-C) or "failed".

    Args:
        path: the folder.
        config: of the run; must equal that of a run already there.
        identity: fingerprints of the model and the data; likewise.
        accelerator: tells which process this is.

    Raises:
        CheckpointError: the folder holds another run, or another process holds the folder.
    """
    if not accelerator.is_main_process:
        yield None
        return
    with RunFolder.create_or_open(path, config) as folder:
        _check_identity(folder, identity)
        folder.go_on()
        try:
            yield folder
        except KeyboardInterrupt:
            folder.set_status("interrupted")
            raise
        except BaseException as error:
            folder.set_status("failed", error=f"{type(error).__name__}: {error}")
            raise


def _check_identity(folder: RunFolder, identity: Mapping[str, Any]) -> None:
    """Refuse to go on with another model or other data than the run began with."""
    name = "artifacts/identity.json"
    if not (folder.path / name).exists():
        folder.write_json(name, identity)
        return
    known = read_object(folder.path / name)
    if not isinstance(known.get("domains"), dict) or "model" not in known:
        got = f"damaged text in {folder.path / name}"
        raise CheckpointError(explain(got, "the fingerprints that the run began with", "another folder"))
    if known["model"] != identity["model"]:
        got = f"another model than the run in {folder.path} began with"
        raise CheckpointError(explain(got, "the same base weights", "loading them anew"))
    for domain, fingerprint in identity["domains"].items():
        if known["domains"].get(domain) != fingerprint:
            got = f"other data for {domain!r} than the run in {folder.path} began with"
            raise CheckpointError(explain(got, "the same records", "another folder"))
