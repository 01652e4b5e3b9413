"""ExpertLens from a config to a folder and a page, its baselines and controls, and what stops it before it starts."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from page_script import without_script
from tiny_models import build, tokenizer
from trimtab import ConceptSet, ExpertLens, load
from trimtab.errors import CheckpointError, ConfigProblems, DataError
from trimtab.job import carry_out
from trimtab.read.experts import baselines
from trimtab.read.experts.baselines import (
    alignment,
    causal_check,
    contrasts,
    false_discoveries,
    rows,
    word_nats,
)
from trimtab.read.experts.job import ExpertLensConfig, read_concepts
from trimtab.read.experts.ratings import judged, most_rated, read_ratings
from trimtab.read.experts.result import ExpertsResult, plane

WORDS = ["cat", "dog", "cow", "pig", "hen"]
FRAMES_OF = ["a {} ran", "the {} sat there", "no {}", "some {} is here", "one {} and it", "my old {} sleeps"]
TABLES = ("table", "concepts", "counts", "similarity", "experts", "differences", "layers", "firing")
CONCEPTS = ConceptSet.from_templates(WORDS, FRAMES_OF, negatives=12)


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    build("llama").save_pretrained(folder / "model")
    tokenizer(pad_token="<unk>").save_pretrained(folder / "model")
    CONCEPTS.save_jsonl(folder / "concepts.jsonl")
    pairs = [(a, b, float(n)) for n, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS if a < b)]
    rated = pd.DataFrame([*pairs, ("cat", "zebra", 2.0)], columns=["word1", "word2", "score"])
    rated.to_csv(folder / "rated.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def config(places):
    return ExpertLensConfig(
        model=str(places / "model"),
        concepts=str(places / "concepts.jsonl"),
        ratings={"rated": str(places / "rated.csv")},
        reliability={"rated": 0.8},
        top=20,
        device="cpu",
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "it"


@pytest.fixture(scope="session")
def result(config, folder):
    return carry_out(config, folder)


@pytest.fixture(scope="session")
def lens():
    return ExpertLens.fit(load(build("llama"), tokenizer=tokenizer(pad_token="<unk>")), CONCEPTS)


def test_a_job_gives_the_whole_table_and_a_page(result, folder):
    table = result.table
    assert list(table["role"].unique()) == ["experts", "baseline", "control"]
    assert len(table) == 15
    assert not table["note"].any()
    assert (table["n_pairs"] == 10).all()
    known = table[table["rho"].notna()]
    assert (known["low"] <= known["rho"]).all()
    text = (folder / "report.html").read_text()
    assert text.count("<svg") == 5
    assert "TF-IDF" in text
    printed = result.to_text()
    assert re.search(r"of both halves of the examples +0\.", printed)
    assert "experts minus it" in printed
    assert "source" not in printed.partition("\n")[0]
    told = json.loads(result.to_json())
    assert told["facts"]["concepts"] == 5
    assert [row["row"] for row in told["table"]] == list(table["row"])
    assert {"concepts", "differences", "seconds"} < set(told)


def test_a_result_comes_back_from_its_folder(result, folder):
    found = ExpertsResult.load(folder)
    for name in TABLES:
        expected = getattr(result, name)
        pd.testing.assert_frame_equal(getattr(found, name), expected, check_dtype=False)
    assert found.findings == result.findings
    assert found.facts == json.loads(json.dumps(result.facts))


def test_the_numbers_are_those_of_the_library(result, config):
    lens = ExpertLens.fit(
        load(config.model, device="cpu"), ConceptSet.from_jsonl(config.concepts), max_tokens=128
    )
    found = lens.align(read_ratings(config.ratings["rated"]), tau=0.5, reliability=0.8)
    first = result.table.iloc[0]
    assert (first["rho"], first["ceiling"]) == pytest.approx((found.rho, found.ceiling), nan_ok=True)
    pd.testing.assert_frame_equal(result.similarity, lens.similarity(tau=0.5), check_names=False)


def test_a_page_escapes_names(result):
    renamed = result.concepts.assign(concept="<script>")
    text = ExpertsResult.page([replace(result, concepts=renamed, label="<i>"), result], title="<b>")
    assert "<script>" not in without_script(text)
    assert "&lt;script&gt;" in text
    assert "2 models side by side" in text
    assert "baseline" in result.summary()
    with pytest.raises(DataError, match="no result"):
        ExpertsResult.page([])


def test_without_ratings_nothing_is_aligned(config, tmp_path):
    found = carry_out(replace(config, ratings={}, reliability={}), tmp_path / "run")
    assert found.table.empty
    assert "Agreement" not in (tmp_path / "run/report.html").read_text()
    assert list(found.to_frame()["concept"]) == WORDS
    assert config.cost() == {"steps": 4}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"top": 0}, "top"),
        ({"positives": 1}, "positives"),
        ({"tau": 1.0}, "tau"),
        ({"fdr": 0.0}, "fdr"),
        ({"sites": ()}, "sites"),
        ({"seed": -1}, "seed"),
        ({"concepts": "none.jsonl"}, "concepts"),
        ({"ratings": {"men": "none.csv"}, "reliability": {}}, "ratings.men"),
        ({"reliability": {"men": 0.5}}, "reliability.men"),
        ({"reliability": {"rated": 2.0}}, "reliability.rated"),
        ({"model": "./no-folder"}, "model"),
    ],
)
def test_each_mistake_is_named_before_anything_starts(config, tmp_path, changes, where):
    wrong = replace(config, **changes)
    assert [problem.where for problem in wrong.problems()] == [where]
    with pytest.raises(ConfigProblems, match=where):
        carry_out(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_there_is_no_result_before_the_end(tmp_path):
    with pytest.raises(CheckpointError, match="no finished result"):
        ExpertsResult.load(tmp_path)


def test_words_of_wordnet_come_from_ratings(config, tmp_path):
    lines = [
        {"definition": f"number {n} has a {word} in it", "examples": []} for word in WORDS for n in range(4)
    ]
    (tmp_path / "w.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ratings = {"rated": read_ratings(config.ratings["rated"])}
    wordnet = replace(config, concepts=str(tmp_path / "w.jsonl"), positives=3, negatives=4, most=4)
    found = read_concepts(wordnet, ratings)
    assert len(found) == 4
    assert "of 6 rated words 4 are concepts: left out were 1 with fewer than 3 sentences" in found.findings[0]
    with pytest.raises(DataError, match="none, beside WordNet sentences"):
        read_concepts(wordnet, {})


def test_ratings_that_are_none(tmp_path):
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"no column word1"):
        read_ratings(tmp_path / "r.csv")
    with pytest.raises(DataError, match=r"got no such file"):
        read_ratings(tmp_path / "none.csv")
    frame = pd.DataFrame({"word1": ["null", "a"], "word2": ["NA", "b"], "score": [1, 2]})
    frame.to_csv(tmp_path / "n.csv", index=False)
    assert read_ratings(tmp_path / "n.csv")["word1"][0] == "null"
    assert most_rated({"x": frame}, ["a", "b", "NA"], 9) == ["a", "b"]


# Baselines and controls


def test_sentences_that_differ_in_one_word_share_the_same_words(lens):
    matrix = baselines.shared_words(lens.concepts)
    off = matrix[~np.eye(len(matrix), dtype=bool)]
    assert np.ptp(off) < 1e-9


def test_static_embeddings_are_means_over_tokens(lens):
    table = lens.responses.model.module.get_input_embeddings().weight.detach().numpy()
    words = lens.responses.model.tokenizer
    means = [table[words("cat", add_special_tokens=False)["input_ids"]].mean(0) for _ in range(1)]
    other = table[words("dog", add_special_tokens=False)["input_ids"]].mean(0)
    expected = means[0] @ other / np.linalg.norm(means[0]) / np.linalg.norm(other)
    assert baselines.static_embeddings(lens.responses.model, lens.concepts)[0, 1] == pytest.approx(expected)


def test_sentence_embeddings_are_centred_over_all_examples(lens):
    found = baselines.sentence_embeddings(lens)
    assert set(found) == {"raw", "centred", "standardised"}
    assert found["raw"].mean() > found["centred"].mean()


def test_masked_sentences_that_differed_in_the_word_alone_are_one():
    texts, dealt = baselines.masked(CONCEPTS, "<unk>")
    assert sorted(texts) == sorted(frame.replace("{}", "<unk>") for frame in FRAMES_OF)
    assert [set(labelling.positive) for labelling in dealt] == [set(range(6))] * 5


def test_the_words_of_other_concepts_are_masked_in_negatives():
    concepts = ConceptSet.one_against_rest(
        {"cat": ["a cat ran", "one cat"], "dog": ["the dog sat", "no dog"]}
    )
    texts, dealt = baselines.masked(concepts, "<unk>")
    assert [texts[row] for row in dealt[0].positive] == ["a <unk> ran", "one <unk>"]
    assert {texts[row] for row in dealt[0].negative} == {"the <unk> sat", "no <unk>"}


def test_random_and_permuted_concepts_keep_their_sizes(lens):
    drawn = [*baselines.random_concepts(CONCEPTS, 0), *baselines.permuted(lens.labellings, 0, times=2)]
    assert len(drawn) == 15
    for labelling in drawn:
        assert (len(labelling.positive), len(labelling.negative)) == (6, 12)
        assert len(set(labelling.rows)) == 18


def test_permuted_concepts_seldom_have_experts_and_planted_ones_do(lens):
    """With six positives of eighteen no unit can be found: a perfect one happens once in 18,564 rankings."""
    share = false_discoveries(lens, 0.05, times=8)
    assert share.n == 40
    assert share.low <= 0.05


def test_pictures_have_no_words():
    draw = torch.Generator().manual_seed(0)
    pictures = torch.randn(16, 3, 16, 16, generator=draw)
    concepts = ConceptSet.one_against_rest(
        {name: list(pictures[4 * n : 4 * n + 4]) for n, name in enumerate("abcd")}
    )
    lens = ExpertLens.fit(load(build("clip_vision_model")), concepts)
    human = pd.DataFrame({"word1": list("aab"), "word2": list("bcc"), "score": [1.0, 2.0, 3.0]})
    found = alignment(list(rows(lens, 0.5, 10)), lens, {"x": judged(human, concepts.names)}, {}).table
    noted = found.set_index("row")["note"]
    assert noted["shared words (TF-IDF centroids)"] == "pictures have no words"
    assert noted["concept word masked, experts"] == "no word to mask"
    assert found.set_index("row").loc["mean embedding, raw", "n_pairs"] == 3


# What experts do


def test_word_probabilities_are_those_of_the_model(lens):
    model = lens.responses.model
    ids = torch.tensor([model.tokenizer("a cat")["input_ids"]])
    with torch.no_grad():
        likely = model.module(input_ids=ids).logits.double().softmax(-1)[0]
    space = model.tokenizer(" b", add_special_tokens=False)["input_ids"][0]
    found = word_nats(model, ["a cat", "no"], ["b"])
    assert found[0] == pytest.approx(float(likely[:, space].mean().log()))
    with pytest.raises(DataError, match="no word, expected at least one"):
        word_nats(model, ["a cat"], [])


def test_held_units_move_what_comes_next_and_intervals_are_over_concepts(lens):
    words = {"cat": ["cat"], "dog": ["dog"], "cow": ["cow"]}
    for way in ("silence", "force"):
        changes = causal_check(lens, ["a cat ran", "it sat"], words, way=way, top=10)
        assert changes[["experts", "random", "matched"]].abs().to_numpy().min() > 0
    found = contrasts(changes)
    assert found["experts"].n == 3
    gap = changes["experts"] - changes["random"]
    assert found["experts - random"].value == pytest.approx(gap.mean())


def test_a_map_keeps_distances_that_fit_a_plane():
    places = np.random.default_rng(0).normal(size=(6, 2)) / 9
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    found, kept = plane(1 - distance)
    assert kept == pytest.approx(1)
    np.testing.assert_allclose(np.linalg.norm(found[:, None] - found[None], axis=-1), distance, atol=1e-9)


def test_a_survey_counts_concepts_and_rated_pairs(config, places, tmp_path):
    survey = config.survey()
    assert survey.tables["concepts"].to_dict("records") == [
        {"concepts": 5, "examples": "positive", "fewest": 6, "most": 6},
        {"concepts": 5, "examples": "negative", "fewest": 12, "most": 12},
    ]
    counted = {"ratings": "rated", "rows": 11, "pairs": 10, "words that are no concept": 1}
    assert survey.tables["ratings"].to_dict("records") == [counted]
    assert survey.problems == ()
    bad, few = tmp_path / "bad.csv", tmp_path / "few.csv"
    bad.write_text("word1,word2,score\ncat,dog,high\n")
    few.write_text("word1,word2,score\ncat,dog,1\n")
    wrong = replace(config, ratings={"bad": str(bad), "few": str(few)}, reliability={}).survey()
    first = f"ratings.bad, score of {bad}, row 2"
    assert [problem.where for problem in wrong.problems] == [first, "ratings.few"]
    one = tmp_path / "one.jsonl"
    one.write_text((places / "concepts.jsonl").read_text().partition("\n")[0])
    (problem,) = replace(config, concepts=str(one)).survey().problems
    assert "the single concept 'cat'" in problem.got
    assert replace(config, concepts="lab:nouns").survey().tables == {}
