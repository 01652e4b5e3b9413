"""The live line of a run: what it says at which width, from Python and of several runs at once."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trimtab import DynaMiCS, finetune
from trimtab.adapt.cost import Ledger
from trimtab.adapt.live import Followed, LiveRun, RunWords, Ticks, following
from trimtab.adapt.metrics import Progress
from trimtab.adapt.session import make_roles
from trimtab.runs.live import Bars
from trimtab.train.settings import Fit
from worlds import QUICK, evaluated, model, trainable

ROLES = make_roles(
    ["headers", "stubs", "python", "docstrings"],
    ["metadata", "tests"],
    ["headers", "stubs"],
    {"python": 0.05, "metadata": 0.05, "docstrings": 0.0005},
)
FIT = Fit(steps=200, lr=1e-4)
CHANGES = {
    "headers": -0.05,
    "stubs": None,
    "python": -0.0001,
    "docstrings": 0.0004,
    "metadata": 0.0621,
    "tests": 0.1,
}
ROWS: list[dict[str, Any]] = [
    {"step": 70, "event": "training", "loss": 2.0, "grad_norm": 1.0},
    {"step": 71, "event": "training", "loss": 3.0, "grad_norm": 1.0},
    {
        "step": 71,
        "event": "evaluation",
        "split": "validation",
        "loss_nats": dict.fromkeys(CHANGES, 2.0),
        "change": {name: [value, value, value] for name, value in CHANGES.items()},
    },
    {
        "step": 71,
        "event": "mixture",
        "weights": {"headers": 0.75, "stubs": 0.246, "python": 0.004, "docstrings": 0.0},
    },
]
JUDGED = "headers -0.050  stubs +nan  python +0.000/0.050  metadata +0.062/0.050!  docstrings +0.000/0.0005"


@pytest.fixture
def words() -> RunWords:
    made = RunWords(ROLES, FIT)
    for row in ROWS:
        made.add(row)
    return made


def test_everything_is_said_where_there_is_room(words: RunWords) -> None:
    """The mean training loss is .9 * 2 + .1 * 3."""
    mixture = "mixture headers 75 % stubs 25 %"
    assert words(200) == f"step 71/200  loss 2.10  lr 1e-4  {JUDGED}  (tests +0.100)  {mixture}"


def test_what_matters_less_goes_first(words: RunWords) -> None:
    assert words(150) == f"step 71/200  loss 2.10  lr 1e-4  {JUDGED}  (tests +0.100)"
    assert words(135) == f"step 71/200  loss 2.10  lr 1e-4  {JUDGED}"
    assert words(125) == f"step 71/200  loss 2.10  {JUDGED}"
    assert words(115).endswith("python +0.000/0.050  metad. +0.062/0.050!  docst. +0.000/0.0005")
    assert words(80) == "step 71/200  loss 2.10  lr 1e-4  stubs +nan  metadata +0.062/0.050!  +3 more"
    assert words(65) == "step 71/200  loss 2.10  stubs +nan  metad. +0.062/0.050!  +3 more"
    assert words(60) == "step 71/200  loss 2.10  stubs +nan  metad. +0.062/0.050!"
    assert words(30) == "step 71/200  loss 2.10"
    assert words(5) == "step "


@pytest.mark.parametrize("width", range(0, 210, 7))
def test_it_always_fits(width: int, words: RunWords) -> None:
    assert len(words(width)) <= width


def test_the_base_model_is_shown_before_the_first_step() -> None:
    made = RunWords(ROLES, FIT)
    made.add({**ROWS[2], "step": 0})
    assert made(200).startswith("step 0/200  base model  headers 2.000  stubs 2.000  python 2.000")
    assert "tests" not in made(100)


def test_the_verdict_on_test_names_its_step(words: RunWords) -> None:
    tested = words.tested({**ROWS[2], "step": 9, "split": "test"})
    assert tested(200) == f"test at step 9  {JUDGED}  (tests +0.100)"
    assert words.tested({**ROWS[2], "step": 0, "split": "test"})(80) == "test: the base weights stay"


def test_ticks_count_on_after_a_resume() -> None:
    seen: list[tuple[int, int]] = []
    taken = iter([0, 1, 1, 4])
    ticks = Ticks(lambda: None, lambda done, total: seen.append((done, total)), lambda: next(taken), 9)
    ticks()
    ticks.resume([], Progress(ledger=Ledger(training_steps=4, probe_steps=2)))
    for _ in range(3):
        ticks()
    assert seen == [(0, 9), (7, 9), (7, 9), (9, 9)]


# From Python


MIXER = DynaMiCS(targets=["math"], constraints={"web": 0.0, "safety": 0.3}, schedule=4, probe_steps=2)


def run(out: Path | None = None, **options: Any) -> Any:
    domains = {"train": trainable(), "evaluate": evaluated()}
    return finetune(model(), **domains, mixer=MIXER, out=out, **{"fit": QUICK, **options})


def test_a_run_from_python_is_shown_by_itself(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The grid is 0, 1, 2, 5 and 12; a run that stopped after its checkpoint of step 5 says where it goes on."""

    def stop(done: int, total: int) -> None:
        assert total == 12 + 3 * 3 * 2
        if done == 2 * 3 * 2 + 7:  # two rounds of probes are behind it
            raise OSError

    assert run().status == "feasible"
    told = capsys.readouterr()
    assert [line.split("  ")[0] for line in told.err.splitlines()] == [
        *(f"step {step}/12" for step in (0, 1, 2, 5, 12)),
        "test at step 12",
    ]
    assert told.out == ""
    assert "\x1b" not in told.err
    with pytest.raises(OSError, match=r"^$"):
        run(tmp_path, progress=stop)
    assert capsys.readouterr().err == ""
    run(tmp_path)
    told = capsys.readouterr()
    assert [line.split("  ")[0] for line in told.err.splitlines()] == [
        "goes on at step 5 of 12",
        "step 5/12",
        "step 12/12",
        "test at step 12",
    ]
    run(tmp_path)
    assert capsys.readouterr().err == ""


