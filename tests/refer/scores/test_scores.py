"""caption_scores: sources, maxima, intervals, signatures, a listener's scores, and what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trimtab
from trimtab.errors import ConfigError, ConfigProblems, DataError
from trimtab.refer.scores.ngrams import bleu, bleu_statistics
from trimtab.refer.scores.scores import METEOR, caption_scores, item_scores
from trimtab.refer.scores.tokenisers import Tokeniser

CAPTIONS = [
    "A man riding a wave on a surfboard.",
    "two dogs run over the green grass",
    "A red train at the old station",
    "a plate of food with some broccoli",
    "People are skiing down a snowy slope",
]
SEVERAL = [
    ["a surfer rides a big wave", "A man on a board, riding a wave on the sea."],
    ["two dogs running on the grass", "dogs play on the green lawn in the sun"],
    ["a train stands at the station", "an old red train at a station"],
    ["some broccoli on a white plate", "a plate of broccoli and rice"],
    ["people skiing down a slope", "a group of people on a snowy slope"],
]
NAMES = ["wave", "dogs", "train", "plate", "snow"]
TOKENS = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr", "CIDEr-D", METEOR]


def values(*arguments: Any, **settings: Any) -> dict[str, float]:
    return dict(caption_scores(*arguments, n_boot=50, **settings).set_index("score")["value"])


def test_the_table(tmp_path: Path) -> None:
    table = caption_scores(CAPTIONS, SEVERAL)
    assert table.columns.tolist() == ["score", "value", "low", "high", "n", "signature"]
    assert table["score"].tolist() == TOKENS
    assert (table["n"] == 5).all()
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    assert trimtab.caption_scores is caption_scores


def test_every_source_gives_the_same_scores(tmp_path: Path) -> None:
    expected = caption_scores(CAPTIONS, SEVERAL)
    candidates = dict(zip(NAMES, CAPTIONS, strict=True))
    told = dict(zip(NAMES, SEVERAL, strict=True))
    rows = pd.DataFrame([(name, one) for name in NAMES for one in told[name]], columns=["item", "caption"])
    frame = pd.DataFrame({"item": NAMES, "caption": CAPTIONS})
    frame.to_csv(tmp_path / "c.csv", index=False)
    (tmp_path / "r.jsonl").write_text(
        "".join(json.dumps({"item": name, "references": told[name]}) + "\n" for name in NAMES)
    )
    for left, right in (
        (candidates, told),
        (frame, rows),
        (tmp_path / "c.csv", tmp_path / "r.jsonl"),
        (pd.Series(CAPTIONS), np.array(SEVERAL, dtype=object)),
    ):
        pd.testing.assert_frame_equal(caption_scores(left, right), expected)


def test_the_order_of_items_and_other_items_do_not_matter() -> None:
    candidates, told = dict(zip(NAMES, CAPTIONS, strict=True)), dict(zip(NAMES, SEVERAL, strict=True))
    turned = {name: candidates[name] for name in NAMES[::-1]}
    more = {"other": ["a plate of broccoli"], **told}
    assert values(turned, more) == pytest.approx(values(candidates, told))


def test_identical_captions_reach_the_maximum_and_shuffled_ones_lose() -> None:
    same = values(CAPTIONS, [[one] for one in CAPTIONS])
    assert same == pytest.approx({name: 1000.0 if "CIDEr" in name else 100.0 for name in TOKENS})
    table = caption_scores(CAPTIONS, [[one] for one in CAPTIONS])
    assert table["low"].tolist() == pytest.approx(table["value"].tolist())
    right, wrong = values(CAPTIONS, SEVERAL), values(CAPTIONS, SEVERAL[1:] + SEVERAL[:1])
    assert all(wrong[name] < right[name] for name in TOKENS)
    assert all(wrong[name] < 0.1 * right[name] for name in ("BLEU-3", "BLEU-4", "CIDEr", "CIDEr-D"))


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.text("ab c", max_size=8), st.lists(st.text("abc ", min_size=1, max_size=8), min_size=1)),
        min_size=2,
        max_size=5,
    )
)
def test_scores_stay_in_range(items: list[tuple[str, list[str]]]) -> None:
    told = [[one if one.strip() else "a" for one in several] for _, several in items]
    for row in caption_scores([one for one, _ in items], told, n_boot=50).to_dict("records"):
        for value in (row["value"], row["low"], row["high"]):
            assert np.isnan(value) or -1e-9 <= value <= (1000 if "CIDEr" in row["score"] else 100) + 1e-9


def test_intervals_are_those_of_items_drawn_one_by_one() -> None:
    rng = np.random.default_rng(0)
    captions = [" ".join(rng.choice(list("abcdef"), 8)) for _ in range(60)]
    told = [[" ".join(rng.permutation(one.split())[:7]), one[: rng.integers(5, 15)]] for one in captions]
    table = caption_scores(captions, told, n_boot=1000).set_index("score")
    per_item = item_scores(captions, told)
    counts = bleu_statistics(
        [one.split() for one in captions], [[one.split() for one in each] for each in told]
    )
    drawn = [rng.integers(60, size=60) for _ in range(2000)]
    by_hand = {
        "BLEU-2": [100 * bleu(counts[one].sum(axis=0))[1] for one in drawn],
        "CIDEr-D": [per_item["CIDEr-D"].to_numpy()[one].mean() for one in drawn],
        "ROUGE-L": [per_item["ROUGE-L"].to_numpy()[one].mean() for one in drawn],
    }
    for name, several in by_hand.items():
        low, high = np.quantile(several, [0.025, 0.975])
        width = high - low
        assert abs(table.low[name] - low) < 0.15 * width, name
        assert abs(table.high[name] - high) < 0.15 * width, name
    assert per_item.mean()[["CIDEr", "ROUGE-L"]].to_dict() == pytest.approx(
        table["value"][["CIDEr", "ROUGE-L"]].to_dict()
    )


def test_the_same_seed_the_same_intervals() -> None:
    first, again, other = (caption_scores(CAPTIONS, SEVERAL, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first, again)
    assert first["value"].tolist() == other["value"].tolist()
    assert first["low"].tolist() != other["low"].tolist()


def test_one_item_has_no_interval_and_no_cider_of_its_own() -> None:
    table = caption_scores(CAPTIONS[:1], SEVERAL[:1]).set_index("score")
    assert table[["low", "high"]].isna().all(axis=None)
    assert table["value"].isna().tolist() == ["CIDEr" in name for name in TOKENS]
    given_one = caption_scores(CAPTIONS[:1], SEVERAL[:1], corpus=SEVERAL).set_index("score")
    assert not given_one["value"].isna().any()


def test_document_frequencies_of_a_given_corpus() -> None:
    whole = item_scores(CAPTIONS, SEVERAL)
    part = item_scores(CAPTIONS[:2], SEVERAL[:2], corpus=dict(zip(NAMES, SEVERAL, strict=True)))
    pd.testing.assert_frame_equal(part, whole.iloc[:2])
    assert "idf:corpus|docs:5" in caption_scores(CAPTIONS[:2], SEVERAL[:2], corpus=SEVERAL)["signature"][6]


def test_signatures_name_what_a_score_depends_on() -> None:
    told = caption_scores(CAPTIONS, [*SEVERAL[:4], ["people"]], tokeniser="words").set_index("score")[
        "signature"
    ]
    assert told["BLEU-4"] == "tok:words.1|refs:1-2|length:closest|smooth:none|scale:100|impl:trimtab.1"
    assert told["CIDEr-D"] == (
        "tok:words.1|refs:1-2|idf:references|docs:5|stem:no|sigma:6|scale:100|impl:trimtab.1"
    )
    assert "stages:exact,stem|stemmer:porter2" in told[METEOR]
    own = caption_scores(CAPTIONS, SEVERAL, tokeniser=Tokeniser("split", 2, str.split))
    assert all("tok:split.2|" in one for one in own["signature"])


def test_tokenisers_differ_where_punctuation_does() -> None:
    captions, told = ["a close-up of it .", "x y"], [["a close up of it"], ["x y"]]
    assert values(captions, told, tokeniser="words")["BLEU-1"] == pytest.approx(100.0)
    assert values(captions, told)["BLEU-1"] < 90


def test_an_empty_candidate_scores_nothing() -> None:
    table = item_scores(["", *CAPTIONS[1:]], SEVERAL)
    assert (table.iloc[0] == 0).all()
    with pytest.raises(DataError, match="references, item 0: got reference 1 of 1 empty"):
        caption_scores(["a"], [[""]])


@dataclass
class Heard:
    """A listener whose texts and pictures are points on a circle, at angles in degrees."""

    angles: dict[str, float]
    name: str = "circle"

    def gallery(self, pictures: Any) -> Any:
        names = list(pictures)
        vectors = self.points([pictures[name] for name in names])
        return SimpleNamespace(vectors=vectors, places=lambda wanted: [names.index(one) for one in wanted])

    @property
    def encoder(self) -> Any:
        return SimpleNamespace(texts=lambda texts: self.points([self.angles[text] for text in texts]))

    def similarity(self, captions: Any, pictures: Any) -> np.ndarray:
        return self.points([self.angles[text] for text in captions]) @ pictures.T

    def points(self, angles: list[float]) -> np.ndarray:
        return np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], axis=1)


def test_clip_scores_by_hand() -> None:
    listener = Heard({"a": 0, "b": 100, "r": 60, "s": 30, "t": 300})
    pictures = {"second": 270, "spare": 0, "first": 60}
    table = caption_scores(
        {"first": "a", "second": "b"}, {"first": ["r", "s"], "second": ["t"]}, listener, pictures
    ).set_index("score")
    clip, best = 2.5 * 0.5, np.cos(np.radians(30))
    assert table.value["CLIPScore"] == pytest.approx(100 * (clip + 0) / 2)
    assert table.value["RefCLIPScore"] == pytest.approx(100 * 2 * clip * best / (clip + best) / 2)
    assert table.signature["CLIPScore"] == "listener:circle|prompt:none|w:2.5|scale:100|impl:trimtab.1"
    per_item = item_scores(["a", "b"], [["r", "s"], ["t"]], listener, {"x": 60, "y": 270})
    assert per_item["CLIPScore"].tolist() == pytest.approx([125.0, 0.0])


def test_a_prompt_is_put_before_every_text() -> None:
    listener = Heard({"see a": 0, "see b": 90})
    table = caption_scores({"x": "a"}, {"x": ["b", "a"]}, listener, {"x": 0.0}, prompt="see ").set_index(
        "score"
    )
    assert table.value["RefCLIPScore"] == pytest.approx(100 * 2 * 2.5 / 3.5)
    assert "prompt:see|" in table.signature["RefCLIPScore"]


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ((["a"], [["a"], ["b"]]), {}, DataError, "got 1 candidates and references of 2 items"),
        ((["a"], {"x": ["a"]}), {}, DataError, "a list of candidates and references that are no list"),
        (
            ({"dog": "a"}, {"dogs": ["a"]}),
            {},
            DataError,
            "1 of 1 candidates without references.*'dog'.*; try 'dogs'",
        ),
        ((["a", None], [["a"], ["b"]]), {}, DataError, "candidates, item 1: got no value for the caption"),
        (([], []), {}, DataError, "candidates: got no captions"),
        ((["a"], [3]), {}, DataError, r"references, item 0: got references that are 3 \(int\)"),
        (("nowhere.csv", "r.csv"), {}, DataError, "candidates: got no file"),
        (
            (["a"], [["a"]]),
            {"tokeniser": "java"},
            ConfigProblems,
            "tokeniser: got 'java', expected 'ptb' or 'words'",
        ),
        ((["a"], [["a"]]), {"n_boot": 0}, ConfigError, "got n_boot 0, expected at least 1"),
        ((["a"], [["a"]]), {"confidence": 95}, ConfigError, "got confidence 95"),
        ((["a"], [["a"]]), {"pictures": {}}, ConfigError, "got pictures without a listener, expected both"),
        ((["a"], [["a"]]), {"listener": Heard({})}, ConfigError, "got a listener without pictures"),
        (
            (["a"], [["a"]]),
            {"listener": Heard({}), "pictures": {"x": 0, "y": 1}},
            DataError,
            "2 pictures and 1 cand",
        ),
        ((["a"], [["a"]]), {"corpus": [[]]}, DataError, "corpus, item 0: got an empty list of references"),
    ],
)
def test_what_cannot_be_scored(
    arguments: tuple[Any, Any], settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        caption_scores(*arguments, **settings)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_cannot_be_used(seed: int) -> None:
    with pytest.raises(ConfigError, match=f"seed: got {seed}, expected a whole number from 0"):
        caption_scores(CAPTIONS, SEVERAL, seed=seed)
