"""`trimtab schema` and `trimtab completion`: what editors and shells complete."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.console import VERBS
from trimtab.cli.main import main
from trimtab.runs.config import dotted_keys
from trimtab.runs.files import load_yaml
from trimtab.runs.schema import DRAFT, keys
from trimtab.systems import SYSTEMS, recipes

Capture = pytest.CaptureFixture[str]


def schema_of(capsys: Capture, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["schema", *arguments]) == 0
    schema: dict[str, Any] = json.loads(capsys.readouterr().out)
    return schema


def test_the_schema_has_every_key_with_its_words(capsys: Capture) -> None:
    schema = schema_of(capsys, "dynamics")
    assert schema["$schema"] == DRAFT
    assert schema["additionalProperties"] is False
    assert {"system", "model", "train", "targets"} <= set(schema["required"])
    steps = schema["properties"]["fit"]["properties"]["steps"]
    assert steps["type"] == "integer"
    assert steps["description"]
    mixers = schema["properties"]["mixer"]["anyOf"]
    assert all("kind" in mixer["required"] for mixer in mixers)
    assert {"dynamics", "feedback"} <= {mixer["properties"]["kind"]["enum"][0] for mixer in mixers}
    assert len(schema_of(capsys)["oneOf"]) == len(SYSTEMS)


@pytest.mark.parametrize("system", SYSTEMS)
def test_keys_are_those_that_a_file_can_hold(system: str, capsys: Capture) -> None:
    assert main(["schema", system, "--keys"]) == 0
    told = capsys.readouterr().out
    assert "<class" not in told
    assert ".tokenizer" not in told  # a loaded model is for Python alone
    dotted = {key.partition("[")[0] for key, _, _ in keys(SYSTEMS[system].job_class())}
    assert dotted <= set(dotted_keys(SYSTEMS[system].job_class()))


def test_every_recipe_is_valid_and_mistakes_are_not(capsys: Capture) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the extra dev")
    every = schema_of(capsys)
    jsonschema.Draft202012Validator.check_schema(every)
    validator = jsonschema.Draft202012Validator(every)
    for recipe in recipes().values():
        content = load_yaml(recipe.path.read_text(encoding="utf-8"))
        assert not list(validator.iter_errors(content)), recipe.name
        own = jsonschema.Draft202012Validator(schema_of(capsys, content["system"]))
        assert own.is_valid(content)
        assert not own.is_valid({**content, "stepz": 1})
        assert not own.is_valid({**content, "seed": "one"})
        assert not own.is_valid({key: value for key, value in content.items() if key != "system"})
    content = load_yaml(recipes()["dynamics/quickstart"].path.read_text(encoding="utf-8"))
    own = jsonschema.Draft202012Validator(schema_of(capsys, "dynamics"))
    for wrong in ({"fit": {"stepz": 3}}, {"mixer": {"kind": "dynamix"}}, {"mixer": {}}, {"targets": "math"}):
        assert not own.is_valid({**content, **wrong}), wrong


def test_keys_are_listed_with_what_they_take(capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["schema", "dynamics", "--keys"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("fit.steps")
    assert lines[at + 1] == "    a whole number"
    assert "mixer[dynamics].probes" in lines
    named = [key for key, _, _ in keys(SYSTEMS["dynamics"].job_class())]
    assert len(named) == len(set(named))


def test_an_unknown_system_names_the_nearest(capsys: Capture) -> None:
    assert main(["schema", "dynamic"]) == 2
    assert "try 'dynamics'" in capsys.readouterr().err
    assert main(["completion", "tcsh"]) == 2


def script(capsys: Capture, shell: str) -> str:
    capsys.readouterr()
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_verb_and_recipe_is_in_the_script(capsys: Capture, shell: str) -> None:
    text = script(capsys, shell)
    assert all(word in text for word in (*VERBS, *recipes(), *SYSTEMS))
    assert "fit.steps" in text
    assert "max-rise" in text


def test_bash_completes_verbs_options_recipes_runs_and_keys(capsys: Capture, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    (tmp_path / "runs" / "my-run-1").mkdir(parents=True)
    ask = """
    ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _trimtab; echo "${COMPREPLY[*]}"; }
    ask trimtab re; ask trimtab run dynamics/q; ask trimtab run my.yaml --fit.step; ask trimtab resume my-
    ask trimtab steer tr; ask trimtab steer try --str
    """
    done = subprocess.run(
        [bash, "-c", script(capsys, "bash") + ask], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    told = [line.split() for line in done.stdout.splitlines()]
    assert done.stderr == ""
    assert told == [
        ["resume", "report"],
        ["dynamics/quickstart"],
        ["--fit.steps"],
        ["my-run-1"],
        ["try"],
        ["--strengths"],
    ]


def test_bash_takes_no_name_of_a_run_or_a_file_as_a_command(capsys: Capture, tmp_path: Path) -> None:
    """`compgen -W` would expand them, and what is completed is read again by the shell."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    for name in ("$(touch broken-1)", "`touch broken-2`", "a b", "x;touch broken-3"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "my $(touch broken-4).yaml").touch()
    ask = """
    ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _trimtab; printf '%s\\n' "${COMPREPLY[@]}"; }
    ask trimtab resume ""; ask trimtab export ""; ask trimtab run my; ask trimtab report a
    """
    command = [bash, "-c", script(capsys, "bash") + ask]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.count(r"\$\(touch\ broken-1\)") == done.stdout.count(r"\`touch\ broken-2\`") == 2
    assert done.stdout.splitlines()[-2:] == [r"my\ \$\(touch\ broken-4\).yaml", r"a\ b"]
    assert not list(tmp_path.glob("broken*"))
