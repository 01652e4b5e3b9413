"""Runs in processes of their own that are killed, for real, at stated moments: `runs_to_kill.py OUT MOMENT SIGNAL ...`.

Each run is a fork, since importing everything takes longer than a run. How it ended and what it said on stderr are
left beside its folder, as `OUT.json`.
"""

from __future__ import annotations

import gc
import json
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
    gc.freeze()  # what is imported is shared with the forks, not copied by their collections
    for number in range(1, len(sys.argv), 3):
        out, moment, by = sys.argv[number : number + 3]
        said = Path(f"{out}.stderr")
        child = os.fork()
        if not child:
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
            kill_at(moment, signal.Signals[by])
            run(Path(out))
            sys.exit()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        Path(f"{out}.json").write_text(json.dumps({"code": code, "stderr": said.read_text()}))
