"""Listener: against transformers' own CLIP, by counting, by closed forms, by laws, and what is refused."""

from __future__ import annotations

from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tiny_listener import WORDS, clip, listener, look, noise, words
from trimtab import Listener
from trimtab.errors import ConfigError, DataError, ModelError, ShapeError
from trimtab.refer.captions.listener import Gallery, pixel_key

CAPTIONS = ["red dot left", "green", "blue square on grey", "dot dot dot right", "left red dot"]
NOISE = {f"n{seed}": noise(seed) for seed in range(6)}


class Fixed:
    """Towers whose embeddings are given: captions and pictures are rows of one table."""

    name, scale = "fixed", 2.0

    def __init__(self, texts: dict[str, list[float]]) -> None:
        self.table = {text: torch.tensor(row) / torch.tensor(row).norm() for text, row in texts.items()}

    def texts(self, texts: list[str], batch_size: int = 256) -> torch.Tensor:
        return torch.stack([self.table[text] for text in texts])


def fixed(*angles: float) -> Listener:
    """A listener in the plane: caption "c0" points at the first angle (in degrees), and so on."""
    return Listener(Fixed({f"c{row}": list(ray(angle)) for row, angle in enumerate(angles)}))


def ray(angle: float) -> tuple[float, float]:
    return float(np.cos(np.radians(angle))), float(np.sin(np.radians(angle)))


def rays(*angles: float) -> torch.Tensor:
    return torch.tensor([ray(angle) for angle in angles])


# Against transformers


def test_scores_are_those_of_transformers() -> None:
    texts = words()(CAPTIONS, padding=True, return_tensors="pt")
    pixels = look()(list(NOISE.values()), return_tensors="pt")
    with torch.no_grad():
        logits = clip()(**texts, **pixels).logits_per_text
    scores = listener().score(CAPTIONS, NOISE)
    assert scores.shape == (len(CAPTIONS), len(NOISE))
    torch.testing.assert_close(scores.float(), logits.log_softmax(1), atol=1e-4, rtol=1e-4)
    cosines = listener().similarity(CAPTIONS, NOISE)
    torch.testing.assert_close(cosines.float(), logits / clip().logit_scale.exp(), atol=1e-5, rtol=1e-4)
    assert listener().choose(CAPTIONS, NOISE) == logits.argmax(1).tolist()
    assert listener().tau == pytest.approx(float(clip().logit_scale.detach().exp()))


def test_a_saved_clip_is_the_same_listener(tmp_path: Path) -> None:
    for part in (clip(), words(), look()):
        part.save_pretrained(tmp_path)
    saved = Listener.from_pretrained(tmp_path)
    torch.testing.assert_close(saved.score(CAPTIONS, NOISE), listener().score(CAPTIONS, NOISE))
    assert saved.name == str(tmp_path)


def test_words_after_the_largest_id_are_heard() -> None:
    """With eos_token_id 2 transformers pools at the largest id: what follows "grey" would not be heard."""
    deaf = clip(end=2)
    texts = words()(["grey red", "grey blue"], padding=True, return_tensors="pt")
    with torch.no_grad():
        first, second = deaf.get_text_features(**texts).pooler_output
    assert WORDS[-1] == "grey"
    torch.testing.assert_close(first, second)
    mended = Listener.from_pretrained(deaf, tokenizer=words(), processor=look())
    gap = mended.similarity(["grey red"], NOISE) - mended.similarity(["grey blue"], NOISE)
    assert gap.abs().max() > 0.01
    assert "end token" in mended.encoder.notes[0]


# Scores


@given(st.permutations(range(6)), st.permutations(range(5)))
def test_permuting_captions_and_pictures_permutes_the_scores(columns: list[int], rows: list[int]) -> None:
    gallery, names = GALLERY, list(NOISE)
    scores = listener().score(CAPTIONS, gallery)
    moved = Gallery(
        tuple(names[place] for place in columns),
        gallery.vectors[columns],
        tuple(gallery.keys[place] for place in columns),
    )
    again = listener().score([CAPTIONS[row] for row in rows], moved)
    torch.testing.assert_close(again, scores[rows][:, columns], atol=1e-6, rtol=1e-6)


