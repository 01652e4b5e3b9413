"""Run folders that are damaged or hostile: each is told of in one line with its file, and the others are not lost."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.cli.main import main
from trimtab.errors import CheckpointError
from trimtab.read.experts.result import ExpertsResult
from trimtab.refer.bias.result import NamingBias
from trimtab.refer.lexicon.result import LexiconResult
from trimtab.runs.folder import RunFolder, is_locked, list_runs
from trimtab.runs.serialise import SEAL, plain, seal

CONFIG: dict[str, Any] = {"seed": 0, "fit": {"steps": 4}}
Spoil = Callable[[Path], object]


def finished_run(folder: Path, system: str | None = "dynamics") -> Path:
    """A finished run with the smallest result, as a run of a fixed mixture leaves it."""
    with RunFolder.create_or_open(folder, CONFIG | ({"system": system} if system else {})) as run:
        run.append({"step": 1, "event": "training"})
        columns = [
            "step",
            "domain",
            "split",
            "loss_nats",
            "standard_error",
            "change",
            "change_low",
            "change_high",
        ]
        rows = [[n, "a", "validation", 2.0 - n / 9, 0.1, -n / 9, -n / 8, -n / 10] for n in (0, 4)]
        final = [
            "domain",
            "role",
            "reference",
            "tolerance",
            "loss",
            "change",
            "change_low",
            "change_high",
            "kept",
        ]
        run.write_json(
            "artifacts/result.json",
            {
                "schema": 1,
                "label": "uniform",
                "status": "feasible",
                "step": 4,
                "mixtures": {"columns": ["step", "a"], "rows": [[0, 1.0]]},
                "slopes": [],
                "losses": {"columns": columns, "rows": rows},
                "final": {
                    "columns": final,
                    "rows": [["a", "target", 2.0, None, 1.6, -0.4, -0.5, -0.3, None]],
                },
                "cost": {
                    "training_steps": 4,
                    "probe_steps": 0,
                    "evaluation_batches": 2.0,
                    "solver_seconds": 0.0,
                    "training_multiple": 1.0,
                    "all_in_multiple": 1.0,
                    "seconds": {"training": 1.0},
                },
                "config": {"seed": 0, "fit": {"steps": 4, "batch_size": 2, "lr": 1e-4}},
                "notes": [],
            },
        )
        run.write_json("artifacts/outcome.json", {"table": "t", "json": {}, "report": "r", "passed": True})
        seal(folder)
        run.set_status("done")
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of runs with one that is well."""
    monkeypatch.setenv("TRIMTAB_RUNS", str(tmp_path / "runs"))
    finished_run(tmp_path / "runs/well")
    return tmp_path / "runs"


def write(name: str, text: str | bytes) -> Spoil:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return lambda run: (run / name).write_bytes(raw)


def pipe(name: str) -> Spoil:
    return lambda run: ((run / name).unlink(missing_ok=True), os.mkfifo(run / name))


def record(**changes: Any) -> Spoil:
    def spoil(run: Path) -> None:
        known = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(known | changes))

    return spoil


