"""Command lines that nobody means: each is told in a line with an exit code, none ends in a traceback or waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import hostile
from trimtab.cli.console import VERBS, for_command, in_message
from trimtab.cli.main import main
from trimtab.errors import ModelError
from trimtab.runs.folder import RunFolder
from trimtab.runs.sweep import MOST_CELLS

Capture = pytest.CaptureFixture[str]
LONG = "x" * 5000
ODD = [
    "",
    " ",
    "a\0b",
    "a\ud800",
    LONG,
    "/dev/zero",
    "pipe",
    "folder",
    "loop",
    "file/x",
    "~nosuchuser/x",
    "--nope",
    "-",
]


@pytest.fixture(autouse=True)
def places(tmp_path: Path) -> None:
    """A file, a folder, a pipe and a link to itself, in the folder of the fake config."""
    Path("file").write_text("x")
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")


def told(arguments: Sequence[str], capsys: Capture) -> tuple[int, str]:
    with hostile.limit(20):
        code = main(list(arguments))
    streams = capsys.readouterr()
    return code, streams.out + streams.err


def refused(arguments: Sequence[str], capsys: Capture) -> str:
    code, said = told(arguments, capsys)
    assert code == 2, said[:300]
    assert ("got" in said and "expected" in said) or "usage: " in said, said[:300]
    assert len(said) < 3 * len(LONG)
    return said


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"runs", "ls", "doctor"}))
def test_odd_words_after_every_verb(verb: str, capsys: Capture) -> None:
    for word in ODD:
        refused([verb, word], capsys)
        if verb in ("check", "run", "sweep"):
            refused(
                [verb, word, "--over", "seed=0"] if verb == "sweep" else [verb, word, "--seed", "1"], capsys
            )
    for word in ODD:
        refused([word] if word else ["\0"], capsys)


def test_lists_and_filters_take_any_word(capsys: Capture) -> None:
    for word in ODD:
        if not word.startswith("--"):
            assert told(["runs", word], capsys)[0] == 0
    refused(["ls", "x"], capsys)
    refused(["doctor", "x"], capsys)
    assert told(["-V"], capsys) == told(["--version"], capsys)


OVERRIDES = [
    "--.=1", "--a..b=1", "--=1", "--fit.steps=", "--fit.steps", "--fit.steps=0x_", "--fit.steps=!!int x",
    "--fit.steps=" + "9" * 5000, "--fit.steps=1e12", "--fit.steps=1000000000000", "--fit.steps=[", "--fit=[1]",
    "--fit.steps.more=1", "--seed=-1", "--seed=18446744073709551616", "--seed=!!timestamp 2026-13-45",
    "--train=&a [*a]", "--train={1: {}}", "--train={~: x}", "--model=!!binary aGk=", '--model="\\uD800"',
    "--model=" + "[" * 3000, "--" + ".".join("a" * 3000) + "=1", "--a\ud800=1", "--system=[]", "--system={a: 1}",
    "--system=nope", "--targets=5", "--targets=[nope]", "--behaves=[]", "--fit.lr=fast",
]  # fmt: skip


@pytest.mark.parametrize(
    "override", OVERRIDES, ids=[text[:24].encode("ascii", "replace").decode() for text in OVERRIDES]
)
def test_odd_overrides(override: str, capsys: Capture) -> None:
    for verb in ("check", "run"):
        told_ = (
            refused([verb, "my.yaml", override], capsys) if override != "--jobs=-1" or verb == "run" else ""
        )
        assert "Traceback" not in told_
    assert not Path("runs").exists()


@pytest.mark.parametrize("out", ["file", "file/x", "pipe", "loop", "/dev/null", LONG, "a\0b", "a\ud800"])
def test_places_that_nothing_can_be_written_to(out: str, capsys: Capture) -> None:
    with RunFolder.create_or_open("folder", {"seed": 0}) as run:
        run.write_json("artifacts/result.json", {"seed": 0})
    assert "--out" in refused(["run", "my.yaml", "--out", out], capsys)
    assert "--out" in refused(["sweep", "my.yaml", "--over", "seed=0", "--out", out], capsys)
    assert "target" in refused(["cp", "dynamics/quickstart", out if out != "/dev/null" else "file"], capsys)
    if out not in ("file", "/dev/null", "pipe"):
        assert "got" in refused(["report", "folder", "-o", out], capsys)


def test_an_empty_place_is_not_the_current_folder(capsys: Capture) -> None:
    """It is what a variable of the shell comes to that was not set."""
    before = sorted(Path().rglob("*"))
    for line in (
        ["run", "my.yaml", "--out", ""],
        ["run", "my.yaml", "--out="],
        ["sweep", "my.yaml", "--over", "seed=0", "--out", ""],
        ["cp", "dynamics/quickstart", ""],
        ["report", "folder", "-o", ""],
        ["export", "folder", "--out", ""],
    ):
        assert "got '', expected a path" in refused(line, capsys)
    assert sorted(Path().rglob("*")) == before


def test_a_page_is_not_written_over_a_folder(capsys: Capture) -> None:
    assert "try folder/page.html" in refused(["report", "folder", "-o", "folder"], capsys)


AXES = [
    "seed", "seed=", "=1", "seed=0..999999999999", f"seed=0..{MOST_CELLS}", "seed=5..1", "seed=0,0", "seed=0..2,1",
    "seed=[", "seed=,", "seed=&a [*a]", "seed=\ud800", "seed=~", "fit.steps=1,x", "a\0=1", "seed=" + "9" * 5000,
    "seed=0..99999999999999999999999", "nope=1",
]  # fmt: skip


@pytest.mark.parametrize("axis", AXES, ids=[text[:24].encode("ascii", "replace").decode() for text in AXES])
def test_odd_axes(axis: str, capsys: Capture) -> None:
    refused(["sweep", "my.yaml", "--over", axis, "--out", "s"], capsys)
    assert not Path("s").exists()


@pytest.mark.parametrize("jobs", ["0", "-1", "1000000000", "1e9", "x", "", "9" * 5000])
def test_odd_numbers_of_jobs(jobs: str, capsys: Capture) -> None:
    refused(["sweep", "my.yaml", "--over", "seed=0", "--jobs", jobs], capsys)
    if jobs not in ("0", "-1"):  # the fake system lets these pass; every real one refuses them
        refused(["run", "my.yaml", "--jobs", jobs], capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit"], ["nope"], ["try"], ["try", "folder"], ["try", "folder", "m", "hi", "--strengths", "x"],
        ["try", "folder", "m", "hi", "--strengths", "nan"], ["try", "folder", "m", "hi", "--strengths", "1e999"],
        ["try", "folder", "m", "hi", "--max-new-tokens", "x"], ["sweep", "folder", "m"],
        ["sweep", "folder", "m", "--source", "a"],
        ["fuse", "folder", "m"], ["fuse", "folder", "m", "--out"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_odd_lines_of_steer(arguments: list[str], capsys: Capture) -> None:
    refused(["steer", *arguments], capsys)


def test_steer_explains_its_actions(capsys: Capture) -> None:
    assert told(["steer", "fit", "--help"], capsys)[1].startswith("usage: trimtab steer fit ")
    for action in ("fit", "try", "sweep", "fuse"):
        code, said = told(["steer", action, "--help"], capsys)
        assert code == 0
        assert f"Example: trimtab steer {action}" in " ".join(said.split())


@pytest.mark.parametrize(
    ("name", "value", "arguments"),
    [
        ("TRIMTAB_RUNS", "~nosuchuser/x", ["runs"]),
        ("TRIMTAB_RUNS", LONG, ["run", "my.yaml"]),
        ("TRIMTAB_RUNS", "loop", ["report", "x"]),
        ("TRIMTAB_RUNS", "file", ["run", "my.yaml"]),
        ("TRIMTAB_RUNS", "/dev/null/x", ["sweep", "my.yaml", "--over", "seed=0"]),
        ("WORLD_SIZE", "x", ["run", "my.yaml"]),
        ("WORLD_SIZE", "-1", ["run", "my.yaml"]),
        ("WORLD_SIZE", "9" * 5000, ["run", "my.yaml"]),
    ],
)
def test_odd_environments(
    name: str, value: str, arguments: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert f"${name}" in refused(arguments, capsys)


def test_a_rank_that_is_no_number_silences_nobody(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in ("x", ""):
        monkeypatch.setenv("RANK", rank)
        assert "recipes" in told(["ls"], capsys)[1]


def test_a_finished_run_is_told_of_from_a_folder_that_is_read_only(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["run", "my.yaml", "--out", "out"]) == 0
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert main(["run", "my.yaml", "--out", "out"]) == 0
    assert "is finished" in capsys.readouterr().err
    assert "may not be written in" in refused(["run", "my.yaml", "--out", "new"], capsys)


def test_a_report_of_a_whole_disk_is_refused_soon(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.runs.folder.MOST_FOLDERS", 3)
    for number in range(5):
        Path(f"folder/{number}").mkdir()
    Path("folder/around").symlink_to(".")
    assert "more than 3 folders in folder" in refused(["report", "folder"], capsys)


def test_hints_name_keys_and_commands(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert for_command("adapter={'r': 16} or requires_grad_()") == "adapter: {r: 16}"
    assert for_command('variant="c"') == "variant: c"
    assert for_command("paired=False") == "paired: false"
    assert for_command("--fit.steps 400") == "--fit.steps 400"
    assert in_message("got a, expected b") == "got a, expected b"

    def fails(*_: object, **__: object) -> None:
        raise ModelError("got 900 tokens, expected at most 512; try max_tokens=512")

    monkeypatch.setattr("trimtab.job.carry_out", fails)
    assert refused(["run", "my.yaml"], capsys).endswith("try max_tokens: 512\n")


def test_what_others_named_moves_no_cursor(fake: Path, capsys: Capture) -> None:
    fake.write_text(
        json.dumps({"system": "coin", "train": {"a\x1b[2J": "x"}, "targets": ["\x9b31m\n", "a\x1b[2J"]})
    )
    code, said = told(["check", "my.yaml"], capsys)
    assert code == 2
    assert not {letter for letter in said if not letter.isprintable()} - {"\n"}


def command(arguments: Sequence[str], **environment: str) -> list[str]:
    return [
        *(["env", *(f"{k}={v}" for k, v in environment.items())]),
        sys.executable,
        "-m",
        "trimtab.cli.main",
        *arguments,
    ]


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("{ls} >&-", 0, ""),
        ("{bad} 2>&-", 2, ""),
        ("{ls} >/dev/full", 2, "No space left on device"),
        ("{bad} 2>/dev/full", 2, ""),
        ("{ascii}", 0, "recipes"),
        ("{narrow}", 0, "usage"),
        ("cd gone && rmdir ../gone && {ls}", 0, "recipes"),
        ("{ls} | head -1", 0, "recipes"),
    ],
)
def test_streams_that_are_closed_full_or_narrow(line: str, code: int, said: str) -> None:
    Path("gone").mkdir()
    text = line.format(
        ls=" ".join(command(["ls"])),
        bad=" ".join(command(["chekc"])),
        ascii=" ".join(command(["ls"], PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")),
        narrow=" ".join(command(["ls", "--help"], COLUMNS="1", HOME="", TERM="dumb")),
    )
    ended = subprocess.run(
        ["sh", "-c", text], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert ended.returncode == code, ended.stderr
    assert said in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
