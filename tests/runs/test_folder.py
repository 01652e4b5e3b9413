"""The run folder: what is written reads back, whatever kills the writer."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import CheckpointError, ConfigProblems
from trimtab.runs.files import dump_yaml
from trimtab.runs.folder import RunFolder, is_locked

CONFIG = {"fit": {"lr": 1e-4, "steps": 320}, "targets": ("a", "b"), "seed": 0}


def test_a_new_run_has_its_config_and_a_record(tmp_path: Path) -> None:
    with RunFolder.create_or_open(tmp_path / "run", CONFIG) as run:
        facts = run.facts()
        assert run.status == "running"
        assert run.artifacts.is_dir()
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config == {"fit": {"lr": 1e-4, "steps": 320}, "targets": ["a", "b"], "seed": 0}
    assert facts["schema_version"] == 1
    assert facts["pid"] == os.getpid()
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["hardware"]["cores"] >= 1


def test_rows_read_back_exactly(tmp_path: Path) -> None:
    with RunFolder.create_or_open(tmp_path, CONFIG) as run:
        run.append({"step": 1, "loss": 0.1 + 0.2, "bad": math.nan, "w": np.array([1 / 3, 2 / 3])})
        run.append({"step": np.int64(2), "loss": np.float32(0.1), "worse": -math.inf})
        assert run.rows() == [
            {"step": 1, "loss": 0.30000000000000004, "bad": None, "w": [1 / 3, 2 / 3]},
            {"step": 2, "loss": float(np.float32(0.1)), "worse": None},
        ]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_every_float_survives(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    with RunFolder.create_or_open(tmp_path_factory.mktemp("run"), CONFIG) as run:
        run.append({"step": 0, "values": values})
        (row,) = run.rows()
    assert [value.hex() for value in row["values"]] == [value.hex() for value in values]


def test_a_row_without_a_step_is_refused(tmp_path: Path) -> None:
    with (
        RunFolder.create_or_open(tmp_path, CONFIG) as run,
        pytest.raises(CheckpointError, match="got a row with \\['loss'\\], expected a row with its 'step'"),
    ):
        run.append({"loss": 1.0})


def test_metrics_are_cut_back_to_a_checkpoint(tmp_path: Path) -> None:
    with RunFolder.create_or_open(tmp_path, CONFIG) as run:
        assert run.metrics_offset() == 0
        run.append({"step": 1})
        offset = run.metrics_offset(sync=True)
        run.append({"step": 2})
        run.truncate_metrics(offset)
        run.append({"step": 20})
        assert [row["step"] for row in run.rows()] == [1, 20]
        with pytest.raises(CheckpointError, match="expected at least the checkpoint's 1000"):
            run.truncate_metrics(1000)


def test_a_torn_last_line_is_ignored_and_then_gone(tmp_path: Path) -> None:
    with RunFolder.create_or_open(tmp_path, CONFIG) as run:
        run.append({"step": 1})
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 2, "lo')
        assert run.rows() == [{"step": 1}]
    with RunFolder.create_or_open(tmp_path, CONFIG) as run:
        run.append({"step": 3})
        assert run.rows() == [{"step": 1}, {"step": 3}]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    with RunFolder.create_or_open(tmp_path, CONFIG) as run:
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{{{\n{"step": 3}\n')
        with pytest.raises(CheckpointError, match=r"metrics.jsonl, line 2: got damaged text"):
            run.rows()


def test_timings(tmp_path: Path) -> None:
    with RunFolder.create_or_open(tmp_path, CONFIG) as run:
        run.time("probe", 1.5, 8)
        assert run.timings() == [{"step": 8, "part": "probe", "seconds": 1.5}]


def test_json_files(tmp_path: Path) -> None:
    with RunFolder.create_or_open(tmp_path, CONFIG) as run:
        run.write_json("artifacts/deep/result.json", {"a": (1, math.nan)})
        assert run.read_json("artifacts/deep/result.json") == {"a": [1, None]}
        with pytest.raises(CheckpointError, match="got no file"):
            run.read_json("artifacts/other.json")
        (tmp_path / "bad.json").write_text("{")
        with pytest.raises(CheckpointError, match="got damaged text"):
            run.read_json("bad.json")


@pytest.mark.parametrize("name", ["../x.json", "/tmp/x.json", "a/../../x", "", "."])
def test_files_stay_inside(tmp_path: Path, name: str) -> None:
    with (
        RunFolder.create_or_open(tmp_path / "run", CONFIG) as run,
        pytest.raises(CheckpointError, match="expected a file name inside the run folder"),
    ):
        run.write_json(name, 1)


def test_status_and_facts_are_kept(tmp_path: Path) -> None:
    with RunFolder.create_or_open(tmp_path, CONFIG) as run:
        run.set_status("interrupted", step=7)
        run.set_status("done", best=3)
    with RunFolder.create_or_open(tmp_path, CONFIG) as run:
        assert run.status == "done"
        assert run.facts()["facts"] == {"step": 7, "best": 3}
        assert len(run.facts()["sessions"]) == 2


def test_another_config_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    RunFolder.create_or_open(tmp_path, CONFIG).close()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    other = {"fit": {"lr": 3e-4, "steps": 320}, "targets": ["a"], "new": True}
    with pytest.raises(CheckpointError) as raised:
        RunFolder.create_or_open(tmp_path, other)
    message = str(raised.value)
    assert "fit.lr (was 0.0001, now 0.0003)" in message
    assert "targets (was ['a', 'b'], now ['a'])" in message
    assert "seed (was 0, now nothing)" in message
    assert "new (was nothing, now True)" in message
    assert "steps" not in message
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_what_may_change(tmp_path: Path) -> None:
    RunFolder.create_or_open(tmp_path, {"seed": 0, "jobs": 2}).close()
    RunFolder.create_or_open(tmp_path, {"seed": 0, "jobs": 1}, may_change=("jobs",)).close()
    assert "jobs: 2" in (tmp_path / "config.yaml").read_text()
    with pytest.raises(CheckpointError, match=r"another config: jobs \(was 2, now 1\), expected"):
        RunFolder.create_or_open(tmp_path, {"seed": 0, "jobs": 1})


def test_what_is_below_a_key_that_may_change_may_change(tmp_path: Path) -> None:
    RunFolder.create_or_open(tmp_path, {"data": {"a": {"path": "x"}}, "database": 1}).close()
    moved = {"data": {"a": {"path": "y", "more": [1]}}}
    RunFolder.create_or_open(tmp_path, {**moved, "database": 1}, may_change=("data",)).close()
    with pytest.raises(CheckpointError, match=r"another config: database \(was 1, now 2\), expected"):
        RunFolder.create_or_open(tmp_path, {**moved, "database": 2}, may_change=("data",))


def test_a_folder_that_lost_its_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match=r"got metrics.jsonl but no config.yaml"):
        RunFolder.create_or_open(tmp_path, CONFIG)


@pytest.mark.parametrize("name", ["model", "report.html", "members", "timings.jsonl"])
def test_what_a_run_would_replace_is_somebodys_where_no_run_has_begun(tmp_path: Path, name: str) -> None:
    """A base model in `model/` was replaced by the tuned one."""
    theirs = tmp_path / name
    theirs.mkdir() if "." not in name else theirs.write_text("mine")
    with pytest.raises(CheckpointError, match=rf"got {name} but no config.yaml in .*; try .*run$"):
        RunFolder.create_or_open(tmp_path, CONFIG)
    assert [one.name for one in tmp_path.iterdir() if one.name != ".lock"] == [name]
    theirs.rmdir() if theirs.is_dir() else theirs.unlink()
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder.create_or_open(tmp_path, CONFIG).close()


def test_a_config_that_was_edited_is_refused_and_one_that_is_written_otherwise_is_not(tmp_path: Path) -> None:
    """`trimtab resume` would take the edited settings for those of the whole run."""
    RunFolder.create_or_open(tmp_path, CONFIG).close()
    file = tmp_path / "config.yaml"
    begun = file.read_text()
    edited = {**CONFIG, "seed": 7}
    file.write_text(dump_yaml({**edited, "targets": ["a", "b"]}))
    for config in (CONFIG, edited):
        with pytest.raises(
            CheckpointError, match=r"config.yaml, edited since the run began, expected the config"
        ):
            RunFolder.create_or_open(tmp_path, config)
    file.write_text(f"# by hand\n{begun}")
    RunFolder.create_or_open(tmp_path, CONFIG).close()
    facts = json.loads((tmp_path / "run.json").read_text())
    del facts["config_sha256"]  # as one of an earlier version
    (tmp_path / "run.json").write_text(json.dumps(facts))
    RunFolder.create_or_open(tmp_path, CONFIG).close()


def test_a_config_that_takes_the_place_of_one_that_failed_at_once_is_the_one_that_counts(
    tmp_path: Path,
) -> None:
    with RunFolder.create_or_open(tmp_path, CONFIG) as run:
        run.set_status("failed", error="x")
    other = {**CONFIG, "seed": 7}
    RunFolder.create_or_open(tmp_path, other).close()
    RunFolder.create_or_open(tmp_path, other).close()


def test_an_empty_path_is_no_folder_of_a_run() -> None:
    with pytest.raises(ConfigProblems, match=r"out: got '', expected the folder of a run"):
        RunFolder.create_or_open("", CONFIG)


def test_a_run_killed_before_it_had_a_config_begins(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    with RunFolder.create_or_open(tmp_path, CONFIG) as run:
        assert run.status == "running"
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "run.json").unlink()
    (tmp_path / "artifacts/result.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"got artifacts but no config.yaml"):
        RunFolder.create_or_open(tmp_path, CONFIG)


def test_a_run_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    RunFolder.create_or_open(tmp_path, CONFIG).close()
    facts = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(facts | {"schema_version": 99}))
    with pytest.raises(CheckpointError, match=r"got schema version 99 .* try a newer trimtab"):
        RunFolder.create_or_open(tmp_path, CONFIG)


def test_a_change_of_threads_or_versions_is_warned_of(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    RunFolder.create_or_open(tmp_path, CONFIG).close()
    facts = json.loads((tmp_path / "run.json").read_text())
    facts["threads"]["torch"] = torch.get_num_threads() + 1
    (tmp_path / "run.json").write_text(json.dumps(facts))
    with pytest.warns(UserWarning, match="numbers may differ in the last bits"):
        RunFolder.create_or_open(tmp_path, CONFIG).close()
    facts["threads"]["torch"] = torch.get_num_threads()
    facts["versions"]["numpy"] = "0.1"
    (tmp_path / "run.json").write_text(json.dumps(facts))
    with pytest.warns(UserWarning, match=r"ran with numpy 0\.1, now"):
        RunFolder.create_or_open(tmp_path, CONFIG).close()


def test_two_holders_never(tmp_path: Path) -> None:
    with RunFolder.create_or_open(tmp_path, CONFIG) as run:
        assert is_locked(tmp_path)
        with pytest.raises(CheckpointError, match=f"held by process {os.getpid()}"):
            RunFolder.create_or_open(tmp_path, CONFIG)
        run.close()
        RunFolder.create_or_open(tmp_path, CONFIG).close()
    assert not is_locked(tmp_path)


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    code = f"""
import time
from trimtab.runs.folder import RunFolder
run = RunFolder.create_or_open({str(tmp_path)!r}, {{"seed": 0}})
run.append({{"step": 1}})
print("held", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=f"held by process {process.pid}"):
            RunFolder.create_or_open(tmp_path, {"seed": 0})
        process.send_signal(signal.SIGKILL)
        process.wait()
    with RunFolder.create_or_open(tmp_path, {"seed": 0}) as run:
        assert run.status == "running"
        assert run.rows() == [{"step": 1}]


def test_a_full_disk_leaves_no_part_of_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder.create_or_open(tmp_path, CONFIG) as run:
        run.append({"step": 1})
        real = Path.open

        def half(self: Path, mode: str = "r", **options: object) -> object:
            file = real(self, mode, **options)  # type: ignore[call-overload]
            if "a" in mode:
                file.write(b'{"step": 2, ')
                file.close()
                raise OSError(errno.ENOSPC, "No space left on device")
            return file

        monkeypatch.setattr(Path, "open", half)
        with pytest.raises(CheckpointError, match=r"'No space left on device' while writing .*metrics.jsonl"):
            run.append({"step": 2})
        monkeypatch.undo()
        assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_no_git_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with RunFolder.create_or_open(tmp_path, CONFIG) as run:
        commit = run.facts()["git"]
        assert commit is None or commit["changed"] is None
