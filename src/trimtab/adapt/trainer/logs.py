"""Rows of a mixture's metrics where a trainer's own logs go: its history, and what it reports to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import integration_utils


class TrainerLogs:
    """The logs of a trainer, to add to.

    A callback is not told of the others, so each tracker is joined by a reporter of its own: those with one run per
    process share it, and TensorBoard writes to the same folder.

    Args:
        args: the trainer's.
        state: the trainer's; only its first process reports.
    """

    def __init__(self, args: TrainingArguments, state: TrainerState) -> None:
        names = args.report_to if state.is_world_process_zero else []
        kinds: Any = integration_utils.get_reporting_integration_callbacks(names)  # type: ignore[no-untyped-call]
        self.args, self.reporters = args, [_joined(kind(), args) for kind in kinds]

    def add(
        self, state: TrainerState, control: TrainerControl, named: Mapping[str, float], model: Any
    ) -> None:
        """Add numbers of this step.

        Args:
            state: of the trainer now.
            control: of the trainer.
            named: "eval/..." becomes "eval_...", as trainers name what is held out.
            model: what is trained.
        """
        logs = {
            name.replace("eval/", "eval_", 1).replace("test/", "test_", 1): one for name, one in named.items()
        }
        logs |= {} if state.epoch is None else {"epoch": state.epoch}
        state.log_history.append({**logs, "step": state.global_step})
        for reporter in self.reporters:
            reporter.on_log(self.args, state, control, logs=dict(logs), model=model)

    def close(self, state: TrainerState, control: TrainerControl, model: Any) -> None:
        """Close what stays open; runs that are shared end with the trainer's own reporters."""
        boards: list[Any] = [
            it for it in self.reporters if isinstance(it, integration_utils.TensorBoardCallback)
        ]
        for board in boards:
            board.on_train_end(self.args, state, control, model=model)


def _joined(reporter: TrainerCallback, args: TrainingArguments) -> TrainerCallback:
    """A reporter that writes where the trainer's own of its kind has just begun to write."""
    if isinstance(reporter, integration_utils.TensorBoardCallback) and reporter.logging_dir is None:
        begun = [path for path in (Path(str(args.output_dir)) / "runs").glob("*") if path.is_dir()]
        if begun:
            reporter.logging_dir = str(max(begun, key=os.path.getmtime))
    return reporter
