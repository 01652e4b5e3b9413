"""Jobs at the edges: one or two concepts, models that know nothing, names of columns, texts that are cut, no sites."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from page_script import without_script
from tiny_models import build, tokenizer
from trimtab import ConceptSet, ExpertLens, load
from trimtab.data.concept import Concept
from trimtab.errors import DataError, ModelError
from trimtab.job import carry_out
from trimtab.read.experts.baselines import alignment, rows
from trimtab.read.experts.detection import stability
from trimtab.read.experts.job import ExpertLensConfig, read_concepts
from trimtab.read.experts.ratings import judged, read_ratings
from trimtab.read.experts.result import ExpertsResult, concept_map, spread

FRAMES_OF = ["a {} ran", "the {} sat", "no {}", "one {} and it"]
ODD = ["concept", "step", "<script>", "nan", "1"]


def saved(folder, module):
    module.save_pretrained(folder)
    tokenizer(pad_token="<unk>").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return ExpertLensConfig(
        model=saved(tmp_path_factory.mktemp("model"), build("llama")),
        concepts="",
        device="cpu",
        sites=("mlp_out",),
    )


def job(config, concepts, folder, **changes):
    return carry_out(
        replace(config, concepts=str(concepts.save_jsonl(folder / "c.jsonl")), **changes), folder / "run"
    )


def test_two_concepts_have_a_page(config, tmp_path):
    every = ConceptSet.from_templates(["cat", "dog", "cow"], FRAMES_OF, negatives=6)
    result = job(config, ConceptSet((every["cat"], every["dog"])), tmp_path)
    text = (tmp_path / "run/report.html").read_text()
    assert text.count("<svg") == 5
    assert "Tree and similarities" in text
    assert result.figure() is not None
    assert result.to_text().lstrip().startswith("concept")
    again = ExpertsResult.load(tmp_path / "run")
    again.report(tmp_path / "again.html")
    assert json.loads(result.to_json())["differences"] == []


def test_a_single_concept_is_refused_before_the_model_is_read(config, tmp_path, monkeypatch):
    monkeypatch.setattr("trimtab.read.experts.job.load", lambda *_, **__: pytest.fail("read a model"))
    every = ConceptSet.from_templates(["cat", "dog", "cow"], FRAMES_OF, negatives=6)
    with pytest.raises(DataError, match="got the single concept 'cat', expected at least two to compare"):
        job(config, ConceptSet((every["cat"],)), tmp_path)


def test_a_single_concept_is_not_found_again():
    found = stability(["cat"], np.array([[True, False]]), np.array([[True, False]]))
    assert np.isnan(found.retrieval.value)
    assert found.retrieval.n == 0
    assert found.overlap.value == 1


def test_one_example_a_side_leaves_halves_out(config, tmp_path):
    few = [Concept(name, (f"a {name}",), (f"no {name}",), name) for name in ("cat", "dog", "cow")]
    frame = pd.DataFrame({"word1": ["cat", "cat", "dog"], "word2": ["dog", "cow", "cow"], "score": [1, 2, 3]})
    frame.to_csv(tmp_path / "r.csv", index=False)
    result = job(config, ConceptSet(tuple(few)), tmp_path, ratings={"r": str(tmp_path / "r.csv")})
    assert result.table["ceiling"].isna().all()
    assert result.facts["overlap_of_halves"]["n"] == 0
    assert "examples were not halved" in result.findings[-1]


def test_a_model_that_knows_nothing_has_a_page_and_no_rho(config, tmp_path):
    blank = build("llama")
    with torch.no_grad():
        for parameter in blank.parameters():
            parameter.zero_()
    concepts = ConceptSet.from_templates(["cat", "dog", "cow"], FRAMES_OF, negatives=6)
    pairs = pd.DataFrame({"word1": ["cat", "cat", "dog"], "word2": ["dog", "cow", "cow"], "score": [1, 2, 3]})
    pairs.to_csv(tmp_path / "r.csv", index=False)
    changes = {"model": saved(tmp_path / "blank", blank), "ratings": {"r": str(tmp_path / "r.csv")}}
    job(config, concepts, tmp_path, **changes)
    text = (tmp_path / "run/report.html").read_text()
    assert "have no rho: their similarities are all alike." in text
    assert "nan" not in text.replace("nan_", "")


def test_names_like_columns_are_names(config, tmp_path):
    """Of concepts and of ratings alike: nothing of a frame, a file or a page is called by them."""
    concepts = ConceptSet.from_templates(ODD, FRAMES_OF, negatives=8)
    pairs = [(a, b, n) for n, (a, b) in enumerate((a, b) for a in ODD for b in ODD if a < b)]
    pd.DataFrame(pairs, columns=["word1", "word2", "score"]).to_csv(tmp_path / "r.csv", index=False)
    named = dict.fromkeys(["rho", "nan"], str(tmp_path / "r.csv"))
    result = job(config, concepts, tmp_path, ratings=named)
    again = ExpertsResult.load(tmp_path / "run")
    pd.testing.assert_frame_equal(again.similarity, result.similarity)
    pd.testing.assert_frame_equal(again.differences, result.differences, check_dtype=False)
    assert list(again.table["ratings"].unique()) == list(named)
    assert "<script>" not in without_script(again.report(tmp_path / "again.html").read_text())
    assert ExpertsResult.page([again, result]).count("rho, nan") == 1


def test_a_result_of_an_earlier_version_is_read(config, tmp_path):
    job(config, ConceptSet.from_templates(["cat", "dog"], FRAMES_OF), tmp_path)
    file = tmp_path / "run" / "artifacts" / "result.json"
    told = json.loads(file.read_text())
    del told["differences"], told["facts"]["cut"]
    file.write_text(json.dumps(told))
    found = ExpertsResult.load(tmp_path / "run")
    assert found.differences.empty
    pages = found.report(tmp_path / "run/old.html"), tmp_path / "run/report.html"
    assert pages[0].read_text() == pages[1].read_text()


# Ratings beside concepts


def test_ratings_are_refused_with_name_file_and_row(config, tmp_path):
    concepts = ConceptSet.from_templates(["cat", "dog", "cow"], FRAMES_OF, negatives=6)
    (tmp_path / "r.csv").write_text("word1,word2,score\ncat,dog,1\ncow,cow,2\nlion,dog,3\n")
    with pytest.raises(
        DataError, match=r"ratings\.men: got 1 rated pairs .*unknown: lion; .*r\.csv, row 3: 'cow' paired"
    ):
        job(config, concepts, tmp_path, ratings={"men": str(tmp_path / "r.csv")})


def test_words_of_wordnet_are_found_in_any_case_and_left_out_for_the_true_reason(config, tmp_path):
    entries = [
        {"definition": f"number {n} has a {word} in it", "examples": []}
        for word in ("cat", "dog", "cow")
        for n in range(4)
    ]
    (tmp_path / "w.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    text = "word1,word2,score\nCat,DOG,1\nCAT,Cow,2\ndog,cow,3\nhot dog,4x4,1\nhen,cat,1\ncat,cat,9\n"
    (tmp_path / "r.csv").write_text(text)
    asked = replace(config, concepts=str(tmp_path / "w.jsonl"), positives=3, negatives=4)
    ratings = read_ratings(tmp_path / "r.csv")
    found = read_concepts(asked, {"r": ratings})
    assert found.names == ["cat", "cow", "dog"]
    assert (
        "of 6 rated words 3 are concepts: left out were 1 with fewer than 3 sentences, 2 that are not one word of "
        in (found.findings[0])
    )
    assert len(judged(ratings, found.names).pairs) == 3


# Differences between rows


def test_rows_of_experts_are_compared_with_every_baseline():
    words = ["cat", "dog", "cow", "pig", "hen"]
    model = load(build("llama"), tokenizer=tokenizer(pad_token="<unk>"))
    lens = ExpertLens.fit(model, ConceptSet.from_templates(words, FRAMES_OF, negatives=8))
    pairs = [(a, b, n % 7) for n, (a, b) in enumerate((a, b) for a in words for b in words if a < b)]
    human = pd.DataFrame(pairs, columns=["word1", "word2", "score"])
    found = alignment(list(rows(lens, 0.5, 10)), lens, {"x": judged(human, words)}, {})
    first = found.table.iloc[0]
    known = found.table[found.table["difference"].notna()]
    assert (known["difference"] == first["rho"] - known["rho"]).all()
    assert np.isnan(first["difference"])
    baselines = found.table[(found.table["role"] == "baseline") & found.table["rho"].notna()]
    ours = found.differences[found.differences["row"] == first["row"]].set_index("against")
    for _, row in baselines.iterrows():
        there = ours.loc[row["row"]]
        assert (there["difference"], there["low"], there["high"]) == tuple(
            row[["difference", "difference_low", "difference_high"]]
        )
    experts = (found.table["role"] == "experts").sum()
    assert len(found.differences) == experts * (found.table["role"] == "baseline").sum()
    by_hand = lens.align(human, tau=0.5).minus(lens.align(human, top=10))
    assert by_hand.value == pytest.approx(found.table["difference"][1])
    assert (by_hand.low, by_hand.high) == pytest.approx(
        tuple(found.table.loc[1, ["difference_low", "difference_high"]])
    )


# Models and texts that do not fit


@pytest.mark.parametrize("cut", [{"cat"}, {"dog"}, {"cat", "dog"}])
def test_concepts_of_cut_texts_alone_are_refused(cut):
    long = " and it sat" * 4
    made = [
        Concept(name, (f"a {name}{long if name in cut else ''}",), (f"no {name}{long if name in cut else ''}",), name)
        for name in ("cat", "dog")
    ]  # fmt: skip
    model = load(build("bert"), tokenizer=tokenizer(pad_token="<unk>"))
    longest = len(model.tokenizer("no cat" + long)["input_ids"])
    with pytest.raises(
        DataError, match=f"{min(cut)}: got 2 examples that are all longer than max_tokens=12.*{longest}$"
    ):
        ExpertLens.fit(model, ConceptSet(tuple(made)), max_tokens=12)
    lens = ExpertLens.fit(model, ConceptSet(tuple(made)), max_tokens=longest)
    assert not lens.responses.cut.any()


def test_cut_texts_are_counted():
    concepts = ConceptSet.from_templates(["cat", "dog"], ["a {}", "the {} sat and sat", "one {}"])
    model = load(build("bert"), tokenizer=tokenizer(pad_token="<unk>"))
    lens = ExpertLens.fit(model, concepts, max_tokens=12)
    assert lens.responses.cut.tolist() == [len(text) > 12 for text in concepts.pool.examples]
    assert not ExpertLens.fit(model, concepts).responses.cut.any()
    for wrong in (0, -3):
        with pytest.raises(ModelError, match=f"max_tokens: got {wrong}, expected at least 1"):
            ExpertLens.fit(model, concepts, max_tokens=wrong)


class Scaled(nn.Module):
    """A map that is linear and no `Linear`."""

    def __init__(self, inner):
        super().__init__()
        self.weight = inner.weight

    def forward(self, x):
        return x @ self.weight.T


def test_models_without_matching_sites_are_refused():
    module = build("llama")
    for layer in module.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, inner in list(part.named_children()):
                if isinstance(inner, nn.Linear):
                    setattr(part, name, Scaled(inner))
    concepts = ConceptSet.from_templates(["cat", "dog"], FRAMES_OF)
    model = load(module, tokenizer=tokenizer(pad_token="<unk>"))
    with pytest.raises(
        ModelError, match=r"sites '\*': got a LlamaForCausalLM without linear maps in its blocks"
    ):
        ExpertLens.fit(model, concepts)
    assert len(ExpertLens.fit(model, concepts, "layers.*.mlp").units) > 0
    with pytest.raises(ModelError, match="a pattern that matches no module"):
        ExpertLens.fit(model, concepts, "layers.*.nothing")


def test_texts_are_not_for_models_of_pictures():
    concepts = ConceptSet.from_templates(["cat", "dog"], FRAMES_OF)
    with pytest.raises(ModelError, match="without tokenizer"):
        ExpertLens.fit(load(build("clip_vision_model")), concepts)


@pytest.mark.parametrize("kind", ["pictures", "two texts"])
def test_models_that_do_not_take_texts_alone_are_refused(kind):
    if kind == "pictures":
        module, sites = build("clip_vision_model"), "*"
    else:
        settings = T5Config(vocab_size=64, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
        module, sites = T5ForConditionalGeneration(settings), "encoder.block.*.layer.*.DenseReluDense.wi"
    model = load(module, tokenizer=tokenizer(pad_token="<unk>"))
    with pytest.raises(
        ModelError, match=r"that refuses them .* expected a model that takes input_ids and attention_mask"
    ):
        ExpertLens.fit(model, ConceptSet.from_templates(["cat", "dog"], FRAMES_OF), sites)


def test_a_family_without_known_last_block_has_no_embeddings_and_the_other_rows():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Embedding(256, 8)
            self.inner = nn.Linear(8, 12)

        def forward(self, input_ids, attention_mask=None):
            return self.inner(self.table(input_ids))

    words = ["cat", "dog", "cow"]
    model = load(Bag(), tokenizer=tokenizer(pad_token="<unk>"))
    lens = ExpertLens.fit(model, ConceptSet.from_templates(words, FRAMES_OF), "inner")
    human = pd.DataFrame({"word1": ["cat", "cat", "dog"], "word2": ["dog", "cow", "cow"], "score": [1, 2, 3]})
    table = alignment(list(rows(lens, 0.5, 3)), lens, {"x": judged(human, words)}, {}).table.set_index("row")
    assert table.loc["mean sentence embedding, centred", "note"] == "a family whose last block we do not know"
    assert table.loc["static input embeddings", "note"] == "the model has no table of input embeddings"
    assert table.loc["random weights, experts", "note"] == "no configuration to build from"


# The map


@pytest.mark.parametrize("number", [1, 2, 80])
def test_names_of_the_map_do_not_cover_one_another(number):
    rng = np.random.default_rng(number)
    group = rng.integers(8, size=number)
    matrix = np.where(group[:, None] == group, 0.7, 0.05)
    np.fill_diagonal(matrix, 1)
    names = [f"word{n}" for n in range(number)]
    figure = concept_map(pd.DataFrame(matrix, index=names, columns=names))
    figure.savefig("/dev/null", format="svg")
    drawn = [text for text in figure.axes[0].texts if text.get_text().startswith("word")]
    boxes = np.array([text.get_window_extent().extents for text in drawn])
    wide = np.minimum(boxes[:, None, 2], boxes[None, :, 2]) - np.maximum(boxes[:, None, 0], boxes[None, :, 0])
    high = np.minimum(boxes[:, None, 3], boxes[None, :, 3]) - np.maximum(boxes[:, None, 1], boxes[None, :, 1])
    over = (wide > 1) & (high > 1) & ~np.eye(number, dtype=bool)
    assert len(drawn) == number
    assert over.sum() == 0


def test_boxes_that_are_apart_stay():
    places = np.array([[10.0, 10.0], [90.0, 90.0]])
    np.testing.assert_allclose(
        spread(places, np.full((2, 2), 9.0), np.array([100.0, 100.0])), places, atol=1e-5
    )
