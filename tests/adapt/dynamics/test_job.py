"""The job that a recipe describes: what is wrong with it, one run, and a group of runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_models
from trimtab import DynaMiCS, EarlyStoppedTarget, Fixed, Replay, Uniform, finetune, load
from trimtab.adapt.dynamics.job import DynamicsConfig, read_domains
from trimtab.adapt.dynamics.result import Comparison, FinetuneResult
from trimtab.adapt.export import export_run
from trimtab.adapt.finetune import refuse
from trimtab.errors import CheckpointError, ConfigProblems, ModelError, TrimtabError
from trimtab.job import carry_out
from trimtab.models.weights import Lora
from trimtab.runs.config import read_config, write_config
from trimtab.runs.folder import RunFolder
from worlds import EVALUATE, QUICK, TRAIN, llama, texts, tokenizer

FIT = replace(QUICK, steps=6, eval_points=3)


def write_domain(folder: Path, name: str, splits: Iterable[str]) -> str:
    (folder / name).mkdir()
    for split in splits:
        lines = [json.dumps({"text": text}) for text in texts(name, split, 40 if split == "train" else 8)]
        (folder / name / f"{split}.jsonl").write_text("\n".join(lines))
    return str(folder / name)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DynamicsConfig:
    """A config whose model and domains are folders."""
    home = tmp_path_factory.mktemp("job")
    llama().save_pretrained(home / "model")
    tokenizer().save_pretrained(home / "model")
    return DynamicsConfig(
        model=str(home / "model"),
        train={name: write_domain(home, name, ["train", "validation", "test"]) for name in TRAIN},
        evaluate={name: write_domain(home, name, ["validation", "test"]) for name in EVALUATE},
        targets=("math",),
        constraints={"web": 0.5, "safety": 0.5},
        mixer=DynaMiCS(schedule=3),
        fit=FIT,
        seed=2,
    )


# check


def test_nothing_is_wrong_with_what_can_run(config: DynamicsConfig) -> None:
    assert list(config.problems()) == []
    far = replace(
        config,
        model="someone/some-model",
        train={"math": "hf:a/b", "code": "lab:python"},
        constraints={"safety": 0.1},
    )
    assert list(far.problems()) == []


def test_planted_mistakes_are_told_at_once(config: DynamicsConfig) -> None:
    planted = replace(
        config,
        targets=("mth",),
        fit=replace(FIT, steps=0),
        train={**config.train, "web": config.train["web"] + "x"},
    )
    found = {problem.where: str(problem) for problem in planted.problems()}
    assert set(found) == {"targets", "fit.steps", "train.web"}
    assert found["targets"].endswith("; try 'math'")
    assert "expected at least 1" in found["fit.steps"]
    assert found["train.web"].endswith(f"; try {config.train['web']}")
    with pytest.raises(ConfigProblems) as caught:
        carry_out(planted, Path("never-made"))
    assert len(caught.value.problems) == 3
    assert not Path("never-made").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jobs": 0}, r"^jobs: got 0, expected at least 1"),
        (
            {"mixer": Uniform(targets=["math"])},
            r"^mixer: got targets or constraints of its own, expected those of",
        ),
        (
            {"compare": {"a": Replay(constraints={"web": 0.1})}},
            r"^compare\.a: got targets or constraints of its own",
        ),
        (
            {"compare": {"dynamics": Uniform()}},
            r"^compare\.dynamics: got the main mixer's label, expected another",
        ),
        (
            {"compare": {"a": Replay(share=2.0)}},
            r"^compare\.a\.share: got 2\.0, expected a share between 0 and 1",
        ),
        (
            {"compare": {"a": Fixed()}},
            r"^compare\.a: got neither, expected either `weights` or `target_mass`",
        ),
        ({"mixer": Replay(share=2.0)}, r"^mixer\.share: got 2\.0"),
        (
            {"model": "./nowhere"},
            r"^model: got '\./nowhere', expected a folder with a config\.json, or a hub name",
        ),
        ({"model": "path/to/model"}, r"^model: got 'path/to/model', expected a folder with a config"),
        (
            {"evaluate": {"safety": "nowhere/*.jsonl"}},
            r"^evaluate\.safety: got 'nowhere/\*\.jsonl', expected a file",
        ),
        (
            {"evaluate": {"safety": "/nowhere/*.jsonl"}},
            r"^evaluate\.safety: got '/nowhere/\*\.jsonl', expected",
        ),
        ({"evaluate": {"safety": ""}}, r"^evaluate\.safety: got ''"),
        ({"adapter": Lora(r=0)}, r"^adapter\.r: got 0, expected a whole number of at least 1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_each_mistake_is_named(config: DynamicsConfig, changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigProblems, match=message) as caught:
        refuse(replace(config, **{"constraints": {"web": 0.5}, **changes}).problems())
    assert len(caught.value.problems) == 1


def test_folders_and_files_that_hold_no_domain_are_told(config: DynamicsConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.zip").write_bytes(b"PK")
    sources = {"safety": str(tmp_path / "empty"), "facts": str(tmp_path / "data.zip")}
    found = {problem.where: str(problem) for problem in list(replace(config, evaluate=sources).problems())}
    assert set(found) == {"evaluate.safety", "evaluate.facts"}
    assert "expected train.*, validation.* and test.* in it" in found["evaluate.safety"]
    assert "expected text, or one of '.jsonl', " in found["evaluate.facts"]
    assert found["evaluate.facts"].endswith("; try unpacking it")


def test_patterns_files_and_home_folders_are_sources(
    config: DynamicsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(config.train["math"])
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.chdir(folder)
    for source in (
        f"{folder}/*.jsonl",
        f"{folder.parent}/**/train.jsonl",
        "train.jsonl",
        "*.jsonl",
        "~/math",
    ):
        assert list(replace(config, train={**config.train, "math": source}).problems()) == []


# One run


@pytest.fixture(scope="module")
def single(config: DynamicsConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FinetuneResult]:
    folder = tmp_path_factory.mktemp("single") / "run"
    return folder, carry_out(config, folder)


def test_a_job_is_what_finetune_does(config: DynamicsConfig, single: tuple[Path, FinetuneResult]) -> None:
    train, evaluate = read_domains(config)
    expected = finetune(
        load(config.model),
        train=train,
        evaluate=evaluate,
        mixer=replace(config.mixer, targets=["math"], constraints={"web": 0.5, "safety": 0.5}),
        fit=FIT,
        seed=2,
    )
    found = single[1]
    assert found.status == expected.status == "feasible"
    assert found.losses.equals(expected.losses)
    assert found.final.equals(expected.final)
    assert found.label == "dynamics"


def test_a_run_keeps_the_config_that_made_it(
    config: DynamicsConfig, single: tuple[Path, FinetuneResult]
) -> None:
    again = read_config(single[0] / "config.yaml", DynamicsConfig)
    assert again.mixers() == config.mixers()
    assert replace(again, mixer=config.mixer) == config
    assert single[1].config["fit"]["steps"] == 6


def test_a_config_is_the_same_after_yaml(config: DynamicsConfig, tmp_path: Path) -> None:
    whole = replace(
        config, compare={"a": Fixed(weights={"math": 1.0}), "b": EarlyStoppedTarget()}, adapter=Lora()
    )
    write_config(whole, tmp_path / "config.yaml")
    again = read_config(tmp_path / "config.yaml", DynamicsConfig)
    assert again.mixers() == whole.mixers()
    assert (again.fit, again.adapter, again.train, again.seed) == (whole.fit, whole.adapter, whole.train, 2)


def test_a_job_writes_a_page_and_tables(single: tuple[Path, FinetuneResult]) -> None:
    folder, outcome = single
    assert "<html" in (folder / "report.html").read_text()
    (row,) = json.loads(outcome.to_json())["runs"]
    assert row["run"] == "dynamics"
    assert row["gain_percent"] == pytest.approx(
        100 * (1 - math.exp(outcome.final.set_index("domain").loc["math", "change"]))
    )
    table = outcome.to_text()
    assert "dynamics" in table
    assert "not over the seed" in table


def test_a_finished_job_is_read_back(
    config: DynamicsConfig, single: tuple[Path, FinetuneResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.train.loop.Loop.step", None)
    again = carry_out(config, single[0])
    assert again.losses.equals(single[1].losses)


def test_another_config_in_the_same_folder_is_refused(
    config: DynamicsConfig, single: tuple[Path, FinetuneResult]
) -> None:
    with pytest.raises(CheckpointError, match=r"another config: seed \(was 2, now 1\)"):
        carry_out(replace(config, seed=1), single[0])


@pytest.mark.usefixtures("undrawn")
def test_progress_is_told(config: DynamicsConfig, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    carry_out(config, tmp_path / "run", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)


def test_a_lora_job(config: DynamicsConfig, tmp_path: Path) -> None:
    lora = replace(config, adapter=Lora(r=2), mixer=Uniform(), fit=replace(FIT, steps=2, lr=0.05))
    result = carry_out(lora, tmp_path / "run")
    assert result.config["adapter"]["r"] == 2
    assert result.status == "feasible"
    (best,) = (tmp_path / "run" / "artifacts").glob(f"weights-*{result.step}")
    assert all(".lora_" in name for name in load_file(best / "parameters.safetensors"))


@pytest.mark.parametrize("compare", [{}, {"uniform": Uniform()}], ids=["one run", "a group"])
def test_a_model_that_is_no_language_model_is_refused_before_its_weights_are_read(
    config: DynamicsConfig, tmp_path: Path, compare: Mapping[str, Any]
) -> None:
    tiny_models.CONFIGS["bert"](architectures=["BertModel"]).save_pretrained(tmp_path / "encoder")
    tokenizer().save_pretrained(tmp_path / "encoder")
    other = replace(config, model=str(tmp_path / "encoder"), compare=compare)
    with pytest.raises(ModelError, match=r"which is BertModel, expected a causal language model; try"):
        carry_out(other, tmp_path / "run")
    assert RunFolder.create_or_open(tmp_path / "run", {"another": "config"}).status == "failed"


# A group


@pytest.fixture(scope="module")
def group(
    config: DynamicsConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DynamicsConfig, Path, Comparison]:
    folder = tmp_path_factory.mktemp("group") / "run"
    compared = replace(config, compare={"re/play": Replay(share=0.5), "uniform": Uniform()})
    return compared, folder, carry_out(compared, folder)


def test_a_group_is_its_runs_in_order(
    config: DynamicsConfig,
    group: tuple[DynamicsConfig, Path, Comparison],
    single: tuple[Path, FinetuneResult],
) -> None:
    compared, folder, outcome = group
    assert [result.label for result in outcome.runs] == ["dynamics", "re/play", "uniform"]
    assert outcome.failures == {}
    assert outcome.runs[0].losses.equals(single[1].losses)
    assert outcome.runs[2].mixtures[list(TRAIN)].to_numpy().tolist() == [[1 / 3] * 3]
    assert outcome.runs[1].final["role"].tolist() == outcome.runs[0].final["role"].tolist()
    members = sorted(path.name for path in (folder / "members").iterdir() if path.is_dir())
    assert len(members) == 3
    assert {FinetuneResult.load(folder / "members" / name).label for name in members} == set(
        compared.mixers()
    )


def test_a_group_writes_a_page_and_a_comparison(group: tuple[DynamicsConfig, Path, Comparison]) -> None:
    _, folder, _ = group
    assert "re/play" in (folder / "report.html").read_text()
    written = json.loads((folder / "artifacts" / "comparison.json").read_text())
    assert [row["run"] for row in written["runs"]] == ["dynamics", "re/play", "uniform"]
    assert json.loads((folder / "run.json").read_text())["status"] == "done"


def test_a_group_keeps_the_model_of_the_run_chosen(
    group: tuple[DynamicsConfig, Path, Comparison], tmp_path: Path
) -> None:
    _, folder, outcome = group
    chosen = outcome.chosen
    assert chosen is not None
    assert not list((folder / "members").glob("*/model"))
    member = next(
        each
        for each in (folder / "members").iterdir()
        if (each / "config.yaml").exists() and FinetuneResult.load(each).label == chosen.label
    )
    kept = load_file(member / f"artifacts/weights-{chosen.step:08d}/parameters.safetensors")
    left = load_file(folder / "model/model.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in left.items())
    card = (folder / "model/README.md").read_text()
    assert outcome.choice() in card
    assert f'from_pretrained("{folder / "model"}"' in card
    of_group, of_member = (export_run(each, tmp_path / each.name) for each in (folder, member))
    assert of_group.run == of_member.run == member
    assert load_file(tmp_path / member.name / "model.safetensors").keys() == left.keys()
    assert outcome.choice() not in (tmp_path / member.name / "README.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_finished_group_is_read_back_also_with_other_jobs(
    group: tuple[DynamicsConfig, Path, Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, folder, outcome = group
    monkeypatch.setattr("trimtab.train.loop.Loop.step", None)
    again = carry_out(replace(compared, jobs=2), folder)
    assert again.to_json() == outcome.to_json()


@pytest.mark.usefixtures("undrawn")
def test_a_member_that_fails_is_reported_beside_the_others(
    config: DynamicsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Replay, "decide", lambda *_: 1 / 0)
    compared = replace(config, mixer=Uniform(), compare={"replay": Replay()}, fit=replace(FIT, steps=1))
    outcome = carry_out(compared, tmp_path / "run")
    assert [result.label for result in outcome.runs] == ["uniform"]
    assert "ZeroDivisionError" in outcome.failures["replay"]
    assert "replay failed: ZeroDivisionError" in outcome.to_text()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def test_a_group_of_which_nothing_is_left_says_so(
    config: DynamicsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.train.loop.Loop.step", lambda *_: 1 / 0)
    with pytest.raises(TrimtabError, match=r"no run of .* finished: .*ZeroDivisionError"):
        carry_out(replace(config, mixer=Uniform(), compare={"replay": Replay()}), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
