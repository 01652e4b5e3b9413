from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import DataError
from trimtab.lab import corpora as sources
from trimtab.lab import corpora as under_test
from trimtab.lab.corpora import (
    _ROOTS,
    SOURCES,
    SPLITS,
    Cleaner,
    CleanFile,
    Source,
    clean,
    corpora,
    corpus,
    deal,
    docstrings,
    excerpt,
    fingerprint,
    in_order,
    read_card,
    requirements,
    whole,
    widened,
)

ANYWHERE = sorted(set(SOURCES) - {"decimals"})
"""The corpora that need no more than Python and our dependencies."""


def texts(folder, split):
    lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
    records = [json.loads(line) for line in lines if line]
    assert all(set(record) == {"text"} for record in records)
    return [record["text"] for record in records]


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_real_corpora(name):
    if name not in corpora():
        pytest.skip(f"this Python has no {name}: {SOURCES[name].missing}")
    folder = corpus(name)
    card = read_card(folder)
    by_split = {split: texts(folder, split) for split in SPLITS}
    documents = [text for its in by_split.values() for text in its]
    assert len(documents) == len(set(documents))
    for split, its in by_split.items():
        assert card["splits"][split]["documents"] == len(its)
        assert card["splits"][split]["bytes"] == sum(len(text.encode()) for text in its) > 30_000
    files = Counter(file for split in card["splits"].values() for file in split["files"])
    assert set(files.values()) == {1}
    assert 600_000 < sum(split["bytes"] for split in card["splits"].values()) <= 2_100_000
    lines = {
        split: {line.strip() for text in its for line in text.split("\n") if len(line.strip()) > 40}
        for split, its in by_split.items()
    }
    assert not lines["train"] & (lines["validation"] | lines["test"])
    assert not lines["validation"] & lines["test"]


def test_all_but_decimals_are_everywhere():
    assert set(ANYWHERE) <= set(corpora())


def test_what_only_an_extra_installs_is_in_no_corpus():
    read = set(requirements(_ROOTS)).union(*(source.packages() for source in sources.SOURCES.values()))
    assert {"torch", "transformers"} <= read
    assert not read & {"trl", "diffusers", "gguf", "ray", "trackio", "tensorboard", "pytest", "ruff"}


def test_corpora_are_distinct_domains():
    """A text is better compressed with more of its own kind than with another kind (fonts: the strangest)."""
    import zlib

    def cost(sample, before):
        return len(zlib.compress((before + sample).encode(), 9)) - len(zlib.compress(before.encode(), 9))

    kinds = ("python", "headers", "fonts", "metadata", "stubs")
    train = {kind: "\n".join(texts(corpus(kind), "train"))[:20_000] for kind in kinds}
    test = {kind: "\n".join(texts(corpus(kind), "validation"))[:10_000] for kind in kinds}
    for kind in kinds:
        costs = {other: cost(test[kind], train[other]) for other in kinds}
        assert min(costs, key=costs.__getitem__) == kind, costs


