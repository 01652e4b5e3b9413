"""A run on records with groups: its numbers are over groups, and page, terminal, card and check say so."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import worlds
from finetune_results import MakeResult
from trimtab import Domain, DynaMiCS, Uniform, finetune
from trimtab.adapt.dynamics.job import DynamicsConfig
from trimtab.adapt.dynamics.limits import constraint_readings
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.record import data_table
from trimtab.adapt.units import Units, few_note, few_units, group_problems, units_read
from trimtab.data.domains import Origin
from trimtab.data.tokens import tokenise
from trimtab.errors import ConfigProblems
from trimtab.train.settings import Fit

pytestmark = pytest.mark.usefixtures("undrawn")  # what is drawn is looked at in dynamics/test_page.py

Name = Callable[[int], str]


def named(name: str, group: Name | None, *, trainable: bool = True) -> Domain:
    """A domain of `worlds` whose records have a group each, by their number in the split."""
    domain = worlds.domain(name, trainable=trainable)
    splits = {split: [item.text for item in domain.items(split)] for split in domain.splits}  # type: ignore[union-attr]
    if group is None:
        return Domain(name, **splits)
    return Domain(
        name,
        **{
            split: [{"text": text, "group": f"{split} {group(k)}"} for k, text in enumerate(texts)]
            for split, texts in splits.items()
        },
    )


def run(groups: Mapping[str, Name]) -> FinetuneResult:
    """A quick run on three domains, some with groups."""
    train = {name: named(name, groups.get(name)) for name in worlds.TRAIN}
    mixer = DynaMiCS(targets=("math",), constraints={"web": 0.3}, schedule=4)
    fit = replace(worlds.QUICK, eval_sequences=999, test_sequences=None, probe_sequences=8)
    return finetune(worlds.model(), train=train, evaluate={}, mixer=mixer, fit=fit)


@pytest.fixture(scope="module")
def plain() -> FinetuneResult:
    return run({})


@pytest.fixture(scope="module")
def grouped() -> FinetuneResult:
    """Pairs of records of the target, and of the constraint, are of one group."""
    return run({"math": lambda k: str(k // 2), "web": lambda k: str(k // 4)})


def test_a_group_for_each_record_changes_no_number(plain: FinetuneResult) -> None:
    alone = run(dict.fromkeys(worlds.TRAIN, lambda k: f"record {k}"))
    pd.testing.assert_frame_equal(alone.final, plain.final, check_exact=True)
    pd.testing.assert_frame_equal(alone.losses, plain.losses, check_exact=True)
    pd.testing.assert_frame_equal(alone.target_records, plain.target_records, check_exact=True)
    for one, other in zip(alone.slopes, plain.slopes, strict=True):
        pd.testing.assert_frame_equal(one.standard_errors, other.standard_errors, check_exact=True)


def test_intervals_are_over_groups_and_losses_are_what_they_were(
    plain: FinetuneResult, grouped: FinetuneResult
) -> None:
    ours, theirs = (result.final.set_index("domain") for result in (grouped, plain))
    pd.testing.assert_series_equal(ours["reference"], theirs["reference"], check_exact=True)
    assert ours["units"].to_dict() == {"math": 4, "code": 8, "web": 2}
    rows = grouped.target_records
    total, mean = rows["tokens"].sum(), rows["change"].sum() / rows["tokens"].sum()
    error = math.sqrt(4 / 3 * ((rows["change"] - mean * rows["tokens"]) ** 2).sum()) / total
    expected = stats.t.interval(0.95, 3, mean, error)
    assert len(rows) == 4
    assert (ours.loc["math", "change_low"], ours.loc["math", "change_high"]) == pytest.approx(
        expected, rel=1e-9
    )
    first = grouped.slopes[0].standard_errors.loc["math"], plain.slopes[0].standard_errors.loc["math"]
    assert (first[0] != first[1]).all()


def test_counts_are_of_records_and_groups(grouped: FinetuneResult) -> None:
    table = grouped.data.set_index(["domain", "split"])
    assert table.loc[("web", "test"), ["records", "groups", "read_records", "read_groups"]].tolist() == [
        8,
        2,
        8,
        2,
    ]
    assert table.loc[("math", "train"), ["records", "groups"]].tolist() == [40, 20]
    assert table.loc["code", ["groups", "read_groups"]].isna().all(axis=None)
    assert units_read(grouped, "validation") == {
        "math": Units(4, "group"),
        "code": Units(8, "record"),
        "web": Units(2, "group"),
    }
    assert grouped.to_frame()["n"].tolist() == [4, 8, 2]


def test_page_terminal_and_card_say_groups(grouped: FinetuneResult) -> None:
    few = few_note({("web", split): Units(2, "group") for split in ("validation", "test")})
    assert few == (
        "Judged on fewer than 30 groups: web validation (2), web test (2). Its intervals say little about other data "
        "of its kind."
    )
    counted = "math (8 records in 4 groups), web (8 records in 2 groups)"
    over = f"Records of a group count as one in the intervals of {counted}."
    page = html.unescape(FinetuneResult.page([grouped]))
    for told in (page, grouped.to_text(), grouped.card()):
        assert (over if told != page else "Where a domain has groups, they are over its groups.") in told
        assert few in told
    assert re.search(r"\d+ of math \(4 groups\), \d+ of code, \d+ of web \(2 groups\)", page)
    assert "<th>groups read</th>" in re.sub(r"<th[^>]*>", "<th>", page)
    assert re.search(r"\| web \| constraint \|.*\| 8 in 2 groups \|", grouped.card())


def test_without_groups_nothing_speaks_of_them(plain: FinetuneResult) -> None:
    page = html.unescape(FinetuneResult.page([plain]))
    words = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    assert "groups" not in re.sub(r"<[^>]*>", " ", words)
    assert "group" not in plain.to_text()
    assert "groups" not in plain.card()


def test_numbers_of_groups_come_back(grouped: FinetuneResult, tmp_path: Path) -> None:
    again = FinetuneResult.load(grouped.save(tmp_path / "result.json"))
    pd.testing.assert_frame_equal(again.data, grouped.data)
    assert few_units(again) == few_units(grouped)


def test_a_constraint_chosen_on_few_groups_is_marked(result_of: MakeResult) -> None:
    """On many test groups, but few of validation; and the other way round with records."""
    result = result_of()
    read = {
        ("python", "validation"): (300, 12),
        ("python", "test"): (300, 60),
        ("tests", "validation"): (90, math.nan),
        ("tests", "test"): (7, math.nan),
    }
    rows = [
        {"domain": name, "split": split, "read": records, "read_records": records, "read_groups": groups}
        for (name, split), (records, groups) in read.items()
    ]
    result = replace(result, data=pd.DataFrame(rows))
    assert few_units(result) == {
        ("python", "validation"): Units(12, "group"),
        ("tests", "test"): Units(7, "record"),
    }
    told = "groups or records (a packed sequence counts as one): python validation (12 groups), tests test (7 records)"
    assert f"Judged on fewer than 30 {told}. Their intervals say little" in result.to_text()
    one = replace(result, data=pd.DataFrame(rows).assign(**dict.fromkeys(DATA, 0)))
    page = html.unescape(FinetuneResult.page([one]))
    assert re.search(r'unsure">\s*kept, chosen on 12 groups</td>', page)
    assert re.search(r'unsure">\s*kept, on 7 records</td>', page)
    group = html.unescape(FinetuneResult.page([one, replace(one, label="other")]))
    assert len(re.findall(r"kept, chosen on 12 groups</td>", group)) == 4


DATA = (
    "records",
    "blank",
    "skipped",
    "dropped",
    "sequences",
    "truncated",
    "tokens",
    "left_over",
    "probe",
    "groups",
)


def test_the_reserve_for_noise_is_students_over_groups(result_of: MakeResult) -> None:
    result = result_of()
    rows = [
        {"domain": name, "split": "validation", "read": 64, "read_records": 50, "read_groups": groups}
        for name, groups in (("python", 5), ("docstrings", math.nan), ("metadata", 40), ("tests", 2))
    ]
    config = {**result.config, "fit": {**result.config["fit"], "margin": 1.0}}
    readings = constraint_readings(replace(result, data=pd.DataFrame(rows), config=config)).set_index(
        "domain"
    )
    losses = result.losses[result.losses["step"] == 320].set_index("domain")
    half = losses["change_high"] - losses["change"]
    for name, units in (("python", 5), ("docstrings", 50), ("metadata", 40), ("tests", 2)):
        reserve = readings[readings["step"] == 320].loc[name, "reserve"]
        assert reserve == pytest.approx(half[name] / stats.t.ppf(0.975, units - 1), rel=1e-9)


def test_a_split_that_reads_one_group_is_refused() -> None:
    fit = Fit(seq_len=16, batch_size=2)
    single = {"web": tokenise(named("web", lambda _: "all"), worlds.tokenizer(), seq_len=16)}
    problems = list(group_problems(data_table(single, ["web"], fit)))
    assert [problem.where for problem in problems] == ["web, split validation", "web, split test"]
    train = {name: named(name, (lambda _: "all") if name == "web" else None) for name in ("math", "web")}
    mixer = Uniform(targets=("math",), constraints={"web": 0.3})
    with pytest.raises(
        ConfigProblems, match="web, split test: got 1 group, expected at least 2 groups to judge by; try"
    ):
        finetune(worlds.model(), train=train, evaluate={}, mixer=mixer, fit=worlds.QUICK)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DynamicsConfig:
    """A target without groups, and a constraint with five records a group."""
    monkeypatch.chdir(tmp_path)
    worlds.saved_model("model")
    sums = [{"prompt": f"{n} + 1 = ", "completion": str(n + 1)} for n in range(300)]
    plays = [{"text": f"scene {n} of this play", "play": f"play {n // 5}"} for n in range(200)]
    for name, records in (("sums", sums), ("plays", plays)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return DynamicsConfig(
        model="model",
        train={"sums": "sums.jsonl"},
        evaluate={"plays": Origin("plays.jsonl", columns={"group": "play"})},
        targets=("sums",),
        constraints={"plays": 0.5},
        mixer=Uniform(),
        fit=Fit(steps=4, batch_size=2, seq_len=32, eval_sequences=999, eval_points=2),
        device="cpu",
    )


def test_check_counts_groups_and_names_few(job: DynamicsConfig) -> None:
    survey = job.survey()
    table = survey.tables["data"].set_index(["domain", "split"])
    assert table.loc["plays", "records"].sum() == 200
    counted = survey.tables["groups"].set_index(["domain", "split"])
    assert list(counted.index) == [("plays", "validation"), ("plays", "test")]
    assert counted["records"].sum() == 200
    assert counted["groups"].sum() == 40
    np.testing.assert_array_equal(table.loc["plays", "judged_on"], counted["groups"])
    np.testing.assert_array_equal(
        table.loc[("sums", "test"), "judged_on"], table.loc[("sums", "test"), "records"]
    )
    few = {
        ("plays", split): Units(int(counted.loc[("plays", split), "groups"]), "group")
        for split in ("validation", "test")
    }
    sums = {
        ("sums", split): Units(int(table.loc[("sums", split), "records"]), "record")
        for split in ("validation", "test")
    }
    assert few_note(sums | few) in survey.notes
    assert survey.problems == ()


def test_check_tells_groups_in_two_splits(job: DynamicsConfig) -> None:
    Path("split").mkdir()
    for place, split in enumerate(("train", "validation", "test")):
        lines = [json.dumps({"text": f"{split} scene {n}", "group": n // 2 + 5 * place}) for n in range(40)]
        Path(f"split/{split}.jsonl").write_text("\n".join(lines))
    survey = replace(job, train={**job.train, "own": "split"}).survey()
    assert [note for note in survey.notes if "have records in" in note] == [
        "Data: 15 of 20 validation groups of own have records in train too.",
        "Data: 10 of 20 test groups of own have records in train too.",
        "Data: 15 of 20 test groups of own have records in validation too.",
    ]


def test_check_counts_groups_where_there_is_no_tokenizer(job: DynamicsConfig) -> None:
    survey = replace(job, model="someone/elsewhere").survey()
    assert survey.tables["groups"]["groups"].sum() == 40
    assert (
        "groups" not in replace(job, model="someone/elsewhere", evaluate={}, constraints={}).survey().tables
    )
