"""A sweep of 24 lab runs, killed with SIGKILL half-way and started again: nothing is repeated, the table is the same.

    python benchmarks/forgetting/killed.py [--backend loky|ray] [--jobs 2]
                                        writes benchmarks/results/forgetting/killed-<backend>.json

The reference is the same sweep without a kill. Every run writes a line to a file when it is called and trains a model
of 74 thousand parameters for some steps on a little real text; "called" counts these lines.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record import write

RUNS, STEPS, CHARACTERS = 24, 12, 40_000
CODE = Path(__file__).resolve()


def one(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One lab run: fine-tune the smallest lab model; loss on test."""
    from trimtab.adapt.finetune import finetune
    from trimtab.adapt.mixers.fixed import Replay
    from trimtab.data.domains import Domain
    from trimtab.models.load import load
    from trimtab.train.settings import Fit

    with (folder.parent / "called.txt").open("a") as file:
        file.write(folder.name + "\n")
    fit = Fit(
        steps=STEPS,
        batch_size=4,
        seq_len=64,
        lr=cell["lr"],
        eval_sequences=8,
        probe_sequences=4,
        test_sequences=16,
        eval_points=3,
        checkpoint_every=4,
    )
    done = finetune(
        load(cell["model"], device="cpu"),
        train={name: Domain.from_path(name, path) for name, path in cell["domains"].items()},
        mixer=Replay(targets=["fonts"], share=0.25),
        fit=fit,
        seed=cell["seed"],
        out=folder / "run",
    )
    return {
        "step": done.step,
        **{f"loss of {row['domain']}": row["loss"] for row in done.final.to_dict("records")},
    }


def cells(home: Path) -> dict[str, Any]:
    from trimtab.lab.corpora import corpus
    from trimtab.lab.models import lab_model, read_texts

    model, domains = str(lab_model("text-tiny")), {}
    for name in ("fonts", "python"):
        domains[name] = str(home / name)
        for split in ("train", "validation", "test"):
            (home / name).mkdir(parents=True, exist_ok=True)
            lines = [json.dumps({"text": one}) for one in read_texts(corpus(name), split, CHARACTERS)]
            (home / name / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rates = (1e-3, 3e-3, 1e-2)
    return {
        f"{seed}, {rate:g}": {"model": model, "domains": domains, "seed": seed, "lr": rate}
        for seed in range(RUNS // len(rates))
        for rate in rates
    }


def inner(folder: str, backend: Any, jobs: int) -> None:
    """The sweep, in a process of its own."""
    from killed import one as function

    from trimtab.runs.sweep import sweep

    done = sweep(function, cells(Path(folder).parent), folder, jobs=jobs, backend=backend)
    print(json.dumps({"results": done.results, "failures": done.failures}, sort_keys=True))


def started(folder: Path, backend: str, jobs: int) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(CODE.parent), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, str(CODE), "--inner", str(folder), "--backend", backend, "--jobs", str(jobs)]
    env = os.environ | {"PYTHONPATH": path}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)


def table(process: subprocess.Popen[str]) -> Any:
    return json.loads(process.communicate()[0].splitlines()[-1])


def finished(folder: Path) -> list[str]:
    found = []
    for record in folder.glob("*/cell.json"):
        found += [record.parent.name] if json.loads(record.read_text())["status"] == "done" else []
    return sorted(found)


def called(folder: Path) -> list[str]:
    return (folder / "called.txt").read_text().splitlines()


def demonstrate(home: Path, backend: str, jobs: int) -> dict[str, Any]:
    start = time.monotonic()
    whole = table(started(home / "whole", backend, jobs))
    seconds = time.monotonic() - start
    process = started(home / "killed", backend, jobs)
    while len(finished(home / "killed")) < RUNS // 2:
        assert process.poll() is None, "the sweep ended before it was killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(5)  # its workers notice
    done, before = finished(home / "killed"), called(home / "killed")
    again = table(started(home / "killed", backend, jobs))
    calls = called(home / "killed")[len(before) :]
    return {
        "runs": RUNS,
        "finished when killed": len(done),
        "begun when killed": len(set(before)),
        "called after": len(calls),
        "finished runs called again": len(set(done) & set(calls)),
        "the same table as without a kill": again == whole,
        "failures": len(again["failures"]),
        "seconds without a kill": round(seconds, 1),
        "table": whole["results"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--backend", default="loky", choices=["loky", "ray"])
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--inner", help=argparse.SUPPRESS)
    asked = options.parse_args(arguments)
    if asked.inner:
        inner(asked.inner, asked.backend, asked.jobs)
        return
    with tempfile.TemporaryDirectory() as home:
        body = demonstrate(Path(home), asked.backend, asked.jobs)
    write(f"killed-{asked.backend}", body, ("torch", *(["ray"] if asked.backend == "ray" else [])))
    print({name: value for name, value in body.items() if name != "table"})


if __name__ == "__main__":
    main()
