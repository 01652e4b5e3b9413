"""A mixture inside `transformers.Trainer`: the rows, mixtures and weights of `finetune`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import DataCollatorForLanguageModeling, DataCollatorWithPadding, Trainer, TrainerCallback
from transformers import default_data_collator as collator

from hosted_run import FIT, MIXERS, TIGHT, arguments, exact_loss, losses, mixture, mixtures, train
from trimtab import DynaMiCS, FinetuneResult, Fixed, GradientAlignment, TrainerMixture, finetune
from trimtab.adapt.cost import CostReport
from trimtab.data.mixture_rows import MixtureRows
from trimtab.errors import CheckpointError, ConfigError, ConfigProblems
from trimtab.train.hosted import HostedLoop
from trimtab.train.loop import Loop
from worlds import TRAIN, domain, evaluated, llama, model, plain_losses, tokenizer, trainable

pytestmark = [
    pytest.mark.filterwarnings("ignore:no checkpoint kept every constraint"),
    pytest.mark.filterwarnings("ignore:training ends at step"),
]


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


def untimed(result: FinetuneResult) -> CostReport:
    """The cost of a run in steps and sequences."""
    return replace(result.cost, seconds={}, solver_seconds=0.0)


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
    for key, value in trainer.model.state_dict().items():
        torch.testing.assert_close(value, expected["weights"][key], atol=1e-9, rtol=0)
    assert mixed.result is not None
    pd.testing.assert_frame_equal(mixed.result.final, result.final, atol=1e-8)
    pd.testing.assert_frame_equal(mixed.result.mixtures, result.mixtures, atol=1e-6)
    pd.testing.assert_frame_equal(mixed.result.losses, result.losses, atol=1e-8)
    assert (mixed.result.status, mixed.result.notes) == (result.status, result.notes)
    assert untimed(mixed.result) == untimed(result)
    changes = {domain: change.value for domain, change in mixed.changes.items()}
    assert dict(zip(result.final["domain"], result.final["change"], strict=True)) == pytest.approx(changes)


def test_with_workers_no_row_is_lost_or_repeated_and_every_batch_follows_its_decision(
    alone: dict[str, Any], tmp_path: Path
) -> None:
    workers = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
    trainer, mixed, rows = train(tmp_path, MIXERS["kept probes"], **workers)
    assert rows == alone["kept probes"]["rows"]
    ids = [mixed.dataset[key]["input_ids"] for batch in rows for key in batch]
    assert [row for micro in trainer.seen for row in micro] == ids
    assert_alike(mixtures(trainer), alone["kept probes"]["mixtures"])


class Leaves(TrainerCallback):
    """Ends training after a step, between two checkpoints and two of the mixer's questions."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop there."""
        control.should_training_stop |= state.global_step == self.step


SAVED: dict[str, Any] = {"save_strategy": "steps", "save_steps": 7}


@pytest.mark.parametrize("restored", [False, True])
def test_a_run_that_stopped_goes_on_with_the_same_rows_mixtures_and_result(
    restored: bool, alone: dict[str, Any], tmp_path: Path
) -> None:
    train(tmp_path, MIXERS["feedback"], also=Leaves(8), **SAVED)
    kept = {"restore_callback_states_from_checkpoint": restored}
    trainer, mixed, rows = train(tmp_path, MIXERS["feedback"], resume=True, **kept, **SAVED)
    whole = alone["feedback"]["result"]
    assert rows == alone["feedback"]["rows"][7:]
    assert_alike(mixtures(trainer), alone["feedback"]["mixtures"])
    assert mixed.result is not None
    pd.testing.assert_frame_equal(mixed.result.losses, whole.losses, atol=1e-8)
    assert untimed(mixed.result) == untimed(whole)
    assert mixed.result.config["mixer"] == whole.config["mixer"]
    page = Path(mixed.result.report(tmp_path / "page.html")).read_text(encoding="utf-8")
    assert "safety" in page


def test_a_run_goes_on_with_smaller_batches_of_the_same_rows(alone: dict[str, Any], tmp_path: Path) -> None:
    train(tmp_path, MIXERS["feedback"], also=Leaves(8), **SAVED)
    smaller = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    _, _, rows = train(
        tmp_path, MIXERS["feedback"], resume=True, per_device_eval_batch_size=3, **smaller, **SAVED
    )
    assert rows == alone["feedback"]["rows"][7:]


def test_a_checkpoint_without_the_base_weights_is_refused_before_training(tmp_path: Path) -> None:
    train(tmp_path, MIXERS["feedback"], also=Leaves(8), **SAVED)
    shutil.rmtree(tmp_path / "base-weights")
    with pytest.raises(CheckpointError, match=r"without base-weights.*or load_best=False"):
        train(tmp_path, MIXERS["feedback"], resume=True, **SAVED)
    _, mixed, _ = train(tmp_path, MIXERS["feedback"], resume=True, asked={"load_best": False}, **SAVED)
    assert mixed.changes


def test_after_an_exception_a_trainer_trains_again_and_hears_only_what_is_new(
    alone: dict[str, Any], tmp_path: Path
) -> None:
    class Breaks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5:
                raise RuntimeError("broken off")

    mixed, network = mixture(MIXERS["exp3"]), llama(dtype=torch.float64)

    def made(*also: TrainerCallback) -> Trainer:
        return Trainer(
            network,
            arguments(tmp_path),
            train_dataset=mixed.dataset,
            data_collator=collator,
            callbacks=[mixed.callback, *also],
            compute_loss_func=exact_loss,
        )

    with pytest.raises(RuntimeError, match="broken off"):
        made(Breaks()).train()
    network.load_state_dict(llama(dtype=torch.float64).state_dict())
    again = made()
    again.train()
    assert_alike(mixtures(again), alone["exp3"]["mixtures"])
    assert not network._forward_hooks


