"""What is told about a run's data: counts, true numbers of sequences, few records, an example."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from finetune_results import EVALUATE, TRAIN, MakeResult
from trimtab.adapt.dynamics.result import Comparison, FinetuneResult
from trimtab.adapt.finetune import set_aside
from trimtab.adapt.record import COLUMNS, data_notes, data_table, example_line
from trimtab.adapt.units import Units, few_evaluated, few_units
from trimtab.data.domains import Domain
from trimtab.data.tokens import TokenDomain
from trimtab.train.settings import Fit
from unigram import shuffled, split
from worlds import tokenizer

pytestmark = pytest.mark.usefixtures("undrawn")  # what is drawn is looked at in dynamics/test_page.py

FIT = Fit(eval_sequences=8, probe_sequences=4, test_sequences=None, seq_len=16, batch_size=2)


def rows(n: int, *, records: int | None = None, **counts: object):
    """A split of `n` rows that are of so many records, with other counts."""
    made = split(shuffled([1, 2, 3, 4], n))
    owners = np.arange(n) if records is None else np.arange(n) * records // n
    read = n + int(counts.get("dropped", 0))  # type: ignore[call-overload]
    return replace(made, records=owners, counts=replace(made.counts, **{"records": read, **counts}))


def domains() -> dict[str, TokenDomain]:
    full = {"train": rows(20), "validation": rows(12), "test": rows(9)}
    few = {
        "train": rows(5, truncated=3, dropped=15, beyond=15),
        "validation": rows(6, records=2),
        "test": rows(5, skipped=2, first_skipped="record 3, messages 'a': got b, expected c"),
    }
    return {
        "maths": TokenDomain("maths", full, "1"),
        "web": TokenDomain("web", few, "2", unread=("column 'id' not used",)),
    }


def test_the_table_counts_what_is_read_and_what_is_not() -> None:
    table = data_table(domains(), ["maths"], FIT)
    assert list(table.columns) == list(COLUMNS)
    assert list(zip(table["domain"], table["split"], strict=True)) == [
        ("maths", "train"),
        ("maths", "validation"),
        ("maths", "test"),
        ("web", "validation"),
        ("web", "test"),
    ]
    assert table["sequences"].to_list() == [20, 12, 9, 6, 5]
    np.testing.assert_array_equal(table["read"], [np.nan, 8, 9, 6, 5])
    np.testing.assert_array_equal(table["read_records"], [np.nan, 8, 9, 2, 5])
    np.testing.assert_array_equal(table["probe"], [np.nan, 4, np.nan, 4, np.nan])


def test_notes_tell_what_is_much() -> None:
    known = domains()
    notes = list(data_notes(known, data_table(known, ["maths", "web"], FIT), FIT))
    assert notes == [
        "Data of web: 2 of 5 test records left out, since the chat template does not write them as they are (the "
        "first: test record 3, messages 'a': got b, expected c).",
        "Data of web: 15 of 20 train records dropped, without a token that carries loss in the first 16; a larger "
        "seq_len keeps 15 of them.",
        "Data of web: 3 of 5 train sequences were cut at 16 tokens.",
        "Data of web: column 'id' not used.",
    ]
    assert not list(data_notes({"maths": known["maths"]}, data_table(known, ["maths"], FIT), FIT))


def with_data(result: FinetuneResult, read: dict[str, int], records: dict[str, int]) -> FinetuneResult:
    """The result with a table in which so many sequences, of so many records, are read of each domain."""
    frame = pd.DataFrame(
        [
            {
                **dict.fromkeys(COLUMNS, 0),
                "domain": name,
                "split": part,
                "records": 60,
                "dropped": 3,
                "truncated": 30,
                "sequences": 50,
                "read": read[name],
                "read_records": records[name],
                "probe": min(read[name], 32),
            }
            for name in EVALUATE
            for part in ("train", "validation", "test")
        ]
    )
    shown = dict.fromkeys(TRAIN, (("[user]h\ni", False), ("ho</s>", True)))
    return replace(result, data=frame, examples=shown)


READ = dict(zip(EVALUATE, (55, 43, 28, 22, 64, 64), strict=True))
RECORDS = dict(zip(EVALUATE, (55, 43, 28, 22, 30, 31), strict=True))


@pytest.fixture
def told(result_of: MakeResult) -> FinetuneResult:
    return with_data(result_of(), READ, RECORDS)


def test_captions_state_the_numbers_that_were_read(told: FinetuneResult) -> None:
    text = html.unescape(FinetuneResult.page([told]))
    listed = "55 of headers, 43 of decimals, 28 of python, 22 of docstrings, 64 of metadata, 64 of tests"
    assert f"n test sequences: {listed}. " in text
    assert f"n validation sequences: {listed} at each point; " in text
    assert (
        "n probe sequences: 32 of headers, 32 of decimals, 28 of python, 22 of docstrings, 32 of met" in text
    )
    assert "n = 64" not in text
    alike = with_data(told, dict.fromkeys(EVALUATE, 7), dict.fromkeys(EVALUATE, 7))
    text = html.unescape(FinetuneResult.page([alike]))
    assert "n = 7 validation sequences per domain at each point; " in text
    assert "n = 7 test sequences per domain" in text


def test_an_older_result_claims_no_number_that_it_does_not_know(result_of: MakeResult) -> None:
    text = html.unescape(FinetuneResult.page([result_of()]))
    assert "at most n = 64 validation sequences per domain at each point" in text
    assert "at most n = 32 probe sequences per domain" in text
    assert ">Data<" not in text


def test_a_verdict_on_few_records_is_marked(told: FinetuneResult) -> None:
    few = {("python", 28), ("docstrings", 22)}
    assert few_units(told) == {
        (name, split): Units(n, "record") for name, n in few for split in ("validation", "test")
    }
    text = html.unescape(FinetuneResult.page([told]))
    assert re.search(r'unsure">\s*kept, on 28 records</td>', text)
    assert "kept, within the noise, on 22 records" in text
    assert "on 30 records" not in text
    listed = "python validation (28), python test (28), docstrings validation (22), docstrings test (22)"
    sentence = (
        f"Judged on fewer than 30 records (a packed sequence counts as one): {listed}. Their intervals say li"
    )
    assert sentence in text
    assert sentence in told.to_text()
    group = html.unescape(FinetuneResult.page([told, replace(told, label="other")]))
    assert len(re.findall(r'unsure">\s*\+0.031 kept, on 28 records</td>', group)) == 2
    older = replace(told, data=pd.DataFrame(), final=told.final.assign(units=[99, 99, 7, 50, 50, 50]))
    assert few_units(older) == {("python", "test"): Units(7, "record")}


def test_the_page_and_the_terminal_show_counts_and_what_is_learned(told: FinetuneResult) -> None:
    text = html.unescape(FinetuneResult.page([told]))
    assert "<h2>Data</h2>" in text
    assert re.search(r'unsure">\s*30 \(60 %\)</td>', text)
    assert "3 (5 %)" in text
    few = told.data.assign(skipped=[1] * len(told.data), records=[300] * len(told.data))
    assert "1 (below 1 %)" in html.unescape(FinetuneResult.page([replace(told, data=few)]))
    assert "counts as of one record, that of most of it" in text
    assert "[user]h↵ i" in text
    assert "ho</s>" in text
    assert text.count("<h2>Data</h2>") == 1
    group = html.unescape(FinetuneResult.page([told, replace(told, label="other")]))
    assert group.count(">Data</h") == 1
    lines = told.to_text().splitlines()
    assert r"Learned of headers, first sequence, in double brackets: [user]h\ni[[ho</s>]]" in lines
    assert example_line(told.examples["python"]) == r"[user]h\ni[[ho</s>]]"


def test_data_and_examples_come_back(told: FinetuneResult, tmp_path) -> None:
    loaded = FinetuneResult.load(told.save(tmp_path / "result.json"))
    pd.testing.assert_frame_equal(loaded.data, told.data)
    assert loaded.examples == told.examples


def test_notes_of_several_runs_are_on_their_page(result_of: MakeResult) -> None:
    both = [result_of("one", notes=("Cut.", "Own.")), result_of("two", notes=("Cut.",))]
    table = Comparison(runs=both).to_text()
    assert "Notes of the runs (3)" in table
    assert "Own." not in table
    assert "Own." in FinetuneResult.page(both)


def test_an_example_is_the_first_sequence_with_its_loss() -> None:
    words = tokenizer()
    known = split([[1, 2, 3, 4]], [[False, False, True, True]])
    (first, asked), (second, learned) = known.example(words)
    assert (asked, learned) == (False, True)
    assert first + second == words.decode([1, 2]) + words.decode([3, 4])
    long = split([[1] * 400]).example(words)
    assert len(long[0][0]) < 200
    assert " ... " in long[0][0]


def test_few_records_of_a_domain_whose_pool_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "docs.txt").write_text("\n\n".join("word " * 400 for _ in range(20)))
    pool, whole = Domain.from_text("docs", tmp_path / "docs.txt"), Domain("own", test=["a"])
    held = Domain.from_text("held", tmp_path / "docs.txt", fractions=(0, 0.5, 0.5))
    assert set_aside({"docs": pool, "own": whole, "held": held}) == ["docs"]
    table = pd.DataFrame({"domain": ["docs"], "split": ["test"], "read_records": [7.0]})
    (told,) = few_evaluated(table, ["docs", "large"])
    assert ": docs test (7). " in told
    assert told.endswith(
        "Never trained on, yet most of it is set aside for that: docs; try the path in place of a Domain, or "
        "fractions=(0, 0.5, 0.5)."
    )
    (told,) = few_evaluated(table, ["large"])
    assert told.endswith("docs test (7). Its interval says little about other data of its kind.")
