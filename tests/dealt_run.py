"""One process of a distributed run, started by torchrun: `dealt_run.py OUT`; it leaves what it saw as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from trimtab import DynaMiCS, Exp3, GradientAlignment, finetune
from trimtab.data.stream import MixtureStream
from trimtab.train.loop import Loop
from worlds import QUICK, evaluated, model, trainable

MIXER = DynaMiCS(targets=["math"], constraints={"web": 0.0, "safety": 0.3}, schedule=6, probe_steps=2)


def watched_run(out: Path | None) -> dict[str, Any]:
    """A float64 run; the sample order, who probed what, and the slopes of every update."""
    drawn: list[list[tuple[str, int]]] = []
    probed: list[tuple[float, ...]] = []
    draw, step = MixtureStream.draw, Loop.step

    def seen_draw(self: MixtureStream, weights: Any) -> list[tuple[str, int]]:
        rows = draw(self, weights)
        drawn.append(rows)
        return rows

    def seen_step(self: Loop, weights: Any, *, alone: bool = False) -> Any:
        stats = step(self, weights, alone=alone)
        if alone:
            probed.append(tuple(weights))
            drawn.pop()
        return stats

    MixtureStream.draw, Loop.step = seen_draw, seen_step  # type: ignore[method-assign]
    try:
        handle = model(dtype=torch.float64)
        result = finetune(
            handle, train=trainable(), evaluate=evaluated(), mixer=MIXER, fit=QUICK, seed=3, out=out
        )
    finally:
        MixtureStream.draw, Loop.step = draw, step  # type: ignore[method-assign]
    return {
        "drawn": drawn,
        "probed": sorted({weights.index(1.0) for weights in probed}),
        "slopes": [update.slopes.to_numpy().tolist() for update in result.slopes],
        "losses": result.losses["loss_nats"].tolist(),
        "weights": {k: v.double().sum().item() for k, v in handle.module.state_dict().items()},
        "status": result.status,
        "step": result.step,
    }


WATCHED = {
    "exp3": Exp3(targets=["math"], constraints={"web": 0.0}, every=1),
    "gradients": GradientAlignment(targets=["math"], constraints={"web": 0.0}, every=3, sequences=5),
}


def mixtures(out: Path | None) -> dict[str, Any]:
    """Float64 runs of mixers that live on training losses and on gradients: every mixture they chose."""
    found = {}
    for label, mixer in WATCHED.items():
        folder = out and out / label
        domains = {"train": trainable(), "evaluate": evaluated()}
        result = finetune(model(dtype=torch.float64), **domains, mixer=mixer, fit=QUICK, seed=3, out=folder)
        found[label] = result.mixtures.to_numpy().tolist()
        found[f"{label} cost"] = result.cost.training_multiple
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    seen = {**watched_run(folder / "run"), "mixtures": mixtures(folder)}
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    seen |= {"world": world, "modules": sorted({name.partition(".")[0] for name in sys.modules})}
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()
