"""The benchmark of DynaMiCS on a real model: groups of its texts, cells on a tiny model, its table on made-up runs."""

from __future__ import annotations

import doctest
import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import worlds
from benchmark_scripts import scripts
from site_pages import sentences
from trimtab import Domain, DynaMiCS
from trimtab.adapt.session import make_roles
from trimtab.runs.serialise import to_json

with (
    scripts("dynamics", "cells"),
    scripts(
        "real", "dynamics_texts", "dynamics_table", "dynamics_cells", "dynamics", "page", "halves"
    ) as found_scripts,
):
    TEXTS, TABLE, CELLS, BENCH, PAGE, HALVES = found_scripts

ARTICLES = 12
PARAGRAPH = (
    " The river {a} flows past town number {b} , which has a mill @-@ house and {c} <unk> . It is old . "
)


def wiki(first: int, count: int) -> str:
    """Articles as WikiText writes them, some of the same title."""
    made = []
    for article in range(first, first + count):
        made.append(f" = Title {article % 5} = ")
        for place in range(4):
            made += ["", " = = Part = = ", "", f" Town {article}.{place} lies on the river . " * 6]
            made.append(PARAGRAPH.format(a=article, b=place, c=article) + f"Fine {article}.{place} . " * 15)
    return "\n".join(made) + "\n"


def item(template: int, pair: str, *, negative: bool, clear: bool) -> str:
    """An item as BBQ has it: two questions of a template, and two contexts of a pair."""
    first, second = pair
    context = f"{first} met {second} at place {template}." + f" {first} was late." * clear
    question = f"Who was {'late' if negative else 'early'} at {template}?"
    answers = f"(a) {first} (b) {second} (c) Unknown"
    right = (first if negative else second) if clear else "Unknown"
    return f"Context: {context}\nQuestion: {question}\nAnswers: {answers}\nCorrect answer: {right}"


def items(templates: Sequence[int]) -> str:
    """Every item of these templates."""
    both = (False, True)
    every = [
        item(template, pair, negative=negative, clear=clear)
        for template in templates
        for pair in ("AB", "BA", "AC")
        for negative in both
        for clear in both
    ]
    return "\n\n".join(every) + "\n\n"


def play(lines: Sequence[int]) -> str:
    return "\n\n".join(
        f"SPEAKER {line % 3}:\nAy, my lord, {line} times {line}.\n{'And on. ' * 9}So." for line in lines
    )


def sums(numbers: Sequence[int]) -> str:
    made = (
        f"Question: What is {one} and {one}?\nAnswer: It is <<{one}+{one}={2 * one}>>\n#### {2 * one}\n\n"
        for one in numbers
    )
    return "".join(made)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small texts in the layout of the real ones."""
    folder = tmp_path_factory.mktemp("data")
    files = {
        "wikitext": (wiki(0, 9), wiki(9, 3)),
        "bias_qa": (items(range(9)), items(range(9, 12))),
        "shakespeare": (play(range(80)), play(range(80, 90))),
        "math_word_problems": (sums(range(60)), sums(range(60, 90))),
    }
    (folder / "text").mkdir()
    for name, both in files.items():
        for part, text in zip(("train", "test"), both, strict=True):
            (folder / "text" / f"{name}_{part}.txt.gz").write_bytes(gzip.compress(text.encode()))
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that fit the small texts."""
    monkeypatch.setattr(TEXTS, "EVALUATED", {"wikitext": 4, "bias_qa": 4})
    monkeypatch.setattr(TEXTS, "HELD_OUT", 20)
    monkeypatch.setattr(TEXTS, "LEAST_RECORDS", 12)
    monkeypatch.setattr(TEXTS.passages, "__defaults__", (500,))


def test_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(TEXTS).failed == 0


