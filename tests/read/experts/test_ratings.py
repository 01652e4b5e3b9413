"""Ratings: files that are wrong, rows that cannot count, differences between two agreements, reliability of raters."""

from __future__ import annotations

import gzip
import os

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from trimtab.errors import ConfigError, DataError, ShapeError
from trimtab.lab.registry import ratings
from trimtab.numerics.bootstrap import Interval
from trimtab.numerics.similarity import prophecy, spearman_brown
from trimtab.read.experts.agreement import agree, differences, side
from trimtab.read.experts.ratings import (
    judged,
    most_rated,
    ratings_file,
    read_ratings,
    split_half_reliability,
)

NAMES = ["cat", "dog", "cow", "pig"]
ROWS = [("cat", "dog", "5"), ("cat", "cow", "2"), ("dog", "cow", "2.5"), ("pig", "cow", "4")]


def table(*rows, columns=("word1", "word2", "score")):
    return pd.DataFrame([*ROWS, *rows], columns=list(columns))


def written(folder, *lines, name="r.csv", encoding="utf-8"):
    text = "\n".join(["word1,word2,score", *(",".join(row) for row in ROWS), *lines]) + "\n"
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


# Rows that cannot count


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        ([("cat", "cat", "9")], "left out 1 row of one word (the first is row 4: 'cat' paired with itself)"),
        (
            [("Pig", "pig", "9"), ("cat", "cat", "1")],
            "left out 2 rows of one word (the first is row 4: 'Pig' paired",
        ),
        ([("zebra", "Zebra", "9")], "left out 1 row of one word (the first is row 4: 'zebra' paired"),
        ([("cat", None, "9")], "left out 1 row without a word (the first is row 4)"),
        (
            [(float("nan"), "cat", "9"), (" ", "cat", "9")],
            "left out 2 rows without a word (the first is row 4)",
        ),
    ],
)
def test_rows_that_are_no_pair_are_left_out_and_counted(rows, note):
    found, plain = judged(table(*rows), NAMES), judged(table(), NAMES)
    assert found.notes[0].startswith(note)
    np.testing.assert_array_equal(found.pairs, plain.pairs)
    np.testing.assert_array_equal(found.scores, plain.scores)


def test_a_pair_in_either_order_counts_once_with_its_mean():
    found = judged(table(("cow", "cat", "4"), ("COW", "Cat", "6")), NAMES)
    assert len(found.pairs) == 4
    assert found.scores[1] == pytest.approx((2 + 4 + 6) / 3)
    assert found.notes == (
        "2 rows of a pair that was there before, in either order: its mean counts "
        "(the first is row 4: 'cow' and 'cat')",
    )


def test_words_in_any_case_are_concepts_unless_two_differ_in_that_alone():
    upper = table().assign(
        word1=lambda frame: frame["word1"].str.upper(), word2=lambda frame: " " + frame["word2"]
    )
    np.testing.assert_array_equal(judged(upper, NAMES).pairs, judged(table(), NAMES).pairs)
    assert judged(upper, NAMES).unknown == ()
    two = judged(table(("CAT", "dog", "1"), ("Cat", "dog", "7")), [*NAMES, "Cat"])
    assert two.unknown == ("CAT",)
    assert [4, 1] in np.sort(two.pairs, axis=1)[:, ::-1].tolist()


