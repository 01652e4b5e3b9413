from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trimtab.data import splits
from trimtab.data.domains import Domain
from trimtab.data.record_files import read_records
from trimtab.data.records import Chat, Completion, Text
from trimtab.errors import ConfigError, DataError

POOL = [f"record {number}" for number in range(400)]


def write_jsonl(path: Path, records: list[object]) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return path


def texts(domain: Domain, split: str) -> list[str]:
    return [item.text for item in domain.items(split) if isinstance(item, Text)]


def test_jsonl_holds_all_three_kinds(tmp_path):
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [
            {"text": "naïve"},
            {"prompt": "p", "completion": "c"},
            {"messages": [{"role": "user", "content": "hi"}]},
        ],
    )
    path.write_text("\ufeff" + path.read_text(encoding="utf-8") + "\n\n  \n", encoding="utf-8")
    domain = Domain.from_jsonl("mixed", path, validation=path, test=path)
    assert [type(item) for item in domain.items("train")] == [Text, Completion, Chat]
    assert texts(domain, "train") == ["naïve"]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (b'{"text": "b"', r"bad\.jsonl:3: got .*, expected one JSON object per line, in UTF-8"),
        (b'{"text": 5}', r"bad\.jsonl:3, 'text': got int, expected a text"),
        (b"[1, 2]", r"bad\.jsonl:3: got list, expected a text, or a mapping"),
        (
            b'{"text": "\xff"}',
            r"bad\.jsonl:3: got bytes that are not UTF-8 .*, expected one JSON object per line",
        ),
    ],
)
def test_a_malformed_line_is_named_by_file_and_number(tmp_path, line, match):
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "a"}\n\n' + line + b"\n")
    domain = Domain.from_jsonl("bad", tmp_path / "bad.jsonl")
    with pytest.raises(DataError, match=match):
        _ = domain.contents


def test_a_pool_is_split_by_content_alone(tmp_path):
    one = Domain.from_jsonl("one", write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in POOL]))
    shuffled = [{"text": text, "id": number} for number, text in enumerate([*POOL[::-1], *POOL])]
    two = Domain.from_jsonl("two", write_jsonl(tmp_path / "b.jsonl", shuffled))
    found = {split: texts(one, split) for split in one.splits}
    assert sorted(text for some in found.values() for text in some) == sorted(POOL)
    for split, some in found.items():
        assert sorted(texts(two, split)) == sorted(some * 2)
    assert {split: len(some) for split, some in found.items()} == {"train": 357, "validation": 26, "test": 17}
    assert one.contents["train"].records == 357


def test_fractions_of_a_pool():
    rows = datasets.Dataset.from_dict({"text": POOL})
    domain = Domain.from_dataset("half", rows, fractions=(0.5, 0.25, 0.25))
    assert [content.records for content in domain.contents.values()] == pytest.approx([200, 100, 100], abs=30)
    with pytest.raises(
        ConfigError, match=r"'half', fractions: got \[0.5, 0.6, 0.1\], expected three positive"
    ):
        Domain.from_dataset("half", rows, fractions=(0.5, 0.6, 0.1))


def test_only_missing_splits_are_taken_from_train(tmp_path):
    pool = write_jsonl(tmp_path / "pool.jsonl", [{"text": text} for text in POOL])
    held = write_jsonl(tmp_path / "held.jsonl", [{"text": "held out"}])
    domain = Domain.from_jsonl("math", pool, test=held)
    assert texts(domain, "test") == ["held out"]
    assert sorted(texts(domain, "train") + texts(domain, "validation")) == sorted(POOL)
    assert repr(domain) == f"Domain('math': train 95 % of {pool}, validation 5 % of {pool}, test {held})"