GALLERY = listener().gallery(NOISE)


def test_probabilities_of_a_row_sum_to_one_and_copies_share() -> None:
    scores = listener().score(CAPTIONS, NOISE)
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(len(CAPTIONS), dtype=torch.float64))
    doubled = listener().score(CAPTIONS, {**NOISE, "copy": NOISE["n0"]})
    torch.testing.assert_close(doubled[:, 0], doubled[:, -1], atol=1e-4, rtol=1e-4)
    kept = doubled[:, :-1].exp() / doubled[:, :-1].exp().sum(1, keepdim=True)
    assert (doubled[:, 0] < scores[:, 0]).all()
    assert (kept.argmax(1)[scores.argmax(1) != 0] == scores.argmax(1)[scores.argmax(1) != 0]).all()


def test_tau_is_the_models_or_the_callers() -> None:
    plain, sharp = fixed(0.0), Listener(fixed(0.0).encoder, scale=5.0)
    cosines = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(
        plain.score(["c0"], rays(0, 90)), (2.0 * cosines).log_softmax(1), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        sharp.score(["c0"], rays(0, 90)), (5.0 * cosines).log_softmax(1), atol=1e-6, rtol=0
    )
    with pytest.raises(ConfigError, match=r"got scale=0\.0, expected a number above 0"):
        Listener(plain.encoder, scale=0.0)


def test_a_gallery_stands_for_its_pictures() -> None:
    assert listener().gallery(GALLERY) is GALLERY
    torch.testing.assert_close(listener().score(CAPTIONS, GALLERY), listener().score(CAPTIONS, NOISE))
    torch.testing.assert_close(
        listener().score(CAPTIONS, 7.0 * GALLERY.vectors),
        listener().score(CAPTIONS, NOISE),
        atol=1e-5,
        rtol=0,
    )
    assert GALLERY.places(["n3", "n0.png"]) == [3, 0]


def test_copies_have_one_key_whatever_their_file(tmp_path: Path) -> None:
    NOISE["n0"].save(tmp_path / "a.png")
    NOISE["n0"].save(tmp_path / "b.bmp")
    NOISE["n1"].save(tmp_path / "c.png")
    gallery = listener().gallery(tmp_path)
    assert gallery.names == ("a", "b", "c")
    assert gallery.keys[0] == gallery.keys[1] == pixel_key(NOISE["n0"]) != gallery.keys[2]
    assert gallery.codes[0] == gallery.codes[1] != gallery.codes[2]


# Choices


def test_choices_among_names_are_those_among_pictures() -> None:
    sets = [list(names) for names in list(combinations(NOISE, 3))[:5]]
    chosen = listener().choose(CAPTIONS, sets, pictures=NOISE)
    cosines = listener().similarity(CAPTIONS, NOISE)
    places = list(NOISE)
    for row, names in enumerate(sets):
        values = [float(cosines[row, places.index(name)]) for name in names]
        assert chosen[row] == values.index(max(values))
    assert listener().choose([], NOISE) == []
    assert listener().choose([], [], pictures=NOISE) == []


def test_of_equals_the_first_is_chosen() -> None:
    assert fixed(10.0).choose(["c0"], rays(80, 10, 10, -20)) == [1]


# Precision


def counted(listener: Listener, captions: list[str], vectors: torch.Tensor, k: int, n: int) -> np.ndarray:
    """Expected hits over all candidate sets of n pictures, ties broken in every order: by enumeration."""
    cosines = listener.similarity(captions, vectors).numpy().round(9)
    found = []
    for row in range(len(captions)):
        others = [place for place in range(len(vectors)) if place != row]
        sets = [(row, *rest) for rest in combinations(others, n - 1)]
        hits = [
            sum(
                row in sorted(order, key=lambda place: -cosines[row, place])[:k]  # a stable sort
                for order in permutations(each)
            )
            / len(list(permutations(each)))
            for each in sets
        ]
        found.append(np.mean(hits))
    return np.array(found)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_hits_are_what_enumeration_says(k: int) -> None:
    ears, vectors = fixed(0, 40, 40, 170, 75), rays(0, 40, 40, 160, 80)
    names = [f"c{row}" for row in range(5)]
    exact = counted(ears, names, vectors, k, n=5)
    np.testing.assert_allclose(ears.hits(k, names, vectors, n=5), exact, atol=1e-12)
    some = np.mean([ears.hits(k, names, vectors, n=4, seed=seed) for seed in range(400)], axis=0)
    np.testing.assert_allclose(some, counted(ears, names, vectors, k, n=4), atol=0.08)


