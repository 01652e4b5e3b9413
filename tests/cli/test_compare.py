"""`trimtab compare`: checkpoints, an adapter or a steering on the domains of a file, with exit codes for pipelines."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import compare_worlds as cw
import tiny_models
from trimtab import Steering, load
from trimtab.cli.main import main
from trimtab.models.sites import resolve
from trimtab.steer.maps import Base
from worlds import tokenizer

Capture = pytest.CaptureFixture[str]
FEW = ["--sequences", "20", "--batch_size", "16"]


@pytest.fixture(autouse=True)
def world(tmp_path: Path, undrawn: None) -> None:
    """Models and domains in the folder of the fake config: one is worse on the domain `bad`, and there alone."""
    base = cw.base()
    base.save_pretrained("base")
    cw.worse_on(base, cw.ALPHABETS[0], 0.2).save_pretrained("tuned")
    for name, letters in (("bad", cw.ALPHABETS[0]), ("same", cw.ALPHABETS[1])):
        lines = [json.dumps({"text": text}) for text in cw.texts(letters, 20)]
        Path(f"{name}.jsonl").write_text("\n".join(lines))
    Path("domains.yaml").write_text(
        "bad: {path: bad.jsonl, tolerance: 0.1}\nsame: {path: same.jsonl, tolerance: 0}\n"
    )


def compared(capsys: Capture, *words: str) -> tuple[int, Any]:
    code = main(["compare", *words, "--domains", "domains.yaml", "--json", *FEW])
    return code, json.loads(capsys.readouterr().out)


def test_a_broken_tolerance_ends_with_one(capsys: Capture) -> None:
    command = ["compare", "base", "tuned", "--domains", "domains.yaml", "--out", "r", *FEW]
    assert main(command) == 1
    streams = capsys.readouterr()
    lines = streams.out.splitlines()
    assert re.fullmatch(r"bad +loss +0\.1\d+ +\+0\.\d+ to \+0\.\d+ +0\.1 +20 +broken +worse", lines[1])
    assert re.fullmatch(r"same +loss +0 +0\.000 to 0\.000 +0 +20 +kept +no", lines[2])
    assert "Tolerance broken: bad. Tolerance kept: same." in streams.out
    assert streams.err.splitlines()[-1] == "report r/report.html"
    assert Path("r/report.html").is_file()
    assert json.loads(Path("r/run.json").read_text())["status"] == "done"
    assert main([*command, "--json"]) == 1
    streams = capsys.readouterr()
    assert "run r is finished" in streams.err
    assert [row["verdict"] for row in json.loads(streams.out)["changes"]] == ["broken", "kept"]
    assert main(["resume", "r"]) == 1
    assert main(["report", "r", "-o", "again.html"]) == 0
    assert Path("again.html").is_file()


def test_a_finished_comparison_does_not_answer_for_a_model_or_file_that_came_later(capsys: Capture) -> None:
    command = ["compare", "base", "new", "--domains", "domains.yaml", "--out", "new/compared", *FEW]
    shutil.copytree("base", "new")
    assert main(command) == 0
    assert main(command) == 0  # its own page is no part of the model
    for change in (lambda: shutil.copytree("tuned", "new", dirs_exist_ok=True), Path("same.jsonl").touch):
        change()
        assert main(command) == 2
        assert re.search(r"--out: got a comparison that is older than \S+, expected", capsys.readouterr().err)
        shutil.rmtree("new/compared")
        assert main(command) == 1


def test_kept_and_open_tolerances_end_with_zero(capsys: Capture) -> None:
    code, told = compared(capsys, "base", "base")
    assert code == 0
    assert {(row["change"], row["verdict"]) for row in told["changes"]} == {(0.0, "kept")}
    Path("domains.yaml").write_text("bad: {path: bad.jsonl, tolerance: 0.185}\n")
    code, told = compared(capsys, "base", "tuned")
    assert (code, told["changes"][0]["verdict"]) == (0, "open")
    Path("domains.yaml").write_text("bad: bad.jsonl\n")
    code, told = compared(capsys, "base", "tuned")
    assert (code, told["changes"][0]["verdict"], told["changes"][0]["shown"]) == (0, None, "worse")


@pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning")
def test_an_adapter(capsys: Capture) -> None:
    adapted = load(cw.base().module, tokenizer=tokenizer(), adapter={"r": 2, "targets": ["up_proj"]})
    with torch.no_grad():
        for weight in adapted.trainable().values():
            weight += 0.3
    adapted.save_pretrained("adapter")
    code, told = compared(capsys, "base", "adapter")
    assert code in (0, 1)
    assert told["facts"]["adapter"] == "default (LORA) on 1 layers"
    config = json.loads(Path("adapter/adapter_config.json").read_text())
    Path("adapter/adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "owner/other"})
    )
    told = compared(capsys, "base", "adapter")[1]
    assert "The adapter names other as its base model; here it is on base." in told["notes"]
    assert {row["name"] for row in told["weights"] if row["changed"]} == {"model.layers.0.mlp.up_proj.weight"}
    Path("adapter/adapter_model.safetensors").unlink()
    assert main(["compare", "base", "adapter", "--domains", "domains.yaml"]) == 2
    assert (
        "no adapter_model.safetensors in adapter, expected the adapter's weights" in capsys.readouterr().err
    )


def save_steering(folder: str) -> None:
    base = load("base")
    sites = resolve(base.module, "residual")
    maps = {site.name: (torch.ones(24), torch.full((24,), 0.3)) for site in sites}
    Steering(maps, Base.of(base, sites)).save_pretrained(folder)


def test_a_steering_and_a_run_that_left_one(capsys: Capture) -> None:
    save_steering("calm")
    code, told = compared(capsys, "base", "calm", "--out", "r")
    assert code in (0, 1)
    assert told["facts"]["sites"] == ["model.layers.0:out"]
    assert all(row["kl"] > 0 for row in told["predictions"])
    assert main(["resume", "r"]) == 2
    assert (
        "tuned: got 'calm', a steering, expected a model or an adapter; try trimtab compare"
        in capsys.readouterr().err
    )
    assert main(["compare", "base", "calm", "--domains", "domains.yaml", "--out", "r", *FEW]) == code
    assert "run r is finished" in capsys.readouterr().err
    Path("runs/steered/artifacts").mkdir(parents=True)
    Path("runs/steered/run.json").write_text("{}")
    assert main(["compare", "base", "steered", "--domains", "domains.yaml"]) == 2
    assert (
        "the run 'steered', which has no folder model, expected a run that left a model"
        in capsys.readouterr().err
    )
    shutil.copytree("calm", "runs/steered/artifacts/steering")
    assert compared(capsys, "base", "steered")[1]["changes"] == told["changes"]
    shutil.copytree("tuned", "runs/steered/model")
    assert compared(capsys, "base", "runs/steered")[1]["facts"]["tuned"] == "steered"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("base tuned --domains no.yaml", "--domains: got 'no.yaml', expected a YAML file of domains"),
        (
            "bse tuned --domains domains.yaml",
            "base: got 'bse', expected a folder with a config.json, .*; try base",
        ),
        (
            "base bert --domains domains.yaml",
            "got bert, which is BertModel, expected a causal language model",
        ),
        (
            "base tuned --domains domains.yaml --sequences 1",
            "sequences: got 1, expected a whole number of at least 2",
        ),
        (
            "base tuned --domains domains.yaml --sequence 9",
            "sequence: got an unknown key, .* try 'sequences'",
        ),
        ("base tuned --domains empty.yaml", "domains: got none, expected at least one"),
        (
            "~nobody-here/x tuned --domains domains.yaml",
            "base: got '~nobody-here/x' .no such user., expected a folder",
        ),
        (
            "base ~nobody-here/x --domains domains.yaml",
            "tuned: got '~nobody-here/x' .no such user., expected a folder",
        ),
        (
            "base tuned --domains ~nobody-here/x",
            "--domains: got '~nobody-here/x' .no such user., expected a YAML",
        ),
        ("lab:bse tuned --domains domains.yaml", "base: got 'lab:bse', expected one of lab:"),
        ("base tuned", "the following arguments are required: --domains"),
    ],
)
def test_bad_input_ends_with_two(words: str, message: str, capsys: Capture) -> None:
    load(tiny_models.build("bert"), tokenizer=tiny_models.tokenizer()).save_pretrained("bert")
    Path("empty.yaml").write_text("{}\n")
    assert main(["compare", *words.split()]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_every_mistake_in_a_domains_file_is_told_at_once(capsys: Capture) -> None:
    Path("domains.yaml").write_text(
        "a: {path: nowhere.jsonl, tolerance: -1}\nb: {path: bad.jsonl, tolerence: 1}\n"
        "c: {path: bad.jsonl, task: exactly}\nd: {path: bad.jsonl, points: 3}\n"
    )
    assert main(["compare", "base", "tuned", "--domains", "domains.yaml"]) == 2
    told = capsys.readouterr().err
    for message in (
        "domains.a.path: got 'nowhere.jsonl', expected a file",
        "domains.a.tolerance: got -1.0, expected a number of at least 0",
        "domains.b.tolerence: got an unknown key, .*; try 'tolerance'",
        "domains.c.task: got 'exactly', expected .*exact",
        "domains.d.points: got it without a task",
    ):
        assert re.search(message, told), (message, told)


def test_check_tells_which_record_is_no_task(capsys: Capture) -> None:
    lines = ['{"prompt": "a", "completion": "b"}'] * 9 + ['{"text": "c"}']
    Path("sums.jsonl").write_text("\n".join(lines))
    Path("c.yaml").write_text(
        "system: compare\nbase: base\ntuned: tuned\ndomains:\n  sums: {path: sums.jsonl, task: exact}\n"
    )
    assert main(["check", "c.yaml"]) == 2
    assert re.search(r"domains.sums, record 9\n +got +a text", capsys.readouterr().out)
    assert main(["run", "c.yaml"]) == 2
    assert "record 9: got a text, expected 'prompt' and 'completion'" in capsys.readouterr().err


def test_help_is_fast_and_tells_the_exit_codes(capsys: Capture) -> None:
    start = time.perf_counter()
    assert main(["compare", "--help"]) == 0
    assert time.perf_counter() - start < 0.5
    assert "Exit code 1: a tolerance is broken" in capsys.readouterr().out


def test_a_config_says_the_same(capsys: Capture) -> None:
    Path("c.yaml").write_text(
        "system: compare\nbase: base\ntuned: tuned\nsequences: 20\nbatch_size: 16\ndomains: {bad: bad.jsonl}\n"
    )
    assert main(["check", "c.yaml"]) == 0
    told = capsys.readouterr().out
    assert "sequences  20" in told
    assert re.search(r"bad +20 +20 +-", told)
    assert main(["run", "c.yaml", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["changes"][0]["shown"] == "worse"
