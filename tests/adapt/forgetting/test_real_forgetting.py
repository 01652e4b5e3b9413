"""Forgetting of the real model: its text, a run of a tiny one, and the law on planted runs."""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmark_scripts import scripts
from tiny_models import build, chat_tokenizer

NOISE = 0.002


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    with scripts("real", "runs", "forgetting") as (runs, forgetting):
        monkeypatch.setattr(forgetting, "N_BOOT", 20)
        yield runs, forgetting


@pytest.fixture
def data(tmp_path: Path) -> Path:
    texts = tmp_path / "data" / "text"
    texts.mkdir(parents=True)
    sums = [f"Question: {k} and {k + 1}?\nAnswer: {2 * k + 1}" for k in range(80)]
    line = (
        " Number {} is the 1 @.@ 5 @-@ inch one , and it is there . It is <unk> . "
        + "It was seen , too . " * 12
    )
    prose = ["", " = Heading = ", *(line.format(k) for k in range(40)), " A <unk> line . "]
    for name, parts in {"math_word_problems": "\n\n".join(sums), "wikitext": "\n".join(prose)}.items():
        for part in ("train", "test"):
            changed = parts if part == "test" else parts.replace("Answer", "So").replace("seen", "read")
            (texts / f"{name}_{part}.txt.gz").write_bytes(gzip.compress(changed.encode()))
    return tmp_path / "data"


def test_text_is_as_it_was_and_no_record_is_in_two_splits(
    bench: tuple[ModuleType, ModuleType], data: Path
) -> None:
    forgetting = bench[1]
    found = forgetting.domains(data, forgetting.Size(problems=30))
    wiki = found["encyclopedia"]
    assert wiki.train[0].startswith("Number 0 is the 1.5-inch one, and it is there. It was read, too. It was")
    assert "unk" not in "".join(wiki.train)
    assert len(wiki.train) == 30
    for one in found.values():
        splits = [set(one.train), set(one.validation), set(one.test)]
        assert sum(map(len, splits)) == len(set.union(*splits))


def test_a_run_is_read_at_several_steps(
    bench: tuple[ModuleType, ModuleType], data: Path, tmp_path: Path
) -> None:
    runs, forgetting = bench
    folder = tmp_path / "model"
    build("llama", vocab_size=264, max_position_embeddings=256).save_pretrained(folder)  # type: ignore[operator]
    chat_tokenizer(None).save_pretrained(folder)
    size = forgetting.Size(steps=4, batch=2, length=32, points=3, judged=4, rank=2, problems=40)
    every = forgetting.cells(1, size, data, str(folder))
    assert [one["share"] for one in every.values()] == list(forgetting.SHARES)
    asked = argparse.Namespace(folder=tmp_path / "cells", jobs=1, gather=False)
    done = runs.results_of(forgetting.run, {"share 0.2, 0": every["share 0.2, 0"]}, asked)
    rows = done["share 0.2, 0"]
    assert [row["step"] for row in rows] == [1, 2, 4]
    assert rows[-1]["tokens"] == pytest.approx(4 * 2 * 32 * 0.8)
    assert len({(row["loss_pt0"], row["loss_ft0"]) for row in rows}) == 1
    for row in rows:
        assert row["rise_low"] <= row["loss_pt"] - row["loss_pt0"] <= row["rise_high"]
    record = forgetting.gathered(every, done, "command", size)
    assert record["cells"] == {"there": 1, "planned": 4}
    assert "run of each share" in record["not fitted"]
    assert record["model"]["weights"] == "dequantised Q4_1"


def planted(shares: tuple[float, ...], *, strength: float = 40.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs that follow the law exactly, but for a little noise."""
    rng, results = np.random.default_rng(0), dict[str, list[dict[str, Any]]]()
    for seed in range(2):
        for share in shares:
            rows = []
            for step in (1, 2, 5, 10, 22, 48):
                tokens = step * 1024 * (1 - share)
                rise = 0.3 * (tokens / 10_000) ** 0.6 / (1 + strength * share) ** 0.8
                rise *= 1 + NOISE * rng.normal()
                losses = {"loss_pt0": 3.0, "loss_pt": 3.0 + rise, "loss_ft0": 2.0, "loss_ft": 1.5}
                ends = {"rise_low": rise - 0.01, "rise_high": rise + 0.01}
                about = {"share": share, "inject": share, "seed": seed, "params": 1000, "seconds": 1.0}
                rows.append({**about, "step": step, "tokens": tokens, **losses, **ends})
            results[f"share {share:g}, {seed}"] = rows
    return {name: {} for name in results}, results


def test_the_law_that_made_the_runs_predicts_the_longest_and_its_rivals_and_control_do_not(
    bench: tuple[ModuleType, ModuleType],
) -> None:
    forgetting = bench[1]
    every, results = planted(forgetting.SHARES)
    record = forgetting.gathered(every, results, "command", forgetting.Size())
    rows = {row["form"]: row for row in record["errors"]["longest"]}
    assert rows["injection"]["error"]["value"] < 0.02
    assert rows["injection"]["error"]["n"] == rows["injection"]["readings"] == 8
    for name in ("without the share", "log-linear", "constant", "nearest readings", "shares of other runs"):
        assert rows[name]["more"]["low"] > 0.05
    assert record["law"]["values"]["beta"]["value"] == pytest.approx(0.6, abs=0.03)
    words = {row["claim"]: row["verdict"] for row in record["verdicts"]}
    assert words["longest held out: the law errs less than each rival"] == "held"
    assert words["longest held out: with the shares of other runs the law errs more"] == "held"
    assert words["fine-tuning without replay raises the pretraining loss"] == "held"
    assert words["1 % of replay prevents it: at least 0.9 of the rise is removed"] == "did not hold"
    kept = [row["removed"] for row in record["replay"] if row["inject"] == 0.2]
    assert kept == pytest.approx([1 - 0.8**0.6 / 9**0.8] * 2, abs=0.01)


def test_replay_that_does_nothing_is_no_merit_of_the_law(bench: tuple[ModuleType, ModuleType]) -> None:
    forgetting = bench[1]
    frame = pd.DataFrame(
        [
            {**row, "run": name}
            for name, rows in planted(forgetting.SHARES, strength=0.0)[1].items()
            for row in rows
        ]
    )
    rows = {row["form"]: row for row in forgetting.compared(frame, frame["step"] == 48)}
    assert rows["without the share"]["more"]["value"] < 0.01


def test_a_share_that_is_held_out_is_read_off_its_neighbours(bench: tuple[ModuleType, ModuleType]) -> None:
    frame = pd.DataFrame(
        [
            {"seed": 0, "step": 1, "inject": share, "loss_pt0": 1.0, "loss_pt": 1.0 + rise}
            for share, rise in ((0.0, 0.8), (0.01, 0.6), (0.05, 9.0), (0.2, 0.2))
        ]
    )
    out = frame["inject"] == 0.05
    assert bench[1].nearest(frame[~out], frame[out]) == pytest.approx([0.4])
