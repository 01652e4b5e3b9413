"""A LoRA on base weights in 4 bits: it trains as on their dequantised values, by finetune and inside a trainer."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import bitsandbytes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, MixtralConfig, MixtralForCausalLM

from hosted_run import MIXERS, mixture
from trimtab import Fit, Model, compare, finetune, load
from trimtab.adapt.compare.job import CompareConfig
from trimtab.adapt.dynamics import job
from trimtab.adapt.dynamics.job import DynamicsConfig
from trimtab.adapt.export import export_run
from trimtab.errors import ModelError
from trimtab.job import Elsewhere
from trimtab.models import quantization
from trimtab.models.quantization import keep_differentiable
from trimtab.models.weights import Lora
from trimtab.runs.folder import read_config_of
from worlds import EVALUATE, QUICK, TRAIN, evaluated, llama, saved_model, texts, tokenizer, trainable

LORA = {"r": 4}
FIT = Fit(**{**vars(QUICK), "steps": 12, "lr": 3e-2})
KEPT = MIXERS["kept probes"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("base")
    saved_model(str(made), width=64)
    return made


def in_4bit(folder: Path) -> Model:
    return load(folder, load_in_4bit=True, device="cpu", adapter=LORA)


def dequantised(folder: Path) -> Model:
    """The plain model whose base weights are those that the 4-bit one stands for, with the same adapter."""
    like, plain = in_4bit(folder), load(folder, device="cpu", adapter=LORA)
    for name, part in like.module.named_modules():
        if isinstance(part, bitsandbytes.nn.Linear4bit):
            values = bitsandbytes.functional.dequantize_4bit(part.weight.data, part.weight.quant_state)
            plain.module.get_submodule(name).weight.data = values.float()
    return plain


def trained(model: Model, **more: Any) -> Any:
    return finetune(model, train=trainable(), evaluate=evaluated(), mixer=KEPT, fit=FIT, seed=3, **more)


def packed(model: Model) -> dict[str, torch.Tensor]:
    return {name: p.clone() for name, p in model.module.named_parameters() if p.dtype == torch.uint8}


def test_finetune_trains_as_on_the_dequantised_weights(folder: Path, tmp_path: Path) -> None:
    model = in_4bit(folder)
    before = packed(model)
    found, expected = trained(model, out=tmp_path / "run"), trained(dequantised(folder))
    assert found.final["change"].abs().max() > 0.05  # it learned something
    np.testing.assert_allclose(found.final["change"], expected.final["change"], atol=1e-3)
    np.testing.assert_allclose(found.mixtures, expected.mixtures, atol=1e-3)
    assert len(before) == 14
    assert all(torch.equal(one, before[name]) for name, one in packed(model).items())
    config = read_config_of(tmp_path / "run")
    assert (config["load_in_4bit"], config["dtype"]) == (True, "float32")
    assert expected.config["load_in_4bit"] is False
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").exists()


def of_the_caller(folder: Path, **settings: Any) -> Model:
    """A module that transformers has quantised with the caller's settings."""
    config = BitsAndBytesConfig(**settings)
    network = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype="float32")
    return load(network, tokenizer=tokenizer(), adapter=LORA)


