"""`trimtab export`, and what `trimtab run` says at its end, from the command line."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from trimtab import Steering
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.cli.main import main
from trimtab.data.domains import EVALUATE_ONLY, FRACTIONS, read_domain
from trimtab.runs.folder import RunFolder
from worlds import LETTERS, llama, plain_losses, tokenizer

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder with a model, data and a config, in which the tests work."""
    llama().save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    for name in ("math", "web"):
        draw = random.Random(name)
        rows = [{"text": "".join(draw.choices(LETTERS[name], k=60))} for _ in range(300)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fit = {"steps": 4, "batch_size": 4, "seq_len": 16, "lr": 1e-2, "eval_points": 2}
    fit |= {"eval_sequences": 8, "probe_sequences": 4, "test_sequences": 8}
    config = {"system": "dynamics", "model": "base", "train": {"math": "math.jsonl"}, "targets": ["math"]}
    config |= {"evaluate": {"web": "web.jsonl"}, "constraints": {"web": 5.0}, "mixer": {"kind": "uniform"}}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({**config, "fit": fit, "device": "cpu"}))
    return tmp_path


def losses(network: Any) -> dict[str, float]:
    """Test losses by hand on the domains of the config."""
    fractions = {"math": FRACTIONS, "web": EVALUATE_ONLY}
    domains = {name: read_domain(name, f"{name}.jsonl", fractions=each) for name, each in fractions.items()}
    return plain_losses(network, domains)


def reported(run: str) -> dict[str, float]:
    final = FinetuneResult.load(run).final
    return dict(zip(final["domain"], final["loss"], strict=True))


def test_a_run_says_where_its_model_is_and_export_copies_it(there: Path, capsys: Capture) -> None:
    assert main(["run", "my.yaml", "--out", "runs/one"]) == 0
    assert capsys.readouterr().err.endswith("report runs/one/report.html\nmodel runs/one/model\n")
    left = AutoModelForCausalLM.from_pretrained("runs/one/model")
    assert losses(left) == pytest.approx(reported("runs/one"), abs=1e-5)
    assert main(["export", "runs/one", "--out", "mine"]) == 0
    assert capsys.readouterr().out == "mine: a model for transformers, of step 4 of runs/one\n"
    assert 'from_pretrained("mine"' in Path("mine/README.md").read_text()
    assert AutoModelForCausalLM.from_pretrained("mine").dtype == torch.float32
    assert main(["export", "runs/one", "--out", "mine"]) == 2
    assert (
        "where there is something already, expected a new folder or an empty one" in capsys.readouterr().err
    )
    shutil.rmtree("runs/one/model")
    assert main(["run", "my.yaml", "--out", "runs/one"]) == 0
    assert "model: trimtab export runs/one --out DIR makes it of the kept weights" in capsys.readouterr().err
    assert main(["export", "runs/one", "--out", "again", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"folder": "again", "kind": "model", "run": "runs/one", "step": 4}
    assert Path("again/model.safetensors").read_bytes() == Path("mine/model.safetensors").read_bytes()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_is_exported_or_merged(there: Path, capsys: Capture) -> None:
    assert main(["run", "my.yaml", "--out", "one", "--adapter.r", "2", "--fit.lr", "0.1"]) == 0
    left = AutoPeftModelForCausalLM.from_pretrained("one/model")
    assert losses(left) == pytest.approx(reported("one"), abs=1e-5)
    assert main(["export", "one", "--out", "adapter"]) == 0
    assert "adapter: an adapter for peft" in capsys.readouterr().out
    assert main(["export", "one", "--merge", "--out", "whole"]) == 0
    assert "whole: a model for transformers" in capsys.readouterr().out
    assert losses(AutoModelForCausalLM.from_pretrained("whole")) == pytest.approx(reported("one"), abs=1e-5)


def test_an_infeasible_run_ends_with_1_and_says_why(there: Path, capsys: Capture) -> None:
    assert main(["run", "my.yaml", "--out", "one", "--constraints.web", "0"]) == 1
    out, err = capsys.readouterr()
    assert "The nearest miss: web +" in out
    assert "Try training on web, too, a larger tolerance or a lower lr." in out
    assert "no model is written" in out
    assert "\nmodel" not in err
    assert not Path("one/model").exists()
    assert main(["resume", "one"]) == 1
    assert main(["export", "one", "--out", "x"]) == 2
    assert (
        "which is infeasible and returned the base weights, expected a run with tuned"
        in capsys.readouterr().err
    )
    assert main(["run", "--help"]) == 0
    assert "Exit code 1: a stated criterion failed." in " ".join(capsys.readouterr().out.split())


def test_a_run_of_steering_gives_its_steering(there: Path, capsys: Capture) -> None:
    for name, text in (("rude", "ab cd {}"), ("polite", "efg {} h")):
        Path(f"{name}.txt").write_text("\n".join(text.format(c) for c in "abcdefghijkl"))
    config = {"system": "steering", "model": "base", "source": "rude.txt", "target": "polite.txt"}
    config |= {"estimator": {"kind": "mean-act", "sites": "mlp_out"}, "examples": 4, "held_out": 6}
    Path("steer.yaml").write_text(yaml.safe_dump({**config, "strengths": [0, 1], "device": "cpu"}))
    assert main(["steer", "fit", "steer.yaml", "--out", "one"]) == 0
    capsys.readouterr()
    assert main(["export", "one", "--out", "steering"]) == 0
    assert capsys.readouterr().out == "steering: a steering\n"
    assert Steering.from_pretrained("steering").maps
    assert main(["export", "one", "--merge", "--out", "x"]) == 2
    assert "try trimtab steer fuse one MODEL --out x" in capsys.readouterr().err


def test_what_leaves_no_model_says_so(there: Path, capsys: Capture) -> None:
    with RunFolder.create_or_open("law", {"system": "forgetting"}):
        pass
    with RunFolder.create_or_open("steered", {"system": "steering"}):
        pass
    for run, message in (
        (
            "law",
            "got law, a run of forgetting, which leaves no model, expected a run of fine-tuning, "
            "of steering or of discritune",
        ),
        (
            "steered",
            "got steered, which has not finished, expected a finished run; try trimtab resume steered",
        ),
        ("base", "got base, which is no run, expected the folder of one run, or of a group"),
        ("nothing", "got no folder 'nothing' here, and no run of that name in "),
    ):
        assert main(["export", run, "--out", "x"]) == 2
        assert message in capsys.readouterr().err
    assert not Path("x").exists()