def test_dropout_is_the_same_after_a_resume(tmp_path: Path) -> None:
    def left(out: Path, stop: int | None, *, resume: bool = False) -> Any:
        network, asked = llama(dtype=torch.float64, dropout=0.3), {"load_best": False}
        return train(
            out, MIXERS["feedback"], network=network, also=Leaves(stop), resume=resume, asked=asked, **SAVED
        )[0]

    whole, _ = left(tmp_path / "whole", None), left(tmp_path / "parts", 8)
    parts = left(tmp_path / "parts", None, resume=True)
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
    with pytest.raises(CheckpointError, match=r"with another max_steps \(was 24, now 48\)"):
        train(tmp_path, MIXERS["feedback"], resume=True, max_steps=48)
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


NEVER = Fixed(targets=["math"], constraints={"web": 0.0, "safety": 0.0}, target_mass=1.0)
"""With a margin of 999 errors no checkpoint keeps this."""


def test_without_a_checkpoint_that_kept_all_the_base_weights_come_back_and_a_warning_says_so(
    tmp_path: Path,
) -> None:
    with pytest.warns(
        UserWarning, match="no checkpoint kept every constraint.*base weights are in the model"
    ):
        trainer, mixed, _ = train(tmp_path, NEVER, asked={"margin": 999.0})
    assert (mixed.progress.best_step, trainer.state.global_step) == (0, FIT.steps)
    for key, value in llama(dtype=torch.float64).state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[key], value, atol=0, rtol=0)
    assert mixed.result is not None
    assert mixed.result.status == "infeasible"
    assert not list(tmp_path.glob("*weights*"))


def test_the_last_weights_stay_where_nothing_is_loaded(tmp_path: Path) -> None:
    trainer, mixed, _ = train(tmp_path, NEVER, asked={"margin": 999.0, "load_best": False})
    assert mixed.result is None
    assert mixed.changes["math"].value < -0.1
    assert not list(tmp_path.glob("checkpoint-*"))
    assert trainer.args.load_best_model_at_end is False


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


def test_data_sets_of_token_ids_need_no_tokenizer_and_train_alike(
    alone: dict[str, Any], tmp_path: Path
) -> None:
    text = mixture(MIXERS["feedback"])

    def ids(name: str) -> datasets.DatasetDict:
        found = {}
        for split, rows in text.tokens[name].splits.items():
            pairs = zip(rows.offsets, rows.offsets[1:], strict=False)
            found[split] = datasets.Dataset.from_list(
                [{"input_ids": rows.ids[a:b].tolist()} for a, b in pairs]
            )
        return datasets.DatasetDict(found)

    mixed = TrainerMixture(
        {name: ids(name) for name in TRAIN},
        {name: ids(name) for name in ("safety", "facts")},
        mixer=MIXERS["feedback"],
        seq_len=16,
        eval_sequences=8,
        probe_sequences=4,
        test_sequences=8,
        eval_points=5,
        seed=3,
    )
    trainer = Trainer(
        llama(dtype=torch.float64),
        arguments(tmp_path),
        train_dataset=mixed.dataset,
        callbacks=[mixed.callback],
        compute_loss_func=exact_loss,
    )
    trainer.train()
    assert_alike(mixtures(trainer), alone["feedback"]["mixtures"])
    assert mixed.result is not None
    assert mixed.result.status == alone["feedback"]["result"].status
    assert "DatasetDict" in repr(mixed.result.config["data"]) or "Dataset" in repr(
        mixed.result.config["data"]
    )


@pytest.mark.parametrize("name", ["kept probes", "rolled-back probes", "exp3"])
@pytest.mark.parametrize(
    "more",
    [
        {"bf16": True},
        {"activation_checkpointing": True},
        {"torch_compile": True, "torch_compile_backend": "aot_eager"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_half_precision_recomputed_activations_and_compilation_change_next_to_nothing(
    more: dict[str, Any], name: str, alone: dict[str, Any], tmp_path: Path
) -> None:
    _, mixed, _ = train(tmp_path, MIXERS[name], network=llama(), **more)
    for row in alone[name]["result"].final.itertuples():
        assert mixed.changes[row.domain].value == pytest.approx(row.change, abs=0.02)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"save_strategy": "epoch"}, r"save_strategy: got 'epoch'"),
        ({"logging_strategy": "epoch"}, r"logging_strategy: got 'epoch'"),
        ({"auto_find_batch_size": True}, r"auto_find_batch_size: got True"),
        ({"accelerator_config": {"split_batches": True}}, r"split_batches: got True"),
        ({"accelerator_config": {"dispatch_batches": True}}, r"dispatch_batches: got True"),
        ({"per_device_train_batch_size": 500}, r"math, split train: got .* sequences"),
        ({"learning_rate": 0.0}, r"^learning_rate: got 0\.0, expected a number above 0"),
        ({"adam_beta1": 1.0}, r"^adam_beta1, adam_beta2: got"),
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
    with pytest.raises(ConfigProblems, match=r"^probe_sequences"):
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