BASES: dict[str, Callable[[Path], Model]] = {
    "as load does": in_4bit,
    "in bfloat16": partial(load, load_in_4bit=True, device="cpu", adapter=LORA, dtype="bfloat16"),
    "4 bits of another kind": partial(of_the_caller, load_in_4bit=True, bnb_4bit_quant_type="fp4"),
    "without a map": partial(of_the_caller, load_in_4bit=True, llm_int8_skip_modules=["lm_head", "up_proj"]),
    "8 bits": partial(of_the_caller, load_in_8bit=True),
}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # read by peft
@pytest.mark.parametrize("kind", BASES)
def test_its_card_loads_it_as_it_was_trained(folder: Path, tmp_path: Path, kind: str) -> None:
    model = BASES[kind](folder)
    mixer = replace(KEPT, constraints={"web": 5.0})
    finetune(
        model, train=trainable(), evaluate=evaluated(), mixer=mixer, fit=FIT, seed=3, out=tmp_path / "run"
    )
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert f"on the base model in {8 if kind == '8 bits' else 4} bits" in card
    assert "With the adapter on the unquantised one they differ." in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    said = code[1].replace("this folder", "").replace("<>", str(tmp_path / "run" / "model"))
    names: dict[str, Any] = {}
    exec(said, names)
    keep_differentiable(names["model"])  # repacked weights are read in bfloat16
    ids = torch.arange(32).reshape(2, 16)
    with torch.no_grad():
        again, kept = (net.eval()(input_ids=ids).logits for net in (names["model"], model.module))
    torch.testing.assert_close(again, kept, rtol=1e-4, atol=1e-4)


def test_full_training_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"got a quantised model .* for training.*; try adapter=\{'r': 16\}"):
        trained(load(folder, load_in_4bit=True, device="cpu"))


def test_a_trainer_trains_as_finetune_does(folder: Path, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments, default_data_collator

    mixed, model = mixture(KEPT, seq_len=FIT.seq_len), in_4bit(folder)
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=FIT.steps,
        per_device_train_batch_size=FIT.batch_size,
        per_device_eval_batch_size=FIT.eval_batch_size,
        learning_rate=FIT.lr,
        lr_scheduler_type="constant",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(
        model.module,
        arguments,
        train_dataset=mixed.dataset,
        data_collator=default_data_collator,
        callbacks=[mixed.callback],
    ).train()
    expected = finetune(
        in_4bit(folder),
        train=trainable(),
        evaluate=evaluated(),
        mixer=KEPT,
        fit=replace(FIT, eval_points=5),
        seed=3,
    )
    assert mixed.result is not None
    np.testing.assert_allclose(mixed.result.mixtures, expected.mixtures, atol=1e-3)
    np.testing.assert_allclose(mixed.result.final["change"], expected.final["change"], atol=2e-3)


def test_a_trainer_refuses_weights_that_were_repacked(folder: Path, tmp_path: Path) -> None:
    """As they are where a model was read before it was handed over."""
    from transformers import Trainer, TrainingArguments

    mixed, model = mixture(KEPT), in_4bit(folder)
    part = next(p for p in model.module.modules() if isinstance(p, bitsandbytes.nn.Linear4bit))
    part.weight.quant_state.packing_format_for_cpu = True
    arguments = TrainingArguments(str(tmp_path), max_steps=4, report_to="none", use_cpu=True)
    trainer = Trainer(model.module, arguments, train_dataset=mixed.dataset, callbacks=[mixed.callback])
    with pytest.raises(ModelError, match=r"repacks .*try load\(module\) before its first forward pass"):
        trainer.train()


def test_it_is_exported_as_it_was_trained(folder: Path, tmp_path: Path) -> None:
    model = in_4bit(folder)
    mixer = replace(KEPT, constraints={"web": 5.0})
    run = finetune(
        model, train=trainable(), evaluate=evaluated(), mixer=mixer, fit=FIT, seed=3, out=tmp_path / "run"
    )
    assert run.step
    shutil.rmtree(tmp_path / "run" / "model")
    made = export_run(tmp_path / "run", tmp_path / "made")
    found = load_file(made.folder / "adapter_model.safetensors")
    kept = {name.replace(".default", ""): p for name, p in model.module.named_parameters() if "lora_" in name}
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], value) for name, value in kept.items())


# A config -------------------------------------------------------------------------------------------------


def config(folder: Path, **more: Any) -> DynamicsConfig:
    domains = {"train": dict.fromkeys(TRAIN, "unread"), "evaluate": dict.fromkeys(EVALUATE, "unread")}
    return DynamicsConfig(
        **{"model": str(folder), "targets": ("math",), "constraints": {"web": 5.0}, "fit": QUICK}
        | {"adapter": Lora(r=4), "load_in_4bit": True, **domains, **more}
    )


