"""What a run leaves: a model or an adapter that plain transformers and peft load, and that gives the losses told."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_results import MakeResult
from trimtab import Fixed, Uniform, finetune, load
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.export import export_run
from trimtab.errors import CheckpointError, ModelError
from trimtab.models.load import Model
from trimtab.train.loop import Loop
from worlds import QUICK, evaluated, llama, plain_losses, tokenizer, trainable

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
MIXER = Uniform(targets=["math"], constraints={"web": 5.0})
LORA = {"r": 4, "seed": 3}


def base(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A base model on disk."""
    llama(dtype=dtype).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def run(folder: Path, out: Path, **options: Any) -> tuple[Model, FinetuneResult]:
    handle = load(folder, adapter=options.pop("adapter", None))
    options = {"mixer": MIXER, "fit": replace(QUICK, lr=1e-2), "evaluate": evaluated(), **options}
    return handle, finetune(handle, train=trainable(), out=out, **options)


def losses(network: Any) -> dict[str, float]:
    return plain_losses(network, {**trainable(), **evaluated()})


def told(result: FinetuneResult) -> dict[str, float]:
    return dict(zip(result.final["domain"], result.final["loss"], strict=True))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FinetuneResult]:
    """A run that trained every parameter."""
    home = tmp_path_factory.mktemp("whole")
    return home / "run", run(base(home / "base"), home / "run")[1]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FinetuneResult]:
    """A run that trained a LoRA."""
    home = tmp_path_factory.mktemp("adapter")
    return home / "run", run(base(home / "base"), home / "run", adapter=LORA)[1]


# Losses


def test_plain_transformers_gives_the_losses_told(whole: tuple[Path, FinetuneResult]) -> None:
    folder, result = whole
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="auto")
    assert result.step
    assert losses(model) == pytest.approx(told(result), abs=1e-5)
    assert AutoTokenizer.from_pretrained(folder / "model")("ab") == tokenizer()("ab")
    assert abs(told(result)["math"] - dict(result.final[["domain", "reference"]].to_numpy())["math"]) > 0.1


