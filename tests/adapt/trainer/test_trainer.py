"""A mixture inside `transformers.Trainer`: the rows, mixtures and weights of `finetune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import DataCollatorForLanguageModeling, DataCollatorWithPadding, Trainer, TrainerCallback
from transformers import default_data_collator as collator

from hosted_run import FIT, MIXERS, TIGHT, arguments, losses, mixture, mixtures, train
from trimtab import DynaMiCS, FinetuneResult, Fixed, GradientAlignment, TrainerMixture, finetune
from trimtab.data.mixture_rows import MixtureRows
from trimtab.errors import CheckpointError, ConfigError, ConfigProblems
from trimtab.train.hosted import HostedLoop
from trimtab.train.loop import Loop
from worlds import TRAIN, domain, evaluated, llama, model, plain_losses, tokenizer, trainable

pytestmark = pytest.mark.filterwarnings("ignore:no checkpoint kept every constraint")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `finetune` does with each mixer, by name."""
    found = {}
    for name, mixer in MIXERS.items():
        rows, steps, step = [], [], Loop.step

        def noted(
            self: Loop, weights: Any, *, alone: bool = False, rows: Any = rows, step: Any = step
        ) -> Any:
            before = self.stream.state()
            drawn = self.stream.draw(weights)
            self.stream.restore(before)
            if not alone:
                rows.append(drawn)
            return step(self, weights, alone=alone)

        out, handle = tmp_path_factory.mktemp("alone") / "run", model(dtype=torch.float64)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Loop, "step", noted)
            result = finetune(
                handle,
                train=trainable(),
                evaluate=evaluated(),
                mixer=mixer,
                fit=FIT,
                seed=3,
                out=out,
                progress=False,
            )
        steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        chosen = [(row["step"], list(row["weights"].values())) for row in steps if row["event"] == "mixture"]
        lost = {row["step"]: row["loss"] for row in steps if row["event"] == "training"}
        found[name] = {
            "rows": rows,
            "mixtures": chosen,
            "losses": lost,
            "result": result,
            "weights": {key: value.clone() for key, value in handle.module.state_dict().items()},
        }
    return found