def test_its_memory_is_foretold(folder: Path) -> None:
    whole, less = (config(folder, load_in_4bit=it).cost()["memory_bytes"] for it in (False, True))
    footprints = [
        load(folder, device="cpu", load_in_4bit=it).module.get_memory_footprint() for it in (False, True)
    ]
    assert footprints[0] > 1.5 * footprints[1]
    assert whole - less == pytest.approx(footprints[0] - footprints[1], rel=0.01)


def test_experts_stay_whole_in_its_memory(tmp_path: Path) -> None:
    small = MixtralConfig(
        vocab_size=len(tokenizer()),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    MixtralForCausalLM(small).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    whole, less = (config(tmp_path, load_in_4bit=it).cost()["memory_bytes"] for it in (False, True))
    networks: list[Any] = [load(tmp_path, device="cpu", load_in_4bit=it).module for it in (False, True)]
    footprints = [network.get_memory_footprint() for network in networks]
    assert whole - less == pytest.approx(footprints[0] - footprints[1], rel=0.01)


def test_memory_of_packed_weights_is_not_foretold(folder: Path, tmp_path: Path) -> None:
    load(folder, load_in_4bit=True, device="cpu").save_pretrained(tmp_path / "packed")
    cost = config(tmp_path / "packed", load_in_4bit=False).cost()
    assert math.isnan(cost["memory_bytes"])
    assert math.isnan(cost["disk_bytes"])


def test_what_a_config_cannot_ask_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(**more: Any) -> list[str]:
        return [str(one) for one in config(folder, **more).problems() if "4bit" in str(one)]

    assert told() == []
    assert told(adapter=None, load_in_4bit=False) == []
    assert told(adapter=None) == [
        "load_in_4bit: got true without an adapter, expected an adapter to train; try adapter: {r: 16}"
    ]
    assert told(dtype="float64")[0].startswith("dtype: got 'float64' beside load_in_4bit")
    monkeypatch.setattr(quantization, "is_installed", lambda: False)
    assert "load_in_4bit: got true without bitsandbytes" in told()[0]


def test_a_config_loads_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def noted(*given: Any, **more: Any) -> Model:
        asked.append(more)
        return load(*given, **more)

    monkeypatch.setattr(job, "load", noted)
    monkeypatch.setattr(job, "read_domains", lambda _: (trainable(), evaluated()))
    result = config(folder, device="cpu", fit=FIT).finetuned(tmp_path / "run", "dynamics", save_model=False)
    assert asked[0]["load_in_4bit"] is True
    assert result.config["load_in_4bit"] is True


def test_an_adapter_is_compared_on_the_base_that_it_was_trained_on(folder: Path, tmp_path: Path) -> None:
    trained(in_4bit(folder), out=tmp_path / "run")
    records = tmp_path / "web.jsonl"
    records.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts("web", "test", 8)))
    asked: dict[str, Any] = {"domains": {"web": str(records)}, "sequences": 8, "seq_len": 32}
    found, plain = (
        CompareConfig(str(folder), str(tmp_path / "run" / "model"), device="cpu", load_in_4bit=it, **asked)
        for it in (True, False)
    )
    assert [*found.problems()] == []
    bad = replace(found, dtype="float64")
    assert [str(one).partition(",")[0] for one in bad.problems()] == [
        "dtype: got 'float64' beside load_in_4bit"
    ]
    change, other = (
        each.run(Elsewhere(tmp_path), lambda *_: None).changes["change"][0] for each in (found, plain)
    )
    expected = compare(
        load(folder, load_in_4bit=True, device="cpu"), str(tmp_path / "run" / "model"), **asked
    ).changes["change"][0]
    assert change == expected != other


def test_a_plain_model_is_not_in_4_bits() -> None:
    assert trained(load(llama(), tokenizer=tokenizer(), adapter=LORA)).config["load_in_4bit"] is False