def test_paragraphs_are_of_the_article_that_they_stand_in() -> None:
    found = TEXTS.articles("\n" + wiki(0, 7))
    assert list(found) == [f"article {number}" for number in range(7)]  # two share a title
    for number, paragraphs in enumerate(found.values()):
        assert all(f"Town {number}." in one for one in paragraphs[::2])
        assert all(one.startswith(f"It is old. Fine {number}.") for one in paragraphs[1::2])
        assert "<unk>" not in "".join(paragraphs)


def test_items_of_a_template_are_together_whoever_they_name() -> None:
    found = TEXTS.templates(items([3, 1, 2]))
    assert [len(one) for one in found.values()] == [12, 12, 12]
    assert all(" at 3?" in one or "\nQuestion: Who was early at 3?" in one for one in found["template 0"])
    joined = TEXTS.templates(items([1]) + items([2]).replace("at 2?", "at 1?"))
    assert [len(one) for one in joined.values()] == [24]  # the same question: of one template


def test_a_passage_is_contiguous_and_a_repeated_speech_is_in_one() -> None:
    text = play(range(40)) + "\n\nA NAME ALONE:\n\n" + play([3])
    found = TEXTS.passages(text, 500)
    speeches = [speech for one in found.values() for speech in one]
    assert speeches == play(range(40)).split("\n\n")
    assert len(found) > 5
    assert all(400 < sum(map(len, one)) < 700 for one in list(found.values())[:-1])


def test_whole_groups_are_dealt_and_small_ones_are_trained_on() -> None:
    groups = {f"g{number}": [f"{number}.{place}" for place in range(9)] for number in range(10)} | {
        "small": ["s.0"]
    }
    found = TEXTS.dealt(groups, 3, {"validation": 4, "test": 2})
    of = {split: {one["group"] for one in records} for split, records in found.items()}
    assert {split: len(names) for split, names in of.items()} == {"train": 5, "validation": 3, "test": 3}
    assert "small" in of["train"]
    assert len(set.union(*of.values())) == 11
    assert {split: len(records) for split, records in found.items()} == {
        "train": 37,
        "validation": 12,
        "test": 6,
    }
    first, last = found["test"][:2]
    assert (first["text"][-2:], last["text"][-2:]) == (".0", ".8")


@pytest.mark.usefixtures("small")
def test_no_group_is_in_two_splits(data: Path) -> None:
    train, watched = TEXTS.domains(data)
    counts = TEXTS.counted({**train, **watched})
    assert list(train) == ["math", "wikitext", "bias_qa"]
    assert list(watched) == ["shakespeare"]
    assert counts["math"]["train"] == {"records": 40, "groups": 0}
    assert counts["wikitext"]["validation"] == {"records": 20, "groups": 4}
    assert counts["bias_qa"]["test"] == {"records": 24, "groups": 4}
    for name in ("wikitext", "bias_qa", "shakespeare"):
        domain = {**train, **watched}[name]
        groups = [{one.group for one in domain.items(split)} for split in domain.splits]
        assert sum(map(len, groups)) == len(set.union(*groups))
    order = [int(one.group.split()[1]) for one in watched["shakespeare"].items("validation")]
    assert max(order) < min(int(one.group.split()[1]) for one in watched["shakespeare"].items("test"))


@pytest.mark.usefixtures("small")
def test_a_group_in_two_splits_and_too_few_records_are_refused() -> None:
    def records(name: str, groups: str) -> list[dict[str, str]]:
        return [{"text": f"{name} {group} {k}", "group": group} for group in groups for k in range(6)]

    leaking = Domain("web", validation=records("validation", "ab"), test=records("test", "bc"))
    with pytest.raises(ValueError, match="web: got a group in two splits"):
        TEXTS.counted({"web": leaking})
    few = Domain("web", validation=records("validation", "a"), test=records("test", "bc"))
    with pytest.raises(ValueError, match="web, validation: got 6 records, expected at least 12"):
        TEXTS.counted({"web": few})