def test_a_listener_that_hears_nothing_is_at_chance() -> None:
    """All pictures look the same to it: 1/n, not 1 for the first."""
    ears = fixed(*[30.0] * 8)
    interval = ears.precision_at(1, [f"c{row}" for row in range(8)], rays(*[50.0] * 8), n=4)
    assert (interval.value, interval.low, interval.high, interval.n) == (0.25, 0.25, 0.25, 8)
    assert ears.precision_at(2, [f"c{row}" for row in range(8)], rays(*[50.0] * 8), n=4).value == 0.5


def test_precision_is_the_mean_of_hits_with_an_interval() -> None:
    said = [CAPTIONS[seed % 5] for seed in range(6)]
    hits = listener().hits(1, said, NOISE, n=3, seed=1)
    interval = listener().precision_at(1, said, NOISE, n=3, seed=1)
    assert interval.value == pytest.approx(hits.mean())
    assert interval.low <= interval.value <= interval.high
    assert interval.n == 6
    by_name = dict(zip(NOISE, said, strict=True))
    assert listener().precision_at(1, by_name, NOISE, n=3, seed=1) == interval
    seeds = {tuple(listener().hits(1, said, NOISE, n=2, seed=seed)) for seed in range(8)}
    assert len(seeds) > 1


def test_sets_do_not_depend_on_the_order_of_the_pictures() -> None:
    said = {name: CAPTIONS[place % 5] for place, name in enumerate(NOISE)}
    turned = dict(reversed(NOISE.items()))
    forth = listener().hits(1, said, NOISE, n=3, seed=4)
    np.testing.assert_array_equal(listener().hits(1, said, turned, n=3, seed=4)[::-1], forth)


def test_copies_of_the_target_are_never_beside_it() -> None:
    """The planted false negative: with copies counted, a caption that hits would earn 1/2."""
    ears = fixed(0, 0, 90)
    gallery = Gallery(("a", "again", "b"), rays(0, 0, 90), ("one", "one", "two"))
    names = ["c0", "c1", "c2"]
    assert ears.hits(1, names, gallery, n=2).tolist() == [1.0, 1.0, 1.0]
    assert ears.hits(1, names, gallery.vectors, n=3).tolist() == [0.5, 0.5, 1.0]
    given = pd.DataFrame(
        {"item": names, "candidates": [["a", "again", "b"]] * 3, "target": ["a", "again", "b"]}
    )
    assert ears.hits(1, names, gallery, candidates=given).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ConfigError, match=r"got n=3 candidates of 2 different pictures, .* try n=2"):
        ears.hits(1, names, gallery, n=3)


def test_given_sets_are_kept() -> None:
    said = {"first": "red dot left", "second": "green"}
    sets = [["n1", "n3", "n5"], ["n4", "n0"]]
    frame = pd.DataFrame({"item": list(said), "candidates": sets, "target": ["n3", "n0"]})
    chosen = listener().choose(list(said.values()), sets, pictures=NOISE)
    expected = [float(chosen[0] == 1), float(chosen[1] == 1)]
    assert listener().hits(1, said, NOISE, candidates=frame).tolist() == expected
    assert listener().hits(1, list(said.values()), NOISE, candidates=frame).tolist() == expected
    as_text = frame.assign(candidates=[" | ".join(f"{name}.png" for name in names) for names in sets])
    as_text["target"] += ".png"
    assert listener().hits(1, said, NOISE, candidates=as_text).tolist() == expected


# What is refused


