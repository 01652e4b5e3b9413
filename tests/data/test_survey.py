"""First records of domains, and records that stand in more than one place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab import Domain
from trimtab.data import splits
from trimtab.data.survey import MOST_PHRASES, cut_after, first_records, repeated_records


def write(path: Path, count: int, start: int = 0) -> Path:
    lines = (json.dumps({"text": f"record {number}"}) for number in range(start, start + count))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_short_file_is_read_whole(tmp_path: Path) -> None:
    whole = Domain.from_path("web", write(tmp_path / "web.jsonl", 80))
    head = first_records(whole)
    assert head.fingerprint == whole.fingerprint
    assert cut_after(head) == 0


@pytest.mark.parametrize("bound", ["SURVEYED_RECORDS", "SURVEYED_CHARACTERS"])
def test_a_long_file_is_read_as_far_as_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(splits, bound, {"SURVEYED_RECORDS": 60, "SURVEYED_CHARACTERS": 60 * 9}[bound])
    whole = Domain.from_path("web", write(tmp_path / "web.jsonl", 500))
    head = first_records(whole.without_overlap())
    counts = [content.records for content in head.contents.values()]
    assert cut_after(head) == sum(counts)
    assert sum(counts) in range(60, 65)  # a number of one digit is a character less
    records = [item for split in head.splits for item in head.items(split)]
    assert set(records) < {item for split in whole.splits for item in whole.items(split)}


def test_splits_of_their_own_are_read_as_far_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "SURVEYED_RECORDS", 7)
    paths = {
        split: write(tmp_path / f"{split}.jsonl", 9, 10 * place) for place, split in enumerate(splits.SPLITS)
    }
    domain = Domain.from_jsonl("web", paths["train"], validation=paths["validation"], test=paths["test"])
    head = first_records(domain)
    assert [content.records for content in head.contents.values()] == [7, 7, 7]
    assert cut_after(head) == 21
    assert list(head.items("train")) == list(domain.items("train"))[:7]


def domain(name: str, train: range, test: range) -> Domain:
    return Domain(name, train=[f"text {n}" for n in train], test=[f"text {n}" for n in test])


def test_nothing_to_tell_of_domains_that_share_nothing() -> None:
    domains = {"a": domain("a", range(10), range(10, 20)), "b": domain("b", range(20, 30), range(30, 40))}
    assert list(repeated_records(domains, ["a", "b"])) == []


def test_the_gravest_thing_is_told_of_two_domains() -> None:
    leaking = {"a": domain("a", range(10), range(10, 20)), "b": domain("b", range(5, 9), range(5))}
    assert list(repeated_records(leaking, ["a", "b"])) == [
        "5 of 5 evaluation records of b are trained on in a"
    ]
    same = {"a": domain("a", range(10), range(10, 20)), "b": domain("b", range(5, 15), range(20, 25))}
    assert list(repeated_records(same, ["a", "b"])) == ["5 of 10 evaluation records of a are trained on in b"]
    trained = {"a": domain("a", range(10), range(10, 20)), "b": domain("b", range(5, 10), range(20, 25))}
    assert list(repeated_records(trained, ["a", "b"])) == ["5 of 10 train records of a are in b too"]
    assert list(repeated_records(trained, ["a"])) == []
    judged = {"a": domain("a", range(10), range(10, 20)), "b": domain("b", range(30, 40), range(19, 25))}
    assert list(repeated_records(judged, ["a", "b"])) == ["1 of 10 evaluation records of a are in b too"]


def test_a_few_repeated_records_are_not_told() -> None:
    train = [f"text {n}" for n in range(40)]
    for copies, told in ((2, []), (3, ["3 of 43 train records of a repeat another"])):
        domains = {"a": Domain("a", train=[*train, *train[:copies]], test=["other"])}
        assert list(repeated_records(domains, ["a"])) == told


def test_of_many_pairs_some_are_told() -> None:
    domains = {str(n): Domain(str(n), train=["the same text"]) for n in range(12)}
    assert len(list(repeated_records(domains, list(domains)))) == MOST_PHRASES < 12 * 11 // 2


def test_a_file_that_is_one_long_document_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "SURVEYED_CHARACTERS", 50)
    for split, letter in zip(splits.SPLITS, "abc", strict=True):
        (tmp_path / f"{split}.txt").write_text(f"{letter} " * 200)
    head = first_records(Domain.from_path("web", tmp_path))
    assert [len(item.text) for item in head.items("train")] == [50]  # type: ignore[union-attr]
    assert cut_after(head) > 0
