"""The config of a run from Python: where its data came from, adapter, type, and what open settings came to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from datasets import Dataset, DatasetInfo
from peft import LoraConfig

from trimtab import Domain, DynaMiCS, Feedback, Fit, Uniform, finetune, load
from trimtab.adapt.call import LATER, adapter_settings, described, dtype_of, settled
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.data.domains import Origin
from trimtab.data.splits import Given
from trimtab.errors import CheckpointError
from worlds import QUICK, domain, llama, model, texts, tokenizer

FIT = Fit(**{**vars(QUICK), "steps": 2, "eval_points": 1})
MIXER = Uniform(targets=["math"])


def config_of(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    return read


def sources(folder: Path) -> dict[str, Any]:
    """The same domain from a file, an origin, a table and objects."""
    rows = [{"text": text} for text in texts("math", "train", 400)]
    (folder / "math.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "math": folder / "math.jsonl",
        "code": Origin(str(folder / "math.jsonl"), overlap="drop"),
        "web": pd.DataFrame(rows),
        "facts": domain("facts"),
        "safety": Domain.from_jsonl("safety", folder / "math.jsonl"),
    }


@pytest.mark.filterwarnings("ignore:Data. .* of .* (too|repeat|trained on)")
def test_each_domain_says_where_its_data_came_from(tmp_path: Path) -> None:
    given = sources(tmp_path)
    result = finetune(model(), train=given, mixer=MIXER, fit=FIT, out=tmp_path / "run")
    config = config_of(tmp_path / "run")
    assert result.config == config
    assert config["train"] == list(given)
    data = config["data"]
    file = str(tmp_path / "math.jsonl")
    assert data["math"]["path"] == file
    assert (data["code"]["path"], data["code"]["overlap"]) == (file, "drop")
    assert data["web"]["splits"]["test"]["in memory"] == "DataFrame"
    assert data["facts"]["splits"]["train"] == {"in memory": "list"}
    assert data["safety"]["splits"]["train"] == {"files": [file], "part": "90 % by hash, from 0 %"}
    assert data["facts"]["records"] == {"train": 40, "validation": 8, "test": 8}
    assert all(len(one["fingerprint"]) > 8 for one in data.values())


def test_sources_are_told_shortly(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02}.txt").write_text("some text\n\nand more " * 90)
    whole = Domain.from_text("many", str(tmp_path / "*.txt")).train
    told = described(whole)
    assert (len(told["files"]), told["more files"]) == (8, 4)
    info = DatasetInfo(
        config_name="main", download_checksums={"hf://datasets/openai/gsm8k@e53f0/main/a.parquet": {}}
    )
    hub = Dataset.from_dict({"body": ["a"]}, info=info)
    columns = {"text": "body"}
    assert described(Given(hub, "here", columns)) == {
        "data set": "hf:openai/gsm8k@e53f0 (main)",
        "columns": columns,
    }
    assert described(Dataset.from_dict({"text": ["a"]})) == {"in memory": "Dataset"}


def test_model_adapter_and_type_are_told(tmp_path: Path) -> None:
    handle = model(adapter={"r": 4, "alpha": 3, "targets": ["q_proj", "v_proj"]}, dtype=torch.bfloat16)
    finetune(handle, train={"math": domain("math")}, mixer=MIXER, fit=FIT, out=tmp_path / "run")
    config = config_of(tmp_path / "run")
    assert (config["model"], config["dtype"]) == ("LlamaForCausalLM", "bfloat16")
    adapter = {"peft_type": "LORA", "r": 4, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"]}
    assert config["adapter"] == {**adapter, "task_type": "CAUSAL_LM"}
    assert (
        LoraConfig(**{name: value for name, value in config["adapter"].items() if name != "peft_type"}).r == 4
    )
    assert adapter_settings(model()) is None
    every = {"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"}
    assert set((adapter_settings(model(adapter={"r": 4})) or {})["target_modules"]) == every
    one = model(adapter={"targets": ["model.layers.0.self_attn.q_proj"]})
    assert (adapter_settings(one) or {})["target_modules"] == ["q_proj"]
    mixed = llama()
    mixed.lm_head.to(torch.float64)
    mixed.model.norm.to(torch.bfloat16)
    assert dtype_of(load(mixed, tokenizer=tokenizer())) is None


def test_open_settings_are_told_as_they_come_to() -> None:
    ours = settled(DynaMiCS(ridge=0.1), Fit())
    assert ours == {
        "probes": "kept",
        "mass": "planned",
        "solver": "lp",
        "reach": "best",
        "returns": 0.5,
        "margin": 1.0,
        "cap": 0.5,
        "shrink": True,
        "kappa": 1.28,
        "lean": 0.0,
        "blocks": 40,
    }
    fed_back = settled(DynaMiCS(), Fit())
    assert [fed_back[name] for name in ("mass", "kappa", "lean", "blocks")] == ["feedback", 0.64, 1.0, 20]
    papers = settled(DynaMiCS(preset="paper"), Fit())
    assert (papers["solver"], papers["schedule"], papers["slopes"], papers["margin"]) == (
        "grid",
        "light",
        "whole",
        0.0,
    )
    assert "cap" not in papers  # infinite
    assert settled(Feedback(), Fit(steps=320)) == {"every": 20}
    assert settled(MIXER, Fit()) == {}


@pytest.fixture
def begun(tmp_path: Path) -> Callable[..., FinetuneResult]:
    """A run of one mixer on data of two places, which the call goes on with."""

    def call(place: str = "math.jsonl", **options: Any) -> FinetuneResult:
        rows = [{"text": text} for text in texts("math", "train", 400)]
        (tmp_path / place).write_text("\n".join(map(json.dumps, rows)))
        options = {"mixer": DynaMiCS(targets=["math"]), **options}
        return finetune(model(), train={"math": tmp_path / place}, fit=FIT, out=tmp_path / "run", **options)

    call()
    return call


def test_data_may_move_but_not_change(begun: Callable[..., FinetuneResult], tmp_path: Path) -> None:
    begun("moved.jsonl")
    assert config_of(tmp_path / "run")["data"]["math"]["path"].endswith("math.jsonl")


def test_what_settings_come_to_is_part_of_a_run(
    begun: Callable[..., FinetuneResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later version's other default is not gone on with in silence."""
    monkeypatch.setattr("trimtab.adapt.call.settled", lambda *_: {"ridge": 9.0})
    with pytest.raises(CheckpointError, match=r"settled\.ridge \(was 0\.5, now 9\.0\)"):
        begun()


def test_a_run_of_an_earlier_version_goes_on(begun: Callable[..., FinetuneResult], tmp_path: Path) -> None:
    config = config_of(tmp_path / "run")
    old = {name: value for name, value in config.items() if name not in LATER}
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(old, sort_keys=False))
    facts = json.loads((tmp_path / "run/run.json").read_text())
    del facts["config_sha256"]
    (tmp_path / "run/run.json").write_text(json.dumps(facts))
    begun()
    with pytest.raises(CheckpointError, match=r"seed \(was 0, now 1\)"):
        begun(seed=1)


def test_a_config_of_the_callers_has_no_free_keys(tmp_path: Path) -> None:
    given = {"train": {"math": domain("math")}, "mixer": MIXER, "fit": FIT, "out": tmp_path / "run"}
    finetune(model(), **given, config={"system": "mine", "note": 1})
    with pytest.raises(CheckpointError, match=r"note \(was 1, now 2\)"):
        finetune(model(), **given, config={"system": "mine", "note": 2})
