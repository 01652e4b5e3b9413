"""Runs of a mixture inside `transformers.Trainer`, also as a process of its own: `hosted_run.py KIND OUT`.

KIND is "two" (a process of torchrun), or "killed" (kills itself after 8 steps). Each process leaves what it saw as
JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments, default_data_collator

from trimtab import DynaMiCS, Exp3, Feedback, Fit, TrainerMixture
from trimtab.adapt.mixer import Mixer
from trimtab.data.mixture_rows import Key
from trimtab.train.evaluation import token_nll
from trimtab.train.hosted import HostedLoop
from worlds import QUICK, TRAIN, evaluated, llama, tokenizer, trainable

FIT = Fit(**{**vars(QUICK), "steps": 24, "eval_points": 5})
"""Settings of `finetune` that `arguments` and `mixture` say in the words of a trainer."""
TIGHT = {"web": 0.05, "safety": 0.05}
MIXERS: dict[str, Mixer] = {
    "kept probes": DynaMiCS(targets=["math"], constraints=TIGHT),
    "rolled-back probes": DynaMiCS(targets=["math"], constraints=TIGHT, probes="rolled-back"),
    "feedback": Feedback(targets=["math"], constraints={"web": 0.05, "safety": 0.005}, every=3),
    "exp3": Exp3(targets=["math"], constraints={"web": 0.05}),
}


PROCESSES = {"whole": ("kept probes", "feedback", "exp3"), "sharded": ("kept probes", "exp3")}
"""Mixers by how two processes hold the weights. Starting a process takes longer than its runs."""


def mixture(mixer: Mixer, **more: Any) -> TrainerMixture:
    """The domains and readings of `FIT`."""
    readings = {"eval_sequences": 8, "probe_sequences": 4, "test_sequences": 8, "eval_points": 5}
    settings = {"tokenizer": tokenizer(), "seq_len": FIT.seq_len, "seed": 3, **readings, **more}
    return TrainerMixture(trainable(), evaluated(), mixer=mixer, **settings)


def arguments(out: Path, **more: Any) -> TrainingArguments:
    """A trainer's words for the rest of `FIT`: a batch of 4, a constant learning rate."""
    settings: dict[str, Any] = {
        "max_steps": FIT.steps,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "per_device_eval_batch_size": FIT.eval_batch_size,
        "learning_rate": FIT.lr,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return TrainingArguments(str(out), **settings | more)


def exact_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """The mean loss in the type of the logits; transformers takes it in float32."""
    return token_nll(outputs.logits, labels).sum() / num_items_in_batch


class Watched(Trainer):
    """A trainer that notes the rows it trains on, and is silent."""

    def __init__(self, *given: Any, **more: Any) -> None:
        self.seen: list[list[list[int]]] = []
        super().__init__(*given, **more)

    def training_step(self, model: Any, inputs: Any, *more: Any) -> torch.Tensor:
        """Note the rows of a micro-batch."""
        self.seen.append(inputs["input_ids"].tolist())
        return super().training_step(model, inputs, *more)


class Killed(TrainerCallback):
    """Signals its own process at the end of a step, with no chance to clean up."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before the step after."""
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(
    out: Path,
    mixer: Mixer,
    *,
    network: Any = None,
    resume: bool = False,
    also: TrainerCallback | None = None,
    asked: dict[str, Any] | None = None,
    **more: Any,
) -> tuple[Watched, TrainerMixture, list[list[Key]]]:
    """A run in float64; the trainer, the mixture, and the rows of each step as the mixture followed them."""
    network = llama(dtype=torch.float64) if network is None else network
    mixed, followed, follow = mixture(mixer, **asked or {}), list[list[Key]](), HostedLoop.follow

    def noted(self: HostedLoop, weights: Any) -> list[Key]:
        followed.append(follow(self, weights))
        return followed[-1]

    HostedLoop.follow = noted  # type: ignore[method-assign]
    try:
        trainer = Watched(
            network,
            arguments(out, **more),
            train_dataset=mixed.dataset,
            data_collator=default_data_collator,
            callbacks=[mixed.callback, *([also] if also else [])],
            compute_loss_func=exact_loss,
        )
        trainer.train(resume_from_checkpoint=resume or None)
    finally:
        HostedLoop.follow = follow  # type: ignore[method-assign]
    return trainer, mixed, followed


def mixtures(trainer: Trainer) -> list[tuple[int, list[float]]]:
    """The mixtures of a run, from the trainer's own log."""
    rows = [row for row in trainer.state.log_history if "mixture/math" in row]
    return [(row["step"], [row[f"mixture/{name}"] for name in TRAIN]) for row in rows]


def losses(trainer: Trainer) -> dict[int, float]:
    """The training loss of each step, from the trainer's own log."""
    return {row["step"]: row["loss"] for row in trainer.state.log_history if "loss" in row}


def sharded(folder: Path) -> Any:
    """The network of these runs, each process with a part of its weights (FSDP2)."""
    from transformers.distributed import DistributedConfig

    config = DistributedConfig(fsdp_size=2)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, distributed_config=config)


def told(trainer: Watched, mixed: TrainerMixture, followed: list[list[Key]]) -> dict[str, Any]:
    """What a process saw, as JSON."""
    return {
        "rows": followed,
        "seen": trainer.seen,
        "mixtures": mixtures(trainer),
        "losses": losses(trainer),
        "changes": {name: change.value for name, change in mixed.changes.items()},
        "best": mixed.progress.best_step,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, folder = sys.argv[1], Path(sys.argv[2])
    if kind == "killed":
        train(folder / "run", MIXERS["kept probes"], also=Killed(8), save_strategy="steps", save_steps=3)
        raise SystemExit("it was not killed")
    rank = int(os.environ["RANK"])
    for way, names in PROCESSES.items():
        for name in names:
            network = sharded(folder / "base") if way == "sharded" else None
            found = told(
                *train(folder / way / name, MIXERS[name], network=network, per_device_train_batch_size=1)
            )
            (folder / f"{way}-{name}-{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
