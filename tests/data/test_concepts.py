"""Concepts: what is refused by name, what is reported, and where examples come from."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch

from trimtab import ConceptSet
from trimtab.data.concept import NOT_NOUNS, Concept, is_wordnet, mentions, sentences_of, without, word_of
from trimtab.errors import DataError

CAT = {"name": "cat", "positive": ["A cat sat.", "Two cats ran."], "negative": ["A dog ran.", "It rained."]}
DOG = {"name": "dog", "positive": ["A dog ran.", "Dogs bark."], "negative": ["A cat sat.", "It rained."]}


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_is_read_and_written_back(tmp_path):
    concepts = ConceptSet.from_jsonl(written(tmp_path / "c.jsonl", CAT, DOG))
    assert concepts.names == ["cat", "dog"]
    assert concepts["dog"].negative == ("A cat sat.", "It rained.")
    assert concepts.findings == ()
    assert ConceptSet.from_jsonl(concepts.save_jsonl(tmp_path / "again.jsonl")) == concepts


def test_the_pool_has_every_example_once(tmp_path):
    pool = ConceptSet.from_jsonl(written(tmp_path / "c.jsonl", CAT, DOG)).pool
    assert sorted(pool.examples) == ["A cat sat.", "A dog ran.", "Dogs bark.", "It rained.", "Two cats ran."]
    assert [pool.examples[place] for place in pool.positive[1]] == DOG["positive"]
    assert [pool.examples[place] for place in pool.negative[1]] == DOG["negative"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"positive": []}, "dog: got no positive example, expected at least one"),
        ({"negative": []}, "dog: got no negative example"),
        (
            {"positive": ["A dog ran.", "A  dog ran."]},
            "dog: got 1 positive examples twice, such as 'A  dog ran.'",
        ),
        ({"negative": ["It rained.", "It rained."]}, "dog: got 1 negative examples twice"),
        (
            {"negative": ["Dogs bark."]},
            "dog: got 1 examples that are both positive and negative, such as 'Dogs",
        ),
        (
            {"positive": CAT["positive"], "negative": ["It rained."]},
            "dog: got the positive examples of cat, expected its own",
        ),
        ({"name": "cat"}, "cat: got two concepts of this name"),
        ({"positive": "A dog ran."}, ":2, dog: got positive that is no list of texts"),
        ({"positive": ["A dog ran.", 3]}, ":2, dog: got positive that is no list"),
        ({"name": 3}, ":2: got no name"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path, change, match):
    with pytest.raises(DataError, match=match):
        ConceptSet.from_jsonl(written(tmp_path / "c.jsonl", CAT, DOG | change))


def test_all_mistakes_are_told_at_once(tmp_path):
    wrong = [CAT | {"positive": []}, DOG | {"negative": []}]
    with pytest.raises(DataError) as caught:
        ConceptSet.from_jsonl(written(tmp_path / "c.jsonl", *wrong))
    assert "cat: got no positive" in str(caught.value)
    assert "dog: got no negative" in str(caught.value)


def test_missing_words_are_reported_by_name(tmp_path):
    rows = [
        CAT | {"positive": ["A cat sat.", "It purred."]},
        DOG | {"negative": ["Hot dogs sell.", "It rained."]},
    ]
    with pytest.warns(
        UserWarning, match="cat: the word 'cat' is missing from 1 of 2 .* such as 'It purred.'"
    ):
        concepts = ConceptSet.from_jsonl(written(tmp_path / "c.jsonl", *rows))
    assert concepts.findings[1].startswith("dog: the word 'dog' is in 1 of 2 negative sentences")


def test_a_concept_may_be_no_word(tmp_path):
    row = {"name": "weather", "word": None, "positive": ["It rained."], "negative": ["A cat sat."]}
    assert ConceptSet.from_jsonl(written(tmp_path / "c.jsonl", row)).findings == ()


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path, content):
    (tmp_path / "c.jsonl").write_text(content)
    with pytest.raises(DataError, match="got no concept, expected at least one"):
        ConceptSet.from_jsonl(tmp_path / "c.jsonl")


def test_a_damaged_or_missing_file_is_refused(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"name"\n')
    with pytest.raises(DataError, match=r"c.jsonl:1: got text that is not JSON"):
        ConceptSet.from_jsonl(tmp_path / "c.jsonl")
    with pytest.raises(DataError, match="got no such file"):
        ConceptSet.from_jsonl(tmp_path / "other.jsonl")


def test_an_unknown_concept_is_refused_with_the_nearest():
    concepts = ConceptSet.from_templates(["cat", "dog"], ["A {} ran."])
    with pytest.raises(DataError, match="got 'catt', expected one of 2 concepts; try 'cat'"):
        concepts["catt"]


# Where negative examples come from


def test_negatives_are_others_positives_without_the_word():
    positive = {"cat": ["A cat sat.", "A cat and a dog."], "dog": ["A dog ran.", "The dog saw cats."]}
    concepts = ConceptSet.one_against_rest(positive)
    assert concepts["cat"].negative == ("A dog ran.",)
    assert concepts["dog"].negative == ("A cat sat.",)


def test_negatives_are_the_same_for_all_as_far_as_can_be():
    words = [f"word{letter}" for letter in "abcdefghij"]
    concepts = ConceptSet.from_templates(words, ["A {} ran.", "The {} sat.", "No {} here."], negatives=8)
    common = set(concepts.concepts[0].negative)
    assert all(len(common & set(concept.negative)) >= 4 for concept in concepts)
    assert concepts == ConceptSet.from_templates(
        words, ["A {} ran.", "The {} sat.", "No {} here."], negatives=8
    )


def test_too_few_negatives_and_templates_without_a_place_are_refused():
    with pytest.raises(DataError, match="cat: got 1 possible negative examples, expected the 5 asked for"):
        ConceptSet.from_templates(["cat", "dog"], ["A {} ran."], negatives=5)
    with pytest.raises(DataError, match=r"got the template 'A cat ran\.', expected \{\} where the word goes"):
        ConceptSet.from_templates(["cat", "dog"], ["A cat ran."])


def test_words_of_wordnet(tmp_path):
    rows = [
        {"definition": "a small cat that lives in houses", "examples": ["the cat sat on the mat"]},
        {"definition": "too short cat", "examples": ["a dog and a cat were there", "no such word at all"]},
        {"definition": "the dog barked at the moon", "examples": ["some dogs are not this word"]},
    ]
    path = tmp_path / "w.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    assert is_wordnet(path)
    found = sentences_of(path, ["cat", "dog", "cow"])
    assert {word: len(sentences) for word, sentences in found.items()} == {"cat": 3, "dog": 2, "cow": 0}
    concepts = ConceptSet.from_wordnet_glosses(path, ["cat", "dog", "cow"], positives=2, negatives=1)
    assert concepts.names == ["cat", "dog"]
    assert concepts.findings == ("left out 1 words with fewer than 2 sentences: cow",)
    with pytest.raises(DataError, match="got 1 words with 3 sentences, expected at least two"):
        ConceptSet.from_wordnet_glosses(path, ["cat", "dog"], positives=3)


def test_parts_of_speech_of_wordnet(tmp_path):
    told = {letter: f"a cat in an entry of {letter}" for letter in "nvasr"}
    rows = [{"pos": letter, "definition": text, "examples": []} for letter, text in told.items()]
    path = written(tmp_path / "w.jsonl", *rows, {"definition": "a cat in another file", "examples": []})
    assert len(sentences_of(path, ["cat"])["cat"]) == 6
    assert sentences_of(path, ["cat"], ["a"])["cat"] == [told["a"], told["s"], "a cat in another file"]
    assert sentences_of(path, ["cat"], ["n"])["cat"] == [told["n"], "a cat in another file"]
    assert told["n"] not in sentences_of(path, ["cat"], NOT_NOUNS)["cat"]


def test_files_that_are_none_of_wordnets(tmp_path):
    path = written(tmp_path / "c.jsonl", CAT)
    assert not is_wordnet(path)
    assert not is_wordnet(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"c.jsonl:1: got another line"):
        sentences_of(path, ["cat"])


# Pictures


def test_pictures_are_examples_too():
    draw = torch.Generator().manual_seed(0)
    pictures = [torch.rand(3, 4, 4, generator=draw) for _ in range(4)]
    concepts = ConceptSet.one_against_rest({"red": pictures[:2], "blue": pictures[2:]})
    assert not concepts.textual
    assert len(concepts.pool.examples) == 4
    assert concepts.findings == ()
    with pytest.raises(DataError, match="red: got 1 positive examples twice, such as a picture"):
        ConceptSet.one_against_rest({"red": [pictures[0], pictures[0].clone()], "blue": pictures[2:]})
    with pytest.raises(DataError, match="texts and pictures in one set"):
        ConceptSet((Concept("red", (pictures[0],), ("a text",)),))
    with pytest.raises(DataError, match="concepts of pictures, expected concepts of texts"):
        concepts.save_jsonl("nowhere")
    arrays = ConceptSet.one_against_rest({"a": [np.zeros((4, 4, 3))], "b": [np.ones((4, 4, 3))]})
    assert len(arrays.pool.examples) == 2


# Words


@pytest.mark.parametrize(
    ("text", "word", "found"),
    [
        ("The CATS slept.", "cat", True),
        ("a category", "cat", False),
        ("she was moving", "move", True),
        ("many cities", "city", True),
        ("the cat's bowl", "cat", True),
        ("a hot  dog", "hot dog", True),
        ("a hot summer", "hot dog", False),
        ("c++ code", "c++", True),
    ],
)
def test_mentions(text, word, found):
    assert mentions(text, word) is found


def test_names_with_senses_and_replacements():
    assert [word_of(name) for name in ("bank%1:14:00::", "ice_cream.n.01", "tea")] == [
        "bank",
        "ice cream",
        "tea",
    ]
    assert without("Cats chase a cat.", "cat", r"\1") == r"\1 chase a \1."
