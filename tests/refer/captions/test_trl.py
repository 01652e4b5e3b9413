"""The reward inside TRL: GRPO and RLOO runs of a tiny Llava, one process and two, and the snippet of the guide."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import reward_run
from reward_run import EXAMPLE, Watched, data, reward, settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # TRL's use of transformers
    pytest.mark.filterwarnings("ignore:.*completions have no words.*:UserWarning"),
]
TESTS = Path(reward_run.__file__).parent


@pytest.fixture(autouse=True)
def _callers_generators() -> Any:
    """A trainer seeds every generator."""
    state, plain = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        yield
    np.random.set_state(state)
    random.setstate(plain)


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_a_trainer_runs_on_the_reward(kind: str, tmp_path: Path) -> None:
    import trl

    module, earns = EXAMPLE["captioner"](steps=0), Watched(reward())
    before = {name: value.clone() for name, value in module.named_parameters()}
    trainer = getattr(trl, f"{kind}Trainer")(
        module,
        earns,
        settings(tmp_path, kind, per_device_train_batch_size=8, learning_rate=1e-2),
        train_dataset=data(),
        processing_class=EXAMPLE["processor"](),
    )
    trainer.train()
    logs = [row for row in trainer.state.log_history if "reward" in row]
    assert [row["step"] for row in logs] == [1, 2, 3]
    assert len(earns.rows) == 3 * 8
    for step, row in enumerate(logs):
        mean = np.mean([each["reward"] for each in earns.rows[step * 8 : step * 8 + 8]])
        assert row["rewards/watched/mean"] == pytest.approx(mean, abs=1e-5)
        assert 0 <= row["listener/found"] <= 1
    assert any(not torch.equal(before[name], value) for name, value in module.named_parameters())
    pictures = [row["pixels"] for row in earns.rows]
    assert all(len(set(pictures[start : start + 4])) == 1 for start in range(0, 24, 4)), "groups of four"


def test_fewer_than_two_generations_are_refused_by_trl(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2 generations"):
        settings(tmp_path, num_generations=1)


def test_rewards_and_negatives_are_the_same_on_two_processes(tmp_path: Path) -> None:
    """Groups are spread over both; what a completion earns is what it would earn alone."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    env = os.environ | {"ACCELERATE_USE_CPU": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    run = [*command, str(TESTS / "reward_run.py"), str(tmp_path)]
    done = subprocess.run(run, env=env, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [(rank["world"], rank["processes"]) for rank in ranks] == [(2, 2), (2, 2)]
    groups = [{row["pixels"] for row in rank["rows"]} for rank in ranks]
    assert groups[0] & groups[1], "no picture was on both processes"
    alone = reward()
    for row in (row for rank in ranks for row in rank["rows"]):
        picture = Image.frombytes("RGB", (32, 32), bytes.fromhex(row["pixels"]))
        assert alone.negatives_of(picture) == row["negatives"]
        assert alone(completions=[row["text"]], image=[picture])[0] == pytest.approx(row["reward"], abs=1e-5)


def test_the_snippet_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = TESTS.parent / "docs" / "caption-rewards.md"
    code = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[0]
    for name, parts in {
        "my-listener": [EXAMPLE["listener"](steps=0).encoder.model],
        "my-captioner": [EXAMPLE["captioner"](steps=0), EXAMPLE["processor"]()],
    }.items():
        for part in parts:
            (part.save if hasattr(part, "save") else part.save_pretrained)(tmp_path / name)
    (tmp_path / "pictures").mkdir()
    for name, image in EXAMPLE["pictures"](0).items():
        image.save(tmp_path / "pictures" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    short = code.replace(
        "num_generations=8", "num_generations=2, max_steps=1, use_cpu=True, bf16=False, report_to=[]"
    )
    short = short.replace("negatives=99", "negatives=20").replace("batch_size=64", "batch_size=4")
    assert short.count("max_steps=1") == short.count("negatives=20") == short.count("batch_size=4") == 1
    scope: dict[str, Any] = {}
    exec(compile(short, str(page), "exec"), scope)
    assert scope["trainer"].state.global_step == 1
    assert (tmp_path / "tuned" / "config.json").is_file()
