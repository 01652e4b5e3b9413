"""What a mixture costs a trainer between its borders: steps per second beside the plain Trainer, in one run.

    python benchmarks/trainer/overhead.py        writes benchmarks/results/trainer/overhead.json

Both train the same model on the same rows in the same order with the same collator; only the mixture has its callback
and its own order of rows. A pair of runs goes ABBA, so that a drift of the machine hits both alike. Steps at which
losses are read or the mixer is asked are left out, with the step after each, whose batch a loader fetches anew: what
they cost is told apart. `--workers 2` is with loader workers that stay alive.

A shared machine changes its pace from one run to the next, so the ratio is also told in seconds of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

from trimtab import Feedback, TrainerMixture, load
from trimtab.data.mixture_rows import Key
from trimtab.lab.corpora import corpus
from trimtab.lab.models import lab_model
from trimtab.numerics.bootstrap import student
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware, versions
from trimtab.runs.serialise import to_json
from trimtab.train.hosted import HostedLoop

RESULT = Path(__file__).parents[1] / "results" / "trainer" / "overhead.json"
STEPS, EVERY, PAIRS, WARM = 72, 24, 6, 4
"""Steps of a run, steps between the mixer's questions, pairs of runs, and first steps that count for nothing."""


class Watch(TrainerCallback):
    """The moments at which steps begin, by the clock and in processor time of this process."""

    def __init__(self) -> None:
        self.moments: list[tuple[float, float]] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.moments.append((time.perf_counter(), time.process_time()))


def arguments(folder: str, workers: int) -> TrainingArguments:
    return TrainingArguments(
        folder,
        max_steps=STEPS,
        per_device_train_batch_size=8,
        learning_rate=1e-4,
        logging_steps=STEPS,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
    )


def mixed(tokenizer: Any) -> TrainerMixture:
    """A mixture that reads little and seldom."""
    return TrainerMixture(
        train={name: corpus(name) for name in ("headers", "python", "docstrings")},
        mixer=Feedback(targets=["headers"], constraints={"python": 0.05}, every=EVERY),
        tokenizer=tokenizer,
        seq_len=128,
        eval_sequences=8,
        test_sequences=8,
        eval_points=1,
        load_best=False,
        seed=0,
    )


def run(workers: int, rows: list[list[Key]] | None, mixture: TrainerMixture) -> np.ndarray:
    """The moments of one run; of the plain trainer where it is told the rows."""
    watch, model = Watch(), load(lab_model("text-small"))
    if rows is None:
        dataset: Any = mixture.dataset
        callbacks: list[TrainerCallback] = [mixture.callback, watch]
    else:
        records = [mixture.dataset[key] for batch in rows for key in batch]
        dataset, callbacks = Dataset.from_list(records), [watch]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model.module,
            arguments(folder, workers),
            train_dataset=dataset,
            data_collator=default_data_collator,
            callbacks=callbacks,
        )
        trainer.train()
    return np.array(watch.moments)


def between(moments: np.ndarray) -> list[float]:
    """Seconds of the steps that lie between borders."""
    taken = np.diff(moments)
    return [
        float(one) for step, one in enumerate(taken) if step >= WARM and step % EVERY not in (0, EVERY - 1)
    ]


def at_borders(moments: np.ndarray) -> list[float]:
    """Seconds from the start of the last step before a border to that of the first after it."""
    taken = np.diff(moments)
    return [float(taken[step - 1]) for step in range(EVERY, STEPS, EVERY)]


def interval(values: list[float]) -> dict[str, float]:
    """The mean with its 95 % interval (Student) over pairs."""
    return vars(student(np.array(values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    asked = parser.parse_args()
    rows: list[list[Key]] = []
    follow = HostedLoop.follow

    def noted(self: HostedLoop, weights: Any) -> list[Key]:
        rows.append(follow(self, weights))
        return rows[-1]

    mixture = mixed(load(lab_model("text-small")).tokenizer)
    HostedLoop.follow = noted  # type: ignore[method-assign]
    run(asked.workers, None, mixture)  # the rows, and everything warm
    HostedLoop.follow = follow  # type: ignore[method-assign]
    pairs = []
    for number in range(asked.pairs):
        order = ("plain", "mixture") if number % 2 else ("mixture", "plain")
        moments = {name: run(asked.workers, rows if name == "plain" else None, mixture) for name in order}
        steps, work = (
            {name: statistics.median(between(one[:, part])) for name, one in moments.items()}
            for part in (0, 1)
        )
        extra = statistics.median(at_borders(moments["mixture"][:, 0])) - steps["mixture"]
        ratios = {"ratio": steps["mixture"] / steps["plain"], "work_ratio": work["mixture"] / work["plain"]}
        pairs.append({**steps, **ratios, "border_seconds": extra})
        print(pairs[-1], file=sys.stderr)
    found = {
        "command": f"python benchmarks/trainer/overhead.py --workers {asked.workers} --pairs {asked.pairs}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": versions() | {"python": sys.version.split()[0]},
        "hardware": hardware(),
        "load_average": os.getloadavg()[0],
        "workers": asked.workers,
        "steps": STEPS,
        "pairs": pairs,
        "seconds_per_step": {name: interval([pair[name] for pair in pairs]) for name in ("plain", "mixture")},
        "ratio_of_seconds_per_step": interval([pair["ratio"] for pair in pairs]),
        "ratio_of_processor_seconds_per_step": interval([pair["work_ratio"] for pair in pairs]),
        "seconds_at_a_border_beyond_a_step": interval([pair["border_seconds"] for pair in pairs]),
    }
    name = RESULT if not asked.workers else RESULT.with_stem(f"overhead-{asked.workers}-workers")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(name, to_json(found, indent=1) + "\n")
    print(json.dumps({key: found[key] for key in found if "second" in key}, indent=1))


if __name__ == "__main__":
    main()