def assert_alike(found: list[tuple[int, list[float]]], expected: list[tuple[int, list[float]]]) -> None:
    """The same mixtures at the same steps."""
    assert [step for step, _ in found] == [step for step, _ in expected]
    np.testing.assert_allclose([w for _, w in found], [w for _, w in expected], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", MIXERS)
def test_rows_mixtures_losses_and_weights_are_those_of_finetune(
    name: str, alone: dict[str, Any], tmp_path: Path
) -> None:
    trainer, mixed, rows = train(tmp_path, MIXERS[name])
    expected = alone[name]
    assert rows == expected["rows"]
    ids = [[mixed.dataset[key]["input_ids"] for key in batch] for batch in rows]
    trained = [trainer.seen[k] + trainer.seen[k + 1] for k in range(0, len(trainer.seen), 2)]
    assert trained == ids
    assert_alike(mixtures(trainer), expected["mixtures"])
    assert len({tuple(np.round(w, 3)) for _, w in mixtures(trainer)}) > 1
    for step, loss in losses(trainer).items():
        assert loss == pytest.approx(expected["losses"][step], abs=1e-5)
    result: FinetuneResult = expected["result"]
    assert mixed.progress.best_step == result.step
    if result.step:
        for key, value in trainer.model.state_dict().items():
            torch.testing.assert_close(value, expected["weights"][key], atol=1e-9, rtol=0)
        tested = result.losses[(result.losses["split"] == "test") & (result.losses["step"] == result.step)]
        for row in tested.itertuples():
            assert mixed.changes[row.domain].value == pytest.approx(row.change, abs=1e-9)


def test_with_workers_no_row_is_lost_or_repeated_and_every_batch_follows_its_decision(
    alone: dict[str, Any], tmp_path: Path
) -> None:
    workers = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
    trainer, mixed, rows = train(tmp_path, MIXERS["kept probes"], **workers)
    assert rows == alone["kept probes"]["rows"]
    ids = [mixed.dataset[key]["input_ids"] for batch in rows for key in batch]
    assert [row for micro in trainer.seen for row in micro] == ids
    assert_alike(mixtures(trainer), alone["kept probes"]["mixtures"])


@pytest.mark.parametrize("restored", [False, True])
def test_a_run_that_stopped_goes_on_with_the_same_rows_and_mixtures(
    restored: bool, alone: dict[str, Any], tmp_path: Path
) -> None:
    class Leaves(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 8  # between two of the mixer's questions

    saved = {"save_strategy": "steps", "save_steps": 7}
    mixer = MIXERS["feedback"]
    train(tmp_path, mixer, also=Leaves(), **saved)
    trainer, mixed, rows = train(
        tmp_path, mixer, resume=True, restore_callback_states_from_checkpoint=restored, **saved
    )
    assert rows == alone["feedback"]["rows"][7:]
    assert_alike(mixtures(trainer), alone["feedback"]["mixtures"])
    assert mixed.progress.best_step == alone["feedback"]["result"].step


def test_dropout_is_the_same_after_a_resume(tmp_path: Path) -> None:
    def left(out: Path, stop: int | None) -> Any:
        class Leaves(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_training_stop |= state.global_step == stop

        network = llama(dtype=torch.float64, dropout=0.3)
        saved = {"save_strategy": "steps", "save_steps": 7}
        asked = {"load_best": False}
        mixer = MIXERS["feedback"]
        return train(out, mixer, network=network, also=Leaves(), resume=stop == 0, asked=asked, **saved)[0]

    whole, _ = left(tmp_path / "whole", None), left(tmp_path / "parts", 8)
    parts = left(tmp_path / "parts", 0)
    for key, value in parts.model.state_dict().items():
        torch.testing.assert_close(value, whole.model.state_dict()[key], atol=0, rtol=0)


def test_a_checkpoint_of_another_mixture_is_refused(tmp_path: Path) -> None:
    train(tmp_path, MIXERS["feedback"], save_strategy="steps", save_steps=12)
    for more, got in (
        ({"asked": {"margin": 1.0}}, "another mixture"),
        ({"asked": {"seed": 4}}, "another mixture"),
    ):
        with pytest.raises(CheckpointError, match=got):
            train(tmp_path, MIXERS["feedback"], resume=True, **more)
    plain = Trainer(
        llama(dtype=torch.float64),
        arguments(tmp_path / "plain", max_steps=4, save_strategy="steps", save_steps=2),
        train_dataset=[{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}] * 16,
        data_collator=collator,
    )
    plain.train()
    with pytest.raises(CheckpointError, match="a checkpoint of no mixture"):
        train(tmp_path / "plain", MIXERS["feedback"], resume=True)


def test_the_best_checkpoint_that_kept_every_constraint_is_in_the_model(tmp_path: Path) -> None:
    trainer, mixed, _ = train(tmp_path, MIXERS["kept probes"])
    best = mixed.progress.best_step
    assert 0 < best < trainer.state.global_step
    assert Path(trainer.state.best_model_checkpoint).name == f"checkpoint-{best}"
    by_hand = plain_losses(trainer.model, {**trainable(), **evaluated()})
    base = plain_losses(llama(dtype=torch.float64), {**trainable(), **evaluated()})
    for name, change in mixed.changes.items():
        assert change.value == pytest.approx(by_hand[name] - base[name], abs=1e-9)


def test_without_a_checkpoint_that_kept_all_a_warning_says_so(tmp_path: Path) -> None:
    mixer = Fixed(targets=["math"], constraints={"web": 0.0, "safety": 0.0}, target_mass=1.0)
    with pytest.warns(UserWarning, match="no checkpoint kept every constraint"):
        trainer, mixed, _ = train(tmp_path, mixer, asked={"margin": 999.0})
    assert mixed.progress.best_step == 0
    assert trainer.state.global_step == FIT.steps


def test_logs_are_in_the_trainers_history_and_in_the_folder_that_it_reports_to(tmp_path: Path) -> None:
    trainer, _, _ = train(tmp_path, MIXERS["feedback"], report_to="tensorboard")
    (board,) = (tmp_path / "runs").iterdir()
    events = EventAccumulator(str(board)).Reload()
    tags = set(events.Tags()["scalars"])
    assert {
        "train/loss",
        "train/mixture/math",
        "eval/loss/safety",
        "eval/slack/web",
        "test/change/math",
    } <= tags
    shown = [(event.step, event.value) for event in events.Scalars("train/mixture/math")]
    told = [(step, weights[0]) for step, weights in mixtures(trainer)]
    np.testing.assert_allclose(shown, told, rtol=1e-6)
    epochs = [row["epoch"] for row in trainer.state.log_history if "loss" in row]
    rows = sum(len(split) for split in trainer.train_dataset.rows.values())
    np.testing.assert_allclose(epochs, [4 * step / rows for step in range(1, 25)], rtol=1e-6)


def test_a_mixture_can_take_the_tokenizer_of_the_trainer_and_a_collator_that_pads(
    alone: dict[str, Any], tmp_path: Path
) -> None:
    words = tokenizer()
    mixed = mixture(MIXERS["feedback"], tokenizer=None)
    with pytest.raises(
        ConfigError, match=r"got no tokenizer.*try TrainerMixture\(\.\.\., tokenizer=tokenizer\)"
    ):
        Trainer(
            llama(),
            arguments(tmp_path),
            train_dataset=mixed.dataset,
            data_collator=collator,
            callbacks=[mixed.callback],
        )
    words.pad_token = words.eos_token
    trainer = Trainer(
        llama(dtype=torch.float64),
        arguments(tmp_path),
        train_dataset=mixed.dataset,
        data_collator=DataCollatorWithPadding(words),
        processing_class=words,
        callbacks=[mixed.callback],
    )
    trainer.train()
    assert [step for step, _ in mixtures(trainer)] == [step for step, _ in alone["feedback"]["mixtures"]]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"save_strategy": "epoch"}, r"save_strategy: got 'epoch'"),
        ({"logging_strategy": "epoch"}, r"logging_strategy: got 'epoch'"),
        ({"auto_find_batch_size": True}, r"auto_find_batch_size: got True"),
        ({"accelerator_config": {"split_batches": True}}, r"split_batches: got True"),
        ({"accelerator_config": {"dispatch_batches": True}}, r"dispatch_batches: got True"),
        ({"per_device_train_batch_size": 500}, r"math, split train: got .* sequences"),
        ({"adam_beta1": 1.0}, r"args\.betas"),
    ],
)
def test_arguments_that_cannot_work_are_refused_before_any_work(
    more: dict[str, Any], told: str, tmp_path: Path
) -> None:
    mixed = mixture(MIXERS["feedback"])
    with pytest.raises(ConfigProblems, match=told):
        Trainer(
            llama(),
            arguments(tmp_path, **more),
            train_dataset=mixed.dataset,
            data_collator=collator,
            callbacks=[mixed.callback],
        )


