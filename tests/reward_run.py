"""One process of a GRPO run, started by torchrun: `reward_run.py OUT`; it leaves what its reward saw as JSON.

Six completions a process and four a picture: a group is spread over both processes.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed

EXAMPLE = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "listener_reward.py"))


def reward() -> Any:
    """A listener of random weights, and 20 negatives from a bank of 48."""
    from trimtab import ListenerReward

    bank = EXAMPLE["pictures"](0)
    return ListenerReward(EXAMPLE["listener"](steps=0), bank, negatives=20, seed=5, reward="margin")


def data(draws: int = 3) -> Any:
    """Pictures that are in the bank (draw 0) and others."""
    from datasets import Dataset

    prompt = [{"role": "user", "content": "describe"}]
    shown = [image for draw in range(draws) for image in EXAMPLE["pictures"](draw).values()]
    return Dataset.from_list([{"prompt": prompt, "image": image} for image in shown])


def settings(out: Path, kind: str = "GRPO", **more: Any) -> Any:
    """Four steps of few completions; `kind` is GRPO or RLOO."""
    import trl

    given = {
        "output_dir": str(out),
        "per_device_train_batch_size": 6,
        "num_generations": 4,
        "max_completion_length": 4,
        "max_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "beta": 0.0,  # RLOO would look for a reference model by name
        "seed": 0,
    }
    return getattr(trl, f"{kind}Config")(**given | more)


class Watched:
    """A reward function that notes pictures, negatives, texts and rewards of every call."""

    __name__ = "watched"

    def __init__(self, inner: Any) -> None:
        self.inner, self.rows = inner, []

    def __call__(self, prompts: Any, completions: Any, image: list[Any], **columns: Any) -> list[float]:
        earned = self.inner(prompts, completions, image=image, **columns)
        for picture, completion, value in zip(image, completions, earned, strict=True):
            text = completion[-1]["content"]
            self.rows.append(
                {
                    "pixels": picture.convert("RGB").tobytes().hex(),
                    "negatives": self.inner.negatives_of(picture),
                    "text": text,
                    "reward": value,
                }
            )
        return earned


if __name__ == "__main__":
    from trl import GRPOTrainer

    torch.set_num_threads(1)
    out, watched = Path(sys.argv[1]), Watched(reward())
    trainer = GRPOTrainer(
        EXAMPLE["captioner"](steps=0),
        watched,
        settings(out),
        train_dataset=data(),
        processing_class=EXAMPLE["processor"](),
    )
    trainer.train()
    rank, world = int(os.environ["RANK"]), torch.distributed.get_world_size()
    seen = {"world": world, "processes": trainer.accelerator.num_processes, "rows": watched.rows}
    (out / f"{rank}.json").write_text(json.dumps(seen))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(
        0
    )  # all is written; threads of gloo that are left make the interpreter's own end abort now and then