@pytest.mark.parametrize(
    ("human", "match"),
    [
        (table(("cat", "pig", "nan")), "score of row 4: got 'nan', expected a finite number"),
        (table(("cat", "pig", "inf")), "score of row 4: got 'inf'"),
        (table(("cat", "pig", None)), "score of row 4: got (None|nan)"),
        (table(("cat", "pig", [1])), r"score of row 4: got \[1\]"),
        (table(("cat", "pig", "1,5")), "score of row 4: got '1,5'"),
        (table(("cat", "pig", 10**400)), "score of row 4: got 1000"),
        (table(columns=("word1", "word_2", "score")), r"no column word2\), .* try renaming 'word_2' to 'word2'"),
        (table(columns=("Word1", "word2", "rating")), "ratings without word1, score .*'Word1' to 'word1'"),
        (table(columns=("word1", "word2", "word2")), "ratings without score"),
        (table().assign(extra=1).set_axis(["word1", "word2", "score", "score"], axis=1), "2 columns 'score'"),
        (table()[:2], "got 2 rated pairs of concepts, expected at least 3"),
        (table()[:0], "got 0 rated pairs of concepts"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used_are_refused(human, match):
    with pytest.raises(DataError, match=match):
        judged(human, NAMES)


# Files


def test_a_file_tells_its_rows(tmp_path):
    path = written(tmp_path, "", '"cat","cat",3', '"a\nb",dog,1', "cow,cow,2")
    file = ratings_file(path)
    found = judged(file.frame, NAMES, file.rows)
    assert found.notes == (
        f"left out 2 rows of one word (the first is {path}, row 7: 'cat' paired with itself)",
    )
    assert found.unknown == ("a\nb",)


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("r.csv", "utf-8-sig"),
        ("r.csv.gz", "utf-8"),
        ("r.csv.bz2", "utf-8"),
        ("r.csv.xz", "utf-8"),
        ("r.csv.zip", "utf-8"),
    ],
)
def test_packed_and_marked_files_are_read(name, encoding, tmp_path):
    path = written(tmp_path, "null,NA,1", "True,1,2", encoding=encoding)
    if name != "r.csv":
        pd.read_csv(path, header=None, keep_default_na=False, dtype=str).to_csv(
            tmp_path / name, index=False, header=False
        )
    found = read_ratings(tmp_path / name)
    assert found["word1"].tolist() == ["cat", "cat", "dog", "pig", "null", "True"]
    assert found["word2"].tolist()[-2:] == ["NA", "1"]
    assert found["score"].tolist() == [5, 2, 2.5, 4, 1, 2]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "ratings without word1, word2, score"),
        (b"\n\n", "ratings without word1, word2, score"),
        (b",".join(b"c%d" % n for n in range(100_000)), "ratings without word1, word2, score"),
        (b"word1,word2,score\n" + b"x" * 200_000 + b",dog,1\n", "row 2: got a row that cannot be read"),
        (b"word1,word2,score\n", "got no row below the header"),
        (b"word1,word2,score\n\n,,\n", "got no row below the header"),
        ("word1,word2,score\ncat,dog,1\n".encode("utf-16"), "got bytes that are not UTF-8"),
        ("word1,word2,score\ncafé,dog,1\n".encode("latin-1"), "not UTF-8 .*line 2"),
        (b"word1,word2,score\ncat,dog,1,9,9\n", "r.csv, row 2: got 5 cells, expected 3 as in the header"),
        (b"word1,word2,score\ncat,dog,1\ncat,cow\n", "r.csv, row 3: got 2 cells, expected 3"),
        (b"word1,word2,score\ncat,dog,1\ncat,cow,x\n", "score of .*r.csv, row 3: got 'x'"),
        (b"word1,word2,score\ncat,dog,nan\n", "score of .*r.csv, row 2: got 'nan'"),
        (b'word1,word2,score\n"cat,dog,1\n', "row 2: got a row that cannot be read"),
        (b"word1,word2,score\ncat,dog,\n", "score of .*r.csv, row 2: got ''"),
        (b"word1;word2;score\ncat;dog;1\n", "ratings without word1, word2, score"),
        (b"word1\tword2\tscore\ncat\tdog\t1\n", "ratings without word1"),
        (b"word1,word2,rating\ncat,dog,1\n", "no column score"),
        (b"word1,word2,score,score\ncat,dog,1,2\n", "2 columns 'score'"),
        (gzip.compress(b"word1,word2,score\ncat,dog,1\n"), "got bytes that are not UTF-8"),
    ],
)
def test_files_that_cannot_be_used_are_refused_by_name(content, match, tmp_path):
    (tmp_path / "r.csv").write_bytes(content)
    with pytest.raises(DataError, match=match) as caught:
        read_ratings(tmp_path / "r.csv")
    assert "r.csv" in str(caught.value)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"word1,word2,score\ncat,dog,1\n" * 99)[:30])
    (tmp_path / "none.csv.gz").write_bytes(b"word1,word2,score\ncat,dog,1\n")
    for name, got in {"pipe.csv": "a pipe", "folder.csv": "a folder", "other.csv": "no such file"}.items():
        with pytest.raises(DataError, match=rf"{name}: got {got}, expected a CSV file of ratings"):
            read_ratings(tmp_path / name)
    for name in ("cut.csv.gz", "none.csv.gz"):
        with pytest.raises(DataError, match=rf"{name}: got a file that cannot be read"):
            read_ratings(tmp_path / name)


