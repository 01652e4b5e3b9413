"""Trackers: what they are told is what metrics.jsonl holds, each row once, and none of them can stop a run."""

from __future__ import annotations

import io
import json
import math
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from trimtab import Fit, Uniform, finetune
from trimtab.adapt.dynamics.job import DynamicsConfig
from trimtab.adapt.session import Roles, make_roles
from trimtab.adapt.tracking import LOGGED, log_problems, scalars
from trimtab.errors import ConfigError, ConfigProblems
from trimtab.job import carry_out
from trimtab.runs.config import read_config
from trimtab.runs.folder import RunFolder
from trimtab.runs.live import Bars
from trimtab.train.loop import Loop
from worlds import QUICK, evaluated, llama, model, texts, tokenizer, trainable

MIXER = Uniform(targets=["math"], constraints={"web": 0.0, "safety": 0.3})
ROLES = make_roles(["math", "code", "web"], ["safety", "facts"], MIXER.targets, MIXER.constraints)


def run(out: Path | None = None, **options: Any) -> Any:
    domains = {"train": trainable(), "evaluate": evaluated()}
    options = {"progress": False, **options}
    return finetune(model(), **domains, mixer=MIXER, fit=QUICK, out=out, **options)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def logged(
    rows: list[dict[str, Any]], roles: Roles = ROLES, fit: Fit = QUICK
) -> list[tuple[int, dict[str, float]]]:
    """What a tracker should have: one entry per row that holds numbers."""
    named = ((row["step"], scalars(row, roles, fit)) for row in rows)
    return [(step, numbers) for step, numbers in named if numbers]


class Listed(GeneralTracker):
    """A tracker of Accelerate that keeps what it is told in this process."""

    name = "listed"
    requires_logging_directory = False
    made: list[Listed]
    fails_at: int | None = None
    does_not_start = False

    def __init__(self, run_name: str, **settings: Any) -> None:
        super().__init__()
        self.run_name, self.settings, self.config, self.finished = run_name, settings, {}, False
        self.told: list[tuple[int | None, dict[str, Any]]] = []

    @property
    def tracker(self) -> Any:
        return self

    def start(self) -> None:
        if self.does_not_start:
            raise RuntimeError("no server")
        self.made.append(self)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        if len(self.told) == self.fails_at:
            raise ConnectionError("server down")
        self.told.append((step, values))

    def finish(self) -> None:
        sys.stdout.write("finished")
        self.finished = True


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> type[Listed]:
    class Here(Listed):
        made: list[Listed] = []  # noqa: RUF012

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "listed", Here)
    return Here


# Names


def test_scalars_of_each_row_by_hand() -> None:
    training = {
        "step": 3,
        "event": "training",
        "loss": 2.0,
        "grad_norm": 0.5,
        "loss_nats": {"math": 1.5, "web": 2.5},
    }
    assert scalars(training, ROLES, QUICK) == {
        "train/loss": 2.0,
        "train/grad_norm": 0.5,
        "train/lr": QUICK.lr_at(2),
        "train/loss/math": 1.5,
        "train/loss/web": 2.5,
    }
    assert scalars({"step": 0, "event": "mixture", "weights": {"math": 1.0}}, ROLES, QUICK) == {
        "mixture/math": 1.0
    }
    change = {"math": [-0.5, -1.0, 0.0], "safety": [0.1, 0.0, 0.2], "web": [None, None, None]}
    reading = {"step": 3, "event": "evaluation", "split": "validation", "change": change}
    reading["loss_nats"] = {"math": 2.0, "safety": math.nan, "web": None}
    assert scalars(reading, ROLES, QUICK) == {
        "eval/loss/math": 2.0,
        "eval/change/math": -0.5,
        "eval/change/safety": 0.1,
        "eval/slack/safety": pytest.approx(0.2),
    }
    assert set(scalars({**reading, "split": "test"}, ROLES, QUICK)) == {
        "test/loss/math",
        "test/change/math",
        "test/change/safety",
        "test/slack/safety",
    }
    assert scalars({"step": 1, "event": "rounding", "loss_nats": {"math": 1.0}}, ROLES, QUICK) == {}


# Before any work