def test_the_old_defaults_leave_nothing_open() -> None:
    settings = {
        name for name in asdict(DynaMiCS()) if name not in ("preset", "schedule", "probe_steps", "slopes")
    }
    assert not [name for name in settings if getattr(CELLS.OLD_DEFAULTS, name) is None]
    mixers = [replace(one.mixer, targets=("math",)) for one in CELLS.METHODS.values()]  # type: ignore[type-var]
    roles = make_roles(["math", *TEXTS.TRAINED], TEXTS.WATCHED, ["math"], {"wikitext": 0.05})
    assert [problem for mixer in mixers for problem in mixer.problems(roles)] == []
    assert BENCH.TUNED_BY in CELLS.METHODS


def test_the_rate_is_that_at_which_a_fixed_mixture_gained_most() -> None:
    def run(change: float) -> dict[str, Any]:
        return {"run": {"step": 12, "validation": {"0": {"math": 0.0}, "12": {"math": change}}}}

    low, high = BENCH.RATES
    results = {f"100, fixed 0.5, {high:g}": run(-0.4)}
    found = BENCH.chosen(results, {})  # the other is not there yet
    assert (found["rate"], found["tuned"]) == (low, False)
    found = BENCH.chosen(results | {f"100, fixed 0.5, {low:g}": run(-0.3)}, {})
    assert (found["rate"], found["tuned"]) == (high, True)
    assert found["validation_gain_nats"] == {f"{low:g}": 0.3, f"{high:g}": 0.4}
    assert BENCH.validation_gain({"step": 0, "validation": {}}) == 0.0


ASKED = {
    "dtype": "bfloat16",
    "adapter": {"r": 2},
    "constraints": dict.fromkeys(("wikitext", "bias_qa"), 0.05),
}


@pytest.mark.usefixtures("small")
def test_cells_run_on_a_tiny_model_and_are_gathered(data: Path, tmp_path: Path) -> None:
    folder = worlds.model().save_pretrained(tmp_path / "model")
    asked = {
        "model": str(folder),
        **ASKED,
        "constraints": {**ASKED["constraints"], "shakespeare": 0.05},
        "fit": asdict(replace(worlds.QUICK, steps=8, eval_points=3, crossings=1, margin=1.0)),
        "data": str(data),
    }
    rate = BENCH.chosen({}, asked)
    every = BENCH.cells([0], ["ours", "fixed 0.5", "uniform"], rate["rate"], asked)
    assert list(every) == ["0, ours, 0.0003", "0, fixed 0.5, 0.0003", "0, uniform, 0.0003"]
    two = dict(list(every.items())[:2])
    places = tmp_path / "cells", tmp_path / "kept"
    results = BENCH.carried_out(two, *places, 1)
    assert results.keys() == two.keys()
    assert BENCH.ended(every, *places) == results
    others = BENCH.cells([0], ["ours"], rate["rate"], {**asked, "constraints": {"wikitext": 0.1}})
    assert BENCH.ended(others, *places) == {}  # a cell of other settings does not pass for this one
    elsewhere = tmp_path / "another machine", tmp_path / "kept"
    assert (
        BENCH.carried_out({name: {**cell, "data": "nowhere"} for name, cell in two.items()}, *elsewhere, 1)
        == results
    )
    assert str(data) not in "".join(path.read_text() for path in places[1].iterdir())
    assert not (tmp_path / "cells" / "0-ours-0.0003" / "run").exists()
    found = BENCH.gathered(every, results, rate, "command", asked)
    assert found["cells"] == {"there": 2, "planned": 3}
    assert "weights" not in found["model"]  # those of another model are not claimed for this one
    assert BENCH.model_facts({**asked, "model": CELLS.MODEL})["weights"] == "dequantised Q4_1"
    data_rows = {(row["domain"], row["split"]): row for row in found["data"]}
    assert data_rows["wikitext", "test"]["groups"] == 4
    assert data_rows["math", "test"]["groups"] is None
    assert {row["method"] for row in found["table"]} == {"ours", "fixed 0.5"}
    (gap,) = found["differences"]
    assert (gap["other"], gap["seeds"]) == ("fixed 0.5", [0])
    assert gap["gain"]["n"] == len(results["0, ours, 0.0003"]["target_records"])
    assert {one["domain"] for one in found["runs"][0]["completions"]} == {
        "math",
        "wikitext",
        "bias_qa",
        "shakespeare",
    }
    assert str(data) not in json.dumps(found)
    assert json.loads(to_json(found)) == found
    shown(found)


