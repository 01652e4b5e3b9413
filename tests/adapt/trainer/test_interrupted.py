"""Trainings that an error ended, and runs that go on in another folder or without what is loaded at the end."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback, default_data_collator

from hosted_run import MIXERS, arguments, mixture, train
from trimtab import TrainerMixture, Uniform
from trimtab.adapt.mixers.fixed import Fixed
from trimtab.errors import CheckpointError, ConfigProblems, ModelError
from worlds import llama, tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:no checkpoint kept every constraint"),
    pytest.mark.filterwarnings("ignore:training ends at step"),
]
SAVED: dict[str, Any] = {"save_strategy": "steps", "save_steps": 7}
NEVER = Fixed(targets=["math"], constraints={"web": 0.0, "safety": 0.0}, target_mass=1.0)
"""With a margin of 999 errors no checkpoint keeps this."""
NONE_KEPT: dict[str, Any] = {"margin": 999.0}


class Raises(TrainerCallback):
    """An error at the end of a step, once."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raise there."""
        if state.global_step == self.step:
            self.step = -1
            raise KeyboardInterrupt


class Fails(Trainer):
    """A trainer whose loss fails in the second micro-batch of its fourth step, once."""

    micro_batches = 0

    def compute_loss(self, *given: Any, **more: Any) -> Any:
        """Fail then."""
        self.micro_batches += 1
        if self.micro_batches == 8:
            raise RuntimeError("out of memory")
        return super().compute_loss(*given, **more)


def trainer(kind: type[Trainer], network: Any, args: Any, mixed: TrainerMixture, **more: Any) -> Trainer:
    return kind(
        network,
        args,
        train_dataset=mixed.dataset,
        data_collator=default_data_collator,
        callbacks=[mixed.callback],
        **more,
    )


@pytest.mark.parametrize("anew", [False, True], ids=["the same trainer", "another with the same arguments"])
@pytest.mark.parametrize("name", ["exp3", "feedback"])
def test_after_an_error_the_same_cell_of_a_notebook_can_be_run_again(
    name: str, anew: bool, tmp_path: Path
) -> None:
    network, mixed, args = llama(), mixture(MIXERS[name]), arguments(tmp_path)
    first = trainer(Fails, network, args, mixed)
    with pytest.raises(RuntimeError, match="out of memory"):
        first.train()
    assert args.load_best_model_at_end is False
    again = trainer(Trainer, network, args, mixed) if anew else first
    again.train()
    assert again.state.global_step == 24
    assert mixed.result is not None
    assert not network._forward_hooks
    assert not list(tmp_path.glob("*weights*"))


def test_a_model_whose_training_was_interrupted_can_be_trained_by_others(tmp_path: Path) -> None:
    network = llama()
    hosted = trainer(Fails, network, arguments(tmp_path), mixture(MIXERS["exp3"]))
    with pytest.raises(RuntimeError, match="out of memory"):
        hosted.train()
    rows = torch.randint(1, 200, (3, 5))
    assert torch.isfinite(network.train()(input_ids=rows, labels=rows).loss)


def test_rows_of_another_mixture_or_of_none_are_refused(tmp_path: Path) -> None:
    mixed, other = mixture(MIXERS["feedback"]), mixture(MIXERS["feedback"])
    hosted = trainer(Trainer, llama(), arguments(tmp_path), mixed)
    for rows, got in ((other.dataset, "rows of another mixture"), ([{"input_ids": [1, 2]}] * 9, "a list")):
        hosted.train_dataset = rows
        with pytest.raises(ConfigProblems, match=rf"train_dataset: got {got}.*mixture\.dataset"):
            hosted.train()


def interrupted(out: Path, mixer: Any, step: int, network: Any = None, **asked: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(out, mixer, network=network, also=Raises(step), asked=asked, **SAVED)


def test_a_run_that_goes_on_without_its_best_checkpoint_is_refused_and_in_a_moved_folder_finds_it(
    tmp_path: Path,
) -> None:
    mixer = MIXERS["kept probes"]
    _, whole, _ = train(tmp_path / "whole", mixer, **SAVED)
    assert 0 < whole.progress.best_step < 7
    interrupted(tmp_path / "first", mixer, 9)
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "first", moved)
    shutil.copytree(moved / "checkpoint-7", tmp_path / "alone" / "checkpoint-7")
    with pytest.raises(CheckpointError, match=rf"without checkpoint-{whole.progress.best_step}, .*load_best"):
        train(tmp_path / "alone", mixer, resume=True, **SAVED)
    _, left, _ = train(tmp_path / "alone", mixer, resume=True, asked={"load_best": False}, **SAVED)
    assert left.result is None
    _, mixed, _ = train(moved, mixer, resume=True, **SAVED | {"save_strategy": "no"})
    for name, change in whole.changes.items():
        assert mixed.changes[name].value == pytest.approx(change.value, abs=1e-9)


def test_a_run_that_goes_on_in_another_folder_takes_the_base_weights_of_the_former(tmp_path: Path) -> None:
    former, other = tmp_path / "former", tmp_path / "other"
    interrupted(former, NEVER, 15, **NONE_KEPT)
    interrupted(other, NEVER, 15, network=llama(seed=1, dtype=torch.float64), **NONE_KEPT)
    for left in other.glob("checkpoint-*"):
        shutil.rmtree(left)
    shutil.copytree(former / "checkpoint-14", other / "checkpoint-14")
    hosted, mixed, _ = train(other, NEVER, resume=True, asked=NONE_KEPT, **SAVED)
    assert mixed.progress.best_step == 0
    for key, value in llama(dtype=torch.float64).state_dict().items():
        torch.testing.assert_close(hosted.model.state_dict()[key], value, atol=0, rtol=0)
    shutil.rmtree(former)
    with pytest.raises(CheckpointError, match=r"without base-weights, .*load_best=False"):
        train(other, NEVER, resume=True, asked=NONE_KEPT, **SAVED)


def test_a_trainer_with_another_tokenizer_than_the_mixture_is_refused(tmp_path: Path) -> None:
    vocabulary = {letter: number for number, letter in enumerate("abcdefghijklmnopqrst ")}
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary)), eos_token="t")
    more = deepcopy(tokenizer())
    more.add_special_tokens({"pad_token": "<pad>"})
    mixed = mixture(MIXERS["feedback"])
    trainer(Trainer, llama(), arguments(tmp_path), mixed, processing_class=more)
    with pytest.raises(ConfigProblems, match=r"processing_class: got a tokenizer with another id for '.'"):
        trainer(Trainer, llama(), arguments(tmp_path), mixed, processing_class=other)


def test_rows_that_the_model_has_no_place_for_are_refused_before_any_step(tmp_path: Path) -> None:
    far = [{"input_ids": [k, 5000, 7]} for k in range(90)]
    near = [{"input_ids": [k % 9, *range(80), k]} for k in range(90)]
    for rows, told in (
        (far, r"token 5000 in math, split .*embeddings for 258"),
        (near, r"at most 64, .*seq_len=64"),
    ):
        mixed = TrainerMixture({"math": rows}, mixer=Uniform(targets=["math"]), seq_len=96, eval_points=3)
        with pytest.raises(ModelError, match=told):
            trainer(Trainer, llama(), arguments(tmp_path), mixed).train()
