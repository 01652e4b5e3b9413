"""A mixture inside TRL's `SFTTrainer`: an adapter, packed rows, and completions that alone carry loss."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from hosted_run import MIXERS, mixture, mixtures
from trimtab import Domain, TrainerMixture, finetune, load
from trimtab.adapt.trainer.run import HostedRun
from trimtab.data.stream import MixtureStream
from trimtab.errors import ConfigError
from worlds import QUICK, llama, tokenizer

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:.*gradient_checkpointing.*:FutureWarning"
    ),  # TRL's use of transformers
    pytest.mark.filterwarnings("ignore:no checkpoint kept every constraint"),
    pytest.mark.filterwarnings("ignore:training ends at step"),
]
LORA = {"r": 4, "targets": ["q_proj", "v_proj", "up_proj"], "alpha": 8, "dropout": 0.0}


def trainer(out: Path, mixed: TrainerMixture, network: Any, **more: Any) -> SFTTrainer:
    """A trainer of TRL with the settings of `hosted_run`, that leaves its history alone."""
    settings: dict[str, Any] = {
        "max_steps": 24,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "per_device_eval_batch_size": QUICK.eval_batch_size,
        "learning_rate": 3e-2,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    words = tokenizer()
    words.pad_token = words.eos_token
    return SFTTrainer(
        network,
        args=SFTConfig(str(out), **settings | more),
        train_dataset=mixed.dataset,
        processing_class=words,
        callbacks=[mixed.callback],
    )


@pytest.mark.parametrize("packing", [False, True])
def test_an_adapter_on_packed_rows_trains_as_in_finetune(packing: bool, tmp_path: Path) -> None:
    fit = {**vars(QUICK), "steps": 24, "eval_points": 5, "lr": 3e-2}
    handle = load(llama(dtype=torch.float64), tokenizer=tokenizer(), adapter=LORA)
    mixed = mixture(MIXERS["feedback"])
    hosted = trainer(tmp_path / "sft", mixed, handle.module, packing=packing)
    hosted.train()
    domains = {"train": mixed._domains[0], "evaluate": mixed._domains[1]}
    again = load(llama(dtype=torch.float64), tokenizer=tokenizer(), adapter=LORA)
    result = finetune(
        again, **domains, mixer=MIXERS["feedback"], fit=type(QUICK)(**fit), seed=3, progress=False
    )
    assert mixed.result is not None
    assert set(mixed.result.config["adapter"]) >= {"peft_type", "r"}
    np.testing.assert_allclose(mixed.result.mixtures, result.mixtures, atol=1e-4)
    np.testing.assert_allclose(mixed.result.final["change"], result.final["change"], atol=1e-3)
    assert len(mixtures(hosted)) == len(result.mixtures)
    adapted = {name for name, one in hosted.model.named_parameters() if one.requires_grad}
    assert adapted
    assert all("lora_" in name for name in adapted)


@pytest.mark.filterwarnings("ignore:.label_smoothing_factor. is deprecated:FutureWarning")
@pytest.mark.parametrize("more", [{}, {"label_smoothing_factor": 0.1}], ids=["fused head", "two passes"])
def test_training_losses_are_heard_from_the_head_of_trl(more: dict[str, Any], tmp_path: Path) -> None:
    mixed = mixture(MIXERS["exp3"])
    hosted = trainer(tmp_path, mixed, llama(dtype=torch.float64), max_steps=1, **more)
    heard, follow = list[dict[int, tuple[float, int]]](), HostedRun.follow

    def noted(self: HostedRun, said: dict[int, tuple[float, int]]) -> None:
        heard.append(said)
        follow(self, said)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HostedRun, "follow", noted)
        hosted.train()
    assert mixed.run is not None
    fresh = MixtureStream(mixed.run.loop.stream.sizes, 4, mixed.run.loop.stream.seed)
    keys, network = fresh.draw((1 / 3,) * 3), llama(dtype=torch.float64)
    assert sorted(heard[0]) == [0, 1, 2, 3]
    for place, key in enumerate(keys):
        ids = torch.tensor([mixed.dataset[key]["input_ids"]])
        with torch.no_grad():
            expected = float(network(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        assert heard[0][place] == (pytest.approx(expected, rel=1e-6), ids.shape[1] - 1)


def test_a_lora_that_the_trainer_makes_itself_is_read_and_saved(tmp_path: Path) -> None:
    mixed, network = mixture(MIXERS["kept probes"]), llama()
    words = tokenizer()
    words.pad_token = words.eos_token
    made = trainer(tmp_path, mixed, network).args
    hosted = SFTTrainer(
        network,
        args=made,
        train_dataset=mixed.dataset,
        processing_class=words,
        callbacks=[mixed.callback],
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "up_proj"]),
    )
    hosted.train()
    assert mixed.progress.best_step
    best = Path(str(hosted.state.best_model_checkpoint))
    assert (best / "adapter_model.safetensors").is_file()


def test_prompts_carry_no_loss(tmp_path: Path) -> None:
    draw = random.Random(0)

    def asked(name: str, n: int) -> list[dict[str, str]]:
        return [
            {
                "prompt": "".join(draw.choices("cd ", k=12)),
                "completion": "".join(draw.choices("gh ", k=9)) + name[0],
            }
            for _ in range(n)
        ]

    splits = {
        name: Domain(name, train=asked(name, 40), validation=asked(name, 8), test=asked(name, 8))
        for name in ("math", "web")
    }
    mixer = type(MIXERS["feedback"])(targets=["math"], constraints={"web": 0.05}, every=6)
    mixed = TrainerMixture(splits, mixer=mixer, tokenizer=tokenizer(), seq_len=48, eval_sequences=8)
    hosted, seen = trainer(tmp_path, mixed, llama()), list[Any]()
    step = hosted.training_step
    hosted.training_step = lambda model, inputs, *more: (seen.append(inputs), step(model, inputs, *more))[1]
    hosted.train()
    for one in seen:
        assert (one["labels"][:, :12] == -100).all()
        learned = one["labels"] != -100
        assert (learned.sum(1) == 11).all()  # ten letters and the end
        assert (one["labels"][learned] == one["input_ids"][learned]).all()


def test_a_trainer_that_prepares_rows_again_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="skip_prepare_dataset"):
        trainer(tmp_path, mixture(MIXERS["feedback"]), llama(), dataset_kwargs=None)
