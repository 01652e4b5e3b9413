"""Experts against scikit-learn on activations read by hand, padding, families, pictures, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from tiny_models import CONFIGS, DECODERS, build, tokenizer
from trimtab import ConceptSet, ExpertLens, load
from trimtab.data.concept import Concept
from trimtab.errors import ConfigError, DataError, ModelError
from trimtab.models.batches import padded
from trimtab.models.hooks import capture, intervene
from trimtab.numerics.similarity import jaccard
from trimtab.read import responses
from trimtab.read.experts.detection import halved
from trimtab.read.responses import linear_sites

WORDS = {"cat": "cat", "dog": "dog", "cow": "cow", "pig": "pig"}
FRAMES = [
    "a {} ran",
    "the {} sat there",
    "no {}",
    "some {} is here",
    "one {} and it",
    "my old {} sleeps well",
]
CONCEPTS = ConceptSet.from_templates(list(WORDS), FRAMES, negatives=12)
RATED = pd.DataFrame(
    [
        ("cat", "dog", 5.0),
        ("cat", "cow", 2.0),
        ("dog", "cow", 2.5),
        ("pig", "cow", 4.0),
        ("pig", "zebra", 1.0),
    ],
    columns=["word1", "word2", "score"],
)


def handle(name="llama", **config):
    return load(build(name, **config), tokenizer=tokenizer(pad_token="<unk>"))


@pytest.fixture(scope="module")
def lens():
    return ExpertLens.fit(handle("bert"), CONCEPTS)


def by_hand(model, text, site):
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    with torch.no_grad(), capture(model, site) as taken:
        model.module(input_ids=ids, attention_mask=torch.ones_like(ids))
    return taken[site][0].amax(0).numpy()


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_precision_is_that_of_responses_read_one_by_one(name):
    model = handle(name)
    lens = ExpertLens.fit(model, CONCEPTS, batch_size=5)
    site = lens.units.sites[4]
    start = lens.units.starts[4]
    concept = CONCEPTS["dog"]
    texts = [*concept.positive, *concept.negative]
    rows = np.stack([by_hand(model, text, site) for text in texts])
    labels = np.arange(len(texts)) < len(concept.positive)
    expected = [average_precision_score(labels, np.round(unit, 4)) for unit in rows.T]
    found = lens.precision[1, start : start + rows.shape[1]]
    assert np.median(np.abs(found - expected)) < 1e-12  # rounding may swap two that are nearly equal
    assert np.abs(found - expected).max() < 0.1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_neither_length_nor_side_of_padding_changes_any_precision(name, side, monkeypatch):
    model = load(build(name).double(), tokenizer=tokenizer(pad_token="<unk>"))
    alone = ExpertLens.fit(model, CONCEPTS, batch_size=1)

    def wider(model, rows, *, batch_size=16, side=side):
        longest = max(map(len, rows)) + 9
        for start in range(0, len(rows), batch_size):
            batch = padded([*rows[start : start + batch_size], [0] * longest], 2, side)
            yield type(batch)(batch.ids[:-1], batch.mask[:-1], batch.positions[:-1], side)

    monkeypatch.setattr(responses, "row_batches", wider)
    if side == "left" and name == "bert":
        monkeypatch.setattr(model.module.config, "_attn_implementation", "sdpa")
    crowded = ExpertLens.fit(model, CONCEPTS, batch_size=7)
    np.testing.assert_array_equal(crowded.precision, alone.precision)


def test_pooling_over_padding_would_have_changed_it():
    """The test above can fail: what padding holds is larger than what tokens hold, somewhere."""
    model = handle("bert")
    ids = torch.tensor([[5, 6, 7, 2, 2, 2, 2, 2]])
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0]])
    site = linear_sites(model)[4].name
    with torch.no_grad(), capture(model, site) as taken:
        model.module(input_ids=ids, attention_mask=mask)
    assert (taken[site][0].amax(0) > taken[site][0, :3].amax(0)).any()


@pytest.mark.parametrize("name", [*DECODERS, "bert", "clip_text_model"])
def test_every_family_of_text_goes_through_the_same_call(name):
    lens = ExpertLens.fit(handle(name), CONCEPTS)
    assert lens.precision.shape == (4, len(lens.units))
    assert ((lens.precision > 0) & (lens.precision <= 1)).all()
    kinds = {site.rpartition(".")[2] for site in lens.units.sites}
    assert len(kinds) >= 3  # GPT-2 has query, key and value in one map


def test_pictures_go_through_the_same_call():
    """One kind of picture is bright on the left, the other on the right; some unit must see it."""
    draw = torch.Generator().manual_seed(0)
    pictures = [0.1 * torch.randn(3, 16, 16, generator=draw) for _ in range(12)]
    for number, picture in enumerate(pictures):
        picture[:, :, slice(0, 8) if number % 2 else slice(8, 16)] += 2
    concepts = ConceptSet.one_against_rest({"right": pictures[::2], "left": pictures[1::2]})
    model = load(build("clip_vision_model"))
    lens = ExpertLens.fit(model, concepts)
    assert lens.experts("left", top=1)["ap"][0] == 1.0

    class Processor:
        def __call__(self, images, return_tensors):
            return {"pixel_values": torch.stack([torch.from_numpy(image) for image in images])}

    arrays = ConceptSet.one_against_rest(
        {name: [one.numpy() for one in concepts[name].positive] for name in concepts.names}
    )
    seen = ExpertLens.fit(load(build("clip_vision_model"), processor=Processor()), arrays)
    np.testing.assert_array_equal(seen.precision, lens.precision)
    with pytest.raises(ModelError, match="has no processor"):
        ExpertLens.fit(model, arrays)


def test_memory_is_bounded_by_further_passes(lens, monkeypatch):
    monkeypatch.setattr(responses, "MEMORY", 4 * 24 * 40)
    again = ExpertLens.fit(handle("bert"), CONCEPTS)
    assert len(list(again.responses.blocks())) > 3
    np.testing.assert_array_equal(again.precision, lens.precision)
    wanted = np.array([200, 3, 77])
    np.testing.assert_array_equal(again.responses.of([4, 0], wanted), lens.responses.of([4, 0], wanted))
    np.testing.assert_array_equal(again.chance([1]), lens.chance([1]))


def test_nothing_about_the_model_changes():
    model = handle("llama")
    model.module.train()
    before = model.fingerprint()
    ExpertLens.fit(model, CONCEPTS)
    assert model.fingerprint() == before
    assert model.module.training
    assert not any(module._forward_hooks for module in model.module.modules())


# Frames


def test_experts_are_a_frame_best_first(lens):
    frame = lens.experts("cat", tau=0.5)
    assert list(frame.columns) == ["site", "unit", "ap", "q"]
    assert (frame["ap"] > 0.5).all()
    assert (frame["ap"].diff().dropna() <= 0).all()
    assert len(frame) == (lens.precision[0] > 0.5).sum()
    row = frame.iloc[0]
    place = lens.units.starts[lens.units.sites.index(row["site"])] + row["unit"]
    assert lens.precision[0, place] == row["ap"]
    assert len(lens.experts("cat", top=7)) == 7
    assert (lens.experts("cat", fdr=0.2)["q"] <= 0.2).all()
    pd.testing.assert_frame_equal(lens.experts("cat"), frame)


def test_similarities_are_those_of_the_sets(lens):
    sets = lens.precision > 0.6
    np.testing.assert_array_equal(lens.similarity(kind="jaccard", tau=0.6), jaccard(sets))
    assert list(lens.similarity(top=5).index) == CONCEPTS.names
    profiles = lens.similarity(kind="ap_spearman")
    assert profiles.loc["cat", "dog"] == pytest.approx(spearmanr(lens.precision[0], lens.precision[1])[0])
    assert lens.similarity(kind="ap_cosine").loc["pig", "pig"] == pytest.approx(1)
    assert lens.similarity(kind="overlap", top=9).loc["cat", "cat"] == 1
    counts = lens.counts(tau=0.6)
    assert counts.to_numpy().sum() == sets.sum()


def test_a_concept_without_experts_is_a_zero_row(lens):
    only = lens.precision.max(1).max()
    nothing = lens.similarity(tau=float(np.nextafter(only, 1)) if only < 1 else 0.999999)
    empty = ~lens.sets(tau=0.999999).any(1)
    assert not nothing.to_numpy()[empty].any()


def test_overlap_beside_chance(lens):
    frame = lens.overlap_null(top=10)
    assert list(frame.columns) == ["concept1", "concept2", "shared", "expected", "z"]
    assert len(frame) == 6
    assert frame["expected"].iloc[0] == pytest.approx(100 / len(lens.units))


def test_alignment(lens):
    found = lens.align(RATED, tau=0.5)
    assert (found.n_pairs, found.n_concepts, found.unknown) == (4, 4, ("zebra",))
    similar = lens.similarity(tau=0.5)
    own = [similar.loc[first, second] for first, second in RATED[["word1", "word2"]].values[:4]]
    assert found.rho == pytest.approx(spearmanr(own, RATED["score"][:4])[0])
    assert found.interval.value == found.rho
    assert 0 < found.mantel_p <= 1
    assert lens.align(RATED, top=20, reliability=0.5).ceiling == pytest.approx(
        lens.align(RATED, top=20).ceiling * 0.5**0.5, nan_ok=True
    )


def test_alignment_of_concepts_with_one_example_has_no_ceiling():
    texts = {"cat": ["a cat"], "dog": ["a dog"], "cow": ["a cow"], "pig": ["my pig"]}
    lens = ExpertLens.fit(handle("bert"), ConceptSet.one_against_rest(texts))
    found = lens.align(RATED, kind="ap_spearman")
    assert np.isnan(found.ceiling)
    assert np.isfinite(found.rho)
    with pytest.raises(DataError, match="cat: got 1 positive example, expected at least two, to halve"):
        lens.stability()


def test_halves_of_the_same_sentences_are_the_same_sentences():
    frames = [f"{n} {{}} here" for n in range(9)]
    concepts = ConceptSet.from_templates(["cat", "dog"], frames)
    halves = [halved(concepts, side, seed=3) for side in (0, 1)]
    texts = [
        [
            {concepts.pool.examples[place].replace(word, "{}") for place in labelling.positive}
            for word, labelling in zip(concepts.names, half, strict=True)
        ]
        for half in halves
    ]
    assert texts[0][0] == texts[0][1]
    assert texts[1][0] == texts[1][1]
    assert len(texts[0][0]) == len(texts[1][0]) == 4
    assert not texts[0][0] & texts[1][0]


def test_stability_and_tree(lens):
    found = lens.stability(top=20)
    assert list(found.concepts["concept"]) == CONCEPTS.names
    assert found.overlap.n == 4
    assert 0 <= found.retrieval.low <= found.retrieval.value <= found.retrieval.high <= 1
    tree = lens.tree({"cat": "pets", "dog": "pets", "cow": "farm", "pig": "farm"}, top=20)
    assert tree.linkage.shape == (3, 4)
    assert 0 <= tree.auc <= 1
    assert np.isnan(lens.tree(top=20).auc)


# What experts do


def test_silenced_units_are_zero_and_others_are_not(lens):
    model = lens.responses.model
    frame = lens.experts("cat", top=6)
    ids = torch.tensor([model.tokenizer("a cat ran")["input_ids"]])
    sites = list(frame["site"].unique())
    with torch.no_grad(), intervene(model, lens.silence("cat", top=6)), capture(model, sites) as taken:
        model.module(input_ids=ids, attention_mask=torch.ones_like(ids))
    for site, group in frame.groupby("site"):
        assert not taken[site][..., group["unit"].tolist()].any()
        assert taken[site].any()


def test_forced_units_hold_their_median_response(lens):
    model = lens.responses.model
    row = lens.experts("dog", top=1).iloc[0]
    place = lens.units.starts[lens.units.sites.index(row["site"])] + row["unit"]
    median = np.median(lens.responses.of(lens.labellings[1].positive, np.array([place])))
    ids = torch.tensor([model.tokenizer("it")["input_ids"]])
    with torch.no_grad(), intervene(model, lens.force("dog", top=1)), capture(model, row["site"]) as taken:
        model.module(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert taken[row["site"]][..., row["unit"]].numpy() == pytest.approx(median)


def test_rivals_are_other_units_and_matched_ones_are_alike(lens):
    experts = set(map(tuple, lens.experts("cat", top=8)[["site", "unit"]].values))
    mean = next(lens.responses.blocks())[1].mean(0)
    chosen = lens._units_to_set("cat", 8, "matched", 0)
    assert not experts & set(map(tuple, lens.units.named(chosen)[["site", "unit"]].values))
    own = lens._units_to_set("cat", 8, "experts", 0)
    sites = lens.units.site_numbers
    assert sorted(sites[chosen]) == sorted(sites[own])
    drawn = lens._units_to_set("cat", 8, "random", 0)
    assert len(np.intersect1d(drawn, own)) == 0
    assert abs(mean[chosen].sum() - mean[own].sum()) < abs(mean[drawn].sum() - mean[own].sum()) + 1
    for way in (lens.silence, lens.force):
        assert way("cat", top=8, units="matched")


# What is refused


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pool": "median"}, "pool: got 'median', expected one of"),
        ({"sites": "layers.*.mpl"}, "site 'layers.*.mpl'"),
        ({"sites": "encoder.layer.0.output.dense:up"}, "'up', expected in or out"),
        ({"batch_size": 0}, "batch_size: got 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, match):
    with pytest.raises(ModelError, match=match.replace("*", r"\*")):
        ExpertLens.fit(handle("bert"), CONCEPTS, **options)


def test_models_that_cannot_read_the_examples_are_refused():
    with pytest.raises(ModelError, match="without tokenizer"):
        ExpertLens.fit(load(build("bert")), CONCEPTS)
    with pytest.raises(ModelError, match="whose blocks we do not know"):
        ExpertLens.fit(load(torch.nn.Linear(2, 2), tokenizer=tokenizer()), CONCEPTS)
    long = ConceptSet((Concept("long", ("a" * 80,), ("b",)), Concept("short", ("c",), ("d",))))
    with pytest.raises(ModelError, match="80 tokens in text 0, expected at most 64"):
        ExpertLens.fit(handle("bert"), long)
    assert ExpertLens.fit(handle("bert"), long, max_tokens=64).precision.shape[0] == 2


def test_choices_that_cannot_work_are_refused(lens):
    with pytest.raises(DataError, match="got 'caat', expected one of 4 concepts; try 'cat'"):
        lens.experts("caat")
    with pytest.raises(ConfigError, match="got tau and top, expected exactly one"):
        lens.experts("cat", tau=0.5, top=3)
    for options, match in (
        ({"tau": 1.0}, r"tau: got 1.0"),
        ({"top": 0}, "top: got 0"),
        ({"fdr": 0.0}, "fdr: got 0.0"),
        ({"top": 10**6}, "top: got 1000000, expected at most"),
    ):
        with pytest.raises(ConfigError, match=match):
            lens.similarity(**options)
    with pytest.raises(ConfigError, match="kind 'jacard'"):
        lens.similarity(kind="jacard")
    with pytest.raises(ConfigError, match="beside ap_cosine"):
        lens.similarity(kind="ap_cosine", tau=0.5)
    with pytest.raises(ConfigError, match="units 'best'"):
        lens.silence("cat", units="best")


def test_ratings_that_cannot_be_used_are_refused(lens):
    with pytest.raises(DataError, match="got 0 rated pairs of concepts; unknown: lion, zebra"):
        lens.align(pd.DataFrame({"word1": ["lion"], "word2": ["zebra"], "score": [1.0]}))
    with pytest.raises(DataError, match="ratings without score"):
        lens.align(RATED.drop(columns="score"))
    with pytest.raises(DataError, match="score of row 0: got nan"):
        lens.align(RATED.assign(score=np.nan))
    with pytest.raises(DataError, match="'cat' paired with itself"):
        lens.align(RATED.assign(word2="cat"))
    with pytest.raises(ConfigError, match="reliability 2"):
        lens.align(RATED, reliability=2)
    with pytest.raises(DataError, match="taxonomy of 1 categories"):
        lens.tree(dict.fromkeys(CONCEPTS.names, "animal"))


def test_a_single_concept_cannot_be_compared():
    single = ExpertLens.fit(handle("bert"), ConceptSet((CONCEPTS["cat"],)))
    for call in (lambda: single.align(RATED), single.tree):
        with pytest.raises(DataError, match="the single concept 'cat', expected at least two"):
            call()
    assert len(single.experts("cat", top=3)) == 3


def test_units_that_explode_are_refused():
    module = build("bert")
    with torch.no_grad():
        module.encoder.layer[0].intermediate.dense.bias[3] = torch.nan
    with warnings.catch_warnings(), pytest.raises(ModelError, match="nan or infinity in"):
        ExpertLens.fit(load(module, tokenizer=tokenizer(pad_token="<unk>")), CONCEPTS)


def test_the_families_are_all_here():
    assert set(DECODERS) | {"bert", "clip_text_model", "clip_vision_model", "clip"} == set(CONFIGS)