def test_what_is_refused() -> None:
    ears, said = listener(), CAPTIONS + CAPTIONS[:1]
    with pytest.raises(
        ConfigError, match=r"got n=100 candidates of 6 different pictures, expected .* try n=6"
    ):
        ears.precision_at(1, said, NOISE)
    with pytest.raises(ConfigError, match="got n=1 candidates"):
        ears.precision_at(1, said, NOISE, n=1)
    for k in (0, 3):
        with pytest.raises(ConfigError, match=f"got k={k} of 3 candidates"):
            ears.precision_at(k, said, NOISE, n=3)
    with pytest.raises(DataError, match="got 5 captions of 6 items, expected one caption an item"):
        ears.precision_at(1, CAPTIONS, NOISE, n=3)
    with pytest.raises(DataError, match=r"got no caption of 'n2' \(4 such items\)"):
        ears.precision_at(1, {"n0": "red", "n1": "dot"}, NOISE, n=3)
    with pytest.raises(DataError, match="got captions of type str, expected a list of texts"):
        ears.score("red dot", NOISE)
    with pytest.raises(DataError, match="got caption 1 of type float, expected a text"):
        ears.score(["red", float("nan")], NOISE)
    with pytest.raises(DataError, match="got the picture 'n9', expected one of 6 names"):
        ears.choose(["red"], [["n9"]], pictures=NOISE)
    with pytest.raises(DataError, match="got 1 candidate sets of 2 captions"):
        ears.choose(["red", "dot"], [["n1"]], pictures=NOISE)
    with pytest.raises(DataError, match="got an empty candidate set"):
        ears.choose(["red"], [[]], pictures=NOISE)
    with pytest.raises(DataError, match="no pictures"):
        ears.score(["red"], [])


def test_given_sets_that_are_refused() -> None:
    frame = pd.DataFrame({"item": ["a"], "candidates": [["n1", "n2"]], "target": ["n3"]})
    with pytest.raises(DataError, match="row 0: got target 'n3' of item 'a', expected one of its candidates"):
        listener().hits(1, ["red"], NOISE, candidates=frame)
    gallery = Gallery(("a", "b"), rays(0, 0), ("one", "one"))
    copies = pd.DataFrame({"item": ["a"], "candidates": [["a", "b"]], "target": ["a"]})
    with pytest.raises(DataError, match="got a set of 'a' and its copies"):
        fixed(0).hits(1, ["c0"], gallery, candidates=copies)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (torch.ones(3), r"shape \(3,\)"),
        (torch.ones(0, 2), r"shape \(0, 2\)"),
        (torch.ones(2, 2, dtype=torch.long), "type torch.int64"),
        (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), r"length 0 in row 1 \(1 such rows\)"),
        (torch.tensor([[1.0, torch.nan], [0.0, 1.0]]), "length nan in row 0"),
    ],
)
def test_embeddings_that_are_refused(vectors: torch.Tensor, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        fixed(0).score(["c0"], vectors)


def test_embeddings_of_another_encoder_are_refused() -> None:
    for asked in (
        lambda vectors: fixed(0).score(["c0"], vectors),
        lambda vectors: fixed(0).choose(["c0"], vectors),
        lambda vectors: fixed(0).precision_at(1, ["c0"] * 3, vectors, n=2),
    ):
        with pytest.raises(ShapeError, match="with 3 numbers each, expected 2, as fixed has of captions"):
            asked(torch.eye(3))


def test_a_column_of_captions_is_a_list() -> None:
    column = pd.Series(["c1", "c0"], index=[7, 3])
    vectors = torch.tensor([ray(0), ray(40)])
    asks = fixed(0, 40)
    assert asks.choose(column, vectors) == asks.choose(column.to_numpy(), vectors) == [1, 0]
    assert asks.precision_at(1, column, vectors.flip(0), n=2).value == 1.0


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"'empty'.*0 bytes"):
        listener().gallery(tmp_path)
    with pytest.raises(DataError, match="million"):
        listener().gallery([Image.new("1", (6000, 5000))])


def test_one_tower_is_no_listener() -> None:
    with pytest.raises(ModelError, match="expected a model of two towers"):
        Listener.from_pretrained(clip().vision_model, tokenizer=words(), processor=look())
