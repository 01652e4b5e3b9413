"""The command as a whole: help, exit codes, streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trimtab import systems
from trimtab.cli.console import VERBS
from trimtab.cli.main import main

Capture = pytest.CaptureFixture[str]


def test_help_has_every_verb_with_an_example(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert f"  {name} " in told
        assert verb.example in told


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: Capture) -> None:
    assert main([verb, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert VERBS[verb].example in shown
    assert VERBS[verb].what[1:] in shown  # names such as JSON keep their letters


def test_no_verb_and_an_unknown_one(capsys: Capture) -> None:
    assert main([]) == 2
    assert "usage: trimtab VERB" in capsys.readouterr().out
    assert main(["chekc"]) == 2
    assert capsys.readouterr().err.endswith("try 'check'\n")
    assert main(["run"]) == 2
    assert "required: FILE" in capsys.readouterr().err


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("trimtab 0.")


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from trimtab.cli.main import main
main(["--help"])
main(["ls"])
heavy = {"torch", "transformers", "pandas", "matplotlib", "pydantic", "numpy", "rich"} & set(sys.modules)
assert not heavy, heavy
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "trimtab.cli.main", "ls"]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_only_the_first_process_speaks(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["ls"]) == 0
    assert capsys.readouterr().out == ""


def test_ls(capsys: Capture) -> None:
    assert main(["ls"]) == 0
    told = capsys.readouterr().out
    assert "dynamics/quickstart" in told
    assert "arXiv 2605.10770" in told
    assert main(["ls", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert all(recipe["description"] for recipe in listing["recipes"])
    assert [system["name"] for system in listing["systems"]] == list(systems.SYSTEMS)


def test_cp(tmp_path: Path, capsys: Capture) -> None:
    assert main(["cp", "dynamics/quickstart", "deep/own.yaml"]) == 0
    assert capsys.readouterr().out == "deep/own.yaml\n"
    text = (tmp_path / "deep/own.yaml").read_text()
    assert text.startswith("# ")
    assert main(["cp", "dynamics/lora", "deep/own.yaml"]) == 2
    assert "expected a new file; try another name" in capsys.readouterr().err
    assert (tmp_path / "deep/own.yaml").read_text() == text
    assert main(["cp", "dynamics/quickstrat", "b.yaml"]) == 2
    assert "try 'dynamics/quickstart'" in capsys.readouterr().err


def test_doctor(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/entry").write_bytes(b"x" * 2048)
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    for part in ("python ", "torch ", "cores", "threads", "cache      ", "(2 KiB)", "extra      dev: "):
        assert part in told
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["places"]["cache"]["bytes"] == 2048
    assert facts["threads"]["torch"] >= 1
    assert set(facts["extras"]) >= {"dev"}


@pytest.mark.parametrize("verb", [*VERBS, "steer fit", "steer try", "steer nope"])
def test_a_wrong_command_line_is_told_as_json_where_that_is_asked(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main([*verb.split(), "--json", "-@"]) == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["got"]


def test_a_warning_for_users_is_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys, warnings; from trimtab.cli import main as command; "
        "warned = lambda: warnings.warn('mind\\x1b[2J this', stacklevel=1) or 0; "
        "command._dispatch = lambda argv: warned(); sys.exit(command.main(['ls']))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert capfd.readouterr().err == "Warning: mind\\x1b[2J this\n"