def test_without_max_steps_the_trainer_says_so(tmp_path: Path) -> None:
    mixed = mixture(MIXERS["feedback"])
    with pytest.raises(ValueError, match="max_steps"):
        Trainer(
            llama(),
            arguments(tmp_path, max_steps=-1),
            train_dataset=mixed.dataset,
            callbacks=[mixed.callback],
        )


def test_a_collator_that_writes_labels_anew_is_refused(tmp_path: Path) -> None:
    words, mixed = tokenizer(), mixture(MIXERS["feedback"])
    words.pad_token = words.eos_token
    trainer = Trainer(
        llama(),
        arguments(tmp_path),
        train_dataset=mixed.dataset,
        data_collator=DataCollatorForLanguageModeling(words, mlm=False),
        callbacks=[mixed.callback],
    )
    with pytest.raises(ConfigProblems, match=r"DataCollatorForLanguageModeling.*try default_data_collator"):
        trainer.train()


def test_trials_are_refused_where_the_optimizer_cannot_be_put_back(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblems, match=r"rolled-back probes with the optimizer Adafactor"):
        train(tmp_path, MIXERS["rolled-back probes"], optim="adafactor")
    aligned = GradientAlignment(targets=["math"], constraints=TIGHT, sequences=2, every=8)
    trainer, _, _ = train(tmp_path, aligned, optim="adafactor")  # reads gradients, and puts nothing back
    assert [step for step, _ in mixtures(trainer)] == [0, 8, 16]