@pytest.mark.parametrize(
    ("log_with", "match"),
    [
        ("trackoi", r"log_with: got 'trackoi', expected .*'trackio'.*; try 'trackio'"),
        ("aim", r"got 'aim', which is not installed, expected an installed tracker; try pip install aim"),
        (["listed", print], r"got 'listed' without a folder, .*; try out='runs/my-1'"),
        ([3], r"log_with: got 3, expected "),
    ],
)
def test_a_tracker_that_cannot_be_is_told_before_any_work(
    log_with: Any, match: str, listed: type[Listed], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed.requires_logging_directory = True
    monkeypatch.setattr("trimtab.adapt.finetune.tokenise_all", None)
    with pytest.raises(ConfigProblems, match=match):
        run(log_with=log_with)


def test_what_is_not_installed_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.adapt.tracking.get_available_trackers", list)
    (problem,) = log_problems("trackio")
    assert problem.hint == 'pip install -e ".[track]" in the folder of trimtab'


def test_a_config_names_its_trackers() -> None:
    job = DynamicsConfig(model=".", train={"a": "."}, targets=("a",), log_with=("tensorboard", "trackoi"))
    assert [str(problem) for problem in job.problems() if problem.where == "log_with"]
    assert not list(log_problems(None))


def test_a_tracker_that_does_not_start_stops_the_run(listed: type[Listed], tmp_path: Path) -> None:
    listed.does_not_start = True
    with pytest.raises(ConfigError, match=r"got listed, which does not start \(RuntimeError: no server\)"):
        run(tmp_path, log_with="listed")
    listed.does_not_start = False
    assert run(tmp_path, log_with="listed").status == "feasible"


# What they get


def test_a_callable_gets_the_rows_of_the_metrics(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    run(tmp_path, log_with=[rows.append, others.append])
    assert rows == others == rows_of(tmp_path)


def test_logging_changes_no_number(tmp_path: Path) -> None:
    kept_nowhere: list[dict[str, Any]] = []
    run(log_with=kept_nowhere.append)
    run(tmp_path)
    assert kept_nowhere == rows_of(tmp_path)


def test_a_tracker_gets_numbers_and_the_config_once(
    listed: type[Listed], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "my-1", log_with="listed")
    (tracker,) = listed.made
    assert tracker.told == logged(rows_of(tmp_path / "my-1"))
    assert (tracker.run_name, tracker.finished) == ("trimtab", True)
    assert (tracker.config["fit.steps"], tracker.config["mixer.kind"]) == (12, "uniform")
    assert capsys.readouterr().out == ""


def test_names_and_groups_of_runs(
    monkeypatch: pytest.MonkeyPatch, listed: type[Listed], tmp_path: Path
) -> None:
    """A member of a group is in its group; the identity that a resumed run needs is on disk."""
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", listed)
    monkeypatch.setattr("trimtab.adapt.tracking.get_available_trackers", lambda: ["wandb"])
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    run(tmp_path / "group-1/members/uniform", log_with="wandb")
    (tracker,) = listed.made
    assert tracker.run_name == "mine"
    identity = json.loads((tmp_path / "group-1/members/uniform/artifacts" / LOGGED).read_text())["id"]
    config = tracker.settings.pop("config")
    assert config["seed"] == 0
    assert tracker.settings == {"name": "uniform", "group": "group-1", "id": identity, "resume": "allow"}


def test_each_run_of_a_group_is_logged_and_followed(listed: type[Listed], tmp_path: Path) -> None:
    """The group's own line counts its runs; the same group goes on without the tracker."""
    llama().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    for name in ("math", "web"):
        for split in ("train", "validation", "test"):
            lines = [json.dumps({"text": text}) for text in texts(name, split, 20)]
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{split}.jsonl").write_text("\n".join(lines))
    settings = {"model": str(tmp_path / "model"), "targets": ["math"], "constraints": {"web": 0.5}}
    settings |= {"system": "dynamics", "train": {name: str(tmp_path / name) for name in ("math", "web")}}
    settings |= {"mixer": {"kind": "uniform"}, "compare": {"more": {"kind": "uniform"}}}
    settings |= {
        "fit": {"steps": 2, "batch_size": 2, "seq_len": 16, "eval_sequences": 4, "probe_sequences": 4}
    }
    job = read_config(settings, DynamicsConfig, {"log_with": ["listed"]})
    stream = io.StringIO()
    with Bars(stream) as bars:
        carry_out(job, tmp_path / "group", bars.bar("run group"))
    assert len(listed.made) == 2
    for tracker, label in zip(listed.made, ("uniform", "more"), strict=True):
        rows = rows_of(tmp_path / "group/members" / label)
        assert tracker.told == logged(rows, make_roles(["math", "web"], [], ["math"], {"web": 0.5}), job.fit)
    told = [line.split("  ")[:2] for line in stream.getvalue().splitlines()]
    assert [start for label, start in told if label == "uniform"] == [
        *(f"step {step}/2" for step in (0, 1, 2)),
        "test at step 2",
    ]
    carry_out(replace(job, log_with=None), tmp_path / "group")
    assert len(listed.made) == 2


# Resumes and failures


@pytest.mark.parametrize("killed", [True, False])
def test_a_run_that_goes_on_logs_each_row_once(
    killed: bool, listed: type[Listed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at step 8: rows 6 to 8 were logged, but no checkpoint has them."""
    original, calls = Loop.step, [0]

    def stopped(self: Loop, *arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 9:
            raise SystemExit if killed else KeyboardInterrupt
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", stopped)
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            run(tmp_path, log_with="listed")
    assert len(rows_of(tmp_path)) == 1 + 8 + 4
    run(tmp_path, log_with=["listed"])
    first, second = listed.made
    assert first.told + second.told == logged(rows_of(tmp_path))
    assert first.config
    assert not second.config
    run(tmp_path, log_with="listed")
    assert len(listed.made) == 2


def test_a_tracker_that_joins_later_gets_what_it_missed(
    listed: type[Listed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("trimtab.adapt.run.Run.finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path)
    run(tmp_path, log_with="listed")
    (tracker,) = listed.made
    assert tracker.told == logged(rows_of(tmp_path))


def test_a_tracker_that_fails_is_dropped_with_one_warning(listed: type[Listed], tmp_path: Path) -> None:
    listed.fails_at = 3
    rows: list[dict[str, Any]] = []
    with pytest.warns(
        UserWarning, match=r"log_with: listed failed \(ConnectionError: server down\)"
    ) as warned:
        result = run(tmp_path, log_with=["listed", rows.append])
    assert result.status == "feasible"
    assert sum("log_with" in str(one.message) for one in warned) == 1
    assert len(listed.made[0].told) == 3
    assert rows == rows_of(tmp_path)


def test_a_damaged_note_of_what_was_logged_is_as_none(listed: type[Listed], tmp_path: Path) -> None:
    with RunFolder.create_or_open(tmp_path, {}) as folder:
        (folder.artifacts / LOGGED).write_text('{"rows": 3')
    run(tmp_path / "other", log_with="listed")
    assert listed.made[0].told == logged(rows_of(tmp_path / "other"))


# Real ones


def test_tensorboard_holds_the_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="no tensorboard: pip install -e .[dev]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, log_with="tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    expected: dict[str, list[tuple[int, float]]] = {}
    for step, numbers in logged(rows_of(tmp_path)):
        for name, value in numbers.items():
            expected.setdefault(name, []).append((step, value))
    assert set(events.Tags()["scalars"]) == set(expected)
    for name, points in expected.items():
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in points]
        assert [value for _, value in found] == pytest.approx([value for _, value in points], rel=1e-6)
    (config,) = events.Tensors("config/text_summary")
    assert "fit.steps: 12" in config.tensor_proto.string_val[0].decode()


TRACKIO = """
import json, sys, warnings
from pathlib import Path
sys.path.insert(0, {tests!r})
warnings.simplefilter("ignore")
from test_tracking import run
run(Path({out!r}), log_with="trackio")
"""


def test_trackio_holds_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, since trackio reads where its database is when it is imported."""
    pytest.importorskip("trackio", reason="no trackio: pip install -e .[track]")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    tests, out = str(Path(__file__).parent), tmp_path / "my-1"
    code = TRACKIO.format(tests=tests, out=str(out))
    path = [tests, str(Path(__file__).parents[1]), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", ":".join(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
    database = sqlite3.connect(tmp_path / "trackio/trimtab.db")
    rows = database.execute("select step, metrics, run_name from metrics order by id").fetchall()
    assert [(step, json.loads(numbers)) for step, numbers, _ in rows] == logged(rows_of(out))
    ((configs,),) = database.execute("select config from configs").fetchall()
    assert json.loads(configs)["fit.steps"] == 12
    assert {name.rpartition("-")[0] for _, _, name in rows} == {"my-1"}
    database.close()


class _Class:
    """Called like a receiver, it would make an object of each row and lose it."""

    def __init__(self, row: Any) -> None: ...


@pytest.mark.parametrize("wrong", [{"a": 1}, {"tensorboard"}, [["tensorboard"]], 3, b"wandb", _Class, [None]])
def test_what_is_no_tracker_is_refused_by_what_it_is(wrong: Any) -> None:
    (problem,) = log_problems(wrong)
    assert problem.expected == "a tracker's name, a callable that gets rows, or a list of such"


def test_the_class_of_a_known_tracker_is_to_be_named(listed: type[Listed]) -> None:
    (problem,) = log_problems(listed)  # type: ignore[arg-type]
    assert problem.hint == "'listed'"


@pytest.mark.parametrize("wrong", [True, "yes", 0, Bars])
def test_a_progress_of_another_kind_is_refused_before_any_work(wrong: Any) -> None:
    with pytest.raises(ConfigProblems, match=r"^progress: got .*, expected None, False, or a callable"):
        run(progress=wrong)
