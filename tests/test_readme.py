"""The README: short, its snippets run as printed, and every number in it comes from a result file."""

from __future__ import annotations

import json
import random
import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from trimtab.cli.main import main
from worlds import saved_model

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
SHELL = [text for kind, text in BLOCKS if not kind]
GENERATED = runpy.run_path(str(ROOT / "benchmarks" / "readme.py"))


def lines(letters: str, n: int, seed: int) -> list[str]:
    random.seed(seed)
    return ["".join(random.choices(letters, k=80)) for _ in range(n)]


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the model and the files that the README names."""
    monkeypatch.chdir(tmp_path)
    saved_model("my-model")
    for seed, name in enumerate(("math", "web")):
        rows = [json.dumps({"text": line}) for line in lines(f"{name} 0123456789", 600, seed)]
        Path(f"{name}.jsonl").write_text("\n".join(rows))
    Path("code").mkdir()
    for k in range(60):
        Path(f"code/{k}.py").write_text("\n".join(lines("code()=", 3, 10 + k)))
    return tmp_path


@pytest.mark.slow
def test_the_example_runs_as_printed_and_ends_with_a_saved_model(
    somewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a tenth of the steps."""
    (snippet,) = PYTHON
    assert snippet.count("steps=200") == 1
    exec(compile(snippet.replace("steps=200", "steps=20"), "README.md", "exec"), {})
    assert "math" in capsys.readouterr().out
    assert (somewhere / "mine.html").stat().st_size > 10_000
    before, after = (
        AutoModelForCausalLM.from_pretrained(somewhere / name) for name in ("my-model", "my-model-tuned")
    )
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert all(moved)


@pytest.mark.slow
@pytest.mark.usefixtures("small_scenes")
def test_the_commands_run_as_printed(somewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the paths edited, as the README says, and fewer steps; of the leak audit only the check."""
    block = next(text for text in SHELL if "trimtab cp" in text)
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert all(command[0] == "trimtab" for command in commands)
    for command in commands:
        if command[1:3] == ["run", "leaks/quickstart"]:  # trains a model of the lab first
            command[1] = "check"
        fewer = FEWER if command[1:3] == ["run", "discritune/quickstart"] else []
        assert main([*command[1:], *fewer]) == 0, (command, capsys.readouterr().err)
        if command[1] == "cp":
            edit(Path(command[-1]))
    assert (somewhere / "page.html").stat().st_size > 10_000


FEWER = shlex.split("--steps 2 --evaluate_every 1 --checkpoint_every 1 --test_pictures 40 --watched 10")


def edit(config: Path) -> None:
    text = config.read_text()
    assert "path/to" in text
    config.write_text(OWN)


OWN = """
system: dynamics
model: my-model
train: {math: math.jsonl, web: web.jsonl}
evaluate: {code: code/*.py}
targets: [math]
constraints: {web: 0.02, code: 0.05}
mixer: {kind: dynamics}
fit: {steps: 8, batch_size: 4, seq_len: 64, eval_sequences: 8, probe_sequences: 4, test_sequences: 8, eval_points: 2}
"""


def test_it_is_short() -> None:
    prose = re.sub(r"```.*?```|<!--.*?-->|\(http[^)]*\)", " ", README, flags=re.DOTALL)
    assert len(re.findall(r"\w[\w'-]*", prose)) <= 1000


def test_what_held_is_what_the_result_files_say() -> None:
    start, end = GENERATED["MARKS"]
    assert README.partition(start)[2].partition(end)[0] == GENERATED["table"]()


def test_no_number_stands_there_that_no_result_file_holds() -> None:
    start, end = GENERATED["MARKS"]
    typed = README.partition(start)[0] + README.partition(end)[2]
    typed = re.sub(r"```.*?```", " ", typed, flags=re.DOTALL)
    typed = re.sub(r"arXiv \d{4}\.\d{5}|Python 3\.11|Apache-2\.0", " ", typed)
    assert not re.findall(r"\d", typed)
    words = r"\b(?:twice|half|double|two thirds|a third|fast(?:er|est)|slow(?:er|est)|times as)\b"
    assert not re.findall(words, typed)