def test_a_word_with_itself_is_no_rated_pair_to_keep():
    frame = pd.DataFrame({"word1": ["a", "a", "b"], "word2": ["a", "a", "c"], "score": 1.0})
    assert most_rated({"x": frame}, "abc", 2) == ["b", "c"]


# Whose they are


@pytest.mark.parametrize(
    ("source", "whose"),
    [
        ("people", "people"), (" People ", "people"), ("labels", "labels"), ("MEN", "ratings"), (None, "ratings"),
        (["people", "people", "people", "labels"], "ratings"), ([None, "people", "people", "people"], "ratings"),
    ],
)  # fmt: skip
def test_ratings_are_peoples_where_they_say_so(source, whose, tmp_path):
    assert judged(table().assign(source=source), NAMES).source == whose
    assert judged(table(), NAMES).source == "ratings"


def test_a_file_may_say_whose_it_is(tmp_path):
    lines = written(tmp_path).read_text().splitlines()
    (tmp_path / "p.csv").write_text(
        "\n".join([lines[0] + ",source", *(line + ",people" for line in lines[1:])])
    )
    assert set(read_ratings(tmp_path / "p.csv")["source"]) == {"people"}
    assert "source" not in read_ratings(tmp_path / "r.csv").columns
    labels = read_ratings(ratings("topics", tmp_path))
    assert set(labels["source"]) == {"labels"}


# Differences between two agreements


def square(rng, truth, noise):
    matrix = truth + noise * rng.normal(size=truth.shape)
    return pd.DataFrame((matrix + matrix.T) / 2, index=names_of(len(truth)), columns=names_of(len(truth)))


def names_of(n):
    return [f"w{number}" for number in range(n)]


@pytest.fixture(scope="module")
def world():
    """Ratings of 40 words, two similarities that share most of their noise, and a further one."""
    rng = np.random.default_rng(3)
    points = rng.normal(size=(40, 3))
    truth = -np.linalg.norm(points[:, None] - points[None], axis=-1)
    first, second = np.triu_indices(40, 1)
    taken = rng.random(len(first)) < 0.4
    names = np.array(names_of(40))
    human = pd.DataFrame(
        {
            "word1": names[first[taken]],
            "word2": names[second[taken]],
            "score": truth[first[taken], second[taken]],
        }
    )
    good = square(rng, truth, 1.2)
    return human, good, good + 1.0 * square(rng, 0 * truth, 1.0), square(rng, truth, 0.1)


def test_a_paired_difference_sees_what_two_intervals_hide(world):
    human, good, worse, _ = world
    first, second = agree(good, human, n_perm=9), agree(worse, human, n_perm=9)
    gap = first.minus(second)
    assert gap.value == first.rho - second.rho
    assert second.interval.high > first.interval.low  # each lies within reach of the other
    assert gap.low > 0
    assert gap.high - gap.low < min(i.high - i.low for i in (first.interval, second.interval))
    assert side(gap) == "above"
    assert side(second.minus(first)) == "below"
    back = second.minus(first)
    assert (back.low, back.high) == pytest.approx((-gap.high, -gap.low))