def test_a_run_can_be_silent(capsys: pytest.CaptureFixture[str]) -> None:
    run(progress=False, fit=replace(QUICK, steps=1))
    assert capsys.readouterr() == ("", "")


# Several runs


def write(path: Path, rows: list[dict[str, Any]], tail: str = "") -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows) + tail)


def test_runs_are_followed_by_what_they_write(tmp_path: Path) -> None:
    stream, metrics = io.StringIO(), tmp_path / "metrics.jsonl"
    with Bars(stream) as bars:
        member = Followed("a mixer with a very long name", metrics, bars.bar("group"), ROLES, FIT)
        member.poll()
        write(metrics, ROWS[:2], tail='{"step": 71, "ev')
        member.poll()
        assert stream.getvalue() == ""
        write(metrics, [], tail='ent": "mixture", "weights": {"headers": 1.0}}\n')
        write(metrics, [ROWS[2]])
        member.poll()
        assert stream.getvalue().startswith("a mixer with a very lon.  step 71/200  loss 2.10")
        write(metrics, [{**ROWS[2], "step": 9, "split": "test"}])
        member.poll()
    assert stream.getvalue().splitlines()[1].startswith("a mixer with a very lon.  test at step 9  ")


def test_a_run_that_goes_on_is_followed_from_there(tmp_path: Path) -> None:
    stream, metrics = io.StringIO(), tmp_path / "metrics.jsonl"
    write(metrics, [*ROWS[:2], {**ROWS[0], "step": 72}])
    with Bars(stream) as bars:
        member = Followed("member", metrics, bars.bar("group"), ROLES, FIT)
        metrics.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]))  # back to its checkpoint
        member.poll()
        write(metrics, ROWS[2:3])
        member.poll()
    first, second = stream.getvalue().splitlines()
    assert first == "member  goes on at step 72 of 200"
    assert second.startswith("member  step 71/200")


def test_following_ends_with_what_was_written_last(tmp_path: Path) -> None:
    stream, metrics = io.StringIO(), tmp_path / "metrics.jsonl"
    with (
        Bars(stream) as bars,
        following(bars.bar("group"), {"a": metrics, "b": tmp_path / "none"}, ROLES, FIT, 9),
    ):
        write(metrics, ROWS)
    assert stream.getvalue().startswith("a  step 71/200")
    shutil.rmtree(tmp_path)
    with following(lambda *_: None, {"a": metrics}, ROLES, FIT):
        pass


def test_a_line_that_is_handed_over_loses_its_title(tmp_path: Path) -> None:
    """`trimtab run` has said which folder it is."""
    stream = io.StringIO()
    with Bars(stream) as bars:
        run(progress=bars.bar("run runs/my-1"), fit=replace(QUICK, steps=1))
    assert stream.getvalue().startswith("step 0/1")
    assert LiveRun(bars.bar(""), ROLES, FIT).words(30) == "step 0/200"
