"""Lexicons: closed forms, laws, a listener that is simulated, shapes of lexicon, contexts, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import Lexicon, NamingCounts
from trimtab.data.wordlist import WordList
from trimtab.errors import ConfigError, DataError
from trimtab.numerics.bootstrap import wilson
from trimtab.refer.lexicon.contexts import Speaker, Trials, draw_trials, listener, set_aside, treated
from trimtab.refer.lexicon.job import simulated_lexicon

SEEDS = st.integers(0, 100_000)


def square(n: int = 60, seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(seed).uniform(size=(n, 2)), columns=["x", "y"])


def drawn(seed: int, n: int = 12, words: int = 5) -> NamingCounts:
    table = np.random.default_rng(seed).integers(0, 4, (n, words))
    table[:, 0] += 1
    rows = [(m, f"w{w}", table[m, w]) for m in range(n) for w in range(words)]
    return NamingCounts.from_frame(pd.DataFrame(rows, columns=["referent", "name", "count"]))


def partition(k: int, each: int = 6) -> NamingCounts:
    rows = [(m, f"w{m % k}", 3) for m in range(k * each)]
    return NamingCounts.from_frame(pd.DataFrame(rows, columns=["referent", "name", "count"]))


# Closed forms


@pytest.mark.parametrize("k", [2, 4, 5])
@pytest.mark.parametrize("kind", ["kl", "size"])
def test_a_uniform_partition_into_k_words_has_log2_k_bits(k: int, kind: str) -> None:
    lexicon = Lexicon.fit(partition(k), square(6 * k), kind=kind)
    told = lexicon.informativeness()
    np.testing.assert_allclose(told["info_bits"], np.log2(k), atol=1e-12)
    np.testing.assert_allclose(told["probability"], 1 / k, atol=1e-12)
    assert told["denotation"].tolist() == [6] * k
    system = lexicon.system()
    assert system.complexity_bits == pytest.approx(np.log2(k), abs=1e-12)
    assert system.success_rate == pytest.approx(1 / 6, abs=1e-12)
    assert system.words_per_referent == 1
    assert system.effective_words == pytest.approx(1, abs=1e-12)
    sharp = replace(lexicon, bandwidth=1e-6)
    assert sharp.system().accuracy_bits == pytest.approx(np.log2(k), abs=1e-9)


def test_size_and_kl_agree_for_sharp_words_of_any_size_and_part_for_soft_ones() -> None:
    rows = [(m, "big" if m < 9 else "small", 1) for m in range(12)]
    sharp = NamingCounts.from_frame(pd.DataFrame(rows, columns=["referent", "name", "count"]))
    bits = [Lexicon.fit(sharp, square(12), kind=kind).info_bits for kind in ("kl", "size")]
    np.testing.assert_allclose(bits[0], bits[1], atol=1e-12)
    np.testing.assert_allclose(bits[0], [np.log2(12 / 9), np.log2(12 / 3)], atol=1e-12)
    soft = Lexicon.fit(drawn(0), square(12))
    assert (soft.info_bits >= replace(soft, kind="size").info_bits - 1e-12).all()


def test_volumes_of_a_known_figure() -> None:
    grid = pd.DataFrame([(x, y) for x in range(9) for y in range(9)], columns=["x", "y"], dtype=float)
    rows = [(m, "left" if x <= 4 else "right", 1) for m, (x, _) in enumerate(grid.to_numpy())]
    counts = NamingCounts.from_frame(pd.DataFrame(rows, columns=["referent", "name", "count"]))
    hull = Lexicon.fit(counts, grid, kind="size", volume="hull").info_bits
    np.testing.assert_allclose(hull, [-np.log2(4 / 8), -np.log2(3 / 8)], atol=1e-12)
    near = Lexicon.fit(counts, grid, kind="size", volume="neighbours").info_bits
    np.testing.assert_allclose(near, [-np.log2(45 / 81), -np.log2(36 / 81)], atol=0.15)
    one = pd.concat([counts.table, pd.DataFrame({"referent": [80], "name": ["rare"], "count": [1]})])
    assert np.isnan(Lexicon.fit(NamingCounts.from_frame(one), grid, kind="size", volume="hull").info_bits[1])


# Laws


@settings(max_examples=30)
@given(SEEDS)
def test_the_laws_of_a_lexicon(seed: int) -> None:
    lexicon = Lexicon.fit(drawn(seed), square(12, seed))
    system = lexicon.system()
    assert lexicon.words @ lexicon.info_bits == pytest.approx(system.complexity_bits, abs=1e-10)
    assert 0 <= system.accuracy_bits <= system.complexity_bits + 1e-10
    words = lexicon.plane()
    for name in ("complexity_bits", "accuracy_bits"):
        assert words["probability"] @ words[name] == pytest.approx(getattr(system, name), abs=1e-10)
    bits = dict(zip(lexicon.names, lexicon.info_bits, strict=True))
    np.testing.assert_allclose(words["complexity_bits"], words["name"].map(bits), atol=1e-10)
    assert (words["accuracy_bits"] <= words["complexity_bits"] + 1e-10).all()
    assert 1 / 12 - 1e-12 <= system.success_rate <= 1
    assert 1 - 1e-12 <= system.effective_words <= system.words_per_referent + 1e-9
    # Two words made one tell less, about meanings and about the world.
    merged = lexicon.naming @ np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    coarser = lexicon.with_naming(merged, list("abcd")).system()
    assert coarser.complexity_bits <= system.complexity_bits + 1e-10
    assert coarser.accuracy_bits <= system.accuracy_bits + 1e-10


@settings(max_examples=8)
@given(SEEDS)
def test_names_and_order_do_not_matter(seed: int) -> None:
    counts, features = drawn(seed), square(12, seed)
    other = counts.table.sample(frac=1, random_state=seed).replace({"w0": "zebra"})
    here = Lexicon.fit(counts, features).informativeness().replace({"w0": "zebra"}).set_index("name")
    there = Lexicon.fit(NamingCounts.from_frame(other), features).informativeness().set_index("name")
    pd.testing.assert_frame_equal(here.sort_index(), there.sort_index())


def test_a_word_on_the_plane_by_hand() -> None:
    """Two referents far apart: a word for one tells a bit at the cost of one; a word for both tells and costs none."""
    rows = [(0, "near", 1), (1, "far", 1), (0, "thing", 1), (1, "thing", 1)]
    counts = NamingCounts.from_frame(pd.DataFrame(rows, columns=["referent", "name", "count"]))
    apart = pd.DataFrame({"x": [0.0, 100.0]})
    plane = Lexicon.fit(counts, apart, bandwidth=1.0).plane().set_index("name")
    assert plane["probability"].to_dict() == {"thing": 0.5, "far": 0.25, "near": 0.25}
    np.testing.assert_allclose(plane.loc[["near", "far", "thing"], "complexity_bits"], [1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(plane.loc[["near", "far", "thing"], "accuracy_bits"], [1, 1, 0], atol=1e-12)
    blurred = Lexicon.fit(counts, apart, bandwidth=1e6).plane()
    np.testing.assert_allclose(blurred["accuracy_bits"], 0, atol=1e-6)


def test_smoothing_takes_certainty_from_rare_words_only() -> None:
    rows = [(m, "often", 50) for m in range(6)] + [(7, "often", 50), (7, "once", 1)]
    counts = NamingCounts.from_frame(pd.DataFrame(rows, columns=["referent", "name", "count"]))
    plain, smooth = (
        Lexicon.fit(counts, square(8), smoothing=s).informativeness().set_index("name") for s in (0, 1)
    )
    assert plain["info_bits"]["once"] == pytest.approx(np.log2(7), abs=1e-12)
    assert smooth["info_bits"]["once"] < 0.6 * plain["info_bits"]["once"]
    assert smooth["info_bits"]["often"] == pytest.approx(plain["info_bits"]["often"], abs=0.01)


# Communication


def test_a_listener_who_is_simulated_succeeds_as_often_as_the_formula_says() -> None:
    lexicon = Lexicon.fit(drawn(3), square(12))
    rng = np.random.default_rng(0)
    heard = (lexicon.naming * lexicon.prior[:, None] / lexicon.words).T

    def picked(chances: np.ndarray) -> np.ndarray:
        return (rng.random((len(chances), 1)) > np.cumsum(chances, axis=1)).sum(axis=1)

    referents = rng.choice(12, size=100_000, p=lexicon.prior)
    success = picked(heard[picked(lexicon.naming[referents])]) == referents
    assert success.mean() == pytest.approx(lexicon.system().success_rate, abs=0.005)


def test_choosing_a_word_weighs_success_against_bits() -> None:
    rows = [(1, "dog", 5), (1, "poodle", 5), (2, "dog", 5), (2, "beagle", 5), (3, "cat", 10)]
    counts = NamingCounts.from_frame(pd.DataFrame(rows, columns=["referent", "name", "count"]))
    lexicon = Lexicon.fit(counts, pd.DataFrame({"x": [0.0, 1, 5]}, index=[1, 2, 3]))
    far, near = lexicon.choose(1, distractors=[3]), lexicon.choose(1, distractors=[2])
    assert far["name"].tolist() == ["dog", "poodle"]
    assert far["p_success"].tolist() == [1, 1]
    assert near["name"].tolist() == ["poodle", "dog"]
    assert near["p_success"].tolist() == pytest.approx([1, 0.5])
    assert near["preference"].sum() == pytest.approx(1)
    with_prior = lexicon.choose(1, [2], prior=[3, 1]).set_index("name")
    assert with_prior["p_success"]["dog"] == pytest.approx(0.75)
    indifferent = lexicon.choose(1, [2], speaker=Speaker(alpha=0))
    np.testing.assert_allclose(indifferent["preference"], 0.5)
    bits = lexicon.informativeness().set_index("name")["info_bits"]
    utility = np.exp(4 * (np.log([1, 0.5]) - 0.1 * bits[["poodle", "dog"]].to_numpy()))
    np.testing.assert_allclose(near["preference"], utility / utility.sum(), atol=1e-12)


@given(SEEDS)
def test_a_listener_divides_the_whole_belief(seed: int) -> None:
    rng = np.random.default_rng(seed)
    naming = rng.dirichlet(np.ones(4), size=3)
    told = listener(naming, rng.dirichlet(np.ones(3)))
    np.testing.assert_allclose(told.sum(axis=0), 1, atol=1e-12)


def test_trials_hold_different_candidates_and_near_ones_are_near() -> None:
    features = square(50).to_numpy()
    prior = np.full(50, 1 / 50)
    near = draw_trials(features, prior, Trials(trials=300, nearby=1.0))
    far = draw_trials(features, prior, Trials(trials=300, nearby=0.0))
    for trials in (near, far):
        assert all(len(set(row)) == 3 for row in trials.tolist())
    distances = [np.linalg.norm(features[t[:, 1]] - features[t[:, 0]], axis=1).mean() for t in (near, far)]
    assert distances[0] < 0.3 * distances[1]


def test_flexible_speakers_of_soft_lexicons_succeed_more_often_for_the_same_bits() -> None:
    features = square(80)
    lexicons = {shape: simulated_lexicon(features, shape, 14) for shape in ("hard", "soft", "nested")}
    told = {shape: lexicon.simulate().set_index("flexibility") for shape, lexicon in lexicons.items()}
    assert told["soft"]["success_low"][1.0] > told["hard"]["success_high"][1.0]
    assert told["soft"]["info_high"][1.0] < told["hard"]["info_low"][1.0]
    # A lexicon of one word per thing leaves nothing to choose.
    assert told["hard"]["success"].nunique() == 1
    assert told["nested"]["info_bits"][1.0] < told["nested"]["info_bits"][0.0]
    for lexicon in lexicons.values():
        np.testing.assert_allclose(lexicon.naming.sum(axis=1), 1, atol=1e-12)
        assert len(lexicon.names) == 14
    words = [lexicon.system().words_per_referent for lexicon in lexicons.values()]
    assert words[0] == 1
    assert words[1] > 1.5
    assert words[2] == pytest.approx(4)


def test_no_lexicon_is_past_the_frontier() -> None:
    features = square(30)
    lexicon = simulated_lexicon(features, "hard", 5)
    front = lexicon.frontier()
    told = front.to_frame()
    assert (told["accuracy_bits"] <= told["complexity_bits"] + 1e-9).all()
    near = front.inefficiency(lexicon)
    assert -1e-4 < near.bits < 0.2
    shuffled = lexicon.with_naming(np.random.default_rng(0).permutation(lexicon.naming), lexicon.names)
    assert front.inefficiency(shuffled).bits > near.bits + 0.1
    assert front.inefficiency(front.best.lexicons[5]).bits == pytest.approx(0, abs=1e-4)


# In context


def messages(seed: int = 0) -> NamingCounts:
    """Hard contexts show more referents of the first kind, where words are wide, but words there are narrower."""
    rng = np.random.default_rng(seed)
    rows = []
    for game in range(40):
        for _ in range(20):
            hard = rng.random() < 0.5
            referent = (
                int(rng.integers(0, 8))
                if rng.random() < (0.9 if hard else 0.2)
                else 8 + int(rng.integers(0, 2))
            )
            narrow = rng.random() < (0.6 if hard else 0.3)
            name = (f"narrow {referent // 2}" if narrow else "wide") if referent < 8 else f"own {referent}"
            rows.append((referent, name, 1, "hard" if hard else "easy", game))
    return NamingCounts.from_frame(
        pd.DataFrame(rows, columns=["referent", "name", "count", "context", "game"])
    )


def test_the_same_referents_show_what_all_messages_hide() -> None:
    counts = messages()
    lexicon = Lexicon.fit(counts, square(10))
    found = lexicon.in_context(counts, "easy", "hard", cluster="game")
    told = found.comparison.set_index("comparison")
    assert told.loc["all messages", "high"] < 0
    same = told.drop(index="all messages")
    assert (same["low"] > 0).all()
    np.testing.assert_allclose(told["hard"] - told["easy"], told["difference"], atol=1e-12)
    assert set(told["n_clusters"]) == {40}
    rows = counts.table.merge(lexicon.informativeness(), on="name")
    by_hand = rows.groupby("context")["info_bits"].mean()
    assert told.loc["all messages", "easy"] == pytest.approx(by_hand["easy"], abs=1e-12)
    cells = rows.groupby(["referent", "context"])["info_bits"].mean().unstack()
    weights = rows[rows["context"] == "hard"]["referent"].value_counts()
    at = float(((cells["hard"] - cells["easy"]) * weights).sum() / weights.sum())
    assert told.loc["same referents, the hard contexts' mix", "difference"] == pytest.approx(at, abs=1e-12)
    assert found.accounting["n_messages"].sum() == counts.total


def test_contexts_and_names_that_are_not_there() -> None:
    counts = messages()
    lexicon = Lexicon.fit(counts, square(10))
    with pytest.raises(DataError, match=r"no messages in context 'hrd'.*try 'hard'"):
        lexicon.in_context(counts, "easy", "hrd")
    with pytest.raises(DataError, match="no column 'gme'"):
        lexicon.in_context(counts, "easy", "hard", cluster="gme")
    more = pd.concat([counts.table, pd.DataFrame([(1, "new", 7, "hard", 0)], columns=counts.table.columns)])
    found = lexicon.in_context(NamingCounts.from_frame(more), "easy", "hard", cluster="game")
    assert found.accounting.set_index("reason")["n_messages"].to_dict()["used"] == counts.total
    assert found.accounting["n_messages"].sum() == counts.total + 7


def test_modifiers_are_treated_as_asked() -> None:
    heads, modifiers = WordList.read("colours-zh"), WordList.read("modifiers-zh")
    told = {"深蓝色": 3, "蓝": 2, "蓝绿色": 1, "最亮的绿色": 1, "你好": 4, "不是红": 1}
    rows = [(0, name, count) for name, count in told.items()]
    counts = NamingCounts.from_frame(pd.DataFrame(rows, columns=["referent", "name", "count"]))
    names = {
        t: treated(counts, heads, modifiers, t)[0].table.set_index("name")["count"]
        for t in ("stripped", "kept", "bare")
    }
    assert sorted(names["stripped"].groupby(level=0).sum().items()) == [
        ("blue", 5),
        ("green", 1),
        ("green + blue", 1),
        ("red", 1),
    ]
    assert set(names["kept"].index) == {
        "blue, dark",
        "blue",
        "green + blue",
        "green, vivid, superlative",
        "red, negation",
    }
    assert set(names["bare"].index) == {"blue", "green + blue"}
    for treatment in ("stripped", "kept", "bare"):
        assert treated(counts, heads, modifiers, treatment)[1]["n_messages"].sum() == counts.total
    with pytest.raises(ConfigError, match="treatment 'strip'"):
        treated(counts, heads, modifiers, "strip")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no name with a word of the list"):
        treated(
            NamingCounts.from_frame(counts.table[counts.table["name"] == "你好"]), heads, modifiers, "kept"
        )


# What is refused


def test_bad_input_is_refused() -> None:
    counts, features = drawn(0), square(12)
    lexicon = Lexicon.fit(counts, features)
    with pytest.raises(ConfigError, match=r"kind 'kls'.*try 'kl'"):
        Lexicon.fit(counts, features, kind="kls")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="volume 'cell'"):
        Lexicon.fit(counts, features, volume="cell")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="without features"):
        Lexicon.fit(counts, features.iloc[:5])
    with pytest.raises(DataError, match="a prior of -1"):
        Lexicon.fit(counts, features, prior=pd.Series(-1.0, index=features.index))
    with pytest.raises(DataError, match="without 'prior'"):
        Lexicon.fit(counts, features, prior=pd.Series(1.0, index=range(5)))
    with pytest.raises(DataError, match="referent 99, expected one of 12 referents"):
        lexicon.choose(99, [0])
    with pytest.raises(DataError, match="different ones"):
        lexicon.choose(0, [0])
    with pytest.raises(ConfigError, match="flexibility 2"):
        lexicon.simulate(2.0)
    with pytest.raises(ConfigError, match="12 distractors of 12"):
        lexicon.simulate(trials=Trials(distractors=12))
    with pytest.raises(DataError, match="1 words for 12"):
        simulated_lexicon(features, "hard", 1)


# Labels of any type, and what is set aside


@pytest.mark.parametrize(
    ("column", "easy", "hard"),
    [
        ([0, 1], 0, 1),
        ([0.0, 1.0], "0", "1"),
        ([False, True], False, "True"),
        (["not so hard", "very hard"], "not so hard", "very hard"),
    ],
)
def test_contexts_may_be_numbers_truth_values_or_texts(column: list, easy: object, hard: object) -> None:
    counts = messages()
    lexicon = Lexicon.fit(counts, square(10))
    expected = lexicon.in_context(counts, "easy", "hard", cluster="game", n_boot=50)
    own = counts.table.assign(
        context=counts.table["context"].map(dict(zip(("easy", "hard"), column, strict=True)))
    )
    own["game"] = own["game"].map(float)
    found = lexicon.in_context(NamingCounts.from_frame(own), easy, hard, cluster="game", n_boot=50)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(found.comparison, expected.comparison)
    with pytest.raises(DataError, match="two different ones"):
        lexicon.in_context(counts, "easy", " easy ")


@pytest.mark.parametrize("name", ["bits", "place", "reason", "side"])
def test_columns_of_a_user_keep_their_meaning(name: str) -> None:
    counts = messages()
    lexicon = Lexicon.fit(counts, square(10))
    renamed = NamingCounts.from_frame(counts.table.rename(columns={"context": name}))
    found = lexicon.in_context(renamed, "easy", "hard", context=name, n_boot=20)
    expected = lexicon.in_context(counts, "easy", "hard", n_boot=20)
    pd.testing.assert_frame_equal(found.comparison, expected.comparison)


def test_the_share_set_aside_is_told_by_context() -> None:
    counts = messages()
    kept = ~((counts.table.index % 3 == 0) & (counts.table["context"] == "hard"))
    found = set_aside(counts, kept, "easy", "hard", cluster="game", n_boot=200)
    hard = (~kept).sum() / (counts.table["context"] == "hard").sum()
    assert found["context"].tolist() == ["easy", "hard", "hard less easy"]
    np.testing.assert_allclose(found["share"], [0, hard, hard], atol=1e-12)
    assert found["n_messages"].tolist()[2] == counts.total
    assert found["low"][2] > 0
    # None of the easy contexts' is set aside, which is no certainty: Wilson's bound of 0 of 40 games.
    assert found["high"][0] == pytest.approx(wilson(0, 40).high)
    nothing = set_aside(counts, kept | True, "easy", "hard", cluster="game", n_boot=200)
    assert nothing["low"][2] < 0 < nothing["high"][2]
    own = counts.table.assign(game=counts.table["game"].where(counts.table.index > 0))
    with pytest.raises(DataError, match="1 of 800 rows without 'game'"):
        set_aside(NamingCounts.from_frame(own), kept, "easy", "hard", cluster="game")


def test_settings_that_are_not_finite_are_refused() -> None:
    counts, features = drawn(0), square(12)
    for settings_ in (
        {"smoothing": np.nan},
        {"smoothing": np.inf},
        {"bandwidth": np.nan},
        {"bandwidth": np.inf},
    ):
        with pytest.raises(DataError, match="finite numbers"):
            Lexicon.fit(counts, features, **settings_)
    with pytest.raises(DataError, match="a prior of inf"):
        Lexicon.fit(counts, features, prior=pd.Series(np.inf, index=features.index))
    with pytest.raises(DataError, match="weights"):
        Lexicon.fit(counts, features).choose(0, [1], prior=[1, np.nan])
    lexicon = Lexicon.fit(counts, features)
    pd.testing.assert_frame_equal(lexicon.choose("0", [1.0]), lexicon.choose(0, [1]))