def test_a_difference_is_that_of_draws_made_by_hand(world):
    """The same multinomial draws of words, each correlation over pairs repeated as often as both of its words."""
    human, good, worse, _ = world
    found = agree(good, human, n_perm=9, n_boot=50, seed=7).minus(
        agree(worse, human, n_perm=9, n_boot=50, seed=7)
    )
    known = judged(human, list(good.index))
    items, rng, gaps = np.unique(known.pairs), np.random.default_rng(7), []
    for _ in range(50):
        times = np.zeros(len(good), dtype=int)
        times[items] = rng.multinomial(len(items), np.full(len(items), 1 / len(items)))
        rows = np.repeat(np.arange(len(known.pairs)), times[known.pairs[:, 0]] * times[known.pairs[:, 1]])
        one, other = known.pairs[rows].T
        rho = [spearmanr(matrix.to_numpy()[one, other], known.scores[rows])[0] for matrix in (good, worse)]
        gaps.append(rho[0] - rho[1])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(gaps, [0.025, 0.975])), abs=1e-10)


def test_alike_rows_are_never_told_apart(world):
    human, good, _, _ = world
    same = agree(good, human, n_perm=9).minus(agree(np.exp(good / 9), human, n_perm=9))
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert side(same) == "not distinguishable from"
    assert side(Interval(6e-8, 1e-8, 4e-4, 30)) == "not distinguishable from"
    assert side(Interval(np.nan, np.nan, np.nan, 30)) == "not distinguishable from"
    flat = agree(good * 0, human, n_perm=9)
    assert np.isnan(flat.minus(agree(good, human, n_perm=9)).low)


def test_similarities_that_differ_by_rounding_have_no_rho(world):
    human, good, _, _ = world
    rounding = good * 0 + 0.3 + 1e-15 * np.random.default_rng(0).normal(size=good.shape)
    assert np.isnan(agree(rounding, human, n_perm=9).rho)
    halves = (rounding, rounding + 1e-15)
    assert np.isnan(agree(good, human, halves, n_perm=9).ceiling)
    assert agree(good + 1e-15, human, n_perm=9).rho == agree(good, human, n_perm=9).rho


def test_differences_are_a_frame(world):
    human, good, worse, better = world
    found = differences(
        {name: agree(one, human, n_perm=9) for name, one in zip("abc", (good, worse, better), strict=True)},
        "a",
    )
    assert list(found.columns) == ["row", "against", "difference", "low", "high", "told", "n_concepts"]
    assert found[["row", "against", "told"]].values.tolist() == [["a", "b", "above"], ["a", "c", "below"]]
    assert (found["n_concepts"] == 40).all()
    with pytest.raises(DataError, match="reference: got 'x', expected one of 'a'"):
        differences({"a": agree(good, human, n_perm=9)}, "x")


def test_agreements_with_other_ratings_are_not_compared(world):
    human, good, worse, _ = world
    first = agree(good, human, n_perm=9)
    for other in (
        agree(worse, human[:-1], n_perm=9),
        agree(worse, human, n_perm=9, seed=1),
        agree(worse, human, n_perm=9, n_boot=9),
    ):
        with pytest.raises(
            ShapeError, match="draws of other judgements, expected the same judgements and seed"
        ):
            first.minus(other)


# Reliability of the means of several raters


def raters(rng, items, number, noise):
    truth = rng.normal(size=items)
    found = pd.DataFrame({f"r{k}": truth + noise * rng.normal(size=items) for k in range(number)})
    return found.assign(item=[f"i{n}" for n in range(items)])


def longer(wide):
    return wide.melt("item", var_name="rater", value_name="value")


def test_two_raters_are_the_closed_form():
    wide = raters(np.random.default_rng(0), 30, 2, 1.0)
    found = split_half_reliability(wide, n_splits=20)
    expected = spearman_brown(float(spearmanr(wide["r0"], wide["r1"])[0]))
    assert (found.value, found.low, found.high) == pytest.approx((expected,) * 3)
    assert (found.n_splits, found.n_items, found.n_raters, found.n_left_out) == (20, 30, 2, 0)