def test_plain_peft_gives_the_losses_told(
    adapter: tuple[Path, FinetuneResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result = adapter
    monkeypatch.chdir("/")
    model = AutoPeftModelForCausalLM.from_pretrained(folder / "model")
    assert losses(model) == pytest.approx(told(result), abs=1e-5)
    assert not (folder / "model/config.json").exists()
    assert "AutoPeftModelForCausalLM" in (folder / "model/README.md").read_text()


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_a_bfloat16_checkpoint_is_left_in_its_own_type(tmp_path: Path, lora: Any) -> None:
    """Losses are told of the weights as rounded, in float32 arithmetic; with LoRA, of the base as it is."""
    handle, result = run(base(tmp_path / "base", torch.bfloat16), tmp_path / "run", adapter=lora)
    types = {tensor.dtype for tensor in handle.module.state_dict().values()}
    if lora:
        model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run/model", dtype="auto")
        assert {one.dtype for one in model.parameters()} == {torch.bfloat16, torch.float32} == types
        assert losses(model) == pytest.approx(told(result), abs=1e-5)
        return
    assert {t.dtype for t in load_file(tmp_path / "run/model/model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "run/model/config.json").read_text())["dtype"] == "bfloat16"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run/model", dtype="float32")
    assert losses(model) == pytest.approx(told(result), abs=1e-5)
    assert types == {torch.bfloat16}


# When it is written


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("moment", ["before the model", "before the result"])
def test_a_kill_at_the_end_of_a_run_resumes_to_both(
    moment: str, whole: tuple[Path, FinetuneResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KilledError

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        late = "trimtab.adapt.dynamics.result.FinetuneResult.save"
        patch.setattr("trimtab.adapt.export.write" if moment == "before the model" else late, killed)
        with pytest.raises(KilledError):
            run(whole[0].parent / "base", out)
    assert (out / "model").exists() == (moment == "before the result")
    assert not (out / "artifacts/result.json").exists()
    run(whole[0].parent / "base", out)
    files = bytes_of(out / "model")
    assert files.keys() == bytes_of(whole[0] / "model").keys()
    assert files["model.safetensors"] == (whole[0] / "model/model.safetensors").read_bytes()
    assert (out / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_a_finished_run_whose_model_is_gone_makes_it_again(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result = request.getfixturevalue(kind)
    out = shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(out / "model")
    monkeypatch.setattr(Loop, "step", None)
    again = run(folder.parent / "base", out, adapter=LORA if kind == "adapter" else None)[1]
    assert again.final.equals(result.final)
    weights = "model.safetensors" if kind == "whole" else "adapter_model.safetensors"
    assert (out / "model" / weights).read_bytes() == (folder / "model" / weights).read_bytes()


def test_base_weights_leave_no_model(tmp_path: Path) -> None:
    mixer = Fixed(weights={"math": 1.0}, targets=["math"], constraints={"web": 0.0, "safety": 0.0})
    _, result = run(base(tmp_path / "base"), tmp_path / "run", mixer=mixer)
    assert (result.status, result.passed) == ("infeasible", False)
    assert not (tmp_path / "run/model").exists()
    assert "its base weights were returned, and no model is written" in result.to_text()
    with pytest.raises(
        CheckpointError, match=r"which is infeasible and returned the base weights, expected a run with"
    ):
        export_run(tmp_path / "run", tmp_path / "out")


def test_a_model_that_cannot_be_written_is_warned_of(
    whole: tuple[Path, FinetuneResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise ModelError("got a bias, expected none")

    monkeypatch.setattr("trimtab.adapt.export.write", refused)
    with pytest.warns(UserWarning, match=r"no .*model was written: got a bias"):
        _, result = run(whole[0].parent / "base", tmp_path / "run")
    assert result.status == "feasible"
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "done"


def test_none_is_written_where_none_is_wanted(whole: tuple[Path, FinetuneResult], tmp_path: Path) -> None:
    run(whole[0].parent / "base", tmp_path / "run", save_model=False)
    assert not (tmp_path / "run/model").exists()
    done = export_run(tmp_path / "run", tmp_path / "out")
    assert (done.kind, done.step) == ("model", whole[1].step)
    assert (
        bytes_of(tmp_path / "out")["model.safetensors"] == bytes_of(whole[0] / "model")["model.safetensors"]
    )


def test_a_run_that_is_not_kept_writes_no_model_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fill the disk for temporary files with a model that is gone at the end."""

    def write(*_: Any, **__: Any) -> None:
        raise AssertionError("written")

    monkeypatch.setattr("trimtab.adapt.finetune.leave_model", write)
    handle = load(llama(), tokenizer=tokenizer())
    fit = replace(QUICK, lr=1e-2, steps=4)
    assert finetune(handle, train=trainable(), evaluate=evaluated(), mixer=MIXER, fit=fit).step


# Export


def test_what_is_there_is_copied_and_its_card_says_where_it_is_now(
    whole: tuple[Path, FinetuneResult], tmp_path: Path
) -> None:
    done = export_run(whole[0], tmp_path / "out", merged=True)
    assert (done.folder, done.kind, done.run) == (tmp_path / "out", "model", whole[0])
    files, there = bytes_of(tmp_path / "out"), bytes_of(whole[0] / "model")
    card = files.pop("README.md").decode()
    assert there.pop("README.md").decode().replace(str(whole[0] / "model"), str(tmp_path / "out")) == card
    assert files == there
    with pytest.raises(ModelError, match=r"out, where there is something already, .*; try out-2"):
        export_run(whole[0], tmp_path / "out")


def test_a_card_says_where_the_model_is_however_the_run_was_named(
    whole: tuple[Path, FinetuneResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = shutil.copytree(whole[0], tmp_path / "moved")
    monkeypatch.chdir(moved)
    export_run("../moved", tmp_path / 'my "model"')
    card = (tmp_path / 'my "model"' / "README.md").read_text()
    place = json.dumps(str(tmp_path / 'my "model"'))
    assert card.count(f"from_pretrained({place}") == 2
    assert str(whole[0]) not in card


def test_nothing_is_exported_into_the_run_itself(whole: tuple[Path, FinetuneResult]) -> None:
    """A copy of a folder into itself would copy what it has just made."""
    before = sorted(whole[0].rglob("*"))
    for inside in ("model/x", "x", "artifacts/../model/y"):
        with pytest.raises(ModelError, match="in the folder of the run, expected a folder outside of it"):
            export_run(whole[0], whole[0] / inside)
    assert sorted(whole[0].rglob("*")) == before


@pytest.mark.parametrize("there", [True, False], ids=["of model/", "of kept weights"])
def test_an_adapter_is_exported_as_such_or_merged(
    there: bool, adapter: tuple[Path, FinetuneResult], tmp_path: Path
) -> None:
    folder, result = adapter
    source = folder if there else shutil.copytree(folder, tmp_path / "run")
    if not there:
        shutil.rmtree(source / "model")
    assert export_run(source, tmp_path / "adapter").kind == "adapter"
    assert losses(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")) == pytest.approx(
        told(result), abs=1e-5
    )
    assert export_run(source, tmp_path / "merged", merged=True).kind == "model"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert losses(model) == pytest.approx(told(result), abs=1e-5)
    card = (tmp_path / "merged/README.md").read_text()
    assert "library_name: transformers" in card
    assert f'AutoModelForCausalLM.from_pretrained("{tmp_path / "merged"}"' in card


def test_a_base_model_that_has_changed_is_refused(
    adapter: tuple[Path, FinetuneResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shutil.copytree(adapter[0].parent, tmp_path / "home")
    config = (
        (home / "run/config.yaml").read_text().replace(str(adapter[0].parent / "base"), str(home / "base"))
    )
    (home / "run/config.yaml").write_text(config)
    llama(seed=1).save_pretrained(home / "base")
    with pytest.raises(
        ModelError, match=r"a base model .*base that is not the one trained in .*run, expected the same"
    ):
        export_run(home / "run", tmp_path / "out", merged=True)
    assert not (tmp_path / "out").exists()
    shutil.rmtree(home / "base")
    with pytest.raises(ModelError, match=r"the base model of .*run: got the folder .*base"):
        export_run(home / "run", tmp_path / "out", merged=True)
    given = load(adapter[0].parent / "base", adapter=LORA)
    assert export_run(home / "run", tmp_path / "out", merged=True, model=given).kind == "model"


def test_a_base_model_in_memory_is_handed_over(tmp_path: Path) -> None:
    handle = load(llama(), tokenizer=tokenizer())
    result = finetune(
        handle, train=trainable(), mixer=MIXER, fit=QUICK, out=tmp_path / "run", save_model=False
    )
    with pytest.raises(ModelError, match=r"the base model of .*run: got "):
        export_run(tmp_path / "run", tmp_path / "out")
    with pytest.raises(ModelError, match=r"not the one trained in .*export_run\(\.\.\., model=\.\.\.\)"):
        export_run(tmp_path / "run", tmp_path / "out", model=handle)  # it holds tuned weights
    export_run(tmp_path / "run", tmp_path / "out", model=load(llama(), tokenizer=tokenizer()))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert losses(model)["math"] == pytest.approx(told(result)["math"], abs=1e-5)


def test_what_is_no_finished_run_is_refused(whole: tuple[Path, FinetuneResult], tmp_path: Path) -> None:
    begun = shutil.copytree(whole[0], tmp_path / "begun")
    (begun / "artifacts/result.json").unlink()
    for folder, message in (
        (tmp_path / "none", r"none, which is no run, expected the folder of one run, .*; try trimtab runs"),
        (begun, r"begun, which has not finished, expected a finished run; try trimtab resume"),
        (tmp_path, r"which holds 1 runs, expected the folder of one run, or of a group; try .*begun"),
    ):
        with pytest.raises(CheckpointError, match=message):
            export_run(folder, tmp_path / "out")
    damaged = shutil.copytree(whole[0], tmp_path / "damaged")
    (damaged / "model/README.md").write_text("mine")
    export_run(damaged, tmp_path / "out")
    flip(damaged / "model/model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"got damaged .*model\.safetensors.*; try deleting .*model: the kept"
    ):
        export_run(damaged, tmp_path / "other")
    shutil.rmtree(damaged / "model")
    file = damaged / f"artifacts/weights-{whole[1].step:08d}/parameters.safetensors"
    flip(file)
    with pytest.raises(CheckpointError, match=r"got damaged .*parameters\.safetensors"):
        export_run(damaged, tmp_path / "other")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_a_changed_file_of_the_model_is_not_exported(
    name: str, whole: tuple[Path, FinetuneResult], tmp_path: Path
) -> None:
    """A configuration or a tokenizer of others changes the model as much as weights do."""
    changed = shutil.copytree(whole[0], tmp_path / "changed")
    flip(changed / "model" / name)
    with pytest.raises(CheckpointError, match=rf"got damaged .*{re.escape(name)}"):
        export_run(changed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX")
def test_an_export_copies_files_alone_and_tells_a_full_disk(
    whole: tuple[Path, FinetuneResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(whole[0], tmp_path / "run")
    os.mkfifo(run / "model/pipe")
    export_run(run, tmp_path / "out")
    assert bytes_of(tmp_path / "out").keys() == bytes_of(whole[0] / "model").keys()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(CheckpointError, match=r"No space left on device' while writing .*other"):
        export_run(run, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-9] ^= 4
    file.write_bytes(bytes(raw))


def test_a_group_without_a_feasible_run_leaves_no_model(result_of: MakeResult, tmp_path: Path) -> None:
    for label in ("a", "b"):
        folder = tmp_path / "group/members" / label
        (folder / "artifacts").mkdir(parents=True)
        result_of(label, status="infeasible", probes=False).save(folder)
    with pytest.raises(
        CheckpointError, match=r"of which no run is feasible, expected a run with tuned weights"
    ):
        export_run(tmp_path / "group", tmp_path / "out")
    shutil.rmtree(tmp_path / "group/members")
    (tmp_path / "group/members").mkdir()
    with pytest.raises(
        CheckpointError, match=r"no finished run in .*group, expected a group with finished runs"
    ):
        export_run(tmp_path / "group", tmp_path / "out")