def verdict(page: str, claim: str) -> str:
    """The last cell of a claim's row."""
    row = next(line for line in page.splitlines() if line.startswith(f"| {claim}"))
    return row.split("|")[-2].strip(" *")


def shown(found: dict[str, Any]) -> None:
    """A page of this result: its verdicts follow the numbers, and a missing method is not measured."""
    page = PAGE.page({"dynamics": found})
    assert page.index("| claim |") < page.index("### Methods") < page.index("### Data")
    kept = next(row["kept"] for row in found["table"] if row["method"] == "ours")
    assert verdict(page, "the defaults keep") == ("held" if kept == 1 else "did not hold")
    assert verdict(page, "they gain no less than Feedback") == "not measured"
    assert "Of 3 planned runs, 2 are there." in page
    assert "It was not tuned." in " ".join(page.split())
    ends = {"value": 0.1, "low": 0.0, "high": 0.2, "n": 9}
    found["differences"].append({"other": "feedback", "seeds": [0], "gain": ends, "constrained": ends})
    assert verdict(PAGE.page({"dynamics": found}), "they gain no less than Feedback") == "held"
    ends.update(low=-0.3, high=-0.1)
    assert verdict(PAGE.page({"dynamics": found}), "they gain no less than Feedback") == "did not hold"
    told = parts_of(page)
    assert [one for one in told if len(re.findall(r"[A-Za-z][\w'-]*", one)) > 25] == []


def test_a_page_without_results_has_no_section() -> None:
    assert "##" not in PAGE.page({})
    assert "##" not in PAGE.page({"dynamics": {"table": []}})


def parts_of(text: str) -> list[str]:
    plain = (re.sub(r"`[^`]*`|\[[^\]]*\]|\([^)]*\)", " ", one) for one in sentences(text))
    return [part for one in plain for part in one.split(";")]


def made(
    method: str, change: float, *, seed: int = 0, worst: float = 0.02, wave: float = 0.0, **more: Any
) -> dict[str, Any]:
    """A run that changed the target by so much, on two records by a little less and more."""
    changes = [change - wave, change + wave, change]
    domains = [
        ("math", "target", None, change),
        ("web", "constraint", 0.05, worst),
        ("code", "constraint", 0.05, 0),
    ]
    keys = ("domain", "role", "tolerance", "change", "change_low", "change_high")
    test = [
        dict(zip(keys, (name, role, tolerance, at, at - 0.01, at + 0.01), strict=True))
        for name, role, tolerance, at in domains
    ]
    record = {
        "test": test,
        "step": 12,
        "validation": {
            "0": {"math": 0, "web": 0, "code": 0},
            "12": {"math": change, "web": 0.04, "code": None},
        },
        "cost": {"training_multiple": 1.0, "all_in_multiple": 1.5},
        "relaxed": 0,
        "updates": 0,
        "seconds": 2.0,
    }
    return {
        "method": method,
        "role": "sweep",
        "seed": seed,
        "run": record,
        "target_records": [[number, 100, 100 * at] for number, at in enumerate(changes)],
        **more,
    }


def test_the_search_takes_the_best_on_validation_and_pays_for_all() -> None:
    runs = [made(name, change) for name, change in zip(TABLE.MEMBERS, (-0.1, -0.3, -0.2), strict=True)]
    runs += [made("fixed 0.2", -0.9, seed=1), made("ours", -0.9)]
    (found,) = TABLE.searched(runs)  # the second seed has one member only
    assert (found["method"], found["chose"], found["seed"]) == (TABLE.SEARCH, "fixed 0.5", 0)
    row = TABLE.row(TABLE.SEARCH, [found])
    assert (row["steps"], row["all_in"], row["seconds"]) == (3.0, 4.5, 6.0)
    assert row["chose"] == ["fixed 0.5"]


