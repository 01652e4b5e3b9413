"""Groups of records: read from every format, kept together by splits, part of what a cache entry is known by."""

from __future__ import annotations

import gzip
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from trimtab import Domain
from trimtab.data.domains import Origin, read_domain
from trimtab.data.records import Chat, Completion, Text, parse
from trimtab.data.splits import SPLITS, Files, position
from trimtab.data.survey import first_records, repeated_records
from trimtab.data.tokens import TokenSplit, first_tokens, tokenise
from trimtab.errors import ConfigError, DataError

PLAYS = ["Hamlet", "Hamlet", "Lear", "Lear", "Macbeth"]
LINES = [f"line {number} of a play" for number in range(5)]
FRAME = pd.DataFrame({"text": LINES, "group": PLAYS, "id": range(5)})


def groups(domain: Domain, split: str = "train") -> list[str]:
    return [item.group for item in domain.items(split)]


def rows() -> list[dict[str, Any]]:
    return FRAME.to_dict("records")  # type: ignore[return-value]


TABLES: dict[str, Callable[[], Any]] = {
    "mappings": rows,
    "data frame": lambda: FRAME,
    "Arrow table": lambda: pa.Table.from_pandas(FRAME),
    "columns": lambda: {name: FRAME[name].tolist() for name in FRAME},
    "data set": lambda: datasets.Dataset.from_pandas(FRAME),
    "records": lambda: [Text(line, group=play) for line, play in zip(LINES, PLAYS, strict=True)],
}


@pytest.mark.parametrize("make", TABLES.values(), ids=list(TABLES))
def test_a_table_names_the_group_of_each_row(make: Callable[[], Any]) -> None:
    domain = Domain("plays", train=make())
    assert groups(domain) == PLAYS
    assert domain.fingerprint == Domain("same", train=rows()).fingerprint
    assert "group" not in " ".join(domain.unread)


def as_jsonl(path: Path, frame: pd.DataFrame) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))


def as_json(path: Path, frame: pd.DataFrame) -> None:
    path.write_text(json.dumps(frame.to_dict("records")))


FORMATS: dict[str, Callable[[Path, pd.DataFrame], object]] = {
    "a.jsonl": as_jsonl,
    "a.json": as_json,
    "a.jsonl.gz": lambda path, frame: path.write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")).encode())
    ),
    "a.csv": lambda path, frame: frame.to_csv(path, index=False),
    "a.tsv": lambda path, frame: frame.to_csv(path, index=False, sep="\t"),
    "a.parquet": lambda path, frame: pq.write_table(pa.Table.from_pandas(frame), path),
}


@pytest.mark.parametrize(("name", "write"), FORMATS.items(), ids=list(FORMATS))
@pytest.mark.parametrize("renamed", [False, True])
def test_a_file_names_the_group_of_each_record(
    tmp_path: Path, name: str, write: Callable[[Path, pd.DataFrame], object], renamed: bool
) -> None:
    write(tmp_path / name, FRAME.rename(columns={"group": "play"}) if renamed else FRAME)
    columns = {"group": "play"} if renamed else None
    pool = Domain.from_path(
        "plays", tmp_path / name, columns=columns, fractions=(0.98, 0.01, 0.01)
    ).train.pool  # type: ignore[union-attr]
    assert [(item.text, item.group) for item in pool] == list(zip(LINES, PLAYS, strict=True))
    if renamed:
        origin = Origin(str(tmp_path / name), columns={"text": "text", "group": "play"})
        again = read_domain("plays", origin, fractions=(0.98, 0.01, 0.01)).train.pool  # type: ignore[union-attr]
        assert [item.group for item in again] == PLAYS


def test_a_group_is_no_part_of_a_records_content() -> None:
    plain, grouped = Text("a"), Text("a", group="Hamlet")
    assert plain == grouped
    assert plain.digest == grouped.digest
    assert repr(grouped) == "Text(text='a')"
    assert plain.grouped_digest == plain.digest != grouped.grouped_digest
    assert pickle.loads(pickle.dumps(grouped)).group == "Hamlet"


