"""What experts fire at: sentences, tokens and activations against one forward pass a text, with hooks set here."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from page_script import without_script
from pictured import words
from tiny_models import build, tokenizer
from trimtab import ConceptSet, ExpertLens, load
from trimtab.data.concept import Concept
from trimtab.job import carry_out
from trimtab.models.tokenizer import Added
from trimtab.read.experts.firing import AROUND, TokenPlaces, firing, firing_blocks
from trimtab.read.experts.job import ExpertLensConfig
from trimtab.read.experts.places import by_block, layers_figure, places_figure
from trimtab.read.experts.result import ExpertsResult
from trimtab.read.responses import Units
from trimtab.report.figures import to_svg
from trimtab.report.page import Page, Section

FRAMES_OF = ["a {} ran", "the {} sat there", "no {}", "some {} is here", "one {} and it", "my old {} sleeps"]
CONCEPTS = ConceptSet.from_templates(["cat", "dog", "cow"], FRAMES_OF, negatives=8)


def lens_of(family, *, pool="max", concepts=CONCEPTS, marks=False, **changes):
    named = words() if marks else tokenizer(pad_token="<unk>")
    return ExpertLens.fit(load(build(family), tokenizer=named), concepts, pool=pool, **changes)


def activations(lens, text, site, unit):
    """Activation of a unit at every token of a text, alone in its batch."""
    model = lens.responses.model
    found = []
    module = dict(model.module.named_modules())[site.removesuffix(":out")]
    hook = module.register_forward_hook(lambda _m, _i, out: found.append(out[0, :, unit]))
    with torch.no_grad():
        model.module(**model.tokenizer([text], return_tensors="pt"))
    hook.remove()
    return found[0].numpy()


@pytest.mark.parametrize("pool", ["max", "mean", "last"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_the_marked_token_is_the_one_with_the_largest_activation(family, pool):
    lens = lens_of(family, pool=pool)
    found = firing(lens)
    assert found.reason == ""
    assert len(found.table) == 3 * 2 * 3
    for row in found.table.itertuples():
        text = row.before + row.token + row.after
        concept = CONCEPTS[row.concept]
        assert text in (concept.positive if row.positive else concept.negative)
        values = activations(lens, text, row.site, row.unit)
        place = int(values.argmax())
        # One token a letter, so that a token's number is its place in the text.
        assert (len(row.before), row.token) == (place, text[place])
        assert row.activation == pytest.approx(values[place], abs=1e-5)
        pooled = {"max": values.max(), "mean": values.mean(), "last": values[-1]}[pool]
        assert row.response == pytest.approx(pooled, abs=1e-5)


def test_units_and_sentences_are_the_strongest_of_the_concept():
    lens = lens_of("llama")
    table = firing(lens).table
    for concept in CONCEPTS:
        rows = table[table["concept"] == concept.name]
        best = lens.experts(concept.name, top=2)
        units = rows.drop_duplicates(["site", "unit"])
        assert units[["site", "unit"]].to_numpy().tolist() == best[["site", "unit"]].to_numpy().tolist()
        assert units["ap"].tolist() == pytest.approx(best["ap"].tolist())
        for (site, unit), part in rows.groupby(["site", "unit"]):
            texts = [*concept.positive, *concept.negative]
            peaks = sorted((activations(lens, text, site, unit).max() for text in texts), reverse=True)
            assert part["response"].tolist() == pytest.approx(peaks[:3], abs=1e-5)


def test_a_special_token_stands_where_it_was_put():
    lens = lens_of("llama", marks=True)
    table = firing(lens).table
    special = table[table["token"].isin(["<s>", "</s>"])]
    assert len(special)
    for row in special.itertuples():
        values = activations(lens, (row.before + row.after).strip(), row.site, row.unit)
        at_start = values.argmax() == 0
        assert at_start == (row.token == "<s>")
        assert (row.before == "") == at_start
        assert values.argmax() in (0, len(values) - 1)


def test_long_texts_are_cut_around_the_token_and_where_the_model_stopped_reading():
    long = {
        name: [*(f"{'x' * (n + 20)} {name} {'y' * 120}" for n in range(3)), f"a {name}"]
        for name in ("cat", "dog")
    }
    concepts = ConceptSet.one_against_rest(long)
    lens = lens_of("llama", concepts=concepts, max_tokens=50)
    table = firing(lens).table
    cut = table[table["after"].str.endswith("…")]
    assert len(cut) > len(table) / 2
    for row in cut.itertuples():
        assert len(row.after) == AROUND + 1
        (text,) = [one for one in lens.responses.examples if one.startswith(row.before + row.token)]
        place = len(row.before)
        values = activations(lens, text[:50], row.site, row.unit)
        assert (values.argmax(), text[place]) == (place, row.token)


def test_a_sentence_is_cut_on_both_sides_of_the_token(monkeypatch):
    monkeypatch.setattr("trimtab.read.experts.firing.AROUND", 3)
    whole = {(row.before + row.token + row.after) for row in firing(lens_of("llama")).table.itertuples()}
    assert any(re.fullmatch("….{3}.…?.*", text) for text in whole)
    for text in whole:
        inside = text.strip("…")
        assert len(inside) <= 7
        assert any(inside in one for concept in CONCEPTS for one in (*concept.positive, *concept.negative))


def test_what_cannot_be_read_token_by_token_is_said():
    pictures = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    seen = ConceptSet.one_against_rest(
        {name: list(pictures[4 * n : 4 * n + 4]) for n, name in enumerate("ab")}
    )
    assert firing(ExpertLens.fit(load(build("clip_vision_model")), seen)).reason == "pictures have no tokens"
    pooled = lens_of("bert", sites=("pooler.dense:out",))
    assert firing(pooled).reason == "these sites have no place for each token"
    lens = lens_of("llama")
    slow = type("Slow", (), {"is_fast": False})()
    object.__setattr__(lens.responses, "model", replace(lens.responses.model, tokenizer=slow))
    told = firing(lens)
    assert told.reason == "the tokenizer does not say where a token stands in a text"
    (text,) = firing_blocks(told.table, told.reason, "max")
    assert text.text == f"No sentences are shown: {told.reason}."
    assert list(firing_blocks(pd.DataFrame(), "", "max")) == []


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("firing")
    build("llama").save_pretrained(folder / "model")
    tokenizer(pad_token="<unk>").save_pretrained(folder / "model")
    sides = {name: [f"<b>{name} {n}</b> & \"{{{{ 7*7 }}}}'" for n in range(3)] for name in ("cat", "<i>dog")}
    ConceptSet.one_against_rest(sides).save_jsonl(folder / "c.jsonl")
    config = ExpertLensConfig(
        model=str(folder / "model"), concepts=str(folder / "c.jsonl"), device="cpu", pool="mean"
    )
    return carry_out(config, folder / "run"), folder / "run"


def test_a_page_marks_one_part_of_each_sentence_and_lets_none_in(hostile_run):
    result, folder = hostile_run
    html = without_script((folder / "report.html").read_text())
    rows = re.findall(r"<td[^>]*>((?:(?!</td>).)*<mark.*?)</td>", html)
    assert len(rows) == len(result.firing)
    for row, shown in zip(result.firing.itertuples(), rows, strict=True):
        before, told, marked, after = re.fullmatch(
            r'(.*)<mark title="activation ([^"]*)">(.*)</mark>(.*)', shown
        ).groups()
        assert not re.search("[<>]", before + marked + after)
        plain = (before + marked + after).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        assert plain.replace("&#34;", '"').replace("&#39;", "'") == row.before + row.token + row.after
        assert float(told.replace("−", "-")) == pytest.approx(row.activation, rel=6e-3)
    assert "A response is pooled over tokens (mean)" in html
    assert "<i>dog" not in html


def test_a_run_keeps_its_sentences_and_one_without_them_is_read(hostile_run, tmp_path):
    result, folder = hostile_run
    again = ExpertsResult.load(folder)
    pd.testing.assert_frame_equal(again.firing, result.firing, check_dtype=False)
    pd.testing.assert_frame_equal(again.layers, result.layers, check_dtype=False)
    assert ExpertsResult.page([again]) == ExpertsResult.page([result])
    values = {name: it for name, it in result.values().items() if name not in ("firing", "unfired", "layers")}
    old = ExpertsResult(**values)
    html = ExpertsResult.page([old])
    assert "fire at" not in html
    assert html.count("<svg") == ExpertsResult.page([result]).count("<svg") - 1


def test_many_concepts_are_counted_and_not_all_shown():
    table = firing(lens_of("llama")).table
    many = pd.concat([table.assign(concept=f"c{n}") for n in range(101)], ignore_index=True)
    (block,) = firing_blocks(many, "", "max")
    assert block.frame["concept"].nunique() == 100
    assert block.caption.endswith("The first 100 of 101 concepts are shown.")
    html = Page("x", "", [Section("x", [block])]).render()
    assert html.count("<mark") == 100 * len(table)


def test_experts_of_a_block_are_those_of_its_sites():
    lens = lens_of("llama")
    found = by_block(lens.counts(tau=0.5), lens.units)
    sets, owners = lens.sets(tau=0.5), np.array(lens.units.sites)[lens.units.site_numbers]
    for row in found.itertuples():
        inside = np.array([f".layers.{row.block}." in name for name in owners])
        each = sets[:, inside].sum(1)
        assert row.experts == pytest.approx(each.mean())
        assert each.min() <= row.low <= row.experts <= row.high <= each.max()
        assert (row.units, row.n, row.tower) == (inside.sum(), 3, "model.layers")
    assert found["experts"].sum() == pytest.approx(sets.sum(1).mean())
    drawing = to_svg(layers_figure(found))
    first = found.iloc[0]
    assert f"block 0: {first['experts']:.3g}" in drawing
    assert f"of {first['units']} units</title>" in drawing


def test_blocks_of_two_towers_are_kept_apart_and_sites_without_a_block_left_out():
    sites = ("encoder.block.0.q:out", "decoder.block.0.q:out", "decoder.block.1.q:out", "head:out")
    counts = pd.DataFrame([[1, 2, 3, 9], [3, 4, 5, 9]], columns=list(sites))
    found = by_block(counts, Units(sites, (10, 10, 20, 5)))
    assert found[["tower", "block", "units", "experts"]].to_numpy().tolist() == [
        ["encoder.block", 0, 10, 2.0],
        ["decoder.block", 0, 10, 3.0],
        ["decoder.block", 1, 20, 4.0],
    ]
    shares = pd.DataFrame({"site": sites, "share": [0.1, 0.2, 0.3, 0.4]})
    drawing = to_svg(places_figure(shares))
    for told in ("encoder.block q, block 0: 10 %", "decoder.block q, block 0: 20 %", "block 1: 30 %"):
        assert f"{told}</title>" in drawing


def test_a_map_of_many_blocks_has_a_key_instead_of_numbers():
    def written(blocks):
        sites = [f"layers.{n}.mlp:out" for n in range(blocks)]
        drawing = to_svg(places_figure(pd.DataFrame({"site": sites, "share": np.linspace(0.1, 0.4, blocks)})))
        return re.findall(r">([^<]+)</text>", drawing), "mlp, block 3: " in drawing

    few, told = written(4)
    assert {"10.0", "40.0"} < set(few)
    assert told
    many, told = written(40)
    assert "% of units" in many
    assert "40" in many[many.index("% of units") - 9 :]
    assert not {"10.0", "40.0"} & set(many)
    assert told


def test_a_concept_of_one_example_a_side_fires_at_both():
    few = [Concept(name, (f"a {name}",), (f"no {name}",), name) for name in ("cat", "dog")]
    table = firing(lens_of("llama", concepts=ConceptSet(tuple(few)))).table
    assert (table.groupby(["concept", "site", "unit"]).size() == 2).all()
    (block,) = firing_blocks(table, "", "max")
    assert block.caption.startswith(
        "8 rows: the 2 units of highest average precision of each concept, and the 2 examples"
    )
    assert f"{int(table['positive'].sum())} of {len(table)} examples have the concept" in block.caption


def pieces(kind):
    """A tokenizer of word pieces between [CLS] and [SEP], or of bytes with the blank before a word in its token."""
    texts = ["The naïve cats sleep", "a cat, sleeping", "数据 🙂 cats"]
    if kind == "bytes":
        inner = Tokenizer(models.BPE(unk_token=None))
        inner.pre_tokenizer, inner.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
        trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    else:
        inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        inner.normalizer = normalizers.BertNormalizer(lowercase=True)
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]", "[CLS]", "[SEP]"])
    inner.train_from_iterator(texts, trainer)
    if kind == "words":
        marks = [("[CLS]", 1), ("[SEP]", 2)]
        inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=marks)
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token=None), texts


@pytest.mark.parametrize("kind", ["words", "bytes"])
def test_tokens_of_real_tokenizers_are_found_in_their_text(kind):
    named, texts = pieces(kind)
    rows = [named(text)["input_ids"] for text in texts]
    found = TokenPlaces(named, Added.of(named), texts, rows)
    for number, (text, row) in enumerate(zip(texts, rows, strict=True)):
        seen, inside = [], range(1, len(row) - 1) if kind == "words" else range(len(row))
        for place in inside:
            before, token, after = found.parted(number, place)
            assert before + token + after == text
            assert token
            assert not token[0].isspace() or token.isspace()
            seen.append((len(before), token))
            spelled = named.decode([row[place]]).strip().removeprefix("##")
            if "�" not in spelled and spelled != "[UNK]":  # a byte of a letter stands for the letter
                plain = unicodedata.normalize("NFD", token.lower()) if kind == "words" else token
                assert "".join(one for one in plain if not unicodedata.combining(one)) == spelled
        assert seen == sorted(seen, key=lambda one: one[0])
        assert sum(len(token) for _, token in dict.fromkeys(seen)) == len(text.replace(" ", ""))
    if kind == "words":
        assert found.parted(0, 0) == ("", "[CLS]", f" {texts[0]}")
        assert found.parted(0, len(rows[0]) - 1) == (f"{texts[0]} ", "[SEP]", "")


def test_a_special_token_that_the_text_has_itself_is_part_of_the_text():
    named, _ = pieces("words")
    text = "[CLS] a cat"
    row = Added.of(named).once(named(text)["input_ids"])
    found = TokenPlaces(named, Added.of(named), [text], [row])
    assert found.parted(0, 0) == ("", "[CLS]", " a cat")
    assert found.parted(0, 1) == ("[CLS] ", "a", " cat")
