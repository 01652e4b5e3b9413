"""`trimtab steer`: fit, try, sweep and fuse from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from templates import DEFAULT_SYSTEM
from tiny_models import CHAT, build, chat_tokenizer, tokenizer
from trimtab import Steering, load
from trimtab.cli.main import main
from trimtab.cli.steer import find_steering
from trimtab.errors import CheckpointError
from trimtab.runs.config import read_config
from trimtab.steer.lineas import job, on_disk
from trimtab.steer.samples import TextPool


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, texts and a config."""
    monkeypatch.chdir(tmp_path)
    build("gpt2").save_pretrained(tmp_path / "model")
    tokenizer(pad_token="<unk>").save_pretrained(tmp_path / "model")
    for name, text in (("rude", "you fool {}"), ("polite", "dear {} please"), ("neutral", "some {} words")):
        (tmp_path / f"{name}.txt").write_text("\n".join(text.format(c) for c in "abcdefghijkl"))
    config = {
        "system": "steering",
        "model": "model",
        "source": "rude.txt",
        "target": "polite.txt",
        "neutral": "neutral.txt",
        "estimator": {"kind": "mean-act", "sites": "mlp_out"},
        "examples": 4,
        "held_out": 6,
        "prompts": ["you"],
        "strengths": [0, 1],
        "device": "cpu",
    }
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


@pytest.fixture
def fitted(there: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["steer", "fit", "my.yaml", "--out", "run"]) == 0
    capsys.readouterr()
    return there


def test_fit_is_a_run(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steer", "fit", "my.yaml", "--out", "run", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [row["strength"] for row in json.loads(out)["curve"]] == [0, 1]
    assert "report run/report.html" in err
    assert main(["report", "run", "-o", "page.html"]) == 0
    assert "<svg" in (there / "page.html").read_text()


def test_try_writes_completions_at_each_strength(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "steer",
        "try",
        "run",
        "model",
        "you",
        "dear",
        "--strengths",
        "0,1",
        "--max-new-tokens",
        "5",
        "--json",
    ]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["prompt"], row["strength"]) for row in rows] == [
        ("you", 0),
        ("dear", 0),
        ("you", 1),
        ("dear", 1),
    ]
    model = load("model", device="cpu")
    assert [row["text"] for row in rows[:2]] == model.generate(["you", "dear"], max_new_tokens=5)
    with Steering.from_pretrained("run/artifacts/steering").on(model):
        assert [row["text"] for row in rows[2:]] == model.generate(["you", "dear"], max_new_tokens=5)