def test_given_text_files_are_whole_documents_and_pools_are_cut(tmp_path):
    long = "\n\n".join(f"paragraph {number} " + "x" * 100 for number in range(2000)) + "\r\nend"
    (tmp_path / "long.txt").write_bytes(long.encode())
    for split in ("validation", "test"):
        (tmp_path / f"{split}.txt").write_text(f"{split} text")
    given = Domain.from_text(
        "a", tmp_path / "long.txt", validation=tmp_path / "validation.txt", test=tmp_path / "test.txt"
    )
    assert texts(given, "train") == [long]
    pool = Domain.from_text("b", tmp_path / "long.txt")
    pieces = [item.text for item in pool.train.pool]
    assert "".join(pieces) == long
    assert all(8192 <= len(piece) <= 16500 for piece in pieces[:-1])
    assert all(piece.endswith("\n\n") for piece in pieces[:-1])
    assert all(pool.contents[split].records for split in pool.splits)


def test_several_patterns_in_a_stable_order_each_file_once(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    domain = Domain("a", train=["x"], test=["y"])
    assert repr(domain) == "Domain('a': train 1 records, test 1 records)"
    found = Domain.from_text("a", [f"{tmp_path}/*.txt", tmp_path / "c.md", tmp_path / "a.txt"])
    assert [path.name for path in found.train.pool.files.paths] == ["a.txt", "b.txt", "c.md"]


@pytest.mark.parametrize("path", ["none.txt", "*.jsonl", "none/**/*.py"])
def test_missing_files_are_refused_at_once(tmp_path, path):
    with pytest.raises(DataError, match=r"domain 'math': got .*, expected a (file that exists|pattern that)"):
        Domain.from_path("math", tmp_path / path)


def test_no_path_or_a_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="got no path, expected at least one file"):
        Domain.from_text("math", [])
    with pytest.raises(DataError, match=r"got folder .*, expected files; try .*/\*"):
        Domain.from_jsonl("math", tmp_path)


def test_an_empty_file_is_an_empty_domain(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n \n")
    (tmp_path / "blank.txt").write_text(" \n\n")
    for path in ("empty.jsonl", "blank.txt"):
        domain = Domain.from_path("math", tmp_path / path)
        with pytest.raises(
            DataError, match=r"domain 'math', split 'train': got no record in .*, expected at leas"
        ):
            _ = domain.contents


@pytest.mark.parametrize("first", ["train", "validation"])
def test_equal_records_in_two_splits_are_refused_and_can_be_removed(first):
    splits = {"train": ["only train", "b"], "validation": ["only validation"], "test": ["x", "y"]}
    splits[first] = [*splits[first], "x"]
    domain = Domain("math", **splits)
    match = rf"got 1 records in both {first} and test \(such as 'x'\), .*; try domain.without_overlap\(\)"
    with pytest.raises(DataError, match=match):
        _ = domain.contents
    repaired = domain.without_overlap()
    assert [content.records for content in repaired.contents.values()] == [2, 1, 2]
    assert texts(repaired, "test") == ["x", "y"]


def test_a_prompt_and_a_text_with_the_same_words_are_not_the_same_record():
    domain = Domain("a", train=[{"prompt": "a", "completion": "b"}], test=["ab"])
    assert domain.contents["train"].records == 1


def test_fingerprint_is_of_content_and_splits_not_of_names(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}])
    in_memory = Domain("one", train=["a", "b"], test=["c"])
    assert len(in_memory.fingerprint) == 64
    other = write_jsonl(tmp_path / "c.jsonl", [{"text": "c"}])
    on_disk = Domain.from_jsonl("two", path, validation=other, test=other)
    on_disk = Domain("two", train=on_disk.train, test=on_disk.test)
    assert on_disk.fingerprint == in_memory.fingerprint
    for changed in ({"train": ["b", "a"]}, {"test": ["d"]}, {"validation": ["c"], "test": None}):
        assert (
            Domain("one", **{"train": ["a", "b"], "test": ["c"], **changed}).fingerprint
            != in_memory.fingerprint
        )


