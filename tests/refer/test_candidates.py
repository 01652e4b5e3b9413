"""Candidate sets: against brute force, by laws, and every mistake told before work."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from trimtab.data.pictures import read_pictures
from trimtab.errors import ConfigError, DataError
from trimtab.models.encoders import TwoTower
from trimtab.refer.candidates import hard_candidates, names_in, random_candidates, read_candidates


def tile(number: int, side: int = 3) -> Image.Image:
    """A picture of one colour that no other number has."""
    return Image.new("RGB", (side, side), (number % 256, number // 256, 7))


def tiles(n: int) -> dict[str, Image.Image]:
    return {f"p{number}": tile(number) for number in range(n)}


def neighbours(vectors: np.ndarray, k: int) -> list[set[int]]:
    """The k nearest of each by a loop over all pairs."""
    found = []
    for here, one in enumerate(vectors):
        cosines = {
            there: float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
            for there, other in enumerate(vectors)
            if there != here
        }
        found.append(set(sorted(cosines, key=lambda there: -cosines[there])[:k]))
    return found


@pytest.mark.parametrize("k", [1, 3, 11])
def test_hard_sets_are_the_neighbours_by_brute_force(k: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 4)) * np.linspace(0.1, 5, 12)[:, None]
    frame = hard_candidates(tiles(12), vectors, k=k)
    assert frame.columns.tolist() == ["item", "candidates", "target"]
    assert frame.item.tolist() == frame.target.tolist() == list(tiles(12))
    for place, near in enumerate(neighbours(vectors, k)):
        assert set(frame.candidates[place]) == {f"p{place}"} | {f"p{there}" for there in near}
        assert len(frame.candidates[place]) == k + 1


def test_tensors_towers_and_listeners_give_the_same_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = tiles(20)

    def embed(self: object, images: list[Image.Image], batch_size: int = 64) -> Tensor:
        rows = [[*image.getpixel((0, 0)), 1 + image.getpixel((0, 0))[0] ** 2 / 90] for image in images]
        return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32))

    @dataclass
    class Hearing:
        encoder: Any

    monkeypatch.setattr(TwoTower, "pictures", embed)
    tower = object.__new__(TwoTower)
    rows = embed(None, list(shown.values()))
    by_tensor = hard_candidates(shown, rows, k=4)
    pd.testing.assert_frame_equal(hard_candidates(shown, tower, k=4), by_tensor)
    pd.testing.assert_frame_equal(hard_candidates(shown, Hearing(tower), k=4), by_tensor)
    pd.testing.assert_frame_equal(hard_candidates(shown, 3 * rows.numpy(), k=4), by_tensor)


@settings(max_examples=40)
@given(
    n=st.integers(3, 14),
    data=st.data(),
    seed=st.integers(0, 2**40),
)
def test_laws_of_sets(n: int, data: st.DataObject, seed: int) -> None:
    """The target is there, no name and no picture twice, and neither order nor names of rows matter."""
    k = data.draw(st.integers(1, n - 1))
    vectors = np.array(data.draw(st.lists(st.tuples(*[st.integers(1, 3)] * 2), min_size=n, max_size=n)))
    shown = tiles(n)
    order = data.draw(st.permutations(range(n)))
    turned = {f"p{number}": shown[f"p{number}"] for number in order}
    for plain, permuted in (
        (hard_candidates(shown, vectors, k, seed), hard_candidates(turned, vectors[order], k, seed)),
        (random_candidates(shown, k + 1, seed), random_candidates(turned, k + 1, seed)),
    ):
        assert all(target in names for names, target in zip(plain.candidates, plain.target, strict=True))
        assert all(len(set(names)) == len(names) == k + 1 for names in plain.candidates)
        again = permuted.set_index("item").loc[plain.item]
        assert again.candidates.tolist() == plain.candidates.tolist()
        pd.testing.assert_frame_equal(read_candidates(plain, shown), plain)


def test_ties_are_drawn_by_the_seed_and_fairly() -> None:
    """All neighbours are equally near: each is drawn equally often, and the target stands anywhere."""
    n, times = 6, 400
    counts, places = dict.fromkeys(tiles(n), 0), np.zeros(3)
    for seed in range(times):
        names = hard_candidates(tiles(n), np.ones((n, 2)), 2, seed).candidates[0]
        places[names.index("p0")] += 1
        for name in names:
            counts[name] += 1
    assert counts.pop("p0") == times
    expected = times * 2 / (n - 1)
    # Five standard deviations of a binomial, once over five names and once over three places.
    assert all(abs(count - expected) < 5 * (times * 0.4 * 0.6) ** 0.5 for count in counts.values())
    assert (np.abs(places - times / 3) < 5 * (times * 2 / 9) ** 0.5).all()


def test_near_ties_beyond_rounding_are_no_ties() -> None:
    angles = np.array([0, 1e-3, 1.001e-3, 2e-3])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    for seed in range(10):
        assert set(hard_candidates(tiles(4), vectors, 1, seed).candidates[0]) == {"p0", "p1"}


@pytest.mark.parametrize("hard", [True, False])
def test_no_set_has_a_picture_twice_under_two_names(hard: bool) -> None:
    """Copies of the target are no distractors, and of two copies one stands in a set."""
    shown = tiles(8) | {"copy": tile(0), "again": tile(0), "twin": tile(5)}
    vectors = np.random.default_rng(1).normal(size=(11, 3))
    vectors[[0, 8, 9]], vectors[[5, 10]] = vectors[0], vectors[5]
    seen: set[str] = set()
    for seed in range(12):
        frame = hard_candidates(shown, vectors, 7, seed) if hard else random_candidates(shown, 8, seed)
        for names, target in zip(frame.candidates, frame.target, strict=True):
            pixels = [shown[name].tobytes() for name in names]
            assert len(set(pixels)) == len(pixels)
            seen |= {name for name in names if name != target}
    assert seen == set(shown), "each copy is shown to somebody"
    expected = r"got k=8 of 8 different pictures, expected sets of at most 8; try k=7"
    with pytest.raises(ConfigError, match=expected):
        hard_candidates(shown, vectors, 8)


def test_random_sets_are_uniform() -> None:
    n, times = 7, 700
    counts = np.zeros(n)
    for seed in range(times):
        for name in random_candidates(tiles(n), 3, seed).candidates[2]:
            counts[int(name[1:])] += 1
    assert counts[2] == times
    others = np.delete(counts, 2)
    assert (np.abs(others - times / 3) < 5 * (times * 2 / 9) ** 0.5).all()


def test_wrong_numbers_are_told_before_a_picture_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(b"")
    for k in (0, -1, True, 1.5, "3"):
        with pytest.raises(ConfigError, match=r"got k=.*, expected a whole number, at least 1"):
            hard_candidates(tmp_path, np.ones((2, 2)), k)
    with pytest.raises(ConfigError, match=r"got n=1, expected a whole number, at least 2"):
        random_candidates(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"got k=2 of 2 different pictures, .* try k=1"):
        hard_candidates(tmp_path, np.ones((2, 2)), 2)
    with pytest.raises(ConfigError, match=r"seed: got -1, expected a whole number from 0"):
        random_candidates(tmp_path, 2, -1)
    with pytest.raises(DataError, match=r"a.png: got an empty file"):
        random_candidates(tmp_path, 2)
    with pytest.raises(ConfigError, match=r"got n=100 of 5 different pictures, .* try n=5"):
        random_candidates(tiles(5))
    with pytest.raises(ConfigError, match=r"got 1 different pictures, expected at least 2"):
        random_candidates(tiles(1), 2)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (
            np.ones((3, 2)),
            r"got embeddings of shape \(3, 2\) and type float64, expected numbers of shape \(4, d\)",
        ),
        (np.ones(4), r"got embeddings of shape \(4,\)"),
        (np.array([["a"]] * 4), r"of shape \(4, 1\) and type <U1"),
        (np.array([[1.0], [0.0], [1.0], [1.0]]), r"got an embedding of length 0 \(row 1, 1 such rows\)"),
        (
            np.array([[1.0], [1.0], [np.nan], [np.inf]]),
            r"got an embedding of length nan \(row 2, 2 such rows\)",
        ),
    ],
)
def test_embeddings_that_are_none(vectors: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        hard_candidates(tiles(4), vectors, 2)


ROWS = [
    {"item": 1, "candidates": ["a", "b", "1"], "target": 1, "set": "x"},
    {"item": "007", "candidates": ["b, c", "a"], "target": "a", "set": "y"},
]
MEANT = [("1", ["a", "b", "1"], "1"), ("007", ["b, c", "a"], "a")]


@pytest.mark.parametrize("kind", ["frame", "csv", "bars", "tsv", "jsonl", "json", "parquet"])
def test_sets_are_read_from_every_kind_of_table(kind: str, tmp_path: Path) -> None:
    path, texts = tmp_path / f"sets.{kind}", pd.DataFrame(ROWS).astype({"item": str, "target": str})
    source: Any = path
    if kind == "frame":
        source = pd.DataFrame(ROWS)
    elif kind in ("csv", "tsv"):
        texts["candidates"] = texts["candidates"].map(json.dumps)
        texts.to_csv(path, index=False, sep="," if kind == "csv" else "\t")
    elif kind == "bars":
        source = path.with_suffix(".csv")
        texts.assign(candidates=texts["candidates"].map(" | ".join)).to_csv(source, index=False)
    elif kind == "parquet":
        texts.to_parquet(path)
    else:
        lines = [json.dumps(row) for row in ROWS]
        path.write_text("\n".join(lines) if kind == "jsonl" else f"[{','.join(lines)}]")
    frame = read_candidates(source)
    assert list(zip(frame["item"], frame["candidates"], frame["target"], strict=True)) == MEANT
    assert frame["set"].tolist() == ["x", "y"]
    assert names_in(frame) == ["a", "b", "1", "b, c"]


def test_names_are_those_of_the_pictures(tmp_path: Path) -> None:
    for name in ("a", "b", "c.d"):
        tile(ord(name[0])).save(tmp_path / f"{name}.png")
    frame = pd.DataFrame({"item": ["x"], "candidates": [["a.png", "b", "c.d"]], "target": ["a"]})
    assert read_candidates(frame, tmp_path).candidates[0] == ["a", "b", "c.d"]
    assert frame.candidates[0] == ["a.png", "b", "c.d"], "what the caller owns is as it was"
    twice = frame.assign(candidates=[["a.png", "a"]])
    with pytest.raises(
        DataError, match=r"got 'a' twice among the candidates of item 'x', expected each once"
    ):
        read_candidates(twice, tmp_path)
    copies = {"a": tile(1), "b": tile(1)}
    assert read_candidates(frame.assign(candidates=[["a", "b"]]), copies).candidates[0] == ["a", "b"]


def changed(**row: Any) -> pd.DataFrame:
    return pd.DataFrame([{"item": "i", "candidates": ["a", "b"], "target": "a"}, {**ROWS[0], **row}])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (changed(target="c"), r"^sets, row 1: got target 'c' of item '1', expected one of its candidates$"),
        (changed(target="aa", candidates=["aab", "x"]), r"expected one of its candidates; try 'aab'"),
        (changed(candidates=["a"]), r"row 1: got 1 candidates of item '1', expected at least two"),
        (changed(candidates="[]"), r"row 1: got 0 candidates"),
        (
            changed(candidates='["a"'),
            r"row 1, candidates: got text that is not JSON .*, expected a list of names",
        ),
        (changed(candidates='{"a": 1}'), r"got 1 candidates of item '1'"),
        (changed(candidates="[[1], 2]"), r"row 1: got a list \[1\], expected a text, number or truth value"),
        (changed(candidates={"a": 1}), r"got candidates \{'a': 1\}, expected a list of names, or names with"),
        (changed(candidates=["1", "", "b"]), r"got a candidate without a name, expected a name"),
        (
            changed(candidates=["1", 1, "b"]),
            r"got '1' twice among the candidates of item '1', expected each once",
        ),
        (changed(item="i"), r"row 1: got item 'i' again, expected one candidate set per item"),
        (changed(target=None), r"sets: got 1 of 2 rows without 'target'"),
        (changed().drop(columns="target"), r"sets: got no column 'target', expected one of"),
        (
            changed().rename(columns={"candidates": "candidate"}),
            r"no column 'candidates', .*; try 'candidate'",
        ),
        (changed().iloc[:0], r"sets: got no rows, expected at least one candidate set"),
        ([1], r"sets: got a list, expected a pandas DataFrame"),
    ],
)
def test_sets_with_a_mistake(frame: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_candidates(frame, where="sets")


def test_sets_in_a_table_of_texts_are_read_back(tmp_path: Path) -> None:
    rows = [["a", "it's", 'so "b"'], ["NA", "a, b", "[c]"]]
    frame = pd.DataFrame({"item": [1, 2], "candidates": rows, "target": ["it's", "[c]"]})
    frame.to_csv(tmp_path / "sets.csv", index=False)
    back = read_candidates(tmp_path / "sets.csv")
    assert back["candidates"].tolist() == rows
    assert back["target"].tolist() == ["it's", "[c]"]


def test_mistakes_are_counted() -> None:
    frame = pd.DataFrame({"item": [1, 2, 3], "candidates": [["a"], ["a", "b"], ["a"]], "target": ["a"] * 3})
    with pytest.raises(DataError, match=r"row 0: got 1 candidates .*\n\(and 1 more of 3 rows\)"):
        read_candidates(frame)
    unknown = pd.DataFrame({"item": [1], "candidates": [["a", "b"]], "target": ["a"]})
    with pytest.raises(DataError, match=r"row 0: got the picture 'b', expected one of 2 names; try"):
        read_candidates(unknown, {"a": tile(1), "1": tile(2)})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("no.csv", None, r"got no file '.*no.csv'"),
        ("no.jsonl", None, r"no.jsonl: got no such file"),
        ("a.jsonl", "[1]", r"a.jsonl, row 0: got a list, expected \{"),
        ("a.jsonl", '{"item": 1', r"a.jsonl:1: got text that is not JSON"),
        ("a.json", '{"item": 1}', r"a.json: got a dict, expected a JSON array of \{"),
        ("a.json", "[]", r"a.json: got no rows, expected at least one candidate set"),
        ("a.txt", "x", r"got 'a.txt', expected a .csv"),
    ],
)
def test_files_that_hold_no_sets(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_candidates(tmp_path / name)


def test_five_thousand_pictures_take_seconds() -> None:
    """Embeddings of a data set the size of COCO's test split."""
    shown = read_pictures({str(n): tile(n, 1) for n in range(5000)})
    vectors = np.random.default_rng(0).normal(size=(5000, 64))
    frame = hard_candidates(shown, vectors, 9)
    cosines = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ (vectors[17] / np.linalg.norm(vectors[17]))
    )
    assert {int(name) for name in frame.candidates[17]} == set(np.argsort(-cosines)[:10].tolist())
