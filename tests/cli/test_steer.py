"""`trimtab steer`: fit, try, sweep and fuse from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from tiny_models import build, tokenizer
from trimtab import Steering, load
from trimtab.cli.main import main


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
            r"strength: got 2.0, expected numbers in \[0, 1\]",
        ),
        (
            ["steer", "sweep", "run", "model", "--source", "rude.txt", "--target", "no.txt", "--texts", "4"],
            "no.txt",
        ),
        (
            ["steer", "sweep", "run", "model", "--source", "rude.txt", "--target", "polite.txt"],
            "source: got 12 different texts in rude.txt, expected 64",
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


def test_a_dynamics_config_is_no_steering(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steer", "fit", "dynamics/quickstart"]) == 2
    assert "train" in capsys.readouterr().err
