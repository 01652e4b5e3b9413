"""A run in a process of its own that is killed, for real, at a stated moment: `runs_to_kill.py OUT MOMENT [SIGNAL]`.

Without a signal it is SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from trimtab import DynaMiCS, finetune
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.train import state
from trimtab.train.loop import Loop
from worlds import QUICK, evaluated, model, trainable

MIXER = DynaMiCS(targets=["math"], constraints={"web": 0.0, "safety": 0.3}, schedule=4, probe_steps=2)

MOMENTS = {
    "in-training": (Loop, "step", 9),  # the third step after the first probes
    "inside-a-probe": (Loop, "step", 13),  # within the second round of probes
    "while-a-checkpoint-is-written": (
        state,
        "save_file",
        16,
    ),  # the second one: weights on disk, moments not
}


def run(out: Path | None) -> tuple[dict[str, torch.Tensor], FinetuneResult]:
    """The run, on fresh base weights; the weights it leaves."""
    handle = model(dropout=0.1)
    result = finetune(handle, train=trainable(), evaluate=evaluated(), mixer=MIXER, fit=QUICK, out=out)
    return dict(handle.module.state_dict()), result


def kill_at(moment: str, number: signal.Signals = signal.SIGKILL) -> None:
    """Let the process signal itself at the named call; by default there is no chance to clean up."""
    owner, name, count = MOMENTS[moment]
    original, calls = getattr(owner, name), [0]

    def counted(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == count:
            os.kill(os.getpid(), number)
        return original(*arguments, **options)

    setattr(owner, name, counted)


if __name__ == "__main__":
    torch.set_num_threads(1)
    kill_at(sys.argv[2], signal.Signals[(sys.argv[3:] or ["SIGKILL"])[0]])
    run(Path(sys.argv[1]))
