"""The folder of a run: its config, its metrics as they come, its status, and a lock on all of it.

Work in the folder of a run: whatever ends it, the run says how it ended.

A lock on a run's folder that the system releases when its holder dies.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import time
import warnings
import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from trimtab.errors import CheckpointError, explain
from trimtab.runs import environment
from trimtab.runs.atomic import (
    clean_below,
    clean_leftovers,
    full_disk_is_clear,
    refuse_link,
    write_atomic,
)
from trimtab.runs.files import dump_yaml, load_yaml, read_text
from trimtab.runs.serialise import JsonLines, differences, plain, read_json, read_object, to_json

if sys.platform != "win32":
    import fcntl

_NUMBER = re.compile(rb"[0-9\0]{0,20}")
"""What a lock holds: the number of its process, nothing yet, or the zeros that a power cut leaves of it."""


def is_locked(path: Path) -> bool:
    """Whether a living process holds the run in this folder; False where that cannot be told."""
    try:  # only to read where it is another user's
        descriptor = _open_lock(path, os.O_RDWR if os.access(path / ".lock", os.W_OK) else os.O_RDONLY)
    except (OSError, CheckpointError):
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def take_lock(path: Path) -> int:
    """Lock the run; the system releases it when the process ends, however it ends.

    Raises:
        CheckpointError: another process holds it, or `.lock` is no lock: a link, a pipe, a folder, a file of something
            else, or one that may not be written. It is left as it is.
    """
    try:
        descriptor = _open_lock(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        got = f"a lock {path / '.lock'} that cannot be opened ({error.strerror})"
        raise CheckpointError(explain(got, "a run that may be written", "another folder")) from error
    if not _try_lock(descriptor) and not _try_lock(descriptor, after=0.05):
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        got = f"run {path} held by process {holder}"
        raise CheckpointError(explain(got, "a run that nobody writes", "waiting for it to end"))
    try:
        with full_disk_is_clear(path / ".lock"):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_lock(path: Path, flags: int) -> int:
    """Open `.lock` itself, not what a link of that name points at, and only if it holds a process number or nothing."""
    lock = path / ".lock"
    if not lock.is_symlink() and (lock.is_file() or not lock.exists()):
        safely = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(lock, flags | safely, 0o644)
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and _NUMBER.fullmatch(os.read(descriptor, 21)):
            os.lseek(descriptor, 0, os.SEEK_SET)
            return descriptor
        os.close(descriptor)
    got = f"{lock}, which is no lock of a run"
    raise CheckpointError(explain(got, "one that trimtab made", "deleting it"))


def _try_lock(descriptor: int, *, after: float = 0) -> bool:
    """True when locked now, or where the file system has no locks (some network mounts).

    A second try, some time `after` the first, passes by whoever only looked whether the run is held.
    """
    time.sleep(after)
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
    return True


SCHEMA_VERSION = 1
RunStatus = Literal["running", "done", "failed", "interrupted"]
_FILES = (".lock", "config.yaml", "run.json", "metrics.jsonl", "timings.jsonl")
_RECORD: Mapping[str, type] = {
    "schema_version": int,
    "status": str,
    "created": str,
    "facts": dict,
    "sessions": list,
    "threads": dict,
    "versions": dict,
}


class RunFolder:
    """A run on disk, held by this process until `close()` or the end of a `with` block.

    ```
    config.yaml      the resolved config; never changed        run.json       status, versions, hardware
    metrics.jsonl    one row per event, each with its `step`   timings.jsonl  seconds by part
    artifacts/       checkpoints, weights, results             report.html    written by others
    ```
    With several processes only rank 0 opens it.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.artifacts = path / "artifacts"
        self._unlock = weakref.finalize(self, os.close, lock)
        self._metrics = JsonLines(path / "metrics.jsonl")
        self._timings = JsonLines(path / "timings.jsonl")

    @classmethod
    def create_or_open(
        cls, path: str | Path, config: Mapping[str, Any], *, may_change: Collection[str] = ()
    ) -> RunFolder:
        """Start a run in `path`, or go on with the one that is there.

        Args:
            path: the run's folder; made when missing.
            config: the resolved config, of values JSON can hold; it is the run's identity.
            may_change: dotted keys that are not part of that; config.yaml keeps their first values.

        Raises:
            CheckpointError: another process holds the run, its config differs (the keys are named), the folder is
                damaged, or a file or folder in it is a link. Nothing is changed then.
        """
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (NotADirectoryError, FileExistsError) as error:
            raise CheckpointError(explain(f"{path}, a file or below one", "a folder of a run")) from error
        lock = take_lock(path)
        try:
            for name in (*_FILES, "artifacts"):
                refuse_link(path / name)
            check_config(path, config, may_change=may_change)
            if (path / "artifacts").exists() and not (path / "artifacts").is_dir():
                got = f"a file {path / 'artifacts'}"
                raise CheckpointError(explain(got, "a folder", "another folder for the run"))
            known = _known(path)
            clean_below(path / "artifacts")
            clean_leftovers(path, everyones=True)
            if not (path / "config.yaml").exists() or _failed_at_once(path):  # first: else it is no run
                write_atomic(path / "config.yaml", dump_yaml(plain(config, finite=False)))
            (path / "artifacts").mkdir(exist_ok=True)
            _check_in(path, known)
        except BaseException:
            os.close(lock)
            raise
        return cls(path, lock)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row to metrics.jsonl. Floats read back exactly; nan and infinity are written as null.

        Raises:
            CheckpointError: the row has no `step`, or the disk is full (no part of the row stays).
        """
        if "step" not in row:
            raise CheckpointError(explain(f"a row with {list(row)}", "a row with its 'step'"))
        self._metrics.append(row)

    def time(self, part: str, seconds: float, step: int) -> None:
        """Add a row to timings.jsonl: which part of the work took how long, and up to which step."""
        self._timings.append({"step": step, "part": part, "seconds": seconds})

    def metrics_offset(self, *, sync: bool = False) -> int:
        """Bytes in metrics.jsonl now, to be stored in a checkpoint; `sync` puts them on the disk first."""
        return self._metrics.offset(sync=sync)

    def truncate_metrics(self, offset: int) -> None:
        """Cut metrics.jsonl back to what it was when a checkpoint stored `offset`.

        Raises:
            CheckpointError: the file is shorter than that: rows the checkpoint counts on are lost.
        """
        self._metrics.truncate(offset)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl as dicts (null is None); a last line that a kill tore is left out."""
        return self._metrics.rows()

    def timings(self) -> list[dict[str, Any]]:
        """The rows of timings.jsonl."""
        return self._timings.rows()

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file of the run, `"artifacts/result.json"` say; readers see the old or the new one."""
        target = self._inside(name)
        write_atomic(target, to_json(value, indent=2) + "\n")
        return target

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run.

        Raises:
            CheckpointError: it is missing or not JSON.
        """
        return read_json(self._inside(name))

    @property
    def status(self) -> RunStatus:
        """What run.json says: running, done, failed or interrupted."""
        status: RunStatus = self.facts()["status"]
        return status

    def facts(self) -> dict[str, Any]:
        """All of run.json."""
        return _known(self.path)

    def set_status(self, status: RunStatus, **facts: Any) -> None:
        """Write the status, the time and any facts (JSON values) to run.json."""
        known = self.facts()
        known |= {"status": status, "updated": _now(), "facts": known.get("facts", {}) | facts}
        self.write_json("run.json", known)

    def go_on(self) -> None:
        """Say that a run that was interrupted or failed is running again; what a failure noted is forgotten."""
        known = self.facts()
        if known["status"] in ("interrupted", "failed"):
            facts = {name: value for name, value in known.get("facts", {}).items() if name != "error"}
            self.write_json("run.json", known | {"status": "running", "updated": _now(), "facts": facts})

    def close(self) -> None:
        """Give the run up, so that another process may open it; twice does no harm."""
        self._unlock()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _inside(self, name: str) -> Path:
        target = self.path / name
        if not target.resolve().is_relative_to(self.path.resolve()) or target == self.path:
            raise CheckpointError(explain(repr(name), "a file name inside the run folder"))
        return target