DEEP = "[" * 5000 + "]" * 5000
HOSTILE: dict[str, Spoil] = {
    "created null": record(created=None),
    "created a number": record(created=5),
    "facts a list": record(facts=[]),
    "a status of its own": record(status="finished"),
    "a status that is a list": record(status=["done"]),
    "a deep record": write("run.json", '{"status": "done", "created": "", "facts": {"a": ' + DEEP + "}}"),
    "a number without end": write(
        "run.json", '{"status": "done", "created": "", "facts": ' + "1" * 5000 + "}"
    ),
    "a list": write("run.json", "[]"),
    "no JSON": write("run.json", "{"),
    "binary": write("run.json", bytes(range(256))),
    "empty": write("run.json", ""),
    "large": lambda run: os.truncate(run / "run.json", 2**33),
    "a pipe": pipe("run.json"),
    "a folder": lambda run: ((run / "run.json").unlink(), (run / "run.json").mkdir()),
    "a device": lambda run: ((run / "run.json").unlink(), (run / "run.json").symlink_to("/dev/zero")),
    "a dangling link": lambda run: ((run / "run.json").unlink(), (run / "run.json").symlink_to("nowhere")),
    "a seed that is no number": write("config.yaml", "seed: !!int 0x_"),
    "a key that is a list": write("config.yaml", "? [a]\n: 1"),
    "a deep config": write("config.yaml", "a: " + "[" * 600 + "]" * 600),
    "a config in Latin-1": write("config.yaml", "caf\xe9: 1".encode("latin-1")),
    "a config that is a list": write("config.yaml", "- 1"),
    "a date that is none": write("config.yaml", "!!timestamp 2026-13-45"),
    "a large config": lambda run: os.truncate(run / "config.yaml", 2**33),
    "a config that is a pipe": pipe("config.yaml"),
    "no config": lambda run: (run / "config.yaml").unlink(),
}


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are POSIX")
@pytest.mark.parametrize("what", HOSTILE)
def test_a_damaged_run_is_listed_beside_the_others(
    what: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(home / "well", home / "spoilt")
    HOSTILE[what](home / "spoilt")
    assert {run.name: run.status for run in list_runs(home)} == {"well": "done", "spoilt": "damaged"}
    assert main(["runs", "seed=0"]) == 0
    assert "well" in capsys.readouterr().out
    assert main(["resume", "spoilt"]) == 2
    assert capsys.readouterr().err.startswith("trimtab: ")


def test_odd_values_are_shown_on_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished_run(home / "odd\n\x1b[31m")
    with RunFolder.create_or_open(home / "odd\n\x1b[31m", CONFIG | {"system": "dynamics"}) as run:
        run.set_status("done", note="two\nlines \x1b[2J")
    record(facts={"note": "\ud800"})(home / "well")
    write("config.yaml", "seed: 0\nday: !!timestamp 2026-01-01\nself: &a [*a]\nraw: !!binary aGk=\n")(
        home / "well"
    )
    Path(os.fsdecode(os.fsencode(home) + b"/caf\xe9")).mkdir()
    shutil.copy(home / "well/run.json", os.fsencode(home) + b"/caf\xe9/run.json")
    for arguments in ([], ["day=2026-01-01"], ["self=x"], ["raw=x"], ["--json"]):
        assert main(["runs", *arguments]) == 0
    assert main(["runs"]) == 0
    said = capsys.readouterr().out
    said.encode()
    lines = said.splitlines()[-3:]
    assert sorted(line.split("  ")[0] for line in lines) == ["caf\\udce9", "odd\\n\\x1b[31m", "well"]


def test_folders_are_looked_through_however_deep(home: Path) -> None:
    made = [home / "d"]
    made[0].mkdir()
    with contextlib.suppress(OSError):  # a path too long for the system
        for _ in range(1200):  # deeper than Python calls itself
            (made[-1] / "d").mkdir()
            made.append(made[-1] / "d")
    (home / "loop").symlink_to(home)
    (home / "shut").mkdir(mode=0)
    try:
        assert [run.name for run in list_runs(home)] == ["well"]
    finally:  # what clears temporary folders away goes no deeper than Python calls itself
        for folder in reversed(made):
            folder.rmdir()
        (home / "shut").rmdir()
    (home / "linked").symlink_to(home / "well")
    assert [run.name for run in list_runs(home)] == ["linked", "well"]


LOCKS: dict[str, Spoil] = {
    "a link": lambda run: (run / ".lock").symlink_to(run.parent / "victim"),
    "a dangling link": lambda run: (run / ".lock").symlink_to(run.parent / "nowhere"),
    "a second name": lambda run: os.link(run.parent / "victim", run / ".lock"),
    "a pipe": pipe(".lock"),
    "a folder": lambda run: (run / ".lock").mkdir(),
    "a file of something else": write(".lock", "precious"),
}


@pytest.mark.skipif(os.name != "posix", reason="links and pipes are POSIX")
@pytest.mark.parametrize("what", LOCKS)
def test_a_lock_that_is_none_is_refused_and_left_alone(what: str, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run").mkdir()
    LOCKS[what](tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"\.lock, which is no lock of a run, expected .*; try deleting it"
    ):
        RunFolder.create_or_open(tmp_path / "run", CONFIG)
    assert not is_locked(tmp_path / "run")
    assert (tmp_path / "victim").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "victim"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl", "run.json", "config.yaml", "artifacts"])
def test_nothing_is_written_through_a_link(name: str, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    victim = tmp_path / "victim"
    if name == "artifacts":
        (run / name).rename(victim)
    else:
        victim.write_text('{"torn')
        (run / name).unlink(missing_ok=True)
    before = sorted(victim.iterdir()) if victim.is_dir() else victim.read_text()
    (run / name).symlink_to(victim)
    with pytest.raises(
        CheckpointError, match=f"got the link .*{name}, expected a file or folder of the run itself"
    ):
        RunFolder.create_or_open(run, CONFIG | {"system": "dynamics"})
    assert (sorted(victim.iterdir()) if victim.is_dir() else victim.read_text()) == before


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="needs root to become another user")
def test_the_lock_of_another_user_is_told(tmp_path: Path) -> None:
    RunFolder.create_or_open(tmp_path / "run", CONFIG).close()
    (tmp_path / "run/.lock").chmod(0o600)
    code = (
        "import os, sys; os.setuid(65534)\n"
        "from trimtab.runs.folder import is_locked, take_lock\nfrom pathlib import Path\n"
        "print(is_locked(Path('.')))\ntry: take_lock(Path('.'))\nexcept Exception as e: print(type(e).__name__, e)"
    )
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "run", capture_output=True, text=True, check=False
    )
    if done.returncode == 0:  # else the other user cannot read the interpreter
        assert done.stdout.startswith(
            "False\nCheckpointError got a lock .lock that cannot be opened (Permission"
        )


def mutated(value: Any, draw: random.Random) -> Any:
    """A JSON value in which one place is something else."""
    value = copy.deepcopy(value)
    holder, key = None, None
    here = value
    while isinstance(here, dict | list) and here and (holder is None or draw.random() < 0.8):
        key = draw.choice(list(here) if isinstance(here, dict) else range(len(here)))
        holder, here = here, here[key]
    if holder is None:
        return draw.choice(ODD)
    if draw.random() < 0.25:
        del holder[key]
    elif isinstance(holder, dict) and draw.random() < 0.1:
        holder["more"] = draw.choice(ODD)
    else:
        holder[key] = copy.deepcopy(draw.choice(ODD))
    return value


ODD: list[Any] = [
    *(None, True, -1, 0, 10**400, 1e300, float("nan"), float("inf"), "", "x", "\ud800", "<b>", "a\0"),
    *([], [None], [[1]], {}, {"a": {}}, {"columns": [], "rows": []}, {"columns": ["a"], "rows": [[1, 2]]}),
    *({"estimate": {}}, json.loads("[" * 90 + "]" * 90)),
]
FILES = ("artifacts/result.json", "run.json", "artifacts/outcome.json", "metrics.jsonl")


def spoilt_text(raw: bytes, draw: random.Random) -> bytes:
    """Bytes with a part missing, a bit turned, or something else in their place."""
    place = draw.randrange(len(raw) + 1)
    ways = (
        lambda: raw[:place],
        lambda: raw[:place] + bytes([draw.randrange(256)]) + raw[place + 1 :],
        lambda: raw[:place] + raw[place + draw.randrange(40) :],
        lambda: draw.choice(
            (b"", b"\0" * 50, b"[" * 100_000, b"\xff\xfe", b"[]", b"null", b"{}", b'{"schema": 1}')
        ),
    )
    return draw.choice(ways)()


def spoil_anything(run: Path, draw: random.Random) -> str:
    """Damage one file of a run; half of the runs are of a version that noted no SHA-256 of results."""
    file = run / draw.choice((FILES[0], FILES[0], FILES[0], *FILES, "config.yaml"))
    if draw.random() < 0.7:
        (run / SEAL).unlink()
    raw = file.read_bytes()
    if file.suffix == ".json" and draw.random() < 0.8:
        text = json.dumps(mutated(json.loads(raw), draw))
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        return f"{file.name}: {text[:3000]}"
    file.write_bytes(spoilt_text(raw, draw))
    return f"{file.name}: {file.read_bytes()[:300]!r}"


def test_no_damage_ends_raw(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`trimtab runs`, `report` and `resume` of runs with one spoilt place; TRIMTAB_FUZZ says how many."""
    count, draw, end = int(os.environ.get("TRIMTAB_FUZZ", "60")), random.Random(7), time.monotonic() + 10
    refused = 0
    for number in range(count):
        if (number >= 60 and "TRIMTAB_FUZZ" not in os.environ) or (time.monotonic() > end and count <= 60):
            break
        shutil.rmtree(home / "spoilt", ignore_errors=True)
        shutil.copytree(home / "well", home / "spoilt")
        what = spoil_anything(home / "spoilt", draw)
        for arguments in (["runs"], ["report", "spoilt"], ["resume", "spoilt"]):
            try:
                code = main(arguments)
            except Exception as error:
                raise AssertionError(f"{arguments} with {what}") from error
            told = capsys.readouterr()
            assert "well" in told.out or arguments != ["runs"], what
            assert code in ((0,) if arguments == ["runs"] else (0, 2)), what
            if code == 2:
                refused += 1
                assert told.err.startswith("trimtab: "), what
    assert refused > number // 3


SMALLEST: dict[type, dict[str, Any]] = {
    ExpertsResult: {"schema": 1, "label": "x", "similarity": {"columns": [], "rows": []}, "findings": []},
    NamingBias: {"schema": 1, "label": "x", "gap": {"estimate": {"value": 1}}},
    LexiconResult: {"schema": 1, "label": "x", "words": {"columns": ["a"], "rows": [[1]]}},
    FinetuneResult: {"schema": 1, "label": "x", "status": "feasible"},
}


@pytest.mark.parametrize("result", SMALLEST, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "change",
    [{}, {"label": 5}, {"words": None}, {"more": 1}, {"similarity": 5}, {"gap": {"estimate": {"x": 1}}}],
)
def test_what_is_no_result_is_told_with_its_file(result: Any, change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts/result.json").write_text(json.dumps(plain(SMALLEST[result] | change)))
    with pytest.raises(
        CheckpointError, match=r"artifacts.result\.json: got values that are no result \(\w+: "
    ):
        result.load(tmp_path)