@pytest.mark.parametrize("number", [3, 6, 9])
def test_parallel_raters_have_the_reliability_of_the_model(number):
    """With truth and noise of variance 1 the mean of k raters has reliability k / (k + 1); an odd one is no loss."""
    found = split_half_reliability(raters(np.random.default_rng(number), 4000, number, 1.0), n_splits=20)
    half = (number // 2) / (number // 2 + 1)
    expected = prophecy(
        6 / np.pi * np.arcsin(half / 2), number / (number // 2)
    )  # Spearman's rho of normal halves
    assert found.value == pytest.approx(expected, abs=0.015)
    assert found.value == pytest.approx(number / (number + 1), abs=0.03)
    assert found.low <= found.value <= found.high


def test_long_and_wide_tables_say_the_same_and_pairs_stand_in_either_order():
    wide = raters(np.random.default_rng(1), 40, 5, 1.0)
    expected = split_half_reliability(wide, n_splits=30)
    assert split_half_reliability(
        longer(wide).sample(frac=1, random_state=0), n_splits=30
    ).value == pytest.approx(expected.value, abs=0.03)
    pairs = longer(wide)
    names = pairs["item"].str.slice(1)
    turned = pairs["rater"] == "r2"
    pairs = pairs.assign(word1="a" + names, word2="b" + names)
    pairs.loc[turned, ["word1", "word2"]] = pairs.loc[turned, ["word2", "word1"]].to_numpy()
    found = split_half_reliability(pairs.drop(columns="item"), n_splits=30)
    assert (found.n_items, found.n_raters) == (40, 5)
    assert found.value == pytest.approx(expected.value, abs=0.03)


def test_raters_who_rated_some_items_only():
    """Of 40 raters each item has six: its mean has the reliability of six."""
    rng = np.random.default_rng(2)
    wide = raters(rng, 3000, 40, 1.0)
    names = [f"r{k}" for k in range(40)]
    keep = np.argsort(rng.random((3000, 40)), axis=1) < 6
    wide[names] = wide[names].where(keep)
    wide.loc[[0, 1], names] = np.nan
    found = split_half_reliability(wide, n_splits=10)
    half = 6 / np.pi * np.arcsin(0.75 / 2)
    assert found.value == pytest.approx(spearman_brown(half), abs=0.015)
    assert (found.n_items, found.n_raters, found.n_left_out) == (2998, 40, 2)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (pd.DataFrame({"item": list("abc"), "r0": 1.0}), "got 1 raters, expected at least two"),
        (pd.DataFrame({"item": list("abc")}), "got 0 raters"),
        (
            pd.DataFrame({"item": list("ab"), "r0": 1.0, "r1": [1, 2]}),
            "got 2 items that at least two of 2 raters",
        ),
        (
            pd.DataFrame({"items": list("abc"), "r0": 1.0}),
            "columns items, r0, expected word1 and word2, or item",
        ),
        (pd.DataFrame({"item": list("abc"), "r0": ["1", "x", "2"], "r1": 1.0}), "got 'x' in row 1 of r0"),
        (pd.DataFrame({"item": list("abc"), "r0": [1, np.inf, 2], "r1": 1.0}), "inf in row 1 of r0"),
        (longer(raters(np.random.default_rng(0), 5, 3, 1.0)).loc[[0, 0, 1, 2]], "two ratings of i0 by r0"),
    ],
)
def test_tables_of_raters_that_cannot_be_used_are_refused(table, match):
    with pytest.raises(DataError, match=match):
        split_half_reliability(table)


def test_constant_raters_have_no_reliability_and_splits_are_counted():
    constant = pd.DataFrame({"item": list("abcd"), "r0": 1.0, "r1": [1, 2, 3, 4]})
    found = split_half_reliability(constant, n_splits=5)
    assert np.isnan(found.value)
    assert found.n_splits == 0
    with pytest.raises(ConfigError, match="n_splits: got 0"):
        split_half_reliability(constant, n_splits=0)