def check_config(path: Path, config: Mapping[str, Any], *, may_change: Collection[str] = ()) -> None:
    """Refuse a folder that holds a run with another config; one without a run, or whose run failed at once, is fine.

    Raises:
        CheckpointError: the keys that differ are named; or the folder is damaged.
    """
    known = path / "config.yaml"
    if _failed_at_once(path):
        return
    if not known.exists():
        strangers = [name for name in ("run.json", "metrics.jsonl") if (path / name).exists()]
        strangers += ["artifacts"] if list((path / "artifacts").glob("*")) else []
        if strangers:
            raise CheckpointError(
                explain(f"{strangers[0]} but no config.yaml in {path}", "a run, or a new folder")
            )
        return
    text = read_text(known, "the config of a run", error=CheckpointError)
    try:
        old = load_yaml(text)
    except Exception as error:  # PyYAML fails in many ways on damaged text
        raise CheckpointError(explain(f"damaged text in {known}", "the config of a run")) from error
    changes = [
        f"{key} (was {was!r}, now {now!r})"
        for key, was, now in differences(old, plain(config, finite=False))
        if key not in may_change
    ]
    if changes:
        raise CheckpointError(
            f"{path} holds a run with another config: {'; '.join(changes)}; "
            "try another folder, or the same config"
        )