def test_parquet_with_columns_of_two_kinds(tmp_path):
    table = pa.table({"text": ["a", None], "prompt": [None, "p"], "completion": [None, "c"], "id": [1, 2]})
    pq.write_table(table, tmp_path / "train.parquet")
    pq.write_table(pa.table({"text": ["t"]}), tmp_path / "test.parquet")
    pq.write_table(pa.table({"text": ["v"]}), tmp_path / "val-00000-of-00001.parquet")
    domain = Domain.from_path("table", tmp_path)
    assert list(domain.items("train")) == [Text("a"), Completion("p", "c")]
    assert texts(domain, "validation") == ["v"]
    same = Domain.from_parquet(
        "table", tmp_path / "train.parquet", validation=f"{tmp_path}/val*", test=f"{tmp_path}/test*"
    )
    assert same.fingerprint == domain.fingerprint


def test_parquet_messages(tmp_path):
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    pq.write_table(pa.table({"messages": [talk]}), tmp_path / "train.parquet")
    domain = Domain.from_parquet("talk", tmp_path / "train.parquet", fractions=(0.98, 0.01, 0.01))
    assert list(domain.train.pool) == [Chat(tuple(talk))]


def test_parquet_that_is_none_or_has_other_columns(tmp_path):
    (tmp_path / "a.parquet").write_text("no table")
    with pytest.raises(DataError, match=r"a\.parquet: got .*, expected a Parquet file"):
        _ = Domain.from_path("a", tmp_path / "a.parquet").contents
    pq.write_table(pa.table({"question": ["?"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"got columns \['question'\], expected a column 'text'"):
        _ = Domain.from_path("b", tmp_path / "b.parquet").contents


def test_datasets_objects():
    rows = datasets.Dataset.from_dict({"text": POOL})
    pool = Domain.from_dataset("pool", rows)
    assert pool.splits == ("train", "validation", "test")
    assert repr(pool).startswith("Domain('pool': train 90 % of 400 records, validation 5 % of 400 records")
    given = datasets.DatasetDict(train=rows, val=rows.select([0]), test=rows.select([1]), extra=rows)
    domain = Domain.from_dataset("given", given)
    assert texts(domain, "train") == POOL
    assert texts(domain, "validation") == POOL[:1]
    only_test = Domain.from_dataset("monitored", datasets.DatasetDict(test=rows))
    assert only_test.splits == ("test",)


def test_datasets_that_do_not_fit(monkeypatch):
    rows = datasets.Dataset.from_dict({"question": ["a"], "answer": ["b"]})
    with pytest.raises(DataError, match=r"'qa', split 'train': got columns \['question', 'answer'\]"):
        Domain.from_dataset("qa", rows)
    with pytest.raises(DataError, match=r"got splits \['extra'\], expected some of"):
        Domain.from_dataset("qa", {"extra": rows})
    with pytest.raises(ConfigError, match=r"got \['split'\], expected options only beside a name"):
        Domain.from_dataset("qa", rows, split="train")

    def fail(name, **options):
        raise FileNotFoundError(f"{name} is not here, {options}")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        DataError, match=r"domain 'qa': got 'me/none': me/none is not here, {}, expected a data"
    ):
        Domain.from_path("qa", "hf:me/none")


def test_a_named_data_set_is_loaded_with_its_options(monkeypatch):
    asked = {}

    def load(name, **options):
        asked.update(options, name=name)
        return datasets.Dataset.from_dict({"text": POOL})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert Domain.from_dataset("web", "me/web", split="train").splits == ("train", "validation", "test")
    assert asked == {"name": "me/web", "split": "train"}


def test_a_folder_for_evaluation_only(tmp_path):
    (tmp_path / "validation.txt").write_text("v")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "one.txt").write_text("t1")
    (tmp_path / "test" / "two.jsonl").write_text('{"text": "t2"}')
    domain = Domain.from_path("safety", tmp_path)
    assert domain.splits == ("validation", "test")
    assert texts(domain, "test") == ["t1", "t2"]
    with pytest.raises(
        DataError, match=r"domain 'safety': got train, expected one of \('validation', 'test'\)"
    ):
        domain.items("train")


def test_a_folder_without_splits_says_what_to_try(tmp_path):
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(
        DataError, match=r"expected train.\*, validation.\* and test.\* in it; try a pattern such as"
    ):
        Domain.from_path("math", tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("a.zip", "unpacking it"),
        ("a.jsonl.zst", "unpacking it"),
        ("a.parquet.gz", "unpacking it"),
        ("a.xlsx", "as CSV"),
        ("a.arrow", "the whole folder"),
        ("a.pdf", "as plain text"),
    ],
)
def test_endings_that_are_surely_not_text(tmp_path, name, hint):
    (tmp_path / name).write_text("{}")
    with pytest.raises(
        DataError, match=f"got a .* file, expected text, or one of '.jsonl', .*; try .*{hint}"
    ):
        Domain.from_path("math", tmp_path / name)