@pytest.mark.parametrize(
    ("value", "group"),
    [
        (7, "7"),
        (7.0, "7"),
        ("7", "7"),
        (np.int64(7), "7"),
        (" Lear ", "Lear"),
        (None, ""),
        (np.nan, ""),
        ("", ""),
    ],
)
def test_one_number_is_one_group_however_it_is_written(value: object, group: str) -> None:
    assert parse({"text": "a", "group": value}, "here").group == group


def test_all_kinds_of_record_have_groups() -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    shared = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
    made = [
        parse({"prompt": "a", "completion": "b", "group": 1}, "here"),
        parse({"messages": turns, "group": 1, "tools": None}, "here"),
        parse({"conversations": shared, "group": 1}, "here", columns="sharegpt"),
    ]
    assert made == [Completion("a", "b"), Chat(tuple(turns)), Chat(tuple(turns))]
    assert [item.group for item in made] == ["1", "1", "1"]


def test_columns_without_a_group_leave_it_unread() -> None:
    domain = Domain.from_dataset("plays", rows(), columns={"text": "text"}, fractions=(0.98, 0.01, 0.01))
    assert {item.group for item in domain.train.pool} == {""}  # type: ignore[union-attr]
    assert domain.unread == ("columns 'group', 'id' not used",)


@pytest.mark.parametrize(
    ("record", "columns", "match"),
    [
        (
            {"text": "a", "group": [1]},
            None,
            r"a:1, 'group': got a list \[1\], expected a text or a number, .*; try col",
        ),
        (
            {"text": "a", "group": {"id": 1}},
            None,
            r"a:1, 'group': got a dict .*, expected a text or a number",
        ),
        (
            {"text": "a", "play": None},
            {"group": "play"},
            r"a:1, 'play': got no value, expected a text or a num",
        ),
        (
            {"text": "a", "plays": 1},
            {"group": "play"},
            r"got a mapping with 'text', 'plays', .*; try 'plays'",
        ),
        (
            {"txt": "a", "play": 1},
            {"group": "play"},
            r"got a mapping with 'txt', 'play', expected a text, or a",
        ),
    ],
)
def test_what_is_no_group_is_refused(record: dict[str, Any], columns: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        parse(record, "a:1", columns=columns)


def test_columns_that_are_not_there_are_refused_with_the_nearest() -> None:
    with pytest.raises(
        DataError, match=r"got columns \['text', 'group', 'id'\], expected 'groop' among them; try 'gro"
    ):
        Domain.from_dataset("plays", FRAME, columns={"group": "groop"})
    with pytest.raises(
        ConfigError, match=r"columns.groups: got 'groups', expected one of .*, 'group'; try 'group'"
    ):
        Domain.from_dataset("plays", FRAME, columns={"groups": "group"})


def test_records_with_and_without_a_group_are_refused() -> None:
    mixed = [*rows(), {"text": "the odd one"}, "another"]
    match = r"'plays', split 'train': got 2 of 7 records without a group \(such as 'the odd one'\), expected a group f"
    with pytest.raises(DataError, match=match):
        _ = Domain("plays", train=mixed).contents
    splits = Domain("plays", train=rows(), test=["a text without a group"])
    assert [len(splits.contents[split].groups) for split in splits.splits] == [3, 0]


def test_of_a_pool_no_split_may_lack_groups_that_another_has() -> None:
    """Records without a group fall into train alone, all others into validation and test."""
    texts = [f"text {number}" for number in range(300)]
    held = [f"g{number}" for number in range(99) if position(Text("", group=f"g{number}")) >= 0.5]
    pool = [
        *(text for text in texts if position(Text(text)) < 0.5),
        *({"text": name, "group": name} for name in held),
    ]
    domain = Domain.from_dataset("pool", pool, fractions=(0.5, 0.25, 0.25))
    assert [set(map(bool, groups(domain, split))) for split in SPLITS] == [{False}, {True}, {True}]
    lacking = len(pool) - len(held)
    with pytest.raises(
        DataError, match=rf"domain 'pool': got {lacking} of {len(pool)} records without a group"
    ):
        _ = domain.contents


def test_a_split_without_a_group_says_so() -> None:
    pool = [{"text": f"text {number}", "group": number % 2} for number in range(60)]
    match = r"got no record in .* \(all 2 groups are in other splits\), .*; try larger fractions, more groups, or fil"
    with pytest.raises(DataError, match=match):
        _ = Domain.from_dataset("pool", pool).contents


numbers = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 10**6)), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(numbers=numbers, seed=st.integers(0, 10**6))
def test_a_pool_keeps_groups_together_in_any_order(numbers: list[tuple[int, int]], seed: int) -> None:
    records = [{"text": f"record {text}", "group": group} for group, text in numbers]
    shuffled = random.Random(seed).sample(records, len(records))
    dealt = []
    for given_records in (records, shuffled):
        pool = Domain.from_dataset("pool", given_records, fractions=(0.4, 0.3, 0.3))
        splits = {split: set(groups(pool, split)) for split in SPLITS}
        assert sum(len(pooled) for pooled in splits.values()) == len({group for group, _ in numbers})
        assert sum(len(groups(pool, split)) for split in SPLITS) == len(records)
        dealt.append(splits)
    assert dealt[0] == dealt[1]