def test_mixtures_and_domains_that_cannot_work_are_refused_when_they_are_made() -> None:
    with pytest.raises(ConfigProblems, match=r"targets: got 'maths'.*try 'math'"):
        mixture(DynaMiCS(targets=["maths"], constraints=TIGHT))
    with pytest.raises(ConfigProblems, match=r"probe_sequences"):
        mixture(MIXERS["feedback"], probe_sequences=9)
    with pytest.raises(ConfigError, match=r"outside training.*callbacks=\[mixture.callback\]"):
        next(iter(mixture(MIXERS["feedback"]).sampler))


@pytest.fixture
def rows() -> MixtureRows:
    """Rows of three domains, one record each."""
    return TrainerMixture(
        trainable(),
        evaluated(),
        mixer=MIXERS["feedback"],
        tokenizer=tokenizer(),
        seq_len=64,
        packing="padded",
    ).dataset


def test_rows_of_a_batch_are_padded_to_the_longest_and_carry_no_loss_there(rows: MixtureRows) -> None:
    keys = [("math", 3), ("web", 0), ("math", 5)]
    lengths = {key: int(np.diff(rows.rows[key[0]].offsets)[key[1]]) for key in keys}
    batch = rows.__getitems__(keys)
    assert {len(one[column]) for one in batch for column in one} == {max(lengths.values())}
    for key, one in zip(keys, batch, strict=True):
        size = lengths[key]
        assert one["attention_mask"] == [1] * size + [0] * (len(one["labels"]) - size)
        assert set(one["labels"][size:]) <= {-100}
        assert rows[key]["input_ids"] == one["input_ids"][:size]
    assert list(rows.remove_columns("attention_mask")[keys[0]]) == ["input_ids", "labels"]
    assert list(rows.select_columns(["labels"])[keys[0]]) == ["labels"]


def test_a_mixture_has_no_length_and_no_numbered_rows_and_is_not_prepared_again(rows: MixtureRows) -> None:
    with pytest.raises(TypeError, match="max_steps"):
        len(rows)
    assert rows
    assert rows.num_rows == sum(1 for _ in rows) == sum(map(len, rows.rows.values()))
    with pytest.raises(ConfigError, match=r"row 0 of a mixture.*callbacks=\[mixture.callback\]"):
        rows[0]  # type: ignore[index]
    with pytest.raises(ConfigError, match="skip_prepare_dataset"):
        rows.map(lambda row: row)


def test_learning_rates_ahead_are_those_of_the_schedule(tmp_path: Path) -> None:
    asked: list[list[float]] = []
    follow = HostedLoop.follow

    class Asks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            asked.append([more["lr_scheduler"].get_last_lr()[0]])

    assert HostedLoop.follow is follow
    trainer, mixed, _ = train(
        tmp_path, MIXERS["feedback"], also=Asks(), lr_scheduler_type="cosine", warmup_steps=5
    )
    assert mixed.run is not None
    told = [mixed.run.loop.lr_at(step) for step in range(1, 24)]
    np.testing.assert_allclose(told, [rate for (rate,) in asked[:23]], rtol=1e-12)
    assert tuple(domain(name).name for name in mixed.roles.train) == TRAIN
    assert trainer.state.global_step == 24
