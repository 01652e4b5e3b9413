"""Surveys of a fine-tuning run: counts, mistakes with file and line, and a cost that the run then comes to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import worlds
from trimtab import DynaMiCS, Feedback, Fit, Uniform
from trimtab.adapt.dynamics.job import DynamicsConfig
from trimtab.adapt.forgetting.job import ForgettingConfig
from trimtab.adapt.mixer import Needs
from trimtab.adapt.session import make_roles
from trimtab.adapt.survey import UNKNOWN
from trimtab.data import splits
from trimtab.data.domains import Origin
from trimtab.runs.paths import cache_home

FIT = Fit(steps=16, batch_size=2, seq_len=32, eval_sequences=16, probe_sequences=8, eval_points=3, lr=1e-4)


def write(name: str, records: Sequence[Any]) -> None:
    Path(name).write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    worlds.llama().save_pretrained(folder)
    worlds.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def job(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DynamicsConfig:
    """Two domains to train on and a small one to keep, of as many sequences as records."""
    monkeypatch.chdir(tmp_path)
    write("maths.jsonl", [{"prompt": f"{n} + 1 = ", "completion": str(n + 1), "id": n} for n in range(300)])
    write("code.jsonl", [{"prompt": f"f({n})", "completion": f" -> {n % 7}"} for n in range(200)])
    write("web.jsonl", [{"prompt": f"say {n}: ", "completion": str(n)} for n in range(24)])
    data = {"train": {"maths": "maths.jsonl", "code": "code.jsonl"}, "evaluate": {"web": "web.jsonl"}}
    roles: dict[str, Any] = {"targets": ("maths",), "constraints": {"web": 0.5}}
    return DynamicsConfig(model=model, **data, **roles, mixer=Uniform(), fit=FIT, device="cpu")


def test_counts_of_every_split(job: DynamicsConfig) -> None:
    survey = job.survey()
    table = survey.tables["data"].set_index(["domain", "split"])
    assert list(table.index) == [
        *((name, split) for name in ("maths", "code") for split in splits.SPLITS),
        *(("web", split) for split in ("validation", "test")),
    ]
    assert table.loc["maths", "records"].sum() == 300
    assert table.loc["web", "records"].sum() == 24
    assert (table["cut_share"] == 0).all()
    assert "Data of maths: column 'id' not used." in survey.notes
    assert any(note.startswith("Judged on fewer than 30 records") for note in survey.notes)
    assert survey.examples["maths, what is learned in [[ ]]"].endswith("[[1 <eos>]]")
    assert survey.problems == ()


def test_what_is_cut_and_what_has_no_loss(job: DynamicsConfig) -> None:
    texts = ["x" * length for length in [4] * 80 + [60] * 20]
    write("long.jsonl", [{"prompt": f"{n} ", "completion": text} for n, text in enumerate(texts)])
    write("far.jsonl", [{"prompt": f"{n} " + "x" * (50 * (n % 2)), "completion": "y"} for n in range(200)])
    survey = replace(job, train={**job.train, "long": "long.jsonl", "far": "far.jsonl"}).survey()
    table = survey.tables["data"].set_index(["domain", "split"])
    assert 0.1 < table.loc[("long", "train"), "cut_share"] < 0.3
    assert 0.4 < table.loc[("far", "train"), "no_loss_share"] < 0.6
    notes = " ".join(survey.notes)
    assert "sequences were cut at 32 tokens; a larger seq_len keeps more" in notes
    assert (
        "records dropped, without a token that carries loss in the first 32; a larger seq_len keeps" in notes
    )


def test_every_domain_tells_its_mistake(job: DynamicsConfig) -> None:
    lines = [json.dumps({"text": f"text {n}"}) for n in range(80)]
    lines[56] = "{"
    Path("broken.jsonl").write_text("\n".join(lines))
    write("five.jsonl", [{"text": "abc"} for _ in range(5)])
    write("prompts.jsonl", [{"prompt": f"{n} " + "x" * 50, "completion": "y"} for n in range(200)])
    write("few.jsonl", [{"prompt": f"{n}", "completion": "y"} for n in range(40)])
    train = {**job.train, "broken": "broken.jsonl", "prompts": "prompts.jsonl"}
    evaluate = {"five": "five.jsonl", "few": "few.jsonl"}
    survey = replace(job, train=train, evaluate=evaluate, constraints={}).survey()
    assert [problem.where for problem in survey.problems] == [
        "train.broken, broken.jsonl:57",
        "train.prompts, split 'train'",
        "evaluate.five, split 'test'"
        if "'test'" in survey.problems[2].where
        else "evaluate.five, split 'validation'",
    ]
    assert survey.problems[1].hint == "a larger seq_len"
    assert set(survey.tables["data"]["domain"]) == {"maths", "code", "few"}
    assert "all_in_multiple" not in survey.cost


def test_too_few_sequences_for_a_batch(job: DynamicsConfig) -> None:
    (problem,) = replace(job, fit=replace(FIT, batch_size=500)).survey().problems[:1]
    assert problem.where == "train.maths, split train"
    assert problem.expected == "at least 500, one batch"


def test_rows_longer_than_the_models_positions(job: DynamicsConfig) -> None:
    write("long.jsonl", [{"text": f"{n} " + "abc " * 40} for n in range(200)])
    survey = replace(job, train={**job.train, "long": "long.jsonl"}, fit=replace(FIT, seq_len=80)).survey()
    (problem,) = survey.problems
    assert (problem.where, problem.hint) == ("fit.seq_len", "64")
    assert problem.got == "80 tokens in a row of train.long, split validation"


def test_the_same_file_twice(job: DynamicsConfig) -> None:
    survey = replace(job, evaluate={"web": "web.jsonl", "held": "maths.jsonl"}).survey()
    assert any("evaluation records of held are trained on in maths" in note for note in survey.notes)


def test_what_the_run_makes_or_downloads_is_not_read(job: DynamicsConfig) -> None:
    evaluate = {"web": Origin("hf:someone/data"), "made": "lab:fonts"}
    survey = replace(job, evaluate=evaluate).survey()
    assert "evaluate.web: hf:someone/data is not read before the run, which downloads it." in survey.notes
    assert "evaluate.made: lab:fonts is not read before the run, which makes it." in survey.notes
    assert survey.problems == ()
    assert survey.cost == {}


def test_characters_where_there_is_no_tokenizer(job: DynamicsConfig) -> None:
    survey = replace(job, model="someone/elsewhere").survey()
    table = survey.tables["data"].set_index(["domain", "split"])
    assert list(table.columns) == ["records", "characters", "skipped"]
    assert table.loc["web", "characters"].sum() == sum(len(f"say {n}: {n}") for n in range(24))
    assert UNKNOWN in survey.notes


def test_a_damaged_tokenizer_is_a_problem(job: DynamicsConfig, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.json").write_text("{}")
    problems = replace(job, model="bare").survey().problems
    assert [problem.where for problem in problems] == ["model"]


def test_the_first_records_of_large_files(job: DynamicsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "SURVEYED_RECORDS", 90)
    before = set((cache_home() / "tokens").glob("*"))
    survey = job.survey()
    assert survey.tables["data"].query("domain == 'maths'")["records"].sum() == 90
    assert "train.maths: counted on its first 90 records." in survey.notes
    assert len(set((cache_home() / "tokens").glob("*")) - before) <= 1  # the domain that is read whole


@pytest.mark.parametrize(
    "mixer",
    [
        Uniform(),
        Feedback(every=5),
        DynaMiCS(blocks=6),
        DynaMiCS(blocks=6, mass="planned"),
        DynaMiCS(schedule=6, probe_steps=2),
    ],
    ids=["uniform", "feedback", "fed back", "kept", "rolled-back"],
)
def test_planned_is_booked(job: DynamicsConfig, mixer: Any, tmp_path: Path) -> None:
    """Validation splits of 12 to 16 sequences and fewer than a reading asks for, as of small domains."""
    planned = replace(job, mixer=mixer)
    survey = planned.survey()
    cost = planned.finetuned(tmp_path / "run", "planned").cost
    assert survey.cost["all_in_multiple"] == pytest.approx(cost.all_in_multiple, abs=1e-12)
    assert planned.cost()["training_multiple"] == pytest.approx(cost.training_multiple, abs=1e-12)
    assert planned.cost()["all_in_multiple"] >= cost.all_in_multiple - 1e-12


def test_the_bound_holds_for_weights_that_are_rounded(job: DynamicsConfig, tmp_path: Path) -> None:
    """Each checkpoint that might be chosen is read once more, as saved."""
    worlds.llama(dtype=torch.bfloat16).save_pretrained("narrow")
    worlds.tokenizer().save_pretrained("narrow")
    planned = replace(job, model="narrow", fit=replace(FIT, lr=1e-2))
    booked = planned.finetuned(tmp_path / "run", "narrow").cost.all_in_multiple
    assert 1 < booked <= planned.survey().cost["all_in_multiple"] <= planned.cost()["all_in_multiple"]
    assert job.survey().cost["all_in_multiple"] == 1


def test_the_bound_holds_for_validation_splits_of_any_length() -> None:
    roles = make_roles(["a", "b"], ["c"], ["a"], {})
    fit = Fit(steps=50, batch_size=4, eval_sequences=12, probe_sequences=5, eval_points=4)
    for needs in (
        Needs(sampled_readings=30),
        Needs(probe_steps=40, sampled_readings=9, whole_readings=2),
        Needs(),
    ):
        bound = needs.report(fit, roles).all_in_multiple
        exact = [
            needs.report(fit, roles, dict(zip("abc", sizes, strict=True))).all_in_multiple
            for sizes in ((a, b, c) for a in range(2, 14) for b in (2, 5, 12) for c in (2, 7))
        ]
        assert max(exact) <= bound + 1e-12
        assert max(exact) == pytest.approx(bound, rel=0.1)


def test_forgetting_has_two_domains_or_a_file_of_runs(job: DynamicsConfig) -> None:
    shape: dict[str, Any] = {"models": {"tiny": job.model}, "tokens": (10**6,), "fit": FIT}
    write("texts.jsonl", [{"text": text} for text in worlds.texts("code", "train", 300)])
    write("more.jsonl", [{"text": text} for text in worlds.texts("web", "train", 300)])
    survey = ForgettingConfig(domain="texts.jsonl", pretraining="more.jsonl", **shape).survey()
    assert set(survey.tables["data"]["domain"]) == {"target", "pretraining"}
    (problem,) = survey.problems
    assert problem.where == "tokens"
    assert problem.expected == "1000000 or more to train on"
    row = "1000,100,0,3.5,3,2"
    Path("points.csv").write_text("params,tokens,inject,loss_pt,loss_pt0,loss_ft\n" + f"{row}\n{row}\n")
    runs = ForgettingConfig(points="points.csv").survey().tables["runs"]
    assert runs.to_dict("records") == [{"params": 1000, "tokens": 100, "inject": 0, "runs": 2}]
