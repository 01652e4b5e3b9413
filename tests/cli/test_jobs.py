"""Checking, running, resuming, listing and reporting, on a system that costs nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pandas as pd
import pytest

import coin
from coin import CoinJob, CoinResult
from trimtab import systems
from trimtab.cli.console import parser, split_overrides
from trimtab.cli.main import main
from trimtab.errors import Problem
from trimtab.job import Survey
from trimtab.runs.folder import RunFolder

Capture = pytest.CaptureFixture[str]


def test_check_says_what_a_run_takes(capsys: Capture) -> None:
    assert main(["check", "my.yaml", "--fit.steps", "7"]) == 0
    assert capsys.readouterr().out == "steps  7\n"
    assert main(["check", "my.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"problems": [], "estimate": {"steps": 4}}


def test_check_tells_all_problems_at_once(fake: Path, capsys: Capture) -> None:
    fake.write_text(
        "system: coin\ntrain: {a: x}\ntargets: [b]\nfit: {stesp: 3, lr: fast}\nmodel: lab:text-smal\n"
    )
    assert main(["check", "my.yaml", "--seeed=1"]) == 2
    told = capsys.readouterr().out
    assert told.startswith("5 problems\n")
    assert (
        "fit.stesp\n    got       an unknown key\n    expected  one of steps, lr\n    try       'steps'"
        in told
    )
    assert "seeed\n" in told
    assert "fit.lr\n    got       'fast'\n    expected  a number" in told
    assert "targets\n    got       'b'" in told
    assert "model\n    got       'lab:text-smal'" in told
    assert "try       lab:text-small" in told
    assert main(["check", "my.yaml", "--json"]) == 2
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 4
    assert main(["run", "my.yaml"]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.count("trimtab: ") == 4
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("targets: [a]\n", "system: got nothing, expected one of 'dynamics', 'steering', "),
        ("system: cion\n", "try 'coin'"),
        ("system: [coin\n", "line 2, column 1"),
        ("", "got an empty file"),
    ],
)
def test_configs_that_cannot_be_read(fake: Path, capsys: Capture, text: str, message: str) -> None:
    fake.write_text(text)
    assert main(["run", "my.yaml"]) == 2
    assert message in capsys.readouterr().err


def test_a_config_that_does_not_exist(capsys: Capture) -> None:
    assert main(["run", "mx.yaml"]) == 2
    assert "got 'mx.yaml', expected a YAML file or a recipe; try 'my.yaml'" in capsys.readouterr().err
    assert main(["run", "dynamics/quikstart"]) == 2
    assert "try 'dynamics/quickstart'" in capsys.readouterr().err


def test_runs_get_folders_of_their_own(tmp_path: Path, capsys: Capture) -> None:
    assert main(["run", "my.yaml", "--seed", "3"]) == 0
    streams = capsys.readouterr()
    assert streams.out.endswith("steps 4 seed 3\n")
    assert "runs/my-1" in streams.err
    assert main(["run", "my.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["throws"] == 4
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["my-1", "my-2"]


def test_a_finished_run_is_not_repeated(capsys: Capture) -> None:
    for jobs in ("1", "2"):
        assert main(["run", "my.yaml", "--out", "out", "--jobs", jobs]) == 0
        streams = capsys.readouterr()
        assert streams.out.endswith("steps 4 seed 0\n")
        assert ("is finished" in streams.err) == (jobs == "2")
    assert main(["resume", "out"]) == 0
    assert "is finished" in capsys.readouterr().err
    assert len(Path("out/metrics.jsonl").read_text().splitlines()) == 4


def test_another_config_in_the_same_folder(capsys: Capture) -> None:
    assert main(["run", "my.yaml", "--out", "out"]) == 0
    assert main(["run", "my.yaml", "--out", "out", "--fit.lr=3e-4"]) == 2
    assert "fit.lr (was 0.0001, now 0.0003)" in capsys.readouterr().err


def test_an_interrupted_run_says_where_it_stopped(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt("stopped at step 4 of 40; the same call goes on")

    monkeypatch.setattr(CoinJob, "run", stopped)
    assert main(["run", "my.yaml"]) == 130
    assert "\nstopped at step 4 of 40; go on with: trimtab resume" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on(capsys: Capture) -> None:
    assert main(["run", "my.yaml", "--behaves", "interrupted"]) == 130
    streams = capsys.readouterr()
    assert "interrupted; go on with: trimtab resume" in streams.err
    assert streams.err.rstrip().endswith("runs/my-1")
    assert main(["resume", "my-1"]) == 130
    assert main(["resume", "my-1", "--jobs", "2"]) == 0
    assert capsys.readouterr().out.endswith("steps 4 seed 0\n")


def test_exit_codes(capsys: Capture) -> None:
    assert main(["run", "my.yaml", "--behaves", "worse"]) == 1
    assert main(["resume", "my-1"]) == 1
    assert main(["run", "my.yaml", "--behaves", "badly"]) == 2
    assert capsys.readouterr().err.endswith("trimtab: got a bad mood, expected a good one\n")
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main(["run", "my.yaml", "--behaves", "broken"])
    assert main(["run", "my.yaml", "--out", "my.yaml"]) == 2
    assert "my.yaml" in capsys.readouterr().err


def test_a_run_another_process_holds(capsys: Capture) -> None:
    config = {"system": "coin", "model": "somewhere", "train": {"a": "x", "b": "y"}, "targets": ["a"]}
    config |= {"fit": {"steps": 4, "lr": 1e-4}, "behaves": "well", "jobs": 1, "seed": 0}
    with RunFolder.create_or_open("out", config):
        assert main(["run", "my.yaml", "--out", "out"]) == 2
    assert "held by process" in capsys.readouterr().err


def test_several_processes_need_a_folder(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["run", "my.yaml"]) == 2
    assert "--out: got nothing, expected a folder that all processes share" in capsys.readouterr().err


def test_resuming_what_is_not_there(capsys: Capture, tmp_path: Path) -> None:
    main(["run", "my.yaml"])
    assert main(["resume", "mx-1"]) == 2
    assert "try 'my-1'" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["resume", "empty"]) == 2
    assert "expected the folder of a run" in capsys.readouterr().err
    RunFolder.create_or_open("python", {"seed": 0}).close()
    assert main(["resume", "python"]) == 2
    assert "which was started from Python" in capsys.readouterr().err


def test_runs(capsys: Capture, tmp_path: Path) -> None:
    assert main(["runs"]) == 0
    assert "no such runs" in capsys.readouterr().err
    main(["run", "my.yaml", "--seed", "5"])
    main(["run", "my.yaml", "--behaves", "interrupted"])
    RunFolder.create_or_open(tmp_path / "runs/killed", {"seed": 5}).close()
    RunFolder.create_or_open(tmp_path / "runs/group", {}).close()
    RunFolder.create_or_open(tmp_path / "runs/group/members/a", {}).close()
    (tmp_path / "runs/damaged").mkdir()
    (tmp_path / "runs/damaged/run.json").write_text("{")
    capsys.readouterr()

    def listed(*arguments: str) -> dict[str, str]:
        assert main(["runs", *arguments, "--json"]) == 0
        return {run["name"]: run["status"] for run in json.loads(capsys.readouterr().out)}

    everything = {
        "my-1": "done",
        "my-2": "interrupted",
        "killed": "killed",
        "group": "killed",
        "damaged": "damaged",
    }
    assert listed() == everything
    assert listed("done") == {"my-1": "done"}
    assert listed("seed=5") == {"my-1": "done", "killed": "killed"}
    assert listed("fit.steps=4") == {"my-1": "done", "my-2": "interrupted"}
    assert listed("system=coin") == {"my-1": "done", "my-2": "interrupted"}
    with RunFolder.create_or_open(tmp_path / "runs/killed", {"seed": 5}):
        assert listed("killed") == {"killed": "running", "group": "killed"}
    assert main(["runs", "done"]) == 0
    assert capsys.readouterr().out.startswith("my-1  done")


def test_a_sweep(capsys: Capture, tmp_path: Path) -> None:
    command = ["sweep", "my.yaml", "--over", "seed=0..1", "--over", "behaves=well,badly", "--out", "s"]
    assert main(command) == 1
    streams = capsys.readouterr()
    assert streams.out.startswith("seed=0,behaves=well\n")
    assert "steps 4 seed 0\n" in streams.out
    assert "seed=1,behaves=badly failed: trimtab.errors.ConfigError: got a bad mood" in streams.err
    assert (tmp_path / "s/seed=1,behaves=badly/error.txt").is_file()
    assert (tmp_path / "s/seed=1,behaves=well/config.yaml").is_file()
    assert main([*command, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["results"]["seed=1,behaves=well"]["throws"] == 4
    assert len(told["failures"]) == 2


def test_a_sweep_is_checked_before_it_starts(capsys: Capture, tmp_path: Path) -> None:
    assert main(["sweep", "my.yaml", "--over", "seed=0,x", "--over", "fit.steps=1,y", "--out", "s"]) == 2
    told = capsys.readouterr().err
    assert "seed: got 'x', expected a whole number" in told
    assert "fit.steps: got 'y', expected a whole number" in told
    assert not (tmp_path / "s").exists()
    assert main(["sweep", "my.yaml", "--over", "seed=0", "--jobs", "0"]) == 2


def test_a_cluster_that_is_not_installed(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["sweep", "my.yaml", "--over", "seed=0", "--cluster", "ray", "--out", "s"]) == 2
    assert 'try pip install -e ".[cluster]"' in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_an_interrupted_sweep_goes_on(capsys: Capture) -> None:
    command = ["sweep", "my.yaml", "--over", "seed=0,1", "--behaves", "interrupted", "--out", "s"]
    assert main(command) == 130
    assert "go on with the same command and --out s" in capsys.readouterr().err
    while main(command) == 130:
        pass
    assert main(command) == 0


def test_report(capsys: Capture, tmp_path: Path) -> None:
    for seed in ("0", "1"):
        main(["run", "my.yaml", "--seed", seed])
    main(["run", "my.yaml", "--behaves", "interrupted"])
    capsys.readouterr()
    assert main(["report", "my-1"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == tmp_path / "runs/my-1/report.html"
    assert "<h1>my-1</h1>" in path.read_text()
    assert "steps 4 seed 0" in path.read_text()
    assert main(["report", "my-1", "runs/my-2", "-o", "page.html"]) == 0
    assert "2 runs side by side." in Path("page.html").read_text()
    assert main(["report", "runs", "-o", "all.html"]) == 0
    assert all(label in Path("all.html").read_text() for label in ("1. coin 0", "2. coin 1"))
    main(["run", "my.yaml", "--seed", "0", "--out", "again"])
    assert main(["report", "my-1", "my-2", "again", "-o", "three.html"]) == 0
    told = Path("three.html").read_text()
    assert all(label in told for label in ("1. coin 0 (my-1)", "2. coin 1<", "3. coin 0 (again)"))
    capsys.readouterr()
    assert main(["report", "my-1", "my-2"]) == 2
    assert "try -o page.html" in capsys.readouterr().err
    assert main(["report", "my-3"]) == 2
    assert "got no finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "got", "hint"),
    [
        ("me-1", "no folder 'me-1' here, and no run of that name in {here}/runs", "'my-1'"),
        ("runs/me-1", "no folder 'runs/me-1' here, and no run of that name in {here}/runs", "runs/my-1"),
        ("./gone", "no folder './gone'", "trimtab runs, which lists them"),
        ("{here}/runs/me-1", "no folder '{here}/runs/me-1'", "{here}/runs/my-1"),
        ("runs/my-1/report.html", "'runs/my-1/report.html', a file", "runs/my-1"),
        ("my.yaml", "'my.yaml', a file", "trimtab runs, which lists them"),
    ],
)
@pytest.mark.parametrize("verb", ["resume", "report", "export"])
def test_a_run_that_is_not_there_is_told_with_what_was_looked_for(
    verb: str, given: str, got: str, hint: str, capsys: Capture, tmp_path: Path
) -> None:
    main(["run", "my.yaml"])
    capsys.readouterr()
    given, got, hint = (text.format(here=tmp_path) for text in (given, got, hint))
    assert main([verb, given, *(["--out", "new"] * (verb == "export"))]) == 2
    told = capsys.readouterr().err
    assert f"got {got}, expected the folder or name of a" in told
    assert told.strip().endswith(f"; try {hint}")


def test_overrides_may_stand_anywhere() -> None:
    options = parser("run")
    options.add_argument("file")
    options.add_argument("--out")
    line = ["--a.b", "1", "my.yaml", "--out", "x", "--c=2", "--d", "-3", "--out=y"]
    assert split_overrides(options, line) == (
        ["my.yaml", "--out", "x", "--out=y"],
        ["--a.b", "1", "--c=2", "--d", "-3"],
    )


def test_a_tilde_is_the_home_wherever_a_path_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main(["run", "my.yaml", "--out=~/run"]) == 0
    assert main(["sweep", "my.yaml", "--over", "seed=0", "--out=~/sweep"]) == 0
    assert main(["report", "~/run", "--out=~/page.html"]) == 0
    assert main(["cp", "dynamics/quickstart", "~/mine.yaml"]) == 0
    made = {path.name for path in (tmp_path / "home").iterdir()}
    assert made == {"run", "sweep", "page.html", "mine.yaml"}
    assert not Path("~").exists()


@dataclass(frozen=True)
class Single:
    """A job that is one run: it has no jobs."""

    system: Literal["single"]
    seed: int = 0

    result: ClassVar[type[CoinResult]] = CoinResult

    def problems(self) -> Iterator[Problem]:
        yield from ()

    def cost(self) -> dict[str, int]:
        return {"steps": 1}

    def run(self, folder: RunFolder, progress: Callable[[int, int], None]) -> CoinResult:
        return CoinJob("coin", seed=self.seed).run(folder, progress)


def test_a_system_of_single_runs_is_swept_and_has_no_jobs(
    fake: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coin, "Single", Single, raising=False)
    monkeypatch.setitem(systems.SYSTEMS, "single", systems.System("single", "coin:Single", "one", "none"))
    fake.write_text("system: single\n")
    assert main(["sweep", "my.yaml", "--over", "seed=0,1", "--out", "s"]) == 0
    assert main(["run", "my.yaml", "--jobs", "1", "--out", "one"]) == 0
    capsys.readouterr()
    for command in (["run", "my.yaml"], ["resume", "one"]):
        assert main([*command, "--jobs", "2"]) == 2
        assert "--jobs: got 2, expected nothing: a job of single is one run" in capsys.readouterr().err


def test_every_system_can_be_swept(capsys: Capture) -> None:
    for recipe in ("naming-bias", "lexicon", "steering", "expertlens", "forgetting", "dynamics"):
        assert main(["sweep", f"{recipe}/quickstart", "--over", "seed=-1", "--out", "s"]) == 2
        assert all("seed: got -1" in line for line in capsys.readouterr().err.splitlines()), recipe


def test_a_finished_run_whose_result_is_damaged_or_gone(capsys: Capture, tmp_path: Path) -> None:
    assert main(["run", "my.yaml", "--out", "out"]) == 0
    (tmp_path / "out").rename(tmp_path / "moved")
    assert main(["resume", "moved"]) == 0
    assert "report moved/report.html" in capsys.readouterr().err
    result = tmp_path / "moved/artifacts/result.json"
    whole = result.read_text()
    result.write_text(whole.replace("4", "5", 1))
    assert main(["resume", "moved"]) == 2
    assert "damaged moved/artifacts/result.json" in capsys.readouterr().err
    result.unlink()
    assert main(["resume", "moved"]) == 0
    assert "is finished" not in capsys.readouterr().err
    assert json.loads(result.read_text())["heads"] == json.loads(whole)["heads"]


@dataclass(frozen=True)
class Surveyed(CoinJob):
    """A coin whose data is read before."""

    system: Literal["coin"] = "coin"

    def survey(self) -> Survey:
        wrong = (Problem("train.a", "odd data", "data", "n_boot=500"),) if self.seed else ()
        table = pd.DataFrame({"domain": ["a"], "records": [7]})
        return Survey({"data": table}, ("A note.",), problems=wrong, cost={"steps": 5})


@pytest.fixture
def surveyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coin, "Surveyed", Surveyed, raising=False)
    system = systems.System("coin", "coin:Surveyed", "coins with data", "none")
    monkeypatch.setitem(systems.SYSTEMS, "coin", system)


@pytest.mark.usefixtures("surveyed")
def test_check_reads_the_data_unless_told_not_to(capsys: Capture) -> None:
    assert main(["check", "my.yaml"]) == 0
    assert capsys.readouterr().out == "steps  5\n\ndata\ndomain  records\na             7\n\nA note.\n"
    assert main(["check", "my.yaml", "--fast", "--seed", "1"]) == 0
    assert capsys.readouterr().out == "steps  4\n"
    assert main(["check", "my.yaml", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    data = {"tables": {"data": [{"domain": "a", "records": 7}]}, "examples": {}, "notes": ["A note."]}
    assert told == {"problems": [], "estimate": {"steps": 5}, "data": data}


@pytest.mark.usefixtures("surveyed")
def test_mistakes_in_the_data_end_a_check(capsys: Capture) -> None:
    assert main(["check", "my.yaml", "--seed", "1"]) == 2
    told = capsys.readouterr().out
    assert told.startswith(
        "1 problem\ntrain.a\n    got       odd data\n    expected  data\n    try       n_boot: 500\n"
    )
    assert "\ndata\ndomain  records\n" in told
    assert main(["check", "my.yaml", "--seed", "1", "--json"]) == 2
    told_ = json.loads(capsys.readouterr().out)
    assert [problem["where"] for problem in told_["problems"]] == ["train.a"]
    assert "estimate" not in told_


@pytest.mark.parametrize(
    "argv",
    [["run", "my.yaml", "--seed", "-1"], ["resume", "nothing"], ["sweep", "my.yaml", "--over", "seed=-1"]],
)
def test_errors_as_json(argv: list[str], capsys: Capture) -> None:
    assert main([*argv, "--json"]) == 2
    streams = capsys.readouterr()
    (problem,) = json.loads(streams.out)["problems"]
    assert set(problem) == {"where", "got", "expected", "hint"}
    assert problem["got"] in streams.err


def test_a_run_that_failed_at_once_leaves_no_folder(tmp_path: Path, capsys: Capture) -> None:
    assert main(["run", "my.yaml", "--behaves", "badly"]) == 2
    assert list((tmp_path / "runs").iterdir()) == []
    assert main(["run", "my.yaml"]) == 0
    assert main(["run", "my.yaml", "--behaves", "badly"]) == 2
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["my-1"]
    (tmp_path / "mine").mkdir()
    assert main(["run", "my.yaml", "--behaves", "badly", "--out", "mine"]) == 2
    assert (tmp_path / "mine").is_dir()
    assert main(["run", "my.yaml", "--behaves", "badly", "--out", "mine/new"]) == 2
    assert not (tmp_path / "mine/new").exists()


def test_a_page_of_a_folder_without_runs(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "notes").mkdir()
    assert main(["report", "notes"]) == 2
    assert "got no finished run in notes, expected one; try trimtab runs" in capsys.readouterr().err
    RunFolder.create_or_open("notes/begun", {"system": "coin"}).close()
    assert main(["report", "notes"]) == 2
    assert "try trimtab resume notes/begun" in capsys.readouterr().err


def test_runs_tell_their_model_and_result(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run notes its headline when it ends; one of an earlier version shows what it noted then."""
    headline = {"heads": "3 of 4", "kept": "1 of 1"}
    monkeypatch.setattr(CoinResult, "headline", lambda self: headline)
    main(["run", "my.yaml", "--model", "path/to/tiny-llama-0123456789ab"])
    with RunFolder.create_or_open(tmp_path / "runs/old", {"system": "coin", "model": "owner/large"}) as old:
        old.set_status("done", result="feasible", step=7)
    capsys.readouterr()
    assert main(["runs"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["my-1"].split("  ")[-1].strip() == "heads 3 of 4, kept 1 of 1"
    assert " coin tiny-llama " in lines["my-1"]
    assert " coin large " in lines["old"]
    assert lines["old"].endswith("result=feasible step=7")
    assert main(["runs", "heads 3", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["facts"]["headline"] == headline


def test_tabs_of_pages_can_be_told_from_one_another(capsys: Capture, tmp_path: Path) -> None:
    """A tab says the run, its model, its system and its date; the heading is the run's name."""
    for name in ("one", "two"):
        main(["run", "my.yaml", "--model", f"path/to/{name}-llama", "--out", name])
    first = Path("one/report.html").read_text()
    title = re.findall("<title>(.*?)</title>", first)[0]
    assert re.fullmatch(r"one · one-llama · coin · \d{4}-\d\d-\d\d", title)
    assert "<h1>one</h1>" in first
    assert main(["report", "one", "two", "-o", "both.html"]) == 0
    title = re.findall("<title>(.*?)</title>", Path("both.html").read_text())[0]
    assert title.startswith("one, two · one-llama, two-llama · coin · ")
    CoinResult.load("one").report(tmp_path / "elsewhere.html")
    assert "<title>coin 0</title>" in (tmp_path / "elsewhere.html").read_text()


def test_a_report_goes_where_a_link_points_and_in_the_place_of_no_pipe(
    capsys: Capture, tmp_path: Path
) -> None:
    main(["run", "my.yaml", "--out", "mine"])
    file, link, pipe = tmp_path / "page.html", tmp_path / "link.html", tmp_path / "pipe"
    file.write_text("old")
    link.symlink_to(file)
    os.mkfifo(pipe)
    assert main(["report", "mine", "-o", str(link)]) == 0
    assert link.is_symlink()
    assert file.read_text().startswith("<!doctype html>")
    capsys.readouterr()
    assert main(["report", "mine", "-o", str(pipe)]) == 2
    assert "a pipe or a device, expected a file to write" in capsys.readouterr().err
    assert pipe.is_fifo()


def test_cp_and_report_print_json(capsys: Capture) -> None:
    main(["run", "my.yaml", "--out", "one"])
    capsys.readouterr()
    assert main(["cp", "dynamics/own-data", "new.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": "new.yaml", "recipe": "dynamics/own-data"}
    assert main(["report", "one", "-o", "page.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": "page.html", "runs": ["one"]}