def test_a_run_that_broke_a_constraint_gained_nothing() -> None:
    runs = [made("ours", -0.2), made("ours", -0.4, seed=1), made("greedy", -0.9, worst=0.06)]
    rows = {row["method"]: row for row in TABLE.rows(runs)}
    assert list(rows) == ["ours", "greedy"]
    assert (rows["ours"]["kept"], rows["greedy"]["kept"]) == (1.0, 0.0)
    assert rows["greedy"]["constrained"] == 0.0
    assert rows["greedy"]["gain"] == pytest.approx(59.343, abs=1e-3)
    assert rows["greedy"]["excess"] == 0.01
    assert rows["ours"]["excess"] == -0.03
    assert rows["ours"]["reached"] == -0.01
    assert rows["ours"]["seeds"] == [0, 1]
    assert rows["ours"]["change"]["math"] == {"value": -0.3, "low": -0.31, "high": -0.29}


def test_differences_are_of_the_same_problems_and_seeds() -> None:
    runs = [made("ours", -0.3), made("ours", -0.5, seed=1)]
    runs += [made("feedback", -0.2, wave=0.05), made("greedy", -0.9, worst=0.06), made("late", -0.1, seed=7)]
    other = made("other records", -0.2)
    other["target_records"][0][0] = 99
    found = {row["other"]: row for row in TABLE.differences([*runs, other], "ours")}
    assert set(found) == {"feedback", "greedy"}
    gain = found["feedback"]["gain"]
    assert (gain["value"], gain["n"], found["feedback"]["seeds"]) == (0.1, 3, [0])
    assert gain["low"] < 0 < gain["high"]  # three problems that differ by as much
    assert found["greedy"]["gain"]["value"] == -0.6
    assert found["greedy"]["constrained"] == {"value": 0.3, "low": 0.3, "high": 0.3, "n": 3}


@pytest.mark.parametrize("autocast", [False, True])
def test_products_by_float32_are_those_of_bfloat16(autocast: bool) -> None:
    """One rounding of the result apart, forward and backward; inputs are rounded first, as autocast does."""
    draw = torch.Generator().manual_seed(0)
    kind = torch.float32 if autocast else torch.bfloat16
    given = [torch.randn(5, 64, generator=draw).to(kind), torch.randn(3, 64, generator=draw).to(kind)]
    found = []
    for by_float32 in (False, True):
        x, weight = (one.clone().requires_grad_() for one in given)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if by_float32:
                with HALVES.products_by_float32():
                    product = functional.linear(x, weight)
            else:
                product = functional.linear(x, weight)
        product.float().square().sum().backward()  # type: ignore[no-untyped-call]
        assert product.dtype == torch.bfloat16
        found.append((product.detach().float(), x.grad, weight.grad))
    for native, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, native, rtol=2**-7, atol=2**-7 * float(native.abs().max()))
    assert not torch.equal(found[1][0], functional.linear(*(one.float() for one in given)))


def test_products_by_float32_leave_torch_and_other_types_as_they_are() -> None:
    before, x = (functional.linear, functional.scaled_dot_product_attention), torch.randn(2, 3)
    with HALVES.products_by_float32():
        assert torch.equal(functional.linear(x, x), x @ x.T)
        query = torch.randn(1, 2, 4, 8).bfloat16()
        attended = functional.scaled_dot_product_attention(query, query, query, is_causal=True)
    assert (functional.linear, functional.scaled_dot_product_attention) == before
    wide = functional.scaled_dot_product_attention(
        query.float(), query.float(), query.float(), is_causal=True
    )
    assert torch.equal(attended, wide.bfloat16())