def test_text_that_is_not_utf8_or_has_gone(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"caf\xe9")
    domain = Domain.from_path("a", tmp_path / "train.txt")
    with pytest.raises(DataError, match=r"train\.txt: got bytes that are not UTF-8 .*, expected UTF-8 text"):
        _ = domain.contents
    gone = Domain.from_path("a", tmp_path / "train.txt")
    (tmp_path / "train.txt").unlink()
    with pytest.raises(DataError, match=r"train\.txt: got no such file"):
        _ = gone.contents


@pytest.mark.parametrize(
    ("splits", "error", "match"),
    [
        ({}, DataError, "domain 'a': got no split, expected train, validation or test"),
        ({"train": "text"}, DataError, "split 'train': got str, expected a sequence of records; try a list"),
        (
            {"train": iter(["a"])},
            DataError,
            r"got an iterator, expected records that can be read again; try list",
        ),
        ({"train": [3]}, DataError, "a, train, record 0: got int, expected a text"),
    ],
)
def test_impossible_domains_are_refused(splits, error, match):
    with pytest.raises(error, match=match):
        _ = Domain("a", **splits).contents


@pytest.mark.parametrize("name", ["", "  ", None])
def test_a_domain_has_a_name(name):
    with pytest.raises(ConfigError, match=r"domain name: got .*, expected a text that is not blank"):
        Domain(name, train=["a"])


def test_a_pool_for_evaluation_only_has_no_train_split(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(f'{{"text": "record {n}"}}\n' for n in range(200)))
    domain = Domain.from_path("safety", pool, fractions=(0.0, 0.5, 0.5))
    assert set(domain.splits) == {"validation", "test"}
    parts = [{item.digest for item in domain.items(split)} for split in ("validation", "test")]
    assert len(parts[0] | parts[1]) == len(parts[0]) + len(parts[1]) == 200
    assert 60 < len(parts[0]) < 140


@pytest.mark.parametrize("bounds", [{}, {"POOL_RECORDS": 7}, {"POOL_LIMIT": 50}])
def test_a_pool_of_few_records_is_parsed_once_and_gives_the_same_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounds: dict[str, int]
) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"record {n}", "id": n}) + "\n" for n in range(90))
    )
    readings = []

    def read(path: Path, kind: Any, **options: Any) -> Any:
        readings.append(path)
        return read_records(path, kind, **options)

    monkeypatch.setattr(splits, "read_records", read)
    for name, value in bounds.items():
        monkeypatch.setattr(splits, name, value)
    domain = Domain.from_path("a", tmp_path / "a.jsonl", fractions=(0.4, 0.3, 0.3))
    whole = Domain("b", train=list(read_records(tmp_path / "a.jsonl", "jsonl")))
    texts = [item.text for split in domain.splits for item in domain.items(split)]
    assert sorted(texts) == sorted(item.text for item in whole.items("train"))
    assert domain.unread == ("column 'id' not used",)
    assert sum(content.records for content in domain.contents.values()) == 90
    assert (len(readings) == 1) == (not bounds)
    assert pickle.loads(pickle.dumps(domain)).fingerprint == domain.fingerprint


def test_a_pool_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "record {n}"}}\n' for n in range(60)))
    domain = Domain.from_path("a", path, fractions=(0.4, 0.3, 0.3))
    before = [item.text for split in domain.splits for item in domain.items(split)]
    path.write_text("".join(f'{{"text": "another {n}"}}\n' for n in range(60)))
    after = [item.text for split in domain.splits for item in domain.items(split)]
    assert sorted(after) == sorted(text.replace("record", "another") for text in before)