def _failed_at_once(path: Path) -> bool:
    """Whether the folder holds a run that failed before it kept anything: another config may take its place."""
    kept = [*(path / "artifacts").glob("*"), *(path / name for name in ("metrics.jsonl", "members"))]
    if not (path / "run.json").is_file() or any(one.exists() for one in kept):
        return False
    return bool(_known(path)["status"] == "failed")


def _known(path: Path) -> dict[str, Any]:
    """What run.json says, or what it says of a run that begins; CheckpointError where it is no record of a run."""
    record = path / "run.json"
    known: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "status": "running", "sessions": []}
    if record.exists():
        known |= read_object(record)
    wrong = [name for name, kind in _RECORD.items() if name in known and not isinstance(known[name], kind)]
    if wrong or known["status"] not in get_args(RunStatus):
        got = f"damaged text in {record} ({wrong[0] if wrong else 'status'})"
        raise CheckpointError(explain(got, "the record of a run"))
    if (version := known["schema_version"]) > SCHEMA_VERSION:
        got = f"schema version {version} in {record}"
        raise CheckpointError(explain(got, f"at most {SCHEMA_VERSION}", "a newer trimtab"))
    return known


def _check_in(path: Path, known: Mapping[str, Any]) -> None:
    """Note in run.json that this process has the run now; warn where it had other threads or versions before."""
    now, when = environment.describe(), _now()
    threads = known.get("threads", {}).get("torch"), now["threads"]["torch"]
    if None not in threads and threads[0] != threads[1]:
        told = f"ran with {threads[0]} threads and goes on with {threads[1]}: numbers may differ in the last bits"
        warnings.warn(f"{path} {told}", stacklevel=3)
    for package, version in now["versions"].items():
        if (before := known.get("versions", {}).get(package, version)) != version:
            warnings.warn(f"{path} ran with {package} {before}, now {version}", stacklevel=3)
    session = {"date": when, "pid": os.getpid(), **now["threads"]}
    record = {"created": when, **known, "updated": when, "pid": os.getpid(), **now}
    record["sessions"] = [*known["sessions"], session]
    write_atomic(path / "run.json", to_json(record, indent=2) + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def at_work(folder: Path, config: Any, *, may_change: Collection[str] = ()) -> Iterator[RunFolder]:
    """Hold the folder of a run, begun or gone on with; its status is "done" when the block ends well and set no other.

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
        except KeyboardInterrupt:
            held.set_status("interrupted")
            raise
        except BaseException as error:
            held.set_status("failed", error=f"{type(error).__name__}: {error}")
            raise
        if held.status == "running":
            held.set_status("done")