# A corpus of three files in a folder, so that every rule can be counted by hand -------------------------


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A source `toy` whose files are those of a folder; returns the folder."""
    folder = tmp_path / "toy"
    folder.mkdir()
    files = {"toy": Source("toy", lambda: {path.name: path for path in folder.iterdir()}, "no toys")}
    monkeypatch.setattr(sources, "SOURCES", files)
    monkeypatch.setattr(under_test, "_LEAST", 1)
    return folder


def test_same_installation_gives_the_same_folder_and_text(toy, tmp_path):
    for number in range(20):
        (toy / f"{number}.txt").write_text(f"line of {number}\n" * 30)
    first, second = corpus("toy", tmp_path / "one"), corpus("toy", tmp_path / "two")
    assert first.name == second.name
    assert read_card(first) == read_card(second)
    assert read_card(first)["fingerprint"] == fingerprint(first)
    assert first.parent == tmp_path / "one" / "lab" / "corpora"


def test_corpus_is_made_once(toy, tmp_path):
    (toy / "a.txt").write_text("a line\n" * 50)
    folder = corpus("toy", tmp_path)
    (toy / "a.txt").write_text("other text\n" * 50)
    assert corpus("toy", tmp_path) == folder
    assert "other" not in texts(folder, "train")[0]


def test_key_follows_versions(toy, tmp_path, monkeypatch):
    (toy / "a.txt").write_text("a line\n" * 50)
    before = corpus("toy", tmp_path)
    monkeypatch.setattr(Source, "versions", lambda self: {"python": "9.9"})
    assert corpus("toy", tmp_path) != before


def test_fingerprint_follows_the_text(toy, tmp_path):
    (toy / "a.txt").write_text("a line\n" * 50)
    folder = corpus("toy", tmp_path)
    before = fingerprint(folder)
    (folder / "test.jsonl").write_text('{"text": "more"}\n')
    assert fingerprint(folder) != before


def test_text_that_is_no_text_is_passed_over(tmp_path):
    (tmp_path / "good").write_text("good é", encoding="utf-8")
    (tmp_path / "bad").write_bytes(b"\xff\xfe\x00")
    files = {"good": tmp_path / "good", "bad": tmp_path / "bad", "gone": tmp_path / "gone"}
    assert list(in_order(files)) == [("good", "good é")]


def test_order_is_by_name_alone(tmp_path):
    files = {}
    for name in "abcdef":
        files[name] = tmp_path / name
        files[name].write_text(name)
    order = [key for key, _ in in_order(files)]
    assert order == [key for key, _ in in_order(dict(reversed(files.items())))]
    assert order != sorted(order)


LICENCE = "Licensed under terms that are repeated in every file there is"
BODY = "\n".join(f"short {number}" for number in range(30))


def test_long_lines_stay_in_their_first_file_only():
    first, second = clean([("a", f"{LICENCE}\n{BODY}"), ("b", f"  {LICENCE}\n{BODY}\nmore")], whole)
    assert LICENCE in first.documents[0]
    assert LICENCE not in second.documents[0]
    assert "short 7" in second.documents[0]


def test_duplicates_and_tiny_documents_go():
    kept = clean([("a", BODY), ("b", BODY), ("c", "tiny"), ("d", BODY + " d")], whole)
    assert [file.key for file in kept] == ["a", "d"]


def test_a_file_gives_at_most_64_kb_cut_at_a_line():
    (file,) = clean([("a", "0123456789é\n" * 10_000)], whole)
    assert 63_900 < file.size <= 64_000
    assert file.documents[0].endswith("0123456789é")


def test_the_corpus_is_capped():
    files = [(str(number), f"{number}\n" * 1000) for number in range(100, 200)]
    kept = clean(files, whole, cap=10_000)
    assert 9_000 < sum(file.size for file in kept) <= 10_000


def test_deal_is_eight_to_one_to_one_and_loses_nothing():
    files = [CleanFile(str(number), ("x",)) for number in range(100)]
    dealt = deal(files)
    assert {split: len(its) for split, its in dealt.items()} == {"train": 80, "validation": 10, "test": 10}
    assert sorted(file.key for its in dealt.values() for file in its) == sorted(file.key for file in files)


def test_a_verdict_is_over_many_files():
    files = iter([(str(number), f"{number} of the files\n" * 50) for number in range(600)])
    cleaner = Cleaner(whole)
    dealt = deal(cleaner.up_to(100_000, files))
    wide = widened(dealt, cleaner, files)
    assert wide["train"] == dealt["train"]
    assert {split: len(its) for split, its in wide.items() if split != "train"} == {
        "validation": 200,
        "test": 200,
    }
    keys = [file.key for its in wide.values() for file in its]
    assert len(keys) == len(set(keys))
    assert max(file.size for split in ("validation", "test") for file in wide[split]) <= 1_000


def test_few_files_give_longer_excerpts():
    files = [CleanFile(str(number), ("a line of text\n" * 4000,)) for number in range(40)]
    wide = widened(deal(files), Cleaner(whole), iter(()))
    assert [len(wide[split]) for split in ("validation", "test")] == [4, 4]
    assert all(49_900 < file.size <= 50_000 for file in wide["test"])


@given(st.lists(st.integers(20, 400), min_size=1, max_size=6), st.integers(150, 2000), st.text(max_size=4))
def test_an_excerpt_is_a_run_of_whole_lines(lengths, most, key):
    documents = tuple(
        "\n".join(f"{document} line é {line}" for line in range(n)) for document, n in enumerate(lengths)
    )
    whole_file = CleanFile(key, documents)
    part = excerpt(whole_file, most)
    lines = [line for document in part.documents for line in document.split("\n")]
    assert part.size <= most
    assert set(lines) <= {line for document in documents for line in document.split("\n")}
    assert "\0".join(part.documents) in "\0".join(documents)
    assert excerpt(whole_file, whole_file.size) == whole_file


def test_docstrings_are_found_and_dedented():
    long = "Does this.\n\n    " + "word " * 50
    code = f'"""{long}"""\nclass A:\n    def f(self):\n        """{long}f"""\n\ndef g():\n    """Short."""\n'
    found = docstrings(code)
    assert len(found) == 2
    assert all(doc.startswith("Does this.\n\nword word") for doc in found)


def test_code_that_does_not_parse_has_no_docstrings():
    assert docstrings("def f(:\n") == []


# Refusals -----------------------------------------------------------------------------------------------


def test_unknown_corpus():
    with pytest.raises(DataError, match=r"corpus: got 'pyton', expected one of \('python', .*; try 'python'"):
        corpus("pyton")


def test_missing_source_says_what_and_names_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "stdlib", lambda: tmp_path)
    with pytest.raises(
        DataError, match=r"corpus 'decimals': got no test/decimaltestdata .*try one of docstrings, headers"
    ):
        corpus("decimals", tmp_path)
    assert "decimals" not in corpora()
    assert "python" not in corpora()


def test_too_little_text(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(under_test, "_LEAST", 200_000)
    (toy / "a.txt").write_text("a line\n" * 50)
    with pytest.raises(DataError, match=r"'toy': got 349 bytes of text in 1 files, expected at least 200000"):
        corpus("toy", tmp_path)
    assert not list((tmp_path / "lab" / "corpora").glob("toy-*[!k]"))
