"""Judges of a user's own: answers that are none are named, and so is all that measuring refuses, before any fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import hypertransport_world as world
import tiny_judge
from trimtab.errors import ConfigError, DataError, ModelError
from trimtab.job import carry_out
from trimtab.steer.hypertransport.judging import CheckedJudge, judge_of, judge_problem

PROMPTS = ["red cross left", "blue ring right"]


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("see", None, r"judge, see\(\): got a NoneType, expected a mapping of attributes"),
        ("see", ["red", "blue"], r"see\(\): got a list, expected a mapping"),
        ("see", {"colour": ["red"]}, r"see\(\): got 1 texts of 'colour', expected a list of 2"),
        ("see", {"colour": ["red"] * 3}, "got 3 texts of 'colour', expected a list of 2"),
        ("see", {"colour": "red"}, "got a str, expected a list of 2 texts of 'colour'"),
        ("see", {"colour": [1, 2]}, "got a int of 'colour', expected texts, '' where a value is unknown"),
        ("see", {"colour": ["red", None]}, "got a NoneType of 'colour', expected texts"),
        ("asked", {"side": "left"}, r"asked\(\): got a str, expected a list of 2 texts of 'side'"),
        ("asked", {"side": ["left"]}, r"asked\(\): got 1 texts of 'side'"),
        ("prompted", "red", r"prompted\(\): got a str, expected a list of 2 texts"),
        ("prompted", ["red"], r"prompted\(\): got 1 texts, expected a list of 2"),
        ("truth", ["red"], r"truth\(\): got 1 outputs, expected a list of 2 outputs"),
        ("truth", [None, None], r"truth\(\): got a NoneType, expected pictures or texts, or None for all"),
    ],
)
def test_answers_that_are_none_are_named(monkeypatch, method, answer, message):
    monkeypatch.setattr(tiny_judge.TinyJudge, method, lambda *_: answer)
    judge = judge_of("tiny_judge:TinyJudge")
    more = {"see": (), "asked": (), "prompted": ({},), "truth": ({}, 0)}[method]
    with pytest.raises(DataError, match=message):
        getattr(judge, method)(PROMPTS, *more)


def test_answers_that_are_some_come_through():
    plain, checked = tiny_judge.TinyJudge(), judge_of("tiny_judge:TinyJudge")
    assert isinstance(checked, CheckedJudge)
    assert checked.asked(PROMPTS) == plain.asked(PROMPTS)
    assert checked.prompted(PROMPTS, {"colour": "red"}) == plain.prompted(PROMPTS, {"colour": "red"})
    pictures = checked.truth(PROMPTS, {"colour": "red"}, 0)
    assert checked.see(pictures) == plain.see(pictures)
    arrays = np.stack([np.asarray(one) for one in pictures])
    assert CheckedJudge(_Known(arrays)).truth(PROMPTS, {}, 0)[1].shape == (16, 16, 3)
    assert CheckedJudge(_Known(None)).truth(PROMPTS, {}, 0) is None


class _Known(tiny_judge.TinyJudge):
    def __init__(self, made):
        self.made = made

    def truth(self, prompts, values, seed):
        return self.made


def test_what_makes_no_judge_is_a_setting_that_is_wrong(tmp_path, monkeypatch):
    (tmp_path / "bursting.py").write_text("raise RuntimeError('boom')")
    monkeypatch.syspath_prepend(tmp_path)
    for name, message in (
        ("json:loads", r"TypeError: missing a required argument: 's'"),
        ("bursting:Judge", "RuntimeError: boom"),
    ):
        with pytest.raises(ConfigError, match=f"judge: got '{name}' .*{message}"):
            judge_of(name)
    problem = judge_problem("bursting.inner:Judge")
    assert problem is not None
    assert "RuntimeError: boom" in problem.got
    assert judge_problem("no_such_file:Judge").hint == "a file no_such_file.py on PYTHONPATH"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return world.config(tmp_path_factory.mktemp("judged"), rivals=False, shown_training=0)


def refused(config, folder, error, message):
    """A job that is refused before the first step of a fit."""
    steps = []
    with pytest.raises(error, match=message):
        carry_out(config, folder, lambda step, _: steps.append(step))
    assert steps == []


def test_what_measuring_refuses_is_refused_before_any_fit(config, tmp_path, monkeypatch):
    with monkeypatch.context() as changed:
        changed.setattr(tiny_judge.TinyJudge, "see", lambda *_: {})
        refused(config, tmp_path / "a", DataError, "the attribute 'colour', expected one of")
    with monkeypatch.context() as changed:
        changed.setattr(tiny_judge.TinyJudge, "prompted", lambda _, prompts, values: ["mauve"] * len(prompts))
        refused(config, tmp_path / "b", ModelError, "prompt 0: got the word 'mauve'")
    rows = [row | {"values": {"size": "big"}} for row in world.rows()]
    sized = replace(config, concepts=str(world.write_rows(tmp_path / "sized.jsonl", rows)))
    refused(sized, tmp_path / "d", DataError, r"the attribute 'size', expected one of \('colour'")
    texts = replace(config, judge="", judge_encoder=str(world.sentences(tmp_path / "bert")))
    refused(texts, tmp_path / "c", ModelError, "which reads texts alone, expected an encoder of two towers")


def test_a_prompt_that_cannot_be_read_is_refused_before_any_fit(config, tmp_path):
    """Of a training concept, which no step may draw for long, and of a held-out one."""
    for split in ("train", "held_values"):
        rows = world.rows()
        next(row for row in rows if row["split"] == split)["prompts"].append("mauve")
        path = world.write_rows(tmp_path / f"{split}.jsonl", rows)
        refused(
            replace(config, concepts=str(path)),
            tmp_path / split,
            ModelError,
            "concept '.*': prompt .*'mauve'",
        )


def test_no_more_training_concepts_are_shown_than_trained_on(config, tmp_path):
    refused(
        replace(config, train=2, shown_training=3), tmp_path / "run", DataError, "got 2 to show .* at least 3"
    )