def test_groups_are_dealt_by_the_shares() -> None:
    pool = Domain.from_dataset("pool", [{"text": f"text {n}", "group": n // 3} for n in range(6000)])
    shares = [len(pool.contents[split].groups) / 2000 for split in SPLITS]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.02)


def test_the_fingerprint_is_of_the_groups_too() -> None:
    plain = Domain("plays", train=LINES).fingerprint
    known = {
        Domain(
            "plays", train=[{"text": line, "group": name} for line, name in zip(LINES, names, strict=True)]
        ).fingerprint
        for names in (PLAYS, PLAYS[::-1], LINES)
    }
    assert len(known | {plain}) == 4


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_rows_carry_the_group_of_their_record(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, packing: Any
) -> None:
    records = [{"text": f"the cat sat on mat {n}", "group": f"g{n // 3}"} for n in range(12)]
    grouped = Domain("d", train=records)

    def made(domain: Domain) -> TokenSplit:
        return tokenise(domain, tokenizer, seq_len=48, packing=packing, cache=tmp_path).splits["train"]

    plain, first, again = (
        made(one) for one in (Domain("d", train=[r["text"] for r in records]), grouped, grouped)
    )
    assert len(list(tmp_path.iterdir())) == 2
    np.testing.assert_array_equal(plain.ids, first.ids)
    np.testing.assert_array_equal(plain.records, first.records)
    assert plain.groups is None
    np.testing.assert_array_equal(plain.clusters, plain.records)
    for split in (first, again):
        np.testing.assert_array_equal(split.groups, split.records // 3)  # type: ignore[arg-type]
        np.testing.assert_array_equal(split.clusters, split.records // 3)
        assert split.counts.groups == 4
    assert plain.counts.groups == 0


def test_an_entry_of_other_groups_is_not_read(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    names = (PLAYS, ["one"] * 5)
    made = [
        tokenise(
            Domain(
                "d", train=[{"text": line, "group": name} for line, name in zip(LINES, each, strict=True)]
            ),
            tokenizer,
            seq_len=64,
            packing="padded",
            cache=tmp_path,
        )
        for each in names
    ]
    assert made[0].fingerprint != made[1].fingerprint
    assert [one.splits["train"].clusters.tolist() for one in made] == [[0, 0, 1, 1, 2], [0] * 5]


def test_an_entry_whose_groups_are_damaged_is_built_again(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    domain = Domain("d", train=rows())
    options: dict[str, Any] = {"seq_len": 64, "packing": "padded", "cache": tmp_path}
    entry = tmp_path / tokenise(domain, tokenizer, **options).fingerprint
    np.save(entry / "train.groups.npy", np.zeros(5, np.int64))
    with pytest.warns(UserWarning, match="the entry is built again"):
        again = tokenise(domain, tokenizer, **options)
    assert again.splits["train"].clusters.tolist() == [0, 0, 1, 1, 2]


def test_a_group_stays_with_a_record_that_is_cut(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = first_tokens(Domain("d", train=rows()), tokenizer, 40)
    assert groups(budget) == PLAYS[: len(groups(budget))]
    monkeypatch.setattr("trimtab.data.splits.SURVEYED_CHARACTERS", 9)
    head = first_records(Domain("d", train=rows()))
    assert [(item.text, item.group) for item in head.items("train")] == [(LINES[0][:9], "Hamlet")]  # type: ignore[union-attr]


def test_blocks_of_a_text_file_are_of_one_group_where_that_is_asked_for(tmp_path: Path) -> None:
    for name, words in (("a.txt", "alpha\n\n"), ("b.txt", "beta\n\n"), ("copy.txt", "alpha\n\n")):
        (tmp_path / name).write_text(words * 4000)
    paths = tuple(tmp_path / name for name in ("a.txt", "b.txt", "copy.txt"))
    assert {item.group for item in Files(paths, cut=True)} == {""}
    cut, whole = (list(Files(paths, cut=cut, columns={"group": "file"})) for cut in (True, False))
    assert len(cut) > len(whole) == 3
    first, second, copy = (item.group for item in whole)
    assert first == copy != second
    assert list(dict.fromkeys(item.group for item in cut)) == [first, second]
    moved = tmp_path / "moved.txt"
    paths[0].rename(moved)
    assert next(iter(Files((moved,), columns={"group": "file"}))).group == first
    with pytest.raises(
        DataError, match=r"got columns.group 'play', expected 'file', for a text file; try 'file'"
    ):
        list(Files((moved,), columns={"group": "play"}))


def test_groups_in_two_splits_are_told() -> None:
    def play(name: str, *lines: int) -> list[dict[str, Any]]:
        return [{"text": f"{name} {line}", "group": name} for line in lines]

    splits = {
        "train": [*play("Hamlet", 1, 2), *play("Lear", 1)],
        "validation": [*play("Hamlet", 3), *play("Macbeth", 1)],
        "test": [*play("Lear", 2), *play("Hamlet", 4), *play("Othello", 1)],
    }
    domains = {"plays": Domain("plays", **splits)}
    assert list(repeated_records(domains, ["plays"])) == [
        "1 of 2 validation groups of plays have records in train too",
        "2 of 3 test groups of plays have records in train too",
        "1 of 3 test groups of plays have records in validation too",
    ]
    assert list(repeated_records(domains, [])) == [
        "1 of 3 test groups of plays have records in validation too"
    ]
    pool = Domain.from_dataset("pool", [{"text": f"text {n}", "group": n // 3} for n in range(900)])
    assert list(repeated_records({"pool": pool}, ["pool"])) == []


def test_a_record_in_two_groups_of_a_pool_may_stand_in_two_splits() -> None:
    """Equal records stay together only where their groups do; they are refused as any record in two splits is."""
    pool = [{"text": f"text {n}", "group": n // 3} for n in range(600)]
    pool += [{"text": "Yes.", "group": n} for n in range(200)]
    domain = Domain.from_dataset("pool", pool, fractions=(0.4, 0.3, 0.3))
    with pytest.raises(
        DataError, match=r"records in both train and .* \(such as 'Yes.'\), .*; try domain.without_over"
    ):
        _ = domain.contents
    assert sum(content.records for content in domain.without_overlap().contents.values()) < len(pool)
