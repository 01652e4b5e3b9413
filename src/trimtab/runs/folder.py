"""The folder of a run: its config, its metrics as they come, its status, and a lock that ends with its holder.

The status in the folder says how the work ended, whatever ended it. Runs are listed below any folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import time
import warnings
import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from trimtab.errors import CheckpointError, TrimtabError, explain
from trimtab.runs import environment
from trimtab.runs.atomic import clean_below, clean_leftovers, full_disk_is_clear, refuse_link, write_atomic
from trimtab.runs.files import dump_yaml, load_yaml, read_text
from trimtab.runs.paths import MODEL, RESULT, as_path
from trimtab.runs.serialise import JsonLines, differences, plain, read_json, read_lines, read_object, to_json

if sys.platform != "win32":
    import fcntl

_NUMBER = re.compile(rb"[0-9\0]{0,20}")
"""What a lock holds: the number of its process, nothing yet, or the zeros that a power cut leaves of it."""


def is_locked(path: Path) -> bool:
    """Whether a living process holds the run in this folder; False where that cannot be determined."""
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
    try:
        if not _try_lock(descriptor) and not _try_lock(descriptor, after=0.05):
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            got = f"run {path} held by process {holder}"
            raise CheckpointError(explain(got, "a run that nobody writes", "waiting for it to end"))
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
        except OSError as error:
            return not isinstance(error, BlockingIOError)
    return True


SCHEMA_VERSION = 1
RunStatus = Literal["running", "done", "failed", "interrupted"]
_FILES = (".lock", "config.yaml", "run.json", "metrics.jsonl", "timings.jsonl")
_WRITTEN = (*_FILES[2:], "members", MODEL, "report.html")
"""What a run writes or replaces beside `artifacts/`; without the config of a run it is somebody's."""
_BLANK = dict[str, Any](
    schema_version=0, status="", created="", facts={}, sessions=[], threads={}, versions={}
)
"""A value of the right kind for each key of run.json."""


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
            may_change: dotted keys that are not part of that, with all below them; config.yaml keeps their first
                values.

        Raises:
            CheckpointError: another process holds the run, its config differs (the keys are named) or was edited, the
                folder is damaged, holds something that a run would replace, or a file or folder in it is a link.
                Nothing is changed then.
            ConfigProblems: the path is empty, or cannot be one.
        """
        path = as_path(path, "out", "the folder of a run")
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
            record = _record_of(path)
            clean_below(path / "artifacts")
            clean_leftovers(path, everyones=True)
            if not (path / "config.yaml").exists() or failed_at_once(path):  # first: else it is no run
                write_atomic(path / "config.yaml", text := dump_yaml(plain(config, finite=False)))
                record["config_sha256"] = _mark_of(load_yaml(text))
            (path / "artifacts").mkdir(exist_ok=True)
            _check_in(path, record)
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
        return read_lines(self.path / "metrics.jsonl")

    def timings(self) -> list[dict[str, Any]]:
        """The rows of timings.jsonl."""
        return read_lines(self.path / "timings.jsonl")

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
        """The status in run.json: running, done, failed or interrupted."""
        status: RunStatus = self.facts()["status"]
        return status

    def facts(self) -> dict[str, Any]:
        """The whole record in run.json."""
        return _record_of(self.path)

    def set_status(self, status: RunStatus, **facts: Any) -> None:
        """Write the status, the time and any facts (JSON values) to run.json."""
        record = self.facts()
        record |= {"status": status, "updated": _now(), "facts": record.get("facts", {}) | facts}
        self.write_json("run.json", record)

    def go_on(self) -> None:
        """Set the status of an interrupted or failed run to running; the record of a failure is removed."""
        record = self.facts()
        if record["status"] in ("interrupted", "failed"):
            facts = {name: value for name, value in record.get("facts", {}).items() if name != "error"}
            self.write_json("run.json", record | {"status": "running", "updated": _now(), "facts": facts})

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
    if failed_at_once(path):
        return
    file = path / "config.yaml"
    if not file.exists():
        strangers = [name for name in _WRITTEN if os.path.lexists(path / name)]
        strangers += ["artifacts"] if list((path / "artifacts").glob("*")) else []
        if strangers:
            got = f"{strangers[0]} but no config.yaml in {path}"
            raise CheckpointError(explain(got, "a run, or a new folder", f"{path / 'run'}"))
        return
    text = read_text(file, "the config of a run", error=CheckpointError)
    try:
        old = load_yaml(text)
    except Exception as error:  # PyYAML fails in many ways on damaged text
        raise CheckpointError(explain(f"damaged text in {file}", "the config of a run")) from error
    if _record_of(path).get("config_sha256", mark := _mark_of(old)) != mark:
        got, hint = (
            f"{file}, edited since the run began",
            "its former content, or another folder for a new run",
        )
        raise CheckpointError(explain(got, "the config that it began with", hint))
    changed = differences(old, plain(config, finite=False))
    below = tuple(f"{key}." for key in may_change)
    changes = [
        f"{key} (was {was!r}, now {now!r})"
        for key, was, now in changed
        if key not in may_change and not key.startswith(below)
    ]
    if changes:
        got, hint = f"another config: {'; '.join(changes)}", "another folder, or the same config"
        raise CheckpointError(f"{path}: {explain(got, 'that of the run in the folder', hint)}")


def _mark_of(config: Any) -> str:
    """What a config is known by: the SHA-256 of its values, however they are written."""
    return hashlib.sha256(to_json(plain(config, finite=False)).encode()).hexdigest()


def failed_at_once(path: Path) -> bool:
    """Whether the folder holds a run that failed before it kept anything: another config may take its place."""
    kept = [*(path / "artifacts").glob("*"), *(path / name for name in ("metrics.jsonl", "members"))]
    if not (path / "run.json").is_file() or any(one.exists() for one in kept):
        return False
    return bool(_record_of(path)["status"] == "failed")


def _record_of(path: Path) -> dict[str, Any]:
    """The record of a run in run.json, or of one that begins; CheckpointError where it is no record of a run."""
    file = path / "run.json"
    record: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "status": "running", "sessions": []}
    if file.exists():
        record |= read_object(file)
    wrong = [name for name, kind in _BLANK.items() if not isinstance(record.get(name, kind), type(kind))]
    if wrong or record["status"] not in get_args(RunStatus):
        got = f"damaged text in {file} ({wrong[0] if wrong else 'status'})"
        raise CheckpointError(explain(got, "the record of a run"))
    if (version := record["schema_version"]) > SCHEMA_VERSION:
        got = f"schema version {version} in {file}"
        raise CheckpointError(explain(got, f"at most {SCHEMA_VERSION}", "a newer trimtab"))
    return record


def _check_in(path: Path, earlier: Mapping[str, Any]) -> None:
    """Note in run.json that this process has the run now; warn where it had other threads or versions before."""
    now, when = environment.describe(), _now()
    threads = earlier.get("threads", {}).get("torch"), now["threads"]["torch"]
    if None not in threads and threads[0] != threads[1]:
        change = f"ran with {threads[0]} threads and goes on with {threads[1]}"
        warnings.warn(f"{path} {change}: numbers may differ in the last bits", stacklevel=3)
    for package, version in now["versions"].items():
        if (before := earlier.get("versions", {}).get(package, version)) != version:
            warnings.warn(f"{path} ran with {package} {before}, now {version}", stacklevel=3)
    session = {"date": when, "pid": os.getpid(), **now["threads"]}
    updated = {"created": when, **earlier, "updated": when, "pid": os.getpid(), **now}
    updated["sessions"] = [*earlier["sessions"], session]
    write_atomic(path / "run.json", to_json(updated, indent=2) + "\n")


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


MOST_FOLDERS = 200_000
"""Folders that are looked through for runs."""
_LIMIT = 2**20
"""Bytes that the config or the record of a run may have: many times what they ever had."""


@dataclass(frozen=True)
class RunSummary:
    """The summary of a run, from its folder.

    Attributes:
        path: the folder.
        name: the folder relative to where the search began.
        status: that of run.json; where it says running and no process holds the run, "done" if its result is there,
            else "killed"; "damaged" when it cannot be read.
        created: date and time (UTC), empty when unknown.
        facts: what the run noted next to its status.
        config: the resolved config.
    """

    path: Path
    name: str
    status: str
    created: str
    facts: dict[str, Any]
    config: dict[str, Any]


def list_runs(home: Path) -> list[RunSummary]:
    """The runs below a folder, oldest first; runs inside a run (members of a group) are left out.

    A damaged run is listed as such; a folder that may not be looked into is left out.
    """
    record = Path("run.json")
    records = [path for each in _below(home, record) for path in find_below(each, record, inside=False)]
    return sorted((read_run(path.parent, home) for path in records), key=lambda run: (run.created, run.name))


def read_run(path: Path, home: Path | None = None) -> RunSummary:
    """The summary of one run; never fails on a damaged folder."""
    name = path.relative_to(home).as_posix() if home is not None else path.as_posix()
    try:
        record = read_object(path / "run.json", _LIMIT)
        status, created, facts = record.get("status"), record.get("created"), record.get("facts", {})
        if status not in get_args(RunStatus) or not isinstance(created, str) or not isinstance(facts, dict):
            raise CheckpointError(explain(f"damaged text in {path / 'run.json'}", "the record of a run"))
        if status == "running" and not is_locked(path):  # its writer was killed before it could write another
            status = "done" if (path / RESULT).is_file() else "killed"
        return RunSummary(path, name, str(status), created, facts, read_config_of(path))
    except (TrimtabError, OSError):
        return RunSummary(path, name, "damaged", "", {}, {})


def read_config_of(path: Path) -> dict[str, Any]:
    """The config of a run, as plain values.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    file = path / "config.yaml"
    try:
        config = load_yaml(read_text(file, "the config of a run", error=CheckpointError, limit=_LIMIT))
    except Exception as error:
        # YAML that was damaged fails in PyYAML in many ways: KeyError, TypeError, AttributeError, ValueError, ...
        raise CheckpointError(explain(f"no readable config.yaml in {path}", "the folder of a run")) from error
    if not isinstance(config, dict):
        raise CheckpointError(explain(f"damaged text in {file}", "the config of a run"))
    return config