def test_sweep_measures_and_keeps_a_budget(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--source", "rude.txt", "--target", "polite.txt", "--neutral", "neutral.txt", "--texts", "8"]
    assert (
        main(["steer", "sweep", "run", "model", *files, "--strengths", "0,1", "--budget", "1e-9", "--json"])
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["curve"][0]["lean"] == 0
    assert told["curve"][1]["kl"] > 0
    assert told["strength_within_budget"] == 0
    assert main(["steer", "sweep", "run", "model", *files, "--budget", "1e9"]) == 0
    assert "largest strength within 1e+09 nats: 1.000" in capsys.readouterr().out


def test_sweep_leaves_out_what_a_run_was_fitted_with(
    fitted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, drawn = on_disk.read_examples, dict[str, set[Any]]()

    def noted(source: Any, name: str, *given: Any, **more: Any) -> TextPool:
        pool = read(source, name, *given, **more)
        drawn.setdefault(name, set()).update(pool.held_out if given[0] == 0 else ())
        return pool

    monkeypatch.setattr(on_disk, "read_examples", noted)
    config = read_config(yaml.safe_load((fitted / "run" / "config.yaml").read_text()), job.SteeringConfig)
    used = {name: set(side.fit) for name, side in job.examples_of(config).items()}
    drawn.clear()
    files = ["--source", "rude.txt", "--target", "polite.txt", "--texts", str(12 - config.examples)]
    assert main(["steer", "sweep", "run", "model", *files, "--strengths", "0"]) == 0
    for name in ("source", "target"):
        assert len(used[name]) == config.examples
        assert drawn[name].isdisjoint(used[name])
        assert len(drawn[name]) == 12 - config.examples
    (fitted / "rude.txt").rename(fitted / "elsewhere.txt")
    files[1] = "elsewhere.txt"
    with pytest.warns(UserWarning, match="may be among what it was fitted with"):
        assert main(["steer", "sweep", "run", "model", *files, "--strengths", "0"]) == 0


def test_fuse_writes_a_plain_checkpoint(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steer", "fuse", "run", "model", "--out", "fused", "--strength", "0.5"]) == 0
    assert "fused: a plain checkpoint" in capsys.readouterr().out
    plain, model = AutoModelForCausalLM.from_pretrained("fused"), load("model", device="cpu")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        with Steering.from_pretrained("run/artifacts/steering").on(model, 0.5):
            expected = model.module(input_ids=ids).logits
        torch.testing.assert_close(plain(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["steer", "try", "nothing", "model", "x"], "nothing"),
        (["steer", "try", "run", "no-model/x/y", "x"], "no-model"),
        (["steer", "try", "run", "lab:gramar", "x"], "try 'lab:grammar'|try lab:grammar"),
        (
            ["steer", "try", "run", "model", "x", "--strengths", "2"],
            r"--strengths: got 2, expected numbers in \[0, 1\]",
        ),
        (
            ["steer", "sweep", "run", "model", "--source", "rude.txt", "--target", "no.txt", "--texts", "4"],
            "no.txt",
        ),
        (
            ["steer", "sweep", "run", "model", "--source", "rude.txt", "--target", "polite.txt"],
            "source: got 8 different texts in rude.txt beside 4 .* fitted with, expected 64; try fewer of each",
        ),
        (
            [
                "steer",
                "sweep",
                "run",
                "model",
                "--source",
                "rude.txt",
                "--target",
                "polite.txt",
                "--budget",
                "1",
            ],
            "--budget: got no neutral texts, expected --neutral FILE",
        ),
        (["steer", "fuse", "run", "model", "--out", "model"], "model"),
    ],
)
def test_bad_input_is_told_in_one_line(
    fitted: Path, capsys: pytest.CaptureFixture[str], command: list[str], message: str
) -> None:
    assert main(command) == 2
    err = capsys.readouterr().err
    assert re.search(message, err), err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("command", "messages"),
    [
        (["try", "run", "no", "x", "--max-new-tokens", "0"], ["--max-new-tokens: got 0, expected at least 1"]),
        (["try", "run", "no", "x", "--strengths", "0,-1"], ["--strengths: got -1, expected numbers in [0, 1]"]),
        (["fuse", "run", "no", "--out", "o", "--strength", "nan"], ["--strength: got nan, expected a number in"]),
        (
            ["sweep", "run", "no", "--source", "rude.txt", "--target", "no.txt", "--texts", "1",
             "--budget", "0", "--max-strength", "inf"],
            [
                "--texts: got 1, expected at least 2",
                "--budget: got 0, expected a number above 0",
                "--max-strength: got inf, expected a number above 0",
                "--budget: got no neutral texts, expected --neutral FILE",
                "--target: got 'no.txt', expected a file or a glob of texts",
            ],
        ),
        (
            ["sweep", "run", "no", "--source", "rude.txt", "--target", "polite.txt", "--columns", "sharegtp"],
            ["--columns: got 'sharegtp', expected 'sharegpt', 'alpaca', or a mapping of our keys to theirs; try"],
        ),
        (["try", "runs/run", "no", "x"], ["got no folder 'runs/run' here, and no run of that name in "]),
        (["try", "./run2", "no", "x"], ["got no folder './run2', expected the folder or name of a steering or a run"]),
        (["try", "rum", "no", "x"], ["expected the folder or name of a steering or a run, or a hub name (owner/name)"]),
        (["try", "", "no", "x"], ["run: got '', expected the folder or name of a steering"]),
    ],
)  # fmt: skip
def test_bad_arguments_are_told_before_a_model_is_loaded(
    fitted: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    messages: list[str],
) -> None:
    monkeypatch.setattr("trimtab.steer.lineas.job.load", lambda *_: 1 / 0)
    (fitted / "runs").mkdir()
    assert main(["steer", *command]) == 2
    err = capsys.readouterr().err
    assert all(message in err for message in messages), err
    assert err.count("trimtab: ") == len(messages)


def test_a_hub_name_is_taken_as_one_where_no_folder_has_its_owner(fitted: Path) -> None:
    assert find_steering("somebody/calm") == "somebody/calm"
    (fitted / "somebody").mkdir()
    with pytest.raises(CheckpointError, match=r"got no folder 'somebody/calm'"):
        find_steering("somebody/calm")


def test_runs_go_by_their_names(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steer", "fit", "my.yaml"]) == 0
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert "my-1" in capsys.readouterr().out
    assert main(["steer", "try", "my-1", "model", "you", "--json"]) == 0
    assert main(["steer", "fuse", "my-1", "model", "--out", "fused"]) == 0
    assert find_steering("my-1") == str(there / "runs" / "my-1")


@pytest.mark.parametrize("action", ["fit", "try", "sweep", "fuse"])
def test_each_action_says_what_it_does_with_an_example(
    action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["steer", action, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: trimtab steer {action} ")
    assert lines[lines.index("") + 1].endswith(".")
    assert any(line.startswith(f"Example: trimtab steer {action} ") for line in lines)


# Chats


@pytest.fixture
def chats(there: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The same with a chat model, conversations in two layouts, and prompts of both kinds."""
    build("llama", **CHAT).save_pretrained(there / "model")
    chat_tokenizer(DEFAULT_SYSTEM).save_pretrained(there / "model")
    for name, answer in (("rude", "you fool {}"), ("polite", "dear {} please"), ("neutral", "some {} words")):
        rows = [{"instruction": f"Is {c} here?", "output": answer.format(c)} for c in "abcdefghijkl"]
        (there / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = yaml.safe_load((there / "my.yaml").read_text())
    for name, file in (("source", "rude"), ("target", "polite"), ("neutral", "neutral")):
        config[name] = {"path": f"{file}.jsonl", "columns": "alpaca"}
    hi = [{"role": "user", "content": "Hi"}]
    config["prompts"] = ["Hi", hi, {"messages": hi, "chat_template_kwargs": {"x": 1}}]
    (there / "my.yaml").write_text(yaml.safe_dump(config))
    assert main(["steer", "fit", "my.yaml", "--out", "run", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["samples"]
    assert [row["prompt"] for row in rows[:3]] == ["Hi", "user: Hi", "user: Hi"]
    return there


def test_try_as_a_user_of_a_chat_model_says_it(chats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["steer", "try", "run", "model", "Hi", "--max-new-tokens", "5", "--strengths", "0"]
    model, hi = load("model", device="cpu"), {"role": "user", "content": "Hi"}
    kind = {"role": "system", "content": "Be kind."}
    for more, prompt in (
        (["--chat"], [hi]),
        (["--system-prompt", "Be kind."], [kind, hi]),
        (["--chat", "--system-prompt", "Be kind."], [kind, hi]),
        ([], "Hi"),
    ):
        assert main([*command, *more, "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row["text"] == model.generate([prompt], max_new_tokens=5)[0]
    assert main([*command, "--system-prompt", "Be kind."]) == 0
    assert "'system: Be kind.\\nuser: Hi'" in capsys.readouterr().out


def test_sweep_over_files_of_chats(chats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--source", "rude.jsonl", "--target", "polite.jsonl", "--neutral", "neutral.jsonl"]
    command = ["steer", "sweep", "run", "model", *files, "--texts", "8", "--strengths", "0,1", "--json"]
    assert main([*command, "--columns", "alpaca"]) == 0
    curve = json.loads(capsys.readouterr().out)["curve"]
    assert curve[1]["kl"] > curve[0]["kl"] == 0
    assert main([*command, "--columns", "{text: output}"]) == 0
    assert json.loads(capsys.readouterr().out)["curve"] != curve
    assert main(command) == 2
    assert "rude.jsonl:1: got a mapping with 'instruction', 'output', " in (err := capsys.readouterr().err)
    assert "try columns: alpaca" in err


def test_a_dynamics_config_is_no_steering(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steer", "fit", "dynamics/quickstart"]) == 2
    assert "train" in capsys.readouterr().err