def find_below(folder: Path, wanted: Path, *, inside: bool = True) -> list[Path]:
    """Paths of every `wanted` in a folder or below it, sorted; links and hidden folders are not looked into.

    Args:
        folder: where to look, however deep; what may not be looked into is left out.
        wanted: a relative path, such as `run.json`.
        inside: whether to look further inside a folder that has it; if not, a link to such a folder counts.

    Raises:
        CheckpointError: there are more than `MOST_FOLDERS` folders.
    """
    paths, waiting, seen = [], [folder], 0
    while waiting:
        here = waiting.pop()
        seen += 1
        if seen > MOST_FOLDERS:
            got = f"more than {MOST_FOLDERS:,} folders in {folder}"
            raise CheckpointError(explain(got, "the folder of a run, a group or a sweep"))
        if os.path.lexists(here / wanted):
            paths.append(here / wanted)
            if not inside:
                continue
        waiting += _below(here, None if inside else wanted)
    return sorted(paths)


def _below(folder: Path, wanted: Path | None) -> list[Path]:
    """The folders in a folder that are no links and not hidden, and all that leads to what is wanted; [] if shut."""
    below: list[Path] = []
    with suppress(OSError):
        for each in folder.iterdir():
            is_open = not each.name.startswith(".") and not each.is_symlink() and each.is_dir()
            below += [each] if is_open or (wanted and os.path.lexists(each / wanted)) else []
    return below
